"""Short ways through containers whose shape is known: what a compiled function does with its arguments on every call.

>>> take = taker(flatten({"a": (1, 2)})[1]); found = []
>>> take({"a": ("x", "y")}, found), found
(True, ['x', 'y'])
>>> builder(flatten((1, {"b": 2}))[1])(("x", "y"))
('x', {'b': 'y'})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tapefuse._tree import LEAF, Container, Tree

Taker = Callable[[Any, list], bool]  # appends the leaves of a container; False if it has another shape
Builder = Callable[[tuple], Any]  # leaves -> container


def taker(tree: Tree) -> Taker:
    """Takes apart containers of shape `tree`. Leaves may be anything: whoever gets them looks at them."""
    if tree is LEAF:
        return _take_leaf
    if tree.kind is None:
        return lambda x, found: x is None
    kind, n, children = tree.kind, len(tree.children), [taker(c) for c in tree.children]
    leaves_only = all(c is LEAF for c in tree.children)
    if issubclass(kind, dict):
        keys = tree.keys

        def take_dict(x: Any, found: list) -> bool:
            if type(x) is not kind or len(x) != n:
                return False
            try:
                return all(take(x[k], found) for take, k in zip(children, keys, strict=True))
            except KeyError:
                return False

        return take_dict

    def take(x: Any, found: list) -> bool:
        if type(x) is not kind or len(x) != n:
            return False
        if leaves_only:
            found.extend(x)
            return True
        return all(take(y, found) for take, y in zip(children, x, strict=True))

    return take


def _take_leaf(x: Any, found: list) -> bool:
    found.append(x)
    return True


def builder(tree: Tree) -> Builder:
    """Puts a tuple of leaves together into a container of shape `tree`."""
    return _builder(tree, 0)


def _builder(tree: Tree, first: int) -> Builder:
    if tree is LEAF:
        return lambda leaves: leaves[first]
    if tree.kind is None:
        return lambda leaves: None
    kind, last = tree.kind, first + tree.n_leaves
    if kind in (tuple, list) and all(c is LEAF for c in tree.children):
        if kind is list:
            return lambda leaves: list(leaves[first:last])
        return lambda leaves: leaves[first:last]
    children: list[Builder] = []
    for child in tree.children:
        children.append(_builder(child, first))
        first += child.n_leaves
    if issubclass(kind, dict):
        by_key = dict(zip(tree.keys, children, strict=True))
        ordered = [(k, by_key[k]) for k in tree.order]
        return lambda leaves: kind([(k, build(leaves)) for k, build in ordered])
    if issubclass(kind, Container):
        return lambda leaves: kind.of_parts(tree.keys, [build(leaves) for build in children])
    if hasattr(kind, "_fields"):
        return lambda leaves: kind(*[build(leaves) for build in children])
    return lambda leaves: kind([build(leaves) for build in children])


def without_scalars(args: Sequence[Any]) -> list[Any] | None:
    """Arguments with arrays of no axis in place of NumPy's scalars; None if there are none."""
    if not any(isinstance(x, np.generic) for x in args):
        return None
    return [np.asarray(x) if isinstance(x, np.generic) else x for x in args]


_BY_VALUE = frozenset((bool, int, float, str, type(None)))


def parted(args: tuple, kwargs: Mapping[str, Any]) -> tuple[tuple, list[Any]]:
    """A key of how many arguments and which names there are, and of Python's own values among them; the other values,
    in the order of the call.

    >>> parted((array, 1.5), {"training": True})
    ((2, 'training', None, '0x1.8000000000000p+0', (<class 'bool'>, True)), [array])
    """
    key: list[Any] = [len(args), *kwargs]
    others = []
    for x in (*args, *kwargs.values()) if kwargs else args:
        kind = type(x)
        if kind not in _BY_VALUE:
            key.append(None)
            others.append(x)
        elif kind is float:
            key.append(x.hex())  # tells -0.0 from 0.0, and nan equals itself
        else:
            key.append((kind, x))  # tells 1 from True
    return tuple(key), others


def is_by_value(leaf: tuple) -> bool:
    """Whether a leaf of a call's key (`tracer.signature`) is a value that `parted` puts into its own."""
    return leaf[0] == "value" and leaf[1] in _BY_VALUE


def direct(entry: Callable[..., Any], arguments: Sequence[Tree], results: Tree) -> Callable[..., Any]:
    """`entry`, which takes and returns leaves, as a function of positional arguments of these shapes.

    It returns NotImplemented for arguments of other shapes, and what the entry does for leaves that do not fit.
    """
    n, flat = len(arguments), all(a is LEAF for a in arguments)
    takers = [taker(a) for a in arguments]
    plain = results.kind is tuple and len(results.children) != 1 and all(c is LEAF for c in results.children)
    is_whole = results is LEAF or plain
    build = builder(results)
    single = results.n_leaves == 1
    if flat and is_whole:
        return entry

    def call(*args: Any) -> Any:
        if not flat:
            if len(args) != n:
                return NotImplemented
            leaves: list[Any] = []
            for take, x in zip(takers, args, strict=True):
                if not take(x, leaves):
                    return NotImplemented
            args = tuple(leaves)
        outs = entry(*args)
        if outs is NotImplemented or is_whole:
            return outs
        return build((outs,) if single else outs)

    return call
