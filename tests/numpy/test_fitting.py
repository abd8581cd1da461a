"""What the table cannot say of `polyfit` and `polydiv`: warnings, and lengths that depend on values."""

import numpy as np
import pytest

import tapefuse as tp


def test_a_division_without_remainder():
    p = np.polymul([3.0, 1.0, -2.0], [2.0, 1.0])
    for u, v in (zip(tp.polydiv(p, [2.0, 1.0]), np.polydiv(p, [2.0, 1.0]), strict=True)):
        np.testing.assert_allclose(u, v, atol=1e-15)
    _, rest = tp.tape_function(lambda p: tp.polydiv(p, [2.0, 1.0]))(p)
    assert rest.shape == (1,)


def test_points_that_are_too_few_are_warned_of():
    with pytest.warns(np.exceptions.RankWarning, match="poorly conditioned") as caught:
        tp.polyfit(np.ones(5), np.arange(5.0), 2)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="test_fitting.py.*number of data points"):
        tp.polyfit(np.arange(3.0), np.arange(3.0), 2, cov=True)


def test_the_fit_is_differentiable_in_a_compiled_function():
    x, y = np.linspace(-1, 1, 20), np.cos(np.linspace(-1, 1, 20))
    slope = tp.tape_function(tp.grad(lambda x, y: tp.sum(tp.polyfit(x, y, 3) ** 2), (0, 1)))
    total = lambda x, y: (np.polyfit(x, y, 3) ** 2).sum()
    t, e = np.random.default_rng(0).standard_normal((2, 20)), 1e-6
    want = (total(x + e * t[0], y + e * t[1]) - total(x - e * t[0], y - e * t[1])) / (2 * e)
    gx, gy = slope(x, y)
    np.testing.assert_allclose((gx.numpy() * t[0]).sum() + (gy.numpy() * t[1]).sum(), want, rtol=1e-6)
