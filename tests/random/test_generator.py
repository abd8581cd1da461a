"""Generators: state that advances eagerly, in compiled functions, in loops; reproducible, saved, without races."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.random import generator
from tests.random.helpers import ENGINES

NO_DISTRIBUTIONS = ["Generator", "key", "split", "fold_in", "default_generator", "seed", "set_seed", "shuffle"]


def test_every_distribution_is_a_function_and_a_method() -> None:
    rng = tp.random.Generator(0)
    for name in tp.random.__all__:
        if name in NO_DISTRIBUTIONS:
            continue
        function, method = getattr(tp.random, name), getattr(rng, name)
        assert function.__doc__ == method.__doc__ or name == "bits"
        parameters = inspect.signature(function).parameters
        assert [*inspect.signature(method).parameters, "key"] == list(parameters)
        assert parameters["key"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_same_seed_gives_the_same_numbers() -> None:
    a, b = tp.random.Generator(7), tp.random.Generator(7)
    first, second = a.normal((5,)), a.normal((5,))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(b.normal((5,)), first)
    np.testing.assert_array_equal(b.normal((5,)), second)
    a.seed(7)
    np.testing.assert_array_equal(a.normal((5,)), first)
    assert not np.array_equal(tp.random.Generator(8).normal((5,)), first)
    assert not np.array_equal(tp.random.Generator().normal((5,)), tp.random.Generator().normal((5,)))


def test_default_generator() -> None:
    for restart in (tp.random.seed, tp.random.set_seed):
        restart(3)
        first = tp.random.uniform((4,)), tp.random.integers((4,), 100)
        restart(3)
        again = tp.random.uniform((4,)), tp.random.integers((4,), 100)
        for x, y in zip(first, again, strict=True):
            np.testing.assert_array_equal(x, y)
    assert tp.random.default_generator() is generator.default_generator()


@pytest.mark.parametrize("engine", ENGINES)
def test_compiled_functions_advance_it(engine: str) -> None:
    rng, twin = tp.random.Generator(1), tp.random.Generator(1)

    @tp.tape_function
    def step(x):
        return x + rng.normal((3,)), rng.uniform((2,))

    with tp.config(engine=engine):
        for _ in range(3):
            got = step(np.zeros(3, np.float32))
            want = twin.normal((3,)), twin.uniform((2,))
            for x, y in zip(got, want, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rng.state, twin.state)
    assert rng.state.numpy()[1] == 6


def test_loops_advance_it() -> None:
    rng, twin = tp.random.Generator(1), tp.random.Generator(1)

    @tp.tape_function
    def walk(n):
        x, k = tp.constant(0.0), 0
        while k < n:
            x = x + rng.normal()
            k += 1
        return x

    want = sum(twin.normal().item() for _ in range(40))
    assert walk(tp.constant(40)).item() == pytest.approx(want, rel=1e-4)
    np.testing.assert_array_equal(rng.state, twin.state)

    @tp.tape_function
    def rolled():
        return tp.scan(lambda c, _: (c, rng.uniform()), 0.0, length=30)[1]

    np.testing.assert_allclose(rolled(), [twin.uniform().item() for _ in range(30)], rtol=1e-6)
    np.testing.assert_array_equal(rng.state, twin.state)


def test_only_the_branch_taken_draws() -> None:
    rng, twin = tp.random.Generator(1), tp.random.Generator(1)

    @tp.tape_function
    def f(x):
        if x > 0:
            return rng.normal()
        return x

    f(-1.0)
    assert rng.state.numpy()[1] == 0
    assert f(1.0).item() == pytest.approx(twin.normal().item(), rel=1e-5)


def test_vmap_takes_keys() -> None:
    """State is not mapped: a generator has one for all lanes. Keys are: each lane draws with its own."""
    rng = tp.random.Generator(5)
    with pytest.raises(tp.VariableError, match="assigns to the variable 'generator'"):
        tp.vmap(lambda x: x + rng.normal())(np.zeros(4, np.float32))
    own = np.asarray(tp.vmap(lambda k: tp.random.normal(key=k))(rng.split(4)))
    assert len(set(own.tolist())) == 4


def test_gradients_pass_by_the_state() -> None:
    rng, loc = tp.random.Generator(5), tp.Variable(2.0)
    with tp.GradientTape() as tape:
        y = tp.sum(rng.normal((4,), loc, 2.0))
    assert tape.gradient(y, loc).item() == 4
    assert not rng.state.trainable


def test_modules_save_it() -> None:
    class Noisy(tp.nn.Module):
        def __init__(self):
            super().__init__()
            self.rng = tp.random.Generator(0)
            self.drop = tp.nn.Dropout(0.5, seed=1)

    noisy = Noisy()
    assert list(noisy.named_variables()) == ["noisy/rng/state", "noisy/drop/generator/state"]
    assert noisy.trainable_variables == ()


def test_copies_go_their_own_ways() -> None:
    rng = tp.random.Generator(4)
    rng.normal()
    for twin in (copy.deepcopy(rng), pickle.loads(pickle.dumps(rng))):
        start = rng.state.numpy()
        np.testing.assert_array_equal(twin.normal((3,)), rng.normal((3,)))
        rng.state.assign(start)
        assert twin.state is not rng.state


def test_threads_never_draw_the_same_key() -> None:
    rng, found = tp.random.Generator(0), []

    def work():
        found.extend(rng.key().item() for _ in range(300))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(found)) == 1200


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_do_not_depend_on_threads(threads: int) -> None:
    key = tp.random.key(0)
    with tp.config(threads=threads):
        x = tp.tape_function(lambda key: tp.random.normal((300_000,), key=key))(key)
    assert np.asarray(x, np.float64)[:3].tolist() == pytest.approx(np.asarray(tp.random.normal((3,), key=key)).tolist())
    assert np.asarray(x)[[77_777, 299_999]].tolist() == pytest.approx(
        np.asarray(tp.random.normal((300_000,), key=key))[[77_777, 299_999]].tolist(), rel=1e-5
    )


def test_bits_of_a_large_array_are_one_loop_without_temporaries() -> None:
    f = tp.tape_function(lambda key: tp.random.uniform((1 << 20,), key=key))
    report = f.memory_report(tp.random.key(0))
    assert (report.scratch, report.outputs) == (0, 4 << 20)
