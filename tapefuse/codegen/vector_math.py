"""Elementary functions as LLVM IR text that the loop vectoriser turns into vector code: no branch, no table look-up, no libm call.

Each function below is mathematics on `Value`s; evaluating it once with a symbolic argument prints its body. `library([("exp", "f32")])`
gives

    define internal float @"tapefuse.exp.f32"(float %x) alwaysinline nounwind willreturn memory(none) {
      %1 = fcmp contract olt float %x, 0xC05A000000000000
      ...

Arithmetic carries `contract` and nothing else: with or without FMA a function keeps its error bound, and no later pass may reassociate the
compensated sums. Wherever a low part is recovered, the product in it is exact, so contracting it changes nothing. Special values follow
C99 annex F. The methods are the classical ones of Cody & Waite (1980), with reduction constants cut so that their products are exact.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from tapefuse.codegen import vector_math_coefficients as table

INFINITY, NAN = float("inf"), float("nan")
LN2 = Fraction(0xB17217F7D1CF79ABC9E3B39803F2F6AF40F343267298B62D8A0D175B8BAAFA2B, 1 << 256)
PI = Fraction(0x3243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C8, 1 << 252)


# The text builder: formats, values, expressions.


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
    """The instructions emitted so far and the intrinsics they call (name to declaration)."""

    lines: list[str] = field(default_factory=list)
    intrinsics: dict[str, str] = field(default_factory=dict)

    def emit(self, type: str, text: str) -> "Value":
        name = f"%{len(self.lines) + 1}"
        self.lines.append(f"  {name} = {text}")
        return Value(self, type, name)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An SSA value; Python's operators append the instruction. Numbers on either side become constants of this value's type."""

    body: Body
    type: str
    text: str

    @property
    def format(self) -> Format:
        return BY_LLVM[self.type]

    def constant(self, x: "Value | float | Fraction") -> str:
        if isinstance(x, Value):
            assert x.type == self.type, (x, self)
            return x.text
        if self.type in ("float", "double"):  # LLVM writes a float as the double of the same value
            rounded = struct.unpack("f", struct.pack("f", x))[0] if self.type == "float" else float(x)
            return f"0x{F64.bits(rounded):016X}"
        span = 1 << self.format.width
        return str((int(x) + span // 2) % span - span // 2)

    def arithmetic(self, floating: str, integer: str, left: object, right: object) -> "Value":
        operation = f"{floating} contract" if self.type in ("float", "double") else integer
        return self.body.emit(self.type, f"{operation} {self.type} {self.constant(left)}, {self.constant(right)}")

    def __add__(self, other): return self.arithmetic("fadd", "add", self, other)
    def __radd__(self, other): return self.arithmetic("fadd", "add", other, self)
    def __sub__(self, other): return self.arithmetic("fsub", "sub", self, other)
    def __rsub__(self, other): return self.arithmetic("fsub", "sub", other, self)
    def __mul__(self, other): return self.arithmetic("fmul", "mul", self, other)
    def __rmul__(self, other): return self.arithmetic("fmul", "mul", other, self)
    def __truediv__(self, other): return self.arithmetic("fdiv", "", self, other)
    def __rtruediv__(self, other): return self.arithmetic("fdiv", "", other, self)
    def __and__(self, other): return self.arithmetic("", "and", self, other)
    def __or__(self, other): return self.arithmetic("", "or", self, other)
    def __xor__(self, other): return self.arithmetic("", "xor", self, other)
    def __lshift__(self, other): return self.arithmetic("", "shl", self, other)
    def __rshift__(self, other): return self.arithmetic("", "lshr", self, other)

    def compare(self, floating: str, integer: str, other: object) -> "Value":
        operation = f"fcmp {floating}" if self.type in ("float", "double") else f"icmp {integer}"
        return self.body.emit("i1", f"{operation} {self.type} {self.text}, {self.constant(other)}")

    def __lt__(self, other): return self.compare("olt", "slt", other)
    def __gt__(self, other): return self.compare("ogt", "sgt", other)
    def __le__(self, other): return self.compare("ole", "sle", other)
    def __ge__(self, other): return self.compare("oge", "sge", other)
    def equals(self, other): return self.compare("oeq", "eq", other)
    def differs(self, other): return self.compare("une", "ne", other)
    def unordered(self, other): return self.compare("uno", "", other)

    def cast(self, operation: str, type: str) -> "Value":
        return self.body.emit(type, f"{operation} {self.type} {self.text} to {type}")

    def bits(self) -> "Value": return self.cast("bitcast", self.format.integer)
    def floating(self) -> "Value": return self.cast("bitcast", self.format.llvm)
    def widen(self) -> "Value": return self.cast("fpext", "double")
    def narrow(self) -> "Value": return self.cast("fptrunc", "float")

    def intrinsic(self, operation: str, *others: "Value") -> "Value":
        name, operands = f"llvm.{operation}.{self.format.name}", (self, *others)
        self.body.intrinsics[name] = f"declare {self.type} @{name}({', '.join(v.type for v in operands)})"
        return self.body.emit(self.type, f"call {self.type} @{name}({', '.join(f'{v.type} {v.text}' for v in operands)})")

    def __abs__(self) -> "Value": return self.intrinsic("fabs")
    def sqrt(self) -> "Value": return self.intrinsic("sqrt")
    def rounded(self) -> "Value": return self.intrinsic("rint")
    def signed_as(self, other: "Value") -> "Value": return self.intrinsic("copysign", other)


def where(condition: Value, yes: "Value | float", no: "Value | float") -> Value:
    """`yes` if the condition holds, else `no`; at least one of them is a Value."""
    model = yes if isinstance(yes, Value) else no
    operands = ", ".join(f"{model.type} {model.constant(v)}" for v in (yes, no))
    return condition.body.emit(model.type, f"select i1 {condition.text}, {operands}")


def clamp(x: Value, low: float, high: float) -> Value:
    """x limited to [low, high]; NaN stays NaN. The order of the operands is that of the machine's min and max."""
    x = where(x < low, low, x)
    return where(x > high, high, x)


def polynomial(x: Value, coefficients: dict[str, tuple[float, ...]]) -> Value:
    """Horner's rule, lowest degree first."""
    *rest, result = coefficients[x.format.name]
    for c in reversed(rest):
        result = result * x + c
    return result


def pieces(value: Fraction, *widths: int) -> Iterator[float]:
    """value as a sum of floats with at most `widths` bits each, the last one rounded to nearest."""
    for position, width in enumerate(widths):
        unit = Fraction(2) ** (width - 1 - _exponent(value))
        piece = Fraction(round(value * unit) if position == len(widths) - 1 else int(value * unit)) / unit
        yield float(piece)
        value -= piece


def _exponent(value: Fraction) -> int:
    """floor(log2(value))"""
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


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


def times_power_of_two(p: Value, twice_biased: Value) -> Value:
    """p * 2**n from the low bits of n + 2 * bias, in two steps: overflows to infinity, rounds once to a subnormal."""
    half = twice_biased >> 1
    return p * power_of_two(half) * power_of_two(twice_biased - half)


def keep_small(x: Value, y: Value, exponent: int) -> Value:
    """x itself where |x| < 2**exponent (zero with its sign, subnormals), else y."""
    return where(abs(x) < 2.0**exponent, x, y)


# Exponentials: x = n ln 2 + r, exp(x) = 2**n exp(r).


def exp_reduced(x: Value, offset: int) -> tuple[Value, Value, Value, Value]:
    """n (float), the bits of n + offset, and r = r_high - r_low with r_high exact."""
    high_bits = {"f32": 15, "f64": 41}[x.format.name]  # times |n| < 2**9 (2**12) exact
    ln2_high, ln2_low = pieces(LN2, high_bits, x.format.precision)
    n, bits = nearest(x * (1 / LN2), offset)
    return n, bits, x - n * ln2_high, n * ln2_low


def exp_core(x: Value, low: Value | None = None) -> Value:
    """exp(x + low) for x in the range where 2**n can be written as a product of two normal powers."""
    _, bits, r_high, r_low = exp_reduced(x, 2 * x.format.bias)
    r = r_high - (r_low if low is None else r_low - low)
    return times_power_of_two(1 + (r + r * r * polynomial(r, table.EXP)), bits)


def expm1_core(x: Value, shift: int = 0) -> Value:
    """(exp(x) - 1) / 2**shift, for exponents n - shift within the normal ones.

    2**n (1 + r_high + t) - 1 is summed from the large to the small: (2**n - 1) + 2**n r_high has one rounding, and t is small.
    """
    _, bits, r_high, r_low = exp_reduced(x, x.format.bias - shift)
    r, scale = r_high - r_low, power_of_two(bits)
    t = r * r * polynomial(r, table.EXP) - r_low
    return (scale * r_high + (scale - 2.0**-shift)) + scale * t


EXP_RANGE = {"f32": (-104.0, 89.0), "f64": (-746.0, 710.0)}  # beyond: zero, infinity after rounding
EXPM1_MINUS_ONE = {"f32": -18.0, "f64": -38.0}  # expm1 rounds to -1 below


def exp(x: Value) -> Value:
    return exp_core(clamp(x, *EXP_RANGE[x.format.name]))


def exp2(x: Value) -> Value:
    low, top = {"f32": (-151.0, 129.0), "f64": (-1076.0, 1025.0)}[x.format.name]
    x = clamp(x, low, top)
    n, bits = nearest(x, 2 * x.format.bias)
    r = x - n
    return times_power_of_two(1 + r * polynomial(r, table.EXP2), bits)


def expm1(x: Value) -> Value:
    name = x.format.name
    half = expm1_core(clamp(x, EXPM1_MINUS_ONE[name], EXP_RANGE[name][1]), shift=1)  # n may be 128: 2**n alone would overflow
    return keep_small(x, half + half, -x.format.precision - 1)


def sigmoid(x: Value) -> Value:
    """z / (1 + z) with z = exp(x) on the left, 1 / (1 + z) with z = exp(-x) on the right: z never overflows."""
    z = exp_core(clamp(0.0 - abs(x), EXP_RANGE[x.format.name][0], 0.0))
    return where(x < 0, z, 1.0) / (1 + z)


def softplus(x: Value) -> Value:
    """max(x, 0) + log1p(exp(-|x|)); log1p(z) = z - s (z - s^2 ...) with s = z / (2 + z), no reduction needed for 0 <= z <= 1."""
    z = exp_core(clamp(0.0 - abs(x), EXP_RANGE[x.format.name][0], 0.0))
    s = z / (2 + z)
    square = s * s
    return where(x > 0, x, 0.0) + (z - s * (z - square * polynomial(square, table.ATANH_WIDE)))


def tanh(x: Value) -> Value:
    """e / (e + 2) with e = expm1(2 |x|); it rounds to 1 beyond the clamp."""
    e = expm1_core(clamp(2 * abs(x), 0.0, {"f32": 20.0, "f64": 40.0}[x.format.name]))
    return (e / (e + 2)).signed_as(x)


def sinh(x: Value) -> Value:
    """(e + e / (e + 1)) / 2 with e = expm1(|x|), kept as e / 4 since sinh overflows later than exp."""
    e = expm1_core(clamp(abs(x), 0.0, {"f32": 89.5, "f64": 710.5}[x.format.name]), shift=2)
    y = e + e / (4 * e + 1)
    return keep_small(x, (y + y).signed_as(x), -x.format.precision // 2)


def cosh(x: Value) -> Value:
    """e / 2 + 1 / (2 e) with e = exp(|x|), kept as q = e / 4."""
    a = clamp(abs(x), 0.0, {"f32": 89.5, "f64": 710.5}[x.format.name])
    _, bits, r_high, r_low = exp_reduced(a, x.format.bias - 2)
    r = r_high - r_low
    q = power_of_two(bits) * (1 + (r + r * r * polynomial(r, table.EXP)))
    y = q + 0.0625 / q
    return y + y


# Logarithms: x = 2**k m with sqrt(1/2) <= m < sqrt(2), log(x) = k ln 2 + log1p(m - 1).


def log_reduced(x: Value, subnormals: bool = True) -> tuple[Value, Value, Value]:
    """k (float), m, and the encoding of 2**k; meaningless where x is not positive and finite."""
    form = x.format
    one, root = form.bits(1.0), form.bits(0.5**0.5)
    bias: Value | float = 2.0**form.mantissa + form.bias
    if subnormals:
        tiny = x < form.smallest_normal
        x, bias = where(tiny, x * 2.0**form.mantissa, x), where(tiny, x * 0.0 + (bias + form.mantissa), bias)
    stepped = x.bits() + (one - root)  # its exponent field steps at sqrt(1/2)
    k = ((stepped >> form.mantissa) | form.bits(2.0**form.mantissa)).floating() - bias
    m = ((stepped & ((1 << form.mantissa) - 1)) + root).floating()
    return k, m, stepped & -(1 << form.mantissa)


def log_bend(f: Value) -> Value:
    """log1p(f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1], to a small relative error."""
    half = 0.5 * (f * f)
    if f.format is F32:
        return f * (f * f) * polynomial(f, table.LOG) - half
    s = f / (2 + f)
    z = s * s
    return s * (half + z * polynomial(z, table.ATANH)) - half


def log_sum(k: Value, f: Value) -> Value:
    ln2_high, ln2_low = pieces(LN2, {"f32": 15, "f64": 41}[f.format.name], f.format.precision)
    return k * ln2_high + (f + (log_bend(f) + k * ln2_low))


def log_domain(x: Value, zero_at: float, y: Value) -> Value:
    """y in the domain, -inf at `zero_at`, NaN left of it, x itself at +inf and NaN."""
    y = where(x < INFINITY, y, x)
    y = where(x < zero_at, NAN, y)
    return where(x.equals(zero_at), -INFINITY, y)


def log(x: Value) -> Value:
    k, m, _ = log_reduced(x)
    return log_domain(x, 0.0, log_sum(k, m - 1))


def log2(x: Value) -> Value:
    k, m, _ = log_reduced(x)
    f = m - 1
    return log_domain(x, 0.0, k + (f * (1 / LN2) + log_bend(f) * (1 / LN2)))


def log1p(x: Value) -> Value:
    """log of u = fl(1 + x), the rounding error of u carried into the reduced argument."""
    form = x.format
    u = 1 + x
    virtual = u - 1
    error = (1 - (u - virtual)) + (x - virtual)
    k, m, exponent = log_reduced(u, subnormals=False)
    inverse = 2 * form.bits(1.0) - exponent  # the encoding of 2**-k
    f = (m - 1) + error * where(inverse > 0, inverse, 0).floating()
    return keep_small(x, log_domain(x, -1.0, log_sum(k, f)), -form.precision - 1)


# Circular functions: |x| = n pi / 2 + r.

CIRCULAR_BOUND = {"f32": 2.0**28, "f64": 2.0**26}  # |x| up to here is reduced accurately; beyond it the result is NaN


def quarter_turns(a: Value) -> tuple[Value, Value | None, Value]:
    """r, its low part (f64 only) and an integer with n mod 4 in its low bits, for 0 <= a <= CIRCULAR_BOUND.

    In f32 the reduction runs in f64: three pieces of pi / 2, the first two exact against n < 2**27. In f64 four pieces are needed, since r may
    cancel to 2**-60; the error of the third subtraction is recovered as a low part.
    """
    if a.format is F32:
        x = a.widen()
        first, second, third = pieces(PI / 2, 26, 26, 53)
        n, bits = nearest(x * (2 / PI))
        r = x - n * first - n * second - n * third
        return r.narrow(), None, bits.cast("trunc", "i32")
    first, second, third, fourth = pieces(PI / 2, 27, 27, 27, 53)
    n, bits = nearest(a * (2 / PI))
    coarse = a - n * first - n * second
    fine = coarse - n * third
    lost = (coarse - fine) - n * third
    r = fine - n * fourth
    return r, ((fine - r) - n * fourth) + lost, bits


def sin_cos_reduced(r: Value, low: Value | None) -> tuple[Value, Value]:
    """sin and cos of r + low for |r| <= pi / 4."""
    z = r * r
    cube, half = r * z, 0.5 * z
    s, c = cube * polynomial(z, table.SIN), z * z * polynomial(z, table.COS)
    w = 1 - half
    c = c + ((1 - w) - half)
    if low is not None:  # sin(r + low) = sin(r) + low cos(r), cos(r + low) = cos(r) - low r
        s, c = s + (low - half * low), c - r * low
    return r + s, w + c


def circular(x: Value, turn: int) -> Value:
    """sin(|x| + turn pi / 2), NaN beyond the bound."""
    form, a = x.format, abs(x)
    r, low, quadrant = quarter_turns(a)
    s, c = sin_cos_reduced(r, low)
    quadrant = quadrant + turn if turn else quadrant
    y = where((quadrant & 1).equals(0), s, c)
    y = (y.bits() ^ ((quadrant << (form.width - 2)) & form.sign)).floating()
    return where(a <= CIRCULAR_BOUND[form.name], y, NAN)


def sin(x: Value) -> Value:
    return (circular(x, 0).bits() ^ (x.bits() & x.format.sign)).floating()


def cos(x: Value) -> Value:
    return circular(x, 1)


def tan(x: Value) -> Value:
    form, a = x.format, abs(x)
    r, low, quadrant = quarter_turns(a)
    s, c = sin_cos_reduced(r, low)
    even = (quadrant & 1).equals(0)
    y = where(even, s, c) / where(even, c, s)
    y = (y.bits() ^ ((quadrant << (form.width - 1)) ^ (x.bits() & form.sign))).floating()
    return where(a <= CIRCULAR_BOUND[form.name], y, NAN)


# Inverse circular functions.


def atan_first_octant(t: Value) -> Value:
    z = t * t
    return t + t * z * polynomial(z, table.ATAN)


def atan(x: Value) -> Value:
    """atan(t) for t = |x| <= 1, pi / 2 - atan(1 / |x|) beyond."""
    a = abs(x)
    beyond = a > 1
    y = atan_first_octant(where(beyond, 1.0, a) / where(beyond, a, 1.0))
    return where(beyond, float(PI / 2) - y, y).signed_as(x)


def atan2(y: Value, x: Value) -> Value:
    a, b = abs(y), abs(x)
    steep = a > b
    top, bottom = where(steep, a, b), where(steep, b, a)
    t = bottom / top
    t = where(bottom.equals(top), 1.0, t)  # inf / inf
    t = where(top.equals(0.0), 0.0, t)
    angle = atan_first_octant(t)
    angle = where(steep, float(PI / 2) - angle, angle)
    angle = where(x.bits() < 0, float(PI) - angle, angle)
    return where(x.unordered(y), x + y, angle.signed_as(y))


def asin_parts(x: Value) -> tuple[Value, Value, Value]:
    """Whether |x| > 1/2; t = |x| or sqrt((1 - |x|) / 2); asin(t)."""
    a = abs(x)
    large = a > 0.5
    z = where(large, 0.5 - 0.5 * a, a * a)
    t = where(large, z.sqrt(), a)
    return large, t, t + t * z * polynomial(z, table.ASIN)


def asin(x: Value) -> Value:
    large, _, y = asin_parts(x)
    return where(large, float(PI / 2) - (y + y), y).signed_as(x)


def acos(x: Value) -> Value:
    large, _, y = asin_parts(x)
    y = where(large, y + y, float(PI / 2) - y.signed_as(x))
    flipped = float(PI) - y
    return where(large, where(x < 0, flipped, y), y)


# The error function.


def erfc_positive(a: Value) -> Value:
    """erfc(a) for 1/2 <= a: exp(-a^2) (1 + 2 a) erfcx(a) / (1 + 2 a), the square of a in two parts."""
    centre = {"f32": 2.0, "f64": 4.0}[a.format.name]
    h = high(a)
    e = exp_core(0.0 - h * h, (h - a) * (h + a))
    return e * polynomial((a - centre) / (a + centre), table.ERFCX) / (1 + 2 * a)


def erf_near_zero(x: Value) -> Value:
    return x + x * polynomial(x * x, table.ERF)


def erf(x: Value) -> Value:
    a = clamp(abs(x), 0.0, {"f32": 4.0, "f64": 6.0}[x.format.name])
    return where(a < 1, erf_near_zero(x), (1 - erfc_positive(a)).signed_as(x))


def erfc(x: Value) -> Value:
    a = clamp(abs(x), 0.0, {"f32": 10.2, "f64": 27.3}[x.format.name])
    y = erfc_positive(a)
    return where(a < 0.5, 1 - erf_near_zero(x), where(x < 0, 2 - y, y))


# The power function: x**y = 2**(y log2(x)) with log2(x) to more than the format's precision.


def log2_saturated(a: Value, log2_a: Value) -> Value:
    """log2(a) with its infinities, for a >= 0."""
    return where(a.equals(0.0), -INFINITY, where(a.equals(INFINITY), INFINITY, log2_a))


def power_of_magnitude_f32(a: Value, y: Value) -> Value:
    """a**y in f64 arithmetic: log2(a) to 45 bits, 2**r to 29."""
    wide = a.widen()
    k, m, _ = log_reduced(wide, subnormals=False)
    f = m - 1
    s = f / (2 + f)
    logarithm = k + s * polynomial(s * s, {"f64": table.POW_LOG2["f64"]})
    product = clamp(y.widen() * log2_saturated(wide, logarithm), -160.0, 160.0)
    n, bits = nearest(product, F64.bias)
    r = product - n
    return (power_of_two(bits) * (1 + r * polynomial(r, table.POW_EXP2))).narrow()


def log2_in_two_parts(a: Value) -> tuple[Value, Value]:
    """log2(a) = head + tail to about 64 bits relative, the head of 26 bits; f64 only.

    log(m) = 2/3 s (3 + s^2 + s^4 U(s^2)) with s = (m - 1) / (m + 1) and every leading product of two 26-bit numbers exact.
    """
    k, m, _ = log_reduced(a)
    f, inverse = m - 1, 1 / (m + 1)
    s = f * inverse
    s_head, d_head = high(s), high(m + 1)
    s_tail = ((f - s_head * d_head) - s_head * (m - (d_head - 1))) * inverse
    square, square_head = s * s, s_head * s_head
    rest = square * square * polynomial(square, table.POW_ATANH) + s_tail * (s_head + s)
    t_head = high(3 + square_head + rest)
    t_tail = rest - ((t_head - 3) - square_head)
    product = s_head * t_head
    product_tail = s_tail * t_head + t_tail * s
    p_head = high(product + product_tail)
    p_tail = product_tail - (p_head - product)
    scale = Fraction(2, 3) / LN2
    scale_head, scale_tail = pieces(scale, 26, 53)
    l_head, l_tail = p_head * scale_head, p_head * scale_tail + p_tail * scale
    head = high(k + (l_head + l_tail))
    return head, l_tail - ((head - k) - l_head)


def power_of_magnitude_f64(a: Value, y: Value) -> Value:
    head, tail = log2_in_two_parts(a)
    y_head = high(y)
    product, product_tail = y_head * head, (y - y_head) * head + y * tail
    n, bits = nearest(product + product_tail, 2 * F64.bias)
    r = (product - n) + product_tail
    result = times_power_of_two(1 + r * polynomial(r, table.EXP2), bits)
    estimate = y * log2_saturated(a, head)  # also decides infinite and enormous y, where the parts above are NaN
    return where(estimate > 1025, INFINITY, where(estimate < -1080, 0.0, result))


def pow(x: Value, y: Value) -> Value:
    a, inverse_sign = abs(x), x.format.sign
    power = power_of_magnitude_f32(a, y) if x.format is F32 else power_of_magnitude_f64(a, y)
    power = where(a.equals(1.0), 1.0, power)
    half = y * 0.5
    odd = where(half.rounded().differs(half), x.bits() & inverse_sign, 0)
    power = (power.bits() | odd).floating()
    fractional = where(y.rounded().differs(y), x, 1.0) < 0
    power = where(fractional, where(a.equals(INFINITY), power, NAN), power)
    power = where(x.unordered(y), x + y, power)
    return where(y.equals(0.0), 1.0, where(x.equals(1.0), 1.0, power))


# The printed library.

BODIES: dict[str, Callable[..., Value]] = {
    f.__name__: f
    for f in (exp, exp2, expm1, log, log2, log1p, sigmoid, softplus, tanh, sinh, cosh, sin, cos, tan, asin, acos, atan, atan2, erf, erfc, pow)
}
FUNCTIONS: tuple[str, ...] = tuple(BODIES)
ARITY = {name: 2 if name in ("atan2", "pow") else 1 for name in FUNCTIONS}


def symbol(name: str, dtype: str) -> str:
    """The LLVM name, without @ and quotes."""
    return f"tapefuse.{name}.{dtype}"


def _printed(name: str, dtype: str) -> tuple[str, dict[str, str]]:
    form, body = FORMATS[dtype], Body()
    arguments = [Value(body, form.llvm, text) for text in ("%x", "%y")[: ARITY[name]]]
    result = BODIES[name](*arguments)
    signature = ", ".join(f"{a.type} {a.text}" for a in arguments)
    head = f'define internal {form.llvm} @"{symbol(name, dtype)}"({signature}) alwaysinline nounwind willreturn memory(none) {{'
    return "\n".join([head, *body.lines, f"  ret {form.llvm} {result.text}", "}"]), body.intrinsics


def definition(name: str, dtype: str) -> str:
    return _printed(name, dtype)[0]


def dependencies(name: str, dtype: str) -> tuple[str, ...]:
    """The declarations of the intrinsics that the definition calls; it calls nothing else."""
    return tuple(_printed(name, dtype)[1].values())


def declarations(needed: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Intrinsic name to `declare` line, for all of `needed`."""
    return {intrinsic: line for name, dtype in needed for intrinsic, line in _printed(name, dtype)[1].items()}


def library(needed: Iterable[tuple[str, str]]) -> str:
    """Declarations and definitions for the (name, dtype) pairs, each once, ready to be pasted into a module."""
    needed = tuple(dict.fromkeys(needed))
    return "\n\n".join(["\n".join(declarations(needed).values()), *(definition(*each) for each in needed)]) + "\n"
