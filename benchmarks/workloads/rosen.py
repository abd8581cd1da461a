"""Rosenbrock's function of n float64, the sum of 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, with its gradient, as
scipy.optimize calls it: a NumPy array in, a float and a NumPy array out."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Rosenbrock"

CASES = [Case(f"n = {n:,}", size, {"n": n}, tolerance=1e-9) for size, n in (("S", 10), ("M", 1_000), ("L", 100_000))]


def inputs(n: int) -> Arrays:
    return {"x": 1 + 0.3 * np.random.default_rng(1).standard_normal(n)}


def reference(arrays: Arrays, n: int) -> Arrays:
    value, gradient = rosen(arrays["x"])
    return {"value": np.asarray(value), "x": gradient}


def rosen(x: np.ndarray) -> tuple[float, np.ndarray]:
    inner, outer = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * x[:-1] * inner - 2 * outer
    gradient[1:] += 200 * inner
    return float(np.sum(100 * inner**2 + outer**2)), gradient


def formula(xp, n):
    return lambda x: xp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def with_tensorflow(tf, n):
    return lambda x: tf.reduce_sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


FORMULAS = {
    **dict.fromkeys(("tapefuse", "jax", "torch", "pytensor", "autograd"), formula),
    "tensorflow": with_tensorflow,
}
FRAMEWORKS = value_and_gradients(FORMULAS, numpy_in=True)
