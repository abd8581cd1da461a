"""What statements of loops are appended with: lowering rules (`Op.at`) are called with a `Builder`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from tapefuse.codegen.loops import (
    BOOL,
    HI,
    INT,
    LO,
    ZERO,
    Buffer,
    Call,
    Core,
    Declare,
    For,
    Let,
    Load,
    Num,
    Scalar,
    Stmt,
    Store,
    Update,
    Var,
    dimension,
    identity,
)
from tapefuse.ir.ops import scalar
from tapefuse.ir.types import Dim, Poly


class Builder:
    """Appends instructions; an instruction that an enclosing scope has computed already is not appended again.

    This is the builder that the lowering rules (`Op.at`) are called with.
    """

    converts_halves = bool(_multiarray_umath.__cpu_features__.get("F16C"))  # instructions to_half and from_half

    def __init__(self) -> None:
        self.prologue: list[Stmt] = []
        self.symbols: set[str] = set()
        self.integers: dict[Var, tuple[str, tuple[Scalar, ...]]] = {}  # integers: the instruction each was made by
        self.conditions: dict[Var, Scalar] = {}  # indices into axes that may be empty: where they point to an element
        self._bodies: list[list[Stmt]] = [[]]
        self._memos: list[dict] = [{}, {}]  # of the prologue, then of each body; a prologue reads no later one
        self._count = 0

    # -- scalars ---------------------------------------------------------------------------------
    def number(self, value, dtype) -> Num:
        dtype = np.dtype(dtype)
        return Num(dtype.type(value).item(), dtype)

    def literal(self, array: np.ndarray, index) -> Num:
        if array.size != 1:
            raise TypeError("an array constant inside a kernel: it should have become an input of the program")
        return Num(array.item(), array.dtype)

    def dim(self, d: Dim) -> Scalar:
        """A dimension as an int64 scalar; polynomials are computed once, before all loops."""
        if not isinstance(d, Poly):
            return Num(int(d), INT)
        total: Scalar | None = None
        for mono, coef in d.terms:
            term: Scalar = Num(coef, INT)
            for symbol in mono:
                self.symbols.add(symbol)
                term = self._in_prologue("mul", term, dimension(symbol))
            total = term if total is None else self._in_prologue("add", total, term)
        assert total is not None
        return total

    def _in_prologue(self, name: str, x: Scalar, y: Scalar) -> Scalar:
        bodies, memos = self._bodies, self._memos
        self._bodies, self._memos = [self.prologue], memos[:1]
        try:
            return self.op(name, x, y)
        finally:
            self._bodies, self._memos = bodies, memos

    def op(self, name: str, *args: Scalar) -> Scalar:
        """One scalar instruction. Index arithmetic on literals is done here."""
        dtype = scalar.result_dtype(name, *[a.dtype for a in args])
        if dtype == INT and (known := folded(name, args)) is not None:
            return known
        made = self._once((name, dtype, args), lambda dst: Let(dst, name, args), dtype)
        if dtype == INT:
            self.integers[made] = name, args
        return made

    def inside(self, condition: Scalar, k: Scalar, extent: Dim) -> Scalar:
        """Index `k` into an axis where the condition holds, 0 elsewhere, where nothing may be there (see `guards`)."""
        if not isinstance(extent, Poly):
            return self.op("select", condition, k, ZERO)
        args = condition, k, ZERO
        made = self._once(("inside", args), lambda dst: Let(dst, "select", args), INT)
        self.integers[made], self.conditions[made] = ("select", args), condition
        return made

    def cast(self, x: Scalar, dtype) -> Scalar:
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        if isinstance(x, Num) and (dtype.kind == "f" or x.dtype.kind in "iub"):
            return Num(np.asarray(x.value, x.dtype).astype(dtype).item(), dtype)  # integers wrap around
        return self._once(("cast", dtype, (x,)), lambda dst: Let(dst, "cast", (x,)), dtype)

    def load(self, buffer: Buffer, index: Sequence[Scalar]) -> Var:
        index = tuple(index)
        return self._once(("load", buffer.name, index), lambda dst: Load(dst, buffer, index), buffer.type.dtype)

    def reload(self, buffer: Buffer, index: Sequence[Scalar]) -> Var:
        """A load that is never shared with an earlier one: the element has changed."""
        dst = self._fresh("t", buffer.type.dtype)
        self._bodies[-1].append(Load(dst, buffer, tuple(index)))
        return dst

    def store(self, buffer: Buffer, index: Sequence[Scalar], value: Scalar) -> None:
        self._bodies[-1].append(Store(buffer, tuple(index), value))

    def _once(self, key, make: Callable[[Var], Stmt], dtype: np.dtype):
        if (known := self.known(key)) is None:
            known = self._fresh("t", dtype)
            self._bodies[-1].append(make(known))
            self._memos[-1][key] = known
        return known

    def known(self, key) -> Scalar | None:
        """What an enclosing scope has remembered under `key`."""
        for memo in reversed(self._memos):
            if key in memo:
                return memo[key]
        return None

    def remember(self, key, value: Scalar) -> Scalar:
        self._memos[-1][key] = value
        return value

    def _fresh(self, prefix: str, dtype: np.dtype) -> Var:
        self._count += 1
        return Var(f"{prefix}{self._count - 1}", dtype)

    # -- control ---------------------------------------------------------------------------------
    @contextmanager
    def loop(self, start: Scalar, stop: Scalar) -> Iterator[Var]:
        """A loop around what is appended inside the `with` block; yields its index."""
        var = self._fresh("i", INT)
        self._bodies.append([])
        self._memos.append({})
        try:
            yield var
        finally:
            self._memos.pop()
            body = tuple(self._bodies.pop())
            self._bodies[-1].append(For(var, start, stop, body))

    @contextmanager
    def loops(self, extents: Sequence[Dim]) -> Iterator[tuple[Var, ...]]:
        """Nested loops over 0..extent, outermost first; yields their indices."""
        if not extents:
            yield ()
            return
        with self.loop(ZERO, self.dim(extents[0])) as first, self.loops(extents[1:]) as rest:
            yield (first, *rest)

    @contextmanager
    def piece(self, extents: Sequence[Dim]) -> Iterator[tuple[Var, ...]]:
        """Nested loops over the rows of the kernel's piece and the other extents; none if there are no extents."""
        if not extents:
            yield ()
            return
        with self.loop(LO, HI) as first, self.loops(extents[1:]) as rest:
            yield (first, *rest)

    def declare(self, kind: str, dtype: np.dtype) -> Var:
        """A new accumulator that holds the identity of a reduction."""
        acc = self._fresh("a", dtype)
        self._bodies[-1].append(Declare(acc, identity(kind, dtype)))
        return acc

    def update(self, acc: Var, kind: str, value: Scalar) -> None:
        self._bodies[-1].append(Update(acc, kind, value))

    def read(self, acc: Var) -> Var:
        """The accumulator's value now, as an ordinary scalar."""
        dst = self._fresh("t", acc.dtype)
        self._bodies[-1].append(Let(dst, "read", (acc,)))
        return dst

    def reduce(self, kind: str, dtype, extents: Sequence[Dim], body: Callable) -> Var:
        acc = self.declare(kind, np.dtype(dtype))
        with self.loops(extents) as ks:
            self.update(acc, kind, body(ks))
        return self.read(acc)

    def append(self, stmt: Stmt) -> None:
        self._bodies[-1].append(stmt)

    def call(self, function: str, operands: Sequence[Core], sizes: Sequence[Scalar]) -> Var:
        """A call of a loop of NumPy's; whether it has failed."""
        failed = self._fresh("t", BOOL)
        self.append(Call(function, tuple(operands), tuple(sizes), failed))
        return failed

    def body(self) -> tuple[Stmt, ...]:
        return (*self.prologue, *self._bodies[0])


def folded(name: str, args: tuple[Scalar, ...]) -> Scalar | None:
    """Integer index arithmetic that needs no instruction."""
    if all(isinstance(a, Num) for a in args) and name in _INTEGER and len(args) == 2:
        x, y = (a.value for a in args)  # type: ignore[union-attr]
        return Num(_INTEGER[name](x, y), INT)
    if len(args) != 2:
        return None
    x, y = args
    if name == "add" and ZERO in args or name == "sub" and y == ZERO:
        return y if x == ZERO and name == "add" else x
    if name == "mul" and ZERO in args:
        return ZERO
    if name == "mul" and Num(1, INT) in args:
        return y if x == Num(1, INT) else x
    if name == "floordiv" and y == Num(1, INT):
        return x
    if name == "mod" and y == Num(1, INT):
        return ZERO
    return None


_INTEGER: dict[str, Callable] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "floordiv": lambda x, y: x // y if y else 0,
    "mod": lambda x, y: x % y if y else 0,
    "maximum": max,
    "minimum": min,
}
