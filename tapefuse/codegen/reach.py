"""Which rows of its buffers a kernel reads and writes to compute a row.

    for i0 in lo..hi:                        reads  b0: i0 .. i0 + 2
      for i1 in 0..698:                      writes b1: i0 + 1
        t2 = add i0 2
        t3 = load b0[t2,i1]
        store b1[i0 + 1,i1] = ...
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from tapefuse._records import dataclass
from tapefuse.codegen.loops import (
    HI,
    LO,
    ZERO,
    Buffer,
    Declare,
    For,
    If,
    Kernel,
    Let,
    Load,
    Num,
    Scalar,
    Stmt,
    Store,
    Update,
    Var,
    bodies,
)
from tapefuse.codegen.loops_walk import readers, walk

Offset = tuple[int, Scalar | None]  # of an index from a row, and a condition where that is so; without one, everywhere


@dataclass(frozen=True, slots=True)
class Reach:
    """Of row r, rows r + low .. r + high along an axis of a buffer; `axis` is None if it may be any elements."""

    is_written: bool
    axis: int | None = None
    low: int = 0
    high: int = 0

    def apart(self, other: Reach) -> int:
        """How far apart two rows of kernels may be that touch the same row of a buffer."""
        return max(self.high - other.low, other.high - self.low)

    def joined(self, other: Reach) -> Reach:
        is_written = self.is_written or other.is_written
        if self.axis != other.axis:
            return Reach(is_written)
        return Reach(is_written, self.axis, min(self.low, other.low), max(self.high, other.high))


def reaches(kernel: Kernel) -> dict[Buffer, Reach] | None:
    """By buffer what a row touches; None for a kernel that does not go through rows lo..hi, or does more than to load
    and store."""
    found: dict[Buffer, Reach] = {}
    scope = _Scope(kernel.body, found)
    rows = [s for s in kernel.body if not isinstance(s, Let)]
    if not all(isinstance(s, For) and scope.is_past(s.start, LO, HI) and scope.is_past(s.stop, HI, LO) for s in rows):
        return None
    known = [_Scope(s.body, found, scope, {s.var: (0, None)}).examine() for s in rows if isinstance(s, For)]
    return found if all(known) else None


class _Scope:
    """Statements of a loop or branch. Where a loop was cut into several, these use the same names."""

    def __init__(
        self,
        body: tuple[Stmt, ...],
        touched: dict[Buffer, Reach],
        outer: _Scope | None = None,
        offsets: Mapping[Scalar, Offset] | None = None,
    ):
        self.body, self.touched, self.outer = body, touched, outer
        self.lets = {s.dst: s for s in body if isinstance(s, Let)}
        self.offsets: dict[Scalar, Offset] = dict(offsets or {})

    @cached_property
    def readers(self) -> dict[Scalar, list[Var | None]]:
        return readers(walk(self.body))

    def let(self, x: Scalar | None) -> Let | None:
        found = self.lets.get(x) if isinstance(x, Var) else None
        return self.outer.let(x) if found is None and self.outer is not None else found

    def is_past(self, x: Scalar, bound: Var, other: Var) -> bool:
        """Whether a number is not below `lo`, if that is the bound, or not above `hi`."""
        let = self.let(x)
        if let is None:
            return x in (bound, other)
        inward, outward = ("maximum", "minimum") if bound == LO else ("minimum", "maximum")
        sides = [self.is_past(y, bound, other) for y in let.args]
        return any(sides) if let.op == inward else all(sides) if let.op == outward else False

    def examine(self) -> bool:
        """Take note of what is loaded and stored; whether that is all."""
        return all(self._examine(s) for s in self.body)

    def _examine(self, s: Stmt) -> bool:
        match s:
            case Let(dst, op, args):
                self._define(dst, self._offset(op, args))
            case Load(dst, buffer, index):
                self._touch(buffer, index, dst)
                self._define(dst, None)
            case Store(buffer, index, _):
                self._touch(buffer, index, None)
            case For() | If():
                known = {x: offset for x, offset in self.offsets.items() if not isinstance(s, For) or x != s.var}
                return all(_Scope(body, self.touched, self, known).examine() for body in bodies(s))
        return isinstance(s, Let | Load | Store | Declare | Update)

    def _define(self, x: Var, offset: Offset | None) -> None:
        """A scalar has a new meaning."""
        self.offsets.pop(x, None)
        if offset is not None:
            self.offsets[x] = offset

    def _offset(self, op: str, args: tuple[Scalar, ...]) -> Offset | None:
        if op == "select" and args[2] == ZERO and args[1] in self.offsets:
            shift, condition = self.offsets[args[1]]
            return (shift, args[0]) if condition is None else None
        if op not in ("add", "sub") or args[0] not in self.offsets or not isinstance(args[1], Num):
            return None
        shift, condition = self.offsets[args[0]]
        return int(shift + args[1].value if op == "add" else shift - args[1].value), condition

    def _touch(self, buffer: Buffer, index: tuple[Scalar, ...], loaded: Var | None) -> None:
        at = [(axis, *self.offsets[x]) for axis, x in enumerate(index) if x in self.offsets]
        here = Reach(loaded is None)
        if len(at) == 1:
            ((axis, shift, condition),) = at
            if condition is None or loaded is not None and self._is_dropped(loaded, condition):
                here = Reach(loaded is None, axis, shift, shift)
        self.touched[buffer] = self.touched.get(buffer, here).joined(here)

    def _is_dropped(self, x: Scalar, condition: Scalar) -> bool:
        """Whether nothing depends on a scalar of this scope where a condition does not hold."""
        for y in self.readers[x]:
            let = self.lets.get(y) if y is not None else None
            if let is None:
                return False
            is_chosen = let.op == "select" and let.args[1] == x != let.args[2] and self._implies(let.args[0], condition)
            if not is_chosen and not self._is_dropped(let.dst, condition):
                return False
        return True

    def _implies(self, x: Scalar, condition: Scalar) -> bool:
        let = self.let(x)
        both = let.args if let is not None and let.op == "and" else ()
        return x == condition or any(self._implies(y, condition) for y in both)
