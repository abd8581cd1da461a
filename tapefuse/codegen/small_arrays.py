"""Which small arrays of a kernel can be values of vector registers, and the indices of what is done to them.

An array qualifies that a `View` calls `local`, if all that touches it are single elements and loops of a fixed number
of iterations over elements that lie side by side:

    m4 = view b2 : f64[64] local
    for i5 in 0..63:
      t6 = load m3[i5]                  # another one, or an array from outside: b0[56 t + i5 + 1]
      ...
      store m4[i5] = t9
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tapefuse._records import dataclass
from tapefuse.codegen.llvm_loop_shapes import MOST_LANES, REGISTER, examined, is_strictly_scalar
from tapefuse.codegen.loops import Buffer, For, Let, Load, Num, Scalar, Stmt, Store, Update, Var, View, bodies
from tapefuse.codegen.loops_walk import walk
from tapefuse.codegen.reuse import buffers
from tapefuse.ir.types import size

MOST_TRIPS = 256  # of a loop that is written out


@dataclass(frozen=True, slots=True)
class Place:
    """An index as a number and multiples of scalars: `terms` of `56 t + i + 1` are {(t, 56), (i, 1)}, `first` is 1."""

    terms: frozenset[tuple[Var, int]]
    first: int

    def __add__(self, other: Place) -> Place:
        if not other.terms:
            return Place(self.terms, self.first + other.first)
        total: Counter[Var] = Counter()
        for var, k in (*self.terms, *other.terms):
            total[var] += k
        return Place(frozenset((var, k) for var, k in total.items() if k), self.first + other.first)

    def times(self, k: int) -> Place:
        return Place(frozenset((var, n * k) for var, n in self.terms if k), self.first * k)

    def without(self, var: Var) -> frozenset[tuple[Var, int]]:
        return frozenset((v, k) for v, k in self.terms if v != var)


class Places:
    """The indices of a kernel as numbers and multiples of its scalars."""

    def __init__(self, body: Sequence[Stmt]):
        self.known: dict[Var, Place] = {}
        self.elements: dict[tuple, Place | None] = {}
        for s in walk(body):
            if isinstance(s, Let) and (place := self._of_let(s)) is not None:
                self.known[s.dst] = place

    def _of_let(self, s: Let) -> Place | None:
        if s.op in ("add", "sub") and len(s.args) == 2 and s.dst.dtype.kind == "i":
            first, second = map(self.scalar, s.args)
            return first + second.times(1 if s.op == "add" else -1)
        if s.op == "mul" and s.dst.dtype.kind == "i":
            x, y = s.args if isinstance(s.args[1], Num) else reversed(s.args)
            return self.scalar(x).times(int(y.value)) if isinstance(y, Num) else None
        return None

    def scalar(self, x: Scalar) -> Place:
        if isinstance(x, Num):
            return Place(frozenset(), int(x.value))
        return self.known.get(x) or Place(frozenset({(x, 1)}), 0)

    def element(self, s: Load | Store) -> Place | None:
        """Which element of its array, counted through all its rows, a statement touches; None if rows have no fixed
        length."""
        key = s.buffer.name, s.index
        if key not in self.elements:
            self.elements[key] = self._element(s)
        return self.elements[key]

    def _element(self, s: Load | Store) -> Place | None:
        if len(s.index) == 1:
            return self.scalar(s.index[0])
        total = Place(frozenset(), 0)
        for axis, x in enumerate(s.index):
            stride = size(s.buffer.type.shape[axis + 1 :])
            if not isinstance(stride, int):
                return None
            total = total + self.scalar(x).times(stride)
        return total


@dataclass(frozen=True)
class SmallArrays:
    """`arrays`: those that become values, by name. `loops`: the loops that touch them, by id. `shared`: names of those
    that several lists of statements touch, or that one reads before it writes. `lanes`: of a vector."""

    arrays: Mapping[str, Buffer]
    loops: frozenset[int]
    shared: frozenset[str]
    lanes: int
    places: Places


def small_arrays(body: Sequence[Stmt], strict: bool) -> SmallArrays | None:
    """Those of a kernel, if it has any."""
    arrays = {s.buffer.name: s.buffer for s in walk(body) if isinstance(s, View) and s.local}
    if not arrays:
        return None
    places = Places(body)
    loops = frozenset(id(s) for s in walk(body) if isinstance(s, For) and _is_straight(s, arrays, places, strict))
    for s in _others(body, loops):
        for buffer in () if _is_element(s, arrays, places) or isinstance(s, View) and s.local else buffers((s,)):
            arrays.pop(buffer.name, None)
    if not arrays:
        return None
    touched = [s for s in walk(body) if isinstance(s, For) and id(s) in loops and _touches(s, arrays)]
    return SmallArrays(
        arrays,
        frozenset(map(id, touched)),
        frozenset(_shared(body, frozenset(map(id, touched)), arrays)),
        _lanes([*arrays.values()], touched),
        places,
    )


def integer(x: Scalar) -> int:
    assert isinstance(x, Num)
    return int(x.value)


def elements(buffer: Buffer) -> int:
    """Of a small array."""
    assert isinstance(buffer.type.size, int)
    return buffer.type.size


def _lanes(arrays: Sequence[Buffer], loops: Sequence[For]) -> int:
    """As many as the widest numbers leave room for in a register, fewer if all arrays are shorter."""
    dtypes = [b.type.dtype for b in arrays]
    inside = [s for loop in loops for s in loop.body]
    dtypes += [s.dst.dtype for s in inside if isinstance(s, Load) or isinstance(s, Let) and s.dst.dtype.kind == "f"]
    longest = max(elements(b) for b in arrays)
    most = min(REGISTER // max(d.itemsize for d in dtypes), MOST_LANES)
    return min(most, max(2, 1 << (longest - 1).bit_length()))


def _others(body: Sequence[Stmt], loops: frozenset[int]) -> Iterator[Stmt]:
    """All statements but what is inside `loops`."""
    for s in body:
        if id(s) not in loops:
            yield s
            for inner in bodies(s):
                yield from _others(inner, loops)


def _is_element(s: Stmt, arrays: Mapping[str, Buffer], places: Places) -> bool:
    """Whether a statement loads or stores one element of an array, which one is known."""
    if not isinstance(s, Load | Store) or s.buffer.name not in arrays:
        return False
    place = places.element(s)
    return place is not None and not place.terms


def _touches(s: For, arrays: Mapping[str, Buffer]) -> bool:
    return any(isinstance(t, Load | Store) and t.buffer.name in arrays for t in s.body)


def _is_straight(s: For, arrays: Mapping[str, Buffer], places: Places, strict: bool) -> bool:
    """Whether a loop can be written as vector statements, one after the other."""
    if not isinstance(s.start, Num) or not isinstance(s.stop, Num) or not _touches(s, arrays):
        return False
    if not 0 < s.stop.value - s.start.value <= MOST_TRIPS or any(bodies(t) for t in s.body):
        return False
    if any(isinstance(t, Update) or isinstance(t, Let) and t.op == "read" for t in s.body):
        return False
    shape = None if strict and is_strictly_scalar(s) else examined(s)
    if shape is None:
        return False
    touching = [t for t in s.body if isinstance(t, Load | Store)]
    found = {id(t): places.element(t) for t in touching}
    for t in touching:
        place = found[id(t)]
        varies = any(i in shape.slopes for i in t.index)
        if place is None or varies != ((s.var, 1) in place.terms):
            return False
        if t.buffer.name in arrays and place.without(s.var):
            return False
    stored = {t.buffer.name: found[id(t)] for t in touching if isinstance(t, Store)}
    return all(found[id(t)] == stored.get(t.buffer.name, found[id(t)]) for t in touching) and all(
        not any(i.dtype.kind != "i" for i in t.index) for t in touching
    )


def _shared(body: Sequence[Stmt], loops: frozenset[int], arrays: Mapping[str, Buffer]) -> Iterator[str]:
    """Arrays that several lists of statements touch, or one that reads an array before it writes to it."""
    seen: set[str] = set()
    for statements in _lists(body, loops):
        mine: set[str] = set()
        for s in statements:
            for t in s.body if isinstance(s, For) and id(s) in loops else (s,):
                if isinstance(t, Load | Store) and (name := t.buffer.name) in arrays:
                    if name in seen or isinstance(t, Load) and name not in mine:
                        yield name
                    mine.add(name)
        seen |= mine


def _lists(body: Sequence[Stmt], loops: frozenset[int]) -> Iterator[Sequence[Stmt]]:
    yield body
    for s in body:
        if id(s) not in loops:
            for inner in bodies(s):
                yield from _lists(inner, loops)
