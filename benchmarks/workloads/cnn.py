"""One training step of a small convolutional network: two of 3x3 convolution (same), relu, max pooling; then 10 logits.

Images are [batch, row, column, channel], kernels [row, column, in, out]; torch has its own order of axes.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.training import reference_steps, training_steps

TITLE = "CNN training step"

CASES = [
    Case(f"batch {batch}, SGD", size, {"batch": batch, "optimizer": "sgd"})
    for size, batch in (("S", 32), ("M", 128), ("L", 256))
]
MISSING = {
    "pytensor": "has no convolution of images with channels in mode NUMBA",
    "autograd": "has no convolution of images with channels but scipy's generic one, which takes seconds",
}


def inputs(batch: int, optimizer: str) -> Arrays:
    rng = np.random.default_rng(1)
    normal = lambda *shape, fan: (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
    return {
        "x": rng.random((batch, 28, 28, 1), np.float32) - np.float32(0.5),
        "y": rng.integers(0, 10, batch),
        "k1": normal(3, 3, 1, 16, fan=9),
        "b1": normal(16, fan=200),
        "k2": normal(3, 3, 16, 32, fan=9 * 16),
        "b2": normal(32, fan=200),
        "w": normal(7 * 7 * 32, 10, fan=7 * 7 * 32),
        "b": normal(10, fan=200),
    }


def reference(arrays: Arrays, batch: int, optimizer: str) -> Arrays:
    return reference_steps(loss_and_gradients, arrays, optimizer)


def loss_and_gradients(p: Arrays, x: np.ndarray, y: np.ndarray) -> tuple[float, dict]:
    a1 = _convolution(x, p["k1"]) + p["b1"]
    h1, where1 = _pooled(np.maximum(a1, 0))
    a2 = _convolution(h1, p["k2"]) + p["b2"]
    h2, where2 = _pooled(np.maximum(a2, 0))
    h = h2.reshape(len(x), -1)
    logits = h @ p["w"] + p["b"]
    logits = logits - logits.max(axis=1, keepdims=True)
    likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    g = np.exp(likelihood)
    g[rows, y] -= 1
    g /= len(y)
    g2 = _unpooled((g @ p["w"].T).reshape(h2.shape), where2) * (a2 > 0)
    k2, back = _convolution_gradients(h1, p["k2"], g2)
    g1 = _unpooled(back, where1) * (a1 > 0)
    k1, _ = _convolution_gradients(x, p["k1"], g1)
    gradients = {"k1": k1, "b1": g1.sum((0, 1, 2)), "k2": k2, "b2": g2.sum((0, 1, 2)), "w": h.T @ g, "b": g.sum(0)}
    return -likelihood[rows, y].mean(), gradients


def _convolution(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    return sum(x_ij @ k[i, j] for i, j, x_ij in _windows(x))


def _windows(x: np.ndarray):
    """What each of the 3x3 taps of a kernel sees."""
    rows, columns = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [(i, j, padded[:, i : i + rows, j : j + columns]) for i in range(3) for j in range(3)]


def _convolution_gradients(x: np.ndarray, k: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for_k = np.stack([np.tensordot(x_ij, g, ((0, 1, 2), (0, 1, 2))) for _, _, x_ij in _windows(x)]).reshape(k.shape)
    return for_k, _convolution(g, k[::-1, ::-1].swapaxes(2, 3))


def _pooled(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of 2x2 blocks, and which of the four each one is."""
    n, rows, columns, channels = h.shape
    blocks = h.reshape(n, rows // 2, 2, columns // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4)
    where = blocks.argmax(axis=1)
    return blocks[np.arange(len(blocks)), where].reshape(n, rows // 2, columns // 2, channels), where


def _unpooled(g: np.ndarray, where: np.ndarray) -> np.ndarray:
    n, rows, columns, channels = g.shape
    blocks = np.zeros((g.size, 4))
    blocks[np.arange(g.size), where] = g.ravel()
    blocks = blocks.reshape(n, rows, columns, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, 2 * rows, 2 * columns, channels)


def tapefuse_loss(tp, batch: int):
    from tapefuse import nn

    def layer(h, k, b):
        return nn.max_pool2d(tp.relu(nn.conv2d(h, k, padding="same") + b))

    def loss(p, x, y):
        h = layer(layer(x, p["k1"], p["b1"]), p["k2"], p["b2"]).reshape(batch, -1)
        return nn.softmax_cross_entropy(h @ p["w"] + p["b"], y).mean()

    return loss


def jax_loss(jnp, batch: int):
    import jax

    def layer(h, k, b):
        h = jax.lax.conv_general_dilated(h, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.lax.reduce_window(jax.nn.relu(h + b), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def loss(p, x, y):
        h = layer(layer(x, p["k1"], p["b1"]), p["k2"], p["b2"]).reshape(batch, -1)
        likelihood = jax.nn.log_softmax(h @ p["w"] + p["b"])
        return -jnp.mean(jnp.take_along_axis(likelihood, y[:, None], axis=1))

    return loss


def torch_loss(torch, batch: int):
    F = torch.nn.functional

    def loss(p, x, y):
        h = F.max_pool2d(F.relu(F.conv2d(x, p["k1"], p["b1"], padding=1)), 2)
        h = F.max_pool2d(F.relu(F.conv2d(h, p["k2"], p["b2"], padding=1)), 2)
        return F.cross_entropy(F.linear(h.flatten(1), p["w"], p["b"]), y)

    return loss


def tensorflow_loss(tf, batch: int):
    def layer(h, k, b):
        return tf.nn.max_pool2d(tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(h, k, 1, "SAME"), b)), 2, 2, "VALID")

    def loss(p, x, y):
        h = layer(layer(x, p["k1"], p["b1"]), p["k2"], p["b2"])
        logits = tf.reshape(h, (batch, -1)) @ p["w"] + p["b"]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

    return loss


TORCH_AXES = {"x": (0, 3, 1, 2), "k1": (3, 2, 0, 1), "k2": (3, 2, 0, 1), "w": (1, 0)}


def in_torch_order(train, arrays: Arrays, **options) -> Program:
    """`train` with arrays whose axes are in torch's order: [batch, channel, row, column], [out, in, row, column]."""
    order = np.arange(7 * 7 * 32).reshape(7, 7, 32).transpose(2, 0, 1).ravel()
    theirs = {**arrays, "w": arrays["w"][order]}
    theirs = {n: np.ascontiguousarray(a.transpose(TORCH_AXES.get(n, range(a.ndim)))) for n, a in theirs.items()}
    program = train(theirs, **options)

    def results(first) -> Arrays:
        found = program.results(first)
        ours = {n: a.transpose(np.argsort(TORCH_AXES.get(n, range(a.ndim)))) for n, a in found.items()}
        return {**ours, "w": ours["w"][np.argsort(order)]}

    return Program(program.step, results)


LOSSES = {"tapefuse": tapefuse_loss, "jax": jax_loss, "torch": torch_loss, "tensorflow": tensorflow_loss}
FRAMEWORKS = training_steps(LOSSES)
FRAMEWORKS |= {name: partial(in_torch_order, FRAMEWORKS[name]) for name in ("torch", "torch_compile")}
