"""Reductions of a matrix along its axes, each with its gradient: the value is the sum of what the reduction gives; for
cumsum, which gives a matrix, that of its product with another."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Reductions"

SHAPES = {"S": (100, 100), "M": (1000, 1000), "L": (4000, 5000)}
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
OPS = {"logsumexp": (0, 1, None), "var": (0,), "max": (1,), "cumsum": (1,)}  # and the axes; None: all
CASES = [
    Case(
        f"{op} {'of all' if axis is None else f'along axis {axis}'}, {dtype}, {rows:,} x {columns:,}",
        size,
        {"op": op, "axis": axis, "dtype": dtype, "shape": (rows, columns)},
        tolerance,
    )
    for dtype, tolerance in TOLERANCES.items()
    for op, axes in OPS.items()
    for axis in axes
    for size, (rows, columns) in SHAPES.items()
]


def inputs(op: str, axis: int | None, dtype: str, shape: tuple[int, int]) -> Arrays:
    rng = np.random.default_rng(1)
    if op == "cumsum":
        return {"x": rng.random(shape, dtype), "v": rng.random(shape, dtype)}
    return {"x": rng.standard_normal(shape, dtype)}


def reference(arrays: Arrays, op: str, axis: int | None, dtype: str, shape: tuple[int, int]) -> Arrays:
    x = arrays["x"].astype(np.float64)
    if op == "cumsum":
        v = arrays["v"].astype(np.float64)
        return {"value": np.sum(np.cumsum(x, axis) * v), "x": np.flip(np.cumsum(np.flip(v, axis), axis), axis)}
    if op == "var":
        return {"value": np.sum(np.var(x, axis)), "x": 2 * (x - np.mean(x, axis)) / x.shape[axis]}
    top = np.max(x, axis, keepdims=True)
    if op == "max":
        return {"value": np.sum(top), "x": (x == top).astype(np.float64)}
    sums = np.sum(np.exp(x - top), axis, keepdims=True)
    return {"value": np.sum(np.log(sums) + top), "x": np.exp(x - top) / sums}


def summed(sum_, op: str, reduce, axis: int | None):
    """The value, given the framework's sum and reduction."""
    return (lambda x, v: sum_(reduce(x, axis) * v)) if op == "cumsum" else lambda x: sum_(reduce(x, axis))


def with_library(xp, op, axis, dtype, shape):
    return summed(xp.sum, op, getattr(xp, op), axis)


def with_jax(jnp, op, axis, dtype, shape):
    import jax

    return summed(jnp.sum, op, jax.nn.logsumexp if op == "logsumexp" else getattr(jnp, op), axis)


def with_torch(torch, op, axis, dtype, shape):
    axis = (0, 1) if axis is None else axis
    reductions = {
        "logsumexp": torch.logsumexp,
        "var": lambda x, axis: torch.var(x, axis, correction=0),
        "max": torch.amax,
        "cumsum": torch.cumsum,
    }
    return summed(torch.sum, op, reductions[op], axis)


def with_tensorflow(tf, op, axis, dtype, shape):
    reductions = {
        "logsumexp": tf.reduce_logsumexp,
        "var": tf.math.reduce_variance,
        "max": tf.reduce_max,
        "cumsum": tf.cumsum,
    }
    return summed(tf.reduce_sum, op, reductions[op], axis)


def with_autograd(anp, op, axis, dtype, shape):
    from autograd.scipy.special import logsumexp

    return summed(anp.sum, op, logsumexp if op == "logsumexp" else getattr(anp, op), axis)


FORMULAS = {
    "tapefuse": with_library,
    "jax": with_jax,
    "torch": with_torch,
    "tensorflow": with_tensorflow,
    "pytensor": with_library,
    "autograd": with_autograd,
}
FRAMEWORKS = value_and_gradients(FORMULAS)
