"""The engines as plain functions: a graph -> a callable on arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

    Quick ones test the code that LLVM and Numba are given, where others test the same as users have it: LLVM does
    without its optimisations, which takes a third of the time, and Numba's source runs as the Python that it is.
    """
    if engine == "quick llvm":
        return runner(_quickly_built, wanted, list(variables))
    load = LOADS[engine.removeprefix("quick ")]
    return _plain(load, wanted, list(variables)) if engine == "quick numba" else runner(load, wanted, list(variables))


def _quickly_built(program: Program, *arguments: Any) -> Any:
    code = linking.code_of(compile_object(program.llvm(), QUICK))
    return llvm_engine.load(program, *arguments, built=llvm_engine.Built(code, True, 0.0))


def _plain(load: Callable[..., Any], wanted: Request, variables: list[Holder]) -> Run:
    """Compiled all the same if it reads an empty array in vain (`codegen.guards`), which Python refuses."""
    with without_jit():
        run = runner(load, wanted, variables)

    def plainly(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        before = [v._array.copy() for v in variables]
        try:
            with without_jit():  # a build is made in the first call that asks for it
                return run(*arrays)
        except IndexError as e:
            if "with size 0" not in str(e):
                raise
        for v, array in zip(variables, before, strict=True):
            v._array = array
        return runner(load, wanted, variables)(*arrays)

    return plainly


@contextmanager
def without_jit() -> Iterator[None]:
    """Decorators of Numba give back the plain functions."""
    before, numba_config.DISABLE_JIT = numba_config.DISABLE_JIT, True
    try:
        yield
    finally:
        numba_config.DISABLE_JIT = before


def scheduled(graph: Graph, seed: int) -> Run:
    """The program on the LLVM engine with one of its legal schedules, drawn at random."""
    return run_of("quick llvm", request(graph, Drawn(seed)))


def threaded(graph: Graph, threads: int) -> Run:
    """The program on the LLVM engine, with so many threads."""
    return runner(partial(llvm_engine.load, threads=threads), request(graph), [])


@lru_cache(maxsize=16)
def plain(graph: Graph) -> Run:
    """The program by its source for Numba, run as the Python that it is."""
    return run_of("quick numba", request(graph))


ENGINES: dict[str, Callable[[Graph], Run]] = {name: engine(load) for name, load in LOADS.items()}
WRITTEN = {**ENGINES, "numba": plain}  # for tests of what is generated; Numba compiles every op and random programs
