"""What a call costs: value and gradients of the sum of sin(x) * x over arrays of 8 float32, native arrays."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Dispatch"

CASES = [Case(f"{count} array{'s'[: count > 1]}", "S", {"count": count}) for count in (1, 5, 20, 60)]


def inputs(count: int) -> Arrays:
    rng = np.random.default_rng(1)
    return {f"x{k:02}": rng.standard_normal(8).astype(np.float32) for k in range(count)}


def reference(arrays: Arrays, count: int) -> Arrays:
    xs = {name: x.astype(np.float64) for name, x in arrays.items()}
    gradients = {name: np.cos(x) * x + np.sin(x) for name, x in xs.items()}
    return {"value": np.asarray(sum(np.sum(np.sin(x) * x) for x in xs.values())), **gradients}


def formula(xp, count):
    return lambda *xs: sum(xp.sum(xp.sin(x) * x) for x in xs)


def with_tensorflow(tf, count):
    return lambda *xs: tf.add_n([tf.reduce_sum(tf.sin(x) * x) for x in xs])


FORMULAS = {
    **dict.fromkeys(("tapefuse", "jax", "torch", "pytensor", "autograd"), formula),
    "tensorflow": with_tensorflow,
}
FRAMEWORKS = value_and_gradients(FORMULAS, by=None)
