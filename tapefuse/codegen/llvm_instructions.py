"""Scalar instructions of the loop IR as LLVM instructions, of one lane or many: `fadd contract <16 x float> %x, %y`."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.codegen import vector_math
from tapefuse.codegen.contraction import registers
from tapefuse.codegen.llvm_random import threefry
from tapefuse.codegen.loops import Num
from tapefuse.ir.ops.scalar import COMPARISONS, HALVES
from tapefuse.ir.types import Dim, Poly, show_dtype

FLAGS = "contract "  # a*b+c may round once; anything looser changes what users' formulas mean
TERM_FLAGS = "contract reassoc nsz "  # the order of a reduction's terms is free
COPIES = 8  # calls of an elementary function up to which each gets a copy; more would only take time to compile
LIBM = tuple(f for f in vector_math.FUNCTIONS if f not in ("sigmoid", "softplus"))

_BITS = frozenset({"and", "or", "xor"})
_ARITHMETIC = frozenset({"add", "sub", "mul", "div"})
_ROUNDING = {"floor": "floor", "ceil": "ceil", "round": "rint", "sqrt": "sqrt"}


def register_type(dtype: np.dtype) -> str:
    """The LLVM type of one lane of a scalar in a register."""
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
    """What the functions of a module need beside themselves. `strict`: no flags, and libm's functions. `fuses`: whether
    a product and a sum may be one instruction."""

    def __init__(self, strict: bool = False, fuses: bool = True) -> None:
        self.strict = strict
        self.fuses = fuses and not strict
        self.lines: dict[str, str] = {}
        self.math: Counter[tuple[str, str, int]] = Counter()  # elementary functions: how often each is called
        self.helpers: dict[str, str] = {}
        self.externals: set[str] = set()
        self.parallel = False  # whether something is cut into pieces
        self.kernels: dict[str, str] = {}  # body without its name -> name: equal kernels are compiled once
        self.texts: list[str] = []
        self.printed: Callable[[Any], str] = lambda kernel: ""  # the definition of a kernel

    def function(self, kernel: Any) -> str:
        """The name of a kernel's function, which is defined if none does the same."""
        text = self.printed(kernel)
        rest = text.split("(", 1)[1]
        if rest not in self.kernels:
            self.kernels[rest] = kernel.name
            self.texts.append(text)
        return self.kernels[rest]

    def numbers(self, count: int) -> str:
        """A table of the numbers 0, 1, ..., at least `count`."""
        n = 64 * -(-max(count, 1) // 64)
        numbers = ", ".join(f"i64 {k}" for k in range(n))
        self.lines.setdefault(f"numbers.{n}", f"@numbers.{n} = private constant [{n} x i64] [{numbers}]")
        return f"@numbers.{n}"

    def intrinsic(self, name: str, result: str, *args: str) -> str:
        self.lines.setdefault(name, f"declare {result} @{name}({', '.join(args)})")
        return f"@{name}"

    def external(self, name: str, result: str, *args: str) -> str:
        self.externals.add(name)
        return self.intrinsic(name, result, *args)

    def vector_function(self, name: str, dtype: str, width: int) -> str:
        self.math[name, dtype, width] += 1
        return f'@"{vector_math.symbol(name, dtype, width)}"'

    def text(self) -> str:
        avx512 = registers().nbytes == 64
        lines = {**vector_math.declarations(self.math, avx512), **self.lines}
        bodies = [vector_math.definition(*needed, avx512) for needed in self.math]
        for k, calls in enumerate(self.math.values()):
            if calls > COPIES:
                bodies[k] = bodies[k].replace("alwaysinline", "noinline", 1)
        return "\n".join([*lines.values(), "", *self.helpers.values(), *bodies])


class Instructions:
    """Appends LLVM instructions of `width` lanes. Operands are texts: names, or literals made by `literal`."""

    width: int = 1
    needs: Declarations

    def new(self, text: str) -> str:
        """Append an instruction; its result's name."""
        raise AssertionError("a writer defines where instructions go")

    def lanes(self, type: str) -> str:
        return type if self.width == 1 else f"<{self.width} x {type}>"

    def t(self, dtype: np.dtype) -> str:
        return self.lanes(register_type(dtype))

    def same(self, type: str, text: str) -> str:
        """A literal in every lane; `type` is that of one lane."""
        return text if self.width == 1 else f"splat ({type} {text})"

    def number(self, value: float, dtype: np.dtype) -> str:
        return self.same(register_type(dtype), literal(Num(dtype.type(value).item(), dtype)))

    def suffix(self, dtype: np.dtype) -> str:
        """How intrinsics name a type: `f32`, `v16f32`."""
        lane = "i1" if dtype.kind == "b" else show_dtype(dtype).replace("u", "i")
        return lane if self.width == 1 else f"v{self.width}{lane}"

    def instruction(self, op: str, xs: list[str], of: np.dtype, dtype: np.dtype, divisor: Num | None = None) -> str:
        """`op` on operands `xs` of dtype `of`; `divisor`: the second operand, if it is a literal."""
        if op == "cast":
            return self.cast(xs[0], of, dtype)
        if op == "select":
            return self.select(xs[0], of, xs[1], xs[2])
        if op in ("bits", "floating"):
            return self.new(f"bitcast {self.t(of)} {xs[0]} to {self.t(dtype)}")
        if op in HALVES:
            return self.half(op, xs[0])
        if op in COMPARISONS:
            return self.compare(op, of, *xs)
        if op == "not":
            ones = self.same(register_type(of), "true" if of.kind == "b" else "-1")
            return self.new(f"xor {self.t(of)} {xs[0]}, {ones}")
        if op in _BITS:
            return self.new(f"{op} {self.t(of)} {xs[0]}, {xs[1]}")
        if of.kind == "f":
            return self.float_instruction(op, of, xs)
        return self.int_instruction(op, of, xs, divisor)

    def half(self, op: str, x: str) -> str:
        """Between float32 and the bits of a float16; rounds to nearest, ties to even."""
        half, bits, single = map(self.lanes, ("half", "i16", "float"))
        if op == "to_half":
            return self.new(f"bitcast {half} {self.new(f'fptrunc {single} {x} to {half}')} to {bits}")
        return self.new(f"fpext {half} {self.new(f'bitcast {bits} {x} to {half}')} to {single}")

    def select(self, condition: str, dtype: np.dtype, x: str, y: str) -> str:
        return self.new(f"select {self.lanes('i1')} {condition}, {self.t(dtype)} {x}, {self.t(dtype)} {y}")

    def logical(self, op: str, x: str, y: str) -> str:
        return self.new(f"{op} {self.lanes('i1')} {x}, {y}")

    def compare(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        if dtype.kind == "f":
            return self.new(f"fcmp {'une' if op == 'ne' else 'o' + op} {self.t(dtype)} {x}, {y}")
        sign = "" if op in ("eq", "ne") else "s" if dtype.kind == "i" else "u"
        return self.new(f"icmp {sign}{op} {self.t(dtype)} {x}, {y}")

    def combine(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        """One term of a reduction."""
        if dtype.kind == "f" and op in ("add", "mul"):
            return self.new(f"f{op} {'' if self.needs.strict else TERM_FLAGS}{self.t(dtype)} {x}, {y}")
        return self.instruction(op, [x, y], dtype, dtype)

    def intrinsic(self, name: str, dtype: np.dtype, *xs: str) -> str:
        t = self.t(dtype)
        function = self.needs.intrinsic(f"llvm.{name}.{self.suffix(dtype)}", t, *[t] * len(xs))
        return self.new(f"call {t} {function}({', '.join(f'{t} {x}' for x in xs)})")

    # -- floats ------------------------------------------------------------------------------------
    def float_instruction(self, op: str, dtype: np.dtype, xs: list[str]) -> str:
        t = self.t(dtype)
        if op in _ARITHMETIC:
            return self.new(f"f{op} {FLAGS if self.needs.fuses else ''}{t} {xs[0]}, {xs[1]}")
        if op == "neg":
            return self.new(f"fneg {t} {xs[0]}")
        if op == "abs":
            return self.intrinsic("fabs", dtype, xs[0])
        if op in ("maximum", "minimum"):
            return self.extremum(op, dtype, *xs)
        if op in _ROUNDING:
            return self.intrinsic(_ROUNDING[op], dtype, xs[0])
        if op == "rsqrt":
            return self.new(f"fdiv {t} {self.number(1, dtype)}, {self.intrinsic('sqrt', dtype, xs[0])}")
        if op == "sign":
            return self.sign(dtype, xs[0])
        if op in ("floordiv", "mod"):
            return self.float_division(op, dtype, *xs)
        if self.needs.strict and op in (*LIBM, "sigmoid", "softplus"):
            return self.strict_function(op, dtype, xs)
        if op in vector_math.FUNCTIONS:
            function = self.needs.vector_function(op, show_dtype(dtype), self.width)
            return self.new(f"call {t} {function}({', '.join(f'{t} {x}' for x in xs)})")
        raise CompileError(f"no LLVM instruction for {op} of {show_dtype(dtype)}")

    def sine_and_cosine(self, dtype: np.dtype, x: str) -> tuple[str, str]:
        """Both, from one reduction of the argument."""
        t = self.t(dtype)
        function, both = self.needs.vector_function("sincos", show_dtype(dtype), self.width), f"{{ {t}, {t} }}"
        pair = self.new(f"call {both} {function}({t} {x})")
        return self.new(f"extractvalue {both} {pair}, 0"), self.new(f"extractvalue {both} {pair}, 1")

    def strict_function(self, op: str, dtype: np.dtype, xs: list[str]) -> str:
        """libm's function, or the textbook's formula with libm's exp."""
        t = self.t(dtype)
        if op in LIBM:
            name = op + ("f" if dtype == np.float32 else "")
            function = self.needs.external(name, t, *[t] * len(xs))
            return self.new(f"call {t} {function}({', '.join(f'{t} {x}' for x in xs)})")
        x, zero, one = xs[0], self.number(0, dtype), self.number(1, dtype)
        minus = self.new(f"fneg {t} {self.intrinsic('fabs', dtype, x)}")
        e = self.strict_function("exp", dtype, [minus])
        if op == "softplus":  # max(x, 0) + log(1 + exp(-|x|))
            rest = self.strict_function("log1p", dtype, [e])
            return self.new(f"fadd {t} {self.extremum('maximum', dtype, x, zero)}, {rest}")
        top = self.select(self.compare("lt", dtype, x, zero), dtype, e, one)  # exp(min(x, 0)) / (1 + exp(-|x|))
        quotient = self.new(f"fdiv {t} {top}, {self.new(f'fadd {t} {one}, {e}')}")
        return self.select(self.new(f"fcmp uno {t} {x}, {x}"), dtype, x, quotient)

    def extremum(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        """NumPy's maximum and minimum: nan wins."""
        first = self.new(f"fcmp {'ogt' if op == 'maximum' else 'olt'} {self.t(dtype)} {x}, {y}")
        wins = self.logical("or", first, self.new(f"fcmp uno {self.t(dtype)} {x}, {x}"))
        return self.select(wins, dtype, x, y)

    def sign(self, dtype: np.dtype, x: str) -> str:
        """1, -1, 0 for either zero, nan for nan."""
        zero = self.number(0, dtype)
        rest = self.select(self.compare("eq", dtype, x, zero), dtype, zero, x)
        below = self.select(self.compare("lt", dtype, x, zero), dtype, self.number(-1, dtype), rest)
        return self.select(self.compare("gt", dtype, x, zero), dtype, self.number(1, dtype), below)

    def float_division(self, op: str, dtype: np.dtype, x: str, y: str) -> str:
        """Python's `//` and `%`: the remainder has the divisor's sign. Computed as NumPy's divmod."""
        t, zero, one = self.t(dtype), self.number(0, dtype), self.number(1, dtype)
        self.needs.externals.add("fmodf" if dtype == np.float32 else "fmod")
        rest = self.new(f"frem {t} {x}, {y}")
        differ = self.logical("xor", self.compare("lt", dtype, rest, zero), self.compare("lt", dtype, y, zero))
        shift = self.logical("and", self.compare("ne", dtype, rest, zero), differ)
        if op == "mod":
            moved = self.select(shift, dtype, self.new(f"fadd {t} {rest}, {y}"), rest)
            exact = self.compare("eq", dtype, rest, zero)
            return self.select(exact, dtype, self.intrinsic("copysign", dtype, zero, y), moved)
        quotient = self.new(f"fdiv {t} {self.new(f'fsub {t} {x}, {rest}')}, {y}")
        chosen = self.select(shift, dtype, self.new(f"fsub {t} {quotient}, {one}"), quotient)
        floored = self.intrinsic("floor", dtype, chosen)
        gap = self.compare("gt", dtype, self.new(f"fsub {t} {chosen}, {floored}"), self.number(0.5, dtype))
        rounded = self.select(gap, dtype, self.new(f"fadd {t} {floored}, {one}"), floored)
        ratio = self.new(f"fdiv {t} {x}, {y}")
        signed_zero = self.intrinsic("copysign", dtype, zero, ratio)
        rounded = self.select(self.compare("eq", dtype, chosen, zero), dtype, signed_zero, rounded)
        return self.select(self.compare("eq", dtype, y, zero), dtype, ratio, rounded)

    # -- integers ----------------------------------------------------------------------------------
    def int_instruction(self, op: str, dtype: np.dtype, xs: list[str], divisor: Num | None) -> str:
        t, signed = self.t(dtype), dtype.kind == "i"
        if dtype.kind == "b" and op in ("maximum", "minimum", "add", "mul"):
            return self.logical("or" if op in ("maximum", "add") else "and", *xs)
        if op in ("add", "sub", "mul", "shl"):
            return self.new(f"{op} {t} {xs[0]}, {xs[1]}")
        if op == "shr":
            return self.new(f"{'ashr' if signed else 'lshr'} {t} {xs[0]}, {xs[1]}")
        if op == "neg":
            return self.new(f"sub {t} {self.number(0, dtype)}, {xs[0]}")
        if op == "abs":
            return self.int_abs(dtype, xs[0]) if signed else xs[0]
        if op in ("maximum", "minimum"):
            return self.intrinsic(("s" if signed else "u") + op[:3], dtype, *xs)
        if op == "sign":
            zero, bit = self.number(0, dtype), self.lanes("i1")
            above = self.new(f"zext {bit} {self.compare('gt', dtype, xs[0], zero)} to {t}")
            below = self.new(f"zext {bit} {self.compare('lt', dtype, xs[0], zero)} to {t}")
            return self.new(f"sub {t} {above}, {below}")
        if op in ("floor", "ceil", "round"):
            return xs[0]
        if op == "threefry":
            return threefry(self, *xs)
        if op in ("floordiv", "mod"):
            return self.int_division(op, dtype, xs[0], xs[1], divisor is not None and divisor.value > 0)
        if op == "pow" and self.width == 1:
            return self.new(f"call {t} {self.power(t)}({t} {xs[0]}, {t} {xs[1]})")
        raise CompileError(f"no LLVM instruction for {op} of {show_dtype(dtype)}")

    def int_abs(self, dtype: np.dtype, x: str) -> str:
        t = self.t(dtype)
        function = self.needs.intrinsic(f"llvm.abs.{self.suffix(dtype)}", t, t, "i1")
        return self.new(f"call {t} {function}({t} {x}, i1 false)")

    def int_division(self, op: str, dtype: np.dtype, x: str, y: str, positive: bool) -> str:
        """Python's `//` and `%` on integers; by 0 gives 0 as in NumPy, and the smallest integer by -1 does not trap."""
        t, signed, safe = self.t(dtype), dtype.kind == "i", y
        zero, one = self.number(0, dtype), self.number(1, dtype)
        ones = self.same(register_type(dtype), "-1")
        is_zero = is_minus_one = ""
        if not positive:
            is_zero = unsafe = self.compare("eq", dtype, y, zero)
            if signed:
                is_minus_one = self.compare("eq", dtype, y, ones)
                unsafe = self.logical("or", is_zero, is_minus_one)
            safe = self.select(unsafe, dtype, one, y)
        s = "s" if signed else "u"
        rest = self.new(f"{s}rem {t} {x}, {safe}")
        result = rest if op == "mod" else self.new(f"{s}div {t} {x}, {safe}")
        if signed:
            opposite = self.compare("lt", dtype, self.new(f"xor {t} {rest}, {safe}"), zero)
            shift = self.logical("and", opposite, self.compare("ne", dtype, rest, zero))
            moved = self.new(f"add {t} {result}, {safe if op == 'mod' else ones}")
            result = self.select(shift, dtype, moved, result)
        if positive:
            return result
        if signed and op == "floordiv":
            result = self.select(is_minus_one, dtype, self.new(f"sub {t} {zero}, {x}"), result)
        return self.select(is_zero, dtype, zero, result)

    def power(self, t: str) -> str:
        """A helper that multiplies by squaring; exponents are non-negative."""
        name = f"tapefuse.power.{t}"
        self.needs.helpers[name] = _POWER.replace("NAME", name).replace("T", t)
        return f'@"{name}"'

    # -- casts -------------------------------------------------------------------------------------
    def cast(self, x: str, source: np.dtype, target: np.dtype) -> str:
        """NumPy's astype; out-of-range floats saturate (NumPy leaves them undefined)."""
        a, b = self.t(source), self.t(target)
        if a == b:
            return x
        if target.kind == "b":
            return self.compare("ne", source, x, self.number(0, source))
        if source.kind == "b":
            return self.new(f"{'uitofp' if target.kind == 'f' else 'zext'} {a} {x} to {b}")
        if source.kind == "f" and target.kind == "f":
            return self.new(f"{'fpext' if source.itemsize < target.itemsize else 'fptrunc'} {a} {x} to {b}")
        if source.kind == "f":
            name = f"llvm.fpto{'s' if target.kind == 'i' else 'u'}i.sat.{self.suffix(target)}.{self.suffix(source)}"
            return self.new(f"call {b} {self.needs.intrinsic(name, b, a)}({a} {x})")
        if target.kind == "f":
            return self.new(f"{'sitofp' if source.kind == 'i' else 'uitofp'} {a} {x} to {b}")
        if source.itemsize > target.itemsize:
            return self.new(f"trunc {a} {x} to {b}")
        return self.new(f"{'sext' if source.kind == 'i' else 'zext'} {a} {x} to {b}")


_POWER = """\
define internal T @"NAME"(T %x, T %n) nounwind {
entry:
  br label %test
test:
  %e = phi T [ %n, %entry ], [ %half, %step ]
  %b = phi T [ %x, %entry ], [ %square, %step ]
  %r = phi T [ 1, %entry ], [ %product, %step ]
  %more = icmp sgt T %e, 0
  br i1 %more, label %step, label %done
step:
  %bit = and T %e, 1
  %odd = icmp ne T %bit, 0
  %times = mul T %r, %b
  %product = select i1 %odd, T %times, T %r
  %square = mul T %b, %b
  %half = lshr T %e, 1
  br label %test
done:
  ret T %r
}"""


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
