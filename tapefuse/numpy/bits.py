"""Bits as elements of bytes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.numpy.elementwise import not_equal
from tapefuse.numpy.shape import _axis, _fixed, moveaxis, ravel, reshape
from tapefuse.tracer.promote import cast
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

_BYTE = np.dtype(np.uint8)


def _places(bitorder: str) -> np.ndarray:
    """How far each of the bits of a byte is shifted. Raises ValueError."""
    if bitorder not in ("big", "little"):
        raise ValueError(f"{called()}: 'order' must be either 'little' or 'big', not {bitorder!r}")
    places = np.arange(8, dtype=_BYTE)
    return places if bitorder == "little" else places[::-1]


def _to_the_end(x: Tensor, axis: Any) -> Tensor:
    return ravel(x) if axis is None else moveaxis(x, _axis(x.ndim, axis), -1)


def _back(x: Tensor, axis: Any) -> Tensor:
    return x if axis is None else moveaxis(x, -1, axis)


def packbits(a: Any, /, axis: Any = None, bitorder: str = "big") -> Tensor:
    """Eight elements along an axis (of all, flattened, by default) as one byte: bits are 0 for zeros, 1 for others.

    Zeros complete the last byte. Raises TypeError for anything but integers and bools.
    """
    x, places = as_tensor(a), _places(bitorder)
    if x.dtype.kind not in "iub":
        raise TypeError(f"{called()}: expected an input array of integer or boolean data type, not {x.type}")
    x = _to_the_end(x, axis)
    n = _fixed(x.shape[-1], "the axis of bits")
    low, none = (0,) * x.ndim, (0,) * (x.ndim - 1)
    bits = ops.pad(cast(not_equal(x, 0), _BYTE), low=low, high=(*none, -n % 8), interior=low, value=0)
    bits = reshape(bits, (*x.shape[:-1], -(-n // 8), 8))
    return _back(ops.reduce_sum(ops.shl(bits, places), axes=(x.ndim,)), axis)


def unpackbits(a: Any, /, axis: Any = None, count: Any = None, bitorder: str = "big") -> Tensor:
    """The eight bits of each byte as elements, 0 and 1, along an axis (of all, flattened, by default).

    `count`: so many of them, zeros behind the last one; if it is negative, all but so many. Raises TypeError for
    anything but uint8.
    """
    x, places = as_tensor(a), _places(bitorder)
    if x.dtype != _BYTE:
        raise TypeError(f"{called()}: expected an input array of unsigned byte data type, not {x.type}")
    x = _to_the_end(x, axis)
    bits = ops.and_(ops.shr(reshape(x, (*x.shape, 1)), places), _BYTE.type(1))
    bits = reshape(bits, (*x.shape[:-1], x.shape[-1] * 8))
    if count is not None:
        n = _fixed(bits.shape[-1], "the axis of bytes")
        wanted = count if count >= 0 else n + count
        if wanted < 0:
            raise ValueError(f"{called()}: -count larger than number of elements")
        low, none = (0,) * x.ndim, (0,) * (x.ndim - 1)
        bits = ops.pad(bits, low=low, high=(*none, max(wanted - n, 0)), interior=low, value=0)[..., :wanted]
    return _back(bits, axis)


__all__ = ["packbits", "unpackbits"]
