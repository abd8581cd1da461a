"""One element of each row, named by an index, as a comparison with the numbers of the columns.

    y[i, k[i]] += v[i] into zeros      y[i, j] = (j == k[i]) ? v[i] : 0

Comparisons fuse with what reads the rows, where a scatter or gather needs all of them in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.passes.arithmetic import number
from tapefuse.ir.passes.checks import interval, never_negative
from tapefuse.ir.passes.checks import number as dimension
from tapefuse.ir.types import Dim, Shape, broadcast_shapes

_INT64 = ops.family.INT64


def one_hot(root: Value) -> Value | None:
    """y[i..., k[i...], r...] += v[i..., r...] for every row i, as y[i, j, r] = (j == k[i]) ? v[i, r] + 0 : 0.

    Rows differ, so no two additions meet; `+ 0` is what adding to a zero does to -0. Negative k wrap.
    """
    v, *indices = root.args
    found = hit(indices, root.shape)
    if found is None:
        return None
    m, zero = len(indices), number(0, v)
    rows = _reshaped(ops.add(v, zero), (*root.shape[: m - 1], 1, *root.shape[m:]))
    return ops.select(found, rows, zero)


def hit(indices: Sequence[Value], shape: Shape) -> Value | None:
    """Where column j of row i... is the one that the last index names for that row; None if rows have other indices.

    The other indices must count the rows, as in y[arange(B), k] or y[arange(B)[:, None], k[:, None]]. The result is
    one bool per row and column of `shape`, with 1 for its axes past those indexed, or broadcasts to that.
    """
    *counters, last = indices
    rows, columns = shape[: len(counters)], shape[len(counters)]
    together = broadcast_shapes(*(k.shape for k in indices))
    if not counters or together not in (rows, (*rows, 1)):
        return None
    if not all(_counts(k, axis, n, len(together)) for axis, (k, n) in enumerate(zip(counters, rows, strict=True))):
        return None
    k, rest = _wrapped(last, columns), (1,) * (len(shape) - len(indices))
    k = _reshaped(k, (*k.shape, *(1,) * (together == rows), *rest))
    numbers = ops.iota.emit(shape=(*(1,) * len(rows), columns, *rest), axis=len(rows), dtype=k.dtype)
    return ops.eq(k, numbers)


def _counts(v: Value, axis: int, n: Dim, rank: int) -> bool:
    """Whether `v`, broadcast to so many axes, is the position 0, 1, ..., n - 1 along `axis`."""
    shape = (*(1 for _ in range(rank - len(v.shape))), *v.shape)
    is_vector = shape == tuple(n if a == axis else 1 for a in range(rank))
    while v.op is ops.cast and _holds_sizes(v.dtype) or v.op is ops.reshape and is_vector:
        (v,) = v.args
    if v.op is not ops.iota or not _holds_sizes(v.dtype):
        return False
    along = v.attributes["axis"]
    if is_vector:
        return v.shape[along] == n
    return v.shape[along] == n and rank - len(v.shape) + along == axis


def _reshaped(v: Value, shape: Shape) -> Value:
    return v if v.shape == shape else ops.reshape(v, shape=shape)


def _holds_sizes(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and dtype.itemsize >= 4


def _wrapped(index: Value, n: Dim) -> Value:
    """The index in int64, counted from the front."""
    k = ops.cast(index, dtype=_INT64) if index.dtype != _INT64 else index
    if never_negative(interval(index)[0]):
        return k
    return ops.select(ops.lt(k, number(0, k)), ops.add(k, dimension(n, k.dtype)), k)
