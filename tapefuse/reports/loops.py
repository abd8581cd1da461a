"""Loops that the compiler cuts into tiles or strips, for `fn.explain()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tapefuse._config import Options, config
from tapefuse.compiler import passes_of
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.ops import region
from tapefuse.ir.passes import Pass, optimise, strips, tiles
from tapefuse.ir.passes.checks import with_checks
from tapefuse.tracer.trace import Traced

_DESCRIBED: dict[str, Callable[[Value], str | None]] = {"tiles": tiles.described, "strips": strips.described}


def cut_loops(traced: Traced, options: Options) -> list[str]:
    """A line for each loop that is cut, `for at model.py:12: in tiles: ...`, in the order in which they are found.

    The passes run again for it. A loop and its derivative, if they are cut alike, have one line.
    """
    if not any(_loops(traced.graph)):
        return []
    found: dict[str, None] = {}

    def seen(p: Pass, before: Graph, after: Graph) -> None:
        if p.name in _DESCRIBED and after is not before:
            for v in _loops(before) if p.name == "tiles" else before.nodes:
                if v.op is ops.for_ and (how := _DESCRIBED[p.name](v)) is not None:
                    found[f"for at {v.loc}: {how}" if v.loc else f"a loop: {how}"] = None

    graph, _ = with_checks(traced.graph)
    optimise(graph, passes_of(options.strict or config.strict, options.memory_budget), seen)
    return list(found)


def _loops(graph: Graph) -> Iterator[Value]:
    """The `for` of a graph, and of those inside."""
    for v in graph.nodes:
        if v.op is ops.for_:
            yield v
        for inner in region.graphs(v):
            yield from _loops(inner)
