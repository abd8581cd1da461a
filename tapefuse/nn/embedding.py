"""Look-up tables."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import DTypeError
from tapefuse.nn.dense import Initializer, initializer
from tapefuse.nn.module import Module
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable


class Embedding(Module):
    """table[ids]: ids are integers `[...]` in `0 <= id < size`, the result `[..., width]`, the table `[size, width]`.

    Tapes give `IndexedRows` as the gradient of the table: `optim.SGD` and `optim.Adam(lazy=True)` change the rows that
    were read and touch no others, other optimizers the whole table. Negative ids count from the end, as in NumPy.
    Raises `DTypeError` for ids that are no integers, and `IndexOutOfRangeError` for ids outside the table.
    """

    attribute_order: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(
        self,
        size: int,
        width: int,
        *,
        table_initializer: str | Initializer = "uniform",
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ):
        super().__init__(name)
        for what, n in (("size", size), ("width", width)):
            if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
                raise ValueError(f"Embedding needs a positive integer {what}, got {n!r}")
        self.size, self.width = int(size), int(width)
        values = initializer(table_initializer)(np.random.default_rng(seed), (self.size, self.width))
        self.table = Variable(np.asarray(values, dtype), name="table")

    def __call__(self, ids: Any) -> Tensor:
        ids = as_tensor(ids)
        if ids.dtype.kind not in "iu":
            raise DTypeError(f"{self.name}: ids must be integers, got {ids.dtype}; cast them first")
        return tp.take(self.table, ids, axis=0)
