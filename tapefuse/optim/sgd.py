"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from tapefuse.optim.optimizer import Optimizer
from tapefuse.tracer.variable import Variable


class SGD(Optimizer):
    """w -= rate * g, or with momentum (Polyak 1964, the form of Sutskever et al. 2013):

    v = momentum * v - rate * g;  w += v, or w += momentum * v - rate * g with `nesterov`.
    Without momentum, a gradient of look-ups changes the rows that were read and no others; with it, all rows move.
    Raises `ValueError` for a momentum outside [0, 1].
    """

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False, name: str | None = None
    ):
        super().__init__(learning_rate, name)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must be in [0, 1], got {momentum!r}")
        self.momentum = momentum
        self.nesterov = nesterov
        self.slot_names = ("momentum",) if momentum else ()

    def update(self, g: Any, variable: Variable, rate: Any, *slots: Variable) -> None:
        if not slots:
            variable.assign_sub(g * rate)  # the named rows only, if g is IndexedRows
            return
        velocity = self.momentum * slots[0] - rate * g
        slots[0].assign(velocity)
        variable.assign_add(self.momentum * velocity - rate * g if self.nesterov else velocity)
