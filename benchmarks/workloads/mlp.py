"""One training step of a relu network: forward pass, cross-entropy, backward pass and update in one call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.training import BETA_1, BETA_2, EPSILON, RATES, program_of, reference_steps, training_steps

TITLE = "MLP training step"

SMALL, DIGITS, LARGE = (64, 64, 64, 10), (64, 128, 64, 10), (784, 256, 128, 10)
CASES = [
    Case("64-64-64-10, batch 32, Adam", "S", {"widths": SMALL, "batch": 32, "optimizer": "adam"}),
    Case("64-64-64-10, batch 32, SGD", "S", {"widths": SMALL, "batch": 32, "optimizer": "sgd"}),
    Case(
        "64-128-64-10, any batch size, here 32, Adam",
        "S",
        {"widths": DIGITS, "batch": 32, "optimizer": "adam", "any_batch": True},
    ),
    Case("784-256-128-10, batch 32, Adam", "S", {"widths": LARGE, "batch": 32, "optimizer": "adam"}),
    Case("784-256-128-10, batch 32, SGD", "S", {"widths": LARGE, "batch": 32, "optimizer": "sgd"}),
    Case("784-256-128-10, batch 256, Adam", "M", {"widths": LARGE, "batch": 256, "optimizer": "adam"}),
    Case("784-256-128-10, batch 256, SGD", "M", {"widths": LARGE, "batch": 256, "optimizer": "sgd"}),
    Case("784-256-128-10, batch 1024, Adam", "L", {"widths": LARGE, "batch": 1024, "optimizer": "adam"}),
    Case("784-256-128-10, batch 1024, SGD", "L", {"widths": LARGE, "batch": 1024, "optimizer": "sgd"}),
]


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


def reference(arrays: Arrays, widths: Sequence[int], optimizer: str, **options) -> Arrays:
    return reference_steps(partial(_loss_and_gradients, depth=len(widths) - 1), arrays, optimizer)


def _loss_and_gradients(parameters: Arrays, x: np.ndarray, y: np.ndarray, depth: int):
    weights, biases = ([parameters[f"{kind}{k}"] for k in range(depth)] for kind in "wb")
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
    gradients = {}
    for k in reversed(range(depth)):
        gradients[f"w{k}"], gradients[f"b{k}"] = activations[k].T @ g, g.sum(axis=0)
        g = (g @ weights[k].T) * (activations[k] > 0)
    return -log_likelihood[rows, y].mean(), gradients


def with_tapefuse(arrays: Arrays, widths: Sequence[int], optimizer: str, any_batch: bool = False, **options) -> Program:
    """`any_batch`: the step is compiled once for every batch size, as in examples/digits.py."""
    import tapefuse as tp

    signature = [tp.TensorSpec(("B", widths[0]), np.float32), tp.TensorSpec(("B",), np.int64)] if any_batch else None
    train_step, model = tapefuse_model(arrays, widths, optimizer, signature)
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
    def parameters():
        pairs = [
            (f"{kind}{k}", v)
            for k, layer in enumerate(model)
            for kind, v in zip("wb", (layer.kernel, layer.bias), strict=True)
        ]
        return {name: v.numpy() for name, v in pairs}

    return program_of(step, parameters)


def network(p, x, relu, depth: int):
    """The logits."""
    for k in range(depth - 1):
        x = relu(x @ p[f"w{k}"] + p[f"b{k}"])
    return x @ p[f"w{depth - 1}"] + p[f"b{depth - 1}"]


def jax_loss(jnp, widths, **options):
    import jax

    def loss(p, x, y):
        z = network(p, x, jax.nn.relu, len(widths) - 1)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))

    return loss


def torch_loss(torch, widths, **options):
    return lambda p, x, y: torch.nn.functional.cross_entropy(network(p, x, torch.relu, len(widths) - 1), y)


def tensorflow_loss(tf, widths, **options):
    def loss(p, x, y):
        z = network(p, x, tf.nn.relu, len(widths) - 1)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z))

    return loss


def pytensor_loss(pt, widths, batch, **options):
    def loss(p, x, y):
        z = network(p, x, lambda h: pt.maximum(h, np.float32(0)), len(widths) - 1)
        return -pt.mean(pt.special.log_softmax(z, axis=1)[pt.arange(batch), y])

    return loss


def autograd_loss(anp, widths, batch, **options):
    from autograd.scipy.special import logsumexp

    def loss(p, x, y):
        z = network(p, x, lambda h: anp.maximum(h, 0), len(widths) - 1)
        return anp.mean(logsumexp(z, axis=1) - z[anp.arange(batch), y])

    return loss


LOSSES = {
    "jax": jax_loss,
    "torch": torch_loss,
    "tensorflow": tensorflow_loss,
    "pytensor": pytensor_loss,
    "autograd": autograd_loss,
}
FRAMEWORKS = {"tapefuse": with_tapefuse, **training_steps(LOSSES)}
