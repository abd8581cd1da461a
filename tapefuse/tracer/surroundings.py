"""Python objects that a traced block may change without the program noticing: what it reaches by the names it reads.

A block of a loop or branch is traced once, however often it runs. What it assigns to names is carried by the program.
What functions that it calls do to attributes, lists, dicts and variables of functions around them is found here, by
comparing all of that before and after:

>>> found = Surroundings([("model", model)])
>>> model.step()
>>> [place.path for place in found.changes().places]
['model.count']

A `Place` can be carried like a name. Other changes (`append`, stores into NumPy arrays, iterators that go on) cannot.
"""

from __future__ import annotations

import dis
import itertools
import operator
import sys
import weakref
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, GeneratorType, MethodType, SimpleNamespace
from typing import Any

import numpy as np

from tapefuse._errors import StagingError
from tapefuse._records import dataclass
from tapefuse._tree import flatten
from tapefuse.ir.types import Poly
from tapefuse.tracer.source import OURS, is_users_file
from tapefuse.tracer.tensor import Tensor, TracedTensor

MOST = 500  # so many objects are looked at
LONGEST = 4096  # entries of containers that are compared; of longer ones the number alone
LARGEST = 1 << 16  # bytes of NumPy arrays whose elements are compared
CONTENTS = "cell_contents"


class _Undefined:
    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Undefined()
Slot = tuple[int, Any]  # identity of an object, and which of its values


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where Python keeps a value: an attribute, an entry of a list or dict, a variable of a function or module."""

    path: str
    owner: Any
    key: Any
    is_entry: bool

    def get(self) -> Any:
        if not self.is_entry:
            return _attribute(self.owner, self.key)
        try:
            return self.owner[self.key]
        except (KeyError, IndexError):
            return UNDEFINED

    def set(self, value: Any) -> None:
        if self.is_entry and value is not UNDEFINED:
            self.owner[self.key] = value
        elif self.is_entry:
            self.owner.pop(self.key, None)
        elif value is not UNDEFINED:
            _assign(self.owner, self.key, value)
        elif self.get() is not UNDEFINED:
            delattr(self.owner, self.key)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What a block has changed: places that can be carried, and the first object of which that cannot be said."""

    places: list[Place]
    other: tuple[str, Any] | None


class _Noted:
    """One object and what it was."""

    __slots__ = ("direct", "object", "old", "path")

    def __init__(self, path: str, x: Any, old: Any, direct: bool):
        self.path, self.object, self.old, self.direct = path, x, old, direct

    def place(self, key: Any) -> Place:
        x = self.object
        if isinstance(x, CellType):
            return Place(self.path, x, CONTENTS, False)
        if isinstance(x, _Globals):
            return Place(key, x.namespace, key, True)
        if isinstance(x, (list, deque, dict)):
            return Place(f"{self.path}[{key!r}]", x, key, True)
        return Place(f"{self.path}.{key}", x, key, False)


class _Globals:
    """Variables of a module that a function assigns."""

    def __init__(self, namespace: dict[str, Any], names: frozenset[str]):
        self.namespace, self.names = namespace, names


class Surroundings:
    """What can be reached from `roots`, pairs of a name and an object, as it is now.

    `carried`: slots that the program carries already.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]], carried: Container[Slot] = ()):
        self._carried = carried
        self._noted: list[_Noted] = []
        self._seen: set[int] = set()
        self._next: deque[tuple[str, Any, bool]] = deque((path, x, True) for path, x in roots)
        while self._next and len(self._seen) < MOST:
            path, x, direct = self._next.popleft()
            if x.__class__ not in _PLAIN and id(x) not in self._seen:
                self._note(path, x, direct)

    @property
    def is_complete(self) -> bool:
        """Whether all that can be reached was looked at."""
        return not self._next

    # -- before -----------------------------------------------------------------------------------------------------
    def _note(self, path: str, x: Any, direct: bool) -> None:
        if isinstance(x, (list, deque, dict, tuple)) and len(x) <= LONGEST:
            self._values(path, x, direct)
        elif isinstance(x, FunctionType):
            self._function(path, x)
        elif isinstance(x, MethodType):
            self._next += [(path, x.__func__, False), (f"{path}.__self__", x.__self__, False)]
        elif isinstance(x, partial):
            self._next += [(path, x.func, False), (path, x.args, False), (path, x.keywords, False)]
        elif isinstance(x, (CellType, _Globals)) or is_users(x):
            self._values(path, x, False)
        elif isinstance(x, (set, bytearray, np.ndarray, Iterator, list, deque)):
            self._seen.add(id(x))
            if (state := _state(x)) is not None:
                self._noted.append(_Noted(path, x, state, direct))

    def _values(self, path: str, x: Any, direct: bool) -> None:
        self._seen.add(id(x))
        values = _values(x)
        noted = _Noted(path, x, values, direct)
        if not isinstance(x, tuple):
            self._noted.append(noted)
        for key, value in values.items():
            if value.__class__ not in _PLAIN and (id(_owner(x)), key) not in self._carried:
                inner = f"{path}[{key!r}]" if isinstance(x, tuple) else noted.place(key).path
                self._next.append((inner, value, direct))

    def _function(self, path: str, f: FunctionType) -> None:
        self._seen.add(id(f))
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            if (id(cell), CONTENTS) not in self._carried:
                self._next.append((name, cell, False))
        if OURS[f.__code__.co_filename] or not is_users_file(f.__code__.co_filename):
            return
        read, assigned = _globals_of(f.__code__)
        if assigned:
            self._next.append((path, _Globals(f.__globals__, assigned), False))
        for name in read:
            x = f.__globals__.get(name)
            if x.__class__ not in _PLAIN and not isinstance(x, set):
                self._next.append((name, x, False))

    # -- after ------------------------------------------------------------------------------------------------------
    def holding(self, tensors: Container[int]) -> list[Place]:
        """Where tensors of these identities were kept, by themselves or in a tuple."""
        return [
            noted.place(key)
            for noted in self._noted
            if isinstance(noted.old, dict)
            for key, value in noted.old.items()
            if holds(value, tensors) and (id(_owner(noted.object)), key) not in self._carried
        ]

    def changes(self) -> Changes:
        """What is different now, and given its old contents again; objects made on the way to keep them are left."""
        places: list[Place] = []
        other = None
        for noted in self._noted:
            if not isinstance(noted.old, dict):
                if _state(noted.object) != noted.old and (noted.direct or not isinstance(noted.object, set)):
                    other = other or (noted.path, noted.object)
                    _give_back(noted)
                continue
            found = self._different(noted)
            if found is None:
                other = other or (noted.path, noted.object)
                _give_back(noted)
                continue
            for key in found:
                place = noted.place(key)
                place.set(noted.old[key])
                places.append(place)
        return Changes(places, other)

    def restored(self) -> tuple[str, Any] | None:
        """Give everything its old contents. The first object of which that cannot be: an iterator."""
        lost = None
        for noted in self._noted:
            now = _values(noted.object) if isinstance(noted.old, dict) else _state(noted.object)
            if not (_same_values(noted.old, now) if isinstance(now, dict) else now == noted.old):
                _give_back(noted)
                lost = lost or ((noted.path, noted.object) if isinstance(noted.object, Iterator) else None)
        return lost

    def _different(self, noted: _Noted) -> list[Any] | None:
        """Keys of values that have changed; None if the object has other keys now."""
        old, new, x = noted.old, _values(noted.object), noted.object
        if old.keys() != new.keys() and (isinstance(x, (list, deque)) or not _may_grow(noted, new)):
            return None
        owner = id(_owner(x))
        return [
            key
            for key, value in old.items()
            if not is_same(value, new.get(key, UNDEFINED))
            and (owner, key) not in self._carried
            and not _is_made_late(value, new.get(key, UNDEFINED))
        ]


def changed_in_place(where: str, path: str, x: Any) -> StagingError:
    """The error for an object that a block changes in a way that a program cannot."""
    if isinstance(x, np.ndarray):
        what, cure = "a NumPy array", "make it a tensor, with tp.zeros(...) or tp.constant(...)"
    elif isinstance(x, Iterator):
        what, cure = "an iterator", "take xs[i] of a tensor, or loop over tp.unroll(...)"
    elif isinstance(x, (dict, set)):
        what = f"a {type(x).__name__}"
        cure = "give it all its entries before, and assign them with d[key] = value; or use tp.unroll(range(...))"
    else:
        what = f"a {type(x).__name__}"
        cure = (
            "make tp.zeros((n, ...)) before it and assign out[i] = value, or use tp.scan, or, in a loop of fixed "
            "length, tp.unroll(range(...))"
        )
    return StagingError(
        f"{path!r}, {what}, is changed in {where}, which depends on traced values and is traced once, however often it "
        f"runs; {cure}"
    )


# -- blocks -----------------------------------------------------------------------------------------------------------


def block_of(f: Any, original: Any) -> Any:
    """`f`, which runs a block of a staged statement; errors show the lines of `original`."""
    f.__wrapped__, f.is_block = original, True
    return f


@contextmanager
def unchanged(f: Any, place: str) -> Iterator[None]:
    """In the block a function that the user gave to a loop or branch is traced. Raises StagingError if it changes
    Python's objects. Blocks of statements are looked after where the statement is known."""
    while not getattr(f, "is_block", False) and hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    if getattr(f, "is_block", False):
        yield
        return
    found = Surroundings([(getattr(f, "__name__", "function"), f)])
    yield
    changes = found.changes()
    if changes.other is not None:
        raise changed_in_place(place, *changes.other)
    for changed in changes.places:
        raise StagingError(
            f"{changed.path!r} is changed in {place}, which is traced once, however often it runs; let it take the "
            "value and return the new one, or use a statement of Python (`if`, `for`, `while`), which carries it"
        )


# -- what is kept of objects ------------------------------------------------------------------------------------------

_NUMBERS = frozenset([bool, int, float, complex, type(None)])
_PLAIN = frozenset(
    [bool, int, float, complex, str, bytes, type(None), Tensor, TracedTensor, type, type(sys), type(len), np.ufunc]
)


def _values(x: Any) -> dict[Any, Any]:
    """The values that an object holds, by keys."""
    if isinstance(x, dict):
        return dict(x)
    if isinstance(x, (list, deque, tuple)):
        return dict(enumerate(x))
    if isinstance(x, _Globals):
        return {n: x.namespace.get(n, UNDEFINED) for n in x.names}
    if isinstance(x, CellType):
        return {CONTENTS: _attribute(x, CONTENTS)}
    return {n: _attribute(x, n) for n in _declared(type(x))} | getattr(x, "__dict__", {})


def _owner(x: Any) -> Any:
    return x.namespace if isinstance(x, _Globals) else x


def _attribute(x: Any, name: str) -> Any:
    try:
        return getattr(x, name)
    except (AttributeError, ValueError):  # ValueError: of a cell without contents
        return UNDEFINED


def _assign(x: Any, name: str, value: Any) -> None:
    """Also to a frozen dataclass, whose tensors methods may store into."""
    is_frozen = getattr(getattr(type(x), "__dataclass_params__", None), "frozen", False)
    (object.__setattr__ if is_frozen else setattr)(x, name, value)


def _state(x: Any) -> Any:
    """What tells whether an object without values of Python's has changed; None if nothing does."""
    if isinstance(x, (list, deque)):
        return len(x)
    if isinstance(x, set):
        return frozenset(x)
    if isinstance(x, bytearray):
        return bytes(x)
    if isinstance(x, np.ndarray):
        return x.tobytes() if x.flags.writeable and x.nbytes <= LARGEST and not x.dtype.hasobject else None
    if isinstance(x, GeneratorType):
        return -2 if x.gi_frame is None else x.gi_frame.f_lasti
    if isinstance(x, itertools.count):
        return repr(x)
    return operator.length_hint(x, -1) if type(x).__module__ == "builtins" else None


def _give_back(noted: _Noted) -> None:
    x, old = noted.object, noted.old
    if isinstance(old, int):
        while isinstance(x, (list, deque)) and len(x) > old:
            x.pop()
    elif isinstance(x, (list, bytearray)):
        x[:] = old.values() if isinstance(old, dict) else old
    elif isinstance(x, deque):
        x.clear()
        x.extend(old.values())
    elif isinstance(x, (dict, set)):
        x.clear()
        x.update(old)
    elif isinstance(x, np.ndarray):
        x[...] = np.frombuffer(old, x.dtype).reshape(x.shape)
    elif isinstance(old, dict):
        for key in {**old, **_values(x)}:
            noted.place(key).set(old.get(key, UNDEFINED))


_users: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
_names: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()


def is_users(x: Any) -> bool:
    """Whether an object's class is the user's: its module is none of Python, of an installed package, or ours."""
    cls = type(x)
    if cls not in _users:
        _users[cls] = cls is SimpleNamespace or _is_of_user(cls)
    return _users[cls]


def _is_of_user(cls: type) -> bool:
    if cls.__module__ == "builtins" or issubclass(cls, (type, Tensor, BaseException)):
        return False
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:  # a prompt, a notebook, or a module of C
        return cls.__module__ == "__main__"
    return not OURS[file] and is_users_file(file)


def _declared(cls: type) -> tuple[str, ...]:
    """Names of values that objects of a class have besides their `__dict__`: slots, and numbers of the class."""
    if cls not in _names:
        found: list[str] = []
        for base in cls.__mro__:
            slots = vars(base).get("__slots__", ())
            found += [slots] if isinstance(slots, str) else slots
            found += [n for n, v in vars(base).items() if v.__class__ in _NUMBERS and not n.startswith("__")]
        _names[cls] = tuple(n for n in found if n not in ("__dict__", "__weakref__"))
    return _names[cls]


@lru_cache(maxsize=4096)
def _globals_of(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Names of a module that code, and functions in it, may read; those that it assigns."""
    read, assigned = set(code.co_names), set()
    if _STORE_GLOBAL in code.co_code[::2]:
        assigned |= {i.argval for i in dis.get_instructions(code) if i.opcode == _STORE_GLOBAL}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more = _globals_of(inner)
            read |= more[0]
            assigned |= more[1]
    return frozenset(read), frozenset(assigned)


_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]


# -- what is a change -------------------------------------------------------------------------------------------------


def is_same(a: Any, b: Any) -> bool:
    """Whether two Python objects are one, or equal as numbers, strings and the like are."""
    if a is b:
        return True
    plain = (bool, int, float, complex, str, bytes, np.dtype, type, Poly)
    return type(a) is type(b) and isinstance(a, plain) and bool(a == b)


def holds(x: Any, tensors: Container[int]) -> bool:
    """Whether `x` is one of the tensors of these identities, or a tuple with one."""
    if isinstance(x, tuple):
        return any(holds(y, tensors) for y in x)
    return isinstance(x, Tensor) and id(x) in tensors


def _same_values(old: dict, new: dict) -> bool:
    return old.keys() == new.keys() and all(new[k] is v for k, v in old.items())


def _is_made_late(old: Any, new: Any) -> bool:
    """Whether a value is made when it is first needed, and would be made anew if it had not been kept."""
    return (old is None or old is UNDEFINED) and not _holds_traced(new)


def _may_grow(noted: _Noted, new: dict) -> bool:
    """Whether an object may have these new keys: it keeps what depends on no traced value. Others are taken away."""
    more = new.keys() - noted.old.keys()
    if isinstance(noted.object, dict):
        return not noted.direct and noted.old.keys() <= new.keys() and not any(_holds_traced(new[k]) for k in more)
    for key in more:
        if _holds_traced(new[key]):
            noted.place(key).set(UNDEFINED)
    return True


def _holds_traced(x: Any) -> bool:
    return any(isinstance(leaf, TracedTensor) for leaf in flatten(x)[0])
