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


def product_of_rows(root: Value) -> Value | None:
    """Each of many rows times a matrix is one product: the rows of one matrix. Inner axes of many rows stay apart,
    since what follows a product fuses with it only in the product's own shape."""
    a, b = root.args
    if len(a.shape) < 3 or a.shape[-2] != 1 or len(b.shape) != 2:
        return None
    rows = ops.reshape(a, shape=(size(a.shape[:-2]), a.shape[-1]))
    return ops.reshape(ops.matmul(rows, b), shape=root.shape)


# fmt: off
RULES = (
    rule("product_of_rows", Pattern("matmul"), product_of_rows),                               # [x; y] A = [x A; y A]
    rule("product_of_columns", Pattern("matmul"), product_of_columns),                         # A [x, y] = [A x, A y]
)
# fmt: on
