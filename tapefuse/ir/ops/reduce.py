"""Reductions over axes, and the positions of extremes."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Op, register
from tapefuse.ir.ops.elementwise import div, mul
from tapefuse.ir.ops.family import (
    INT64,
    check_axes,
    conjugate,
    draw,
    dtype_of,
    expand,
    nowhere,
    ones_like,
    reduction,
    same_dtype,
    shape_of,
)
from tapefuse.ir.ops.logic import ARITHMETIC, NUMBERS, cast, eq, not_, select
from tapefuse.ir.ops.shape import broadcast, reshape, transpose
from tapefuse.ir.ops.slicing import concat, pad, slice_
from tapefuse.ir.types import Dim, Poly, Type, size

# -- products of all the others: the derivative of a product, without dividing by what may be 0 ------------------------


def _cut(x: Any, start: Dim, limit: Dim) -> Any:
    """Elements `start` to `limit` of the last axis."""
    *lead, _ = shape_of(x)
    return slice_(x, starts=(*[0] * len(lead), start), limits=(*lead, limit), strides=(1,) * (len(lead) + 1))


def _pad_last(x: Any, high: Dim, interior: Dim, value: Any) -> Any:
    low = (0,) * len(shape_of(x))
    return pad(x, low=low, high=(*low[1:], high), interior=(*low[1:], interior), value=value)


def _others(x: Any) -> Any:
    """`y[..., i]` = product of `x[..., k]` over k != i, by pairing halves: 3 n multiplications in log2(n) steps."""
    n = shape_of(x)[-1]
    if isinstance(n, Poly):
        return _others_by_mask(x, n)
    if n < 2:
        return ones_like(x)
    half = (n + 1) // 2
    even = _pad_last(x, 1, 0, 1) if n % 2 else x
    a, b = _cut(even, 0, half), _cut(even, half, 2 * half)
    up = _others(mul(a, b))
    return _cut(concat(mul(up, b), mul(up, a), axis=len(shape_of(x)) - 1), 0, n)


def _others_by_mask(x: Any, n: Dim) -> Any:
    """The same for an extent not known while tracing, in n**2 steps: the diagonal of n copies is replaced by 1."""
    *lead, _ = shape_of(x)
    true = not_(nowhere(x))
    diagonal = reshape(_pad_last(true, 0, n, False), shape=(*lead, n, n))  # n falses between two trues
    rank = len(lead)
    copies = broadcast(x, shape=(*lead, n, n), axes=(*range(rank), rank + 1))
    return reduce_prod(select(diagonal, 1, copies), axes=(rank + 1,))


def _product_of_others(x: Any, axes: tuple[int, ...]) -> Any:
    """For each element of `x`, the product of the other elements that are reduced with it."""
    if not axes:
        return ones_like(x)
    shape = shape_of(x)
    perm = (*(a for a in range(len(shape)) if a not in axes), *axes)
    moved = transpose(x, perm=perm)
    lead = shape_of(moved)[: len(shape) - len(axes)]
    flat = _others(reshape(moved, shape=(*lead, size(shape[a] for a in axes))))
    return transpose(reshape(flat, shape=shape_of(moved)), perm=tuple(perm.index(a) for a in range(len(shape))))


# -- reductions -------------------------------------------------------------------------------------------------------

reduce_sum: Op = reduction(
    "reduce_sum",
    lambda x, axis: np.add.reduce(x, axis, x.dtype),
    "add",
    doc="Sum over axes.",
    kinds=ARITHMETIC,
    vjp=lambda g, y, x, *, axes: [expand(g, shape_of(x), axes)],
    jvp=lambda ts, y, x, *, axes: reduce_sum(ts[0], axes=axes),
    linear=True,
)
reduce_prod: Op = reduction(
    "reduce_prod",
    lambda x, axis: np.prod(x, axis=axis, dtype=x.dtype),
    "mul",
    doc="Product over axes; its derivatives are right at zeros too.",
    kinds=ARITHMETIC,
    vjp=lambda g, y, x, *, axes: [mul(expand(g, shape_of(x), axes), conjugate(_product_of_others(x, axes)))],
    jvp=lambda ts, y, x, *, axes: reduce_sum(mul(ts[0], _product_of_others(x, axes)), axes=axes),
)


def _ties(y: Any, x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """1 where an element is the extreme and 0 elsewhere, and how many there are."""
    winners = cast(eq(x, expand(y, shape_of(x), axes)), dtype=dtype_of(x))
    return winners, reduce_sum(winners, axes=axes)


def _extreme_vjp(g: Any, y: Any, x: Any, *, axes: tuple[int, ...]) -> list[Any]:
    winners, count = _ties(y, x, axes)
    return [mul(winners, expand(div(g, count), shape_of(x), axes))]


def _extreme_jvp(ts: Any, y: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    winners, count = _ties(y, x, axes)
    return div(reduce_sum(mul(ts[0], winners), axes=axes), count)


def _extreme(name: str, ref: Callable[..., Any], kind: str, doc: str) -> Op:
    return reduction(name, ref, kind, doc=doc, kinds=NUMBERS, vjp=_extreme_vjp, jvp=_extreme_jvp, empty=False)


reduce_max = _extreme(
    "reduce_max", np.maximum.reduce, "maximum", "Maximum, nan if there is one; ties share the gradient evenly."
)
reduce_min = _extreme(
    "reduce_min", np.minimum.reduce, "minimum", "Minimum, nan if there is one; ties share the gradient evenly."
)


def _quantifier(name: str, ref: Callable[..., Any], kind: str, doc: str) -> Op:
    vjp, jvp = lambda g, y, x, *, axes: [None], lambda ts, y, x, *, axes: None
    return reduction(name, ref, kind, doc=doc, kinds="b", vjp=vjp, jvp=jvp)


reduce_any = _quantifier("reduce_any", np.any, "or", "Whether any element over axes is true.")
reduce_all = _quantifier("reduce_all", np.all, "and", "Whether all elements over axes are true.")


# -- positions of extremes --------------------------------------------------------------------------------------------


def _arg_extreme(name: str, ref: Callable[..., Any], kind: str, doc: str) -> Op:
    def check(shape: tuple, axis: int) -> None:
        check_axes((axis,), len(shape))
        if shape[axis] == 0:
            raise ShapeError(f"{name} over an empty axis has no value (shape {shape}, axis {axis})")

    def numpy_ref(x: Any, *, axis: int) -> Any:
        x = np.asarray(x)
        check(x.shape, axis)
        return np.asarray(ref(x, axis=axis), INT64)

    def type(x: Type, *, axis: int) -> Type:
        check(x.shape, axis)
        same_dtype([x], NUMBERS)
        return Type(INT64, x.shape[:axis] + x.shape[axis + 1 :])

    def at(b: Any, i: tuple, x: Any, *, axis: int) -> Any:
        def element(ks: tuple) -> Any:
            return x((*i[:axis], *ks, *i[axis:]))

        def candidate(ks: tuple) -> Any:
            v = element(ks)
            wins = b.op("eq", v, extreme)
            if kind_of(x.dtype) == "f":
                wins = b.op("or", wins, b.op("ne", v, v))  # the first nan wins as in NumPy
            return b.op("select", wins, ks[0], b.dim(x.shape[axis]))

        extents = (x.shape[axis],)
        extreme = b.reduce(kind, x.dtype, extents, element)
        return b.reduce("minimum", INT64, extents, candidate)

    def sample(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[tuple, dict[str, Any]]]:
        return [((draw(rng, dtype, s),), {"axis": a}) for s, a in (((7, 3), 0), ((3, 7), 1), ((4,), 0), ((2, 1, 2), 1))]

    op = Op(
        name=name,
        doc=doc,
        ref=numpy_ref,
        type=type,
        vjp=lambda g, y, x, *, axis: [None],
        jvp=lambda ts, y, x, *, axis: None,
        batch=lambda flags, x, *, axis: op(x, axis=axis + 1),
        sample=sample,
        at=at,
        dtypes=NUMBERS,
    )
    return register(op)


argmax = _arg_extreme("argmax", np.argmax, "maximum", "Position of the first maximum (or nan) along an axis, int64.")
argmin = _arg_extreme("argmin", np.argmin, "minimum", "Position of the first minimum (or nan) along an axis, int64.")
