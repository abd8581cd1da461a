"""The standard's functions of arrays."""

from __future__ import annotations

from typing import Any

from tapefuse import numpy as tp
from tapefuse.array_api.standard import Function, all_of
from tapefuse.tracer.tensor import Tensor, as_tensor

_ONE = """
abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor imag isfinite isinf isnan log
log1p log10 log2 logical_not negative positive real reciprocal round sign signbit sin sinh sqrt square tan tanh trunc
"""
_TWO = """
add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal floor_divide
greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor maximum minimum multiply
nextafter not_equal power remainder subtract matmul
"""
_ROWS = """
all(x, /, *, axis=None, keepdims=False)
any(x, /, *, axis=None, keepdims=False)
argmax(x, /, *, axis=None, keepdims=False)
argmin(x, /, *, axis=None, keepdims=False)
broadcast_to(x, /, shape)
clip(x, /, min=None, max=None)
concat(arrays, /, *, axis=0)
count_nonzero(x, /, *, axis=None, keepdims=False)
cumulative_prod(x, /, *, axis=None, dtype=None, include_initial=False)
cumulative_sum(x, /, *, axis=None, dtype=None, include_initial=False)
diff(x, /, *, axis=-1, n=1, prepend=None, append=None)
expand_dims(x, /, axis)
flip(x, /, *, axis=None)
matrix_transpose(x, /)
max(x, /, *, axis=None, keepdims=False)
mean(x, /, *, axis=None, keepdims=False)
min(x, /, *, axis=None, keepdims=False)
moveaxis(x, source, destination, /)
nonzero(x, /)
permute_dims(x, /, axes)
prod(x, /, *, axis=None, dtype=None, keepdims=False)
repeat(x, repeats, /, *, axis=None)
roll(x, /, shift, *, axis=None)
searchsorted(x1, x2, /, *, side='left', sorter=None)
squeeze(x, /, axis)
stack(arrays, /, *, axis=0)
std(x, /, *, axis=None, correction=0.0, keepdims=False)
sum(x, /, *, axis=None, dtype=None, keepdims=False)
take(x, indices, /, *, axis=None)
take_along_axis(x, indices, /, *, axis=-1)
tensordot(x1, x2, /, *, axes=2)
tile(x, repetitions, /)
unique_all(x, /)
unique_counts(x, /)
unique_inverse(x, /)
unique_values(x, /)
unstack(x, /, *, axis=0)
var(x, /, *, axis=None, correction=0.0, keepdims=False)
vecdot(x1, x2, /, *, axis=-1)
where(condition, x1, x2, /)
"""


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements along an axis in order; nan at the end."""
    found = tp.sort(x, axis)
    return tp.flip(found, axis) if descending else found


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Positions that sort along an axis; equal elements keep their order."""
    if not descending:
        return tp.argsort(x, axis)
    x = as_tensor(x)
    return x.shape[axis] - 1 - tp.flip(tp.argsort(tp.flip(x, axis), axis), axis)


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    """The same elements in another shape."""
    found = tp.reshape(x, shape)
    return found.copy() if copy else found


def broadcast_arrays(*arrays: Any) -> list[Tensor]:
    """Arrays broadcast to one shape."""
    return list(tp.broadcast_arrays(*arrays))


FUNCTIONS: dict[str, Function] = {
    **all_of(tp, "\n".join(f"{name}(x, /)" for name in _ONE.split())),
    **all_of(tp, "\n".join(f"{name}(x1, x2, /)" for name in _TWO.split())),
    **all_of(tp, _ROWS),
    "argsort": argsort,
    "broadcast_arrays": broadcast_arrays,
    "reshape": reshape,
    "sort": sort,
}
FUNCTIONS["pow"] = FUNCTIONS.pop("power")
