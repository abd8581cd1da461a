"""Compile time by program length: value and gradient of sum(x) after many steps x <- x + 0.001 cos(x), 8 float32."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case, Program

TITLE = "Chain of operations"

STEP, OPERATIONS = 0.001, 3  # cos, multiply, add
CASES = [
    Case("1,000 operations", "S", {"length": 1_000}),
    Case("10,000 operations", "L", {"length": 10_000}, tolerance=1e-3),  # rounding of 3,333 steps adds up
]


def inputs(length: int) -> Arrays:
    return {"x": np.linspace(-1, 1, 8, dtype=np.float32)}


def reference(arrays: Arrays, length: int) -> Arrays:
    x = arrays["x"].astype(np.float64)
    gradient = np.ones_like(x)
    for _ in range(length // OPERATIONS):
        gradient *= 1 - STEP * np.sin(x)
        x = x + STEP * np.cos(x)
    return {"value": np.sum(x), "gradient": gradient}


def with_tapefuse(arrays: Arrays, length: int) -> Program:
    import tapefuse as tp

    @tp.tape_function
    @tp.value_and_grad
    def function(x):
        for _ in range(length // OPERATIONS):
            x = x + STEP * tp.cos(x)
        return tp.sum(x)

    x = tp.constant(arrays["x"])
    return Program(lambda: function(x), _results)


def with_jax(arrays: Arrays, length: int) -> Program:
    import jax
    import jax.numpy as jnp

    @jax.jit
    @jax.value_and_grad
    def function(x):
        for _ in range(length // OPERATIONS):
            x = x + STEP * jnp.cos(x)
        return jnp.sum(x)

    x = jnp.asarray(arrays["x"])

    def step():
        value, gradient = function(x)
        return value.block_until_ready(), gradient

    return Program(step, _results)


def _results(first) -> Arrays:
    return {"value": np.asarray(first[0]), "gradient": np.asarray(first[1])}


FRAMEWORKS = {"tapefuse": with_tapefuse, "jax": with_jax}
