"""A random program in the making: the values so far, each with an interval that its elements keep for all inputs.

The interval of complex values is that of their moduli, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.graph import Value, param, reachable
from tapefuse.ir.op import constant
from tapefuse.ir.types import Dim, Poly, Shape, Type, broadcast_shapes, complex_dtype, size, substitute

F4, F8, I4, I8, U1, BOOL = map(np.dtype, ("f4", "f8", "i4", "i8", "u1", "?"))
EXTENTS = (3, 2, 1, 5, 8, 17)
BINDINGS = (1, 3, 7)  # sizes of the symbolic dimension B
B = Poly.symbol("B")
MAX_SIZE = 600  # elements of a value
LIMIT = 12.0  # a float of larger magnitude is squashed
RECENT = 5  # every other operand is one of the last few values: programs grow deep
SCALARS = (0.5, 2.0, 1.0, -1.0, 0.0, 3.0, -0.25, 1.5)

Interval = tuple[float, float]
Pick = Callable[[int, int], int]  # an integer from low to high; low is the simplest choice
T = TypeVar("T")


def sizes(d: Dim) -> tuple[int, ...]:
    """What a dimension may be when the program runs."""
    return tuple(substitute(d, {"B": n}) for n in BINDINGS) if isinstance(d, Poly) else (d,)


def is_never_empty(shape: Iterable[Dim]) -> bool:
    return all(min(sizes(d)) > 0 for d in shape)


def whole(dtype: np.dtype) -> Interval:
    """The interval of an integer or bool of which nothing is known."""
    return (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


class Draft:
    def __init__(self, pick: Pick, dtype: np.dtype, symbolic: bool, is_complex: bool = False):
        self.pick, self.dtype, self.symbolic, self.is_complex = pick, dtype, symbolic, is_complex
        self.params: list[tuple[Value, Interval]] = []
        self.pool: list[Value] = []
        self.ranges: dict[Value, Interval] = {}
        self.read: set[Value] = set()
        self.palette = [self.one_of(EXTENTS) for _ in range(3)]  # few extents, so that shapes meet again
        if symbolic:
            self.param(dtype, (B, *self.shape(self.pick(0, 2))))
        else:
            self.param(dtype)

    # -- choices -------------------------------------------------------------------------------------------------------
    def chance(self, n: int) -> bool:
        """True once in `n` times."""
        return self.pick(1, n) == n

    def one_of(self, items: Sequence[T]) -> T:
        return items[self.pick(0, len(items) - 1)]

    def kind(self, *kinds: str) -> str:
        """One of the kinds of dtypes, or, every other time in a program of complex numbers, "c"."""
        return "c" if self.is_complex and self.chance(2) else self.one_of(kinds)

    def extent(self) -> Dim:
        if self.symbolic and self.chance(8):
            return B
        return 0 if self.chance(150) else self.one_of(self.palette)

    def shape(self, rank: int | None = None) -> Shape:
        rank = self.one_of((2, 1, 3, 2, 1, 0, 4)) if rank is None else rank
        dims = [self.extent() for _ in range(rank)]
        if dims and self.symbolic and self.chance(3):
            dims[0] = B
        while max(sizes(size(dims))) > MAX_SIZE:
            dims[dims.index(max(dims, key=lambda d: max(sizes(d))))] = 2
        return tuple(dims)

    def existing(self, accept: Callable[[Value], bool]) -> Value | None:
        fitting = [v for v in reversed(self.pool) if accept(v)]
        if not fitting:
            return None
        unread = [v for v in fitting if v not in self.read]
        if unread and self.chance(2):  # so that most values lead to few outputs
            return self.one_of(unread)
        return fitting[self.pick(0, min(RECENT, len(fitting)) - 1)] if self.chance(2) else self.one_of(fitting)

    def any_of(self, kinds: str, accept: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value whose dtype is of one of `kinds`; a new parameter if there is none."""
        found = self.existing(lambda v: v.dtype.kind in kinds and accept(v))
        if found is not None and not self.chance(12):
            return found
        floats = {"f": self.dtype, "c": complex_dtype(self.dtype)}
        dtype = {**floats, "i": self.one_of((I8, I8, I4)), "u": U1, "b": BOOL}[kinds[0]]
        fresh = self.param(dtype)
        return fresh if accept(fresh) or found is None else found

    # -- values --------------------------------------------------------------------------------------------------------
    def param(self, dtype: np.dtype, shape: Shape | None = None, limits: Interval | None = None) -> Value:
        if limits is None:
            floats = self.one_of(((-2.0, 2.0), (0.5, 2.0)))  # of complex numbers, either part
            limits = {"f": floats, "c": floats, "b": (0, 1), "u": (0, 9), "i": (-9, 9)}[dtype.kind]
        v = param(Type(dtype, self.shape() if shape is None else shape), f"p{len(self.params)}")
        self.params.append((v, limits))
        return self.keep(v, *limits) if dtype.kind != "c" else self.keep(v, 0, 1.5 * max(map(abs, limits)))

    def scalar(self, x: float, dtype: np.dtype) -> Value:
        if dtype.kind in "ub":
            x = abs(x)
        x = dtype.type(x).item()
        return self.keep(constant(x, dtype), x, x) if dtype.kind != "c" else self.keep(constant(x, dtype), 0, abs(x))

    def array(self, dtype: np.dtype, shape: tuple[int, ...], low: int, high: int) -> Value:
        """A constant of a few elements from `low` to `high` (halves of them if floating)."""
        step = 2 if dtype.kind == "f" else 1
        n = size(shape)
        elements = [self.pick(step * low, step * high) / step for _ in range(n)]
        v = constant(np.array(elements, np.float64).astype(dtype).reshape(shape))
        return self.keep(v, low, high) if n else self.keep(v, 0, 0)

    def keep(self, v: Value, low: float, high: float) -> Value:
        if v not in self.ranges:
            self.ranges[v] = (low, high)
            self.pool.append(v)
            self.read |= reachable(v.args)
        return v

    def new(self, v: Value, low: float | None = None, high: float | None = None) -> Value:
        """`v`, squashed if it may be large. Integers may wrap: unknown intervals are those of the dtype."""
        if v.dtype.kind == "c":
            assert low is not None and high is not None
            most = 1.001 * max(abs(low), abs(high))
            self.keep(v, 0, most)
            return v if most <= LIMIT else self.keep(ops.mul(v, 1 / most), 0, 1.001)
        if v.dtype.kind != "f":
            bounds = whole(v.dtype)
            known = low is not None and high is not None and bounds[0] <= low and high <= bounds[1]
            return self.keep(v, low, high) if known else self.keep(v, *bounds)
        assert low is not None and high is not None and low <= high, (v, low, high)
        slack = 1e-3 * max(abs(low), abs(high))  # roundings
        self.keep(v, low - slack if low not in (0, 1) else low, high + slack)
        return self.squashed(v) if max(abs(low), abs(high)) > LIMIT else v

    def magnitude(self, v: Value) -> float:
        return max(map(abs, self.ranges[v]))

    # -- operands that fit ---------------------------------------------------------------------------------------------
    def squashed(self, v: Value) -> Value:
        """A function of `v` of magnitude 2 or less."""
        way = self.pick(0, 4)
        if way == 0:
            return self.keep(ops.tanh(v), -1, 1)
        if way == 1:
            return self.keep(ops.sin(v), -1, 1)
        if way == 2:
            return self.keep(ops.mul(v, 1.0 / self.magnitude(v)), -1.001, 1.001)
        if way == 3:
            return self.keep(ops.minimum(ops.maximum(v, -1.0), 1.5), -1, 1.5)
        low, high = self.ranges[v]
        return self.keep(ops.div(v, 0.5 * max(-low, high)), -2.001, 2.001)

    def within(self, v: Value, low: float, high: float) -> Value:
        """A function of the float `v` with elements from `low` to `high`."""
        is_inside = lambda x: low <= self.ranges[x][0] and self.ranges[x][1] <= high
        if is_inside(v):
            return v
        if low <= -1 and high >= 1:
            squashed = self.squashed(v)
            return squashed if is_inside(squashed) else self.keep(ops.tanh(v), -1, 1)
        if low < 0 < high:
            scale = 0.99 * min(-low, high)
            return self.new(ops.mul(ops.tanh(v), scale), -scale, scale)
        room = min(high, 0.9 * LIMIT) - low
        way = self.pick(0, 3)
        if way == 0 or room < 1:
            part, most = ops.sigmoid(v), 1.0
        elif way == 1:
            part, most = ops.abs(v), self.magnitude(v)
        elif way == 2:
            part, most = ops.softplus(v), self.magnitude(v) + 0.7
        else:
            part, most = ops.mul(v, v), self.magnitude(v) ** 2
        if most > room * 0.99:
            part = ops.mul(part, 0.99 * room / most)
            most = 0.99 * room
        return self.new(ops.add(part, low), low, low + most)

    def partner(self, *others: Value, dtype: np.dtype | None = None) -> Value:
        """An operand of `dtype` (that of the first) which broadcasts with all the others."""
        dtype = others[0].dtype if dtype is None else dtype
        way = self.pick(0, 6)
        if way == 6:
            return self.scalar(self.one_of(SCALARS), dtype)
        kinds = "fc" if dtype.kind == "c" else dtype.kind  # real numbers may become complex ones
        fits = lambda v: v.dtype.kind in kinds and self.broadcast_size(v, *others) <= MAX_SIZE
        found = self.existing(lambda v: v.dtype == dtype and fits(v))
        if found is None or way == 5:
            found = self.existing(fits)  # of another width
            if found is not None and dtype.kind in "iu" and not self.holds(dtype, found):
                found = None
        if found is None or way == 4:
            shape = tuple(1 if self.chance(4) else n for n in self.one_of(others).shape)
            return self.param(dtype, shape[self.pick(0, len(shape)) if self.chance(3) else 0 :])
        if found.dtype == dtype:
            return found
        return self.new(ops.cast(found, dtype=dtype), *self.ranges[found])

    def holds(self, dtype: np.dtype, v: Value) -> bool:
        low, high = whole(dtype)
        return low <= self.ranges[v][0] and self.ranges[v][1] <= high

    def broadcast_size(self, *values: Value) -> float:
        try:
            return max(sizes(size(broadcast_shapes(*(v.shape for v in values)))))
        except ShapeError:
            return math.inf

    def positions(self, shape: Shape, n: Dim) -> Value:
        """Integers of a shape (or one that broadcasts to it) that index an axis of extent `n` >= 1."""
        fits = lambda v: v.dtype.kind in "iu" and v.shape == shape
        inside = lambda v: -min(sizes(n)) <= self.ranges[v][0] and self.ranges[v][1] < min(sizes(n))
        way = self.pick(0, 4)
        known = self.existing(lambda v: fits(v) and inside(v))
        if known is not None and way == 0:
            return known
        if way == 1 and all(isinstance(d, int) for d in shape) and size(shape) <= 20:
            return self.array(self.one_of((I8, I4)), shape, -min(sizes(n)), min(sizes(n)) - 1)
        some = self.existing(fits)
        if way <= 2 or some is None or some.dtype != I8:
            limits = (-min(sizes(n)), min(sizes(n)) - 1) if self.chance(2) else (0, min(sizes(n)) - 1)
            return self.param(self.one_of((I8, I4)) if limits[0] else self.one_of((I8, I4, U1)), shape, limits)
        extent = self.keep(ops.dim.emit(value=n, dtype=I8), min(sizes(n)), max(sizes(n)))
        found = self.new(ops.mod(some, extent), 0, max(sizes(n)) - 1)
        if way == 4:  # the same places counted from the end
            found = self.new(ops.sub(found, extent), -max(sizes(n)), -1)
        return found

    def axes(self, rank: int, most: int | None = None) -> tuple[int, ...]:
        """Some axes, sorted: one mostly, none rarely."""
        if rank == 0 or self.chance(12):
            return ()
        count = 1 if self.chance(2) else self.pick(1, rank if most is None else most)
        left = list(range(rank))
        return tuple(sorted(left.pop(self.pick(0, len(left) - 1)) for _ in range(count)))

    def emit(self, name: str, /, *args: Any, **attrs: Any) -> Value:
        return ops.OPS[name].emit(*args, **attrs)
