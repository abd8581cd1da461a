"""Values that are compared for equality are the same to the bit wherever they are computed."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen.rounding import may_fuse
from tapefuse.compiler import request

X, Y = (np.random.default_rng(seed).random((5, 40)) for seed in range(2))


def steps_until(y):
    h, t = 0.1, 0.0
    while t < 1.0:
        k = -2.5 * y
        e = tp.max(h * (k - y))
        y = y + h * (y + k)
        t = t + h
        h = h - e * 0.001
    return tp.sum(y)


def largest_of_sums(x, y):
    z = x * y
    return tp.sum(tp.max(z + x, axis=1) * tp.sum(z - x, axis=1))


def place_of_largest(x, y):
    z = x * y
    return tp.argmax(z + x, axis=1), z, z - x


def test_the_derivative_of_a_maximum_finds_it_again():
    """What a reverse pass computes anew was rounded otherwise: no element was the largest, 0 / 0 its gradient."""
    for seed in range(20):
        y = np.random.default_rng(seed).random(5)
        got = tp.tape_function(tp.grad(steps_until))(y)
        np.testing.assert_allclose(np.asarray(got), np.asarray(tp.grad(steps_until)(tp.constant(y))), rtol=1e-12)


def test_places_and_derivatives_of_extremes_of_sums_of_products():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = rng.random((2, 7, 33))
        place, product, _ = tp.tape_function(place_of_largest)(x, y)
        np.testing.assert_array_equal(np.asarray(place), np.argmax(x * y + x, axis=1))
        np.testing.assert_array_equal(np.asarray(product), x * y)
        got = tp.tape_function(tp.grad(largest_of_sums, argnums=(0, 1)))(x, y)
        want = tp.grad(largest_of_sums, argnums=(0, 1))(tp.constant(x), tp.constant(y))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12, atol=1e-14)


def test_no_element_is_larger_than_the_largest():
    def gaps(y):
        k = -2.5 * y
        x = 0.1 * (k - y)
        return tp.sqrt(tp.max(x) - x), y + 0.1 * (y + k)

    f = tp.tape_function(gaps)
    for seed in range(20):
        y = np.random.default_rng(seed).random(5)
        np.testing.assert_array_equal(np.asarray(f(y)[0]), np.asarray(gaps(tp.constant(y))[0]))


@pytest.mark.filterwarnings("ignore:.*was traced")
def test_some_element_is_not_below_the_largest():
    def step(y, _):
        k = -2.5 * y
        x = 0.3 * (k - y)
        return y + 0.1 * (y + k), tp.sum(tp.where(x >= tp.max(x), 1.0, 0.0))

    counts = tp.tape_function(lambda y: tp.scan(step, y, length=9)[1])
    for n in (1, 2, 5, 8, 17, 100):
        assert counts(np.random.default_rng(n).random(n)).tolist() == [1.0] * 9


@pytest.mark.parametrize(
    ("function", "fuses"),
    [
        (lambda x, y: x * y + x, True),
        (lambda x, y: tp.max(x * y + x, axis=1), True),
        (lambda x, y: tp.nn.softmax(x * y + x), True),
        (tp.grad(lambda x, y: tp.sum(y * tp.nn.log_softmax(x * y + x))), True),
        (tp.grad(lambda x, y: tp.sum(tp.max(x, axis=1) * tp.sum(y, axis=1))), True),
        (tp.grad(lambda x, y: tp.sum(tp.max(x * y, axis=1))), True),
        (lambda x, y: tp.where(x * y + x == 0.0, 1.0, x), True),
        (lambda x, y: tp.isnan(x * y + x), True),
        (tp.grad(lambda x, y: tp.sum(tp.max(x * y + x, axis=1))), False),
        (tp.grad(lambda x, y: tp.sum(tp.min(tp.exp(x - y * y), axis=0))), False),
        (lambda x, y: tp.argmax(tp.reshape(x * y, (-1,)) + 1.0), False),
        (lambda x, y: x * y + x == y, False),
        (lambda x, y: x * y + x >= y, True),
        (lambda x, y: x >= tp.max(x, axis=1, keepdims=True), True),
        (lambda x, y: x * y + x >= tp.max(x * y + x, axis=1, keepdims=True), False),
        (lambda x, y: tp.max(x * y + x) - (x * y + x), False),
        (lambda x, y: tp.maximum(tp.max(x * y + x), 0.0) > x, False),
        (lambda x, y: tp.sort(x * y + x)[:, -1:] > x, False),
    ],
)
def test_which_programs_have_fused_multiply_adds(function, fuses):
    function = tp.tape_function(function)
    wanted = request(function.specialise(X, Y).traced, function._options)
    assert may_fuse(wanted.graph) is fuses
