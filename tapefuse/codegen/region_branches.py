"""`switch` and `sized` regions: the kernels of a branch's plan under a condition, or of a body whose size is known."""

from __future__ import annotations

from tapefuse.codegen.carried import continued
from tapefuse.codegen.code import Array, Cell, Storage
from tapefuse.codegen.costs import LONG
from tapefuse.codegen.loops import INT, ZERO, Free, If, Num, Scalar, Stmt, Var
from tapefuse.codegen.planned import Plan
from tapefuse.codegen.region_body import Body, Memory, in_memory
from tapefuse.ir.graph import Graph, Value


class _Branch:
    """A graph that computes the results that are read. `states`: of those written over an operand, which one."""

    def __init__(self, p: Plan, params: dict[int, Value], outs: dict[int, Value], states: dict[int, int]):
        self.p, self.params, self.outs, self.states = p, params, outs, states
        self.addressed = in_memory(p)
        self.spare: dict[int, Array] = {}  # new values of states that are not written in place


class _Branches(Body):
    """What `switch` and `sized` share: operands after the first one, results that one branch or other writes."""

    def branch(self, title: str, graph: Graph) -> _Branch:
        over = {m: k for m, k in self.over.items() if graph.outs[m] is not graph.params[k]}
        inputs = [k for k in range(len(graph.params)) if k not in over.values()]
        fresh = [m for m in self.results if m not in self.over]
        params = [*inputs, *over.values()]
        inner = Graph(tuple(graph.params[k] for k in params), tuple(graph.outs[m] for m in (*fresh, *over)), graph.name)
        p = self.inner(title, inner, len(inputs), [graph.params[k].type for k in over.values()])
        found = _Branch(
            p,
            dict(zip(params, p.graph.params, strict=False)),
            dict(zip((*fresh, *over), p.graph.outs, strict=True)),
            over,
        )
        self.give_memory(p)
        for m, k in over.items():
            if p.in_place.get(found.outs[m]) is not found.params[k]:
                type = found.outs[m].type
                found.spare[m] = self.typed(self.room(type.nbytes, "new"), type)
        return found

    def find_overwritten(self) -> None:
        """Results in the memory of an operand: number of the result -> number of the operand."""
        self.over: dict[int, int] = {}
        for m, node in self.results.items():
            base = continued(node)
            if base is not None and self.place(base) == self.place(node):
                self.over[m] = self.args[1:].index(base)

    def begin(self, branches: list[_Branch]) -> None:
        """The memory of operands, and the slots of results of one element."""
        for m, k in self.over.items():
            assert self.result(m) == self.operand(self.args[1 + k])
        self.operands: dict[int, Storage] = {}
        for k, value in enumerate(self.args[1:]):
            wanted = any(b.params[k] in b.addressed for b in branches) or k in self.over.values()
            self.operands[k] = self.given(value, wanted)
        self.slots: dict[int, Var] = {}
        for m, node in self.results.items():
            if m not in self.over and node.type.size == 1 and not any(b.outs[m] in b.addressed for b in branches):
                self.slots[m] = self.code.declare(node.dtype, self.code.number(0, node.dtype))

    def take(self, b: _Branch) -> None:
        """Run a branch."""
        memory: Memory = {value: self.operands[k] for k, value in b.params.items()}
        for m, out in b.outs.items():
            if m in self.slots:
                memory[out] = Cell(out.type)
            elif m in b.spare:
                memory[out] = b.spare[m]
            elif m not in self.over:
                memory[out] = self.found(m)
        self.run(b.p, b.p.steps, memory)
        for m, slot in self.slots.items():
            self.code.assign(slot, self.code.value(memory[b.outs[m]]))
        for m, array in b.spare.items():
            self.code.copy(self.found(m), array)

    def found(self, m: int) -> Array:
        array = self.result(m)
        assert array is not None
        return array

    def finish(self) -> None:
        for m, slot in self.slots.items():
            buffer = self.found(m).buffer
            self.code.store(buffer, (ZERO,) * len(buffer.type.shape), self.code.read(slot))


class Switch(_Branches):
    def write(self) -> None:
        self.find_overwritten()
        branches = [self.branch(f"branch {k}", g) for k, g in enumerate(self.attributes["branches"])]
        index = self.code.value(self.operand(self.args[0]))
        self.begin(branches)
        self._choose(index, 0, branches)
        self.finish()
        self.cost = sum((b.p.cost for b in branches), start=0)

    def _choose(self, index: Scalar, k: int, branches: list[_Branch]) -> None:
        if k == len(branches) - 1:
            return self.take(branches[k])
        parts: list[tuple[Stmt, ...]] = []
        condition = self.code.op("le", index, Num(k, INT))
        with self.code.scope(parts):
            self.take(branches[k])
        with self.code.scope(parts):
            self._choose(index, k + 1, branches)
        self.code.append(If(condition, *parts))


class Sized(_Branches):
    def write(self) -> None:
        code = self.code
        self.find_overwritten()
        n = code.value(self.operand(self.args[0]))
        code.define(self.attributes["symbol"], "maximum", n, ZERO)
        b = self.branch("body", self.attributes["body"])
        self.begin([b])
        self.take(b)
        for buffer in self.allocated:
            code.append(Free(buffer))
        self.finish()
        self.cost = LONG
