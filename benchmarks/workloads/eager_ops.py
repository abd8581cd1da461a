"""What an eager operation costs: 50 times the same one on 8 float32, alone, or on a tape and with the gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import to_numpy

TITLE = "Eager operations"

REPEATED = 50
# name -> next x of x[8] from y[8] and w[8,8]; sin, product and sum are the framework's
OPERATIONS: dict[str, Callable[..., Any]] = {
    "sin(x)": lambda xp, x, y, w: xp.sin(x),
    "x * y": lambda xp, x, y, w: x * y,
    "x + 1.0": lambda xp, x, y, w: x + 1.0,
    "x @ w": lambda xp, x, y, w: xp.product(x, w),
    "sum(x) * y": lambda xp, x, y, w: xp.sum(x) * y,
    "x + x[0]": lambda xp, x, y, w: x + x[0],
    "reshape(x)": lambda xp, x, y, w: xp.reshape(xp.reshape(x, (2, 4)), (8,)),
}
CASES = [
    Case(f"{name}, {'forward and gradient' if gradient else 'forward'}", "S", {"name": name, "gradient": gradient})
    for gradient in (False, True)
    for name in OPERATIONS
]


def inputs(name: str, gradient: bool) -> Arrays:
    rng = np.random.default_rng(1)
    w = np.eye(8) + rng.uniform(-0.01, 0.01, (8, 8))
    x, y = rng.uniform(0.5, 1, 8), rng.uniform(0.95, 1.05, 8) / (8 if name == "sum(x) * y" else 1)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "w": w.astype(np.float32)}


def reference(arrays: Arrays, name: str, gradient: bool) -> Arrays:
    """The gradient of the sum from the Jacobian of one operation at a time, by central differences in float64."""
    x, y, w = (arrays[k].astype(np.float64) for k in "xyw")
    jacobian = np.eye(8)
    for _ in range(REPEATED):
        step = 1e-6 * np.abs(x).max()
        moved = [_next(NUMPY, name, x + step * e, y, w) - _next(NUMPY, name, x - step * e, y, w) for e in np.eye(8)]
        jacobian = np.stack(moved, 1) / (2 * step) @ jacobian
        x = _next(NUMPY, name, x, y, w)
    return {"value": x, **({"x": jacobian.sum(0)} if gradient else {})}


def _next(xp: Any, name: str, x: Any, y: Any, w: Any) -> Any:
    return OPERATIONS[name](xp, x, y, w)


class Functions:
    """What `OPERATIONS` needs of a framework."""

    def __init__(self, xp: Any, product: Callable[[Any, Any], Any], total: Callable[[Any], Any]):
        self.sin, self.reshape, self.product, self.sum = xp.sin, xp.reshape, product, total


def _by_operator(x: Any, w: Any) -> Any:
    return x @ w


NUMPY = Functions(np, _by_operator, np.sum)


def _chain(xp: Functions, name: str, y: Any, w: Any) -> Callable[[Any], Any]:
    operation = OPERATIONS[name]

    def chain(x: Any) -> Any:
        for _ in range(REPEATED):
            x = operation(xp, x, y, w)
        return x

    return chain


def _program(step: Callable[[], Any], gradient: bool) -> Program:
    """`step` gives the last x, and its gradient if that is asked for."""

    def results(first: Any) -> Arrays:
        return {"value": to_numpy(first[0]), "x": to_numpy(first[1])} if gradient else {"value": to_numpy(first)}

    return Program(step, results)


def _taped(tape_of: Callable[[], Any], chain: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    with tape_of() as tape:
        tape.watch(x)
        last = chain(x)
    return last, tape.gradient(last, x)


def with_tapefuse(arrays: Arrays, name: str, gradient: bool) -> Program:
    import tapefuse as tp

    x, y, w = (tp.constant(arrays[k]) for k in "xyw")
    chain = _chain(Functions(tp, _by_operator, tp.sum), name, y, w)

    return _program(partial(_taped, tp.GradientTape, chain, x) if gradient else partial(chain, x), gradient)


def with_torch(arrays: Arrays, name: str, gradient: bool) -> Program:
    import torch

    x, y, w = (torch.from_numpy(arrays[k]) for k in "xyw")
    chain = _chain(Functions(torch, _by_operator, torch.sum), name, y, w)
    ones = torch.ones(8)

    def differentiated():
        last = chain(x)
        return last, torch.autograd.grad(last, x, ones)[0]

    x.requires_grad_(gradient)
    return _program(differentiated if gradient else partial(chain, x), gradient)


def with_tensorflow(arrays: Arrays, name: str, gradient: bool) -> Program:
    import tensorflow as tf

    x, y, w = (tf.constant(arrays[k]) for k in "xyw")
    product = lambda x, w: tf.linalg.matvec(w, x, transpose_a=True)
    chain = _chain(Functions(tf, product, tf.reduce_sum), name, y, w)

    return _program(partial(_taped, tf.GradientTape, chain, x) if gradient else partial(chain, x), gradient)


def with_autograd(arrays: Arrays, name: str, gradient: bool) -> Program:
    import autograd
    import autograd.numpy as anp

    x, y, w = (arrays[k] for k in "xyw")
    chain = _chain(Functions(anp, _by_operator, anp.sum), name, y, w)

    def differentiated():
        pull, last = autograd.make_vjp(chain)(x)
        return last, pull(np.ones_like(last))

    return _program(differentiated if gradient else partial(chain, x), gradient)


FRAMEWORKS = {
    "tapefuse": with_tapefuse,
    "torch": with_torch,
    "tensorflow": with_tensorflow,
    "autograd": with_autograd,
}
