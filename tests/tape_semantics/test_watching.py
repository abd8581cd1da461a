"""Section 2: what is watched."""

import logging

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, plain


def test_021_variables_are_watched_and_tensors_are_not(run):
    def f(x, watch):
        with tp.GradientTape() as tape:
            if watch:
                tape.watch(x)
            y = x * x
        return tape.gradient(y, x)

    assert run(f, C(3.0), False) is None
    assert run(f, C(3.0), True) == 6.0
    assert plain(f(tp.Variable(3.0), False)) == 6.0


def test_022_not_trainable(run):
    v = tp.Variable(2.0, trainable=False)

    def f(watch):
        with tp.GradientTape() as tape:
            if watch:
                tape.watch(v)
            y = v * v
        return tape.gradient(y, v)

    assert run(f, False) is None
    assert run(f, True) == 4.0


def test_023_variable_plus_one_is_a_tensor():
    x = tp.Variable(2.0) + 1.0
    assert type(x) is tp.Tensor
    with tp.GradientTape() as tape:
        y = x * x
    assert tape.gradient(y, x) is None


def test_024_watch_accessed_variables(run):
    a, b = tp.Variable(2.0), tp.Variable(3.0)

    def f():
        with tp.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(b)
            y = a * b
        return tape.gradient(y, [a, b])

    assert run(f) == [None, 2.0]


def test_025_watching_structures(run):
    def f(a, b):
        with tp.GradientTape() as tape:
            tape.watch({"a": a, "l": [b]})
            y = a * b
        return tape.gradient(y, {"a": a, "l": [b]})

    assert run(f, C(2.0), C(3.0)) == {"a": 3.0, "l": [2.0]}


@pytest.mark.parametrize("x", [np.ones(2), 3.0], ids=["array", "float"])
def test_026_watching_what_is_no_tensor(x):
    with (
        tp.GradientTape() as tape,
        pytest.raises(ValueError, match=rf"tensors, variables.*\['k'\].*{type(x).__name__}"),
    ):
        tape.watch({"k": x})


def test_027_watching_integers(caplog):
    x = C(3)
    with caplog.at_level(logging.WARNING), tp.GradientTape() as tape:
        for _ in range(20):
            tape.watch(x)
        y = x * x
    assert tape.gradient(y, x) is None
    assert 1 <= len(caplog.records) <= 5
    assert "dtype of a watched tensor must be floating" in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_028_trainable_dtypes(dtype):
    v = tp.Variable(3.0, dtype=dtype)
    with tp.GradientTape() as tape:
        y = v * v
    g = tape.gradient(y, v)
    assert g.dtype == dtype
    assert plain(g) == 6.0


@pytest.mark.parametrize("value", [3, True], ids=["int", "bool"])
def test_029_integer_variable(value):
    v = tp.Variable(value)
    with tp.GradientTape() as tape:
        y = v * v
    assert tape.gradient(y, v) is None


def test_030_watching_after_use(run):
    def f(x):
        with tp.GradientTape() as tape:
            y = x * x
            tape.watch(x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) is None


def test_031_watching_before_entering():
    """A wart: a clear RuntimeError."""
    with pytest.raises(RuntimeError, match="never entered"):
        tp.GradientTape().watch(C(1.0))


def test_032_watching_after_leaving():
    """A wart: a warning."""
    x = C(3.0)
    with tp.GradientTape() as tape:
        pass
    with pytest.warns(UserWarning, match="no effect") as caught:
        tape.watch(x)
    assert caught[0].filename == __file__
    assert tape.gradient(x * x, x) is None


def test_033_watching_is_local_to_a_tape(run):
    def f(x, y):
        with tp.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(y)
            with tp.GradientTape() as inner:
                inner.watch([x, y])
                z = x * y * y * y
            dx, dy = inner.gradient(z, [x, y])
            second = dx + dy - dx
        return outer.gradient(second, [y, x])

    second, none = run(f, C(1.0), C(2.0))
    close(second, 12.0)
    assert none is None


def test_034_watched_variables_are_in_order_of_creation():
    a, b = tp.Variable(1.0), tp.Variable(2.0)
    with tp.GradientTape() as tape:
        b * a
    watched = tape.watched_variables()
    assert isinstance(watched, tuple)
    assert [w.ref() for w in watched] == [a.ref(), b.ref()]


def test_035_watched_variables_leave_tensors_out():
    x, v = C(1.0), tp.Variable(1.0, trainable=False)
    with tp.GradientTape() as tape:
        tape.watch(x)
    assert tape.watched_variables() == ()
    with tp.GradientTape() as tape:
        tape.watch(v)
    assert len(tape.watched_variables()) == 1


def test_036_watched_variables_survive_gradient_but_not_reset():
    a, b = tp.Variable(1.0), tp.Variable(2.0)
    f = tp.tape_function(lambda: b * 2.0)
    with tp.GradientTape() as tape:
        y = a * 1
    tape.gradient(y, a)
    assert len(tape.watched_variables()) == 1
    with tp.GradientTape() as tape:
        a * 1
        tape.reset()
        f()
    assert [w.ref() for w in tape.watched_variables()] == [b.ref()]


def test_037_variables_of_a_lazy_layer():
    """Watching the variables of a layer that has none yet watches nothing."""
    layer, x = tp.nn.Dense(1, kernel_initializer="ones"), C([[2.0, 3.0]])
    with tp.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(layer.variables)
        y = layer(x)
    gradients, why = tape.gradient(y, layer.trainable_variables, explain=True)
    assert plain(gradients) == [None, None]
    assert {r.kind for r in why.reasons} == {"unwatched"}
    with tp.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(layer.variables)
        y = layer(x)
    assert plain(tape.gradient(y, layer.trainable_variables)) == [[[2.0], [3.0]], [1.0]]
