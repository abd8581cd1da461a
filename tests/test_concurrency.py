"""Compiled functions in many threads at once, and in processes made by fork and spawn."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.runtime import llvm_engine

engines = pytest.mark.parametrize("engine", ["llvm", "numba"])
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def together(work: Callable[[int], None], threads: int = 4) -> None:
    """Run `work(number)` in threads that start at once; raises what they raised."""
    failures, gate = [], threading.Barrier(threads)

    def guarded(k):
        try:
            gate.wait()
            work(k)
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=guarded, args=(k,)) for k in range(threads)]
    for t in started:
        t.start()
    for t in started:
        t.join()
    if failures:
        raise failures[0]


def run(script: str, folder: Path, *args: str, **environment: str) -> list[str]:
    """The lines that a script prints, in a process of its own."""
    file = folder / "script.py"
    file.write_text(script)
    settings = {**os.environ, "NUMBA_NUM_THREADS": "2", **environment}
    command = [sys.executable, str(file), *args]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- threads --------------------------------------------------------------------------------------------------------


@engines
def test_one_function_in_eight_threads(engine):
    """Pure, first calls included, with one trace in all; and one that writes state, of which no update is lost."""
    total = tp.Variable(np.zeros(50))
    pure = tp.tape_function(lambda x: (tp.sin(x) * x).sum(), engine=engine, threads=1)
    add = tp.tape_function(lambda x: total.assign_add(x).read().sum(), engine=engine, threads=1)
    seen = []

    def work(k):
        x = np.full(50, float(k))
        for _ in range(50):
            np.testing.assert_allclose(pure(x), 50 * k * np.sin(k), atol=1e-9)
            seen.append(add(np.ones(50)).item())

    together(work, 8)
    assert total.tolist() == [400.0] * 50
    assert sorted(seen) == [50.0 * k for k in range(1, 401)]
    assert pure.trace_count == add.trace_count == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_several_functions_in_eight_threads_are_bit_equal(threads):
    """Long ones that let the interpreter go and are cut into pieces, small ones with results used again, tuples."""
    rng = np.random.default_rng(0)
    big, small = rng.normal(size=(500, 400)), rng.normal(size=40)
    functions = [
        (tp.tape_function(lambda x: (tp.exp(tp.sin(x)).sum(axis=0), x.mean()), threads=threads), big),
        (tp.tape_function(lambda x: tp.tanh(x @ x.T), threads=threads), big),
        (tp.tape_function(lambda x: (x * 2, x + 1, (x * x).sum()), threads=threads), small),
        (tp.tape_function(tp.grad(lambda x: tp.sum(tp.sin(x) ** 2)), threads=threads), small),
    ]

    def bits(result) -> list[bytes]:
        return [np.asarray(y).tobytes() for y in (result if isinstance(result, tuple) else (result,))]

    want = [bits(f(x)) for f, x in functions]

    def work(k):
        for n in range(60):
            which = (k + n) % len(functions)
            f, x = functions[which]
            held = f(x)
            f(x)
            assert bits(held) == want[which]

    together(work, 8)


def test_a_first_call_that_eight_threads_race_for_is_compiled_once(monkeypatch):
    compiled = []

    def counted(text, *rest):
        compiled.append(text)
        return original(text, *rest)

    tp.tape_function(lambda x: x - 3)(1.0)  # what all programs share
    original = llvm_engine.compile_object
    monkeypatch.setattr(llvm_engine, "compile_object", counted)
    f = tp.tape_function(lambda x: tp.log(x) * 5 + x)
    results = []
    with tp.config():
        tp.config.cache = False
        try:
            together(lambda k: results.append(f(np.full(7, 2.0)).numpy().tobytes()), 8)
        finally:
            tp.config.cache = True
    assert len(set(results)) == 1 and f.trace_count == len(compiled) == 1


@pytest.mark.parametrize("size", [4, 300_000])
def test_steps_that_write_variables_are_whole(size):
    """Two variables that each step changes together, in eight threads, with readers; short and long steps."""
    u, w = tp.Variable(np.zeros(size)), tp.Variable(np.zeros(size))

    @tp.tape_function(threads=1)
    def step(x):
        u.assign_add(x)
        w.assign(u * 2)
        return u[0], w[size - 1]

    x, seen, turns = np.ones(size), [], 200 if size < 100 else 10

    def work(k):
        for _ in range(turns):
            a, b = step(x)
            seen.append(a.item())
            assert b.item() == 2 * a.item()
            value = u.numpy()
            assert (value == value[0]).all()

    together(work, 8)
    assert sorted(seen) == list(range(1, 8 * turns + 1))
    assert u.numpy()[0] == 8 * turns and w.numpy()[-1] == 16 * turns


@engines
def test_a_loop_of_long_steps_lets_readers_in(engine):
    """Between two steps of a loop there is hardly a moment; whoever reads, evaluates or assigns waits little."""
    v, x = tp.Variable(np.zeros(200_000)), np.ones(200_000)
    step = tp.tape_function(lambda x: v.assign_add(tp.sin(tp.exp(x)) * 0 + 1), engine=engine, threads=1)
    look = tp.tape_function(lambda x: (v[0], v[-1] + x[0] * 0), engine=engine, threads=1)
    uses = [lambda: v.numpy()[[0, -1]], lambda: [t.item() for t in look(x)], lambda: v.assign(v * 2).numpy()[[0, -1]]]
    stop, steps = threading.Event(), []

    def loop():
        while not stop.is_set():
            step(x)
            steps.append(1)

    for use in (lambda: step(x), *uses):
        use()
    thread = threading.Thread(target=loop)
    thread.start()
    start = time.perf_counter()
    try:
        for use in uses * 4:
            first, last = use()
            assert first == last > 0
    finally:
        stop.set()
        thread.join()
    assert time.perf_counter() - start < 10


def test_tapes_settings_and_readers():
    """Tapes and `with config` are each thread's own; a reader sees whole values of a variable in use."""
    w = tp.Variable(np.ones(20_000, np.float32))
    step = tp.tape_function(lambda x: w.assign_add(tp.sin(x) * 0 + 1).read().sum())
    f = tp.tape_function(lambda x: (x * x).sum())
    x = np.ones(20_000, np.float32)

    def work(k):
        for _ in range(40):
            if k == 0:
                step(x)
            elif k == 1:
                value = w.numpy()
                assert (value == value[0]).all()
            elif k == 2:
                with tp.GradientTape() as tape:
                    t = tp.constant([3.0])
                    tape.watch(t)
                    y = f(t)
                assert tape.gradient(y, t).tolist() == [6.0]
            else:
                with tp.config(disable_jit=True):
                    assert f(tp.constant([2.0])).item() == 4.0

    together(work)
    assert w.numpy()[7] == 41


# -- forks ----------------------------------------------------------------------------------------------------------

_PROGRAM = """
import os, sys, threading, time, warnings
import numpy as np
import tapefuse as tp
x = np.random.default_rng(0).normal(size=(8000, 200)).astype("f4")
v = tp.Variable(np.zeros(200, "f4"))
@tp.tape_function(engine=sys.argv[1], threads=2)
def f(x):
    total = x.sum(axis=0)
    v.assign_add(total)
    return total * 2, total.sum()
def bits(): return [np.asarray(y).tobytes() for y in f(x)]
def forked(work):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            sys.stdout.flush()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@needs_fork
@engines
def test_a_fork_after_use(engine, tmp_path):
    """The child computes the same on one thread, and warns once; the parent's variables are its own."""
    script = """
want = bits()
bumped = v.numpy()
def child():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        same = all([bits() == want for _ in range(3)])
    print(same, np.allclose(v, 4 * bumped, rtol=1e-4), [w.category.__name__ for w in seen])
print(forked(child), np.array_equal(v, bumped), bits() == want)
"""
    assert run(_PROGRAM + script, tmp_path, engine) == ["True True ['PerformanceWarning']", "0 True True"]


@needs_fork
@engines
def test_a_fork_before_use(engine, tmp_path):
    """Both processes start threads of their own, with no warning."""
    script = """
warnings.simplefilter("error")
def child():
    bits()
    f.specialise(x).entry
    print("child", v.numpy().any())
code = forked(child)
print("parent", code, v.numpy().any(), bits() == bits())
"""
    assert run(_PROGRAM + script, tmp_path, engine) == ["child True", "parent 0 False True"]


@needs_fork
@engines
def test_a_fork_while_another_thread_is_in_a_call(engine, tmp_path):
    """It waits until the variables are whole, and the child has them; calls go on in both."""
    script = """
warnings.simplefilter("ignore")
a, b = np.ones(10_000), np.ones(3000)
w = tp.Variable(np.zeros(10_000))
@tp.tape_function(engine=sys.argv[1], threads=int(sys.argv[2]))
def long(a, b):
    w.assign_add(1 + 0 * tp.sum(tp.sin(a[:, None] * b[None, :]), axis=1))
long(a, b)
stop = []
def work():
    while not stop: long(a, b)
threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads: t.start()
def child():
    value = w.numpy()
    long(a, b)
    print((value == value[0]).all(), (w.numpy() == value + 1).all(), value[0] > 0)
for _ in range(2):
    time.sleep(0.05)
    print(forked(child))
stop.append(1)
for t in threads: t.join()
print((w.numpy() == w.numpy()[0]).all())
"""
    for threads in "12" if engine == "llvm" else "1":
        lines = run(_PROGRAM + script, tmp_path, engine, threads)
        assert lines == ["True True True", "0", "True True True", "0", "True"]


@needs_fork
def test_a_fork_while_another_thread_holds_locks(tmp_path):
    """Of tracing, compiling and sharing variables: the child takes new ones; a lock of its own thread stays."""
    script = """
from tapefuse import function
from tapefuse.tracer import variable
warnings.simplefilter("ignore")
bits()
locks = [function._trace_lock, variable._unshare_lock, f.specialise(x)._lock]
taken, done = threading.Event(), threading.Event()
def hold():
    with locks[0], locks[1], locks[2]:
        taken.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
taken.wait()
def child():
    held = v.read()
    bits()
    print(tp.tape_function(lambda x: x + 1)(1.0).item(), np.array_equal(v, 2 * held))
print(forked(child))
done.set()
thread.join()
with locks[0]:
    print(forked(child))
"""
    assert run(_PROGRAM + script, tmp_path, "llvm") == ["2.0 True", "0", "2.0 True", "0"]


_POOLS = """
import multiprocessing, sys, warnings
import numpy as np
import tapefuse as tp
warnings.simplefilter("ignore")
@tp.tape_function(threads=2)
def f(x):
    return tp.sum(tp.sin(x), axis=0), (x @ x.T)[0]
def work(seed):
    x = np.random.default_rng(seed).normal(size=(2000, 60))
    return [np.asarray(y).tobytes() for y in f(x)]
if __name__ == "__main__":
    want = [work(seed) for seed in range(4)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(work, range(4)) == want)
    print([work(seed) for seed in range(4)] == want)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes(method, tmp_path):
    assert run(_POOLS, tmp_path, method) == ["True", "True"]
