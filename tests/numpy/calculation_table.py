"""Calls of elementwise functions and reductions, as a table that tests and docs read.

A row is one way to call one function, `call(m, *xs)` with `m` NumPy or tapefuse, on each of some groups of arrays.
Where NumPy raises, tapefuse has to raise an exception of that type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.numpy.oracle import result_of

RNG = np.random.default_rng(7)
NAN, INF = np.nan, np.inf


def generic(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape)


ARRAYS: dict[str, tuple[np.ndarray, ...]] = {
    # one operand
    "0-d": (np.array(0.7),),
    "matrix": (generic(3, 4),),
    "cube": (generic(2, 3, 2),),
    "f32": (generic(4, 3).astype(np.float32),),
    "unit": (generic(3, 4, low=-0.95, high=0.95),),
    "positive": (generic(3, 4, low=0.1, high=5.0),),
    "positive f32": (generic(7, low=0.1, high=5.0).astype(np.float32),),
    "above 1": (generic(5, low=1.1, high=9.0),),
    "large": (np.array([1e10, -1e10, 1e150, -3e200, 1e300]),),
    "small": (np.array([1e-10, -1e-10, 1e-160, -3e-300]),),
    "int": (np.array([[3, -2, 0, 3], [5, 7, -9, 1]], np.int32),),
    "long": (np.array([3, -2, 0, 2**40, -(2**50)]),),
    "byte": (np.array([200, 3, 0, 255], np.uint8),),
    "bool": (np.array([True, False, True, True]),),
    "one": (np.full((1, 1), 1.5),),
    "empty": (np.ones((0, 3)),),
    "special": (np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5]),),
    "gaps": (np.array([[1.0, NAN, 3.0, -2.0], [NAN, NAN, 0.5, 4.0], [1.0, 2.0, 3.0, 4.0]]),),
    "ties": (np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),),
    # two operands
    "matrices": (generic(3, 4), generic(3, 4)),
    "row": (generic(3, 4), generic(4)),
    "column": (generic(3, 1), generic(1, 4)),
    "number": (generic(3), np.array(0.7)),
    "f32s": (generic(4).astype(np.float32), generic(4).astype(np.float32)),
    "mixed": (generic(4).astype(np.float32), np.array([3, 1, -2, 5], np.int32)),
    "ints": (np.array([[7, -7, 8, -8], [0, 5, -5, 3]], np.int32), np.array([3, 3, -3, 2], np.int32)),
    "longs": (np.array([7, -7, 1 << 40, 12]), np.array([2, -3, 6, 18])),
    "bytes": (np.array([200, 3, 7, 255], np.uint8), np.array([3, 200, 2, 1], np.uint8)),
    "bools": (np.array([True, False, True, False]), np.array([True, True, False, False])),
    "empties": (np.ones((0, 3)), np.ones(3)),
    "misfits": (np.ones(3), np.ones(4)),
    "specials": (
        np.repeat([NAN, INF, -INF, 0.0, -0.0, 1.0, -2.5], 7),
        np.tile([NAN, INF, -INF, 0.0, -0.0, 1.0, -2.5], 7),
    ),
}
UNARY = ("0-d", "matrix", "f32", "one", "empty", "special")
INTEGERS = ("int", "long", "byte")
BINARY = ("matrices", "row", "column", "number", "f32s", "mixed", "empties", "misfits", "specials")
SOLID = ("0-d", "matrix", "cube", "f32", "int", "byte", "bool", "one", "ties")
REDUCED = (*SOLID, "empty", "special")


class Case(NamedTuple):
    name: str
    number: int
    label: str
    call: Callable[..., Any]
    smooth: bool  # the result has a derivative
    traced: bool  # it can be traced; otherwise a trace is an error that names the function
    ulp: float  # by how many units in the last place it may differ from NumPy's, times sqrt(n) in sums

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return ARRAYS[self.label]

    def wanted(self) -> Any:
        """NumPy's result, or the exception that it raises."""
        return result_of(self.call, np, *self.arrays)

    def __str__(self) -> str:
        return f"{self.name}-{self.number}-{self.label}"


CASES: list[Case] = []
_count: dict[str, int] = {}


def row(
    name: str,
    labels: Sequence[str],
    call: Callable[..., Any] | None = None,
    *,
    smooth: bool = True,
    traced: bool = True,
    ulp: float = 4,
) -> None:
    number = _count[name] = _count.get(name, 0) + 1
    plain = call or (lambda m, *xs, f=name: getattr(m, f)(*xs))
    CASES.extend(Case(name, number, label, plain, smooth, traced, ulp) for label in labels)


def steps(name: str, labels: Sequence[str], call: Callable[..., Any] | None = None, **options: Any) -> None:
    """A function without a derivative."""
    row(name, labels, call, smooth=False, **options)


# -- elementwise functions of one operand -----------------------------------------------------------------------------

for _name in [
    "absolute",
    "abs",
    "cbrt",
    "exp",
    "exp2",
    "expm1",
    "sin",
    "cos",
    "tanh",
    "sinh",
    "cosh",
    "arctan",
    "arcsinh",
    "square",
    "positive",
    "negative",
    "sinc",
    "deg2rad",
    "rad2deg",
    "degrees",
    "radians",
    "fabs",
]:
    row(_name, (*UNARY, *INTEGERS), ulp=8 if _name == "sinc" else 4)
row("i0", ("0-d", "matrix", "f32", "one", "empty", *INTEGERS), ulp=8)
row("tan", ("0-d", "matrix", "f32", "one", "empty"), ulp=8)
for _name in ("arcsin", "arccos", "arctanh"):
    row(_name, ("unit", "special", "empty"), ulp=8)
for _name in ("log", "log2", "log10", "log1p", "sqrt", "reciprocal"):
    row(_name, ("positive", "positive f32", "special", "empty", "byte"))
row("arccosh", ("above 1", "special", "large"), ulp=8)
row("arcsinh", ("large", "small"))
row("cbrt", ("large", "small"))
row("sinc", ("small",))
for _name in [
    "floor",
    "ceil",
    "trunc",
    "rint",
    "fix",
    "sign",
    "signbit",
    "isnan",
    "isinf",
    "isfinite",
    "isposinf",
    "isneginf",
    "spacing",
    "logical_not",
]:
    steps(_name, (*UNARY, *INTEGERS))
for _name in ("logical_not", "isnan", "isfinite", "invert", "bitwise_count", "absolute", "bitwise_not"):
    steps(_name, ("bool", *INTEGERS))
steps("spacing", ("large", "small"))
steps("round", (*UNARY, *INTEGERS))
steps("round", ("matrix", "f32", "special", "int"), lambda m, x: m.round(x, 2))
steps("around", ("matrix", "int"), lambda m, x: m.around(x, decimals=-1))
row("modf", UNARY, lambda m, x: m.modf(x)[0])
steps("modf", UNARY, lambda m, x: m.modf(x)[1])
row("frexp", (*UNARY, "large", "small"), lambda m, x: m.frexp(x)[0])
steps("frexp", (*UNARY, "large", "small"), lambda m, x: m.frexp(x)[1])
row("ldexp", (*UNARY, "large"), lambda m, x: m.ldexp(x, 3))
row("ldexp", ("small",), lambda m, x: m.ldexp(x, np.array([-1000, 40, -541, -60])))
row("nan_to_num", (*UNARY, "int"))
row("nan_to_num", ("special",), lambda m, x: m.nan_to_num(x, nan=7, posinf=8.0, neginf=-9.0))
row("real", UNARY)
row("conj", UNARY)
row("conjugate", UNARY)
steps("imag", UNARY)
steps("angle", (*UNARY, "int"))
steps("angle", ("matrix",), lambda m, x: m.angle(x, deg=True))
steps("isreal", (*UNARY, "int", "bool"))
steps("iscomplex", (*UNARY, "int"))
row("real_if_close", ("matrix", "int"))
row("clip", ("matrix", "f32", "int", "special"), lambda m, x: m.clip(x, -1, 1))
row("clip", ("matrix", "int"), lambda m, x: m.clip(x, None, 1))
row("clip", ("matrix",), lambda m, x: m.clip(x, a_min=-0.5, a_max=None))
row("clip", ("matrix",), lambda m, x: m.clip(x, min=-0.5, max=0.5))
row("clip", ("matrix",), lambda m, x: m.clip(x, None, None))
row("unwrap", ("matrix", "cube", "f32"), lambda m, x: m.unwrap(x * 5, axis=0))
row("unwrap", ("matrix", "int"), lambda m, x: m.unwrap(x * 5, period=4))
row("unwrap", ("matrix",), lambda m, x: m.unwrap(x * 5, discont=4.0))

# -- of two operands --------------------------------------------------------------------------------------------------

for _name in [
    "add",
    "subtract",
    "multiply",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "hypot",
    "logaddexp",
    "logaddexp2",
    "arctan2",
    "copysign",
]:
    row(_name, (*BINARY, "ints"), ulp=8)
row("divide", ("matrices", "row", "f32s", "ints", "specials"))
row("true_divide", ("matrices",))
for _name in ("fmod", "mod", "remainder"):
    row(_name, ("matrices", "row", "f32s", "ints", "bytes", "longs", "specials"), ulp=64)
steps("floor_divide", ("matrices", "row", "f32s", "ints", "bytes", "longs", "specials"))
row("divmod", ("matrices", "ints"), lambda m, x, y: m.divmod(x, y)[1], ulp=64)
steps("divmod", ("matrices", "ints"), lambda m, x, y: m.divmod(x, y)[0])
row("power", ("ints", "bytes"), lambda m, x, y: m.power(x, y % 4))
row("power", ("matrices", "f32s"), lambda m, x, y: m.power(x * x + 0.5, y), ulp=8)
row("float_power", ("matrices", "f32s", "ints"), lambda m, x, y: m.float_power(x * x + 0.5, y), ulp=8)
row("heaviside", BINARY)
steps("nextafter", (*BINARY, "ints"))
for _name in [
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
]:
    steps(_name, (*BINARY, "ints", "bools"))
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    steps(_name, ("ints", "bytes", "longs", "bools", "matrices"))
for _name in ("left_shift", "right_shift", "bitwise_left_shift", "bitwise_right_shift"):
    steps(_name, ("bytes",))
    steps(_name, ("ints", "longs"), lambda m, x, y, f=_name: getattr(m, f)(x, np.array([1, 0, 40, 70])))
for _name in ("gcd", "lcm"):
    steps(_name, ("ints", "longs", "bytes", "matrices"))
steps("isclose", (*BINARY, "ints"))
steps("isclose", ("specials",), lambda m, x, y: m.isclose(x, y, equal_nan=True))
steps("isclose", ("matrices",), lambda m, x, y: m.isclose(x, x + y * 1e-3, rtol=1e-3, atol=1e-4))
steps("allclose", ("matrices",), lambda m, x, y: m.allclose(x, x + 1e-12))
steps("allclose", ("matrices", "specials"), traced=True)
steps("array_equal", ("matrices", "row", "ints"))
steps("array_equal", ("special",), lambda m, x: m.array_equal(x, x, equal_nan=True))
steps("array_equiv", ("matrices", "row", "misfits"))
steps("array_equiv", ("matrix",), lambda m, x: m.array_equiv(x, x[None]))
row("where", ("matrices", "row", "ints", "mixed"), lambda m, x, y: m.where(x > 0, x, y))
row("add", ("matrices", "ints"), lambda m, x, y: m.add(x, y, dtype=np.float64))
row("exp", ("f32", "int"), lambda m, x: m.exp(x, dtype=np.float64))
row("add", ("matrices",), lambda m, x, y: m.add(x, y, dtype=np.int32))

# -- reductions -------------------------------------------------------------------------------------------------------

_MASK = np.array([[True, False, True, True], [False, True, True, False], [True, True, True, True]])
for _name in ("sum", "prod", "mean", "max", "min", "amax", "amin", "ptp", "var", "std", "nansum", "nanprod"):
    _labels = [k for k in REDUCED if not (k == "bool" and _name in ("ptp", "var", "std"))]
    for _options in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, -1)}, {"axis": ()}, {"axis": 5}):
        if _options.get("axis") != () or _name not in ("var", "std", "ptp"):
            row(_name, _labels, lambda m, x, f=_name, o=_options: getattr(m, f)(x, **o), ulp=32)
for _name in ("any", "all", "count_nonzero"):
    for _options in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": 5}):
        steps(_name, REDUCED, lambda m, x, f=_name, o=_options: getattr(m, f)(x, **o))
for _name in ("any", "all"):
    steps(_name, ("matrix", "gaps"), lambda m, x, f=_name: getattr(m, f)(x > 0, axis=1, where=_MASK))
for _name in ("sum", "prod", "mean", "var", "std"):
    row(_name, ("matrix", "gaps"), lambda m, x, f=_name: getattr(m, f)(x, where=_MASK), ulp=32)
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, axis=1, keepdims=True, where=_MASK[0]), ulp=32)
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, where=np.ones(7, bool)))
    row(_name, ("f32", "int"), lambda m, x, f=_name: getattr(m, f)(x, axis=0, dtype=np.float64), ulp=32)
for _name in ("sum", "prod", "max", "min"):
    row(_name, ("matrix", "empty", "int"), lambda m, x, f=_name: getattr(m, f)(x, axis=0, initial=1), ulp=32)
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, initial=0.5, where=_MASK), ulp=32)
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, nonsense=1))
for _name in ("max", "min"):
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, where=_MASK))
for _name in ("var", "std"):
    row(_name, ("matrix", "int"), lambda m, x, f=_name: getattr(m, f)(x, axis=0, ddof=1), ulp=32)
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, axis=0, correction=1), ulp=32)
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, axis=0, ddof=1, correction=1))
    row(_name, ("matrix",), lambda m, x, f=_name: getattr(m, f)(x, 0, mean=m.mean(x, 0, keepdims=True)), ulp=32)
for _name in ("argmax", "argmin", "nanargmax", "nanargmin"):
    for _options in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": 5}):
        steps(_name, SOLID, lambda m, x, f=_name, o=_options: getattr(m, f)(x, **o))
for _name in ("nansum", "nanprod", "nanmean", "nanvar", "nanstd", "nanmax", "nanmin", "nanmedian"):
    for _options in ({}, {"axis": 0}, {"axis": 1, "keepdims": True}):
        row(_name, ("gaps", "matrix", "int"), lambda m, x, f=_name, o=_options: getattr(m, f)(x, **o), ulp=32)
for _name in ("nanargmax", "nanargmin"):
    steps(_name, ("gaps",), lambda m, x, f=_name: getattr(m, f)(x, axis=1))
    steps(_name, ("gaps",), lambda m, x, f=_name: getattr(m, f)(x * NAN, axis=1), traced=False)
for _name in ("nanvar", "nanstd"):
    row(_name, ("gaps",), lambda m, x, f=_name: getattr(m, f)(x, axis=0, ddof=1), ulp=32)
    row(_name, ("gaps",), lambda m, x, f=_name: getattr(m, f)(x, axis=0, ddof=2), ulp=32)
row("average", ("matrix", "int"), ulp=32)
row("average", ("matrix", "int", "f32"), lambda m, x: m.average(x, axis=0, weights=np.arange(x.shape[0]) + 1.0), ulp=32)
row("average", ("matrix",), lambda m, x: m.average(x, 1, weights=_MASK + 0.5, returned=True)[1])
row("average", ("matrix",), lambda m, x: m.average(x, weights=np.ones(3)))
row("average", ("matrix",), lambda m, x: m.average(x, axis=0, returned=True)[1])

# -- along an axis ----------------------------------------------------------------------------------------------------

for _name in ("cumsum", "cumprod", "nancumsum", "nancumprod"):
    for _options in ({}, {"axis": 0}, {"axis": -1}, {"axis": 5}):
        row(_name, (*SOLID, "empty", "gaps"), lambda m, x, f=_name, o=_options: getattr(m, f)(x, **o), ulp=32)
    row(_name, ("f32", "int"), lambda m, x, f=_name: getattr(m, f)(x, axis=0, dtype=np.float64), ulp=32)
for _name in ("cumulative_sum", "cumulative_prod"):
    row(_name, ("matrix", "int"), lambda m, x, f=_name: getattr(m, f)(x, axis=1, include_initial=True), ulp=32)
    row(_name, ("matrix", "bool"), lambda m, x, f=_name: getattr(m, f)(x), ulp=32)
row("diff", ("matrix", "int", "bool", "cube", "0-d", "byte"))
row("diff", ("matrix", "cube"), lambda m, x: m.diff(x, n=2, axis=0))
row("diff", ("matrix",), lambda m, x: m.diff(x, prepend=0.0, append=np.ones((3, 2))))
row("diff", ("matrix",), lambda m, x: m.diff(x, -1))
row("ediff1d", ("matrix", "int", "empty"))
row("ediff1d", ("matrix", "int"), lambda m, x: m.ediff1d(x, to_end=[9, 8], to_begin=7))
row("ediff1d", ("int",), lambda m, x: m.ediff1d(x, to_end=0.5))
row("gradient", ("positive f32", "above 1"), ulp=32)
row("gradient", ("matrix", "cube", "int"), lambda m, x: m.gradient(x, 0.5, axis=0), ulp=32)
row("gradient", ("matrix",), lambda m, x: m.gradient(x, 2.0, np.array([0.0, 1.0, 3.0, 4.5]))[1], ulp=64)
row("gradient", ("matrix",), lambda m, x: m.gradient(x, np.array([0.0, 1.0, 3.0]), axis=0, edge_order=2), ulp=64)
row("gradient", ("matrix",), lambda m, x: m.gradient(x, axis=1, edge_order=2), ulp=32)
row("gradient", ("matrix",), lambda m, x: m.gradient(x, 1.0, 2.0, 3.0))
row("gradient", ("one",))
row("trapezoid", ("matrix", "cube", "int"), ulp=32)
row("trapezoid", ("matrix",), lambda m, x: m.trapezoid(x, x=np.array([0.0, 1.0, 1.5]), axis=0), ulp=32)
row("trapezoid", ("matrix",), lambda m, x: m.trapezoid(x, dx=0.25), ulp=32)

# -- order statistics, correlations, histograms -----------------------------------------------------------------------

for _options in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 1)}, {"axis": 5}):
    row("median", ("matrix", "f32", "int", "cube", "gaps", "one"), lambda m, x, o=_options: m.median(x, **o), ulp=8)
_METHODS = [
    "linear",
    "lower",
    "higher",
    "nearest",
    "midpoint",
    "inverted_cdf",
    "averaged_inverted_cdf",
    "closest_observation",
    "interpolated_inverted_cdf",
    "hazen",
    "weibull",
    "median_unbiased",
    "normal_unbiased",
    "nonsense",
]
for _method in _METHODS:
    row("quantile", ("matrix",), lambda m, x, k=_method: m.quantile(x, 0.3, axis=1, method=k), ulp=64)
    row("quantile", ("cube",), lambda m, x, k=_method: m.quantile(x, [0.0, 0.25, 0.5, 1.0], method=k), ulp=64)
row("quantile", ("matrix", "f32", "gaps", "int"), lambda m, x: m.quantile(x, [0.1, 0.7], axis=0, keepdims=True), ulp=64)
row("quantile", ("matrix",), lambda m, x: m.quantile(x, 1.5))
row("percentile", ("matrix", "f32"), lambda m, x: m.percentile(x, 30), ulp=64)
row("percentile", ("matrix",), lambda m, x: m.percentile(x, [10, 90], axis=-1), ulp=64)
row("percentile", ("matrix",), lambda m, x: m.percentile(x, 101))
for _name in ("quantile", "nanquantile"):
    _weighted = lambda m, x, f=_name, **options: getattr(m, f)(x, **{"method": "inverted_cdf", "q": 0.4, **options})
    for _label in ("matrix", "gaps", "int", "special", "ties"):
        _x = ARRAYS[_label][0]
        _w = np.abs(np.sin(np.arange(_x.size) + 0.5)).reshape(_x.shape) * (np.arange(_x.size).reshape(_x.shape) % 3 > 0)
        row(_name, (_label,), lambda m, x, g=_weighted, w=_w: g(m, x, weights=w))
        row(_name, (_label,), lambda m, x, g=_weighted, w=_w: g(m, x, q=[0.0, 0.5, 1.0], axis=-1, weights=w))
        if _name == "quantile":  # NumPy's nanquantile fails with weights for an axis
            row(_name, (_label,), lambda m, x, g=_weighted, n=_x.shape[-1]: g(m, x, axis=-1, weights=np.arange(n) + 1))
    row(_name, ("matrix",), lambda m, x, g=_weighted: g(m, x, axis=(0, 1), keepdims=True, weights=m.ones_like(x)))
    row(_name, ("matrix",), lambda m, x, g=_weighted: g(m, x, weights=np.ones(4)))
    row(_name, ("matrix",), lambda m, x, g=_weighted: g(m, x, axis=0, weights=np.ones(4)))
    row(_name, ("matrix",), lambda m, x, g=_weighted: g(m, x, axis=1, weights=-np.ones(4)))
    row(_name, ("matrix",), lambda m, x, g=_weighted: g(m, x, axis=1, weights=np.zeros(4)), traced=False)
    row(_name, ("matrix",), lambda m, x, g=_weighted: g(m, x, weights=m.ones_like(x), method="linear"))
for _name in ("percentile", "nanpercentile"):
    row(_name, ("matrix", "gaps"), lambda m, x, f=_name: getattr(m, f)(
        x, [10, 60], 0, method="inverted_cdf", weights=np.outer([1.0, 0.5, 2.0], np.ones(4))))  # fmt: skip
row("nanquantile", ("gaps", "matrix"), lambda m, x: m.nanquantile(x, 0.4, axis=1), ulp=64)
row("nanpercentile", ("gaps", "matrix"), lambda m, x: m.nanpercentile(x, [10, 60], axis=0), ulp=64)
row("cov", ("matrix", "int"), ulp=64)
row("cov", ("matrix",), lambda m, x: m.cov(x, rowvar=False, bias=True), ulp=64)
row("cov", ("matrices",), lambda m, x, y: m.cov(x, y, ddof=0), ulp=64)
row("cov", ("matrix",), lambda m, x: m.cov(x, fweights=[1, 2, 1, 3], aweights=[0.5, 1.0, 2.0, 1.0]), ulp=64)
row("cov", ("cube",))
row("corrcoef", ("matrix",), ulp=64)
row("corrcoef", ("above 1",), ulp=64)
row("histogram", ("matrix", "int"), lambda m, x: m.histogram(x, bins=4)[0], smooth=False, traced=False)
row("histogram", ("matrix",), lambda m, x: m.histogram(x, bins=4, range=(-1, 1))[1], smooth=False, traced=False)
row("histogram_bin_edges", ("matrix",), smooth=False, traced=False)

# -- methods of ufuncs, which NumPy alone spells so -------------------------------------------------------------------

METHODS: list[tuple[str, str, str, dict[str, Any]]] = [
    (ufunc, method, label, options)
    for ufunc, labels in {
        "add": ("matrix", "int", "bool"),
        "multiply": ("matrix", "int"),
        "maximum": ("matrix", "int", "bool"),
        "minimum": ("matrix", "int"),
        "fmax": ("gaps", "matrix"),
        "fmin": ("gaps", "matrix"),
        "logaddexp": ("matrix", "f32"),
        "logaddexp2": ("matrix",),
        "hypot": ("matrix",),
        "logical_and": ("matrix", "bool"),
        "logical_or": ("matrix", "bool"),
        "logical_xor": ("matrix", "bool"),
        "bitwise_and": ("int", "byte"),
        "bitwise_or": ("int", "bool"),
        "bitwise_xor": ("int",),
        "gcd": ("int",),
        "lcm": ("byte",),
    }.items()
    for label in labels
    for method, choices in {
        "reduce": ({}, {"axis": -1, "keepdims": True}, {"axis": None}),
        "accumulate": ({}, {"axis": -1}),
    }.items()
    for options in choices
]
