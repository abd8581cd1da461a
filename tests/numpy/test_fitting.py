"""What the table cannot say of polynomials: warnings, lengths that depend on values, roots; and of bits and types."""

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


# -- roots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [[0, 0, 1, -3, 2, 0, 0], [0, 0], [3], [], [0, 4, 0], [1, -6, 11, -6], [1j, 2, 0]])
@pytest.mark.parametrize("dtype", ["f8", "c16", "i8"])
def test_roots_of_polynomials_with_zeros_at_their_ends(p, dtype):
    if dtype != "c16" and 1j in p:
        return
    p = np.array(p, dtype)
    want = np.roots(p)
    for found in (tp.roots(p), np.roots(tp.constant(p))):
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_roots_in_traced_code(engine):
    f = tp.tape_function(tp.roots, engine=engine)
    p = np.array([2.0, -3, 5, 7, 0])
    np.testing.assert_allclose(np.sort_complex(f(p)), np.sort_complex(np.roots(p)), atol=1e-12)
    with pytest.raises(np.linalg.LinAlgError, match="roots at .*test_fitting.py.*first coefficient is 0"):
        f(np.array([0.0, 1, 2]))


def test_derivatives_of_roots():
    """p(r) = 0, so dr = -dp(r) / p'(r)."""
    p, t = np.array([2.0, -3, 5, 7]), np.array([0.3, -1, 0.5, 2])
    r, dr = tp.jvp(tp.roots, (p,), (t,))
    np.testing.assert_allclose(dr, -np.polyval(t, r) / np.polyval(np.polyder(p), r), rtol=1e-10)
    largest = tp.grad(lambda p: tp.max(tp.abs(tp.roots(p))))
    for way in (lambda f: f, tp.tape_function):
        slope = [np.abs(np.roots(p + e * t)).max() for e in (1e-6, -1e-6)]
        np.testing.assert_allclose(np.sum(way(largest)(tp.constant(p)) * t), (slope[0] - slope[1]) / 2e-6, rtol=1e-6)


def test_roots_of_what_is_no_vector():
    with pytest.raises(ValueError, match="roots at .*rank-1"):
        tp.roots(np.ones((2, 2)))


def test_characteristic_polynomials():
    a = np.array([[2.0, 1, 0], [-1, 2, 3], [0.5, 1, 1]])
    np.testing.assert_allclose(tp.poly(a), np.poly(a), rtol=1e-12)
    gradient = tp.grad(lambda a: -tp.poly(a)[-1])(tp.constant(a))  # the determinant
    np.testing.assert_allclose(gradient, np.linalg.det(a) * np.linalg.inv(a).T, rtol=1e-9)


def test_what_has_no_bits():
    for f, x in ((tp.packbits, np.ones(3)), (tp.unpackbits, np.ones(3, np.int64))):
        with pytest.raises(TypeError, match=f"{f.__name__} at .*test_fitting.py.*expected an input array of"):
            f(x)
    with pytest.raises(ValueError, match="packbits at .*order"):
        tp.packbits(np.ones(3, bool), bitorder="middle")
    with pytest.raises(ValueError, match="unpackbits at .*count"):
        tp.unpackbits(np.ones(1, np.uint8), count=-9)


def test_common_types():
    for dtypes in (("f4", "i4"), ("f4",), ("f4", "c8"), ("f8", "c8"), ("i4",)):
        arrays = [np.ones(2, d) for d in dtypes]
        want = np.common_type(*arrays)
        assert tp.common_type(*arrays) is np.common_type(*map(tp.constant, arrays)) is want
    with pytest.raises(TypeError):
        tp.common_type(np.ones(2, bool))
