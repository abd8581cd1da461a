"""Distributions: their laws (moments, distances of Kolmogorov and Smirnov, counts), dtypes, shapes, engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.random import continuous as c
from tapefuse.random.keys import words_of
from tests.random.helpers import ENGINES, chi_square, kolmogorov_smirnov

N = 200_000
special = tp.special


def ndtr(x: np.ndarray) -> np.ndarray:
    return np.asarray(special.ndtr(x))


def truncated(x: np.ndarray) -> np.ndarray:
    low, high = ndtr(np.float64(-1)), ndtr(np.float64(2.5))
    return (ndtr(x) - low) / (high - low)


def erlang(k: int, x: np.ndarray) -> np.ndarray:
    """The distribution function of the gamma distribution for a whole shape parameter."""
    return 1 - np.exp(-x) * sum(x**j / math.factorial(j) for j in range(k))


# name -> draw(shape, **options), distribution function, mean, variance (None: it has none)
CONTINUOUS: dict[str, tuple[Callable[..., Any], Callable, float | None, float | None]] = {
    "uniform": (tp.random.uniform, lambda x: x, 1 / 2, 1 / 12),
    "uniform 2 5": (lambda s, **k: tp.random.uniform(s, 2.0, 5.0, **k), lambda x: (x - 2) / 3, 3.5, 9 / 12),
    "normal": (tp.random.normal, ndtr, 0, 1),
    "normal 3 2": (lambda s, **k: tp.random.normal(s, 3, 2, **k), lambda x: ndtr((x - 3) / 2), 3, 4),
    "truncated": (lambda s, **k: tp.random.truncated_normal(s, -1, 2.5, **k), truncated, None, None),
    "exponential": (lambda s, **k: tp.random.exponential(s, 3, **k), lambda x: -np.expm1(-x / 3), 3, 9),
    "gumbel": (tp.random.gumbel, lambda x: np.exp(-np.exp(-x)), np.euler_gamma, math.pi**2 / 6),
    "laplace": (tp.random.laplace, lambda x: 0.5 + np.sign(x) * 0.5 * -np.expm1(-np.abs(x)), 0, 2),
    "logistic": (tp.random.logistic, lambda x: 1 / (1 + np.exp(-x)), 0, math.pi**2 / 3),
    "cauchy": (tp.random.cauchy, lambda x: np.arctan(x) / math.pi + 0.5, None, None),
    "gamma 1/2": (lambda s, **k: tp.random.gamma(0.5, s, **k), lambda x: np.vectorize(math.erf)(np.sqrt(x)), 0.5, 0.5),
    "gamma 3": (lambda s, **k: tp.random.gamma(3.0, s, 2.0, **k), lambda x: erlang(3, x / 2), 6, 12),
    "chisquare 4": (lambda s, **k: tp.random.chisquare(4, s, **k), lambda x: erlang(2, x / 2), 4, 8),
    "beta 2 1": (lambda s, **k: tp.random.beta(2.0, 1.0, s, **k), lambda x: x**2, 2 / 3, 1 / 18),
    "beta 1/2 1/2": (
        lambda s, **k: tp.random.beta(0.5, 0.5, s, **k), lambda x: 2 / math.pi * np.arcsin(np.sqrt(x)), 0.5, 1 / 8,
    ),
    "student 2": (lambda s, **k: tp.random.student_t(2.0, s, **k), lambda x: 0.5 + x / 2 / np.sqrt(2 + x * x), 0, None),
    "dirichlet": (
        lambda s, **k: tp.random.dirichlet(np.float32([1, 1, 1]), s, **k)[..., 0],
        lambda x: 1 - (1 - x) ** 2, 1 / 3, 1 / 18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_laws(name: str, dtype: str) -> None:
    draw, cdf, mean, variance = CONTINUOUS[name]
    x = np.asarray(draw((N,), dtype=dtype, key=tp.random.key(7)))
    assert (x.dtype, x.shape) == (np.dtype(dtype), (N,))
    assert kolmogorov_smirnov(x, cdf) < 2.7
    x = x.astype(np.float64)
    if mean is not None and variance is not None:
        assert abs(x.mean() - mean) < 5 * math.sqrt(variance / N)
        spread = ((x - mean) ** 2).std() / math.sqrt(N)
        assert abs(((x - mean) ** 2).mean() - variance) < 5 * spread


LONG = ("beta 2 1", "beta 1/2 1/2", "student 2", "dirichlet", "chisquare 4", "gamma 1/2")  # for Numba to compile


RUNS = [(name, engine) for name in CONTINUOUS for engine in ENGINES if engine == "llvm" or name not in LONG]


@pytest.mark.parametrize(("name", "engine"), RUNS)
def test_compiled_numbers_are_the_eager_ones(name: str, engine: str) -> None:
    draw, key = CONTINUOUS[name][0], tp.random.key(3)
    for dtype, rtol in (("f4", 2e-5), ("f8", 1e-12)):
        eager = np.asarray(draw((4, 33), dtype=dtype, key=key))
        with tp.config(engine=engine):
            compiled = np.asarray(tp.tape_function(lambda key, d=dtype: draw((4, 33), dtype=d, key=key))(key))
        assert compiled.dtype == eager.dtype
        np.testing.assert_allclose(compiled, eager, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", ["normal", "uniform", "gamma 1/2", "truncated", "beta 2 1", "student 2"])
def test_vmap_over_keys_draws_what_each_key_draws(name: str) -> None:
    draw, keys = CONTINUOUS[name][0], tp.random.split(tp.random.key(3), 5)
    want = np.stack([np.asarray(draw((7,), key=k)) for k in np.asarray(keys)])
    for f in (tp.vmap(lambda k: draw((7,), key=k)), tp.tape_function(tp.vmap(lambda k: draw((7,), key=k)))):
        np.testing.assert_allclose(f(keys), want, rtol=2e-5, atol=1e-6)


# -- counts -----------------------------------------------------------------------------------------------------------


def poisson(mean: float, k: np.ndarray) -> np.ndarray:
    return np.exp(k * math.log(mean) - mean - np.asarray(special.gammaln(k + 1.0)))


@pytest.mark.parametrize("mean", [0.3, 4.0, 9.99, 10.0, 35.0, 1000.0])
def test_poisson(mean: float) -> None:
    x = np.asarray(tp.random.poisson(mean, (N,), key=tp.random.key(5)))
    assert x.dtype == np.int32
    k = np.arange(int(mean + 10 * math.sqrt(mean) + 10))
    likely = poisson(mean, k) * N > 20
    low, high = k[likely][[0, -1]]
    counts = np.bincount(np.clip(x, low - 1, high + 1) - low + 1, minlength=high - low + 3)
    inside = poisson(mean, np.arange(low, high + 1)) * N
    below = poisson(mean, np.arange(0, low)).sum() * N
    expected = np.array([below, *inside, max(N - below - inside.sum(), 1e-9)])
    assert abs(chi_square(counts[1:-1], expected[1:-1])) < 5
    assert abs(x.mean() - mean) < 5 * math.sqrt(mean / N)
    assert tp.random.poisson(0.0, (3,)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "u4", "i8", "u8"])
def test_integers(dtype: str) -> None:
    x = np.asarray(tp.random.integers((N,), 3, 50, dtype=dtype, key=tp.random.key(1)))
    assert x.dtype == np.dtype(dtype)
    assert (x.min(), x.max()) == (3, 49)
    assert abs(chi_square(np.bincount(x)[3:], np.full(47, N / 47))) < 5
    with_end = np.asarray(tp.random.integers((N,), 3, 49, dtype=dtype, endpoint=True, key=tp.random.key(1)))
    np.testing.assert_array_equal(with_end, x)
    info = np.iinfo(dtype)
    for engine in (None, *ENGINES):
        f = lambda key: tp.random.integers((1000,), info.min, info.max, dtype=dtype, endpoint=True, key=key)
        with tp.config(engine=engine or "llvm"):
            all_of_them = np.asarray((tp.tape_function(f) if engine else f)(tp.random.key(2)))
        sixteenth = (all_of_them.astype(object) - info.min) * 16 // (info.max - info.min + 1)
        assert abs(chi_square(np.bincount(sixteenth.astype(int), minlength=16), np.full(16, 1000 / 16))) < 5


def test_wide_integers_are_exact() -> None:
    """Against the same products in Python's integers."""
    key, bound = tp.random.key(6), 3 * 2**60 + 12345
    high, low = (np.asarray(words_of(key, (500,), part)).astype(object) for part in (0, 1))
    want = ((high * 2**64 + low) * bound >> 128) - 2**62
    got = tp.random.integers((500,), -(2**62), bound - 2**62, dtype="i8", key=key)
    np.testing.assert_array_equal(np.asarray(got).astype(object), want)
    narrow = np.asarray(tp.random.integers((500,), 0, 1000, key=key)).astype(object)
    np.testing.assert_array_equal(narrow, high * 1000 >> 64)


def test_integers_between_tensors() -> None:
    low, high = np.array([[0], [100]]), np.array([10, 1000, 5000])
    with pytest.raises(ValueError, match=r"no integers"):
        tp.random.integers(None, low, np.array([10, 1000, 100]))
    f = tp.tape_function(lambda low, high, key: tp.random.integers((300, 2, 3), low, high, dtype="i8", key=key))
    x = np.asarray(f(low[:, ::-1] * 0, high, tp.random.key(0)))
    assert (x >= 0).all() and (x < high).all() and x.max(axis=(0, 1))[1] > 950


def test_bernoulli_rademacher() -> None:
    for p in (0.0, 0.2, 0.5, 1.0):
        x = np.asarray(tp.random.bernoulli(p, (N,), key=tp.random.key(4)))
        assert x.dtype == np.bool_
        assert abs(x.mean() - p) <= 5 * math.sqrt(p * (1 - p) / N)
    several = np.asarray(tp.random.bernoulli(np.float32([0, 1, 0.5]), (1000, 3), key=tp.random.key(4))).mean(0)
    assert several[0] == 0 and several[1] == 1 and 0.4 < several[2] < 0.6
    signs = np.asarray(tp.random.rademacher((N,), dtype="i1", key=tp.random.key(4)))
    assert signs.dtype == np.int8 and set(signs.tolist()) == {-1, 1}
    assert abs(signs.mean()) < 5 / math.sqrt(N)


def test_categorical_and_choice() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.4])
    key = tp.random.key(9)
    by_p = tp.random.choice(np.array([0, 1, 2, 3]), (N,), p=p, key=key)
    for x in (tp.random.categorical(np.log(p), (N,), key=key), by_p):
        assert abs(chi_square(np.bincount(np.asarray(x), minlength=4), p * N)) < 5
    rows = np.asarray(tp.random.categorical(np.log([p, p[::-1]]).T, (N, 2), axis=0, key=key))
    assert abs(chi_square(np.bincount(rows[:, 1], minlength=4), p[::-1] * N)) < 5
    assert tp.random.categorical(np.zeros((5, 3))).shape == (5,)
    x = np.asarray(tp.random.choice(6, (N,), key=key))
    assert abs(chi_square(np.bincount(x), np.full(6, N / 6))) < 5
    letters = tp.random.choice(np.arange(12.0).reshape(3, 4), (2, 2), axis=1, key=key)
    assert letters.shape == (3, 2, 2)


def test_orders() -> None:
    keys = tp.random.split(tp.random.key(0), 24_000)
    orders = np.asarray(tp.vmap(lambda k: tp.random.permutation(4, key=k))(keys))
    assert orders.dtype == np.int32
    _, counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)
    assert counts.size == 24 and abs(chi_square(counts, np.full(24, 1000))) < 5
    some = np.asarray(tp.vmap(lambda k: tp.random.choice(4, (2,), replace=False, key=k))(keys))
    assert (some[:, 0] != some[:, 1]).all()
    _, counts = np.unique(some @ np.array([4, 1]), return_counts=True)
    assert counts.size == 12 and abs(chi_square(counts, np.full(12, 2000))) < 5
    p = np.array([0.5, 0.3, 0.2, 0.0])
    first = np.asarray(tp.vmap(lambda k: tp.random.choice(4, (3,), replace=False, p=p, key=k))(keys))
    assert abs(chi_square(np.bincount(first[:, 0], minlength=3), p[:3] * 24_000)) < 5
    assert (np.sort(first, axis=1) == [0, 1, 2]).all()
    x = np.arange(24).reshape(4, 6)
    y = np.asarray(tp.random.permutation(x, axis=1, key=tp.random.key(1)))
    assert not np.array_equal(x, y)
    np.testing.assert_array_equal(np.sort(y, axis=1), x)
    t, v = tp.constant(x), tp.Variable(x)
    assert tp.random.shuffle(t, axis=1, key=tp.random.key(1)) is None
    tp.random.shuffle(v, axis=1, key=tp.random.key(1))
    np.testing.assert_array_equal(t, y)
    np.testing.assert_array_equal(v, y)


def test_dropout() -> None:
    x = np.full((1000, 50), 3.0, np.float32)
    y = np.asarray(tp.random.dropout(x, 0.2, key=tp.random.key(0)))
    assert y.dtype == np.float32 and set(np.unique(y).tolist()) == {0.0, 3.75}
    assert abs(y.mean() - 3) < 5 * 3.75 * 0.4 / math.sqrt(x.size)
    np.testing.assert_array_equal(tp.random.dropout(x, 0.0), x)


def test_multivariate_normal() -> None:
    mean, cov = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    x = np.asarray(tp.random.multivariate_normal(mean, cov, (N,), key=tp.random.key(0)))
    assert (x.shape, x.dtype) == ((N, 2), np.float64)
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * math.sqrt(2 / N))
    np.testing.assert_allclose(np.cov(x.T), cov, atol=5 * math.sqrt(8 / N))
    covs = np.stack([cov, 4 * cov])
    y = tp.random.multivariate_normal(mean, covs, key=tp.random.key(0))
    assert y.shape == (2, 2)
    with pytest.raises(tp.ShapeError, match=r"a mean of shape \[2\] needs a covariance of shape \[..., n, n\]"):
        tp.random.multivariate_normal(mean, np.eye(3))


# -- shapes, dtypes, ends ---------------------------------------------------------------------------------------------


def test_shapes_and_dtypes() -> None:
    loc = tp.constant(np.zeros((3, 1)))
    assert (tp.random.normal(loc=loc, scale=np.ones(4)).type) == tp.constant(np.zeros((3, 4))).type
    assert tp.random.normal((5, 3, 1), loc).dtype == np.float64
    assert tp.random.normal().shape == ()
    assert tp.random.uniform((), 0, 1, "f2").dtype == np.float16
    assert tp.random.gamma(np.ones(3, np.float32)).shape == (3,)
    assert tp.random.dirichlet(np.ones((4, 3), np.float32)).shape == (4, 3)
    assert tp.random.dirichlet(np.ones(3, np.float32), (2, 5)).shape == (2, 5, 3)
    assert tp.random.poisson(np.ones((2, 1)), (2, 3), dtype="f4").dtype == np.float32
    assert tp.random.normal((0, 3)).shape == (0, 3)
    for name in ("gamma", "chisquare", "student_t", "poisson"):
        assert getattr(tp.random, name)(2.0, (0, 3)).shape == (0, 3)


def test_half_precision() -> None:
    u = np.asarray(tp.random.uniform((N,), dtype="f2", key=tp.random.key(0)))
    assert u.max() < 1 and u.min() == 0
    assert abs(u.astype(float).mean() - 0.5) < 5 / math.sqrt(12 * N) + 2**-12
    assert tp.random.normal((3,), dtype="f2", key=tp.random.key(0)).dtype == np.float16


def test_ends_are_finite() -> None:
    """The words of all zeros and of all ones, which no sample of a reasonable size has."""
    words = tp.constant(np.array([0, 2**64 - 1], np.uint64))
    for dtype in (np.dtype("f4"), np.dtype("f8")):
        for draw in (c.standard_exponential, c.standard_gumbel, c.standard_laplace, c.standard_logistic):
            for f in (draw, tp.tape_function(lambda w, draw=draw, dtype=dtype: draw(w, dtype))):
                found = f(words, dtype) if f is draw else f(words)
                assert np.isfinite(np.asarray(found)).all()
        assert np.isfinite(np.asarray(c.standard_cauchy(words, dtype))).all()
        low, high = np.asarray(c.unit(words, dtype))
        assert low == 0 and 1 - 1e-7 < high < 1
        low, high = np.asarray(c.inner(words, dtype))
        assert 0 < low < high < 1
        low, high = np.asarray(c.fine(words, dtype))
        assert 0 < low < high <= 1


def test_truncation_far_out() -> None:
    for low, high in ((5.0, 6.0), (-6.0, -5.0), (9.0, math.inf)):
        x = np.asarray(tp.random.truncated_normal((1000,), low, high, dtype="f8", key=tp.random.key(0)))
        assert (x >= low).all() and (x <= high).all() and np.unique(x).size > 990
    mean = np.asarray(tp.random.truncated_normal((N,), 9.0, math.inf, dtype="f8", key=tp.random.key(0))).mean()
    assert abs(mean - 9.108523) < 5 * 0.107 / math.sqrt(N)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tp.random.normal((2,), scale=-1), ValueError, r"normal at .*py:\d+: scale must be at least 0, not -1"),
        (lambda: tp.random.normal((2,), loc=np.zeros(3)), tp.ShapeError, r"shape \[3\] does not broadcast.*\[2\]"),
        (lambda: tp.random.normal((2,), dtype="i4"), tp.DTypeError, "floating-point, not int32"),
        (lambda: tp.random.normal((2,), loc=1j), tp.DTypeError, "parameters of distributions are real"),
        (lambda: tp.random.gamma(np.ones(2) * 1j), tp.DTypeError, "gamma at .*are real, not complex"),
        (lambda: tp.random.normal((-2,)), tp.ShapeError, "negative extent"),
        (lambda: tp.random.bernoulli(1.5), ValueError, "p must be from 0 to 1, not 1.5"),
        (lambda: tp.random.bernoulli(np.array([0.1, np.nan])), ValueError, "not nan"),
        (tp.tape_function(lambda: tp.random.bernoulli(-0.5)), ValueError, "p must be from 0 to 1"),
        (lambda: tp.random.gamma(0.0), ValueError, "a must be positive, not 0.0"),
        (lambda: tp.random.beta(1.0, -1.0), ValueError, "b must be positive"),
        (lambda: tp.random.poisson(-1.0), ValueError, "lam must be at least 0"),
        (lambda: tp.random.integers((2,), 5, 5), ValueError, "no integers from 5 to below 5"),
        (lambda: tp.random.integers((2,), 0, 300, dtype="u1"), ValueError, "do not fit into uint8"),
        (lambda: tp.random.integers((2,), 0.5, 3), tp.DTypeError, "bounds are integers, not float"),
        (lambda: tp.random.integers((2,), 3, dtype="f4"), tp.DTypeError, "integer dtype, not float32"),
        (lambda: tp.random.choice(3, (4,), replace=False), ValueError, "4 of 3 without replacement"),
        (lambda: tp.random.choice(3, (4,), p=[0.5, 0.6, 0.5]), ValueError, "p must add up to 1, not 1.6"),
        (lambda: tp.random.choice(3, (4,), p=[0.5, 0.5]), tp.ShapeError, "one probability for each of 3"),
        (lambda: tp.random.choice(0, (4,)), ValueError, "nothing to choose from"),
        (lambda: tp.random.choice(tp.constant(3)), tp.ShapeError, "Python int"),
        (lambda: tp.random.permutation(tp.constant(3)), tp.ShapeError, "Python integer"),
        (lambda: tp.random.categorical(0.5), tp.ShapeError, "at least a vector"),
        (lambda: tp.random.dirichlet(1.0), tp.ShapeError, "alpha is a vector"),
        (lambda: tp.random.dropout(np.ones(2), 1.0), ValueError, "at least 0 and below 1, not 1.0"),
        (lambda: tp.random.truncated_normal((2,), 2, 1), ValueError, "low must be below high"),
        (lambda: tp.random.rademacher((2,), dtype="u1"), tp.DTypeError, "negative numbers"),
    ],
)
def test_errors(call: Callable, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
