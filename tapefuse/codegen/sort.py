"""Sorting as kernels: a merge sort of each row, from runs of one element upwards.

A row is copied into scratch memory of two halves; every pass merges pairs of runs from one half into the other, without
a branch: the next element of the left run is taken unless that of the right run stands before it. `argsort` moves
positions along with the elements. Equal elements keep their order; nan comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

from tapefuse._records import dataclass
from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.costs import CHUNKS, GRAIN, TRANSFER
from tapefuse.codegen.loops import CHUNK, INT, ZERO, Num, Scalar
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.sorting import STEPS, comes_before
from tapefuse.ir.types import Dim, Poly, Shape, Type, size

MERGE = 256  # moving an element into a merged run, in 1/64 ns: its place depends on the comparison before
_ONE, _TWO = Num(1, INT), Num(2, INT)


@dataclass(frozen=True, slots=True)
class _Moved:
    """Scratch memory for the two halves of something that is sorted: [pieces, 2, n]."""

    place: Place
    piece: Scalar

    def at(self, half: Scalar, k: Scalar) -> tuple[Scalar, ...]:
        return self.piece, half, k


class Sort(Context):
    """One op `sort` or `argsort`."""

    def build(self, name: str) -> list[Step]:
        (node,) = self.group.nodes
        axis = node.attributes["axis"]
        n = node.shape[axis]
        others: Shape = (*node.shape[:axis], *node.shape[axis + 1 :])
        cost = size(node.shape) * (2 * TRANSFER + MERGE * _passes(n))
        chunks = 1 if not others or isinstance(cost, int) and cost < 2 * GRAIN else CHUNKS
        moved = [self._scratch(node, node.args[0].dtype, "sorted", n, chunks)]
        if node.op is not None and node.op.name == "argsort":
            moved.append(self._scratch(node, INT, "positions", n, chunks))
        with self.b.piece(others) as lead:
            self._row(node, lead[:axis], lead[axis:], moved)
        return [self.step(name, others[0] if others else 1, cost, chunks)]

    def _scratch(self, node: Value, dtype, tag: str, n: Dim, chunks: int) -> _Moved:
        return _Moved(Place(node, Type(dtype, (chunks, 2, n)), tag), ZERO if chunks == 1 else CHUNK)

    def _row(self, node: Value, before: Sequence[Scalar], after: Sequence[Scalar], moved: list[_Moved]) -> None:
        b = self.b
        n = b.dim(node.shape[len(before)])
        with b.loop(ZERO, n) as k:
            values = [self.pull(node.args[0], (*before, k, *after)), k]
            for m, value in zip(moved, values, strict=False):
                self.store(m.place, m.at(ZERO, k), value)
        half = self._merged(moved, n, _passes(node.shape[len(before)]))
        with b.loop(ZERO, n) as k:
            result = b.reload(self.buffer(moved[-1].place), moved[-1].at(half, k))
            self.store(self.place(node), (*before, k, *after), result)

    def _merged(self, moved: list[_Moved], n: Scalar, passes: int) -> Scalar:
        """Merge runs of 1, 2, 4, ... elements until there is one; the half of the scratch memory that it is in."""
        b = self.b
        width, done = b.declare("mul", INT), b.declare("add", INT)
        with b.loop(ZERO, Num(passes, INT)):
            run, source = b.read(width), b.op("mod", b.read(done), _TWO)
            is_needed = b.op("lt", run, n)
            pair = b.op("mul", run, _TWO)
            pairs = b.op("floordiv", b.op("add", n, b.op("sub", pair, _ONE)), pair)
            with b.loop(ZERO, b.op("select", is_needed, pairs, ZERO)) as k:
                start = b.op("mul", k, pair)
                middle = b.op("minimum", b.op("add", start, run), n)
                self._merge(moved, source, start, middle, b.op("minimum", b.op("add", start, pair), n))
            b.update(width, "mul", b.op("select", is_needed, _TWO, _ONE))
            b.update(done, "add", b.op("select", is_needed, _ONE, ZERO))
        return b.op("mod", b.read(done), _TWO)

    def _merge(self, moved: list[_Moved], source: Scalar, start: Scalar, middle: Scalar, stop: Scalar) -> None:
        """The runs start..middle and middle..stop of one half as one run of the other half."""
        b = self.b
        taken = b.declare("add", INT)  # elements of the left run that have gone
        target, last = b.op("sub", _ONE, source), b.op("sub", stop, _ONE)
        with b.loop(start, stop) as k:
            count = b.read(taken)
            left = b.op("add", start, count)
            right = b.op("add", middle, b.op("sub", b.op("sub", k, start), count))
            places = b.op("minimum", left, last), b.op("minimum", right, last)
            pairs = [[b.reload(self.buffer(m.place), m.at(source, p)) for p in places] for m in moved]
            is_left = b.op("or", b.op("ge", right, stop), self._goes_first(left, middle, *pairs[0]))
            for m, (x, y) in zip(moved, pairs, strict=True):
                self.store(m.place, m.at(target, k), b.op("select", is_left, x, y))
            b.update(taken, "add", b.cast(is_left, INT))

    def _goes_first(self, left: Scalar, middle: Scalar, x: Scalar, y: Scalar) -> Scalar:
        b = self.b
        return b.op("and", b.op("lt", left, middle), b.op("not", comes_before(b, y, x)))

    # -- operands ----------------------------------------------------------------------------------
    def pull(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        if value in self.plan.inline:
            return at(self.b, value, index, lambda v: Operand(v, lambda i: self.pull(v, i)))
        return self.load(value, index)


def _passes(n: Dim) -> int:
    """Most passes over a row."""
    return STEPS if isinstance(n, Poly) else max(n - 1, 0).bit_length()
