"""What loops and branches carry: dtypes, numbers that take the dtype of what they meet, structures that fill up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapefuse._errors import DTypeError, TapefuseError
from tapefuse._tree import Container, Tree, flatten, unflatten
from tapefuse.ir.types import Type
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.control_arguments import labels_of
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import converted
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, number, settled, strengthened, weakened

_WIDTH = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}  # of kinds of numbers


class Kind(NamedTuple):
    """The dtype of a carried value or result, and whether it is a number that takes that of what it meets."""

    dtype: np.dtype
    weak: bool


def kind_of(x: Tensor) -> Kind:
    return Kind(x.dtype, x.weak)


def kinds_of(xs: Sequence[Tensor]) -> list[Kind]:
    return [kind_of(x) for x in xs]


def rank(kind: Kind) -> tuple:
    """Of two kinds the higher one is what a choice between both is."""
    return not kind.weak, _WIDTH[kind.dtype.kind], kind.dtype.itemsize


def adapts(kind: Kind, to: Kind) -> bool:
    """Whether a value of one kind may stand where the other is wanted."""
    if kind == to:
        return True
    wider = _WIDTH[kind.dtype.kind] <= _WIDTH[to.dtype.kind] and to.dtype.kind != "b"
    return wider if kind.weak else kind.dtype == to.dtype and not to.weak


def with_kinds(ys: Sequence[Tensor], kinds: Sequence[Kind]) -> list[Tensor]:
    return [weakened(y) if k.weak else y for y, k in zip(ys, kinds, strict=False)]


def carried_number(x: Any, label: str, call: str) -> Tensor:
    """A leaf as a tensor; Python numbers become such that take the dtype of what they meet."""
    try:
        return number(x) if python_kind(x) in (int, float, complex) else as_tensor(x)
    except TapefuseError:
        raise DTypeError(
            f"{call}: {label} is {x!r}, a {type(x).__name__}; loops and branches carry tensors, numbers, arrays, and "
            "lists, tuples and dicts of them"
        ) from None


def stackable(y: Tensor) -> Tensor:
    """An element of a stack, which is no number any more: floats that met no dtype become float32."""
    if y.weak and y.type.is_float:
        return strengthened(converted(y, np.dtype(np.float32)))
    return strengthened(y)


def fitted(y: Tensor, raw: Any, wanted: Kind) -> Tensor:
    """`y`, made of `raw`, in the kind that is wanted, if it is a number that can take it."""
    if kind_of(y) == wanted or not y.weak or not adapts(kind_of(y), wanted):
        return y
    made = converted(y if isinstance(raw, Operators) else raw, wanted.dtype)
    return weakened(made) if wanted.weak else strengthened(made)


# -- structures -------------------------------------------------------------------------------------------------------


def filled(before: Tree, after: Tree, leaves: Iterator[Tensor], types: Iterator[Type]) -> list[Tensor] | None:
    """`leaves` of a structure in another one, which has entries where the containers of the first are empty."""
    if before == after:
        return [x for _, x in zip(itertools.islice(types, before.n_leaves), leaves, strict=False)]
    if before.kind is not after.kind or before.keys != after.keys or len(before.children) != len(after.children):
        return None
    found: list[Tensor] = []
    for b, a in zip(before.children, after.children, strict=True):
        if b.kind is None and a.n_leaves == 1 and not a.children and issubclass(before.kind, Container):
            if (blank := before.kind.blank(next(types))) is None:
                return None
            found.append(blank)
        elif (inner := filled(b, a, leaves, types)) is not None:
            found += inner
        else:
            return None
    return found


def copies(operands: tuple) -> tuple:
    """The operands as objects of their own: what a branch stores into them is seen by its result alone."""
    leaves, tree = flatten(operands)
    return unflatten(tree, [copy_of(x) if isinstance(x, Tensor) else x for x in leaves])


def copy_of(x: Tensor) -> Tensor:
    return weakened(x.copy()) if x.weak else x.copy()


def as_tensors(tree: Any, whole: str) -> Any:
    """A structure with its leaves as tensors."""
    leaves, shape = flatten(tree)
    labels = labels_of(tree, None, whole)
    found = [carried_number(x, s, f"a branch at {user_loc()}") for x, s in zip(leaves, labels, strict=True)]
    return unflatten(shape, found if state.trace else [settled(x) for x in found])
