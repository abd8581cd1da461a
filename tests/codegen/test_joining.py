"""Loops of one iteration that read the same and do not depend on each other are one loop, with what it loads loaded
once; those that depend on each other, or have nothing in common, stay apart."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tapefuse.codegen import regions
from tapefuse.codegen.loops import For, Load, Num, Stmt, Store
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.passes.bodies import with_row
from tapefuse.ir.types import Poly
from tests.codegen.test_regions import agree, for_, kernels, p, walk

K = Poly.symbol("k")
TRIPS = 3


def cut(x: Value, start: int, limit: int) -> Value:
    return ops.slice_(x, starts=(start,), limits=(limit,), strides=(1,))


def with_part(x: Value, v: Value, start: int) -> Value:
    return ops.put(x, v, starts=(start,), strides=(1,))


def recorded(n: int, new, row) -> Graph:
    """x becomes new(x, c), and row k of a stack is row(x, c, what x becomes)."""
    x, c, a, b = (p(n) for _ in range(4))
    y = new(a, b)
    kept = row(a, b, y)
    stack = p(TRIPS, *kept.shape)
    body = Graph((a, stack, b), (y, with_row(stack, K, kept)))
    empty = ops.empty.emit(shape=stack.shape, dtype=stack.dtype)
    return Graph((x, c), for_((x, empty, c), body, TRIPS, "k", carried=2))


def long_loops(graph: Graph) -> list[tuple[Stmt, ...]]:
    """The bodies of the long loops in an iteration."""
    statements = [t for k in kernels(graph) for t in walk(k)]
    (iteration,) = (s.body for s in statements if isinstance(s, For) and s.var.name == "dim.k")
    loops = [s for s in walk(iteration) if isinstance(s, For) and isinstance(s.stop, Num)]
    return [s.body for s in loops if s.stop.value - s.start.value >= 32]


def check(graph: Graph, n: int, engine: str = "llvm") -> None:
    rng = np.random.default_rng(0)
    agree(graph, rng.standard_normal(n), rng.standard_normal(n), engine=engine)


def upwind(x: Value, c: Value) -> Value:
    n = x.shape[0]
    here, before = cut(x, 1, n), cut(x, 0, n - 1)
    return with_part(x, ops.sub(here, ops.mul(cut(c, 1, n), ops.sub(here, before))), 1)


def slope(x: Value, c: Value, y: Value) -> Value:
    n = x.shape[0]
    return ops.sub(cut(x, 1, n), cut(x, 0, n - 1))


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_a_step_and_what_is_kept_of_it_are_one_loop(engine: str) -> None:
    graph = recorded(200, upwind, slope)
    (body,) = long_loops(graph)
    assert sum(isinstance(s, Load) for s in body) == 3  # two neighbours, once each, and the coefficient
    assert sum(isinstance(s, Store) for s in body) == 2
    check(graph, 200, engine)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
@pytest.mark.parametrize("first, last", [(0, 200), (3, 200), (0, 190), (5, 195)])
def test_loops_that_are_shifted_and_of_other_lengths(first: int, last: int, engine: str) -> None:
    graph = recorded(200, upwind, lambda x, c, y: ops.mul(cut(x, first, last), 2.0))
    assert len(long_loops(graph)) == 1
    check(graph, 200, engine)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_three_loops_are_one(engine: str) -> None:
    x, c, a, b, left, right = p(200), p(200), p(200), p(200), p(TRIPS, 199), p(TRIPS, 200)
    outs = upwind(a, b), with_row(left, K, slope(a, b, a)), with_row(right, K, ops.mul(a, b))
    starts = [ops.empty.emit(shape=s.shape, dtype=s.dtype) for s in (left, right)]
    graph = Graph((x, c), for_((x, *starts, c), Graph((a, left, right, b), outs), TRIPS, "k", carried=3))
    (body,) = long_loops(graph)
    assert sum(isinstance(s, Store) for s in body) == 3
    check(graph, 200, engine)


@pytest.mark.parametrize(
    "why, row",
    [
        ("it reads what the step makes", lambda x, c, y: ops.mul(y, 2.0)),
        ("it reads something else", lambda x, c, y: ops.mul(cut(c, 0, 1), 2.0)),
        ("it is much shorter", lambda x, c, y: ops.mul(cut(x, 0, 100), 2.0)),
    ],
)
def test_left_apart(why: str, row) -> None:
    graph = recorded(200, upwind, row)
    joined = [b for b in long_loops(graph) if sum(isinstance(s, Store) for s in b) > 1]
    assert not joined, why
    check(graph, 200)


def test_short_loops_are_left_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "is_small", lambda token: False)
    graph = recorded(40, upwind, slope)
    assert len(long_loops(graph)) == 2
    check(graph, 40)


@pytest.mark.parametrize("seed", range(12))
def test_any_two_stencils(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randrange(70, 300)

    def stencil(x: Value, c: Value) -> Value:
        width = rng.randrange(3)
        last = n - 2 - rng.randrange(3)
        starts = [rng.randrange(3) for _ in range(width + 1)]
        total = ops.mul(cut(c, starts[0], last - 2 + starts[0]), 0.5)
        for s in starts:
            total = ops.add(total, ops.mul(cut(x, s, last - 2 + s), 0.25))
        return total

    def new(x: Value, c: Value) -> Value:
        return with_part(x, stencil(x, c), rng.randrange(4))

    graph = recorded(n, new, lambda x, c, y: stencil(x if rng.random() < 0.7 else y, c))
    for engine in ("llvm", "quick numba"):
        check(graph, n, engine)
