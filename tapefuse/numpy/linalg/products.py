"""Products of vectors, matrices and stacks of them, all through one primitive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import size as _size
from tapefuse.numpy.complex import conjugated
from tapefuse.numpy.elementwise import multiply, subtract
from tapefuse.numpy.shape import (
    _at_axis,
    _axis,
    _refuse,
    broadcast_arrays,
    broadcast_to,
    moveaxis,
    reshape,
    transpose,
)
from tapefuse.tracer import shortcuts
from tapefuse.tracer.promote import cast, common, operands
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor

# -- products -------------------------------------------------------------------------------------------------------


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product of matrices, or stacks of them, of one dtype; of bools whether any term is true."""
    if a.dtype.kind != "b":
        return ops.matmul(a, b)
    counts = ops.matmul(*[cast(x, np.dtype(np.int32)) for x in (a, b)])
    return ops.ne(counts, 0)


def matmul(x: Any, y: Any) -> Tensor:
    """`x @ y`: vectors are rows on the left and columns on the right, leading axes broadcast. Raises ShapeError."""
    if (quick := shortcuts.product(x, y)) is not None:
        return quick
    a, b = operands(np.matmul, x, y)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul({a.type}, {b.type}) at {user_loc()}: scalars have no matrix product; use *")
    left = reshape(a, (1, *a.shape)) if a.ndim == 1 else a
    right = reshape(b, (*b.shape, 1)) if b.ndim == 1 else b
    y = product(left, right)
    if a.ndim == 1 or b.ndim == 1:
        kept = (*y.shape[:-2], *([y.shape[-2]] if a.ndim > 1 else []), *([y.shape[-1]] if b.ndim > 1 else []))
        y = reshape(y, kept)
    return y


def dot(x: Any, y: Any, out: Any = None) -> Tensor:
    """NumPy's `dot`: the sum over the last axis of `x` and the last but one (or only) axis of `y`."""
    _refuse(out)
    a, b = as_tensor(x), as_tensor(y)
    if a.ndim == 0 or b.ndim == 0:
        return multiply(a, b)
    return tensordot(a, b, ([-1], [-1 if b.ndim == 1 else -2]))


def inner(x: Any, y: Any) -> Tensor:
    """The sum over the last axes of both."""
    a, b = as_tensor(x), as_tensor(y)
    if a.ndim == 0 or b.ndim == 0:
        return multiply(a, b)
    return tensordot(a, b, ([-1], [-1]))


def tensordot(x: Any, y: Any, axes: Any = 2) -> Tensor:
    """The sum over pairs of axes: the last `axes` of x with the first of y, or the two lists of axes given."""
    a, b = operands(np.matmul, x, y)
    if isinstance(axes, (int, np.integer)):
        axes = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    pairs = [[v] if isinstance(v, (int, np.integer)) else list(v) for v in axes]
    over_a, over_b = ([_axis(t.ndim, k) for k in ks] for t, ks in zip((a, b), pairs, strict=True))
    summed = tuple([a.shape[k] for k in over_a])
    if summed != tuple([b.shape[k] for k in over_b]):
        raise ShapeError(f"{called()}: {a.type} and {b.type} over axes {over_a} and {over_b}: the extents differ")
    free_a, free_b = ([k for k in range(t.ndim) if k not in over] for t, over in ((a, over_a), (b, over_b)))
    rows, columns = tuple([a.shape[k] for k in free_a]), tuple([b.shape[k] for k in free_b])
    left = reshape(transpose(a, free_a + over_a), (_size(rows), _size(summed)))
    right = reshape(transpose(b, over_b + free_b), (_size(summed), _size(columns)))
    return reshape(product(left, right), (*rows, *columns))


def outer(x: Any, y: Any, out: Any = None) -> Tensor:
    """All products of an element of `x` and one of `y`, flattened: a matrix."""
    _refuse(out)
    a, b = common(x, y)
    return multiply(reshape(a, (a.size, 1)), reshape(b, (1, b.size)))


def vdot(x: Any, y: Any) -> Tensor:
    """The sum of products of all elements, of complex numbers those of conjugates of `x` with `y`."""
    a, b = common(x, y)
    if a.size != b.size:
        raise ShapeError(f"{called()}: {a.type} and {b.type} have {a.size} and {b.size} elements; as many are needed")
    return matmul(conjugated(reshape(a, (a.size,))), reshape(b, (b.size,)))


def vecdot(x: Any, y: Any, axis: int = -1) -> Tensor:
    """Sums of products of (conjugate) x with y along an axis; the others broadcast."""
    a, b = operands(np.vecdot, x, y)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"{called()}: {a.type} and {b.type}: both must have an axis to sum over")
    a, b = (moveaxis(t, axis, -1) if axis != -1 else t for t in (a, b))
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"{called()}: {a.type} and {b.type}: the extents along axis {axis} differ")
    terms = multiply(conjugated(a), b)
    op = ops.reduce_any if terms.dtype.kind == "b" else ops.reduce_sum
    return op(terms, axes=(terms.ndim - 1,))


def matvec(x: Any, y: Any) -> Tensor:
    """Products of matrices and vectors: [..., m, n] and [..., n] give [..., m]."""
    a, b = operands(np.matvec, x, y)
    _check_ranks(a, 2, b, 1)
    return _at_axis(matmul(a, reshape(b, (*b.shape, 1))), -1 % max(a.ndim, b.ndim + 1), 0)


def vecmat(x: Any, y: Any) -> Tensor:
    """Products of (conjugate) vectors and matrices: [..., m] and [..., m, n] give [..., n]."""
    a, b = operands(np.vecmat, x, y)
    a = conjugated(a)
    _check_ranks(a, 1, b, 2)
    return _at_axis(matmul(reshape(a, (*a.shape[:-1], 1, a.shape[-1])), b), -2 % max(a.ndim + 1, b.ndim), 0)


def _check_ranks(a: Tensor, least_a: int, b: Tensor, least_b: int) -> None:
    if a.ndim < least_a or b.ndim < least_b:
        raise ShapeError(f"{called()}: {a.type} and {b.type} need at least {least_a} and {least_b} axes")


def kron(x: Any, y: Any) -> Tensor:
    """Every element of `x` times all of `y`, as blocks."""
    a, b = common(x, y)
    rank = max(a.ndim, b.ndim)
    shapes = [(*(1,) * (rank - t.ndim), *t.shape) for t in (a, b)]
    left = reshape(a, [d for n in shapes[0] for d in (n, 1)])
    right = reshape(b, [d for n in shapes[1] for d in (1, n)])
    return reshape(multiply(left, right), [m * n for m, n in zip(*shapes, strict=True)])


def cross(x: Any, y: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Tensor:
    """The cross product of vectors of 3 elements (of 2: with a third that is 0) along an axis."""
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = common(x, y)
    a, b = moveaxis(a, axisa, -1), moveaxis(b, axisb, -1)
    if a.shape[-1] not in (2, 3) or b.shape[-1] not in (2, 3):
        raise ShapeError(f"{called()}: {a.type} and {b.type}: the axis of a cross product has 2 or 3 elements")
    (ax, ay, az), (bx, by, bz) = (_components(t) for t in (a, b))
    z = subtract(multiply(ax, by), multiply(ay, bx))
    if a.shape[-1] == b.shape[-1] == 2:
        return z
    parts = broadcast_arrays(
        subtract(multiply(ay, bz), multiply(az, by)), subtract(multiply(az, bx), multiply(ax, bz)), z
    )
    y = ops.concat(*[reshape(p, (*p.shape, 1)) for p in parts], axis=parts[0].ndim)
    return moveaxis(y, -1, axisc) if axisc != -1 else y


def _components(x: Tensor) -> list[Tensor]:
    found = [_at_axis(x, x.ndim - 1, k) for k in range(int(x.shape[-1]))]
    return found if len(found) == 3 else [*found, broadcast_to(as_tensor(np.zeros((), x.dtype)), found[0].shape)]


# -- several matrices -----------------------------------------------------------------------------------------------


def multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Tensor:
    """The product of several matrices in the order of the fewest multiplications; the first and last may be vectors."""
    _refuse(out)
    xs = common(*arrays)
    if len(xs) < 2:
        raise ValueError(f"{called()}: expecting at least two arrays")
    if any(x.ndim != 2 for x in xs[1:-1]) or any(x.ndim not in (1, 2) for x in (xs[0], xs[-1])):
        raise ShapeError(f"{called()}: {', '.join(str(x.type) for x in xs)} must be matrices; first and last may be "
                         "vectors")  # fmt: skip
    first, last = xs[0], xs[-1]
    xs[0] = reshape(first, (1, first.size)) if first.ndim == 1 else first
    xs[-1] = reshape(last, (last.size, 1)) if last.ndim == 1 else last
    y = _chain(xs, _cuts([x.shape[0] for x in xs] + [xs[-1].shape[1]]), 0, len(xs) - 1)
    kept = [n for n, x in zip(y.shape, (first, last), strict=True) if x.ndim == 2]
    return reshape(y, kept)


def _cuts(extents: Sequence[Any]) -> dict[tuple[int, int], int]:
    """Where to cut each run of a chain of matrices in two, for the fewest multiplications (matrix chain order)."""
    sizes = [n if isinstance(n, int) else 64 for n in extents]
    n = len(sizes) - 1
    cost: dict[tuple[int, int], int] = {(k, k): 0 for k in range(n)}
    cut: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            options = {k: cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j)}
            cut[i, j] = min(options, key=options.__getitem__)
            cost[i, j] = options[cut[i, j]]
    return cut


def _chain(xs: Sequence[Tensor], cut: dict[tuple[int, int], int], i: int, j: int) -> Tensor:
    if i == j:
        return xs[i]
    k = cut[i, j]
    return matmul(_chain(xs, cut, i, k), _chain(xs, cut, k + 1, j))


__all__ = [
    "cross",
    "dot",
    "inner",
    "kron",
    "matmul",
    "matvec",
    "multi_dot",
    "outer",
    "tensordot",
    "vdot",
    "vecdot",
    "vecmat",
]
