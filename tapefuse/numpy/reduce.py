"""Reductions over axes, and what is built from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.op import Op
from tapefuse.ir.types import size as size_of
from tapefuse.numpy.elementwise import (
    _truth,
    add,
    astype,
    divide,
    exp,
    isfinite,
    log,
    sqrt,
    square,
    stop_gradient,
    subtract,
    where,
)
from tapefuse.numpy.shape import Axis, _axes, _axis, dim, ravel, squeeze
from tapefuse.tracer.promote import cast as _cast
from tapefuse.tracer.promote import operands
from tapefuse.tracer.tensor import Tensor, as_tensor


def _kept(y: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if not keepdims:
        return y
    return ops.reshape(y, shape=tuple([1 if k in axes else n for k, n in enumerate(x.shape)]))


def _reduce(op: Op, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    axes = _axes(x, axis)
    return _kept(op(x, axes=axes) if axes else x, x, axes, keepdims)


def _widened(x: Any, dtype: Any) -> Tensor:
    """NumPy adds up bools and small integers in 64 bits."""
    x = as_tensor(x)
    if dtype is not None:
        return astype(x, dtype)
    if x.dtype.kind in "biu" and x.dtype.itemsize < 8:
        return _cast(x, np.dtype(np.uint64 if x.dtype.kind == "u" else np.int64))
    return x


def sum(x: Any, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over axes (all by default); bools and small integers are added up in 64 bits."""
    return _reduce(ops.reduce_sum, _widened(x, dtype), axis, keepdims)


def prod(x: Any, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Product over axes; its gradient is right with zeros among the factors."""
    return _reduce(ops.reduce_prod, _widened(x, dtype), axis, keepdims)


def mean(x: Any, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over axes; of integers a float64. nan over no elements."""
    x = as_tensor(x)
    x = astype(x, dtype or (np.float64 if x.dtype.kind in "biu" else x.dtype))
    return divide(sum(x, axis, keepdims=keepdims), _count(x, axis))


def _count(x: Tensor, axis: Axis, less: int = 0) -> Tensor:
    """Number of elements over `axis`, in the dtype of `x`."""
    return dim(size_of(x.shape[a] for a in _axes(x, axis)) - less, x.dtype)


def var(x: Any, axis: Axis = None, dtype: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Variance over axes, divided by the number of elements less `ddof`."""
    x = as_tensor(x)
    x = astype(x, dtype or (np.float64 if x.dtype.kind in "biu" else x.dtype))
    deviation = subtract(x, mean(x, axis, keepdims=True))
    return divide(sum(square(deviation), axis, keepdims=keepdims), _count(x, axis, ddof))


def std(x: Any, axis: Axis = None, dtype: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Standard deviation over axes."""
    return sqrt(var(x, axis, dtype, ddof, keepdims))


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Maximum over axes, nan if there is one; ties share the gradient."""
    x = as_tensor(x)
    return _reduce(ops.reduce_any if x.dtype.kind == "b" else ops.reduce_max, x, axis, keepdims)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Minimum over axes, nan if there is one; ties share the gradient."""
    x = as_tensor(x)
    return _reduce(ops.reduce_all if x.dtype.kind == "b" else ops.reduce_min, x, axis, keepdims)


amax, amin = max, min


def any(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element over axes is true."""
    return _reduce(ops.reduce_any, _truth(x), axis, keepdims)


def all(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over axes are true."""
    return _reduce(ops.reduce_all, _truth(x), axis, keepdims)


def _position(op: Op, x: Any, axis: int | None, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    x = _cast(x, np.dtype(np.uint8)) if x.dtype.kind == "b" else x
    if axis is None:
        y = op(ravel(x), axis=0)
        return ops.reshape(y, shape=(1,) * x.ndim) if keepdims else y
    k = _axis(x.ndim, axis)
    return _kept(op(x, axis=k), x, (k,), keepdims)


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Position (int64) of the first maximum along an axis, of the flattened tensor by default."""
    return _position(ops.argmax, x, axis, keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Position (int64) of the first minimum along an axis, of the flattened tensor by default."""
    return _position(ops.argmin, x, axis, keepdims)


def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Sums of the elements up to each one along an axis, of the flattened tensor by default."""
    x = _widened(x, dtype)
    if axis is None:
        return ops.cumsum(ravel(x), axis=0, reverse=False)
    return ops.cumsum(x, axis=_axis(x.ndim, axis), reverse=False)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over axes without overflow; its gradient is softmax."""
    (x,) = operands(np.exp, x)
    top = stop_gradient(max(x, axis, keepdims=True))
    top = where(isfinite(top), top, 0)
    y = add(log(sum(exp(subtract(x, top)), axis, keepdims=True)), top)
    return y if keepdims else squeeze(y, _axes(x, axis))


def softmax(x: Any, axis: Axis = -1) -> Tensor:
    """exp(x) / sum(exp(x)) over axes, without overflow."""
    (x,) = operands(np.exp, x)
    e = exp(subtract(x, stop_gradient(max(x, axis, keepdims=True))))
    return divide(e, sum(e, axis, keepdims=True))


def log_softmax(x: Any, axis: Axis = -1) -> Tensor:
    """log(softmax(x)) without overflow or underflow."""
    (x,) = operands(np.exp, x)
    shifted = subtract(x, stop_gradient(max(x, axis, keepdims=True)))
    return subtract(shifted, log(sum(exp(shifted), axis, keepdims=True)))


__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "prod",
    "softmax",
    "std",
    "sum",
    "var",
]
