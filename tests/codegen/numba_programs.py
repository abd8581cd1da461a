"""Running graphs on the Numba engine, compiled and as plain Python, and comparing with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir.graph import Graph
from tapefuse.runtime.entry import Layout
from tapefuse.runtime.numba_engine import Loaded, load
from tests.engines import without_jit
from tests.runtime.programs import Tensor, Variable, refuse

TUPLED = Layout.of(Tensor, Variable, tupled=True)
RTOL = {"f8": 1e-13, "f4": 3e-6}


@cache
def loaded(graph: Graph, compile_it: bool, threads: int = 1) -> Loaded:
    return load(compiled(Request(graph, len(graph.params))), TUPLED, (), refuse, threads=threads)


def plain(graph: Graph, *arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs, by the source as plain Python."""
    with without_jit():
        return _arrays(loaded(graph, False).call(*arrays))


def jitted(graph: Graph, *arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs, by the compiled source."""
    return _arrays(loaded(graph, True).call(*arrays))


def _arrays(results: tuple[Tensor, ...]) -> list[np.ndarray]:
    assert results is not NotImplemented
    return [t._array for t in results]


def same(
    results: Sequence[np.ndarray],
    wants: Sequence[np.ndarray],
    dtype: np.dtype,
    message: str = "",
    sums: Sequence[np.ndarray] | None = None,
) -> None:
    """Equal dtypes and shapes, integers equal, floats close; signed zeros, infinities and nan in the same places.

    `sums`: for results that are sums, those of their terms' magnitudes, to which rounding in another order is relative.
    """
    assert len(results) == len(wants)
    for y, want, size in zip(results, wants, sums or wants, strict=True):
        assert (y.dtype, y.shape) == (want.dtype, want.shape), message
        if y.dtype.kind != "f":
            np.testing.assert_array_equal(y, want, message)
            continue
        rtol = RTOL["f4" if np.dtype(np.float32) in (dtype, y.dtype) else "f8"]
        if sums:
            assert np.allclose(y, want, rtol, rtol * size, equal_nan=True), (message, y, want)
        else:
            np.testing.assert_allclose(y, want, rtol, rtol / 10, err_msg=message)
