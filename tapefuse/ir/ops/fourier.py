"""Discrete Fourier transforms along the next to last axis; the last axis holds real and imaginary part.

`dft` takes complex numbers to complex numbers, `rdft` real ones to the first half of their spectrum, `irdft` such a
half back. All three are linear and each other's transposes: sums over j of x[j] exp(-2 pi i j k / n), with +2 pi i if
inverse, times a scale that `norm` names as in `numpy.fft`. `pairs` and `from_pairs` lead from complex numbers to their
parts and back.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import OPS, defop
from tapefuse.ir.ops.family import INT64, draw, nullary, quiet, same_dtype, shape_of
from tapefuse.ir.ops.shape import dim, iota
from tapefuse.ir.types import Dim, Type, complex_dtype, divide, real_dtype

TRANSPOSED = {"backward": "forward", "ortho": "ortho", "forward": "backward"}  # same scale, the other way
FLOAT64 = np.dtype(np.float64)


def bins(n: Dim) -> Dim | None:
    """How many frequencies the half spectrum of `n` real numbers has: n // 2 + 1; None if no polynomial says it."""
    even, odd = divide(n, 2), divide(n - 1, 2)
    half = odd if even is None else even
    return None if half is None else half + 1


def _check_norm(norm: str) -> None:
    if norm not in TRANSPOSED:
        raise ShapeError(f"norm is {norm!r}; it must be 'backward', 'ortho' or 'forward'")


def _check_pairs(x: Type) -> None:
    if not x.shape or x.shape[-1] != 2:
        raise ShapeError(f"{x} holds no complex numbers: its last axis must be their real and imaginary parts")


def _check_points(x: Type) -> None:
    _check_pairs(x)
    if len(x.shape) < 2:
        raise ShapeError(f"{x} is one complex number; a transform needs an axis of them")


def scale(b: Any, n: Dim, norm: str, inverse: bool, dtype: np.dtype) -> Any:
    """The factor of a transform of `n` points: 1, 1/n or 1/sqrt(n); 1 of none."""
    one = b.number(1, dtype)
    if norm == ("forward" if inverse else "backward"):
        return one
    points = b.op("maximum", b.cast(b.dim(n), dtype), one)
    return b.op("div", one, b.op("sqrt", points) if norm == "ortho" else points)


def _wave(b: Any, j: Any, k: Any, n: Dim, dtype: np.dtype) -> tuple[Any, Any]:
    """Cosine and sine of 2 pi j k / n."""
    turn = b.cast(b.op("mod", b.op("mul", j, k), b.dim(n)), FLOAT64)
    angle = b.op("div", b.op("mul", turn, b.number(2 * np.pi, FLOAT64)), b.cast(b.dim(n), FLOAT64))
    return b.cast(b.op("cos", angle), dtype), b.cast(b.op("sin", angle), dtype)


def _is_inside(b: Any, k: Any, n: Dim) -> Any:
    """Whether frequency `k` stands for two of the whole spectrum, itself and `n - k`."""
    return b.op("and", b.op("gt", k, b.number(0, INT64)), b.op("lt", b.op("add", k, k), b.dim(n)))


def _inside_times(x: Any, factor: float, n: Dim) -> Any:
    """A half spectrum, those frequencies that stand for two of the whole one times `factor`."""
    k = nullary(iota, x, shape=(shape_of(x)[-2], 1), axis=0, dtype=INT64)
    above, below = OPS["gt"](k, 0), OPS["lt"](OPS["mul"](k, 2), nullary(dim, x, value=n, dtype=INT64))
    return OPS["select"](OPS["and"](above, below), OPS["mul"](x, factor), x)


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
        _check_pairs(x)
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
    """y[..., k, :] = scale * sum over j of x[..., j, :] exp(-+2 pi i j k / n): [..., n, 2] to [..., n, 2]."""

    @quiet
    def ref(x, *, inverse, norm):
        if x.shape[-2] == 0:
            return np.array(x)
        return _parts((np.fft.ifft if inverse else np.fft.fft)(_complex(x), norm=norm))

    def type(x, *, inverse, norm):
        _check_points(x)
        _check_norm(norm)
        return Type(same_dtype([x], "f"), x.shape)

    def vjp(g, y, x, *, inverse, norm):
        return [dft(g, inverse=not inverse, norm=TRANSPOSED[norm])]

    def jvp(ts, y, x, *, inverse, norm):
        return dft(ts[0], inverse=inverse, norm=norm)

    def batch(flags, x, *, inverse, norm):
        return dft(x, inverse=inverse, norm=norm)

    def at(b, i, x, *, inverse, norm):
        *lead, k, part = i
        n, zero = x.shape[-2], b.number(0, INT64)
        is_real = b.op("eq", part, zero)

        def term(js):
            cos, sin = _wave(b, js[0], k, n, x.dtype)
            real, imaginary = (x((*lead, js[0], b.number(c, INT64))) for c in (0, 1))
            turned = b.op("select", is_real, imaginary, real)
            sin = b.op("select", b.op("eq", is_real, b.number(inverse, np.dtype(bool))), b.op("neg", sin), sin)
            return b.op("add", b.op("mul", b.op("select", is_real, real, imaginary), cos), b.op("mul", turned, sin))

        return b.op("mul", b.reduce("add", x.dtype, (n,), term), scale(b, n, norm, inverse, x.dtype))

    def sample(rng, dtype):
        cases = [((7, 2), False, "backward"), ((3, 7, 2), True, "backward"), ((7, 4, 2), False, "ortho")]
        cases += [((2, 7, 5, 2), False, "forward"), ((2, 2), True, "forward"), ((0, 4, 2), False, "ortho")]
        cases += [((1, 2), True, "ortho")]
        return [((draw(rng, dtype, s),), {"inverse": inverse, "norm": norm}) for s, inverse, norm in cases]

    library = "fourier"


@defop
class rdft:
    """The first n // 2 + 1 frequencies of real numbers: [..., n] to [..., n // 2 + 1, 2]; the others are conjugates."""

    @quiet
    def ref(x, *, norm):
        if x.shape[-1] == 0:
            return np.zeros((*x.shape[:-1], 1, 2), x.dtype)
        return _parts(np.fft.rfft(x, norm=norm))

    def type(x, *, norm):
        _check_norm(norm)
        if not x.shape:
            raise ShapeError("a number has no spectrum; at least one axis is needed")
        m = bins(x.shape[-1])
        if m is None:
            raise ShapeError(
                f"{x.shape[-1]} real numbers have {x.shape[-1]}//2+1 frequencies: whether the extent is even must be "
                "known while tracing; fix it in the TensorSpec, cut or fill the axis by n=, or take fft(), which keeps "
                "the extent"
            )
        return Type(same_dtype([x], "f"), (*x.shape[:-1], m, 2))

    def vjp(g, y, x, *, norm):
        n = shape_of(x)[-1]
        return [irdft(_inside_times(g, 0.5, n), n=n, norm=TRANSPOSED[norm])]

    def jvp(ts, y, x, *, norm):
        return rdft(ts[0], norm=norm)

    def batch(flags, x, *, norm):
        return rdft(x, norm=norm)

    def at(b, i, x, *, norm):
        *lead, k, part = i
        n = x.shape[-1]

        def term(js):
            cos, sin = _wave(b, js[0], k, n, x.dtype)
            is_real = b.op("eq", part, b.number(0, INT64))
            return b.op("mul", x((*lead, *js)), b.op("select", is_real, cos, b.op("neg", sin)))

        return b.op("mul", b.reduce("add", x.dtype, (n,), term), scale(b, n, norm, False, x.dtype))

    def sample(rng, dtype):
        cases = ((7, 4), "backward"), ((2, 7, 5), "ortho"), ((14,), "forward"), ((1,), "ortho"), ((0, 3), "ortho")
        return [((draw(rng, dtype, s),), {"norm": norm}) for s, norm in cases]

    library = "fourier"


@defop
class irdft:
    """`n` real numbers from the first half of their spectrum: [..., n // 2 + 1, 2] to [..., n].

    The imaginary parts of frequency 0, and of n / 2 if `n` is even, count for nothing.
    """

    @quiet
    def ref(x, *, n, norm):
        if n == 0:
            return np.zeros((*x.shape[:-2], 0), x.dtype)
        return np.fft.irfft(_complex(x), n, norm=norm)

    def type(x, *, n, norm):
        _check_points(x)
        _check_norm(norm)
        m = x.shape[-2]
        if n not in (2 * m - 2, 2 * m - 1):
            raise ShapeError(f"{m} frequencies are those of {2 * m - 2} or {2 * m - 1} real numbers, not of {n}")
        return Type(same_dtype([x], "f"), (*x.shape[:-2], n))

    def vjp(g, y, x, *, n, norm):
        return [_inside_times(rdft(g, norm=TRANSPOSED[norm]), 2, n)]

    def jvp(ts, y, x, *, n, norm):
        return irdft(ts[0], n=n, norm=norm)

    def batch(flags, x, *, n, norm):
        return irdft(x, n=n, norm=norm)

    def at(b, i, x, *, n, norm):
        *lead, j = i

        def term(ks):
            cos, sin = _wave(b, j, ks[0], n, x.dtype)
            real, imaginary = (x((*lead, *ks, b.number(c, INT64))) for c in (0, 1))
            inside = _is_inside(b, ks[0], n)
            turned = b.op("select", inside, b.op("mul", imaginary, sin), b.number(0, x.dtype))
            part = b.op("sub", b.op("mul", real, cos), turned)
            return b.op("select", inside, b.op("add", part, part), part)

        return b.op("mul", b.reduce("add", x.dtype, (x.shape[-2],), term), scale(b, n, norm, True, x.dtype))

    def sample(rng, dtype):
        cases = [((7, 3, 2), 4, "backward"), ((2, 7, 3, 2), 5, "ortho"), ((1, 2), 1, "backward"), ((2, 2), 2, "ortho")]
        cases += [((4, 2), 6, "forward"), ((5, 2), 9, "backward"), ((0, 3, 2), 5, "ortho")]
        return [((draw(rng, dtype, s),), {"n": n, "norm": norm}) for s, n, norm in cases]

    library = "fourier"
