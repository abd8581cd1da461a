"""Discrete Fourier transforms along an axis of complex numbers, whose two parts stand along the last axis.

`dft` takes complex numbers to complex numbers, `rdft` real ones to the first half of their spectrum, `irdft` such a
half back. All three are linear and each other's transposes: sums over j of x[j] exp(-2 pi i j k / n), with +2 pi i if
inverse, times a scale that `norm` names as in `numpy.fft`. `pairs` and `from_pairs` lead from complex numbers to their
parts and back. Compiled, the transforms are calls of NumPy's own loops.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import OPS, defop
from tapefuse.ir.ops.family import INT64, check_axes, draw, nullary, quiet, same_dtype, shape_of
from tapefuse.ir.ops.shape import dim, iota
from tapefuse.ir.types import Dim, Poly, Shape, Type, complex_dtype, divide, real_dtype, size

TRANSPOSED = {"backward": "forward", "ortho": "ortho", "forward": "backward"}  # same scale, the other way
TERMS = 10  # multiply-adds that take as long as an element of a transform of two points: 0.6 ns


def bins(n: Dim) -> Dim | None:
    """How many frequencies the half spectrum of `n` real numbers has: n // 2 + 1; None if no polynomial says it."""
    even, odd = divide(n, 2), divide(n - 1, 2)
    half = odd if even is None else even
    return None if half is None else half + 1


# -- checks and shapes ------------------------------------------------------------------------------------------------


def _check_norm(norm: str) -> None:
    if norm not in TRANSPOSED:
        raise ShapeError(f"norm is {norm!r}; it must be 'backward', 'ortho' or 'forward'")


def check_pairs(x: Type) -> None:
    if not x.shape or x.shape[-1] != 2:
        raise ShapeError(f"{x} holds no complex numbers: its last axis must be their real and imaginary parts")


def _check_points(x: Type, axis: int) -> None:
    check_pairs(x)
    check_axes((axis,), len(x.shape) - 1)


def _with(shape: Shape, axis: int, *extents: Dim) -> Shape:
    """`shape` with others in place of one extent."""
    return (*shape[:axis], *extents, *shape[axis + 1 :])


def _inside_times(x: Any, factor: float, n: Dim, axis: int) -> Any:
    """A half spectrum, those frequencies that stand for two of the whole one times `factor`."""
    shape = shape_of(x)
    k = nullary(iota, x, shape=_with((1,) * len(shape), axis, shape[axis]), axis=axis, dtype=INT64)
    above, below = OPS["gt"](k, 0), OPS["lt"](OPS["mul"](k, 2), nullary(dim, x, value=n, dtype=INT64))
    return OPS["select"](OPS["and"](above, below), OPS["mul"](x, factor), x)


# -- calls of NumPy's loops -------------------------------------------------------------------------------------------


def _scale(b: Any, n: Dim, norm: str, inverse: bool, dtype: np.dtype) -> Any:
    """The factor of a transform of `n` points: 1, 1/n or 1/sqrt(n); 1 of none."""
    one = b.number(1, dtype)
    if norm == ("forward" if inverse else "backward"):
        return one
    points = b.op("maximum", b.cast(b.dim(n), dtype), one)
    return b.op("div", one, b.op("sqrt", points) if norm == "ortho" else points)


def _part(k: Any, v: Any, axis: int, is_complex: bool) -> Any:
    """An operand or result of a transform along an axis that may have others behind it."""
    width, dtype = (2, complex_dtype(v.dtype)) if is_complex else (1, v.dtype)
    shape = v.shape[:-1] if is_complex else v.shape
    before, n, after = shape[:axis], shape[axis], shape[axis + 1 :]
    columns = size(after)
    if columns != 1 and size(before) == 1:
        return k.spread(v, after, width, 0, (columns * width,), dtype)
    between = None if columns == 1 else width
    return k.spread(v, before, n * columns * width, 0, (columns * width,), dtype, between)


def _called(k: Any, function: str, n: Dim, sizes: tuple, source: Any, target: Any, norm: str, inverse: bool) -> None:
    """A transform of `n` points by NumPy's, which does not expect that there are none."""
    b, dtype = k.b, real_dtype(target.dtype)
    factor = k.scratch(dtype, (), "factor")
    k.fill(factor, (), lambda: _scale(b, n, norm, inverse, dtype))
    terms = TERMS * n * (n.bit_length() if isinstance(n, int) else 10)
    with nullcontext() if isinstance(n, int) and n else k.when(b.op("gt", b.dim(n), b.number(0, INT64))):
        _repeated(k, function, sizes, source, factor, target, terms)


def _repeated(k: Any, function: str, sizes: tuple, source: Any, factor: Any, target: Any, terms: Dim) -> None:
    """All transforms by one call, or those of one group of columns after the other."""
    if target.between is None:
        k.call(f"fft.{function}", sizes, source, factor, target, terms=terms)
        return
    columns = divide(target.steps[0], target.between)
    assert columns is not None
    with k.each():
        k.call(f"fft.{function}", sizes, source, factor, target, terms=terms * columns, times=columns)


def _complex(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, order="C").view(complex_dtype(x.dtype))[..., 0]


def _parts(z: np.ndarray) -> np.ndarray:
    return np.asarray(z, order="C")[..., None].view(real_dtype(z.dtype))


@defop
class pairs:
    """Real and imaginary parts of complex numbers along a new last axis: [...] to [..., 2]."""

    def ref(x):
        return _parts(x)

    def type(x):
        return Type(real_dtype(same_dtype([x], "c")), (*x.shape, 2))

    def vjp(g, y, x):
        return [from_pairs(g)]

    def jvp(ts, y, x):
        return pairs(ts[0])

    def batch(flags, x):
        return pairs(x)

    def at(b, i, x):
        z = x(i[:-1])
        return b.op("select", b.op("eq", i[-1], b.number(0, INT64)), b.op("real", z), b.op("imag", z))

    def sample(rng, dtype):
        return [((draw(rng, dtype, s),), {}) for s in ((7, 3), (), (0, 2))]

    dtypes = "c"


@defop
class from_pairs:
    """Complex numbers whose real and imaginary parts stand along the last axis: [..., 2] to [...]."""

    def ref(x):
        return _complex(x)

    def type(x):
        check_pairs(x)
        return Type(complex_dtype(same_dtype([x], "f")), x.shape[:-1])

    def vjp(g, y, x):
        return [pairs(g)]

    def jvp(ts, y, x):
        return from_pairs(ts[0])

    def batch(flags, x):
        return from_pairs(x)

    def at(b, i, x):
        return b.op("complex", *(x((*i, b.number(c, INT64))) for c in (0, 1)))

    def sample(rng, dtype):
        return [((draw(rng, dtype, s),), {}) for s in ((7, 3, 2), (2,), (0, 2))]


@defop
class dft:
    """y[k] = scale * sum over j of x[j] exp(-+2 pi i j k / n) along an axis: [..., n, ..., 2] to the same."""

    @quiet
    def ref(x, *, axis, inverse, norm):
        if x.shape[axis] == 0:
            return np.array(x)
        return _parts((np.fft.ifft if inverse else np.fft.fft)(_complex(x), axis=axis, norm=norm))

    def type(x, *, axis, inverse, norm):
        _check_points(x, axis)
        _check_norm(norm)
        return Type(same_dtype([x], "f"), x.shape)

    def vjp(g, y, x, *, axis, inverse, norm):
        return [dft(g, axis=axis, inverse=not inverse, norm=TRANSPOSED[norm])]

    def jvp(ts, y, x, *, axis, inverse, norm):
        return dft(ts[0], axis=axis, inverse=inverse, norm=norm)

    def batch(flags, x, *, axis, inverse, norm):
        return dft(x, axis=axis + 1, inverse=inverse, norm=norm)

    def calls(k, y, x, *, axis, inverse, norm):
        n = x.shape[axis]
        source, target = (_part(k, v, axis, True) for v in (x, y))
        _called(k, "ifft" if inverse else "fft", n, (n, n), source, target, norm, inverse)

    def sample(rng, dtype):
        cases = [((7, 2), 0, False, "backward"), ((3, 7, 2), 1, True, "backward"), ((7, 4, 2), 1, False, "ortho")]
        cases += [((2, 7, 5, 2), 2, False, "forward"), ((2, 2), 0, True, "forward"), ((0, 4, 2), 1, False, "ortho")]
        cases += [((1, 2), 0, True, "ortho"), ((3, 7, 2), 0, True, "ortho"), ((2, 4, 7, 2), 1, False, "backward")]
        return [((draw(rng, dtype, s),), {"axis": a, "inverse": i, "norm": norm}) for s, a, i, norm in cases]

    library = "numpy_whole"


@defop
class rdft:
    """The first n // 2 + 1 frequencies of real numbers along an axis: [..., n, ...] to [..., n // 2 + 1, ..., 2].

    The others are conjugates of these.
    """

    @quiet
    def ref(x, *, axis, norm):
        if x.shape[axis] == 0:
            return np.zeros((*_with(x.shape, axis, 1), 2), x.dtype)
        return _parts(np.fft.rfft(x, axis=axis, norm=norm))

    def type(x, *, axis, norm):
        check_axes((axis,), len(x.shape))
        _check_norm(norm)
        n = x.shape[axis]
        m = bins(n)
        if m is None:
            raise ShapeError(
                f"{n} real numbers have {n}//2+1 frequencies: whether the extent is even must be known while tracing; "
                "fix it in the TensorSpec, cut or fill the axis by n=, or take fft(), which keeps the extent"
            )
        return Type(same_dtype([x], "f"), (*_with(x.shape, axis, m), 2))

    def vjp(g, y, x, *, axis, norm):
        n = shape_of(x)[axis]
        return [irdft(_inside_times(g, 0.5, n, axis), axis=axis, n=n, norm=TRANSPOSED[norm])]

    def jvp(ts, y, x, *, axis, norm):
        return rdft(ts[0], axis=axis, norm=norm)

    def batch(flags, x, *, axis, norm):
        return rdft(x, axis=axis + 1, norm=norm)

    def calls(k, y, x, *, axis, norm):
        n, odd = x.shape[axis], "rfft_n_odd"
        source, target = _part(k, x, axis, False), _part(k, y, axis, True)
        function = odd if divide(n, 2) is None else "rfft_n_even"
        _called(k, function, n, (n, y.shape[axis]), source, target, norm, False)
        if n == 0 or isinstance(n, Poly):  # no points have the spectrum of one that is 0
            with k.when(k.b.op("eq", k.b.dim(n), k.b.number(0, INT64))):
                _repeated(k, odd, (0, 1), source, k.constant(1, x.dtype), target, 0)

    def sample(rng, dtype):
        cases = ((7, 4), 1, "backward"), ((2, 7, 5), 2, "ortho"), ((14,), 0, "forward"), ((1,), 0, "ortho")
        cases += ((0, 3), 1, "ortho"), ((5, 7), 0, "forward"), ((2, 6, 7), 1, "backward")
        return [((draw(rng, dtype, s),), {"axis": a, "norm": norm}) for s, a, norm in cases]

    library = "numpy_whole"


@defop
class irdft:
    """`n` real numbers from the first half of their spectrum: [..., n // 2 + 1, ..., 2] to [..., n, ...].

    The imaginary parts of frequency 0, and of n / 2 if `n` is even, count for nothing.
    """

    @quiet
    def ref(x, *, axis, n, norm):
        if n == 0:
            return np.zeros(_with(x.shape[:-1], axis, 0), x.dtype)
        return np.fft.irfft(_complex(x), n, axis=axis, norm=norm)

    def type(x, *, axis, n, norm):
        _check_points(x, axis)
        _check_norm(norm)
        m = x.shape[axis]
        if n not in (2 * m - 2, 2 * m - 1):
            raise ShapeError(f"{m} frequencies are those of {2 * m - 2} or {2 * m - 1} real numbers, not of {n}")
        return Type(same_dtype([x], "f"), _with(x.shape[:-1], axis, n))

    def vjp(g, y, x, *, axis, n, norm):
        return [_inside_times(rdft(g, axis=axis, norm=TRANSPOSED[norm]), 2, n, axis)]

    def jvp(ts, y, x, *, axis, n, norm):
        return irdft(ts[0], axis=axis, n=n, norm=norm)

    def batch(flags, x, *, axis, n, norm):
        return irdft(x, axis=axis + 1, n=n, norm=norm)

    def calls(k, y, x, *, axis, n, norm):
        source, target = _part(k, x, axis, True), _part(k, y, axis, False)
        _called(k, "irfft", n, (x.shape[axis], n), source, target, norm, True)

    def sample(rng, dtype):
        cases = [((7, 3, 2), 1, 4, "backward"), ((2, 7, 3, 2), 2, 5, "ortho"), ((1, 2), 0, 1, "backward")]
        cases += [((2, 2), 0, 2, "ortho"), ((4, 2), 0, 6, "forward"), ((5, 2), 0, 9, "backward")]
        cases += [((0, 3, 2), 1, 5, "ortho"), ((3, 7, 2), 0, 4, "ortho"), ((2, 4, 7, 2), 1, 6, "backward")]
        cases += [((2, 1, 3, 2), 1, 0, "backward")]
        return [((draw(rng, dtype, s),), {"axis": a, "n": n, "norm": norm}) for s, a, n, norm in cases]

    library = "numpy_whole"
