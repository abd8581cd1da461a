"""The cost model: every figure by which the code generator decides, with where it was measured.

Measured on a 2-core AVX-512 machine (EPYC of the 7003-9004 line, 32 KB / 1 MB / 32 MB caches, 25 GB/s from memory).
`python -m benchmarks.kernels` measures the figures again.
"""

from __future__ import annotations

import os

import numpy as np

from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, substitute, symbols

# -- instructions: what one element of a vector loop takes, relative to an addition ---------------------------------
# exp f32 takes 0.37 ns an element at 512 bits, an addition of data in the first cache about 1/64 ns; f64 twice as much
WEIGHTS = {
    **dict.fromkeys(("exp", "exp2", "log", "log2", "expm1", "log1p", "sin", "cos", "tanh", "sigmoid"), 24),
    **dict.fromkeys(("softplus", "erf", "erfc", "tan", "sinh", "cosh", "asin", "acos", "atan", "atan2"), 40),
    **dict.fromkeys(("div", "sqrt", "rsqrt", "floordiv", "mod"), 8),
    "pow": 60,
    **dict.fromkeys(("hypot", "cbrt", "asinh", "acosh", "atanh", "logaddexp", "logaddexp2"), 60),
    **dict.fromkeys(("ndtr", "log_ndtr", "ndtri", "erfinv", "erfcinv", "erfcx", "i0", "i1", "i0e", "i1e"), 100),
    **dict.fromkeys(("lgamma", "gamma", "polygamma"), 160),
    "to_bf16": 8,
    "threefry": 80,  # 1.2 ns
}

# -- time, in 1/64 ns ----------------------------------------------------------------------------------------------
INSTRUCTION = 1  # an instruction for one element of a vector loop
TRANSFER = 4  # an element to or from memory: 4 bytes at about 64 GB/s, the third cache's rate at one thread
MULTIPLY_ADD = 1  # a term of a product: 64 a ns at one thread, 130 GF/s

RUNNING_SUM = 6  # an element of a running sum: 0.05 ns in f32, four or five shuffles and additions for a vector

# LAPACK by way of NumPy: 100 matrices of 3 x 3 inverted in 60 us, one of 100 x 100 in 0.25 ms, one of 500 x 500 in 9 ms
NUMPY_CALL = 500 * 64  # one repetition of an inner loop
CALLED_TERM = 4  # a multiply-add of it, 16 a ns

# -- cutting kernels into pieces -----------------------------------------------------------------------------------
GRAIN = 16_000 * 64  # cost of the smallest piece worth a thread, 16 us: a launch takes 2 us
SPAN = 4096  # bytes of a row that a piece of its columns should have: shorter ones do not stream from memory
CHUNKS = 16  # most pieces; fixed, so that results do not depend on the number of threads
CORES = os.cpu_count() or 1  # what is cut into fewer pieces, so as to be faster on some threads, is slower on all

# -- size of kernels -----------------------------------------------------------------------------------------------
LIMIT = 600  # instructions of one kernel, roughly: LLVM's time grows faster than linearly past this
CALL = 12  # instructions of an elementary function, at most: many are called, not copied

# -- regions -------------------------------------------------------------------------------------------------------
CALLED = 4_000 * 64  # cost from which a kernel inside a region is called, not copied: a call takes 10 ns at most
COPIED = 200  # statements up to which one is copied
POLL = 100_000 * 64  # between two looks at whether to stop, at most
LONG = 10_000_000 * 64  # what a loop is taken for that has no known end: such calls can be interrupted
COPY = 13  # a byte of a state to memory of the program's own and back: 10 GB/s each way, past all caches
EXTENT = 64  # what an extent is taken for where a region's cost decides something that cannot be changed at run time

# -- computing again or keeping ------------------------------------------------------------------------------------
INLINE_CHAIN = 4  # operations that are recomputed at each reader rather than kept in memory
MOVED_CHAIN = 16  # the same if the reader reads at other indices, so that keeping would take one more kernel
KEEP_WEIGHT = 6  # values at least this expensive are kept for the next phase of a row instead of being computed again

# -- blocks of rows ------------------------------------------------------------------------------------------------
BLOCK = 32  # most rows that go through their phases together
BLOCK_BYTES = 65_536  # of such rows in one array: they are read again in the next phase, from the second cache at most
ONCE = 24  # time of what is computed once a row, from which a loop with vectors over a block's rows pays
SCALAR = 128  # and the share of a row's time that it must be: without vectors it takes 16 times as long
CACHED = 8 << 20  # bytes that stay in the third cache; more come from memory in each call
NEAR, FAR = 1024, 8192  # bytes of rows between which a few at a time come from memory at half the rate of one by one
SHORT = 256  # columns of a row whose reductions' last steps, across the lanes, take a good part of the time
TOGETHER = 4  # rows that share the loops over their columns, with what all of them read and sums over the rows
LIGHT = 16  # instructions of such a loop's body for one row, at most: the rows' bodies are printed one after the other

# -- products ------------------------------------------------------------------------------------------------------
# Our contraction beside OpenBLAS, one thread, GF/s: 64x64x64 78 to 45, 32x256x784 113 to 78, 784x256x32 with a
# transposed left operand 111 to 85, 1024x256x784 111 to 96; 1024x512x2048 (4 MB on the right) 62 to 87
SECOND_CACHE = 1_048_576  # bytes of a right operand up to which our contraction is ahead of BLAS
SMALL_PRODUCT = 1 << 21  # terms up to which it is on machines with vectors of 16 bytes
TYPICAL = 512  # what an extent known at run time only is taken for
HOT_BYTES = 16_384  # of a block's results that the first cache holds until they are read
DEEP = 256  # terms of an element from which reading its block from the second cache does not matter (BLOCK_BYTES)
LEAST_ROWS = 16  # of a piece of a product
# BLAS, 1024x512x2048, GF/s at one thread by the number of pieces: rows 1: 99, 2: 97, 4: 93, 8: 87; columns 2: 93, 4: 87
PIECE = 1 << 30  # most multiply-adds of a piece of a BLAS call, as long as there are fewer than CHUNKS
WIDE = 4  # how many times as many columns as rows there are when columns are cut
WIDE_ROW = 128  # columns from which a product of unknown height is cut by columns


def typical(cost: Dim) -> int:
    """A cost with its open extents taken for middling ones."""
    return int(substitute(cost, dict.fromkeys(symbols([cost]), EXTENT)))


def weight(node: Value) -> int:
    """Instructions of one element."""
    assert node.op is not None
    if node.dtype.kind == "f" or node.op.name in ("floordiv", "mod", "pow", "to_bf16"):
        return WEIGHTS.get(node.op.name, 1)
    return 1


def time(node: Value) -> int:
    """Time of computing one element in a vector loop."""
    return INSTRUCTION * weight(node) * max(np.dtype(node.dtype).itemsize // 4, 1)
