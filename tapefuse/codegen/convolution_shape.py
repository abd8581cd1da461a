"""The extents of a convolution, and whether it is one that has kernels of its own (`convolution`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapefuse._records import dataclass
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Shape, size

OPS = ("conv", "conv_input", "conv_kernel")


@dataclass(frozen=True, slots=True)
class Extents:
    """Of x[images, *spatial, inputs], w[*kernel, inputs, outputs] and g[images, *windows, outputs], all but the number
    of images fixed; padding, strides and dilation along each spatial axis."""

    images: Dim
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    windows: tuple[int, ...]
    inputs: int
    outputs: int
    strides: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def axes(self) -> range:
        return range(len(self.spatial))

    @property
    def padded(self) -> tuple[int, ...]:
        """Of x with its padding."""
        return tuple(a + n + b for a, n, b in zip(self.low, self.spatial, self.high, strict=True))

    @property
    def is_padded(self) -> bool:
        return any(self.low) or any(self.high)

    @property
    def products(self) -> Dim:
        """Multiply-adds of each of the three ops."""
        return self.images * size((*self.windows, *self.kernel, self.inputs, self.outputs))


def extents(node: Value) -> Extents | None:
    """Of a convolution of floats over one axis or more, without leading axes, empty or symbolic extents; else None."""
    if node.op is None or node.op.name not in OPS or node.dtype not in (np.float32, np.float64):
        return None
    attrs = node.attributes
    s = len(attrs["strides"])
    shapes = {"conv": "xwg", "conv_input": "gwx", "conv_kernel": "xgw"}[node.op.name]
    of = dict(zip(shapes, (*(a.shape for a in node.args), node.shape), strict=True))
    x, w, g = of["x"], of["w"], of["g"]
    if s == 0 or len(w) != s + 2 or not _fixed((*x[1:], *w, *g[1:])):
        return None
    padding = {name: attrs[name] for name in ("strides", "low", "high", "dilation")}
    return Extents(x[0], x[1:-1], w[:-2], g[1:-1], w[-2], w[-1], **padding)  # type: ignore[arg-type]


def is_tiled(node: Value) -> bool:
    """Whether a value is such a convolution."""
    return extents(node) is not None


def is_copied_once(node: Value, users: Sequence[Value]) -> bool:
    """Whether values placed in windows are read by one convolution only, whose copy of an image takes them in."""
    pairs = zip(node.attributes["window"], node.attributes["strides"], strict=True)
    return len(users) == 1 and is_tiled(users[0]) and all(window <= stride for window, stride in pairs)


def _fixed(shape: Shape) -> bool:
    return all(isinstance(n, int) and n > 0 for n in shape)
