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

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import const, constant
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes.adjoint import adjoint, records_of, zeros
from tapefuse.ir.passes.bodies import deep, depending, inside, rebuilt
from tapefuse.ir.passes.checks import Known
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.residuals import bytes_of, is_repeatable
from tapefuse.ir.passes.simplify import RULES
from tapefuse.ir.passes.tile_rows import Range, Rows, Unfit, merged, part
from tapefuse.ir.types import Dim, Poly, symbols

LEAST_BYTES = 4 << 20  # of all states of a loop
MOST_WORK = 4  # operations on a row in an iteration: with 3, value and gradient took 0.37 ns a row, not 1.0; with 5 as long
DEAR = 8  # operations that others than these take the time of
CHEAP = frozenset(
    (
        *(ops.add, ops.sub, ops.mul, ops.neg, ops.abs, ops.maximum, ops.minimum, ops.relu, ops.sign, ops.select),
        *(ops.eq, ops.ne, ops.lt, ops.le, ops.gt, ops.ge, ops.and_, ops.or_, ops.not_, ops.cast),
    )
)
TILE_BYTES = 512  # of an array's rows in a tile: eight registers of 64 bytes
MOST_OVERLAP = 8  # rows of a tile that its neighbours compute as well
MOST_ITERATIONS = 8  # of a tile
LEAST_TILES = 4
MOST_EDGE = 32  # rows at an end of an array that are computed in another way than those in the middle
LEAST_SECTION_TILES = 64  # from which rows are cut in two
LEAST_SECTION_BLOCKS = 4
MOST_COMMON = 0.08  # of the rows of both sections, on average, that both compute
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


_deep = deep(_run)


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with loops by tiles, and how many. It is simplified then, as derivatives are: a loop and one that keeps
    rows for a derivative look alike, so that pass `loops` makes one of both."""
    graph, fired = _deep(graph)
    return (inside(RULES.run(graph)[0], _ordered)[0], fired) if fired else (graph, fired)


def _renewed(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with its nodes made in an order that follows from the outputs."""
    env = {p: Value(p.type, name=p.name, loc=p.loc) for p in graph.params}
    return Graph(tuple(env.values()), rebuilt(graph.outs, dict(env)), graph.name), Counter()


_ordered = deep(_renewed)


def _loop(v: Value, args: tuple[Value, ...]) -> Loop:
    a = v.attributes
    return Loop(args, a["body"], a["trips"], a["index"], a["carried"])


def tiled(loop: Loop) -> tuple[Value, ...] | None:
    """The results of a loop, by tiles; None if that does not pay, or cannot be."""
    same = [k for k in range(loop.carried) if loop.body.outs[k] is loop.body.params[k]]
    if same:
        return _tiled_but(loop, same)
    if not _is_plain(loop) or not _pays(loop):
        return None
    try:
        loop = _with_operands(loop)
        plan = _plan(loop)
        return None if plan is None else _results(loop, plan)
    except Unfit:
        return None


def _tiled_but(loop: Loop, same: Sequence[int]) -> tuple[Value, ...] | None:
    """`tiled` where some carries stay what they are."""
    n, body = loop.carried, loop.body
    order = [*(k for k in range(n) if k not in same), *same, *range(n, len(loop.xs))]
    changing = n - len(same)
    graph = Graph(tuple(body.params[k] for k in order), tuple(body.outs[k] for k in order[:changing]), body.name)
    found = tiled(replace(loop, xs=tuple(loop.xs[k] for k in order), body=graph, carried=changing))
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
    if any(len(p.shape) > 1 or p.dtype.kind != "f" and p.shape for p in carries):
        return False
    if not all(v.op is not None and not v.op.is_region and is_repeatable(v) for v in body.nodes):
        return False
    return not any(isinstance(d, Poly) for v in (*body.params, *body.nodes) for d in v.shape)


def _pays(loop: Loop) -> bool:
    """Whether states are more than caches hold, and fetching them is what an iteration takes its time for."""
    assert isinstance(loop.trips, int)
    carried, nodes = sum(bytes_of(p) for p in loop.body.params[: loop.carried]), _varying(loop)
    work = sum(1 if v.op in CHEAP else DEAR for v in nodes if v.op is not None and v.op.elementwise and v.shape)
    return loop.trips * carried >= LEAST_BYTES and work <= MOST_WORK


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
    """`count` tiles of `rows` rows run `iterations` iterations; they begin after `left` rows, and `right` follow.
    `reads`: whether an iteration of a row reads rows before it, and behind it."""

    n: int
    iterations: int
    rows: int
    count: int
    left: int
    right: int
    reads: tuple[bool, bool]


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
    reads = reach.start < ends[0], reach.limit > ends[0] + tile
    return Plan(n, iterations, rows, between // rows, left + between % rows, right, reads)


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

    def rows(self, r: Range) -> Value:
        for held, x in self.pieces:
            inner = r.moved(held.start * -1)
            if not any(isinstance(d, Poly) for d in inner) and inner.start >= 0 and inner.limit <= x.shape[0]:
                return part(x, 0, inner)
        raise Unfit


# -- the tiles --------------------------------------------------------------------------------------------------------


def _results(loop: Loop, plan: Plan) -> tuple[Value, ...]:
    """What a loop carries in the end: blocks of iterations by tiles, and iterations that are left over."""
    n, trips = loop.carried, loop.trips
    assert isinstance(trips, int)
    blocks = trips // plan.iterations
    found, done = _by_sections(loop, plan, blocks) or _whole(loop, plan, blocks), blocks * plan.iterations
    if done < trips:
        last = _name(loop, "rest")
        body = loop.body.substitute({loop.index: done + Poly.symbol(last)})
        left = Loop((*found, *loop.xs[n:]), body, trips - done, last, n)
        found = tiled(left) or left.results()
    return found


class Grid(NamedTuple):
    """Where tiles lie in arrays that begin with row `base` of the whole ones: `trips` of them from number `start` on,
    and how often the rows before (`first`) and behind them (`last`) are computed; the base is `last_base` there."""

    base: Dim
    start: Dim
    trips: Dim
    first: Dim
    last: Dim
    last_base: Dim
    known: Known


def _whole(loop: Loop, plan: Plan, blocks: int) -> tuple[Value, ...]:
    """What is carried after blocks of all rows."""
    return _blocks(loop, plan, loop.xs, blocks, 0, lambda _: Grid(0, 0, plan.count, 1, 1, 0, {}))


def _blocks(
    loop: Loop, plan: Plan, xs: Sequence[Value], blocks: int, done: Dim, grid: Callable[[Dim], Grid]
) -> tuple[Value, ...]:
    """What is carried after `blocks` blocks. `grid`: for the number of a block."""
    params, index = tuple(param(x.type) for x in xs), _name(loop, "block")
    number = Poly.symbol(index)
    outs = _block(loop, plan, params, done + number * plan.iterations, grid(number))
    return Loop(tuple(xs), Graph(params, outs, loop.body.name), blocks, index, loop.carried).results()


class Sections(NamedTuple):
    """Two halves of the rows, of which each runs `blocks` blocks on its own. Their arrays have `tiles` tiles, of which
    the halves begin with `before` (first half) and `behind`; the first half has `cut` of them in the end. A block has a
    tile less than the one before at the side where the halves meet."""

    blocks: int
    tiles: int
    before: int
    behind: int
    cut: int


def _sections(loop: Loop, plan: Plan, blocks: int) -> Sections | None:
    """How rows are cut in two for two threads; None if they are not."""
    if any(not p.shape for p in loop.body.params[: loop.carried]) or plan.count < LEAST_SECTION_TILES:
        return None
    most = int(2 * MOST_COMMON * plan.count)
    each = max((b for b in range(1, min(most, blocks) + 1) if blocks % b == 0), default=0)
    if each < min(blocks, LEAST_SECTION_BLOCKS):
        return None
    low, high = plan.reads
    cut = (plan.count + (low - high) * (each - 1) // 2) // 2
    before, behind = cut + high * (each - 1), plan.count - cut + low * (each - 1)
    return Sections(each, max(before, behind), before, behind, cut)


def _by_sections(loop: Loop, plan: Plan, blocks: int) -> tuple[Value, ...] | None:
    """What is carried after blocks of all rows, by sections; None if rows are not cut in sections."""
    sections = _sections(loop, plan, blocks)
    if sections is None:
        return None
    times, index = blocks // sections.blocks, _name(loop, "turn")
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
    n, index = loop.carried, _name(loop, "section")
    half = Poly.symbol(index)
    first = plan.rows * (plan.count - sections.tiles)  # row of the second half
    base, rows = half * first, plan.left + plan.right + plan.rows * sections.tiles
    low, high = plan.reads

    def grid(block: Dim) -> Grid:
        start = half * (sections.tiles - sections.behind) + half * block * int(low)
        trips = sections.before + half * (sections.behind - sections.before)
        trips = trips - half * block * int(low) - (1 - half) * block * int(high)
        known = {index: (0, 1), _name(loop, "block"): (0, sections.blocks - 1)}
        return Grid(base, start, trips, 1 - half, half, first, known)

    def local(x: Value) -> Value:
        if len(x.shape) != 1:
            return x
        return part(x, 0, Range(base, base + rows + (x.shape[0] - plan.n)))

    written = tuple(param(x.type) for x in xs[:n])
    read = tuple(param(x.type) for x in xs)
    found = _blocks(loop, plan, [local(x) for x in read], sections.blocks, done, grid)
    cut = plan.left + plan.rows * sections.cut
    outs = []
    for y, x in zip(written, found, strict=True):
        count = cut + half * (y.shape[0] - 2 * cut)
        mine = part(x, 0, Range(half * (cut - first), half * (cut - first) + count))
        outs.append(ops.put.emit(y, mine, starts=(half * cut,), strides=(1,)))
    body = Graph((*written, *read), tuple(outs), loop.body.name)
    start = tuple(zeros(x.type) for x in xs[:n])
    return Loop((*start, *xs), body, 2, index, n, parallel=True).results()


def _block(loop: Loop, plan: Plan, xs: Sequence[Value], first: Dim, grid: Grid) -> tuple[Value, ...]:
    """The carry after the iterations of a block, as a branch of its own: what it computes is not kept, but computed
    again by its derivative."""
    params = tuple(param(x.type, x.name) for x in xs)
    graph = Graph(params, _Block(loop, plan, params, first, grid).results(), loop.body.name)
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

    def __init__(self, loop: Loop, plan: Plan, params: Sequence[Value], first: Dim, grid: Grid):
        self.loop, self.plan, self.grid = loop, plan, grid
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
        plan, grid, index = self.plan, self.grid, _name(self.loop, "tile")
        new = {k: ops.empty.emit(shape=self.carries[k].shape, dtype=self.carries[k].dtype) for k in self.rows}
        start = grid.base + plan.left + (grid.start + Poly.symbol(index)) * plan.rows
        tile = dict.fromkeys(self.rows, Range(start, start + plan.rows))
        new = self.with_tiles(new, tile, grid.trips, index, grid.base)
        if plan.left:
            first = dict.fromkeys(self.rows, Range(0, plan.left))
            new = self.with_tiles(new, first, grid.first, _name(self.loop, "first"), 0)
        last = {k: Range(plan.n - plan.right, self.loop.body.params[k].shape[0]) for k in self.rows}
        last = {k: r for k, r in last.items() if r.rows != 0}
        if last:
            new = self.with_tiles(new, last, grid.last, _name(self.loop, "last"), grid.last_base)
        return tuple((new | self.numbers)[k] for k in range(len(self.carries)))

    def with_tiles(
        self, new: Mapping[int, Value], wanted: Mapping[int, Range], count: Dim, index: str, base: Dim
    ) -> dict[int, Value]:
        """Arrays with the rows of `count` tiles after the block."""
        leaves: dict[Value, None] = {}
        known: Known = {**self.grid.known, index: (0, count - 1)}
        found = _Tile(self, base, known, leaves).rows(wanted)
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
        reads, parts, asked = self._reads(wanted)
        held = {k: self._held(carries[k], ranges) for k, ranges in reads[0].items()}
        others = {x: self._held(x, ranges) for x, ranges in parts.items()}
        for iteration, ranges, rows in zip(self.block.iterations, reads[1:], asked, strict=True):
            held = self._after(iteration, ranges, held, others, rows)
        return {k: held[k].rows(r) for k, r in wanted.items()}

    def _held(self, x: Value, ranges: Sequence[Range]) -> _Held:
        self.leaves[x] = None
        pieces = [(r, r.moved(self.base * -1)) for r in merged(ranges)]
        if any(_is_outside(r, x.shape[0]) for _, r in pieces):
            raise Unfit  # of rows that another section has
        return _Held((r, part(x, 0, here)) for r, here in pieces)

    def _reads(self, wanted: Mapping[int, Range]) -> tuple[list[Wanted], dict[Value, list[Range]], list[Rows]]:
        """The rows of carries that are needed before each iteration and after the last one, of other arrays, and of
        what iterations compute."""
        asked: list[Rows] = []
        carries: list[Wanted] = [{k: [r] for k, r in wanted.items()}]
        others: dict[Value, list[Range]] = {}
        for iteration in reversed(self.block.iterations):
            reads = _Reads(iteration.body, self.block.loop.carried, iteration.varying, self.known)
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
        before: Mapping[int, _Held],
        others: Mapping[Value, _Held],
        asked: Rows,
    ) -> dict[int, _Held]:
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
            return others[x].rows(r) if x in others else part(x, axis, r)

        rows = Rows(iteration.varying, self.known, read, whole).like(asked)
        outs = iteration.body.outs
        return {k: _Held((r, rows.of(outs[k], 0, r)) for r in ranges) for k, ranges in wanted.items()}


def _is_outside(r: Range, n: Dim) -> bool:
    return any(isinstance(d, int) and d < 0 for d in (r.start, n - r.limit))


def _with_rows(x: Value, start: Dim, rows: Value) -> Value:
    return ops.put.emit(x, rows, starts=(start,), strides=(1,))
