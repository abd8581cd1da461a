"""The short way of operations on eager tensors of float32 and float64: NumPy's function, a tensor, a line on the tapes.

Everything else (other dtypes, traced tensors, variables, operands that do not fit) goes the long way, `tensor.apply`.
What is kept of an operation is a `Line`, a plain tuple with the arrays themselves: types, locations and derivative
rules are looked at when somebody asks for derivatives (`record`, `backward`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np

from tapefuse.ir.op import Op
from tapefuse.ir.types import Shape, Type
from tapefuse.tracer.source import OURS
from tapefuse.tracer.state import new_key, state
from tapefuse.tracer.tensor import Tensor, key_of, normal, record

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
SMALL = 4096  # bytes; smaller arrays are kept without asking whether a derivative rule reads them

# op, keys of the operands (below 0: not tracked, 0: none), key of the result, [result, *operands] as arrays or `Shell`s
# of them, attributes, code and last instruction of the user's function
Line = tuple[Op, tuple[int, ...], int, tuple, dict[str, Any], CodeType, int]

_NOBODY = Tensor.__new__(Tensor)  # a Python number as an operand
_NOBODY._key = 0
_NONE: dict[str, Any] = {}
_frame = sys._getframe
_new = Tensor.__new__


class Shell:
    """What is left of an array whose values no derivative rule reads."""

    __slots__ = ("dtype", "shape")

    def __init__(self, array: np.ndarray):
        self.dtype, self.shape = array.dtype, array.shape

    @property
    def type(self) -> Type:
        return Type(self.dtype, self.shape)


@lru_cache(maxsize=1024)
def _nonzero(x: Any, dtype: np.dtype) -> np.ndarray:
    return np.array(x, dtype)


def number(x: Any, dtype: np.dtype) -> np.ndarray:
    """A Python number as an array that nobody writes to."""
    return _nonzero(x, dtype) if x else np.array(x, dtype)  # 0.0 == -0.0


def unary(op: Op, general: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An elementwise function of one operand; `general` is for what does not go the short way."""
    raw = op.raw

    def function(*xs: Any, dtype: Any = None) -> Tensor:
        if len(xs) == 1 and type(x := xs[0]) is Tensor and dtype is None and state.trace is None:
            a = x._array
            t = a.dtype
            if t is F32 or t is F64:
                y = _computed(raw, t, a)
                if y is not None:
                    if tapes := state.tapes:
                        taped(tapes, op, _NONE, xs, y, (y._array, a))
                    return y
        return general(*xs, dtype=dtype)

    return function


def binary(op: Op, general: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same of two operands, one of which may be a Python number."""
    raw = op.raw

    def function(*xs: Any, dtype: Any = None) -> Tensor:
        if len(xs) == 2 and dtype is None and state.trace is None:
            x, z = xs
            if type(x) is Tensor:
                a = x._array
                t = a.dtype
                b = z._array if type(z) is Tensor else number(z, t) if type(z) is float or type(z) is int else None
            elif (type(x) is float or type(x) is int) and type(z) is Tensor:
                b = z._array
                t = b.dtype
                a = number(x, t)
            else:
                return general(*xs)
            if (t is F32 or t is F64) and b is not None and b.dtype is t:
                y = _computed(raw, t, a, b)
                if y is not None:
                    if tapes := state.tapes:
                        taped(tapes, op, _NONE, xs, y, (y._array, a, b))
                    return y
        return general(*xs, dtype=dtype)

    return function


def _computed(raw: Callable[..., Any], dtype: np.dtype, *arrays: np.ndarray) -> Tensor | None:
    """The result of an elementwise function; None for what is not to go the short way: the long way says why."""
    try:
        array = state.quietly(raw, *arrays)
    except Exception:  # whatever it is, the long way meets it again
        return None
    if array.dtype is not dtype or not array.flags.c_contiguous:
        return None
    y = _new(Tensor)
    y._array = array if type(array) is np.ndarray else np.asarray(array)
    return y


def taped(
    tapes: tuple, op: Op, attrs: dict[str, Any], xs: tuple[Any, ...], y: Tensor, held: tuple[np.ndarray, ...]
) -> None:
    """Enter `y = op(*xs, **attrs)` on the tapes that track an operand. `held`: the arrays of `y` and `xs`."""
    if state.pinned or state.overrides:
        record(op, tuple([x if isinstance(x, Tensor) else _tensor(a) for x, a in zip(xs, held[1:])]), attrs, y)
        return
    keys = [x._key if type(x) is Tensor else 0 for x in xs]
    y._key = key = new_key()
    for tape in tapes:
        tracked = tape._tracked
        if not tracked.isdisjoint(keys):
            tracked.add(key)
            frame = _frame(2)
            while OURS[frame.f_code.co_filename] and frame.f_back is not None:
                frame = frame.f_back
            places = tuple([k if k in tracked else -k for k in keys])
            tape._records.append((op, places, key, held, attrs, frame.f_code, frame.f_lasti))
        if tape.lost:
            tape.missed(op.name, keys, y)
