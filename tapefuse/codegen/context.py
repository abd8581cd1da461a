"""What the lowerings of all kinds of groups share: a kernel under construction, and the step of the plan it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tapefuse._records import dataclass
from tapefuse.codegen.builder import Builder
from tapefuse.codegen.groups import Group, Schedule
from tapefuse.codegen.guards import guarded
from tapefuse.codegen.loops import Buffer, Kernel, Scalar
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Type, symbols


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
    cut: Dim | None = None  # what is cut into grains, if it is not the cost
    status: Place | None = None  # bool[2]: whether a region was told to stop, whether it found no memory
    inside: tuple[tuple[str, Any], ...] = ()  # of a region: its graphs' plans (`plan.Plan`), and what they are


class Context:
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

    def load(self, value: Value, index: Iterable[Scalar]) -> Scalar:
        """An element of a value in memory."""
        buffer = self.buffer(self.place(value))
        return self.b.load(buffer, guarded(self.b, tuple(index)))

    def store(self, place: Place, index: Iterable[Scalar], value: Scalar) -> None:
        self.written.add(place)
        self.b.store(self.buffer(place), tuple(index), value)

    def step(self, name: str, rows: Dim, cost: Dim, chunks: int = 1, rows_of: str = "", cut: Dim | None = None) -> Step:
        title = ", ".join(dict.fromkeys(n.op.name for n in self.group.nodes if n.op))
        body = self.b.body()
        used = self.b.symbols | symbols(d for buf in self.buffers.values() for d in buf.type.shape[1:])
        kernel = Kernel(name, tuple(self.buffers.values()), tuple(sorted(used)), body, rows, cost, title[:100])
        return Step(kernel, tuple(self.buffers), frozenset(self.written), chunks, self.group, rows_of, cut=cut)
