"""What a tape keeps of an operation: identities and types of operands and results, and how cotangents go back.

The reverse pass itself is `ir.passes.adjoint`. Derivative rules are written with ops, so it runs eagerly, inside a
trace, and under other tapes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse.ir.graph import Loc, Value, here, param, reachable
from tapefuse.ir.op import Op
from tapefuse.ir.passes.adjoint import adjoint, missing_rule
from tapefuse.ir.types import Shape, Type
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, key_of

Pullback = Callable[[Sequence[Tensor | None]], Sequence[Any]]  # cotangents of results -> of operands; None: zero


@dataclass(frozen=True, slots=True)
class Node:
    """A tensor on a tape, without its values. `key` is None for one that the tape does not track."""

    key: int | None
    type: Type

    @property
    def dtype(self) -> np.dtype:
        return self.type.dtype

    @property
    def shape(self) -> Shape:
        return self.type.shape


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One recorded operation, as `ir.passes.adjoint` reads it."""

    xs: tuple[Node, ...]
    ys: tuple[Node, ...]
    pullback: Pullback
    loc: Loc | None = None
    op: Op | None = None


def op_record(
    op: Op, xs: tuple[Node, ...], attrs: dict[str, Any], values: tuple, y: Tensor, loc: Loc | None, lean: bool
) -> Record:
    """The record of `y = op(*values, **attrs)`. `lean`: hold only those values that the derivative rule reads."""
    result = Node(key_of(y), y.type)
    if op.vjp is None:
        return Record(xs, (result,), _raises(lambda: missing_rule(op, xs, attrs, loc)), loc, op)
    if lean and not isinstance(y, TracedTensor):
        reads = values_read(op, tuple([x.type for x in xs]), tuple(sorted(attrs.items())))
        held = [v if read else n for v, n, read in zip((y, *values), (result, *xs), reads, strict=True)]
    else:
        held = [y, *values]
    vjp = op.vjp
    return Record(xs, (result,), lambda gs: vjp(gs[0], *held, **attrs), loc, op)


def _raises(error: Callable[[], Exception]) -> Pullback:
    def pullback(gs: Sequence[Tensor | None]) -> Sequence[Any]:
        raise error()

    return pullback


@lru_cache(maxsize=4096)
def values_read(op: Op, types: tuple[Type, ...], attrs: tuple[tuple[str, Any], ...]) -> tuple[bool, ...]:
    """Whether the derivative rule reads the values (not only shapes and dtypes) of the result and of each operand."""
    assert op.vjp is not None
    y = param(op.type(*types, **dict(attrs)))
    xs = [param(t) for t in types]
    cotangents = op.vjp(param(y.type), y, *xs, **dict(attrs))
    read = reachable([c for c in cotangents if isinstance(c, Value)])
    return tuple([v in read for v in (y, *xs)])


def backward(
    records: Sequence[Record], seeds: Iterable[tuple[Node, Tensor]], sources: Sequence[Node]
) -> list[Tensor | None]:
    """The cotangent of each source from those of the targets, None where nothing connects them."""
    seeds = list(seeds)
    before = state.pinned, here.loc
    state.pinned = True  # what rules compute belongs to the line of the operation that is differentiated
    try:
        found = adjoint(records, [n for n, _ in seeds], [g for _, g in seeds], sources, key=lambda node: node.key)
    finally:
        state.pinned, here.loc = before
    return [None if g is None else as_tensor(g) for g in found]
