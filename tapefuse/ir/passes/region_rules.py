"""Derivative and batching rules of regions: what they do to the graphs inside.

They stand here and not beside the ops, since they run the adjoint, the tangents and the batching of those graphs;
`ir.ops.region.RULES` is filled at the end of this file. Rules work on IR values; for tensors the graph that
a rule makes is applied to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import inlined
from tapefuse.ir.ops import region
from tapefuse.ir.passes import loop_adjoint, region_batching
from tapefuse.ir.passes.adjoint import adjoint, is_differentiable, records_of, zeros
from tapefuse.ir.passes.forward import tangents
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.narrowing import narrowed
from tapefuse.ir.rewrite import Pattern, Rewriter, rule
from tapefuse.ir.types import Poly, Type, type_of

Maybe = Sequence[Value | None]


# -- cotangents -------------------------------------------------------------------------------------------------------


def for_vjp(
    gs: Maybe, ys: Sequence[Value], xs: Sequence[Value], wanted: Sequence[bool], **attrs: Any
) -> Maybe:
    return loop_adjoint.cotangents(gs, Loop(tuple(xs), **attrs), wanted, ys)


def while_vjp(gs: Maybe, ys: Maybe, xs: Sequence[Value], wanted: Sequence[bool], **attrs: Any) -> Maybe:
    """The loop again, and back, as a `for` over the number of iterations it took."""
    symbol, body, carried = region.fresh("n"), attrs["body"], attrs["carried"]
    again = Loop(body.params, body, Poly.symbol(symbol), region.fresh("k"), carried).results()
    (backward,), which = _pulled([Graph(body.params, again)], gs[:carried], wanted)
    found = ops.sized.emit_results(ys[-1], *xs, *_given(gs[:carried]), symbol=symbol, body=backward)
    return _spread(found, which, len(xs))


def switch_vjp(
    gs: Maybe, ys: Maybe, xs: Sequence[Value], wanted: Sequence[bool], *, branches: Sequence[Graph]
) -> Maybe:
    """The cotangents of the branch taken, which computes again what they need."""
    backward, which = _pulled(branches, gs, wanted[1:])
    read, backward = narrowed(xs[1:], backward)
    found = ops.switch.emit_results(xs[0], *read, *_given(gs), branches=tuple(backward))
    return [None, *_spread(found, which, len(xs) - 1)]


def sized_vjp(gs: Maybe, ys: Maybe, xs: Sequence[Value], wanted: Sequence[bool], *, symbol: str, body: Graph) -> Maybe:
    (backward,), which = _pulled([body], gs, wanted[1:])
    found = ops.sized.emit_results(*xs, *_given(gs), symbol=symbol, body=backward)
    return [None, *_spread(found, which, len(xs) - 1)]


def _pulled(graphs: Sequence[Graph], gs: Maybe, wanted: Sequence[bool]) -> tuple[list[Graph], list[int]]:
    """Graphs (parameters, seeds that are not None) -> cotangents, and of which parameters: those that some graph
    connects."""
    seeds = {k: param(g.type, f"d{k}") for k, g in enumerate(gs) if g is not None}
    found = []
    for graph in graphs:
        sources = [p for p, w in zip(graph.params, wanted, strict=True) if w]
        targets = [graph.outs[k] for k in seeds]
        pulled = iter(adjoint(records_of(graph), targets, [*seeds.values()], sources))
        found.append([next(pulled) if w else None for w in wanted])
    return _joined(graphs, found, [*seeds.values()], [p.type for p in graphs[0].params], keep=False)


def _joined(
    graphs: Sequence[Graph], found: Sequence[Maybe], extra: Sequence[Value], types: Sequence[Type], keep: bool
) -> tuple[list[Graph], list[int]]:
    """Graphs (parameters, extra ones) -> values found, and which: not None in some graph, with zeros in the others.

    `keep`: after the outputs that the graphs have.
    """
    which = [k for k in range(len(types)) if any(f[k] is not None for f in found)]

    def joined(graph: Graph, values: Maybe) -> Graph:
        outs = tuple(zeros(types[k]) if (v := values[k]) is None else v for k in which)
        return Graph((*graph.params, *extra), (*graph.outs, *outs) if keep else outs, graph.name)

    return [joined(*pair) for pair in zip(graphs, found, strict=True)], which


def _given(values: Sequence[Any]) -> list[Any]:
    return [v for v in values if v is not None]


def _spread(found: Sequence[Value], which: Sequence[int], n: int) -> Maybe:
    at = dict(zip(which, found, strict=True))
    return [at.get(k) for k in range(n)]


# -- tangents ---------------------------------------------------------------------------------------------------------


def for_jvp(ts: Maybe, ys: Maybe, xs: Sequence[Value], **attrs: Any) -> Maybe:
    """A loop that carries tangents too."""
    step = _Moved.of(attrs["body"], ts, attrs["carried"])
    found = ops.for_.emit_results(*step.operands(xs, ts), **{**attrs, **step.attrs})
    return _spread(found[attrs["carried"] :], step.which, attrs["carried"])


def while_jvp(ts: Maybe, ys: Maybe, xs: Sequence[Value], **attrs: Any) -> Maybe:
    cond, n = attrs["cond"], attrs["carried"]
    step = _Moved.of(attrs["body"], ts, n)
    tangents_of = [param(p.type) for p in step.params]
    params = (*cond.params[:n], *tangents_of[: len(step.which)], *cond.params[n:], *tangents_of[len(step.which) :])
    found = ops.while_.emit_results(*step.operands(xs, ts), cond=Graph(params, cond.outs), **step.attrs)
    return [*_spread(found[n:-1], step.which, n), None]


class _Moved(NamedTuple):
    """The body of a loop with tangents."""

    which: list[int]  # carries that have one
    consts: list[int]  # operands that are no carries, and have one
    params: tuple[Value, ...]  # the tangents of both
    attrs: dict[str, Any]  # the body and the number of carries

    @staticmethod
    def of(body: Graph, ts: Maybe, n: int) -> _Moved:
        which = [k for k in range(n) if ts[k] is not None]
        consts = [k for k in range(n, len(ts)) if ts[k] is not None]
        while True:
            sources = [body.params[k] for k in (*which, *consts)]
            given = [param(p.type, f"t_{p.name or k}") for k, p in enumerate(sources)]
            moved = tangents(records_of(body), sources, given, body.outs)
            more = [k for k in range(n) if moved[k] is not None and k not in which]
            if not more:
                break
            which = sorted((*which, *more))
        outs = [zeros(body.params[k].type) if (t := moved[k]) is None else t for k in which]
        m = len(which)
        params = (*body.params[:n], *given[:m], *body.params[n:], *given[m:])
        attrs = {"body": Graph(params, (*body.outs, *outs), body.name), "carried": n + m}
        return _Moved(which, consts, tuple(given), attrs)

    def operands(self, xs: Sequence[Value], ts: Maybe) -> list[Value]:
        n = self.attrs["carried"] - len(self.which)
        first = [zeros(xs[k].type) if (t := ts[k]) is None else t for k in self.which]
        return [*xs[:n], *first, *xs[n:], *(t for k in self.consts if (t := ts[k]) is not None)]


def switch_jvp(ts: Maybe, ys: Maybe, xs: Sequence[Value], *, branches: Sequence[Graph]) -> Maybe:
    n = len(branches[0].outs)
    moved, which = _pushed(branches, ts[1:])
    found = ops.switch.emit_results(*xs, *_given(ts[1:]), branches=tuple(moved))
    return _spread(found[n:], which, n)


def sized_jvp(ts: Maybe, ys: Maybe, xs: Sequence[Value], *, symbol: str, body: Graph) -> Maybe:
    (moved,), which = _pushed([body], ts[1:])
    found = ops.sized.emit_results(*xs, *_given(ts[1:]), symbol=symbol, body=moved)
    return _spread(found[len(body.outs) :], which, len(body.outs))


def _pushed(graphs: Sequence[Graph], ts: Maybe) -> tuple[list[Graph], list[int]]:
    """Graphs (parameters, tangents that are not None) -> outputs and tangents, and of which outputs."""
    given = {k: param(t.type, f"t{k}") for k, t in enumerate(ts) if t is not None}
    found = [
        tangents(records_of(graph), [graph.params[k] for k in given], [*given.values()], graph.outs) for graph in graphs
    ]
    return _joined(graphs, found, [*given.values()], [y.type for y in graphs[0].outs], keep=True)


# -- for operands of any kind -----------------------------------------------------------------------------------------


def _vjp(rule: Callable[..., Maybe], reads: slice) -> Callable[..., Sequence[Any]]:
    """`reads`: the results that the rule reads."""

    def vjp(gs: Sequence[Any], ys: Sequence[Any], *xs: Any, wanted: Sequence[bool] | None = None, **attrs: Any) -> Any:
        attrs = _without_effects(attrs)
        matters = [w and is_differentiable(x) for w, x in zip(wanted or [True] * len(xs), xs, strict=True)]

        def on_values(xs: Sequence[Value], gs: Maybe, ys: Maybe) -> Maybe:
            return [None] * len(xs) if not _given(gs) else rule(gs, ys, xs, matters, **attrs)

        return _applied(on_values, xs, gs, [*ys[reads]])

    return vjp


def _jvp(rule: Callable[..., Maybe]) -> Callable[..., Sequence[Any]]:
    def jvp(ts: Sequence[Any], ys: Sequence[Any], *xs: Any, **attrs: Any) -> Any:
        quiet = _without_effects(attrs)
        return _applied(lambda xs, ts: rule(ts, ys, xs, **quiet), xs, ts)

    return jvp


EFFECTS = Rewriter((rule("having", Pattern("having"), lambda root: root.args[0]),))


def _without_effects(attrs: dict[str, Any]) -> dict[str, Any]:
    """What a derivative runs again prints and tests nothing again."""
    return region.with_graphs(attrs, lambda g: EFFECTS.run(g)[0])


def _applied(rule: Callable[..., Maybe], *groups: Sequence[Any]) -> Sequence[Any]:
    """`rule(*groups)`, whose entries are anything or None: on IR values, or as a graph that is applied to them."""
    given = _given([x for group in groups for x in group])
    if all(isinstance(x, Value) for x in given):
        return rule(*groups)
    params = [param(type_of(x)) for x in given]
    rest = iter(params)
    found = rule(*([None if x is None else next(rest) for x in group] for group in groups))
    done = iter(inlined(Graph(tuple(params), tuple(_given(found))), given, {}))
    return [None if v is None else next(done) for v in found]


region.RULES |= {
    "for": region.Rules(_vjp(for_vjp, slice(None)), _jvp(for_jvp), region_batching.for_batch),
    "while": region.Rules(_vjp(while_vjp, slice(-1, None)), _jvp(while_jvp), region_batching.while_batch),
    "switch": region.Rules(_vjp(switch_vjp, slice(0)), _jvp(switch_jvp), region_batching.switch_batch),
    "sized": region.Rules(_vjp(sized_vjp, slice(0)), _jvp(sized_jvp), region_batching.sized_batch),
}
