"""What depends on neighbours along an axis: running sums and products, differences, slopes, integrals.

Running results of any associative function take about log2(n) steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Poly
from tapefuse.numpy.creation import full, zeros
from tapefuse.numpy.elementwise import (
    absolute,
    add,
    astype,
    divide,
    inexact,
    logical_and,
    mod,
    multiply,
    not_equal,
    subtract,
    where,
)
from tapefuse.numpy.joining import concatenate
from tapefuse.numpy.reduce import _is_scalar, _widened, cumsum, sum
from tapefuse.numpy.shape import (
    Axis,
    _at_axis,
    _axis,
    _refuse,
    broadcast_to,
    expand_dims,
    moveaxis,
    ravel,
    reshape,
)
from tapefuse.tracer.control import scan
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

Binary = Callable[[Tensor, Tensor], Tensor]


def _cut(x: Tensor, axis: int, start: int | None, stop: int | None) -> Tensor:
    return _at_axis(x, axis, slice(start, stop))


# -- reductions and running results of any associative function --------------------------------------------------------


def running(function: Binary, x: Tensor, axis: int) -> Tensor:
    """The results of `function`, which is associative, over the elements up to each one. n log2(n) applications; one
    after the other where the extent is a symbol."""
    n, step = x.shape[axis], 1
    if isinstance(n, Poly):
        return _one_by_one(function, x, axis)[1]
    while step < n:
        combined = function(_cut(x, axis, None, n - step), _cut(x, axis, step, None))
        x = concatenate([_cut(x, axis, None, step), combined], axis)
        step *= 2
    return x


def halved(function: Binary, x: Tensor, axis: int) -> Tensor:
    """`function`, which is associative, applied to all elements along an axis, whose extent becomes 1."""
    n = x.shape[axis]
    if isinstance(n, Poly):
        return expand_dims(_one_by_one(function, x, axis)[0], axis)
    while n > 1:
        half = n // 2
        rest = _cut(x, axis, 2 * half, None)
        pairs = _at_axis(x, axis, slice(0, 2 * half, 2)), _at_axis(x, axis, slice(1, 2 * half, 2))
        combined = function(*pairs)
        x = concatenate([combined, rest], axis) if n % 2 else combined
        n = half + n % 2
    return x


def _one_by_one(function: Binary, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """(The last result, all results) along an axis with at least one element."""

    def step(so_far: Tensor, element: Tensor) -> tuple[Tensor, Tensor]:
        y = function(so_far, element)
        return y, y

    x = moveaxis(x, axis, 0)
    last, following = scan(step, x[0], x[1:])
    return last, moveaxis(concatenate([x[:1], following]), 0, axis)


def cumprod(x: Any, axis: int | None = None, dtype: Any = None, out: None = None) -> Tensor:
    """Products of the elements up to each one along an axis, of the flattened tensor by default.

    Gradients are right with zeros among the factors.
    """
    _refuse(out)
    x = _widened(x, dtype)
    if axis is None or _is_scalar(x, axis):
        return running(multiply, ravel(x), 0)
    return running(multiply, x, _axis(x.ndim, axis))


def _cumulative(
    function: Callable[..., Tensor], start: int, x: Any, axis: int | None, dtype: Any, include_initial: bool
) -> Tensor:
    x = as_tensor(x)
    if axis is None and x.ndim != 1:
        raise ValueError(f"{called()}: a tensor of rank {x.ndim} needs axis=; only for vectors it may be left out")
    y = function(x, axis or 0, dtype)
    if not include_initial:
        return y
    k = _axis(y.ndim, axis or 0)
    first = full(tuple([1 if a == k else n for a, n in enumerate(y.shape)]), start, y.dtype)
    return concatenate([first, y], k)


def cumulative_sum(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, out: None = None, include_initial: bool = False
) -> Tensor:
    """Running sums along an axis, after a 0 if `include_initial`."""
    _refuse(out)
    return _cumulative(cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, out: None = None, include_initial: bool = False
) -> Tensor:
    """Running products along an axis, after a 1 if `include_initial`."""
    _refuse(out)
    return _cumulative(cumprod, 1, x, axis, dtype, include_initial)


# -- differences ------------------------------------------------------------------------------------------------------


def _less(x: Tensor) -> Binary:
    return not_equal if x.dtype.kind == "b" else subtract


def diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """Differences of neighbours along an axis, `n` times; `prepend` and `append` are joined to it first."""
    x = as_tensor(x)
    if n < 0:
        raise ValueError(f"{called()}: n must be at least 0, not {n}")
    if x.ndim == 0:
        raise ValueError(f"{called()}: it takes at least one axis, not a tensor of shape ()")
    k = _axis(x.ndim, axis)
    if n == 0:
        return x
    parts = [_joined(end, x, k) for end in (prepend, x, append) if end is not None]
    x = concatenate(parts, k) if len(parts) > 1 else x
    for _ in range(n):
        x = _less(x)(_cut(x, k, 1, None), _cut(x, k, None, -1))
    return x


def _joined(end: Any, x: Tensor, axis: int) -> Tensor:
    end = as_tensor(end)
    return end if end.ndim else broadcast_to(end, tuple([1 if a == axis else n for a, n in enumerate(x.shape)]))


def ediff1d(x: Any, to_end: Any = None, to_begin: Any = None) -> Tensor:
    """Differences of neighbours of the flattened tensor, between `to_begin` and `to_end`."""
    x = ravel(x)
    parts = [
        None if to_begin is None else _end(to_begin, x),
        subtract(_cut(x, 0, 1, None), _cut(x, 0, None, -1)),
        None if to_end is None else _end(to_end, x),
    ]
    kept = [p for p in parts if p is not None]
    return concatenate(kept) if len(kept) > 1 else kept[0]


def _end(end: Any, x: Tensor) -> Tensor:
    end = as_tensor(end)
    if not np.can_cast(end.dtype, x.dtype, "same_kind"):
        raise TypeError(f"{called()}: dtype of the ends, {end.dtype}, does not become that of the tensor, {x.dtype}")
    return ravel(astype(end, x.dtype))


def gradient(f: Any, *varargs: Any, axis: Axis = None, edge_order: int = 1) -> Any:
    """Slopes along axes by central differences, one-sided at the edges (of order `edge_order`).

    `varargs`: one spacing, or a spacing or the coordinates for each axis. A tuple of tensors if there are several axes.
    """
    x = inexact(f)
    axes = list(range(x.ndim)) if axis is None else [_axis(x.ndim, a) for a in _listed(axis)]
    spacings = list(varargs) or [1.0]
    spacings = spacings * len(axes) if len(spacings) == 1 and np.ndim(spacings[0]) == 0 else spacings
    if len(spacings) != len(axes):
        raise TypeError(f"{called()}: {len(varargs)} spacings for {len(axes)} axes; give one, or one for each")
    if edge_order > 2:
        raise ValueError(f"{called()}: edge_order must be 1 or 2, not {edge_order}")
    slopes = [_slopes(x, k, h, edge_order) for k, h in zip(axes, spacings, strict=True)]
    return slopes[0] if len(slopes) == 1 else tuple(slopes)


def _listed(axis: Any) -> list[Any]:
    return list(axis) if isinstance(axis, (tuple, list)) else [axis]


def _slopes(x: Tensor, axis: int, spacing: Any, edge_order: int) -> Tensor:
    n = x.shape[axis]
    if isinstance(n, int) and n < edge_order + 1:
        raise ValueError(f"{called()}: the axis needs at least {edge_order + 1} elements, and has {n}")
    x = moveaxis(x, axis, -1)
    h = as_tensor(spacing, x.dtype)
    if h.ndim > 1 or h.ndim == 1 and h.shape[0] != n:
        raise ValueError(f"{called()}: the coordinates of an axis of {n} elements have the shape {h.shape}")
    steps = diff(h if kind_of(h.dtype) == "f" else astype(h, np.float64)) if h.ndim else broadcast_to(h, (n - 1,))
    a, b = steps[:-1], steps[1:]
    below, here, above = x[..., :-2], x[..., 1:-1], x[..., 2:]
    if h.ndim == 0:
        inner = divide(subtract(above, below), multiply(2.0, h))
    else:
        weights = divide(-b, a * (a + b)), divide(b - a, a * b), divide(a, b * (a + b))
        inner = weights[0] * below + weights[1] * here + weights[2] * above
    first, last = _edge(x, steps, edge_order), _edge(x[..., ::-1], -steps[::-1], edge_order)
    return moveaxis(concatenate([first, inner, last], -1), -1, axis)


def _edge(x: Tensor, steps: Tensor, order: int) -> Tensor:
    """The slope at the first element, with an axis of extent 1."""
    if order == 1:
        return (x[..., 1:2] - x[..., :1]) / steps[0]
    a, b = steps[0], steps[1]
    weights = -(2.0 * a + b) / (a * (a + b)), (a + b) / (a * b), -a / (b * (a + b))
    return weights[0] * x[..., :1] + weights[1] * x[..., 1:2] + weights[2] * x[..., 2:3]


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Tensor:
    """The integral along an axis by trapezoids, over coordinates `x` or with steps `dx`."""
    y = as_tensor(y)
    k = _axis(y.ndim, axis)
    if x is None:
        width: Any = dx
    else:
        x = as_tensor(x)
        width = diff(x, axis=axis) if x.ndim != 1 else reshape(diff(x), [-1 if a == k else 1 for a in range(y.ndim)])
    mean = divide(multiply(width, add(_cut(y, k, 1, None), _cut(y, k, None, -1))), 2.0)
    return sum(mean, axis)


def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * math.pi) -> Tensor:
    """Multiples of `period` added so that no jump along the axis is larger than max(discont, period / 2)."""
    p = as_tensor(p)
    k = _axis(p.ndim, axis)
    steps = diff(p, axis=axis)
    whole = steps.dtype.kind in "iu" and isinstance(period, int)
    half = period // 2 if whole else period / 2
    at_edge = whole and period % 2 == 0 or not whole
    wrapped = subtract(mod(add(steps, half), period), half)
    if at_edge:
        wrapped = where(logical_and(ops.eq(*common(wrapped, -half)), steps > 0), half, wrapped)
    correction = subtract(wrapped, steps)
    correction = where(absolute(steps) < (half if discont is None else discont), 0, correction)
    shift = astype(cumsum(correction, axis), wrapped.dtype)
    first = zeros(tuple([1 if a == k else n for a, n in enumerate(p.shape)]), shift.dtype)
    return add(p, concatenate([first, shift], k))


__all__ = [
    "cumprod",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "ediff1d",
    "gradient",
    "trapezoid",
    "unwrap",
]
