"""Sums of matrix products over the iterations of a loop, as one product after it.

    gw += x_k^T d_k   for each k      ->      gw = X^T D,  the rows of X and D one below the other

That is the gradient of a weight in a recurrent layer. The loop keeps d_k in a stack (and x_k, unless it is a row of
an array that is there), and never touches the whole of gw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes import budget, loop_ranges, residuals
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.bodies import depending, with_row
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.types import Dim, Poly, Type, symbols


class Rows(NamedTuple):
    """A matrix [m, n] of every iteration k: row k + first of `array`, or a row of a stack that the loop writes."""

    value: Value
    array: Value | None
    first: Dim


class Products:
    """Which sums are made after the loop. With a memory budget, none."""

    def __init__(self, sums: Mapping[Value, Value], operands: Mapping[Value, Value], loop: Loop):
        """`sums`: parameter -> its value after an iteration; `operands`: of the loop, by parameter of its body."""
        self.loop, self.operands, self.extent = loop, operands, loop_ranges.extent(loop.trips)
        self.of: dict[Value, tuple[Rows, Rows]] = {}
        self.stacks: dict[Value, Value] = {}  # a matrix -> the parameter that is its stack
        totals = depending(Graph((), tuple(sums.values())), sums)
        for total, y in sums.items():
            if budget.limit() is None and (factors := self._factors(total, y, totals)) is not None:
                self.of[total] = factors
                for f in factors:
                    if f.array is None:
                        shape = (self.extent, *f.value.shape)
                        self.stacks.setdefault(f.value, param(Type(f.value.dtype, shape)))

    def _factors(self, total: Value, y: Value, totals: set[Value]) -> tuple[Rows, Rows] | None:
        """x_k and d_k of a sum that adds x_k^T d_k, if keeping them takes less than the sum."""
        if y.op is not ops.add or total not in y.args:
            return None
        product = y.args[1] if y.args[0] is total else y.args[0]
        if product.op is not ops.matmul or product in totals or len(total.shape) != 2:
            return None
        a, d = product.args
        if len(a.shape) != 2 or len(d.shape) != 2 or self.loop.index in symbols((*a.shape, *d.shape)):
            return None
        x = a.args[0] if a.op is ops.transpose else ops.transpose(a, perm=(1, 0))
        if a.op is not ops.transpose and a.shape[1] == 1:
            x = ops.reshape(a, shape=(1, a.shape[0]))
        factors = self._rows(x), self._rows(d)
        new = [f.value for f in factors if f.array is None and f.value not in self.stacks]
        fits = sum(map(residuals.bytes_of, new)) <= 2 * residuals.bytes_of(total)
        return factors if fits else None

    def _rows(self, x: Value) -> Rows:
        """Whether a matrix is row k of an operand in another shape."""
        v = x
        while v.op is ops.reshape:
            (v,) = v.args
        if v.op is ops.slice_ and (array := v.args[0]) in self.operands:
            a, rest = v.attributes, array.shape[1:]
            first = a["starts"][0] - Poly.symbol(self.loop.index)
            whole = not any(n != 0 for n in a["starts"][1:]) and a["limits"][1:] == rest
            one = a["limits"][0] - a["starts"][0] == 1 and all(s == 1 for s in a["strides"])
            if whole and one and self.loop.index not in symbols((first,)) and self.extent == self.loop.trips:
                return Rows(x, array, first)
        return Rows(x, None, 0)

    def start(self) -> list[Value]:
        """The stacks before the loop: rows that no iteration may write are zeros."""
        if self.extent != self.loop.trips:
            return [zeros(s.type) for s in self.stacks.values()]
        return [ops.empty.emit(shape=s.shape, dtype=s.dtype) for s in self.stacks.values()]

    def rows(self) -> list[Value]:
        """What an iteration makes of the stacks."""
        k = Poly.symbol(self.loop.index)
        return [with_row(stack, k, v) for v, stack in self.stacks.items()]

    def total(self, sum: Value, found: Mapping[Value, Value]) -> Value:
        """One of the sums, from the operands of the loop and what it gives for the stacks."""
        x, d = (self._all(f, found) for f in self.of[sum])
        return ops.matmul(ops.transpose(x, perm=(1, 0)), d)

    def _all(self, f: Rows, found: Mapping[Value, Value]) -> Value:
        """The matrices of all iterations one below the other: [trips * m, n]."""
        m, n = f.value.shape
        trips = self.extent
        if f.array is None:
            rows = found[self.stacks[f.value]]
        else:
            array = self.operands[f.array]
            rest = array.shape[1:]
            bounds = {"starts": (f.first, *(0 for _ in rest)), "limits": (f.first + trips, *rest)}
            rows = ops.slice_(array, **bounds, strides=(1,) * len(array.shape))
        return ops.reshape(rows, shape=(trips * m, n))
