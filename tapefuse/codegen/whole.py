"""Which loops run before any variable is overwritten, so that a call which ends in one has changed nothing.

Those that may find no memory for a size that is known at run time only, and those that take so long that they can be
interrupted. A variable that such a loop carries gets its new value when all of them are done.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from tapefuse.codegen.costs import COPY, LONG, MULTIPLY_ADD, time, typical
from tapefuse.codegen.groups import Group, Schedule, domain
from tapefuse.codegen.memory import LATE
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, size

SHARE = 100  # of a loop's work, one part may be for copies of large states
MOST_COPIED = 256 << 20  # bytes of states; of more, the memory weighs more
INTERRUPTIBLE = 5_000_000 * 64  # work of a loop from which it can be stopped: that of a program which can


def before_writing(plan: Schedule, states: Iterable[Value], frugal: bool) -> frozenset[Group]:
    """The regions that run before `states` are overwritten. Of the long ones those for which copies of the states take
    little memory, or little time beside the loop's; none if `frugal`."""
    regions = [g for g in plan.groups if g.kind == "region"]
    nbytes: Dim = sum((s.type.nbytes for s in states), start=0)

    def is_among(token: Value) -> bool:
        return allocates(token) or not frugal and isinstance(nbytes, int) and work(token) >= least_work(nbytes)

    return frozenset(g for g in regions if is_among(g.nodes[0]))


def least_work(nbytes: int) -> float:
    """Of a loop that runs on copies of so many bytes of states, so that it can be stopped."""
    if nbytes <= LATE:
        return INTERRUPTIBLE
    return SHARE * nbytes * COPY if nbytes <= MOST_COPIED else inf


def allocates(v: Value) -> bool:
    """Whether there is code in a node for a size that is known at run time only."""
    return v.op in (ops.sized, ops.recording) or any(allocates(u) for g in region.graphs(v) for u in g.nodes)


def work(v: Value) -> int:
    """About how long a node takes, in 1/64 ns."""
    if v.op in (ops.while_, ops.sized, ops.recording):
        return max(LONG, sum(map(_work_of, region.graphs(v))))  # of one iteration, of which there may be no more
    if v.op is ops.for_:
        return typical(v.attributes["trips"]) * _work_of(v.attributes["body"])
    if v.op is ops.switch:
        return max(map(_work_of, v.attributes["branches"]))
    if v.op is ops.matmul:
        return MULTIPLY_ADD * typical(size(v.shape) * v.args[0].shape[-1])
    return typical(size(domain(v)) * time(v))


def _work_of(graph: Graph) -> int:
    return sum(max(work(v), 0) for v in graph.nodes)
