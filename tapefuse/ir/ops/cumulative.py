"""Running sums."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import numpy as np

from tapefuse.ir.op import defop
from tapefuse.ir.ops.family import INT64, check_axes, draw, quiet, same_dtype
from tapefuse.ir.ops.logic import ARITHMETIC
from tapefuse.ir.types import Type


@defop
class cumsum:
    """Sums of the elements up to each one along an axis; `reverse`: of those from each one on."""

    @quiet
    def ref(x, *, axis, reverse):
        x = np.asarray(x)
        check_axes((axis,), x.ndim)
        if not reverse:
            return np.cumsum(x, axis=axis, dtype=x.dtype)
        return np.ascontiguousarray(np.flip(np.cumsum(np.flip(x, axis), axis=axis, dtype=x.dtype), axis))

    def type(x, *, axis, reverse):
        check_axes((axis,), len(x.shape))
        return Type(same_dtype([x], ARITHMETIC), x.shape)

    def vjp(g, y, x, *, axis, reverse):
        return [cumsum(g, axis=axis, reverse=not reverse)]

    def jvp(ts, y, x, *, axis, reverse):
        return cumsum(ts[0], axis=axis, reverse=reverse)

    def batch(flags, x, *, axis, reverse):
        return cumsum(x, axis=axis + 1, reverse=reverse)

    def at(b, i, x, *, axis, reverse):
        def term(ks):
            added = b.op("ge" if reverse else "le", ks[0], i[axis])
            return b.op("select", added, x((*i[:axis], ks[0], *i[axis + 1 :])), b.number(0, x.dtype))

        return b.reduce("add", x.dtype, (x.shape[axis],), term)

    def sample(rng, dtype):
        cases = ((7, 3), 0), ((3, 7), 1), ((40,), 0), ((2, 5, 3), 1), ((2, 0), 1), ((0, 2), 1), ((1, 4), 0)
        return [((draw(rng, dtype, s),), {"axis": a, "reverse": k % 2 == 1}) for k, (s, a) in enumerate(cases)] + [
            ((draw(rng, INT64, (5,)),), {"axis": 0, "reverse": False})
        ]

    library = "scan"
    dtypes = ARITHMETIC
