"""Logistic regression in float64, sum(log(1 + e^s) - y s) + |w|^2 / 2 with s = X w, and its gradient by w, as
scipy.optimize calls it: w is a NumPy array, the value a float, the gradient a NumPy array."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "Logistic regression"

CASES = [
    Case("breast cancer, 569 x 30", "S", {"data": "breast_cancer"}, tolerance=1e-9),
    Case("digits, 1797 x 64", "S", {"data": "digits"}, tolerance=1e-9),
    Case("20,000 x 100", "M", {"data": (20_000, 100)}, tolerance=1e-9),
    Case("200,000 x 200", "L", {"data": (200_000, 200)}, tolerance=1e-9),
]


def inputs(data: str | tuple[int, int]) -> Arrays:
    """w, X with columns of mean 0 and deviation 1, and y of 0 and 1."""
    rng = np.random.default_rng(1)
    if isinstance(data, str):
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
        x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    else:
        x = rng.standard_normal(data)
        y = x @ rng.standard_normal(data[1]) > 0
    return {"w": rng.standard_normal(x.shape[1]) / np.sqrt(x.shape[1]), "x": x, "y": (y % 2).astype(np.float64)}


def reference(arrays: Arrays, data: str | tuple[int, int]) -> Arrays:
    w, x, y = arrays["w"], arrays["x"], arrays["y"]
    s = x @ w
    value = np.sum(np.logaddexp(0, s) - y * s) + w @ w / 2
    return {"value": np.asarray(value), "w": x.T @ (1 / (1 + np.exp(-s)) - y) + w}


def formula(xp, softplus):
    def loss(w, x, y):
        s = x @ w
        return xp.sum(softplus(s) - y * s) + xp.sum(w * w) / 2

    return loss


def with_tapefuse(tp, data):
    return formula(tp, tp.softplus)


def with_jax(jnp, data):
    import jax

    return formula(jnp, jax.nn.softplus)


def with_torch(torch, data):
    return formula(torch, lambda s: torch.logaddexp(s, torch.zeros((), dtype=s.dtype)))


def with_tensorflow(tf, data):
    def loss(w, x, y):
        s = tf.linalg.matvec(x, w)
        return tf.reduce_sum(tf.nn.softplus(s) - y * s) + tf.reduce_sum(w * w) / 2

    return loss


def with_pytensor(pt, data):
    return formula(pt, pt.softplus)


def with_autograd(anp, data):
    return formula(anp, lambda s: anp.logaddexp(0.0, s))


FORMULAS = {
    "tapefuse": with_tapefuse,
    "jax": with_jax,
    "torch": with_torch,
    "tensorflow": with_tensorflow,
    "pytensor": with_pytensor,
    "autograd": with_autograd,
}
FRAMEWORKS = value_and_gradients(FORMULAS, numpy_in=True)
