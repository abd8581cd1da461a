"""Draws of vectors, and masks of dropout."""

from __future__ import annotations

from typing import Any

from tapefuse._errors import ShapeError
from tapefuse.ir.halves import widened
from tapefuse.ir.ops import cholesky
from tapefuse.ir.types import broadcast_shapes, show_shape
from tapefuse.numpy import expand_dims, where
from tapefuse.random.continuous import standard_normal
from tapefuse.random.discrete import bernoulli
from tapefuse.random.keys import as_key
from tapefuse.random.parameters import check, drawn_shape, float_dtype, parameter
from tapefuse.tracer.promote import cast
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor


def dropout(key: Any, x: Any, rate: Any = 0.5) -> Tensor:
    """`x` with each element 0 with probability `rate`, others divided by 1 - rate, so that its mean stays.

    Raises ValueError for a known rate outside of 0 <= rate < 1. (Srivastava et al. 2014)
    """
    check(rate, lambda v: (v >= 0) & (v < 1), "the rate must be at least 0 and below 1")
    x = as_tensor(x)
    dtype = float_dtype(x.dtype)
    keep = 1 - (rate if type(rate) in (int, float) else parameter(rate, dtype))
    return where(bernoulli(key, keep, x.shape), x / keep, 0)


def multivariate_normal(key: Any, mean: Any, cov: Any, shape: Any = None, dtype: Any = None) -> Tensor:
    """Normal vectors with mean `[..., n]` and symmetric positive definite covariance `[..., n, n]`: `[*shape, n]`.

    mean + L z for Cholesky's factor L of the covariance. `shape` is that of the vectors' places, to which those of
    mean and covariance broadcast. Raises ShapeError for other shapes, LinAlgError for a known covariance that is not
    positive definite.
    """
    dtype = float_dtype(dtype, mean, cov)
    work = widened(dtype)
    mean, cov = parameter(mean, work), parameter(cov, work)
    if not mean.shape or len(cov.shape) < 2 or cov.shape[-2:] != (mean.shape[-1],) * 2:
        raise ShapeError(
            f"{called()}: a mean of shape {show_shape(mean.shape)} needs a covariance of shape [..., n, n], not "
            f"{show_shape(cov.shape)}"
        )
    lead = broadcast_shapes(mean.shape[:-1], cov.shape[:-2])
    lead = lead if shape is None else drawn_shape(shape)
    if broadcast_shapes(lead, mean.shape[:-1], cov.shape[:-2]) != lead:
        raise ShapeError(f"{called()}: mean and covariance do not broadcast to the shape {show_shape(lead)}")
    z = standard_normal(as_key(key), (*lead, mean.shape[-1]), work)
    return cast(mean + (cholesky(cov) @ expand_dims(z, -1))[..., 0], dtype)


__all__ = ["dropout", "multivariate_normal"]
