"""Stacks of a loop with the iterations as their first axis, wherever batching has put it.

    for k: s[:, k] = row;  for k: ... s[:, n - 1 - k] ...     ->      for k: s[k] = row;  for k: ... s[n - 1 - k] ...

Rows then lie one after the other in memory, which can grow by rows (`recordings`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.bodies import Results, rebuilt, with_results
from tapefuse.ir.passes.updates import is_zero
from tapefuse.ir.types import Type

Axes = Mapping[tuple[Value, int], int]  # by loop and carry: the axis of the iterations


def rows_first(graph: Graph) -> Graph:
    """The graph with such stacks of its `for` loops, those that begin with nothing and that other loops read row by
    row, and nobody else."""
    axes = _axes(graph)
    if not axes:
        return graph

    def replace(v: Value, args: tuple[Value, ...]) -> Results | None:
        if v.op is not ops.for_:
            return None
        read = {j: axes[x.args[0], x.attributes["index"]] for j, x in enumerate(v.args) if _is_one_of(x, axes)}
        written = {k: a for (token, k), a in axes.items() if token is v}
        if not read and not written:
            return None
        xs = [_start(x, written[k]) if k in written else x for k, x in enumerate(args)]
        return ops.for_.emit_results(*xs, **{**v.attributes, "body": _turned(v.attributes["body"], read | written)})

    return with_results(graph, replace)


def _is_one_of(v: Value, axes: Axes) -> bool:
    return v.op is ops.result and (v.args[0], v.attributes["index"]) in axes


def _first(xs: Sequence, axis: int) -> tuple:
    """`xs` with one of them in front of the others."""
    return (xs[axis], *xs[:axis], *xs[axis + 1 :])


def _start(x: Value, axis: int) -> Value:
    """What a stack begins with (`_is_start`), with an axis first."""
    if x.op is ops.put:
        return _put(_start(x.args[0], axis), x, x.args[1], axis)
    shape = _first(x.shape, axis)
    return ops.empty.emit(shape=shape, dtype=x.dtype) if _is_empty(x) else zeros(Type(x.dtype, shape))


def _put(stack: Value, update: Value, row: Value, axis: int) -> Value:
    """A stack with its axis first, with a row as `update` puts one into it as it was."""
    attrs = {name: _first(x, axis) for name, x in update.attributes.items()}
    return ops.put.emit(stack, ops.reshape(row, shape=_first(row.shape, axis)), **attrs)


def _is_start(v: Value, axis: int) -> bool:
    """Whether a stack begins with nothing, zeros, or one row."""
    if v.op is ops.put and _axis_of_row(v) == axis:
        (v, _) = v.args
    return _is_empty(v) or is_zero(v)


def _is_empty(v: Value) -> bool:
    while v.op is ops.broadcast:
        (v,) = v.args
    return v.op is ops.empty


def _turned(body: Graph, axes: Mapping[int, int]) -> Graph:
    """The body of a loop with other parameters in place of those whose `axes`, by number, come first."""
    old = {body.params[j]: a for j, a in axes.items()}
    env = {p: param(Type(p.dtype, _first(p.shape, a)), p.name) for p, a in old.items()}
    params = tuple(env.get(p, p) for p in body.params)

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        a = old.get(v.args[0]) if v.op in (ops.slice_, ops.put) else None
        if a is None:
            return None
        if v.op is ops.put:
            return _put(args[0], v, args[1], a)
        attrs = {name: _first(x, a) for name, x in v.attributes.items()}
        return ops.reshape(ops.slice_.emit(args[0], **attrs), shape=v.shape)

    return Graph(params, rebuilt(body.outs, env, change), body.name)


# -- which -------------------------------------------------------------------------------------------------------------


def _axes(graph: Graph) -> Axes:
    found: dict[tuple[Value, int], int] = {}
    refused: set[tuple[Value, int]] = set()
    for v in graph.nodes:
        if v.op is not ops.result or v.args[0].op is not ops.for_:
            continue
        place = v.args[0], v.attributes["index"]
        axis = _row_axis(*place)
        readers = graph.users.get(v, ())
        if axis and v not in graph.outs and all(_reads_rows(u, v, axis) for u in readers):
            found[place] = axis
        else:
            refused.add(place)
    return {place: axis for place, axis in found.items() if place not in refused}


def _row_axis(loop: Value, k: int) -> int | None:
    """The axis along which each iteration writes one row of a carry, and does nothing else with it."""
    body, start = loop.attributes["body"], loop.args[k]
    p, y = body.params[k], body.outs[k]
    is_written = y.op is ops.put and y.args[0] is p and body.users.get(p, ()) == (y,) and not body.users.get(y, ())
    axis = _axis_of_row(y) if is_written and body.outs.count(y) == 1 else None
    return axis if axis is not None and _is_start(start, axis) else None


def _axis_of_row(v: Value) -> int | None:
    """The axis along which a `put` writes one of several rows."""
    pairs = zip(v.args[1].shape, v.shape, strict=True)
    shorter = [(a, n) for a, (n, m) in enumerate(pairs) if n != m]
    is_row = set(v.attributes["strides"]) == {1} and [n for _, n in shorter] == [1]
    return shorter[0][0] if is_row else None


def _reads_rows(reader: Value, stack: Value, axis: int) -> bool:
    """Whether a loop reads only rows of a stack."""
    if reader.op is not ops.for_:
        return False
    body, carried = reader.attributes["body"], reader.attributes["carried"]
    for j, x in enumerate(reader.args):
        if x is not stack:
            continue
        p = body.params[j]
        users = body.users.get(p, ())
        if j < carried or p in body.outs or not all(u.op is ops.slice_ for u in users):
            return False
        if any(u.shape[axis] != 1 for u in users):
            return False
    return True
