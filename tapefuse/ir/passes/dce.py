"""Dead code: elements that are computed or copied, but not read.

A graph is what its outputs reach, so a node that nobody reads does not exist. What can still be dead is a part of a
node: a slice reads only the pieces of a `concat` it overlaps, and only what a `pad` surrounds; along an inserted axis
every element is the same.

    %0 = concat %x, %y axis=0 : f32[8]
    %1 = slice %0 starts=(0) limits=(4) strides=(1) : f32[4]   ->   %x, if it has 4 elements
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.passes.shapes import IDEMPOTENT
from tapefuse.ir.rewrite import Pattern, Rewriter, p, rule, variables
from tapefuse.ir.types import Dim

MAX_PIECES = 1000  # of a concat whose slices are looked at: each slice looks at all of them
x, axes = variables("x axes")


def cut(x: Value, starts: tuple[Dim, ...], limits: tuple[Dim, ...], strides: tuple[int, ...]) -> Value:
    """x[starts:limits:strides], without a node where that is all of `x`."""
    if limits == x.shape and all(s == 0 for s in starts) and all(s == 1 for s in strides):
        return x
    return ops.slice_(x, starts=starts, limits=limits, strides=strides)


def slice_concat(root: Value) -> Value | None:
    """The pieces that the slice overlaps, where all bounds along the axis are known."""
    (joined,), a = root.args, root.attributes
    axis, pieces = joined.attributes["axis"], joined.args
    if len(pieces) > MAX_PIECES:
        return None
    ends = list(accumulate(v.shape[axis] for v in pieces))
    start, limit = a["starts"][axis], a["limits"][axis]
    if not all(isinstance(d, int) for d in (*ends, start, limit)) or start == limit:
        return None
    begins = [0, *ends[:-1]]
    read = [k for k in range(len(pieces)) if begins[k] < limit and start < ends[k]]
    if len(read) == len(pieces):
        return None
    offset = begins[read[0]]
    rest = pieces[read[0]] if len(read) == 1 else ops.concat(*(pieces[k] for k in read), axis=axis)
    moved = {k: (*a[k][:axis], a[k][axis] - offset, *a[k][axis + 1 :]) for k in ("starts", "limits")}
    return cut(rest, moved["starts"], moved["limits"], a["strides"])


def slice_pad(root: Value) -> Value | None:
    """A slice that keeps out of the padding cuts what is padded."""
    (padded,), a = root.args, root.attributes
    (x,), around = padded.args, padded.attributes
    dims = (*x.shape, *a["starts"], *a["limits"], *around["low"], *around["interior"])
    if not all(isinstance(d, int) for d in dims) or any(around["interior"]):
        return None
    starts = tuple(s - low for s, low in zip(a["starts"], around["low"], strict=True))
    limits = tuple(s - low for s, low in zip(a["limits"], around["low"], strict=True))
    inside = all(0 <= s <= m <= n for s, m, n in zip(starts, limits, x.shape, strict=True))
    return cut(x, starts, limits, a["strides"]) if inside else None


def slice_broadcast(root: Value, x: Value, axes: tuple[int, ...]) -> Value:
    """Cut before repeating."""
    a = root.attributes
    bounds = (tuple(a[k][axis] for axis in axes) for k in ("starts", "limits", "strides"))
    return ops.broadcast(cut(x, *bounds), shape=root.shape, axes=axes)


def reduce_broadcast(root: Value) -> Value | None:
    """The maximum (minimum, all, any) of equal elements is that element; an axis must be known not to be empty."""
    assert root.op is not None
    (wide,) = root.args
    (x,), inserted_at = wide.args, wide.attributes["axes"]
    axes = root.attributes["axes"]
    equal = [a for a in axes if a not in inserted_at and isinstance(wide.shape[a], int) and wide.shape[a] > 0]
    if root.op.reduction not in IDEMPOTENT or not equal:
        return None
    kept = [a for a in range(len(wide.shape)) if a not in equal]
    places = tuple(kept.index(a) for a in inserted_at)
    small = ops.broadcast(x, shape=tuple(wide.shape[a] for a in kept), axes=places) if len(kept) > len(places) else x
    left = tuple(kept.index(a) for a in axes if a not in equal)
    return root.op.emit(small, axes=left) if left else small


# fmt: off
RULES = Rewriter((
    rule("slice_concat", p.slice(Pattern("concat")), slice_concat),                    # concat(x, y)[:n] = x[:n]
    rule("slice_pad", p.slice(Pattern("pad")), slice_pad),                             # pad(x)[1:-1] = x
    rule("slice_broadcast", p.slice(p.broadcast(x, axes=axes)), slice_broadcast),      # repeat(x)[a:b] = repeat(x[a:b])
    rule("reduce_broadcast", Pattern(lambda op: op.reduction is not None, (Pattern("broadcast"),)),
         reduce_broadcast),                                                            # max of equal elements
))
# fmt: on


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    return RULES.run(graph)
