"""Layers, activations and losses, written with the public functions of tapefuse like user code."""

from tapefuse.nn.activations import (
    activation,
    elu,
    gelu,
    gelu_tanh,
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
from tapefuse.nn.attention import MultiHeadAttention, scaled_dot_product_attention
from tapefuse.nn.convolution import Conv1D, Conv2D, conv1d, conv2d
from tapefuse.nn.dense import Dense, glorot_uniform, he_normal, initializer
from tapefuse.nn.dropout import Dropout
from tapefuse.nn.embedding import Embedding
from tapefuse.nn.losses import mse, softmax_cross_entropy
from tapefuse.nn.module import Module
from tapefuse.nn.normalization import LayerNorm, RMSNorm, layer_norm, rms_norm
from tapefuse.nn.pooling import (
    AveragePool1D,
    AveragePool2D,
    Flatten,
    MaxPool1D,
    MaxPool2D,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)

__all__ = [
    "AveragePool1D",
    "AveragePool2D",
    "Conv1D",
    "Conv2D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "LayerNorm",
    "MaxPool1D",
    "MaxPool2D",
    "Module",
    "MultiHeadAttention",
    "RMSNorm",
    "activation",
    "avg_pool1d",
    "avg_pool2d",
    "conv1d",
    "conv2d",
    "elu",
    "gelu",
    "gelu_tanh",
    "glorot_uniform",
    "he_normal",
    "initializer",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "mse",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "tanh",
]
