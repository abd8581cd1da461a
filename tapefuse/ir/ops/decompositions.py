"""Decompositions and solutions of linear systems, by the functions behind `numpy.linalg`.

Operands are matrices, or stacks of them with the same leading axes. An op has one result: what belongs to one matrix is
put together, `eigh(a) : f64[..., n + 1, n]` has the eigenvalues in the first row and the eigenvectors below it.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import defop
from tapefuse.ir.ops.elementwise import add, mul, neg
from tapefuse.ir.ops.family import draw, nullary, same_dtype, shape_of
from tapefuse.ir.ops.linalg import _transposed, matmul
from tapefuse.ir.ops.logic import ge, gt, select
from tapefuse.ir.ops.shape import iota
from tapefuse.ir.types import Type, show_shape

INT64 = np.dtype(np.int64)


def _square(a: Type) -> Any:
    """The extent of square matrices. Raises ShapeError."""
    same_dtype([a], "f")
    if len(a.shape) < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"{show_shape(a.shape)} is no square matrix and no stack of them")
    return a.shape[-1]


def _triangle(x: Any, strict: bool = False, upper: bool = False) -> Any:
    """The lower triangle of matrices, or the upper one; zeros elsewhere. `strict`: without the diagonal."""
    m, n = shape_of(x)[-2:]
    i, j = (nullary(iota, x, shape=s, axis=a, dtype=INT64) for a, s in enumerate(((m, 1), (1, n))))
    return select((gt if strict else ge)(*((j, i) if upper else (i, j))), x, 0)


def _mirrored(x: Any) -> Any:
    """The symmetric matrix whose lower triangle is that of `x`."""
    return add(_triangle(x), _transposed(_triangle(x, strict=True)))


def _gathered(x: Any) -> Any:
    """The transpose of `_mirrored`: a symmetric cotangent as one of the lower triangle alone."""
    return add(_triangle(x), _transposed(_triangle(x, strict=True, upper=True)))


def _definite(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Symmetric matrices with eigenvalues of at least 1."""
    x = draw(rng, np.float64, shape)
    return np.asarray(x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1]), dtype)


@defop
class cholesky:
    """The lower triangular L with a = L L^T for symmetric positive definite matrices, of which the lower triangle is
    read. Derivatives: Murray, Differentiation of the Cholesky decomposition (2016)."""

    def ref(a):
        return np.linalg.cholesky(a)

    def type(a):
        _square(a)
        return a

    def vjp(g, y, a):
        return [g]

    def jvp(ts, y, a):
        return ts[0]

    def batch(flags, a):
        return cholesky(a)

    def calls(k, y, a):
        n = a.shape[-1]
        k.call("linalg.cholesky_lo", (n,), k.operand(a, 2), k.operand(y, 2), terms=n * n * n)

    def sample(rng, dtype):
        return [((_definite(rng, dtype, s),), {}) for s in ((3, 3), (7, 2, 2), (1, 1), (2, 0, 0))]

    failure = "Matrix is not positive definite"
    library = "numpy"
