"""Calls of inner loops of NumPy's as LLVM text.

The module imports a record of two words for each function, the loop's address and what is handed to it as `data`:

    %loop = load ptr, ptr @"numpy.linalg.inv.dd"
    call void %loop(ptr %arguments, ptr %sizes, ptr %steps, ptr %data)

A loop reports failure by the floating-point flag of an invalid operation, as it does to NumPy itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tapefuse.codegen.loops import Call

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


def _table(w: Writer, type: str, values: Sequence[str]) -> str:
    """Values next to each other on the stack."""
    name = f"%table{len(w.slots)}"
    w.slots.append(f"  {name} = alloca [{max(len(values), 1)} x {type}]")
    for k, value in enumerate(values):
        w.line(f"store {type} {value}, ptr {w.new(f'getelementptr {type}, ptr {name}, i64 {k}')}")
    return name
