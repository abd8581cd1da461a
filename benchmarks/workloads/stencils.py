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
PARALLEL = 100_000  # points from which a step of the kernel by hand is worth two threads


def inputs(kernel: str, n: int, steps: int) -> Arrays:
    rng = np.random.default_rng(1)
    if kernel == "advection":
        return {"u": rng.standard_normal(n), "c": rng.random(n)}
    return {"x": rng.standard_normal((n,) * (2 if kernel == "jacobi2d" else 3))}


def reference(arrays: Arrays, kernel: str, n: int, steps: int) -> Arrays:
    program = by_hand(arrays, kernel, n, steps)
    return program.results(program.step())


def by_hand(arrays: Arrays, kernel: str, n: int, steps: int) -> Program:
    from benchmarks import by_hand

    many = next(iter(arrays.values())).size >= PARALLEL and kernel != "advection"
    compiled = (by_hand.parallel if many else by_hand.serial)(getattr(by_hand, kernel))
    count = steps if kernel == "advection" else 2 * (steps - 1)
    step = partial(compiled, *arrays.values(), count)
    return Program(step, lambda first: dict(zip(("value", *arrays), map(np.asarray, first), strict=True)))


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


def formula(xp, loop, renewing, kernel: str, n: int, steps: int):
    """With a framework's loop(step, count, state) and renewing(first x) -> (x, inner points -> x with those)."""
    total = getattr(xp, "reduce_sum", None) or xp.sum
    joined = getattr(xp, "concatenate", None) or xp.concat

    def advected(u, c):
        step = lambda u: joined([u[:1], u[1:] - c[1:] * (u[1:] - u[:-1])], 0)
        return total(loop(step, steps, u) ** 2)

    def relaxed(x):
        renewed = renewing(x)
        return total(loop(lambda x: renewed(x, INNER[kernel](x)), 2 * (steps - 1), x) ** 2)

    return advected if kernel == "advection" else relaxed


def inside(x) -> tuple:
    return (slice(1, -1),) * x.ndim


def padded(pad):
    """For frameworks without assignment: the boundary, which stays, and the inner points between zeros."""

    def renewing(x):
        width = [(1, 1)] * x.ndim
        boundary = x - pad(x[inside(x)], width)
        return lambda x, inner: boundary + pad(inner, width)

    return renewing


def tapefuse_formula(tp, kernel: str, n: int, steps: int):
    def relaxed(x):
        x = x.copy()
        for _ in range(2 * (steps - 1)):
            x[inside(x)] = INNER[kernel](x)
        return tp.sum(x**2)

    def advected(u, c):
        u = u.copy()
        for _ in range(steps):
            u[1:] -= c[1:] * (u[1:] - u[:-1])
        return tp.sum(u**2)

    return advected if kernel == "advection" else relaxed


def jax_formula(jnp, **options):
    import jax

    loop = lambda step, count, x: jax.lax.fori_loop(0, count, lambda _, x: step(x), x)
    return formula(jnp, loop, lambda _: lambda x, inner: x.at[inside(x)].set(inner), **options)


def python_loop(step, count: int, x):
    for _ in range(count):
        x = step(x)
    return x


def torch_renewed(x, inner):
    x = x.clone()
    x[inside(x)] = inner
    return x


def torch_formula(torch, **options):
    return formula(torch, python_loop, lambda _: torch_renewed, **options)


def torch_compile_formula(torch, kernel: str, n: int, steps: int):
    """Compiles a step; all of them in one graph would compile for minutes."""
    torch._dynamo.reset()
    if kernel == "advection":
        step = torch.compile(lambda u, c: torch.cat([u[:1], u[1:] - c[1:] * (u[1:] - u[:-1])]), dynamic=False)
        return lambda u, c: torch.sum(python_loop(lambda u: step(u, c), steps, u) ** 2)
    step = torch.compile(lambda x: torch_renewed(x, INNER[kernel](x)), dynamic=False)
    return lambda x: torch.sum(python_loop(step, 2 * (steps - 1), x) ** 2)


def tensorflow_formula(tf, **options):
    def loop(step, count, x):
        return tf.while_loop(lambda k, x: k < count, lambda k, x: (k + 1, step(x)), (0, x), maximum_iterations=count)[1]

    return formula(tf, loop, padded(tf.pad), **options)


def pytensor_formula(pt, **options):
    import pytensor

    def loop(step, count, x):
        return pytensor.scan(step, outputs_info=[x], n_steps=count, return_updates=False)[-1]

    return formula(pt, loop, lambda _: lambda x, inner: pt.set_subtensor(x[inside(x)], inner), **options)


def autograd_formula(anp, **options):
    return formula(anp, python_loop, padded(lambda x, width: anp.pad(x, width, "constant")), **options)


FORMULAS = {
    "tapefuse": tapefuse_formula,
    "jax": jax_formula,
    "torch": torch_formula,
    "tensorflow": tensorflow_formula,
    "pytensor": pytensor_formula,
    "autograd": autograd_formula,
}
FRAMEWORKS = {
    "numba_by_hand": by_hand,
    **value_and_gradients(FORMULAS, by=None),
    "torch_compile": value_and_gradients({"torch": torch_compile_formula}, by=None)["torch"],
}
