"""A training step of one loss in every peer: loss, gradients and the optimizer's update in one call.

A workload gives the loss for each framework, with the module of its functions, as in `benchmarks.gradients`:

    LOSSES = {"jax": lambda xp, **options: lambda p, x, y: xp.mean((x @ p["w"] - y) ** 2), ...}
    FRAMEWORKS = {"tapefuse": ..., **training_steps(LOSSES)}

The workload's inputs that DATA names are the loss's other arguments, all others are parameters by name. Its options say
`optimizer`, "sgd" or "adam". Results are the losses of the first CHECKED_STEPS steps and the parameters after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Program
from benchmarks.gradients import SAME_AS, Formula, to_numpy

DATA = ("x", "y")
RATES = {"adam": 1e-3, "sgd": 0.05}
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
CHECKED_STEPS = 3

Step = Callable[[], Any]
Setup = tuple[Step, Callable[[], Mapping[str, Any]]]  # the step, and what gives the parameters


def training_steps(losses: Mapping[str, Formula], eager: bool = False) -> dict[str, Callable[..., Program]]:
    """FRAMEWORKS of a workload, for the frameworks that have a loss; with `eager` of those that need no compiled step,
    which is then none."""
    return {
        name: partial(_program, make, losses[SAME_AS.get(name, name)])
        for name, make in (EAGER_MAKERS if eager else MAKERS).items()
        if SAME_AS.get(name, name) in losses
    }


def reference_steps(loss_and_gradients: Callable[..., tuple[Any, Arrays]], arrays: Arrays, optimizer: str) -> Arrays:
    """The results in float64. `loss_and_gradients(parameters, *data)`, all by name."""
    parameters = {name: a.astype(np.float64) for name, a in arrays.items() if name not in DATA}
    data = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in map(arrays.__getitem__, _data(arrays))]
    means, squares = ({name: np.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    losses = []
    for t in range(1, CHECKED_STEPS + 1):
        loss, gradients = loss_and_gradients(parameters, *data)
        losses.append(loss)
        for name, g in gradients.items():
            p, m, v = parameters[name], means[name], squares[name]
            m += (1 - BETA_1) * (g - m)
            v += (1 - BETA_2) * (g * g - v)
            scale = RATES[optimizer] * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
            p -= scale * m / (np.sqrt(v) + EPSILON) if optimizer == "adam" else RATES[optimizer] * g
    return results_of(losses, parameters)


def results_of(losses: list[Any], parameters: Mapping[str, Any]) -> Arrays:
    found = np.array([to_numpy(loss) for loss in losses])
    return {"losses": found, **{name: to_numpy(p) for name, p in parameters.items()}}


def program_of(step: Step, parameters: Callable[[], Mapping[str, Any]]) -> Program:
    """The program that a step makes, checked by a few more steps."""

    def results(first: Any) -> Arrays:
        losses = [to_numpy(first).copy(), *[to_numpy(step()).copy() for _ in range(CHECKED_STEPS - 1)]]
        return results_of(losses, parameters())

    return Program(step, results)


def _program(make: Callable[..., Setup], loss: Formula, arrays: Arrays, optimizer: str, **options: Any) -> Program:
    parameters = {name: a for name, a in arrays.items() if name not in DATA}
    data = [arrays[name] for name in _data(arrays)]
    return program_of(*make(partial(loss, **options), parameters, data, optimizer))


def _data(arrays: Arrays) -> list[str]:
    return [name for name in DATA if name in arrays]


def _tapefuse(loss: Formula, parameters: Arrays, data: list, optimizer: str, eager: bool = False) -> Setup:
    import tapefuse as tp
    from tapefuse import optim

    variables = {name: tp.Variable(p) for name, p in parameters.items()}
    rate = RATES[optimizer]
    rule = optim.Adam(rate, BETA_1, BETA_2, EPSILON) if optimizer == "adam" else optim.SGD(rate)
    function = loss(tp)

    def train_step(*data):
        with tp.GradientTape() as tape:
            value = function(variables, *data)
        gradients = tape.gradient(value, variables)
        rule.apply_gradients([(gradients[name], v) for name, v in variables.items()])
        return value

    native = [tp.constant(a) for a in data]
    step = train_step if eager else tp.tape_function(train_step)
    return partial(step, *native), lambda: {name: v.numpy() for name, v in variables.items()}


def _jax(loss: Formula, parameters: Arrays, data: list, optimizer: str) -> Setup:
    """The state (parameters, slots, number of the step) is donated: XLA may update it in place."""
    import jax
    import jax.numpy as jnp

    function = loss(jnp)

    def adam(state, gradients):
        layers, means, squares, t = state
        t = t + 1
        means = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), means, gradients)
        squares = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), squares, gradients)
        rate = RATES["adam"] * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        layers = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), layers, means, squares)
        return layers, means, squares, t

    def sgd(state, gradients):
        return (jax.tree.map(lambda p, g: p - RATES["sgd"] * g, state[0], gradients),)

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, *data):
        value, gradients = jax.value_and_grad(function)(state[0], *data)
        return (adam if optimizer == "adam" else sgd)(state, gradients), value

    layers = {name: jnp.asarray(p) for name, p in parameters.items()}
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = (layers, zeros(layers), zeros(layers), jnp.zeros((), jnp.float32)) if optimizer == "adam" else (layers,)
    native = [jnp.asarray(a) for a in data]

    def step():
        nonlocal state
        state, value = train_step(state, *native)
        return value.block_until_ready()

    return step, lambda: state[0]


def _torch(loss: Formula, parameters: Arrays, data: list, optimizer: str) -> Setup:
    """Adam in one fused kernel."""
    import torch

    variables = {name: torch.tensor(p, requires_grad=True) for name, p in parameters.items()}
    rate, ps, function = RATES[optimizer], list(variables.values()), loss(torch)
    # torch adds epsilon when the square mean's bias is corrected, the others before: in the first step this is the same
    epsilon = EPSILON / np.sqrt(1 - BETA_2)
    adam = optimizer == "adam"
    rule = torch.optim.Adam(ps, rate, (BETA_1, BETA_2), epsilon, fused=True) if adam else torch.optim.SGD(ps, rate)
    native = [torch.from_numpy(a) for a in data]

    def step():
        rule.zero_grad()
        value = function(variables, *native)
        value.backward()
        rule.step()
        return value.detach()

    return step, lambda: variables


def _torch_compile(loss: Formula, parameters: Arrays, data: list, optimizer: str) -> Setup:
    """Loss, gradients and update in one compiled function: much faster than a compiled loss and torch.optim's step."""
    import torch

    torch._dynamo.reset()  # else what it has learned in another case is in this one's first call
    function = torch.func.grad_and_value(loss(torch))
    variables, means, squares = ({name: torch.tensor(p) for name, p in parameters.items()} for _ in range(3))
    for slot in (*means.values(), *squares.values()):
        slot.zero_()

    def adam(gradients, t):
        t.add_(1)
        scale = RATES["adam"] * torch.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        for name, p in variables.items():
            g, m, v = gradients[name], means[name], squares[name]
            m.add_(g - m, alpha=1 - BETA_1)
            v.add_(g * g - v, alpha=1 - BETA_2)
            p.sub_(scale * m / (torch.sqrt(v) + EPSILON))

    @torch.compile(dynamic=False)
    def train_step(t, *data):
        gradients, value = function(variables, *data)
        if optimizer == "adam":
            adam(gradients, t)
        else:
            for name, p in variables.items():
                p.sub_(gradients[name], alpha=RATES["sgd"])
        return value

    native = [torch.from_numpy(a) for a in data]
    return partial(train_step, torch.zeros(()), *native), lambda: variables


def _tensorflow(
    loss: Formula, parameters: Arrays, data: list, optimizer: str, xla: bool = False, eager: bool = False
) -> Setup:
    import tensorflow as tf

    variables = {name: tf.Variable(p) for name, p in parameters.items()}
    rate, function = RATES[optimizer], loss(tf)
    adam = tf.keras.optimizers.Adam(rate, BETA_1, BETA_2, EPSILON) if optimizer == "adam" else None
    if adam:
        adam.build(list(variables.values()))

    def train_step(*data):
        with tf.GradientTape() as tape:
            value = function(variables, *data)
        gradients = tape.gradient(value, variables)
        pairs = [(gradients[name], v) for name, v in variables.items()]
        if adam:
            adam.apply_gradients(pairs)
        else:
            for g, v in pairs:
                v.assign_sub(rate * g)
        return value

    native = [tf.constant(a) for a in data]
    step = train_step if eager else tf.function(train_step, jit_compile=xla or None)
    return partial(step, *native), lambda: variables


def _pytensor(loss: Formula, parameters: Arrays, data: list, optimizer: str) -> Setup:
    """Its native arrays are NumPy's, its variables shared ones that a function updates."""
    import pytensor
    import pytensor.tensor as pt

    rate = np.float32(RATES[optimizer])
    variables = {name: pytensor.shared(p, name=name) for name, p in parameters.items()}
    xs = [pt.tensor(f"x{k}", dtype=a.dtype, shape=a.shape) for k, a in enumerate(data)]
    value = loss(pt)(variables, *xs)
    gradients = dict(zip(variables, pytensor.grad(value, list(variables.values())), strict=True))
    updates: dict[Any, Any] = {}
    if optimizer == "adam":
        t = pytensor.shared(np.float32(0))
        updates[t] = t + np.float32(1)
        scale = rate * pt.sqrt(1 - np.float32(BETA_2) ** updates[t]) / (1 - np.float32(BETA_1) ** updates[t])
        for name, p in variables.items():
            m, v = (pytensor.shared(np.zeros_like(parameters[name])) for _ in range(2))
            updates[m] = m + np.float32(1 - BETA_1) * (gradients[name] - m)
            updates[v] = v + np.float32(1 - BETA_2) * (gradients[name] ** 2 - v)
            updates[p] = p - scale * updates[m] / (pt.sqrt(updates[v]) + np.float32(EPSILON))
    else:
        updates = {p: p - rate * gradients[name] for name, p in variables.items()}
    function = pytensor.function(xs, value, updates=updates, mode="NUMBA")
    function.trust_input = True
    return partial(function, *data), lambda: {name: v.get_value() for name, v in variables.items()}


def _autograd(loss: Formula, parameters: Arrays, data: list, optimizer: str) -> Setup:
    """The update is NumPy's, in place."""
    import autograd
    import autograd.numpy as anp

    variables = {name: p.copy() for name, p in parameters.items()}
    means, squares = ({name: np.zeros_like(p) for name, p in variables.items()} for _ in range(2))
    function = autograd.value_and_grad(loss(anp))
    t = 0

    def step():
        nonlocal t
        t += 1
        value, gradients = function(variables, *data)
        for name, p in variables.items():
            g, m, v = gradients[name], means[name], squares[name]
            if optimizer == "sgd":
                p -= RATES["sgd"] * g
                continue
            m += (1 - BETA_1) * (g - m)
            v += (1 - BETA_2) * (g * g - v)
            p -= RATES["adam"] * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t) * m / (np.sqrt(v) + EPSILON)
        return value

    return step, lambda: variables


MAKERS: Mapping[str, Callable[..., Setup]] = {
    "tapefuse": _tapefuse,
    "jax": _jax,
    "torch": _torch,
    "torch_compile": _torch_compile,
    "tensorflow": _tensorflow,
    "tensorflow_xla": partial(_tensorflow, xla=True),
    "pytensor": _pytensor,
    "autograd": _autograd,
}
EAGER_MAKERS: Mapping[str, Callable[..., Setup]] = {
    "tapefuse": partial(_tapefuse, eager=True),
    "torch": _torch,
    "tensorflow": partial(_tensorflow, eager=True),
    "autograd": _autograd,
}
