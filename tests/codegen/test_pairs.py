"""Arrays that change their roles after each iteration: what no iteration changes is copied once."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen.loops import For, Load, Stmt, Store
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.ops.update import put
from tapefuse.ir.types import Dim, Poly
from tests.codegen.test_regions import ENGINES, agree, for_, kernels, p, walk, while_

K, N = Poly.symbol("k"), Poly.symbol("n")
SHAPE = (12, 13)


def relaxed(x: Value, low: Dim = 1) -> Value:
    """The points from `low` on become the mean of their neighbours above and below."""
    n, m = x.shape
    above, below = (
        ops.slice_(x, starts=(low + by, 1), limits=(n - 1 + by, m - 1), strides=(1, 1)) for by in (-1, 1)
    )
    return put(x, ops.mul(ops.add(above, below), 0.5), starts=(low, 1), strides=(1, 1))


def stencil(trips: Dim, low: Dim = 1) -> Graph:
    x, size, v = p(*SHAPE), p(N), p(*SHAPE)
    return Graph((x, size), for_([x], Graph((v,), (relaxed(v, low),)), trips, "k"))


def copies(body: tuple[Stmt, ...]) -> int:
    """Loops in the statements that only copy elements."""
    inner = [s.body for s in walk(body) if isinstance(s, For)]
    return sum(len(b) == 2 and isinstance(b[0], Load) and isinstance(b[1], Store) for b in inner)


def iteration(graph: Graph) -> tuple[Stmt, ...]:
    (body,) = kernels(graph)
    (found,) = (s.body for s in walk(body) if isinstance(s, For) and s.var.name == "dim.k")
    return found


def test_the_frame_is_copied_before_the_loop() -> None:
    (body,) = kernels(graph := stencil(5))
    assert copies(iteration(graph)) == 0
    assert copies(body) == 5  # the first value, and four sides


def test_a_frame_that_changes_is_computed_in_each_iteration() -> None:
    x, v = p(*SHAPE), p(*SHAPE)
    graph = Graph((x,), for_([x], Graph((v,), (relaxed(ops.neg(v)),)), 3, "k"))
    agree(graph, np.random.default_rng(0).random(SHAPE), engine="llvm")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("trips", [2, 5, N])
@pytest.mark.parametrize("low", [1, K + 1], ids=["fixed", "grows"])
def test_values(trips: Dim, low: Dim, engine: str) -> None:
    graph = stencil(trips, low)
    for n in (0, 1, 4, 5):
        agree(graph, np.random.default_rng(n).random(SHAPE), np.zeros(n), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("turns", [0, 1, 4])
def test_a_loop_with_a_condition(engine: str, turns: int) -> None:
    x, n, (c, cn), (b, bn) = p(*SHAPE), p(), (p(*SHAPE), p()), (p(*SHAPE), p())
    cond, body = Graph((c, cn), (ops.gt(cn, 0.0),)), Graph((b, bn), (relaxed(b), ops.sub(bn, 1.0)))
    graph = Graph((x, n), while_([x, n], cond, body, 2))
    agree(graph, np.random.default_rng(0).random(SHAPE), float(turns), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("trips", [2, 3])
def test_a_frame_that_moves_is_copied_in_each_iteration(trips: int, engine: str) -> None:
    """Nine of twelve rows become the mean of their neighbours to the left and right, from row k on."""
    x, v = p(*SHAPE), p(*SHAPE)
    left, right = (ops.slice_(v, starts=(K, by), limits=(K + 9, by + 11), strides=(1, 1)) for by in (0, 2))
    new = put(v, ops.mul(ops.add(left, right), 0.5), starts=(K, 1), strides=(1, 1))
    graph = Graph((x,), for_([x], Graph((v,), (new,)), trips, "k"))
    assert copies(iteration(graph)) > 0
    agree(graph, np.random.default_rng(0).random(SHAPE), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_inside_of_another_loop(engine: str) -> None:
    """Both arrays of the pair are new to each run of the inner loop."""
    x, a, b = p(*SHAPE), p(*SHAPE), p(*SHAPE)
    (inner,) = for_([ops.mul(a, 1.5)], Graph((b,), (relaxed(b),)), 3, "i")
    agree(Graph((x,), for_([x], Graph((a,), (inner,)), 4, "k")), np.random.default_rng(0).random(SHAPE), engine=engine)
