"""A training step that touches few rows of a large table: mean((E[ids] w - y)^2), gradient descent in place.

The learning rate grows with the batch and the table is small in size, so that a step moves the rows it touches visibly.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import to_numpy

TITLE = "Embedding training step, sparse gradient"

CASES = [
    Case(f"{v:,} rows of {d}, batch {b:,}", size, {"rows": v, "width": d, "batch": b})
    for size, v, d, b in (("S", 10_000, 32, 256), ("M", 200_000, 64, 512), ("L", 1_000_000, 64, 4096))
]
CHECKED_STEPS = 3
UNTOUCHED = 1000  # rows that are checked beside those that a step changes


def inputs(rows: int, width: int, batch: int) -> Arrays:
    """Some ids come more than once."""
    rng = np.random.default_rng(1)
    return {
        "table": rng.standard_normal((rows, width), np.float32) / 100,
        "w": (rng.standard_normal((width, 1)) / np.sqrt(width)).astype(np.float32),
        "ids": rng.integers(0, rows, batch),
        "y": rng.standard_normal((batch, 1)).astype(np.float32),
    }


def rate(batch: int) -> float:
    return batch / 20


def reference(arrays: Arrays, rows: int, width: int, batch: int) -> Arrays:
    table, w, y = (arrays[name].astype(np.float64) for name in ("table", "w", "y"))
    losses, ids = [], arrays["ids"]
    for _ in range(CHECKED_STEPS):
        loss, gradients = loss_and_gradients({"table": table, "w": w}, ids, y)
        losses.append(loss)
        table -= rate(batch) * gradients["table"]
        w -= rate(batch) * gradients["w"]
    return _results(losses, table, w, ids)


def loss_and_gradients(p: Arrays, ids: np.ndarray, y: np.ndarray) -> tuple[float, dict]:
    residual = p["table"][ids] @ p["w"] - y
    g = 2 * residual / residual.size
    by_table = np.zeros_like(p["table"])
    np.add.at(by_table, ids, g @ p["w"].T)
    return np.mean(residual**2), {"table": by_table, "w": p["table"][ids].T @ g}


def _results(losses, table, w, ids) -> Arrays:
    table = to_numpy(table)
    touched = table[np.unique(ids)]
    untouched = table[np.setdiff1d(np.arange(min(len(table), UNTOUCHED)), ids)]
    return {"losses": np.array([to_numpy(x) for x in losses]), "touched": touched, "untouched": untouched, "w": w}


def _program(step, parameters, arrays: Arrays) -> Program:
    def results(first) -> Arrays:
        losses = [to_numpy(first).copy(), *[to_numpy(step()).copy() for _ in range(CHECKED_STEPS - 1)]]
        table, w = parameters()
        return _results(losses, table, to_numpy(w), arrays["ids"])

    return Program(step, results)


def with_tapefuse(arrays: Arrays, rows: int, width: int, batch: int) -> Program:
    import tapefuse as tp

    table, w = tp.Variable(arrays["table"]), tp.Variable(arrays["w"])
    rule = tp.optim.SGD(rate(batch))

    @tp.tape_function
    def train_step(ids, y):
        with tp.GradientTape() as tape:
            loss = tp.mean((table[ids] @ w - y) ** 2)
        gradients = tape.gradient(loss, [table, w])
        rule.apply_gradients(zip(gradients, [table, w], strict=True))
        return loss

    step = partial(train_step, tp.constant(arrays["ids"]), tp.constant(arrays["y"]))
    return _program(step, lambda: (table, w), arrays)


def with_jax(arrays: Arrays, rows: int, width: int, batch: int) -> Program:
    """The gradient is by the gathered rows; the table is donated and changed in place."""
    import jax
    import jax.numpy as jnp

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(table, w, ids, y):
        loss_of = lambda gathered, w: jnp.mean((gathered @ w - y) ** 2)
        loss, (by_rows, by_w) = jax.value_and_grad(loss_of, argnums=(0, 1))(table[ids], w)
        return table.at[ids].add(-rate(batch) * by_rows), w - rate(batch) * by_w, loss

    table, w, y = (jnp.array(arrays[name]) for name in ("table", "w", "y"))
    ids = jnp.asarray(arrays["ids"], np.int32)

    def step():
        nonlocal table, w
        table, w, loss = train_step(table, w, ids, y)
        return loss.block_until_ready()

    return _program(step, lambda: (table, w), arrays)


def with_torch(arrays: Arrays, rows: int, width: int, batch: int) -> Program:
    """A sparse gradient, which torch.optim.SGD applies to its rows."""
    import torch

    table, w = (torch.tensor(arrays[name], requires_grad=True) for name in ("table", "w"))
    ids, y = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["y"])
    rule = torch.optim.SGD([table, w], rate(batch))

    def step():
        rule.zero_grad()
        loss = ((torch.nn.functional.embedding(ids, table, sparse=True) @ w - y) ** 2).mean()
        loss.backward()
        rule.step()
        return loss.detach()

    return _program(step, lambda: (table, w), arrays)


def with_torch_compile(arrays: Arrays, rows: int, width: int, batch: int) -> Program:
    """torch.compile has no sparse gradients: that by the gathered rows is added to them in place."""
    import torch

    torch._dynamo.reset()
    table, w, ids, y = (torch.from_numpy(a.copy()) for a in arrays.values())

    @partial(torch.compile, dynamic=False)
    def train_step(table, w, ids, y):
        loss_of = lambda gathered, w: ((gathered @ w - y) ** 2).mean()
        (by_rows, by_w), loss = torch.func.grad_and_value(loss_of, argnums=(0, 1))(table[ids], w)
        table.index_add_(0, ids, by_rows, alpha=-rate(batch))
        w.sub_(by_w, alpha=rate(batch))
        return loss

    return _program(partial(train_step, table, w, ids, y), lambda: (table, w), arrays)


def with_tensorflow(arrays: Arrays, rows: int, width: int, batch: int, xla: bool = False) -> Program:
    """The gradient of a gather is IndexedSlices."""
    import tensorflow as tf

    table, w = tf.Variable(arrays["table"]), tf.Variable(arrays["w"])
    ids, y = tf.constant(arrays["ids"]), tf.constant(arrays["y"])

    @tf.function(jit_compile=xla or None)
    def train_step(ids, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.gather(table, ids) @ w - y) ** 2)
        by_table, by_w = tape.gradient(loss, [table, w])
        table.scatter_sub(tf.IndexedSlices(rate(batch) * by_table.values, by_table.indices))
        w.assign_sub(rate(batch) * by_w)
        return loss

    return _program(partial(train_step, ids, y), lambda: (table, w), arrays)


def with_pytensor(arrays: Arrays, rows: int, width: int, batch: int) -> Program:
    """The gradient is by the gathered rows; PyTensor makes the update of the shared table one in place."""
    import pytensor
    import pytensor.tensor as pt

    table, w = (pytensor.shared(arrays[name].copy(), borrow=True) for name in ("table", "w"))
    ids, y = pt.lvector("ids"), pt.fmatrix("y")
    gathered, step_size = table[ids], np.float32(rate(batch))
    loss = ((gathered @ w - y) ** 2).mean()
    by_rows, by_w = pytensor.grad(loss, [gathered, w])
    updates = {table: pt.inc_subtensor(gathered, -step_size * by_rows), w: w - step_size * by_w}
    train_step = pytensor.function([ids, y], loss, updates=updates, mode="NUMBA")
    train_step.trust_input = True
    parameters = lambda: [p.get_value(borrow=True) for p in (table, w)]
    return _program(partial(train_step, arrays["ids"], arrays["y"]), parameters, arrays)


def with_autograd(arrays: Arrays, rows: int, width: int, batch: int) -> Program:
    import autograd
    import autograd.numpy as anp

    table, w = arrays["table"].copy(), arrays["w"].copy()
    ids, y = arrays["ids"], arrays["y"]
    function = autograd.value_and_grad(lambda p: anp.mean((anp.dot(p[0], p[1]) - y) ** 2))

    def step():
        loss, (by_rows, by_w) = function((table[ids], w))
        np.add.at(table, ids, np.float32(-rate(batch)) * by_rows)
        w[...] -= np.float32(rate(batch)) * by_w
        return loss

    return _program(step, lambda: (table, w), arrays)


FRAMEWORKS = {
    "tapefuse": with_tapefuse,
    "jax": with_jax,
    "torch": with_torch,
    "torch_compile": with_torch_compile,
    "tensorflow": with_tensorflow,
    "tensorflow_xla": partial(with_tensorflow, xla=True),
    "pytensor": with_pytensor,
    "autograd": with_autograd,
}
