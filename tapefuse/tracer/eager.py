"""The short way of operations on eager tensors of float32 and float64: NumPy's function, a tensor, a line on the tapes.

Everything else (other dtypes, traced tensors, variables, operands that do not fit) goes the long way, `applying.apply`.
What is kept of an operation is a `Line`, a plain tuple with the arrays themselves: types, locations and derivative
rules are looked at when somebody asks for derivatives (`record`, `backward`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse.ir.op import Op
from tapefuse.tracer.applying import taped
from tapefuse.tracer.arrays import F32, F64, normal
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Deferred, Readable, Tensor

_NONE: dict[str, Any] = {}
_FLOATS = F32, F64
_ndarray = np.ndarray
_new = Tensor.__new__


@lru_cache(maxsize=1024)
def _nonzero(x: Any, dtype: np.dtype) -> np.ndarray:
    return np.array(x, dtype)


def number(x: Any, dtype: np.dtype) -> np.ndarray:
    """A Python number as an array that nobody writes to."""
    return _nonzero(x, dtype) if x else np.array(x, dtype)  # 0.0 == -0.0


def _alike(x: Any, y: Any) -> bool:
    """Whether the op takes these as they are: tensors of one dtype, or one and a Python number."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.dtype is y.dtype
    return type(x) is float or type(x) is int or type(y) is float or type(y) is int


def unary(op: Op, general: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An elementwise function of one operand; `general` is for what does not go the short way."""
    raw = op.raw

    def function(*xs: Any, dtype: Any = None) -> Tensor:
        here = state
        if len(xs) == 1 and dtype is None and here.trace is None:
            x = xs[0]
            if type(x) is Tensor and ((t := (a := x._array).dtype) is F32 or t is F64):
                try:
                    array = here.quietly(raw, a)
                except Exception:  # whatever it is, the long way meets it again and says why
                    return general(x)
                y = _new(Tensor)
                y._array = array = array if type(array) is _ndarray and array.flags.c_contiguous else normal(array)
                if tapes := here.tapes:
                    taped(tapes, op, _NONE, xs, y, (array, a))
                return y
            if type(x) is Deferred:
                later = x._run.next(op, _NONE, xs)
                return function(x) if later is None else later
            if isinstance(x, Readable):
                return function(x.read())
        return general(*xs, dtype=dtype)

    return function


def binary(op: Op, general: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same of two operands, one of which may be a Python number."""
    raw = op.raw

    def function(*xs: Any, dtype: Any = None) -> Tensor:
        here = state
        if len(xs) == 2 and dtype is None and here.trace is None:
            x, z = xs
            a = x._array if type(x) is Tensor else None
            b = z._array if type(z) is Tensor else None
            if a is not None and b is None and (type(z) is float or type(z) is int) and a.dtype in _FLOATS:
                b = number(z, a.dtype)
            elif b is not None and a is None and (type(x) is float or type(x) is int) and b.dtype in _FLOATS:
                a = number(x, b.dtype)
            if a is not None and b is not None and b.dtype is (t := a.dtype) and (t is F32 or t is F64):
                try:
                    array = here.quietly(raw, a, b)
                except Exception:
                    return general(x, z)
                y = _new(Tensor)
                y._array = array = array if type(array) is _ndarray and array.flags.c_contiguous else normal(array)
                if tapes := here.tapes:
                    taped(tapes, op, _NONE, xs, y, (array, a, b))
                return y
            if (type(x) is Deferred or type(z) is Deferred) and _alike(x, z):
                later = (x if type(x) is Deferred else z)._run.next(op, _NONE, xs)
                return function(x, z) if later is None else later
            if isinstance(x, Readable) or isinstance(z, Readable):
                return function(*[v.read() if isinstance(v, Readable) else v for v in xs])
        return general(*xs, dtype=dtype)

    return function
