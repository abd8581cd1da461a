"""The arrays that tensors hold: their dtypes, their layout, and those that Python's numbers become."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse._tree import flatten
from tapefuse.ir.halves import is_bfloat16, kind_of
from tapefuse.ir.types import real_dtype
from tapefuse.tracer.source import called

PYTHON_DEFAULTS = {
    bool: np.dtype(bool),
    int: np.dtype(np.int32),
    float: np.dtype(np.float32),
    complex: np.dtype(np.complex128),
}
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
_NUMERIC = "biufc"
_NATIVE = {id(np.dtype(t)) for t in (bool, *"bhilBHILefdFD")}


def normal(array: Any) -> np.ndarray:
    """The same array if it is C-contiguous, aligned and in native byte order, else such a copy."""
    array = np.asarray(array, order="C")
    if id(array.dtype) not in _NATIVE:
        array = array if is_bfloat16(array.dtype) else array.astype(native(array.dtype))
    return array if array.flags.aligned else array.copy()


def native(dtype: np.dtype) -> np.dtype:
    """NumPy's own object for a dtype of this kind and size, in native byte order; compiled code compares identities."""
    return dtype if id(dtype) in _NATIVE or is_bfloat16(dtype) else np.dtype(f"{dtype.kind}{dtype.itemsize}")


def check_dtype(dtype: Any, what: str) -> np.dtype:
    """`dtype` as a NumPy dtype that tensors can have. Raises DTypeError."""
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{called()}: {dtype!r} is not a dtype; give one such as np.float32, or its name") from None
    if id(dtype) in _NATIVE or is_bfloat16(dtype):
        return dtype
    if dtype.kind not in _NUMERIC or real_dtype(dtype).itemsize > 8:
        raise DTypeError(
            f"{called()}: {what} of dtype {dtype} cannot become a tensor; tensors hold bool, integer, bfloat16, "
            "float16/32/64 and complex64/128"
        )
    return native(dtype)


def python_kind(x: Any) -> type | None:
    """bool, int, float or complex if `x` is built of Python numbers only (the widest of them), else None."""
    if type(x) in PYTHON_DEFAULTS:
        return type(x)
    if not isinstance(x, (list, tuple)):
        return None
    kinds = set(map(type, flatten(x)[0]))
    return max(kinds, key=list(PYTHON_DEFAULTS).index, default=float) if kinds <= PYTHON_DEFAULTS.keys() else None


def takes(dtype: np.dtype, number: np.dtype) -> bool:
    """Whether a Python number of the kind of `number` may become one of `dtype`: nothing but its precision changes."""
    return number.kind not in "fc" or kind_of(dtype) in ("fc" if number.kind == "f" else "c")


def python_array(x: Any, kind: type, dtype: Any) -> np.ndarray:
    """Integers that do not fit into 32 bits become int64."""
    if dtype is None and kind is int:
        array = array_of(x)
        check_dtype(array.dtype, f"the number {shortened(x)}")
        small = np.iinfo(np.int32)
        fits = array.size == 0 or (array.min() >= small.min and array.max() <= small.max)
        return array.astype(np.int32) if fits else array
    return array_of(x, dtype or PYTHON_DEFAULTS[kind])


def array_of(x: Any, dtype: Any = None) -> np.ndarray:
    """A new array, if `x` is none. Raises ValueError for lists of different lengths."""
    try:
        return np.asarray(x, dtype)
    except ValueError as error:
        raise ValueError(f"{called()}: {shortened(x)} cannot become a tensor: {error}") from None


def shortened(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 40 else text[:37] + "..."
