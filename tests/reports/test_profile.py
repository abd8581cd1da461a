"""`fn.profile`: what it says adds up, and it leaves the function's variables alone."""

import json

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.reports.limits import SIZES, limits
from tapefuse.reports.profile import show_seconds


@pytest.fixture(scope="module")
def step():
    rng = np.random.default_rng(0)
    w = tp.Variable(rng.normal(size=(64, 32)), name="w")

    @tp.tape_function(input_signature=[tp.TensorSpec((None, 64), tp.float64)])
    def step(x):
        with tp.GradientTape() as tape:
            loss = tp.sum(tp.tanh(x @ w))
        w.assign_sub(0.1 * tape.gradient(loss, w))
        return loss

    step.w = w
    return step


@pytest.fixture(scope="module")
def profile(step):
    return step.profile(np.random.default_rng(1).normal(size=(50, 64)))


def test_variables_stay_as_they_are(step):
    before = step.w.numpy().copy()
    step.profile(np.ones((3, 64)))
    assert np.array_equal(step.w.numpy(), before)


def test_kernels_are_those_of_the_schedule_in_order(step, profile):
    names = [k.name for k in profile.kernels]
    assert names and len(set(names)) == len(names)
    ends = [end for _, end in profile.last]
    assert all(0 <= start <= end for start, end in profile.last)
    assert ends == sorted(ends)
    assert sum(k.seconds for k in profile.kernels) > 0


def test_bytes_and_operations_are_those_of_the_arrays(profile):
    products = [k for k in profile.kernels if "matmul" in k.title]
    assert len(products) == 2  # forward, and the gradient by w
    assert all(k.operations >= 2 * 50 * 64 * 32 for k in products)
    assert all(k.nbytes >= 50 * 64 * 8 for k in products)


def test_table_and_trace(profile, tmp_path):
    text = str(profile)
    assert text.startswith("step: ") and "of limit" in text and "outside kernels" in text
    assert all(k.name in text for k in profile.kernels)
    profile.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [e["args"]["kernel"] for e in events] == [k.name for k in profile.kernels]
    assert all(e["ph"] == "X" and e["dur"] >= 0 for e in events)


def test_rows_picked_from_a_large_table_count_as_the_rows():
    table = tp.Variable(np.zeros((100_000, 8), np.float32))
    pick = tp.tape_function(lambda ids: tp.sum(table[ids] * 2.0))
    profile = pick.profile(np.arange(10))
    assert sum(k.nbytes for k in profile.kernels) < 10_000


def test_a_kernel_with_several_checks_keeps_times_and_kernels_together():
    @tp.tape_function
    def f(x, i, j):
        return tp.sum(x[i] * x[j]) + tp.sum(x[j + i])

    profile = f.profile(np.ones((5, 3), np.float32), np.array([0, 1]), np.array([1, 2]))
    assert len(profile.last) == len(profile.kernels)


def test_the_numba_engine_is_refused():
    f = tp.tape_function(lambda x: x + 1, engine="numba")
    with pytest.raises(ValueError, match="'<lambda>' runs on the Numba engine"):
        f.profile(np.ones(3))


def test_empty_arrays():
    assert tp.tape_function(lambda x: tp.tanh(x) + 1.0).profile(np.ones((0, 3))).seconds > 0


def test_limits_are_measured_once_and_positive():
    found = limits()
    assert found is limits() and found.operations > 0
    assert len(found.bandwidth) == len(SIZES) and min(found.bandwidth) > 0
    assert found.seconds(0, 0) == 0 < found.seconds(10**6, 0) < found.seconds(10**9, 0)


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0461, "46.1 ms"), (4e-6, "4 us"), (3.1e-8, "31 ns")])
def test_show_seconds(seconds, text):
    assert show_seconds(seconds) == text
