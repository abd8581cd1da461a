"""tape_function: when it traces, what it returns, how it meets variables, tapes, other functions and bad input.

Tests with a number in their name hold that line of the reference on tapes, section 18.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tapefuse as tp

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
                TypeError,
                match=r"the argument x at .*function.py:\d+ is .* cannot be cast to the input_signature's f32\[B0,3\]",
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
        with pytest.raises(TypeError, match="object"):
            tp.TensorSpec((1,), object)
        assert tp.TensorSpec((1,), complex).dtype == np.complex128
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


class TestPlainOutputs:
    """outputs="numpy": arrays, and numbers of Python for rank 0."""

    DTYPES = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")

    @pytest.mark.parametrize("engine", ["llvm", "numba"])
    def test_numbers_and_arrays(self, engine):
        @tp.tape_function(outputs="numpy", engine=engine)
        def f(x):
            return {"sum": tp.sum(x), "twice": x + x, "first": x[0]}

        for dtype in (np.float32, np.float64, np.int64, np.int32):
            found = f(np.array([3, 4], dtype))
            assert type(found["sum"]) is (float if np.dtype(dtype).kind == "f" else int) and found["sum"] == 7
            assert type(found["twice"]) is np.ndarray and found["twice"].dtype == dtype
            assert found["first"] == 3

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_kind_of_number_at_its_ends(self, dtype):
        first = tp.tape_function(lambda x: x[0], outputs="numpy")
        info = np.dtype(dtype)
        ends = {"f": [0.1, np.inf, -0.0], "b": [True, False]}.get(
            info.kind, [np.iinfo(info).min, np.iinfo(info).max] if info.kind in "iu" else []
        )
        for value in ends:
            x = np.array([value], dtype)
            found = first(x)
            assert type(found) is type(x[0].item())
            assert repr(found) == repr(x[0].item())

    def test_under_a_tape_results_are_tensors(self):
        square = tp.tape_function(lambda x: x * x, outputs="numpy")
        x = tp.constant(3.0)
        assert square(x) == 9.0 and type(square(x)) is float
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = square(x)
        assert isinstance(y, tp.Tensor) and tape.gradient(y, x).item() == 6.0
        assert tp.tape_function(lambda x: square(x) + 1.0)(x).item() == 10.0

    def test_interpreted(self):
        f = tp.tape_function(lambda x: (x, tp.sum(x)), outputs="numpy")
        with tp.config(disable_jit=True):
            x, total = f(np.ones(3))
        assert type(x) is np.ndarray and type(total) is float

    def test_other_names_are_refused(self):
        with pytest.raises(ValueError, match="outputs is 'tensor' or 'numpy', got 'list'"):
            tp.tape_function(lambda x: x, outputs="list")


def test_218_compiled_as_a_whole_or_not_at_all():
    """Deliberate difference: there is no `jit_compile`, everything is compiled; what cannot be is an error."""
    with pytest.raises(TypeError, match="jit_compile"):
        tp.tape_function(lambda x: x, jit_compile=True)
    with pytest.raises(tp.CompileError, match="memory_budget"):
        tp.tape_function(lambda x: tp.exp(x) * 2, memory_budget=1)(np.ones(3, np.float32))
