"""Decompositions of matrices, by the functions behind `numpy.linalg`.

Operands are matrices, or stacks of them. An op has one result: what belongs to one matrix is put together,
`eigh(a) : f64[..., n + 1, n]` has the eigenvalues in the first row and the eigenvectors below it. Where matrices are
complex, T means the conjugate transpose, and real numbers beside complex ones are complex without imaginary parts.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import numpy as np

from tapefuse.ir.op import defop
from tapefuse.ir.ops.complex import real
from tapefuse.ir.ops.elementwise import add, mul, neg, sub
from tapefuse.ir.ops.family import conjugate, shape_of
from tapefuse.ir.ops.linalg import matmul
from tapefuse.ir.ops.matrices import (
    antisymmetric,
    as_kind_of,
    column,
    definite,
    diagonal,
    folded_down,
    from_diagonal,
    gaps_inverted,
    halved,
    inverted,
    is_complex,
    mirrored,
    on_imaginary_line,
    on_real_line,
    product,
    rectangular,
    regular,
    row,
    rows,
    square,
    square_gaps_inverted,
    stacked,
    symmetric,
    the_row,
    transposed,
    triangle,
)
from tapefuse.ir.ops.systems import triangular_solve
from tapefuse.ir.types import Type, real_dtype


def _whitened(factor, x):
    """L^-1 x L^-T"""
    half = triangular_solve(factor, x, lower=True, transpose=False, unit=False)
    return transposed(triangular_solve(factor, transposed(half), lower=True, transpose=False, unit=False))


def _unwhitened(factor, x):
    """L^-T x L^-1"""
    factor = conjugate(factor)
    half = triangular_solve(factor, x, lower=True, transpose=True, unit=False)
    return transposed(triangular_solve(factor, transposed(half), lower=True, transpose=True, unit=False))


@defop
class cholesky:
    """The lower triangular L with a = L L^T for symmetric positive definite matrices, of which the lower triangle is
    read. Derivatives: Murray, Differentiation of the Cholesky decomposition (2016), sections 2 and 3."""

    def ref(a):
        return np.linalg.cholesky(a)

    def type(a):
        square(a)
        return a

    def vjp(g, y, a):
        inner = halved(matmul(transposed(y), triangle(g)))
        whole = _unwhitened(y, inner)
        return [folded_down(symmetric(whole))]

    def jvp(ts, y, a):
        return matmul(y, halved(_whitened(y, mirrored(ts[0]))))

    def batch(flags, a):
        return cholesky(a)

    def calls(k, y, a):
        n = a.shape[-1]
        k.call("linalg.cholesky_lo", (n,), k.operand(a, 2), k.operand(y, 2), terms=n * n * n)

    def sample(rng, dtype):
        return [((definite(rng, dtype, s),), {}) for s in ((3, 3), (7, 2, 2), (1, 1), (2, 0, 0), (2, 1, 3, 3))]

    failure = "Matrix is not positive definite"
    library = "numpy"
    dtypes = "fc"


# -- eigenvalues of symmetric matrices --------------------------------------------------------------------------------


def _completed(x, upper):
    """The symmetric matrix of which one triangle is that of `x`."""
    return mirrored(transposed(x)) if upper else mirrored(x)


def _to_triangle(x, upper):
    """A symmetric cotangent as one of one triangle."""
    return transposed(folded_down(x)) if upper else folded_down(x)


def _eigen_sample(rng, dtype):
    shapes = (3, 3), (7, 2, 2), (1, 1), (2, 0, 0), (2, 1, 3, 3), (3, 3)
    return [((definite(rng, dtype, s),), {"upper": k == 5}) for k, s in enumerate(shapes)]


@defop
class eigh:
    """Eigenvalues in ascending order (row 0) and eigenvectors (columns below it) of symmetric matrices, of which one
    triangle is read.

    Derivatives: Giles, An extended collection of matrix derivative results (2008), section 3.1. Within eigenvalues that
    are equal, eigenvectors are not determined: what would divide by their difference is left out. Neither are phases of
    complex eigenvectors: tangents turn none, the diagonal of v^T dv is 0.
    """

    def ref(a, *, upper):
        w, v = np.linalg.eigh(a, "U" if upper else "L")
        return np.concatenate([np.asarray(w, v.dtype)[..., None, :], v], axis=-2)

    def type(a, *, upper):
        n = square(a)
        return Type(a.dtype, (*a.shape[:-2], n + 1, n))

    def vjp(g, y, a, *, upper):
        n = shape_of(a)[-1]
        v, gw, gv = rows(y, 1, n + 1), on_real_line(the_row(g, 0)), rows(g, 1, n + 1)
        inner = add(from_diagonal(gw), mul(gaps_inverted(the_row(y, 0)), matmul(transposed(v), gv)))
        return [_to_triangle(symmetric(product(v, inner, transposed(v))), upper)]

    def jvp(ts, y, a, *, upper):
        n = shape_of(a)[-1]
        v = rows(y, 1, n + 1)
        inner = product(transposed(v), _completed(ts[0], upper), v)
        slope = matmul(v, mul(gaps_inverted(the_row(y, 0)), inner))
        return stacked(row(on_real_line(diagonal(inner))), slope)

    def batch(flags, a, *, upper):
        return eigh(a, upper=upper)

    def calls(k, y, a, *, upper):
        n = a.shape[-1]
        values, vectors = k.part(y, 2, 0, (1,), real_dtype(y.dtype)), k.part(y, 2, n, (n, 1))
        with k.each_if(is_complex(y)):
            k.call(f"linalg.eigh_{_suffix(upper)}", (n,), k.operand(a, 2), values, vectors, terms=9 * n * n * n)
            k.fill_imaginary(k.part(y, 2, 0, (1,)), (n,))

    sample = _eigen_sample
    failure = "Eigenvalues did not converge"
    library = "numpy"
    dtypes = "fc"


@defop
class eigvalsh:
    """The eigenvalues alone: a = v diag(w) v^T has dw = diag(v^T da v)."""

    def ref(a, *, upper):
        return np.linalg.eigvalsh(a, "U" if upper else "L")

    def type(a, *, upper):
        return Type(real_dtype(a.dtype), (*a.shape[:-2], square(a)))

    def vjp(g, y, a, *, upper):
        n = shape_of(a)[-1]
        v = rows(eigh(a, upper=upper), 1, n + 1)
        return [_to_triangle(matmul(mul(v, row(as_kind_of(v, g))), transposed(v)), upper)]

    def jvp(ts, y, a, *, upper):
        n = shape_of(a)[-1]
        v = rows(eigh(a, upper=upper), 1, n + 1)
        return _real(diagonal(product(transposed(v), _completed(ts[0], upper), v)))

    def batch(flags, a, *, upper):
        return eigvalsh(a, upper=upper)

    def calls(k, y, a, *, upper):
        n = a.shape[-1]
        k.call(f"linalg.eigvalsh_{_suffix(upper)}", (n,), k.operand(a, 2), k.operand(y, 1), terms=2 * n * n * n)

    sample = _eigen_sample
    failure = "Eigenvalues did not converge"
    library = "numpy"
    dtypes = "fc"


def _real(x):
    return real(x) if is_complex(x) else x


def _suffix(upper):
    return "up" if upper else "lo"


# -- singular values --------------------------------------------------------------------------------------------------


def _parts(y, m):
    """U, s and V of a packed decomposition of matrices of m rows."""
    return rows(y, 0, m), the_row(y, m), rows(y, m + 1, shape_of(y)[-2])


def _outside(u, x):
    """What of the columns of `x` is not spanned by the orthonormal columns of `u`."""
    return sub(x, product(u, transposed(u), x))


@defop
class svd:
    """The thin decomposition a = U diag(s) V^T of m x n matrices: U, the row s, then V, all with min(m, n) columns.

    Derivatives: Townsend, Differentiating the singular value decomposition (2016). Within singular values that are
    equal vectors are not determined: what would divide by their difference, or by a singular value of 0, is left out.
    Of a pair of complex vectors the phase is not determined: the tangent of that in V turns none, the diagonal of
    V^T dV is 0, as in Wan and Zhang, Automatic differentiation for complex valued SVD (2019).
    """

    def ref(a):
        u, s, vh = np.linalg.svd(a, full_matrices=False)
        return np.concatenate([u, np.asarray(s, u.dtype)[..., None, :], np.swapaxes(np.conj(vh), -1, -2)], axis=-2)

    def type(a):
        m, n, p = rectangular(a)
        return Type(a.dtype, (*a.shape[:-2], m + n + 1, p))

    def vjp(g, y, a):
        m, n = shape_of(a)[-2:]
        (u, s, v), (gu, gs, gv) = _parts(y, m), _parts(g, m)
        gaps = square_gaps_inverted(s)
        turned, right = (antisymmetric(matmul(transposed(x), gx)) for x, gx in ((u, gu), (v, gv)))
        inner = add(mul(mul(gaps, turned), row(s)), mul(column(s), mul(gaps, right)))
        inner = add(inner, from_diagonal(on_real_line(gs)))
        if is_complex(u):
            inner = add(inner, from_diagonal(mul(mul(diagonal(turned), 0.5), inverted(s))))
        total = product(u, inner, transposed(v))
        if m != shape_of(s)[-1]:
            total = add(total, matmul(mul(_outside(u, gu), row(inverted(s))), transposed(v)))
        if n != shape_of(s)[-1]:
            total = add(total, matmul(u, transposed(mul(_outside(v, gv), row(inverted(s))))))
        return [total]

    def jvp(ts, y, a):
        m, n = shape_of(a)[-2:]
        u, s, v = _parts(y, m)
        inner = product(transposed(u), ts[0], v)
        gaps = square_gaps_inverted(s)
        at_right, at_left = mul(inner, row(s)), mul(column(s), inner)
        tu = matmul(u, mul(gaps, add(at_right, transposed(at_right))))
        tv = matmul(v, mul(gaps, add(at_left, transposed(at_left))))
        if is_complex(u):
            tu = add(tu, mul(u, row(mul(on_imaginary_line(diagonal(inner)), inverted(s)))))
        if m != shape_of(s)[-1]:
            tu = add(tu, mul(_outside(u, matmul(ts[0], v)), row(inverted(s))))
        if n != shape_of(s)[-1]:
            tv = add(tv, mul(_outside(v, matmul(transposed(ts[0]), u)), row(inverted(s))))
        return stacked(tu, row(on_real_line(diagonal(inner))), tv)

    def batch(flags, a):
        return svd(a)

    def calls(k, y, a):
        m, n, p = rectangular(a.type)
        u, s, vh = k.part(y, 2, 0, (p, 1)), k.part(y, 2, m * p, (1,)), k.part(y, 2, (m + 1) * p, (1, p))
        values = k.part(y, 2, m * p, (1,), real_dtype(y.dtype))
        with k.each_if(is_complex(y)):
            k.call("linalg.svd_s", (m, n, p), k.operand(a, 2), u, values, vh, terms=20 * m * n * p)
            k.fill_imaginary(s, (p,))
            k.conjugate(vh, (p, n))

    def sample(rng, dtype):
        shapes = (3, 3), (4, 2), (2, 4), (7, 2, 2), (1, 1), (2, 0, 3), (2, 1, 3, 2)
        return [((regular(rng, dtype, s),), {}) for s in shapes]

    failure = "SVD did not converge"
    library = "numpy"
    dtypes = "fc"


@defop
class svdvals:
    """The singular values alone, in descending order: ds = diag(U^T da V)."""

    def ref(a):
        return np.linalg.svd(a, compute_uv=False)

    def type(a):
        return Type(real_dtype(a.dtype), (*a.shape[:-2], rectangular(a)[2]))

    def vjp(g, y, a):
        u, _, v = _parts(svd(a), shape_of(a)[-2])
        return [matmul(mul(u, row(as_kind_of(u, g))), transposed(v))]

    def jvp(ts, y, a):
        u, _, v = _parts(svd(a), shape_of(a)[-2])
        return _real(diagonal(product(transposed(u), ts[0], v)))

    def batch(flags, a):
        return svdvals(a)

    def calls(k, y, a):
        m, n, p = rectangular(a.type)
        k.call("linalg.svd", (m, n, p), k.operand(a, 2), k.operand(y, 1), terms=4 * m * n * p)

    def sample(rng, dtype):
        return [((regular(rng, dtype, s),), {}) for s in ((3, 3), (4, 2), (2, 4), (7, 2, 2), (1, 1), (2, 0, 3))]

    failure = "SVD did not converge"
    library = "numpy"
    dtypes = "fc"


# -- orthogonal and triangular ----------------------------------------------------------------------------------------


def _from_right(x, r):
    """x r^-1 for upper triangular r"""
    return transposed(triangular_solve(conjugate(r), transposed(x), lower=False, transpose=True, unit=False))


def _columns(x, start, limit):
    return transposed(rows(transposed(x), start, limit))


@defop
class qr:
    """The reduced decomposition a = Q R of m x n matrices: Q, below it R^T, both with min(m, n) columns.

    Derivatives: Walter and Lehmann, Algorithmic differentiation of linear algebra functions (2018), for matrices whose
    first min(m, n) columns are independent. The diagonal of R is real, of complex matrices, too.
    """

    def ref(a):
        q, r = np.linalg.qr(a)
        return np.concatenate([q, np.swapaxes(np.conj(r), -1, -2)], axis=-2)

    def type(a):
        m, n, p = rectangular(a)
        return Type(a.dtype, (*a.shape[:-2], m + n, p))

    def vjp(g, y, a):
        (m, n), p = shape_of(a)[-2:], shape_of(y)[-1]
        (q, r), (gq, gr) = ((rows(x, 0, m), transposed(rows(x, m, m + n))) for x in (y, g))
        gr = triangle(gr, upper=True)
        if n == p:
            return [_qr_cotangent(gq, gr, q, r)]
        gq = add(gq, matmul(_columns(a, p, n), transposed(_columns(gr, p, n))))
        first = _qr_cotangent(gq, _columns(gr, 0, p), q, _columns(r, 0, p))
        return [transposed(stacked(transposed(first), transposed(matmul(q, _columns(gr, p, n)))))]

    def jvp(ts, y, a):
        (t,) = ts
        (m, n), p = shape_of(a)[-2:], shape_of(y)[-1]
        q, r = rows(y, 0, m), transposed(rows(y, m, m + n))
        if n == p:
            tq, tr = _qr_tangent(t, q, r)
            return stacked(tq, transposed(tr))
        tq, tr = _qr_tangent(_columns(t, 0, p), q, _columns(r, 0, p))
        rest = add(matmul(transposed(tq), _columns(a, p, n)), matmul(transposed(q), _columns(t, p, n)))
        return stacked(tq, transposed(tr), transposed(rest))

    def batch(flags, a):
        return qr(a)

    def calls(k, y, a):
        m, n, p = rectangular(a.type)
        x, q_of, r_of = k.operand(a, 2), k.part(y, 2, 0, (p, 1)), k.part(y, 2, m * p, (p, 1))
        with k.each():
            wide = np.result_type(a.dtype, np.float64)
            r, q, tau = (k.scratch(wide, s, tag) for s, tag in (((m, n), "r"), ((m, p), "q"), ((p,), "tau")))
            k.fill(r, (m, n), lambda i, j: k.numbers(x, i, j))
            k.call("linalg.qr_r_raw", (m, n, p), r, tau, terms=2 * m * n * p)
            k.call("linalg.qr_reduced", (m, n, p), r, tau, q, terms=2 * m * n * p)
            k.fill(q_of, (m, p), lambda i, j: k.numbers(q, i, j))
            k.fill(r_of, (n, p), lambda j, i: k.numbers_if(k.b.op("le", i, j), r, i, j))
            k.conjugate(r_of, (n, p))

    def sample(rng, dtype):
        shapes = (3, 3), (4, 2), (2, 4), (7, 2, 2), (1, 1), (2, 0, 3), (2, 1, 3, 2)
        return [((regular(rng, dtype, s),), {}) for s in shapes]

    library = "numpy"
    dtypes = "fc"


def _qr_cotangent(gq, gr, q, r):
    """(gQ + Q copyltu(R gR^T - gQ^T Q)) R^-T for matrices of at least as many rows as columns."""
    inner = sub(matmul(r, transposed(gr)), matmul(transposed(gq), q))
    whole = add(gq, matmul(q, mirrored(inner)))
    return transposed(triangular_solve(r, transposed(whole), lower=False, transpose=False, unit=False))


def _qr_tangent(t, q, r):
    w = _from_right(t, r)
    inner = matmul(transposed(q), w)
    below = triangle(inner, strict=True)
    left = sub(antisymmetric(below), inner)
    if is_complex(inner):
        left = add(left, from_diagonal(on_imaginary_line(diagonal(inner))))
    return add(w, matmul(q, left)), neg(matmul(left, r))
