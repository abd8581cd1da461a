"""Eager tapes that repeat themselves: their reverse pass is compiled when it is about to be run once more.

A training loop records the same operations on arrays of the same types over and over. Each line of the user's
source that asks for gradients is a `Site`, with the line that entered the tape. When the tapes of a site had one
`Structure` a few times in a row (`config.compile_repeated_tapes`), it is expected from the next ones, whose operations
are put off (`deferring`). Where that cannot be, or a value was looked at before, the reverse pass becomes one program,
whose inputs are the recorded arrays. What was recorded decides, each time anew: a tape of another structure, after
an `if` on a value say, is differentiated on its arrays as before. Python's numbers among the operands are inputs as
well, those among the attributes (axes, shapes) belong to the structure.

>>> for _ in range(10):
...     with GradientTape() as tape:
...         loss = tp.sum(tp.tanh(x * w) ** 2)
...     w.assign_sub(0.1 * tape.gradient(loss, w))
>>> print(explain())
train.py:4 (tape at train.py:2): compiled with the forward pass after 5 repetitions, 7 operations; run 5 of 10 times
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from tapefuse._config import busy, config, on_change
from tapefuse._errors import TapeError
from tapefuse._locks import Lock
from tapefuse._log import Logger
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.op import constant
from tapefuse.ir.passes.adjoint import OpRecord, adjoint
from tapefuse.tracer.deferring import Instruction, Plan, deferrable, expect, filled, plans
from tapefuse.tracer.lines import Line
from tapefuse.tracer.record import Node
from tapefuse.tracer.source import line_of
from tapefuse.tracer.structure import Structure, ends_match, matches, structure_of, walked
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.trace import Traced

logger = Logger("tape")

Entry = Callable[..., Any]

MOST_OPERATIONS = 500  # of a tape that is compiled; with more, compiling takes seconds
MOST_PROGRAMS = 4  # of a site
MOST_SITES = 256
PATIENCE = 20  # so many structures may a site show without one that repeats


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
        self.in_a_row = self.changes = self.backwards = self.settled = 0
        self.programs: list[Program] = []
        self.reason = ""  # why it is given up
        self.compiled_after = 0
        self.plans: list[Plan] = []  # for tapes whose operations are put off; the last one is in use
        self.runs_before = 0  # how often that was run when `structure` came up
        self.waiting = False  # whether the reverse pass of its structure is to be compiled when it is needed

    @property
    def runs(self) -> int:
        """How often a compiled program gave the gradients."""
        return self.backwards + sum([plan.done for plan in self.plans])

    @property
    def structures(self) -> list[Structure]:
        """Those that are compiled, forwards or backwards."""
        known = [plan.structure for plan in self.plans if plan.programs]
        return known + [p.structure for p in self.programs if p.structure not in known]

    def __str__(self) -> str:
        where = f"{line_of(*self.asked)} (tape at {line_of(*self.entered)})"
        if self.structures:
            return f"{where}: compiled {self._how()}"
        if self.reason:
            return f"{where}: not compiled, {self.reason}"
        if self.plans:
            return f"{where}: to be compiled with the next gradients"
        return f"{where}: not compiled yet, {self.in_a_row} of {config.compile_repeated_tapes} equal tapes in a row"

    def _how(self) -> str:
        first, *others = self.structures
        with_values = any(plan.programs and not plan.reason for plan in self.plans)
        reason = self.plans[-1].reason if self.plans else ""
        eager = f"; the forward pass is not, {reason}" if reason and not with_values else ""
        asked = self.settled + self.runs - self.backwards
        return (
            f"{'with the forward pass ' if with_values else ''}after {self.compiled_after} repetitions, "
            f"{len(first.steps)} operations{f', {1 + len(others)} structures' if others else ''}; "
            f"run {self.runs} of {asked} times{eager}"
        )


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
    plans.clear()


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
    site.settled += 1
    for program in site.programs:
        found = _run(program, lines, seeds, targets, sources)
        if found is not None:
            site.backwards += 1
            return found
    if site.waiting and matches(site.plans[-1].structure, lines, seeds, targets, sources):
        site.waiting = False
        _compile(site, site.plans[-1].structure)
        found = _run(site.programs[0], lines, seeds, targets, sources) if site.programs else None
        site.backwards += found is not None
        return found
    if site.reason or len(site.programs) >= MOST_PROGRAMS:
        return None
    with _lock:
        compiling = _noted(site, lines, seeds, targets, sources, needed)
    if compiling is None:
        return None
    site.compiled_after = site.compiled_after or site.settled
    was_idle = not site.plans or site.plans[-1].done == site.runs_before
    if was_idle and len(site.plans) < MOST_PROGRAMS and deferrable(compiling):
        site.plans.append(Plan(compiling, lines, entered, _compilers[0]))
        site.waiting = True
        expect(site.plans[-1])
    else:
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
    if site.structure is not None and matches(site.structure, lines, seeds, targets, sources):
        site.in_a_row += 1
    else:
        site.changes += site.structure is not None
        site.structure, site.in_a_row = structure_of(lines, seeds, targets, sources), 1
        site.runs_before = site.plans[-1].done if site.plans else 0
        if site.changes > PATIENCE and not site.programs:
            site.reason = f"since its operations changed {site.changes} times"
    if site.in_a_row < needed or site.reason:
        return None
    structure, site.structure = site.structure, None  # no other thread compiles it as well
    site.in_a_row = 0
    return structure


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


def _program(structure: Structure, name: str) -> Program:
    records, values, places = _records(structure)
    targets, seeds, given = [], [], []
    for k, slot in enumerate(structure.targets):
        seed_type = None if structure.seed_types is None else structure.seed_types[k]
        seed = None if seed_type is None else param(seed_type, f"d{k}")
        given += [] if seed is None else [seed]
        if slot >= 0:
            targets.append(values[slot])
            seeds.append(filled(constant(1, values[slot].dtype) if seed is None else seed, values[slot].type))
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
    slots = walked(program.structure, lines, program.reads, inputs)
    if slots is None or not ends_match(program.structure, slots, seeds, targets, sources):
        return None
    outs = program.entry(*inputs) if seeds is None else program.entry(*inputs, *[g for _, g in seeds])
    if outs is NotImplemented:
        return None
    found: list[Tensor | None] = [None] * len(sources)
    for k, y in zip(program.connected, outs if isinstance(outs, tuple) else (outs,), strict=True):
        found[k] = y
    return found
