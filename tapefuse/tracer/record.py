"""What a tape keeps of an operation: identities and types of operands and results, and how cotangents go back.

The reverse pass itself is `ir.passes.adjoint`. Derivative rules are written with ops, so it runs eagerly, inside a
trace, and under other tapes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapefuse._errors import MissingGradientError, ShapeError, TapeError
from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, here
from tapefuse.ir.op import Op
from tapefuse.ir.passes.adjoint import adjoint, missing_rule
from tapefuse.ir.passes.forward import tangents
from tapefuse.ir.types import Shape, Type, has_derivatives, type_of
from tapefuse.tracer.lines import Line, Shell, values_read
from tapefuse.tracer.rows import IndexedRows, dense
from tapefuse.tracer.source import line_of
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, key_of

Pullback = Callable[[Sequence[Tensor | None]], Sequence[Any]]  # cotangents of results -> of operands; None: zero
Pushforward = Callable[[Sequence[Tensor | None]], Sequence[Any]]  # tangents of operands -> of results


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
    """One recorded operation, as `ir.passes.adjoint` and `ir.passes.forward` read it."""

    xs: tuple[Node, ...]
    ys: tuple[Node, ...]
    pullback: Pullback
    pushforward: Pushforward
    loc: Loc | None = None
    op: Op | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CallRecord:
    """A `Record` of one call of a graph, whose parameters and outputs stand for `xs` and `ys`."""

    xs: tuple[Node, ...]
    ys: tuple[Node, ...]
    pullback: Pullback
    pushforward: Pushforward
    loc: Loc | None
    graph: Graph


Entry = Record | CallRecord

def entry_of(line: Line, persistent: bool) -> Record:
    """The record of a line."""
    op, keys, key, held, attrs, code, instruction = line
    xs = tuple([Node(k if k > 0 else None, type_of(a)) for k, a in zip(keys, held[1:], strict=True)])
    tensors = [_again(a, abs(k)) for a, k in zip(held, (key, *keys), strict=True)]
    return _ruled(op, xs, Node(key, type_of(held[0])), attrs, tensors, line_of(code, instruction), persistent)


def _again(array: Any, key: int) -> Any:
    """The tensor that an array was of."""
    if isinstance(array, Shell):
        return array
    tensor = Tensor.__new__(Tensor)
    tensor._array = array
    if key:
        tensor._key = key
    return tensor


def op_record(
    op: Op, xs: tuple[Node, ...], attrs: dict[str, Any], values: tuple, y: Tensor, loc: Loc | None, lean: bool
) -> Record:
    """The record of `y = op(*values, **attrs)`. `lean`: hold only those values that the derivative rule reads."""
    result = Node(key_of(y), y.type)
    if state.overrides and op.name in state.overrides:
        return _overridden(state.overrides[op.name], xs, result, attrs, (y, *values), loc)
    vjp, jvp = op.vjp, op.jvp
    if vjp is None or jvp is None:
        return _ruled(op, xs, result, attrs, (y, *values), loc)
    if op is ops.gather and len(xs) == 2:
        push = _no_values if lean and not isinstance(y, TracedTensor) else lambda ts: [jvp(ts, y, *values)]
        return Record(xs, (result,), _looked_up(values[1], xs[0].shape), push, loc, op)
    if lean and not isinstance(y, TracedTensor):
        reads = values_read(op, tuple([x.type for x in xs]), tuple(sorted(attrs.items())))
        held = [v if read else n for v, n, read in zip((y, *values), (result, *xs), reads, strict=True)]
        return _ruled(op, xs, result, attrs, held, loc, forwards=False)
    return _ruled(op, xs, result, attrs, (y, *values), loc)


def _ruled(
    op: Op,
    xs: tuple[Node, ...],
    y: Node,
    attrs: dict[str, Any],
    held: Sequence[Any],
    loc: Loc | None,
    forwards: bool = True,
) -> Record:
    """A record with the op's own rules. `held`: result and operands; with `forwards` all of their values."""
    vjp, jvp = op.vjp, op.jvp
    if vjp is None or jvp is None:
        rule = _raises(lambda: missing_rule(op, xs, attrs, loc))
        return Record(xs, (y,), rule, rule, loc, op)
    push = (lambda ts: [jvp(ts, *held, **attrs)]) if forwards else _no_values
    return Record(xs, (y,), lambda gs: vjp(gs[0], *held, **attrs), push, loc, op)


def _looked_up(indices: Tensor, shape: Shape) -> Pullback:
    """The derivative of `table[indices]` by a table of this shape: its rows alone."""
    return lambda gs: [IndexedRows.of([(dense(gs[0]), indices)], shape), None]


def _overridden(
    rule: Callable[..., Any], xs: tuple[Node, ...], y: Node, attrs: dict[str, Any], held: tuple, loc: Loc | None
) -> Record:
    """A record whose rule is the user's: `rule(g, y, *xs, **attrs)` gives a cotangent or None per operand."""

    def pullback(gs: Sequence[Tensor | None]) -> Sequence[Any]:
        found = rule(dense(gs[0]), *held, **attrs)
        found = list(found) if isinstance(found, (list, tuple)) else [found]
        if len(found) != len(xs):
            raise ValueError(
                f"the rule at {loc} gives {len(found)} cotangents for {len(xs)} operands; give one for each"
            )
        for g, x in zip(found, xs, strict=True):
            if g is not None and type_of(g) != x.type:
                raise ShapeError(f"the rule for the operation at {loc} gives a cotangent {type_of(g)} for {x.type}")
        return found

    def pushforward(ts: Sequence[Tensor | None]) -> Sequence[Any]:
        raise MissingGradientError(f"the operation at {loc} has a rule of override_gradient, for reverse mode only")

    return Record(xs, (y,), pullback, pushforward, loc)


def region_record(
    op: Op, xs: tuple[Node, ...], attrs: dict[str, Any], values: tuple, ys: tuple[Tensor, ...], loc: Loc | None
) -> Record:
    """The record of `ys = op(*values, **attrs)`, an operation with several results."""
    results = tuple([Node(key_of(y), y.type) for y in ys])
    vjp, jvp = op.vjp, op.jvp
    if vjp is None or jvp is None:
        rule = _raises(lambda: missing_rule(op, xs, attrs, loc))
        return Record(xs, results, rule, rule, loc, op)
    wanted = [x.key is not None and has_derivatives(x.dtype) for x in xs]

    def pullback(gs: Sequence[Tensor | None]) -> Sequence[Any]:
        return vjp([dense(g) for g in gs], ys, *values, wanted=wanted, **attrs)

    return Record(xs, results, pullback, lambda ts: jvp(ts, ys, *values, **attrs), loc, op)


def _raises(error: Callable[[], Exception]) -> Callable[[Sequence[Tensor | None]], Sequence[Any]]:
    def rule(given: Sequence[Tensor | None]) -> Sequence[Any]:
        raise error()

    return rule


def _no_values(ts: Sequence[Tensor | None]) -> Sequence[Any]:
    raise TapeError(
        "a non-persistent tape keeps what the reverse pass reads and nothing more; make it with "
        "GradientTape(persistent=True) to take derivatives forwards"
    )


def backward(
    records: Sequence[Entry], seeds: Iterable[tuple[Node, Tensor]], sources: Sequence[Node], rows: bool = False
) -> list[Any]:
    """The cotangent of each source from those of the targets, None where nothing connects them. With `rows` those of
    look-ups are `IndexedRows`."""
    seeds = list(seeds)
    with pinned():
        found = adjoint(records, [n for n, _ in seeds], [g for _, g in seeds], sources, key=lambda node: node.key)
    return [g if g is None or rows and isinstance(g, IndexedRows) else as_tensor(g) for g in found]


def forward(
    records: Sequence[Entry], given: Iterable[tuple[Node, Tensor]], targets: Sequence[Node]
) -> list[Tensor | None]:
    """The tangent of each target from those of the sources, None where nothing connects them."""
    given = list(given)
    with pinned():
        found = tangents(records, [n for n, _ in given], [t for _, t in given], targets, key=lambda node: node.key)
    return [None if t is None else as_tensor(t) for t in found]


@contextmanager
def pinned() -> Iterator[None]:
    """What is computed in the block belongs to the lines of source that `ir.graph.here` is set to, not the user's."""
    before = state.pinned, here.loc
    state.pinned = True
    try:
        yield
    finally:
        state.pinned, here.loc = before
