"""`ufunc.at` and `ufunc.reduceat` on tensors: `np.add.at(x, [0, 0], 1.0)`, `np.maximum.reduceat(x, [0, 3, 5])`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, IndexOutOfRangeError
from tapefuse.ir import ops
from tapefuse.numpy.elementwise import astype, divide, logical_and, negative, where
from tapefuse.numpy.joining import concatenate
from tapefuse.numpy.segments import segment_max, segment_min, segment_prod, segment_sum
from tapefuse.numpy.selecting import take
from tapefuse.numpy.shape import (
    _axis,
    _fixed,
    broadcast_to,
    expand_dims,
    getitem,
    moveaxis,
    ravel,
    reshape,
)
from tapefuse.tracer.indexing import setitem
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, assume

Function = Callable[..., Tensor]
SEGMENTS: dict[np.ufunc, Function] = {
    np.add: segment_sum,
    np.multiply: segment_prod,
    np.maximum: segment_max,
    np.minimum: segment_min,
}


# -- reduceat ---------------------------------------------------------------------------------------------------------


def reduceat_method(ufunc: np.ufunc, reduce: Function) -> Function:
    """`ufunc.reduceat`: the reductions of x[i:j] for neighbours i, j among the indices, of x[i] alone where j <= i."""

    def reduceat(x: Any, indices: Any, axis: int = 0, dtype: Any = None, out: None = None) -> Tensor:
        x = as_tensor(x) if dtype is None else astype(x, dtype)
        k = _axis(x.ndim, axis)
        moved, at = moveaxis(x, k, 0), as_tensor(indices)
        if isinstance(at, TracedTensor):
            return moveaxis(_masked(moved, astype(at, np.int64), reduce), 0, k)
        starts, stops = _parts(at._array, _fixed(moved.shape[0], "the axis"), ufunc)
        return moveaxis(_of_parts(moved, starts, stops, ufunc, reduce), 0, k)

    return reduceat


def _parts(at: np.ndarray, n: int, ufunc: np.ufunc) -> tuple[np.ndarray, np.ndarray]:
    at = at.astype(np.int64) if at.size else np.zeros(0, np.int64)
    wrong = at[(at < 0) | (at >= n)]
    if wrong.size:
        raise IndexOutOfRangeError(
            f"index {wrong[0]} out-of-bounds in {ufunc.__name__}.reduceat [0, {n}) at {user_loc()}; give starts inside"
        )
    following = np.append(at[1:], n)
    return at, np.where(following > at, following, at + 1)


def _of_parts(x: Tensor, starts: np.ndarray, stops: np.ndarray, ufunc: np.ufunc, reduce: Function) -> Tensor:
    if not starts.size or ufunc not in SEGMENTS:
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        parts = [reduce(getitem(x, slice(a, b)), axis=0, keepdims=True) for a, b in pairs]
        return concatenate(parts) if parts else _as_summed(getitem(x, slice(0, 0)), reduce)
    places = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    numbers = np.repeat(np.arange(starts.size), stops - starts)
    return SEGMENTS[ufunc](_as_summed(take(x, places, axis=0), reduce), numbers, starts.size)


def _as_summed(x: Tensor, reduce: Function) -> Tensor:
    """In the dtype that a reduction has."""
    one = as_tensor(np.zeros(1, x.dtype))
    return astype(x, reduce(one, axis=0).dtype)


def _masked(x: Tensor, starts: Tensor, reduce: Function) -> Tensor:
    """For indices that a trace does not know: each part is all of `x`, of which what is outside does not count."""
    n = _fixed(x.shape[0], "the axis")
    first = take(x, starts, axis=0)  # and an error for starts that are not there
    following = concatenate([getitem(starts, slice(1, None)), as_tensor(np.array([n]))])
    stops = where(following > starts, following, starts + 1)
    places = as_tensor(np.arange(n))
    inside = logical_and(places >= expand_dims(starts, 1), places < expand_dims(stops, 1))
    inside = reshape(inside, (*inside.shape, *(1,) * (x.ndim - 1)))
    return reduce(where(inside, expand_dims(x, 0), _neutral(x, first, reduce)), axis=1)


def _neutral(x: Tensor, first: Tensor, reduce: Function) -> Tensor:
    """What changes no reduction: that over nothing, or where there is none (of extremes) an element that counts."""
    try:
        return as_tensor(reduce(getitem(x, slice(0, 0)), axis=0))
    except ValueError:
        return expand_dims(first, 1)


# -- at ---------------------------------------------------------------------------------------------------------------


def at_method(ufunc: np.ufunc, function: Function) -> Callable[..., Any]:
    """`ufunc.at`: x[indices] = function(x[indices], v), once for each time that an element is named."""

    name = f"np.{ufunc.__name__}"

    def at(x: Any, indices: Any, *operands: Any) -> None:
        if not isinstance(x, Operators):
            raise TypeError(
                f"{name}.at at {user_loc()}: it writes into an array, which cannot hold what is computed from tensors; "
                "make it a tensor with tp.constant first"
            )
        value = as_tensor(x)
        places = getitem(as_tensor(np.arange(value.size).reshape(value.shape)), indices)
        vs = [ravel(broadcast_to(common(value, v)[1], places.shape)) for v in operands]
        flat, k = ravel(value), ravel(places)
        new = _summed(ufunc, flat, k, vs) if ufunc in _ANY_ORDER else _in_rounds(name, function, flat, k, vs)
        _store(x, reshape(new if new.dtype == flat.dtype else setitem(flat, slice(None), new), value.shape))

    return at


def _store(x: Any, new: Tensor) -> None:
    if isinstance(x, Tensor):
        assume(x, new)
    else:
        x.assign(new)


_ANY_ORDER = (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum)


def _summed(ufunc: np.ufunc, flat: Tensor, places: Tensor, vs: list[Tensor]) -> Tensor:
    """Functions for which all values for one element can be put together first."""
    x, v = common(flat, vs[0])
    if ufunc in (np.add, np.subtract):
        return ops.add_at(x, v if ufunc is np.add else negative(v), places)
    n = _fixed(flat.shape[0], "the number of elements")
    if ufunc is np.divide:
        return divide(x, segment_prod(v, places, n))
    numbers = concatenate([as_tensor(np.arange(n)), places])
    return SEGMENTS[ufunc](concatenate([x, v]), numbers, n)


def _in_rounds(name: str, function: Function, flat: Tensor, places: Tensor, vs: list[Tensor]) -> Tensor:
    """One application for the elements that are named at least once, another for those named twice, ..."""
    if isinstance(places, TracedTensor):
        raise ConcretizationError(
            f"{name}.at at {user_loc()}: the indices are not known while tracing, and which elements are named twice "
            "depends on them; give indices as NumPy arrays"
        )
    order = np.argsort(places._array, kind="stable")
    ordered = places._array[order]
    number = np.arange(ordered.size) - np.searchsorted(ordered, ordered)  # how often it was named before
    for k in range(int(number.max(initial=-1)) + 1):
        now = np.sort(order[number == k])
        at = places._array[now]
        flat = setitem(flat, at, function(getitem(flat, at), *[getitem(v, now) for v in vs]))
    return flat


__all__ = ["at_method", "reduceat_method"]
