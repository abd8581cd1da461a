"""The values that a staged statement takes in and leaves: read from the user's names, compared, turned into tensors.

A value is a structure of leaves. What a leaf is, from one branch or iteration to another, is its `Leaf`: a tensor of a
type, a Python number that has become a tensor (`weak`), or any other object, which must stay the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import CellType, FunctionType
from typing import Any

import numpy as np

from tapefuse._errors import StagingError
from tapefuse._records import dataclass
from tapefuse._tree import NONE, Tree, flatten, leaves_with_paths, unflatten
from tapefuse.ir.types import Poly, Type
from tapefuse.tracer.extents import plain
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
    holds,
    is_same,
    is_users,
)
from tapefuse.tracer.tensor import OuterStoreError, Tensor, TracedTensor, as_tensor, assume, key_of, weakened
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

    def with_places(self, statement: Statement, places: Sequence[Place | Stored]) -> Statement:
        """The statement with more that it may change. Raises StagingError for what it has already."""
        known = {self._slot(n): n for n in statement.bound}
        new, stored = list[str](), set[str]()
        for found in places:
            at = found.at if isinstance(found, Stored) else found
            path = at if isinstance(at, str) else known.get((id(at.owner), at.key))
            if path is not None and not isinstance(found, Stored):
                raise changed_in_place(f"the {statement.kind!r} at {statement.place}", found.path, found.get())
            if path is None:
                assert isinstance(at, Place)
                path = at.path
                while path in (*statement.bound, *statement.reads, *new):
                    path += "'"
                self._places[path] = at
            if path not in statement.bound and path not in new:
                new.append(path)
                known[self._slot(path)] = path
            if isinstance(found, Stored):
                stored.add(path)
        more = frozenset(new)
        return replace(
            statement,
            bound=(*statement.bound, *new),
            in_place=statement.in_place | stored,
            after=statement.after | more,
            head=statement.head | more,
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


def pack(value: Any, form: Form, without: Container[int] = ()) -> Any:
    """The structure of the tensors and numbers in a value, None in place of other objects; zeros if it is undefined.

    `without`: numbers of leaves that are None as well.
    """
    if form.tree is None:
        return None
    leaves = [_zeros(leaf) for leaf in form.leaves] if value is UNDEFINED else map(plain, flatten(value)[0])
    pairs = enumerate(zip(leaves, form.leaves, strict=True))
    return unflatten(form.tree, [None if leaf.type is None or k in without else x for k, (x, leaf) in pairs])


def _zeros(leaf: Leaf) -> Any:
    if leaf.type is None:
        return None
    if leaf.weak:
        return {"f": 0.0, "c": 0j}.get(leaf.type.dtype.kind, 0)
    return functions.zeros(leaf.type.shape, leaf.type.dtype)


At = tuple[str, int]  # of a leaf: the name, and its number in the value


def pack_all(values: Mapping[str, Any], forms: Mapping[str, Form], same: Mapping[At, At]) -> tuple:
    """The values of names, packed. `same`: leaves that are another one, which are left out."""
    return tuple([pack(values[n], form, {k for m, k in same if m == n}) for n, form in forms.items()])


def unpack_all(packed: Sequence[Any], forms: Mapping[str, Form], same: Mapping[At, At]) -> dict[str, Any]:
    """The values that `pack_all` took apart, by name."""
    leaves: dict[At, Any] = {}
    values = {}
    for (name, form), y in zip(forms.items(), packed, strict=True):
        rest = iter(flatten(y)[0])
        for at, leaf in [((name, k), leaf) for k, leaf in enumerate(form.leaves)]:
            leaves[at] = leaves[same[at]] if at in same else leaf.value if leaf.type is None else next(rest)
        own = [leaves[name, k] for k in range(len(form.leaves))]
        values[name] = UNDEFINED if form.tree is None else unflatten(form.tree, own)
    return values


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


def fresh(value: Any, made: dict[int, Tensor] | None = None) -> Any:
    """Lists, dicts and tensors as new objects of the trace under way, which a block may write to.

    `made`: those for tensors met before, by the identity of the old ones.
    """
    if isinstance(value, (list, tuple, dict)):
        leaves, tree = flatten(value)
        made = {} if made is None else made
        return unflatten(tree, [fresh(x, made) for x in leaves])
    trace = state.trace
    if not isinstance(value, Tensor) or trace is None:
        return value
    if made is not None and id(value) in made:
        return made[id(value)]
    new: Tensor = TracedTensor(trace.value_of(value), trace)
    new._key = key_of(value)
    new = weakened(new) if value.weak else new
    if made is not None:
        made[id(value)] = new
    return new


def twins(values: Mapping[str, Any]) -> dict[At, At]:
    """Leaves that are the same tensor as an earlier one, and that one."""
    first: dict[int, At] = {}
    tensors = [((n, k), x) for n, v in values.items() for k, x in enumerate(flatten(v)[0]) if isinstance(x, Tensor)]
    return {at: first[id(x)] for at, x in tensors if first.setdefault(id(x), at) != at}


def parted(same: Mapping[At, At], values: Mapping[str, Any]) -> dict[At, At]:
    """Those of the twins that are two objects among these values."""
    leaves = {n: flatten(values[n])[0] for n in {at[0] for pair in same.items() for at in pair}}

    def leaf(at: At) -> Any:
        return leaves[at[0]][at[1]] if at[1] < len(leaves[at[0]]) else None

    return {a: b for a, b in same.items() if leaf(a) is not leaf(b)}


KEPT, STORED, NEW = range(3)  # what became of a leaf: the same object, that with another value, another object


class Given:
    """What a block gets as objects of its own, by name, to find out what it has done to them."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values
        self._leaves = {n: [(x, _value_of(x)) for x in flatten(v)[0]] for n, v in values.items()}

    def stores(self, name: str) -> list[bool]:
        """Which leaves it has stored into."""
        return [_value_of(x) is not was for x, was in self._leaves.get(name, ())]

    def fates(self, name: str, value: Any) -> list[int]:
        """What became of the leaves of the value that the name has now."""
        leaves, tree = flatten(value)
        if name not in self._values or tree != flatten(self._values[name])[1]:
            return [NEW] * len(leaves)
        olds = zip(leaves, self._leaves[name], self.stores(name), strict=True)
        return [NEW if y is not x else STORED if is_stored else KEPT for y, (x, _), is_stored in olds]

    def has(self, name: str, value: Any) -> bool:
        """Whether it has left the list, dict or tensor itself."""
        return name in self._values and self._values[name] is value


def _value_of(x: Any) -> Any:
    return x._value if isinstance(x, TracedTensor) else None


def left(before: Any, value: Any, fates: Sequence[int] | None, is_kept: bool) -> Any:
    """The value of a name after a statement that leaves `value`: the objects that it had `before`, with what the
    statement has done to them, and new ones. Raises OuterStoreError if it has changed a tensor of another program.

    `fates`: None if it has not run.
    """
    (olds, tree), (leaves, other) = flatten(before), flatten(value)
    if before is UNDEFINED or tree != other or fates is None:
        return value
    for k, (old, new, fate) in enumerate(zip(olds, leaves, fates, strict=True)):
        if fate == STORED and isinstance(old, Tensor):
            assume(old, new)
        leaves[k] = new if fate == NEW or (fate == STORED and not isinstance(old, Tensor)) else old
    if all(x is y for x, y in zip(olds, leaves, strict=True)) and not isinstance(before, (list, dict)):
        return before
    value = unflatten(tree, leaves)
    if is_kept and type(before) is type(value) and isinstance(before, (list, dict)):
        _refill(before, value)
        return before
    return value


# -- Python objects that blocks change --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A name, or a place, with a tensor that a block stores into, or a tuple of such."""

    at: Place | str


class Unforeseen(Exception):
    """To be traced again with more names and places that are carried."""

    def __init__(self, places: Sequence[Place | Stored]):
        super().__init__()
        self.places = places


def roots(statement: Statement, names: Names) -> list[tuple[str, Any]]:
    """What a block can reach that it does not get as an object of its own (see `fresh`)."""
    given = (Tensor, np.ndarray, list, dict, tuple)
    found = [(n, names.get(n)) for n in statement.reads]
    return [(n, x) for n, x in found if n not in statement.in_place or not isinstance(x, given)]


def foresee(statement: Statement, names: Names) -> None:
    """Raises Unforeseen if a tensor that a statement is to store into has other names and places than are known."""
    known = [names.get(n) for n in statement.in_place]
    tensors = {id(x) for value in known for x in flatten(value)[0] if isinstance(x, Tensor)}
    if not tensors:
        return
    own = set() if statement.kind == "if" else {n for n in statement.bound if n not in statement.head}
    others = [n for n in _reached(statement) if n not in statement.in_place and n not in own]
    found = [Stored(n) for n in others if holds(names.get(n), tensors)]
    inside = {id(x) for value in known for x in _containers(value)}
    places = Surroundings(roots(statement, names), names.slots(statement.in_place)).holding(tensors)
    found += [Stored(p) for p in places if id(p.owner) not in inside]
    if found:
        raise Unforeseen(found)


def _reached(statement: Statement) -> list[str]:
    return list(dict.fromkeys((*statement.reads, *statement.bound)))


def _containers(x: Any) -> Iterator[Any]:
    if isinstance(x, (list, tuple, dict)):
        yield x
        for part in x.values() if isinstance(x, dict) else x:
            yield from _containers(part)


@contextmanager
def watched(statement: Statement, names: Names) -> Iterator[None]:
    """The block is one of a statement: what it changes of Python's objects is undone.

    Raises Unforeseen for what can be carried, StagingError for other changes.
    """
    found = Surroundings(roots(statement, names), names.slots(statement.bound))
    before = {n: names.get(n) for n in _reached(statement)}
    try:
        yield
    except OuterStoreError as error:
        found.restored()
        tensors = {id(error.tensor)}
        holders = [n for n, value in before.items() if holds(value, tensors)]
        places = [*map(Stored, holders), *map(Stored, found.holding(tensors))]
        if not places or not statement.in_place.isdisjoint(holders):  # a part of the block that is no statement
            raise
        raise Unforeseen(places) from None
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
