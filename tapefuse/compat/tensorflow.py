"""TensorFlow's names for what tapefuse does: `from tapefuse.compat import tensorflow as tf`.

A change of spelling only; docs/differences.md lists where the behaviour differs. Names that are missing here are not
supported.
"""

from __future__ import annotations

import builtins
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tapefuse import nn as _nn
from tapefuse import numpy as tp
from tapefuse import optim as _optim
from tapefuse import random as _random
from tapefuse.compat.forward import ForwardAccumulator
from tapefuse.compat.loops import TensorArray, case, cond, map_fn, scan, switch_case, while_loop
from tapefuse.function import tape_function
from tapefuse.ir import ops
from tapefuse.nn import Module
from tapefuse.numpy import (
    cos,
    exp,
    expand_dims,
    maximum,
    minimum,
    ones_like,
    reshape,
    sign,
    sin,
    sqrt,
    square,
    squeeze,
    stack,
    stop_gradient,
    tanh,
    where,
    zeros_like,
)
from tapefuse.tracer.custom import custom_gradient, grad_pass_through, recompute
from tapefuse.tracer.rewriting.calls import counts
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.signature import TensorSpec
from tapefuse.tracer.tape import GradientTape
from tapefuse.tracer.tape_arguments import UnconnectedGradients
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.tensor import constant as _constant
from tapefuse.tracer.variable import Variable, alias

function = tape_function
IndexedSlices = IndexedRows
recompute_grad = recompute
autodiff = SimpleNamespace(ForwardAccumulator=ForwardAccumulator)

float16, float32, float64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
complex64, complex128 = np.dtype(np.complex64), np.dtype(np.complex128)
int8, int16, int32, int64 = np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)
uint8, bool = np.dtype(np.uint8), np.dtype(np.bool_)

Axis = int | tuple[int, ...] | list[int] | None


def constant(value: Any, dtype: Any = None, shape: Any = None, name: str | None = None) -> Tensor:
    """A tensor; Python floats become float32. `shape` reshapes, a single number fills. The name is ignored."""
    x = _constant(value, dtype)
    if shape is None:
        return x
    return tp.broadcast_to(x, tuple(shape)) if x.ndim == 0 else tp.reshape(x, tuple(shape))


convert_to_tensor = constant


def identity(input: Any) -> Tensor:
    """The same value as a tensor of its own: a source of gradients apart from its input."""
    return alias(as_tensor(input))


def zeros(shape: Any, dtype: Any = float32) -> Tensor:
    return _constant(np.zeros(shape, dtype))


def ones(shape: Any, dtype: Any = float32) -> Tensor:
    return _constant(np.ones(shape, dtype))


def fill(dims: Any, value: Any) -> Tensor:
    return tp.broadcast_to(_constant(value), tuple(dims))


def eye(num_rows: int, num_columns: int | None = None, dtype: Any = float32) -> Tensor:
    return _constant(np.eye(num_rows, num_columns, dtype=dtype))


@counts(lambda bounds: np.result_type(*[x.dtype for x in bounds if hasattr(x, "dtype")]))
def range(start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None) -> Tensor:
    """start, start + delta, ... below limit; int32 from integers, float32 from floats."""
    ends: Any = (0, start) if limit is None else (start, limit)
    integers = all(np.asarray(x).dtype.kind in "iu" for x in (*ends, delta))
    kind: Any = dtype or (int32 if integers else float32)
    first, last = ends
    return _constant(np.arange(first, last, delta, dtype=kind))


def linspace(start: Any, stop: Any, num: int) -> Tensor:
    """`num` evenly spaced numbers, both ends included; float32 from Python numbers."""
    dtype = np.result_type(*(getattr(x, "dtype", float32) for x in (start, stop)))
    return _constant(np.linspace(start, stop, num, dtype=dtype))


def cast(x: Any, dtype: Any) -> Tensor:
    return tp.astype(x, dtype)


def concat(values: Any, axis: int) -> Tensor:
    return tp.concatenate(values, axis=axis)


def transpose(a: Any, perm: Any = None) -> Tensor:
    return tp.transpose(a, perm)


def matmul(a: Any, b: Any, transpose_a: builtins.bool = False, transpose_b: builtins.bool = False) -> Tensor:
    """a @ b over leading axes, with the last two axes of an operand swapped on request."""
    a = tp.swapaxes(a, -1, -2) if transpose_a else a
    b = tp.swapaxes(b, -1, -2) if transpose_b else b
    return tp.matmul(a, b)


def gather(params: Any, indices: Any, axis: int = 0) -> Tensor:
    return tp.take(params, indices, axis=axis)


def one_hot(indices: Any, depth: int, dtype: Any = float32) -> Tensor:
    """A last axis of length `depth` that is 1 at the index and 0 elsewhere; all 0 for an index outside."""
    indices = as_tensor(indices)
    return tp.astype(tp.equal(tp.expand_dims(indices, -1), np.arange(depth, dtype=indices.dtype)), dtype)


def argmax(input: Any, axis: int = 0) -> Tensor:
    return tp.argmax(input, axis=axis)


def argmin(input: Any, axis: int = 0) -> Tensor:
    return tp.argmin(input, axis=axis)


def sort(values: Any, axis: int = -1, direction: str = "ASCENDING") -> Tensor:
    """Sorted along an axis, `direction` "ASCENDING" or "DESCENDING"."""
    y = tp.sort(values, axis)
    return tp.flip(y, axis) if _is_descending(direction) else y


def argsort(values: Any, axis: int = -1, direction: str = "ASCENDING", stable: builtins.bool = False) -> Tensor:
    """Positions (int32) that sort along an axis; equal elements keep their order."""
    if not _is_descending(direction):
        return tp.astype(tp.argsort(values, axis), int32)
    return tp.astype(tp.top_k(values, as_tensor(values).shape[axis], axis=axis)[1], int32)


def _is_descending(direction: str) -> builtins.bool:
    if direction not in ("ASCENDING", "DESCENDING"):
        raise ValueError(f"direction must be 'ASCENDING' or 'DESCENDING', not {direction!r}")
    return direction == "DESCENDING"


class TopK(NamedTuple):
    values: Tensor
    indices: Tensor


def _top_k(input: Any, k: int = 1, sorted: builtins.bool = True) -> TopK:
    """The k largest elements of each row and their positions (int32)."""
    values, indices = tp.top_k(input, k)
    return TopK(values, tp.astype(indices, int32))


def searchsorted(sorted_sequence: Any, values: Any, side: str = "left", out_type: Any = int32) -> Tensor:
    """Where values would be put into a sorted vector."""
    return tp.astype(tp.searchsorted(sorted_sequence, values, side), out_type)


def clip_by_value(t: Any, clip_value_min: Any, clip_value_max: Any) -> Tensor:
    return tp.clip(t, clip_value_min, clip_value_max)


def clip_by_norm(t: Any, clip_norm: Any, axes: Axis = None) -> Tensor:
    return _optim.clip_by_norm(t, clip_norm, _axis(axes))


def clip_by_global_norm(t_list: Any, clip_norm: Any, use_norm: Any = None) -> tuple[list[Tensor | None], Tensor]:
    return _optim.clip_by_global_norm(t_list, clip_norm, use_norm)


def _axis(axis: Axis) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _reduction(reduce: Any) -> Any:
    def reduction(input_tensor: Any, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
        return reduce(input_tensor, axis=_axis(axis), keepdims=keepdims)

    reduction.__name__ = f"reduce_{reduce.__name__}"
    reduction.__doc__ = f"tapefuse.{reduce.__name__} over `axis` (all axes by default)."
    return reduction


reduce_sum, reduce_prod, reduce_mean = _reduction(tp.sum), _reduction(tp.prod), _reduction(tp.mean)
reduce_max, reduce_min = _reduction(tp.max), _reduction(tp.min)
reduce_any, reduce_all = _reduction(tp.any), _reduction(tp.all)

add, subtract, multiply, divide, pow = tp.add, tp.subtract, tp.multiply, tp.divide, tp.power
abs, round, floor, negative = tp.abs, tp.round, tp.floor, tp.negative
equal, not_equal, less, greater = tp.equal, tp.not_equal, tp.less, tp.greater
less_equal, greater_equal = tp.less_equal, tp.greater_equal
logical_and, logical_or, logical_not = tp.logical_and, tp.logical_or, tp.logical_not


def _divide_no_nan(x: Any, y: Any) -> Tensor:
    """x / y, and 0 where y is 0."""
    y = as_tensor(y)
    zero = tp.equal(y, 0)
    return tp.where(zero, 0, x / tp.where(zero, tp.ones_like(y), y))


math = SimpleNamespace(
    abs=abs, add=add, angle=tp.angle, ceil=tp.ceil, conj=tp.conj, cos=cos, imag=tp.imag, real=tp.real,
    divide=divide, divide_no_nan=_divide_no_nan, equal=equal, erf=tp.erf,
    exp=exp, expm1=tp.expm1, floor=floor, floordiv=tp.floor_divide, floormod=tp.mod, greater=greater,
    is_finite=tp.isfinite, is_nan=tp.isnan, less=less, log=tp.log, log1p=tp.log1p, maximum=maximum, minimum=minimum,
    mod=tp.mod, multiply=multiply, negative=negative, pow=pow, reduce_all=reduce_all, reduce_any=reduce_any,
    reduce_logsumexp=_reduction(tp.logsumexp), reduce_max=reduce_max, reduce_mean=reduce_mean, reduce_min=reduce_min,
    reduce_prod=reduce_prod, reduce_std=_reduction(tp.std), reduce_sum=reduce_sum, reduce_variance=_reduction(tp.var),
    round=round, rsqrt=tp.rsqrt, sigmoid=tp.sigmoid, sign=sign, sin=sin, softplus=tp.softplus, sqrt=sqrt,
    square=square, squared_difference=lambda x, y: tp.square(tp.subtract(x, y)), subtract=subtract, tan=tp.tan,
    tanh=tanh, top_k=_top_k, unsorted_segment_max=tp.segment_max, unsorted_segment_mean=tp.segment_mean,
    unsorted_segment_min=tp.segment_min, unsorted_segment_prod=tp.segment_prod, unsorted_segment_sum=tp.segment_sum,
)  # fmt: skip
sigmoid = tp.sigmoid

nn = SimpleNamespace(
    elu=_nn.elu, gelu=_nn.gelu, leaky_relu=_nn.leaky_relu, log_softmax=_nn.log_softmax, relu=_nn.relu,
    sigmoid=_nn.sigmoid, silu=_nn.silu, softmax=_nn.softmax, softplus=_nn.softplus, tanh=_nn.tanh,
    top_k=_top_k,
    softmax_cross_entropy_with_logits=lambda labels, logits: _nn.softmax_cross_entropy(logits, labels),
    sparse_softmax_cross_entropy_with_logits=lambda labels, logits: _nn.softmax_cross_entropy(logits, labels),
)  # fmt: skip

keras = SimpleNamespace(
    layers=SimpleNamespace(Dense=_nn.Dense),
    optimizers=SimpleNamespace(SGD=_optim.SGD, Adam=_optim.Adam),
)

linalg = SimpleNamespace(matmul=matmul, global_norm=_optim.global_norm)


class _Random:
    """`tf.random`: one generator per process, which `set_seed` restarts; compiled functions draw anew in each call."""

    def __init__(self) -> None:
        self._generator = _random.Generator(name="tf.random")

    def set_seed(self, seed: int) -> None:
        self._generator.seed(seed)

    def normal(
        self, shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = float32, seed: int | None = None
    ) -> Tensor:
        """Normally distributed numbers. `seed` makes this one call reproducible."""
        return _random.normal(shape, mean, stddev, dtype, key=self._key(seed))

    def uniform(
        self, shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: Any = float32, seed: int | None = None
    ) -> Tensor:
        """Numbers in minval <= x < maxval. `seed` makes this one call reproducible."""
        return _random.uniform(shape, minval, maxval, dtype, key=self._key(seed))

    def _key(self, seed: int | None) -> Tensor:
        return self._generator.key() if seed is None else _random.key(seed)


random = _Random()


def _adjust_contrast(images: Any, contrast_factor: Any) -> Tensor:
    """(x - mean) * factor + mean per channel of `[..., height, width, channels]`; as in TensorFlow, no derivative."""
    images = as_tensor(images)
    mean = tp.mean(images, axis=(-3, -2), keepdims=True)
    return ops.missing_gradient((images - mean) * contrast_factor + mean, name="AdjustContrastv2")


image = SimpleNamespace(adjust_contrast=_adjust_contrast)
