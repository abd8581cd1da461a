"""Operands in the dtypes that NumPy's own ufuncs would use for them (NEP 50: Python numbers are weak)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir.halves import of_ufunc, promoted
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Poly, has_derivatives
from tapefuse.tracer.arrays import PYTHON_DEFAULTS, check_dtype, python_kind
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Number, Tensor, as_tensor, weakened

_WEAK = {"i": int, "u": int, "f": float, "c": complex}
DTypeLike = Any  # np.dtype, or int, float or complex (the types) for weak Python numbers


def strength(x: Any) -> DTypeLike:
    """The dtype of an operand, or `int`, `float`, `complex` for Python numbers and lists of them."""
    if isinstance(x, Operators):
        return _WEAK[x.dtype.kind] if getattr(x, "weak", False) else x.dtype  # type: ignore[attr-defined]
    if isinstance(x, Poly):
        return int
    kind = python_kind(x)
    if kind is not None:
        return np.dtype(bool) if kind is bool else kind
    dtype = getattr(x, "dtype", None)
    return check_dtype(dtype, "an array") if isinstance(dtype, np.dtype) else as_tensor(x).dtype


def cast(x: Tensor, dtype: np.dtype) -> Tensor:
    if x.dtype == dtype:
        return x
    exact = x.exact if isinstance(x, Number) else None
    return OPS["cast"](x, dtype=dtype) if exact is None else as_tensor(exact, dtype)


def converted(x: Any, dtype: np.dtype) -> Tensor:
    """`x` as a tensor of this dtype."""
    return cast(as_tensor(x, dtype), dtype)


def floats(xs: tuple) -> Sequence[Tensor] | None:
    """The common case, quickly: floating tensors of one dtype, perhaps one Python number; None if not."""
    if len(xs) == 1:
        return xs if isinstance(xs[0], Tensor) and xs[0].dtype.kind == "f" else None
    a, b = xs if len(xs) == 2 else (None, None)
    if isinstance(a, Tensor) and a.dtype.kind == "f":
        if isinstance(b, Tensor):
            return xs if b.dtype is a.dtype else None
        return (a, _number(b, a.dtype)) if type(b) in (float, int) and not a.weak else None
    if type(a) in (float, int) and isinstance(b, Tensor) and b.dtype.kind == "f" and not b.weak:
        return _number(a, b.dtype), b
    return None


def _number(x: Any, dtype: np.dtype) -> Tensor:
    tensor = Tensor.__new__(Tensor)
    tensor._array = np.array(x, dtype)
    return tensor


@lru_cache(maxsize=1024)
def _resolved(ufunc: np.ufunc, operands: tuple[DTypeLike, ...]) -> tuple[np.dtype, ...]:
    if all(isinstance(d, type) for d in operands):
        operands = tuple(PYTHON_DEFAULTS[d] for d in operands)
    return of_ufunc(ufunc, operands)


def operands(ufunc: np.ufunc, *xs: Any) -> list[Tensor]:
    """`xs` in the dtypes in which `ufunc` would compute. Raises DTypeError where it refuses."""
    kinds = tuple([strength(x) for x in xs])
    is_number = any(getattr(x, "weak", False) for x in xs) and all(isinstance(d, type) for d in kinds)
    kinds = _among_numbers(xs, kinds) if is_number else kinds
    try:
        dtypes = _resolved(ufunc, kinds)
    except TypeError:
        shown = ", ".join(d.__name__ if isinstance(d, type) else str(d) for d in kinds)
        raise DTypeError(
            f"np.{ufunc.__name__} has no meaning for ({shown}) at {user_loc()}; convert with tp.cast"
        ) from None
    found = [converted(x, dtype) for x, dtype in zip(xs, dtypes, strict=False)]
    return [weakened(x) for x in found] if is_number else found


def _among_numbers(xs: tuple, kinds: tuple[DTypeLike, ...]) -> tuple[DTypeLike, ...]:
    """Kinds for carried numbers that meet: they keep the dtypes they have, integers take that of floats."""
    dtypes = [x.dtype if getattr(x, "weak", False) else d for x, d in zip(xs, kinds, strict=True)]
    floats = any(isinstance(d, np.dtype) and has_derivatives(d) for d in dtypes)
    return tuple([int if floats and k is int else d for d, k in zip(dtypes, kinds, strict=True)])


_CARRIED = {int: np.dtype(np.int64), float: np.dtype(np.float64), complex: np.dtype(np.complex128)}


def _widest(kinds: Sequence[DTypeLike]) -> type:
    """The kind of several Python numbers together."""
    return next((k for k in (complex, float) if k in kinds), int)


def common(*xs: Any) -> list[Tensor]:
    """`xs` as tensors of one dtype."""
    kinds = [strength(x) for x in xs]
    strong = [d for d in kinds if not isinstance(d, type)]
    weak = [d(0) for d in kinds if isinstance(d, type)]
    if not strong and any(getattr(x, "weak", False) for x in xs):  # numbers that a loop or branch carries
        return [weakened(converted(x, _CARRIED[_widest(kinds)])) for x in xs]
    dtype = promoted(*strong, *weak) if strong else PYTHON_DEFAULTS[_widest(kinds)]
    return [converted(x, dtype) for x in xs]
