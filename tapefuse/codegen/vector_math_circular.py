"""The circular functions of vector_math and their inverses, written as in vector_math_functions."""

from tapefuse.codegen import vector_math_coefficients as table
from tapefuse.codegen.vector_math_builder import (
    F32,
    Ratio,
    Value,
    nearest,
    pieces,
    polynomial,
    where,
)

PI = Ratio(0x3243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C8, 1 << 252)
HALF_PI = PI.times(1, 2)
QUARTER_TURNS = float(HALF_PI.inverse)  # in one radian


# Circular functions: |x| = n pi / 2 + r, |r| <= pi / 4.

CIRCULAR_BOUND = 2.0**25  # noise from here on: the turns to subtract would need more than three pieces of pi / 2


def quarter_turns_f32(a: Value) -> tuple[Value, Value]:
    """r in f64 and an integer with n mod 4 in its low bits, for 0 <= a < CIRCULAR_BOUND."""
    x = a.widen()
    first, second, third = pieces(HALF_PI, 26, 26)
    n, bits = nearest(x * QUARTER_TURNS)
    return x - n * first - n * second - n * third, bits.cast("trunc", "i32")


def less_multiple(x: Value, n: Value, unit: Ratio) -> tuple[Value, Value]:
    """x - n unit in two parts, |n| <= 2**26: n times one of the first three pieces is exact, as is `coarse`."""
    first, second, third, fourth = pieces(unit, 27, 27, 27)
    coarse = x - n * first - n * second
    fine = coarse - n * third
    return fine, ((coarse - fine) - n * third) - n * fourth


def quarter_turns_f64(a: Value) -> tuple[Value, Value, Value]:
    """r, its low part and an integer with n mod 4 in its low bits, for 0 <= a < CIRCULAR_BOUND.

    r may cancel to 2**-60 of a, hence the four pieces of pi / 2.
    """
    n, bits = nearest(a * QUARTER_TURNS)
    head, tail = less_multiple(a, n, HALF_PI)
    r = head + tail
    return r, (head - r) + tail, bits


def sin_cos_reduced(r: Value, low: Value | None) -> tuple[Value, Value]:
    """sin and cos of r + low for |r| <= pi / 4."""
    z = r * r
    half = 0.5 * z
    w = 1 - half
    s, c = r * z * polynomial(z, table.SIN), z * z * polynomial(z, table.COS) + ((1 - w) - half)
    if low is not None:  # sin(r + low) = sin(r) + low cos(r), cos(r + low) = cos(r) - low sin(r)
        s, c = s + (low - half * low), c - r * low
    return r + s, w + c


def circular(x: Value) -> tuple[Value, Value, Value]:
    """sin(r) and cos(r) for |x| = n pi / 2 + r, and an integer with n mod 4 in its low bits."""
    a = abs(x)
    if x.format is F32:
        wide, quarter = quarter_turns_f32(a)
        return *sin_cos_reduced(wide.narrow(), None), quarter
    r, low, quarter = quarter_turns_f64(a)
    return *sin_cos_reduced(r, low), quarter


def turned(quarter: Value, even: Value, odd: Value) -> Value:
    """Even or odd quarters' value, with the sign of the third and fourth quarter."""
    form = even.format
    y = where((quarter & 1).equals(0), even, odd)
    return (y.bits() ^ ((quarter << (form.width - 2)) & form.sign)).floating()


def sincos(x: Value) -> tuple[Value, Value]:
    s, c, quarter = circular(x)
    sine = (turned(quarter, s, c).bits() ^ (x.bits() & x.format.sign)).floating()
    return sine, turned(quarter + 1, s, c)


def sin(x: Value) -> Value:
    return sincos(x)[0]


def cos(x: Value) -> Value:
    return sincos(x)[1]


def tan(x: Value) -> Value:
    """tan(r) in even quarters, -1 / tan(r) in odd ones; a quotient of sin and cos would have twice the error."""
    form, a = x.format, abs(x)
    if form is F32:
        wide, quarter = quarter_turns_f32(a)
        r = wide.narrow()
        low = (wide - r.widen()).narrow()
    else:
        r, low, quarter = quarter_turns_f64(a)
    z = r * r
    t = r + (r * z * polynomial(z, table.TAN) + (low + low * z))
    even = (quarter & 1).equals(0)
    y = where(even, t, 1.0) / where(even, 1.0, t)
    return (y.bits() ^ ((quarter << (form.width - 1)) ^ (x.bits() & form.sign))).floating()


# Inverse circular functions.

ASIN_SPLIT = 0.55  # from here asin(sqrt((1 - |x|) / 2)) < 1/2, whose ulp is half that of the result


def less_from(angle: Ratio, y: Value) -> Value:
    """angle - y, the angle to twice the precision."""
    head, tail = pieces(angle, y.format.precision)
    return head - (y - tail)


def atan_first_octant(t: Value) -> Value:
    z = t * t
    return t + t * z * polynomial(z, table.ATAN)


def atan(x: Value) -> Value:
    """atan(t) for t = |x| <= 1, pi / 2 - atan(1 / |x|) beyond."""
    a = abs(x)
    beyond = a > 1
    y = atan_first_octant(where(beyond, 1.0, a) / where(beyond, a, 1.0))
    return where(beyond, less_from(HALF_PI, y), y).signed_as(x)


def atan2(y: Value, x: Value) -> Value:
    a, b = abs(y), abs(x)
    steep = a > b
    top, bottom = where(steep, a, b), where(steep, b, a)
    t = where(bottom.equals(top), 1.0, bottom / top)  # inf / inf
    angle = atan_first_octant(where(top.equals(0.0), 0.0, t))
    angle = where(steep, less_from(HALF_PI, angle), angle)
    angle = where(x.bits() < 0, less_from(PI, angle), angle)
    return where(x.unordered(y), x + y, angle.signed_as(y))


def asin_parts(x: Value) -> tuple[Value, Value]:
    """Whether |x| > ASIN_SPLIT; asin(t) with t = |x| or sqrt((1 - |x|) / 2)."""
    a = abs(x)
    large = a > ASIN_SPLIT
    z = where(large, 0.5 - 0.5 * a, a * a)
    t = where(large, z.sqrt(), a)
    return large, t + t * z * polynomial(z, table.ASIN)


def asin(x: Value) -> Value:
    large, y = asin_parts(x)
    return where(large, less_from(HALF_PI, 2 * y), y).signed_as(x)


def acos(x: Value) -> Value:
    large, y = asin_parts(x)
    return where(large, where(x < 0, less_from(PI, 2 * y), 2 * y), less_from(HALF_PI, y.signed_as(x)))
