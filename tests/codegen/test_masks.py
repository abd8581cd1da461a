"""Choices between a number and zero: loads under a mask where that gives the same bits, choices elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen import llvm_masks
from tapefuse.codegen.contraction import Registers
from tapefuse.codegen.llvm_loop_shapes import slopes_of
from tapefuse.codegen.llvm_masks import Zeroed
from tapefuse.codegen.loops import BOOL, INT, Buffer, For, Let, Load, Num, Scalar, Stmt, Store, Var
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.types import Type
from tests import engines

F8 = np.dtype(np.float64)
I, C, D, BOTH, T, U, V, W = (
    Var(n, d) for n, d in zip("icdbtuvw", (INT, BOOL, BOOL, BOOL, F8, F8, F8, F8), strict=True)
)
BEFORE, PLACE, CHOSEN = (Var(n, INT) for n in ("before", "place", "chosen"))
X, Y = (Buffer(name, Type(F8, (64,))) for name in ("b0", "b1"))
ZERO = Num(0.0, F8)
ASKED, OTHER = Let(C, "lt", (I, Num(38, INT))), Let(D, "ge", (I, Num(9, INT)))
LOADED, SCALED = Load(T, X, (I,)), Let(U, "mul", (T, Num(0.125, F8)))
CHOICE, STORED = Let(V, "select", (C, U, ZERO)), Store(Y, (I,), V)


@pytest.fixture(autouse=True)
def wide_registers(monkeypatch):
    monkeypatch.setattr(llvm_masks, "registers", lambda: Registers(64, 32))


def zeroed(*body: Stmt) -> Zeroed:
    s = For(I, Num(0, INT), Num(40, INT), body)
    return Zeroed(s, slopes_of(s))


def test_a_load_under_the_condition_of_a_choice() -> None:
    found = zeroed(ASKED, LOADED, SCALED, CHOICE, STORED)
    assert found.loads == {T: C} and found.choices == {V}


def test_an_index_that_is_chosen_with_it() -> None:
    """`b0[i - 1]` where i > 0 and d, else 0; elsewhere the index is 0."""
    moved = (Let(BEFORE, "sub", (I, Num(1, INT))), Let(C, "ge", (BEFORE, Num(0, INT))))
    index = (Let(PLACE, "select", (C, BEFORE, Num(0, INT))), Let(CHOSEN, "add", (PLACE, Num(0, INT))))
    both, load = Let(BOTH, "and", (D, C)), Load(T, X, (CHOSEN,))
    found = zeroed(*moved, *index, both, load, SCALED, Let(V, "select", (BOTH, U, ZERO)), STORED)
    assert found.loads == {T: BOTH} and found.choices == {V}
    other = zeroed(*moved, *index, load, SCALED, Let(V, "select", (D, U, ZERO)), STORED)
    assert not other.loads and not other.choices  # where d holds, c need not


def test_what_two_choices_with_one_condition_read() -> None:
    both = (Let(V, "select", (C, U, ZERO)), Let(W, "select", (C, T, ZERO)))
    found = zeroed(ASKED, LOADED, SCALED, *both, STORED, Store(Y, (I,), W))
    assert found.loads == {T: C} and found.choices == {V, W}


def choice(x: Scalar = U, other: Num = ZERO, condition: Var = C) -> Let:
    return Let(V, "select", (condition, x, other))


def scaled(by: float) -> Let:
    return Let(U, "mul", (T, Num(by, F8)))


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("-0.125 times zero is -0", (ASKED, LOADED, scaled(-0.125), choice(), STORED)),
        ("inf times zero is nan", (ASKED, LOADED, scaled(np.inf), choice(), STORED)),
        ("one more than zero is one", (ASKED, LOADED, Let(U, "add", (T, Num(1.0, F8))), choice(), STORED)),
        ("another number is chosen", (ASKED, LOADED, SCALED, choice(other=Num(1.0, F8)), STORED)),
        ("-0 is chosen", (ASKED, LOADED, SCALED, choice(other=Num(-0.0, F8)), STORED)),
        ("the product is stored, too", (ASKED, LOADED, SCALED, choice(), STORED, Store(Y, (I,), U))),
        ("what is loaded is stored, too", (ASKED, LOADED, SCALED, choice(), STORED, Store(Y, (I,), T))),
        ("an exponential of zero is one", (ASKED, LOADED, Let(U, "exp", (T,)), choice(), STORED)),
        ("it depends on a number that is not known", (ASKED, LOADED, Let(U, "mul", (T, W)), choice(), STORED)),
        ("the condition comes later", (LOADED, SCALED, ASKED, choice(), STORED)),
        (
            "another choice reads it",
            (ASKED, OTHER, LOADED, SCALED, choice(), Let(W, "select", (D, U, ZERO)), STORED, Store(Y, (I,), W)),
        ),
    ],
)
def test_choices_that_stay(why: str, body: tuple[Stmt, ...]) -> None:
    found = zeroed(*body)
    assert not found.loads and not found.choices, why


def test_machines_without_masks(monkeypatch) -> None:
    monkeypatch.setattr(llvm_masks, "registers", lambda: Registers(32, 16))
    assert not zeroed(ASKED, LOADED, SCALED, CHOICE, STORED).loads


# -- values ------------------------------------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -3.5, 5e-324, 1e308])


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("by", [0.125, -0.125, 3.0])
@pytest.mark.parametrize("columns", [9, 16, 40, 43, 66])
def test_padded_products_to_the_bit(engine: str, by: float, columns: int) -> None:
    """The sum of a row shifted both ways, zeros coming in from its ends."""
    x = param(Type(F8, (5, columns)))
    left, right = (
        ops.pad(ops.mul(ops.slice_(x, starts=(0, a), limits=(5, columns - 1 + a), strides=(1, 1)), by),
                value=0, low=(0, 1 - a), high=(0, a), interior=(0, 0))
        for a in (0, 1)
    )  # fmt: skip
    graph = Graph((x,), (ops.maximum(left, right), left))
    array = np.random.default_rng(columns).choice(SPECIAL, (5, columns))
    for ours, theirs in zip(engines.ENGINES[engine](graph)(array), evaluate(graph, array), strict=True):
        np.testing.assert_array_equal(np.signbit(ours[~np.isnan(theirs)]), np.signbit(theirs[~np.isnan(theirs)]))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_gradients_of_slices(engine: str) -> None:
    x = param(Type(F8, (7, 40)))
    parts = [ops.slice_(x, starts=(1, k), limits=(6, 38 + k), strides=(1, 1)) for k in (0, 1, 2)]
    total = ops.add(ops.mul(parts[0], 0.25), ops.add(ops.mul(parts[1], parts[1]), ops.mul(parts[2], -3.0)))
    both = gradient_graph(Graph((x,), (total,)))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.shape) for v in both.params]
    for ours, theirs in zip(engines.ENGINES[engine](both)(*arrays), evaluate(both, *arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-14)
