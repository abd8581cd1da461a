"""One training step of a transformer block: causal attention and a gelu(tanh) MLP, pre-norm, each added to its input.

x[batch, time, width] goes to y of the same shape with the loss mean((out - y)^2); norms have scales and shifts, dense
layers biases. The columns of `qkv` are queries, keys, values, each by heads.
"""

from __future__ import annotations

import numpy as np

from benchmarks.case import Arrays, Case
from benchmarks.training import reference_steps, training_steps

TITLE = "Transformer block training step"

SHAPES = {"S": (8, 32, 64, 4), "M": (8, 128, 256, 8), "L": (4, 256, 512, 8)}
CASES = [
    Case(f"batch {b}, time {t}, width {d}, heads {h}", size, {"shape": (b, t, d), "heads": h, "optimizer": "sgd"})
    for size, (b, t, d, h) in SHAPES.items()
]
EPSILON, GELU = 1e-5, np.sqrt(2 / np.pi).item()
MISSING = {"pytensor": "compiles for more than a minute and is ten times slower than the others"}
SPREAD = 30.0  # of y: makes steps of the usual learning rate large enough to be checked


def inputs(shape: tuple[int, int, int], heads: int, optimizer: str) -> Arrays:
    rng = np.random.default_rng(1)
    d = shape[-1]
    normal = lambda *shape, scale: (rng.standard_normal(shape) * scale).astype(np.float32)
    dense = lambda n, m: normal(n, m, scale=n**-0.5)
    arrays = {"x": normal(*shape, scale=1), "y": normal(*shape, scale=SPREAD)}
    arrays |= {"qkv": dense(d, 3 * d), "out": dense(d, d), "up": dense(d, 4 * d), "down": dense(4 * d, d)}
    arrays |= {f"{name}_bias": normal(arrays[name].shape[1], scale=0.1) for name in ("qkv", "out", "up", "down")}
    for name in ("norm1", "norm2"):
        arrays |= {f"{name}_scale": 1 + normal(d, scale=0.1), f"{name}_shift": normal(d, scale=0.1)}
    return arrays


def reference(arrays: Arrays, heads: int, optimizer: str, **options) -> Arrays:
    return reference_steps(lambda p, x, y: loss_and_gradients(p, x, y, heads), arrays, optimizer)


def loss_and_gradients(p: Arrays, x: np.ndarray, y: np.ndarray, heads: int) -> tuple[float, dict]:
    b, t, d = x.shape
    split = lambda a: a.reshape(b, t, -1, heads, d // heads).transpose(2, 0, 3, 1, 4)  # [part, batch, head, time, -]
    joined = lambda a: a.transpose(1, 3, 0, 2, 4).reshape(b, t, -1)
    scale = (d // heads) ** -0.5
    n1, z1, r1 = _norm(x, p, "norm1")
    q, k, v = split(_dense(n1, p, "qkv"))
    scores = q @ k.swapaxes(-1, -2) * scale
    e = np.where(np.tri(t, dtype=bool), np.exp(scores - scores.max(-1, keepdims=True)), 0)
    a = e / e.sum(-1, keepdims=True)
    o = joined((a @ v)[None])
    h = x + _dense(o, p, "out")
    n2, z2, r2 = _norm(h, p, "norm2")
    u = _dense(n2, p, "up")
    th = np.tanh(GELU * (u + 0.044715 * u**3))
    m = 0.5 * u * (1 + th)
    residual = h + _dense(m, p, "down") - y

    g: dict[str, np.ndarray] = {}
    g_out = 2 * residual / residual.size
    g_m = _dense_gradients(g, p, "down", m, g_out)
    g_u = g_m * (0.5 * (1 + th) + 0.5 * u * (1 - th**2) * GELU * (1 + 3 * 0.044715 * u**2))
    g_h = g_out + _norm_gradients(g, p, "norm2", z2, r2, _dense_gradients(g, p, "up", n2, g_u))
    g_o = split(_dense_gradients(g, p, "out", o, g_h))[0]
    g_a = g_o @ v.swapaxes(-1, -2)
    g_s = a * (g_a - (g_a * a).sum(-1, keepdims=True)) * scale
    g_qkv = joined(np.stack([g_s @ k, g_s.swapaxes(-1, -2) @ q, a.swapaxes(-1, -2) @ g_o]))
    _norm_gradients(g, p, "norm1", z1, r1, _dense_gradients(g, p, "qkv", n1, g_qkv))
    return np.mean(residual**2), g


def _dense(x: np.ndarray, p: Arrays, name: str) -> np.ndarray:
    return x @ p[name] + p[f"{name}_bias"]


def _dense_gradients(g: dict, p: Arrays, name: str, x: np.ndarray, g_y: np.ndarray) -> np.ndarray:
    g[name], g[f"{name}_bias"] = np.tensordot(x, g_y, ((0, 1), (0, 1))), g_y.sum((0, 1))
    return g_y @ p[name].T


def _norm(x: np.ndarray, p: Arrays, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r = 1 / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    z = (x - x.mean(-1, keepdims=True)) * r
    return z * p[f"{name}_scale"] + p[f"{name}_shift"], z, r


def _norm_gradients(g: dict, p: Arrays, name: str, z: np.ndarray, r: np.ndarray, g_y: np.ndarray) -> np.ndarray:
    g[f"{name}_scale"], g[f"{name}_shift"] = (g_y * z).sum((0, 1)), g_y.sum((0, 1))
    g_z = g_y * p[f"{name}_scale"]
    return r * (g_z - g_z.mean(-1, keepdims=True) - z * (g_z * z).mean(-1, keepdims=True))


def block(norm, attention, gelu):
    """The loss, of a framework's layer norm(x, scale, shift), causal attention(qkv) and gelu."""

    def loss(p, x, y):
        normed = lambda x, name: norm(x, p[f"{name}_scale"], p[f"{name}_shift"])
        dense = lambda x, name: x @ p[name] + p[f"{name}_bias"]
        h = x + dense(attention(dense(normed(x, "norm1"), "qkv")), "out")
        return ((h + dense(gelu(dense(normed(h, "norm2"), "up")), "down") - y) ** 2).mean()

    return loss


def plain_norm(sqrt, x, scale, shift):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON) * scale + shift


def plain_attention(xp, softmax, qkv, shape, heads: int):
    """Written out, for frameworks without a function for it."""
    b, t, d = shape
    parts = xp.transpose(xp.reshape(qkv, (b, t, 3, heads, d // heads)), (2, 0, 3, 1, 4))
    q, k, v = parts[0], parts[1], parts[2]
    scores = q @ xp.transpose(k, (0, 1, 3, 2)) * np.float32((d // heads) ** -0.5)
    a = softmax(xp.where(np.tri(t, dtype=bool), scores, np.float32(-1e30)))
    return xp.reshape(xp.transpose(a @ v, (0, 2, 1, 3)), (b, t, d))


def jax_loss(jnp, shape, heads: int):
    import jax

    def attention(qkv):
        q, k, v = jnp.unstack(qkv.reshape(*shape[:2], 3, heads, -1), axis=2)
        return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(shape)

    return block(lambda *args: plain_norm(jnp.sqrt, *args), attention, jax.nn.gelu)


def torch_loss(torch, shape, heads: int):
    F = torch.nn.functional

    def attention(qkv):
        q, k, v = qkv.view(*shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(shape)

    norm = lambda x, scale, shift: F.layer_norm(x, shape[-1:], scale, shift, EPSILON)
    return block(norm, attention, lambda x: F.gelu(x, approximate="tanh"))


def tensorflow_loss(tf, shape, heads: int):
    b, t, d = shape

    def norm(x, scale, shift):
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, EPSILON)

    def attention(qkv):
        q, k, v = tf.unstack(tf.transpose(tf.reshape(qkv, (b, t, 3, heads, d // heads)), (2, 0, 3, 1, 4)))
        scores = tf.matmul(q, k, transpose_b=True) * (d // heads) ** -0.5
        a = tf.nn.softmax(tf.where(np.tri(t, dtype=bool), scores, -1e30))
        return tf.reshape(tf.transpose(a @ v, (0, 2, 1, 3)), shape)

    def loss(p, x, y):
        normed = lambda x, name: norm(x, p[f"{name}_scale"], p[f"{name}_shift"])
        dense = lambda x, name: tf.nn.bias_add(tf.tensordot(x, p[name], 1), p[f"{name}_bias"])
        h = x + dense(attention(dense(normed(x, "norm1"), "qkv")), "out")
        m = tf.nn.gelu(dense(normed(h, "norm2"), "up"), approximate=True)
        return tf.reduce_mean((h + dense(m, "down") - y) ** 2)

    return loss


def autograd_loss(anp, shape, heads: int):
    def softmax(x):
        e = anp.exp(x - anp.max(x, axis=-1, keepdims=True))
        return e / anp.sum(e, axis=-1, keepdims=True)

    attention = lambda qkv: plain_attention(anp, softmax, qkv, shape, heads)
    return block(lambda *args: plain_norm(anp.sqrt, *args), attention, lambda x: plain_gelu(anp, x))


def plain_gelu(xp, x):
    return np.float32(0.5) * x * (1 + xp.tanh(np.float32(GELU) * (x + np.float32(0.044715) * x * x * x)))


def tapefuse_loss(tp, shape, heads: int):
    def attention(qkv):
        q, k, v = tp.transpose(tp.reshape(qkv, (*shape[:2], 3, heads, -1)), (2, 0, 3, 1, 4))
        return tp.reshape(tp.transpose(tp.nn.scaled_dot_product_attention(q, k, v, causal=True), (0, 2, 1, 3)), shape)

    norm = lambda x, scale, shift: tp.nn.layer_norm(x, EPSILON) * scale + shift
    return block(norm, attention, lambda x: tp.nn.gelu(x, approximate=True))


LOSSES = {
    "tapefuse": tapefuse_loss,
    "jax": jax_loss,
    "torch": torch_loss,
    "tensorflow": tensorflow_loss,
    "autograd": autograd_loss,
}
FRAMEWORKS = training_steps(LOSSES)
