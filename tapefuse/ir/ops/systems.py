"""Solutions of linear systems, inverses and determinants, by the functions behind `numpy.linalg`.

Operands are matrices, or stacks of them; a single matrix goes with each one of a stack. Where they are complex, T means
the conjugate transpose in derivatives.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.op import defop
from tapefuse.ir.ops.complex import complex, imag, real
from tapefuse.ir.ops.elementwise import add, mul, neg, sub
from tapefuse.ir.ops.family import batch_size, conjugate, draw, expand, quiet, shape_of, unbroadcast, with_batch
from tapefuse.ir.ops.linalg import matmul
from tapefuse.ir.ops.matrices import (
    batched_system,
    dotted,
    is_complex,
    on_imaginary_line,
    on_real_line,
    product,
    rectangular,
    regular,
    scaled,
    square,
    stacked,
    system,
    the_row,
    transposed,
    triangle,
)
from tapefuse.ir.ops.shape import reshape
from tapefuse.ir.types import Type, real_dtype, show_dtype

SMALL = 16  # rows of a triangular system that are substituted one by one


def times(b, x, y):
    """The product of two numbers of a kernel, each of them its parts: one, or two of a complex number."""
    if len(x) > len(y):
        x, y = y, x
    if len(x) == 1:
        return tuple(b.op("mul", x[0], part) for part in y)
    ac, bd, ad, bc = (b.op("mul", x[i], y[j]) for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)))
    return b.op("sub", ac, bd), b.op("add", ad, bc)


def _sum_of(*terms):
    """The sum of the terms that are there."""
    there = [t for t in terms if t is not None]
    return there[0] if len(there) == 1 else add(*there)


@defop
class solve:
    """The x with a x = b, columns of `b` one by one. Derivatives: Giles (2008), section 2.2.3."""

    def ref(a, b):
        return np.linalg.solve(a, b)

    def type(a, b):
        return system(a, b)

    def vjp(g, y, a, b):
        gb = solve(transposed(a), g)
        return [unbroadcast(neg(matmul(gb, transposed(y))), a), unbroadcast(gb, b)]

    def jvp(ts, y, a, b):
        return solve(a, _sum_of(None if ts[0] is None else neg(matmul(ts[0], y)), ts[1]))

    def batch(flags, a, b):
        return solve(*batched_system(flags, a, b))

    def calls(k, y, a, b):
        n, m = b.shape[-2:]
        k.call("linalg.solve", (n, m), k.operand(a, 2), k.operand(b, 2), k.operand(y, 2), terms=n * n * (n + m))

    def sample(rng, dtype):
        shapes = [((3, 3), (3, 2)), ((7, 2, 2), (7, 2, 1)), ((7, 2, 2), (2, 3)), ((2, 2), (7, 2, 1)), ((0, 0), (0, 2))]
        return [((regular(rng, dtype, s), draw(rng, dtype, t)), {}) for s, t in shapes]

    failure = "Singular matrix"
    library = "numpy"
    dtypes = "fc"


# -- triangular systems -----------------------------------------------------------------------------------------------


def _substituted(a, b, lower, unit):
    """The solution of triangular systems: halves of many rows, the rows of few."""
    n = a.shape[-1]
    if n > SMALL:
        m = n // 2
        first, last = (slice(0, m), slice(m, n)) if lower else (slice(m, n), slice(0, m))
        x = _substituted(a[..., first, first], b[..., first, :], lower, unit)
        rest = b[..., last, :] - a[..., last, first] @ x
        parts = [x, _substituted(a[..., last, last], rest, lower, unit)]
        return np.concatenate(parts if lower else parts[::-1], axis=-2)
    x = np.array(np.broadcast_to(b, (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:])))
    done = []
    for i in range(n) if lower else range(n - 1, -1, -1):
        x[..., i, :] -= np.einsum("...k,...kj->...j", a[..., i, done], x[..., done, :])
        if not unit:
            x[..., i, :] /= a[..., i, i, None]
        done.append(i)
    return x


@defop
class triangular_solve:
    """The x with a x = b, or if `transpose` with the (not conjugate) transpose of `a`, for triangular `a`, of which
    only that triangle is read.

    `unit`: the diagonal is taken for 1. A zero on the diagonal divides by zero.
    """

    @quiet
    def ref(a, b, *, lower, transpose, unit):
        a = np.swapaxes(a, -1, -2) if transpose else np.asarray(a)
        return _substituted(a, np.asarray(b), lower != transpose, unit)

    def type(a, b, *, lower, transpose, unit):
        return system(a, b)

    def vjp(g, y, a, b, *, lower, transpose, unit):
        gb = triangular_solve(conjugate(a), g, lower=lower, transpose=not transpose, unit=unit)
        ga = conjugate(matmul(y, transposed(gb))) if transpose else matmul(gb, transposed(y))
        return [unbroadcast(neg(triangle(ga, strict=unit, upper=not lower)), a), unbroadcast(gb, b)]

    def jvp(ts, y, a, b, *, lower, transpose, unit):
        moved = None
        if ts[0] is not None:
            t = triangle(ts[0], strict=unit, upper=not lower)
            moved = neg(matmul(conjugate(transposed(t)) if transpose else t, y))
        return triangular_solve(a, _sum_of(moved, ts[1]), lower=lower, transpose=transpose, unit=unit)

    def batch(flags, a, b, *, lower, transpose, unit):
        return triangular_solve(*batched_system(flags, a, b), lower=lower, transpose=transpose, unit=unit)

    def calls(k, y, a, b, *, lower, transpose, unit):
        n, m = b.shape[-2:]
        k.solve_triangular(k.operand(a, 2), k.operand(b, 2), k.operand(y, 2), n, m, lower, transpose, unit)

    def sample(rng, dtype):
        shapes = [((3, 3), (3, 2)), ((7, 2, 2), (7, 2, 1)), ((7, 2, 2), (2, 3)), ((2, 2), (7, 2, 1)), ((0, 0), (0, 2))]
        kinds = [(k % 2 == 0, k // 2 % 2 == 0, k == 2) for k in range(4)]
        cases = [(s, t, kind) for s, t in shapes[:2] for kind in kinds] + [(s, t, kinds[0]) for s, t in shapes[2:]]
        names = "lower", "transpose", "unit"
        draws = [(regular(rng, dtype, s) + 2 * np.eye(s[-1], dtype=dtype), draw(rng, dtype, t)) for s, t, _ in cases]
        return [(xs, dict(zip(names, kind, strict=True))) for xs, (_, _, kind) in zip(draws, cases, strict=True)]

    library = "numpy"
    dtypes = "fc"


# -- inverses and determinants ----------------------------------------------------------------------------------------


@defop
class inv:
    """The inverse of square matrices: d(a^-1) = -a^-1 da a^-1. Giles (2008), section 2.2.3."""

    def ref(a):
        return np.linalg.inv(a)

    def type(a):
        square(a)
        return a

    def vjp(g, y, a):
        return [neg(product(transposed(y), g, transposed(y)))]

    def jvp(ts, y, a):
        return neg(product(y, ts[0], y))

    def batch(flags, a):
        return inv(a)

    def calls(k, y, a):
        n = a.shape[-1]
        k.call("linalg.inv", (n,), k.operand(a, 2), k.operand(y, 2), terms=2 * n * n * n)

    def sample(rng, dtype):
        return [((regular(rng, dtype, s),), {}) for s in ((3, 3), (7, 2, 2), (1, 1), (2, 0, 0), (2, 1, 3, 3))]

    failure = "Singular matrix"
    library = "numpy"
    dtypes = "fc"


@defop
class cofactors:
    """The derivative of the determinant: the (not conjugate) transpose of det(a) a^-1, and its limit for singular
    matrices, which comes from singular values: a = U diag(s) V^T has U diag(products of the other s) V^T times the sign
    of det(U V^T), all of it conjugate.

    Further derivatives are those of det(a) a^-T, so matrices must be regular for them.
    """

    @quiet
    def ref(a):
        a = np.asarray(a)
        try:
            return np.asarray(np.linalg.det(a)[..., None, None] * np.swapaxes(np.linalg.inv(a), -1, -2))
        except np.linalg.LinAlgError:
            u, s, vh = np.linalg.svd(a)
            n = s.shape[-1]
            others = np.where(np.eye(n, dtype=bool), 1, s[..., None, :]).prod(-1).astype(a.dtype)
            sign = np.linalg.det(u) * np.linalg.det(vh)
            return (np.conj(u) * (sign[..., None] * others)[..., None, :]) @ np.conj(vh)

    def type(a):
        square(a)
        return a

    def vjp(g, y, a):
        outer = transposed(inv(a))
        return [sub(scaled(dotted(g, conjugate(y)), outer), product(conjugate(y), conjugate(transposed(g)), outer))]

    def jvp(ts, y, a):
        outer = conjugate(transposed(inv(a)))
        return sub(scaled(dotted(ts[0], outer), y), product(y, conjugate(transposed(ts[0])), outer))

    def batch(flags, a):
        return cofactors(a)

    def calls(k, y, a):
        n, dtype, b = a.shape[-1], a.dtype, k.b
        x, result = k.operand(a, 2), k.operand(y, 2)
        with k.each():
            u, vh, factor = (k.scratch(dtype, s, tag) for s, tag in (((n, n), "u"), ((n, n), "vh"), ((), "det")))
            s, others = (k.scratch(real_dtype(dtype), (n,), tag) for tag in ("s", "others"))
            is_singular = k.call("linalg.inv", (n,), x, u, terms=2 * n * n * n)
            k.call("linalg.det", (n,), x, factor, terms=n * n * n)
            det = k.numbers(factor)
            k.fill(result, (n, n), lambda i, j: times(b, det, k.numbers(u, j, i)))
            with k.when(is_singular):
                k.call("linalg.svd_f", (n, n, n), x, u, s, vh)
                signs = []
                for part in (u, vh):
                    k.call("linalg.det", (n,), part, factor)
                    signs.append(k.numbers(factor))
                sign, one = times(b, *signs), b.number(1, s.dtype)

                def other(i, kth):
                    return b.op("select", b.op("eq", i, kth), one, k.read(s, kth))

                def term(i, j, kth):
                    return times(b, times(b, k.numbers(u, i, kth), k.numbers(others, kth)), k.numbers(vh, kth, j))

                k.fill(others, (n,), lambda i: b.reduce("mul", s.dtype, (n,), lambda ks: other(i, *ks)))
                k.conjugate(u, (n, n))
                k.conjugate(vh, (n, n))
                k.fill(result, (n, n), lambda i, j: times(b, sign, k.sum(dtype, n, lambda kth: term(i, j, kth))))

    def sample(rng, dtype):
        return [((regular(rng, dtype, s),), {}) for s in ((3, 3), (7, 2, 2), (1, 1), (2, 0, 0), (2, 1, 3, 3))]

    library = "numpy"
    dtypes = "fc"


@defop
class det:
    """The determinant of square matrices; the derivative is also right where it is 0 (`cofactors`)."""

    def ref(a):
        return np.asarray(np.linalg.det(a))

    def type(a):
        square(a)
        return Type(a.dtype, a.shape[:-2])

    def vjp(g, y, a):
        return [scaled(g, conjugate(cofactors(a)))]

    def jvp(ts, y, a):
        return dotted(ts[0], cofactors(a))

    def batch(flags, a):
        return det(a)

    def calls(k, y, a):
        n = a.shape[-1]
        k.call("linalg.det", (n,), k.operand(a, 2), k.operand(y, 0), terms=n * n * n)

    def sample(rng, dtype):
        return [((regular(rng, dtype, s),), {}) for s in ((3, 3), (7, 2, 2), (1, 1), (2, 0, 0), (2, 1, 3, 3))]

    library = "numpy"
    dtypes = "fc"


@defop
class slogdet:
    """The sign of the determinant and the logarithm of its absolute value: [..., 2]. d log|det a| = tr(a^-1 da)."""

    def ref(a):
        return np.stack(np.linalg.slogdet(a), axis=-1)

    def type(a):
        square(a)
        return Type(a.dtype, (*a.shape[:-2], 2))

    def vjp(g, y, a):
        of_sign, of_log = (_component(g, c) for c in (0, 1))
        if is_complex(a):
            turned = imag(mul(conjugate(of_sign), _component(y, 0)))
            of_log = complex(real(of_log), neg(turned))
        return [scaled(of_log, transposed(inv(a)))]

    def jvp(ts, y, a):
        slope = dotted(ts[0], conjugate(transposed(inv(a))))
        of_sign = mul(slope, 0)
        if is_complex(a):
            slope, of_sign = on_real_line(slope), mul(_component(y, 0), on_imaginary_line(slope))
        pair = stacked(*(reshape(x, shape=(*shape_of(x), 1, 1)) for x in (of_sign, slope)))
        return reshape(pair, shape=(*shape_of(slope), 2))

    def batch(flags, a):
        return slogdet(a)

    def calls(k, y, a):
        n = a.shape[-1]
        sign, log = k.part(y, 1, 0, ()), k.part(y, 1, 1, (), real_dtype(y.dtype))
        with k.each_if(is_complex(y)):
            k.call("linalg.slogdet", (n,), k.operand(a, 2), sign, log, terms=n * n * n)
            k.fill_imaginary(k.part(y, 1, 1, ()), ())

    def sample(rng, dtype):
        return [((regular(rng, dtype, s),), {}) for s in ((3, 3), (7, 2, 2), (1, 1), (2, 0, 0), (2, 1, 3, 3))]

    library = "numpy"
    dtypes = "fc"


def _component(x, k):
    """One element of each vector."""
    column = reshape(x, shape=(*shape_of(x), 1))
    return reshape(the_row(column, k), shape=shape_of(x)[:-1])


@defop
class pinv:
    """The pseudo-inverse of matrices: singular values of at most `rtol` times the largest one are taken for 0.
    `rtol` is a real number, or one for each matrix.

    Derivatives: Golub and Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate (1973), equation 4.12, for matrices whose rank does not change.
    """

    @quiet
    def ref(a, rtol):
        return np.linalg.pinv(np.asarray(a), rcond=rtol)

    def type(a, rtol):
        m, n, _ = rectangular(a)
        if rtol.dtype != real_dtype(a.dtype):
            raise DTypeError(f"the relative cutoff of {a} must be {show_dtype(real_dtype(a.dtype))}, not {rtol}")
        if rtol.shape not in ((), a.shape[:-2]):
            raise ShapeError(f"the relative cutoff of {a} is one number, or one for each matrix, not {rtol}")
        return Type(a.dtype, (*a.shape[:-2], n, m))

    def vjp(g, y, a, rtol):
        turned, gt = transposed(y), transposed(g)
        total = neg(product(turned, g, turned))
        rest = sub(gt, product(a, y, gt))  # (1 - a y) g^T
        total = add(total, product(rest, y, turned))
        rest = sub(gt, product(gt, y, a))  # g^T (1 - y a)
        return [add(total, product(turned, y, rest)), None]

    def jvp(ts, y, a, rtol):
        if ts[0] is None:
            return None
        turned, t = transposed(y), transposed(ts[0])
        total = neg(product(y, ts[0], y))
        rest = sub(t, product(t, a, y))  # da^T (1 - a y)
        total = add(total, product(y, turned, rest))
        rest = sub(t, product(y, a, t))  # (1 - y a) da^T
        return add(total, product(rest, turned, y))

    def batch(flags, a, rtol):
        n = batch_size(flags, (a, rtol))
        a = a if flags[0] else with_batch(a, n)
        lead, own = shape_of(a)[:-2], shape_of(rtol)[flags[1] :]
        if flags[1] and (n, *own) != lead:
            rtol = expand(rtol, lead, range(1, len(lead)))
        if not flags[1] and own:
            rtol = with_batch(rtol, n)
        return pinv(a, rtol)

    def calls(k, y, a, rtol):
        (m, n, p), dtype, b = rectangular(a.type), a.dtype, k.b
        x, result, relative = k.operand(a, 2), k.operand(y, 2), k.operand(rtol, 0)
        with k.each():
            real = real_dtype(dtype)
            u, s, vh = k.scratch(dtype, (m, p), "u"), k.scratch(real, (p,), "s"), k.scratch(dtype, (p, n), "vh")
            k.call("linalg.svd_s", (m, n, p), x, u, s, vh, terms=(20 + p) * m * n)
            zero, one = b.number(0, real), b.number(1, real)
            largest = b.reduce("maximum", real, (p,), lambda ks: k.read(s, *ks))
            cutoff = b.op("mul", k.read(relative), largest)

            def term(i, j, kth):
                value = k.read(s, kth)
                is_large = b.op("gt", value, cutoff)
                inverse = b.op("select", is_large, b.op("div", one, b.op("select", is_large, value, one)), zero)
                return times(b, times(b, k.numbers(vh, kth, i), (inverse,)), k.numbers(u, j, kth))

            k.fill(result, (n, m), lambda i, j: k.sum(dtype, p, lambda kth: term(i, j, kth)))
            k.conjugate(result, (n, m))

    def sample(rng, dtype):
        real = real_dtype(np.dtype(dtype))
        shapes = (3, 3), (4, 2), (2, 4), (7, 2, 2), (2, 0, 3), (2, 1, 3, 2)
        one = [((regular(rng, dtype, s), np.asarray(1e-15, real)), {}) for s in shapes]
        each = [((regular(rng, dtype, s), draw(rng, real, s[:-2], 1e-9, 0.1)), {}) for s in ((7, 2, 2), (2, 1, 3, 2))]
        return [*one, *each]

    failure = "SVD did not converge"
    library = "numpy"
    dtypes = "fc"
