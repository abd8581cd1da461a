"""Every row of `calculation_table`: values, dtypes and shapes, exceptions, derivatives, vmap, and compiled code."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._tree import flatten
from tests.numpy.calculation_table import ARRAYS, CASES, METHODS, Case

WANTED = {str(case): case.wanted() for case in CASES}
RIGHT = [case for case in CASES if not isinstance(WANTED[str(case)], Exception)]
WRONG = [case for case in CASES if isinstance(WANTED[str(case)], Exception)]
TRACED = [case for case in RIGHT if case.traced]
FIRST = {case.name: case for case in reversed(TRACED) if np.size(case.arrays[0])}  # one case of each function
MAPPED = {c.name: c for c in reversed(TRACED) if c.label not in ("empty", "misfits") and c.arrays[0].ndim}
SMOOTH = [
    case
    for case in TRACED
    if case.smooth and all(x.dtype == np.float64 and np.isfinite(x).all() for x in case.arrays)
    and case.label not in ("large", "small", "empty", "empties", "ties")
    and not (case.name == "std" and case.label in ("0-d", "one"))
]  # fmt: skip


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=str)


def leaves(result: Any) -> list[Any]:
    return flatten(list(result) if isinstance(result, tuple) else result)[0]


def agree(got: Any, want: Any, ulp: float) -> None:
    found, wanted = leaves(got), leaves(want)
    assert len(found) == len(wanted)
    for a, b in zip(map(np.asarray, found), map(np.asarray, wanted), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        numbers = np.abs(b[np.isfinite(b)])
        slack = ulp * np.finfo(b.dtype).eps
        atol = slack * numbers.max(initial=0.0) if ulp >= 32 else np.finfo(b.dtype).tiny  # sums cancel
        np.testing.assert_allclose(a, b, rtol=slack, atol=atol)


def tensors(case: Case) -> list[tp.Tensor]:
    return [tp.constant(x) for x in case.arrays]


@each(RIGHT)
def test_eager(case: Case) -> None:
    """By our name, and by NumPy's."""
    for m in (tp, np):
        agree(case.call(m, *tensors(case)), WANTED[str(case)], case.ulp)


@each([case for case in TRACED if case.label not in ("cube", "one", "ties", "long", "longs", "column", "row")])
def test_traced(case: Case) -> None:
    with tp.config(disable_jit=True):
        agree(tp.tape_function(lambda *xs: case.call(tp, *xs))(*case.arrays), WANTED[str(case)], case.ulp)


@each(list(FIRST.values()))
def test_compiled(case: Case) -> None:
    agree(tp.tape_function(lambda *xs: case.call(tp, *xs))(*case.arrays), WANTED[str(case)], 4 * case.ulp)


@each([case for case in RIGHT if not case.traced])
def test_what_needs_values_says_so_in_a_trace(case: Case) -> None:
    with pytest.raises(tp.ConcretizationError, match=f"np.{case.name}.*calculation_table.py"):
        tp.tape_function(lambda *xs: case.call(tp, *xs))(*case.arrays)


@each(WRONG)
def test_exceptions(case: Case) -> None:
    """NumPy's type; the message names the user's line."""
    for m in (tp, np):
        with pytest.raises(_builtin(WANTED[str(case)])) as caught:
            case.call(m, *tensors(case))
        text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert "calculation_table.py:" in text or "unexpected keyword" in text, text


def _builtin(error: Exception) -> type[Exception]:
    """NumPy's public type: its private ones stand for what they derive from."""
    return next(t for t in type(error).__mro__ if not t.__name__.startswith(("_", "UFunc")))


def floats(result: Any) -> list[Any]:
    return [y for y in leaves(result) if isinstance(y, tp.Tensor) and y.dtype.kind == "f"]


@each(SMOOTH)
def test_derivatives(case: Case) -> None:
    """Forwards against finite differences, backwards against forwards."""
    xs, rng = case.arrays, np.random.default_rng(1)
    ts = [rng.standard_normal(x.shape) for x in xs]

    def f(*xs: Any) -> list[Any]:
        return floats(case.call(tp, *xs))

    sources = tensors(case)
    with tp.GradientTape() as tape:
        tape.watch(sources)
        ys = f(*sources)
    gs = [rng.standard_normal(y.shape) for y in ys]
    gradients = tape.gradient(ys, sources, output_gradients=gs)
    slopes = tp.jvp(lambda *xs: tuple(f(*xs)), tuple(sources), tuple(map(tp.constant, ts)))[1]
    e = 1e-6
    ups, downs = (f(*[tp.constant(x + s * t) for x, t in zip(xs, ts, strict=True)]) for s in (e, -e))
    total = 0.0
    for slope, up, down, g in zip(slopes, ups, downs, gs, strict=True):
        want = (up.numpy() - down.numpy()) / (2 * e)
        got = np.zeros(up.shape) if slope is None else slope.numpy()
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * max(1.0, float(np.abs(want).max(initial=0))))
        total += float((got * g).sum())
    back = sum(float((d.numpy() * t).sum()) for d, t in zip(gradients, ts, strict=True) if d is not None)
    np.testing.assert_allclose(back, total, rtol=1e-9, atol=1e-9)


@each(list(MAPPED.values()))
def test_vmap(case: Case) -> None:
    rows = [np.stack([x, np.roll(x, 1), x[::-1]]) if x.ndim else np.stack([x] * 3) for x in case.arrays]
    many = leaves(tp.vmap(lambda *xs: tuple(leaves(case.call(tp, *xs))))(*map(tp.constant, rows)))
    single = [leaves(case.call(tp, *[tp.constant(x[k]) for x in rows])) for k in range(3)]
    for k, y in enumerate(many):
        want = np.stack([np.asarray(s[k]) for s in single])
        np.testing.assert_allclose(np.broadcast_to(np.asarray(y), want.shape), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ufunc", "method", "label", "options"), METHODS)
def test_methods_of_ufuncs(ufunc: str, method: str, label: str, options: dict[str, Any]) -> None:
    (x,), f = ARRAYS[label], getattr(getattr(np, ufunc), method)
    if x.ndim == 1 and options.get("axis") == 1:
        return
    want = f(x, **options)
    agree(f(tp.constant(x), **options), want, 32)
    with tp.config(disable_jit=True):
        agree(tp.tape_function(lambda x: f(x, **options))(x), want, 32)


def test_outer_and_other_methods() -> None:
    x, y = tp.constant([1.0, 2.0]), tp.constant([[3.0], [4.0]])
    agree(np.hypot.outer(x, y), np.hypot.outer(x.numpy(), y.numpy()), 8)
    agree(np.maximum.reduce(x, where=[True, False], initial=0), np.float32(1), 1)
    with pytest.raises(ValueError, match="initial="):
        np.hypot.reduce(np.fmax.outer(x, x), axis=5) if False else np.fmax.reduce(x[:0])


def test_options_that_ask_for_the_impossible() -> None:
    x = tp.constant([1.0, 2.0])
    for call in (lambda: np.exp(x, out=np.empty(2)), lambda: np.sum(x, out=np.empty(())), lambda: tp.mean(x, out=x)):
        with pytest.raises(TypeError, match=r"(?s)test_calculation.py.*out=|out=.*test_calculation.py"):
            call()
    with pytest.raises(TypeError, match=r"np.exp at .*test_calculation.py.*where.*tp.where"):
        np.exp(x, where=[True, False])


def test_methods_of_tensors() -> None:
    (x,) = ARRAYS["matrix"]
    t = tp.constant(x)
    for name in ("sum", "prod", "mean", "var", "std", "max", "min", "cumsum", "cumprod", "argmax", "argmin"):
        agree(getattr(t, name)(axis=1), getattr(x, name)(axis=1), 32)
    agree(t.sum(0, np.float64, None, keepdims=True), x.sum(0, np.float64, None, True), 32)
    agree(t.std(1, ddof=1, where=x > -5), x.std(1, ddof=1, where=x > -5), 32)
    agree(t.max(1, initial=0.0), x.max(1, initial=0.0), 4)
    agree(t.round(1), x.round(1), 4)
    agree(t.conj(), x.conj(), 1)
    agree(t.real, x.real, 1)
    agree(t.imag, x.imag, 1)
    (i,) = ARRAYS["int"]
    agree(tp.constant(i) << 2, i << 2, 1)
    agree(100 >> tp.constant(np.abs(i)), 100 >> np.abs(i), 1)
    agree(divmod(tp.constant(i), 3), divmod(i, 3), 1)


CONVENTIONS = {  # name -> (function, points, derivatives): at ties, kinks and poles
    "hypot": (lambda x: tp.hypot(x, 0.0), [-2.0, 3.0], [-1.0, 1.0]),
    "cbrt": (tp.cbrt, [8.0], [1 / 12]),
    "logaddexp": (lambda x: tp.logaddexp(x, 1.0), [1.0, -np.inf, np.inf], [0.5, 0.0, 1.0]),
    "logaddexp2": (lambda x: tp.logaddexp2(x, 1.0), [1.0, -np.inf], [0.5, 0.0]),
    "logaddexp of infinities": (lambda x: tp.logaddexp(x, -np.inf), [-np.inf], [0.5]),
    "fmax": (lambda x: tp.fmax(x, 1.0), [1.0, 0.0, 2.0], [1.0, 0.0, 1.0]),
    "fmax of nan": (lambda x: tp.fmax(np.nan, x), [1.0], [1.0]),
    "sinc": (tp.sinc, [0.0, 1.0], [0.0, -1.0]),
    "arcsinh": (tp.arcsinh, [0.0, 1e200], [1.0, 1e-200]),
    "copysign": (lambda x: tp.copysign(x, -1.0), [2.0, -2.0], [-1.0, 1.0]),
    "heaviside": (lambda x: tp.heaviside(np.array([0.0, 1.0]), x), [5.0, 5.0], [1.0, 0.0]),
    "nan_to_num": (tp.nan_to_num, [np.nan, 1.0, np.inf], [0.0, 1.0, 0.0]),
    "clip": (lambda x: tp.clip(x, 0, 1), [-1.0, 0.0, 0.5, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0, 0.0]),
    "cumprod with a zero": (tp.cumprod, [2.0, 0.0, 3.0], [1.0, 8.0, 0.0]),
    "median": (tp.median, [3.0, 1.0, 2.0, 9.0], [0.5, 0.0, 0.5, 0.0]),
    "nanmax": (tp.nanmax, [1.0, np.nan, 1.0], [0.5, 0.0, 0.5]),
    "nanmean": (tp.nanmean, [1.0, np.nan, 1.0], [0.5, 0.0, 0.5]),
}


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_conventions(name: str, wrap: Any) -> None:
    function, points, slopes = CONVENTIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = wrap(tp.grad(lambda x: tp.sum(function(x))))(np.array(points))
    np.testing.assert_allclose(np.asarray(got), slopes, rtol=1e-14, atol=1e-300)


def test_second_derivative_of_sinc_at_zero() -> None:
    second = tp.grad(tp.grad(tp.sinc))(np.float64(0.0))
    np.testing.assert_allclose(second.item(), -(np.pi**2) / 3, rtol=1e-14)


SYMBOLIC = {  # functions along an axis whose extent is known at run time only
    "mean": lambda m, x: m.mean(x, 0),
    "var": lambda m, x: m.var(x, 0, ddof=1),
    "median": lambda m, x: m.median(x, 0),
    "quantile": lambda m, x: m.quantile(x, 0.3, axis=0),
    "nanmean": lambda m, x: m.nanmean(x, 0),
    "average": lambda m, x: m.average(x, 0),
    "cov": lambda m, x: m.cov(x, rowvar=False),
    "cumprod": lambda m, x: m.cumprod(x, 0),
    "diff": lambda m, x: m.diff(x, axis=0),
    "gradient": lambda m, x: m.gradient(x, axis=0),
    "trapezoid": lambda m, x: m.trapezoid(x, axis=0),
    "unwrap": lambda m, x: m.unwrap(x * 5, axis=0),
    "logaddexp.reduce": lambda m, x: np.logaddexp.reduce(x),
    "maximum.accumulate": lambda m, x: np.maximum.accumulate(x),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_extents(name: str) -> None:
    """One trace for all sizes, with gradients."""
    f = SYMBOLIC[name]

    def both(x: Any) -> tuple[Any, Any]:
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = f(tp, x)
            total = tp.sum(y * y)
        return y, tape.gradient(total, x)

    traced = tp.tape_function(both, input_signature=[tp.TensorSpec((None, 2), np.float64)])
    with tp.config(disable_jit=True):
        for n in (3, 6):
            x = np.random.default_rng(n).standard_normal((n, 2))
            got, slope = traced(x)
            agree(got, f(np, x), 64)
            np.testing.assert_allclose(slope, both(tp.constant(x))[1], rtol=1e-9, atol=1e-12)
    assert traced.trace_count == 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["cbrt", "arcsinh", "arctanh", "fmod", "copysign", "nextafter", "hypot", "modf"])
def test_compiled_values_at_all_magnitudes(name: str, dtype: str) -> None:
    """Within 4 ulp of NumPy's, with the signs of zeros."""
    x = np.array([0.0, -0.0, 1.0, -1.0, 3e-30, -7e30, 0.5, -2.5, 1e-5, np.inf, -np.inf, np.nan], dtype)
    xs = [g.ravel().copy() for g in np.meshgrid(x, x)] if getattr(getattr(np, name), "nin", 1) == 2 else [x]
    with np.errstate(all="ignore"):
        want = getattr(np, name)(*xs)
    got = tp.tape_function(getattr(tp, name))(*xs)
    for a, b in zip(leaves(got), leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=4 * np.finfo(dtype).eps, atol=0)
        np.testing.assert_array_equal(np.signbit(a)[~np.isnan(b)], np.signbit(b)[~np.isnan(b)])
