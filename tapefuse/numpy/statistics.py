"""Averages, order statistics, correlations, histograms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import promoted
from tapefuse.ir.types import real_dtype, size
from tapefuse.numpy.complex import conjugated, imag, real
from tapefuse.numpy.creation import full, ones_like
from tapefuse.numpy.diagonals import diagonal
from tapefuse.numpy.elementwise import (
    add,
    astype,
    ceil,
    clip,
    divide,
    equal,
    floor,
    floor_divide,
    inexact,
    isnan,
    logical_and,
    logical_not,
    mod,
    multiply,
    real_only,
    rint,
    sqrt,
    subtract,
    where,
)
from tapefuse.numpy.joining import concatenate, stack
from tapefuse.numpy.linalg import dot
from tapefuse.numpy.reduce import _kept, any, mean, sum
from tapefuse.numpy.selecting import take_along_axis
from tapefuse.numpy.shape import Axis, _axes, _refuse, broadcast_to, dim, moveaxis, ravel, reshape, transpose
from tapefuse.numpy.sorting import sort
from tapefuse.numpy.weighted import WeightedRows, check_weights
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor


def average(x: Any, axis: Axis = None, weights: Any = None, returned: bool = False, *, keepdims: bool = False) -> Any:
    """The mean over axes, weighted if there are `weights`; with their sum if `returned`."""
    x = as_tensor(x)
    if weights is None:
        y = mean(x, axis, keepdims=keepdims)
        count = divide(astype(dim(x.size), y.dtype), astype(dim(y.size), y.dtype))
        return (y, broadcast_to(count, y.shape)) if returned else y
    w = _aligned_weights(as_tensor(weights), x, axis)
    dtype = promoted(x.dtype, w.dtype, np.dtype(np.float64) if x.dtype.kind in "biu" else x.dtype)
    x, w = astype(x, dtype), astype(w, dtype)
    total = sum(broadcast_to(w, x.shape), axis, keepdims=keepdims)
    y = divide(sum(multiply(x, w), axis, keepdims=keepdims), total)
    return (y, total) if returned else y


def _aligned_weights(w: Tensor, x: Tensor, axis: Axis) -> Tensor:
    """Weights of the shape of `x`, or of its averaged axes."""
    if w.shape == x.shape:
        return w
    if axis is None:
        raise TypeError(f"{called()}: weights of shape {w.shape} beside {x.shape} need axis=, the axes they are along")
    axes = _axes(x, axis)
    if w.shape != tuple(x.shape[k] for k in axes):
        raise ShapeError(f"{called()}: weights of shape {w.shape} do not fit the axes {axes} of shape {x.shape}")
    return reshape(w, tuple([n if k in axes else 1 for k, n in enumerate(x.shape)]))


# -- order statistics -------------------------------------------------------------------------------------------------


def _gathered(x: Tensor, axis: Axis) -> tuple[Tensor, tuple[int, ...]]:
    """The reduced axes as one, the last; and which they were."""
    axes = _axes(x, axis)
    moved = moveaxis(x, axes, range(x.ndim - len(axes), x.ndim)) if axes else x
    kept = moved.shape[: x.ndim - len(axes)]
    return reshape(moved, (*kept, size(moved.shape[len(kept) :]))), axes


def _ordered(x: Any, axis: Axis, skip_nan: bool) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor]:
    """Sorted elements along the last axis, how many count in each row, the axes, and rows without a result."""
    x = inexact(x)
    rows, axes = _gathered(x, axis)
    ordered = sort(rows, axis=-1)
    absent = isnan(ordered)
    total = astype(dim(ordered.shape[-1]), np.float64)
    if not skip_nan:
        return ordered, total, axes, any(absent, -1)
    count = sum(astype(logical_not(absent), np.float64), -1)
    return ordered, count, axes, equal(count, 0)


def _at(ordered: Tensor, positions: Tensor) -> Tensor:
    """The element at one position of each row; positions have the rows' shape, or ()."""
    k = broadcast_to(astype(positions, np.int64), ordered.shape[:-1])
    return reshape(take_along_axis(ordered, reshape(k, (*k.shape, 1)), -1), k.shape)


def _median(x: Any, axis: Axis, out: None, keepdims: bool, skip_nan: bool) -> Tensor:
    _refuse(out)
    x = as_tensor(x)
    ordered, count, axes, missing = _ordered(x, axis, skip_nan)
    if ordered.shape[-1] == 0:
        return _kept(full(ordered.shape[:-1], np.nan, ordered.dtype), x, axes, keepdims)
    low, high = floor_divide(subtract(count, 1), 2), floor_divide(count, 2)
    y = multiply(add(_at(ordered, clip(low, 0)), _at(ordered, clip(high, 0, ordered.shape[-1] - 1))), 0.5)
    return _kept(where(missing, np.nan, y), x, axes, keepdims)


def median(
    x: Any, axis: Axis = None, out: None = None, overwrite_input: bool = False, keepdims: bool = False
) -> Tensor:
    """The middle element over axes, or the mean of both middle ones; nan if there is one."""
    return _median(x, axis, out, keepdims, False)


def nanmedian(
    x: Any, axis: Axis = None, out: None = None, overwrite_input: bool = False, keepdims: bool = False
) -> Tensor:
    """The median of what is not nan; nan if all is."""
    return _median(x, axis, out, keepdims, True)


_CONTINUOUS = {
    "interpolated_inverted_cdf": (0, 1),
    "hazen": (0.5, 0.5),
    "weibull": (0, 0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
}


def _neighbours(method: str, n: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """(position, share of the next one) of the quantile q among n sorted elements (Hyndman & Fan 1996)."""
    v = subtract(multiply(n, q), 1) if method in _DISCRETE else multiply(subtract(n, 1), q)
    if method in _CONTINUOUS:
        a, b = _CONTINUOUS[method]
        v = subtract(add(multiply(n, q), add(a, multiply(q, 1 - a - b))), 1)
    v = subtract(v, 0.5) if method == "closest_observation" else v
    below = floor(v)
    share = subtract(v, below)
    whole = equal(share, 0)
    if method == "closest_observation":
        whole = logical_and(whole, equal(mod(below, 2), 1))
    if method in _DISCRETE:
        share = where(whole, 0.5 if method == "averaged_inverted_cdf" else 0.0, ones_like(share))
    elif method == "midpoint":
        share = where(whole, 0.0, 0.5 * ones_like(share))
    elif method in _ROUNDED:
        below, share = _ROUNDED[method](v), multiply(share, 0)
    return below, share


_DISCRETE = ("inverted_cdf", "averaged_inverted_cdf", "closest_observation")
_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {"lower": floor, "higher": ceil, "nearest": rint}
METHODS = ("linear", "midpoint", *_DISCRETE, *_ROUNDED, *_CONTINUOUS)


def _quantile(
    x: Any, q: Any, axis: Axis, out: None, method: str, keepdims: bool, skip_nan: bool, weights: Any
) -> Tensor:
    _refuse(out)
    if method not in METHODS:
        raise ValueError(f"{called()}: unknown method {method!r}; there are {', '.join(sorted(METHODS))}")
    x = real_only(x)
    if weights is not None:
        return _weighted_quantile(x, q, axis, method, keepdims, skip_nan, weights)
    ordered, count, axes, missing = _ordered(x, axis, skip_nan)
    weak = isinstance(q, (int, float))
    q = as_tensor(q, np.float64)
    dtype = ordered.dtype if weak else promoted(ordered.dtype, q.dtype)
    q = astype(q, np.float64)
    each = lambda p: where(missing, np.nan, _interpolated(ordered, count, p, method, dtype))
    return _for_each(q, lambda p: _kept(each(p), x, axes, keepdims))


def _for_each(q: Tensor, quantile: Callable[[Tensor], Tensor]) -> Tensor:
    """The quantiles for all of `q`, whose axes come first."""
    if q.ndim == 0:
        return quantile(q)
    results = [quantile(p) for p in ravel(q)]
    return reshape(stack(results), (*q.shape, *results[0].shape))


def _weighted_quantile(
    x: Tensor, q: Any, axis: Axis, method: str, keepdims: bool, skip_nan: bool, weights: Any
) -> Tensor:
    if method != "inverted_cdf":
        raise ValueError(f"{called()}: only method 'inverted_cdf' supports weights, not {method!r}")
    w = _aligned_weights(as_tensor(weights), x, axis)
    check_weights(w)
    rows, axes = _gathered(x, axis)
    weighted = WeightedRows(rows, _gathered(broadcast_to(w, x.shape), axis)[0], skip_nan)
    return _for_each(as_tensor(q, np.float64), lambda p: _kept(weighted.quantile(p), x, axes, keepdims))


def _interpolated(ordered: Tensor, count: Tensor, q: Tensor, method: str, dtype: np.dtype) -> Tensor:
    below, share = _neighbours(method, count, q)
    last = subtract(count, 1)
    share = where(below < 0, 0.0, where(below >= last, 0.0, share))
    low = clip(clip(below, 0, last), 0)
    a, b = _at(ordered, low), _at(ordered, clip(clip(add(low, 1), 0, last), 0))
    t = astype(share, dtype)
    step = subtract(b, a)
    mixed = where(t >= 0.5, subtract(b, multiply(step, subtract(1, t))), add(a, multiply(step, t)))
    return where(equal(t, 0), a, mixed)


def _checked(q: Any, top: float) -> Any:
    """Fractions of `top`, from 0 to 1. Raises ValueError for those that are known and outside."""
    given = np.asarray(q) if not isinstance(q, Tensor) else None
    if given is not None and (given.size and not (given.min() >= 0 and given.max() <= top)):
        raise ValueError(f"{called()}: quantiles must be in the range [0, {top:g}], not {q!r}")
    if top == 1:
        return q
    return divide(q, top) if isinstance(q, Tensor) else np.true_divide(q, top)[()] if given is None else _share(q, top)


def _share(q: Any, top: float) -> Any:
    return [_share(p, top) for p in q] if isinstance(q, (list, tuple)) else q / top


def quantile(
    x: Any,
    q: Any,
    axis: Axis = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Tensor:
    """What a fraction `q` of the elements over axes is at most, by any of NumPy's methods.

    `weights`, not negative, of the shape of `x` or of `axis`: by their share of the weight, with "inverted_cdf".
    """
    return _quantile(x, _checked(q, 1), axis, out, method, keepdims, False, weights)


def percentile(
    x: Any,
    q: Any,
    axis: Axis = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Tensor:
    """What `q` percent of the elements over axes are at most, with weights as of `quantile`."""
    return _quantile(x, _checked(q, 100), axis, out, method, keepdims, False, weights)


def nanquantile(
    x: Any,
    q: Any,
    axis: Axis = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Tensor:
    """Quantiles of what is not nan, with weights as of `quantile`."""
    return _quantile(x, _checked(q, 1), axis, out, method, keepdims, True, weights)


def nanpercentile(
    x: Any,
    q: Any,
    axis: Axis = None,
    out: None = None,
    overwrite_input: bool = False,
    method: str = "linear",
    keepdims: bool = False,
    *,
    weights: Any = None,
) -> Tensor:
    """Percentiles of what is not nan, with weights as of `quantile`."""
    return _quantile(x, _checked(q, 100), axis, out, method, keepdims, True, weights)


# -- correlations -----------------------------------------------------------------------------------------------------


def cov(
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: Any = None,
) -> Tensor:
    """Covariances of variables, the rows of `m` (its columns unless `rowvar`) and `y`."""
    x = _variables(m, rowvar, dtype)
    x = x if y is None else concatenate([x, _variables(y, rowvar, dtype)])
    dtype = real_dtype(x.dtype)
    w = None if fweights is None else astype(fweights, dtype)
    if aweights is not None:
        w = astype(aweights, dtype) if w is None else multiply(w, astype(aweights, dtype))
    less = (0 if bias else 1) if ddof is None else ddof
    total = astype(dim(x.shape[1]), dtype) if w is None else sum(w)
    centre = mean(x, 1, keepdims=True) if w is None else divide(sum(multiply(x, w), 1, keepdims=True), total)
    free = subtract(total, less)
    if w is not None and less and aweights is not None:
        free = subtract(total, divide(multiply(less, sum(multiply(w, astype(aweights, dtype)))), total))
    x = subtract(x, centre)
    c = dot(x, transpose(conjugated(x if w is None else multiply(x, w))))
    c = divide(c, clip(free, 0))
    return reshape(c, [n for n in c.shape if n != 1])


def _variables(m: Any, rowvar: bool, dtype: Any) -> Tensor:
    x = as_tensor(m)
    if x.ndim > 2:
        raise ValueError(f"{called()}: it takes at most 2 axes, not {x.ndim}")
    x = astype(x, dtype or promoted(x.dtype, np.dtype(np.float64)))
    x = reshape(x, (1, -1)) if x.ndim < 2 else x
    return x if rowvar or x.shape[0] == 1 else transpose(x)


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Tensor:
    """Pearson's correlations of variables, the rows of `x` (its columns unless `rowvar`) and `y`."""
    c = cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return divide(c, c)
    deviation = sqrt(real(diagonal(c)))
    c = divide(divide(c, reshape(deviation, (-1, 1))), deviation)
    if c.dtype.kind == "c":
        return ops.complex_(clip(real(c), -1, 1), clip(imag(c), -1, 1))
    return clip(c, -1, 1)


# -- histograms, outside of traces -----------------------------------------------------------------------------------


def _on_values(function: Callable[..., Any], doc: str) -> Callable[..., Any]:
    """NumPy's function on the operands' values, which must be known: its results have no derivative."""

    def known(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(known, x))
        return x._concrete(f"`np.{function.__name__}()`") if isinstance(x, Tensor) else x

    def on_values(*args: Any, **options: Any) -> Any:
        try:
            return _tensors(function(*map(known, args), **{k: known(v) for k, v in options.items()}))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{function.__name__} at {user_loc()}: {error}") from None

    on_values.__name__ = on_values.__qualname__ = function.__name__
    on_values.__doc__ = doc
    return on_values


def _tensors(result: Any) -> Any:
    if isinstance(result, Sequence):
        return tuple(map(_tensors, result))
    return as_tensor(result)


histogram = _on_values(np.histogram, "(counts, edges of bins). Outside of traces only.")
histogram_bin_edges = _on_values(np.histogram_bin_edges, "Edges of the bins of a histogram. Outside of traces only.")
histogram2d = _on_values(np.histogram2d, "(counts, edges, edges) of pairs. Outside of traces only.")
histogramdd = _on_values(np.histogramdd, "(counts, edges) of points. Outside of traces only.")

__all__ = [
    "average",
    "corrcoef",
    "cov",
    "histogram",
    "histogram2d",
    "histogram_bin_edges",
    "histogramdd",
    "median",
    "nanmedian",
    "nanpercentile",
    "nanquantile",
    "percentile",
    "quantile",
]
