"""Draws by rejection: gamma, and what is made of it, and Poisson.

All elements are tried at once, again and again until the last one is accepted. The k-th try uses keys of its own, so an
element does not depend on the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.halves import widened
from tapefuse.ir.types import Shape
from tapefuse.numpy import any as any_
from tapefuse.numpy import broadcast_to, logsumexp, where, zeros
from tapefuse.numpy.shape import expand_dims
from tapefuse.random.continuous import fine, inner, standard_normal, unit
from tapefuse.random.keys import as_key, fold_in, split, words_of
from tapefuse.random.parameters import (
    FLOAT32,
    FLOAT64,
    check,
    check_positive,
    check_scale,
    drawn_shape,
    float_dtype,
    parameter,
)
from tapefuse.special import digamma, gammaln
from tapefuse.tracer.control import while_loop
from tapefuse.tracer.promote import cast
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

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

    start = zeros(shape, dtype), ops.ne(broadcast_to(a, shape), a), np.int64(0)
    return d * while_loop(goes_on, step, start)[0]


def _gamma_parts(key: Tensor, a: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """(g, l): g e**l is gamma-distributed. For a < 1 it is g of a + 1 times u**(1 / a) (the same paper, section 6)."""
    first, second = split(key)
    small = ops.lt(a, 1)
    g = _accepted_gamma(first, where(small, a + 1, a), shape)
    return g, where(small, ops.log(fine(words_of(second, shape), a.dtype)) / where(small, a, 1), 0)


def gamma_slope(a: Tensor, z: Tensor) -> Tensor:
    """dz / da for gamma-distributed z at a fixed value of the distribution function F: -(dF/da) / (dF/dz) (Figurnov,
    Mohamed and Mnih, "Implicit reparameterization gradients", 2018).

    With S = sum of z**k / (a (a+1) ... (a+k)), F = z**a e**-z S / gamma(a), and S' = dS/da term by term, this is
    -z ((log z - digamma(a)) S + S'). In float64, of which the tail on the right loses the digits that 1 - F lacks.
    """
    positive = ops.gt(z, 0)
    z = where(positive, z, 1.0)

    def goes_on(carry: tuple) -> Tensor:
        total, _, term, _, _ = carry
        return any_(ops.gt(term, 1e-17 * total))

    def step(carry: tuple) -> tuple:
        total, slope, term, harmonic, k = carry
        term, harmonic = term * (z / (a + k)), harmonic + 1 / (a + k)
        return total + term, slope - term * harmonic, term, harmonic, k + 1

    first = 1 / a + 0 * z
    start = first, -first * first, first, first, np.float64(1)
    total, slope, *_ = while_loop(goes_on, step, start)
    found = -z * ((ops.log(z) - digamma(a)) * total + slope)
    return where(positive, ops.maximum(found, 0.0), 0.0)


def _moving(z: Tensor, a: Tensor) -> Tensor:
    """z, which moves with its shape parameter a in derivatives of first order, forwards and backwards."""
    if a.dtype.kind != "f":
        return z
    fixed = ops.stop_gradient(a)
    wide = [cast(x, FLOAT64) for x in (fixed, ops.stop_gradient(z))]
    slope = ops.stop_gradient(cast(gamma_slope(*wide), z.dtype))
    return ops.stop_gradient(z) + slope * (a - fixed)


def _gamma(key: Tensor, a: Tensor, shape: Shape) -> Tensor:
    g, l = _gamma_parts(key, ops.stop_gradient(a), shape)
    return _moving(g * ops.exp(l), a)


def gamma(key: Any, a: Any, shape: Any = None, scale: Any = 1.0, dtype: Any = None) -> Tensor:
    """Gamma distribution with shape parameter `a` > 0 and mean a * scale; differentiable by both, by `a` once."""
    check_positive(a, "a")
    check_scale(scale)
    shape, dtype = drawn_shape(shape, a, scale), float_dtype(dtype, a, scale)
    found = _gamma(as_key(key), parameter(a, widened(dtype)), shape)
    return ops.mul(cast(found, dtype), parameter(scale, dtype))
