r"""Loops whose iterations launch kernels over rows of large arrays, in sweeps of several iterations each.

    for k in 0..398:                     for block in 0..50:               # eight iterations k
      launch step(m1, m2) rows 700         launch sweep(m1, m2) rows 4     # sections of the rows, on threads
      m1, m2 = m2, m1                      launch seams(m1, m2) rows 3     # where they meet
                                           for k in 0..8: m1, m2 = m2, m1

Within a section, all iterations go over a tile of rows before they go over the next one. A tile moves by some rows with
each iteration; a section leaves out at its ends what depends on other sections, which is the seams' to compute:

    iteration 3   |     /////|          |    \\\             /
              2   |    /////||         /|     \\\           /|
              1   |   /////|||        / |      \\\  seam   / |
              0   |  /////||||       /  | tile  \\\      /  |
                  section, tile by tile ->       border

By how many: as far apart as two rows of kernels may be that touch the same row of an array (`reach`), if one of them
writes it. What is so far away was computed in an iteration before, in this tile or an earlier one, and what overwrites
it comes later. (Wonnacott, Using time skewing to eliminate idle time due to memory bandwidth and network limitations,
2000; Grosser et al., Split tiling for GPUs, 2013.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import combinations_with_replacement

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.builder import Builder
from tapefuse.codegen.code import Code
from tapefuse.codegen.costs import CORES, SECOND_CACHE
from tapefuse.codegen.loops import (
    HI,
    INT,
    LO,
    ZERO,
    Buffer,
    For,
    If,
    Kernel,
    Launch,
    Move,
    Num,
    Poll,
    Scalar,
    Stmt,
    Var,
    View,
    dimension,
)
from tapefuse.codegen.loops_walk import walk, with_bodies
from tapefuse.codegen.reach import Reach
from tapefuse.ir.types import Type, size

TILE = 640 << 10  # bytes of the rows that iterations go over before the next ones: they stay in the second cache
MOST = 8  # launches of a block
SECTION = 8  # rows of a section for each row that a seam is wide at either side; with less than 2, seams would overlap
ONE = Num(1, INT)

Stmts = tuple[Stmt, ...]
Reaches = Mapping[str, Mapping[Buffer, Reach]]  # by the name of a kernel, by its own buffers


def swept(body: Stmts, code: Code, reaches: Reaches, decide: Callable[[str, bool], bool]) -> Stmts:
    """A region's statements with sweeps. `decide`: a question and what is best -> what is done."""
    offset = {code.memory(v.buffer) for v in walk(body) if isinstance(v, View) and (v.at != ZERO or v.local)}

    def changed(s: Stmt) -> Stmts:
        if not isinstance(s, For):
            return (with_bodies(s, inside),)
        loop = _Loop(s, code, reaches)
        shape = loop.shape(offset) if loop.is_fit else None
        if shape is None or not decide(f"{s.var} in sweeps", shape.pays):
            return (with_bodies(s, inside),)
        return _Sweeps(loop, shape).statements()

    def inside(body: Stmts) -> Stmts:
        return tuple(t for s in body for t in changed(s))

    return inside(body)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Rows of all kernels together, how far they are apart, iterations of a block, sections, and rows of a tile."""

    rows: int
    apart: int
    iterations: int
    sections: int
    tile: int
    pays: bool


class _Loop:
    """A loop that only launches kernels, and lets arrays change their roles."""

    def __init__(self, s: For, code: Code, reaches: Reaches):
        self.loop, self.code, self.reaches = s, code, reaches
        self.launches = [t for t in s.body if isinstance(t, Launch)]
        self.moves = [t for t in s.body if isinstance(t, Move)]
        self.polls = [t for t in s.body if isinstance(t, Poll)]
        self.buffers = list(dict.fromkeys(b for t in self.launches for b in t.buffers))
        self.moved = dict.fromkeys(b for t in self.moves for b in t.targets)

    @property
    def is_fit(self) -> bool:
        parts = (*self.launches, *self.moves, *self.polls)
        return (
            bool(self.launches)
            and parts == self.loop.body
            and all(t.kernel.name in self.reaches for t in self.launches)
            and all(isinstance(x, Num) for t in self.launches for x in (t.rows, t.pieces))
            and all(isinstance(d, int) for b in self.buffers for d in b.type.shape)
            and self.moved.keys() <= {*self.buffers}
        )

    def shape(self, offset: Collection[str]) -> _Shape | None:
        """How it may be cut; None if it may not. `offset`: memory of which there are views from another byte on."""
        touched: dict[str, list[Reach]] = {}
        of_rows: dict[Buffer, int] = {}  # the axis along which a kernel's rows are rows of it
        types: dict[str, set[Type]] = {}
        for t in self.launches:
            for own, b in zip(t.kernel.buffers, t.buffers, strict=True):
                if (reach := self.reaches[t.kernel.name].get(own)) is None:
                    continue
                memory = self.code.memory(b)
                touched.setdefault(memory, []).append(reach)
                types.setdefault(memory, set()).add(b.type)
                if reach.axis is not None:
                    of_rows[b] = reach.axis
        written = {m: found for m, found in touched.items() if any(r.is_written for r in found)}
        if any(len({r.axis for r in found}) != 1 or found[0].axis is None for found in written.values()):
            return None
        if not written or any(len(types[m]) != 1 or m in offset for m in written):
            return None
        pairs = (p for found in written.values() for p in combinations_with_replacement(found, 2))
        apart = max(a.apart(b) for a, b in pairs if a.is_written or b.is_written)
        row = sum(size(b.type.shape[axis + 1 :]) * b.type.dtype.itemsize for b, axis in of_rows.items())
        assert isinstance(row, int)
        return self._cut(apart, row)

    def _numbers(self) -> Iterator[tuple[Num, Num]]:
        for t in self.launches:
            assert isinstance(t.rows, Num) and isinstance(t.pieces, Num)
            yield t.rows, t.pieces

    def _cut(self, apart: int, row: int) -> _Shape | None:
        rows, pieces = (max(x.value for x in numbers) for numbers in zip(*self._numbers(), strict=True))
        each = len(self.launches)
        for iterations in range(MOST // each, 1, -1):
            seam = apart * iterations * each  # its rows at either side
            sections = min(pieces, rows // max(SECTION * seam, 1))
            tile = TILE // row - seam
            if tile > 0 and sections >= min(pieces, CORES):
                sections = 1 << sections.bit_length() - 1  # 2 or 4 threads have the same to do each
                return _Shape(rows, apart, iterations, sections, tile, pieces > 1 and rows * row >= SECOND_CACHE)
        return None


class _Sweeps:
    """The statements and kernels of a loop in sweeps."""

    def __init__(self, loop: _Loop, shape: _Shape):
        self.loop, self.shape = loop, shape
        self.given = {b: Buffer(f"b{k}", b.type) for k, b in enumerate(loop.buffers)}
        self.now = self.given | {b: Buffer(f"now{k}", b.type) for k, b in enumerate(loop.moved)}
        others = (x for t in loop.launches for x in t.sizes if isinstance(x, Var) and x != loop.loop.var)
        self.symbols = {x: f"size{k}" for k, x in enumerate(dict.fromkeys(others))}

    def statements(self) -> Stmts:
        """Blocks of iterations in place of the loop."""
        b, s, size = _Within(self.loop.code), self.loop.loop, self.shape.iterations
        count = b.op("sub", s.stop, s.start)
        blocks = b.op("floordiv", b.op("add", count, Num(size - 1, INT)), Num(size, INT))
        with b.loop(ZERO, blocks) as block:
            first = b.op("add", s.start, b.op("mul", block, Num(size, INT)))
            stop = b.op("minimum", s.stop, b.op("add", first, Num(size, INT)))
            b.append(self._launch("sweep", self._sweep, self.shape.sections, (first, stop)))
            if self.shape.sections > 1 and self.shape.apart:
                b.append(self._launch("seams", self._seams, self.shape.sections - 1, (first, stop)))
            with b.loop(first, stop):
                for move in self.loop.moves:
                    b.append(move)
            for poll in self.loop.polls:
                b.append(poll)
        return b.body()

    def _launch(self, kind: str, write: Callable[[Builder], None], rows: int, bounds: tuple[Scalar, Scalar]) -> Launch:
        """Launch a kernel over iterations within bounds, one row of which is a section, or a seam."""
        b, launches = Builder(), self.loop.launches
        write(b)
        name, cost = f"{launches[0].kernel.name}_{kind}", sum((t.kernel.cost for t in launches), start=0)
        symbols = ("first", "stop", *self.symbols.values())
        title = f"{self.shape.iterations} iterations of {', '.join(t.kernel.name for t in launches)}"
        kernel = Kernel(name, tuple(self.given.values()), symbols, b.body(), rows, cost * self.shape.iterations, title)
        return Launch(kernel, tuple(self.given), (*bounds, *self.symbols), Num(rows, INT), Num(rows, INT))

    def _sweep(self, b: Builder) -> None:
        """Of each section, tile by tile, what depends on no other section."""
        rows, sections, tile = (Num(n, INT) for n in (self.shape.rows, self.shape.sections, self.shape.tile))
        with b.loop(LO, HI) as section:
            start, end = self._border(b, section), self._border(b, b.op("add", section, ONE))
            is_first, is_last = b.op("eq", section, ZERO), b.op("eq", section, b.op("sub", sections, ONE))
            full = b.op("floordiv", b.op("add", b.op("sub", end, start), b.op("sub", tile, ONE)), tile)
            with b.loop(ZERO, full) as number:
                from_ = b.op("add", start, b.op("mul", number, tile))
                to = b.op("add", from_, tile)
                is_end = b.op("ge", to, end)

                def bounds(launch: Launch, shift: Scalar) -> tuple[Scalar, Scalar]:
                    first = b.op("select", is_first, ZERO, b.op("add", start, shift))
                    last = b.op("select", is_last, rows, b.op("sub", end, shift))
                    here = b.op("select", is_end, last, b.op("minimum", last, b.op("sub", to, shift)))
                    return b.op("maximum", first, b.op("sub", from_, shift)), b.op("minimum", here, launch.rows)

                self._iterations(b, bounds)

    def _seams(self, b: Builder) -> None:
        """Of each seam what the sections left out."""
        with b.loop(LO, HI) as number:
            border = self._border(b, b.op("add", number, ONE))

            def bounds(launch: Launch, shift: Scalar) -> tuple[Scalar, Scalar]:
                end = b.op("minimum", launch.rows, b.op("add", border, shift))
                return b.op("maximum", ZERO, b.op("sub", border, shift)), end

            self._iterations(b, bounds)

    def _border(self, b: Builder, number: Scalar) -> Scalar:
        rows, sections = Num(self.shape.rows, INT), Num(self.shape.sections, INT)
        return b.op("floordiv", b.op("mul", number, rows), sections)

    def _iterations(self, b: Builder, bounds: Callable[[Launch, Scalar], tuple[Scalar, Scalar]]) -> None:
        """The iterations of a block, of which launches go over rows within bounds that move each time."""
        for buffer in self.loop.moved:
            b.append(View(self.now[buffer], self.given[buffer]))
        first, launches = dimension("first"), self.loop.launches
        with b.loop(first, dimension("stop")) as k:
            sizes = {x: dimension(s) for x, s in self.symbols.items()} | {self.loop.loop.var: k}
            before = b.op("mul", b.op("sub", k, first), Num(len(launches), INT))
            for number, t in enumerate(launches):
                shift = b.op("mul", b.op("add", before, Num(number, INT)), Num(self.shape.apart, INT))
                start, end = bounds(t, shift)
                given = tuple(sizes.get(x, x) if isinstance(x, Var) else x for x in t.sizes)
                some = Launch(t.kernel, tuple(self.now[x] for x in t.buffers), given, end, ONE, start)
                b.append(If(b.op("lt", start, end), (some,)))
            for move in self.loop.moves:
                targets, sources = (tuple(self.now[x] for x in buffers) for buffers in (move.targets, move.sources))
                b.append(Move(targets, sources))


class _Within(Builder):
    """Statements of a kernel that another builder writes: names are new there."""

    def __init__(self, code: Code):
        super().__init__()
        self.code = code

    def _fresh(self, prefix: str, dtype: np.dtype) -> Var:
        return self.code.fresh(prefix, dtype)
