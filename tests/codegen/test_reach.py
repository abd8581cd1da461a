"""Which rows a kernel touches."""

from __future__ import annotations

import numpy as np

from tapefuse.codegen.loops import HI, INT, LO, ZERO, Buffer, For, Kernel, Let, Load, Num, Scalar, Stmt, Store, Var
from tapefuse.codegen.reach import Reach, reaches
from tapefuse.ir.types import Type

FLOAT, BOOL = np.dtype(np.float64), np.dtype(bool)
A, B = Buffer("b0", Type(FLOAT, (9,))), Buffer("b1", Type(FLOAT, (9,)))
ROW, AT, COND = Var("i", INT), Var("j", INT), Var("c", BOOL)
X, Y = Var("x", FLOAT), Var("y", FLOAT)
NOTHING = Num(0.0, FLOAT)
INSIDE = Let(COND, "lt", (ROW, Num(8, INT)))
SHIFTED = Let(AT, "add", (ROW, Num(1, INT)))
GUARDED = Let(Var("k", INT), "select", (COND, AT, ZERO))


def kernel(*body: Stmt, start: Scalar = LO, stop: Scalar = HI, before: tuple[Stmt, ...] = ()) -> Kernel:
    return Kernel("k", (A, B), (), (*before, For(ROW, start, stop, body)), 9, 0)


def test_rows_beside_the_own_one() -> None:
    found = reaches(kernel(SHIFTED, Load(X, A, (AT,)), Load(Y, A, (ROW,)), Store(B, (ROW,), X)))
    assert found == {A: Reach(False, 0, 0, 1), B: Reach(True, 0, 0, 0)}


def test_parts_of_the_rows() -> None:
    low, high = Var("low", INT), Var("high", INT)
    inner = Let(low, "maximum", (LO, Num(2, INT))), Let(high, "minimum", (HI, Num(7, INT)))
    body = Load(X, A, (ROW,)), Store(B, (ROW,), X)
    assert reaches(kernel(*body, start=low, stop=high, before=inner)) is not None
    assert reaches(kernel(*body, start=high, stop=HI, before=inner)) is None  # may begin before `lo`
    assert reaches(kernel(*body, start=ZERO)) is None


def test_an_element_of_which_nothing_is_made_is_not_touched() -> None:
    kept = Let(Y, "select", (COND, X, NOTHING))
    body = INSIDE, SHIFTED, GUARDED, Load(X, A, (GUARDED.dst,)), kept, Store(B, (ROW,), Y)
    assert reaches(kernel(*body)) == {A: Reach(False, 0, 1, 1), B: Reach(True, 0, 0, 0)}


def test_an_element_of_which_something_is_made_is_touched() -> None:
    load = Load(X, A, (GUARDED.dst,))
    other = Let(Y, "select", (COND, NOTHING, X))
    found = reaches(kernel(INSIDE, SHIFTED, GUARDED, load, other, Store(B, (ROW,), Y)))
    assert found is not None and found[A] == Reach(False)
    found = reaches(kernel(INSIDE, SHIFTED, GUARDED, load, Store(B, (ROW,), X)))
    assert found is not None and found[A] == Reach(False)


def test_elements_at_other_places() -> None:
    reverse = Let(AT, "sub", (Num(8, INT), ROW))
    found = reaches(kernel(reverse, Load(X, A, (AT,)), Store(B, (Num(3, INT),), X)))
    assert found == {A: Reach(False), B: Reach(True)}


def test_names_mean_something_else_in_another_branch() -> None:
    """Where a loop was cut, its parts use the same names."""
    first = Let(AT, "add", (ROW, Num(1, INT))), Load(X, A, (AT,)), Store(B, (ROW,), X)
    second = Let(AT, "mul", (ROW, Num(2, INT))), Load(X, A, (AT,)), Store(B, (ROW,), X)
    loops = [For(Var("i1", INT), ZERO, Num(4, INT), part) for part in (first, second)]
    assert reaches(kernel(*loops)) == {A: Reach(False), B: Reach(True, 0, 0, 0)}
    assert reaches(kernel(first[0], loops[1])) == {A: Reach(False), B: Reach(True, 0, 0, 0)}
    again = Load(AT, Buffer("b2", Type(INT, (9,))), (ROW,)), Load(X, A, (AT,)), Store(B, (ROW,), X)
    found = reaches(kernel(first[0], *again))
    assert found is not None and found[A] == Reach(False)


def test_how_far_apart_rows_are_that_touch_the_same_one() -> None:
    assert Reach(False, 0, 0, 2).apart(Reach(True, 0, 1, 1)) == 1
    assert Reach(True, 0, -3, 0).apart(Reach(True, 0, -3, 0)) == 3
