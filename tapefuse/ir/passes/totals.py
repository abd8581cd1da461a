"""Sums with what a loop adds up from zeros: the loop begins with the other term.

    t + (for k: s += v  from zeros)    ->    for k: s += v  from t

Terms are added in another order then. No array of zeros is filled, nor added as a whole.
"""

from __future__ import annotations

from collections import Counter

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.passes.bodies import deep, depending, rebuilt
from tapefuse.ir.passes.updates import is_zero

_ADDS = (ops.put_add, ops.add_at)


@deep
def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with totals as first values of loops, and how many."""
    fired: Counter[str] = Counter()
    while (found := _total(graph)) is not None:
        graph = _begun(graph, *found)
        fired["totals"] += 1
    return graph, fired


def _total(graph: Graph) -> tuple[Value, Value, Value, int] | None:
    """A sum, its term that a loop is to begin with, and that loop and the number of its carry."""
    for v in graph.nodes:
        if v.op is ops.add and v.args[0].type == v.args[1].type:
            for x, y in (v.args, v.args[::-1]):
                found = _from_zeros(graph, y)
                if found is not None and x not in depending(graph, (found[0],)):
                    return v, x, *found
    return None


def _from_zeros(graph: Graph, y: Value) -> tuple[Value, int] | None:
    """The loop, and its carry, that begins with the zeros to which all of `y` is added; None if somebody else reads
    what is in between."""
    while len(graph.users[y]) == 1 and y not in graph.outs:
        if y.op in _ADDS:
            y = y.args[0]
            continue
        if y.op is not ops.result or not _adds_up(y):
            return None
        (loop,), k = y.args, y.attributes["index"]
        if is_zero(loop.args[k]):
            return loop, k
        y = loop.args[k]
    return None


def _adds_up(y: Value) -> bool:
    """Whether iterations of a loop do nothing to a carry but add to it, which nobody else reads."""
    (loop,), k = y.args, y.attributes["index"]
    if loop.op is not ops.for_:
        return False
    body: Graph = loop.attributes["body"]
    p, x = body.params[k], body.outs[k]
    if x is p or body.outs.count(x) > 1 or p in body.outs or body.users[x]:
        return False
    while x is not p:
        if x.op is ops.add and x.args[0].type == x.args[1].type and p in x.args and x.args[0] is not x.args[1]:
            inner = p
        elif x.op in _ADDS:
            inner = x.args[0]
        else:
            return False
        if body.users[inner] != (x,):
            return False
        x = inner
    return True


def _begun(graph: Graph, v: Value, x: Value, loop: Value, k: int) -> Graph:
    """The graph where a loop begins with `x`, so that its sum `v` needs no addition."""
    env: dict[Value, Value] = {}
    (start,) = rebuilt((x,), env)

    def change(u: Value, args: tuple[Value, ...]) -> Value | None:
        if u is loop:
            return ops.for_.emit(*args[:k], start, *args[k + 1 :], **u.attributes)
        if u is v:
            return next(a for a, old in zip(args, v.args, strict=True) if old is not x)
        return None

    return Graph(graph.params, rebuilt(graph.outs, env, change), graph.name)
