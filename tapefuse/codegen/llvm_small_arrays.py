"""Small arrays as vector values: loops over them are written out, and nothing goes through memory between them.

    for i in 0..63: m4[i] = m3[i + 1] - m3[i]      %v9 = shufflevector %v1, %v2 <1, 2, ..., 8>      8 vectors of 8
                                                   %v10 = fsub %v9, %v1 ...

An array is some vectors. Its first element lies in any lane of the first one (`origin`), so that a part of it costs
nothing, and arrays that are read together mostly lie alike: what does not is shifted by shuffles of two neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tapefuse.codegen.emit_llvm import Writer
from tapefuse.codegen.llvm_instructions import memory_type, register_type
from tapefuse.codegen.llvm_loop_shapes import slopes_of
from tapefuse.codegen.loops import Buffer, For, Let, Load, Num, Scalar, Stmt, Store, Var, View, bodies
from tapefuse.codegen.small_arrays import SmallArrays, elements
from tapefuse.ir.types import show_dtype

Key = tuple[str, frozenset[tuple[Var, int]]]  # a part of memory: an array, and where its element 0 is taken to be
PARTIAL = 4  # votes of an array that a loop writes a part of


@dataclass
class _Vectors:
    """Element e is in lane `(e + origin) % lanes` of vector `(e + origin) // lanes`."""

    origin: int
    parts: dict[int, str] = field(default_factory=dict)


@dataclass
class _Memory:
    """Elements `low..high` of memory are read in a list of statements: those that are in registers now."""

    buffer: Buffer
    low: int
    high: int
    address: str = ""
    now: _Vectors | None = None


@dataclass
class _List:
    """What is known in a list of statements."""

    body: Sequence[Stmt]
    at: int = 0
    arrays: dict[str, _Vectors] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # since they were put into their slots
    memory: dict[Key, _Memory] = field(default_factory=dict)
    shifted: dict[tuple, str] = field(default_factory=dict)


class Printing:
    """Prints the statements of a kernel that touch its small arrays."""

    def __init__(self, w: Writer, found: SmallArrays):
        self.w, self.found, self.lanes = w, found, found.lanes
        self.here = _List(())
        self.slots: dict[str, list[str]] = {}

    # -- lists of statements ---------------------------------------------------------------------
    def statements(self, body: Sequence[Stmt]) -> None:
        around, self.here = self.here, _List(body)
        self.here.memory = self.read_in(body)
        for k, s in enumerate(body):
            self.here.at = k
            self.statement(s)
        self.put_away()
        self.here = around

    def statement(self, s: Stmt) -> None:
        match s:
            case For() if id(s) in self.found.loops:
                _Loop(self, s).write()
            case Load() if s.buffer.name in self.found.arrays:
                self.w.names[s.dst] = self.element(s)
            case Store() if s.buffer.name in self.found.arrays:
                self.set_element(s)
            case View() if s.buffer.name in self.found.arrays:
                pass
            case Load() | Let():
                self.w.statement(s)
            case _:
                if bodies(s):
                    self.put_away()
                self.w.statement(s)
                self.forget_memory()
                if bodies(s):
                    for name in self.found.shared:
                        self.here.arrays.pop(name, None)

    def read_in(self, body: Sequence[Stmt]) -> dict[Key, _Memory]:
        """The parts of memory that loops in a list read, from the first to the last element that any of them does."""
        found: dict[Key, _Memory] = {}
        for s in body:
            if not isinstance(s, For) or id(s) not in self.found.loops:
                continue
            for t in s.body:
                if isinstance(t, Load) and t.buffer.name not in self.found.arrays and self.moves(s, t):
                    key, first = self.key(s, t)
                    low, high = first + _number(s.start), first + _number(s.stop)
                    known = found.setdefault(key, _Memory(t.buffer, low, high))
                    known.low, known.high = min(known.low, low), max(known.high, high)
        return found

    def moves(self, s: For, t: Load | Store) -> bool:
        place = self.found.places.element(t)
        return place is not None and (s.var, 1) in place.terms

    def key(self, s: For, t: Load | Store) -> tuple[Key, int]:
        place = self.found.places.element(t)
        assert place is not None
        return (t.buffer.name, place.without(s.var)), place.first

    def forget_memory(self) -> None:
        for m in self.here.memory.values():
            if m.now is not None:
                m.now.parts.clear()

    # -- arrays ----------------------------------------------------------------------------------
    def vectors(self, name: str) -> _Vectors:
        """An array as it is now."""
        known = self.here.arrays
        if name not in known:
            known[name] = _Vectors(0)
            if name in self.found.shared:
                v = self.type(self.found.arrays[name].type.dtype)
                for k, slot in enumerate(self.slots_of(name)):
                    known[name].parts[k] = self.w.new(f"load {v}, ptr {slot}")
        return known[name]

    def slots_of(self, name: str) -> list[str]:
        """Stack slots, which LLVM makes registers."""
        if name not in self.slots:
            buffer = self.found.arrays[name]
            self.slots[name] = [f"%{name}.part{k}" for k in range(-(-elements(buffer) // self.lanes))]
            v = self.type(buffer.type.dtype)
            self.w.slots += [f"  {slot} = alloca {v}" for slot in self.slots[name]]
        return self.slots[name]

    def put_away(self) -> None:
        """Into slots, what other lists of statements read."""
        for name in sorted(self.here.changed & self.found.shared):
            dtype = self.found.arrays[name].type.dtype
            now = self.here.arrays[name]
            moved = _Vectors(0)
            for k, slot in enumerate(self.slots_of(name)):
                moved.parts[k] = self.part(now, k * self.lanes + now.origin, dtype)
                self.w.line(f"store {self.type(dtype)} {moved.parts[k]}, ptr {slot}")
            self.here.arrays[name] = moved
        self.here.changed.clear()

    def part(self, x: _Vectors, first: int, dtype: np.dtype) -> str:
        """A vector of what lies in the lanes from `first` on."""
        number, by = divmod(first, self.lanes)
        v = self.type(dtype)
        low, high = x.parts.get(number, "poison"), x.parts.get(number + 1, "poison")
        if by == 0 or low == high == "poison":
            return low
        key = (low, high, by)
        if key not in self.here.shifted:
            self.here.shifted[key] = self.shuffle(v, low, high, range(by, by + self.lanes))
        return self.here.shifted[key]

    def shuffle(self, v: str, x: str, y: str, sources: Sequence[int]) -> str:
        numbers = ", ".join(f"i32 {k}" for k in sources)
        return self.w.new(f"shufflevector {v} {x}, {v} {y}, <{self.lanes} x i32> <{numbers}>")

    def assign(self, name: str, low: int, high: int, new: _Vectors) -> None:
        """Elements low..high become those of `new`."""
        buffer, lanes = self.found.arrays[name], self.lanes
        self.here.changed.add(name)
        is_new = name not in self.here.arrays and name not in self.found.shared
        if is_new or low == 0 and high == buffer.type.size:
            self.here.arrays[name] = new
            return
        old, v = self.vectors(name), self.type(buffer.type.dtype)
        for number in range((low + old.origin) // lanes, (high - 1 + old.origin) // lanes + 1):
            part = self.part(new, number * lanes - old.origin + new.origin, buffer.type.dtype)
            inside = [low <= number * lanes + k - old.origin < high for k in range(lanes)]
            if not all(inside) and number in old.parts:
                sources = [k if new_one else lanes + k for k, new_one in enumerate(inside)]
                part = self.shuffle(v, part, old.parts[number], sources)
            old.parts[number] = part

    def element(self, s: Load) -> str:
        place = self.found.places.element(s)
        assert place is not None
        x = self.vectors(s.buffer.name)
        number, lane = divmod(place.first + x.origin, self.lanes)
        v = self.type(s.dst.dtype)
        return self.w.new(f"extractelement {v} {x.parts.get(number, 'poison')}, i64 {lane}")

    def set_element(self, s: Store) -> None:
        place = self.found.places.element(s)
        assert place is not None
        name, dtype = s.buffer.name, s.value.dtype
        x = self.vectors(name)
        self.here.changed.add(name)
        number, lane = divmod(place.first + x.origin, self.lanes)
        old = x.parts.get(number, "poison")
        one = f"{register_type(dtype)} {self.w.use(s.value)}"
        x.parts[number] = self.w.new(f"insertelement {self.type(dtype)} {old}, {one}, i64 {lane}")

    # -- memory ----------------------------------------------------------------------------------
    def address(self, buffer: Buffer, terms: frozenset[tuple[Var, int]], first: int) -> str:
        """Of the element that an index names."""
        linear: str | None = str(first) if first and not terms else None
        for var, k in sorted(terms, key=lambda term: term[0].name):
            term = self.w.use(var) if k == 1 else self.w.new(f"mul nsw i64 {self.w.use(var)}, {k}")
            linear = term if linear is None else self.w.new(f"add nsw i64 {linear}, {term}")
        memory, at = memory_type(buffer.type.dtype), self.w.pointer(buffer)
        return at if linear is None else self.w.new(f"getelementptr {memory}, ptr {at}, i64 {linear}")

    def offset(self, base: str, dtype: np.dtype, by: int) -> str:
        return self.w.new(f"getelementptr {memory_type(dtype)}, ptr {base}, i64 {by}") if by else base

    def loaded(self, m: _Memory, key: Key, number: int) -> None:
        """Load one vector, of the elements that are read by any loop."""
        assert m.now is not None
        dtype, lanes = m.buffer.type.dtype, self.lanes
        if not m.address:
            m.address = self.address(m.buffer, key[1], 0)
        first = number * lanes - m.now.origin
        v, align = f"<{lanes} x {memory_type(dtype)}>", 1 if dtype.kind == "b" else dtype.itemsize
        at = self.offset(m.address, dtype, first)
        inside = [m.low <= first + k < m.high for k in range(lanes)]
        if all(inside):
            value = self.w.new(f"load {v}, ptr {at}, align {align}")
        else:
            f = self.w.needs.intrinsic(f"llvm.masked.load.{self.suffix(dtype)}.p0", v, "ptr", "i32", self.bits, v)
            mask = f"{self.bits} {_mask(inside)}"
            value = self.w.new(f"call {v} {f}(ptr {at}, i32 {align}, {mask}, {v} zeroinitializer)")
        m.now.parts[number] = self.w.new(f"icmp ne {v} {value}, zeroinitializer") if dtype.kind == "b" else value

    def store(self, dtype: np.dtype, base: str, first: int, value: str, inside: list[bool]) -> None:
        """Lanes to the memory from element `first` on."""
        lanes, memory = self.lanes, memory_type(dtype)
        v, at = f"<{lanes} x {memory}>", self.offset(base, dtype, first)
        if dtype.kind == "b":
            value = self.w.new(f"zext {self.bits} {value} to {v}")
        align = 1 if dtype.kind == "b" else dtype.itemsize
        if all(inside):
            self.w.line(f"store {v} {value}, ptr {at}, align {align}")
            return
        if inside.count(True) == 1:
            lane = inside.index(True)
            one = self.w.new(f"extractelement {v} {value}, i64 {lane}")
            self.w.line(f"store {memory} {one}, ptr {self.offset(at, dtype, lane)}, align {align}")
            return
        f = self.w.needs.intrinsic(f"llvm.masked.store.{self.suffix(dtype)}.p0", "void", v, "ptr", "i32", self.bits)
        self.w.line(f"call void {f}({v} {value}, ptr {at}, i32 {align}, {self.bits} {_mask(inside)})")

    # -- types -----------------------------------------------------------------------------------
    @property
    def bits(self) -> str:
        return f"<{self.lanes} x i1>"

    def type(self, dtype: np.dtype) -> str:
        return f"<{self.lanes} x {register_type(dtype)}>"

    def suffix(self, dtype: np.dtype) -> str:
        return f"v{self.lanes}" + ("i8" if dtype.kind == "b" else show_dtype(dtype).replace("u", "i"))


class _Loop:
    """One loop, as vector statements. Iteration i is in lane `i + shift`, counted through all vectors."""

    def __init__(self, p: Printing, s: For):
        self.p, self.s, self.w = p, s, p.w
        self.start, self.stop = _number(s.start), _number(s.stop)
        self.slopes = slopes_of(s)
        self.lets = {t.dst: t for t in s.body if isinstance(t, Let)}
        self.splats: dict[Var, str] = {}
        self.local: dict[Var, str] = {}
        self.first = 0  # the iteration in the first lane of the vectors at hand

    def write(self) -> None:
        p, lanes = self.p, self.p.lanes
        for t in self.s.body:
            if isinstance(t, Let | Load) and t.dst not in self.slopes:
                p.statement(t)
        shift = self.shift()
        stores = [t for t in self.s.body if isinstance(t, Store)]
        new = {id(t): _Vectors(shift - self.place(t)) for t in stores}
        bases = {id(t): p.address(t.buffer, p.key(self.s, t)[0][1], 0) for t in stores if not self.is_array(t)}
        for number in range((self.start + shift) // lanes, (self.stop - 1 + shift) // lanes + 1):
            self.local, self.first = {}, number * lanes - shift
            inside = [self.start <= self.first + k < self.stop for k in range(lanes)]
            for t in self.s.body:
                if isinstance(t, Load) and t.dst in self.slopes:
                    self.local[t.dst] = self.load(t)
                elif isinstance(t, Let) and t.dst in self.slopes and self.slopes[t.dst] is None:
                    self.let(t)
                elif isinstance(t, Store):
                    value = self.vector(t.value)
                    if self.is_array(t):
                        new[id(t)].parts[number] = value
                    else:
                        p.store(t.value.dtype, bases[id(t)], self.first + self.place(t), value, inside)
        for t in stores:
            if self.is_array(t):
                p.assign(t.buffer.name, self.start + self.place(t), self.stop + self.place(t), new[id(t)])
            else:
                p.forget_memory()

    def is_array(self, t: Load | Store) -> bool:
        return t.buffer.name in self.p.found.arrays

    def place(self, t: Load | Store) -> int:
        """Which element iteration 0 touches."""
        return self.p.key(self.s, t)[1]

    # -- lanes -----------------------------------------------------------------------------------
    def shift(self) -> int:
        """Where iterations lie: where most of what is read lies already, so that little has to be moved."""
        votes = self.votes(self.s)
        if not votes:
            self.lay_out()
            votes = self.votes(self.s)
        if not votes:
            return -self.start
        most = max(count for count, _ in votes.values())
        best = [lane for lane, (count, _) in votes.items() if count == most]
        later = Counter(self.wanted()) if len(best) > 1 else Counter[int]()
        return votes[max(best, key=lambda lane: (later[lane], -lane))][1]

    def votes(self, s: For) -> dict[int, tuple[int, int]]:
        """For lanes of iteration 0: how many reads would like it to be there, and a shift that does it."""
        p, count = self.p, Counter[int]()
        shifts: dict[int, int] = {}
        for t in s.body:
            origin = self.origin(s, t)
            if origin is None or not isinstance(t, Load | Store):
                continue
            shift = origin + p.key(s, t)[1]
            count[shift % p.lanes] += PARTIAL if isinstance(t, Store) else _uses(s, t)
            shifts.setdefault(shift % p.lanes, shift)
        return {lane: (count[lane], shift) for lane, shift in shifts.items()}

    def origin(self, s: For, t: Stmt) -> int | None:
        """Where what a statement touches lies already."""
        p = self.p
        if not isinstance(t, Load | Store) or not p.moves(s, t):
            return None
        if t.buffer.name not in p.found.arrays:
            m = p.here.memory.get(p.key(s, t)[0]) if isinstance(t, Load) else None
            return None if m is None or m.now is None else m.now.origin
        whole = isinstance(t, Store) and _number(s.stop) - _number(s.start) == t.buffer.type.size
        if whole or t.buffer.name not in p.here.arrays and t.buffer.name not in p.found.shared:
            return None
        return p.here.arrays[t.buffer.name].origin if t.buffer.name in p.here.arrays else 0

    def lay_out(self) -> None:
        """Of what is read from memory, that which is used most gets its place: from lane 0 on."""
        p, uses = self.p, Counter[Key]()
        for t in self.s.body:
            if isinstance(t, Load) and not self.is_array(t) and p.moves(self.s, t):
                uses[p.key(self.s, t)[0]] += _uses(self.s, t)
        if uses:
            m = p.here.memory[max(uses, key=lambda key: uses[key])]
            m.now = _Vectors(-m.low)

    def wanted(self) -> Iterator[int]:
        """Lanes of iteration 0 such that later loops find what this one stores where they read other things."""
        p, here = self.p, self.p.here
        stored = {t.buffer.name: self.place(t) for t in self.s.body if isinstance(t, Store) and self.is_array(t)}
        for s in here.body[here.at + 1 :]:
            if not isinstance(s, For) or id(s) not in p.found.loops:
                continue
            for t in s.body:
                if isinstance(t, Load) and t.buffer.name in stored and p.moves(s, t):
                    place = stored[t.buffer.name] - p.key(s, t)[1]
                    for lane, (count, _) in self.votes(s).items():
                        yield from [(lane + place) % p.lanes] * count

    # -- statements ------------------------------------------------------------------------------
    def load(self, t: Load) -> str:
        p, place, dtype = self.p, self.place(t), t.buffer.type.dtype
        if self.is_array(t):
            x = p.vectors(t.buffer.name)
            return p.part(x, self.first + place + x.origin, dtype)
        key, _ = p.key(self.s, t)
        m = p.here.memory[key]
        if m.now is None:
            m.now = _Vectors(-self.first % p.lanes - place)
        at = self.first + place + m.now.origin
        for number in range(at // p.lanes, -(-(at + p.lanes) // p.lanes)):
            low = number * p.lanes - m.now.origin
            if number not in m.now.parts and low < m.high and low + p.lanes > m.low:
                p.loaded(m, key, number)
        return p.part(m.now, at, dtype)

    def let(self, t: Let) -> None:
        w, divisor = self.w, t.args[1] if len(t.args) == 2 and isinstance(t.args[1], Num) else None
        operands = [self.vector(a) for a in t.args]
        w.width = self.p.lanes
        self.local[t.dst] = w.instruction(t.op, operands, t.args[-1].dtype, t.dst.dtype, divisor)
        w.width = 1

    def vector(self, x: Scalar) -> str:
        """A scalar in all lanes, or what it is in each."""
        if isinstance(x, Num):
            return f"splat ({register_type(x.dtype)} {self.w.use(x)})"
        if x in self.local:
            return self.local[x]
        if x not in self.slopes:
            if x not in self.splats:
                self.splats[x] = self.splat(self.w.use(x), register_type(x.dtype))
            return self.splats[x]
        slope = self.slopes[x]
        assert slope is not None
        numbers = ", ".join(f"i64 {k * slope}" for k in range(self.p.lanes))
        first = self.splat(self.index(x), "i64")
        self.local[x] = self.w.new(f"add <{self.p.lanes} x i64> {first}, <{numbers}>")
        return self.local[x]

    def index(self, x: Scalar) -> str:
        """An index in the first lane."""
        if x == self.s.var:
            return str(self.first)
        if x not in self.slopes:
            return self.w.use(x)
        assert isinstance(x, Var)
        t = self.lets[x]
        return self.w.instruction(t.op, [self.index(a) for a in t.args], x.dtype, x.dtype)

    def splat(self, x: str, type: str) -> str:
        if not x.startswith("%"):
            return f"splat ({type} {x})"
        v = f"<{self.p.lanes} x {type}>"
        one = self.w.new(f"insertelement {v} poison, {type} {x}, i64 0")
        return self.w.new(f"shufflevector {v} {one}, {v} poison, <{self.p.lanes} x i32> zeroinitializer")


def _uses(s: For, t: Load) -> int:
    """How many statements of a loop read what it loads."""
    return sum(t.dst in _operands(u) for u in s.body)


def _operands(s: Stmt) -> tuple[Scalar, ...]:
    return s.args if isinstance(s, Let) else (s.value,) if isinstance(s, Store) else ()


def _number(x: Scalar) -> int:
    assert isinstance(x, Num)
    return int(x.value)


def _mask(inside: Sequence[bool]) -> str:
    return "<" + ", ".join(f"i1 {'true' if bit else 'false'}" for bit in inside) + ">"
