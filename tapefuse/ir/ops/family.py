"""What ops have in common: the elementwise and reduction families, and the helpers their rules are written with.

A row `elementwise(name, ref, rules, ...)` is a whole op. A rule is the product of a cotangent or tangent `g` with one
partial derivative: `exp = elementwise("exp", np.exp, (lambda g, y, x: mul(g, y),), ...)`. `None` in place of a rule
means that the result does not depend smoothly on that operand. Types, broadcasting, vjp, jvp, batching and lowering
follow from the row.

Ops of a later file are looked up in `OPS` when a rule runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import OPS, Op, register
from tapefuse.ir.types import Dim, Shape, Type, broadcast_shapes, show_dtype, type_of

BOOL, INT64 = np.dtype(bool), np.dtype(np.int64)
KINDS = {"f": "floating-point", "c": "complex", "i": "signed integer", "u": "unsigned integer", "b": "bool"}

Rule = Callable[..., Any] | None  # g, y, *xs -> g times the partial derivative for one operand, linear in g
Sample = Callable[[Any, np.dtype], list[tuple[tuple, dict[str, Any]]]]  # a generator (numpy.random loads late), dtype

quiet = np.errstate(all="ignore")  # decorates each `ref` that computes: nan and inf are results, not warnings


def shape_of(x: Any) -> Shape:
    shape = getattr(x, "shape", None)  # of a Python number there is none
    return type_of(x).shape if shape is None else shape


def dtype_of(x: Any) -> np.dtype:
    dtype = getattr(x, "dtype", None)
    return type_of(x).dtype if dtype is None else dtype


# -- checks of type rules ---------------------------------------------------------------------------------------------


def same_dtype(types: Sequence[Type], kinds: str) -> np.dtype:
    """The one dtype of all operands. Raises DTypeError if they differ or the kind is not among `kinds`."""
    dtype = types[0].dtype
    if any(t.dtype != dtype for t in types):
        found = ", ".join(show_dtype(t.dtype) for t in types)
        raise DTypeError(f"operands have dtypes {found}; cast them to one dtype")
    if kind_of(dtype) not in kinds:
        wanted = " or ".join(KINDS[k] for k in kinds)
        raise DTypeError(f"operands must be {wanted}, not {show_dtype(dtype)}; cast them first")
    return dtype


@lru_cache(maxsize=1024)
def check_axes(axes: tuple[int, ...], rank: int) -> None:
    """Axes are sorted, distinct and within the rank, or ShapeError."""
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < rank for a in axes):
        raise ShapeError(f"axes {axes} must be sorted, distinct and within 0..{rank - 1} for an operand of rank {rank}")


# -- helpers of derivative and batching rules -------------------------------------------------------------------------


def zeros_like(x: Any) -> Any:
    """Zeros of the shape and dtype of `x`, whatever `x` holds (nan included)."""
    return OPS["cast"](nowhere(x), dtype=dtype_of(x))


def ones_like(x: Any) -> Any:
    return OPS["cast"](OPS["not"](nowhere(x)), dtype=dtype_of(x))


def nowhere(x: Any) -> Any:
    """False in the shape of `x`, whatever `x` holds."""
    x = OPS["real"](x) if dtype_of(x).kind == "c" else x
    return OPS["lt"](x, x)


def conjugate(x: Any) -> Any:
    """The complex conjugate; real values as they are."""
    dtype = getattr(x, "dtype", None)
    return OPS["conj"](x) if dtype is not None and dtype.kind == "c" else x


def expand(x: Any, shape: Shape, axes: Iterable[int]) -> Any:
    """`x` with the `axes` of `shape` inserted: undoes a reduction over them."""
    inserted = tuple(axes)
    kept = tuple(a for a in range(len(shape)) if a not in inserted)
    return OPS["broadcast"](x, shape=tuple(shape), axes=kept) if inserted else x


def unbroadcast(g: Any, x: Any) -> Any:
    """`g` summed down to the shape of `x`: the transpose of broadcasting."""
    big, small = shape_of(g), shape_of(x)
    if big == small:
        return g
    lead = len(big) - len(small)
    axes = (*range(lead), *(lead + k for k, n in enumerate(small) if n == 1 and big[lead + k] != 1))
    total = OPS["reduce_sum"](g, axes=axes) if axes else g
    return total if len(axes) == lead else OPS["reshape"](total, shape=small)


def stretch(t: Any, shape: Shape) -> Any:
    """`t` broadcast to `shape` by NumPy's rules."""
    small = shape_of(t)
    lead = len(shape) - len(small)
    kept = [k for k, n in enumerate(small) if n == shape[lead + k]]
    if len(kept) < len(small):
        t = OPS["reshape"](t, shape=tuple(small[k] for k in kept))
    return t if small == shape else OPS["broadcast"](t, shape=shape, axes=tuple(lead + k for k in kept))


def same_inner_rank(flags: Sequence[bool], xs: Sequence[Any]) -> list[Any]:
    """Operands with 1s put after each batch axis, so that they broadcast together as they did without it."""
    ranks = [len(shape_of(x)) - f for x, f in zip(xs, flags, strict=True)]
    most = max(ranks)

    def padded(x: Any, rank: int) -> Any:
        n, *rest = shape_of(x)
        return OPS["reshape"](x, shape=(n, *[1] * (most - rank), *rest))

    return [padded(x, r) if f and r < most else x for f, x, r in zip(flags, xs, ranks, strict=True)]


def with_batch(x: Any, n: Dim) -> Any:
    """`x` repeated along a new leading axis of extent `n`."""
    return expand(x, (n, *shape_of(x)), (0,))


def batch_size(flags: Sequence[bool], xs: Sequence[Any]) -> Dim:
    return next(shape_of(x)[0] for f, x in zip(flags, xs, strict=True) if f)


def nullary(op: Op, like: Any, **attrs: Any) -> Any:
    """`op(**attrs)` of the same sort as `like`: an array beside an array, an IR value beside an IR value."""
    apply = getattr(like, "__tapefuse_apply__", None)
    return apply(op, (), attrs) if apply else op.ref(**attrs)


# -- helpers of lowering rules ----------------------------------------------------------------------------------------


def align(b: Any, i: tuple, shape: Shape, result: Shape) -> tuple:
    """Index `i` of a broadcast result of shape `result`, seen by an operand of shape `shape`."""
    lead = len(result) - len(shape)
    return tuple(
        b.number(0, INT64) if n == 1 and m != 1 else k for k, n, m in zip(i[lead:], shape, result[lead:], strict=True)
    )


def read_aligned(b: Any, i: tuple, xs: Sequence[Any]) -> list[Any]:
    """The scalars that broadcasting operands have at index `i` of the result."""
    result = broadcast_shapes(*(x.shape for x in xs))
    return [x(align(b, i, x.shape, result)) for x in xs]


# -- samples ----------------------------------------------------------------------------------------------------------
# An extent of 7 in a sample (operands and attributes) is replaced by a symbol in the suite's symbolic checks.


def draw(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], low: float = -2, high: float = 2) -> np.ndarray:
    """Random numbers of a dtype: floats and parts of complex numbers from `low` to `high`, integers from -9 to 9, from
    1 if `low` > 0."""
    dtype = np.dtype(dtype)
    if kind_of(dtype) == "c":
        return np.asarray(rng.uniform(low, high, shape) + 1j * rng.uniform(low, high, shape), dtype)
    if kind_of(dtype) == "f":
        return np.asarray(rng.uniform(low, high, shape), dtype)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), dtype)
    return np.asarray(rng.integers(1 if low > 0 else 0 if dtype.kind == "u" else -9, 10, shape), dtype)


def unary_sample(low: float = -2.0, high: float = 2.0) -> Sample:
    return lambda rng, dtype: [((draw(rng, dtype, s, low, high),), {}) for s in ((7, 3), ())]


def binary_sample(first: tuple[float, float] = (-2.0, 2.0), second: tuple[float, float] = (-2.0, 2.0)) -> Sample:
    shapes = ((7, 3), (3,)), ((7, 3), (7, 3)), ((7, 1), (2,)), ((2, 7, 3), (1, 3)), ((), (2, 2)), ((), ())
    return lambda rng, dtype: [((draw(rng, dtype, s, *first), draw(rng, dtype, t, *second)), {}) for s, t in shapes]


# -- families: a row is a whole op ------------------------------------------------------------------------------------


def products(rules: Sequence[Rule], g: Any, y: Any, *xs: Any) -> list[Any]:
    """Cotangents of elementwise operands from the products of `g` with the partial derivatives.

    Those of complex operands are the products with the conjugate derivatives: rules are linear in `g`, so they are the
    conjugates of what the rules give for the conjugate of `g`.
    """
    g = conjugate(g)
    parts = [None if rule is None else conjugate(rule(g, y, *xs)) for rule in rules]
    return [None if part is None else unbroadcast(part, x) for part, x in zip(parts, xs, strict=True)]


def tangent(rules: Sequence[Rule], ts: Sequence[Any], y: Any, *xs: Any) -> Any:
    """The tangent of an elementwise result: the sum of the products with the tangents, None if there are none."""
    total = None
    for rule, t in zip(rules, ts, strict=True):
        if rule is not None and t is not None:
            term = rule(t, y, *xs)
            total = term if total is None else OPS["add"](total, term)
    return None if total is None else stretch(total, shape_of(y))


def elementwise(
    name: str,
    ref: Callable[..., Any],
    rules: Sequence[Rule],
    sample: Sample,
    *,
    doc: str,
    kinds: str = "f",
    result: np.dtype | None = None,
    at: Callable[..., Any] | None = None,
) -> Op:
    """A broadcasting scalar function of operands of one dtype, of a kind in `kinds`; `result` is the dtype if another.

    `at(b, dtype, *scalars)` is the scalar computation; the instruction of the op's own name unless given.
    """
    scalar = at or (lambda b, dtype, *s: b.op(name, *s))

    def type(*types: Type) -> Type:
        if len(types) != len(rules):
            raise DTypeError(f"takes {len(rules)} operand{'s' * (len(rules) != 1)}, not {len(types)}")
        dtype = same_dtype(types, kinds)
        return Type(result or dtype, broadcast_shapes(*(t.shape for t in types)))

    op = Op(
        name=name,
        doc=doc,
        ref=quiet(ref),
        type=type,
        vjp=lambda g, y, *xs: products(rules, g, y, *xs),
        jvp=lambda ts, y, *xs: tangent(rules, ts, y, *xs),
        batch=lambda flags, *xs: op(*same_inner_rank(flags, xs)),
        sample=sample,
        at=lambda b, i, *xs: scalar(b, xs[0].dtype, *read_aligned(b, i, xs)),
        elementwise=True,
        dtypes=kinds,
        partials=rules,
    )
    return register(op)


def reduction_sample(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[tuple, dict[str, Any]]]:
    cases = ((7, 3, 2), (0, 2)), ((5,), (0,)), ((3, 7), (1,)), ((7, 2), ()), ((2, 1), (0, 1)), ((), ())
    return [((draw(rng, dtype, s),), {"axes": axes}) for s, axes in cases]


def reduction(
    name: str,
    ref: Callable[..., Any],
    kind: str,
    *,
    doc: str,
    kinds: str,
    vjp: Callable[..., Any],
    jvp: Callable[..., Any],
    empty: bool = True,
    linear: bool = False,
) -> Op:
    """Combine elements over `axes` (sorted, non-negative), which disappear from the shape; the dtype stays.

    `kind` names the combining instruction. `empty` says whether the reduction of no elements has a value.
    """

    def check(shape: Shape, axes: tuple[int, ...]) -> None:
        check_axes(axes, len(shape))
        if not empty and any(shape[a] == 0 for a in axes):
            raise ShapeError(f"{name} over an empty axis has no value (shape {shape}, axes {axes})")

    def numpy_ref(x: Any, *, axes: tuple[int, ...]) -> Any:
        x = np.asarray(x)
        check(x.shape, axes)
        return ref(x, axis=axes)

    def type(x: Type, *, axes: tuple[int, ...]) -> Type:
        check(x.shape, axes)
        return Type(same_dtype([x], kinds), tuple(n for a, n in enumerate(x.shape) if a not in axes))

    def at(b: Any, i: tuple, x: Any, *, axes: tuple[int, ...]) -> Any:
        def element(ks: tuple) -> Any:
            outer, inner = iter(i), iter(ks)
            return x(tuple(next(inner if a in axes else outer) for a in range(len(x.shape))))

        return b.reduce(kind, x.dtype, tuple(x.shape[a] for a in axes), element) if axes else x(i)

    op = Op(
        name=name,
        doc=doc,
        ref=quiet(numpy_ref),
        type=type,
        vjp=vjp,
        jvp=jvp,
        batch=lambda flags, x, *, axes: op(x, axes=tuple(a + 1 for a in axes)),
        sample=reduction_sample,
        at=at,
        reduction=kind,
        dtypes=kinds,
        linear=linear,
    )
    return register(op)
