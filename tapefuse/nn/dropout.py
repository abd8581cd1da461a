"""Dropout: a layer with random numbers of its own."""

from __future__ import annotations

from typing import Any

from tapefuse.nn.module import Module
from tapefuse.random import Generator
from tapefuse.random import dropout as _dropout
from tapefuse.tracer.tensor import Tensor, as_tensor


class Dropout(Module):
    """While training, each element of x is 0 with probability `rate`, others are divided by 1 - rate; else x itself.

    `training` is an argument of the call: False unless said otherwise. The masks come from a generator of its own, made
    from `seed` (an integer, a `tp.random.Generator` to be shared, or None for one that differs from run to run); its
    state is a variable, which compiled functions advance. Raises ValueError unless 0 <= rate < 1. (Srivastava et al.
    2014)
    """

    def __init__(self, rate: float = 0.5, *, seed: int | Generator | None = None, name: str | None = None):
        super().__init__(name)
        if not 0 <= rate < 1:
            raise ValueError(f"{type(self).__name__} needs a rate of at least 0 and below 1, got {rate!r}")
        self.rate = float(rate)
        self.generator = seed if isinstance(seed, Generator) else Generator(seed)

    def __call__(self, x: Any, training: bool = False) -> Tensor:
        if not training or self.rate == 0:
            return as_tensor(x)
        return _dropout(x, self.rate, key=self.generator.key())
