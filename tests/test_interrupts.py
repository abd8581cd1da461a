"""Signals while compiled functions run: soon handled, and a call has happened as a whole or not at all."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._config import busy
from tapefuse.ir.passes import optimise
from tapefuse.ir.print import show
from tapefuse.runtime.entry import POLL

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
engines = pytest.mark.parametrize("engine", ["llvm", "numba"])
SOON = 1.5 * POLL * 1e-9  # seconds until a signal is seen that comes between the first look at signals and the second
Timer = Callable[..., None]


@pytest.fixture
def alarm() -> Iterator[Timer]:
    """`alarm(seconds, handler)`: Ctrl-C, or another handler, after so many seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def start(seconds: float, handler: Callable = signal.default_int_handler) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupted(call: Callable, alarm: Timer) -> float:
    """Seconds until a KeyboardInterrupt came out of a call."""
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        alarm(SOON)
        call()
        pytest.fail("no interrupt in a call of many seconds")
    return time.perf_counter() - start


def holders(v: tp.Variable) -> int:
    return sys.getrefcount(v._array) - 1


def sines(a, b):
    """Of every product of an element of `a` and one of `b`, added up: a kernel that takes long and no memory."""
    return tp.sum(tp.sin(a[:, None] * b[None, :]), axis=1)


ENDLESS = np.ones(1_000_000), np.ones(6000)  # 10 s
SHORT = np.ones(30_000), np.ones(6000)  # 0.3 s


def test_many_kernels(alarm):
    """A training step is not begun: its variables are whole, nobody holds them, and the next call is a normal one."""
    v, n = tp.Variable(np.zeros(3)), 1000

    @tp.tape_function(threads=1)
    def step(x, times):
        y = x
        for _ in range(times):
            y = tp.tanh(y @ x)
        v.assign_add(y[0, :3])
        return y

    x = np.zeros((n, n))
    assert callable(step.specialise(x, 300).entry)  # compiled before the clock runs
    for _ in range(2):
        assert interrupted(lambda: step(x, 300), alarm) < 3
        assert v.tolist() == [0, 0, 0] and holders(v) == 1
    x[:] = 1
    step(x, 1)
    np.testing.assert_allclose(v, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_strips(threads, alarm):
    """Of a loop over independent rows: one thread is told to stop, the other one sees it."""

    @tp.tape_function(threads=threads)
    def far(x, w):
        for _ in range(20_000):
            x = tp.tanh(x @ w)
        return x

    x, w = np.zeros((512, 400)), np.zeros((400, 400))
    assert "parallel=True" in show(optimise(far.graph(x, w)))
    assert callable(far.specialise(x, w).entry)
    assert interrupted(lambda: far(x, w), alarm) < 3


@pytest.mark.parametrize("threads", [1, 2])
def test_one_kernel_in_pieces(alarm, threads):
    count = tp.Variable(0)

    @tp.tape_function(threads=threads)
    def f(a, b):
        count.assign_add(1)
        return sines(a, b)

    small = np.ones(3), np.ones(4)
    f(*small)
    assert callable(f.specialise(*ENDLESS).entry)
    assert interrupted(lambda: f(*ENDLESS), alarm) < 4
    assert count.item() == 1 and holders(count) == 1
    np.testing.assert_allclose(f(*small), 4 * np.sin(1))
    assert count.item() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_one_kernel_in_pieces_in_a_loop(alarm, threads):
    """Each iteration takes 10 s, each piece of it less than one."""

    @tp.tape_function(threads=threads)
    def f(a, b):
        x = a
        for _ in range(20):
            x = 0.5 * x + sines(a + x[0], b)
        return x

    assert callable(f.specialise(*ENDLESS).entry)
    for _ in range(2):
        assert interrupted(lambda: f(*ENDLESS), alarm) < 8


@engines
def test_when_a_variable_is_being_written_the_step_is_whole(engine, alarm):
    n = 500
    scale, count = tp.Variable(np.eye(n, dtype=np.float32)), tp.Variable(0)

    @tp.tape_function(engine=engine, threads=1)
    def step(x):
        count.assign_add(1)
        y = scale.read()
        for _ in range(3):
            y = y @ x
        scale.assign(y)

    x = np.eye(n, dtype=np.float32)
    x[0, 0] = 2
    step(x)
    with pytest.raises(KeyboardInterrupt):
        alarm(0.02)
        for _ in range(13):
            step(x)
        time.sleep(2)
    want = np.eye(n, dtype=np.float32)
    want[0, 0] = 8.0 ** count.item()
    assert count.item() >= 1
    np.testing.assert_array_equal(scale, want)
    step(x)
    assert scale.numpy()[0, 0] == 8 * want[0, 0]


def test_a_call_that_has_begun_to_write_is_ended(alarm):
    """The first kernel writes `v`, which the long one reads; `total` is written after it."""
    a, b = SHORT
    v, total = tp.Variable(np.zeros(len(b))), tp.Variable(np.zeros(len(a)))

    @tp.tape_function(threads=1)
    def step(a):
        v.assign(tp.sin(v) + 1)
        total.assign_add(sines(a, v))

    step(a)
    for turn in range(2, 4):
        start, before = time.perf_counter(), v.numpy()
        with pytest.raises(KeyboardInterrupt):
            alarm(SOON)
            step(a)
            time.sleep(5)
        assert time.perf_counter() - start < 5
        np.testing.assert_allclose(v, np.sin(before) + 1)
        wanted = sum(len(b) * np.sin(x) for x in (1, np.sin(1) + 1, np.sin(np.sin(1) + 1) + 1)[:turn])
        np.testing.assert_allclose(total, wanted)


@pytest.mark.parametrize("steps", [4_000_000, None], ids=["known", "unknown"])
def test_a_long_loop_over_a_variable_is_ended(alarm, steps):
    """The loop carries the variable, and another one is assigned before it: both keep their values."""
    v, count = tp.Variable(np.zeros(100)), tp.Variable(0)

    @tp.tape_function
    def train(x, limit):
        count.assign_add(1)
        for _ in range(limit if steps is None else steps):
            v.assign(tp.sin(v) + x)

    assert callable(train.specialise(1.0, 4_000_000).entry)
    for _ in range(2):
        assert interrupted(lambda: train(1.0, 4_000_000), alarm) < 1
        assert v.tolist() == [0] * 100 and count.item() == 0 and holders(v) == 1
    if steps is None:
        train(1.0, 1)
        np.testing.assert_allclose(v, 1)
        assert count.item() == 1


def test_a_long_loop_over_a_large_variable_is_ended(alarm):
    """16 MB are copied in a hundredth of the loop's time, so that it works on a copy; a short loop does not."""
    v = tp.Variable(np.zeros(1 << 22, np.float32))

    def steps(n):
        @tp.tape_function
        def train(x):
            for _ in range(n):
                v.assign(tp.sin(v) + x * tp.max(v + 1.0))

        return train

    short, long = steps(20), steps(4000)
    assert short.memory_report(1.0).scratch < 1.5 * v.numpy().nbytes < long.memory_report(1.0).scratch
    assert callable(long.specialise(1.0).entry)
    for _ in range(2):
        assert interrupted(lambda: long(1.0), alarm) < 3
        assert not v.numpy().any() and holders(v) == 1


def test_a_loop_of_unknown_length_over_a_large_variable_is_ended(alarm):
    """If one iteration takes so long that copies do not matter. Others are not: see docs/decisions/0013."""
    v = tp.Variable(np.zeros(3 << 20, np.float32))

    def steps(inner):
        @tp.tape_function
        def train(limit):
            k = 0.0
            while k < limit:
                for _ in range(inner):
                    v.assign(tp.sin(v) + tp.max(v + 1.0))
                k = k + 1.0

        return train

    short, long, limit = steps(1), steps(2000), tp.constant(3.0)
    assert short.memory_report(limit).scratch < 1.5 * v.numpy().nbytes < long.memory_report(limit).scratch
    assert callable(long.specialise(limit).entry)
    for _ in range(2):
        assert interrupted(lambda: long(limit), alarm) < 3
        assert not v.numpy().any() and holders(v) == 1


def test_a_loop_that_keeps_rows_is_ended(alarm):
    """In the middle of a loop of unknown length whose derivative follows; what it has kept is given back."""
    v = tp.Variable(np.full(1000, 0.5))

    @tp.tape_function(threads=1)
    def step(limit):
        with tp.GradientTape() as tape:
            x, k = v.read(), 0.0
            while k < limit:
                x = tp.sin(x) + 0.5
                k = k + 1.0 + 0.0 * x[0]
            y = tp.sum(x)
        v.assign_sub(tape.gradient(y, v))

    step(2.0)
    before = v.numpy()
    for _ in range(2):
        assert interrupted(lambda: step(200_000.0), alarm) < 1
        assert v.tolist() == before.tolist() and holders(v) == 1
    step(2.0)
    assert v.tolist() != before.tolist()


class TestHandlersThatDoNotRaise:
    """They run while the call waits, find whole variables, and may use and change them."""

    @pytest.fixture
    def step(self):
        v = tp.Variable(np.full(4, 1.0))

        @tp.tape_function(threads=1)
        def step(a, b):
            v.assign(v * 2 + sines(a, b)[0] * 0)
            return v + 0

        step(np.ones(2), np.ones(2))
        return v, step

    def run(self, step, alarm, handler) -> list[float]:
        """What a long call returns, during which the handler ran once."""
        seen = []

        def noting(number, frame):
            seen.append(time.perf_counter())
            handler()

        step(*SHORT)
        alarm(SOON, noting)
        result = step(*(np.tile(x, 3) if k == 0 else x for k, x in enumerate(SHORT)))
        end = time.perf_counter()
        assert len(seen) == 1 and seen[0] < end
        return result.tolist()

    def test_reading(self, step, alarm):
        v, f = step
        seen = []
        assert self.run(f, alarm, lambda: seen.append(v.tolist())) == [8] * 4
        assert seen == [[4] * 4] and v.tolist() == [8] * 4 and holders(v) == 1

    def test_keeping_a_value(self, step, alarm):
        v, f = step
        kept = []
        assert self.run(f, alarm, lambda: kept.append(v.read())) == [8] * 4
        assert kept[0].tolist() == [4] * 4 and v.tolist() == [8] * 4

    def test_assigning(self, step, alarm):
        v, f = step
        assert self.run(f, alarm, lambda: v.assign(np.full(4, 10.0))) == [20] * 4
        assert v.tolist() == [20] * 4

    def test_calling_the_function(self, step, alarm):
        v, f = step
        assert self.run(f, alarm, lambda: f(np.ones(2), np.ones(2))) == [16] * 4
        assert v.tolist() == [16] * 4 and holders(v) == 1


def test_calls_in_other_threads_are_not_disturbed(alarm):
    """The main thread handles the signal at once; the call elsewhere runs to its end."""
    v = tp.Variable(np.zeros(2))

    @tp.tape_function(threads=1)
    def f(a, b):
        v.assign_add(1 + sines(a, b)[:2] * 0)

    f(np.ones(2), np.ones(2))
    thread = threading.Thread(target=f, args=SHORT)
    with pytest.raises(KeyboardInterrupt):
        alarm(0.05)
        thread.start()
        time.sleep(5)
    thread.join()
    assert v.tolist() == [2, 2]


def test_an_interrupt_while_tracing(alarm):
    v, slow = tp.Variable(0), [True]

    @tp.tape_function
    def f(x):
        v.assign_add(1)
        if slow[0]:
            time.sleep(5)
        return x

    alarm(0.02)
    with pytest.raises(KeyboardInterrupt):
        f(1.0)
    assert (f.trace_count, v.item(), list(busy)) == (0, 0, [])
    slow[0] = False
    f(1.0)
    assert (f.trace_count, v.item()) == (1, 1)
