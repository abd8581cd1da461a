"""What rewritten functions call: Python does what it would have done, unless a condition or iterable is traced."""

from __future__ import annotations

import dis
import linecache
import operator
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from tapefuse._errors import StagingError
from tapefuse._tree import flatten
from tapefuse.tracer import control
from tapefuse.tracer.extents import equal, unequal
from tapefuse.tracer.operators import functions
from tapefuse.tracer.rewriting import notes
from tapefuse.tracer.rewriting.branches import Forms, StagedIf
from tapefuse.tracer.rewriting.calls import (
    Items,
    NumPyTarget,
    Range,
    Wish,
    contains,
    counting,
    counting_items,
    items_of,
    named_range,
)
from tapefuse.tracer.rewriting.carried import Names, Unforeseen
from tapefuse.tracer.rewriting.demands import forbid, handling, holds, raises
from tapefuse.tracer.rewriting.logic import Branch, and_, condition, continued, is_unknown, logical, not_
from tapefuse.tracer.rewriting.loops import StagedLoop
from tapefuse.tracer.rewriting.syntax import Statement
from tapefuse.tracer.source import PACKAGE, user_loc
from tapefuse.tracer.surroundings import UNDEFINED, Surroundings, changed_in_place, is_users
from tapefuse.tracer.tensor import Tensor, TracedTensor
from tapefuse.tracer.variable import Variable

FEW = 16  # so many iterations of loops over Python's numbers are unrolled, those of nested ones multiplied
SLOW = 64  # iterations from which on it is worth a warning that a loop has to be unrolled
MANY = 1000  # unrolled iterations of a `while` that earn a warning
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": equal,
    "NotEq": unequal,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Is": operator.is_,
    "IsNot": operator.is_not,
    "In": contains,
    "NotIn": lambda a, b: not_(contains(a, b)),
}
Thunk = Callable[[], Any]


class Stager:
    """The run-time side of one rewritten function. `callee(f)`: what to call in place of `f`."""

    def __init__(self, statements: tuple[Statement, ...], callee: Callable[[Any], Any], name: str):
        self._statements = statements
        self._callee = callee
        self._name = name
        self._guesses: list[Forms] = [{} for _ in statements]

    # -- statements -------------------------------------------------------------------------------------------------
    def if_(self, k: int, test: Any, body: Thunk, orelse: Thunk | None, cells: FunctionType) -> None:
        if is_unknown(test):
            self._if(self._statements[k], test, body, orelse, cells, self._guesses[k])
        elif test:
            body()
        elif orelse is not None:
            orelse()

    def _if(
        self,
        statement: Statement,
        test: Any,
        body: Thunk | None,
        orelse: Thunk | None,
        cells: FunctionType,
        guesses: Forms,
    ) -> None:
        test = condition(test, _asked_by(statement))
        _carrying(statement, Names(cells), lambda s, names: StagedIf(s, names, guesses).run(test, body, orelse))
        notes.note(statement, "staged: the condition is traced")

    def while_(self, k: int, how: int, test: Thunk, body: Thunk, cells: FunctionType, goes_on: Thunk | None) -> None:
        statement, count = self._statements[k], 0
        while True:
            asked = test() if goes_on is None or not count else and_(how, goes_on(), test)
            if is_unknown(asked):
                return self._staged_while(k, _both(how, goes_on, test), body, cells, count)
            if not asked:
                break
            body()
            count += 1
            if count == MANY:
                notes.warn_once(
                    f"the loop at {statement.place} has been traced {MANY} times and goes on: its condition is "
                    "Python's; loop over a range, or compare tensors, for one native loop",
                )
        notes.note(statement, f"unrolled, {count} times: the condition is Python's")

    def _staged_while(self, k: int, test: Thunk, body: Thunk, cells: FunctionType, count: int) -> None:
        statement = self._statements[k]
        first = condition(test(), _asked_by(statement))  # an error names it early
        assert first is not None
        guesses = self._guesses[k]
        _carrying(statement, Names(cells), lambda s, names: StagedLoop(s, names, guesses).while_(test, body))
        unrolled = f", after {count} iterations in Python" if count else ""
        notes.note(statement, f"one native loop{unrolled}: the condition is traced")

    def for_(
        self, k: int, iterable: Any, body: Callable[[Any], Any], cells: FunctionType, goes_on: Thunk | None
    ) -> None:
        statement, names = self._statements[k], Names(cells)
        wish = iterable.staged if isinstance(iterable, Wish) else None
        iterable = iterable.iterable if isinstance(iterable, Wish) else iterable
        items = None if wish is False else items_of(iterable)
        if wish and items is None:
            raise StagingError(
                f"tp.stage at {user_loc()} got a {type(iterable).__name__}; only ranges and the rows of tensors and "
                "arrays can become one native loop"
            )
        if wish is False and isinstance(iterable, Items) and not isinstance(iterable.extent, int):
            raise StagingError(
                f"tp.unroll at {user_loc()} got a number of iterations that is known only when the compiled function "
                "runs; leave tp.unroll out for one native loop, or give a Python number"
            )
        why = "tp.unroll asks for it" if wish is False else "its items are Python's"
        if items is not None and (wish or not isinstance(items.extent, int)):
            runs, guesses = isinstance(items.extent, int) and items.extent > 0, self._guesses[k]
            _carrying(statement, names, lambda s, n: StagedLoop(s, n, guesses, runs).for_(items, body, goes_on))
            return notes.note(
                statement,
                "one native loop: " + ("tp.stage asks for it" if wish else "the number of iterations is traced"),
            )
        if items is not None and _exceeds(items, FEW) and _touches_tensors(statement, names, items):
            found = self._attempted(k, items, body, names, goes_on)
            if found is None:
                return notes.note(statement, f"one native loop of {items.extent} iterations: carried types are stable")
            why = found
        elif items is not None:
            why = f"no more than {FEW} iterations" if not _exceeds(items, FEW) else "it works with Python values only"
        self._unrolled(k, iterable, body, cells, goes_on, why)

    def _attempted(
        self, k: int, items: Items, body: Callable[[Any], Any], names: Names, goes_on: Thunk | None
    ) -> str | None:
        """Try to stage a loop that Python could run as well: why that fails, or None."""
        statement = self._statements[k]
        known = notes.failure(statement)
        if known is not None:
            return known
        found, guesses = Surroundings([(n, names.get(n)) for n in statement.reads]), self._guesses[k]

        def run(statement: Statement, names: Names) -> None:
            StagedLoop(statement, names, guesses, runs=True, by_itself=True).for_(items, body, goes_on)

        try:
            with notes.attempt(is_strict=not found.is_complete):
                _carrying(statement, names, run)
            return None
        except Exception as error:
            if (lost := found.restored()) is not None:
                raise changed_in_place(f"the {statement.kind!r} at {statement.place}", *lost) from None
            why = str(error).partition("\n")[0].partition("; ")[0]
        notes.failed(statement, why)
        if _exceeds(items, SLOW):
            notes.warn_once(
                f"the loop at {statement.place} is traced {items.extent} times instead of becoming one native loop, "
                f"since: {why}. tp.unroll(...) says that this is meant",
            )
        return why

    def _unrolled(
        self, k: int, iterable: Any, body: Callable[[Any], Any], cells: FunctionType, goes_on: Thunk | None, why: str
    ) -> None:
        statement, count = self._statements[k], 0
        guarded = statement.as_guarded
        times = len(iterable) if isinstance(iterable, Sized) else 1
        for item in iterable:
            asked = goes_on() if goes_on is not None and count else True
            with notes.unrolling(times):
                if is_unknown(asked):
                    self._if(guarded, asked, lambda item=item: body(item), None, cells, {})  # type: ignore[misc]
                elif asked:
                    body(item)
                else:
                    break
            count += 1
        notes.note(statement, f"unrolled, {count} times: {why}")

    # -- expressions --------------------------------------------------------------------------------------------------
    def fn(self, f: Any) -> Any:
        if notes.attempting():
            check_repeatable(f)
        return self._callee(f)

    def count(self, f: Any) -> Any:
        """What to call in place of `f` for the items of a loop."""
        return counting(f) or counting_items(f) or self.fn(f)

    def range_(self, f: Any, *labels: str) -> Any:
        """What to call in place of `range` (or what goes by its name), with its arguments as they are written."""
        return partial(named_range, labels) if f is range else self.fn(f)

    def none_of(self, *flags: Any) -> Any:
        """Whether no flag is set."""
        open_flags = []
        for flag in flags:
            if is_unknown(flag):
                open_flags.append(flag)
            elif flag:
                return False
        result: Any = True
        for flag in open_flags:
            result = (
                functions.logical_not(flag)
                if result is True
                else functions.logical_and(result, functions.logical_not(flag))
            )
        return result

    def and_(self, how: int, first: Any, *rest: Thunk) -> Any:
        return and_(how, first, *rest)

    def or_(self, how: int, first: Any, *rest: Thunk) -> Any:
        for k, operand in enumerate(rest):
            if is_unknown(first):
                test = condition(first, f"an operand of 'or' at {user_loc()}")
                return logical(
                    functions.logical_or,
                    how,
                    test,
                    first,
                    partial(continued, self.or_, how, rest[k:]),
                    swap=True,
                )
            if first:
                return first
            first = operand()
        return first

    def not_(self, x: Any) -> Any:
        return not_(x)

    def target(self, x: Any, label: str) -> Any:
        """What `x[i] = v` is said of."""
        return NumPyTarget(x, label) if type(x) is np.ndarray else x

    def if_exp(self, test: Any, body: Thunk, orelse: Thunk) -> Any:
        if is_unknown(test):
            test = condition(test, f"the condition of 'a if c else b' at {user_loc()}")
            return control.cond(test, Branch(body), Branch(orelse))
        return body() if test else orelse()

    def compare(self, how: int, signs: Sequence[str], a: Any, b: Any, *rest: Thunk) -> Any:
        """`a < b < c ...`"""
        first = _OPERATORS[signs[0]](a, b)
        return and_(how, first, lambda: self.compare(how, signs[1:], b, rest[0](), *rest[1:])) if rest else first

    def handling(self, kinds: Thunk) -> AbstractContextManager[None]:
        """Around a `try` that catches exceptions of these kinds."""
        return handling(kinds)

    def holds(self, test: Any, message: Thunk | None) -> Any:
        return holds(test, message)

    def raises(self, test: Any, error: Thunk) -> Any:
        return raises(test, error)

    def fails(self, k: int, test: Any, body: Thunk, cells: FunctionType) -> None:
        """`if test: body()`, where `body` ends with a `raise`."""
        if not is_unknown(test):
            if test:
                body()
            return
        error = StagedIf(self._statements[k], Names(cells), {}).raised(body)
        forbid(test, error)


def _carrying(statement: Statement, names: Names, run: Callable[[Statement, Names], None]) -> None:
    """`run` with the statement, and with what else is found to be changed by it."""
    while True:
        try:
            return run(statement, names)
        except Unforeseen as found:
            statement = names.with_places(statement, found.places)


def _both(how: int, goes_on: Thunk | None, test: Thunk) -> Thunk:
    return test if goes_on is None else lambda: and_(how, goes_on(), test)


# -- questions about values -------------------------------------------------------------------------------------------


def _asked_by(statement: Statement) -> str:
    text = linecache.getline(statement.file, statement.line).strip()
    return f"the condition of {text!r} at {statement.place}" if text else f"a condition at {statement.place}"


def _exceeds(items: Items, limit: int) -> bool:
    """Whether unrolling, with the loops around that are unrolled, makes more than so many copies of the body."""
    return isinstance(items.extent, int) and items.extent * notes.copies() > limit


def _touches_tensors(statement: Statement, names: Names, items: Items) -> bool:
    """Whether the loop could do something with traced values: among its items, or what it reads."""
    if not isinstance(items, Range):
        return True
    return any(_holds_tensors(names.get(path)) for path in statement.reads)


def _holds_tensors(value: Any) -> bool:
    if value is UNDEFINED:
        return False
    return any(isinstance(x, (TracedTensor, Variable)) or _has_variables(x) for x in flatten(value)[0])


def _has_variables(x: Any) -> bool:
    """Whether `x` is an object with tensors or variables among its attributes: a layer, an optimizer."""
    attributes = getattr(x, "__dict__", None)
    if not isinstance(attributes, dict) or isinstance(x, (type, FunctionType)) or hasattr(x, "__spec__"):
        return False
    return any(isinstance(y, (Tensor, Variable)) for v in attributes.values() for y in flatten(v)[0])


_STORES = frozenset(dis.opmap[n] for n in ("STORE_ATTR", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_GLOBAL"))


def check_repeatable(f: Any) -> None:
    """While a loop over Python's numbers is tried as a native loop: raise StagingError for what may give something
    else each time, or has effects in Python."""
    code = getattr(getattr(f, "__func__", f), "__code__", None)
    if isinstance(f, MethodType) and is_users(f.__self__) and not notes.is_strict():
        return  # `surroundings` finds what it changes
    if code is not None and not code.co_filename.startswith(PACKAGE) and not _STORES.isdisjoint(code.co_code[::2]):
        raise StagingError(f"{code.co_name}, called at {user_loc()}, assigns attributes or globals of Python's")
    module = getattr(f, "__module__", None) or type(getattr(f, "__self__", None)).__module__
    owner = getattr(f, "__self__", None)
    if f in (print, input, next, open) or module.split(".")[0] in _EFFECTS or isinstance(owner, Iterator):
        raise StagingError(f"{getattr(f, '__name__', f)} at {user_loc()} may do something else in each iteration")
    if type(owner).__module__.split(".")[0] in _EFFECTS or type(owner).__module__.startswith("numpy.random"):
        raise StagingError(f"{getattr(f, '__name__', f)} at {user_loc()} may give something else in each iteration")


_EFFECTS = {"random", "io", "_io", "time", "logging", "os", "secrets", "uuid"}
