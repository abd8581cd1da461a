"""Sorting, and searching in what is sorted. nan comes last; equal elements keep their order.

Sorting is differentiable: a gradient goes back to the element that it belongs to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Dim, Poly
from tapefuse.numpy import lexicographic
from tapefuse.numpy.elementwise import real_only, subtract, where
from tapefuse.numpy.selecting import take, take_along_axis
from tapefuse.numpy.shape import _at_axis, _axis, _integers, _listed, _whole, flip, getitem, ravel
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import cast, common
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

_BYTE = np.dtype(np.uint8)
_KINDS = (None, "quicksort", "mergesort", "heapsort", "stable")


def _along(x: Any, axis: int | None, kind: Any = None, order: Any = None) -> tuple[Tensor, int]:
    """The tensor to be sorted (flattened if `axis` is None), and the axis."""
    if kind not in _KINDS and not (isinstance(kind, str) and kind[:1].lower() in "qmhs"):
        raise ValueError(f"{called()}: kind must be one of {_KINDS[1:]}, not {kind!r}; every sort here is stable")
    if order is not None:
        raise ValueError(f"{called()}: order={order!r} names fields, and tensors have none")
    x = as_tensor(x)
    return (ravel(x), 0) if axis is None else (x, _axis(x.ndim, axis))


def sort(x: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: bool | None = None) -> Tensor:
    """Elements in ascending order along an axis (of the flattened tensor if it is None), nan last."""
    x, k = _along(x, axis, kind, order)
    if x.dtype.kind == "c":
        return take_along_axis(x, argsort(x, k), k)
    if x.dtype.kind == "b":
        return cast(ops.sort(cast(x, _BYTE), axis=k), x.dtype)
    return ops.sort(x, axis=k)


def argsort(
    x: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: bool | None = None
) -> Tensor:
    """Positions (int64) that sort along an axis (of the flattened tensor if it is None)."""
    if as_tensor(x).ndim == 0 and axis in (0, -1):
        return argsort(x, None)  # a vector of one, as in NumPy
    x, k = _along(x, axis, kind, order)
    if x.dtype.kind == "c":
        return lexsort(lexicographic.keys(x), k)
    return ops.argsort(cast(x, _BYTE) if x.dtype.kind == "b" else x, axis=k)


def lexsort(keys: Any, axis: int = -1) -> Tensor:
    """Positions that sort by the last of several keys, equal ones by the key before, and so on."""
    given = [as_tensor(k) for k in keys]
    if not given:
        raise TypeError(f"{called()}: needs at least one key")
    if len({k.shape for k in given}) > 1:
        raise ShapeError(f"{called()}: keys have different shapes: {', '.join(str(k.type) for k in given)}")
    if given[0].ndim == 0:
        return as_tensor(np.int64(0))
    a = _axis(given[0].ndim, axis)
    order = argsort(given[0], a)
    for key in given[1:]:
        order = take_along_axis(order, argsort(take_along_axis(key, order, a), a), a)
    return order


def _check_kth(x: Tensor, kth: Any, axis: int) -> None:
    n = x.shape[axis]
    for k in _listed(np.asarray(kth) if isinstance(kth, Operators) else kth):
        k = _whole(k, "kth")
        if isinstance(n, int) and not -n <= k < n:
            raise ValueError(f"{called()}: kth(={k}) out of bounds ({n})")


def partition(x: Any, kth: Any, axis: int | None = -1, kind: str = "introselect", order: Any = None) -> Tensor:
    """Sorted along an axis: the k-th element stands where sorting puts it, and so do all others."""
    x, k = _along(x, axis, None, order)
    _check_kth(x, kth, k)
    return sort(x, k)


def argpartition(x: Any, kth: Any, axis: int | None = -1, kind: str = "introselect", order: Any = None) -> Tensor:
    """Positions that sort along an axis."""
    x, k = _along(x, axis, None, order)
    _check_kth(x, kth, k)
    return argsort(x, k)


def top_k(x: Any, k: Dim = 1, *, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest elements along an axis, largest first, and their positions (int64); of equal ones the first.

    nan counts as the largest.
    """
    x, k = as_tensor(x), k if isinstance(k, Poly) else _whole(k, "k")
    a = _axis(x.ndim, axis)
    n = x.shape[a]
    if isinstance(k, int) and (k < 0 or isinstance(n, int) and k > n):
        raise ValueError(f"{called()}: k={k} elements of {n} along axis {a} of {x.type}")
    order = flip(argsort(flip(x, a), a), a)  # ascending from the far end: equal elements come first one first
    positions = _at_axis(subtract(n - 1, order), a, slice(0, k))
    return take_along_axis(x, positions, a), positions


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Tensor:
    """Where elements of `v` would be put into the sorted vector `a`, int64; `side="right"`: behind equal elements."""
    if side not in ("left", "right"):
        raise ValueError(f"{called()}: side must be 'left' or 'right', not {side!r}")
    a, v = common(a, v)
    if a.ndim != 1:
        raise ShapeError(f"{called()}: what is searched must be a vector, not {a.type}")
    if sorter is not None:
        a = take(a, _sorter(sorter, a))
    if a.dtype.kind == "c":
        return _counted_below(a, v, side == "right")
    a, v = (cast(x, _BYTE) if x.dtype.kind == "b" else x for x in (a, v))
    return ops.searchsorted(a, v, lead=0, right=side == "right")


def _counted_below(a: Tensor, v: Tensor, or_equal: bool) -> Tensor:
    """How many elements of a vector of complex numbers are below (or equal to) each element of `v`."""
    compared = lexicographic.less_equal if or_equal else lexicographic.less
    below = compared(ops.reshape(a, shape=(1,) * v.ndim + a.shape), ops.reshape(v, shape=(*v.shape, 1)))
    return ops.reduce_sum(cast(below, np.dtype(np.int64)), axes=(v.ndim,))


def _sorter(sorter: Any, a: Tensor) -> Tensor:
    sorter = _integers(sorter)
    if sorter.shape != a.shape:
        raise ShapeError(f"{called()}: sorter {sorter.type} must be as long as {a.type}")
    return sorter


def digitize(x: Any, bins: Any, right: bool = False) -> Tensor:
    """The number of the bin that each element falls into; `right`: bins include their right edges.

    `bins` ascend or descend: ValueError if they do neither, where their values are known.
    """
    bins, x = as_tensor(bins), real_only(x)
    if bins.ndim != 1:
        raise ShapeError(f"{called()}: bins must be a vector, not {bins.type}")
    ascending = _is_ascending(bins)
    up = searchsorted(bins, x, "left" if right else "right")
    if ascending is True:
        return up
    down = subtract(bins.shape[0], searchsorted(flip(bins, 0), x, "right" if right else "left"))
    return down if ascending is False else where(ascending, up, down)


def _is_ascending(bins: Tensor) -> Any:
    """True or False, or a traced bool where that is known at run time only."""
    try:
        values = np.asarray(bins)
    except ConcretizationError:
        if bins.shape[0] == 0:
            return True
        return ops.le(getitem(bins, 0), getitem(bins, -1))
    if (values[1:] >= values[:-1]).all():
        return True
    if (values[1:] <= values[:-1]).all():
        return False
    raise ValueError(f"{called()}: bins must be monotonically increasing or decreasing")


__all__ = [
    "argpartition",
    "argsort",
    "digitize",
    "lexsort",
    "partition",
    "searchsorted",
    "sort",
    "top_k",
]
