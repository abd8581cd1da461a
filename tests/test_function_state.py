"""tape_function: variables, results, methods, threads, and what it says when something is not possible.

Tests with a number in their name hold that line of the reference on tapes, section 18.
"""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import tapefuse as tp
from tests.test_function import F32, double, traced

pytestmark = pytest.mark.filterwarnings("ignore:.*was traced")


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
        TypeError, match=r"belongs to the tracing of 'f', which is over, and is used at .*test_function_state.py"
    ):
        leaked[0] + 1
    with pytest.raises(tp.LeakedValueError, match="tracing of 'f'"):
        f(leaked[0])
    with pytest.raises(TypeError, match="tracing of 'f'"):
        tp.tape_function(lambda x: x + leaked[0])(tp.constant(1.0))


def test_208_leaving_a_trace():
    """Deliberate difference: np.sin is recorded."""
    assert tp.tape_function(np.sin)(tp.constant(0.0)).item() == 0.0
    for leave in (lambda x: x.numpy(), np.asarray, float, lambda x: x.item()):
        with pytest.raises(tp.ConcretizationError, match=r"test_function_state.py:\d+ needs the value"):
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


def test_214_if_on_a_traced_value_that_is_left_to_python():
    @tp.tape_function
    @tp.as_written
    def f(x):
        if x > 0:
            return x
        return -x

    with pytest.raises(tp.ConcretizationError, match=r"test_function_state.py:\d+ needs the value.*tp.cond"):
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
