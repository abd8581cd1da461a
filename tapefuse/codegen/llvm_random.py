"""Random bits as LLVM instructions: the op `threefry` on one number, or on the lanes of a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tapefuse._records import dataclass
from tapefuse.ir.ops.random import encrypted

if TYPE_CHECKING:
    from tapefuse.codegen.llvm_instructions import Instructions

UINT32, UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """32 bits in a register; Python's operators append instructions."""

    writer: Instructions
    name: str

    def _with(self, op: str, other: Word | int) -> Word:
        operand = other.name if isinstance(other, Word) else self.writer.number(other, UINT32)
        return Word(self.writer, self.writer.new(f"{op} {self.writer.t(UINT32)} {self.name}, {operand}"))

    def __add__(self, other: Word | int) -> Word:
        return self._with("add", other)

    def __xor__(self, other: Word | int) -> Word:
        return self._with("xor", other)

    def rotated(self, count: int) -> Word:
        places = self.writer.number(count, UINT32)
        return Word(self.writer, self.writer.intrinsic("fshl", UINT32, self.name, self.name, places))


def threefry(writer: Instructions, key: str, counter: str) -> str:
    """The register with 64 bits for each lane."""
    wide, narrow = writer.t(UINT64), writer.t(UINT32)
    half = writer.number(32, UINT64)

    def word(x: str) -> Word:
        return Word(writer, writer.new(f"trunc {wide} {x} to {narrow}"))

    def halves(x: str) -> tuple[Word, Word]:
        return word(writer.new(f"lshr {wide} {x}, {half}")), word(x)

    high, low = (
        writer.new(f"zext {narrow} {x.name} to {wide}") for x in encrypted(halves(key), halves(counter), Word.rotated)
    )
    return writer.new(f"or {wide} {writer.new(f'shl {wide} {high}, {half}')}, {low}")
