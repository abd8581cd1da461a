"""Some rows of what an iteration of a loop computes, from the rows that these need.

    u1 = put(u, u[1:] - c[1:] * (u[1:] - u[:-1]), 1)
    rows 9..17 of u1 are  u[9:17] - c[9:17] * (u[9:17] - u[8:16])

Rows may be numbered by dimensions: rows 8 t + 9 to 8 t + 17 where t is the index of a loop. What lies at the ends of
arrays is then somewhere else for every t, or `Unfit`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import constant
from tapefuse.ir.passes.bodies import depending, part, replaced
from tapefuse.ir.passes.checks import Known, never_negative
from tapefuse.ir.types import Dim, Poly, Shape, size

NEAR = 8  # rows between two ranges that are read as one


class Unfit(Exception):
    """Rows are not computed from rows at fixed distances."""


class Range(NamedTuple):
    """Rows from `start` on, below `limit`."""

    start: Dim
    limit: Dim

    def moved(self, by: Dim) -> Range:
        return Range(self.start + by, self.limit + by)

    @property
    def rows(self) -> Dim:
        return self.limit - self.start


def merged(ranges: Collection[Range]) -> list[Range]:
    """Ranges that hold all of some; those that overlap, or nearly touch, are one."""
    found: list[Range] = []
    for r in ranges:
        near = [o for o in found if _are_near(o, r)]
        found = [o for o in found if o not in near]
        found.append(_hull([r, *near]))
    return found if len(found) == len(ranges) else merged(found)


def _are_near(a: Range, b: Range) -> bool:
    gaps = b.start - a.limit, a.start - b.limit
    return all(isinstance(gap, int) and gap <= NEAR for gap in gaps)


def _hull(ranges: Collection[Range]) -> Range:
    """Of ranges at known distances."""
    first = next(iter(ranges))
    starts = [r.start - first.start for r in ranges]
    limits = [r.limit - first.limit for r in ranges]
    return Range(first.start + min(starts), first.limit + max(limits))  # type: ignore[type-var]


Read = Callable[[Value, int, Range], Value]  # rows of a value that is there: a carry, or what no iteration changes


class Rows:
    """Rows of the values of an iteration.

    `varying`: what depends on carries or on the number of the iteration; `read` gives rows of carries, and of values
    that do not vary, `whole` values that depend on no rows that are carried, None for others. `known`: the intervals of
    symbols.
    """

    def __init__(self, varying: Collection[Value], known: Known, read: Read, whole: Callable[[Value], Value | None]):
        self.varying, self.known, self.read, self.whole = varying, known, read, whole
        self.found: dict[tuple[Value, int, Range], Value] = {}
        self.asked: dict[tuple[Value, int], list[Range]] = {}  # rows of what is computed
        self.together: dict[tuple[Value, int], list[Range]] = {}  # rows that are computed at once

    def like(self, other: Rows) -> Rows:
        """These rows, where what `other` was asked for is computed once for all that read it."""
        self.together = {key: merged(ranges) for key, ranges in other.asked.items() if len(ranges) > 1}
        return self

    def of(self, v: Value, axis: int, r: Range) -> Value:
        """Rows `r` of a value along an axis. Raises Unfit."""
        key = v, axis, r
        if key not in self.found:
            self.found[key] = self._of(v, axis, r)
        return self.found[key]

    def _of(self, v: Value, axis: int, r: Range) -> Value:
        if v.op is None:
            return self.read(v, axis, r)
        found = self._moved(v, axis, r)
        if found is not None:
            return found
        if v not in self.varying:
            return self.read(v, axis, r)
        if v.op.elementwise:
            return self._computed(v, axis, r)
        raise Unfit

    def _computed(self, v: Value, axis: int, r: Range) -> Value:
        """Rows of an elementwise value."""
        self.asked.setdefault((v, axis), []).append(r)
        for more in self.together.get((v, axis), ()):
            start, limit = r.start - more.start, more.limit - r.limit
            if r != more and all(isinstance(d, int) and d >= 0 for d in (start, limit)):
                return part(self.of(v, axis, more), axis, start, start + r.rows)
        assert v.op is not None
        return v.op.emit(*(self._operand(v, x, axis, r) for x in v.args), **v.attributes)

    def _moved(self, v: Value, axis: int, r: Range) -> Value | None:
        """Of a value whose elements are those of others in other places."""
        attrs = v.attributes
        if v.op is ops.slice_ and attrs["strides"][axis] == 1:
            return self._slice(v, axis, r)
        if v.op in (ops.put, ops.put_add) and attrs["strides"][axis] == 1:
            return self._put(v, axis, r)
        if v.op is ops.pad and attrs["interior"][axis] == 0:
            return self._pad(v, axis, r)
        if v.op is ops.concat and attrs["axis"] == axis:
            return self._concat(v, axis, r)
        if v.op is ops.reshape:
            return self._reshape(v, axis, r)
        if v.op is ops.broadcast and axis not in attrs["axes"]:
            return ops.broadcast.emit(self._scalar(v.args[0]), **attrs | {"shape": replaced(v.shape, axis, r.rows)})
        return None

    def _operand(self, v: Value, x: Value, axis: int, r: Range) -> Value:
        along = axis - len(v.shape) + len(x.shape)
        if along >= 0 and x.shape[along] == v.shape[axis]:
            return self.of(x, along, r)
        return self._scalar(x)

    def _scalar(self, x: Value) -> Value:
        """A value that all rows have in common."""
        if any(n != 1 for n in x.shape):
            raise Unfit
        found = self.whole(x)
        if found is not None:
            return found
        if x.op is not None and x.op.elementwise:
            return x.op.emit(*map(self._scalar, x.args), **x.attributes)
        if x.op is ops.reshape:
            (y,) = x.args
            y = self.of(y, 0, Range(0, 1)) if len(y.shape) == 1 else self._scalar(y)
            return ops.reshape.emit(y, shape=x.shape)
        raise Unfit

    def _slice(self, v: Value, axis: int, r: Range) -> Value:
        (x,), attrs = v.args, v.attributes
        x = self.of(x, axis, r.moved(attrs["starts"][axis]))
        starts, limits = replaced(attrs["starts"], axis, 0), replaced(attrs["limits"], axis, r.rows)
        if starts == (0,) * len(starts) and limits == x.shape and set(attrs["strides"]) == {1}:
            return x
        return ops.slice_.emit(x, starts=starts, limits=limits, strides=attrs["strides"])

    def _reshape(self, v: Value, axis: int, r: Range) -> Value:
        """Rows of a reshape, whose axis is one of its operand's."""
        (x,) = v.args
        if not x.shape:
            return ops.reshape.emit(self._scalar(x), shape=v.shape)
        before = size(v.shape[:axis])
        for k, n in enumerate(x.shape):
            if n == v.shape[axis] and size(x.shape[:k]) == before:
                return ops.reshape.emit(self.of(x, k, r), shape=replaced(v.shape, axis, r.rows))
        raise Unfit

    def _put(self, v: Value, axis: int, r: Range) -> Value:
        (base, new), start = v.args, v.attributes["starts"][axis]
        if replaced(base.shape, axis, 0) != replaced(new.shape, axis, 0):
            raise Unfit
        pieces = []
        for cut, source in self._parts(r, [start, start + new.shape[axis]]):
            old = self.of(base, axis, cut) if v.op is ops.put_add or source != 1 else None
            if source == 1:
                x = self.of(new, axis, cut.moved(start * -1))
                pieces.append(x if old is None else ops.add.emit(old, x))
            else:
                assert old is not None
                pieces.append(old)
        return joined(pieces, axis)

    def _pad(self, v: Value, axis: int, r: Range) -> Value:
        (x,), attrs = v.args, v.attributes
        low = attrs["low"][axis]
        pieces = []
        for cut, source in self._parts(r, [low, low + x.shape[axis]]):
            if source == 1:
                inner = self.of(x, axis, cut.moved(low * -1))
                others = attrs | {"low": replaced(attrs["low"], axis, 0), "high": replaced(attrs["high"], axis, 0)}
                is_padded = any(n != 0 for k in ("low", "high", "interior") for n in others[k])
                pieces.append(ops.pad.emit(inner, **others) if is_padded else inner)
            else:
                pieces.append(_filled(v, replaced(v.shape, axis, cut.rows)))
        return joined(pieces, axis)

    def _concat(self, v: Value, axis: int, r: Range) -> Value:
        starts: list[Dim] = [0]
        for x in v.args:
            starts.append(starts[-1] + x.shape[axis])
        parts = self._parts(r, starts[1:-1])
        return joined([self.of(v.args[k], axis, p.moved(starts[k] * -1)) for p, k in parts], axis)

    def _parts(self, r: Range, borders: Collection[Dim]) -> Iterator[tuple[Range, int]]:
        """A range cut where sources meet, and the number of each part's source. Raises Unfit where that is elsewhere
        for another tile."""
        start, number = r.start, 0
        for number, border in enumerate(borders):
            if self._is_ordered(r.limit, border):
                yield Range(start, r.limit), number
                return
            if self._is_ordered(border, start):
                continue
            if isinstance(border - start, Poly):
                raise Unfit
            yield Range(start, border), number
            start = border
        yield Range(start, r.limit), len(borders)

    def _is_ordered(self, a: Dim, b: Dim) -> bool:
        return never_negative(b - a, self.known)


def _filled(v: Value, shape: Shape) -> Value:
    """What a pad puts beside its operand."""
    value = constant(v.attributes["value"], v.dtype)
    return ops.broadcast.emit(value, shape=shape, axes=())


def joined(pieces: list[Value], axis: int) -> Value:
    return pieces[0] if len(pieces) == 1 else ops.concat.emit(*pieces, axis=axis)


# -- what is read -----------------------------------------------------------------------------------------------------

Wanted = Mapping[int, Sequence[Range]]  # by carry


class Reads:
    """The rows that an iteration reads."""

    def __init__(self, body: Graph, carried: int, varying: set[Value], known: Known):
        self.body = body
        self.number = {p: k for k, p in enumerate(body.params[:carried])}
        self.carries: dict[int, list[Range]] = {}
        self.others: dict[Value, list[Range]] = {}
        of_rows = depending(body, [p for p in self.number if p.shape])
        self.rows = Rows(varying, known, self.read, lambda v: None if v in of_rows else v)

    def of(self, wanted: Wanted) -> None:
        for k, ranges in wanted.items():
            for r in ranges:
                self.rows.of(self.body.outs[k], 0, r)

    def read(self, v: Value, axis: int, r: Range) -> Value:
        if v in self.number:
            self.carries.setdefault(self.number[v], []).append(r)
        elif len(v.shape) == 1:
            self.others.setdefault(v, []).append(r)
        return part(v, axis, *r)


class Held:
    """Some ranges of the rows of an array."""

    def __init__(self, pieces: Iterable[tuple[Range, Value]]):
        self.pieces = [*pieces]

    def rows(self, r: Range) -> Value:
        for held, x in self.pieces:
            inner = r.moved(held.start * -1)
            if all(isinstance(d, int) and d >= 0 for d in (inner.start, x.shape[0] - inner.limit)):
                return part(x, 0, *inner)
        raise Unfit

    def on(self, new: Mapping[Value, Value]) -> Held:
        """The same rows, of other values."""
        return Held((r, new[x]) for r, x in self.pieces)
