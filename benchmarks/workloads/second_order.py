"""Second derivatives: Hessian times vector for the loss of a relu network, and the Hessian of a Poisson regression.

The network is 784-256-128-10 with cross-entropy, in float32, and the product is taken forward over reverse where the
framework can. The regression's negative log-likelihood is sum(e^(Xw) - y Xw), in float64.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import to_numpy
from benchmarks.workloads import mlp

TITLE = "Second order"

CASES = [
    *(Case(f"Hessian times vector, batch {b}", size, {"batch": b}) for size, b in (("S", 32), ("L", 512))),
    *(
        Case(f"Hessian, n = {n:,}, p = {p}", size, {"n": n, "p": p}, tolerance=1e-9)
        for size, n, p in (("S", 200, 5), ("M", 500, 20), ("L", 5_000, 50))
    ),
]
WIDTHS, DEPTH = mlp.LARGE, len(mlp.LARGE) - 1


def inputs(batch: int = 0, n: int = 0, p: int = 0) -> Arrays:
    """The network's `x`, `y`, parameters, and a direction for each, `v_` before its name; or `X`, `counts` and `w`."""
    rng = np.random.default_rng(1)
    if n:
        X, w = rng.standard_normal((n, p)), rng.standard_normal(p) / np.sqrt(p)
        return {"w": w, "X": X, "counts": rng.poisson(np.exp(X @ w)).astype(np.float64)}
    arrays = mlp.inputs(WIDTHS, batch)
    directions = {f"v_{name}": rng.standard_normal(arrays[name].shape, np.float32) for name in names()}
    return {**arrays, **directions}


def names() -> list[str]:
    return [f"{kind}{k}" for k in range(DEPTH) for kind in "wb"]


def reference(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0) -> Arrays:
    if n:
        return {"hessian": (arrays["X"].T * np.exp(arrays["X"] @ arrays["w"])) @ arrays["X"]}
    return _reference_product({name: a.astype(np.float64) for name, a in arrays.items() if name != "y"}, arrays["y"])


def _reference_product(a: Arrays, y: np.ndarray) -> Arrays:
    """Derivatives along the direction, `d_`, beside the values of the forward and of the backward pass."""
    hs, d_hs = [a["x"]], [np.zeros_like(a["x"])]
    for k in range(DEPTH):
        w, d_w = a[f"w{k}"], a[f"v_w{k}"]
        z, d_z = hs[-1] @ w + a[f"b{k}"], d_hs[-1] @ w + hs[-1] @ d_w + a[f"v_b{k}"]
        on = (z > 0) | (k == DEPTH - 1)
        hs.append(z * on)
        d_hs.append(d_z * on)
    e = np.exp(hs[-1] - hs[-1].max(axis=1, keepdims=True))
    q = e / e.sum(axis=1, keepdims=True)
    d_g = q * (d_hs[-1] - (q * d_hs[-1]).sum(axis=1, keepdims=True)) / len(y)
    g = (q - np.eye(WIDTHS[-1])[y]) / len(y)
    product = {}
    for k in reversed(range(DEPTH)):
        h, d_h, w, d_w = hs[k], d_hs[k], a[f"w{k}"], a[f"v_w{k}"]
        product[f"w{k}"], product[f"b{k}"] = d_h.T @ g + h.T @ d_g, d_g.sum(axis=0)
        g, d_g = (g @ w.T) * (h > 0), (d_g @ w.T + g @ d_w.T) * (h > 0)
    return product


def _split(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Parameters and directions by name."""
    return {n: arrays[n] for n in names()}, {n: arrays[f"v_{n}"] for n in names()}


def _product_program(step) -> Program:
    return Program(step, lambda first: {name: to_numpy(x) for name, x in first.items()})


def _hessian_program(step) -> Program:
    return Program(step, lambda first: {"hessian": to_numpy(first)})


def likelihood(xp, total):
    """The regression's, as a function of w."""

    def value(w, X, counts):
        s = X @ w
        return total(xp.exp(s) - counts * s)

    return value


def with_tapefuse(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0) -> Program:
    import tapefuse as tp
    from tapefuse import nn

    if n:
        hessian = tp.tape_function(tp.hessian(likelihood(tp, tp.sum)))
        return _hessian_program(partial(hessian, *map(tp.constant, arrays.values())))
    parameters, directions = ({k: tp.constant(a) for k, a in part.items()} for part in _split(arrays))
    x, y = tp.constant(arrays["x"]), tp.constant(arrays["y"])

    @tp.tape_function
    def product(parameters, directions, x, y):
        loss = lambda p: nn.softmax_cross_entropy(mlp.network(p, x, tp.relu, DEPTH), y).mean()
        return tp.hvp(loss, (parameters,), (directions,))[1][0]

    return _product_program(lambda: product(parameters, directions, x, y))


def with_jax(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0) -> Program:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", bool(n))
    if n:
        hessian, native = jax.jit(jax.hessian(likelihood(jnp, jnp.sum))), [jnp.asarray(a) for a in arrays.values()]
        return _hessian_program(lambda: hessian(*native).block_until_ready())
    parameters, directions = jax.tree.map(jnp.asarray, _split(arrays))
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"], np.int32)
    loss = mlp.jax_loss(jnp, WIDTHS)

    @jax.jit
    def product(parameters, directions, x, y):
        return jax.jvp(jax.grad(lambda p: loss(p, x, y)), (parameters,), (directions,))[1]

    return _product_program(lambda: jax.block_until_ready(product(parameters, directions, x, y)))


def with_torch(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0, compiled: bool = False) -> Program:
    import torch

    if compiled:
        torch._dynamo.reset()
    compiler = partial(torch.compile, dynamic=False) if compiled else lambda f: f
    if n:
        hessian = compiler(torch.func.hessian(likelihood(torch, torch.sum)))
        return _hessian_program(partial(hessian, *map(torch.from_numpy, arrays.values())))
    parameters, directions = ({k: torch.from_numpy(a) for k, a in part.items()} for part in _split(arrays))
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    loss = mlp.torch_loss(torch, WIDTHS)

    @compiler
    def product(parameters, directions, x, y):
        return torch.func.jvp(torch.func.grad(lambda p: loss(p, x, y)), (parameters,), (directions,))[1]

    return _product_program(lambda: product(parameters, directions, x, y))


def with_tensorflow(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0, xla: bool = False) -> Program:
    import tensorflow as tf

    if n:
        value = lambda w, X, counts: tf.reduce_sum(tf.exp(tf.linalg.matvec(X, w)) - counts * tf.linalg.matvec(X, w))

        @tf.function(jit_compile=xla or None)
        def hessian(w, X, counts):
            with tf.GradientTape() as outer:
                outer.watch(w)
                with tf.GradientTape() as inner:
                    inner.watch(w)
                    y = value(w, X, counts)
                g = inner.gradient(y, w)
            return outer.jacobian(g, w)

        return _hessian_program(partial(hessian, *map(tf.constant, arrays.values())))
    parameters, directions = ({k: tf.constant(a) for k, a in part.items()} for part in _split(arrays))
    x, y = tf.constant(arrays["x"]), tf.constant(arrays["y"])
    loss = mlp.tensorflow_loss(tf, WIDTHS)

    @tf.function(jit_compile=xla or None)
    def product(parameters, directions, x, y):
        with tf.autodiff.ForwardAccumulator(parameters, directions) as forward:
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                value = loss(parameters, x, y)
            gradients = tape.gradient(value, parameters)
        return {name: forward.jvp(g) for name, g in gradients.items()}

    return _product_program(lambda: product(parameters, directions, x, y))


def with_pytensor(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0) -> Program:
    import pytensor
    import pytensor.tensor as pt

    symbols = {name: pt.tensor(name, dtype=a.dtype, shape=a.shape) for name, a in arrays.items()}
    if n:
        out = pytensor.gradient.hessian(likelihood(pt, pt.sum)(*symbols.values()), symbols["w"])
    else:
        parameters, directions = _split(symbols)
        value = mlp.pytensor_loss(pt, WIDTHS, batch)(parameters, symbols["x"], symbols["y"])
        gradients = pytensor.grad(value, list(parameters.values()))
        out = pytensor.gradient.Rop(gradients, list(parameters.values()), list(directions.values()))
    function = pytensor.function(list(symbols.values()), out, mode="NUMBA")
    function.trust_input = True
    step = partial(function, *arrays.values())
    return _hessian_program(step) if n else _product_program(lambda: dict(zip(parameters, step(), strict=True)))


def with_autograd(arrays: Arrays, batch: int = 0, n: int = 0, p: int = 0) -> Program:
    """Reverse over reverse for the product: the forward rules of indexing are missing."""
    import autograd
    import autograd.numpy as anp

    if n:
        return _hessian_program(partial(autograd.hessian(likelihood(anp, anp.sum)), *arrays.values()))
    parameters, directions = _split(arrays)
    loss, x, y = mlp.autograd_loss(anp, WIDTHS, batch), arrays["x"], arrays["y"]

    def slope(p):
        gradients = autograd.grad(loss)(p, x, y)
        return sum(anp.sum(gradients[name] * v) for name, v in directions.items())

    return _product_program(partial(autograd.grad(slope), parameters))


FRAMEWORKS = {
    "tapefuse": with_tapefuse,
    "jax": with_jax,
    "torch": with_torch,
    "torch_compile": partial(with_torch, compiled=True),
    "tensorflow": with_tensorflow,
    "tensorflow_xla": partial(with_tensorflow, xla=True),
    "pytensor": with_pytensor,
    "autograd": with_autograd,
}
