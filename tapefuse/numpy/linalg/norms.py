"""Norms of vectors and matrices, and condition numbers, under NumPy's names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.types import real_dtype
from tapefuse.ir.types import size as _size
from tapefuse.numpy.elementwise import abs as _abs
from tapefuse.numpy.elementwise import astype, divide, inexact, multiply, not_equal, power, sqrt
from tapefuse.numpy.linalg.decompositions import svdvals
from tapefuse.numpy.linalg.matrices import squared, squares, stack
from tapefuse.numpy.linalg.systems import inv
from tapefuse.numpy.reduce import max as _max
from tapefuse.numpy.reduce import min as _min
from tapefuse.numpy.reduce import sum as _sum
from tapefuse.numpy.shape import _axes, _axis, moveaxis, ravel, reshape, transpose
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tensor:
    """A norm of vectors (along one axis) or matrices (over two); without `ord` and `axis`, of all elements.

    `ord` of vectors: any number, inf, -inf, 0; of matrices: "fro", "nuc" (the sum of singular values), 2, -2 (the
    largest and the smallest one), 1, -1, inf, -inf. By default the root of the sum of squares.
    """
    x = inexact(x)
    if axis is None:
        if ord is None or (ord in ("f", "fro") and x.ndim == 2) or (ord == 2 and x.ndim == 1):
            return sqrt(_sum(squared(x), None, keepdims=keepdims))
        axis = tuple(range(x.ndim))
    if isinstance(axis, (tuple, list)) and len(axis) == 1:
        axis = axis[0]
    if not isinstance(axis, (tuple, list)):
        return _vector_norm(x, ord, _axis(x.ndim, axis), keepdims)
    if ord is None and len(axis) > 2:
        return sqrt(_sum(squared(x), axis, keepdims=keepdims))
    if len(axis) != 2:
        raise ShapeError(f"{called()}: improper number of dimensions to norm: a norm of order {ord!r} is over 1 or 2 "
                         f"axes, not {len(axis)}")  # fmt: skip
    _axes(x, axis)  # refuses one that is named twice
    rows, columns = (_axis(x.ndim, a) for a in axis)
    return _matrix_norm(x, ord, rows, columns, keepdims)


def _vector_norm(x: Tensor, ord: Any, axis: int, keepdims: bool) -> Tensor:
    if ord is None or ord == 2:
        return sqrt(_sum(squared(x), axis, keepdims=keepdims))
    if isinstance(ord, str):
        raise ValueError(f"{called()}: invalid norm order {ord!r} for vectors")
    if math.isinf(ord):
        return (_max if ord > 0 else _min)(_abs(x), axis, keepdims=keepdims)
    if ord == 0:
        return _sum(astype(not_equal(x, 0), real_dtype(x.dtype)), axis, keepdims=keepdims)
    if ord == 1:
        return _sum(_abs(x), axis, keepdims=keepdims)
    return power(_sum(power(_abs(x), ord), axis, keepdims=keepdims), 1 / ord)


def _matrix_norm(x: Tensor, ord: Any, rows: int, columns: int, keepdims: bool) -> Tensor:
    if ord in (None, "f", "fro"):
        return sqrt(_sum(squared(x), (rows, columns), keepdims=keepdims))
    if ord in (2, -2, "nuc"):
        s = svdvals(moveaxis(x, (rows, columns), (-2, -1)))
        y = _sum(s, axis=-1) if ord == "nuc" else (_max if ord == 2 else _min)(s, axis=-1)
        return reshape(y, [1 if a in (rows, columns) else n for a, n in enumerate(x.shape)]) if keepdims else y
    if ord not in (1, -1, math.inf, -math.inf):
        raise ValueError(f"{called()}: invalid norm order {ord!r} for matrices")
    over, extreme = (rows, columns) if ord in (1, -1) else (columns, rows)
    sums = _sum(_abs(x), over, keepdims=True)
    y = (_max if ord > 0 else _min)(sums, extreme, keepdims=True)
    return y if keepdims else reshape(y, [n for a, n in enumerate(x.shape) if a not in (rows, columns)])


def vector_norm(x: Any, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Tensor:
    """The norm of vectors: of all elements by default, over several axes as of one."""
    x = inexact(x)
    if axis is None:
        y = _vector_norm(ravel(x), ord, 0, False)
        return reshape(y, (1,) * x.ndim) if keepdims else y
    axes = _axes(x, axis)
    others = [a for a in range(x.ndim) if a not in axes]
    flat = reshape(transpose(x, [*others, *axes]), (*[x.shape[a] for a in others], _size(x.shape[a] for a in axes)))
    y = _vector_norm(flat, ord, flat.ndim - 1, False)
    return reshape(y, [1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdims else y


def matrix_norm(x: Any, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """The norm of the matrices in the last two axes."""
    return norm(x, ord, (-2, -1), keepdims)


def cond(x: Any, p: Any = None) -> Tensor:
    """The condition number of matrices: the norm times that of the inverse, for any order `p` of `norm`; by default 2,
    the largest singular value by the smallest one.

    Raises LinAlgError for a singular matrix if `p` is neither None nor 2 or -2, where NumPy's result is infinite.
    """
    x = stack(x)
    if 0 in x.shape[-2:]:
        raise np.linalg.LinAlgError(f"{called()}: cond is not defined on empty arrays")
    if p in (None, 2, -2):
        s = svdvals(x)
        return divide(s[..., -1], s[..., 0]) if p == -2 else divide(s[..., 0], s[..., -1])
    x = squares(x)
    return multiply(norm(x, p, (-2, -1)), norm(inv(x), p, (-2, -1)))


__all__ = ["matrix_norm", "norm", "vector_norm"]  # beside NumPy's other functions
