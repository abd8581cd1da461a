"""Value and gradients of one formula, compiled by every framework the way its documentation does it.

A workload that is a scalar function of arrays gives the formula for each framework, with the module of its functions:

    FORMULAS = {"tapefuse": lambda xp: lambda x, w: xp.sum(xp.tanh(x) * w), "jax": ..., "torch": ..., ...}
    FRAMEWORKS = value_and_gradients(FORMULAS)         # by the first array; by=2: by the first two; by=None: by all

`xp` is tapefuse, jax.numpy, torch, tensorflow, pytensor.tensor or autograd.numpy; torch_compile and tensorflow_xla take
torch's and tensorflow's formulas. Arrays come in the order of the workload's inputs, options of the case as keywords
beside `xp`. Results are "value" and the gradients by the names of their arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Program

Formula = Callable[..., Callable[..., Any]]  # (module, **options) -> function of arrays
Evaluation = tuple[Callable[..., Any], Sequence[Any]]  # function -> (value, gradients), and its arguments
SAME_AS = {"torch_compile": "torch", "tensorflow_xla": "tensorflow"}


def value_and_gradients(formulas: Mapping[str, Formula], by: int | None = 1, numpy_in: bool = False) -> dict:
    """FRAMEWORKS of a workload. With `numpy_in` the arrays to differentiate by are NumPy's, and the value is a float,
    the gradients NumPy arrays, as scipy.optimize takes them; all other arrays are the framework's own."""
    return {
        name: partial(_program, name, formulas[SAME_AS.get(name, name)], by, numpy_in)
        for name in MAKERS
        if SAME_AS.get(name, name) in formulas
    }


def evaluation(
    name: str, formula: Formula, arrays: Arrays, by: int | None, numpy_in: bool, **options: Any
) -> Evaluation:
    """`function, xs` with function(*xs) -> (value, gradients); the gradient alone if there is one."""
    values = list(arrays.values())
    return MAKERS[name](partial(formula, **options), values, len(values) if by is None else by, numpy_in)


def _program(name: str, formula: Formula, by: int | None, numpy_in: bool, arrays: Arrays, **options: Any) -> Program:
    function, xs = evaluation(name, formula, arrays, by, numpy_in, **options)
    count = len(arrays) if by is None else by

    def results(first: tuple[Any, Any]) -> Arrays:
        value, gradients = first
        gradients = [gradients] if count == 1 else gradients
        return {"value": to_numpy(value), **{n: to_numpy(g) for n, g in zip(arrays, gradients, strict=False)}}

    return Program(partial(function, *xs), results)


def to_numpy(x: Any) -> np.ndarray:
    return x.detach().numpy() if hasattr(x, "detach") else np.asarray(x)


def _argnums(count: int) -> Any:
    """One array is asked for as users ask for one."""
    return 0 if count == 1 else tuple(range(count))


def _tapefuse(formula: Formula, arrays: list, count: int, numpy_in: bool) -> Evaluation:
    import tapefuse as tp

    outputs = "numpy" if numpy_in else "tensor"
    function = tp.tape_function(tp.value_and_grad(formula(tp), argnums=_argnums(count)), outputs=outputs)
    fixed = [tp.constant(a) for a in arrays[count:]]
    return function, [a if numpy_in else tp.constant(a) for a in arrays[:count]] + fixed


def _jax(formula: Formula, arrays: list, count: int, numpy_in: bool) -> Evaluation:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", any(a.dtype == np.float64 for a in arrays))
    function = jax.jit(jax.value_and_grad(formula(jnp), argnums=_argnums(count)))
    fixed = [jnp.asarray(a) for a in arrays[count:]]

    def evaluate(*xs: np.ndarray) -> tuple[float, Any]:
        value, gradients = function(*xs, *fixed)
        return float(value), np.asarray(gradients) if count == 1 else [np.asarray(g) for g in gradients]

    def native(*xs: Any) -> tuple[Any, Any]:
        value, gradients = function(*xs)
        return value.block_until_ready(), gradients  # all results of a program are ready together

    return (evaluate, arrays[:count]) if numpy_in else (native, [jnp.asarray(a) for a in arrays])


def _torch(formula: Formula, arrays: list, count: int, numpy_in: bool, compiled: bool = False) -> Evaluation:
    import torch

    function = formula(torch)
    fixed = [torch.from_numpy(a) for a in arrays[count:]]
    variable = lambda a: torch.from_numpy(a).requires_grad_(not compiled)

    def by_autograd(*xs: Any) -> tuple[Any, Any]:
        value = function(*xs)
        gradients = torch.autograd.grad(value, xs[:count])
        return value, gradients[0] if count == 1 else gradients

    native = _one_graph(function, count) if compiled else by_autograd

    def evaluate(*xs: np.ndarray) -> tuple[float, Any]:
        value, gradients = native(*map(variable, xs), *fixed)
        return value.item(), gradients.numpy() if count == 1 else [g.numpy() for g in gradients]

    xs = [variable(a) for a in arrays[:count]]
    return (evaluate, arrays[:count]) if numpy_in else (native, xs + fixed)


def _one_graph(function: Callable[..., Any], count: int) -> Callable[..., tuple[Any, Any]]:
    """Value and gradients compiled together: on small arrays several times faster than over a compiled value."""
    import torch

    torch._dynamo.reset()  # else what it has learned in another case is in this one's first call
    compiled = torch.compile(torch.func.grad_and_value(function, argnums=_argnums(count)), dynamic=False)
    return lambda *xs: compiled(*xs)[::-1]


def _tensorflow(formula: Formula, arrays: list, count: int, numpy_in: bool, xla: bool = False) -> Evaluation:
    import tensorflow as tf

    function = formula(tf)
    fixed = [tf.constant(a) for a in arrays[count:]]

    @tf.function(jit_compile=xla or None)
    def native(*xs: Any) -> tuple[Any, Any]:
        wanted = xs[0] if count == 1 else xs[:count]
        with tf.GradientTape() as tape:
            tape.watch(wanted)
            value = function(*xs)
        return value, tape.gradient(value, wanted)

    def evaluate(*xs: np.ndarray) -> tuple[float, Any]:
        value, gradients = native(*[tf.constant(x) for x in xs], *fixed)
        return float(value), gradients.numpy() if count == 1 else [g.numpy() for g in gradients]

    return (evaluate, arrays[:count]) if numpy_in else (native, [tf.constant(a) for a in arrays[:count]] + fixed)


def _pytensor(formula: Formula, arrays: list, count: int, numpy_in: bool) -> Evaluation:
    """Its native arrays are NumPy's. `trust_input` leaves out the checks of arguments."""
    import pytensor
    import pytensor.tensor as pt

    xs = [pt.tensor(f"x{k}", dtype=a.dtype, shape=a.shape) for k, a in enumerate(arrays)]
    value = formula(pt)(*xs)
    function = pytensor.function(xs, [value, *pytensor.grad(value, xs[:count])], mode="NUMBA")
    function.trust_input = True
    fixed = arrays[count:]

    def evaluate(*xs: np.ndarray) -> tuple[Any, Any]:
        value, *gradients = function(*xs, *fixed)
        return float(value) if numpy_in else value, gradients[0] if count == 1 else gradients

    return evaluate, arrays[:count]


def _autograd(formula: Formula, arrays: list, count: int, numpy_in: bool) -> Evaluation:
    import autograd
    import autograd.numpy as anp

    return autograd.value_and_grad(formula(anp), argnum=_argnums(count)), arrays


MAKERS: Mapping[str, Callable[..., Evaluation]] = {
    "tapefuse": _tapefuse,
    "jax": _jax,
    "torch": _torch,
    "torch_compile": partial(_torch, compiled=True),
    "tensorflow": _tensorflow,
    "tensorflow_xla": partial(_tensorflow, xla=True),
    "pytensor": _pytensor,
    "autograd": _autograd,
}
