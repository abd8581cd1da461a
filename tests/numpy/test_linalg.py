"""Linear algebra: every row of `linalg_table` against NumPy, derivatives to third order against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._tree import flatten
from tests.numpy.linalg_table import CASES, Case, generic


def wanted(case: Case) -> Any:
    with np.errstate(all="ignore"):
        try:
            return case.call(np, case.array)
        except Exception as error:
            return error


WANTED = {str(case): wanted(case) for case in CASES}
RIGHT = [case for case in CASES if not isinstance(WANTED[str(case)], Exception)]
WRONG = [case for case in CASES if isinstance(WANTED[str(case)], Exception)]
FIRST = list({(c.name, c.array.dtype.kind == "c"): c for c in reversed(RIGHT) if c.array.size}.values())
NOT_STACKED = ("lstsq", "multi_dot", "norm", "outer", "tensorinv", "tensorsolve")
SMOOTH = [case for case in RIGHT if case.smooth and case.array.dtype.char in "dD" and case.array.size]


def one_of_each_form(cases: list[Case]) -> list[Case]:
    """Of each row the first matrix and stack, square, tall and wide, of reals, integers and complex numbers, empty."""
    found: dict[Any, Case] = {}
    for c in cases:
        tall = np.sign(c.array.shape[-2] - c.array.shape[-1]) if c.array.ndim > 1 else 0
        found.setdefault((c.name, c.number, c.array.dtype.kind, c.array.ndim > 2, int(tall), c.array.size > 0), c)
    return list(found.values())


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=str)


def leaves(result: Any) -> list[Any]:
    return flatten(list(result) if isinstance(result, tuple) else result)[0]


def agree(got: Any, want: Any) -> None:
    found, wanted = leaves(got), leaves(want)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert np.shape(a) == np.shape(b)
        if not isinstance(b, (int, np.integer)):  # a rank: NumPy's is a plain or a 32-bit integer
            assert a.dtype == np.asarray(b).dtype
        tolerance = 1e-4 if np.asarray(b).dtype in (np.float32, np.complex64) else 1e-10
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@each(RIGHT)
def test_eager(case):
    agree(case.call(tp, tp.constant(case.array)), WANTED[str(case)])


@each(RIGHT)
def test_through_numpy(case):
    agree(case.call(np, tp.constant(case.array)), WANTED[str(case)])


@each(one_of_each_form(RIGHT[::-1]))  # single precision comes last in the table
def test_compiled(case):
    agree(tp.tape_function(lambda x: case.call(tp, x))(case.array), WANTED[str(case)])


@each(FIRST)
def test_numba(case):
    agree(tp.tape_function(lambda x: case.call(tp, x), engine="numba")(case.array), WANTED[str(case)])


@each([case for case in FIRST if case.name not in NOT_STACKED])
def test_stacks_of_unknown_height(case):
    dtype = np.result_type(case.array, np.float64)
    f = tp.tape_function(lambda x: case.call(tp, x), input_signature=[tp.TensorSpec((None, 3, 3), dtype)])
    for n in (0, 1, 4):
        agree(f(generic(n, 3, 3, dtype=dtype)), case.call(np, generic(n, 3, 3, dtype=dtype)))


@each(WRONG)
def test_errors(case):
    """NumPy's type; the message names the function and the user's line."""
    with pytest.raises(type(WANTED[str(case)])) as caught:
        case.call(tp, tp.constant(case.array))
    assert "linalg_table.py:" in str(caught.value)
    assert case.name in str(caught.value)


# -- derivatives ------------------------------------------------------------------------------------------------------


def loss_of(case: Case) -> Any:
    """A number that depends on all results: they are weighed, and squared, so that no derivative is constant."""

    def loss(x: Any) -> Any:
        total = 0.0
        for k, y in enumerate(real_parts(without_phases(case.call(tp, x)))):
            if y.dtype.kind == "f":
                w = generic(*y.shape, 5 + k).sum(-1)
                total = total + tp.sum(w * y) + tp.sum(w * y * y)
        return total

    return loss


def without_phases(result: Any) -> Any:
    """Complex vectors times the conjugate of an element of each, since nothing determines their phases."""
    match result:
        case tp.linalg.EighResult(w, v) if v.dtype.kind == "c":
            return w, v * tp.conj(v[..., :1, :])
        case tp.linalg.SVDResult(u, s, vh) if u.dtype.kind == "c":
            return u * vh[..., :1].mT, s, vh * tp.conj(vh[..., :1])
    return result


def real_parts(result: Any) -> list[Any]:
    found = [(tp.real(y), tp.imag(y)) if y.dtype.kind == "c" else (y,) for y in leaves(result)]
    return [part for parts in found for part in parts]


def direction(x: np.ndarray) -> np.ndarray:
    return generic(*x.shape, 2, dtype=x.dtype)[..., 0] / 3


def along(f: Any, x: np.ndarray, t: np.ndarray) -> Any:
    """The derivative of f in a direction, as a function."""
    return lambda x: tp.jvp(f, (x,), (tp.constant(t),))[1]


def difference(f: Any, x: np.ndarray, t: np.ndarray, e: float = 1e-5) -> np.ndarray:
    """By central differences of fourth order."""
    at = lambda k: np.asarray(f(tp.constant(x + k * e * t)))
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * e)


def close(got: Any, want: Any, tolerance: float = 1e-6) -> None:
    want = np.asarray(want)
    np.testing.assert_allclose(np.asarray(got), want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max()))


@each(one_of_each_form(SMOOTH))
def test_derivatives_to_third_order(case):
    loss, x = loss_of(case), case.array
    t = direction(x)
    first = along(loss, x, t)
    second = along(first, x, t)
    close(first(tp.constant(x)), difference(loss, x, t))
    close(second(tp.constant(x)), difference(first, x, t))
    close(along(second, x, t)(tp.constant(x)), difference(second, x, t))
    gradient = tp.grad(loss)
    close(np.sum(gradient(tp.constant(x)).numpy().conj() * t).real, first(tp.constant(x)), 1e-9)
    _, (product,) = tp.hvp(loss, (tp.constant(x),), (tp.constant(t),))
    close(product, difference(gradient, x, t))


@each([case for case in FIRST if case in SMOOTH])
def test_compiled_derivatives_to_third_order(case):
    loss, x = loss_of(case), case.array
    t = direction(x)

    def derivatives(x: Any) -> Any:
        gradient = tp.grad(loss)
        second = lambda x: tp.jvp(gradient, (x,), (tp.constant(t),))[1]
        return gradient(x), second(x), tp.jvp(second, (x,), (tp.constant(t),))[1]

    engine = "numba" if str(case) == "inv-1-square" else "llvm"
    for got, w in zip(tp.tape_function(derivatives, engine=engine)(x), derivatives(tp.constant(x)), strict=True):
        close(got, w, 1e-9)


@each([case for case in FIRST if case in SMOOTH])
def test_vmap_and_jacobian(case):
    x = case.array
    many = np.stack([x, x + 0.1, x * 1.2])
    results = lambda x: tuple(y for y in leaves(case.call(tp, x)) if y.dtype.kind in "fc")
    for transform in (lambda f: f, tp.tape_function):
        got = leaves(transform(tp.vmap(results))(tp.constant(many)))
        for k, y in enumerate(got):
            close(y, np.stack([leaves(results(tp.constant(r)))[k].numpy() for r in many]), 1e-9)
    per_row = tp.vmap(tp.grad(loss_of(case)))(tp.constant(many))
    close(per_row, np.stack([tp.grad(loss_of(case))(tp.constant(r)).numpy() for r in many]), 1e-9)
