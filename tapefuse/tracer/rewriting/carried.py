"""The values that a staged statement takes in and leaves: read from the user's names, compared, turned into tensors.

A value is a structure of leaves. What a leaf is, from one branch or iteration to another, is its `Leaf`: a tensor of a
type, a Python number that has become a tensor (`weak`), or any other object, which must stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import CellType, FunctionType
from typing import Any

import numpy as np

from tapefuse._errors import StagingError
from tapefuse._records import dataclass
from tapefuse._tree import NONE, Tree, flatten, leaves_with_paths, unflatten
from tapefuse.ir.types import Poly, Type
from tapefuse.tracer.operators import functions
from tapefuse.tracer.rewriting.jumps import RESULT, is_flag
from tapefuse.tracer.rewriting.syntax import Statement
from tapefuse.tracer.state import state
from tapefuse.tracer.surroundings import (
    CONTENTS,
    UNDEFINED,
    Place,
    Slot,
    Surroundings,
    changed_in_place,
    is_same,
    is_users,
)
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, assume, key_of, weakened
from tapefuse.tracer.variable import Variable

# -- names ------------------------------------------------------------------------------------------------------------


class Names:
    """The user's variables by name, through the closure of a function that mentions them; also `self.x`."""

    def __init__(self, cells: FunctionType):
        closure: tuple[CellType, ...] = cells.__closure__ or ()
        self._cells = dict(zip(cells.__code__.co_freevars, closure, strict=True))
        self._globals = cells.__globals__

        self._places: dict[str, Place] = {}

    def get(self, path: str) -> Any:
        if path in self._places:
            return self._places[path].get()
        root, *attributes = path.split(".")
        if root in self._cells:
            try:
                value = self._cells[root].cell_contents
            except ValueError:
                return UNDEFINED
        else:
            value = self._globals.get(root, UNDEFINED)
        for name in attributes:
            value = getattr(value, name, UNDEFINED)
        return value

    def set(self, path: str, value: Any) -> None:
        if path in self._places:
            return self._places[path].set(value)
        root, *attributes = path.split(".")
        if attributes:
            self._set_attribute(self.get(path.rpartition(".")[0]), attributes[-1], value)
        elif root not in self._cells:
            if value is UNDEFINED:
                self._globals.pop(root, None)
            else:
                self._globals[root] = value
        elif value is not UNDEFINED:
            self._cells[root].cell_contents = value
        elif self.get(root) is not UNDEFINED:
            del self._cells[root].cell_contents

    def slots(self, paths: Iterable[str]) -> frozenset[Slot]:
        """Where the values of these names are kept."""
        return frozenset(map(self._slot, paths))

    def _slot(self, path: str) -> Slot:
        if path in self._places:
            place = self._places[path]
            return id(place.owner), place.key
        owner, _, name = path.rpartition(".")
        if owner:
            return id(self.get(owner)), name
        return (id(self._cells[path]), CONTENTS) if path in self._cells else (id(self._globals), path)

    def with_places(self, statement: Statement, places: Sequence[Place]) -> Statement:
        """The statement with more that it may change. Raises StagingError for what it has already."""
        known, new = self.slots(statement.bound), []
        for place in places:
            if (id(place.owner), place.key) in known:
                raise changed_in_place(f"the {statement.kind!r} at {statement.place}", place.path, place.get())
            path = place.path
            while path in statement.bound or path in new:
                path += "'"
            self._places[path] = place
            new.append(path)
        more = frozenset(new)
        return replace(
            statement, bound=(*statement.bound, *new), after=statement.after | more, head=statement.head | more
        )

    def _set_attribute(self, owner: Any, name: str, value: Any) -> None:
        if value is not UNDEFINED:
            setattr(owner, name, value)
        elif hasattr(owner, name):
            delattr(owner, name)


def shown(name: str, quoted: bool = True) -> str:
    """A name for messages."""
    if name == RESULT:
        return "the returned value"
    return "how a loop was left" if is_flag(name) else repr(name) if quoted else name


# -- leaves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """`type` None: `value` is an object that stays the same."""

    type: Type | None
    weak: bool = False
    value: Any = None

    def __str__(self) -> str:
        if self.type is None:
            return f"{self.value!r} ({type(self.value).__name__})"
        return str(self.type)

    def fits(self, other: Leaf) -> bool:
        """Whether both are tensors, of whatever types, or the same object."""
        if self.type is None or other.type is None:
            return self.type is other.type and is_same(self.value, other.value)
        return True


def leaf_of(x: Any) -> Leaf:
    if isinstance(x, Tensor):
        return Leaf(x.type, x.weak)
    if isinstance(x, (np.ndarray, np.generic, bool, Poly)) or type(x) in (int, float, complex):
        return Leaf(as_tensor(x).type, type(x) in (int, float, complex))
    return Leaf(None, value=x)


# -- structures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The structure of a variable's value and what its leaves are; `tree` None: the variable is not defined."""

    tree: Tree | None
    leaves: tuple[Leaf, ...] = ()

    def __str__(self) -> str:
        if self.tree is None:
            return "not defined"
        return str(unflatten(self.tree, [_Text(leaf) for leaf in self.leaves]))

    def fits(self, other: Form) -> bool:
        """Whether values of both forms can be one value of the program, as far as Python's part of them goes."""
        return self.tree == other.tree and all(a.fits(b) for a, b in zip(self.leaves, other.leaves, strict=True))


class _Text:
    def __init__(self, x: Any):
        self._x = x

    def __repr__(self) -> str:
        return str(self._x)


NOT_DEFINED = Form(None)


def form_of(value: Any) -> Form:
    if value is UNDEFINED:
        return NOT_DEFINED
    leaves, tree = flatten(value)
    return Form(tree, tuple(map(leaf_of, leaves)))


def pack(value: Any, form: Form) -> Any:
    """The structure of the tensors and numbers in a value, None in place of other objects; zeros if it is undefined."""
    if form.tree is None:
        return None
    if value is UNDEFINED:
        return unflatten(form.tree, [_zeros(leaf) for leaf in form.leaves])
    pairs = zip(flatten(value)[0], form.leaves, strict=True)
    return unflatten(form.tree, [None if leaf.type is None else _number(x) for x, leaf in pairs])


def _number(x: Any) -> Any:
    return weakened(as_tensor(x)) if isinstance(x, Poly) else x


def _zeros(leaf: Leaf) -> Any:
    if leaf.type is None:
        return None
    if leaf.weak:
        return {"f": 0.0, "c": 0j}.get(leaf.type.dtype.kind, 0)
    return functions.zeros(leaf.type.shape, leaf.type.dtype)


def unpack(packed: Any, form: Form) -> Any:
    """The value that `pack` took apart."""
    if form.tree is None:
        return UNDEFINED
    rest = iter(flatten(packed)[0])
    return unflatten(form.tree, [leaf.value if leaf.type is None else next(rest) for leaf in form.leaves])


# -- messages ---------------------------------------------------------------------------------------------------------


def difference(statement: Statement, name: str, before: Form, after: Form, when: tuple[str, str]) -> Exception:
    """The error for a variable whose value has two forms. `when`: what to call the two moments."""
    one, other = when
    place = f"{statement.kind!r} at {statement.place}"
    what = f"{shown(name)} in the {place}"
    if before.tree != after.tree:
        cure = "give it one structure throughout"
        if name == RESULT:
            if NONE in (before.tree, after.tree):
                path = one if after.tree == NONE else other
                return StagingError(f"the {place} returns a value {path} only; return one on every path")
            cure = "return the same structure on every path"
        if NONE in (before.tree, after.tree):
            cure = "start with a tensor or number of the shape and dtype that it gets, in place of None"
        elif before.tree is not None and before.tree.kind in (list, dict):
            cure = (
                "a list or dict cannot grow in a loop of the compiled program: make tp.zeros((n, ...)) before the loop "
                "and assign out[i] = value, or use tp.scan, or tp.unroll(range(...)) if the number of steps is fixed"
            )
        return StagingError(f"{what} is {before} {one} and {after} {other}; {cure}")
    for path, a, b in _unlike(name, before, after):
        if a.type is None or b.type is None:
            cure = "use numbers for it, or tp.unroll(range(...)) if the number of steps is fixed"
            if any(isinstance(x.value, Variable) for x in (a, b)):
                cure = f"bind another name, as in y = {name}.value(), before it, or change the variable by .assign(...)"
            elif any(is_users(x.value) for x in (a, b)):
                cure = "assign its attributes, x.a = ..., in place of a new object, or use tuples and dicts"
            return StagingError(
                f"{shown(path)} in the {place} is {a} {one} and {b} {other}; only tensors and numbers can depend on "
                f"traced values: {cure}"
            )
    raise AssertionError(f"{name} is {before} twice")


def _unlike(name: str, before: Form, after: Form) -> Iterable[tuple[str, Leaf, Leaf]]:
    assert before.tree is not None
    paths = [path for path, _ in leaves_with_paths(unflatten(before.tree, before.leaves), name)]
    for path, a, b in zip(paths, before.leaves, after.leaves, strict=True):
        if not a.fits(b):
            yield path, a, b


# -- identity ---------------------------------------------------------------------------------------------------------


def fresh(value: Any) -> Any:
    """Lists, dicts and tensors as new objects of the trace under way, which a block may write to."""
    if isinstance(value, (list, tuple, dict)):
        leaves, tree = flatten(value)
        return unflatten(tree, map(fresh, leaves))
    trace = state.trace
    if not isinstance(value, Tensor) or trace is None:
        return value
    new = TracedTensor(trace.value_of(value), trace)
    new._key = key_of(value)
    return weakened(new) if value.weak else new


def become(old: Any, new: Any) -> Any:
    """The object `old` with the contents of `new` if that can be, else `new`."""
    if type(old) is type(new) and isinstance(old, (list, dict)):
        _refill(old, new)
        return old
    if isinstance(old, Tensor) and isinstance(new, Tensor) and state.trace is not None and state.trace.owns(old):
        assume(old, new)
        return old
    return new


# -- Python objects that blocks change --------------------------------------------------------------------------------


class Unforeseen(Exception):
    """To be traced again with more places that are carried."""

    def __init__(self, places: Sequence[Place]):
        super().__init__()
        self.places = places


def roots(statement: Statement, names: Names) -> list[tuple[str, Any]]:
    """What a block can reach that it does not get as an object of its own (see `fresh`)."""
    given = (Tensor, np.ndarray, list, dict, tuple)
    found = [(n, names.get(n)) for n in statement.reads]
    return [(n, x) for n, x in found if n not in statement.in_place or not isinstance(x, given)]


@contextmanager
def watched(statement: Statement, names: Names) -> Iterator[None]:
    """The block is one of a statement: what it changes of Python's objects is undone.

    Raises Unforeseen for what can be carried, StagingError for other changes.
    """
    found = Surroundings(roots(statement, names), names.slots(statement.bound))
    try:
        yield
    except Exception:
        found.restored()
        raise
    changes = found.changes()
    if changes.other is not None:
        raise changed_in_place(f"the {statement.kind!r} at {statement.place}", *changes.other)
    if changes.places:
        raise Unforeseen(changes.places)


def _refill(x: Any, contents: Any) -> None:
    if isinstance(x, list):
        x[:] = contents
    else:
        x.clear()
        x.update(contents)
