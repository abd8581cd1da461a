"""What a call costs: value and gradient of the sum of sin(x) * x over arrays of 8 float32, native arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Case, Program

TITLE = "Dispatch"

CASES = [
    Case("1 array", "S", {"count": 1}),
    Case("5 arrays", "S", {"count": 5}),
    Case("20 arrays", "S", {"count": 20}),
    Case("60 arrays", "S", {"count": 60}),
    Case("a dict of 20 arrays", "S", {"count": 20, "named": True}),
]


def inputs(count: int, named: bool = False) -> Arrays:
    rng = np.random.default_rng(1)
    return {f"x{k:02}": rng.standard_normal(8).astype(np.float32) for k in range(count)}


def reference(arrays: Arrays, count: int, named: bool = False) -> Arrays:
    xs = {name: x.astype(np.float64) for name, x in arrays.items()}
    gradients = {name: np.cos(x) * x + np.sin(x) for name, x in xs.items()}
    return {"value": np.asarray(sum(np.sum(np.sin(x) * x) for x in xs.values())), **gradients}


def with_tapefuse(arrays: Arrays, count: int, named: bool = False) -> Program:
    import tapefuse as tp

    of_one = lambda x: tp.sum(tp.sin(x) * x)
    xs = {name: tp.constant(x) for name, x in arrays.items()}
    return _program(_function(of_one, tp.value_and_grad, tp.tape_function, count, named), xs, named)


def with_jax(arrays: Arrays, count: int, named: bool = False) -> Program:
    import jax
    import jax.numpy as jnp

    of_one = lambda x: jnp.sum(jnp.sin(x) * x)
    compiled = _function(of_one, jax.value_and_grad, jax.jit, count, named)

    def function(*args):
        value, gradients = compiled(*args)
        return value.block_until_ready(), gradients  # all results of a program are ready together

    return _program(function, {name: jnp.asarray(x) for name, x in arrays.items()}, named)


def _function(of_one: Callable, value_and_grad: Callable, compiler: Callable, count: int, named: bool) -> Callable:
    """The compiled function of one array, of `count` arrays, or of a dict of arrays, as a user would write it."""
    if named:
        return compiler(value_and_grad(lambda xs: sum(of_one(x) for x in xs.values())))
    if count == 1:
        return compiler(value_and_grad(of_one))
    return compiler(value_and_grad(lambda *xs: sum(map(of_one, xs)), argnums=tuple(range(count))))


def _program(function: Callable, xs: dict[str, Any], named: bool) -> Program:
    args = (xs,) if named else tuple(xs.values())

    def results(first):
        value, gradients = first
        if not named:
            gradients = dict(zip(xs, gradients if len(xs) > 1 else [gradients], strict=True))
        return {"value": np.asarray(value), **{name: np.asarray(g) for name, g in gradients.items()}}

    return Program(lambda: function(*args), results)


FRAMEWORKS = {"tapefuse": with_tapefuse, "jax": with_jax}
