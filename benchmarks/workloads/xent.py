"""Cross-entropy of logits z and labels y, the mean of logsumexp(z_i) - z_{i, y_i}, and its gradient by z; float32."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Cross-entropy"

CASES = [
    Case(f"{rows:,} x {columns:,}", size, {"rows": rows, "columns": columns})
    for size, rows, columns in (("S", 32, 10), ("M", 1024, 1000), ("L", 2048, 10_000))
]


def inputs(rows: int, columns: int) -> Arrays:
    rng = np.random.default_rng(1)
    return {"z": 2 * rng.standard_normal((rows, columns), np.float32), "y": rng.integers(0, columns, rows)}


def reference(arrays: Arrays, rows: int, columns: int) -> Arrays:
    z, chosen = arrays["z"].astype(np.float64), (np.arange(rows), arrays["y"])
    z -= z.max(axis=1, keepdims=True)
    sums = np.exp(z).sum(axis=1, keepdims=True)
    gradient = np.exp(z) / sums
    gradient[chosen] -= 1
    return {"value": np.mean(np.log(sums[:, 0]) - z[chosen]), "z": gradient / rows}


def with_tapefuse(tp, rows, columns):
    return lambda z, y: tp.nn.softmax_cross_entropy(z, y).mean()


def with_jax(jnp, rows, columns):
    import jax

    return lambda z, y: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


def with_torch(torch, rows, columns):
    return torch.nn.functional.cross_entropy


def with_tensorflow(tf, rows, columns):
    return lambda z, y: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z))


def with_pytensor(pt, rows, columns):
    return lambda z, y: -pt.mean(pt.special.log_softmax(z, axis=1)[pt.arange(rows), y])


def with_autograd(anp, rows, columns):
    from autograd.scipy.special import logsumexp

    return lambda z, y: anp.mean(logsumexp(z, axis=1) - z[anp.arange(rows), y])


FORMULAS = {
    "tapefuse": with_tapefuse,
    "jax": with_jax,
    "torch": with_torch,
    "tensorflow": with_tensorflow,
    "pytensor": with_pytensor,
    "autograd": with_autograd,
}
FRAMEWORKS = value_and_gradients(FORMULAS)
