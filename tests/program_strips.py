"""Loops over rows for random programs: bodies in which rows depend on themselves alone, and such in which they do not.

A state is [rows, m], [m, rows] or [2, rows, m]; a step computes it from itself, from rows of arrays that the loop
reads, and from arrays that all rows share. Loops stack values up, and add up sums over the rows.
"""

from __future__ import annotations

from collections.abc import Callable

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.op import constant
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Shape
from tests.program_draft import Draft
from tests.program_regions import Body, Index, bounded, position

ROWS = (4, 6)
FEATURES = (1, 2, 3)
MIXED = 5  # one loop in so many has a step that mixes rows


class Rows:
    """The body of a loop while it is drawn. `axis`: of the rows in the states; `wide`: of their features."""

    def __init__(self, body: Body, index: Index):
        self.body, self.index = body, index
        self.rows, self.features = body.one_of(ROWS), body.one_of(FEATURES)
        self.axis, self.wide = body.one_of(((0, 1), (1, 0), (1, 2)))
        self.shape: Shape = tuple(
            self.rows if k == self.axis else self.features if k == self.wide else 2
            for k in range(3 if self.wide == 2 else 2)
        )
        self.values: list[Value] = []

    def any(self) -> Value:
        return self.body.one_of(self.values[-4:])

    def state(self, shape: Shape | None = None) -> Value:
        """One more array that the loop reads."""
        return self.body.param(self.body.dtype, self.shape if shape is None else shape)

    def add(self, v: Value, low: float, high: float) -> None:
        self.values.append(self.body.within(self.body.new(v, low, high), -2, 2))


# -- steps that keep rows apart ----------------------------------------------------------------------------------------
def function(r: Rows) -> None:
    v = r.any()
    r.add(r.body.one_of((ops.tanh(v), ops.sin(v), ops.mul(v, 0.5))), -2, 2)


def together(r: Rows) -> None:
    a, b = r.any(), r.any()
    r.add(r.body.one_of((ops.add(a, b), ops.mul(a, b), ops.maximum(a, b), ops.select(ops.lt(a, b), a, b))), -4, 4)


def shared(r: Rows) -> None:
    """With an array that all rows have in common."""
    shape = tuple(1 if k == r.axis else n for k, n in enumerate(r.shape))
    r.add(ops.add(r.any(), r.state(shape)), -4, 4)


def operand(r: Rows) -> None:
    r.add(ops.mul(r.any(), r.state()), -4, 4)


def scanned(r: Rows) -> None:
    """With row k of an array."""
    if isinstance(r.index.trips, int):
        x, at = r.state((r.index.trips, *r.shape)), position(r.body, r.index)
        rest = (0,) * len(r.shape)
        part = ops.slice_(x, starts=(at, *rest), limits=(at + 1, *r.shape), strides=(1, *(1 for _ in rest)))
        r.add(ops.add(r.any(), ops.reshape(part, shape=r.shape)), -4, 4)


def product(r: Rows) -> None:
    n, v = r.features, r.any()
    weights = r.state((n, n))
    if r.body.chance(3):
        weights = ops.transpose(weights, perm=(1, 0))
    r.add(ops.matmul(v, weights) if r.wide > r.axis else ops.matmul(weights, v), -4.0 * n, 4.0 * n)


def reduced(r: Rows) -> None:
    """Less its sum or maximum over the features."""
    v = r.any()
    name = r.body.one_of(("reduce_sum", "reduce_max"))
    kept = tuple(1 if k == r.wide else n for k, n in enumerate(r.shape))
    most = 2.0 * r.features if name == "reduce_sum" else 2.0
    r.add(ops.sub(v, ops.reshape(r.body.emit(name, v, axes=(r.wide,)), shape=kept)), -2 - most, 2 + most)


def along(r: Rows, axis: int | None = None) -> None:
    v, axis = r.any(), r.wide if axis is None else axis
    n = r.shape[axis]
    assert isinstance(n, int)
    if r.body.chance(2):
        r.add(ops.cumsum(v, axis=axis, reverse=r.body.chance(2)), -2.0 * n, 2.0 * n)
    else:
        r.add(ops.flip(v, axes=(axis,)), -2, 2)


def turned(r: Rows) -> None:
    perm = tuple(reversed(range(len(r.shape))))
    r.add(ops.transpose(ops.tanh(ops.transpose(r.any(), perm=perm)), perm=perm), -1, 1)


def moved(r: Rows, axis: int | None = None) -> None:
    """The last one in front of the others."""
    v, axis = r.any(), r.wide if axis is None else axis
    n, ones = r.shape[axis], (1,) * len(r.shape)
    last, others = _between(r.shape, axis, n - 1, n), _between(r.shape, axis, 0, n - 1)
    parts = [ops.slice_(v, **bounds, strides=ones) for bounds in (last, others)]
    r.add(ops.concat(*parts, axis=axis), -2, 2)


def _between(shape: Shape, axis: int, first: Dim, end: Dim) -> dict[str, Shape]:
    starts = tuple(first if k == axis else 0 for k in range(len(shape)))
    return {"starts": starts, "limits": tuple(end if k == axis else n for k, n in enumerate(shape))}


def regrouped(r: Rows) -> None:
    """In a shape with an axis more."""
    shape = (*r.shape[: r.axis], 1, *r.shape[r.axis :])
    r.add(ops.reshape(ops.sin(ops.reshape(r.any(), shape=shape)), shape=r.shape), -1, 1)


# -- steps that mix rows -----------------------------------------------------------------------------------------------
def along_rows(r: Rows) -> None:
    along(r, r.axis)


def moved_rows(r: Rows) -> None:
    moved(r, r.axis)


def averaged(r: Rows) -> None:
    v, kept = r.any(), tuple(1 if k == r.axis else n for k, n in enumerate(r.shape))
    mean = ops.mul(ops.reduce_sum(v, axes=(r.axis,)), 1 / r.rows)
    r.add(ops.sub(v, ops.reshape(mean, shape=kept)), -4, 4)


def misread(r: Rows) -> None:
    """Elements in the order of another shape."""
    v = ops.transpose(r.any(), perm=(*range(len(r.shape) - 2), len(r.shape) - 1, len(r.shape) - 2))
    r.add(ops.reshape(v, shape=r.shape), -2, 2)


def overwritten(r: Rows) -> None:
    """Some rows replaced."""
    bounds = _between(r.shape, r.axis, 1, 3)
    ones = (1,) * len(r.shape)
    r.add(ops.put(r.any(), ops.slice_(r.any(), **bounds, strides=ones), starts=bounds["starts"], strides=ones), -2, 2)


Step = Callable[[Rows], None]
APART: tuple[Step, ...] = (
    *(function, together, shared, operand, scanned, scanned, product, product),
    *(reduced, along, turned, moved, regrouped),
)
MIXING: tuple[Step, ...] = (along_rows, moved_rows, averaged, misread, overwritten)


# -- loops -------------------------------------------------------------------------------------------------------------
def recurrent(d: Draft) -> Value:
    """A loop over rows, and one of its results."""
    symbol, trips = region.fresh("k"), d.one_of((2, 3))
    body = Body(d, Index(Poly.symbol(symbol), trips, trips))
    assert body.index is not None
    r = Rows(body, body.index)
    states = [_carried(r, r.shape) for _ in range(d.pick(1, 2))]
    r.values += states
    sums = [_carried(r, shape) for shape in _sum_shapes(r)]
    stack = _stack(r, (trips, *r.shape)) if d.chance(2) else None
    steps = [d.one_of(APART) for _ in range(d.pick(2, 6))]
    if d.chance(MIXED):
        steps[d.pick(0, len(steps) - 1)] = d.one_of(MIXING)
    for step in steps:
        step(r)
    outs = [bounded(body, r.any() if d.chance(3) else r.values[-1 - k]) for k, _ in enumerate(states)]
    outs += [_added(r, s, _summed(r, s.shape)) for s in sums]
    outs += [] if stack is None else [_stacked(r, stack)]
    attrs = {"body": body.graph(outs), "trips": trips, "index": symbol, "carried": len(outs)}
    results = ops.for_.emit_results(*body.operands, **attrs)
    return d.one_of([d.keep(v, -4, 4) for v in results])


def _carried(r: Rows, shape: Shape) -> Value:
    """A parameter of the body; those that are carried come first."""
    assert len(r.body.params) == len(r.body.operands)
    return r.body.operand(r.body.outer.param(r.body.dtype, shape, (-2, 2)), (-2, 2))


def _stack(r: Rows, shape: Shape) -> Value:
    """One of zeros, or of anything."""
    if r.body.chance(2):
        return _carried(r, shape)
    return r.body.operand(ops.broadcast.emit(constant(0, r.body.dtype), shape=shape, axes=()), (-2, 2))


def _sum_shapes(r: Rows) -> list[Shape]:
    left = tuple(n for k, n in enumerate(r.shape) if k != r.axis)
    shapes: list[Shape] = [left] if r.body.chance(2) else []
    if len(r.shape) == 2 and r.axis == 0 and r.body.chance(2):
        shapes.append((r.features, r.features))
    return shapes


def _summed(r: Rows, shape: Shape) -> Value:
    """A sum over the rows, of this shape and at most 1/2."""
    v = ops.mul(r.any(), 1 / (8 * r.rows))
    if shape == (r.features, r.features) and len(r.shape) == 2:
        return ops.matmul(ops.transpose(v, perm=(1, 0)), r.any())
    return ops.reduce_sum(v, axes=(r.axis,))


def _added(r: Rows, total: Value, v: Value) -> Value:
    """One and the same, said in two ways."""
    if r.body.chance(2):
        return ops.add(total, v)
    return ops.put_add(total, v, starts=(0,) * len(v.shape), strides=(1,) * len(v.shape))


def _stacked(r: Rows, stack: Value) -> Value:
    at, op = position(r.body, r.index), r.body.one_of((ops.put, ops.put, ops.put_add))
    row = ops.reshape(r.any(), shape=(1, *r.shape))
    return op(stack, row, starts=(at, *(0 for _ in r.shape)), strides=(1,) * len(stack.shape))
