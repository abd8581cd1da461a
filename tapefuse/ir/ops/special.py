"""Special functions of mathematics: gamma and its logarithm's derivatives, the normal distribution, Bessel functions.

Each is a row like those of `elementwise`, with its value written once, in double precision, as arithmetic without
branches (`tapefuse.ir.ops.scalar`): float32 is computed in float64 and rounded.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir.op import Op, defop
from tapefuse.ir.ops import special_coefficients as table
from tapefuse.ir.ops.elementwise import add, div, exp, mul, sub
from tapefuse.ir.ops.elementwise import sign as sign_of
from tapefuse.ir.ops.family import (
    Rule,
    draw,
    elementwise,
    products,
    quiet,
    read_aligned,
    same_dtype,
    tangent,
    unary_sample,
)
from tapefuse.ir.ops.logic import eq, select
from tapefuse.ir.ops.scalar import Function, Scalar, in_double, lowering, polynomial, reference, where
from tapefuse.ir.types import Type

INFINITY, NAN = math.inf, math.nan
ROOT_PI, ROOT_2 = math.sqrt(math.pi), math.sqrt(2)


def special(name: str, value: Function, rule: Rule, doc: str, low: float = -2.0, high: float = 2.0) -> Op:
    """A function of one operand with `value` in double precision and `rule` for g times its derivative."""
    f = in_double(value)
    return elementwise(name, reference(f), (rule,), unary_sample(low, high), doc=doc, at=lowering(f))


# -- gamma ------------------------------------------------------------------------------------------------------------
# The positive axis is brought to [3/2, 5/2] by x gamma(x) = gamma(x + 1), downwards, where all factors are positive;
# above FAR Stirling's series is exact. Negative arguments follow by reflection.

FAR = 10


def descended(x: Scalar) -> tuple[Scalar, Scalar]:
    """(t, p) with gamma(x) = p gamma(2 + t), |t| <= 1/2, for 3/2 <= x < FAR."""
    p, steps = x.constant(1.0), x.constant(0.0)
    for k in range(1, FAR - 1):
        above = x >= k + 1.5
        p = where(above, p * (x - k), p)
        steps = where(above, k, steps)
    return (x - 2) - steps, p


def ascended(x: Scalar) -> tuple[Scalar, Scalar]:
    """(t, p) with gamma(x) = gamma(2 + t) / p, 0 <= t + 1/2, for 0 < x < 3/2."""
    low = x < 0.5
    return where(low, x, x - 1), where(low, x * (x + 1), x)


def sine_of_pi(x: Scalar) -> Scalar:
    """sin(pi x), which is 0 for whole x."""
    nearest = x.op("round")
    s = ((x - nearest) * math.pi).op("sin")
    half = nearest * 0.5
    return where(half.op("floor").equals(half), s, -s)


def stirling(x: Scalar) -> Scalar:
    """log(gamma(x)) - (x - 1/2) log(x) + x - log(2 pi) / 2 for x >= FAR."""
    inverse = 1 / x
    terms = [b / (d * 2 * k * (2 * k - 1)) for k, (b, d) in enumerate(table.BERNOULLI[:9], 1)]
    return inverse * polynomial(inverse * inverse, terms)


def lgamma_positive(x: Scalar) -> Scalar:
    small = x < 1.5
    (up, divisor), (down, factor) = ascended(x), descended(x)
    t = where(small, up, down)
    logarithm = where(small, divisor, factor).op("log")
    near = t * polynomial(t, table.LGAMMA) + where(small, -logarithm, logarithm)
    big = where(x < FAR, FAR, x)
    far = (big - 0.5) * (big.op("log") - 1) + (stirling(big) + (0.5 * math.log(2 * math.pi) - 0.5))
    return where(x < FAR, near, far)


def lgamma_value(x: Scalar) -> Scalar:
    """For x <= 0: log(pi) - log|x sin(pi x)| - lgamma(-x). Relative to its zeros there the error is absolute."""
    a = abs(x)
    y = lgamma_positive(a)
    y = where(a < 1e-300, -a.op("log"), y)  # x (x + 1) has lost bits
    reflected = math.log(math.pi) - abs(a * sine_of_pi(a)).op("log") - y
    negative = where(x < -1e-300, reflected, y)
    whole = where(x.op("floor").equals(x), x, 1.0) <= 0
    return where(abs(x).equals(INFINITY), INFINITY, where(whole, INFINITY, negative))


def gamma_positive(x: Scalar) -> Scalar:
    small = x < 1.5
    (up, divisor), (down, factor) = ascended(x), descended(x)
    t = where(small, up, down)
    base = 1 + t * polynomial(t, table.GAMMA)
    near = where(small, base / divisor, base * factor)
    big = where(x < FAR, FAR, where(x > 200, 200, x))
    root = big ** (0.5 * big - 0.25)  # whole powers overflow too early
    far = math.sqrt(2 * math.pi) * stirling(big).op("exp") * (root * (-big).op("exp")) * root
    return where(x < FAR, near, far)


def gamma_value(x: Scalar) -> Scalar:
    """For x < 0: -pi / (a gamma(a) sin(pi a)) with a = -x; nan at the poles below 0."""
    a = abs(x)
    y = gamma_positive(a)
    reflected = -math.pi / (a * sine_of_pi(a)) / y
    y = where(x < 0, where(x.op("floor").equals(x), NAN, reflected), y)
    return where(a < 1e-300, 1 / x, y)  # x (x + 1) has lost bits


def digamma_near(x: Scalar) -> Scalar:
    """For 0 < x < FAR: psi(x) from psi on [1, 2], with the reciprocals on the way as one quotient."""
    above, below = x.constant(0.0), x.constant(1.0)
    steps = where(x < 1, -1.0, x.constant(0.0))
    for k in range(1, FAR - 1):
        passed, factor = x >= k + 1, x - k
        above, below = where(passed, above * factor + below, above), where(passed, below * factor, below)
        steps = where(passed, k, steps)
    above, below = where(x < 1, -1.0, above), where(x < 1, x, below)
    t = x - steps
    first, second = table.DIGAMMA_ROOT
    return ((t - first) - second) * polynomial(t - 1.5, table.DIGAMMA) + above / below


def cotangent_of_pi(x: Scalar) -> Scalar:
    return 1 / ((x - x.op("round")) * math.pi).op("tan")


def digamma_value(x: Scalar) -> Scalar:
    """For x < 0: psi(a) + 1 / a + pi cot(pi a) with a = -x; nan at the poles below 0."""
    a = abs(x)
    inverse = 1 / where(a < FAR, FAR, a)
    square = inverse * inverse
    series = polynomial(square, [b / (d * 2 * k) for k, (b, d) in enumerate(table.BERNOULLI[:9], 1)])
    far = where(a < FAR, FAR, a).op("log") - 0.5 * inverse - square * series
    y = where(a < FAR, digamma_near(a), far)
    reflected = y + 1 / a + math.pi * cotangent_of_pi(a)
    y = where(x < 0, where(x.op("floor").equals(x), NAN, reflected), y)
    return where(x.equals(0), -1 / x, y)


def polygamma_positive(x: Scalar, order: int) -> Scalar:
    """(-1)**(order + 1) times the function, for x > 0: a sum of positive terms and an asymptotic series."""
    total = x.constant(0.0)
    shift = FAR + order
    for _ in range(shift):
        total = where(x < shift, total + (1 / x) ** (order + 1), total)
        x = where(x < shift, x + 1, x)
    inverse = 1 / x
    first = math.factorial(order - 1)
    terms = [_asymptotic(k, *b, order) for k, b in enumerate(table.BERNOULLI, 1)]
    series = first + inverse * (0.5 * first * order) + inverse * inverse * polynomial(inverse * inverse, terms)
    return math.factorial(order) * total + inverse**order * series


def _asymptotic(k: int, numerator: int, denominator: int, order: int) -> float:
    """A Bernoulli number times (2 k + order - 1)! / (2 k)!, rounded once."""
    return numerator * math.factorial(2 * k + order - 1) / (denominator * math.factorial(2 * k))


def cotangent_derivative(order: int) -> list[int]:
    """The derivative of cot as a polynomial in c = cot: one of p(c) is -(1 + c**2) p'(c)."""
    p = [0, 1]
    for _ in range(order):
        slope = [-k * c for k, c in enumerate(p)][1:]
        p = [a + b for a, b in zip([*slope, 0, 0], [0, 0, *slope], strict=True)]
    return p


def polygamma_value(x: Scalar, order: int) -> Scalar:
    """For x <= 0 by reflection: (-1)**n psi_n(1 - x) - pi**(n + 1) cot_n(pi x)."""
    if order == 0:
        return digamma_value(x)
    sign, negative = (-1) ** order, x <= 0
    y = -sign * polygamma_positive(where(negative, 1 - x, x), order)
    c = cotangent_of_pi(x)
    reflected = sign * y - math.pi ** (order + 1) * polynomial(c, cotangent_derivative(order))
    at_pole = INFINITY if order % 2 else NAN
    y = where(negative, where(x.op("floor").equals(x), at_pole, reflected), y)
    return where(x.equals(INFINITY), 0.0, where(x.equals(-INFINITY), NAN, y))


def _polygamma(order: int) -> Function:
    return in_double(lambda x: polygamma_value(x, order))


@defop
class polygamma:
    """The derivative of digamma of order `order`; digamma, the logarithmic derivative of gamma, for 0."""

    @quiet
    def ref(x, *, order):
        return reference(_polygamma(order))(x)

    def type(x, *, order):
        if order < 0:
            raise DTypeError(f"the order must be at least 0, not {order}")
        return Type(same_dtype([x], "f"), x.shape)

    def vjp(g, y, x, *, order):
        return products([lambda g, y, x: mul(g, polygamma(x, order=order + 1))], g, y, x)

    def jvp(ts, y, x, *, order):
        return tangent([lambda g, y, x: mul(g, polygamma(x, order=order + 1))], ts, y, x)

    def batch(flags, x, *, order):
        return polygamma(x, order=order)

    def at(b, i, x, *, order):
        return lowering(_polygamma(order))(b, x.dtype, *read_aligned(b, i, [x]))

    def sample(rng, dtype):
        x = draw(rng, dtype, (7, 3), 0.5, 3.0)
        return [((x,), {"order": n}) for n in (0, 1, 2, 3)] + [((-x - 0.3 * np.sin(x),), {"order": 1})]

    elementwise = True


lgamma: Op = special(
    "lgamma", lgamma_value, lambda g, y, x: mul(g, polygamma(x, order=0)), "log |gamma(x)|.", low=0.5, high=3.5
)
gamma: Op = special(
    "gamma", gamma_value, lambda g, y, x: mul(g, mul(y, polygamma(x, order=0))), "The gamma function.", 0.5, 3.5
)

# -- the normal distribution ------------------------------------------------------------------------------------------


def erfcx_positive(a: Scalar) -> Scalar:
    inverse = 1 / (a + 4)
    return inverse * polynomial(1 - 8 * inverse, table.ERFCX)


def erfcx_value(x: Scalar) -> Scalar:
    """For x < 0: 2 exp(x**2) - erfcx(-x), with the square in two parts."""
    y = erfcx_positive(abs(x))
    head = (x * 1024).op("round") / 1024  # its square is exact
    square = (head * head).op("exp") * ((x - head) * (x + head)).op("exp")
    return where(x < -30, INFINITY, where(x < 0, 2 * square - y, y))


def normal_quantile(q: Scalar, tail: Scalar) -> Scalar:
    """The normal quantile of p = q + 1/2 with tail = min(p, 1 - p), nan where that is negative."""
    central = abs(q) <= 0.425
    r = 0.180625 - q * q
    near = q * polynomial(r, table.QUANTILE_CENTRAL) / polynomial(r, table.QUANTILE_CENTRAL_BELOW)
    s = (-where(central, 0.05, tail).op("log")).op("sqrt")
    middle = polynomial(s - 1.6, table.QUANTILE_MIDDLE) / polynomial(s - 1.6, table.QUANTILE_MIDDLE_BELOW)
    far = polynomial(s - 5, table.QUANTILE_FAR) / polynomial(s - 5, table.QUANTILE_FAR_BELOW)
    y = where(s <= 5, middle, far)
    y = where(tail.equals(0), INFINITY, y)
    return where(central, near, where(q < 0, -y, y))


def ndtri_value(p: Scalar) -> Scalar:
    return normal_quantile(p - 0.5, where(p < 0.5, p, 1 - p))


def erfinv_value(x: Scalar) -> Scalar:
    return normal_quantile(0.5 * x, 0.5 - 0.5 * abs(x)) * (1 / ROOT_2)


def erfcinv_value(x: Scalar) -> Scalar:
    return normal_quantile(0.5 - 0.5 * x, 0.5 * where(x < 1, x, 2 - x)) * (1 / ROOT_2)


def normal_tail(x: Scalar) -> tuple[Scalar, Scalar]:
    """The probability of being above |x|, without the factor exp(-x**2 / 2), and that factor."""
    a = where(abs(x) > 40, 40, abs(x))
    head = (a * 1024).op("round") / 1024  # its square is exact
    factor = (-0.5 * (head * head)).op("exp") * (-0.5 * ((a - head) * (a + head))).op("exp")
    return 0.5 * erfcx_positive(abs(x) * (1 / ROOT_2)), factor


def ndtr_value(x: Scalar) -> Scalar:
    tail, factor = normal_tail(x)
    tail = tail * factor
    return where(x.differs(x), x, where(x < 0, tail, 1 - tail))


def log_ndtr_value(x: Scalar) -> Scalar:
    tail, factor = normal_tail(x)
    return where(x < 0, tail.op("log") - 0.5 * (x * x), (-tail * factor).op("log1p"))


erfcx: Op = special(
    "erfcx",
    erfcx_value,
    lambda g, y, x: mul(g, sub(mul(mul(x, 2), y), 2 / ROOT_PI)),
    "exp(x**2) erfc(x), which neither overflows nor vanishes early for x > 0.",
)
ndtr: Op = special(
    "ndtr",
    ndtr_value,
    lambda g, y, x: mul(g, mul(exp(mul(mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))),
    "The probability that a standard normal variable is below x.",
)
ndtri: Op = special(
    "ndtri",
    ndtri_value,
    lambda g, y, p: mul(g, mul(exp(mul(mul(y, y), 0.5)), math.sqrt(2 * math.pi))),
    "The number below which a standard normal variable is with probability p; nan outside [0, 1].",
    low=0.05,
    high=0.95,
)
erfinv: Op = special(
    "erfinv",
    erfinv_value,
    lambda g, y, x: mul(g, mul(exp(mul(y, y)), ROOT_PI / 2)),
    "The inverse of erf; nan beyond 1.",
    low=-0.9,
    high=0.9,
)
erfcinv: Op = special(
    "erfcinv",
    erfcinv_value,
    lambda g, y, x: mul(g, mul(exp(mul(y, y)), -ROOT_PI / 2)),
    "The inverse of erfc, exact for small x; nan outside [0, 2].",
    low=0.1,
    high=1.9,
)
log_ndtr: Op = special(
    "log_ndtr",
    log_ndtr_value,
    lambda g, y, x: mul(g, div(math.sqrt(2 / math.pi), erfcx(mul(x, -1 / ROOT_2)))),
    "The logarithm of the standard normal distribution function, exact far left.",
)

# -- modified Bessel functions ----------------------------------------------------------------------------------------

BESSEL_FAR = 8


def bessel_series(x: Scalar, order: int) -> Scalar:
    """i_order(x) = (x / 2)**order sum_k (x**2 / 4)**k / (k! (k + order)!) for |x| <= 8: all terms are positive."""
    z = 0.25 * (x * x)
    terms = [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(27)]
    return polynomial(z, terms) * (0.5 * x if order else x.constant(1.0))


def bessel(order: int, scaled: bool) -> Function:
    """i_order(x), times exp(-|x|) if `scaled`."""
    coefficients: Sequence[float] = table.I1 if order else table.I0

    def value(x: Scalar) -> Scalar:
        a = abs(x)
        near = bessel_series(where(a > BESSEL_FAR, BESSEL_FAR, a), order)
        far_x = where(a < BESSEL_FAR, BESSEL_FAR, a)
        far = polynomial(16 / far_x - 1, coefficients) / far_x.op("sqrt")
        if scaled:
            near = near * (-a).op("exp")
        else:
            half = (0.5 * far_x).op("exp")
            far = (far * half) * half
        y = where(a <= BESSEL_FAR, near, far)
        if not scaled:
            y = where(a.equals(INFINITY), INFINITY, y)
        y = where(a.differs(a), a, y)
        return where(x < 0, -y, y) if order else y

    return value


def _over_x(y: Any, x: Any) -> Any:
    """i1(x) / x, 1/2 at 0."""
    return select(eq(x, 0), 0.5, div(y, select(eq(x, 0), 1, x)))


i0: Op = special("i0", bessel(0, False), lambda g, y, x: mul(g, i1(x)), "Modified Bessel function of order 0.")
i1: Op = special(
    "i1", bessel(1, False), lambda g, y, x: mul(g, sub(i0(x), _over_x(y, x))), "Modified Bessel function of order 1."
)
i0e: Op = special(
    "i0e",
    bessel(0, True),
    lambda g, y, x: mul(g, sub(i1e(x), mul(sign_of(x), y))),
    "exp(-|x|) i0(x), with i0e'(0) = 0.",
)
i1e: Op = special(
    "i1e",
    bessel(1, True),
    lambda g, y, x: mul(g, sub(i0e(x), add(mul(sign_of(x), y), _over_x(y, x)))),
    "exp(-|x|) i1(x).",
)
