"""Gravity among n bodies, T steps of kick, drift, kick: gradients of sum(positions^2) + sum(velocities^2) of the end by
masses, first positions and first velocities."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import value_and_gradients
from benchmarks.workloads.stencils import python_loop

TITLE = "N-body"

CASES = [
    Case(f"n = {n}, T = {steps}", size, {"n": n, "steps": steps}, tolerance=1e-9)
    for size, n, steps in (("S", 25, 40), ("M", 50, 100), ("L", 100, 100))
]
STEP, SOFTENING = 0.01, 0.1


def inputs(n: int, steps: int) -> Arrays:
    rng = np.random.default_rng(1)
    return {"m": rng.uniform(0.5, 1.5, n) / n, "pos": rng.standard_normal((n, 3)), "vel": rng.standard_normal((n, 3))}


def reference(arrays: Arrays, n: int, steps: int) -> Arrays:
    program = by_hand(arrays, n, steps)
    return program.results(program.step())


def by_hand(arrays: Arrays, n: int, steps: int) -> Program:
    from benchmarks import by_hand

    step = partial(by_hand.serial(by_hand.nbody), *arrays.values(), steps, STEP, SOFTENING)
    return Program(step, lambda first: dict(zip(("value", *arrays), map(np.asarray, first), strict=True)))


def formula(xp, loop, n: int, steps: int, compiler=lambda f: f):
    """With a framework's loop(step, count, state). Coordinates are rows, which makes differences vectors."""
    total = getattr(xp, "reduce_sum", None) or xp.sum
    transposed = xp.transpose if hasattr(xp, "reduce_sum") else lambda x: x.T

    def forces(m, p):
        d = p[:, None, :] - p[:, :, None]
        s = 1 / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + SOFTENING**2)
        return total(d * (m * s * xp.sqrt(s)), -1)

    @compiler
    def step(m, state):
        p, v, a = state
        v = v + STEP / 2 * a
        p = p + STEP * v
        a = forces(m, p)
        return p, v + STEP / 2 * a, a

    def value(m, pos, vel):
        p, v = transposed(pos), transposed(vel)
        p, v, _ = loop(lambda state: step(m, state), steps, (p, v, forces(m, p)))
        return total(p * p) + total(v * v)

    return value


def tapefuse_formula(tp, n: int, steps: int):
    def forces(m, p):
        d = p[:, None, :] - p[:, :, None]
        s = 1 / (tp.sum(d * d, axis=0) + SOFTENING**2)
        return tp.sum(d * (m * s * tp.sqrt(s)), axis=-1)

    def value(m, pos, vel):
        p, v = pos.T, vel.T
        a = forces(m, p)
        for _ in range(steps):
            v = v + STEP / 2 * a
            p = p + STEP * v
            a = forces(m, p)
            v = v + STEP / 2 * a
        return tp.sum(p * p) + tp.sum(v * v)

    return value


def jax_formula(jnp, **options):
    import jax

    return formula(jnp, lambda step, count, s: jax.lax.fori_loop(0, count, lambda _, s: step(s), s), **options)


def torch_compile_formula(torch, **options):
    """Compiles a step; all of them in one graph would compile for minutes."""
    torch._dynamo.reset()
    return formula(torch, python_loop, **options, compiler=partial(torch.compile, dynamic=False))


def tensorflow_formula(tf, **options):
    def loop(step, count, state):
        body = lambda k, *state: (k + 1, *step(state))
        return tf.while_loop(lambda k, *state: k < count, body, (0, *state), maximum_iterations=count)[1:]

    return formula(tf, loop, **options)


def pytensor_formula(pt, **options):
    import pytensor

    def loop(step, count, state):
        body = lambda *state: step(state)
        return [x[-1] for x in pytensor.scan(body, outputs_info=list(state), n_steps=count, return_updates=False)]

    return formula(pt, loop, **options)


FORMULAS = {
    "tapefuse": tapefuse_formula,
    "jax": jax_formula,
    "torch": lambda torch, **options: formula(torch, python_loop, **options),
    "tensorflow": tensorflow_formula,
    "pytensor": pytensor_formula,
    "autograd": lambda anp, **options: formula(anp, python_loop, **options),
}
FRAMEWORKS = {
    "numba_by_hand": by_hand,
    **value_and_gradients(FORMULAS, by=None),
    "torch_compile": value_and_gradients({"torch": torch_compile_formula}, by=None)["torch"],
}
