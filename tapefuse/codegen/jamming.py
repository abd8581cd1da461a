"""Rows of a stencil side by side: what neighbouring rows both read is loaded once.

    for i in 0..100:                     for q in 0..25:
      for j in 0..64:                      r = mul q 4
        t = load b0[i,j]                   for j in 0..64:
        i1 = add i 1              ->         t = load b0[r,j]
        u = load b0[i1,j]                    r1 = add r 1
        v = add t u                          u = load b0[r1,j]
        store b1[i,j] = v                    v = add t u
                                             r2 = add r 2
                                             u1 = load b0[r2,j]
                                             v1 = add u u1
                                             ...                     rows r + 2 and r + 3
                                             store b1[r,j] = v
                                             store b1[r1,j] = v1
                                             ...

Where two loops go over rows, two rows of two iterations of the outer one are side by side if they load less than four
of one iteration: in three dimensions a row has neighbours along both. Rows that are left, and those for which
conditions on their indices do not hold (`splitting`), run one by one. Rows are independent of each other where each
stores elements of its own, in arrays of which none is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.loops import BOOL, INT, ZERO, For, If, Let, Load, Num, Scalar, Stmt, Store, Var, While
from tapefuse.codegen.splitting import conditions, used

ROWS = 4  # side by side
SQUARE = (2, 2)  # rows of the two iterations of an outer loop
SMALL = 8  # parts of a row as which a loop is not worth the code for a block of rows
SHORTEST = 8  # iterations of a loop for which this pays
MOST_STATEMENTS = 600  # of the rows together


def jammed(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Statements in which the rows of stencils are done side by side."""
    found: list[Stmt] = []
    for s in body:
        match s:
            case For():
                found += _blocks(s) or [replace(s, body=jammed(s.body))]
            case If():
                found.append(replace(s, then=jammed(s.then), otherwise=jammed(s.otherwise)))
            case While():
                found.append(replace(s, before=jammed(s.before), body=jammed(s.body)))
            case _:
                found.append(s)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Row:
    """The body of a loop over rows: what is asked about a row, and the loops over its columns if `condition` holds."""

    asked: tuple[Let, ...]
    condition: Scalar | None
    loops: tuple[For, ...]


class _Range(NamedTuple):
    """From an index on, and up to another one; None: no bound."""

    first: int | None
    stop: int | None


@dataclass(frozen=True, slots=True)
class _Middle:
    """Rows in `ranges` of the indices of the loops over them, if all of `conditions`, which `asked` computes, hold."""

    ranges: tuple[_Range, ...]
    asked: tuple[Let, ...]
    conditions: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """`counts` rows of the loops `nest`, one inside the other, which are done together."""

    nest: tuple[For, ...]
    counts: tuple[int, ...]
    row: _Row

    @property
    def firsts(self) -> tuple[Var, ...]:
        """The indices of the first of its rows."""
        return tuple(Var(f"{s.var.name}first", INT) for s in self.nest)

    def copies(self, body: tuple[Stmt, ...], counts: tuple[int, ...]) -> _Copies:
        """What is asked, and `body`, for so many rows from the first ones on."""
        found = _Copies()
        for number, at in enumerate(product(*map(range, counts))):
            names: dict[Scalar, Scalar] = {
                s.var: found.let(f"{s.var.name}r{k}", INT, "add", first, Num(k, INT))
                for s, first, k in zip(self.nest, self.firsts, at, strict=True)
            }
            found.copy((*self.row.asked, *body), number, names)
        return found

    def loops(self, ends: Sequence[Scalar]) -> list[For]:
        """The loops over columns: of rows side by side, unless they are a small part of the row."""
        found = list[For]()
        for loop in self.row.loops:
            if SMALL * _trips(loop) > sum(map(_trips, self.row.loops)):
                together = self.copies(loop.body, self.counts)
                found.append(replace(loop, body=used((*together.body, *together.stores))))
                continue
            body: tuple[Stmt, ...] = (*self.row.asked, loop)
            for s, first, end in reversed(list(zip(self.nest, self.firsts, ends, strict=True))):
                loop = For(s.var, first, end, body)
                body = (loop,)
            found.append(loop)
        return found

    def lines(self, counts: tuple[int, ...]) -> int:
        """Rows of arrays that so many rows load from side by side, where they depend on the loops over them."""
        longest = max(self.row.loops, key=_trips)
        indices = (t for t in longest.body if isinstance(t, Load) or isinstance(t, Let) and t.dst.dtype.kind != "f")
        body = self.copies(tuple(indices), counts).body
        along, across = _moving(body, (longest.var,)), _moving(body, self.firsts)
        loads = (t for t in body if isinstance(t, Load) and not across.isdisjoint(t.index))
        return len({(t.buffer, *(None if x in along else x for x in t.index)) for t in loads})

    def pays(self) -> bool:
        """Whether rows side by side load from at most three quarters of the rows of arrays that they do one by one."""
        apart, together = self.lines((1,) * len(self.nest)), self.lines(self.counts)
        longest = max(map(_trips, self.row.loops))
        return longest >= SHORTEST and 4 * together <= 3 * prod(self.counts) * apart


class _Copies:
    """Statements of several rows, in which what is the same in two of them is done once."""

    def __init__(self) -> None:
        self.body, self.stores = list[Let | Load](), list[Store]()
        self.known: dict[tuple, Scalar] = {}
        self.sums: dict[Scalar, tuple[Scalar, int]] = {}  # of an index and a number

    def copy(self, statements: Iterable[Stmt], row: int, names: Mapping[Scalar, Scalar]) -> dict[Scalar, Scalar]:
        """Append a row's statements; what its scalars are called then. `names`: of those that it begins with."""
        now = dict(names)
        for t in statements:
            match t:
                case Let(dst, op, args):
                    now[dst] = self.let(f"{dst.name}r{row}", dst.dtype, op, *_renamed(args, now))
                case Load(dst, buffer, index):
                    new = Load(Var(f"{dst.name}r{row}", dst.dtype), buffer, _renamed(index, now))
                    now[dst] = self._once((buffer, *new.index), new)
                case Store(buffer, index, value):
                    self.stores.append(Store(buffer, _renamed(index, now), now.get(value, value)))
        return now

    def let(self, name: str, dtype: np.dtype, op: str, *args: Scalar) -> Scalar:
        if dtype == INT and op in ("add", "sub") and isinstance(args[1], Num):
            base, so_far = self.sums.get(args[0], (args[0], 0))
            number = so_far + (int(args[1].value) if op == "add" else -int(args[1].value))
            if not number:
                return base
            found = self._once(("add", base, number), Let(Var(name, INT), "add", (base, Num(number, INT))))
            self.sums[found] = base, number
            return found
        return self._once((op, dtype, *args), Let(Var(name, dtype), op, args))

    def _once(self, key: tuple, new: Let | Load) -> Scalar:
        if key not in self.known:
            self.known[key] = new.dst
            self.body.append(new)
        return self.known[key]

    def base(self, x: Scalar) -> Scalar:
        """The index that a scalar is, up to a number that is added."""
        return self.sums.get(x, (x, 0))[0]


def _renamed(xs: Sequence[Scalar], names: Mapping[Scalar, Scalar]) -> tuple[Scalar, ...]:
    return tuple(names.get(x, x) for x in xs)


def _blocks(s: For) -> list[Stmt] | None:
    """A loop over rows as one over blocks of rows, and one over the rows on both sides, if this is legal and pays."""
    inner = s.body[0] if len(s.body) == 1 else None
    if (rows := _block((s,), (ROWS,))) is not None:
        return _written(rows)
    square = _block((s, inner), SQUARE) if isinstance(inner, For) else None
    if square is None:
        return None
    rows = _block(square.nest[1:], (ROWS,))
    return None if rows is not None and rows.lines((ROWS,)) <= square.lines(SQUARE) else _written(square)


def _block(nest: tuple[For, ...], counts: tuple[int, ...]) -> _Block | None:
    """Rows that are done together, if they do not depend on each other and it pays."""
    row = _row(nest[-1])
    if row is None:
        return None
    block = _Block(nest, counts, row)
    return block if _is_independent(block) and block.pays() else None


def _written(block: _Block) -> list[Stmt] | None:
    """The loops over the blocks of rows, and over the rows that are in none; None if conditions or size forbid it."""
    middle = _middle(block)
    if middle is None:
        return None
    b = _Copies()
    spans = [_between(s, r, b) for s, r in zip(block.nest, middle.ranges, strict=True)]
    fixed = b.copy(middle.asked, 0, {})
    made = [
        _cut(s, span, count, [fixed.get(c, c) for c in middle.conditions], b)
        for s, span, count in zip(block.nest, spans, block.counts, strict=True)
    ]
    ends: list[Scalar] = [Var(f"{s.var.name}end", INT) for s in block.nest]
    loops = block.loops(ends)
    if sum(len(loop.body) for loop in loops) > MOST_STATEMENTS:
        return None
    rests = [(start, rest) for (start, _), (_, rest) in zip(spans, made, strict=True)]
    over = _over_blocks(block, [start for start, _ in spans], [blocks for blocks, _ in made], loops)
    return [*b.body, over, *_others(block.nest, rests)]


def _between(s: For, middle: _Range, b: _Copies) -> tuple[Scalar, Scalar]:
    """Where the middle rows begin and end."""
    start, stop, name = s.start, s.stop, s.var.name
    if middle.first is not None:
        low = b.let(f"{name}low", INT, "maximum", s.start, Num(middle.first, INT))
        start = b.let(f"{name}from", INT, "minimum", low, s.stop)
    if middle.stop is not None:
        high = b.let(f"{name}high", INT, "minimum", s.stop, Num(middle.stop, INT))
        stop = b.let(f"{name}to", INT, "maximum", high, start)
    return start, stop


def _cut(
    s: For, span: tuple[Scalar, Scalar], size: int, conditions: Sequence[Scalar], b: _Copies
) -> tuple[Scalar, Scalar]:
    """How many blocks of so many rows there are if conditions hold, else none; and where those end."""
    (start, stop), name = span, s.var.name
    count = b.let(f"{name}count", INT, "sub", stop, start)
    blocks = b.let(f"{name}blocks", INT, "floordiv", count, Num(size, INT))
    for k, condition in enumerate(conditions):
        blocks = b.let(f"{name}blocks{k}", INT, "select", condition, blocks, ZERO)
    return blocks, b.let(f"{name}rest", INT, "add", start, b.let(f"{name}rows", INT, "mul", blocks, Num(size, INT)))


def _over_blocks(block: _Block, starts: Sequence[Scalar], counts: Sequence[Scalar], loops: Sequence[For]) -> For:
    """The loops over so many blocks, one inside the other, around those over columns."""
    found = tuple[Stmt, ...](loops)
    for s, first, start, count, rows in reversed(
        list(zip(block.nest, block.firsts, starts, counts, block.counts, strict=True))
    ):
        each, name, number = _Copies(), s.var.name, Var(f"{s.var.name}block", INT)
        each.body.append(Let(first, "add", (start, each.let(f"{name}at", INT, "mul", number, Num(rows, INT)))))
        each.let(f"{name}end", INT, "add", first, Num(rows, INT))
        found = (For(number, ZERO, count, (*each.body, *found)),)
    return found[0]  # type: ignore[return-value]


def _others(nest: tuple[For, ...], rests: Sequence[tuple[Scalar, Scalar]]) -> list[Stmt]:
    """The rows that are not within all of the spans of blocks, by one copy of their loops."""
    s, (before, after) = nest[-1], rests[-1]
    if len(nest) == 1:
        return [_one_by_one(s, before, after)]
    outer, (start, rest), b = nest[0], rests[0], _Copies()
    name = outer.var.name
    begun = b.let(f"{name}begun", BOOL, "ge", outer.var, start)
    inside = b.let(f"{name}inside", BOOL, "and", begun, b.let(f"{name}left", BOOL, "lt", outer.var, rest))
    before = b.let(f"{s.var.name}before", INT, "select", inside, before, s.stop)
    after = b.let(f"{s.var.name}after", INT, "select", inside, after, s.stop)
    return [replace(outer, body=(*b.body, _one_by_one(s, before, after)))]


def _one_by_one(s: For, before: Scalar, after: Scalar) -> For:
    """The rows before one and those from another one on, by one copy of their loops."""
    b, name, side = _Copies(), s.var.name, Var(f"{s.var.name}side", INT)
    is_first = b.let(f"{name}isfirst", BOOL, "lt", side, Num(1, INT))
    start = b.let(f"{name}one", INT, "select", is_first, s.start, after)
    stop = b.let(f"{name}other", INT, "select", is_first, before, s.stop)
    return For(side, ZERO, Num(2, INT), (*b.body, For(s.var, start, stop, s.body)))


def _row(s: For) -> _Row | None:
    """The body of a loop, if it is that of a loop over rows."""
    count = next((k for k, t in enumerate(s.body) if not isinstance(t, Let)), len(s.body))
    asked, rest, condition = s.body[:count], s.body[count:], None
    if len(rest) == 1 and isinstance(rest[0], If):
        condition, rest = rest[0].condition, rest[0].then
    loops = tuple(t for t in rest if isinstance(t, For) and _is_plain(t))
    if not loops or len(loops) != len(rest):
        return None
    return _Row(asked, condition, loops)  # type: ignore[arg-type]


def _is_plain(s: For) -> bool:
    """An innermost loop of known length, without sums."""
    is_fixed = isinstance(s.start, Num) and isinstance(s.stop, Num)
    return is_fixed and all(isinstance(t, Load | Store) or isinstance(t, Let) and t.op != "read" for t in s.body)


def _trips(s: For) -> int:
    assert isinstance(s.start, Num) and isinstance(s.stop, Num)
    return int(s.stop.value) - int(s.start.value)


def _is_independent(block: _Block) -> bool:
    """Whether each row stores elements of its own, in arrays that none reads."""
    loops, indices = block.row.loops, {s.var for s in block.nest}
    loaded = {t.buffer for loop in loops for t in loop.body if isinstance(t, Load)}
    for loop in loops:
        once = _Copies()
        once.copy((*block.row.asked, *loop.body), 0, {})
        if any(t.buffer in loaded or not indices.issubset(map(once.base, t.index)) for t in once.stores):
            return False
    return True


def _middle(block: _Block) -> _Middle | None:
    """The rows for which the condition holds, if it says that their indices are on one side of numbers, and something
    of other indices."""
    row, indices = block.row, [s.var for s in block.nest]
    moving = _moving(row.asked, indices)
    made: dict[Scalar, Let] = {t.dst: t for t in row.asked}
    compared = {c.dst: (k, c) for k, x in enumerate(indices) for c in conditions(x, row.asked)}
    firsts, stops = ([list[int]() for _ in indices] for _ in range(2))
    fixed = list[Scalar]()
    wanted: list[tuple[Scalar, bool]] = [] if row.condition is None else [(row.condition, True)]
    while wanted:
        x, holds = wanted.pop()
        if x not in moving:
            fixed.append(x)
        elif x in compared:
            k, c = compared[x]
            (stops if c.at(c.cut - 1).value == holds else firsts)[k].append(c.cut)
        elif made[x].op == "not" and made[x].args[0] in compared:
            wanted.append((made[x].args[0], False))
        elif made[x].op == "and":
            wanted += [(y, True) for y in made[x].args]
        else:
            return None
    asked = tuple(t for t in row.asked if t.dst not in moving)
    ranges = tuple(_Range(max(f, default=None), min(t, default=None)) for f, t in zip(firsts, stops, strict=True))
    return _Middle(ranges, asked, tuple(fixed))


def _moving(body: Iterable[Stmt], indices: Iterable[Scalar]) -> set[Scalar]:
    """The scalars that depend on some."""
    found = set(indices)
    for t in body:
        if isinstance(t, Let | Load) and not found.isdisjoint(t.args if isinstance(t, Let) else t.index):
            found.add(t.dst)
    return found
