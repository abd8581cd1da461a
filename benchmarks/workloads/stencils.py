"""Time loops over stencils: gradients of the sum of squares of the last state by the first one, and by coefficients.

jacobi2d, an n x n grid: inner points become 0.2 (centre + west + east + south + north), 2 (T - 1) half steps.
heat_3d, n^3: inner points add 0.125 times their second differences along the axes, 2 (T - 1) half steps.
advection, n points: u_i becomes u_i - c_i (u_i - u_{i-1}), T steps; c lies in 0..1 and differs from point to point.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import value_and_gradients

TITLE = "Stencil time loops"

SIZES = {
    "jacobi2d": {"S": (150, 50), "M": (350, 80), "L": (700, 200)},
    "heat_3d": {"S": (25, 25), "M": (40, 50), "L": (70, 100)},
    "advection": {"S": (1_000, 100), "M": (10_000, 200), "L": (100_000, 200)},
}
CASES = [
    Case(f"{kernel}, n = {n:,}, T = {steps}", size, {"kernel": kernel, "n": n, "steps": steps}, tolerance=1e-9)
    for kernel, sizes in SIZES.items()
    for size, (n, steps) in sizes.items()
]
MISSING = {"tapefuse": "has no loops yet"}
PARALLEL = 100_000  # points from which a step of the kernel by hand is worth two threads


def inputs(kernel: str, n: int, steps: int) -> Arrays:
    rng = np.random.default_rng(1)
    if kernel == "advection":
        return {"u": rng.standard_normal(n), "c": rng.random(n)}
    return {"x": rng.standard_normal((n,) * (2 if kernel == "jacobi2d" else 3))}


def reference(arrays: Arrays, kernel: str, n: int, steps: int) -> Arrays:
    return by_hand(arrays, kernel, n, steps).results(None)


def by_hand(arrays: Arrays, kernel: str, n: int, steps: int) -> Program:
    from benchmarks import by_hand

    many = next(iter(arrays.values())).size >= PARALLEL and kernel != "advection"
    compiled = (by_hand.parallel if many else by_hand.serial)(getattr(by_hand, kernel))
    step = partial(compiled, *arrays.values(), count(kernel, steps))
    return Program(step, lambda first: dict(zip(("value", *arrays), first or step(), strict=True)))


def count(kernel: str, steps: int) -> int:
    return steps if kernel == "advection" else 2 * (steps - 1)


def jacobi2d(x):
    return 0.2 * (x[1:-1, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] + x[2:, 1:-1] + x[:-2, 1:-1])


def heat_3d(x):
    centre = x[1:-1, 1:-1, 1:-1]
    along = lambda before, after: 0.125 * (after - 2.0 * centre + before)
    return (
        along(x[:-2, 1:-1, 1:-1], x[2:, 1:-1, 1:-1])
        + along(x[1:-1, :-2, 1:-1], x[1:-1, 2:, 1:-1])
        + along(x[1:-1, 1:-1, :-2], x[1:-1, 1:-1, 2:])
        + centre
    )


INNER = {"jacobi2d": jacobi2d, "heat_3d": heat_3d}


def formula(loop, renewed, concatenate, xp, kernel: str, n: int, steps: int):
    """Of a framework's loop(step, count, state, *fixed), renewed(x) -> (inner points -> x with those), concatenate."""
    square_sum = getattr(xp, "reduce_sum", None) or xp.sum
    if kernel == "advection":
        step = lambda u, c: concatenate([u[:1], u[1:] - c[1:] * (u[1:] - u[:-1])])
        return lambda u, c: square_sum(loop(step, steps, u, c) ** 2)
    inner = INNER[kernel]
    step = lambda x, *fixed: renewed(xp, x, *fixed)(inner(x))
    return lambda x: square_sum(loop(step, count(kernel, steps), x, *boundary(xp, x)) ** 2)
