"""Random programs with loops and branches as operations on graphs: what `test_random_programs` says, for regions too.

400 programs run on the LLVM engine and 8 on the Numba engine, in part with less of a compiler as in
`test_random_programs`; TAPEFUSE_EXAMPLES=20000 draws ten times as many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given

from tapefuse.ir.digest import digest
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import optimise
from tapefuse.ir.print import show
from tapefuse.ir.verify import verify
from tests.differential import noise
from tests.program_regions import mixed
from tests.programs import Case, cases, random_case
from tests.test_random_programs import (
    Way,
    agree,
    budget,
    changed_meaning,
    check_meaning,
    of_part,
    small,
    ways,
    wrong_slope,
)

optimised = lru_cache(maxsize=1)(optimise)  # for all inputs of a program
PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600")) // 4
SHARES = {"llvm": 1.0, "numba": 0.02}
PARTS = {"llvm": 8, "numba": 2}
LARGEST = {"llvm": 10, "numba": 4}  # ops, each region one
RUNS = [pytest.param(engine, part, id=f"{engine}-{part}") for engine, n in PARTS.items() for part in range(n)]


@pytest.mark.parametrize(("engine", "part"), RUNS)
def test_random_regions(engine: str, part: int) -> None:
    """Text, passes and compiled code keep the meaning of a program and of its gradient; the gradient is right."""
    drawn = cases(f"regions {engine} {part}", smallest=2, largest=LARGEST[engine], grow=mixed)
    agree(drawn, of_part(engine, part), PROGRAMS * SHARES[engine] / PARTS[engine])


@pytest.mark.parametrize("part", range(2))
def test_random_complex_regions(part: int) -> None:
    drawn = cases(f"complex regions {part}", smallest=2, largest=LARGEST["llvm"], grow=mixed, is_complex=True)
    agree(drawn, of_part("llvm", part), PROGRAMS / 8)


@pytest.mark.parametrize("part", range(2))
def test_text_and_passes_keep_the_meaning_of_regions(part: int) -> None:
    @budget(PROGRAMS / 4)
    @given(cases(f"region texts {part}", smallest=2, largest=16, grow=mixed))
    def agrees(case: Case) -> None:
        graph = verify(case.graph)
        text = show(graph)
        assert show(parse(text)) == text
        assert digest(parse(text)) == digest(graph)
        check_meaning(case, graph, _changed)

    agrees()


def _changed(graph: Graph, arrays: list[np.ndarray]) -> str | None:
    """What is different after being printed and parsed, or after a pass."""
    known = noise(graph, arrays)
    if known is None:
        return None
    every = [*ways(graph), Way("after all passes", verify(optimised(graph)))]
    return changed_meaning(graph, arrays, every, *known)


@pytest.mark.parametrize("part", range(2))
def test_gradients_of_regions(part: int) -> None:
    counts: Counter[str] = Counter()

    @budget(PROGRAMS / 4)
    @given(cases(f"region gradients {part}", smallest=2, largest=8, grow=mixed))
    def agrees(case: Case) -> None:
        for number, binding in enumerate(case.bindings[:1]):
            arrays = case.arrays(number, binding)
            if problem := wrong_slope(case.graph, arrays, number, counts):
                text = small(case.graph, arrays, lambda g, a, n=number: wrong_slope(g, a, n))
                raise AssertionError(f"{problem}\n{text}")

    agrees()
    if counts["slopes"] > 50:
        assert counts["slopes discarded"] < 0.2 * counts["slopes"], counts


def test_every_region_is_drawn_in_every_other() -> None:
    names = {name for name, op in OPS.items() if op.is_region} - {"recording"}  # the last pass makes those
    missing = {(a, b) for a in names for b in names}
    for seed in range(3000):
        missing -= {(outer.op.name, inner.op.name) for outer, inner in _nested(random_case(seed, 2, 10, mixed).graph)}
        if not missing:
            return
    assert not missing


def _nested(graph: Graph) -> Iterator[tuple[Value, Value]]:
    for v in graph.nodes:
        for body in region.graphs(v):
            yield from ((v, inner) for inner in body.nodes if inner.op.is_region)
            yield from _nested(body)


def test_loops_have_the_promised_variety() -> None:
    """No trips, symbolic trips, carries that are exchanged, kept or given twice, results that nobody reads."""
    graphs = [random_case(seed, 2, 10, mixed).graph for seed in range(600)]
    loops = [v for g in graphs for v in g.nodes if v.op is OPS["for"]]
    trips = [v.attributes["trips"] for v in loops]
    assert 0 in trips and 1 in trips and any(not isinstance(n, int) for n in trips)
    carries = [(v.attributes["body"].params[: v.attributes["carried"]], v.attributes["body"].outs, v) for v in loops]
    assert any(p in outs and outs.index(p) != params.index(p) for params, outs, _ in carries for p in params)
    assert any(p is out for params, outs, _ in carries for p, out in zip(params, outs, strict=True))
    assert any(len(set(outs)) < len(outs) for _, outs, _ in carries)
    assert any(len(set(v.args[: len(params)])) < len(params) for params, _, v in carries)
    read = {(a, v.attributes["index"]) for g in graphs for v in g.nodes if v.op is OPS["result"] for a in v.args}
    assert any((v, k) not in read for params, _, v in carries for k in range(len(params)))
