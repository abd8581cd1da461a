"""What an eager operation costs over NumPy's own: `python -m benchmarks.eager [ROUNDS]`.

Microseconds on arrays of 8 float32, least and median of the rounds: NumPy's operation, what ours takes longer without a
tape, and on one; then, in chains of 50, what the reverse pass takes longer than NumPy's products of cotangents.
Rounds alternate between the two, so that both see the same machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tapefuse as tp

CALLS, LENGTH = 400, 50
A = np.linspace(0.1, 0.9, 8, dtype=np.float32)
B, M = A + 1, np.eye(8, dtype=np.float32)
X, Y, W = map(tp.constant, (A, B, M))

OPERATIONS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "exp(x)": (lambda: np.exp(A), lambda: tp.exp(X)),
    "x * y": (lambda: A * B, lambda: X * Y),
    "x + 1.0": (lambda: A + 1.0, lambda: X + 1.0),
    "x @ w": (lambda: A @ M, lambda: X @ W),
    "sum(x)": (lambda: np.sum(A), lambda: tp.sum(X)),
    "mean(x)": (lambda: np.mean(A), lambda: tp.mean(X)),
    "x[0]": (lambda: A[0], lambda: X[0]),
    "x[1:]": (lambda: A[1:], lambda: X[1:]),
    "reshape(x, (2, 4))": (lambda: np.reshape(A, (2, 4)), lambda: tp.reshape(X, (2, 4))),
    "w.T": (lambda: M.T, lambda: W.T),
}
# name -> the operation, and NumPy's cotangent of its operand
CHAINS: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray]]] = {
    "exp(x)": (tp.exp, lambda g: g * B),
    "x * y": (lambda z: z * Y, lambda g: g * B),
    "x + 1.0": (lambda z: z + 1.0, lambda g: g),
    "x @ w": (lambda z: z @ W, lambda g: g @ M.T),
    "tanh(x)": (tp.tanh, lambda g: g * (1 - B * B)),
    "x * x": (lambda z: z * z, lambda g: g * A + g * A),
}


def microseconds(f: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        f()
    return (time.perf_counter() - start) / calls * 1e6


def operations(rounds: int) -> Iterator[tuple[str, list[float], list[list[float]]]]:
    """Name, NumPy's times, and times without and with a tape."""
    for name, (theirs, ours) in OPERATIONS.items():
        numpy, alone, taped = [], [], []
        for _ in range(rounds):
            numpy.append(microseconds(theirs, CALLS))
            alone.append(microseconds(ours, CALLS))
            with tp.GradientTape() as tape:
                tape.watch([X, Y, W])
                taped.append(microseconds(ours, CALLS))
        yield name, numpy, [alone, taped]


def reverse_passes(rounds: int) -> Iterator[tuple[str, list[float], list[list[float]]]]:
    for name, (operation, pull) in CHAINS.items():
        numpy, ours = [], []
        for _ in range(rounds):
            g = np.ones(8, np.float32)
            numpy.append(microseconds(lambda pull=pull, g=g: pull(g), LENGTH))
            with tp.GradientTape() as tape:
                tape.watch(X)
                z = X
                for _ in range(LENGTH):
                    z = operation(z)
            ours.append(microseconds(lambda tape=tape, z=z: tape.gradient(z, X), 1) / LENGTH)
        yield name, numpy, [ours]


def shown(name: str, numpy: list[float], ours: list[list[float]]) -> str:
    cells = [f"{min(numpy):6.2f} {statistics.median(numpy):6.2f}"]
    for times in ours:
        over = [t - n for t, n in zip(times, numpy, strict=True)]
        cells.append(f"{min(times) - min(numpy):6.2f} {statistics.median(over):6.2f}")
    return f"{name:20}" + "   ".join(cells)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    with tp.config(compile_repeated_tapes=False), np.errstate(all="ignore"):
        print("an operation           NumPy       over it, alone  on a tape     (us: least, median)")
        for row in operations(rounds):
            print(shown(*row))
        print("\nits reverse pass       NumPy       over it")
        for row in reverse_passes(rounds):
            print(shown(*row))


if __name__ == "__main__":
    main()
