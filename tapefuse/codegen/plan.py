"""The launch plan: which kernels run in which order on which memory. Graph -> Plan, from which both emitters print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tapefuse.codegen.builder import Builder
from tapefuse.codegen.carried import is_renewed
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.groups import Group, Schedule, is_memory
from tapefuse.codegen.loops import HI, LO, Buffer, Kernel
from tapefuse.codegen.lower import steps
from tapefuse.codegen.memory import arena, in_place, memory_of, ordered, unwritten
from tapefuse.codegen.planned import Plan, Request, pieces
from tapefuse.codegen.prepare import prepared
from tapefuse.codegen.products import described
from tapefuse.codegen.regions import lowering
from tapefuse.codegen.schedule import schedule
from tapefuse.codegen.whole import before_writing
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Type, show_shape

__all__ = ["Plan", "Request", "pieces", "plan", "show_memory", "show_schedule"]


def plan(request: Request) -> Plan:
    graph, arrays = prepared(request.graph)
    outputs, written = request.outputs, request.written
    new_values = graph.outs[outputs : outputs + len(written)]
    states = graph.params[request.inputs : request.inputs + len(request.states)]
    updates = {new: states[k] for new, k in zip(new_values, written, strict=True)}
    renewed = [s for n, s in updates.items() if request.inner and is_renewed(n)]
    fixed = frozenset(graph.params).difference(updates.values()).union(renewed)
    decided = replace(schedule(graph, request.choices, fixed), ends=request.ends, serial=request.serial)
    checks = graph.outs[len(graph.outs) - len(request.checks) :]
    frugal = request.memory_budget is not None
    first = frozenset() if request.inner or not updates else before_writing(decided, updates.values(), frugal)
    chosen = in_place(decided, updates, checks, first)
    decided = ordered(decided, chosen, checks, frugal, first)
    moved = {n: s for n, s in updates.items() if n not in chosen}
    found = steps(decided, chosen, request.strict, partial(lowering, plan))
    if request.serial:
        found = [replace(step, chunks=1) for step in found]
    if not request.inner:
        found += [_copy(decided, n, s, f"copy{k}") for k, (n, s) in enumerate(moved.items())]
    for mistake in unwritten(found, {*graph.params, *filter(is_memory, graph.nodes)}):
        raise AssertionError(mistake)
    elsewhere = {*graph.params, *graph.outs[:outputs], *chosen, *(moved if request.inner else ())}
    pointer_of = {v: k for k, v in enumerate((*graph.params, *graph.outs[:outputs]))}
    after: dict[int, tuple[int, ...]] = {}
    for number, check in enumerate(checks):
        last = max(k for k, s in enumerate(found) if any(memory_of(p).value is check for p in s.written if not p.tag))
        after[last] = (*after.get(last, ()), number)
    constants = (*request.constants, *arrays)
    return Plan(request, graph, constants, decided, tuple(found), arena(found, elsewhere), after, pointer_of, chosen)


def _copy(decided: Schedule, new: Value, state: Value, name: str) -> Step:
    """The kernel that stores a state's new value once nothing reads the old one any more."""
    b, type = Builder(), Type(new.dtype, (new.type.size,))
    source, target = Buffer("b0", type), Buffer("b1", type)
    with b.loop(LO, HI) as i:
        b.store(target, (i,), b.load(source, (i,)))
    kernel = Kernel(name, (source, target), (), b.body(), new.type.size, new.type.size, "copy")
    places = (Place(new, new.type), Place(state, state.type))
    return Step(kernel, places, frozenset(places[1:]), 1, decided.group_of[new])


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
        for title, inner in step.inside:
            yield f"    {title}:"
            yield from (f"        {line}" for line in _schedule_lines(inner))


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
        slot = p.layout.slot_of.get(memory_of(place))
        return "what is carried on" if slot is None else f"arena slot {slot}"
    params = len(p.graph.params)
    if index >= params:
        return f"output {index - params}"
    if index < p.request.inputs:
        return f"input {index}"
    states = p.request.inputs + len(p.request.states)
    return f"state {index - p.request.inputs}" if index < states else f"constant {index - states}"


def show_memory(p: Plan) -> str:
    """The arena for people: each slot, its bytes, and from which to which step it is alive; those of plans inside
    regions are parts of it, or registers."""
    return "\n".join(_memory_lines(p))


def _memory_lines(p: Plan) -> Iterator[str]:
    yield f"arena: {p.layout.nbytes} bytes in {len(p.layout.slots)} slots"
    for place, (first, last) in sorted(p.layout.lifetimes.items(), key=lambda item: item[1]):
        slot = p.layout.slots[p.layout.slot_of[place]]
        offset = "after the previous" if slot.offset is None else str(slot.offset)
        names = f"{p.steps[first].kernel.name}..{p.steps[last].kernel.name}"
        tag = f" {place.tag}" if place.tag else ""
        yield f"  {place.type}{tag}: {slot.nbytes} bytes at {offset}, alive {names}"
    for step in p.steps:
        for title, inner in step.inside:
            yield f"{step.kernel.name}, {title}:"
            yield from (f"    {line}" for line in _memory_lines(inner))
