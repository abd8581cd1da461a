"""Elements that an innermost loop stores and loads again later stay in registers, where their indices show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tapefuse.codegen.loops import Assign, For, Load, Stmt
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.types import Dim, Poly
from tests.codegen.test_regions import agree, element, for_, kernels, p, walk, with_element

K = Poly.symbol("k")
Update = tuple[Sequence[Dim], Sequence[Dim]]  # x[the first] becomes half of itself plus x[the second]


def sweep(shape: tuple[int, ...], trips: int, updates: Sequence[Update]) -> Graph:
    """A loop of updates, one after the other."""
    x, first = p(*shape), p(*shape)
    v: Value = first
    for target, source in updates:
        v = with_element(v, ops.add(ops.mul(element(v, *target), 0.5), element(v, *source)), *target)
    return Graph((x,), for_([x], Graph((first,), (v,)), trips, "k"))


def loop(graph: Graph) -> tuple[Stmt, ...]:
    """The statements of an iteration."""
    (body,) = kernels(graph)
    (found,) = (s.body for s in walk(body) if isinstance(s, For) and s.var.name == "dim.k")
    return found


def loads(graph: Graph) -> int:
    return sum(isinstance(s, Load) for s in loop(graph))


def check(graph: Graph, shape: tuple[int, ...], engine: str = "llvm") -> None:
    agree(graph, np.random.default_rng(0).standard_normal(shape), engine=engine)


FIBONACCI = [((K + 2,), (K + 1,)), ((K + 2,), (K,))]
BACK = [((9 - K,), (10 - K,)), ((10 - K,), (8 - K,)), ((8 - K,), (9 - K,))]


@pytest.mark.parametrize("engine", ["llvm", "numba"])
@pytest.mark.parametrize("updates", [FIBONACCI, BACK], ids=["forwards", "backwards"])
def test_one_element_is_loaded_in_an_iteration(updates: Sequence[Update], engine: str) -> None:
    graph = sweep((12,), 7, updates)
    assert loads(graph) == 1
    check(graph, (12,), engine)


def test_rows_have_windows_of_their_own() -> None:
    rows = [((r, K + 1), (r, K)) for r in range(3)]
    graph = sweep((3, 9), 8, rows)
    assert loads(graph) == 3
    check(graph, (3, 9))


@pytest.mark.parametrize(
    ("why", "updates"),
    [
        ("an element between is not touched", [((K + 3,), (K + 1,)), ((K + 3,), (K,))]),
        ("another step", [((K + 2,), (K + 1,)), ((K + 2,), (2 * K,))]),
        ("one that stays", [((K + 2,), (K + 1,)), ((3,), (K,))]),
        ("what is read is stored never before", [((K,), (K + 1,)), ((K,), (K + 2,))]),
    ],
)
def test_what_stays_in_memory(why: str, updates: Sequence[Update]) -> None:
    graph = sweep((20,), 7, updates)
    assert not any(isinstance(s, Assign) for s in loop(graph)), why
    check(graph, (20,))


def test_no_iteration_reads_nothing() -> None:
    n = Poly.symbol("n")
    x, size = p(4), p(n)
    v = p(4)
    body = with_element(v, ops.add(element(v, K + 1), element(v, K)), K + 1)
    graph = Graph((x, size), for_([x], Graph((v,), (body,)), n, "k"))
    for trips in (0, 1, 3):
        agree(graph, np.arange(4.0), np.zeros(trips), engine="llvm")


@pytest.mark.parametrize("seed", range(40))
def test_random_updates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, trips = int(rng.integers(1, 3)), int(rng.integers(2, 9))
    shape = (4, 16)[-rank:]
    forwards = bool(rng.integers(2))

    def index() -> tuple[Dim, ...]:
        offset = int(rng.integers(4))
        last: Dim = K + offset if forwards else 11 - K + offset
        last = last if rng.integers(12) else 5
        return (*(int(rng.integers(2)) + 1 for _ in range(rank - 1)), last)

    graph = sweep(shape, trips, [(index(), index()) for _ in range(int(rng.integers(1, 6)))])
    check(graph, shape)
