"""`for` regions whose iterations may run in any order: as rows of a kernel, which is cut into pieces like others.

    kernel k5_begin(...) rows 1                 # what is there before the loop: first values, a status
    kernel k5(...) rows 4                       # in 4 pieces at most
      t0 = mul chunk 4096
      m1 = view b3 from t0 : u8[4096]           # memory that a piece has for itself
      for dim.strip_0 in lo..hi:
        ...

What is carried is written in place, by each iteration in another part. Nothing inside is cut again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tapefuse.codegen.code import Array
from tapefuse.codegen.context import Step
from tapefuse.codegen.costs import CHUNKS
from tapefuse.codegen.loops import CHUNK, HI, LO, ZERO, For, Let, Load, Num, Scalar, Stmt, View, dimension
from tapefuse.codegen.memory import ALIGN
from tapefuse.codegen.planned import Plan
from tapefuse.codegen.region_body import BYTE
from tapefuse.codegen.region_loops import INT, ForLoop
from tapefuse.ir.types import Dim, Type

PURE = (Let, Load, View)  # statements that do not change memory


class ParallelLoop(ForLoop):
    """Its number of iterations is known."""

    @property
    def is_serial(self) -> bool:
        return True

    @property
    def chunks(self) -> int:
        """How many pieces there are at most."""
        return min(self.attributes["trips"], CHUNKS)

    def begin(self, p: Plan, odd: Scalar) -> None:
        super().begin(p, odd)
        self.is_cut = not self.slots and all(self.is_in_place(p, k) for k in self.carried)

    def repeat(self, count: Scalar, each: Dim, step: Callable[[], None]) -> None:
        self.code.defined.add(self.attributes["index"])
        self.iterate(step, LO, HI) if self.is_cut else self.iterate(step, ZERO, count)

    def constant_steps(self, p: Plan) -> list[Step]:
        return []  # pieces have their own memory for what is kept

    def room(self, nbytes: Dim, kind: str) -> Array:
        """Memory of a piece's own."""
        assert isinstance(nbytes, int), "strips have a size that is known"
        each = -(-nbytes // ALIGN) * ALIGN
        buffer = self.code.buffer(Type(BYTE, (nbytes,)))
        first = self.code.op("mul", CHUNK, Num(each, INT))
        self.code.name_view(buffer, self.scratch(each * self.chunks, kind).buffer, first)
        return self.code.made(buffer)

    def build(self, name: str) -> list[Step]:
        (step,) = super().build(name)
        if not self.is_cut:
            return [step]
        before = tuple(s for s in step.kernel.body if not self._is_loop(s))
        pieces = tuple(s for s in step.kernel.body if self._is_loop(s) or isinstance(s, PURE))
        first = replace(step.kernel, name=f"{name}_begin", body=before, cost=0, title="begin")
        rows = replace(step.kernel, body=pieces, rows=self.attributes["trips"])
        begin = replace(step, kernel=first, status=None, inside=())
        return [begin, replace(step, kernel=rows, chunks=self.chunks)]

    def _is_loop(self, s: Stmt) -> bool:
        return isinstance(s, For) and s.var == dimension(self.attributes["index"])
