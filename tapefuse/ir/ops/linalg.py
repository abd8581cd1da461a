"""Matrix products."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import defop
from tapefuse.ir.ops.elementwise import add
from tapefuse.ir.ops.family import align, conjugate, draw, quiet, same_dtype, same_inner_rank, shape_of, unbroadcast
from tapefuse.ir.ops.shape import reshape, transpose
from tapefuse.ir.types import Type, broadcast_shapes, size


def _transposed(x: Any) -> Any:
    """The last two axes exchanged; of complex numbers the conjugates."""
    n = len(shape_of(x))
    return transpose(conjugate(x), perm=(*range(n - 2), n - 1, n - 2))


def _rows(x: Any) -> Any:
    """All leading axes as one: a matrix of the rows of `x`."""
    *lead, last = shape_of(x)
    return reshape(x, shape=(size(lead), last))


def _to_left(g: Any, y: Any, a: Any, b: Any) -> Any:
    """The cotangent of the left operand of a product."""
    return unbroadcast(matmul(g, _transposed(b)), a)


def _to_right(g: Any, y: Any, a: Any, b: Any) -> Any:
    if len(shape_of(b)) == 2 < len(shape_of(a)):  # one product, not a stack of them and their sum
        return matmul(_transposed(_rows(a)), _rows(g))
    return unbroadcast(matmul(_transposed(a), g), b)


@defop
class matmul:
    """y[..., m, n] = sum over k of a[..., m, k] b[..., k, n]; leading axes broadcast, ranks are at least 2."""

    @quiet
    def ref(a, b):
        return np.matmul(a, b)

    def type(a, b):
        dtype = same_dtype([a, b], "fciu")
        if min(len(a.shape), len(b.shape)) < 2:
            raise ShapeError(f"operands need at least 2 axes; reshape a vector to a row or a column: {a} @ {b}")
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(
                f"inner extents {a.shape[-1]} and {b.shape[-2]} differ; the last axis of the first operand must be as "
                "long as the last but one of the second: transpose or reshape one of them"
            )
        return Type(dtype, (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))

    partials = _to_left, _to_right

    def vjp(g, y, a, b):
        return [_to_left(g, y, a, b), _to_right(g, y, a, b)]

    def jvp(ts, y, a, b):
        terms = [matmul(ts[0], b)] if ts[0] is not None else []
        terms += [matmul(a, ts[1])] if ts[1] is not None else []
        return terms[0] if len(terms) == 1 else add(*terms)

    def batch(flags, a, b):
        return matmul(*same_inner_rank(flags, (a, b)))

    def at(b, i, x, y):
        *lead, m, n = i
        result = broadcast_shapes(x.shape[:-2], y.shape[:-2])
        xs, ys = (align(b, tuple(lead), v.shape[:-2], result) for v in (x, y))
        return b.reduce("add", x.dtype, (x.shape[-1],), lambda k: b.op("mul", x((*xs, m, *k)), y((*ys, *k, n))))

    def sample(rng, dtype):
        cases = [((7, 4), (4, 2)), ((2, 3, 7), (7, 2)), ((3, 4), (2, 4, 7)), ((2, 0), (0, 3))]
        cases += [((2, 1, 3, 2), (7, 2, 3)), ((1, 2, 3), (7, 3, 1))]
        return [((draw(rng, dtype, s), draw(rng, dtype, t)), {}) for s, t in cases]

    library = "matmul"
    dtypes = "fciu"
