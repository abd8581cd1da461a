"""Elementary functions of complex numbers, on real and imaginary parts, in operations on real numbers.

    exp_(x, y) == (e**x cos y, e**x sin y)

Each takes and gives pairs of what operations accept: values of the IR, arrays. Sources: W. Kahan, "Branch cuts for
complex elementary functions, or much ado about nothing's sign bit" (1987); C99, Annex G, for infinities, nan and signed
zeros; R. Smith, "Algorithm 116: complex division" (1962). Where intermediate values would overflow before the result
does, they are scaled. Results agree with NumPy's within a few ulp of their absolute value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.ops.family import ones_like, zeros_like

Pair = tuple[Any, Any]

or_, and_ = ops.or_, ops.and_


def _is_wide(x: Any) -> bool:
    return x.dtype.itemsize == 8


def _signed_as(a: Any, x: Any) -> Any:
    """a >= 0 with the sign of x, that of a zero too."""
    return ops.select(ops.signbit(x), ops.neg(a), a)


def _times(a: Any, b: Any) -> Any:
    """a b, and 0 of a zero and what is infinite or nan."""
    y = ops.mul(a, b)
    return ops.select(and_(ops.ne(y, y), or_(ops.eq(a, 0), ops.eq(b, 0))), 0, y)


def _is_infinite(x: Any) -> Any:
    return ops.eq(ops.abs(x), math.inf)


def _is_endless(x: Any, y: Any) -> Any:
    return or_(_is_infinite(x), _is_infinite(y))


def turned(x: Any, y: Any) -> Pair:
    """i z."""
    return ops.neg(y), x


def turned_back(x: Any, y: Any) -> Pair:
    """-i z."""
    return y, ops.neg(x)


def _about(f: Callable[[Any, Any], Pair]) -> Callable[[Any, Any], Pair]:
    """-i f(i z): sin of sinh, atan of atanh."""
    return lambda x, y: turned_back(*f(*turned(x, y)))


# -- arithmetic -------------------------------------------------------------------------------------------------------


def mul_(a: Pair, b: Pair) -> Pair:
    (x, y), (u, v) = a, b
    return ops.sub(ops.mul(x, u), ops.mul(y, v)), ops.add(ops.mul(x, v), ops.mul(y, u))


def div_(a: Pair, b: Pair) -> Pair:
    """Smith's quotient: the divisor's smaller part by its larger one comes first, so that no square overflows."""
    (x, y), (u, v) = a, b
    swap = ops.lt(ops.abs(u), ops.abs(v))
    large, small = ops.select(swap, v, u), ops.select(swap, u, v)
    is_zero = and_(ops.eq(u, 0), ops.eq(v, 0))
    ratio = ops.div(small, ops.select(is_zero, 1, large))
    scale = ops.div(1, ops.add(ops.select(is_zero, ops.abs(u), large), ops.mul(small, ratio)))
    first, second = ops.select(swap, y, x), ops.select(swap, x, y)
    real = ops.mul(ops.add(first, ops.mul(second, ratio)), scale)
    imag = ops.mul(ops.sub(second, ops.mul(first, ratio)), scale)
    return real, ops.select(swap, ops.neg(imag), imag)


def reciprocal(x: Any, y: Any) -> Pair:
    return div_((ones_like(x), zeros_like(x)), (x, y))


def power_by_products(z: Pair, n: int) -> Pair:
    """z**n for a whole n by repeated squaring, as NumPy does for |n| < 100."""
    result, square, left = None, z, abs(n)
    while left:
        if left & 1:
            result = square if result is None else mul_(result, square)
        left >>= 1
        square = mul_(square, square) if left else square
    if result is None:
        return ones_like(z[0]), zeros_like(z[0])
    return reciprocal(*result) if n < 0 else result


def pow_(a: Pair, b: Pair) -> Pair:
    """exp(b log a); 1 for b = 0; 0**b is 0 for a real b > 0, else nan."""
    (x, y), (u, v) = a, b
    is_zero = and_(ops.eq(x, 0), ops.eq(y, 0))
    real, imag = exp_(*mul_(b, log_(ops.select(is_zero, 1, x), y)))
    vanishes = and_(ops.gt(u, 0), ops.eq(v, 0))
    at_zero = ops.select(vanishes, ops.mul(u, 0), math.nan)
    is_one = and_(ops.eq(u, 0), ops.eq(v, 0))
    real, imag = ops.select(is_zero, at_zero, real), ops.select(is_zero, at_zero, imag)
    return ops.select(is_one, 1, real), ops.select(is_one, 0, imag)


# -- exponential and hyperbolic functions -----------------------------------------------------------------------------


def _scaled_exp(x: Any) -> Pair:
    """(m, s) with e**x = m s, where m overflows long after e**x does."""
    limit, shift = (700.0, 350.0) if _is_wide(x) else (80.0, 40.0)
    large = ops.gt(x, limit)
    return ops.exp(ops.select(large, ops.sub(x, shift), x)), ops.select(large, math.exp(shift), ones_like(x))


def exp_(x: Any, y: Any) -> Pair:
    m, s = _scaled_exp(x)
    return ops.mul(_times(m, ops.cos(y)), s), ops.mul(_times(m, ops.sin(y)), s)


def expm1_(x: Any, y: Any) -> Pair:
    """e**x cos y - 1 = expm1(x) cos y - 2 sin(y / 2)**2."""
    half = ops.sin(ops.mul(y, 0.5))
    real = ops.sub(ops.mul(ops.expm1(x), ops.cos(y)), ops.mul(ops.mul(half, half), 2))
    return real, ops.mul(ops.exp(x), ops.sin(y))


def exp2_(x: Any, y: Any) -> Pair:
    return exp_(ops.mul(x, math.log(2)), ops.mul(y, math.log(2)))


def _cosh_sinh(x: Any) -> tuple[Any, Any, Any]:
    """(c, d, s) with cosh x = c s and sinh x = d s."""
    a = ops.abs(x)
    large = ops.gt(a, 700.0 if _is_wide(x) else 80.0)
    m, s = _scaled_exp(a)
    c = ops.select(large, m, ops.cosh(x))
    d = ops.select(large, ops.select(ops.lt(x, 0), ops.neg(m), m), ops.sinh(x))
    return c, d, ops.select(large, ops.mul(s, 0.5), s)


def sinh_(x: Any, y: Any) -> Pair:
    """sinh x cos y + i cosh x sin y."""
    c, d, s = _cosh_sinh(x)
    return ops.mul(_times(d, ops.cos(y)), s), ops.mul(_times(c, ops.sin(y)), s)


def cosh_(x: Any, y: Any) -> Pair:
    """cosh x cos y + i sinh x sin y."""
    c, d, s = _cosh_sinh(x)
    return ops.mul(_times(c, ops.cos(y)), s), ops.mul(_times(d, ops.sin(y)), s)


def tanh_(x: Any, y: Any) -> Pair:
    """Kahan's CTANH: with t = tan y, s = sinh x, b = 1 + t**2: (b s sqrt(1 + s**2) + i t) / (1 + b s**2)."""
    large = ops.gt(ops.abs(x), 170.0 if _is_wide(x) else 20.0)  # there e**-4x is nothing beside 1
    inner = ops.select(large, 1, x)
    t, s = ops.tan(y), ops.sinh(inner)
    b = ops.add(ops.mul(t, t), 1)
    below = ops.add(ops.mul(ops.mul(b, s), s), 1)
    real = ops.div(ops.mul(ops.mul(b, s), ops.cosh(inner)), below)
    imag = ops.select(ops.eq(y, 0), y, ops.div(t, below))
    return ops.select(large, ops.sign(x), real), ops.select(large, 0, imag)


sin_, tan_ = _about(sinh_), _about(tanh_)


def cos_(x: Any, y: Any) -> Pair:
    return cosh_(*turned(x, y))


# -- logarithms and roots ---------------------------------------------------------------------------------------------


def _larger_smaller(x: Any, y: Any) -> Pair:
    a, b = ops.abs(x), ops.abs(y)
    return ops.maximum(a, b), ops.minimum(a, b)


def _log_modulus(x: Any, y: Any) -> Any:
    """log m + log1p((n / m)**2) / 2 with m >= n; near |z| = 1 log1p((m - 1)(m + 1) + n**2) / 2, without cancellation
    between the two logarithms (Kahan's CLOG)."""
    m, n = _larger_smaller(x, y)
    near = and_(ops.gt(m, 0.5), ops.lt(m, 2))
    ratio = ops.div(n, ops.select(ops.eq(m, 0), 1, m))
    around = ops.add(ops.mul(ops.sub(m, 1), ops.add(m, 1)), ops.mul(n, n))
    tail = ops.mul(ops.log1p(ops.select(near, around, ops.mul(ratio, ratio))), 0.5)
    value = ops.select(near, tail, ops.add(ops.log(m), tail))
    return ops.select(_is_endless(x, y), math.inf, value)


def log_(x: Any, y: Any) -> Pair:
    return _log_modulus(x, y), ops.atan2(y, x)


def log2_(x: Any, y: Any) -> Pair:
    real, imag = log_(x, y)
    return ops.mul(real, 1 / math.log(2)), ops.mul(imag, 1 / math.log(2))


def log1p_(x: Any, y: Any) -> Pair:
    """log1p(x (2 + x) + y**2) / 2 near 0."""
    near = and_(ops.lt(ops.abs(x), 0.5), ops.lt(ops.abs(y), 0.5))
    a, b = ops.select(near, x, 0), ops.select(near, y, 0)
    inner = ops.mul(ops.log1p(ops.add(ops.mul(a, ops.add(a, 2)), ops.mul(b, b))), 0.5)
    above = ops.add(x, 1)
    return ops.select(near, inner, _log_modulus(above, y)), ops.atan2(y, above)


def sqrt_(x: Any, y: Any) -> Pair:
    """t = sqrt((|x| + |z|) / 2), the other part is |y| / (2 t); all by the larger part, which nothing then exceeds."""
    m, n = _larger_smaller(x, y)
    whole = ops.select(ops.eq(m, 0), 1, m)
    ratio = ops.div(n, whole)
    length = ops.sqrt(ops.add(ops.mul(ratio, ratio), 1))
    t = ops.mul(ops.sqrt(m), ops.sqrt(ops.mul(ops.add(ops.div(ops.abs(x), whole), length), 0.5)))
    other = ops.div(ops.abs(y), ops.mul(ops.select(ops.eq(t, 0), 1, t), 2))
    left = ops.lt(x, 0)
    real, imag = ops.select(left, other, t), ops.select(left, t, other)
    return _infinite_root(x, y, real, imag)


def _infinite_root(x: Any, y: Any, real: Any, imag: Any) -> Pair:
    """The root where a part is infinite (C99, G.6.4.2), and the sign of the imaginary part."""
    tall, wide = _is_infinite(y), _is_infinite(x)
    left = ops.lt(x, 0)
    short = ops.select(ops.eq(y, y), 0, y)  # nan stays nan
    real = ops.select(wide, ops.select(left, short, math.inf), real)
    imag = ops.select(wide, ops.select(left, math.inf, short), imag)
    real, imag = ops.select(tall, math.inf, real), ops.select(tall, math.inf, imag)
    return real, _signed_as(imag, y)


# -- inverse functions ------------------------------------------------------------------------------------------------


def _roots(x: Any, y: Any) -> tuple[Pair, Pair]:
    """sqrt(1 - z) and sqrt(1 + z)."""
    return sqrt_(ops.sub(1, x), ops.neg(y)), sqrt_(ops.add(x, 1), y)


def _twice_angle(endless: Any, a: Any, b: Any, y: Any, x: Any) -> Any:
    """2 atan(a / b), or the angle of (x, y) for an infinite operand."""
    angle = ops.atan2(ops.select(endless, y, a), ops.select(endless, x, b))
    return ops.select(endless, angle, ops.mul(angle, 2))


def asin_(x: Any, y: Any) -> Pair:
    """Kahan's CASIN: atan(x / Re(p q)) + i asinh(Im(conj(p) q)) with p = sqrt(1 - z), q = sqrt(1 + z)."""
    (a, b), (c, d) = _roots(x, y)
    below = ops.select(_is_endless(x, y), ops.abs(y), ops.sub(ops.mul(a, c), ops.mul(b, d)))
    return ops.atan2(x, below), ops.asinh(ops.sub(ops.mul(a, d), ops.mul(b, c)))


def acos_(x: Any, y: Any) -> Pair:
    """Kahan's CACOS: 2 atan(Re p / Re q) + i asinh(Im(conj(q) p)) with p = sqrt(1 - z), q = sqrt(1 + z)."""
    (a, b), (c, d) = _roots(x, y)
    return _twice_angle(_is_endless(x, y), a, c, ops.abs(y), x), ops.asinh(ops.sub(ops.mul(c, b), ops.mul(d, a)))


def acosh_(x: Any, y: Any) -> Pair:
    """Kahan's CACOSH: asinh(Re(conj(p) q)) + 2i atan(Im p / Re q) with p = sqrt(z - 1), q = sqrt(z + 1)."""
    (a, b), (c, d) = sqrt_(ops.sub(x, 1), y), sqrt_(ops.add(x, 1), y)
    angle = _twice_angle(_is_endless(x, y), b, c, y, x)
    return ops.asinh(ops.add(ops.mul(a, c), ops.mul(b, d))), angle


def atanh_(x: Any, y: Any) -> Pair:
    """Kahan's CATANH, for x >= 0; it is odd: log1p(4 x / ((1 - x)**2 + y**2)) / 4 and the angle of
    (1 - x)(1 + x) - y**2 + 2 i y, halved. Far from 0 it is 1 / z and half a turn."""
    a, b = ops.abs(x), ops.abs(y)
    far = ops.gt(ops.maximum(a, b), 1e150 if _is_wide(x) else 1e18)
    p, q = ops.select(far, 0, a), ops.select(far, 0, b)
    away = ops.sub(1, p)
    real = ops.mul(ops.log1p(ops.div(ops.mul(p, 4), ops.add(ops.mul(away, away), ops.mul(q, q)))), 0.25)
    turn = ops.atan2(ops.mul(q, 2), ops.sub(ops.mul(away, ops.add(p, 1)), ops.mul(q, q)))
    outside = ops.select(_is_endless(a, b), 0, reciprocal(ops.select(far, a, 1), ops.select(far, b, 1))[0])
    real = ops.select(far, outside, real)
    imag = ops.select(far, math.pi / 2, ops.mul(turn, 0.5))
    return _signed_as(real, x), _signed_as(imag, y)


asinh_, atan_ = _about(asin_), _about(atanh_)

UNARY: dict[str, Callable[[Any, Any], Pair]] = {
    "acos": acos_,
    "acosh": acosh_,
    "asin": asin_,
    "asinh": asinh_,
    "atan": atan_,
    "atanh": atanh_,
    "cos": cos_,
    "cosh": cosh_,
    "exp": exp_,
    "exp2": exp2_,
    "expm1": expm1_,
    "log": log_,
    "log1p": log1p_,
    "log2": log2_,
    "neg": lambda x, y: (ops.neg(x), ops.neg(y)),
    "sin": sin_,
    "sinh": sinh_,
    "sqrt": sqrt_,
    "tan": tan_,
    "tanh": tanh_,
}
BINARY: dict[str, Callable[[Pair, Pair], Pair]] = {
    "add": lambda a, b: (ops.add(a[0], b[0]), ops.add(a[1], b[1])),
    "sub": lambda a, b: (ops.sub(a[0], b[0]), ops.sub(a[1], b[1])),
    "mul": mul_,
    "div": div_,
    "pow": pow_,
}
