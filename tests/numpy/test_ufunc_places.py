"""`ufunc.at` and `ufunc.reduceat` on tensors do what NumPy does to arrays."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp

RNG = np.random.default_rng(5)
X = RNG.uniform(0.5, 2.0, (4, 3))
V = RNG.uniform(0.5, 2.0, (3, 3))
ROWS = np.array([2, 0, 2])
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "arctan2", "hypot", "copysign"]
REDUCED = ["add", "multiply", "maximum", "minimum", "hypot", "logaddexp", "fmax"]
PLACES = [[0, 2, 1, 3], [3], [1, 1, 2], []]


def changed(ufunc, x, *operands):
    getattr(np, ufunc).at(x, *operands)
    return x


def as_in_numpy(ufunc, x, *operands):
    return changed(ufunc, x.copy(), *operands)


@pytest.mark.parametrize("ufunc", BINARY)
@pytest.mark.parametrize(
    ("index", "v"), [(ROWS, V), ((ROWS, [0, 1, 0]), 1.5), (slice(1, None), 1.5), (1, V[0]), ((..., -1), X[:, 0])]
)
def test_at(ufunc, index, v):
    want = as_in_numpy(ufunc, X, index, v)
    np.testing.assert_allclose(changed(ufunc, tp.constant(X), index, v), want, rtol=1e-14)
    np.testing.assert_allclose(changed(ufunc, tp.Variable(X), index, v).numpy(), want, rtol=1e-14)
    compiled = tp.tape_function(lambda x, v: changed(ufunc, x.copy(), index, v))
    np.testing.assert_allclose(compiled(X, np.asarray(v)), want, rtol=1e-13)


@pytest.mark.parametrize("ufunc", ["negative", "sqrt", "square"])
def test_at_with_one_operand_runs_as_often_as_an_element_is_named(ufunc):
    index = (np.array([0, 0, 1, 0]), np.array([1, 1, 1, 2]))
    np.testing.assert_allclose(changed(ufunc, tp.constant(X), index), as_in_numpy(ufunc, X, index))


@pytest.mark.parametrize("ufunc", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
def test_at_indices_that_a_trace_does_not_know(ufunc):
    compiled = tp.tape_function(lambda x, i, v: changed(ufunc, x.copy(), i, v))
    np.testing.assert_allclose(compiled(X, ROWS - 4, V), as_in_numpy(ufunc, X, ROWS - 4, V), rtol=1e-14)
    refused = tp.tape_function(lambda x, i: changed("power", x.copy(), i, 2.0))
    with pytest.raises(tp.ConcretizationError, match=r"np\.power\.at.*test_ufunc_places.py"):
        refused(X, ROWS)


def test_at_binds_a_new_value_as_item_assignment_does():
    x = tp.constant(X)
    before, part = X.copy(), x[2]
    np.add.at(x, ROWS, V)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(part, before[2])
    with pytest.raises(TypeError, match=r"np\.add\.at at .*test_ufunc_places.py.*array"):
        np.add.at(X.copy(), ROWS, tp.constant(V))
    for wrong in (lambda: np.add.at(x, [4], 1.0), lambda: np.add.at(tp.constant([1, 2]), [0], 0.5)):
        with pytest.raises((IndexError, TypeError)):
            wrong()


@pytest.mark.parametrize("ufunc", ["add", "subtract", "multiply", "divide", "maximum", "power"])
def test_at_derivatives(ufunc):
    def f(x, v):
        y = x * 1.0
        getattr(np, ufunc).at(y, ROWS, v)
        return tp.sum(y * tp.constant(np.arange(12.0).reshape(4, 3)))

    x, v = tp.constant(X), tp.constant(V)
    gx, gv = tp.grad(f, (0, 1))(x, v)
    tx, tv = RNG.standard_normal(X.shape), RNG.standard_normal(V.shape)
    e = 1e-6
    slope = (f(x + e * tx, v + e * tv) - f(x - e * tx, v - e * tv)).item() / (2 * e)
    np.testing.assert_allclose((gx.numpy() * tx).sum() + (gv.numpy() * tv).sum(), slope, rtol=1e-6)
    np.testing.assert_allclose(tp.jvp(f, (x, v), (tx, tv))[1], slope, rtol=1e-6)


@pytest.mark.parametrize("ufunc", REDUCED)
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_reduceat(ufunc, places):
    f, places = getattr(np, ufunc).reduceat, np.array(places, np.int64)
    for x, axis in ((X, 0), (X.T, 1), (X.T.copy(), -1), (X[:, 0], 0), (X.astype(np.float32), 0)):
        want = f(x, places, axis)
        for got in (
            f(tp.constant(x), places, axis),
            tp.tape_function(lambda x, a=axis: f(x, places, a))(x),
            tp.tape_function(lambda x, i, a=axis: f(x, i, a))(x, places),
        ):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-6 if x.dtype == np.float32 else 1e-13)


def test_reduceat_dtypes_and_mistakes():
    x = np.array([[True, False], [True, True]])
    for f, options in ((np.add.reduceat, {}), (np.logical_and.reduceat, {}), (np.add.reduceat, {"dtype": np.float32})):
        want, got = f(x, [0, 1], **options), f(tp.constant(x), [0, 1], **options)
        assert got.dtype == want.dtype and got.tolist() == want.tolist()
    for places in ([0, 4], [-1]):
        for y in (X, tp.constant(X)):
            with pytest.raises(IndexError, match="out-of-bounds in add.reduceat"):
                np.add.reduceat(y, places)
    with pytest.raises(TypeError, match=r"np\.subtract\.reduceat has no counterpart"):
        np.subtract.reduceat(tp.constant(X), [0, 1])


def test_reduceat_derivatives():
    w = tp.constant(RNG.standard_normal((3, 3)))
    for ufunc in (np.add, np.multiply, np.maximum, np.logaddexp):
        f = lambda x, u=ufunc: tp.sum(w * u.reduceat(x, [0, 2, 1]))
        g, e, t = tp.grad(f)(tp.constant(X)), 1e-6, RNG.standard_normal(X.shape)
        slope = (f(tp.constant(X + e * t)) - f(tp.constant(X - e * t))).item() / (2 * e)
        np.testing.assert_allclose((g.numpy() * t).sum(), slope, rtol=1e-6)
        np.testing.assert_allclose(tp.jvp(f, [tp.constant(X)], [tp.constant(t)])[1], slope, rtol=1e-6)
