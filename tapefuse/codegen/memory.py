"""Where every array lives: updates of state in place where that is legal, everything else in one arena by lifetimes."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from tapefuse._records import dataclass
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.schedule import Group, Schedule, chained, is_row_reduction
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, substitute

ALIGN = 64
LATE = 8 << 20  # bytes of states up to which all are overwritten last


# -- state in place ----------------------------------------------------------------------------------
def in_place(plan: Schedule, updates: Mapping[Value, Value], checks: Sequence[Value]) -> dict[Value, Value]:
    """Which new values may overwrite their state's old value (`updates`: new value -> parameter) as they are computed.

    The old value must be read by earlier kernels only, or at the very element that is overwritten; and `checks` must be
    decided before anything is overwritten.
    """
    deciding = _sources(plan, {plan.group_of[c] for c in checks})
    readers: dict[Value, set[Group]] = {s: set() for s in updates.values()}
    for node, group in plan.group_of.items():
        for base in whole_reads(plan, node):
            if base in readers:
                readers[base].add(group)
    candidates = {n: s for n, s in updates.items() if plan.group_of[n] not in deciding}
    chosen = {n: s for n, s in candidates.items() if _overwrites_own_element(plan, n, s)}
    late = _dependents(plan, {plan.group_of[n] for n in chosen})
    rank = {g: k for k, g in enumerate(plan.groups)}
    return {
        n: s
        for n, s in chosen.items()
        if all(g is plan.group_of[n] or g not in late or rank[g] < rank[plan.group_of[n]] for g in readers[s])
    }


def whole_reads(plan: Schedule, node: Value) -> set[Value]:
    """Everything in memory that computing a grouped value reads, by the value whose memory it is."""
    return _bases(plan, [a.value for a in plan.reads[node]])


def _bases(plan: Schedule, values: list[Value]) -> set[Value]:
    """The values whose memory is read for `values`, looking through inline ones."""
    found, stack = set(), list(values)
    while stack:
        value = stack.pop()
        if value in plan.inline:
            stack.extend(value.args)
        else:
            found.add(plan.base(value))
    return found


def _overwrites_own_element(plan: Schedule, new: Value, state: Value) -> bool:
    group = plan.group_of[new]
    if group.kind == "scatter":
        return _scatters_into(plan, new, state)
    if group.kind != "rows" or any(is_row_reduction(n) for n in group.nodes):
        return False
    for node in group.nodes:
        for a in plan.reads[node]:
            if plan.group_of.get(a.value) is group and not a.is_prefix:
                return False  # a member computed again for another element reads the state there
            if plan.base(a.value) is state:
                same = a.value is state and a.is_prefix and len(a.index) == len(new.shape)
                if not same or group.shape != new.shape:
                    return False
    return True


def _scatters_into(plan: Schedule, new: Value, state: Value) -> bool:
    """Whether a scatter adds to `state`, and reads it for nothing else."""
    first, *_ = chain = chained(new, plan.inline)
    if first.op is None or not first.op.has_base or first.args[0] is not state:
        return False
    others = [a for n in chain for a in n.args[n is first :] if a not in chain]
    return state not in _bases(plan, others)


def _dependents(plan: Schedule, groups: set[Group]) -> set[Group]:
    late = set(groups)
    for group in plan.groups:
        if any(plan.group_of.get(base) in late for n in group.nodes for base in whole_reads(plan, n)):
            late.add(group)
    return late


def _sources(plan: Schedule, groups: set[Group]) -> set[Group]:
    """The groups and all that they depend on."""
    found = set(groups)
    for group in reversed(plan.groups):
        if group in found:
            bases = (base for n in group.nodes for base in whole_reads(plan, n))
            found.update(plan.group_of[b] for b in bases if b in plan.group_of)
    return found


def ordered(plan: Schedule, chosen: Mapping[Value, Value], checks: Sequence[Value], frugal: bool) -> Schedule:
    """The same groups in the order in which they run.

    A group runs once what it reads is there; one that overwrites a state also once all others have read the old value
    and the checks are decided. Among those that can run, lower levels go first, which uses gradients up soon; what
    depends on parameters alone waits until just before its first reader. States that are small in all are overwritten
    last unless `frugal`: a call can be stopped until then, at the cost of as much memory for gradients.
    """
    rank = {g: k for k, g in enumerate(plan.groups)}
    readers: dict[Group, set[Group]] = {g: set() for g in plan.groups}  # of what the group computes
    writers = {state: plan.group_of[new] for new, state in chosen.items()}
    before: dict[Group, set[Group]] = {g: set() for g in plan.groups}  # what must have run
    for node, group in plan.group_of.items():
        for base in whole_reads(plan, node):
            if (source := plan.group_of.get(base)) is not None and source is not group:
                readers[source].add(group)
                before[group].add(source)
            if (writer := writers.get(base)) is not None and writer is not group:
                before[writer].add(group)
    deciding = {plan.group_of[c] for c in checks}
    for writer in writers.values():
        before[writer] |= deciding
    size: Dim = sum((state.type.nbytes for state in writers), start=0)
    late = set(writers.values()) if not frugal and isinstance(size, int) and size <= LATE else set()
    priority = {g: (g in late, *_priority(g, before[g], readers[g], g in deciding, rank[g])) for g in plan.groups}
    return replace(plan, groups=tuple(_topological(before, priority)))


def _priority(group: Group, before: set[Group], readers: set[Group], decides: bool, rank: int) -> tuple[int, ...]:
    time = 2 * group.level
    if not before and readers:
        time = 2 * min(g.level for g in readers) - 1
    return time, not decides, rank


def _topological(before: Mapping[Group, set[Group]], priority: Mapping[Group, tuple[int, ...]]) -> Iterator[Group]:
    """The groups, each after those before it; of several that are possible the one of least priority."""
    after: dict[Group, list[Group]] = {g: [] for g in before}
    for group, earlier in before.items():
        for other in earlier:
            after[other].append(group)
    missing = {g: len(earlier) for g, earlier in before.items()}
    by_priority = {p: g for g, p in priority.items()}
    heap = sorted(priority[g] for g, n in missing.items() if not n)
    while heap:
        group = by_priority[heappop(heap)]
        yield group
        for later in after[group]:
            missing[later] -= 1
            if not missing[later]:
                heappush(heap, priority[later])


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

    def fullest(self, sizes: Mapping[str, Dim]) -> int:
        """The number of the first step that runs when most bytes are in use; `sizes`: the values of the symbols."""
        change: Counter[int] = Counter()
        for place, (first, last) in self.lifetimes.items():
            nbytes = int(substitute(place.type.nbytes, sizes))
            change[first] += nbytes
            change[last + 1] -= nbytes
        use, most, at = 0, 0, 0
        for number in sorted(change):
            use += change[number]
            if use > most:
                most, at = use, number
        return at


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
    heap = _Heap()
    symbolic: dict[Dim, list[tuple[int, int]]] = {}  # size -> (last use, slot), a heap
    for place, (first, last) in sorted(lifetimes.items(), key=lambda item: item[1][0]):
        nbytes = place.type.nbytes
        if isinstance(nbytes, int):
            need = max(-(-nbytes // ALIGN) * ALIGN, ALIGN)
            slots.append(Slot(heap.take(need, first, last), nbytes))
            slot_of[place] = len(slots) - 1
            continue
        ends = symbolic.setdefault(nbytes, [])
        if ends and ends[0][0] < first:
            slot = heappop(ends)[1]
        else:
            slots.append(Slot(None, nbytes))
            slot = len(slots) - 1
        heappush(ends, (last, slot))
        slot_of[place] = slot
    return Layout(tuple(slots), slot_of, heap.end, lifetimes)


class _Heap:
    """Memory of fixed size: the first free piece that is large enough, in the order in which pieces are needed."""

    def __init__(self) -> None:
        self.end = 0
        self._live: list[tuple[int, int, int]] = []  # (last use, offset, end), a heap
        self._free: list[tuple[int, int]] = []  # (offset, end), sorted, never touching each other

    def take(self, need: int, first: int, last: int) -> int:
        """The offset of `need` bytes from step `first` to step `last`."""
        while self._live and self._live[0][0] < first:
            self._release(*heappop(self._live)[1:])
        offset = self._piece(need)
        heappush(self._live, (last, offset, offset + need))
        return offset

    def _piece(self, need: int) -> int:
        for k, (start, end) in enumerate(self._free):
            if end - start >= need:
                self._free[k : k + 1] = [(start + need, end)] if end - start > need else []
                return start
        start = self.end
        if self._free and self._free[-1][1] == self.end:
            start = self._free.pop()[0]
        self.end = start + need
        return start

    def _release(self, start: int, end: int) -> None:
        k = bisect(self._free, (start, end))
        if k < len(self._free) and self._free[k][0] == end:
            end = self._free.pop(k)[1]
        if k and self._free[k - 1][1] == start:
            start = self._free.pop(k - 1)[0]
            k -= 1
        self._free.insert(k, (start, end))
