"""One training step of a relu network: forward pass, cross-entropy, backward pass and update in one call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from benchmarks.case import Arrays, Case, Program

TITLE = "MLP training step"

SMALL, LARGE = (64, 64, 64, 10), (784, 256, 128, 10)
CASES = [
    Case("64-64-64-10, batch 32, Adam", "S", {"widths": SMALL, "batch": 32, "optimizer": "adam"}),
    Case("784-256-128-10, batch 32, Adam", "S", {"widths": LARGE, "batch": 32, "optimizer": "adam"}),
    Case("784-256-128-10, batch 32, SGD", "S", {"widths": LARGE, "batch": 32, "optimizer": "sgd"}),
    Case("784-256-128-10, batch 256, Adam", "M", {"widths": LARGE, "batch": 256, "optimizer": "adam"}),
    Case("784-256-128-10, batch 256, SGD", "M", {"widths": LARGE, "batch": 256, "optimizer": "sgd"}),
    Case("784-256-128-10, batch 1024, Adam", "L", {"widths": LARGE, "batch": 1024, "optimizer": "adam"}),
    Case("784-256-128-10, batch 1024, SGD", "L", {"widths": LARGE, "batch": 1024, "optimizer": "sgd"}),
]

RATES = {"adam": 1e-3, "sgd": 0.05}
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
CHECKED_STEPS = 3


def inputs(widths: Sequence[int], batch: int, **options) -> Arrays:
    """x[batch, inputs] in 0..1, labels y[batch], and for layer k w<k>[inputs, units], b<k>[units]."""
    rng = np.random.default_rng(1)
    arrays = {"x": rng.random((batch, widths[0]), np.float32), "y": rng.integers(0, widths[-1], batch)}
    for k, (n, m) in enumerate(pairwise(widths)):
        arrays[f"w{k}"] = (rng.standard_normal((n, m)) * np.sqrt(2 / n)).astype(np.float32)
        arrays[f"b{k}"] = (rng.standard_normal(m) / 10).astype(np.float32)
    return arrays


def layers_of(arrays: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(arrays[f"w{k}"], arrays[f"b{k}"]) for k in range((len(arrays) - 2) // 2)]


def results_of(losses: Sequence, layers: Sequence[tuple]) -> Arrays:
    """The losses of the checked steps, and the parameters after them."""
    named = {f"{kind}{k}": np.asarray(p) for k, pair in enumerate(layers) for kind, p in zip("wb", pair, strict=True)}
    return {"losses": np.array([np.asarray(loss) for loss in losses]), **named}


def reference(arrays: Arrays, optimizer: str, **options) -> Arrays:
    x, y = arrays["x"].astype(np.float64), arrays["y"]
    parameters = [p.astype(np.float64) for pair in layers_of(arrays) for p in pair]
    means, squares = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    losses = []
    for t in range(1, CHECKED_STEPS + 1):
        loss, gradients = _loss_and_gradients(parameters, x, y)
        losses.append(loss)
        for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
            m += (1 - BETA_1) * (g - m)
            v += (1 - BETA_2) * (g * g - v)
            scale = RATES[optimizer] * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
            p -= scale * m / (np.sqrt(v) + EPSILON) if optimizer == "adam" else RATES[optimizer] * g
    return results_of(losses, list(zip(parameters[::2], parameters[1::2], strict=True)))


def _loss_and_gradients(parameters: list[np.ndarray], x: np.ndarray, y: np.ndarray):
    weights, biases = parameters[::2], parameters[1::2]
    activations = [x]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        activations.append(np.maximum(activations[-1] @ w + b, 0))
    logits = activations[-1] @ weights[-1] + biases[-1]
    logits = logits - logits.max(axis=1, keepdims=True)
    log_likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    g = np.exp(log_likelihood)
    g[rows, y] -= 1
    g /= len(y)
    gradients = []
    for a, w in zip(reversed(activations), reversed(weights), strict=True):
        gradients[:0] = [a.T @ g, g.sum(axis=0)]
        g = (g @ w.T) * (a > 0)
    return -log_likelihood[rows, y].mean(), gradients


def with_tapefuse(arrays: Arrays, widths: Sequence[int], optimizer: str, **options) -> Program:
    import tapefuse as tp

    train_step, model = tapefuse_model(arrays, widths, optimizer)
    x, y = tp.constant(arrays["x"]), tp.constant(arrays["y"])
    return tapefuse_program(lambda: train_step(x, y), model)


def tapefuse_model(arrays: Arrays, widths: Sequence[int], optimizer: str, input_signature=None):
    """(train_step, layers)"""
    import tapefuse as tp
    from tapefuse import nn, optim

    model = [
        nn.Dense(units, "relu" if k < len(widths) - 1 else None, inputs=n)
        for k, (n, units) in enumerate(pairwise(widths), 1)
    ]
    for layer, (w, b) in zip(model, layers_of(arrays), strict=True):
        layer.kernel.assign(w)
        layer.bias.assign(b)
    variables = [v for layer in model for v in layer.trainable_variables]
    rate = RATES[optimizer]
    rule = optim.Adam(rate, BETA_1, BETA_2, EPSILON) if optimizer == "adam" else optim.SGD(rate)

    @tp.tape_function(input_signature=input_signature)
    def train_step(x, y):
        with tp.GradientTape() as tape:
            h = x
            for layer in model:
                h = layer(h)
            loss = nn.softmax_cross_entropy(h, y).mean()
        gradients = tape.gradient(loss, variables)
        rule.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return train_step, model


def tapefuse_program(step, model) -> Program:
    def results(first):
        losses = [first] + [step() for _ in range(CHECKED_STEPS - 1)]
        return results_of(losses, [(layer.kernel.numpy(), layer.bias.numpy()) for layer in model])

    return Program(step, results)


def with_jax(arrays: Arrays, optimizer: str, numpy_in: bool = False, **options) -> Program:
    """The state (parameters, slots, number of the step) is donated: XLA may update it in place."""
    from functools import partial

    import jax
    import jax.numpy as jnp

    def loss_of(layers, x, y):
        h = x
        for k, (w, b) in enumerate(layers):
            h = h @ w + b
            if k < len(layers) - 1:
                h = jax.nn.relu(h)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], axis=1))

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
    def train_step(state, x, y):
        loss, gradients = jax.value_and_grad(loss_of)(state[0], x, y)
        return (adam if optimizer == "adam" else sgd)(state, gradients), loss

    layers = jax.tree.map(jnp.asarray, layers_of(arrays))
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = (layers, zeros(layers), zeros(layers), jnp.zeros((), jnp.float32)) if optimizer == "adam" else (layers,)
    x, y = arrays["x"], arrays["y"].astype(np.int32)
    if not numpy_in:
        x, y = jnp.asarray(x), jnp.asarray(y)

    def step():
        nonlocal state
        state, loss = train_step(state, x, y)
        return loss.block_until_ready()

    def results(first):
        losses = [first] + [step() for _ in range(CHECKED_STEPS - 1)]
        return results_of(losses, state[0])

    return Program(step, results)


FRAMEWORKS = {"tapefuse": with_tapefuse, "jax": with_jax}
