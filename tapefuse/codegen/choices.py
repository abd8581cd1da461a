"""Where the code generator may choose without changing results: what is fused, kept, cut, and how.

`AsMeasured` follows the cost model. `Drawn` decides at random, always alike for one seed and one question, so that
tests can compare many legal schedules of a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


class AsMeasured:
    """What the cost model says."""

    def decide(self, question: str, wanted: bool) -> bool:
        """Whether to do something that is legal; `question` names what it is about."""
        return wanted

    def number(self, question: str, wanted: int, legal: Sequence[int]) -> int:
        """One of the legal numbers."""
        return wanted


class Drawn(AsMeasured):
    """Chance, in a third of the cases."""

    def __init__(self, seed: int):
        self.seed = seed

    def _random(self, question: str) -> Random:
        return Random(f"{self.seed} {question}")

    def decide(self, question: str, wanted: bool) -> bool:
        random = self._random(question)
        return random.random() < 0.5 if random.random() < 1 / 3 else wanted

    def number(self, question: str, wanted: int, legal: Sequence[int]) -> int:
        random = self._random(question)
        return random.choice(legal) if random.random() < 2 / 3 and legal else wanted


AS_MEASURED = AsMeasured()
