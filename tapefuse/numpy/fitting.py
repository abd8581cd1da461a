"""Polynomials fitted to points, and divided, and their roots."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import real_dtype
from tapefuse.numpy.creation import zeros_like
from tapefuse.numpy.elementwise import astype, divide, multiply, negative, not_equal, sqrt, subtract
from tapefuse.numpy.joining import concatenate
from tapefuse.numpy.linalg import eigvals, inv, lstsq, matmul, outer
from tapefuse.numpy.polynomials import vander
from tapefuse.numpy.reduce import sum
from tapefuse.numpy.shape import _fixed, _whole, atleast_1d, expand_dims, getitem, transpose
from tapefuse.tracer.debugging import require
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called, user_stacklevel
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor

RankWarning = np.exceptions.RankWarning


def polyfit(x: Any, y: Any, deg: Any, rcond: Any = None, full: bool = False, w: Any = None, cov: Any = False) -> Any:
    """Coefficients, highest power first, of the polynomial of degree `deg` with least squares sum((w (p(x) - y))**2).

    `y` is [n], or [n, k] for k polynomials. With `full` also the sums of squares that are left, the rank and singular
    values of the scaled matrix of powers, and `rcond`; with `cov` the covariance of the coefficients, with "unscaled"
    for weights that are one by the standard deviation. Warns of a matrix that has not full rank (not in traces).
    Raises TypeError for points that do not fit, ValueError for a negative degree.
    """
    x, y = (_floating(as_tensor(v)) for v in (x, y))
    order = _whole(deg, "deg") + 1
    _check_points(x, y, order)
    rcond = _fixed(x.shape[0], "x") * float(np.finfo(x.dtype).eps) if rcond is None else rcond
    powers, target = _weighted(vander(x, order), y, w)
    scale = sqrt(sum(multiply(powers, powers), axis=0))
    scaled = divide(powers, scale)
    found, left, rank, s = lstsq(scaled, target, rcond)
    p = transpose(divide(transpose(found), scale))
    if full:
        return p, left, rank, s, rcond
    if not isinstance(rank, TracedTensor) and int(rank) != order:
        warnings.warn("Polyfit may be poorly conditioned", RankWarning, stacklevel=user_stacklevel())
    return (p, _covariance(scaled, scale, left, x, y, cov)) if cov else p


def _floating(x: Tensor) -> Tensor:
    return x if kind_of(x.dtype) in "fc" else astype(x, np.float64)


def _check_points(x: Tensor, y: Tensor, order: int) -> None:
    if order < 1:
        raise ValueError(f"{called()}: expected deg >= 0")
    for is_right, what in (
        (x.ndim == 1, "1D vector for x"),
        (x.ndim != 1 or x.shape[0] != 0, "non-empty vector for x"),
        (1 <= y.ndim <= 2, "1D or 2D array for y"),
        (y.ndim == 0 or x.ndim == 0 or x.shape[0] == y.shape[0], "x and y to have same length"),
    ):
        if not is_right:
            raise TypeError(f"{called()}: expected {what}, got x {x.type} and y {y.type}")


def _weighted(powers: Tensor, y: Tensor, w: Any) -> tuple[Tensor, Tensor]:
    if w is None:
        return powers, y
    w = _floating(as_tensor(w))
    if w.ndim != 1 or w.shape[0] != y.shape[0]:
        raise TypeError(f"{called()}: expected a 1-d array for weights of the same length as y, got {w.type}")
    column = expand_dims(w, 1)
    return multiply(powers, column), multiply(y, w if y.ndim == 1 else column)


def _covariance(scaled: Tensor, scale: Tensor, left: Tensor, x: Tensor, y: Tensor, cov: Any) -> Tensor:
    base = divide(inv(matmul(transpose(scaled), scaled)), outer(scale, scale))
    base = base if y.ndim == 1 else expand_dims(base, 2)
    if isinstance(cov, str) and cov == "unscaled":
        return base
    n, order = _fixed(x.shape[0], "x"), _fixed(scaled.shape[1], "the number of coefficients")
    if n <= order:
        raise ValueError(f"{called()}: the number of data points must exceed order to scale the covariance matrix")
    return multiply(base, divide(left, n - order))


def polydiv(u: Any, v: Any) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of two polynomials; leading zeros of the remainder are left out where its values are known
    (in traced code the remainder has the length of the divisor less one)."""
    u, v = (_floating(t) for t in common(atleast_1d(u), atleast_1d(v)))
    n, m = _fixed(u.shape[0], "u"), _fixed(v.shape[0], "v")
    steps, rest, quotient = max(n - m + 1, 1), u, []
    scale = divide(1.0, getitem(v, slice(0, 1)))
    for k in range(n - m + 1):
        d = multiply(scale, getitem(rest, slice(k, k + 1)))
        quotient.append(d)
        changed = subtract(getitem(rest, slice(k, k + m)), multiply(d, v))
        rest = concatenate([getitem(rest, slice(0, k)), changed, getitem(rest, slice(k + m, n))])
    q = concatenate(quotient) if quotient else zeros_like(getitem(u, slice(0, steps)))
    return q, _without_leading_zeros(rest, n - m + 1 if quotient else 0)


def _without_leading_zeros(r: Tensor, start: int) -> Tensor:
    """The remainder from `start`, where it may begin; with one entry left at least, as NumPy has it."""
    n = _fixed(r.shape[0], "the remainder")
    if isinstance(r, TracedTensor):
        return getitem(r, slice(min(start, n - 1), n))
    first = 0
    while first < n - 1 and np.allclose(r._array[first], 0, rtol=1e-14):
        first += 1
    return getitem(r, slice(first, n))


def roots(p: Any) -> Tensor:
    """The roots of the polynomial with coefficients `p`, highest power first: eigenvalues of its companion matrix.

    They are complex, and in no order, as those of `tp.linalg.eigvals`; no derivatives are passed on between equal ones.
    As NumPy does, leading zeros of `p` are left out, and trailing ones are roots 0 at the end, which have no
    derivatives. In traced code, where values are not known, nothing is left out: a program raises LinAlgError where the
    first coefficient is 0, and roots 0 stand somewhere. Raises ValueError unless `p` is a vector.
    """
    p = atleast_1d(p)
    if p.ndim != 1:
        raise ValueError(f"{called()}: Input must be a rank-1 array, not {p.type}")
    p, zeros = _between_zeros(_floating(p))
    n = max(_fixed(p.shape[0], "p") - 1, 0)
    if n == 0:
        return as_tensor(np.zeros(zeros, real_dtype(p.dtype)))
    first = divide(negative(getitem(p, slice(1, None))), getitem(p, slice(0, 1)))
    found = eigvals(concatenate([expand_dims(first, 0), as_tensor(np.eye(n - 1, n, dtype=p.dtype))]))
    return concatenate([found, as_tensor(np.zeros(zeros, found.dtype))]) if zeros else found


def _between_zeros(p: Tensor) -> tuple[Tensor, int]:
    """Coefficients without the zeros at both ends, and how many there were at the second one. All of traced ones, of
    which the first must not be 0 when the program runs."""
    count = _fixed(p.shape[0], "p")
    if isinstance(p, TracedTensor):
        text = f"{called()}: the first coefficient is 0, and how many roots there are has to be known while tracing"
        if count:
            require(not_equal(p[0], 0), np.linalg.LinAlgError(f"{text}; leave leading zeros out"))
        return p, 0
    places = np.flatnonzero(np.asarray(p)).tolist()
    if not places:
        return getitem(p, slice(0, 0)), 0
    return getitem(p, slice(places[0], places[-1] + 1)), count - places[-1] - 1


__all__ = ["polydiv", "polyfit", "roots"]
