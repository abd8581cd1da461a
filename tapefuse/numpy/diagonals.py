"""Triangles and diagonals of matrices and of stacks of them."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from tapefuse._errors import AxisError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Dim, Poly
from tapefuse.numpy.elementwise import less_equal, where
from tapefuse.numpy.reduce import sum as _sum
from tapefuse.numpy.shape import _axis, _counter, _refuse, _whole, broadcast_to, getitem, ravel, reshape, transpose
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor


def _matrices(x: Any) -> Tensor:
    x = as_tensor(x)
    if x.ndim == 0:
        raise ShapeError(f"{called()}: a scalar has no triangle; it needs an axis")
    return broadcast_to(x, (x.size, x.size)) if x.ndim == 1 else x


def _below(x: Tensor, k: int) -> Tensor:
    """Whether elements of the last two axes stand on or below the k-th diagonal."""
    rows, columns = (_counter(x.shape[a], a + 2, 2) for a in (-2, -1))
    return less_equal(columns, ops.add(rows, k))


def tril(x: Any, k: int = 0) -> Tensor:
    """`x` with zeros above the k-th diagonal; a vector is repeated as rows first."""
    x = _matrices(x)
    return where(_below(x, _whole(k, "k")), x, as_tensor(np.zeros((), x.dtype)))


def triu(x: Any, k: int = 0) -> Tensor:
    """`x` with zeros below the k-th diagonal; a vector is repeated as rows first."""
    x = _matrices(x)
    return where(_below(x, _whole(k, "k") - 1), as_tensor(np.zeros((), x.dtype)), x)


def diag(x: Any, k: int = 0) -> Tensor:
    """The k-th diagonal of a matrix, or the matrix that has a vector as its k-th diagonal and zeros elsewhere."""
    x, k = as_tensor(x), _whole(k, "k")
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ShapeError(f"{called()}: {x.type} is neither a vector nor a matrix")
    n = x.shape[0] + abs(k)  # element j stands at row j + max(-k, 0), column j + max(k, 0) of n
    first = max(-k, 0) * n + max(k, 0)
    spread = x.shape[0] + (x.shape[0] - 1) * n
    value = np.zeros((), x.dtype).item()
    flat = ops.pad(x, low=(first,), high=(n * n - first - spread,), interior=(n,), value=value)
    return reshape(flat, (n, n))


def diagflat(x: Any, k: int = 0) -> Tensor:
    """The matrix that has all elements of `x` as its k-th diagonal."""
    return diag(ravel(x), k)


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Diagonals of the matrices that two axes make, along a new last axis in place of both."""
    x, offset = as_tensor(x), _whole(offset, "offset")
    if x.ndim < 2:
        raise ShapeError(f"{called()}: {x.type} has no diagonal; it needs 2 axes")
    first, second = _axis(x.ndim, axis1), _axis(x.ndim, axis2)
    if first == second:
        raise AxisError(f"{called()}: axis1 and axis2 are both {first}; a diagonal needs two axes")
    rest = [a for a in range(x.ndim) if a not in (first, second)]
    x = transpose(x, [*rest, first, second])
    *lead, rows, columns = x.shape
    low, left = max(-offset, 0), max(offset, 0)
    n = _length(rows - low, columns - left)
    if isinstance(rows, Poly) or isinstance(columns, Poly):
        counter = reshape(_counter(n, 0, 1), (n,))
        return getitem(x, (Ellipsis, ops.add(counter, low), ops.add(counter, left)))
    if n == 0:
        return reshape(getitem(x, (Ellipsis, 0, slice(0, 0))) if rows else getitem(x, (Ellipsis, slice(0, 0))),
                       (*lead, 0))  # fmt: skip
    flat, start = reshape(x, (*lead, rows * columns)), low * columns + left
    return getitem(flat, (Ellipsis, slice(start, start + (n - 1) * (columns + 1) + 1, columns + 1)))


def _length(a: Dim, b: Dim) -> Dim:
    """The smaller of two extents. Raises ShapeError where that depends on sizes known at run time only."""
    if isinstance(a, Poly) or isinstance(b, Poly):
        if a != b:
            raise ShapeError(f"{called()}: whether {a} or {b} is smaller is known at run time only; slice first")
        return a
    return max(min(a, b), 0)


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Tensor:
    """The sum of a diagonal; bools and small integers are added up in 64 bits."""
    _refuse(out)
    return _sum(diagonal(x, offset, axis1, axis2), -1, dtype=dtype)


def fill_diagonal(x: Any, val: Any, wrap: bool = False) -> NoReturn:
    """An error: NumPy's function writes into its operand."""
    raise TypeError(
        f"{called()} writes into arrays, not into tensors; assign x[i, i] = value, or build the new value with "
        "tp.where(tp.eye(n, dtype=bool), val, x)"
    )


__all__ = [
    "diag",
    "diagflat",
    "diagonal",
    "fill_diagonal",
    "trace",
    "tril",
    "triu",
]
