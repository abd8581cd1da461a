"""Gauss-Seidel sweeps: inner points of an n x n grid become, one after the other and in place, the mean of their 3 x 3
neighbourhood, T times; gradient of the sum of squares of the last state by the first one.

JAX is there twice: with the loops over points as they are written down, and as an expert rewrites them.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import value_and_gradients

TITLE = "Gauss-Seidel sweeps"

CASES = [
    Case(f"n = {n}, T = {steps}", size, {"n": n, "steps": steps}, tolerance=1e-9)
    for size, n, steps in (("S", 50, 8), ("M", 100, 15), ("L", 200, 40))
]
PLAIN = 100  # the largest n for which loops over points take JAX less than a minute
MISSING = {
    "torch": "takes seconds point by point",
    "torch_compile": "compiles for minutes point by point",
    "tensorflow": "takes seconds point by point",
    "tensorflow_xla": "keeps the grid of every point, and takes minutes",
    "pytensor": "keeps the grid of every point: gigabytes",
    "autograd": "has no assignment to elements",
}


def inputs(n: int, steps: int) -> Arrays:
    return {"x": np.random.default_rng(1).standard_normal((n, n))}


def reference(arrays: Arrays, n: int, steps: int) -> Arrays:
    program = by_hand(arrays, n, steps)
    return program.results(program.step())


def by_hand(arrays: Arrays, n: int, steps: int) -> Program:
    from benchmarks import by_hand

    step = partial(by_hand.serial(by_hand.seidel2d), arrays["x"], steps)
    return Program(step, lambda first: {"value": np.asarray(first[0]), "x": first[1]})


def tapefuse_formula(tp, n: int, steps: int):
    def value(x):
        x = x.copy()
        for _ in range(steps):
            for i in range(1, n - 1):
                for j in range(1, n - 1):
                    above = x[i - 1, j - 1] + x[i - 1, j] + x[i - 1, j + 1]
                    below = x[i + 1, j - 1] + x[i + 1, j] + x[i + 1, j + 1]
                    x[i, j] = (above + x[i, j - 1] + x[i, j] + x[i, j + 1] + below) / 9
        return tp.sum(x**2)

    return value


def plain_formula(jnp, n: int, steps: int):
    from jax import lax

    if n > PLAIN:
        raise ValueError("point by point it takes more than a minute")

    def point(x, i, j):
        return x.at[i, j].set(lax.dynamic_slice(x, (i - 1, j - 1), (3, 3)).sum() / 9)

    def row(x, i):
        return lax.fori_loop(1, n - 1, lambda j, x: point(x, i, j), x)

    def sweep(_, x):
        return lax.fori_loop(1, n - 1, lambda i, x: row(x, i), x)

    return lambda x: jnp.sum(lax.fori_loop(0, steps, sweep, x) ** 2)


def expert_formula(jnp, n: int, steps: int):
    """All sweeps at once, each two rows behind the one before; a row's recurrence y_j = c_j + y_{j-1} / 9 by doubling.

    In step s, sweep t computes row s - 2 t + 1. What sweep t - 1 made two steps ago is that row before, what it made
    one step ago the row below; what sweep t made one step ago is the row above.
    """
    from jax import lax

    def recurrence(y):
        for k in (1, 2, 4, 8, 16):  # 9^-32 is no more than rounding
            y = y + jnp.pad(y[:, :-k], ((0, 0), (k, 0))) * 9.0**-k
        return y

    count = n - 2 + 2 * (steps - 1)

    def value(x):
        streamed = jnp.pad(x, ((0, count + 2 - n), (0, 0)))

        def step(made, s):
            before, before_that = made
            first = lax.dynamic_slice_in_dim(streamed, s + 1, 2)
            i = (s - 2 * jnp.arange(steps) + 1)[:, None]
            row = jnp.concatenate([first[:1], before_that[:-1]])
            below = jnp.where(i == n - 2, x[-1], jnp.concatenate([first[1:], before[:-1]]))
            above = jnp.where(i == 1, x[0], before)
            beside = above + below
            c = (beside[:, :-2] + beside[:, 1:-1] + beside[:, 2:] + row[:, 1:-1] + row[:, 2:]) / 9
            inner = recurrence(c.at[:, 0].add(row[:, 0] / 9))
            new = jnp.concatenate([row[:, :1], inner, row[:, -1:]], axis=1)
            return (jnp.where((i >= 1) & (i <= n - 2), new, 0), before), new[-1]

        _, rows = lax.scan(step, (jnp.zeros((steps, n)),) * 2, jnp.arange(count))
        return sum(jnp.sum(part**2) for part in (x[0], rows[2 * (steps - 1) :], x[-1]))

    return value


FRAMEWORKS = {
    "numba_by_hand": by_hand,
    "tapefuse": value_and_gradients({"tapefuse": tapefuse_formula})["tapefuse"],
    "jax": value_and_gradients({"jax": plain_formula})["jax"],
    "jax_expert": value_and_gradients({"jax": expert_formula})["jax"],
}
