"""Nanoseconds an element of compiled loops on one thread: `python -m benchmarks.kernels`.

Minimum over rounds of the median call of a round, less nothing: checking arguments and making the result are in it.
The table of the elementary functions, without calls, follows (benchmarks/functions.py).
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import numpy as np

import tapefuse as tp
from benchmarks import functions


def adam(p: tp.Tensor, g: tp.Tensor, m: tp.Tensor, v: tp.Tensor) -> tuple[tp.Tensor, ...]:
    m, v = m * 0.9 + g * 0.1, v * 0.999 + g * g * 0.001
    return p - m * 1e-3 / (tp.sqrt(v) + 1e-8), m, v


LOOPS: dict[str, tuple[int, Callable]] = {
    "scale: 2 x": (1, lambda x: x * 2.0),
    "sum": (1, tp.sum),
    "exp": (1, tp.exp),
    "log": (1, tp.log),
    "sin": (1, tp.sin),
    "tanh": (1, tp.tanh),
    "sum of tanh(x) sigmoid(x)": (1, lambda x: tp.sum(tp.tanh(x) * tp.sigmoid(x))),
    "Adam, three results": (4, adam),
}


def nanoseconds(f: Callable, arrays: list[np.ndarray], rounds: int = 15) -> float:
    compiled = tp.tape_function(f, threads=1)
    compiled(*arrays)
    calls = max(1, int(2e-3 / timeit.timeit(lambda: compiled(*arrays), number=1)))
    return min(timeit.repeat(lambda: compiled(*arrays), number=calls, repeat=rounds)) / calls / arrays[0].size * 1e9


def main() -> None:
    print(f"{'':30}" + "".join(f"{f'{d}, n = {n:,}':>22}" for d in ("f4", "f8") for n in (1_000, 100_000)))
    rng = np.random.default_rng(0)
    for name, (count, f) in LOOPS.items():
        row = [
            nanoseconds(f, [rng.random(n).astype(d) for _ in range(count)])
            for d in ("f4", "f8")
            for n in (1_000, 100_000)
        ]
        print(f"{name:30}" + "".join(f"{t:22.3f}" for t in row))
    print(functions.table())


if __name__ == "__main__":
    main()
