"""Ops that NumPy's library computes (`Op.calls`), as kernels that call the inner loops of NumPy's own functions.

A rule says which loops are called on what:

    def calls(k, y, a):                                   # eigh: eigenvalues in the first row, vectors below
        n = a.shape[-1]
        k.call("linalg.eigh_lo", (n,), k.operand(a, 2), k.part(y, 2, 0, (1,)), k.part(y, 2, n, (n, 1)))

Leading axes are repetitions: one call does those of a piece, `k.each` takes them one by one. Operands without leading
axes are the same in all of them. What fails is marked in the result (`ops.failed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.costs import CALLED_TERM, CHUNKS, GRAIN, NUMPY_CALL
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, ZERO, Core, Num, Scalar
from tapefuse.codegen.products_operands import folded
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.failure import MARKS
from tapefuse.ir.types import Dim, Shape, Type, size

_ONE = Num(1, INT)


@dataclass(frozen=True, slots=True)
class Part:
    """What a call reads or writes in a place: `start` and `steps` (one for each axis of a repetition) count elements,
    `apart` leads from one repetition to the next. `dtype`: what the elements are to the function."""

    place: Place
    dtype: np.dtype
    start: Dim
    steps: tuple[Dim, ...]
    apart: Dim


class Library(Context):
    """One op whose rule `calls` is run with this."""

    def build(self, name: str) -> list[Step]:
        (self.node,) = self.group.nodes
        assert self.node.op is not None and self.node.op.calls is not None
        self.flat, self.name, self.lead, self.cost = True, name, (), 0
        self.first: Scalar = LO
        self.count: Scalar = self.b.op("sub", HI, LO)
        self.node.op.calls(self, self.node, *self.node.args, **self.node.attributes)
        rows = size(self.lead)
        cost = rows * self.cost
        chunks = 1 if not self.lead or isinstance(cost, int) and cost < 2 * GRAIN else CHUNKS
        return [self.step(name, rows, cost, chunks)]

    # -- operands ----------------------------------------------------------------------------------
    def operand(self, x: Value, rank: int, dtype: np.dtype | None = None) -> Part:
        """All of a value whose last `rank` axes belong to one repetition; a transposed matrix is read where it is."""
        value, is_turned = folded(x) if rank == 2 else (x, False)
        *_, m, n = (1, *value.shape)
        steps: tuple[Dim, ...] = (1, n) if is_turned else _row_major(x.shape[len(x.shape) - rank :])
        return self.part(value, rank, 0, steps, dtype)

    def part(self, x: Value, rank: int, start: Dim, steps: Sequence[Dim], dtype: np.dtype | None = None) -> Part:
        """A part of each repetition of a value, whose last `rank` axes belong to one."""
        lead = x.shape[: len(x.shape) - rank]
        self.lead = self.lead or lead
        apart = size(x.shape[len(lead) :]) if lead else 0
        place = self.place(x)
        if x is self.node:
            self.written.add(place)
        return Part(place, dtype or x.dtype, start, tuple(steps), apart)

    def scratch(self, dtype: np.dtype, shape: Shape, tag: str) -> Part:
        """Memory for one repetition, inside of `each`."""
        place = Place(self.node, Type(np.dtype(dtype), (CHUNKS, *shape)), f"{self.name} {tag}")
        self.written.add(place)
        return Part(place, np.dtype(dtype), 0, _row_major(shape), size(shape))

    # -- statements --------------------------------------------------------------------------------
    @contextmanager
    def each(self) -> Iterator[None]:
        """Repetitions one by one."""
        with self.b.loop(LO, HI) as i:
            self.first, self.count = i, _ONE
            yield

    def call(self, function: str, sizes: Sequence[Dim], *parts: Part, terms: Dim = 0) -> None:
        """Call a loop of NumPy's for the dtypes of its operands. `terms`: multiply-adds of one repetition."""
        b = self.b
        letters = "".join(p.dtype.char for p in parts)
        operands = [Core(self.buffer(p.place), (self._element(p),), self._steps(p)) for p in parts]
        failed = b.call(f"{function}.{letters}", operands, [self.count, *map(b.dim, sizes)])
        self.cost = self.cost + NUMPY_CALL + terms * CALLED_TERM
        if self.node.op is not None and self.node.op.failure:
            self._mark(failed)

    def fill(self, target: Part, shape: Shape, element: Callable[..., Scalar]) -> None:
        """Every element of a part, by its index, as the element of the result's dtype."""
        with self.b.loops(shape) as index:
            value = self.b.cast(element(*index), target.dtype)
            self.store(target.place, (self._element(target, index),), value)

    def read(self, source: Part, *index: Scalar) -> Scalar:
        """An element of a part, as it is now."""
        return self.b.reload(self.buffer(source.place), (self._element(source, index),))

    def _element(self, p: Part, index: Sequence[Scalar] = ()) -> Scalar:
        b, repetition = self.b, CHUNK if p.place.tag else self.first
        linear = b.op("add", b.op("mul", repetition, b.dim(p.apart)), b.dim(p.start))
        for i, step in zip(index, p.steps, strict=False):
            linear = b.op("add", linear, b.op("mul", i, b.dim(step)))
        return linear

    def _steps(self, p: Part) -> tuple[Scalar, ...]:
        item = self.buffer(p.place).type.dtype.itemsize
        return tuple(self.b.dim(step * item) for step in (p.apart, *p.steps))

    def _mark(self, failed: Scalar) -> None:
        """Where a call has failed, put the mark into the first element of its results, if there are elements."""
        b, dtype, place = self.b, self.node.dtype, self.place(self.node)
        apart = size(self.node.shape[len(self.lead) :])
        stop = b.op("minimum", b.op("add", self.first, _ONE), HI)
        with b.loop(self.first, stop) as i, b.loop(ZERO, b.op("minimum", _ONE, b.dim(apart))) as k:
            at = (b.op("add", b.op("mul", i, b.dim(apart)), k),)
            mark = b.op("floating", Num(MARKS[dtype], np.dtype(f"i{dtype.itemsize}")))
            self.store(place, at, b.op("select", failed, mark, b.reload(self.buffer(place), at)))


def _row_major(shape: Shape) -> tuple[Dim, ...]:
    return tuple(size(shape[k + 1 :]) for k in range(len(shape)))
