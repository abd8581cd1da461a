"""Calls of functions with complex numbers: `call(m, *arrays)` with `m` NumPy or tapefuse.

Where NumPy raises, tapefuse has to raise an exception of that type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.numpy.oracle import result_of

RNG = np.random.default_rng(5)
NAN, INF = np.nan, np.inf


def generic(*shape: int, dtype: str = "c16") -> np.ndarray:
    return (RNG.uniform(-2, 2, shape) + 1j * RNG.uniform(-2, 2, shape)).astype(dtype)


MATRIX, OTHER, SQUARE = generic(3, 4), generic(3, 4), generic(4, 4)
VECTOR, SINGLE = generic(4), generic(5, dtype="c8")
ODD = np.array([complex(NAN, 1), complex(INF, -INF), 1j, complex(1, NAN), complex(NAN, NAN), complex(NAN, -3), -1j])
TIES = np.array([1 + 1j, 1 - 1j, 1 + 1j, 0.5 + 9j, 1 + 0.5j])


class Case(NamedTuple):
    name: str
    number: int
    call: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]

    def wanted(self) -> Any:
        """NumPy's result, or the exception that it raises."""
        return result_of(self.call, np, *self.arrays)

    def __str__(self) -> str:
        return f"{self.name}-{self.number}"


CASES: list[Case] = []


def row(name: str, *arrays: Any, call: Callable[..., Any] | None = None, **options: Any) -> None:
    default = lambda m, *xs: getattr(m, name)(*xs, **options)
    CASES.append(Case(name, len(CASES), call or default, tuple(np.asarray(a) for a in arrays)))


UNARY = """absolute abs acos acosh arccos arccosh arcsin arcsinh arctan arctanh conj conjugate cos cosh exp exp2 expm1
isfinite isinf isnan log log10 log1p log2 logical_not negative positive reciprocal rint sign sin sinh sqrt square tan
tanh sinc nan_to_num angle real imag isreal iscomplex isrealobj iscomplexobj real_if_close round around sort_complex
ceil deg2rad fabs floor invert isneginf isposinf rad2deg signbit trunc cbrt spacing i0 fix modf frexp"""
for _name in UNARY.split():
    row(_name, MATRIX)
    row(_name, SINGLE)
for _name in ("isfinite", "isinf", "isnan", "nan_to_num", "abs", "sort", "sort_complex", "real", "conj", "max"):
    row(_name, ODD)
row("sign", np.array([complex(INF, 1), complex(-2, -INF), complex(INF, INF), complex(-INF, NAN), complex(NAN, 1), 1j]))
row("sign", np.array([0j, complex(-0.0, -0.0), complex(0.0, -0.0), 1e-320, 1e300 + 1e300j]))
for _name in ("nansum", "nanprod", "nanmean", "nancumsum", "nanvar"):
    row(_name, ODD[np.isfinite(ODD) | np.isnan(ODD)])
SHORTER = """
    sum prod mean var std cumsum cumprod max min argmax argmin ptp any all count_nonzero median average sort argsort
    nanmax nanmin nanmedian amax amin"""
for _name in SHORTER.split():
    row(_name, SINGLE)
    row(_name, MATRIX, axis=0)
    row(_name, TIES)
for _name in ("argmax", "argmin", "max", "min", "argsort"):
    row(_name, ODD[[2, 0, 1, 6]])
row("sum", MATRIX, dtype=np.complex64)
row("sum", MATRIX, call=lambda m, x: m.sum(x, where=m.abs(x) > 1, initial=1j))
row("prod", MATRIX, axis=1, keepdims=True, initial=2)
row("max", MATRIX, call=lambda m, x: m.max(x, axis=1, initial=9, where=m.abs(x) > 1))
row("min", MATRIX, axis=(0, 1), keepdims=True)
BINARY = """
    add subtract multiply divide power float_power maximum minimum fmax fmin equal not_equal less less_equal greater
    greater_equal logical_and logical_or logical_xor isclose allclose array_equal array_equiv floor_divide mod fmod
    remainder hypot arctan2 copysign nextafter logaddexp heaviside gcd bitwise_and left_shift ldexp divmod"""
for _name in BINARY.split():
    row(_name, MATRIX, OTHER)
    row(_name, SINGLE, 2.5)
    row(_name, SINGLE, RNG.standard_normal(5))
    row(_name, RNG.standard_normal(5).astype("f4"), call=lambda m, x, f=_name: getattr(m, f)(x, 1j))
    row(_name, TIES, TIES[::-1])
row("isclose", ODD, ODD, equal_nan=True)
for _name in ("dot", "matmul", "vdot", "inner", "kron", "outer"):
    row(_name, SQUARE, SQUARE)
    row(_name, VECTOR, VECTOR * 1j)
row("vecdot", MATRIX, OTHER)
row("vecmat", VECTOR, SQUARE)
row("matvec", MATRIX, VECTOR)
row("matmul", generic(2, 3, 4), SQUARE)
row("tensordot", MATRIX, OTHER, axes=([0], [0]))
row("cross", generic(2, 3), generic(2, 3))
row("einsum", MATRIX, OTHER, call=lambda m, x, y: m.einsum("ij,kj->ik", x, m.conj(y)))
row("einsum", SQUARE, call=lambda m, x: m.einsum("ii", x))
for _ord in (None, 1, 2, 3, INF, -INF, 0):
    row("norm", SINGLE, call=lambda m, x, k=_ord: np.linalg.norm(x, k))
for _ord in ("fro", 1, INF):
    row("norm", MATRIX, call=lambda m, x, k=_ord: np.linalg.norm(x, k))
row("matrix_power", SQUARE, call=lambda m, x: np.linalg.matrix_power(x, 3))
row("where", MATRIX, OTHER, call=lambda m, x, y: m.where(m.abs(x) > 1, x, y))
row("where", SINGLE, call=lambda m, x: m.where(m.abs(x) > 1, x, 0))
row("concatenate", MATRIX, OTHER, call=lambda m, x, y: m.concatenate([x, y]))
row("concatenate", MATRIX, call=lambda m, x: m.concatenate([x, np.ones((1, 4), "f4")]))
row("stack", MATRIX, OTHER, call=lambda m, x, y: m.stack([x, y], 1))
row("pad", MATRIX, call=lambda m, x: m.pad(x, 1, constant_values=1 + 2j))
row("pad", MATRIX, call=lambda m, x: m.pad(x, 1, mode="reflect"))
row("pad", MATRIX, call=lambda m, x: m.pad(x, 2, mode="linear_ramp", end_values=1j))
row("take", MATRIX, call=lambda m, x: m.take(x, [0, 2], axis=1))
row("clip", SINGLE, call=lambda m, x: m.clip(x, -1, 1))
for _dtype in (np.complex64, bool):
    row("astype", MATRIX, call=lambda m, x, d=_dtype: x.astype(d))
row("zeros_like", MATRIX, call=lambda m, x: m.zeros_like(x) + m.ones_like(x) + m.full_like(x, 1j))
for _name in ("roll", "repeat", "tile"):
    row(_name, SINGLE, call=lambda m, x, f=_name: getattr(m, f)(x, 2))
for _name in ("diff", "gradient", "trapezoid", "flip", "ravel", "unique", "transpose", "cumsum", "ediff1d"):
    row(_name, SINGLE)
row("gradient", MATRIX)
row("polyval", VECTOR, VECTOR)
for _name in ("polyadd", "polysub", "polymul", "polydiv"):
    row(_name, VECTOR, OTHER[0, :2])
    row(_name, SINGLE, np.array([1.5, 2]))
for _name in ("polyder", "polyint"):
    row(_name, VECTOR, call=lambda m, x, f=_name: getattr(m, f)(x, 2))
row("polyint", VECTOR, call=lambda m, x: m.polyint(x, 1, 2j))
row("polyfit", VECTOR, OTHER[:, 0], call=lambda m, x, y: m.polyfit(x[:3], y, 1))
row("poly", VECTOR)
row("poly", SQUARE)
row("roots", VECTOR)
row("roots", SINGLE)
row("convolve", VECTOR, SINGLE)
row("correlate", VECTOR, generic(2))
row("correlate", generic(2), VECTOR, mode="full")
row("interp", VECTOR, call=lambda m, y: m.interp(np.array([0.5, 1.5, 9.0]), np.array([0.0, 1, 2, 3]), y))
row("cov", MATRIX)
row("corrcoef", MATRIX)
row("vander", VECTOR, 3, call=lambda m, x, n: m.vander(x, 3))
row("select", SINGLE, call=lambda m, x: m.select([m.abs(x) > 1], [x], 1j))
row("searchsorted", SINGLE, call=lambda m, x: m.searchsorted(m.sort(x), x))
row("searchsorted", TIES, call=lambda m, x: m.searchsorted(m.sort(x), x, side="right"))
row("linspace", call=lambda m: m.linspace(0, 1 + 1j, 5))
row("linspace", np.array(1j), call=lambda m, x: m.linspace(0.0, x, 5))
row("logspace", call=lambda m: m.logspace(0, 1 + 1j, 5))
row("geomspace", call=lambda m: m.geomspace(1, 1j, 4))
row("bincount", VECTOR, call=lambda m, x: m.bincount(np.array([0, 1, 1, 0]), x))
row("digitize", VECTOR, call=lambda m, x: m.digitize(x, [0.0, 1.0]))
row("quantile", VECTOR, call=lambda m, x: m.quantile(x, 0.5))
for _exponent in (0, 1, 2, 3, -1, -2, 0.5, 7, 1j):
    row("**", SINGLE, call=lambda m, x, p=_exponent: x**p)
row("**", SINGLE, call=lambda m, x: 2**x)
row("+", np.array([1, 2], np.int32), call=lambda m, x: x + 1j)
row("*", np.ones(3, np.float32), call=lambda m, x: x * 1j)
row("-", np.array([True, False]), call=lambda m, x: x - 1j)
row("==", SINGLE, call=lambda m, x: x == 1j)
row("methods", MATRIX, call=lambda m, x: x.real + x.imag * x.conj() - x.conjugate().T.T)
row("reduce", MATRIX, call=lambda m, x: np.add.reduce(x, axis=0))
row("accumulate", SINGLE, call=lambda m, x: np.multiply.accumulate(x))
row("outer", SINGLE, call=lambda m, x: np.add.outer(x, x))
