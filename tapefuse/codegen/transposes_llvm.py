"""Transposed copies as LLVM text: squares of as many rows and columns as a vector has lanes.

A square is loaded by vectors, and turned by log2(lanes) rounds in which pairs of vectors exchange halves of blocks
(Eklundh's method). What is left at the edges is a square that overlaps the one before; planes smaller than a square are
copied one by one.
"""

from __future__ import annotations

import numpy as np

from tapefuse.codegen.contraction import registers
from tapefuse.codegen.llvm_instructions import Declarations, register_type
from tapefuse.ir.types import show_dtype

_FRAME = """\
define internal void @"NAME"(ptr %y, ptr %x, i64 %rows, i64 %columns, i64 %row_y, i64 %row_x) noinline nounwind {
entry:
  %tall = icmp sge i64 %rows, LANES
  %wide = icmp sge i64 %columns, LANES
  %large = and i1 %tall, %wide
  %last.row = sub i64 %rows, LANES
  %last.column = sub i64 %columns, LANES
  br i1 %large, label %down, label %one.row
down:
  %i.free = phi i64 [ 0, %entry ], [ %i.next, %below ]
  %i = call i64 SMIN(i64 %i.free, i64 %last.row)
  br label %across
across:
  %j.free = phi i64 [ 0, %down ], [ %j.next, %across ]
  %j = call i64 SMIN(i64 %j.free, i64 %last.column)
SQUARE
  %j.next = add i64 %j.free, LANES
  %more.columns = icmp slt i64 %j.next, %columns
  br i1 %more.columns, label %across, label %below
below:
  %i.next = add i64 %i.free, LANES
  %more.rows = icmp slt i64 %i.next, %rows
  br i1 %more.rows, label %down, label %end
one.row:
  %p = phi i64 [ 0, %entry ], [ %p.next, %row.end ]
  %some.row = icmp slt i64 %p, %rows
  br i1 %some.row, label %one, label %end
one:
  %q = phi i64 [ 0, %one.row ], [ %q.next, %copy ]
  %some = icmp slt i64 %q, %columns
  br i1 %some, label %copy, label %row.end
copy:
  %from.row = mul i64 %q, %row_x
  %from = add i64 %from.row, %p
  %to.row = mul i64 %p, %row_y
  %to = add i64 %to.row, %q
  %x.at = getelementptr T, ptr %x, i64 %from
  %y.at = getelementptr T, ptr %y, i64 %to
  %element = load T, ptr %x.at
  store T %element, ptr %y.at
  %q.next = add i64 %q, 1
  br label %one
row.end:
  %p.next = add i64 %p, 1
  br label %one.row
end:
  ret void
}"""


def transposition(needs: Declarations, dtype: np.dtype) -> str:
    """The name of the function that copies a plane; adds it to the module."""
    name = f"tapefuse.transpose.{show_dtype(dtype)}"
    if name not in needs.helpers:
        smin = needs.intrinsic("llvm.smin.i64", "i64", "i64", "i64")
        lanes = registers().nbytes // dtype.itemsize
        t = register_type(dtype)
        text = _FRAME.replace("SQUARE", "\n".join(_square(t, lanes, dtype.itemsize)))
        text = text.replace("LANES", str(lanes)).replace("SMIN", smin).replace("NAME", name)
        needs.helpers[name] = text.replace(" T,", f" {t},").replace(" T ", f" {t} ")
    return f'@"{name}"'


def _square(t: str, lanes: int, align: int) -> list[str]:
    """Square (i, j): vectors along i of the operand become vectors along j of the result."""
    v, lines = f"<{lanes} x {t}>", []
    for k in range(lanes):
        lines += [
            f"  %c{k} = add i64 %j, {k}",
            f"  %c{k}.row = mul i64 %c{k}, %row_x",
            f"  %c{k}.from = add i64 %c{k}.row, %i",
            f"  %c{k}.at = getelementptr {t}, ptr %x, i64 %c{k}.from",
            f"  %s0.{k} = load {v}, ptr %c{k}.at, align {align}",
        ]
    rounds = lanes.bit_length() - 1
    for s in range(rounds):
        d = 1 << s
        for k in range(lanes):
            if k & d:
                continue
            a, b = f"{v} %s{s}.{k}", f"{v} %s{s}.{k + d}"
            low = [lanes + c - d if c & d else c for c in range(lanes)]
            high = [lanes + c if c & d else c + d for c in range(lanes)]
            for row, mask in ((k, low), (k + d, high)):
                text = ", ".join(f"i32 {c}" for c in mask)
                lines.append(f"  %s{s + 1}.{row} = shufflevector {a}, {b}, <{lanes} x i32> <{text}>")
    for k in range(lanes):
        lines += [
            f"  %r{k} = add i64 %i, {k}",
            f"  %r{k}.row = mul i64 %r{k}, %row_y",
            f"  %r{k}.to = add i64 %r{k}.row, %j",
            f"  %r{k}.at = getelementptr {t}, ptr %y, i64 %r{k}.to",
            f"  store {v} %s{rounds}.{k}, ptr %r{k}.at, align {align}",
        ]
    return lines
