"""Time loops over one-dimensional stencils, as loops over tiles of a few rows that each run a few iterations.

    for k in 0..200: u[1:] -= c[1:] * (u[1:] - u[:-1])                   u: f64[10000], row i needs rows i - 1 and i
    ->  for q in 0..25: y = empty; for t in 0..178: y[32 + 56 t : 88 + 56 t] = eight iterations of u[24 + 56 t : 88 + 56 t]

A tile begins with the rows beside it from which its own will be computed, and each iteration leaves fewer of them
right: tiles overlap, what lies between two is computed twice, and none waits for another. Its values are small enough
to stay in registers. Rows at the ends of the arrays are tiles of their own. Derivatives are made of this form: the
reverse pass keeps what is carried once for a tile's iterations, computes the others again, and adds up the gradients
of rows that tiles have in common.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import const, constant
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes.adjoint import adjoint, records_of
from tapefuse.ir.passes.bodies import deep, depending, rebuilt
from tapefuse.ir.passes.checks import Known
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.residuals import is_repeatable
from tapefuse.ir.passes.tile_rows import Range, Rows, Unfit, merged, part
from tapefuse.ir.types import Dim, Poly, symbols

ENABLED = bool(os.environ.get("TILES"))
TILE_BYTES = 512  # of an array's rows in a tile: eight registers of 64 bytes
MOST_OVERLAP = 8  # rows of a tile that its neighbours compute as well
MOST_ITERATIONS = 8  # of a tile
LEAST_TILES = 4
MOST_EDGE = 32  # rows at an end of an array that are computed in another way than those in the middle
LANES = 8  # rows by whose multiples tiles begin


def _run(graph: Graph) -> tuple[Graph, Counter[str]]:
    found: dict[Value, Sequence[Value]] = {}
    fired: Counter[str] = Counter()

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is ops.for_ and (results := tiled(_loop(v, args))) is not None:
            fired["tiles"] += 1
            found[v] = results
            return v  # it is not read any more: its results stand for it
        return found[v.args[0]][v.attributes["index"]] if v.op is ops.result and v.args[0] in found else None

    outs = rebuilt(graph.outs, {}, change)
    return (Graph(graph.params, outs, graph.name), fired) if fired else (graph, fired)


run = deep(_run)


def _loop(v: Value, args: tuple[Value, ...]) -> Loop:
    a = v.attributes
    return Loop(args, a["body"], a["trips"], a["index"], a["carried"])


def tiled(loop: Loop) -> tuple[Value, ...] | None:
    """The results of a loop, by tiles; None if that does not pay, or cannot be."""
    if not ENABLED or not _is_plain(loop):
        return None
    try:
        loop = _with_operands(loop)
        plan = _plan(loop)
        return None if plan is None else _results(loop, plan)
    except Unfit:
        return None


def _is_plain(loop: Loop) -> bool:
    """Whether a loop of a fixed number of iterations carries rows and numbers, and has nothing else than operations on
    arrays in it."""
    body, carries = loop.body, loop.body.params[: loop.carried]
    if isinstance(loop.trips, Poly) or loop.trips < 2 or not any(p.shape for p in carries):
        return False
    if any(len(p.shape) > 1 or p.dtype.kind != "f" and p.shape for p in carries):
        return False
    if not all(v.op is not None and not v.op.is_region and is_repeatable(v) for v in body.nodes):
        return False
    return not any(isinstance(d, Poly) for v in (*body.params, *body.nodes) for d in v.shape)


# -- what is computed before the loop ---------------------------------------------------------------------------------

_MOVES = (ops.slice_, ops.reshape, ops.broadcast, ops.pad, ops.concat)


def _with_operands(loop: Loop) -> Loop:
    """The loop with what no iteration changes as operands, but for parts of operands."""
    body = loop.body
    varying = _varying(loop)
    found: dict[Value, None] = {}
    stack, seen = [*body.outs], set()
    while stack:
        v = stack.pop()
        if v in seen or v.op is None:
            continue
        seen.add(v)
        if v in varying or v.op in _MOVES:
            stack += v.args
        elif v.op is not const or v.shape:
            found[v] = None
    if not found:
        return loop
    new = {v: param(v.type) for v in found}
    outside = rebuilt(found, dict(zip(body.params, loop.xs, strict=True)))
    graph = Graph((*body.params, *new.values()), rebuilt(body.outs, dict(new)), body.name)
    return replace(loop, xs=(*loop.xs, *outside), body=graph)


def _varying(loop: Loop) -> set[Value]:
    return depending(loop.body, loop.body.params[: loop.carried], frozenset({loop.index}))


def cotangents(gs: Sequence[Value | None], loop: Loop, wanted: Sequence[bool]) -> list[Value | None] | None:
    """A cotangent or None for each operand of a loop, of its form by tiles; None if it has none."""
    params = tuple(param(x.type) for x in loop.xs)
    results = tiled(replace(loop, xs=params))
    if results is None:
        return None
    seeds = {k: param(g.type) for k, g in enumerate(gs) if g is not None}
    sources = [p for p, w in zip(params, wanted, strict=True) if w]
    pulled = adjoint(records_of(Graph(params, results)), [results[k] for k in seeds], [*seeds.values()], sources)
    found = dict(zip(sources, pulled, strict=True))
    env = dict(zip(params, loop.xs, strict=True)) | {p: g for k, p in seeds.items() if (g := gs[k]) is not None}
    outs = [found.get(p) for p in params]
    done = iter(rebuilt([g for g in outs if g is not None], env))
    return [None if g is None else next(done) for g in outs]


# -- how tiles are cut ------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """`count` tiles of `rows` rows run `iterations` iterations; they begin after `left` rows, and others follow."""

    iterations: int
    rows: int
    count: int
    left: int


def _plan(loop: Loop) -> Plan | None:
    carries = [p for p in loop.body.params[: loop.carried] if p.shape]
    n, widest = _extent(carries), max(p.dtype.itemsize for p in carries)
    tile = TILE_BYTES // widest
    if n < LEAST_TILES * tile:
        return None
    ends = _ends(loop, n, tile)
    reach = _demand(loop, ends[0], tile, n, ends)
    assert reach is not None
    overlap = max(reach.limit - tile - ends[0], 0) - min(reach.start - ends[0], 0)
    if overlap == 0:
        return None  # strips need no overlap
    iterations = _iterations(loop.trips, min(MOST_OVERLAP // overlap, MOST_ITERATIONS))
    if iterations < 2:
        return None
    left = ends[0] - (iterations - 1) * min(reach.start - ends[0], 0)
    right = ends[1] + (iterations - 1) * max(reach.limit - tile - ends[0], 0)
    most = tile - iterations * overlap
    between = n - left - right
    rows = min(range(LANES, most + 1, LANES), key=lambda r: (between // r * tile + 2 * (between % r), -r))
    return Plan(iterations, rows, between // rows, left + between % rows)


def _extent(carries: Sequence[Value]) -> int:
    """The rows that all arrays have which are carried. Raises Unfit if some have many more."""
    found = [p.shape[0] for p in carries]
    n = min(found)  # type: ignore[type-var]
    if not isinstance(n, int) or max(found) > n + MOST_EDGE:  # type: ignore[type-var, operator]
        raise Unfit
    return n


def _iterations(trips: int, most: int) -> int:
    """Of a tile: as many as there may be, but so that few are left over."""
    most = min(trips, most)
    return max(range(max(most // 2, 1), most + 1), key=lambda k: (-(trips % k), k), default=0)


def _ends(loop: Loop, n: int, tile: int) -> tuple[int, int]:
    """How many rows at both ends of the arrays are not computed as those in the middle are."""
    far = MOST_EDGE
    left = next((d for d in range(far + 1) if _demand(loop, d, tile, n, (d, far))), None)
    right = next((d for d in range(far + 1) if _demand(loop, far, tile, n, (far, d))), None)
    if left is None or right is None:
        raise Unfit
    return left, right


def _demand(loop: Loop, start: int, rows: int, n: int, ends: tuple[int, int]) -> Range | None:
    """The rows of carries that one iteration of a tile reads, as numbers for the first tile; None if another tile
    reads others."""
    tile = _name(loop, "tile")
    known = {tile: (0, n - ends[0] - ends[1] - rows)}
    first = start + Poly.symbol(tile)
    try:
        reads = _Reads(loop.body, loop.carried, _varying(loop), known)
        wanted = {k: [Range(first, first + rows)] for k, p in enumerate(loop.body.params[: loop.carried]) if p.shape}
        reads.of(wanted)
    except Unfit:
        return None
    found = merged([r.moved(Poly.symbol(tile) * -1) for rs in reads.carries.values() for r in rs])
    if len(found) != 1 or any(isinstance(d, Poly) for d in found[0]):
        return None
    return found[0]


def _name(loop: Loop, what: str) -> str:
    return f"{loop.index}_{what}"


# -- what is read -----------------------------------------------------------------------------------------------------

Wanted = Mapping[int, Sequence[Range]]  # by carry


class _Reads:
    """The rows that an iteration reads."""

    def __init__(self, body: Graph, carried: int, varying: set[Value], known: Known):
        self.body = body
        self.number = {p: k for k, p in enumerate(body.params[:carried])}
        self.carries: dict[int, list[Range]] = {}
        self.others: dict[Value, list[Range]] = {}
        of_rows = depending(body, [p for p in self.number if p.shape])
        self.rows = Rows(varying, known, self.read, lambda v: None if v in of_rows else v)

    def of(self, wanted: Wanted) -> None:
        for k, ranges in wanted.items():
            for r in ranges:
                self.rows.of(self.body.outs[k], 0, r)

    def read(self, v: Value, axis: int, r: Range) -> Value:
        if v in self.number:
            self.carries.setdefault(self.number[v], []).append(r)
        elif len(v.shape) == 1:
            self.others.setdefault(v, []).append(r)
        return part(v, axis, r)


class _Held:
    """Some ranges of the rows of an array."""

    def __init__(self, pieces: Iterable[tuple[Range, Value]]):
        self.pieces = [*pieces]

    @staticmethod
    def of(x: Value, ranges: Sequence[Range]) -> _Held:
        return _Held((r, part(x, 0, r)) for r in merged(ranges))

    def rows(self, r: Range) -> Value:
        for held, x in self.pieces:
            inner = r.moved(held.start * -1)
            if not any(isinstance(d, Poly) for d in inner) and inner.start >= 0 and inner.limit <= x.shape[0]:
                return part(x, 0, inner)
        raise Unfit


# -- the tiles --------------------------------------------------------------------------------------------------------


def _results(loop: Loop, plan: Plan) -> tuple[Value, ...]:
    """What a loop carries in the end: blocks of iterations by tiles, and iterations that are left over."""
    size, n = plan.iterations, loop.carried
    blocks, rest = divmod(loop.trips, size)  # type: ignore[operator]
    params, index = tuple(param(p.type, p.name) for p in loop.body.params), _name(loop, "block")
    outs = _block(loop, plan, params, Poly.symbol(index) * size)
    found = Loop(loop.xs, Graph(params, outs, loop.body.name), blocks, index, n).results()
    if rest:
        last = _name(loop, "rest")
        body = loop.body.substitute({loop.index: blocks * size + Poly.symbol(last)})
        left = Loop((*found, *loop.xs[n:]), body, rest, last, n)
        found = tiled(left) or left.results()
    return found


def _block(loop: Loop, plan: Plan, xs: Sequence[Value], first: Dim) -> tuple[Value, ...]:
    """The carry after the iterations of a block, as a branch of its own: what it computes is not kept, but computed
    again by its derivative."""
    params = tuple(param(x.type, x.name) for x in xs)
    graph = Graph(params, _Block(loop, plan, params, first).results(), loop.body.name)
    return ops.switch.emit_results(constant(0, INT64), *xs, branches=(graph,))


class _Iteration:
    """One iteration of a block. `env`: what its parameters are but for rows."""

    def __init__(self, loop: Loop, number: Dim, before: Mapping[int, Value], constants: Sequence[Value]):
        self.loop, self.body = loop, loop.body.substitute({loop.index: number})
        carries = self.body.params[: loop.carried]
        self.env = {carries[k]: x for k, x in before.items()}
        self.env |= dict(zip(self.body.params[loop.carried :], constants, strict=True))
        self.of_rows = depending(self.body, [p for p in carries if p.shape])
        self.varying = depending(self.body, carries, frozenset(symbols([number])))

    def whole(self, v: Value) -> Value | None:
        """A value that depends on no rows; None for others."""
        return None if v in self.of_rows else rebuilt((v,), dict(self.env))[0]

    def after(self) -> dict[int, Value]:
        """The numbers that are carried, after it. Raises Unfit."""
        found = {k: self.whole(y) for k, y in enumerate(self.body.outs) if not y.shape}
        if None in found.values():
            raise Unfit
        return {k: x for k, x in found.items() if x is not None}


class _Block:
    """The iterations from `first` on, by tiles. `params`: what a block is given."""

    def __init__(self, loop: Loop, plan: Plan, params: Sequence[Value], first: Dim):
        self.loop, self.plan = loop, plan
        self.carries, constants = params[: loop.carried], params[loop.carried :]
        self.rows = [k for k, p in enumerate(self.carries) if p.shape]
        numbers = {k: p for k, p in enumerate(self.carries) if not p.shape}
        self.iterations = []
        for k in range(plan.iterations):
            self.iterations.append(_Iteration(loop, first + k, numbers, constants))
            numbers = self.iterations[-1].after()
        self.numbers = numbers

    def results(self) -> tuple[Value, ...]:
        """What is carried after the block."""
        plan, index = self.plan, _name(self.loop, "tile")
        first, last = plan.left, plan.left + plan.count * plan.rows
        start = first + Poly.symbol(index) * plan.rows
        new = {k: ops.empty.emit(shape=self.carries[k].shape, dtype=self.carries[k].dtype) for k in self.rows}
        tile = Range(start, start + plan.rows)
        new = self.with_tiles(new, dict.fromkeys(self.rows, tile), plan.count, index)
        for name, a, b in (("first", 0, first), ("last", last, None)):
            edge = {k: Range(a, self.carries[k].shape[0] if b is None else b) for k in self.rows}
            new = self.with_tiles(new, {k: r for k, r in edge.items() if r.rows != 0}, 1, _name(self.loop, name))
        return tuple((new | self.numbers)[k] for k in range(len(self.carries)))

    def with_tiles(
        self, new: Mapping[int, Value], wanted: Mapping[int, Range], count: int, index: str
    ) -> dict[int, Value]:
        """Arrays with the rows of `count` tiles after the block."""
        if not wanted:
            return dict(new)
        leaves: dict[Value, None] = {}
        found = self.tile(wanted, {index: (0, count - 1)}, leaves)
        written = {k: param(new[k].type) for k in found}
        read = {x: param(x.type) for x in leaves}
        rows = rebuilt(found.values(), dict(read))
        outs = tuple(_with_rows(written[k], wanted[k], y) for k, y in zip(found, rows, strict=True))
        body = Graph((*written.values(), *read.values()), outs, self.loop.body.name)
        attrs: dict[str, Any] = {"trips": count, "index": index, "carried": len(written), "parallel": True}
        ends = ops.for_.emit_results(*(new[k] for k in written), *leaves, body=body, **attrs)
        return dict(new) | dict(zip(written, ends, strict=True))

    def tile(self, wanted: Mapping[int, Range], known: Known, leaves: dict[Value, None]) -> dict[int, Value]:
        """Rows of the arrays that are carried, after the block. `leaves` learns what they are computed from."""
        reads, parts = self._reads(wanted, known)
        held = {k: _Held.of(self.carries[k], ranges) for k, ranges in reads[0].items()}
        leaves |= dict.fromkeys([self.carries[k] for k in held])
        others = {x: _Held.of(x, ranges) for x, ranges in parts.items()}
        for iteration, ranges in zip(self.iterations, reads[1:], strict=True):
            held = _after(iteration, ranges, held, others, known, leaves)
        return {k: held[k].rows(r) for k, r in wanted.items()}

    def _reads(self, wanted: Mapping[int, Range], known: Known) -> tuple[list[Wanted], dict[Value, list[Range]]]:
        """The rows of carries that are needed before each iteration and after the last one, and of other arrays."""
        carries: list[Wanted] = [{k: [r] for k, r in wanted.items()}]
        others: dict[Value, list[Range]] = {}
        for iteration in reversed(self.iterations):
            reads = _Reads(iteration.body, self.loop.carried, iteration.varying, known)
            reads.of(carries[0])
            carries.insert(0, {k: merged(ranges) for k, ranges in reads.carries.items()})
            for v, ranges in reads.others.items():
                x = iteration.whole(v)
                assert x is not None
                others.setdefault(x, []).extend(ranges)
        return carries, others


def _after(
    iteration: _Iteration,
    wanted: Wanted,
    before: Mapping[int, _Held],
    others: Mapping[Value, _Held],
    known: Known,
    leaves: dict[Value, None],
) -> dict[int, _Held]:
    """Rows of what is carried, after an iteration."""
    number = {p: k for k, p in enumerate(iteration.body.params[: iteration.loop.carried])}

    def whole(v: Value) -> Value | None:
        x = iteration.whole(v)
        if x is not None and x.op is not const:
            leaves[x] = None
        return x

    def read(v: Value, axis: int, r: Range) -> Value:
        if v in number:
            return before[number[v]].rows(r)
        x = whole(v)
        assert x is not None
        return others[x].rows(r) if x in others else part(x, axis, r)

    rows = Rows(iteration.varying, known, read, whole)
    outs = iteration.body.outs
    return {k: _Held((r, rows.of(outs[k], 0, r)) for r in ranges) for k, ranges in wanted.items()}


def _with_rows(x: Value, r: Range, rows: Value) -> Value:
    return ops.put.emit(x, rows, starts=(r.start,), strides=(1,))
