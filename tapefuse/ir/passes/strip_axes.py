"""Along which axis the rows of a loop's body are independent: what each value has there, from what its readers do.

    h = tanh(x[k] + h @ w)         h [16, 64]: axis 0;  x [100, 16, 64]: axis 1;  w [64, 64]: the same for all rows

A row of a value is computed from the same row of its operands, and from operands that have no rows. A sum over all rows
that is only added up (`SUM`) is the sum of what the strips add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.types import Shape, size

SUM = -1  # of a value that is a sum over rows: each strip has a part of it
Axes = dict[Value, int | None]  # None: the same for all rows
Sources = tuple[int | None, ...]  # of each operand: the axis that the rows come from


def axes_of(body: Graph, carried: int) -> tuple[Axes, int] | None:
    """The axis of each value, and how many rows there are; None if no axis will do."""
    for p in body.params[:carried]:
        for axis, n in enumerate(p.shape):
            if isinstance(n, int) and n > 1 and (found := _from(body, carried, p, axis, n)) is not None:
                return found, n
    return None


def _from(body: Graph, carried: int, seed: Value, axis: int, n: int) -> Axes | None:
    """The axes of all values, if that of one carry is given."""
    links = _Links(body, carried)
    try:
        links.learn(seed, axis)
        for p in body.params[:carried]:
            if p not in links.axes and p.shape and n in p.shape:
                links.learn(p, p.shape.index(n))
        return links.all()
    except _Mixed:
        return None


class _Mixed(Exception):
    """Rows depend on other rows."""


class _Links:
    """What is known of values, and what follows from that."""

    def __init__(self, body: Graph, carried: int):
        self.body = body
        self.axes: Axes = {}
        self.carries = [*zip(body.params[:carried], body.outs, strict=True)]
        self.same: dict[Value, list[Value]] = {}  # before and after an iteration
        for p, out in self.carries:
            self.same.setdefault(p, []).append(out)
            self.same.setdefault(out, []).append(p)

    def learn(self, value: Value, axis: int | None) -> None:
        """The axis of a value, and of all those of which it then is known. Raises _Mixed."""
        waiting = [(value, axis)]
        while waiting:
            v, axis = waiting.pop()
            if v not in self.axes:
                self.axes[v] = axis
                waiting += self._operands(v, axis)
                waiting += [(other, axis) for other in self.same.get(v, ())]
                if axis is not None:
                    waiting += [(user, _result(user, v, axis)) for user in self.body.users.get(v, ())]
            elif self.axes[v] != axis:
                raise _Mixed

    def _operands(self, v: Value, axis: int | None) -> Iterable[tuple[Value, int | None]]:
        if v.op is None:
            return ()
        if axis == SUM:
            return zip(v.args, _summands(v), strict=False)
        found = _sources(v, axis)
        if found is None:
            raise _Mixed
        return zip(v.args, found, strict=True)

    def all(self) -> Axes:
        """Every value's axis; what nothing is known of is the same for all rows. Raises _Mixed."""
        for v in (*self.body.params, *self.body.nodes):
            if v not in self.axes:
                self.learn(v, None)
        sums = [v for v, axis in self.axes.items() if axis == SUM]
        started = {p for p, _ in self.carries}
        if not all(self._is_sum(v) if v.op is not None else v in started for v in sums):
            raise _Mixed
        if not all(self._is_added_to(p, out) for p, out in self.carries if self.axes[p] == SUM):
            raise _Mixed
        return self.axes

    def _is_sum(self, v: Value) -> bool:
        """Whether a sum is one of sums, or of rows."""
        if v.op in _PASSING:
            return True
        return any((axis := self.axes[a]) is not None and _adds_up(v, a, axis) for a in v.args)

    def _is_added_to(self, p: Value, out: Value) -> bool:
        """Whether an iteration adds to what is carried, and does nothing else with it."""
        while True:
            readers = self.body.users.get(p, ())
            if p is out or len(readers) != 1 or p in self.body.outs:
                return p is out and not readers and self.body.outs.count(out) == 1
            (p,) = readers


# -- where the rows of a result come from ------------------------------------------------------------------------------
def _sources(v: Value, axis: int | None) -> Sources | None:
    """The axes of the operands along which element i of `axis` reads element i, None for operands that have no rows;
    None if the rows of `v` are not independent."""
    assert v.op is not None
    if not v.op.interned or v.op.is_region:
        return None
    if axis is None:
        return (None,) * len(v.args)
    if v.op.elementwise:
        return tuple(_broadcast(x.shape, v.shape, axis) for x in v.args)
    if v.op.reduction is not None:
        left = [k for k in range(len(v.args[0].shape)) if k not in v.attributes["axes"]]
        return (left[axis],)
    rule = _SOURCES.get(v.op.name)
    return None if rule is None else rule(v, axis)


def _broadcast(shape: Shape, to: Shape, axis: int) -> int | None:
    k = axis - len(to) + len(shape)
    return k if k >= 0 and shape[k] == to[axis] else None


def _matmul(v: Value, axis: int) -> Sources | None:
    a, b = v.args
    rank = len(v.shape)
    if len(a.shape) < 2 or len(b.shape) < 2:
        return None
    if axis >= rank - 2:
        return (len(a.shape) - 2, None) if axis == rank - 2 else (None, len(b.shape) - 1)
    return _broadcast(a.shape[:-2], v.shape[:-2], axis), _broadcast(b.shape[:-2], v.shape[:-2], axis)


def _reshape(v: Value, axis: int) -> Sources | None:
    """The axis of the same extent with as many elements before it."""
    (x,) = v.args
    before = size(v.shape[:axis])
    for k, n in enumerate(x.shape):
        if n == v.shape[axis] and size(x.shape[:k]) == before:
            return (k,)
    return None


def _repeat(v: Value, axis: int) -> Sources:
    axes = v.attributes["axes"]
    if axis not in axes:
        return (None,)
    k = axes.index(axis)
    return (k,) if v.args[0].shape[k] == v.shape[axis] else (None,)


def _slice(v: Value, axis: int) -> Sources | None:
    a, n = v.attributes, v.args[0].shape[axis]
    whole = a["starts"][axis] == 0 and a["limits"][axis] == n and a["strides"][axis] == 1
    return (axis,) if whole else None


def _pad(v: Value, axis: int) -> Sources | None:
    a = v.attributes
    return None if any(a[k][axis] != 0 for k in ("low", "high", "interior")) else (axis,)


def _put(v: Value, axis: int) -> Sources | None:
    a, (base, part) = v.attributes, v.args
    whole = a["starts"][axis] == 0 and a["strides"][axis] == 1 and part.shape[axis] == base.shape[axis]
    return (axis, axis) if whole else None


def _but(name: str) -> Callable[[Value, int], Sources | None]:
    """Rows are independent along all axes but the attribute's."""

    def sources(v: Value, axis: int) -> Sources | None:
        excluded: Any = v.attributes[name]
        mixes = axis in excluded if isinstance(excluded, tuple) else axis == excluded
        return None if mixes else (axis,) * len(v.args)

    return sources


def _extremum(v: Value, axis: int) -> Sources:
    return (axis + (axis >= v.attributes["axis"]),)


_SOURCES: Mapping[str, Callable[[Value, int], Sources | None]] = {
    "matmul": _matmul,
    "reshape": _reshape,
    "transpose": lambda v, axis: (v.attributes["perm"][axis],),
    "broadcast": _repeat,
    "slice": _slice,
    "pad": _pad,
    "concat": _but("axis"),
    "flip": _but("axes"),
    "cumsum": _but("axis"),
    "put": _put,
    "put_add": _put,
    "empty": lambda v, axis: (),
    "iota": _but("axis"),
    "argmax": _extremum,
    "argmin": _extremum,
}


def _result(v: Value, x: Value, axis: int) -> int:
    """The axis that a value makes of that of an operand. Raises _Mixed."""
    if axis == SUM:
        if v.op in _PASSING:
            return SUM
        raise _Mixed
    for to in range(len(v.shape)):
        found = _sources(v, to)
        if found is not None and all(s == axis for a, s in zip(v.args, found, strict=True) if a is x):
            return to
    if _adds_up(v, x, axis):
        return SUM
    raise _Mixed


_PASSING = (ops.add, ops.put_add, ops.reshape, ops.transpose)  # sums of sums, moved about


def _summands(v: Value) -> tuple[int, ...]:
    """The axes of the operands of a sum over rows, as far as that tells."""
    if v.op in _PASSING:
        return (SUM,) * len(v.args)
    return (1, 0) if v.op is ops.matmul and len(v.shape) == 2 else ()


def _adds_up(v: Value, x: Value, axis: int) -> bool:
    """Whether a value is a sum over the rows of `x`."""
    if v.op is ops.reduce_sum:
        return axis in v.attributes["axes"]
    if v.op is not ops.matmul or len(v.shape) != 2:
        return False
    a, b = v.args
    return a is not b and (x is a and axis == 1 or x is b and axis == 0)
