"""`for` regions whose bodies compute with small arrays alone: each array is a loop over elements or a part of one, and
the arrays are `local` views, which the LLVM emitter keeps in registers (`llvm_small_arrays`).

    for %u, %c: %x = slice %u [56 t : 56 t + 64]     for dim.t in 0..178:
                %d = sub %x[1:], %x[:-1]               for i in 0..63: m4[i] = b0[56 t + i + 1] - b0[56 t + i]
                %y = put %y, ... [56 t + 8]            ...
                                                       for i in 0..56: b1[56 t + 8 + i] = m9[i]

What is carried is small too, or large arrays of which an iteration changes small parts: in place, once all is read.
Loops of that kind may stand in such a body themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.code import Array, Cell, Storage
from tapefuse.codegen.loops import INT, ZERO, Buffer, Num, Scalar, Var
from tapefuse.codegen.memory import ALIGN
from tapefuse.codegen.region_loops import ForLoop
from tapefuse.codegen.region_parallel import ParallelLoop
from tapefuse.codegen.small_bodies import PARTS, Part, Small, count, is_row, parts, root
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS
from tapefuse.ir.ops.update import target
from tapefuse.ir.types import Dim, Shape, Type


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
        self.loops = {v: InnerLoop(self, v) for v in self.small.loops}
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
            if v in self.loops:
                self.loops[v].put()
                self.loaded.clear()
            elif v.op in (OPS["result"], OPS["empty"]):
                continue  # the loops inside have them
            elif v.type.size == 1:
                self.scalars[v] = self._at(v, (ZERO,) * len(v.shape))
                self.loaded.clear()
            elif v in self.small.arrays:
                self.compute(v)

    def compute(self, v: Value) -> None:
        assert v.op is not None
        array = self.storage[v]
        assert isinstance(array, Array)
        for part in sorted(parts(v), key=lambda part: -part.count) if v.op.name in PARTS else [Part(0, count(v), ())]:
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
        self.elements(count(v), partial(self._set, array, 0, partial(self._along, v)))

    def _along(self, v: Value, i: Scalar) -> Scalar:
        return self._at(v, _index(v.shape, i))

    def _set(self, array: Array, first: int, element: Callable[[Scalar], Scalar], i: Scalar) -> None:
        self.code.store(array.buffer, (self._moved(i, first),), element(i))

    def _moved(self, i: Scalar, by: int) -> Scalar:
        return self.code.op("add", i, Num(by, INT)) if by else i

    def update(self, v: Value, memory: Mapping[Value, Storage]) -> None:
        """Write into a large array that is carried."""
        assert v.op is not None
        base, new = v.args
        storage = memory[root(base)]
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


class SmallParallelLoop(SmallLoop, ParallelLoop):
    """Its iterations may run in any order."""

    hoists = False

    def repeat(self, count: Scalar, each: Dim, step: Callable[[], None]) -> None:
        self.is_cut = self.small.updated == set(self.small.carried)
        ParallelLoop.repeat(self, count, each, step)


class InnerLoop(SmallLoop):
    """A loop in the body of another one. Its memory is made where that of the other is."""

    def __init__(self, outer: SmallLoop, token: Value):
        super().__init__(outer.planned, outer.plan, outer.group, outer.in_place, outer.strict)
        self.outer, self.code, self.token, self.name = outer, outer.code, token, outer.name
        self.args, self.attributes, self.results = token.args, token.attributes, {}
        self.small, self.graph = outer.small.loops[token], token.attributes["body"]
        self.locals, self.loops = outer.locals, {}
        self.scalars, self.loaded, self.slots = {}, {}, {}
        params = self.graph.params
        rows = [k for k, p in enumerate(params) if is_row(p) and p.type.size != 1 and k not in self.small.carried]
        types = [*self.small.types, *(params[k].type for k in rows)]
        self.memory, self.used = outer.room(sum(map(_space, types)), "small"), 0
        self.given_rows = {k: self.local(params[k].type) for k in rows}
        carried = [k for k in self.small.carried if params[k].type.size != 1]
        self.rows = {k: self.local(params[k].type) for k in carried if k not in self.small.updated}
        self.kept = {k: self._kept(params[k].type) for k in carried if k in self.small.updated}
        self.storage = {v: self.local(v.type) for v in self.small.nodes if v in self.small.arrays}
        self.copies = {v: self.local(v.type) for v in self.small.exchanged}

    def _kept(self, type: Type) -> Array:
        return self.typed(self.outer.room(type.nbytes, "kept"), type)

    def put(self) -> None:
        """Append the loop to the body around it, which has its results then."""
        code, outer, graph = self.code, self.outer, self.graph
        for k, (p, x) in enumerate(zip(graph.params, self.args, strict=True)):
            if k in self.kept:
                self.storage[p] = self.kept[k]
            elif p.type.size == 1:
                self._begin_number(k, p, outer._at(x, (ZERO,) * len(x.shape)))
            elif (row := self.rows.get(k) or self.given_rows.get(k)) is not None:
                self.storage[p] = row
                outer.elements(count(x), partial(self._set, row, 0, partial(outer._along, x)))
            else:
                self.storage[p] = outer.storage[x]
        self.emit([v for v in self.small.nodes if v in self.small.fixed])
        code.defined.add(self.attributes["index"])
        self.iterate(self.step_once, ZERO, code.dim(self.attributes["trips"]))
        for u in outer.graph.users[self.token]:
            k = u.attributes["index"]
            if k in self.slots:
                outer.storage[u] = Cell(u.type, code.read(self.slots[k]))
            else:
                outer.storage[u] = self.rows.get(k) or self.kept.get(k) or self.storage[graph.params[k]]

    def _begin_number(self, k: int, p: Value, first: Scalar) -> None:
        if k in self.small.carried:
            self.slots[k] = self.code.declare(p.dtype, first)
        else:
            self.storage[p] = Cell(p.type, first)


def _space(type: Type) -> int:
    """Bytes of memory for a small array."""
    assert isinstance(type.nbytes, int)
    return -(-type.nbytes // ALIGN) * ALIGN


def _index(shape: Shape, i: Scalar) -> tuple[Scalar, ...]:
    """The index of element i along the only axis that has several."""
    return tuple(ZERO if d == 1 else i for d in shape)


def _long(shape: Shape, index: Sequence[Scalar]) -> Scalar:
    return next((i for i, d in zip(index, shape, strict=True) if d != 1), ZERO)
