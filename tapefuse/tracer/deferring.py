"""Tapes that repeat themselves put their operations off: values and gradients come from one compiled program.

A `Plan` is what the tapes of a place are expected to record (`structure.Structure`), a `Run` one tape that has done so
until now. Its operations give `Deferred` tensors, which have a type and no value. If the user asks for the gradients
that the plan is for, one program computes these, and every value that somebody still holds. If anything else
happens, another operation, or a look at a value, the run is settled: its operations run on NumPy in their order, the
tape gets their lines, and all goes on as if nothing had been put off.

Nothing that an operation reads can change until then: no array of a tensor is ever written to, nor is that of a
variable while somebody else holds it. Nothing can fail later that would have failed at the user's line: types are those
of an operation that worked, places to look up are checked at once, and other operations that refuse some values are
not put off.

>>> with GradientTape() as tape:  # as in the iterations before
...     loss = tp.sum(tp.tanh(x * w) ** 2)  # nothing is computed
>>> w.assign_sub(0.1 * tape.gradient(loss, w))  # the loss as well, since `loss` is held
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from tapefuse._config import busy, config
from tapefuse._errors import TapeError
from tapefuse._locks import Lock
from tapefuse._log import Logger
from tapefuse._records import dataclass
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.op import Op, constant
from tapefuse.ir.passes.adjoint import OpRecord, adjoint
from tapefuse.ir.types import Type
from tapefuse.tracer.arrays import normal
from tapefuse.tracer.eager import number
from tapefuse.tracer.lines import Line, lean
from tapefuse.tracer.shortcuts import SHORTCUTS, parts
from tapefuse.tracer.source import line_of
from tapefuse.tracer.state import new_key, state
from tapefuse.tracer.structure import Step, Structure
from tapefuse.tracer.tensor import Deferred, Tensor
from tapefuse.tracer.trace import Traced
from tapefuse.tracer.variable import Variable, identity

if TYPE_CHECKING:
    from tapefuse.tracer.recording import Recording

logger = Logger("tape")

Instruction = tuple[CodeType, int]
Compiler = Callable[[Traced], Callable[..., Any]]

MOST_PROGRAMS = 4  # of a plan: for sets of values that somebody holds
CREDIT = 3  # so many more tapes may be settled than not, before a plan is given up
MOST_CREDIT = 8


def _holders() -> int:
    """What `sys.getrefcount` says of a tensor that nobody but its run's list holds, asked as `Run.gradients` asks:
    interpreters differ in what they count while they ask."""
    values, count = [object()], sys.getrefcount
    (found,) = [count(values[slot]) for slot in (0,)]
    return found


HOLDERS = _holders()

# Operations, beside those on single elements and reductions, that fail for no values of their operands' types.
_TOTAL = {
    "reshape", "transpose", "broadcast", "flip", "slice", "pad", "concat", "matmul", "cumsum", "conv", "conv_input",
    "conv_kernel", "gather", "window_max", "window_sum", "window_pick", "sort",
}  # fmt: skip
_REFUSING = frozenset({"require", "failed"})


def deferrable(structure: Structure) -> bool:
    """Whether the operations can be put off: none of them refuses values, the tape watches nothing but variables, and
    the gradients are those of the sum of its results."""
    is_plain = structure.seed_types is None and min(structure.targets, default=-1) >= 0
    return is_plain and all(map(_can_wait, structure.steps))


def _can_wait(step: Step) -> bool:
    op = step.op
    if op is identity:
        return step.tracked == (True,)
    is_watched = any(first and tracked for first, tracked in zip(step.firsts, step.tracked, strict=True))
    is_total = op.elementwise or op.reduction is not None or op.name in _TOTAL or op in SHORTCUTS
    return is_total and op.name not in _REFUSING and not is_watched


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The compiled program of a plan: `entry(*taken(inputs))` gives the gradients of the sources `connected`, then the
    values of `slots`."""

    entry: Callable[..., Any]
    taken: Callable[[list[Any]], Sequence[Any]]
    connected: tuple[int, ...]
    slots: tuple[int, ...]

    def gives(self, slots: Iterable[int]) -> bool:
        return all(slot in self.slots for slot in slots)


class Plan:
    """What the tapes that are entered at one place are expected to record, and the programs for it. `lines` has the
    user's instruction of each operation."""

    def __init__(self, structure: Structure, lines: Sequence[Line], entered: Instruction, compiler: Compiler):
        self.structure, self.entered, self.compiler = structure, entered, compiler
        self.lines = [line[-2:] for line in lines]
        self.steps = (*map(_expectation, structure.steps), _END)
        self.n_slots = 1 + max([s for step in structure.steps for s in (step.result, *step.slots)])
        self.results = [s.result for s in structure.steps if s.op is not identity and s.result not in structure.targets]
        self.targets = [s.result for s in structure.steps if s.op is not identity and s.result in structure.targets]
        self.reads = _reads(structure)
        self.run_key = config.run_key()
        self.programs: list[Program] = []
        self.credit, self.done = CREDIT, 0
        self.reason = ""  # why it is given up
        self._lock = Lock()

    @property
    def name(self) -> str:
        return f"the tape at {line_of(*self.entered)}"

    def ended(self, was_done: bool) -> None:
        """Keep count of the runs."""
        self.done += was_done
        self.credit = min(self.credit + 1, MOST_CREDIT) if was_done else self.credit - 1
        if self.credit < 0 and not self.reason:
            self.reason = "since values were looked at, or operations differed, before gradients were asked for"

    def program(self, held: list[int]) -> Program | None:
        """The program that gives at least the values of the targets and of these slots, compiled if it is new."""
        for program in self.programs:
            if program.gives(held):
                return program
        with self._lock:
            known = next((p for p in self.programs if p.gives(held)), None)
            if known is not None or len(self.programs) >= MOST_PROGRAMS or self.reason:
                return known
            before = self.programs[0].slots if self.programs else self.targets
            try:
                program = _compiled(self.structure, tuple(sorted({*before, *held})), self.name, self.compiler)
            except Exception as error:  # the loop goes on as it did, and `explain` says why
                logger.warning("%s repeats itself, but cannot be compiled: %s", self.name, error)
                self.reason = f"since {error}"
                return None
            self.programs = [program, *self.programs]
            return program


plans: dict[tuple[int, int], Plan] = {}  # by `id` of the code and instruction that enter the tape


def expect(plan: Plan) -> None:
    """Have the tapes that are entered at the plan's place put their operations off."""
    code, at = plan.entered
    plans[id(code), at] = plan


def plan_of(entered: Instruction) -> Plan | None:
    """The plan for a tape that is entered here."""
    plan = plans.get((id(entered[0]), entered[1]))
    if plan is None or plan.reason or not config.compile_repeated_tapes:
        return None
    return plan if not busy or config.run_key() == plan.run_key else None


def _reads(structure: Structure) -> list[tuple[int, int]]:
    """The slots of what was read from variables, and the place of each among a run's inputs."""
    found, n = [], 0
    for step in structure.steps:
        if step.op is identity:
            found.append((step.result, n))
        n += sum(slot < 0 or first or step.op is identity for slot, first in zip(step.slots, step.firsts, strict=True))
    return found


_new = Deferred.__new__

# Of an operand: slot, whether it stands here for the first time, its type.
_Place = tuple[int, bool, Type]
# An operation, its attributes, operands, the slot and the type of its result, and what its operands must fulfil.
_Expected = tuple[Op | None, dict[str, Any], tuple[_Place, ...], int, Any, Callable[[tuple], bool] | None]
_END: _Expected = (None, {}, (), 0, None, None)  # no operation is expected any more


def _expectation(step: Step) -> _Expected:
    places = tuple(zip(step.slots, step.firsts, step.types[1:], strict=True))
    guard = _within(step.types[1]) if step.op is ops.gather else None
    return step.op, step.attrs, places, step.result, step.types[0], guard


def _within(type: Type) -> Callable[[tuple], bool]:
    """Whether places to look up are in an array of this type."""

    def guard(xs: tuple) -> bool:
        for x, n in zip(xs[1:], type.shape, strict=False):
            a = x._array
            if a.size and a.view(f"u{a.itemsize}").max() >= n:  # negative numbers are large ones
                return False
        return True

    return guard


class Run:
    """A tape that records what its plan says, up to here.

    `values` has the variable, array or tensor of each slot, `inputs` the arrays that the operations have met. Any
    thread may settle it: `is_closing` while one does, `is_over` afterwards.
    """

    __slots__ = ("inputs", "is_closing", "is_over", "plan", "position", "steps", "tape", "values")

    def __init__(self, plan: Plan, tape: Recording):
        self.plan, self.tape, self.steps = plan, tape, plan.steps
        self.position = 0
        self.is_closing = self.is_over = False
        self.values: list[Any] = [None] * plan.n_slots
        self.inputs: list[Any] = []

    def next(self, op: Op, attrs: dict[str, Any], xs: tuple[Any, ...]) -> Tensor | None:
        """The result of an operation on tensors and numbers, some of them deferred; None, after the run was settled,
        if it is not what comes next."""
        tapes, n = state.tapes, self.position
        expected, wanted, places, slot, type, guard = self.steps[n]
        fits = expected is op and wanted == attrs and tapes and tapes[0] is self.tape and len(places) == len(xs)
        if fits and self._takes(xs, places) and (guard is None or guard(xs)) and not self.is_closing:
            return self._made(slot, type)
        self.settle()
        return None

    def read(self, variable: Variable) -> Tensor | None:
        """The value of a variable that the tape watches, as `next`."""
        expected, _, places, slot, type, _ = self.steps[self.position]
        if expected is identity and not self.is_closing:
            array, (at, first, _) = variable._array, places[0]
            fits = self.values[at] is (None if first else variable)
            if fits and array.dtype is type.dtype and array.shape == type.shape and state.tapes[0] is self.tape:
                self.values[at] = variable
                self.inputs.append(array)
                return self._made(slot, type)
        self.settle()
        return None

    def _made(self, slot: int, type: Type) -> Tensor | None:
        y: Any = _new(Deferred)
        y._value, y._run = type, self
        try:
            self.values[slot] = y
        except IndexError:  # another thread has settled it just now
            return None
        self.position += 1
        if self.is_closing:
            with _settling:
                return None if self.is_over and y.__class__ is Deferred else y
        return y

    def _takes(self, xs: tuple[Any, ...], places: tuple[_Place, ...]) -> bool:
        """Whether these are the expected operands; notes the arrays of those that are new."""
        values, others = self.values, iter(xs)
        for slot, first, expected in places:
            x = next(others)
            if type(x) is Deferred and x._run is self:
                if values[slot] is not x:
                    return False
            elif slot < 0:
                if type(x) is not float and type(x) is not int:
                    return False
                self.inputs.append(number(x, expected.dtype))
            elif isinstance(x, Tensor):
                array = x._array
                if not first:
                    if values[slot] is not array:
                        return False
                elif array.dtype is not expected.dtype or array.shape != expected.shape:
                    return False
                else:
                    values[slot] = array
                    self.inputs.append(array)
            else:
                return False
        return True

    # -- the end --------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Run the operations on NumPy, and show them to the tape."""
        with _settling:
            if self.is_over:
                return
            self.is_closing = True
            with np.errstate(all="ignore"):
                self.tape._records.extend(self._replayed())
            self.plan.ended(was_done=False)
            self._end()

    def _replayed(self) -> list[Line]:
        """The lines of the operations, run now."""
        lines: list[Line] = []
        inputs, tape = iter(self.inputs), self.tape
        keys, arrays = [0] * len(self.values), list(self.values)
        for (op, attrs, places, slot, _, _), place in zip(self.steps[: self.position], self.plan.lines, strict=False):
            assert op is not None
            held = []
            for at, first, _ in places:
                if first and at >= 0:
                    keys[at] = arrays[at]._key if op is identity else -new_key()
                if first and op is not identity:
                    arrays[at] = next(inputs)
                held.append(next(inputs) if op is identity else arrays[at])
            y = self.values[slot]
            y._array = arrays[slot] = array = held[0] if op is identity else normal(op.raw(*held, **attrs))
            y._key = keys[slot] = key = new_key()
            tape._tracked.add(key)
            y.__class__ = Tensor
            operands = tuple([keys[at] if at >= 0 else 0 for at, _, _ in places])
            lines.append((op, operands, key, lean(op, attrs, (array, *held)), attrs, *place))
        return lines

    def _end(self) -> None:
        self.is_over, self.tape._run, self.tape = True, None, _NOBODY
        self.values, self.inputs, self.position = [], [], len(self.plan.lines)

    def gradients(self, targets: Sequence[Any], sources: Sequence[Any]) -> list[Tensor | None] | None:
        """The gradients, and the values that somebody holds; None, after the run was settled, if they are others than
        the plan's or cannot be compiled."""
        program, found, count = None, NotImplemented, sys.getrefcount
        values, inputs = self.values, self.inputs
        if self.position == len(self.plan.lines) and not self.is_closing and self._asked_for(targets, sources):
            program = self.plan.program([slot for slot in self.plan.results if count(values[slot]) > HOLDERS])
        if program is not None:
            found = program.entry(*program.taken(inputs))
        if program is None or found is NotImplemented:
            self.settle()
            return None
        outs = found if isinstance(found, tuple) else (found,)
        with _settling:
            if not self.is_over:
                self._give(outs[len(program.connected) :], program.slots)
        grads: list[Tensor | None] = [None] * len(sources)
        for k, g in zip(program.connected, outs, strict=False):
            grads[k] = g
        return grads

    def _give(self, found: Sequence[Tensor], slots: Sequence[int]) -> None:
        """Give their values to the tensors."""
        values, inputs = self.values, self.inputs
        for slot, y in zip(slots, found, strict=True):
            values[slot]._array = y._array
            values[slot].__class__ = Tensor
        for slot, place in self.plan.reads:
            values[slot]._array = inputs[place]
            values[slot].__class__ = Tensor
        self.plan.ended(was_done=True)
        self._end()

    def _asked_for(self, targets: Sequence[Any], sources: Sequence[Any]) -> bool:
        """Whether these are the derivatives that the plan is for."""
        structure, values = self.plan.structure, self.values
        if busy and config.run_key() != self.plan.run_key:
            return False
        if len(targets) != len(structure.targets) or len(sources) != len(structure.sources):
            return False
        for t, slot in zip(targets, structure.targets, strict=True):
            if values[slot] is not t:
                return False
        for s, slot, expected in zip(sources, structure.sources, structure.source_types, strict=True):
            if slot >= 0:
                if values[slot] is not s:
                    return False
            elif s.type != expected or any(v is s for v in values):
                return False
        return True


_settling = Lock(reentrant=True)
_NOBODY: Any = None  # the tape of a run that is over


# -- programs ---------------------------------------------------------------------------------------------------------


def _compiled(structure: Structure, slots: tuple[int, ...], name: str, compiler: Compiler) -> Program:
    records, values, inputs = _records(structure)
    targets = [values[slot] for slot in structure.targets]
    seeds = [filled(constant(1, t.dtype), t.type) for t in targets]
    wanted = [slot for slot in structure.sources if slot >= 0]
    found = dict(zip(wanted, adjoint(records, targets, seeds, [values[slot] for slot in wanted]), strict=True))
    outs = [found.get(slot) for slot in structure.sources]
    connected = tuple([k for k, y in enumerate(outs) if y is not None])
    if not connected:
        raise TapeError("no source is connected with the target")
    results = (*[y for y in outs if y is not None], *[values[slot] for slot in slots])
    live = reachable(results)
    taken = [k for k, v in enumerate(inputs) if v in live]
    graph = Graph(tuple([inputs[k] for k in taken]), results, name)
    traced = Traced(graph, len(graph.params), (), (), (), len(results), (), created=False)
    return Program(compiler(traced), _taker(taken), connected, slots)


def _taker(places: list[int]) -> Callable[[list[Any]], Sequence[Any]]:
    return itemgetter(*places) if len(places) > 1 else lambda xs: [xs[k] for k in places]


def filled(seed: Value, type: Type) -> Value:
    """A cotangent that stands for all elements."""
    return seed if seed.type == type else ops.broadcast.emit(seed, shape=type.shape, axes=())


def _records(structure: Structure) -> tuple[list[OpRecord], dict[int, Value], list[Value]]:
    """The steps on IR values, the value of each slot, and the inputs in the order in which a run meets them."""
    values: dict[int, Value] = {}
    inputs: list[Value] = []
    records: list[OpRecord] = []
    for step in structure.steps:
        xs = []
        for slot, type in zip(step.slots, step.types[1:], strict=True):
            x = values.get(slot)
            if x is None:
                x = param(type)
                if slot >= 0:
                    values[slot] = x
                if step.op is not identity:
                    inputs.append(x)
            xs.append(x)
        if step.op is identity:
            y = param(step.types[0])
            inputs.append(y)
        else:
            y = parts(step.op, xs, step.attrs)
        if all(record.y is not y for record in records):  # what is computed twice is one value
            records.append(OpRecord(step.op, xs, step.attrs, y))
        values[step.result] = y
    return records, values, inputs
