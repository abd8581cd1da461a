"""Loops whose rows do not depend on each other, as loops over strips of rows that each run all iterations.

    for k: h[16, 64] = tanh(x[k] + h @ w)   ->   for s in 0..2: for k: rows 8 s .. 8 s + 8 of h = tanh(...)

Strips run on threads, and none waits for another; a strip's rows stay in the cache from one iteration to the next.
What a loop stacks up stays one array, into which each strip puts its rows. Sums over all rows that are carried along
(of a bias's gradients) are those of the strips, added up at the end. How rows are cut depends on sizes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.bodies import part, rebuilt, replaced, results_read, symbols_of, with_results
from tapefuse.ir.passes.residuals import bytes_of
from tapefuse.ir.passes.strip_axes import SUM, axes_of
from tapefuse.ir.types import Dim, Poly, Shape, size

# Multiply-adds, or elements computed, of a strip; 64 a ns. A piece of a kernel is worth a thread from 16 us on.
WORK = 1 << 20
MOST_STRIPS = 16
TILE = 8  # rows of a product that are computed together
WEIGHTS_PER_ROW = 32_768  # bytes of weights that are worth reading, from the second cache, for a row of a product
ROW_BYTES = 4096  # of an array's rows in a strip: loops over fewer elements do not get going
LANES = 16  # rows that a vector may hold, where they lie next to each other
IDLE = 1.5  # most time that strips may lose to tiles that are not full, and to threads that have none left
K = TypeVar("K")
_FRESH = (ops.broadcast, ops.iota, ops.empty, ops.dim, ops.const)  # cheaper made where they are read
_SHAPED = ("broadcast", "reshape", "empty", "iota")  # with their own shape among the attributes


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with loops in strips, and how many."""
    used = results_read(graph)
    fired: Counter[str] = Counter()

    def in_strips(v: Value, args: tuple[Value, ...]) -> dict[int, Value] | None:
        strips = _strips(v) if v.op is ops.for_ and v in used else None
        if strips is None:
            return None
        fired["strips"] += 1
        return strips.results(args, used[v])

    new = with_results(graph, in_strips)
    return (new, fired) if fired else (graph, fired)


def described(v: Value) -> str | None:
    """How a loop is cut into strips, for people; None if it is not."""
    strips = _strips(v)
    return f"in strips on threads: all iterations for {strips.rows} of {strips.n} rows at a time" if strips else None


def _strips(v: Value) -> Strips | None:
    """How a loop is cut; None if it is not."""
    a = v.attributes
    body, trips = a["body"], a["trips"]
    if a.get("parallel") or isinstance(trips, Poly) or any(x.op is not None and x.op.is_region for x in body.nodes):
        return None
    if any(isinstance(d, Poly) for x in (*body.params, *body.nodes) for d in x.shape):
        return None
    work = trips * sum(map(_work, body.nodes))
    if work < 2 * WORK or (found := axes_of(body, a["carried"])) is None:
        return None
    axes, n = found
    if any(axes[p] is None for p in body.params[: a["carried"]]):
        return None
    rows = _rows(body, axes, n, work)
    return None if rows is None else Strips(a, axes, n, rows)


def _work(v: Value) -> int:
    elements = size(v.shape) * (v.args[0].shape[-1] if v.op is ops.matmul else 1)
    assert isinstance(elements, int)
    return elements


def _rows(body: Graph, axes: dict[Value, int | None], n: int, work: int) -> int | None:
    """How many rows a strip has; None if the loop is better left as it is."""
    weights = [b for v in body.nodes if v.op is ops.matmul for b in v.args if axes[b] is None]
    row = min(bytes_of(v) // n for v in body.params if axes[v] not in (None, SUM))
    least = max(-(-n * WORK // work), -(-n // MOST_STRIPS))
    least = max(least, *_worth(weights) if weights else (ROW_BYTES // row,))
    tile = TILE if weights else LANES
    found = [(_idle(n, rows, tile), rows) for rows in range(least, n // 2 + 1) if n % rows == 0]
    return min(found)[1] if found and min(found)[0] <= IDLE else None


def _worth(weights: Sequence[Value]) -> tuple[int, int]:
    """Rows of a product for which its weights are worth reading."""
    return TILE, max(map(bytes_of, weights)) // WEIGHTS_PER_ROW


def _idle(n: int, rows: int, tile: int) -> float:
    """Time on two threads, over that with neither idle threads nor rows of tiles without use."""
    strips = n // rows
    return -(-rows // tile) * tile / rows * -(-strips // 2) * 2 / strips


class Strips:
    """One loop of `n` rows, of which a strip has `rows`. `axes`: of the body's values."""

    def __init__(self, attrs: dict[str, Any], axes: dict[Value, int | None], n: int, rows: int):
        self.attrs, self.axes, self.n, self.rows = attrs, axes, n, rows
        self.body: Graph = attrs["body"]
        self.carried: int = attrs["carried"]
        self.strip = f"{attrs['index']}_strip"
        self.first: Dim = Poly.symbol(self.strip) * rows
        self.whole = self._whole()

    def results(self, args: Sequence[Value], used: Collection[int]) -> dict[int, Value]:
        """What the loop gives, on new operands: the results that are read."""
        once = self._once()
        carries = [*enumerate(self.body.params[: self.carried])]
        env = dict(zip(self.body.params, args, strict=True))
        env |= dict(zip(once, rebuilt(once, dict(env)), strict=True))
        constants = {v: x for v, x in env.items() if v in self._read(once)}
        targets = {k: self._target(p, args[k]) for k, p in carries if k in used or p in self.whole}
        starts = {k: args[k] for k, p in carries if self._is_cut(p)}
        into, first, given = _params(targets), _params(starts), _params(constants)
        inner = self._inner({**into, **first}, given)
        outs = tuple(self._stored(self.body.params[k], inner[k], x) for k, x in into.items())
        body = Graph((*into.values(), *first.values(), *given.values()), outs, self.body.name)
        attrs = {"trips": self.n // self.rows, "index": self.strip, "carried": len(into), "parallel": True}
        operands = (*targets.values(), *starts.values(), *constants.values())
        found = dict(zip(into, ops.for_.emit_results(*operands, body=body, **attrs), strict=True))
        return {k: self._total(self.body.params[k], y, args[k]) for k, y in found.items()}

    # -- what is carried -------------------------------------------------------------------------------
    def _is_cut(self, p: Value) -> bool:
        """Whether each strip carries rows of its own."""
        return self.axes[p] != SUM and p not in self.whole

    def _target(self, p: Value, start: Value) -> Value:
        """What the strips put their results into."""
        if p in self.whole:
            return start
        shape = (self.n // self.rows, *p.shape) if self.axes[p] == SUM else p.shape
        return ops.empty.emit(shape=shape, dtype=p.dtype)

    def _stored(self, p: Value, y: Value, target: Value) -> Value:
        """The results with those of a strip."""
        axis, first = self.axes[p], self.first
        if p in self.whole or axis is None:
            return y
        if axis == SUM:
            y, axis, first = ops.reshape(y, shape=(1, *p.shape)), 0, Poly.symbol(self.strip)
        return ops.put(target, y, starts=_at(target.shape, axis, first), strides=(1,) * len(target.shape))

    def _total(self, p: Value, y: Value, start: Value) -> Value:
        """What the loop carries in the end."""
        return ops.add(start, ops.reduce_sum(y, axes=(0,))) if self.axes[p] == SUM else y

    # -- the loop over the iterations ------------------------------------------------------------------
    def _inner(self, begin: Mapping[int, Value], constants: Mapping[Value, Value]) -> Sequence[Value]:
        """The results of the iterations for one strip. `begin`: first values of all rows, and stacks."""
        first = []
        for k, p in enumerate(self.body.params[: self.carried]):
            x = zeros(p.type) if self.axes[p] == SUM else begin[k]
            first.append(self._cut(x, self.axes[p]) if self._is_cut(p) else x)
        carried = [param(x.type) for x in first]
        given = _params(constants)
        env = dict(zip(self.body.params, carried, strict=False)) | given
        narrowed = _Narrowed(self, env)
        outs = tuple(narrowed.after(p, v) for p, v in zip(self.body.params, self.body.outs, strict=False))
        body = Graph((*carried, *given.values()), outs, self.body.name)
        attrs = {**self.attrs, "body": body}
        return ops.for_.emit_results(*first, *constants.values(), **attrs)

    def _cut(self, x: Value, axis: int | None) -> Value:
        """A strip's rows of a whole array."""
        assert axis is not None
        return part(x, axis, self.first, self.first + self.rows)

    def _whole(self) -> set[Value]:
        """Values of which each strip sees all rows: operands, and stacks of which it writes and reads some."""
        body, n = self.body, self.carried
        found = {p for p in body.params[n:] if self.axes[p] is not None}
        for p, out in zip(body.params[:n], body.outs, strict=True):
            chain = [out]
            while chain[-1].op in (ops.put, ops.put_add):
                chain.append(chain[-1].args[0])
            readers = [(v, u) for v in chain for u in body.users.get(v, ())]
            is_stack = chain[-1] is p and len(chain) > 1 and self.axes[p] != SUM
            if is_stack and all(_reads_in_place(v, u) for v, u in readers):
                found.update(chain)
        return found

    def _once(self) -> list[Value]:
        """What is the same for all rows, and in all iterations: computed before the strips."""
        body, index = self.body, self.attrs["index"]
        varying = {*body.params[: self.carried]}
        for v in body.nodes:
            if any(a in varying for a in v.args) or index in symbols_of(v):
                varying.add(v)
        same = {v for v in body.nodes if v not in varying and self.axes[v] is None and v.op not in _FRESH}
        return [v for v in body.nodes if v in same and not all(u in same for u in body.users[v])]

    def _read(self, once: Collection[Value]) -> set[Value]:
        """What iterations read that is there before."""
        found = {*self.body.outs}
        for v in reversed(self.body.nodes):
            if v in found and v not in once:
                found.update(v.args)
        return found.intersection(self.body.params[self.carried :]).union(found.intersection(once))


def _params(values: Mapping[K, Value]) -> dict[K, Value]:
    """A parameter for each value."""
    return {k: param(x.type) for k, x in values.items()}


class _Narrowed:
    """Values of the body as a strip has them. `env`: what they are there already."""

    def __init__(self, strips: Strips, env: dict[Value, Value]):
        self.strips, self.env = strips, env

    def after(self, p: Value, v: Value) -> Value:
        """What an iteration makes of the parameter `p`."""
        (y,) = rebuilt((v,), self.env, self._change)
        return y if p in self.strips.whole else self._rows(v, y)

    def _change(self, v: Value, args: tuple[Value, ...]) -> Value:
        s, axis, attrs = self.strips, self.strips.axes[v], v.attributes
        assert v.op is not None
        if axis in (None, SUM):
            return v.op.emit(*(self._rows(x, y) for x, y in zip(v.args, args, strict=True)), **attrs)
        if v.op is ops.slice_ and v.args[0] in s.whole:
            attrs["starts"] = replaced(attrs["starts"], axis, s.first)
            attrs["limits"] = replaced(attrs["limits"], axis, s.first + s.rows)
            return v.op.emit(*args, **attrs)
        if v in s.whole:
            attrs["starts"] = replaced(attrs["starts"], axis, s.first)
            return v.op.emit(args[0], self._rows(v.args[1], args[1]), **attrs)
        if v.op is ops.slice_:
            attrs["limits"] = replaced(attrs["limits"], axis, s.rows)
        elif v.op.name in _SHAPED:
            attrs["shape"] = replaced(attrs["shape"], axis, s.rows)
        elif not v.args:
            return s._cut(v, axis)
        return v.op.emit(*(self._rows(x, y) for x, y in zip(v.args, args, strict=True)), **attrs)

    def _rows(self, x: Value, y: Value) -> Value:
        """A strip's rows of an operand."""
        return self.strips._cut(y, self.strips.axes[x]) if x in self.strips.whole else y


def _reads_in_place(v: Value, user: Value) -> bool:
    """Whether a value is cut before anything else is done with it, or written into."""
    return user.op is ops.slice_ or user.op in (ops.put, ops.put_add) and user.args[0] is v and user.args[1] is not v


def _at(shape: Shape, axis: int, first: Dim) -> Shape:
    return replaced((0,) * len(shape), axis, first)
