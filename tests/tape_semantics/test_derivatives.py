"""Sections 7, 8 and 17: higher order, jacobians, forward mode."""

import math

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, derivative, plain, taped


def test_087_nested_tapes(run):
    f = lambda x: x**3
    close(run(derivative(f), C(1.0)), 3.0)
    close(run(derivative(derivative(f)), C(1.0)), 6.0)
    close(run(derivative(derivative(derivative(tp.sin))), C(1.0)), -math.cos(1.0))


def test_088_inner_gradient_outside_of_the_outer_tape():
    x = tp.Variable(2.0)
    with tp.GradientTape() as outer, tp.GradientTape() as inner:
        y = x**3
    d = inner.gradient(y, x)
    assert outer.gradient(d, x) is None


def test_089_hessian(run):
    def f(x):
        with tp.GradientTape() as outer:
            outer.watch(x)
            g = derivative(lambda x: tp.sum(x**3))(x)
        return outer.jacobian(g, x)

    close(run(f, C([1.0, 2.0])), [[6.0, 0.0], [0.0, 12.0]])


def test_090_compiled_function_in_nested_tapes(run):
    cube = tp.tape_function(lambda x: x * x * x)
    close(run(derivative(cube), C(2.0)), 12.0)
    close(run(derivative(derivative(cube)), C(2.0)), 12.0)


def test_091_second_order_through_a_staged_while():
    def squares(x):
        while x < 10:
            x = x * x
        return x

    f = tp.tape_function(squares)
    close(plain(f(C(1.5))), 25.62890625)
    for function in (f, squares):
        close(plain(derivative(function)(C(1.5))), 136.6875)
        close(plain(derivative(derivative(function))(C(1.5))), 637.875)
    close(plain(tp.tape_function(derivative(derivative(squares)))(C(1.5))), 637.875)


def test_092_backward_of_a_function_is_made_when_asked_for():
    cube = tp.tape_function(lambda x: x * x * x)
    x = C(2.0)
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = cube(x)
    pure = cube.specialise(x).pure
    assert len(pure._backwards) == 0
    tape.gradient(y, x)
    ((backward, _),) = pure._backwards.values()
    assert len(backward._backwards) == 0


def test_093_shape_of_a_jacobian():
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.jacobian(y, x)) == [[2.0, 0.0], [0.0, 4.0]]


def test_094_nested_sources_and_one_target():
    x = {"x": C([[1.0, 2.0], [3.0, 4.0]]), "z": C([1.0, 2.0])}
    tape, y = taped(lambda x: tp.matmul(x["x"], x["z"]), x)
    got = tape.jacobian(y, x)
    assert got["x"].shape == (2, 2, 2)
    assert plain(got["z"]) == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(TypeError, match="takes one tensor"):
        tape.jacobian([y, y], x)


def test_095_unconnected_jacobian():
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: C([1.0, 2.0, 3.0]) * 2, x)
    assert tape.jacobian(y, [x]) == [None]
    assert plain(tape.jacobian(y, x, unconnected_gradients="zero")) == [[0.0, 0.0]] * 3


def test_096_jacobians_are_always_batched():
    """Deliberate difference: there is no `experimental_use_pfor`, and no need of a persistent tape."""
    x = C([1.0, 2.0])
    for persistent in (False, True):
        with tp.GradientTape(persistent=persistent) as tape:
            tape.watch(x)
            y = x**2
        assert plain(tape.jacobian(y, x)) == [[2.0, 0.0], [0.0, 4.0]]
    with pytest.raises(TypeError, match="experimental_use_pfor"):
        tape.jacobian(y, x, experimental_use_pfor=False)


def test_097_every_operation_has_a_batching_rule(run):
    """Deliberate difference: nothing fails to be vectorised; here a loop, a sort, a lookup and a product."""

    def f(x):
        def g(x):
            y = tp.fori_loop(0, 3, lambda k, c: c * x, tp.ones_like(x))
            return tp.sort(y)[np.array([1, 0])] @ C([[1.0, 2.0], [3.0, 4.0]])

        tape, y = taped(g, x)
        return tape.jacobian(y, x)

    close(run(f, C([1.0, 2.0])), [[9.0, 12.0], [12.0, 24.0]])


def test_098_jacobians_of_lookups_are_dense(run):
    def f(x):
        tape, y = taped(lambda x: x[np.array([2, 0, 2])], x)
        return tape.jacobian(y, x)

    assert run(f, C([1.0, 2.0, 3.0])) == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_099_batch_jacobian():
    x = C([[1.0, 2.0], [3.0, 4.0]])
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.batch_jacobian(y, x)) == [[[2.0, 0.0], [0.0, 4.0]], [[6.0, 0.0], [0.0, 8.0]]]


def test_100_batch_jacobian_checks_shapes():
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: x * x, x)
    with pytest.raises(ValueError, match="rank at least 2"):
        tape.batch_jacobian(y, x)
    x = C([[1.0], [2.0]])
    tape, y = taped(lambda x: tp.sum(x * x, axis=0, keepdims=True), x)
    with pytest.raises(ValueError, match="first dimension to match"):
        tape.batch_jacobian(y, x)


def test_101_unconnected_batch_jacobian():
    x = C([[1.0], [2.0]])
    tape, _ = taped(lambda x: x * x, x)
    assert plain(tape.batch_jacobian(C([[1.0], [1.0]]), x)) == [[[0.0]], [[0.0]]]


def test_102_empty_batch():
    x = C(np.ones((1, 0), np.float32))
    tape, y = taped(lambda x: x * x, x)
    assert tape.batch_jacobian(y, x).shape == (1, 0, 0)


def test_179_directional_derivative(run):
    def f(x):
        return tp.jvp(lambda x: tp.sum(x**3), [x], [tp.constant([1.0, 0.0])])

    close(run(f, C([1.0, 2.0])), [9.0, 3.0])


def test_181_shape_of_a_tangent():
    """A wart: checked at once."""
    with pytest.raises(ValueError, match="tangent"):
        tp.jvp(tp.sum, [C([1.0, 2.0])], [C([1.0])])


def test_185_hessian_vector_product(run):
    def f(x):
        return tp.hvp(lambda x: tp.sum(x**3), [x], [tp.constant([1.0, 0.0])])

    close(run(f, C([1.0, 2.0])), [[[3.0, 12.0]], [[6.0, 0.0]]])
