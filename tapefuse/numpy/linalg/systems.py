"""Linear systems, inverses and determinants, under NumPy's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.ops.matrices import diagonal
from tapefuse.ir.types import real_dtype, size
from tapefuse.numpy.complex import conjugated, real
from tapefuse.numpy.creation import eye, zeros
from tapefuse.numpy.elementwise import abs as _abs
from tapefuse.numpy.elementwise import (
    add,
    ceil,
    divide,
    exp2,
    greater,
    less,
    log,
    log2,
    maximum,
    multiply,
    negative,
    not_equal,
    subtract,
    where,
)
from tapefuse.numpy.linalg.decompositions import cholesky, svdvals
from tapefuse.numpy.linalg.matrices import floating, leading, squared, squares, stack, together, with_lead
from tapefuse.numpy.linalg.products import matmul
from tapefuse.numpy.reduce import any as any_
from tapefuse.numpy.reduce import max as _max
from tapefuse.numpy.reduce import sum as _sum
from tapefuse.numpy.shape import (
    _axis,
    _fixed,
    _whole,
    broadcast_shapes,
    broadcast_to,
    moveaxis,
    ravel,
    reshape,
    transpose,
)
from tapefuse.tracer.control import while_loop
from tapefuse.tracer.promote import cast
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor

_NOT_GIVEN: Any = object()


class SlogdetResult(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class LstsqResult(NamedTuple):
    x: Tensor
    residuals: Tensor
    rank: Tensor
    s: Tensor


def _system(a: Any, b: Any) -> tuple[Tensor, Tensor, bool]:
    """Square matrices, right sides as matrices, and whether they were one vector. Raises LinAlgError."""
    a, b = together(a, b)
    a = squares(a)
    is_vector = b.ndim == 1
    b = reshape(b, (*b.shape, 1)) if is_vector else b
    if b.ndim < 2 or b.shape[-2] != a.shape[-1]:
        raise np.linalg.LinAlgError(
            f"{called()}: {b.type} is no right side for {a.type}: it must have {a.shape[-1]} rows"
        )
    return a, b, is_vector


def _solved(op: Any, a: Tensor, b: Tensor, **kind: bool) -> Tensor:
    """The solution of systems whose leading axes broadcast; one matrix takes the columns of all right sides at once."""
    if a.ndim == 2 < b.ndim:
        rank, shape = b.ndim, b.shape
        rows = transpose(b, (rank - 2, *range(rank - 2), rank - 1))
        x = op(a, reshape(rows, (shape[-2], size((*shape[:-2], shape[-1])))), **kind)
        return moveaxis(reshape(x, (shape[-2], *shape[:-2], shape[-1])), 0, rank - 2)
    lead = leading(a, b)
    return op(with_lead(a, lead), b if b.ndim == 2 else with_lead(b, lead), **kind)


def solve(a: Any, b: Any) -> Tensor:
    """The x with a @ x = b for square matrices; `b` is a vector only if it has one axis.

    Raises LinAlgError if a matrix is singular.
    """
    a, b, is_vector = _system(a, b)
    x = _solved(ops.solve, a, b)
    return reshape(x, x.shape[:-1]) if is_vector else x


def solve_triangular(
    a: Any, b: Any, trans: Any = 0, lower: bool = False, unit_diagonal: bool = False
) -> Tensor:
    """SciPy's: the x with a @ x = b for matrices of which only one triangle is read; a.T if `trans` is 1 or "T",
    the conjugate of that for 2 or "C".

    `unit_diagonal`: the diagonal is taken for 1. A 0 on the diagonal divides by zero.
    """
    if trans not in (0, 1, 2, "N", "T", "C"):
        raise ValueError(f"{called()}: trans is 0, 1, 2, 'N', 'T' or 'C', not {trans!r}")
    a, b, is_vector = _system(a, b)
    a = conjugated(a) if trans in (2, "C") else a
    kind = {"lower": bool(lower), "transpose": trans not in (0, "N"), "unit": bool(unit_diagonal)}
    x = _solved(ops.triangular_solve, a, b, **kind)
    return reshape(x, x.shape[:-1]) if is_vector else x


def inv(a: Any) -> Tensor:
    """The inverses of square matrices. Raises LinAlgError if one is singular."""
    return ops.inv(squares(a))


def det(a: Any) -> Tensor:
    """The determinants of square matrices. The gradient is also right for singular ones."""
    return ops.det(squares(a))


def slogdet(a: Any) -> SlogdetResult:
    """The sign of each determinant, of complex ones a number of modulus 1, and the logarithm of its absolute value."""
    y = ops.slogdet(squares(a))
    return SlogdetResult(y[..., 0], real(y[..., 1]))


def logdet(a: Any) -> Tensor:
    """The logarithm of the determinants of symmetric (Hermitian) positive definite matrices, of which the lower
    triangle is read.

    Raises LinAlgError if one is not positive definite.
    """
    return multiply(_sum(log(real(diagonal(cholesky(a)))), axis=-1), 2)


# -- least squares ----------------------------------------------------------------------------------------------------


def _precision(x: Tensor) -> float:
    """By default, singular values of at most so much of the largest one are taken for 0."""
    m, n = (_fixed(k, "the size of a matrix") for k in x.shape[-2:])
    return max(m, n) * float(np.finfo(x.dtype).eps)


def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = _NOT_GIVEN) -> Tensor:
    """The pseudo-inverses of matrices: singular values of at most `rcond` (1e-15, or `rtol`; None for the larger extent
    times the dtype's precision) of the largest one are taken for 0. It is one number, or an array of one for each
    matrix, which broadcasts.

    Derivatives are those of matrices whose rank stays the same.
    """
    a = stack(a)
    if rcond is not None and rtol is not _NOT_GIVEN:
        raise ValueError(f"{called()}: `rtol` and `rcond` can't be both set.")
    if rcond is None:
        rcond = 1e-15 if rtol is _NOT_GIVEN else _precision(a) if rtol is None else rtol
    rtol = as_tensor(rcond, real_dtype(a.dtype))
    rtol = cast(rtol, real_dtype(a.dtype))
    if rtol.ndim:
        lead = broadcast_shapes(a.shape[:-2], rtol.shape)
        a, rtol = with_lead(a, lead), broadcast_to(rtol, lead)
    return ops.pinv(a, rtol)


def _number(rcond: Any) -> float:
    if isinstance(rcond, Tensor) or np.ndim(rcond):
        raise ValueError(f"{called()}: the relative cutoff is one number, not {rcond!r}")
    return float(rcond)


def lstsq(a: Any, b: Any, rcond: Any = None) -> LstsqResult:
    """The x of least squares |b - a @ x|, and among them the shortest one; the sums of squares that are left; rank and
    singular values of `a`.

    Singular values of at most `rcond` (by default the larger extent times the dtype's precision) of the largest one are
    taken for 0. As in NumPy the sums are empty where the rank is less than the number of columns, or there are no more
    rows than columns; in traced code, where the rank is not known, they are those of full rank.
    """
    a, b = together(a, b)
    if a.ndim != 2 or b.ndim not in (1, 2) or a.shape[0] != b.shape[0]:
        raise np.linalg.LinAlgError(
            f"{called()}: {a.type} and {b.type} given: a matrix, and a vector or a matrix of as many rows, are needed"
        )
    cutoff = _precision(a) if rcond is None else float(np.finfo(a.dtype).eps) if rcond == -1 else _number(rcond)
    m, n = a.shape
    s = svdvals(a)
    rank = _rank(s, multiply(_first(s), cutoff))
    x = matmul(ops.pinv(a, as_tensor(cutoff, real_dtype(a.dtype))), b)
    left = subtract(b, matmul(a, x))
    sums = _sum(squared(left), axis=0, keepdims=b.ndim == 1)
    is_less = not isinstance(rank, TracedTensor) and int(rank) < n
    return LstsqResult(x, sums[:0] if m <= n or is_less else sums, rank, s)


def _first(s: Tensor) -> Tensor:
    """The largest singular value, as an array; 0 if there is none."""
    return s[..., :1] if s.shape[-1] else zeros((*s.shape[:-1], 1), s.dtype)


def _rank(s: Tensor, cutoff: Any) -> Tensor:
    return _sum(cast(greater(s, cutoff), np.dtype(np.int64)), axis=-1)


def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Tensor:
    """How many singular values are larger than `tol`, by default `rtol` (the larger extent times the dtype's precision)
    of the largest one."""
    a = as_tensor(A)
    if a.ndim < 2:
        return cast(any_(not_equal(a, 0)), np.dtype(np.int64))
    if tol is not None and rtol is not None:
        raise ValueError(f"{called()}: `tol` and `rtol` can't be both set.")
    s = svdvals(a)
    if tol is None:
        relative = _precision(floating(a)) if rtol is None else rtol
        return _rank(s, multiply(_first(s), as_tensor(relative)[..., None]))
    return _rank(s, as_tensor(tol)[..., None])


# -- tensors as matrices ----------------------------------------------------------------------------------------------


def tensorsolve(a: Any, b: Any, axes: Any = None) -> Tensor:
    """The x with tensordot(a, x, x.ndim) = b. `axes` of `a` are moved to the end first."""
    a, b = together(a, b)
    if axes is not None:
        moved = [_axis(a.ndim, k) for k in axes]
        a = transpose(a, [*(k for k in range(a.ndim) if k not in moved), *moved])
    shape = a.shape[-(a.ndim - b.ndim) :] if a.ndim > b.ndim else ()
    if size(shape) != size(a.shape[: b.ndim]):
        raise np.linalg.LinAlgError(
            f"{called()}: {a.type} must satisfy prod(a.shape[b.ndim:]) == prod(a.shape[:b.ndim]) for {b.type}"
        )
    n = size(shape)
    return reshape(solve(reshape(a, (n, n)), ravel(b)), shape)


def tensorinv(a: Any, ind: int = 2) -> Tensor:
    """The inverse for tensordot over `ind` axes: tensordot(tensorinv(a, ind), b, b.ndim) is tensorsolve(a, b)."""
    a, ind = floating(a), _whole(ind, "the number of axes")
    if ind <= 0:
        raise ValueError(f"{called()}: Invalid ind argument.")
    n = size(a.shape[:ind])
    if n != size(a.shape[ind:]):
        raise np.linalg.LinAlgError(f"{called()}: {a.type}: the first {ind} axes and the others hold different numbers")
    return reshape(inv(reshape(a, (n, n))), (*a.shape[ind:], *a.shape[:ind]))


def matrix_power(a: Any, n: int) -> Tensor:
    """The product of n copies of a square matrix, by squaring; the unit matrix for n = 0, inverses for n < 0."""
    x, n = as_tensor(a), _whole(n, "the exponent")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise np.linalg.LinAlgError(f"{called()}: {x.type} is no square matrix and no stack of them")
    if n == 0:
        return broadcast_to(eye(int(x.shape[-1]), dtype=x.dtype), x.shape)
    x, n, result = (inv(x), -n, None) if n < 0 else (x, n, None)
    while True:
        if n % 2:
            result = x if result is None else matmul(result, x)
        n //= 2
        if n == 0:
            assert result is not None
            return result
        x = matmul(x, x)


# -- the exponential --------------------------------------------------------------------------------------------------

_PADE = (64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000, 10559470521600,
         670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1)  # fmt: skip
_THETA = 5.371920351148152  # norm up to which the approximant of degree 13 is as good as double precision


def expm(a: Any) -> Tensor:
    """The exponential of square matrices: scaling, a Pade approximant of degree 13, squaring.

    Higham, The scaling and squaring method for the matrix exponential revisited (2005), algorithm 2.3.
    """
    x = squares(a)
    halvings = _halvings(ops.stop_gradient(x))
    x = multiply(x, _spread(exp2(negative(halvings))))
    even = [eye(int(x.shape[-1]), dtype=x.dtype)]
    even += [matmul(x, x)]
    even += [matmul(even[1], even[1])]
    even += [matmul(even[1], even[2])]

    def polynomial(first: int) -> Tensor:
        """The terms of even (`first` 0) or odd degree, without the factor x of the latter."""
        low = _combined(even, [_PADE[first + 2 * k] for k in range(4)])
        high = _combined(even[1:], [_PADE[first + 8 + 2 * k] for k in range(3)])
        return add(low, matmul(even[3], high))

    v, u = polynomial(0), matmul(x, polynomial(1))
    y = _solved(ops.solve, subtract(v, u), add(v, u))
    most = _max(halvings, initial=0)

    def squared(state: tuple) -> tuple:
        k, y = state
        return k + 1, where(less(k, _spread(halvings)), matmul(y, y), y)

    zero = multiply(ops.stop_gradient(most), 0)
    return while_loop(lambda state: less(state[0], most), squared, (zero, y))[1]


def _halvings(x: Tensor) -> Tensor:
    """How often each matrix is halved until its norm is at most _THETA, as a number of its dtype."""
    if x.shape[-1] == 0:
        return zeros(x.shape[:-2], real_dtype(x.dtype))
    norm = _max(_sum(_abs(x), axis=-2), axis=-1)
    return maximum(ceil(log2(divide(maximum(norm, _THETA), _THETA))), 0)


def _combined(terms: Sequence[Tensor], factors: Sequence[int]) -> Tensor:
    total = multiply(terms[0], float(factors[0]))
    for term, factor in zip(terms[1:], factors[1:], strict=True):
        total = add(total, multiply(term, float(factor)))
    return total


def _spread(x: Tensor) -> Tensor:
    """A number for each matrix, beside the matrices."""
    return reshape(x, (*x.shape, 1, 1))


__all__ = [
    "LstsqResult", "SlogdetResult", "det", "expm", "inv", "logdet", "lstsq", "matrix_power", "matrix_rank", "pinv",
    "slogdet", "solve", "solve_triangular", "tensorinv", "tensorsolve",
]  # fmt: skip
