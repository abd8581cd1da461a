"""Loops and branches for random programs: makers of `for`, `while`, `switch` and `sized`, with bodies of random ops.

A body is a draft of its own (`Body`): what it reads becomes an operand of the region. Carried values keep an interval
(floats 2, integers 9, in magnitude), so that nothing grows with the number of iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import Op, constant
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Shape, Type
from tests.program_complex import in_disc, plain_op
from tests.program_draft import I8, B, Draft, Interval, Pick, sizes
from tests.program_fourier import transformed  # noqa: F401  (adds makers of Fourier transforms)
from tests.program_updates import updated  # noqa: F401  (adds makers of updates)
from tests.program_windows import pooled  # noqa: F401  (adds makers of convolution and pooling)

BOUNDS: dict[str, Interval] = {"f": (-2.0, 2.0), "c": (0.0, 2.0), "i": (-9, 9), "u": (0, 9), "b": (0, 1)}
MOST_TRIPS = 4  # of a loop that ends by a condition
DEEPEST = 2  # regions in regions
NAMES = ("for", "for", "for", "while", "switch", "sized")


@dataclass(frozen=True)
class Index:
    """The index symbol of the loop around a body."""

    symbol: Poly
    trips: Dim
    most: int  # the largest number of trips


class Body(Draft):
    """A draft of a graph inside a region; `operands` are those values of `outer` that its parameters stand for."""

    def __init__(self, outer: Draft, index: Index | None = None):
        self.pick: Pick = outer.pick
        self.dtype, self.symbolic, self.palette = outer.dtype, outer.symbolic, outer.palette
        self.is_complex = outer.is_complex
        self.outer, self.index, self.depth = outer, index, depth_of(outer) + 1
        self.params, self.pool, self.ranges, self.read = [], [], {}, set()
        self.operands: list[Value] = []

    def operand(self, v: Value, limits: Interval | None = None) -> Value:
        """A value of the outer draft as a parameter."""
        limits = self.outer.ranges[v] if limits is None else limits
        p = param(v.type, f"v{len(self.params)}")
        self.params.append((p, limits))
        self.operands.append(v)
        return self.keep(p, *limits)

    def param(self, dtype: Any, shape: Shape | None = None, limits: Interval | None = None) -> Value:
        return self.operand(self.outer.param(dtype, shape, limits))

    def graph(self, outs: list[Value], more: list[Value] | None = None) -> Graph:
        """`more`: parameters of other graphs of the same region, not read here."""
        extra = [param(p.type, f"u{k}") for k, p in enumerate(more or [])]
        return Graph((*(p for p, _ in self.params), *extra), tuple(outs), "body")

    def fill(self, count: int) -> None:
        """A few ops, other regions among them."""
        for _ in range(count):
            if self.depth < DEEPEST and self.chance(7):
                any_region(self)
            elif self.index is not None and self.chance(3):
                self.one_of(INDEXED)(self, self.index)
            else:
                plain_op(self)


def depth_of(d: Draft) -> int:
    return d.depth if isinstance(d, Body) else 0


def any_region(d: Draft) -> Value | None:
    return REGIONS[d.one_of(NAMES)](d)


def mixed(d: Draft) -> Value | None:
    """Every other op a region."""
    return any_region(d) if d.chance(2) else plain_op(d)


# -- values of a fixed interval ---------------------------------------------------------------------------------------


def bounded(d: Draft, v: Value) -> Value:
    """A function of `v` within the bounds of its kind."""
    low, high = BOUNDS[v.dtype.kind]
    if v.dtype.kind == "f":
        return d.within(v, low, high)
    if v.dtype.kind == "c":
        return in_disc(d, v, 0, high)
    if v.dtype.kind == "b":
        return v
    if low <= d.ranges[v][0] and d.ranges[v][1] <= high:
        return v
    return d.new(ops.mod(v, 9), 0, 8)


def mean(d: Draft, v: Value) -> Value:
    """A float scalar of magnitude 2 or less that depends on every element of `v`."""
    if v.dtype.kind == "c":
        v = d.new(ops.real(v), -d.magnitude(v), d.magnitude(v))
    x = v if v.dtype.kind == "f" else d.new(ops.cast(bounded(d, v), dtype=d.dtype), -9, 9)
    n = max(sizes(ops.reshape.type(x.type, shape=(x.type.size,)).shape[0]), default=1)
    axes = tuple(range(len(x.shape)))
    x = d.new(ops.mul(d.within(x, -2, 2), 1.0 / max(n, 1)), -2.0 / max(n, 1), 2.0 / max(n, 1))
    return bounded(d, d.new(ops.reduce_sum(x, axes=axes), -2, 2)) if axes else x


def renewed(d: Draft, p: Value) -> Value:
    """A value of the type of `p`, within bounds: one of the draft's, or one made of `p` and another."""
    way = d.pick(0, 5)
    same = d.existing(lambda v: v.type == p.type and (v is not p or way == 1))
    if same is not None and way <= 2:
        return bounded(d, same)
    if p.dtype.kind not in "fc":
        if same is None:
            return bounded(d, p)
        other = d.emit("xor", p, same) if p.dtype.kind == "b" else ops.mod(ops.add(p, same), 9)
        return d.new(other, *((0, 1) if p.dtype.kind == "b" else (0, 8)))
    other = mean(d, d.any_of("fff" if d.chance(3) else "fib"))
    term = other if other.dtype == p.dtype else d.new(ops.cast(other, dtype=p.dtype), *d.ranges[other])
    x = bounded(d, p)
    factor = 0.5j if p.dtype.kind == "c" else 0.5
    return bounded(d, d.new(ops.add(ops.mul(x, factor), ops.mul(term, 0.5)), -2, 2))


def carried(d: Draft) -> list[Value]:
    """One to three values to be carried; now and then one twice."""
    found = [bounded(d, d.any_of(d.kind("f", "f", "f", "i", "b"))) for _ in range(d.pick(1, 3))]
    if d.chance(6):
        found.append(found[0])
    return found


def captured(d: Draft, body: Body) -> None:
    for _ in range(d.pick(0, 2)):
        body.operand(d.any_of(d.kind("f", "f", "i", "b")))


def _within_bounds(v: Value) -> Interval:
    return BOUNDS[v.dtype.kind]


def _results(d: Draft, op: Op, args: list[Value], attrs: dict[str, Any]) -> list[Value]:
    return [d.keep(v, *_within_bounds(v)) for v in op.emit_results(*args, **attrs)]


# -- reading and writing at the index ---------------------------------------------------------------------------------


def position(d: Draft, index: Index) -> Dim:
    """The index, or the one of the same loop run backwards."""
    return index.symbol if d.chance(2) else index.trips - 1 - index.symbol


def number(d: Body, index: Index) -> Value:
    """The index as a scalar."""
    dtype = d.one_of((I8, d.dtype))
    return d.keep(ops.dim.emit(value=position(d, index), dtype=dtype), 0, max(index.most - 1, 0))


def row(d: Body, index: Index) -> Value | None:
    """Row number index of a value that has as many as there are trips."""
    x = d.existing(lambda v: len(v.shape) > 0 and v.shape[0] == index.trips and v.dtype.kind in "fcib")
    if x is None or d.chance(4):
        x = d.param(d.dtype, (index.trips, *d.shape(d.pick(0, 1)))) if _is_known(d, index) else None
    if x is None:
        return None
    at = position(d, index)
    v = ops.slice_(x, starts=(at, *_none(x)), limits=(at + 1, *x.shape[1:]), strides=(1,) * len(x.shape))
    return d.keep(ops.reshape(v, shape=x.shape[1:]), *d.ranges[x])


def prefix(d: Body, index: Index) -> Value | None:
    """The sum of the rows up to the index: a value whose size changes from iteration to iteration."""
    if not _is_known(d, index):
        return None
    x = d.existing(lambda v: len(v.shape) > 0 and v.shape[0] == index.trips and v.dtype.kind == "f")
    x = d.param(d.dtype, (index.trips, *d.shape(d.pick(0, 1)))) if x is None else x
    start, limit = d.one_of(((0, index.symbol), (index.symbol, index.trips), (index.symbol + 1, index.trips)))
    part = ops.slice_(x, starts=(start, *_none(x)), limits=(limit, *x.shape[1:]), strides=(1,) * len(x.shape))
    low, high = (index.most * end for end in d.ranges[x])
    return d.new(ops.reduce_sum(part, axes=(0,)), min(low, 0), max(high, 0))


def _is_known(d: Body, index: Index) -> bool:
    """Whether values outside may have as many rows as there are trips."""
    return not isinstance(index.trips, Poly) or index.trips == B and d.symbolic


def _none(x: Value) -> tuple[int, ...]:
    return (0,) * (len(x.shape) - 1)


INDEXED: tuple[Callable[[Body, Index], Value | None], ...] = (number, row, row, prefix)


# -- regions ----------------------------------------------------------------------------------------------------------


def counted(d: Draft, name: str = "for") -> Value | None:
    trips: Dim = d.one_of((3, 2, 1, 4, 0, *([B] if d.symbolic else [])))
    return loop(d, trips, max(sizes(trips)), d.chance(3))


def loop(d: Draft, trips: Dim, most: int, stacked: bool) -> Value | None:
    """`stacked`: one of the results has the rows that the iterations made."""
    symbol = region.fresh("k")
    body = Body(d, Index(Poly.symbol(symbol), trips, most) if most else None)
    carry = carried(d)
    for v in carry:
        body.operand(v, _within_bounds(v))
    inner = [p for p, _ in body.params]
    stack = _stack(d, body, inner[0].type, trips) if stacked and most else None
    captured(d, body)
    body.fill(d.pick(1, 5))
    outs = [renewed(body, p) for p in inner]
    if stack is not None:
        assert body.index is not None
        outs.append(_written(body, stack, outs[d.pick(0, len(outs) - 1)], position(d, body.index)))
    attrs = {"body": body.graph(outs), "trips": trips, "index": symbol, "carried": len(outs)}
    results = ops.for_.emit_results(*body.operands, **attrs)
    for v in results:
        if stack is None or v is not results[-1] or not _is_open(v.shape):
            d.keep(v, *_within_bounds(v))
    if stack is not None and _is_open(results[-1].shape):  # its size is known inside of the region around only
        d.new(ops.reduce_sum(results[-1], axes=(0,)), -2 * most, 2 * most)
    return d.one_of(results[: len(carry)])


def _is_open(shape: Shape) -> bool:
    return any(isinstance(n, Poly) and n.symbols != {"B"} for n in shape)


def _stack(d: Draft, body: Body, type: Type, trips: Dim) -> Value | None:
    """A carried array of zeros, one row for each trip."""
    if "put" not in ops.OPS or type.dtype.kind not in "fc" or len(type.shape) > 2:
        return None
    zero = ops.broadcast.emit(constant(0, type.dtype), shape=(trips, *type.shape), axes=())
    p = param(zero.type, "stack")
    body.params.append((p, _within_bounds(p)))
    body.operands.append(zero)
    return p


def _written(body: Body, stack: Value, v: Value, at: Dim) -> Value:
    if v.shape != stack.shape[1:] or v.dtype != stack.dtype:
        v = ops.broadcast.emit(mean(body, v), shape=stack.shape[1:], axes=())
        v = v if v.dtype == stack.dtype else ops.cast(v, dtype=stack.dtype)
    rows = ops.reshape(v, shape=(1, *v.shape))
    return ops.OPS["put"].emit(stack, rows, starts=(at, *_none(stack)), strides=(1,) * len(stack.shape))


def conditional(d: Draft, name: str = "while") -> Value | None:
    """A loop that ends when a counter or a mean says so."""
    body = Body(d)
    counter = d.scalar(0, I8)
    carry = [counter, *carried(d)]
    for k, v in enumerate(carry):
        body.operand(v, (0, MOST_TRIPS) if k == 0 else _within_bounds(v))
    inner = [p for p, _ in body.params]
    captured(d, body)
    test = Body(d)
    for (_, limits), v in zip(body.params, body.operands, strict=True):
        test.operand(v, limits)
    test_carry = [p for p, _ in test.params[: len(carry)]]
    shared = len(body.operands)
    body.fill(d.pick(1, 4))
    outs = [body.keep(ops.add(inner[0], 1), 1, MOST_TRIPS), *(renewed(body, p) for p in inner[1:])]
    test.fill(d.pick(0, 2))
    goes_on = ops.lt(test_carry[0], d.pick(0, MOST_TRIPS))
    if d.chance(2):
        goes_on = ops.and_(goes_on, ops.lt(mean(test, test.one_of(test_carry[1:])), d.one_of((1.1, 0.37, 0.0))))
    of_body, of_test = ([p for p, _ in draft.params[shared:]] for draft in (body, test))
    cond = Graph(
        (*(p for p, _ in test.params[:shared]), *(param(p.type) for p in of_body), *of_test), (goes_on,), "cond"
    )
    attrs = {"cond": cond, "body": body.graph(outs, of_test), "carried": len(carry)}
    results = ops.while_.emit_results(*body.operands, *test.operands[shared:], **attrs)
    for v in results[1:-1]:
        d.keep(v, *_within_bounds(v))
    d.keep(results[0], 0, MOST_TRIPS)
    d.keep(results[-1], 0, MOST_TRIPS)
    return d.one_of(results)


def branched(d: Draft, name: str = "switch") -> Value | None:
    index = d.existing(lambda v: v.type == Type(I8, ())) if d.chance(2) else None
    if index is None:
        index = d.param(I8, (), (-1, 3))
    shared = carried(d)
    drafts = [Body(d) for _ in range(d.pick(2, 3))]
    wanted: list[Type] = [v.type for v in shared[: d.pick(1, len(shared))]]
    operands, own, outs = list(shared), [], []
    for b in drafts:
        for v in shared:
            b.operand(v)
        firsts = [p for p, _ in b.params]
        b.fill(d.pick(0, 4))
        outs.append([renewed(b, p) for p in firsts[: len(wanted)]])
        own.append(b.operands[len(shared) :])
        operands += own[-1]
    branches = tuple(
        Graph(_params(b, len(shared), k, own), tuple(results), f"branch{k}")
        for k, (b, results) in enumerate(zip(drafts, outs, strict=True))
    )
    return d.one_of(_results(d, ops.switch, [index, *operands], {"branches": branches}))


def _params(b: Body, shared: int, number: int, own: list[list[Value]]) -> tuple[Value, ...]:
    """The parameters of branch `number`: the shared ones, then each branch's own."""
    mine = [p for p, _ in b.params]
    found = mine[:shared]
    for k, values in enumerate(own):
        found += mine[shared:] if k == number else [param(v.type) for v in values]
    return tuple(found)


def measured(d: Draft, name: str = "sized") -> Value | None:
    """Code for a number of rows that is known at run time only."""
    small = d.existing(lambda v: v.type == Type(I8, ()) and d.ranges[v][1] <= 2 * MOST_TRIPS) if d.chance(2) else None
    n = d.param(I8, (), (-1, MOST_TRIPS)) if small is None else small
    most = max(int(d.ranges[n][1]), 0)
    body = Body(d)
    kept = carried(d)
    for v in kept:
        body.operand(v)
    inner = [p for p, _ in body.params]
    symbol = Poly.symbol(region.fresh("n"))
    for _ in range(d.pick(1, 2)):
        if d.chance(3):
            rows = ops.iota.emit(shape=(symbol,), axis=0, dtype=d.dtype)
            product = ops.tanh(ops.mul(rows, ops.cast(mean(body, d.one_of(inner)), dtype=d.dtype)))
            body.new(ops.reduce_sum(product, axes=(0,)), -max(most, 1), max(most, 1))
        else:
            loop(body, symbol, most, d.chance(2))
    body.fill(d.pick(0, 2))
    outs = [renewed(body, p) for p in inner]
    (name_of,) = symbol.symbols
    attrs = {"symbol": name_of, "body": body.graph(outs)}
    return d.one_of(_results(d, ops.sized, [n, *body.operands], attrs))


REGIONS: dict[str, Callable[[Draft], Value | None]] = {
    "for": counted,
    "while": conditional,
    "switch": branched,
    "sized": measured,
}
