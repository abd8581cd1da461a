"""Random programs: every way of running one agrees, its text and its passes keep its meaning, its gradient is right.

2,000 programs run on the LLVM engine and 200 on the Numba engine; TAPEFUSE_EXAMPLES=20000 draws more of both. A failing
case prints as IR text, which can be saved under tests/ir/cases. `tests.programs.reduced` makes it smaller.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import PASSES, optimise
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.print import show
from tapefuse.ir.verify import verify
from tests import engines
from tests.differential import Arrays, as_double, difference, directions, in_double, noise, slope
from tests.programs import Case, cases, random_case, special_cases

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "2000"))
SHARES = {"llvm": 1.0, "numba": 0.1}  # of the programs that an engine runs
PARTS = {"llvm": 16, "numba": 4}  # tests that share them, so that workers are equally busy
LARGEST = {"llvm": 40, "numba": 12}  # ops; Numba takes about a second to compile a small program
NEVER_DRAWN: frozenset[str] = frozenset()
EXACT = np.zeros(())
RUNS = [pytest.param(engine, part, id=f"{engine}-{part}") for engine, n in PARTS.items() for part in range(n)]


def budget(examples: float):
    return settings(max_examples=max(1, round(examples)), deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("engine", "part"), RUNS)
def test_random_programs(engine: str, part: int) -> None:
    counts: Counter[str] = Counter()

    @budget(PROGRAMS * SHARES[engine] / PARTS[engine])
    @given(cases(largest=LARGEST[engine]))
    def agree(case: Case) -> None:
        check(case, engine, counts)

    agree.hypothesis.inner_test.__qualname__ += f"_{engine}_{part}"  # each part draws programs of its own
    agree()
    if counts["inputs"] > 50:
        assert counts["slopes discarded"] < 0.2 * counts["slopes"], counts
        assert counts["unstable"] < 0.1 * counts["inputs"], counts


def check(case: Case, engine: str, counts: Counter[str]) -> None:
    """All properties of one case. The engine runs the outputs and the gradients as one program."""
    graph = gradient_graph(verify(case.graph))
    run = engines.ENGINES[engine](graph)
    keeps_its_text(graph)
    for seed, binding in enumerate(case.bindings):
        arrays = case.arrays(seed, binding)
        seeds = projection(graph, len(arrays), binding, seed)
        counts["inputs"] += 1
        known = noise(graph, [*arrays, *seeds])
        if known is None:
            counts["unstable"] += 1
            run(*arrays, *seeds)
        else:
            agrees_everywhere(graph, [*arrays, *seeds], *known, run)
        gradient_is_slope(case.graph, arrays, seeds, counts)


def projection(graph: Graph, count: int, binding: Mapping[str, int], seed: int) -> list[np.ndarray]:
    """Random cotangents of the float outputs: the parameters of a gradient graph after the first `count`."""
    rng = np.random.default_rng([seed, 1])
    types = (p.type.substitute(binding) for p in graph.params[count:])
    return [np.asarray(rng.normal(size=t.shape), t.dtype) for t in types]


def keeps_its_text(graph: Graph) -> None:
    text = show(graph)
    assert show(parse(text)) == text


def agrees_everywhere(graph: Graph, arrays: Arrays, wanted: Arrays, tolerance: Arrays, run: engines.Run) -> None:
    """Parsed from its text, after each pass, compiled, and in double precision: the same outputs."""
    same = lambda found, by=tolerance: difference(wanted, found, by)
    problem = same(evaluate(parse(show(graph)), *arrays), [EXACT] * len(wanted))
    assert problem is None, f"parsed from its text: {problem}"
    for p in PASSES:
        problem = same(evaluate(verify(p.run(graph)[0]), *arrays))
        assert problem is None, f"after pass {p.name}: {problem}"
    problem = same(evaluate(verify(optimise(graph)), *arrays))
    assert problem is None, f"after all passes: {problem}"
    problem = same(run(*arrays))
    assert problem is None, f"compiled: {problem}"
    double = evaluate(in_double(graph), *as_double(arrays))
    problem = same([d.astype(w.dtype) for d, w in zip(double, wanted, strict=True)], [4 * t for t in tolerance])
    assert problem is None, f"in double precision: {problem}"


def gradient_is_slope(graph: Graph, arrays: Arrays, seeds: Arrays, counts: Counter[str]) -> None:
    """In double precision, along two random directions."""
    graph, arrays, seeds = in_double(graph), as_double(arrays), as_double(seeds)
    gradients = evaluate(gradient_graph(graph), *arrays, *seeds)[len(graph.outs) :]
    for k in range(2):
        direction = directions(arrays, k)
        found = slope(graph, arrays, direction, seeds)
        counts["slopes"] += 1
        if found is None:
            counts["slopes discarded"] += 1
            continue
        along = [d for d, a in zip(direction, arrays, strict=True) if a.dtype.kind == "f"]
        ours = sum(float(np.sum(d * g)) for d, g in zip(along, gradients, strict=True))
        assert abs(ours - found[0]) <= found[1], f"gradient {ours} along a direction, finite differences {found[0]}"


@pytest.mark.parametrize("engine", PARTS)
def test_special_values(engine: str) -> None:
    """Elementwise programs of few ops on nan, infinities, zeros of both signs and extremes."""

    @budget(PROGRAMS * SHARES[engine] / 20)
    @given(special_cases())
    def agree(case: Case) -> None:
        graph = verify(case.graph)
        arrays = case.arrays(0, {})
        wanted = evaluate(graph, *arrays)
        loose = [4 * np.finfo(w.dtype).eps * np.abs(w) if w.dtype.kind == "f" else EXACT for w in wanted]
        for name, found in (("passes", evaluate(optimise(graph), *arrays)), ("compiled", engines.ENGINES[engine](graph)(*arrays))):
            problem = difference(wanted, found, loose)
            assert problem is None, f"{name}: {problem}"

    agree()


def test_every_op_is_drawn() -> None:
    drawn = {v.op.name for seed in range(400) for v in random_case(seed).graph.nodes}
    assert drawn == set(OPS) - NEVER_DRAWN


def test_programs_have_the_promised_variety() -> None:
    """Ranks 0 to 4, empty and symbolic shapes, both precisions, odd outputs, unused parameters, 3 to 40 ops and more."""
    found = [random_case(seed).graph for seed in range(400)]
    shapes = [v.shape for g in found for v in g.nodes]
    assert {len(s) for s in shapes} >= {0, 1, 2, 3, 4}
    assert any(0 in s for s in shapes) and any(g.symbols for g in found)
    assert {p.dtype.name for g in found for p in g.params} >= {"float32", "float64", "int64", "int32", "uint8", "bool"}
    assert any(len(set(g.outs)) < len(g.outs) for g in found)
    assert any(v in g.params for g in found for v in g.outs)
    assert any(v.op is OPS["const"] for g in found for v in g.outs)
    assert any(p not in {a for v in g.nodes for a in v.args} | set(g.outs) for g in found for p in g.params)
    sizes = [len([v for v in g.nodes if v.op is not OPS["const"]]) for g in found]
    assert min(sizes) >= 3 and max(sizes) >= 25
