"""`cond` and `switch` in a trace: every branch is traced, and all have results of the same types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tapefuse._errors import DTypeError, ShapeError
from tapefuse._tree import unflatten
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.tracer.control_arguments import Names, labels_of
from tapefuse.tracer.control_kinds import Kind, adapts, copies, rank, with_kinds
from tapefuse.tracer.control_parts import Outside, Part, traced_part
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor


def _and_true(f: Callable, *operands: Any) -> tuple[Any, bool]:
    return f(*operands), True


class Branches:
    """Functions of which one is run, traced."""

    def __init__(self, call: str, fns: tuple[Callable, ...], labels: tuple[str, ...], operands: tuple, names: Names):
        self._call = f"{call} at {user_loc()}"
        self._fns = fns
        self._labels = labels
        self._operands = operands
        self._names = names
        self._place = f"branch of {call}"

    def staged(self, index: Tensor) -> Any:
        parts = self._traced(())
        self._check_structures(parts)
        if not parts[0].n and any(p.effects for p in parts):  # a result that the effects can be tied to
            self._fns = tuple([partial(_and_true, f) for f in self._fns])
            self.staged(index)
            return unflatten(parts[0].tree, [])
        wanted = [self._agreed(k, parts) for k in range(parts[0].n)]
        if any(p.kinds != wanted for p in parts):
            parts = self._traced(wanted)
        outside = Outside(parts)
        attrs = {"branches": tuple(outside.graph(p) for p in parts)}
        ys = region.apply(OPS["switch"], (index, *outside.operands()), attrs)
        outside.assign(ys[parts[0].n :])
        return unflatten(parts[0].tree, with_kinds(ys, wanted))

    def _traced(self, wanted: Sequence[Kind]) -> list[Part]:
        def run(f: Callable) -> Callable[[list[Tensor]], Any]:
            return lambda _: f(*copies(self._operands))

        return [traced_part(f, run(f), (), self._place, wanted) for f in self._fns]

    def _check_structures(self, parts: Sequence[Part]) -> None:
        for k, p in enumerate(parts):
            if p.tree != parts[0].tree:
                raise ValueError(
                    f"{self._call}: {self._labels[0]} ({parts[0].where}) returns {parts[0].tree}, {self._labels[k]} "
                    f"({p.where}) returns {p.tree}; every branch must return the same structure"
                )

    def _agreed(self, k: int, parts: Sequence[Part]) -> Kind:
        """What result `k` is in every branch. Raises DTypeError, ShapeError."""
        kinds = [p.kinds[k] for p in parts]
        best = max(range(len(parts)), key=lambda b: rank(kinds[b]))
        for b, p in enumerate(parts):
            if p.type(k).shape != parts[best].type(k).shape:
                raise ShapeError(self._differ(k, parts, best, b, "reshape or broadcast one of them"))
            if not adapts(kinds[b], kinds[best]):
                cure = f"convert one of them, as with tp.cast(x, tp.{kinds[best].dtype})"
                raise DTypeError(self._differ(k, parts, best, b, cure))
        return kinds[best]

    def _type(self, part: Part, k: int) -> str:
        return f"a number ({part.type(k)})" if part.kinds[k].weak else str(part.type(k))

    def _differ(self, k: int, parts: Sequence[Part], a: int, b: int, cure: str) -> str:
        label = labels_of(unflatten(parts[0].tree, range(parts[0].n)), self._names, "the result")[k]
        a, b = sorted((a, b))
        found = (f"{self._type(parts[j], k)} in {self._labels[j]} ({parts[j].made(k)})" for j in (a, b))
        return f"{self._call}: {label} is {' and '.join(found)}; every branch must give the same type: {cure}"
