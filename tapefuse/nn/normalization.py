"""Normalisation over the last axis: every row is scaled by statistics of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import ShapeError
from tapefuse.nn.dense import width_of
from tapefuse.nn.module import Module
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable


def layer_norm(x: Any, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon), over the last axis; shape and dtype of x. (Ba et al. 2016)"""
    x = as_tensor(x)
    deviation = x - tp.mean(x, axis=-1, keepdims=True)
    return deviation * tp.rsqrt(tp.mean(deviation * deviation, axis=-1, keepdims=True) + epsilon)


def rms_norm(x: Any, epsilon: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x**2) + epsilon), over the last axis; shape and dtype of x. (Zhang and Sennrich 2019)"""
    x = as_tensor(x)
    return x * tp.rsqrt(tp.mean(x * x, axis=-1, keepdims=True) + epsilon)


class _Normalization(Module):
    """What the layers below share: a factor, and perhaps a shift, for each element of the last axis.

    `inputs` is the extent of that axis; without it the variables are made on the first call.
    """

    attribute_order: ClassVar[tuple[str, ...]] = ("scale", "bias")

    def __init__(
        self, inputs: int | None, epsilon: float, use_scale: bool, use_bias: bool, dtype: Any, name: str | None
    ):
        super().__init__(name)
        if not epsilon >= 0:
            raise ValueError(f"{type(self).__name__} needs an epsilon of at least 0, got {epsilon!r}")
        self.epsilon, self.use_scale, self.use_bias = epsilon, use_scale, use_bias
        self.scale: Variable | None = None
        self.bias: Variable | None = None
        self._dtype, self._inputs = np.dtype(dtype), inputs
        if inputs is not None:
            self.build(inputs)

    def build(self, inputs: int) -> None:
        """Make the variables, ones and zeros, for rows of that length; does nothing if they exist."""
        self._inputs = inputs
        if self.use_scale and self.scale is None:
            self.scale = Variable(np.ones(inputs, self._dtype), name="scale")
        if self.use_bias and self.bias is None:
            self.bias = Variable(np.zeros(inputs, self._dtype), name="bias")

    def __call__(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if not x.shape:
            raise ShapeError(f"{self.name} needs at least one axis, got a scalar of dtype {x.dtype}")
        if self._inputs is None:
            self.build(width_of(self.name, x.shape[-1]))
        if (self.use_scale or self.use_bias) and x.shape[-1] != self._inputs:
            raise ShapeError(f"{self.name}: the last axis of x {tuple(x.shape)} must be {self._inputs}")
        y = self.normalized(x)
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias

    def normalized(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define normalized(x)")


class LayerNorm(_Normalization):
    """layer_norm(x) * scale + bias: x is `[..., inputs]`, scale and bias are `[inputs]`. (Ba et al. 2016)

    Raises `ShapeError` when x does not end with `inputs`, `ValueError` for a negative epsilon.
    """

    def __init__(
        self,
        inputs: int | None = None,
        epsilon: float = 1e-5,
        *,
        use_scale: bool = True,
        use_bias: bool = True,
        dtype: Any = np.float32,
        name: str | None = None,
    ):
        super().__init__(inputs, epsilon, use_scale, use_bias, dtype, name)

    def normalized(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.epsilon)


class RMSNorm(_Normalization):
    """rms_norm(x) * scale: x is `[..., inputs]`, scale is `[inputs]`. (Zhang and Sennrich 2019)

    Raises as `LayerNorm`.
    """

    def __init__(
        self,
        inputs: int | None = None,
        epsilon: float = 1e-6,
        *,
        use_scale: bool = True,
        dtype: Any = np.float32,
        name: str | None = None,
    ):
        super().__init__(inputs, epsilon, use_scale, False, dtype, name)

    def normalized(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.epsilon)
