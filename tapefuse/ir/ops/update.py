"""An array with some of its elements replaced or added to: what `x[index] = v` and `x[index] += v` are in the IR.

Programs do this in the memory of `x` where nobody reads its old value any more, and in a copy of it elsewhere.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import IndexOutOfRangeError, ShapeError
from tapefuse.ir.op import OPS, defop
from tapefuse.ir.ops.family import (
    INT64,
    batch_size,
    draw,
    expand,
    nullary,
    quiet,
    same_dtype,
    shape_of,
    with_batch,
    zeros_like,
)
from tapefuse.ir.ops.index import add_at, batched_update, check_values, gather
from tapefuse.ir.ops.shape import iota, reshape
from tapefuse.ir.ops.slicing import check_slice, slice_, slice_needs, unpadded
from tapefuse.ir.types import Dim, Shape, Type, size


def limits(shape: Shape, starts: Shape, strides: Shape) -> Shape:
    """One past the last element of a region of `shape`, so that `slice` with these limits reads the region."""
    return tuple(a + (n - 1) * s + 1 for n, a, s in zip(shape, starts, strides, strict=True))


def update_needs(x: Type, v: Type, starts: Shape, strides: Shape) -> list[Dim]:
    """Dimensions that must be >= 0 for the region of an update to be in bounds."""
    return slice_needs(x.shape, starts, limits(v.shape, starts, strides), strides)


def _region(v: Any, starts: Shape, strides: Shape) -> dict[str, Shape]:
    """The attributes of the slice that reads what `v` is written to."""
    return {"starts": starts, "limits": limits(shape_of(v), starts, strides), "strides": strides}


def _update_type(x: Type, v: Type, starts: Shape, strides: Shape, kinds: str) -> Type:
    if not len(x.shape) == len(v.shape) == len(starts) == len(strides):
        raise ShapeError(f"an update of {x} by {v} needs operands, starts and strides of one rank")
    check_slice(x.shape, starts, limits(v.shape, starts, strides), strides)
    return Type(same_dtype([x, v], kinds), x.shape)


def _updated(x: Any, v: Any, starts: Shape, strides: Shape, kinds: str) -> tuple[np.ndarray, tuple[slice, ...]]:
    """A copy of `x`, and its region."""
    x, v = np.asarray(x), np.asarray(v)
    _update_type(Type(x.dtype, x.shape), Type(v.dtype, v.shape), starts, strides, kinds)
    return x.copy(), tuple(slice(a, a + n * s, s) for n, a, s in zip(v.shape, starts, strides, strict=True))


def _batched(flags: tuple[bool, ...], x: Any, v: Any) -> tuple[Any, Any]:
    n = batch_size(flags, (x, v))
    table, values = (a if flag else with_batch(a, n) for a, flag in zip((x, v), flags, strict=True))
    return table, values


def target(b: Any, j: tuple, starts: Shape, strides: Shape) -> tuple:
    """Where element `j` of a region lies."""

    def place(k: Any, start: Dim, step: Dim) -> Any:
        k = k if step == 1 else b.op("mul", k, b.dim(step))
        return k if start == 0 else b.op("add", k, b.dim(start))

    return tuple(map(place, j, starts, strides))


def _source(b: Any, i: tuple, x: Any, v: Any, starts: Shape, strides: Shape) -> tuple[Any, Any]:
    """Whether element `i` lies in the region (None: all of them do), and the element of `v` for it."""
    together, index = None, []
    ends = limits(v.shape, starts, strides)
    for k, n, m, start, end, step in zip(i, v.shape, x.shape, starts, ends, strides, strict=True):
        inside, position = unpadded(b, k, n, start, end == m, step - 1)
        index.append(position if inside is None else b.inside(inside, position, n))
        if inside is not None:
            together = inside if together is None else b.op("and", together, inside)
    return together, v(tuple(index))


def _samples(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[tuple, dict[str, Any]]]:
    cases = [((7, 3), (7, 2), (0, 1), (1, 1)), ((11,), (3,), (1,), (3,)), ((14, 2), (7, 1), (7, 0), (1, 1))]
    cases += [((5,), (5,), (0,), (1,)), ((), (), (), ()), ((4, 2), (0, 2), (1, 0), (1, 1))]
    cases += [((3, 7), (2, 7), (0, 0), (2, 1))]
    return [
        ((draw(rng, dtype, s), draw(rng, dtype, t)), {"starts": starts, "strides": strides})
        for s, t, starts, strides in cases
    ]


@defop
class put:
    """x with its elements starts + strides j replaced by v[j], for all j of v; both have one rank."""

    def ref(x, v, *, starts, strides):
        y, region = _updated(x, v, starts, strides, "fciub")
        y[region] = v
        return y

    def type(x, v, *, starts, strides):
        return _update_type(x, v, starts, strides, "fciub")

    def vjp(g, y, x, v, *, starts, strides):
        kept = put(g, zeros_like(v), starts=starts, strides=strides)
        return [kept, slice_(g, **_region(v, starts, strides))]

    def jvp(ts, y, x, v, *, starts, strides):
        tx, tv = (zeros_like(a) if t is None else t for t, a in zip(ts, (x, v), strict=True))
        return put(tx, tv, starts=starts, strides=strides)

    def batch(flags, x, v, *, starts, strides):
        return put(*_batched(flags, x, v), starts=(0, *starts), strides=(1, *strides))

    def at(b, i, x, v, *, starts, strides):
        if 0 in v.shape:
            return x(i)
        inside, element = _source(b, i, x, v, starts, strides)
        return element if inside is None else b.op("select", inside, element, x(i))

    def push(b, j, x, v, *, starts, strides):
        return target(b, j, starts, strides), v(j)

    def sample(rng, dtype):
        return _samples(rng, dtype)

    has_base = True
    overwrites = True
    dtypes = "fciub"


@defop
class put_add:
    """x with v[j] added to its elements starts + strides j, for all j of v; both have one rank."""

    @quiet
    def ref(x, v, *, starts, strides):
        y, region = _updated(x, v, starts, strides, "fciu")
        y[region] += v
        return y

    def type(x, v, *, starts, strides):
        return _update_type(x, v, starts, strides, "fciu")

    def vjp(g, y, x, v, *, starts, strides):
        return [g, slice_(g, **_region(v, starts, strides))]

    def jvp(ts, y, x, v, *, starts, strides):
        tx, tv = ts
        if tv is None:
            return tx
        return put_add(zeros_like(x) if tx is None else tx, tv, starts=starts, strides=strides)

    def batch(flags, x, v, *, starts, strides):
        return put_add(*_batched(flags, x, v), starts=(0, *starts), strides=(1, *strides))

    def at(b, i, x, v, *, starts, strides):
        old = x(i)
        if 0 in v.shape:
            return old
        inside, element = _source(b, i, x, v, starts, strides)
        new = b.op("add", old, element)
        return new if inside is None else b.op("select", inside, new, old)

    def push(b, j, x, v, *, starts, strides):
        return target(b, j, starts, strides), v(j)

    def sample(rng, dtype):
        return _samples(rng, dtype)

    has_base = True
    dtypes = "fciu"


@defop
class put_at:
    """x with x[idx0[i...], idx1[i...], ..., r...] = v[i..., r...]; the last of several at one position stays."""

    def ref(x, v, *idx):
        y = np.asarray(x).copy()
        try:
            y[tuple(map(np.asarray, idx))] = v
        except IndexError as e:
            raise IndexOutOfRangeError(f"put_at: {e}") from None
        return y

    def type(x, v, *idx):
        check_values(v, x.shape, idx)
        return Type(same_dtype([x, v], "fciub"), x.shape)

    def vjp(g, y, x, v, *idx):
        return [put_at(g, zeros_like(v), *idx), _to_winners(gather(g, *idx), x, *idx), *[None] * len(idx)]

    def jvp(ts, y, x, v, *idx):
        tx, tv = (zeros_like(a) if t is None else t for t, a in zip(ts[:2], (x, v), strict=True))
        return put_at(tx, tv, *idx)

    def batch(flags, x, v, *idx):
        return batched_update(put_at, flags, x, v, *idx)

    def push(b, j, x, v, *idx):
        return add_at.push(b, j, x, v, *idx)

    def sample(rng, dtype):
        return add_at.sample(rng, dtype)

    has_base = True
    overwrites = True
    dtypes = "fciub"


def _to_winners(g: Any, x: Any, *idx: Any) -> Any:
    """`g` for those values of a `put_at` that stay, zeros for those that a later one overwrites."""
    rank = max(len(shape_of(k)) for k in idx)
    if rank == 0:
        return g
    shape = shape_of(g)[:rank]
    number = reshape(nullary(iota, g, shape=(size(shape),), axis=0, dtype=INT64), shape=shape)
    nobody = nullary(iota, g, shape=shape_of(x)[: len(idx)], axis=0, dtype=INT64)  # read where written only
    stays = OPS["eq"](gather(put_at(nobody, number, *idx), *idx), number)
    return OPS["select"](expand(stays, shape_of(g), range(rank, len(shape_of(g)))), g, 0)
