"""Draws by rejection: gamma, and what is made of it, and Poisson.

All elements are tried at once, again and again until the last one is accepted. The k-th try uses keys of its own, so an
element does not depend on the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import widened
from tapefuse.ir.types import Shape
from tapefuse.numpy import any as any_
from tapefuse.numpy import astype, softmax, where, zeros
from tapefuse.random.continuous import fine, inner, standard_normal, unit
from tapefuse.random.keys import as_key, fold_in, split, words_of
from tapefuse.random.parameters import (
    FLOAT64,
    check,
    check_positive,
    check_scale,
    drawn_shape,
    float_dtype,
    parameter,
)
from tapefuse.special import gammaln
from tapefuse.tracer.control import while_loop
from tapefuse.tracer.promote import cast
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor

# -- the gamma distribution -------------------------------------------------------------------------------------------


def _accepted_gamma(key: Tensor, a: Tensor, shape: Shape) -> Tensor:
    """Gamma-distributed numbers for shape parameters a >= 1: Marsaglia and Tsang, "A simple method for generating
    gamma variables" (2000)."""
    dtype = a.dtype
    d = a - 1 / 3
    c = 1 / 3 / ops.sqrt(d)

    def goes_on(carry: tuple) -> Tensor:
        return any_(ops.not_(carry[1]))

    def step(carry: tuple) -> tuple:
        found, done, trial = carry
        k = fold_in(key, trial)
        x = standard_normal(k, shape, dtype)
        v = (1 + c * x) ** 3
        positive = ops.gt(v, 0)
        log_v = ops.log(where(positive, v, 1))
        u = fine(words_of(k, shape, 2), dtype)
        good = ops.lt(ops.log(u), 0.5 * x * x + d * (1 - v + log_v))
        taken = ops.and_(ops.and_(positive, good), ops.not_(done))
        return where(taken, v, found), ops.or_(done, taken), trial + 1

    start = zeros(shape, dtype), zeros(shape, bool), np.int64(0)
    return d * while_loop(goes_on, step, start)[0]


def _log_gamma(key: Tensor, a: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """(z, log z) for gamma-distributed z, which may be too small for a float. The logarithm moves with a.

    For a < 1 it is a draw for a + 1 times u**(1 / a) (the same paper, section 6).
    """
    fixed = ops.stop_gradient(a)
    first, second = split(key)
    small = ops.lt(fixed, 1)
    g = _accepted_gamma(first, where(small, fixed + 1, fixed), shape)
    power = where(small, ops.log(fine(words_of(second, shape), a.dtype)) / where(small, fixed, 1), 0)
    return g * ops.exp(power), ops.gamma_path(ops.log(g) + power, a)


def _gamma(key: Tensor, a: Tensor, shape: Shape) -> Tensor:
    z, log_z = _log_gamma(key, a, shape)
    return z * ops.exp(log_z - ops.stop_gradient(log_z))  # z e**0, with the derivative of log z


def gamma(key: Any, a: Any, shape: Any = None, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Gamma distribution with shape parameter `a` > 0 and mean a * scale."""
    shape, dtype = _of_gammas(shape, dtype, a=a, scale=scale)
    found = _gamma(as_key(key), parameter(a, widened(dtype)), shape)
    return ops.mul(cast(found, dtype), parameter(scale, dtype))


def beta(key: Any, a: Any, b: Any, shape: Any = None, dtype: Any = None) -> Tensor:
    """Beta distribution with parameters `a`, `b` > 0: x / (x + y) for gamma-distributed x and y."""
    shape, dtype = _of_gammas(shape, dtype, a=a, b=b)
    keys, work = split(as_key(key)), widened(dtype)
    x, y = (_log_gamma(k, parameter(p, work), shape)[1] for k, p in zip(keys, (a, b), strict=True))
    return cast(ops.sigmoid(x - y), dtype)


def dirichlet(key: Any, alpha: Any, shape: Any = None, dtype: Any = None) -> Tensor:
    """Dirichlet's distribution of probabilities along the last axis of `alpha` > 0: `[*shape, k]`."""
    check_positive(alpha, "alpha")
    dtype = float_dtype(dtype, alpha)
    alpha = parameter(alpha, widened(dtype))
    if not alpha.shape:
        raise ShapeError(f"{called()}: alpha is a vector of parameters, or several, not a scalar")
    lead = alpha.shape[:-1] if shape is None else drawn_shape(shape)
    _, logs = _log_gamma(as_key(key), alpha, drawn_shape((*lead, alpha.shape[-1]), alpha))
    return cast(softmax(logs, axis=-1), dtype)


def chisquare(key: Any, df: Any, shape: Any = None, dtype: Any = None) -> Tensor:
    """Chi-square distribution with `df` > 0 degrees of freedom: that of a sum of as many squared normals."""
    shape, dtype = _of_gammas(shape, dtype, df=df)
    return cast(2 * _gamma(as_key(key), parameter(df, widened(dtype)) / 2, shape), dtype)


def student_t(
    key: Any, df: Any, shape: Any = None, loc: Any = 0.0, scale: Any = 1.0, dtype: Any = None
) -> Tensor:
    """Student's distribution with `df` > 0 degrees of freedom: a normal over the root of a mean of squared normals."""
    shape, dtype = _of_gammas(shape, dtype, df=df, loc=loc, scale=scale)
    work = widened(dtype)
    first, second = split(as_key(key))
    half = parameter(df, work) / 2
    _, log_z = _log_gamma(second, half, shape)
    z = standard_normal(first, shape, work) * ops.exp(0.5 * (ops.log(half) - log_z))
    return ops.add(parameter(loc, dtype), ops.mul(cast(z, dtype), parameter(scale, dtype)))


def _of_gammas(shape: Any, dtype: Any, **parameters: Any) -> tuple[Shape, np.dtype]:
    for name, x in parameters.items():
        if name == "scale":
            check_scale(x)
        elif name != "loc":
            check_positive(x, name)
    return drawn_shape(shape, *parameters.values()), float_dtype(dtype, *parameters.values())


# -- the Poisson distribution -----------------------------------------------------------------------------------------

FEW = 10.0  # means below which counts are found by searching


def _poisson_by_search(u: Tensor, mean: Tensor) -> Tensor:
    """The smallest k whose distribution function exceeds u: a sum with a term for each."""

    def step(carry: tuple) -> tuple:
        k, term, total = carry
        more = ops.ge(u, total)
        k = where(more, k + 1, k)
        term = where(more, term * mean / where(more, k, 1), 0)
        return k, term, total + term

    start = ops.exp(-mean) + 0 * u
    return while_loop(lambda c: any_(ops.and_(ops.ge(u, c[2]), ops.gt(c[1], 1e-30))), step, (0 * u, start, start))[0]


def _poisson_by_rejection(key: Tensor, mean: Tensor, shape: Shape) -> Tensor:
    """Hoermann, "The transformed rejection method for generating Poisson random variables" (1993), algorithm PTRS."""
    root = ops.sqrt(mean)
    b = 0.931 + 2.53 * root
    a = 0.02483 * b - 0.059
    alpha, v_r = 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2)
    log_mean = ops.log(mean)

    def step(carry: tuple) -> tuple:
        found, done, trial = carry
        k = fold_in(key, trial)
        u, v = inner(words_of(k, shape), FLOAT64) - 0.5, inner(words_of(k, shape, 1), FLOAT64)
        us = 0.5 - ops.abs(u)
        count = ops.floor((2 * a / us + b) * u + mean + 0.43)
        inside = ops.ge(count, 0)
        n = where(inside, count, 0)
        at_once = ops.and_(ops.ge(us, 0.07), ops.le(v, v_r))
        outside = ops.or_(ops.not_(inside), ops.and_(ops.lt(us, 0.013), ops.gt(v, us)))
        bound = n * log_mean - mean - gammaln(n + 1)
        good = ops.le(ops.log(v) + ops.log(alpha) - ops.log(a / (us * us) + b), bound)
        taken = ops.and_(ops.or_(at_once, ops.and_(ops.not_(outside), good)), ops.not_(done))
        return where(taken, n, found), ops.or_(done, taken), trial + 1

    start = zeros(shape, FLOAT64), zeros(shape, bool), np.int64(0)
    return while_loop(lambda c: any_(ops.not_(c[1])), step, start)[0]


def poisson(key: Any, lam: Any = 1.0, shape: Any = None, dtype: Any = np.int32) -> Tensor:
    """Counts with mean `lam` >= 0: integers, or floating-point numbers if `dtype` says so. No derivatives."""
    check(lam, lambda v: v >= 0, "lam must be at least 0")
    shape, first = drawn_shape(shape, lam), as_key(key)
    mean = ops.stop_gradient(parameter(lam, FLOAT64))
    few = ops.lt(mean, FEW)
    u = unit(words_of(first, shape, 2), FLOAT64)
    small = _poisson_by_search(u, where(few, mean, 0))
    large = _poisson_by_rejection(first, where(few, 4 * FEW, mean), shape)
    return astype(where(few, small, large), dtype)


__all__ = ["beta", "chisquare", "dirichlet", "gamma", "poisson", "student_t"]
