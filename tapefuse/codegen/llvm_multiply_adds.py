"""Products with a number that several sums read, computed in each of them: a multiply-add takes no longer than a sum.

    t = mul 2.0 c                         v = a - 2.0 c
    v = sub a t                           w = b - 2.0 c
    w = sub b t                ->
"""

from __future__ import annotations

from tapefuse.codegen.llvm_loop_shapes import Slopes
from tapefuse.codegen.loops import For, Let, Num, Scalar, Var
from tapefuse.codegen.loops_walk import readers

Product = tuple[Num, Scalar]  # factors


def repeated(s: For, slopes: Slopes) -> dict[Scalar, Product]:
    """The products of a loop that sums are to compute. Processors have as many units for sums as for products and
    multiply-adds: where products have more to do than sums already, what several sums read is computed once."""
    lets = [t for t in s.body if isinstance(t, Let) and t.dst in slopes and t.dst.dtype.kind == "f"]
    sums = {t.dst: t for t in lets if t.op in ("add", "sub")}
    products = {t.dst: t for t in lets if t.op == "mul"}
    read_by = readers(s.body)
    once = {x for x in products if len(read_by[x]) == 1}
    free = {x for x, t in sums.items() if once.isdisjoint(t.args)}  # the others are multiply-adds
    to_multiply, to_add = len(products), len(free)
    found: dict[Scalar, Product] = {}
    for x, t in products.items():
        factors, count = _factors(t), len(read_by[x])
        is_read = count > 1 and all(y in free and not _others(sums[y], x) & products.keys() for y in read_by[x])
        if factors is not None and is_read and max(to_multiply + count - 1, to_add - count) <= max(to_multiply, to_add):
            found[x] = factors
            to_multiply, to_add = to_multiply + count - 1, to_add - count
    return found


def _factors(t: Let) -> Product | None:
    x, y = t.args
    if isinstance(y, Num):
        x, y = y, x
    return (x, y) if isinstance(x, Num) and isinstance(y, Var) else None


def _others(t: Let, x: Scalar) -> set[Scalar]:
    """What a sum adds to x; x itself if it does so twice."""
    return {t.args[t.args[0] == x]}
