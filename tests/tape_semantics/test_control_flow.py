"""Sections 16 and 17: control flow by functions, and what forward mode does around it."""

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.compat import tensorflow as tf
from tests.tape_semantics.helpers import C, close, plain, taped


def test_174_cond(run):
    def f(x):
        tape, y = taped(lambda x: tp.cond(x > 0.5, lambda: 2 * x, lambda: 3 * x), x)
        return y, tape.gradient(y, x)

    assert run(f, C(1.0)) == [2.0, 2.0]
    assert run(f, C(0.25)) == [0.75, 3.0]


def test_175_map_fn(run):
    def f(p, elems):
        tape, y = taped(lambda p, e: tf.map_fn(lambda x: x * x * p, e), p, elems)
        return tape.gradient(y, [p, elems])

    assert run(f, C(2.0), C([1.0, 2.0, 3.0])) == [14.0, [4.0, 8.0, 12.0]]


def test_176_scan(run):
    v = tp.Variable(2.0)

    def f(xs):
        with tp.GradientTape() as tape:
            ys = tf.scan(lambda a, x: a * x * v, xs, initializer=C(1.0))
        return ys, tape.gradient(ys, v)

    ys, dv = run(f, C([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert ys == [2.0, 8.0, 48.0, 384.0, 3840.0, 46080.0]
    assert dv == 148689.0


def test_177_scan_of_another_structure(run):
    with pytest.raises(ValueError, match="the carry is"):
        run(lambda xs: tf.scan(lambda a, x: (a, x), xs, initializer=C(0.0)), C([1.0, 2.0]))


def test_177_scan_backwards_and_of_nothing(run):
    total = lambda xs: tf.scan(lambda a, x: a + x, xs, initializer=C(0.0), reverse=True)
    assert run(total, C([1.0, 2.0, 3.0])) == [6.0, 5.0, 3.0]
    assert run(total, C(np.zeros(0, np.float32))) == []
    assert run(lambda xs: tf.map_fn(lambda x: x * 2, xs), C(np.zeros((0, 2), np.float32))) == []
    assert run(lambda xs: tf.scan(lambda a, x: a * 10 + x, xs), C([1.0, 2.0, 3.0])) == [1.0, 12.0, 123.0]
    assert run(lambda xs: tf.scan(lambda a, x: a * 10 + x, xs, reverse=True), C([1.0, 2.0, 3.0])) == [321.0, 32.0, 3.0]


def test_178_while_loop_with_a_bound(run):
    f = lambda x: tf.while_loop(lambda i, x: i < 10, lambda i, x: (i + 1, x * 2), (0, x), maximum_iterations=3)
    assert run(f, C(1.0)) == [3, 8.0]
    assert run(lambda x: tf.while_loop(lambda x: x < 100.0, lambda x: [x * 3], [x]), C(1.0)) == [243.0]


def test_178_gradient_of_nested_loops(run):
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)

            def outer(i, y):
                return i + 1, tf.while_loop(lambda j, y: j < i, lambda j, y: (j + 1, y * x), (0, y))[1]

            y = tf.while_loop(lambda i, y: i < 4, outer, (0, x))[1]
        return y, tape.gradient(y, x)

    assert run(f, C(2.0)) == [2.0**7, 7 * 2.0**6]


def test_178_tensor_array(run):
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            array = tf.TensorArray(tf.float32, size=3)
            for k in range(3):
                array = array.write(k, x * (k + 1))
            y = tf.reduce_sum(array.stack())
        return y, tape.gradient(y, x)

    assert run(f, C(1.0)) == [6.0, 6.0]


def test_178_tensor_array_in_a_loop(run):
    """The shape of the elements is found in the loop."""

    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            step = lambda i, y, array: (i + 1, y * x, array.write(i, y))
            _, _, array = tf.while_loop(lambda i, *_: i < 4, step, (0, x, tf.TensorArray(tf.float32, size=4)))
            ys = array.stack()
        return ys, array.size(), array.read(1), tape.gradient(ys, x)

    assert run(f, C(2.0)) == [[2.0, 4.0, 8.0, 16.0], 4, 4.0, 1 + 4 + 12 + 32.0]


def test_180_a_source_given_twice():
    """Its tangents add up; TensorFlow refuses and asks for the sum."""
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: tp.sum(x**3), x)
    assert plain(tape.jvp(y, [x, x], [C([1.0, 0.0]), C([0.0, 1.0])])) == 15.0


def test_182_unrelated_targets():
    x = C(2.0)
    tape, y = taped(lambda x: x * x, x)
    after = y * 2
    assert tape.jvp(C(1.0), x, C(1.0)) is None
    assert plain(tape.jvp(C(1.0), x, C(1.0), unconnected_gradients="zero")) == 0.0
    assert tape.jvp(after, x, C(1.0)) is None


def test_183_entering_a_tape_that_records():
    tape = tp.GradientTape(persistent=True)
    with tape, pytest.raises(ValueError, match="still recording"):
        tape.__enter__()


def test_184_sources_that_are_no_floats(caplog):
    """A warning when it is watched, and no derivative; tangents of another dtype than their source are an error."""
    k = C([1, 2])
    tape, y = taped(lambda k: tp.cast(k, tp.float32) * 2, k)
    assert "must be floating" in caplog.text
    assert tape.jvp(y, k, C([1.0, 1.0])) is None
    x = C(2.0)
    tape, y = taped(lambda x: x * x, x)
    with pytest.raises(TypeError, match="tangent has dtype float64, its source float32"):
        tape.jvp(y, x, np.float64(1.0))


def test_186_forward_over_forward(run):
    f = lambda x: tp.jvp(lambda x: tp.jvp(lambda x: x**3, (x,), (C(1.0),))[1], (x,), (C(1.0),))
    close(run(f, C(2.0)), [12.0, 12.0])


def test_187_variables_and_compiled_functions(run):
    v = tp.Variable(3.0)
    compiled = tp.tape_function(lambda x: tp.fori_loop(0, 2, lambda i, y: y * v * x, x))

    def f(x):
        with tp.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = compiled(x)
        return tape.jvp(y, [v, x], [C(1.0), C(0.0)]), tape.jvp(y, [v, x], [C(0.0), C(1.0)])

    close(run(f, C(2.0)), [2 * 3.0 * 8.0, 3 * 9.0 * 4.0])
