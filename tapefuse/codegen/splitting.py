"""Innermost loops cut where conditions on their index change, so that each part is without them.

    for i in 0..6:                       for i in 0..4:
      c = lt i 4                           t = load b0[i]
      t = load b0[i]                       store b2[i] = t
      u = load b1[i]              ->     for i in 4..6:
      v = select c t u                     u = load b1[i]
      store b2[i] = v                      store b2[i] = u

Joined arrays then cost what their parts cost, and padded ones are read without masks. Conditions on the indices of
loops around are the same in all iterations: where they are as in the middle of those loops, which is asked once, an
innermost loop runs that is without them too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from tapefuse.codegen.builder import folded
from tapefuse.codegen.llvm_loop_shapes import REGISTER
from tapefuse.codegen.loops import BOOL, HI, INT, LO, For, If, Let, Load, Num, Scalar, Stmt, Store, Update, Var, While
from tapefuse.ir.types import Dim

MOST_PARTS = 6
MOST_STATEMENTS = 600  # of all parts
_COMPARISONS = {"lt": operator.lt, "ge": operator.ge, "le": operator.le, "gt": operator.gt}
_EVALUATED: dict[str, Callable[..., int]] = {
    **_COMPARISONS,
    **{op: getattr(operator, op) for op in ("add", "sub", "mul")},
    "and": operator.and_,
    "or": operator.or_,
    "not": lambda x: 1 - x,
    "select": lambda c, x, y: x if c else y,
}


class Condition(NamedTuple):
    """`dst = index + offset op limit`."""

    dst: Var
    op: str
    offset: int
    limit: int

    @property
    def cut(self) -> int:
        """The first index at which it may be another than before."""
        return self.limit - self.offset + (self.op in ("le", "gt"))

    def at(self, index: int) -> Num:
        return Num(_COMPARISONS[self.op](index + self.offset, self.limit), BOOL)


def split(body: Sequence[Stmt], rows: Dim = 0, middle: Mapping[Scalar, int] = MappingProxyType({})) -> tuple[Stmt, ...]:
    """Statements with their innermost loops cut. `rows`: where a loop over pieces of rows ends in all; `middle`: of the
    indices of loops around."""
    found: list[Stmt] = []
    for s in body:
        match s:
            case For() if all(isinstance(t, Let | Load | Store | Update) for t in s.body):
                found += _in_the_middle(s, middle) if middle else _parts(s)
            case For():
                found.append(replace(s, body=split(s.body, rows, {**middle, **_middle(s, rows)})))
            case If():
                found.append(replace(s, then=split(s.then, rows, middle), otherwise=split(s.otherwise, rows, middle)))
            case While():
                found.append(replace(s, before=split(s.before, rows, middle), body=split(s.body, rows, middle)))
            case _:
                found.append(s)
    return tuple(found)


def _middle(s: For, rows: Dim) -> dict[Scalar, int]:
    if isinstance(s.start, Num) and isinstance(s.stop, Num):
        return {s.var: (int(s.start.value) + int(s.stop.value)) // 2}
    return {s.var: rows // 2} if (s.start, s.stop) == (LO, HI) and isinstance(rows, int) else {}


def _in_the_middle(s: For, middle: Mapping[Scalar, int]) -> list[Stmt]:
    """An innermost loop as two: without the conditions on indices of loops around, where these are as in the middle."""
    values, outer = _outer(s.body, middle)
    conditions = [t for t in outer if t.op in _COMPARISONS]
    if not conditions or not any(t.dst in _deciding(s.body) for t in outer):
        return _parts(s)
    known: dict[Scalar, Scalar] = {t.dst: Num(bool(values[t.dst]), BOOL) for t in outer if t.dst.dtype == BOOL}
    first = _needed(outer, conditions)
    inner = replace(s, body=tuple(t for t in s.body if t not in first))
    both = (_parts(replace(inner, body=_simplified(inner.body, known))), _parts(inner))
    if sum(len(x.body) for part in both for x in part if isinstance(x, For)) > MOST_STATEMENTS:
        both = (both[0], [inner])
    asked: list[Stmt] = [*first]
    answer: Scalar = Num(True, BOOL)
    for t in conditions:
        there: Scalar = t.dst
        if not values[t.dst]:
            there = Var(f"n{t.dst.name[1:]}", BOOL)
            asked.append(Let(there, "not", (t.dst,)))
        if isinstance(answer, Var):
            both_true = Var(f"w{t.dst.name[1:]}", BOOL)
            asked.append(Let(both_true, "and", (answer, there)))
            there = both_true
        answer = there
    return [*asked, If(answer, tuple(both[0]), tuple(both[1]))]


def _deciding(body: Sequence[Stmt]) -> set[Scalar]:
    """Conditions that select between values."""
    return {x for t in body if isinstance(t, Let) and t.dst.dtype != INT for x in t.args if x.dtype == BOOL}


def _needed(body: Sequence[Let], conditions: Sequence[Let]) -> list[Let]:
    """Conditions, and what they are computed from."""
    wanted: set[Scalar] = {t.dst for t in conditions}
    for t in reversed(body):
        if t.dst in wanted:
            wanted.update(t.args)
    return [t for t in body if t.dst in wanted]


def _outer(body: Sequence[Stmt], middle: Mapping[Scalar, int]) -> tuple[dict[Scalar, int], list[Let]]:
    """The instructions on indices of loops around alone, and what they give in the middle of these."""
    values: dict[Scalar, int] = dict(middle)
    found: list[Let] = []
    for t in body:
        if not isinstance(t, Let) or t.dst.dtype not in (INT, BOOL) or t.op not in _EVALUATED:
            continue
        args = [int(x.value) if isinstance(x, Num) else values.get(x) for x in t.args]
        if any(x not in values for x in t.args if not isinstance(x, Num)):
            continue
        values[t.dst] = int(_EVALUATED[t.op](*args))
        found.append(t)
    return values, found


def _parts(s: For) -> list[Stmt]:
    if not (isinstance(s.start, Num) and isinstance(s.stop, Num)):
        return [s]
    start, stop = int(s.start.value), int(s.stop.value)
    found = conditions(s.var, s.body)
    cuts = sorted({c.cut for c in found if start < c.cut < stop})
    if not cuts or len(cuts) >= MOST_PARTS or (len(cuts) + 1) * len(s.body) > MOST_STATEMENTS:
        return [s]
    bounds = _whole_vectors([start, *cuts, stop], _lanes(s))
    parts: list[Stmt] = []
    for low, high in pairwise(bounds):
        known: dict[Scalar, Scalar] = {c.dst: c.at(low) for c in found if not low < c.cut < high}
        parts.append(For(s.var, Num(low, s.start.dtype), Num(high, s.stop.dtype), _simplified(s.body, known)))
    return parts


def _whole_vectors(bounds: list[int], lanes: int) -> list[int]:
    """Where to cut: parts shorter than a vector, at either end of a long one, are vectors with a part of that."""
    start, stop = bounds[0], bounds[-1]
    low, high = max(pairwise(bounds), key=lambda part: part[1] - part[0])
    before, after = bounds[: bounds.index(low) + 1], bounds[bounds.index(high) :]
    if high - low < 2 * lanes or low - start >= lanes or stop - high >= lanes:
        return bounds
    low, before = (start + lanes, [start, start + lanes]) if len(before) > 1 else (low, before)
    whole = low + (high - low) // lanes * lanes
    return [*before, *([whole, stop] if len(after) > 1 and whole > low else after)]


def _lanes(s: For) -> int:
    return REGISTER // max((t.value.dtype.itemsize for t in s.body if isinstance(t, Store)), default=REGISTER)


def conditions(var: Var, body: Iterable[Stmt]) -> list[Condition]:
    """Comparisons of a loop's index, or of its sum with a number, with a number."""
    offsets: dict[Scalar, int] = {var: 0}
    found: list[Condition] = []
    for t in body:
        if not isinstance(t, Let) or len(t.args) != 2 or t.args[0] not in offsets or not isinstance(t.args[1], Num):
            continue
        offset, number = offsets[t.args[0]], int(t.args[1].value)
        if t.op in ("add", "sub"):
            offsets[t.dst] = offset + number if t.op == "add" else offset - number
        elif t.op in _COMPARISONS:
            found.append(Condition(t.dst, t.op, offset, number))
    return found


def _simplified(body: Sequence[Stmt], known: dict[Scalar, Scalar]) -> tuple[Stmt, ...]:
    """A body in which some conditions are known, without what nobody reads then."""
    names = dict(known)

    def use(x: Scalar) -> Scalar:
        return names.get(x, x)

    kept: list[Stmt] = []
    for t in body:
        match t:
            case Let(dst, op, args):
                if dst in names:
                    continue
                args = tuple(map(use, args))
                if (value := _value(op, args, dst)) is not None:
                    names[dst] = value
                else:
                    kept.append(Let(dst, op, args))
            case Load(dst, buffer, index):
                kept.append(Load(dst, buffer, tuple(map(use, index))))
            case Store(buffer, index, value):
                kept.append(Store(buffer, tuple(map(use, index)), use(value)))
            case Update(acc, op, value):
                kept.append(Update(acc, op, use(value)))
    return used(kept)


def _value(op: str, args: tuple[Scalar, ...], dst: Var) -> Scalar | None:
    """What an instruction gives that needs not be run."""
    if op == "select" and isinstance(args[0], Num):
        return args[1] if args[0].value else args[2]
    if op in ("and", "or") and dst.dtype == BOOL:
        for x, y in (args, args[::-1]):
            if isinstance(x, Num):
                return y if bool(x.value) == (op == "and") else x
    if op == "not" and dst.dtype == BOOL and isinstance(args[0], Num):
        return Num(not args[0].value, BOOL)
    is_known = len(args) == 2 and dst.dtype == INT and all(isinstance(a, Num) for a in args)
    return folded(op, args) if is_known else None


def used(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """The statements that something depends on."""
    wanted: set[Scalar] = set()
    kept: list[Stmt] = []
    for t in reversed(body):
        match t:
            case Store(_, index, value):
                wanted.update((*index, value))
            case Update(acc, _, value):
                wanted.update((acc, value))
            case Let(dst, _, args):
                if dst not in wanted:
                    continue
                wanted.update(args)
            case Load(dst, _, index):
                if dst not in wanted:
                    continue
                wanted.update(index)
        kept.append(t)
    return tuple(reversed(kept))
