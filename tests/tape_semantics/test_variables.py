"""Sections 14 and 16: variables, and control flow in Python."""

import copy

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, plain, taped


def test_158_assign_keeps_dtype_and_shape(run):
    v = tp.Variable([1.0, 2.0])
    for wrong in (C([1.0]), C([1, 2]), 3.0, np.ones(2)):
        with pytest.raises((ValueError, TypeError), match="assign to the variable"):
            run(lambda x=wrong: v.assign(x))
        assert plain(v) == [1.0, 2.0]


def test_159_augmented_assignment():
    v = tp.Variable(1.0)
    with pytest.raises(RuntimeError, match="assign_add"):
        v += 1
    with pytest.raises(RuntimeError, match="assign_add"):
        v *= 2


def test_160_assign_before_read(run):
    x = tp.Variable(3.0)

    def f():
        with tp.GradientTape() as tape:
            x.assign(2.0)
            y = x * x
        return tape.gradient(y, x)

    assert run(f) == 4.0


def test_161_read_then_assign(run):
    x = tp.Variable(3.0)

    def f():
        x.assign(3.0)
        with tp.GradientTape(persistent=True) as tape:
            y = x * x
            x.assign(5.0)
            z = x * x
        return tape.gradient(y, x), tape.gradient([y, z], x), x

    assert run(f) == [6.0, 16.0, 5.0]


def test_162_assigning_afterwards():
    x = tp.Variable(3.0)
    with tp.GradientTape() as tape:
        y = x * x
    x.assign(5.0)
    assert plain(tape.gradient(y, x)) == 6.0


def test_163_result_of_assign(run):
    x, d = tp.Variable(3.0), tp.Variable(1.0)

    def f():
        with tp.GradientTape() as tape:
            y = x.assign_add(d) * 1
        return tape.gradient(y, [x, d])

    assert run(f) == [1.0, None]


def test_165_copies():
    v = tp.Variable([1.0], name="v", trainable=False)
    for twin in (copy.copy(v), copy.deepcopy(v), tp.Variable(v)):
        v.assign([5.0])
        assert plain(twin) == [1.0]
        v.assign([1.0])
    both = copy.deepcopy([v, v])
    assert both[0] is both[1]
    assert (both[0].name, both[0].trainable) == ("v", False)


def test_166_variables_cannot_be_hashed():
    v = tp.Variable(1.0)
    with pytest.raises(TypeError, match="ref"):
        hash(v)
    assert v.ref() == v.ref()
    assert plain(v == 1.0) is True


def test_167_duplicate_names():
    assert tp.Variable(1.0, name="v").name == tp.Variable(2.0, name="v").name


def test_172_python_control_flow(run):
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = x
            for k in range(3):
                y = y * x if k else y + x
        return tape.gradient(y, x)

    close(run(f, C(2.0)), 24.0)


def test_173_iteration(run):
    def f(x):
        tape, y = taped(lambda x: sum(a * a for a in x), x)
        return tape.gradient(y, x)

    assert run(f, C([1.0, 2.0, 3.0])) == [2.0, 4.0, 6.0]


def test_164_assigning_a_part(run):
    """Deliberate difference in spelling: `v[0] = 5.0`; a slice is a tensor, which has no assign."""
    v = tp.Variable([1.0, 2.0, 3.0])

    def f():
        v.assign([1.0, 2.0, 3.0])
        with tp.GradientTape() as tape:
            v[0] = 5.0
            y = v**2
        return v.read(), tape.gradient(y, v)

    assert run(f) == [[5.0, 2.0, 3.0], [10.0, 4.0, 6.0]]
