"""Order: sorting along an axis, and looking up places in what is sorted.

nan comes last, as in NumPy. Equal elements keep their order. Compiled, `sort` and `argsort` are merge sorts
(codegen/sort.py); `searchsorted` is a binary search for every element.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import defop
from tapefuse.ir.ops.family import INT64, batch_size, check_axes, draw, nullary, same_dtype, shape_of, with_batch
from tapefuse.ir.ops.index import gather, scatter_add
from tapefuse.ir.ops.logic import NUMBERS
from tapefuse.ir.ops.shape import iota
from tapefuse.ir.types import Poly, Type, show_shape

STEPS = 40  # of a binary search in an axis whose extent is known at run time only: it has fewer than 2**40 elements


def comes_before(b: Any, x: Any, y: Any) -> Any:
    """Whether scalar `x` stands strictly before `y` in sorted order: nan is larger than everything else."""
    less = b.op("lt", x, y)
    if kind_of(x.dtype) != "f":
        return less
    return b.op("or", less, b.op("and", b.op("ne", y, y), b.op("eq", x, x)))


def _grid(x: Any, positions: Any, axis: int) -> list[Any]:
    """Index arrays that pick, for every place of `positions`, the element at that position along `axis`."""
    shape = shape_of(x)

    def counter(a: int) -> Any:
        extents = tuple(n if k == a else 1 for k, n in enumerate(shape))
        return nullary(iota, x, shape=extents, axis=a, dtype=INT64)

    return [positions if a == axis else counter(a) for a in range(len(shape))]


def _place(b: Any, i: tuple, x: Any, axis: int) -> Any:
    """The position along `axis` of the element that is sorted to index `i`: the one with as many elements before it."""
    extents = (x.shape[axis],)

    def element(k: Any) -> Any:
        return x((*i[:axis], k, *i[axis + 1 :]))

    def place(ks: tuple) -> Any:
        (k,) = ks

        def before(js: tuple) -> Any:
            (j,) = js
            tie = b.op("and", b.op("lt", j, k), b.op("not", comes_before(b, element(k), element(j))))
            return b.cast(b.op("or", comes_before(b, element(j), element(k)), tie), INT64)

        rank = b.reduce("add", INT64, extents, before)
        return b.op("select", b.op("eq", rank, i[axis]), k, b.number(0, INT64))

    return b.reduce("add", INT64, extents, place)


def _sample(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[tuple, dict[str, Any]]]:
    cases = ((7, 3), 0), ((3, 7), 1), ((5,), 0), ((2, 4, 3), 1), ((2, 0), 1), ((0, 2), 1), ((1,), 0)
    return [((draw(rng, dtype, s),), {"axis": a}) for s, a in cases]


@defop
class argsort:
    """Positions (int64) that sort along an axis; equal elements in their order, nan last."""

    def ref(x, *, axis):
        x = np.asarray(x)
        check_axes((axis,), x.ndim)
        return np.argsort(x, axis=axis, kind="stable").astype(INT64)

    def type(x, *, axis):
        check_axes((axis,), len(x.shape))
        same_dtype([x], NUMBERS)
        return Type(INT64, x.shape)

    def vjp(g, y, x, *, axis):
        return [None]

    def jvp(ts, y, x, *, axis):
        return None

    def batch(flags, x, *, axis):
        return argsort(x, axis=axis + 1)

    def at(b, i, x, *, axis):
        return _place(b, i, x, axis)

    sample = _sample
    library = "sort"
    dtypes = NUMBERS


@defop
class sort:
    """Elements in ascending order along an axis, nan last; the gradient goes back to where each came from."""

    def ref(x, *, axis):
        x = np.asarray(x)
        check_axes((axis,), x.ndim)
        return np.sort(x, axis=axis, kind="stable")

    def type(x, *, axis):
        check_axes((axis,), len(x.shape))
        return Type(same_dtype([x], NUMBERS), x.shape)

    def vjp(g, y, x, *, axis):
        return [scatter_add(g, *_grid(x, argsort(x, axis=axis), axis), shape=shape_of(x))]

    def jvp(ts, y, x, *, axis):
        return gather(ts[0], *_grid(x, argsort(x, axis=axis), axis))

    def batch(flags, x, *, axis):
        return sort(x, axis=axis + 1)

    def at(b, i, x, *, axis):
        return x((*i[:axis], _place(b, i, x, axis), *i[axis + 1 :]))

    sample = _sample
    library = "sort"
    dtypes = NUMBERS


@defop
class searchsorted:
    """Where each element of `v` would be inserted to keep `a` sorted along its last axis, int64.

    The first `lead` axes of both are the same and belong together; `a` has one more. `right`: behind equal elements.
    """

    def ref(a, v, *, lead, right):
        a, v = np.asarray(a), np.asarray(v)
        y = np.empty(v.shape, INT64)
        for k in np.ndindex(*v.shape[:lead]):
            y[k] = np.searchsorted(a[k], v[k], "right" if right else "left")
        return y

    def type(a, v, *, lead, right):
        if len(a.shape) != lead + 1 or a.shape[:lead] != v.shape[:lead]:
            raise ShapeError(
                f"what is searched has shape {show_shape(a.shape)}: it must have one axis more than the first {lead} "
                f"of the values {v}"
            )
        same_dtype([a, v], NUMBERS)
        return Type(INT64, v.shape)

    def vjp(g, y, a, v, *, lead, right):
        return [None, None]

    def jvp(ts, y, a, v, *, lead, right):
        return None

    def batch(flags, a, v, *, lead, right):
        if not flags[0] and lead == 0:
            return searchsorted(a, v, lead=0, right=right)
        n = batch_size(flags, (a, v))
        a, v = (x if f else with_batch(x, n) for f, x in zip(flags, (a, v), strict=True))
        return searchsorted(a, v, lead=lead + 1, right=right)

    def at(b, i, a, v, *, lead, right):
        value, n, zero = v(i), a.shape[lead], b.number(0, INT64)
        low = zero
        if n == 0:
            return low
        for bit in reversed(range(STEPS if isinstance(n, Poly) else n.bit_length())):
            probe = b.op("add", low, b.number((1 << bit) - 1, INT64))
            place = b.op("minimum", probe, b.op("sub", b.dim(n), b.number(1, INT64)))
            if isinstance(n, Poly):
                place = b.inside(b.op("lt", zero, b.dim(n)), place, n)
            x = a((*i[:lead], place))
            found = b.op("not", comes_before(b, value, x)) if right else comes_before(b, x, value)
            further = b.op("and", b.op("lt", probe, b.dim(n)), found)
            low = b.op("select", further, b.op("add", low, b.number(1 << bit, INT64)), low)
        return low

    def sample(rng, dtype):
        def case(shape: tuple, values: tuple, lead: int, right: bool) -> tuple[tuple, dict[str, Any]]:
            return (np.sort(draw(rng, dtype, shape), -1), draw(rng, dtype, values)), {"lead": lead, "right": right}

        cases = [case((7,), (14, 2), 0, False), case((4,), (), 0, True), case((7, 3), (7, 2), 1, True)]
        cases += [case((1,), (5,), 0, True), case((0,), (2,), 0, False)]
        return [*cases, case((2, 8), (2, 7), 1, False), case((9,), (0,), 0, True)]

    dtypes = NUMBERS
