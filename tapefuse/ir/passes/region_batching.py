"""Batching rules of regions: what they do to the graphs inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.interp import inlined
from tapefuse.ir.op import Op, constant
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import BOOL, INT64, with_batch
from tapefuse.ir.passes import budget
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.batching import Flagged, batched
from tapefuse.ir.passes.bodies import rebuilt, row, with_row
from tapefuse.ir.passes.paddings import padded
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
        chosen = _if_at_all(flags, xs, cond, body, carried, n)
        return _masked(flags, xs, cond, body, carried, n) if chosen is None else chosen
    inner, _ = body_of(body, wanted, n, wanted[:carried])
    found = ops.while_.emit_results(*_started(xs, flags, wanted, n), cond=test, body=inner, carried=carried)
    return list(zip(found, (*wanted[:carried], False), strict=True))


def _if_at_all(flags: Flags, xs: Sequence[Value], cond: Graph, body: Graph, carried: int, n: Dim) -> Pairs | None:
    """Of `while p and test` with a `p` that no iteration changes: where examples differ in `p` alone, they either take
    all iterations or none."""
    (y,) = cond.outs
    k = next((k for k, p in enumerate(cond.params) if k >= carried and y.op is ops.and_ and p in y.args), None)
    if k is None or not flags[k]:
        return None
    test = y.args[1] if y.args[0] is cond.params[k] else y.args[0]
    some = [*xs[:k], ops.reduce_any(xs[k], axes=(0,)), *xs[k + 1 :]]
    fewer = [f and j != k for j, f in enumerate(flags)]
    wanted = _carry_flags(body, fewer, carried, n) if any(fewer) else fewer
    _, (differs,) = body_of(Graph(cond.params, (test,)), wanted, n)
    if differs or cond.params[k] in reachable((test, *body.outs)):
        return None
    if any(fewer):
        found = while_values(fewer, some, cond=cond, body=body, carried=carried)
    else:
        alike = ops.while_.emit_results(*some, cond=cond, body=body, carried=carried)
        found = [(y, False) for y in alike]
    before = [*zip(xs[:carried], flags, strict=False), (constant(0, INT64), False)]
    each = [[x if f else with_batch(x, n) for x, f in (old, new)] for old, new in zip(before, found, strict=True)]
    return [(_where(xs[k], new, old), True) for old, new in each]


def _masked(flags: Flags, xs: Sequence[Value], cond: Graph, body: Graph, carried: int, n: Dim) -> Pairs:
    """While some example goes on: those that do change. Each has a number of iterations of its own."""
    wanted = [k < carried or f for k, f in enumerate(flags)]
    test, _ = body_of(cond, wanted, n, [True])
    inner, _ = body_of(asking_if(body), (*wanted, True), n, wanted[:carried])
    count, active = param(Type(INT64, (n,)), "count"), param(Type(BOOL, (n,)), "active")
    given, operands = inner.params[:-1], _started(xs, flags, wanted, n)
    params = (*given[:carried], count, active, *given[carried:])
    new = inlined(inner, (*given, active), {})
    outs = [_where(active, y, old) for y, old in zip(new, given, strict=False)]
    counted = ops.add(count, ops.cast(active, dtype=INT64))
    (goes_on,) = inlined(test, (*outs, *given[carried:]), {})
    found = ops.while_.emit_results(
        *operands[:carried],
        zeros(count.type),
        *inlined(test, operands, {}),
        *operands[carried:],
        cond=Graph(params, (ops.reduce_any(active, axes=(0,)),)),
        body=Graph(params, (*outs, counted, ops.and_(active, goes_on))),
        carried=carried + 2,
    )
    return [(y, True) for y in found[: carried + 1]]


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
    """The graph with one more parameter, a bool: only where it is true must what the graph requires hold, and do its
    loops of unknown length run (what they are given elsewhere may keep them from ending)."""
    asked = param(Type(BOOL, ()), "asked")

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        assert v.op is not None
        if v.op is ops.require:
            otherwise: Any = ops.not_(asked)
            if v.shape:
                otherwise = ops.broadcast(otherwise, shape=v.shape, axes=())
            return ops.require.emit(ops.or_(args[0], otherwise), **v.attributes)
        if v.op.is_region and (v.op is ops.while_ or any(map(_asks, region.graphs(v)))):
            attrs = region.with_graphs(v.attributes, asking_if)
            if v.op is ops.while_:
                params, outs = attrs["cond"].params, attrs["cond"].outs
                attrs["cond"] = Graph(params, (ops.and_(params[-1], *outs),), attrs["cond"].name)
            return v.op.emit(*args, asked, **attrs)
        return None

    return Graph((*graph.params, asked), rebuilt(graph.outs, {}, change), graph.name)


def _asks(graph: Graph) -> bool:
    return any(v.op in (ops.require, ops.while_) or any(map(_asks, region.graphs(v))) for v in graph.nodes)


def sized_values(flags: Flags, xs: Sequence[Value], *, symbol: str, body: Graph) -> Pairs:
    n = _size(flags, xs)
    if flags[0]:
        alike = None if budget.limit() is not None or _asks(body) else padded(body, symbol)
        if alike is None:
            return one_by_one(ops.sized, flags, xs, symbol=symbol, body=body)
        most = ops.reduce_max(_with_zero(xs[0]), axes=(0,))
        return sized_values((False, *flags), (most, *xs), symbol=symbol, body=alike)
    inner, outs = body_of(body, flags[1:], n)
    return list(zip(ops.sized.emit_results(*xs, symbol=symbol, body=inner), outs, strict=True))


def _with_zero(sizes: Value) -> Value:
    """Numbers [n], of which there is one at least."""
    (n,) = sizes.shape
    return sizes if isinstance(n, int) and n > 0 else ops.concat(zeros(Type(sizes.dtype, (1,))), sizes, axis=0)


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
