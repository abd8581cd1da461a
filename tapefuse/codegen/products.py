"""Products and what is computed from them, row by row, as one kernel: our own contractions with their epilogues.

A dense layer prints as

    for i0 in 0..blocks:                                   # of the rows lo..hi
      b0[chunk,0,0] = b1[start,0] . b2[0,0]  (...)         # a block of rows of the product, in scratch memory
      for i1 in 0..count:
        for i2 in 0..n:
          ...                                              # bias, relu, what reads the block while it is hot

A product that something else reads as well is written to its own memory, and read from there while it is hot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tapefuse.codegen.contraction import MOST_ROWS
from tapefuse.codegen.costs import BLOCK_BYTES, DEEP, GRAIN, HOT_BYTES, LEAST_ROWS, MULTIPLY_ADD
from tapefuse.codegen.groups import Group, Schedule
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, ZERO, Buffer, Contract, Num, Scalar, Term
from tapefuse.codegen.products_operands import is_contraction, is_product, operands, terms, why_blas
from tapefuse.codegen.rows import Accumulators, Rows
from tapefuse.codegen.views import View
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Poly, size

MOST_BLOCK = 128  # rows of a block
UNKNOWN = 256  # columns of a product whose width is known at run time


class Products(Rows):
    """A nest of rows with contractions among its members. Rows are those of the products: all axes but the last."""

    is_free = False

    def __init__(self, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False):
        self.products = tuple(n for n in group.nodes if is_contraction(n))
        super().__init__(plan, group, in_place, strict)
        self.given = frozenset(self.products)
        self.cut = self._cut()

    # -- sizes -------------------------------------------------------------------------------------
    def _block(self) -> int:
        """Rows of which the results stay in the first cache, or in the second one if computing them takes long."""
        width = sum(_known(n.shape[-1], UNKNOWN) * n.dtype.itemsize for n in self.products)
        deep = all(_known(n.args[0].shape[-1], DEEP) >= DEEP for n in self.products)
        fits = (BLOCK_BYTES if deep else HOT_BYTES) // max(width, 1)
        rows = self.rows[-1]
        most = min(MOST_BLOCK, _rounded(rows)) if isinstance(rows, int) else MOST_BLOCK
        return max(min(fits - fits % MOST_ROWS, most), MOST_ROWS)

    def _cost(self) -> Dim:
        return sum((MULTIPLY_ADD * terms(n) for n in self.products), start=super()._cost())

    def _cut(self) -> Dim | None:
        """Pieces of one matrix have at least LEAST_ROWS rows: fewer read the right operand for too little."""
        if not self._is_one:
            return None
        rows = self.rows[-1]
        most = rows * (GRAIN // LEAST_ROWS)
        if isinstance(self.cost, int):  # products over no elements cost nothing, whatever the rows
            return min(self.cost, most) if isinstance(most, int) else self.cost
        each = sum(size((n.shape[-1], n.args[0].shape[-1])) * MULTIPLY_ADD for n in self.products)
        return most if not isinstance(each, int) or each * LEAST_ROWS > GRAIN else None

    # -- the nest ----------------------------------------------------------------------------------
    def _blocks(self, accumulators: Accumulators) -> None:
        with self.over(len(self.rows) - 1) as self.outer:
            if not self._is_one:
                self._in_blocks(ZERO, self.b.dim(self.rows[-1]), accumulators)
            elif self.chunks == 1:
                self._in_blocks(LO, HI, accumulators)
            else:
                self._in_blocks(self._whole_tiles(LO), self._whole_tiles(HI), accumulators)

    @property
    def _is_one(self) -> bool:
        """Whether there is a single product, whose rows are cut into pieces."""
        return self.cut_axis == len(self.rows) - 1

    def _whole_tiles(self, row: Scalar) -> Scalar:
        """Where a piece ends: at the end of a tile."""
        b, tile_rows = self.b, Num(MOST_ROWS, INT)
        up = b.op("floordiv", b.op("add", row, Num(MOST_ROWS - 1, INT)), tile_rows)
        return b.op("minimum", b.op("mul", up, tile_rows), b.dim(self.rows[-1]))

    def _give(self, start: Scalar, count: Scalar) -> None:
        for node in self.products:
            if node in self.needed:
                self._contract(node, start, count)
                (self.stored if node in self.plan.kept else self.scratch).add(node)

    def _contract(self, node: Value, start: Scalar, count: Scalar) -> None:
        """Rows start..start+count of a product."""
        b, (left, right) = self.b, operands(node)
        kept = node in self.plan.kept
        place = self.place(node) if kept else self._scratch_place(node)
        self.written.add(place)
        at_c = (*self.outer, start, ZERO) if kept else (CHUNK, ZERO, ZERO)
        n, k = b.dim(node.shape[-1]), b.dim(node.args[0].shape[-1])
        at_a = left.element(b, (*self._lead(node, 0), start, ZERO))
        at_b = right.element(b, (*self._lead(node, 1), ZERO, ZERO))
        row_a, step_a = (b.dim(d) for d in left.steps[-2:])
        term = Term(k, step_a, b.dim(right.steps[-2]))
        a, c = self._buffer(left), self._buffer(right)
        rows = b.dim(self.rows[-1]) if self._is_one_block() else count
        b.append(Contract(self.buffer(place), a, c, at_c, at_a, at_b, rows, n, n, row_a, (term,), typical=self.block))

    def _is_one_block(self) -> bool:
        """Whether a block is known to be all rows there are."""
        rows = self.rows[-1]
        whole = isinstance(rows, int) and rows <= self.block
        return whole and (not self._is_one or self.chunks == 1)

    def _lead(self, node: Value, side: int) -> tuple[Scalar, ...]:
        """The leading indices of an operand, which may have fewer axes than the product, or broadcast ones."""
        extents = node.args[side].shape[:-2]
        index = self.outer[len(self.outer) - len(extents) :]
        return tuple(ZERO if n == 1 else i for n, i in zip(extents, index, strict=True))

    def _buffer(self, x: View) -> Buffer:
        return self.buffer(self.place(x.base))


def _known(n: Dim, otherwise: int) -> int:
    return otherwise if isinstance(n, Poly) else n


def _rounded(rows: int) -> int:
    return -(-rows // MOST_ROWS) * MOST_ROWS


def described(group: Group) -> Iterator[str]:
    """Why the products of a group are what they are, for people."""
    for node in group.nodes:
        if not is_product(node):
            continue
        m, n, k = *node.shape[-2:], node.args[0].shape[-1]
        others = [x.op.name for x in group.nodes if x.op is not None and not is_product(x)]
        epilogue = (
            f"then {', '.join(dict.fromkeys(others))} on each block of its rows" if others else "nothing joins it"
        )
        why = why_blas(node)
        kind = f"BLAS, {why}" if why else "own contraction, its right operand stays in the second cache"
        yield f"product {m}x{n}x{k}: {kind}; {epilogue}"
