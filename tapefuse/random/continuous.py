"""Draws from continuous distributions by inverting their distribution functions.

The result is a differentiable function of the parameters: with the bits held fixed, an element moves as they do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.halves import widened
from tapefuse.ir.types import Shape
from tapefuse.random.keys import UINT64, as_key, constant_of, highest, lower_half, words_of
from tapefuse.random.parameters import (
    FLOAT64,
    check,
    check_scale,
    digits,
    drawn_shape,
    float_dtype,
    parameter,
)
from tapefuse.tracer.promote import cast
from tapefuse.tracer.tensor import Tensor

INTEGERS: dict[int, np.dtype] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}


# -- numbers between 0 and 1 ------------------------------------------------------------------------------------------


def unit(words: Tensor, dtype: np.dtype, precision: int | None = None) -> Tensor:
    """0 <= u < 1: multiples of 2**-24 (float32) or 2**-53, or of fewer bits."""
    digits = precision or (53 if dtype == FLOAT64 else 24)
    return ops.mul(cast(highest(words, digits), dtype), constant_of(2.0**-digits, dtype))


def inner(words: Tensor, dtype: np.dtype) -> Tensor:
    """0 < u < 1: odd multiples of 2**-24 or 2**-53."""
    digits = 52 if dtype == FLOAT64 else 23
    whole = cast(highest(words, digits), dtype)
    return ops.mul(ops.add(whole, constant_of(0.5, dtype)), constant_of(2.0**-digits, dtype))


def fine(words: Tensor, dtype: np.dtype) -> Tensor:
    """0 < u <= 1, as exact as floats are near 0: for logarithms. It leaves the lower half of float32's words."""
    digits = 64 if dtype == FLOAT64 else 32
    whole = cast(words if digits == 64 else highest(words, 32), dtype)
    return ops.mul(ops.add(whole, constant_of(0.5, dtype)), constant_of(2.0**-digits, dtype))


def below_one(u: Tensor) -> Tensor:
    return ops.minimum(u, constant_of(1 - np.finfo(u.dtype).epsneg, u.dtype))


def standard_normal(key: Tensor, shape: Shape, dtype: np.dtype, part: int = 0) -> Tensor:
    """Box and Muller (1958): the radius from one word, the angle from another. It takes two parts of float64."""
    words = words_of(key, shape, part)
    turn = words_of(key, shape, part + 1) if dtype == FLOAT64 else lower_half(words)
    signed = INTEGERS[dtype.itemsize]
    angle = ops.mul(cast(cast(turn, signed), dtype), constant_of(math.pi / 2.0 ** (8 * signed.itemsize - 1), dtype))
    return ops.mul(ops.sqrt(ops.mul(ops.log(fine(words, dtype)), constant_of(-2, dtype))), ops.sin(angle))


def standard_exponential(words: Tensor, dtype: np.dtype) -> Tensor:
    return ops.neg(ops.log(fine(words, dtype)))


def standard_gumbel(words: Tensor, dtype: np.dtype) -> Tensor:
    """-log(-log(1 - u)): exact in the long tail on the right."""
    return ops.neg(ops.log(ops.neg(ops.log1p(ops.neg(below_one(fine(words, dtype)))))))


def standard_laplace(words: Tensor, dtype: np.dtype) -> Tensor:
    """An exponential with the sign of a bit that it does not show."""
    size = standard_exponential(words, dtype)
    odd = ops.ne(ops.and_(words, constant_of(1, UINT64)), constant_of(0, UINT64))
    return ops.select(odd, size, ops.neg(size))


def standard_logistic(words: Tensor, dtype: np.dtype) -> Tensor:
    u = below_one(fine(words, dtype))
    return ops.sub(ops.log(u), ops.log1p(ops.neg(u)))


def standard_cauchy(words: Tensor, dtype: np.dtype) -> Tensor:
    return ops.tan(ops.mul(ops.sub(inner(words, dtype), constant_of(0.5, dtype)), constant_of(math.pi, dtype)))


# -- distributions ----------------------------------------------------------------------------------------------------


def uniform(key: Any, shape: Any = None, low: Any = 0.0, high: Any = 1.0, dtype: Any = None) -> Tensor:
    """Evenly distributed from `low` to `high`: `low` may be drawn, `high` by rounding alone."""
    shape, dtype = drawn_shape(shape, low, high), float_dtype(dtype, low, high)
    u = cast(unit(words_of(as_key(key), shape), widened(dtype), digits(dtype)), dtype)
    if type(low) in (int, float) and type(high) in (int, float) and (low, high) == (0, 1):
        return u
    low, high = parameter(low, dtype), parameter(high, dtype)
    return ops.add(low, ops.mul(ops.sub(high, low), u))


def normal(key: Any, shape: Any = None, loc: Any = 0.0, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Normal distribution with mean `loc` and standard deviation `scale`."""
    dtype = float_dtype(dtype, loc, scale)
    z = standard_normal(as_key(key), drawn_shape(shape, loc, scale), widened(dtype))
    return _located(z, loc, scale, dtype)


def truncated_normal(
    key: Any,
    shape: Any = None,
    low: Any = -2.0,
    high: Any = 2.0,
    loc: Any = 0.0,
    scale: Any = 1.0,
    dtype: Any = None,
) -> Tensor:
    """loc + scale z for a standard normal z that lies from `low` to `high`, by inverting its distribution function.

    An interval above 0 is mirrored, so that the tail on the right is as exact as that on the left.
    """
    shape, dtype = drawn_shape(shape, low, high, loc, scale), float_dtype(dtype, low, high, loc, scale)
    work = widened(dtype)
    a, b = parameter(low, work), parameter(high, work)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        check(np.subtract(high, low), lambda width: width > 0, "low must be below high: their distance must be above 0")
    zero = constant_of(0, work)
    mirrored = ops.gt(a, zero)
    first, last = ops.select(mirrored, ops.neg(b), a), ops.select(mirrored, ops.neg(a), b)
    bottom, top = ops.ndtr(first), ops.ndtr(last)
    u = inner(words_of(as_key(key), shape), work)
    z = ops.ndtri(ops.add(bottom, ops.mul(ops.sub(top, bottom), u)))
    z = ops.minimum(ops.maximum(z, first), last)
    return _located(ops.select(mirrored, ops.neg(z), z), loc, scale, dtype)


def exponential(key: Any, shape: Any = None, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Exponential distribution with mean `scale`."""
    return _from_words(standard_exponential, key, shape, None, scale, dtype)


def gumbel(key: Any, shape: Any = None, loc: Any = 0.0, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Gumbel's distribution of extremes: loc - scale log(e) for an exponential e."""
    return _from_words(standard_gumbel, key, shape, loc, scale, dtype)


def laplace(key: Any, shape: Any = None, loc: Any = 0.0, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Laplace's double exponential distribution with mean `loc`; its variance is 2 scale**2."""
    return _from_words(standard_laplace, key, shape, loc, scale, dtype)


def logistic(key: Any, shape: Any = None, loc: Any = 0.0, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Logistic distribution: its distribution function is sigmoid((x - loc) / scale)."""
    return _from_words(standard_logistic, key, shape, loc, scale, dtype)


def cauchy(key: Any, shape: Any = None, loc: Any = 0.0, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Cauchy's distribution with median `loc`; it has no mean."""
    return _from_words(standard_cauchy, key, shape, loc, scale, dtype)


def _from_words(standard: Any, key: Any, shape: Any, loc: Any, scale: Any, dtype: Any) -> Tensor:
    given = [x for x in (loc, scale) if x is not None]
    shape, dtype = drawn_shape(shape, *given), float_dtype(dtype, *given)
    return _located(standard(words_of(as_key(key), shape), widened(dtype)), loc, scale, dtype)


def _located(z: Tensor, loc: Any, scale: Any, dtype: np.dtype) -> Tensor:
    """loc + scale z in `dtype`, without the operations that change nothing."""
    check_scale(scale)
    z = cast(z, dtype)
    if not _is(scale, 1):
        z = ops.mul(z, parameter(scale, dtype))
    return z if loc is None or _is(loc, 0) else ops.add(parameter(loc, dtype), z)


def _is(x: Any, value: int) -> bool:
    return type(x) in (int, float) and x == value


__all__ = ["cauchy", "exponential", "gumbel", "laplace", "logistic", "normal", "truncated_normal", "uniform"]
