"""Rules of `simplify` on arrays with a part replaced: what is read back, replaced again, or all there is."""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.update import limits
from tapefuse.ir.rewrite import Pattern, p, rule, scalar, variables
from tapefuse.ir.types import Dim, Shape

x, v, w, starts, strides = variables("x v w starts strides")


def is_whole(root: Value) -> bool:
    """Whether an update changes every element."""
    a = root.attributes
    in_place = all(isinstance(s, int) and s == 0 for s in a["starts"]) and all(s == 1 for s in a["strides"])
    return in_place and root.args[1].shape == root.shape


def is_nothing(root: Value) -> bool:
    return any(isinstance(n, int) and n == 0 for n in root.args[1].shape)


def reads_region(cut: Value, shape: Shape, starts: tuple[Dim, ...], strides: tuple[Dim, ...]) -> bool:
    """Whether a slice reads the region of an update by a value of this shape."""
    a = cut.attributes
    return (a["starts"], a["strides"], a["limits"]) == (starts, strides, limits(shape, starts, strides))


def is_zero(v: Value) -> bool:
    """Whether all elements of a value are a constant 0."""
    while v.op in (ops.broadcast, ops.reshape):
        (v,) = v.args
    return v.op is ops.const and not v.shape and scalar(v) == 0


def slice_put(root: Value) -> Value | None:
    (updated,) = root.args
    part, a = updated.args[1], updated.attributes
    return part if reads_region(root, part.shape, a["starts"], a["strides"]) else None


def put_back(root: Value, x: Value, v: Value) -> Value | None:
    a = root.attributes
    is_own = v.op is ops.slice_ and v.args[0] is x and reads_region(v, v.shape, a["starts"], a["strides"])
    return x if is_own or is_nothing(root) else None


def gather_put_at(root: Value) -> Value | None:
    """x[k] = v; x[k] is v, for scalars k: several values may be stored at one position otherwise."""
    updated, *idx = root.args
    same = tuple(idx) == updated.args[2:] and not any(k.shape for k in idx)
    return updated.args[1] if same else None


def put_at_put_at(root: Value) -> Value | None:
    inner, v, *idx = root.args
    return ops.put_at(inner.args[0], v, *idx) if tuple(idx) == inner.args[2:] else None


# fmt: off
RULES = (
    rule("put_whole", p.put(x, v), lambda root, v: v if is_whole(root) else None),            # x[:] = v
    rule("put_add_whole", p.put_add(x, v),
         lambda root, x, v: ops.add(x, v) if is_whole(root) else None),                       # x[:] += v
    rule("put_back", p.put(x, v), put_back),                                                  # x[a:b] = x[a:b]
    rule("put_add_nothing", p.put_add(x, v), lambda root, x: x if is_nothing(root) else None),
    rule("put_put", p.put(p.put(x, v, starts=starts, strides=strides), w, starts=starts, strides=strides),
         lambda root, x, v, w: ops.put(x, w, **root.attributes) if v.shape == w.shape else None),  # the last one stays
    rule("slice_put", p.slice(Pattern("put")), slice_put),                                    # x[a:b] = v; x[a:b] is v
    rule("gather_put_at", Pattern("gather", None), lambda root: gather_put_at(root)
         if root.args[0].op is ops.put_at else None),
    rule("put_at_put_at", Pattern("put_at", None), lambda root: put_at_put_at(root)
         if root.args[0].op is ops.put_at else None),
)
# fmt: on
