"""The same bits from every call, with one thread and with two: work is cut by its size, never by who does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn
from tapefuse.codegen.plan import pieces
from tapefuse.codegen.recompute import within
from tapefuse.compiler import request

RUNS = 50
F32 = np.float32


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(F32)


def step_of(loss: Callable, variables: Sequence[tp.Variable]) -> Callable:
    """A training step: the loss, and variables less a share of their gradients."""

    def step(*args):
        with tp.GradientTape() as tape:
            value = loss(*args)
        for v, g in zip(variables, tape.gradient(value, variables), strict=True):
            v.assign_sub(0.1 * g)
        return value

    return step


def reductions():
    def f(x):
        return tp.sum(x * x), tp.mean(tp.exp(x), axis=0), tp.max(x, axis=1), tp.var(x), tp.cumsum(x, axis=1)

    return f, [], (normal(400, 500),)


def products():
    def f(a, b, c):
        return a @ b, tp.tanh(c @ tp.swapaxes(c, 1, 2)), tp.sum(a * a, axis=0)

    return f, [], (normal(300, 200), normal(200, 250), normal(8, 60, 50))


def perceptron():
    variables = [tp.Variable(normal(128, 256) * 0.1), tp.Variable(normal(256) * 0), tp.Variable(normal(256, 10) * 0.1)]
    w, b, u = variables

    def loss(x, labels):
        return nn.softmax_cross_entropy(tp.relu(x @ w + b) @ u, labels).mean()

    return step_of(loss, variables), variables, (normal(600, 128), np.arange(600) % 10)


def convolution():
    kernel, dense = tp.Variable(normal(3, 3, 2, 8) * 0.2), tp.Variable(normal(8, 10) * 0.1)

    def loss(x, labels):
        features = tp.relu(nn.conv2d(x, kernel)).mean(axis=(1, 2))
        return nn.softmax_cross_entropy(features @ dense, labels).mean()

    return step_of(loss, [kernel, dense]), [kernel, dense], (normal(32, 24, 24, 2), np.arange(32) % 10)


def embedding():
    table = tp.Variable(normal(3000, 32))
    ids = np.random.default_rng(0).integers(0, 3000, size=(300, 50))

    def loss(ids):
        rows = tp.take(table, ids, axis=0)
        return tp.sum(rows.mean(axis=1) ** 2)

    return step_of(loss, [table]), [table], (ids,)


def bits(values) -> list[bytes]:
    return [np.asarray(v).tobytes() for v in (values if isinstance(values, tuple) else (values,))]


@pytest.mark.parametrize("make", [reductions, products, perceptron, convolution, embedding])
def test_fifty_runs(make):
    python, variables, args = make()
    start = [v.numpy() for v in variables]
    one, two = (tp.tape_function(python, threads=threads) for threads in (1, 2))
    plan = within(request(two.specialise(*args).traced, two._options))
    assert any(pieces(step) != 1 for step in plan.steps)

    def run(f) -> list[bytes]:
        for v, value in zip(variables, start, strict=True):
            v.assign(value)
        return [*bits(f(*args)), *bits(f(*args)), *bits(tuple(variables))]

    want = run(one)
    for k in range(RUNS):
        assert run((one, two)[k % 2]) == want
