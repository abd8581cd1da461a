"""Rules of the user's own as part of a program: traced to graphs, so that they hold wherever the program is
differentiated, and transposed for forward mode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import inlined
from tapefuse.ir.passes.custom_rules import transposed
from tapefuse.ir.types import Type, has_derivatives, size
from tapefuse.tracer.operators import functions
from tapefuse.tracer.record import Pullback, Pushforward
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state, tracing
from tapefuse.tracer.tensor import Tensor, TracedTensor
from tapefuse.tracer.trace import trace_pure

MAX_DEPTH = 3  # of rules that use functions with rules, traced before anybody asks: as many orders of derivatives


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What the user says of the derivatives of one call of a function. Types are those of all its results."""

    name: str
    pullback: Pullback  # cotangents of the results -> of the inputs
    pushforward: Pushforward | None  # tangents of the inputs -> of the results
    types: tuple[Type, ...]

    @property
    def wanted(self) -> list[int]:
        """The results that have derivatives."""
        return [k for k, t in enumerate(self.types) if has_derivatives(t.dtype)]

    def spread(self, found: Sequence[Any]) -> list[Any]:
        """One entry for each result from those that have derivatives."""
        at = dict(zip(self.wanted, found, strict=True))
        return [at.get(k) for k in range(len(self.types))]


class _Depth(threading.local):
    now = 0


_depth = _Depth()


def moved(rule: Rule, ts: Sequence[Tensor | None]) -> Sequence[Any]:
    """Tangents of the results: by the rule for them, or by that for cotangents, transposed.

    Raises MissingGradientError where the latter is not linear."""
    if rule.pushforward is not None:
        return rule.pushforward(ts)
    types = [rule.types[k] for k in rule.wanted]
    pull, given, outer = _graph_of(lambda gs: rule.pullback(rule.spread(gs)), types, rule.name)
    graph, which = transposed(pull, len(types), [ts[k] is not None for k in given], rule.name)
    found = dict(zip(which, inlined(graph, [*(ts[k] for k in given if ts[k] is not None), *outer], {}), strict=True))
    return rule.spread([found.get(k) for k in range(len(types))])


def linked(ys: Sequence[Tensor], inputs: Sequence[Tensor], rule: Rule) -> list[Tensor]:
    """The results as values of the program being traced whose derivatives by the inputs are the rule's."""
    assert state.trace is not None
    with tracing(state.trace):
        if not rule.wanted:
            return [_again(y) for y in ys]
        packing = _Packing([ys[k] for k in rule.wanted])
        parts = packing.parts(_ruled(packing, inputs, rule))
        found = rule.spread(parts)
        return [_again(y) if part is None else part for y, part in zip(ys, found, strict=True)]


def _again(y: Tensor) -> Tensor:
    assert state.trace is not None
    return TracedTensor(state.trace.value_of(y), state.trace)


class _Packing:
    """Several tensors as one, of the widest of their dtypes, since an operation has one result."""

    def __init__(self, ys: Sequence[Tensor]):
        self.types = [y.type for y in ys]
        self.dtype = functions.result_type(*ys)
        self.whole: Tensor = ys[0] if len(ys) == 1 else functions.concatenate([self._flat(y) for y in ys])

    def _flat(self, y: Tensor) -> Tensor:
        return functions.reshape(functions.astype(y, self.dtype), (size(y.shape),))

    def parts(self, whole: Tensor) -> list[Tensor]:
        if len(self.types) == 1:
            return [whole]
        found: list[Tensor] = []
        start: Any = 0
        for t in self.types:
            stop = start + size(t.shape)
            part = functions.reshape(whole[start:stop], t.shape)
            found.append(part if part.dtype == t.dtype else functions.astype(part, t.dtype))
            start = stop
        return found


def _ruled(packing: _Packing, inputs: Sequence[Tensor], rule: Rule) -> Tensor:
    """The packed results with the rule attached, or with the error that says why there is none."""
    if _depth.now >= MAX_DEPTH:
        return _without_rule(packing, f"{rule.name}, in derivatives of more than order {MAX_DEPTH} of itself,")
    _depth.now += 1
    try:
        pull, given, outer = _graph_of(
            lambda gs: rule.pullback(rule.spread(packing.parts(gs[0]))), [packing.whole.type], rule.name
        )
        rules, more = [pull], list[Tensor]()
        if rule.pushforward is not None:
            push, more = _push_graph(rule, rule.pushforward, inputs)
            rules.append(push)
    except Exception as error:  # is raised where the rule is asked for, as everywhere else
        return _without_rule(packing, f"{rule.name}, whose rule raises {type(error).__name__} ({error}),")
    finally:
        _depth.now -= 1
    attrs = {"rules": tuple(rules), "given": tuple(given), "inputs": len(inputs), "kept": len(outer)}
    return ops.ruled(packing.whole, *inputs, *outer, *more, **attrs)


def _without_rule(packing: _Packing, why: str) -> Tensor:
    return ops.missing_gradient(packing.whole, name=why)


def _push_graph(rule: Rule, push: Pushforward, inputs: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
    places = [k for k, x in enumerate(inputs) if has_derivatives(x.dtype)]

    def forward(ts: Sequence[Tensor]) -> Sequence[Any]:
        given = dict(zip(places, ts, strict=True))
        found = push([given.get(k) for k in range(len(inputs))])
        zeros = (functions.zeros(t.shape, t.dtype) for t in rule.types)
        tangents = [zero if t is None else t for t, zero in zip(found, zeros, strict=True)]
        return [_Packing([tangents[k] for k in rule.wanted]).whole]

    graph, _, outer = _graph_of(forward, [inputs[k].type for k in places], rule.name)
    return graph, outer


def _graph_of(
    f: Callable[[Sequence[Tensor]], Sequence[Any]], types: Sequence[Type], name: str
) -> tuple[Graph, list[int], list[Tensor]]:
    """(arguments, what it reads from outside) -> the results that are not None, which those are, and what it reads."""
    graph, places, outer = trace_pure(
        f,
        types,
        name,
        lambda variable: f"the rule of {name} assigns to the variable {variable!r} at {user_loc()}; a rule that is "
        "part of a program only gives derivatives, so assign outside of it",
    )
    return graph, [k for k, is_there in enumerate(places) if is_there], outer
