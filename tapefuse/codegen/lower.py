"""One group of values as one kernel of loop IR: Schedule -> [Step].

Inside a row, work is cut into phases: what needs a finished reduction over the row comes one phase later. Each phase
has one loop per column shape. Values are pulled: computed where they are first needed, remembered for the scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, ZERO, Buffer, Builder, Gemm, Kernel, Num, Scalar, Var, identity
from tapefuse.codegen.schedule import Group, Schedule, domain, folded, is_row_reduction, is_sink, weight
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Poly, Shape, Type, size, symbols

KEEP_WEIGHT = 6  # values at least this expensive are kept for the next phase instead of being computed again
CHUNKS = 16  # most pieces a kernel is cut into; fixed, so that results do not depend on the number of threads
WIDE = 128  # columns from which a product of unknown height is cut by columns
PRODUCT_CHUNKS = 4  # fewer for library products: each piece packs its operands anew
# costs in 1/64 ns: an instruction for one element of a vector loop, an element to or from memory, a term of a product
INSTRUCTION, TRANSFER, MULTIPLY_ADD = 1, 4, 1
GRAIN = 16_000 * 64  # cost of the smallest piece worth a thread: 16 us


@dataclass(frozen=True)
class Place:
    """An array the program handles: the memory of `value`, or scratch memory (`value` None) of one kernel."""

    value: Value | None
    type: Type
    tag: str = ""


@dataclass(frozen=True)
class Step:
    """One kernel of the launch plan, and the places its buffers stand for, in order.

    It runs in `chunks` pieces at most, as many as its cost is grains. `rows_of`: the kernel whose number of pieces is
    this one's number of rows (it adds up their partial results). `bindings`: what symbols of the kernel stand for, so
    that kernels which differ in them only are the same code.
    """

    kernel: Kernel
    places: tuple[Place, ...]
    written: frozenset[Place]
    chunks: int
    group: Group
    rows_of: str = ""
    bindings: tuple[tuple[str, Dim], ...] = ()


def steps(plan: Schedule, in_place: Mapping[Value, Value], strict: bool = False) -> list[Step]:
    """The groups as kernels, in order. `in_place`: kept values whose memory is a parameter's. `strict`: sums keep the
    order of their terms, so they are not cut into pieces."""
    return [
        step
        for number, group in enumerate(plan.groups)
        for step in _KINDS[group.kind](plan, group, in_place, strict).build(f"k{number}")
    ]


class _Context:
    """What the kernel under construction knows: its buffers and how to pull values."""

    def __init__(self, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False):
        self.plan, self.group, self.in_place, self.strict, self.b = plan, group, in_place, strict, Builder()
        self.buffers: dict[Place, Buffer] = {}
        self.written: set[Place] = set()
        self.flat = False

    def buffer(self, place: Place) -> Buffer:
        if place not in self.buffers:
            type = Type(place.type.dtype, (place.type.size,)) if self.flat and place.type.shape else place.type
            self.buffers[place] = Buffer(f"b{len(self.buffers)}", type)
        return self.buffers[place]

    def place(self, value: Value) -> Place:
        """The memory `value` is read from or written to; a reshape's is that of what it reshapes."""
        base = self.plan.base(value)
        return Place(self.in_place.get(base, base), value.type)

    def store(self, place: Place, index: Iterable[Scalar], value: Scalar) -> None:
        self.written.add(place)
        self.b.store(self.buffer(place), tuple(index), value)

    def step(self, name: str, rows: Dim, cost: Dim, chunks: int = 1, rows_of: str = "") -> Step:
        title = ", ".join(dict.fromkeys(n.op.name for n in self.group.nodes if n.op))
        body = self.b.body()
        used = self.b.symbols | symbols(d for buf in self.buffers.values() for d in buf.type.shape[1:])
        kernel = Kernel(name, tuple(self.buffers.values()), tuple(sorted(used)), body, rows, cost, title[:100])
        return Step(kernel, tuple(self.buffers), frozenset(self.written), chunks, self.group, rows_of)


# -- nests of rows ---------------------------------------------------------------------------------
class _Rows(_Context):
    def __init__(self, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False):
        super().__init__(plan, group, in_place, strict)
        self.members = set(group.nodes)
        self.reads = {n: tuple({a.value: None for a in plan.reads[n] if a.value in self.members}) for n in group.nodes}
        self.flat = self._is_flat()
        if group.rows is None:
            rank = len(group.shape)
            group.rows = min(rank, 1) if self.flat else min(max(rank - 1, min(rank, 1)), group.limit)
        self.r: int = group.rows
        self.is_elementwise_row = self.flat or len(group.shape) == group.rows
        self.rows: Shape = (size(group.shape),) if self.flat else group.shape[: self.r]
        self.phase = self._phases()
        self.needed = self._needed()
        self.scratch: set[Value] = set()
        self.stored: set[Value] = set()
        self.cost = self._cost()
        small = isinstance(self.cost, int) and self.cost < 2 * GRAIN
        in_order = strict and any(is_sink(n) for n in group.nodes)
        self.chunks = 1 if small or in_order else CHUNKS
        self.overwritten = [in_place[n] for n in group.nodes if n in in_place]

    def _cost(self) -> Dim:
        total: Dim = 0
        for n in self.needed:
            each = INSTRUCTION * weight(n) * max(n.dtype.itemsize // 4, 1) + TRANSFER * (n in self.plan.kept)
            total = total + size(domain(n)) * each
        memory = {a.value for n in self.needed for a in self.plan.reads[n] if a.value not in self.members}
        return total + sum((TRANSFER * v.type.size for v in memory), start=0)

    def _is_flat(self) -> bool:
        """Whether all loops may be one loop over all elements: everything is read at the reader's own index."""
        shape = self.group.shape
        if self.group.rows is not None or any(is_sink(n) and n.shape for n in self.group.nodes):
            return False
        return len(shape) > 0 and all(self._is_flat_read(n) for n in self.group.nodes)

    def _is_flat_read(self, node: Value) -> bool:
        shape, stack = self.group.shape, [*node.args]
        if not (node.op.elementwise or is_sink(node)):  # type: ignore[union-attr]
            return False
        while stack:
            v = stack.pop()
            if v.type.size == 1 and v.op is not None and v in self.plan.inline and v.op.name in ("const", "dim"):
                continue
            if v in self.plan.inline:
                assert v.op is not None
                scalar = v.op.name == "broadcast" and v.args[0].shape == ()
                if not (scalar or v.op.elementwise and v.shape in (shape, ())):
                    return False
                stack.extend(v.args)
            elif v.shape not in (shape, ()):
                return False
        return True

    def _phases(self) -> dict[Value, int]:
        phase: dict[Value, int] = {}
        for n in self.group.nodes:
            phase[n] = max((phase[m] + is_row_reduction(m) for m in self.reads[n]), default=0)
        return phase

    def _needed(self) -> set[Value]:
        needed: set[Value] = set()
        for n in reversed(self.group.nodes):
            if n in self.plan.kept or n in needed:
                needed.add(n)
                needed.update(self.reads[n])
        return needed

    def is_row_scalar(self, node: Value) -> bool:
        """One value a row: its shape is the rows' (a reduction's result, or computed from such)."""
        return (self.flat or len(node.shape) == self.r) and not is_sink(node)

    def columns(self, node: Value) -> Shape:
        return () if self.flat else domain(node)[self.r :]

    # -- pulling -----------------------------------------------------------------------------------
    def operand(self, value: Value) -> Operand:
        shape = None
        if self.flat:
            shape = () if value.shape == () else self.rows
        return Operand(value, lambda index: self.pull(value, index), shape)

    def pull(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        """The element of `value` at `index`: remembered, loaded, or computed."""
        if (known := self.b.known((value, index))) is not None:
            return known
        return self.b.remember((value, index), self._fetch(value, index))

    def _fetch(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        if value in self.scratch:
            return self.b.load(self.buffer(self._scratch_place(value)), (CHUNK, *index[self.r :]))
        if value in self.stored or value not in self.members and value not in self.plan.inline:
            return self.b.load(self.buffer(self.place(value)), index)
        return at(self.b, value, index, self.operand)

    def _scratch_place(self, value: Value) -> Place:
        return Place(value, Type(value.dtype, (CHUNKS, *value.shape[self.r :])), "scratch")

    # -- the nest ----------------------------------------------------------------------------------
    def build(self, name: str) -> list[Step]:
        b = self.b
        accumulators = {n: self._declare(n) for n in self.group.nodes if is_sink(n)}
        with ExitStack() as nest:
            row: tuple[Scalar, ...] = ()
            if self.rows:
                row = (nest.enter_context(b.loop(LO, HI)),)
                row += nest.enter_context(b.loops(self.rows[1:]))
            for phase in range(1 + max(self.phase.values(), default=0)):
                self._phase(phase, row, accumulators)
        for node, acc in accumulators.items():
            if acc is not None:
                self.store(self._sink_place(node), self._chunk, b.read(acc))
        rows = self.rows[0] if self.rows else 1
        main = self.step(name, rows, self.cost, self.chunks)
        if self.chunks == 1:
            return [main]
        return [main, *(self._total(f"{name}_total{k}", n, name) for k, n in enumerate(accumulators))]

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

    def _phase(self, phase: int, row: tuple[Scalar, ...], accumulators: dict[Value, Var | None]) -> None:
        nodes = [n for n in self.group.nodes if self.phase[n] == phase and n in self.needed]
        if self.is_elementwise_row:
            self._load_overwritten(row)
        for n in nodes:
            if self.is_row_scalar(n) and not is_row_reduction(n):
                self._finish(n, row, self.pull(n, row))
        for n in nodes:
            if is_sink(n) and not self.columns(n):
                self._accumulate(n, accumulators[n], row)
        vectors = [n for n in nodes if not self.is_row_scalar(n) or is_row_reduction(n)]
        vectors = [n for n in vectors if not (is_sink(n) and not self.columns(n)) and self._wanted(n, phase)]
        for columns in dict.fromkeys(map(self.columns, vectors)):
            self._loop([n for n in vectors if self.columns(n) == columns], columns, row, accumulators)
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
            self.store(self.place(node), row, value)

    def _wanted(self, node: Value, phase: int) -> bool:
        """Whether a vector is computed for its own sake in its phase: stored, reduced, or kept for a later phase."""
        if node in self.plan.kept or is_row_reduction(node) or is_sink(node):
            return True
        if weight(node) < KEEP_WEIGHT:
            return False
        return any(self.phase[r] > phase for r in self.group.nodes if node in self.reads[r] and r in self.needed)

    def _loop(self, nodes: list[Value], columns: Shape, row, accumulators: dict[Value, Var | None]) -> None:
        """One loop over the columns for all reductions and stored vectors of a phase."""
        b = self.b
        totals = {n: b.declare(_kind(n), n.dtype) for n in nodes if is_row_reduction(n)}
        with b.loops(columns) as column:
            index = (*row, *column)
            self._load_overwritten(index)
            for n in self._order(nodes, columns):
                if is_row_reduction(n) or is_sink(n):
                    self._accumulate(n, totals.get(n, accumulators.get(n)), index)
                elif n in nodes:
                    value = self.pull(n, index)
                    place = self.place(n) if n in self.plan.kept else self._scratch_place(n)
                    self.store(place, index if n in self.plan.kept else (CHUNK, *column), value)
                else:
                    self.pull(n, index)
        for n, acc in totals.items():
            b.remember((n, row), b.read(acc))
        for n in nodes:
            if n in self.plan.kept and not is_sink(n) and not is_row_reduction(n):
                self.stored.add(n)
            elif not is_sink(n) and not is_row_reduction(n):
                self.scratch.add(n)

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

    def _accumulate(self, node: Value, acc: Var | None, index: tuple[Scalar, ...]) -> None:
        kind = _kind(node)
        value = self.pull(node.args[0], index)
        if acc is not None:
            return self.b.update(acc, kind, value)
        place = self._sink_place(node)
        at = (*self._chunk, *index[len(node.attributes["axes"]) :])
        self.store(place, at, self.b.op(kind, self.b.reload(self.buffer(place), at), value))


def _kind(node: Value) -> str:
    assert node.op is not None and node.op.reduction is not None
    return node.op.reduction


# -- library products --------------------------------------------------------------------------------
class _Product(_Context):
    """A matrix product, batched over leading axes; cut along the batch, or the longer side of a single matrix."""

    def build(self, name: str) -> list[Step]:
        (node,) = self.group.nodes
        (a, ta), (c, tc) = map(folded, node.args)
        *lead, m, n = node.shape
        k = node.args[0].shape[-1]
        cost = size(node.shape) * k * MULTIPLY_ADD
        split = "n" if isinstance(n, int) and (n > m if isinstance(m, int) else n >= WIDE) else "m"
        if lead:
            with self.b.loop(LO, HI) as first, self.b.loops(lead[1:]) as rest:
                self._gemm(node, a, c, (first, *rest), ta, tc, ZERO, self.b.dim(m), "m")
            rows = lead[0]
        else:
            self._gemm(node, a, c, (), ta, tc, LO, HI, split)
            rows = m if split == "m" else n
        small = isinstance(cost, int) and cost < 2 * GRAIN
        return [self.step(name, rows, cost, 1 if small else PRODUCT_CHUNKS)]

    def _gemm(self, node: Value, a: Value, c: Value, lead, ta: bool, tc: bool, start, stop, split: str) -> None:
        b, (m, n), k = self.b, node.shape[-2:], node.args[0].shape[-1]
        self.written.add(self.place(node))
        buffers = [self.buffer(self.place(v)) for v in (a, c, node)]
        at_a, at_c = (_aligned(lead, v.shape[:-2]) for v in (a, c))
        sizes = (b.dim(m), b.dim(n), b.dim(k))
        left, right, result = buffers
        b.append(Gemm(left, right, result, at_a, at_c, tuple(lead), ta, tc, *sizes, start, stop, split))


def _aligned(index, shape: Shape) -> tuple[Scalar, ...]:
    tail = index[len(index) - len(shape) :]
    return tuple(Num(0, INT) if n == 1 else i for i, n in zip(tail, shape, strict=True))


# -- scatters ----------------------------------------------------------------------------------------
class _Scatter(_Context):
    """Zeros, then each source element added at its target: one thread, since targets may repeat."""

    def build(self, name: str) -> list[Step]:
        (node,), b = self.group.nodes, self.b
        assert node.op is not None and node.op.push is not None
        place = self.place(node)
        with b.loops(node.shape) as i:
            self.store(place, i, b.number(0, node.dtype))
        with b.loops(node.args[0].shape) as j:
            where, value = node.op.push(b, j, *map(self.operand, node.args), **node.attributes)
            old = b.reload(self.buffer(place), where)
            self.store(place, where, b.op("add", old, value))
        cost = TRANSFER * (node.type.size + 8 * node.args[0].type.size)
        return [self.step(name, 1, cost)]

    def operand(self, value: Value) -> Operand:
        return Operand(value, lambda index: self._pull(value, index))

    def _pull(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        if value in self.plan.inline:
            return at(self.b, value, index, self.operand)
        return self.b.load(self.buffer(self.place(value)), index)


_KINDS: dict[str, type[_Rows] | type[_Product] | type[_Scatter]] = {
    "rows": _Rows,
    "gemm": _Product,
    "scatter": _Scatter,
}
