"""Products that several sums read, computed in each of them: which, and that nothing else changes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tapefuse.codegen.llvm_loop_shapes import slopes_of
from tapefuse.codegen.llvm_multiply_adds import repeated
from tapefuse.codegen.loops import INT, Buffer, For, Let, Load, Num, Scalar, Stmt, Store, Var
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.types import Type
from tests import engines

F8 = np.dtype(np.float64)
I = Var("i", INT)
X = Buffer("b0", Type(F8, (9, 64)))
Y = Buffer("b1", Type(F8, (9, 64)))


def number(name: str) -> Var:
    return Var(name, F8)


def load(name: str, row: int) -> Load:
    return Load(number(name), X, (Num(row, INT), I))


def let(name: str, op: str, *args: Scalar | str) -> Let:
    return Let(number(name), op, tuple(number(a) if isinstance(a, str) else a for a in args))


def found(*body: Stmt) -> dict:
    s = For(I, Num(0, INT), Num(64, INT), body)
    return repeated(s, slopes_of(s))


LOADS = tuple(load(name, k) for k, name in enumerate("abcx"))
TWICE = let("p", "mul", Num(2.0, F8), "x")
SUMS = (let("u", "sub", "a", "p"), let("v", "add", "b", "p"), let("w", "sub", "p", "c"))
STORES = tuple(Store(Y, (Num(k, INT), I), number(name)) for k, name in enumerate("uvw"))


def test_a_product_that_only_sums_read() -> None:
    assert found(*LOADS, TWICE, *SUMS, *STORES) == {number("p"): (Num(2.0, F8), number("x"))}


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("one sum reads it", (*LOADS, TWICE, SUMS[0], STORES[0])),
        ("it is stored, too", (*LOADS, TWICE, *SUMS, *STORES, Store(Y, (Num(3, INT), I), number("p")))),
        ("a product reads it, too", (*LOADS, TWICE, *SUMS, *STORES, let("q", "mul", "p", "a"))),
        ("both factors vary", (*LOADS, let("p", "mul", "a", "x"), *SUMS, *STORES)),
        ("it is added to itself", (*LOADS, TWICE, let("u", "add", "p", "p"), *SUMS[1:], *STORES)),
        ("a sum is a multiply-add already", (*LOADS, TWICE, let("c", "mul", "a", "b"), *SUMS, *STORES)),
        (
            "there are more products than sums",
            (*LOADS, TWICE, *SUMS, *STORES, *(let(f"q{k}", "mul", "a", Num(k + 3.0, F8)) for k in range(4))),
        ),
    ],
)
def test_products_that_are_computed_once(why: str, body: tuple[Stmt, ...]) -> None:
    assert not found(*body), why


def differences(factor: float) -> Graph:
    """Three sums with one product."""
    x, y, z, c = (param(Type(F8, (70,))) for _ in range(4))
    p = ops.mul(c, factor)
    return Graph((x, y, z, c), (ops.add(ops.add(ops.sub(x, p), ops.add(y, p)), ops.mul(ops.sub(p, z), y)),))


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("factor", [2.0, -0.5, 0.1])
def test_values(engine: str, factor: float) -> None:
    graph = differences(factor)
    arrays = [np.random.default_rng(k).standard_normal(70) for k in range(4)]
    (ours,) = engines.ENGINES[engine](graph)(*arrays)
    np.testing.assert_allclose(ours, evaluate(graph, *arrays)[0], rtol=1e-13, atol=1e-14)


def test_strict_programs_round_each_product() -> None:
    graph = differences(0.1)
    texts = [compiled(Request(graph, 4, strict=strict)).llvm() for strict in (False, True)]
    assert [len(re.findall(r"call <\d+ x double> @llvm.fmuladd", text)) > 0 for text in texts] == [True, False]
