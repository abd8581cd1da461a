"""Batching: a function of one example becomes the function of many, by the `batch` rules of its ops.

`batched` works on what ops take: IR values, tensors, arrays. `batched_graph` turns a graph into a graph:

    fn f(%x: f32[3], %w: f32[3]) { return mul %x, %w }
    ->  fn f(%x: f32[N,3], %w: f32[3]) { return mul %x, %w }       flags (True, False)

What depends on no mapped operand is computed once, not for each example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here, param
from tapefuse.ir.interp import walk
from tapefuse.ir.op import Op
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import with_batch
from tapefuse.ir.types import Dim, Poly, Type

Flagged = tuple[Any, bool]  # an operand, and whether its first axis counts the examples


def batched(graph: Graph, args: Sequence[Flagged], leaf: Callable[[Op, dict[str, Any]], Any]) -> list[Flagged]:
    """The outputs of `graph` for many examples, each with the examples along its first axis where they differ.

    `leaf(op, attrs)` makes the results of ops without operands. Every result has the line of source of its node.
    """

    def apply(v: Value, xs: list[Any]) -> Any:
        op, attrs = v.op, v.attributes
        assert op is not None
        here.loc = v.loc
        if op is ops.result:
            return xs[0][attrs["index"]]  # of a region, whose value is here the tuple of its results
        values, flags = [x for x, _ in xs], tuple([f for _, f in xs])
        if op.is_region and any(flags):
            return op.batch(flags, *values, **attrs)
        if op.is_region:
            return [(y, False) for y in region.apply(op, values, attrs)]
        if any(flags):
            return op.batch(flags, *values, **attrs), True
        return (op(*values, **attrs) if values else leaf(op, attrs)), False

    outer = here.loc
    try:
        return list(walk(graph, args, apply))
    finally:
        here.loc = outer


def batched_graph(graph: Graph, flags: Sequence[bool], n: Dim) -> Graph:
    """The graph with a leading axis of extent `n` on the parameters whose flag is set, and on every output."""
    params = tuple(_longer(p, n) if f else p for p, f in zip(graph.params, flags, strict=True))
    outs = batched(graph, list(zip(params, flags, strict=True)), lambda op, attrs: op.emit(**attrs))
    return Graph(params, tuple(y if f else with_batch(y, n) for y, f in outs), graph.name)


def _longer(p: Value, n: Dim) -> Value:
    return param(Type(p.dtype, (n, *p.shape)), p.name)


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """As a pass: all parameters get a leading axis with a symbol of its own; counts the nodes."""
    if not graph.params:
        return graph, Counter()
    name = next(s for k in range(len(graph.symbols) + 1) if (s := f"N{k or ''}") not in graph.symbols)
    result = batched_graph(graph, [True] * len(graph.params), Poly.symbol(name))
    return result, Counter({"batch": len(graph.nodes)})
