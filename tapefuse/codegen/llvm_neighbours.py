"""Vectors and lines of the first cache, 64 bytes each: what lies in two of these takes two accesses.

Elements that neighbours in a vector loop share are loaded once, and shifted by a lane or two, in one instruction:

    for i: y[i] = x[i] - x[i - 1]     vectors of 8: new = x[i : i + 8], x[i - 1 : i + 7] = last of old, first 7 of new

`old` is what the iteration before has loaded. And the vectors that a long loop stores begin where a line does.
"""

from __future__ import annotations

from collections.abc import Mapping

from tapefuse._records import dataclass
from tapefuse.codegen.contraction import registers
from tapefuse.codegen.llvm_instructions import memory_type
from tapefuse.codegen.llvm_lanes import Lanes
from tapefuse.codegen.llvm_loop_shapes import REGISTER, Shape, address_step
from tapefuse.codegen.loops import Buffer, For, Let, Load, Num, Scalar, Store, Update, Var
from tapefuse.ir.types import size

Bases = Mapping[tuple[Buffer, tuple[Scalar, ...]], str]  # the parts of addresses that do not vary in the loop
LEAST_VECTORS = 4  # of a loop in which this pays
LEAST_ALIGNED = 32  # and of one whose first elements are computed apart
LEAST_VECTORS_AND_ONE = 8  # of one that takes one more so that they begin with lines


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

    @property
    def span(self) -> int:
        return self.last - self.first


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
        if 0 < line.span < lanes:
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


class Neighbours:
    """How one loop loads them: slots on the stack, which LLVM makes registers, hold what was loaded before."""

    def __init__(self, s: For, shape: Shape, lanes: Lanes, bases: Bases):
        pays = registers().nbytes == REGISTER and (shape.trips is None or shape.trips >= LEAST_VECTORS * shape.width)
        self.lanes, self.bases = lanes, bases
        self.lines = lines(s, shape.slopes, shape.width) if pays else []
        self.line_of = {dst: line for line in self.lines for dst in line.offsets}
        self.at = ""  # the index, in a copy of the body that uses the slots
        self.inside: tuple[int, int] | None = None  # of that copy, the lanes that are iterations; None: all
        self.slots: list[str] = []
        self.loaded: dict[int, tuple[str, str]] = {}  # by line: what was loaded before, and now

    def begin(self, start: str, lead: int = 0) -> None:
        """Before vectors from `start` on, of which the first has `lead` lanes that are no iterations: the elements
        before those that it loads."""
        w, count = self.lanes.w, self.lanes.count
        self.slots = [f"%neighbours{len(w.slots) + k}" for k in range(len(self.lines))]
        for slot, line in zip(self.slots, self.lines, strict=True):
            v, first = self.lanes.of(_integer(line)), count - line.span + lead
            w.slots.append(f"  {slot} = alloca {v}")
            inside = (first, count)
            before = self._elements(line, start, line.last - count, inside) if first < count else "zeroinitializer"
            w.line(f"store {v} {before}, ptr {slot}")

    def step(self, at: str, inside: tuple[int, int] | None = None) -> None:
        """At a copy of the body for the vector from `at` on."""
        self.at, self.inside, self.loaded = at if self.slots else "", inside, {}

    def end(self) -> None:
        self.at, self.slots = "", []

    def load(self, t: Load) -> str | None:
        """The vector that a load gives; None if it shares nothing, or there are no slots here."""
        if not self.at or t.dst not in self.line_of:
            return None
        line, w, count = self.line_of[t.dst], self.lanes.w, self.lanes.count
        number, integer = self.lines.index(line), _integer(line)
        n = self.lanes.of(integer)
        if number not in self.loaded:
            new = self._next(line)
            self.loaded[number] = w.new(f"load {n}, ptr {self.slots[number]}"), new
            w.line(f"store {n} {new}, ptr {self.slots[number]}")
        (old, new), by = self.loaded[number], line.last - line.offsets[t.dst]
        found = self.lanes.shuffled(integer, old, new, range(count - by, 2 * count - by)) if by else new
        return w.new(f"bitcast {n} {found} to {self.lanes.registers(t.dst.dtype)}")

    def _next(self, line: Line) -> str:
        """The elements of a line that are the last ones of the vector's iterations, and those between them."""
        if self.inside is None:
            return self._elements(line, self.at, line.last, None)
        low, high = self.inside
        return self._elements(line, self.at, line.last, (max(0, low - line.span), high))

    def _elements(self, line: Line, at: str, offset: int, inside: tuple[int, int] | None) -> str:
        """The elements of a line from `offset` after `at` on, in lanes from one on up to another one, and zeros."""
        place = _address(self.lanes, self.bases, line.buffer, line.index, at, offset)
        return self.lanes.load(_integer(line), place, None if inside is None else self.lanes.between(*inside))


@dataclass(frozen=True, slots=True)
class Place:
    """What a loop stores to `buffer`, and how far from the place of its index."""

    buffer: Buffer
    index: tuple[Scalar, ...]
    offset: int


def aligned_store(s: For, shape: Shape) -> Place | None:
    """The store whose vectors are to lie each in one line of the cache, in a loop where it pays to look where they
    begin: a store to two lines takes several times as long."""
    is_long = shape.trips is not None and shape.trips >= LEAST_ALIGNED * shape.width
    return stored_line(s, shape) if is_long else None


def stored_line(s: For, shape: Shape) -> Place | None:
    """A store of vectors as long as a line of the cache. None where lanes have sums of their own, which would be others
    if vectors began elsewhere."""
    if registers().nbytes != REGISTER or any(isinstance(t, Update) for t in s.body):
        return None
    offsets = _offsets(s)
    for t in s.body:
        if isinstance(t, Store) and t.value.dtype.itemsize * shape.width == REGISTER:
            moving = [i for i in t.index if i in shape.slopes]
            if len(moving) == 1 and moving[0] in offsets and address_step(t.buffer, t.index, shape.slopes) == 1:
                return Place(t.buffer, t.index, offsets[moving[0]])
    return None


def lead(s: For, shape: Shape) -> int:
    """How many elements of its line of the cache lie before the first that a loop stores, where vectors are to begin
    with lines: 0 where it is not known, or where that does not pay. Long loops ask when they run (`aligned_start`)."""
    place, width, trips = stored_line(s, shape), shape.width, shape.trips
    if place is None or trips is None or not isinstance(s.start, Num) or trips < 2 * width:
        return 0
    pitches = [size(place.buffer.type.shape[k + 1 :]) for k, i in enumerate(place.index) if i not in shape.slopes]
    if any(not isinstance(pitch, int) or pitch % width for pitch in pitches):
        return 0
    before = (int(s.start.value) + place.offset) % width
    vectors, aligned = -(-trips // width), -(-(trips + before) // width)
    return before if aligned == vectors or trips >= LEAST_VECTORS_AND_ONE * width else 0


def aligned_start(lanes: Lanes, bases: Bases, place: Place, start: str) -> str:
    """The first index from `start` on at which what is stored begins a line of the cache."""
    w, address = lanes.w, _address(lanes, bases, place.buffer, place.index, start, place.offset)
    first = w.new(f"ptrtoint ptr {address} to i64")
    ahead = w.new(f"and i64 {w.new(f'sub i64 0, {first}')}, {REGISTER - 1}")
    elements = w.new(f"lshr i64 {ahead}, {place.buffer.type.dtype.itemsize.bit_length() - 1}")
    return w.new(f"add i64 {start}, {elements}")


def _integer(line: Line) -> str:
    """Vectors of elements are kept as integers: LLVM knows the one instruction that shifts two of them as one, and
    leaves both as they are, for integers alone."""
    return f"i{8 * line.buffer.type.dtype.itemsize}"


def _address(lanes: Lanes, bases: Bases, buffer: Buffer, index: tuple[Scalar, ...], at: str, offset: int) -> str:
    """The address of the element `offset` places after the one that an index names."""
    memory = memory_type(buffer.type.dtype)
    first = lanes.w.new(f"getelementptr {memory}, ptr {bases[buffer, index]}, i64 {at}")
    return lanes.w.new(f"getelementptr {memory}, ptr {first}, i64 {offset}") if offset else first
