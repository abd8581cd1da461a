"""Arithmetic and the elementary functions: a table of rows.

A rule is `g` times a partial derivative, written with ops (`y` is the result where that saves work), so that second
derivatives follow from it. Numeric conventions at kinks and poles stand at the row they concern.
"""

# To mypy `select` stays a class after @defop.
# mypy: disable-error-code="call-arg"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Op
from tapefuse.ir.ops.family import Rule, binary_sample, dtype_of, elementwise, unary_sample, zeros_like
from tapefuse.ir.ops.logic import ARITHMETIC, NUMBERS, and_, eq, ge, gt, le, select


def unary(name: str, ref: Any, rule: Rule, doc: str, low: float = -2.0, high: float = 2.0, **row: Any) -> Op:
    return elementwise(name, ref, (rule,), unary_sample(low, high), doc=doc, **row)


def binary(
    name: str, ref: Any, first: Rule, second: Rule, doc: str, low: float = -2, kinds: str = NUMBERS, **row: Any
) -> Op:
    """`low`: the second operand of the samples is at least this."""
    return elementwise(name, ref, (first, second), binary_sample(second=(low, 2)), doc=doc, kinds=kinds, **row)


# -- NumPy meanings that are not one ufunc ----------------------------------------------------------------------------


def _erf(x):
    x = np.asarray(x)
    return np.fromiter(map(math.erf, x.ravel().tolist()), x.dtype, x.size).reshape(x.shape)


def _erfc(x):
    x = np.asarray(x)
    return np.fromiter(map(math.erfc, x.ravel().tolist()), x.dtype, x.size).reshape(x.shape)


def _sigmoid(x):
    e = np.exp(-np.abs(x))  # in (0, 1]: neither branch overflows
    return np.where(np.greater_equal(x, 0), 1, e) / (1 + e)


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _rounding(name: str, ufunc: np.ufunc, doc: str) -> Op:
    """A unary op without derivative that leaves integers as they are."""

    def ref(x: Any) -> Any:
        x = np.asarray(x)
        return ufunc(x) if kind_of(x.dtype) == "f" else x

    def at(b: Any, dtype: np.dtype, x: Any) -> Any:
        return b.op(name, x) if kind_of(dtype) == "f" else x

    return unary(name, ref, None, doc, kinds=NUMBERS, at=at)


def _relu_at(b: Any, dtype: np.dtype, x: Any) -> Any:
    zero = b.number(0, dtype)
    return b.op("select", b.op("le", x, zero), zero, x)  # not gt(x, 0): nan stays


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _div_below(g, y, a, b):
    """-g a / b**2: the quotient g / b is the derivative by a."""
    return neg(mul(div(g, b), y))


def _mod_below(g, y, a, b):
    """-g floor(a / b)."""
    return neg(mul(g, floordiv(a, b)))


add: Op = binary("add", np.add, lambda g, y, a, b: g, lambda g, y, a, b: g, "a + b.", kinds=ARITHMETIC)
sub: Op = binary("sub", np.subtract, lambda g, y, a, b: g, lambda g, y, a, b: neg(g), "a - b.", kinds=ARITHMETIC)
mul: Op = binary(
    "mul", np.multiply, lambda g, y, a, b: mul(g, b), lambda g, y, a, b: mul(g, a), "a b.", kinds=ARITHMETIC
)
div: Op = binary("div", np.divide, lambda g, y, a, b: div(g, b), _div_below, "a / b of floats.", low=0.5, kinds="fc")
floordiv: Op = binary("floordiv", np.floor_divide, None, None, "a / b rounded down; integer a // 0 is 0.", low=0.5)
mod: Op = binary(
    "mod", np.remainder, lambda g, y, a, b: g, _mod_below, "a - b floor(a / b); integer a % 0 is 0.", low=0.5
)
neg: Op = unary("neg", np.negative, lambda g, y, x: neg(g), "-x; unsigned integers wrap.", kinds=ARITHMETIC)
abs: Op = unary("abs", np.abs, lambda g, y, x: mul(g, sign(x)), "|x|, with derivative 0 at 0.", kinds=NUMBERS)
sign: Op = unary("sign", np.sign, lambda g, y, x: zeros_like(g), "-1, 0 or 1; nan for nan.", kinds=NUMBERS)
maximum: Op = binary(
    "maximum",
    np.maximum,
    lambda g, y, a, b: select(ge(a, b), g, 0),
    lambda g, y, a, b: select(ge(a, b), 0, g),
    "The larger of a and b, nan if either is; at a tie all of the gradient goes to a.",
)
minimum: Op = binary(
    "minimum",
    np.minimum,
    lambda g, y, a, b: select(le(a, b), g, 0),
    lambda g, y, a, b: select(le(a, b), 0, g),
    "The smaller of a and b, nan if either is; at a tie all of the gradient goes to a.",
)
relu: Op = unary(
    "relu",
    lambda x: np.maximum(x, 0),
    lambda g, y, x: select(gt(y, 0), g, 0),
    "max(x, 0), with derivative 0 at 0; nan stays nan.",
    kinds=NUMBERS,
    at=_relu_at,
)
floor: Op = _rounding("floor", np.floor, "Round down.")
ceil: Op = _rounding("ceil", np.ceil, "Round up.")
round: Op = _rounding("round", np.rint, "Round to the nearest integer, halves to the even one.")

# -- powers -----------------------------------------------------------------------------------------------------------


def _pow_base(g, y, a, p):
    """g p a**(p-1), with 0 for p = 0 also at the pole a = 0."""
    return mul(g, mul(p, pow(a, select(and_(eq(a, 0), eq(p, 0)), 0, sub(p, 1)))))


def _pow_exponent(g, y, a, p):
    """g y log(a), with 0 where a is a number <= 0 and the logarithm is not real; of complex numbers at 0 alone."""
    outside = eq(a, 0) if dtype_of(a).kind == "c" else le(a, 0)
    return mul(g, select(outside, 0, mul(y, log(select(outside, 1, a)))))


def _sqrt(g, y, x):
    """g / (2 y). At x = 0 the derivative is infinite, but a zero cotangent stays zero."""
    return div(mul(g, 0.5), select(and_(eq(g, 0), eq(y, 0)), 1, y))


def _other_leg(x):
    """sqrt(1 - x**2), exact near 1."""
    return sqrt(mul(sub(1, x), add(1, x)))


pow: Op = elementwise(
    "pow",
    np.power,
    (_pow_base, _pow_exponent),
    binary_sample((0.5, 2.0), (0.25, 2.0)),
    doc="a ** b; integers take non-negative exponents.",
    kinds=ARITHMETIC,
)
sqrt: Op = unary("sqrt", np.sqrt, _sqrt, "Square root; nan below 0.", low=0.5, kinds="fc")
rsqrt: Op = unary(
    "rsqrt",
    lambda x: np.divide(1, np.sqrt(x)),
    lambda g, y, x: mul(mul(g, -0.5), mul(y, mul(y, y))),
    "1 / sqrt(x).",
    low=0.5,
)

# -- transcendental functions -----------------------------------------------------------------------------------------

exp: Op = unary("exp", np.exp, lambda g, y, x: mul(g, y), "e ** x.", kinds="fc")
expm1: Op = unary("expm1", np.expm1, lambda g, y, x: mul(g, add(y, 1)), "e ** x - 1, exact near 0.", kinds="fc")
log: Op = unary("log", np.log, lambda g, y, x: div(g, x), "Natural logarithm.", low=0.5, kinds="fc")
log1p: Op = unary(
    "log1p", np.log1p, lambda g, y, x: div(g, add(x, 1)), "log(1 + x), exact near 0.", low=-0.5, kinds="fc"
)
sin: Op = unary("sin", np.sin, lambda g, y, x: mul(g, cos(x)), "Sine.", kinds="fc")
cos: Op = unary("cos", np.cos, lambda g, y, x: neg(mul(g, sin(x))), "Cosine.", kinds="fc")
tan: Op = unary("tan", np.tan, lambda g, y, x: mul(g, add(mul(y, y), 1)), "Tangent.", low=-1.0, high=1.0, kinds="fc")
tanh: Op = unary("tanh", np.tanh, lambda g, y, x: mul(g, sub(1, mul(y, y))), "Hyperbolic tangent.", kinds="fc")
erf: Op = unary(
    "erf",
    _erf,
    lambda g, y, x: mul(g, mul(exp(neg(mul(x, x))), 2 / math.sqrt(math.pi))),
    "Error function, 2/sqrt(pi) times the integral of exp(-t t) from 0 to x.",
)
erfc: Op = unary(
    "erfc",
    _erfc,
    lambda g, y, x: mul(g, mul(exp(neg(mul(x, x))), -2 / math.sqrt(math.pi))),
    "1 - erf(x), exact where that is small.",
)
exp2: Op = unary("exp2", np.exp2, lambda g, y, x: mul(g, mul(y, math.log(2))), "2 ** x.", kinds="fc")
log2: Op = unary(
    "log2", np.log2, lambda g, y, x: div(g, mul(x, math.log(2))), "Logarithm to base 2.", low=0.5, kinds="fc"
)
sinh: Op = unary("sinh", np.sinh, lambda g, y, x: mul(g, cosh(x)), "Hyperbolic sine.", kinds="fc")
cosh: Op = unary("cosh", np.cosh, lambda g, y, x: mul(g, sinh(x)), "Hyperbolic cosine.", kinds="fc")
atan: Op = unary("atan", np.arctan, lambda g, y, x: div(g, add(mul(x, x), 1)), "Arc tangent.", kinds="fc")
asin: Op = unary(
    "asin", np.arcsin, lambda g, y, x: div(g, _other_leg(x)), "Arc sine; nan beyond 1.", -0.9, 0.9, kinds="fc"
)
acos: Op = unary(
    "acos", np.arccos, lambda g, y, x: neg(div(g, _other_leg(x))), "Arc cosine; nan beyond 1.", -0.9, 0.9, kinds="fc"
)
atan2: Op = binary(
    "atan2",
    np.arctan2,
    lambda g, y, a, b: div(mul(g, b), add(mul(a, a), mul(b, b))),
    lambda g, y, a, b: neg(div(mul(g, a), add(mul(a, a), mul(b, b)))),
    "The angle of the point (b, a), -pi to pi.",
    low=0.5,
    kinds="f",
)
sigmoid: Op = unary("sigmoid", _sigmoid, lambda g, y, x: mul(g, mul(y, sub(1, y))), "1 / (1 + e ** -x).")
softplus: Op = unary(
    "softplus", _softplus, lambda g, y, x: mul(g, sigmoid(x)), "log(1 + e ** x); never overflows early."
)
