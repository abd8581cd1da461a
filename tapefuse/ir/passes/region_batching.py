"""Batching rules of regions: what they do to the graphs inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import inlined
from tapefuse.ir.op import Op, constant
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import BOOL, INT64, with_batch
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.batching import Flagged, batched
from tapefuse.ir.passes.bodies import rebuilt, row, with_row
from tapefuse.ir.types import Dim, Poly, Type, type_of

Flags = Sequence[bool]
Pairs = Sequence[tuple[Value, bool]]


def _leaf(op: Op, attrs: dict[str, Any]) -> Value:
    return op.emit(**attrs)


def body_of(graph: Graph, flags: Flags, n: Dim, force: Flags | None = None) -> tuple[Graph, list[bool]]:
    """A graph with `n` examples along a first axis of the parameters with a flag, and of the outputs where it says.

    `force`: outputs that get the axis in any case.
    """
    params = tuple(_longer(p, n) if f else p for p, f in zip(graph.params, flags, strict=True))
    found = batched(graph, list(zip(params, flags, strict=True)), _leaf)
    forced = force or [False] * len(found)
    outs = tuple(with_batch(y, n) if must and not f else y for (y, f), must in zip(found, forced, strict=True))
    return Graph(params, outs, graph.name), [f or must for (_, f), must in zip(found, forced, strict=True)]


def _longer(p: Value, n: Dim) -> Value:
    return param(Type(p.dtype, (n, *p.shape)), p.name)


def _size(flags: Flags, xs: Sequence[Value]) -> Dim:
    return next(x.shape[0] for x, f in zip(xs, flags, strict=True) if f)


def _carry_flags(body: Graph, flags: Flags, carried: int, n: Dim) -> list[bool]:
    """The flags of all operands, with those of carries that become different for the examples."""
    found = list(flags)
    while True:
        _, after = body_of(body, found, n)
        if all(found[k] or not f for k, f in enumerate(after)):
            return found
        found[:carried] = [a or b for a, b in zip(found[:carried], after, strict=True)]


def _started(xs: Sequence[Value], flags: Flags, wanted: Flags, n: Dim) -> list[Value]:
    return [with_batch(x, n) if w and not f else x for x, f, w in zip(xs, flags, wanted, strict=True)]


def for_values(
    flags: Flags, xs: Sequence[Value], *, body: Graph, trips: Dim, index: str, carried: int, parallel: bool = False
) -> Pairs:
    n = _size(flags, xs)
    wanted = _carry_flags(body, flags, carried, n)
    inner, _ = body_of(body, wanted, n, wanted[:carried])
    operands = _started(xs, flags, wanted, n)
    more = {"parallel": True} if parallel else {}
    found = ops.for_.emit_results(*operands, body=inner, trips=trips, index=index, carried=carried, **more)
    return list(zip(found, wanted[:carried], strict=True))


def while_values(flags: Flags, xs: Sequence[Value], *, cond: Graph, body: Graph, carried: int) -> Pairs:
    n = _size(flags, xs)
    wanted = _carry_flags(body, flags, carried, n)
    test, (differs,) = body_of(cond, wanted, n)
    if differs:
        return _masked(flags, xs, cond, body, carried, n)
    inner, _ = body_of(body, wanted, n, wanted[:carried])
    found = ops.while_.emit_results(*_started(xs, flags, wanted, n), cond=test, body=inner, carried=carried)
    return list(zip(found, (*wanted[:carried], False), strict=True))


def _masked(flags: Flags, xs: Sequence[Value], cond: Graph, body: Graph, carried: int, n: Dim) -> Pairs:
    """While some example goes on: those that do change. Each has a number of iterations of its own."""
    wanted = [k < carried or f for k, f in enumerate(flags)]
    test, _ = body_of(cond, wanted, n, [True])
    inner, _ = body_of(asking_if(body), (*wanted, True), n, wanted[:carried])
    count = param(Type(INT64, (n,)), "count")
    given = inner.params[:-1]
    params = (*given[:carried], count, *given[carried:])
    (active,) = inlined(test, given, {})
    outs = [_where(active, new, old) for new, old in zip(inlined(inner, (*given, active), {}), given, strict=False)]
    counted = ops.add(count, ops.cast(active, dtype=INT64))
    (goes_on,) = inlined(test, given, {})
    operands = _started(xs, flags, wanted, n)
    found = ops.while_.emit_results(
        *operands[:carried],
        zeros(count.type),
        *operands[carried:],
        cond=Graph(params, (ops.reduce_any(goes_on, axes=(0,)),)),
        body=Graph(params, (*outs, counted)),
        carried=carried + 1,
    )
    return [(y, True) for y in found[:-1]]


def _where(active: Value, new: Value, old: Value) -> Value:
    """`new` for active examples, `old` for the others."""
    (n,) = active.shape
    return ops.select(ops.reshape(active, shape=(n, *(1 for _ in new.shape[1:]))), new, old)


def switch_values(flags: Flags, xs: Sequence[Value], *, branches: Sequence[Graph]) -> Pairs:
    n, (index, *operands), (choice, *inner) = _size(flags, xs), xs, flags
    if choice:
        return _chosen(index, operands, inner, branches, n)
    outs = [body_of(branch, inner, n)[1] for branch in branches]
    force = [any(fs) for fs in zip(*outs, strict=True)]
    found = ops.switch.emit_results(*xs, branches=tuple(body_of(b, inner, n, force)[0] for b in branches))
    return list(zip(found, force, strict=True))


def _chosen(index: Value, operands: Sequence[Value], flags: Flags, branches: Sequence[Graph], n: Dim) -> Pairs:
    """Every branch for all examples, and of each example the results of its own."""
    force = [True] * len(branches[0].outs)
    last = constant(len(branches) - 1, INT64)
    k = ops.maximum(ops.minimum(index, last), constant(0, INT64))
    found: Sequence[Value] = ()
    for number, branch in enumerate(branches):
        hit = ops.eq(k, constant(number, INT64))
        inner, _ = body_of(asking_if(branch), (*flags, True), n, force)
        taken = inlined(inner, (*operands, hit), {})
        found = taken if not number else [_where(hit, y, z) for y, z in zip(taken, found, strict=True)]
    return [(y, True) for y in found]


def asking_if(graph: Graph) -> Graph:
    """The graph with one more parameter, a bool: only where it is true must what the graph requires hold."""
    asked = param(Type(BOOL, ()), "asked")

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        assert v.op is not None
        if v.op is ops.require:
            otherwise: Any = ops.not_(asked)
            if v.shape:
                otherwise = ops.broadcast(otherwise, shape=v.shape, axes=())
            return ops.require.emit(ops.or_(args[0], otherwise), **v.attributes)
        if v.op.is_region and any(map(_requires, region.graphs(v))):
            return v.op.emit(*args, asked, **region.with_graphs(v.attributes, asking_if))
        return None

    return Graph((*graph.params, asked), rebuilt(graph.outs, {}, change), graph.name)


def _requires(graph: Graph) -> bool:
    return any(v.op is ops.require or any(map(_requires, region.graphs(v))) for v in graph.nodes)


def sized_values(flags: Flags, xs: Sequence[Value], *, symbol: str, body: Graph) -> Pairs:
    if flags[0]:
        return one_by_one(ops.sized, flags, xs, symbol=symbol, body=body)
    n = _size(flags, xs)
    inner, outs = body_of(body, flags[1:], n)
    return list(zip(ops.sized.emit_results(*xs, symbol=symbol, body=inner), outs, strict=True))


def one_by_one(op: Op, flags: Flags, xs: Sequence[Value], **attrs: Any) -> Pairs:
    """A loop over the examples, for sizes that differ among them."""
    n, index = _size(flags, xs), region.fresh("example")
    params, k = [param(x.type) for x in xs], Poly.symbol(index)
    example = [row(p, k, p.shape[1:]) if f else p for p, f in zip(params, flags, strict=True)]
    results = op.emit_results(*example, **attrs)
    stacks = [param(Type(y.dtype, (n, *y.shape))) for y in results]
    outs = tuple(with_row(s, k, y) for s, y in zip(stacks, results, strict=True))
    found = ops.for_.emit_results(
        *(ops.empty.emit(shape=s.shape, dtype=s.dtype) for s in stacks),
        *xs,
        body=Graph((*stacks, *params), outs),
        trips=n,
        index=index,
        carried=len(stacks),
    )
    return [(y, True) for y in found]


def _batch(rule: Callable[..., Pairs]) -> Callable[..., Sequence[Flagged]]:
    """The rule for operands of any kind."""

    def batch(flags: Flags, *xs: Any, **attrs: Any) -> Sequence[Flagged]:
        if all(isinstance(x, Value) for x in xs):
            return rule(flags, xs, **attrs)
        params = tuple(param(type_of(x)) for x in xs)
        found = rule(flags, params, **attrs)
        done = inlined(Graph(params, tuple(y for y, _ in found)), xs, {})
        return [(y, f) for y, (_, f) in zip(done, found, strict=True)]

    return batch


for_batch = _batch(for_values)
while_batch = _batch(while_values)
switch_batch = _batch(switch_values)
sized_batch = _batch(sized_values)
