"""Vectors and lines of the first cache, 64 bytes each: what lies in two of these takes two accesses.

Elements that neighbours in a vector loop share are loaded once, and shifted by a lane or two, in one instruction:

    for i: y[i] = x[i] - x[i - 1]     vectors of 8: new = x[i : i + 8], x[i - 1 : i + 7] = last of old, first 7 of new

`old` is what the iteration before has loaded. And the vectors that a long loop stores begin where a line does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from tapefuse._records import dataclass
from tapefuse.codegen.contraction import registers
from tapefuse.codegen.llvm_instructions import memory_type
from tapefuse.codegen.llvm_loop_shapes import REGISTER, Shape, address_step
from tapefuse.codegen.llvm_regions import RegionWriter
from tapefuse.codegen.loops import Buffer, For, Let, Load, Num, Scalar, Store, Update, Var

LEAST_VECTORS = 4  # of a loop in which this pays
LEAST_ALIGNED = 32  # and of one whose first elements are computed apart


@dataclass(frozen=True, slots=True)
class Line:
    """Loads of one row of `buffer`, whose places differ by numbers. `index`: of one of them; `offsets`: of each from
    the place of the loop's index."""

    buffer: Buffer
    index: tuple[Scalar, ...]
    offsets: Mapping[Var, int]

    @property
    def first(self) -> int:
        return min(self.offsets.values())

    @property
    def last(self) -> int:
        return max(self.offsets.values())


def lines(s: For, slopes: Mapping[Var, int | None], lanes: int) -> list[Line]:
    """The rows of which a loop loads elements at several places, all within a vector of each other."""
    offsets = _offsets(s)
    stored = {t.buffer for t in s.body if isinstance(t, Store)}
    rows: dict[tuple, list[Load]] = {}
    for t in s.body:
        if not isinstance(t, Load) or t.buffer in stored or t.dst.dtype.kind == "b":
            continue
        moving = [k for k, i in enumerate(t.index) if i in slopes]
        if len(moving) == 1 and t.index[moving[0]] in offsets and address_step(t.buffer, t.index, dict(slopes)) == 1:
            fixed = tuple(None if k == moving[0] else i for k, i in enumerate(t.index))
            rows.setdefault((t.buffer, fixed), []).append(t)
    found = []
    for (buffer, fixed), loads in rows.items():
        axis = fixed.index(None)
        line = Line(buffer, loads[0].index, {t.dst: offsets[t.index[axis]] for t in loads})
        if 0 < line.last - line.first < lanes:
            found.append(line)
    return found


def _offsets(s: For) -> dict[Scalar, int]:
    """The scalars that are the loop's index, or that and a number."""
    found: dict[Scalar, int] = {s.var: 0}
    for t in s.body:
        if isinstance(t, Let) and t.op in ("add", "sub") and t.args[0] in found and isinstance(t.args[1], Num):
            more = int(t.args[1].value)
            found[t.dst] = found[t.args[0]] + (more if t.op == "add" else -more)
    return found


class Printing(Protocol):
    """What is read here of the loop that is printed (`llvm_vectors`)."""

    w: RegionWriter
    lanes: int
    bases: dict[tuple[Buffer, tuple[Scalar, ...]], str]

    @property
    def bits(self) -> str: ...
    def suffix(self, memory: str) -> str: ...
    def shuffled(self, x: str, y: str, v: str, sources: Iterable[int]) -> str: ...


class Neighbours:
    """How one loop loads them: slots on the stack, which LLVM makes registers, hold what was loaded before."""

    def __init__(self, s: For, shape: Shape):
        pays = registers().nbytes == REGISTER and (shape.trips is None or shape.trips >= LEAST_VECTORS * shape.width)
        self.lines = lines(s, shape.slopes, shape.width) if pays else []
        self.line_of = {dst: line for line in self.lines for dst in line.offsets}
        self.at = ""  # the index, in the copy of the body that uses the slots
        self.slots: list[str] = []
        self.loaded: dict[int, tuple[str, str]] = {}  # by line: what was loaded before, and now

    def begin(self, p: Printing, start: str, at: str) -> None:
        """Before a loop from `start`, whose index is called `at`: the elements before those that it loads first."""
        self.at, self.loaded = at, {}
        self.slots = [f"%neighbours{len(p.w.slots) + k}" for k in range(len(self.lines))]
        for slot, line in zip(self.slots, self.lines, strict=True):
            v = f"<{p.lanes} x {memory_type(line.buffer.type.dtype)}>"
            p.w.slots.append(f"  {slot} = alloca {v}")
            p.w.line(f"store {v} {_before(p, line, start)}, ptr {slot}")

    def end(self) -> None:
        self.at = ""

    def load(self, p: Printing, t: Load) -> str | None:
        """The vector that a load gives; None if it shares nothing, or there are no slots here."""
        if not self.at or t.dst not in self.line_of:
            return None
        line = self.line_of[t.dst]
        number = self.lines.index(line)
        v = f"<{p.lanes} x {memory_type(t.dst.dtype)}>"
        if number not in self.loaded:
            place = _address(p, line.buffer, line.index, self.at, line.last)
            new = p.w.new(f"load {v}, ptr {place}, align {t.dst.dtype.itemsize}")
            self.loaded[number] = p.w.new(f"load {v}, ptr {self.slots[number]}"), new
            p.w.line(f"store {v} {new}, ptr {self.slots[number]}")
        (old, new), by = self.loaded[number], line.last - line.offsets[t.dst]
        return new if by == 0 else p.shuffled(old, new, v, range(p.lanes - by, 2 * p.lanes - by))


@dataclass(frozen=True, slots=True)
class Place:
    """What a loop stores to `buffer`, and how far from the place of its index."""

    buffer: Buffer
    index: tuple[Scalar, ...]
    offset: int


def aligned_store(s: For, shape: Shape) -> Place | None:
    """The store whose vectors are to lie each in one line of the cache, in a loop where that pays: a store to two lines
    takes several times as long. None where lanes have sums of their own, which would then be others."""
    is_long = shape.trips is not None and shape.trips >= LEAST_ALIGNED * shape.width
    if registers().nbytes != REGISTER or not is_long or any(isinstance(t, Update) for t in s.body):
        return None
    offsets = _offsets(s)
    for t in s.body:
        if isinstance(t, Store) and t.value.dtype.itemsize * shape.width == REGISTER:
            moving = [i for i in t.index if i in shape.slopes]
            if len(moving) == 1 and moving[0] in offsets and address_step(t.buffer, t.index, shape.slopes) == 1:
                return Place(t.buffer, t.index, offsets[moving[0]])
    return None


def aligned_start(p: Printing, place: Place, start: str) -> str:
    """The first index from `start` on at which what is stored begins a line of the cache."""
    first = p.w.new(f"ptrtoint ptr {_address(p, place.buffer, place.index, start, place.offset)} to i64")
    ahead = p.w.new(f"and i64 {p.w.new(f'sub i64 0, {first}')}, {REGISTER - 1}")
    elements = p.w.new(f"lshr i64 {ahead}, {place.buffer.type.dtype.itemsize.bit_length() - 1}")
    return p.w.new(f"add i64 {start}, {elements}")


def _before(p: Printing, line: Line, start: str) -> str:
    """The vector before the one that an iteration at `start` loads, as far as that iteration reads it."""
    dtype = line.buffer.type.dtype
    memory, unread = memory_type(dtype), p.lanes - (line.last - line.first)
    v, mask = f"<{p.lanes} x {memory}>", ", ".join(f"i1 {'false' if k < unread else 'true'}" for k in range(p.lanes))
    f = p.w.needs.intrinsic(f"llvm.masked.load.{p.suffix(memory)}.p0", v, "ptr", "i32", p.bits, v)
    place = _address(p, line.buffer, line.index, start, line.last - p.lanes)
    return p.w.new(f"call {v} {f}(ptr {place}, i32 {dtype.itemsize}, {p.bits} <{mask}>, {v} zeroinitializer)")


def _address(p: Printing, buffer: Buffer, index: tuple[Scalar, ...], at: str, offset: int) -> str:
    """The address of the element `offset` places after the one that an index names."""
    memory = memory_type(buffer.type.dtype)
    first = p.w.new(f"getelementptr {memory}, ptr {p.bases[buffer, index]}, i64 {at}")
    return p.w.new(f"getelementptr {memory}, ptr {first}, i64 {offset}") if offset else first
