"""What a program tests before it changes anything: indices within their axes, slices within symbolic extents, no
largest element of none, no integer to a negative power.

    %0 = gather %x, %k : f32[B]    adds the output    reduce_any (or (lt %k, -10), (ge %k, 10)) : bool[]

Compiled kernels read and write without a test of their own, so this runs on the traced graph, before `simplify` turns
some scatters into comparisons. Graphs inside of regions are tested too (`region_checks`). Indices
that are known to be in range (iota, argmax, mod, constants) need no test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops, types
from tapefuse.ir.graph import Graph, Value, here
from tapefuse.ir.op import const, constant
from tapefuse.ir.ops.effects import error_class
from tapefuse.ir.ops.slicing import slice_needs
from tapefuse.ir.ops.update import update_needs
from tapefuse.ir.passes import region_checks
from tapefuse.ir.program import Check
from tapefuse.ir.types import Dim, Poly, Type

Interval = tuple[Dim, Dim]  # smallest and largest value
Known = Mapping[str, Interval]  # of symbols that a loop binds; all others are sizes, >= 0
_INT64 = np.dtype(np.int64)
_NEED_ELEMENTS = (ops.reduce_max, ops.reduce_min, ops.argmax, ops.argmin)
MAX_DEPTH = 8  # of the search for the range of an index


class Test(NamedTuple):
    """`failed`, a bool of any shape, is true somewhere when the program must not run."""

    failed: Value
    check: Check


def with_checks(graph: Graph, known: Known = MappingProxyType({})) -> tuple[Graph, tuple[Check, ...]]:
    """The graph with one more bool scalar output per check, true if it fails, and what each of them means.

    `known`: intervals of symbols, in terms of other symbols: what they exclude is not tested.
    """
    tests: dict[Value, Check] = {}
    env: dict[Value, Value] = {}
    results: dict[Value, tuple[Value, ...]] = {}  # of regions with tests inside
    outer = here.loc
    try:
        for v in graph.in_order:
            here.loc = v.loc
            env[v] = _with_inner_tests(v, tuple(env.get(a, a) for a in v.args), known, tests, results)
            for failed, check in _tests(env[v], known):
                axes = tuple(range(len(failed.shape)))
                tests.setdefault(ops.reduce_any(failed, axes=axes) if axes else failed, check)
    finally:
        here.loc = outer
    outs = (env.get(v, v) for v in graph.outs)
    return Graph(graph.params, (*outs, *tests), graph.name), tuple(tests.values())


def _with_inner_tests(
    v: Value, args: tuple[Value, ...], known: Known, tests: dict[Value, Check], results: dict[Value, tuple[Value, ...]]
) -> Value:
    """A node on new operands; tests inside of regions are added to `tests`, the new results of these to `results`."""
    assert v.op is not None
    if v.op is ops.result and v.args[0] in results:
        return results[v.args[0]][v.attributes["index"]]
    if v.op.is_region and (found := region_checks.checked(v, args, known, with_checks)) is not None:
        results[v] = found.results
        for failed, check in zip(found.failed, found.checks, strict=True):
            if failed is not region_checks.FALSE:
                tests.setdefault(failed, check)
        return v
    return v if args == v.args else v.op.emit(*args, **v.attributes)


def _tests(v: Value, known: Known) -> Iterator[Test]:
    if v.op is ops.gather:
        yield from _index_tests(v, v.args[0].type, known)
    elif v.op in (ops.scatter_add, ops.add_at, ops.put_at):
        yield from _index_tests(v, v.type, known)
    elif v.op in (ops.slice_, ops.pad, ops.put, ops.put_add):
        yield from _size_tests(v, known)
    elif v.op in _NEED_ELEMENTS:
        yield from _emptiness_tests(v)
    elif v.op is ops.pow and v.dtype.kind == "i":
        yield from _exponent_tests(v)
    elif v.op is not None and v.op.failure:
        marked = ops.real(v) if v.dtype.kind == "c" else v
        yield Test(ops.failed(marked), Check(f"{v.op.name}: {v.op.failure}", v.loc, np.linalg.LinAlgError))
    elif v.op is ops.require:
        a = v.attributes
        yield Test(ops.not_(v.args[0]), Check("", None, error_class(a["error"]), a["arguments"], a["where"]))


def _index_tests(v: Value, array: Type, known: Known) -> Iterator[Test]:
    assert v.op is not None
    for axis, index in enumerate(v.args[1 + v.op.has_base :]):
        failed = out_of_range(index, array.shape[axis], known)
        if failed is not None:
            message = f"{v.op.name}: an index lies outside axis {axis} of {array}; valid ones are at least "
            yield Test(failed, Check(f"{message}{-array.shape[axis]} and below {array.shape[axis]}", v.loc))


def out_of_range(index: Value, n: Dim, known: Known = MappingProxyType({})) -> Value | None:
    """Where an index into an axis of extent `n` is below -n or not below n; None if that is known not to happen."""
    low, high = interval(index)
    is_unsigned = index.dtype.kind == "u"
    is_low_safe, is_high_safe = is_unsigned or never_negative(low + n, known), never_negative(n - 1 - high, known)
    wide = np.dtype(np.uint64 if is_unsigned else np.int64)
    k = index if index.dtype == wide else ops.cast(index, dtype=wide)
    tests = [] if is_low_safe else [ops.lt(k, number(-n, wide))]
    tests += [] if is_high_safe else [ops.ge(k, number(n, wide))]
    return (ops.or_(*tests) if len(tests) == 2 else tests[0]) if tests else None


def _size_tests(v: Value, known: Known) -> Iterator[Test]:
    """A slice, pad or update with symbolic bounds may leave its array, or ask for a negative number of elements."""
    assert v.op is not None
    a, x = v.attributes, v.args[0]
    if v.op is ops.slice_:
        needs = slice_needs(x.shape, a["starts"], a["limits"], a["strides"])
    elif v.op in (ops.put, ops.put_add):
        needs = update_needs(x.type, v.args[1].type, a["starts"], a["strides"])
    else:
        needs = [*a["low"], *a["high"], *a["interior"], *v.shape]
    for d in needs:
        if not never_negative(d, known):
            what = "an index, or a bound of a slice, lies outside" if v.op is not ops.pad else "a width is negative"
            message = f"{v.op.name} of {x.type} needs {d} >= 0: {what}{_counters(d, known)}"
            yield Test(ops.lt(number(d, _INT64), constant(0, np.int64)), Check(message, v.loc))


def _counters(d: Dim, known: Known) -> str:
    """Which symbols of a dimension a user has no name for."""
    counters = sorted(known.keys() & d.symbols) if isinstance(d, Poly) else []
    return f" ({', '.join(counters)}: number of the iteration, from 0)" if counters else ""


def _emptiness_tests(v: Value) -> Iterator[Test]:
    """The largest of no elements does not exist."""
    assert v.op is not None
    a, x = v.attributes, v.args[0]
    for axis in (a["axis"],) if "axis" in a else a["axes"]:
        n = x.shape[axis]
        if not never_negative(n - 1):
            message = f"{v.op.name}: axis {axis} of {x.type} is empty, so there is no value; check the size first"
            yield Test(ops.le(number(n, _INT64), constant(0, np.int64)), Check(message, v.loc, ShapeError))


def _exponent_tests(v: Value) -> Iterator[Test]:
    """An integer to a negative power is no integer."""
    exponent = v.args[1]
    if not never_negative(interval(exponent)[0]):
        message = "pow: an integer to a negative power; cast the base to a float first"
        yield Test(ops.lt(exponent, constant(0, exponent.dtype)), Check(message, v.loc, ValueError))


def number(d: Dim, dtype: np.dtype) -> Value:
    """A dimension as a scalar."""
    return ops.dim.emit(value=d, dtype=dtype) if isinstance(d, Poly) else constant(d, dtype)


def never_negative(d: Dim, known: Known = MappingProxyType({})) -> bool:
    """Whether a dimension is >= 0 for all sizes (>= 0) of its symbols, as far as its coefficients show.

    Symbols that are `known` to lie in an interval are replaced by the end of it at which the dimension is smallest.
    """
    for symbol, (low, high) in reversed([*known.items()]):  # those of inner loops first: their ends name outer ones
        if isinstance(d, Poly) and symbol in d.symbols:
            slope = _slope(d, symbol)
            if slope is None:
                return False
            end = low if never_negative(slope, known) else high if never_negative(slope * -1, known) else None
            if end is None:
                return False
            d = d.substitute({symbol: end})
    return types.never_negative(d)


def _slope(d: Poly, symbol: str) -> Dim | None:
    """By how much a dimension grows with a symbol; None if that is no number of other symbols."""
    slope: Dim = 0
    for mono, coefficient in d.terms:
        if mono.count(symbol) > 1:
            return None
        if symbol in mono:
            rest = list(mono)
            rest.remove(symbol)
            slope = slope + Poly(((tuple(rest), coefficient),)) if rest else slope + coefficient
    return slope


def interval(v: Value, depth: int = 0) -> Interval:
    """Bounds that all elements of an integer value keep; those of its dtype if nothing better is known."""
    info = np.iinfo(v.dtype)
    widest = int(info.min), int(info.max)
    found = _interval(v, depth) if depth < MAX_DEPTH else None
    if found is None:
        return widest
    fits = all(v.dtype.itemsize >= 8 if isinstance(d, Poly) else widest[0] <= d <= widest[1] for d in found)
    return found if fits else widest  # beyond the bounds of the dtype the value has wrapped


def _interval(v: Value, depth: int) -> Interval | None:
    if v.op is const:
        array = v.attributes["value"].array
        return (int(array.min()), int(array.max())) if array.size else (0, 0)
    if v.op is ops.dim:
        d = v.attributes["value"]
        return d, d
    if v.op is ops.iota:
        return 0, v.shape[v.attributes["axis"]] - 1
    if v.op in (ops.argmax, ops.argmin, ops.argsort):
        return 0, v.args[0].shape[v.attributes["axis"]] - 1
    if v.op is ops.searchsorted:
        return 0, v.args[0].shape[-1]
    if any(a.dtype.kind not in "biu" for a in v.args):
        return None
    if v.op in _KEEPS:
        return (0, 1) if v.args[0].dtype.kind == "b" else interval(v.args[0], depth + 1)
    if v.op in _COMBINES:
        return _COMBINES[v.op](*(interval(x, depth + 1) for x in v.args[-2:]))
    return None


def _add(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _sub(a: Interval, b: Interval) -> Interval:
    return a[0] - b[1], a[1] - b[0]


def _mod(a: Interval, b: Interval) -> Interval | None:
    """By a positive number."""
    return (0, b[1] - 1) if never_negative(b[0] - 1) else None


def _smaller(a: Dim, b: Dim) -> Dim | None:
    return a if never_negative(b - a) else b if never_negative(a - b) else None


def _larger(a: Dim, b: Dim) -> Dim | None:
    return a if never_negative(a - b) else b if never_negative(b - a) else None


def _symbolic(a: Dim, b: Dim) -> Dim:
    """One of two valid bounds that do not compare: sizes tell more than numbers."""
    return a if isinstance(a, Poly) else b


def _minimum(a: Interval, b: Interval) -> Interval | None:
    low, high = _smaller(a[0], b[0]), _smaller(a[1], b[1])
    return None if low is None else (low, _symbolic(a[1], b[1]) if high is None else high)


def _maximum(a: Interval, b: Interval) -> Interval | None:
    low, high = _larger(a[0], b[0]), _larger(a[1], b[1])
    return None if high is None else (_symbolic(a[0], b[0]) if low is None else low, high)


def _select(a: Interval, b: Interval) -> Interval | None:
    low, high = _smaller(a[0], b[0]), _larger(a[1], b[1])
    return None if low is None or high is None else (low, high)


_KEEPS = (ops.cast, ops.broadcast, ops.reshape, ops.transpose, ops.slice_, ops.flip, ops.gather, ops.stop_gradient)
_COMBINES = {ops.add: _add, ops.sub: _sub, ops.mod: _mod, ops.select: _select}
_COMBINES |= {ops.maximum: _maximum, ops.minimum: _minimum}


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """As a pass: `with_checks`, counting the checks."""
    result, checks = with_checks(graph)
    return (result, Counter({"check": len(checks)})) if checks else (graph, Counter())
