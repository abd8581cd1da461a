"""Compile time by program length: value and gradient of sum(x) after many steps x <- x + 0.001 cos(x), 8 float32."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Chain of operations"

STEP, OPERATIONS = 0.001, 3  # cos, multiply, add
CASES = [
    Case(f"{length:,} operations", size, {"length": length}, tolerance)
    for size, length, tolerance in (
        ("S", 10, 1e-4),
        ("S", 100, 1e-4),
        ("M", 1_000, 1e-4),
        ("L", 10_000, 1e-3),  # rounding of 3,333 steps adds up
    )
]


def inputs(length: int) -> Arrays:
    return {"x": np.linspace(-1, 1, 8, dtype=np.float32)}


def reference(arrays: Arrays, length: int) -> Arrays:
    x = arrays["x"].astype(np.float64)
    gradient = np.ones_like(x)
    for _ in range(length // OPERATIONS):
        gradient *= 1 - STEP * np.sin(x)
        x = x + STEP * np.cos(x)
    return {"value": np.sum(x), "x": gradient}


def formula(xp, length: int):
    def value(x):
        for _ in range(length // OPERATIONS):
            x = x + STEP * xp.cos(x)
        return xp.sum(x)

    return value


FRAMEWORKS = value_and_gradients({"tapefuse": formula, "jax": formula})
