"""Convolution over channels-last arrays: one trilinear form, contracted over two of its three arguments.

    T(x, w, g) = sum over n, o, k, ci, co of x[n, o * strides + k * dilation - low, ci] w[k, ci, co] g[n, o, co]

`conv(x, w)` is its derivative for g, `conv_input(g, w)` that for x and `conv_kernel(x, g)` that for w, so that the
derivatives of each are the other two, to any order. With s spatial axes (the length of `strides`) x is
`[*lead, n, *spatial, ci]`, w is `[*lead, *kernel, ci, co]` and g is `[*lead, n, *windows, co]`: `lead` axes are a batch
of independent convolutions, also where they have one, as in a convolution by groups of channels.
Outside of x there are `low` and `high` zeros.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import defop
from tapefuse.ir.ops import windows
from tapefuse.ir.ops.elementwise import add
from tapefuse.ir.ops.family import batch_size, draw, quiet, same_dtype, shape_of, with_batch
from tapefuse.ir.ops.shape import reshape
from tapefuse.ir.types import Shape, Type, show_shape, size

Sizes = tuple[int, ...]


def counts(spatial: Shape, kernel: Shape, strides: Sizes, low: Sizes, high: Sizes, dilation: Sizes) -> Shape:
    """How many windows there are along each spatial axis. Raises ShapeError."""
    if not len(spatial) == len(kernel) == len(strides) == len(low) == len(high) == len(dilation):
        raise ShapeError(f"{len(strides)} strides, but padding {low} and {high}, dilation {dilation}, axes "
                         f"{show_shape(spatial)} and kernel {show_shape(kernel)}: one of each is needed")  # fmt: skip
    return tuple(map(windows.count, spatial, kernel, strides, low, high, dilation))


def _split(shape: Shape, axes: int, batch: int) -> tuple[Shape, Shape, Shape]:
    """(lead, the `batch` axes before the spatial ones and after lead, spatial and after). Raises ShapeError."""
    lead = len(shape) - axes - 2
    if lead < 0:
        raise ShapeError(f"an operand of shape {show_shape(shape)} is too small: {axes} spatial axes need 2 axes more")
    return shape[:lead], shape[lead : lead + batch], shape[lead + batch :]


def _agree(what: str, a: Any, b: Any) -> None:
    if a != b:
        raise ShapeError(f"{what} differ: {a} and {b}; they must be equal: transpose, slice or pad one operand")


def _position(b: Any, o: Any, k: Any, x_spatial: Shape, strides: Sizes, low: Sizes, high: Sizes, dilation: Sizes):
    """(whether it exists or None, index) of element k of window o along all spatial axes."""
    inside, position = None, list(o)
    for axis, n in enumerate(x_spatial):
        before = low[axis] if low[axis] or high[axis] else None
        exists, position[axis] = windows.element(b, o[axis], k[axis], n, strides[axis], before, dilation[axis])
        inside = windows.both(b, inside, exists)
    return inside, tuple(position)


def _where(b: Any, inside: Any, value: Any) -> Any:
    return value if inside is None else b.op("select", inside, value, b.number(0, value.dtype))


def _rows(x: np.ndarray, lead: int) -> np.ndarray:
    """Examples and spatial axes as one: matrices of channels."""
    return x.reshape(*x.shape[:lead], size(x.shape[lead:-1]), x.shape[-1])


def _merged(op: Any, x: Any, w: Any, attrs: dict[str, Any]) -> Any:
    """`op` with a batch axis on `x` only: it is joined with the examples' axis."""
    n, m, *rest = shape_of(x)
    y = op(reshape(x, shape=(n * m, *rest)), w, **attrs)
    return reshape(y, shape=(n, m, *shape_of(y)[1:]))


def _batched(op: Any, flags: Any, x: Any, other: Any, attrs: dict[str, Any]) -> Any:
    """The batch axis as a leading axis of both operands."""
    n = batch_size(flags, (x, other))
    return op(*(v if f else with_batch(v, n) for v, f in zip((x, other), flags, strict=True)), **attrs)


def _sum_of(ts: Any, first: Any, second: Any) -> Any:
    """The tangent of a bilinear function: `first(t)` and `second(t)` are its values with one operand exchanged."""
    terms = [f(t) for f, t in zip((first, second), ts, strict=True) if t is not None]
    return None if not terms else terms[0] if len(terms) == 1 else add(*terms)


_CASES = (  # x without channels, kernel, channels in and out, strides, low, high, dilation
    ((7, 5), (3,), 2, 3, (1,), (1,), (1,), (1,)),
    ((2, 6), (2,), 1, 2, (2,), (0,), (1,), (2,)),
    ((7, 3, 4), (2, 3), 2, 2, (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 5, 4), (2, 3), 1, 3, (2, 1), (0, 2), (1, 0), (1, 1)),
    ((2, 7, 4, 1), (1, 1), 3, 2, (1, 3), (0, 0), (0, 0), (1, 1)),
    ((1, 2, 0, 3), (2, 2), 2, 1, (1, 1), (1, 0), (1, 0), (1, 2)),
    ((3,), (), 2, 2, (), (), (), ()),
)


def _samples(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[Any, Any, Any, Any]]:
    """(x, w, g, attributes of `conv`)"""
    found: list[tuple[Any, Any, Any, Any]] = []
    for shape, kernel, ci, co, strides, low, high, dilation in _CASES:
        lead = shape[: len(shape) - 1 - len(kernel)]
        attrs = {"strides": strides, "low": low, "high": high, "dilation": dilation}
        windows = counts(shape[len(lead) + 1 :], kernel, **attrs)
        shapes = (*shape, ci), (*lead, *kernel, ci, co), (*shape[: len(lead) + 1], *windows, co)
        x, w, g = (draw(rng, dtype, s) for s in shapes)
        found.append((x, w, g, attrs))
    return found


@defop
class conv:
    """y[n, o, co] = sum over k, ci of x[n, o * strides + k * dilation - low, ci] w[k, ci, co]."""

    @quiet
    def ref(x, w, *, strides, low, high, dilation):
        x, w = np.asarray(x), np.asarray(w)
        attrs = {"strides": strides, "low": low, "high": high, "dilation": dilation}
        y = np.zeros(conv.type(Type(x.dtype, x.shape), Type(w.dtype, w.shape), **attrs).shape, x.dtype)
        lead = w.ndim - len(strides) - 2
        x = windows.padded(x, (*[0] * (lead + 1), *low, 0), (*[0] * (lead + 1), *high, 0), 0)
        for k, at in windows.taps(y.shape[lead + 1 : -1], w.shape[lead:-2], strides, dilation):
            part = _rows(x[(slice(None),) * (lead + 1) + at], lead)
            y += (part @ w[(slice(None),) * lead + k]).reshape(y.shape)
        return y

    def type(x, w, *, strides, low, high, dilation):
        dtype = same_dtype([x, w], "fi")
        lead, (n,), (*spatial, ci) = _split(x.shape, len(strides), 1)
        lead_w, _, (*kernel, ci_w, co) = _split(w.shape, len(strides), 0)
        _agree("the channels of the input (its last axis) and of the kernel (its last but one)", ci, ci_w)
        _agree("the leading axes of the input and of the kernel", lead, lead_w)
        return Type(dtype, (*lead, n, *counts(tuple(spatial), tuple(kernel), strides, low, high, dilation), co))

    def vjp(g, y, x, w, **attrs):
        s = len(attrs["strides"])
        spatial, kernel = shape_of(x)[-1 - s : -1], shape_of(w)[-2 - s : -2]
        return [conv_input(g, w, extents=spatial, **attrs), conv_kernel(x, g, extents=kernel, **attrs)]

    def jvp(ts, y, x, w, **attrs):
        return _sum_of(ts, lambda t: conv(t, w, **attrs), lambda t: conv(x, t, **attrs))

    def batch(flags, x, w, **attrs):
        if flags == (True, False) and len(shape_of(w)) == len(attrs["strides"]) + 2:
            return _merged(conv, x, w, attrs)
        return _batched(conv, flags, x, w, attrs)

    def at(b, i, x, w, *, strides, low, high, dilation):
        s, lead = len(strides), len(i) - len(strides) - 2
        o, spatial = i[lead + 1 : -1], x.shape[lead + 1 : -1]

        def term(ks: tuple) -> Any:
            *k, c = ks
            inside, position = _position(b, o, k, spatial, strides, low, high, dilation)
            return _where(b, inside, b.op("mul", x((*i[: lead + 1], *position, c)), w((*i[:lead], *ks, i[-1]))))

        if 0 in spatial:
            return b.number(0, x.dtype)
        return b.reduce("add", x.dtype, w.shape[len(w.shape) - s - 2 : -1], term)

    def sample(rng, dtype):
        return [((x, w), attrs) for x, w, _, attrs in _samples(rng, dtype)]

    library = "conv"
    dtypes = "fi"


@defop
class conv_input:
    """y[n, i, ci] = sum over k, co, o with i = o * strides + k * dilation - low of g[n, o, co] w[k, ci, co].

    The transpose of `conv` for its first operand, whose spatial extents are `extents`.
    """

    @quiet
    def ref(g, w, *, extents, strides, low, high, dilation):
        g, w = np.asarray(g), np.asarray(w)
        lead = w.ndim - len(strides) - 2
        _check_windows(g.shape, w.shape[lead:-2], extents, strides, low, high, dilation)
        wide = tuple(n + a + b for n, a, b in zip(extents, low, high, strict=True))
        y = np.zeros((*g.shape[: lead + 1], *wide, w.shape[-2]), g.dtype)
        rows = _rows(g, lead)
        for k, at in windows.taps(g.shape[lead + 1 : -1], w.shape[lead:-2], strides, dilation):
            part = y[(slice(None),) * (lead + 1) + at]
            part += (rows @ w[(slice(None),) * lead + k].mT).reshape(part.shape)
        inner = tuple(slice(a, a + n) for a, n in zip(low, extents, strict=True))
        return y[(slice(None),) * (lead + 1) + inner]

    def type(g, w, *, extents, strides, low, high, dilation):
        dtype = same_dtype([g, w], "fi")
        lead, (n,), (*_, co) = _split(g.shape, len(strides), 1)
        lead_w, _, (*kernel, ci, co_w) = _split(w.shape, len(strides), 0)
        _agree("the channels of the operand (its last axis) and of the kernel (its last axis)", co, co_w)
        _agree("the leading axes of the operand and of the kernel", lead, lead_w)
        _check_windows(g.shape, tuple(kernel), extents, strides, low, high, dilation)
        return Type(dtype, (*lead, n, *extents, ci))

    def vjp(g, y, h, w, *, extents, **attrs):
        kernel = shape_of(w)[-2 - len(extents) : -2]
        return [conv(g, w, **attrs), conv_kernel(g, h, extents=kernel, **attrs)]

    def jvp(ts, y, g, w, **attrs):
        return _sum_of(ts, lambda t: conv_input(t, w, **attrs), lambda t: conv_input(g, t, **attrs))

    def batch(flags, g, w, **attrs):
        if flags == (True, False) and len(shape_of(w)) == len(attrs["strides"]) + 2:
            return _merged(conv_input, g, w, attrs)
        return _batched(conv_input, flags, g, w, attrs)

    def at(b, i, g, w, *, extents, strides, low, high, dilation):
        s, lead = len(strides), len(i) - len(strides) - 2
        p, kernel, channels = i[lead + 1 : -1], w.shape[lead : lead + s], w.shape[-1]

        def term(ks: tuple) -> Any:
            *k, c = ks
            inside, o = None, list(p)
            for a, n in enumerate(g.shape[lead + 1 : -1]):
                exists, o[a] = windows.window(b, p[a], k[a], n, strides[a], low[a], dilation[a])
                inside = windows.both(b, inside, exists)
            return _where(b, inside, b.op("mul", g((*i[: lead + 1], *o, c)), w((*i[:lead], *k, i[-1], c))))

        return b.reduce("add", g.dtype, (*kernel, channels), term)

    def sample(rng, dtype):
        return [
            ((g, w), {**attrs, "extents": x.shape[x.ndim - 1 - len(attrs["low"]) : -1]})
            for x, w, g, attrs in _samples(rng, dtype)
        ]

    library = "conv"
    dtypes = "fi"


@defop
class conv_kernel:
    """y[k, ci, co] = sum over n, o of x[n, o * strides + k * dilation - low, ci] g[n, o, co].

    The transpose of `conv` for its second operand, whose spatial extents are `extents`.
    """

    @quiet
    def ref(x, g, *, extents, strides, low, high, dilation):
        x, g = np.asarray(x), np.asarray(g)
        lead = x.ndim - len(strides) - 2
        _check_windows(g.shape, extents, x.shape[lead + 1 : -1], strides, low, high, dilation)
        x = windows.padded(x, (*[0] * (lead + 1), *low, 0), (*[0] * (lead + 1), *high, 0), 0)
        y = np.zeros((*x.shape[:lead], *extents, x.shape[-1], g.shape[-1]), x.dtype)
        rows = _rows(g, lead)
        for k, at in windows.taps(g.shape[lead + 1 : -1], extents, strides, dilation):
            part = _rows(x[(slice(None),) * (lead + 1) + at], lead)
            y[(slice(None),) * lead + k] = part.mT @ rows
        return y

    def type(x, g, *, extents, strides, low, high, dilation):
        dtype = same_dtype([x, g], "fi")
        lead, (n,), (*spatial, ci) = _split(x.shape, len(strides), 1)
        lead_g, (n_g,), (*_, co) = _split(g.shape, len(strides), 1)
        _agree("the leading axes of the operands", (*lead, n), (*lead_g, n_g))
        _check_windows(g.shape, extents, tuple(spatial), strides, low, high, dilation)
        return Type(dtype, (*lead, *extents, ci, co))

    def vjp(g, y, x, h, *, extents, **attrs):
        spatial = shape_of(x)[-1 - len(extents) : -1]
        return [conv_input(h, g, extents=spatial, **attrs), conv(x, g, **attrs)]

    def jvp(ts, y, x, g, **attrs):
        return _sum_of(ts, lambda t: conv_kernel(t, g, **attrs), lambda t: conv_kernel(x, t, **attrs))

    def batch(flags, x, g, **attrs):
        return _batched(conv_kernel, flags, x, g, attrs)

    def at(b, i, x, g, *, extents, strides, low, high, dilation):
        s = len(strides)
        lead = len(i) - s - 2
        k, spatial = i[lead:-2], x.shape[lead + 1 : -1]

        def term(ks: tuple) -> Any:
            n, *o = ks
            inside, position = _position(b, o, k, spatial, strides, low, high, dilation)
            return _where(b, inside, b.op("mul", x((*i[:lead], n, *position, i[-2])), g((*i[:lead], *ks, i[-1]))))

        if 0 in spatial:
            return b.number(0, x.dtype)
        return b.reduce("add", x.dtype, g.shape[lead:-1], term)

    def sample(rng, dtype):
        return [
            ((x, g), {**attrs, "extents": w.shape[w.ndim - 2 - len(attrs["low"]) : -2]})
            for x, w, g, attrs in _samples(rng, dtype)
        ]

    library = "conv"
    dtypes = "fi"


def _check_windows(g: Shape, kernel: Shape, spatial: Shape, strides: Sizes, low: Sizes, high: Sizes, dilation: Sizes):
    """That an operand of shape `g` has as many windows along its spatial axes as there are. Raises ShapeError."""
    wanted = counts(tuple(spatial), tuple(kernel), strides, low, high, dilation)
    _agree("the numbers of windows", show_shape(g[len(g) - 1 - len(strides) : -1]), show_shape(wanted))
