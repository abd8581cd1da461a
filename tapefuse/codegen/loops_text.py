"""Kernels of loop IR as text, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tapefuse.codegen.loops import (
    ZERO,
    Allocate,
    Assign,
    Call,
    Contract,
    Declare,
    For,
    Free,
    Gemm,
    Grow,
    If,
    Kernel,
    Launch,
    Let,
    Load,
    Move,
    Poll,
    Stmt,
    Store,
    Substitute,
    Transpose,
    Update,
    View,
    While,
)
from tapefuse.codegen.loops_walk import walk
from tapefuse.ir.types import show_dtype


def show(kernel: Kernel) -> str:
    """The kernel as text, before it those that it launches."""
    return "\n\n".join(map(_shown, _launched(kernel)))


def _launched(kernel: Kernel) -> dict[Kernel, None]:
    """The kernels that a kernel launches, those first that they launch themselves, and the kernel."""
    found: dict[Kernel, None] = {}
    for s in walk(kernel.body):
        if isinstance(s, Launch):
            found |= _launched(s.kernel)
    return found | {kernel: None}


def _shown(kernel: Kernel) -> str:
    params = ", ".join(f"{b.name}: {b.type}" for b in kernel.buffers)
    head = f"kernel {kernel.name}({params}) rows {kernel.rows}"
    return "\n".join([head + (f"  # {kernel.title}" if kernel.title else ""), *show_body(kernel.body, 1)])


def show_body(body: Sequence[Stmt], depth: int) -> Iterator[str]:
    for stmt in body:
        yield "  " * depth + _line(stmt)
        match stmt:
            case For():
                yield from show_body(stmt.body, depth + 1)
            case While():
                yield from show_body(stmt.before, depth + 1)
                yield "  " * depth + f"while {stmt.condition}:"
                yield from show_body(stmt.body, depth + 1)
            case If():
                yield from show_body(stmt.then, depth + 1)
                if stmt.otherwise:
                    yield "  " * depth + "else:"
                    yield from show_body(stmt.otherwise, depth + 1)


def _line(s: Stmt) -> str:
    def at(buffer, index) -> str:
        return f"{buffer.name}[{','.join(map(str, index))}]"

    match s:
        case Let(dst, "cast", args):
            return f"{dst} = cast {args[0]} {show_dtype(dst.dtype)}"
        case Let(dst, op, args):
            return f"{dst} = {op} {' '.join(map(str, args))}"
        case Load(dst, buffer, index):
            return f"{dst} = load {at(buffer, index)}"
        case Store(buffer, index, value):
            return f"store {at(buffer, index)} = {value}"
        case Declare(acc, init):
            return f"{acc} := {init}"
        case Update(acc, op, value):
            return f"{acc} {op}= {value}"
        case For(var, start, stop):
            return f"for {var} in {start}..{stop}:"
        case Gemm():
            a = at(s.a, s.at_a) + (".T" if s.transpose_a else "")
            b = at(s.b, s.at_b) + (".T" if s.transpose_b else "")
            return f"{at(s.c, s.at_c)} = {a} @ {b}  ({s.m} x {s.n} x {s.k}, {s.split} {s.start}..{s.stop})"
        case Contract():
            terms = ", ".join(f"{t.extent} by {t.a} and {t.b}" for t in s.terms)
            return (
                f"{at(s.c, s.at_c)} {'+' * s.add}= {at(s.a, s.at_a)} . {at(s.b, s.at_b)}  ({s.rows} rows by {s.row_c} "
                f"and {s.row_a}, {s.columns} columns, sum of {terms})"
            )
        case Transpose():
            return (
                f"{at(s.y, s.at_y)} = transposed {at(s.x, s.at_x)}  ({s.rows} rows by {s.row_y}, "
                f"{s.columns} columns by {s.row_x})"
            )
        case Substitute():
            kind = f"{'complex ' * s.is_complex}{'unit ' * s.unit}{'lower' if s.lower else 'upper'} triangle"
            kind += f" of {at(s.a, s.at_a)}{'.T' * s.transpose}"
            return f"{at(s.y, s.at_y)} = solution for the {kind}  ({s.rows} rows, {s.columns} columns)"
        case Call():
            operands = ", ".join(f"{at(o.buffer, o.at)} by {' '.join(map(str, o.steps))}" for o in s.operands)
            return f"{s.failed} = call {s.function}({operands}; {', '.join(map(str, s.sizes))})"
        case Assign(acc, value):
            return f"{acc} := {value}"
        case While():
            return "loop:"
        case If(condition):
            return f"if {condition}:"
        case View(buffer, source, first):
            offset = "" if first == ZERO else f" from {first}"
            return f"{buffer.name} = view {source.name}{offset} : {buffer.type}" + " local" * s.local
        case Move(targets, sources):
            return " = ".join(", ".join(b.name for b in buffers) for buffers in (targets, sources))
        case Launch():
            operands = ", ".join([*(b.name for b in s.buffers), *map(str, s.sizes)])
            rows = f"{s.rows}" if s.first == ZERO else f"{s.first}..{s.rows}"
            return f"launch {s.kernel.name}({operands}) rows {rows} in {s.pieces} pieces"
        case Allocate(buffer, nbytes):
            return f"{buffer.name} = allocate {nbytes} bytes"
        case Grow(buffer, used, nbytes):
            return f"{buffer.name} = {nbytes} bytes after {used} of {buffer.name}"
        case Free(buffer):
            return f"free {buffer.name}"
        case Poll():
            return "poll"
    raise TypeError(f"not a statement: {s!r}")
