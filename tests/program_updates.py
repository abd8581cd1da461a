"""Makers of updates: `put` and `put_add` of a region, `put_at` of indexed rows."""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.types import size
from tests.program_draft import MAX_SIZE, Draft, is_never_empty, sizes
from tests.program_ops import cut, hull, maker


@maker("put", "put_add")
def updated(d: Draft, name: str) -> Value:
    x = d.any_of(d.one_of(("f", "f", "f", "i", *(["b"] if name == "put" else []))), lambda v: len(v.shape) > 0)
    starts, limits, strides = zip(*(cut(d, n) for n in x.shape), strict=True) if x.shape else ((), (), ())
    shape = ops.slice_.type(x.type, starts=starts, limits=limits, strides=strides).shape
    v = d.existing(lambda v: v.dtype == x.dtype and v.shape == shape)
    v = d.param(x.dtype, shape) if v is None else v
    y = d.emit(name, x, v, starts=starts, strides=strides)
    if x.dtype.kind != "f":
        return d.new(y)
    (low, high), (least, most) = d.ranges[v], d.ranges[x]
    if name == "put":
        return d.new(y, *hull(low, high, least, most))
    return d.new(y, least + min(low, 0), most + max(high, 0))


@maker("put_at")
def replaced(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.one_of(("f", "f", "f", "i", "b")), lambda v: len(v.shape) > 0)
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
    return d.new(d.emit(name, x, v, *idx), *hull(*d.ranges[v], *d.ranges[x]))
