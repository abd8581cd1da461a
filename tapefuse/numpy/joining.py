"""Arrays joined, cut apart, repeated and moved along axes. Where elements go is known while tracing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, IndexOutOfRangeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Poly, Shape
from tapefuse.ir.types import divide as _divide
from tapefuse.ir.types import size as _size
from tapefuse.numpy.elementwise import astype, mod, subtract
from tapefuse.numpy.shape import (
    Axis,
    _at_axis,
    _axis,
    _counter,
    _extents,
    _fixed,
    _listed,
    _refuse,
    _whole,
    atleast_1d,
    atleast_2d,
    atleast_3d,
    broadcast_to,
    expand_dims,
    getitem,
    moveaxis,
    ravel,
    reshape,
)
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor

# -- joining --------------------------------------------------------------------------------------------------------


def _operands(arrays: Any, dtype: Any, casting: Any) -> list[Tensor]:
    """The arrays to be joined, in one dtype. Raises as NumPy for none, or for what is no sequence."""
    if not hasattr(arrays, "__len__"):
        raise TypeError(f"{called()}: arrays to be joined are a sequence, such as a list, not {type(arrays).__name__}")
    if len(arrays) == 0:
        raise ValueError(f"{called()} needs at least one array")
    if dtype is None:
        return common(*arrays)
    tensors = [as_tensor(x) for x in arrays]
    for x in tensors:
        if not np.can_cast(x.dtype, dtype, casting):
            raise TypeError(f"{called()}: {x.dtype} does not become {np.dtype(dtype)} with casting={casting!r}")
    return [astype(x, dtype) for x in tensors]


def concatenate(
    arrays: Any, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Tensor:
    """Arrays one after the other along an axis; flattened first if `axis` is None."""
    _refuse(out)
    xs = _operands(arrays, dtype, casting)
    if axis is None:
        return ops.concat(*[ravel(x) for x in xs], axis=0)
    if any(x.ndim == 0 for x in xs):
        raise ShapeError(f"{called()}: zero-dimensional arrays cannot be joined; use stack, or axis=None")
    k, first = _axis(xs[0].ndim, axis), xs[0].shape
    if any(x.ndim != len(first) or x.shape[:k] != first[:k] or x.shape[k + 1 :] != first[k + 1 :] for x in xs):
        raise ShapeError(
            f"{called()}: {', '.join(str(x.type) for x in xs)} differ outside axis {k}; only the axis that is joined "
            "may differ: choose another axis, or reshape or slice the operands"
        )
    return ops.concat(*xs, axis=k)


concat = concatenate


def stack(arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> Tensor:
    """Arrays of one shape side by side along a new axis."""
    _refuse(out)
    xs = _operands(arrays, dtype, casting)
    if len({x.shape for x in xs}) > 1:
        raise ShapeError(
            f"stack of {', '.join(str(x.type) for x in xs)} at {user_loc()}: the shapes must be equal; reshape or "
            "broadcast the operands first"
        )
    k = _axis(xs[0].ndim + 1, axis)
    return ops.concat(*[expand_dims(x, k) for x in xs], axis=k)


def _all(function: Any, arrays: Any) -> list[Tensor]:
    found = function(*arrays)
    return list(found) if isinstance(found, tuple) else [found]


def hstack(arrays: Any, *, dtype: Any = None, casting: str = "same_kind") -> Tensor:
    """Arrays joined along the second axis; vectors along their only one."""
    xs = [atleast_1d(x) for x in _operands(arrays, dtype, casting)]
    return concatenate(xs, 0 if xs[0].ndim == 1 else 1)


def vstack(arrays: Any, *, dtype: Any = None, casting: str = "same_kind") -> Tensor:
    """Arrays joined along the first axis; vectors are rows."""
    return concatenate([atleast_2d(x) for x in _operands(arrays, dtype, casting)])


def dstack(arrays: Any) -> Tensor:
    """Arrays joined along the third axis; vectors are [1, n, 1], matrices [m, n, 1]."""
    return concatenate([atleast_3d(x) for x in _operands(arrays, None, "")], 2)


def column_stack(arrays: Any) -> Tensor:
    """Vectors as columns beside each other, and matrices."""
    xs = _operands(arrays, None, "")
    return concatenate([reshape(x, (x.size, 1)) if x.ndim < 2 else x for x in xs], 1)


def block(arrays: Any) -> Tensor:
    """Nested lists of blocks joined: the innermost lists along the last axis, those around them along the others."""
    depth = _depth(arrays)
    leaves = common(*_leaves(arrays))
    rank = max([depth, *[x.ndim for x in leaves]])
    parts = iter(leaves)

    def joined(node: Any, level: int) -> Tensor:
        if not isinstance(node, list):
            x = next(parts)
            return reshape(x, (*(1,) * (rank - x.ndim), *x.shape))
        return concatenate([joined(child, level + 1) for child in node], rank - depth + level)

    return joined(arrays, 0)


def _leaves(node: Any) -> list[Any]:
    return [leaf for child in node for leaf in _leaves(child)] if isinstance(node, list) else [node]


def _depth(node: Any) -> int:
    if not isinstance(node, list):
        return 0
    depths = {_depth(child) for child in node}
    if len(depths) != 1:
        raise ValueError(f"{called()}: lists of blocks must not be empty and must all be nested equally deep")
    return 1 + depths.pop()


def append(x: Any, values: Any, axis: int | None = None) -> Tensor:
    """`values` behind the elements of `x` along an axis; both are flattened if it is None."""
    return concatenate([x, values], axis)


# -- cutting --------------------------------------------------------------------------------------------------------


def _cut(x: Tensor, bounds: Sequence[Any], axis: int) -> list[Tensor]:
    return [_at_axis(x, axis, slice(a, b)) for a, b in pairwise(bounds)]


def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Equal parts along an axis, or parts that begin at the given positions."""
    x = as_tensor(x)
    k = _axis(x.ndim, axis)
    if hasattr(indices_or_sections, "__len__"):
        return array_split(x, indices_or_sections, k)
    parts = _whole(indices_or_sections, "the number of parts")
    width = _divide(x.shape[k], parts) if parts > 0 else None
    if width is None:
        raise ShapeError(f"{called()}: the split of {x.type} into {parts} parts along axis {k} is uneven")
    return _cut(x, [width * i for i in range(parts + 1)], k)


def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Like `split`; parts may differ by one element, the first ones being longer."""
    x = as_tensor(x)
    k = _axis(x.ndim, axis)
    if hasattr(indices_or_sections, "__len__"):
        given = np.asarray(indices_or_sections) if isinstance(indices_or_sections, Operators) else indices_or_sections
        return _cut(x, [0, *[_whole(i, "a position") for i in given], x.shape[k]], k)
    parts = _whole(indices_or_sections, "the number of parts")
    if parts <= 0:
        raise ValueError(f"{called()}: the number of parts must be positive, not {parts}")
    whole, longer = divmod(_fixed(x.shape[k], f"axis {k} of {x.type}"), parts)
    return _cut(x, [whole * i + min(i, longer) for i in range(parts + 1)], k)


def _split_along(axis: int, least: int, x: Any, indices_or_sections: Any) -> list[Tensor]:
    x = as_tensor(x)
    if x.ndim < least:
        raise ShapeError(f"{called()}: {x.type} must have at least {least} axes")
    return split(x, indices_or_sections, min(axis, x.ndim - 1))


def hsplit(x: Any, indices_or_sections: Any) -> list[Tensor]:
    """`split` along the second axis (the only one of a vector)."""
    return _split_along(1, 1, x, indices_or_sections)


def vsplit(x: Any, indices_or_sections: Any) -> list[Tensor]:
    """`split` along the first axis of an array with at least two."""
    return _split_along(0, 2, x, indices_or_sections)


def dsplit(x: Any, indices_or_sections: Any) -> list[Tensor]:
    """`split` along the third axis."""
    return _split_along(2, 3, x, indices_or_sections)


def unstack(x: Any, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The parts of extent 1 along an axis, without that axis."""
    x = as_tensor(x)
    k = _axis(x.ndim, axis) if x.ndim else _no_axes(x)
    return tuple([_at_axis(x, k, i) for i in range(_fixed(x.shape[k], f"axis {k} of {x.type}"))])


def _no_axes(x: Tensor) -> int:
    raise ShapeError(f"{called()}: {x.type} has no axis to take apart")


# -- repeating ------------------------------------------------------------------------------------------------------


def tile(x: Any, reps: Any) -> Tensor:
    """`x` repeated as a whole, `reps` times along each axis."""
    x, times = as_tensor(x), _extents(reps)
    rank = max(x.ndim, len(times))
    shape: Shape = (*(1,) * (rank - x.ndim), *x.shape)
    times = (*(1,) * (rank - len(times)), *times)
    if all(isinstance(r, int) and r == 1 for r in times):
        return reshape(x, shape)
    spread = tuple([d for r, n in zip(times, shape, strict=True) for d in (r, n)])
    copies = ops.broadcast(reshape(x, shape), shape=spread, axes=tuple(range(1, 2 * rank, 2)))
    return reshape(copies, [r * n for r, n in zip(times, shape, strict=True)])


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Each element (of the flattened tensor by default) repeated in place; `repeats` is one number or one for each.

    Several numbers must be known while tracing, since the result's shape depends on them.
    """
    x = as_tensor(x)
    x, k = (ravel(x), 0) if axis is None else (x, _axis(x.ndim, axis))
    n = x.shape[k]
    counts = _counts_of(repeats)
    if counts.size == 1:
        r = int(counts.reshape(()))
        if r < 0:
            raise ValueError(f"{called()}: repeats must not be negative, got {r}")
        copies = ops.broadcast(x, shape=(*x.shape[: k + 1], r, *x.shape[k + 1 :]),
                               axes=tuple([a + (a > k) for a in range(x.ndim)]))  # fmt: skip
        return reshape(copies, (*x.shape[:k], n * r, *x.shape[k + 1 :]))
    if counts.ndim != 1 or counts.shape != (n,):
        raise ShapeError(f"{called()}: {counts.size} repeats for the {n} elements along axis {k} of {x.type}")
    if (counts < 0).any():
        raise ValueError(f"{called()}: repeats must not be negative")
    return _at_axis(x, k, np.repeat(np.arange(len(counts)), counts))


def _counts_of(repeats: Any) -> np.ndarray:
    try:
        counts = np.asarray(repeats)
    except ConcretizationError:
        raise ConcretizationError(
            f"{called()}: the shape of the result depends on `repeats`, which is known at run time only; give a number "
            "or a NumPy array of counts"
        ) from None
    if counts.dtype.kind not in "iub":
        raise TypeError(f"{called()}: repeats must be integers, not {counts.dtype}")
    return counts.astype(np.int64)


def resize(x: Any, new_shape: Any) -> Tensor:
    """The elements in row-major order, over and over, in a new shape."""
    x, shape = as_tensor(x), _extents(new_shape)
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise ValueError(f"{called()}: extents must not be negative: {shape}")
    wanted, given = _size(shape), _fixed(x.size, "the array")
    if wanted == 0 or given == 0:
        return broadcast_to(as_tensor(np.zeros((), x.dtype)), shape)
    times = -(-_fixed(wanted, "the new shape") // given)
    return reshape(getitem(tile(ravel(x), times), slice(0, wanted)), shape)


# -- moving ---------------------------------------------------------------------------------------------------------


def roll(x: Any, shift: Any, axis: Axis = None) -> Tensor:
    """Elements moved along axes, those that leave coming in on the other side; `shift` may be a traced number."""
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    shifts, axes = _moves(shift), [_axis(x.ndim, a) for a in _listed(axis)]
    if len(shifts) != len(axes) and 1 not in (len(shifts), len(axes)):
        raise ShapeError(f"{called()}: {len(shifts)} shifts for {len(axes)} axes; one of each, or a single one")
    count = max(len(shifts), len(axes))
    for s, k in zip(shifts * (count // len(shifts)), axes * (count // len(axes)), strict=True):
        x = _rolled(x, s, k)
    return x


def _moves(shift: Any) -> list[Any]:
    if isinstance(shift, Operators):
        shift = as_tensor(shift)
        return [shift] if shift.ndim == 0 else [getitem(shift, i) for i in range(len(shift))]
    return list(_listed(shift))


def _rolled(x: Tensor, shift: Any, axis: int) -> Tensor:
    n = x.shape[axis]
    if isinstance(shift, Operators) or isinstance(n, Poly):
        counter = reshape(_counter(n, 0, 1), (n,))
        return _at_axis(x, axis, mod(subtract(counter, shift), n)) if n != 0 else x
    s = _whole(shift, "a shift") % n if n else 0
    return ops.concat(*_cut(x, [n - s, n], axis), *_cut(x, [0, n - s], axis), axis=axis) if s else x


# -- elements put in and left out -----------------------------------------------------------------------------------


def _known(obj: Any) -> Any:
    """Where something is put in or left out: a slice, an integer, or an array known while tracing."""
    if isinstance(obj, slice):
        return obj
    try:
        positions = np.asarray(obj)
    except ConcretizationError:
        raise ConcretizationError(
            f"{called()}: positions must be known while tracing; use tp.where with a mask, or do this outside"
        ) from None
    return positions if positions.size or positions.dtype.kind in "iub" else positions.astype(np.int64)


def delete(x: Any, obj: Any, axis: int | None = None) -> Tensor:
    """`x` without the elements at positions `obj` along an axis (of the flattened tensor by default)."""
    x = as_tensor(x)
    x, k = (ravel(x), 0) if axis is None else (x, _axis(x.ndim, axis))
    return _at_axis(x, k, _edited(np.delete, np.arange(_fixed(x.shape[k], f"axis {k} of {x.type}")), _known(obj)))


def insert(x: Any, obj: Any, values: Any, axis: int | None = None) -> Tensor:
    """`x` with `values`, in its dtype, put in before positions `obj` along an axis (flattened by default)."""
    x, where = as_tensor(x), _known(obj)
    x, k = (ravel(x), 0) if axis is None else (x, _axis(x.ndim, axis))
    new = astype(as_tensor(values, x.dtype), x.dtype)
    n = _fixed(x.shape[k], f"axis {k} of {x.type}")
    if isinstance(where, slice):
        where = np.arange(*where.indices(n))
    elif where.dtype.kind == "b":
        where = np.flatnonzero(where)
    if where.size == 1:
        new = reshape(new, (*(1,) * (x.ndim - new.ndim), *new.shape))
        new = moveaxis(new, 0, k) if where.ndim == 0 else new
        count = _fixed(new.shape[k], "values")
        where = np.broadcast_to(where.reshape(()), count)
    new = broadcast_to(new, (*x.shape[:k], len(where), *x.shape[k + 1 :]))
    order = _edited(np.insert, np.arange(n), where, np.arange(n, n + len(where)))
    return _at_axis(ops.concat(x, new, axis=k), k, order)


def _edited(function: Any, *args: Any) -> np.ndarray:
    try:
        return function(*args)
    except IndexError as error:
        raise IndexOutOfRangeError(f"{called()}: {error}") from None
    except ValueError as error:
        raise ShapeError(f"{called()}: {error}") from None


__all__ = [
    "append",
    "array_split",
    "block",
    "column_stack",
    "concat",
    "concatenate",
    "delete",
    "dsplit",
    "dstack",
    "hsplit",
    "hstack",
    "insert",
    "repeat",
    "resize",
    "roll",
    "split",
    "stack",
    "tile",
    "unstack",
    "vsplit",
    "vstack",
]
