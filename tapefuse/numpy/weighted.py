"""Quantiles of elements with weights, as NumPy's method "inverted_cdf" has them."""

from __future__ import annotations

import numpy as np

from tapefuse.ir.halves import kind_of
from tapefuse.numpy.elementwise import astype, divide, equal, isnan, where
from tapefuse.numpy.reduce import any, cumsum, sum
from tapefuse.numpy.selecting import take_along_axis
from tapefuse.numpy.shape import expand_dims, getitem, reshape
from tapefuse.numpy.sorting import argsort
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, TracedTensor


def check_weights(weights: Tensor) -> None:
    """Raises ValueError for weights that are known, and negative."""
    if not isinstance(weights, TracedTensor) and weights.size and bool((weights._array < 0).any()):
        raise ValueError(f"{called()}: weights must be non-negative")


class WeightedRows:
    """Rows of elements along the last axis in ascending order, with the shares of weight up to each one.

    `skip_nan`: elements that are nan have no weight. Weights that are nan, infinite or all zero are a ValueError where
    they are known, and give nan where they are not.
    """

    def __init__(self, rows: Tensor, weights: Tensor, skip_nan: bool):
        order = argsort(rows, -1)
        self.elements = take_along_axis(rows, order, -1)
        heavy = astype(take_along_axis(weights, order, -1), np.float64)
        if kind_of(rows.dtype) == "f":
            absent = isnan(self.elements)
            heavy = where(absent, 0.0, heavy) if skip_nan else heavy
            self.missing = isnan(_last(self.elements)) if not skip_nan else equal(sum(astype(~absent, np.int64), -1), 0)
        else:
            self.missing = any(astype(getitem(heavy, (..., slice(0, 0))), bool), -1)  # never
        total = cumsum(heavy, -1)
        shares = divide(total, expand_dims(_last(total), -1))
        self._check(shares)
        self.shares = where(equal(shares, 0), -1.0, shares)  # so that nobody without weight is the quantile 0

    def _check(self, shares: Tensor) -> None:
        if isinstance(shares, TracedTensor) or isinstance(self.missing, TracedTensor):
            return
        if bool((np.isnan(shares._array[..., -1]) & ~self.missing._array).any()):
            raise ValueError(f"{called()}: weights included nan, inf or were all zero")

    def quantile(self, q: Tensor) -> Tensor:
        """The first element of each row with at least the share `q`, a number."""
        before = sum(astype(astype(self.shares, q.dtype) < q, np.int64), -1)
        last = self.elements.shape[-1] - 1
        k = where(before > last, last, before)
        found = reshape(take_along_axis(self.elements, expand_dims(k, -1), -1), k.shape)
        return where(self.missing, np.nan, found) if kind_of(found.dtype) == "f" else found


def _last(x: Tensor) -> Tensor:
    return getitem(x, (..., -1))
