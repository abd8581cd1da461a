"""What this machine can do at most, measured: memory bandwidth by the size of the data, and arithmetic throughput."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tapefuse._config import Options
from tapefuse._records import dataclass
from tapefuse.compilation import compile_traced
from tapefuse.ir import ops
from tapefuse.ir.types import Poly, Type
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.trace import trace_function

F32 = np.dtype(np.float32)
SIZES = tuple(48 * 1024 * 8**k for k in range(5))  # bytes of three arrays: from the first cache to memory, 200 MB
PRODUCT = 768  # rows of the square matrices whose product tells arithmetic throughput
SECONDS = 0.02  # for each size


@dataclass(frozen=True, slots=True)
class Limits:
    """`bandwidth[k]`: bytes a second that a + 3 b moves when its three arrays have `sizes[k]` bytes in all (STREAM's
    triad; what a cache line's store reads first is not counted). `operations`: f32 additions and multiplications a
    second of a matrix product."""

    sizes: tuple[int, ...]
    bandwidth: tuple[float, ...]
    operations: float

    def seconds(self, nbytes: int, operations: int, itemsize: int = 4) -> float:
        """The least time for so much data and arithmetic on numbers of `itemsize` bytes."""
        size = min(bisect_left(self.sizes, nbytes), len(self.sizes) - 1)
        return max(nbytes / self.bandwidth[size], operations * (itemsize / 4) / self.operations)


@cache
def limits(threads: int | None = None) -> Limits:
    """Measured once in a process, in about half a second; the compiled kernels are kept on disk like all others."""
    options = Options(engine="llvm", threads=threads)
    n, m = Poly.symbol("n"), Poly.symbol("m")
    triad = _compiled(lambda a, b: ops.add(a, ops.mul(b, 3.0)), [Type(F32, (n,))] * 2, "triad", options)
    product = _compiled(ops.matmul, [Type(F32, (m, m))] * 2, "product", options)
    rates = []
    for size in SIZES:
        a = np.ones(size // 12, F32)
        rates.append(size / _least(triad, (a, a.copy())))
    a = np.ones((PRODUCT, PRODUCT), F32)
    return Limits(SIZES, tuple(rates), 2 * PRODUCT**3 / _least(product, (a, a)))


def _compiled(f: Callable[..., Any], types: list[Type], name: str, options: Options) -> Callable[..., Any]:
    def results(inputs: list[Any]) -> list[Tensor]:
        return [f(*inputs)]

    return compile_traced(trace_function(results, types, [None] * len(types), name), options).call


def _least(call: Callable[..., Any], arguments: tuple[np.ndarray, ...]) -> float:
    """Seconds of the fastest call."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    call(*arguments)
    while True:
        start = time.perf_counter()
        call(*arguments)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
