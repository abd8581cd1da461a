"""How the body of a loop of small arrays is computed: what is kept, what is a view, and whether it is one at all.

    %d = sub %x[1:], %x[:-1]      kept, as it is read twice; the slices are views of %x
    %y = pad %d low=1             two parts: a literal, and the elements of %d
    for %y, %c: ...               a loop of small arrays too (`region_small.InnerLoop`)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tapefuse._records import dataclass
from tapefuse.codegen.access import is_squeeze
from tapefuse.codegen.costs import CALL, time, weight
from tapefuse.codegen.llvm_instructions import COPIES
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS
from tapefuse.ir.passes.bodies import symbols_of
from tapefuse.ir.types import Type

MOST = 128  # elements of a small array
MOST_NODES = 1000
MOST_VECTORS = 2000  # of LANES elements, that a body computes: LLVM takes long for more
LEAST_ARRAYS = 2  # that are handed on within an iteration, or to the next one
LANES = 8
DTYPES = ("float64", "float32", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
PARTS = ("pad", "put", "put_add", "concat")
RESULTS = ("result", "empty")  # of the loops inside, or memory for what they keep


@dataclass(frozen=True, slots=True)
class Part:
    """Elements of a small array from `first` on: sums of those of `of`, each from a number on; a literal if empty."""

    first: int
    count: int
    of: tuple[tuple[Value, int], ...]


class Small:
    """A body of small arrays: how its values are computed."""

    def __init__(self, graph: Graph, index: str, hoists: bool = True):
        self.graph, self.index = graph, index
        outs = dict(enumerate(graph.outs))
        self.same = {k for k, y in outs.items() if y is graph.params[k]}
        self.carried = [k for k in outs if k not in self.same]
        self.updated = {k for k in self.carried if self._is_updated(k)}
        self.updates = [u for k in sorted(self.updated) for u in reversed([*chain(graph.outs[k])])]
        self.nodes = [v for v in graph.nodes if v not in set(self.updates)]
        self.loops = {v: Small(v.attributes["body"], v.attributes["index"]) for v in self.nodes if is_inner(v)}
        self.fixed = self._fixed() if hoists else set()
        self.arrays = self._arrays()

    def _is_updated(self, k: int) -> bool:
        """Whether what is carried is the array that it was with some parts changed, which nothing else reads."""
        out, users = self.graph.outs[k], self.graph.users
        updates = [*chain(out)] if out.type.size != 1 else []
        if not updates or updates[-1].args[0] is not self.graph.params[k]:
            return False
        if is_row(out) and all(map(_fits_parts, updates)):
            return False
        inner = all(users[old] == (new,) for new, old in pairwise(updates))
        return inner and not users[out] and self.graph.outs.count(out) == 1

    def _fixed(self) -> set[Value]:
        """What is the same in all iterations."""
        moving = {self.graph.params[k] for k in self.carried}
        found: set[Value] = set()
        for v in self.nodes:
            if self.index in symbols_of(v) or any(a in moving for a in v.args):
                moving.add(v)
            else:
                found.add(v)
        return found

    def _arrays(self) -> set[Value]:
        """Values that are kept: what is neither a view nor read once only, by a function of the same elements."""
        written = {u.args[1] for u in self.updates}.union(self.graph.outs)
        nodes = [v for v in self.nodes if v.type.size != 1 and not is_made(v)]
        found = {v for v in nodes if v in written and not _is_literal(v)}
        for v in nodes:
            if not is_view(v) and not _is_literal(v) and not self._is_joined(v):
                found.add(v)
        return found

    def _is_joined(self, v: Value) -> bool:
        """Whether a value is computed where its only reader is."""
        users = self.graph.users[v]
        if len(users) != 1 or v.op is None or not v.op.elementwise:
            return False
        (user,) = users
        assert user.op is not None
        return user.op.elementwise and user.type.size == v.type.size and (v in self.fixed) == (user in self.fixed)

    @property
    def types(self) -> Iterator[Type]:
        """Of the small arrays that a loop has."""
        carried = (self.graph.outs[k] for k in self.carried if k not in self.updated)
        yield from (v.type for v in (*carried, *self.arrays, *self.exchanged) if v.type.size != 1)

    @property
    def exchanged(self) -> list[Value]:
        """Carried arrays that others become, or are written elsewhere, as they are."""
        carried = {self.graph.params[k] for k in self.carried}
        read = (*(self.graph.outs[k] for k in self.carried), *(u.args[1] for u in self.updates))
        return [v for v in dict.fromkeys(read) if v in carried and v.type.size != 1]

    @property
    def is_useful(self) -> bool:
        """Whether something is handed on, and it is not too much."""
        outs, handed_on = self.graph.outs, len(self.arrays)
        handed_on += sum(k not in self.updated and outs[k].type.size != 1 for k in self.carried)
        return (handed_on >= LEAST_ARRAYS or bool(self.loops)) and self.vectors <= MOST_VECTORS and self.calls <= COPIES

    @property
    def vectors(self) -> int:
        """That are computed, as they stand in the code."""
        own = sum(-(-count(v) // LANES) for v in self.nodes if not (is_view(v) or is_made(v)))
        return own + sum(inner.vectors for inner in self.loops.values())

    @property
    def calls(self) -> int:
        """Vectors of elementary functions among them."""
        own = sum(-(-count(v) // LANES) for v in self.nodes if not (is_view(v) or is_made(v)) and weight(v) > CALL)
        return own + sum(inner.calls for inner in self.loops.values())

    @property
    def fits(self) -> bool:
        outs = self.graph.outs
        carried = [k for k in self.carried if k not in self.updated]
        if not all(v.dtype.name in DTYPES for v in (*self.graph.params, *self.graph.nodes)):
            return False
        if not all(map(is_row, (*(outs[k] for k in carried), *self.exchanged))):
            return False
        return all(map(self._fits, self.nodes)) and all(map(_fits_update, self.updates))

    def _fits(self, v: Value) -> bool:
        if v in self.loops:
            return all(map(is_given, v.args))
        if not is_made(v):
            return _fits(v)
        if v.op is OPS["result"]:
            return v.args[0] in self.loops
        return all(u in self.loops for u in self.graph.users[v]) and v not in self.graph.outs

    @property
    def cost(self) -> int:
        own = sum(time(v) * count(v) for v in self.nodes if not (is_view(v) or is_made(v)))
        return 1 + own + sum(v.attributes["trips"] * inner.cost for v, inner in self.loops.items())


def is_small(token: Value) -> bool:
    """Whether a region is a loop that computes with small arrays alone, and hands some on."""
    if token.op is not OPS["for"]:
        return False
    body = token.attributes["body"]
    if len(body.nodes) > MOST_NODES or any(v.op.is_region and not is_inner(v) for v in body.nodes):
        return False
    small = Small(body, token.attributes["index"])
    return small.fits and small.is_useful


def is_inner(v: Value) -> bool:
    """Whether a node of a body is a loop that can be written there. What it carries is small, or memory of its own."""
    if v.op is not OPS["for"] or not isinstance(v.attributes["trips"], int) or v.attributes["trips"] < 1:
        return False
    body, n = v.attributes["body"], v.attributes["carried"]
    if any(x.op.is_region for x in body.nodes) or not is_small(v):
        return False
    updated = Small(body, v.attributes["index"]).updated
    return all(k in updated and x.op is OPS["empty"] or is_row(x) for k, x in enumerate(v.args[:n]))


def is_made(v: Value) -> bool:
    """Whether a node is a loop, or what one makes or is given to keep something."""
    assert v.op is not None
    return v.op.is_region or v.op.name in RESULTS


def is_given(x: Value) -> bool:
    """Whether an operand of a loop inside is small, or in memory."""
    return is_row(x) or x.op is None or x.op.name in RESULTS


def count(v: Value) -> int:
    """The elements of a value of fixed size."""
    assert isinstance(v.type.size, int)
    return v.type.size


def chain(v: Value) -> Iterator[Value]:
    """The updates of an array, the last one first."""
    while v.op is not None and v.op.name in ("put", "put_add"):
        yield v
        v = v.args[0]


def root(v: Value) -> Value:
    return next((u.args[0] for u in reversed([*chain(v)])), v)


def is_row(v: Value) -> bool:
    """Whether all elements lie along one axis, few of them."""
    if not isinstance(v.type.size, int) or not 0 < v.type.size <= MOST:
        return False
    return sum(d != 1 for d in v.shape) <= 1


def is_view(v: Value) -> bool:
    """Whether a value is elements of another one, side by side, or the same one again and again."""
    assert v.op is not None
    if v.op.name == "slice":
        return all(step == 1 for step in v.attributes["strides"])
    return v.op.name == "reshape" and is_squeeze(v) or v.op.name == "broadcast" and v.args[0].type.size == 1


def _is_literal(v: Value) -> bool:
    assert v.op is not None
    return v.op.name in ("const", "dim", "iota")


def _fits(v: Value) -> bool:
    assert v.op is not None
    if is_view(v) and v.op.name != "broadcast":
        return True  # a large one is read by other views only
    if not is_row(v):
        return False
    if v.op.name in PARTS:
        return _fits_parts(v)
    if is_view(v) or _is_literal(v):
        return v.type.size == 1 or v.op.name != "const"
    return v.op.elementwise and v.op.at is not None and all(a.type.size in (1, v.type.size) for a in v.args)


def _fits_parts(v: Value) -> bool:
    """Whether parts of a small array lie side by side at places that are known."""
    assert v.op is not None
    a = v.attributes
    if v.op.name == "concat":
        return all(isinstance(x.type.size, int) for x in v.args)
    if v.op.name == "pad":
        return all(isinstance(d, int) for d in (*a["low"], *a["high"])) and not any(a["interior"])
    return all(isinstance(d, int) for d in a["starts"]) and all(step == 1 for step in a["strides"])


def _fits_update(u: Value) -> bool:
    return is_row(u.args[1]) and all(step == 1 for step in u.attributes["strides"])


def parts(v: Value) -> Iterator[Part]:
    """The parts of an array that is put together of others."""
    assert v.op is not None
    axis = next((k for k, d in enumerate(v.shape) if d != 1), 0)
    if v.op.name == "concat":
        first = 0
        for x in v.args:
            yield Part(first, count(x), ((x, 0),))
            first += count(x)
        return
    base, new = (None, v.args[0]) if v.op.name == "pad" else v.args
    start = v.attributes["low" if base is None else "starts"][axis]
    stop = start + count(new)
    yield Part(0, start, () if base is None else ((base, 0),))
    both = v.op.name == "put_add"
    assert base is not None or not both
    yield Part(start, stop - start, ((base, start), (new, 0)) if both else ((new, 0),))  # type: ignore[arg-type]
    yield Part(stop, count(v) - stop, () if base is None else ((base, stop),))
