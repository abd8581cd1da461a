"""Which thread runs which piece of a region (pool.ll). Each pool in a process of its own.

Pieces are Python functions here: they note who runs them, and may wait for each other.
"""

from __future__ import annotations

import pytest

from tests.runtime.test_threads import folder, run

__all__ = ["folder"]

POOL = """
import ctypes, threading
import numpy as np
from tapefuse.runtime.llvm_engine import pool
words = ctypes.POINTER(ctypes.c_int64)
TASK = ctypes.CFUNCTYPE(None, ctypes.POINTER(words), words, words, ctypes.c_void_p)
FOR = ctypes.CFUNCTYPE(None, TASK, ctypes.POINTER(words), words, words, ctypes.c_void_p, *3 * [ctypes.c_int64])
parallel_for = FOR(pool().parallel_for)
me = threading.get_ident()
def region(pieces, threads, piece):
    numbers = (ctypes.c_int64 * max(pieces, 1))(*range(pieces))
    def task(args, dims, steps, data):
        assert dims[0] == 1
        piece(args[0][0])
    args, dims, steps = (words * 1)(ctypes.cast(numbers, words)), ctypes.c_int64(pieces), ctypes.c_int64(8)
    parallel_for(TASK(task), args, dims, steps, None, 0, 1, threads)
"""
TOGETHER = """
def launch(pieces, threads):
    'Who ran each piece, where the k-th pieces of all shares wait for each other.'
    ran, size = [0] * pieces, pieces // threads
    meet = [threading.Barrier(threads) for _ in range(size)]
    def piece(c):
        ran[c] = threading.get_ident()
        meet[c % size].wait()
    region(pieces, threads, piece)
    return ran
"""


@pytest.mark.parametrize(("pieces", "threads"), [(2, 2), (8, 2), (16, 4), (3, 3)])
def test_a_thread_has_the_same_pieces_in_every_region(folder, pieces, threads):
    code = f"launches = [launch({pieces}, {threads}) for _ in range(20)]\n"
    code += f"size = {pieces} // {threads}\nfirst = launches[0]\n"
    code += "print(all(ran == first for ran in launches), set(first[:size]) == {me}, len(set(first)))\n"
    code += f"print(all(len(set(first[k * size:(k + 1) * size])) == 1 for k in range({threads})))"
    assert run(POOL + TOGETHER + code, folder, NUMBA_NUM_THREADS="4").split() == ["True", "True", str(threads), "True"]


@pytest.mark.parametrize(("kept", "runs"), [(0, "[4, 5, 6, 7, 3, 2, 1]"), (4, "[0, 1, 2, 3, 7, 6, 5]")])
def test_what_another_thread_has_not_begun_is_taken_from_the_back(folder, kept, runs):
    """While one thread is kept in its first piece, the other runs its own from the front, then those that are left."""
    code = f"""
ran, others = dict(), threading.Semaphore(0)
def piece(c):
    if c == {kept}:
        for _ in range(7): others.acquire()
    else:
        ran.setdefault(threading.get_ident(), []).append(c)
        others.release()
region(8, 2, piece)
print(*ran.values())
"""
    assert run(POOL + code, folder).strip() == runs


def test_every_piece_runs_once(folder):
    """With more threads than pieces, than workers, and than are asked for."""
    code = """
for pieces in (0, 1, 2, 3, 7, 16, 64):
    for threads in (1, 2, 3, 4, 9):
        ran = []
        for _ in range(20): region(pieces, threads, ran.append)
        assert sorted(ran) == sorted([*range(pieces)] * 20), (pieces, threads, ran)
print("all")
"""
    assert run(POOL + code, folder, NUMBA_NUM_THREADS="4").split() == ["all"]


def test_regions_in_regions(folder):
    """A piece that opens a region runs that alone."""
    code = """
ran = []
def piece(c):
    mine, inner = threading.get_ident(), []
    region(4, 2, lambda k: inner.append((k, threading.get_ident() == mine)))
    ran.append((c, inner == [(k, True) for k in range(4)]))
for _ in range(20): region(6, 3, piece)
print(sorted(ran) == sorted([(c, True) for c in range(6)] * 20))
"""
    assert run(POOL + code, folder, NUMBA_NUM_THREADS="4").split() == ["True"]
