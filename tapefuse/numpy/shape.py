"""Axes and extents as users write them, and functions that change shapes. Extents may be symbols inside a trace."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse._errors import AxisError, ConcretizationError, DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.ops.family import stretch
from tapefuse.ir.types import Dim, Poly, Shape, show_shape
from tapefuse.ir.types import broadcast_shapes as _broadcast_shapes
from tapefuse.ir.types import divide as _divide
from tapefuse.ir.types import size as _size
from tapefuse.tracer.applying import apply
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.indexing import getitem, setitem
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.rewriting.calls import unknown
from tapefuse.tracer.shortcuts import moved
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Deferred, Tensor, TracedTensor, as_tensor, still

Axis = int | Sequence[int] | None


# -- axes and shapes as users write them ----------------------------------------------------------------------------


def _axes(x: Tensor, axis: Axis) -> tuple[int, ...]:
    """Axes as sorted non-negative integers. Raises AxisError."""
    given = range(x.ndim) if axis is None else _listed(axis)
    axes = sorted(_axis(x.ndim, a) for a in given)
    if len(set(axes)) < len(axes):
        raise AxisError(f"{called()}: axis {axis} names an axis twice")
    return tuple(axes)


def _listed(axis: Any) -> Sequence[Any]:
    """An axis, or a sequence of them, as a sequence."""
    return [axis] if isinstance(axis, (int, np.integer)) or not hasattr(axis, "__iter__") else list(axis)


def _axis(rank: int, axis: Any) -> int:
    """An axis counted from the front. Raises AxisError, or DTypeError if it is no integer."""
    try:
        k = operator.index(axis)
    except TypeError:
        raise DTypeError(f"{called()}: an axis must be an integer, not {axis!r}") from None
    if not -rank <= k < rank:
        known = f"axes are {-rank}..{rank - 1}" if rank else "a scalar has no axes"
        raise AxisError(f"{called()}: axis {k} is out of range for a tensor of rank {rank}; {known}")
    return k % rank


def _shape(shape: Any) -> Shape:
    """A shape from an extent or a sequence of extents."""
    _refuse_traced(shape)
    if isinstance(shape, (int, np.integer, Poly)):
        shape = (shape,)
    if isinstance(shape, (Operators, np.ndarray)):
        shape = np.asarray(shape)
        shape = shape.tolist() if shape.ndim else (shape.item(),)
    try:
        return tuple([d if isinstance(d, Poly) else operator.index(d) for d in shape])
    except TypeError:
        raise DTypeError(f"{called()}: a shape is an integer or a sequence of integers, not {shape!r}") from None


def _refuse_traced(shape: Any) -> None:
    for d in shape if isinstance(shape, (tuple, list)) else (shape,):
        if isinstance(d, TracedTensor) and unknown(d):
            raise ConcretizationError(
                f"{called()}: the extent {d!r} is known only when the compiled function runs; give a Python number, "
                "x.shape[k] of a tensor, or the largest extent and use a mask"
            )


def _extents(shape: Any) -> Shape:
    """The shape of a new tensor. Raises ValueError."""
    extents = _shape(shape)
    if any(isinstance(d, int) and d < 0 for d in extents):
        raise ValueError(f"{called()}: negative dimensions are not allowed, got {show_shape(extents)}")
    return extents


def _fixed(n: Dim, what: str) -> int:
    """An extent that has to be known while tracing. Raises ShapeError."""
    if isinstance(n, Poly):
        raise ShapeError(
            f"{called()}: {what} has the extent {n}, which is known at run time only; fix its size in the TensorSpec"
        )
    return n


def _whole(n: Any, what: str) -> int:
    """A Python int from anything that is one. Raises DTypeError, ConcretizationError for traced values."""
    if isinstance(n, Operators):
        return int(np.asarray(n))
    try:
        return operator.index(n)
    except TypeError:
        raise DTypeError(f"{called()}: {what} must be an integer, not {n!r}") from None


def _integers(x: Any) -> Tensor:
    """Positions as a tensor: Python ints and empty lists as int64. Raises DTypeError for anything but integers."""
    x = as_tensor(x, np.int64 if python_kind(x) is int else None)
    if x.dtype.kind in "iu":
        return x
    if isinstance(x.size, int) and x.size == 0:
        return ops.cast(x, dtype=np.dtype(np.int64))
    raise DTypeError(f"{called()}: positions must be integers, not {x.dtype}; cast them first")


def _refuse(out: Any = None, **options: Any) -> None:
    """TypeError where an option of NumPy asks for something that tensors cannot do; those at their defaults pass."""
    if out is not None:
        raise TypeError(f"{called()}: out= writes into arrays; use what is returned, or x[...] = ...")
    for name, value in options.items():
        if name == "order" and value not in ("C", "K", "A"):
            raise ValueError(f"{called()}: order={value!r}: tensors are row-major; leave it out, or transpose")
        if name == "subok" and value not in (False, True, None) or name == "like" and value is not None:
            raise TypeError(f"{called()}: {name}={value!r} is not supported; leave it out")
        if name == "device" and value not in (None, "cpu"):
            raise ValueError(f"{called()}: device={value!r}: tensors are in the memory of the CPU; leave it out")


def _at_axis(x: Tensor, axis: int, index: Any) -> Tensor:
    """`x` indexed along one axis."""
    return getitem(x, (*(slice(None),) * axis, index))


def _counter(n: Dim, axis: int, rank: int, dtype: Any = np.int64) -> Tensor:
    """0, 1, ..., n - 1 along one axis, extent 1 along the others."""
    shape = tuple([n if a == axis else 1 for a in range(rank)])
    return apply(ops.iota, (), {"shape": shape, "axis": axis, "dtype": np.dtype(dtype)})


def dim(value: Dim, dtype: Any = np.int64) -> Tensor:
    """An extent, a symbol perhaps, as a number of shape ()."""
    if isinstance(value, Poly):
        return apply(ops.dim, (), {"value": value, "dtype": np.dtype(dtype)})
    return as_tensor(np.asarray(value, dtype))


# -- the same elements in another shape ------------------------------------------------------------------------------


def reshape(x: Any, shape: Any, order: str = "C", *, copy: bool | None = None) -> Tensor:
    """The same elements in row-major order (column-major: `order="F"`); one extent may be -1. Raises ShapeError."""
    if type(x) is Tensor and type(shape) in (tuple, int) and order == "C" and state.trace is None:
        try:
            array = x._array.reshape(shape)
        except (TypeError, ValueError):
            pass  # the long way says why
        else:
            return x if array.shape == x._array.shape else moved(ops.reshape, x, array, {"shape": array.shape})
    if type(x) is Deferred and type(shape) is tuple and -1 not in shape and shape != x.shape and order == "C":
        later = x._run.next(ops.reshape, {"shape": shape}, (x,))
        return reshape(x, shape) if later is None else later
    x, shape = as_tensor(x), _shape(shape)
    if order == "F":
        shape = _without_minus_one(x, shape)
        return transpose(reshape(transpose(x), shape[::-1]))
    if order not in ("C", "A"):
        raise ValueError(f"{called()}: order must be 'C', 'F' or 'A', not {order!r}")
    shape = _without_minus_one(x, shape)
    return x if shape == x.shape else ops.reshape(x, shape=shape)


def _without_minus_one(x: Tensor, shape: Shape) -> Shape:
    unknown = [k for k, n in enumerate(shape) if isinstance(n, int) and n == -1]
    if len(unknown) > 1:
        raise ShapeError(f"reshape to {show_shape(shape)} at {user_loc()}: at most one extent may be -1")
    if not unknown:
        return shape
    rest = _size(n for k, n in enumerate(shape) if k != unknown[0])
    n = _divide(x.size, rest)
    if n is None:
        raise ShapeError(
            f"reshape of {x.type} ({x.size} elements) to {show_shape(shape)} at {user_loc()}: the extent -1 is "
            f"not a whole number, since the others make {rest}"
        )
    return (*shape[: unknown[0]], n, *shape[unknown[0] + 1 :])


def ravel(x: Any, order: str = "C") -> Tensor:
    """All elements in row-major order (column-major: `order="F"`) along one axis."""
    x = as_tensor(x)
    if order not in ("C", "F", "A", "K"):
        raise ValueError(f"{called()}: order must be one of 'C', 'F', 'A' and 'K', not {order!r}")
    return reshape(transpose(x) if order == "F" else x, (x.size,))


def expand_dims(x: Any, axis: int | Sequence[int]) -> Tensor:
    """Axes of extent 1 inserted at these positions of the result."""
    x = as_tensor(x)
    given = _listed(axis)
    rank = x.ndim + len(given)
    places, extents = [_axis(rank, a) for a in given], iter(x.shape)
    if len(set(places)) < len(places):
        raise AxisError(f"{called()}: axis {axis} names an axis twice")
    return reshape(x, [1 if k in places else next(extents) for k in range(rank)])


def squeeze(x: Any, axis: Axis = None) -> Tensor:
    """Axes of extent 1 dropped: all of them, or the given ones. Raises ShapeError if one has another extent."""
    x = as_tensor(x)
    axes = [k for k, n in enumerate(x.shape) if n == 1] if axis is None else _axes(x, axis)
    if any(x.shape[k] != 1 for k in axes):
        raise ShapeError(f"squeeze of axis {axis} of {x.type} at {user_loc()}: only axes of extent 1 can be dropped")
    return reshape(x, [n for k, n in enumerate(x.shape) if k not in axes])


def atleast_1d(*xs: Any) -> Any:
    """Scalars as vectors of one element; a tuple of tensors if there are several operands."""
    return _each(lambda x: x if x.ndim >= 1 else reshape(x, (1,)), xs)


def atleast_2d(*xs: Any) -> Any:
    """Scalars and vectors as matrices of one row."""
    return _each(lambda x: x if x.ndim >= 2 else reshape(x, (1, x.size)), xs)


def atleast_3d(*xs: Any) -> Any:
    """With at least 3 axes: a vector becomes [1, n, 1], a matrix [m, n, 1]."""

    def three(x: Tensor) -> Tensor:
        return x if x.ndim >= 3 else reshape(x, (*x.shape, 1) if x.ndim == 2 else (1, x.size, 1))

    return _each(three, xs)


def _each(function: Any, xs: tuple) -> Any:
    results = tuple([function(as_tensor(x)) for x in xs])
    return results[0] if len(results) == 1 else results


# -- axes in another order -------------------------------------------------------------------------------------------


def transpose(x: Any, axes: Any = None) -> Tensor:
    """Axes permuted; reversed if no order is given."""
    if axes is None and type(x) is Tensor and state.trace is None:
        array = x._array
        return x if array.ndim < 2 else moved(ops.transpose, x, array.T.copy(), _reversed_axes(array.ndim))
    x = as_tensor(x)
    perm = tuple(reversed(range(x.ndim))) if axes is None else tuple([_axis(x.ndim, a) for a in axes])
    if sorted(perm) != list(range(x.ndim)):
        raise ShapeError(f"{called()}: axes {axes} do not name each axis of {x.type} once")
    return x if perm == tuple(range(x.ndim)) else ops.transpose(x, perm=perm)


@lru_cache(maxsize=64)
def _reversed_axes(rank: int) -> dict[str, Any]:
    return {"perm": tuple(range(rank - 1, -1, -1))}


def permute_dims(x: Any, axes: Any = None) -> Tensor:
    """Axes permuted: the array API's name of `transpose`."""
    return transpose(x, axes)


def matrix_transpose(x: Any) -> Tensor:
    """The last two axes exchanged."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"{called()}: {x.type} is no matrix and no stack of them; it needs 2 axes")
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged."""
    x = as_tensor(x)
    a, b = _axis(x.ndim, axis1), _axis(x.ndim, axis2)
    return transpose(x, [b if k == a else a if k == b else k for k in range(x.ndim)])


def moveaxis(x: Any, source: Axis, destination: Axis) -> Tensor:
    """Axes moved to new positions, the others in their old order."""
    x = as_tensor(x)
    moved, places = ([_axis(x.ndim, a) for a in _listed(v)] for v in (source, destination))
    if len(moved) != len(places):
        raise ShapeError(f"{called()}: {len(moved)} axes for {len(places)} places; one place for each axis is needed")
    if len(set(moved)) < len(moved) or len(set(places)) < len(places):
        raise AxisError(f"{called()}: an axis is named twice in {source} or {destination}")
    order = [k for k in range(x.ndim) if k not in moved]
    for place, axis in sorted(zip(places, moved, strict=True)):
        order.insert(place, axis)
    return transpose(x, order)


def rollaxis(x: Any, axis: int, start: int = 0) -> Tensor:
    """One axis moved in front of the axis that is now number `start`."""
    x = as_tensor(x)
    k = _axis(x.ndim, axis)
    place = start + x.ndim if start < 0 else start
    if not 0 <= place <= x.ndim:
        raise AxisError(f"{called()}: start {start} is out of range; it is at least {-x.ndim} and at most {x.ndim}")
    place -= k < place
    order = [a for a in range(x.ndim) if a != k]
    return transpose(x, [*order[:place], k, *order[place:]])


def flip(x: Any, axis: Axis = None) -> Tensor:
    """Order reversed along axes (all by default)."""
    x = as_tensor(x)
    return ops.flip(x, axes=_axes(x, axis))


def fliplr(x: Any) -> Tensor:
    """Columns (axis 1) in reverse order."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"{called()}: {x.type} has no columns; it needs 2 axes")
    return flip(x, 1)


def flipud(x: Any) -> Tensor:
    """Rows (axis 0) in reverse order."""
    x = as_tensor(x)
    if x.ndim < 1:
        raise ShapeError(f"{called()}: a scalar has no rows")
    return flip(x, 0)


def rot90(x: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Tensor:
    """The plane of two axes turned by k right angles, from the first axis towards the second."""
    x = as_tensor(x)
    if len(axes) != 2:
        raise ShapeError(f"{called()}: axes {axes} must be two axes")
    first, second = (_axis(x.ndim, a) for a in axes)
    if first == second:
        raise ShapeError(f"{called()}: axes {axes} must be different axes")
    turned = swapaxes(x, first, second) if k % 2 else x
    if k % 4 == 1:
        return flip(turned, first)
    if k % 4 == 2:
        return flip(x, (first, second))
    return flip(turned, second) if k % 4 == 3 else x


# -- broadcasting ----------------------------------------------------------------------------------------------------


def broadcast_to(x: Any, shape: Any, subok: bool = False) -> Tensor:
    """`x` repeated to `shape` by NumPy's rules. Raises ShapeError."""
    x, shape = as_tensor(x), _shape(shape)
    if x.shape == shape:
        return still(x)
    tail = shape[len(shape) - x.ndim :] if len(shape) >= x.ndim else None
    if tail is None or any(n not in (1, m) for n, m in zip(x.shape, tail, strict=True)):
        raise ShapeError(
            f"{called()}: {x.type} does not broadcast to {show_shape(shape)}: its extents must be equal or 1; reshape "
            "it first"
        )
    return stretch(x, shape)


def broadcast_shapes(*shapes: Any) -> Shape:
    """The shape that arrays of these shapes broadcast to. Raises ShapeError."""
    try:
        return _broadcast_shapes(*map(_shape, shapes))
    except ShapeError as error:
        raise ShapeError(f"{called()}: {error}") from None


def broadcast_arrays(*xs: Any, subok: bool = False) -> tuple[Tensor, ...]:
    """All operands repeated to one shape."""
    tensors = [as_tensor(x) for x in xs]
    shape = broadcast_shapes(*[x.shape for x in tensors])
    return tuple([broadcast_to(x, shape) for x in tensors])


__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "dim",
    "expand_dims",
    "flip",
    "fliplr",
    "flipud",
    "getitem",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "ravel",
    "reshape",
    "rollaxis",
    "rot90",
    "setitem",
    "squeeze",
    "swapaxes",
    "transpose",
]
