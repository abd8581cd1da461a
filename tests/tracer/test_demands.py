"""`assert` and `raise` that depend on traced values: compiled functions raise what the user wrote, with the line."""

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import plain

C = tp.constant


class Refused(Exception):
    pass


class Odd(Exception):
    def __init__(self):
        super().__init__("odd")


def positive(x):
    assert x > 0, "x must be positive"
    return x * 2


def refusing(x):
    if x < 0:
        raise Refused("negative", 3)
    return x


def with_statements(x):
    y = x
    if x < 0:
        y = y * 100
        text = f"rank {x.ndim}"
        raise ValueError(text)
    return y


def otherwise(x):
    if x > 1:
        y = x
    elif x > 0:
        y = 2 * x
    else:
        raise KeyError
    return y


def in_a_branch(x):
    if x > 0:
        assert x > 1, "small"
        y = x
    else:
        y = -x
    return y


def in_a_loop(x):
    while x < 100:
        x = x * x
        if x == 16:
            raise ArithmeticError("16")
    return x


@pytest.mark.parametrize(
    ("f", "good", "bad", "error", "arguments"),
    [
        (positive, 3.0, -1.0, AssertionError, ("x must be positive",)),
        (refusing, 3.0, -1.0, Refused, ("negative", 3)),
        (with_statements, 3.0, -1.0, ValueError, ("rank 0",)),
        (otherwise, 0.5, -1.0, KeyError, ()),
        (in_a_branch, -1.0, 0.5, AssertionError, ("small",)),
        (in_a_loop, 3.0, 2.0, ArithmeticError, ("16",)),
    ],
)
def test_raises_what_the_user_wrote(stage, f, good, bad, error, arguments):
    assert plain(stage(f)(C(good))) == plain(f(C(good)))
    with pytest.raises(error) as caught:
        stage(f)(C(bad))
    assert type(caught.value) is error
    assert [str(x).partition("\n")[0] for x in caught.value.args] == [*map(str, arguments)]  # pytest adds to asserts


def test_the_line_is_told_and_an_assert_without_text_shows_itself():
    def f(x):
        assert x > 0
        return x

    with pytest.raises(AssertionError, match="^assert x > 0") as caught:
        tp.tape_function(f)(C(-1.0))
    line = f.__code__.co_firstlineno + 1
    assert caught.value.__notes__ == [f"at {__file__}:{line}"]


def test_nothing_is_changed(stage):
    v = tp.Variable(1.0)

    def f(x):
        v.assign(x)
        if x < 0:
            raise Refused("negative")

    stage(f)(C(2.0))
    with pytest.raises(Refused):
        tp.tape_function(f)(C(-1.0))
    assert plain(v) == 2.0


def test_functions_and_loops_without_results(stage):
    def f(x, n):
        for i in range(n):
            assert x[i] > 0, "element"

    g = stage(f)
    assert g(C([1.0, 2.0, -1.0]), C(2)) is None
    with pytest.raises(AssertionError, match="element"):
        g(C([1.0, 2.0, -1.0]), C(3))


def test_examples_that_take_another_branch_are_not_asked(stage):
    g = stage(tp.vmap(in_a_branch))
    assert plain(g(C([1.5, -3.0]))) == [1.5, 3.0]
    with pytest.raises(AssertionError):
        g(C([1.5, 0.5]))
    g = stage(tp.vmap(in_a_loop))
    assert plain(g(C([3.0, 5.0]))) == [6561.0, 625.0]
    with pytest.raises(ArithmeticError):
        g(C([3.0, 2.0]))


def test_finished_examples_of_a_loop_are_not_asked():
    def f(x, limit):
        while x < limit:
            assert x < 50, "too far"
            x = x * 2
        return x

    g = tp.tape_function(tp.vmap(f))
    assert plain(g(C([60.0, 1.0]), C([10.0, 40.0]))) == [60.0, 64.0]
    with pytest.raises(AssertionError, match="too far"):
        g(C([60.0, 1.0]), C([70.0, 40.0]))


def test_what_cannot_be_raised_later():
    def odd(x):
        if x < 0:
            raise Odd
        return x

    def holding(x):
        if x < 0:
            raise ValueError(x)
        return x

    def formatting(x):
        assert x > 0, f"{float(x)}"
        return x

    with pytest.raises(tp.StagingError, match=r"test_demands.py:\d+ .* cannot be made from its arguments"):
        tp.tape_function(odd)(C(1.0))
    with pytest.raises(tp.StagingError, match="numbers and texts"):
        tp.tape_function(holding)(C(1.0))
    with pytest.raises(tp.ConcretizationError, match="made once, while tracing"):
        tp.tape_function(formatting)(C(1.0))


def test_local_classes_are_told_apart():
    def make(k):
        class Local(Exception):
            pass

        @tp.tape_function
        def f(x):
            if x < 0:
                raise Local(k)
            return x

        return Local, f

    made = [make(k) for k in range(3)]
    for k, (error, f) in enumerate(made):
        with pytest.raises(error) as caught:
            f(np.float32(-1.0))
        assert caught.value.args == (k,)
