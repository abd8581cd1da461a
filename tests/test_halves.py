"""float16 and bfloat16 as users meet them: tensors, tapes, compiled functions, variables, optimizers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn, optim
from tapefuse._errors import CompileError, DTypeError

HALVES = {"float16": tp.float16, "bfloat16": tp.bfloat16}
half = pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
engines = pytest.mark.parametrize("engine", ["llvm", "numba"])
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def drawn(shape, dtype, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(dtype)


def same(got, want) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got, want)


def near(got, want, ulps=1.0) -> None:
    """`got` is `want`, which is wide, up to some units in the last place."""
    got, want = np.asarray(got), np.asarray(want)
    eps = float(tp.finfo(got.dtype).eps) * ulps
    np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=eps, atol=eps)


# -- tensors ----------------------------------------------------------------------------------------------------------


@half
def test_tensors(dtype):
    x = tp.constant([[1, 2.5], [3, -4]], dtype)
    assert x.dtype is dtype and (x * 2).dtype is dtype and (x / 3).dtype is dtype and (1.5 - x).dtype is dtype
    assert (x + np.float32(1)).dtype == np.float32 and (x + tp.constant(1)).dtype == np.float64
    assert tp.zeros((2,), dtype).dtype is dtype and tp.arange(3, dtype=dtype).dtype is dtype
    assert x.tolist() == [[1.0, 2.5], [3.0, -4.0]] and float(x[0, 1]) == 2.5
    assert tp.result_type(x, 1.5) is dtype and (x > 1).dtype == bool
    x[0] = 7
    same(x, np.array([[7, 7], [3, -4]], dtype))
    same(tp.constant(np.asarray(x)), x)


def test_both_halves_together_are_float32():
    a, b = tp.ones(2, tp.float16), tp.ones(2, tp.bfloat16)
    assert (a + b).dtype == (b * a).dtype == tp.concatenate([a, b]).dtype == tp.where(a > 0, a, b).dtype == np.float32
    assert tp.promote_types(tp.bfloat16, np.float16) == np.float32


def test_other_dtypes_of_the_package_are_no_tensors():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(DTypeError, match="bfloat16, float16/32/64"):
        tp.constant(np.zeros(2, ml_dtypes.float8_e4m3fn))
    with pytest.raises(DTypeError):
        tp.constant(np.zeros(2, "V2"))


def test_limits():
    assert float(tp.finfo(tp.bfloat16).max) == (2 - 2**-7) * 2.0**127
    assert tp.finfo(np.float16).eps == np.finfo(np.float16).eps
    assert tp.finfo(tp.constant(1.0, tp.bfloat16)).bits == 16
    with pytest.raises(ValueError):
        tp.finfo(tp.int32)


def test_bfloat16_is_imported_when_it_is_asked_for():
    script = (
        "import sys, tapefuse as tp; tp.tape_function(lambda x: x + 1)(tp.constant([1.0]));"
        "print('ml_dtypes' in sys.modules); tp.bfloat16; print('ml_dtypes' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]


def test_no_other_name_is_made_up():
    with pytest.raises(AttributeError, match="has no attribute 'float8' .*tapefuse.compat.tensorflow"):
        tp.float8  # noqa: B018


@half
def test_means_and_variances_are_rounded_once(dtype):
    x = np.full(40_000, 3.0, dtype)  # whose sum is no float16
    same(tp.mean(x), dtype.type(3))
    y = drawn((50, 7), dtype)
    wide = y.astype("f4")
    for function in (np.mean, np.var, np.std):
        near(getattr(tp, function.__name__)(y, 0), function(wide, 0), 0.6)
    near(tp.softmax(y), np.exp(wide) / np.exp(wide).sum(-1, keepdims=True), 0.6)
    near(tp.logsumexp(y, 1), np.log(np.exp(wide).sum(1)), 0.6)
    assert tp.mean(y, dtype=np.float32).dtype == np.float32


# -- derivatives ------------------------------------------------------------------------------------------------------


def loss(x, w):
    h = tp.tanh(x @ w + 0.5)
    return tp.sum(tp.softmax(h) * tp.log(1 + h * h)) + tp.mean(tp.sort(h, 0)[1:] ** 2)


@half
def test_gradients(dtype):
    """They have the dtype of the sources, and the value of those in float64 up to a few roundings."""
    x, w = drawn((6, 5), dtype), drawn((5, 4), dtype, 1)
    found = tp.grad(loss, (0, 1))(tp.constant(x), tp.constant(w))
    want = tp.grad(loss, (0, 1))(tp.constant(x, np.float64), tp.constant(w, np.float64))
    for g, v in zip(found, want, strict=True):
        assert g.dtype is dtype
        near(g, v, 8)
    y, tangent = tp.jvp(lambda x: loss(x, w), (tp.constant(x),), (tp.ones_like(x),))
    assert y.dtype is tangent.dtype is dtype


@engines
@half
def test_compiled_gradients_and_batches(engine, dtype):
    x, w = tp.constant(drawn((6, 5), dtype)), tp.constant(drawn((5, 4), dtype, 1))
    step = tp.value_and_grad(loss, (0, 1))
    for got, want in zip(*[_flat(f(x, w)) for f in (tp.tape_function(step, engine=engine), step)], strict=True):
        assert got.dtype is dtype
        near(got, want, 2)
    rows = tp.vmap(lambda r: tp.sum(tp.exp(r)))
    near(tp.tape_function(rows, engine=engine)(x), rows(x))


def _flat(found):
    value, gradients = found
    return [value, *gradients]


# -- compiled functions -----------------------------------------------------------------------------------------------


@engines
@half
def test_loops_carry_halves(engine, dtype):
    def f(x, n):
        total = tp.zeros_like(x)
        for k in tp.numpy.arange(n):
            total = total + x * x
            total[k % 3] += 1.0
        return total

    x = tp.constant(drawn(3, dtype))
    compiled = tp.tape_function(f, engine=engine)
    same(compiled(x, tp.constant(20)), tp.constant(f(x, 20)))


@engines
@half
def test_entry(engine, dtype):
    """Arrays and tensors go in; other dtypes of 16 bits are another trace, and no call mistakes one for another."""
    function = tp.tape_function(lambda x: x + x, engine=engine)
    same(function(drawn(9, dtype)), drawn(9, dtype) * dtype.type(2))
    same(function(tp.constant(drawn(9, dtype))), drawn(9, dtype) * dtype.type(2))
    whole = np.arange(9, dtype=np.uint16)
    same(function(whole), whole * 2)
    for other in HALVES.values():
        same(function(drawn(9, other)), drawn(9, other) * other.type(2))
    assert function.trace_count == 3
    frozen = drawn(9, dtype)
    frozen.flags.writeable = False
    same(function(frozen), frozen * dtype.type(2))
    assert function(np.asarray(dtype.type(1.5))).dtype is dtype


@engines
@half
def test_arrays_out(engine, dtype):
    function = tp.tape_function(lambda x: (tp.sum(x), x), engine=engine, outputs="numpy")
    number, array = function(np.array([1.5, 2.5], dtype))
    assert (type(number), number) == (float, 4.0)
    assert type(array) is np.ndarray and array.dtype is dtype


@engines
@half
def test_signatures_and_constants(engine, dtype):
    table = drawn((40, 30), dtype)
    signature = [tp.TensorSpec((None, 40), dtype)]
    function = tp.tape_function(
        lambda x: x @ tp.constant(table) + dtype.type(0.5), input_signature=signature, engine=engine
    )
    for n in (1, 5):
        x = drawn((n, 40), dtype, n)
        near(function(x), x.astype("f4") @ table.astype("f4") + 0.5, 1.1)
    assert function.trace_count == 1
    with pytest.raises(DTypeError):
        function(np.zeros((2, 40), np.float32))


@engines
@half
def test_variables(engine, dtype):
    v = tp.Variable([1, 2, 3], dtype=dtype)

    @tp.tape_function(engine=engine)
    def step(x):
        v.assign_add(x)
        v[1] = 0.5
        return v * 2

    same(step(np.ones(3, dtype)), np.array([4, 1, 8], dtype))
    same(step(np.ones(3, dtype)), np.array([6, 1, 10], dtype))
    same(v, np.array([3, 0.5, 5], dtype))


@half
def test_numba_code_is_told_what_to_do(dtype):
    function = tp.tape_function(lambda x: x + x, input_signature=[tp.TensorSpec((3,), dtype)])
    with pytest.raises(CompileError, match="take and return float32"):
        function.njit()


def test_programs_are_found_on_disk_again(tmp_path):
    script = (
        "import numpy as np, tapefuse as tp;"
        "t = np.arange(64).astype(tp.bfloat16);"
        "f = tp.tape_function(lambda x: tp.exp(x) * tp.constant(t));"
        "print(float(tp.sum(f(np.ones(64, tp.bfloat16)))), 'tapefuse.compiler' in __import__('sys').modules)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"TAPEFUSE_CACHE_DIR": str(tmp_path), "TAPEFUSE_CACHE": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert runs[0][0] == runs[1][0]
    assert [r[1] for r in runs] == ["True", "False"]


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
@half
def test_small_steps_add_up(dtype, staged):
    """A step below half a unit in the last place moves the float32 that the variable is rounded from."""
    w = tp.Variable(np.ones(3), dtype=dtype)
    optimizer = optim.SGD(1.0)
    step = lambda g: optimizer.apply_gradients([(g, w)])
    step = tp.tape_function(step) if staged else step
    g = tp.constant(np.full(3, 2.0**-14), dtype)
    for _ in range(1024):
        step(g)
    same(w, np.full(3, 1 - 2.0**-4, dtype))
    w.assign(np.full(3, 4.0, dtype))  # somebody else's value counts
    step(g)
    same(optimizer.masters["0"], np.full(3, 4 - 2.0**-14, np.float32))


@half
def test_slots_are_single(dtype):
    w = tp.Variable([1.0, -1.0], dtype=dtype)
    adam = optim.Adam(0.1)
    for _ in range(3):
        adam.apply_gradients([(tp.constant([0.5, 1e-3], dtype), w)])
    assert {v.dtype.name for v in adam.slots_of(w)} == {"float32"}
    near(w, np.array([0.7, -1.3]), 2)
    assert w.dtype is dtype
    assert any("w" not in name and "master" in name for name in (v.name for v in adam.variables))


@pytest.mark.parametrize("staged", [False, True])
@half
def test_a_network_learns(dtype, staged):
    x, y = drawn((64, 8), dtype), np.random.default_rng(0).integers(0, 3, 64)
    first, last = nn.Dense(16, activation="relu", dtype=dtype, seed=1), nn.Dense(3, dtype=dtype, seed=2)
    layers = [first, nn.LayerNorm(dtype=dtype), last]
    optimizer = optim.AdamW(0.02)

    def step(x, y):
        with tp.GradientTape() as tape:
            h = x
            for layer in layers:
                h = layer(h)
            error = nn.softmax_cross_entropy(h, y).mean()
        weights = [w for layer in layers for w in layer.trainable_variables]
        optimizer.apply_gradients(zip(tape.gradient(error, weights), weights, strict=True))
        return error

    step = tp.tape_function(step) if staged else step
    errors = [step(x, y) for _ in range(40)]
    assert errors[0].dtype is dtype
    assert float(errors[-1]) < 0.5 * float(errors[0])
