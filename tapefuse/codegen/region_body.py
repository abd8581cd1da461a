"""What all regions share: the memory of their operands and results, and the plans of the graphs inside them, whose
kernels are copied into the region's kernel, or launched from it where they take long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.bounds import bound
from tapefuse.codegen.code import Array, Cell, Code, Storage
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.costs import CALLED, COPIED, GRAIN, POLL, typical
from tapefuse.codegen.groups import Group, Schedule
from tapefuse.codegen.inlining import inline, needs_memory
from tapefuse.codegen.jamming import jammed
from tapefuse.codegen.joining import joined
from tapefuse.codegen.loops import (
    CHUNK,
    HI,
    INT,
    LO,
    ZERO,
    Allocate,
    Buffer,
    For,
    Kernel,
    Launch,
    Num,
    Poll,
    Scalar,
    Stmt,
    Store,
    Var,
    bodies,
    dimension,
)
from tapefuse.codegen.memory import memory_of
from tapefuse.codegen.planned import Plan, Request, pieces
from tapefuse.codegen.reach import Reach, reaches
from tapefuse.codegen.splitting import split
from tapefuse.codegen.sweeps import swept
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.program import State
from tapefuse.ir.types import Dim, Poly, Type, symbols

BYTE, BOOL = np.dtype(np.uint8), np.dtype(bool)
MOST_BYTES = 1 << 62  # which no machine has
Planned = Callable[[Request], Plan]
Memory = dict[Value, Storage]


class Body(Context, ABC):
    """One region and its results. `planned` makes the plan of a graph inside."""

    def __init__(
        self, planned: Planned, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False
    ):
        super().__init__(plan, group, in_place, strict)
        self.planned, self.code = planned, Code(strict)
        self.token = group.nodes[0]
        self.args, self.attributes = self.token.args, self.token.attributes
        self.results = {n.attributes["index"]: n for n in group.nodes[1:]}
        self.name = ""
        self.status: Place | None = None
        self.inside: list[tuple[str, Plan]] = []
        self.own: dict[int, dict[Place, Storage]] = {}  # what plans keep to themselves, by the plan's id
        self.counts: dict[int, dict[str, Scalar]] = {}  # into how many pieces kernels are cut, by the plan's id
        self.reaches: dict[str, Mapping[Buffer, Reach]] = {}  # of the kernels that are launched, by name
        self.allocated: list[Buffer] = []
        self.cost: Dim = 0
        self.tags = 0

    def build(self, name: str) -> list[Step]:
        self.name = name
        self.write()
        body = swept(self.code.body(), self.code, self.reaches, self.plan.choices.decide)
        used = self.code.symbols | symbols(d for buf in self.buffers.values() for d in buf.type.shape[1:])
        free = tuple(sorted(used - self.code.defined))
        title = self.token.op.name if self.token.op is not None else ""
        kernel = Kernel(name, tuple(self.buffers.values()), free, body, 1, self.cost, title)
        written, inside = frozenset(self.written), tuple(self.inside)
        return [Step(kernel, tuple(self.buffers), written, 1, self.group, status=self.status, inside=inside)]

    @property
    def is_serial(self) -> bool:
        """Whether kernels inside are not cut into pieces."""
        return self.plan.serial

    @abstractmethod
    def write(self) -> None:
        """Append the region's statements, and set its cost."""

    # -- memory ----------------------------------------------------------------------------------------
    def operand(self, value: Value) -> Storage:
        """What a region reads."""
        if value in self.plan.inline:
            return Cell(value.type, at(self.code, value, (ZERO,) * len(value.shape), _no_operand))
        return Array(self.buffer(self.place(value)))

    def given(self, value: Value, in_memory: bool) -> Storage:
        """An operand; a single element is read before the region begins."""
        storage = self.operand(value)
        if isinstance(storage, Array) and value.type.size == 1 and not in_memory:
            return Cell(value.type, self.code.value(storage))
        if isinstance(storage, Cell) and (in_memory or value.type.size != 1):
            array = self.typed(self.scratch(value.type.nbytes, "literal"), value.type)
            self.code.copy(array, storage)
            return array
        return storage

    def result(self, number: int) -> Array | None:
        """The memory of a result that somebody reads."""
        node = self.results.get(number)
        if node is None:
            return None
        place = self.place(node)
        self.written.add(place)
        return Array(self.buffer(place))

    def scratch(self, nbytes: Dim, kind: str) -> Array:
        """Memory of the region's own."""
        self.tags += 1
        place = Place(None, Type(BYTE, (nbytes,)), f"{self.name} {kind} {self.tags}")
        self.written.add(place)
        return Array(self.buffer(place))

    def room(self, nbytes: Dim, kind: str) -> Array:
        """Memory for something inside: the region's own, or allocated where only the region knows its size."""
        if "index" in self.attributes:
            nbytes = bound(nbytes, self.attributes["index"], self.attributes["trips"])
        if self.attributes.get("symbol") not in symbols([nbytes]):
            return self.scratch(nbytes, kind)
        buffer = self.code.buffer(Type(BYTE, (nbytes,)))
        self.code.append(Allocate(buffer, self._size(nbytes), self.own_status()))
        self.allocated.append(buffer)
        return self.code.made(buffer)

    def _size(self, nbytes: Dim) -> Scalar:
        """Bytes to allocate; where the product of sizes is no i64, more than there can be."""
        code, double, terms = self.code, np.dtype(np.float64), nbytes.terms if isinstance(nbytes, Poly) else ()
        about: Scalar = Num(0.0, double)
        for mono, coef in terms:
            term: Scalar = Num(float(coef), double)
            for symbol in mono:
                term = code.op("mul", term, code.cast(code.symbol(symbol), double))
            about = code.op("add", about, term)
        fits = code.op("lt", about, Num(float(MOST_BYTES), double))
        return code.op("select", fits, code.dim(nbytes), Num(MOST_BYTES, INT))

    def typed(self, array: Array, type: Type) -> Array:
        return Array(self.code.view(array, type), array.depth)

    def own_status(self) -> Buffer:
        if self.status is None:
            self.status = Place(None, Type(BOOL, (2,)), f"{self.name} status")
            self.written.add(self.status)
            for k in range(2):
                self.code.first(Store(self.buffer(self.status), (Num(k, INT),), Num(False, BOOL)))
        return self.buffer(self.status)

    # -- plans of graphs inside ------------------------------------------------------------------------
    def inner(self, title: str, graph: Graph, inputs: int, states: Sequence[Type] = ()) -> Plan:
        """The plan of a graph whose parameters are inputs, then states that its last outputs are the new values of."""
        written = tuple(State(t, True) for t in states)
        ends = dict(self.plan.ends)
        if "index" in self.attributes:
            ends[self.attributes["index"]] = self.attributes["trips"]
        request = Request(graph, inputs, written, name=title, strict=self.strict, inner=True, ends=ends)
        p = self.planned(replace(request, serial=self.is_serial))
        self.inside.append((title, p))
        return p

    def give_memory(self, p: Plan, once: Sequence[Step] = ()) -> None:
        """Memory for what a plan keeps to itself: outside of the loops around it. `once`: steps that run before those
        loops, so that nothing else may use the memory of their results."""
        addressed, slots = in_memory(p), dict[int, Array]()
        found: dict[Place, Storage] = {}
        kept = {memory_of(place) for step in once for place in step.written}
        for place, slot in p.layout.slot_of.items():
            if place.type.size == 1 and _key(place) not in addressed:
                found[place] = Cell(place.type)
                continue
            if place in kept:
                found[place] = self.room(place.type.nbytes, "kept")
                continue
            if slot not in slots:
                slots[slot] = self.room(p.layout.slots[slot].nbytes, "slot")
            found[place] = slots[slot]
        self.own[id(p)] = found

    def run(self, p: Plan, steps: Sequence[Step], memory: Mapping[Value, Storage]) -> None:
        """Steps of a plan. `memory`: of its parameters and of what is in no slot of its own."""
        counts = self.counts.setdefault(id(p), {})
        own = self.own[id(p)]
        launched = {step.kernel.name for step in steps if is_launched(step)}
        for step in joined([_split(step) for step in steps], partial(_memory, p), launched):
            storages = [own[q] if q in own else memory[q.value] for q in map(memory_of, step.places)]  # type: ignore[index]
            self._step(p, step, storages, counts, step.kernel.name in launched)

    def _step(
        self, p: Plan, step: Step, storages: list[Storage], counts: dict[str, Scalar], is_function: bool
    ) -> None:
        """`is_function`: whether its kernel is launched; what `is_launched` says of the plan's own step, as memory was
        given by that (`give_memory`), not of one that splitting and joining made longer."""
        code, dims = self.code, dict(step.bindings)
        kernel, cut = step.kernel, pieces(step)
        if is_function and (found := reaches(kernel)) is not None:
            self.reaches[f"{self._prefix(p)}_{kernel.name}"] = found
        count: Scalar = Num(cut, INT) if isinstance(cut, int) else self._pieces(*cut)
        rows = counts[step.rows_of] if step.rows_of else code.dim(kernel.rows)
        counts[kernel.name] = count
        question = f"{self.name} {kernel.name} side by side"
        if step.group.kind == "rows" and self.plan.choices.decide(question, is_function):
            kernel = replace(kernel, body=jammed(kernel.body))
            step = replace(step, kernel=kernel)
        if is_function:
            return self._launch(p, step, storages, rows, count)
        names: dict[Var, Scalar] = {LO: ZERO, HI: rows, CHUNK: ZERO}
        names |= {dimension(s): code.dim(d) for s, d in dims.items()}
        if step.status is not None:
            storages[step.places.index(step.status)] = Array(self.own_status())
        status = self.own_status() if step.status is not None else None
        inline(code, kernel, storages, names, dims, self._prefix(p), status)

    def _prefix(self, p: Plan) -> str:
        return f"{self.name}_{p.request.name.replace(' ', '')}"

    def _launch(self, p: Plan, step: Step, storages: Sequence[Storage], rows: Scalar, count: Scalar) -> None:
        code, k, dims = self.code, step.kernel, dict(step.bindings)
        arrays = []
        for storage, buffer in zip(storages, k.buffers, strict=True):
            assert isinstance(storage, Array)
            arrays.append(code.view(storage, buffer.type.substitute(dims)))
        sizes = tuple(code.dim(dims.get(s, Poly.symbol(s))) for s in k.symbols)
        code.append(Launch(replace(k, name=f"{self._prefix(p)}_{k.name}"), tuple(arrays), sizes, rows, count))

    def _pieces(self, most: int, cost: Dim) -> Scalar:
        op = self.code.op
        grains = op("floordiv", self.code.dim(cost), Num(GRAIN, INT))
        return op("maximum", Num(1, INT), op("minimum", Num(most, INT), grains))

    # -- interrupts ------------------------------------------------------------------------------------
    def poll(self) -> None:
        """Ask whether to stop."""
        self.code.append(Poll(self.own_status()))


def unwatched(cost: Dim) -> int:
    """How many iterations may pass between two looks at whether to stop; `cost`: of one."""
    each, every = max(typical(cost), 1), 1
    while every * each < POLL:
        every *= 2
    return every


def in_memory(p: Plan) -> set[Value | Place]:
    """Arrays of one element that must lie in memory all the same, because something takes their address."""
    found: set[Value | Place] = set()
    for step in p.steps:
        taken = set(step.kernel.buffers) if is_launched(step) else set(needs_memory(step.kernel.body))
        pairs = zip(step.kernel.buffers, step.places, strict=True)
        found.update(_key(place) for buffer, place in pairs if buffer in taken)
    return found


def _memory(p: Plan, place: Place) -> int | Value | None:
    """Which memory a place of a plan is: a slot of its arena, or what a value lies in."""
    q = memory_of(place)
    return p.layout.slot_of[q] if q in p.layout.slot_of else p.in_place.get(q.value, q.value) if q.value else None


def _split(step: Step) -> Step:
    """The step with its loops cut (`splitting`); that over all rows too, if they are no pieces."""
    if step.group.kind == "region":
        return step
    kernel, rows = step.kernel, step.kernel.rows
    body = kernel.body
    if isinstance(rows, int) and pieces(step) == 1 and not step.rows_of:
        body = tuple(
            replace(s, start=ZERO, stop=Num(rows, INT)) if isinstance(s, For) and (s.start, s.stop) == (LO, HI) else s
            for s in body
        )
    return replace(step, kernel=replace(kernel, body=split(body, rows)))


def constant_steps(p: Plan, constants: Collection[Value], index: str | None) -> list[Step]:
    """Steps of a loop's body that do the same in all iterations: they read `constants` and each other's results."""
    writers: dict[Place, list[Step]] = {}
    for step in p.steps:
        for place in step.written:
            writers.setdefault(memory_of(place), []).append(step)
    found = [s for s in p.steps if s.group.kind != "region" and index not in symbols_of(s)]

    def is_constant(place: Place, steps: Sequence[Step]) -> bool:
        where = memory_of(place)
        if where in p.layout.slot_of:
            return all(any(w is s for s in steps) for w in writers.get(where, ()))
        return where.value in constants and where not in writers

    while True:
        fewer = [s for s in found if all(is_constant(place, found) for place in s.places)]
        if len(fewer) == len(found):
            return found
        found = fewer


def symbols_of(step: Step) -> frozenset[str]:
    """The dimension symbols that a step depends on."""
    dims = [d for place in step.places for d in place.type.shape]
    dims += [step.kernel.rows, step.kernel.cost, *(d for _, d in step.bindings)]
    return symbols(dims) | {*step.kernel.symbols}


def is_launched(step: Step) -> bool:
    """Whether a step of a plan inside is a kernel of its own, because it is cut into pieces, long, or large."""
    if step.group.kind == "region":
        return False
    if pieces(step) != 1 or step.rows_of:
        return True
    return typical(step.kernel.cost) >= CALLED or _statements(step.kernel.body) > COPIED


def _statements(body: Sequence[Stmt]) -> int:
    return len(body) + sum(_statements(inner) for s in body for inner in bodies(s))


def _key(place: Place) -> Value | Place:
    return place if place.tag or place.value is None else place.value


def _no_operand(value: Value) -> Operand:
    raise AssertionError("a literal has no operands")
