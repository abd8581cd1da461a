"""Random programs: every way of running one agrees, its text and its passes keep its meaning, its gradient is right.

1,600 programs run on the LLVM engine and 160 on the Numba engine; TAPEFUSE_EXAMPLES=20000 draws more of both. A quarter
of them are compiled as users have them. The others, and those of random schedules, are compiled without LLVM's own
optimisations, or run as the plain Python that Numba is given: compiling would take most of the time.
Passes that leave a program as it is are not evaluated. A failing case prints as the text of a smaller program that
fails alike, which can be saved under tests/ir/cases.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tapefuse._errors import TapefuseError
from tapefuse.ir.graph import Graph, bind_symbols
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.ops.paired import SUFFIX
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import PASSES, complex
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.print import show
from tapefuse.ir.verify import verify
from tests import engines
from tests.differential import (
    Arrays,
    as_double,
    difference,
    dot,
    in_double,
    noise,
    normal,
    on_pairs,
    pairs,
    random_direction,
    slope,
)
from tests.programs import Case, cases, random_case, reduced, special_cases

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600"))
SHARES = {"llvm": 1.0, "numba": 0.1}  # of the programs that an engine runs
PARTS = {"numba": 4, "llvm": 16}  # tests that share them, so that workers are equally busy: the longest ones first
LARGEST = {"llvm": 40, "numba": 8}  # ops; Numba takes about a second to compile a small program
SCHEDULES = 2  # of each program
NEVER_DRAWN = frozenset(op.name for op in OPS.values() if op.library == "region") | {  # tests/program_regions.py
    "require",  # fails on random bools
    "having",
    "debug_print",  # is interpreted
    "credit",  # means something to tapes alone
    "gamma_path",  # its derivative is that of a draw
    *("ruled", "invertible"),
    "empty",  # means nothing
    "failed",  # a program's checks ask it
    *("eig", "eigvals"),  # in an order that rounding may change: tests/numpy/test_eig.py
    *(name for name in OPS if name.endswith(SUFFIX)),  # a pass alone makes them: tests/codegen/test_library.py
    *("eigh", "qr", "svd"),  # vectors that are not determined, or nearly so: tests/codegen/test_library.py
    *("from_bf16", "from_f16", "to_bf16", "to_f16"),  # a pass alone makes them: tests/ir/test_halves.py
}
EXACT = np.zeros(())
DOUBLE = "in double"
COMPILED = 4  # one in so many parts is, as users have it
RUNS = [pytest.param(engine, part, id=f"{engine}-{part}") for engine, n in PARTS.items() for part in range(n)]


def budget(examples: float) -> settings:
    """No shrinking of what was drawn: a smaller program is found by taking the failing one apart."""
    phases, checks = (Phase.explicit, Phase.generate), list(HealthCheck)
    return settings(max_examples=max(1, round(examples)), deadline=None, phases=phases, suppress_health_check=checks)


@pytest.mark.parametrize(("engine", "part"), RUNS)
def test_random_programs(engine: str, part: int) -> None:
    drawn = cases(f"{engine} {part}", largest=LARGEST[engine])
    agree(drawn, of_part(engine, part), PROGRAMS * SHARES[engine] / PARTS[engine])


def of_part(engine: str, part: int) -> str:
    return f"quick {engine}" if part % COMPILED else engine


def agree(drawn: SearchStrategy[Case], engine: str, examples: float) -> None:
    """An engine runs so many programs as the interpreter does; few of them are too unstable to tell."""
    counts: Counter[str] = Counter()

    @budget(examples)
    @given(drawn)
    def agrees(case: Case) -> None:
        check(case, engine, counts)

    agrees()
    if counts["inputs"] > 50:
        assert counts["slopes discarded"] < 0.2 * counts["slopes"], counts
        assert counts["unstable"] < 0.1 * counts["inputs"], counts


@pytest.mark.parametrize(("engine", "part"), RUNS)
def test_random_complex_programs(engine: str, part: int) -> None:
    """Of complex numbers: a quarter as many."""
    drawn = cases(f"complex {engine} {part}", largest=LARGEST[engine], is_complex=True)
    agree(drawn, of_part(engine, part), PROGRAMS * SHARES[engine] / PARTS[engine] / 4)


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_random_schedules(part: int, is_complex: bool) -> None:
    """What is fused, kept, cut and computed together changes no result."""

    @budget(PROGRAMS / (160 if is_complex else 40))
    @given(cases(f"schedules {part}", largest=LARGEST["llvm"], is_complex=is_complex))
    def agrees(case: Case) -> None:
        graph = gradient_graph(verify(case.graph))
        inputs = [case.arrays(number, binding) for number, binding in enumerate(case.bindings)]
        inputs = [[*arrays, *projection(graph, arrays, number)] for number, arrays in enumerate(inputs)]
        for seed in range(SCHEDULES):
            run = engines.scheduled(graph, seed)
            for arrays in inputs:
                if known := noise(graph, arrays):
                    problem = difference(known[0], on_pairs(run, graph, arrays), known[1])
                    assert problem is None, f"schedule {seed}: {problem}\n{show(graph)}"

    agrees()


def check(case: Case, engine: str, counts: Counter[str]) -> None:
    """All properties of one case. The engine runs the outputs and the gradients as one program."""
    graph = gradient_graph(verify(case.graph))
    text = show(graph)
    assert show(parse(text)) == text
    run, ways = runs(graph, engine)
    for number, binding in enumerate(case.bindings):
        arrays = case.arrays(number, binding)
        seeds = projection(graph, arrays, number)
        counts["inputs"] += 1
        if disagreement(graph, [*arrays, *seeds], run, ways, counts):
            raise AssertionError(small(graph, [*arrays, *seeds], lambda g, a: disagreement(g, a, *runs(g, engine))))
        if wrong_slope(case.graph, arrays, number, counts):
            raise AssertionError(small(case.graph, arrays, lambda g, a, n=number: wrong_slope(g, a, n)))


def check_meaning(case: Case, graph: Graph, changed: Callable[[Graph, list[np.ndarray]], str | None]) -> None:
    """`changed` finds no difference in any input of the case."""
    for number, binding in enumerate(case.bindings):
        arrays = case.arrays(number, binding)
        if (problem := changed(graph, arrays)) is not None:
            raise AssertionError(small(graph, arrays, changed) + f"\nwas: {problem}")


def small(graph: Graph, arrays: Arrays, problem: Callable[[Graph, list[np.ndarray]], str | None]) -> str:
    """The problem of a small program that has the same one, with its text and inputs."""
    kind = str(problem(graph, list(arrays))).split(":")[0]

    def fails(g: Graph, a: list[np.ndarray]) -> bool:
        try:
            return str(problem(g, a)).split(":")[0] == kind
        except TapefuseError:
            return False

    graph, arrays = reduced(graph, arrays, fails)
    inputs = "\n".join(f"{p.name} = {a.tolist()}" for p, a in zip(graph.params, arrays, strict=True))
    return f"{problem(graph, list(arrays))}\n{show(graph)}\n{inputs}"


def projection(graph: Graph, arrays: Arrays, number: int) -> list[np.ndarray]:
    """Random cotangents of the float and complex outputs: the parameters of a gradient graph beyond `arrays`."""
    rng = np.random.default_rng([number, 1])
    binding = bind_symbols((p.type for p in graph.params[: len(arrays)]), (a.shape for a in arrays))
    types = [p.type.substitute(binding) for p in graph.params[len(arrays) :]]
    return [normal(rng, t.shape, t.dtype) for t in types]


@dataclass(frozen=True)
class Way:
    """Another graph of the same meaning; `ulps`: how far its outputs may be off, in units of what rounding explains."""

    name: str
    graph: Graph
    ulps: int = 1
    is_real: bool = True  # and has pairs of numbers for complex ones

    def run(self, graph: Graph, arrays: Arrays) -> list[np.ndarray]:
        """The outputs of `graph`, which it stands for."""
        if self.is_real:
            return on_pairs(lambda *xs: evaluate(self.graph, *xs)[: len(graph.outs)], graph, arrays)
        if self.name != DOUBLE:
            return list(evaluate(self.graph, *arrays))
        return [y.astype(v.dtype) for y, v in zip(evaluate(self.graph, *as_double(arrays)), graph.outs, strict=True)]


@lru_cache(maxsize=1)
def ways(graph: Graph) -> list[Way]:
    """Parsed from its text, after each pass that changes it."""
    real, _ = complex.run(graph)
    changed = [(p.name, p.run(real)[0]) for p in PASSES]
    found = [Way("parsed from its text", parse(show(graph)), ulps=0, is_real=False)]
    found += [Way("after pass complex", verify(real))] * (real is not graph)
    return found + [Way(f"after pass {name}", verify(after)) for name, after in changed if after is not real]


def runs(graph: Graph, engine: str) -> tuple[engines.Run, list[Way]]:
    """The graph compiled; as above, after all passes, in double precision."""
    wanted = engines.request(graph)
    more = [Way("after all passes", verify(wanted.graph)), Way(DOUBLE, in_double(graph), ulps=4, is_real=False)]
    return engines.run_of(engine, wanted), [*ways(graph), *more]


def disagreement(
    graph: Graph, arrays: list[np.ndarray], run: engines.Run, ways: Sequence[Way], counts: Counter[str] | None = None
) -> str | None:
    """Whether the graph compiled, or another one of the same meaning, has other outputs."""
    known = noise(graph, arrays)
    if known is None:
        run(*map(pairs, arrays))
        if counts is not None:
            counts["unstable"] += 1
        return None
    wanted, tolerance = known
    if problem := changed_meaning(graph, arrays, ways, wanted, tolerance):
        return problem
    problem = difference(wanted, on_pairs(run, graph, arrays), tolerance)
    return f"compiled: {problem}" if problem else None


def changed_meaning(graph: Graph, arrays: Arrays, ways: Sequence[Way], wanted: Arrays, tolerance: Arrays) -> str | None:
    """Which of the ways does not give the outputs `wanted`."""
    for way in ways:
        if problem := difference(wanted, way.run(graph, arrays), [way.ulps * t for t in tolerance]):
            return f"{way.name}: {problem}"
    return None


def wrong_slope(graph: Graph, arrays: list[np.ndarray], number: int, counts: Counter[str] | None = None) -> str | None:
    """Whether the gradient differs from finite differences, in double precision along a random direction."""
    counts = Counter() if counts is None else counts
    graph, arrays = in_double(graph), as_double(arrays)
    full = gradient_graph(graph)
    seeds = projection(full, arrays, number)
    gradients = evaluate(full, *arrays, *seeds)[len(graph.outs) :]
    direction = random_direction(arrays, seed=2)
    found = slope(graph, arrays, direction, seeds)
    counts["slopes"] += 1
    if found is None:
        counts["slopes discarded"] += 1
        return None
    ours = dot([d for d, a in zip(direction, arrays, strict=True) if a.dtype.kind in "fc"], gradients)
    return None if abs(ours - found[0]) <= found[1] else f"gradient: {ours}, finite differences give {found[0]}"


@pytest.mark.parametrize("engine", PARTS)
def test_special_values(engine: str) -> None:
    """Elementwise programs of few ops on nan, infinities, zeros of both signs and extremes."""

    @budget(PROGRAMS * SHARES[engine] / 20)
    @given(special_cases())
    def agrees(case: Case) -> None:
        graph = verify(case.graph)
        arrays = case.arrays(0, {})
        wanted, compiled = evaluate(graph, *arrays), engines.request(graph)
        loose = [4 * np.finfo(w.dtype).eps * np.abs(w) if w.dtype.kind == "f" else EXACT for w in wanted]
        problem = difference(wanted, evaluate(compiled.graph, *arrays)[: len(wanted)], loose)
        assert problem is None, f"after all passes: {problem}"
        problem = difference(wanted, engines.run_of(engine, compiled)(*arrays), loose)
        assert problem is None, f"compiled: {problem}"

    agrees()


def test_every_op_is_drawn() -> None:
    graphs = [random_case(seed, is_complex=is_complex).graph for seed in range(400) for is_complex in (False, True)]
    drawn = {v.op.name for graph in graphs for v in graph.nodes}
    assert drawn == set(OPS) - NEVER_DRAWN
    takes_complex = {v.op.name for graph in graphs for v in graph.nodes if any(a.dtype.kind == "c" for a in v.args)}
    assert takes_complex >= {op.name for op in OPS.values() if "c" in op.dtypes and op.vjp} - NEVER_DRAWN - {"const"}


def test_programs_have_the_promised_variety() -> None:
    """Ranks 0 to 4, empty and symbolic shapes, all dtypes, odd outputs, unused parameters, small and large programs."""
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
    assert min(sizes) >= 3 and max(sizes) >= 30
