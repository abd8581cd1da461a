"""A nest of rows as one kernel of loop IR.

Inside a row, work is cut into phases: what needs a finished reduction over the row comes one phase later. Each phase
has one loop per column shape. Values are pulled: computed where they are first needed, remembered for the scope.

Short rows go through their phases in blocks: what is computed once a row is a loop over the block's rows, which has
vectors, and a few rows at a time share the loops over the columns. Both loads and stores of sums over the rows, and of
what all rows read, are done once for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from tapefuse.codegen.access import Access, Operand, at
from tapefuse.codegen.builder import Builder
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.costs import (
    BLOCK,
    BLOCK_BYTES,
    CACHED,
    CHUNKS,
    FAR,
    GRAIN,
    KEEP_WEIGHT,
    LIGHT,
    NEAR,
    ONCE,
    SCALAR,
    SHORT,
    TOGETHER,
    TRANSFER,
    time,
    typical,
    weight,
)
from tapefuse.codegen.groups import Group, Schedule, domain, is_row_reduction, is_sink
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, ZERO, Buffer, Kernel, Num, Scalar, Var, identity
from tapefuse.codegen.nest import Nest
from tapefuse.codegen.scatter import Start
from tapefuse.codegen.updates import is_placed
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.update import target
from tapefuse.ir.types import Dim, Poly, Shape, Type, size

Accumulators = dict[Value, Var | None]
Few = list[tuple[Scalar | None, tuple[Scalar, ...]]]  # rows: their numbers in the block, if there is one, and indices


class Rows(Nest):
    """A nest of loops over rows, and over columns inside."""

    given: frozenset[Value] = frozenset()  # what is in memory when the phases of a block begin
    is_free = True  # whether rows, blocks and pieces may be chosen
    cut: Dim | None = None  # the cost by which rows are cut into pieces, if it is not that of the kernel

    def __init__(self, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False):
        super().__init__(plan, group, in_place, strict)
        self.updates = [n for n in group.nodes if is_placed(n)]
        if group.rows is None:
            rank = len(group.shape)
            group.rows = min(rank, 1) if self.flat else min(max(rank - 1, min(rank, 1)), group.limit)
            if not self.flat and group.rows and self.is_free:
                legal = range(1, min(rank, group.limit) + 1)
                group.rows = plan.choices.number(self.question("rows"), group.rows, legal)
        self.is_elementwise_row = self.flat or len(group.shape) == group.rows
        self.rows: Shape = (size(group.shape),) if self.flat else group.shape[: self.r]
        self.scratch: set[Value] = set()
        self.stored: set[Value] = set()
        self.cost = self._cost()
        most = plan.most(self.cost)
        small = isinstance(most, int) and most < 2 * GRAIN
        in_order = strict and any(is_sink(n) for n in group.nodes)
        self.chunks = 1 if small or in_order or not group.rows else CHUNKS
        states = ((n, in_place[n]) for n in group.nodes if n in in_place and n not in self.updates)
        self.overwritten = [s for n, s in states if s.op is None]
        self.lane: Scalar | None = None  # number of the current row in its block
        self.outer: tuple[Scalar, ...] = ()  # indices of the rows' axes around a block
        self.together = {k: TOGETHER if self._gains_together(k) else 1 for k in self._phase_numbers}
        self.block = self._block()
        if self.is_free and not strict:
            self._choose()

    def _choose(self) -> None:
        """What the cost model does not say for certain."""
        choices = self.plan.choices
        for k in self.together:
            self.together[k] = choices.number(self.question(f"together {k}"), self.together[k], (1, 2, 3, 4))
        if self._may_block():
            self.block = choices.number(self.question("block"), self.block, (1, 2, 4, 8, 32))
        if self.r and (pieces := choices.number(self.question("pieces"), 0, (0, 1, 2, 5, CHUNKS))):
            self.chunks, self.cut = pieces, pieces * GRAIN

    # -- blocks of rows ----------------------------------------------------------------------------
    def _block(self) -> int:
        """How many rows go through their phases together; 1: each on its own."""
        if not self._may_block():
            return 1
        vectors = [n for n in self.needed if self.columns(n)]
        each_row = sum(size(self.columns(n)) * time(n) for n in vectors)
        once = sum(time(n) for n in self.needed if not self.columns(n))
        assert isinstance(each_row, int)
        if max(self.together.values()) == 1 and (once < ONCE or each_row > SCALAR * once):
            return 1
        fits = BLOCK_BYTES // max(self._row_bytes(), 1)
        if self._streams() and max(self.together.values()) == 1:
            return 1
        return min(BLOCK, fits - fits % TOGETHER) if fits >= TOGETHER else 1

    def _may_block(self) -> bool:
        extents = [n for node in self.needed for n in self.columns(node)]
        is_nest = not self.flat and self.r > 0 and self.cut_axis == self.r - 1 and not self.overwritten
        return is_nest and bool(extents) and all(isinstance(n, int) for n in extents)

    def _gains_together(self, phase: int) -> bool:
        """Whether a few rows at a time gain in a phase: sums over rows, a row that all of them read, or short rows that
        are reduced, whose last steps overlap then. The bodies of the rows' loops stand side by side, so they are light.
        """
        vectors = [n for n in self.needed if self.columns(n) and self.phase[n] == phase]
        if self.strict or sum(map(weight, vectors)) > LIGHT or self._streams():
            return False
        if any(is_sink(n) and n.shape or is_row_reduction(n) and self._is_short(n) for n in vectors):
            return True
        shared = (a.value for n in vectors for a in self._loads(n) if a.value not in self.members and not a.prefix)
        return any(map(is_row_reduction, vectors)) and any(len(v.shape) > 0 for v in shared)

    def _row_bytes(self) -> int:
        vectors = [n for n in self.needed if self.columns(n)]
        extents = {self.columns(n) for n in vectors}
        width = sum(size(c) for c in extents) * max((n.dtype.itemsize for n in vectors), default=0)
        return width if isinstance(width, int) else 0

    def _streams(self) -> bool:
        """Whether rows come from memory in an order that must not change: ahead of a few rows of middling length at
        a time, or of a block of them, the processor does not fetch."""
        width = self._row_bytes()
        whole = width * size(self.rows)
        return isinstance(whole, int) and whole > CACHED and NEAR < width < FAR

    def _is_short(self, node: Value) -> bool:
        extent = size(self.columns(node))
        return isinstance(extent, int) and extent <= SHORT

    def _cost(self) -> Dim:
        total: Dim = 0
        for n in self.needed:
            each = time(n) + sum(map(time, self.inlined(n))) + TRANSFER * (n in self.plan.kept)
            total = total + size(domain(n)) * each
        outside = [(n, a) for n in self.needed for a in self._loads(n) if a.value not in self.members]
        picked = sum((TRANSFER * size(domain(n)) for n, a in outside if a.data), start=0)  # not all of what is there
        whole: dict[Value, Dim] = {}  # how often elements of it are read
        for n, a in outside:
            if not a.data:
                whole[a.value] = whole.get(a.value, 0) + size(domain(n))
        return total + picked + sum((TRANSFER * _least(v.type.size, reads) for v, reads in whole.items()), start=0)

    def _loads(self, node: Value) -> tuple[Access, ...]:
        """What computing a value reads; of what an update changes that is nothing, or what it writes."""
        return self.plan.reads[node][node in self.updates :]

    # -- pulling -----------------------------------------------------------------------------------
    def operand(self, value: Value) -> Operand:
        shape = None
        if self.flat:
            shape = () if value.shape == () else self.rows
        return Operand(value, lambda index: self.pull(value, index), shape)

    def pull(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        """The element of `value` at `index`: remembered, loaded, or computed."""
        index = self._at(value, index)
        if (known := self.b.known((value, index))) is not None:
            return known
        return self.b.remember((value, index), self._fetch(value, index))

    def _at(self, value: Value, index: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        """The index, with the only number there is where an axis has one."""
        return index if self.flat else tuple(ZERO if n == 1 else i for n, i in zip(value.shape, index, strict=True))

    def _fetch(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        if value in self.scratch:
            return self.b.load(self.buffer(self._scratch_place(value)), self._scratch_index(index))
        if value in self.updates:
            return self._updated(value, index)
        if value in self.stored or value not in self.members and value not in self.plan.inline:
            return self.load(value, index)
        return at(self.b, value, index, self.operand)

    def _updated(self, node: Value, index: tuple[Scalar, ...]) -> Scalar:
        """What an update stores for element `index` of its operand."""
        value = self.pull(node.args[1], index)
        if node.op is not None and node.op.overwrites:
            return value
        old = self.b.load(self.buffer(self.place(node)), self._written_at(node, index))
        return self.b.op("add", old, value)

    def _written_at(self, node: Value, index: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        """Where what is computed for `index` lies in the memory of a value."""
        return target(self.b, index, **node.attributes) if node in self.updates else index

    def _scratch_place(self, value: Value) -> Place:
        lanes = (self.block,) if self.block > 1 else ()
        return Place(value, Type(value.dtype, (self.chunks, *lanes, *value.shape[self.r :])), "scratch")

    def _scratch_index(self, index: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        lanes = () if self.lane is None else (self.lane,)
        return (CHUNK, *lanes, *index[self.r :])

    # -- the nest ----------------------------------------------------------------------------------
    def build(self, name: str) -> list[Step]:
        accumulators = {n: self._declare(n) for n in self.group.nodes if is_sink(n)}
        if self.block > 1:
            self._blocks(accumulators)
        else:
            self._each_row(accumulators)
        for node, acc in accumulators.items():
            if acc is not None:
                self.store(self._sink_place(node), self._chunk, self.b.read(acc))
        rows = self.rows[self.cut_axis] if self.rows else 1
        start = [
            step
            for k, n in enumerate(self.updates)
            for step in Start(self.plan, self.group, self.in_place).steps(f"{name}_start{k}", n, n)
        ]
        main = self.step(name, rows, self.cost, self.chunks, cut=self.cut)
        if self.chunks == 1:
            return [*start, main]
        return [*start, main, *(self._total(f"{name}_total{k}", n, name) for k, n in enumerate(accumulators))]

    @property
    def _chunk(self) -> tuple[Scalar, ...]:
        return (CHUNK,) if self.chunks > 1 else ()

    def _sink_place(self, node: Value) -> Place:
        """Where a sink accumulates: its own memory, or one piece of scratch memory for each chunk."""
        if self.chunks == 1:
            return self.place(node)
        return Place(node, Type(node.dtype, (CHUNKS, *node.shape)), "partial")

    def _declare(self, node: Value) -> Var | None:
        """A sink's accumulator, set to the reduction's identity: a scalar, or (None) a row of memory."""
        kind = _kind(node)
        if not node.shape:
            return self.b.declare(kind, node.dtype)
        with self.b.loops(node.shape) as js:
            self.store(self._sink_place(node), (*self._chunk, *js), identity(kind, node.dtype))
        return None

    def _total(self, name: str, node: Value, of: str) -> Step:
        """The kernel that reduces a sink's partial results over the chunks of kernel `of`."""
        n, kind, b = Poly.symbol("n"), _kind(node), Builder()
        partial = Buffer("b0", Type(node.dtype, (CHUNKS, n)))
        total = Buffer("b1", Type(node.dtype, (n,)))
        with b.loops((n,)) as j:
            b.store(total, j, identity(kind, node.dtype))
        with b.loop(LO, HI) as c, b.loops((n,)) as j:
            value = b.load(partial, (c, *j))
            b.store(total, j, b.op(kind, b.reload(total, j), value))
        kernel = Kernel(name, (partial, total), ("n",), b.body(), CHUNKS, 0, f"{kind} of partial results")
        places = (self._sink_place(node), self.place(node))
        return Step(kernel, places, frozenset(places[1:]), 1, self.group, of, (("n", size(node.shape)),))

    def _each_row(self, accumulators: Accumulators) -> None:
        with ExitStack() as nest:
            row = nest.enter_context(self.over(len(self.rows)))
            for phase in self._phase_numbers:
                if self.is_elementwise_row:
                    self._load_overwritten(row)
                self._once_a_row(phase, row, accumulators)
                self._along_rows(phase, [(None, row)], accumulators)

    @property
    def cut_axis(self) -> int:
        """The axis of the rows that is cut into pieces."""
        return next((k for k, n in enumerate(self.rows) if n != 1), len(self.rows) - 1)

    @contextmanager
    def over(self, count: int) -> Iterator[tuple[Scalar, ...]]:
        """Loops over the first axes of the rows, those of the kernel's piece along the axis that is cut."""
        with ExitStack() as nest:
            index: list[Scalar] = []
            for k, n in enumerate(self.rows[:count]):
                bounds = (LO, HI) if k == self.cut_axis else (ZERO, self.b.dim(n))
                is_loop = n != 1 or k == self.cut_axis
                index.append(nest.enter_context(self.b.loop(*bounds)) if is_loop else ZERO)
            yield tuple(index)

    def _blocks(self, accumulators: Accumulators) -> None:
        self.outer = (ZERO,) * (self.r - 1)
        self._in_blocks(LO, HI, accumulators)

    def _in_blocks(self, first: Scalar, last: Scalar, accumulators: Accumulators) -> None:
        b, block = self.b, _number(self.block)
        rounded = b.op("add", b.op("sub", last, first), _number(self.block - 1))
        with b.loop(ZERO, b.op("floordiv", rounded, block)) as k:
            start = b.op("add", first, b.op("mul", k, block))
            count = b.op("minimum", block, b.op("sub", last, start))
            self._give(start, count)
            for phase in self._phase_numbers:
                if any(self._is_once(n, phase) for n in self.needed):
                    with b.loop(ZERO, count) as lane:
                        self.lane = lane
                        self._once_a_row(phase, (*self.outer, b.op("add", start, lane)), accumulators)
                    self._keep_rows(phase)
                if self._vectors(phase):
                    self._rows_together(phase, start, count, accumulators)

    def _give(self, start: Scalar, count: Scalar) -> None:
        """What a block of rows begins with: nothing, here."""

    def _rows_together(self, phase: int, start: Scalar, count: Scalar, accumulators: Accumulators) -> None:
        """The loops over the columns of a block's rows, a few rows at a time, and the rows that are left one by one."""
        b, together = self.b, self.together[phase]
        few = _number(together)
        before = set(self.stored), set(self.scratch)
        whole = b.op("floordiv", count, few)
        with b.loop(ZERO, whole) as q:
            first = b.op("mul", q, few)
            lanes = [b.op("add", first, _number(k)) for k in range(together)]
            rows: Few = [(lane, (*self.outer, b.op("add", start, lane))) for lane in lanes]
            self._along_rows(phase, rows, accumulators)
        if together > 1:
            self.stored, self.scratch = before
            with b.loop(b.op("mul", whole, few), count) as lane:
                self._along_rows(phase, [(lane, (*self.outer, b.op("add", start, lane)))], accumulators)
        self.lane = None
        self.scratch |= {n for n in self._vectors(phase) if is_row_reduction(n)}

    # -- phases ------------------------------------------------------------------------------------
    @property
    def _phase_numbers(self) -> range:
        return range(1 + max(self.phase.values(), default=0))

    def _is_once(self, node: Value, phase: int) -> bool:
        """Whether a value is computed once a row, at the beginning of a phase."""
        if self.phase[node] != phase or is_row_reduction(node):
            return False
        return self.is_row_scalar(node) or is_sink(node) and not self.columns(node)

    def _vectors(self, phase: int) -> list[Value]:
        """What has loops over columns in a phase."""
        nodes = (n for n in self.group.nodes if self.phase[n] == phase and n in self.needed and n not in self.given)
        return [n for n in nodes if not self._is_once(n, phase) and self._wanted(n, phase)]

    def _once_a_row(self, phase: int, row: tuple[Scalar, ...], accumulators: Accumulators) -> None:
        nodes = [n for n in self.group.nodes if n in self.needed and self._is_once(n, phase)]
        for n in nodes:
            if not is_sink(n):
                self._finish(n, row, self.pull(n, row))
        for n in nodes:
            if is_sink(n):
                self._accumulate(n, accumulators[n], [self.pull(n.args[0], row)], row)

    def _keep_rows(self, phase: int) -> None:
        """What a block's loop over its rows has computed is in memory for the loops to come."""
        self.lane = None
        for n in self.needed:
            if self._is_once(n, phase) and not is_sink(n):
                (self.stored if n in self.plan.kept else self.scratch).add(n)

    def _along_rows(self, phase: int, rows: Few, accumulators: Accumulators) -> None:
        vectors = self._vectors(phase)
        for columns in dict.fromkeys(map(self.columns, vectors)):
            self._loop([n for n in vectors if self.columns(n) == columns], columns, rows, accumulators)
        for self.lane, row in rows:
            for n in vectors:
                if is_row_reduction(n):
                    self._finish(n, row, self.pull(n, row))

    def _load_overwritten(self, index: tuple[Scalar, ...]) -> None:
        """Read what this iteration will overwrite before anything is stored."""
        for value in self.overwritten:
            if self.flat or len(value.shape) == len(index):
                self.pull(value, index)

    def _finish(self, node: Value, row: tuple[Scalar, ...], value: Scalar) -> None:
        if node in self.plan.kept:
            self.store(self.place(node), self._written_at(node, row), value)
        if self.lane is not None and (is_row_reduction(node) or node not in self.plan.kept):
            self.store(self._scratch_place(node), self._scratch_index(row), value)

    def _wanted(self, node: Value, phase: int) -> bool:
        """Whether a vector is computed for its own sake in its phase: stored, reduced, or kept for a later phase."""
        if node in self.plan.kept or is_row_reduction(node) or is_sink(node):
            return True
        if weight(node) < KEEP_WEIGHT:
            return False
        return any(self.phase[r] > phase for r in self.group.nodes if node in self.reads[r] and r in self.needed)

    def _loop(self, nodes: list[Value], columns: Shape, rows: Few, accumulators: Accumulators) -> None:
        """One loop over the columns of some rows, for all reductions and stored vectors of a phase."""
        b = self.b
        totals = {(n, k): b.declare(_kind(n), n.dtype) for k in range(len(rows)) for n in nodes if is_row_reduction(n)}
        with b.loops(columns) as column:
            terms: dict[Value, list[Scalar]] = {}
            for k, (self.lane, row) in enumerate(rows):
                index = (*row, *column)
                self._load_overwritten(index)
                for n in self._order(nodes, columns):
                    if is_row_reduction(n):
                        b.update(totals[n, k], _kind(n), self.pull(n.args[0], index))
                    elif is_sink(n):
                        terms.setdefault(n, []).append(self.pull(n.args[0], index))
                    else:
                        self._compute(n, index, n in nodes)
            for n, values in terms.items():
                self._accumulate(n, accumulators[n], values, index)
        for (n, k), acc in totals.items():
            b.remember((n, self._at(n, rows[k][1])), b.read(acc))
        for n in nodes:
            if not is_sink(n) and not is_row_reduction(n):
                (self.stored if n in self.plan.kept else self.scratch).add(n)

    def _compute(self, node: Value, index: tuple[Scalar, ...], is_wanted: bool) -> None:
        """One element of a vector, stored if it is wanted for its own sake."""
        value = self.pull(node, index)
        if is_wanted and node in self.plan.kept:
            self.store(self.place(node), self._written_at(node, index), value)
        elif is_wanted:
            self.store(self._scratch_place(node), self._scratch_index(index), value)

    def _order(self, nodes: list[Value], columns: Shape) -> list[Value]:
        """`nodes` and the members that are pulled on the way, operands first, so that no rule recurses deeply."""
        wanted = set(nodes)
        for n in reversed(self.group.nodes):
            if n in wanted and n not in self.stored and n not in self.scratch:
                wanted.update(m for m in self.reads[n] if self._same_loop(m, columns))
        return [n for n in self.group.nodes if n in wanted and n not in self.stored and n not in self.scratch]

    def _same_loop(self, node: Value, columns: Shape) -> bool:
        vector = not (is_sink(node) or is_row_reduction(node) or self.is_row_scalar(node))
        return vector and self.columns(node) == columns

    def _accumulate(self, node: Value, acc: Var | None, values: list[Scalar], index: tuple[Scalar, ...]) -> None:
        """Terms of a sum over rows, in their order; `index`: of any of them."""
        kind = _kind(node)
        if acc is not None:
            for value in values:
                self.b.update(acc, kind, value)
            return
        place = self._sink_place(node)
        at = (*self._chunk, *index[len(node.attributes["axes"]) :])
        total: Scalar = self.b.reload(self.buffer(place), at)
        for value in values:
            total = self.b.op(kind, total, value)
        self.store(place, at, total)


def _least(a: Dim, b: Dim) -> Dim:
    return min(a, b, key=typical)


def _number(value: int) -> Num:
    return Num(value, INT)


def _kind(node: Value) -> str:
    assert node.op is not None and node.op.reduction is not None
    return node.op.reduction
