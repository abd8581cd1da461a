"""Batching random programs: one run for many examples is many runs for one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import evaluate
from tapefuse.ir.passes.batching import batched_graph
from tapefuse.ir.passes.forward import jvp_graph
from tapefuse.ir.types import Poly
from tapefuse.ir.verify import verify
from tests import engines
from tests.differential import difference, noise
from tests.programs import Case, cases

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600"))
SHARES = {"interpreter": 0.1, "llvm": 0.05, "numba": 0.005}
LARGEST = {"interpreter": 40, "llvm": 20, "numba": 8}
EXAMPLES = 3


def budget(examples: float) -> settings:
    phases, checks = (Phase.explicit, Phase.generate), list(HealthCheck)
    return settings(max_examples=max(1, round(examples)), deadline=None, phases=phases, suppress_health_check=checks)


@pytest.mark.parametrize("engine", SHARES)
def test_batched_programs_agree_with_loops(engine: str) -> None:
    @budget(PROGRAMS * SHARES[engine])
    @given(cases(f"batched {engine}", largest=LARGEST[engine]))
    def agree(case: Case) -> None:
        check(case, engine)

    agree()


@pytest.mark.parametrize("engine", ["interpreter", "llvm"])
def test_batched_tangents_agree_with_loops(engine: str) -> None:
    """The tangent rules of every op go through the batching rules."""

    @budget(PROGRAMS * SHARES[engine] / 2)
    @given(cases(f"batched tangents {engine}", largest=LARGEST[engine] // 2))
    def agree(case: Case) -> None:
        graph = jvp_graph(case.graph)
        more = (case.ranges[k] for k, p in enumerate(case.graph.params) if p.dtype.kind == "f")
        check(Case(graph, (*case.ranges, *more), case.bindings), engine)

    agree()


def check(case: Case, engine: str) -> None:
    graph = case.graph
    if not graph.params:
        return
    flags = [k == 0 or (len(repr(p.type)) + k) % 3 > 0 for k, p in enumerate(graph.params)]
    symbolic = len(flags) % 2 == 0
    batched = verify(batched_graph(graph, flags, Poly.symbol("EXAMPLES") if symbolic else EXAMPLES))
    run = (lambda *xs: evaluate(batched, *xs)) if engine == "interpreter" else engines.WRITTEN[engine](batched)
    for binding in case.bindings:
        drawn = [case.arrays(number, binding) for number in range(EXAMPLES)]
        rows = [[d[k] if f else drawn[0][k] for k, f in enumerate(flags)] for d in drawn]
        stacked = [np.stack([d[k] for d in drawn]) if f else drawn[0][k] for k, f in enumerate(flags)]
        compare(graph, rows, run(*stacked))


def compare(graph: Graph, rows: list[list[np.ndarray]], found: tuple[np.ndarray, ...]) -> None:
    for number, row in enumerate(rows):
        if (known := noise(graph, row)) is not None:
            wanted, tolerance = known
            problem = difference(wanted, [y[number] for y in found], tolerance)
            assert problem is None, f"{problem}, example {number}\n{graph}"
