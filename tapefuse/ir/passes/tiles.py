"""Time loops over one-dimensional stencils, as loops over tiles of a few rows that each run a few iterations.

    for k in 0..200: u[1:] -= c[1:] * (u[1:] - u[:-1])                   u: f64[10000], row i needs rows i - 1 and i
    ->  for q in 0..25: for t in 0..178: y[32 + 56 t : 88 + 56 t] = eight iterations of u[24 + 56 t : 88 + 56 t]; u = y

A tile begins with the rows beside it from which its own will be computed, and each iteration leaves fewer of them
right: tiles overlap, what lies between two is computed twice, and none waits for another. Its values are small enough
to stay in registers, its iterations a loop inside (`tile_blocks`). Rows at the ends of the arrays are tiles of their
own. Derivatives are made of this form: the reverse pass keeps what is carried once for a tile's iterations, computes
the others again, and adds up the gradients of rows that tiles have in common. Where there are many tiles, two halves of
the rows run many blocks of iterations each, on threads (`tile_plan.Sections`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.halves import is_half, kind_of
from tapefuse.ir.op import const
from tapefuse.ir.passes.adjoint import adjoint, records_of, zeros
from tapefuse.ir.passes.bodies import deep, inside, part, rebuilt, with_results
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.residuals import is_repeatable
from tapefuse.ir.passes.simplify import RULES
from tapefuse.ir.passes.tile_blocks import Grid, block
from tapefuse.ir.passes.tile_plan import Plan, Sections, cut_operands, index_of, pays, plan_of, sections_of, varying
from tapefuse.ir.passes.tile_rows import Unfit
from tapefuse.ir.types import Dim, Poly

RECENT = 16  # loops whose tiles are remembered
Told = Callable[[Plan, bool], None]  # how a loop is cut, and whether in sections too
_MOVES = (ops.slice_, ops.reshape, ops.broadcast, ops.pad, ops.concat)


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with loops by tiles, and how many. It is simplified then, as derivatives are: a loop and one that keeps
    rows for a derivative look alike, so that pass `loops` makes one of both."""
    graph, fired = _deep(graph)
    return (inside(RULES.run(graph)[0], _ordered)[0], fired) if fired else (graph, fired)


def _run(graph: Graph) -> tuple[Graph, Counter[str]]:
    fired: Counter[str] = Counter()

    def by_tiles(v: Value, args: tuple[Value, ...]) -> tuple[Value, ...] | None:
        a = v.attributes
        found = by_loop(a["body"], a["trips"], a["index"], a["carried"]) if v.op is ops.for_ else None
        fired["tiles"] += found is not None
        return None if found is None else rebuilt(found.outs, dict(zip(found.params, args, strict=True)))

    new = with_results(graph, by_tiles)
    return (new, fired) if +fired else (graph, Counter())


def _renewed(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with its nodes made in an order that follows from the outputs."""
    env = {p: Value(p.type, name=p.name, loc=p.loc) for p in graph.params}
    return Graph(tuple(env.values()), rebuilt(graph.outs, dict(env)), graph.name), Counter()


_deep, _ordered = deep(_run), deep(_renewed)


def _loop(v: Value, args: tuple[Value, ...]) -> Loop:
    a = v.attributes
    return Loop(args, a["body"], a["trips"], a["index"], a["carried"])


def described(v: Value) -> str | None:
    """How a loop is cut into tiles, for people; None if it is not."""
    found: list[tuple[Plan, bool]] = []
    if tiled(_loop(v, v.args), lambda *how: found.append(how)) is None:
        return None
    plan, by_sections = found[0]
    halves = ", two halves of the rows on threads" if by_sections else ""
    return (
        f"in tiles: {plan.iterations} iterations of {plan.rows} rows at a time{halves}; "
        f"a gradient keeps one state in {plan.iterations} and computes the others again"
    )


@lru_cache(maxsize=RECENT)
def by_loop(body: Graph, trips: Dim, index: str, carried: int) -> Graph | None:
    """What a loop gives by tiles, of its operands; None if it has none. Derivatives are made of it while a function is
    traced, and the loop itself is replaced by it afterwards."""
    params = tuple(param(p.type) for p in body.params)
    results = tiled(Loop(params, body, trips, index, carried))
    return None if results is None else Graph(params, results, body.name)


def tiled(loop: Loop, told: Told | None = None) -> tuple[Value, ...] | None:
    """The results of a loop, by tiles; None if that does not pay, or cannot be."""
    same = [k for k in range(loop.carried) if loop.body.outs[k] is loop.body.params[k]]
    if same:
        return _tiled_but(loop, same, told)
    if not _is_plain(loop) or not pays(loop):
        return None
    try:
        loop = _with_operands(loop)
        plan = plan_of(loop)
        return None if plan is None else _results(loop, plan, told)
    except Unfit:
        return None


def _tiled_but(loop: Loop, same: Sequence[int], told: Told | None) -> tuple[Value, ...] | None:
    """`tiled` where some carries stay what they are."""
    n, body = loop.carried, loop.body
    order = [*(k for k in range(n) if k not in same), *same, *range(n, len(loop.xs))]
    changing = n - len(same)
    graph = Graph(tuple(body.params[k] for k in order), tuple(body.outs[k] for k in order[:changing]), body.name)
    found = tiled(replace(loop, xs=tuple(loop.xs[k] for k in order), body=graph, carried=changing), told)
    if found is None:
        return None
    new = dict(zip(order, found, strict=False))
    return tuple(new.get(k, loop.xs[k]) for k in range(n))


def _is_plain(loop: Loop) -> bool:
    """Whether a loop of a fixed number of iterations carries rows and numbers, and has nothing else than operations on
    arrays in it."""
    body, carries = loop.body, loop.body.params[: loop.carried]
    if isinstance(loop.trips, Poly) or loop.trips < 2 or not any(p.shape for p in carries):
        return False
    if any(len(p.shape) > 1 or p.shape and (kind_of(p.dtype) != "f" or is_half(p.dtype)) for p in carries):
        return False
    if not all(v.op is not None and not v.op.is_region and is_repeatable(v) for v in body.nodes):
        return False
    return not any(isinstance(d, Poly) for v in (*body.params, *body.nodes) for d in v.shape)


def _with_operands(loop: Loop) -> Loop:
    """The loop with what no iteration changes as operands, but for parts of operands."""
    body = loop.body
    changing = varying(loop)
    found: dict[Value, None] = {}
    stack, seen = [*body.outs], set()
    while stack:
        v = stack.pop()
        if v in seen or v.op is None:
            continue
        seen.add(v)
        if v in changing or v.op in _MOVES:
            stack += v.args
        elif v.op is not const or v.shape:
            found[v] = None
    if not found:
        return loop
    new = {v: param(v.type) for v in found}
    outside = rebuilt(found, dict(zip(body.params, loop.xs, strict=True)))
    graph = Graph((*body.params, *new.values()), rebuilt(body.outs, dict(new)), body.name)
    return replace(loop, xs=(*loop.xs, *outside), body=graph)


def cotangents(gs: Sequence[Value | None], loop: Loop, wanted: Sequence[bool]) -> list[Value | None] | None:
    """A cotangent or None for each operand of a loop, of its form by tiles; None if it has none, or if a cotangent is
    wanted of arrays of which an iteration reads a row: a tile's would be added to all rows."""
    if any(w and len(x.shape) > 1 for x, w in zip(loop.xs, wanted, strict=True)):
        return None
    graph = by_loop(loop.body, loop.trips, loop.index, loop.carried)
    if graph is None:
        return None
    params, results = graph.params, graph.outs
    seeds = {k: param(g.type) for k, g in enumerate(gs) if g is not None}
    sources = [p for p, w in zip(params, wanted, strict=True) if w]
    pulled = adjoint(records_of(graph), [results[k] for k in seeds], [*seeds.values()], sources)
    found = dict(zip(sources, pulled, strict=True))
    env = dict(zip(params, loop.xs, strict=True)) | {p: g for k, p in seeds.items() if (g := gs[k]) is not None}
    outs = [found.get(p) for p in params]
    done = iter(rebuilt([g for g in outs if g is not None], env))
    return [None if g is None else next(done) for g in outs]


# -- the loops --------------------------------------------------------------------------------------------------------


def _results(loop: Loop, plan: Plan, told: Told | None) -> tuple[Value, ...]:
    """What a loop carries in the end: blocks of iterations by tiles, and iterations that are left over."""
    n, trips = loop.carried, loop.trips
    assert isinstance(trips, int)
    blocks = trips // plan.iterations
    by_sections, done = _by_sections(loop, plan, blocks), blocks * plan.iterations
    found = by_sections or _whole(loop, plan, blocks)
    if told is not None:
        told(plan, by_sections is not None)
    if done < trips:
        last = index_of(loop, "rest")
        body = loop.body.substitute({loop.index: done + Poly.symbol(last)})
        left = Loop((*found, *loop.xs[n:]), body, trips - done, last, n)
        found = tiled(left) or left.results()
    return found


def _whole(loop: Loop, plan: Plan, blocks: int) -> tuple[Value, ...]:
    """What is carried after blocks of all rows."""
    return _blocks(loop, plan, loop.xs, blocks, 0, lambda _: Grid(0, 0, plan.tiles, 1, 1, 0, {}))


def _blocks(
    loop: Loop, plan: Plan, xs: Sequence[Value], blocks: int, done: Dim, grid: Callable[[Dim], Grid]
) -> tuple[Value, ...]:
    """What is carried after `blocks` blocks. `grid`: for the number of a block."""
    params, index = tuple(param(x.type) for x in xs), index_of(loop, "block")
    number = Poly.symbol(index)
    outs = block(loop, plan, params, done + number * plan.iterations, grid(number))
    return Loop(tuple(xs), Graph(params, outs, loop.body.name), blocks, index, loop.carried).results()


def _by_sections(loop: Loop, plan: Plan, blocks: int) -> tuple[Value, ...] | None:
    """What is carried after blocks of all rows, by sections; None if rows are not cut in sections."""
    sections = sections_of(loop, plan, blocks)
    if sections is None:
        return None
    times, index = blocks // sections.blocks, index_of(loop, "turn")
    done = Poly.symbol(index) * (sections.blocks * plan.iterations)
    try:
        if times == 1:
            return _turn(loop, plan, sections, loop.xs, 0)
        params = tuple(param(x.type) for x in loop.xs)
        body = Graph(params, _turn(loop, plan, sections, params, done), loop.body.name)
        return Loop(loop.xs, body, times, index, loop.carried).results()
    except Unfit:
        return None


def _turn(loop: Loop, plan: Plan, sections: Sections, xs: Sequence[Value], done: Dim) -> tuple[Value, ...]:
    """What is carried after as many blocks as sections run, the first one of which begins after `done` iterations."""
    n, index = loop.carried, index_of(loop, "section")
    whole = frozenset(range(n, len(xs))) - cut_operands(loop, plan)
    half = Poly.symbol(index)
    first = plan.rows * (plan.tiles - sections.tiles)  # row of the second half
    base, rows = half * first, plan.left + plan.right + plan.rows * sections.tiles
    low, high = plan.reads

    def grid(block: Dim) -> Grid:
        start = half * (sections.tiles - sections.behind) + half * block * int(low)
        trips = sections.before + half * (sections.behind - sections.before)
        trips = trips - half * block * int(low) - (1 - half) * block * int(high)
        known = {index: (0, 1), index_of(loop, "block"): (0, sections.blocks - 1)}
        return Grid(base, start, trips, 1 - half, half, first, known, whole)

    def local(k: int, x: Value) -> Value:
        if k in whole or not x.shape:
            return x
        return part(x, 0, base, base + rows + (x.shape[0] - plan.n))

    written = tuple(param(x.type) for x in xs[:n])
    read = tuple(param(x.type) for x in xs)
    found = _blocks(loop, plan, [local(k, x) for k, x in enumerate(read)], sections.blocks, done, grid)
    cut = plan.left + plan.rows * sections.cut
    outs = []
    for y, x in zip(written, found, strict=True):
        count = cut + half * (y.shape[0] - 2 * cut)
        mine = part(x, 0, half * (cut - first), half * (cut - first) + count)
        outs.append(ops.put.emit(y, mine, starts=(half * cut,), strides=(1,)))
    body = Graph((*written, *read), tuple(outs), loop.body.name)
    start = tuple(zeros(x.type) for x in xs[:n])
    return Loop((*start, *xs), body, 2, index, n, parallel=True).results()
