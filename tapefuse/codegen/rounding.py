"""Whether a product and a sum may be rounded once, by a fused multiply-add.

    x = a * b + c;  y = reduce_max(x);  winners = eq(x, y)

Which products are fused differs from kernel to kernel, so that an element that is computed in two of them may differ in
its last bit. Where an element is looked for among its likes (the derivative of a maximum, the place of one), there may
be none then. Programs that compare such values for equality have no fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import const
from tapefuse.ir.ops import region

_ORDERS = (ops.lt, ops.le, ops.gt, ops.ge)  # x >= max(x), too, asks where that is
_MOVES = (ops.reshape, ops.broadcast, ops.transpose, ops.slice_, ops.pad, ops.concat, ops.put, ops.flip)


def may_fuse(graph: Graph) -> bool:
    """Whether no value that a fused multiply-add may have rounded is compared for equality."""
    return not any(_looks_for_equals(v, inside) for v, inside in _everywhere(graph, False))


def _everywhere(graph: Graph, inside: bool) -> Iterator[tuple[Value, bool]]:
    """All nodes, and whether they are in a loop or a branch."""
    for v in graph.nodes:
        yield v, inside
        for inner in region.graphs(v):
            yield from _everywhere(inner, True)


def _looks_for_equals(v: Value, inside: bool) -> bool:
    if v.op in (ops.argmax, ops.argmin):
        return _may_be_fused(v.args[0], inside)
    is_ordered = v.op in _ORDERS and any(_moved(x).op in (ops.reduce_max, ops.reduce_min) for x in v.args)
    if v.op not in (ops.eq, ops.ne) and not is_ordered or v.args[0] is v.args[1]:
        return False
    return not any(_is_number(x) for x in v.args) and any(_may_be_fused(x, inside) for x in v.args)


def _is_number(x: Value) -> bool:
    while x.op in (ops.broadcast, ops.reshape):
        (x,) = x.args
    return x.op is const


def _may_be_fused(x: Value, inside: bool) -> bool:
    """Whether a sum of a product is in the arithmetic that gives a value. What a loop carries may be such a sum."""
    seen, stack = set[Value](), [x]
    while stack:
        v = stack.pop()
        if v in seen or v.dtype.kind != "f":
            continue
        seen.add(v)
        if v.op is None:
            if inside:
                return True
        elif v.op in (ops.add, ops.sub) and any(_moved(y).op is ops.mul for y in v.args):
            return True
        elif v.op.elementwise or v.op in _MOVES:
            stack += v.args
    return False


def _moved(x: Value) -> Value:
    while x.op is not None and x.op in _MOVES and len(x.args) == 1:
        (x,) = x.args
    return x
