"""Running a traced function without compiling it: the graph is evaluated with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import evaluate
from tapefuse.ir.types import Poly
from tapefuse.tracer.tensor import Tensor, wrap
from tapefuse.tracer.trace import Traced
from tapefuse.tracer.variable import own

Entry = Callable[..., Any]  # *inputs -> Tensor | tuple of Tensors, or NotImplemented with nothing changed


def interpreted(traced: Traced) -> Entry:
    """The entry of a traced function without captured values: reads its variables, assigns the written ones.

    Takes exact Tensors and C-contiguous native ndarrays whose dtype, rank and extents fit, else returns NotImplemented.
    """
    graph, n = traced.graph, traced.n_inputs

    def entry(*inputs: Any) -> Any:
        arrays = [x._array if type(x) is Tensor else x for x in inputs]
        if len(arrays) != n or not _fits(graph, arrays):
            return NotImplemented
        state = [v._array for v in traced.variables]
        outs = [_fresh(y, (*arrays, *state)) for y in evaluate(graph, *arrays, *state, *traced.arrays)]
        results = [wrap(y) for y in outs[: traced.n_results]]
        for k, y in zip(traced.written, outs[traced.n_results :], strict=True):
            traced.variables[k]._array = own(y)
        return results[0] if len(results) == 1 else tuple(results)

    return entry


def _fresh(y: np.ndarray, inputs: tuple) -> np.ndarray:
    """Results may share memory with inputs, which their owners may write to."""
    return np.array(y, order="C") if y.base is not None or any(y is x for x in inputs) else y


def _fits(graph: Graph, arrays: list[Any]) -> bool:
    sizes: dict[str, int] = {}
    for p, a in zip(graph.params, arrays, strict=False):
        if type(a) is not np.ndarray or a.dtype != p.dtype or not a.dtype.isnative or a.ndim != len(p.shape):
            return False
        if not (a.flags.c_contiguous and a.flags.aligned):
            return False
        for d, extent in zip(p.shape, a.shape, strict=True):
            name = d.name if isinstance(d, Poly) else None
            if (name is None and isinstance(d, int) and d != extent) or (
                name and sizes.setdefault(name, extent) != extent
            ):
                return False
    return True
