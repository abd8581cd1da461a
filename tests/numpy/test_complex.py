"""Every row of `complex_table`: values, dtypes, shapes and exceptions, eager, traced and compiled; derivatives."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._tree import flatten
from tests.numpy.complex_table import CASES, MATRIX, OTHER, SQUARE, VECTOR, Case

WANTED = {str(case): case.wanted() for case in CASES}
RIGHT = [case for case in CASES if not isinstance(WANTED[str(case)], Exception)]
WRONG = [case for case in CASES if isinstance(WANTED[str(case)], Exception)]
NEED_VALUES = {"real_if_close", "unique", "array_equal", "allclose", "array_equiv"}
TRACED = [case for case in RIGHT if case.name not in NEED_VALUES]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=str)


def leaves(result: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in flatten(list(result) if isinstance(result, tuple) else result)[0]]


def agree(got: Any, want: Any) -> None:
    found, wanted = leaves(got), leaves(want)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if b.dtype.kind not in "fc":
            np.testing.assert_array_equal(a, b)
            continue
        limit = 64 * np.finfo(b.dtype).eps
        known = np.isfinite(b)
        np.testing.assert_allclose(a[known], b[known], limit, limit * np.abs(b[known]).max(initial=0.0))
        np.testing.assert_array_equal(np.isnan(a)[~known], np.isnan(b)[~known])


def tensors(case: Case) -> list[tp.Tensor]:
    return [tp.constant(x) for x in case.arrays]


@each(RIGHT)
def test_eager(case: Case) -> None:
    """By our name, and by NumPy's."""
    for m in (tp, np):
        agree(case.call(m, *tensors(case)), WANTED[str(case)])


@each(TRACED)
def test_traced(case: Case) -> None:
    with tp.config(disable_jit=True):
        agree(tp.tape_function(lambda *xs: case.call(tp, *xs))(*case.arrays), WANTED[str(case)])


@each([c for k, c in enumerate(TRACED) if k == 0 or c.name != TRACED[k - 1].name or c.arrays[0].dtype == np.complex64])
def test_compiled(case: Case) -> None:
    agree(tp.tape_function(lambda *xs: case.call(tp, *xs))(*case.arrays), WANTED[str(case)])


@each(WRONG)
def test_exceptions(case: Case) -> None:
    """NumPy's type; the message names the user's line."""
    want = next(t for t in type(WANTED[str(case)]).__mro__ if not t.__name__.startswith(("_", "UFunc")))
    for m in (tp, np):
        with pytest.raises(want) as caught:
            case.call(m, *tensors(case))
        assert "complex_table.py:" in str(caught.value)


# -- derivatives ------------------------------------------------------------------------------------------------------

SMOOTH = {
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tan": np.tan, "sinh": np.sinh, "tanh": np.tanh,
    "sqrt": np.sqrt, "abs": np.abs, "angle": np.angle, "conj": np.conj, "real": np.real, "imag": np.imag,
    "sign": np.sign, "log10": np.log10, "square": np.square, "reciprocal": np.reciprocal, "prod": np.prod,
    "mean": np.mean, "var": np.var, "std": np.std, "cumprod": np.cumprod, "max": np.max, "sort": np.sort,
    "sinc": np.sinc, "matmul": lambda x: x @ np.conj(x).T, "norm": np.linalg.norm, "vdot": lambda x: np.vdot(x, x * x),
    "power": lambda x: x ** (1.5 - 0.5j), "where": lambda x: np.where(np.abs(x) > 1, x, x * 1j),
    "index": lambda x: x[1:, ::2] * x[:-1, 1::2], "isclose": lambda x: np.abs(x) ** 2 * x,
}  # fmt: skip


def inner(a: Any, b: Any) -> float:
    return float(np.sum((np.conj(np.asarray(a)) * np.asarray(b)).real))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name: str, compiled: bool) -> None:
    """Forwards against finite differences along both parts, backwards against forwards."""
    f, rng, e = SMOOTH[name], np.random.default_rng(3), 1e-6
    stage = tp.tape_function if compiled else lambda f: f
    x = tp.constant(MATRIX)
    slope = stage(lambda x, t: tp.jvp(f, (x,), (t,))[1])
    pull = stage(lambda x, g: tp.vjp(f, x)[1](g)[0])
    for t in (rng.standard_normal(MATRIX.shape), 1j * rng.standard_normal(MATRIX.shape)):
        up, down = (np.asarray(f(tp.constant(MATRIX + s * t))) for s in (e, -e))
        got = np.asarray(slope(x, tp.constant(t.astype(complex))))
        np.testing.assert_allclose(got, (up - down) / (2 * e), rtol=1e-7, atol=1e-7 * np.abs(got).max())
        g = rng.standard_normal(up.shape)
        g = np.asarray(g + 1j * rng.standard_normal(up.shape) if up.dtype.kind == "c" else g)
        np.testing.assert_allclose(inner(pull(x, tp.constant(g)), t), inner(g, got), rtol=1e-9)


def test_of_real_operands_derivatives_are_real() -> None:
    x = tp.constant(np.array([0.5, 1.5]))
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = tp.sum(tp.abs(tp.exp(1j * x) + x) ** 2)
    g = tape.gradient(y, x)
    assert g.dtype == np.float64
    np.testing.assert_allclose(g, 2 * np.cos(x) - 2 * x.numpy() * np.sin(x) + 2 * x.numpy(), rtol=1e-12)


def test_real_part_of_a_cast_comes_with_numpys_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tp.real(tp.constant(MATRIX)), MATRIX.real)
        with pytest.raises(np.exceptions.ComplexWarning, match="discards the imaginary part"):
            tp.constant(MATRIX).astype(np.float64)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_sign_of_a_zero_is_a_positive_zero(compiled: bool) -> None:
    z = np.array([complex(-0.0, -0.0), complex(0.0, -0.0), complex(-0.0, 0.0)])
    found = (tp.tape_function(tp.sign) if compiled else tp.sign)(z).numpy()
    assert not np.signbit(found.real).any() and not np.signbit(found.imag).any()
    np.testing.assert_array_equal(tp.grad(lambda z: tp.sum(tp.real(tp.sign(z))))(tp.constant(z)), 0)


def test_vmap() -> None:
    f = lambda z, w: tp.sum(tp.conj(z) * w) / tp.abs(z[0])
    got = tp.vmap(f)(tp.constant(MATRIX), tp.constant(OTHER))
    np.testing.assert_allclose(got, np.sum(MATRIX.conj() * OTHER, 1) / np.abs(MATRIX[:, 0]), rtol=1e-12)


def test_products_of_matrices_by_vectors() -> None:
    np.testing.assert_allclose(tp.tape_function(lambda a, v: a @ v)(SQUARE, VECTOR), SQUARE @ VECTOR, rtol=1e-12)
