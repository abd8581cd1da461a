"""`tp.special` against values computed with 50 digits (`special_values.json`), identities, limits and differences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapefuse as tp

VALUES: dict[str, list[list[float]]] = json.loads((Path(__file__).parent / "special_values.json").read_text())
BOUNDS = {  # ulp of float64; in float32 the same functions are exact to a rounding of the result
    "betaln": None,  # a difference of logarithms: to 1e-14
    "log_ndtr": 8,
    "polygamma 1": 8,
    "polygamma 2": 24,
    "polygamma 3": 24,
    "polygamma 20": 24,
    "digamma": 8,
    "gammaln": 8,
    "beta": 64,
    "binom": 64,
    "factorial": 64,  # x + 1 is rounded
    "kl_div": 16,
}
INF, NAN = math.inf, math.nan


def function(name: str) -> Callable[..., Any]:
    if name.startswith("polygamma"):
        return lambda x: tp.special.polygamma(int(name.split()[1]), x)
    return getattr(tp.special, name)


def arguments(name: str, dtype: Any = np.float64) -> tuple[list[np.ndarray], np.ndarray]:
    *xs, y = np.array(VALUES[name]).T
    with np.errstate(over="ignore"):
        return [x.astype(dtype) for x in xs], y


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_values(name: str, wrap: Any) -> None:
    xs, want = arguments(name)
    got = np.asarray(wrap(function(name))(*map(tp.constant, xs)))
    assert got.dtype == np.float64
    bound = BOUNDS.get(name, 6)
    if bound is None:
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)
    else:
        error = np.abs(got - want) / np.spacing(np.abs(want))
        assert error.max() <= bound, (error.max(), [x[error.argmax()] for x in xs])


OWN = (
    "gammaln gamma digamma erfcx ndtr ndtri erfinv erfcinv log_ndtr i0 i1 i0e i1e",  # computed in float64
    "logit expit log_expit entr exprel sinc",
)


BY_NUMBA = ["gammaln", "erfcx", "erfinv", "i0", "i1e"]  # a second each to compile


@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, "llvm") for name in (OWN[0] + " " + OWN[1]).split()] + [(name, "numba") for name in BY_NUMBA],
)
def test_float32(name: str, engine: str) -> None:
    (x,), _ = arguments(name, np.float32)
    x = x[(np.abs(x) > 1e-30) & (np.abs(x) < 30)]
    with np.errstate(over="ignore"):
        want = np.asarray(function(name)(tp.constant(x.astype(np.float64)))).astype(np.float32)
    with tp.config(engine=engine):
        compiled = np.asarray(tp.tape_function(function(name))(x))
    for got in (np.asarray(function(name)(tp.constant(x))), compiled):
        assert got.dtype == np.float32
        with np.errstate(all="ignore"):
            error = np.abs(got - want) / np.spacing(np.abs(want))
        assert np.nanmax(np.where(np.isfinite(want), error, 0)) <= (1 if name in OWN[0] else 8)


SMOOTH = {  # name -> argument ranges
    "gammaln": [(0.2, 5)], "gamma": [(0.3, 5)], "digamma": [(0.3, 5)], "polygamma 1": [(0.5, 5)],
    "polygamma 2": [(0.5, 5)], "erfcx": [(-2, 4)], "ndtr": [(-3, 3)], "ndtri": [(0.05, 0.95)], "erfinv": [(-0.9, 0.9)],
    "erfcinv": [(0.1, 1.9)], "log_ndtr": [(-9, 3)], "i0": [(-4, 4)], "i1": [(-4, 4)], "i0e": [(0.1, 4)],
    "i1e": [(-4, -0.1)], "betaln": [(0.3, 4), (0.3, 4)], "beta": [(0.5, 3), (0.5, 3)], "xlogy": [(-2, 2), (0.3, 3)],
    "xlog1py": [(-2, 2), (-0.5, 3)], "entr": [(0.1, 3)], "rel_entr": [(0.1, 3), (0.1, 3)],
    "kl_div": [(0.1, 3), (0.1, 3)], "logit": [(0.05, 0.95)], "expit": [(-4, 4)], "log_expit": [(-4, 4)],
    "factorial": [(0.1, 4)], "exprel": [(-2, 2)], "sinc": [(-2, 2)], "binom": [(4, 6), (1, 3)],
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name: str) -> None:
    """First ones forwards and backwards, second ones backwards over backwards, against finite differences; vmap."""
    rng, f = np.random.default_rng(4), function(name)
    xs = [rng.uniform(low, high, 9) for low, high in SMOOTH[name]]

    def slope(k: int, *xs: Any) -> Any:
        return tp.grad(lambda *xs: tp.sum(f(*xs)), argnums=k)(*xs)

    for k in range(len(xs)):
        step = [np.full(9, 1e-5 if j == k else 0.0) for j in range(len(xs))]
        up, down = ([x + s * h for x, h in zip(xs, step, strict=True)] for s in (1, -1))
        want = (np.asarray(f(*up)) - np.asarray(f(*down))) / 2e-5
        np.testing.assert_allclose(np.asarray(slope(k, *xs)), want, rtol=1e-6, atol=1e-8)
        ts = [tp.constant(h * 1e5) for h in step]
        np.testing.assert_allclose(np.asarray(tp.jvp(f, tuple(xs), tuple(ts))[1]), want, rtol=1e-6, atol=1e-8)
        second = tp.grad(lambda *xs, k=k: tp.sum(slope(k, *xs)), argnums=k)(*xs)
        want = (np.asarray(slope(k, *up)) - np.asarray(slope(k, *down))) / 2e-5
        np.testing.assert_allclose(np.asarray(second), want, rtol=1e-5, atol=1e-7)
    one_by_one = [f(*[x[i] for x in xs]).item() for i in range(9)]
    np.testing.assert_allclose(np.asarray(tp.vmap(f)(*map(tp.constant, xs))), one_by_one, rtol=1e-14, atol=1e-15)


LIMITS = {
    "gammaln": [
        *[(0.0, INF), (-1.0, INF), (INF, INF), (-INF, INF), (1.0, 0.0), (2.0, 0.0), (1e306, 7.036051755e308)],
        *[(1e-305, 305 * math.log(10)), (-1e-305, 305 * math.log(10)), (-0.1, 2.3689613327287886)],
    ],
    "gamma": [
        *[(0.0, INF), (-0.0, -INF), (-1.0, NAN), (INF, INF), (-INF, NAN), (5.0, 24.0), (171.7, INF), (1e-310, INF)],
        *[(1e-305, 1e305), (-1e-305, -1e305), (0.1, 9.513507698668732), (-0.1, -10.686287021193193), (1e308, INF)],
    ],
    "digamma": [(0.0, -INF), (-0.0, INF), (-2.0, NAN), (INF, INF), (-INF, NAN)],
    "polygamma 1": [(0.0, INF), (-3.0, INF), (INF, 0.0), (-INF, NAN)],
    "polygamma 2": [(0.0, NAN), (-3.0, NAN), (INF, 0.0), (-INF, NAN)],
    "polygamma 3": [(0.0, INF), (-3.0, INF), (INF, 0.0), (-INF, NAN)],
    "erfcx": [
        *[(INF, 0.0), (-INF, INF), (0.0, 1.0), (-30.0, INF), (1e300, 1 / (1e300 * math.sqrt(math.pi)))],
        *[(-1e300, INF), (-1e308, INF)],
    ],
    "ndtr": [(INF, 1.0), (-INF, 0.0), (0.0, 0.5)],
    "log_ndtr": [(INF, 0.0), (-INF, -INF), (0.0, math.log(0.5))],
    "ndtri": [(0.0, -INF), (1.0, INF), (0.5, 0.0), (1.5, NAN), (-0.1, NAN)],
    "erfinv": [(1.0, INF), (-1.0, -INF), (0.0, 0.0), (1.1, NAN)],
    "erfcinv": [(0.0, INF), (2.0, -INF), (1.0, 0.0), (2.1, NAN)],
    "i0": [(INF, INF), (-INF, INF), (0.0, 1.0), (1e4, INF), (1e308, INF)],
    "i1": [(-1e308, -INF), (INF, INF), (-INF, -INF), (0.0, 0.0)],
    "i0e": [(INF, 0.0), (0.0, 1.0)],
    "i1e": [(-INF, 0.0), (0.0, 0.0)],
    "entr": [(0.0, 0.0), (-1.0, -INF)],
    "logit": [(0.0, -INF), (1.0, INF), (0.5, 0.0), (1.5, NAN)],
    "expit": [(INF, 1.0), (-INF, 0.0)],
    "log_expit": [(-INF, -INF), (INF, 0.0)],
    "exprel": [(0.0, 1.0), (INF, INF), (-INF, 0.0)],
    "factorial": [(-1.0, 0.0), (0.0, 1.0), (3.0, 6.0)],
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_limits(name: str, wrap: Any) -> None:
    x, want = np.array([*LIMITS[name], (NAN, NAN)]).T.copy()
    np.testing.assert_allclose(np.asarray(wrap(function(name))(x)), want, rtol=1e-9, atol=0)


def test_limits_of_two_arguments() -> None:
    s = tp.special
    x = np.array([0.0, 0.0, 0.0, 1.0, NAN, 0.0])
    y = np.array([0.0, 1.0, NAN, 0.0, 1.0, -1.0])
    np.testing.assert_array_equal(s.xlogy(x, y), [0, 0, NAN, -INF, NAN, 0])
    np.testing.assert_array_equal(s.xlog1py(x, y - 1), [0, 0, NAN, -INF, NAN, 0])
    np.testing.assert_array_equal(s.rel_entr(x, y), [0, 0, NAN, INF, NAN, INF])
    np.testing.assert_array_equal(s.kl_div(x, y), [0, 1, NAN, INF, NAN, INF])


def test_gradients_where_a_factor_is_zero() -> None:
    for f, y in ((tp.special.xlogy, 0.0), (tp.special.xlog1py, -1.0)):
        dx, dy = tp.grad(f, argnums=(0, 1))(0.0, y)
        assert (dx.item(), dy.item()) == (0.0, 0.0)
    assert tp.grad(tp.special.entr)(np.float64(0.0)).item() == 0.0
    assert tp.grad(tp.special.i0e)(0.0).item() == 0.0
    assert tp.grad(tp.special.i1)(0.0).item() == 0.5


def test_integers_are_computed_in_float64() -> None:
    got = tp.special.gammaln(np.array([1, 2, 5]))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.log([1.0, 1.0, 24.0]), rtol=1e-15)


def test_orders_of_polygamma() -> None:
    x = np.linspace(0.3, 4, 7)
    np.testing.assert_array_equal(tp.special.polygamma(0, x), tp.special.digamma(x))
    with pytest.raises(ValueError, match=r"polygamma at .*test_special.py.*at least 0, not -1"):
        tp.special.polygamma(-1, x)
    with pytest.raises(TypeError, match="order must be an integer"):
        tp.special.polygamma(0.5, x)


def test_reflection_and_recurrence() -> None:
    x = np.linspace(-7.3, -0.1, 40)
    s = tp.special
    np.testing.assert_allclose(s.gamma(x) * s.gamma(1 - x), np.pi / np.sin(np.pi * x), rtol=2e-14)
    for n in range(4):
        step = (-1) ** n * math.factorial(n) / x ** (n + 1)
        np.testing.assert_allclose(s.polygamma(n, x + 1), s.polygamma(n, x) + step, rtol=1e-10, atol=1e-11)


def test_wrong_operands() -> None:
    for call in (lambda: tp.special.gammaln("text"), lambda: tp.special.ndtri(object())):
        with pytest.raises(TypeError, match="tensors hold"):
            call()
    with pytest.raises(ValueError, match=r"(?s)do not broadcast.*test_special.py"):
        tp.tape_function(lambda: tp.special.betaln(np.ones(2), np.ones(3)))()
    with pytest.raises(TypeError, match=r"gammaln at .*test_special.py.* takes 1 operands, got 2"):
        tp.special.gammaln(1.0, 2.0)
