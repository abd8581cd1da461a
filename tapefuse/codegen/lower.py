"""One group of values as one kernel of loop IR: Schedule -> [Step].

Inside a row, work is cut into phases: what needs a finished reduction over the row comes one phase later. Each phase
has one loop per column shape. Values are pulled: computed where they are first needed, remembered for the scope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tapefuse.codegen.context import Context, Step
from tapefuse.codegen.convolution import Convolution
from tapefuse.codegen.costs import CHUNKS, GRAIN, MULTIPLY_ADD, PIECE, WIDE, WIDE_ROW
from tapefuse.codegen.groups import Group, Schedule
from tapefuse.codegen.library import Library
from tapefuse.codegen.loops import HI, INT, LO, ZERO, Gemm, Num, Scalar
from tapefuse.codegen.products import Products
from tapefuse.codegen.products_operands import folded, is_contraction
from tapefuse.codegen.rows import Rows
from tapefuse.codegen.scan import Scan
from tapefuse.codegen.scatter import Scatter
from tapefuse.codegen.sort import Sort
from tapefuse.codegen.transposes import TransposedCopy, is_transposed_copy
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Shape, size

Lowering = Callable[[Schedule, Group, Mapping[Value, Value], bool], Any]


def steps(
    plan: Schedule, in_place: Mapping[Value, Value], strict: bool = False, region: Lowering | None = None
) -> list[Step]:
    """The groups as kernels, in order. `in_place`: kept values whose memory is a parameter's. `strict`: sums keep the
    order of their terms, so they are not cut into pieces. `region`: the lowering of groups with graphs inside."""
    found = []
    for number, group in enumerate(plan.groups):
        if group.kind == "empty":
            continue
        lowering = region if group.kind == "region" and region is not None else _lowering(plan, group)
        found += lowering(plan, group, in_place, strict).build(f"k{number}")
    return [step for step in found if step.written]  # nothing is, where all readers look through what a group computes


def _lowering(plan: Schedule, group: Group) -> Lowering:
    if any(map(is_contraction, group.nodes)):
        return Products
    return TransposedCopy if is_transposed_copy(plan, group) else _KINDS[group.kind]


# -- library products --------------------------------------------------------------------------------
class _Product(Context):
    """A matrix product, batched over leading axes; cut along the batch, or the longer side of a single matrix."""

    def build(self, name: str) -> list[Step]:
        (node,) = self.group.nodes
        (a, ta), (c, tc) = map(folded, node.args)
        *lead, m, n = node.shape
        k = node.args[0].shape[-1]
        cost = size(node.shape) * k * MULTIPLY_ADD
        split = "n" if isinstance(n, int) and (n > WIDE * m if isinstance(m, int) else n >= WIDE_ROW) else "m"
        if lead:
            with self.b.loop(LO, HI) as first, self.b.loops(lead[1:]) as rest:
                self._gemm(node, a, c, (first, *rest), ta, tc, ZERO, self.b.dim(m), "m")
            rows = lead[0]
        else:
            self._gemm(node, a, c, (), ta, tc, LO, HI, split)
            rows = m if split == "m" else n
        small = isinstance(cost, int) and cost < 2 * GRAIN
        return [self.step(name, rows, cost, 1 if small else CHUNKS if lead else _pieces(cost))]

    def _gemm(self, node: Value, a: Value, c: Value, lead, ta: bool, tc: bool, start, stop, split: str) -> None:
        b, (m, n), k = self.b, node.shape[-2:], node.args[0].shape[-1]
        self.written.add(self.place(node))
        buffers = [self.buffer(self.place(v)) for v in (a, c, node)]
        at_a, at_c = (_aligned(lead, v.shape[:-2]) for v in (a, c))
        sizes = (b.dim(m), b.dim(n), b.dim(k))
        left, right, result = buffers
        b.append(Gemm(left, right, result, at_a, at_c, tuple(lead), ta, tc, *sizes, start, stop, split))


def _pieces(cost: Dim) -> int:
    """Most pieces of a BLAS call: each packs its operands anew, so they are large."""
    if not isinstance(cost, int):
        return 4
    pieces = 2
    while cost > pieces * PIECE and pieces < CHUNKS:
        pieces *= 2
    return pieces


def _aligned(index, shape: Shape) -> tuple[Scalar, ...]:
    tail = index[len(index) - len(shape) :]
    return tuple(Num(0, INT) if n == 1 else i for i, n in zip(tail, shape, strict=True))


_KINDS: dict[str, Lowering] = {
    "rows": Rows,
    "gemm": _Product,
    "conv": Convolution,
    "scatter": Scatter,
    "scan": Scan,
    "sort": Sort,
    "numpy": Library,
    "numpy_whole": Library,
}
