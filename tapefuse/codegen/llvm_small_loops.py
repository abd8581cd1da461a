"""Loops over small arrays as vector statements (`llvm_small_arrays`), and the lists of statements around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from tapefuse.codegen import vector_math
from tapefuse.codegen.llvm_instructions import register_type
from tapefuse.codegen.llvm_lanes import mask
from tapefuse.codegen.llvm_loop_shapes import slopes_of
from tapefuse.codegen.llvm_small_arrays import Arrays, Key, List, Vectors
from tapefuse.codegen.loops import For, Let, Load, Num, Scalar, Stmt, Store, Var, View, bodies
from tapefuse.codegen.small_arrays import integer

PARTIAL = 4  # votes of an array that a loop writes a part of


class Printing(Arrays):
    """Prints the statements of a kernel that touch its small arrays."""

    def statements(self, body: Sequence[Stmt]) -> None:
        around, self.here = self.here, List(body)
        self.here.memory = self.read_in(body)
        for k, s in enumerate(body):
            self.here.at = k
            self.statement(s)
        self.put_away()
        self.here = around

    def statement(self, s: Stmt) -> None:
        match s:
            case For() if id(s) in self.found.loops:
                Loop(self, s).write()
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


class Loop:
    """One loop, as vector statements. Iteration i is in lane `i + shift`, counted through all vectors."""

    def __init__(self, p: Printing, s: For):
        self.p, self.s, self.w = p, s, p.w
        self.start, self.stop = integer(s.start), integer(s.stop)
        self.slopes = slopes_of(s)
        self.lets = {t.dst: t for t in s.body if isinstance(t, Let)}
        self.splats: dict[Var, str] = {}
        self.local: dict[Var, str] = {}
        self.first = 0  # the iteration in the first lane of the vectors at hand
        self.inside: list[bool] = []  # which of the lanes are iterations

    def write(self) -> None:
        p, lanes = self.p, self.p.lanes.count
        for t in self.s.body:
            if isinstance(t, Let | Load) and t.dst not in self.slopes:
                p.statement(t)
        shift = self.shift()
        stores = [t for t in self.s.body if isinstance(t, Store)]
        new = {id(t): Vectors(shift - self.place(t)) for t in stores}
        bases = {id(t): p.address(t.buffer, p.key(self.s, t)[0][1], 0) for t in stores if not self.is_array(t)}
        for number in range((self.start + shift) // lanes, (self.stop - 1 + shift) // lanes + 1):
            self.local, self.first = {}, number * lanes - shift
            self.inside = [self.start <= self.first + k < self.stop for k in range(lanes)]
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
                        p.store(t.value.dtype, bases[id(t)], self.first + self.place(t), value, self.inside)
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
        p, lanes, count = self.p, self.p.lanes.count, Counter[int]()
        shifts: dict[int, int] = {}
        for t in s.body:
            origin = self.origin(s, t)
            if origin is None or not isinstance(t, Load | Store):
                continue
            shift = origin + p.key(s, t)[1]
            count[shift % lanes] += PARTIAL if isinstance(t, Store) else _uses(s, t)
            shifts.setdefault(shift % lanes, shift)
        return {lane: (count[lane], shift) for lane, shift in shifts.items()}

    def origin(self, s: For, t: Stmt) -> int | None:
        """Where what a statement touches lies already."""
        p = self.p
        if not isinstance(t, Load | Store) or not p.moves(s, t):
            return None
        if t.buffer.name not in p.found.arrays:
            m = p.here.memory.get(p.key(s, t)[0]) if isinstance(t, Load) else None
            return None if m is None or m.now is None else m.now.origin
        whole = isinstance(t, Store) and integer(s.stop) - integer(s.start) == t.buffer.type.size
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
            m.now = Vectors(-m.low)

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
                        yield from [(lane + place) % p.lanes.count] * count

    # -- statements ------------------------------------------------------------------------------
    def load(self, t: Load) -> str:
        p, lanes, place, dtype = self.p, self.p.lanes.count, self.place(t), t.buffer.type.dtype
        if self.is_array(t):
            x = p.vectors(t.buffer.name)
            return p.part(x, self.first + place + x.origin, dtype)
        key, _ = p.key(self.s, t)
        m = p.here.memory[key]
        if m.now is None:
            m.now = Vectors(-self.first % lanes - place)
        at = self.first + place + m.now.origin
        for number in range(at // lanes, -(-(at + lanes) // lanes)):
            low = number * lanes - m.now.origin
            if number not in m.now.parts and low < m.high and low + lanes > m.low:
                p.loaded(m, key, number)
        return p.part(m.now, at, dtype)

    def let(self, t: Let) -> None:
        w, divisor = self.w, t.args[1] if len(t.args) == 2 and isinstance(t.args[1], Num) else None
        operands = [self.vector(a) for a in t.args]
        if t.op in vector_math.FUNCTIONS and not all(self.inside):
            operands = [self.cleared(x, t.dst.dtype) for x in operands]
        w.width = self.p.lanes.count
        self.local[t.dst] = w.instruction(t.op, operands, t.args[-1].dtype, t.dst.dtype, divisor)
        w.width = 1

    def cleared(self, x: str, dtype: np.dtype) -> str:
        """Zeros in lanes that are no iterations: functions branch on what is in any lane."""
        v = self.p.lanes.registers(dtype)
        return self.w.new(f"select {self.p.lanes.bits} {mask(self.inside)}, {v} {x}, {v} zeroinitializer")

    def vector(self, x: Scalar) -> str:
        """A scalar in all lanes, or what it is in each."""
        if isinstance(x, Num):
            return self.splat(x)
        if x in self.local:
            return self.local[x]
        if x not in self.slopes:
            if x not in self.splats:
                self.splats[x] = self.splat(x)
            return self.splats[x]
        slope = self.slopes[x]
        assert slope is not None
        self.local[x] = self.p.lanes.ramp(self.index(x), slope)
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

    def splat(self, x: Scalar) -> str:
        """A scalar that does not vary, in all lanes."""
        return self.p.lanes.splat(register_type(x.dtype), self.w.use(x))


def _uses(s: For, t: Load) -> int:
    """How many statements of a loop read what it loads."""
    return sum(t.dst in _operands(u) for u in s.body)


def _operands(s: Stmt) -> tuple[Scalar, ...]:
    return s.args if isinstance(s, Let) else (s.value,) if isinstance(s, Store) else ()
