"""A traced function becomes native code: Traced -> entry. The pipeline of the whole compiler, read top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tapefuse._config import config
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.program import Check, Program, State
from tapefuse.runtime import llvm_engine
from tapefuse.runtime.entry import Layout
from tapefuse.tracer.interpreted import interpreted
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.trace import Traced
from tapefuse.tracer.variable import Variable


def _numba_engine(*args: Any, **options: Any) -> Any:
    from tapefuse.runtime.numba_engine import load  # 6 ms that the LLVM engine has no use for

    return load(*args, **options)


ENGINES: dict[str, Callable[..., Any]] = {"llvm": llvm_engine.load, "numba": _numba_engine}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What runs a traced function. `call(*inputs)`: tensors or arrays in, tensors out, or NotImplemented with nothing
    changed when an input does not fit. `program` and `loaded` are None for an interpreted function."""

    call: Callable[..., Any]
    engine: str
    program: Program | None = None
    loaded: Any = None


def compile_traced(traced: Traced, *, engine: str | None, threads: int | None, strict: bool) -> Compiled:
    """Optimise, generate code and load it; with `disable_jit` interpret the graph instead.

    Raises CompileError for what compiled code cannot express.
    """
    if config.disable_jit:
        return Compiled(interpreted(traced), "interpreter")
    engine = engine or config.engine
    program = compiled(request(traced, strict or config.strict))
    loaded = ENGINES[engine](program, layout(), traced.variables, _handler(program.checks), threads=threads)
    return Compiled(loaded.call, engine, program, loaded)


def request(traced: Traced, strict: bool = False) -> Request:
    """What is compiled for a traced function: its optimised graph, which raises before it changes anything."""
    graph, checks = optimised(traced.graph)
    written = set(traced.written)
    states = tuple(State(v.type, k in written, v.name) for k, v in enumerate(traced.variables))
    return Request(graph, traced.n_inputs, states, traced.arrays, checks, graph.name, strict)


def optimised(graph: Graph) -> tuple[Graph, tuple[Check, ...]]:
    graph, checks = with_checks(graph)
    return optimise(graph), checks


@cache
def layout() -> Layout:
    return Layout.of(Tensor, Variable)


def _handler(checks: tuple[Check, ...]) -> Callable[[int], None]:
    def fail(status: int) -> None:
        check = checks[status - 1]
        where = f"\n  at {check.loc}" if check.loc else ""
        raise check.error(f"{check.message}{where}")

    return fail
