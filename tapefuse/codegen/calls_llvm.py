"""Calls of inner loops of NumPy's, and of BLAS for triangular systems, as LLVM text.

The module imports a record of two words for each function, the loop's address and what is handed to it as `data`:

    %loop = load ptr, ptr @"numpy.linalg.inv.dd"
    call void %loop(ptr %arguments, ptr %sizes, ptr %steps, ptr %data)

A loop reports failure by the floating-point flag of an invalid operation, as it does to NumPy itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tapefuse.codegen.llvm_instructions import literal, register_type
from tapefuse.codegen.loops import Call, Num, Substitute

if TYPE_CHECKING:
    from tapefuse.codegen.emit_llvm import Writer

INVALID = 1  # <fenv.h>'s FE_INVALID on x86-64 and aarch64


def called(w: Writer, s: Call) -> str:
    """Append a call; the name of the i1 that says whether it has failed."""
    record = f"numpy.{s.function}"
    w.needs.externals.add(record)
    w.needs.lines.setdefault(record, f'@"{record}" = external global [2 x ptr]')
    loop, data = (w.new(f'load ptr, ptr getelementptr ([2 x ptr], ptr @"{record}", i64 0, i64 {k})') for k in (0, 1))
    steps = [*(o.steps[0] for o in s.operands), *(x for o in s.operands for x in o.steps[1:])]
    arguments = _table(w, "ptr", [w.element(o.buffer, o.at) for o in s.operands])
    sizes, steps_at = (_table(w, "i64", [w.use(x) for x in xs]) for xs in (s.sizes, steps))
    clear, test = (w.needs.external(f"fe{f}except", "i32", "i32") for f in ("clear", "test"))
    w.line(f"call i32 {clear}(i32 {INVALID})")
    w.line(f"call void {loop}(ptr {arguments}, ptr {sizes}, ptr {steps_at}, ptr {data})")
    return w.new(f"icmp ne i32 {w.new(f'call i32 {test}(i32 {INVALID})')}, 0")


def substitute(w: Writer, s: Substitute) -> None:
    """Append a call of BLAS's trsm on row-major matrices."""
    dtype = s.y.type.dtype
    t, letter = register_type(dtype), ("sc" if dtype == np.float32 else "dz")[s.is_complex]
    types = ["i32"] * 7 + ["ptr" if s.is_complex else t, "ptr", "i32", "ptr", "i32"]
    function = w.needs.external(f"scipy_cblas_{letter}trsm", "void", *types)
    flags = 101, 141, 122 if s.lower else 121, 112 if s.transpose else 111, 132 if s.unit else 131
    rows, columns = w.use(s.rows), w.use(s.columns)
    m, n, lda, ldb = (w.new(f"trunc i64 {x} to i32") for x in (rows, columns, *map(w.at_least_one, (rows, columns))))
    a, y = w.element(s.a, s.at_a), w.element(s.y, s.at_y)
    one, zero = (literal(Num(x, dtype)) for x in (1.0, 0.0))
    factor = f"ptr {_table(w, t, [one, zero])}" if s.is_complex else f"{t} {one}"
    sizes = f"i32 {m}, i32 {n}, {factor}, ptr {a}, i32 {lda}, ptr {y}, i32 {ldb}"
    w.line(f"call void {function}({', '.join(f'i32 {x}' for x in flags)}, {sizes})")


def _table(w: Writer, type: str, values: Sequence[str]) -> str:
    """Values next to each other on the stack."""
    name = f"%table{len(w.slots)}"
    w.slots.append(f"  {name} = alloca [{max(len(values), 1)} x {type}]")
    for k, value in enumerate(values):
        w.line(f"store {type} {value}, ptr {w.new(f'getelementptr {type}, ptr {name}, i64 {k}')}")
    return name
