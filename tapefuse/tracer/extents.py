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
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, weakened

_DIMS: Any = (int, np.integer, Poly)
_NUMBERS: Any = (int, float, complex, np.generic, np.ndarray, Poly, Operators)
_SEQUENCES: Any = (tuple, list)
_ASKED: Any = (Poly, tuple, list)


def number(d: Poly) -> Tensor:
    """The number of the program that a size is; it takes the dtype of what it meets, as Python's numbers do."""
    return weakened(as_tensor(d))


def plain(x: Any) -> Any:
    """`x`, or the number of the program if it is a size."""
    return number(x) if isinstance(x, Poly) else x


def has_sizes(x: Any) -> bool:
    """Whether `x` is a size, or a tuple or list with one in it."""
    return any(map(has_sizes, x)) if isinstance(x, _SEQUENCES) else isinstance(x, Poly)


# -- comparisons ------------------------------------------------------------------------------------------------------


def equal(a: Any, b: Any) -> Any:
    """`a == b`: a bool, or a traced one where sizes are compared and it is known at run time only."""
    if not isinstance(a, _ASKED) and not isinstance(b, Poly):
        return a == b
    return _equality(a, b) if _asks_sizes(a, b) else a == b


def unequal(a: Any, b: Any) -> Any:
    """`a != b`, as `equal`."""
    if not _asks_sizes(a, b):
        return a != b
    found = _equality(a, b)
    return functions.logical_not(found) if isinstance(found, Tensor) else not found


def _asks_sizes(a: Any, b: Any) -> bool:
    """Whether Python's comparison would take sizes for what is written."""
    if isinstance(a, _SEQUENCES):
        is_kind = isinstance(b, tuple if isinstance(a, tuple) else list)
        return is_kind and state.trace is not None and (has_sizes(a) or has_sizes(b))
    return (isinstance(a, Poly) or isinstance(b, Poly)) and state.trace is not None


def _equality(a: Any, b: Any) -> Any:
    if isinstance(a, _SEQUENCES):
        return len(a) == len(b) and _all_equal(a, b)
    if isinstance(a, _DIMS) and isinstance(b, _DIMS):
        d = a - b
        if not isinstance(d, Poly) or _is_positive(d) or _is_positive(d * -1):
            return isinstance(d, int) and d == 0
    elif not isinstance(a, _NUMBERS) or not isinstance(b, _NUMBERS):
        return a == b
    return functions.equal(plain(a), plain(b))


def _all_equal(xs: tuple | list, ys: tuple | list) -> Any:
    found: Any = True
    for x, y in zip(xs, ys, strict=True):
        one = x is y or equal(x, y)
        if not isinstance(one, Tensor):
            if not one:
                return False
        else:
            found = one if found is True else functions.logical_and(found, one)
    return found


def _is_positive(d: Dim) -> bool:
    return never_negative(d - 1, {} if state.trace is None else state.trace.known)


def is_less(a: Dim, b: Dim) -> bool | None:
    """Whether a < b, if that is so, or is not so, for all sizes."""
    if _is_positive(b - a):
        return True
    return False if _is_positive(a - b + 1) else None


_ORDERS: dict[str, Callable[[Dim, Dim], bool | None]] = {
    "lt": is_less,
    "gt": lambda a, b: is_less(b, a),
    "le": lambda a, b: None if (found := is_less(b, a)) is None else not found,
    "ge": lambda a, b: None if (found := is_less(a, b)) is None else not found,
}


# -- what polynomials leave to numbers --------------------------------------------------------------------------------


def beyond(operation: str | np.ufunc, *operands: Any) -> Any:
    """`operator.operation(a, b)`, or that of NumPy, where an operand is a size and the operation none of polynomials.

    NotImplemented outside of traces, and for what is no number: an operator of tensors does it, or Python's error.
    """
    if operation in _ORDERS and all(isinstance(x, _DIMS) for x in operands):
        found = _ORDERS[operation](*operands)
        if found is not None:
            return found
    if state.trace is None or not all(isinstance(x, _NUMBERS) and not isinstance(x, Operators) for x in operands):
        return NotImplemented
    if operation == "pow" and isinstance(operands[1], int) and operands[1] < 0:
        return 1 / number(operands[0]) ** -operands[1]
    compute = operation if callable(operation) else divmod if operation == "divmod" else getattr(operator, operation)
    return compute(*map(plain, operands))


Poly.beyond = staticmethod(beyond)
