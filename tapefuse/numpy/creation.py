"""Arrays from nothing: filled ones, ranges, grids, and the positions of triangles and diagonals.

Without `dtype`, Python floats give float32 and ints int32, as in `tapefuse.constant`; positions are int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of, promoted
from tapefuse.ir.op import Literal
from tapefuse.ir.types import Dim, Poly, Shape, real_dtype
from tapefuse.numpy.elementwise import add, astype, exp, log, multiply, power, real_only, subtract, where
from tapefuse.numpy.shape import (
    _counter,
    _extents,
    _fixed,
    _integers,
    _refuse,
    _whole,
    broadcast_to,
    dim,
    moveaxis,
    reshape,
)
from tapefuse.tracer.applying import apply
from tapefuse.tracer.arrays import check_dtype, python_kind
from tapefuse.tracer.operators import Operators
from tapefuse.tracer.rewriting.calls import counts
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, constant

# -- filled ---------------------------------------------------------------------------------------------------------


def array(x: Any, dtype: Any = None, copy: bool | None = None) -> Tensor:
    """`x` as a tensor, of another dtype if one is given; Python numbers as in `tapefuse.constant`."""
    return constant(x, dtype)


asarray = array


def copy(x: Any, order: str = "K", subok: bool = False) -> Tensor:
    """Another tensor with the value of `x`, which stays when something is stored into `x`."""
    _refuse(order=order)
    return as_tensor(x).copy()


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C", *, device: Any = None) -> Tensor:
    """`fill_value` everywhere; its dtype as for `constant` unless given."""
    _refuse(order=order, device=device)
    return broadcast_to(constant(fill_value, dtype), shape)


def zeros(shape: Any, dtype: Any = np.float32, order: str = "C", *, device: Any = None) -> Tensor:
    """Zeros, float32 unless said otherwise."""
    _refuse(order=order, device=device)
    return _filled(_extents(shape), 0, dtype)


def ones(shape: Any, dtype: Any = np.float32, order: str = "C", *, device: Any = None) -> Tensor:
    """Ones, float32 unless said otherwise."""
    _refuse(order=order, device=device)
    return _filled(_extents(shape), 1, dtype)


def empty(shape: Any, dtype: Any = np.float32, order: str = "C", *, device: Any = None) -> Tensor:
    """Zeros: a tensor is never written to, so what it holds from the start is what it holds."""
    return zeros(shape, dtype, order, device=device)


def _filled(shape: Shape, value: int, dtype: Any) -> Tensor:
    scalar = np.asarray(value, check_dtype(dtype, "a value"))
    if state.trace is None:
        return as_tensor(np.full(shape, scalar))
    return broadcast_to(apply(ops.const, (), {"value": Literal(scalar)}), shape)


def full_like(
    x: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None
) -> Tensor:
    """`fill_value` in the shape and dtype of `x`."""
    x = as_tensor(x)
    _refuse(order=order)
    return full(x.shape if shape is None else shape, fill_value, dtype or x.dtype)


def zeros_like(x: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> Tensor:
    """Zeros in the shape and dtype of `x`."""
    x = as_tensor(x)
    _refuse(order=order)
    return zeros(x.shape if shape is None else shape, dtype or x.dtype)


def ones_like(x: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> Tensor:
    """Ones in the shape and dtype of `x`."""
    x = as_tensor(x)
    _refuse(order=order)
    return ones(x.shape if shape is None else shape, dtype or x.dtype)


empty_like = zeros_like

# -- ranges ---------------------------------------------------------------------------------------------------------


@counts(lambda bounds: np.int32)
def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... below stop. Python ints give int32, floats float32, unless `dtype` says otherwise.

    `arange(x.shape[0])` works for a symbolic extent.
    """
    start, stop = (0, start) if stop is None else (start, stop)
    if isinstance(start, Poly) or isinstance(stop, Poly):
        if type(step) is not int or step != 1:
            raise ShapeError(f"arange over the symbolic extent {stop} at {user_loc()} takes a step of 1")
        return _counts(start, stop - start, dtype)
    if all(type(n) is int for n in (start, stop, step)) and step == 1 and kind_of(np.dtype(dtype or np.int32)) in "iuf":
        return _counts(start, max(stop - start, 0), dtype)  # in a trace no array, but what is counted as it is read
    numbers = [np.asarray(v).item() if isinstance(v, Operators) else v for v in (start, stop, step)]
    values = np.arange(*numbers)
    if dtype is None and all(python_kind(v) for v in numbers):
        dtype = np.float32 if kind_of(values.dtype) == "f" else np.int32
    return constant(values, dtype)


def _counts(start: Dim, count: Dim, dtype: Any) -> Tensor:
    """start, start + 1, ...: so many."""
    dtype = np.dtype(dtype or np.int32)
    counts: Tensor = apply(ops.iota, (), {"shape": (count,), "axis": 0, "dtype": dtype})
    return counts if isinstance(start, int) and start == 0 else ops.add(counts, dim(start, dtype))


def _is_weak(*ends: Any) -> bool:
    return all(python_kind(v) is not None for v in ends)


def _is_fixed(*ends: Any) -> bool:
    return not any(isinstance(v, Operators) for v in ends)


def _ends(*ends: Any) -> list[Tensor]:
    """The ends of a range as tensors of the floating-point dtype that NumPy gives them."""
    arrays = [as_tensor(v, np.float64) for v in ends]
    whole = any(kind_of(x.dtype) not in "fc" for x in arrays)
    dtype = promoted(*[x.dtype for x in arrays], np.dtype(np.float64) if whole else 0.0)
    return [astype(x, dtype) for x in arrays]


def _fractions(num: int, endpoint: bool, like: Tensor) -> Tensor:
    """0 to 1 in `num` even steps, along a first axis in front of those of `like`."""
    steps = num - 1 if endpoint else num
    values = np.arange(num) / steps if steps > 0 else np.zeros(num)
    return reshape(constant(values, real_dtype(like.dtype)), (num, *(1,) * like.ndim))


def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None, axis: int = 0
) -> Any:
    """`num` evenly spaced numbers from start to stop, which may be arrays; float32 for Python numbers.

    With `retstep` the distance between neighbours as well.
    """
    num = _count(num)
    if _is_fixed(start, stop):
        values, step = np.linspace(start, stop, num, endpoint, retstep=True, axis=axis)
        dtype = dtype or (np.float32 if _is_weak(start, stop) and kind_of(values.dtype) == "f" else None)
        y = constant(np.floor(values) if dtype is not None and np.dtype(dtype).kind in "iu" else values, dtype)
        return (y, constant(step, y.dtype if kind_of(y.dtype) == "f" else np.float64)) if retstep else y
    first, last = _ends(start, stop)
    span = subtract(last, first)
    y = add(first, multiply(_fractions(num, endpoint, span), span))
    if endpoint and num > 1:  # the end itself, not something near it
        is_last = ops.eq(_counter(num, 0, y.ndim), num - 1)
        y = where(is_last, broadcast_to(last, span.shape), y)
    y = moveaxis(y, 0, axis) if axis != 0 else y
    if dtype is not None:
        y = astype(ops.floor(y) if np.dtype(dtype).kind in "iu" else y, dtype)
    parts = num - 1 if endpoint else num
    return (y, multiply(span, 1 / parts if parts > 0 else np.nan)) if retstep else y


def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Tensor:
    """base ** start to base ** stop with evenly spaced exponents; float32 for Python numbers."""
    if _is_fixed(start, stop, base):
        values = np.logspace(start, stop, _count(num), endpoint, base, None, axis)
        weak = _is_weak(start, stop, base) and kind_of(values.dtype) == "f"
        return constant(values, dtype or (np.float32 if weak else None))
    y = power(base, linspace(start, stop, num, endpoint, axis=axis))
    return y if dtype is None else astype(y, dtype)


def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Tensor:
    """start to stop with equal ratios of neighbours; float32 for Python numbers, else float64. Ends have one sign."""
    if _is_fixed(start, stop):
        values = np.geomspace(start, stop, _count(num), endpoint, None, axis)
        weak = _is_weak(start, stop) and kind_of(values.dtype) == "f"
        return constant(values, dtype or (np.float32 if weak else None))
    first, last = (astype(real_only(as_tensor(v, np.float64)), np.float64) for v in (start, stop))
    ratio = log(ops.div(*[broadcast_to(x, np.broadcast_shapes(first.shape, last.shape)) for x in (last, first)]))
    y = multiply(first, exp(multiply(_fractions(_count(num), endpoint, ratio), ratio)))
    y = moveaxis(y, 0, axis) if axis != 0 else y
    return y if dtype is None else astype(y, dtype)


def _count(num: Any) -> int:
    num = _whole(num, "num")
    if num < 0:
        raise ValueError(f"{called()}: the number of samples, {num}, must not be negative")
    return num


# -- matrices -------------------------------------------------------------------------------------------------------


def eye(n: int, m: int | None = None, k: int = 0, dtype: Any = np.float32, order: str = "C") -> Tensor:
    """Ones on the k-th diagonal of an n by m (n by n) matrix."""
    _refuse(order=order)
    return as_tensor(np.eye(n, m, k, dtype=dtype))


def identity(n: int, dtype: Any = np.float32) -> Tensor:
    """The n by n matrix with ones on its diagonal."""
    return eye(n, dtype=dtype)


def tri(n: int, m: int | None = None, k: int = 0, dtype: Any = np.float32) -> Tensor:
    """Ones on and below the k-th diagonal of an n by m (n by n) matrix."""
    return as_tensor(np.tri(n, m, k, dtype=dtype))


# -- grids ----------------------------------------------------------------------------------------------------------


def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinates of the points of a grid, a tensor for each vector. `indexing="ij"`: axes in the vectors' order."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"{called()}: indexing must be 'xy' or 'ij', not {indexing!r}")
    vectors = [as_tensor(x) for x in xi]
    if any(x.ndim > 1 for x in vectors):
        vectors = [reshape(x, (x.size,)) for x in vectors]
    rank = len(vectors)
    places = [1 - k if indexing == "xy" and k < 2 <= rank else k for k in range(rank)]
    grid = [reshape(x, [x.size if a == place else 1 for a in range(rank)])
            for x, place in zip(vectors, places, strict=True)]  # fmt: skip
    extents = {place: x.size for x, place in zip(vectors, places, strict=True)}
    shape = tuple([extents[a] for a in range(rank)])
    return tuple(grid if sparse else [broadcast_to(x, shape) for x in grid])


def indices(dimensions: Any, dtype: Any = np.int64, sparse: bool = False) -> Any:
    """The index along each axis of an array of this shape: [rank, ...], or a tuple of thin tensors if `sparse`."""
    shape = _extents(dimensions)
    counters = [_counter(n, k, len(shape), dtype) for k, n in enumerate(shape)]
    if sparse:
        return tuple(counters)
    if not counters:
        return constant(np.indices(()), dtype)
    return ops.concat(*[reshape(broadcast_to(c, shape), (1, *shape)) for c in counters], axis=0)


def fromfunction(function: Callable[..., Any], shape: Any, *, dtype: Any = np.float64, **kwargs: Any) -> Any:
    """`function` of the index arrays of an array of this shape, called once."""
    extents = _extents(shape)
    counters = [broadcast_to(_counter(n, k, len(extents), dtype), extents) for k, n in enumerate(extents)]
    return function(*counters, **kwargs)


def ix_(*args: Any) -> tuple[Tensor, ...]:
    """Vectors of positions as index arrays that span a grid: `x[ix_([0, 2], [1, 3])]`. Masks stand for positions."""
    found = []
    for k, arg in enumerate(args):
        x = as_tensor(arg)
        if x.ndim != 1:
            raise ShapeError(f"{called()}: {x.type} must be a vector of positions")
        x = as_tensor(np.flatnonzero(np.asarray(x))) if x.dtype.kind == "b" else x
        x = _integers(x)
        found.append(reshape(x, [x.size if a == k else 1 for a in range(len(args))]))
    return tuple(found)


class _Grid:
    """`mgrid[0:3, 0:1:5j]`: NumPy's grids, by slices."""

    def __init__(self, grid: Any):
        self._grid = grid

    def __getitem__(self, key: Any) -> Any:
        grid = self._grid[key]
        return tuple(map(constant, grid)) if isinstance(grid, tuple) else constant(grid)


mgrid, ogrid = _Grid(np.mgrid), _Grid(np.ogrid)


# -- positions of triangles and diagonals ---------------------------------------------------------------------------


def _constants(arrays: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    return tuple([as_tensor(a) for a in arrays])


@lru_cache(maxsize=64)
def _triangle(lower: bool, n: int, k: int, m: int | None) -> tuple[np.ndarray, ...]:
    return (np.tril_indices if lower else np.triu_indices)(n, k, m)


def tril_indices(n: int, k: int = 0, m: int | None = None) -> tuple[Tensor, ...]:
    """Rows and columns of the elements on and below the k-th diagonal of an n by m matrix."""
    return _constants(_triangle(True, n, k, m))


def triu_indices(n: int, k: int = 0, m: int | None = None) -> tuple[Tensor, ...]:
    """Rows and columns of the elements on and above the k-th diagonal of an n by m matrix."""
    return _constants(_triangle(False, n, k, m))


def mask_indices(n: int, mask_func: Callable[..., Any], k: Any = 0) -> tuple[Tensor, ...]:
    """Positions in an n by n matrix where `mask_func` of ones, such as `tril`, is not zero."""
    return _constants(np.nonzero(np.asarray(mask_func(ones((n, n), np.int64), k))))


def _matrix_extents(x: Any) -> tuple[int, int]:
    x = as_tensor(x)
    if x.ndim != 2:
        raise ShapeError(f"{called()}: {x.type} must be a matrix")
    return _fixed(x.shape[0], "the matrix"), _fixed(x.shape[1], "the matrix")


def tril_indices_from(x: Any, k: int = 0) -> tuple[Tensor, ...]:
    """`tril_indices` for the shape of a matrix."""
    n, m = _matrix_extents(x)
    return tril_indices(n, k, m)


def triu_indices_from(x: Any, k: int = 0) -> tuple[Tensor, ...]:
    """`triu_indices` for the shape of a matrix."""
    n, m = _matrix_extents(x)
    return triu_indices(n, k, m)


def diag_indices(n: int, ndim: int = 2) -> tuple[Tensor, ...]:
    """Positions of the main diagonal of an array with `ndim` axes of extent n."""
    return _constants(np.diag_indices(n, ndim))


def diag_indices_from(x: Any) -> tuple[Tensor, ...]:
    """`diag_indices` for an array whose extents are equal."""
    x = as_tensor(x)
    if x.ndim < 2 or len(set(x.shape)) > 1:
        raise ShapeError(f"{called()}: {x.type} must have 2 axes or more, all of one extent")
    return diag_indices(_fixed(x.shape[0], "the array"), x.ndim)


__all__ = [
    "arange",
    "array",
    "asarray",
    "copy",
    "diag_indices",
    "diag_indices_from",
    "empty",
    "empty_like",
    "eye",
    "fromfunction",
    "full",
    "full_like",
    "geomspace",
    "identity",
    "indices",
    "ix_",
    "linspace",
    "logspace",
    "mask_indices",
    "meshgrid",
    "mgrid",
    "ogrid",
    "ones",
    "ones_like",
    "tri",
    "tril_indices",
    "tril_indices_from",
    "triu_indices",
    "triu_indices_from",
    "zeros",
    "zeros_like",
]
