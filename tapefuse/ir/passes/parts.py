"""Loops that read parts of an array only read them where they lie, not in a copy of some of it.

    %row = x[k]; for t: ... %row[8 t : 8 t + 8] ...     ->     for t: ... x[k, 8 t : 8 t + 8] ...
    %y = put(x, v, 0); for t: ... %y[8 t + 8 : 8 t + 16] ...    ->    the same parts of x, where v is not 8 long
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.ops.update import limits
from tapefuse.ir.passes.bodies import deep, rebuilt
from tapefuse.ir.passes.loop_ranges import Box

Slice = Callable[[Value, Box], Value]  # operand, part -> the part


class _Source(NamedTuple):
    """What an operand is read from, and how a part of it is."""

    x: Value
    read: Slice


@deep
def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with other operands of loops, and how many."""
    fired: Counter[str] = Counter()

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is not ops.for_:
            return None
        sources = {k: found for k in range(v.attributes["carried"], len(args)) if (found := _source(v, args[k], k))}
        if not sources:
            return None
        fired["parts"] += len(sources)
        return _on_sources(v, args, sources)

    outs = rebuilt(graph.outs, {}, change)
    return (Graph(graph.params, outs, graph.name), fired) if fired else (graph, fired)


def _source(loop: Value, x: Value, k: int) -> _Source | None:
    """From where a loop may read what it reads of its operand number `k`, `x`."""
    body: Graph = loop.attributes["body"]
    p = body.params[k]
    readers = body.users[p]
    if len(x.shape) != 1 or not readers or p in body.outs or not all(map(_is_part, readers)):
        return None
    boxes = [Box(v.attributes["starts"], v.attributes["limits"]) for v in readers]
    before, x = x, _without_update(loop, x, boxes)
    row = _row(x)
    return row or (None if x is before else _Source(x, _slice))


def _is_part(v: Value) -> bool:
    return v.op is ops.slice_ and v.attributes["strides"] == (1,)


def _without_update(loop: Value, x: Value, boxes: Sequence[Box]) -> Value:
    """What `x` is an update of, if no part that is read has been changed."""
    a = loop.attributes
    known = {a["index"]: (0, a["trips"] - 1)}
    while x.op in (ops.put, ops.put_add) and all(isinstance(d, int) for d in x.attributes["starts"]):
        starts, strides = x.attributes["starts"], x.attributes["strides"]
        written = Box(starts, limits(x.args[1].shape, starts, strides))
        if not all(box.is_apart(written, known) for box in boxes):
            break
        x = x.args[0]
    return x


def _row(x: Value) -> _Source | None:
    """A row of an array of rows."""
    if x.op is not ops.reshape or x.args[0].op is not ops.slice_:
        return None
    cut, a = x.args[0], x.args[0].attributes
    (whole,), n = cut.args, x.shape[0]
    if whole.op is not None and not whole.op.is_region and whole.op is not ops.result:
        return None  # not in memory, as far as we know
    if set(a["strides"]) != {1} or cut.shape[-1] != n or any(d != 1 for d in cut.shape[:-1]):
        return None

    def read(whole: Value, box: Box) -> Value:
        first = a["starts"][-1]
        starts, ends = (*a["starts"][:-1], first + box.starts[0]), (*a["limits"][:-1], first + box.limits[0])
        part = ops.slice_.emit(whole, starts=starts, limits=ends, strides=(1,) * len(starts))
        return ops.reshape.emit(part, shape=box.shape)

    return _Source(whole, read)


def _slice(x: Value, box: Box) -> Value:
    return ops.slice_.emit(x, **box._asdict(), strides=(1,))


def _on_sources(loop: Value, args: tuple[Value, ...], sources: dict[int, _Source]) -> Value:
    """The loop on other operands."""
    body: Graph = loop.attributes["body"]
    params, new, env = [*body.params], [*args], dict[Value, Value]()
    for k, source in sources.items():
        params[k], new[k] = param(source.x.type), source.x
        for v in body.users[body.params[k]]:
            env[v] = source.read(params[k], Box(v.attributes["starts"], v.attributes["limits"]))
    graph = Graph(tuple(params), rebuilt(body.outs, env), body.name)
    return ops.for_.emit(*new, **{**loop.attributes, "body": graph})
