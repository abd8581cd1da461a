"""What every optimizer does: pair gradients with variables, keep slots, count steps."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import ShapeError
from tapefuse.ir.halves import FLOAT32, is_half, widened
from tapefuse.nn.module import Module
from tapefuse.optim.repeated import Pairs, RepeatedStep
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.source import user_stacklevel
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable

_OURS = "tapefuse.optim."  # updates known to be the same every time, but for the values of tensors and variables


class Optimizer(Module):
    """Base of `SGD` and `Adam`. A subclass gives `slot_names` and `update`, in terms of public functions.

    `learning_rate` and `iterations` are variables, so a compiled step reads their present value: assign to
    `optimizer.learning_rate` between steps without a new trace. Slots are variables made by `build` or by the first
    `apply_gradients`; they belong to `variables` and hence to checkpoints.

    Variables of float16 and bfloat16 are updated in float32 (Micikevicius et al. 2018): their slots are float32, and
    `masters` has the value that the variable is the rounded form of, so that small steps add up. Where a variable was
    assigned by others, its own value counts.
    """

    attribute_order: ClassVar[tuple[str, ...]] = ("iterations", "_learning_rate")
    slot_names: tuple[str, ...] = ()
    """The slots of each variable, e.g. ("m", "v")."""

    def __init__(self, learning_rate: float, name: str | None = None):
        super().__init__(name)
        self._learning_rate = Variable(np.float64(learning_rate), trainable=False, name="learning_rate")
        self.iterations = Variable(np.int64(0), trainable=False, name="iterations")
        self.slots: dict[str, list[Variable]] = {}
        self.masters: dict[str, Variable] = {}  # by number of the variable
        self._served = _Served()
        self._repeated = RepeatedStep(f"{self.name}.apply_gradients")

    @property
    def learning_rate(self) -> Variable:
        """A float64 scalar variable; assigning a number changes its value."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate.assign(np.float64(value))

    def build(self, variables: Iterable[Variable]) -> None:
        """Make the slots (zeros of each variable's shape and dtype, float32 for halves) for variables that have none
        yet."""
        for variable in variables:
            if not self._served.has(variable):
                self._serve(variable)

    def _serve(self, variable: Variable) -> None:
        """Make the slots of a variable, or note nothing if one cannot be made."""
        zeros = np.zeros(tuple(variable.shape), widened(variable.dtype))
        masters = []
        if is_half(variable.dtype):  # takes the variable's value in the first step
            masters.append(Variable(zeros, trainable=False, name=f"{variable.name}_master"))
        made = [Variable(zeros, trainable=False, name=f"{variable.name}_{slot}") for slot in self.slot_names]
        self._served.add(variable)
        for master in masters:
            self.masters[str(self._served.index(variable))] = master
        for slot, new in zip(self.slot_names, made, strict=True):
            self.slots.setdefault(slot, []).append(new)

    def slots_of(self, variable: Variable) -> tuple[Variable, ...]:
        """The slots of one variable, in the order of `slot_names`. Raises `KeyError` before they are built."""
        k = self._served.index(variable)
        return tuple(self.slots[slot][k] for slot in self.slot_names)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Variable]]) -> None:
        """One step. Variables whose gradient is None are left as they are, with a warning that names them.

        Raises `ValueError` when there is no gradient at all, `ShapeError` when one does not have its variable's shape.
        """
        pairs = [(_fitting(g, v), v) for g, v in _connected(list(grads_and_vars))]
        self.build(v for _, v in pairs)
        is_ours = type(self).update.__module__.startswith(_OURS)
        if not is_ours or not self._repeated.run(self._applied, self._settings(), pairs):
            self._applied(pairs)

    def _settings(self) -> tuple:
        """Python's numbers among the attributes, which a compiled step has in its code."""
        return tuple([x for x in vars(self).values() if type(x) in (int, float, bool)])

    def _applied(self, pairs: Pairs) -> None:
        self.iterations.assign_add(np.int64(1))
        for gradient, variable in pairs:
            rate = tp.astype(self._learning_rate, widened(variable.dtype))
            if is_half(variable.dtype):
                self._update_half(gradient, variable, rate)
            else:
                self.update(gradient, variable, rate, *self.slots_of(variable))

    def _update_half(self, g: Any, variable: Variable, rate: Any) -> None:
        """The step of the float32 that a half is rounded from."""
        master = self.masters[str(self._served.index(variable))]
        is_whole = tp.equal(tp.astype(master, variable.dtype), variable)
        master.assign(tp.where(is_whole, master, tp.astype(variable, FLOAT32)))
        self.update(tp.astype(tp.asarray(g), FLOAT32), master, rate, *self.slots_of(variable))
        variable.assign(tp.astype(master, variable.dtype))

    def update(self, g: Any, variable: Variable, rate: Any, *slots: Variable) -> None:
        """Assign the new value of `variable` and of its slots. `g` and `rate` have the variable's dtype.

        `g` is `IndexedRows` where the variable is a table that was looked up in; used like a tensor, it is the dense
        gradient."""
        raise TypeError(f"{type(self).__name__} must define update(g, variable, rate, *slots)")


class _Served:
    """The variables that have slots, by identity. Not a container, so a module does not find them in it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Variable]] = {}  # holds the variable, so that its id stays its own

    def has(self, variable: Variable) -> bool:
        return id(variable) in self._known

    def add(self, variable: Variable) -> None:
        self._known[id(variable)] = len(self._known), variable

    def index(self, variable: Variable) -> int:
        return self._known[id(variable)][0]


def _connected(pairs: Sequence[tuple[Any, Variable]]) -> list[tuple[Any, Variable]]:
    for _, variable in pairs:
        if not isinstance(variable, Variable):
            raise TypeError(
                f"apply_gradients takes (gradient, variable) pairs, got a {type(variable).__name__} as a variable; "
                "write zip(gradients, variables)"
            )
    lost = [v.name for g, v in pairs if g is None]
    kept = [(g, v) for g, v in pairs if g is not None]
    if not kept:
        names = f" (all None: {', '.join(lost)})" if lost else ""
        raise ValueError(f"no gradients for any variable{names}; is the loss computed inside the tape, from them?")
    if lost:
        warnings.warn(
            f"gradients of {', '.join(lost)} are None, since the loss does not depend on them; they stay as they are",
            stacklevel=user_stacklevel(),
        )
    return kept


def _fitting(gradient: Any, variable: Variable) -> Tensor | IndexedRows:
    gradient = gradient if isinstance(gradient, IndexedRows) else as_tensor(gradient)
    if tuple(gradient.shape) != tuple(variable.shape):
        raise ShapeError(
            f"the gradient of variable {variable.name!r} has shape {list(gradient.shape)}, "
            f"the variable {list(variable.shape)}; are gradients and variables in the same order?"
        )
    return gradient
