"""Nested containers as flat lists of leaves, and back.

Containers are lists, tuples, namedtuples, dicts, None (which has no leaves) and objects of classes derived from
`Container`; everything else is a leaf.

>>> leaves, tree = flatten({"b": [1, 2], "a": (3, None)})
>>> leaves
[3, 1, 2]
>>> unflatten(tree, [x * 10 for x in leaves])
{'b': [10, 20], 'a': (30, None)}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from functools import lru_cache
from typing import Any

from tapefuse._records import dataclass


@dataclass(frozen=True, slots=True)
class Tree:
    """The shape of a nested structure. Equal and hashable; dicts are equal whatever the order of their keys."""

    kind: Any  # type of the container; LEAF_KIND or None at the ends
    keys: tuple[Any, ...] = ()  # of a dict, in the order of `children`; what a Container is besides its entries
    children: tuple[Tree, ...] = ()
    order: tuple[Any, ...] = field(default=(), compare=False)  # the dict's keys as they were inserted
    _hash: int | None = field(default=None, init=False, compare=False, repr=False)

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash((self.kind, self.keys, self.children)))
        return self._hash  # type: ignore[return-value]

    @property
    def n_leaves(self) -> int:
        return 1 if self.kind is LEAF_KIND else sum(c.n_leaves for c in self.children)

    def __str__(self) -> str:
        if self.kind is LEAF_KIND:
            return "*"
        if self.kind is None:
            return "None"
        inner = [str(c) for c in self.children]
        if issubclass(self.kind, dict):
            return "{" + ", ".join(f"{k!r}: {c}" for k, c in zip(self.keys, inner, strict=True)) + "}"
        if issubclass(self.kind, Container):
            return f"{self.kind.__name__}({', '.join([*map(str, self.keys), *inner])})"
        if self.kind is list:
            return f"[{', '.join(inner)}]"
        name = "" if self.kind is tuple else self.kind.__name__
        return f"{name}({', '.join(inner)}{',' if len(inner) == 1 else ''})"


LEAF_KIND = object()
LEAF = Tree(LEAF_KIND)
NONE = Tree(None)


class Container:
    """A container of another class: it says what it holds, and is made again from that."""

    __slots__ = ()

    def parts(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What is compared and hashed, and the entries."""
        raise TypeError(f"{type(self).__name__} does not say what it holds: it needs a method `parts`")

    @classmethod
    def of_parts(cls, fixed: tuple[Any, ...], entries: list[Any]) -> Any:
        """The container again, from what `parts` gave, with other entries."""
        raise TypeError(f"{cls.__name__} does not say how it is made of entries: it needs a class method `of_parts`")

    @classmethod
    def blank(cls, type: Any) -> Any:
        """What stands for an entry that is None before a loop and of this type after an iteration; None if nothing
        can, so that the container must be filled before the loop."""
        return None


def is_namedtuple(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "_fields")


def flatten(tree: Any) -> tuple[list[Any], Tree]:
    """The leaves of `tree` (dict entries in the order of their sorted keys) and its shape."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Any]) -> Tree:
    if tree is None:
        return NONE
    kind: type
    if isinstance(tree, (list, tuple)):
        kind = type(tree) if is_namedtuple(tree) else tuple if isinstance(tree, tuple) else list
        children = [_flatten(x, leaves) for x in tree]
        return _flat(kind, len(children)) if all(c is LEAF for c in children) else Tree(kind, children=tuple(children))
    if isinstance(tree, dict):
        keys = sorted_keys(tree)
        kind = OrderedDict if type(tree) is OrderedDict else dict
        return Tree(kind, keys, tuple([_flatten(tree[k], leaves) for k in keys]), tuple(tree))
    if isinstance(tree, Container):
        fixed, entries = tree.parts()
        return Tree(type(tree), fixed, tuple([_flatten(x, leaves) for x in entries]))
    leaves.append(tree)
    return LEAF


@lru_cache(maxsize=256)
def _flat(kind: type, n: int) -> Tree:
    """A container of `n` leaves."""
    return Tree(kind, children=(LEAF,) * n)


def sorted_keys(tree: dict[Any, Any]) -> tuple[Any, ...]:
    """The keys of a dict in an order that does not depend on insertion."""
    if all(type(k) is str for k in tree):
        return tuple(sorted(tree))
    return tuple(
        sorted(tree, key=lambda k: (type(k).__name__, k if isinstance(k, (str, int, float, tuple)) else repr(k)))
    )


def unflatten(tree: Tree, leaves: Iterable[Any]) -> Any:
    """The structure of shape `tree` with these leaves. Raises ValueError if their number does not fit."""
    rest = iter(leaves)
    try:
        out = _unflatten(tree, rest)
    except StopIteration:
        raise ValueError(f"{tree} needs {tree.n_leaves} leaves, got fewer") from None
    if next(rest, LEAF) is not LEAF:
        raise ValueError(f"{tree} needs {tree.n_leaves} leaves, got more")
    return out


def _unflatten(tree: Tree, leaves: Iterator[Any]) -> Any:
    if tree.kind is LEAF_KIND:
        return next(leaves)
    if tree.kind is None:
        return None
    parts = []
    for child in tree.children:
        parts.append(_unflatten(child, leaves))
    if issubclass(tree.kind, Container):
        return tree.kind.of_parts(tree.keys, parts)
    if issubclass(tree.kind, dict):
        by_key = dict(zip(tree.keys, parts, strict=True))
        return tree.kind((k, by_key[k]) for k in tree.order)
    return tree.kind(*parts) if hasattr(tree.kind, "_fields") else tree.kind(parts)


def tree_map(f: Callable[..., Any], tree: Any) -> Any:
    """`tree` with every leaf `x` replaced by `f(x)`."""
    leaves, shape = flatten(tree)
    return unflatten(shape, [f(x) for x in leaves])


def leaves_with_paths(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf, in the order of `flatten`, with the Python expression that leads to it: `("['a'][0]", x)`."""
    if is_namedtuple(tree):
        for name, x in zip(tree._fields, tree, strict=True):
            yield from leaves_with_paths(x, f"{path}.{name}")
    elif isinstance(tree, (list, tuple)):
        for i, x in enumerate(tree):
            yield from leaves_with_paths(x, f"{path}[{i}]")
    elif isinstance(tree, dict):
        for k in sorted_keys(tree):
            yield from leaves_with_paths(tree[k], f"{path}[{k!r}]")
    elif isinstance(tree, Container):
        for x in tree.parts()[1]:
            yield from leaves_with_paths(x, path)
    elif tree is not None:
        yield path, tree
