"""The rest of NumPy's elementwise functions that are not sums and products of others: values written as arithmetic.

Beside NumPy's own result, which is the eager value, compiled code is within 4 ulp (float32 and float64).
"""

# To mypy `select` stays a class after @defop.
# mypy: disable-error-code="call-arg"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Op
from tapefuse.ir.ops.elementwise import add, binary, ceil, div, floor, mul, neg, sigmoid, sqrt, sub, unary
from tapefuse.ir.ops.family import BOOL, binary_sample, dtype_of, elementwise, unary_sample
from tapefuse.ir.ops.logic import and_, eq, lt, select
from tapefuse.ir.ops.scalar import Scalar, lowering, where

# -- values -----------------------------------------------------------------------------------------------------------

_LARGE = 1e9  # from here on 1 + x**2 is x**2, which float32 still holds


def is_negative(x: Scalar) -> Scalar:
    """The sign bit: true of -0 as well."""
    return x.op("bits") < 0


def signed_as(a: Scalar, x: Scalar) -> Scalar:
    """a >= 0 with the sign of x."""
    return where(is_negative(x), -a, a)


def hypot_value(x: Scalar, y: Scalar) -> Scalar:
    """m sqrt(1 + (n / m)**2) with m >= n; infinite if either leg is, even beside nan."""
    a, b = abs(x), abs(y)
    m, n = a.op("maximum", b), a.op("minimum", b)
    ratio = n / where(m.equals(0), 1, m)
    length = m * (1 + ratio * ratio).op("sqrt")
    return where(a.equals(math.inf) | b.equals(math.inf), math.inf, length)


def cbrt_value(x: Scalar) -> Scalar:
    """A power, which is as exact as the exponent 1/3 is, and a step of Newton's method."""
    a = abs(x)
    plain = where(a.equals(0) | a.equals(math.inf), 1, a)
    y = plain ** (1 / 3)
    y = y - (y - plain / (y * y)) * (1 / 3)
    return signed_as(where(a.equals(plain), y, a), x)


def asinh_value(x: Scalar) -> Scalar:
    """log1p(a + a**2 / (1 + sqrt(1 + a**2))); log(2 a) for large a = |x|."""
    a = abs(x)
    large = a > _LARGE
    b = where(large, 1, a)
    square = b * b
    near = (b + square / (1 + (1 + square).op("sqrt"))).op("log1p")
    return signed_as(where(large, a.op("log") + math.log(2), near), x)


def acosh_value(x: Scalar) -> Scalar:
    """log1p(t + sqrt(t (2 + t))), t = x - 1; log(2 x) for large x."""
    large = x > _LARGE
    t = where(large, 1, x) - 1
    near = (t + (t * (2 + t)).op("sqrt")).op("log1p")
    return where(x < 1, math.nan, where(large, x.op("log") + math.log(2), near))


def atanh_value(x: Scalar) -> Scalar:
    a = abs(x)
    return signed_as(0.5 * ((a + a) / (1 - a)).op("log1p"), x)


def logaddexp_value(x: Scalar, y: Scalar) -> Scalar:
    below = (-abs(x - y)).op("exp").op("log1p")
    return where(x.equals(y), x + math.log(2), x.op("maximum", y) + below)


def logaddexp2_value(x: Scalar, y: Scalar) -> Scalar:
    below = (-abs(x - y)).op("exp2").op("log1p") * (1 / math.log(2))
    return where(x.equals(y), x + 1, x.op("maximum", y) + below)


def fmod_value(x: Scalar, y: Scalar) -> Scalar:
    if kind_of(x.dtype) == "f":
        return signed_as(abs(abs(x).op("mod", abs(y))), x)
    rest = x.op("mod", y)
    return where(rest.differs(0) & ((x < 0) ^ (y < 0)), rest - y, rest)


def nextafter_value(x: Scalar, y: Scalar) -> Scalar:
    """The encodings of floats of one sign are in their order."""
    code = x.op("bits")
    away = (x < y) ^ (x < 0)
    moved = (code + where(away, code.constant(1), -1)).op("floating")
    smallest = signed_as(code.constant(1).op("floating"), y)
    moved = where(x.equals(0), smallest, moved)
    return where(x.equals(y), y, where(x.differs(x) | y.differs(y), x + y, moved))


def _shift(name: str, x: Scalar, n: Scalar) -> Scalar:
    """Counts outside of 0 .. width - 1 shift everything out, as in NumPy."""
    width = 8 * x.dtype.itemsize
    inside = n < width
    if x.dtype.kind == "i":
        inside = inside & (n >= 0)
    if name == "shr" and x.dtype.kind == "i":
        return x.op("shr", where(inside, n, width - 1))
    return where(inside, x.op(name, where(inside, n, 0)), 0)


# -- rules ------------------------------------------------------------------------------------------------------------


def _hypot(g: Any, y: Any, leg: Any) -> Any:
    return mul(g, div(leg, y))


def _cbrt(g: Any, y: Any, x: Any) -> Any:
    """g / (3 y**2). At x = 0 the derivative is infinite, but a zero cotangent stays zero."""
    return div(mul(g, 1 / 3), select(and_(eq(g, 0), eq(y, 0)), 1, mul(y, y)))


def _asinh(g: Any, y: Any, x: Any) -> Any:
    """g / sqrt(1 + x**2)."""
    return div(g, sqrt(add(mul(x, x), 1)) if dtype_of(x).kind == "c" else hypot(x, 1))


def _share(g: Any, x: Any, y: Any) -> Any:
    """g e**x / (e**x + e**y): half at a tie, of infinities too."""
    same = eq(x, y)
    return mul(g, sigmoid(select(same, 0, sub(select(same, 0, x), y))))


def _truncated(q: Any) -> Any:
    return select(lt(q, 0), ceil(q), floor(q))


LN2 = math.log(2)

hypot: Op = binary(
    "hypot",
    np.hypot,
    lambda g, y, a, b: _hypot(g, y, a),
    lambda g, y, a, b: _hypot(g, y, b),
    "sqrt(a**2 + b**2) without overflow on the way; its derivatives at (0, 0) are nan.",
    kinds="f",
    at=lowering(hypot_value),
)
cbrt: Op = unary("cbrt", np.cbrt, _cbrt, "Cube root.", low=0.5, at=lowering(cbrt_value))
asinh: Op = unary(
    "asinh", np.arcsinh, _asinh, "Inverse hyperbolic sine.", kinds="fc", at=lowering(asinh_value)
)
acosh: Op = unary(
    "acosh",
    np.arccosh,
    lambda g, y, x: div(g, mul(sqrt(sub(x, 1)), sqrt(add(x, 1)))),
    "Inverse hyperbolic cosine; nan below 1.",
    low=1.5,
    high=3.0,
    kinds="fc",
    at=lowering(acosh_value),
)
atanh: Op = unary(
    "atanh",
    np.arctanh,
    lambda g, y, x: div(g, mul(sub(1, x), add(1, x))),
    "Inverse hyperbolic tangent; nan beyond 1.",
    low=-0.9,
    high=0.9,
    kinds="fc",
    at=lowering(atanh_value),
)
logaddexp: Op = binary(
    "logaddexp",
    np.logaddexp,
    lambda g, y, a, b: _share(g, a, b),
    lambda g, y, a, b: _share(g, b, a),
    "log(e**a + e**b).",
    kinds="f",
    at=lowering(logaddexp_value),
)
logaddexp2: Op = binary(
    "logaddexp2",
    np.logaddexp2,
    lambda g, y, a, b: _share(g, mul(a, LN2), mul(b, LN2)),
    lambda g, y, a, b: _share(g, mul(b, LN2), mul(a, LN2)),
    "log2(2**a + 2**b).",
    kinds="f",
    at=lowering(logaddexp2_value),
)
fmod: Op = binary(
    "fmod",
    np.fmod,
    lambda g, y, a, b: g,
    lambda g, y, a, b: neg(mul(g, _truncated(div(a, b)))),
    "a - b trunc(a / b), with the sign of a; integer a by 0 is 0.",
    low=0.5,
    at=lowering(fmod_value),
)
nextafter: Op = binary(
    "nextafter", np.nextafter, None, None, "The float next to a towards b.", kinds="f", at=lowering(nextafter_value)
)
signbit: Op = elementwise(
    "signbit", np.signbit, (None,), unary_sample(), doc="The sign bit.", result=BOOL, at=lowering(is_negative)
)
shl: Op = elementwise(
    "shl",
    np.left_shift,
    (None, None),
    binary_sample(),
    doc="a 2**b, wrapping; 0 if b < 0 or b is at least the width.",
    kinds="iu",
    at=lowering(lambda x, n: _shift("shl", x, n)),
)
shr: Op = elementwise(
    "shr",
    np.right_shift,
    (None, None),
    binary_sample(),
    doc="a / 2**b rounded down; all sign bits if b < 0 or b is at least the width.",
    kinds="iu",
    at=lowering(lambda x, n: _shift("shr", x, n)),
)
