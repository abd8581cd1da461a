"""The thread pools that parallel regions of compiled programs run on, and how many threads they may use.

The LLVM engine has a pool of its own (pool.ll, docs/decisions/0005); with NUMBA_THREADING_LAYER set it shares Numba's,
as the Numba engine always does. Numba's extension module is loaded by its file, without the 0.3 s of `import numba`,
under the name that Numba itself uses: a later `import numba` shares it. Layers other than OpenMP are asked of Numba.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tapefuse._config import config
from tapefuse._errors import CompileError, PerformanceWarning
from tapefuse._records import dataclass

_OMP = "numba.np.ufunc.omppool"
_MODULES = {"omp": _OMP, "tbb": "numba.np.ufunc.tbbpool", "workqueue": "numba.np.ufunc.workqueue"}
SPIN = 20_000  # rounds a waiting thread spins, about 0.5 ms: longer than the gaps between kernels that are cut
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses of the pool's functions.

    `parallel_for`: void (fn, args, dims, steps, data, i64 inner_ndim, i64 array_count, i32 threads), Numba's
    `numba_parallel_for`. `get_mask`, `set_mask`: Numba's number of threads for the calling thread, which a region
    changes; 0 where there is none.
    """

    layer: str
    size: int
    parallel_for: int
    get_mask: int
    set_mask: int

    @property
    def concurrent(self) -> bool:
        """May two Python threads be in parallel regions at once? Numba's workqueue layer ends the process then."""
        return self.layer != "workqueue"


class _Process:
    """What this process has started, and whether it lost it in a fork."""

    pool: Pool | None = None
    numba_pool: Pool | None = None
    dead = False


_process = _Process()


class Count(ctypes.c_int32):
    """The number of threads that programs may use: a word that kernels read when they run."""

    __hash__ = object.__hash__


_counts: weakref.WeakSet[Count] = weakref.WeakSet()
_forked = ctypes.c_int64(0)  # 1 in a forked child whose pool died with the fork, until the warning is given


_main = ctypes.c_uint64(threading.main_thread().ident or 0)  # the thread that handles signals
_away = (ctypes.c_int64 * 2)()  # calls that have taken variables and let the interpreter go; forks that wait for them

_taking: set[int] = set()  # threads in calls of the Numba engine that take variables


def main_thread() -> int:
    """Address of the word that identifies the main thread."""
    return ctypes.addressof(_main)


def away() -> int:
    """Address of the number of calls that run without the interpreter's lock and have taken variables, and of a word
    that is not 0 while a fork waits for them: calls keep the lock then."""
    return ctypes.addressof(_away)


def count(threads: int | None = None) -> Count:
    """A new word; None: the process's own one."""
    if threads is None:
        if not _shared.value:
            set_threads(None)
        return _shared
    word = Count(1 if _process.dead else threads)
    _counts.add(word)
    return word


def set_threads(threads: int | None) -> None:
    """How many threads programs without an own `threads` option use; None: the flag's value, or all CPUs."""
    _shared.value = 1 if _process.dead else (threads or config.threads or available())


def available() -> int:
    """CPUs that this process may use, or fewer if NUMBA_NUM_THREADS says so."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else cpus


def pool(own: Callable[[int], Pool]) -> Pool:
    """The pool of the LLVM engine, launched at the first call: `own(size)`, or what NUMBA_THREADING_LAYER names.

    Raises CompileError when Numba has none that works here.
    """
    with _lock:
        if _process.pool is None:
            wants_numba = "NUMBA_THREADING_LAYER" in os.environ
            _process.pool = _launched_numba_pool() if wants_numba else own(available())
        return _process.pool


def numba_pool() -> Pool:
    """Numba's pool, launched at the first call. Raises CompileError when Numba has none that works here."""
    with _lock:
        return _launched_numba_pool()


def _launched_numba_pool() -> Pool:
    if _process.numba_pool is None:
        _process.numba_pool = _running() or _omp() or _through_numba()
    return _process.numba_pool


def notice() -> tuple[int, Any]:
    """(address of a word, callable): parallel programs call the callable when the word is not 0."""
    return ctypes.addressof(_forked), _warn


def _running() -> Pool | None:
    """The pool that Numba has launched already."""
    numba_side: Any = sys.modules.get("numba.np.ufunc.parallel")
    layer = getattr(numba_side, "_threading_layer", None)
    return _described(layer, sys.modules[_MODULES[layer]], numba_side.config.NUMBA_NUM_THREADS) if layer else None


def _omp() -> Pool | None:
    """The OpenMP pool loaded by its file; None when another layer is asked for, or it is not there."""
    if os.environ.get("NUMBA_THREADING_LAYER", "default").lower() not in ("default", "omp"):
        return None
    if "NUMBA_THREADING_LAYER_PRIORITY" in os.environ:
        return None
    module = sys.modules.get(_OMP) or _load_omp()
    if module is None:
        return None
    size = available()
    ctypes.CFUNCTYPE(None, ctypes.c_int)(module.launch_threads)(size)
    return _described("omp", module, size)


def _load_omp() -> Any:
    numba = importlib.util.find_spec("numba")  # finds the package without running it
    for folder in numba.submodule_search_locations or () if numba else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            file = os.path.join(folder, "np", "ufunc", f"omppool{suffix}")
            spec = importlib.util.spec_from_file_location(_OMP, file) if os.path.exists(file) else None
            if spec is None or spec.loader is None:
                continue
            try:
                with _short_spin():
                    module = importlib.util.module_from_spec(spec)
                    spec.loader.exec_module(module)
            except ImportError:  # no OpenMP library on this machine: Numba will choose another layer
                return None
            return sys.modules.setdefault(_OMP, module)
    return None


@contextmanager
def _short_spin() -> Iterator[None]:
    """Let GNU OpenMP, which reads its settings when it is loaded, give up its core soon after a parallel region.

    By default its threads spin for milliseconds: on a machine that is busy with other things, that makes a parallel
    program several times slower than a serial one. What the user has set is left alone.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPIN)
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _through_numba() -> Pool:
    try:
        from numba.np.ufunc import parallel

        parallel._launch_threads()
    except (ImportError, ValueError) as e:
        raise CompileError(f"Numba has no thread pool for parallel programs here: {e}; use threads=1") from None
    layer = parallel.threading_layer()
    return _described(layer, sys.modules[_MODULES[layer]], parallel.get_thread_count())


def _described(layer: str, module: Any, size: int) -> Pool:
    return Pool(layer, size, module.parallel_for, module.get_num_threads, module.set_num_threads)


@contextmanager
def taking() -> Iterator[None]:
    """For calls of the Numba engine: a fork waits until the block ends, the block until a fork is over."""
    me = threading.get_ident()
    try:
        _taking.add(me)
        while _away[1]:
            _taking.discard(me)
            time.sleep(1e-3)
            _taking.add(me)
        yield
    finally:
        _taking.discard(me)


def _before_fork() -> None:
    """Variables that another thread's call has taken would be missing in the child for ever: wait until it is done."""
    _lock.acquire()
    _away[1] += 1
    while _away[0] > 0 or _taking - {threading.get_ident()}:
        time.sleep(1e-3)


def _after_fork_in_parent() -> None:
    _away[1] -= 1
    _lock.release()


def _after_fork_in_child() -> None:
    """OpenMP's threads do not survive a fork, and its regions would end or hang the child."""
    _after_fork_in_parent()
    _away[0], _main.value = 0, threading.get_ident()
    _taking.clear()
    if _process.pool is None and not any(name in sys.modules for name in _MODULES.values()):
        return
    _process.dead = True
    _forked.value = 1
    for word in (_shared, *_counts):
        word.value = 1


def _warn() -> None:
    _forked.value = 0
    warnings.warn(
        "a parallel program runs on one thread in this process: it was forked from one that had started its threads. "
        "Use the 'spawn' or 'forkserver' start method, or threads=1.",
        PerformanceWarning,
        stacklevel=2,
    )


_shared = Count(0)  # until it is first asked for
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
