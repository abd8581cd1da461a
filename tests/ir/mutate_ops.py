"""Break the rules of every op in every small way (`tests/ir/mutations.py`) and see that the suite fails each time.

    python tests/ir/mutate_ops.py                 all ops; about 20 minutes
    python tests/ir/mutate_ops.py sub gather      these ops
    python tests/ir/mutate_ops.py index.py        what is written in this file
    python tests/ir/mutate_ops.py --every 10      each tenth mistake
    python tests/ir/mutate_ops.py --part 0/2      the first half; `--part 1/2` is the other
    python tests/ir/mutate_ops.py --equivalent    those of the table alone: is one of them noticed after all?

Mutated functions run in this process in the place of the right ones: the code of a rule, or of a function that rules
call, is exchanged, the tests of `test_ops.py` run on the ops that use it, and the right code comes back. A mistake that
nothing notices is printed, with what changes in brackets: `x[[[1 -> 2]] - k]`. Those of the table in
`equivalent_mutants.py` are no mistakes, for the reason that stands there, and are counted apart.
"""

from __future__ import annotations

import argparse
import collections
import functools
import inspect
import itertools
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ |= {"TAPEFUSE_CACHE": "false", "TAPEFUSE_CHECK": "true"}  # no program of a broken rule is kept

import tapefuse as tp
from tapefuse.ir.op import OPS, Op
from tests.codegen import test_library
from tests.ir import test_complex, test_effects, test_lowerings, test_op_conventions, test_ops, test_regions
from tests.ir.equivalent_mutants import EQUIVALENT
from tests.ir.mutations import Mistake
from tests.ir.rule_sources import Target, code_of, mistakes_of, stale, targets
from tests.numpy import test_calculation, test_linalg, test_manipulation, test_special
from tests.random import test_gradients, test_keys

SECONDS = 20  # of the processor, for one test, which takes a fraction of one
CALLS, MOST = 10, 200  # of each function; and of all functions that use an op
MODULES = test_op_conventions, test_lowerings, test_effects  # about no op in particular; for every mistake
USERS = 6  # ops whose tests are the first to look at a function that many use


# -- the tests of an op -----------------------------------------------------------------------------------------------

Test = Callable[[], Any]

ELSEWHERE: dict[str, tuple[Test, ...]] = {  # tests of ops in other files
    "gamma_path": (test_gradients.test_slopes_of_single_draws,),
    "threefry": (
        *(partial(test_keys.test_published_vectors, *words) for words in test_keys.PUBLISHED),
        test_keys.test_long_arrays_are_encrypted_as_their_elements_are,
    ),
}


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
    of_regions = all_tests(test_regions) if op.is_region else ()
    return (*found, *of_regions, *ELSEWHERE.get(op.name, ()), *of_functions().get(op.name, ()))


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
def all_tests(module: Any) -> list[Test]:
    found: list[Test] = []
    for name, test in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("test_"):
            has_marks = any(m.name == "parametrize" for m in getattr(test, "pytestmark", []))
            found += [functools.partial(test, **a) for a in _arguments(test)] if has_marks else [test]
    return found


@functools.cache
def conventions() -> tuple[Test, ...]:
    return tuple(itertools.chain.from_iterable(map(all_tests, MODULES)))


class _TooLong(BaseException):
    pass


def _stop(*_: Any) -> None:
    raise _TooLong


cost: dict[Test, float] = {}  # seconds that each test takes when nothing is broken


def failure(tests: Iterable[Test]) -> tuple[Test, BaseException] | None:
    """The first of the tests that fails, or that does not end, and how."""
    signal.signal(signal.SIGPROF, _stop)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for test in tests:
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                test()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # whatever a broken rule raises
                return test, error
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            cost.setdefault(test, time.process_time() - start)
    return None


def is_caught(target: Target, code: CodeType, killers: list[Test]) -> str:
    """How a test notices that a function has this code, "" if none does; `killers`, which noticed others, go first."""
    right = [f.__code__ for f in target.functions]
    try:
        for f in target.functions:
            f.__code__ = code
        found = failure(killers) or failure(_tests(target))
    finally:
        for f, c in zip(target.functions, right, strict=True):
            f.__code__ = c
    if found is None:
        return ""
    test, error = found
    if test in killers:
        killers.remove(test)
    killers.insert(0, test)
    return type(error).__name__


def _tests(target: Target) -> Iterator[Test]:
    """All tests of the ops that use a function, of a few ops first, the quick ones first."""
    users = sorted(target.users, key=lambda op: len(tests_of(op)))
    few = users[:: max(1, len(users) // USERS)]
    for ops in (few, [op for op in users if op not in few]):
        yield from sorted((t for op in ops for t in tests_of(op)), key=lambda t: cost.get(t, 0.0))
    yield from conventions()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="ops, files; all unless given")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--part", default="0/1", help="k/n: the k-th of n shares, from 0")
    parser.add_argument("--equivalent", action="store_true")
    return parser


def main() -> int:
    given = _parser().parse_args()
    files = [n for n in given.what if n.endswith(".py")]
    chosen = [OPS[n] for n in given.what if n not in files] or list(OPS.values())
    found = [t for t in targets(chosen) if not files or t.file in files]
    users = dict.fromkeys(op for t in found for op in t.users)
    broken = failure(t for op in users for t in tests_of(op)) or failure(conventions())
    assert broken is None, f"the suite fails before anything is broken: {broken}"
    start, counts = time.perf_counter(), collections.Counter[str]()
    for target, mistake, killers in _share(found, given):
        counts[_verdict(target, mistake, killers, given.equivalent)] += 1
    _report(counts, time.perf_counter() - start)
    outdated = stale()
    for line in outdated:
        print("OUTDATED", line)
    return bool(counts["missed"] or counts["noticed after all"] or outdated)


def _share(found: list[Target], given: argparse.Namespace) -> Iterator[tuple[Target, Mistake, list[Test]]]:
    part, shares = map(int, given.part.split("/"))
    number = 0
    for target in found:
        killers: list[Test] = []
        for mistake in mistakes_of(target):
            number += 1
            if number % given.every == 0 and number // given.every % shares == part:
                yield target, mistake, killers


def _verdict(target: Target, mistake: Mistake, killers: list[Test], of_table: bool) -> str:
    listed = (target.file, target.name, mistake.text) in EQUIVALENT
    code = code_of(target, mistake) if listed == of_table else None
    if code is None:
        return "equivalent" if listed else "left out"
    how = is_caught(target, code, killers)
    if bool(how) != listed:
        return "without end" if how == _TooLong.__name__ else "equivalent" if listed else "caught"
    users = ", ".join(op.name for op in target.users[:4])
    where = f"{target.file}:{mistake.line} {target.name}"
    print("NOTICED" if listed else "MISSED", f"{where}: {mistake.text}  [{users}]", flush=True)
    return "noticed after all" if listed else "missed"


def _report(counts: collections.Counter[str], seconds: float) -> None:
    caught = counts["caught"] + counts["without end"]
    total = caught + counts["missed"]
    print(f"{total} mistakes, {caught} caught ({counts['without end']} by a test that did not end), ", end="")
    print(f"{counts['missed']} missed: {100 * caught / max(1, total):.1f} %; ", end="")
    print(f"{counts['equivalent']} equivalent; {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
