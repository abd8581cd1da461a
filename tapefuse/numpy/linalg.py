"""Products of vectors, matrices and stacks of them, all through one primitive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Shape
from tapefuse.ir.types import size as _size
from tapefuse.numpy.elementwise import multiply
from tapefuse.numpy.reduce import sum as _sum
from tapefuse.numpy.shape import _axis, reshape, transpose
from tapefuse.tracer.promote import cast, operands
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor


def matmul(x: Any, y: Any) -> Tensor:
    """`x @ y`: vectors are rows on the left and columns on the right, leading axes broadcast. Raises ShapeError."""
    a, b = operands(np.matmul, x, y)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul({a.type}, {b.type}) at {user_loc()}: scalars have no matrix product; use *")
    left = reshape(a, (1, *a.shape)) if a.ndim == 1 else a
    right = reshape(b, (*b.shape, 1)) if b.ndim == 1 else b
    y = _product(left, right)
    if a.ndim == 1 or b.ndim == 1:
        kept = (*y.shape[:-2], *([y.shape[-2]] if a.ndim > 1 else []), *([y.shape[-1]] if b.ndim > 1 else []))
        y = reshape(y, kept)
    return y


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype.kind != "b":
        return ops.matmul(a, b)
    counts = ops.matmul(*[cast(x, np.dtype(np.int32)) for x in (a, b)])
    return ops.ne(counts, 0)


def dot(x: Any, y: Any) -> Tensor:
    """NumPy's `dot`: the sum over the last axis of `x` and the last but one (or only) axis of `y`."""
    a, b = as_tensor(x), as_tensor(y)
    if a.ndim == 0 or b.ndim == 0:
        return multiply(a, b)
    return tensordot(a, b, ([-1], [-1 if b.ndim == 1 else -2]))


def tensordot(x: Any, y: Any, axes: Any = 2) -> Tensor:
    """The sum over pairs of axes: the last `axes` of x with the first of y, or the two lists of axes given."""
    a, b = operands(np.matmul, x, y)
    if isinstance(axes, (int, np.integer)):
        axes = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    pairs = [[v] if isinstance(v, (int, np.integer)) else list(v) for v in axes]
    over_a, over_b = ([_axis(t.ndim, k) for k in ks] for t, ks in zip((a, b), pairs, strict=True))
    summed = tuple([a.shape[k] for k in over_a])
    if summed != tuple([b.shape[k] for k in over_b]):
        raise ShapeError(
            f"tensordot({a.type}, {b.type}) over {over_a} and {over_b} at {user_loc()}: the extents differ"
        )
    free_a, free_b = ([k for k in range(t.ndim) if k not in over] for t, over in ((a, over_a), (b, over_b)))
    rows, columns = tuple([a.shape[k] for k in free_a]), tuple([b.shape[k] for k in free_b])
    left = reshape(transpose(a, free_a + over_a), (_size(rows), _size(summed)))
    right = reshape(transpose(b, over_b + free_b), (_size(summed), _size(columns)))
    return reshape(_product(left, right), (*rows, *columns))


def outer(x: Any, y: Any) -> Tensor:
    """All products of an element of `x` and one of `y`, flattened: a matrix."""
    a, b = as_tensor(x), as_tensor(y)
    return multiply(reshape(a, (a.size, 1)), reshape(b, (1, b.size)))


def einsum(subscripts: str, *xs: Any) -> Tensor:
    """Sums of products named by indices, `einsum("bij,bjk->bik", x, y)`. Each index occurs at most once in
    an operand."""
    terms, result = _parsed(subscripts, len(xs))
    tensors = operands(np.matmul, *xs) if len(xs) == 2 else [as_tensor(x) for x in xs]
    for term, x in zip(terms, tensors, strict=True):
        if len(term) != x.ndim or len(set(term)) != len(term):
            raise ShapeError(
                f"einsum({subscripts!r}) at {user_loc()}: {term!r} does not name each axis of {x.type} once"
            )
    term, y = terms[0], tensors[0]
    for k in range(1, len(terms)):
        later = set(result).union(*terms[k + 1 :])
        term, y = _contracted(subscripts, term, y, terms[k], tensors[k], later)
    y = _sum(y, [k for k, c in enumerate(term) if c not in result]) if set(term) - set(result) else y
    term = "".join(c for c in term if c in result)
    return transpose(y, [term.index(c) for c in result])


def _parsed(subscripts: str, n: int) -> tuple[list[str], str]:
    text = subscripts.replace(" ", "")
    inputs, arrow, result = text.partition("->")
    terms = inputs.split(",")
    if not arrow:
        result = "".join(sorted(c for c in set(inputs) - {","} if inputs.count(c) == 1))
    known = set("".join(terms))
    if len(terms) != n or not all(t.isalpha() or not t for t in (*terms, result)) or not set(result) <= known:
        raise ValueError(
            f"einsum({subscripts!r}) at {user_loc()}: expected e.g. 'ij,jk->ik' with a term for each of {n} operands"
        )
    return terms, result


def _contracted(subscripts: str, s: str, x: Tensor, t: str, y: Tensor, later: set[str]) -> tuple[str, Tensor]:
    """The product of two operands, summed over the indices that are not needed later, as one batched matrix product."""
    x, s = _summed(x, s, set(t) | later)
    y, t = _summed(y, t, set(s) | later)
    extents = dict(zip(s, x.shape, strict=True))
    if any(extents.get(c, n) != n for c, n in zip(t, y.shape, strict=True)):
        raise ShapeError(f"einsum({subscripts!r}) at {user_loc()}: an index has two extents in {x.type} and {y.type}")
    extents.update(zip(t, y.shape, strict=True))
    batch = [c for c in s if c in t and c in later]
    over = [c for c in s if c in t and c not in later]
    rows, columns = [c for c in s if c not in t], [c for c in t if c not in s]

    def shape(cs: Sequence[str]) -> Shape:
        return tuple([extents[c] for c in cs])

    left = transpose(x, [s.index(c) for c in (*batch, *rows, *over)])
    right = transpose(y, [t.index(c) for c in (*batch, *over, *columns)])
    left = reshape(left, (*shape(batch), _size(shape(rows)), _size(shape(over))))
    right = reshape(right, (*shape(batch), _size(shape(over)), _size(shape(columns))))
    return "".join([*batch, *rows, *columns]), reshape(matmul(left, right), shape([*batch, *rows, *columns]))


def _summed(x: Tensor, term: str, needed: set[str]) -> tuple[Tensor, str]:
    axes = [k for k, c in enumerate(term) if c not in needed]
    return (_sum(x, axes), "".join(c for c in term if c in needed)) if axes else (x, term)


def norm(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Square root of the sum of squares over axes."""
    return ops.sqrt(_sum(multiply(x, x), axis, keepdims=keepdims))


def vdot(x: Any, y: Any) -> Tensor:
    """The sum of products of all elements."""
    a, b = as_tensor(x), as_tensor(y)
    return matmul(reshape(a, (a.size,)), reshape(b, (b.size,)))


__all__ = [
    "dot",
    "einsum",
    "matmul",
    "norm",
    "outer",
    "tensordot",
    "vdot",
]
