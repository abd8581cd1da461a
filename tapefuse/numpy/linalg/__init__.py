"""Linear algebra: the functions of `numpy.linalg`, and `expm`, `solve_triangular` and `logdet`.

    tp.linalg.solve(a, b)      np.linalg.cholesky(tensor)      tp.linalg.svd(x, full_matrices=False).S

All take stacks of matrices and are differentiable to any order, eagerly and compiled: docs/linear-algebra.md.
What stands among NumPy's other functions as well, `np.dot` or `tp.norm`, is in the `__all__` of `products` and `norms`.
"""

from __future__ import annotations

from typing import Any

from tapefuse.numpy import diagonals
from tapefuse.numpy.linalg.decompositions import (
    EighResult,
    QRResult,
    SVDResult,
    cholesky,
    eigh,
    eigvalsh,
    qr,
    svd,
    svdvals,
)
from tapefuse.numpy.linalg.eigen import EigResult, eig, eigvals
from tapefuse.numpy.linalg.norms import cond, matrix_norm, norm, vector_norm
from tapefuse.numpy.linalg.products import (
    cross,
    dot,
    inner,
    kron,
    matmul,
    matvec,
    multi_dot,
    outer,
    tensordot,
    vdot,
    vecdot,
    vecmat,
)
from tapefuse.numpy.linalg.systems import (
    LstsqResult,
    SlogdetResult,
    det,
    expm,
    inv,
    logdet,
    lstsq,
    matrix_power,
    matrix_rank,
    pinv,
    slogdet,
    solve,
    solve_triangular,
    tensorinv,
    tensorsolve,
)
from tapefuse.numpy.shape import matrix_transpose
from tapefuse.tracer.tensor import Tensor


def diagonal(x: Any, /, *, offset: int = 0) -> Tensor:
    """The diagonals of matrices."""
    return diagonals.diagonal(x, offset, -2, -1)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sums along the diagonals of matrices."""
    return diagonals.trace(x, offset, -2, -1, dtype)


__all__ = [
    "EigResult",
    "EighResult",
    "LstsqResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "dot",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "expm",
    "inner",
    "inv",
    "kron",
    "logdet",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "matvec",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "tensorinv",
    "tensorsolve",
    "trace",
    "vdot",
    "vecdot",
    "vecmat",
    "vector_norm",
]
