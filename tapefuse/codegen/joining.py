"""Neighbouring kernels of a region as one, where loops over the same elements do not depend on each other.

    for i in 0..9999:                        for j in 0..9999:                for i in 0..9999:
      h[i] = g[i] + c[i + 1] g[i + 1]          s[j + 1] -= g[j + 1] d[j]        h[i] = g[i] + c[i + 1] g[i + 1]
                                                                                s[i + 1] -= g[i + 1] d[i]

What both load is loaded once. A loop may be shifted against the other, so that they load the same element in the same
iteration; iterations of one that the other does not have are loops of their own before and after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, Buffer, For, Kernel, Let, Load, Num, Scalar, Stmt, Store, Var
from tapefuse.codegen.loops_walk import SYMBOL, walk
from tapefuse.codegen.planned import pieces

LEAST = 64  # iterations that both loops have
MOST = 64  # statements of the common loop
Memory = Callable[[Place], Hashable]  # which memory a place is


def joined(steps: Sequence[Step], memory: Memory, launched: Collection[str]) -> list[Step]:
    """The steps, some neighbours as one, under the name of the first. `launched`: the names of kernels that stay on
    their own; they are not joined to those that are copied, whose numbers need not lie in memory."""
    found: list[Step] = []
    named = {s.rows_of for s in steps}  # by others, which ask for the number of their pieces
    for step in steps:
        names = [s.kernel.name for s in (*found[-1:], step)]
        are_alike = len({name in launched for name in names}) == 1
        is_free = found and are_alike and named.isdisjoint(names)
        both = _both(found[-1], step, memory) if is_free else None
        found[-1:] = [both] if both is not None else [*found[-1:], step]
    return found


def _both(a: Step, b: Step, memory: Memory) -> Step | None:
    """Two steps as one; None if that cannot be, or if they have no elements in common."""
    if not (_is_plain(a) and _is_plain(b)) or _disturb(a, b, memory) or _disturb(b, a, memory):
        return None
    places = tuple(dict.fromkeys((*a.places, *b.places)))
    buffers = {place: Buffer(f"b{k}", _buffer(a, b, place).type) for k, place in enumerate(places)}
    if any(buffers[q].type != x.type for s in (a, b) for q, x in zip(s.places, s.kernel.buffers, strict=True)):
        return None
    first = _renamed(a, buffers, "")
    suffix = "j"
    while _scalars(first) & _scalars(second := _renamed(b, buffers, suffix)):
        suffix += "j"  # the first step is itself several
    body = _common(first, second)
    if body is None:
        return None
    symbols = tuple(sorted({*a.kernel.symbols, *b.kernel.symbols}))
    title = ", ".join(dict.fromkeys((*a.kernel.title.split(", "), *b.kernel.title.split(", "))))
    cost = a.kernel.cost + b.kernel.cost
    kernel = Kernel(a.kernel.name, tuple(buffers.values()), symbols, body, 1, cost, title)
    return replace(a, kernel=kernel, places=places, written=a.written | b.written, chunks=1, cut=None)


def _is_plain(step: Step) -> bool:
    """Whether a step is loops over elements with fixed ends, which run as one piece."""
    if pieces(step) != 1 or step.rows_of or step.bindings or step.status is not None or step.inside:
        return False
    return all(isinstance(s, Let) or _is_loop(s) for s in _flat(step.kernel.body))


def _flat(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """Statements without loops of one iteration around others: their index is a number."""
    for s in body:
        if isinstance(s, For) and any(isinstance(t, For) for t in s.body) and _is_single(s):
            yield Let(s.var, "add", (s.start, Num(0, INT)))
            yield from _flat(s.body)
        else:
            yield s


def _is_single(s: For) -> bool:
    return isinstance(s.start, Num) and isinstance(s.stop, Num) and _trips(s) == 1


def _is_loop(s: Stmt) -> bool:
    if not isinstance(s, For) or not isinstance(s.start, Num) or not isinstance(s.stop, Num):
        return False
    return all(isinstance(t, Load | Store) or isinstance(t, Let) and t.op != "read" for t in s.body)


def _disturb(a: Step, b: Step, memory: Memory) -> bool:
    """Whether one step writes to memory that the other uses."""
    return not {memory(q) for q in a.written}.isdisjoint(map(memory, b.places))


def _buffer(a: Step, b: Step, place: Place) -> Buffer:
    return next(x for s in (a, b) for q, x in zip(s.places, s.kernel.buffers, strict=True) if q == place)


def _renamed(step: Step, buffers: Mapping[Place, Buffer], suffix: str) -> list[Stmt]:
    """The statements of a step with other buffers, and a suffix to the names of scalars."""
    new = {x: buffers[q] for q, x in zip(step.places, step.kernel.buffers, strict=True)}

    def name(x: Scalar) -> Scalar:
        if isinstance(x, Num) or x in (LO, HI, CHUNK) or x.name.startswith(SYMBOL):
            return x
        return Var(x.name + suffix, x.dtype)

    def change(s: Stmt) -> Stmt:
        match s:
            case For(var, start, stop, body):
                return For(name(var), start, stop, tuple(map(change, body)))  # type: ignore[arg-type]
            case Let(dst, op, args):
                return Let(name(dst), op, tuple(map(name, args)))  # type: ignore[arg-type]
            case Load(dst, buffer, index):
                return Load(name(dst), new[buffer], tuple(map(name, index)))  # type: ignore[arg-type]
            case Store(buffer, index, value):
                return Store(new[buffer], tuple(map(name, index)), name(value))
        raise AssertionError(s)

    return [change(s) for s in _flat(step.kernel.body)]


def _scalars(body: Sequence[Stmt]) -> set[str]:
    """The names of what statements define."""
    found = set()
    for s in walk(body):
        if isinstance(s, For):
            found.add(s.var.name)
        elif isinstance(s, Let | Load):
            found.add(s.dst.name)
    return found


# -- two loops as one --------------------------------------------------------------------------------------------------


def _common(first: Sequence[Stmt], second: Sequence[Stmt]) -> tuple[Stmt, ...] | None:
    """The statements of two bodies that do not depend on each other, with the longest loops of both as one."""
    i, j = _longest(first), _longest(second)
    if i is None or j is None:
        return None
    a, b = first[i], second[j]
    assert isinstance(a, For) and isinstance(b, For)
    shift = _shift(a, b)
    if shift is None or len(a.body) + len(b.body) > MOST:
        return None
    low = max(_number(a.start), _number(b.start) + shift)
    high = min(_number(a.stop), _number(b.stop) + shift)
    if high - low < max(LEAST, _trips(a) * 3 // 4, _trips(b) * 3 // 4):
        return None
    both = For(a.var, Num(low, INT), Num(high, INT), _merged(a, b, shift))
    before = [*_part(a, 0, low), *_part(b, 0, low - shift)]
    after = [*_part(a, high, _number(a.stop)), *_part(b, high - shift, _number(b.stop))]
    return (*first[:i], *second[:j], *before, both, *after, *first[i + 1 :], *second[j + 1 :])


def _number(x: Scalar) -> int:
    assert isinstance(x, Num)
    return int(x.value)


def _trips(s: For) -> int:
    return _number(s.stop) - _number(s.start)


def _longest(body: Sequence[Stmt]) -> int | None:
    loops = [k for k, s in enumerate(body) if isinstance(s, For)]
    return max(loops, key=lambda k: _trips(body[k]), default=None)  # type: ignore[arg-type]


def _part(s: For, low: int, high: int) -> Iterator[For]:
    low = max(low, _number(s.start))
    if low < high:
        yield replace(s, start=Num(low, INT), stop=Num(high, INT))


class _Use(NamedTuple):
    """An element that an iteration loads or stores, `offset` after that of the loop's index."""

    buffer: Buffer
    axis: int
    offset: int
    is_load: bool


def _uses(s: For) -> list[_Use]:
    offsets: dict[Scalar, int] = {s.var: 0}
    found = []
    for t in s.body:
        if isinstance(t, Let) and t.op in ("add", "sub") and t.args[0] in offsets and isinstance(t.args[1], Num):
            more = int(t.args[1].value)
            offsets[t.dst] = offsets[t.args[0]] + (more if t.op == "add" else -more)
        elif isinstance(t, Load | Store):
            axes = [k for k, x in enumerate(t.index) if x in offsets]
            found += [_Use(t.buffer, k, offsets[t.index[k]], isinstance(t, Load)) for k in axes]
    return found


def _shift(a: For, b: For) -> int | None:
    """By how much the index of `b` is less than that of `a` where both load the same elements, if they share any; of
    several numbers one at which they store at the same place, too."""
    ours, theirs = _uses(a), _uses(b)
    loads = Counter(
        y.offset - x.offset
        for x in {x for x in ours if x.is_load}
        for y in {y for y in theirs if y.is_load}
        if (x.buffer, x.axis) == (y.buffer, y.axis)
    )
    stores = {y.offset - x.offset for x in ours if not x.is_load for y in theirs if not y.is_load}
    return max(loads, key=lambda d: (loads[d], d in stores, -abs(d)), default=None)


def _merged(a: For, b: For, shift: int) -> tuple[Stmt, ...]:
    """The body of both loops for the index of `a`, each element loaded and each index computed once."""
    names: dict[Scalar, Scalar] = {}
    affine: dict[Scalar, int] = {a.var: 0}  # the index and a number
    known: dict[Hashable, Var] = {("index", 0): a.var}
    body: list[Stmt] = []

    def use(x: Scalar) -> Scalar:
        return names.get(x, x)

    def once(key: Hashable, dst: Var, s: Stmt) -> None:
        if key in known:
            names[dst] = known[key]
        else:
            known[key] = dst
            body.append(s)

    moved = Let(b.var, "sub", (a.var, Num(shift, INT)))
    for t in (*a.body, moved, *b.body):
        match t:
            case Let(dst, op, args):
                args = tuple(map(use, args))
                by = args[1] if len(args) == 2 and op in ("add", "sub") else None
                if args[0] in affine and isinstance(by, Num):
                    at = affine[args[0]] + (int(by.value) if op == "add" else -int(by.value))
                    affine[dst] = at
                    once(("index", at), dst, Let(dst, "add" if at > 0 else "sub", (a.var, Num(abs(at), INT))))
                else:
                    once((op, args, dst.dtype), dst, Let(dst, op, args))
            case Load(dst, buffer, index):
                index = tuple(map(use, index))
                once((buffer, index), dst, Load(dst, buffer, index))
            case Store(buffer, index, value):
                index = tuple(map(use, index))
                known.pop((buffer, index), None)
                body.append(Store(buffer, index, use(value)))
    return tuple(body)
