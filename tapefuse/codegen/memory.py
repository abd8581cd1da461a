"""Where every array lives: updates of state in place where that is legal, everything else in one arena by lifetimes."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from tapefuse._records import dataclass
from tapefuse.codegen.carried import base_of, continued
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.groups import Group, Schedule, domain, is_row_reduction
from tapefuse.codegen.inline_values import chained
from tapefuse.codegen.updates import Reads, is_elsewhere, is_placed, reads_of_base, writes_into_base
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Shape, substitute

ALIGN = 64
LATE = 8 << 20  # bytes of states up to which all are overwritten last


# -- in place ----------------------------------------------------------------------------------------
def in_place(
    plan: Schedule, updates: Mapping[Value, Value], checks: Sequence[Value], before: Collection[Group] = ()
) -> dict[Value, Value]:
    """Which values are written into memory that is there already, and whose memory that is.

    That is the new values of states (`updates`: new value -> parameter) as they are computed, and arrays with a part
    changed, where nobody reads the old one afterwards. The old value must be read by earlier kernels only, or at the
    very element that is overwritten; and `checks` must be decided before anything is overwritten. What `before` needs
    is never written into the memory of a state.
    """
    deciding = _sources(plan, {plan.group_of[c] for c in checks})
    steps = {n: s for n, s in _candidates(plan, updates) if plan.group_of[n] not in deciding}
    steps = {n: old for n, old in steps.items() if _overwrites_own_element(plan, n, old)}
    early, states = _sources(plan, set(before)), set(updates.values())
    steps = {n: s for n, s in steps.items() if plan.group_of[n] not in early or _first(steps, n) not in states}
    late = _dependents(plan, {plan.group_of[n] for n in steps})
    rank = {g: k for k, g in enumerate(plan.groups)}
    readers: dict[Value, set[Group]] = {old: set() for old in steps.values()}
    for node, group in plan.group_of.items():
        for base in whole_reads(plan, node):
            if base in readers:
                readers[base].add(group)

    after = {old: n for n, old in steps.items()}

    def others(n: Value, old: Value) -> set[Group]:
        """Who else reads what `n` overwrites."""
        mine = plan.group_of[n]
        return {g for g in readers[old] if g is not mine and not _reads_elsewhere(plan, g, old, after)}

    def is_last(n: Value, old: Value) -> bool:
        return all(g not in late or rank[g] < rank[plan.group_of[n]] for g in others(n, old))

    chosen = {n: old for n, old in steps.items() if is_last(n, old)}
    if len(chosen) < len(steps):
        order = _Order(plan)
        for n, old in chosen.items():
            order.add(others(n, old), plan.group_of[n])
        for n, old in steps.items():
            earlier = others(n, old)
            if n not in chosen and not order.reaches(plan.group_of[n], earlier):
                order.add(earlier, plan.group_of[n])
                chosen[n] = old
    return _memories(plan, updates, chosen)


class _Order:
    """Which groups run after which."""

    def __init__(self, plan: Schedule):
        self.after: dict[Group, set[Group]] = {g: set() for g in plan.groups}
        for node, group in plan.group_of.items():
            for base in whole_reads(plan, node):
                if base in plan.group_of:
                    self.add({plan.group_of[base]} - {group}, group)

    def add(self, earlier: Collection[Group], later: Group) -> None:
        for g in earlier:
            self.after[g].add(later)

    def reaches(self, group: Group, others: Collection[Group]) -> bool:
        """Whether one of the others runs after a group."""
        seen, stack = {group}, [group]
        while stack:
            more = self.after[stack.pop()] - seen
            if not more.isdisjoint(others):
                return True
            seen |= more
            stack += more
        return False


def _candidates(plan: Schedule, updates: Mapping[Value, Value]) -> Iterator[tuple[Value, Value]]:
    """Values with the one that they might overwrite. A state's new value is reached through the values before it."""
    final, outs = set(updates.values()), set(plan.graph.outs)
    taken: set[Value] = set()
    for node in reversed(plan.graph.nodes):
        source = base_of(node, plan.inline) if node in plan.group_of and node not in plan.inline else None
        if source is not None:
            base = plan.base(source)
            is_free = base in plan.group_of and base not in outs or base in final
            if is_free and base not in taken and base.type.nbytes == node.type.nbytes:
                taken.add(base)
                yield node, base
    for new, state in updates.items():
        while new in plan.group_of and (source := base_of(new, plan.inline)) is not None:
            new = plan.base(source)
        if new in plan.group_of and state not in taken:
            taken.add(state)
            yield new, state


def _first(steps: Mapping[Value, Value], value: Value) -> Value:
    """The value in whose memory all after it up to `value` would lie."""
    while value in steps:
        value = steps[value]
    return value


def _memories(plan: Schedule, updates: Mapping[Value, Value], steps: Mapping[Value, Value]) -> dict[Value, Value]:
    """Each value that is written over another one, by `steps`, or is written over, with whose memory both have.

    That of a parameter is a state's, of which nothing may be left but its own new value; else an output's own.
    """
    after = {old: new for new, old in steps.items()}
    outs, found = set(plan.graph.outs), {}
    for first in [old for old in after if old not in steps]:
        chain = [first]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        if first.op is None and updates.get(chain[-1]) is not first:
            chain = chain[1:]  # the state keeps its old value until the new one is copied there
        owner = chain[-1] if chain[-1] in outs and chain[0].op is not None else chain[0]
        found.update({v: owner for v in chain if v is not owner})
    return found


def overwriters(plan: Schedule, chosen: Mapping[Value, Value]) -> dict[Value, Value]:
    """For each value that is overwritten in memory, the one that is written there (`chosen`: see `in_place`)."""
    found: dict[Value, Value] = {}
    for node in plan.graph.nodes:
        owner = chosen.get(node, node)
        if node in plan.group_of and (source := base_of(node, plan.inline)) is not None:
            base = plan.base(source)
            if chosen.get(base, base) is owner:
                found[base] = node
        if node in chosen and owner.op is None:
            found.setdefault(owner, node)
    return found


def whole_reads(plan: Schedule, node: Value) -> set[Value]:
    """Everything in memory that computing a grouped value reads, by the value whose memory it is."""
    return _bases(plan, [a.value for a in plan.reads[node]])


def _reads_elsewhere(plan: Schedule, group: Group, old: Value, after: Mapping[Value, Value]) -> bool:
    """Whether a kernel reads parts of `old` alone that are never written in its memory. `after`: what is written over
    what."""
    updates, new = [], after.get(old)
    while new is not None:
        updates.append(new)
        new = after.get(new)
    if not all(is_placed(u) and u.shape == old.shape for u in updates):
        return False
    stack = [a for n in group.nodes for a in n.args]
    seen = set(stack)
    while stack:
        v = stack.pop()
        if v in plan.inline and v.op is not None and v.op.name == "slice" and plan.base(v.args[0]) is old:
            if v.args[0].shape != old.shape or not all(is_elsewhere(v, u) for u in updates):
                return False
        elif v in plan.inline:
            stack += [a for a in v.args if a not in seen]
            seen.update(v.args)
        elif plan.base(v) is old:
            return False
    return True


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


def _overwrites_own_element(plan: Schedule, new: Value, old: Value) -> bool:
    """Whether the kernel of `new` may write over `old`: what it reads of that is the element it then overwrites."""
    group = plan.group_of[new]
    if group.kind == "scatter":
        return _scatters_into(plan, new, old)
    if group.kind == "region":
        return _continues(plan, group.nodes[0], new, old)
    if group.kind != "rows":
        return False
    if is_placed(new):
        return _updates_own_region(plan, group, new, old)
    if any(map(is_row_reduction, group.nodes)):
        return False
    for node in group.nodes:
        for a in plan.reads[node]:
            if plan.group_of.get(a.value) is group and not a.is_prefix:
                return False  # a member computed again for another element reads the state there
            if plan.base(a.value) is old:
                same = a.value is old and a.is_prefix and len(a.index) == len(new.shape)
                if not same or group.shape != new.shape:
                    return False
    return True


def _continues(plan: Schedule, token: Value, new: Value, old: Value) -> bool:
    """Whether a region that reads `old` may write its result there: carried numbers are in registers until the end, and
    what continues an operand is written as that allows."""
    if [plan.base(a) for a in token.args].count(old) != 1:
        return False
    if "carried" in token.attributes and new.type.size == 1:
        return True
    before = continued(new)
    return before is not None and plan.base(before) is old


def _updates_own_region(plan: Schedule, group: Group, new: Value, old: Value) -> bool:
    """Whether what the kernel of an update reads of its base, if anything, is read no later than it is written."""
    members = [n for n in group.nodes if n is not new and old in whole_reads(plan, n)]
    if old in _bases(plan, [new.args[1]]):
        members.append(new.args[1])
    found = {n: reads_of_base(n, new, plan.inline.__contains__, plan.base) for n in members}
    reading = [n for n, reads in found.items() if reads is not Reads.NOTHING]
    if not reading:
        return True
    if any(is_placed(n) and n is not new for n in group.nodes):
        return False
    if any(map(is_row_reduction, group.nodes)) and not _is_read_once_a_row(plan, group, new, reading):
        return False
    recomputed = (a for n in group.nodes for a in plan.reads[n] if plan.group_of.get(a.value) is group)
    if not all(a.is_prefix for a in recomputed):
        return False
    shape = new.args[1].shape
    return all(found[n] is Reads.OWN and n.id <= new.id and _is_shape(domain(n), shape) for n in reading)


def _is_read_once_a_row(plan: Schedule, group: Group, new: Value, reading: Sequence[Value]) -> bool:
    """Whether what reads the base is computed once a row, on the way to the update, hence before it is written."""
    above, members, stack = {new.args[1]}, set(group.nodes), [new.args[1]]
    while stack:
        more = {a for a in stack.pop().args if a in members or a in plan.inline} - above
        above |= more
        stack += more
    return group.rows is not None and all(n in above and _is_shape(group.row_shape, domain(n)) for n in reading)


def _is_shape(a: Shape, b: Shape) -> bool:
    """Whether shapes are the same but for axes of one element at the end of `b`."""
    return b[: len(a)] == a and all(n == 1 for n in b[len(a) :])


def _scatters_into(plan: Schedule, new: Value, state: Value) -> bool:
    """Whether a scatter adds to `state`, and reads it for nothing else."""
    first, *_ = chain = chained(new, plan.inline)
    if not writes_into_base(first) or plan.base(first.args[0]) is not state:
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


def ordered(
    plan: Schedule, chosen: Mapping[Value, Value], checks: Sequence[Value], frugal: bool, first: Collection[Group] = ()
) -> Schedule:
    """The same groups in the order in which they run.

    A group runs once what it reads is there; one that overwrites a value also once all others have read the old one,
    and where that is a state's, once the checks are decided and the groups `first` have run. Among those that can run,
    lower levels go first, which uses gradients up soon; what depends on parameters alone waits until just before its
    first reader. States that are small in all are overwritten last unless `frugal`: a call can be stopped until then,
    at the cost of as much memory for gradients.
    """
    rank = {g: k for k, g in enumerate(plan.groups)}
    readers: dict[Group, set[Group]] = {g: set() for g in plan.groups}  # of what the group computes
    after = overwriters(plan, chosen)
    writers = {old: plan.group_of[new] for old, new in after.items()}
    of_states = {old: writer for old, writer in writers.items() if chosen.get(old, old).op is None}
    before: dict[Group, set[Group]] = {g: set() for g in plan.groups}  # what must have run
    for node, group in plan.group_of.items():
        for base in whole_reads(plan, node):
            if (source := plan.group_of.get(base)) is not None and source is not group:
                readers[source].add(group)
                before[group].add(source)
            writer = writers.get(base)
            if writer is not None and writer is not group and not _reads_elsewhere(plan, group, base, after):
                before[writer].add(group)
    deciding = {plan.group_of[c] for c in checks}
    for writer in of_states.values():
        before[writer] |= deciding.union(first)
    size: Dim = sum((state.type.nbytes for state in {chosen.get(old, old) for old in of_states}), start=0)
    late = set(of_states.values()) if not frugal and isinstance(size, int) and size <= LATE else set()
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


def unwritten(steps: Sequence[Step], given: Collection[Value]) -> Iterator[str]:
    """What steps read before any has written it, though it is not `given`: a mistake of the schedule."""
    known = {Place(v, v.type) for v in given}
    for step in steps:
        written = set(map(memory_of, step.written))
        for place in map(memory_of, step.places):
            if place not in known and place not in written:
                yield f"{step.kernel.name} reads {place}, which nothing has written yet"
        known |= written


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
