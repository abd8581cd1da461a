"""Builtins that need a concrete value, for values that have none yet: `range(n)`, `enumerate(x)`, `max(a, b)`.

`replaced(f)` gives the function to call in place of a builtin; it does what the builtin does unless it is given
traced values. What it returns for `range`, `enumerate` and `zip` says how item number k is made.
"""

from __future__ import annotations

import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, DTypeError, ShapeError, StagingError
from tapefuse._tree import flatten
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Poly, never_zero
from tapefuse.tracer.control_counting import trips_of
from tapefuse.tracer.debugging import require
from tapefuse.tracer.extents import equal, has_sizes, is_less, plain
from tapefuse.tracer.operators import functions
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.surroundings import is_same
from tapefuse.tracer.tensor import Readable, Tensor, TracedTensor, as_tensor, weakened

Extent = int | Poly


def unknown(x: Any) -> bool:
    """Whether the value of `x` is not known while tracing."""
    if isinstance(x, Poly):
        return True
    return isinstance(x, TracedTensor) and x._trace.constant_value(x._value) is None


def undecided(x: Any) -> bool:
    """Whether the truth of `x` is not known while tracing."""
    return unknown(x) and not (isinstance(x, Poly) and never_zero(x))


class Items(ABC):
    """Something to iterate over whose item number `k` is made from a traced `k`."""

    extent: Extent | None  # None: known only at run time

    @abstractmethod
    def at(self, k: Any) -> Any:
        """Item number `k`."""

    @property
    def count(self) -> Any:
        """How many there are, traced if need be."""
        return self.extent

    def __len__(self) -> int:
        if not isinstance(self.extent, int):
            raise ConcretizationError(
                f"the number of items at {user_loc()} is known only when the compiled function runs, and lists and "
                "comprehensions are made while tracing; loop with a `for` statement, in a function whose source "
                "tapefuse can read, and assign out[i] = value, or use tp.scan"
            )
        return self.extent

    def __iter__(self) -> Iterator[Any]:
        return (self.at(k) for k in range(len(self)))


class Range(Items):
    """`range` with bounds of which some are not known."""

    def __init__(self, start: Any, stop: Any, step: Any):
        self.start, self.stop, self.step = start, stop, step
        known = all(isinstance(x, int) for x in (start, stop, step))
        self.extent = len(range(start, stop, step)) if known else None
        if isinstance(stop, Poly) and is_same(start, 0) and is_same(step, 1):
            self.extent = stop

    @property
    def count(self) -> Any:
        return trips_of(self.start, self.stop, self.step)

    @property
    def length(self) -> Any:
        """How many numbers there are: `count`, and 0 where that is negative."""
        count = self.count
        return _larger(weakened(count) if isinstance(count, Tensor) else count, 0)

    def at(self, k: Any) -> Any:
        item = self.start + k * self.step
        return weakened(item) if isinstance(item, Tensor) else item

    def __getitem__(self, index: Any) -> Any:
        """The number there, or for a slice the range of the numbers there, as Python has them. An IndexError of a
        number that lies outside is one of the program's when it runs."""
        if not isinstance(index, slice):
            k = self._from_start(index)
            inside = functions.logical_and(plain(k) >= 0, plain(k) < plain(self.length))
            require(inside, IndexError("range object index out of range"), str(user_loc()))
            return self.at(k)
        by = 1 if index.step is None else operator.index(index.step)
        if by == 0:
            raise ValueError(f"a slice of a range at {user_loc()} has a step of 0")
        if by > 0:
            first = 0 if index.start is None else _larger(self._from_start(index.start), 0)
            last = self.length if index.stop is None else _smaller(self._from_start(index.stop), self.length)
        else:
            first, last = self.length - 1, -1
            if index.start is not None:
                first = _smaller(self._from_start(index.start), first)
            if index.stop is not None:
                last = _larger(self._from_start(index.stop), last)
        return Range(self.start + first * self.step, self.start + last * self.step, self.step * by)

    def _from_start(self, index: Any) -> Any:
        """The place that an index means, which counts from the end if it is negative."""
        index = index if isinstance(index, Poly) else _bound(index, "the index of a range")
        if isinstance(index, int):
            return index if index >= 0 else self.length + index
        return functions.where(plain(index) < 0, plain(index + self.length), plain(index))

    def __contains__(self, x: Any) -> Any:
        return self.holds(x)

    def holds(self, x: Any) -> Any:
        """Whether `x` is one of the numbers."""
        if not _is_scalar(x):
            return False
        offset = plain(x) - plain(self.start)
        k = offset // plain(self.step)
        inside = functions.logical_and(k >= 0, k < plain(self.length))
        return functions.logical_and(inside, functions.equal(offset % plain(self.step), 0))


class Typed(Items):
    """The numbers of a `range` as tensors of a dtype."""

    def __init__(self, numbers: Range, dtype: Any):
        self.numbers, self.dtype, self.extent = numbers, dtype, numbers.extent

    @property
    def count(self) -> Any:
        return self.numbers.count

    def at(self, k: Any) -> Any:
        return functions.astype(as_tensor(self.numbers.at(k)), self.dtype)


class Reversed(Items):
    def __init__(self, items: Items):
        self.items, self.extent = items, items.extent

    @property
    def count(self) -> Any:
        return self.items.count

    def at(self, k: Any) -> Any:
        return self.items.at(self.items.count - 1 - k)


class Rows(Items):
    """The rows of a tensor."""

    def __init__(self, x: Any):
        self.x = x.read() if isinstance(x, Readable) else x
        self.extent = self.x.shape[0]

    def at(self, k: Any) -> Any:
        return self.x[k] if isinstance(k, int) else as_tensor(self.x)[k]


class Enumerated(Items):
    def __init__(self, items: Items, start: Any):
        self.items, self.start, self.extent = items, start, items.extent

    @property
    def count(self) -> Any:
        return self.items.count

    def at(self, k: Any) -> Any:
        return k + self.start if not isinstance(self.start, int) or self.start else k, self.items.at(k)


class Zipped(Items):
    def __init__(self, parts: list[Items]):
        self.parts = parts
        extents = list(dict.fromkeys(p.extent for p in parts))
        if len(extents) == 1:
            self.extent = extents[0]
        elif all(isinstance(e, int) for e in extents):
            self.extent = min(extents)  # type: ignore[type-var]
        else:
            self.extent = None

    @property
    def count(self) -> Any:
        return functools.reduce(_least, [p.count for p in self.parts])

    def at(self, k: Any) -> Any:
        return tuple([p.at(k) for p in self.parts])


def _least(a: Any, b: Any) -> Any:
    if a == b if not isinstance(a, Tensor) and not isinstance(b, Tensor) else a is b:
        return a
    return functions.minimum(*[functions.astype(as_tensor(n), "int64") for n in (a, b)])


_ITERATORS = type(iter(range(0))), type(iter(range(1 << 100)))


def items_of(x: Any) -> Items | None:
    """`x` as items that can be made from a traced number; None for other iterables."""
    if isinstance(x, Items):
        return x
    if isinstance(x, _ITERATORS):  # `reversed(range(n))`
        whole = x.__reduce__()[1][0]
        x = whole[len(whole) - operator.length_hint(x) :]
    if isinstance(x, range):
        return Range(x.start, x.stop, x.step)
    is_array = isinstance(x, (Tensor, Readable)) or (isinstance(x, np.ndarray) and kind_of(x.dtype) in "biufc")
    return Rows(x) if is_array and x.shape else None


_counting: dict[Any, Callable[[Sequence[Any]], Any]] = {
    np.arange: lambda bounds: np.int64
}  # functions that make ranges of numbers -> their dtype


def counts(dtype_of: Callable[[Sequence[Any]], Any]) -> Callable[[Any], Any]:
    """For functions that give the numbers of a range as a tensor: they may count a loop with bounds that are traced.

    `dtype_of(bounds)`: that of the numbers, where the caller gives none.
    """

    def noted(f: Any) -> Any:
        _counting[f] = dtype_of
        return f

    return noted


def counting(f: Any) -> Callable[..., Any] | None:
    """What a `for` calls in place of a function of the kind `counts` notes; None for others."""
    try:
        dtype_of = _counting.get(f)
    except TypeError:  # it cannot be hashed
        return None
    if dtype_of is None:
        return None

    def call(*bounds: Any, dtype: Any = None, **named: Any) -> Any:
        given = (*bounds, *named.values())
        if not any(map(unknown, given)):
            return f(*bounds, **named, **({} if dtype is None else {"dtype": dtype}))
        if named:
            raise DTypeError(f"a loop at {user_loc()} over traced bounds: give start, stop and step by position")
        return Typed(named_range(("start", "stop", "step"), *bounds), dtype or dtype_of(bounds))

    return call


def counting_items(f: Any) -> Callable[..., Any] | None:
    """What a `for` calls in place of `enumerate` and `zip`, whose items it can make in any order."""
    if f is enumerate:
        return functools.partial(_enumerate, always=True)
    return functools.partial(_zip, always=True) if f is zip else None


def _is_open(items: Items | None) -> bool:
    """Whether there is something traced in them."""
    if isinstance(items, Rows):
        return isinstance(items.x, TracedTensor)
    return items is not None and not (isinstance(items, Range) and isinstance(items.extent, int))


def named_range(labels: Sequence[str], *bounds: Any) -> Any:
    """`range(*bounds)`, whose bounds may be traced. `labels`: how they are written."""
    if len(bounds) not in (1, 2, 3) or not any(map(unknown, bounds)):
        return range(*bounds)
    if len(labels) != len(bounds):  # `range(*bounds)`
        labels = ("stop",) if len(bounds) == 1 else ("start", "stop", "step")
    start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    names = ("0", labels[0], "1") if len(bounds) == 1 else (*labels, "1")[:3]
    return Range(*[_bound(b, n) for b, n in zip((start, stop, step), names, strict=True)])


_range = functools.partial(named_range, ("start", "stop", "step"))


def _bound(x: Any, what: str) -> Any:
    if isinstance(x, Poly) or not isinstance(x, (Tensor, Readable)):
        return x if isinstance(x, Poly) else range(x).stop
    x = as_tensor(x)
    if x.dtype.kind not in "iu":
        raise DTypeError(
            f"range() at {user_loc()}: {what!r} is {x!r}, a {x.dtype} where a number of iterations has to be an "
            f"integer; round it on purpose: tp.cast(tp.floor({what}), tp.int64)"
        )
    if x.shape != ():
        raise ShapeError(f"range() at {user_loc()}: {what!r} is {x!r}, no scalar")
    return x if unknown(x) else int(x)


def _enumerate(iterable: Any, start: Any = 0, always: bool = False) -> Any:
    items = items_of(iterable)
    return Enumerated(items, start) if items is not None and (always or _is_open(items)) else enumerate(iterable, start)


def _zip(*iterables: Any, strict: bool = False, always: bool = False) -> Any:
    parts = [items_of(x) for x in iterables]
    if not parts or None in parts or not (always or any(map(_is_open, parts))):
        return zip(*iterables, strict=strict)
    if strict and len({p.extent for p in parts if p is not None}) > 1:
        raise ValueError(f"zip(strict=True) at {user_loc()}: the arguments have different lengths")
    return Zipped([p for p in parts if p is not None])


def _reversed(x: Any) -> Any:
    items = items_of(x)
    return Reversed(items) if items is not None and _is_open(items) else reversed(x)


def _len(x: Any) -> Any:
    if isinstance(x, TracedTensor) and x.shape and isinstance(x.shape[0], Poly):
        return x.shape[0]
    return x.length if isinstance(x, Range) else len(x)


def _extreme(builtin: Callable[..., Any], choose: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def extreme(*given: Any, **options: Any) -> Any:
        xs = given
        if len(xs) == 1 and isinstance(xs[0], (list, tuple)):
            xs = tuple(xs[0])
        if options or len(xs) < 2 or not any(map(unknown, xs)) or not all(_is_scalar(x) for x in xs):
            return builtin(*given, **options)
        return functools.reduce(choose, xs)

    return extreme


def _larger(a: Any, b: Any) -> Any:
    """The maximum of two numbers: one of them where sizes tell which."""
    is_b = is_less(a, b) if isinstance(a, Extent) and isinstance(b, Extent) else None
    return functions.maximum(plain(a), plain(b)) if is_b is None else b if is_b else a


def _smaller(a: Any, b: Any) -> Any:
    is_b = is_less(b, a) if isinstance(a, Extent) and isinstance(b, Extent) else None
    return functions.minimum(plain(a), plain(b)) if is_b is None else b if is_b else a


def _truths(builtin: Callable[..., Any], combine: str, decides: bool) -> Callable[..., Any]:
    """`any` and `all`: items that are known are looked at first to last, as Python does."""

    def truths(iterable: Any) -> Any:
        found: Any = None
        for x in iterable:
            if not undecided(x):
                if bool(x) is decides:
                    return decides
                continue
            x = plain(x)
            if x.shape != ():
                raise ShapeError(
                    f"an item of {builtin.__name__} at {user_loc()} is {x!r}, of shape {list(x.shape)}: it has to be "
                    "one bool; use tp.any(...) or tp.all(...)"
                )
            test = x if x.dtype.kind == "b" else functions.not_equal(x, 0)
            found = test if found is None else getattr(functions, combine)(found, test)
        return (not decides) if found is None else found

    return truths


def contains(x: Any, xs: Any) -> Any:
    """`x in xs`, where `x`, or what is in a list, a tuple or an array, may be traced."""
    if isinstance(xs, Range):
        return xs.holds(x)
    if isinstance(xs, (Tensor, Readable, np.ndarray)) and (unknown(x) or unknown(xs)):
        return functions.any(functions.equal(as_tensor(xs), x))
    is_known = isinstance(xs, (list, tuple, set, frozenset, range, dict))
    if not is_known or not (_is_open_item(x) or (not isinstance(xs, range) and any(map(_is_open_item, xs)))):
        return x in xs
    if isinstance(xs, range):
        return Range(xs.start, xs.stop, xs.step).holds(x)
    return _truths(any, "logical_or", True)(y is x or _equal(x, y) for y in xs)


def _is_open_item(x: Any) -> bool:
    return unknown(x) or has_sizes(x)


def _equal(x: Any, y: Any) -> Any:
    return getattr(x, "shape", ()) == () == getattr(y, "shape", ()) and equal(x, y)


def _is_scalar(x: Any) -> bool:
    return isinstance(x, (int, float, Poly)) or (isinstance(x, (Tensor, Readable)) and x.shape == ())  # type: ignore[union-attr]


def _math(name: str) -> Callable[..., Any]:
    """`math.sin` of a traced value is that of the array functions."""
    builtin, of_arrays = getattr(math, name), _IN_NUMPY.get(name, name)

    def function(*xs: Any) -> Any:
        if not any(map(unknown, xs)):
            return builtin(*xs)
        return getattr(functions, of_arrays)(*map(plain, xs))

    return function


_IN_NUMPY = {"pow": "power", "fabs": "abs", "atan2": "arctan2", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MATH = (
    *("sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "atan2"),
    *("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "pow", "fabs", "hypot", "floor", "ceil", "erf"),
)


def _arange(*bounds: Any, dtype: Any = None, **named: Any) -> Any:
    """`np.arange`, whose bounds may be sizes."""
    if not any(isinstance(x, Poly) for x in (*bounds, *named.values())):
        return np.arange(*bounds, dtype=dtype, **named)
    return functions.arange(*bounds, dtype=dtype or np.int64, **named)


@functools.cache
def _table() -> dict[Any, Callable[..., Any]]:
    """Made late: `tapefuse.numpy`, which stands above, fills in `functions`."""
    table: dict[Any, Callable[..., Any]] = {
        range: _range,
        enumerate: _enumerate,
        zip: _zip,
        reversed: _reversed,
        len: _len,
    }
    table |= {max: _extreme(max, _larger), min: _extreme(min, _smaller), np.arange: _arange}
    table |= {any: _truths(any, "logical_or", True), all: _truths(all, "logical_and", False)}
    return table | {getattr(math, n): _math(n) for n in _MATH if hasattr(functions, _IN_NUMPY.get(n, n))}


def replaced(f: Any) -> Callable[..., Any] | None:
    """What stands in for a builtin, None for itself."""
    try:
        return _table().get(f)
    except TypeError:  # a method of something that cannot be hashed
        return None


# -- stores ---------------------------------------------------------------------------------------------------------


class NumPyTarget:
    """A NumPy array that is stored into: it cannot hold traced values. `label`: how it is written."""

    def __init__(self, x: np.ndarray, label: str):
        self._x, self._label = x, label

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        return self._x[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check((index, value))
        self._x[index] = value

    def _check(self, used: Any) -> None:
        if any(map(unknown, flatten(used)[0])):
            raise StagingError(
                f"{self._label!r} at {user_loc()} is a NumPy array, of shape {list(self._x.shape)} and dtype "
                f"{self._x.dtype}, which cannot hold traced values; make it a tensor: tp.zeros(shape, dtype), "
                f"np.zeros_like(x) of a tensor, or tp.constant({self._label})"
            )


# -- what users say of one loop ---------------------------------------------------------------------------------------


class Wish:
    """An iterable with the user's word on how a loop over it is traced."""

    def __init__(self, iterable: Any, staged: bool):
        self.iterable, self.staged = iterable, staged

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def __len__(self) -> int:
        return len(self.iterable)


def unroll(iterable: Any) -> Wish:
    """`for i in tp.unroll(range(100))`: the loop's body is traced once for each item, whatever their number.

    Items of a `range` are Python numbers then.
    """
    return Wish(iterable, staged=False)


def stage(iterable: Any) -> Wish:
    """`for i in tp.stage(range(3))`: the loop becomes one native loop, however few items there are.

    Items of a `range` are traced numbers then. In a loop it is an error to loop over what has no rows: a list, say.
    """
    return Wish(iterable, staged=True)
