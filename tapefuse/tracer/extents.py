"""Sizes that are known at run time only, as numbers: `len(x) == 0`, `len(x) // 2`, `1 / len(x)`, `while i < len(x)`.

Such a size is a polynomial (`ir.types.Poly`). What is asked of it is decided while tracing where it can be, as sizes
are at least 0; else it is asked of the number that the program has for it. `==` and `!=` of polynomials compare what is
written, since the compiler keeps them in tables: in staged functions `equal` takes their place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse.ir.passes.checks import never_negative
from tapefuse.ir.types import Dim, Poly
from tapefuse.tracer.operators import functions
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, weakened

_DIMS: Any = (int, np.integer, Poly)


def number(d: Poly) -> Tensor:
    """The number of the program that a size is; it takes the dtype of what it meets, as Python's numbers do."""
    return weakened(as_tensor(d))


def equal(a: Any, b: Any) -> Any:
    """`a == b`: a bool, or a traced one where sizes are compared and it is known at run time only."""
    if isinstance(a, (tuple, list)) and type(a) is type(b) and (_has_sizes(a) or _has_sizes(b)):
        return len(a) == len(b) and _all_equal(a, b)
    if not isinstance(a, Poly) and not isinstance(b, Poly) or state.trace is None:
        return a == b
    if isinstance(a, _DIMS) and isinstance(b, _DIMS):
        d = a - b
        if not isinstance(d, Poly):
            return d == 0
        if _is_positive(d) or _is_positive(d * -1):
            return False
    elif not isinstance(a, (*_DIMS, float, Tensor)) or not isinstance(b, (*_DIMS, float, Tensor)):
        return a == b
    return functions.equal(_operand(a), _operand(b))


def unequal(a: Any, b: Any) -> Any:
    """`a != b`, as `equal`."""
    if isinstance(a, (Poly, tuple, list)) or isinstance(b, Poly):
        found = equal(a, b)
        return functions.logical_not(found) if isinstance(found, Tensor) else not found
    return a != b


def _has_sizes(xs: tuple | list) -> bool:
    return any(isinstance(x, Poly) for x in xs) and state.trace is not None


def _all_equal(xs: tuple | list, ys: tuple | list) -> Any:
    found: Any = True
    for x, y in zip(xs, ys, strict=True):
        one = equal(x, y)
        if not isinstance(one, Tensor):
            if not one:
                return False
        else:
            found = one if found is True else functions.logical_and(found, one)
    return found


def _operand(x: Any) -> Any:
    return number(x) if isinstance(x, Poly) else x


def _is_positive(d: Dim) -> bool:
    return never_negative(d - 1, {} if state.trace is None else state.trace.known)


# -- what polynomials leave to numbers --------------------------------------------------------------------------------


def _ordered(a: Dim, b: Dim) -> bool | None:
    """Whether a < b, if that is so, or is not so, for all sizes."""
    if _is_positive(b - a):
        return True
    return False if _is_positive(a - b + 1) else None


_ORDERS: dict[str, Callable[[Dim, Dim], bool | None]] = {
    "lt": _ordered,
    "gt": lambda a, b: _ordered(b, a),
    "le": lambda a, b: None if (found := _ordered(b, a)) is None else not found,
    "ge": lambda a, b: None if (found := _ordered(a, b)) is None else not found,
}


def beyond(name: str, a: Any, b: Any) -> Any:
    """`operator.name(a, b)`, where one is a size and the operation none of polynomials."""
    if name in _ORDERS and isinstance(a, _DIMS) and isinstance(b, _DIMS):
        found = _ORDERS[name](a, b)
        if found is not None:
            return found
    if state.trace is None or not all(isinstance(x, (*_DIMS, float)) for x in (a, b)):
        return NotImplemented
    return getattr(operator, name)(_operand(a), _operand(b))


Poly.beyond = staticmethod(beyond)
