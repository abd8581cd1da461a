"""Mistakes that were found and mended, each named after what it showed."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.cli import main
from tapefuse.compiler import optimised
from tapefuse.ir import ops
from tapefuse.ir.interp import evaluate
from tapefuse.ir.passes import tile_plan
from tests.test_acceptance_loops import everywhere
from tests.test_random_tiles import SMALL

ENGINES = ("llvm", "numba")


def test_a_state_is_not_overwritten_before_a_check_has_passed():
    counts = tp.Variable(np.array([0, 0, 5]), name="counts")

    @tp.tape_function
    def step(v):
        index = counts + 1
        counts.assign(index)
        return tp.take(v, index)

    with pytest.raises(IndexError):
        step(np.arange(3.0))
    assert counts.numpy().tolist() == [0, 0, 5]


def test_a_state_is_not_overwritten_before_a_later_kernel_has_read_it():
    s = tp.Variable(2.0, dtype=np.float64)

    @tp.tape_function
    def step(k):
        table = tp.stack([s * 1.0, s * 1.0])
        out = tp.take(table, k)
        s.assign(tp.log(s))
        return out

    assert step(np.array([1])).numpy().tolist() == [2.0]
    assert s.numpy() == np.log(2.0)


def test_a_state_is_not_overwritten_while_its_row_is_read_at_other_places():
    s = tp.Variable(np.array([[-0.7, 0.7], [1.7, -0.2]]))
    expected = np.tanh(s.numpy())[:, ::-1]

    @tp.tape_function
    def step():
        s.assign(tp.flip(tp.tanh(s), axis=1))

    step()
    np.testing.assert_allclose(s, expected, rtol=1e-15)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("names", [("i0", "t2"), ("lo", "hi"), ("chunk", "a3"), ("t3", "n")])
def test_dimensions_named_like_generated_scalars(names, engine):
    f = tp.tape_function(
        lambda x: (tp.sum(tp.exp(x), axis=1), tp.sum(x, axis=0)),
        input_signature=[tp.TensorSpec(names, np.float32)],
        engine=engine,
    )
    x = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    rows, columns = f(x)
    np.testing.assert_allclose(rows, np.exp(x).sum(1), rtol=1e-6)
    np.testing.assert_allclose(columns, x.sum(0), rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_parallel_kernel_that_reads_a_scalar(engine):
    f = tp.tape_function(lambda x, s: (x * s, tp.sum(x * s)), engine=engine, threads=2)
    x = np.ones(4_000_000, np.float32)
    product, total = f(x, np.float32(2))
    assert product.numpy()[[0, -1]].tolist() == [2.0, 2.0] and total.numpy() == 8_000_000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_circular_functions_of_huge_angles(name, dtype):
    x = np.array([1e20, 2.0**52 + 1, -3e18, 1.0, np.inf, np.nan, 1e30] * 5, dtype)
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x)
    np.testing.assert_allclose(tp.tape_function(getattr(tp, name))(x), expected, rtol=4 * np.finfo(dtype).eps)


def test_floor_division_keeps_the_sign_of_zero():
    v = np.array([0.0, -0.0, 1, -1, 0.5, -0.5, 2.5, -7, np.inf, -np.inf, np.nan])
    a, b = (m.ravel() for m in np.meshgrid(v, v))
    quotient, rest = tp.tape_function(lambda a, b: (a // b, a % b))(a, b)
    with np.errstate(all="ignore"):
        for found, expected in ((quotient.numpy(), a // b), (rest.numpy(), a % b)):
            np.testing.assert_array_equal(found, expected)
            number = ~np.isnan(expected)
            np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(expected)[number])


def test_strict_does_not_contract():
    f = lambda x: x * 0.66533536 + -(x * 0.66533536)
    x = np.float32(-0.30514443)
    assert tp.tape_function(f, strict=True)(x).numpy() == 0.0


def test_a_kernel_of_many_operations_is_not_pulled_by_recursion():
    def f(x):
        for _ in range(1000):
            x = x * 1.0001 + 0.0001
        return tp.sum(x)

    value, gradient = tp.tape_function(tp.value_and_grad(f))(np.ones(3, np.float64))
    np.testing.assert_allclose(gradient, np.full(3, 1.0001**1000), rtol=1e-10)
    assert np.isfinite(value.numpy())


def test_the_last_byte_of_a_row_is_stored_alone(tmp_path, capsys):
    """LLVM made a masked store of one lane, of `wide integer < 0`, eight bytes wide: past the end of the result."""
    f = tp.tape_function(lambda x: (tp.sum(x * 3, axis=(0, 1, 2)), x * 3 < 0))
    x = np.random.default_rng(0).integers(-9, 9, (2, 2, 2, 17))
    for _ in range(3):
        total, below = f(x)
    np.testing.assert_array_equal(total, (x * 3).sum((0, 1, 2)))
    np.testing.assert_array_equal(below, x < 0)
    model = tmp_path / "model.py"
    model.write_text("import tapefuse as tp\ndef f(x):\n    return tp.sum(x * 3, axis=(0, 1, 2)), x * 3 < 0\n")
    main(["dump", f"{model}:f", "--args", "i64[2,2,2,17]", "--stage", "llvm"])
    text = capsys.readouterr().out
    assert "store <8 x i8>" in text and not re.search(r"masked\.store[^\n]*<i1 true(, i1 false)+>", text)


def with_a_number_at_the_end(steps):
    """The weighted last state of an upwind scheme, with its gradients by `u` and `p`."""

    def loss(u, p, weights):
        for _ in range(steps):
            u[1:] = u[1:] - p[: len(u) - 1] * (u[1:] - u[:-1])
            u[-1] = p[5]
        return tp.sum(u * weights)

    return tp.grad(loss, argnums=(0, 1))


def gradients_with_a_number_at_the_end(steps, u, p, weights):
    states = [u]
    for _ in range(steps):
        ahead = states[-1][1:] - p[:-1] * (states[-1][1:] - states[-1][:-1])
        states.append(np.concatenate([u[:1], ahead[:-1], p[5:6]]))
    du, dp = weights.copy(), np.zeros(len(u))
    for before in states[-2::-1]:
        dp[5] += du[-1]
        du[-1] = 0.0
        dp[:-1] -= du[1:] * (before[1:] - before[:-1])
        du = np.concatenate([du[:1], du[1:] * (1 - p[:-1])]) + np.concatenate([du[1:] * p[:-1], [0.0]])
    return du, dp


def assert_gradients(found, expected):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12 * np.abs(y).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tile_of_one_element_is_kept_in_memory_that_nothing_wrote(engine):
    """A register held that memory, and was read before anything had written it."""
    arrays = np.random.default_rng(0).random((3, 10_000)) * [[1.0], [0.5], [1.0]]
    found = tp.tape_function(with_a_number_at_the_end(198), engine=engine)(*arrays)
    assert_gradients(found, gradients_with_a_number_at_the_end(198, *arrays))


@pytest.mark.parametrize(("n", "steps"), [(100, 18), (200, 24), (300, 30)])
def test_tiles_read_nothing_that_nobody_wrote(n, steps, monkeypatch):
    """The interpreter has nan there."""
    for name, value in SMALL.items():
        monkeypatch.setattr(tile_plan, name, value)
    arrays = np.random.default_rng(0).random((3, n)) * [[1.0], [0.5], [1.0]]
    f = tp.tape_function(with_a_number_at_the_end(steps))
    graph, expected = optimised(f.graph(*arrays))[0], gradients_with_a_number_at_the_end(steps, *arrays)
    assert any(v.op is ops.empty and v.type.size == 1 for v in everywhere(graph))
    assert_gradients(f(*arrays), expected)
    assert_gradients(evaluate(graph, *arrays), expected)
