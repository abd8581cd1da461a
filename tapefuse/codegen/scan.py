"""A running sum as kernels.

Along the last axis a row carries its sum in a register. Along another axis the sums of all columns are carried in
scratch memory, so that loops run over consecutive elements; what is cut into pieces is then the first axis behind it. A
single long row is cut as well: one kernel adds up each piece, the next one starts each piece from the sum of those
before it.
"""

from __future__ import annotations

from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.costs import CHUNKS, GRAIN, RUNNING_SUM, SPAN, TRANSFER
from tapefuse.codegen.loops import CHUNK, HI, LO, ZERO, Scalar
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Shape, Type, size


class Scan(Context):
    """One op `cumsum`."""

    def build(self, name: str) -> list[Step]:
        (node,) = self.group.nodes
        axis = node.attributes["axis"]
        before, after = node.shape[:axis], node.shape[axis + 1 :]
        cost = size(node.shape) * (2 * TRANSFER + RUNNING_SUM)
        chunks = 1 if isinstance(cost, int) and cost < 2 * GRAIN else CHUNKS
        if size(after) != 1:
            self._columns(node, before, after)
            row = size(after) * node.dtype.itemsize
            if not before and isinstance(row, int):
                chunks = min(chunks, max(2, row // SPAN))
            return [self.step(name, (before or after)[0], cost, chunks)]
        if size(before) != 1:
            with self.b.piece(before) as lead:
                self._row(node, lead, ZERO, self.b.dim(node.shape[axis]))
            return [self.step(name, before[0], cost, chunks)]
        first_row: tuple[Scalar, ...] = (ZERO,) * len(before)
        if chunks == 1 or self.strict:
            self._row(node, first_row, LO, HI)
            return [self.step(name, node.shape[axis], cost)]
        sums = _Sums(self.plan, self.group, self.in_place, self.strict)
        first = sums.steps(f"{name}_sums", node, first_row, cost)
        self._row(node, first_row, LO, HI, sums.place_of(node))
        return [first, self.step(name, node.shape[axis], cost, CHUNKS)]

    def _row(
        self, node: Value, lead: tuple[Scalar, ...], start: Scalar, stop: Scalar, sums: Place | None = None
    ) -> None:
        """One row, or a piece of it that starts from the sums of the pieces before."""
        b, after = self.b, (ZERO,) * (len(node.shape) - len(lead) - 1)
        acc = b.declare("add", node.dtype)
        if sums is not None:
            with b.loop(ZERO, CHUNK) as c:
                b.update(acc, "add", b.load(self.buffer(sums), (c,)))
        with b.loop(start, stop) as k:
            index = (*lead, self.element(node, k), *after)
            b.update(acc, "add", self.pull(node.args[0], index))
            self.store(self.place(node), index, b.read(acc))

    def _columns(self, node: Value, before: Shape, after: Shape) -> None:
        b, pieces = self.b, ((CHUNKS,), (CHUNK,)) if before else ((), ())
        carry = Place(node, Type(node.dtype, (*pieces[0], *after)), "carry")
        loops = b.loops if before else b.piece
        with b.piece(before) as lead:
            with loops(after) as j:
                self.store(carry, (*pieces[1], *j), b.number(0, node.dtype))
            with b.loop(ZERO, b.dim(node.shape[len(before)])) as k, loops(after) as j:
                index = (*lead, self.element(node, k), *j)
                so_far = b.reload(self.buffer(carry), (*pieces[1], *j))
                total = b.op("add", so_far, self.pull(node.args[0], index))
                self.store(carry, (*pieces[1], *j), total)
                self.store(self.place(node), index, total)

    def element(self, node: Value, k: Scalar) -> Scalar:
        """The position of the k-th term."""
        if not node.attributes["reverse"]:
            return k
        return self.b.op("sub", self.b.dim(node.shape[node.attributes["axis"]] - 1), k)

    # -- operands ----------------------------------------------------------------------------------
    def pull(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        if value in self.plan.inline:
            return at(self.b, value, index, lambda v: Operand(v, lambda i: self.pull(v, i)))
        return self.load(value, index)


class _Sums(Scan):
    """The sum of each piece of a row."""

    def place_of(self, node: Value) -> Place:
        return Place(node, Type(node.dtype, (CHUNKS,)), "sums")

    def steps(self, name: str, node: Value, lead: tuple[Scalar, ...], cost: Dim) -> Step:
        b, after = self.b, (ZERO,) * (len(node.shape) - len(lead) - 1)
        acc = b.declare("add", node.dtype)
        with b.loop(LO, HI) as k:
            b.update(acc, "add", self.pull(node.args[0], (*lead, self.element(node, k), *after)))
        self.store(self.place_of(node), (CHUNK,), b.read(acc))
        return self.step(name, node.shape[len(lead)], cost, CHUNKS)
