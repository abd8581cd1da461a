"""Makers of updates: `put` and `put_add` of a region, `put_at` and `add_at` of indexed rows."""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Shape, size
from tests.program_draft import MAX_SIZE, Draft, is_never_empty, sizes
from tests.program_ops import cut, hull, maker


@maker("put", "put_add")
def updated(d: Draft, name: str) -> Value | None:
    """A part of an array, from another one or from itself, put into it or added to it."""
    x = d.any_of(d.kind("f", "f", "f", "i", *(["b"] if name == "put" else [])), lambda v: len(v.shape) > 0)
    if not x.shape:
        return None
    starts, limits, strides = zip(*(cut(d, n) for n in x.shape), strict=True)
    shape = ops.slice_.type(x.type, starts=starts, limits=limits, strides=strides).shape
    v = _part(d, x, shape) if d.chance(2) else d.existing(lambda v: v.dtype == x.dtype and v.shape == shape)
    v = d.param(x.dtype, shape) if v is None else v
    y = d.emit(name, x, v, starts=starts, strides=strides)
    if x.dtype.kind not in "fc":
        return d.new(y)
    (low, high), (least, most) = d.ranges[v], d.ranges[x]
    if name == "put":
        return d.new(y, *hull(low, high, least, most))
    return d.new(y, least + min(low, 0), most + max(high, 0))


def _part(d: Draft, x: Value, shape: Shape) -> Value | None:
    """A part of `x`, shifted by one along some axes; None if it does not fit."""
    starts = tuple(d.pick(0, 1) for _ in shape)
    limits = tuple(a + n for a, n in zip(starts, shape, strict=True))
    if not all(isinstance(m, int) and isinstance(n, int) and m <= n for m, n in zip(limits, x.shape, strict=True)):
        return None
    return d.new(d.emit("slice", x, starts=starts, limits=limits, strides=(1,) * len(shape)), *d.ranges[x])


@maker("add_at", "put_at")
def updated_rows(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.kind("f", "f", "f", "i", *(["b"] if name == "put_at" else [])), lambda v: len(v.shape) > 0)
    if not x.shape:
        return None
    m = d.pick(1, min(2, len(x.shape)))
    if not is_never_empty(x.shape[:m]):
        return None
    lead = d.shape(d.one_of((1, 1, 2, 0)))
    idx = [d.positions(lead[1:] if k and d.chance(3) else lead, n) for k, n in enumerate(x.shape[:m])]
    shape = (*lead, *x.shape[m:])
    if max(sizes(size(shape))) > MAX_SIZE:
        return None
    v = d.existing(lambda v: v.dtype == x.dtype and v.shape == shape)
    v = d.param(x.dtype, shape) if v is None else v
    y = d.emit(name, x, v, *idx)
    n, (low, high), (least, most) = max(sizes(size(lead))), d.ranges[v], d.ranges[x]
    if name == "put_at":
        return d.new(y, *hull(low, high, least, most))
    if v.dtype.kind not in "fc":
        return d.new(y)
    return d.new(y, least + min(n * low, low, 0), most + max(n * high, high, 0))
