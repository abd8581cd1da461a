"""Ops that rename indices: reshape, transpose, broadcast, flip; and arrays made of indices: iota, basis, dim."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from operator import mul as times
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import OPS, defop
from tapefuse.ir.ops.family import INT64, check_axes, draw, shape_of
from tapefuse.ir.types import Shape, Type, show_dtype, show_shape, size


def _groups(new: Shape, old: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of axes of `new` and of `old` that hold the same elements: [6,B] and [2,3,B] give ([0], [0,1]), ([1], [2]).

    Two runs end together wherever the products of the extents so far are equal. Behind the last run there may be
    extents of 1, or beside one of 0 any others.
    """
    ends = list(accumulate(old, times))
    first_new = first_old = 0
    for k, product in enumerate(accumulate(new, times)):
        if product in ends[first_old:]:
            last = ends.index(product, first_old)
            yield list(range(first_new, k + 1)), list(range(first_old, last + 1))
            first_new, first_old = k + 1, last + 1


def _regroup(b: Any, index: list, extents: list, wanted: list) -> list:
    """The index into `wanted` extents of the element that has `index` among `extents` (same number, row-major)."""
    if extents == wanted:
        return index
    flat = None
    for k, n in zip(index, extents, strict=True):
        flat = k if flat is None else b.op("add", b.op("mul", flat, b.dim(n)), k)
    out = []
    for axis, n in enumerate(wanted):
        stride = size(wanted[axis + 1 :])
        k = flat if stride == 1 else b.op("floordiv", flat, b.dim(stride))
        out.append(k if axis == 0 else b.op("mod", k, b.dim(n)))
    return out


@defop
class reshape:
    """The same elements in row-major order in a new shape."""

    def ref(x, *, shape):
        return np.asarray(x).reshape(shape)

    def type(x, *, shape):
        if size(x.shape) != size(shape):
            raise ShapeError(
                f"{x} has {size(x.shape)} elements, the new shape {show_shape(shape)} has {size(shape)}; the "
                "numbers must be equal, and one extent may be -1 for what is left"
            )
        return Type(x.dtype, tuple(shape))

    def vjp(g, y, x, *, shape):
        return [reshape(g, shape=shape_of(x))]

    def jvp(ts, y, x, *, shape):
        return reshape(ts[0], shape=shape)

    def batch(flags, x, *, shape):
        return reshape(x, shape=(shape_of(x)[0], *shape))

    def at(b, i, x, *, shape):
        index = [b.number(0, INT64)] * len(x.shape)  # what an axis of extent 1 gets
        for news, olds in _groups(shape, x.shape):
            news, olds = ([a for a in axes if s[a] != 1] for axes, s in ((news, shape), (olds, x.shape)))
            if news:  # else the old ones are of extent 1 too, or beside one of 0 where nothing is read
                found = _regroup(b, [i[a] for a in news], [shape[a] for a in news], [x.shape[a] for a in olds])
                for a, k in zip(olds, found, strict=True):
                    index[a] = k
        return x(tuple(index))

    def sample(rng, dtype):
        cases = [((3, 4), (2, 6)), ((7, 6), (7, 2, 3)), ((2, 1, 3, 7), (6, 1, 7)), ((6,), (1, 3, 2)), ((), (1, 1))]
        cases += [((2, 7, 3), (14, 3)), ((1,), ()), ((4, 6), (3, 8)), ((0, 3), (3, 0, 2)), ((0, 3), (0,))]
        cases += [((3, 2), (2, 3)), ((0, 3), (0, 1))]
        return [((draw(rng, dtype, old),), {"shape": new}) for old, new in cases]

    linear = True
    dtypes = "fciub"


@defop
class transpose:
    """Axes in another order: result axis k is operand axis perm[k]."""

    def ref(x, *, perm):
        return np.asarray(x).transpose(perm)

    def type(x, *, perm):
        if sorted(perm) != list(range(len(x.shape))):
            raise ShapeError(f"perm {perm} must name each axis of {x} once")
        return Type(x.dtype, tuple(x.shape[p] for p in perm))

    def vjp(g, y, x, *, perm):
        return [transpose(g, perm=tuple(perm.index(k) for k in range(len(perm))))]

    def jvp(ts, y, x, *, perm):
        return transpose(ts[0], perm=perm)

    def batch(flags, x, *, perm):
        return transpose(x, perm=(0, *(p + 1 for p in perm)))

    def at(b, i, x, *, perm):
        return x(tuple(i[perm.index(k)] for k in range(len(perm))))

    def sample(rng, dtype):
        cases = ((2, 7, 3), (2, 0, 1)), ((7, 3), (1, 0)), ((), ())
        return [((draw(rng, dtype, s),), {"perm": perm}) for s, perm in cases]

    linear = True
    dtypes = "fciub"


@defop
class broadcast:
    """Repeat along inserted axes: operand axis k becomes axis axes[k] of the result, which has shape `shape`."""

    def ref(x, *, shape, axes):
        x = np.asarray(x)
        aligned = x.reshape([n if a in axes else 1 for a, n in enumerate(shape)]) if axes else x
        if size(shape) > 4096:
            return np.broadcast_to(aligned, shape)
        y = np.empty(shape, x.dtype)  # of few elements sooner done than the view
        y[...] = aligned
        return y

    def type(x, *, shape, axes):
        check_axes(axes, len(shape))
        if x.shape != tuple(shape[a] for a in axes):
            raise ShapeError(f"axes {axes} of the result shape {show_shape(shape)} must have the extents of {x}")
        return Type(x.dtype, tuple(shape))

    def vjp(g, y, x, *, shape, axes):
        return [OPS["reduce_sum"](g, axes=tuple(a for a in range(len(shape)) if a not in axes))]

    def jvp(ts, y, x, *, shape, axes):
        return broadcast(ts[0], shape=shape, axes=axes)

    def batch(flags, x, *, shape, axes):
        return broadcast(x, shape=(shape_of(x)[0], *shape), axes=(0, *(a + 1 for a in axes)))

    def at(b, i, x, *, shape, axes):
        return x(tuple(i[a] for a in axes))

    def sample(rng, dtype):
        cases = ((3,), (7, 3, 4), (1,)), ((), (2, 7), ()), ((7, 2), (7, 2), (0, 1)), ((2, 7), (2, 1, 7), (0, 2))
        return [((draw(rng, dtype, s),), {"shape": shape, "axes": axes}) for s, shape, axes in cases]

    linear = True
    dtypes = "fciub"


@defop
class flip:
    """Reverse the order along `axes`."""

    def ref(x, *, axes):
        return np.flip(x, axes)

    def type(x, *, axes):
        check_axes(axes, len(x.shape))
        return x

    def vjp(g, y, x, *, axes):
        return [flip(g, axes=axes)]

    def jvp(ts, y, x, *, axes):
        return flip(ts[0], axes=axes)

    def batch(flags, x, *, axes):
        return flip(x, axes=tuple(a + 1 for a in axes))

    def at(b, i, x, *, axes):
        return x(tuple(b.op("sub", b.dim(x.shape[a] - 1), k) if a in axes else k for a, k in enumerate(i)))

    def sample(rng, dtype):
        cases = ((7, 3), (0,)), ((2, 3, 7), (1, 2)), ((3,), ())
        return [((draw(rng, dtype, s),), {"axes": axes}) for s, axes in cases]

    linear = True
    dtypes = "fciub"


def _no_cotangents(g, y, **attrs):
    return []


def _no_tangent(ts, y, **attrs):
    return None


def _no_batch(flags, **attrs):
    raise TypeError("an op without operands has no batch axis")


@defop
class iota:
    """The index along `axis` of an array: shape=(2, 3), axis=1 gives [[0, 1, 2], [0, 1, 2]]."""

    def ref(*, shape, axis, dtype):
        counts = np.arange(shape[axis]).astype(dtype)
        return np.broadcast_to(counts.reshape(shape[axis], *[1] * (len(shape) - 1 - axis)), shape)

    def type(*, shape, axis, dtype):
        check_axes((axis,), len(shape))
        return Type(np.dtype(dtype), tuple(shape))

    vjp, jvp, batch = _no_cotangents, _no_tangent, _no_batch

    def at(b, i, *, shape, axis, dtype):
        return b.cast(i[axis], np.dtype(dtype))

    def sample(rng, dtype):
        cases = ((7,), 0), ((2, 7), 1), ((7, 3), 0), ((0,), 0)
        return [((), {"shape": s, "axis": a, "dtype": np.dtype(dtype)}) for s, a in cases]

    dtypes = "fiu"


@defop
class basis:
    """All arrays of a shape with one 1 among zeros: y[k, i...] = 1 where i is the k-th index in row-major order."""

    def ref(*, shape, dtype):
        n = size(shape)
        return np.eye(n, dtype=dtype).reshape(n, *shape)

    def type(*, shape, dtype):
        return Type(np.dtype(dtype), (size(shape), *shape))

    vjp, jvp, batch = _no_cotangents, _no_tangent, _no_batch

    def at(b, i, *, shape, dtype):
        axes = [a for a, n in enumerate(shape) if n != 1]
        number = _regroup(b, [i[1 + a] for a in axes], [shape[a] for a in axes], [size(shape)]) if axes else [i[0]]
        hit = b.op("eq", i[0], number[0])
        return b.op("select", hit, b.number(1, np.dtype(dtype)), b.number(0, np.dtype(dtype)))

    def sample(rng, dtype):
        return [((), {"shape": s, "dtype": np.dtype(dtype)}) for s in ((7,), (2, 7), (7, 1, 2), (), (1,), (0, 2))]

    dtypes = "fiu"


@defop
class empty:
    """An array that is written before it is read, as a loop's stack of rows is: its elements are not defined.

    The interpreter fills it with nan and smallest integers, so that nobody reads it unnoticed. In compiled programs it
    is memory alone.
    """

    def ref(*, shape, dtype):
        dtype = np.dtype(dtype)
        return np.full(shape, np.iinfo(dtype).min if dtype.kind in "iu" else dtype.type(np.nan), dtype)

    def type(*, shape, dtype):
        return Type(np.dtype(dtype), tuple(shape))

    vjp, jvp, batch = _no_cotangents, _no_tangent, _no_batch

    def at(b, i, *, shape, dtype):
        return b.number(0, np.dtype(dtype))

    def sample(rng, dtype):
        return [((), {"shape": shape, "dtype": np.dtype(dtype)}) for shape in ((0,), (7, 0))]

    interned = False  # each is memory of its own
    dtypes = "fciub"


@defop
class dim:
    """A dimension, symbolic perhaps, as a 0-d number."""

    def ref(*, value, dtype):
        return np.asarray(value, dtype)

    def type(*, value, dtype):
        dtype = np.dtype(dtype)
        if kind_of(dtype) not in "fiu":
            raise ShapeError(f"a dimension is a number, not {show_dtype(dtype)}")
        return Type(dtype, ())

    vjp, jvp, batch = _no_cotangents, _no_tangent, _no_batch

    def at(b, i, *, value, dtype):
        return b.cast(b.dim(value), np.dtype(dtype))

    def sample(rng, dtype):
        return [((), {"value": n, "dtype": np.dtype(dtype)}) for n in (7, 3)]

    dtypes = "fiu"
