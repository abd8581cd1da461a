"""What callers give to loops and branches: conditions, counts, names; and what messages call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError, DTypeError, ShapeError, TapefuseError
from tapefuse._tree import flatten, leaves_with_paths
from tapefuse.ir.graph import Loc
from tapefuse.ir.types import Dim, Poly, show_shape
from tapefuse.tracer.cuts import as_dim
from tapefuse.tracer.source import OURS, user_loc
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor

Names = Sequence[str] | None


def condition(x: Any, what: str) -> Tensor:
    """A condition as a bool scalar. Raises DTypeError, ShapeError."""
    try:
        test = as_tensor(x)
    except TapefuseError:
        raise DTypeError(f"{what} is {x!r}, a {type(x).__name__}; it must be a bool scalar") from None
    if test.shape != ():
        raise ShapeError(
            f"{what} has shape {show_shape(test.shape)}{made_at(test)}; it must be one bool: use tp.any(...) or "
            "tp.all(...), or tp.where to choose element by element"
        )
    if test.dtype.kind != "b":
        raise DTypeError(f"{what} is {test.type}{made_at(test)}, no bool; compare it, as with x != 0")
    return test


def is_known(x: Tensor) -> bool:
    return not isinstance(x, TracedTensor) or x._trace.constant_value(x._value) is not None


def known_integer(x: Any, what: str) -> Dim | Tensor:
    """An integer scalar: an int or an extent where it is known while tracing. Raises DTypeError, ShapeError."""
    if isinstance(x, Poly) or (isinstance(x, (int, np.integer)) and not isinstance(x, bool)):
        return x if isinstance(x, Poly) else int(x)
    try:
        y = as_tensor(x)
    except TapefuseError:
        raise DTypeError(f"{what} at {user_loc()} is {x!r}, a {type(x).__name__}; it must be an integer") from None
    if y.dtype.kind not in "iu":
        raise DTypeError(
            f"{what} at {user_loc()} is {y.type}{made_at(y)}; it must be an integer: use tp.cast(tp.floor(n), tp.int32)"
        )
    if y.shape != ():
        raise ShapeError(f"{what} at {user_loc()} has shape {show_shape(y.shape)}{made_at(y)}; it must be a scalar")
    if is_known(y):
        return int(y)
    d = as_dim(y)
    return y if d is None else d


def python_int(x: Dim | Tensor) -> int:
    """Outside of traces."""
    return x.__index__()


def count_of(xs: Any, tensors: Sequence[Tensor], length: Any, what: str) -> Dim:
    """The number of elements, on which all of `xs` and `length` agree."""
    found: dict[str, Any] = {} if length is None else {"length": known_integer(length, f"length of {what}")}
    for (path, _), x in zip(leaves_with_paths(xs, "xs"), tensors, strict=True):
        if not x.ndim:
            raise ShapeError(f"{what}: {path} has shape [] and no elements; give it a first axis")
        found[path] = x.shape[0]
    if not found:
        raise ValueError(f"{what}: xs is empty, so length=... must say how often to run")
    if any(isinstance(n, Tensor) for n in found.values()):
        raise ConcretizationError(
            f"{what}: length is known at run time only, and so would be the shape of the result; use tp.fori_loop"
        )
    if len(set(found.values())) > 1:
        raise ShapeError(f"{what}: extents differ: {', '.join(f'{k} has {n}' for k, n in found.items())}")
    return next(iter(found.values()))


# -- in messages ------------------------------------------------------------------------------------------------------


def shown(x: Any) -> str:
    return f"{flatten(x)[1]}" if isinstance(x, (tuple, list, dict)) else f"a {type(x).__name__}"


def made_at(x: Tensor) -> str:
    loc = x._value.loc if isinstance(x, TracedTensor) else None
    return f" (made at {loc})" if loc else ""


def where_is(f: Callable) -> str:
    """`step at model.py:3`"""
    f = inspect.unwrap(f)
    f = f.func if isinstance(f, partial) else f
    code = getattr(getattr(f, "__func__", f), "__code__", None)
    if code is not None and OURS[code.co_filename]:
        return f"at {user_loc()}"
    name = getattr(f, "__name__", type(f).__name__)
    return f"{name} at {Loc(code.co_filename, code.co_firstlineno)}" if code else name


def labels_of(tree: Any, names: Names, whole: str) -> list[str]:
    """What to call each leaf in messages."""
    if names is None:
        return [path for path, _ in leaves_with_paths(tree, whole)]
    entries = tree if isinstance(tree, (list, tuple)) else (tree,)
    paths = [path for name, x in zip(names, entries, strict=True) for path, _ in leaves_with_paths(x, name)]
    return [path if " " in path.split("[")[0] else f"'{path}'" for path in paths]  # "the returned value"
