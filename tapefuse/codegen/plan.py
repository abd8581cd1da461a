"""The launch plan: which kernels run in which order on which memory. Graph -> Plan, from which both emitters print."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.choices import AS_MEASURED, AsMeasured
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.costs import GRAIN
from tapefuse.codegen.loops import HI, LO, Buffer, Builder, Kernel
from tapefuse.codegen.lower import steps
from tapefuse.codegen.memory import Layout, arena, in_place, memory_of, ordered
from tapefuse.codegen.prepare import prepared
from tapefuse.codegen.products import described
from tapefuse.codegen.schedule import Group, Schedule, schedule
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.program import Check, State
from tapefuse.ir.types import Dim, Type, show_shape


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

    def slot(self, place: Place) -> int:
        return self.layout.slot_of[memory_of(place)]


def plan(request: Request) -> Plan:
    graph, arrays = prepared(request.graph)
    outputs, written = request.outputs, request.written
    new_values = graph.outs[outputs : outputs + len(written)]
    states = graph.params[request.inputs : request.inputs + len(request.states)]
    updates = {new: states[k] for new, k in zip(new_values, written, strict=True)}
    decided = schedule(graph, request.choices)
    checks = graph.outs[len(graph.outs) - len(request.checks) :]
    chosen = in_place(decided, updates, checks)
    decided = ordered(decided, chosen, checks, request.memory_budget is not None)
    found = steps(decided, chosen, request.strict)
    found += [_copy(decided, n, s, f"copy{k}") for k, (n, s) in enumerate(updates.items()) if n not in chosen]
    elsewhere = {*graph.params, *graph.outs[:outputs], *chosen}
    pointer_of = {v: k for k, v in enumerate((*graph.params, *graph.outs[:outputs]))}
    after: dict[int, tuple[int, ...]] = {}
    for number, check in enumerate(checks):
        last = max(k for k, s in enumerate(found) if any(memory_of(p).value is check for p in s.written if not p.tag))
        after[last] = (*after.get(last, ()), number)
    constants = (*request.constants, *arrays)
    return Plan(request, graph, constants, decided, tuple(found), arena(found, elsewhere), after, pointer_of)


def _copy(decided: Schedule, new: Value, state: Value, name: str) -> Step:
    """The kernel that stores a state's new value once nothing reads the old one any more."""
    b, type = Builder(), Type(new.dtype, (new.type.size,))
    source, target = Buffer("b0", type), Buffer("b1", type)
    with b.loop(LO, HI) as i:
        b.store(target, (i,), b.load(source, (i,)))
    kernel = Kernel(name, (source, target), (), b.body(), new.type.size, new.type.size, "copy")
    places = (Place(new, new.type), Place(state, state.type))
    return Step(kernel, places, frozenset(places[1:]), 1, decided.group_of[new])


def pieces(step: Step) -> tuple[int, Dim] | int:
    """How many pieces a step is cut into: a number, or (most, cost) if symbols decide: at least 1, at most `most`, else
    cost // GRAIN."""
    if step.chunks == 1:
        return 1
    cost = step.kernel.cost if step.cut is None else step.cut
    return max(1, min(step.chunks, cost // GRAIN)) if isinstance(cost, int) else (step.chunks, cost)


def show_schedule(p: Plan) -> str:
    """The plan for people: each kernel, what it computes, and why it is a kernel of its own."""
    return "\n".join(_schedule_lines(p))


def _schedule_lines(p: Plan) -> Iterator[str]:
    for number, step in enumerate(p.steps):
        g = step.group
        rows = f"rows {'x'.join(map(str, g.row_shape)) or '1'} of {'x'.join(map(str, g.shape)) or '1'}"
        yield f"{step.kernel.name}: {step.kernel.title}  [level {g.level}, {g.kind}, {rows}, cost {step.kernel.cost}]"
        for place in step.places:
            mark = "writes" if place in step.written else "reads"
            value = memory_of(place).value
            kept = p.schedule.why_kept.get(value, "") if value is not None and not place.tag else ""
            because = f"  # kept: {kept}" if kept and place in step.written else ""
            yield f"    {mark} {_where(p, place)} {place.type}{because}"
        if step.kernel.name[1:].isdigit():
            yield from (f"    {line}" for line in described(g))
        if step.kernel.name[1:].isdigit():
            if again := _recomputed(p, g):
                yield f"    computes again what is cheaper than to keep: {', '.join(again)}"
            yield f"    apart from its operands: {g.why}" if g.why else "    its operands are there from the start"
        for check in p.checks_after.get(number, ()):
            yield f"    then checks: {p.request.checks[check].message}"


def _recomputed(p: Plan, group: Group) -> list[str]:
    """Functions that a kernel computes where it reads them, though they are not members of it."""
    found: dict[Value, None] = {}
    stack = [a for n in group.nodes for a in n.args]
    while stack:
        value = stack.pop()
        if value in p.schedule.inline and value not in found:
            found[value] = None
            stack.extend(value.args)
    functions = (v for v in found if v.op is not None and v.op.elementwise)
    return [f"{v.op.name} {show_shape(v.shape)}" for v in sorted(functions, key=lambda v: v.id)]  # type: ignore[union-attr]


def _where(p: Plan, place: Place) -> str:
    if place.tag:
        return place.tag
    index = p.pointer(place)
    if index is None:
        return f"arena slot {p.slot(place)}"
    params = len(p.graph.params)
    if index >= params:
        return f"output {index - params}"
    if index < p.request.inputs:
        return f"input {index}"
    states = p.request.inputs + len(p.request.states)
    return f"state {index - p.request.inputs}" if index < states else f"constant {index - states}"


def show_memory(p: Plan) -> str:
    """The arena for people: each slot, its bytes, and from which to which step it is alive."""
    rows = [f"arena: {p.layout.nbytes} bytes in {len(p.layout.slots)} slots"]
    for place, (first, last) in sorted(p.layout.lifetimes.items(), key=lambda item: item[1]):
        slot = p.layout.slots[p.layout.slot_of[place]]
        offset = "after the previous" if slot.offset is None else str(slot.offset)
        names = f"{p.steps[first].kernel.name}..{p.steps[last].kernel.name}"
        tag = f" {place.tag}" if place.tag else ""
        rows.append(f"  {place.type}{tag}: {slot.nbytes} bytes at {offset}, alive {names}")
    return "\n".join(rows)
