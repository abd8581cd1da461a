"""Section 17 in TensorFlow's spelling; the native ways are in test_derivatives.py and test_control_flow.py."""

import logging

import numpy as np
import pytest

from tapefuse.compat import tensorflow as tf
from tests.tape_semantics.helpers import C, close, derivative, plain

Accumulator = tf.autodiff.ForwardAccumulator


def test_179_forward_accumulator(run):
    def f(x):
        with Accumulator(x, C([1.0, 0.0])) as acc:
            y = tf.reduce_sum(x**3)
        return acc.jvp(y)

    close(run(f, C([1.0, 2.0])), 3.0)


def test_180_a_primal_given_twice():
    x = C([1.0, 2.0])
    with pytest.raises(ValueError, match="given twice; add its tangents"):
        Accumulator([x, x], [x, x])
    with pytest.raises(ValueError, match="1 tangents for 2 primals"):
        Accumulator([x, C(1.0)], [x])


def test_181_shape_of_a_tangent():
    """A wart: checked at once."""
    with pytest.raises(ValueError, match=r"tangent is f32\[1\], its primal f32\[2\]"):
        Accumulator(C([1.0, 2.0]), C([1.0]))


def test_182_unrelated_targets():
    x = C(2.0)
    with Accumulator(x, C(1.0)) as acc:
        y = x * x
    after = y * 2
    assert acc.jvp(C(1.0)) is None
    assert plain(acc.jvp(C(1.0), unconnected_gradients="zero")) == 0.0
    assert acc.jvp(after) is None
    assert plain(acc.jvp([y, after])) == [4.0, None]


def test_183_entering_an_active_one():
    acc = Accumulator(C(1.0), C(1.0))
    with acc, pytest.raises(ValueError, match="already recording"):
        acc.__enter__()


def test_184_primals_that_are_no_floats(caplog):
    """A warning; a Python number as tangent takes the primal's dtype."""
    k = C([1, 2])
    with caplog.at_level(logging.WARNING), Accumulator(k, k) as acc:
        y = tf.cast(k, tf.float32) * 2
    assert "must be floating" in caplog.text
    assert acc.jvp(y) is None
    x = C(np.float64(3.0))
    with Accumulator(x, 1.0) as acc:
        y = x * x
    assert acc.jvp(y).dtype == np.float64


def test_185_forward_over_reverse(run):
    def f(v):
        with Accumulator(v, C([1.0, 0.0])) as acc:
            g = derivative(lambda v: tf.reduce_sum(v**3))(v)
        return g, acc.jvp(g)

    close(run(f, C([1.0, 2.0])), [[3.0, 12.0], [6.0, 0.0]])


def test_186_nesting(run):
    def f(x):
        with Accumulator(x, C(1.0)) as outer:
            with Accumulator(x, C(1.0)) as inner:
                y = x**3
            first = inner.jvp(y)
        return first, outer.jvp(y), outer.jvp(first), inner.jvp(outer.jvp(y))

    first, same, second, reverse = run(f, C(2.0))
    close([first, same, second], [12.0, 12.0, 12.0])
    assert reverse is None


def test_187_variables_and_compiled_functions():
    v = tf.Variable(3.0)
    compiled = tf.function(lambda x: x * v * v)
    with Accumulator(v, 1.0) as acc:
        y = compiled(C(2.0))
        inside = acc.jvp(y)
        z = y * inside
    close(plain([inside, acc.jvp(y)]), [12.0, 12.0])
    close(plain(acc.jvp(z)), 144.0)  # what jvp itself computed is a constant
