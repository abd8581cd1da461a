"""Where every array lives: updates of state in place where that is legal, everything else in one arena by lifetimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tapefuse.codegen.lower import Place, Step
from tapefuse.codegen.schedule import Group, Schedule, is_row_reduction
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim

ALIGN = 64


# -- state in place ----------------------------------------------------------------------------------
def in_place(plan: Schedule, updates: Mapping[Value, Value]) -> dict[Value, Value]:
    """Which new values may overwrite their state's old value (`updates`: new value -> parameter) as they are computed.

    The old value must be read by earlier kernels only, or at the very element that is overwritten.
    """
    readers: dict[Value, set[Group]] = {s: set() for s in updates.values()}
    for node, group in plan.group_of.items():
        for base in whole_reads(plan, node):
            if base in readers:
                readers[base].add(group)
    chosen = {n: s for n, s in updates.items() if _overwrites_own_element(plan, n, s)}
    late = _dependents(plan, {plan.group_of[n] for n in chosen})
    rank = {g: k for k, g in enumerate(plan.groups)}
    return {
        n: s
        for n, s in chosen.items()
        if all(g is plan.group_of[n] or g not in late or rank[g] < rank[plan.group_of[n]] for g in readers[s])
    }


def whole_reads(plan: Schedule, node: Value) -> set[Value]:
    """Everything in memory that computing a grouped value reads, by the value whose memory it is."""
    found, stack = set(), [a.value for a in plan.reads[node]]
    while stack:
        value = stack.pop()
        if value in plan.inline:
            stack.extend(value.args)
        else:
            found.add(plan.base(value))
    return found


def _overwrites_own_element(plan: Schedule, new: Value, state: Value) -> bool:
    group = plan.group_of[new]
    if group.kind != "rows" or any(is_row_reduction(n) for n in group.nodes):
        return False
    for node in group.nodes:
        for a in plan.reads[node]:
            if plan.base(a.value) is state:
                same = a.value is state and a.is_prefix and len(a.index) == len(new.shape)
                if not same or group.shape != new.shape:
                    return False
    return True


def _dependents(plan: Schedule, groups: set[Group]) -> set[Group]:
    late = set(groups)
    for group in plan.groups:
        if any(plan.group_of.get(base) in late for n in group.nodes for base in whole_reads(plan, n)):
            late.add(group)
    return late


def ordered(plan: Schedule, chosen: Mapping[Value, Value]) -> Schedule:
    """The same groups, those that overwrite state (and what depends on them) last."""
    late = _dependents(plan, {plan.group_of[n] for n in chosen})
    return replace(plan, groups=tuple(sorted(plan.groups, key=lambda g: g in late)))


# -- the arena ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slot:
    """A piece of the arena. Slots of symbolic size follow each other after the ones of fixed size."""

    offset: int | None  # None: after the previous symbolic slot, rounded up to 64 bytes
    nbytes: Dim


@dataclass(frozen=True)
class Layout:
    slots: tuple[Slot, ...]
    slot_of: Mapping[Place, int]  # by memory (see `memory_of`)
    fixed: int  # bytes of all slots of fixed size
    lifetimes: Mapping[Place, tuple[int, int]]

    @property
    def nbytes(self) -> Dim:
        """Bytes of the whole arena."""
        symbolic: Dim = 0
        for slot in self.slots:
            if slot.offset is None:
                symbolic = symbolic + slot.nbytes + ALIGN
        return self.fixed + symbolic


def memory_of(place: Place) -> Place:
    """The memory of a place, whatever shape it is seen in."""
    return Place(place.value, place.value.type) if not place.tag and place.value is not None else place


def arena(steps: Sequence[Step], elsewhere: set[Value]) -> Layout:
    """Slots for all memory that the steps use and that is not `elsewhere` (parameters, outputs)."""
    lifetimes: dict[Place, tuple[int, int]] = {}
    for number, step in enumerate(steps):
        for place in map(memory_of, step.places):
            if place.tag or place.value not in elsewhere:
                lifetimes[place] = (lifetimes.get(place, (number, 0))[0], number)
    slots: list[Slot] = []
    slot_of: dict[Place, int] = {}
    busy: list[tuple[int, int, int]] = []  # (offset, end, last use) of fixed-size memory
    free_again: dict[int, int] = {}  # symbolic slot -> last use
    fixed = 0
    for place, (first, last) in sorted(lifetimes.items(), key=lambda item: item[1][0]):
        nbytes = place.type.nbytes
        if isinstance(nbytes, int):
            need = max(-(-nbytes // ALIGN) * ALIGN, ALIGN)
            busy = [b for b in busy if b[2] >= first]
            offset = _first_fit(busy, need)
            busy.append((offset, offset + need, last))
            fixed = max(fixed, offset + need)
            slots.append(Slot(offset, nbytes))
            slot_of[place] = len(slots) - 1
            continue
        reuse = next((k for k, end in free_again.items() if end < first and slots[k].nbytes == nbytes), None)
        if reuse is None:
            slots.append(Slot(None, nbytes))
            reuse = len(slots) - 1
        slot_of[place] = reuse
        free_again[reuse] = last
    return Layout(tuple(slots), slot_of, fixed, lifetimes)


def _first_fit(busy: list[tuple[int, int, int]], need: int) -> int:
    offset = 0
    for start, end, _ in sorted(busy):
        if start - offset >= need:
            break
        offset = max(offset, end)
    return offset
