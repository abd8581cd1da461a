"""Kernels that only copy an array with its axes in another order: squares of elements change places in registers.

The axis whose elements lie next to each other in the operand and the last axis of the result are the plane of the
squares; the axes that are left are loops around it.
"""

from __future__ import annotations

from contextlib import ExitStack

from tapefuse.codegen.context import Context, Step
from tapefuse.codegen.costs import CHUNKS, GRAIN, TRANSFER
from tapefuse.codegen.groups import Group, Schedule
from tapefuse.codegen.loops import HI, LO, ZERO, Scalar, Transpose
from tapefuse.codegen.views import View, row_major, view
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim


def is_transposed_copy(plan: Schedule, group: Group) -> bool:
    """Whether a group is such a kernel."""
    return all(_is_copied(plan, node) for node in group.nodes)


def _is_copied(plan: Schedule, node: Value) -> bool:
    if node.op is None or node.op.name != "transpose" or node not in plan.kept:
        return False
    return node.dtype.kind == "f" and node.dtype.itemsize in (4, 8) and _plane(plan, node) is not None


def _plane(plan: Schedule, node: Value) -> int | None:
    """The axis along which the operand's elements lie next to each other, if it is not the last."""
    found = _seen(plan, node)
    if found is None or not found.steps or found.steps[-1] == 1:
        return None
    axes = [k for k, s in enumerate(found.steps[:-1]) if s == 1 and node.shape[k] != 1]
    return axes[-1] if axes else None


def _seen(plan: Schedule, node: Value) -> View | None:
    """The node as a view of what its kernel reads; None if that has to be computed."""
    if len(plan.reads[node]) == 1:
        (access,) = plan.reads[node]
        for found in (view(node), _one_step(node)):
            if found.base not in plan.inline and plan.base(found.base) is plan.base(access.value):
                return found
    return None


def _one_step(node: Value) -> View:
    operand = node.args[0]
    steps = row_major(operand.shape)
    return View(operand, 0, tuple(steps[axis] for axis in node.attributes["perm"]))


class TransposedCopy(Context):
    """Lowers one."""

    def build(self, name: str) -> list[Step]:
        for node in self.group.nodes:
            self._copy(node)
        cost: Dim = sum((2 * TRANSFER * n.type.size for n in self.group.nodes), start=0)
        chunks = 1 if isinstance(cost, int) and cost < 2 * GRAIN else CHUNKS
        return [self.step(name, self.group.shape[0], cost, chunks)]

    def _copy(self, node: Value) -> None:
        found, plane, b = _seen(self.plan, node), _plane(self.plan, node), self.b
        assert plane is not None and found is not None
        index: list[Scalar] = [ZERO] * len(node.shape)
        place = self.place(node)
        self.written.add(place)
        with ExitStack() as nest:
            for k, n in enumerate(node.shape[:-1]):
                if k != plane:
                    index[k] = nest.enter_context(b.loop(ZERO, b.dim(n)) if k else b.loop(LO, HI))
            first, rows = (ZERO, b.dim(node.shape[plane])) if plane else (LO, b.op("sub", HI, LO))
            index[plane] = first
            sizes = (rows, b.dim(node.shape[-1]), b.dim(row_major(node.shape)[plane]), b.dim(found.steps[-1]))
            x, y = self.buffer(self.place(found.base)), self.buffer(place)
            b.append(Transpose(y, x, tuple(index), found.element(b, index), *sizes))
