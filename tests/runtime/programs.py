"""Hand-written programs for the run time's tests, and classes that keep an array as the tracer's do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapefuse.ir.program import Check, Program, State
from tapefuse.ir.types import Dim, Type
from tapefuse.runtime.abi import Layout


class Tensor:
    __slots__ = ("__weakref__", "_array", "_key")


class Variable:
    __slots__ = ("__weakref__", "_array", "name")

    def __init__(self, array: Any):
        self._array = np.array(array)


LAYOUT = Layout.of(Tensor, Variable)


def tensor(array: Any) -> Tensor:
    t = Tensor()
    t._array = np.ascontiguousarray(array)
    return t


def refuse(status: int) -> None:
    raise IndexError(f"check {status}")


def program(
    text: str,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    states: Sequence[tuple[str, bool]] = (),
    constants: Sequence[np.ndarray] = (),
    *,
    symbols: Sequence[str] = (),
    arena: Dim = 0,
    work: Dim = 100,
    externals: Sequence[str] = (),
) -> Program:
    types = tuple(map(Type.parse, inputs))
    return Program(
        name="handmade",
        symbols=tuple(symbols),
        inputs=types,
        states=tuple(State(Type.parse(t), written) for t, written in states),
        constants=tuple(constants),
        outputs=tuple(map(Type.parse, outputs)),
        arena=arena,
        work=work,
        checks=(Check("handmade check"),),
        externals=frozenset(externals),
        llvm=lambda: text,
        numba=lambda: "",
    )


def pointers(*names: str) -> str:
    """LLVM text that loads the data pointers, in the program's order."""
    return "".join(
        f"  %{n}.at = getelementptr ptr, ptr %pointers, i64 {k}\n  %{n} = load ptr, ptr %{n}.at\n"
        for k, n in enumerate(names)
    )


def body(text: str, *names: str) -> str:
    return f"define i64 @tapefuse_program(ptr %pointers, ptr %dims) {{\nentry:\n{pointers(*names)}{text}}}\n"


def loop(count: str, inside: str, element: str = "float", done: str = "  ret i64 0") -> str:
    """`inside` for %i in [0, count); `{x}` in it is replaced by the address of x[i]."""
    names = {part.split("}")[0] for part in inside.split("{")[1:]}
    addresses = "".join(f"  %{n}.i = getelementptr {element}, ptr %{n}, i64 %i\n" for n in sorted(names))
    for n in names:
        inside = inside.replace("{" + n + "}", f"%{n}.i")
    return f"""  %none = icmp sle i64 {count}, 0
  br i1 %none, label %done, label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
{addresses}{inside}
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, {count}
  br i1 %more, label %loop, label %done
done:
{done}
"""


def add() -> Program:
    """f32[B] + f32[B]"""
    inside = (
        "  %a = load float, ptr {x}\n  %b = load float, ptr {y}\n  %s = fadd float %a, %b\n  store float %s, ptr {z}"
    )
    text = body("  %n = load i64, ptr %dims\n" + loop("%n", inside), "x", "y", "z")
    return program(text, ("f32[B]", "f32[B]"), ("f32[B]",), symbols="B")


def copies(inputs: int, outputs: int, size: int = 4) -> Program:
    """Output k is input k; all are f32[size]."""
    names = [f"x{k}" for k in range(inputs)] + [f"y{k}" for k in range(outputs)]
    lines = "".join(
        f"  call void @llvm.memcpy.p0.p0.i64(ptr %y{k}, ptr %x{k}, i64 {4 * size}, i1 false)\n" for k in range(outputs)
    )
    text = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n" + body(lines + "  ret i64 0\n", *names)
    return program(text, [f"f32[{size}]"] * inputs, [f"f32[{size}]"] * outputs)


def increment(work: int = 100, spin: int = 1) -> Program:
    """State w: f64[4] += x; the output is w before. Each element is updated `spin` times by x / spin, in turns.

    Status 1, with nothing changed, if x[0] is negative.
    """
    inside = f"""  %q = urem i64 %i, 4
  %w.q = getelementptr double, ptr %w, i64 %q
  %x.q = getelementptr double, ptr %x, i64 %q
  %a = load volatile double, ptr %w.q
  %b = load double, ptr %x.q
  %part = fdiv double %b, {spin}.0
  %s = fadd double %a, %part
  store volatile double %s, ptr %w.q"""
    text = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n" + body(
        """  %first = load double, ptr %x
  %bad = fcmp olt double %first, 0.0
  br i1 %bad, label %fail, label %work
fail:
  ret i64 1
work:
  call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %w, i64 32, i1 false)
"""
        + loop(str(4 * spin), inside).replace("%entry", "%work"),
        "x", "w", "y",
    )  # fmt: skip
    return program(text, ("f64[4]",), ("f64[4]",), (("f64[4]", True),), work=work)


def scratch(arena: Dim, symbols: Sequence[str] = ()) -> Program:
    """Fills `x[0]` bytes of the arena; outputs [its address modulo 64, last byte]. Inputs i64[1], u8[B] if symbolic."""
    inside = "  store i8 7, ptr {arena}"
    names = ("x", "b", "y", "arena") if symbols else ("x", "y", "arena")
    end = """  %last.i = sub i64 %n, 1
  %last = getelementptr i8, ptr %arena, i64 %last.i
  %byte = load i8, ptr %last
  %wide = zext i8 %byte to i64
  %y1 = getelementptr i64, ptr %y, i64 1
  store i64 %wide, ptr %y1
  %address = ptrtoint ptr %arena to i64
  %low = and i64 %address, 63
  store i64 %low, ptr %y
  ret i64 0"""
    text = body("  %n = load i64, ptr %x\n" + loop("%n", inside, "i8", end), *names)
    inputs = ("i64[1]", "u8[B]") if symbols else ("i64[1]",)
    return program(text, inputs, ("i64[2]",), arena=arena, symbols=symbols)


PARALLEL_FILL = """
@tapefuse_threads = external global i32
declare void @numba_parallel_for(ptr, ptr, ptr, ptr, ptr, i64, i64, i32)
define internal void @piece(ptr %args, ptr %dims, ptr %steps, ptr %data) {
entry:
  %first = load ptr, ptr %args
  %n = load i64, ptr %dims
  br label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %at = getelementptr double, ptr %first, i64 %k
  %v = load double, ptr %at
  %w = fadd double %v, 1.0
  store double %w, ptr %at
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %n
  br i1 %more, label %next, label %end
end:
  ret void
}
define i64 @tapefuse_program(ptr %pointers, ptr %dims) {
entry:
  %args = alloca ptr
  %count = alloca i64
  %step = alloca i64
  %x = load ptr, ptr %pointers
  %y.at = getelementptr ptr, ptr %pointers, i64 1
  %y = load ptr, ptr %y.at
  %t.at = getelementptr ptr, ptr %pointers, i64 2
  %t.p = load ptr, ptr %t.at
  %threads = load i32, ptr @tapefuse_threads
  store i32 %threads, ptr %t.p
  call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %x, i64 512, i1 false)
  store ptr %y, ptr %args
  store i64 64, ptr %count
  store i64 8, ptr %step
  %many = icmp sgt i32 %threads, 1
  br i1 %many, label %pool, label %serial
pool:
  call void @numba_parallel_for(ptr @piece, ptr %args, ptr %count, ptr %step, ptr null, i64 0, i64 1, i32 %threads)
  ret i64 0
serial:
  call void @piece(ptr %args, ptr %count, ptr %step, ptr null)
  ret i64 0
}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""


def parallel(work: int = 100) -> Program:
    """x + 1 over f64[64] in a parallel region, and the number of threads allowed."""
    externals = ("numba_parallel_for", "tapefuse_threads")
    return program(PARALLEL_FILL, ("f64[64]",), ("f64[64]", "i32[]"), work=work, externals=externals)


_unshare_lock = threading.Lock()


def unshare(variables: Sequence[Variable]) -> None:
    """Give each variable a copy of its array that nobody else holds: what to do before a refused call is tried again.

    Reading the slot waits (in the variable's `__getattr__`) while a call in another thread writes the array. No update
    is lost: a program refuses an array that is held here, and then comes here itself.
    """
    with _unshare_lock:
        for variable in variables:
            held = variable._array
            variable._array = held.copy()
            del held


def run_together(work: Callable[[], None], n: int) -> None:
    """Call `work` in n threads at once."""
    threads = [threading.Thread(target=work) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
