"""Random bits from a key and a counter, and how draws from the gamma distribution move with its parameter."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir.op import Op, defop
from tapefuse.ir.ops.elementwise import abs, add, div, exp, expm1, gt, log1p, maximum, mul, sqrt, sub
from tapefuse.ir.ops.family import (
    binary_sample,
    dtype_of,
    elementwise,
    expand,
    read_aligned,
    same_inner_rank,
    shape_of,
    stretch,
)
from tapefuse.ir.ops.logic import cast, select
from tapefuse.ir.ops.reduce import reduce_sum
from tapefuse.ir.ops.special import polygamma
from tapefuse.ir.types import Type, broadcast_shapes, show_dtype

UINT32, UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
GROUPS = 5  # of four rounds: Threefry-2x32-20
BLOCK = 1 << 15  # counters that NumPy works on at once, so that they stay in cache
MASK = 0xFFFFFFFF


def schedule(key: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """The three words that are added in turn."""
    return *key, key[0] ^ key[1] ^ PARITY


def encrypted(key: tuple[Any, Any], counter: tuple[Any, Any], rotated: Callable[[Any, int], Any]) -> tuple[Any, Any]:
    """The words of a block: section 3.2 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2,
    3" (2011). Words are what adds modulo 2**32; `rotated(x, r)`: to the left by r bits."""
    words = schedule(key)
    x, y = counter[0] + words[0], counter[1] + words[1]
    for group in range(GROUPS):
        for r in ROTATIONS[group % 2]:
            x = x + y
            y = rotated(y, r) ^ x
        x, y = x + words[(group + 1) % 3], y + words[(group + 2) % 3] + (group + 1)
    return x, y


def encrypted_number(key: int, counter: int) -> int:
    """The same for one block, in Python's integers, which take a tenth of the time of small arrays."""
    words = schedule((key >> 32, key & MASK))
    x, y = (counter >> 32) + words[0] & MASK, counter + words[1] & MASK
    for group in range(GROUPS):
        for r in ROTATIONS[group % 2]:
            x = x + y & MASK
            y = (y << r & MASK | y >> 32 - r) ^ x
        x, y = x + words[(group + 1) % 3] & MASK, y + words[(group + 2) % 3] + group + 1 & MASK
    return x << 32 | y


def encrypted_array(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """The same for arrays that broadcast, in place."""
    shape = np.broadcast_shapes(key.shape, counter.shape)
    words = schedule(((key >> 32).astype(UINT32), key.astype(UINT32)))
    x = np.add(counter >> 32, words[0], dtype=UINT32, casting="unsafe")
    y = np.add(counter, words[1], dtype=UINT32, casting="unsafe")
    x, y = np.array(np.broadcast_to(x, shape)), np.array(np.broadcast_to(y, shape))
    low = np.empty(shape, UINT32)
    for group in range(GROUPS):
        for r in ROTATIONS[group % 2]:
            x += y
            np.right_shift(y, np.uint32(32 - r), out=low)
            y <<= np.uint32(r)
            y |= low
            y ^= x
        x += words[(group + 1) % 3]
        y += words[(group + 2) % 3] + np.uint32(group + 1)
    return x.astype(UINT64) << np.uint64(32) | y


@defop
class threefry:
    """64 random bits: the counter encrypted with the key, both uint64 and broadcasting, by Threefry-2x32-20.

    The high half of each is the first word of the published algorithm.
    """

    def ref(key, counter):
        key, counter = np.asarray(key), np.asarray(counter)
        shape = np.broadcast_shapes(key.shape, counter.shape)
        if key.size == counter.size == 1:
            return np.full(shape, encrypted_number(key.item(), counter.item()), UINT64)
        with np.errstate(over="ignore"):
            if key.size != 1:
                return encrypted_array(key, counter)
            y, flat, key = np.empty(counter.size, UINT64), counter.ravel(), key.reshape(1)
            for k in range(0, y.size, BLOCK):
                y[k : k + BLOCK] = encrypted_array(key, flat[k : k + BLOCK])
            return y.reshape(shape)

    def type(key, counter):
        for t in (key, counter):
            if t.dtype != UINT64:
                raise DTypeError(f"key and counter must be u64, not {show_dtype(t.dtype)}")
        return Type(UINT64, broadcast_shapes(key.shape, counter.shape))

    def vjp(g, y, key, counter):
        return [None, None]

    def jvp(ts, y, key, counter):
        return None

    def batch(flags, key, counter):
        return threefry(*same_inner_rank(flags, (key, counter)))

    def at(b, i, key, counter):
        return b.op("threefry", *read_aligned(b, i, (key, counter)))

    def sample(rng, dtype):
        shapes = ((), (7, 3)), ((7, 1), (3,)), ((2, 7), ()), ((), ()), ((2,), (2,)), ((1, 1), (3,)), ((), (0,))
        return [(tuple([np.asarray(rng.integers(0, 1 << 64, s, UINT64)) for s in pair]), {}) for pair in shapes]

    elementwise = True
    dtypes = "u"


# -- the derivative of a draw from the gamma distribution -------------------------------------------------------------

FLOAT64 = np.dtype(np.float64)
_X = np.arange(-48, 44) / 12.0  # nodes of the trapezoidal rule after s = scale exp(x - exp(-x))
NODES, NODE_WEIGHTS = np.exp(_X - np.exp(-_X)), np.exp(_X - np.exp(-_X)) * (1 + np.exp(-_X)) / 12.0


def log_gamma_slope(log_z: Any, a: Any) -> Any:
    """d log z / da of a gamma-distributed z at a fixed value of the distribution function F(z; a), as -(dF/da) / (z
    dF/dz): Figurnov, Mohamed and Mnih, "Implicit reparameterization gradients" (2018).

    With t = z e**-s below z (used for z <= a) and t = z e**s above it, this is the integral over s > 0 of
    (s - c) exp(-a s - z expm1(-s)), respectively (s + c) exp(a s - z expm1(s)), where c = log z - digamma(a). Double
    exponential quadrature (Takahasi and Mori 1974) in float64.
    """
    dtype = dtype_of(log_z)
    c, a = cast(log_z, dtype=FLOAT64), cast(a, dtype=FLOAT64)
    z = exp(c)
    above = gt(z, a)
    c = sub(c, polygamma(a, order=0))
    sign, distance = sub(mul(cast(above, dtype=FLOAT64), 2.0), 1.0), abs(sub(z, a))
    scale = div(2.0, add(distance, sqrt(add(mul(distance, distance), mul(z, 2.0)))))
    scale = select(above, log1p(scale), maximum(scale, div(1.0, a)))
    shape = shape_of(c)

    def along(x: Any) -> Any:
        return expand(x, (*shape, NODES.size), (len(shape),))

    s, signs = mul(along(scale), NODES), along(sign)
    exponent = mul(signs, sub(mul(along(a), s), mul(mul(signs, along(z)), expm1(mul(signs, s)))))
    terms = mul(mul(add(s, mul(signs, along(c))), NODE_WEIGHTS), exp(exponent))
    return cast(mul(scale, reduce_sum(terms, axes=(len(shape),))), dtype=dtype)


gamma_path: Op = elementwise(
    "gamma_path",
    lambda log_z, a: np.broadcast_to(log_z, np.broadcast_shapes(np.shape(log_z), np.shape(a))),
    (None, lambda g, y, log_z, a: mul(g, log_gamma_slope(y, stretch(a, shape_of(y))))),
    binary_sample((-2.0, 2.0), (0.5, 2.0)),
    doc="`log_z`, as the logarithm of a draw from the gamma distribution of shape parameter `a`, with which it moves.",
    at=lambda b, dtype, log_z, a: log_z,
)
