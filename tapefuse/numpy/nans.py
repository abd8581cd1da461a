"""Reductions that leave nan out. Of integers they are the plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import real_dtype
from tapefuse.numpy import reduce
from tapefuse.numpy.elementwise import astype, divide, isnan, logical_and, logical_not, maximum, sqrt, where
from tapefuse.numpy.reduce import cumsum
from tapefuse.numpy.running import cumprod
from tapefuse.numpy.shape import Axis, _refuse
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor


def _without(x: Any, value: float) -> Tensor:
    """`value` in place of nan."""
    x = as_tensor(x)
    return where(isnan(x), value, x) if kind_of(x.dtype) in "fc" else x


def _numbers(x: Any, mask: Any) -> tuple[Tensor, Any]:
    """`x` with 0 for nan, and which elements count (None: all)."""
    x = as_tensor(x)
    if kind_of(x.dtype) not in "fc":
        return x, mask
    valid = logical_not(isnan(x))
    return where(valid, x, 0), valid if mask is None or mask is True else logical_and(valid, mask)


def nansum(
    x: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = None,
) -> Tensor:
    """Sum over axes, nan as 0."""
    return reduce.sum(_without(x, 0), axis, dtype, out, keepdims, initial, where)


def nanprod(
    x: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = None,
) -> Tensor:
    """Product over axes, nan as 1."""
    return reduce.prod(_without(x, 1), axis, dtype, out, keepdims, initial, where)


def nancumsum(x: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Tensor:
    """Running sums, nan as 0."""
    return cumsum(_without(x, 0), axis, dtype, out)


def nancumprod(x: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Tensor:
    """Running products, nan as 1."""
    return cumprod(_without(x, 1), axis, dtype, out)


def nanmean(
    x: Any, axis: Axis = None, dtype: Any = None, out: None = None, keepdims: bool = False, *, where: Any = None
) -> Tensor:
    """Mean over axes of what is not nan; nan if all is."""
    numbers, counted = _numbers(x, where)
    return reduce.mean(numbers, axis, dtype, out, keepdims, where=counted)


def nanvar(
    x: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: None = None,
    ddof: float = 0,
    keepdims: bool = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: float | None = None,
) -> Tensor:
    """Variance over axes of what is not nan; nan where no more than `ddof` elements are left."""
    _refuse(out)
    numbers, counted = _numbers(x, where)
    if counted is None:
        return reduce.var(x, axis, dtype, out, ddof, keepdims, mean=mean, correction=correction)
    less = ddof if correction is None else correction
    numbers = reduce._floating(numbers, dtype)
    total, free = reduce._spread(numbers, axis, keepdims, counted, mean, less)
    return astype(divide(total, _where(free, maximum(free, 0))), real_dtype(numbers.dtype))


def _where(free: Tensor, divisor: Tensor) -> Tensor:
    """nan where nothing is left to divide by."""
    return where(free > 0, divisor, np.nan)


def nanstd(
    x: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: None = None,
    ddof: float = 0,
    keepdims: bool = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: float | None = None,
) -> Tensor:
    """Standard deviation over axes of what is not nan."""
    return sqrt(nanvar(x, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction))


def _extreme(function: Callable[..., Tensor], beyond: float, x: Any, axis: Axis, keepdims: bool, **options: Any) -> Any:
    x = as_tensor(x)
    if kind_of(x.dtype) not in "fc":
        return function(x, axis, keepdims=keepdims, **options)
    y = function(_without(x, beyond), axis, keepdims=keepdims, **options)
    none = reduce.all(isnan(x), axis, keepdims=keepdims)
    return y if options.get("initial") is not None else where(none, np.nan, y)


def nanmax(
    x: Any, axis: Axis = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Tensor:
    """Maximum over axes of what is not nan; nan if all is."""
    return _extreme(reduce.max, -np.inf, x, axis, keepdims, out=out, initial=initial, where=where)


def nanmin(
    x: Any, axis: Axis = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Tensor:
    """Minimum over axes of what is not nan; nan if all is."""
    return _extreme(reduce.min, np.inf, x, axis, keepdims, out=out, initial=initial, where=where)


def _position(function: Callable[..., Tensor], beyond: float, x: Any, axis: int | None, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    y = function(_without(x, beyond), axis, keepdims=keepdims)
    none = reduce.any(reduce.all(isnan(x), axis))
    if not isinstance(none, TracedTensor) and bool(none):
        raise ValueError(f"{called()}: all of a slice is nan, so that it has no extreme")
    return y


def nanargmax(x: Any, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tensor:
    """Position of the maximum of what is not nan. ValueError where all is; inside of a trace such a slice gives 0."""
    _refuse(out)
    return _position(reduce.argmax, -np.inf, x, axis, keepdims)


def nanargmin(x: Any, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tensor:
    """Position of the minimum of what is not nan. ValueError where all is; inside of a trace such a slice gives 0."""
    _refuse(out)
    return _position(reduce.argmin, np.inf, x, axis, keepdims)


__all__ = [
    "nanargmax",
    "nanargmin",
    "nancumprod",
    "nancumsum",
    "nanmax",
    "nanmean",
    "nanmin",
    "nanprod",
    "nanstd",
    "nansum",
    "nanvar",
]
