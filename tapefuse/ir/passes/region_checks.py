"""What is tested inside of regions: it becomes a result of theirs, so that a program knows before it changes anything.

A loop carries whether a test has failed so far; a `while` ends then. Tests that depend on no carried value are made
before the loop: those of bounds that are affine in the index at the first and the last iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.op import constant
from tapefuse.ir.ops.family import BOOL, INT64
from tapefuse.ir.passes.bodies import depending, rebuilt, symbols_of
from tapefuse.ir.program import Check
from tapefuse.ir.types import Dim, Poly, Type

Known = Mapping[str, tuple[Dim, Dim]]
CheckGraph = Callable[[Graph, Known], tuple[Graph, tuple[Check, ...]]]
FALSE = constant(False)


class Checked(NamedTuple):
    """The results of a region, and the tests that were made inside: bool scalars, true where they failed."""

    results: tuple[Value, ...]
    failed: tuple[Value, ...]
    checks: tuple[Check, ...]


def checked(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked | None:
    """A region on new operands, with tests; None if there is nothing to test. `check`: adds tests to a graph."""
    assert v.op is not None
    found = _CHECKED[v.op](v, args, known, check)
    return found if found.failed else None


def _for(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    a = v.attributes
    index, trips, n = a["index"], a["trips"], a["carried"]
    graph, checks = check(a["body"], {**known, index: (0, trips - 1)})
    tests = graph.outs[n:]
    varying = depending(graph, graph.params[:n])
    before = [None if t in varying else anywhere(t, index, trips) for t in tests]
    inner = [t for t, x in zip(tests, before, strict=True) if x is None]
    flags = [param(Type(BOOL, ())) for _ in inner]
    outs = (*graph.outs[:n], *(ops.or_(f, t) for f, t in zip(flags, inner, strict=True)))
    body = Graph((*graph.params[:n], *flags, *graph.params[n:]), outs, graph.name)
    operands = (*args[:n], *(FALSE for _ in flags), *args[n:])
    results = ops.for_.emit_results(*operands, **{**a, "body": body, "carried": n + len(flags)})
    carried = iter(results[n:])
    env = dict(zip(graph.params, args, strict=True))
    failed = [next(carried) if x is None else _if_any(rebuilt((x,), env)[0], trips) for x in before]
    return Checked(results[:n], tuple(failed), checks)


def _if_any(test: Value, trips: Dim) -> Value:
    """A test that holds where there are iterations."""
    if isinstance(trips, Poly):
        return ops.and_(ops.gt(ops.dim.emit(value=trips, dtype=INT64), constant(0, INT64)), test)
    return test if trips > 0 else FALSE


def anywhere(test: Value, index: str, trips: Dim) -> Value | None:
    """Whether a test fails for some value of the index, without the index; None where that takes a loop."""
    if not any(index in symbols_of(v) for v in reachable([test])):
        return test
    if test.op is ops.or_:
        parts = [x for t in test.args if (x := anywhere(t, index, trips)) is not None]
        return ops.or_(*parts) if len(parts) == 2 else None
    if test.op is ops.and_:
        fixed = [anywhere(t, index, trips) for t in test.args]
        if all(x is not None for x in fixed) and any(x is t for x, t in zip(fixed, test.args, strict=True)):
            return ops.and_(*fixed)
    if test.op is ops.lt and test.args[0].op is ops.dim and not test.args[1].args:
        d, zero = test.args[0].attributes["value"], test.args[1]
        if all(mono.count(index) <= 1 for mono, _ in d.terms):
            return ops.or_(*(ops.lt(_number(d.substitute({index: k})), zero) for k in (0, trips - 1)))
    return None


def _number(d: Dim) -> Value:
    return ops.dim.emit(value=d, dtype=INT64) if isinstance(d, Poly) else constant(d, INT64)


def _while(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    a = v.attributes
    n, (body, in_body), (cond, in_cond) = a["carried"], check(a["body"], known), check(a["cond"], known)
    flags = [param(Type(BOOL, ())) for _ in (*in_body, *in_cond)]
    again = rebuilt(cond.outs[1:], dict(zip(cond.params, body.params, strict=True)))
    tests = (*body.outs[n:], *again)
    outs = (*body.outs[:n], *(ops.or_(f, t) for f, t in zip(flags, tests, strict=True)))
    goes_on = cond.outs[0]
    for f in flags:
        goes_on = ops.and_(goes_on, ops.not_(f))
    results = ops.while_.emit_results(
        *args[:n],
        *(FALSE for _ in flags),
        *args[n:],
        cond=Graph((*cond.params[:n], *flags, *cond.params[n:]), (goes_on,), cond.name),
        body=Graph((*body.params[:n], *flags, *body.params[n:]), outs, body.name),
        carried=n + len(flags),
    )
    failed = results[n:-1]
    last = rebuilt(cond.outs[1:], dict(zip(cond.params, (*results[:n], *args[n:]), strict=True)))
    late = (ops.or_(f, t) for f, t in zip(failed[len(in_body) :], last, strict=True))
    return Checked((*results[:n], results[-1]), (*failed[: len(in_body)], *late), (*in_body, *in_cond))


def _switch(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    branches: Sequence[Graph] = v.attributes["branches"]
    n, found = len(branches[0].outs), [check(branch, known) for branch in branches]
    checks = [c for _, cs in found for c in cs]
    new, done = [], 0
    for graph, own in found:
        after = len(checks) - done - len(own)
        outs = (*graph.outs[:n], *[FALSE] * done, *graph.outs[n:], *[FALSE] * after)
        new.append(Graph(graph.params, outs, graph.name))
        done += len(own)
    results = ops.switch.emit_results(*args, branches=tuple(new))
    return Checked(results[:n], results[n:], tuple(checks))


def _sized(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    a: dict[str, Any] = v.attributes
    n = len(a["body"].outs)
    body, checks = check(a["body"], known)
    results = ops.sized.emit_results(*args, symbol=a["symbol"], body=body)
    return Checked(results[:n], results[n:], checks)


_CHECKED = {ops.for_: _for, ops.while_: _while, ops.switch: _switch, ops.sized: _sized}
