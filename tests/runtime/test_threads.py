"""The pool beside Numba in either order, its layers, the thread counts, and forks. Each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._config import config
from tapefuse.runtime import threads
from tapefuse.runtime.llvm_engine import load
from tests.runtime.programs import LAYOUT, parallel, refuse

OURS = """
import sys
import numpy as np
from tapefuse.runtime.llvm_engine import load, pool
from tests.runtime.programs import LAYOUT, parallel, refuse
x = np.arange(64.0)
def ours(threads=2, work=100):
    loaded = load(parallel(work), LAYOUT, (), refuse, threads=threads)
    for _ in range(20):
        y, n = loaded.call(x)
        assert y._array.tolist() == (x + 1).tolist()
    return loaded
"""
NUMBA = """
import numba
@numba.njit(parallel=True)
def add_one(x):
    y = np.empty_like(x)
    for i in numba.prange(x.size):
        y[i] = x[i] + 1
    return y
assert add_one(x).tolist() == (x + 1).tolist()
"""


def run(code: str, folder, **environment: str) -> str:
    """What a new process prints."""
    settings = {**os.environ, "NUMBA_NUM_THREADS": "2", "TAPEFUSE_CACHE_DIR": str(folder), **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("order", ["ours first", "numba first"])
def test_our_own_pool_beside_numbas(folder, order):
    code = OURS + ("ours()\nprint('numba' in sys.modules)\n" + NUMBA if order == "ours first" else NUMBA)
    code += "numba.set_num_threads(1)\nours()\nprint(pool().layer, numba.get_num_threads())"
    assert run(code, folder).split()[-2:] == ["tapefuse", "1"]
    assert order == "numba first" or run(code, folder).split()[0] == "False"


def test_numbas_pool_is_shared_without_importing_numba(folder):
    code = OURS + "ours()\nprint('numba' in sys.modules, pool().layer)\n" + NUMBA
    code += "ours()\nfrom numba.np.ufunc import omppool\nprint(omppool.parallel_for == pool().parallel_for)"
    assert run(code, folder, NUMBA_THREADING_LAYER="omp").split() == ["False", "omp", "True"]


def test_numba_first(folder):
    code = OURS + NUMBA + "numba.set_num_threads(1)\nours()\nprint(pool().layer, numba.get_num_threads())"
    assert run(code, folder, NUMBA_THREADING_LAYER="omp").split() == ["omp", "1"]


def test_regions_from_many_python_threads_at_once(folder):
    code = OURS + (
        "import threading\nloaded = ours(2, 10**9)\nbad = []\n"
        "def go():\n    for _ in range(2000):\n"
        "        if loaded.call(x)[0]._array.tolist() != (x + 1).tolist(): bad.append(1)\n"
        "ts = [threading.Thread(target=go) for _ in range(4)]\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]\nprint(pool().layer, len(bad))\n"
    )
    assert run(code, folder, NUMBA_NUM_THREADS="4").split() == ["tapefuse", "0"]


def test_the_workqueue_layer_keeps_the_interpreters_lock(folder):
    code = OURS + (
        "import threading\nloaded = ours(2, 10**9)\nprint(pool().layer)\n"
        "ts = [threading.Thread(target=lambda: [loaded.call(x) for _ in range(200)]) for _ in range(4)]\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]\n"
    )
    assert run(code, folder, NUMBA_THREADING_LAYER="workqueue").split() == ["workqueue"]


def test_no_pool_at_all(folder):
    code = OURS + (
        "from tapefuse._errors import CompileError\n"
        "try:\n    ours()\nexcept CompileError as e:\n    print('threads=1' in str(e))\n"
    )
    assert run(code, folder, NUMBA_THREADING_LAYER="nonsense").split() == ["True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_on_one_thread_and_says_so_once(folder):
    code = OURS + (
        "import os, warnings\nloaded = ours()\n"
        "def child():\n"
        "    with warnings.catch_warnings(record=True) as seen:\n        warnings.simplefilter('always')\n"
        "        counts = [int(loaded.call(x)[1]._array[()]) for _ in range(3)]\n"
        "        counts.append(int(load(parallel(), LAYOUT, (), refuse, threads=2).call(x)[1]._array[()]))\n"
        "    print(counts, [w.category.__name__ for w in seen], flush=True)\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n        child()\n        os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "print(int(loaded.call(x)[1]._array[()]))"
    )
    child = "[1, 1, 1, 1] ['PerformanceWarning']"
    assert run(code, folder).splitlines() == [child, child, "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_warning_as_an_error_leaves_no_result(folder):
    code = OURS + (
        "import os, warnings\nloaded = ours()\npid = os.fork()\n"
        "if not pid:\n    warnings.simplefilter('error')\n"
        "    try:\n        loaded.call(x)\n    except UserWarning:\n        os._exit(7)\n    os._exit(1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert run(code, folder).split() == ["7"]


def test_how_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert threads.available() == 3
    loaded = load(parallel(), LAYOUT, (), refuse)
    before = threads.count().value
    try:
        with config(threads=5):
            threads.set_threads(None)
        assert loaded.call(np.arange(64.0))[1]._array[()] == 5
        threads.set_threads(None)
        assert threads.count().value == (config.threads or 3)
        threads.set_threads(1)
        assert loaded.call(np.arange(64.0))[1]._array[()] == 1
    finally:
        threads.set_threads(before)


def test_unloaded_programs_leave_no_counts_behind():
    before = len(threads._counts)
    loaded = load(parallel(), LAYOUT, (), refuse, threads=2)
    assert len(threads._counts) == before + 1
    del loaded
    assert len(threads._counts) == before


def test_the_flag_counts_after_programs_have_run():
    """Set for the process or for a block, it decides how many threads the next call uses."""
    f = tp.tape_function(lambda x: tp.sum(tp.exp(x)))
    x = np.ones(3_000_000, np.float32)
    f(x)
    before = tp.config.threads
    try:
        tp.config.threads = 1
        assert f.profile(x).threads == 1
        tp.config.threads = 2
        assert f.profile(x).threads == 2
        with tp.config(threads=1):
            assert f.profile(x).threads == 1
    finally:
        tp.config.threads = before
