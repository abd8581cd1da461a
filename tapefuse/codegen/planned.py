"""What is compiled, and the plan made of it: which kernels run in which order on which memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.choices import AS_MEASURED, AsMeasured
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.costs import GRAIN
from tapefuse.codegen.groups import Schedule
from tapefuse.codegen.memory import Layout, memory_of
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.program import Check, State
from tapefuse.ir.types import Dim, Type


@dataclass(frozen=True)
class Request:
    """What to compile. `graph.params` are inputs, then states, then constants; `graph.outs` are outputs, then the new
    value of each written state, then one bool per check that is true when the check fails."""

    graph: Graph
    inputs: int
    states: tuple[State, ...] = ()
    constants: tuple[np.ndarray, ...] = ()
    checks: tuple[Check, ...] = ()
    name: str = "program"
    strict: bool = False  # sums in their written order, no fused multiply-add, libm's functions
    memory_budget: int | None = None  # most bytes of outputs and scratch memory
    choices: AsMeasured = AS_MEASURED  # where schedules may differ
    inner: bool = False  # of a region: new values of states that are not written in place are left in their own memory
    ends: Mapping[str, Dim] = field(default_factory=dict)  # what indices of loops around stay below, outermost first
    serial: bool = False  # within a piece of a kernel: what is inside is not cut again

    @property
    def written(self) -> tuple[int, ...]:
        return tuple(k for k, s in enumerate(self.states) if s.written)

    @property
    def outputs(self) -> int:
        return len(self.graph.outs) - len(self.written) - len(self.checks)


@dataclass(frozen=True)
class Plan:
    request: Request
    graph: Graph  # prepared: more constants among its parameters, every output a value of its own
    constants: tuple[np.ndarray, ...]
    schedule: Schedule
    steps: tuple[Step, ...]
    layout: Layout
    checks_after: dict[int, tuple[int, ...]]  # number of a step -> the checks that its results decide
    pointer_of: dict[Value, int]  # parameters and outputs: their place in the program's table of pointers
    in_place: Mapping[Value, Value] = field(default_factory=dict)  # values in the memory of others

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.graph.outs[: self.request.outputs]

    @property
    def pointers(self) -> tuple[Type, ...]:
        """Types of the arrays in the program's table of pointers, the arena left out."""
        return tuple(v.type for v in (*self.graph.params, *self.outputs))

    @property
    def cost(self) -> Dim:
        return sum((s.kernel.cost for s in self.steps), start=0)

    def pointer(self, place: Place) -> int | None:
        """The place's index in the table of pointers, or None if it lies in the arena."""
        return None if place.tag or place.value is None else self.pointer_of.get(place.value)

    def launches(self, number: int) -> int:
        """How many entries a step has in the launcher's table: one for each flag that may end the program after it."""
        flags = 2 * (self.steps[number].status is not None) + len(self.checks_after.get(number, ()))
        return max(flags, 1)

    def slot(self, place: Place) -> int:
        return self.layout.slot_of[memory_of(place)]


def pieces(step: Step) -> tuple[int, Dim] | int:
    """How many pieces a step is cut into: a number, or (most, cost) if symbols decide: at least 1, at most `most`, else
    cost // GRAIN; a number is rounded up to a power of two, so that 2 or 4 threads have the same to do each."""
    if step.chunks == 1:
        return 1
    cost = step.kernel.cost if step.cut is None else step.cut
    if not isinstance(cost, int):
        return step.chunks, cost
    return min(step.chunks, 1 << max(cost // GRAIN - 1, 0).bit_length())
