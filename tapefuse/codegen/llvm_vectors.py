"""Innermost loops with vectors: many iterations at once, the last ones under a mask.

A loop qualifies if its stores are consecutive and an element that it stores is read at the same index only. Values that
do not depend on the loop index are computed once, before it; indices stay scalar while they are affine in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.costs import WEIGHTS
from tapefuse.codegen.llvm_instructions import Declarations, memory_type, register_type
from tapefuse.codegen.llvm_loop_shapes import Shape, address_step, examined, is_strictly_scalar, running_sums
from tapefuse.codegen.llvm_masks import Zeroed
from tapefuse.codegen.llvm_multiply_adds import repeated
from tapefuse.codegen.llvm_neighbours import Neighbours, aligned_start, aligned_store, lead, mask_text
from tapefuse.codegen.llvm_regions import RegionWriter
from tapefuse.codegen.llvm_small_arrays import Printing
from tapefuse.codegen.loops import INT, Buffer, For, Kernel, Let, Load, Num, Scalar, Stmt, Store, Update, Var, identity
from tapefuse.codegen.small_arrays import small_arrays
from tapefuse.ir.types import show_dtype, size

LARGE_BODY = 40  # instructions past which a loop is printed once, always masked, instead of twice


def kernel_text(kernel: Kernel, declarations: Declarations) -> str:
    """The definition of one kernel."""
    return _VectorWriter(kernel, declarations).text()


@dataclass(frozen=True)
class _Choice:
    """An index that is `inside`, `inside + slope`, ... in lanes where the condition holds, `outside` in the others."""

    condition: Scalar
    inside: str
    outside: str
    slope: int


class _VectorWriter(RegionWriter):
    def text(self) -> str:
        found = small_arrays(self.kernel.body, self.needs.strict)
        self.small = None if found is None else Printing(self, found)
        return super().text()

    def statements(self, body: Sequence[Stmt]) -> None:
        super().statements(body) if self.small is None else self.small.statements(body)

    def loop(self, s: For) -> None:
        shape = None if self.needs.strict and is_strictly_scalar(s) else examined(s)
        if shape is None:
            super().loop(s)
        else:
            _Loop(self, s, shape).write()


class _Loop:
    """Printing one loop with vectors."""

    def __init__(self, w: RegionWriter, s: For, shape: Shape):
        self.w, self.s, self.slopes, self.trips, self.lanes = w, s, shape.slopes, shape.trips, shape.width
        self.shape = shape
        self.vectors: dict[Scalar, str] = {}  # vector form of uniform scalars: valid in the whole loop
        self.local: dict[Scalar, str] = {}  # vector form of varying scalars: valid in one copy of the body
        self.chosen: dict[Scalar, _Choice] = {}  # indices that are affine where a condition holds, else fixed
        self.bases: dict[tuple[Buffer, tuple[Scalar, ...]], str] = {}
        self.totals: dict[Var, str] = {}
        self.nans: dict[Var, str] = {}  # of accumulators of extremes of floats: whether a lane has seen a nan
        self.sums = running_sums(s)
        self.neighbours = Neighbours(s, shape)
        self.zeroed = Zeroed(s, shape.slopes)
        self.repeated = {} if w.needs.strict else repeated(s, shape.slopes)

    def write(self) -> None:
        w, s = self.w, self.s
        n = w.enter(s)
        self.hoist()
        start, stop = w.use(s.start), w.use(s.stop)
        if (store := aligned_store(s, self.shape)) is not None:
            middle = aligned_start(self, store, start)
            self.body(start, self.mask(start, middle))
            self.main_and_rest(n, middle, stop)
        elif self.trips is not None:
            self.fixed(n, int(start), self.trips)
        elif sum(WEIGHTS.get(t.op, 1) if isinstance(t, Let) else 1 for t in s.body) > LARGE_BODY:
            self.repeat(n, f"head.{n}", start, stop, masked=True)
        else:
            self.main_and_rest(n, start, stop)
        self.finish()
        w.line(f"br label %exit.{n}")
        w.start(f"exit.{n}")

    # -- before and after ------------------------------------------------------------------------
    def hoist(self) -> None:
        """What does not vary, and accumulators with one partial result per lane."""
        w = self.w
        for t in self.s.body:
            if isinstance(t, Let | Load) and t.dst not in self.slopes:
                w.statement(t)
        for t in self.s.body:
            if isinstance(t, Load | Store) and (isinstance(t, Store) or t.dst in self.slopes):
                self.base(t.buffer, t.index)
            if isinstance(t, Update) and t.acc not in self.totals:
                slot = f"%{t.acc.name}.lanes{len(w.slots)}"  # an accumulator may be that of several loops
                self.totals[t.acc] = slot
                w.slots.append(f"  {slot} = alloca {self.type(t.acc.dtype)}")
                w.line(f"store {self.type(t.acc.dtype)} {self.initial(t)}, ptr {slot}")
                if t.acc.dtype.kind == "f" and t.op in ("maximum", "minimum"):
                    self.nans[t.acc] = f"{slot}.nan"
                    w.slots.append(f"  {slot}.nan = alloca {self.bits}")
                    w.line(f"store {self.bits} zeroinitializer, ptr {slot}.nan")
        for t in self.s.body:
            operands = t.args if isinstance(t, Let) else (t.value,) if isinstance(t, Store | Update) else ()
            if isinstance(t, Let) and (t.dst not in self.slopes or t.op == "read"):
                continue
            for x in operands:
                if isinstance(x, Var) and x not in self.slopes and x not in self.vectors:
                    self.vectors[x] = self.splat(w.use(x), register_type(x.dtype))

    def initial(self, t: Update) -> str:
        """What the lanes of an accumulator start from: of a running sum, the sum so far."""
        if t.acc not in self.sums:
            return self.constant(identity(t.op, t.acc.dtype))
        one = register_type(t.acc.dtype)
        return self.splat(self.w.new(f"load {one}, ptr %{t.acc.name}"), one)

    def base(self, buffer: Buffer, index: tuple[Scalar, ...]) -> None:
        """The part of an address that does not vary."""
        if (buffer, index) not in self.bases:
            fixed = [None if i in self.slopes else i for i in index]
            self.bases[buffer, index] = self.w.address(buffer, fixed)

    def finish(self) -> None:
        """The lanes' partial results, as one, into the accumulators."""
        for t in dict.fromkeys((u.acc, u.op) for u in self.s.body if isinstance(u, Update)):
            acc, op = t
            if acc in self.nans:
                value = self.extreme(acc, op)
            else:
                v = self.type(acc.dtype)
                lanes = self.w.new(f"load {v}, ptr {self.totals[acc]}")
                if acc in self.sums:
                    first = self.w.new(f"extractelement {v} {lanes}, i64 0")
                    self.w.line(f"store {register_type(acc.dtype)} {first}, ptr %{acc.name}")
                    continue
                value = self.across(op, acc.dtype, lanes)
            self.w.update(f"%{acc.name}", op, acc.dtype, value)

    def across(self, op: str, dtype: np.dtype, value: str) -> str:
        t, v = register_type(dtype), self.type(dtype)
        suffix = f"v{self.lanes}{'i1' if dtype.kind == 'b' else show_dtype(dtype).replace('u', 'i')}"
        if dtype.kind == "f" and op in ("add", "mul"):
            f = self.w.needs.intrinsic(f"llvm.vector.reduce.f{op}.{suffix}", t, t, v)
            start = self.w.number(-0.0 if op == "add" else 1.0, dtype)
            return self.w.new(f"call reassoc nsz {t} {f}({t} {start}, {v} {value})")
        name = op
        if op in ("maximum", "minimum"):
            name = ("s" if dtype.kind == "i" else "u") + op[:3]
        if dtype.kind == "b":
            name = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and"}.get(op, op)
        f = self.w.needs.intrinsic(f"llvm.vector.reduce.{name}.{suffix}", t, v)
        return self.w.new(f"call {t} {f}({v} {value})")

    def extreme(self, acc: Var, op: str) -> str:
        """The extreme of all lanes, which are numbers, or nan if one was seen."""
        w, dtype, v = self.w, acc.dtype, self.type(acc.dtype)
        t, suffix = register_type(dtype), f"v{self.lanes}{show_dtype(dtype)}"
        value = w.new(f"load {v}, ptr {self.totals[acc]}")
        f = w.needs.intrinsic(f"llvm.vector.reduce.f{op[:3]}.{suffix}", t, v)
        number = w.new(f"call nnan nsz {t} {f}({v} {value})")
        any_lane = w.needs.intrinsic(f"llvm.vector.reduce.or.v{self.lanes}i1", "i1", self.bits)
        seen = w.new(f"call i1 {any_lane}({self.bits} {w.new(f'load {self.bits}, ptr {self.nans[acc]}')})")
        return w.select(seen, dtype, w.number(float("nan"), dtype), number)

    def follow_extreme(self, t: Update, value: str) -> None:
        """One comparison and a choice, which is one instruction; whether there was a nan is remembered apart."""
        w, v, mask = self.w, self.type(t.acc.dtype), self.condition
        old = w.new(f"load {v}, ptr {self.totals[t.acc]}")
        wins = w.new(f"fcmp {'ogt' if t.op == 'maximum' else 'olt'} {v} {value}, {old}")
        isnan = w.new(f"fcmp uno {v} {value}, {value}")
        if mask is not None:
            wins, isnan = (w.new(f"and {self.bits} {x}, {mask}") for x in (wins, isnan))
        w.line(f"store {v} {w.new(f'select {self.bits} {wins}, {v} {value}, {v} {old}')}, ptr {self.totals[t.acc]}")
        seen = w.new(f"load {self.bits}, ptr {self.nans[t.acc]}")
        w.line(f"store {self.bits} {w.new(f'or {self.bits} {seen}, {isnan}')}, ptr {self.nans[t.acc]}")

    # -- the copies of the body ------------------------------------------------------------------
    def fixed(self, n: int, start: int, trips: int) -> None:
        before = lead(self.s, self.shape)
        at, stop = start - before, start + trips
        self.neighbours.begin(self, str(at), before)
        if before:
            self.part(at, before, self.lanes)
            at += self.lanes
        whole, rest = divmod(stop - at, self.lanes)
        middle = at + whole * self.lanes
        if whole == 1:
            self.neighbours.step(str(at))
            self.body(str(at), None)
        elif whole:
            self.repeat(n, f"head.{n}", str(at), str(middle), masked=False)
        if rest:
            self.part(middle, 0, rest)
        self.neighbours.end()

    def part(self, at: int, first: int, end: int) -> None:
        """A vector of which lanes `first` up to `end` are iterations."""
        self.neighbours.step(str(at), (first, end))
        self.body(str(at), mask_text(self.lanes, first, end))

    def repeat(self, n: int, before: str, start: str, stop: str, masked: bool) -> None:
        """A loop in steps of `lanes`; leaves in the block after it. At least one iteration runs."""
        w, var = self.w, f"%{self.s.var.name}.{n}"
        w.line(f"br label %body.{n}")
        w.start(f"body.{n}")
        w.line(f"{var} = phi i64 [ {start}, %{before} ], [ {var}.next, %latch.{n} ]")
        self.neighbours.step(var)
        self.body(var, self.mask(var, stop) if masked else None)
        w.line(f"br label %latch.{n}")
        w.start(f"latch.{n}")
        w.line(f"{var}.next = add nuw nsw i64 {var}, {self.lanes}")
        more = w.new(f"icmp slt i64 {var}.next, {stop}")
        w.line(f"br i1 {more}, label %body.{n}, label %after.{n}")
        w.start(f"after.{n}")

    def main_and_rest(self, n: int, start: str, stop: str) -> None:
        w = self.w
        trips = w.new(f"sub i64 {stop}, {start}")
        whole = w.new(f"and i64 {trips}, {-self.lanes}")
        middle = w.new(f"add i64 {start}, {whole}")
        some = w.new(f"icmp ne i64 {whole}, 0")
        w.line(f"br i1 {some}, label %main.{n}, label %after.{n}")
        w.start(f"main.{n}")
        self.neighbours.begin(self, start)
        self.repeat(n, f"main.{n}", start, middle, masked=False)
        self.neighbours.end()
        left = w.new(f"icmp ne i64 {middle}, {stop}")
        w.line(f"br i1 {left}, label %rest.{n}, label %end.{n}")
        w.start(f"rest.{n}")
        self.body(middle, self.mask(middle, stop))
        w.line(f"br label %end.{n}")
        w.start(f"end.{n}")

    def mask(self, at: str, stop: str) -> str:
        """Which lanes are iterations: as many as are left."""
        w = self.w
        smin = w.needs.intrinsic("llvm.smin.i64", "i64", "i64", "i64")
        left = w.new(f"call i64 {smin}(i64 {w.new(f'sub i64 {stop}, {at}')}, i64 {self.lanes})")
        count = self.splat(w.new(f"trunc i64 {left} to i32"), "i32")
        return w.new(f"icmp ult <{self.lanes} x i32> {self.numbers('i32')}, {count}")

    def body(self, at: str, mask: str | None) -> None:
        w = self.w
        w.names[self.s.var] = at
        self.local, self.chosen, self.condition = {}, {}, mask
        for t in self.s.body:
            if isinstance(t, Let):
                if t.dst in self.slopes and t.op != "read":
                    self.let(t)
            elif isinstance(t, Load):
                if t.dst in self.slopes:
                    self.local[t.dst] = self.load(t)
            elif isinstance(t, Store):
                self.store(t)
            elif isinstance(t, Update):
                self.running_sum(t) if t.acc in self.sums else self.update(t)

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

    def let(self, t: Let) -> None:
        w = self.w
        if t.dst.dtype == INT:
            self.choose(t)
        divisor = t.args[1] if len(t.args) == 2 and isinstance(t.args[1], Num) else None
        if self.slopes[t.dst] is not None:
            w.names[t.dst] = w.instruction(t.op, [w.use(a) for a in t.args], INT, INT, divisor)
            return
        if t.dst in self.local or t.dst in self.repeated:
            return
        if t.dst in self.zeroed.choices:
            self.local[t.dst] = self.vector(t.args[1])
            return
        operands = [self.vector(a) for a in t.args if a not in self.repeated]
        w.width = self.lanes
        if (pair := self.with_partner(t)) is not None:
            self.local.update(zip(pair, w.sine_and_cosine(t.dst.dtype, operands[0]), strict=True))
            w.width = 1
            return
        if not self.repeated.keys().isdisjoint(t.args):
            self.local[t.dst] = self.multiply_add(t)
            w.width = 1
            return
        self.local[t.dst] = w.instruction(t.op, operands, t.args[-1].dtype, t.dst.dtype, divisor)
        w.width = 1

    def multiply_add(self, t: Let) -> str:
        """A sum with a product that it computes itself."""
        w, dtype = self.w, t.dst.dtype
        k = 0 if t.args[0] in self.repeated else 1
        (number, x), other = self.repeated[t.args[k]], self.vector(t.args[1 - k])
        factor = number.value if t.op == "add" or k == 0 else -number.value
        other = w.instruction("neg", [other], dtype, dtype) if t.op == "sub" and k == 0 else other
        return w.intrinsic("fmuladd", dtype, self.vector(x), self.constant(Num(factor, dtype)), other)

    def with_partner(self, t: Let) -> tuple[Var, Var] | None:
        """Sine and cosine of one argument, if `t` is one of them and the body has both."""
        if t.op not in ("sin", "cos") or self.w.needs.strict:
            return None
        same = {u.op: u.dst for u in self.s.body if isinstance(u, Let) and u.args == t.args and u.op in ("sin", "cos")}
        return (same["sin"], same["cos"]) if len(same) == 2 else None

    def update(self, t: Update) -> None:
        w, slot = self.w, self.totals[t.acc]
        value, mask = self.vector(t.value), self.condition
        if t.acc in self.nans:
            return self.follow_extreme(t, value)
        w.width = self.lanes
        if mask is None:
            w.update(slot, t.op, t.acc.dtype, value)
        else:
            v = self.type(t.acc.dtype)
            old = w.new(f"load {v}, ptr {slot}")
            new = w.combine(t.op, t.acc.dtype, old, value)
            w.line(f"store {v} {w.select(mask, t.acc.dtype, new, old)}, ptr {slot}")
        w.width = 1

    def running_sum(self, t: Update) -> None:
        """The sums up to each lane, in log2(lanes) steps, on top of the sum of the vectors before in every lane.

        Each step adds the last lane of a group to all lanes of the next group, and groups double (Sklansky 1960). From
        one vector to the next only the addition of the vector's sum has to wait.
        """
        w, dtype, slot = self.w, t.acc.dtype, self.totals[t.acc]
        v, zero = self.type(dtype), self.constant(identity("add", dtype))
        total = self.vector(t.value)
        w.width = self.lanes
        if self.condition is not None:
            total = w.select(self.condition, dtype, total, zero)
        step = 1
        while step < self.lanes:
            sources = (k // step * step - 1 if k & step else self.lanes for k in range(self.lanes))
            total = w.combine("add", dtype, total, self.shuffled(total, zero, v, sources))
            step *= 2
        so_far = w.new(f"load {v}, ptr {slot}")
        sum_ = self.shuffled(total, "poison", v, [self.lanes - 1] * self.lanes)
        w.line(f"store {v} {w.combine('add', dtype, so_far, sum_)}, ptr {slot}")
        self.local[self.sums[t.acc]] = w.combine("add", dtype, so_far, total)
        w.width = 1

    def shuffled(self, x: str, y: str, v: str, sources: Iterable[int]) -> str:
        """The lanes of that number of x, and of y behind it."""
        numbers = ", ".join(f"i32 {k}" for k in sources)
        return self.w.new(f"shufflevector {v} {x}, {v} {y}, <{self.lanes} x i32> <{numbers}>")

    # -- memory ----------------------------------------------------------------------------------
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
