"""From an optimised graph to a Program, and the text of every stage in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tapefuse.codegen.emit_program import program_text
from tapefuse.codegen.loops_text import show
from tapefuse.codegen.plan import Plan, Request, show_memory, show_schedule
from tapefuse.codegen.recompute import within
from tapefuse.ir.program import Program
from tapefuse.ir.types import Dim, Poly

__all__ = ["Request", "compiled", "stages"]


def compiled(request: Request) -> Program:
    """Schedule, lower, lay out and print. Raises CompileError for what compiled code cannot express."""
    return _program(within(request), request)


def _program(p: Plan, request: Request) -> Program:
    llvm, externals = program_text(p)
    return Program(
        name=p.request.name,
        symbols=p.graph.symbols,
        inputs=tuple(v.type for v in request.graph.params[: request.inputs]),  # the plan has bits for halves
        states=p.request.states,
        constants=p.constants,
        outputs=tuple(v.type for v in request.graph.outs[: request.outputs]),
        arena=p.layout.nbytes,
        work=_nanoseconds(p.cost),
        checks=p.request.checks,
        externals=externals,
        llvm=lambda: llvm,
        numba=cache(lambda: _numba_text(p)),
    )


def _numba_text(p: Plan) -> str:
    from tapefuse.codegen.emit_numba import program_text  # 17 ms that the LLVM engine has no use for

    return program_text(p)


def _nanoseconds(cost: Dim) -> Dim:
    """Costs are in 1/64 ns; a polynomial's coefficients are rounded up one by one."""
    if isinstance(cost, int):
        return cost // 64
    total: Dim = 0
    for mono, coef in cost.terms:
        term: Dim = -(-coef // 64)
        for symbol in mono:
            term = term * Poly.symbol(symbol)
        total = total + term
    return total


def stages(request: Request) -> dict[str, Callable[[], str]]:
    """Name -> text of each stage of code generation, made when asked for."""
    p = cache(lambda: within(request))
    return {
        "schedule": lambda: show_schedule(p()),
        "loops": lambda: "\n\n".join(show(s.kernel) for s in p().steps),
        "memory": lambda: show_memory(p()),
        "numba": lambda: _numba_text(p()),
        "llvm": lambda: program_text(p())[0],
    }
