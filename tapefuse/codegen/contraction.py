"""Register tiles of contractions (`loops.Contract`), by the vector registers of the machine.

A tile is a block of rows x columns of the result whose sums stay in registers while the terms go by: with 16 lanes of
float32, `tile(32, 256, 4)` is 8 rows by 2 vectors: each term loads 2 vectors of `b` and 8 elements of `a`, and does 16
multiply-adds.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from tapefuse._records import dataclass

MOST_ROWS = 8  # one pointer for each row stays in a general register
MOST_VECTORS = 4
LATENCY = 4  # cycles of a multiply-add: so many sums must be under way at once
# Cycles of one term of a tile, beside a multiply-add for each vector: elements of `a` come from the first cache,
# vectors of `b` from the second; storing the sums and starting the next tile is spread over 64 terms.
LOAD_A, LOAD_B, STORE, START = 0.1, 0.5, 2 / 64, 40 / 64


class Registers(NamedTuple):
    """The vector registers of a machine: bytes of one, and how many."""

    nbytes: int
    number: int


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` x `vectors` vectors of `lanes` lanes. `masked`: the last vectors are cut off where the columns end;
    otherwise the last tile starts earlier and computes some columns again."""

    rows: int
    vectors: int
    lanes: int
    masked: bool

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


@cache
def registers() -> Registers:
    """Those of this machine."""
    has = _multiarray_umath.__cpu_features__
    if has.get("AVX512F") or has.get("X86_V4"):
        return Registers(64, 32)
    if has.get("AVX2") and has.get("FMA3") or has.get("X86_V3"):
        return Registers(32, 16)
    return Registers(16, 32 if has.get("ASIMD") else 16)


def tile(rows: int, columns: int | None, itemsize: int, add: bool = False, target: Registers | None = None) -> Tile:
    """The tile for a contraction of mostly so many rows (0: unknown) and columns (None: unknown). Sums that are added
    to the result must not be computed twice: `add` needs masks."""
    nbytes, number = target or registers()
    lanes = nbytes // itemsize
    if columns is not None and 0 < columns < lanes:  # a shorter vector, with all lanes used or the last ones masked
        exact = columns & (columns - 1) == 0
        lanes = 1 << (columns.bit_length() - (exact or nbytes < 64))
    masked = columns is None or columns < lanes or add and columns % lanes != 0
    found = [
        Tile(r, v, lanes, masked)
        for r in range(1, MOST_ROWS + 1)
        for v in range(1, MOST_VECTORS + 1)
        if r * v + v + 1 <= number and (v == 1 or columns is None or _fits(v * lanes, columns, add and not masked))
    ]
    return min(found, key=lambda t: _cost(t, rows or 960, columns or 2 * lanes))


def _fits(columns: int, of: int, exactly: bool) -> bool:
    return of % columns == 0 if exactly else columns <= of


def _cost(t: Tile, rows: int, columns: int) -> float:
    """Of all tiles, in cycles a term."""
    tiles = -(-rows // t.rows) * -(-columns // t.columns)
    vectors = t.rows * t.vectors
    return tiles * (max(vectors, LATENCY) + LOAD_A * t.rows + LOAD_B * t.vectors + STORE * vectors + START)
