"""Conditions, and `and`, `or` and comparisons of them, for Python's values and traced ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tapefuse._errors import ShapeError
from tapefuse.tracer import control
from tapefuse.tracer.extents import plain
from tapefuse.tracer.operators import functions
from tapefuse.tracer.rewriting.calls import undecided
from tapefuse.tracer.rewriting.jumps import ASKED, PLAIN
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Readable, Tensor, weakened

Thunk = Callable[[], Any]


def is_unknown(x: Any) -> bool:
    """Whether the truth of `x` is not known while tracing."""
    return state.trace is not None if isinstance(x, Readable) else undecided(x)


def condition(x: Any, what: str) -> Any:
    """A traced condition as a bool scalar. Raises ShapeError."""
    x = x.read() if isinstance(x, Readable) else plain(x)
    if x.shape != ():
        raise ShapeError(
            f"{what} is {x!r}, of shape {list(x.shape)}: a condition is one bool; use tp.any(...) or tp.all(...), or "
            "tp.where(condition, a, b) to choose element by element"
        )
    return x if x.dtype.kind == "b" else functions.not_equal(x, 0)


class Branch(partial):
    """A function whose result is a number of the program where it is a size. Errors name the function itself."""

    def __call__(self) -> Any:
        return plain(super().__call__())


def and_(how: int, first: Any, *rest: Thunk) -> Any:
    for k, operand in enumerate(rest):
        if is_unknown(first):
            test = condition(first, f"an operand of 'and' at {user_loc()}")
            return logical(functions.logical_and, how, test, first, partial(continued, and_, how, rest[k:]))
        if not first:
            return first
        first = operand()
    return first


def not_(x: Any) -> Any:
    return functions.logical_not(condition(x, f"the operand of 'not' at {user_loc()}")) if is_unknown(x) else not x


def continued(operator: Callable[..., Any], how: int, rest: Sequence[Thunk]) -> Any:
    return operator(how, rest[0](), *rest[1:])


def logical(combine: Callable[..., Any], how: int, test: Any, first: Any, rest: Thunk, swap: bool = False) -> Any:
    """`first and rest()`, or the same for `or`. `how`: PLAIN if the rest may be computed in vain, ASKED if the truth of
    the result alone matters."""
    if how & ASKED:
        first, rest = test, partial(_truth, rest)
    is_bool = isinstance(first, Tensor) and first.dtype.kind == "b"
    if is_bool and how & PLAIN:
        other = rest()
        if other is (not swap):  # `x and True`, `x or False`
            return test
        if isinstance(other, bool) or (isinstance(other, Tensor) and other.dtype.kind == "b" and other.shape == ()):
            return combine(test, other)
        rest, first = partial(_itself, other), _as_number(first, other)
    keep, otherwise = partial(plain, first), Branch(rest)
    return control.cond(test, keep, otherwise) if swap else control.cond(test, otherwise, keep)


def _truth(operand: Thunk) -> Any:
    x = operand()
    return condition(x, f"an operand of a condition at {user_loc()}") if is_unknown(x) else bool(x)


def _as_number(first: Tensor, other: Any) -> Tensor:
    """A bool as the number that it is to Python where the other operand is one."""
    if type(other) in (int, float):
        return weakened(functions.astype(first, "int64"))
    is_number = isinstance(other, Tensor) and other.shape == () and other.dtype.kind != "b"
    return functions.astype(first, other.dtype) if is_number else first


def _itself(x: Any) -> Any:
    return x
