"""Reductions over axes, and what is built from them."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.halves import FLOAT32, is_half, kind_of, widened
from tapefuse.ir.op import Op
from tapefuse.ir.types import real_dtype
from tapefuse.ir.types import size as size_of
from tapefuse.numpy import lexicographic
from tapefuse.numpy.elementwise import (
    _truth,
    add,
    astype,
    divide,
    exp,
    isfinite,
    log,
    maximum,
    minimum,
    multiply,
    sqrt,
    square,
    stop_gradient,
    subtract,
    where,
)
from tapefuse.numpy.shape import Axis, _axes, _axis, _refuse, broadcast_to, dim, ravel, squeeze
from tapefuse.tracer.arrays import F32, F64
from tapefuse.tracer.promote import cast as _cast
from tapefuse.tracer.promote import operands
from tapefuse.tracer.shortcuts import moved
from tapefuse.tracer.source import called
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Deferred, Tensor, as_tensor


def _kept(y: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if not keepdims:
        return y
    return ops.reshape(y, shape=tuple([1 if k in axes else n for k, n in enumerate(x.shape)]))


def _is_scalar(x: Tensor, axis: Any) -> bool:
    """Whether `axis` is one that NumPy's reductions take for scalars, which have none."""
    return x.ndim == 0 and isinstance(axis, (int, np.integer)) and axis in (0, -1)


def _over(x: Tensor, axis: Axis) -> tuple[int, ...]:
    """The axes to be reduced."""
    if axis is None:
        return tuple(range(x.ndim))
    return () if _is_scalar(x, axis) else _axes(x, axis)


def _reduce(op: Op, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    axes = _over(x, axis)
    return _kept(op(x, axes=axes) if axes else x, x, axes, keepdims)


def _masked(x: Tensor, mask: Any, neutral: Any) -> Tensor:
    """`x` with `neutral` where the option `where=` says that elements do not count."""
    if mask is None or mask is True:
        return x
    return ops.select(broadcast_to(_truth(mask), x.shape), x, neutral)


def _widened(x: Any, dtype: Any) -> Tensor:
    """NumPy adds up bools and small integers in 64 bits."""
    x = as_tensor(x)
    if dtype is not None:
        return astype(x, dtype)
    if x.dtype.kind in "biu" and x.dtype.itemsize < 8:
        return _cast(x, np.dtype(np.uint64 if x.dtype.kind == "u" else np.int64))
    return x


def _started(function: Callable[..., Tensor], y: Tensor, initial: Any) -> Tensor:
    """The reduction of `initial` and what has been reduced, in the dtype of that."""
    return y if initial is None else function(y, astype(initial, y.dtype))


def _summed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum of a tensor that `_is_plain`."""
    if type(x) is Deferred:
        return ops.reduce_sum(x, axes=axes) if axes else x
    return moved(ops.reduce_sum, x, state.quietly(np.add.reduce, x._array, axes), {"axes": axes}) if axes else x


def sum(
    x: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = None,
) -> Tensor:
    """Sum over axes (all by default) of the elements where `where` holds; bools and small integers in 64 bits."""
    if dtype is out is initial is where is None and not keepdims and _is_plain(x):
        return _summed(x, _over(x, axis))
    _refuse(out)
    y = _reduce(ops.reduce_sum, _masked(_widened(x, dtype), where, 0), axis, keepdims)
    return _started(add, y, initial)


def prod(
    x: Any,
    axis: Axis = None,
    dtype: Any = None,
    out: None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = None,
) -> Tensor:
    """Product over axes; its gradient is right with zeros among the factors."""
    _refuse(out)
    y = _reduce(ops.reduce_prod, _masked(_widened(x, dtype), where, 1), axis, keepdims)
    return _started(multiply, y, initial)


def _is_plain(x: Any) -> bool:
    """Whether it is a float32 or float64 with a value, perhaps later, outside of traces."""
    if type(x) is not Tensor:
        return type(x) is Deferred and state.trace is None
    return state.trace is None and ((t := x._array.dtype) is F32 or t is F64)


def _floating(x: Any, dtype: Any) -> Tensor:
    """What means are computed in: integers and bools as float64."""
    x = as_tensor(x)
    if dtype is None and _is_plain(x):
        return x
    return astype(x, dtype or (np.float64 if x.dtype.kind in "biu" else x.dtype))


def mean(
    x: Any, axis: Axis = None, dtype: Any = None, out: None = None, keepdims: bool = False, *, where: Any = None
) -> Tensor:
    """Arithmetic mean over axes of the elements where `where` holds; of integers a float64. nan over no elements."""
    _refuse(out)
    x = _floating(x, dtype)
    if where is None and not keepdims and _is_plain(x):
        axes = tuple(range(x.ndim)) if axis is None else _axes(x, axis)
        return divide(_summed(x, axes), x.size if axis is None else size_of([x.shape[a] for a in axes]))
    wide = _cast(x, widened(x.dtype))
    return _cast(divide(sum(wide, axis, keepdims=keepdims, where=where), _count(wide, axis, keepdims, where)), x.dtype)


def _count(x: Tensor, axis: Axis, keepdims: bool = False, mask: Any = None) -> Tensor:
    """Number of elements over `axis` that count, in the dtype of `x`, that of the parts of complex numbers."""
    if mask is None or mask is True:
        return dim(size_of(x.shape[a] for a in _axes(x, axis)), real_dtype(x.dtype))
    return sum(_cast(broadcast_to(_truth(mask), x.shape), real_dtype(x.dtype)), axis, keepdims=keepdims)


def var(
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
    """Variance over axes, divided by the number of elements less `ddof` (`correction`); `mean` has the reduced axes
    with extent 1, if it is known already. That of complex numbers is real: the mean of |x - mean|**2."""
    _refuse(out)
    if ddof and correction is not None:
        raise ValueError(f"{called()}: ddof and correction mean the same; give one of them")
    x = _floating(x, dtype)
    total, free = _spread(x, axis, keepdims, where, mean, ddof if correction is None else correction)
    return _cast(divide(total, maximum(free, 0)), real_dtype(x.dtype))


def _squared_modulus(x: Tensor) -> Tensor:
    return add(square(ops.real(x)), square(ops.imag(x))) if x.dtype.kind == "c" else square(x)


def _spread(x: Tensor, axis: Axis, keepdims: bool, mask: Any, centre: Any, less: float) -> tuple[Tensor, Tensor]:
    """The sum of the squared deviations from `centre` (None: from the mean), and the number of elements less `less`.

    Those of halves are float32.
    """
    x = _cast(x, widened(x.dtype))
    centre = mean(x, axis, keepdims=True, where=mask) if centre is None else centre
    total = sum(_squared_modulus(subtract(x, centre)), axis, keepdims=keepdims, where=mask)
    return total, subtract(_count(x, axis, keepdims, mask), less)




def std(
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
    """Standard deviation over axes: the root of `var`."""
    x = _floating(x, dtype)
    wide = _cast(x, widened(x.dtype))
    variance = var(wide, axis, None, out, ddof, keepdims, where=where, mean=mean, correction=correction)
    return _cast(sqrt(variance), real_dtype(x.dtype))


def _extreme(op: Op, x: Any, axis: Axis, keepdims: bool, initial: Any, mask: Any) -> Tensor:
    x = as_tensor(x)
    highest = op is ops.reduce_max
    if mask is not None and mask is not True:
        if initial is None:
            raise ValueError(f"{called()}: with where= it needs initial=, the result where no element counts")
        x = _masked(x, mask, _beyond(x.dtype, not highest))
    if initial is not None and _is_over_none(x, axis):
        kept = [1 if k in _over(x, axis) else n for k, n in enumerate(x.shape)]
        x = broadcast_to(astype(initial, x.dtype), tuple(kept))
    if x.dtype.kind == "c":
        return _started(maximum if highest else minimum, _complex_extreme(x, axis, keepdims, highest), initial)
    if x.dtype.kind == "b":
        op = ops.reduce_any if highest else ops.reduce_all
    return _started(maximum if highest else minimum, _reduce(op, x, axis, keepdims), initial)


def _complex_extreme(x: Tensor, axis: Axis, keepdims: bool, highest: bool) -> Tensor:
    """The element that is first or last in the order of complex numbers, or nan."""
    axes = _over(x, axis)
    kept = tuple([k for k in range(x.ndim) if k not in axes])
    shape = tuple([x.shape[k] for k in kept])
    moved = ops.transpose(x, perm=(*kept, *axes))
    rows = ops.reshape(moved, shape=(size_of(shape), size_of([x.shape[k] for k in axes])))
    columns = lexicographic.position(rows, 1, highest)
    chosen = ops.gather(rows, ops.iota(shape=columns.shape, axis=0, dtype=columns.dtype), columns)
    return _kept(ops.reshape(chosen, shape=shape), x, axes, keepdims)


def _is_over_none(x: Tensor, axis: Axis) -> bool:
    """Whether an axis that is to be reduced is known to have no elements."""
    return builtins.any(isinstance(n := x.shape[a], int) and n == 0 for a in _over(x, axis))


def _beyond(dtype: np.dtype, above: bool) -> Any:
    """What no element exceeds (`above`), or what exceeds none."""
    if kind_of(dtype) in "fc":
        beyond = math.inf if above else -math.inf
        return beyond if dtype.kind != "c" else complex(beyond, beyond)
    if dtype.kind == "b":
        return above
    return int(np.iinfo(dtype).max if above else np.iinfo(dtype).min)


def max(
    x: Any, axis: Axis = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Tensor:
    """Maximum over axes, nan if there is one; ties share the gradient."""
    _refuse(out)
    return _extreme(ops.reduce_max, x, axis, keepdims, initial, where)


def min(
    x: Any, axis: Axis = None, out: None = None, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Tensor:
    """Minimum over axes, nan if there is one; ties share the gradient."""
    _refuse(out)
    return _extreme(ops.reduce_min, x, axis, keepdims, initial, where)


amax, amin = max, min


def ptp(x: Any, axis: Axis = None, out: None = None, keepdims: bool = False) -> Tensor:
    """Maximum less minimum over axes."""
    return subtract(max(x, axis, out, keepdims), min(x, axis, out, keepdims))


def any(x: Any, axis: Axis = None, out: None = None, keepdims: bool = False, *, where: Any = None) -> Tensor:
    """Whether any element over axes is true."""
    _refuse(out)
    return _reduce(ops.reduce_any, _masked(_truth(x), where, False), axis, keepdims)


def all(x: Any, axis: Axis = None, out: None = None, keepdims: bool = False, *, where: Any = None) -> Tensor:
    """Whether all elements over axes are true."""
    _refuse(out)
    return _reduce(ops.reduce_all, _masked(_truth(x), where, True), axis, keepdims)


def count_nonzero(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """How many elements over axes are not 0, int64."""
    return sum(_truth(x), axis, keepdims=keepdims)


def _complex_position(x: Tensor, *, axis: int, largest: bool) -> Tensor:
    return lexicographic.position(x, axis, largest)


def _position(op: Callable[..., Tensor], x: Any, axis: int | None, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    x = _cast(x, np.dtype(np.uint8)) if x.dtype.kind == "b" else x
    if x.dtype.kind == "c":
        op = partial(_complex_position, largest=op is ops.argmax)
    if axis is None or _is_scalar(x, axis):
        y = op(ravel(x), axis=0)
        return ops.reshape(y, shape=(1,) * x.ndim) if keepdims else y
    k = _axis(x.ndim, axis)
    return _kept(op(x, axis=k), x, (k,), keepdims)


def argmax(x: Any, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tensor:
    """Position (int64) of the first maximum along an axis, of the flattened tensor by default."""
    _refuse(out)
    return _position(ops.argmax, x, axis, keepdims)


def argmin(x: Any, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tensor:
    """Position (int64) of the first minimum along an axis, of the flattened tensor by default."""
    _refuse(out)
    return _position(ops.argmin, x, axis, keepdims)


def cumsum(x: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Tensor:
    """Sums of the elements up to each one along an axis, of the flattened tensor by default."""
    _refuse(out)
    x = _widened(x, dtype)
    if axis is None or _is_scalar(x, axis):
        return ops.cumsum(ravel(x), axis=0, reverse=False)
    return ops.cumsum(x, axis=_axis(x.ndim, axis), reverse=False)


def _in_single(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of a tensor, of halves computed in float32 and rounded once."""

    @wraps(function)
    def _wider(x: Any, *args: Any, **options: Any) -> Tensor:
        x = as_tensor(x)
        if not is_half(x.dtype):
            return function(x, *args, **options)
        return _cast(function(_cast(x, FLOAT32), *args, **options), x.dtype)

    return _wider


@_in_single
def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over axes without overflow; its gradient is softmax."""
    (x,) = operands(np.exp, x)
    top = stop_gradient(max(x, axis, keepdims=True))
    top = where(isfinite(top), top, 0)
    y = add(log(sum(exp(subtract(x, top)), axis, keepdims=True)), top)
    return y if keepdims else squeeze(y, _axes(x, axis))


@_in_single
def softmax(x: Any, axis: Axis = -1) -> Tensor:
    """exp(x) / sum(exp(x)) over axes, without overflow."""
    (x,) = operands(np.exp, x)
    e = exp(subtract(x, stop_gradient(max(x, axis, keepdims=True))))
    return divide(e, sum(e, axis, keepdims=True))


@_in_single
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
    "count_nonzero",
    "cumsum",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "prod",
    "ptp",
    "softmax",
    "std",
    "sum",
    "var",
]
