"""Kernels as LLVM text: [Kernel] -> functions of one module.

Every kernel is `void @k(ptr %values, ptr %indices, i64 %lo, i64 %hi, i64 %chunk)`: its k-th argument, the address of a
buffer or a dimension, is `values[indices[k]]`. Accumulators are stack slots that LLVM promotes to registers.
Innermost loops are written with vectors (`llvm_vectors`), so that no costly LLVM pass has to find them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapefuse.codegen.calls_llvm import called, substitute
from tapefuse.codegen.contraction_llvm import contraction
from tapefuse.codegen.llvm_instructions import Declarations, Instructions, dim_text, literal, memory_type, register_type
from tapefuse.codegen.loops import (
    CHUNK,
    HI,
    INT,
    LO,
    Allocate,
    Assign,
    Buffer,
    Call,
    Contract,
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
    Transpose,
    Update,
    Var,
    View,
    While,
    dimension,
)
from tapefuse.codegen.transposes_llvm import transposition
from tapefuse.ir.types import Dim, size

PARAMETERS = "ptr %values, ptr %indices, i64 %lo, i64 %hi, i64 %chunk"
CPU_ATTRIBUTES = '"no-trapping-math"="true"'


class Writer(Instructions):
    """Prints the statements of one kernel."""

    def __init__(self, kernel: Kernel, declarations: Declarations):
        self.kernel, self.needs = kernel, declarations
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.names: dict[Var, str] = {LO: "%lo", HI: "%hi", CHUNK: "%chunk"}
        self.names |= {dimension(s): f"%dim.{k}" for k, s in enumerate(kernel.symbols)}
        self.count = 0

    def text(self) -> str:
        head = f"define internal void @{self.kernel.name}({PARAMETERS}) nounwind {CPU_ATTRIBUTES} {{"
        self.statements(self.kernel.body)
        return "\n".join([head, "entry:", *self._arguments(), *self.slots, *self.lines, "  ret void", "}"])

    def _arguments(self) -> list[str]:
        names = [(f"%{b.name}", "ptr") for b in self.kernel.buffers]
        names += [(f"%dim.{k}", "i64") for k in range(len(self.kernel.symbols))]
        lines = []
        for k, (name, type) in enumerate(names):
            lines += [
                f"  {name}.index.at = getelementptr i64, ptr %indices, i64 {k}",
                f"  {name}.index = load i64, ptr {name}.index.at",
                f"  {name}.at = getelementptr i64, ptr %values, i64 {name}.index",
                f"  {name} = load {type}, ptr {name}.at",
            ]
        return lines

    # -- statements --------------------------------------------------------------------------------
    def statements(self, body: Sequence[Stmt]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Stmt) -> None:
        match s:
            case Let(dst, "read", (acc,)):
                self.names[dst] = self.new(f"load {register_type(acc.dtype)}, ptr %{acc}")
            case Let(dst, op, args):
                divisor = args[1] if len(args) == 2 and isinstance(args[1], Num) else None
                operands = [self.use(a) for a in args]
                self.names[dst] = self.instruction(op, operands, args[-1].dtype, dst.dtype, divisor)
            case Load(dst, buffer, index):
                self.names[dst] = self.loaded(dst.dtype, self.address(buffer, index))
            case Store(buffer, index, value):
                self.stored(value.dtype, self.use(value), self.address(buffer, index))
            case Declare(acc, init):
                self.slots.append(f"  %{acc.name} = alloca {register_type(acc.dtype)}")
                self.line(f"store {register_type(acc.dtype)} {self.use(init)}, ptr %{acc.name}")
            case Update(acc, op, value):
                self.update(f"%{acc.name}", op, acc.dtype, self.use(value))
            case For():
                self.loop(s)
            case Gemm():
                self.gemm(s)
            case Contract():
                self.contract(s)
            case Transpose():
                self.transpose(s)
            case Substitute():
                substitute(self, s)
            case Call():
                self.names[s.failed] = called(self, s)
            case Assign(acc, value):
                self.line(f"store {register_type(acc.dtype)} {self.use(value)}, ptr %{acc.name}")
            case View() | Move() | While() | If() | Launch() | Allocate() | Grow() | Free() | Poll():
                self.control(s)

    def control(self, s: Stmt) -> None:
        """What only regions have (llvm_regions)."""
        raise AssertionError(f"{s!r} in a kernel that is no region's")

    def update(self, slot: str, op: str, dtype: np.dtype, value: str) -> None:
        old = self.new(f"load {self.t(dtype)}, ptr {slot}")
        self.line(f"store {self.t(dtype)} {self.combine(op, dtype, old, value)}, ptr {slot}")

    def loaded(self, dtype: np.dtype, address: str) -> str:
        value = self.new(f"load {memory_type(dtype)}, ptr {address}")
        return self.new(f"icmp ne i8 {value}, 0") if dtype.kind == "b" else value

    def stored(self, dtype: np.dtype, value: str, address: str) -> None:
        if dtype.kind == "b":
            value = self.new(f"zext i1 {value} to i8")
        self.line(f"store {memory_type(dtype)} {value}, ptr {address}")

    def loop(self, s: For) -> None:
        """A counted loop with its test at the end and a guard before it."""
        n = self.enter(s)
        var, start, stop = f"%{s.var.name}.{n}", self.use(s.start), self.use(s.stop)
        self.names[s.var] = var
        self.line(f"br label %body.{n}")
        self.start(f"body.{n}")
        self.line(f"{var} = phi i64 [ {start}, %head.{n} ], [ {var}.next, %latch.{n} ]")
        self.statements(s.body)
        self.line(f"br label %latch.{n}")
        self.start(f"latch.{n}")
        self.line(f"{var}.next = add nuw nsw i64 {var}, 1")
        more = self.new(f"icmp slt i64 {var}.next, {stop}")
        self.line(f"br i1 {more}, label %body.{n}, label %exit.{n}")
        self.start(f"exit.{n}")

    def enter(self, s: For) -> int:
        """The guard of a loop; leaves in its head, which runs if there is an iteration. Labels end in the result."""
        self.count += 1
        n = self.count
        if isinstance(s.start, Num) and isinstance(s.stop, Num) and s.start.value < s.stop.value:
            self.line(f"br label %head.{n}")
        else:
            guard = self.new(f"icmp slt i64 {self.use(s.start)}, {self.use(s.stop)}")
            self.line(f"br i1 {guard}, label %head.{n}, label %exit.{n}")
        self.start(f"head.{n}")
        return n

    # -- products ----------------------------------------------------------------------------------
    def gemm(self, s: Gemm) -> None:
        dtype = s.c.type.dtype
        t, letter = register_type(dtype), "s" if dtype == np.float32 else "d"
        types = ["i32"] * 6 + [t, "ptr", "i32", "ptr", "i32", t, "ptr", "i32"]
        function = self.needs.external(f"scipy_cblas_{letter}gemm", "void", *types)
        m, n, k, start, stop = map(self.use, (s.m, s.n, s.k, s.start, s.stop))
        part = self.new(f"sub i64 {stop}, {start}")
        lda, ldb = (m if s.transpose_a else k), (k if s.transpose_b else n)
        by_row = s.split == "m"
        a = self.matrix(s.a, s.at_a, start if by_row else None, "1" if s.transpose_a else lda)
        b = self.matrix(s.b, s.at_b, None if by_row else start, ldb if s.transpose_b else "1")
        c = self.matrix(s.c, s.at_c, start, n if by_row else "1")
        rows, columns = (part, n) if by_row else (m, part)
        sizes = [self.new(f"trunc i64 {v} to i32") for v in (rows, columns, k)]
        strides = [self.new(f"trunc i64 {self.at_least_one(v)} to i32") for v in (lda, ldb, n)]
        one, zero = (literal(Num(v, dtype)) for v in (1.0, 0.0))
        flags = [112 if transposed else 111 for transposed in (s.transpose_a, s.transpose_b)]
        self.line(
            f"call void {function}(i32 101, i32 {flags[0]}, i32 {flags[1]}, "
            f"i32 {sizes[0]}, i32 {sizes[1]}, i32 {sizes[2]}, {t} {one}, "
            f"ptr {a}, i32 {strides[0]}, ptr {b}, i32 {strides[1]}, {t} {zero}, ptr {c}, i32 {strides[2]})"
        )

    def contract(self, s: Contract) -> None:
        function = contraction(self.needs, s)
        places = [self.element(*x) for x in ((s.c, s.at_c), (s.a, s.at_a), (s.b, s.at_b))]
        sizes = [s.rows, s.columns, s.row_c, s.row_a, *(x for t in s.terms for x in (t.extent, t.a, t.b))]
        operands = [f"ptr {p}" for p in places] + [f"i64 {self.use(x)}" for x in sizes]
        self.line(f"call void {function}({', '.join(operands)})")

    def transpose(self, s: Transpose) -> None:
        function = transposition(self.needs, s.y.type.dtype)
        places = [self.element(s.y, s.at_y), self.element(s.x, s.at_x)]
        operands = [f"ptr {p}" for p in places] + [f"i64 {self.use(x)}" for x in (s.rows, s.columns, s.row_y, s.row_x)]
        self.line(f"call void {function}({', '.join(operands)})")

    def element(self, buffer: Buffer, index: Sequence[Scalar]) -> str:
        """Address of an element that may lie outside, if nobody reads it there."""
        linear, at = self.offset(buffer, index), self.pointer(buffer)
        memory = memory_type(buffer.type.dtype)
        return at if linear is None else self.new(f"getelementptr {memory}, ptr {at}, i64 {linear}")

    def at_least_one(self, value: str) -> str:
        if value.isdigit():
            return str(max(int(value), 1))
        return self.new(f"call i64 {self.needs.intrinsic('llvm.smax.i64', 'i64', 'i64', 'i64')}(i64 {value}, i64 1)")

    def matrix(self, buffer: Buffer, lead: Sequence[Scalar], start: str | None, stride: str) -> str:
        """Address of the first element of a (part of a) matrix within a stack of matrices."""
        zero = Num(0, INT)
        address = self.address(buffer, (*lead, zero, zero)) if lead else self.pointer(buffer)
        if start is None:
            return address
        offset = self.new(f"mul i64 {start}, {stride}")
        return self.new(f"getelementptr {memory_type(buffer.type.dtype)}, ptr {address}, i64 {offset}")

    # -- operands ----------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")

    def new(self, text: str) -> str:
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def pointer(self, buffer: Buffer) -> str:
        return f"%{buffer.name}"

    def use(self, x: Scalar) -> str:
        return literal(x) if isinstance(x, Num) else self.names[x]

    def dim(self, d: Dim) -> str:
        return dim_text(d, lambda s: self.names[dimension(s)], self.new)

    def offset(self, buffer: Buffer, index: Sequence[Scalar | None]) -> str | None:
        """The linear index of an element, None if it is 0; components that are None are left out."""
        linear: str | None = None
        for axis, i in enumerate(index):
            if i is None or isinstance(i, Num) and i.value == 0:
                continue
            stride = size(buffer.type.shape[axis + 1 :])
            term = self.use(i) if stride == 1 else self.new(f"mul nsw i64 {self.use(i)}, {self.dim(stride)}")
            linear = term if linear is None else self.new(f"add nsw i64 {linear}, {term}")
        return linear

    def address(self, buffer: Buffer, index: Sequence[Scalar | None], base: str | None = None) -> str:
        linear, base = self.offset(buffer, index), base or self.pointer(buffer)
        element = memory_type(buffer.type.dtype)
        return base if linear is None else self.new(f"getelementptr inbounds {element}, ptr {base}, i64 {linear}")
