"""How convolutions and pooling get into a random program; importing this adds their makers to `program_ops.MAKERS`."""

from __future__ import annotations

from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.ops import convolution, pooling
from tapefuse.ir.types import Dim, Shape, size
from tests.program_draft import MAX_SIZE, Draft, is_never_empty, sizes
from tests.program_ops import hull, maker


def _operand(d: Draft, shape: Shape) -> Value:
    """A float of this shape."""
    found = d.existing(lambda v: v.dtype == d.dtype and v.shape == shape)
    return d.param(d.dtype, shape) if found is None else found


def _image(d: Draft) -> Value:
    """A float with an axis of examples, one or two fixed spatial axes, and channels."""
    fits = lambda v: v.dtype == d.dtype and len(v.shape) in (3, 4) and all(isinstance(n, int) for n in v.shape[1:])
    found = d.existing(lambda v: fits(v) and 0 not in v.shape)
    if found is not None:
        return found
    spatial = [d.pick(1, 5) for _ in range(d.pick(1, 2))]
    n: Dim = d.extent()
    return d.param(d.dtype, (n if is_never_empty((n,)) else 2, *spatial, d.pick(1, 3)))


def _options(d: Draft, spatial: Shape) -> tuple[tuple[int, ...], dict[str, Any]]:
    """(extents of a kernel that fits, attributes)"""
    kernel = tuple(d.pick(1, 3) for _ in spatial)
    dilation = tuple(1 + d.chance(4) for _ in spatial)
    reach = [(k - 1) * a for k, a in zip(kernel, dilation, strict=True)]
    low = tuple(d.pick(0, r) for r in reach)
    high = tuple(max(r + 1 - n - a, d.pick(0, r)) for n, r, a in zip(spatial, reach, low, strict=True))  # type: ignore
    return kernel, {"strides": tuple(d.pick(1, 2) for _ in spatial), "low": low, "high": high, "dilation": dilation}


@maker("conv", "conv_input", "conv_kernel")
def convolved(d: Draft, name: str) -> Value | None:
    x = _image(d)
    n, *spatial, channels = x.shape
    kernel, attrs = _options(d, tuple(spatial))
    windows, filters = convolution.counts(tuple(spatial), kernel, **attrs), d.pick(1, 3)
    shape_w, shape_g = (*kernel, channels, filters), (n, *windows, filters)
    if max(sizes(size(shape_g))) > MAX_SIZE:
        return None
    if name == "conv":
        a, b, terms = x, _operand(d, shape_w), size((*kernel, channels))
    elif name == "conv_input":
        a, b, terms = _operand(d, shape_g), _operand(d, shape_w), size((*kernel, filters))
        attrs["extents"] = tuple(spatial)
    else:
        a, b, terms = x, _operand(d, shape_g), size((n, *windows))
        attrs["extents"] = kernel
    most = max(sizes(terms)) * d.magnitude(a) * d.magnitude(b)
    return d.new(d.emit(name, a, b, **attrs), -most, most)


def _windows(d: Draft, shape: Shape) -> dict[str, Any]:
    window = tuple(d.pick(1, min(n, 3)) if isinstance(n, int) and d.chance(2) else 1 for n in shape)
    strides = tuple(d.pick(1, 3) if isinstance(n, int) else 1 for n in shape)
    low, high = (tuple(d.pick(0, w - 1) if d.chance(2) else 0 for w in window) for _ in range(2))
    return {"window": window, "strides": strides, "low": low, "high": high}


@maker("window_max", "window_argmax", "window_sum", "window_pick", "window_place", "window_spread")
def pooled(d: Draft, name: str) -> Value:
    x = d.any_of(d.one_of(("f", "f", "f", "i")), lambda v: is_never_empty(v.shape))
    if not is_never_empty(x.shape):
        x = d.param(d.dtype, (2, 3))
    attrs = _windows(d, x.shape)
    low, high = d.ranges[x]
    terms = size(attrs["window"])
    if name == "window_argmax":
        return d.new(ops.window_argmax(x, **attrs), 0, terms - 1)
    if name in ("window_max", "window_sum"):
        y = d.emit(name, x, **attrs)
        return d.new(y, low, high) if name == "window_max" else d.new(y, *hull(low, high, terms * low, terms * high))
    index = d.new(ops.window_argmax(x, **attrs), 0, terms - 1)
    if name == "window_pick":
        return d.new(d.emit(name, x, index, **attrs), *hull(0, low, high))
    v = _operand(d, pooling.counts(x.shape, **attrs))
    low, high = d.ranges[v]
    y = d.emit(name, v, *([index] if name == "window_place" else []), shape=x.shape, **attrs)
    return d.new(y, *hull(0, terms * low, terms * high))
