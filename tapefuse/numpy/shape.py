"""Making arrays, changing their shapes, joining and indexing them. Extents may be symbols inside a trace."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.op import Literal
from tapefuse.ir.ops.family import stretch
from tapefuse.ir.types import Dim, Poly, Shape, show_shape
from tapefuse.ir.types import divide as _divide
from tapefuse.ir.types import size as _size
from tapefuse.tracer.indexing import getitem
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, apply, as_tensor, check_dtype, constant, python_kind

Axis = int | Sequence[int] | None


# -- axes and shapes as users write them ----------------------------------------------------------------------------


def _axes(x: Tensor, axis: Axis) -> tuple[int, ...]:
    """Axes as sorted non-negative integers. Raises ShapeError."""
    given = range(x.ndim) if axis is None else [axis] if isinstance(axis, (int, np.integer)) else axis
    axes = sorted(_axis(x.ndim, a) for a in given)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"axis {axis} names an axis twice at {user_loc()}")
    return tuple(axes)


def _axis(rank: int, axis: Any) -> int:
    k = operator.index(axis)
    if not -rank <= k < rank:
        known = f"axes are {-rank}..{rank - 1}" if rank else "a scalar has no axes"
        raise ShapeError(f"axis {k} is out of range for a tensor of rank {rank} at {user_loc()}; {known}")
    return k % rank


def _shape(shape: Any) -> Shape:
    """A shape from an extent or a sequence of extents."""
    if isinstance(shape, (int, np.integer, Poly)):
        shape = (shape,)
    if isinstance(shape, (Operators, np.ndarray)):
        shape = np.asarray(shape).tolist()
    return tuple([d if isinstance(d, Poly) else operator.index(d) for d in shape])


# -- creation -------------------------------------------------------------------------------------------------------


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """`fill_value` everywhere; its dtype as for `constant` unless given."""
    return broadcast_to(constant(fill_value, dtype), shape)


def zeros(shape: Any, dtype: Any = np.float32) -> Tensor:
    """Zeros, float32 unless said otherwise."""
    return _filled(_shape(shape), 0, dtype)


def ones(shape: Any, dtype: Any = np.float32) -> Tensor:
    """Ones, float32 unless said otherwise."""
    return _filled(_shape(shape), 1, dtype)


def _filled(shape: Shape, value: int, dtype: Any) -> Tensor:
    scalar = np.asarray(value, check_dtype(dtype, "a value"))
    if state.trace is None:
        return as_tensor(np.full(shape, scalar))
    return broadcast_to(apply(ops.const, (), {"value": Literal(scalar)}), shape)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """`fill_value` in the shape and dtype of `x`."""
    x = as_tensor(x)
    return full(x.shape, fill_value, dtype or x.dtype)


def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros in the shape and dtype of `x`."""
    x = as_tensor(x)
    return zeros(x.shape, dtype or x.dtype)


def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Ones in the shape and dtype of `x`."""
    x = as_tensor(x)
    return ones(x.shape, dtype or x.dtype)


def dim(value: Dim, dtype: Any = np.int64) -> Tensor:
    """An extent, a symbol perhaps, as a number of shape ()."""
    if isinstance(value, Poly):
        return apply(ops.dim, (), {"value": value, "dtype": np.dtype(dtype)})
    return as_tensor(np.asarray(value, dtype))


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... below stop. Python ints give int32, floats float32, unless `dtype` says otherwise.

    `arange(x.shape[0])` works for a symbolic extent.
    """
    start, stop = (0, start) if stop is None else (start, stop)
    if isinstance(start, Poly) or isinstance(stop, Poly):
        if type(step) is not int or step != 1:
            raise ShapeError(f"arange over the symbolic extent {stop} at {user_loc()} takes a step of 1")
        return _counts(start, stop - start, dtype)
    if all(type(n) is int for n in (start, stop, step)) and step == 1 and np.dtype(dtype or np.int32).kind in "iuf":
        return _counts(start, max(stop - start, 0), dtype)  # in a trace no array, but what is counted as it is read
    numbers = [np.asarray(v).item() if isinstance(v, Operators) else v for v in (start, stop, step)]
    values = np.arange(*numbers)
    if dtype is None and all(python_kind(v) for v in numbers):
        dtype = np.float32 if values.dtype.kind == "f" else np.int32
    return constant(values, dtype)


def _counts(start: Dim, count: Dim, dtype: Any) -> Tensor:
    """start, start + 1, ...: so many."""
    dtype = np.dtype(dtype or np.int32)
    counts: Tensor = apply(ops.iota, (), {"shape": (count,), "axis": 0, "dtype": dtype})
    return counts if isinstance(start, int) and start == 0 else ops.add(counts, dim(start, dtype))


def linspace(start: Any, stop: Any, num: int = 50, dtype: Any = None) -> Tensor:
    """`num` evenly spaced numbers from start to stop inclusive, float32 for Python numbers."""
    values = np.linspace(np.asarray(start), np.asarray(stop), num)
    weak = python_kind(start) is not None and python_kind(stop) is not None
    return constant(values, dtype or (np.float32 if weak else None))


def eye(n: int, m: int | None = None, dtype: Any = np.float32) -> Tensor:
    """Ones on the diagonal of an n by m (n by n) matrix."""
    return as_tensor(np.eye(n, m, dtype=dtype))


# -- shapes ---------------------------------------------------------------------------------------------------------


def reshape(x: Any, shape: Any) -> Tensor:
    """The same elements in row-major order; one extent may be -1. Raises ShapeError."""
    x, shape = as_tensor(x), _shape(shape)
    unknown = [k for k, n in enumerate(shape) if isinstance(n, int) and n == -1]
    if len(unknown) > 1:
        raise ShapeError(f"reshape to {show_shape(shape)} at {user_loc()}: at most one extent may be -1")
    if unknown:
        rest = _size(n for k, n in enumerate(shape) if k != unknown[0])
        n = _divide(x.size, rest)
        if n is None:
            raise ShapeError(
                f"reshape of {x.type} ({x.size} elements) to {show_shape(shape)} at {user_loc()}: the extent -1 is "
                f"not a whole number, since the others make {rest}"
            )
        shape = (*shape[: unknown[0]], n, *shape[unknown[0] + 1 :])
    return x if shape == x.shape else ops.reshape(x, shape=shape)


def ravel(x: Any) -> Tensor:
    """All elements in row-major order along one axis."""
    return reshape(x, (as_tensor(x).size,))


def transpose(x: Any, axes: Any = None) -> Tensor:
    """Axes permuted; reversed if no order is given."""
    x = as_tensor(x)
    perm = tuple(reversed(range(x.ndim))) if axes is None else tuple([_axis(x.ndim, a) for a in axes])
    return x if perm == tuple(range(x.ndim)) else ops.transpose(x, perm=perm)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged."""
    x = as_tensor(x)
    a, b = _axis(x.ndim, axis1), _axis(x.ndim, axis2)
    return transpose(x, [b if k == a else a if k == b else k for k in range(x.ndim)])


def moveaxis(x: Any, source: Axis, destination: Axis) -> Tensor:
    """Axes moved to new positions, the others in their old order."""
    x = as_tensor(x)
    pair = [[v] if isinstance(v, int) else list(v or ()) for v in (source, destination)]
    moved, places = ([_axis(x.ndim, a) for a in axes] for axes in pair)
    order = [k for k in range(x.ndim) if k not in moved]
    for place, axis in sorted(zip(places, moved, strict=True)):
        order.insert(place, axis)
    return transpose(x, order)


def expand_dims(x: Any, axis: int | Sequence[int]) -> Tensor:
    """Axes of extent 1 inserted at these positions of the result."""
    x = as_tensor(x)
    given = [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    rank = x.ndim + len(given)
    places, extents = {_axis(rank, a) for a in given}, iter(x.shape)
    return reshape(x, [1 if k in places else next(extents) for k in range(rank)])


def squeeze(x: Any, axis: Axis = None) -> Tensor:
    """Axes of extent 1 dropped: all of them, or the given ones. Raises ShapeError if one has another extent."""
    x = as_tensor(x)
    axes = [k for k, n in enumerate(x.shape) if n == 1] if axis is None else _axes(x, axis)
    if any(x.shape[k] != 1 for k in axes):
        raise ShapeError(f"squeeze of axis {axis} of {x.type} at {user_loc()}: only axes of extent 1 can be dropped")
    return reshape(x, [n for k, n in enumerate(x.shape) if k not in axes])


def broadcast_to(x: Any, shape: Any) -> Tensor:
    """`x` repeated to `shape` by NumPy's rules. Raises ShapeError."""
    x, shape = as_tensor(x), _shape(shape)
    if x.shape == shape:
        return x
    tail = shape[len(shape) - x.ndim :] if len(shape) >= x.ndim else None
    if tail is None or any(n not in (1, m) for n, m in zip(x.shape, tail, strict=True)):
        raise ShapeError(
            f"{x.type} does not broadcast to {show_shape(shape)} at {user_loc()}: its extents must be equal or 1; "
            "reshape it first"
        )
    return stretch(x, shape)


def flip(x: Any, axis: Axis = None) -> Tensor:
    """Order reversed along axes (all by default)."""
    x = as_tensor(x)
    return ops.flip(x, axes=_axes(x, axis))


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: int | float = 0) -> Tensor:
    """`constant_values` put around `x`; `pad_width` as in NumPy: n, (before, after), or one pair for each axis."""
    x = as_tensor(x)
    if mode != "constant":
        raise ValueError(f"pad(mode={mode!r}) at {user_loc()} is not supported; use mode='constant'")
    pairs = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    low, high = (tuple([p[k] for p in pairs]) for k in (0, 1))
    return ops.pad(x, low=low, high=high, interior=(0,) * x.ndim, value=x.dtype.type(constant_values).item())


# -- joining and cutting --------------------------------------------------------------------------------------------


def concatenate(arrays: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Arrays one after the other along an axis; flattened first if `axis` is None."""
    if len(arrays) == 0:
        raise ValueError(f"concatenate at {user_loc()} needs at least one array")
    xs = common(*arrays)
    if axis is None:
        return ops.concat(*[ravel(x) for x in xs], axis=0)
    return ops.concat(*xs, axis=_axis(xs[0].ndim, axis))


def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """Arrays of one shape side by side along a new axis."""
    xs = common(*arrays)
    if len({x.shape for x in xs}) > 1:
        raise ShapeError(
            f"stack of {', '.join(str(x.type) for x in xs)} at {user_loc()}: the shapes must be equal; reshape or "
            "broadcast the operands first"
        )
    return concatenate([expand_dims(x, axis) for x in xs], _axis(xs[0].ndim + 1, axis))


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Equal parts along an axis, or parts that begin at the given positions."""
    x = as_tensor(x)
    k = _axis(x.ndim, axis)
    if isinstance(indices_or_sections, (int, np.integer)):
        width = _divide(x.shape[k], int(indices_or_sections))
        if width is None:
            raise ShapeError(
                f"split of {x.type} into {indices_or_sections} parts along axis {k} at {user_loc()} is uneven"
            )
        bounds: list[Dim] = [width * i for i in range(int(indices_or_sections) + 1)]
    else:
        bounds = [0, *indices_or_sections, x.shape[k]]
    lead = (slice(None),) * k
    return [getitem(x, (*lead, slice(a, b))) for a, b in pairwise(bounds)]


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """Entries at integer positions along an axis (of the flattened tensor by default); negative ones count from the
    end.

    Raises IndexOutOfRangeError, in compiled functions as well.
    """
    x = as_tensor(x) if axis is not None else ravel(x)
    return getitem(x, (*(slice(None),) * _axis(x.ndim, axis or 0), as_tensor(indices, np.int64)))


def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Tensor:
    """For each position of `indices`, the entry of `x` at that index along the axis."""
    x, indices = as_tensor(x), as_tensor(indices, np.int64)
    if axis is None:
        x, axis = ravel(x), 0
    if x.ndim != indices.ndim:
        raise ShapeError(f"take_along_axis of {x.type} by {indices.type} at {user_loc()}: the ranks must be equal")
    k = _axis(x.ndim, axis)
    grid = [indices if a == k else _counter(n, a, x.ndim) for a, n in enumerate(x.shape)]
    return ops.gather(x, *grid)


def _counter(n: Dim, axis: int, rank: int) -> Tensor:
    """0, 1, ..., n - 1 along one axis, extent 1 along the others."""
    shape = tuple([n if a == axis else 1 for a in range(rank)])
    return apply(ops.iota, (), {"shape": shape, "axis": axis, "dtype": np.dtype(np.int64)})


__all__ = [
    "arange",
    "broadcast_to",
    "concatenate",
    "dim",
    "expand_dims",
    "eye",
    "flip",
    "full",
    "full_like",
    "getitem",
    "linspace",
    "moveaxis",
    "ones",
    "ones_like",
    "pad",
    "ravel",
    "reshape",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "take",
    "take_along_axis",
    "transpose",
    "zeros",
    "zeros_like",
]
