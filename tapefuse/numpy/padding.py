"""`pad` in all of NumPy's modes, one axis after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.numpy.elementwise import add, astype, divide, multiply, rint, subtract
from tapefuse.numpy.linalg import tensordot
from tapefuse.numpy.reduce import max as _max
from tapefuse.numpy.reduce import mean as _mean
from tapefuse.numpy.reduce import min as _min
from tapefuse.numpy.shape import _at_axis, _fixed, broadcast_to, moveaxis, reshape
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

Pair = tuple[Any, Any]
_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {"constant_values": 0},
    "edge": {},
    "empty": {},
    "linear_ramp": {"end_values": 0},
    "maximum": {"stat_length": None},
    "mean": {"stat_length": None},
    "median": {"stat_length": None},
    "minimum": {"stat_length": None},
    "reflect": {"reflect_type": "even"},
    "symmetric": {"reflect_type": "even"},
    "wrap": {},
}


def pad(x: Any, pad_width: Any, mode: str = "constant", **options: Any) -> Tensor:
    """Elements put around `x`; `pad_width` as in NumPy: n, (before, after), one pair for each axis, or a dict of axes.

    Modes: constant (`constant_values`), edge, reflect and symmetric (`reflect_type`), wrap, linear_ramp
    (`end_values`), maximum, mean, median and minimum (`stat_length`), empty (zeros). All but constant need extents that
    are known while tracing.
    """
    x = as_tensor(x)
    if mode not in _OPTIONS:
        raise ValueError(f"{called()}: mode {mode!r} is not one of {', '.join(_OPTIONS)}")
    if unknown := set(options) - set(_OPTIONS[mode]):
        raise ValueError(f"{called()}: unsupported keyword arguments for mode {mode!r}: {unknown}")
    widths = _widths(x, pad_width)
    given = {**_OPTIONS[mode], **options}
    if mode in ("constant", "empty"):
        return _constant(x, widths, given.get("constant_values", 0))
    option = _option(x, given)
    for axis, width in enumerate(widths):
        if width != (0, 0):
            x = _padded(x, axis, width, mode, option(axis))
    return x


def _widths(x: Tensor, pad_width: Any) -> list[tuple[int, int]]:
    if isinstance(pad_width, dict):
        pairs = [(0, 0)] * x.ndim
        for axis, width in pad_width.items():
            pairs[axis] = (width, width) if isinstance(width, int) else tuple(width)
        pad_width = pairs
    array = np.asarray(pad_width)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{called()}: pad_width must be integers, not {array.dtype}")
    if (array < 0).any():
        raise ShapeError(f"{called()}: pad_width must not be negative: {pad_width}")
    return [(int(a), int(b)) for a, b in _pairs(x, array, "pad_width")]


def _pairs(x: Tensor, value: Any, name: str) -> list[Pair]:
    """(before, after) for each axis, as NumPy broadcasts them."""
    try:
        return [tuple(pair) for pair in np.broadcast_to(value, (x.ndim, 2))]
    except ValueError:
        raise ShapeError(
            f"{called()}: {name}={value!r} is neither one number, one pair, nor a pair for each axis of {x.type}"
        ) from None


def _option(x: Tensor, given: dict[str, Any]) -> Callable[[int], Any]:
    """The mode's option for each axis."""
    if "reflect_type" in given:
        if given["reflect_type"] not in ("even", "odd"):
            raise ValueError(f"{called()}: reflect_type must be 'even' or 'odd', not {given['reflect_type']!r}")
        return lambda axis: given["reflect_type"]
    if not given:
        return lambda axis: None
    ((name, value),) = given.items()
    if value is None:
        return lambda axis: (None, None)
    pairs = _pairs(x, value, name)
    return lambda axis: pairs[axis]


def _constant(x: Tensor, widths: list[tuple[int, int]], values: Any) -> Tensor:
    if not isinstance(values, Operators) and np.ndim(values) == 0:
        value = x.dtype.type(values).item()
        low, high = (tuple([w[k] for w in widths]) for k in (0, 1))
        return ops.pad(x, low=low, high=high, interior=(0,) * x.ndim, value=value)
    if isinstance(values, Operators):
        fill = broadcast_to(as_tensor(values), (x.ndim, 2))
        pairs: list[Pair] = [(_at_axis(fill, 0, k)[0], _at_axis(fill, 0, k)[1]) for k in range(x.ndim)]
    else:
        pairs = _pairs(x, values, "constant_values")
    for axis, (width, pair) in enumerate(zip(widths, pairs, strict=True)):
        sides = [_side(x, axis, n, value) for n, value in zip(width, pair, strict=True)]
        x = ops.concat(sides[0], x, sides[1], axis=axis)
    return x


def _side(x: Tensor, axis: int, width: int, value: Any) -> Tensor:
    """So many copies of a value (a scalar, or of extent 1 along the axis) to be put beside `x`."""
    return broadcast_to(astype(as_tensor(value, x.dtype), x.dtype), (*x.shape[:axis], width, *x.shape[axis + 1 :]))


def _padded(x: Tensor, axis: int, width: tuple[int, int], mode: str, option: Any) -> Tensor:
    n = _fixed(x.shape[axis], f"axis {axis} of {x.type}")
    if n == 0:
        raise ShapeError(f"{called()}: axis {axis} of {x.type} is empty and can be padded with mode='constant' only")
    if mode == "linear_ramp":
        return _with_ramps(x, axis, width, option)
    if mode in ("maximum", "mean", "median", "minimum"):
        return _with_statistics(x, axis, width, mode, option)
    if option == "odd":  # twice the edge less an element: linear in x, so a matrix
        matrix = np.pad(np.eye(n), (width, (0, 0)), mode, reflect_type="odd").astype(x.dtype)  # type: ignore[call-overload]
        return moveaxis(tensordot(as_tensor(matrix), x, ([1], [axis])), 0, axis)
    return _at_axis(x, axis, np.pad(np.arange(n), width, mode))  # type: ignore[call-overload]


def _with_ramps(x: Tensor, axis: int, width: tuple[int, int], ends: Pair) -> Tensor:
    n = x.shape[axis]
    edges = [_at_axis(x, axis, slice(0, 1)), _at_axis(x, axis, slice(n - 1, n))]
    left, right = (_ramp(e, axis, w, end) for e, w, end in zip(edges, width, ends, strict=True))
    return ops.concat(left, x, ops.flip(right, axes=(axis,)), axis=axis)


def _ramp(edge: Tensor, axis: int, width: int, end: Any) -> Tensor:
    """Even steps from `end` to the edge, which is not among them."""
    dtype = edge.dtype if kind_of(edge.dtype) in "fc" else np.dtype(np.float64)
    wide = astype(edge, dtype)
    start = astype(as_tensor(end, dtype), dtype)
    steps = as_tensor(np.arange(width, dtype=dtype) / max(width, 1))
    steps = reshape(astype(steps, dtype), [width if a == axis else 1 for a in range(edge.ndim)])
    ramp = add(start, multiply(steps, subtract(wide, start)))
    return astype(ramp if kind_of(edge.dtype) in "fc" else ops.floor(ramp), edge.dtype)


def _with_statistics(x: Tensor, axis: int, width: tuple[int, int], mode: str, lengths: Pair) -> Tensor:
    n = _fixed(x.shape[axis], "the array")
    left, right = (n if length is None else min(int(length), n) for length in lengths)
    if 0 in (left, right) and mode in ("maximum", "minimum"):
        raise ShapeError(f"{called()}: stat_length of 0 yields no value for padding")
    statistic = _STATISTICS[mode]
    parts = _at_axis(x, axis, slice(0, left)), _at_axis(x, axis, slice(n - right, n))
    sides = [_side(x, axis, w, _rounded(statistic(p, axis), x)) for p, w in zip(parts, width, strict=True)]
    return ops.concat(sides[0], x, sides[1], axis=axis)


def _rounded(value: Tensor, x: Tensor) -> Tensor:
    return rint(value) if x.dtype.kind in "iu" and kind_of(value.dtype) == "f" else value


def _median(x: Tensor, axis: int) -> Tensor:
    n = _fixed(x.shape[axis], "the array")
    ordered = ops.sort(x, axis=axis)
    low, high = (_at_axis(ordered, axis, slice(k, k + 1)) for k in ((n - 1) // 2, n // 2))
    return divide(add(low, high), 2)


_STATISTICS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "maximum": lambda x, axis: _max(x, axis, keepdims=True),
    "mean": lambda x, axis: _mean(x, axis, keepdims=True),
    "median": _median,
    "minimum": lambda x, axis: _min(x, axis, keepdims=True),
}

__all__ = ["pad"]
