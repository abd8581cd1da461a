"""Regions that do the same work, and more: the work is done once.

    %0 = for %x body=(c -> f(c)) ...
    %1 = for %x, %stack body=(c, s -> f(c), put(s, c)) ...    ->    the second loop alone; its first results for %0

That is how a derivative looks: the loop of the user, and one that also keeps what the reverse pass reads, or also
carries tangents. Two `for` or `while` merge when they take the same number of iterations, neither needs the other's
results, and a carry of one is one of the other. Two `switch` on one index and two `sized` of one size merge when
one node of the graphs inside is the same, or loops may be; also when one is the derivative of the other and needs its
results, with the few nodes that lie between. Carries that are the same become one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.digest import digest
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.ops import region
from tapefuse.ir.passes.bodies import depending, inside, rebuilt
from tapefuse.ir.passes.residuals import is_cheap, is_repeatable
from tapefuse.ir.types import Poly

MAX_PAIRS = 2000  # of regions that are compared, in one graph
MAX_BETWEEN = 64  # nodes between sized code and its derivative that move inside with them
LOOPS = (ops.for_, ops.while_, ops.sized)


class Merged(NamedTuple):
    """One region in place of two: its operands and attributes, and which of its results theirs are."""

    args: tuple[Value, ...]
    attrs: dict[str, Any]
    first: list[int]
    second: list[int]
    more: Mapping[Value, int] = MappingProxyType({})  # values between both that are results too


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with regions merged, those inside of regions too, and how many there are."""
    unified = _unified(graph, {})
    merged, fired = _run(unified)
    fired["loops"] += _count(graph) - _count(unified)
    return (merged, fired) if fired.total() else (graph, Counter())


def _count(graph: Graph) -> int:
    """The regions of a graph, and of those inside."""
    return sum(1 + sum(map(_count, region.graphs(v))) for v in graph.nodes if v.op is not None and v.op.is_region)


def _run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The outer ones first: merged inside, they would not look alike any more."""
    fired: Counter[str] = Counter()
    while (found := _mergeable(graph)) is not None:
        graph = _replaced(graph, *found)
        fired["loops"] += 1
    graph, more = inside(graph, _run)
    return graph, fired + more


def _unified(graph: Graph, known: dict[str, Graph]) -> Graph:
    """Equal graphs inside of regions as one object, so that regions on equal operands are one node."""
    done: dict[Graph, Graph] = {}

    def unique(inner: Graph) -> Graph:
        if inner not in done:
            key = digest(inner)  # before its nodes are made anew, in another order
            found = None if key is None else known.get(key)
            done[inner] = _unified(inner, known) if found is None else found
            if key is not None:
                known[key] = done[inner]
        return done[inner]

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is None or not v.op.is_region:
            return None
        return v.op.emit(*args, **region.with_graphs(v.attributes, unique))

    if not any(v.op is not None and v.op.is_region for v in graph.nodes):
        return graph
    outs = rebuilt(graph.outs, {}, change)
    return graph if outs == graph.outs else Graph(graph.params, outs, graph.name)


def _mergeable(graph: Graph) -> tuple[Value, Value, Merged] | None:
    tokens = [v for v in graph.nodes if v.op is not None and v.op.is_region]
    if len(tokens) < 2:
        return None
    needs = _needs(graph, tokens)
    for count, (a, b) in enumerate(_pairs(tokens)):
        if count > MAX_PAIRS:
            return None
        if a in needs[b] or b in needs[a]:
            first, second = (a, b) if a in needs[b] else (b, a)
            if (found := _merge_chain(graph, first, second)) is not None:
                return first, second, found
            continue
        found = merge(a, b)
        if found is not None:
            return a, b, found
    return None


def _pairs(tokens: Sequence[Value]) -> Iterator[tuple[Value, Value]]:
    for k, a in enumerate(tokens):
        for b in tokens[k + 1 :]:
            if a.op is b.op and a.op is not ops.recording:
                yield a, b


def _needs(graph: Graph, tokens: Sequence[Value]) -> dict[Value, frozenset[Value]]:
    """For each region, the regions that its operands depend on."""
    known: dict[Value, frozenset[Value]] = {}
    regions = set(tokens)
    none: frozenset[Value] = frozenset()
    for v in graph.nodes:
        parts = [known.get(a, none) | ({a} if a in regions else none) for a in v.args]
        known[v] = none.union(*parts) if any(parts) else none
    return known


def merge(a: Value, b: Value) -> Merged | None:
    """What is in place of two regions of one kind, neither of which needs the other; None if there is no gain."""
    if a.op is ops.for_:
        x, y = a.attributes, b.attributes
        return _merge_loops(a, b, {"trips": x["trips"]}) if x["trips"] == y["trips"] else None
    if a.op is ops.while_:
        return _merge_loops(a, b, {})
    return _merge_once(a, b)


# -- loops ------------------------------------------------------------------------------------------------------------


def _renamed(v: Value, index: str | None) -> dict[str, Graph]:
    """The graphs of a loop, with the index called as in the other loop."""
    attrs = v.attributes
    graphs = {k: x for k, x in attrs.items() if isinstance(x, Graph)}
    if index is None or attrs["index"] == index:
        return graphs
    return {k: g.substitute({attrs["index"]: Poly.symbol(index)}) for k, g in graphs.items()}


def _merge_loops(a: Value, b: Value, attrs: dict[str, Any]) -> Merged | None:
    index = a.attributes.get("index")
    graphs = [_renamed(v, index) for v in (a, b)]
    carried = [v.attributes["carried"] for v in (a, b)]
    if not {*a.args[: carried[0]]} & {*b.args[: carried[1]]}:
        return None
    classes = same_carries((a.args, b.args), graphs, carried)
    if not {c for (k, _), c in classes.items() if k == 0} & {c for (k, _), c in classes.items() if k == 1}:
        return None
    body = Joined((a.args, b.args), graphs, carried, classes)
    if "cond" in graphs[0]:
        tests = [body.outs(k, "cond")[0] for k in (0, 1)]
        if tests[0] is not tests[1]:
            return None
        attrs["cond"] = Graph(body.params, (tests[0],))
    order = list(dict.fromkeys(classes.values()))
    outs = {c: body.outs(k, "body")[j] for (k, j), c in classes.items()}
    attrs |= {"body": Graph(body.params, tuple(outs[c] for c in order), graphs[0]["body"].name), "carried": len(order)}
    if index is not None:
        attrs["index"] = index
        if all(v.attributes.get("parallel") for v in (a, b)):
            attrs["parallel"] = True
    places = [[order.index(classes[k, j]) for j in range(carried[k])] for k in (0, 1)]
    if "cond" in attrs:
        places = [[*p, len(order)] for p in places]  # the number of iterations
    return Merged(body.args, attrs, places[0], places[1])


def carry_classes(args: Sequence[Value], attrs: Mapping[str, Any]) -> dict[int, int]:
    """For each carry of a loop a number that those have in common which are always equal."""
    graphs = {k: x for k, x in attrs.items() if isinstance(x, Graph)}
    return {j: c for (_, j), c in same_carries([args], [graphs], [attrs["carried"]]).items()}


Classes = dict[tuple[int, int], int]  # (number of a loop, place of a carry) -> class


def same_carries(
    args: Sequence[Sequence[Value]], graphs: Sequence[dict[str, Graph]], carried: Sequence[int]
) -> Classes:
    """Classes of carries that begin and go on alike.

    All that begin alike are taken to be equal until an iteration makes a difference.
    """
    key: dict[tuple[int, int], Any] = {(k, j): xs[j] for k, xs in enumerate(args) for j in range(carried[k])}
    while True:
        numbers: dict[Any, int] = {}
        classes = {place: numbers.setdefault(x, len(numbers)) for place, x in key.items()}
        if len(numbers) == len(key):
            return classes
        body = Joined(args, graphs, carried, classes)
        outs = [body.outs(k, "body") for k in range(len(args))]
        after = {(k, j): (c, outs[k][j]) for (k, j), c in classes.items()}
        if len(set(after.values())) == len(numbers):
            return classes
        key = after


class Joined:
    """The graphs of loops on one set of parameters: one for each class of carries, one for each other operand."""

    def __init__(
        self,
        args: Sequence[Sequence[Value]],
        graphs: Sequence[dict[str, Graph]],
        carried: Sequence[int],
        classes: Classes,
    ):
        first: dict[int, Value] = {}  # class -> operand
        for (k, j), c in classes.items():
            first.setdefault(c, args[k][j])
        carry = {c: param(x.type) for c, x in first.items()}
        consts: dict[Value, Value] = {}
        self.graphs = graphs
        self.envs: dict[tuple[int, str], dict[Value, Value]] = {}
        for k, xs in enumerate(args):
            for name, graph in graphs[k].items():
                env = self.envs[k, name] = {}
                for j, (p, x) in enumerate(zip(graph.params, xs, strict=True)):
                    if j < carried[k]:
                        env[p] = carry[classes[k, j]]
                    else:
                        env[p] = consts.setdefault(x, param(x.type, p.name))
        self.params = (*carry.values(), *consts.values())
        self.args = (*first.values(), *consts)

    def outs(self, k: int, name: str) -> tuple[Value, ...]:
        return rebuilt(self.graphs[k][name].outs, self.envs[k, name])


# -- branches and sized code ------------------------------------------------------------------------------------------


def _merge_once(a: Value, b: Value, between: Sequence[Value] = (), exported: Sequence[Value] = ()) -> Merged | None:
    """Two switches on one index, or two regions of one size: all results of both.

    `between`: what `b` needs of the results of `a`, and what is computed from these for it. It moves inside; those of
    them that are `exported` become results.
    """
    x, y = a.attributes, b.attributes
    if a.args[0] is not b.args[0] or len(x.get("branches", ())) != len(y.get("branches", ())):
        return None
    read = dict.fromkeys(u for v in (a, *between, b) for u in (v.args[1:] if v in (a, b) else v.args))
    operands = [u for u in read if u is not a and u not in between and not (between and _is_leaf(u))]
    params = {v: param(v.type) for v in operands}
    shared: set[Value] = set()

    def joined(first: Graph, second: Graph) -> Graph:
        ends = rebuilt(first.outs, _on(first, [params.get(u, u) for u in a.args[1:]]))
        inner = params | {v: ends[v.attributes["index"]] for v in between if v.op is ops.result}
        after = rebuilt(second.outs, _on(second, rebuilt(b.args[1:], inner)))
        shared.update({v for v in reachable(ends) if v.args} & reachable(after))
        return Graph(tuple(params.values()), (*ends, *after, *rebuilt(exported, inner)), first.name)

    if a.op is ops.switch:
        graphs = tuple(joined(*both) for both in zip(x["branches"], y["branches"], strict=True))
        attrs: dict[str, Any] = {"branches": graphs}
    else:
        graphs = (joined(x["body"], y["body"].substitute({y["symbol"]: Poly.symbol(x["symbol"])})),)
        attrs = {"symbol": x["symbol"], "body": graphs[0]}
    if not any(not (between and is_cheap(v)) for v in shared) and not _have_loops(a, b, between):
        return None
    n, total = (len(g.outs) for g in (next(region.graphs(a)), graphs[0]))
    more = {v: total - k for k, v in enumerate(reversed(exported), 1)}
    return Merged((a.args[0], *operands), attrs, [*range(n)], [*range(n, total - len(more))], more)


def _merge_chain(graph: Graph, a: Value, b: Value) -> Merged | None:
    """Branches or sized code, and their derivative, which needs their results: with what lies between them in one
    region, where their loops become one."""
    if a.op not in (ops.sized, ops.switch) or a.op is not b.op:
        return None
    found = (depending(graph, (a,)) & reachable(b.args)) - {a}
    if len(found) > MAX_BETWEEN or any(v.op is None or v.op.is_region or not is_repeatable(v) for v in found):
        return None
    between = sorted(found, key=lambda v: v.id)
    outer = {v for v in between if v in graph.outs or any(u not in found and u is not b for u in graph.users[v])}
    return _merge_once(a, b, between, [v for v in between if v in outer and not is_cheap(v)])


def _is_leaf(v: Value) -> bool:
    return v.op is not None and not v.args and is_repeatable(v)


def _have_loops(a: Value, b: Value, between: Sequence[Value]) -> bool:
    """Whether two regions may share a loop: both have one at one place, and the operands of one, but for what the
    other gives it, are among the other's."""
    pairs = zip(region.graphs(a), region.graphs(b), strict=True)
    both = any(all(any(v.op in LOOPS for v in g.nodes) for g in pair) for pair in pairs)
    first, second = {*a.args[1:]}, {*b.args[1:]} - {*between}
    return both and (first <= second or second <= first)


def _on(graph: Graph, args: Sequence[Value]) -> dict[Value, Value]:
    return dict(zip(graph.params, args, strict=True))


# -- in the graph -----------------------------------------------------------------------------------------------------


def _replaced(graph: Graph, a: Value, b: Value, merged: Merged) -> Graph:
    """The graph with results of `merged` for those of `a` and `b`."""
    assert a.op is not None
    env: dict[Value, Value] = {}
    results = a.op.emit_results(*rebuilt(merged.args, env), **merged.attrs)
    for v in graph.nodes:
        if v.op is ops.result and v.args[0] in (a, b):
            places = merged.first if v.args[0] is a else merged.second
            env[v] = results[places[v.attributes["index"]]]
    env |= {v: results[k] for v, k in merged.more.items()}
    return Graph(graph.params, rebuilt(graph.outs, env), graph.name)
