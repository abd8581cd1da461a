"""Memory: none left, sizes that no memory holds, what is kept for later calls, and that nothing grows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tapefuse as tp

resource = pytest.importorskip("resource", reason="needs limits on memory")
pytestmark = pytest.mark.filterwarnings("ignore:.*was traced")
MB = 1 << 20

_LIMITED = """
import gc, resource
import numpy as np
import tapefuse as tp
MB = 1 << 20
def floats(mb): return np.ones(mb * MB // 4, "f4")
def limit(mb):
    with open("/proc/self/statm") as file: now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + mb * MB, resource.RLIM_INFINITY))
def unlimited(): resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
def fails(call, *args):
    for _ in range(3):
        try:
            call(*args)
        except MemoryError:
            continue
        return False
    return True
any_size = [tp.TensorSpec((None,), np.float32)]
count = tp.Variable(0)
"""


def run(script: str) -> list[str]:
    """What a process prints that may not take all the memory it wants."""
    command = [sys.executable, "-c", _LIMITED + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- none left ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_outputs_without_memory(engine):
    """The second of two outputs, too: nothing is changed and nothing is lost, and smaller calls go on."""
    script = """
@tp.tape_function(input_signature=any_size, engine=ENGINE, threads=1)
def f(x):
    count.assign_add(1)
    return x + 1, x * 2
small, large = floats(1), floats(100)
f(small)
limit(150)  # one output of the large call, and all three arrays of the last
print(fails(f, large), count.item())
print(f(small)[1].numpy().max(), count.item())
print(f(floats(40))[0].numpy().max())
"""
    assert run(script.replace("ENGINE", repr(engine))) == ["True 1", "2.0 2", "2.0"]


def test_scratch_without_memory():
    script = """
@tp.tape_function(input_signature=any_size, threads=1)
def f(x):
    count.assign_add(1)
    y = tp.cumsum(x)
    return tp.sum(y * tp.max(y))
x = floats(100)
print(f(x[:1000]).item() > 0, f.memory_report(x).scratch > 90 * MB)
limit(50)
print(fails(f, x), count.item())
limit(50)
print(f(x[:1000]).item() > 0, count.item())
unlimited()
print(f(x).item() > 0, count.item())
"""
    assert run(script) == ["True True", "True 1", "True 2", "True 3"]


@pytest.mark.parametrize("wanted", ["output", "scratch", "small output"])
def test_what_is_kept_is_given_up_for_what_is_needed(wanted):
    script = """
f = tp.tape_function(lambda x: x + 1, input_signature=any_size, threads=1)
kept = [f(floats(60)) for _ in range(3)]
calls = {
    "output": (f, floats(100)),
    "scratch": (tp.tape_function(lambda x: tp.sum(tp.cumsum(x) * tp.max(x)), input_signature=any_size), floats(100)),
    "small output": (tp.tape_function(lambda x: (x[:200_000] * 1,) * 100, input_signature=any_size), floats(1)),
}
g, x = calls[WANTED]
g(x[:250_000])
del kept
print(tp.kept_memory() >= 180 * MB)
limit(50)
y = g(x)
print(tp.kept_memory() < 120 * MB)
"""
    assert run(script.replace("WANTED", repr(wanted))) == ["True", "True"]


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_sizes_that_no_memory_holds(engine):
    """Products of extents beyond 63 bits, in outputs and in scratch memory, are MemoryErrors, not small arrays."""
    v = tp.Variable(0)

    def made(rank, result):
        @tp.tape_function(input_signature=[tp.TensorSpec(("n",), np.float32)], engine=engine, threads=1)
        def f(x):
            v.assign_add(1)
            return result(tp.zeros((x.shape[0],) * rank) + x[0])

        return f

    def scratch(y):
        return tp.sum(tp.cumsum(y, axis=0) * tp.max(y))

    cases = (4, lambda y: y), (8, lambda y: (y[0], y)), (8, tp.ravel), (4, scratch), (8, scratch)
    for f in (made(rank, result) for rank, result in cases):
        f(np.ones(2, np.float32))
        before = v.item()
        for n in (30_000, 65536, 1 << 22):  # 65536 to the fourth is 0 in 64 bits
            with pytest.raises(MemoryError):
                f(np.ones(n, np.float32))
        assert v.item() == before


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_a_loop_that_keeps_more_than_there_is(engine):
    """Rows of a loop of unknown length, in memory that grows until there is none: no variable has changed."""
    script = """
v = tp.Variable(np.full(1000, 0.5))

@tp.tape_function(engine=ENGINE, threads=1)
def step(n):
    count.assign_add(1)
    with tp.GradientTape() as tape:
        further = lambda carry: (tp.sin(carry[0]) + 0.5, carry[1] + 1.0 + 0.0 * carry[0][0])
        y = tp.sum(tp.while_loop(lambda carry: carry[1] < n, further, (v.read(), v.read()[0] * 0.0))[0])
    v.assign_sub(tape.gradient(y, v))

step(2.0)
before = v.numpy()
limit(100)
print(fails(step, 50_000.0), count.item(), np.array_equal(v, before))
step(3000.0)
print(count.item())
"""
    assert run(script.replace("ENGINE", repr(engine))) == ["True 1 True", "2"]


# -- what is kept ---------------------------------------------------------------------------------------------------


@tp.tape_function
def shifted(x):
    return x + 1


@tp.tape_function(input_signature=[tp.TensorSpec((None,), np.float32)])
def scratched(x):
    return tp.sum(tp.cumsum(x) * tp.max(x))


def ones(mb: int) -> np.ndarray:
    return np.ones(mb * MB // 4, np.float32)


def test_kept_memory_is_seen_and_released():
    tp.kept_memory(release=True)
    assert tp.kept_memory() == 0
    scratched(ones(8))
    scratch = tp.kept_memory()
    assert scratch >= 8 * MB
    shifted(ones(8))
    assert tp.kept_memory() == scratch + 8 * MB
    assert tp.kept_memory(release=True) == scratch + 8 * MB
    assert tp.kept_memory() == 0
    assert scratched(ones(8)).item() > 0


def test_kept_memory_hardly_adds_to_the_peak():
    """Results of different sizes, one at a time: 32 MB at most are there beside the largest so far."""
    script = """
f = tp.tape_function(lambda x: x + 1, input_signature=any_size)
largest = 0
for size in (40, 64, 100, 64, 120, 30, 100):
    held = f(floats(size))
    largest = max(largest, size)
    print((tp.kept_memory() // MB + size) - largest <= 32)
    del held
"""
    assert run(script) == ["True"] * 7


def test_what_was_of_no_use_for_long_is_given_back():
    tp.kept_memory(release=True)
    shifted(ones(16))
    assert tp.kept_memory() == 16 * MB
    x = ones(2)
    for _ in range(40):
        shifted(x)
    assert tp.kept_memory() == 2 * MB


# -- nothing grows --------------------------------------------------------------------------------------------------

_EVERYTHING = """
import gc
import numpy as np
import tapefuse as tp
v, big = tp.Variable(np.zeros(4)), tp.Variable(np.zeros(100_000))
x, k = np.ones(4), np.array([1, 9])
any_size = [tp.TensorSpec((None,), np.float64)]
alone = tp.tape_function(lambda x: x * 2)
several = tp.tape_function(lambda x: (x * 2, [x + 1, {"sum": x.sum()}]))
numbers = tp.tape_function(lambda x: (x.sum(), x * 2), outputs="numpy")
step = tp.tape_function(lambda x: v.assign_add(x).read())
long = tp.tape_function(lambda x: big.assign_add(tp.sin(x[0]) * tp.ones(100_000, np.float64)).read().sum(), threads=2)
sized = tp.tape_function(lambda x: tp.cumsum(x) / tp.max(x), input_signature=any_size)
picked = tp.tape_function(lambda x, k: x[k])
slope = tp.tape_function(tp.value_and_grad(lambda x: tp.sum(x * x)))
def tape():
    with tp.GradientTape() as t:
        y = (v * v).sum()
    t.gradient(y, v)
def refused():
    try:
        picked(x, k)
    except IndexError:
        pass
def shared():
    held = v.read()
    step(x)
kept = [None] * 3
def holding():
    kept[0] = several(x)
    kept.append(kept.pop(0))
sizes = [np.ones(n) for n in (3, 50, 1000, 5000)]
def all_sizes():
    for a in sizes: sized(a)
calls = {
    1: [lambda: alone(x), lambda: several(x), lambda: numbers(x), lambda: step(x), lambda: slope(x), holding],
    10: [refused, all_sizes, shared, tape, lambda: alone(x[::-1]), lambda: long(x)],
}
def memory():
    gc.collect()
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * 4096
def go(n):
    for every, functions in calls.items():
        for f in functions:
            for _ in range(n // every): f()
go(2000)
go(1000)
before = memory()
go(10_000)
print(memory() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_ten_thousand_calls_of_everything():
    done = subprocess.run([sys.executable, "-c", _EVERYTHING], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MB


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_no_memory_for_a_size_computed_after_a_variable_was_assigned(engine):
    v, u = tp.Variable(np.zeros(3)), tp.Variable(np.array(1.0))

    @tp.tape_function(engine=engine)
    def step(x, n):
        v.assign_add(x * np.ones(3))

        def repeated(y):
            for _ in range(n):
                y = tp.sin(y) * v[0]
            return y

        u.assign(tp.grad(repeated)(u.read() + v[1]))

    step(1.0, np.int64(2))
    before = v.tolist(), u.item()
    np.testing.assert_allclose(u, np.cos(np.sin(2)) * np.cos(2))
    with pytest.raises(MemoryError):
        step(1.0, np.int64(1 << 48))
    assert (v.tolist(), u.item()) == before


# -- beyond arrays --------------------------------------------------------------------------------------------------

_BEYOND = """
def reads(x, n):
    t = 0.0
    for k in range(n):
        t = t + x[k]
    return t
def writes(x, n):
    for k in range(n):
        x[k] = 1.0
    return x
def backwards(x, n):
    for k in range(n):
        x[-1 - k] *= 2.0
    return x
def slices(x, n):
    for k in range(n):
        x[2 * k : 2 * k + 2] *= x[0]
    return x
def triangle(x, n):
    for k in range(n):
        for j in range(k):
            x[j] = x[j] + x[k]
    return x
def branches(x, n):
    for k in range(n):
        if x[0] > -1:
            x[k] = 1.0
        else:
            x[0] = 2.0 * x[0]
    return x
def inner_of_while(x, n):
    while x[0] < n:
        for k in range(4_000_000):
            x[k] = x[k] * x[k]
    return x
def inner_of_branch(x, n):
    if x[0] < n:
        for k in range(4_000_000):
            x[k] = x[k] * x[k]
    return x
def ragged(x, n):
    for k in range(len(COUNTS)):
        for j in range(COUNTS[k]):
            x[j] = x[j] * x[j]
    return x
COUNTS = tp.constant(np.array([3, 4_000_000, 2] + 20 * [1]))
for f in (reads, writes, backwards, slices, triangle, branches, inner_of_while, inner_of_branch, ragged):
    for transformed in (f, tp.grad(lambda x, n: tp.sum(f(x, n)))):
        fn = tp.tape_function(transformed, engine=ENGINE)
        try:
            print(fn(np.arange(6.0), np.array(3000 if f is triangle else 4_000_000)))
        except IndexError as error:
            print("IndexError")
"""


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_loops_that_leave_an_array_touch_no_other_memory(engine, tmp_path):
    """Nothing of what would be read or written millions of elements beyond an array is."""
    file = tmp_path / "beyond.py"
    file.write_text(_LIMITED + _BEYOND.replace("ENGINE", repr(engine)))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["IndexError"] * 18
