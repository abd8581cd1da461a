"""Random loops over rows, cut into strips: the same results as uncut, on both engines, and the same bits on threads.

160 programs run on the LLVM engine, a quarter of them with LLVM's own optimisations, and 3 on the Numba engine;
TAPEFUSE_EXAMPLES=20000 draws ten times as many.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given

import tapefuse as tp
from tapefuse.codegen import planned
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.passes import strips
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.passes.bodies import rebuilt
from tapefuse.ir.types import Poly
from tapefuse.ir.verify import verify
from tests import engines, program_strips
from tests.differential import difference, noise
from tests.program_strips import recurrent
from tests.programs import Case, cases, random_case
from tests.test_random_programs import agree, budget, check, check_meaning, of_part, projection

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600")) // 10
SHARES = {"llvm": 1.0, "numba": 0.02}
PARTS = {"llvm": 4, "numba": 1}
RUNS = [pytest.param(engine, part, id=f"{engine}-{part}") for engine, n in PARTS.items() for part in range(n)]


@pytest.fixture(autouse=True)
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops of a few rows are cut, and run on threads."""
    for name, value in {"WORK": 1, "TILE": 1, "LANES": 1, "ROW_BYTES": 1, "IDLE": 99}.items():
        monkeypatch.setattr(strips, name, value)
    monkeypatch.setattr(planned, "GRAIN", 1)


@pytest.mark.parametrize(("engine", "part"), RUNS)
def test_random_strips(engine: str, part: int) -> None:
    drawn = cases(f"strips {engine} {part}", smallest=1, largest=2, grow=recurrent)
    agree(drawn, of_part(engine, part), PROGRAMS * SHARES[engine] / PARTS[engine])


def test_kernels_joined_inside_of_a_strip_are_still_copied() -> None:
    """Two kernels that are short enough to be copied are one that is not: numbers in registers were given to it."""
    check(random_case("strips llvm 1 1", 1, 2, recurrent), "llvm", Counter())


def test_strips_keep_the_meaning_of_loops() -> None:
    @budget(PROGRAMS)
    @given(cases("strips", smallest=1, largest=3, grow=recurrent))
    def agrees(case: Case) -> None:
        check_meaning(case, verify(case.graph), _changed)

    agrees()


def _changed(graph: Graph, arrays: list[np.ndarray]) -> str | None:
    known = noise(graph, arrays)
    if known is None:
        return None
    after = verify(strips.run(graph)[0])
    return difference(known[0], evaluate(_backwards(after), *arrays), known[1])


def _backwards(graph: Graph) -> Graph:
    """The graph with its parallel loops run from the last iteration to the first."""

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is not OPS["for"] or not v.attributes.get("parallel"):
            return None
        a = v.attributes
        body = a["body"].substitute({a["index"]: a["trips"] - 1 - Poly.symbol(a["index"])})
        return v.op.emit(*args, **{**a, "body": body})

    return Graph(graph.params, rebuilt(graph.outs, {}, change), graph.name)


def test_threads_change_no_bit() -> None:
    @budget(PROGRAMS / 8)
    @given(cases("strips on threads", smallest=1, largest=2, grow=recurrent))
    def agrees(case: Case) -> None:
        graph = gradient_graph(verify(case.graph))
        alone, together = (engines.threaded(graph, n) for n in (1, 2))
        arrays = case.arrays(0, case.bindings[0])
        arrays += projection(graph, arrays, 0)
        wanted = alone(*arrays)
        for _ in range(3):
            assert all(a.tobytes() == b.tobytes() for a, b in zip(wanted, together(*arrays), strict=True))

    agrees()


def test_loops_over_independent_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_strips, "MIXED", 10**9)
    graphs = [random_case(seed, 1, 1, recurrent).graph for seed in range(200)]
    assert sum(strips.run(graph)[1]["strips"] for graph in graphs) >= 0.98 * len(graphs)


def test_explain_says_which_loops_are_in_strips() -> None:
    def relaxed(x):
        for _ in range(100):
            x = tp.tanh(x * 0.5)
        return x

    f = tp.tape_function(relaxed)
    f(np.ones((64, 8)))
    (line,) = [line for line in f.explain().splitlines() if "in strips on threads" in line]
    assert line.startswith("     for at ") and "all iterations for " in line
