"""Operands of functions on matrices: in NumPy's dtype, and refused as NumPy refuses them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.numpy.complex import conjugated, imag, real
from tapefuse.numpy.elementwise import add, multiply, square
from tapefuse.numpy.shape import broadcast_shapes, broadcast_to
from tapefuse.tracer.promote import cast, common
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor


def floating(x: Any) -> Tensor:
    """`x`, integers and bools as float64. Raises TypeError for half floats, as `numpy.linalg` does."""
    x = as_tensor(x)
    if x.dtype.kind in "iub":
        return cast(x, np.dtype(np.float64))
    if kind_of(x.dtype) == "f" and x.dtype.itemsize < 4:
        raise TypeError(f"{called()}: array type {x.dtype} is unsupported in linalg; cast it to float32")
    return x


def together(*xs: Any) -> list[Tensor]:
    """Operands in one floating-point dtype."""
    return common(*map(floating, xs))


def stack(x: Any) -> Tensor:
    """Matrices. Raises LinAlgError."""
    x = floating(x)
    if x.ndim < 2:
        raise np.linalg.LinAlgError(
            f"{called()}: {x.type} given, {x.ndim}-dimensional array. Array must be at least two-dimensional"
        )
    return x


def squares(x: Any) -> Tensor:
    """Square matrices. Raises LinAlgError."""
    x = stack(x)
    if x.shape[-1] != x.shape[-2]:
        raise np.linalg.LinAlgError(f"{called()}: {x.type} given: last 2 dimensions of the array must be square")
    return x


def turned(x: Tensor) -> Tensor:
    """The transpose of each matrix, of complex ones the conjugate transpose."""
    rank = x.ndim
    return ops.transpose(conjugated(x), perm=(*range(rank - 2), rank - 1, rank - 2))


def symmetric(x: Tensor) -> Tensor:
    """Symmetric or Hermitian matrices of which only one triangle will be read, with derivatives as if both were: the
    mean of the two."""
    return ops.credit(x, ops.mul(ops.add(x, turned(x)), 0.5))


def squared(x: Tensor) -> Tensor:
    """|x|**2."""
    return multiply(x, x) if x.dtype.kind != "c" else add(square(real(x)), square(imag(x)))


def with_lead(x: Tensor, lead: tuple) -> Tensor:
    """Matrices repeated along leading axes."""
    return x if x.shape[:-2] == lead else broadcast_to(x, (*lead, *x.shape[-2:]))


def leading(*xs: Tensor) -> tuple:
    """The leading axes of several stacks, broadcast."""
    return broadcast_shapes(*(x.shape[:-2] for x in xs))
