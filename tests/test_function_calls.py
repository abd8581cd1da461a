"""tape_function in company: nested functions, tapes around it, state, input of every kind, flags, pickles."""

import copy
import pickle
import re

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir.types import Poly
from tests.test_function import F32, double

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
    "x", [np.array([object()]), np.array(["a"]), np.array([np.clongdouble(1j)])], ids=["object", "text", "complex256"]
)
def test_arrays_that_are_no_tensors(x):
    with pytest.raises(TypeError, match="tensors hold bool, integer, bfloat16, float16/32/64 and complex64/128"):
        tp.tape_function(double)(x)
    with pytest.raises(TypeError, match="tensors hold bool, integer, bfloat16, float16/32/64 and complex64/128"):
        tp.constant(x)


def test_numpys_scalars_are_taken_as_arrays_of_no_axis():
    """They come out of every sum of an array: calls with them take the short way, in one trace."""
    f = tp.tape_function(lambda x, a: x * a)
    x = np.ones(3)
    assert f(x, np.array(2.0)).tolist() == [2.0, 2.0, 2.0]
    long = f._slow_calls
    assert f(x, np.float64(3.0)).tolist() == [3.0, 3.0, 3.0]
    assert f(x, x.sum()).tolist() == [3.0, 3.0, 3.0]
    assert (f._slow_calls, f.trace_count) == (long, 1)
    assert f(x, np.float32(2.0)).tolist() == [2.0, 2.0, 2.0]  # another dtype is another trace
    assert f.trace_count == 2


def scaled(x, factor=2.0, *, shift=False, mask=None, name="no", **more):
    """`factor`, `shift` and `name` decide when it is traced."""
    y = x * factor + (1.0 if shift is True else 0.0)
    if mask is not None:
        y = y * mask
    return y + len(name) + sum(more.values())


def plain(x, factor=2.0, *, shift=False, mask=None, name="no"):
    return scaled(x, factor, shift=shift, mask=mask, name=name)


X, MASK = np.arange(3.0), np.array([0.0, 1.0, 1.0])
SHORT = [
    ((X, 3.0), {}),
    ((X, -0.0), {}),
    ((X, 0.0), {}),
    ((X, np.inf), {}),
    ((X, 1), {}),
    ((X, True), {}),
    ((X, 1.0), {}),
    ((X,), {"shift": True}),
    ((X,), {"shift": 1}),
    ((X,), {"shift": False}),
    ((X,), {"mask": MASK}),
    ((X,), {"mask": None}),
    ((X, 3.0), {"mask": MASK, "name": "0x1.8000000000000p+1"}),
    ((X, 3.0), {"name": "yes", "mask": MASK}),
    ((), {"x": X, "factor": 3.0}),
    ((), {"factor": 3.0, "x": X}),
    ((np.float64(2.0), 3.0), {"shift": True}),
    ((X, X), {"shift": True}),
]


@pytest.mark.filterwarnings("ignore:.*was traced")
@pytest.mark.parametrize("outputs", ["tensor", "numpy"])
def test_python_values_choose_a_trace_on_the_short_way(outputs):
    """Flags and names: called again in any order, all calls are served without a look at the parameters."""
    f = tp.tape_function(plain, outputs=outputs)
    with np.errstate(invalid="ignore"):
        wanted = [plain(*args, **kwargs) for args, kwargs in SHORT]
    for args, kwargs in SHORT:
        f(*args, **kwargs)
    long, traces = f._slow_calls, f.trace_count
    for (args, kwargs), want in [*zip(SHORT, wanted, strict=True)] * 2:
        got = f(*args, **kwargs)
        np.testing.assert_array_equal(np.asarray(got), want)
        assert np.array_equal(np.signbit(np.asarray(got)), np.signbit(want))
    assert (f._slow_calls, f.trace_count) == (long, traces)


@pytest.mark.filterwarnings("ignore:.*was traced")
def test_what_python_values_were_may_not_be_taken_for_others():
    """Calls that look alike and are not: by dtype, structure, place, or because a parameter takes several values."""
    f = tp.tape_function(lambda x, y, z=1.0: (x + 2 * y) * z)
    for args, kwargs in [
        ((X, 5.0), {}),
        ((5.0, X), {}),
        ((X, 5.0), {"z": 2.0}),
        ((X, X, 2.0), {}),
        ((X, 2.0, X), {}),
        ((X,), {"y": 5.0, "z": X}),
        ((), {"y": X, "x": 5.0}),
        ((), {"x": 5.0, "y": X}),
        ((), {"y": MASK, "x": X}),
        ((), {"x": X, "y": MASK}),
        ((X.astype(F32), 5.0), {}),
        ((X[:2], 5.0), {}),
    ] * 3:
        np.testing.assert_array_equal(np.asarray(f(*args, **kwargs)), f._function(*args, **kwargs))
    g = tp.tape_function(scaled)
    for kwargs in [{"a": 1.0}, {"b": X}, {"a": 1.0, "b": X}, {"b": X, "a": 2.0}, {"mask": MASK, "a": 3.0}] * 3:
        np.testing.assert_array_equal(np.asarray(g(X, **kwargs)), scaled(X, **kwargs))
    h = tp.tape_function(lambda d, k: d["x"] * d["n"] + k)
    for n, k in [(2.0, 1.0), (X, 1.0), (3.0, X), (X, X)] * 3:
        d = {"x": X, "n": n}
        np.testing.assert_array_equal(np.asarray(h(d, k)), d["x"] * d["n"] + k)


def test_python_values_under_an_input_signature():
    f = tp.tape_function(lambda x, d=None: x * d["k"], input_signature=[tp.TensorSpec((), tp.float64)])
    for x, k in [(2.0, 3.0), (2.0, np.array(5.0)), (4.0, 3.0), (np.array(2.0), 3.0), (2, np.array(7.0))] * 3:
        assert f(x, {"k": k}).item() == float(x) * float(k)


def test_python_values_with_variables_tapes_and_flags():
    v = tp.Variable(np.ones(3))
    f = tp.tape_function(lambda x, v, k=1.0: (x * v * k).sum())
    assert [f(X, v, k=k).item() for k in (2.0, 3.0, 2.0, 3.0)] == [6.0, 9.0, 6.0, 9.0]
    g = tp.tape_function(lambda x, k: (x * x * k).sum())
    x = tp.constant(X)
    for k in (2.0, 3.0) * 2:
        g(x, k)
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = g(x, k)
        assert tape.gradient(y, x).tolist() == [0.0, 2.0 * k, 4.0 * k]
        with tp.config(disable_jit=True):
            assert g(x, k).item() == 5.0 * k
    before = g._slow_calls
    tp.config.strict = True
    try:
        assert g(x, 2.0).item() == 10.0
        assert g._slow_calls == before + 1  # compiled form of before is not used
    finally:
        tp.config.strict = False


def test_what_a_call_does_with_its_arguments_is_explained():
    f = tp.tape_function(plain)
    f(X, mask=MASK)
    f(X, 3.0)
    f(X, 3.0, name="yes", mask=MASK)
    g = tp.tape_function(lambda d: d["x"] * d["k"])
    g({"x": X, "k": 2.0})
    h = tp.tape_function(lambda x, y: x + y)
    h(X, X)
    assert f.explain().count("arguments taken directly, Python values compared before") == 3
    assert "arguments compared in Python" in g.explain()
    assert "arguments taken directly\n" in h.explain()


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
