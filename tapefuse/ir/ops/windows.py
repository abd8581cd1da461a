"""Windows that slide along axes: how many there are, and which elements they cover. Shared by convolution and pooling.

Window `o` of an axis covers, for 0 <= k < window, the elements o * stride + k * dilation - low of the operand; those
that are negative or past its end are padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.types import Dim, Poly, always_negative, divide_up, never_negative

UNROLLED = 16  # most terms of a window that are written out one by one; more become a loop


def count(n: Dim, window: int, stride: int, low: int, high: int, dilation: int = 1) -> Dim:
    """How many windows there are along an axis of extent `n`. Raises ShapeError."""
    if isinstance(window, Poly):
        raise ShapeError(f"a window's extent must be a fixed integer, not {window}; use fixed sizes in the TensorSpecs")
    if window < 1 or stride < 1 or dilation < 1 or low < 0 or high < 0:
        raise ShapeError(
            f"windows, strides and dilations must be positive and padding must not be negative, got window {window}, "
            f"stride {stride}, dilation {dilation}, padding {low} and {high}"
        )
    places = n + low + high - (window - 1) * dilation  # where a window may start
    if always_negative(places) or places == 0 and n != 0:
        steps = f" in steps of {dilation}" if dilation > 1 else ""
        raise ShapeError(
            f"a window of {window} elements{steps} does not fit into {n} elements padded by {low} and {high}; use a "
            "smaller window or more padding"
        )
    found = divide_up(places, stride)
    if found is None:
        raise ShapeError(f"how many windows with stride {stride} there are in {n} elements is known at run time only; "
                         "use a fixed size for that axis in the TensorSpec")  # fmt: skip
    return found


def is_covered(n: Dim, windows: Dim, stride: int, low: int) -> bool:
    """Whether (i + low) // stride is a window's number for every element i."""
    return never_negative(windows * stride - n - low)


# -- NumPy ------------------------------------------------------------------------------------------------------------


def padded(x: np.ndarray, low: Sequence[int], high: Sequence[int], fill: Any) -> np.ndarray:
    """`x` with elements of `fill` around it."""
    if not any(low) and not any(high):
        return x
    return np.pad(x, list(zip(low, high, strict=True)), constant_values=fill)


def taps(
    counts: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For each offset in a window, in row-major order, where the windows have that element in the padded operand."""
    for k in np.ndindex(*window):
        starts = (a * d for a, d in zip(k, dilation, strict=True))
        yield k, tuple(slice(a, max(a + n * s - s + 1, a), s) for a, n, s in zip(starts, counts, strides, strict=True))


# -- lowering ---------------------------------------------------------------------------------------------------------


def over(b: Any, kind: str, dtype: np.dtype, extents: Sequence[int], body: Callable[[tuple], Any]) -> Any:
    """A reduction over 0 <= k < extents: written out if there are few terms, so that loops around it can be vectors."""
    if not 0 < prod(extents) <= UNROLLED:
        return b.reduce(kind, dtype, tuple(extents), body)
    terms = [body(tuple(b.number(k, INT64) for k in ks)) for ks in itertools.product(*map(range, extents))]
    return reduce(lambda x, y: b.op(kind, x, y), terms)


def both(b: Any, x: Any, y: Any) -> Any:
    """`x and y` of conditions, None being true."""
    return y if x is None else x if y is None else b.op("and", x, y)


def element(b: Any, o: Any, k: Any, n: Dim, stride: int, low: int, dilation: int = 1) -> tuple[Any, Any]:
    """Element k of window o along an axis of extent n: whether it exists (None: always), and its index (else 0).

    `low` may be None for an axis without padding on either side.
    """
    zero = b.number(0, INT64)
    i = b.op("add", _times(b, o, stride), _times(b, k, dilation))
    if low is None:
        return None, i
    i = b.op("sub", i, b.dim(low)) if low else i
    inside = both(b, b.op("ge", i, zero), b.op("lt", i, b.dim(n)))
    return inside, b.inside(inside, i, n)


def window(b: Any, i: Any, k: Any, windows: Dim, stride: int, low: int, dilation: int = 1) -> tuple[Any, Any]:
    """The window that has element i of the operand as its element k: whether there is one, and its number (else 0)."""
    zero = b.number(0, INT64)
    first = b.op("sub", b.op("add", i, b.dim(low)), _times(b, k, dilation))
    o = b.op("floordiv", first, b.dim(stride))
    inside = both(b, b.op("ge", first, zero), b.op("lt", o, b.dim(windows)))
    if stride != 1:
        inside = both(b, inside, b.op("eq", b.op("mod", first, b.dim(stride)), zero))
    return inside, b.inside(inside, o, windows)


def _times(b: Any, x: Any, factor: int) -> Any:
    return x if factor == 1 else b.op("mul", x, b.dim(factor))
