"""Sums with what a branch gives: the branch adds it, so that one which gives zeros does nothing.

    t + (switch c: zeros | pad v)    ->    switch c: t | t + pad v
"""

from __future__ import annotations

from collections import Counter

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes.bodies import deep, depending, rebuilt
from tapefuse.ir.passes.updates import is_zero

_PARTS = (ops.pad, ops.scatter_add, ops.result)  # added where they are, or begun with what they are added to


@deep
def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with sums in branches, and how many."""
    fired: Counter[str] = Counter()
    while (found := _total(graph)) is not None:
        graph = _added(graph, *found)
        fired["branch_totals"] += 1
    return graph, fired


def _total(graph: Graph) -> tuple[Value, Value, Value] | None:
    """A sum of arrays, its term that a branch is to add to, and the result of that branch."""
    for v in graph.nodes:
        if v.op is ops.add and v.shape and v.args[0].type == v.args[1].type:
            for x, y in (v.args, v.args[::-1]):
                if _is_in_part(graph, y) and x not in depending(graph, y.args):
                    return v, x, y
    return None


def _is_in_part(graph: Graph, y: Value) -> bool:
    """Whether a value that is read once is zeros in some branch, or all but a part of it is."""
    if y.op is not ops.result or y.args[0].op is not ops.switch or len(graph.users[y]) != 1 or y in graph.outs:
        return False
    given = [branch.outs[y.attributes["index"]] for branch in y.args[0].attributes["branches"]]
    return any(is_zero(x) or x.op in _PARTS for x in given)


def _added(graph: Graph, v: Value, x: Value, y: Value) -> Graph:
    """The graph where a branch adds `y` to `x`, which is the sum `v`."""
    (switch,), k = y.args, y.attributes["index"]
    env: dict[Value, Value] = {}
    (start,) = rebuilt((x,), env)

    def change(u: Value, args: tuple[Value, ...]) -> Value | None:
        if u is switch:
            branches = tuple(_with_sum(branch, k) for branch in u.attributes["branches"])
            return ops.switch.emit(*args, start, **u.attributes | {"branches": branches})
        if u is v:
            return next(a for a, old in zip(args, v.args, strict=True) if old is y)
        return None

    return Graph(graph.params, rebuilt(graph.outs, env, change), graph.name)


def _with_sum(branch: Graph, k: int) -> Graph:
    """A branch with one more parameter, to which it adds a result."""
    y = branch.outs[k]
    total = param(y.type)
    new = total if is_zero(y) else ops.add.emit(total, y)
    return Graph((*branch.params, total), (*branch.outs[:k], new, *branch.outs[k + 1 :]), branch.name)
