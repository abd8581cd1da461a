"""Contractions as LLVM text: a function for each shape of tile, called with addresses, extents and steps.

    call void @"tapefuse.contract.f32.8x2x16.1"(ptr %c, ptr %a, ptr %b, i64 rows, i64 columns, i64 row_c, i64 row_a,
                                                i64 extent, i64 step_a, i64 step_b)

Columns of tiles are outermost, rows within them, terms innermost. The last tile of rows reads its last row several
times over, and stores it as often: no code of its own for what is left, and no element outside is touched.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tapefuse.codegen.contraction import Tile, tile
from tapefuse.codegen.llvm_instructions import Declarations, register_type
from tapefuse.codegen.llvm_lanes import Lanes
from tapefuse.codegen.loops import Contract, Num
from tapefuse.ir.types import show_dtype


def contraction(needs: Declarations, s: Contract) -> str:
    """The name of the function that does `s`; adds it to the module."""
    dtype = s.c.type.dtype
    columns = int(s.columns.value) if isinstance(s.columns, Num) else None
    rows = int(s.rows.value) if isinstance(s.rows, Num) else s.typical
    chosen = tile(rows, columns, dtype.itemsize, s.add)
    terms = len(s.terms)
    name = (
        f"tapefuse.contract.{show_dtype(dtype)}.{chosen.rows}x{chosen.vectors}x{chosen.lanes}."
        f"{terms}{'m' * chosen.masked}{'a' * s.add}"
    )
    if name not in needs.helpers:
        needs.helpers[name] = _Function(needs, chosen, dtype, terms, s.add).text(name)
    return f'@"{name}"'


class _Function:
    """Prints one of them."""

    def __init__(self, needs: Declarations, shape: Tile, dtype: np.dtype, terms: int, add: bool):
        self.needs, self.shape, self.terms, self.add = needs, shape, terms, add
        self.t, self.lanes = register_type(dtype), Lanes(self, shape.lanes)
        self.v = self.lanes.of(self.t)
        self.smin = needs.intrinsic("llvm.smin.i64", "i64", "i64", "i64")
        self.slots = [f"  {self.slot(r, v)} = alloca {self.v}" for r, v in self.grid()]
        self.lines: list[str] = []
        self.count = 0

    def text(self, name: str) -> str:
        sizes = ["rows", "columns", "row_c", "row_a"]
        sizes += [f"{what}{k}" for k in range(self.terms) for what in ("extent", "step_a", "step_b")]
        parameters = ", ".join(["ptr %c", "ptr %a", "ptr %b", *(f"i64 %{s}" for s in sizes)])
        self.body()
        head = f'define internal void @"{name}"({parameters}) noinline nounwind "no-trapping-math"="true" {{'
        return "\n".join([head, "entry:", *self.slots, *self.lines, "}"])

    def grid(self) -> Iterator[tuple[int, int]]:
        return ((r, v) for r in range(self.shape.rows) for v in range(self.shape.vectors))

    def slot(self, r: int, v: int) -> str:
        return f"%sum.{r}.{v}"

    # -- the loops over tiles ----------------------------------------------------------------------
    def body(self) -> None:
        some_rows, some_columns = (self.new(f"icmp sgt i64 %{n}, 0") for n in ("rows", "columns"))
        some = self.new(f"and i1 {some_rows}, {some_columns}")
        extents = [self.new(f"icmp sgt i64 %extent{k}, 0") for k in range(self.terms)]
        terms = extents[0]
        for more in extents[1:]:
            terms = self.new(f"and i1 {terms}, {more}")
        self.line("%last.row = sub i64 %rows, 1")
        self.line(f"%last.column = sub i64 %columns, {self.shape.columns}")
        self.line(f"br i1 {some}, label %across, label %end")
        self.label("across")
        self.line("%at.column = phi i64 [ 0, %entry ], [ %next.column, %right ]")
        column = "%at.column"
        if not self.shape.masked:
            column = self.new(f"call i64 {self.smin}(i64 %at.column, i64 %last.column)")
        self.masks()
        b, c = self.element("%b", column), self.element("%c", column)
        self.line("br label %down")
        self.label("down")
        self.line("%row = phi i64 [ 0, %across ], [ %next.row, %below ]")
        self.tile(b, c, terms)
        self.line("br label %below")
        self.label("below")
        self.line(f"%next.row = add i64 %row, {self.shape.rows}")
        self.line(f"br i1 {self.new('icmp slt i64 %next.row, %rows')}, label %down, label %right")
        self.label("right")
        self.line(f"%next.column = add i64 %at.column, {self.shape.columns}")
        self.line(f"br i1 {self.new('icmp slt i64 %next.column, %columns')}, label %across, label %end")
        self.label("end")
        self.line("ret void")

    def masks(self) -> None:
        """Which lanes of each vector are columns."""
        if not self.shape.masked:
            return
        lanes = self.lanes
        left = self.new("sub i64 %columns, %at.column")
        left = self.new(f"trunc i64 {self.new(f'call i64 {self.smin}(i64 {left}, i64 {self.shape.columns})')} to i32")
        end = lanes.splat("i32", left)
        for v in range(self.shape.vectors):
            self.line(f"%mask.{v} = icmp ult {lanes.of('i32')} {lanes.steps('i32', first=v * lanes.count)}, {end}")

    # -- one tile ----------------------------------------------------------------------------------
    def tile(self, b: str, c: str, terms: str) -> None:
        rows_a, rows_c = [], []
        for r in range(self.shape.rows):
            row = self.new(f"call i64 {self.smin}(i64 {self.new(f'add i64 %row, {r}')}, i64 %last.row)")
            rows_a.append(self.element("%a", self.new(f"mul i64 {row}, %row_a")))
            rows_c.append(self.element(c, self.new(f"mul i64 {row}, %row_c")))
        for r, v in self.grid():
            start = self.load(self.element(rows_c[r], v * self.shape.lanes), v) if self.add else "zeroinitializer"
            start = "0.0" if start == "zeroinitializer" and self.shape.lanes == 1 else start
            self.line(f"store {self.v} {start}, ptr {self.slot(r, v)}")
        self.line("br label %start")
        self.label("start")
        self.line(f"br i1 {terms}, label %term0, label %stored")
        self.term(0, "start", "0", "0", rows_a, b)
        self.label("stored")
        for r, v in self.grid():
            value = self.new(f"load {self.v}, ptr {self.slot(r, v)}")
            self.store(value, self.element(rows_c[r], v * self.shape.lanes), v)

    def term(self, k: int, before: str, a_from: str, b_from: str, rows_a: list[str], b: str) -> None:
        """The loop over the k-th term and those within it; leaves for `stored`."""
        last = k == self.terms - 1
        back = f"term{k}" if last else f"next{k}"
        self.label(f"term{k}")
        self.line(f"%k{k} = phi i64 [ 0, %{before} ], [ %k{k}.next, %{back} ]")
        for x, first in (("a", a_from), ("b", b_from)):
            self.line(f"%{x}{k} = phi i64 [ {first}, %{before} ], [ %{x}{k}.next, %{back} ]")
        if last:
            self.multiply_add(rows_a, f"%a{k}", self.element(b, f"%b{k}"))
        else:
            self.line(f"br label %term{k + 1}")
            self.term(k + 1, f"term{k}", f"%a{k}", f"%b{k}", rows_a, b)
            self.label(back)
        self.line(f"%k{k}.next = add nuw nsw i64 %k{k}, 1")
        self.line(f"%a{k}.next = add i64 %a{k}, %step_a{k}")
        self.line(f"%b{k}.next = add i64 %b{k}, %step_b{k}")
        more = self.new(f"icmp slt i64 %k{k}.next, %extent{k}")
        self.line(f"br i1 {more}, label %term{k}, label %{f'next{k - 1}' if k else 'stored'}")

    def multiply_add(self, rows_a: list[str], at: str, b: str) -> None:
        vectors = [self.load(self.element(b, v * self.shape.lanes), v) for v in range(self.shape.vectors)]
        for r, row in enumerate(rows_a):
            x = self.lanes.splat(self.t, self.new(f"load {self.t}, ptr {self.element(row, at)}"))
            for v, y in enumerate(vectors):
                old = self.new(f"load {self.v}, ptr {self.slot(r, v)}")
                self.line(f"store {self.v} {self.fused(x, y, old)}, ptr {self.slot(r, v)}")

    def fused(self, x: str, y: str, total: str) -> str:
        """x y + total: rounded once where the machine can, twice in strict programs."""
        v = self.v
        if self.needs.strict:
            return self.new(f"fadd {v} {total}, {self.new(f'fmul {v} {x}, {y}')}")
        f = self.needs.intrinsic(f"llvm.fmuladd.{self.lanes.suffix(self.t)}", v, v, v, v)
        return self.new(f"call {v} {f}({v} {x}, {v} {y}, {v} {total})")

    # -- text ----------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def new(self, text: str) -> str:
        self.count += 1
        self.line(f"%v{self.count} = {text}")
        return f"%v{self.count}"

    def element(self, base: str, offset: str | int) -> str:
        return base if offset == 0 else self.new(f"getelementptr {self.t}, ptr {base}, i64 {offset}")

    def mask(self, v: int) -> str | None:
        return f"%mask.{v}" if self.shape.masked else None

    def load(self, address: str, v: int) -> str:
        return self.lanes.load(self.t, address, self.mask(v))

    def store(self, value: str, address: str, v: int) -> None:
        self.lanes.store(self.t, value, address, self.mask(v))
