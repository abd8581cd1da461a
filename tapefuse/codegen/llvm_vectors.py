"""Innermost loops with vectors: many iterations at once, the last ones under a mask.

A loop qualifies if its stores are consecutive and an element that it stores is read at the same index only. Values that
do not depend on the loop index are computed once, before it; indices stay scalar while they are affine in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapefuse.codegen.costs import WEIGHTS
from tapefuse.codegen.llvm_instructions import Declarations, register_type
from tapefuse.codegen.llvm_loop_shapes import Shape, examined, is_strictly_scalar, running_sums
from tapefuse.codegen.llvm_multiply_adds import repeated
from tapefuse.codegen.llvm_neighbours import aligned_start, aligned_store, lead
from tapefuse.codegen.llvm_regions import RegionWriter
from tapefuse.codegen.llvm_small_loops import Printing
from tapefuse.codegen.llvm_vector_memory import VectorMemory
from tapefuse.codegen.loops import INT, For, Kernel, Let, Load, Num, Stmt, Store, Update, Var, identity
from tapefuse.codegen.small_arrays import small_arrays

LARGE_BODY = 40  # instructions past which a loop is printed once, always masked, instead of twice


def kernel_text(kernel: Kernel, declarations: Declarations) -> str:
    """The definition of one kernel."""
    return _VectorWriter(kernel, declarations).text()


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


class _Loop(VectorMemory):
    """Printing one loop with vectors."""

    def __init__(self, w: RegionWriter, s: For, shape: Shape):
        super().__init__(w, s, shape)
        self.trips, self.shape = shape.trips, shape
        self.totals: dict[Var, str] = {}
        self.nans: dict[Var, str] = {}  # of accumulators of extremes of floats: whether a lane has seen a nan
        self.sums = running_sums(s)
        self.repeated = repeated(s, shape.slopes) if w.needs.fuses else {}

    def write(self) -> None:
        w, s = self.w, self.s
        n = w.enter(s)
        self.hoist()
        start, stop = w.use(s.start), w.use(s.stop)
        if (store := aligned_store(s, self.shape)) is not None:
            middle = aligned_start(self.lanes, self.bases, store, start)
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
                w.slots.append(f"  {slot} = alloca {self.lanes.registers(t.acc.dtype)}")
                w.line(f"store {self.lanes.registers(t.acc.dtype)} {self.initial(t)}, ptr {slot}")
                if t.acc.dtype.kind == "f" and t.op in ("maximum", "minimum"):
                    self.nans[t.acc] = f"{slot}.nan"
                    w.slots.append(f"  {slot}.nan = alloca {self.lanes.bits}")
                    w.line(f"store {self.lanes.bits} zeroinitializer, ptr {slot}.nan")
        for t in self.s.body:
            operands = t.args if isinstance(t, Let) else (t.value,) if isinstance(t, Store | Update) else ()
            if isinstance(t, Let) and (t.dst not in self.slopes or t.op == "read"):
                continue
            for x in operands:
                if isinstance(x, Var) and x not in self.slopes and x not in self.vectors:
                    self.vectors[x] = self.splat(x)

    def initial(self, t: Update) -> str:
        """What the lanes of an accumulator start from: of a running sum, the sum so far."""
        if t.acc not in self.sums:
            return self.splat(identity(t.op, t.acc.dtype))
        one = register_type(t.acc.dtype)
        return self.lanes.splat(one, self.w.new(f"load {one}, ptr %{t.acc.name}"))

    def finish(self) -> None:
        """The lanes' partial results, as one, into the accumulators."""
        for t in dict.fromkeys((u.acc, u.op) for u in self.s.body if isinstance(u, Update)):
            acc, op = t
            if acc in self.nans:
                value = self.extreme(acc, op)
            else:
                total = self.w.new(f"load {self.lanes.registers(acc.dtype)}, ptr {self.totals[acc]}")
                if acc in self.sums:
                    one = register_type(acc.dtype)
                    self.w.line(f"store {one} {self.lanes.extracted(one, total, 0)}, ptr %{acc.name}")
                    continue
                value = self.across(op, acc.dtype, total)
            self.w.update(f"%{acc.name}", op, acc.dtype, value)

    def across(self, op: str, dtype: np.dtype, value: str) -> str:
        t, v = register_type(dtype), self.lanes.registers(dtype)
        suffix = self.lanes.suffix(t)
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
        w, dtype, lanes = self.w, acc.dtype, self.lanes
        t, v = register_type(dtype), lanes.registers(dtype)
        value = w.new(f"load {v}, ptr {self.totals[acc]}")
        f = w.needs.intrinsic(f"llvm.vector.reduce.f{op[:3]}.{lanes.suffix(t)}", t, v)
        number = w.new(f"call nnan nsz {t} {f}({v} {value})")
        any_lane = w.needs.intrinsic(f"llvm.vector.reduce.or.{lanes.suffix('i1')}", "i1", lanes.bits)
        seen = w.new(f"call i1 {any_lane}({lanes.bits} {w.new(f'load {lanes.bits}, ptr {self.nans[acc]}')})")
        return w.select(seen, dtype, w.number(float("nan"), dtype), number)

    def follow_extreme(self, t: Update, value: str) -> None:
        """One comparison and a choice, which is one instruction; whether there was a nan is remembered apart."""
        w, v, bits, mask = self.w, self.lanes.registers(t.acc.dtype), self.lanes.bits, self.condition
        old = w.new(f"load {v}, ptr {self.totals[t.acc]}")
        wins = w.new(f"fcmp {'ogt' if t.op == 'maximum' else 'olt'} {v} {value}, {old}")
        isnan = w.new(f"fcmp uno {v} {value}, {value}")
        if mask is not None:
            wins, isnan = (w.new(f"and {bits} {x}, {mask}") for x in (wins, isnan))
        w.line(f"store {v} {w.new(f'select {bits} {wins}, {v} {value}, {v} {old}')}, ptr {self.totals[t.acc]}")
        seen = w.new(f"load {bits}, ptr {self.nans[t.acc]}")
        w.line(f"store {bits} {w.new(f'or {bits} {seen}, {isnan}')}, ptr {self.nans[t.acc]}")

    # -- the copies of the body ------------------------------------------------------------------
    def fixed(self, n: int, start: int, trips: int) -> None:
        before, count = lead(self.s, self.shape), self.lanes.count
        at, stop = start - before, start + trips
        self.neighbours.begin(str(at), before)
        if before:
            self.part(at, before, count)
            at += count
        whole, rest = divmod(stop - at, count)
        middle = at + whole * count
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
        self.body(str(at), self.lanes.between(first, end))

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
        w.line(f"{var}.next = add nuw nsw i64 {var}, {self.lanes.count}")
        more = w.new(f"icmp slt i64 {var}.next, {stop}")
        w.line(f"br i1 {more}, label %body.{n}, label %after.{n}")
        w.start(f"after.{n}")

    def main_and_rest(self, n: int, start: str, stop: str) -> None:
        w = self.w
        trips = w.new(f"sub i64 {stop}, {start}")
        whole = w.new(f"and i64 {trips}, {-self.lanes.count}")
        middle = w.new(f"add i64 {start}, {whole}")
        some = w.new(f"icmp ne i64 {whole}, 0")
        w.line(f"br i1 {some}, label %main.{n}, label %after.{n}")
        w.start(f"main.{n}")
        self.neighbours.begin(start)
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
        left = w.new(f"call i64 {smin}(i64 {w.new(f'sub i64 {stop}, {at}')}, i64 {self.lanes.count})")
        count = self.lanes.splat("i32", w.new(f"trunc i64 {left} to i32"))
        return w.new(f"icmp ult {self.lanes.of('i32')} {self.lanes.steps('i32')}, {count}")

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
        w.width = self.lanes.count
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
        return w.intrinsic("fmuladd", dtype, self.vector(x), self.splat(Num(factor, dtype)), other)

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
        w.width = self.lanes.count
        if mask is None:
            w.update(slot, t.op, t.acc.dtype, value)
        else:
            v = self.lanes.registers(t.acc.dtype)
            old = w.new(f"load {v}, ptr {slot}")
            new = w.combine(t.op, t.acc.dtype, old, value)
            w.line(f"store {v} {w.select(mask, t.acc.dtype, new, old)}, ptr {slot}")
        w.width = 1

    def running_sum(self, t: Update) -> None:
        """The sums up to each lane, in log2(lanes) steps, on top of the sum of the vectors before in every lane.

        Each step adds the last lane of a group to all lanes of the next group, and groups double (Sklansky 1960). From
        one vector to the next only the addition of the vector's sum has to wait.
        """
        w, lanes, dtype, slot = self.w, self.lanes, t.acc.dtype, self.totals[t.acc]
        one, v, zero = register_type(dtype), lanes.registers(dtype), self.splat(identity("add", dtype))
        total = self.vector(t.value)
        w.width = self.lanes.count
        if self.condition is not None:
            total = w.select(self.condition, dtype, total, zero)
        step = 1
        while step < lanes.count:
            sources = (k // step * step - 1 if k & step else lanes.count for k in range(lanes.count))
            total = w.combine("add", dtype, total, lanes.shuffled(one, total, zero, sources))
            step *= 2
        so_far = w.new(f"load {v}, ptr {slot}")
        sum_ = lanes.shuffled(one, total, "poison", [lanes.count - 1] * lanes.count)
        w.line(f"store {v} {w.combine('add', dtype, so_far, sum_)}, ptr {slot}")
        self.local[self.sums[t.acc]] = w.combine("add", dtype, so_far, total)
        w.width = 1
