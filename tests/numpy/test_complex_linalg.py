"""Linear algebra of complex matrices: what the table of calls does not say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tests.numpy.linalg_table import definite, generic, regular, turned
from tests.numpy.test_linalg import along, close, difference, direction
from tests.numpy.test_linalg_cases import WAYS, ways

two_ways = pytest.mark.parametrize("way", WAYS[:2])  # where Numba takes half a minute to compile
DTYPES = pytest.mark.parametrize("dtype", ["c8", "c16"])


def dot(a: Any, b: Any) -> float:
    """The sum of products of real parts and of imaginary parts."""
    return float(np.sum(np.conj(np.asarray(a)) * np.asarray(b)).real)


def check_derivatives(loss: Any, x: np.ndarray, way: Any = lambda f: f) -> None:
    """Of a real function: forwards and of second order against finite differences, backwards against forwards."""
    t = direction(x)
    first = along(loss, x, t)
    close(way(first)(tp.constant(x)), difference(loss, x, t))
    close(way(along(first, x, t))(tp.constant(x)), difference(first, x, t))
    close(dot(way(tp.grad(loss))(tp.constant(x)), t), first(tp.constant(x)), 1e-9)


@two_ways
def test_exponentials(way):
    z = np.array([0.5 + 2j, -3 + 40j])
    close(way(tp.linalg.expm)(np.diag(z)), np.diag(np.exp(z)), 1e-12)
    h = definite(generic(3, 3, dtype="c16"))
    w, v = np.linalg.eigh(h)
    close(way(tp.linalg.expm)(1j * h), (v * np.exp(1j * w)) @ turned(v), 1e-12)
    assert way(tp.linalg.expm)(h.astype("c8")).dtype == np.complex64


@pytest.mark.parametrize("scale", [0.3, 8.0])
def test_derivatives_of_exponentials(scale):
    w = generic(3, 3, dtype="c16")[::-1].copy()
    loss = lambda x: tp.sum(tp.real(tp.linalg.expm(x) * w))
    check_derivatives(loss, scale * generic(3, 3, dtype="c16"), tp.tape_function)


@ways
@DTYPES
@pytest.mark.parametrize("lower", [False, True])
def test_triangular_systems(way, dtype, lower):
    """Of more rows than are substituted one by one; with a transpose, and its conjugate."""
    a, b = regular(generic(40, 40, dtype="c16")).astype(dtype) / 4, generic(40, 3, dtype="c16").astype(dtype)
    triangle, tolerance = (np.tril if lower else np.triu)(a), 1e-10 if dtype == "c16" else 1e-2
    for trans, op in ((0, triangle), ("T", triangle.T), (2, turned(triangle)), ("C", turned(triangle))):
        f = lambda a, b, k=(trans, lower): tp.linalg.solve_triangular(a, b, *k)
        np.testing.assert_allclose(way(f)(a, b), np.linalg.solve(op, b), rtol=tolerance, atol=tolerance)
    unit = way(lambda a, b: tp.linalg.solve_triangular(a, b, lower=lower, unit_diagonal=True))(a[:3, :3], b[:3, 0])
    want = triangle[:3, :3] * (1 - np.eye(3)) + np.eye(3)
    np.testing.assert_allclose(unit, np.linalg.solve(want, b[:3, 0]), rtol=1e-5)


@pytest.mark.parametrize("trans", ["N", "T", "C"])
@pytest.mark.parametrize("lower", [False, True])
def test_derivatives_of_triangular_systems(trans, lower):
    b, w = generic(3, 2, dtype="c16"), generic(3, 2, dtype="c16")[::-1].copy()

    def loss(a):
        y = tp.linalg.solve_triangular(a, b * tp.sum(a), trans, lower) * w
        return tp.sum(tp.real(y)) + tp.sum(tp.abs(y) ** 2)

    check_derivatives(loss, regular(generic(3, 3, dtype="c16")))


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (2, 5, 3)])
@two_ways
def test_bases_are_completed(way, shape):
    x = generic(*shape, dtype="c16")
    u, s, vh = (y.numpy() for y in way(tp.linalg.svd)(tp.constant(x)))
    q, r = (y.numpy() for y in way(lambda x: tp.linalg.qr(x, mode="complete"))(tp.constant(x)))
    for basis in (u, turned(vh), q):
        close(turned(basis) @ basis, np.zeros(basis.shape) + np.eye(basis.shape[-1]), 1e-12)
    p = s.shape[-1]
    close((u[..., :p] * s[..., None, :]) @ vh[..., :p, :], x, 1e-12)
    close(q @ r, x, 1e-12)


@pytest.mark.parametrize("complete", [lambda x: tp.linalg.svd(x).U, lambda x: tp.linalg.qr(x, mode="complete").Q])
def test_derivatives_of_what_completes_a_basis(complete):
    w = generic(4, 4, dtype="c16")

    def loss(x):
        rest = complete(x)[:, 2:]
        y = rest @ tp.conj(rest).T  # the same for all bases
        return tp.sum(tp.real(y * y * w))

    check_derivatives(loss, generic(4, 2, dtype="c16"))


@ways
def test_gradients_of_logarithms_of_determinants_are_hermitian(way):
    a = definite(generic(2, 3, 3, dtype="c16"))
    close(way(tp.linalg.logdet)(a), np.linalg.slogdet(a)[1], 1e-12)
    gradient = way(tp.grad(lambda a: tp.sum(tp.linalg.logdet(a))))(tp.constant(a))
    close(gradient, np.linalg.inv(a), 1e-10)
    close(gradient, turned(gradient.numpy()), 1e-12)


@ways
@DTYPES
def test_gradients_of_determinants_of_singular_matrices(way, dtype):
    """d det = sum of minors times da; the gradient of the real part is their conjugate."""
    z = 0.6 + 0.8j
    x = np.stack([np.diag([2j, 3.0, 0.0]), z * np.ones((3, 3)), np.zeros((3, 3)), z * np.eye(3)])
    x = np.concatenate([x, np.outer([1, 1j, z], [2, z, -1j])[None] + np.diag([0, 0, 1])])
    gradient = way(tp.grad(lambda x: tp.sum(tp.real(tp.linalg.det(x)))))(tp.constant(x.astype(dtype)))
    minors = np.empty(x.shape, "c16")
    for k in np.ndindex(*x.shape):
        others = np.delete(np.delete(x[k[0]], k[1], 0), k[2], 1)
        minors[k] = (-1) ** (k[1] + k[2]) * np.linalg.det(others)
    np.testing.assert_allclose(gradient, minors.conj(), atol=1e-5 if dtype == "c8" else 1e-12)


@ways
def test_functions_of_equal_eigenvalues_that_have_derivatives(way):
    v = np.linalg.qr(generic(3, 3, dtype="c16"))[0]
    x = (v * [1.0, 1.0, 2.0]) @ turned(v)
    x = (x + turned(x)) / 2
    close(way(tp.grad(lambda a: tp.sum(tp.linalg.eigvalsh(a) ** 2)))(tp.constant(x)), 2 * x, 1e-12)
    close(way(tp.grad(lambda a: tp.sum(tp.linalg.svdvals(a))))(tp.constant(x)), np.eye(3), 1e-12)


def test_one_triangle_is_read_and_imaginary_parts_of_the_diagonal_are_not():
    a = definite(generic(3, 3, dtype="c16"))
    other = np.tril(a) + 7j * np.eye(3)
    for f in (tp.linalg.cholesky, tp.linalg.eigvalsh):
        close(f(other), f(a), 1e-12)
        close(tp.tape_function(f)(other), f(a), 1e-12)


def test_tangents_of_vectors_turn_no_phase():
    x = generic(3, 3, dtype="c16")
    t = direction(x)
    v, dv = tp.jvp(lambda a: tp.linalg.eigh(a).eigenvectors, (definite(x),), (tp.constant(t + turned(t)),))
    close(np.diag(turned(v.numpy()) @ dv.numpy()), np.zeros(3, "c16"), 1e-12)
    vh, dvh = tp.jvp(lambda a: tp.linalg.svd(a).Vh, (x,), (tp.constant(t),))
    close(np.diag(vh.numpy() @ turned(dvh.numpy())), np.zeros(3, "c16"), 1e-12)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_calls_inside_of_loops(engine):
    @tp.tape_function(engine=engine)
    def f(a, n):
        return tp.fori_loop(0, n, lambda k, a: tp.linalg.inv(a) - 0.25 * tp.eye(2, dtype=a.dtype), a)

    a = np.array([[2j, 0.0], [0.5, 1.0]])
    close(f(a, 2), np.linalg.inv(np.linalg.inv(a) - np.eye(2) / 4) - np.eye(2) / 4, 1e-12)
    with pytest.raises(np.linalg.LinAlgError, match="Singular matrix"):
        f(np.diag([4.0 + 0j, 1.0]), 2)  # 1/4 - 1/4 is singular in the second iteration


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_pieces_of_a_large_stack(engine):
    x = regular(generic(5000, 4, 4, dtype="c16"))
    f = tp.tape_function(lambda x: (tp.linalg.inv(x), tp.linalg.eigvalsh(x), tp.linalg.pinv(x)), engine=engine)
    for got, want in zip(f(x), (np.linalg.inv(x), np.linalg.eigvalsh(x), np.linalg.pinv(x)), strict=True):
        close(got, want, 1e-10)
