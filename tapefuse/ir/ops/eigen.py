"""Eigenvalues and eigenvectors of general matrices, which are complex.

Complex numbers are pairs of real ones along a last axis, as in `ir.ops.fourier`: [..., n, n] or, if `paired`,
[..., n, n, 2] gives [..., n + 1, n, 2], the eigenvalues in the first row and the eigenvectors (columns) below it. These
have length 1, and the largest element of each is real.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import defop
from tapefuse.ir.ops.complex import complex, conj, imag, real
from tapefuse.ir.ops.elementwise import add, div, mul, neg, sub
from tapefuse.ir.ops.family import INT64, draw, dtype_of, nullary, same_dtype, shape_of, zeros_like
from tapefuse.ir.ops.fourier import from_pairs, pairs
from tapefuse.ir.ops.linalg import matmul
from tapefuse.ir.ops.logic import cast, eq
from tapefuse.ir.ops.matrices import (
    column,
    diagonal,
    from_diagonal,
    gaps_inverted,
    regular,
    row,
    rows,
    stacked,
    the_row,
    transposed,
)
from tapefuse.ir.ops.reduce import argmax, reduce_sum
from tapefuse.ir.ops.shape import iota
from tapefuse.ir.ops.slicing import concat
from tapefuse.ir.ops.systems import solve
from tapefuse.ir.types import Type, complex_dtype, show_shape

DOUBLE, COMPLEX = np.dtype(np.float64), np.dtype(np.complex128)
FAILURE = "Eigenvalues did not converge, or there are infs or nans"


def _extent(a, paired):
    """The extent of square matrices. Raises ShapeError, DTypeError."""
    same_dtype([a], "f")
    shape = a.shape[:-1] if paired else a.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or paired and a.shape[-1] != 2:
        raise ShapeError(f"{show_shape(a.shape)} is no square matrix and no stack of them")
    return shape[-1]


def _lead(a, paired):
    return a.shape[: len(a.shape) - 2 - paired]


def _solved(v, x):
    """v^-1 x of complex matrices, as the solution of a real system of twice as many equations."""
    n, rank = shape_of(v)[-1], len(shape_of(v))
    blocks = ((real(v), neg(imag(v))), (imag(v), real(v)))
    y = solve(stacked(*(concat(*pair, axis=rank - 1) for pair in blocks)), stacked(real(x), imag(x)))
    return complex(rows(y, 0, n), rows(y, n, 2 * n))


def _as_complex(a, paired):
    return from_pairs(a) if paired else complex(a, zeros_like(a))


def _as_operand(g, paired):
    """A complex cotangent as that of the operand."""
    return pairs(g) if paired else real(g)


def _decomposed(y):
    """Eigenvalues and eigenvectors."""
    z = from_pairs(y)
    return the_row(z, 0), rows(z, 1, shape_of(z)[-2])


def _over_rows(x):
    return reduce_sum(x, axes=(len(shape_of(x)) - 2,))


def _largest(v):
    """1 at the element of each column that has the largest absolute value, 0 elsewhere; and these elements, which are
    real."""
    axis = len(shape_of(v)) - 2
    squares = mul(real(v), real(v))
    place = nullary(iota, v, shape=(shape_of(v)[-2], 1), axis=0, dtype=INT64)
    unit = cast(eq(place, row(argmax(squares, axis=axis))), dtype=dtype_of(squares))
    return unit, _over_rows(mul(unit, real(v)))


def _normalised(v, u):
    """The tangent of eigenvectors from a tangent `u` along which their lengths and phases change."""
    if shape_of(v)[-1] == 0:
        return u
    unit, most = _largest(v)
    longer, turned = real(_over_rows(mul(conj(v), u))), div(_over_rows(mul(unit, imag(u))), most)
    return sub(u, mul(v, row(complex(longer, turned))))


def _unnormalised(v, g):
    """The transpose of `_normalised`."""
    if shape_of(v)[-1] == 0:
        return g
    unit, most = _largest(v)
    c = _over_rows(mul(conj(g), v))
    turned = mul(unit, row(div(imag(c), most)))
    return add(sub(g, mul(v, row(complex(real(c), zeros_like(real(c)))))), complex(zeros_like(turned), turned))


def _slopes(v, a, paired):
    """v^-1 da v, whose diagonal are the tangents of the eigenvalues."""
    return _solved(v, matmul(_as_complex(a, paired), v))


def _complex_of(w):
    return w.astype(complex_dtype(w.real.dtype))


def _parts(z):
    return np.stack([z.real, z.imag], axis=-1)


def _numpy(a, paired):
    return from_pairs.ref(a) if paired else a


# NumPy's functions compute in double precision, and would not return from infs and nans.


def _finite(k, a, n, paired):
    """The matrix of a repetition of `k` as the function reads it, zeros if it has infs or nans; and whether it has."""
    b, core = k.b, (n, n, 2) if paired else (n, n)
    source = k.part(a, len(core), 0, (2 * n, 2, 1) if paired else (n, 1))
    copy = k.scratch(DOUBLE, core, "finite")
    total = b.declare("add", a.dtype)
    with b.loops(core) as index:
        x = k.read(source, *index)
        b.update(total, "add", b.op("sub", x, x))
    is_finite = b.op("eq", b.read(total), b.number(0, a.dtype))
    k.fill(copy, core, lambda *i: b.op("select", is_finite, k.read(source, *i), b.number(0, a.dtype)))
    read = replace(copy, dtype=COMPLEX, steps=(2 * n, 2)) if paired else copy
    return read, b.op("not", is_finite)


def _called(k, function, y, a, n, paired, terms, *results):
    """`results`: for each array of results, where it starts in a repetition of `y`, and its steps."""
    core = y.shape[len(_lead(a, paired)) :]
    target = k.part(y, len(core), 0, (2 * n, 2, 1)[-len(core) :])
    with k.each():
        operand, failed = _finite(k, a, n, paired)
        found = k.scratch(DOUBLE, core, "found") if y.dtype != DOUBLE else target
        parts = [replace(found, dtype=COMPLEX, start=start, steps=steps) for start, steps in results]
        k.failed = k.b.op("or", k.call(function, (n,), operand, *parts, terms=terms * n * n * n), failed)
        if found is not target:
            k.fill(target, core, lambda *i: k.read(found, *i))


def _sample(rng, dtype):
    shapes = (3, 3), (7, 1, 2, 2), (1, 1), (2, 1, 0, 0)
    real = [((_spread(rng, dtype, s),), {"paired": False}) for s in shapes]
    paired = [np.stack([_spread(rng, dtype, s), 0.1 * draw(rng, dtype, s)], -1) for s in shapes[:3]]
    return [*real, *(((a,), {"paired": True}) for a in paired)]


def _spread(rng, dtype, shape):
    """Matrices with eigenvalues apart, some of them complex."""
    n = shape[-1]
    turn = np.diag(np.arange(1.0, n + 1)) + 2 * (np.eye(n, k=1) - np.eye(n, k=-1))
    v = regular(rng, np.float64, shape)
    return np.asarray(v @ turn @ np.linalg.inv(v), dtype)


@defop
class eig:
    """Eigenvalues (row 0) and eigenvectors (columns below it).

    Derivatives: Boeddeker, Hanebrink, Drude, Heymann and Haeb-Umbach, On the computation of complex-valued gradients
    (2017), section 4.18, and what keeps lengths and phases. No derivatives pass between equal eigenvalues.
    """

    def ref(a, *, paired):
        w, v = np.linalg.eig(_numpy(a, paired))
        return _parts(_complex_of(np.concatenate([w[..., None, :], v], axis=-2)))

    def type(a, *, paired):
        n = _extent(a, paired)
        return Type(a.dtype, (*_lead(a, paired), n + 1, n, 2))

    def vjp(g, y, a, *, paired):
        (w, v), (gw, gv) = _decomposed(y), _decomposed(g)
        turned = transposed(v)
        inner = mul(conj(gaps_inverted(w)), matmul(turned, _unnormalised(v, gv)))
        return [_as_operand(_solved(turned, matmul(add(from_diagonal(gw), inner), turned)), paired)]

    def jvp(ts, y, a, *, paired):
        w, v = _decomposed(y)
        inner = _slopes(v, ts[0], paired)
        moved = matmul(v, mul(gaps_inverted(w), inner))
        return pairs(stacked(row(diagonal(inner)), _normalised(v, moved)))

    def batch(flags, a, *, paired):
        return eig(a, paired=paired)

    def calls(k, y, a, *, paired):
        n = y.shape[-2]
        _called(k, "linalg.eig", y, a, n, paired, 25, (0, (2,)), (2 * n, (2 * n, 2)))

    sample = _sample
    failure = FAILURE
    library = "numpy_whole"


@defop
class eigvals:
    """The eigenvalues alone: [..., n, 2]."""

    def ref(a, *, paired):
        return _parts(_complex_of(np.linalg.eigvals(_numpy(a, paired))))

    def type(a, *, paired):
        n = _extent(a, paired)
        return Type(a.dtype, (*_lead(a, paired), n, 2))

    def vjp(g, y, a, *, paired):
        _, v = _decomposed(eig(a, paired=paired))
        turned = transposed(v)
        return [_as_operand(_solved(turned, mul(column(from_pairs(g)), turned)), paired)]

    def jvp(ts, y, a, *, paired):
        _, v = _decomposed(eig(a, paired=paired))
        return pairs(diagonal(_slopes(v, ts[0], paired)))

    def batch(flags, a, *, paired):
        return eigvals(a, paired=paired)

    def calls(k, y, a, *, paired):
        _called(k, "linalg.eigvals", y, a, y.shape[-2], paired, 10, (0, (2,)))

    sample = _sample
    failure = FAILURE
    library = "numpy_whole"
