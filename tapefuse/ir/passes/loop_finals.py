"""What a reverse pass finds in the last carry of a loop: elements that no later iteration changes.

    for k:  x[k] = f(x[:k])      x[:k] of iteration k is x[:k] after the loop, and so is x[k]

Factorisations and substitutions are like that. An array is followed through the updates of its parts, those of loops
inside as well; parts are compared by the bounds of their indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.ops.update import limits
from tapefuse.ir.passes import loop_ranges
from tapefuse.ir.passes.checks import Known
from tapefuse.ir.passes.loop_chunks import Loop
from tapefuse.ir.passes.loop_ranges import Box
from tapefuse.ir.types import Dim, Poly, substitute

LATER, ELSEWHERE = "_later", "_elsewhere"  # in names of symbols: iterations from the next one to another; of writes


class Part(NamedTuple):
    """The elements of carry number `carry`, as it is after the loop, which a value has, in the value's order."""

    carry: int
    starts: tuple[Dim, ...]
    limits: tuple[Dim, ...]
    strides: tuple[int, ...]

    @property
    def box(self) -> Box:
        return Box(self.starts, self.limits)

    @property
    def is_scattered(self) -> bool:
        """Whether it is a column, whose elements do not lie beside each other."""
        *before, last = self.box.shape or (1,)
        return last == 1 and any(n != 1 for n in before)


class _Write(NamedTuple):
    box: Box
    known: Known  # the intervals of symbols that are bound around the write, but not around the loop


def finals(loop: Loop, new: Sequence[Value], graph: Graph) -> dict[Value, Part]:
    """The values of an iteration that the last carry still has. `new`: the carry after an iteration; `graph`: where
    slices of carries are looked for."""
    found: dict[Value, Part] = {}
    for number, (p, y) in enumerate(zip(loop.body.params, new, strict=False)):
        steps = _steps(p, y)
        if steps is None:
            continue
        place = {p: 0} | {v: k for k, v in enumerate(steps, 1)}
        for v in graph.nodes:
            if v.op is ops.slice_ and v.args[0] in place:
                a = v.attributes
                part = Part(number, a["starts"], a["limits"], a["strides"])
                if _stays(part.box, loop, steps, place[v.args[0]]):
                    found[v] = part
        for v in steps:
            if v.op is ops.put:
                part = Part(number, *_region(v), v.attributes["strides"])
                if _stays(part.box, loop, steps, place[v]):
                    found |= dict.fromkeys(_reshaped(v.args[1]), part)
    return found


def _steps(p: Value, y: Value) -> list[Value] | None:
    """The updates that make `y` of `p`, in order; None if something else does."""
    found = []
    v: Value | None = y
    while v is not p:
        if v is None or v.op is None:
            return None
        found.append(v)
        v = _before(v)
    return found[::-1]


def _before(v: Value) -> Value | None:
    """The array of which `v` is an update."""
    if v.op is ops.put or v.op is ops.put_add:
        return v.args[0]
    if v.op is ops.result and v.args[0].op is ops.for_:
        (token,), k = v.args, v.attributes["index"]
        body = token.attributes["body"]
        return None if _steps(body.params[k], body.outs[k]) is None else token.args[k]
    return None


def _region(v: Value) -> Box:
    a = v.attributes
    return Box(a["starts"], limits(v.args[1].shape, a["starts"], a["strides"]))


def _writes(v: Value, known: Known) -> Iterator[_Write]:
    """Where an update writes."""
    if v.op is not ops.result:
        yield _Write(_region(v), known)
        return
    (token,), k = v.args, v.attributes["index"]
    body, index, trips = (token.attributes[name] for name in ("body", "index", "trips"))
    other = index + ELSEWHERE
    env = {index: Poly.symbol(other)}
    for step in _steps(body.params[k], body.outs[k]) or ():
        for write in _writes(step, {}):
            inner = {name: substitute(ends, env) for name, ends in write.known.items()}
            yield _Write(write.box.substitute(env), {**known, other: (0, trips - 1), **inner})


def _stays(box: Box, loop: Loop, steps: Sequence[Value], place: int) -> bool:
    """Whether a part of the carry, as it is after `place` updates of an iteration, is never written any more."""
    index, t = loop.index, loop.index + LATER
    known = loop_ranges.with_index(index, loop.trips)
    after = {**known, t: (0, loop.trips - 2 - Poly.symbol(index))}
    env = {index: Poly.symbol(index) + 1 + Poly.symbol(t)}
    for number, step in enumerate(steps):
        for write in _writes(step, {}):
            if number >= place and not box.is_apart(write.box, {**known, **write.known}):
                return False
            later = {name: substitute(ends, env) for name, ends in write.known.items()}
            if not box.is_apart(write.box.substitute(env), {**after, **later}):
                return False
    return True


def _reshaped(v: Value) -> Iterator[Value]:
    """A value, and those of which it is a reshape."""
    yield v
    while v.op is ops.reshape:
        (v,) = v.args
        yield v
