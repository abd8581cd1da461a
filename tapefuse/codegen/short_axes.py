"""Values with a short first axis, such as coordinates in space, as a few values without it: Graph -> Graph.

    %d = sub %p, %q : f64[3,n,n]                        %d0 = sub %p[0], %q[0] : f64[n,n] ...
    %s = reduce_sum (mul %d, %d) axes=(0) : f64[n,n]    %s = d0 d0 + d1 d1 + d2 d2
    %y = reduce_sum (mul %d, %s) axes=(2) : f64[3,n]    %y = rows sum(d0 s), sum(d1 s), sum(d2 s)

What is computed from a sum over the short axis, and meets the terms of this sum again, is then one nest of loops over
[n,n]: nothing of [3,n,n] or of [n,n] goes through memory.
"""

from __future__ import annotations

from functools import reduce

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here
from tapefuse.ir.op import OPS

SHORT = 4  # most elements of such an axis
LEAST = 64  # elements of the other axes from which the parts are worth loops of their own


def unrolled(graph: Graph) -> Graph:
    """The graph with sums over a short first axis spelled as sums of parts, where their terms need no memory."""
    parts = _Parts(graph)
    if not parts.lengths:
        return graph
    env: dict[Value, Value] = {p: p for p in graph.params}
    for node in graph.nodes:
        assert node.op is not None
        here.loc = node.loc
        if node in parts.reductions:
            env[node] = parts.reduced(node, env)
        else:
            env[node] = node.op.emit(*(env[a] for a in node.args), **node.attributes)
    here.loc = None
    return Graph(graph.params, tuple(env[v] for v in graph.outs), graph.name)


class _Parts:
    """Which values of a graph are taken apart, and their parts."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.lengths = {n.args[0].shape[0] for n in graph.nodes if _is_over_short_axis(n) and _is_computed(n.args[0])}
        self.reductions: set[Value] = set()
        self.apart: set[Value] = set()
        outs = set(graph.outs)
        for v in reversed(graph.nodes):
            if _is_reduction(v) and v.args[0].shape[0] in self.lengths:
                self.reductions.add(v)
            elif self._has_axis(v) and _is_computed(v) and v not in outs and self._are_parts_read(v):
                self.apart.add(v)
        self.reductions = {v for v in self.reductions if v.args[0] in self.apart}
        self.lengths = {v.args[0].shape[0] for v in self.reductions if _is_over_short_axis(v)}
        self.reductions = {v for v in self.reductions if v.args[0].shape[0] in self.lengths}
        self.parts: dict[tuple[Value, int], Value] = {}

    def _are_parts_read(self, v: Value) -> bool:
        """Whether nothing else is: so that a value need not be there as a whole."""
        return all(u in self.apart or u in self.reductions for u in self.graph.users[v])

    def _has_axis(self, v: Value) -> bool:
        return len(v.shape) >= 2 and v.shape[0] in self.lengths

    def reduced(self, v: Value, env: dict[Value, Value]) -> Value:
        """A reduction, from the parts of what it reduces."""
        assert v.op is not None and v.op.reduction is not None
        (x,), axes = v.args, v.attributes["axes"]
        terms = [self.part(x, k, env) for k in range(x.shape[0])]
        if axes == (0,):
            return reduce(OPS[v.op.reduction].emit, terms)
        rows = [v.op.emit(t, axes=tuple(a - 1 for a in axes)) for t in terms]
        return ops.concat.emit(*(ops.reshape.emit(r, shape=(1, *r.shape)) for r in rows), axis=0)

    def part(self, v: Value, k: int, env: dict[Value, Value]) -> Value:
        """Element k along the first axis."""
        if (v, k) not in self.parts:
            self.parts[v, k] = self._apart(v, k, env) if v in self.apart else _row(env[v], k)
        return self.parts[v, k]

    def _apart(self, v: Value, k: int, env: dict[Value, Value]) -> Value:
        assert v.op is not None
        if v.op is ops.broadcast:
            (x,), axes, shape = v.args, v.attributes["axes"], v.shape[1:]
            source = self.part(x, k, env) if 0 in axes else env[x]
            return ops.broadcast.emit(source, axes=tuple(a - 1 for a in axes if a > 0), shape=shape)
        if v.op is ops.reshape:
            return ops.reshape.emit(self.part(v.args[0], k, env), shape=v.shape[1:])
        return v.op.emit(*(self._operand(v, a, k, env) for a in v.args), **v.attributes)

    def _operand(self, v: Value, a: Value, k: int, env: dict[Value, Value]) -> Value:
        """What element k of an elementwise value reads of an operand, which may be broadcast."""
        if len(a.shape) < len(v.shape):
            return env[a]
        if a.shape[0] == 1:
            return ops.reshape.emit(env[a], shape=a.shape[1:])
        return self.part(a, k, env)


def _is_reduction(v: Value) -> bool:
    """Over the first axis alone, or over others of at least two."""
    if v.op is None or v.op.reduction is None or not v.attributes["axes"]:
        return False
    axes, rank = v.attributes["axes"], len(v.args[0].shape)
    return rank >= 2 and axes == (0,) or rank >= 3 and 0 not in axes


def _is_over_short_axis(v: Value) -> bool:
    if not _is_reduction(v) or v.attributes["axes"] != (0,):
        return False
    length, size = v.args[0].shape[0], v.type.size
    return isinstance(length, int) and 2 <= length <= SHORT and not (isinstance(size, int) and size < LEAST)


def _is_computed(v: Value) -> bool:
    """Whether a value is made element by element, each from the same one along the first axis."""
    if v.op is ops.broadcast:
        return True
    if v.op is ops.reshape:
        return len(v.args[0].shape) >= 1 and v.args[0].shape[0] == v.shape[0] and len(v.shape) >= 2
    return v.op is not None and v.op.elementwise


def _row(x: Value, k: int) -> Value:
    rest = x.shape[1:]
    zeros, ones = (0,) * len(rest), (1,) * len(x.shape)
    row = ops.slice_.emit(x, starts=(k, *zeros), limits=(k + 1, *rest), strides=ones)
    return ops.reshape.emit(row, shape=rest)
