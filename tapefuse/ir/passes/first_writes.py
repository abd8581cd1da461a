"""Rows of zeros that a loop adds to once are written instead.

    gs = zeros [n, ...];  for k: gs[n - 1 - k] += v     ->     gs = empty [n, ...];  for k: gs[n - 1 - k] = v + 0

That is the gradient of an array whose rows a loop reads. Zeros need not be stored first, and rows that the loop keeps
for another reason are the same array. Adding zero turns -0 into 0, as it did before; it is left out where it is known
to change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, symbols_in
from tapefuse.ir.op import const
from tapefuse.ir.passes.bodies import deep, rebuilt
from tapefuse.ir.types import Dim, Poly

_MOVES = (ops.concat, ops.reshape, ops.transpose, ops.slice_)


@deep
def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with additions to zeros as writes, and how many: `once`, and those that others do too: `same`."""
    found: dict[Value, _Loop] = {}
    fired: Counter[str] = Counter()

    def change(v: Value, args: tuple[Value, ...]) -> Value | None:
        if v.op is ops.for_ and (loop := _Loop(v)).once:
            found[v] = loop
            fired.update(once=len(loop.once), same=len(loop.same))
            return v.op.emit(*loop.operands(args), **{**v.attributes, "body": loop.body()})
        if v.op is ops.result and (known := found.get(v.args[0])) is not None:
            k = v.attributes["index"]
            return v.op.emit(*args, **{**v.attributes, "index": known.same.get(k, k)})
        return None

    outs = rebuilt(graph.outs, {}, change)
    return (Graph(graph.params, outs, graph.name), +fired) if found else (graph, Counter())


class _Loop:
    """A loop, and which of its stacks are added to once, row by row."""

    def __init__(self, v: Value):
        self.graph: Graph = v.attributes["body"]
        self.index: str = v.attributes["index"]
        self.trips: Dim = v.attributes["trips"]
        carried = range(v.attributes["carried"])
        self.once = {k: self._written(k) for k in carried if _is_zero(v.args[k]) and self._adds_once(k)}
        self.whole = {k for k in carried if self._writes_all(k)}
        self.same = self._same(v.args, self.once)

    def operands(self, args: tuple[Value, ...]) -> tuple[Value, ...]:
        """Stacks of which every row is written begin as memory that is not filled."""
        empty = {k: ops.empty.emit(shape=args[k].shape, dtype=args[k].dtype) for k in self.once if k in self.whole}
        return tuple(empty.get(k, x) for k, x in enumerate(args))

    def body(self) -> Graph:
        outs = tuple(self.once.get(k, y) for k, y in enumerate(self.graph.outs))
        return Graph(self.graph.params, outs, self.graph.name)

    def _adds_once(self, k: int) -> bool:
        """Whether an iteration adds to a row that no other one adds to, and nothing else is done with the stack."""
        stack, new = self.graph.params[k], self.graph.outs[k]
        if new.op is not ops.put_add or new.args[0] is not stack or new.args[1] is stack:
            return False
        alone = self.graph.users[stack] == (new,) and not self.graph.users[new] and stack not in self.graph.outs
        return alone and self.graph.outs.count(new) == 1 and self._row(new) is not None

    def _row(self, new: Value) -> tuple[int, Dim] | None:
        """The sign and the rest of the row's number, sign * index + rest."""
        a, (stack, part) = new.attributes, new.args
        rest = [*zip(a["starts"], a["strides"], part.shape, stack.shape, strict=True)][1:]
        if not stack.shape or part.shape[0] != 1 or any(s != 0 or d != 1 or m != n for s, d, m, n in rest):
            return None
        for sign in (1, -1):
            first = a["starts"][0] - Poly.symbol(self.index) * sign
            if self.index not in symbols_in(first):
                return sign, first
        return None

    def _writes_all(self, k: int) -> bool:
        """Whether each row of a stack is written."""
        new = self.graph.outs[k]
        if new.op not in (ops.put, ops.put_add) or new.args[0] is not self.graph.params[k]:
            return False
        row = self._row(new)
        return row in ((1, 0), (-1, self.trips - 1)) and new.shape[0] == self.trips

    def _written(self, k: int) -> Value:
        new = self.graph.outs[k]
        stack, v = new.args
        return ops.put(stack, v if _is_never_negative_zero(v) else ops.add(v, 0), **new.attributes)

    def _same(self, args: tuple[Value, ...], once: Mapping[int, Value]) -> dict[int, int]:
        """Stacks that another one has all rows of, too."""
        found: dict[int, int] = {}
        for k, y in once.items():
            for j in self.whole if k in self.whole else ():
                other = self.graph.outs[j]
                if j not in once and other.op is ops.put and (other.args[1], other.attrs) == (y.args[1], y.attrs):
                    found[k] = j
        return found


def _is_zero(v: Value) -> bool:
    """Whether a value is a repeated 0, and not -0."""
    if v.op is ops.broadcast:
        (v,) = v.args
    return v.op is const and v.shape == () and not any(v.attributes["value"].array.tobytes())


def _is_never_negative_zero(v: Value) -> bool:
    """Whether adding 0 changes no element."""
    if v.op is ops.add:
        return any(map(_is_zero, v.args))
    return v.op in _MOVES and all(map(_is_never_negative_zero, v.args))
