"""Where the reverse of an iteration finds what it reads of the iteration: what is kept, and what the loop leaves.

Of three ways the one that takes the fewest bytes: a value is computed again from others, kept in a row of a stack
(a value whose shape depends on the index begins its row), or read from the last carry (`loop_finals`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes import loop_finals, loop_ranges, residuals
from tapefuse.ir.passes.bodies import depending
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.loop_finals import Part
from tapefuse.ir.types import Dim, Type


class Step(NamedTuple):
    """The reverse of one iteration."""

    seeds: dict[int, Value]  # by carry: its cotangent after the iteration
    sums: dict[int, Value]  # by parameter of the body: the cotangent of a constant, summed so far
    now: dict[int, Value]  # by carry that the user can undo: it itself, after the iteration
    outs: tuple[Value, ...]  # what becomes of seeds, then of sums, then of what is undone
    new: tuple[Value, ...]  # the carry after the iteration, as it is among what `outs` are computed from


class Stack(NamedTuple):
    """What is kept of a value of every iteration: row k of `array` begins with the value at iteration k."""

    array: Value  # parameter of the forward body: [trips, ...], or [trips + 1, ...] for the carry number `carry`
    value: Value
    carry: int | None  # whose new value, at row k + 1, is read too


class Sources(NamedTuple):
    """Where the reverse step finds what it reads of the forward one."""

    stacks: list[Stack]
    finals: dict[Value, Part]  # parts of the last carry

    @property
    def nbytes(self) -> Dim:
        return sum((s.array.type.nbytes for s in self.stacks), 0)


def sources_of(loop: Loop, step: Step, again: bool) -> Sources:
    """Where the reverse step finds what it reads of the forward one, or what that is cheap to compute from.

    `again`: all but carries may be computed again, however dear that is.
    """
    seeds = (*step.seeds.values(), *step.sums.values(), *step.now.values())
    reverse = Graph((*loop.body.params, *seeds), step.outs)
    backward = depending(reverse, seeds)
    needed = ({a for v in reverse.nodes if v in backward for a in v.args} | {*step.outs}) - backward
    cut = _Cut(loop, step, reverse, needed, again)
    best = cut.with_carries({})
    parts = {} if step.now else loop_finals.finals(loop, step.new, reverse)
    for k in dict.fromkeys(part.carry for part in parts.values()):
        more = {v: part for v, part in parts.items() if part.carry == k and cut.is_worth_reading(v, part)}
        found = cut.with_carries(best.finals | more)
        best = found if found.nbytes < best.nbytes else best
    return Sources([cut.stack(v, best.both) for v in best.kept], best.finals)


class _Choice(NamedTuple):
    nbytes: int  # of an iteration
    kept: list[Value]
    finals: dict[Value, Part]
    both: set[Value]  # carries whose new values are found in their stacks too


class _Cut:
    """What to keep of the values of an iteration."""

    def __init__(self, loop: Loop, step: Step, reverse: Graph, needed: set[Value], again: bool):
        self.loop, self.step, self.reverse, self.needed, self.again = loop, step, reverse, needed, again
        self.carry = {p: k for k, p in enumerate(loop.body.params[: loop.carried])}
        self.varying = depending(reverse, self.carry, frozenset({loop.index}))
        results = [v for v in reverse.nodes if v.op is ops.result]
        self.open_regions = {v.args[0] for v in results if self.bounds(v) is None}

    def bounds(self, v: Value) -> tuple[Dim, ...] | None:
        """The shape that a row for `v` has; None if there is none."""
        return loop_ranges.bounding(v.shape, self.loop.index, self.loop.trips)

    def can_keep(self, v: Value) -> bool:
        return not (v.op is not None and v.op.is_region) and self.bounds(v) is not None

    def is_given(self, v: Value) -> bool:
        if not residuals.is_repeatable(v):
            return True
        assert v.op is not None
        is_result_kept = v.op.is_region and v not in self.open_regions
        return not self.again and not residuals.is_cheap(v) and (is_result_kept or self.can_keep(v))

    def size(self, v: Value) -> int:
        known = loop_ranges.with_index(self.loop.index, self.loop.trips)
        return v.dtype.itemsize * loop_ranges.nominal_size(v.shape, known)

    def is_worth_reading(self, v: Value, part: Part) -> bool:
        """Whether the last carry is the better place for a value."""
        if self.again:
            return True
        is_copied = any(u.op is not None and u.op.is_region for u in self.reverse.users.get(v, ()))
        if part.is_scattered and not is_copied:
            return False  # rows of a stack lie together, columns of an array do not
        return self.is_small(part, v)

    def is_small(self, part: Part, v: Value) -> bool:
        """A loop around this one would keep all that this one reads; without one, the last carry is there."""
        index, trips, around = self.loop.index, self.loop.trips, loop_ranges.around()
        read = part.box.over(index, trips, self.loop.body.params[part.carry].shape).shape
        rows = loop_ranges.nominal_size((trips, *v.shape), loop_ranges.with_index(index, trips))
        return not around or loop_ranges.nominal_size(read, around) <= 2 * rows

    def with_carries(self, finals: dict[Value, Part]) -> _Choice:
        """The fewest bytes, with some values read from the last carry."""
        best = self.choice(finals, set())
        between, new = self.between(best), self.step.new
        for p, k in self.carry.items():
            if p not in between or new[k] not in between or new[k] in self.carry:
                continue
            found = self.choice(finals, best.both | {p})
            if (found.nbytes, len(found.kept)) <= (best.nbytes, len(best.kept)):
                best, between = found, self.between(found)
        return best

    def choice(self, finals: dict[Value, Part], both: set[Value]) -> _Choice:
        found = residuals.kept(self.needed | both, self.is_given, self.free(finals, both), self.can_keep, self.size)
        is_kept = lambda x: x in self.varying and self.can_keep(x)
        kept = [*dict.fromkeys(_unmoved(v, is_kept) for v in found)]
        return _Choice(sum(map(self.size, kept)), kept, finals, both)

    def between(self, found: _Choice) -> list[Value]:
        return residuals.between(self.needed | found.both, self.is_given, self.free(found.finals, found.both))

    def free(self, finals: dict[Value, Part], both: set[Value]) -> Callable[[Value], bool]:
        there = {self.step.new[self.carry[p]] for p in both}
        return lambda v: v not in self.varying or v in there or v in finals

    def stack(self, v: Value, both: set[Value]) -> Stack:
        carry, bounds = self.carry[v] if v in both else None, self.bounds(v)
        assert bounds is not None
        rows = loop_ranges.extent(self.loop.trips) + (carry is not None)
        return Stack(param(Type(v.dtype, (rows, *bounds))), v, carry)


def _unmoved(v: Value, can_be_kept: Callable[[Value], bool]) -> Value:
    """The value whose elements `v` has in another order: rows are written as they lie in memory."""
    found = x = v
    while x.op in (ops.reshape, ops.transpose) and can_be_kept(x.args[0]):
        is_transpose, (x,) = x.op is ops.transpose, x.args
        found = x if is_transpose else found
    return found
