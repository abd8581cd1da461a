"""Pooling: functions over channels-last tensors, layers of them, and the layer that flattens what they leave."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.ir.ops.family import ones_like
from tapefuse.ir.types import Poly, size
from tapefuse.nn.convolution import Padding, Sizes, paddings, sizes
from tapefuse.nn.module import Module
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor


def _attributes(
    name: str, axes: int, x: Tensor, window: Sizes, strides: Sizes | None, padding: Padding
) -> dict[str, tuple[int, ...]]:
    """The op's attributes: entries for every axis of x."""
    if x.ndim < axes + 1:
        raise ShapeError(f"{name} at {user_loc()}: x {x.type} needs {axes} spatial axes and one of channels")
    lead = x.ndim - axes - 1
    extents = sizes(f"{name}: the window", window, axes)
    steps = extents if strides is None else sizes(f"{name}: strides", strides, axes)
    low, high = paddings(padding, x.shape[lead:-1], extents, steps, (1,) * axes)
    if any(max(a, b) >= n for a, b, n in zip(low, high, extents, strict=True)):
        raise ValueError(f"{name}: padding {padding!r} must be less than the window {extents}")
    ones, zeros = (1,) * lead, (0,) * lead
    counted = {"window": (*ones, *extents, 1), "strides": (*ones, *steps, 1)}
    return counted | {"low": (*zeros, *low, 0), "high": (*zeros, *high, 0)}


def _maximum(name: str, axes: int, x: Any, window: Sizes, strides: Sizes | None, padding: Padding) -> Tensor:
    x = as_tensor(x)
    if kind_of(x.dtype) not in "fi":
        raise DTypeError(f"{name} at {user_loc()}: x must be numbers with a sign, got {x.dtype}; cast it first")
    return ops.window_max(x, **_attributes(name, axes, x, window, strides, padding))


def _average(name: str, axes: int, x: Any, window: Sizes, strides: Sizes | None, padding: Padding) -> Tensor:
    x = as_tensor(x)
    if kind_of(x.dtype) != "f":
        raise DTypeError(f"{name} at {user_loc()}: x must be floats, got {x.dtype}; cast it first")
    attrs = _attributes(name, axes, x, window, strides, padding)
    total = ops.window_sum(x, **attrs)
    if not any(attrs["low"]) and not any(attrs["high"]):
        return total / size(attrs["window"])
    lead = x.ndim - axes - 1
    spatial = x.shape[lead:-1]
    if any(isinstance(n, Poly) for n in spatial):
        return total / ops.window_sum(ones_like(x), **attrs)
    ones = np.ones((*(1,) * lead, *spatial, 1), x.dtype)
    return total / as_tensor(ops.window_sum(ones, **attrs))


def max_pool1d(x: Any, window: Sizes = 2, strides: Sizes | None = None, padding: Padding = "valid") -> Tensor:
    """The largest element of each window of x `[..., time, channels]`; see `max_pool2d`."""
    return _maximum("max_pool1d", 1, x, window, strides, padding)


def max_pool2d(x: Any, window: Sizes = 2, strides: Sizes | None = None, padding: Padding = "valid") -> Tensor:
    """The largest element of each window of x `[..., height, width, channels]`, for each channel: `[..., height',
    width', channels]`.

    `window` and `strides` (the window's extents unless given) are integers or one for each axis; `padding` is that of
    `conv2d` and never wins. The gradient goes to the first of equal elements; a nan is the largest. Raises
    `ShapeError`, `ValueError`.
    """
    return _maximum("max_pool2d", 2, x, window, strides, padding)


def avg_pool1d(x: Any, window: Sizes = 2, strides: Sizes | None = None, padding: Padding = "valid") -> Tensor:
    """The mean of each window of x `[..., time, channels]`; see `avg_pool2d`."""
    return _average("avg_pool1d", 1, x, window, strides, padding)


def avg_pool2d(x: Any, window: Sizes = 2, strides: Sizes | None = None, padding: Padding = "valid") -> Tensor:
    """The mean of each window of x `[..., height, width, channels]`, floats, for each channel: `[..., height', width',
    channels]`. Padding counts as no element. Options are those of `max_pool2d`. Raises `ShapeError`, `ValueError`.
    """
    return _average("avg_pool2d", 2, x, window, strides, padding)


class _Pool(Module):
    """What the layers share."""

    function: ClassVar[Any]
    axes: ClassVar[int]

    def __init__(
        self, size: Sizes = 2, strides: Sizes | None = None, padding: Padding = "valid", name: str | None = None
    ):
        super().__init__(name)
        kind = type(self).__name__
        self.size = sizes(f"{kind}: size", size, self.axes)
        self.strides = self.size if strides is None else sizes(f"{kind}: strides", strides, self.axes)
        self.padding = padding
        paddings(padding, self.size, self.size, self.strides, (1,) * self.axes)  # raises if it is none

    def __call__(self, x: Any) -> Tensor:
        return type(self).function(x, self.size, self.strides, self.padding)


class MaxPool1D(_Pool):
    """`nn.max_pool1d` as a layer: x is `[..., time, channels]`."""

    function, axes = staticmethod(max_pool1d), 1


class MaxPool2D(_Pool):
    """`nn.max_pool2d` as a layer: x is `[..., height, width, channels]`."""

    function, axes = staticmethod(max_pool2d), 2


class AveragePool1D(_Pool):
    """`nn.avg_pool1d` as a layer: x is `[..., time, channels]`."""

    function, axes = staticmethod(avg_pool1d), 1


class AveragePool2D(_Pool):
    """`nn.avg_pool2d` as a layer: x is `[..., height, width, channels]`."""

    function, axes = staticmethod(avg_pool2d), 2


class Flatten(Module):
    """All axes of x but the first as one: `[batch, ...]` to `[batch, numbers]`. Raises `ShapeError` for a scalar."""

    def __call__(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if not x.ndim:
            raise ShapeError(f"{self.name} at {user_loc()}: x needs an axis of examples, got a scalar")
        return tp.reshape(x, (x.shape[0], size(x.shape[1:])))
