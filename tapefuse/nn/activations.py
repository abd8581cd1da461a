"""Activation functions: elementwise, except for the two softmaxes, which normalise along an axis."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

from tapefuse import numpy as tp
from tapefuse.tracer.tensor import Tensor, as_tensor


def linear(x: Any) -> Tensor:
    """x itself."""
    return as_tensor(x)


def relu(x: Any) -> Tensor:
    """max(x, 0). Its derivative at 0 is 0."""
    return tp.relu(x)


def leaky_relu(x: Any, alpha: float = 0.2) -> Tensor:
    """x where it is positive, `alpha * x` elsewhere."""
    return tp.where(as_tensor(x) > 0, x, alpha * x)


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """x where it is positive, `alpha * (exp(x) - 1)` elsewhere; derivative `alpha` at 0. (Clevert et al. 2015)"""
    x = as_tensor(x)
    return tp.where(x > 0, x, alpha * tp.expm1(tp.minimum(x, 0)))


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)), without overflow at either end."""
    return tp.sigmoid(x)


def tanh(x: Any) -> Tensor:
    return tp.tanh(x)


def softplus(x: Any) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    return tp.softplus(x)


def silu(x: Any) -> Tensor:
    """x * sigmoid(x), also called swish. (Elfwing et al. 2017)"""
    return x * tp.sigmoid(x)


def gelu(x: Any, approximate: bool = False) -> Tensor:
    """x times the standard normal distribution function at x. (Hendrycks and Gimpel 2016)

    `approximate`: their form 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))), off by 5e-4 at most, computed without
    cancellation as x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x**3)).
    """
    if approximate:
        return x * tp.sigmoid(2.0 * sqrt(2.0 / pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1.0 + tp.erf(x / sqrt(2.0)))


def gelu_tanh(x: Any) -> Tensor:
    """gelu in its approximate form, as an activation by name."""
    return gelu(x, approximate=True)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`; same shape and dtype as x. Shifted by the maximum, so it cannot overflow."""
    return tp.softmax(x, axis)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """log(softmax(x)) along `axis`, exact where softmax underflows."""
    return tp.log_softmax(x, axis)


ACTIVATIONS: dict[str, Callable[[Any], Tensor]] = {
    f.__name__: f
    for f in (linear, relu, leaky_relu, elu, sigmoid, tanh, softplus, silu, gelu, gelu_tanh, softmax, log_softmax)
}


def activation(which: str | Callable[[Any], Tensor] | None) -> Callable[[Any], Tensor]:
    """The function of that name; a callable is returned as it is, None means `linear`. Raises `ValueError`."""
    if which is None:
        return linear
    if callable(which):
        return which
    if which not in ACTIVATIONS:
        raise ValueError(f"{which!r} is not an activation; expected a callable or one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[which]
