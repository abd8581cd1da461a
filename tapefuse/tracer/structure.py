"""What tapes have in common that repeat themselves: the operations and how they are wired, but for the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapefuse._records import dataclass
from tapefuse.ir.op import Op
from tapefuse.ir.types import Type, type_of
from tapefuse.tracer.lines import Line, Shell
from tapefuse.tracer.record import Node


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a line must be. Slots number the values of a tape; -1 is a Python number.

    `firsts`: whether an operand stands here for the first time; `tracked`: whether the tape tracks it. `types`, `kept`:
    of the result and the operands, and whether the tape has their arrays.
    """

    op: Op
    attrs: dict[str, Any]
    slots: tuple[int, ...]
    firsts: tuple[bool, ...]
    tracked: tuple[bool, ...]
    types: tuple[Type, ...]
    kept: tuple[bool, ...]
    result: int


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """What a tape recorded, but for the values in its arrays; and of what by what derivatives are wanted."""

    steps: tuple[Step, ...]
    targets: tuple[int, ...]
    sources: tuple[int, ...]  # -1: not on the tape
    source_types: tuple[Type, ...]
    seed_types: tuple[Type, ...] | None  # None: all are 1


def structure_of(lines: Sequence[Line], seeds: Any, targets: Sequence[Node], sources: Sequence[Node]) -> Structure:
    slots: dict[int, int] = {}
    steps = []
    for op, keys, key, held, attrs, _, _ in lines:
        firsts = []
        for k in keys:
            firsts.append(k not in slots)
            if k:
                slots.setdefault(k, len(slots))
        slots[key] = result = len(slots)
        places = tuple([slots[k] if k else -1 for k in keys])
        tracked = tuple([k > 0 for k in keys])
        kept = tuple([type(a) is not Shell for a in held])
        steps.append(Step(op, attrs, places, tuple(firsts), tracked, tuple(map(type_of, held)), kept, result))
    return Structure(
        tuple(steps),
        ends(slots, targets),
        ends(slots, sources),
        tuple([s.type for s in sources]),
        None if seeds is None else tuple([g.type for _, g in seeds]),
    )


def ends(slots: dict[int, int], nodes: Sequence[Node]) -> tuple[int, ...]:
    return tuple([slots.get(n.key or 0, -1) for n in nodes])


def matches(
    structure: Structure, lines: Sequence[Line], seeds: Any, targets: Sequence[Node], sources: Sequence[Node]
) -> bool:
    slots = walked(structure, lines, [()] * len(lines), [])
    return slots is not None and ends_match(structure, slots, seeds, targets, sources)


def ends_match(structure: Structure, slots: dict[int, int], seeds: Any, targets: Any, sources: Any) -> bool:
    if (seeds is None) != (structure.seed_types is None):
        return False
    if structure.targets != ends(slots, targets) or structure.sources != ends(slots, sources):
        return False
    return all(s.type == t for s, t in zip(sources, structure.source_types, strict=True))


def walked(
    structure: Structure, lines: Sequence[Line], reads: Sequence[tuple[int, ...]], inputs: list[Any]
) -> dict[int, int] | None:
    """The slot of each value, if the lines are as the structure says; `inputs` gets the arrays at positions `reads`."""
    steps = structure.steps
    if len(lines) != len(steps):
        return None
    slots: dict[int, int] = {}
    for line, step, read in zip(lines, steps, reads, strict=True):
        if type(line) is not tuple:
            return None
        op, keys, key, held, attrs, _, _ = line
        if op is not step.op or len(keys) != len(step.slots) or attrs != step.attrs:
            return None
        for place, k in enumerate(keys):
            slot = step.slots[place]
            if slot < 0 or not k:
                if k or slot >= 0:
                    return None
            elif step.firsts[place]:
                if k in slots or (k > 0) is not step.tracked[place]:
                    return None
                slots[k] = slot
            elif slots.get(k) != slot:
                return None
        slots[key] = step.result
        for a, t in zip(held, step.types, strict=True):
            if a.shape != t.shape or a.dtype is not t.dtype:
                return None
        for position in read:
            inputs.append(held[position])
    return slots
