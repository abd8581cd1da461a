"""The reverse pass of a `for`: a loop in the other direction over the cotangents of what is carried.

    c = for(c0, w; body)    reverse, from the last iteration to the first:   gc, gw += vjp of body(c_k, w) for gc

What the reverse body reads of iteration k is kept in stacks [trips, ...] that a second forward loop fills, whose body
does what the first one's does and more (pass `loops` makes one loop of both), or found elsewhere (`loop_sources`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.ops import region
from tapefuse.ir.ops.update import limits
from tapefuse.ir.passes import budget, loop_inverses, loop_ranges, residuals, tiles
from tapefuse.ir.passes.adjoint import adjoint, is_differentiable, records_of, zeros
from tapefuse.ir.passes.bodies import rebuilt, row, with_row
from tapefuse.ir.passes.checks import Known, never_negative
from tapefuse.ir.passes.loop_chunks import Loop, in_chunks
from tapefuse.ir.passes.loop_finals import Part
from tapefuse.ir.passes.loop_products import Products
from tapefuse.ir.passes.loop_ranges import Box
from tapefuse.ir.passes.loop_sources import Sources, Stack, Step, sources_of
from tapefuse.ir.passes.loop_terms import Terms
from tapefuse.ir.passes.simplify import RULES
from tapefuse.ir.passes.updates import is_zero
from tapefuse.ir.rewrite import Pattern, Rewriter, rule
from tapefuse.ir.types import Poly, Type

SMALL = 128  # elements
MOST_SPREAD = 16  # iterations that keep terms of sums each
MAX_TERMS = 64  # of a sum, among which those that write to one place are looked for


def put_term(root: Value) -> Value | None:
    """put(g, 0) + ... + pad(w), where w is added to the zeros alone, is put(g, w) + ..."""
    terms = _terms(root)
    if len(terms) > MAX_TERMS or not _is_small(root) and sum(map(_fills_most, terms)) > 1:
        return None  # the sum over a stencil is computed best in one loop
    for k, x in enumerate(terms):
        if x.op is not ops.put or not is_zero(x.args[1]):
            continue
        j = next((j for j, y in enumerate(terms) if _is_padded_to(y, x)), None)
        if j is not None:
            terms[k] = ops.put(x.args[0], terms[j].args[0], **x.attributes)
            return reduce(ops.add, (t for i, t in enumerate(terms) if i != j))
    return None


def _terms(v: Value) -> list[Value]:
    if v.op is ops.add and v.args[0].shape == v.args[1].shape:
        return [t for a in v.args for t in _terms(a)]
    return [v]


def _is_small(v: Value) -> bool:
    """Whether an array may lie in registers, whose parts are set at no cost (`codegen.small_bodies`)."""
    return isinstance(v.type.size, int) and v.type.size <= SMALL


def _fills_most(v: Value) -> bool:
    """Whether `v` is an array with a narrow frame of zeros."""
    if v.op is not ops.pad:
        return False
    inner, whole = v.args[0].type.size, v.type.size
    return isinstance(inner, int) and isinstance(whole, int) and 2 * inner >= whole


def _is_padded_to(v: Value, update: Value) -> bool:
    """Whether `v` is zeros but for the region of an update."""
    a, region = v.attributes, update.attributes
    if v.op is not ops.pad or a["value"] != 0 or v.args[0].shape != update.args[1].shape:
        return False
    return (a["low"], tuple(gap + 1 for gap in a["interior"])) == (region["starts"], region["strides"])


SEEN = ("stop_gradient", "missing_gradient")  # by derivatives of derivatives
IDENTITIES = Rewriter((*(r for r in RULES.rules if r.name not in SEEN), rule("put_term", Pattern("add"), put_term)))


def cotangents(
    gs: Sequence[Value | None], loop: Loop, wanted: Sequence[bool], ys: Sequence[Value]
) -> list[Value | None]:
    """A cotangent or None for each operand of a loop whose results `ys` have the cotangents `gs`."""
    if not isinstance(loop.trips, Poly) and loop.trips <= 0:
        return [*gs, *(None for _ in loop.xs[loop.carried :])]
    if budget.limit() is None and (by_tiles := tiles.cotangents(gs, loop, wanted)) is not None:
        return by_tiles
    step = reverse_step(loop, [g is not None for g in gs], wanted)
    if not step.seeds:
        return [None] * len(loop.xs)
    planned = budget.is_planned(loop.index)
    found = sources_of(loop, step, again=planned)
    if not planned and budget.is_exceeded(found.nbytes):
        found = sources_of(loop, step, again=True)
        if budget.is_exceeded(found.nbytes):
            return in_chunks(gs, loop, wanted, sum(residuals.bytes_of(s.value) for s in found.stacks))
    return _reversed(gs, loop, step, found, ys)


# -- one iteration ----------------------------------------------------------------------------------------------------


def reverse_step(loop: Loop, given: Sequence[bool], wanted: Sequence[bool]) -> Step:
    """`given`: the results that have a cotangent; `wanted`: the operands whose cotangent matters."""
    body, carried = loop.body, loop.carried
    sources = sorted(_connected(body, carried, wanted))
    active = {k for k in sources if k < carried and given[k]}
    while True:
        seeds = {k: param(body.params[k].type, f"d{k}") for k in sorted(active)}
        targets = [body.outs[k] for k in seeds]
        with loop_ranges.inside(loop.index, loop.trips):
            found = adjoint(records_of(body), targets, [*seeds.values()], [body.params[k] for k in sources])
        pulled = {k: g for k, g in zip(sources, found, strict=True) if g is not None}
        more = {k for k in pulled if k < carried} - active
        if not more:
            break
        active |= more
    sums = {k: param(body.params[k].type, f"s{k}") for k in pulled if k >= carried}
    before = [_before(loop, k, seed, pulled.get(k), wanted[k]) for k, seed in seeds.items()]
    after = [_added(total, pulled[k]) for k, total in sums.items()]
    params, outs = (*body.params, *seeds.values(), *sums.values()), (*body.outs, *before, *after)
    undone = loop_inverses.undone(body, carried, outs)
    graph = Graph((*params, *undone.now.values()), rebuilt((*outs, *undone.before), dict(undone.env)))
    outs = IDENTITIES.run(graph)[0].outs
    return Step(seeds, sums, undone.now, outs[carried:], outs[:carried])


def _before(loop: Loop, k: int, seed: Value, g: Value | None, wanted: bool) -> Value:
    """The cotangent of a carry before an iteration, `seed` after it."""
    p = loop.body.params[k]
    written = _written(loop.body, k) if loop.parallel else None
    if written is not None and (not wanted or _is_empty(loop.xs[k], written, {loop.index: (0, loop.trips - 1)})):
        return seed  # nobody reads it where it would have to be zero
    return zeros(p.type) if g is None else g


def _written(body: Graph, k: int) -> Box | None:
    """Where an iteration stores something in a carry, which is all it does with it; None if it does something else."""
    p, y = body.params[k], body.outs[k]
    if y.op is not ops.put or y.args[0] is not p or body.users[p] != (y,):
        return None
    a = y.attributes
    return Box(a["starts"], limits(y.args[1].shape, a["starts"], a["strides"]))


def _is_empty(x: Value, box: Box, known: Known) -> bool:
    """Whether a part of an array is memory in which nothing has been stored."""
    while x.op is ops.result and x.args[0].op is ops.for_:
        (loop,), k = x.args, x.attributes["index"]
        a = loop.attributes
        written = _written(a["body"], k)
        if written is None or not box.is_apart(written, {**known, a["index"]: (0, a["trips"] - 1)}):
            return False
        x = loop.args[k]
    return x.op is ops.empty


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


# -- the loops ---------------------------------------------------------------------------------------------------------


def _filled(loop: Loop, stacks: Sequence[Stack]) -> tuple[Value, ...]:
    """The stacks, from a loop that does what `loop` does and keeps values."""
    if not stacks:
        return ()
    n, params, k = loop.carried, loop.body.params, Poly.symbol(loop.index)
    empty, rows = [], []
    for s in stacks:
        start = ops.empty.emit(shape=s.array.shape, dtype=s.array.dtype)
        if s.carry is None:
            empty.append(start)
            rows.append(with_row(s.array, k, s.value))
        else:
            empty.append(with_row(start, 0, loop.xs[s.carry]))
            rows.append(with_row(s.array, k + 1, loop.body.outs[s.carry]))
    body = Graph((*params[:n], *(s.array for s in stacks), *params[n:]), (*loop.body.outs, *rows), loop.body.name)
    xs = (*loop.xs[:n], *empty, *loop.xs[n:])
    parallel = loop.parallel and all(s.carry is None for s in stacks)
    return Loop(xs, body, loop.trips, loop.index, n + len(stacks), parallel).results()[n:]


def _reversed(
    gs: Sequence[Value | None], loop: Loop, step: Step, sources: Sources, ys: Sequence[Value]
) -> list[Value | None]:
    """The reverse loop, and what it gives for each operand of `loop`."""
    k, back = Poly.symbol(loop.index), region.fresh("k")
    last = _LastCarry(loop, ys)
    reads = {v: last.read(v, part) for v, part in sources.finals.items()}
    for s in sources.stacks:
        reads[s.value] = row(s.array, k, s.value.shape)
        if s.carry is not None:
            reads.setdefault(step.new[s.carry], row(s.array, k + 1, s.value.shape))
    outs = rebuilt(step.outs, dict(reads))
    operands = dict(zip(loop.body.params[loop.carried :], loop.xs[loop.carried :], strict=True))
    operands |= last.operands
    operands |= dict(zip((s.array for s in sources.stacks), _filled(loop, sources.stacks), strict=True))
    ends = iter(outs)
    seeds, sums, undone = ([*zip(ps.values(), ends, strict=False)] for ps in (step.seeds, step.sums, step.now))
    late = Products({} if undone else dict(sums), operands, loop)
    own = Terms(dict(sums), loop) if _is_spread(loop, seeds) else None
    left = {t: y for t, y in sums if t not in late.of and not (own and t in own.of)}
    carry = (*step.seeds.values(), *left, *late.stacks.values(), *step.now.values())
    outs = (*(y for _, y in seeds), *left.values(), *late.rows(), *(y for _, y in undone))
    started = [zeros(loop.xs[i].type) if (g := gs[i]) is None else g for i in step.seeds]
    started += [zeros(p.type) for p in left]
    started += [*late.start(), *(ys[k] for k in step.now)]
    if own:
        carry, outs, started = (*carry, *own.stacks), (*outs, *own.rows()), [*started, *own.start()]
    read = reachable(outs)
    consts = [p for p in operands if p in read]
    body = Graph((*carry, *consts), outs, loop.body.name).substitute({loop.index: loop.trips - 1 - Poly.symbol(back)})
    xs = (*started, *(operands[p] for p in consts))
    alone = loop.parallel and never_negative(1 - loop.trips, loop_ranges.around())
    parallel = alone or own is not None and not left and not late.stacks
    found = dict(zip(carry, Loop(xs, body, loop.trips, back, len(carry), parallel).results(), strict=True))
    cotangent = {i: found[p] for i, p in step.seeds.items()}
    for i, t in step.sums.items():
        cotangent[i] = own.total(t, found) if own and t in own.of else found[t] if t in found else late.total(t, found)
    return [cotangent.get(i) for i in range(len(loop.xs))]


def _is_spread(loop: Loop, seeds: Sequence[tuple[Value, Value]]) -> bool:
    """Whether a loop of a few large iterations runs on threads, as its reverse may: iterations give each other no
    cotangents."""
    inner = any(v.op is not None and v.op.is_region for v in loop.body.nodes)
    is_short = isinstance(loop.trips, int) and loop.trips <= MOST_SPREAD
    return loop.parallel and inner and is_short and all(p is y for p, y in seeds)


class _LastCarry:
    """Parts of the results of a loop as operands of its reverse."""

    def __init__(self, loop: Loop, ys: Sequence[Value]):
        self.loop, self.ys = loop, ys
        self.params: dict[tuple[int, Box], Value] = {}
        self.operands: dict[Value, Value] = {}

    def read(self, v: Value, part: Part) -> Value:
        """`v`, in the reverse body."""
        y = self.ys[part.carry]
        box = Box((0,) * len(y.shape), y.shape)
        if loop_ranges.around():  # the loop around may keep it
            box = part.box.over(self.loop.index, self.loop.trips, y.shape)
        p = self.params.get((part.carry, box))
        if p is None:
            p = self.params[part.carry, box] = param(Type(v.dtype, box.shape))
            ones = (1,) * len(y.shape)
            self.operands[p] = y if box.shape == y.shape else ops.slice_.emit(y, **box._asdict(), strides=ones)
        starts, limits = (tuple(a - b for a, b in zip(ends, box.starts, strict=True)) for ends in part.box)
        return ops.reshape(ops.slice_.emit(p, starts=starts, limits=limits, strides=part.strides), shape=v.shape)
