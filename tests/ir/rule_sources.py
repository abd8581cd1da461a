"""The functions that the rules of ops consist of, and the mistakes that can be made in each."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.op import OPS, Op
from tests.ir.equivalent_mutants import EQUIVALENT
from tests.ir.mutations import Mistake, mistakes

HERE = str(Path(ops.__file__).parent)
FIELDS = ("type", "vjp", "jvp", "batch", "at", "push", "ref", "results")
UNSEEN = ("sample", "quiet", "draw", "unary_sample", "binary_sample", "reduction_sample")  # what makes tests' inputs


# -- functions --------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A piece of source, and the functions that run it: one for each op that has its own."""

    code: CodeType
    functions: list[FunctionType]
    users: list[Op]

    @property
    def file(self) -> str:
        return Path(self.code.co_filename).name

    @property
    def name(self) -> str:
        """Of the function and of what it stands in: `gather.batch`."""
        return self.code.co_qualname.replace("<locals>.", "").replace("<lambda>", "lambda")


def targets(chosen: Iterable[Op]) -> list[Target]:
    found: dict[tuple, Target] = {}
    for op in chosen:
        seen: set[int] = set()
        for field in FIELDS:
            for f in _parts(getattr(op, field), seen):
                key = f.__code__.co_filename, f.__code__.co_firstlineno, f.__code__.co_name
                target = found.setdefault(key, Target(f.__code__, [], []))
                if not any(f is g for g in target.functions):
                    target.functions.append(f)
                if op not in target.users:
                    target.users.append(op)
    return sorted(found.values(), key=lambda t: (t.code.co_filename, t.code.co_firstlineno))


def _parts(x: Any, seen: set[int]) -> Iterator[FunctionType]:
    """The functions of ours that a rule is made of, itself first: those it holds, and those it calls."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, functools.partial):
        yield from _parts(x.func, seen)
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from _parts(part, seen)
    elif isinstance(x, FunctionType):
        if x.__code__.co_filename.startswith(HERE) and x.__name__ not in UNSEEN:
            yield x
            for function in _called(x):
                yield from _parts(function, seen)
        for cell in x.__closure__ or ():
            with contextlib.suppress(ValueError):
                yield from _parts(cell.cell_contents, seen)


def _called(f: FunctionType) -> Iterator[FunctionType]:
    """Functions that a function names, in its module or as `module.name`."""
    names = sorted(_names(f.__code__))
    found = [f.__globals__[name] for name in names if name in f.__globals__]
    modules = [m for m in found if isinstance(m, ModuleType) and m.__name__.startswith(ops.__name__)]
    found += [getattr(m, name, None) for m in modules for name in names]
    yield from (x for x in found if isinstance(x, FunctionType))


def _names(code: CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_names, inner))


# -- mistakes ---------------------------------------------------------------------------------------------------------


def mistakes_of(target: Target) -> Iterator[Mistake]:
    """The mistakes that can be made in a function, as text, and each with the code that makes it when asked for."""
    node = _node_of(target.code)
    if node is not None:
        yield from mistakes(_statement_of(target.code.co_filename, node), node, _lines(target.code.co_filename))


def code_of(target: Target, mistake: Mistake) -> CodeType | None:
    """The code of a function with a mistake; none where that leaves out the last use of a variable from outside."""
    module, node = mistake.made()
    code = _code_in(compile(module, target.code.co_filename, "exec"), target.code, node)
    return code if code is not None and code.co_freevars == target.code.co_freevars else None


def stale() -> list[str]:
    """The entries of the table of equivalent mistakes that name no mistake that can be made."""
    found = {(t.file, t.name, m.text) for t in targets(OPS.values()) for m in mistakes_of(t)}
    return [f"{file} {name}: {text}" for file, name, text in EQUIVALENT if (file, name, text) not in found]


@functools.cache
def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


@functools.cache
def _source(file: str) -> ast.Module:
    return ast.parse("\n".join(_lines(file)))


def _statement_of(file: str, node: Any) -> ast.stmt:
    """The outermost statement with a node in it."""
    return next(s for s in _source(file).body if s.lineno <= node.lineno <= (s.end_lineno or 0))


@functools.cache
def _functions(file: str) -> list[Any]:
    return [n for n in ast.walk(_source(file)) if isinstance(n, (ast.Lambda, ast.FunctionDef))]


def _node_of(code: CodeType) -> Any:
    """The function in the source that is this code: lambdas in one line are told apart by their columns."""
    kind = ast.Lambda if code.co_name == "<lambda>" else ast.FunctionDef
    found = [n for n in _functions(code.co_filename) if isinstance(n, kind) and _first_line(n) == code.co_firstlineno]
    found = [n for n in found if isinstance(n, ast.Lambda) or n.name == code.co_name]
    if len(found) > 1:
        found = [n for n in found if _runs(code, n)] or found
    return found[0] if found else None


def _first_line(n: Any) -> int:
    return min([n.lineno, *(d.lineno for d in getattr(n, "decorator_list", []))])


def _runs(code: CodeType, n: ast.Lambda) -> bool:
    """Whether the code is that of a lambda's body, as its place in the line tells."""
    wanted = (n.body.lineno, n.body.end_lineno, n.body.col_offset, n.body.end_col_offset)
    return wanted in code.co_positions()


def _code_in(module: CodeType, old: CodeType, node: Any) -> CodeType | None:
    """The code of a function in a compiled module."""
    stack, found = [module], []
    while stack:
        code = stack.pop()
        stack += [c for c in code.co_consts if isinstance(c, CodeType)]
        if (code.co_name, code.co_firstlineno) == (old.co_name, old.co_firstlineno):
            found.append(code)
    if isinstance(node, ast.Lambda) and len(found) > 1:
        found = [c for c in found if _runs(c, node)] or found
    return found[0] if found else None
