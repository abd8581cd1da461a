"""Operations of eager tapes alone: several registered ones in one, so that one line stands for them.

`x @ w` with a vector is a reshape, a product of matrices and a reshape; `x[0]` a slice and a reshape. In a program
they are these; of eager tensors NumPy does the whole at once, and a tape notes one operation. The derivative
rules are those of the parts, one after the other. Like `variable.identity` they never enter a program, so they are not
registered and need neither samples nor a lowering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import here
from tapefuse.ir.op import Op
from tapefuse.ir.ops.family import quiet, shape_of
from tapefuse.ir.types import Shape, Type
from tapefuse.tracer.applying import taped
from tapefuse.tracer.arrays import F32, F64, normal
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Deferred, Readable, Tensor


def _unbatched(*args: Any, **attrs: Any) -> Any:
    raise TypeError("an operation of eager tapes is batched as its parts are")


def _shortcut(name: str, doc: str, ref: Any, type: Any, vjp: Any, jvp: Any, **more: Any) -> Op:
    return Op(name, doc, ref, type, vjp, jvp, batch=_unbatched, sample=lambda rng, dtype: [], **more)


_PRODUCT: Any = ops.matmul
_SLICE: Any = ops.slice_

# -- products with vectors --------------------------------------------------------------------------------------------


def _matrices(a: Any, b: Any, like_a: Any, like_b: Any) -> tuple[Any, Any]:
    """Vectors as the row on the left or the column on the right that the operands `like` them are."""
    left, right = shape_of(like_a), shape_of(like_b)
    a = a if a is None or len(left) == 2 else ops.reshape(a, shape=(1, *left))
    return a, (b if b is None or len(right) == 2 else ops.reshape(b, shape=(*right, 1)))


def _product_type(a: Type, b: Type) -> Type:
    return Type(a.dtype, (*a.shape[:-1], *b.shape[1:]))


def _product_partial(operand: int) -> Callable[..., Any]:
    def partial(g: Any, y: Any, a: Any, b: Any) -> Any:
        if here.plain:
            return _plain_partial(operand, g, a, b)
        row, column = _matrices(a, b, a, b)
        g = ops.reshape(g, shape=(shape_of(row)[0], shape_of(column)[1]))
        return ops.reshape(_PRODUCT.partials[operand](g, None, row, column), shape=shape_of((a, b)[operand]))

    return partial


def _plain_partial(operand: int, g: Any, a: np.ndarray, b: np.ndarray) -> Any:
    """The same on arrays, at least one of which is a vector."""
    if operand == 0:
        return np.multiply.outer(g, b) if b.ndim == 1 else np.matmul(g, b.T)
    return np.multiply.outer(a, g) if a.ndim == 1 else np.matmul(a.T, g)


_PARTIALS = _product_partial(0), _product_partial(1)


def _product_vjp(g: Any, y: Any, a: Any, b: Any) -> list[Any]:
    return [partial(g, y, a, b) for partial in _PARTIALS]


def _product_jvp(ts: Any, y: Any, a: Any, b: Any) -> Any:
    t = _PRODUCT.jvp(_matrices(ts[0], ts[1], a, b), None, *_matrices(a, b, a, b))
    return ops.reshape(t, shape=(*shape_of(a)[:-1], *shape_of(b)[1:]))


_product = _shortcut(
    "matmul", "The product of two vectors, or of one and a matrix.", quiet(np.matmul), _product_type, _product_vjp,
    _product_jvp, partials=_PARTIALS,
)  # fmt: skip
_NONE: dict[str, Any] = {}


def product(x: Any, y: Any) -> Tensor | None:
    """`x @ y` of eager matrices and vectors of one dtype; None for anything else."""
    here = state
    if type(x) is not Tensor or type(y) is not Tensor or here.trace is not None or here.overrides:
        return _late_product(x, y)
    a, b = x._array, y._array
    t = a.dtype
    if b.dtype is not t or not (t is F32 or t is F64) or not (0 < a.ndim <= 2 and 0 < b.ndim <= 2):
        return None
    try:
        array = here.quietly(np.matmul, a, b)
    except Exception:  # the long way says why
        return None
    z = Tensor.__new__(Tensor)
    z._array = array = array if type(array) is np.ndarray and array.flags.c_contiguous else normal(array)
    if tapes := here.tapes:
        op = _product if a.ndim + b.ndim < 4 else ops.matmul
        taped(tapes, op, _NONE, (x, y), z, (array, a, b))
    return z


def _late_product(x: Any, y: Any) -> Tensor | None:
    """The same of what is to be read or computed yet."""
    if isinstance(x, Readable) or isinstance(y, Readable):
        return product(*[v.read() if isinstance(v, Readable) else v for v in (x, y)])
    first: Any = x if type(x) is Deferred else y
    if type(first) is not Deferred or not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.dtype is not y.dtype:
        return None
    ranks = len(x.shape), len(y.shape)
    if 0 in ranks or max(ranks) > 2:
        return None
    z = first._run.next(ops.matmul if ranks == (2, 2) else _product, _NONE, (x, y))
    return product(x, y) if z is None else z


# -- elements and slices ----------------------------------------------------------------------------------------------


class Cut:
    """What an index of integers and slices takes of an array: equal only to itself.

    `key`: the index as NumPy takes it. The same in registered operations: a slice, axes reversed, axes dropped.
    `attrs`: those of the operation of eager tapes.
    """

    __slots__ = ("attrs", "flips", "key", "limits", "shape", "starts", "strides")

    def __init__(self, key: tuple, starts: tuple, limits: tuple, strides: tuple, flips: tuple, shape: Shape):
        self.key, self.starts, self.limits, self.strides = key, starts, limits, strides
        self.flips, self.shape, self.attrs = flips, shape, {"cut": self}

    @property
    def region(self) -> Shape:
        """The shape before axes are dropped."""
        bounds = zip(self.starts, self.limits, self.strides, strict=True)
        return tuple([-(-(limit - start) // stride) for start, limit, stride in bounds])


def _cut_vjp(g: Any, y: Any, x: Any, *, cut: Cut) -> list[Any]:
    if here.plain:
        spread = np.zeros(x.shape, x.dtype)
        spread[cut.key] = g
        return [spread]
    g = ops.reshape(g, shape=cut.region)
    g = ops.flip(g, axes=cut.flips) if cut.flips else g
    return _SLICE.vjp(g, None, x, starts=cut.starts, limits=cut.limits, strides=cut.strides)


def _cut_jvp(ts: Any, y: Any, x: Any, *, cut: Cut) -> Any:
    t = ops.slice_(ts[0], starts=cut.starts, limits=cut.limits, strides=cut.strides)
    return ops.reshape(ops.flip(t, axes=cut.flips) if cut.flips else t, shape=cut.shape)


_cut = _shortcut(
    "slice", "Elements along axes, some of which are dropped.", lambda x, *, cut: x[cut.key],
    lambda x, *, cut: Type(x.dtype, cut.shape), _cut_vjp, _cut_jvp, linear=True,
)  # fmt: skip


def item(x: Tensor, cut: Cut) -> Tensor:
    """The part of an eager tensor."""
    if type(x) is Deferred and (found := x._run.next(_cut, cut.attrs, (x,))) is not None:
        return found
    y = Tensor.__new__(Tensor)
    a = x._array
    array = a[cut.key]
    y._array = array = array if array.flags.c_contiguous else normal(array)
    if tapes := state.tapes:
        taped(tapes, _cut, cut.attrs, (x,), y, (array, a))
    return y


# -- views ------------------------------------------------------------------------------------------------------------


def moved(op: Op, x: Tensor, array: np.ndarray, attrs: dict[str, Any]) -> Tensor:
    """`op(x, **attrs)`, an operation on one eager tensor whose result is `array`."""
    y = Tensor.__new__(Tensor)
    y._array = array = array if type(array) is np.ndarray and array.flags.c_contiguous else normal(array)
    if tapes := state.tapes:
        taped(tapes, op, attrs, (x,), y, (array, x._array))
    return y


# -- the same in programs ---------------------------------------------------------------------------------------------

SHORTCUTS = (_product, _cut)


def parts(op: Op, xs: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """`op(*xs, **attrs)` of IR values, in registered operations."""
    if op is _product:
        a, b = xs
        y = _PRODUCT.emit(*_matrices(a, b, a, b))
        return ops.reshape(y, shape=(*a.type.shape[:-1], *b.type.shape[1:]))
    if op is _cut:
        return _cut_jvp(xs, None, xs[0], **attrs)
    return op.emit(*xs, **attrs)
