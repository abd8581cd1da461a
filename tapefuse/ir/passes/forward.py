"""Forward derivatives: the tangent rules of ops run over what was recorded, in the order in which it ran.

`tangents` works on records, whatever they hold, as `adjoint` does. `jvp_graph` turns a graph into a graph:

    fn f(%x: f32[]) { return sin %x }  ->  fn f(%x: f32[], %t_x: f32[]) { return sin %x, %t_x * cos %x }
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, here, param
from tapefuse.ir.passes.adjoint import is_differentiable, records_of, zeros


class Record(Protocol):
    """One recorded computation: results `ys` from operands `xs`."""

    @property
    def xs(self) -> Sequence[Any]: ...
    @property
    def ys(self) -> Sequence[Any]: ...
    @property
    def loc(self) -> Loc | None: ...
    def pushforward(self, ts: Sequence[Any]) -> Sequence[Any]:
        """A tangent or None per result from those of the operands (None: zero). MissingGradientError: no rule."""


def tangents(
    records: Sequence[Record],
    sources: Sequence[Any],
    given: Sequence[Any],
    targets: Sequence[Any],
    key: Callable[[Any], Hashable | None] = lambda x: x,
) -> list[Any]:
    """Per target, its derivative along the tangents `given` of the sources: of its type, or None if not connected.

    `records` stand in the order in which they ran. `key` gives an operand's identity, None for constants. Rules run
    only for records on a path from a source to a target; time is linear in the records.
    """
    found: dict[Hashable, Any] = {}
    for source, t in zip(sources, given, strict=True):
        if is_differentiable(source):
            _accumulate(found, key(source), t)
    outer = here.loc
    try:
        for record in _needed(records, targets, key):
            ts = [None if (k := key(x)) is None else found.get(k) for x in record.xs]
            if any(t is not None for t in ts):
                here.loc = record.loc
                _push(record, ts, found, key)
    finally:
        here.loc = outer
    return [found.get(key(y)) if is_differentiable(y) else None for y in targets]


def _needed(records: Sequence[Record], targets: Iterable[Any], key: Callable) -> list[Record]:
    """The records that some target depends on, in order."""
    wanted = {key(y) for y in targets}
    kept = []
    for record in reversed(records):
        if any(key(y) in wanted for y in record.ys):
            wanted.update(k for x in record.xs if (k := key(x)) is not None)
            kept.append(record)
    return kept[::-1]


def _push(record: Record, ts: Sequence[Any], found: dict[Hashable, Any], key: Callable) -> None:
    if getattr(record, "op", None) is ops.stop_gradient or not any(map(is_differentiable, record.ys)):
        return
    for y, t in zip(record.ys, record.pushforward(ts), strict=True):
        if t is not None and is_differentiable(y):
            _accumulate(found, key(y), t)


def _accumulate(found: dict[Hashable, Any], k: Hashable, t: Any) -> None:
    found[k] = ops.add(found[k], t) if k in found else t  # a source may depend on another one


def jvp_graph(graph: Graph) -> Graph:
    """parameters + tangents of the floating-point ones -> outputs + tangents of the floating-point ones."""
    sources = [p for p in graph.params if is_differentiable(p)]
    given = [param(p.type, f"t_{p.name or k}") for k, p in enumerate(graph.params) if is_differentiable(p)]
    targets = [v for v in graph.outs if is_differentiable(v)]
    moved = tangents(records_of(graph), sources, given, targets)
    outs = [zeros(v.type) if t is None else t for v, t in zip(targets, moved, strict=True)]
    return Graph((*graph.params, *given), (*graph.outs, *outs), graph.name)


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """As a pass: `jvp_graph`, counting the nodes that rules added."""
    result = jvp_graph(graph)
    return result, Counter({"forward": len(result.nodes) - len(graph.nodes)})
