"""What indices of integers and slices take along each axis, in shapes that may be symbolic."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, IndexOutOfRangeError, ShapeError
from tapefuse._records import dataclass
from tapefuse.ir.graph import Value
from tapefuse.ir.op import OPS
from tapefuse.ir.passes.checks import Known, never_negative
from tapefuse.ir.types import Dim, Poly, Shape
from tapefuse.tracer import shortcuts
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor


@dataclass(frozen=True, slots=True)
class AxisCut:
    """What one axis becomes: elements start, start + stride, ... below limit, reversed or dropped afterwards."""

    start: Dim
    limit: Dim
    stride: int = 1
    flip: bool = False
    drop: bool = False


def as_dim(x: Tensor) -> Dim | None:
    """An integer scalar as a dimension, if it is known or follows from sizes and the indices of loops."""
    if x.ndim or x.dtype.kind not in "iu":
        return None
    return _dim(x._value) if isinstance(x, TracedTensor) else int(x._array)


def _dim(v: Value) -> Dim | None:
    op = v.op
    if op is None or v.shape or v.dtype.kind not in "iu":
        return None
    if op is OPS["dim"]:
        return v.attributes["value"]
    if op is OPS["const"]:
        return int(v.attributes["value"].array)
    parts = [_dim(a) for a in v.args] if op.name in _ON_DIMS else [None]
    return None if any(d is None for d in parts) else _ON_DIMS[op.name](*parts)


_ON_DIMS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: a * -1,
    "cast": lambda a: a,
}


def _known() -> Known:
    return state.trace.known if state.trace is not None else {}


def position(d: Dim) -> Dim | Tensor:
    """An index; as a tensor, which is looked at when the program runs, if it is unknown which end it counts from."""
    known = _known()
    is_signed = isinstance(d, int) or never_negative(d, known) or never_negative(d * -1 - 1, known)
    return d if is_signed else as_tensor(d)


def deferred(item: Any, n: Dim) -> Any:
    """An index that certainly lies outside of its axis, in a block of a program that may not run, as a tensor: using it
    is an error if the block runs. Other indices as they are."""
    is_in_block = state.trace is not None and state.trace.place is not None
    if not is_in_block or not isinstance(item, int | Poly):
        return item
    is_outside = never_negative(item - n, _known()) or never_negative(n * -1 - 1 - item, _known())
    return as_tensor(np.int64(item) if isinstance(item, int) else item) if is_outside else item


def _from_start(d: Dim, n: Dim) -> Dim:
    """A position that may count from the end, counted from the start of an axis."""
    return d + n if never_negative(d * -1 - 1, _known()) else d


def cut(item: Dim | slice, n: Dim, axis: int) -> AxisCut:
    if isinstance(item, slice):
        bounds = slice(_plain(item.start), _plain(item.stop), _plain(item.step))
        is_fixed = not any(isinstance(d, Poly) for d in (n, bounds.start, bounds.stop))
        return _fixed_cut(bounds, n) if is_fixed else _symbolic_cut(bounds, n)  # type: ignore[arg-type]
    if isinstance(item, int) and isinstance(n, int) and not -n <= item < n:
        raise IndexOutOfRangeError(f"index {item} is out of range for axis {axis} of extent {n} at {user_loc()}")
    start = _from_start(item, n)
    return AxisCut(start, start + 1, drop=True)


def _fixed_cut(item: slice, n: int) -> AxisCut:
    count = range(*item.indices(n))
    if len(count) == 0:
        start = min(max(item.start or 0, 0), n)
        return AxisCut(start, start)
    if count.step > 0:
        return AxisCut(count.start, count[-1] + 1, count.step)
    return AxisCut(count[-1], count.start + 1, -count.step, flip=True)


def _plain(bound: Any) -> Dim | None:
    """A bound of a slice as a number or a dimension. Raises ConcretizationError if it is known at run time only."""
    if bound is None or isinstance(bound, Poly):
        return bound
    if isinstance(bound, Operators):
        tensor = as_tensor(bound)
        d = as_dim(tensor)
        if d is None and isinstance(tensor, TracedTensor) and not tensor.ndim:
            raise ConcretizationError(
                f"a slice at {user_loc()} is bounded by {tensor!r}, which is known only when the compiled function "
                "runs; of a fixed number n of elements use x[start + tp.arange(n)], else a mask in tp.where"
            )
        return bound.__index__() if d is None else d  # type: ignore[attr-defined]
    return bound.__index__()


def _symbolic_cut(item: slice, n: Dim) -> AxisCut:
    """A slice whose bounds or extent are symbols: bounds must lie inside, which is checked when the program runs."""
    step = 1 if item.step is None else item.step
    if isinstance(step, Poly) or step == 0 or (step < 0 and (item.start, item.stop) != (None, None)):
        raise ShapeError(f"a slice of an axis of extent {n} at {user_loc()} needs a positive step, or be x[::-1]")
    start = 0 if item.start is None else _from_start(item.start, n)
    limit = n if item.stop is None else _from_start(item.stop, n)
    if step < -1:
        raise ShapeError(f"a step of {step} along an axis of extent {n} at {user_loc()}; flip first, then slice")
    return AxisCut(start, limit, abs(step), flip=step < 0)


def known_cut(x: Tensor, index: Any) -> shortcuts.Cut | None:
    """What an index of Python's integers and slices takes of an eager tensor; None for others, and for a wrong one."""
    if state.trace is not None or state.overrides:
        return None
    if type(index) is int:
        return _int_cut(x.shape, index)
    if type(index) is slice:
        start, stop, step = index.start, index.stop, index.step
        if _is_bound(start) and _is_bound(stop) and _is_bound(step):
            return _one_slice_cut(x.shape, start, stop, step)
        return None
    given = index if type(index) is tuple else (index,)
    key = tuple([(i.start, i.stop, i.step) if type(i) is slice else i for i in given])
    for i, k in zip(given, key, strict=True):
        if type(i) is not int and i is not Ellipsis and (
            type(i) is not slice or any(type(d) is not int and d is not None for d in k)
        ):
            return None
    return _sliced_cut(x.shape, key)


@lru_cache(maxsize=4096)
def _int_cut(shape: Shape, index: int) -> shortcuts.Cut | None:
    return _sliced_cut(shape, (index,))


def _is_bound(bound: Any) -> bool:
    return bound is None or type(bound) is int


@lru_cache(maxsize=4096)
def _one_slice_cut(shape: Shape, *bounds: int | None) -> shortcuts.Cut | None:
    return _sliced_cut(shape, (bounds,))


@lru_cache(maxsize=4096)
def _sliced_cut(shape: Shape, key: tuple) -> shortcuts.Cut | None:
    given = [slice(*k) if isinstance(k, tuple) else k for k in key]
    try:
        np.empty(shape, bool)[tuple(given)]
    except IndexError:
        return None
    dots = next((k for k, item in enumerate(given) if item is Ellipsis), len(given))
    rest = len(shape) - sum(item is not Ellipsis for item in given)
    items = [*given[:dots], *[slice(None)] * rest, *given[dots + 1 :]]
    cuts = [cut(item, n, k) for k, (item, n) in enumerate(zip(items, shape, strict=True))]
    starts, limits, strides = (tuple([getattr(c, a) for c in cuts]) for a in ("start", "limit", "stride"))
    flips = tuple([k for k, c in enumerate(cuts) if c.flip])
    lengths = [-((c.start - c.limit) // c.stride) for c in cuts]  # type: ignore[operator]
    kept = tuple([n for n, c in zip(lengths, cuts, strict=True) if not c.drop])
    return shortcuts.Cut((*items, Ellipsis), starts, limits, strides, flips, kept)
