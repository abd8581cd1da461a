"""Derivatives and batching of values with rules of the user's own (`ops.ruled`): the rules' graphs, inlined.

They stand here and not beside the op, since they differentiate and batch these graphs; `ir.ops.custom.RULES` is filled
at the end of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapefuse._errors import MissingGradientError
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.interp import inlined
from tapefuse.ir.op import Op
from tapefuse.ir.ops import custom
from tapefuse.ir.ops.family import batch_size, with_batch, zeros_like
from tapefuse.ir.passes.adjoint import adjoint, is_differentiable, records_of
from tapefuse.ir.passes.batching import batched_graph
from tapefuse.ir.types import type_of


def cotangents(
    g: Any, xs: Sequence[Any], *, rules: Sequence[Graph], given: Sequence[int], inputs: int, kept: int
) -> list[Any]:
    """Those of `y` (always None: its own derivatives do not count) and of the operands after it."""
    found = dict(zip(given, inlined(rules[0], [g, *xs[inputs : inputs + kept]], {}), strict=True))
    return [None, *(found.get(k) for k in range(len(xs)))]


def tangent(ts: Sequence[Any], xs: Sequence[Any], *, rules: Any, given: Any, inputs: int, kept: int) -> Any:
    """The tangent of `y` along those of the inputs; that of `y` itself does not count."""
    moved = ts[1 : inputs + 1]
    if len(rules) > 1:
        if all(t is None for t in moved):
            return None
        either = zip(moved, xs[:inputs], strict=True)
        directions = [zeros_like(x) if t is None else t for t, x in either if is_differentiable(type_of(x))]
        return inlined(rules[1], [*directions, *xs[inputs + kept :]], {})[0]
    graph, which = transposed(rules[0], 1, [moved[k] is not None for k in given])
    if not which:
        return None
    return inlined(graph, [*(moved[k] for k in given if moved[k] is not None), *xs[inputs : inputs + kept]], {})[0]


def transposed(pull: Graph, n: int, moved: Sequence[bool], name: str | None = None) -> tuple[Graph, list[int]]:
    """A graph (cotangents of `n` results, rest) -> cotangents as one (tangents, rest) -> tangents of results.

    `moved` says which of the outputs have a tangent; the graph takes those, and gives the results' whose numbers come
    with it. What maps cotangents linearly back maps, transposed, tangents forwards; the transpose is the derivative of
    sum(tangent * cotangent) by the results' cotangents, which must not depend on them: else MissingGradientError.
    """
    outs = [v for v, m in zip(pull.outs, moved, strict=True) if m]
    directions = [param(v.type, f"t{k}") for k, v in enumerate(outs)]
    results = pull.params[:n]
    found = adjoint(records_of(pull), outs, directions, results)
    which = [k for k, v in enumerate(found) if v is not None]
    values: tuple[Value, ...] = tuple(v for v in found if v is not None)
    if not reachable(values).isdisjoint(results):
        raise MissingGradientError(
            f"{name or pull.name} has a rule for reverse mode that is not linear in the cotangent, so there is none "
            "for forward mode; give custom_gradient a function `jvp`, or take the gradient"
        )
    return Graph((*directions, *pull.params[n:]), values, f"{pull.name}_forward"), which


def batch(op: Op, flags: Sequence[bool], xs: Sequence[Any], *, rules: Any, given: Any, inputs: int, kept: int) -> Any:
    """All operands with an axis of examples, and rules for it."""
    n = batch_size(flags, xs)
    operands = [x if f else with_batch(x, n) for x, f in zip(xs, flags, strict=True)]
    longer = tuple(batched_graph(rule, [True] * len(rule.params), n) for rule in rules)
    return op(*operands, rules=longer, given=given, inputs=inputs, kept=kept)


def undone(op: Op, flags: Sequence[bool], xs: Sequence[Any], *, inverse: Graph, count: int, number: int) -> Any:
    """All operands with an axis of examples, and an inverse for it."""
    n = batch_size(flags, xs)
    operands = [x if f else with_batch(x, n) for x, f in zip(xs, flags, strict=True)]
    longer = batched_graph(inverse, [True] * len(inverse.params), n)
    return op(*operands, inverse=longer, count=count, number=number)


custom.RULES |= {"vjp": cotangents, "jvp": tangent, "batch": batch, "undone": undone}
