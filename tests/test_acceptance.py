"""What the project promises of a compiled training step, tested from outside: one native call, any batch, any engine.

The step is that of examples/digits.py. `tests/test_faults.py` has the other side: bad input and interrupted calls.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn, optim
from tapefuse._config import Options
from tapefuse.cli import main
from tapefuse.compilation import compile_traced
from tapefuse.ir.parse import parse
from tapefuse.ir.print import show
from tapefuse.runtime import blas

F32 = np.float32
ROOT = Path(__file__).resolve().parent.parent
STAGES = ("trace", "adjoint", "optimized", "schedule", "loops", "memory", "numba", "llvm", "asm")
ENGINES = ("llvm", "numba")


@pytest.fixture(scope="module")
def digits():
    """A fresh copy of the example: its model and step are module globals."""
    spec = importlib.util.spec_from_file_location("digits_of_acceptance", ROOT / "examples" / "digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, 64)).astype(F32), rng.integers(0, 10, n)


def events_of(call):
    """What the interpreter reports of a call: Python functions by name, C functions as objects."""
    found = []

    def note(frame, event, argument):
        if event in ("call", "c_call"):
            found.append(argument if event == "c_call" else frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return [x for x in found if x is not sys.setprofile]


class TestOneCall:
    """A step is forward, backward and update in one native program."""

    def test_one_builtin_and_no_numpy_function_runs(self, digits):
        x, y = batch(32)
        for _ in range(2):
            digits.train_step(x, y)
        step = digits.train_step
        python, wrapper, native = events_of(lambda: step(x, y))
        assert python.endswith("<lambda>")
        assert wrapper == "TapeFunction.__call__"
        assert type(native) is type(len) and native.__name__ == "train_step"
        assert native is step._entry and native.__doc__ == "a compiled program"

    def test_the_program_calls_nothing_but_matrix_products_and_threads(self, digits):
        program = compiled(digits.train_step)
        assert program.externals <= {*blas.FUNCTIONS, "tapefuse_run", "tapefuse_threads", "numba_parallel_for"}
        assert sum(s.written for s in program.states) == 6 + 2 * 6 + 1  # weights, Adam's two moments, its step
        assert [s.name for s in program.states if not s.written] == ["learning_rate"]
        assert [str(t) for t in program.outputs] == ["f32[]"]

    def test_variables_stay_where_they_are(self, digits):
        variables = digits.train_step.specialise().traced.variables
        x, y = batch(32)
        digits.train_step(x, y)
        places = [v._array.ctypes.data for v in variables]
        before = [v.numpy() for v in variables]
        digits.train_step(x, y)
        assert [v._array.ctypes.data for v in variables] == places
        changed = [not np.array_equal(a, v.numpy()) for a, v in zip(before, variables, strict=True)]
        assert [v.name for v, c in zip(variables, changed, strict=True) if not c] == ["learning_rate"]

    def test_a_batch_of_another_size_is_no_new_trace(self, digits):
        for n in (1, 7, 32, 100):
            assert np.isfinite(digits.train_step(*batch(n)).item())
        x, y = batch(100)
        assert len(events_of(lambda: digits.train_step(x, y))) == 3
        assert digits.train_step.trace_count == 1
        assert len(digits.train_step.specialise()._entries) == 1


def compiled(function, engine="llvm"):
    traced = function.specialise().traced
    return compile_traced(traced, Options(engine=engine)).program


# -- any batch ------------------------------------------------------------------------------------------------------

WEIGHTS = [
    (np.random.default_rng(5).normal(size=s) / np.sqrt(s[0])).astype(F32) for s in ((784, 24), (24, 16), (16, 10))
]


def loss_of(x, labels, weights, library):
    """Summed cross-entropy of a network, in NumPy's functions on whatever arrays."""
    for w in weights[:-1]:
        x = library.maximum(x @ w, 0)
    z = x @ weights[-1]
    z = z - library.max(z, axis=1, keepdims=True)
    picked = library.sum(z * labels, axis=1)
    return library.sum(library.log(library.sum(library.exp(z), axis=1)) - picked)


def reference(x, labels, weights):
    """The loss and its gradients by the weights, written out, in float64."""
    ws = [w.astype(np.float64) for w in weights]
    layers = [x.astype(np.float64)]
    for w in ws[:-1]:
        layers.append(np.maximum(layers[-1] @ w, 0))
    z = layers[-1] @ ws[-1]
    p = np.exp(z - z.max(axis=1, keepdims=True)) if len(z) else z
    p = p / p.sum(axis=1, keepdims=True)
    loss = -np.sum(np.log(np.sum(p * labels, axis=1)))
    g, grads = p - labels, []
    for w, a in zip(reversed(ws), reversed(layers), strict=True):
        grads.append(a.T @ g)
        g = (g @ w.T) * (a > 0)
    return loss, grads[::-1]


@pytest.mark.parametrize("engine", ENGINES)
def test_any_batch_is_traced_and_compiled_once(engine):
    """Gradients by variables, of a function traced for f32[B,784]."""
    weights = [tp.Variable(w) for w in WEIGHTS]
    calls = []

    @tp.tape_function(input_signature=[tp.TensorSpec(("B", 784)), tp.TensorSpec(("B", 10))], engine=engine, threads=1)
    def value_and_gradient(x, labels):
        calls.append(x.shape)
        with tp.GradientTape() as tape:
            loss = loss_of(x, labels, weights, np)
        return loss, tape.gradient(loss, weights)

    for n in (1, 7, 32, 1000, 0):
        rng = np.random.default_rng(n)
        x, labels = rng.normal(size=(n, 784)).astype(F32), np.eye(10, dtype=F32)[rng.integers(0, 10, n)]
        loss, grads = value_and_gradient(x, labels)
        want_loss, want_grads = reference(x, labels, WEIGHTS)
        np.testing.assert_allclose(loss, want_loss, rtol=1e-4)
        eager_loss, eager_grads = value_and_gradient.__wrapped__(tp.constant(x), tp.constant(labels))
        np.testing.assert_allclose(loss, eager_loss, rtol=1e-5)
        for g, eager, want in zip(grads, eager_grads, want_grads, strict=True):
            scale = np.abs(want).max() or 1
            np.testing.assert_allclose(np.asarray(g) / scale, want / scale, atol=1e-5)
            np.testing.assert_allclose(np.asarray(g) / scale, np.asarray(eager) / scale, atol=1e-5)
        calls[1:] = []  # the eager calls
    assert len(calls) == value_and_gradient.trace_count == 1
    assert len(value_and_gradient.specialise()._entries) == 1


def test_the_gradient_by_the_input_of_any_batch():
    f = tp.tape_function(
        lambda x: tp.sum(tp.tanh(x @ WEIGHTS[0]), axis=1), input_signature=[tp.TensorSpec((None, 784))]
    )
    g = tp.grad(lambda x: tp.sum(f(x) ** 2))
    for n in (1, 7, 32, 1000, 0):
        x = np.random.default_rng(n).normal(size=(n, 784)).astype(F32)
        t = np.tanh(x @ WEIGHTS[0])
        want = (2 * t.sum(axis=1, keepdims=True) * (1 - t * t)) @ WEIGHTS[0].T
        np.testing.assert_allclose(g(x), want, atol=2e-4)
    assert f.trace_count == 1


# -- every stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_dump_shows_every_stage_of_the_examples_step(stage, capsys):
    assert main(["dump", f"{ROOT}/examples/digits.py:train_step", "--stage", stage]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 10
    if stage in ("trace", "adjoint", "optimized"):
        assert show(parse(text)) + "\n" == text


_RUN_DUMPED = """
import sys
import numpy as np
import dumped
from numba import config
rng = np.random.default_rng(0)
w, x, y = rng.normal(size=(4, 3)).astype("f4"), rng.normal(size=(6, 4)).astype("f4"), rng.integers(0, 3, 6)
loss, arena = np.zeros((), "f4"), np.zeros(1 << 16, np.uint8)
assert hasattr(dumped.program, "py_func") != bool(config.DISABLE_JIT)
assert dumped.program(x, y, w, loss, arena) == 0
np.savez(sys.argv[1], w=w, loss=loss)
y[3] = 7
assert dumped.program(x, y, w, loss, arena) == 1
assert np.array_equal(np.load(sys.argv[1])["w"], w)
"""


def test_the_dumped_numba_text_is_a_module(tmp_path, monkeypatch, capsys):
    """As plain Python and under @njit, in processes of their own: the results of the compiled step, bit for bit."""
    (tmp_path / "stepping.py").write_text(
        "import tapefuse as tp\n"
        "from tapefuse import nn\n"
        "w = tp.Variable(tp.zeros((4, 3)), name='w')\n"
        "@tp.tape_function(input_signature=[tp.TensorSpec((6, 4)), tp.TensorSpec((6,), tp.int64)])\n"
        "def step(x, y):\n"
        "    with tp.GradientTape() as tape:\n"
        "        loss = nn.softmax_cross_entropy(x @ w, y).sum()\n"
        "    w.assign_sub(0.5 * tape.gradient(loss, w))\n"
        "    return loss\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["dump", "stepping.py:step", "--stage", "numba", "-o", "dumped.py"]) == 0
    found = []
    for disabled in ("1", "0"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        command = [sys.executable, "-c", _RUN_DUMPED, f"{disabled}.npz"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found.append(dict(np.load(f"{disabled}.npz")))
    for name in ("w", "loss"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)
    rng = np.random.default_rng(0)
    w = tp.Variable(rng.normal(size=(4, 3)).astype(F32))
    x, y = rng.normal(size=(6, 4)).astype(F32), rng.integers(0, 3, 6)
    with tp.GradientTape() as tape:
        loss = nn.softmax_cross_entropy(x @ w, y).sum()
    np.testing.assert_allclose(found[1]["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found[1]["w"], w - 0.5 * tape.gradient(loss, w), rtol=1e-4, atol=1e-6)


# -- threads --------------------------------------------------------------------------------------------------------


def large(x, w):
    """Row kernels, sums over columns, over all and of several at once, products, and gradients of them."""
    p = tp.softmax(x)
    by_w = tp.grad(lambda w: (tp.tanh(x @ w) ** 2).sum())(w)
    return p, x.sum(axis=0), x @ w, x.sum(), (x * x).mean(), x.max(axis=0), x.min(), x.prod(axis=1), by_w, x + x.sum()


def small(x, w):
    """The same kinds of kernels, as few as possible: Numba takes its time."""
    return x.sum(axis=0), x @ w, x.sum()


def bits(results):
    return [np.asarray(r).tobytes() for r in results]


@pytest.mark.parametrize(
    ("engine", "function", "strict", "dtype"),
    [("llvm", large, s, d) for s in (False, True) for d in ("f4", "f8")] + [("numba", small, False, "f4")],
)
def test_results_do_not_depend_on_threads(engine, function, strict, dtype):
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2000, 129)).astype(dtype), rng.normal(size=(129, 32)).astype(dtype)
    versions = [tp.tape_function(function, engine=engine, threads=n, strict=strict) for n in (1, 2)]
    one, two = (f(x, w) for f in versions)
    assert bits(one) == bits(two) == bits(versions[1](x, w))
    assert "numba_parallel_for" in program_of(versions[1], x, w).externals
    for got, want in zip(one, function(tp.constant(x), tp.constant(w)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def program_of(function, *args):
    traced = function.specialise(*args).traced
    return compile_traced(traced).program


@pytest.mark.parametrize("flag", ["keyword", "config"])
def test_strict_sums_stand_in_the_order_of_the_source(flag):
    """1e8 + 1 - 1e8 + 1 ... in float32 depends on the order; strict keeps it from left to right."""
    x = np.tile(np.array([1e8, 1, -1e8, 1], F32), 1000)
    want = F32(0)
    for value in x:
        want += value
    f = tp.tape_function(lambda x: x.sum(), strict=flag == "keyword")
    with tp.config(strict=flag == "config"):
        assert f(x).item() == want.item()


# -- engines --------------------------------------------------------------------------------------------------------


def test_the_engine_as_keyword_flag_and_block():
    x = np.arange(5, dtype=F32)
    want = (np.sin(x) * x).sum()
    by_keyword = tp.tape_function(lambda x: (tp.sin(x) * x).sum(), engine="numba")
    by_flag = tp.tape_function(lambda x: (tp.sin(x) * x).sum())
    native = type(len)
    np.testing.assert_allclose([by_keyword(x), by_flag(x)], want, rtol=1e-4)
    assert type(by_flag._entry) is native and type(by_keyword._entry) is not native
    with tp.config(engine="numba"):
        np.testing.assert_allclose(by_flag(x), want, rtol=1e-4)
        assert "engine: numba" in by_flag.explain()
    by_flag(x)
    assert type(by_flag._entry) is native
    tp.config.engine = "numba"
    try:
        by_flag(x)
        assert type(by_flag._entry) is not native
    finally:
        tp.config.engine = "llvm"
    with pytest.raises(ValueError, match="engine='cuda': expected 'llvm' or 'numba'"):
        tp.config.engine = "cuda"
    assert by_flag.trace_count == 1


def test_a_wrong_engine_is_an_error_where_it_is_given():
    with pytest.raises(ValueError, match="engine='cuda': expected 'llvm' or 'numba'"):
        tp.tape_function(lambda x: x, engine="cuda")
    with pytest.raises(ValueError, match="threads=0: expected a positive number"):
        tp.tape_function(lambda x: x, threads=0)


def test_both_engines_train_alike():
    """Adam, whose states have several dtypes."""
    x, y = batch(20)

    def losses(engine):
        dense = nn.Dense(10, inputs=64, seed=0)
        optimizer = optim.Adam(0.01)

        @tp.tape_function(engine=engine)
        def step(x, y):
            with tp.GradientTape() as tape:
                loss = nn.softmax_cross_entropy(dense(x), y).mean()
            optimizer.apply_gradients(zip(tape.gradient(loss, dense.variables), dense.variables, strict=True))
            return loss

        return [step(x, y).item() for _ in range(5)]

    numba, llvm = losses("numba"), losses("llvm")
    np.testing.assert_allclose(numba, llvm, rtol=1e-5)
    assert llvm[-1] < llvm[0]


# -- derivatives of compiled functions ------------------------------------------------------------------------------


def cubic(x, k):
    return tp.sum(k * x**3 + tp.sin(x))


@pytest.mark.parametrize("outer", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
@pytest.mark.parametrize("inner", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_gradients_inside_and_around(inner, outer):
    x, k = np.array([0.5, -1.0, 2.0]), np.array([2.0, 1.0, 3.0])
    value, (dx, dk) = outer(tp.value_and_grad(inner(cubic), argnums=(0, 1)))(x, k)
    np.testing.assert_allclose(value, (k * x**3 + np.sin(x)).sum())
    np.testing.assert_allclose(dx, 3 * k * x**2 + np.cos(x))
    np.testing.assert_allclose(dk, x**3)
    second = outer(tp.grad(lambda x: tp.sum(tp.grad(inner(cubic))(x, k) ** 2)))(x)
    g = 3 * k * x**2 + np.cos(x)
    np.testing.assert_allclose(second, 2 * g * (6 * k * x - np.sin(x)))
    third = outer(tp.grad(lambda x: tp.sum(tp.grad(lambda x: tp.sum(tp.grad(inner(cubic))(x, k)))(x))))(x)
    np.testing.assert_allclose(third, 6 * k - np.cos(x))
    _, tangent = tp.jvp(outer(inner(cubic)), (x, k), (np.ones(3), np.zeros(3)))
    np.testing.assert_allclose(tangent, g.sum())


def test_tapes_around_nested_compiled_functions_with_state():
    """Second order by a variable, through two levels of compiled functions of which one writes a counter."""
    w, calls = tp.Variable(2.0, name="w"), tp.Variable(0, trainable=False, name="calls")

    @tp.tape_function
    def inner(x):
        calls.assign_add(1)
        return x * w**3

    outer = tp.tape_function(lambda x: inner(x) + inner(2 * x))
    for _ in range(2):
        with tp.GradientTape() as second:
            with tp.GradientTape() as first:
                y = outer(tp.constant(5.0))
            dw = first.gradient(y, w)
        assert [y.item(), dw.item(), second.gradient(dw, w).item()] == [15 * 8.0, 15 * 12.0, 15 * 12.0]
    assert calls.item() == 4
    assert outer.trace_count == inner.trace_count == 1
