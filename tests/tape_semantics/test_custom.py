"""Sections 9 and 10: rules of one's own, straight-through functions, checkpointing."""

import math

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.compat import tensorflow as tf
from tests.tape_semantics.helpers import C, close, derivative, plain, slope, taped


@tp.custom_gradient
def log1pexp(x):
    e = tp.exp(x)
    return tp.log(1 + e), lambda dy: dy * (1 - 1 / (1 + e))


@tp.custom_gradient
def tenfold(x):
    return x * 1.0, lambda dy: dy * 10.0


def test_068_none_of_a_rule(run):
    f = tp.custom_gradient(lambda x, z: (x * z, lambda dy: (dy, None)))

    def g(x, z):
        tape, y = taped(f, x, z)
        return tape.gradient(y, [x, z])

    assert run(g, C(2.0), C(3.0)) == [1.0, None]


def test_086_too_few_gradients():
    f = tp.custom_gradient(lambda x, z: (x * z, lambda dy: dy))
    with pytest.raises(ValueError, match="expected to return 2 input gradients, returned 1"):
        slope(f, C(2.0), C(3.0))


def test_103_a_stable_rule(run):
    naive = lambda x: tp.log(1 + tp.exp(x))
    assert math.isnan(run(derivative(naive), C(100.0)))
    assert run(derivative(log1pexp), C(100.0)) == 1.0
    close(run(derivative(log1pexp), C(0.0)), 0.5)


@pytest.mark.parametrize("returned", [1.0, (1.0, 2.0), (1.0, abs, abs)])
def test_104_something_else_than_a_pair(returned):
    with pytest.raises(TypeError, match=r"pair \(y, grad_fn\)"):
        tp.custom_gradient(lambda x: returned)(C(1.0))


@pytest.mark.parametrize("given", [lambda dy: (dy, dy), lambda dy: []])
def test_105_wrong_number_of_gradients(given):
    with pytest.raises(ValueError, match="expected to return 1 input gradients"):
        slope(tp.custom_gradient(lambda x: (x * 2, given)), C(1.0))


def test_106_shape_of_a_gradient(run):
    """A wart: checked."""
    f = tp.custom_gradient(lambda x: (x * 2, lambda dy: C([1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match=r"input 0 a gradient of shape \[3\], but that is f32\[2\]"):
        run(derivative(f), C([1.0, 2.0]))


def test_107_none(run):
    f = tp.custom_gradient(lambda x: (x * 2, lambda dy: None))
    assert run(derivative(f), C([1.0, 2.0])) is None


def test_108_variables_need_the_keyword(run):
    v = tp.Variable(2.0, name="scale")
    f = tp.custom_gradient(lambda x: (x * v, lambda dy: dy * v))
    with pytest.raises(TypeError, match="scale.*variables"):
        run(f, C(3.0))


def test_109_gradients_of_variables(run):
    v = tp.Variable(2.0)

    @tp.custom_gradient
    def f(x):
        def rule(dy, variables):
            assert variables[0] is v
            return dy * v, [dy * x]

        return x * v, rule

    def g(x):
        tape, y = taped(f, x)
        return tape.gradient(y, [x, v])

    assert run(g, C(3.0)) == [2.0, 3.0]
    wrong = tp.custom_gradient(lambda x: (x * v, lambda dy, variables: (dy, [dy, dy])))
    with pytest.raises(ValueError, match="expected to return 1 variable gradients, returned 2"):
        run(derivative(wrong), C(3.0))


def test_110_keywords_nesting_recursion_and_methods(run):
    @tp.custom_gradient
    def power(x, n=1):
        if n == 0:
            return x, lambda dy: dy * 3.0
        return power(x, n=n - 1) * 2, lambda dy: dy * (7.0 + n)

    assert run(derivative(lambda x: power(x, n=2)), C(1.0)) == 9.0

    class Scale:
        factor = 5.0

        @tp.custom_gradient
        def __call__(self, x):
            return x * 2, lambda dy: dy * self.factor

    assert run(derivative(Scale().__call__), C(1.0)) == 5.0
    outer = tp.custom_gradient(lambda x: (tenfold(x), lambda dy: dy * slope(tenfold, C(1.0))))
    assert run(derivative(outer), C(1.0)) == 10.0


def test_111_second_order(run):
    close(run(derivative(derivative(log1pexp)), C(0.0)), 0.25)

    @tp.custom_gradient
    def cube(x):
        @tp.custom_gradient
        def rule(dy):
            return dy * 3 * x * x, lambda ddy: ddy * 100.0

        return x**3, rule

    assert run(derivative(cube), C(2.0)) == 12.0

    @tp.custom_gradient
    def square(x):
        @tp.custom_gradient
        def slope_of(x):
            return 2 * x, lambda ddy: ddy * 77.0

        return x * x, lambda dy: dy * slope_of(x)

    assert run(derivative(derivative(square)), C(2.0)) == 77.0


def test_112_inside_a_compiled_function(run):
    assert run(derivative(lambda x: 2 * tenfold(x)), C(3.0)) == 20.0


def test_112_through_the_boundary_of_a_compiled_function():
    f = tp.tape_function(lambda x: 2 * tenfold(x))
    assert slope(f, C(3.0)) == 20.0
    assert plain(f(C(3.0))) == 6.0
    assert plain(tp.tape_function(derivative(f))(C(3.0))) == 20.0
    close(slope(derivative(tp.tape_function(log1pexp)), C(0.0)), 0.25)
    close(plain(tp.vmap(derivative(tp.tape_function(log1pexp)))(C([100.0, 0.0]))), [1.0, 0.5])


def test_112_several_results_variables_and_arrays_across_the_boundary():
    v, fixed = tp.Variable([2.0, 3.0]), np.arange(40, dtype=np.float32).reshape(20, 2)

    @tp.custom_gradient
    def f(x, k):
        def rule(d_sum, d_product, _, variables):
            d_product = tp.astype(d_product, np.float32)
            longest = tp.maximum(tp.max(tp.abs(d_sum)), tp.max(tp.abs(d_product)))  # of both, and not linear
            return (tp.sum(fixed, axis=0) * d_sum / longest, None), [d_product * 7.0 + v]

        return (x + v, tp.astype(x * v, np.float64), k + 1), rule

    x = C([1.0, 5.0])
    for run in (f, tp.tape_function(f), tp.tape_function(tp.tape_function(f))):
        with tp.GradientTape() as tape:
            tape.watch(x)
            total, product, k = run(x, C(3))
            y = tp.sum(total) + 4.0 * tp.astype(tp.sum(product), np.float32)
        assert plain(k) == 4
        assert plain(tape.gradient(y, [x, v])) == [[95.0, 100.0], [30.0, 31.0]]


def test_112_in_a_loop_of_a_compiled_function(run):
    @tp.custom_gradient
    def halved(x):
        return x * 0.5, lambda dy: dy * 2.0

    @tp.tape_function
    def f(x, n):
        for _ in range(n):
            x = halved(x) * 3.0
        return x

    assert slope(lambda x: f(x, C(3)), C(2.0)) == 216.0
    assert run(derivative(lambda x: f(x, C(100))), C(0.0)) == np.inf


def test_112_a_rule_that_uses_its_own_function():
    @tp.custom_gradient
    def exp(x):
        y = tp.exp(x)
        return y, lambda dy: dy * exp(x) * 2.0

    f = tp.tape_function(exp)
    for order, want in ((1, 2.0), (2, 4.0), (3, 8.0)):
        g = f
        for _ in range(order - 1):
            g = derivative(g)
        assert slope(g, C(0.0)) == want
    with pytest.raises(LookupError, match="'exp', in derivatives of more than order 3 of itself"):
        slope(derivative(derivative(derivative(f))), C(0.0))


def test_112_a_rule_that_raises_does_so_when_it_is_asked_for():
    def rule(dy):
        raise KeyError("nothing")

    f = tp.tape_function(tp.custom_gradient(lambda x: (x * 2, rule)))
    assert plain(f(C(2.0))) == 4.0
    with pytest.raises(LookupError, match="whose rule raises KeyError"):
        slope(f, C(2.0))


@tp.custom_gradient
def clipped(x):
    return x * 1.0, lambda dy: tp.clip(dy, -1.0, 1.0)


def pushed(f, x, t):
    """The tangent of `f` along `t`, by each way to ask for it."""
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = f(x)
    with tf.autodiff.ForwardAccumulator(x, t) as accumulator:
        z = f(x)
    found = [plain(tape.jvp(y, x, t)), plain(accumulator.jvp(z)), plain(tp.jvp(f, [x], [t])[1])]
    for other in found[1:]:
        close(other, found[0])
    return found[0]


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_is_the_transpose_of_a_linear_rule(compiled):
    mixing = C([[1.0, 10.0], [100.0, 1000.0], [0.0, 1.0]])
    f = tp.custom_gradient(lambda x: (mixing @ x, lambda dy: 2.0 * tp.transpose(mixing) @ dy))
    f = tp.tape_function(f) if compiled else f
    assert pushed(f, C([1.0, 1.0]), C([1.0, 2.0])) == [42.0, 4200.0, 4.0]
    g = tp.tape_function(log1pexp) if compiled else log1pexp
    close(pushed(g, C(100.0), C(3.0)), 3.0)
    close(plain(tp.hvp(g, [C(0.0)], [C(2.0)])[1]), 0.5)
    close(plain(tp.hessian(lambda x: tp.sum(tp.vmap(g)(x)))(C([0.0, 0.0]))), [[0.25, 0.0], [0.0, 0.25]])


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_without_a_linear_rule(compiled):
    f = tp.tape_function(clipped) if compiled else clipped
    with pytest.raises(LookupError, match="'clipped' has a rule for reverse mode that is not linear.*jvp"):
        tp.jvp(f, [C(1.0)], [C(1.0)])


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_by_a_rule_for_tangents(compiled):
    @tp.custom_gradient(jvp=lambda args, tangents: {"a": tangents[0] * 5.0 + tangents[1] * args[0], "b": tangents[0]})
    def f(x, z, k):
        return {"a": x * z, "b": tp.astype(x, np.float64)}, lambda a, b: (tp.clip(a, -1.0, 1.0), None, None)

    f = tp.tape_function(f) if compiled else f
    (_, moved) = tp.jvp(lambda x, z: f(x, z, 3), [C(2.0), C(3.0)], [C(1.0), C(10.0)])
    assert plain(moved) == {"a": 25.0, "b": 1.0} and moved["b"].dtype == np.float64
    assert plain(tp.jvp(lambda x: f(x, 3.0, 3)["a"], [C(2.0)], [C(1.0)])[1]) == 5.0
    assert slope(lambda x: f(x, 3.0, 3)["a"] * 7.0, C(2.0)) == 1.0


def test_wrong_rules_for_tangents():
    for jvp, error, text in (
        (lambda args, tangents: [], ValueError, "expected to return 1 tangents, returned 0"),
        (lambda args, tangents: C([1.0, 2.0]), ValueError, r"result 0 a tangent of shape \[2\], but that is f32\[\]"),
    ):
        f = tp.custom_gradient(lambda x: (x * 2, lambda dy: dy), jvp=jvp)
        with pytest.raises(error, match=text):
            tp.jvp(f, [C(1.0)], [C(1.0)])
    v = tp.Variable(2.0, name="scale")
    rule = lambda dy, variables: (dy, [dy])
    f = tp.custom_gradient(lambda x: (x * v, rule), jvp=lambda args, tangents: tangents[0])
    with tp.GradientTape(persistent=True) as tape:
        y = f(C(3.0))
    with pytest.raises(LookupError, match="reads the variables 'scale'"):
        tape.jvp(y, v, C(1.0))


def test_113_clipping_backwards(run):
    @tp.custom_gradient
    def clipped(x):
        return tp.copy(x), lambda dy: tp.optim.clip_by_norm(dy, 0.5)

    close(run(derivative(lambda x: clipped(x) ** 2 * 2), C(1.0)), 0.5)
    close(run(derivative(lambda x: x * x * 2), C(1.0)), 4.0)


def test_114_straight_through(run):
    x = tp.Variable(1.0)

    def f(z):
        tape, y = taped(lambda z: tp.grad_pass_through(x.assign)(z**2), z)
        return y, tape.gradient(y, z)

    assert run(f, C(3.0)) == [9.0, 6.0]
    assert plain(x) == 9.0
    assert run(derivative(tp.grad_pass_through(tp.round)), C(2.4)) == 1.0


def test_115_stop_gradient(run):
    f = lambda x: tp.stop_gradient(x) * x * x
    assert run(derivative(f), C(3.0)) == 18.0
    assert run(derivative(derivative(f)), C(3.0)) == 6.0
    assert run(lambda x: tp.jvp(f, [x], [tp.ones_like(x)])[1], C(3.0)) == 18.0


def guided(g, y, x):
    return tp.where(g > 0, g, 0.0) * (x > 0)


def test_116_lexical_override(run):
    """A wart: a block instead of a registry."""

    def f(x):
        with tp.GradientTape(persistent=True) as tape:
            tape.watch(x)
            with tp.override_gradient({"relu": guided}):
                y = tp.relu(x)
            z = tp.relu(x)
        seed = C([-1.0, 1.0, 1.0])
        return tape.gradient(y, x, output_gradients=seed), tape.gradient(z, x, output_gradients=seed)

    assert run(f, C([1.0, 2.0, -3.0])) == [[0.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]


def test_116_mistakes_of_an_override():
    x = C([1.0, 2.0])
    with pytest.raises(ValueError, match="no operation 'rellu'.*relu"), tp.override_gradient({"rellu": guided}):
        pass
    for wrong, error, text in (
        (lambda g, y, x: [g, g], ValueError, "2 cotangents for 1 operands"),
        (lambda g, y, x: g[:1], ValueError, r"f32\[1\] for f32\[2\]"),
    ):
        with tp.override_gradient({"relu": wrong}):
            tape, y = taped(tp.relu, x)
        with pytest.raises(error, match=text):
            tape.gradient(y, x)
    compiled = tp.tape_function(lambda x: tp.relu(x) * 2)
    for _ in range(2):
        with pytest.raises(tp.TapeError, match="runs relu inside of a graph"), tp.override_gradient({"relu": guided}):
            taped(compiled, x)
        compiled(x)
    with tp.override_gradient({"sin": guided}):
        tape, y = taped(compiled, x)
    assert plain(tape.gradient(y, x)) == [2.0, 2.0]

    def outside(x):
        with tp.override_gradient({"relu": guided}):
            return tp.relu(x)

    with pytest.raises(tp.TapeError, match="no tape records here"):
        tp.tape_function(outside)(x)


def test_117_exceptions_of_a_rule_propagate(run):
    class Oops(Exception):
        pass

    def rule(dy):
        raise Oops("as it is")

    with pytest.raises(Oops, match="^as it is$"):
        run(derivative(tp.custom_gradient(lambda x: (x * 2, rule))), C(1.0))


def test_118_a_function_is_run_again():
    calls = []

    def f(x):
        calls.append(1)
        return x * tp.sin(x)

    x = C(2.0)
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = tp.recompute(f)(x)
    assert calls == [1]
    calls.clear()
    close(plain(tape.gradient(y, x)), math.sin(2) + 2 * math.cos(2))
    assert calls == [1]
    assert len(tape._records) == 0


def test_118_values_and_second_order(run):
    f = tp.recompute(lambda x: x * tp.sin(x))
    close(run(derivative(f), C(2.0)), math.sin(2) + 2 * math.cos(2))
    close(run(derivative(derivative(f)), C(2.0)), 2 * math.cos(2) - 2 * math.sin(2))


def test_119_variables(run):
    v, unused = tp.Variable(3.0), tp.Variable(1.0)

    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = tp.recompute(lambda x: (x * v, unused * 1.0)[0])(x)
        return tape.gradient(y, [x, v, unused], unconnected_gradients="zero")

    assert run(f, C(2.0)) == [3.0, 2.0, 0.0]


def test_120_forward_mode_is_refused():
    x = C(2.0)
    tape, y = taped(tp.recompute(lambda x: x * x), x)
    with pytest.raises(LookupError, match="reverse mode only"):
        tape.jvp(y, x, C(1.0))


def test_121_the_original():
    f = lambda x: x
    assert tp.recompute(f).__wrapped__ is f
    assert tf.recompute_grad is tp.recompute
    assert tf.custom_gradient is tp.custom_gradient


def test_structures_and_several_results(run):
    @tp.custom_gradient
    def both(x, scale):
        y = {"sum": x["a"] + x["b"], "product": x["a"] * x["b"]}
        return y, lambda product, total: ({"a": product + total, "b": product * 0}, None)

    def f(a, b):
        x = {"a": a, "b": b}
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = both(x, 2.0)
        return tape.gradient(y["product"], x), y["sum"]

    assert run(f, C(2.0), C(3.0)) == [{"a": 1.0, "b": 0.0}, 5.0]


def test_dtype_of_a_gradient_is_its_inputs():
    f = tp.custom_gradient(lambda x: (x * 2, lambda dy: np.float64(3.0)))
    x = C(1.0)
    tape, y = taped(f, x)
    assert tape.gradient(y, x).dtype == np.float32
