"""Linear algebra: what no table says: exponentials, triangles, completed bases, singular and degenerate matrices."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp
from tests.numpy.linalg_table import definite, generic, regular
from tests.numpy.test_linalg import along, close, difference

WAYS = [
    pytest.param(lambda f: f, id="eager"),
    pytest.param(tp.tape_function, id="llvm"),
    pytest.param(lambda f: tp.tape_function(f, engine="numba"), id="numba"),
]
ways = pytest.mark.parametrize("way", WAYS)


def series(x: np.ndarray) -> np.ndarray:
    """exp(x) by its power series, of x / 2^20 squared 20 times, in long doubles."""
    x = x.astype(np.longdouble) / 2**20
    total, term = np.zeros_like(x) + np.eye(x.shape[-1]), np.zeros_like(x) + np.eye(x.shape[-1])
    for k in range(1, 12):
        term = np.einsum("...ij,...jk->...ik", term, x) / k
        total = total + term
    for _ in range(20):
        total = np.einsum("...ij,...jk->...ik", total, total)
    return total.astype(np.float64)


@ways
def test_exponentials(way):
    for x in (generic(3, 3), 20 * generic(4, 4), np.stack([0 * generic(3, 3), 9 * generic(3, 3)]), np.zeros((0, 2, 2))):
        got = way(tp.linalg.expm)(tp.constant(x))
        want = series(x)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11 * np.abs(want).max(initial=0))
    turn = np.array([[0, -np.pi / 2], [np.pi / 2, 0]], np.float32)
    np.testing.assert_allclose(way(tp.linalg.expm)(turn), [[0, -1], [1, 0]], atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 8.0])
@pytest.mark.parametrize("way", WAYS[:2])
def test_derivatives_of_exponentials(way, scale):
    x, t, w = scale * generic(3, 3), generic(3, 3) / 4, generic(3, 3)[::-1].copy()
    loss = lambda x: tp.sum(tp.linalg.expm(x) * w)
    first = along(loss, x, t)
    close(way(first)(tp.constant(x)), difference(loss, x, t))
    close(np.sum(way(tp.grad(loss))(tp.constant(x)).numpy() * t), first(tp.constant(x)), 1e-9)
    close(way(along(first, x, t))(tp.constant(x)), difference(first, x, t))


@ways
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_triangular_systems(way, dtype):
    a, b = regular(generic(40, 40)).astype(dtype) / 4, generic(40, 3).astype(dtype)
    for lower in (False, True):
        for trans in (0, "T"):
            triangle = (np.tril if lower else np.triu)(a)
            want = np.linalg.solve(triangle.T if trans else triangle, b)
            f = lambda a, b, k=(trans, lower): tp.linalg.solve_triangular(a, b, *k)
            tolerance = 1e-10 if dtype == "f8" else 1e-2
            np.testing.assert_allclose(way(f)(a, b), want, rtol=tolerance, atol=tolerance)
    unit = way(lambda a, b: tp.linalg.solve_triangular(a, b, lower=True, unit_diagonal=True))(a[:3, :3], b[:3, 0])
    want = np.linalg.solve(np.tril(a[:3, :3], -1) + np.eye(3, dtype=dtype), b[:3, 0])
    np.testing.assert_allclose(unit, want, rtol=1e-5)
    with pytest.raises(ValueError, match="solve_triangular at .*trans"):
        tp.linalg.solve_triangular(a, b, trans="X")


def test_logarithms_of_determinants():
    a = definite(generic(2, 3, 3))
    close(tp.linalg.logdet(a), np.linalg.slogdet(a)[1], 1e-12)
    close(tp.grad(lambda a: tp.sum(tp.linalg.logdet(a)))(tp.constant(a)), np.linalg.inv(a), 1e-10)


# -- completed bases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (2, 5, 3)])
@ways
def test_bases_are_completed(way, shape):
    x = generic(*shape)
    u, s, vh = (y.numpy() for y in way(tp.linalg.svd)(tp.constant(x)))
    wanted = np.linalg.svd(x)
    assert [y.shape for y in (u, s, vh)] == [y.shape for y in wanted]
    for q in (u, vh):
        close(np.swapaxes(q, -1, -2) @ q, np.zeros(q.shape) + np.eye(q.shape[-1]), 1e-12)
    p = s.shape[-1]
    close((u[..., :p] * s[..., None, :]) @ vh[..., :p, :], x, 1e-12)
    q, r = (y.numpy() for y in way(lambda x: tp.linalg.qr(x, mode="complete"))(tp.constant(x)))
    assert [q.shape, r.shape] == [y.shape for y in np.linalg.qr(x, mode="complete")]
    close(q @ r, x, 1e-12)
    close(np.swapaxes(q, -1, -2) @ q, np.zeros(q.shape) + np.eye(q.shape[-1]), 1e-12)


@pytest.mark.parametrize("complete", [lambda x: tp.linalg.svd(x).U, lambda x: tp.linalg.qr(x, mode="complete").Q])
def test_derivatives_of_what_completes_a_basis(complete):
    x, t = generic(4, 2), generic(4, 2)[::-1].copy() / 3
    w = generic(4, 4)

    def loss(x):
        rest = complete(x)[:, 2:]
        return tp.sum((rest @ rest.T) ** 2 * w)  # the same for all bases

    first = along(loss, x, t)
    second = along(first, x, t)
    close(first(tp.constant(x)), difference(loss, x, t))
    close(second(tp.constant(x)), difference(first, x, t))
    close(along(second, x, t)(tp.constant(x)), difference(second, x, t))
    close(np.sum(tp.grad(loss)(tp.constant(x)).numpy() * t), first(tp.constant(x)), 1e-9)


# -- singular and degenerate ------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_gradients_of_determinants_of_singular_matrices(way, dtype):
    x = np.stack([np.diag([2.0, 3.0, 0.0]), np.ones((3, 3)), np.zeros((3, 3)), np.eye(3), np.arange(9.0).reshape(3, 3)])
    x[4, 2, 2] += 1
    gradient = way(tp.grad(lambda x: tp.sum(tp.linalg.det(x))))(tp.constant(x.astype(dtype)))
    minors = np.empty(x.shape)
    for k in np.ndindex(*x.shape):
        others = np.delete(np.delete(x[k[0]], k[1], 0), k[2], 1)
        minors[k] = (-1) ** (k[1] + k[2]) * np.linalg.det(others)
    np.testing.assert_allclose(gradient, minors, atol=1e-5 if dtype == "f4" else 1e-12)


@ways
def test_functions_of_equal_eigenvalues_that_have_derivatives(way):
    for x in (np.eye(3), np.diag([1.0, 1.0, 2.0])):
        close(way(tp.grad(lambda a: tp.sum(tp.linalg.eigvalsh(a) ** 2)))(tp.constant(x)), 2 * x, 1e-12)
        close(way(tp.grad(lambda a: tp.sum(tp.linalg.svdvals(a))))(tp.constant(x)), np.eye(3), 1e-12)
        close(way(tp.grad(lambda a: tp.sum(tp.linalg.pinv(a) ** 2)))(tp.constant(x)), -2 * np.linalg.inv(x) ** 3, 1e-12)


def test_near_ties_are_divided_by_their_difference():
    gap = 1e-5
    a = np.diag([1.0, 1.0 + gap])
    slope = along(lambda a: tp.linalg.eigh(a).eigenvectors, a, np.array([[0.0, 1.0], [1.0, 0.0]]))(tp.constant(a))
    np.testing.assert_allclose(np.abs(slope.numpy()), [[0, 1 / gap], [1 / gap, 0]], rtol=1e-6)


FAILING = [
    (tp.linalg.inv, np.ones((2, 2)), "Singular matrix"),
    (lambda x: tp.linalg.solve(x, x), np.ones((2, 2)), "Singular matrix"),
    (tp.linalg.cholesky, -np.eye(2), "Matrix is not positive definite"),
    (tp.linalg.svdvals, np.full((2, 2), np.nan), "SVD did not converge"),
]


@ways
@pytest.mark.parametrize(("f", "x", "text"), FAILING)
def test_failures_are_numpys(way, f, x, text):
    """Also of one matrix among others, of small floats, and of complex numbers."""
    for array in (x, x.astype(np.float32), np.stack([np.eye(2), x, np.eye(2)]), x.astype("c16"), x.astype("c8")):
        with pytest.raises(np.linalg.LinAlgError, match=text):
            way(f)(tp.constant(array))


def test_a_failure_names_the_users_line():
    with pytest.raises(np.linalg.LinAlgError, match="(?s)Singular matrix.*test_linalg_cases.py"):
        tp.tape_function(tp.linalg.inv)(np.ones((2, 2)))


def test_half_floats_are_refused_as_by_numpy():
    with pytest.raises(TypeError, match="inv at .*float16 is unsupported in linalg"):
        tp.linalg.inv(tp.constant(np.eye(2, dtype=np.float16)))


def test_least_squares_of_less_than_full_rank():
    a = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    b = np.array([1.0, 2.0, 4.0])
    x, residuals, rank, s = tp.linalg.lstsq(a, b)
    want = np.linalg.lstsq(a, b)
    close(x, want[0], 1e-12)
    close(s, want[3], 1e-12)
    assert (residuals.shape, int(rank)) == (want[1].shape, want[2])
    compiled = tp.tape_function(lambda a, b: tp.linalg.lstsq(a, b)[:3])(a, b)
    assert (compiled[1].shape, int(compiled[2])) == ((1,), 1)


def test_sizes_known_at_run_time_only():
    spec = tp.TensorSpec((None, None), np.float64)
    f = tp.tape_function(lambda a: tp.sum(tp.linalg.inv(a)), input_signature=[spec])
    with pytest.raises((np.linalg.LinAlgError, tp.ShapeError)):
        f(generic(2, 3))


def test_one_matrix_and_many_right_sides():
    a, b = regular(generic(3, 3)), generic(2, 4, 3, 5)
    close(tp.linalg.solve(a, b), np.linalg.solve(a, b), 1e-12)
    slope = tp.grad(lambda a: tp.sum(tp.linalg.solve(a, b) ** 2))
    t = generic(3, 3)[::-1].copy()
    close(np.sum(slope(tp.constant(a)).numpy() * t), difference(lambda a: tp.sum(tp.linalg.solve(a, b) ** 2), a, t))
