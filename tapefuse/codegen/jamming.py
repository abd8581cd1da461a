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

Rows that are left, and those for which conditions on their index do not hold (`splitting`), run one by one. Rows are
independent of each other where each stores elements of its own, in arrays of which none is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.loops import BOOL, INT, ZERO, For, If, Let, Load, Num, Scalar, Stmt, Store, Var, While
from tapefuse.codegen.splitting import conditions, used

ROWS = 4  # side by side
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


@dataclass(frozen=True, slots=True)
class _Middle:
    """Rows `first` to `last` (None: no bound), if all of `conditions`, which `asked` computes, hold."""

    first: int | None
    last: int | None
    asked: tuple[Let, ...]
    conditions: tuple[Scalar, ...]


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
    row = _row(s)
    middle = None if row is None or not _is_independent(s, row) else _middle(s, row)
    if row is None or middle is None:
        return None
    name, b, each = s.var.name, _Copies(), _Copies()
    start, stop = _between(s, middle, b)
    count = b.let(f"{name}count", INT, "sub", stop, start)
    blocks = b.let(f"{name}blocks", INT, "floordiv", count, Num(ROWS, INT))
    fixed = b.copy(middle.asked, 0, {})
    for k, condition in enumerate(middle.conditions):
        blocks = b.let(f"{name}blocks{k}", INT, "select", fixed[condition], blocks, ZERO)
    rest = b.let(f"{name}rest", INT, "add", start, b.let(f"{name}rows", INT, "mul", blocks, Num(ROWS, INT)))
    first, number = Var(f"{name}first", INT), Var(f"{name}block", INT)
    each.body.append(Let(first, "add", (start, each.let(f"{name}at", INT, "mul", number, Num(ROWS, INT)))))
    end = each.let(f"{name}end", INT, "add", first, Num(ROWS, INT))
    loops = [_block(s, row, loop, first, end) for loop in row.loops]
    if sum(len(loop.body) for loop in loops) > MOST_STATEMENTS or not _pays(s, row, first):
        return None
    return [*b.body, For(number, ZERO, blocks, (*each.body, *loops)), _one_by_one(s, start, rest)]


def _between(s: For, middle: _Middle, b: _Copies) -> tuple[Scalar, Scalar]:
    """Where the middle rows begin and end."""
    start, stop, name = s.start, s.stop, s.var.name
    if middle.first is not None:
        low = b.let(f"{name}low", INT, "maximum", s.start, Num(middle.first, INT))
        start = b.let(f"{name}from", INT, "minimum", low, s.stop)
    if middle.last is not None:
        high = b.let(f"{name}high", INT, "minimum", s.stop, Num(middle.last, INT))
        stop = b.let(f"{name}to", INT, "maximum", high, start)
    return start, stop


def _one_by_one(s: For, before: Scalar, after: Scalar) -> For:
    """The rows before one and those from another one on, by one copy of their loops."""
    b, name, side = _Copies(), s.var.name, Var(f"{s.var.name}side", INT)
    is_first = b.let(f"{name}before", BOOL, "lt", side, Num(1, INT))
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


def _is_independent(s: For, row: _Row) -> bool:
    """Whether each row stores elements of its own, in arrays that none reads."""
    loaded = {t.buffer for loop in row.loops for t in loop.body if isinstance(t, Load)}
    for loop in row.loops:
        once = _Copies()
        once.copy((*row.asked, *loop.body), 0, {})
        if any(t.buffer in loaded or s.var not in map(once.base, t.index) for t in once.stores):
            return False
    return True


def _middle(s: For, row: _Row) -> _Middle | None:
    """The rows for which the condition holds, if it says that their index is on one side of numbers, and something of
    other indices."""
    moving = _moving(row.asked, s.var)
    made: dict[Scalar, Let] = {t.dst: t for t in row.asked}
    compared = {c.dst: c for c in conditions(s.var, row.asked)}
    first, last, fixed = list[int](), list[int](), list[Scalar]()
    wanted: list[tuple[Scalar, bool]] = [] if row.condition is None else [(row.condition, True)]
    while wanted:
        x, holds = wanted.pop()
        if x not in moving:
            fixed.append(x)
        elif x in compared:
            c = compared[x]
            (last if c.at(c.cut - 1).value == holds else first).append(c.cut)
        elif made[x].op == "not" and made[x].args[0] in compared:
            wanted.append((made[x].args[0], False))
        elif made[x].op == "and":
            wanted += [(y, True) for y in made[x].args]
        else:
            return None
    asked = tuple(t for t in row.asked if t.dst not in moving)
    return _Middle(max(first, default=None), min(last, default=None), asked, tuple(fixed))


def _moving(body: Iterable[Stmt], var: Scalar) -> set[Scalar]:
    """The scalars that depend on one."""
    found = {var}
    for t in body:
        if isinstance(t, Let | Load) and not found.isdisjoint(t.args if isinstance(t, Let) else t.index):
            found.add(t.dst)
    return found


def _block(s: For, row: _Row, loop: For, first: Var, end: Scalar) -> For:
    """A loop over columns for rows `first` to `end`: side by side, unless it is a small part of the row."""
    if SMALL * _trips(loop) > sum(map(_trips, row.loops)):
        return _side_by_side(s, row, loop, first, ROWS)
    return For(s.var, first, end, (*row.asked, loop))


def _side_by_side(s: For, row: _Row, loop: For, first: Var, count: int) -> For:
    """A loop over columns for rows `first`, `first` + 1, ..."""
    found = _Copies()
    for k in range(count):
        at = found.let(f"{s.var.name}r{k}", INT, "add", first, Num(k, INT))
        found.copy((*row.asked, *loop.body), k, {s.var: at})
    return replace(loop, body=used((*found.body, *found.stores)))


def _pays(s: For, row: _Row, first: Var) -> bool:
    """Whether rows side by side load from at most three quarters of the rows of arrays that they do one by one."""
    main = max(row.loops, key=_trips)
    apart, together = (_lines(_side_by_side(s, row, main, first, count), first) for count in (1, ROWS))
    return _trips(main) >= SHORTEST and 4 * together <= 3 * ROWS * apart


def _lines(loop: For, first: Var) -> int:
    """Rows of arrays that a loop loads from, where they depend on the loop over rows."""
    along, across = _moving(loop.body, loop.var), _moving(loop.body, first)
    loads = (t for t in loop.body if isinstance(t, Load) and not across.isdisjoint(t.index))
    return len({(t.buffer, *(None if x in along else x for x in t.index)) for t in loads})
