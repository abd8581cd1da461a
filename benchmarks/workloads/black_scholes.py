"""Prices of European calls and four of their sensitivities: spot - strike, time, rate and volatility are arrays."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Black-Scholes sensitivities"

CASES = [
    Case("1e3 options", "S", {"n": 1_000}, tolerance=1e-9),
    Case("1e5 options", "M", {"n": 100_000}, tolerance=1e-9),
    Case("1e6 options", "L", {"n": 1_000_000}, tolerance=1e-9),
]
SENSITIVITIES = 4  # by spot, time, rate and volatility


def inputs(n: int) -> Arrays:
    rng = np.random.default_rng(1)
    ranges = {"spot": (50, 150), "time": (0.1, 2), "rate": (0.01, 0.05), "volatility": (0.1, 0.5), "strike": (50, 150)}
    return {name: rng.uniform(*ends, n) for name, ends in ranges.items()}


def reference(arrays: Arrays, n: int) -> Arrays:
    s, t, r, v, k = arrays.values()
    d1 = (np.log(s / k) + (r + v**2 / 2) * t) / (v * np.sqrt(t))
    d2 = d1 - v * np.sqrt(t)
    erf = np.vectorize(math.erf, otypes=[np.float64])
    n1, n2 = (1 + erf(d1 / math.sqrt(2))) / 2, (1 + erf(d2 / math.sqrt(2))) / 2
    density, due = np.exp(-(d1**2) / 2) / math.sqrt(2 * math.pi), k * np.exp(-r * t)
    return {
        "value": np.sum(s * n1 - due * n2),
        "spot": n1,
        "time": s * density * v / (2 * np.sqrt(t)) + r * due * n2,
        "rate": t * due * n2,
        "volatility": s * density * np.sqrt(t),
    }


def formula(xp, erf, total, n: int):
    def value(s, t, r, v, k):
        scale = v * xp.sqrt(t)
        d1 = (xp.log(s / k) + (r + 0.5 * v * v) * t) / scale
        normal = lambda x: 0.5 + 0.5 * erf(x * math.sqrt(0.5))
        return total(s * normal(d1) - k * xp.exp(-r * t) * normal(d1 - scale))

    return value


def jax_formula(jnp, n: int):
    from jax.scipy.special import erf

    return formula(jnp, erf, jnp.sum, n)


def autograd_formula(anp, n: int):
    from autograd.scipy.special import erf

    return formula(anp, erf, anp.sum, n)


FORMULAS = {
    "tapefuse": lambda tp, n: formula(tp, tp.erf, tp.sum, n),
    "jax": jax_formula,
    "torch": lambda torch, n: formula(torch, torch.erf, torch.sum, n),
    "tensorflow": lambda tf, n: formula(tf.math, tf.math.erf, tf.reduce_sum, n),
    "pytensor": lambda pt, n: formula(pt, pt.erf, pt.sum, n),
    "autograd": autograd_formula,
}
FRAMEWORKS = value_and_gradients(FORMULAS, by=SENSITIVITIES)
