"""The reverse pass of a `for`: a loop in the other direction over the cotangents of what is carried.

    c = for(c0, w; body)    reverse, from the last iteration to the first:   gc, gw += vjp of body(c_k, w) for gc

What the reverse body reads of iteration k is kept in stacks [trips, ...] that a second forward loop fills, whose body
does what the first one's does and more (pass `loops` makes one loop of both), or is computed again (`residuals`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.ops import region
from tapefuse.ir.passes import budget, residuals
from tapefuse.ir.passes.adjoint import adjoint, is_differentiable, records_of, zeros
from tapefuse.ir.passes.bodies import depending, rebuilt, row, with_row
from tapefuse.ir.passes.loop_chunks import Loop, in_chunks
from tapefuse.ir.passes.loop_products import Products
from tapefuse.ir.passes.simplify import RULES
from tapefuse.ir.rewrite import Rewriter
from tapefuse.ir.types import Dim, Poly, Type, symbols

SEEN = ("stop_gradient", "missing_gradient")  # by derivatives of derivatives
IDENTITIES = Rewriter(r for r in RULES.rules if r.name not in SEEN)


class Step(NamedTuple):
    """The reverse of one iteration."""

    seeds: dict[int, Value]  # by carry: its cotangent after the iteration
    sums: dict[int, Value]  # by parameter of the body: the cotangent of a constant, summed so far
    outs: tuple[Value, ...]  # what becomes of seeds, then of sums
    new: tuple[Value, ...]  # the carry after the iteration, as it is among what `outs` are computed from


class Stack(NamedTuple):
    """What is kept of a value of every iteration: row k of `array` is the value at iteration k."""

    array: Value  # parameter of the forward body: [trips, ...], or [trips + 1, ...] for the carry number `carry`
    value: Value
    carry: int | None  # whose new value, at row k + 1, is read too


def cotangents(gs: Sequence[Value | None], loop: Loop, wanted: Sequence[bool]) -> list[Value | None]:
    """A cotangent or None for each operand of a loop whose results have the cotangents `gs`."""
    if not isinstance(loop.trips, Poly) and loop.trips <= 0:
        return [*gs, *(None for _ in loop.xs[loop.carried :])]
    step = reverse_step(loop, [g is not None for g in gs], wanted)
    if not step.seeds:
        return [None] * len(loop.xs)
    planned = budget.is_planned(loop.index)
    stacks = stacks_of(loop, step, again=planned)
    if not planned and budget.is_exceeded(bytes_of(stacks)):
        stacks = stacks_of(loop, step, again=True)
        if budget.is_exceeded(bytes_of(stacks)):
            return in_chunks(gs, loop, wanted, sum(residuals.bytes_of(s.value) for s in stacks))
    return _reversed(gs, loop, step, stacks)


def bytes_of(stacks: Sequence[Stack]) -> Dim:
    return sum((s.array.type.nbytes for s in stacks), 0)


# -- one iteration ----------------------------------------------------------------------------------------------------


def reverse_step(loop: Loop, given: Sequence[bool], wanted: Sequence[bool]) -> Step:
    """`given`: the results that have a cotangent; `wanted`: the operands whose cotangent matters."""
    body, carried = loop.body, loop.carried
    sources = sorted(_connected(body, carried, wanted))
    active = {k for k in sources if k < carried and given[k]}
    while True:
        seeds = {k: param(body.params[k].type, f"d{k}") for k in sorted(active)}
        targets = [body.outs[k] for k in seeds]
        found = adjoint(records_of(body), targets, [*seeds.values()], [body.params[k] for k in sources])
        pulled = {k: g for k, g in zip(sources, found, strict=True) if g is not None}
        more = {k for k in pulled if k < carried} - active
        if not more:
            break
        active |= more
    sums = {k: param(body.params[k].type, f"s{k}") for k in pulled if k >= carried}
    before = [pulled[k] if k in pulled else zeros(body.params[k].type) for k in seeds]
    after = [_added(total, pulled[k]) for k, total in sums.items()]
    graph = Graph((*body.params, *seeds.values(), *sums.values()), (*body.outs, *before, *after))
    outs = IDENTITIES.run(graph)[0].outs
    return Step(seeds, sums, outs[carried:], outs[:carried])


def _connected(body: Graph, carried: int, wanted: Sequence[bool]) -> set[int]:
    """The parameters that depend on a wanted one: these, and carries that an iteration makes depend on them."""
    found = {k for k, p in enumerate(body.params) if wanted[k] and is_differentiable(p)}
    while True:
        active = {body.params[k] for k in found}
        for v in body.nodes:
            if v.op is not ops.stop_gradient and any(a in active for a in v.args) and _passes_on(v):
                active.add(v)
        more = {k for k in range(carried) if body.outs[k] in active} - found
        if not more:
            return found
        found |= more


def _passes_on(v: Value) -> bool:
    return is_differentiable(v) or (v.op is not None and v.op.is_region)


def _added(total: Value, g: Value) -> Value:
    """`total + g`, where the gradient of a part is added to that part alone."""
    a = g.attributes
    if g.op is ops.add and g.args[0].shape == g.args[1].shape:
        return _added(_added(total, g.args[0]), g.args[1])
    if g.op is ops.pad and a["value"] == 0:
        return ops.put_add(total, g.args[0], starts=a["low"], strides=tuple(gap + 1 for gap in a["interior"]))
    if g.op is ops.scatter_add:
        return ops.add_at(total, *g.args)
    return ops.add(total, g)


# -- what is kept -----------------------------------------------------------------------------------------------------


def stacks_of(loop: Loop, step: Step, again: bool) -> list[Stack]:
    """What the reverse step reads of the forward one, or what that is cheap to compute from.

    `again`: all but carries may be computed again, however dear that is.
    """
    body, index = loop.body, loop.index
    carry = {p: k for k, p in enumerate(body.params[: loop.carried])}
    seeds = (*step.seeds.values(), *step.sums.values())
    reverse = Graph((*body.params, *seeds), step.outs)
    backward = depending(reverse, seeds)
    needed = {a for v in reverse.nodes if v in backward for a in v.args} | {*step.outs}
    needed -= backward
    varying = depending(reverse, carry, frozenset({index}))
    open_regions = {v.args[0] for v in reverse.nodes if v.op is ops.result and index in symbols(v.shape)}

    def can_keep(v: Value) -> bool:
        return index not in symbols(v.shape) and not (v.op is not None and v.op.is_region)

    def is_given(v: Value) -> bool:
        if v.op is None or not v.op.interned:
            return True
        is_result_kept = v.op.is_region and v not in open_regions
        return not again and not residuals.is_cheap(v) and (is_result_kept or can_keep(v))

    def keeping(both: set[Value]) -> tuple[int, list[Value], list[Value]]:
        """With stacks of these carries, in which their new values are found too: bytes, what is kept, what is read."""
        there = {step.new[carry[p]] for p in both}
        rules = is_given, lambda v: v not in varying or v in there
        found = residuals.kept(needed | both, *rules, can_keep)
        kept = [*dict.fromkeys(_unmoved(v, lambda x: x in varying and can_keep(x)) for v in found)]
        return sum(map(residuals.bytes_of, kept)), kept, residuals.between(needed | both, *rules)

    both: set[Value] = set()
    least, kept, between = keeping(both)
    for p, k in carry.items():
        if p not in between or step.new[k] not in between or step.new[k] in carry:
            continue
        total, values, read = keeping(both | {p})
        if (total, len(values)) <= (least, len(kept)):
            least, kept, between, both = total, values, read, both | {p}
    return [_stack(v, loop, carry[v] if v in both else None) for v in kept]


def _unmoved(v: Value, can_be_kept: Callable[[Value], bool]) -> Value:
    """The value whose elements `v` has in another order: rows are written as they lie in memory."""
    found = x = v
    while x.op in (ops.reshape, ops.transpose) and can_be_kept(x.args[0]):
        is_transpose, (x,) = x.op is ops.transpose, x.args
        found = x if is_transpose else found
    return found


def _stack(v: Value, loop: Loop, carry: int | None) -> Stack:
    return Stack(param(Type(v.dtype, (loop.trips + (carry is not None), *v.shape))), v, carry)


def _filled(loop: Loop, stacks: Sequence[Stack]) -> tuple[Value, ...]:
    """The stacks, from a loop that does what `loop` does and keeps values."""
    if not stacks:
        return ()
    n, params, k = loop.carried, loop.body.params, Poly.symbol(loop.index)
    empty, rows = [], []
    for s in stacks:
        start = zeros(s.array.type)
        if s.carry is None:
            empty.append(start)
            rows.append(with_row(s.array, k, s.value))
        else:
            empty.append(with_row(start, 0, loop.xs[s.carry]))
            rows.append(with_row(s.array, k + 1, loop.body.outs[s.carry]))
    body = Graph((*params[:n], *(s.array for s in stacks), *params[n:]), (*loop.body.outs, *rows), loop.body.name)
    xs = (*loop.xs[:n], *empty, *loop.xs[n:])
    return Loop(xs, body, loop.trips, loop.index, n + len(stacks)).results()[n:]


def _reversed(gs: Sequence[Value | None], loop: Loop, step: Step, stacks: Sequence[Stack]) -> list[Value | None]:
    """The reverse loop, and what it gives for each operand of `loop`."""
    k, back = Poly.symbol(loop.index), region.fresh("k")
    reads: dict[Value, Value] = {}
    for s in stacks:
        reads[s.value] = row(s.array, k, s.value.shape)
        if s.carry is not None:
            reads.setdefault(step.new[s.carry], row(s.array, k + 1, s.value.shape))
    outs = rebuilt(step.outs, dict(reads))
    operands = dict(zip(loop.body.params[loop.carried :], loop.xs[loop.carried :], strict=True))
    operands |= dict(zip((s.array for s in stacks), _filled(loop, stacks), strict=True))
    sums = dict(zip(step.sums.values(), outs[len(step.seeds) :], strict=True))
    late = Products(sums, operands, loop)
    left = {t: y for t, y in sums.items() if t not in late.of}
    carry = (*step.seeds.values(), *left, *late.stacks.values())
    outs = (*outs[: len(step.seeds)], *left.values(), *late.rows())
    read = reachable(outs)
    consts = [p for p in operands if p in read]
    body = Graph((*carry, *consts), outs, loop.body.name).substitute({loop.index: loop.trips - 1 - Poly.symbol(back)})
    started = [zeros(loop.xs[i].type) if (g := gs[i]) is None else g for i in step.seeds]
    started += [zeros(p.type) for p in carry[len(started) :]]
    xs = (*started, *(operands[p] for p in consts))
    found = dict(zip(carry, Loop(xs, body, loop.trips, back, len(carry)).results(), strict=True))
    cotangent = {i: found[p] for i, p in step.seeds.items()}
    cotangent |= {i: found[t] if t in found else late.total(t, found) for i, t in step.sums.items()}
    return [cotangent.get(i) for i in range(len(loop.xs))]
