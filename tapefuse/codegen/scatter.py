"""A scatter as kernels: each source element added or stored at the place that indices give.

Targets may repeat, so sources are added one after the other, in their order. What is cut into pieces is the first axis
that no index reaches, if rows are long: every thread adds all sources, each to columns of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce

from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.costs import CHUNKS, GRAIN, TRANSFER
from tapefuse.codegen.inline_values import chained
from tapefuse.codegen.loops import HI, INT, LO, ZERO, Num, Scalar
from tapefuse.codegen.updates import replaces_most
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Poly, Shape, size

PIECES = 4  # most pieces of the columns: each goes through all indices
SPAN = 1024  # bytes that a piece's part of a row should have at least: shorter ones cost more in misses than they save
MISSES = 4  # how much slower an element at an unforeseen place is than one in sequence


class Scatter(Context):
    """The start (zeros, or a copy of the base unless it is overwritten in place), then one nest for each scatter of a
    chain, whose results are only added to."""

    def build(self, name: str) -> list[Step]:
        (node,) = self.group.nodes
        chain = chained(node, self.plan.inline)
        start = Start(self.plan, self.group, self.in_place).steps(f"{name}_start", node, chain[0])
        cut = max(len(n.args) - 1 - _has_base(n) for n in chain)
        for n in chain:
            self._add(node, n, cut)
        sources: Dim = sum((n.args[_has_base(n)].type.size for n in chain), start=0)
        cost = TRANSFER * MISSES * sources
        if cut == len(node.shape):
            return [*start, self.step(name, 1, cost)]
        columns = node.shape[cut]
        row: Dim = node.dtype.itemsize
        for d in node.shape[cut:]:
            row = row * d
        pieces = max(1, min(PIECES, row // SPAN)) if isinstance(row, int) else PIECES
        small = isinstance(cost, int) and cost < 2 * GRAIN
        return [*start, self.step(name, columns, cost, 1 if small else pieces)]

    def _add(self, result: Value, node: Value, cut: int) -> None:
        """The sources of one scatter, added to the memory of the chain's result."""
        assert node.op is not None and node.op.push is not None
        b, place, source = self.b, self.place(result), node.args[_has_base(node)]
        before = len(source.shape) - (len(node.shape) - cut)  # axes of the sources before the one that is cut
        inner, rows = source.shape[:before], source.shape[before:]
        with self._unless_empty(node.shape[:cut]), b.loops(inner) as j, b.piece(rows) as rest:
            where, value = node.op.push(b, (*j, *rest), *map(self.operand, node.args), **node.attributes)
            if not node.op.overwrites:
                value = b.op("add", b.reload(self.buffer(place), where), value)
            self.store(place, where, value)

    @contextmanager
    def _unless_empty(self, extents: Shape) -> Iterator[None]:
        """What is inside does not run where one of the axes that indices reach is empty: no index is right there."""
        b, symbolic = self.b, [n for n in extents if isinstance(n, Poly)]
        if not symbolic:
            yield
            return
        least = reduce(lambda x, y: b.op("minimum", x, y), map(b.dim, symbolic))
        with b.loop(ZERO, b.op("minimum", least, Num(1, INT))):
            yield

    def operand(self, value: Value) -> Operand:
        return Operand(value, lambda index: self._pull(value, index))

    def _pull(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        if value in self.plan.inline:
            return at(self.b, value, index, self.operand)
        return self.load(value, index)


class Start(Context):
    """What a scatter or an update changes, as one loop over all elements."""

    def steps(self, name: str, node: Value, first: Value) -> list[Step]:
        """None where the base's memory is that of the result. `first`: the first scatter of the chain that ends in
        `node`."""
        self.flat, b, extent = True, self.b, node.type.size
        base = first.args[0] if _has_base(first) else None
        place = self.place(node)
        if base is not None and self.place(base) == place:
            return []
        if base is not None and base not in self.plan.inline and replaces_most(first):
            return [self._frame(name, first, place)]
        with b.loop(LO, HI) as i:
            if base is None:
                value: Scalar = b.number(0, node.dtype)
            elif base in self.plan.inline:  # a literal
                value = at(b, base, (b.number(0, "i8"),) * len(base.shape), lambda v: Operand(v, lambda index: None))
            else:
                value = b.load(self.buffer(self.place(base)), (i,))
            self.store(place, (i,), value)
        cost = TRANSFER * (extent if base is None else 2 * extent)
        return [self.step(name, extent, cost, 1 if isinstance(cost, int) and cost < 2 * GRAIN else CHUNKS)]

    def _frame(self, name: str, node: Value, place: Place) -> Step:
        """What an update leaves as it is: before and behind its region along each axis."""
        self.flat, b = False, self.b
        base, v = node.args
        shape, starts = node.shape, node.attributes["starts"]
        ends = tuple(a + m for a, m in zip(starts, v.shape, strict=True))
        total: Dim = 0
        for axis, n in enumerate(shape):
            for low, high in ((0, starts[axis]), (ends[axis], n)):
                box = [*zip(starts[:axis], ends[:axis], strict=True), (low, high), *((0, d) for d in shape[axis + 1 :])]
                if low != high:
                    total = total + size([end - start for start, end in box])
                    with ExitStack() as nest:
                        i = tuple(nest.enter_context(b.loop(b.dim(start), b.dim(end))) for start, end in box)
                        self.store(place, i, b.load(self.buffer(self.place(base)), i))
        return self.step(name, 1, 2 * TRANSFER * total)


def _has_base(node: Value) -> bool:
    assert node.op is not None
    return node.op.has_base
