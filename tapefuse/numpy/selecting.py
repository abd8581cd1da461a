"""Elements chosen by position or by condition.

Where the result's shape depends on values (`nonzero`, `compress`, ...), those must be known while tracing, or `size=`
says how many elements there are at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from tapefuse._errors import ConcretizationError, DTypeError, IndexOutOfRangeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Dim, Shape, show_shape
from tapefuse.ir.types import size as _size
from tapefuse.numpy.elementwise import _truth, add, astype, clip, floor_divide, mod, multiply, where
from tapefuse.numpy.joining import stack
from tapefuse.numpy.shape import (
    _at_axis,
    _axis,
    _counter,
    _integers,
    _refuse,
    _shape,
    _whole,
    broadcast_arrays,
    broadcast_to,
    dim,
    ravel,
    reshape,
)
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor


def values(x: Any, cure: str) -> np.ndarray:
    """The array of a tensor on which a shape depends. Raises ConcretizationError with a cure while it is traced."""
    try:
        return np.asarray(as_tensor(x))
    except ConcretizationError:
        raise ConcretizationError(
            f"{called()}: the shape of the result depends on values that are known at run time only; {cure}, or do "
            "this outside of the traced function"
        ) from None


# -- by position ----------------------------------------------------------------------------------------------------


def _positions(indices: Any, n: Dim, mode: str) -> Tensor:
    """Integer positions in an axis of extent n; those outside wrapped, clipped, or left for an error."""
    k = as_tensor(indices, np.int64)
    k = astype(k, np.int64) if k.size == 0 and kind_of(k.dtype) == "f" else k
    if k.dtype.kind not in "iub":
        raise DTypeError(f"{called()}: positions must be integers, not {k.dtype}; cast them first")
    k = astype(k, np.int64) if k.dtype.kind == "b" or mode != "raise" else k
    if mode == "raise":
        return k
    if mode == "wrap":
        return mod(k, dim(n))
    if mode == "clip":
        return clip(k, 0, dim(n - 1))
    raise ValueError(f"{called()}: mode must be 'raise', 'wrap' or 'clip', not {mode!r}")


def take(x: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise") -> Tensor:
    """Entries at integer positions along an axis (of the flattened tensor by default); negative ones count from the
    end.

    Raises IndexOutOfRangeError, in compiled functions as well. `mode` "wrap" or "clip" brings all positions into range.
    """
    _refuse(out)
    x = as_tensor(x) if axis is not None else ravel(x)
    k = _axis(x.ndim, axis or 0)
    positions = _positions(indices, x.shape[k], mode)
    try:
        return _at_axis(x, k, positions)
    except IndexOutOfRangeError as error:
        raise IndexOutOfRangeError(f"{called()}: {error}") from None


def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Tensor:
    """For each position of `indices`, the entry of `x` at that index along the axis; other axes broadcast."""
    x, indices = as_tensor(x), as_tensor(indices, np.int64 if python_kind(indices) is int else None)
    if indices.dtype.kind not in "iu":
        raise IndexError(f"{called()}: positions must be integers, not {indices.dtype}; cast them first")
    if axis is None:
        if indices.ndim != 1:
            raise ShapeError(f"{called()}: with axis=None indices must be a vector, not {indices.type}")
        x, axis = ravel(x), 0
    if x.ndim != indices.ndim:
        raise ShapeError(f"take_along_axis of {x.type} by {indices.type} at {user_loc()}: the ranks must be equal")
    k = _axis(x.ndim, axis)
    if any(m != n and 1 not in (m, n) for a, (m, n) in enumerate(zip(x.shape, indices.shape, strict=True)) if a != k):
        raise IndexError(f"{called()}: {x.type} and positions {indices.type} do not broadcast outside of axis {k}")
    grid = [indices if a == k else _along(n, a, x.ndim) for a, n in enumerate(x.shape)]
    return ops.gather(x, *grid)


def _along(n: Dim, axis: int, rank: int) -> Tensor:
    """`_counter`, made once where it is a small array."""
    is_small = state.trace is None and isinstance(n, int) and n <= 4096
    return _kept_counter(n, axis, rank) if is_small else _counter(n, axis, rank)


_kept_counter = lru_cache(maxsize=64)(_counter)


def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Tensor:
    """For each element of `a` the element of the choice with that number; all broadcast together."""
    _refuse(out)
    options = common(*choices)
    a = as_tensor(a)
    numbers = _positions(a if a.dtype.kind == "b" else _integers(a), len(options), mode)
    if mode == "raise" and _is_outside(numbers, len(options)):
        raise ValueError(f"{called()}: an entry of {numbers.type} is not the number of one of {len(options)} choices")
    numbers, *rest = broadcast_arrays(numbers, *options)
    return reshape(take_along_axis(stack(rest), reshape(numbers, (1, *numbers.shape)), 0), numbers.shape)


def _is_outside(k: Tensor, n: int) -> bool:
    """Whether a position is negative or not below n; False where that is known at run time only."""
    try:
        array = np.asarray(k)
    except ConcretizationError:
        return False
    return bool(((array < 0) | (array >= n)).any())


def unravel_index(indices: Any, shape: Any, order: str = "C") -> tuple[Tensor, ...]:
    """The index along each axis of the elements with these numbers in row-major order."""
    _refuse(order=order)
    extents = _shape(shape)
    k, count = astype(_integers(indices), np.int64), _size(extents)
    if isinstance(count, int) and _is_outside(k, count):
        raise ValueError(f"{called()}: an index is out of bounds for an array of shape {show_shape(extents)}")
    found: list[Tensor] = []
    for axis, n in enumerate(extents):
        q = floor_divide(k, dim(_size(extents[axis + 1 :])))
        found.append(mod(q, dim(n)) if axis else q)
    return tuple(found)


def ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "raise", order: str = "C") -> Tensor:
    """The number in row-major order of the element at these positions along the axes of an array."""
    _refuse(order=order)
    extents, indices = _shape(dims), [_integers(k) for k in multi_index]
    modes = [mode] * len(extents) if isinstance(mode, str) else list(mode)
    if len(indices) != len(extents):
        raise ShapeError(f"{called()}: {len(indices)} index arrays for the {len(extents)} axes {show_shape(extents)}")
    total = as_tensor(np.int64(0))
    for k, n, m in zip(indices, extents, modes, strict=True):
        k = astype(_positions(k, n, m), np.int64)
        if m == "raise" and isinstance(n, int) and _is_outside(k, n):
            raise ValueError(f"{called()}: an index is out of range for an axis of extent {n}")
        total = add(multiply(total, dim(n)), k)
    return total


# -- by condition ---------------------------------------------------------------------------------------------------


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Tensor:
    """For each place the choice whose condition is the first to hold there, `default` where none does."""
    if len(condlist) != len(choicelist):
        raise ValueError(f"{called()}: {len(condlist)} conditions for {len(choicelist)} choices: they go in pairs")
    if len(condlist) == 0:
        raise ValueError(f"{called()}: needs at least one condition and choice")
    conditions = [as_tensor(c) for c in condlist]
    if any(c.dtype.kind != "b" for c in conditions):
        raise DTypeError(f"{called()}: conditions must be bool, not {', '.join(str(c.dtype) for c in conditions)}")
    *choices, y = common(*choicelist, default)
    y = broadcast_arrays(y, *conditions, *choices)[0]
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        y = where(condition, choice, y)
    return y


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kwargs: Any) -> Tensor:
    """Functions (or constants) of `x`, each where its condition holds, in the dtype of `x`; 0 where none does.

    One function more than there are conditions is for the rest. Every function gets all of `x`; where another one is
    taken its gradient is 0.
    """
    x = as_tensor(x)
    is_single = not isinstance(condlist, (list, tuple)) and as_tensor(condlist).ndim <= 1 and x.ndim != 0
    conditions = [_truth(c) for c in ([condlist] if is_single or not hasattr(condlist, "__len__") else condlist)]
    if x.ndim and len(conditions) > 1 and all(c.ndim == 0 for c in conditions):
        conditions = [stack(conditions)]
    functions = list(funclist)
    if len(functions) == len(conditions) + 1:
        rest = conditions[0]
        for c in conditions[1:]:
            rest = ops.or_(rest, c)
        conditions = [ops.not_(rest), *conditions]
        functions = [functions[-1], *functions[:-1]]
    if len(functions) != len(conditions):
        raise ValueError(f"{called()}: {len(conditions)} conditions need as many functions, or one more, not "
                         f"{len(functions)}")  # fmt: skip
    y = broadcast_to(as_tensor(np.zeros((), x.dtype)), x.shape)
    for condition, f in zip(conditions, functions, strict=True):
        value = f(x, *args, **kwargs) if callable(f) else f
        y = where(condition, astype(as_tensor(value, x.dtype), x.dtype), y)
    return y


def flatnonzero(x: Any, *, size: int | None = None, fill_value: int = 0) -> Tensor:
    """Positions (int64) in row-major order of the elements that are not zero.

    With `size`: the first so many of them, and `fill_value` where there are fewer; works on traced values.
    """
    flat = _truth(ravel(x))
    if size is None:
        return as_tensor(np.flatnonzero(values(flat, "give size=, the most there can be")))
    positions, found = first_true(flat, _whole(size, "size"))
    return where(found, positions, as_tensor(np.int64(fill_value)))


def first_true(mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions in a vector of its first `size` true elements, and which of those exist; others are some position."""
    counts = ops.cumsum(astype(mask, np.int64), axis=0, reverse=False)
    wanted = astype(reshape(_counter(size, 0, 1), (size,)), np.int64)
    positions = ops.searchsorted(counts, wanted, lead=0, right=True)
    exists = ops.lt(positions, dim(mask.shape[0]))
    return ops.minimum(positions, ops.maximum(dim(mask.shape[0] - 1), dim(0))), exists


def nonzero(x: Any, *, size: int | None = None, fill_value: int = 0) -> tuple[Tensor, ...]:
    """Positions along each axis of the elements that are not zero; `size` and `fill_value` as in `flatnonzero`."""
    x = as_tensor(x)
    if x.ndim == 0:
        raise ShapeError(f"{called()}: a scalar has no positions; use tp.atleast_1d(x)")
    if size is None:
        return tuple(map(as_tensor, np.nonzero(values(x, "give size=, the most there can be"))))
    positions, found = first_true(_truth(ravel(x)), _whole(size, "size"))
    return tuple([where(found, k, as_tensor(np.int64(fill_value))) for k in unravel_safely(positions, x.shape)])


def unravel_safely(positions: Tensor, shape: Shape) -> tuple[Tensor, ...]:
    """`unravel_index` of positions that are in range already."""
    found = []
    for axis, n in enumerate(shape):
        q = floor_divide(positions, ops.maximum(dim(_size(shape[axis + 1 :])), dim(1)))
        found.append(mod(q, ops.maximum(dim(n), dim(1))) if axis else q)
    return tuple(found)


def argwhere(x: Any, *, size: int | None = None, fill_value: int = 0) -> Tensor:
    """Positions of the elements that are not zero, one row for each."""
    x = as_tensor(x)
    if x.ndim == 0:
        count = len(np.flatnonzero(values(x, "use tp.where"))) if size is None else size
        return as_tensor(np.zeros((count, 0), np.int64))
    return stack(nonzero(x, size=size, fill_value=fill_value), axis=1)


def compress(condition: Any, x: Any, axis: int | None = None, out: Any = None) -> Tensor:
    """Entries along an axis (of the flattened tensor by default) where a vector of conditions holds."""
    _refuse(out)
    mask = _truth(as_tensor(condition))
    if mask.ndim != 1:
        raise ShapeError(f"{called()}: the condition must be a vector, not {mask.type}")
    x, k = (ravel(x), 0) if axis is None else (as_tensor(x), axis)
    k = _axis(x.ndim, k)
    positions = np.flatnonzero(values(mask, "keep the shape with tp.where(condition, x, 0)"))
    n = x.shape[k]
    if isinstance(n, int) and positions.size and positions[-1] >= n:
        raise IndexOutOfRangeError(f"{called()}: the condition is true at {positions[-1]}, beyond the {n} of axis {k}")
    return _at_axis(x, k, positions)


def extract(condition: Any, x: Any) -> Tensor:
    """Elements of `x`, flattened, where the condition holds."""
    positions = np.flatnonzero(values(_truth(condition), "keep the shape with tp.where(condition, x, 0)"))
    return take(x, positions)


def trim_zeros(x: Any, trim: str = "fb") -> Tensor:
    """A vector without its leading ("f") and trailing ("b") zeros."""
    x = as_tensor(x)
    if x.ndim != 1:
        raise ShapeError(f"{called()}: {x.type} must be a vector")
    known = values(x, "trim NumPy's arrays")
    found, n = np.flatnonzero(known), len(known)
    if found.size == 0:
        return _at_axis(x, 0, slice(0, 0))
    first = int(found[0]) if "f" in trim.lower() else 0
    return _at_axis(x, 0, slice(first, int(found[-1]) + 1 if "b" in trim.lower() else n))


# -- what would write into its operand ------------------------------------------------------------------------------


def _writer(name: str, cure: str) -> Callable[..., NoReturn]:
    def function(*args: Any, **options: Any) -> NoReturn:
        raise TypeError(f"{name} at {user_loc()} writes into arrays, not into tensors; {cure}")

    function.__name__ = function.__qualname__ = name
    function.__doc__ = "An error: NumPy's function writes into its operand."
    return function


_BUILD = "build the new value with tp.where(mask, value, x)"
copyto = _writer("copyto", _BUILD)
place = _writer("place", _BUILD)
put = _writer("put", _BUILD)
put_along_axis = _writer("put_along_axis", _BUILD)
putmask = _writer("putmask", _BUILD)

# -- functions of parts ---------------------------------------------------------------------------------------------


def apply_along_axis(func1d: Callable[..., Any], axis: int, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    """`func1d` of every vector along an axis, one after the other; axes of its result stand in place of that axis."""
    x = as_tensor(x)
    k = _axis(x.ndim, axis)
    others = (*x.shape[:k], *x.shape[k + 1 :])
    if any(not isinstance(n, int) for n in others):
        raise ShapeError(f"{called()}: how many vectors {x.type} has is known at run time only; use tp.vmap")
    if 0 in others:
        raise ValueError(f"{called()}: {x.type} has no vector along axis {k} to apply the function to")
    rows = [as_tensor(func1d(_vector(x, index, k), *args, **kwargs)) for index in np.ndindex(*others)]
    y = reshape(stack(rows), (*others, *rows[0].shape))
    rank = rows[0].ndim
    order = [*range(k), *range(len(others), len(others) + rank), *range(k, len(others))]
    return ops.transpose(y, perm=tuple(order)) if order != sorted(order) else y


def _vector(x: Tensor, index: tuple[int, ...], axis: int) -> Tensor:
    return x[(*index[:axis], slice(None), *index[axis:])]


def apply_over_axes(func: Callable[..., Any], x: Any, axes: Any) -> Tensor:
    """`func(x, axis)` for one axis after the other, each kept with extent 1 if the function drops it."""
    y = as_tensor(x)
    for axis in axes if hasattr(axes, "__len__") else [axes]:
        k = _axis(y.ndim, axis)
        found = as_tensor(func(y, k))
        if found.ndim == y.ndim - 1:
            found = reshape(found, (*found.shape[:k], 1, *found.shape[k:]))
        if found.ndim != y.ndim:
            raise ShapeError(f"{called()}: the function made {found.type} of {y.type}; it may drop its axis only")
        y = found
    return y


__all__ = [
    "apply_along_axis",
    "apply_over_axes",
    "argwhere",
    "choose",
    "compress",
    "copyto",
    "extract",
    "flatnonzero",
    "nonzero",
    "piecewise",
    "place",
    "put",
    "put_along_axis",
    "putmask",
    "ravel_multi_index",
    "select",
    "take",
    "take_along_axis",
    "trim_zeros",
    "unravel_index",
]
