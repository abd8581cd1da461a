"""Operands of vector loops, and how they come from and go to memory: whole vectors, under masks, from neighbours that
are loaded already, or element by element."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.llvm_instructions import memory_type, register_type
from tapefuse.codegen.llvm_loop_shapes import Shape, address_step
from tapefuse.codegen.llvm_masks import Zeroed
from tapefuse.codegen.llvm_neighbours import Neighbours
from tapefuse.codegen.llvm_regions import RegionWriter
from tapefuse.codegen.loops import Buffer, For, Let, Load, Num, Scalar, Store, Var
from tapefuse.ir.types import size


@dataclass(frozen=True)
class _Choice:
    """An index that is `inside`, `inside + slope`, ... in lanes where the condition holds, `outside` in the others."""

    condition: Scalar
    inside: str
    outside: str
    slope: int


class VectorMemory:
    """What is known while one loop is printed with vectors, and its loads and stores."""

    condition: str | None  # which lanes are iterations, in a copy of the body; None: all

    def __init__(self, w: RegionWriter, s: For, shape: Shape):
        self.w, self.s, self.slopes, self.lanes = w, s, shape.slopes, shape.width
        self.vectors: dict[Scalar, str] = {}  # vector form of uniform scalars: valid in the whole loop
        self.local: dict[Scalar, str] = {}  # vector form of varying scalars: valid in one copy of the body
        self.chosen: dict[Scalar, _Choice] = {}  # indices that are affine where a condition holds, else fixed
        self.bases: dict[tuple[Buffer, tuple[Scalar, ...]], str] = {}
        self.neighbours = Neighbours(s, shape)
        self.zeroed = Zeroed(s, shape.slopes)

    # -- addresses -------------------------------------------------------------------------------
    def base(self, buffer: Buffer, index: tuple[Scalar, ...]) -> None:
        """The part of an address that does not vary."""
        if (buffer, index) not in self.bases:
            fixed = [None if i in self.slopes else i for i in index]
            self.bases[buffer, index] = self.w.address(buffer, fixed)

    def choose(self, t: Let) -> None:
        """Follow indices such as `select inside i-1 0`, which stay consecutive where it matters."""
        w, known = self.w, self.chosen
        if t.op == "select" and t.args[2] not in self.slopes and (slope := self.slope(t.args[1])) is not None:
            known[t.dst] = _Choice(t.args[0], w.use(t.args[1]), w.use(t.args[2]), slope)
        elif t.op in ("add", "sub") and t.args[0] in known and t.args[1] not in self.slopes:
            old, more = known[t.args[0]], w.use(t.args[1])
            inside, outside = (w.new(f"{t.op} i64 {x}, {more}") for x in (old.inside, old.outside))
            known[t.dst] = _Choice(old.condition, inside, outside, old.slope)

    def slope(self, x: Scalar) -> int | None:
        return self.slopes.get(x) if isinstance(x, Var) else None

    # -- loads and stores ------------------------------------------------------------------------------
    def reversed(self, value: str, v: str) -> str:
        return self.shuffled(value, "poison", v, range(self.lanes - 1, -1, -1))

    def backwards(self, t: Load | Store, memory: str) -> tuple[str, str]:
        """Where the lanes begin whose elements lie one before the other, and the mask in the order of memory."""
        first = self.w.new(f"getelementptr {memory}, ptr {self.address(t)}, i64 {1 - self.lanes}")
        return first, self.reversed(self.condition, self.bits) if self.condition is not None else "splat (i1 true)"

    def load(self, t: Load) -> str:
        w, memory = self.w, memory_type(t.dst.dtype)
        step = address_step(t.buffer, t.index, self.slopes)
        v, align = f"<{self.lanes} x {memory}>", _align(t.dst.dtype)
        if t.dst in self.zeroed.loads:
            return self.masked_load(t, v, memory, align)
        if (shifted := self.neighbours.load(self, t)) is not None:
            return shifted
        if step == 1 and self.condition is None:
            value = w.new(f"load {v}, ptr {self.address(t)}, align {align}")
        elif step == 1:
            f = w.needs.intrinsic(f"llvm.masked.load.{self.suffix(memory)}.p0", v, "ptr", "i32", self.bits, v)
            mask = f"{self.bits} {self.condition}"
            value = w.new(f"call {v} {f}(ptr {self.address(t)}, i32 {align}, {mask}, {v} zeroinitializer)")
        elif step == -1:
            f = w.needs.intrinsic(f"llvm.masked.load.{self.suffix(memory)}.p0", v, "ptr", "i32", self.bits, v)
            first, mask = self.backwards(t, memory)
            there = w.new(f"call {v} {f}(ptr {first}, i32 {align}, {self.bits} {mask}, {v} zeroinitializer)")
            value = self.reversed(there, v)
        elif (varying := [i for i in t.index if i in self.slopes]) and all(self.chosen.get(i) for i in varying):
            value = self.chosen_load(t, v, memory, align) or self.gather(t, v, memory, align)
        else:
            value = self.gather(t, v, memory, align)
        return w.new(f"icmp ne {v} {value}, zeroinitializer") if t.dst.dtype.kind == "b" else value

    def masked_load(self, t: Load, v: str, memory: str, align: int) -> str:
        """Consecutive elements in the lanes where a condition holds, zeros in the others."""
        w, mask = self.w, self.vector(self.zeroed.loads[t.dst])
        if self.condition is not None:
            mask = w.new(f"and {self.bits} {mask}, {self.condition}")
        chosen = [self.chosen[i] for i in t.index if i in self.chosen]
        place = self.address(t) if not chosen else w.new(
            f"getelementptr {memory}, ptr {self.bases[t.buffer, t.index]}, i64 {chosen[0].inside}"
        )
        f = w.needs.intrinsic(f"llvm.masked.load.{self.suffix(memory)}.p0", v, "ptr", "i32", self.bits, v)
        return w.new(f"call {v} {f}(ptr {place}, i32 {align}, {self.bits} {mask}, {v} zeroinitializer)")

    def chosen_load(self, t: Load, v: str, memory: str, align: int) -> str | None:
        """Consecutive elements under the condition of the only varying index, the fixed one in the other lanes."""
        w, axes = self.w, [k for k, i in enumerate(t.index) if i in self.slopes]
        choice = self.chosen[t.index[axes[0]]]
        if len(axes) > 1 or choice.slope != 1 or size(t.buffer.type.shape[axes[0] + 1 :]) != 1:
            return None
        base = self.bases[t.buffer, t.index]
        inside = w.new(f"getelementptr {memory}, ptr {base}, i64 {choice.inside}")
        outside = w.new(f"getelementptr {memory}, ptr {base}, i64 {choice.outside}")
        mask = self.vector(choice.condition)
        if self.condition is not None:
            mask = w.new(f"and {self.bits} {mask}, {self.condition}")
        fixed = self.splat(w.new(f"load {memory}, ptr {outside}"), memory)
        f = w.needs.intrinsic(f"llvm.masked.load.{self.suffix(memory)}.p0", v, "ptr", "i32", self.bits, v)
        return w.new(f"call {v} {f}(ptr {inside}, i32 {align}, {self.bits} {mask}, {v} {fixed})")

    def gather(self, t: Load, v: str, memory: str, align: int) -> str:
        w, p = self.w, f"<{self.lanes} x ptr>"
        linear: str | None = None
        wide = f"<{self.lanes} x i64>"
        for axis, i in enumerate(t.index):
            if i not in self.slopes:
                continue
            stride = size(t.buffer.type.shape[axis + 1 :])
            term = self.vector(i)
            if stride != 1:
                term = w.new(f"mul {wide} {term}, {self.splat(w.dim(stride), 'i64')}")
            linear = term if linear is None else w.new(f"add {wide} {linear}, {term}")
        if linear is None:
            linear = "zeroinitializer"
        at = w.new(f"getelementptr {memory}, ptr {self.bases[t.buffer, t.index]}, {wide} {linear}")
        f = w.needs.intrinsic(f"llvm.masked.gather.{self.suffix(memory)}.v{self.lanes}p0", v, p, "i32", self.bits, v)
        mask = self.condition or "splat (i1 true)"
        return w.new(f"call {v} {f}({p} {at}, i32 {align}, {self.bits} {mask}, {v} zeroinitializer)")

    def store(self, t: Store) -> None:
        w, memory, dtype = self.w, memory_type(t.value.dtype), t.value.dtype
        v, value = f"<{self.lanes} x {memory}>", self.vector(t.value)
        if dtype.kind == "b":
            value = w.new(f"zext {self.bits} {value} to {v}")
        is_forward = address_step(t.buffer, t.index, self.slopes) == 1
        if self.condition is None and is_forward:
            w.line(f"store {v} {value}, ptr {self.address(t)}, align {_align(dtype)}")
            return
        address, mask = (self.address(t), self.condition) if is_forward else self.backwards(t, memory)
        value = value if is_forward else self.reversed(value, v)
        lanes = ["true" in lane for lane in mask.split(", ")] if mask is not None and mask.startswith("<") else []
        if lanes.count(True) == 1:
            self.store_one(lanes.index(True), t, value, address)
            return
        f = w.needs.intrinsic(f"llvm.masked.store.{self.suffix(memory)}.p0", "void", v, "ptr", "i32", self.bits)
        w.line(f"call void {f}({v} {value}, ptr {address}, i32 {_align(dtype)}, {self.bits} {mask})")

    def store_one(self, lane: int, t: Store, value: str, address: str) -> None:
        """LLVM 22 makes a masked store of one lane, of numbers that were truncated, as wide as they were before."""
        w, memory = self.w, memory_type(t.value.dtype)
        one = w.new(f"extractelement <{self.lanes} x {memory}> {value}, i64 {lane}")
        at = w.new(f"getelementptr {memory}, ptr {address}, i64 {lane}") if lane else address
        w.line(f"store {memory} {one}, ptr {at}, align {_align(t.value.dtype)}")

    def address(self, t: Load | Store) -> str:
        varying = [i if i in self.slopes else None for i in t.index]
        return self.w.address(t.buffer, varying, self.bases[t.buffer, t.index])

    def shuffled(self, x: str, y: str, v: str, sources: Iterable[int]) -> str:
        """The lanes of that number of x, and of y behind it."""
        numbers = ", ".join(f"i32 {k}" for k in sources)
        return self.w.new(f"shufflevector {v} {x}, {v} {y}, <{self.lanes} x i32> <{numbers}>")

    # -- vector operands -------------------------------------------------------------------------
    @property
    def bits(self) -> str:
        return f"<{self.lanes} x i1>"

    def type(self, dtype: np.dtype) -> str:
        return f"<{self.lanes} x {register_type(dtype)}>"

    def suffix(self, memory: str) -> str:
        return f"v{self.lanes}" + {"float": "f32", "double": "f64"}.get(memory, memory)

    def constant(self, x: Num) -> str:
        return f"splat ({register_type(x.dtype)} {self.w.use(x)})"

    def numbers(self, type: str, step: int = 1) -> str:
        return "<" + ", ".join(f"{type} {k * step}" for k in range(self.lanes)) + ">"

    def splat(self, x: str, type: str) -> str:
        if not x.startswith("%"):
            return f"splat ({type} {x})"
        v = f"<{self.lanes} x {type}>"
        one = self.w.new(f"insertelement {v} poison, {type} {x}, i64 0")
        return self.w.new(f"shufflevector {v} {one}, {v} poison, <{self.lanes} x i32> zeroinitializer")

    def vector(self, x: Scalar) -> str:
        if isinstance(x, Num):
            return self.constant(x)
        if x not in self.slopes:
            return self.vectors[x]
        if x not in self.local:
            slope = self.slopes[x]
            assert slope is not None
            first = self.splat(self.w.names[x], "i64")
            self.local[x] = self.w.new(f"add <{self.lanes} x i64> {first}, {self.numbers('i64', slope)}")
        return self.local[x]


def _align(dtype: np.dtype) -> int:
    return 1 if dtype.kind == "b" else dtype.itemsize
