"""Where the indices of loops run, and what that says of dimensions that depend on them.

    for k below n:  x[k:n]  has at most n elements, and lies in x[0:n]

An adjoint of a body knows the loops around it (`around`), as far as it is made by theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from types import MappingProxyType
from typing import NamedTuple

from tapefuse.ir.passes.checks import Known, never_negative
from tapefuse.ir.passes.residuals import nominal
from tapefuse.ir.types import Dim, Poly


class _State(threading.local):
    known: Known = MappingProxyType({})


_state = _State()


@contextmanager
def inside(index: str, trips: Dim) -> Iterator[None]:
    """In this block, derivatives are those of the body of a loop."""
    before, _state.known = _state.known, with_index(index, trips)
    try:
        yield
    finally:
        _state.known = before


def around() -> Known:
    """The intervals of the indices of the loops around, from the outermost on, as far as they are known."""
    return _state.known


def with_index(index: str, trips: Dim) -> Known:
    return {**_state.known, index: (0, trips - 1)}


def extent(trips: Dim) -> Dim:
    """Rows for all iterations: as many as there are, or more where their number may be negative, which is as good as
    none: n for n - 3."""
    if not isinstance(trips, Poly) or never_negative(trips, around()):
        return trips
    total: Dim = 0
    for mono, coef in trips.terms:
        if coef > 0:
            total = total + (Poly(((mono, coef),)) if mono else coef)
    return total


def largest(d: Dim, symbol: str, known: Known, is_valid: Callable[[Dim], bool] = lambda bound: True) -> Dim | None:
    """An upper bound without `symbol` that is valid, which `d` takes at one end of the interval of `symbol`, or one
    past it (so that x[:k] of a loop that may have no iteration has a bound that is no negative number)."""
    if not isinstance(d, Poly) or symbol not in d.symbols:
        return d
    low, high = known[symbol]
    slope = d.substitute({symbol: Poly.symbol(symbol) + 1}) - d
    ends = (high, high + 1) if never_negative(slope, known) else (low,)
    bounds = (d.substitute({symbol: end}) for end in ends)
    return next((e for e in bounds if never_negative(e - d, known) and is_valid(e)), None)


def bounding(shape: Sequence[Dim], index: str, trips: Dim) -> tuple[Dim, ...] | None:
    """A shape in which those of all iterations lie; None if none is known."""
    known, outer = with_index(index, trips), around()

    def is_valid(bound: Dim) -> bool:
        return never_negative(bound, outer) or never_negative(bound - trips, outer)

    found = [largest(d, index, known, is_valid) for d in shape]
    return None if any(d is None for d in found) else tuple(d for d in found if d is not None)


def nominal_size(shape: Sequence[Dim], known: Known) -> int:
    """The number of elements where it is largest, with a number for every size that is a symbol."""

    def extent(d: Dim) -> int:
        for symbol in reversed([*known]):
            bound = largest(d, symbol, known)
            d = d if bound is None else bound
        return nominal(d)

    return prod(map(extent, shape))


class Box(NamedTuple):
    """A part of an array: first elements, and one past the last ones."""

    starts: tuple[Dim, ...]
    limits: tuple[Dim, ...]

    @property
    def shape(self) -> tuple[Dim, ...]:
        return tuple(b - a for a, b in zip(self.starts, self.limits, strict=True))

    def substitute(self, values: Mapping[str, Dim]) -> Box:
        def change(dims: Sequence[Dim]) -> tuple[Dim, ...]:
            return tuple(d.substitute(values) if isinstance(d, Poly) else d for d in dims)

        return Box(change(self.starts), change(self.limits))

    def is_apart(self, other: Box, known: Known) -> bool:
        """Whether it is known to share no element with another part."""
        axes = zip(*self, *other, strict=True)
        return any(never_negative(c - b, known) or never_negative(a - d, known) for a, b, c, d in axes)

    def over(self, index: str, trips: Dim, shape: Sequence[Dim]) -> Box:
        """A part without `index` of an array of `shape`, in which those of all iterations lie; in bounds even if
        there is no iteration."""
        known, outer = with_index(index, trips), around()

        def axis(start: Dim, limit: Dim, n: Dim) -> tuple[Dim, Dim]:
            before = largest(start * -1, index, known, lambda a: never_negative(a * -1, outer))
            first = 0 if before is None else before * -1
            last = largest(limit, index, known, lambda b: all(never_negative(d, outer) for d in (b - first, n - b)))
            is_valid = last is not None and all(never_negative(d, outer) for d in (first, last - first, n - last))
            return (first, last) if last is not None and is_valid else (0, n)

        starts, limits = zip(*map(axis, *self, shape), strict=True) if shape else ((), ())
        return Box(starts, limits)
