"""How compiled decompositions say that they have failed: the first element of the result is a nan of its own.

NumPy's own functions raise LinAlgError; a kernel writes the mark, and what a program tests before it changes anything
(ir/passes/checks.py) looks for it.
"""

from __future__ import annotations

import numpy as np

from tapefuse.ir.ops.family import BOOL, elementwise, unary_sample

MARKS = {np.dtype(np.float64): 0x7FF854415045FA11, np.dtype(np.float32): 0x7FC5FA11}  # bits of quiet nans


def _is_marked(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    return np.asarray(x.view(f"i{x.itemsize}") == MARKS[x.dtype])


failed = elementwise(
    "failed",
    _is_marked,
    (None,),
    unary_sample(),
    doc="Whether an element is the mark of a decomposition that has failed.",
    result=BOOL,
    at=lambda b, dtype, x: b.op("eq", b.op("bits", x), b.number(MARKS[dtype], f"i{dtype.itemsize}")),
)
