"""Reductions over windows that slide over an array, and the moves that are their derivatives.

`window`, `strides`, `low` and `high` have one entry per axis; padding counts as no element. A maximum's derivative goes
to the first element of a window that equals it: `window_argmax` says which that is, `window_place` puts a value per
window there, and `window_pick`, its transpose, gets one from there.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import defop
from tapefuse.ir.ops import windows
from tapefuse.ir.ops.family import INT64, batch_size, draw, quiet, same_dtype, shape_of, with_batch
from tapefuse.ir.types import Shape, Type, show_dtype, show_shape

Sizes = tuple[int, ...]


def counts(shape: Shape, window: Sizes, strides: Sizes, low: Sizes, high: Sizes) -> Shape:
    """The shape of the windows' results. Raises ShapeError."""
    if not len(shape) == len(window) == len(strides) == len(low) == len(high):
        raise ShapeError(f"{show_shape(shape)} needs a window, a stride and paddings for each of its {len(shape)} axes")
    if any(max(a, b) >= w for a, b, w in zip(low, high, window, strict=True)):
        raise ShapeError(f"padding {low} and {high} must be less than the window {window}: each needs an element")
    return tuple(map(windows.count, shape, window, strides, low, high))


def index_dtype(window: Sizes) -> np.dtype:
    """Of the position in a window: the smaller the better, it is read instead of the array that was pooled."""
    return np.dtype(np.uint8 if prod(window) <= 256 else np.int32)


def lowest(dtype: np.dtype) -> Any:
    return -np.inf if kind_of(dtype) == "f" else np.iinfo(dtype).min


def _taps(x: np.ndarray, fill: Any, window: Sizes, strides: Sizes, low: Sizes, high: Sizes):
    """Pairs of a position in the window and the elements that all windows have there."""
    sizes = counts(x.shape, window, strides, low, high)
    x = windows.padded(x, low, high, fill)
    return ((n, x[at]) for n, (_, at) in enumerate(windows.taps(sizes, window, strides, (1,) * x.ndim)))


def _moving(window: Sizes, strides: Sizes) -> tuple[int, ...]:
    """The axes along which a window has more elements than one, or skips some."""
    return tuple(a for a, (w, s) in enumerate(zip(window, strides, strict=True)) if w > 1 or s > 1)


def _element(b: Any, o: tuple, ks: tuple, x: Any, axes: tuple, strides: Sizes, low: Sizes, high: Sizes):
    """(condition, index) of element ks (along `axes`) of window o of `x`."""
    inside, index = None, list(o)
    for a, k in zip(axes, ks, strict=True):
        before = low[a] if low[a] or high[a] else None
        exists, index[a] = windows.element(b, o[a], k, x.shape[a], strides[a], before)
        inside = windows.both(b, inside, exists)
    return inside, tuple(index)


def _windows_of(b: Any, i: tuple, shape: Shape, results: Shape, window: Sizes, strides: Sizes, low: Sizes):
    """The windows that have element i: `extents` to choose from along each axis where windows overlap, and a function
    from such a choice to (condition, number of the window, position in it along each axis)."""
    axes = _moving(window, strides)
    overlapping = [a for a in axes if window[a] > strides[a]]

    def chosen(ks: tuple) -> tuple[Any, tuple, list[Any]]:
        inside, number, position = None, list(i), [b.number(0, INT64)] * len(i)
        choice = dict(zip(overlapping, ks, strict=True))
        for a in axes:
            if a in choice:
                position[a] = choice[a]
                exists, number[a] = windows.window(b, i[a], choice[a], results[a], strides[a], low[a])
            else:
                found = _only_window(b, i[a], shape[a], results[a], window[a], strides[a], low[a])
                exists, number[a], position[a] = found
            inside = windows.both(b, inside, exists)
        return inside, tuple(number), position

    return tuple(window[a] for a in overlapping), chosen


def _only_window(b: Any, i: Any, n: Any, count: Any, window: int, stride: int, low: int) -> tuple[Any, Any, Any]:
    """(condition, number, position) of the one window that can have element i where windows do not overlap."""
    i = b.op("add", i, b.dim(low))
    number, position = b.op("floordiv", i, b.dim(stride)), b.op("mod", i, b.dim(stride))
    inside = None if window == stride else b.op("lt", position, b.dim(window))
    if not windows.is_covered(n, count, stride, low):
        inside = windows.both(b, inside, b.op("lt", number, b.dim(count)))
    return inside, number if inside is None else b.inside(inside, number, count), position


def _flat(b: Any, position: Any, window: Sizes) -> Any:
    """A position in a window as one number, row-major."""
    total, step = b.number(0, INT64), 1
    for k, w in reversed(list(zip(position, window, strict=True))):
        total = b.op("add", total, b.op("mul", k, b.number(step, INT64)) if step > 1 else k)
        step *= w
    return total


_CASES = (  # shape, window, strides, low, high
    ((7, 4, 2), (1, 2, 1), (1, 2, 1), (0, 0, 0), (0, 0, 0)),
    ((7, 5, 4, 2), (1, 2, 2, 1), (1, 2, 2, 1), (0, 0, 0, 0), (0, 0, 0, 0)),
    ((2, 7), (1, 3), (1, 1), (0, 1), (0, 1)),
    ((2, 5, 5), (1, 3, 2), (1, 2, 3), (0, 1, 0), (0, 1, 1)),
    ((6, 6), (5, 4), (1, 1), (0, 2), (0, 3)),
    ((2, 8), (1, 2), (1, 3), (0, 1), (0, 1)),  # windows apart from each other, the first one half outside
    ((2, 9, 4), (1, 2, 2), (2, 3, 3), (0, 1, 0), (0, 0, 0)),  # elements behind the last window, and between two
    ((2, 7), (1, 2), (1, 1), (0, 0), (0, 1)),
    ((), (), (), (), ()),
)
_NAMES = "window", "strides", "low", "high"


def _samples(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Arrays without ties, so that maxima are smooth, and attributes."""
    found = []
    for shape, *attrs in _CASES:
        x = rng.permutation(prod(shape)).reshape(shape) - prod(shape) // 3
        found.append((np.asarray(x / 8 if kind_of(dtype) == "f" else x, dtype), dict(zip(_NAMES, attrs, strict=True))))
    return found


@defop
class window_max:
    """The maximum of each window, nan if it has one."""

    @quiet
    def ref(x, **attrs):
        x = np.asarray(x)
        y = np.full(counts(x.shape, **attrs), lowest(x.dtype), x.dtype)
        for _, tap in _taps(x, lowest(x.dtype), **attrs):
            y = np.maximum(y, tap)
        return y

    def type(x, **attrs):
        return Type(same_dtype([x], "fi"), counts(x.shape, **attrs))

    def vjp(g, y, x, **attrs):
        return [window_place(g, window_argmax(x, **attrs), shape=shape_of(x), **attrs)]

    def jvp(ts, y, x, **attrs):
        return window_pick(ts[0], window_argmax(x, **attrs), **attrs)

    def batch(flags, x, **attrs):
        return window_max(x, **_with_axis(attrs))

    def at(b, i, x, *, window, strides, low, high):
        return _maximum(b, i, x, window, strides, low, high)

    def sample(rng, dtype):
        return [((x,), attrs) for x, attrs in _samples(rng, dtype)]

    dtypes = "fi"


def _with_axis(attrs: dict[str, Any]) -> dict[str, Any]:
    """Attributes with an entry for a leading batch axis."""
    return {name: ((0 if name in ("low", "high") else 1), *attrs[name]) for name in _NAMES}


def _maximum(b: Any, i: tuple, x: Any, window: Sizes, strides: Sizes, low: Sizes, high: Sizes) -> Any:
    axes = _moving(window, strides)

    def element(ks: tuple) -> Any:
        inside, index = _element(b, i, ks, x, axes, strides, low, high)
        value = x(index)
        return value if inside is None else b.op("select", inside, value, b.number(lowest(x.dtype), x.dtype))

    return windows.over(b, "maximum", x.dtype, tuple(window[a] for a in axes), element)


@defop
class window_argmax:
    """Where in each window its first maximum (or nan) stands: its number in row-major order."""

    @quiet
    def ref(x, **attrs):
        x = np.asarray(x)
        best, found = window_max.ref(x, **attrs), index_dtype(attrs["window"])
        y = np.zeros(best.shape, found)
        real = [tap for _, tap in _taps(np.ones(x.shape, bool), False, **attrs)]
        for n, tap in reversed(list(_taps(x, lowest(x.dtype), **attrs))):
            y = np.where(real[n] & ((tap == best) | (tap != tap)), found.type(n), y)
        return y

    def type(x, **attrs):
        same_dtype([x], "fi")
        return Type(index_dtype(attrs["window"]), counts(x.shape, **attrs))

    def vjp(g, y, x, **attrs):
        return [None]

    def jvp(ts, y, x, **attrs):
        return None

    def batch(flags, x, **attrs):
        return window_argmax(x, **_with_axis(attrs))

    def at(b, i, x, *, window, strides, low, high):
        axes, dtype = _moving(window, strides), index_dtype(window)
        best, last = _maximum(b, i, x, window, strides, low, high), b.number(prod(window) - 1, dtype)

        def candidate(ks: tuple) -> Any:
            inside, index = _element(b, i, ks, x, axes, strides, low, high)
            value, position = x(index), [b.number(0, INT64)] * len(i)
            for a, k in zip(axes, ks, strict=True):
                position[a] = k
            hit = b.op("eq", value, best)
            if kind_of(x.dtype) == "f":
                hit = b.op("or", hit, b.op("ne", value, value))
            number = b.cast(_flat(b, position, window), dtype)
            return b.op("select", windows.both(b, inside, hit), number, last)

        return windows.over(b, "minimum", dtype, tuple(window[a] for a in axes), candidate)

    def sample(rng, dtype):
        return [((x,), attrs) for x, attrs in _samples(rng, dtype)]

    dtypes = "fi"


def _check_index(v: Type, index: Type, shape: Shape, attrs: dict[str, Any]) -> np.dtype:
    """Types of a value and a position for each window over `shape`. Raises ShapeError and DTypeError."""
    if index.dtype != index_dtype(attrs["window"]):
        raise DTypeError(f"positions must be {show_dtype(index_dtype(attrs['window']))}, as window_argmax gives them")
    wanted = counts(shape, **attrs)
    if v.shape != wanted or index.shape != wanted:
        raise ShapeError(f"windows over {show_shape(shape)} need operands of shape {show_shape(wanted)}: {v}, {index}")
    return same_dtype([v], "fi")


@defop
class window_place:
    """Zeros of `shape`, but each window's value added at the position in it that `index` names."""

    @quiet
    def ref(v, index, *, shape, window, strides, low, high):
        v, index = np.asarray(v), np.asarray(index)
        wide = tuple(n + a + b for n, a, b in zip(shape, low, high, strict=True))
        y = np.zeros(wide, v.dtype)
        for n, (_, at) in enumerate(windows.taps(v.shape, window, strides, (1,) * v.ndim)):
            y[at] += np.where(index == n, v, v.dtype.type(0))
        return y[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]

    def type(v, index, *, shape, **attrs):
        return Type(_check_index(v, index, shape, attrs), shape)

    def vjp(g, y, v, index, *, shape, **attrs):
        return [window_pick(g, index, **attrs), None]

    def jvp(ts, y, v, index, *, shape, **attrs):
        return None if ts[0] is None else window_place(ts[0], index, shape=shape, **attrs)

    def batch(flags, v, index, *, shape, **attrs):
        n = batch_size(flags, (v, index))
        v, index = (x if f else with_batch(x, n) for x, f in zip((v, index), flags, strict=True))
        return window_place(v, index, shape=(n, *shape), **_with_axis(attrs))

    def at(b, i, v, index, *, shape, window, strides, low, high):
        extents, chosen = _windows_of(b, i, shape, v.shape, window, strides, low)
        zero = b.number(0, v.dtype)

        def term(ks: tuple) -> Any:
            inside, number, position = chosen(ks)
            hit = b.op("eq", index(number), b.cast(_flat(b, position, window), index.dtype))
            return b.op("select", windows.both(b, inside, hit), v(number), zero)

        return zero if 0 in v.shape else windows.over(b, "add", v.dtype, extents, term)

    def sample(rng, dtype):
        return [
            ((draw(rng, dtype, index.shape), index), {**attrs, "shape": x.shape})
            for x, index, attrs in _with_positions(rng, dtype)
        ]

    dtypes = "fi"


def _with_positions(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[Any, Any, dict[str, Any]]]:
    return [(x, window_argmax.ref(x, **attrs), attrs) for x, attrs in _samples(rng, dtype)]


@defop
class window_pick:
    """Of each window the element at the position that `index` names; 0 if that is padding."""

    def ref(x, index, **attrs):
        x, index = np.asarray(x), np.asarray(index)
        y = np.zeros(index.shape, x.dtype)
        for n, tap in _taps(x, x.dtype.type(0), **attrs):
            y = np.where(index == n, tap, y)
        return y

    def type(x, index, **attrs):
        v = Type(x.dtype, counts(x.shape, **attrs))
        return Type(_check_index(v, index, x.shape, attrs), v.shape)

    def vjp(g, y, x, index, **attrs):
        return [window_place(g, index, shape=shape_of(x), **attrs), None]

    def jvp(ts, y, x, index, **attrs):
        return None if ts[0] is None else window_pick(ts[0], index, **attrs)

    def batch(flags, x, index, **attrs):
        n = batch_size(flags, (x, index))
        x, index = (v if f else with_batch(v, n) for v, f in zip((x, index), flags, strict=True))
        return window_pick(x, index, **_with_axis(attrs))

    def at(b, i, x, index, *, window, strides, low, high):
        axes, zero, where = _moving(window, strides), b.number(0, x.dtype), index(i)

        def term(ks: tuple) -> Any:
            inside, place = _element(b, i, ks, x, axes, strides, low, high)
            position = [b.number(0, INT64)] * len(i)
            for a, k in zip(axes, ks, strict=True):
                position[a] = k
            hit = b.op("eq", where, b.cast(_flat(b, position, window), index.dtype))
            return b.op("select", windows.both(b, inside, hit), x(place), zero)

        return windows.over(b, "add", x.dtype, tuple(window[a] for a in axes), term)

    def sample(rng, dtype):
        return [((x, index), attrs) for x, index, attrs in _with_positions(rng, dtype)]

    dtypes = "fi"


@defop
class window_sum:
    """The sum of each window."""

    @quiet
    def ref(x, **attrs):
        x = np.asarray(x)
        y = np.zeros(counts(x.shape, **attrs), x.dtype)
        for _, tap in _taps(x, x.dtype.type(0), **attrs):
            y = y + tap
        return y

    def type(x, **attrs):
        return Type(same_dtype([x], "fi"), counts(x.shape, **attrs))

    def vjp(g, y, x, **attrs):
        return [window_spread(g, shape=shape_of(x), **attrs)]

    def jvp(ts, y, x, **attrs):
        return window_sum(ts[0], **attrs)

    def batch(flags, x, **attrs):
        return window_sum(x, **_with_axis(attrs))

    def at(b, i, x, *, window, strides, low, high):
        axes, zero = _moving(window, strides), b.number(0, x.dtype)

        def term(ks: tuple) -> Any:
            inside, index = _element(b, i, ks, x, axes, strides, low, high)
            return x(index) if inside is None else b.op("select", inside, x(index), zero)

        return windows.over(b, "add", x.dtype, tuple(window[a] for a in axes), term)

    def sample(rng, dtype):
        return [((x,), attrs) for x, attrs in _samples(rng, dtype)]

    dtypes = "fi"


@defop
class window_spread:
    """Each element of `shape` is the sum of the values of the windows that have it: the transpose of `window_sum`."""

    @quiet
    def ref(v, *, shape, window, strides, low, high):
        v = np.asarray(v)
        y = np.zeros(tuple(n + a + b for n, a, b in zip(shape, low, high, strict=True)), v.dtype)
        for _, at in windows.taps(v.shape, window, strides, (1,) * v.ndim):
            y[at] += v
        return y[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]

    def type(v, *, shape, **attrs):
        wanted = counts(shape, **attrs)
        if v.shape != wanted:
            raise ShapeError(f"windows over {show_shape(shape)} need an operand of shape {show_shape(wanted)}, not {v}")
        return Type(same_dtype([v], "fi"), shape)

    def vjp(g, y, v, *, shape, **attrs):
        return [window_sum(g, **attrs)]

    def jvp(ts, y, v, *, shape, **attrs):
        return window_spread(ts[0], shape=shape, **attrs)

    def batch(flags, v, *, shape, **attrs):
        return window_spread(v, shape=(shape_of(v)[0], *shape), **_with_axis(attrs))

    def at(b, i, v, *, shape, window, strides, low, high):
        extents, chosen = _windows_of(b, i, shape, v.shape, window, strides, low)
        zero = b.number(0, v.dtype)

        def term(ks: tuple) -> Any:
            inside, number, _ = chosen(ks)
            return v(number) if inside is None else b.op("select", inside, v(number), zero)

        return zero if 0 in v.shape else windows.over(b, "add", v.dtype, extents, term)

    def sample(rng, dtype):
        return [
            ((draw(rng, dtype, counts(x.shape, **attrs)),), {**attrs, "shape": x.shape})
            for x, attrs in _samples(rng, dtype)
        ]

    dtypes = "fi"
