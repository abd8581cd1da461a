"""Memory of a long chain: the sum of x after 100 steps x <- tanh(a_k x + b_k), and gradients by x, a, b; float32."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Chain of tanh"

STEPS = 100
CASES = [Case(f"n = {n:,}", size, {"n": n}) for size, n in (("S", 10_000), ("L", 1_000_000))]


def inputs(n: int) -> Arrays:
    rng = np.random.default_rng(1)
    x, a, b = rng.standard_normal(n), 1 + 0.1 * rng.random(STEPS), 0.1 * rng.standard_normal(STEPS)
    return {name: array.astype(np.float32) for name, array in (("x", x), ("a", a), ("b", b))}


def reference(arrays: Arrays, n: int) -> Arrays:
    x, a, b = (arrays[name].astype(np.float64) for name in "xab")
    xs = [x]
    for k in range(STEPS):
        xs.append(np.tanh(a[k] * xs[-1] + b[k]))
    g, of_a, of_b = np.ones(n), np.zeros(STEPS), np.zeros(STEPS)
    for k in reversed(range(STEPS)):
        g *= 1 - xs[k + 1] ** 2
        of_a[k], of_b[k] = g @ xs[k], g.sum()
        g *= a[k]
    return {"value": np.sum(xs[-1]), "x": g, "a": of_a, "b": of_b}


def formula(xp, n):
    def loss(x, a, b):
        for k in range(STEPS):
            x = xp.tanh(a[k] * x + b[k])
        return xp.sum(x)

    return loss


def with_tensorflow(tf, n):
    def loss(x, a, b):
        for k in range(STEPS):
            x = tf.tanh(a[k] * x + b[k])
        return tf.reduce_sum(x)

    return loss


NAMES = ("tapefuse", "jax", "torch", "pytensor", "autograd")
FORMULAS = {**dict.fromkeys(NAMES, formula), "tensorflow": with_tensorflow}
FRAMEWORKS = value_and_gradients(FORMULAS, by=3)
