"""What a call costs: value and gradient of the sum of sin(x) * x over arrays of 8 float32, native arrays."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case, Program

TITLE = "Dispatch"

CASES = [
    Case("1 array", "S", {"count": 1}),
    Case("5 arrays", "S", {"count": 5}),
    Case("20 arrays", "S", {"count": 20}),
    Case("60 arrays", "S", {"count": 60}),
    Case("dict of 20 arrays", "S", {"count": 20, "named": True}),
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

    def of_arrays(*xs):
        return sum(tp.sum(tp.sin(x) * x) for x in xs)

    def of_dict(xs):
        return of_arrays(*xs.values())

    xs = {name: tp.constant(x) for name, x in arrays.items()}
    if named:
        function = tp.tape_function(tp.value_and_grad(of_dict))
        return Program(lambda: function(xs), lambda first: _results(first[0], first[1]))
    if count == 1:
        (x,) = xs.values()
        function = tp.tape_function(tp.value_and_grad(of_arrays))
        return Program(lambda: function(x), lambda first: _results(first[0], {"x00": first[1]}))
    positional = tuple(xs.values())
    function = tp.tape_function(tp.value_and_grad(of_arrays, argnums=tuple(range(count))))
    return Program(lambda: function(*positional), lambda first: _results(first[0], dict(zip(xs, first[1], strict=True))))


def with_jax(arrays: Arrays, count: int, named: bool = False) -> Program:
    import jax
    import jax.numpy as jnp

    def of_arrays(*xs):
        return sum(jnp.sum(jnp.sin(x) * x) for x in xs)

    def of_dict(xs):
        return of_arrays(*xs.values())

    def finished(results):  # one program: its outputs are ready together
        results[0].block_until_ready()
        return results

    xs = {name: jnp.asarray(x) for name, x in arrays.items()}
    if named:
        function = jax.jit(jax.value_and_grad(of_dict))
        return Program(lambda: finished(function(xs)), lambda first: _results(first[0], first[1]))
    if count == 1:
        (x,) = xs.values()
        function = jax.jit(jax.value_and_grad(of_arrays))
        return Program(lambda: finished(function(x)), lambda first: _results(first[0], {"x00": first[1]}))
    positional = tuple(xs.values())
    function = jax.jit(jax.value_and_grad(of_arrays, argnums=tuple(range(count))))
    return Program(
        lambda: finished(function(*positional)), lambda first: _results(first[0], dict(zip(xs, first[1], strict=True)))
    )


def _results(value, gradients) -> Arrays:
    return {"value": np.asarray(value), **{name: np.asarray(g) for name, g in gradients.items()}}


FRAMEWORKS = {"tapefuse": with_tapefuse, "jax": with_jax}
