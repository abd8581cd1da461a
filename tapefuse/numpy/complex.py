"""Complex numbers: their parts, angles and conjugates, and whether there are any."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ConcretizationError
from tapefuse.ir import ops
from tapefuse.numpy.creation import zeros_like
from tapefuse.numpy.elementwise import abs, astype, atan2, equal, inexact, isnan, less
from tapefuse.numpy.floats import rad2deg
from tapefuse.numpy.reduce import all
from tapefuse.numpy.sorting import sort
from tapefuse.tracer.promote import operands
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor, still


def _is_complex(x: Tensor) -> bool:
    return x.dtype.kind == "c"


def real(x: Any) -> Tensor:
    """The real part: of real numbers, themselves."""
    x = as_tensor(x)
    return ops.real(x) if _is_complex(x) else x


def imag(x: Any) -> Tensor:
    """The imaginary part: of real numbers, zeros."""
    x = as_tensor(x)
    return ops.imag(x) if _is_complex(x) else zeros_like(x)


def conjugate(x: Any) -> Tensor:
    """The complex conjugate: of real numbers, themselves."""
    (x,) = operands(np.conjugate, x)
    return ops.conj(x) if _is_complex(x) else still(x)


conj = conjugate


def conjugated(x: Tensor) -> Tensor:
    """The conjugate of complex numbers; anything else, bools too, as it is."""
    return ops.conj(x) if _is_complex(x) else x


def angle(z: Any, deg: bool = False) -> Tensor:
    """The angle in the complex plane, -pi to pi: of real numbers 0, or pi below 0."""
    z = as_tensor(z)
    if _is_complex(z):
        y = atan2(ops.imag(z), ops.real(z))
    else:
        z = inexact(z)
        y = atan2(ops.select(isnan(z), z, 0), z)
    return rad2deg(y) if deg else y


def isreal(x: Any) -> Tensor:
    """Whether elements have no imaginary part: all of real numbers."""
    return equal(imag(x), 0)


def iscomplex(x: Any) -> Tensor:
    """Whether elements have an imaginary part: none of real numbers."""
    return ops.not_(isreal(x))


def isrealobj(x: Any) -> bool:
    """Whether the dtype is real."""
    return not _is_complex(as_tensor(x))


def iscomplexobj(x: Any) -> bool:
    """Whether the dtype is complex."""
    return not isrealobj(x)


def real_if_close(a: Any, tol: float = 100) -> Tensor:
    """The real part, if all imaginary parts are below `tol` machine epsilons (below `tol` itself if that is at most
    1), else complex numbers as they are. Raises ConcretizationError in a trace: the result's dtype depends on values.
    """
    a = as_tensor(a)
    if not _is_complex(a):
        return a
    limit = float(tol * np.finfo(a.dtype).eps) if tol > 1 else tol
    try:
        is_close = bool(all(less(abs(ops.imag(a)), limit)))
    except ConcretizationError as error:
        raise ConcretizationError(f"{called()}: whether the result is real depends on values; {error}") from None
    return ops.real(a) if is_close else a


def sort_complex(a: Any) -> Tensor:
    """Sorted along the last axis, as complex numbers: complex64 of integers of 8 and 16 bits, else complex128."""
    a = sort(a, -1)
    if _is_complex(a):
        return a
    return astype(a, np.complex64 if a.dtype.kind in "iu" and a.dtype.itemsize < 4 else np.complex128)


__all__ = [
    "angle",
    "conj",
    "conjugate",
    "imag",
    "iscomplex",
    "iscomplexobj",
    "isreal",
    "isrealobj",
    "real",
    "real_if_close",
    "sort_complex",
]
