"""Rules of `simplify` on matrix products."""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.rewrite import Pattern, rule
from tapefuse.ir.types import size


def product_of_columns(root: Value) -> Value | None:
    """A matrix times each of many columns is one product: the columns as rows, times the transpose."""
    a, b = root.args
    if len(a.shape) != 2 or len(b.shape) < 3 or b.shape[-1] != 1:
        return None
    columns = ops.reshape(b, shape=(size(b.shape[:-2]), b.shape[-2]))
    return ops.reshape(ops.matmul(columns, ops.transpose(a, perm=(1, 0))), shape=root.shape)


# fmt: off
RULES = (
    rule("product_of_columns", Pattern("matmul"), product_of_columns),                         # A [x, y] = [A x, A y]
)
# fmt: on
