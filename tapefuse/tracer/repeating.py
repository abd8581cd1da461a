"""Eager tapes that repeat themselves: their reverse pass is compiled when it is about to be run once more.

A training loop records the same operations on arrays of the same types over and over. Each line of the user's
source that asks for gradients is a `Site`, with the line that entered the tape. When the tapes of a site had one
`Structure` a few times in a row (`config.compile_repeated_tapes`), its reverse pass becomes one program, whose inputs
are the recorded arrays. What was recorded decides, each time anew: a tape of another structure, after an `if` on a
value say, is differentiated on its arrays as before. Python's numbers among the operands are inputs as well, those
among the attributes (axes, shapes) belong to the structure.

>>> for _ in range(10):
...     with GradientTape() as tape:
...         loss = tp.sum(tp.tanh(x * w) ** 2)
...     w.assign_sub(0.1 * tape.gradient(loss, w))
>>> print(explain())
train.py:4 (tape at train.py:2): compiled after 5 repetitions, 7 operations; run 5 times
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any
from weakref import WeakSet

from tapefuse._config import busy, config, on_change
from tapefuse._errors import TapeError
from tapefuse._locks import Lock
from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.op import Op, constant
from tapefuse.ir.passes.adjoint import OpRecord, adjoint
from tapefuse.ir.types import Type, type_of
from tapefuse.tracer.lines import Line, Shell
from tapefuse.tracer.record import Node
from tapefuse.tracer.source import line_of
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.trace import Traced

logger = logging.getLogger("tapefuse.tape")

Entry = Callable[..., Any]
Instruction = tuple[CodeType, int]

MOST_OPERATIONS = 500  # of a tape that is compiled; with more, compiling takes seconds
MOST_PROGRAMS = 4  # of a site
MOST_SITES = 256
PATIENCE = 20  # so many structures may a site show without one that repeats


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


class Program:
    """The compiled reverse pass of a structure. `entry(*arrays)` takes those at `places`: numbers of a step, positions
    in what it holds."""

    def __init__(self, structure: Structure, entry: Entry, places: Sequence[tuple[int, int]], connected: list[int]):
        self.structure, self.entry, self.connected = structure, entry, connected
        self.run_key = config.run_key()
        self.reads: list[tuple[int, ...]] = [() for _ in structure.steps]
        for step, position in places:
            self.reads[step] = (*self.reads[step], position)


class Site:
    """A place that asks tapes for gradients, and what it asked for so far."""

    def __init__(self, entered: Instruction, asked: Instruction):
        self.entered, self.asked = entered, asked
        self.structure: Structure | None = None  # the last one that was not compiled
        self.in_a_row = self.changes = self.runs = self.asked_times = 0
        self.programs: list[Program] = []
        self.reason = ""  # why it is given up
        self.compiled_after = 0

    def __str__(self) -> str:
        where = f"{line_of(*self.asked)} (tape at {line_of(*self.entered)})"
        if self.programs:
            n = len(self.programs[0].structure.steps)
            more = f", {len(self.programs)} structures" if len(self.programs) > 1 else ""
            return (
                f"{where}: compiled after {self.compiled_after} repetitions, {n} operations{more}; run {self.runs} "
                f"of {self.asked_times} times"
            )
        if self.reason:
            return f"{where}: not compiled, {self.reason}"
        return f"{where}: not compiled yet, {self.in_a_row} of {config.compile_repeated_tapes} equal tapes in a row"


_sites: dict[tuple[int, int, int, int], Site] = {}
_lock = Lock()
_compilers: list[Callable[[Traced], Entry]] = []  # handed over by `function`, which stands above


def compile_with(compiler: Callable[[Traced], Entry]) -> None:
    _compilers[:] = [compiler]


_mentioned: WeakSet[Any] = WeakSet()


def mention(x: Any) -> None:
    """Have `explain` say what `str(x)` says, as long as somebody holds it."""
    _mentioned.add(x)


def explain() -> str:
    """For people: which eager tapes and optimizer's steps repeat themselves in this process, and which of them were
    compiled, or why not."""
    found = [*map(str, list(_sites.values())), *sorted(map(str, _mentioned))]
    return "\n".join(found) or "no tape has been asked for gradients outside of a trace"


def forget() -> None:
    """Begin anew: no site is known, and nothing compiled."""
    _sites.clear()


on_change.append(forget)


def compiled_gradients(
    entered: Instruction,
    asked: Instruction,
    lines: Sequence[Any],
    seeds: Sequence[tuple[Node, Tensor]] | None,
    targets: Sequence[Node],
    sources: Sequence[Node],
) -> list[Tensor | None] | None:
    """The gradients from a compiled program; None if there is none for this tape. `seeds` None: all are 1."""
    needed = config.compile_repeated_tapes
    if not needed or not lines:
        return None
    key = id(entered[0]), entered[1], id(asked[0]), asked[1]
    site = _sites.get(key) or _new_site(key, entered, asked)
    site.asked_times += 1
    for program in site.programs:
        found = _run(program, lines, seeds, targets, sources)
        if found is not None:
            site.runs += 1
            return found
    if site.reason or len(site.programs) >= MOST_PROGRAMS:
        return None
    with _lock:
        compiling = _noted(site, lines, seeds, targets, sources, needed)
    if compiling is not None:
        _compile(site, compiling)
    return None


def _new_site(key: tuple, entered: Instruction, asked: Instruction) -> Site:
    with _lock:
        if len(_sites) >= MOST_SITES:
            del _sites[next(iter(_sites))]
        return _sites.setdefault(key, Site(entered, asked))


def _noted(
    site: Site, lines: Sequence[Line], seeds: Any, targets: Sequence[Node], sources: Sequence[Node], needed: int
) -> Structure | None:
    """Count the tape; its structure, if that is to be compiled now."""
    if len(lines) > MOST_OPERATIONS:
        site.reason = (
            f"since it has {len(lines)} operations, more than {MOST_OPERATIONS}; compile the step with tp.tape_function"
        )
        return None
    if any(type(line) is not tuple for line in lines):
        site.reason = "since the tape holds calls, loops, or operations on other values than float32 and float64"
        return None
    if site.structure is not None and _matches(site.structure, lines, seeds, targets, sources):
        site.in_a_row += 1
    else:
        site.changes += site.structure is not None
        site.structure, site.in_a_row = _structure(lines, seeds, targets, sources), 1
        if site.changes > PATIENCE and not site.programs:
            site.reason = f"since its operations changed {site.changes} times"
    if site.in_a_row < needed or site.reason:
        return None
    structure, site.structure = site.structure, None  # no other thread compiles it as well
    site.in_a_row = 0
    return structure


# -- structures -------------------------------------------------------------------------------------------------------


def _structure(lines: Sequence[Line], seeds: Any, targets: Sequence[Node], sources: Sequence[Node]) -> Structure:
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
        _ends(slots, targets),
        _ends(slots, sources),
        tuple([s.type for s in sources]),
        None if seeds is None else tuple([g.type for _, g in seeds]),
    )


def _ends(slots: dict[int, int], nodes: Sequence[Node]) -> tuple[int, ...]:
    return tuple([slots.get(n.key or 0, -1) for n in nodes])


def _matches(
    structure: Structure, lines: Sequence[Line], seeds: Any, targets: Sequence[Node], sources: Sequence[Node]
) -> bool:
    slots = _walked(structure, lines, [()] * len(lines), [])
    return slots is not None and _ends_match(structure, slots, seeds, targets, sources)


def _ends_match(structure: Structure, slots: dict[int, int], seeds: Any, targets: Any, sources: Any) -> bool:
    if (seeds is None) != (structure.seed_types is None):
        return False
    if structure.targets != _ends(slots, targets) or structure.sources != _ends(slots, sources):
        return False
    return all(s.type == t for s, t in zip(sources, structure.source_types, strict=True))


def _walked(
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


# -- programs ---------------------------------------------------------------------------------------------------------


def _compile(site: Site, structure: Structure) -> None:
    name = f"the tape at {line_of(*site.entered)}"
    try:
        program = _program(structure, name)
    except Exception as error:  # the loop goes on as it did, and `explain` says why
        logger.warning("%s repeats itself, but cannot be compiled: %s", name, error)
        site.reason = f"since {error}"
        return
    with _lock:
        site.programs = [program, *site.programs]
        site.compiled_after = site.compiled_after or site.asked_times


def _program(structure: Structure, name: str) -> Program:
    records, values, places = _records(structure)
    targets, seeds, given = [], [], []
    for k, slot in enumerate(structure.targets):
        seed_type = None if structure.seed_types is None else structure.seed_types[k]
        seed = None if seed_type is None else param(seed_type, f"d{k}")
        given += [] if seed is None else [seed]
        if slot >= 0:
            targets.append(values[slot])
            seeds.append(_filled(constant(1, values[slot].dtype) if seed is None else seed, values[slot].type))
    wanted = [slot for slot in structure.sources if slot >= 0]
    found = dict(zip(wanted, adjoint(records, targets, seeds, [values[slot] for slot in wanted]), strict=True))
    outs = [found.get(slot) for slot in structure.sources]
    connected = [k for k, y in enumerate(outs) if y is not None]
    if not connected:
        raise TapeError("no source is connected with the target")
    results = tuple([y for y in outs if y is not None])
    live = reachable(results)
    inputs = sorted([v for v in places if v in live], key=places.__getitem__)
    graph = Graph((*inputs, *given), results, name)
    traced = Traced(graph, len(graph.params), (), (), (), len(results), (), created=False)
    return Program(structure, _compilers[0](traced), [places[v] for v in inputs], connected)


def _filled(seed: Value, type: Type) -> Value:
    return seed if seed.type == type else ops.broadcast.emit(seed, shape=type.shape, axes=())


def _records(structure: Structure) -> tuple[list[OpRecord], dict[int, Value], dict[Value, tuple[int, int]]]:
    """The steps on IR values, the value of each slot, and for each value a step and a position that has its array."""
    values: dict[int, Value] = {}
    places: dict[Value, tuple[int, int]] = {}
    records = []
    for n, step in enumerate(structure.steps):
        found = []
        for position, (slot, type) in enumerate(zip((step.result, *step.slots), step.types, strict=True)):
            value = values.get(slot) if slot >= 0 else None
            if value is None:
                value = param(type)
                if slot >= 0:
                    values[slot] = value
            if step.kept[position]:
                places.setdefault(value, (n, position))
            found.append(value)
        y, *xs = found
        records.append(OpRecord(step.op, xs, step.attrs, y))
    return records, values, places


def _run(
    program: Program, lines: Sequence[Line], seeds: Any, targets: Sequence[Node], sources: Sequence[Node]
) -> list[Tensor | None] | None:
    if busy and config.run_key() != program.run_key:
        return None
    inputs: list[Any] = []
    slots = _walked(program.structure, lines, program.reads, inputs)
    if slots is None or not _ends_match(program.structure, slots, seeds, targets, sources):
        return None
    outs = program.entry(*inputs) if seeds is None else program.entry(*inputs, *[g for _, g in seeds])
    if outs is NotImplemented:
        return None
    found: list[Tensor | None] = [None] * len(sources)
    for k, y in zip(program.connected, outs if isinstance(outs, tuple) else (outs,), strict=True):
        found[k] = y
    return found
