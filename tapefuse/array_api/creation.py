"""Arrays from nothing, from Python's numbers and from other libraries, by the standard's rules.

Python integers become int64 here, and floats float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Poly
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.exchange import on_cpu
from tapefuse.tracer.interchange import from_dlpack
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.tensor import Tensor, as_tensor

DEFAULTS: dict[Any, np.dtype] = {
    bool: np.dtype(bool),
    int: np.dtype(np.int64),
    float: np.dtype(np.float32),
    complex: np.dtype(np.complex64),
}


def _default(dtype: Any, *numbers: Any) -> Any:
    """`dtype`, or the default one for Python numbers: that of the widest kind among them."""
    if dtype is not None:
        return np.dtype(dtype)
    kinds: list[Any] = [python_kind(x) for x in numbers]
    return None if None in kinds or not kinds else DEFAULTS[max(kinds, key=list(DEFAULTS).index)]


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """`obj` as an array. `copy=False`: only if that needs none, else ValueError."""
    on_cpu(device)
    if isinstance(obj, Operators):
        found = as_tensor(obj)
        if dtype is None or np.dtype(dtype) == found.dtype:
            return found.copy() if copy else found
        if copy is False:
            raise ValueError(f"asarray: {found.dtype} cannot become {np.dtype(dtype)} without a copy")
        return tp.astype(found, dtype)
    if copy is False:
        raise ValueError(f"asarray: a tensor is never written to, so what a {type(obj).__name__} holds must be copied")
    dtype = _default(dtype, obj)
    if dtype is None and isinstance(obj, (list, tuple)) and not any(hasattr(x, "dtype") for x in obj):
        array = np.asarray(obj)
        dtype = _default(None, array.dtype.type(0).item()) if kind_of(array.dtype) in "biufc" else None
    return tp.asarray(obj, dtype)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Tensor:
    """start, start + step, ... below stop."""
    on_cpu(device)
    bounds = [x for x in (start, stop, step) if x is not None]
    dtype = _default(dtype, *[0 if isinstance(x, Poly) else x for x in bounds])
    if len(bounds) == 3 and all(type(x) in (int, float) for x in bounds) and (stop - start) * step <= 0:
        return tp.zeros((0,), dtype)
    return tp.arange(start, stop, step, dtype)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """`fill_value` everywhere."""
    on_cpu(device)
    return tp.full(shape, fill_value, _default(dtype, fill_value))


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """`fill_value` in the shape of `x`, and in its dtype unless said otherwise."""
    on_cpu(device)
    return tp.full_like(x, fill_value, dtype)


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros, float32 unless said otherwise."""
    return full(shape, 0.0 if dtype is None else 0, dtype=dtype, device=device)


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones, float32 unless said otherwise."""
    return full(shape, 1.0 if dtype is None else 1, dtype=dtype, device=device)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros in the shape and dtype of `x`."""
    return full_like(x, 0, dtype=dtype, device=device)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones in the shape and dtype of `x`."""
    return full_like(x, 1, dtype=dtype, device=device)


def empty(shape: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros: a tensor is never written to."""
    return zeros(shape, dtype=dtype, device=device)


def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros in the shape and dtype of `x`."""
    return zeros_like(x, dtype=dtype, device=device)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> Tensor:
    """Ones on a diagonal, zeros elsewhere."""
    on_cpu(device)
    return tp.eye(n_rows, n_cols, k, np.float32 if dtype is None else dtype)


def linspace(
    start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> Tensor:
    """`num` evenly spaced numbers."""
    on_cpu(device)
    default = np.complex64 if complex in (type(start), type(stop)) else np.float32
    found: Tensor = tp.linspace(start, stop, num, endpoint, dtype=default if dtype is None else dtype)
    return found


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Tensor]:
    """Coordinate matrices from vectors of coordinates of one dtype."""
    if any(x.ndim > 1 for x in map(as_tensor, arrays)):
        raise ShapeError("meshgrid takes vectors")
    return list(tp.meshgrid(*arrays, indexing=indexing))


def tril(x: Any, /, *, k: int = 0) -> Tensor:
    """The part below the k-th diagonal, with it; zeros elsewhere."""
    return tp.tril(x, k)


def triu(x: Any, /, *, k: int = 0) -> Tensor:
    """The part above the k-th diagonal, with it; zeros elsewhere."""
    return tp.triu(x, k)


__all__ = [
    "arange",
    "asarray",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
]
