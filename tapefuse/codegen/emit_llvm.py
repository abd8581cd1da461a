"""Kernels as LLVM text: [Kernel] -> functions of one module.

Every kernel is `void @k(ptr %b0, ..., i64 %dim.0, ..., i64 %lo, i64 %hi, i64 %chunk)`. Accumulators are stack slots that
LLVM promotes to registers; buffers never overlap, so pointers are `noalias`; loops test before the first iteration.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.codegen import vector_math
from tapefuse.codegen.loops import (
    CHUNK,
    COMPARISONS,
    HI,
    INT,
    LO,
    Buffer,
    Declare,
    For,
    Gemm,
    Kernel,
    Let,
    Load,
    Num,
    Scalar,
    Stmt,
    Store,
    Update,
    Var,
)
from tapefuse.ir.types import Dim, Poly, show_dtype, size

FLAGS = "contract"  # a*b+c may round once; anything looser changes what users' formulas mean
TERM_FLAGS = "contract reassoc nsz"  # the order of a reduction's terms is free
CPU_ATTRIBUTES = '"no-trapping-math"="true"'

_PREDICATES = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
_BITS = {"and": "and", "or": "or", "xor": "xor"}
_ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "div": "div"}
_ROUNDING = {"floor": "floor", "ceil": "ceil", "round": "rint", "sqrt": "sqrt"}


def register_type(dtype: np.dtype) -> str:
    """The LLVM type of a scalar in a register."""
    if dtype.kind == "b":
        return "i1"
    if dtype.kind in "iu":
        return f"i{dtype.itemsize * 8}"
    if dtype == np.float32:
        return "float"
    if dtype == np.float64:
        return "double"
    raise CompileError(f"compiled code has no {show_dtype(dtype)}; cast to f32 or f64, or run with disable_jit")


def memory_type(dtype: np.dtype) -> str:
    return "i8" if dtype.kind == "b" else register_type(dtype)


def literal(num: Num) -> str:
    if num.dtype.kind == "b":
        return "true" if num.value else "false"
    if num.dtype.kind in "iu":
        return str(num.value)
    return f"0x{struct.unpack('<Q', struct.pack('<d', num.value))[0]:016X}"  # LLVM writes floats as their double's bits


class Declarations:
    """What the functions of a module need beside themselves."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.math: dict[tuple[str, str], None] = {}
        self.helpers: dict[str, str] = {}
        self.externals: set[str] = set()

    def intrinsic(self, name: str, result: str, *args: str) -> str:
        self.lines.setdefault(name, f"declare {result} @{name}({', '.join(args)})")
        return f"@{name}"

    def external(self, name: str, result: str, *args: str) -> str:
        self.externals.add(name)
        return self.intrinsic(name, result, *args)

    def vector_function(self, name: str, dtype: str) -> str:
        self.math[name, dtype] = None
        return f'@"{vector_math.symbol(name, dtype)}"'

    def text(self) -> str:
        lines = {**vector_math.declarations(self.math), **self.lines}
        bodies = (vector_math.definition(*needed) for needed in self.math)
        return "\n".join([*lines.values(), "", *self.helpers.values(), *bodies])


def kernel_text(kernel: Kernel, declarations: Declarations) -> str:
    """The definition of one kernel."""
    return _Writer(kernel, declarations).text()


def kernel_parameters(kernel: Kernel) -> list[str]:
    """LLVM types of a kernel's parameters."""
    return ["ptr"] * len(kernel.buffers) + ["i64"] * (len(kernel.symbols) + 3)


class _Writer:
    def __init__(self, kernel: Kernel, declarations: Declarations):
        self.kernel, self.needs = kernel, declarations
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.names: dict[Var, str] = {LO: "%lo", HI: "%hi", CHUNK: "%chunk"}
        self.names |= {Var(s, INT): f"%dim.{k}" for k, s in enumerate(kernel.symbols)}
        self.count = 0
        self.block = "entry"

    def text(self) -> str:
        pointers = [f"ptr noalias nocapture %{b.name}" for b in self.kernel.buffers]
        numbers = [f"i64 %dim.{k}" for k in range(len(self.kernel.symbols))] + ["i64 %lo", "i64 %hi", "i64 %chunk"]
        head = f'define internal void @{self.kernel.name}({", ".join(pointers + numbers)}) nounwind {CPU_ATTRIBUTES} {{'
        self.statements(self.kernel.body)
        return "\n".join([head, "entry:", *self.slots, *self.lines, "  ret void", "}"])

    # -- statements --------------------------------------------------------------------------------
    def statements(self, body: Sequence[Stmt]) -> None:
        for s in body:
            match s:
                case Let(dst, "read", (acc,)):
                    self.let(dst, f"load {self.slot_type(acc)}, ptr %{acc.name}")
                case Let(dst, op, args):
                    self.names[dst] = self.instruction(op, args, dst.dtype)
                case Load(dst, buffer, index):
                    self.load(dst, buffer, index)
                case Store(buffer, index, value):
                    self.store(buffer, index, value)
                case Declare(acc, init):
                    self.slots.append(f"  %{acc.name} = alloca {self.slot_type(acc)}")
                    self.line(f"store {self.slot_type(acc)} {self.use(init)}, ptr %{acc.name}")
                case Update(acc, op, value):
                    old = self.new(f"load {self.slot_type(acc)}, ptr %{acc.name}")
                    new = self.combine(op, acc.dtype, old, self.use(value))
                    self.line(f"store {self.slot_type(acc)} {new}, ptr %{acc.name}")
                case For():
                    self.loop(s)
                case Gemm():
                    self.gemm(s)

    def slot_type(self, acc: Scalar) -> str:
        return register_type(acc.dtype)

    def load(self, dst: Var, buffer: Buffer, index: Sequence[Scalar]) -> None:
        address = self.address(buffer, index)
        if dst.dtype.kind == "b":
            byte = self.new(f"load i8, ptr {address}")
            self.let(dst, f"icmp ne i8 {byte}, 0")
        else:
            self.let(dst, f"load {memory_type(dst.dtype)}, ptr {address}")

    def store(self, buffer: Buffer, index: Sequence[Scalar], value: Scalar) -> None:
        address, register = self.address(buffer, index), self.use(value)
        if value.dtype.kind == "b":
            register = self.new(f"zext i1 {register} to i8")
        self.line(f"store {memory_type(value.dtype)} {register}, ptr {address}")

    def loop(self, s: For) -> None:
        """A counted loop with its test at the end and a guard before it."""
        self.count += 1
        n, var, start, stop = self.count, f"%{s.var.name}", self.use(s.start), self.use(s.stop)
        self.names[s.var] = var
        if not (isinstance(s.start, Num) and isinstance(s.stop, Num) and s.start.value < s.stop.value):
            guard = self.new(f"icmp slt i64 {start}, {stop}")
            self.line(f"br i1 {guard}, label %head.{n}, label %exit.{n}")
        else:
            self.line(f"br label %head.{n}")
        self.start(f"head.{n}")
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
        one, zero = literal(Num(1.0, dtype)), literal(Num(0.0, dtype))
        flags = [112 if transposed else 111 for transposed in (s.transpose_a, s.transpose_b)]
        self.line(
            f"call void {function}(i32 101, i32 {flags[0]}, i32 {flags[1]}, i32 {sizes[0]}, i32 {sizes[1]}, i32 {sizes[2]}, "
            f"{t} {one}, ptr {a}, i32 {strides[0]}, ptr {b}, i32 {strides[1]}, {t} {zero}, ptr {c}, i32 {strides[2]})"
        )

    def at_least_one(self, value: str) -> str:
        if value.isdigit():
            return str(max(int(value), 1))
        return self.new(f"call i64 {self.needs.intrinsic('llvm.smax.i64', 'i64', 'i64', 'i64')}(i64 {value}, i64 1)")

    def matrix(self, buffer: Buffer, lead: Sequence[Scalar], start: str | None, stride: str) -> str:
        """Address of the first element of a (part of a) matrix within a stack of matrices."""
        zero = Num(0, INT)
        address = self.address(buffer, (*lead, zero, zero)) if lead else f"%{buffer.name}"
        if start is None:
            return address
        offset = self.new(f"mul i64 {start}, {stride}")
        return self.new(f"getelementptr {memory_type(buffer.type.dtype)}, ptr {address}, i64 {offset}")

    # -- scalars -----------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def new(self, text: str) -> str:
        self.count += 1
        name = f"%v{self.count}"
        self.line(f"{name} = {text}")
        return name

    def let(self, dst: Var, text: str) -> None:
        self.names[dst] = self.new(text)

    def use(self, x: Scalar) -> str:
        return literal(x) if isinstance(x, Num) else self.names[x]

    def dim(self, d: Dim) -> str:
        return dim_text(d, lambda s: self.names[Var(s, INT)], self.new)

    def address(self, buffer: Buffer, index: Sequence[Scalar]) -> str:
        element = memory_type(buffer.type.dtype)
        linear: str | None = None
        for axis, i in enumerate(index):
            if isinstance(i, Num) and i.value == 0:
                continue
            stride = size(buffer.type.shape[axis + 1 :])
            term = self.use(i) if stride == 1 else self.new(f"mul nsw i64 {self.use(i)}, {self.dim(stride)}")
            linear = term if linear is None else self.new(f"add nsw i64 {linear}, {term}")
        if linear is None:
            return f"%{buffer.name}"
        return self.new(f"getelementptr inbounds {element}, ptr %{buffer.name}, i64 {linear}")

    def instruction(self, op: str, args: Sequence[Scalar], dtype: np.dtype) -> str:
        xs = [self.use(a) for a in args]
        of = args[-1].dtype
        if op == "cast":
            return self.cast(xs[0], args[0].dtype, dtype)
        if op == "select":
            t = register_type(of)
            return self.new(f"select i1 {xs[0]}, {t} {xs[1]}, {t} {xs[2]}")
        if op in COMPARISONS:
            return self.compare(op, of, *xs)
        if op == "not":
            return self.new(f"xor {register_type(of)} {xs[0]}, {'true' if of.kind == 'b' else '-1'}")
        if op in _BITS:
            return self.new(f"{op} {register_type(of)} {xs[0]}, {xs[1]}")
        if of.kind == "f":
            return self.float_instruction(op, of, xs)
        return self.int_instruction(op, of, xs, args)

    def compare(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        t = register_type(dtype)
        if dtype.kind == "f":
            return self.new(f"fcmp {'une' if op == 'ne' else 'o' + op} {t} {x}, {y}")
        sign = "" if op in ("eq", "ne") else "s" if dtype.kind == "i" else "u"
        return self.new(f"icmp {sign}{op} {t} {x}, {y}")

    def combine(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        """One term of a reduction."""
        if dtype.kind == "f" and op in ("add", "mul"):
            return self.new(f"f{op} {TERM_FLAGS} {register_type(dtype)} {x}, {y}")
        if op in _BITS:
            return self.new(f"{op} {register_type(dtype)} {x}, {y}")
        if dtype.kind == "f":
            return self.float_instruction(op, dtype, [x, y])
        return self.int_instruction(op, dtype, [x, y], ())

    def intrinsic(self, name: str, dtype: np.dtype, *xs: str) -> str:
        t = register_type(dtype)
        suffix = show_dtype(dtype).replace("u", "i") if dtype.kind != "b" else "i1"
        function = self.needs.intrinsic(f"llvm.{name}.{suffix}", t, *[t] * len(xs))
        return self.new(f"call {t} {function}({', '.join(f'{t} {x}' for x in xs)})")

    def float_instruction(self, op: str, dtype: np.dtype, xs: list[str]) -> str:
        t = register_type(dtype)
        if op in _ARITHMETIC:
            return self.new(f"f{op} {FLAGS} {t} {xs[0]}, {xs[1]}")
        if op == "neg":
            return self.new(f"fneg {t} {xs[0]}")
        if op == "abs":
            return self.intrinsic("fabs", dtype, xs[0])
        if op in ("maximum", "minimum"):
            return self.extremum(op, dtype, *xs)
        if op in _ROUNDING:
            return self.intrinsic(_ROUNDING[op], dtype, xs[0])
        one, zero = literal(Num(1.0, dtype)), literal(Num(0.0, dtype))
        if op == "rsqrt":
            return self.new(f"fdiv {t} {one}, {self.intrinsic('sqrt', dtype, xs[0])}")
        if op == "sign":
            positive, negative = self.compare("gt", dtype, xs[0], zero), self.compare("lt", dtype, xs[0], zero)
            equal = self.compare("eq", dtype, xs[0], zero)
            rest = self.new(f"select i1 {equal}, {t} {zero}, {t} {xs[0]}")
            below = self.new(f"select i1 {negative}, {t} {literal(Num(-1.0, dtype))}, {t} {rest}")
            return self.new(f"select i1 {positive}, {t} {one}, {t} {below}")
        if op in ("floordiv", "mod"):
            return self.float_division(op, dtype, *xs)
        if op in vector_math.FUNCTIONS:
            function = self.needs.vector_function(op, show_dtype(dtype))
            return self.new(f"call {t} {function}({', '.join(f'{t} {x}' for x in xs)})")
        raise CompileError(f"no LLVM instruction for {op} of {show_dtype(dtype)}")

    def extremum(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        """NumPy's maximum and minimum: nan wins."""
        t = register_type(dtype)
        order = "ogt" if op == "maximum" else "olt"
        first = self.new(f"fcmp {order} {t} {x}, {y}")
        is_nan = self.new(f"fcmp uno {t} {x}, {x}")
        wins = self.new(f"or i1 {first}, {is_nan}")
        return self.new(f"select i1 {wins}, {t} {x}, {t} {y}")

    def float_division(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        """Python's `//` and `%`: the remainder has the divisor's sign. As CPython's float_divmod computes them."""
        t, zero = register_type(dtype), literal(Num(0.0, dtype))
        self.needs.externals.add("fmodf" if dtype == np.float32 else "fmod")
        rest = self.new(f"frem {t} {x}, {y}")
        exact = self.compare("eq", dtype, rest, zero)
        signs = [self.compare("lt", dtype, v, zero) for v in (rest, y)]
        differ = self.new(f"xor i1 {signs[0]}, {signs[1]}")
        inexact = self.compare("ne", dtype, rest, zero)
        shift = self.new(f"and i1 {inexact}, {differ}")
        if op == "mod":
            moved = self.new(f"select i1 {shift}, {t} {self.new(f'fadd {t} {rest}, {y}')}, {t} {rest}")
            signed_zero = self.intrinsic("copysign", dtype, zero, y)
            return self.new(f"select i1 {exact}, {t} {signed_zero}, {t} {moved}")
        quotient = self.new(f"fdiv {t} {self.new(f'fsub {t} {x}, {rest}')}, {y}")
        lowered = self.new(f"fsub {t} {quotient}, {literal(Num(1.0, dtype))}")
        chosen = self.new(f"select i1 {shift}, {t} {lowered}, {t} {quotient}")
        floored = self.intrinsic("floor", dtype, chosen)
        gap = self.compare("gt", dtype, self.new(f"fsub {t} {chosen}, {floored}"), literal(Num(0.5, dtype)))
        up = self.new(f"fadd {t} {floored}, {literal(Num(1.0, dtype))}")
        rounded = self.new(f"select i1 {gap}, {t} {up}, {t} {floored}")
        by_zero = self.compare("eq", dtype, y, zero)
        return self.new(f"select i1 {by_zero}, {t} {self.new(f'fdiv {t} {x}, {y}')}, {t} {rounded}")

    def int_instruction(self, op: str, dtype: np.dtype, xs: list[str], args: Sequence[Scalar]) -> str:
        t, signed = register_type(dtype), dtype.kind == "i"
        if dtype.kind == "b" and op in ("maximum", "minimum", "add", "mul"):
            return self.new(f"{'or' if op in ('maximum', 'add') else 'and'} i1 {xs[0]}, {xs[1]}")
        if op in ("add", "sub", "mul"):
            return self.new(f"{op} {t} {xs[0]}, {xs[1]}")
        if op == "neg":
            return self.new(f"sub {t} 0, {xs[0]}")
        if op == "abs":
            if not signed:
                return xs[0]
            function = self.needs.intrinsic(f"llvm.abs.{t}", t, t, "i1")
            return self.new(f"call {t} {function}({t} {xs[0]}, i1 false)")
        if op in ("maximum", "minimum"):
            return self.intrinsic(("s" if signed else "u") + ("max" if op == "maximum" else "min"), dtype, *xs)
        if op == "sign":
            above = self.new(f"zext i1 {self.compare('gt', dtype, xs[0], '0')} to {t}")
            below = self.new(f"zext i1 {self.compare('lt', dtype, xs[0], '0')} to {t}")
            return self.new(f"sub {t} {above}, {below}")
        if op in ("floor", "ceil", "round"):
            return xs[0]
        if op in ("floordiv", "mod"):
            known = len(args) == 2 and isinstance(args[1], Num) and args[1].value > 0
            return self.int_division(op, t, signed, xs[0], xs[1], known)
        if op == "pow":
            return self.new(f"call {t} {self.power(t)}({t} {xs[0]}, {t} {xs[1]})")
        raise CompileError(f"no LLVM instruction for {op} of {show_dtype(dtype)}")

    def int_division(self, op: str, t: str, signed: bool, x: str, y: str, positive: bool) -> str:
        """Python's `//` and `%` on integers; by 0 gives 0 as in NumPy, and the smallest integer by -1 does not trap."""
        safe = y
        if not positive:
            is_zero = self.new(f"icmp eq {t} {y}, 0")
            unsafe = is_zero
            if signed:
                unsafe = self.new(f"or i1 {is_zero}, {self.new(f'icmp eq {t} {y}, -1')}")
            safe = self.new(f"select i1 {unsafe}, {t} 1, {t} {y}")
        s = "s" if signed else "u"
        rest = self.new(f"{s}rem {t} {x}, {safe}")
        result = rest if op == "mod" else self.new(f"{s}div {t} {x}, {safe}")
        if signed:
            opposite = self.new(f"icmp slt {t} {self.new(f'xor {t} {rest}, {safe}')}, 0")
            shift = self.new(f"and i1 {opposite}, {self.new(f'icmp ne {t} {rest}, 0')}")
            correction = safe if op == "mod" else "-1"
            moved = self.new(f"add {t} {result}, {correction}")
            result = self.new(f"select i1 {shift}, {t} {moved}, {t} {result}")
        if positive:
            return result
        if signed and op == "floordiv":
            by_minus_one = self.new(f"icmp eq {t} {y}, -1")
            result = self.new(f"select i1 {by_minus_one}, {t} {self.new(f'sub {t} 0, {x}')}, {t} {result}")
        return self.new(f"select i1 {is_zero}, {t} 0, {t} {result}")

    def power(self, t: str) -> str:
        """A helper that multiplies by squaring; exponents are non-negative."""
        name = f"tapefuse.power.{t}"
        self.needs.helpers[name] = (
            f'define internal {t} @"{name}"({t} %x, {t} %n) nounwind {{\nentry:\n  br label %test\n'
            f"test:\n  %e = phi {t} [ %n, %entry ], [ %half, %step ]\n  %b = phi {t} [ %x, %entry ], [ %square, %step ]\n"
            f"  %r = phi {t} [ 1, %entry ], [ %product, %step ]\n  %more = icmp sgt {t} %e, 0\n"
            f"  br i1 %more, label %step, label %done\nstep:\n  %bit = and {t} %e, 1\n  %odd = icmp ne {t} %bit, 0\n"
            f"  %times = mul {t} %r, %b\n  %product = select i1 %odd, {t} %times, {t} %r\n  %square = mul {t} %b, %b\n"
            f"  %half = lshr {t} %e, 1\n  br label %test\ndone:\n  ret {t} %r\n}}"
        )
        return f'@"{name}"'

    def cast(self, x: str, source: np.dtype, target: np.dtype) -> str:
        """NumPy's astype; out-of-range floats saturate (NumPy leaves them undefined)."""
        a, b = register_type(source), register_type(target)
        if target.kind == "b":
            return self.compare("ne", source, x, "0" if source.kind in "iu" else literal(Num(0.0, source)))
        if source.kind == "b":
            return self.new(f"{'uitofp' if target.kind == 'f' else 'zext'} i1 {x} to {b}")
        if source.kind == "f" and target.kind == "f":
            return x if a == b else self.new(f"{'fpext' if source.itemsize < target.itemsize else 'fptrunc'} {a} {x} to {b}")
        if source.kind == "f":
            sign = "s" if target.kind == "i" else "u"
            name = f"llvm.fpto{sign}i.sat.{b}.{show_dtype(source)}"
            return self.new(f"call {b} {self.needs.intrinsic(name, b, a)}({a} {x})")
        if target.kind == "f":
            return self.new(f"{'sitofp' if source.kind == 'i' else 'uitofp'} {a} {x} to {b}")
        if source.itemsize == target.itemsize:
            return x
        if source.itemsize > target.itemsize:
            return self.new(f"trunc {a} {x} to {b}")
        return self.new(f"{'sext' if source.kind == 'i' else 'zext'} {a} {x} to {b}")


def dim_text(d: Dim, symbol: Callable[[str], str], new: Callable[[str], str]) -> str:
    """A dimension as an operand, its arithmetic appended."""
    if not isinstance(d, Poly):
        return str(d)
    total: str | None = None
    for mono, coef in d.terms:
        term = str(coef)
        for s in mono:
            term = symbol(s) if term == "1" else new(f"mul i64 {term}, {symbol(s)}")
        total = term if total is None else new(f"add i64 {total}, {term}")
    assert total is not None
    return total


