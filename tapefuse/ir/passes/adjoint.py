"""Derivatives: the rules of ops run backwards over what was recorded.

`adjoint` works on records, whatever they hold: IR values when a graph is differentiated, tensors when a tape is.
`gradient_graph` turns a graph into the graph of its derivatives:

    fn f(%x: f32[]) { return exp %x }  ->  fn f(%x: f32[], %d0: f32[]) { return exp %x, %d0 * exp %x }
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from tapefuse._config import config
from tapefuse._errors import MissingGradientError, VerifyError
from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, Value, here, param
from tapefuse.ir.op import Op, constant
from tapefuse.ir.types import Type, has_derivatives, type_of


class Record(Protocol):
    """One recorded computation: results `ys` from operands `xs`."""

    @property
    def xs(self) -> Sequence[Any]: ...
    @property
    def ys(self) -> Sequence[Any]: ...
    @property
    def loc(self) -> Loc | None: ...
    def pullback(self, gs: Sequence[Any]) -> Sequence[Any]:
        """A cotangent or None per operand from those of the results (None: zero). MissingGradientError: no rule."""


@dataclass(frozen=True, slots=True, eq=False)
class OpRecord:
    """The record of one op."""

    op: Op
    xs: Sequence[Any]
    attrs: dict[str, Any]
    y: Any
    loc: Loc | None = None

    @property
    def ys(self) -> tuple[Any]:
        return (self.y,)

    def pullback(self, gs: Sequence[Any]) -> Sequence[Any]:
        if self.op.vjp is None:
            raise missing_rule(self.op, self.xs, self.attrs, self.loc)
        return self.op.vjp(gs[0], self.y, *self.xs, **self.attrs)

    def pushforward(self, ts: Sequence[Any]) -> Sequence[Any]:
        if self.op.jvp is None:
            raise missing_rule(self.op, self.xs, self.attrs, self.loc)
        return [self.op.jvp(ts, self.y, *self.xs, **self.attrs)]


@dataclass(frozen=True, slots=True, eq=False)
class RegionRecord:
    """The record of a region: its operands, and all of its results."""

    op: Op
    xs: Sequence[Any]
    attrs: dict[str, Any]
    ys: Sequence[Any]
    loc: Loc | None = None

    def pullback(self, gs: Sequence[Any], wanted: Sequence[bool] | None = None) -> Sequence[Any]:
        assert self.op.vjp is not None
        return self.op.vjp(gs, self.ys, *self.xs, wanted=wanted, **self.attrs)

    def pushforward(self, ts: Sequence[Any]) -> Sequence[Any]:
        assert self.op.jvp is not None
        return self.op.jvp(ts, self.ys, *self.xs, **self.attrs)


def missing_rule(op: Op, xs: Sequence[Any], attrs: dict[str, Any], loc: Loc | None) -> MissingGradientError:
    name = attrs.get("name", op.name) if op is ops.missing_gradient else op.name
    where = f"\n  at {loc}" if loc else ""
    operands = ", ".join(str(type_of(x)) for x in xs)
    return MissingGradientError(
        f"{name}({operands}) lies between a target and a source, but has no derivative rule; "
        f"write it with other functions that have one, or leave its path out with tp.stop_gradient{where}"
    )


def is_differentiable(x: Any) -> bool:
    return has_derivatives(x.dtype)


def adjoint(
    records: Sequence[Record],
    targets: Sequence[Any],
    seeds: Sequence[Any],
    sources: Sequence[Any],
    key: Callable[[Any], Hashable | None] = lambda x: x,
) -> list[Any]:
    """Per source, the derivative of sum(seed * target) by it: a cotangent of its type, or None if not connected.

    `records` stand in the order in which they ran. `key` gives an operand's identity, None for constants. Each source
    gets its total derivative, also where sources repeat or depend on each other. Rules run only for records on a path
    from a source to a target; MissingGradientError names the first one without a rule. Time is linear in the records.
    """
    wanted = {key(s) for s in sources if is_differentiable(s)}
    on_path, active = _forward_active(records, wanted, key)
    cotangents: dict[Hashable, Any] = {}
    for target, seed in zip(targets, seeds, strict=True):
        _accumulate(cotangents, key(target), seed)
    outer = here.loc
    try:
        for record in reversed(on_path):
            keys = [key(y) for y in record.ys]
            gs = [cotangents.get(k) if k in wanted else cotangents.pop(k, None) for k in keys]
            if any(g is not None for g in gs):
                here.loc = record.loc
                _pull(record, gs, cotangents, active, key)
    finally:
        here.loc = outer
    return [cotangents.get(key(s)) if is_differentiable(s) else None for s in sources]


def _forward_active(
    records: Iterable[Record], wanted: set, key: Callable[[Any], Hashable | None]
) -> tuple[list[Record], set]:
    """The records whose results depend on a source, in order, and the keys of all operands and results that do."""
    active = set(wanted)
    found = []
    for record in records:
        if getattr(record, "op", None) is not ops.stop_gradient and any(key(x) in active for x in record.xs):
            results = [key(y) for y in record.ys if is_differentiable(y)]
            if results:
                active.update(results)
                found.append(record)
    return found, active


def _pull(record: Record, gs: Sequence[Any], cotangents: dict, active: set, key: Callable) -> None:
    if isinstance(record, RegionRecord):  # what is inside is differentiated: no more of it than matters
        cotangents_of_xs = record.pullback(gs, [key(x) in active for x in record.xs])
    else:
        cotangents_of_xs = record.pullback(gs)
    for x, g in zip(record.xs, cotangents_of_xs, strict=True):
        if g is not None and (k := key(x)) in active:
            if config.check:
                _check_cotangent(record, x, g)
            _accumulate(cotangents, k, g)


def _accumulate(cotangents: dict, k: Hashable, g: Any) -> None:
    cotangents[k] = ops.add(cotangents[k], g) if k in cotangents else g


def _check_cotangent(record: Record, x: Any, g: Any) -> None:
    if type_of(g) != type_of(x):
        what = getattr(getattr(record, "op", None), "name", "a recorded call")
        raise VerifyError(f"the vjp rule of {what} gives a cotangent {type_of(g)} for an operand {type_of(x)}")


# -- on graphs --------------------------------------------------------------------------------------------------------


def gradient_graph(graph: Graph, wrt: Sequence[int] | None = None) -> Graph:
    """parameters + seeds -> outputs + gradients of sum(seed * output).

    There is a seed, of the output's type, for each floating-point output, and a gradient for each parameter whose
    position is in `wrt` (all floating-point ones if not given); what is not connected has gradient zero.
    """
    targets = [v for v in graph.outs if is_differentiable(v)]
    sources = [p for p in graph.params if is_differentiable(p)] if wrt is None else [graph.params[k] for k in wrt]
    seeds = [param(v.type, f"d{k}") for k, v in enumerate(targets)]
    found = adjoint(records_of(graph), targets, seeds, sources)
    gradients = [zeros(s.type) if g is None else g for s, g in zip(sources, found, strict=True)]
    return Graph((*graph.params, *seeds), (*graph.outs, *gradients), graph.name)


def records_of(graph: Graph) -> list[OpRecord | RegionRecord]:
    """The nodes in order; a region and its results are one record."""
    return [_record(v) for v in graph.nodes if v.op is not None and v.op is not ops.result]


def _record(v: Value) -> OpRecord | RegionRecord:
    assert v.op is not None
    if not v.op.is_region:
        return OpRecord(v.op, v.args, v.attributes, v, v.loc)
    return RegionRecord(v.op, v.args, v.attributes, v.op.emit_results(*v.args, **v.attributes), v.loc)


def zeros(type: Type) -> Value:
    """An IR value full of zeros."""
    zero = constant(0, type.dtype)
    return ops.broadcast.emit(zero, shape=type.shape, axes=()) if type.shape else zero


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """As a pass: `gradient_graph`, counting the nodes that rules added."""
    result = gradient_graph(graph)
    return result, Counter({"adjoint": len(result.nodes) - len(graph.nodes)})
