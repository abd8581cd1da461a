"""`for` and `while` regions: a loop around the kernels of the body's plan.

What is carried is a scalar in a register, or an array that each iteration updates in place, or a pair of arrays which
change their roles after each iteration. The number of iterations decides which of a pair the first value goes to, so
that the last one is written where the result is; where it is not known, the last value is copied there if it must be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tapefuse.codegen.bounds import bound
from tapefuse.codegen.code import Array, Cell, Storage
from tapefuse.codegen.context import Step
from tapefuse.codegen.costs import LONG
from tapefuse.codegen.loops import INT, ZERO, For, Let, Load, Num, Scalar, Stmt, Store, Var, dimension
from tapefuse.codegen.planned import Plan
from tapefuse.codegen.region_body import Body, Memory, constant_steps, in_memory, unwatched
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.types import Dim, symbols

ONE = Num(1, INT)


class _Pair:
    """Two arrays for what is carried: `now` is read, `after` written, then they change their roles. `home`: the one of
    the two that the result is read from, if anybody reads it."""

    def __init__(self, now: Array, after: Array, home: Array | None):
        self.now, self.after, self.home = now, after, home


class Loop(Body):
    """What both loops share. `memory`: of the body's parameters and new values."""

    def home(self, k: int) -> Array | None:
        """The memory in which somebody reads what is carried in the end."""
        return self.result(k)

    def prepare(self, addressed: set[int], graph: Graph, after: Mapping[int, Value]) -> Plan:
        """The plan of the body `graph`, which turns parameters into `after`. `addressed`: parameters that must lie in
        memory for other reasons."""
        same = [k for k, y in after.items() if y is graph.params[k]]  # never changed: read like a constant
        self.carried = [k for k in after if k not in same]
        self.constant = [*same, *(k for k in range(len(graph.params)) if k not in after)]
        params = tuple(graph.params[k] for k in (*self.constant, *self.carried))
        body = Graph(params, tuple(after[k] for k in self.carried), graph.name)
        p = self.inner("body", body, len(self.constant), [graph.params[k].type for k in self.carried])
        self.new = dict(zip(self.carried, p.graph.outs, strict=True))
        self.state = dict(zip((*self.constant, *self.carried), p.graph.params, strict=True))
        taken = in_memory(p)
        self.addressed = addressed | {k for values in (self.state, self.new) for k, v in values.items() if v in taken}
        self.slots: dict[int, Var] = {}
        self.pairs: dict[int, _Pair] = {}
        self.arrays: dict[int, Array] = {}
        self.fixed: dict[int, Storage] = {}
        for k in self.constant:
            self.fixed[k] = self.given(self.args[k], k in self.addressed)
            if k in same and (home := self.home(k)) is not None:
                self._begin(home, self.args[k])
        self.once = self.constant_steps(p)
        self.give_memory(p, self.once)
        self.run(p, self.once, {self.state[k]: storage for k, storage in self.fixed.items()})
        self.frames = [s for k in self.carried for s in self._frames(p, k)]
        return p

    def constant_steps(self, p: Plan) -> list[Step]:
        """What is done before the loop."""
        return constant_steps(p, [self.state[k] for k in self.constant], self.attributes.get("index"))

    def _frames(self, p: Plan, k: int) -> list[Step]:
        """The steps that copy what an iteration leaves as it is, where all iterations leave the same elements: once
        both arrays of the pair have them, nothing changes them any more."""
        new, state = self.new[k], self.state[k]
        if new.op is not ops.put or new.args[0] is not state or self.is_in_place(p, k):
            return []
        if self.attributes.get("index") in symbols(new.attributes["starts"]):
            return []
        return [s for s in p.steps if {q.value for q in s.places} == {state, new} and _is_copy(s.kernel.body)]

    def body(self, p: Plan, memory: Memory) -> None:
        before = (*self.once, *self.frames)
        self.run(p, [s for s in p.steps if not any(s is t for t in before)], memory)
        self.leave(p, memory)

    def is_in_place(self, p: Plan, k: int) -> bool:
        return p.in_place.get(self.new[k]) is self.state[k]

    def begin(self, p: Plan, odd: Scalar) -> None:
        """The first values of what is carried. `odd`: whether pairs change their roles an odd number of times."""
        for k in self.carried:
            if k >= len(self.args):
                continue  # it has memory of its own
            value, code = self.args[k], self.code
            if value.type.size == 1 and k not in self.addressed:
                self.slots[k] = code.declare(value.dtype, code.value(self.operand(value)))
                continue
            home = self.home(k)
            at = home or self.typed(self.scratch(value.type.nbytes, "carried"), value.type)
            if self.is_in_place(p, k):
                self.arrays[k] = at
                self._begin(at, value)
                continue
            other = self.typed(self.scratch(value.type.nbytes, "other"), value.type)
            if isinstance(odd, Num) and odd.value:
                at, other = other, at
            pair = _Pair(Array(code.buffer(value.type), code.here), Array(code.buffer(value.type), code.here), home)
            code.name_view(pair.now.buffer, at.buffer)
            code.name_view(pair.after.buffer, other.buffer)
            code.same_memory(pair.now.buffer, pair.after.buffer)
            self.pairs[k] = pair
            if isinstance(odd, Var):
                with code.when(odd):
                    self._swap(pair)
                self._begin(pair.now, value)
            else:
                self._begin(pair.now, value, at)
        self.run(p, self.frames, self.enter())

    def _begin(self, target: Array, value: Value, really: Array | None = None) -> None:
        """Copy an operand, unless it is there; `really`: the memory that `target` is another name for."""
        source = self.operand(value)
        if source not in (target, really):
            self.code.copy(target, source)

    def enter(self) -> Memory:
        """At the beginning of an iteration: where everything is."""
        memory: Memory = {self.state[k]: storage for k, storage in self.fixed.items()}
        for k, slot in self.slots.items():
            type = self.state[k].type
            memory[self.state[k]] = Cell(type, self.code.read(slot))
            memory[self.new[k]] = Cell(type)
        for k, array in self.arrays.items():
            memory[self.state[k]] = array
        here = self.code.here
        for k, pair in self.pairs.items():  # views of them are made anew in each iteration
            memory[self.state[k]], memory[self.new[k]] = Array(pair.now.buffer, here), Array(pair.after.buffer, here)
        return memory

    def leave(self, p: Plan, memory: Memory) -> None:
        """At the end of an iteration."""
        owner = {k: self.state[k] if self.is_in_place(p, k) else self.new[k] for k in self.slots}
        values = {k: self.code.value(memory[owner[k]]) for k in self.slots}
        for k, slot in self.slots.items():
            self.code.assign(slot, values[k])
        for pair in self.pairs.values():
            self._swap(pair)

    def _swap(self, pair: _Pair) -> None:
        a, b = pair.now.buffer, pair.after.buffer
        self.code.move((a, b), (b, a))

    def finish(self, odd: Scalar | None) -> None:
        """After the loop: what is read is stored. `odd`: whether pairs have changed their roles an odd number of times,
        if `begin` did not know it."""
        for k, slot in self.slots.items():
            if (home := self.home(k)) is not None:
                self.code.store(home.buffer, (ZERO,) * len(home.buffer.type.shape), self.code.read(slot))
        if odd is None:
            return
        for pair in self.pairs.values():
            if pair.home is not None:
                with self.code.when(odd):
                    self.code.copy(pair.home, Array(pair.now.buffer, self.code.here))


class ForLoop(Loop):
    def write(self) -> None:
        code, index, trips = self.code, self.attributes["index"], self.attributes["trips"]
        graph = self.attributes["body"]
        p = self.prepare(set(), graph, dict(enumerate(graph.outs)))
        count = code.op("maximum", code.dim(trips), ZERO)
        odd: Scalar = Num(int(count.value) % 2, INT) if isinstance(count, Num) else ZERO
        if isinstance(count, Var) and any(not self.is_in_place(p, k) for k in self.carried):
            odd = code.op("eq", code.op("and", count, ONE), ONE)
        self.begin(p, odd)
        each = bound(p.cost, index, trips)
        self.repeat(count, each, partial(self.once_more, p))
        self.finish(None)
        self.cost = each * trips

    def repeat(self, count: Scalar, each: Dim, step: Callable[[], None]) -> None:
        """All iterations of the loop, each of which costs `each`."""
        code, trips = self.code, self.attributes["trips"]
        code.defined.add(self.attributes["index"])
        every = unwatched(each)
        if isinstance(trips, int) and trips <= every:
            self.iterate(step, ZERO, count)
        elif every == 1:
            self.iterate(step, ZERO, count, is_watched=True)
        else:
            size = Num(every, INT)
            blocks = code.op("floordiv", code.op("add", count, Num(every - 1, INT)), size)
            with code.loop(code.fresh("i", INT, code.here + 1), ZERO, blocks) as block:
                start = code.op("mul", block, size)
                self.iterate(step, start, code.op("minimum", count, code.op("add", start, size)))
                self.poll()

    def once_more(self, p: Plan) -> None:
        self.body(p, self.enter())

    def iterate(self, step: Callable[[], None], start: Scalar, stop: Scalar, is_watched: bool = False) -> None:
        with self.code.loop(dimension(self.attributes["index"]), start, stop, self.attributes["trips"]):
            step()
            if is_watched:
                self.poll()


class WhileLoop(Loop):
    def write(self) -> None:
        graph = self.attributes["body"]
        done = self.repeat(graph, dict(enumerate(graph.outs)))
        if (home := self.result(self.attributes["carried"])) is not None:
            self.code.store(home.buffer, (), done)

    def repeat(self, graph: Graph, after: Mapping[int, Value]) -> Scalar:
        """The loop, and how many iterations it had."""
        code, test = self.code, self.attributes["cond"]
        cond = self.inner("condition", test, len(test.params))
        self.give_memory(cond)
        addressed = in_memory(cond)
        p = self.prepare({k for k, v in enumerate(cond.graph.params) if v in addressed}, graph, after)
        self.begin(p, ZERO)
        (decision,) = cond.outputs
        decided: Storage = Cell(decision.type)
        if decision in addressed:
            decided = self.typed(self.scratch(decision.type.nbytes, "condition"), decision.type)
        self.n = n = code.declare(INT, ZERO)
        with code.repeat() as loop:
            memory = self.enter()
            mine = {v: memory[self.state[k]] for k, v in enumerate(cond.graph.params)}
            self.run(cond, cond.steps, {**mine, decision: decided})
            loop.test(code.value(decided))
            self.body(p, memory)
            k = code.read(n)
            code.assign(n, code.op("add", k, ONE))
            last = Num(unwatched(p.cost + cond.cost) - 1, INT)
            with code.when(code.op("eq", code.op("and", k, last), last)):
                self.poll()
        done = code.read(n)
        self.finish(code.op("eq", code.op("and", done, ONE), ONE))
        self.cost = p.cost + LONG
        return done


def _is_copy(body: Sequence[Stmt]) -> bool:
    """Whether statements do nothing but store elements at the index from which they are loaded."""
    loaded = {s.dst: s.index for s in body if isinstance(s, Load)}
    return all(
        _is_copy(s.body)
        if isinstance(s, For)
        else isinstance(s, Load | Let) or isinstance(s, Store) and loaded.get(s.value) == s.index  # type: ignore[arg-type]
        for s in body
    )
