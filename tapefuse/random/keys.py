"""Keys, and the random bits that they stand for. A key is a scalar of dtype uint64.

    key = tp.random.key(0)
    first, second = tp.random.split(key)      # as many independent keys as wanted
    step_key = tp.random.fold_in(key, step)   # one for each number

Everything is one function, `threefry(key, counter)`, of the key and the position of an element. Counters of draws,
of `split`, of `fold_in` and of generators differ in their highest four bits, so one key may serve all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Shape, show_shape, size
from tapefuse.numpy.shape import _shape, _whole, reshape
from tapefuse.tracer.applying import apply
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.source import called
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, wrap

UINT32, UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)
WIDTHS = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: UINT32, 64: UINT64}
SPLIT, FOLD, STEP = 8, 9, 10  # purposes of a counter, beside the parts 0 to 7 of a draw
TOP, PURPOSE = 1 << 64, 60


def key(seed: Any) -> Tensor:
    """The key of a seed: an integer of up to 64 bits, or an integer scalar. Raises DTypeError, ShapeError, ValueError.

    Negative integers are taken modulo 2**64.
    """
    if isinstance(seed, (Operators, np.ndarray, np.generic)):
        seed = as_tensor(seed)
        if seed.dtype.kind not in "iu":
            raise DTypeError(f"{called()}: a seed is an integer, not {seed.dtype}")
        return ops.cast(_scalar(seed, "a seed"), dtype=UINT64)
    number = _whole(seed, "a seed")
    if not -TOP // 2 <= number < TOP:
        raise ValueError(f"{called()}: the seed {number} has more than 64 bits")
    return wrap(np.array(number % TOP, UINT64))


def split(key: Any, n: Any = 2) -> Tensor:
    """`n` independent keys (an integer or a shape, which the result has); the first of more are the first of fewer.

    They unpack: `a, b = split(key)`.
    """
    shape = _shape(n)
    _check_extents(shape)
    return reshape(ops.threefry(as_key(key), counters(shape, SPLIT)), shape)


def fold_in(key: Any, data: Any) -> Tensor:
    """The key for one number: an integer of up to 60 bits, or an integer tensor, of which the result has the shape."""
    k = as_key(key)
    if not isinstance(data, (Operators, np.ndarray, np.generic)):
        number = _whole(data, "what is folded in")
        if not 0 <= number < 1 << PURPOSE:
            raise ValueError(f"{called()}: what is folded in must be from 0 to 2**60 - 1, not {number}")
        return ops.threefry(k, numbers(number, FOLD))
    found = as_tensor(data)
    if found.dtype.kind not in "iu":
        raise DTypeError(f"{called()}: what is folded in must be an integer, not {found.dtype}")
    low = ops.and_(ops.cast(found, dtype=UINT64), numbers((1 << PURPOSE) - 1, 0))
    return ops.threefry(k, ops.add(low, numbers(0, FOLD)))


def bits(key: Any, shape: Any = (), width: int = 32) -> Tensor:
    """Random unsigned integers of `width` bits: 8, 16, 32 or 64. An element depends on the key and its place alone."""
    if width not in WIDTHS:
        raise ValueError(f"{called()}: width must be 8, 16, 32 or 64, not {width!r}")
    shape = _shape(shape)
    _check_extents(shape)
    words = words_of(as_key(key), shape)
    return words if width == 64 else highest(words, width)


# -- for the distributions --------------------------------------------------------------------------------------------


def as_key(key: Any) -> Tensor:
    """A key as a tensor. Raises DTypeError, ShapeError for anything else."""
    dtype = getattr(key, "dtype", None)
    if dtype != UINT64:
        kind = f"of type {type(key).__name__}" if dtype is None else f"of dtype {dtype}"
        raise DTypeError(f"{called()}: a key is a uint64 scalar, not {kind}; make one with tp.random.key(seed)")
    return _scalar(as_tensor(key), "a key")


def _scalar(x: Tensor, what: str) -> Tensor:
    if x.shape:
        raise ShapeError(
            f"{called()}: {what} is a scalar, not of shape {show_shape(x.shape)}; take one of them, x[0], or draw for "
            "all with tp.vmap"
        )
    return x


def _check_extents(shape: Shape) -> None:
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise ShapeError(f"{called()}: the shape {show_shape(shape)} has a negative extent")


def numbers(value: int, purpose: int) -> Tensor:
    return constant_of(value + (purpose << PURPOSE), UINT64)


def constant_of(value: Any, dtype: np.dtype) -> Tensor:
    """A scalar that programs hold as a literal."""
    return as_tensor(np.array(value, dtype))


def counters(shape: Shape, purpose: int) -> Tensor:
    """The counters of as many elements, in row-major order: `[size]`."""
    n = size(shape)
    if state.trace is None and isinstance(n, int):
        first = purpose << PURPOSE
        return wrap(np.arange(first, first + n, dtype=UINT64))
    count = apply(ops.iota, (), {"shape": (n,), "axis": 0, "dtype": UINT64})
    return count if purpose == 0 else ops.add(count, numbers(0, purpose))


def words_of(key: Tensor, shape: Shape, part: int = 0) -> Tensor:
    """64 random bits for each element of a shape; parts are independent of each other."""
    return reshape(ops.threefry(key, counters(shape, part)), shape)


def highest(words: Tensor, count: int) -> Tensor:
    """The highest bits of words, as an unsigned integer with no more bits than it needs, at least 8."""
    width = next(w for w in WIDTHS if w >= count)
    return ops.cast(ops.shr(words, constant_of(64 - count, UINT64)), dtype=WIDTHS[width])


def lower_half(words: Tensor) -> Tensor:
    return ops.cast(words, dtype=UINT32)
