"""Eigenvalues and eigenvectors of general matrices: values, derivatives, failures, on both engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp

ENGINES = ("llvm", "numba")
SHAPES = ((1, 1), (3, 3), (2, 4, 4), (2, 3, 2, 2), (0, 3, 3), (2, 0, 0))


def matrices(*shape: int, dtype: str = "f8", seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng([seed, *shape])
    x = rng.normal(size=shape)
    return np.asarray(x + 1j * rng.normal(size=shape) if dtype[0] == "c" else x, dtype)


def as_complex(x: np.ndarray) -> np.ndarray:
    return x.astype(np.result_type(x.dtype, np.complex64))


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "c8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(shape: tuple[int, ...], dtype: str) -> None:
    a = matrices(*shape, dtype=dtype)
    w, v = map(as_complex, np.linalg.eig(a))
    by_engine = [tp.linalg.eig(a), np.linalg.eig(tp.constant(a))]
    for engine in ENGINES if shape == (2, 4, 4) and dtype in ("f8", "c8") else ENGINES[:1]:
        with tp.config(engine=engine):
            by_engine.append(tp.tape_function(tp.linalg.eig)(a))
    for found in by_engine:
        np.testing.assert_array_equal(found.eigenvalues, w, strict=True)
        np.testing.assert_array_equal(found.eigenvectors, v, strict=True)
    for alone in (tp.linalg.eigvals(a), tp.tape_function(tp.linalg.eigvals)(a)):
        np.testing.assert_array_equal(alone, as_complex(np.linalg.eigvals(a)), strict=True)


def test_symmetric_and_whole_matrices_have_complex_results_too() -> None:
    found = tp.linalg.eigvals(np.array([[2, 1], [1, 2]]))
    assert found.dtype == np.complex128
    np.testing.assert_allclose(np.sort(np.asarray(found).real), [1, 3], rtol=1e-14)


def loss(m: Any, a: Any) -> Any:
    """Of everything that is determined: lengths and phases as well."""
    w, v = m.linalg.eig(a)
    weights = np.arange(1.0, v.shape[-1] ** 2 + 1).reshape(v.shape[-2:])
    return m.sum(m.sin(m.real(w) + 2 * m.imag(w))) + m.sum(weights * (m.real(v) + m.imag(v) ** 3))


def differences(f: Any, a: np.ndarray, h: float = 1e-6) -> np.ndarray:
    slope = np.zeros_like(a)
    for index in np.ndindex(*a.shape):
        for unit in (1, 1j) if a.dtype.kind == "c" else (1,):
            up, down = a.copy(), a.copy()
            up[index] += h * unit
            down[index] -= h * unit
            slope[index] += unit * (f(up) - f(down)) / (2 * h)
    return slope


@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_gradients(dtype: str) -> None:
    a = matrices(3, 3, dtype=dtype)
    f = tp.grad(lambda a: loss(tp, a))
    want = differences(lambda a: loss(np, a), a)
    for got in (f(tp.constant(a)), tp.tape_function(f)(a)):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_second_derivatives_and_forward_mode(dtype: str) -> None:
    a, t = matrices(3, 3, dtype=dtype), matrices(3, 3, dtype=dtype, seed=4)
    along = lambda a: tp.jvp(lambda a: loss(tp, a), (a,), (tp.constant(t),))[1]
    gradient = np.asarray(tp.grad(lambda a: loss(tp, a))(tp.constant(a)))
    np.testing.assert_allclose(along(tp.constant(a)), np.sum(np.real(np.conj(gradient) * t)), rtol=1e-9)
    want = differences(lambda a: np.asarray(along(tp.constant(a))), a)
    np.testing.assert_allclose(tp.grad(along)(tp.constant(a)), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tp.tape_function(tp.grad(along))(a), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_derivatives_of_eigenvalues_alone(engine: str) -> None:
    """The sum of squares of the eigenvalues is the trace of a @ a."""
    a = matrices(4, 4)
    f = lambda a: tp.sum(tp.real(tp.linalg.eigvals(a) ** 2))
    np.testing.assert_allclose(tp.grad(f)(a), 2 * a.T, rtol=1e-11, atol=1e-11)
    with tp.config(engine=engine):
        np.testing.assert_allclose(tp.tape_function(tp.grad(f))(a), 2 * a.T, rtol=1e-11, atol=1e-11)
    second = tp.hessian(f)(tp.constant(a))
    want = 2 * np.einsum("il,jk->ijkl", np.eye(4), np.eye(4))
    np.testing.assert_allclose(second, want, atol=1e-9)


def test_mapped() -> None:
    a = matrices(3, 4, 4)
    want = np.stack([tp.linalg.eigvals(x) for x in a])
    np.testing.assert_array_equal(tp.vmap(tp.linalg.eigvals)(tp.constant(a)), want)
    np.testing.assert_array_equal(tp.tape_function(tp.vmap(tp.linalg.eigvals))(a), want)


def test_equal_eigenvalues() -> None:
    """Those of the identity: no derivatives between its vectors, and none that is infinite."""
    got = tp.grad(lambda a: loss(tp, a))(tp.constant(np.eye(3)))
    assert np.isfinite(np.asarray(got)).all()


@pytest.mark.parametrize(("engine", "value"), [("llvm", np.nan), ("llvm", np.inf), ("numba", np.nan)])
def test_what_is_not_finite(engine: str, value: float) -> None:
    a = matrices(2, 3, 3)
    a[1, 2, 0] = value
    with tp.config(engine=engine):
        for f in (tp.linalg.eig, tp.linalg.eigvals):
            for run in (f, tp.tape_function(f)):
                with pytest.raises(np.linalg.LinAlgError, match="infs or"):
                    run(a)


def test_errors() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="must be square"):
        tp.linalg.eig(np.ones((2, 3)))
    with pytest.raises(np.linalg.LinAlgError, match="at least two-dimensional"):
        tp.linalg.eigvals(np.ones(3))
