"""Elementwise work: the sum of tanh(x) sigmoid(x) + e^(-x^2) sin(3x) + log1p(x^2) sqrt(1 + x^2) and its gradient."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Elementwise chain"

SIZES = {"S": 1_000, "M": 100_000, "L": 4_000_000}
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
CASES = [
    Case(f"{dtype}, n = {n:,}", size, {"n": n, "dtype": dtype}, tolerance=tolerance)
    for dtype, tolerance in TOLERANCES.items()
    for size, n in SIZES.items()
]


def inputs(n: int, dtype: str) -> Arrays:
    return {"x": np.random.default_rng(1).standard_normal(n).astype(dtype)}


def reference(arrays: Arrays, n: int, dtype: str) -> Arrays:
    x = arrays["x"].astype(np.float64)
    tanh, sigmoid, bell, root, log = (
        np.tanh(x),
        1 / (1 + np.exp(-x)),
        np.exp(-x * x),
        np.sqrt(1 + x * x),
        np.log1p(x * x),
    )
    value = np.sum(tanh * sigmoid + bell * np.sin(3 * x) + log * root)
    first = (1 - tanh**2) * sigmoid + tanh * sigmoid * (1 - sigmoid)
    second = bell * (3 * np.cos(3 * x) - 2 * x * np.sin(3 * x))
    return {"value": np.asarray(value), "x": first + second + 2 * x / root + log * x / root}


def formula(xp, sigmoid):
    def loss(x):
        first = xp.tanh(x) * sigmoid(x)
        return xp.sum(first + xp.exp(-x * x) * xp.sin(3 * x) + xp.log1p(x * x) * xp.sqrt(1 + x * x))

    return loss


def with_library(xp, n, dtype):
    return formula(xp, xp.sigmoid)


def with_jax(jnp, n, dtype):
    import jax

    return formula(jnp, jax.nn.sigmoid)


def with_tensorflow(tf, n, dtype):
    def loss(x):
        first = tf.tanh(x) * tf.sigmoid(x)
        return tf.reduce_sum(first + tf.exp(-x * x) * tf.sin(3 * x) + tf.math.log1p(x * x) * tf.sqrt(1 + x * x))

    return loss


def with_autograd(anp, n, dtype):
    return formula(anp, lambda x: 1 / (1 + anp.exp(-x)))


FORMULAS = {
    **dict.fromkeys(("tapefuse", "torch", "pytensor"), with_library),
    "jax": with_jax,
    "tensorflow": with_tensorflow,
    "autograd": with_autograd,
}
FRAMEWORKS = value_and_gradients(FORMULAS)
