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


def _total(graph: Graph) -> tuple[Value, Value, Value] | None:
    """A sum, its term that a loop begins with, and that result of the loop."""
    for v in graph.nodes:
        if v.op is ops.add and v.args[0].type == v.args[1].type:
            for x, y in (v.args, v.args[::-1]):
                chain = _additions(graph, y)
                if chain is not None and _is_sum(chain) and x not in depending(graph, chain.args):
                    return v, x, chain
    return None


def _additions(graph: Graph, y: Value) -> Value | None:
    """The result of a loop to whose parts `y` adds more; None if somebody else reads what is in between."""
    while len(graph.users[y]) == 1 and y not in graph.outs:
        if y.op is ops.result:
            return y
        if y.op not in _ADDS:
            return None
        y = y.args[0]
    return None


def _is_sum(y: Value) -> bool:
    """Whether a result of a loop is a sum of what its iterations add to zeros."""
    (loop,), k = y.args, y.attributes["index"]
    if loop.op is not ops.for_ or not is_zero(loop.args[k]):
        return False
    body: Graph = loop.attributes["body"]
    p, x = body.params[k], body.outs[k]
    if x is p or body.outs.count(x) > 1 or p in body.outs:
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


def _begun(graph: Graph, v: Value, x: Value, y: Value) -> Graph:
    """The graph where a loop begins with `x`, so that its sum `v` needs no addition."""
    (loop,), k = y.args, y.attributes["index"]
    env: dict[Value, Value] = {}
    (start,) = rebuilt((x,), env)

    def change(u: Value, args: tuple[Value, ...]) -> Value | None:
        if u is loop:
            return u.op.emit(*args[:k], start, *args[k + 1 :], **u.attributes)
        if u is v:
            return next(a for a, old in zip(args, v.args, strict=True) if old is not x)
        return None

    return Graph(graph.params, rebuilt(graph.outs, env, change), graph.name)
