"""Loops over counted iterations: their number, their index, elements taken and results put in their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse.ir.graph import Graph, here, param
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Type
from tapefuse.tracer.applying import apply
from tapefuse.tracer.operators import functions
from tapefuse.tracer.promote import converted
from tapefuse.tracer.tensor import Tensor, as_tensor, weakened

INT64 = np.dtype(np.int64)


def repeat(trips: Dim | Tensor, size: str, index: str, body: Graph, carried: int, operands: tuple) -> tuple:
    """The results of a `for` with this body; a number known at run time only is the symbol `size` of a `sized`."""
    attrs = {"body": body, "index": index, "carried": carried}
    if not carried:
        return ()
    if not isinstance(trips, Tensor):
        return region.apply(OPS["for"], operands, {**attrs, "trips": trips})
    inner = [param(x.type) for x in operands]
    ys = OPS["for"].emit_results(*inner, trips=Poly.symbol(size), **attrs)
    sized = {"symbol": size, "body": Graph(tuple(inner), tuple(ys))}
    return region.apply(OPS["sized"], (converted(trips, INT64), *operands), sized)


def stacking(graph: Graph, n_carry: int, n_written: int, rows: Sequence[Type], n: Dim, at: Dim) -> Graph:
    """(carry, written, rest) -> (carry, ys, written) as (carry, written, stacks, rest) -> (carry, written, stacks) that
    writes each y at `at` into its stack."""
    first, n_rows = n_carry + n_written, len(rows)
    stacks = [param(Type(t.dtype, (n, *t.shape))) for t in rows]
    ys = graph.outs[n_carry : n_carry + n_rows]
    outer, puts = here.loc, []
    try:
        for y, stack in zip(ys, stacks, strict=True):
            here.loc = y.loc
            row = OPS["reshape"].emit(y, shape=(1, *y.shape))
            starts, strides = (at, *[0] * len(y.shape)), (1,) * (len(y.shape) + 1)
            puts.append(OPS["put"].emit(stack, row, starts=starts, strides=strides))
    finally:
        here.loc = outer
    params = (*graph.params[:first], *stacks, *graph.params[first:])
    return Graph(params, (*graph.outs[:n_carry], *graph.outs[n_carry + n_rows :], *puts), graph.name)


def trips_of(start: Dim | Tensor, stop: Dim | Tensor, step: Dim | Tensor) -> Dim | Tensor:
    """How many iterations `range(start, stop, step)` has; 0 or less for none."""
    if not any(isinstance(x, (Poly, Tensor)) for x in (start, stop, step)):
        return len(range(start, stop, step))
    if isinstance(step, int) and abs(step) == 1 and not isinstance(start, Tensor) and not isinstance(stop, Tensor):
        return (stop - start) * step
    first, last, by = (converted(x, INT64) for x in (start, stop, step))
    if isinstance(step, int) and abs(step) == 1:
        return last - first if step == 1 else first - last
    if isinstance(step, int):
        return (last - first + (by - 1 if step > 0 else by + 1)) // by
    return (last - first + by - functions.sign(by)) // by


def index_at(start: Dim | Tensor, step: Dim | Tensor, k: str) -> Tensor:
    """The user's index in iteration `k`, a number: a dimension where `start` and `step` are."""
    if isinstance(start, Tensor) or isinstance(step, Tensor):
        return weakened(as_tensor(start) + as_tensor(step) * functions.dim(Poly.symbol(k)))
    return weakened(functions.dim(Poly.symbol(k) * step + start))


def element(x: Tensor, at: Any) -> Tensor:
    """`x[at]` for an extent or number `at`; the first one without."""
    if at is None:
        return zeros_of(Type(x.dtype, x.shape[1:]))
    starts, limits = (at, *[0] * (x.ndim - 1)), (at + 1, *x.shape[1:])
    return OPS["reshape"](OPS["slice"](x, starts=starts, limits=limits, strides=(1,) * x.ndim), shape=x.shape[1:])


def rows_of(type: Type, n: Dim) -> Tensor:
    """Memory for `n` values of a type, each of which a loop writes."""
    return apply(OPS["empty"], (), {"shape": (n, *type.shape), "dtype": type.dtype})


def zeros_of(type: Type, *extents: Dim) -> Tensor:
    """Zeros of a type, with more axes in front."""
    zero = as_tensor(np.zeros((), type.dtype))
    shape = (*extents, *type.shape)
    return OPS["broadcast"](zero, shape=shape, axes=()) if shape else zero
