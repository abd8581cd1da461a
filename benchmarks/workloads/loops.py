"""Factorisations and a triangular solve written as loops; gradients of a sum over the result by all inputs.

cholesky: the sum of the cubes of the factor (its squares sum to the trace); lu, without pivots: the sum of the squares
of both factors; trisolv, forward substitution: the sum of the squares of the solution.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import value_and_gradients

TITLE = "Loops of linear algebra"

SIZES = {
    "cholesky": {"S": 100, "M": 300, "L": 900},
    "lu": {"S": 60, "M": 220, "L": 700},
    "trisolv": {"S": 100, "M": 400, "L": 2000},
}
CASES = [
    Case(f"{kernel}, n = {n}", size, {"kernel": kernel, "n": n}, tolerance=1e-9)
    for kernel, sizes in SIZES.items()
    for size, n in sizes.items()
]
MISSING = {"torch_compile": "compiles for minutes: every step has a shape of its own"}


def inputs(kernel: str, n: int) -> Arrays:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((n, n)) / np.sqrt(n)
    if kernel == "cholesky":
        return {"a": a @ a.T + np.eye(n)}
    if kernel == "lu":
        return {"a": a + 3 * np.eye(n)}
    return {"l": np.tril(a) / 2 + 2 * np.eye(n), "b": rng.standard_normal(n)}


def reference(arrays: Arrays, kernel: str, n: int) -> Arrays:
    program = by_hand(arrays, kernel, n)
    return program.results(program.step())


def by_hand(arrays: Arrays, kernel: str, n: int) -> Program:
    from benchmarks import by_hand

    step = partial(by_hand.serial(getattr(by_hand, kernel)), *arrays.values())
    return Program(step, lambda first: dict(zip(("value", *arrays), map(np.asarray, first), strict=True)))


def tapefuse_formula(tp, kernel: str, n: int):
    def cholesky(a):
        a = a.copy()
        for k in range(n):
            column = a[k:, k] / tp.sqrt(a[k, k])
            a[k:, k] = column
            a[k + 1 :, k + 1 :] -= column[1:, None] * column[1:]
        return tp.sum(tp.tril(a) ** 3)

    def lu(a):
        a = a.copy()
        for k in range(n - 1):
            row, factors = a[k, k + 1 :], a[k + 1 :, k] / a[k, k]
            a[k + 1 :, k] = factors
            a[k + 1 :, k + 1 :] -= factors[:, None] * row
        return tp.sum(a**2)

    def trisolv(l, b):
        x = tp.zeros(n, b.dtype)
        for i in range(n):
            x[i] = (b[i] - tp.sum(l[i, :i] * x[:i])) / l[i, i]
        return tp.sum(x**2)

    return {"cholesky": cholesky, "lu": lu, "trisolv": trisolv}[kernel]


def by_masks(xp, scan, kernel: str, n: int):
    """For compiled loops, all steps of which have the same shapes: rows and columns are masked.

    `scan(step, state)` is the framework's, over k = 0..n-1; step(k, state) -> (state, what is stacked).
    """
    total = getattr(xp, "reduce_sum", None) or xp.sum
    equal = getattr(xp, "equal", None) or xp.eq
    position = np.arange(n, dtype=np.int32)

    def cholesky_step(k, a):
        column = xp.where(position >= k, a[:, k], 0.0) / xp.sqrt(a[k, k])
        return a - column[:, None] * column, column

    def lu_step(k, a):
        row = xp.where(position >= k, a[k], 0.0)
        factors = xp.where(position > k, a[:, k], 0.0) / a[k, k]
        return a - factors[:, None] * row, xp.stack([row, factors])

    def trisolv(l, b):
        def step(k, x):
            x_k = (b[k] - total(l[k] * x)) / l[k, k]
            return xp.where(equal(position, k), x_k, x), x_k

        return total(scan(step, b * 0.0) ** 2)

    cholesky = lambda a: total(scan(cholesky_step, a) ** 3)
    lu = lambda a: total(scan(lu_step, a) ** 2)
    return {"cholesky": cholesky, "lu": lu, "trisolv": trisolv}[kernel]


def by_parts(xp, rows_of, kernel: str, n: int):
    """For loops of Python: each step works on the part of the matrix that is left; factors are kept packed."""

    def cholesky(a):
        columns = []
        for _ in range(n):
            column = a[:, 0] / xp.sqrt(a[0, 0])
            columns.append(column)
            a = a[1:, 1:] - column[1:, None] * column[1:]
        return xp.sum(xp.concatenate(columns) ** 3)

    def lu(a):
        parts = []
        for _ in range(n):
            row, factors = a[0], a[1:, 0] / a[0, 0]
            parts += [row, factors]
            a = a[1:, 1:] - factors[:, None] * row[1:]
        return xp.sum(xp.concatenate(parts) ** 2)

    def trisolv(l, b):
        xs = []
        for k, column in enumerate(rows_of(l.T)):
            xs.append(b[0] / column[k])
            b = b[1:] - xs[-1] * column[k + 1 :]
        return xp.sum(xp.stack(xs) ** 2)

    return {"cholesky": cholesky, "lu": lu, "trisolv": trisolv}[kernel]


def jax_formula(jnp, kernel: str, n: int):
    import jax

    scan = lambda step, state: jax.lax.scan(lambda state, k: step(k, state), state, jnp.arange(n))[1]
    return by_masks(jnp, scan, kernel, n)


def tensorflow_formula(tf, kernel: str, n: int):
    def scan(step, state):
        def body(k, state, made):
            state, new = step(k, state)
            return k + 1, state, made.write(k, new)

        made = tf.TensorArray(tf.float64, size=n)
        return tf.while_loop(lambda k, *_: k < n, body, (0, state, made), maximum_iterations=n)[2].stack()

    return by_masks(tf, scan, kernel, n)


def pytensor_formula(pt, kernel: str, n: int):
    import pytensor

    def scan(step, state):
        return pytensor.scan(step, sequences=[pt.arange(n)], outputs_info=[state, None], return_updates=False)[1]

    return by_masks(pt, scan, kernel, n)


FORMULAS = {
    "tapefuse": tapefuse_formula,
    "jax": jax_formula,
    "torch": lambda torch, **options: by_parts(torch, lambda x: x.unbind(0), **options),
    "tensorflow": tensorflow_formula,
    "pytensor": pytensor_formula,
    "autograd": lambda anp, **options: by_parts(anp, lambda x: x, **options),
}
FRAMEWORKS = {name: f for name, f in value_and_gradients(FORMULAS, by=None).items() if name not in MISSING}
FRAMEWORKS = {"numba_by_hand": by_hand, **FRAMEWORKS}
