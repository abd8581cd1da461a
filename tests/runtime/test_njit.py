"""Compiled functions called from `@njit` code: both engines, values, gradients, layouts, checks, refusals."""

import numba
import numpy as np
import pytest

import tapefuse as tp

pytestmark = pytest.mark.parametrize("engine", ["llvm", "numba"], scope="module")


def traced(engine, *specs):
    return lambda f: tp.tape_function(f, engine=engine, input_signature=[tp.TensorSpec(*s) for s in specs])


@pytest.fixture(scope="module")
def loss(engine):
    w = tp.Variable(np.random.default_rng(0).normal(size=(4, 3)))

    @traced(engine, ((None, 4), tp.float64), ((), tp.float64))
    def loss(x, s):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = tp.sum(tp.tanh(x @ w) * s)
        return y, tape.gradient(y, x)

    return loss


@pytest.fixture(scope="module")
def compiled(loss):
    """For `@njit` code: Numba compiles it once for each layout of an argument."""
    return loss.njit()


def test_value_and_gradient_in_a_native_loop(loss, compiled):
    @numba.njit
    def descend(x, steps):
        y = 0.0
        for _ in range(steps):
            y, g = compiled(x, 2.0)
            x = x - 0.1 * g
        return y, x

    x = expected = np.random.default_rng(1).normal(size=(5, 4))
    for _ in range(3):
        y, g = loss(expected, 2.0)
        expected = expected - 0.1 * g.numpy()
    value, result = descend(x, 3)
    np.testing.assert_allclose(value, y.numpy(), rtol=1e-14)
    np.testing.assert_allclose(result, expected, rtol=1e-14)


@pytest.mark.parametrize("rows", [0, 1, 300])
def test_any_extent_and_layout(loss, compiled, rows):
    x = np.random.default_rng(2).normal(size=(4, rows)).T  # not C-contiguous
    y, g = compiled(x, np.float64(0.5))
    expected = loss(x, 0.5)
    np.testing.assert_allclose(y, expected[0].numpy(), rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(g, expected[1].numpy(), rtol=1e-14)


def test_read_only_arrays_are_taken(compiled):
    x = np.ones((2, 4))
    x.flags.writeable = False
    assert np.isfinite(compiled(x, 1.0)[0])


def test_an_extent_that_does_not_fit(compiled):
    with pytest.raises(ValueError, match=r"axis 1 of argument x0 does not fit f64\[B0,4\]"):
        compiled(np.ones((2, 3)), 1.0)


@pytest.mark.parametrize("x", [np.ones((2, 4), np.float32), np.ones(4)])
def test_another_dtype_or_rank_is_a_typing_error_that_names_it(compiled, x):
    with pytest.raises(numba.TypingError, match=r"loss: argument x0 is .*the compiled function takes f64\[B0,4\]"):
        compiled(x, 1.0)


def test_an_index_out_of_range(engine):
    @traced(engine, ((5,), tp.float64), ((), tp.int64))
    def pick(x, k):
        return x[k]

    compiled = pick.njit()
    assert compiled(np.arange(5.0), 3) == 3.0
    with pytest.raises(IndexError, match="lies outside axis 0"):
        compiled(np.arange(5.0), 5)


def test_no_memory_for_a_size_that_the_program_computes(engine):
    @traced(engine, ((), tp.float64), ((), tp.int64))
    def slope(x, n):
        def repeated(x):
            for _ in range(n):
                x = tp.sin(x)
            return x

        return tp.grad(repeated)(x)

    compiled = slope.njit()
    with pytest.raises(MemoryError):
        compiled(1.0, 1 << 48)
    np.testing.assert_allclose(compiled(1.0, 2), np.cos(np.sin(1)) * np.cos(1))


def test_variables_keep_their_values(engine):
    v = tp.Variable(2.0, dtype=tp.float64)
    f = traced(engine, ((3,), tp.float64))(lambda x: x * v)
    compiled = f.njit()
    v.assign(5.0)
    assert compiled(np.ones(3)).tolist() == [2.0] * 3


def test_a_function_that_assigns_is_refused(engine):
    v = tp.Variable(2.0, name="total")

    @tp.tape_function(engine=engine)
    def add(x):
        v.assign_add(x)

    with pytest.raises(ValueError, match=r"'add' assigns variables \(total\)"):
        add.njit(tp.TensorSpec(()))


def test_large_constants_and_threads(engine):
    table = np.random.default_rng(3).normal(size=(2000, 300))
    f = traced(engine, ((2000, 300), tp.float64))(lambda x: tp.sum(tp.exp(x * table)))
    x = np.random.default_rng(4).normal(size=table.shape)
    np.testing.assert_allclose(f.njit()(x), np.exp(x * table).sum(), rtol=1e-12)
