"""Shapes, dtypes and parameters of distributions as users give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.halves import is_bfloat16, kind_of, promoted
from tapefuse.ir.types import Shape, broadcast_shapes, show_shape
from tapefuse.numpy.shape import _shape
from tapefuse.tracer.arrays import check_dtype
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.promote import converted, strength
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor
from tapefuse.tracer.variable import Variable

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def drawn_shape(shape: Any, *parameters: Any) -> Shape:
    """The shape of a draw: `shape`, to which the parameters broadcast, or theirs without one. Raises ShapeError."""
    shapes = [_shape_of(x) for x in parameters]
    if shape is None:
        return broadcast_shapes(*shapes) if shapes else ()
    found = _shape(shape)
    if any(isinstance(n, int) and n < 0 for n in found):
        raise ShapeError(f"{called()}: the shape {show_shape(found)} has a negative extent")
    for theirs in shapes:
        if not _fits(theirs, found):
            raise ShapeError(
                f"{called()}: a parameter of shape {show_shape(theirs)} does not broadcast to the shape "
                f"{show_shape(found)} asked for"
            )
    return found


def _fits(shape: Shape, into: Shape) -> bool:
    try:
        return broadcast_shapes(into, shape) == into
    except ShapeError:
        return False


def _shape_of(x: Any) -> Shape:
    found: Shape = x.shape if isinstance(x, Operators) else np.shape(x)  # type: ignore[attr-defined]
    return found


def float_dtype(dtype: Any, *parameters: Any) -> np.dtype:
    """The dtype of a draw of floats: as asked for, or that of the parameters, or float32. Raises DTypeError."""
    if dtype is not None:
        found = check_dtype(dtype, "a random number")
        if kind_of(found) != "f":
            raise DTypeError(f"{called()}: these random numbers are floating-point, not {found}")
        return found
    kinds = [d for d in map(strength, parameters) if isinstance(d, np.dtype) and kind_of(d) == "f"]
    return promoted(*kinds) if kinds else FLOAT32


def digits(dtype: np.dtype) -> int:
    """Bits of a float's significand, with the one that is not kept."""
    return 8 if is_bfloat16(dtype) else np.finfo(dtype).nmant + 1


def parameter(x: Any, dtype: np.dtype) -> Tensor:
    """A parameter in the dtype of the computation. Raises DTypeError for complex numbers."""
    given = strength(x) if isinstance(x, Operators) else np.asarray(x).dtype
    if given is complex or getattr(given, "kind", "") == "c":
        raise DTypeError(f"{called()}: parameters of distributions are real, not complex; take tp.real(x)")
    return converted(x, dtype)


def known(x: Any) -> np.ndarray | None:
    """The value of a parameter, unless the function under way is traced for any."""
    if isinstance(x, TracedTensor):
        return None
    if isinstance(x, Variable):
        x = x.read()
        return None if isinstance(x, TracedTensor) else x._array
    return x._array if isinstance(x, Tensor) else as_tensor(x)._array


def check(x: Any, holds: Callable[[np.ndarray], Any], what: str) -> None:
    """Raises ValueError for a known parameter that has elements out of range: `what` says what it must be."""
    value = known(x)
    if value is not None and not np.all(holds(value)):
        wrong = value[np.logical_not(holds(value))].ravel()[0] if value.ndim else value
        raise ValueError(f"{called()}: {what}, not {wrong}")


def check_positive(x: Any, name: str) -> None:
    check(x, lambda v: v > 0, f"{name} must be positive")


def check_scale(x: Any) -> None:
    check(x, lambda v: v >= 0, "scale must be at least 0")


def check_probability(x: Any, name: str = "p") -> None:
    check(x, lambda v: (v >= 0) & (v <= 1), f"{name} must be from 0 to 1")
