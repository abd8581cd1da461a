"""What is known of an array without looking at its elements: shape, rank, size and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.ir.halves import limits, promoted
from tapefuse.ir.types import Dim, Shape
from tapefuse.numpy.shape import _axis, _listed
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import strength
from tapefuse.tracer.tensor import as_tensor


def shape(x: Any) -> Shape:
    """Extents; inside a trace some of them may be symbols."""
    return as_tensor(x).shape


def ndim(x: Any) -> int:
    """Number of axes."""
    return as_tensor(x).ndim


def size(x: Any, axis: Any = None) -> Dim:
    """Number of elements, or the extent along an axis (the product of several)."""
    x = as_tensor(x)
    if axis is None:
        count: Dim = x.size
        return count
    count = 1
    for k in _listed(axis):
        count = count * x.shape[_axis(x.ndim, k)]
    return count


def _dtype_or_value(x: Any) -> Any:
    return strength(x) if isinstance(x, Operators) else x


def result_type(*operands: Any) -> np.dtype:
    """The dtype in which NumPy combines operands or dtypes; Python numbers are weak."""
    return promoted(*map(_dtype_or_value, operands))


def can_cast(given: Any, to: Any, casting: Any = "safe") -> bool:
    """Whether a dtype, or that of an array, may be converted to another by a casting rule."""
    return np.can_cast(_dtype_or_value(given), to, casting)


def common_type(*arrays: Any) -> Any:
    """The floating-point or complex scalar type in which NumPy computes with arrays. Raises TypeError for bools."""
    return np.common_type(*(np.empty(0, as_tensor(x).dtype) for x in arrays))


def promote_types(first: Any, second: Any) -> np.dtype:
    """The smallest dtype to which both may be converted safely."""
    return promoted(np.dtype(first), np.dtype(second))


def finfo(dtype: Any) -> Any:
    """NumPy's `finfo` of a dtype, a tensor or a variable, bfloat16 included: `max`, `tiny`, `eps`, `bits`, ...

    Raises ValueError for what is no float.
    """
    return limits(getattr(dtype, "dtype", dtype) if isinstance(dtype, Operators) else dtype)


def min_scalar_type(x: Any) -> np.dtype:
    """The dtype of an array; the smallest one that holds a scalar's value."""
    if isinstance(x, Operators):
        x = as_tensor(x)
        return np.min_scalar_type(np.asarray(x)) if x.ndim == 0 else x.dtype
    return np.min_scalar_type(x)


__all__ = [
    "can_cast",
    "common_type",
    "finfo",
    "min_scalar_type",
    "ndim",
    "promote_types",
    "result_type",
    "shape",
    "size",
]
