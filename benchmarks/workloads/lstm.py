"""An LSTM over 100 time steps with a linear read-out of the last state, mean squared error, gradients of all weights.

x[time, batch, input], gates i, f, g, o in the columns of wx, wh and b, both states zero at first.
"""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.gradients import value_and_gradients

TITLE = "LSTM"

STEPS = 100
CASES = [
    Case(f"batch {b}, {i} inputs, {h} units", size, {"batch": b, "features": i, "units": h})
    for size, b, i, h in (("S", 1, 16, 32), ("M", 16, 32, 64), ("L", 64, 64, 256))
]
WEIGHTS = 4  # wx, wh, b, wy
MISSING = {
    "torch_compile": "unrolls the 100 steps and compiles for minutes, or leaves nn.LSTM as it is",
    "pytensor": "compiles for more than a minute and is slower than JAX",
}


def inputs(batch: int, features: int, units: int) -> Arrays:
    rng = np.random.default_rng(1)
    normal = lambda *shape, scale: (rng.standard_normal(shape) * scale).astype(np.float32)
    return {
        "wx": normal(features, 4 * units, scale=features**-0.5),
        "wh": normal(units, 4 * units, scale=units**-0.5),
        "b": normal(4 * units, scale=0.1),
        "wy": normal(units, 1, scale=units**-0.5),
        "x": normal(STEPS, batch, features, scale=1),
        "y": normal(batch, 1, scale=1),
    }


def reference(arrays: Arrays, batch: int, features: int, units: int) -> Arrays:
    wx, wh, b, wy, x, y = (a.astype(np.float64) for a in arrays.values())
    sigmoid = lambda z: 0.5 * (1 + np.tanh(z / 2))
    h, c = np.zeros((2, batch, units))
    kept = []
    for x_t in x:
        i, f, g, o = np.split(x_t @ wx + h @ wh + b, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        kept.append((h, c, i, f, g, o))
        c = f * c + i * g
        h = o * np.tanh(c)
        kept[-1] += (np.tanh(c),)
    residual = h @ wy - y
    g_out = 2 * residual / residual.size
    gradients = {"wx": np.zeros_like(wx), "wh": np.zeros_like(wh), "b": np.zeros_like(b), "wy": h.T @ g_out}
    g_h, g_c = g_out @ wy.T, 0
    for x_t, (h, c, i, f, g, o, tanh_c) in zip(x[::-1], kept[::-1], strict=True):
        g_c = g_c + g_h * o * (1 - tanh_c**2)
        of_gates = [g_c * g * i * (1 - i), g_c * c * f * (1 - f), g_c * i * (1 - g**2), g_h * tanh_c * o * (1 - o)]
        g_z = np.concatenate(of_gates, axis=1)
        gradients["wx"] += x_t.T @ g_z
        gradients["wh"] += h.T @ g_z
        gradients["b"] += g_z.sum(0)
        g_h, g_c = g_z @ wh.T, g_c * f
    return {"value": np.mean(residual**2), **gradients}


def cell(sigmoid, tanh, split):
    def step(h, c, z):
        i, f, g, o = split(z)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    return step


def tapefuse_formula(tp, batch: int, features: int, units: int):
    """The products with x of all time steps are one product, as in every other framework that loops."""
    step = cell(tp.nn.sigmoid, tp.tanh, lambda z: tp.split(z, 4, axis=1))

    def value(wx, wh, b, wy, x, y):
        xs = x @ wx + b
        h = c = tp.zeros((batch, units), x.dtype)
        for t in range(STEPS):
            h, c = step(h, c, xs[t] + h @ wh)
        return tp.mean((h @ wy - y) ** 2)

    return value


def jax_formula(jnp, batch: int, features: int, units: int):
    import jax

    step = cell(jax.nn.sigmoid, jnp.tanh, lambda z: jnp.split(z, 4, axis=-1))

    def value(wx, wh, b, wy, x, y):
        states = (jnp.zeros((batch, units), x.dtype),) * 2
        (h, _), _ = jax.lax.scan(lambda s, z: (step(*s, z + s[0] @ wh), None), states, x @ wx + b)
        return jnp.mean((h @ wy - y) ** 2)

    return value


def torch_formula(torch, batch: int, features: int, units: int):
    lstm = torch.nn.LSTM(features, units)
    zero = torch.zeros(4 * units)

    def value(wx, wh, b, wy, x, y):
        weights = {"weight_ih_l0": wx.T, "weight_hh_l0": wh.T, "bias_ih_l0": b, "bias_hh_l0": zero}
        _, (h, _) = torch.func.functional_call(lstm, weights, (x,))
        return ((h[0] @ wy - y) ** 2).mean()

    return value


def tensorflow_formula(tf, batch: int, features: int, units: int):
    step = cell(tf.sigmoid, tf.tanh, lambda z: tf.split(z, 4, axis=1))

    def value(wx, wh, b, wy, x, y):
        xs = tf.tensordot(x, wx, 1) + b
        states = (0, *(tf.zeros((batch, units)),) * 2)
        body = lambda t, h, c: (t + 1, *step(h, c, xs[t] + h @ wh))
        _, h, _ = tf.while_loop(lambda t, h, c: t < STEPS, body, states, maximum_iterations=STEPS)
        return tf.reduce_mean((h @ wy - y) ** 2)

    return value


def autograd_formula(anp, batch: int, features: int, units: int):
    step = cell(lambda z: 0.5 * (anp.tanh(0.5 * z) + 1), anp.tanh, lambda z: anp.split(z, 4, axis=1))

    def value(wx, wh, b, wy, x, y):
        xs = anp.dot(x, wx) + b
        h = c = anp.zeros((batch, units), anp.float32)
        for t in range(STEPS):
            h, c = step(h, c, xs[t] + anp.dot(h, wh))
        return anp.mean((anp.dot(h, wy) - y) ** 2)

    return value


FORMULAS = {
    "tapefuse": tapefuse_formula,
    "jax": jax_formula,
    "torch": torch_formula,
    "tensorflow": tensorflow_formula,
    "autograd": autograd_formula,
}
FRAMEWORKS = {n: f for n, f in value_and_gradients(FORMULAS, by=WEIGHTS).items() if n not in MISSING}
