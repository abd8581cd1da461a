"""The engines as plain functions: a graph -> a callable on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numba.core import config as numba_config

from tapefuse.codegen.choices import AS_MEASURED, AsMeasured, Drawn
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.program import Program
from tapefuse.runtime import linking, llvm_engine, numba_engine
from tapefuse.runtime.compile import QUICK, compile_object
from tapefuse.runtime.entry import Layout

Run = Callable[..., tuple[np.ndarray, ...]]


class Holder:
    """What an engine needs of a Tensor or a Variable."""

    __slots__ = ("__weakref__", "_array", "_key")


class CheckFailed(Exception):
    """A check of the program failed; nothing was computed."""


def fail(status: int) -> None:
    raise CheckFailed(status)


def request(graph: Graph, choices: AsMeasured = AS_MEASURED) -> Request:
    checked, checks = with_checks(graph)
    return Request(optimise(checked), len(graph.params), checks=checks, choices=choices)


def engine(load: Callable[..., Any]) -> Callable[[Graph], Run]:
    @lru_cache(maxsize=16)  # a test that runs a graph on several arrays compiles it once
    def compile_(graph: Graph) -> Run:
        return runner(load, request(graph), [])

    return compile_


def runner(load: Callable[..., Any], wanted: Request, variables: list[Holder]) -> Run:
    """A compiled program as a function of its inputs, which reads and writes the arrays of `variables`."""
    loaded = load(compiled(wanted), Layout.of(Holder, Holder, tupled=True), variables, fail)

    def run(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        found = loaded.call(*arrays)
        assert found is not NotImplemented, "the entry refuses the arrays"
        return tuple(t._array for t in found)

    return run


LOADS: dict[str, Callable[..., Any]] = {"llvm": llvm_engine.load, "numba": numba_engine.load}


def run_of(engine: str, wanted: Request, variables: Sequence[Holder] = ()) -> Run:
    """The program that is requested, on an engine: one of `LOADS`, or "quick llvm" or "quick numba".

    Quick ones have LLVM do without its optimisations, which takes half of the time: for tests of the code that LLVM is
    given, where others test the same as users have it.
    """
    if engine == "quick llvm":
        return runner(_quickly_built, wanted, list(variables))
    run = runner(LOADS[engine.removeprefix("quick ")], wanted, list(variables))
    return _unoptimised(run) if engine == "quick numba" else run


def _quickly_built(program: Program, *arguments: Any) -> Any:
    code = linking.code_of(compile_object(program.llvm(), QUICK))
    return llvm_engine.load(program, *arguments, built=llvm_engine.Built(code, True, 0.0))


def _unoptimised(run: Run) -> Run:
    """Numba compiles in the first call."""

    def without(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        before = numba_config.OPT
        numba_config.OPT = type(before)(0)
        try:
            return run(*arrays)
        finally:
            numba_config.OPT = before

    return without


def scheduled(graph: Graph, seed: int) -> Run:
    """The program on the LLVM engine with one of its legal schedules, drawn at random."""
    return run_of("quick llvm", request(graph, Drawn(seed)))


def threaded(graph: Graph, threads: int) -> Run:
    """The program on the LLVM engine, with so many threads."""
    return runner(partial(llvm_engine.load, threads=threads), request(graph), [])


ENGINES: dict[str, Callable[[Graph], Run]] = {name: engine(load) for name, load in LOADS.items()}
