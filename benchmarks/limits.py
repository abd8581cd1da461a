"""What this machine can do at best: the STREAM triad a = b + 3 c in float64, and products of matrices in NumPy's BLAS.

python -m benchmarks.limits    # prints JSON: what -> GB/s or GFLOP/s
"""

from __future__ import annotations

import json
import subprocess
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import FOLDER, OURS, environment

LENGTH, EXTENT, REPETITIONS = 10_000_000, 2048, 10


def measure_limits() -> dict[str, float]:
    """In a process of its own. The triad's bytes are those of three arrays, as STREAM counts."""
    command = [OURS.python, "-m", "benchmarks.limits"]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    b, c = np.ones(LENGTH), np.ones(LENGTH)
    a = np.zeros(LENGTH)
    found = {}
    for threads in (1, 2):
        triad = triad_on(threads)
        found[f"triad, {threads} threads, GB/s" if threads > 1 else "triad, 1 thread, GB/s"] = (
            3 * a.nbytes / best(lambda triad=triad: triad(a, b, c)) / 1e9
        )
    for dtype in ("float32", "float64"):
        x = np.ones((EXTENT, EXTENT), dtype)
        found[f"{dtype} product, GFLOP/s"] = 2 * EXTENT**3 / best(lambda x=x: np.matmul(x, x)) / 1e9
    print(json.dumps({name: round(value, 1) for name, value in found.items()}))


def best(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of some calls, after one."""
    call()
    return min(timeit.repeat(call, number=1, repeat=REPETITIONS))


def triad_on(threads: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    """A kernel of ours on so many threads: Numba compiles it."""
    import numba

    @numba.njit(parallel=threads > 1)
    def triad(a, b, c):
        for k in numba.prange(a.size):
            a[k] = b[k] + 3.0 * c[k]

    if threads > 1:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return triad


if __name__ == "__main__":
    main()
