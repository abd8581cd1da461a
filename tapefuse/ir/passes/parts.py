"""Loops that read or write parts of an array only do that where it lies, not in a copy of some of it.

    %row = x[k]; for t: ... %row[8 t : 8 t + 8] ...                 ->  for t: ... x[k, 8 t : 8 t + 8] ...
    %y = put(x, v, 0); for t: ... %y[8 t + 8 : 8 t + 16] ...        ->  the same parts of x, where v is not 8 long
    %y = empty; for t: %y[t] = v; x[k] = %y                         ->  for t: x[k, t] = v
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.ops.update import limits
from tapefuse.ir.passes.bodies import depending, inside, rebuilt
from tapefuse.ir.passes.loop_ranges import Box

Slice = Callable[[Value, Box], Value]  # operand, part -> the part


class _Source(NamedTuple):
    """What an operand is read from, and how a part of it is."""

    x: Value
    read: Slice


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with other operands and carries of loops, and how many. The outer ones first: what they read, inner
    ones read then."""
    fired: Counter[str] = Counter()

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is not ops.for_:
            return None
        sources = {k: found for k in range(v.attributes["carried"], len(args)) if (found := _source(v, args[k], k))}
        fired["read"] += len(sources)
        return _on_sources(v, args, sources) if sources else None

    outs = rebuilt(graph.outs, {}, change)
    graph = Graph(graph.params, outs, graph.name) if +fired else graph
    while (written := _written(graph)) is not None:
        graph = written
        fired["written"] += 1
    graph, more = inside(graph, run)
    return graph, +(fired + more)


# -- what is read -----------------------------------------------------------------------------------------------------


def _source(loop: Value, x: Value, k: int) -> _Source | None:
    """From where a loop may read what it reads of its operand number `k`, `x`."""
    body: Graph = loop.attributes["body"]
    p = body.params[k]
    readers = body.users[p]
    if not x.shape or not readers or p in body.outs or not all(map(_is_part, readers)):
        return None
    boxes = [Box(v.attributes["starts"], v.attributes["limits"]) for v in readers]
    before, x = x, _without_update(loop, x, boxes)
    return _row(x) or (None if x is before else _Source(x, _slice))


def _is_part(v: Value) -> bool:
    return v.op is ops.slice_ and set(v.attributes["strides"]) == {1}


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
    """A row of an array of rows that is in memory."""
    cut = x
    while cut.op is ops.reshape:
        (cut,) = cut.args
    if cut is x or not _is_part(cut):
        return None
    (whole,), starts = cut.args, cut.attributes["starts"]
    n = len(cut.shape) - len(x.shape)
    if whole.op is not None and whole.op is not ops.result:
        return None
    if n < 1 or any(d != 1 for d in cut.shape[:n]) or cut.shape[n:] != x.shape:
        return None

    def read(whole: Value, box: Box) -> Value:
        first = tuple(a + b for a, b in zip(starts[n:], box.starts, strict=True))
        last = tuple(a + b for a, b in zip(starts[n:], box.limits, strict=True))
        ends = tuple(d + 1 for d in starts[:n])
        part = ops.slice_.emit(whole, starts=(*starts[:n], *first), limits=(*ends, *last), strides=(1,) * len(starts))
        return ops.reshape.emit(part, shape=box.shape)

    return _Source(whole, read)


def _slice(x: Value, box: Box) -> Value:
    return ops.slice_.emit(x, **box._asdict(), strides=(1,) * len(x.shape))


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


# -- what is written --------------------------------------------------------------------------------------------------


def _written(graph: Graph) -> Graph | None:
    """The graph where one more loop writes into an array whose row its result becomes."""
    for v in graph.nodes:
        if v.op is ops.put and set(v.attributes["strides"]) == {1} and (found := _filled(graph, v)) is not None:
            (loop,), k = found.args, found.attributes["index"]
            if v.args[0] not in depending(graph, (loop,)):
                return _in_place(graph, v, loop, k)
    return None


def _filled(graph: Graph, v: Value) -> Value | None:
    """The result of a loop that fills memory which becomes a row by the update `v`, and is not read otherwise."""
    x = v.args[1]
    n = len(x.shape)
    while x.op is ops.reshape and len(graph.users[x]) == 1:
        (x,) = x.args
    if x.op is not ops.result or len(graph.users[x]) != 1 or x in graph.outs or x.args[0].op is not ops.for_:
        return None
    lead = n - len(x.shape)
    is_row = lead >= 1 and v.args[1].shape == (*(1,) * lead, *x.shape)
    (loop,), k = x.args, x.attributes["index"]
    body: Graph = loop.attributes["body"]
    p, y = body.params[k], body.outs[k]
    if not is_row or loop.args[k].op is not ops.empty or y.op is not ops.put or y.args[0] is not p:
        return None
    alone = body.users[p] == (y,) and not body.users[y] and body.outs.count(y) == 1 and p not in body.outs
    return x if alone else None


def _in_place(graph: Graph, v: Value, loop: Value, k: int) -> Graph:
    """The graph where carry `k` of a loop is the array that `v` changes."""
    body: Graph = loop.attributes["body"]
    y, p = body.outs[k], param(v.type)
    value, starts, lead = y.args[1], v.attributes["starts"], len(v.shape) - len(y.shape)
    row = ops.reshape.emit(value, shape=(*(1,) * lead, *value.shape))
    inner = tuple(a + b for a, b in zip(starts[lead:], y.attributes["starts"], strict=True))
    strides = (*(1,) * lead, *y.attributes["strides"])
    new = ops.put.emit(p, row, starts=(*starts[:lead], *inner), strides=strides)
    params = (*body.params[:k], p, *body.params[k + 1 :])
    changed = Graph(params, (*body.outs[:k], new, *body.outs[k + 1 :]), body.name)
    env: dict[Value, Value] = {}
    args = rebuilt(loop.args, env)
    (start,) = rebuilt((v.args[0],), env)
    results = ops.for_.emit_results(*args[:k], start, *args[k + 1 :], **{**loop.attributes, "body": changed})
    for u in graph.users[loop]:
        env[u] = results[u.attributes["index"]]
    env[v] = results[k]
    return Graph(graph.params, rebuilt(graph.outs, env), graph.name)
