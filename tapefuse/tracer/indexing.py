"""`x[...]` and `x[...] = v` with NumPy's meaning.

Read: slices and integers become slices and reshapes, integer arrays become a gather. Written: slices and integers
become a `put`, integer arrays a `put_at`, masks that are known at run time only a choice between old and new.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, DTypeError, IndexOutOfRangeError, ShapeError
from tapefuse._records import dataclass
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Dim, Poly, Shape, broadcast_shapes, show_dtype, show_shape
from tapefuse.tracer import shortcuts
from tapefuse.tracer.applying import apply
from tapefuse.tracer.arrays import python_kind, takes
from tapefuse.tracer.cuts import AxisCut, as_dim, cut, deferred, known_cut, position
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Deferred, Readable, Tensor, TracedTensor, as_tensor, still


def getitem(x: Any, index: Any) -> Tensor:
    """`x[index]` for ints, slices, None, Ellipsis, integer arrays and boolean masks; inside of a trace a mask must be
    known, or the result is there for updates only (`x[mask] += 1`).

    The result keeps its value when something is stored into `x`. Raises IndexOutOfRangeError, and TypeError for
    anything else.
    """
    x = x if type(x) is Tensor else as_tensor(x)
    if (type(x) is Tensor or type(x) is Deferred) and (plain := known_cut(x, index)) is not None:
        return shortcuts.item(x, plain)
    given = index if isinstance(index, tuple) else (index,)
    if (found := _traced_mask(x, given)) is not None:
        return Selection(x, *found)  # type: ignore[return-value]
    if _is_single_bool(given):
        return getitem(getitem(x, None), _taken(given[0]))
    wide, items, cuts, arrays = _parts(x, given)
    y = _cut_out(wide, cuts)
    y = _gathered(y, items, arrays) if arrays else y
    return still(y) if y is x else y


def setitem(x: Any, index: Any, value: Any) -> Tensor:
    """A tensor like `x` whose elements at `index` are those of `value`, which is broadcast and cast to fit.

    Takes every index that `getitem` takes. Raises IndexOutOfRangeError, ShapeError, DTypeError.
    """
    x = as_tensor(x)
    given = index if isinstance(index, tuple) else (index,)
    if (found := _traced_mask(x, given)) is not None:
        return _chosen(x, *found, value)
    if _is_single_bool(given):
        return OPS["reshape"](setitem(getitem(x, None), _taken(given[0]), value), shape=x.shape)
    v = _as_stored(value, x.dtype)
    wide, items, cuts, arrays = _parts(x, given)
    y = _stored_at(wide, items, cuts, arrays, v) if arrays else _stored(wide, cuts, v)
    return y if y.shape == x.shape else OPS["reshape"](y, shape=x.shape)


def _is_single_bool(given: tuple) -> bool:
    if len(given) != 1 or isinstance(given[0], (list, tuple, slice)):
        return False
    kind = type(given[0])
    return kind is bool or getattr(given[0], "shape", None) == () and np.dtype(given[0].dtype).kind == "b"


def _taken(mask: Any) -> np.ndarray:
    """What a mask without axes takes of the axis of extent 1 that it puts before the others: all or nothing."""
    return np.zeros(int(bool(mask)), np.int64)


def _parts(x: Tensor, given: tuple) -> tuple[Tensor, list[Any], list[AxisCut], list[int]]:
    """`x` with the axes that None inserts, an item and a cut for each axis, and which of them integer arrays index."""
    x, items = _expanded(x, _without_masks(x, given))
    items = [
        _checked(item, n) if isinstance(item, _MaskAxis) else deferred(item, n)
        for item, n in zip(items, x.shape, strict=True)
    ]
    arrays = [k for k, item in enumerate(items) if isinstance(item, Tensor)]
    if arrays:  # next to arrays, integers are arrays of rank 0
        arrays = [k for k, item in enumerate(items) if not isinstance(item, slice)]
    whole = slice(None)
    cuts = [cut(whole if k in arrays else item, n, k) for k, (item, n) in enumerate(zip(items, x.shape, strict=True))]
    return x, items, cuts, arrays


def _without_masks(x: Tensor, items: tuple) -> list[Any]:
    """Arrays and lists as tensors, and each boolean mask as the integer arrays that it stands for."""
    out: list[Any] = []
    for item in items:
        if item is None or item is Ellipsis or isinstance(item, slice):
            out.append(item)
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            out.append(int(item))
        elif isinstance(item, Poly):
            out.append(position(item))
        elif isinstance(item, (Operators, np.ndarray, list, tuple, bool, np.bool_)):
            array = as_tensor(item)
            if array.dtype.kind == "b":
                mask = _mask(array)
                out.extend(_MaskAxis(as_tensor(k), n) for k, n in zip(np.nonzero(mask), mask.shape, strict=True))
            elif array.dtype.kind in "iu":
                d = as_dim(array)
                out.append(array if d is None else position(d))
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
        raise TypeError(f"a single bool among the indices at {user_loc()} would add an axis; use tp.where or x[None]")
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


def _cut_out(x: Tensor, cuts: list[AxisCut]) -> Tensor:
    if any((c.start, c.limit, c.stride) != (0, n, 1) for c, n in zip(cuts, x.shape, strict=True)):
        starts, limits, strides = (tuple([getattr(c, a) for c in cuts]) for a in ("start", "limit", "stride"))
        x = OPS["slice"](x, starts=starts, limits=limits, strides=strides)
    if any(c.flip for c in cuts):
        x = OPS["flip"](x, axes=tuple([k for k, c in enumerate(cuts) if c.flip]))
    if any(c.drop for c in cuts):
        x = OPS["reshape"](x, shape=tuple([n for n, c in zip(x.shape, cuts, strict=True) if not c.drop]))
    return x


def _gathered(x: Tensor, items: list[Any], axes: list[int]) -> Tensor:
    """`x` indexed along `axes` by integer arrays that broadcast together, everything else kept."""
    indices = [items[a] if isinstance(items[a], Tensor) else as_tensor(items[a], np.int64) for a in axes]
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


# -- storing -------------------------------------------------------------------------------------------------------
def _as_stored(value: Any, dtype: np.dtype) -> Tensor:
    """A value in the dtype of the tensor that it is stored into. Raises DTypeError where that would lose fractions."""
    kind = python_kind(value)
    v = as_tensor(value, dtype if kind and takes(dtype, np.dtype(kind)) else None)
    if v.dtype == dtype:
        return v
    if not np.can_cast(v.dtype, dtype, "same_kind"):
        raise DTypeError(
            f"x[...] = value at {user_loc()}: the value is {show_dtype(v.dtype)}, x is {show_dtype(dtype)}; say how to "
            f"convert it: tp.cast(value, x.dtype)"
        )
    return OPS["cast"](v, dtype=dtype)


def _fitted(v: Tensor, shape: Shape) -> Tensor:
    """A value broadcast to the shape of what it replaces; NumPy ignores axes of extent 1 in front."""
    extra = v.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in v.shape[:extra]):
        v = OPS["reshape"](v, shape=v.shape[extra:])
    pairs = zip(v.shape, shape[len(shape) - v.ndim :], strict=True) if v.ndim <= len(shape) else [(0, 2)]
    if any(n not in (1, m) for n, m in pairs):
        raise ShapeError(
            f"x[...] = value at {user_loc()}: the value has shape {show_shape(v.shape)}, what it replaces "
            f"{show_shape(shape)}; it must be equal, or 1, or missing, along each axis"
        )
    return functions.broadcast_to(v, shape)


def _stored(x: Tensor, cuts: list[AxisCut], v: Tensor) -> Tensor:
    """`x` with `v` in a region of slices and integers."""
    starts, limits, strides = (tuple([getattr(c, a) for c in cuts]) for a in ("start", "limit", "stride"))
    region = OPS["slice"].infer(x.type, starts=starts, limits=limits, strides=strides).shape
    v = _fitted(v, tuple([n for n, c in zip(region, cuts, strict=True) if not c.drop]))
    v = v if v.shape == region else OPS["reshape"](v, shape=region)
    if any(c.flip for c in cuts):
        v = OPS["flip"](v, axes=tuple([k for k, c in enumerate(cuts) if c.flip]))
    return OPS["put"](x, v, starts=starts, strides=strides)


def _stored_at(x: Tensor, items: list[Any], cuts: list[AxisCut], arrays: list[int], v: Tensor) -> Tensor:
    """`x` with `v` at integer arrays. Slices before the last array, or in front of shorter ones, become arrays too."""
    short = [k for k, (c, n) in enumerate(zip(cuts, x.shape, strict=True)) if (c.start, c.limit, c.stride) != (0, n, 1)]
    last = max(arrays + short + [k for k, c in enumerate(cuts) if c.flip])
    given = {a: items[a] if isinstance(items[a], Tensor) else as_tensor(_int64(items[a])) for a in arrays}
    rank = max(i.ndim for i in given.values())
    together = arrays == list(range(arrays[0], arrays[-1] + 1))
    sliced = [a for a in range(last + 1) if a not in given]
    before = [a for a in sliced if a < arrays[0]] if together else []  # NumPy: the arrays' axes stay there, or go first
    after = [a for a in sliced if a not in before]
    for a in arrays:
        given[a] = _with_units(given[a], len(after))
    for k, a in enumerate(before):
        given[a] = _with_units(_positions(x.shape[a], cuts[a]), len(before) - k - 1 + rank + len(after))
    for k, a in enumerate(after):
        given[a] = _with_units(_positions(x.shape[a], cuts[a]), len(after) - k - 1)
    idx = [given[a] for a in range(last + 1)]
    return OPS["put_at"](x, _fitted(v, (*broadcast_shapes(*(i.shape for i in idx)), *x.shape[last + 1 :])), *idx)


def _int64(d: Dim) -> Any:
    return d if isinstance(d, Poly) else np.int64(d)


def _with_units(x: Tensor, count: int) -> Tensor:
    return OPS["reshape"](x, shape=(*x.shape, *[1] * count)) if count else x


def _positions(n: Dim, cut: AxisCut) -> Tensor:
    """The indices along an axis of extent `n` that a slice takes."""
    return _cut_out(apply(OPS["iota"], (), {"shape": (n,), "axis": 0, "dtype": np.dtype(np.int64)}), [cut])


# -- masks that are known at run time only -------------------------------------------------------------------------
def _traced_mask(x: Tensor, items: tuple) -> tuple[Tensor, int] | None:
    """The mask among the items whose values are not known, and the first axis it indexes, if all others are `:`."""
    masks = [k for k, item in enumerate(items) if _is_unknown_mask(item)]
    if not masks:
        return None
    (k, *others), mask = masks, as_tensor(items[masks[0]])
    rest = [item for j, item in enumerate(items) if j != k]
    if others or not all(item is Ellipsis or isinstance(item, slice) and item == slice(None) for item in rest):
        raise _size_unknown("x[..., mask, ...]")
    dots = [j for j, item in enumerate(items) if item is Ellipsis]
    axis = k if not dots or dots[0] > k else x.ndim - mask.ndim - (len(items) - k - 1)
    found = x.shape[axis : axis + mask.ndim]
    if mask.shape != found:
        raise IndexOutOfRangeError(
            f"a mask of shape {show_shape(mask.shape)} indexes axes of shape {show_shape(found)} at {user_loc()}"
        )
    return mask, axis


def _is_unknown_mask(item: Any) -> bool:
    if not isinstance(item, Operators) or isinstance(item, Selection):
        return False
    mask = as_tensor(item)
    if not isinstance(mask, TracedTensor) or mask.dtype.kind != "b" or not mask.ndim:
        return False
    return mask._trace.constant_value(mask._value) is None


def _size_unknown(what: str) -> ConcretizationError:
    return ConcretizationError(
        f"the size of {what} at {user_loc()} depends on the mask's values; inside a tape_function use "
        "tp.where(mask, x, 0), which keeps the shape"
    )


class Selection(Readable):
    """`x[mask]` for a mask that is known at run time only: it has no size, so it can only be computed with, element by
    element, and stored at the same mask: `x[mask] += 1`, `x[mask] = 2 * y[mask]`."""

    __slots__ = ("_axis", "_error", "_full", "_mask")
    _full: Tensor  # what is selected where the mask is true, any finite numbers elsewhere

    def __init__(self, x: Tensor, mask: Tensor, axis: int):
        self._mask, self._axis, self._error = mask, axis, _size_unknown("x[mask]")
        self._full = functions.where(_spread_mask(mask, axis, x.ndim), x, np.ones((), x.dtype))

    def read(self) -> Tensor:
        raise self._error

    @property
    def dtype(self) -> np.dtype:
        return self._full.dtype

    @property
    def shape(self) -> Shape:
        raise self._error

    def _with(self, function: Any, other: Any, is_left: bool = True) -> Selection:
        full = self._fit(other)
        result: Selection = Selection.__new__(Selection)
        result._mask, result._axis, result._error = self._mask, self._axis, self._error
        result._full = function(self._full, full) if is_left else function(full, self._full)
        return result

    def _fit(self, other: Any) -> Any:
        """What is stored at the mask, with the axes of the whole tensor."""
        if isinstance(other, Selection):
            if (
                other._mask.type != self._mask.type
                or not _is_same(other._mask, self._mask)
                or other._axis != self._axis
            ):
                raise self._error
            return other._full
        if python_kind(other) is not None:
            return other
        return _spread(as_tensor(other), self._full.ndim - self._axis - self._mask.ndim, self._mask.ndim)

    # fmt: off
    def __add__(self, other: Any) -> Any: return self._with(functions.add, other)
    def __radd__(self, other: Any) -> Any: return self._with(functions.add, other, False)
    def __sub__(self, other: Any) -> Any: return self._with(functions.subtract, other)
    def __rsub__(self, other: Any) -> Any: return self._with(functions.subtract, other, False)
    def __mul__(self, other: Any) -> Any: return self._with(functions.multiply, other)
    def __rmul__(self, other: Any) -> Any: return self._with(functions.multiply, other, False)
    def __truediv__(self, other: Any) -> Any: return self._with(functions.divide, other)
    def __rtruediv__(self, other: Any) -> Any: return self._with(functions.divide, other, False)
    def __floordiv__(self, other: Any) -> Any: return self._with(functions.floor_divide, other)
    def __mod__(self, other: Any) -> Any: return self._with(functions.mod, other)
    def __pow__(self, other: Any) -> Any: return self._with(functions.power, other)
    def __and__(self, other: Any) -> Any: return self._with(functions.bitwise_and, other)
    def __or__(self, other: Any) -> Any: return self._with(functions.bitwise_or, other)
    def __xor__(self, other: Any) -> Any: return self._with(functions.bitwise_xor, other)
    def __neg__(self) -> Any: return self._with(lambda x, _: functions.negative(x), 0)
    # fmt: on


def _is_same(a: Tensor, b: Tensor) -> bool:
    return isinstance(a, TracedTensor) and isinstance(b, TracedTensor) and a._value is b._value


def _spread_mask(mask: Tensor, axis: int, rank: int) -> Tensor:
    return _with_units(mask, rank - axis - mask.ndim)


def _spread(v: Tensor, after: int, count: int) -> Tensor:
    """A value for each selected element as one for each element: it has no axis for the elements, or one of extent 1.

    `after`: axes after the mask's; `count`: those of the mask."""
    if v.ndim <= after:
        return v
    if v.shape[v.ndim - after - 1] != 1:
        raise ConcretizationError(
            f"x[mask] = value at {user_loc()}: how many elements the mask selects is known at run time only, so the "
            f"value of shape {show_shape(v.shape)} cannot be laid out on them; use x = tp.where(mask, value, x) with a "
            "value for every element of x"
        )
    position = v.ndim - after - 1
    return OPS["reshape"](v, shape=(*v.shape[:position], *[1] * count, *v.shape[position + 1 :]))


def _chosen(x: Tensor, mask: Tensor, axis: int, value: Any) -> Tensor:
    """`x` with a value where a mask is true."""
    where = _spread_mask(mask, axis, x.ndim)
    if isinstance(value, Selection):
        at = Selection.__new__(Selection)
        at._mask, at._axis, at._error, at._full = mask, axis, value._error, x
        v = _as_stored(at._fit(value), x.dtype)
    else:
        v = _spread(_as_stored(value, x.dtype), x.ndim - axis - mask.ndim, mask.ndim)
    return OPS["select"](where, _fitted(v, x.shape), x)
