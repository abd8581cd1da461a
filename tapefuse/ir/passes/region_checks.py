"""What is tested inside of regions: it becomes a result of theirs, so that a program knows before it changes anything.

A loop carries whether a test has failed so far; a `while` ends then. Tests that depend on no carried value are made
before the loop: those of bounds that are affine in the index at the first and the last iteration. Kernels index with
sizes as they are, so what would leave its array must not run: the tests of sized code are made before it, a `while`
does not begin, and a branch is not taken (`_switch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.op import Op, constant
from tapefuse.ir.ops.family import BOOL, INT64
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.bodies import depending, rebuilt, symbols_of
from tapefuse.ir.program import Check
from tapefuse.ir.types import Dim, Poly, Type

Known = Mapping[str, tuple[Dim, Dim]]
CheckGraph = Callable[[Graph, Known], tuple[Graph, tuple[Check, ...]]]
FALSE = constant(False)
INSIDE: Known = {"inside of a region": (0, 0)}  # a name that no symbol has


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
    graph, checks = check(a["body"], {**known, **INSIDE, index: (0, trips - 1)})
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
        runs, inner = test.args
        return _where_inner_runs(runs, inner, index, trips)
    if (d := _affine(test, ops.lt, index)) is not None:
        return ops.or_(*(ops.lt(_number(d.substitute({index: k})), test.args[1]) for k in (0, trips - 1)))
    return None


def _affine(test: Value, op: Op, index: str) -> Poly | None:
    """The dimension in `d < 0` or `d > 0` if it is affine in the index."""
    if test.op is not op or test.args[0].op is not ops.dim or test.args[1].args:
        return None
    d: Poly = test.args[0].attributes["value"]
    return d if all(mono.count(index) <= 1 for mono, _ in d.terms) else None


def _where_inner_runs(runs: Value, test: Value, index: str, trips: Dim) -> Value | None:
    """`anywhere` of a test in a loop inside, whose trips grow or shrink by 1: at the ends of where it has any."""
    tests = test.args if test.op is ops.or_ else (test,)
    d, affine = _affine(runs, ops.gt, index), [_affine(t, ops.lt, index) for t in tests]
    if d is None or any(x is None for x in affine):
        return None
    rest, last = d.substitute({index: 0}), _number(trips - 1)
    low, high = constant(0, INT64), last
    if d == rest + Poly.symbol(index):
        low = ops.maximum(low, _number(1 - rest))
    elif d == rest - Poly.symbol(index):
        high = ops.minimum(last, _number(rest - 1))
    else:
        return None
    failed = [ops.lt(_evaluated(x, index, k), constant(0, INT64)) for x in affine if x is not None for k in (low, high)]
    return ops.and_(ops.le(low, high), reduce(ops.or_, failed))


def _number(d: Dim) -> Value:
    return ops.dim.emit(value=d, dtype=INT64) if isinstance(d, Poly) else constant(d, INT64)


def _while(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    a = v.attributes
    n, inner = a["carried"], {**known, **INSIDE}
    (body, in_body), (cond, in_cond) = check(a["body"], inner), check(a["cond"], inner)
    flags = [param(Type(BOOL, ())) for _ in (*in_body, *in_cond)]
    again = rebuilt(cond.outs[1:], dict(zip(cond.params, body.params, strict=True)))
    tests = (*body.outs[n:], *again)
    outs = (*body.outs[:n], *(ops.or_(f, t) for f, t in zip(flags, tests, strict=True)))
    goes_on = cond.outs[0]
    for f in flags:
        goes_on = ops.and_(goes_on, ops.not_(f))
    results = ops.while_.emit_results(
        *args[:n],
        *_before_while(body, cond, args, n),
        *(FALSE for _ in in_cond),
        *args[n:],
        cond=Graph((*cond.params[:n], *flags, *cond.params[n:]), (goes_on,), cond.name),
        body=Graph((*body.params[:n], *flags, *body.params[n:]), outs, body.name),
        carried=n + len(flags),
    )
    failed = results[n:-1]
    last = rebuilt(cond.outs[1:], dict(zip(cond.params, (*results[:n], *args[n:]), strict=True)))
    late = (ops.or_(f, t) for f, t in zip(failed[len(in_body) :], last, strict=True))
    return Checked((*results[:n], results[-1]), (*failed[: len(in_body)], *late), (*in_body, *in_cond))


def _before_while(body: Graph, cond: Graph, args: tuple[Value, ...], n: int) -> list[Value]:
    """Which tests of the body would fail in a first iteration whatever is carried."""
    varying, env = depending(body, body.params[:n]), dict(zip(body.params, args, strict=True))
    early = [FALSE if t in varying else rebuilt((t,), env)[0] for t in body.outs[n:]]
    if all(t is FALSE for t in early):
        return early
    (runs,) = rebuilt(cond.outs[:1], dict(zip(cond.params, args, strict=True)))
    return [t if t is FALSE else ops.and_(runs, t) for t in early]


def _switch(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    """Tests of sizes alone decide which branch is taken: one more, which does nothing, where they fail."""
    branches: Sequence[Graph] = v.attributes["branches"]
    n, found = len(branches[0].outs), [check(branch, {**known, **INSIDE}) for branch in branches]
    checks = [c for _, cs in found for c in cs]
    early = [
        None if t in inside else ops.and_(_is_taken(args[0], k, len(branches)), t)
        for k, (graph, _) in enumerate(found)
        for inside in (depending(graph, graph.params),)
        for t in graph.outs[n:]
    ]
    count, new, done = sum(t is None for t in early), [], 0
    rest = iter(early)
    for graph, _ in found:
        inner = [t for t, x in zip(graph.outs[n:], rest, strict=False) if x is None]  # the others are of later branches
        after = count - done - len(inner)
        new.append(Graph(graph.params, (*graph.outs[:n], *[FALSE] * done, *inner, *[FALSE] * after), graph.name))
        done += len(inner)
    index = args[0]
    if count < len(early):
        index = ops.minimum(index, constant(len(branches) - 1, INT64))
        for t in early:
            index = index if t is None else ops.select(t, constant(len(branches), INT64), index)
        new.append(_nothing(new, n))
    results = ops.switch.emit_results(index, *args[1:], branches=tuple(new))
    late = iter(results[n:])
    return Checked(results[:n], tuple(next(late) if t is None else t for t in early), tuple(checks))


def _is_taken(index: Value, k: int, count: int) -> Value:
    """Whether a switch takes branch number `k`."""
    number = constant(k, INT64)
    if count == 1:
        return constant(True)
    return ops.le(index, number) if k == 0 else ops.ge(index, number) if k == count - 1 else ops.eq(index, number)


def _nothing(branches: Sequence[Graph], n: int) -> Graph:
    """A branch that gives what other ones give as they got it, else zeros."""
    first = branches[0]
    outs = []
    for k, out in enumerate(first.outs[:n]):
        same = (b.params.index(b.outs[k]) for b in branches if b.outs[k] in b.params)
        number = next(same, None)
        outs.append(zeros(out.type) if number is None else first.params[number])
    return Graph(first.params, (*outs, *[FALSE] * (len(first.outs) - n)), "nothing")


def _sized(v: Value, args: tuple[Value, ...], known: Known, check: CheckGraph) -> Checked:
    a: dict[str, Any] = v.attributes
    n, symbol = len(a["body"].outs), a["symbol"]
    body, checks = check(a["body"], {**known, **INSIDE})
    inside = depending(body, body.params)
    size = ops.maximum(args[0], constant(0, INT64))
    early = [None if t in inside else _with_size(t, symbol, size) for t in body.outs[n:]]
    outs = (*body.outs[:n], *(t for t, x in zip(body.outs[n:], early, strict=True) if x is None))
    tested = _unless(args[0], [t for t in early if t is not None]) if known.keys() >= INSIDE.keys() else args[0]
    results = ops.sized.emit_results(tested, *args[1:], symbol=symbol, body=Graph(body.params, outs, body.name))
    late = iter(results[n:])
    return Checked(results[:n], tuple(next(late) if x is None else x for x in early), checks)


def _unless(size: Value, failed: Sequence[Value]) -> Value:
    """A size that is computed in an iteration or branch, 0 where a test fails: what is around ends too late."""
    is_counted = size.op is None or (size.op is ops.result and size.args[0].op is ops.while_)
    return size if is_counted or not failed else ops.select(reduce(ops.or_, failed), constant(0, INT64), size)


def _with_size(test: Value, symbol: str, size: Value) -> Value | None:
    """A test with a value in place of a symbol; None where the symbol stands for the shape of something."""
    if any(symbol in symbols_of(v) for v in reachable([test]) if v.op is not ops.dim):
        return None

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        return _evaluated(v.attributes["value"], symbol, size) if v.op is ops.dim and symbol in symbols_of(v) else None

    return rebuilt((test,), {}, change)[0]


def _evaluated(d: Poly, symbol: str, size: Value) -> Value:
    """A dimension with a value in place of a symbol."""
    terms = []
    for mono, coefficient in d.terms:
        others = tuple(s for s in mono if s != symbol)
        factors = [size] * (len(mono) - len(others))
        if others or coefficient != 1 or not factors:
            factors.append(_number(Poly(((others, coefficient),)) if others else coefficient))
        terms.append(reduce(ops.mul, factors))
    return reduce(ops.add, terms)


_CHECKED = {ops.for_: _for, ops.while_: _while, ops.switch: _switch, ops.sized: _sized}
