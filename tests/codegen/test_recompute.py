"""Memory budgets: values are computed again instead of being kept, with the same results; reports tell the truth."""

import gc
import tracemalloc

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn
from tapefuse._errors import CompileError
from tapefuse.codegen.recompute import peak, within
from tapefuse.compiler import request

DEPTH, ROWS, WIDTH = 12, 500, 40


def deep_network(budget=None, engine=None):
    """A step that keeps one array of 80 kB per layer for its backward part, and its variables."""
    rng = np.random.default_rng(0)
    weights = [tp.Variable(rng.normal(size=(WIDTH, WIDTH)) * 0.2) for _ in range(DEPTH)]

    @tp.tape_function(memory_budget=budget, engine=engine)
    def step(x):
        with tp.GradientTape() as tape:
            h = x
            for w in weights:
                h = tp.tanh(h @ w)
            loss = tp.sum(h * h)
        for w, g in zip(weights, tape.gradient(loss, weights), strict=True):
            w.assign_sub(1e-3 * g)
        return loss

    return step, weights


@pytest.fixture(scope="module")
def batch():
    return tp.constant(np.random.default_rng(1).normal(size=(ROWS, WIDTH)))


@pytest.mark.parametrize(("share", "engine"), [(0.9, "llvm"), (0.75, "llvm"), (0.75, "numba")])
def test_same_results_within_the_budget(batch, share, engine):
    step, weights = deep_network(engine=engine)
    budget = int(share * step.memory_report(batch).peak)
    frugal, others = deep_network(budget, engine)
    assert frugal.memory_report(batch).peak <= budget
    for _ in range(3):
        assert np.array_equal(step(batch), frugal(batch))
    for w, v in zip(weights, others, strict=True):
        np.testing.assert_array_equal(w.numpy(), v.numpy())


def test_a_budget_that_is_large_enough_changes_nothing(batch):
    step, _ = deep_network()
    generous, _ = deep_network(10**9)
    graphs = [within(request(s.specialise(batch).traced, s._options)).graph for s in (step, generous)]
    assert len(graphs[0].nodes) == len(graphs[1].nodes)
    assert not any(n.op.name == "after" for n in graphs[1].nodes)


def test_a_budget_that_cannot_be_met_is_an_error_that_tells_what_can(batch):
    step, weights = deep_network(1000)
    before = [w.numpy().copy() for w in weights]
    with pytest.raises(
        CompileError, match=r"'step' cannot run within memory_budget=1,000 bytes.*it needs [\d,]+ bytes"
    ):
        step(batch)
    assert all(np.array_equal(w.numpy(), b) for w, b in zip(weights, before, strict=True))


def test_a_budget_needs_every_extent():
    f = tp.tape_function(
        lambda x: tp.tanh(x) + 1.0, input_signature=[tp.TensorSpec((None, 4), tp.float64)], memory_budget=10**6
    )
    with pytest.raises(CompileError, match="needs every extent, but B0 is open"):
        f(np.ones((2, 4)))


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "1 MB"])
def test_a_budget_is_a_positive_number_of_bytes(budget):
    with pytest.raises(ValueError, match="memory_budget is a positive number of bytes"):
        tp.tape_function(lambda x: x, memory_budget=budget)


def test_attention_block_within_a_budget():
    """Values with several readers, reductions and views among what is computed again."""
    rng = np.random.default_rng(2)
    w = [tp.Variable(rng.normal(size=(16, 16)) * 0.3) for _ in range(6)]

    def make(budget=None):
        @tp.tape_function(memory_budget=budget)
        def gradients(x):
            with tp.GradientTape() as tape:
                h = x
                for k in range(0, 6, 2):
                    a = tp.softmax(h @ w[k] @ tp.transpose(h, (0, 2, 1)))
                    h = h + nn.relu(a @ h @ w[k + 1])
                loss = tp.mean(h * h)
            return loss, *tape.gradient(loss, w)

        return gradients

    x = rng.normal(size=(6, 24, 16))
    plain = make()
    frugal = make(int(0.75 * plain.memory_report(x).peak))
    for a, b in zip(plain(x), frugal(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


class TestReport:
    def test_holds_a_call_to_the_truth(self):
        """After a call for one row, a call for many takes what the report says, by Python's own count."""

        @tp.tape_function(input_signature=[tp.TensorSpec((None, 64), tp.float64)])
        def f(x):
            return tp.softmax(tp.tanh(x @ tp.transpose(x)) @ x)[:, 0]

        f(np.ones((1, 64)))
        x = np.random.default_rng(0).normal(size=(700, 64))
        told = f.memory_report(x)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            y = f(x)
            after = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert told.outputs == y.numpy().nbytes
        assert 0 <= after - before - told.peak < 4096

    def test_names_what_lies_in_scratch_memory(self, batch):
        step, _ = deep_network()
        told = step.memory_report(batch)
        assert told.arguments == batch.numpy().nbytes
        assert told.variables == DEPTH * WIDTH * WIDTH * 8
        assert told.peak == told.outputs + told.scratch == peak(within(request(step.specialise(batch).traced)))
        assert told.alive and all(a.nbytes <= told.scratch for a in told.alive)
        assert "f64[500,40]" in str(told) and "a call takes" in str(told)

    def test_an_open_extent_is_an_error(self):
        f = tp.tape_function(lambda x: tp.tanh(x) + 1.0)
        with pytest.raises(ValueError, match="the extent of B0 is open; pass arrays"):
            f.memory_report(tp.TensorSpec((None, 3)))

    def test_empty_arrays_take_nothing(self):
        f = tp.tape_function(lambda x: tp.tanh(x) + 1.0)
        assert f.memory_report(np.ones((0, 3), np.float32)).outputs == 0
