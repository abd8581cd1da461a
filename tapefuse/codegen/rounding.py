"""Whether a product and a sum may be rounded once, by a fused multiply-add.

    x = a * b + c;  y = reduce_max(x);  winners = eq(x, y);  gaps = sqrt(y - x)

Which products are fused differs from kernel to kernel, so that an element that is computed in two of them may differ in
its last bit. Where elements meet the largest among them, none may be equal to it then, and some may be larger. Programs
in which sums of products do so, or are compared for equality, have no fused multiply-adds. The exponential of
differences from a maximum (softmax) is as good with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import const
from tapefuse.ir.ops import region

_EXTREMES = (ops.reduce_max, ops.reduce_min)
_ORDERINGS = (ops.argmax, ops.argmin, ops.sort, ops.argsort)
_MOVES = (ops.reshape, ops.broadcast, ops.transpose, ops.slice_, ops.pad, ops.concat, ops.put, ops.flip)


def may_fuse(graph: Graph) -> bool:
    """Whether no value that a fused multiply-add may have rounded meets itself again, as far as can be seen."""
    return not any(_is_delicate(place) for place in _everywhere(graph, False))


class _Place(NamedTuple):
    """A node of a graph, and whether that is in a loop or a branch."""

    node: Value
    graph: Graph
    inside: bool


def _everywhere(graph: Graph, inside: bool) -> Iterator[_Place]:
    for v in graph.nodes:
        yield _Place(v, graph, inside)
        for inner in region.graphs(v):
            yield from _everywhere(inner, True)


def _is_delicate(place: _Place) -> bool:
    v = place.node
    if v.op in _ORDERINGS or v.op in _EXTREMES and not _is_harmless(place):
        return _may_be_fused(v.args[0], place.inside)
    if v.op not in (ops.eq, ops.ne) or v.args[0] is v.args[1] or any(_is_number(x) for x in v.args):
        return False
    return any(_may_be_fused(x, place.inside) for x in v.args)


def _is_harmless(place: _Place) -> bool:
    """Whether an extreme is but subtracted from what is exponentiated then, added to something, or a result."""
    for w in _moved_on(place.node, place.graph):
        if place.inside and w in place.graph.outs:
            return False
        if not all(r.op in (*_MOVES, ops.add) or _is_exponent(r, w, place) for r in place.graph.users[w]):
            return False
    return True


def _is_exponent(v: Value, extreme: Value, place: _Place) -> bool:
    """Whether a value is something less an extreme, and nothing but its exponential is of use."""
    is_difference = v.op is ops.sub and v.args[1] is extreme and v not in place.graph.outs
    return is_difference and all(r.op is ops.exp for r in place.graph.users[v])


def _moved_on(x: Value, graph: Graph) -> Iterator[Value]:
    """A value, and what it is in other places."""
    stack = [x]
    while stack:
        v = stack.pop()
        yield v
        stack += (r for r in graph.users[v] if r.op in _MOVES)


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
        elif v.op in (ops.add, ops.sub) and any(_source(y).op is ops.mul for y in v.args):
            return True
        elif v.op.elementwise or v.op in _MOVES:
            stack += v.args
    return False


def _source(x: Value) -> Value:
    """What is only moved."""
    while x.op in _MOVES and len(x.args) == 1:
        (x,) = x.args
    return x
