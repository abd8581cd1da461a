"""The engines as plain functions: a graph -> a callable on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.checks import with_checks
from tapefuse.runtime import llvm_engine
from tapefuse.runtime.entry import Layout

Run = Callable[..., tuple[np.ndarray, ...]]


class _Holder:
    __slots__ = ("__weakref__", "_array", "_key")


class CheckFailed(Exception):
    """A check of the program failed; nothing was computed."""


def _fail(status: int) -> None:
    raise CheckFailed(status)


def request(graph: Graph) -> Request:
    checked, checks = with_checks(graph)
    return Request(optimise(checked), len(graph.params), checks=checks)


def llvm(graph: Graph) -> Run:
    loaded = llvm_engine.load(compiled(request(graph)), Layout.of(_Holder, _Holder, tupled=True), [], _fail)

    def run(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        found = loaded.call(*map(np.ascontiguousarray, arrays)) if all(a.ndim for a in arrays) else loaded.call(*arrays)
        assert found is not NotImplemented, "the entry refuses the arrays"
        return tuple(t._array for t in found)

    return run


ENGINES: dict[str, Callable[[Graph], Run]] = {"llvm": llvm}
