"""SSA text from Python arithmetic: the notation in which vector_math writes its functions.

    body = Body(lanes=8)
    x = Value(body, "float", "%x")
    y = where(x > 1, 2 * x, x)     # body.lines: fcmp, fmul, select of <8 x float>

Every float operation carries `contract` and no other flag.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from math import ldexp
from typing import NamedTuple, TypeAlias

from tapefuse._records import dataclass

Operand: TypeAlias = "Value | float"


class Ratio(NamedTuple):
    """An exact positive number. (Python's `fractions` takes 1.7 ms to import, of the first call of each process.)"""

    numerator: int
    denominator: int

    def __float__(self) -> float:
        return self.numerator / self.denominator  # correctly rounded, as quotients of integers are

    def times(self, numerator: int, denominator: int = 1) -> "Ratio":
        return Ratio(self.numerator * numerator, self.denominator * denominator)

    @property
    def inverse(self) -> "Ratio":
        return Ratio(self.denominator, self.numerator)


@dataclass(frozen=True, slots=True)
class Format:
    """An IEEE binary format: `precision` counts the hidden bit."""

    name: str
    llvm: str
    width: int
    precision: int

    @property
    def mantissa(self) -> int:
        return self.precision - 1

    @property
    def bias(self) -> int:
        return (1 << (self.width - self.precision - 1)) - 1

    @property
    def integer(self) -> str:
        return f"i{self.width}"

    @property
    def sign(self) -> int:
        return 1 << (self.width - 1)

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (1 - self.bias)

    def bits(self, x: float) -> int:
        """The encoding of x as an integer."""
        floating, integer = {32: ("f", "I"), 64: ("d", "Q")}[self.width]
        return struct.unpack(integer, struct.pack(floating, x))[0]


F32 = Format("f32", "float", 32, 24)
F64 = Format("f64", "double", 64, 53)
FORMATS = {"f32": F32, "f64": F64}
BY_LLVM = {"float": F32, "double": F64, "i32": F32, "i64": F64}


@dataclass(slots=True)
class Body:
    """The instructions emitted so far and the intrinsics they call (name to declaration), on vectors if lanes > 1.

    `avx512`: the vectors fill whole registers of 512 bits, and the instructions of those may be used."""

    lanes: int = 1
    avx512: bool = False
    lines: list[str] = field(default_factory=list)
    intrinsics: dict[str, str] = field(default_factory=dict)

    def shown(self, type: str) -> str:
        """The LLVM type of a value whose lanes have this type."""
        return type if self.lanes == 1 else f"<{self.lanes} x {type}>"

    def emit(self, type: str, text: str) -> "Value":
        name = f"%{len(self.lines) + 1}"
        self.lines.append(f"  {name} = {text}")
        return Value(self, type, name)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An SSA value; `type` is that of a lane. Python's operators append an instruction, numbers become constants."""

    body: Body
    type: str
    text: str

    @property
    def format(self) -> Format:
        return BY_LLVM[self.type]

    @property
    def shown(self) -> str:
        return self.body.shown(self.type)

    def constant(self, x: Operand) -> str:
        """x as an operand next to this value; a number is rounded, or wrapped, to its type."""
        if isinstance(x, Value):
            assert x.type == self.type, (x, self)
            return x.text
        if self.type in ("float", "double"):  # LLVM writes a float as the double of the same value
            rounded = struct.unpack("f", struct.pack("f", x))[0] if self.type == "float" else float(x)
            lane = f"0x{F64.bits(rounded):016X}"
        else:
            span = 1 << self.format.width
            lane = str((int(x) + span // 2) % span - span // 2)
        return lane if self.body.lanes == 1 else f"splat ({self.type} {lane})"

    def arithmetic(self, floating: str, integer: str, left: Operand, right: Operand) -> "Value":
        operation = f"{floating} contract" if self.type in ("float", "double") else integer
        return self.body.emit(self.type, f"{operation} {self.shown} {self.constant(left)}, {self.constant(right)}")

    def __add__(self, other):
        return self.arithmetic("fadd", "add", self, other)

    def __radd__(self, other):
        return self.arithmetic("fadd", "add", other, self)

    def __sub__(self, other):
        return self.arithmetic("fsub", "sub", self, other)

    def __rsub__(self, other):
        return self.arithmetic("fsub", "sub", other, self)

    def __mul__(self, other):
        return self.arithmetic("fmul", "mul", self, other)

    def __rmul__(self, other):
        return self.arithmetic("fmul", "mul", other, self)

    def __truediv__(self, other):
        return self.arithmetic("fdiv", "", self, other)

    def __rtruediv__(self, other):
        return self.arithmetic("fdiv", "", other, self)

    def __and__(self, other):
        return self.arithmetic("", "and", self, other)

    def __or__(self, other):
        return self.arithmetic("", "or", self, other)

    def __xor__(self, other):
        return self.arithmetic("", "xor", self, other)

    def __lshift__(self, other):
        return self.arithmetic("", "shl", self, other)

    def __rshift__(self, other):
        return self.arithmetic("", "lshr", self, other)

    def compare(self, floating: str, integer: str, other: Operand) -> "Value":
        operation = f"fcmp {floating}" if self.type in ("float", "double") else f"icmp {integer}"
        return self.body.emit("i1", f"{operation} {self.shown} {self.text}, {self.constant(other)}")

    def __lt__(self, other):
        return self.compare("olt", "slt", other)

    def __gt__(self, other):
        return self.compare("ogt", "sgt", other)

    def __le__(self, other):
        return self.compare("ole", "sle", other)

    def __ge__(self, other):
        return self.compare("oge", "sge", other)

    def equals(self, other):
        return self.compare("oeq", "eq", other)

    def differs(self, other):
        return self.compare("une", "ne", other)

    def unordered(self, other):
        return self.compare("uno", "", other)

    def cast(self, operation: str, type: str) -> "Value":
        return self.body.emit(type, f"{operation} {self.shown} {self.text} to {self.body.shown(type)}")

    def bits(self) -> "Value":
        return self.cast("bitcast", self.format.integer)

    def floating(self) -> "Value":
        return self.cast("bitcast", self.format.llvm)

    def widen(self) -> "Value":
        return self.cast("fpext", "double")

    def narrow(self) -> "Value":
        return self.cast("fptrunc", "float")

    def __neg__(self) -> "Value":
        return self.body.emit(self.type, f"fneg {self.shown} {self.text}")

    def filled(self, x: float) -> "Value":
        """The constant x of this value's type."""
        return Value(self.body, self.type, self.constant(x))

    def intrinsic(self, operation: str, *others: "Value") -> "Value":
        lanes, operands = self.body.lanes, (self, *others)
        name = f"llvm.{operation}.{'' if lanes == 1 else f'v{lanes}'}{self.format.name}"
        self.body.intrinsics[name] = f"declare {self.shown} @{name}({', '.join(v.shown for v in operands)})"
        arguments = ", ".join(f"{v.shown} {v.text}" for v in operands)
        return self.body.emit(self.type, f"call {self.shown} @{name}({arguments})")

    def avx512(self, operation: str, *others: "Value", control: str = "") -> "Value":
        """An instruction of AVX-512 that has no name in LLVM's own language, on one register after the other."""
        lanes, kind = 512 // self.format.width, {"f32": "ps", "f64": "pd"}[self.format.name]
        register, mask = f"<{lanes} x {self.type}>", f"i{lanes}"
        name = f"llvm.x86.avx512.mask.{operation}.{kind}.512"
        types = ", ".join([register] * (1 + len(others)) + ["i32"] * bool(control) + [register, mask, "i32"])
        self.body.intrinsics[name] = f"declare {register} @{name}({types})"
        results = []
        for start in range(0, self.body.lanes, lanes):
            operands = [f"{register} {v.register(start, lanes)}" for v in (self, *others)] + [control] * bool(control)
            rest = f"{register} zeroinitializer, {mask} -1, i32 4"
            results.append(self.body.emit(self.type, f"call {register} @{name}({', '.join(operands)}, {rest})").text)
        while len(results) > 1:
            part, lanes = f"<{lanes} x {self.type}>", 2 * lanes
            numbers = f"<{lanes} x i32> <" + ", ".join(f"i32 {k}" for k in range(lanes)) + ">"
            pairs = zip(results[::2], results[1::2], strict=True)
            texts = [f"shufflevector {part} {a}, {part} {b}, {numbers}" for a, b in pairs]
            results = [self.body.emit(self.type, text).text for text in texts]
        return Value(self.body, self.type, results[0])

    def register(self, start: int, lanes: int) -> str:
        """The name of some of the lanes."""
        if lanes == self.body.lanes:
            return self.text
        numbers = ", ".join(f"i32 {k}" for k in range(start, start + lanes))
        text = f"shufflevector {self.shown} {self.text}, {self.shown} poison, <{lanes} x i32> <{numbers}>"
        return self.body.emit(self.type, text).text

    def __abs__(self) -> "Value":
        return self.intrinsic("fabs")

    def sqrt(self) -> "Value":
        return self.intrinsic("sqrt")

    def rounded(self) -> "Value":
        return self.intrinsic("rint")

    def signed_as(self, other: "Value") -> "Value":
        return self.intrinsic("copysign", other)


def where(condition: Value, yes: Value | float, no: Value | float) -> Value:
    """`yes` if the condition holds, else `no`; at least one of them is a Value."""
    model = next(v for v in (yes, no) if isinstance(v, Value))
    operands = ", ".join(f"{model.shown} {model.constant(v)}" for v in (yes, no))
    return condition.body.emit(model.type, f"select {condition.shown} {condition.text}, {operands}")


def at_least(x: Value, low: float) -> Value:
    """x, or `low` where x is less; NaN stays NaN. One instruction: the operands are in the order of x86 max."""
    return where(x < low, low, x)


def at_most(x: Value, top: float) -> Value:
    return where(x > top, top, x)


def clamp(x: Value, low: float, top: float) -> Value:
    return at_most(at_least(x, low), top)


def horner(x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial in x, lowest degree first."""
    *rest, last = coefficients
    result = x.filled(last)
    for c in reversed(rest):
        result = result * x + c
    return result


def polynomial(x: Value, tables: Mapping[str, Sequence[float]]) -> Value:
    return horner(x, tables[x.format.name])


def pieces(value: Ratio, *widths: int) -> Iterator[float]:
    """value > 0 as a sum of floats: fields of `widths` bits from the leading one down, then the rounded remainder."""
    rest, denominator = value
    exponent = rest.bit_length() - denominator.bit_length()
    if denominator << max(exponent, 0) <= rest << max(-exponent, 0):
        exponent += 1  # the field's first bit is below 2**exponent
    for width in widths:
        exponent -= width
        rest, denominator = rest << max(-exponent, 0), denominator << max(exponent, 0)
        field, rest = divmod(rest, denominator)
        yield ldexp(field, exponent)
        rest, denominator = rest << max(exponent, 0), denominator << max(-exponent, 0)
    yield rest / denominator


def high(x: Value) -> Value:
    """x cut to half its precision (26 bits in f64), so that products of two such numbers are exact."""
    cut = (x.format.precision + 1) // 2
    return (x.bits() & -(1 << cut)).floating()


def nearest(x: Value, offset: int = 0) -> tuple[Value, Value]:
    """n = round(x) as a float, and an integer whose low bits hold n + offset; for |x| below 2**(mantissa - 2).

    Adding 1.5 * 2**mantissa leaves the integer in the last bits of the encoding, which needs no conversion instruction.
    """
    shift = 1.5 * 2.0**x.format.mantissa + offset
    shifted = x + shift
    return shifted - shift, shifted.bits()


def power_of_two(biased: Value) -> Value:
    """2**n from an integer whose low bits hold n + bias, for n within the normal exponents."""
    return (biased << biased.format.mantissa).floating()


def times_power_of_two(p: Value, n: Value, twice_biased: Value) -> Value:
    """p * 2**n, which may be infinite or subnormal; without an instruction for it from the low bits of n + 2 * bias, in
    two steps: the first is exact."""
    if p.body.avx512:
        return p.avx512("scalef", n)
    half = twice_biased >> 1
    return p * power_of_two(half) * power_of_two(twice_biased - half)


def keep_small(x: Value, y: Value, exponent: int) -> Value:
    """x itself where |x| < 2**exponent (zero with its sign, subnormals), else y."""
    return where(abs(x) < 2.0**exponent, x, y)
