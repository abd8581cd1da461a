"""Small arrays as vector values: loops over them are written out, and nothing goes through memory between them.

    for i in 0..63: m4[i] = m3[i + 1] - m3[i]      %v9 = shufflevector %v1, %v2 <1, 2, ..., 8>      8 vectors of 8
                                                   %v10 = fsub %v9, %v1 ...

An array is some vectors. Its first element lies in any lane of the first one (`origin`), so that a part of it costs
nothing, and arrays that are read together mostly lie alike: what does not is shifted by shuffles of two neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tapefuse.codegen.emit_llvm import Writer
from tapefuse.codegen.llvm_instructions import memory_type, register_type
from tapefuse.codegen.llvm_lanes import Lanes, mask
from tapefuse.codegen.loops import Buffer, For, Load, Stmt, Store, Var
from tapefuse.codegen.small_arrays import SmallArrays, elements, integer

Key = tuple[str, frozenset[tuple[Var, int]]]  # a part of memory: an array, and where its element 0 is taken to be


@dataclass
class Vectors:
    """Element e is in lane `(e + origin) % lanes` of vector `(e + origin) // lanes`."""

    origin: int
    parts: dict[int, str] = field(default_factory=dict)


@dataclass
class Memory:
    """Elements `low..high` of memory are read in a list of statements: those that are in registers now."""

    buffer: Buffer
    low: int
    high: int
    address: str = ""
    now: Vectors | None = None


@dataclass
class List:
    """What is known in a list of statements."""

    body: Sequence[Stmt]
    at: int = 0
    arrays: dict[str, Vectors] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # since they were put into their slots
    memory: dict[Key, Memory] = field(default_factory=dict)
    shifted: dict[tuple, str] = field(default_factory=dict)


class Arrays:
    """The small arrays of a kernel, and what of others is in registers."""

    def __init__(self, w: Writer, found: SmallArrays):
        self.w, self.found, self.lanes = w, found, Lanes(w, found.lanes)
        self.here = List(())
        self.slots: dict[str, list[str]] = {}

    def read_in(self, body: Sequence[Stmt]) -> dict[Key, Memory]:
        """The parts of memory that loops in a list read, from the first to the last element that any of them does."""
        found: dict[Key, Memory] = {}
        for s in body:
            if not isinstance(s, For) or id(s) not in self.found.loops:
                continue
            for t in s.body:
                if isinstance(t, Load) and t.buffer.name not in self.found.arrays and self.moves(s, t):
                    key, first = self.key(s, t)
                    low, high = first + integer(s.start), first + integer(s.stop)
                    known = found.setdefault(key, Memory(t.buffer, low, high))
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
    def vectors(self, name: str) -> Vectors:
        """An array as it is now."""
        known = self.here.arrays
        if name not in known:
            known[name] = Vectors(0)
            if name in self.found.shared:
                v = self.lanes.registers(self.found.arrays[name].type.dtype)
                for k, slot in enumerate(self.slots_of(name)):
                    known[name].parts[k] = self.w.new(f"load {v}, ptr {slot}")
        return known[name]

    def slots_of(self, name: str) -> list[str]:
        """Stack slots, which LLVM makes registers."""
        if name not in self.slots:
            buffer = self.found.arrays[name]
            self.slots[name] = [f"%{name}.part{k}" for k in range(-(-elements(buffer) // self.lanes.count))]
            v = self.lanes.registers(buffer.type.dtype)
            self.w.slots += [f"  {slot} = alloca {v}" for slot in self.slots[name]]
        return self.slots[name]

    def put_away(self) -> None:
        """Into slots, what other lists of statements read."""
        for name in sorted(self.here.changed & self.found.shared):
            dtype = self.found.arrays[name].type.dtype
            now = self.here.arrays[name]
            moved = Vectors(0)
            for k, slot in enumerate(self.slots_of(name)):
                moved.parts[k] = self.part(now, k * self.lanes.count + now.origin, dtype)
                self.w.line(f"store {self.lanes.registers(dtype)} {moved.parts[k]}, ptr {slot}")
            self.here.arrays[name] = moved
        self.here.changed.clear()

    def part(self, x: Vectors, first: int, dtype: np.dtype) -> str:
        """A vector of what lies in the lanes from `first` on."""
        number, by = divmod(first, self.lanes.count)
        low, high = x.parts.get(number, "poison"), x.parts.get(number + 1, "poison")
        if by == 0 or low == high == "poison":
            return low
        key = (low, high, by)
        if key not in self.here.shifted:
            sources = range(by, by + self.lanes.count)
            self.here.shifted[key] = self.lanes.shuffled(register_type(dtype), low, high, sources)
        return self.here.shifted[key]

    def assign(self, name: str, low: int, high: int, new: Vectors) -> None:
        """Elements low..high become those of `new`."""
        buffer, lanes = self.found.arrays[name], self.lanes.count
        self.here.changed.add(name)
        is_new = name not in self.here.arrays and name not in self.found.shared
        if is_new or low == 0 and high == buffer.type.size:
            self.here.arrays[name] = new
            return
        old, one = self.vectors(name), register_type(buffer.type.dtype)
        for number in range((low + old.origin) // lanes, (high - 1 + old.origin) // lanes + 1):
            part = self.part(new, number * lanes - old.origin + new.origin, buffer.type.dtype)
            inside = [low <= number * lanes + k - old.origin < high for k in range(lanes)]
            if not all(inside) and number in old.parts:
                sources = [k if new_one else lanes + k for k, new_one in enumerate(inside)]
                part = self.lanes.shuffled(one, part, old.parts[number], sources)
            old.parts[number] = part

    def element(self, s: Load) -> str:
        place = self.found.places.element(s)
        assert place is not None
        x = self.vectors(s.buffer.name)
        number, lane = divmod(place.first + x.origin, self.lanes.count)
        return self.lanes.extracted(register_type(s.dst.dtype), x.parts.get(number, "poison"), lane)

    def set_element(self, s: Store) -> None:
        place = self.found.places.element(s)
        assert place is not None
        name, dtype = s.buffer.name, s.value.dtype
        x = self.vectors(name)
        self.here.changed.add(name)
        number, lane = divmod(place.first + x.origin, self.lanes.count)
        old = x.parts.get(number, "poison")
        one = f"{register_type(dtype)} {self.w.use(s.value)}"
        x.parts[number] = self.w.new(f"insertelement {self.lanes.registers(dtype)} {old}, {one}, i64 {lane}")

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

    def loaded(self, m: Memory, key: Key, number: int) -> None:
        """Load one vector, of the elements that are read by any loop."""
        assert m.now is not None
        dtype, count = m.buffer.type.dtype, self.lanes.count
        if not m.address:
            m.address = self.address(m.buffer, key[1], 0)
        first = number * count - m.now.origin
        at = self.offset(m.address, dtype, first)
        inside = [m.low <= first + k < m.high for k in range(count)]
        value = self.lanes.load(memory_type(dtype), at, self.where(inside))
        m.now.parts[number] = self.lanes.from_memory(dtype, value)

    def store(self, dtype: np.dtype, base: str, first: int, value: str, inside: list[bool]) -> None:
        """Lanes to the memory from element `first` on."""
        at = self.offset(base, dtype, first)
        self.lanes.store(memory_type(dtype), self.lanes.to_memory(dtype, value), at, self.where(inside))

    def where(self, inside: list[bool]) -> str | None:
        """The mask of a vector, if it is not whole."""
        return None if all(inside) else mask(inside)
