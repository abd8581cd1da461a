"""A block of iterations of a time loop over a stencil, by tiles.

    y = empty; for t in 0..178: y[56 t + 32 : 56 t + 88] = eight iterations of u[56 t + 24 : 56 t + 88]
    for _ in 0..1: y[0:32] = eight iterations of u[0:32]

The iterations of a tile are a loop where that can be (`_Rolled`), and written one after the other where not (`_Tile`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.op import const, constant
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes.bodies import depending, part, rebuilt
from tapefuse.ir.passes.checks import Known, never_negative
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.tile_plan import Plan, index_of, is_cheap
from tapefuse.ir.passes.tile_rows import Held, Range, Reads, Rows, Unfit, Wanted, merged
from tapefuse.ir.types import Dim, Poly, symbols


class Grid(NamedTuple):
    """Where tiles lie in arrays that begin with row `base` of the whole ones: `trips` of them from number `start` on,
    and how often the rows before (`first`) and behind them (`last`) are computed; the base is `last_base` there.
    `whole`: the numbers of the operands that are not cut."""

    base: Dim
    start: Dim
    trips: Dim
    first: Dim
    last: Dim
    last_base: Dim
    known: Known
    whole: frozenset[int] = frozenset()


def block(loop: Loop, plan: Plan, xs: Sequence[Value], first: Dim, grid: Grid) -> tuple[Value, ...]:
    """The carry after the iterations of a block."""
    params = tuple(param(x.type, x.name) for x in xs)
    return _not_kept(Graph(params, _Block(loop, plan, params, first, grid).results(), loop.body.name), xs)


def _not_kept(graph: Graph, xs: Sequence[Value]) -> tuple[Value, ...]:
    """The results of a graph, as a branch of its own: what it computes is not kept, but computed again by its
    derivative."""
    return ops.switch.emit_results(constant(0, INT64), *xs, branches=(graph,))


class _Iteration:
    """One iteration of a block. `env`: what its parameters are but for rows; `cut`: the numbers of operands of which
    a section has a part."""

    def __init__(
        self, loop: Loop, number: Dim, before: Mapping[int, Value], constants: Sequence[Value], cut: Collection[int]
    ):
        self.loop, self.body = loop, loop.body.substitute({loop.index: number})
        carries = self.body.params[: loop.carried]
        self.of_cut = depending(self.body, [self.body.params[k] for k in cut])
        self.env = {carries[k]: x for k, x in before.items()}
        self.env |= dict(zip(self.body.params[loop.carried :], constants, strict=True))
        self.of_rows = depending(self.body, [p for p in carries if p.shape])
        self.varying = depending(self.body, carries, frozenset(symbols([number])))

    def whole(self, v: Value) -> Value | None:
        """A value that depends on no rows; None for others. Raises Unfit for parts of what is cut."""
        if v.op is not None and v in self.of_cut:
            raise Unfit
        return None if v in self.of_rows else rebuilt((v,), dict(self.env))[0]

    def after(self) -> dict[int, Value]:
        """The numbers that are carried, after it. Raises Unfit."""
        found = {k: self.whole(y) for k, y in enumerate(self.body.outs) if not y.shape}
        if None in found.values():
            raise Unfit
        return {k: x for k, x in found.items() if x is not None}


class _Block:
    """The iterations from `first` on, by tiles. `params`: what a block is given."""

    def __init__(self, loop: Loop, plan: Plan, params: Sequence[Value], first: Dim, grid: Grid):
        self.loop, self.plan, self.grid = loop, plan, grid
        self.carries, constants = params[: loop.carried], params[loop.carried :]
        self.whole = {params[k] for k in grid.whole}
        self.rows = [k for k, p in enumerate(self.carries) if p.shape]
        numbers = {k: p for k, p in enumerate(self.carries) if not p.shape}
        cut = set(range(loop.carried, len(params))) - grid.whole if grid.known else set()
        self.iterations = []
        for k in range(plan.iterations):
            self.iterations.append(_Iteration(loop, first + k, numbers, constants, cut))
            numbers = self.iterations[-1].after()
        self.numbers = numbers

    def results(self) -> tuple[Value, ...]:
        """What is carried after the block."""
        plan, grid, index = self.plan, self.grid, index_of(self.loop, "tile")
        new = {k: ops.empty.emit(shape=self.carries[k].shape, dtype=self.carries[k].dtype) for k in self.rows}
        start = grid.base + plan.left + (grid.start + Poly.symbol(index)) * plan.rows
        tile = dict.fromkeys(self.rows, Range(start, start + plan.rows))
        new = self.with_tiles(new, tile, grid.trips, index, grid.base)
        if plan.left:
            first = dict.fromkeys(self.rows, Range(0, plan.left))
            self.check(first, Range(0, plan.left + plan.rows))
            new = self.with_tiles(new, first, grid.first, index_of(self.loop, "first"), 0)
        ends = {k: self.loop.body.params[k].shape[0] for k in self.rows}
        last = {k: Range(plan.n - plan.right, end) for k, end in ends.items() if plan.n - plan.right != end}
        if last:
            self.check(last, Range(plan.n - plan.right - plan.rows, max(ends.values())))  # type: ignore[type-var]
            new = self.with_tiles(new, last, grid.last, index_of(self.loop, "last"), grid.last_base)
        return tuple((new | self.numbers)[k] for k in range(len(self.carries)))

    def check(self, edge: Mapping[int, Range], near: Range) -> None:
        """Raises Unfit if an edge reads rows that its section does not compute, or does not have."""
        carries, others, _ = _Tile(self, 0, {}, {}).reads(edge)
        cut = [*carries[0].values(), *(ranges for x, ranges in others.items() if x not in self.whole)]
        for r in (r.moved(near.start * -1) for ranges in cut for r in ranges):
            if self.grid.known and not all(never_negative(d) for d in (r.start, near.rows - r.limit)):
                raise Unfit

    def with_tiles(
        self, new: Mapping[int, Value], wanted: Mapping[int, Range], count: Dim, index: str, base: Dim
    ) -> dict[int, Value]:
        """Arrays with the rows of `count` tiles after the block."""
        leaves: dict[Value, None] = {}
        known: Known = {**self.grid.known, index: (0, count - 1)}
        try:
            found = _Rolled(self, base, known, leaves).rows(wanted)
        except Unfit:
            leaves.clear()
            found = _Tile(self, base, known, leaves).rows(wanted)
        return self._with(new, wanted, found, leaves, count, index, base)

    def _with(
        self,
        new: Mapping[int, Value],
        wanted: Mapping[int, Range],
        found: Mapping[int, Value],
        leaves: Mapping[Value, None],
        count: Dim,
        index: str,
        base: Dim,
    ) -> dict[int, Value]:
        """Arrays into which a loop puts the rows `found`, which are computed from `leaves`."""
        written = {k: param(new[k].type) for k in found}
        read = {x: param(x.type) for x in leaves}
        rows = rebuilt(found.values(), dict(read))
        outs = tuple(_with_rows(written[k], wanted[k].start - base, y) for k, y in zip(found, rows, strict=True))
        body = Graph((*written.values(), *read.values()), outs, self.loop.body.name)
        tiles = Loop((*(new[k] for k in written), *leaves), body, count, index, len(written), parallel=True)
        return dict(new) | dict(zip(written, tiles.results(), strict=True))


class _Tile:
    """One tile of a block. `base`: the row with which arrays begin; `leaves` learns what is read."""

    def __init__(self, block: _Block, base: Dim, known: Known, leaves: dict[Value, None]):
        self.block, self.base, self.known, self.leaves = block, base, known, leaves

    def rows(self, wanted: Mapping[int, Range]) -> dict[int, Value]:
        """Rows of the arrays that are carried, after the block."""
        carries = self.block.carries
        reads, parts, asked = self.reads(wanted)
        held = {k: self._held(carries[k], ranges) for k, ranges in reads[0].items()}
        others = {x: self._held(x, ranges) for x, ranges in parts.items()}
        for iteration, ranges, rows in zip(self.block.iterations, reads[1:], asked, strict=True):
            held = self._after(iteration, ranges, held, others, rows)
        return {k: held[k].rows(r) for k, r in wanted.items()}

    def local(self, x: Value, r: Range) -> Range:
        """Where rows lie in an array that is cut with them, or is not."""
        return r if x in self.block.whole else r.moved(self.base * -1)

    def _held(self, x: Value, ranges: Sequence[Range]) -> Held:
        self.leaves[x] = None
        pieces = [(r, self.local(x, r)) for r in merged(ranges)]
        if any(_is_outside(r, x.shape[0]) for _, r in pieces):
            raise Unfit  # of rows that another section has
        return Held((r, part(x, 0, *here)) for r, here in pieces)

    def reads(self, wanted: Mapping[int, Range]) -> tuple[list[Wanted], dict[Value, list[Range]], list[Rows]]:
        """The rows of carries that are needed before each iteration and after the last one, of other arrays, and of
        what iterations compute."""
        asked: list[Rows] = []
        carries: list[Wanted] = [{k: [r] for k, r in wanted.items()}]
        others: dict[Value, list[Range]] = {}
        for iteration in reversed(self.block.iterations):
            reads = Reads(iteration.body, self.block.loop.carried, iteration.varying, self.known)
            reads.of(carries[0])
            carries.insert(0, {k: merged(ranges) for k, ranges in reads.carries.items()})
            asked.insert(0, reads.rows)
            for v, ranges in reads.others.items():
                x = iteration.whole(v)
                assert x is not None
                others.setdefault(x, []).extend(ranges)
        return carries, others, asked

    def _after(
        self,
        iteration: _Iteration,
        wanted: Wanted,
        before: Mapping[int, Held],
        others: Mapping[Value, Held],
        asked: Rows,
    ) -> dict[int, Held]:
        """Rows of what is carried, after an iteration."""
        number = {p: k for k, p in enumerate(iteration.body.params[: iteration.loop.carried])}

        def whole(v: Value) -> Value | None:
            x = iteration.whole(v)
            if x is not None and x.op is not const:
                self.leaves[x] = None
            return x

        def read(v: Value, axis: int, r: Range) -> Value:
            if v in number:
                return before[number[v]].rows(r)
            x = whole(v)
            assert x is not None
            return others[x].rows(r) if x in others else part(x, axis, *r)

        rows = Rows(iteration.varying, self.known, read, whole).like(asked)
        outs = iteration.body.outs
        return {k: Held((r, rows.of(outs[k], 0, r)) for r in ranges) for k, ranges in wanted.items()}


class _Rolled:
    """A tile whose iterations are a loop: an eighth of the code, and each array's rows lie in the same registers in all
    of them. `base`, `known`, `leaves`: as of `_Tile`. Raises Unfit if it cannot be.

    Each iteration computes the rows that the first one has to. Those near the ends of the tile are computed from rows
    of earlier iterations then, and nobody reads them; what cheap operations make of them is finite, and so are their
    derivatives, which are multiplied by zeros.
    """

    def __init__(self, block: _Block, base: Dim, known: Known, leaves: dict[Value, None]):
        loop = block.loop
        if block.numbers or loop.index in loop.body.used_symbols or not is_cheap(loop):
            raise Unfit
        self.block, self.leaves, self.outer = block, leaves, _Tile(block, base, known, leaves)

    def rows(self, wanted: Mapping[int, Range]) -> dict[int, Value]:
        """Rows of the arrays that are carried, after the block."""
        loop, iteration = self.block.loop, self.block.iterations[0]
        needed = self.outer.reads(wanted)[0]
        after = _hulls(needed[1:])
        reads = Reads(iteration.body, loop.carried, iteration.varying, self.outer.known)
        reads.of(after)
        before = _hulls([*needed, reads.carries])
        held = {k: self.outer._held(self.block.carries[k], ranges) for k, ranges in before.items()}
        others = {}
        for v, ranges in reads.others.items():
            x = iteration.whole(v)
            assert x is not None
            others[x] = self.outer._held(x, [self._beside(r, x, before) for r in merged(ranges)])
        found = self._iterated(after, held, others, reads.rows)
        return {k: found[k].rows(r) for k, r in wanted.items()}

    def _beside(self, r: Range, x: Value, carries: Wanted) -> Range:
        """The rows of a carry around those of `x`, if that has them in every tile: both lie in registers alike then."""
        for around in (o for ranges in carries.values() for o in ranges):
            gaps, here = (r.start - around.start, around.limit - r.limit), self.outer.local(x, around)
            ends = here.start, x.shape[0] - here.limit
            is_inside = all(never_negative(d, self.outer.known) for d in ends)
            if is_inside and all(isinstance(d, int) and d >= 0 for d in gaps):
                return around
        return r

    def _iterated(
        self, after: Wanted, held: Mapping[int, Held], others: Mapping[Value, Held], asked: Rows
    ) -> dict[int, Held]:
        """Rows of what is carried, after a loop over the iterations."""
        block, read = self.block, dict[Value, None]()
        carried = {x: param(x.type) for rows in held.values() for _, x in rows.pieces}
        given = {x: param(x.type) for rows in others.values() for _, x in rows.pieces}
        inner = _Tile(block, 0, self.outer.known, read)
        now = {k: rows.on(carried) for k, rows in held.items()}
        there = {x: rows.on(given) for x, rows in others.items()}
        new = inner._after(block.iterations[0], after, now, there, asked)
        outs = [_updated(r, x, new[k]) for k, rows in now.items() for r, x in rows.pieces]
        numbers = {x: param(x.type) for x in reachable(outs) if x in read}
        if any(x.shape for x in numbers):
            raise Unfit
        self.leaves |= dict.fromkeys(numbers)
        body = Graph((*carried.values(), *given.values(), *numbers.values()), rebuilt(outs, dict(numbers)))
        xs, index = (*carried, *given, *numbers), index_of(block.loop, "iteration")
        params = tuple(param(x.type) for x in xs)
        looped = Loop(params, body, block.plan.iterations, index, len(carried)).results()
        results = dict(zip(carried, _not_kept(Graph(params, looped, body.name), xs), strict=True))
        return {k: rows.on(results) for k, rows in held.items()}


def _hulls(wanted: Sequence[Wanted]) -> dict[int, list[Range]]:
    """All ranges that are wanted, those that nearly touch as one."""
    carries = dict.fromkeys(k for w in wanted for k in w)
    return {k: merged([r for w in wanted for r in w.get(k, ())]) for k in carries}


def _updated(r: Range, x: Value, new: Held) -> Value:
    """`x`, which is the rows `r`, with those that are new."""
    for there, y in new.pieces:
        start = there.start - r.start
        if isinstance(start, int) and start >= 0 and not _is_outside(there.moved(r.start * -1), r.rows):
            x = y if y.shape == x.shape else _with_rows(x, start, y)
    return x


def _is_outside(r: Range, n: Dim) -> bool:
    return any(isinstance(d, int) and d < 0 for d in (r.start, n - r.limit))


def _with_rows(x: Value, start: Dim, rows: Value) -> Value:
    return ops.put.emit(x, rows, starts=(start,), strides=(1,))
