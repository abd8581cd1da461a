"""`for` regions whose bodies compute with small arrays alone: each array is a loop over elements or a part of one, and
the arrays are `local` views, which the LLVM emitter keeps in registers (`llvm_small_arrays`).

    for %u, %c: %x = slice %u [56 t : 56 t + 64]     for dim.t in 0..178:
                %d = sub %x[1:], %x[:-1]               for i in 0..63: m4[i] = b0[56 t + i + 1] - b0[56 t + i]
                %y = put %y, ... [56 t + 8]            ...
                                                       for i in 0..56: b1[56 t + 8 + i] = m9[i]

What is carried is small too, or large arrays of which an iteration changes small parts: in place, once all is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

from tapefuse._records import dataclass
from tapefuse.codegen.access import Operand, at, is_squeeze
from tapefuse.codegen.code import Array, Cell, Storage
from tapefuse.codegen.costs import CALL, time, weight
from tapefuse.codegen.llvm_instructions import COPIES
from tapefuse.codegen.loops import INT, ZERO, Buffer, Num, Scalar, Var
from tapefuse.codegen.memory import ALIGN
from tapefuse.codegen.region_loops import ForLoop
from tapefuse.codegen.region_parallel import ParallelLoop
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS
from tapefuse.ir.ops.update import target
from tapefuse.ir.passes.bodies import symbols_of
from tapefuse.ir.types import Dim, Shape, Type

MOST = 128  # elements of a small array
MOST_NODES = 1000
MOST_VECTORS = 2000  # of LANES elements, that a body computes: LLVM takes long for more
LEAST_ARRAYS = 2  # that are handed on within an iteration, or to the next one
LANES = 8
DTYPES = ("float64", "float32", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
PARTS = ("pad", "put", "put_add", "concat")


class SmallLoop(ForLoop):
    hoists = True  # what is the same in all iterations is computed before them

    def write(self) -> None:
        self.graph: Graph = self.attributes["body"]
        self.small = Small(self.graph, self.attributes["index"], self.hoists)
        code, trips = self.code, self.attributes["trips"]
        self.storage: dict[Value, Storage] = {}
        self.scalars: dict[Value, Scalar] = {}
        self.loaded: dict[tuple[Value, tuple[Scalar, ...]], Scalar] = {}  # in the innermost loop
        self.locals: set[Buffer] = set()
        self.memory, self.used = self.room(sum(map(_space, self.small.types)), "small"), 0
        self.rows: dict[int, Array] = {}  # carried arrays that are small
        self.slots: dict[int, Var] = {}
        for k, (p, value) in enumerate(zip(self.graph.params, self.args, strict=True)):
            if k not in self.small.carried:
                self.storage[p] = self.given(value, False)
                if k in self.small.same and (home := self.home(k)) is not None:
                    self._begin(home, value)
        for k in self.small.carried:
            self.start(k)
        self.storage |= {v: self.local(v.type) for v in self.small.nodes if v in self.small.arrays}
        self.copies = {v: self.local(v.type) for v in self.small.exchanged}
        self.emit([v for v in self.small.nodes if v in self.small.fixed])
        each = self.small.cost
        self.repeat(code.op("maximum", code.dim(trips), ZERO), each, self.step_once)
        for k in self.small.carried:
            self.end(k)
        self.cost = each * trips

    def start(self, k: int) -> None:
        """The first value of what is carried."""
        p, value, code = self.graph.params[k], self.args[k], self.code
        if value.type.size == 1:
            self.slots[k] = code.declare(value.dtype, code.value(self.operand(value)))
        elif k in self.small.updated:
            array = self.home(k) or self.typed(self.scratch(value.type.nbytes, "carried"), value.type)
            self.storage[p] = array
            self._begin(array, value)
        else:
            self.storage[p] = self.rows[k] = self.local(value.type)
            self.code.copy(self.rows[k], self.operand(value))

    def end(self, k: int) -> None:
        if (home := self.home(k)) is None or k in self.small.updated:
            return
        if k in self.slots:
            self.code.store(home.buffer, (ZERO,) * len(home.buffer.type.shape), self.code.read(self.slots[k]))
        else:
            self.code.copy(home, self.rows[k])

    def local(self, type: Type) -> Array:
        """A small array, as one row."""
        buffer = self.code.buffer(Type(type.dtype, (type.size,)))
        self.locals.add(buffer)
        self.code.name_view(buffer, self.memory.buffer, Num(self.used, INT), local=True)
        self.used += _space(type)
        return self.code.made(buffer)

    # -- an iteration ----------------------------------------------------------------------------------
    def step_once(self) -> None:
        code, small = self.code, self.small
        for k, slot in self.slots.items():
            self.storage[self.graph.params[k]] = Cell(self.graph.params[k].type, code.read(slot))
        self.emit([v for v in small.nodes if v not in small.fixed])
        for v, array in self.copies.items():
            self.fill(array, v)
        outs, before = self.graph.outs, dict(self.storage)
        self.storage |= self.copies
        for update in small.updates:
            self.update(update, before)
        values = {k: self._at(outs[k], (ZERO,) * len(outs[k].shape)) for k in self.slots}
        self.loaded.clear()
        for k, slot in self.slots.items():
            code.assign(slot, values[k])
        for k, array in self.rows.items():
            self.fill(array, outs[k])
        self.storage = before

    def emit(self, nodes: Sequence[Value]) -> None:
        for v in nodes:
            if v.type.size == 1:
                self.scalars[v] = self._at(v, (ZERO,) * len(v.shape))
                self.loaded.clear()
            elif v in self.small.arrays:
                self.compute(v)

    def compute(self, v: Value) -> None:
        assert v.op is not None
        array = self.storage[v]
        assert isinstance(array, Array)
        for part in sorted(_parts(v), key=lambda part: -part.count) if v.op.name in PARTS else [Part(0, count(v), ())]:
            self.elements(part.count, partial(self._set, array, part.first, partial(self._element, v, part)))

    def _element(self, v: Value, part: Part, i: Scalar) -> Scalar:
        assert v.op is not None
        if v.op.name not in PARTS:
            return at(self.code, v, _index(v.shape, i), self._operand)
        if not part.of:
            return self.code.number(v.attributes["value"], v.dtype)
        first, *rest = (self._at(x, _index(x.shape, self._moved(i, by))) for x, by in part.of)
        return self.code.op("add", first, *rest) if rest else first

    def fill(self, array: Array, v: Value) -> None:
        """All elements of a value to a small array."""
        self.elements(count(v), partial(self._set, array, 0, lambda i: self._at(v, _index(v.shape, i))))

    def _set(self, array: Array, first: int, element: Callable[[Scalar], Scalar], i: Scalar) -> None:
        self.code.store(array.buffer, (self._moved(i, first),), element(i))

    def _moved(self, i: Scalar, by: int) -> Scalar:
        return self.code.op("add", i, Num(by, INT)) if by else i

    def update(self, v: Value, memory: Mapping[Value, Storage]) -> None:
        """Write into a large array that is carried."""
        assert v.op is not None
        base, new = v.args
        storage = memory[_root(base)]
        assert isinstance(storage, Array)
        code, a = self.code, v.attributes

        def change(i: Scalar) -> None:
            place = target(code, _index(new.shape, i), a["starts"], a["strides"])
            x = self._at(new, _index(new.shape, i))
            if v.op is OPS["put_add"]:
                x = code.op("add", code.load(storage.buffer, place), x)
            code.store(storage.buffer, place, x)

        self.elements(count(new), change)

    def elements(self, count: int, do: Callable[[Scalar], None]) -> None:
        code = self.code
        if count == 1:
            do(ZERO)
        elif count:
            with code.loop(code.fresh("i", INT, code.here + 1), ZERO, Num(count, INT)) as i:
                do(i)
        self.loaded.clear()

    # -- elements --------------------------------------------------------------------------------------
    def _operand(self, v: Value) -> Operand:
        return Operand(v, partial(self._at, v))

    def _at(self, v: Value, index: Sequence[Scalar]) -> Scalar:
        """An element of a value: from where it is, or computed."""
        if v in self.scalars:
            return self.scalars[v]
        if (storage := self.storage.get(v)) is None:
            return at(self.code, v, tuple(index), self._operand)
        if isinstance(storage, Cell):
            return self.code.get(storage)
        key = v, tuple(index)
        if key not in self.loaded:
            is_local = storage.buffer in self.locals
            self.loaded[key] = self.code.load(storage.buffer, (_long(v.shape, index),) if is_local else index)
        return self.loaded[key]


@dataclass(frozen=True, slots=True)
class Part:
    """Elements of a small array from `first` on: sums of those of `of`, each from a number on; a literal if empty."""

    first: int
    count: int
    of: tuple[tuple[Value, int], ...]


class SmallParallelLoop(SmallLoop, ParallelLoop):
    """Its iterations may run in any order."""

    hoists = False

    def repeat(self, count: Scalar, each: Dim, step: Callable[[], None]) -> None:
        self.is_cut = self.small.updated == set(self.small.carried)
        ParallelLoop.repeat(self, count, each, step)


class Small:
    """A body of small arrays: how its values are computed."""

    def __init__(self, graph: Graph, index: str, hoists: bool = True):
        self.graph, self.index = graph, index
        outs = dict(enumerate(graph.outs))
        self.same = {k for k, y in outs.items() if y is graph.params[k]}
        self.carried = [k for k in outs if k not in self.same]
        self.updated = {k for k in self.carried if self._is_updated(k)}
        self.updates = [u for k in sorted(self.updated) for u in reversed([*_chain(graph.outs[k])])]
        self.nodes = [v for v in graph.nodes if v not in set(self.updates)]
        self.fixed = self._fixed() if hoists else set()
        self.arrays = self._arrays()

    def _is_updated(self, k: int) -> bool:
        """Whether what is carried is the array that it was with some parts changed, which nothing else reads."""
        out, users = self.graph.outs[k], self.graph.users
        chain = [*_chain(out)] if out.type.size != 1 else []
        if not chain or chain[-1].args[0] is not self.graph.params[k] or _is_row(out) and all(map(_fits_parts, chain)):
            return False
        inner = all(users[old] == (new,) for new, old in pairwise(chain))
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
        found = {v for v in self.nodes if v.type.size != 1 and v in written and not _is_literal(v)}
        for v in self.nodes:
            if v.type.size != 1 and not _is_view(v) and not _is_literal(v) and not self._is_joined(v):
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
        vectors = {v: -(-count(v) // LANES) for v in self.nodes if not _is_view(v)}
        calls = sum(k for v, k in vectors.items() if weight(v) > CALL)
        return handed_on >= LEAST_ARRAYS and sum(vectors.values()) <= MOST_VECTORS and calls <= COPIES

    @property
    def fits(self) -> bool:
        outs = self.graph.outs
        carried = [k for k in self.carried if k not in self.updated]
        if not all(v.dtype.name in DTYPES for v in (*self.graph.params, *self.graph.nodes)):
            return False
        if not all(map(_is_row, (*(outs[k] for k in carried), *self.exchanged))):
            return False
        return all(map(_fits, self.nodes)) and all(map(_fits_update, self.updates))

    @property
    def cost(self) -> int:
        return 1 + sum(time(v) * count(v) for v in self.nodes if not _is_view(v))


def is_small(token: Value) -> bool:
    """Whether a region is a loop that computes with small arrays alone, and hands some on."""
    if token.op is not OPS["for"]:
        return False
    body = token.attributes["body"]
    if len(body.nodes) > MOST_NODES or any(v.op.is_region for v in body.nodes):
        return False
    small = Small(body, token.attributes["index"])
    return small.fits and small.is_useful


def _space(type: Type) -> int:
    """Bytes of memory for a small array."""
    assert isinstance(type.nbytes, int)
    return -(-type.nbytes // ALIGN) * ALIGN


def count(v: Value) -> int:
    """The elements of a value of fixed size."""
    assert isinstance(v.type.size, int)
    return v.type.size


def _chain(v: Value) -> Iterator[Value]:
    """The updates of an array, the last one first."""
    while v.op is not None and v.op.name in ("put", "put_add"):
        yield v
        v = v.args[0]


def _root(v: Value) -> Value:
    return next((u.args[0] for u in reversed([*_chain(v)])), v)


def _is_row(v: Value) -> bool:
    """Whether all elements lie along one axis, few of them."""
    if not isinstance(v.type.size, int) or not 0 < v.type.size <= MOST:
        return False
    return sum(d != 1 for d in v.shape) <= 1


def _is_view(v: Value) -> bool:
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
    if _is_view(v) and v.op.name != "broadcast":
        return True  # a large one is read by other views only
    if not _is_row(v):
        return False
    if v.op.name in PARTS:
        return _fits_parts(v)
    if _is_view(v) or _is_literal(v):
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
    return _is_row(u.args[1]) and all(step == 1 for step in u.attributes["strides"])


def _parts(v: Value) -> Iterator[Part]:
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


def _index(shape: Shape, i: Scalar) -> tuple[Scalar, ...]:
    """The index of element i along the only axis that has several."""
    return tuple(ZERO if d == 1 else i for d in shape)


def _long(shape: Shape, index: Sequence[Scalar]) -> Scalar:
    return next((i for i, d in zip(index, shape, strict=True) if d != 1), ZERO)
