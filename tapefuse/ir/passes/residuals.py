"""What a reverse pass keeps of a forward pass: the fewest bytes from which the rest is cheap to compute again.

A value may be kept, or computed again from operands that are there. What is free (constants, what depends on nothing
else) needs no memory; carried values are there only if they are kept; dear operations (products, reductions, loops)
are not done twice. So the values kept are a cut between these and what the reverse pass reads, and the smallest one is
found as the largest flow (as in Jiang et al. 2023, where the operations are those of whole programs). Of several the
one nearest to the readers is taken: it leaves least to compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Poly, size

NOMINAL = 64  # what a symbol counts for where sizes are compared
INFINITE = 1 << 80
SHORT = 4  # terms of a reduction that is cheap
_MOVES = (
    ops.reshape,
    ops.transpose,
    ops.broadcast,
    ops.flip,
    ops.slice_,
    ops.pad,
    ops.concat,
    ops.gather,
    ops.iota,
    ops.basis,
    ops.empty,
    ops.dim,
    ops.const,
    ops.cast,
    ops.result,
)


def is_repeatable(v: Value) -> bool:
    """Whether computing a node a second time is as good as reading the first result."""
    return v.op is not None and (v.op.interned or v.op is ops.empty)


def is_cheap(v: Value) -> bool:
    """Whether computing a node again costs about what reading it would: elementwise work, moves of elements, and sums
    of few of them."""
    return v.op is not None and (v.op.elementwise or v.op in _MOVES or _is_short(v))


def _is_short(v: Value) -> bool:
    """Whether each element is reduced from a few: the squares of coordinates, for one."""
    if v.op is None or v.op.reduction is None:
        return False
    n = size(v.args[0].shape[a] for a in v.attributes["axes"])
    return isinstance(n, int) and n <= SHORT


def bytes_of(v: Value) -> int:
    return nominal(v.type.nbytes)


def nominal(d: Dim) -> int:
    """A size as a number, with one for every symbol."""
    n = d.substitute(dict.fromkeys(d.symbols, NOMINAL)) if isinstance(d, Poly) else d
    assert isinstance(n, int)
    return max(n, 0)


Test = Callable[[Value], bool]


def kept(
    needed: Iterable[Value], is_given: Test, is_free: Test, can_keep: Test, size: Callable[[Value], int] = bytes_of
) -> list[Value]:
    """The values to keep so that `needed` can be computed, in order of their ids.

    `is_free` values need nothing. `is_given` values cannot be computed again, others from their operands.
    `size`: the bytes that keeping a value takes.
    """
    nodes = between(needed, is_given, is_free)
    number = {v: k for k, v in enumerate(nodes)}
    flow = _Flow(2 * len(nodes) + 2)
    source, sink = flow.n - 2, flow.n - 1
    for v, k in number.items():
        flow.edge(2 * k, 2 * k + 1, max(size(v), 1) if can_keep(v) else INFINITE)
        if is_given(v):
            flow.edge(source, 2 * k, INFINITE)
        else:
            for a in set(v.args) & number.keys():
                flow.edge(2 * number[a] + 1, 2 * k, INFINITE)
    for v in set(needed) & number.keys():
        flow.edge(2 * number[v] + 1, sink, INFINITE)
    flow.fill(source, sink)
    near = flow.reaching(sink)
    return [v for v, k in number.items() if 2 * k + 1 in near and 2 * k not in near]


def between(needed: Iterable[Value], is_given: Test, is_free: Test) -> list[Value]:
    """`needed` and what it takes to compute it from given and free values, without the free ones."""
    found: set[Value] = set()
    stack = list(needed)
    while stack:
        v = stack.pop()
        if v not in found and not is_free(v):
            found.add(v)
            if not is_given(v):
                stack.extend(v.args)
    return sorted(found, key=lambda v: v.id)


class _Flow:
    """A network of edges with capacities, and the largest flow through it."""

    def __init__(self, n: int):
        self.n = n
        self.edges: list[list[int]] = [[] for _ in range(n)]  # numbers of the edges that leave a node
        self.to: list[int] = []
        self.room: list[int] = []  # what an edge can still take; edge e ^ 1 is the way back

    def edge(self, a: int, b: int, capacity: int) -> None:
        self.edges[a].append(len(self.to))
        self.edges[b].append(len(self.to) + 1)
        self.to += [b, a]
        self.room += [capacity, 0]

    def fill(self, source: int, sink: int) -> None:
        while path := self._path(source, sink):
            amount = min(self.room[e] for e in path)
            if amount >= INFINITE:
                raise ValueError("a value that the reverse pass reads can neither be kept nor computed again")
            for e in path:
                self.room[e] -= amount
                self.room[e ^ 1] += amount

    def _path(self, source: int, sink: int) -> Sequence[int]:
        """A shortest path with room left, as edges; empty if there is none."""
        came: dict[int, int] = {source: -1}
        queue = deque([source])
        while queue and sink not in came:
            node = queue.popleft()
            for e in self.edges[node]:
                if self.room[e] and self.to[e] not in came:
                    came[self.to[e]] = e
                    queue.append(self.to[e])
        path: list[int] = []
        node = sink
        while node in came and came[node] >= 0:
            path.append(came[node])
            node = self.to[came[node] ^ 1]
        return path

    def reaching(self, sink: int) -> set[int]:
        """The nodes from which there is still room to the sink."""
        found, stack = {sink}, [sink]
        while stack:
            for e in self.edges[stack.pop()]:
                if self.room[e ^ 1] and self.to[e] not in found:
                    found.add(self.to[e])
                    stack.append(self.to[e])
        return found
