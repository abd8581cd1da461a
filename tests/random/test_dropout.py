"""nn.Dropout: masks while training, nothing otherwise, and a state that compiled steps advance."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp
from tests.random.helpers import ENGINES

X = np.ones((50, 40), np.float32)


def test_training_and_not() -> None:
    layer = tp.nn.Dropout(0.25, seed=0)
    np.testing.assert_array_equal(layer(X), X)
    y, z = layer(X, training=True), layer(X, training=True)
    assert set(np.unique(y).tolist()) == {0.0, np.float32(4 / 3).item()}
    assert not np.array_equal(y, z)
    assert 0.7 < np.mean(np.asarray(y) > 0) < 0.8
    np.testing.assert_array_equal(tp.nn.Dropout(0.25, seed=0)(X, training=True), y)
    np.testing.assert_array_equal(tp.nn.Dropout(0.0)(X, training=True), X)


@pytest.mark.parametrize("engine", ENGINES)
def test_compiled_step(engine: str) -> None:
    layer, twin = tp.nn.Dropout(0.5, seed=3), tp.nn.Dropout(0.5, seed=3)
    w = tp.Variable(X)

    @tp.tape_function
    def step(training):
        with tp.GradientTape() as tape:
            y = tp.sum(layer(w * w, training))
        return tape.gradient(y, w)

    with tp.config(engine=engine):
        for _ in range(3):
            np.testing.assert_array_equal(step(True), 2 * np.asarray(twin(X, training=True)))
        np.testing.assert_array_equal(step(False), 2 * X)
    np.testing.assert_array_equal(layer.generator.state, twin.generator.state)


def test_generators_are_shared_on_request() -> None:
    rng = tp.random.Generator(0)
    a, b = tp.nn.Dropout(0.5, seed=rng), tp.nn.Dropout(0.5, seed=rng)
    a(X, training=True), b(X, training=True)
    assert rng.state.numpy()[1] == 2
    assert a.variables == (rng.state,)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates(rate: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        tp.nn.Dropout(rate)
