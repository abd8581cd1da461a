"""The standard's extension for Fourier transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse import numpy as tp
from tapefuse.array_api.standard import all_of
from tapefuse.numpy import fft as _fft
from tapefuse.tracer.exchange import on_cpu
from tapefuse.tracer.tensor import Tensor

_ONE = "(x, /, *, n=None, axis=-1, norm='backward')"
_MANY = "(x, /, *, s=None, axes=None, norm='backward')"
_ROWS = [f"{name}{_ONE}" for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")]
_ROWS += [f"{name}{_MANY}" for name in ("fftn", "ifftn", "rfftn", "irfftn")]
_ROWS += [f"{name}(x, /, *, axes=None)" for name in ("fftshift", "ifftshift")]
_FUNCTIONS = all_of(_fft, "\n".join(_ROWS))
globals().update(_FUNCTIONS)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """Frequencies of the places of a transform of length `n`, float32 unless said otherwise."""
    on_cpu(device)
    return tp.astype(_fft.fftfreq(n, d), np.float32 if dtype is None else dtype)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """Frequencies of the places of a transform of `n` real numbers, float32 unless said otherwise."""
    on_cpu(device)
    return tp.astype(_fft.rfftfreq(n, d), np.float32 if dtype is None else dtype)


__all__ = list(_FUNCTIONS)
__all__ += ["fftfreq", "rfftfreq"]
