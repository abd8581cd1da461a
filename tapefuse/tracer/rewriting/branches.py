"""A staged `if`: both branches are traced, and the variables that are read later come out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapefuse._errors import StagingError
from tapefuse._tree import flatten, unflatten
from tapefuse.tracer import control
from tapefuse.tracer.rewriting.carried import (
    Form,
    Given,
    Names,
    difference,
    foresee,
    form_of,
    fresh,
    left,
    pack_all,
    parted,
    roots,
    shown,
    twins,
    unpack_all,
    watched,
)
from tapefuse.tracer.rewriting.demands import raised
from tapefuse.tracer.rewriting.jumps import is_flag
from tapefuse.tracer.rewriting.syntax import Statement
from tapefuse.tracer.surroundings import UNDEFINED, Surroundings, block_of, is_same
from tapefuse.tracer.tensor import TracedTensor

Forms = dict[str, Form]
Branch = Callable[[], Any] | None
_WHEN = ("when it is true", "when it is false")


class Revise(Exception):
    """To be traced again, for values of these forms."""

    def __init__(self, forms: Forms):
        super().__init__()
        self.forms = forms


class StagedIf:
    """One `if` on a traced condition. `guesses`: forms that values had the last time, which are tried first."""

    def __init__(self, statement: Statement, names: Names, guesses: Forms):
        self._statement, self._names, self._guesses = statement, names, guesses
        self._before = {n: names.get(n) for n in statement.bound}
        stored = {n for n in statement.in_place if self._before[n] is not UNDEFINED}  # others are a branch's own
        self._outs = [n for n in statement.bound if n in statement.after or n in stored]
        self._twins = twins({n: self._before[n] for n in self._outs if n in stored})
        self._values: dict[int, dict[str, Any]] = {}  # that each branch leaves, 0: when it is true
        self._fates: dict[int, dict[str, list[int]]] = {}  # what it has done with the leaves that it got
        self._kept: dict[int, set[str]] = {}  # names that are still bound to the object that the branch got

    def run(self, condition: TracedTensor, body: Branch, orelse: Branch) -> None:
        foresee(self._statement, self._names)
        try:
            results = self._traced(condition, body, orelse)
        finally:
            self._restore()
        kept = self._kept[0] & self._kept[1]
        for name, value in results.items():
            fates = list(map(max, self._fates[0][name], self._fates[1][name]))
            results[name] = left(self._before[name], value, fates, name in kept)
        for name in self._statement.bound:
            self._names.set(name, results.get(name, UNDEFINED))

    def raised(self, body: Callable[[], Any]) -> Exception:
        """What the block raises; all names are as before."""
        self._restore(as_fresh=True)
        found = Surroundings(roots(self._statement, self._names))
        try:
            return raised(body)
        finally:
            found.restored()
            self._restore()

    def _traced(self, condition: TracedTensor, body: Branch, orelse: Branch) -> dict[str, Any]:
        forms = {n: f for n, f in self._guesses.items() if n in self._outs}
        labels = [shown(n, quoted=False) for n in self._outs]
        for _ in range(2 + len(self._outs) + 2 * len(self._twins)):
            found: Forms = {}
            branches = [self._branch(block, forms, found, k, body or orelse) for k, block in enumerate((body, orelse))]
            try:
                ys = control.cond(condition, *branches, names=labels)
            except Revise as revised:
                forms = revised.forms
                continue
            self._guesses.update(found)
            true, false = self._values[0], self._values[1]
            values = unpack_all(ys, found, self._twins)
            return {n: _where_same(y, true[n], false[n]) for n, y in values.items()}
        raise AssertionError(f"the forms of {self._outs} do not settle")

    def _branch(self, block: Branch, forms: Forms, found: Forms, k: int, like: Branch) -> Callable[[], tuple]:
        """A branch as a function that returns tensors. The one that runs first sets `found`, the other must agree."""

        def run() -> tuple:
            given = self._restore(as_fresh=True)
            own = Given(given)
            with watched(self._statement, self._names):
                if block is not None:
                    block()
                values = {n: self._left(n, given) for n in self._outs}
            self._values[k] = values
            self._kept[k] = {n for n, value in values.items() if own.has(n, value)}
            self._fates[k] = {n: own.fates(n, value) for n, value in values.items()}
            self._agree(values, forms, found, k)
            if apart := parted(self._twins, values):
                self._twins = {one: other for one, other in self._twins.items() if one not in apart}
                raise Revise({**forms, **found})
            return pack_all(values, found, self._twins)

        return block_of(run, block or like)

    def _left(self, name: str, given: dict[str, Any]) -> Any:
        """What a branch leaves in a name; in one that nobody reads any more, if it is unbound, what it got."""
        value = self._names.get(name)
        is_dead = value is UNDEFINED and name not in self._statement.after
        return given.get(name, self._before[name]) if is_dead else value

    def _agree(self, values: dict[str, Any], forms: Forms, found: Forms, k: int) -> None:
        """Bring `found` to hold the values; raises Revise when the branch before has to be traced anew."""
        if not found:
            for name, value in values.items():
                form, known = form_of(value), forms.get(name)
                found[name] = known if known is not None and form.tree is None else form
            return
        revised = {}
        for name, value in values.items():
            form, known, other = form_of(value), found[name], self._values[1 - k][name]
            if value is UNDEFINED and other is UNDEFINED:
                continue
            if value is UNDEFINED or other is UNDEFINED:
                self._check_defined(name, k if value is UNDEFINED else 1 - k, known if value is UNDEFINED else form)
            if other is UNDEFINED and str(form) != str(known):
                revised[name] = form
            elif value is not UNDEFINED and not form.fits(known):
                one, two = (known, form) if k else (form, known)
                raise difference(self._statement, name, one, two, _WHEN)
        if revised:
            raise Revise({**forms, **found, **revised})

    def _check_defined(self, name: str, missing_in: int, form: Form) -> None:
        if is_flag(name):
            return
        where, branch = ("else", "if")[missing_in], ("if", "else")[missing_in]
        raise StagingError(
            f"{shown(name)} in the {self._statement.kind!r} at {self._statement.place} is assigned in one branch only, "
            f"as {form} in the {where!r} branch, and read later; assign it in the {branch!r} branch as well, "
            "or before the statement"
        )

    def _restore(self, as_fresh: bool = False) -> dict[str, Any]:
        """Bind the names as they were before; what is written to in place as objects of its own. Gives the latter."""
        given, made = dict[str, Any](), dict[int, Any]()
        for name, value in self._before.items():
            if as_fresh and name in self._statement.in_place:
                value = given[name] = fresh(value, made)
            self._names.set(name, value)
        return given


def _where_same(value: Any, true: Any, false: Any) -> Any:
    """Leaves that both branches leave as one Python value stay one."""
    if true is UNDEFINED or false is UNDEFINED:
        return value
    leaves, tree = flatten(value)
    pairs = zip(leaves, flatten(true)[0], flatten(false)[0], strict=True)
    return unflatten(tree, [a if is_same(a, b) and not isinstance(a, TracedTensor) else y for y, a, b in pairs])
