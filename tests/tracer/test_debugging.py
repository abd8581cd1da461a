"""Looking into programs while they run."""

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.tracer.debugging import require
from tests.tape_semantics.helpers import plain

C = tp.constant
HERE = r"test_debugging\.py:\d+"


def test_check_finite_names_value_and_line(stage):
    def f(x):
        tp.check_finite({"y": tp.log(x), "n": tp.cast(x, tp.int32)}, "logs")
        return x * 2

    assert plain(stage(f)(C([1.0, 2.0]))) == [2.0, 4.0]
    with pytest.raises(FloatingPointError, match=rf"{HERE}: logs\['y'\], f32\[2\], has an element that is inf or nan"):
        stage(f)(C([1.0, 0.0]))


def test_nothing_is_assigned_when_a_check_fails():
    v = tp.Variable(1.0)

    @tp.tape_function
    def f(x):
        v.assign(x)
        tp.check_finite(x, "x")

    f(C(2.0))
    with pytest.raises(FloatingPointError):
        f(C(np.inf))
    assert plain(v) == 2.0


def test_check_finite_in_loops_and_branches(stage):
    def f(x, n):
        def body(i, y):
            y = y * x
            tp.cond(i > 1, lambda: tp.check_finite(y, "y"), lambda: y)
            return y

        return tp.fori_loop(0, n, body, x)

    assert plain(stage(f)(C(2.0), C(3))) == 16.0
    with pytest.raises(FloatingPointError, match="y, f32"):
        stage(f)(C(1e30), C(3))
    assert plain(stage(f)(C(1e30), C(2))) == np.inf  # not looked at before the third iteration


def test_check_finite_passes_gradients(stage):
    f = lambda x: tp.check_finite(x * x, "square")
    assert plain(stage(tp.grad(f))(C(3.0))) == 6.0
    assert plain(stage(tp.vmap(f))(C([1.0, 2.0]))) == [1.0, 4.0]
    with pytest.raises(FloatingPointError):
        stage(tp.vmap(f))(C([1.0, np.nan]))


def test_require(stage):
    def f(x):
        require(x > 0, ValueError("x must be positive"))
        return x

    assert plain(stage(f)(C(1.0))) == 1.0
    with pytest.raises(ValueError, match="x must be positive"):
        stage(f)(C(-1.0))


def test_debug_print(stage, capsys):
    def f(x):
        tp.debug_print("x =", x, {"twice": x * 2})
        return tp.fori_loop(0, 2, lambda i, y: (tp.debug_print("y", y), y * 3)[1], x)

    g = stage(f)
    assert plain(g(C(1.0))) == 9.0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == ["x = 1.0 ['twice'] = 2.0", "y 1.0", "y 3.0"]
    assert all(line.startswith("test_debugging.py:") for line in lines)
    assert plain(g(C(2.0))) == 18.0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_debug_print_in_a_branch_without_results(stage, capsys):
    def f(x):
        tp.cond(x > 0, lambda: tp.debug_print("positive"), lambda: None)
        return x

    g = stage(f)
    g(C(1.0))
    assert "positive" in capsys.readouterr().out
    g(C(-1.0))
    assert capsys.readouterr().out == ""


def test_equal_prints_stay_apart(stage, capsys):
    def f(x):
        for _ in range(2):
            tp.debug_print(x)
        return x

    stage(f)(C(1.0))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_explain_says_that_a_function_is_interpreted():
    @tp.tape_function
    def f(x):
        return tp.fori_loop(0, 2, lambda i, y: (tp.debug_print(y), y)[1], x)

    f(C(1.0))
    assert "interpreted with NumPy, since " in f.explain()
    assert "test_debugging.py" in f.explain()
