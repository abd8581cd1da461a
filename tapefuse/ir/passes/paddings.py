"""Code for a size, as code for any size that is at least as large: what a batch of examples of several sizes needs.

    for k below n: c = f(c); s[k] = c        ->    for k below n: c = f(c) if k < own else c; s[k] = c
    for k below n: d = g(d, s[n - 1 - k])          for k below n: d = g(d, s[n - 1 - k]) if n - 1 - k < own else d

The size is n on the left, and `own` on the right. A loop counts from its first row on or down from its last one: what
it does in an iteration may depend on the number of the row alone. Rows past the last one are written, and read by no
iteration that counts.
"""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes.bodies import rebuilt, symbols_of
from tapefuse.ir.passes.updates import is_zero
from tapefuse.ir.types import Dim, Poly, Type, symbols

UPDATES = (ops.put, ops.put_add)


def padded(body: Graph, symbol: str) -> Graph | None:
    """The graph with the size as one more parameter i64[], the first one, which the dimension `symbol` may exceed;
    None where the rows of what is left over would be read."""
    own, size = param(Type(INT64, ()), "own"), Poly.symbol(symbol)
    rows: dict[Value, Dim] = {}  # of loops: the number of the row of an iteration
    for v in body.nodes:
        if v.op is ops.for_ and v.attributes["trips"] == size:
            row = _row(v, symbol)
            if row is None:
                return None
            rows[v] = row
        elif not (v.op is ops.result and v.args[0] in rows) and _has_rows(v, symbol) and not _is_start(v, size):
            return None

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is ops.dim and v.attributes["value"] == size:
            return ops.cast(own, dtype=v.dtype)
        if v not in rows:
            return None
        attrs = v.attributes
        return ops.for_.emit(*args, own, **{**attrs, "body": _masked(attrs["body"], attrs["carried"], rows[v], symbol)})

    return Graph((own, *body.params), rebuilt(body.outs, {}, change), body.name)


def _has_rows(v: Value, symbol: str) -> bool:
    """Whether a value depends on a size, or is made of an array that does."""
    return symbol in symbols_of(v) or any(symbol in symbols(x.shape) for x in v.args)


def _is_start(v: Value, size: Poly) -> bool:
    """Whether a value outside of the loops is the size, or memory for rows, in which zeros or a first row may be."""
    if v.op is ops.put:
        return not size.symbols & symbols((*v.args[1].shape, *v.attributes["starts"]))
    return v.op is ops.empty or is_zero(v) or (v.op is ops.dim and v.attributes["value"] == size)


def _masked(body: Graph, carried: int, row: Dim, symbol: str) -> Graph:
    """The body of a loop with one more operand, the size: iterations past the last row change rows past it alone."""
    own = param(Type(INT64, ()), "own")
    active = ops.lt(ops.dim.emit(value=row, dtype=INT64), own)
    pairs = zip(body.params, body.outs[:carried], strict=False)
    outs = [y if symbol in symbols(y.shape) else ops.select(active, y, p) for p, y in pairs]
    return Graph((*body.params, own), tuple(outs), body.name)


# -- loops -------------------------------------------------------------------------------------------------------------


def _row(loop: Value, symbol: str) -> Dim | None:
    """The number of the row of an iteration that depends on nothing else; None if there is none."""
    a, size = loop.attributes, Poly.symbol(symbol)
    k = Poly.symbol(a["index"])
    if a.get("parallel"):
        return None
    if _is_by_rows(a["body"], a["carried"], symbol, k):
        return k
    down = a["body"].substitute({a["index"]: size - 1 - k})
    return size - 1 - k if _is_by_rows(down, a["carried"], symbol, k) else None


def _is_by_rows(body: Graph, carried: int, symbol: str, row: Dim) -> bool:
    """Whether an iteration depends on the number `row`, not on how many rows there are, and writes no row before it."""
    stacks = {p for p in body.params if symbol in symbols(p.shape)}
    if any(_stack_of(body.outs[k]) is not p for k, p in enumerate(body.params[:carried]) if p in stacks):
        return False
    return all(_keeps_to(v, symbol, row) for v in body.nodes if _has_rows(v, symbol))


def _stack_of(v: Value) -> Value:
    while v.op in UPDATES:
        v = v.args[0]
    return v


def _keeps_to(v: Value, symbol: str, row: Dim) -> bool:
    """Whether a node that reads or makes a stack reads a part of it, or writes the row `row` or a later one; in a stack
    with a first row, one that is later by one."""
    if v.op is ops.slice_:
        return symbol not in symbols_of(v)
    if v.op not in UPDATES or symbol in symbols((*v.args[1].shape, *v.attributes["starts"])):
        return False
    found = [a for a, n in enumerate(v.shape) if symbol in symbols((n,))]
    if len(found) != 1 or set(v.attributes["strides"]) != {1}:
        return False
    (axis,) = found
    more, later = v.shape[axis] - Poly.symbol(symbol), v.attributes["starts"][axis] - row
    return not isinstance(more, Poly) and not isinstance(later, Poly) and 0 <= more <= later
