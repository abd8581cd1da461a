"""Special functions under the names of `scipy.special`, elementwise unless they take an axis.

    tp.special.gammaln(x)      tp.special.ndtri(p)      tp.special.logsumexp(x, axis=-1)

Integers are computed in float64. All are differentiable to any order, eagerly and compiled; where the value has a
limit that the formula misses (0 log 0), so has the gradient, by the convention that a factor 0 stays 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.numpy import (
    add,
    divide,
    erf,
    erfc,
    exp,
    expm1,
    i0,
    isnan,
    less,
    log,
    log1p,
    log_softmax,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logsumexp,
    multiply,
    negative,
    sinc,
    softmax,
    softplus,
    subtract,
    where,
    zeros_like,
)
from tapefuse.numpy import sigmoid as expit
from tapefuse.numpy.elementwise import _elementwise
from tapefuse.numpy.shape import _whole
from tapefuse.tracer.promote import common, operands
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor


def _floats(*xs: Any) -> list[Tensor]:
    """Operands in one floating-point dtype."""
    if len(xs) == 1:
        return operands(np.exp, *xs)
    first, second = operands(np.arctan2, *xs[:2])
    return [first, second] if len(xs) == 2 else common(first, second, *xs[2:])


def _digamma(x: Tensor) -> Tensor:
    return ops.polygamma(x, order=0)


gammaln = loggamma = lgamma = _elementwise(np.exp, ops.lgamma, "log |gamma(x)|.", "gammaln")
gamma = _elementwise(np.exp, ops.gamma, "The gamma function, nan at its poles below 0.", "gamma")
digamma = psi = _elementwise(np.exp, _digamma, "The derivative of gammaln.", "digamma")
erfcx = _elementwise(np.exp, ops.erfcx, "exp(x ** 2) erfc(x).", "erfcx")
erfinv = _elementwise(np.exp, ops.erfinv, "The inverse of erf; nan beyond 1.", "erfinv")
erfcinv = _elementwise(np.exp, ops.erfcinv, "The inverse of erfc; nan outside [0, 2].", "erfcinv")
ndtr = _elementwise(np.exp, ops.ndtr, "The standard normal distribution function.", "ndtr")
log_ndtr = _elementwise(np.exp, ops.log_ndtr, "log(ndtr(x)), exact far left.", "log_ndtr")
ndtri = _elementwise(np.exp, ops.ndtri, "The inverse of ndtr; nan outside [0, 1].", "ndtri")
i0e = _elementwise(np.exp, ops.i0e, "exp(-|x|) i0(x).", "i0e")
i1 = _elementwise(np.exp, ops.i1, "Modified Bessel function of the first kind, order 1.", "i1")
i1e = _elementwise(np.exp, ops.i1e, "exp(-|x|) i1(x).", "i1e")


def polygamma(n: Any, x: Any) -> Tensor:
    """The n-th derivative of digamma, for a whole number n >= 0."""
    order = _whole(n, "the order")
    if order < 0:
        raise ValueError(f"polygamma at {user_loc()}: the order must be at least 0, not {order}")
    return ops.polygamma(*_floats(x), order=order)


def betaln(a: Any, b: Any) -> Tensor:
    """log |beta(a, b)| = gammaln(a) + gammaln(b) - gammaln(a + b)."""
    a, b = _floats(a, b)
    return subtract(add(gammaln(a), gammaln(b)), gammaln(add(a, b)))


def beta(a: Any, b: Any) -> Tensor:
    """gamma(a) gamma(b) / gamma(a + b) for a, b > 0."""
    return exp(betaln(a, b))


def factorial(n: Any) -> Tensor:
    """gamma(n + 1), 0 for n < 0."""
    (n,) = _floats(n)
    outside = less(n, 0)
    return where(outside, 0, gamma(add(where(outside, 0, n), 1)))


def binom(n: Any, k: Any) -> Tensor:
    """gamma(n + 1) / (gamma(k + 1) gamma(n - k + 1)) for 0 <= k <= n, by logarithms."""
    n, k = _floats(n, k)
    return exp(subtract(gammaln(add(n, 1)), add(gammaln(add(k, 1)), gammaln(add(subtract(n, k), 1)))))


# -- products with logarithms, entropies ------------------------------------------------------------------------------


def xlogy(x: Any, y: Any) -> Tensor:
    """x log(y), 0 for x = 0 unless y is nan; there both derivatives are 0."""
    x, y = _floats(x, y)
    skipped = logical_and(ops.eq(x, 0), logical_not(isnan(y)))
    return where(skipped, 0, multiply(x, log(where(skipped, 1, y))))


def xlog1py(x: Any, y: Any) -> Tensor:
    """x log(1 + y), 0 for x = 0 unless y is nan; there both derivatives are 0."""
    x, y = _floats(x, y)
    skipped = logical_and(ops.eq(x, 0), logical_not(isnan(y)))
    return where(skipped, 0, multiply(x, log1p(where(skipped, 0, y))))


def entr(x: Any) -> Tensor:
    """-x log(x), 0 at 0, -inf below."""
    (x,) = _floats(x)
    plain = logical_or(ops.gt(x, 0), isnan(x))
    z = where(plain, x, 1)
    return where(plain, negative(multiply(z, log(z))), where(ops.eq(x, 0), multiply(x, 0), -math.inf))


def rel_entr(x: Any, y: Any) -> Tensor:
    """x log(x / y); 0 where x = 0 <= y, inf where it has no meaning."""
    x, y = _floats(x, y)
    plain = logical_and(ops.gt(x, 0), ops.gt(y, 0))
    a, b = where(plain, x, 1), where(plain, y, 1)
    zero = logical_and(ops.eq(x, 0), ops.ge(y, 0))
    rest = where(logical_or(isnan(x), isnan(y)), add(x, y), math.inf)
    return where(plain, multiply(a, log(divide(a, b))), where(zero, 0, rest))


def kl_div(x: Any, y: Any) -> Tensor:
    """x log(x / y) - x + y; y where x = 0 <= y, inf where it has no meaning."""
    x, y = _floats(x, y)
    return add(subtract(rel_entr(x, y), where(ops.eq(x, math.inf), 0, x)), y)


# -- logistic ---------------------------------------------------------------------------------------------------------


def logit(p: Any) -> Tensor:
    """log(p / (1 - p)), nan outside [0, 1]."""
    (p,) = _floats(p)
    middle = logical_and(ops.ge(p, 0.3), ops.le(p, 0.65))
    q = where(middle, p, 0.5)
    near = log1p(divide(subtract(multiply(q, 2), 1), subtract(1, q)))
    r = where(middle, 0.25, p)
    return where(middle, near, subtract(log(r), log1p(negative(r))))


def log_expit(x: Any) -> Tensor:
    """log(expit(x)) = -softplus(-x)."""
    return negative(softplus(negative(*_floats(x))))


def exprel(x: Any) -> Tensor:
    """(exp(x) - 1) / x, 1 at 0, with all derivatives there: near 0 it is its Taylor series."""
    (x,) = _floats(x)
    near = ops.lt(ops.abs(x), 0.5)
    z, far = where(near, x, 0), where(near, 1, x)
    series = zeros_like(z)
    for k in range(16, 0, -1):
        series = add(multiply(series, z), 1 / math.factorial(k))
    return where(near, series, divide(expm1(far), where(ops.eq(far, math.inf), 1, far)))


__all__ = [
    "beta",
    "betaln",
    "binom",
    "digamma",
    "entr",
    "erf",
    "erfc",
    "erfcinv",
    "erfcx",
    "erfinv",
    "exp",
    "expit",
    "expm1",
    "exprel",
    "factorial",
    "gamma",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "kl_div",
    "lgamma",
    "log1p",
    "log_expit",
    "log_ndtr",
    "log_softmax",
    "logaddexp",
    "loggamma",
    "logit",
    "logsumexp",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "rel_entr",
    "sinc",
    "softmax",
    "xlog1py",
    "xlogy",
]
