"""Sums over iterations that run on threads: each iteration keeps its terms, which are added up afterwards.

    for k: s[8 k : 8 k + 9] += v     ->     for k: terms[k] = v;     s[0:9] += terms[0]; s[8:17] += terms[1]; ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Value, param
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.bodies import row, with_row
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.types import Poly, Shape, Type, substitute


class _Term(NamedTuple):
    """What every iteration adds to a part of a sum."""

    stack: Value
    value: Value
    starts: Shape
    strides: Shape


class Terms:
    """The terms of those sums, by parameter of the body, to parts of which iterations add and nothing else."""

    def __init__(self, sums: Mapping[Value, Value], loop: Loop):
        self.index = loop.index
        assert isinstance(loop.trips, int)
        self.trips = loop.trips
        found = {t: self._terms(t, y) for t, y in sums.items()}
        self.of = {t: terms for t, terms in found.items() if terms is not None}
        self.terms = [term for terms in self.of.values() for term in terms]

    def _terms(self, t: Value, y: Value) -> list[_Term] | None:
        """What is added to the sum `t` in an iteration after which it is `y`."""
        found = []
        while y is not t:
            if y.op is not ops.put_add:
                return None
            y, value, a = *y.args, y.attributes
            stack = param(Type(value.dtype, (self.trips, *value.shape)))
            found.append(_Term(stack, value, a["starts"], a["strides"]))
        return found

    @property
    def stacks(self) -> list[Value]:
        return [term.stack for term in self.terms]

    def start(self) -> list[Value]:
        """The stacks before the loop."""
        return [ops.empty.emit(shape=s.shape, dtype=s.dtype) for s in self.stacks]

    def rows(self) -> list[Value]:
        """The stacks with the terms of an iteration."""
        return [with_row(term.stack, Poly.symbol(self.index), term.value) for term in self.terms]

    def total(self, t: Value, found: Mapping[Value, Value]) -> Value:
        """A sum. `found`: the stacks after the loop."""
        total = zeros(t.type)
        for k in reversed(range(self.trips)):
            for term in self.of[t]:
                starts = substitute(term.starts, {self.index: k})
                value = row(found[term.stack], k, term.value.shape)
                total = ops.put_add(total, value, starts=starts, strides=term.strides)
        return total
