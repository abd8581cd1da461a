"""Steps of an optimizer in a plain Python loop, compiled when they repeat themselves, as `tracer.repeating` does it for
the tapes in front of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tapefuse._config import config
from tapefuse._errors import TapefuseError
from tapefuse.function import TapeFunction, tape_function
from tapefuse.tracer import repeating
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.variable import Variable

Pairs = Sequence[tuple[Tensor | IndexedRows, Variable]]


class RepeatedStep:
    """The steps of one optimizer. A step with other variables, or after a setting of the optimizer was changed, is
    another one: what is compiled has the settings that are Python's numbers in it."""

    def __init__(self, name: str):
        self.name = name
        self.kind: tuple = ()
        self.in_a_row = self.runs = self.compiled_after = 0
        self.compiled: TapeFunction | None = None
        self.reason = ""
        repeating.mention(self)

    def __reduce__(self) -> tuple:
        return RepeatedStep, (self.name,)

    def __str__(self) -> str:
        if not config.compile_repeated_tapes:
            return f"{self.name}: not compiled, since config.compile_repeated_tapes is 0"
        if self.compiled is not None:
            return f"{self.name}: compiled after {self.compiled_after} repetitions; run {self.runs} times"
        if self.reason:
            return f"{self.name}: not compiled, {self.reason}"
        return f"{self.name}: not compiled yet, {self.in_a_row} of {config.compile_repeated_tapes} equal steps in a row"

    def run(self, step: Callable[[Pairs], None], settings: tuple, pairs: Pairs) -> bool:
        """Make a step with compiled code; False if there is none for it."""
        needed = config.compile_repeated_tapes
        if not needed or self.reason or state.trace is not None or state.tapes:
            return False
        kind = (settings, *[id(v) for _, v in pairs])
        if kind != self.kind:
            self.kind, self.in_a_row, self.compiled = kind, 0, None
        self.in_a_row += 1
        if self.in_a_row <= needed or any(type(g) is not Tensor for g, _ in pairs):
            return False
        if self.compiled is None:
            variables = [v for _, v in pairs]
            self.compiled_after = needed
            self.compiled = tape_function(lambda *gs: step(list(zip(gs, variables, strict=True))))
            self.compiled.__name__ = self.name
        try:
            self.compiled(*[g for g, _ in pairs])
        except TapefuseError as error:  # of compiling: nothing has been changed yet
            self.reason, self.compiled = f"since {error}", None
            return False
        self.runs += 1
        return True
