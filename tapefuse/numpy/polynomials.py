"""Polynomials by their coefficients (highest power first), convolution of vectors, and linear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.numpy.complex import conjugated, real
from tapefuse.numpy.elementwise import add, astype, divide, inexact, mod, multiply, real_only, subtract, where
from tapefuse.numpy.joining import concatenate, stack
from tapefuse.numpy.linalg import eigvals, matmul
from tapefuse.numpy.shape import (
    _at_axis,
    _fixed,
    _whole,
    atleast_1d,
    broadcast_to,
    flip,
    getitem,
    reshape,
)
from tapefuse.numpy.sorting import argsort, searchsorted
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

_FLOAT = np.dtype(np.float64)


def _length(x: Tensor, what: str) -> int:
    if x.ndim != 1:
        raise ShapeError(f"{called()}: {what} must be a vector, not {x.type}")
    return _fixed(x.shape[0], what)


def _zero(x: Tensor) -> Tensor:
    return as_tensor(np.zeros((), x.dtype))


# -- convolution ----------------------------------------------------------------------------------------------------


def convolve(x: Any, y: Any, mode: str = "full") -> Tensor:
    """The sums of products of `x` and reversed `y` at every shift: full, "same" (the longer one's length), "valid"."""
    a, b = common(atleast_1d(x), atleast_1d(y))
    a, b = (a, b) if _length(a, "the first operand") >= _length(b, "the second operand") else (b, a)
    return _correlated(a, flip(b, 0), mode)


def correlate(x: Any, y: Any, mode: str = "valid") -> Tensor:
    """The sums of products of `x` and shifted (conjugate) `y`: "full", "same" (the longer one's length), or "valid"."""
    a, b = common(atleast_1d(x), atleast_1d(y))
    if _length(a, "the first operand") < _length(b, "the second operand"):
        return flip(_correlated(conjugated(b), a, mode), 0)
    return _correlated(a, conjugated(b), mode)


def _correlated(a: Tensor, b: Tensor, mode: str) -> Tensor:
    """The sums of products at those shifts that the mode has; `a` is at least as long as `b`."""
    n, m = _length(a, "the longer operand"), _length(b, "the shorter operand")
    if m == 0:
        raise ValueError(f"{called()}: operands must not be empty")
    if mode not in ("full", "same", "valid"):
        raise ValueError(f"{called()}: mode must be 'full', 'same' or 'valid', not {mode!r}")
    low, high = {"full": (m - 1, m - 1), "same": (m // 2, (m - 1) // 2), "valid": (0, 0)}[mode]
    if kind_of(a.dtype) == "f" and a.dtype.itemsize > 2:
        spatial = {"strides": (1,), "low": (low,), "high": (high,), "dilation": (1,)}
        return reshape(ops.conv(reshape(a, (1, n, 1)), reshape(b, (m, 1, 1)), **spatial), (n + low + high - m + 1,))
    padded = ops.pad(a, low=(low,), high=(high,), interior=(0,), value=np.zeros((), a.dtype).item())
    windows = np.arange(n + low + high - m + 1)[:, None] + np.arange(m)
    return matmul(getitem(padded, windows), b)


# -- polynomials ----------------------------------------------------------------------------------------------------


def polyval(p: Any, x: Any) -> Tensor:
    """The polynomial with coefficients `p`, highest power first, at `x` (Horner)."""
    p, x = common(p, x)
    y = broadcast_to(_zero(x), x.shape)
    for k in range(_length(p, "coefficients")):
        y = add(multiply(y, x), _at_axis(p, 0, k))
    return y


def polyadd(x: Any, y: Any) -> Tensor:
    """Coefficients of the sum of two polynomials."""
    a, b = (_lengthened(v, x, y) for v in (x, y))
    return add(a, b)


def polysub(x: Any, y: Any) -> Tensor:
    """Coefficients of the difference of two polynomials."""
    a, b = (_lengthened(v, x, y) for v in (x, y))
    return subtract(a, b)


def _lengthened(v: Any, *all_of_them: Any) -> Tensor:
    p = atleast_1d(v)
    most = max(_length(atleast_1d(w), "coefficients") for w in all_of_them)
    value = np.zeros((), p.dtype).item()
    return ops.pad(p, low=(most - _length(p, "coefficients"),), high=(0,), interior=(0,), value=value)


def polymul(x: Any, y: Any) -> Tensor:
    """Coefficients of the product of two polynomials."""
    return convolve(x, y)


def poly(seq_of_zeros: Any) -> Tensor:
    """Coefficients of the polynomial that has these roots, the first of them 1; of a square matrix, its characteristic
    polynomial. They are complex for complex roots, where NumPy's dtype depends on the values.
    """
    roots = atleast_1d(seq_of_zeros)
    if roots.ndim == 2 and roots.shape[0] == roots.shape[1] != 0:
        p = poly(eigvals(roots))
        return p if roots.dtype.kind == "c" else real(p)
    roots = inexact(roots)
    p = as_tensor(np.ones(1, roots.dtype))
    for k in range(_length(roots, "roots")):
        zero = as_tensor(np.zeros(1, roots.dtype))
        p = subtract(concatenate([p, zero]), multiply(_at_axis(roots, 0, k), concatenate([zero, p])))
    return p


def polyder(p: Any, m: int = 1) -> Tensor:
    """Coefficients of the m-th derivative of a polynomial."""
    p, m = as_tensor(p), _whole(m, "the order")
    if m < 0:
        raise ValueError(f"{called()}: order of derivative must be positive (see polyint)")
    n = _length(p, "coefficients")
    for _ in range(m):
        n = max(n - 1, 0)
        p = multiply(getitem(p, slice(0, n)), as_tensor(np.arange(n, 0, -1)))
    return p


def polyint(p: Any, m: int = 1, k: Any = None) -> Tensor:
    """Coefficients of the m-th integral of a polynomial, with constants of integration `k` (0 by default)."""
    p, m = as_tensor(p), _whole(m, "the order")
    if m < 0:
        raise ValueError(f"{called()}: order of integral must be positive (see polyder)")
    constants = atleast_1d(np.zeros(m) if k is None else k)
    if m and constants.shape[0] == 1 and m > 1:
        constants = broadcast_to(constants, (m,))
    if constants.shape[0] < m:
        raise ValueError(f"{called()}: k must be a scalar or a rank-1 array of length 1 or >m")
    p = p if m == 0 or kind_of(p.dtype) in "fc" else astype(p, _FLOAT)
    for j in range(m):
        n = _length(p, "coefficients")
        p = concatenate([divide(p, as_tensor(np.arange(n, 0, -1, dtype=p.dtype))),
                         astype(getitem(constants, slice(j, j + 1)), p.dtype)])  # fmt: skip
    return p


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of the elements of a vector as columns, highest first unless `increasing`."""
    x = as_tensor(x)
    if x.ndim != 1:
        raise ShapeError(f"{called()}: x must be a one-dimensional array or sequence, not {x.type}")
    count = _fixed(x.shape[0], "x") if N is None else _whole(N, "N")
    x = astype(x, np.promote_types(x.dtype, int))
    one = broadcast_to(as_tensor(np.ones((), x.dtype)), x.shape)
    powers = [one]
    while len(powers) < count:
        powers.append(multiply(powers[-1], x) if len(powers) > 1 else x)
    if count == 0:
        return getitem(reshape(x, (x.shape[0], 1)), (slice(None), slice(0, 0)))
    return stack(powers if increasing else powers[::-1], axis=1)


# -- interpolation --------------------------------------------------------------------------------------------------


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Tensor:
    """The piecewise linear function through the points (xp, fp), xp increasing, at `x`, in float64.

    Outside it is `left` and `right`, the first and last of fp by default. With a `period`, points and x are taken
    modulo it, and need no order. Differentiable for x (between points), xp and fp.
    """
    x, xp, fp = _points(x, xp, fp)
    x, xp = real_only(x), real_only(xp)
    n = _length(xp, "xp")
    if _length(fp, "fp") != n:
        raise ShapeError(f"{called()}: fp and xp are not of the same length: {fp.type} and {xp.type}")
    if n == 0:
        raise ValueError(f"{called()}: array of sample points is empty")
    if period is not None:
        x, xp, fp, n = *_periodic(x, xp, fp, period), n + 2
    if n == 1:
        inside = broadcast_to(_at_axis(fp, 0, 0), x.shape)
    else:
        k = ops.minimum(ops.maximum(searchsorted(xp, x, "right"), 1), n - 1)
        x0, x1, y0, y1 = (ops.gather(v, i) for v in (xp, fp) for i in (subtract(k, 1), k))
        slope = divide(subtract(y1, y0), subtract(x1, x0))
        inside = add(y0, multiply(slope, subtract(x, x0)))
        inside = where(ops.eq(x, _at_axis(xp, 0, n - 1)), _at_axis(fp, 0, n - 1), inside)
    if period is not None:
        return inside
    first, last = (astype(as_tensor(_at_axis(fp, 0, k) if v is None else v, fp.dtype), fp.dtype)
                   for v, k in ((left, 0), (right, n - 1)))  # fmt: skip
    y = where(ops.lt(x, _at_axis(xp, 0, 0)), first, inside)
    return where(ops.gt(x, _at_axis(xp, 0, n - 1)), last, y)


def _points(*given: Any) -> list[Tensor]:
    """In float64 (complex128), as NumPy does whatever the operands are."""
    tensors = [as_tensor(x, _FLOAT if python_kind(x) is not complex else None) for x in given]
    return [astype(x, np.complex128 if x.dtype.kind == "c" else _FLOAT) for x in tensors]


def _periodic(x: Tensor, xp: Tensor, fp: Tensor, period: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Everything modulo the period, the points sorted and continued by one on each side."""
    if not isinstance(period, Tensor) and period == 0:
        raise ValueError(f"{called()}: period must be a non-zero value")
    length = ops.abs(astype(as_tensor(period, x.dtype), x.dtype))
    x, xp = mod(x, length), mod(xp, length)
    order = argsort(xp)
    xp, fp = ops.gather(xp, order), ops.gather(fp, order)
    n = _length(xp, "xp")
    ends = (slice(n - 1, n), slice(0, 1))
    before, after = (getitem(xp, s) for s in ends)
    xp = concatenate([subtract(before, length), xp, add(after, length)])
    return x, xp, concatenate([getitem(fp, ends[0]), fp, getitem(fp, ends[1])])


__all__ = [
    "convolve",
    "correlate",
    "interp",
    "poly",
    "polyadd",
    "polyder",
    "polyint",
    "polymul",
    "polysub",
    "polyval",
    "vander",
]
