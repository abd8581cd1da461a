"""Exponentials, logarithms, the error function and powers of vector_math, in the notation of vector_math_builder.

The methods are the classical ones of Cody & Waite (1980): reduce the argument with constants cut into pieces whose
products are exact, evaluate a minimax polynomial, put the exponent back with integer arithmetic, select the special
values (C99 annex F). Wherever a rounding error is recovered, the product in the subtraction is exact, so that
contracting it to an FMA changes nothing.
"""

from collections.abc import Sequence

from tapefuse.codegen import vector_math_coefficients as table
from tapefuse.codegen.vector_math_builder import (
    F32,
    F64,
    Ratio,
    Value,
    at_least,
    at_most,
    clamp,
    high,
    horner,
    keep_small,
    nearest,
    pieces,
    polynomial,
    power_of_two,
    times_power_of_two,
    where,
)

INFINITY, NAN = float("inf"), float("nan")
LN2 = Ratio(0xB17217F7D1CF79ABC9E3B39803F2F6AF40F343267298B62D8A0D175B8BAAFA2B, 1 << 256)
LOG2_E = float(LN2.inverse)


# Exponentials: x = n ln 2 + r, |r| <= ln(2) / 2, exp(x) = 2**n exp(r).

LN2_BITS = {"f32": 15, "f64": 41}  # of the leading piece: its product with any exponent n is exact
EXP_RANGE = {"f32": (-104.0, 89.0), "f64": (-746.0, 710.0)}  # beyond: zero, infinity after rounding
EXP2_RANGE = {"f32": (-151.0, 129.0), "f64": (-1076.0, 1025.0)}
EXPM1_FLOOR = {"f32": -18.0, "f64": -38.0}  # expm1 rounds to -1 below
TANH_TOP = {"f32": 10.0, "f64": 20.0}  # tanh rounds to 1 beyond
SINH_TOP = {"f32": 89.5, "f64": 710.5}  # sinh and cosh overflow before


def exp_reduced(x: Value, offset: int, low: Value | None = None) -> tuple[Value, Value, Value, Value]:
    """n, the low bits of n + offset, and r = r_high - r_low for x + low, with r_high exact."""
    ln2_high, ln2_low = pieces(LN2, LN2_BITS[x.format.name])
    n, bits = nearest((x if low is None else x + low) * LOG2_E, offset)
    return n, bits, x - n * ln2_high, n * ln2_low if low is None else n * ln2_low - low


def exp_tail(r_high: Value, r_low: Value) -> Value:
    """exp(r_high - r_low) - 1 - r_high, small against r_high."""
    r = r_high - r_low
    return r * r * polynomial(r, table.EXP) - r_low


def exp_parts(x: Value, offset: int) -> tuple[Value, Value, Value]:
    """n, the low bits of n + offset, and t, as good as rounded once next to 1: exp(x) = 2**n (1 + t)."""
    n, bits, r_high, r_low = exp_reduced(x, offset)
    r = r_high - r_low
    return n, bits, r * r * polynomial(r, table.EXP) + r


def exp_core(x: Value) -> Value:
    """exp(x) where 2**n is the product of two normal powers."""
    n, bits, t = exp_parts(x, 2 * x.format.bias)
    return times_power_of_two(1 + t, n, bits)


def exp_normal(x: Value, shift: int = 0) -> Value:
    """exp(x) / 2**shift where 2**(n - shift) is normal."""
    _, bits, t = exp_parts(x, x.format.bias - shift)
    scale = power_of_two(bits)
    return scale * t + scale


def expm1_normal(x: Value, shift: int = 0) -> Value:
    """(exp(x) - 1) / 2**shift where 2**(n - shift) is normal.

    2**n (1 + r_high + tail) - 1 is summed from the large to the small: (2**n - 1) + 2**n r_high has one rounding.
    """
    _, bits, r_high, r_low = exp_reduced(x, x.format.bias - shift)
    scale = power_of_two(bits)
    return (scale * r_high + (scale - 2.0**-shift)) + scale * exp_tail(r_high, r_low)


def exp(x: Value) -> Value:
    return exp_core(clamp(x, *EXP_RANGE[x.format.name]))


def exp2(x: Value) -> Value:
    x = clamp(x, *EXP2_RANGE[x.format.name])
    n, bits = nearest(x, 2 * x.format.bias)
    r = x - n
    return times_power_of_two(1 + r * polynomial(r, table.EXP2), n, bits)


def expm1(x: Value) -> Value:
    name = x.format.name
    half = expm1_normal(clamp(x, EXPM1_FLOOR[name], EXP_RANGE[name][1]), shift=1)  # 2**n itself may overflow
    return keep_small(x, half + half, -x.format.precision - 1)


def sigmoid(x: Value) -> Value:
    """z / (1 + z) as z - z^2 / (1 + z) for x < 0, else 1 - z / (1 + z), z = exp(-|x|): the quotient is a correction."""
    z = exp_core(at_least(-abs(x), EXP_RANGE[x.format.name][0]))
    left = x < 0
    return where(left, z, 1.0) - where(left, z * z, z) / (1 + z)


def softplus(x: Value) -> Value:
    """max(x, 0) + log1p(z), z = exp(-|x|) <= 1: log1p(z) = 2 atanh(s) = z - s (z - s^2 ...) with s = z / (2 + z)."""
    z = exp_core(at_least(-abs(x), EXP_RANGE[x.format.name][0]))
    s = z / (2 + z)
    square = s * s
    return where(x > 0, x, 0.0) + (z - s * (z - square * polynomial(square, table.ATANH_WIDE)))


def tanh(x: Value) -> Value:
    """e / (e + 2), e = expm1(2 |x|), as e / 2 - (e^2 / 2) / (e + 2) or 1 - 2 / (e + 2): the quotient is small."""
    e = expm1_normal(2 * at_most(abs(x), TANH_TOP[x.format.name]))
    large, half = e > 2, 0.5 * e
    return (where(large, 1.0, half) - where(large, 2.0, half * e) / (e + 2)).signed_as(x)


def sinh(x: Value) -> Value:
    """(e + e / (e + 1)) / 2, for small e as e - (e^2 / 2) / (e + 1), with e = expm1(|x|).

    It works with q = e / 4, since sinh overflows later than exp.
    """
    q = expm1_normal(at_most(abs(x), SINH_TOP[x.format.name]), shift=2)
    large, half = q > 0.25, 0.5 * q
    y = where(large, half, q) + where(large, half, -2 * q * q) / (4 * q + 1)
    return keep_small(x, (4 * y).signed_as(x), -(x.format.precision // 2))


def cosh(x: Value) -> Value:
    """e / 2 + 1 / (2 e) with e = exp(|x|), kept as q = e / 4."""
    q = exp_normal(at_most(abs(x), SINH_TOP[x.format.name]), shift=2)
    return 2 * (q + 0.0625 / q)


# Logarithms: x = 2**k m with sqrt(1/2) <= m < sqrt(2), log(x) = k ln 2 + log1p(m - 1).


MANTISSA = "i32 12"  # vgetmant: from 1 to 2, of 0 and -0 too, NaN of negative numbers


def log_reduced(x: Value, subnormals: bool = True) -> tuple[Value, Value, Value | None]:
    """k (float), m, and the encoding of 2**k; all meaningless where x is not positive and finite.

    With AVX-512 there is no encoding, k is -inf or inf where x is 0 or inf, m is 1 there, and NaN for other x.
    """
    form = x.format
    if x.body.avx512:
        m, k = x.avx512("getmant", control=MANTISSA), x.avx512("getexp")
        large = m > 2**0.5
        return where(large, k + 1, k), where(large, 0.5 * m, m), None
    one, root, k_origin = form.bits(1.0), form.bits(0.5**0.5), 2.0**form.mantissa + form.bias
    bias: Value | float = k_origin
    if subnormals:
        tiny = x < form.smallest_normal
        x = where(tiny, x * 2.0**form.mantissa, x)
        bias = where(tiny, x.filled(k_origin + form.mantissa), k_origin)
    stepped = x.bits() + (one - root)  # its exponent field steps at sqrt(1/2)
    k = ((stepped >> form.mantissa) | form.bits(2.0**form.mantissa)).floating() - bias
    m = ((stepped & ((1 << form.mantissa) - 1)) + root).floating()
    return k, m, stepped & -(1 << form.mantissa)


def log_bend(f: Value) -> Value:
    """log1p(f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1], to a small relative error."""
    half = 0.5 * (f * f)
    if f.format is F32:
        return f * (f * f) * polynomial(f, table.LOG) - half
    s = f / (2 + f)  # log1p(f) = 2 atanh(s)
    z = s * s
    return s * (half + z * polynomial(z, table.ATANH)) - half


def log_sum(k: Value, f: Value) -> Value:
    ln2_high, ln2_low = pieces(LN2, LN2_BITS[f.format.name])
    return k * ln2_high + (f + (log_bend(f) + k * ln2_low))


def log_domain(x: Value, zero_at: float, y: Value) -> Value:
    """y in the domain, -inf at `zero_at`, NaN left of it, x itself at +inf and NaN."""
    if x.body.avx512:
        return y
    y = where(x < INFINITY, y, x)
    y = where(x < zero_at, NAN, y)
    return where(x.equals(zero_at), -INFINITY, y)


def log(x: Value) -> Value:
    k, m, _ = log_reduced(x)
    return log_domain(x, 0.0, log_sum(k, m - 1))


def log2(x: Value) -> Value:
    k, m, _ = log_reduced(x)
    f = m - 1
    return log_domain(x, 0.0, k + (f * LOG2_E + log_bend(f) * LOG2_E))


def log1p(x: Value) -> Value:
    """log of u = fl(1 + x), the rounding error of u carried into the reduced argument."""
    u = 1 + x
    virtual = u - 1
    error = (1 - (u - virtual)) + (x - virtual)
    k, m, exponent = log_reduced(u, subnormals=False)
    if exponent is None:
        whole = m - 1
        f = whole + error.avx512("scalef", -k)
        f = where(f.unordered(f), whole, f)  # for -1 and infinity
    else:
        inverse = 2 * x.format.bits(1.0) - exponent  # the encoding of 2**-k
        f = (m - 1) + error * where(inverse > 0, inverse, 0).floating()
    return log_domain(x, -1.0, log_sum(k, f)).signed_as(x)  # -0


# The error function: erfc(a) = exp(-a^2) erfcx(a), and (a + K) erfcx(a) is nearly linear in q = (a - K) / (a + K).

ERF_TOP = {"f32": 4.0, "f64": 6.0}  # erf rounds to 1 beyond
ERFC_TOP = {"f32": 10.2, "f64": 27.3}  # erfc rounds to 0 beyond
ERFCX_CENTRE = {"f32": 2.0, "f64": 4.0}
ERFC_LOSSES = {"f32": 1, "f64": 2}  # sums of the polynomial that are made up for


def erf_below_one(x: Value) -> Value:
    return x + x * polynomial(x * x, table.ERF)


def erf(x: Value) -> Value:
    """The exponential is written as in the derivative, 2 / sqrt(pi) exp(-(x * x)), so that a loop with both has one."""
    a = at_most(abs(x), ERF_TOP[x.format.name])
    inverse = 1 / (a + 2)
    tail = exp(-(x * x)) * (inverse * polynomial(1 - 4 * inverse, table.ERF_TAIL))
    return where(a < 1, erf_below_one(x), (1 - tail).signed_as(x))


def horner_and_loss(x: Value, coefficients: Sequence[float], count: int) -> tuple[Value, Value]:
    """The polynomial in x, and what its last `count` sums lose by rounding."""
    y, loss = horner(x, coefficients[count:]), None
    for c in reversed(coefficients[:count]):
        rise = x * y
        y = c + rise
        found = (c - y) + rise
        loss = found if loss is None else found + x * loss
    assert loss is not None
    return y, loss


def erfc_positive(a: Value) -> Value:
    """erfc(a) for a >= 1/2, with a^2, 1 / (a + K), q and the polynomial in two parts: ten roundings make 4 ulp.

    The leading product `main` is exact, so that only its product with t = 2**-n exp(-a^2) - 1 is rounded beside the
    sum; the slope of the polynomial, which is up to twice the result, gets back what its last sums lose: 1.9 ulp.
    """
    centre = ERFCX_CENTRE[a.format.name]
    divisor = a + centre
    inverse = 1 / divisor
    a_head, d_head, i_head = high(a), high(divisor), high(inverse)
    i_tail = ((1 - i_head * d_head) - i_head * (a - (d_head - centre))) * inverse
    q_head, q_tail = 1 - 2 * centre * i_head, -2 * centre * i_tail
    constant, *slopes = table.ERFCX[a.format.name]
    slope, lost = horner_and_loss(q_head + q_tail, slopes, ERFC_LOSSES[a.format.name])
    s_head = high(slope)
    rise, rise_tail = q_head * s_head, q_head * (slope - s_head + lost) + q_tail * slope
    p = constant + (rise + rise_tail)
    p_head = high(p)
    p_tail = ((constant - p_head) + rise) + rise_tail
    n, bits, r_high, r_low = exp_reduced(-(a_head * a_head), 2 * a.format.bias, (a_head - a) * (a_head + a))
    t = r_high + exp_tail(r_high, r_low)
    main, rest = i_head * p_head, i_head * p_tail + i_tail * p
    return times_power_of_two(main + (main * t + (rest + rest * t)), n, bits)


def erfc(x: Value) -> Value:
    a = at_most(abs(x), ERFC_TOP[x.format.name])
    y = erfc_positive(a)
    return where(a < 0.5, 1 - erf_below_one(x), where(x < 0, 2 - y, y))


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
    logarithm = k + s * polynomial(s * s, table.POW_LOG2)
    product = clamp(y.widen() * log2_saturated(wide, logarithm), -160.0, 160.0)
    n, bits = nearest(product, F64.bias)
    r = product - n
    return (power_of_two(bits) * (1 + r * polynomial(r, table.POW_EXP2))).narrow()


def log2_in_two_parts(a: Value) -> tuple[Value, Value]:
    """log2(a) = head + tail to about 64 bits relative, the head of 26 bits; f64 only.

    log(m) = 2/3 s (3 + s^2 + s^4 U(s^2)), s = (m - 1) / (m + 1); the leading products have 26-bit factors: exact.
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
    scale = LN2.inverse.times(2, 3)
    scale_head, scale_tail = pieces(scale, 26)
    l_head, l_tail = p_head * scale_head, p_head * scale_tail + p_tail * float(scale)
    head = high(k + (l_head + l_tail))
    return head, l_tail - ((head - k) - l_head)


def power_of_magnitude_f64(a: Value, y: Value) -> Value:
    head, tail = log2_in_two_parts(a)
    y_head = high(y)
    product, product_tail = y_head * head, (y - y_head) * head + y * tail
    n, bits = nearest(product + product_tail, 2 * F64.bias)
    r = (product - n) + product_tail
    result = times_power_of_two(1 + r * polynomial(r, table.EXP2), n, bits)
    estimate = y * log2_saturated(a, head)  # also decides infinite and enormous y, where the parts above are NaN
    return where(estimate > 1025, INFINITY, where(estimate < -1080, 0.0, result))


def pow(x: Value, y: Value) -> Value:
    a = abs(x)
    power = power_of_magnitude_f32(a, y) if x.format is F32 else power_of_magnitude_f64(a, y)
    power = where(a.equals(1.0), 1.0, power)
    whole, half = y.rounded().equals(y), y * 0.5
    odd = where(half.rounded().equals(half), 0, where(whole, x.bits() & x.format.sign, 0))
    power = (power.bits() | odd).floating()
    undefined = where(whole, 1.0, x) < 0  # a negative number to a fractional power
    power = where(undefined, where(a.equals(INFINITY), power, NAN), power)
    power = where(x.unordered(y), x + y, power)
    return where(y.equals(0.0), 1.0, where(x.equals(1.0), 1.0, power))
