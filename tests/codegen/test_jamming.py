"""Rows of stencils side by side: what becomes of a loop, where it stays as it is, and values on both engines."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tapefuse.codegen.choices import AsMeasured
from tapefuse.codegen.jamming import jammed
from tapefuse.codegen.loops import BOOL, HI, INT, LO, Buffer, For, If, Kernel, Let, Load, Num, Store, Update, Var
from tapefuse.codegen.loops_text import show
from tapefuse.codegen.loops_walk import walk
from tapefuse.codegen.plan import plan
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.ops.update import put
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.types import Type
from tests.engines import request, run_of

F8 = np.dtype(np.float64)
I, J, T, U, V, NEXT, INSIDE = (Var(n, d) for n, d in zip("ijtuvnc", (INT, INT, F8, F8, F8, INT, BOOL), strict=True))
X, Y = (Buffer(name, Type(F8, (101, 64))) for name in ("b0", "b1"))
ONE = Num(1, INT)
LOADED = (Load(T, X, (I, J)), Let(NEXT, "add", (I, ONE)), Load(U, X, (NEXT, J)), Let(V, "add", (T, U)))
BODY = (*LOADED, Store(Y, (I, J), V))


def rows(*body, columns: int = 64) -> For:
    return For(I, LO, HI, (For(J, Num(0, INT), Num(columns, INT), body),))


def test_four_rows_load_five():
    text = show(Kernel("k0", (X, Y), (), jammed([rows(*BODY)]), 100, 0))
    block, rest = text[text.index("for iblock") :].split("for iside")
    assert text.count("iblocks = floordiv icount 4") == 1
    assert block.count("load b0") == 5 and block.count("store b1") == 4
    assert rest.count("load b0") == 2 and rest.count("for i in ione..iother") == 1
    order = [line.split()[0] for line in block.splitlines() if "b0" in line or "b1" in line]
    assert order[-4:] == ["store"] * 4


@pytest.mark.parametrize(
    ("why", "body", "columns"),
    [
        ("nothing is shared", (BODY[0], Store(Y, (I, J), T)), 64),
        ("what is stored is loaded", (*LOADED, Store(X, (I, J), V)), 64),
        ("all rows store the same elements", (*LOADED, Store(Y, (J, J), V)), 64),
        ("a sum over the row", (*LOADED, Update(Var("a", F8), "add", V)), 64),
        ("short rows", BODY, 7),
    ],
)
def test_loops_that_stay(why: str, body: tuple, columns: int):
    assert jammed([rows(*body, columns=columns)]) == (rows(*body, columns=columns),), why


@pytest.mark.parametrize(("op", "bound"), [("ge", "ilow = maximum lo 5"), ("lt", "ihigh = minimum hi 5")])
def test_rows_for_which_a_condition_holds(op: str, bound: str):
    loop = rows(*BODY).body[0]
    body = (Let(INSIDE, op, (I, Num(5, INT))), If(INSIDE, (loop,), (loop,)))
    text = show(Kernel("k0", (X, Y), (), jammed([For(I, LO, HI, body)]), 9, 0))
    assert bound in text
    block, rest = text.split("for iside")
    assert "if c" not in block and rest.count("if c") == 1


def test_a_condition_of_another_kind():
    """Rows between two for which it holds may be others."""
    loop, odd = rows(*BODY).body[0], Var("o", INT)
    asked = (Let(odd, "mod", (I, Num(2, INT))), Let(INSIDE, "lt", (odd, ONE)))
    body = [For(I, LO, HI, (*asked, If(INSIDE, (loop,), (loop,))))]
    assert list(jammed(body)) == body


# -- rows of two loops -------------------------------------------------------------------------------------------------

K, BEYOND = Var("k", INT), Var("nextk", INT)
CUBE, NEW = (Buffer(name, Type(F8, (30, 40, 64))) for name in ("b0", "b1"))


def planes(*body, columns: int = 64) -> For:
    return For(K, LO, HI, (For(I, Num(0, INT), Num(39, INT), (For(J, Num(0, INT), Num(columns, INT), body),)),))


ALONG = (Load(T, CUBE, (K, I, J)), Let(NEXT, "add", (I, ONE)), Load(U, CUBE, (K, NEXT, J)))
ACROSS = (Let(BEYOND, "add", (K, ONE)), Load(V, CUBE, (BEYOND, I, J)))
TERMS = (Let(Var("s", F8), "add", (T, U)), Let(Var("r", F8), "add", (Var("s", F8), V)))
BOTH = (*ALONG, *ACROSS, *TERMS, Store(NEW, (K, I, J), Var("r", F8)))


def test_two_rows_of_two_planes_load_eight():
    """Four rows of one plane would load nine, and one by one twelve."""
    text = show(Kernel("k0", (CUBE, NEW), (), jammed([planes(*BOTH)]), 29, 0))
    block, rest = text[text.index("for kblock") :].split("\n  for k in lo..hi")
    assert "kblocks = floordiv kcount 2" in text and "iblocks = floordiv 39 2" in text
    assert block.count("load b0") == 8 and block.count("store b1") == 4
    assert rest.count("load b0") == 3 and rest.count("for i in ione..iother") == 1


def test_rows_that_planes_do_not_share_are_four_of_one():
    nest = planes(*ALONG, TERMS[0], Store(NEW, (K, I, J), Var("s", F8)))
    text = show(Kernel("k0", (CUBE, NEW), (), jammed([nest]), 29, 0))
    assert "kblock" not in text and "iblocks = floordiv 39 4" in text


def test_planes_that_store_the_same_rows_are_not_side_by_side():
    text = show(Kernel("k0", (CUBE, NEW), (), jammed([planes(*BOTH[:-1], Store(NEW, (I, I, J), U))]), 29, 0))
    assert "kblock" not in text


def test_planes_and_rows_for_which_conditions_hold():
    """Of the planes on both sides, and the rows beyond the last, all are in the loop over single rows."""
    loop = For(J, Num(0, INT), Num(64, INT), BOTH)
    names = [Var(f"q{k}", BOOL) for k in range(5)]
    asked = [Let(q, op, (x, Num(n, INT))) for q, op, x, n in zip(names, ("ge", "lt", "lt"), (K, K, I), (2, 27, 30))]  # noqa: B905
    asked += [Let(names[3], "and", (names[0], names[1])), Let(names[4], "and", (names[3], names[2]))]
    nest = For(K, LO, HI, (For(I, Num(0, INT), Num(39, INT), (*asked, If(names[4], (loop,), (loop,)))),))
    text = show(Kernel("k0", (CUBE, NEW), (), jammed([nest]), 29, 0))
    for line in ("klow = maximum lo 2", "khigh = minimum hi 27", "ihigh = minimum 39 30"):
        assert line in text
    assert "if q4" not in text[text.index("for kblock") : text.index("\n  for k in lo..hi")]


# -- values ------------------------------------------------------------------------------------------------------------


class SideBySide(AsMeasured):
    """Whatever may be side by side is."""

    def decide(self, question: str, wanted: bool) -> bool:
        return wanted or question.endswith("side by side")


def relaxation(shape: tuple[int, ...], reach: int, steps: int, *, crossed: bool) -> Graph:
    """Inner points become a sum of their neighbours, with weights; all in the box around them, or those on the axes."""
    x, state, k = param(Type(F8, shape)), param(Type(F8, shape)), region.fresh("k")
    inner = tuple(n - 2 * reach for n in shape)
    total: Value | None = None
    for number, at in enumerate(product(range(2 * reach + 1), repeat=len(shape))):
        if crossed and sum(i != reach for i in at) > 1:
            continue
        limits = tuple(i + n for i, n in zip(at, inner, strict=True))
        part = ops.mul(ops.slice_(state, starts=at, limits=limits, strides=(1,) * len(shape)), 0.01 * (number + 3))
        total = part if total is None else ops.add(total, part)
    assert total is not None
    new = put(state, total, starts=(reach,) * len(shape), strides=(1,) * len(shape))
    attributes = {"body": Graph((state,), (new,)), "trips": steps, "index": k, "carried": 1}
    return Graph((x,), region.apply(OPS["for"], (x,), attributes))


CASES = [
    *(relaxation((n, 37), 1, 3, crossed=True) for n in (3, 5, 6, 7, 8, 9, 10, 13, 30)),
    *(relaxation((12, n), 1, 2, crossed=True) for n in (9, 10, 16, 17, 18, 19, 24, 25, 33, 66)),
    relaxation((14, 41), 1, 2, crossed=False),
    relaxation((15, 30), 2, 3, crossed=True),
    *(relaxation((n, m, 26), 1, 2, crossed=True) for n, m in ((3, 3), (4, 9), (5, 6), (6, 5), (9, 11), (12, 8))),
    *(relaxation((6, 7, n), 1, 3, crossed=True) for n in (9, 16, 24, 40, 42)),
    relaxation((6, 9, 24), 1, 2, crossed=False),
    relaxation((9, 10, 20), 2, 2, crossed=True),
    relaxation((3, 5, 6, 16), 1, 2, crossed=True),
]


@pytest.mark.parametrize(("engine", "graph"), [*product(["llvm"], CASES), *product(["quick numba"], CASES[6:35:7])])
def test_values_and_gradients(engine: str, graph: Graph):
    both = gradient_graph(graph)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.shape) for v in both.params]
    found = run_of(engine, request(both, SideBySide()))(*arrays)
    for ours, theirs in zip(found, evaluate(both, *arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_stencils_are_side_by_side():
    """Both ways, where a step takes a few microseconds."""
    both = gradient_graph(relaxation((150, 150), 1, 3, crossed=True))
    (forward, backward) = [
        launched for s in plan(request(both)).steps for launched in walk(s.kernel.body) if hasattr(launched, "kernel")
    ]
    for launched in (forward, backward):
        assert any(isinstance(s, For) and s.var.name.endswith("block") for s in walk(launched.kernel.body))
