"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from tapefuse import numpy as tp
from tapefuse.optim.optimizer import Optimizer
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.variable import Variable


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014), in the order of computation at the end of their section 2:

    m += (1 - beta_1) * (g - m);  v += (1 - beta_2) * (g**2 - v)
    w -= rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)
    with t = 1, 2, ... the number of the step. Rows that are looked up twice have the sum of their gradients as g.

    `lazy`: where the gradient is that of look-ups (`IndexedRows`), the rows that were read take this step and all other
    rows of w, m and v stay as they are, so that a step costs what it reads. Without it the gradient of other rows is
    zero: their moments decay, and they move on by what is left of them, as if the gradient were dense.
    Raises `ValueError` for a beta outside [0, 1).
    """

    slot_names = ("m", "v")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str | None = None,
        lazy: bool = False,
    ):
        super().__init__(learning_rate, name)
        for label, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{label} must be in [0, 1), got {beta!r}")
        self.beta_1, self.beta_2, self.epsilon, self.lazy = beta_1, beta_2, epsilon, lazy

    def update(self, g: Any, variable: Variable, rate: Any, *slots: Variable) -> None:
        if self.lazy and isinstance(g, IndexedRows):
            self._update_rows(g, variable, rate, *slots)
            return
        mean, square = slots
        g = tp.asarray(g)
        mean.assign_add((1.0 - self.beta_1) * (g - mean))
        square.assign_add((1.0 - self.beta_2) * (g * g - square))
        variable.assign_sub(self._step(mean, square, variable, rate))

    def _step(self, mean: Any, square: Any, variable: Variable, rate: Any) -> Any:
        t = tp.astype(self.iterations, variable.dtype)
        scale = rate * tp.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t)
        return scale * mean / (tp.sqrt(square) + self.epsilon)

    def _update_rows(self, g: IndexedRows, variable: Variable, rate: Any, *slots: Variable) -> None:
        """The step for the rows that `g` names. A row that is named twice is computed twice, to the same values."""
        mean, square = slots
        at, total = g.indices, g.totals()
        m, v = mean[at], square[at]
        m, v = m + (1.0 - self.beta_1) * (total - m), v + (1.0 - self.beta_2) * (total * total - v)
        mean[at], square[at] = m, v
        variable[at] = variable[at] - self._step(m, v, variable, rate)


class AdamW(Adam):
    """Adam with weight decay beside the gradient's step, not in the gradient (Loshchilov and Hutter 2019):

    w -= rate * weight_decay * w, with the value of w before the step, then the step of `Adam`. With `lazy`, rows that
    were not read do not decay either. Raises `ValueError` as `Adam`, and for a negative `weight_decay`.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str | None = None,
        lazy: bool = False,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, name, lazy)
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay!r}")
        self.weight_decay = weight_decay

    def update(self, g: Any, variable: Variable, rate: Any, *slots: Variable) -> None:
        if self.lazy and isinstance(g, IndexedRows):
            rows = variable[g.indices]
            variable[g.indices] = rows - rate * self.weight_decay * rows
        else:
            variable.assign_sub(rate * self.weight_decay * variable)
        super().update(g, variable, rate, *slots)
