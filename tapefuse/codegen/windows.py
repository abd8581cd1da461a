"""Elements that move through a window: what an iteration of a loop stores and later ones load stays in registers.

    for j:                              r = a[first + 1]
      a[j+1] = a[j+1] + t(a[j])   ->    for j:  a[j+1] = p = a[j+1] + t(r);  r = p

Each place of the window is a slot, and at the end of an iteration it hands over what it holds, so that the next
iteration does not wait for memory (scalar replacement: Callahan, Carr and Kennedy 1990). Memory sees every store.
The reverse of a sweep over a grid is such a loop: it adds to the points around one, and then uses the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from tapefuse._records import dataclass
from tapefuse.codegen.loops import Assign, Buffer, Let, Load, Stmt, Store, Var
from tapefuse.codegen.reuse import Index, Known, differ, earlier, is_innermost, written
from tapefuse.ir.types import Poly

WIDEST = 4  # places of a window


@dataclass(frozen=True)
class Window:
    """Elements of `buffer`: the one at `places[k]` in an iteration is at `places[k + 1]` in the next one. `names`: the
    indices of loads and stores, and which place that is."""

    buffer: Buffer
    places: tuple[Index, ...]
    names: Mapping[tuple, int]


def windows(body: Sequence[Stmt], known: Known) -> list[Window]:
    """The windows of an innermost loop through which something goes that it stores and loads again later.

    All that is done to an array must be loads and stores at known indices that move by the same step, and no element
    of a window may be one of another window.
    """
    if not is_innermost(body):
        return []
    clobbered = {known.memory[b.name] for s in body for b in written(s)}
    accesses: dict[str, list[Load | Store]] = {}
    for s in body:
        if isinstance(s, Load | Store):
            accesses.setdefault(known.memory[s.buffer.name], []).append(s)
    return [
        window
        for memory, found in accesses.items()
        if memory not in clobbered and all(s.buffer == found[0].buffer for s in found)
        for window in _of_array(found, known)
    ]


def _of_array(accesses: Sequence[Load | Store], known: Known) -> list[Window]:
    buffer, symbol = accesses[0].buffer, known.symbol
    at: dict[tuple, Index] = {}
    for s in accesses:
        index = known.indices[buffer.name, s.index]
        if index is None or not _moves_evenly(index, symbol):
            return []
        at[s.index] = index
    lines = [*_lines(dict.fromkeys(at.values()), symbol)]
    pairs = ((a[0], b[0]) for k, a in enumerate(lines) for b in lines[:k])
    if buffer.name not in known.fixed or not all(_differ_always(a, b, known) for a, b in pairs):
        return []
    found = []
    for line in lines:
        names = {name: line.index(index) for name, index in at.items() if index in line}
        stored = [names[s.index] for s in accesses if isinstance(s, Store) and s.index in names]
        loaded = [names[s.index] for s in accesses if isinstance(s, Load) and s.index in names]
        if len(line) <= WIDEST and stored and loaded and min(stored) < max(loaded):
            found.append(Window(buffer, line, names))
    return found


def _moves_evenly(index: Index, symbol: str) -> bool:
    """Whether an index moves by the same numbers from each iteration to the next one."""
    steps = [a - b for a, b in zip(index, earlier(index, symbol), strict=True)]
    return any(step != 0 for step in steps) and not any(isinstance(step, Poly) for step in steps)


def _lines(indices: Collection[Index], symbol: str) -> Iterator[tuple[Index, ...]]:
    """Runs of indices, each of which is what the one before it was in the iteration before."""
    followers = {earlier(index, symbol) for index in indices}
    for index in indices:
        if index in followers:
            continue
        line = [index]
        while (follower := earlier(line[-1], symbol)) in indices:
            line.append(follower)
        yield tuple(line)


def _differ_always(a: Index, b: Index, known: Known) -> bool:
    """Whether two indices are never the same, not even in different iterations."""
    axes = [(x, y) for x, y in zip(a, b, strict=True) if not any(_moves(d, known.symbol) for d in (x, y))]
    fixed = tuple(x for x, _ in axes), tuple(y for _, y in axes)
    return differ(*fixed, known)


def _moves(d: object, symbol: str) -> bool:
    return isinstance(d, Poly) and symbol in d.symbols


def with_window(body: Sequence[Stmt], window: Window, slots: Sequence[Var], fresh: Iterator[Var]) -> tuple[Stmt, ...]:
    """The body of a loop that keeps a window in `slots`, one a place; all but the first hold what memory does when it
    begins. `fresh`: names for scalars."""
    result: list[Stmt] = []
    is_there = {k: k > 0 for k in range(len(slots))}
    for s in body:
        k = window.names.get(s.index) if isinstance(s, Load | Store) and s.buffer == window.buffer else None
        if k is None:
            result.append(s)
        elif isinstance(s, Store):
            result += [s, Assign(slots[k], s.value)]
            is_there[k] = True
        elif isinstance(s, Load) and is_there[k]:
            result.append(Let(s.dst, "read", (slots[k],)))
        elif isinstance(s, Load):
            result += [s, Assign(slots[k], s.dst)]
            is_there[k] = True
    for k in range(len(slots) - 1, 0, -1):
        result += [Let(held := next(fresh), "read", (slots[k - 1],)), Assign(slots[k], held)]
    return tuple(result)
