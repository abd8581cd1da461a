"""What is known of a nest of rows before it is written as loops: which values belong to which phase, and whether one
loop over all elements will do."""

from __future__ import annotations

from collections.abc import Mapping

from tapefuse.codegen.context import Context
from tapefuse.codegen.groups import Group, Schedule, domain, is_row_reduction, is_sink
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Shape


class Nest(Context):
    """The members of a group, their phases and columns. `flat`: every element is read at the reader's own index."""

    def __init__(self, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False):
        super().__init__(plan, group, in_place, strict)
        self.members = set(group.nodes)
        self.reads = {n: tuple({a.value: None for a in plan.reads[n] if a.value in self.members}) for n in group.nodes}
        self.flat = self._is_flat() and plan.choices.decide(self.question("flat"), True)
        self.phase = self._phases()
        self.needed = self._needed()

    @property
    def r(self) -> int:
        """How many axes the rows have."""
        assert self.group.rows is not None
        return self.group.rows

    def question(self, about: str) -> str:
        return f"{about} {self.plan.groups.index(self.group)}"

    def _is_flat(self) -> bool:
        """Whether all loops may be one loop over all elements: everything is read at the reader's own index."""
        shape = self.group.shape
        if self.group.rows is not None or any(is_sink(n) and n.shape for n in self.group.nodes):
            return False
        return len(shape) > 0 and all(self._is_flat_read(n) for n in self.group.nodes)

    def _is_flat_read(self, node: Value) -> bool:
        shape, stack = self.group.shape, [*node.args]
        if not (node.op.elementwise or is_sink(node)):  # type: ignore[union-attr]
            return False
        while stack:
            v = stack.pop()
            if v.type.size == 1 and v.op is not None and v in self.plan.inline and v.op.name in ("const", "dim"):
                continue
            if v in self.plan.inline:
                assert v.op is not None
                scalar = v.op.name == "broadcast" and v.args[0].shape == ()
                if not (scalar or v.op.elementwise and v.shape in (shape, ())):
                    return False
                stack.extend(v.args)
            elif v.shape not in (shape, ()):
                return False
        return True

    def inlined(self, node: Value) -> set[Value]:
        """What is computed for an element of `node` alone: functions that are inline, views and literals left out."""
        found: set[Value] = set()
        stack = list(node.args)
        while stack:
            v = stack.pop()
            if v in self.plan.inline and v not in found:
                found.add(v)
                stack.extend(v.args)
        return {v for v in found if v.op is not None and v.op.elementwise}

    def _phases(self) -> dict[Value, int]:
        phase: dict[Value, int] = {}
        for n in self.group.nodes:
            phase[n] = max((phase[m] + is_row_reduction(m) for m in self.reads[n]), default=0)
        return phase

    def _needed(self) -> set[Value]:
        needed: set[Value] = set()
        for n in reversed(self.group.nodes):
            if n in self.plan.kept or n in needed:
                needed.add(n)
                needed.update(self.reads[n])
        return needed

    def is_row_scalar(self, node: Value) -> bool:
        """One value a row: its shape is the rows' (a reduction's result, or computed from such)."""
        return (self.flat or len(node.shape) == self.r) and not is_sink(node)

    def columns(self, node: Value) -> Shape:
        return () if self.flat else domain(node)[self.r :]
