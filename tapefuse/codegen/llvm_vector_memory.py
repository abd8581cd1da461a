"""Operands of vector loops, and how they come from and go to memory: whole vectors, under masks, from neighbours that
are loaded already, or element by element."""

from __future__ import annotations

from tapefuse._records import dataclass
from tapefuse.codegen.llvm_instructions import memory_type, register_type
from tapefuse.codegen.llvm_lanes import ALL, Lanes
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
        self.w, self.s, self.slopes, self.lanes = w, s, shape.slopes, Lanes(w, shape.width)
        self.vectors: dict[Scalar, str] = {}  # vector form of uniform scalars: valid in the whole loop
        self.local: dict[Scalar, str] = {}  # vector form of varying scalars: valid in one copy of the body
        self.chosen: dict[Scalar, _Choice] = {}  # indices that are affine where a condition holds, else fixed
        self.bases: dict[tuple[Buffer, tuple[Scalar, ...]], str] = {}
        self.neighbours = Neighbours(s, shape, self.lanes, self.bases)
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
    def backwards(self, t: Load | Store, memory: str) -> tuple[str, str]:
        """Where the lanes begin whose elements lie one before the other, and the mask in the order of memory."""
        first = self.w.new(f"getelementptr {memory}, ptr {self.address(t)}, i64 {1 - self.lanes.count}")
        return first, ALL if self.condition is None else self.lanes.reversed("i1", self.condition)

    def load(self, t: Load) -> str:
        lanes, memory = self.lanes, memory_type(t.dst.dtype)
        if t.dst in self.zeroed.loads:
            return self.zeroed_load(t, memory)
        if (shifted := self.neighbours.load(t)) is not None:
            return shifted
        step = address_step(t.buffer, t.index, self.slopes)
        if step == 1:
            value = lanes.load(memory, self.address(t), self.condition)
        elif step == -1:
            first, mask = self.backwards(t, memory)
            value = lanes.reversed(memory, lanes.load(memory, first, mask))
        else:
            value = self.chosen_load(t, memory) or self.gather(t, memory)
        return lanes.from_memory(t.dst.dtype, value)

    def where(self, condition: Scalar) -> str:
        """The mask of lanes that are iterations in which a condition holds."""
        mask = self.vector(condition)
        return mask if self.condition is None else self.w.new(f"and {self.lanes.bits} {mask}, {self.condition}")

    def zeroed_load(self, t: Load, memory: str) -> str:
        """Consecutive elements in the lanes where a condition holds, zeros in the others."""
        mask = self.where(self.zeroed.loads[t.dst])
        chosen = [self.chosen[i] for i in t.index if i in self.chosen]
        place = self.address(t) if not chosen else self.element(t, memory, chosen[0].inside)
        return self.lanes.load(memory, place, mask)

    def chosen_load(self, t: Load, memory: str) -> str | None:
        """Consecutive elements under the condition of the only varying index, the fixed one in the other lanes."""
        axes = [k for k, i in enumerate(t.index) if i in self.slopes]
        choice = self.chosen.get(t.index[axes[0]]) if len(axes) == 1 else None
        if choice is None or choice.slope != 1 or size(t.buffer.type.shape[axes[0] + 1 :]) != 1:
            return None
        inside, outside = (self.element(t, memory, i) for i in (choice.inside, choice.outside))
        mask = self.where(choice.condition)
        fixed = self.lanes.splat(memory, self.w.new(f"load {memory}, ptr {outside}"))
        return self.lanes.load(memory, inside, mask, fixed)

    def element(self, t: Load, memory: str, varying: str) -> str:
        """The address of an element whose only varying index, along the last axis, is that."""
        return self.w.new(f"getelementptr {memory}, ptr {self.bases[t.buffer, t.index]}, i64 {varying}")

    def gather(self, t: Load, memory: str) -> str:
        w, wide = self.w, self.lanes.of("i64")
        linear: str | None = None
        for axis, i in enumerate(t.index):
            if i not in self.slopes:
                continue
            stride = size(t.buffer.type.shape[axis + 1 :])
            term = self.vector(i)
            if stride != 1:
                term = w.new(f"mul {wide} {term}, {self.lanes.splat('i64', w.dim(stride))}")
            linear = term if linear is None else w.new(f"add {wide} {linear}, {term}")
        if linear is None:
            linear = "zeroinitializer"
        at = w.new(f"getelementptr {memory}, ptr {self.bases[t.buffer, t.index]}, {wide} {linear}")
        return self.lanes.gather(memory, at, self.condition)

    def store(self, t: Store) -> None:
        lanes, memory = self.lanes, memory_type(t.value.dtype)
        value = lanes.to_memory(t.value.dtype, self.vector(t.value))
        if address_step(t.buffer, t.index, self.slopes) == 1:
            lanes.store(memory, value, self.address(t), self.condition)
        else:
            first, mask = self.backwards(t, memory)
            lanes.store(memory, lanes.reversed(memory, value), first, mask)

    def address(self, t: Load | Store) -> str:
        varying = [i if i in self.slopes else None for i in t.index]
        return self.w.address(t.buffer, varying, self.bases[t.buffer, t.index])

    # -- vector operands -------------------------------------------------------------------------
    def splat(self, x: Scalar) -> str:
        """A scalar that does not vary, in all lanes."""
        return self.lanes.splat(register_type(x.dtype), self.w.use(x))

    def vector(self, x: Scalar) -> str:
        if isinstance(x, Num):
            return self.splat(x)
        if x not in self.slopes:
            return self.vectors[x]
        if x not in self.local:
            slope = self.slopes[x]
            assert slope is not None
            self.local[x] = self.lanes.ramp(self.w.names[x], slope)
        return self.local[x]
