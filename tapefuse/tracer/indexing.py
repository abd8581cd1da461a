"""`x[...]` with NumPy's meaning: slices and integers become slices and reshapes, integer arrays become a gather."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, IndexOutOfRangeError, ShapeError
from tapefuse._records import dataclass
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Dim, Poly, show_shape
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor


def getitem(x: Any, index: Any) -> Tensor:
    """`x[index]` for ints, slices, None, Ellipsis, integer arrays and (outside of traces) boolean masks.

    Raises IndexOutOfRangeError, and TypeError for anything else.
    """
    x = as_tensor(x)
    items = _without_masks(x, index if isinstance(index, tuple) else (index,))
    x, items = _expanded(x, items)
    items = [_checked(item, n) if isinstance(item, _MaskAxis) else item for item, n in zip(items, x.shape, strict=True)]
    arrays = [k for k, item in enumerate(items) if isinstance(item, Tensor)]
    if arrays:  # next to arrays, integers are arrays of rank 0
        arrays = [k for k, item in enumerate(items) if not isinstance(item, slice)]
    x = _sliced(x, [slice(None) if k in arrays else item for k, item in enumerate(items)])
    return _gathered(x, items, arrays) if arrays else x


def _without_masks(x: Tensor, items: tuple) -> list[Any]:
    """Arrays and lists as tensors, and each boolean mask as the integer arrays that it stands for."""
    out: list[Any] = []
    for item in items:
        if item is None or item is Ellipsis or isinstance(item, slice):
            out.append(item)
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            out.append(int(item))
        elif isinstance(item, (Operators, np.ndarray, list, tuple, bool, np.bool_)):
            array = as_tensor(item)
            if array.dtype.kind == "b":
                mask = _mask(array)
                out.extend(_MaskAxis(as_tensor(k), n) for k, n in zip(np.nonzero(mask), mask.shape, strict=True))
            elif array.dtype.kind in "iu":
                out.append(array)
            elif array.size == 0:
                out.append(as_tensor(item, np.int64))
            else:
                raise TypeError(
                    f"an index must be integer or bool, got dtype {array.dtype} at {user_loc()}; use tp.cast"
                )
        else:
            raise TypeError(
                f"x[{item!r}] at {user_loc()}: an index is an int, slice, None, ... or an integer or bool array"
            )
    return out


@dataclass(frozen=True, slots=True)
class _MaskAxis:
    """The positions along one axis where a mask is true, and the mask's extent there."""

    positions: Tensor
    extent: int


def _checked(item: _MaskAxis, n: Dim) -> Tensor:
    if item.extent != n:
        raise IndexOutOfRangeError(f"a mask of extent {item.extent} indexes an axis of extent {n} at {user_loc()}")
    return item.positions


def _mask(array: Tensor) -> np.ndarray:
    if array.ndim == 0:
        raise TypeError(f"a single bool as an index at {user_loc()} would add an axis; use tp.where or x[None]")
    try:
        return np.asarray(array)
    except ConcretizationError:
        raise ConcretizationError(
            f"the size of x[mask] at {user_loc()} depends on the mask's values; inside a tape_function use "
            "tp.where(mask, x, 0), which keeps the shape"
        ) from None


def _expanded(x: Tensor, items: list[Any]) -> tuple[Tensor, list[Any]]:
    """One item per axis: the ellipsis written out, and None as a full slice of an axis of extent 1."""
    n_used = sum(item is not None and item is not Ellipsis for item in items)
    if n_used > x.ndim:
        raise IndexOutOfRangeError(f"{n_used} indices for a tensor of shape {show_shape(x.shape)} at {user_loc()}")
    dots = [k for k, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexError(f"an index has two ellipses at {user_loc()}")
    where = dots[0] if dots else len(items)
    items = [*items[:where], *[slice(None)] * (x.ndim - n_used), *items[where + len(dots) :]]
    if any(item is None for item in items):
        extents = iter(x.shape)
        x = OPS["reshape"](x, shape=tuple([1 if item is None else next(extents) for item in items]))
    return x, [slice(None) if item is None else item for item in items]


@dataclass(frozen=True, slots=True)
class _Cut:
    """What one axis becomes: elements start, start + stride, ... below limit, reversed or dropped afterwards."""

    start: Dim
    limit: Dim
    stride: int = 1
    flip: bool = False
    drop: bool = False


def _sliced(x: Tensor, items: list[int | slice]) -> Tensor:
    cuts = [_cut(item, n, axis) for axis, (item, n) in enumerate(zip(items, x.shape, strict=True))]
    if any((c.start, c.limit, c.stride) != (0, n, 1) for c, n in zip(cuts, x.shape, strict=True)):
        starts, limits, strides = (tuple([getattr(c, a) for c in cuts]) for a in ("start", "limit", "stride"))
        x = OPS["slice"](x, starts=starts, limits=limits, strides=strides)
    if any(c.flip for c in cuts):
        x = OPS["flip"](x, axes=tuple([k for k, c in enumerate(cuts) if c.flip]))
    if any(c.drop for c in cuts):
        x = OPS["reshape"](x, shape=tuple([n for n, c in zip(x.shape, cuts, strict=True) if not c.drop]))
    return x


def _cut(item: int | slice, n: Dim, axis: int) -> _Cut:
    if isinstance(item, slice):
        return _symbolic_cut(item, n) if isinstance(n, Poly) else _fixed_cut(item, n)
    if not isinstance(n, Poly) and not -n <= item < n:
        raise IndexOutOfRangeError(f"index {item} is out of range for axis {axis} of extent {n} at {user_loc()}")
    start = item if item >= 0 else n + item
    return _Cut(start, start + 1, drop=True)


def _fixed_cut(item: slice, n: int) -> _Cut:
    count = range(*slice(*map(_plain, (item.start, item.stop, item.step))).indices(n))
    if len(count) == 0:
        return _Cut(0, 0)
    if count.step > 0:
        return _Cut(count.start, count[-1] + 1, count.step)
    return _Cut(count[-1], count.start + 1, -count.step, flip=True)


def _plain(bound: Any) -> int | None:
    return None if bound is None else bound.__index__()


def _symbolic_cut(item: slice, n: Poly) -> _Cut:
    """A slice of an axis whose extent is a symbol: bounds must lie inside, which is checked when the program runs."""
    step = 1 if item.step is None else int(item.step)
    if step == 0 or (step < 0 and (item.start, item.stop) != (None, None)):
        raise ShapeError(f"a slice of an axis of extent {n} at {user_loc()} needs a positive step, or be x[::-1]")
    start = 0 if item.start is None else _bound(item.start, n)
    limit = n if item.stop is None else _bound(item.stop, n)
    if step < -1:
        raise ShapeError(f"a step of {step} along an axis of extent {n} at {user_loc()}; flip first, then slice")
    return _Cut(start, limit, abs(step), flip=step < 0)


def _bound(bound: Any, n: Poly) -> Dim:
    if isinstance(bound, Poly):
        return bound
    bound = bound.__index__()
    return bound if bound >= 0 else n + bound


def _gathered(x: Tensor, items: list[Any], axes: list[int]) -> Tensor:
    """`x` indexed along `axes` by integer arrays that broadcast together, everything else kept."""
    indices = [items[a] if isinstance(items[a], Tensor) else as_tensor(np.int64(items[a])) for a in axes]
    rest = [a for a in range(x.ndim) if a not in axes]
    if axes + rest != list(range(x.ndim)):
        x = OPS["transpose"](x, perm=tuple(axes + rest))
    y = OPS["gather"](x, *indices)
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    front = axes[0] if together else 0  # NumPy: where the arrays stood if they stood together, else in front
    rank = y.ndim - len(rest)
    if front and rank:
        perm = [*range(rank, rank + front), *range(rank), *range(rank + front, y.ndim)]
        y = OPS["transpose"](y, perm=tuple(perm))
    return y
