"""Reductions over segments: rows of an array, grouped by a number that each of them has.

`segment_sum(data, ids, n)[k]` is the sum of `data[i]` over all i with `ids[i] == k`. Numbers need no order. Those that
are negative count from the end; others outside 0..n-1 raise IndexOutOfRangeError, in compiled functions as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Dim
from tapefuse.numpy.elementwise import astype, divide, isfinite, maximum, multiply, stop_gradient, subtract, where
from tapefuse.numpy.selecting import values
from tapefuse.numpy.shape import _counter, _fixed, _whole, broadcast_to, dim, getitem, reshape
from tapefuse.numpy.sorting import searchsorted
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor


def _segments(data: Any, segment_ids: Any, num_segments: Any) -> tuple[Tensor, Tensor, Dim]:
    data, ids = as_tensor(data), as_tensor(segment_ids)
    if ids.dtype.kind not in "iu":
        raise DTypeError(f"{called()}: segment_ids must be integers, not {ids.dtype}; cast them first")
    if ids.ndim != 1 or data.ndim == 0 or data.shape[0] != ids.shape[0]:
        raise ShapeError(f"{called()}: segment_ids {ids.type} must be a vector, a number for each row of {data.type}")
    if num_segments is not None:
        return data, ids, num_segments if not hasattr(num_segments, "dtype") else _whole(num_segments, "num_segments")
    known = values(ids, "give num_segments=")
    return data, ids, int(known.max()) + 1 if known.size else 0


def _per_row(x: Tensor, like: Tensor) -> Tensor:
    """One number a row, as a factor of whole rows."""
    return reshape(x, (x.shape[0], *(1,) * (like.ndim - 1)))


def segment_sum(data: Any, segment_ids: Any, num_segments: Any = None) -> Tensor:
    """Sums of the rows of each segment; 0 for one without rows. Without `num_segments` there are max(ids) + 1."""
    data, ids, n = _segments(data, segment_ids, num_segments)
    return ops.scatter_add(data, ids, shape=(n, *data.shape[1:]))


def _counts(ids: Tensor, n: Dim, dtype: Any) -> Tensor:
    return ops.scatter_add(broadcast_to(as_tensor(np.ones((), dtype)), ids.shape), ids, shape=(n,))


def segment_mean(data: Any, segment_ids: Any, num_segments: Any = None) -> Tensor:
    """Means of the rows of each segment; 0 for one without rows."""
    data, ids, n = _segments(data, segment_ids, num_segments)
    data = data if kind_of(data.dtype) == "f" else astype(data, np.float64)
    total = ops.scatter_add(data, ids, shape=(n, *data.shape[1:]))
    return divide(total, _per_row(maximum(_counts(ids, n, data.dtype), 1), total))


def segment_max(data: Any, segment_ids: Any, num_segments: Any = None) -> Tensor:
    """Largest elements of each segment, nan if there is one; the least number of the dtype for a segment without rows.

    Equal largest elements share the gradient evenly.
    """
    data, ids, n = _segments(data, segment_ids, num_segments)
    return _extreme(data, ids, n, largest=True)


def segment_min(data: Any, segment_ids: Any, num_segments: Any = None) -> Tensor:
    """Smallest elements of each segment, nan if there is one; the largest number of the dtype without rows.

    Equal smallest elements share the gradient evenly.
    """
    data, ids, n = _segments(data, segment_ids, num_segments)
    if kind_of(data.dtype) == "f":  # nan comes last in both orders
        return ops.neg(_extreme(ops.neg(data), ids, n, largest=True))
    return _extreme(data, ids, n, largest=False)


def _extreme(data: Tensor, ids: Tensor, n: Dim, largest: bool) -> Tensor:
    """By sorting rows by value and then, keeping that order, by segment."""
    ids = _from_front(ids, n)
    best = stop_gradient(_last_or_first(data, ids, n, largest))
    if kind_of(data.dtype) != "f":
        return best
    chosen = ops.gather(best, ids)
    winners = astype(ops.or_(ops.eq(data, chosen), ops.ne(data, data)), data.dtype)
    total = ops.scatter_add(winners, ids, shape=(n, *data.shape[1:]))
    shares = stop_gradient(divide(winners, ops.gather(maximum(total, 1), ids)))
    finite = where(isfinite(data), data, 0.0)
    movement = multiply(shares, subtract(finite, stop_gradient(finite)))  # zeros with the gradient of the winners
    return ops.add(best, ops.scatter_add(movement, ids, shape=(n, *data.shape[1:])))


def _from_front(ids: Tensor, n: Dim) -> Tensor:
    ids = astype(ids, np.int64)
    return where(ops.lt(ids, 0), ops.add(ids, dim(n)), ids)


def _last_or_first(data: Tensor, ids: Tensor, n: Dim, largest: bool) -> Tensor:
    if kind_of(data.dtype) == "f":
        empty: Any = -math.inf
    else:
        info = np.iinfo(data.dtype)
        empty = info.min if largest else info.max
    fill = as_tensor(np.asarray(empty, data.dtype))
    shape = (n, *data.shape[1:])
    if isinstance(data.shape[0], int) and data.shape[0] == 0:
        return broadcast_to(fill, shape)
    rows = reshape(data, (data.shape[0], -1 if 0 not in data.shape else math.prod(data.shape[1:])))
    order = ops.argsort(rows, axis=0)  # equal elements keep their order, so a second sort keeps the first
    numbers = _counter(rows.shape[1], 1, 2)
    by_segment = ops.argsort(ops.gather(ids, order), axis=0)
    order = ops.gather(order, by_segment, numbers)
    ordered = ops.argsort(ids, axis=0)
    ends = searchsorted(ops.gather(ids, ordered), _numbers(n), "right")
    starts = searchsorted(ops.gather(ids, ordered), _numbers(n), "left")
    place = ops.minimum(ops.maximum(ops.sub(ends, 1) if largest else starts, 0), dim(data.shape[0] - 1))
    picked = ops.gather(rows, ops.gather(order, place), numbers)
    exists = reshape(ops.lt(starts, ends), (n, 1))
    return reshape(where(exists, picked, fill), shape)


def _numbers(n: Dim) -> Tensor:
    return _counter(n, 0, 1)


def segment_prod(data: Any, segment_ids: Any, num_segments: Any = None) -> Tensor:
    """Products of the rows of each segment; 1 for one without rows. The number of rows must be known while tracing."""
    data, ids, n = _segments(data, segment_ids, num_segments)
    count = _fixed(data.shape[0], "data")
    one = as_tensor(np.ones((), data.dtype))
    if count == 0:
        return broadcast_to(one, (n, *data.shape[1:]))
    ids = _from_front(ids, n)
    order = ops.argsort(ids, axis=0)
    ids, y = ops.gather(ids, order), ops.gather(data, order)
    step = 1
    while step < count:  # afterwards a row is the product of `2 step` rows up to it, as far as its segment goes
        before = ops.concat(broadcast_to(one, (step, *data.shape[1:])), getitem(y, slice(0, count - step)), axis=0)
        same = ops.eq(getitem(ids, slice(step, count)), getitem(ids, slice(0, count - step)))
        same = ops.concat(as_tensor(np.zeros(step, bool)), same, axis=0)
        y = multiply(y, where(_per_row(same, y), before, one))
        step *= 2
    numbers = _numbers(n)
    ends, starts = (searchsorted(ids, numbers, side) for side in ("right", "left"))
    last = ops.minimum(ops.maximum(ops.sub(ends, 1), 0), dim(count - 1))
    return where(_per_row(ops.lt(starts, ends), y), ops.gather(y, last), one)


__all__ = ["segment_max", "segment_mean", "segment_min", "segment_prod", "segment_sum"]
