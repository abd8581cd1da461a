"""Cutting arrays apart and joining them: slice, pad, concat.

A slice of a symbolic axis may be in bounds for some sizes only; `slice_needs` lists what a program checks when it runs.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from tapefuse._errors import IndexOutOfRangeError, ShapeError
from tapefuse.ir.op import defop
from tapefuse.ir.ops.family import INT64, batch_size, draw, same_dtype, shape_of, with_batch, zeros_like
from tapefuse.ir.types import Dim, Poly, Shape, Type, always_negative, divide_up, show_shape


def _ceil_div(n: Dim, step: Dim) -> Dim:
    """`n / step` rounded up. Raises ShapeError if that is no polynomial of the symbols in `n`."""
    if isinstance(step, Poly):
        raise ShapeError(f"a slice's stride must be a fixed integer, not {step}")
    found = divide_up(n, step)
    if found is None:
        raise ShapeError(f"one element in {step} of {n}: how many that are is known at run time only")
    return found


def slice_needs(shape: Shape, starts: Shape, limits: Shape, strides: Shape) -> list[Dim]:
    """Dimensions that must be >= 0 for a slice to be in bounds: starts, extents, what is left behind the limits."""
    extents = [_ceil_div(b - a, s) for a, b, s in zip(starts, limits, strides, strict=True)]
    return [*starts, *extents, *(n - b for n, b in zip(shape, limits, strict=True))]


def check_slice(shape: Shape, starts: Shape, limits: Shape, strides: Shape) -> None:
    if not len(shape) == len(starts) == len(limits) == len(strides):
        raise ShapeError(f"a slice of rank {len(shape)} needs as many starts, limits and strides")
    if any(always_negative(s - 1) for s in strides):
        raise ShapeError(f"strides {strides} must be positive")
    if any(always_negative(d) for d in slice_needs(shape, starts, limits, strides)):
        raise IndexOutOfRangeError(f"starts {starts} and limits {limits} leave the shape {show_shape(shape)}")


@defop
class slice_:
    """Elements starts, starts + strides, ... below limits of each axis; no negative or clipped bounds."""

    def ref(x, *, starts, limits, strides):
        x = np.asarray(x)
        check_slice(x.shape, starts, limits, strides)
        return x[tuple(slice(a, max(a, b), s) for a, b, s in zip(starts, limits, strides, strict=True))]

    def type(x, *, starts, limits, strides):
        check_slice(x.shape, starts, limits, strides)
        return Type(x.dtype, tuple(_ceil_div(b - a, s) for a, b, s in zip(starts, limits, strides, strict=True)))

    def vjp(g, y, x, *, starts, limits, strides):
        gaps = tuple(s - 1 for s in strides)
        spread = [n + (n - 1) * gap for n, gap in zip(shape_of(g), gaps, strict=True)]
        high = tuple(n - a - m for n, a, m in zip(shape_of(x), starts, spread, strict=True))
        return [pad(g, low=starts, high=high, interior=gaps, value=0)]

    def jvp(ts, y, x, *, starts, limits, strides):
        return slice_(ts[0], starts=starts, limits=limits, strides=strides)

    def batch(flags, x, *, starts, limits, strides):
        return slice_(x, starts=(0, *starts), limits=(shape_of(x)[0], *limits), strides=(1, *strides))

    def at(b, i, x, *, starts, limits, strides):
        def source(k: Any, start: Dim, step: Dim) -> Any:
            k = k if step == 1 else b.op("mul", k, b.dim(step))
            return k if start == 0 else b.op("add", k, b.dim(start))

        return x(tuple(map(source, i, starts, strides)))

    def sample(rng, dtype):
        cases = [((7, 3), (0, 1), (7, 3), (1, 1)), ((6, 7), (1, 0), (6, 7), (2, 1)), ((5,), (2,), (2,), (1,))]
        cases += [((8,), (1,), (8,), (3,)), ((), (), (), ()), ((4,), (4,), (4,), (2,)), ((14,), (1,), (14,), (2,))]
        cases += [((14, 2), (0, 0), (14, 2), (2, 2))]
        names = "starts", "limits", "strides"
        return [((draw(rng, dtype, s),), dict(zip(names, bounds, strict=True))) for s, *bounds in cases]

    linear = True
    dtypes = "fciub"


@defop
class pad:
    """Put `low` and `high` elements of `value` around each axis and `interior` ones between any two neighbours.

    The extent is low + n + (n - 1) interior + high for every n, 0 included: the transpose of a strided slice.
    """

    def ref(x, *, low, high, interior, value):
        x = np.asarray(x)
        result = pad.type(Type(x.dtype, x.shape), low=low, high=high, interior=interior, value=value)
        y = np.full(result.shape, value, x.dtype)
        places = zip(x.shape, low, interior, strict=True)
        y[tuple(slice(a, a + n * (gap + 1), gap + 1) for n, a, gap in places)] = x
        return y

    def type(x, *, low, high, interior, value):
        if not len(x.shape) == len(low) == len(high) == len(interior):
            raise ShapeError(f"padding {x} needs {len(x.shape)} entries each in low, high and interior")
        shape = tuple(a + n + (n - 1) * gap + b for n, a, b, gap in zip(x.shape, low, high, interior, strict=True))
        if any(map(always_negative, (*low, *high, *interior, *shape))):
            raise ShapeError(f"padding of {x} must not be negative: low {low}, high {high}, interior {interior}")
        return Type(x.dtype, shape)

    def vjp(g, y, x, *, low, high, interior, value):
        spread = (n + (n - 1) * gap for n, gap in zip(shape_of(x), interior, strict=True))
        limits = tuple(a + m for a, m in zip(low, spread, strict=True))
        return [slice_(g, starts=low, limits=limits, strides=tuple(gap + 1 for gap in interior))]

    def jvp(ts, y, x, *, low, high, interior, value):
        return pad(ts[0], low=low, high=high, interior=interior, value=0)

    def batch(flags, x, *, low, high, interior, value):
        return pad(x, low=(0, *low), high=(0, *high), interior=(0, *interior), value=value)

    def at(b, i, x, *, low, high, interior, value):
        outside = b.number(value, x.dtype)
        if 0 in x.shape:
            return outside
        all_inside, index = None, []
        for k, n, lo, hi, gap in zip(i, x.shape, low, high, interior, strict=True):
            inside, position = unpadded(b, k, n, lo, hi == 0, gap)
            index.append(position if inside is None else b.inside(inside, position, n))
            if inside is not None:
                all_inside = inside if all_inside is None else b.op("and", all_inside, inside)
        element = x(tuple(index))
        return element if all_inside is None else b.op("select", all_inside, element, outside)

    def sample(rng, dtype):
        cases = [((7, 3), (1, 0), (0, 2), (0, 0)), ((3, 7), (0, 1), (1, 0), (2, 1)), ((4,), (0,), (0,), (0,))]
        cases += [((), (), (), ()), ((0,), (2,), (1,), (1,)), ((1, 2), (1, 1), (6, 1), (3, 0))]
        names = "low", "high", "interior"
        value = dtype.type(1)
        return [((draw(rng, dtype, s),), dict(zip(names, p, strict=True), value=value.item())) for s, *p in cases]

    dtypes = "fciub"


def unpadded(b: Any, k: Any, n: Dim, low: Dim, is_last: bool, gap: Dim) -> tuple[Any, Any]:
    """Whether index `k` of an axis padded by `low`, `gap` and, unless its last element `is_last`, behind it holds an
    element of the operand (None: always), and which."""
    conditions = []
    if low != 0:
        k = b.op("sub", k, b.dim(low))
        conditions.append(b.op("ge", k, b.number(0, INT64)))
    if not is_last:
        conditions.append(b.op("lt", k, b.dim(n * (gap + 1))))
    if gap != 0:
        conditions.append(b.op("eq", b.op("mod", k, b.dim(gap + 1)), b.number(0, INT64)))
        k = b.op("floordiv", k, b.dim(gap + 1))
    inside = None
    for c in conditions:
        inside = c if inside is None else b.op("and", inside, c)
    return inside, k


@defop
class concat:
    """Operands of one dtype one after the other along `axis`; all other extents are equal."""

    def ref(*xs, axis):
        return np.concatenate(xs, axis)

    def type(*xs, axis):
        if not xs or not 0 <= axis < len(xs[0].shape):
            raise ShapeError(f"axis {axis} must be an axis of every operand, and there must be one")
        first = xs[0].shape
        if any(len(x.shape) != len(first) or _without(x.shape, axis) != _without(first, axis) for x in xs):
            raise ShapeError(
                f"shapes {', '.join(show_shape(x.shape) for x in xs)} differ outside axis {axis}; only the axis that "
                "is joined may differ: choose another axis, or reshape or slice the operands"
            )
        return Type(same_dtype(xs, "fciub"), (*first[:axis], sum(x.shape[axis] for x in xs), *first[axis + 1 :]))

    def vjp(g, y, *xs, axis):
        shape, cotangents, start = shape_of(g), [], 0
        for x in xs:
            limit = start + shape_of(x)[axis]
            starts = tuple(start if a == axis else 0 for a in range(len(shape)))
            limits = tuple(limit if a == axis else n for a, n in enumerate(shape))
            cotangents.append(slice_(g, starts=starts, limits=limits, strides=(1,) * len(shape)))
            start = limit
        return cotangents

    def jvp(ts, y, *xs, axis):
        return concat(*(zeros_like(x) if t is None else t for t, x in zip(ts, xs, strict=True)), axis=axis)

    def batch(flags, *xs, axis):
        n = batch_size(flags, xs)
        return concat(*(x if f else with_batch(x, n) for f, x in zip(flags, xs, strict=True)), axis=axis + 1)

    def at(b, i, *xs, axis):
        ends = list(accumulate(x.shape[axis] for x in xs))
        pieces = [(x, end - x.shape[axis], end) for x, end in zip(xs, ends, strict=True) if x.shape[axis] != 0]
        if not pieces:
            return xs[0](i)
        result = None
        for x, start, end in reversed(pieces):
            below = b.op("lt", i[axis], b.dim(end)) if result is not None else None
            element = x((*i[:axis], _within(b, i[axis], start, below, x.shape[axis]), *i[axis + 1 :]))
            result = element if below is None else b.op("select", below, element, result)
        return result

    def sample(rng, dtype):
        cases = [(((7, 3), (7, 2)), 1), (((2,), (3,), (7,)), 0), (((2, 2),), 0), (((2, 0), (2, 1)), 1)]
        cases += [(((7,), (7,)), 0), (((0, 2), (0, 2)), 0), (((2, 1), (2, 3)), 1)]
        return [(tuple(draw(rng, dtype, s) for s in shapes), {"axis": axis}) for shapes, axis in cases]

    dtypes = "fciub"


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _within(b: Any, k: Any, start: Dim, below: Any, extent: Dim) -> Any:
    """Index `k` seen by the operand that begins at `start`; 0 for a `k` not its own."""
    inside = below
    if start == 0:
        local = k
    else:
        local = b.op("sub", k, b.dim(start))
        after = b.op("ge", local, b.number(0, INT64))
        inside = after if below is None else b.op("and", after, below)
    return local if inside is None else b.inside(inside, local, extent)
