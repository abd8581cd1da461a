"""Decompositions of matrices, under NumPy's names. Where vectors are determined up to their signs, they are NumPy's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.ops.matrices import rows, the_row
from tapefuse.numpy.complex import real
from tapefuse.numpy.creation import zeros
from tapefuse.numpy.elementwise import subtract
from tapefuse.numpy.linalg.matrices import squares, stack, symmetric, turned
from tapefuse.numpy.linalg.products import matmul
from tapefuse.numpy.shape import _fixed
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor


class EighResult(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


class SVDResult(NamedTuple):
    U: Tensor
    S: Tensor
    Vh: Tensor


class QRResult(NamedTuple):
    Q: Tensor
    R: Tensor


def cholesky(a: Any, *, upper: bool = False) -> Tensor:
    """The lower triangular L with a = L @ L.T for symmetric positive definite matrices, of which the lower triangle is
    read; if `upper`, the transpose of L, and the upper one. Of complex matrices, with conjugate transposes.

    The gradient is symmetric (Hermitian), as if both triangles were read. Raises LinAlgError if a matrix is not
    positive definite.
    """
    a = symmetric(squares(a))
    return turned(ops.cholesky(turned(a))) if upper else ops.cholesky(a)


def _half(a: Any, UPLO: str) -> tuple[Tensor, dict[str, bool]]:
    """Symmetric matrices, and which triangle is read. Raises ValueError, LinAlgError."""
    if str(UPLO).upper() not in ("L", "U"):
        raise ValueError(f"{called()}: UPLO argument must be 'L' or 'U'")
    return symmetric(squares(a)), {"upper": UPLO.upper() == "U"}


def eigh(a: Any, UPLO: str = "L") -> EighResult:
    """Eigenvalues, in ascending order, and eigenvectors (columns) of symmetric or Hermitian matrices.

    `UPLO`: which triangle is read; the gradient is symmetric (Hermitian). Eigenvectors of equal eigenvalues are not
    determined: no derivatives are passed on between these. Nor are the phases of complex eigenvectors: derivatives are
    right for what does not depend on them, and those of the vectors themselves turn no phase (the diagonal of v^H dv is
    0), as in JAX and PyTorch.
    """
    a, triangle = _half(a, UPLO)
    y = ops.eigh(a, **triangle)
    return EighResult(real(the_row(y, 0)), rows(y, 1, y.shape[-2]))


def eigvalsh(a: Any, UPLO: str = "L") -> Tensor:
    """The eigenvalues of symmetric or Hermitian matrices in ascending order; `UPLO`: which triangle is read. The
    gradient is symmetric (Hermitian)."""
    a, triangle = _half(a, UPLO)
    return ops.eigvalsh(a, **triangle)


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    """a = U @ diag(S) @ Vh, with singular values in descending order. Without `compute_uv` these alone.

    `full_matrices`: U and Vh are square; the vectors that belong to no singular value may differ from NumPy's, and turn
    with the others as little as possible. `hermitian` changes nothing here. Vectors of equal singular values are not
    determined: between these, no derivatives are passed on. Nor is the phase of each pair of complex vectors:
    derivatives are right for what does not depend on it, and those of Vh itself turn no phase, as in JAX.
    """
    a = stack(a)
    if not compute_uv:
        return ops.svdvals(a)
    y, m = ops.svd(a), a.shape[-2]
    u, s, v = rows(y, 0, m), the_row(y, m), rows(y, m + 1, y.shape[-2])
    if full_matrices:
        u, v = _completed(u), _completed(v)
    return SVDResult(u, real(s), turned(v))


def svdvals(x: Any, /) -> Tensor:
    """The singular values of matrices in descending order."""
    return ops.svdvals(stack(x))


def qr(a: Any, mode: str = "reduced") -> Any:
    """a = Q @ R with orthonormal columns and an upper triangle, min(m, n) of them if `mode` is "reduced", m if it is
    "complete"; R alone for "r".

    Derivatives are those of matrices whose first min(m, n) columns are independent.
    """
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"{called()}: mode is 'reduced', 'complete' or 'r', not {mode!r}")
    a = stack(a)
    y, m = ops.qr(a), a.shape[-2]
    q, r = rows(y, 0, m), turned(rows(y, m, y.shape[-2]))
    if mode == "r":
        return r
    if mode == "complete" and m != q.shape[-1]:
        missing = zeros((*r.shape[:-2], m - r.shape[-2], r.shape[-1]), r.dtype)
        q, r = _completed(q), ops.concat(r, missing, axis=r.ndim - 2)
    return QRResult(q, r)


def _completed(q: Tensor) -> Tensor:
    """Orthonormal columns and others that make them a square matrix.

    These span what the projection 1 - q q^T leaves, and move no more than they have to: what is projected at first,
    made orthonormal again, whose derivatives to any order are those of a basis.
    """
    m, p = (_fixed(n, "the size of a matrix") for n in q.shape[-2:])
    if m == p:
        return q
    unit = np.eye(m, dtype=q.dtype)
    outside = ops.stop_gradient(subtract(unit, matmul(q, turned(q))))
    basis = rows(turned(rows(ops.eigh(outside, upper=False), 1, m + 1)), p, m)  # rows: of the eigenvalues that are 1
    seen = subtract(turned(basis), matmul(q, matmul(turned(q), turned(basis))))
    factor = ops.cholesky(symmetric(matmul(turned(seen), seen)))
    rest = turned(ops.triangular_solve(factor, turned(seen), lower=True, transpose=False, unit=False))
    return ops.concat(q, rest, axis=q.ndim - 1)


__all__ = ["EighResult", "QRResult", "SVDResult", "cholesky", "eigh", "eigvalsh", "qr", "svd", "svdvals"]
