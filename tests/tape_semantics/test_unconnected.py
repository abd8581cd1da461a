"""Sections 4 and 6: every route to None, and operations without a derivative."""

import threading

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, plain, taped


def test_058_constant():
    with tp.GradientTape() as tape:
        y = C(2.0) * C(3.0)
    assert tape.gradient(y, C(2.0)) is None


def test_059_rebound_variable():
    x, out = tp.Variable(2.0), []
    for _ in range(2):
        with tp.GradientTape() as tape:
            y = x + 1
        out.append(plain(tape.gradient(y, x)))
        x = x + 1
    assert out == [1.0, None]


def test_060_leaving_for_numpy():
    """Deliberate difference: np.mean(x) stays on the tape; np.asarray(x) and x.numpy() leave it."""
    x = tp.Variable([[1.0, 2.0], [3.0, 4.0]])
    with tp.GradientTape(persistent=True) as tape:
        recorded = np.mean(x**2, axis=0).sum()
        left = tp.mean(np.mean((x**2).numpy(), axis=0))
        left_too = tp.mean(np.asarray(x**2))
    assert plain(tape.gradient(recorded, x)) == [[1.0, 2.0], [3.0, 4.0]]
    assert tape.gradient([left, left_too], x) is None


def test_061_integers_in_the_path(run):
    def f(x):
        tape, y = taped(lambda x: tp.cast(tp.cast(x, np.int32), np.float32) * 2, x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) is None
    tape, y = taped(lambda x: x * x, C(10))
    assert tape.gradient(y, C(10)) is None


def test_062_state(run):
    x0, x1 = tp.Variable(3.0), tp.Variable(0.0)

    def f():
        x1.assign(0.0)
        with tp.GradientTape() as tape:
            x1.assign_add(x0)
            y = x1**2
        return tape.gradient(y, [x0, x1])

    assert run(f) == [None, 6.0]


def test_063_python_control_flow():
    x, v0, v1 = C(1.0), tp.Variable(2.0), tp.Variable(2.0)
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(x)
        result = v0 if x > 0.0 else v1**2
    assert plain(tape.gradient(result, [v0, v1])) == [1.0, None]
    assert tape.gradient(result, x) is None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tp.cast(tp.argmax(x), np.float32),
        lambda x: tp.where(x > 1.5, 1.0, 2.0),
        tp.round,
        tp.floor,
        tp.ceil,
        lambda x: x // 2.0,
        tp.rint,
    ],
    ids=["argmax", "comparison", "round", "floor", "ceil", "floordiv", "rint"],
)
def test_064_operations_that_disconnect(run, function):
    def f(x):
        tape, y = taped(function, x)
        return tape.gradient(y, x)

    assert run(f, C([1.0, 2.0])) is None


def test_064_sign_gives_zeros(run):
    def f(x):
        tape, y = taped(tp.sign, x)
        return tape.gradient(y, x)

    assert run(f, C([-1.0, 2.0])) == [0.0, 0.0]


def test_065_stop_gradient(run):
    def f(x):
        tape, y = taped(lambda x: tp.stop_gradient(x) * x, x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) == 3.0


def test_066_unrelated_target():
    x, y = tp.Variable(2.0), tp.Variable(3.0)
    with tp.GradientTape() as tape:
        z = y * y
    assert tape.gradient(z, x) is None


def test_069_where_gives_zeros(run):
    def f(x, y):
        tape, z = taped(lambda x, y: tp.where(x > 0, x, y), x, y)
        return tape.gradient(z, [x, y])

    assert run(f, C([1.0, 2.0]), C([3.0, 4.0])) == [[1.0, 1.0], [0.0, 0.0]]


def test_084_operation_without_gradient(run):
    def f(x):
        tape, y = taped(lambda x: tp.missing_gradient(x, "AdjustContrast") * 2, x)
        return tape.gradient(y, x)

    with pytest.raises(LookupError, match="AdjustContrast"):
        run(f, C(1.0))


def test_085_only_on_a_path(run):
    def f(x):
        tape, (y, _) = taped(lambda x: (x * x, tp.missing_gradient(x, "AdjustContrast")), x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) == 6.0


def test_067_what_ran_elsewhere():
    x, other = tp.Variable(2.0), []
    c = C(2.0)
    before = x * 3
    with tp.GradientTape(persistent=True) as tape:
        early = c * c
        tape.watch(c)
        with tape.stop_recording():
            hidden = x * x
        worker = threading.Thread(target=lambda: other.append(x * x))
        worker.start()
        worker.join()
        inside = x * 1.0
    after = x * x
    assert tape.gradient([before, hidden, other[0], after], x) is None
    assert tape.gradient(early, c) is None
    assert plain(tape.gradient(inside, x)) == 1.0
