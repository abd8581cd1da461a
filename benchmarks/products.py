"""GF/s of compiled products, their epilogues in it, beside NumPy's: `python -m benchmarks.products [threads]`.

Minimum over rounds, in which they take turns. `a.T` and `b.T`: the operand is a transpose. NumPy's BLAS uses as many
threads as OPENBLAS_NUM_THREADS says, which is set here before NumPy is imported.
"""

from __future__ import annotations

import os
import sys
import timeit

THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 1
os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)

import numpy as np  # noqa: E402

import tapefuse as tp  # noqa: E402

ROUNDS = 15
SHAPES = [  # rows, columns, terms
    ("a b", 64, 64, 64),
    ("a b", 32, 256, 784),
    ("a.T b", 784, 256, 32),
    ("a b.T", 32, 256, 128),
    ("a b", 1024, 256, 784),
    ("a.T b", 784, 256, 1024),
    ("a b.T", 1024, 256, 128),
    ("a b", 1024, 1024, 1024),
    ("a b", 2048, 2048, 2048),
]


def seconds(functions, arrays) -> list[float]:
    """The least time of a call of each function."""
    best = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for k, f in enumerate(functions):
            f(*arrays)
            calls = max(1, int(2e-3 / timeit.timeit(lambda f=f: f(*arrays), number=1)))
            best[k] = min(best[k], timeit.timeit(lambda f=f: f(*arrays), number=calls) / calls)
    return best


def main() -> None:
    print(f"{THREADS} threads{'':33}{'product':>10}{'relu(a b + c)':>16}{'NumPy':>10}")
    rng = np.random.default_rng(0)
    for kind, m, n, k in SHAPES:
        left, right = "a.T" in kind, "b.T" in kind
        a, b = rng.random((k, m) if left else (m, k), np.float32), rng.random((n, k) if right else (k, n), np.float32)
        c = rng.random(n, np.float32)

        def product(xp, a, b, left=left, right=right):
            return xp.matmul(xp.transpose(a) if left else a, xp.transpose(b) if right else b)

        compiled = tp.tape_function(lambda a, b, c, product=product: product(tp, a, b), threads=THREADS)
        layer = tp.tape_function(lambda a, b, c, product=product: tp.nn.relu(product(tp, a, b) + c), threads=THREADS)
        functions = [compiled, layer, lambda a, b, c, product=product: product(np, a, b)]
        rates = [2e-9 * m * n * k / t for t in seconds(functions, (a, b, c))]
        print(f"{kind:8}{m:6} x{n:6} x{k:6}{'':12}{rates[0]:12.1f}{rates[1]:16.1f}{rates[2]:10.1f}", flush=True)


if __name__ == "__main__":
    main()
