"""Layers, activations and losses, written with the public functions of tapefuse like user code."""

from tapefuse.nn.activations import (
    activation,
    elu,
    gelu,
    leaky_relu,
    linear,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from tapefuse.nn.dense import Dense, glorot_uniform, he_normal, initializer
from tapefuse.nn.losses import mse, softmax_cross_entropy
from tapefuse.nn.module import Module

__all__ = [
    "Dense",
    "Module",
    "activation",
    "elu",
    "gelu",
    "glorot_uniform",
    "he_normal",
    "initializer",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mse",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "tanh",
]
