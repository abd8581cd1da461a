"""Loops of loops: what a reverse pass keeps of n iterations in the memory of a few.

    for n: body      ->      for n // s: (for s: body); for n % s: body

The reverse pass of the outer loop keeps one carry a chunk, and runs each chunk again when its turn comes (Chen et al.
2016; Griewank 1992 for more levels). With chunks of s iterations that keep b bytes each, and c bytes carried, 2 levels
take n / s * c + s * b bytes, and every further level takes the root of the number of iterations once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import NamedTuple

from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import constant
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes import budget, residuals
from tapefuse.ir.passes.adjoint import adjoint, records_of
from tapefuse.ir.passes.bodies import rebuilt
from tapefuse.ir.types import Dim, Poly

MAX_LEVELS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A `for` on IR values: operands and attributes."""

    xs: tuple[Value, ...]
    body: Graph
    trips: Dim
    index: str
    carried: int
    parallel: bool = False  # see `for_`

    def results(self) -> tuple[Value, ...]:
        more = {"parallel": True} if self.parallel else {}
        return ops.for_.emit_results(
            *self.xs, body=self.body, trips=self.trips, index=self.index, carried=self.carried, **more
        )


class Level(NamedTuple):
    """`q` chunks of `size` iterations, and `r` more."""

    size: int
    q: Dim
    r: Dim


def in_chunks(gs: Sequence[Value | None], loop: Loop, wanted: Sequence[bool], each: int) -> list[Value | None]:
    """The cotangents of a loop that keeps `each` bytes an iteration, by a loop of loops within the memory budget."""
    limit = budget.limit()
    assert limit is not None
    carry = sum(residuals.bytes_of(p) for p in loop.body.params[: loop.carried])
    levels, sizes = _levels(loop.trips, chunk_sizes(loop.trips, each, carry, limit))
    params = tuple(param(x.type) for x in loop.xs)
    seeds = {k: param(g.type) for k, g in enumerate(gs) if g is not None}
    names: set[str] = set()
    results = _nested(replace(loop, xs=params), levels, names)
    with budget.planned(frozenset(names)):
        sources = [p for p, w in zip(params, wanted, strict=True) if w]
        records = records_of(Graph(params, results))
        pulled = iter(adjoint(records, [results[k] for k in seeds], [*seeds.values()], sources))
    found = [next(pulled) if w else None for w in wanted]
    inner = (*params, *seeds.values())
    outs = tuple(g for g in found if g is not None)
    for symbol, value in reversed(sizes):
        outs = ops.sized.emit_results(value, *inner, symbol=symbol, body=Graph(inner, outs))
    operands = (*loop.xs, *(gs[k] for k in seeds))
    env = {p: x for p, x in zip(inner, operands, strict=True) if x is not None}
    done = iter(rebuilt(outs, env))
    return [None if g is None else next(done) for g in found]


def chunk_sizes(trips: Dim, each: int, carry: int, limit: int) -> list[int]:
    """The iterations of the innermost loop, then of the loops around it but the outermost.

    As few levels as the limit allows, each with about the same memory; the least memory if none is within it. For
    a number of iterations that is known at run time only there are three levels, each with its part of the limit.
    """
    each, carry = max(each, 1), max(carry, 1)
    if isinstance(trips, Poly):
        return [max(limit // 4 // each, 1), max(limit // 4 // carry, 2)]
    found: list[tuple[int, list[int]]] = []
    for levels in range(2, MAX_LEVELS + 1):
        part = (trips * each * carry ** (levels - 1)) ** (1 / levels)
        sizes = [ceil(part / each), *[max(ceil(part / carry), 2)] * (levels - 2)]
        found.append((kept_bytes(trips, sizes, each, carry), sizes))
        if found[-1][0] <= limit:
            return sizes
    return min(found)[1]


def kept_bytes(trips: int, sizes: Sequence[int], each: int, carry: int) -> int:
    """What loops of loops keep: a carry for each iteration but the innermost ones, and those that are left over."""
    total = 0
    for size in sizes:
        total += (size + trips % size) * each
        trips, each = trips // size, carry
    return total + trips * each


def _levels(trips: Dim, sizes: Sequence[int]) -> tuple[list[Level], list[tuple[str, Value]]]:
    """The levels from the innermost on, and the symbols among their numbers with their values, each after those it
    is computed from."""
    levels, symbols, n = [], [], trips
    for size in sizes:
        if isinstance(n, Poly):
            value = ops.maximum(ops.dim.emit(value=n, dtype=INT64), constant(0, INT64))
            by = constant(size, INT64)
            q, r = region.fresh("chunks"), region.fresh("rest")
            symbols += [(q, ops.floordiv(value, by)), (r, ops.mod(value, by))]
            levels.append(Level(size, Poly.symbol(q), Poly.symbol(r)))
        else:
            levels.append(Level(size, n // size, n % size))
        n = levels[-1].q
    return levels, symbols


def _nested(loop: Loop, levels: Sequence[Level], names: set[str]) -> tuple[Value, ...]:
    """The results of a loop as loops of loops; `names` gets their index symbols."""
    if not levels:
        names.add(loop.index)
        return loop.results()
    (size, q, r), *outer = levels
    chunk, inner, last = (region.fresh("k") for _ in range(3))
    names |= {inner, last}

    def at(k: Dim) -> Graph:
        return loop.body.substitute({loop.index: k})

    params, n = loop.body.params, loop.carried
    once = Loop(params, at(Poly.symbol(chunk) * size + Poly.symbol(inner)), size, inner, n).results()
    main = loop.xs[:n] if q == 0 else _nested(Loop(loop.xs, Graph(params, once), q, chunk, n), outer, names)
    if r == 0:
        return main
    return Loop((*main, *loop.xs[n:]), at(q * size + Poly.symbol(last)), r, last, n).results()
