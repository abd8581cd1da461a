"""Why a gradient is None: the steps on the ways from a source to a target that pass no derivative on.

A tape's records, the notes it took of what it did not record, and the nodes of a compiled graph are all `Step`s.
`losses` finds those between source and target at which the source's influence ends.

>>> x = Variable(3.0)
>>> with GradientTape() as tape:
...     y = tp.floor(x)
>>> print(tape.gradient(y, x, explain=True)[1])
sources (Variable 'Variable', f32[]): floor at <stdin>:2 passes no derivative on: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapefuse._errors import MissingGradientError
from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, reachable
from tapefuse.ir.passes.adjoint import OpRecord, RegionRecord, is_differentiable, records_of, zeros
from tapefuse.tracer.operators import functions
from tapefuse.tracer.record import CallRecord, Entry, Node, pinned
from tapefuse.tracer.state import state, tracing

KEPT = 1024  # notes of one tape
SHOWN = 3  # reasons for one source

# kind -> why, what to do about it. `{at}` is the user's line.
KINDS = {
    "source": ("it holds {dtype}{made}, and only floating-point values have derivatives", "make it with dtype=float32"),
    "dtype": (
        "{what[0]}{at} gives {what[1]}, which has no derivative",
        "stay with floating-point values from the source to the target",
    ),
    "stop_gradient": (
        "stop_gradient{at} ends the path; in a traced function a variable that was assigned is read through one",
        "leave it out, or use the value before the assignment",
    ),
    "assigned": (
        "it goes into the variable {what!r} by an assignment{at}, which passes no derivative on",
        "compute with the value itself instead of the variable that it is stored in",
    ),
    "rule": (
        "{what}{at} passes no derivative on: it is constant around almost every value, or chooses by it",
        "use a smooth function in its place",
    ),
    "region": ("the loop or branch{at} passes no derivative on", "see that its results depend on it smoothly"),
    "missing": ("{what}{at} has no derivative rule", "write it with functions that have one"),
    "stopped": ("it was used inside tape.stop_recording(){at}", "move that line out of the block"),
    "left": (
        "it left the tape through {what}{at}, and what comes of a plain number or array is a constant",
        "keep it a tensor: np.mean(x), x * 2 and the like are recorded",
    ),
    "tensor": (
        "it is a tensor{made} that this tape does not watch",
        "call tape.watch(x) before its first use; only trainable variables are watched of themselves",
    ),
    "unread": (
        "this variable is not read while the tape{at} records",
        "compute with it inside the `with` block, in the same thread",
    ),
    "unwatched": (
        "the tape was made with watch_accessed_variables=False{made}",
        "call tape.watch(v) before the variable's first use",
    ),
    "not trainable": ("it was made with trainable=False{made}", "call tape.watch(v) before the variable's first use"),
    "outside": (
        "the target was not computed from it while the tape{at} recorded: before tape.watch, outside of the `with` "
        "block, in another thread, or not at all",
        "watch first, then compute the target inside the block",
    ),
    "unconnected": (
        "the target does not depend on it{at}: no operation on the tape leads from one to the other",
        "compute the target from it, inside the `with` block",
    ),
}
_VERBS = {"unread": " entered", "outside": " entered"}

Loss = tuple[str, Any, Loc | None]  # kind, what, where


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one source has no gradient. `kind`: a key of `KINDS`; `loc`: the user's line to look at, if known."""

    kind: str
    source: str
    why: str
    cure: str
    loc: Loc | None

    @staticmethod
    def of(kind: str, source: str, loc: Loc | None, **values: Any) -> Reason:
        why, cure = KINDS[kind]
        at = f"{_VERBS.get(kind, '')} at {loc}" if loc else ""
        return Reason(kind, source, why.format(at=at, made=f", made at {loc}," if loc else "", **values), cure, loc)

    def __str__(self) -> str:
        return f"{self.source}: {self.why}; {self.cure}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """For each source, in the order of its structure's leaves, why it has no gradient; nothing for one that has."""

    by_source: tuple[tuple[Reason, ...], ...]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple([reason for reasons in self.by_source for reason in reasons])

    def __bool__(self) -> bool:
        """Whether there is anything to explain."""
        return bool(self.reasons)

    def __str__(self) -> str:
        return "\n".join(map(str, self.reasons)) or "every source has a gradient"


class Note(NamedTuple):
    """Where tracked values went, and nothing was recorded: into an integer, a variable, NumPy, a paused tape."""

    before: int  # so many records were there
    xs: tuple[int, ...]
    ys: tuple[int, ...]
    kind: str  # of `KINDS`, or "followed" for steps after such a loss
    what: Any
    loc: Loc | None


class Step(ABC):
    """One computation of a tape or graph. `xs`, `ys`: keys of operands and results, None for constants."""

    def __init__(self, xs: Sequence[Hashable], ys: Sequence[Hashable]):
        self.xs, self.ys = xs, ys

    def read(self, ys: Sequence[int]) -> Iterable[int]:
        """The operands, as positions, that these results are computed from."""
        return range(len(self.xs))

    @abstractmethod
    def passed(self, x: int, ys: Sequence[int]) -> tuple[Sequence[int], list[Loss]]:
        """Those of the results `ys` that have a derivative by operand `x`; why, if none has."""


class NoteStep(Step):
    def __init__(self, note: Note):
        super().__init__(note.xs, note.ys)
        self.note = note

    def passed(self, x: int, ys: Sequence[int]) -> tuple[Sequence[int], list[Loss]]:
        return (), [(self.note.kind, self.note.what, self.note.loc)]


class RecordStep(Step):
    """An operation with a rule. The rule is run on zeros to see which operands get anything from it."""

    def __init__(self, record: Any, xs: Sequence[Hashable], ys: Sequence[Hashable]):
        super().__init__(xs, ys)
        self.record = record
        self._cotangents: Sequence[Any] | None = None

    def passed(self, x: int, ys: Sequence[int]) -> tuple[Sequence[int], list[Loss]]:
        record = self.record
        op, loc, name = record.op, record.loc, record.op.name if record.op else "a custom gradient"
        if op is ops.stop_gradient:
            return (), [("stop_gradient", None, loc)]
        floating = [k for k in ys if is_differentiable(record.ys[k])]
        if not floating:
            return (), [("dtype", (name, record.ys[ys[0]].dtype), loc)]
        if self._cotangents is None:
            try:
                self._cotangents = _cotangents(record)
            except MissingGradientError as error:
                return (), [("missing", str(error).split("(")[0], loc)]
        if self._cotangents[x] is not None:
            return floating, []
        return (), _inside(record) or [("region" if op is not None and op.is_region else "rule", name, loc)]


class CallStep(Step):
    """A call of a compiled graph: the reasons lie inside of it."""

    def __init__(self, graph: Graph, xs: Sequence[Hashable], ys: Sequence[Hashable]):
        super().__init__(xs, ys)
        self.graph = graph
        self._steps = [_graph_step(r) for r in records_of(graph)]

    def read(self, ys: Sequence[int]) -> Iterable[int]:
        found = reachable([self.graph.outs[k] for k in ys])
        return [k for k, p in enumerate(self.graph.params) if p in found]

    def passed(self, x: int, ys: Sequence[int]) -> tuple[Sequence[int], list[Loss]]:
        outs = self.graph.outs
        live, lost = followed(self._steps, self.graph.params[x], [outs[k] for k in ys])
        return [k for k in ys if outs[k] in live], lost


def _inside(record: Any) -> list[Loss]:
    """Where derivatives end in the graphs of a loop or branch."""
    lost: list[Loss] = []
    for graph in _graphs(record.attrs.values()) if isinstance(record, RegionRecord) else ():
        steps = [_graph_step(r) for r in records_of(graph)]
        for p in graph.params:
            if is_differentiable(p):
                lost += followed(steps, p, graph.outs)[1]
    return lost


def _graphs(attributes: Iterable[Any]) -> Iterator[Graph]:
    for x in attributes:
        if isinstance(x, Graph):
            yield x
        elif isinstance(x, tuple):
            yield from _graphs(x)


def _graph_step(record: OpRecord | RegionRecord) -> Step:
    return RecordStep(record, record.xs, record.ys)


def _cotangents(record: Any) -> Sequence[Any]:
    """What the rule of a record gives each operand, for zeros."""
    if isinstance(record, (OpRecord, RegionRecord)):
        gs = [zeros(y.type) if is_differentiable(y) else None for y in record.ys]
        wanted = [[is_differentiable(x) for x in record.xs]] if isinstance(record, RegionRecord) else []
        return record.pullback(gs, *wanted)
    with tracing(state.trace), pinned(), np.errstate(all="ignore"):
        return record.pullback([functions.zeros(y.shape, y.dtype) if is_differentiable(y) else None for y in record.ys])


def followed(steps: Sequence[Step], source: Hashable, targets: Sequence[Hashable]) -> tuple[set, list[Loss]]:
    """The keys with a derivative by the source, as far as they lead to a target, and the losses on the other ways."""
    leads: set[Hashable] = set(targets)
    leading: list[list[int]] = []
    for step in reversed(steps):
        ys = [k for k, y in enumerate(step.ys) if y in leads]
        leading.append(ys)
        if ys:
            leads.update([step.xs[k] for k in step.read(ys) if step.xs[k] is not None])
    live, lost = {source}, []
    for step, ys in zip(steps, reversed(leading), strict=True):
        for k, x in enumerate(step.xs):
            if ys and x is not None and x in live:
                passed, reasons = step.passed(k, ys)
                live.update([step.ys[j] for j in passed])
                lost += reasons
    return live, lost


def losses(
    records: Sequence[Entry], notes: Iterable[Note], source: Node, targets: Sequence[Node]
) -> tuple[list[Loss], bool]:
    """Where the ways from source to target break, at most `SHOWN` of them, and whether one is whole.

    If there is no way at all: where values computed from the source left the tape for good."""
    steps = list(_steps(records, notes))
    ends = [y.key for y in targets]
    live, lost = followed(steps, source.key, ends)
    if not lost:
        lost = list(_left(steps, source.key))[-SHOWN:]
    return list(dict.fromkeys(lost))[:SHOWN], not live.isdisjoint(ends)


def _steps(records: Sequence[Entry], notes: Iterable[Note]) -> Iterator[Step]:
    """In the order in which they happened."""
    waiting = list(notes)[::-1]
    for k, record in enumerate(records):
        while waiting and waiting[-1].before <= k:
            yield NoteStep(waiting.pop())
        xs, ys = [n.key for n in record.xs], [n.key for n in record.ys]
        yield CallStep(record.graph, xs, ys) if isinstance(record, CallRecord) else RecordStep(record, xs, ys)
    while waiting:
        yield NoteStep(waiting.pop())


def _left(steps: Sequence[Step], source: Hashable) -> Iterator[Loss]:
    """Where something computed from the source became a plain number or array."""
    made = {source}
    for step in steps:
        if not made.isdisjoint([x for x in step.xs if x is not None]):
            made.update([y for y in step.ys if y is not None])
            if isinstance(step, NoteStep) and step.note.kind == "left":
                yield step.note.kind, step.note.what, step.note.loc
