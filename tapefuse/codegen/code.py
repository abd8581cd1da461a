"""Statements of a region's kernel under construction: scopes, scalars, memory.

Scalars are computed where their operands are known, before the loops that they do not depend on, and once. Kernels are
copied into it (`inlined`), their buffers and scalars renamed; arrays of one element that kernels hand to each other
are cells: scalars, without memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.builder import folded
from tapefuse.codegen.chains import carried_last
from tapefuse.codegen.costs import WEIGHTS
from tapefuse.codegen.loops import (
    INT,
    ZERO,
    Assign,
    Buffer,
    Declare,
    For,
    If,
    Let,
    Load,
    Move,
    Num,
    Scalar,
    Stmt,
    Store,
    Var,
    View,
    While,
    bodies,
    dimension,
)
from tapefuse.codegen.reuse import Known, Slot, buffers, slots, with_slots
from tapefuse.codegen.windows import Window, windows, with_window
from tapefuse.ir.ops.scalar import result_dtype
from tapefuse.ir.types import Dim, Poly, Type, size, substitute, symbols


@dataclass(frozen=True, slots=True)
class Array:
    """Memory, as a buffer of one type. `depth`: of the scope in which views of it are made."""

    buffer: Buffer
    depth: int = 0


class Cell:
    """An array of one element that has no memory: its value now, or the slot that holds it."""

    __slots__ = ("slot", "type", "value")

    def __init__(self, type: Type, value: Scalar | None = None):
        self.type, self.value = type, value
        self.slot: Var | None = None


Storage = Array | Cell
_EXACT: dict[str, Callable[..., Dim]] = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


class Code:
    """A builder, as lowering rules expect it, of nested scopes; a scalar's depth is that of the scope it is made in.

    `strict`: sums keep the order of their terms.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.symbols: set[str] = set()  # dimension symbols that are read
        self.defined: set[str] = set()  # of those, the ones that loops inside give a meaning
        self._bodies: list[list[Stmt]] = [[]]
        self._memos: list[dict] = [{}]
        self._barriers: list[bool] = [False]  # whether a scope may not run, or not to its end
        self._depth: dict[Var, int] = {}
        self._homes: dict[str, int] = {}  # depth of the scope in which a buffer was made
        self._memory: dict[str, str] = {}  # of a buffer that was made of another one: which
        self._polynomials: dict[Var, Dim] = {}  # indices as functions of loops' indices
        self._indices: dict[str, Var] = {}  # loops' indices that are no dimension symbols, by the name they have there
        self._ends: dict[str, Dim] = {}  # numbers that indices of open loops stay below
        self._count = 0

    # -- scalars: what lowering rules use --------------------------------------------------------------
    def number(self, value, dtype) -> Num:
        dtype = np.dtype(dtype)
        return Num(dtype.type(value).item(), dtype)

    def literal(self, array: np.ndarray, index) -> Num:
        return Num(array.item(), array.dtype)

    def dim(self, d: Dim) -> Scalar:
        """A dimension as an int64 scalar."""
        if not isinstance(d, Poly):
            return Num(int(d), INT)
        total: Scalar = ZERO
        for mono, coef in d.terms:
            term: Scalar = Num(coef, INT)
            for symbol in mono:
                term = self.op("mul", term, self.symbol(symbol))
            total = self.op("add", total, term)
        return total

    def symbol(self, name: str) -> Var:
        if name in self._indices:
            return self._indices[name]
        self.symbols.add(name)
        return dimension(name)

    def op(self, name: str, *args: Scalar) -> Scalar:
        return self.let(name, args, result_dtype(name, *[a.dtype for a in args]))

    def inside(self, condition: Scalar, k: Scalar, extent: Dim) -> Scalar:
        return self.op("select", condition, k, ZERO)

    def cast(self, x: Scalar, dtype) -> Scalar:
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        if isinstance(x, Num):
            return Num(dtype.type(x.value).item(), dtype)
        return self.let("cast", (x,), dtype)

    def let(self, op: str, args: tuple[Scalar, ...], dtype: np.dtype) -> Scalar:
        """A scalar instruction, as far out as its operands allow."""
        if dtype == INT and op != "cast" and (known := folded(op, args)) is not None:
            return known
        key = op, dtype, args
        for memo in self._memos:
            if key in memo:
                return memo[key]
        depth = max((self.depth(a) for a in args), default=0)
        if WEIGHTS.get(op, 1) > 1 and dtype.kind == "f":
            depth = max([depth, *(k for k, barrier in enumerate(self._barriers) if barrier)])
        dst = self.fresh("t", dtype, depth)
        self._bodies[depth].append(Let(dst, op, args))
        self._memos[depth][key] = dst
        if dtype == INT and op in _EXACT and (index := self.polynomials(args)) is not None:
            self._polynomials[dst] = _EXACT[op](*index)
        return dst

    def polynomials(self, xs: Sequence[Scalar]) -> tuple[Dim, ...] | None:
        found = tuple(d for x in xs if (d := self.polynomial(x)) is not None)
        return found if len(found) == len(xs) else None

    def polynomial(self, x: Scalar) -> Dim | None:
        """An index as a function of dimension symbols and loops' indices, if it is known to be one."""
        if isinstance(x, Num):
            return int(x.value)
        return Poly.symbol(x.name[4:]) if x.name.startswith("dim.") else self._polynomials.get(x)

    def depth(self, x: Scalar) -> int:
        return self._depth.get(x, 0) if isinstance(x, Var) else 0

    def fresh(self, prefix: str, dtype: np.dtype, depth: int | None = None) -> Var:
        self._count += 1
        var = Var(f"{prefix}{self._count - 1}", dtype)
        self._depth[var] = self.here if depth is None else depth
        return var

    def place(self, var: Var) -> None:
        """A scalar is known from here on."""
        self._depth[var] = self.here

    def define(self, symbol: str, op: str, *args: Scalar) -> None:
        """Give a dimension symbol its meaning, another one than before if regions have one name for theirs."""
        if symbol in self.defined:
            self._forget(symbol)
        self.append(Let(dimension(symbol), op, args))
        self.defined.add(symbol)
        self.place(dimension(symbol))

    def _forget(self, symbol: str) -> None:
        """Nothing that was made of a symbol is used again."""
        stale: set[Any] = {dimension(symbol)}
        while True:
            found = [(m, k) for m in self._memos for k in m if _depends(k, symbol, stale)]
            if not found:
                return
            stale |= {memo.pop(key) for memo, key in found}

    # -- slots -----------------------------------------------------------------------------------------
    def declare(self, dtype: np.dtype, init: Scalar) -> Var:
        slot = self.fresh("s", dtype)
        self.append(Declare(slot, init))
        return slot

    def read(self, slot: Var) -> Var:
        dst = self.fresh("t", slot.dtype)
        self.append(Let(dst, "read", (slot,)))
        return dst

    def assign(self, slot: Var, value: Scalar) -> None:
        self.append(Assign(slot, value))

    def get(self, cell: Cell) -> Scalar:
        if cell.slot is not None:
            return self.read(cell.slot)
        assert cell.value is not None, "an array of one element is read before it is written"
        return cell.value

    def set(self, cell: Cell, value: Scalar) -> None:
        if cell.slot is not None:
            self.assign(cell.slot, value)
        else:
            cell.value = value

    # -- memory ----------------------------------------------------------------------------------------
    def buffer(self, type: Type) -> Buffer:
        self._count += 1
        return Buffer(f"m{self._count - 1}", type)

    def view(self, array: Array, type: Type) -> Buffer:
        """The memory seen as another type."""
        if array.buffer.type == type:
            return array.buffer
        depth = max([array.depth, *(self.depth(dimension(s)) for s in symbols(type.shape))])
        key = "view", array.buffer.name, type
        if key not in self._memos[depth]:
            self._memos[depth][key] = buffer = self.buffer(type)
            self._bodies[depth].append(self._viewed(buffer, array.buffer, depth))
        return self._memos[depth][key]

    def name_view(self, buffer: Buffer, source: Buffer, at: Scalar = ZERO, local: bool = False) -> None:
        """Make a view here, which may be moved."""
        self.append(self._viewed(buffer, source, self.here, at, local))

    def _viewed(self, buffer: Buffer, source: Buffer, depth: int, at: Scalar = ZERO, local: bool = False) -> View:
        self.symbols |= symbols(buffer.type.shape)
        self._homes[buffer.name] = depth
        if not local:
            self.same_memory(buffer, source)
        return View(buffer, source, at, local)

    def same_memory(self, a: Buffer, b: Buffer) -> None:
        first, second = self.memory(a), self.memory(b)
        if first != second:
            self._memory[first] = second

    def memory(self, buffer: Buffer) -> str:
        """A name for the memory that buffers have in common."""
        name = buffer.name
        while name in self._memory:
            name = self._memory[name]
        return name

    def made(self, buffer: Buffer) -> Array:
        """Memory that is new here."""
        self._homes[buffer.name] = self.here
        return Array(buffer, self.here)

    def move(self, targets: tuple[Buffer, ...], sources: tuple[Buffer, ...]) -> None:
        """Exchange what names of memory stand for: what was seen through them before is not what they show now."""
        for a, b in zip(targets, sources, strict=True):
            self.same_memory(a, b)
        moved = {buffer.name for buffer in targets}
        for memo in self._memos:
            for key in [k for k in memo if k[0] == "view" and k[1] in moved]:
                del memo[key]
        self.append(Move(targets, sources))

    def value(self, storage: Storage) -> Scalar:
        """The only element of an array."""
        if isinstance(storage, Cell):
            return self.get(storage)
        return self.load(storage.buffer, (ZERO,) * len(storage.buffer.type.shape))

    def load(self, buffer: Buffer, index: Sequence[Scalar]) -> Var:
        dst = self.fresh("t", buffer.type.dtype)
        self.append(Load(dst, buffer, tuple(index)))
        return dst

    def first(self, stmt: Stmt) -> None:
        """A statement before all others."""
        self._bodies[0].insert(0, stmt)

    def store(self, buffer: Buffer, index: Sequence[Scalar], value: Scalar) -> None:
        self.append(Store(buffer, tuple(index), value))

    def copy(self, target: Array, source: Storage) -> None:
        """All elements of an array; those of one without memory are all the same."""
        n = size(target.buffer.type.shape)
        flat = Type(target.buffer.type.dtype, (n,))
        into = self.view(target, flat)
        value = self.get(source) if isinstance(source, Cell) else None
        with self.loop(self.fresh("i", INT, self.here + 1), ZERO, self.dim(n)) as i:
            element = value if isinstance(source, Cell) else self.load(self.view(source, flat), (i,))
            assert element is not None
            self.store(into, (i,), element)

    # -- scopes ----------------------------------------------------------------------------------------
    @property
    def here(self) -> int:
        return len(self._bodies) - 1

    def append(self, stmt: Stmt) -> None:
        self._bodies[-1].append(stmt)

    def _open(self, barrier: bool) -> None:
        self._bodies.append([])
        self._memos.append({})
        self._barriers.append(barrier)

    def _close(self) -> tuple[Stmt, ...]:
        self._memos.pop()
        self._barriers.pop()
        return tuple(self._bodies.pop())

    @contextmanager
    def loop(self, var: Var, start: Scalar, stop: Scalar, end: Dim | None = None) -> Iterator[Var]:
        """`end`: a number that the index stays below, if `stop` does not tell."""
        self._open(False)
        self._depth[var] = self.here
        symbol = var.name[4:] if var.name.startswith("dim.") else f"loop_{var.name}"
        if not var.name.startswith("dim."):
            self._polynomials[var] = Poly.symbol(symbol)
            self._indices[symbol] = var
        if (end := self.polynomial(stop) if end is None else end) is not None:
            self._ends[symbol] = end
        try:
            yield var
        finally:
            body = self._close()
            self._append_loop(For(var, start, stop, body), symbol)
            self._ends.pop(symbol, None)

    def _append_loop(self, s: For, symbol: str) -> None:
        """A loop with what it can keep in registers there."""
        start = self.polynomial(s.start) if not any(map(bodies, s.body)) else None
        found, moving = self._registers(s, symbol) if start is not None else ([], [])
        if start is None or not found and not moving:
            return self.append(replace(s, body=self._ordered(s.body)))
        runs = isinstance(s.start, Num) and isinstance(s.stop, Num) and s.start.value < s.stop.value
        parts: list[tuple[Stmt, ...]] = []
        condition = self.op("lt", s.start, s.stop) if not runs else None
        with self.scope(parts) if not runs else nullcontext():
            for window in moving:
                s = replace(s, body=self._with_window(s.body, window, {symbol: start}))
            self._with_slots(s, found, {symbol: start})
        if condition is not None:
            self.append(If(condition, parts[0]))

    def _registers(self, s: For, symbol: str) -> tuple[list[Slot], list[Window]]:
        """What an innermost loop keeps in registers."""
        if not self._repeats(s):
            return [], []
        known = self._known(s, symbol)
        found = slots(s.body, known)
        kept = {known.memory[slot.buffer.name] for slot in found}
        return found, [w for w in windows(s.body, known) if known.memory[w.buffer.name] not in kept]

    def _repeats(self, s: For) -> bool:
        """Whether iterations may load what others load, or have stored."""
        stored: dict[str, set[tuple]] = {}
        for t in s.body:
            if isinstance(t, Store):
                stored.setdefault(self.memory(t.buffer), set()).add((t.buffer.name, t.index))
        inside = self.depth(s.var)
        for t in s.body:
            if isinstance(t, Load):
                same = {(t.buffer.name, t.index)}
                if all(self.depth(x) < inside for x in t.index) or stored.get(self.memory(t.buffer), same) != same:
                    return True
        return False

    def _with_window(self, body: tuple[Stmt, ...], window: Window, first: dict[str, Dim]) -> tuple[Stmt, ...]:
        dtype = window.buffer.type.dtype
        kept = [self.declare(dtype, self.number(0, dtype))]
        for place in window.places[1:]:
            index = tuple(self.dim(substitute(d, first)) for d in place)
            kept.append(self.declare(dtype, self.load(window.buffer, index)))
        return with_window(body, window, kept, iter(partial(self.fresh, "t", dtype), None))

    def _with_slots(self, s: For, found: list[Slot], first: dict[str, Dim]) -> None:
        kept: list[tuple[Slot, Var]] = []
        loaded: set[Var] = set()
        for slot in found:
            index = tuple(self.dim(substitute(d, first)) for d in slot.index)
            if slot.store is None:
                loaded.update(slot.reads)
                for dst in slot.reads:
                    self.append(Load(dst, slot.buffer, index))
            else:
                kept.append((slot, self.declare(slot.buffer.type.dtype, self.load(slot.buffer, index))))
        body = tuple(t for t in s.body if not (isinstance(t, Load) and t.dst in loaded))
        self.append(replace(s, body=self._ordered(with_slots(body, kept))))
        for slot, var in kept:
            if slot.stored:
                index = tuple(self.dim(d) for d in slot.index)
                self.store(slot.buffer, index, self.read(var))

    def _ordered(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return body if self.strict else carried_last(body)

    def _known(self, s: For, symbol: str) -> Known:
        touched = [t for t in s.body if isinstance(t, Load | Store)]
        indices = {(t.buffer.name, t.index): self.polynomials(t.index) for t in touched}
        names = {t.buffer.name for t in touched}
        fixed = frozenset(name for name in names if self._homes.get(name, 0) <= self.here)
        memory = {b.name: self.memory(b) for b in buffers(s.body)}
        return Known(symbol, indices, memory, fixed, dict(self._ends))

    @contextmanager
    def scope(self, into: list[tuple[Stmt, ...]]) -> Iterator[None]:
        """Statements that may not run, or in part; they are appended to `into`, to become part of a statement."""
        self._open(True)
        try:
            yield
        finally:
            into.append(self._close())

    @contextmanager
    def when(self, condition: Scalar) -> Iterator[None]:
        parts: list[tuple[Stmt, ...]] = []
        with self.scope(parts):
            yield
        self.append(If(condition, parts[0]))

    @contextmanager
    def repeat(self) -> Iterator[While_]:
        """A loop with a condition: what stands before `test` in the block decides, what follows is its body."""
        found = While_(self)
        self._open(True)
        try:
            yield found
        finally:
            body = self._close()
            before = self._close()
            assert found.condition is not None
            self.append(While(before, found.condition, body))

    def body(self) -> tuple[Stmt, ...]:
        assert len(self._bodies) == 1
        return tuple(self._bodies[0])


def _depends(key: tuple, symbol: str, stale: Collection[Any]) -> bool:
    """Whether what is remembered under a key was made of a symbol or of a stale value."""
    if key[0] == "view":
        return symbol in symbols(key[2].shape)
    return any(x in stale for x in key[2])


class While_:
    """A loop with a condition while it is being written."""

    def __init__(self, code: Code):
        self.code = code
        self.condition: Scalar | None = None

    def test(self, condition: Scalar) -> None:
        self.condition = condition
        self.code._open(True)
