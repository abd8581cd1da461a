"""Reading and adding at positions given by integer arrays. Negative positions count from the end.

An index out of range raises IndexOutOfRangeError when `ref` runs; compiled programs check before they read.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, IndexOutOfRangeError, ShapeError
from tapefuse.ir.op import Op, defop
from tapefuse.ir.ops.family import (
    INT64,
    align,
    batch_size,
    draw,
    nullary,
    quiet,
    same_dtype,
    same_inner_rank,
    shape_of,
    with_batch,
)
from tapefuse.ir.ops.shape import iota, reshape, transpose
from tapefuse.ir.types import Dim, Poly, Shape, Type, broadcast_shapes, show_dtype, show_shape


def index_shape(shape: Shape, idx: Sequence[Type]) -> Shape:
    """The broadcast shape of index operands into leading axes of `shape`."""
    if not 1 <= len(idx) <= len(shape):
        raise ShapeError(f"{len(idx)} index arrays do not fit the {len(shape)} axes of {show_shape(shape)}")
    if bad := [t for t in idx if t.dtype.kind not in "iu"]:
        raise DTypeError(f"index arrays must be of integers, not {show_dtype(bad[0].dtype)}; cast or compare first")
    return broadcast_shapes(*(t.shape for t in idx))


def check_values(v: Type, shape: Shape, idx: Sequence[Type]) -> None:
    """Values for index operands into leading axes of `shape` fit, or ShapeError."""
    wanted = (*index_shape(shape, idx), *shape[len(idx) :])
    if v.shape != wanted:
        raise ShapeError(f"the values {v} must have shape {show_shape(wanted)}: the indices', then the rest's")


def positions(b: Any, i: tuple, idx: Sequence[Any], shape: Shape) -> list[Any]:
    """The index scalars at `i`, negative ones counted from the end of the axes of `shape`.

    Those out of range are moved into it: that they are an error is for a program's checks to say, which may run in
    the same kernel; here nothing outside the array is touched.
    """
    result = broadcast_shapes(*(x.shape for x in idx))

    def wrapped(x: Any, n: Dim) -> Any:
        k = x(align(b, i, x.shape, result))
        if any(k is c and axis_of(x, c) == n for c in i):  # counts the axis itself
            return k
        k = k if x.dtype == INT64 else b.cast(k, INT64)
        zero, last = b.number(0, INT64), b.op("sub", b.dim(n), b.number(1, INT64))
        if x.dtype.kind != "u":
            k = b.op("select", b.op("lt", k, zero), b.op("add", k, b.dim(n)), k)
        place = b.op("maximum", b.op("minimum", k, last), zero)
        return b.inside(b.op("ge", last, zero), place, n) if isinstance(n, Poly) else place

    def axis_of(x: Any, c: Any) -> Dim:
        """The extent of an operand along the result's axis with index `c`."""
        position = len(x.shape) - len(i) + next(p for p, other in enumerate(i) if other is c)
        return x.shape[position] if position >= 0 else 1

    return [wrapped(x, n) for x, n in zip(idx, shape, strict=False)]


def moved_to_front(x: Any, axis: int) -> Any:
    return transpose(x, perm=(axis, *(a for a in range(len(shape_of(x))) if a != axis)))


def moved_to_axis(x: Any, axis: int) -> Any:
    """The first axis moved to `axis`."""
    rest = range(1, len(shape_of(x)))
    return transpose(x, perm=(*rest[:axis], 0, *rest[axis:]))


def with_counter(flags: Sequence[bool], idx: Sequence[Any], like: Any, n: Dim) -> list[Any]:
    """Batched index operands preceded by one that counts the batch: index into arrays with a leading batch axis."""
    aligned = same_inner_rank(flags, idx)
    rank = max(len(shape_of(x)) - f for f, x in zip(flags, idx, strict=True))
    counter = nullary(iota, like, shape=(n,), axis=0, dtype=INT64)
    return [reshape(counter, shape=(n, *[1] * rank)), *aligned]


def _draw_indices(rng: np.random.Generator, shape: tuple[int, ...], n: int, dtype: str = "i8") -> np.ndarray:
    return np.asarray(rng.integers(0 if dtype[0] == "u" else -n, n, shape), dtype)


def batched_update(op: Op, flags: Sequence[bool], x: Any, v: Any, *idx: Any) -> Any:
    """The batching rule of an `op` that writes values `v` at index operands into leading axes of `x`."""
    n = batch_size(flags, (x, v, *idx))
    table, values = (a if flag else with_batch(a, n) for a, flag in zip((x, v), flags[:2], strict=True))
    if any(flags[2:]):
        return op(table, values, *with_counter(flags[2:], idx, v, n))
    rank = max(len(shape_of(k)) for k in idx)  # the batch as one more axis after those that are indexed
    return moved_to_front(op(moved_to_axis(table, len(idx)), moved_to_axis(values, rank), *idx), len(idx))


@defop
class gather:
    """y[i..., r...] = x[idx0[i...], idx1[i...], ..., r...]: broadcast integer arrays index the first axes."""

    def ref(x, *idx):
        try:
            return np.asarray(x)[tuple(map(np.asarray, idx))]
        except IndexError as e:
            raise IndexOutOfRangeError(f"gather: {e}") from None

    def type(x, *idx):
        return Type(x.dtype, (*index_shape(x.shape, idx), *x.shape[len(idx) :]))

    def vjp(g, y, x, *idx):
        return [scatter_add(g, *idx, shape=shape_of(x)), *[None] * len(idx)]

    def jvp(ts, y, x, *idx):
        return None if ts[0] is None else gather(ts[0], *idx)

    def batch(flags, x, *idx):
        if not flags[0]:
            return gather(x, *same_inner_rank(flags[1:], idx))
        if not any(flags[1:]):  # one look-up of the index serves the batch
            rank = max(len(shape_of(k)) for k in idx)
            return moved_to_front(gather(moved_to_axis(x, len(idx)), *idx), rank)
        return gather(x, *with_counter(flags[1:], idx, x, shape_of(x)[0]))

    def at(b, i, x, *idx):
        rank = max(len(k.shape) for k in idx)
        return x((*positions(b, i[:rank], idx, x.shape), *i[rank:]))

    def sample(rng, dtype):
        def case(shape: tuple, *indices: tuple, index_dtype: str = "i8"):
            idx = (_draw_indices(rng, s, n, index_dtype) for s, n in zip(indices, shape, strict=False))
            return (draw(rng, dtype, shape), *idx), {}

        cases = [case((5, 2), (7, 3)), case((7, 4, 2), (3,), (2, 1)), case((4,), ()), case((3, 2), (0,))]
        return [*cases, case((3, 7), (2,), index_dtype="i4"), case((3, 2), (7,), (7,), index_dtype="u1")]

    dtypes = "fciub"


@defop
class scatter_add:
    """y = zeros(shape); y[idx0[i...], idx1[i...], ..., r...] += v[i..., r...]: the transpose of gather."""

    @quiet
    def ref(v, *idx, shape):
        v = np.asarray(v)
        y = np.zeros(shape, v.dtype)
        try:
            np.add.at(y, tuple(map(np.asarray, idx)), v)
        except IndexError as e:
            raise IndexOutOfRangeError(f"scatter_add: {e}") from None
        return y

    def type(v, *idx, shape):
        check_values(v, shape, idx)
        return Type(same_dtype([v], "fciu"), tuple(shape))

    def vjp(g, y, v, *idx, shape):
        return [gather(g, *idx), *[None] * len(idx)]

    def jvp(ts, y, v, *idx, shape):
        return None if ts[0] is None else scatter_add(ts[0], *idx, shape=shape)

    def batch(flags, v, *idx, shape):
        n = batch_size(flags, (v, *idx))
        if not any(flags[1:]):
            rank = max(len(shape_of(k)) for k in idx)
            at_axis = scatter_add(moved_to_axis(v, rank), *idx, shape=(*shape[: len(idx)], n, *shape[len(idx) :]))
            return moved_to_front(at_axis, len(idx))
        values = v if flags[0] else with_batch(v, n)
        return scatter_add(values, *with_counter(flags[1:], idx, v, n), shape=(n, *shape))

    def push(b, j, v, *idx, shape):
        rank = max(len(k.shape) for k in idx)
        return (*positions(b, j[:rank], idx, shape), *j[rank:]), v(j)

    def sample(rng, dtype):
        def case(shape: tuple, *indices: tuple):
            idx = [_draw_indices(rng, s, n) for s, n in zip(indices, shape, strict=False)]
            v = draw(rng, dtype, (*np.broadcast_shapes(*indices), *shape[len(idx) :]))
            return (v, *idx), {"shape": shape}

        cases = [case((5, 2), (7, 3)), case((7, 4, 2), (3,), (2, 1)), case((4,), ()), case((3, 2), (0,))]
        return [*cases, case((3, 2), (7,), (7,))]

    dtypes = "fciu"


@defop
class add_at:
    """y = x; y[idx0[i...], idx1[i...], ..., r...] += v[i..., r...]: x + scatter_add(v), without touching all of x."""

    @quiet
    def ref(x, v, *idx):
        y = np.array(x)
        try:
            np.add.at(y, tuple(map(np.asarray, idx)), np.asarray(v))
        except IndexError as e:
            raise IndexOutOfRangeError(f"add_at: {e}") from None
        return y

    def type(x, v, *idx):
        check_values(v, x.shape, idx)
        return Type(same_dtype([x, v], "fciu"), x.shape)

    def vjp(g, y, x, v, *idx):
        return [g, gather(g, *idx), *[None] * len(idx)]

    def jvp(ts, y, x, v, *idx):
        tx, tv = ts[:2]
        if tv is None:
            return tx
        return scatter_add(tv, *idx, shape=shape_of(x)) if tx is None else add_at(tx, tv, *idx)

    def batch(flags, x, v, *idx):
        return batched_update(add_at, flags, x, v, *idx)

    def push(b, j, x, v, *idx):
        rank = max(len(k.shape) for k in idx)
        return (*positions(b, j[:rank], idx, x.shape), *j[rank:]), v(j)

    def sample(rng, dtype):
        return [((draw(rng, dtype, attrs["shape"]), *args), {}) for args, attrs in scatter_add.sample(rng, dtype)]

    has_base = True
    dtypes = "fciu"
