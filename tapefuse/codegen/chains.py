"""Sums in loops, ordered so that the value which an iteration waits for is added last.

    s = read slot                          a = add x y
    a = add s x                            b = add a z
    b = add a y                ->          s = read slot
    c = add b z                            c = add s b
    t = div c 9                            t = div c 9
    slot <- t                              slot <- t

One iteration then waits for one addition of the one before instead of three; the other terms are added meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from tapefuse.codegen.loops import Assign, Let, Scalar, Stmt, Var, bodies


def carried_last(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """The body of an innermost loop with sums of floats, of three or more terms, whose first terms include a value
    that is carried, reordered; others as they are."""
    result = tuple(body)
    if any(bodies(s) for s in result):
        return result
    slots = {s.acc: s.value for s in result if isinstance(s, Assign)}
    for s in result:
        if isinstance(s, Let) and s.op == "read" and s.args[0] in slots:
            chain = _chain(result, s.dst)
            if len(chain) > 1 and slots[s.args[0]] in _depending(result, chain[-1].dst):
                result = _reordered(result, s.dst, chain)
    return result


def _chain(body: Sequence[Stmt], first: Var) -> list[Let]:
    """The additions from a value on, each of which is all that reads the one before."""
    chain: list[Let] = []
    while True:
        readers = [s for s in body if first in _operands(s)]
        if len(readers) != 1:
            return chain
        s = readers[0]
        is_sum = isinstance(s, Let) and s.op == "add" and s.dst.dtype.kind == "f" and s.args[0] != s.args[1]
        if not is_sum:
            return chain
        assert isinstance(s, Let)
        chain.append(s)
        first = s.dst


def _reordered(body: Sequence[Stmt], carried: Var, chain: Sequence[Let]) -> tuple[Stmt, ...]:
    """Each sum gets the term of the next one, under its own name; the last one gets the carried value."""
    before = carried
    total: Scalar | None = None
    moved: dict[int, list[Let]] = {}
    for s in chain:
        (term,) = (x for x in s.args if x != before)
        moved[id(s)] = [] if total is None else [Let(before, "add", (total, term))]
        total, before = term if total is None else before, s.dst
    last = chain[-1]
    moved[id(last)].append(Let(last.dst, "add", (chain[-2].dst, carried)))
    result: list[Stmt] = []
    for t in body:
        result += moved.get(id(t), [t])
    return tuple(result)


def _depending(body: Sequence[Stmt], first: Var) -> set[Var]:
    found = {first}
    for s in body:
        if isinstance(s, Let) and found.intersection(s.args):
            found.add(s.dst)
    return found


def _operands(s: Stmt) -> set[object]:
    """What a statement reads, and what it sets, one by one."""
    found: set[object] = set()
    for f in fields(s):
        if not (isinstance(s, Let) and f.name == "dst"):
            x = getattr(s, f.name)
            found.update(x) if isinstance(x, tuple) else found.add(x)
    return found
