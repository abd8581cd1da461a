"""The fully connected layer."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import ShapeError
from tapefuse.nn.activations import activation as activation_of
from tapefuse.nn.module import Module
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable

Initializer = Callable[[Any, tuple[int, ...]], np.ndarray]  # of a numpy.random.Generator and a shape


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs and units a kernel `[*taps, inputs, units]` connects, a connection for each tap."""
    taps = prod(shape[:-2])
    return (taps * shape[-2] if len(shape) > 1 else shape[0]), taps * shape[-1]


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in +-sqrt(6 / (inputs + units)), to keep the variance of signals. (Glorot and Bengio 2010)"""
    limit = np.sqrt(6.0 / sum(fans(shape)))
    return rng.uniform(-limit, limit, shape)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal with variance 2 / inputs, for layers under relu. (He et al. 2015)"""
    return rng.normal(0.0, np.sqrt(2.0 / fans(shape)[0]), shape)


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in +-0.05, for tables of embeddings."""
    return rng.uniform(-0.05, 0.05, shape)


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape)


INITIALIZERS: dict[str, Initializer] = {f.__name__: f for f in (glorot_uniform, he_normal, uniform, zeros, ones)}


def initializer(which: str | Initializer) -> Initializer:
    """The initializer of that name, or the callable itself. Raises `ValueError`."""
    if callable(which):
        return which
    if which not in INITIALIZERS:
        raise ValueError(f"{which!r} is not an initializer; expected a callable or one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[which]


class Dense(Module):
    """activation(x @ kernel + bias): x is `[..., inputs]`, the result `[..., units]`.

    `kernel` is `[inputs, units]`, `bias` is `[units]`. They are made here if `inputs` is given, otherwise on the first
    call, when the width of x is known. `seed` is an integer or a `numpy.random.Generator`.
    Raises `ShapeError` when x does not end with `inputs`.
    """

    attribute_order: ClassVar[tuple[str, ...]] = ("kernel", "bias")

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Any], Tensor] | None = None,
        *,
        inputs: int | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ):
        super().__init__(name)
        if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units < 1:
            raise ValueError(f"Dense needs a positive integer of units, got {units!r}")
        self.units = int(units)
        self.activation = activation_of(activation)
        self.use_bias = use_bias
        self.kernel: Variable | None = None
        self.bias: Variable | None = None
        self._initializers = initializer(kernel_initializer), initializer(bias_initializer)
        self._rng = np.random.default_rng(seed)
        self._dtype = np.dtype(dtype)
        if inputs is not None:
            self.build(inputs)

    def build(self, inputs: int) -> None:
        """Make the variables for inputs of that width; does nothing if they exist."""
        if self.kernel is not None:
            return
        make_kernel, make_bias = self._initializers
        kernel = make_kernel(self._rng, (inputs, self.units))
        self.kernel = Variable(np.asarray(kernel, self._dtype), name="kernel")
        if self.use_bias:
            self.bias = Variable(np.asarray(make_bias(self._rng, (self.units,)), self._dtype), name="bias")

    def __call__(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if not x.shape:
            raise ShapeError(f"{self.name} needs at least one axis, got a scalar of dtype {x.dtype}")
        if self.kernel is None:
            self.build(width_of(self.name, x.shape[-1]))
        assert self.kernel is not None
        if x.shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"{self.name}: x {tuple(x.shape)} ends with {x.shape[-1]}, but the kernel is "
                f"{tuple(self.kernel.shape)}; the last axis of x must be {self.kernel.shape[0]}"
            )
        y = tp.matmul(x, self.kernel)
        return self.activation(y if self.bias is None else y + self.bias)


def width_of(name: str, size: Any) -> int:
    """An extent of x that sizes variables. Raises ShapeError if it is a symbol."""
    if not isinstance(size, int):
        raise ShapeError(
            f"{name} cannot make its variables: the last axis of x has the symbolic size {size}; "
            "give inputs=... or a fixed size in the TensorSpec"
        )
    return size
