"""Staged `while` and `for`: the body is traced once, and the variables that it changes are carried."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tapefuse._errors import StagingError
from tapefuse._tree import flatten, leaves_with_paths
from tapefuse.ir.graph import Value
from tapefuse.tracer import control
from tapefuse.tracer.operators import functions
from tapefuse.tracer.rewriting.branches import Forms, Revise
from tapefuse.tracer.rewriting.calls import Items, Range
from tapefuse.tracer.rewriting.carried import (
    Given,
    Names,
    Stored,
    Unforeseen,
    difference,
    foresee,
    form_of,
    fresh,
    left,
    pack_all,
    parted,
    shown,
    twins,
    unpack_all,
    watched,
)
from tapefuse.tracer.rewriting.jumps import is_flag
from tapefuse.tracer.rewriting.syntax import Statement
from tapefuse.tracer.surroundings import UNDEFINED, block_of
from tapefuse.tracer.tensor import Tensor, TracedTensor, weakened

Test = Callable[[], Any]
Body = Callable[..., Any]
_WHEN = ("before an iteration", "after it")
_NUMBERS = (int, float, complex)
_PYTHONS = (bool, *_NUMBERS)


class StagedLoop:
    """One loop. `guesses`: forms that values had the last time. `runs`: whether it surely has an iteration.

    `by_itself`: nobody asked for it, so Python's numbers that are read after the loop have to stay Python's.
    """

    def __init__(self, statement: Statement, names: Names, guesses: Forms, runs: bool = False, by_itself: bool = False):
        self._statement, self._names, self._guesses, self._runs = statement, names, guesses, runs
        self._by_itself = by_itself
        self._before = {n: names.get(n) for n in statement.bound}
        stored = {n for n in statement.in_place if self._before[n] is not UNDEFINED}  # others are an iteration's own
        wanted = statement.head | statement.after | stored
        self._carried = [n for n in statement.bound if n in wanted]
        self._forms: Forms = {}
        self._twins = twins({n: self._before[n] for n in self._carried if n in stored & statement.head})
        self._kept: set[str] = set()  # names of lists, dicts and tensors that an iteration leaves there
        self._indices: list[Value] = []  # the number of the iteration, where it is one of the loop's parameters
        self._fates: dict[str, list[int]] = {}  # what an iteration does with the leaves that it gets

    # -- kinds of loops ---------------------------------------------------------------------------------------------
    def while_(self, test: Test, body: Body) -> None:
        def loop(carry: tuple, labels: list[str]) -> tuple:
            return control.while_loop(
                self._asked(test), block_of(lambda c: self._step(body, (), c), body), carry, names=labels
            )

        self._run(loop)

    def for_(self, items: Items, body: Body, test: Test | None) -> None:
        """`test` is asked before each iteration but the first: whether no jump has left the loop."""
        if test is not None:
            return self._for_with_test(items, body, test)
        is_range = isinstance(items, Range)
        start, stop, by = (items.start, items.stop, items.step) if isinstance(items, Range) else (0, items.count, 1)

        def loop(carry: tuple, labels: list[str]) -> tuple:
            def step(k: Any, *carry: Any) -> tuple:
                return self._step(body, (k if is_range else items.at(k),), carry)

            return control.for_loop(start, stop, by, block_of(step, body), carry, labels)

        self._run(loop)

    def _for_with_test(self, items: Items, body: Body, test: Test) -> None:
        count = items.count

        def loop(carry: tuple, labels: list[str]) -> tuple:
            def goes_on(state: tuple) -> Any:
                return functions.logical_and(state[0] < count, self._asked(test)(state[1:]))

            def step(state: tuple) -> tuple:
                self._indices = [*_values(state[0])]
                return state[0] + 1, *self._step(body, (items.at(state[0]),), state[1:])

            zero = weakened(functions.zeros((), "int64"))
            named = block_of(step, body)
            return control.while_loop(block_of(goes_on, test), named, (zero, *carry), names=["the index", *labels])[1:]

        self._run(loop)

    # -- one iteration ------------------------------------------------------------------------------------------------
    def _run(self, loop: Callable[[tuple, list[str]], tuple]) -> None:
        foresee(self._statement, self._names)
        try:
            results = self._traced(loop)
        finally:
            self._restore()
        for name in self._statement.bound:
            self._names.set(name, results.get(name, UNDEFINED))

    def _traced(self, loop: Callable[[tuple, list[str]], tuple]) -> dict[str, Any]:
        self._forms = {n: form_of(self._before[n]) for n in self._carried}
        for name, form in self._forms.items():
            if form.tree is None and name in self._guesses and self._may_be_missing(name):
                self._forms[name] = self._guesses[name]
        for _ in range(2 + len(self._carried) + len(self._twins)):
            carry = pack_all(self._before, self._forms, self._twins)
            try:
                ys = loop(carry, [shown(n, quoted=False) for n in self._carried])
            except Revise as revised:
                self._forms = revised.forms
                continue
            self._guesses.update(self._forms)
            values = unpack_all(ys, self._forms, self._twins)
            return {n: left(self._before[n], y, self._fates.get(n), n in self._kept) for n, y in values.items()}
        raise AssertionError(f"the forms of {self._carried} do not settle")

    def _asked(self, test: Test) -> Callable[[tuple], Any]:
        """The condition as a function of what is carried."""

        def asked(carry: tuple) -> Any:
            self._enter(carry)
            return truth(test(), self._statement)

        return block_of(asked, test)

    def _enter(self, carry: tuple) -> dict[str, Any]:
        """Bind the names for an iteration; gives what was bound."""
        given = unpack_all(carry, self._forms, self._twins)
        for name in self._statement.bound:
            self._names.set(name, given.get(name, UNDEFINED))
        return given

    def _step(self, body: Body, arguments: tuple, carry: tuple) -> tuple:
        given = self._enter(
            tuple([fresh(y) if n in self._statement.in_place else y for n, y in zip(self._carried, carry, strict=True)])
        )
        own = Given(given)
        with watched(self._statement, self._names):
            body(*arguments)
            values = {n: self._left(n, given) for n in self._carried}
        if unforeseen := [n for n in self._carried if n not in self._statement.in_place and any(own.stores(n))]:
            raise Unforeseen([Stored(n) for n in unforeseen])
        self._agree(values, given)
        self._part(values, own)
        self._kept = {n for n in self._statement.in_place if n in values and own.has(n, values[n])}
        self._fates = {n: own.fates(n, value) for n, value in values.items()}
        return pack_all(values, self._forms, self._twins)

    def _part(self, values: dict[str, Any], own: Given) -> None:
        """Raises Revise when tensors that were one before the loop are not so after an iteration, StagingError if that
        matters: the iteration has stored into the one."""
        apart = parted(self._twins, values)
        for one, other in apart.items():
            if own.stores(other[0])[other[1]]:
                a, b = [[*leaves_with_paths(values[n], n)][k][0] for n, k in (other, one)]
                raise StagingError(
                    f"{a!r} and {b!r} in the {self._statement.kind!r} at {self._statement.place} are one tensor before "
                    "the loop, which an iteration stores into, and two after an iteration; let each have its own "
                    f"before the loop: {b} = {a}.copy()"
                )
        if apart:
            self._twins = {one: other for one, other in self._twins.items() if one not in apart}
            raise Revise(self._forms)

    def _left(self, name: str, given: dict[str, Any]) -> Any:
        """What an iteration leaves in a name; in one that nobody reads any more, if it is unbound, what it got."""
        value = self._names.get(name)
        is_read = name in self._statement.after or name in self._statement.head
        return given.get(name, UNDEFINED) if value is UNDEFINED and not is_read else value

    def _agree(self, values: dict[str, Any], given: dict[str, Any]) -> None:
        """Raises Revise when more is known about what is carried than before."""
        revised: Forms = {}
        for name, value in values.items():
            before, after = self._forms[name], form_of(value)
            if after.tree is None and before.tree is None:
                continue
            if self._before[name] is UNDEFINED and after.tree is not None:
                self._check_may_be_missing(name)
                if str(before) != str(after) and before.tree is None:
                    revised[name] = after
                    continue
            if self._by_itself and name in self._statement.after and self._is_pythons(name, values, given):
                raise StagingError(f"{shown(name)} is a Python number, and is read after the loop")
            if not before.fits(after):
                raise difference(self._statement, name, before, after, _WHEN)
        if revised:
            raise Revise({**self._forms, **revised})

    def _is_pythons(self, name: str, values: dict[str, Any], given: dict[str, Any]) -> bool:
        """Whether a Python number would be one after iterations in Python: no tensor has a part in it, and no condition
        on one, which makes a traced value of it too."""
        if not _was_number(self._before[name], values[name]):
            return False
        after: dict[Value, Any] = {}
        for n, value in values.items():
            leaves = zip(flatten(self._before[n])[0], flatten(given[n])[0], flatten(value)[0], strict=False)
            after |= {x._value: y for old, x, y in leaves if type(old) in _PYTHONS and isinstance(x, TracedTensor)}
        numbers = {*after, *self._indices}
        while changed := {x for x in numbers & after.keys() if _has_others(after[x], numbers)}:
            numbers -= changed
            if self._indices and any(is_flag(n) and changed & _values(given[n]) for n in values):
                return False  # whether there is another iteration is up to a tensor
        return not any(_has_others(y, numbers) for y in flatten(values[name])[0])

    def _may_be_missing(self, name: str) -> bool:
        """Whether a variable need not have a value before the first iteration."""
        return is_flag(name) or (self._runs and name not in self._statement.head)

    def _check_may_be_missing(self, name: str) -> None:
        if self._may_be_missing(name):
            return
        when = "after the loop" if name not in self._statement.head else "by a later iteration"
        raise StagingError(
            f"{shown(name)} in the {self._statement.kind!r} at {self._statement.place} is first assigned inside of the "
            f"loop and read {when}, and the loop may have no iteration; assign {shown(name)} a value of the same dtype "
            "and shape before the loop"
        )

    def _restore(self) -> None:
        for name, value in self._before.items():
            self._names.set(name, value)


def truth(x: Any, statement: Statement) -> Any:
    """A condition as a bool scalar, as far as that is not an error."""
    return functions.not_equal(x, 0) if isinstance(x, Tensor) and x.shape == () and x.dtype.kind != "b" else x


def _values(x: Any) -> set[Value]:
    return {y._value for y in flatten(x)[0] if isinstance(y, TracedTensor)}


def _has_others(x: Any, numbers: Collection[Value]) -> bool:
    """Whether a value is computed from parameters that are not among `numbers`."""
    seen, stack = set[Value](), [*_values(x)]
    while stack:
        v = stack.pop()
        if v in seen or v in numbers:
            continue
        if v.op is None:
            return True
        seen.add(v)
        stack += v.args
    return False


def _was_number(before: Any, after: Any) -> bool:
    """Whether Python numbers are numbers still, be they traced."""
    pairs = zip(flatten(before)[0], flatten(after)[0], strict=False)
    return any(type(a) in _NUMBERS and getattr(b, "weak", type(b) in _NUMBERS) for a, b in pairs)
