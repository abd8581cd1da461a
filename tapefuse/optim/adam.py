"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from tapefuse import numpy as tp
from tapefuse.optim.optimizer import Optimizer
from tapefuse.tracer.variable import Variable


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014), in the order of computation at the end of their section 2:

    m += (1 - beta_1) * (g - m);  v += (1 - beta_2) * (g**2 - v)
    w -= rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)
    with t = 1, 2, ... the number of the step. Raises `ValueError` for a beta outside [0, 1).
    """

    slot_names = ("m", "v")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str | None = None,
    ):
        super().__init__(learning_rate, name)
        for label, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{label} must be in [0, 1), got {beta!r}")
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def update(self, g: Any, variable: Variable, rate: Any, *slots: Variable) -> None:
        mean, square = slots
        t = tp.astype(self.iterations, variable.dtype)
        mean.assign_add((1.0 - self.beta_1) * (g - mean))
        square.assign_add((1.0 - self.beta_2) * (g * g - square))
        scale = rate * tp.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t)
        variable.assign_sub(scale * mean / (tp.sqrt(square) + self.epsilon))


class AdamW(Adam):
    """Adam with weight decay beside the gradient's step, not in the gradient (Loshchilov and Hutter 2019):

    w -= rate * weight_decay * w, with the value of w before the step, then the step of `Adam`.
    Raises `ValueError` as `Adam`, and for a negative `weight_decay`.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str | None = None,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, name)
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay!r}")
        self.weight_decay = weight_decay

    def update(self, g: Any, variable: Variable, rate: Any, *slots: Variable) -> None:
        variable.assign_sub(rate * self.weight_decay * variable)
        super().update(g, variable, rate, *slots)
