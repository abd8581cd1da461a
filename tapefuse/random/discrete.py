"""Draws of integers, choices and orders."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of, widened
from tapefuse.ir.types import Dim, Poly, Shape, broadcast_shapes, size
from tapefuse.numpy import (
    arange,
    argmax,
    argsort,
    astype,
    cumsum,
    dim,
    log,
    moveaxis,
    reshape,
    searchsorted,
    take,
)
from tapefuse.numpy import minimum as minimum_
from tapefuse.numpy.shape import _axis
from tapefuse.random.continuous import standard_gumbel, unit
from tapefuse.random.keys import UINT64, as_key, constant_of, words_of
from tapefuse.random.parameters import FLOAT32, check, check_probability, drawn_shape, float_dtype, known, parameter
from tapefuse.tracer.arrays import check_dtype
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import cast, converted
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

HALF = constant_of(32, UINT64)


# -- integers ---------------------------------------------------------------------------------------------------------


def integers(
    key: Any, shape: Any = None, low: Any = 0, high: Any = None, dtype: Any = np.int32, endpoint: bool = False
) -> Tensor:
    """Integers from `low` to below `high` (with it if `endpoint`), all equally likely; with one bound, from 0.

    The highest bits of the product of 64 or 128 random bits with the number of values: none is favoured by more than
    one part in 2**32. Raises ValueError for known bounds that leave nothing to draw or do not fit into `dtype`.
    """
    low, high = (0, low) if high is None else (low, high)
    dtype = check_dtype(dtype, "a random integer")
    if dtype.kind not in "iu":
        raise DTypeError(f"{called()}: integers have an integer dtype, not {dtype}; see bernoulli for bools")
    shape = drawn_shape(shape, low, high)
    _check_bounds(low, high, dtype, endpoint)
    first = ops.cast(_bound(low, dtype), dtype=UINT64)
    count = ops.sub(ops.cast(_bound(high, dtype), dtype=UINT64), first)
    if endpoint:
        count = ops.add(count, constant_of(1, UINT64))
    k = as_key(key)
    words = words_of(k, shape)
    offset = _wide(words, words_of(k, shape, 1), count) if dtype.itemsize == 8 else _high_product(words, count)
    return ops.cast(ops.add(first, offset), dtype=dtype)


def _bound(x: Any, dtype: np.dtype) -> Tensor:
    wide = np.dtype(np.uint64 if dtype == UINT64 else np.int64)
    return as_tensor(np.array(int(x) % (1 << 64), UINT64)) if type(x) is int else converted(x, wide)


def _check_bounds(low: Any, high: Any, dtype: np.dtype, endpoint: bool) -> None:
    for x in (low, high):
        kind = getattr(x, "dtype", np.asarray(x if not isinstance(x, Operators) else 0).dtype).kind
        if kind not in "iu" and not isinstance(x, Poly):
            raise DTypeError(f"{called()}: bounds are integers, not {kind_name(x)}")
    first, last = (None if isinstance(x, Poly) else known(x) for x in (low, high))
    if first is None or last is None:
        return
    first, last = np.asarray(first, object), np.asarray(last, object) - (not endpoint)
    if np.any(last < first):
        raise ValueError(f"{called()}: there are no integers from {low} to {'' if endpoint else 'below '}{high}")
    info = np.iinfo(dtype)
    if np.any(first < info.min) or np.any(last > info.max):
        raise ValueError(f"{called()}: integers from {low} to {high} do not fit into {dtype}; ask for a wider dtype")


def kind_name(x: Any) -> str:
    return str(getattr(x, "dtype", type(x).__name__))


def _high_product(words: Tensor, count: Tensor) -> Tensor:
    """words * count / 2**64 rounded down, for a count of at most 2**32."""
    low = ops.and_(words, constant_of(0xFFFFFFFF, UINT64))
    carried = ops.shr(ops.mul(low, count), HALF)
    return ops.shr(ops.add(ops.mul(ops.shr(words, HALF), count), carried), HALF)


def _wide(words: Tensor, more: Tensor, count: Tensor) -> Tensor:
    """(words + more / 2**64) * count / 2**64 rounded down; a count of 0 stands for 2**64."""
    high, low = _products(words, count)
    carry, _ = _products(more, count)
    total = ops.add(low, carry)
    found = ops.add(high, ops.cast(ops.lt(total, low), dtype=UINT64))
    return ops.select(ops.eq(count, constant_of(0, UINT64)), words, found)


def _products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The higher and the lower 64 bits of x y, from halves."""
    mask = constant_of(0xFFFFFFFF, UINT64)
    a, b, c, d = ops.shr(x, HALF), ops.and_(x, mask), ops.shr(y, HALF), ops.and_(y, mask)
    middle = ops.add(ops.mul(a, d), ops.shr(ops.mul(b, d), HALF))
    other = ops.add(ops.mul(b, c), ops.and_(middle, mask))
    high = ops.add(ops.add(ops.mul(a, c), ops.shr(middle, HALF)), ops.shr(other, HALF))
    return high, ops.mul(x, y)


def bernoulli(key: Any, p: Any = 0.5, shape: Any = None) -> Tensor:
    """True with probability `p`, in steps of 2**-24 (float32) or 2**-53. No derivatives."""
    check_probability(p)
    work = widened(float_dtype(None, p))
    return ops.lt(unit(words_of(as_key(key), drawn_shape(shape, p)), work), ops.stop_gradient(parameter(p, work)))


def rademacher(key: Any, shape: Any = (), dtype: Any = None) -> Tensor:
    """-1 or 1, equally likely; float32 unless said otherwise."""
    found = check_dtype(FLOAT32 if dtype is None else dtype, "a random sign")
    if kind_of(found) not in "if":
        raise DTypeError(f"{called()}: signs need a dtype with negative numbers, not {found}")
    bit = ops.cast(ops.shr(words_of(as_key(key), drawn_shape(shape)), constant_of(63, UINT64)), dtype=np.dtype(np.int8))
    return cast(ops.sub(ops.add(bit, bit), np.int8(1)), found)


# -- choices ----------------------------------------------------------------------------------------------------------


def categorical(key: Any, logits: Any, shape: Any = None, axis: int = -1) -> Tensor:
    """Positions along `axis` with probabilities softmax(logits): int32, of shape `shape` or that of the other axes.

    `shape` ends with the shape of the other axes, or what they broadcast to. The largest of logits with Gumbel noise
    (Maddison, Tarlow and Minka 2014). No derivatives.
    """
    logits = as_tensor(logits)
    logits = ops.stop_gradient(parameter(logits, float_dtype(None, logits)))
    if not logits.shape:
        raise ShapeError(f"{called()}: logits are at least a vector, not a scalar")
    logits = moveaxis(logits, _axis(logits.ndim, axis), -1)
    *rest, n = logits.shape
    found = tuple(rest) if shape is None else drawn_shape(shape)
    if broadcast_shapes(found, tuple(rest)) != found:
        raise ShapeError(f"{called()}: the shape {found} does not end with that of the other axes, {tuple(rest)}")
    noise = standard_gumbel(words_of(as_key(key), (*found, n)), widened(logits.dtype))
    return astype(argmax(logits + noise, axis=-1), np.int32)


def permutation(key: Any, x: Any, axis: int = 0) -> Tensor:
    """The elements of `x` along an axis in random order; of 0 ... x - 1 (int32) if x is an integer."""
    x = arange(x) if isinstance(x, (int, np.integer, Poly)) else as_tensor(x)
    if not x.shape:
        raise ShapeError(f"{called()}: a scalar tensor has no order; give a Python integer for 0 ... n - 1")
    axis = _axis(x.ndim, axis)
    return take(x, _order(as_key(key), x.shape[axis]), axis=axis)


def _order(key: Tensor, n: Dim) -> Tensor:
    return argsort(words_of(key, (n,)))  # of 64 bits: two are equal once in 2**64 / n**2


def choice(
    key: Any, a: Any, shape: Any = (), replace: bool = True, p: Any = None, axis: int = 0
) -> Tensor:
    """Elements of `a` along an axis (of 0 ... a - 1 if it is an integer), with probabilities `p` or all equally likely.

    Without `replace` none comes twice. Raises ValueError for more than there are, or a known `p` that is no
    probability, ShapeError for one of another length.
    """
    a = arange(a) if isinstance(a, (int, np.integer, Poly)) else as_tensor(a)
    if not a.shape:
        raise ShapeError(f"{called()}: nothing to choose from in a scalar tensor; give a Python int for 0 ... n - 1")
    axis, shape = _axis(a.ndim, axis), drawn_shape(shape)
    n, k = a.shape[axis], as_key(key)
    if not replace and isinstance(n, int) and isinstance(size(shape), int) and size(shape) > n:  # type: ignore[operator]
        raise ValueError(f"{called()}: {size(shape)} of {n} without replacement; use replace=True, or fewer")
    if isinstance(n, int) and n == 0 and size(shape) != 0:
        raise ValueError(f"{called()}: nothing to choose from")
    where_ = _with_replacement(k, n, shape, p) if replace else _without(k, n, shape, p)
    return take(a, where_, axis=axis)


def _probabilities(p: Any, n: Dim) -> Tensor:
    check(p, lambda v: v >= 0, "p must be at least 0")
    value = known(p)
    if value is not None:
        check(np.sum(value, dtype=np.float64), lambda total: abs(total - 1) < 1e-3, "p must add up to 1")
    p = ops.stop_gradient(parameter(p, float_dtype(None, p)))
    if p.shape != (n,):
        raise ShapeError(f"{called()}: p must have one probability for each of {n} elements, not the shape {p.shape}")
    return p


def _with_replacement(key: Tensor, n: Dim, shape: Shape, p: Any) -> Tensor:
    if p is None:
        return integers(key, shape, 0, n if isinstance(n, int) else dim(n, np.int64), dtype=np.int64)
    total = cumsum(_probabilities(p, n))
    u = unit(words_of(key, shape), widened(total.dtype)) * total[-1]
    return minimum_(searchsorted(total, astype(u, total.dtype), side="right"), n - 1)


def _without(key: Tensor, n: Dim, shape: Shape, p: Any) -> Tensor:
    """The first of a random order; with probabilities, of the order of log p with Gumbel noise (Efraimidis and
    Spirakis 2006)."""
    if p is None:
        order = _order(key, n)
    else:
        p = _probabilities(p, n)
        order = argsort(-(log(p) + standard_gumbel(words_of(key, (n,)), p.dtype)))
    return reshape(order[: size(shape)], shape)


__all__ = ["bernoulli", "categorical", "choice", "integers", "permutation", "rademacher"]
