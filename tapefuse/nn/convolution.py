"""Convolution: functions over channels-last tensors, and layers that own a kernel and a bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Dim, Poly, divide, size
from tapefuse.nn.activations import activation as activation_of
from tapefuse.nn.dense import Initializer, initializer
from tapefuse.nn.module import Module
from tapefuse.tracer.promote import operands
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable

Sizes = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def sizes(what: str, value: Sizes, axes: int, least: int = 1) -> tuple[int, ...]:
    """One integer of at least `least` for each axis. Raises ValueError."""
    given = (value,) * axes if isinstance(value, (int, np.integer)) else tuple(value)
    ok = len(given) == axes and all(isinstance(n, (int, np.integer)) and n >= least for n in given)
    if not ok or any(isinstance(n, bool) for n in given):
        raise ValueError(f"{what} must be an integer >= {least}, or one for each of {axes} axes; got {value!r}")
    return tuple(int(n) for n in given)


def paddings(
    padding: Padding, spatial: Sequence[Dim], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Elements before and after each axis.

    "valid": none. "same": as many as make the result `ceil(extent / stride)` long, the odd one at the end. An integer,
    one for each axis, or a pair (before, after) for each axis: so many. Raises ValueError and ShapeError.
    """
    axes = len(window)
    if padding == "valid":
        return (0,) * axes, (0,) * axes
    if padding == "same":
        totals = [_same(*each) for each in zip(spatial, window, strides, dilation, strict=True)]
        return tuple(n // 2 for n in totals), tuple(n - n // 2 for n in totals)
    if isinstance(padding, str):
        raise ValueError(f"padding must be 'same', 'valid', integers or pairs of integers, got {padding!r}")
    if not isinstance(padding, (int, np.integer)) and all(isinstance(p, (tuple, list)) for p in padding):
        pairs = [sizes("padding", p, 2, 0) for p in padding]
        if len(pairs) != axes:
            raise ValueError(f"padding needs a pair for each of {axes} axes, got {padding!r}")
        return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    both = sizes("padding", padding, axes, 0)  # type: ignore[arg-type]
    return both, both


def _same(extent: Dim, window: int, stride: int, dilation: int) -> int:
    reach = (window - 1) * dilation
    if isinstance(extent, Poly):
        if stride == 1:
            return reach
        raise ShapeError(
            f"padding 'same' with stride {stride} at {user_loc()} depends on the extent {extent}, which is known at "
            "run time only; give that axis a fixed size in the TensorSpec, or explicit padding"
        )
    return max((-(-extent // stride) - 1) * stride + reach + 1 - extent, 0)


def _convolution(name: str, axes: int, x: Any, kernel: Any, strides, padding, dilation, groups: int) -> Tensor:
    x, kernel = operands(np.multiply, x, kernel)
    if kernel.ndim != axes + 2 or x.ndim < axes + 1:
        raise ShapeError(
            f"{name} at {user_loc()}: x is {x.type} and the kernel {kernel.type}; expected x [..., {'spatial, ' * axes}"
            f"channels] and a kernel [{'taps, ' * axes}channels, filters]"
        )
    lead, (*spatial, channels) = x.shape[: x.ndim - axes - 1], x.shape[x.ndim - axes - 1 :]
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"{name}: groups must be a positive integer, got {groups!r}")
    if kernel.shape[-2] * groups != channels or divide(kernel.shape[-1], groups) is None:
        raise ShapeError(
            f"{name} at {user_loc()}: x {x.type} has {channels} channels in {groups} group(s), which needs a kernel of "
            f"{channels} / {groups} input channels and a multiple of {groups} filters, got {kernel.type}"
        )
    taps = sizes(f"{name}: the kernel's extents", kernel.shape[:axes], axes)
    attrs = {
        "strides": sizes(f"{name}: strides", strides, axes),
        "dilation": sizes(f"{name}: dilation", dilation, axes),
    }
    low, high = paddings(padding, spatial, taps, attrs["strides"], attrs["dilation"])
    attrs |= {"low": low, "high": high}
    images = tp.reshape(x, (size(lead), *spatial, channels))
    y = ops.conv(images, kernel, **attrs) if groups == 1 else _by_groups(images, kernel, groups, attrs)
    return tp.reshape(y, (*lead, *y.shape[1:]))


def _by_groups(x: Tensor, kernel: Tensor, groups: int, attrs: dict[str, Any]) -> Tensor:
    """Each group of channels with its own filters: as many convolutions, side by side along a leading axis."""
    axes = len(attrs["strides"])
    *taps, inputs, filters = kernel.shape
    each = divide(filters, groups)
    assert each is not None
    x = tp.transpose(tp.reshape(x, (*x.shape[:-1], groups, inputs)), (axes + 1, *range(axes + 1), axes + 2))
    kernel = tp.reshape(kernel, (*taps, inputs, groups, each))
    y = ops.conv(x, tp.transpose(kernel, (axes + 1, *range(axes + 1), axes + 2)), **attrs)
    y = tp.transpose(y, (*range(1, axes + 2), 0, axes + 2))
    return tp.reshape(y, (*y.shape[:-2], filters))


def conv1d(
    x: Any, kernel: Any, strides: Sizes = 1, padding: Padding = "valid", dilation: Sizes = 1, groups: int = 1
) -> Tensor:
    """The convolution of x `[..., time, channels]` with a kernel `[taps, channels, filters]`; see `conv2d`."""
    return _convolution("conv1d", 1, x, kernel, strides, padding, dilation, groups)


def conv2d(
    x: Any, kernel: Any, strides: Sizes = 1, padding: Padding = "valid", dilation: Sizes = 1, groups: int = 1
) -> Tensor:
    """The convolution (no flip: a cross-correlation) of x `[..., height, width, channels]` with a kernel `[taps, taps,
    channels, filters]`; the result is `[..., height', width', filters]`.

    `strides` and `dilation` are integers or one for each axis. `padding`: "valid" (none), "same" (the result is
    `ceil(height / stride)` high), an integer, one for each axis, or a pair (before, after) for each axis, of zeros.
    With `groups` the kernel is `[taps, taps, channels / groups, filters]`, and each group of filters sees its own group
    of channels. The dtype is NumPy's of a product. Raises `ShapeError`, also for extents that symbols leave open, and
    `ValueError` for options that are none.
    """
    return _convolution("conv2d", 2, x, kernel, strides, padding, dilation, groups)


class _Convolution(Module):
    """What the layers share; `axes` is the number of spatial axes."""

    attribute_order: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    axes: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Padding = "valid",
        activation: str | Callable[[Any], Tensor] | None = None,
        *,
        dilation: Sizes = 1,
        groups: int = 1,
        channels: int | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ):
        super().__init__(name)
        kind = type(self).__name__
        (self.filters,) = sizes(f"{kind}: filters", filters, 1)
        (self.groups,) = sizes(f"{kind}: groups", groups, 1)
        if self.filters % self.groups:
            raise ValueError(f"{kind}: {filters} filters do not make {groups} groups of one size")
        self.kernel_size = sizes(f"{kind}: kernel_size", kernel_size, self.axes)
        self.strides = sizes(f"{kind}: strides", strides, self.axes)
        self.dilation = sizes(f"{kind}: dilation", dilation, self.axes)
        self.padding = padding
        self.activation = activation_of(activation)
        self.use_bias = use_bias
        self.kernel: Variable | None = None
        self.bias: Variable | None = None
        self._initializers = initializer(kernel_initializer), initializer(bias_initializer)
        self._rng = np.random.default_rng(seed)
        self._dtype = np.dtype(dtype)
        paddings(padding, self.kernel_size, self.kernel_size, self.strides, self.dilation)  # raises if it is none
        if channels is not None:
            self.build(channels)

    def build(self, channels: int) -> None:
        """Make the variables for x with so many channels; does nothing if they exist. Raises `ShapeError`."""
        if self.kernel is not None:
            return
        if channels % self.groups:
            raise ShapeError(f"{self.name}: {channels} channels do not make {self.groups} groups of one size")
        make_kernel, make_bias = self._initializers
        kernel = make_kernel(self._rng, (*self.kernel_size, channels // self.groups, self.filters))
        self.kernel = Variable(np.asarray(kernel, self._dtype), name="kernel")
        if self.use_bias:
            self.bias = Variable(np.asarray(make_bias(self._rng, (self.filters,)), self._dtype), name="bias")

    def __call__(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if x.ndim < self.axes + 1:
            raise ShapeError(
                f"{self.name} at {user_loc()}: x {x.type} needs {self.axes} spatial axes and one of channels"
            )
        if self.kernel is None:
            if isinstance(x.shape[-1], Poly):
                raise ShapeError(
                    f"{self.name} cannot make its kernel: the last axis of x has the symbolic size {x.shape[-1]}; give "
                    f"{type(self).__name__}(channels=...) or a fixed size in the TensorSpec"
                )
            self.build(x.shape[-1])
        options = self.strides, self.padding, self.dilation, self.groups
        y = _convolution(self.name, self.axes, x, self.kernel, *options)
        return self.activation(y if self.bias is None else y + self.bias)


class Conv1D(_Convolution):
    """activation(conv1d(x, kernel) + bias): x is `[..., time, channels]`, the result `[..., time', filters]`.

    Options are those of `Conv2D`.
    """

    axes = 1


class Conv2D(_Convolution):
    """activation(conv2d(x, kernel) + bias): x is `[..., height, width, channels]`, the result `[..., height', width',
    filters]`.

    `kernel` is `[*kernel_size, channels / groups, filters]`, `bias` is `[filters]`. They are made here if `channels` is
    given, otherwise on the first call. `strides`, `padding`, `dilation` and `groups` are those of `nn.conv2d`, `seed`
    is an integer or a `numpy.random.Generator`. Raises `ValueError` for options that are none, `ShapeError` when x has
    other channels.
    """

    axes = 2
