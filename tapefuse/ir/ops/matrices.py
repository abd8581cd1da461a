"""What rules about matrices are written with: transposes, triangles, diagonals, scaled rows and columns, stacks.

Of complex matrices, `transposed` is the conjugate transpose, and what is symmetric of real ones is Hermitian.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.ops.complex import complex, imag, real
from tapefuse.ir.ops.elementwise import add, div, mul, sub
from tapefuse.ir.ops.family import (
    INT64,
    batch_size,
    draw,
    dtype_of,
    expand,
    nullary,
    same_dtype,
    shape_of,
    with_batch,
    zeros_like,
)
from tapefuse.ir.ops.linalg import _transposed as transposed
from tapefuse.ir.ops.linalg import matmul
from tapefuse.ir.ops.logic import eq, ge, gt, select
from tapefuse.ir.ops.reduce import reduce_sum
from tapefuse.ir.ops.shape import iota, reshape
from tapefuse.ir.ops.slicing import concat, slice_
from tapefuse.ir.types import Dim, Type, show_shape

# -- type rules -------------------------------------------------------------------------------------------------------


def square(a: Type) -> Dim:
    """The extent of square matrices. Raises ShapeError, DTypeError."""
    same_dtype([a], "fc")
    if len(a.shape) < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"{show_shape(a.shape)} is no square matrix and no stack of them")
    return a.shape[-1]


def rectangular(a: Type) -> tuple[Dim, Dim, Dim]:
    """The extents of matrices, and the smaller one. Raises ShapeError, DTypeError."""
    same_dtype([a], "fc")
    if len(a.shape) < 2:
        raise ShapeError(f"{show_shape(a.shape)} is no matrix and no stack of them")
    m, n = a.shape[-2:]
    if m == n:
        return m, n, m
    if not (isinstance(m, int) and isinstance(n, int)):
        raise ShapeError(f"it must be known which of {m} and {n} is smaller; give the matrices fixed sizes")
    return m, n, min(m, n)


def system(a: Type, b: Type) -> Type:
    """The type of the solution of a x = b: both are matrices, or stacks of them with the same leading axes; one of them
    may be a single matrix. Raises ShapeError, DTypeError."""
    dtype = same_dtype([a, b], "fc")
    n = square(a)
    if len(b.shape) < 2 or b.shape[-2] != n:
        raise ShapeError(f"the right side {show_shape(b.shape)} must have {n} rows, as {show_shape(a.shape)} has")
    leads = [x.shape[:-2] for x in (a, b) if len(x.shape) > 2]
    if len(set(leads)) > 1:
        raise ShapeError(f"the leading axes of {show_shape(a.shape)} and {show_shape(b.shape)} differ")
    return Type(dtype, (*(leads[0] if leads else ()), *b.shape[-2:]))


def batched_system(flags: Sequence[bool], a: Any, b: Any) -> list[Any]:
    """Operands of a system, of which some have a batch axis, with leading axes as `system` wants them."""
    n = batch_size(flags, (a, b))
    lead = max((shape_of(x)[f:-2] for f, x in zip(flags, (a, b), strict=True)), key=len)

    def whole(is_batched: bool, x: Any) -> Any:
        own, core = shape_of(x)[is_batched:-2], shape_of(x)[-2:]
        if not is_batched:
            return with_batch(x, n) if own else x
        return x if own == lead else expand(x, (n, *lead, *core), range(1, 1 + len(lead)))

    return [whole(f, x) for f, x in zip(flags, (a, b), strict=True)]


# -- parts of matrices ------------------------------------------------------------------------------------------------


def triangle(x: Any, *, strict: bool = False, upper: bool = False) -> Any:
    """The lower triangle of matrices, or the upper one; zeros elsewhere. `strict`: without the diagonal."""
    i, j = _places(x)
    return select((gt if strict else ge)(*((j, i) if upper else (i, j))), x, 0)


def halved(x: Any) -> Any:
    """The lower triangle with half of the diagonal."""
    return sub(triangle(x), mul(from_diagonal(diagonal(x)), 0.5))


def mirrored(x: Any) -> Any:
    """The symmetric matrix whose lower triangle is that of `x`."""
    return with_real_diagonal(add(triangle(x), transposed(triangle(x, strict=True))))


def folded_down(x: Any) -> Any:
    """The transpose of `mirrored`: the upper triangle added to the lower one."""
    return with_real_diagonal(add(triangle(x), transposed(triangle(x, strict=True, upper=True))))


def symmetric(x: Any) -> Any:
    """(x + x^T) / 2"""
    return mul(add(x, transposed(x)), 0.5)


def antisymmetric(x: Any) -> Any:
    """x - x^T"""
    return sub(x, transposed(x))


def diagonal(x: Any) -> Any:
    """The diagonals of square matrices."""
    i, j = _places(x)
    return reduce_sum(select(eq(i, j), x, 0), axes=(len(shape_of(x)) - 1,))


def from_diagonal(d: Any) -> Any:
    """Square matrices with these diagonals, and zeros elsewhere."""
    *lead, n = shape_of(d)
    across = reshape(d, shape=(*lead, 1, n))
    i, j = (nullary(iota, d, shape=s, axis=a, dtype=INT64) for a, s in enumerate(((n, 1), (1, n))))
    return select(eq(i, j), across, 0)


def is_complex(x: Any) -> bool:
    return bool(dtype_of(x).kind == "c")


def on_real_line(x: Any) -> Any:
    """`x` without imaginary parts, in its dtype."""
    return complex(real(x), zeros_like(real(x))) if is_complex(x) else x


def on_imaginary_line(x: Any) -> Any:
    """Complex `x` without real parts."""
    return complex(zeros_like(imag(x)), imag(x))


def with_real_diagonal(x: Any) -> Any:
    """Square matrices, without the imaginary parts of their diagonals."""
    return sub(x, from_diagonal(on_imaginary_line(diagonal(x)))) if is_complex(x) else x


def as_kind_of(x: Any, d: Any) -> Any:
    """Real `d`, as complex numbers if `x` is complex."""
    return complex(d, zeros_like(d)) if is_complex(x) else d


def _places(x: Any) -> tuple[Any, Any]:
    """Row and column of each element, as a column and a row."""
    m, n = shape_of(x)[-2:]
    return nullary(iota, x, shape=(m, 1), axis=0, dtype=INT64), nullary(iota, x, shape=(1, n), axis=1, dtype=INT64)


def row(d: Any) -> Any:
    """Vectors as matrices of one row: what scales columns."""
    *lead, n = shape_of(d)
    return reshape(d, shape=(*lead, 1, n))


def column(d: Any) -> Any:
    """Vectors as matrices of one column: what scales rows."""
    *lead, n = shape_of(d)
    return reshape(d, shape=(*lead, n, 1))


def rows(x: Any, start: Dim, limit: Dim) -> Any:
    """Some rows of matrices."""
    *lead, _, n = shape_of(x)
    starts, limits = (*(0 for _ in lead), start, 0), (*lead, limit, n)
    return slice_(x, starts=starts, limits=limits, strides=(1,) * len(starts))


def the_row(x: Any, k: Dim) -> Any:
    """One row of matrices, as vectors."""
    *lead, _, n = shape_of(x)
    return reshape(rows(x, k, k + 1), shape=(*lead, n))


def stacked(*parts: Any) -> Any:
    """Matrices, one below the other."""
    return concat(*parts, axis=len(shape_of(parts[0])) - 2)


def gaps_inverted(d: Any) -> Any:
    """1 / (d_j - d_i) at i, j; 0 where they are equal, so that what is not determined has no derivative."""
    gaps = sub(row(d), column(d))
    is_tie = eq(gaps, 0)
    return select(is_tie, 0, div(1, select(is_tie, 1, gaps)))


def square_gaps_inverted(d: Any) -> Any:
    """1 / (d_j^2 - d_i^2) at i, j for numbers that are not negative; 0 where they are equal."""
    return mul(gaps_inverted(d), inverted(add(row(d), column(d))))


def inverted(d: Any) -> Any:
    """1 / d, 0 for 0."""
    is_zero = eq(d, 0)
    return select(is_zero, 0, div(1, select(is_zero, 1, d)))


def dotted(a: Any, b: Any) -> Any:
    """The sum of products of elements of matrices."""
    rank = len(shape_of(a))
    return reduce_sum(mul(a, b), axes=(rank - 2, rank - 1))


def scaled(c: Any, x: Any) -> Any:
    """Matrices, each times a number of its own."""
    return mul(reshape(c, shape=(*shape_of(c), 1, 1)), x)


def product(*factors: Any) -> Any:
    """The product of matrices, from the left."""
    return reduce(matmul, factors)


# -- samples ----------------------------------------------------------------------------------------------------------


def regular(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices far from singular: singular values between 1 and 2.5, far from each other."""
    m, n = shape[-2:]
    p = min(m, n)
    u, _, vh = np.linalg.svd(draw(rng, np.result_type(dtype, np.float64), shape), full_matrices=False)
    return np.asarray((u * (1 + 1.5 * (np.arange(p) + 0.5) / max(p, 1))) @ vh, dtype)


def definite(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Symmetric matrices with eigenvalues between 1 and 2.5, far from each other."""
    x = regular(rng, np.result_type(dtype, np.float64), shape)
    u, s, _ = np.linalg.svd(x)
    return np.asarray((u * s[..., None, :]) @ np.swapaxes(np.conj(u), -1, -2), dtype)
