"""Memory for time: values that a program would keep for long are computed again where they are needed late.

    within(request) -> a Plan whose scratch memory and outputs fit into the request's memory budget

While most memory is in use (usually where the backward part begins) many values wait for late readers. They are cut, in
the order in which they were computed, into segments. A segment's values are dropped and computed again, from what is
kept, when its first late reader is about to run: `after(x, token)` makes the copies wait for a value which that reader
needs too. With about sqrt(N) segments of a chain of N values, memory falls to about 2 sqrt(N) of them for one more
forward computation (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost); cheap values go first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tapefuse._errors import CompileError
from tapefuse._records import dataclass
from tapefuse.codegen.costs import weight
from tapefuse.codegen.plan import Plan, Request, plan
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.types import symbols

ROUNDS = 8  # each lowers the highest point of memory use
SEGMENTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # what is tried, in this order
CHEAP = 64  # operations on an element, by weight: values that take no more are dropped first


def within(request: Request) -> Plan:
    """The plan of a request, with what must be computed again so that outputs and scratch memory fit into its budget.

    Raises CompileError when there is none, or when extents are open so that bytes are unknown.
    """
    best, budget = plan(request), request.memory_budget
    if budget is None:
        return best
    if best.graph.symbols:
        names = ", ".join(best.graph.symbols)
        raise CompileError(
            f"memory_budget of {request.name!r} needs every extent, but {names} is open; trace it for arrays or "
            "TensorSpecs of known shape"
        )
    for _ in range(ROUNDS):
        if peak(best) <= budget:
            return best
        improved = _lowered(best, budget)
        if peak(improved) >= peak(best):
            break
        best = improved
    if peak(best) <= budget:
        return best
    raise CompileError(
        f"{request.name!r} cannot run within memory_budget={budget:,} bytes: with all that can be computed again it "
        f"needs {peak(best):,} bytes ({_outputs(best):,} of outputs); raise the budget or make the arrays smaller"
    )


def peak(p: Plan) -> int:
    """Bytes of outputs and scratch memory of a plan without open extents."""
    assert isinstance(p.layout.nbytes, int)
    return _outputs(p) + p.layout.nbytes


def _outputs(p: Plan) -> int:
    return sum(_nbytes(v) for v in p.outputs)


def _nbytes(value: Value) -> int:
    assert isinstance(value.type.nbytes, int) and not symbols(value.shape)
    return value.type.nbytes


def _lowered(p: Plan, budget: int) -> Plan:
    """Of the ways to drop values the cheapest that meets the budget, else the one that needs the least memory."""
    best, fits = p, False
    for cheap_only in (True, False):
        last, worse = peak(p), 0
        for request in _ways(p, cheap_only):
            other = plan(request)
            worse = worse + 1 if peak(other) > last else 0
            last = peak(other)
            if worse == 2:  # more segments, more that is kept between them
                break
            if peak(other) <= budget and (not fits or other.cost < best.cost):  # type: ignore[operator]
                best, fits = other, True
            elif not fits and peak(other) < peak(best):
                best = other
        if fits:
            break
    return best


def _ways(p: Plan, cheap_only: bool) -> Iterator[Request]:
    at = p.layout.fullest({})
    waiting = _waiting(p, at)
    values = [v for v in waiting if not cheap_only or _is_cheap(p, v, waiting)]
    for count in dict.fromkeys(min(n, len(values)) for n in SEGMENTS):
        graph = _Recomputed(p, at, waiting, _segments(values, count)).graph()
        if graph.outs != p.graph.outs:
            yield replace(p.request, graph=graph, constants=p.constants)


def _is_cheap(p: Plan, value: Value, waiting: Sequence[Value]) -> bool:
    """Whether a value can be computed from others that wait, or from parameters, by a few operations on elements."""
    total, stack = 0, [value]
    while stack and total <= CHEAP:
        v = stack.pop()
        if v.op is not None and (v is value or v not in waiting):
            group = p.schedule.group_of.get(v)
            total += weight(v) if group is None or group.kind == "rows" else CHEAP + 1
            stack.extend(v.args)
    return total <= CHEAP


def _waiting(p: Plan, at: int) -> list[Value]:
    """Values that lie in scratch memory at step `at` for the sake of later ones, in the order of computation."""
    spans = [(span, place.value) for place, span in p.layout.lifetimes.items() if not place.tag and place.value]
    found = [v for (first, last), v in spans if first <= at < last and v in p.schedule.group_of]
    return sorted(found, key=lambda v: v.id)


def _segments(values: Sequence[Value], count: int) -> list[list[Value]]:
    """At most `count` runs of about equal bytes."""
    total, done = sum(map(_nbytes, values)), 0
    parts: list[list[Value]] = [[] for _ in range(count)]
    for v in values:
        parts[min(done * count // max(total, 1), count - 1)].append(v)
        done += _nbytes(v)
    return [part for part in parts if part]


@dataclass(frozen=True)
class _Segment:
    dropped: frozenset[Value]
    token: Value  # what the copies wait for


class _Recomputed:
    """The plan's graph with late readers of dropped values reading copies: readers after the step `at`."""

    def __init__(self, p: Plan, at: int, waiting: Sequence[Value], segments: list[list[Value]]):
        self.p, self.waiting = p, frozenset(waiting)
        self.number = {g: k for k, g in enumerate(p.schedule.groups)}
        self.at = self.number[p.steps[at].group]
        self.readers = self._late_readers()
        self.segment_of: dict[Value, _Segment] = {}
        for values in segments:
            segment = self._segment(values)
            if segment is not None:
                self.segment_of |= dict.fromkeys(segment.dropped, segment)
        self.late: dict[Value, Value] = {}
        self.copies: dict[tuple[Value, _Segment], Value] = {}

    def graph(self) -> Graph:
        for node in self.p.graph.nodes:  # in order, so that no recursion is deep
            if self._is_late(node):
                self._late(node)
        return Graph(self.p.graph.params, tuple(map(self._late, self.p.graph.outs)), self.p.graph.name)

    def _position(self, value: Value) -> int:
        group = self.p.schedule.group_of.get(value)
        return -1 if group is None else self.number[group]

    def _is_late(self, value: Value) -> bool:
        return self._position(value) > self.at

    def _late_readers(self) -> dict[Value, list[Value]]:
        """For each early value the late nodes that read it, through whatever is inline."""
        found: dict[Value, list[Value]] = {}
        for node in self.p.graph.nodes:
            if self._is_late(node):
                for source in self._sources(node):
                    found.setdefault(source, []).append(node)
        return found

    def _sources(self, node: Value) -> list[Value]:
        """What a node reads that is computed by a kernel."""
        found, stack = [], list(node.args)
        while stack:
            value = stack.pop()
            if value in self.p.schedule.group_of:
                found.append(value)
            else:
                stack.extend(value.args)
        return found

    def _segment(self, values: list[Value]) -> _Segment | None:
        """The segment, to be computed again when the first kernel that reads it late is about to run: once the latest
        value is there that this kernel reads, other than those of the segment. None if there is no such value."""
        first = min((self._position(r) for v in values for r in self.readers.get(v, ())), default=-1)
        reads = (s for n in self.p.schedule.groups[first].nodes for s in self._sources(n)) if first >= 0 else ()
        earlier = [s for s in reads if self.at < self._position(s) < first]
        latest = max(earlier, key=lambda v: self.p.schedule.group_of[v].level, default=None)
        return None if latest is None else _Segment(frozenset(values), latest)

    def _late(self, value: Value) -> Value:
        """What late nodes read in place of `value`."""
        if value not in self.late:
            self.late[value] = self._found_late(value)
        return self.late[value]

    def _found_late(self, value: Value) -> Value:
        if value.op is None:
            return value
        if (segment := self.segment_of.get(value)) is not None and value not in self.p.graph.outs:
            return self._copy(value, segment)
        if value in self.p.schedule.group_of and not self._is_late(value):
            return value
        return _rebuilt(value, [self._late(a) for a in value.args])

    def _copy(self, value: Value, segment: _Segment) -> Value:
        """`value` computed again from parameters and kept values, once the segment's token is there."""
        for v in self._missing(value, segment):
            self.copies[v, segment] = self._again(v, segment)
        return self.copies[value, segment]

    def _missing(self, value: Value, segment: _Segment) -> list[Value]:
        """What is to be copied for a copy of `value` and is not yet, operands first."""
        found: set[Value] = set()
        stack = [value]
        while stack:
            v = stack.pop()
            if (v, segment) not in self.copies and v not in found:
                found.add(v)
                if not self._is_kept(v, segment):
                    stack.extend(v.args)
        return sorted(found, key=lambda v: v.id)

    def _is_kept(self, value: Value, segment: _Segment) -> bool:
        """What a segment's copies start from. What other segments drop is alive still when this one's copies run."""
        return value.op is None or value in self.waiting and value not in segment.dropped

    def _again(self, value: Value, segment: _Segment) -> Value:
        if self._is_kept(value, segment):
            return ops.after.emit(value, self._late(segment.token))
        return _rebuilt(value, [self.copies[a, segment] for a in value.args])


def _rebuilt(value: Value, args: list[Value]) -> Value:
    assert value.op is not None
    if all(a is b for a, b in zip(value.args, args, strict=True)):
        return value
    return value.op.emit(*args, **value.attributes)
