"""The compiler: Traced -> Program. Its stages, read top to bottom; imported when a program is not on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tapefuse._config import Options, config
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import EXACT, PASSES, Pass, optimise
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.passes.complex import has_complex
from tapefuse.ir.program import Check, Program, State
from tapefuse.tracer.trace import Traced


def program(traced: Traced, options: Options = Options()) -> Program:  # noqa: B008
    """Optimise and generate code. Raises CompileError for what compiled code cannot express."""
    made, graph = compiled(request(traced, options)), traced.graph
    if not has_complex(graph):
        return made
    inputs = tuple(v.type for v in graph.params[: traced.n_inputs])
    return replace(made, inputs=inputs, outputs=tuple(v.type for v in graph.outs[: traced.n_results]))


def request(traced: Traced, options: Options = Options()) -> Request:  # noqa: B008
    """What is compiled for a traced function: its optimised graph, which raises before it changes anything."""
    strict = options.strict or config.strict
    graph, checks = optimised(traced.graph, strict, options.memory_budget)
    return Request(
        graph, traced.n_inputs, states(traced), traced.arrays, checks, graph.name, strict, options.memory_budget
    )


def optimised(graph: Graph, strict: bool = False, budget: int | None = None) -> tuple[Graph, tuple[Check, ...]]:
    graph, checks = with_checks(graph)
    return optimise(graph, passes_of(strict, budget)), checks


def passes_of(strict: bool, budget: int | None) -> Sequence[Pass]:
    """What a graph goes through. `strict`: sums keep the order of their terms; `budget`: bytes that loops may keep."""
    passes = EXACT if strict else PASSES
    return passes if budget is None else [p for p in passes if not p.spends_memory]


def states(traced: Traced) -> tuple[State, ...]:
    written = set(traced.written)
    return tuple(State(v.type, k in written, v.name) for k, v in enumerate(traced.variables))
