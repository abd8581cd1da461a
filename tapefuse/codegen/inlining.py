"""A kernel copied into a region's kernel: its statements, with other buffers and fresh names for its scalars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from tapefuse.codegen.code import Array, Cell, Code, Storage
from tapefuse.codegen.loops import (
    INT,
    Allocate,
    Assign,
    Buffer,
    Call,
    Contract,
    Core,
    Declare,
    For,
    Free,
    Gemm,
    Grow,
    If,
    Kernel,
    Launch,
    Let,
    Load,
    Move,
    Num,
    Poll,
    Scalar,
    Stmt,
    Store,
    Substitute,
    Term,
    Transpose,
    Update,
    Var,
    View,
    While,
    bodies,
    identity,
)
from tapefuse.codegen.loops_walk import with_bodies
from tapefuse.codegen.reuse import buffers
from tapefuse.ir.types import Dim


def inline(
    code: Code,
    kernel: Kernel,
    storages: Sequence[Storage],
    names: Mapping[Var, Scalar],
    bound: Mapping[str, Dim],
    prefix: str = "",
    status: Buffer | None = None,
) -> None:
    """Append a kernel's statements.

    `storages`: what its buffers are; `names`: what `lo`, `hi`, `chunk` and its symbols are; `bound`: dimensions that
    its symbols stand for; `prefix`: of the names of kernels that it runs; `status`: of the region, instead of its own.
    """
    _Inlined(code, kernel, storages, names, bound, prefix, status).run()


def needs_memory(body: Sequence[Stmt]) -> Iterator[Buffer]:
    """Buffers that are not just loaded from and stored to, element by element."""
    for s in body:
        if isinstance(s, Load | Store | Let):
            continue
        yield from buffers((s,))
        for inner in bodies(s):
            yield from needs_memory(inner)


class _Inlined:
    def __init__(
        self,
        code: Code,
        kernel: Kernel,
        storages: Sequence[Storage],
        names: Mapping[Var, Scalar],
        bound: Mapping[str, Dim],
        prefix: str,
        status: Buffer | None,
    ):
        self.code, self.kernel, self.bound, self.prefix, self.status = code, kernel, bound, prefix, status
        self.names: dict[Var, Scalar] = dict(names)
        self.storage: dict[Buffer, Storage] = {}
        for buffer, storage in zip(kernel.buffers, storages, strict=True):
            self.storage[buffer] = storage

    def run(self) -> None:
        for s in self.kernel.body:
            slotted = [c for c in dict.fromkeys(self.stored_within(s)) if c.slot is None]
            for cell in slotted:
                init = cell.value if cell.value is not None else identity("add", cell.type.dtype)
                cell.slot = self.code.declare(cell.type.dtype, init)
            self.statement(s)
            for cell in slotted:
                assert cell.slot is not None
                value = self.code.read(cell.slot)
                cell.slot, cell.value = None, value

    def stored_within(self, s: Stmt) -> Iterator[Cell]:
        """Cells that are assigned inside of a statement, where they may be assigned often or not at all."""
        if isinstance(s, For) and self.trips(s) == 1:
            for t in s.body:
                yield from self.stored_within(t)
            return
        for body in bodies(s):
            yield from self.stored_in(body)

    def stored_in(self, body: Sequence[Stmt]) -> Iterator[Cell]:
        for t in body:
            if isinstance(t, Store) and isinstance(cell := self.storage.get(t.buffer), Cell):
                yield cell
            for inner in bodies(t):
                yield from self.stored_in(inner)

    def trips(self, s: For) -> int | None:
        start, stop = self.scalar(s.start), self.scalar(s.stop)
        if isinstance(start, Num) and isinstance(stop, Num):
            return max(int(stop.value) - int(start.value), 0)
        return None

    # -- operands --------------------------------------------------------------------------------------
    def scalar(self, x: Scalar) -> Scalar:
        if isinstance(x, Num):
            return x
        if x in self.names:
            return self.names[x]
        if x.name.startswith("dim."):
            return self.code.symbol(x.name[4:])
        return x

    def scalars(self, xs: Sequence[Scalar]) -> tuple[Scalar, ...]:
        return tuple(map(self.scalar, xs))

    def array(self, buffer: Buffer) -> Buffer:
        """The buffer of this kernel that one of the inlined kernel is."""
        storage = self.storage[buffer]
        assert isinstance(storage, Array)
        return self.code.view(storage, buffer.type.substitute(self.bound))

    def define(self, dst: Var) -> Var:
        """A fresh name, except for a dimension symbol that is given its meaning here."""
        if dst.name.startswith("dim."):
            self.code.defined.add(dst.name[4:])
            return dst
        new = self.code.fresh(dst.name[0], dst.dtype)
        self.names[dst] = new
        return new

    # -- statements ------------------------------------------------------------------------------------
    def statements(self, body: Sequence[Stmt]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Stmt) -> None:
        code = self.code
        match s:
            case Let(dst, "read", (acc,)):
                code.append(Let(self.define(dst), "read", (self.scalar(acc),)))
            case Let(dst, op, args) if dst.name.startswith("dim."):
                code.define(dst.name[4:], op, *self.scalars(args))
            case Let(dst, op, args):
                self.names[dst] = code.let(op, self.scalars(args), dst.dtype)
            case Load(dst, buffer, index):
                storage = self.storage[buffer]
                if isinstance(storage, Cell):
                    self.names[dst] = code.get(storage)
                else:
                    self.names[dst] = code.load(self.array(buffer), self.scalars(index))
            case Store(buffer, index, value):
                self.store(buffer, index, value)
            case Declare(acc, init):
                init = self.scalar(init)
                code.append(Declare(self.define(acc), init))
            case Update(acc, op, value):
                code.append(Update(self.slot(acc), op, self.scalar(value)))
            case Assign(acc, value):
                code.append(Assign(self.slot(acc), self.scalar(value)))
            case For():
                self.loop(s)
            case While():
                with code.repeat() as found:
                    self.statements(s.before)
                    found.test(self.scalar(s.condition))
                    self.statements(s.body)
            case If():
                parts: list[tuple[Stmt, ...]] = []
                condition = self.scalar(s.condition)
                for part in (s.then, s.otherwise):
                    with code.scope(parts):
                        self.statements(part)
                code.append(If(condition, *parts))
            case View():
                self.view(s)
            case Allocate(buffer, nbytes, _):
                assert self.status is not None
                new = code.buffer(buffer.type.substitute(self.bound))
                self.storage[buffer] = code.made(new)
                code.append(Allocate(new, self.scalar(nbytes), self.status))
            case Grow(buffer, used, nbytes, _):
                assert self.status is not None
                code.append(Grow(self.array(buffer), self.scalar(used), self.scalar(nbytes), self.status))
            case Poll():
                assert self.status is not None
                code.append(Poll(self.status))
            case Free(buffer):
                code.append(Free(self.array(buffer)))
            case Move(targets, sources):
                code.move(tuple(map(self.array, targets)), tuple(map(self.array, sources)))
            case Launch():
                arrays = tuple(map(self.array, s.buffers))
                sizes, bounds = self.scalars(s.sizes), self.scalars((s.rows, s.pieces, s.first))
                code.append(Launch(_renamed(s.kernel, self.prefix), arrays, sizes, *bounds))
            case Gemm() | Contract() | Transpose() | Substitute():
                code.append(self.library(s))
            case Call(function, operands, sizes, failed):
                cores = (Core(self.array(o.buffer), self.scalars(o.at), self.scalars(o.steps)) for o in operands)
                code.append(Call(function, tuple(cores), self.scalars(sizes), self.define(failed)))

    def slot(self, acc: Var) -> Var:
        found = self.scalar(acc)
        assert isinstance(found, Var)
        return found

    def store(self, buffer: Buffer, index: Sequence[Scalar], value: Scalar) -> None:
        storage = self.storage[buffer]
        if isinstance(storage, Array) and storage.buffer is self.status:
            return  # it is cleared when the region around begins
        if isinstance(storage, Cell):
            self.code.set(storage, self.scalar(value))
        else:
            self.code.store(self.array(buffer), self.scalars(index), self.scalar(value))

    def view(self, s: View) -> None:
        """A view of its own: it may be moved."""
        code, type = self.code, s.buffer.type.substitute(self.bound)
        new = code.buffer(type)
        code.name_view(new, self.array(s.source), self.scalar(s.at), s.local)
        self.storage[s.buffer] = Array(new, code.here)

    def loop(self, s: For) -> None:
        code, trips = self.code, self.trips(s)
        start, stop = self.scalar(s.start), self.scalar(s.stop)
        if trips == 0:
            return
        if trips == 1 and not s.var.name.startswith("dim."):
            self.names[s.var] = start
            return self.statements(s.body)
        var = s.var
        if var.name.startswith("dim."):
            code.defined.add(var.name[4:])
        else:
            var = code.fresh("i", INT, code.here + 1)
            self.names[s.var] = var
        with code.loop(var, start, stop):
            self.statements(s.body)

    def library(self, s: Gemm | Contract | Transpose | Substitute) -> Stmt:
        changed: dict[str, Any] = {}
        for f in fields(s):
            x = getattr(s, f.name)
            if isinstance(x, Buffer):
                changed[f.name] = self.array(x)
            elif isinstance(x, Var | Num):
                changed[f.name] = self.scalar(x)
            elif isinstance(x, tuple) and x and isinstance(x[0], Term):
                changed[f.name] = tuple(Term(*self.scalars((t.extent, t.a, t.b))) for t in x)
            elif isinstance(x, tuple):
                changed[f.name] = self.scalars(x)
        return replace(s, **changed)


def _renamed(kernel: Kernel, prefix: str) -> Kernel:
    """The kernel with a prefix to its name, and to the names of those that it launches."""

    def renamed(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return tuple(map(changed, body))

    def changed(s: Stmt) -> Stmt:
        if isinstance(s, Launch):
            return replace(s, kernel=_renamed(s.kernel, prefix))
        return with_bodies(s, renamed)

    return replace(kernel, name=f"{prefix}_{kernel.name}", body=renamed(kernel.body))
