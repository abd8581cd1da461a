"""tape_function: when it traces, what it returns, how it meets variables, tapes, other functions and bad input.

Tests with a number in their name hold that line of the reference on tapes, section 18.
"""

from __future__ import annotations

import copy
import pickle
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir.types import Poly

F32 = np.float32
pytestmark = pytest.mark.filterwarnings("ignore:.*was traced")


def traced(function, **options):
    """A tape_function and the list of calls that reached Python."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    counted.__wrapped__ = function
    return tp.tape_function(counted, **options), calls


def double(x):
    return x * 2


# -- when it traces -------------------------------------------------------------------------------------------------


def test_188_not_callable():
    with pytest.raises(TypeError, match="takes a function, got 3"):
        tp.tape_function(3)


def test_189_python_runs_once_per_trace():
    seen = []

    @tp.tape_function
    def f(x):
        seen.append(x.dtype)
        return x + 1

    for x in (tp.constant(1.0), tp.constant(2.0), tp.constant(1), tp.constant(3)):
        assert f(x).item() == x.item() + 1
    assert seen == [F32, np.int32]
    assert f.trace_count == 2


def test_190_python_values_count_by_value():
    f, calls = traced(lambda x, k: x * k)
    x = tp.constant(2.0)
    for k in (1, 1, 2, tp.constant(3.0), tp.constant(4.0)):
        assert f(x, k).item() == 2 * float(k)
    assert len(calls) == f.trace_count == 3


def test_191_python_types_count():
    """A wart: 1, 1.0 and True have traces of their own."""
    f, _ = traced(lambda x, k: x * k)
    x = tp.constant(2)
    assert [f(x, k).dtype for k in (1, 1.0, True)] == [np.int32, np.float64, np.int32]
    assert f.trace_count == 3
    assert [f(x, k).dtype for k in (0.0, -0.0)] == [np.float64] * 2
    assert f.trace_count == 5


def test_192_structures_count():
    f, _ = traced(lambda x: sum(x.values()) if isinstance(x, dict) else sum(x))
    a = tp.constant(1.0)
    assert f([a, a]).item() == 2
    assert f([tp.constant(2.0), a]).item() == 3
    assert f.trace_count == 1
    f((a, a))
    f([a, a, a])
    f([1.0, 2.0])
    f([1.0, 3.0])
    assert f.trace_count == 5
    f({"a": a, "b": a})
    f({"b": a, "a": a})
    assert f.trace_count == 6


def test_193_arrays_become_tensors():
    f, _ = traced(lambda x: x.sum())
    for k in range(3):
        assert f(np.full(3, k, F32)).item() == 3 * k
    assert f.trace_count == 1
    assert f(np.ones(3)).dtype == np.float64
    assert f.trace_count == 2
    assert f(np.float64(3.0)).item() == 3.0


def test_194_defaults_and_keywords_are_canonical():
    f = tp.tape_function(lambda x, k=2: x * k)
    x = tp.constant(3.0)
    assert [f(x).item(), f(x, 2).item(), f(x, k=2).item(), f(k=2, x=x).item()] == [6.0] * 4
    assert f.trace_count == 1


def test_194_variadic_parameters():
    f = tp.tape_function(lambda *xs, scale=1.0, **more: sum(xs) * scale + sum(more.values()))
    a, b = tp.constant(1.0), tp.constant(2.0)
    assert f(a, b).item() == 3.0
    assert f(a, b, scale=2.0, c=a).item() == 7.0
    with pytest.raises(TypeError, match=r"its parameters are \(x\)"):
        tp.tape_function(lambda x: x)(1, 2)


def test_195_none_and_objects():
    class Config:
        scale = 2.0

    f = tp.tape_function(lambda x, c=None: x if c is None else x * c.scale)
    x, one, two = tp.constant(3.0), Config(), Config()
    assert [f(x).item(), f(x, one).item(), f(x, one).item(), f(x, two).item()] == [3.0, 6.0, 6.0, 6.0]
    assert f.trace_count == 3
    del one, two
    other = Config()
    other.scale = 5.0  # may live where a dead one did
    assert f(x, other).item() == 15.0


def test_196_unhashable_argument():
    with pytest.raises(TypeError, match=r"\{1, 2\}.*set.*cannot be hashed"):
        tp.tape_function(lambda x, s: x)(tp.constant(1.0), {1, 2})


def test_197_variable_arguments():
    f, _ = traced(lambda a, b: a * 10 + b)
    x, y, z = tp.Variable(1.0), tp.Variable(2.0), tp.Variable(3.0)
    assert [f(x, y).item(), f(y, z).item(), f(x, x).item(), f(y, y).item()] == [12.0, 23.0, 11.0, 22.0]
    assert f.trace_count == 2


def test_197_assigning_variable_arguments():
    f = tp.tape_function(lambda v, x: v.assign_add(x) * 2)
    a, b = tp.Variable(1.0), tp.Variable(10.0)
    x = tp.constant(1.0)
    assert [f(a, x).item(), f(b, x).item(), f(a, x).item()] == [4.0, 22.0, 6.0]
    assert [a.item(), b.item()] == [3.0, 11.0]


def test_198_closures_are_frozen_and_variables_are_not():
    scale, v = [2.0], tp.Variable(2.0)
    f = tp.tape_function(lambda x: x * scale[0] * v)
    x = tp.constant(1.0)
    assert f(x).item() == 4.0
    scale[0] = 3.0
    v.assign(5.0)
    assert f(x).item() == 10.0


def test_199_shapes_count():
    f = tp.tape_function(lambda x: x.sum())
    for n in (1, 2, 3, 4, 1, 2):
        assert f(np.ones(n, F32)).item() == n
    assert f.trace_count == 4


def test_200_warning_of_many_traces():
    f = tp.tape_function(double)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(30):
            f(np.ones(n, F32))
    assert [w.category for w in caught] == [tp.PerformanceWarning] * 2
    assert all(f"({k})" in str(caught[0].message) for k in (1, 2, 3))
    assert caught[0].filename == __file__


class TestInputSignature:
    """Line 201."""

    def test_201_any_batch_is_one_trace(self):
        w = tp.Variable(np.ones((3, 2), F32))

        @tp.tape_function(input_signature=[tp.TensorSpec((None, 3))])
        def f(x):
            with tp.GradientTape() as tape:
                loss = tp.mean((x @ w) ** 2)
            return loss, tape.gradient(loss, w)

        for n in (1, 7, 32, 1000):
            x = np.random.default_rng(n).normal(size=(n, 3)).astype(F32)
            loss, g = f(x)
            np.testing.assert_allclose(loss, np.mean((x @ np.ones((3, 2))) ** 2), rtol=1e-4)
            np.testing.assert_allclose(g, x.T @ (x @ np.ones((3, 2))) / n, rtol=1e-3, atol=1e-5)
        assert f.trace_count == 1

    def test_201_wrong_rank_dtype_or_extent(self):
        f = tp.tape_function(double, input_signature=[tp.TensorSpec((None, 3))])
        for wrong in (np.ones(3, F32), np.ones((2, 3)), np.ones((2, 4), F32)):
            with pytest.raises(
                TypeError, match=r"the argument x is .* cannot be cast to the input_signature's f32\[B0,3\]"
            ):
                f(wrong)
        assert f.trace_count == 0

    def test_201_lists_are_converted(self):
        f = tp.tape_function(double, input_signature=[tp.TensorSpec((None,), np.float64)])
        assert f([1.0, 2.5]).tolist() == [2.0, 5.0]
        assert f([1, 2, 3]).dtype == np.float64
        assert f.trace_count == 1
        with pytest.raises(TypeError, match="cannot be cast"):
            f("text")

    def test_201_too_many_arguments(self):
        f = tp.tape_function(double, input_signature=[tp.TensorSpec((None,))])
        with pytest.raises(TypeError, match="too many positional"):
            f(tp.constant([1.0]), tp.constant([1.0]))

    @pytest.mark.parametrize("bad", [[], [tp.TensorSpec(()), tp.TensorSpec(())], [3], tp.TensorSpec(()), [None]])
    def test_201_malformed(self, bad):
        with pytest.raises(TypeError, match="input_signature"):
            tp.tape_function(double, input_signature=bad)

    def test_201_specs(self):
        with pytest.raises(TypeError, match="no extent"):
            tp.TensorSpec((-1,))
        with pytest.raises(TypeError, match="complex"):
            tp.TensorSpec((1,), complex)
        assert tp.TensorSpec(3).shape == (3,)

    def test_201_named_extents_are_equal(self):
        spec = tp.TensorSpec(("N",))
        f = tp.tape_function(lambda x, y: x + y, input_signature=[spec, spec])
        assert f(np.ones(4, F32), np.ones(4, F32)).shape == (4,)
        with pytest.raises(ValueError, match="N"):
            f(np.ones(4, F32), np.ones(5, F32))

    def test_201_structures(self):
        spec = {"x": tp.TensorSpec((None,)), "more": [tp.TensorSpec(())]}
        f = tp.tape_function(lambda batch, k=2: batch["x"] * batch["more"][0] * k, input_signature=[spec])
        assert f({"more": [tp.constant(3.0)], "x": np.ones(2, F32)}).tolist() == [6.0, 6.0]
        assert f({"x": np.ones(5, F32), "more": [3.0]}, k=1).shape == (5,)
        assert f.trace_count == 2
        with pytest.raises(TypeError, match="wants the structure"):
            f({"x": np.ones(5, F32)})

    def test_201_of_a_method(self):
        class Model:
            @tp.tape_function(input_signature=[tp.TensorSpec((None,))])
            def f(self, x):
                return x * 2

        model = Model()
        assert model.f(np.ones(3, F32)).shape == (3,)
        assert model.f(np.ones(4, F32)).shape == (4,)
        assert model.f.trace_count == 1


# -- variables ------------------------------------------------------------------------------------------------------


def test_202_variables_are_made_once():
    class Model:
        v = None

        @tp.tape_function
        def f(self, x):
            if self.v is None:
                self.v = tp.Variable(tp.zeros(()) + 2.0, name="v")
            return self.v * x

    model = Model()
    assert model.f(tp.constant(3.0)).item() == 6.0
    model.v.assign(5.0)
    assert model.f(tp.constant(3.0)).item() == 15.0

    @tp.tape_function
    def g(x):
        return tp.Variable(1.0) * x

    with pytest.raises(ValueError, match="makes a new Variable"):
        g(tp.constant(1.0))


def test_202_variable_from_an_input():
    @tp.tape_function
    def f(x):
        return tp.Variable(x)

    with pytest.raises(TypeError, match="initial value"):
        f(tp.constant(1.0))


def test_203_methods_have_traces_per_instance():
    class Model:
        def __init__(self, k):
            self.k = k

        @tp.tape_function
        def f(self, x):
            """Scale."""
            return x * self.k

    a, b = Model(2.0), Model(3.0)
    x = tp.constant(1.0)
    assert [a.f(x).item(), b.f(x).item(), a.f(x).item()] == [2.0, 3.0, 2.0]
    assert a.f is a.f
    assert a.f.trace_count == b.f.trace_count == 1
    assert a.f.__doc__ == "Scale."
    twin = copy.copy(a)
    twin.k = 7.0
    assert twin.f(x).item() == 7.0
    twin = copy.deepcopy(a)
    twin.k = 8.0
    assert twin.f(x).item() == 8.0


class Pair(NamedTuple):
    a: object
    b: object


def test_204_results_mirror_the_structure():
    v = tp.Variable(4.0)

    @tp.tape_function
    def f(x):
        return {"b": x, "a": [Pair(x + 1, None), 3], "v": v, "l": ()}

    out = f(tp.constant(1.0))
    assert list(out) == ["b", "a", "v", "l"]
    assert type(out["a"][0]) is Pair
    assert out["a"][0].b is None
    assert type(out["a"][1]) is type(out["v"]) is tp.Tensor
    assert [out["b"].item(), out["a"][0].a.item(), out["a"][1].item(), out["v"].item()] == [1.0, 2.0, 3, 4.0]
    assert tp.tape_function(lambda: None)() is None
    assert type(tp.tape_function(lambda x: (x,))(tp.constant(1.0))) is tuple
    with pytest.raises(TypeError, match=r"the result\['k'\].*object"):
        tp.tape_function(lambda: {"k": object()})()


def test_205_order_of_assignments():
    v = tp.Variable(1.0)

    @tp.tape_function
    def f(x):
        a = v * x
        v.assign(10.0)
        return a, v * x

    assert [t.item() for t in f(tp.constant(1.0))] == [1.0, 10.0]
    assert v.item() == 10.0


def test_206_changing_an_argument():
    @tp.tape_function
    def f(xs):
        xs.append(xs[0])
        return xs[0]

    with pytest.raises(ValueError, match="should not modify its inputs"):
        f([tp.constant(1.0)])


def test_207_leaked_value():
    leaked = []

    @tp.tape_function
    def f(x):
        leaked.append(x * 2)
        return x

    f(tp.constant(1.0))
    with pytest.raises(
        TypeError, match=r"belongs to the tracing of 'f', which is over, and is used at .*test_function.py"
    ):
        leaked[0] + 1
    with pytest.raises(TypeError, match="tracing of 'f'"):
        tp.tape_function(lambda x: x + leaked[0])(tp.constant(1.0))


def test_208_leaving_a_trace():
    """Deliberate difference: np.sin is recorded."""
    assert tp.tape_function(np.sin)(tp.constant(0.0)).item() == 0.0
    for leave in (lambda x: x.numpy(), np.asarray, float, lambda x: x.item()):
        with pytest.raises(tp.ConcretizationError, match=r"test_function.py:\d+ needs the value"):
            tp.tape_function(leave)(tp.constant(0.0))


def test_209_failed_traces_are_not_kept():
    failing = [True]

    @tp.tape_function
    def f(x):
        if failing[0]:
            raise KeyError("once")
        return x

    x = tp.constant(1.0)
    with pytest.raises(KeyError):
        f(x)
    assert f.trace_count == 0
    failing[0] = False
    assert f(x).item() == 1.0


def test_210_gradient_inside():
    @tp.tape_function
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = x**3
        return tape.gradient(y, x)

    assert f(tp.constant(2.0)).item() == 12.0


def test_211_specialise():
    f = tp.tape_function(lambda x, k: x * k)
    spec = tp.TensorSpec((None, 3))
    one = f.specialise(spec, 2)
    assert f.specialise(spec, 2) is one
    assert f.specialise(spec, 3) is not one
    assert f.graph(spec, 2) is one.graph
    assert str(one.graph.params[0].type) == "f32[B0,3]"
    found = []
    g = tp.tape_function(double)
    workers = [threading.Thread(target=lambda: found.append(g.specialise(spec))) for _ in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len({id(s) for s in found}) == 1


def test_212_explain():
    v = tp.Variable(1.0, name="w")

    @tp.tape_function
    def f(x, k=1):
        v.assign(x * k)
        return {"y": x}

    f(tp.constant(1.0))
    f(tp.constant(1.0), 2)
    text = f.explain()
    assert text.startswith("f: 2 traces")
    for part in (
        "f32[]",
        "1 (int)",
        "{'y': *}",
        "first call",
        "k changed from 1 (int) to 2 (int)",
        "written: w",
        "engine: llvm",
    ):
        assert part in text
    assert "2 traces" in repr(f)


def test_213_run_functions_eagerly():
    f, calls = traced(double)
    x = tp.constant(1.0)
    f(x)
    tp.run_functions_eagerly(True)
    try:
        for _ in range(3):
            assert f(x).item() == 2.0
    finally:
        tp.run_functions_eagerly(False)
    f(x)
    assert len(calls) == 4


def test_214_if_on_a_traced_value():
    @tp.tape_function
    def f(x):
        if x > 0:
            return x
        return -x

    with pytest.raises(tp.ConcretizationError, match=r"test_function.py:\d+ needs the value.*tp.where"):
        f(tp.constant(1.0))


def test_214_if_on_a_constant_of_the_trace():
    @tp.tape_function
    def f(x):
        if tp.zeros((3,)).sum() == 0:
            return x
        return -x

    assert f(tp.constant(1.0)).item() == 1.0


def test_215_concurrent_calls():
    v = tp.Variable(1.0)
    f, calls = traced(lambda x: (x * v).sum())

    def work(k):
        return f(np.full(4, k, F32)).item()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == [4.0 * k for k in range(200)]
    assert len(calls) == 1


def test_216_recursion():
    @tp.tape_function
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    assert power(tp.constant(2.0), 5).item() == 32.0
    assert tp.grad(lambda x: power(x, 3))(2.0).item() == 12.0


def test_217_nested_functions_are_inlined():
    inner, calls = traced(lambda x, k=1.0: tp.sin(x) * k)
    outer = tp.tape_function(lambda x: inner(x) + inner(x, k=2.0))
    x = tp.constant(0.5)
    for _ in range(2):
        np.testing.assert_allclose(outer(x), 3 * np.sin(0.5), rtol=1e-6)
    assert len(calls) == 2
    np.testing.assert_allclose(tp.grad(outer)(x), 3 * np.cos(0.5), rtol=1e-6)
    assert "sin" in {node.op.name for node in outer.graph(x).nodes}


# -- nesting, tapes and state ---------------------------------------------------------------------------------------


def test_nested_function_that_captures_an_outer_value():
    @tp.tape_function
    def outer(x, y):
        inner = tp.tape_function(lambda z: z * y)
        return inner(x) + inner(x + 1)

    assert outer(tp.constant(2.0), tp.constant(10.0)).item() == 50.0
    assert outer(tp.constant(1.0), tp.constant(1.0)).item() == 3.0
    gradient = tp.tape_function(tp.grad(outer, argnums=(0, 1)))
    assert [g.item() for g in gradient(tp.constant(2.0), tp.constant(10.0))] == [20.0, 5.0]


def test_nested_function_with_symbolic_extents():
    inner = tp.tape_function(lambda x: x.mean(axis=0) + x.shape[0])
    outer = tp.tape_function(lambda x: inner(x) * 2, input_signature=[tp.TensorSpec((None, 2))])
    for n in (1, 5):
        assert outer(np.ones((n, 2), F32)).tolist() == [2.0 * (1 + n)] * 2
    assert inner.trace_count == 1


def test_nested_function_with_state():
    v = tp.Variable(1.0)
    bump = tp.tape_function(lambda x: v.assign_add(x) * 10)
    twice = tp.tape_function(lambda x: bump(x) + bump(x))
    assert twice(tp.constant(1.0)).item() == 50.0
    assert v.item() == 3.0


def test_tape_around_a_function_with_state():
    v, count = tp.Variable(2.0), tp.Variable(0, trainable=False)

    @tp.tape_function
    def f(x):
        count.assign_add(1)
        return (x * v).sum(), x + v

    x = tp.constant([1.0, 2.0])
    f(x)
    with tp.GradientTape() as tape:
        tape.watch(x)
        a, b = f(x)
        loss = a * a + b.sum()
    assert count.item() == 2
    da, db = tape.gradient(loss, [x, v])
    assert da.tolist() == [25.0, 25.0]
    assert db.item() == 2 * 6 * 3 + 2
    v.assign(3.0)
    assert f(x)[0].item() == 9.0


def test_variable_shared_with_a_tensor_keeps_the_old_value():
    v = tp.Variable([1.0, 2.0])
    bump = tp.tape_function(lambda: v.assign_add([1.0, 1.0]).read())
    before = v.read()
    view = np.asarray(v)
    first = bump()
    second = bump()
    assert before.tolist() == view.tolist() == [1.0, 2.0]
    assert first.tolist() == [2.0, 3.0]
    assert second.tolist() == v.tolist() == [3.0, 4.0]


def test_gradient_of_a_call_is_compiled_once():
    f = tp.tape_function(lambda x, w: tp.tanh(x @ w).sum())
    x, w = tp.constant(np.ones((2, 3), F32)), tp.Variable(np.ones((3, 2), F32))
    g = tp.grad(f, argnums=1)
    for _ in range(3):
        np.testing.assert_allclose(g(x, w.read()), np.full((3, 2), 2 * (1 - np.tanh(3.0) ** 2)), rtol=1e-4)
    assert f.trace_count == 1
    assert len(f.specialise(x, w.read()).pure._backwards) == 1


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_transforms_around_functions(wrap):
    f = wrap(lambda p, x: (tp.sum(p["w"] * x) ** 2, {"n": x}))
    g = wrap(tp.value_and_grad(f, has_aux=True))
    (value, aux), grads = g({"w": tp.constant([1.0, 2.0])}, tp.constant([3.0, 4.0]))
    assert (value.item(), aux["n"].tolist(), grads["w"].tolist()) == (121.0, [3.0, 4.0], [66.0, 88.0])


# -- input of every kind --------------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12, dtype=F32).reshape(3, 4).T,
        np.arange(12, dtype=F32).reshape(4, 3)[:, ::2],
        np.arange(12, dtype=">f4").reshape(4, 3),
        np.frombuffer(np.arange(12, dtype=F32).tobytes(), F32).reshape(4, 3),
        np.frombuffer(b"\0" + np.arange(12, dtype=F32).tobytes(), F32, offset=1).reshape(4, 3),
        np.float32(3.0),
        np.array(3.0, F32),
        np.ones((0, 3), F32),
        np.ones((2, 2), F32).view(Subclass),
    ],
    ids=["transposed", "strided", "swapped", "read-only", "unaligned", "scalar", "0-d", "empty", "subclass"],
)
def test_layouts(x):
    f = tp.tape_function(lambda x: x * 2 + 1)
    for _ in range(2):
        got = f(x)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(x) * 2 + 1)
        assert got.dtype == F32


@pytest.mark.parametrize(
    "x", [np.array([object()]), np.array(["a"]), np.array([1j])], ids=["object", "text", "complex"]
)
def test_arrays_that_are_no_tensors(x):
    with pytest.raises(TypeError, match="tensors hold bool, integer and float"):
        tp.tape_function(double)(x)
    with pytest.raises(TypeError, match="tensors hold bool, integer and float"):
        tp.constant(x)


def test_nan_and_inf():
    x = np.array([np.nan, np.inf, -np.inf, 0.0], F32)
    f = tp.tape_function(lambda x: (x * 0, 1 / x, tp.isnan(x), tp.isinf(x), tp.isfinite(x), tp.max(x)))
    with np.errstate(all="ignore"):
        want = (x * 0, 1 / x, np.isnan(x), np.isinf(x), np.isfinite(x), np.max(x))
    for got, expected in zip(f(x), want, strict=True):
        np.testing.assert_array_equal(np.asarray(got), expected)


def test_results_do_not_share_memory_with_arguments():
    x = np.ones(3, F32)
    y = tp.tape_function(lambda x: x)(x)
    x[:] = 5
    assert y.tolist() == [1.0] * 3
    v = tp.Variable([0.0] * 3)
    tp.tape_function(lambda x: v.assign(x).read())(x)
    x[:] = 7
    assert v.tolist() == [5.0] * 3


def test_large_constants_become_inputs():
    table = np.arange(1000, dtype=F32)
    f = tp.tape_function(lambda k: tp.take(table, k) + tp.take(table, k + 1))
    assert f(np.array([3, 10])).tolist() == [7.0, 21.0]
    graph = f.graph(np.array([3, 10]))
    assert [p.shape for p in graph.params] == [(2,), (1000,)]
    table[:] = 0  # frozen at trace time
    assert f(np.array([3, 10])).tolist() == [7.0, 21.0]


def test_symbolic_extent_as_a_number():
    @tp.tape_function(input_signature=[tp.TensorSpec(("B", 2))])
    def f(x):
        assert isinstance(x.shape[0], Poly)
        return x.sum() / x.shape[0], tp.ones((x.shape[0],)).sum(), tp.arange(x.shape[0]), x.reshape(-1), x[1:], x[:, 0]

    for n in (1, 4):
        x = np.arange(2.0 * n, dtype=F32).reshape(n, 2)
        mean, ones, count, flat, rest, column = f(x)
        np.testing.assert_allclose(mean, x.sum() / n)
        assert ones.item() == n
        assert count.tolist() == list(range(n))
        np.testing.assert_array_equal(np.asarray(flat), x.ravel())
        np.testing.assert_array_equal(np.asarray(rest), x[1:])
        np.testing.assert_array_equal(np.asarray(column), x[:, 0])


def test_loop_over_a_symbolic_extent():
    f = tp.tape_function(lambda x: sum(x) + 1, input_signature=[tp.TensorSpec((None,))])
    with pytest.raises(tp.ConcretizationError, match="B0"):
        f(np.ones(3, F32))


def test_functions_are_pickled_by_name():
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert copy.deepcopy(module_level) is module_level


@tp.tape_function
def module_level(x):
    """Twice."""
    return x * 2


def test_metadata():
    assert module_level.__name__ == "module_level"
    assert module_level.__doc__ == "Twice."
    assert re.match("<tape_function module_level, ", repr(module_level))


def test_partials_and_callable_objects():
    class Scale:
        def __call__(self, x):
            return x * 3

    assert tp.tape_function(Scale())(tp.constant(1.0)).item() == 3.0


def test_flags_reach_functions_that_are_compiled_already():
    f = tp.tape_function(double)
    x = tp.constant(1.0)
    f(x)
    (native,) = f.specialise(x)._entries.values()
    with tp.config(disable_jit=True):
        assert f(x).item() == 2.0
    assert len(f.specialise(x)._entries) == 2
    f(x)
    assert f._entry is native
    tp.config.disable_jit = True
    try:
        assert f._entry is not native
        f(x)
        assert f._entry is not native
    finally:
        tp.config.disable_jit = False
    f(x)
    assert f._entry is native
