"""Derivatives of gradients that are rows: of their values, since where those are added does not depend on anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.types import Shape, Type
from tapefuse.tracer.operators import functions
from tapefuse.tracer.record import Entry, Node
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.tensor import Tensor, as_tensor, key_of
from tapefuse.tracer.variable import Variable
from tapefuse.tracer.vectorise import rows, units

Target = Tensor | Variable | IndexedRows


def node(x: Tensor | Variable) -> Node:
    return Node(x._key if isinstance(x, Variable) else key_of(x), x.type)


def ends(y: Target) -> list[Node]:
    """What a target is on a tape."""
    return [node(v) for v, _ in y.terms] if isinstance(y, IndexedRows) else [node(y)]


def seeded(y: Target, seed: Tensor) -> Iterator[tuple[Node, Tensor]]:
    """A cotangent, a scalar or of the target's shape, for each end of a target."""
    if not isinstance(y, IndexedRows):
        yield node(y), seed if seed.shape == y.shape else functions.broadcast_to(seed, y.shape)
        return
    for v, i in y.terms:
        yield node(v), ops.gather(seed, i) if seed.shape == y.shape else functions.broadcast_to(seed, v.shape)


def regrouped(ys: Sequence[Target], found: Sequence[Tensor | None]) -> list[Any]:
    """A tangent or None for each target from those of all ends."""
    rest = iter(found)
    return [_moved(y, [next(rest) for _ in ends(y)]) for y in ys]


def _moved(y: Target, parts: list[Tensor | None]) -> Any:
    if not isinstance(y, IndexedRows):
        return parts[0]
    terms = [(t, i) for t, (_, i) in zip(parts, y.terms, strict=True) if t is not None]
    return IndexedRows.of(terms, y.dense_shape) if terms else None


def partials(records: Sequence[Entry], y: Target, sources: Sequence[Node]) -> list[Tensor | None]:
    """For each source the derivatives of all elements of a target: shape `y.shape + source.shape`."""
    if not isinstance(y, IndexedRows):
        return _shaped(rows(records, node(y), units(y.type), sources), y.type, sources)
    total: list[Any] = [None] * len(sources)
    for v, i in y.terms:
        found = _shaped(rows(records, node(v), units(v.type), sources), v.type, sources)
        parts = [_at_rows(g, i, (*y.shape, *s.shape)) for g, s in zip(found, sources, strict=True)]
        total = [b if a is None else a if b is None else ops.add(a, b) for a, b in zip(total, parts, strict=True)]
    return total


def _at_rows(g: Tensor | None, i: Tensor, shape: Shape) -> Tensor | None:
    return None if g is None else as_tensor(ops.scatter_add(g, i, shape=shape))


def _shaped(found: Sequence[Tensor | None], y: Type, sources: Sequence[Node]) -> list[Tensor | None]:
    reshape: Callable[..., Tensor] = functions.reshape
    both = zip(found, sources, strict=True)
    return [None if g is None else reshape(g, (*y.shape, *s.shape)) for g, s in both]
