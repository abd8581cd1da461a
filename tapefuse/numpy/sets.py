"""Sets of elements. How many there are depends on values, so those must be known, or `size=` be given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Dim
from tapefuse.numpy.elementwise import astype, logical_not, real_only, where
from tapefuse.numpy.joining import concatenate
from tapefuse.numpy.selecting import first_true, take, values
from tapefuse.numpy.shape import _at_axis, _axis, _integers, _whole, broadcast_to, dim, getitem, ravel, reshape
from tapefuse.numpy.sorting import argsort, searchsorted, sort
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

_SIZE = "give size=, the most elements there can be"
_OUTSIDE = "compute it from NumPy arrays"


def unique(
    x: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False,
    axis: int | None = None, *, equal_nan: bool = True, sorted: bool = True, size: int | None = None,
    fill_value: Any = None,
) -> Any:  # fmt: skip
    """The different elements in ascending order; with the `return_` options also a tuple's further members.

    Those are where each stands first, which of them each element of `x` is, and how often each occurs. `axis`:
    different entries along an axis. With `size` that many, works on traced values: the last ones are left out, or
    `fill_value` (by default the smallest) put behind.
    """
    x = as_tensor(x)
    wanted = (return_index, return_inverse, return_counts)
    if size is not None:
        if axis is not None:
            raise ValueError(f"{called()}: size= is for elements; leave axis out")
        count = _whole(size, "size")
        if count < 0:
            raise ValueError(f"{called()}: size is {count}; it must not be negative")
        found = _unique_of_size(x, count, fill_value)
    else:
        found = _unique_of_values(x, axis, equal_nan)
    chosen = [found[0], *[part for part, is_wanted in zip(found[1:], wanted, strict=True) if is_wanted]]
    return tuple(chosen) if any(wanted) else chosen[0]


def _unique_of_values(x: Tensor, axis: int | None, equal_nan: bool) -> list[Tensor]:
    k = None if axis is None else _axis(x.ndim, axis)
    _, index, inverse, counts = np.unique(values(x, _SIZE), True, True, True, k, equal_nan=equal_nan)
    return [take(x, index, k), *map(as_tensor, (index, inverse, counts))]


def _unique_of_size(x: Tensor, size: int, fill_value: Any) -> list[Tensor]:
    flat = ravel(x)
    if flat.shape[0] == 0:
        raise ShapeError(f"{called()}: {x.type} has no element to put into {size} places")
    order = argsort(flat)
    ordered = ops.gather(flat, order)
    is_new = _differs(ordered)
    positions, exists = first_true(is_new, size + 1)  # one more, where the last one of them ends
    ends = where(getitem(exists, slice(1, size + 1)), getitem(positions, slice(1, size + 1)), dim(flat.shape[0]))
    positions, exists = getitem(positions, slice(0, size)), getitem(exists, slice(0, size))
    smallest = _at_axis(ordered, 0, 0)
    fill = smallest if fill_value is None else astype(as_tensor(fill_value, x.dtype), x.dtype)
    elements = where(exists, ops.gather(ordered, positions), fill)
    rank = ops.sub(ops.cumsum(astype(is_new, np.int64), axis=0, reverse=False), 1)
    back = ops.scatter_add(rank, order, shape=flat.shape)
    counts = where(exists, ops.sub(ends, positions), dim(0))
    return [elements, where(exists, ops.gather(order, positions), dim(0)), reshape(back, x.shape), counts]


def _differs(ordered: Tensor) -> Tensor:
    """Whether each element differs from the one before it; nan equals nan."""
    before, after = getitem(ordered, slice(0, ordered.shape[0] - 1)), getitem(ordered, slice(1, ordered.shape[0]))
    differs = ops.ne(after, before)
    if kind_of(ordered.dtype) in "fc":
        differs = ops.and_(differs, ops.or_(ops.eq(after, after), ops.eq(before, before)))
    return ops.concat(as_tensor(np.ones(1, bool)), differs, axis=0)


class UniqueAll(NamedTuple):
    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Any) -> UniqueAll:
    """Different elements, where each stands first, which of them each element is, and how often each occurs."""
    return UniqueAll(*unique(x, True, True, True, equal_nan=False))


def unique_counts(x: Any) -> UniqueCounts:
    """Different elements and how often each occurs."""
    return UniqueCounts(*unique(x, return_counts=True, equal_nan=False))


def unique_inverse(x: Any) -> UniqueInverse:
    """Different elements and which of them each element of `x` is."""
    return UniqueInverse(*unique(x, return_inverse=True, equal_nan=False))


def unique_values(x: Any) -> Tensor:
    """Different elements, in ascending order."""
    result: Tensor = unique(x, equal_nan=False)
    return result


# -- of two arrays --------------------------------------------------------------------------------------------------


def isin(
    element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: str | None = None
) -> Tensor:
    """Whether each element is among the test elements."""
    x, tests = common(element, test_elements)
    n = tests.size
    if isinstance(n, int) and n == 0:
        found = broadcast_to(as_tensor(np.zeros((), bool)), x.shape)
    else:
        ordered = sort(ravel(tests))
        found = ops.eq(ops.gather(ordered, _clipped(searchsorted(ordered, x), n)), x)
    return logical_not(found) if invert else found


def _clipped(positions: Tensor, n: Dim) -> Tensor:
    return ops.maximum(ops.minimum(positions, dim(n - 1)), dim(0))


def intersect1d(x: Any, y: Any, assume_unique: bool = False, return_indices: bool = False) -> Any:
    """The elements that both have, in ascending order."""
    a, b = (ravel(t) for t in common(x, y))
    _, first, second = np.intersect1d(values(a, _OUTSIDE), values(b, _OUTSIDE), assume_unique, True)
    found = take(a, first)
    return (found, as_tensor(first), as_tensor(second)) if return_indices else found


def union1d(x: Any, y: Any) -> Tensor:
    """The elements that either has, in ascending order."""
    result: Tensor = unique(concatenate([x, y], axis=None))
    return result


def setdiff1d(x: Any, y: Any, assume_unique: bool = False) -> Tensor:
    """The elements that only the first has, in ascending order unless `assume_unique`."""
    a, b = ravel(x), ravel(y)
    a = a if assume_unique else unique(a)
    return take(a, np.flatnonzero(~np.isin(values(a, _OUTSIDE), values(b, _OUTSIDE))))


def setxor1d(x: Any, y: Any, assume_unique: bool = False) -> Tensor:
    """The elements that just one of them has, in ascending order."""
    a, b = (ravel(t) if assume_unique else unique(ravel(t)) for t in common(x, y))
    together = sort(concatenate([a, b]))
    known = values(together, _OUTSIDE)
    edges = np.concatenate([[True], known[1:] != known[:-1], [True]])
    return take(together, np.flatnonzero(edges[1:] & edges[:-1]))


def bincount(x: Any, weights: Any = None, minlength: int = 0, *, length: int | None = None) -> Tensor:
    """How often each number from 0 on occurs in a vector, or the sum of the weights that it occurs with.

    The result is as long as the largest number and `minlength` need; `length` fixes it, which traced values need.
    """
    x = as_tensor(x)
    if x.ndim != 1:
        raise ShapeError(f"{called()}: {x.type} must be a vector")
    x = astype(x, np.int64) if x.dtype.kind == "b" else _integers(x)
    if length is None:
        known = values(x, "give length=, one more than the largest number there can be")
        if known.size and known.min() < 0:
            raise ValueError(f"{called()}: numbers to be counted must not be negative")
        length = max(int(known.max()) + 1 if known.size else 0, minlength)
    if weights is None:
        counts = broadcast_to(as_tensor(np.int64(1)), x.shape)
    else:
        counts = real_only(weights)
        counts = counts if kind_of(counts.dtype) == "f" and counts.dtype.itemsize == 8 else astype(counts, np.float64)
        if counts.shape != x.shape:
            raise ShapeError(f"{called()}: the weights {counts.type} and numbers {x.type} must have one length")
    return ops.scatter_add(counts, x, shape=(length,))


__all__ = [
    "bincount",
    "intersect1d",
    "isin",
    "setdiff1d",
    "setxor1d",
    "union1d",
    "unique",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
]
