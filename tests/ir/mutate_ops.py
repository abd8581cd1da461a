"""Break the rules of every op in every small way (`tests/ir/mutations.py`) and see that the suite fails each time.

    python tests/ir/mutate_ops.py                 all ops; about 15 minutes
    python tests/ir/mutate_ops.py sub gather      these ops
    python tests/ir/mutate_ops.py --every 10      each tenth mistake

Mutated functions run in this process in the place of the right ones: the code of a rule, or of a function that rules
call, is exchanged, the tests of `test_ops.py` run on the ops that use it, and the right code comes back. A mistake that
nothing notices is printed; `docs/testing.md` says of each why it is none.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import inspect
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ |= {"TAPEFUSE_CACHE": "false", "TAPEFUSE_CHECK": "true"}  # no program of a broken rule is kept

import tapefuse as tp
from tapefuse.ir import ops
from tapefuse.ir.op import OPS, Op
from tests.codegen import test_library
from tests.ir import test_complex, test_op_conventions, test_ops
from tests.ir.mutations import mutants
from tests.numpy import test_calculation, test_linalg, test_manipulation, test_special

HERE = str(Path(ops.__file__).parent)
FIELDS = ("type", "vjp", "jvp", "batch", "at", "push", "ref")
UNSEEN = ("sample", "quiet", "draw", "unary_sample", "binary_sample", "reduction_sample")  # what makes tests' inputs
SECONDS = 30  # for the tests of one mistake
CALLS, MOST = 10, 200  # of each function; and of all functions that use an op
USERS = 6  # ops whose tests see a mistake in a function that many use


# -- the functions that rules consist of ------------------------------------------------------------------------------


def parts(x: Any, seen: set[int]) -> Iterator[FunctionType]:
    """The functions of ours that a rule is made of, itself first: those it holds, and those it calls."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, functools.partial):
        yield from parts(x.func, seen)
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from parts(part, seen)
    elif isinstance(x, FunctionType):
        if x.__code__.co_filename.startswith(HERE) and x.__name__ not in UNSEEN:
            yield x
            for name in _names(x.__code__):
                yield from parts(_function_or_none(x.__globals__.get(name)), seen)
        for cell in x.__closure__ or ():
            with contextlib.suppress(ValueError):
                yield from parts(cell.cell_contents, seen)


def _function_or_none(x: Any) -> Any:
    return x if isinstance(x, FunctionType) else None


def _names(code: CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_names, inner))


class Target(NamedTuple):
    """A piece of source, and the functions that run it: one for each op that has its own."""

    code: CodeType
    functions: list[FunctionType]
    users: list[Op]


def targets(chosen: list[Op]) -> list[Target]:
    found: dict[tuple, Target] = {}
    for op in chosen:
        seen: set[int] = set()
        for field in FIELDS:
            for f in parts(getattr(op, field), seen):
                key = f.__code__.co_filename, f.__code__.co_firstlineno, f.__code__.co_name
                target = found.setdefault(key, Target(f.__code__, [], []))
                if not any(f is g for g in target.functions):
                    target.functions.append(f)
                if op not in target.users:
                    target.users.append(op)
    return sorted(found.values(), key=lambda t: (t.code.co_filename, t.code.co_firstlineno))


# -- from source to code ----------------------------------------------------------------------------------------------


@functools.cache
def source(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text())


def node_of(code: CodeType) -> list[ast.AST]:
    """The functions in the source that may be this code: lambdas in one line are told apart by their columns."""
    kinds = (ast.Lambda,) if code.co_name == "<lambda>" else (ast.FunctionDef,)
    nodes = [n for n in ast.walk(source(code.co_filename)) if isinstance(n, kinds)]
    found = [n for n in nodes if _first_line(n) == code.co_firstlineno]
    found = [n for n in found if isinstance(n, ast.Lambda) or n.name == code.co_name]
    if len(found) > 1:
        found = [n for n in found if _runs(code, n)] or found
    return found[:1]


def _first_line(n: Any) -> int:
    return min([n.lineno, *(d.lineno for d in getattr(n, "decorator_list", []))])


def _runs(code: CodeType, n: ast.Lambda) -> bool:
    """Whether the code is that of a lambda's body, as its place in the line tells."""
    wanted = (n.body.lineno, n.body.end_lineno, n.body.col_offset, n.body.end_col_offset)
    return wanted in code.co_positions()


def compiled(module: ast.Module, file: str) -> CodeType:
    return compile(module, file, "exec")


def code_in(module: CodeType, old: CodeType, node: Any) -> CodeType | None:
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


# -- the tests of an op -----------------------------------------------------------------------------------------------

Test = Callable[[], Any]


@functools.cache
def tests_of(op: Op) -> tuple[Test, ...]:
    """Every test that is about this op, as functions of nothing: its own, then those of functions made of it."""
    found: list[Test] = []
    for module in (test_ops, test_complex, test_library):
        for name, test in inspect.getmembers(module, inspect.isfunction):
            for arguments in _arguments(test) if name.startswith("test_") else ():
                subject = arguments.get("case", arguments.get("op"))
                if subject is op or getattr(subject, "op", None) is op:
                    found.append(functools.partial(test, **arguments))
    return (*found, *of_functions().get(op.name, ()))


@functools.cache
def of_functions() -> dict[str, list[Test]]:
    """For each op the tests of values of public functions that use it: some calls of each function."""
    found: dict[str, list[Test]] = {}
    for name in test_special.VALUES:
        xs, _ = test_special.arguments(name)
        values = functools.partial(test_special.test_values, name, lambda f: f)
        limits = [functools.partial(test_special.test_limits, name, lambda f: f)][: name in test_special.LIMITS]
        for op in _ops(test_special.function(name), xs):
            found.setdefault(op, []).extend([values, *limits])
    for suite, arrays in (
        (test_calculation, lambda case: case.arrays),
        (test_manipulation, lambda case: [case.array]),
        (test_linalg, lambda case: [case.array]),
    ):
        by_name: dict[str, list[Any]] = {}
        for case in suite.RIGHT:
            by_name.setdefault(case.name, []).append(case)
        for cases in by_name.values():
            tests = [functools.partial(suite.test_eager, case) for case in cases[:CALLS]]
            for op in _ops(functools.partial(cases[0].call, tp), arrays(cases[0])):
                found.setdefault(op, []).extend(tests)
    return {op: tests[:MOST] for op, tests in found.items()}


def _named(f: Callable[..., Any]) -> Callable[..., Any]:
    def function(*xs: Any) -> Any:
        return f(*xs)

    return function


def _ops(f: Callable[..., Any], arrays: Any) -> set[str]:
    """The ops of a traced function; none where it cannot be traced."""
    with tp.config(disable_jit=True):
        try:
            graph = tp.tape_function(_named(f)).specialise(*[np.array(x) for x in arrays]).graph
        except (tp.TapefuseError, TypeError):
            return set()
    return {v.op.name for v in graph.nodes if v.op is not None}


def _arguments(test: Any) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = [{}]
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    for mark in marks:
        names, values = mark.args[0], mark.args[1]
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        rows = [v if len(names) > 1 else (v,) for v in values]
        found = [{**a, **dict(zip(names, row, strict=True))} for a in found for row in rows]
    return iter(found if marks else [])


@functools.cache
def conventions() -> tuple[Test, ...]:
    found: list[Test] = []
    for name, test in inspect.getmembers(test_op_conventions, inspect.isfunction):
        if name.startswith("test_"):
            has_marks = any(m.name == "parametrize" for m in getattr(test, "pytestmark", []))
            found += [functools.partial(test, **a) for a in _arguments(test)] if has_marks else [test]
    return tuple(found)


class _TooLong(BaseException):
    pass


def _stop(*_: Any) -> None:
    raise _TooLong


def fails(tests: Iterator[Test]) -> bool:
    """Whether one of the tests fails, or does not end."""
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for test in tests:
                test()
    except _TooLong:
        return True
    except BaseException as error:  # whatever a broken rule raises
        if isinstance(error, KeyboardInterrupt):
            raise
        return True
    finally:
        signal.alarm(0)
    return False


def is_caught(target: Target, code: CodeType) -> bool:
    right = [f.__code__ for f in target.functions]
    try:
        for f in target.functions:
            f.__code__ = code
        users = sorted(target.users, key=lambda op: len(tests_of(op)))
        step = max(1, len(users) // USERS)
        return any(fails(iter(tests_of(op))) for op in users[::step]) or fails(iter(conventions()))
    finally:
        for f, c in zip(target.functions, right, strict=True):
            f.__code__ = c


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--part", default="0/1", help="k/n: the k-th of n shares")
    given = parser.parse_args()
    chosen = [OPS[n] for n in given.ops] or [op for op in OPS.values() if tests_of(op)]
    part, shares = map(int, given.part.split("/"))
    assert not fails(t for op in chosen for t in tests_of(op)[:3]), "the suite fails before anything is broken"
    caught, missed, number, start = 0, [], 0, time.perf_counter()
    for target in targets(chosen):
        for node in node_of(target.code):
            for module, changed, text in mutants(source(target.code.co_filename), node):
                number += 1
                if number % given.every or number // given.every % shares != part:
                    continue
                code = code_in(compiled(module, target.code.co_filename), target.code, changed)
                if code is None or code.co_freevars != target.code.co_freevars:
                    continue  # the mistake left out the last use of a variable from outside
                if is_caught(target, code):
                    caught += 1
                    continue
                who = ", ".join(op.name for op in target.users[:4])
                missed.append(f"{Path(target.code.co_filename).name}:{text}  [{who}]")
                print("MISSED", missed[-1], flush=True)
    total = caught + len(missed)
    print(f"{caught} of {total} caught ({100 * caught / max(1, total):.1f} %), {time.perf_counter() - start:.0f} s")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
