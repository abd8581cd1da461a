"""Ops that NumPy's library computes (`Op.calls`), as kernels that call the inner loops of NumPy's own functions.

A rule says which loops are called on what:

    def calls(k, y, a):                                   # eigh: eigenvalues in the first row, vectors below
        n = a.shape[-1]
        k.call("linalg.eigh_lo", (n,), k.operand(a, 2), k.part(y, 2, 0, (1,)), k.part(y, 2, n, (n, 1)))

Leading axes are repetitions: one call does those of a piece, `k.each` takes them one by one. Operands without leading
axes are the same in all of them. What fails is marked in the result (`ops.failed`). Complex numbers are pairs of real
ones in memory (`ir.ops.paired`): a rule sees `Numbers`, and counts elements of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.costs import CALLED_TERM, CHUNKS, GRAIN, MULTIPLY_ADD, NUMPY_CALL
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, ZERO, Core, Num, Scalar, Substitute
from tapefuse.codegen.products_operands import folded
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.failure import MARKS
from tapefuse.ir.ops.paired import Numbers
from tapefuse.ir.types import Dim, Shape, Type, real_dtype, size

_ONE = Num(1, INT)


@dataclass(frozen=True, slots=True)
class Part:
    """What a call reads or writes in a place: `start` and `steps` (one for each axis of a repetition) count elements of
    the place, `apart` leads from one repetition to the next. `dtype`: what the elements are to the function."""

    place: Place
    dtype: np.dtype
    start: Dim
    steps: tuple[Dim, ...]
    apart: Dim
    between: Dim | None = None  # from one to the next of those that one call does, if several do each repetition


class Library(Context):
    """One op whose rule `calls` is run with this."""

    def build(self, name: str) -> list[Step]:
        (self.node,) = self.group.nodes
        assert self.node.op is not None and self.node.op.calls is not None
        self.flat, self.name = True, name
        self.lead: Shape = ()
        self.cost: Dim = 0
        self.first: Scalar = LO
        self.count: Scalar = self.b.op("sub", HI, LO)
        self.failed: Scalar | None = None
        self.node.op.calls(self, self.node, *self.node.args, **self.node.attributes)
        self._mark()
        rows = size(self.lead)
        cost = rows * self.cost
        chunks = 1 if not self.lead or isinstance(cost, int) and cost < 2 * GRAIN else CHUNKS
        return [self.step(name, rows, cost, chunks)]

    # -- operands ----------------------------------------------------------------------------------
    def operand(self, x: Value | Numbers, rank: int, dtype: np.dtype | None = None) -> Part:
        """All of a value whose last `rank` axes belong to one repetition; a transposed matrix is read where it is."""
        value, is_turned = folded(x) if rank == 2 and isinstance(x, Value) else (x, False)
        steps: tuple[Dim, ...] = (1, value.shape[-1]) if is_turned else _row_major(x.shape[len(x.shape) - rank :])
        return self.part(value, rank, 0, steps, dtype)

    def part(
        self, x: Value | Numbers, rank: int, start: Dim, steps: Sequence[Dim], dtype: np.dtype | None = None
    ) -> Part:
        """A part of each repetition of a value, whose last `rank` axes belong to one."""
        lead = x.shape[: len(x.shape) - rank]
        return self.spread(x, lead, size(x.shape[len(lead) :]) if lead else 0, start, steps, dtype)

    def spread(
        self,
        x: Value | Numbers,
        lead: Shape,
        apart: Dim,
        start: Dim,
        steps: Sequence[Dim],
        dtype: np.dtype | None = None,
        between: Dim | None = None,
    ) -> Part:
        """A part of a value of which there are `lead` repetitions, `apart` elements from one to the next."""
        assert self.lead in ((), lead) or not lead, "operands have the same leading axes, or none"
        self.lead = self.lead or lead
        value, width = (x.value, 2) if isinstance(x, Numbers) else (x, 1)
        place = self.place(value)
        if value is self.node:
            self.written.add(place)
        return Part(place, dtype or x.dtype, start * width, tuple(s * width for s in steps), apart * width, between)

    def scratch(self, dtype: np.dtype, shape: Shape, tag: str) -> Part:
        """Memory for one repetition, inside of `each`. Comes after an operand has told whether there are several."""
        pair = (2,) if np.dtype(dtype).kind == "c" else ()
        memory = Type(real_dtype(np.dtype(dtype)), (CHUNKS if self.lead else 1, *shape, *pair))
        place = Place(self.node, memory, f"{self.name} {tag}")
        self.written.add(place)
        return Part(place, np.dtype(dtype), 0, _row_major((*shape, *pair))[: len(shape)], 0)

    def constant(self, value: float, dtype: np.dtype) -> Part:
        """A number that is the same for all repetitions."""
        part = self.scratch(dtype, (), f"constant {value}")
        self.store(part.place, (self._element(part),), Num(value, np.dtype(dtype)))
        return part

    # -- statements --------------------------------------------------------------------------------
    @contextmanager
    def each(self) -> Iterator[None]:
        """Repetitions one by one."""
        with self.b.loop(LO, HI) as i:
            self.first, self.count = i, _ONE
            yield
            self._mark()

    def each_if(self, is_needed: bool) -> AbstractContextManager[None]:
        """`each` where a repetition takes more than the call."""
        return self.each() if is_needed else nullcontext()

    @contextmanager
    def when(self, condition: Scalar) -> Iterator[None]:
        """Statements that run once, or not at all."""
        with self.b.loop(ZERO, self.b.cast(condition, INT)):
            yield

    def call(
        self, function: str, sizes: Sequence[Dim], *parts: Part, terms: Dim = 0, times: Dim | None = None
    ) -> Scalar:
        """Call a loop of NumPy's for the dtypes of its operands. `terms`: multiply-adds of one repetition; `times`: how
        often each repetition of `each` does it, in places that are `between` apart.

        The result is whether it has failed. If the op says what that means, its own result is marked then.
        """
        b = self.b
        letters = "".join(p.dtype.char for p in parts)
        operands = [Core(self.buffer(p.place), (self._element(p),), self._steps(p)) for p in parts]
        count = self.count if times is None else b.dim(times)
        failed = b.call(f"{function}.{letters}", operands, [count, *map(b.dim, sizes)])
        self.cost = self.cost + NUMPY_CALL + terms * CALLED_TERM
        if self.node.op is not None and self.node.op.failure:
            self.failed = failed if self.failed is None else b.op("or", self.failed, failed)
        return failed

    def solve_triangular(
        self, a: Part, b: Part, y: Part, n: Dim, m: Dim, lower: bool, transpose: bool, unit: bool
    ) -> None:
        """BLAS's solution of a y = b for triangular n x n matrices, or their transposes, and m columns."""
        is_complex = y.dtype.kind == "c"
        if a.steps[1] != 1 + is_complex:  # in memory it is the transpose
            lower, transpose = not lower, not transpose
        with self.each():
            self.fill(y, (n, m), lambda i, j: self.numbers(b, i, j))
            places = (self.buffer(a.place), self.buffer(y.place), (self._element(a),), (self._element(y),))
            self.b.append(Substitute(*places, self.b.dim(n), self.b.dim(m), lower, transpose, unit, is_complex))
        self.cost = self.cost + n * n * m * MULTIPLY_ADD

    def fill(self, target: Part, shape: Shape, element: Callable[..., Scalar | Sequence[Scalar]]) -> None:
        """Every element of a part, by its index, as the result's element: a scalar, or the parts of a number."""
        with self.b.loops(shape) as index:
            found = element(*index)
            values = found if isinstance(found, Sequence) else (found,)
            for part, value in zip(_components(target), values, strict=True):
                self.store(part.place, (self._element(part, index),), self.b.cast(value, part.dtype))

    def fill_imaginary(self, target: Part, shape: Shape) -> None:
        """Zeros for the imaginary parts of complex numbers; nothing for real ones."""
        for part in _components(target)[1:]:
            zero = self.b.number(0, part.dtype)
            self.fill(part, shape, lambda *index, zero=zero: zero)

    def conjugate(self, target: Part, shape: Shape) -> None:
        """Complex numbers become their conjugates."""
        for part in _components(target)[1:]:
            self.fill(part, shape, lambda *index, part=part: self.b.op("neg", self.read(part, *index)))

    def read(self, source: Part, *index: Scalar) -> Scalar:
        """An element of a part, as it is now."""
        return self.b.reload(self.buffer(source.place), (self._element(source, index),))

    def numbers(self, source: Part, *index: Scalar) -> tuple[Scalar, ...]:
        """The parts of an element as they are now: one, or two of a complex number."""
        return tuple(self.read(part, *index) for part in _components(source))

    def numbers_if(self, condition: Scalar, source: Part, *index: Scalar) -> tuple[Scalar, ...]:
        """The parts of an element where the condition holds, and else 0."""
        zero = self.b.number(0, real_dtype(source.dtype))
        return tuple(self.b.op("select", condition, x, zero) for x in self.numbers(source, *index))

    def sum(self, dtype: np.dtype, n: Dim, term: Callable[[Scalar], Sequence[Scalar]]) -> tuple[Scalar, ...]:
        """The sum of `n` numbers, each given by its parts."""
        totals = [self.b.declare("add", real_dtype(dtype)) for _ in range(1 + (dtype.kind == "c"))]
        with self.b.loops((n,)) as (k,):
            for total, part in zip(totals, term(k), strict=True):
                self.b.update(total, "add", part)
        return tuple(map(self.b.read, totals))

    def _element(self, p: Part, index: Sequence[Scalar] = ()) -> Scalar:
        b = self.b
        if p.place.tag:
            linear = b.op("mul", CHUNK, b.dim(size(p.place.type.shape[1:]))) if p.place.type.shape[0] != 1 else ZERO
        else:
            linear = b.op("mul", self.first, b.dim(p.apart))
        linear = b.op("add", linear, b.dim(p.start))
        for i, step in zip(index, p.steps, strict=False):
            linear = b.op("add", linear, b.op("mul", i, b.dim(step)))
        return linear

    def _steps(self, p: Part) -> tuple[Scalar, ...]:
        item = self.buffer(p.place).type.dtype.itemsize
        return tuple(self.b.dim(step * item) for step in (p.apart if p.between is None else p.between, *p.steps))

    def _mark(self) -> None:
        """Where a call has failed, put the mark into the first element of its results, if there are elements."""
        if self.failed is None:
            return
        failed, self.failed = self.failed, None
        b, dtype, place = self.b, self.node.dtype, self.place(self.node)
        apart = size(self.node.shape[len(self.lead) :])
        stop = b.op("minimum", b.op("add", self.first, _ONE), HI)
        with b.loop(self.first, stop) as i, b.loop(ZERO, b.op("minimum", _ONE, b.dim(apart))) as k:
            at = (b.op("add", b.op("mul", i, b.dim(apart)), k),)
            mark = b.op("floating", Num(MARKS[dtype], np.dtype(f"i{dtype.itemsize}")))
            self.store(place, at, b.op("select", failed, mark, b.reload(self.buffer(place), at)))


def _components(p: Part) -> tuple[Part, ...]:
    """A part of real numbers, or of complex ones their real parts and their imaginary parts."""
    if p.dtype.kind != "c":
        return (p,)
    real = replace(p, dtype=real_dtype(p.dtype))
    return real, replace(real, start=p.start + 1)


def _row_major(shape: Shape) -> tuple[Dim, ...]:
    return tuple(size(shape[k + 1 :]) for k in range(len(shape)))
