"""Graphs inside of regions: passes on them, and values built anew on other operands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here, symbols_in
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Shape, substitute

Run = Callable[[Graph], tuple[Graph, Counter[str]]]
Results = Sequence[Value] | Mapping[int, Value]  # of a region, by number
Change = Callable[[Value, tuple[Value, ...]], Value | None]  # a node and its new operands -> what it becomes


def rebuilt(outs: Iterable[Value], env: dict[Value, Value], change: Change | None = None) -> tuple[Value, ...]:
    """`outs` on other operands: `env` says what some values become, and learns what all the others do.

    `change` may say what a node becomes; None for the same op on the new operands. Parameters stay what they are.
    """
    outs = tuple(outs)
    stack, outer = list(outs), here.loc
    try:
        while stack:
            v = stack[-1]
            if v in env or v.op is None:
                env.setdefault(v, v)
                stack.pop()
            elif waiting := [a for a in v.args if a not in env]:
                stack.extend(waiting)
            else:
                here.loc = v.loc
                args = tuple(env[a] for a in v.args)
                found = None if change is None else change(v, args)
                same = args == v.args
                env[v] = found if found is not None else v if same else v.op.emit(*args, **v.attributes)
                stack.pop()
    finally:
        here.loc = outer
    return tuple(env[v] for v in outs)


def with_results(graph: Graph, replace: Callable[[Value, tuple[Value, ...]], Results | None]) -> Graph:
    """The graph with other values for the results of some regions. `replace` is given a region and its new operands,
    and says what its results become; None if it stays."""
    found: dict[Value, Results] = {}

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is not None and v.op.is_region and (results := replace(v, args)) is not None:
            found[v] = results
            return v  # it is not read any more: its results stand for it
        return found[v.args[0]][v.attributes["index"]] if v.op is ops.result and v.args[0] in found else None

    return Graph(graph.params, rebuilt(graph.outs, {}, change), graph.name)


def results_read(graph: Graph) -> dict[Value, set[int]]:
    """By region, the numbers of its results that somebody reads."""
    found: dict[Value, set[int]] = {}
    for v in graph.nodes:
        if v.op is ops.result:
            found.setdefault(v.args[0], set()).add(v.attributes["index"])
    return found


def deep(run: Run) -> Run:
    """A pass that runs on the graphs inside of regions too, from the innermost outwards."""

    def deep_run(graph: Graph) -> tuple[Graph, Counter[str]]:
        graph, fired = inside(graph, deep_run)
        graph, more = run(graph)
        return graph, fired + more

    return deep_run


def inside(graph: Graph, run: Run) -> tuple[Graph, Counter[str]]:
    """`graph` with a pass run on the graphs inside of its regions."""
    fired: Counter[str] = Counter()
    done: dict[Graph, Graph] = {}
    for v in graph.nodes:
        for inner in region.graphs(v):
            if inner not in done:
                done[inner], more = run(inner)
                fired += more
    if all(a is b for a, b in done.items()):
        return graph, fired

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is None or not v.op.is_region:
            return None
        return v.op.emit(*args, **region.with_graphs(v.attributes, done.__getitem__))

    return Graph(graph.params, rebuilt(graph.outs, {}, change), graph.name), fired


def replaced(dims: Shape, axis: int, d: Dim) -> Shape:
    """Dimensions with one of them replaced."""
    return (*dims[:axis], d, *dims[axis + 1 :])


def part(x: Value, axis: int, start: Dim, limit: Dim) -> Value:
    """Rows of an array along an axis, from `start` on, below `limit`."""
    if (start, limit) == (0, x.shape[axis]):
        return x
    starts, limits = replaced((0,) * len(x.shape), axis, start), replaced(x.shape, axis, limit)
    return ops.slice_.emit(x, starts=starts, limits=limits, strides=(1,) * len(x.shape))


def row(stack: Any, k: Dim, shape: Sequence[Dim]) -> Any:
    """Entry `k` of a stack [n, *shape]."""
    starts, limits = (k, *(0 for _ in shape)), (k + 1, *shape)
    return ops.reshape(ops.slice_(stack, starts=starts, limits=limits, strides=(1,) * len(limits)), shape=tuple(shape))


def with_row(stack: Any, k: Dim, v: Any) -> Any:
    """A stack with entry `k` replaced by the IR value `v`."""
    shape = (1, *v.shape)
    return ops.put(stack, ops.reshape(v, shape=shape), starts=(k, *(0 for _ in v.shape)), strides=(1,) * len(shape))


def substituted(graph: Graph, values: Mapping[str, Dim]) -> Graph:
    """The graph with dimension symbols replaced, without loops that have no iteration then: their bodies may ask for
    elements that do not exist."""
    return _without_idle_loops(graph, values).substitute(values)


def _without_idle_loops(graph: Graph, values: Mapping[str, Dim]) -> Graph:
    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is ops.result and v.args[0].op is ops.for_:
            trips = substitute(v.args[0].attributes["trips"], values)
            if not isinstance(trips, Poly) and trips <= 0:
                return env[v.args[0].args[v.attributes["index"]]]
        if v.op is None or not v.op.is_region:
            return None
        return v.op.emit(*args, **region.with_graphs(v.attributes, lambda g: _without_idle_loops(g, values)))

    env: dict[Value, Value] = {}
    outs = rebuilt(graph.outs, env, change)
    return graph if outs == graph.outs else Graph(graph.params, outs, graph.name)


def depending(graph: Graph, roots: Iterable[Value], names: frozenset[str] = frozenset()) -> set[Value]:
    """The roots, and the nodes that depend on one of them or have one of the dimension symbols `names` in them."""
    found = set(roots)
    for v in graph.nodes:
        if any(a in found for a in v.args) or (names and names & symbols_of(v)):
            found.add(v)
    return found


def symbols_of(v: Value) -> frozenset[str]:
    """Dimension symbols in a value's type and attributes, those inside of its graphs too."""
    return symbols_in((v.shape, *(x for _, x in v.attrs)))
