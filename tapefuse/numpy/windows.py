"""Windows to taper signals with, under NumPy's names: float64, 0 or small at both ends, 1 in the middle."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.numpy.elementwise import divide, multiply
from tapefuse.numpy.floats import i0
from tapefuse.numpy.shape import _whole
from tapefuse.tracer.tensor import Tensor, as_tensor


def bartlett(M: Any) -> Tensor:
    """A triangle that is 0 at both ends."""
    return as_tensor(np.bartlett(_whole(M, "M")))


def blackman(M: Any) -> Tensor:
    """0.42 - 0.5 cos(2 pi n / (M - 1)) + 0.08 cos(4 pi n / (M - 1))"""
    return as_tensor(np.blackman(_whole(M, "M")))


def hamming(M: Any) -> Tensor:
    """0.54 - 0.46 cos(2 pi n / (M - 1))"""
    return as_tensor(np.hamming(_whole(M, "M")))


def hanning(M: Any) -> Tensor:
    """0.5 - 0.5 cos(2 pi n / (M - 1))"""
    return as_tensor(np.hanning(_whole(M, "M")))


def kaiser(M: Any, beta: Any) -> Tensor:
    """i0(beta sqrt(1 - (2 n / (M - 1) - 1)**2)) / i0(beta), differentiable by `beta`, a number."""
    M = _whole(M, "M")
    if M <= 1:
        return as_tensor(np.ones(max(M, 0)))
    half = (M - 1) / 2.0
    heights = np.sqrt(1 - ((np.arange(M) - half) / half) ** 2)
    beta = as_tensor(beta, np.float64)
    return divide(i0(multiply(heights, beta)), i0(multiply(beta, 1.0)))


__all__ = ["bartlett", "blackman", "hamming", "hanning", "kaiser"]
