"""Memory of large outputs: kept when an array is freed, given to the next one, and never seen by two."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np

import tapefuse as tp
from tapefuse.runtime.entry import LARGE, SHELF_BYTES, SHELF_PLACES

N = LARGE  # of float32: four times what counts as large


@tp.tape_function
def shifted(x):
    return x + 1


def address(t: tp.Tensor) -> int:
    return t._array.ctypes.data


def test_a_freed_block_is_used_again():
    x = tp.constant(np.zeros(N, np.float32))
    y = shifted(x)
    first = address(y)
    del y
    gc.collect()
    assert address(shifted(x)) == first


def test_arrays_alive_at_once_are_apart():
    x = tp.constant(np.arange(N, dtype=np.float32))
    results = [shifted(x) for _ in range(SHELF_PLACES + 3)]
    assert len({address(y) for y in results}) == len(results)
    del results[::2]
    more = [shifted(y) for y in results]
    for y in results:
        assert np.array_equal(y, np.arange(N, dtype=np.float32) + 1)
    for y in more:
        assert np.array_equal(y, np.arange(N, dtype=np.float32) + 2)


def test_small_outputs_are_numpys():
    assert np._core.multiarray.get_handler_name(shifted(np.zeros(8, np.float32))._array) == "default_allocator"
    assert np._core.multiarray.get_handler_name(shifted(np.zeros(N, np.float32))._array) == "tapefuse"
    assert np._core.multiarray.get_handler_name(np.zeros(N, np.float32)) == "default_allocator"


def test_such_arrays_own_their_memory_and_can_be_resized():
    a = shifted(np.zeros(N, np.float32)).numpy()
    y = shifted(np.zeros(N, np.float32))._array
    assert y.flags.owndata and y.flags.c_contiguous and y.base is None
    y.resize((2 * N,), refcheck=False)
    assert np.array_equal(y[:N], a) and not y[N:].any()
    y.resize((5,), refcheck=False)
    assert np.array_equal(y, np.ones(5))


def test_larger_than_all_that_is_kept():
    y = shifted(np.zeros(SHELF_BYTES // 4 + 1, np.float32))
    assert float(y[0]) == 1 and float(y[-1]) == 1


def test_a_variable_takes_the_memory_over():
    v = tp.Variable(np.zeros(N, np.float32))
    v.assign(shifted(np.zeros(N, np.float32)))

    @tp.tape_function
    def step():
        v.assign_add(tp.ones_like(v))
        return tp.sum(v)

    assert float(step()) == 2 * N and float(step()) == 3 * N


def test_arrays_that_outlive_the_library():
    code = """
import builtins, numpy as np, tapefuse as tp
f = tp.tape_function(lambda x: x + 1)
x = np.zeros(1 << 20, np.float32)
builtins.kept = f(x)._array
class Cycle: pass
c = Cycle(); c.self = c; c.array = f(x)._array
f(x)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
