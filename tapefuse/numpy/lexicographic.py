"""The order of complex numbers, NumPy's: by real parts, equal ones by imaginary parts.

A number with a part that is nan is neither above nor below another one, and both the largest and the smallest.
"""

from __future__ import annotations

import math

import numpy as np

from tapefuse.ir import ops
from tapefuse.tracer.tensor import Tensor


def _compared(x: Tensor, y: Tensor, or_equal: bool) -> Tensor:
    """x < y, or x <= y."""
    (a, b), (c, d) = ((ops.real(z), ops.imag(z)) for z in (x, y))
    numbers = ops.and_(ops.eq(b, b), ops.eq(d, d))
    ties = (ops.le if or_equal else ops.lt)(b, d)
    return ops.or_(ops.and_(ops.lt(a, c), numbers), ops.and_(ops.eq(a, c), ties))


def less(x: Tensor, y: Tensor) -> Tensor:
    return _compared(x, y, False)


def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return _compared(x, y, True)


def greater(x: Tensor, y: Tensor) -> Tensor:
    return _compared(y, x, False)


def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return _compared(y, x, True)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return ops.select(ops.or_(ops.ne(x, x), greater_equal(x, y)), x, y)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    return ops.select(ops.or_(ops.ne(x, x), less_equal(x, y)), x, y)


def fmax(x: Tensor, y: Tensor) -> Tensor:
    return ops.select(ops.or_(ops.ne(y, y), greater_equal(x, y)), x, y)


def fmin(x: Tensor, y: Tensor) -> Tensor:
    return ops.select(ops.or_(ops.ne(y, y), less_equal(x, y)), x, y)


def position(x: Tensor, axis: int, largest: bool) -> Tensor:
    """Where along an axis the first extreme stands, or the first nan; int64."""
    reduce, beyond = (ops.reduce_max, -math.inf) if largest else (ops.reduce_min, math.inf)
    kept = tuple([1 if k == axis else n for k, n in enumerate(x.shape)])
    a, b = ops.real(x), ops.imag(x)
    wins = ops.eq(a, ops.reshape(reduce(a, axes=(axis,)), shape=kept))
    inner = ops.select(wins, b, beyond)
    wins = ops.and_(wins, ops.eq(b, ops.reshape(reduce(inner, axes=(axis,)), shape=kept)))
    is_nan = ops.ne(x, x)
    any_nan = ops.reshape(ops.reduce_any(is_nan, axes=(axis,)), shape=kept)
    wins = ops.select(any_nan, is_nan, wins)
    return ops.argmax(ops.cast(wins, dtype=np.dtype(np.uint8)), axis=axis)


def keys(x: Tensor) -> list[Tensor]:
    """Real keys, the first one the least important, whose order is that of the numbers: those with a nan come last,
    first by which parts are nan, then by the other part."""
    a, b = ops.real(x), ops.imag(x)
    nan_a, nan_b = ops.ne(a, a), ops.ne(b, b)
    byte = np.dtype(np.uint8)
    kind = ops.add(ops.mul(ops.cast(nan_a, dtype=byte), 2), ops.cast(nan_b, dtype=byte))
    return [ops.select(nan_b, 0, b), ops.select(nan_a, 0, a), kind]
