"""Elementwise functions composed from others: parts of floating-point numbers, angles, integers' divisors, comparisons
within a tolerance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of, limits, promoted
from tapefuse.ir.types import broadcast_shapes
from tapefuse.numpy import lexicographic
from tapefuse.numpy.creation import zeros_like
from tapefuse.numpy.elementwise import (
    _elementwise,
    abs,
    add,
    astype,
    divide,
    exp2,
    floor,
    floor_divide,
    greater_equal,
    inexact,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log2,
    logical_and,
    logical_or,
    mod,
    multiply,
    not_equal,
    power,
    real_only,
    right_shift,
    sin,
    subtract,
    trunc,
)
from tapefuse.numpy.reduce import all, any
from tapefuse.numpy.shape import broadcast_arrays
from tapefuse.tracer.control import while_loop
from tapefuse.tracer.promote import common, operands
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor

# -- signs, neighbours, exponents -------------------------------------------------------------------------------------


def _copied_sign(x: Tensor, y: Tensor) -> Tensor:
    return ops.select(ops.xor_(ops.signbit(x), ops.signbit(y)), ops.neg(x), x)


def _larger_number(x: Tensor, y: Tensor) -> Tensor:
    if x.dtype.kind == "c":
        return lexicographic.fmax(x, y)
    return ops.select(ops.or_(ops.ge(x, y), ops.ne(y, y)), x, y)


def _smaller_number(x: Tensor, y: Tensor) -> Tensor:
    if x.dtype.kind == "c":
        return lexicographic.fmin(x, y)
    return ops.select(ops.or_(ops.le(x, y), ops.ne(y, y)), x, y)


def _spacing(x: Tensor) -> Tensor:
    """The distance to the next number away from 0; for the largest one, to the one before."""
    next_up = ops.nextafter(x, _copied_sign(ops.select(ops.eq(x, x), math.inf, x), x))
    overflows = logical_and(isinf(next_up), isfinite(x))
    below = ops.nextafter(x, zeros_like(x))
    return ops.select(overflows, ops.sub(x, below), ops.sub(next_up, x))


def _stepped(x: Tensor, h: Tensor) -> Tensor:
    y = ops.select(ops.gt(x, 0), 1, ops.select(ops.eq(x, 0), h, 0))
    return ops.select(ops.ne(x, x), x, y)


signbit = _elementwise(np.signbit, ops.signbit, "Whether the sign bit is set: below 0, or -0.")
nextafter = _elementwise(np.nextafter, ops.nextafter, "The next floating-point number after x towards y.")
copysign = _elementwise(np.copysign, _copied_sign, "|x| with the sign of y.")
fmax = _elementwise(np.fmax, _larger_number, "The larger of x and y, the number where one is nan; ties as `maximum`.")
fmin = _elementwise(np.fmin, _smaller_number, "The smaller of x and y, the number where one is nan; ties as `minimum`.")
spacing = _elementwise(np.spacing, _spacing, "The distance to the next floating-point number away from 0.")
heaviside = _elementwise(np.heaviside, _stepped, "0 below 0, 1 above, y at 0.")


def float_power(x: Any, y: Any) -> Tensor:
    """x ** y in float64."""
    return power(*operands(np.float_power, x, y))


def divmod(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """(x // y, x % y)."""
    return floor_divide(x, y), mod(x, y)


def modf(x: Any) -> tuple[Tensor, Tensor]:
    """The fractional and the whole part, each with the sign of x. The derivative of the fractional part is 1."""
    (x,) = operands(np.modf, x)
    whole = trunc(x)
    return _copied_sign(abs(ops.select(isinf(x), 0, ops.sub(x, whole))), x), whole


def ldexp(x: Any, exponent: Any) -> Tensor:
    """x 2 ** exponent for integers `exponent`, without overflow on the way."""
    x, n = operands(np.ldexp, x, exponent)
    most = 1000 if x.dtype.itemsize == 8 else 120 if x.dtype.itemsize == 4 else 14
    left = n
    for _ in range(3):  # each factor is a normal number
        step = ops.minimum(ops.maximum(left, -most), most)
        x, left = ops.mul(x, exp2(astype(step, x.dtype))), ops.sub(left, step)
    return x


def frexp(x: Any) -> tuple[Tensor, Tensor]:
    """(m, e) with x = m 2 ** e, 1/2 <= |m| < 1 and int32 e; (x, 0) for 0, inf and nan."""
    (x,) = operands(np.frexp, x)
    plain = logical_and(isfinite(x), not_equal(x, 0))
    magnitude = ops.stop_gradient(abs(ops.select(plain, x, 1)))
    exponent = add(astype(floor(log2(magnitude)), np.int32), 1)
    part = ldexp(magnitude, ops.neg(exponent))
    exponent = add(exponent, subtract(astype(greater_equal(part, 1), np.int32), astype(less(part, 0.5), np.int32)))
    exponent = ops.select(plain, exponent, 0)
    return ldexp(x, ops.neg(exponent)), exponent


def fix(x: Any) -> Tensor:
    """Round towards 0."""
    return trunc(x)


def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Tensor:
    """`nan` in place of nan, and `posinf`, `neginf` (the largest finite numbers by default) in place of infinities; in
    each part of complex numbers."""
    x = as_tensor(x)
    if x.dtype.kind == "c":
        return ops.complex_(*[nan_to_num(part, copy, nan, posinf, neginf) for part in (ops.real(x), ops.imag(x))])
    if kind_of(x.dtype) != "f":
        return x
    most = limits(x.dtype).max
    y = ops.select(isnan(x), *common(astype(nan, x.dtype), x))
    y = ops.select(ops.eq(x, math.inf), astype(most if posinf is None else posinf, x.dtype), y)
    return ops.select(ops.eq(x, -math.inf), astype(-most if neginf is None else neginf, x.dtype), y)


# -- angles -----------------------------------------------------------------------------------------------------------


def deg2rad(x: Any) -> Tensor:
    """Degrees as radians."""
    (x,) = operands(np.deg2rad, x)
    return ops.mul(x, math.pi / 180)


def rad2deg(x: Any) -> Tensor:
    """Radians as degrees."""
    (x,) = operands(np.rad2deg, x)
    return ops.mul(x, 180 / math.pi)


radians, degrees = deg2rad, rad2deg

_SINC_TERMS = [(-1) ** k / math.factorial(2 * k + 1) for k in range(12)]


def sinc(x: Any) -> Tensor:
    """sin(pi x) / (pi x), 1 at 0, with all derivatives there: near 0 it is its Taylor series."""
    x = inexact(x)
    y = multiply(math.pi, x)
    near = less(abs(y), 1.5)
    z = ops.select(near, y, 0)
    z = multiply(z, z)
    series = zeros_like(z)
    for term in reversed(_SINC_TERMS):
        series = add(multiply(series, z), term)
    far = ops.select(near, 1, y)
    return ops.select(near, series, divide(sin(far), far))


def i0(x: Any) -> Tensor:
    """Modified Bessel function of the first kind, order 0."""
    return ops.i0(inexact(real_only(x)))


# -- integers ---------------------------------------------------------------------------------------------------------


def _euclid(x: Tensor, y: Tensor) -> Tensor:
    def step(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = pair
        done = ops.eq(b, 0)
        return ops.select(done, a, b), ops.select(done, 0, ops.mod(a, ops.select(done, 1, b)))

    x, y = broadcast_arrays(*common(x, y))
    found: Tensor = while_loop(lambda pair: any(not_equal(pair[1], 0)), step, (x, y))[0]
    return found


def gcd(x: Any, y: Any) -> Tensor:
    """The greatest common divisor of integers."""
    x, y = operands(np.gcd, x, y)
    if isinstance(x, TracedTensor) or isinstance(y, TracedTensor):
        return _euclid(abs(x), abs(y))
    return as_tensor(np.gcd(np.asarray(x), np.asarray(y)))


def lcm(x: Any, y: Any) -> Tensor:
    """The lowest common multiple of integers."""
    x, y = operands(np.lcm, x, y)
    divisor = gcd(x, y)
    none = ops.eq(divisor, 0)
    return ops.select(none, 0, abs(ops.mul(ops.floordiv(x, ops.select(none, 1, divisor)), y)))


def bitwise_count(x: Any) -> Tensor:
    """The number of bits set in |x|, uint8."""
    (x,) = operands(np.bitwise_count, x)
    if x.dtype.kind == "b":
        return astype(x, np.uint8)
    width = 8 * x.dtype.itemsize
    x = astype(abs(x), np.dtype(f"u{x.dtype.itemsize}"))
    for k, mask in enumerate((0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)):
        mask &= (1 << width) - 1
        high = ops.and_(right_shift(x, 1 << k), x.dtype.type(mask))
        x = ops.add(ops.and_(x, x.dtype.type(mask)), high)
    total = ops.and_(x, x.dtype.type(0xFF))
    for k in range(1, width // 8):
        total = ops.add(total, ops.and_(right_shift(x, 8 * k), x.dtype.type(0xFF)))
    return astype(total, np.uint8)


# -- comparison within a tolerance ----------------------------------------------------------------------------------


def isclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Tensor:
    """Whether |a - b| <= atol + rtol |b|; infinities are close to themselves, nan to nan if `equal_nan`."""
    a, b = as_tensor(a), as_tensor(b)
    if kind_of(b.dtype) not in "fc":
        b = astype(b, promoted(b.dtype, 1.0))
    x, y = operands(np.subtract, a, b)
    near = less_equal(abs(subtract(x, y)), add(atol, multiply(rtol, abs(y))))
    close = logical_or(logical_and(near, isfinite(y)), ops.eq(x, y))
    return logical_or(close, logical_and(isnan(x), isnan(y))) if equal_nan else close


def _truth_of(x: Tensor) -> Any:
    """A Python bool, or a bool tensor inside of a trace."""
    try:
        return bool(x)
    except ConcretizationError:
        return x


def allclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """Whether all elements are close: a Python bool, inside of a trace a bool tensor."""
    return _truth_of(all(isclose(a, b, rtol, atol, equal_nan)))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """Whether shapes and all elements are equal: a Python bool, inside of a trace a bool tensor."""
    a, b = as_tensor(a1), as_tensor(a2)
    return a.shape == b.shape and _truth_of(all(_same(a, b, equal_nan)))


def array_equiv(a1: Any, a2: Any) -> Any:
    """Whether all elements are equal after broadcasting: a Python bool, inside of a trace a bool tensor."""
    a, b = as_tensor(a1), as_tensor(a2)
    try:
        broadcast_shapes(a.shape, b.shape)
    except ShapeError:
        return False
    return _truth_of(all(_same(a, b, False)))


def _same(a: Tensor, b: Tensor, equal_nan: bool) -> Tensor:
    a, b = common(a, b)
    same = ops.eq(a, b)
    return logical_or(same, logical_and(ops.ne(a, a), ops.ne(b, b))) if equal_nan and kind_of(a.dtype) in "fc" else same


__all__ = [
    "allclose",
    "array_equal",
    "array_equiv",
    "bitwise_count",
    "copysign",
    "deg2rad",
    "degrees",
    "divmod",
    "fix",
    "float_power",
    "fmax",
    "fmin",
    "frexp",
    "gcd",
    "heaviside",
    "i0",
    "isclose",
    "lcm",
    "ldexp",
    "modf",
    "nan_to_num",
    "nextafter",
    "rad2deg",
    "radians",
    "signbit",
    "sinc",
    "spacing",
]
