"""`recording` regions: a loop that ends when it ends, and rows of it in memory that grows while it runs.

    s0 = allocate a few rows                  # of each stack
    while ...:
      if k == room: s0 = twice the room       # what is there is kept
      the body, which writes row k of s0
    the kernels of what follows, on stacks of k rows
    free s0
"""

from __future__ import annotations

from functools import cached_property

from tapefuse.codegen.code import Array, Cell, Storage
from tapefuse.codegen.loops import INT, ZERO, Allocate, Buffer, Free, Grow, Num, Scalar
from tapefuse.codegen.planned import Plan
from tapefuse.codegen.region_body import BYTE, Memory, in_memory
from tapefuse.codegen.region_loops import WhileLoop
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Dim, Poly, Type, size

FIRST_ROOM = 32  # rows


class Recording(WhileLoop):
    """The stacks are parameters of the body that follow those it has, and their memory the loop's own."""

    def write(self) -> None:
        body, code = self.attributes["body"], self.code
        self.row, self.room_for = (f"{self.attributes['symbol']}_{name}" for name in ("row", "room"))
        self.stacks = self._stacks(body)
        self.capacity = code.declare(INT, Num(FIRST_ROOM, INT))
        self.memory = [self._allocated(stack) for stack in self.stacks]
        n, after = len(body.params), dict(enumerate(body.outs[: self.attributes["carries"]]))
        after |= {n + k: y for k, y in enumerate(self._written(body))}
        done = self.repeat(Graph((*body.params, *self.stacks), tuple(after.values()), body.name), after)
        code.define(self.attributes["symbol"], "maximum", done, ZERO)
        self._follow()
        for buffer in (*self.memory, *self.allocated):
            code.append(Free(buffer))

    def home(self, k: int) -> Array | None:
        return None  # what is carried in the end is read by what follows

    # -- stacks --------------------------------------------------------------------------------------------------------
    @cached_property
    def starts(self) -> list[int]:
        """Of each stack, the number of rows that it begins with."""
        return [int(k >= 0) for k in self.attributes["first"]]

    def _stacks(self, body: Graph) -> list[Value]:
        rows, room = body.outs[self.attributes["carries"] :], Poly.symbol(self.room_for)
        types = [Type(y.dtype, (room + start, *y.shape[1:])) for y, start in zip(rows, self.starts, strict=True)]
        return [param(t, f"stack{k}") for k, t in enumerate(types)]

    def _written(self, body: Graph) -> list[Value]:
        """The stacks with the rows of an iteration."""
        rows, at = body.outs[self.attributes["carries"] :], Poly.symbol(self.row)
        found = []
        for stack, y, start in zip(self.stacks, rows, self.starts, strict=True):
            starts, strides = (at + start, *[0] * (len(y.shape) - 1)), (1,) * len(y.shape)
            found.append(OPS["put"].emit(stack, y, starts=starts, strides=strides))
        return found

    def _bytes(self, stack: Value, room: Scalar) -> Scalar:
        code, start = self.code, self.starts[self.stacks.index(stack)]
        return code.op("mul", code.op("add", room, Num(start, INT)), code.dim(self._row_bytes(stack)))

    def _row_bytes(self, stack: Value) -> Dim:
        return size(stack.shape[1:]) * stack.dtype.itemsize

    def _allocated(self, stack: Value) -> Buffer:
        k = self.stacks.index(stack)
        nbytes = (FIRST_ROOM + self.starts[k]) * self._row_bytes(stack)
        buffer = self.code.buffer(Type(BYTE, (nbytes,)))
        self.code.append(Allocate(buffer, self._size(nbytes), self.own_status()))
        array = self.code.made(buffer)
        if (first := self.attributes["first"][k]) >= 0:
            value = self.args[first]
            self.code.copy(self.typed(array, value.type), self.operand(value))
        return buffer

    def body(self, p: Plan, memory: Memory) -> None:
        code, k = self.code, self.code.read(self.n)
        with code.when(code.op("eq", k, code.read(self.capacity))):
            self._grow(k)
        code.define(self.row, "maximum", k, ZERO)
        code.define(self.room_for, "maximum", code.read(self.capacity), ZERO)
        first = len(self.state) - len(self.stacks)
        for j, (stack, buffer) in enumerate(zip(self.stacks, self.memory, strict=True), first):
            assert self.is_in_place(p, j), "rows are written into their stack"
            memory[self.state[j]] = self.typed(Array(buffer, code.here), stack.type)
        super().body(p, memory)

    def _grow(self, room: Scalar) -> None:
        code = self.code
        more = code.op("mul", room, Num(2, INT))
        for stack, buffer in zip(self.stacks, self.memory, strict=True):
            code.append(Grow(buffer, self._bytes(stack, room), self._bytes(stack, more), self.own_status()))
        code.assign(self.capacity, more)

    # -- what follows --------------------------------------------------------------------------------------------------
    def _follow(self) -> None:
        graph, numbers = self.attributes["then"], [*self.results]
        read = Graph(graph.params, tuple(graph.outs[k] for k in numbers), graph.name)
        p = self.inner("then", read, len(graph.params))
        self.give_memory(p)
        addressed, m = in_memory(p), len(self.stacks)
        memory: Memory = {}
        for v, buffer in zip(p.graph.params[:m], self.memory, strict=False):
            memory[v] = self.typed(Array(buffer), v.type)
        for k, v in enumerate(p.graph.params[m:]):
            memory[v] = self._last(k, v in addressed)
        for number, v in zip(numbers, p.graph.outs, strict=True):
            memory[v] = Cell(v.type) if v.type.size == 1 and v not in addressed else self._found(number)
        self.run(p, p.steps, memory)
        for number, v in zip(numbers, p.graph.outs, strict=True):
            if isinstance(cell := memory[v], Cell):
                buffer = self._found(number).buffer
                self.code.store(buffer, (ZERO,) * len(buffer.type.shape), self.code.get(cell))

    def _last(self, k: int, is_addressed: bool) -> Storage:
        """An operand, or what has become of it."""
        code, value = self.code, self.args[k]
        if k in self.arrays:
            return self.arrays[k]
        if k in self.pairs:
            return Array(self.pairs[k].now.buffer, code.here)
        found: Storage = Cell(value.type, code.read(self.slots[k])) if k in self.slots else self.fixed[k]
        if isinstance(found, Cell) and is_addressed:
            array = self.typed(self.scratch(value.type.nbytes, "last"), value.type)
            code.copy(array, found)
            return array
        return found

    def _found(self, number: int) -> Array:
        array = self.result(number)
        assert array is not None
        return array
