"""Looking through the statements of a kernel: all of them, what they read, which sizes they define."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tapefuse.codegen.loops import (
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
    Launch,
    Let,
    Load,
    Move,
    Poll,
    Scalar,
    Stmt,
    Store,
    Substitute,
    Transpose,
    Update,
    Var,
    View,
    While,
    dimension,
)

SYMBOL = dimension("").name  # what the names of dimension symbols' scalars start with


def walk(body: Iterable[Stmt]) -> Iterator[Stmt]:
    """The statements and those inside them, in order."""
    for s in body:
        yield s
        match s:
            case For():
                yield from walk(s.body)
            case While():
                yield from walk(s.before)
                yield from walk(s.body)
            case If():
                yield from walk(s.then)
                yield from walk(s.otherwise)


def with_bodies(s: Stmt, change: Callable[[tuple[Stmt, ...]], tuple[Stmt, ...]]) -> Stmt:
    """The statement with what is inside changed."""
    match s:
        case For():
            return replace(s, body=change(s.body))
        case While():
            return replace(s, before=change(s.before), body=change(s.body))
        case If():
            return replace(s, then=change(s.then), otherwise=change(s.otherwise))
    return s


def defined_symbols(body: Iterable[Stmt]) -> Iterator[str]:
    """The dimension symbols that statements give a value: indices of loops and sizes known at run time only."""
    for s in walk(body):
        defined = s.var if isinstance(s, For) else s.dst if isinstance(s, Let | Load) else None
        if defined is not None and defined.name.startswith(SYMBOL):
            yield defined.name.removeprefix(SYMBOL)


def readers(body: Iterable[Stmt]) -> dict[Scalar, list[Var | None]]:
    """By scalar what straight-line statements make of it, once for each time. None stands for a store, sum or index."""
    found: dict[Scalar, list[Var | None]] = {}
    for s in body:
        if isinstance(s, Let | Load):
            found.setdefault(s.dst, [])
        match s:
            case Let(dst, _, args):
                for x in args:
                    found.setdefault(x, []).append(dst)
            case Load(_, _, index):
                for x in index:
                    found.setdefault(x, []).append(None)
            case Store(_, index, value):
                for x in (*index, value):
                    found.setdefault(x, []).append(None)
            case Update(acc, _, value):
                for x in (acc, value):
                    found.setdefault(x, []).append(None)
    return found


def reads(s: Stmt) -> Iterator[Var]:
    """The variables that a statement reads."""
    match s:
        case Let(args=args):
            found: tuple = args
        case Load(index=index):
            found = index
        case Store(index=index, value=value):
            found = (*index, value)
        case Declare(init=init):
            found = (init,)
        case Update(value=value) | Assign(value=value):
            found = (value,)
        case While(condition=condition) | If(condition=condition):
            found = (condition,)
        case Launch():
            found = (*s.sizes, s.first, s.rows, s.pieces)
        case Allocate(nbytes=nbytes):
            found = (nbytes,)
        case Grow():
            found = (s.used, s.nbytes)
        case View(at=at):
            found = (at,)
        case Move() | Free() | Poll():
            found = ()
        case For(start=start, stop=stop):
            found = (start, stop)
        case Gemm():
            found = (*s.at_a, *s.at_b, *s.at_c, s.start, s.stop)
        case Contract():
            sizes = (x for t in s.terms for x in (t.extent, t.a, t.b))
            found = (*s.at_c, *s.at_a, *s.at_b, s.rows, s.columns, s.row_c, s.row_a, *sizes)
        case Substitute():
            found = (*s.at_a, *s.at_y, s.rows, s.columns)
        case Call():
            found = s.scalars
        case Transpose():
            found = (*s.at_y, *s.at_x, s.rows, s.columns, s.row_y, s.row_x)
    yield from (x for x in found if isinstance(x, Var))
