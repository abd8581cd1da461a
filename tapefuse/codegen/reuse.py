"""Elements of arrays that a loop keeps in registers.

Three things are done to an innermost loop whose indices are known as polynomials of the loops' indices: an element that
is the same in all iterations and that nothing in the loop writes to is loaded before it; one that an iteration stores
and the next one loads is handed over in a register, memory sees the store only; and one that all iterations load and
store is stored once, after the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from tapefuse._records import dataclass
from tapefuse.codegen.loops import (
    Assign,
    Buffer,
    Call,
    Contract,
    Gemm,
    Launch,
    Let,
    Load,
    Move,
    Stmt,
    Store,
    Substitute,
    Transpose,
    Var,
    bodies,
)
from tapefuse.ir.types import Dim, Poly

Index = tuple[Dim, ...]


@dataclass(frozen=True)
class Known:
    """What is known of a loop.

    `symbol`: its index; `indices`: of the loads and stores in it, None where that is no polynomial; `memory`: a name
    for the memory of each buffer; `fixed`: buffers that are the same memory in all iterations; `ends`: the numbers
    below which indices of this loop and those around it stay.
    """

    symbol: str
    indices: Mapping[tuple, Index | None]
    memory: Mapping[str, str]
    fixed: frozenset[str]
    ends: Mapping[str, Dim]


@dataclass(frozen=True)
class Slot:
    """An element in a register: loaded from `buffer` at `index` (with the loop's index at its start) before the loop,
    and stored there afterwards if `stored`. Empty of a store, `dst` is the scalar that the loop reads."""

    buffer: Buffer
    index: Index
    reads: tuple[Var, ...]
    store: Store | None
    stored: bool


def slots(body: Sequence[Stmt], known: Known) -> list[Slot]:
    """What to keep in registers in an innermost loop."""
    if not is_innermost(body):
        return []
    clobbered = {known.memory[b.name] for s in body for b in written(s)}
    loads: dict[tuple[str, tuple], list[Load]] = {}
    for s in body:
        if isinstance(s, Load):
            loads.setdefault((s.buffer.name, s.index), []).append(s)
    stores: dict[str, list[Store]] = {}
    for s in body:
        if isinstance(s, Store):
            stores.setdefault(known.memory[s.buffer.name], []).append(s)
    found = []
    for same in loads.values():
        load = same[0]
        memory, index = known.memory[load.buffer.name], known.indices[load.buffer.name, load.index]
        if memory in clobbered or index is None or load.buffer.name not in known.fixed:
            continue
        writes = stores.get(memory, [])
        if any(s.buffer != load.buffer for s in writes):
            continue
        targets = [known.indices[s.buffer.name, s.index] for s in writes]
        reads = tuple(s.dst for s in same)
        is_fixed = not any(isinstance(d, Poly) and known.symbol in d.symbols for d in index)
        if is_fixed and all(t is not None and differ(index, t, known) for t in targets):
            found.append(Slot(load.buffer, index, reads, None, False))
        elif len(writes) == 1 and targets[0] is not None and _precede(body, same, writes[0]):
            if is_fixed and targets[0] == index and _alone(index, load, loads.values(), known):
                found.append(Slot(load.buffer, index, reads, writes[0], True))
            elif not is_fixed and earlier(targets[0], known.symbol) == index:
                found.append(Slot(load.buffer, index, reads, writes[0], False))
    return found


def is_innermost(body: Sequence[Stmt]) -> bool:
    """Whether the body of a loop has no loops and branches in it, and its buffers stay what they are."""
    return not any(bodies(s) or isinstance(s, Move) for s in body)


def buffers(body: Sequence[Stmt]) -> Iterator[Buffer]:
    """The buffers of statements, without those inside of them."""
    for s in body:
        if isinstance(s, Let):
            continue
        if isinstance(s, Load | Store):
            yield s.buffer
            continue
        if isinstance(s, Call):
            yield from (o.buffer for o in s.operands)
            continue
        for f in fields(s):
            x = getattr(s, f.name)
            yield from (y for y in (x if isinstance(x, tuple) else (x,)) if isinstance(y, Buffer))


def written(s: Stmt) -> Iterator[Buffer]:
    """The buffers that a statement other than a store writes."""
    match s:
        case Gemm() | Contract():
            yield s.c
        case Transpose() | Substitute():
            yield s.y
        case Launch():
            yield from s.buffers
        case Call():
            yield from (o.buffer for o in s.operands)


def _precede(body: Sequence[Stmt], loads: Sequence[Load], store: Store) -> bool:
    places = [next(k for k, s in enumerate(body) if s is x) for x in loads]
    return max(places) < next(k for k, s in enumerate(body) if s is store)


def _alone(index: Index, load: Load, loads: object, known: Known) -> bool:
    """Whether no other load of the loop may be of the element at `index`."""
    for other in loads:  # type: ignore[attr-defined]
        x = other[0]
        if known.memory[x.buffer.name] != known.memory[load.buffer.name] or x is load:
            continue
        at = known.indices[x.buffer.name, x.index]
        if x.buffer != load.buffer or at is None or not differ(index, at, known):
            return False
    return True


def earlier(index: Index, symbol: str) -> Index:
    """An index in the iteration before."""
    before = {symbol: Poly.symbol(symbol) - 1}
    return tuple(d.substitute(before) if isinstance(d, Poly) else d for d in index)


def differ(a: Index, b: Index, known: Known) -> bool:
    """Whether two elements are never the same, in whichever iterations: an axis differs by a number that is known to be
    positive, or negative."""
    return any(_is_apart(x - y, known.ends) for x, y in zip(a, b, strict=True))


def _is_apart(gap: Dim, ends: Mapping[str, Dim]) -> bool:
    if isinstance(gap, int):
        return gap != 0
    inner = [s for s in ends if s in gap.symbols]
    backwards = {s: ends[s] - 1 - Poly.symbol(s) for s in inner}  # from the last iteration on
    ways = [{}, *({s: d} for s, d in backwards.items())]
    return any(_has_sign(gap.substitute(way)) for way in ways)


def _has_sign(d: Dim) -> bool:
    """Whether a dimension is positive for all symbols that are not negative, or negative for all."""
    if isinstance(d, int):
        return d != 0
    terms = dict(d.terms)
    constant = terms.get((), 0)
    return constant > 0 and min(terms.values()) > 0 or constant < 0 and max(terms.values()) < 0


def with_slots(body: Sequence[Stmt], found: Sequence[tuple[Slot, Var]]) -> tuple[Stmt, ...]:
    """The body of a loop with elements in registers; those that are loaded only are loaded before it already."""
    reads = {dst: slot for s, slot in found for dst in s.reads}
    after = {id(s.store): (s, slot) for s, slot in found if s.store is not None}
    result: list[Stmt] = []
    for s in body:
        if isinstance(s, Load) and s.dst in reads:
            result.append(Let(s.dst, "read", (reads[s.dst],)))
            continue
        kept, slot = after.get(id(s), (None, None))
        if kept is None or not kept.stored:
            result.append(s)
        if slot is not None and isinstance(s, Store):
            result.append(Assign(slot, s.value))
    return tuple(result)
