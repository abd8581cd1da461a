"""Bad input and faults: what reaches a compiled function is used right or refused, and variables stay whole.

Messages are in `tests/test_errors.py`, layouts of arguments in `tests/test_function_calls.py`, signals in
`tests/test_interrupts.py`, threads and forks in `tests/test_concurrency.py`, memory in `tests/test_memory_faults.py`.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn
from tapefuse._config import busy
from tapefuse.ir import ops

F32 = np.float32
pytestmark = pytest.mark.filterwarnings("ignore:.*was traced")
engines = pytest.mark.parametrize("engine", ["llvm", "numba"])
wrappers = pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])


def on(engine):
    return lambda f: tp.tape_function(f, engine=engine, threads=1)


# -- arguments and results ------------------------------------------------------------------------------------------


def test_one_argument_given_twice():
    f = tp.tape_function(lambda x, y: (x + y, x, x, y * 1, x))
    x = np.arange(4, dtype=F32)
    for a in (x, tp.constant(x)):
        results = f(a, a)
        assert [r.tolist() for r in results] == [[0, 2, 4, 6], *[[0, 1, 2, 3]] * 4]
        assert not any(np.shares_memory(r, np.asarray(a)) for r in results)
    dx, dy = tp.grad(lambda x, y: f(x, y)[0].sum() + (f(x, y)[1] * y).sum(), argnums=(0, 1))(x, x)
    assert dx.tolist() == dy.tolist() == [1, 2, 3, 4]


def test_results_that_are_no_computation():
    """Inputs, constants, Python numbers, None, the same output twice, in nested structures."""
    big = np.arange(100.0)

    @tp.tape_function
    def f(d):
        return {"in": d["x"]["y"], "c": [1, 2.5, True, big, None, ()], "twice": (d["z"], d["z"]), "t": np.float64(3)}

    out = f({"x": {"y": tp.constant([1.0])}, "z": np.array(7), "unused": None})
    assert out["in"].tolist() == [1.0] and out["twice"][0].item() == out["twice"][1].item() == 7
    one, half, true, array, none, empty = out["c"]
    assert [one.dtype, half.dtype, true.dtype, array.dtype] == [np.int32, np.float32, bool, np.float64]
    assert (one.item(), half.item(), true.item(), none, empty) == (1, 2.5, True, None, ())
    np.testing.assert_array_equal(array, big)
    assert out["t"].dtype == np.float64
    assert tp.tape_function(lambda: 3)().item() == 3
    assert tp.tape_function(lambda: (None, []))() == (None, [])


def test_python_numbers_in_and_out():
    f = tp.tape_function(lambda x, k, flag=False: x * k if flag else x + k)
    assert [f(2, 3).item(), f(2, 3.5).item(), f(2.0, True, flag=True).item()] == [5, 5.5, 2.0]
    assert f(2, 3).dtype == np.int32 and f(2, 3.5).dtype == np.float32
    assert int(f(2, 3)) == 5 and f"{f(2, 3.5):.2f}" == "5.50" and [10, 20, 30][f(1, 0)] == 20


def test_nan_and_inf_flow_through_variables_and_gradients():
    v = tp.Variable(np.array([1.0, np.nan, -np.inf, 0.0]))
    f = tp.tape_function(lambda x: v.assign(v * x).read())
    with np.errstate(all="ignore"):
        want = v.numpy() * np.inf
    np.testing.assert_array_equal(f(np.full(4, np.inf)), want)
    np.testing.assert_array_equal(v.numpy(), want)
    g = tp.tape_function(tp.grad(lambda x: tp.sum(tp.sqrt(x) + tp.log(x))))(np.array([0.0, np.inf, np.nan]))
    np.testing.assert_array_equal(g, [np.inf, 0.0, np.nan])


@engines
def test_sizes_of_zero(engine):
    f = tp.tape_function(
        lambda x, w: (x @ w, x.sum(axis=0), x.sum(), x * 2, x.T @ x, tp.concatenate([x, x])),
        input_signature=[tp.TensorSpec(("B", "K"), np.float64), tp.TensorSpec(("K", None), np.float64)],
        engine=engine,
        threads=1,
    )
    for b, k, n in ((0, 3, 2), (2, 3, 0), (0, 0, 0), (2, 1, 1)):
        x, w = np.ones((b, k)), np.ones((k, n))
        want = x @ w, x.sum(axis=0), x.sum(), x * 2, x.T @ x, np.concatenate([x, x])
        for got, expected in zip(f(x, w), want, strict=True):
            np.testing.assert_allclose(got, expected)
            assert got.shape == expected.shape
    assert f.trace_count == 1


@pytest.mark.parametrize("function", [tp.max, tp.min, tp.argmax, tp.argmin])
def test_the_largest_of_no_elements(function):
    compiled = tp.tape_function(lambda x: function(x, axis=0), input_signature=[tp.TensorSpec((None, 2))])
    assert compiled(np.ones((3, 2), F32)).shape == (2,)
    for f in (compiled, lambda x: function(tp.constant(x), axis=0)):
        with pytest.raises(ValueError, match="empty"):
            f(np.ones((0, 2), F32))
    rows = tp.tape_function(lambda x: function(x, axis=1), input_signature=[tp.TensorSpec((None, 2))])
    assert rows(np.ones((0, 2), F32)).shape == (0,)


def test_symbolic_sizes_that_do_not_fit():
    spec = tp.TensorSpec(("N",), np.float64)
    tail = tp.tape_function(lambda x: x[3:], input_signature=[spec])
    pick = tp.tape_function(lambda x: x[2], input_signature=[spec])
    assert tail(np.arange(5.0)).tolist() == [3, 4] and tail(np.ones(3)).shape == (0,)
    assert pick(np.arange(3.0)).item() == 2
    for f in (tail, pick):
        with pytest.raises(IndexError, match="test_faults.py"):
            f(np.ones(2))


@engines
def test_sizes_beyond_memory(engine):
    """Refused before anything is computed or changed; sums over them need no memory."""
    v = tp.Variable(0)

    def filled(times):
        def f(x):
            v.assign_add(1)
            return tp.zeros((x.shape[0] * times,)) + x.sum()

        return tp.tape_function(f, input_signature=[tp.TensorSpec((None,))], engine=engine, threads=1)

    for times in (10**13, 2**61, 2**70):
        with pytest.raises((MemoryError, OverflowError)):
            filled(times)(np.ones(8, F32))
    assert v.item() == 0
    total = tp.tape_function(lambda x: (tp.zeros((x.shape[0] * 10**6,)) + x[0]).sum(), engine=engine)
    assert total(np.ones(2, F32)).item() == pytest.approx(2e6)


# -- variables ------------------------------------------------------------------------------------------------------


@engines
def test_swapping_variables(engine):
    u, v = tp.Variable([1.0, 2.0], name="u"), tp.Variable([3.0, 4.0], name="v")

    @on(engine)
    def swap(k):
        a = u.read()
        u.assign(v * k)
        v.assign(a)
        return u + 0, v + 0

    for want in (([3, 4], [1, 2]), ([1, 2], [3, 4])):
        results = swap(tp.constant(1.0))
        assert tuple(r.tolist() for r in results) == (u.tolist(), v.tolist()) == want


@engines
def test_rotating_three_variables_by_plain_assignment(engine):
    vs = [tp.Variable(np.full(3, float(k))) for k in range(3)]

    @on(engine)
    def rotate():
        values = [v.read() for v in vs]
        for k in range(3):
            vs[k].assign(values[(k + 1) % 3])

    rotate()
    assert [v.tolist()[0] for v in vs] == [1.0, 2.0, 0.0]
    rotate()
    assert [v.tolist()[0] for v in vs] == [2.0, 0.0, 1.0]


@engines
def test_written_but_not_read_and_read_after_writing(engine):
    v, w = tp.Variable(np.zeros(3), name="v"), tp.Variable(np.zeros(3), name="w")

    @on(engine)
    def f(x):
        before = v + 0
        v.assign(x)
        w.assign(np.ones(3))
        w.assign(w + v)
        v.assign_sub(np.ones(3))
        return before, v.read(), w.read()

    x = np.array([1.0, 2.0, 3.0])
    for before in ([0, 0, 0], [0, 1, 2]):
        assert [t.tolist() for t in f(x)] == [before, [0, 1, 2], [2, 3, 4]]
    assert x.tolist() == [1, 2, 3]
    assert (v.tolist(), w.tolist()) == ([0, 1, 2], [2, 3, 4])


@engines
def test_variables_of_every_kind(engine):
    initial = {"i": np.int32(1), "b": np.bool_(True), "d": np.float64(1), "i8": np.int8(127), "u": np.uint16(3)}
    v = {name: tp.Variable(value, name=name) for name, value in initial.items()}

    @on(engine)
    def f():
        v["i"].assign_add(2)
        v["b"].assign(v["i"] > 4)
        v["d"].assign_sub(0.25)
        v["i8"].assign_add(1)
        v["u"].assign(v["u"] * v["u"])
        return v["b"].read()

    assert [f().item(), f().item()] == [False, True]
    assert {k: x.item() for k, x in v.items()} == {"i": 5, "b": True, "d": 0.5, "i8": -127, "u": 81}
    assert all(v[k].dtype == value.dtype for k, value in initial.items())


@engines
def test_a_view_keeps_the_old_value(engine):
    """Of np.asarray and .read(); .numpy() is a copy that may be written to."""
    v = tp.Variable(np.zeros(4))
    bump = on(engine)(lambda: v.assign_add(np.ones(4)).read())
    bump()
    view, tensor, copied = np.asarray(v), v.read(), v.numpy()
    result = bump()
    copied[:] = 9
    assert not view.flags.writeable
    assert view.tolist() == tensor.tolist() == [1] * 4
    assert v.tolist() == result.tolist() == [2] * 4
    bump()
    assert result.tolist() == [2] * 4
    kept = np.asarray(tensor)
    del view, tensor
    bump()
    assert kept.tolist() == [1] * 4 and v.tolist() == [4] * 4


def test_one_variable_assigned_to_another_stays_apart():
    u, v = tp.Variable(np.zeros(3)), tp.Variable(np.ones(3))
    tp.tape_function(lambda: u.assign(v))()
    bump = tp.tape_function(lambda: v.assign_add(np.ones(3)))
    bump()
    u.assign(v)  # outside: both may share storage
    bump()
    assert (u.tolist(), v.tolist()) == ([2] * 3, [3] * 3)


def test_arrays_that_a_variable_was_made_of_or_given():
    mine = np.zeros(3)
    v = tp.Variable(mine)
    v_of_tensor = tp.Variable(v.read())
    bump = tp.tape_function(lambda: (v.assign_add(np.ones(3)), v_of_tensor.assign_sub(np.ones(3)))[0])
    bump()
    assert mine.tolist() == [0] * 3 and v.tolist() == [1] * 3 and v_of_tensor.tolist() == [-1] * 3
    v.assign(mine)
    bump()
    mine[:] = 7
    assert v.tolist() == [1] * 3


def test_copies_and_pickles_of_variables():
    v = tp.Variable([1.0, 2.0], trainable=False, name="v")
    bump = tp.tape_function(lambda: v.assign_add([1.0, 1.0]))
    bump()
    twins = [copy.copy(v), copy.deepcopy(v), pickle.loads(pickle.dumps(v)), copy.deepcopy({"a": [v, v]})["a"][1]]
    bump()
    for twin in twins:
        assert (twin.tolist(), twin.name, twin.trainable, twin.dtype) == ([2, 3], "v", False, F32)
        twin.assign([0.0, 0.0])
    assert v.tolist() == [3, 4]
    both = copy.deepcopy([v, v])
    assert both[0] is both[1]
    tensor = pickle.loads(pickle.dumps(v.read()))
    assert type(tensor) is tp.Tensor and tensor.tolist() == [3, 4]


def test_copies_of_models_have_traces_of_their_own():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Dense(2, inputs=2, seed=0)

        @tp.tape_function
        def grow(self, x):
            self.dense.kernel.assign_add(x)
            return self.dense.kernel.read()

    model, x = Model(), np.ones((2, 2), F32)
    first = model.grow(x)
    twin = copy.deepcopy(model)
    np.testing.assert_allclose(twin.grow(x), first + 1)
    np.testing.assert_allclose(model.dense.kernel, first)
    assert twin.dense.kernel is not model.dense.kernel


# -- indices --------------------------------------------------------------------------------------------------------


def lookups():
    """Functions of integers that read a table, each with (good, bad) arguments, and the variables they write."""
    count, table = tp.Variable(0, name="count"), tp.Variable(np.arange(12.0).reshape(4, 3), name="table")
    start = table.numpy()

    def given(k):
        table.assign(table * 2)
        count.assign_add(1)
        return table[k]

    def computed(k):
        count.assign_add(1)
        rows = tp.take(table, tp.cast(tp.sum(k) * 2, np.int64), axis=0)
        table.assign_sub(tp.broadcast_to(rows, (4, 3)))
        return rows

    def of_the_state(k):
        count.assign_add(tp.sum(k).astype(np.int32))
        table.assign_add(tp.ones((4, 3), np.float64))
        return table[count.read()]

    def gradient_only(k):
        count.assign_add(1)
        with tp.GradientTape() as tape:
            loss = tp.sum(tp.take(table, k, axis=0))
        g = tape.gradient(loss, table)
        table.assign_sub(g)
        return g

    def scattered(k):
        count.assign_add(1)
        return ops.scatter_add(tp.ones(2, np.float64), k, shape=(4,))

    cases = {
        given: ([0, -4], [1, 4]),
        computed: ([1, 0], [2, 0]),
        of_the_state: ([1, 1], [2, 3]),
        gradient_only: ([1, 1], [-5, 0]),
        scattered: ([3, -1], [0, 4]),
    }
    return cases, count, table, start


@engines
@pytest.mark.parametrize("which", range(5), ids=[f.__name__ for f in lookups()[0]])
def test_an_index_out_of_range_changes_nothing(engine, which):
    cases, count, table, start = lookups()
    function, (good, bad) = list(cases.items())[which]
    f = on(engine)(function)
    for order in (bad, good, bad):
        k = np.array(order)
        before = count.item(), table.numpy()
        if order is bad:
            with pytest.raises(IndexError, match=r"axis 0.*\n  at .*test_faults.py:\d+"):
                f(k)
            assert count.item() == before[0]
            np.testing.assert_array_equal(table, before[1])
        else:
            result = f(k)
            after = count.item(), table.numpy()
            count.assign(before[0])
            table.assign(before[1])
            np.testing.assert_allclose(result, function(tp.constant(k)))
            assert count.item() == after[0] > 0
            np.testing.assert_allclose(table, after[1])
            count.assign(0)
            table.assign(start)


def test_indices_of_unusual_integers():
    f = tp.tape_function(lambda x, k: x[k])
    x = np.arange(300.0)
    assert f(x, np.array([255], np.uint8)).item() == 255
    assert f(x, np.array([-1], np.int8)).item() == 299
    assert f(x, np.zeros((0, 2), int)).shape == (0, 2)
    for k in (np.array([2**63 + 1], np.uint64), np.array([-(2**63)]), np.array([300], np.uint16)):
        with pytest.raises(IndexError):
            f(x, k)
    with pytest.raises(IndexError):
        f(np.ones(0), np.zeros(1, int))


@wrappers
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class(wrap, label):
    f = wrap(lambda z, y: nn.softmax_cross_entropy(z, y).mean())
    g = wrap(tp.grad(lambda z, y: nn.softmax_cross_entropy(z, y).mean()))
    z = tp.constant(np.ones((2, 3), F32))
    for h in (f, g):
        with pytest.raises(IndexError):
            h(z, tp.constant([0, label]))


@wrappers
def test_integers_to_negative_powers(wrap):
    f, g = wrap(lambda x, p: x**p), wrap(lambda x: x**-1)
    assert f(tp.constant([2, 3]), tp.constant([3, 0])).tolist() == [8, 1]
    for call in (lambda: f(tp.constant([2, 3]), tp.constant([1, -1])), lambda: g(tp.constant(2))):
        with pytest.raises(ValueError, match="negative"):
            call()
    assert g(tp.constant(2.0)).item() == 0.5


# -- tracing that fails ---------------------------------------------------------------------------------------------


def test_a_trace_that_raises_leaves_nothing_behind():
    v, failing = tp.Variable(1.0), [True]

    @tp.tape_function
    def f(x):
        v.assign_add(x)
        if failing[0]:
            raise KeyError("no")
        return x + v

    x = tp.constant(2.0)
    for _ in range(2):
        with pytest.raises(KeyError):
            f(x)
    assert (f.trace_count, v.item(), list(busy)) == (0, 1.0, [])
    failing[0] = False
    assert (f(x).item(), v.item(), f.trace_count) == (5.0, 3.0, 1)


def test_a_compilation_that_fails_fails_again_and_changes_nothing():
    v = tp.Variable(np.ones(3, np.float32))
    f = tp.tape_function(lambda: v.assign(v * 2), memory_budget=1)
    for _ in range(2):
        with pytest.raises(tp.CompileError, match="memory_budget=1 bytes"):
            f()
    assert v.tolist() == [1, 1, 1]
    with tp.config(disable_jit=True):
        assert f().tolist() == v.tolist() == [2, 2, 2]
