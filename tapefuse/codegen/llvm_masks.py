"""Choices between a number and zero, made by loads under a mask: lanes that a mask leaves out are zeros.

    c = lt i 38                           c = lt i 38
    t = load b0[i]                        t = load b0[i] where c, else 0
    u = mul t 0.125              ->       u = mul t 0.125
    v = select c u 0.0                    w = add x u
    w = add x v

A masked load costs what others do, a choice costs an instruction more, and keeps product and sum from being one.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np

from tapefuse._records import dataclass
from tapefuse.codegen.contraction import registers
from tapefuse.codegen.llvm_loop_shapes import REGISTER, Slopes, address_step
from tapefuse.codegen.loops import For, Let, Load, Num, Scalar, Var
from tapefuse.codegen.loops_walk import readers
from tapefuse.ir.types import size

MOST = 64  # statements that a choice is made of
_OPS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


@dataclass(frozen=True, slots=True)
class _Choice:
    """`select condition value 0.0`, and the scalars from which only such choices are made."""

    let: Let
    made: frozenset[Scalar]

    @property
    def condition(self) -> Scalar:
        return self.let.args[0]


class Zeroed:
    """Which loads of a loop are done under which condition, and which choices are what they choose then."""

    def __init__(self, s: For, slopes: Slopes):
        self.body, self.slopes = s.body, slopes
        self.made: dict[Scalar, Let | Load] = {t.dst: t for t in s.body if isinstance(t, Let | Load)}
        self.place: dict[Scalar, int] = {t.dst: k for k, t in enumerate(s.body) if isinstance(t, Let | Load)}
        has_masks = registers().nbytes == REGISTER
        wanted = [t for t in s.body if has_masks and isinstance(t, Let) and self._is_choice(t)]
        zeros = self._zeros() if wanted else {}
        kept = self._kept([c for t in wanted if (c := self._choice(t, zeros)) is not None])
        self.choices = frozenset(c.let.dst for c in kept)
        self.loads: dict[Scalar, Scalar] = {
            x: c.condition for c in kept for x in c.made if isinstance(self.made[x], Load)
        }

    def _is_choice(self, t: Let) -> bool:
        """Whether a statement chooses between a float that varies and zero."""
        if t.op != "select" or t.dst not in self.slopes or t.dst.dtype.kind != "f":
            return False
        return isinstance(t.args[0], Var) and _is_zero(t.args[2])

    def _zeros(self) -> dict[Scalar, np.floating]:
        """What scalars would be if every element that is loaded were 0, where that is known."""
        found: dict[Scalar, np.floating] = {}
        with np.errstate(all="ignore"):
            for x, t in self.made.items():
                if x not in self.slopes or x.dtype.kind != "f":
                    continue
                if isinstance(t, Load):
                    found[x] = x.dtype.type(0)
                elif t.op in _OPS and all(a in found or isinstance(a, Num) for a in t.args):
                    values = (a.dtype.type(a.value) if isinstance(a, Num) else found[a] for a in t.args)
                    found[x] = _OPS[t.op](*values)
        return found

    def _choice(self, t: Let, zeros: Mapping[Scalar, np.floating]) -> _Choice | None:
        """A choice between zero and what is zero if all that it loads is."""
        condition, value, _ = t.args
        if value not in zeros or zeros[value] != 0 or np.signbit(zeros[value]):
            return None
        made, wanted = set[Scalar](), [value]
        while wanted and len(made) <= MOST:
            x = wanted.pop()
            if x in made or isinstance(x, Num):
                continue
            made.add(x)
            u = self.made[x]
            if isinstance(u, Let):
                wanted += u.args
            elif not self._may_be_masked(u, condition):
                return None
        return None if wanted else _Choice(t, frozenset(made))

    def _may_be_masked(self, t: Load, condition: Scalar) -> bool:
        """Whether elements lie side by side where a condition holds, which is known before."""
        if condition in self.slopes and self.place[condition] > self.place[t.dst]:
            return False
        if address_step(t.buffer, t.index, dict(self.slopes)) == 1:
            return True
        axes = [k for k, i in enumerate(t.index) if i in self.slopes]
        if len(axes) != 1 or size(t.buffer.type.shape[axes[0] + 1 :]) != 1:
            return False
        chosen = self._chosen(t.index[axes[0]])
        if chosen is None or not isinstance(chosen.args[1], Var) or self.slopes.get(chosen.args[1]) != 1:
            return False
        return chosen.args[2] not in self.slopes and chosen.args[0] in self._implied(condition)

    def _chosen(self, index: Scalar) -> Let | None:
        """The choice that an index is, up to what is added to it."""
        t = self.made.get(index)
        while isinstance(t, Let) and t.op in ("add", "sub") and t.args[1] not in self.slopes:
            t = self.made.get(t.args[0])
        return t if isinstance(t, Let) and t.op == "select" else None

    def _implied(self, condition: Scalar) -> set[Scalar]:
        """A condition and those that hold where it does."""
        found, wanted = set[Scalar](), [condition]
        while wanted:
            x = wanted.pop()
            t = self.made.get(x)
            if x not in found and isinstance(t, Let) and t.op == "and":
                wanted += t.args
            found.add(x)
        return found

    def _kept(self, choices: list[_Choice]) -> list[_Choice]:
        """The choices of whose parts nothing else is made."""
        made_of = readers(self.body)
        while True:
            parts: dict[Scalar, set[Scalar]] = {}  # what is made under a condition, and chosen
            for c in choices:
                parts.setdefault(c.condition, set()).update((*c.made, c.let.dst))
            fine = [c for c in choices if all(parts[c.condition].issuperset(made_of[x]) for x in c.made)]
            if len(fine) == len(choices):
                return fine
            choices = fine


def _is_zero(x: Scalar) -> bool:
    return isinstance(x, Num) and x.value == 0 and not np.signbit(x.value)
