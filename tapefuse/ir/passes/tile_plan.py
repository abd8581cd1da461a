"""How a time loop over a one-dimensional stencil is cut into tiles, and whether that pays.

    u: f64[10000], 200 iterations, row i from rows i - 1 and i  ->  178 tiles of 56 rows and 8 iterations after 32 rows
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.passes.bodies import depending
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.residuals import bytes_of
from tapefuse.ir.passes.tile_rows import Range, Reads, Unfit
from tapefuse.ir.types import Poly

LEAST_BYTES = 4 << 20  # of all states of a loop
# Operations on a row in an iteration: with 3, value and gradient took 0.37 ns a row, not 1.0; with 5 as before.
MOST_WORK = 4
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


class Plan(NamedTuple):
    """`tiles` tiles of `rows` rows run `iterations` iterations; they begin after `left` rows, and `right` follow.
    `reads`: whether an iteration of a row reads rows before it, and behind it."""

    n: int
    iterations: int
    rows: int
    tiles: int
    left: int
    right: int
    reads: tuple[bool, bool]


class Sections(NamedTuple):
    """Two halves of the rows, of which each runs `blocks` blocks on its own. Their arrays have `tiles` tiles, of which
    the halves begin with `before` (first half) and `behind`; the first half has `cut` of them in the end. A block has a
    tile less than the one before at the side where the halves meet."""

    blocks: int
    tiles: int
    before: int
    behind: int
    cut: int


def pays(loop: Loop) -> bool:
    """Whether states are more than caches hold, and fetching them is what an iteration takes its time for."""
    assert isinstance(loop.trips, int)
    carried, nodes = sum(bytes_of(p) for p in loop.body.params[: loop.carried]), varying(loop)
    work = sum(1 if v.op in CHEAP else DEAR for v in nodes if v.op is not None and v.op.elementwise and v.shape)
    return loop.trips * carried >= LEAST_BYTES and work <= MOST_WORK


def is_cheap(loop: Loop) -> bool:
    """Whether iterations compute nothing but what is finite where their operands are."""
    return all(v.op in CHEAP for v in loop.body.nodes if v.op is not None and v.op.elementwise)


def varying(loop: Loop) -> set[Value]:
    return depending(loop.body, loop.body.params[: loop.carried], frozenset({loop.index}))


def index_of(loop: Loop, what: str) -> str:
    return f"{loop.index}_{what}"


def plan_of(loop: Loop) -> Plan | None:
    """How a loop is cut into tiles; None if it is better left as it is. Raises Unfit."""
    carries = [p for p in loop.body.params[: loop.carried] if p.shape]
    n, tile = _extent(carries), TILE_BYTES // max(p.dtype.itemsize for p in carries)
    if n < LEAST_TILES * tile:
        return None
    ends = _ends(loop, n, tile)
    reach = _reach(loop, ends[0], tile, n, ends)
    assert reach is not None
    before, behind = max(-reach[0], 0), max(reach[1], 0)
    overlap = before + behind
    assert isinstance(loop.trips, int)
    iterations = _iterations(loop.trips, min(MOST_OVERLAP // overlap, MOST_ITERATIONS)) if overlap else 0
    most = tile - iterations * overlap
    if iterations < 2 or most < LANES:
        return None  # without overlap, strips are better
    left, right = ends[0] + (iterations - 1) * before, ends[1] + (iterations - 1) * behind
    between = n - left - right
    rows = min(range(LANES, most + 1, LANES), key=lambda r: (between // r * tile + 2 * (between % r), -r))
    return Plan(n, iterations, rows, between // rows, left + between % rows, right, (before > 0, behind > 0))


def _extent(carries: Sequence[Value]) -> int:
    """The rows that all arrays have which are carried. Raises Unfit if some have many more."""
    found = [d for p in carries for d in p.shape if isinstance(d, int)]
    if max(found) > min(found) + MOST_EDGE:
        raise Unfit
    return min(found)


def _iterations(trips: int, most: int) -> int:
    """Of a tile: as many as there may be, but so that few are left over."""
    most = min(trips, most)
    return max(range(max(most // 2, 1), most + 1), key=lambda k: (-(trips % k), k), default=0)


def _ends(loop: Loop, n: int, tile: int) -> tuple[int, int]:
    """How many rows at both ends of the arrays are not computed as those in the middle are."""
    far = MOST_EDGE
    left = next((d for d in range(far + 1) if _reach(loop, d, tile, n, (d, far))), None)
    right = next((d for d in range(far + 1) if _reach(loop, far, tile, n, (far, d))), None)
    if left is None or right is None:
        raise Unfit
    return left, right


def _reach(loop: Loop, start: int, rows: int, n: int, ends: tuple[int, int]) -> tuple[int, int] | None:
    """How far before the first row of a tile, and behind its last one, the rows of carries lie that an iteration reads;
    None if that is not the same for all tiles between the ends."""
    tile = index_of(loop, "tile")
    known = {tile: (0, n - ends[0] - ends[1] - rows)}
    first = start + Poly.symbol(tile)
    try:
        reads = Reads(loop.body, loop.carried, varying(loop), known)
        wanted = {k: [Range(first, first + rows)] for k, p in enumerate(loop.body.params[: loop.carried]) if p.shape}
        reads.of(wanted)
    except Unfit:
        return None
    found = [r for ranges in reads.carries.values() for r in ranges]
    low, high = {r.start - first for r in found}, {r.limit - first - rows for r in found}
    if not found or any(isinstance(d, Poly) for d in (*low, *high)):
        return None
    return min(low), max(high)  # type: ignore[type-var, return-value]


def cut_operands(loop: Loop, plan: Plan) -> frozenset[int]:
    """The numbers of the operands of which a tile reads the rows beside its own, as opposed to elements at places of
    their own: `c[1:]` and not `s[k]` in `u[1:] = c[1:] * u[1:] + s[k]`. Raises Unfit if it does both."""
    tile = index_of(loop, "tile")
    first = plan.left + plan.rows * Poly.symbol(tile)
    reads = Reads(loop.body, loop.carried, varying(loop), {tile: (0, plan.tiles - 1)})
    rows = [Range(first, first + plan.rows)]
    reads.of({k: rows for k, p in enumerate(loop.body.params[: loop.carried]) if p.shape})
    number = {p: k for k, p in enumerate(loop.body.params)}
    found = set()
    for v, ranges in reads.others.items():
        beside = [isinstance(r.start - first, int) for r in ranges]
        if v not in number or any(beside) and not all(beside):
            raise Unfit
        if any(beside):
            found.add(number[v])
    return frozenset(found)


def sections_of(loop: Loop, plan: Plan, blocks: int) -> Sections | None:
    """How rows are cut in two for two threads; None if they are not."""
    if any(not p.shape for p in loop.body.params[: loop.carried]) or plan.tiles < LEAST_SECTION_TILES:
        return None
    most = int(2 * MOST_COMMON * plan.tiles)
    each = max((b for b in range(1, min(most, blocks) + 1) if blocks % b == 0), default=0)
    if each < min(blocks, LEAST_SECTION_BLOCKS):
        return None
    low, high = plan.reads
    cut = (plan.tiles + (low - high) * (each - 1) // 2) // 2
    before, behind = cut + high * (each - 1), plan.tiles - cut + low * (each - 1)
    return Sections(each, max(before, behind), before, behind, cut)
