"""Discrete Fourier transforms: the functions of `numpy.fft`, on tensors.

Each takes `n` or `s` (the axis is cut or filled with zeros to that extent), `axis` or `axes`, and `norm`: "backward"
(the default; the inverse divides by n), "ortho" (both divide by sqrt(n)) or "forward". Results of float32 are
complex64 or float32, those of halves complex64 or halves, all others complex128 or float64.

>>> print(irfft(rfft([1.0, 2.0, 3.0, 4.0])))
tp.Tensor([1. 2. 3. 4.], shape=(4,), dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import is_half, kind_of
from tapefuse.ir.ops.fourier import TRANSPOSED, bins
from tapefuse.ir.types import Dim, Poly
from tapefuse.ir.types import divide as _divide
from tapefuse.numpy.complex import conj
from tapefuse.numpy.elementwise import divide, floor_divide, multiply, subtract, where
from tapefuse.numpy.joining import roll
from tapefuse.numpy.shape import Axis, _axis, _counter, _listed, _refuse, _whole, dim, reshape
from tapefuse.tracer.promote import cast
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

__all__ = [
    "fft",
    "fft2",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifft2",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfft2",
    "irfftn",
    "rfft",
    "rfft2",
    "rfftfreq",
    "rfftn",
]

_FLOAT64 = np.dtype(np.float64)

# -- one axis ---------------------------------------------------------------------------------------------------------


def fft(a: Any, n: Any = None, axis: int = -1, norm: str | None = None, out: Any = None) -> Tensor:
    """sum over j of a[j] exp(-2 pi i j k / n) for k = 0 .. n - 1, complex."""
    return _whole_spectrum(a, n, axis, norm, out, inverse=False)


def ifft(a: Any, n: Any = None, axis: int = -1, norm: str | None = None, out: Any = None) -> Tensor:
    """The inverse of `fft`: the mean over j of a[j] exp(2 pi i j k / n), complex."""
    return _whole_spectrum(a, n, axis, norm, out, inverse=True)


def rfft(a: Any, n: Any = None, axis: int = -1, norm: str | None = None, out: Any = None) -> Tensor:
    """The first n // 2 + 1 frequencies of real numbers, complex; the others are conjugates of these."""
    _refuse(out)
    x = _numbers(a)
    if x.dtype.kind == "c":
        raise DTypeError(f"{called()}: {x.type} is complex; fft takes complex numbers, rfft the real ones")
    k = _axis(x.ndim, axis)
    n = _points(x.shape[k] if n is None else n)
    return ops.from_pairs(ops.rdft(_fitted(x, n, k), axis=k, norm=_norm(norm)))


def irfft(a: Any, n: Any = None, axis: int = -1, norm: str | None = None, out: Any = None) -> Tensor:
    """The inverse of `rfft`: `n` real numbers, 2 * (m - 1) of m frequencies unless given."""
    _refuse(out)
    given = as_tensor(a)
    x = _numbers(given)
    k = _axis(x.ndim, axis)
    n = _points(2 * (x.shape[k] - 1) if n is None else n)
    m = bins(n)
    if m is None:
        raise ShapeError(f"{called()}: {n} is a symbol; whether it is even must be known while tracing: give n=2 * ...")
    y = ops.irdft(_fitted(_pairs(x), m, k), axis=k, n=n, norm=_norm(norm))
    return cast(y, given.dtype) if is_half(given.dtype) else y


def hfft(a: Any, n: Any = None, axis: int = -1, norm: str | None = None, out: Any = None) -> Tensor:
    """The real spectrum of a signal with a[-j] = conj(a[j]), of which the first half is given."""
    return irfft(conj(as_tensor(a)), n, axis, TRANSPOSED[_norm(norm)], out)


def ihfft(a: Any, n: Any = None, axis: int = -1, norm: str | None = None, out: Any = None) -> Tensor:
    """The inverse of `hfft`: the first half of the signal that has a real spectrum."""
    return conj(rfft(a, n, axis, TRANSPOSED[_norm(norm)], out))


def _whole_spectrum(a: Any, n: Any, axis: int, norm: str | None, out: Any, inverse: bool) -> Tensor:
    _refuse(out)
    x = _numbers(a)
    k = _axis(x.ndim, axis)
    n = _points(x.shape[k] if n is None else n)
    return ops.from_pairs(ops.dft(_fitted(_pairs(x), n, k), axis=k, inverse=inverse, norm=_norm(norm)))


# -- several axes -----------------------------------------------------------------------------------------------------


def fftn(a: Any, s: Any = None, axes: Axis = None, norm: str | None = None, out: Any = None) -> Tensor:
    """`fft` over several axes, all of them unless given."""
    return _over(fft, _numbers(a), s, axes, norm, out)


def ifftn(a: Any, s: Any = None, axes: Axis = None, norm: str | None = None, out: Any = None) -> Tensor:
    """The inverse of `fftn`."""
    return _over(ifft, _numbers(a), s, axes, norm, out)


def rfftn(a: Any, s: Any = None, axes: Axis = None, norm: str | None = None, out: Any = None) -> Tensor:
    """`rfft` over the last of several axes, then `fft` over the others."""
    _refuse(out)
    x = _numbers(a)
    extents, numbers = _extents(x, s, axes)
    _check_any(numbers)
    x = rfft(x, extents[-1], numbers[-1], norm)
    return _over(fft, x, extents[:-1], numbers[:-1], norm, None)


def irfftn(a: Any, s: Any = None, axes: Axis = None, norm: str | None = None, out: Any = None) -> Tensor:
    """The inverse of `rfftn`: real."""
    _refuse(out)
    x = _numbers(a)
    extents, numbers = _extents(x, s, axes)
    _check_any(numbers)
    for n, k in zip(extents[:-1], numbers[:-1], strict=True):
        x = ifft(x, n, k, norm)
    return irfft(x, None if s is None else extents[-1], numbers[-1], norm)


def fft2(a: Any, s: Any = None, axes: Axis = (-2, -1), norm: str | None = None, out: Any = None) -> Tensor:
    """`fftn` over the last two axes."""
    return fftn(a, s, axes, norm, out)


def ifft2(a: Any, s: Any = None, axes: Axis = (-2, -1), norm: str | None = None, out: Any = None) -> Tensor:
    """`ifftn` over the last two axes."""
    return ifftn(a, s, axes, norm, out)


def rfft2(a: Any, s: Any = None, axes: Axis = (-2, -1), norm: str | None = None, out: Any = None) -> Tensor:
    """`rfftn` over the last two axes."""
    return rfftn(a, s, axes, norm, out)


def irfft2(a: Any, s: Any = None, axes: Axis = (-2, -1), norm: str | None = None, out: Any = None) -> Tensor:
    """`irfftn` over the last two axes."""
    return irfftn(a, s, axes, norm, out)


def _over(transform: Callable[..., Tensor], x: Tensor, s: Any, axes: Axis, norm: str | None, out: Any) -> Tensor:
    """`transform` along each of the axes, the last one first."""
    _refuse(out)
    for n, k in reversed(list(zip(*_extents(x, s, axes), strict=True))):
        x = transform(x, n, k, norm)
    return x


def _extents(x: Tensor, s: Any, axes: Axis) -> tuple[list[Dim], list[int]]:
    """Extents of the transforms and their axes, as `numpy.fft` reads `s` and `axes`. Raises ShapeError."""
    given = None if s is None else list(_listed(s))
    if axes is None:
        axes = range(-(x.ndim if given is None else len(given)), 0)
    numbers = [_axis(x.ndim, k) for k in _listed(axes)]
    given = [-1] * len(numbers) if given is None else given
    if len(given) != len(numbers):
        raise ShapeError(f"{called()}: s has {len(given)} extents for {len(numbers)} axes; one for each is needed")
    whole = [n is None or not isinstance(n, Poly) and n == -1 for n in given]
    return [x.shape[k] if w else n for n, w, k in zip(given, whole, numbers, strict=True)], numbers


def _check_any(axes: Sequence[int]) -> None:
    if not axes:
        raise ShapeError(f"{called()}: a transform of real numbers needs at least one axis")


# -- frequencies and their order --------------------------------------------------------------------------------------


def fftfreq(n: Any, d: Any = 1.0, device: Any = None) -> Tensor:
    """The frequencies of `fft` in cycles per unit of the sample spacing `d`: 0, 1, ..., -2, -1 over n * d; float64."""
    _refuse(device=device)
    n = n if isinstance(n, Poly) else _whole(n, "n")
    k = reshape(_counter(n, 0, 1), (n,))
    signed = where(ops.lt(multiply(k, 2), dim(n)), k, subtract(k, dim(n)))
    return _spaced(signed, n, d)


def rfftfreq(n: Any, d: Any = 1.0, device: Any = None) -> Tensor:
    """The frequencies of `rfft` in cycles per unit of the sample spacing `d`: 0, 1, ..., n // 2 over n * d; float64."""
    _refuse(device=device)
    n = n if isinstance(n, Poly) else _whole(n, "n")
    m = bins(n)
    if m is None:
        raise ShapeError(f"{called()}: {n} is a symbol; whether it is even must be known while tracing: give n=2 * ...")
    return _spaced(reshape(_counter(m, 0, 1), (m,)), n, d)


def _spaced(k: Tensor, n: Dim, d: Any) -> Tensor:
    step = divide(1.0, multiply(dim(n, _FLOAT64), d))
    return multiply(cast(k, _FLOAT64), step)


def fftshift(x: Any, axes: Axis = None) -> Tensor:
    """Frequency 0 moved to the middle of the axes, all of them unless given."""
    x = as_tensor(x)
    for k in range(x.ndim) if axes is None else _listed(axes):
        x = roll(x, _half(x.shape[k]), k)
    return x


def ifftshift(x: Any, axes: Axis = None) -> Tensor:
    """The inverse of `fftshift`."""
    x = as_tensor(x)
    for k in range(x.ndim) if axes is None else _listed(axes):
        x = roll(x, subtract(0, _half(x.shape[k])) if isinstance(x.shape[k], Poly) else -(x.shape[k] // 2), k)
    return x


def _half(n: Dim) -> Any:
    """n // 2, a traced number where no polynomial says it."""
    if isinstance(n, Poly) and _divide(n, 2) is None:
        return floor_divide(dim(n), 2)
    return n // 2 if isinstance(n, int) else _divide(n, 2)


# -- operands ---------------------------------------------------------------------------------------------------------


def _numbers(a: Any) -> Tensor:
    """A tensor of floats or complex numbers: halves become float32, integers and bools float64."""
    x = as_tensor(a)
    if is_half(x.dtype):
        return cast(x, np.dtype(np.float32))
    return x if kind_of(x.dtype) in "fc" else cast(x, _FLOAT64)


def _norm(norm: str | None) -> str:
    if norm is None:
        return "backward"
    if norm not in TRANSPOSED:
        raise ValueError(f"{called()}: norm is {norm!r}; it must be None, 'backward', 'ortho' or 'forward'")
    return norm


def _points(n: Any) -> Dim:
    """The extent of a transform. Raises ShapeError if there are no points."""
    if isinstance(n, Poly):
        return n
    count = _whole(n, "n")
    if count < 1:
        raise ShapeError(f"{called()}: a transform of {count} points has no meaning; there must be at least one")
    return count


def _pairs(x: Tensor) -> Tensor:
    """Real and imaginary parts along a new last axis."""
    if x.dtype.kind == "c":
        return ops.pairs(x)
    return _filled(reshape(x, (*x.shape, 1)), 1, x.ndim)


def _filled(x: Tensor, count: int, axis: int) -> Tensor:
    """`count` zeros put behind an axis."""
    none = (0,) * x.ndim
    return ops.pad(x, low=none, high=(*none[:axis], count, *none[axis + 1 :]), interior=none, value=0.0)


def _fitted(x: Tensor, n: Dim, axis: int) -> Tensor:
    """`x` cut or filled with zeros to extent `n` along an axis. Raises ShapeError where tracing cannot tell which."""
    missing = n - x.shape[axis]
    if isinstance(missing, Poly):
        raise ShapeError(
            f"{called()}: whether {x.shape[axis]} points are cut or filled to {n} must be known while tracing; leave "
            "out n=, or fix the extent in the TensorSpec"
        )
    if missing >= 0:
        return _filled(x, missing, axis) if missing else x
    limits = tuple(n if a == axis else m for a, m in enumerate(x.shape))
    return ops.slice_(x, starts=(0,) * x.ndim, limits=limits, strides=(1,) * x.ndim)
