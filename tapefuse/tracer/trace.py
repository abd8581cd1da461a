"""Tracing: a Python function run on symbolic tensors becomes a graph, its state and its constants.

traced = trace_function(f, [Type(f32, (3,))], name="f")
traced.graph        # params: inputs, variables, arrays, captured; outs: results, new values of written variables
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import TapefuseError, VariableError
from tapefuse._hash import blake2b
from tapefuse._records import dataclass
from tapefuse.ir.graph import Graph, Value, here, param, reachable
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS, Literal
from tapefuse.ir.passes.bodies import rebuilt
from tapefuse.ir.types import Dim, Type, has_derivatives
from tapefuse.tracer.applying import is_symbolic
from tapefuse.tracer.source import current_loc, refuse_overrides, user_loc
from tapefuse.tracer.state import state, tracing
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, key_of, leaked
from tapefuse.tracer.variable import Variable

LITERAL_ELEMENTS = 16  # larger arrays become inputs of the program instead of text in it


class VariableCreationError(TapefuseError, ValueError):
    """A variable is made anew whenever the function is traced, so it would not keep its state."""


@dataclass(frozen=True, eq=False, slots=True)
class Traced:
    """A traced function: parameters are inputs + variables + arrays + captured, in this order."""

    graph: Graph
    n_inputs: int
    variables: tuple[Variable, ...]
    arrays: tuple[np.ndarray, ...]  # constants too large for the text
    captured: tuple[Tensor, ...]  # values of an enclosing trace; such a result serves one call only
    n_results: int
    written: tuple[int, ...]  # the outs after the results are new values of these variables
    created: bool  # a variable was made while tracing


class Trace:
    """The program under construction while one function is traced."""

    def __init__(
        self,
        name: str,
        may_create: bool,
        parent: Trace | None = None,
        captures: bool = False,
        place: str | None = None,
    ):
        self.name = name
        self.parent = parent
        self.captures = captures  # outer tensors are operands to be put in later, so that tapes see their use
        self.place = place  # which part of a program this is ("body of while_loop"); None: a whole one
        self._outer_tapes = state.tapes  # set aside while this is traced
        self.may_create = may_create
        self.created = False
        self._variables: dict[int, tuple[Variable, Value]] = {}  # by identity of the variable
        self._current: dict[int, Value] = {}  # values assigned so far
        self._arrays: dict[tuple, tuple[np.ndarray, Value]] = {}  # by dtype, shape and contents
        self._captured: dict[int, tuple[Tensor, Value]] = {}  # by identity on tapes
        self.effects: list[Value] = []  # what the program does beside computing its results (ir.ops.effects)
        self._made: dict[int, weakref.ref[Tensor]] = {}  # tensors with known values, by `id`
        self.known: dict[str, tuple[Dim, Dim]] = dict(parent.known) if parent else {}  # smallest and largest of symbols

    @property
    def kind(self) -> str:
        """What traces, for messages."""
        return self.place or ("mapped function" if self.captures else "tape_function")

    @property
    def unknown(self) -> str:
        """Why values are not known, for messages."""
        if self.captures and not self.place:
            return f"may differ between the examples of {self.name}"
        return "is known only when the compiled function runs"

    # -- operands --------------------------------------------------------------------------------
    def value_of(self, x: Tensor) -> Value:
        """The value that stands for `x` in this program. Raises LeakedValueError for a value of a trace that is
        over."""
        if isinstance(x, TracedTensor):
            if x._trace is self:
                return x._value
            if not self._is_inside(x._trace):
                raise leaked(x)
            if self.place and x._value.op is not None and not x._value.args and not self._is_watched(x):
                return x._value  # a constant or a dimension means the same here
        elif not self.captures or (self.place and _is_short(x._array) and not self._is_watched(x)):
            return self._constant(x._array)
        key = key_of(x)
        if key not in self._captured:
            self._captured[key] = x, param(x.type)
        return self._captured[key][1]

    def made(self, x: Tensor) -> None:
        """Remember a tensor that is not traced as one of this program's own."""
        self._made[id(x)] = weakref.ref(x)

    def owns(self, x: Tensor) -> bool:
        """Whether a tensor was made while this was traced, so that it may change."""
        if isinstance(x, TracedTensor):
            return x._trace is self
        found = self._made.get(id(x))
        return found is not None and found() is x

    def _is_watched(self, x: Tensor) -> bool:
        """Whether a tape that was set aside for this part of the program tracks `x`."""
        key, trace = getattr(x, "_key", None), self
        while key is not None and trace is not None and trace.captures:
            if any(tape.tracks((key,)) for tape in trace._outer_tapes):
                return True
            trace = trace.parent  # type: ignore[assignment]
        return False

    def _is_inside(self, other: Trace) -> bool:
        outer = self.parent
        while outer is not None and outer is not other:
            outer = outer.parent
        return outer is not None

    def _constant(self, array: np.ndarray) -> Value:
        if array.size <= LITERAL_ELEMENTS:
            return OPS["const"].emit(value=Literal(array))
        if _is_uniform(array):
            one = OPS["const"].emit(value=Literal(array.reshape(-1)[0]))
            return OPS["broadcast"].emit(one, shape=array.shape, axes=())
        key = array.dtype, array.shape, blake2b(array.view(np.uint8).data).digest()
        if key not in self._arrays:
            self._arrays[key] = array, param(Type(array.dtype, array.shape))
        return self._arrays[key][1]

    def constant_value(self, value: Value) -> np.ndarray | None:
        """The array a value has whatever the inputs are, or None if it depends on a parameter."""
        value = without_credit(value)
        needed = reachable([value])
        known = {p: array for array, p in self._arrays.values()}
        for x, p in [(x, p) for x, p in self._captured.values() if p in needed]:
            array = x._trace.constant_value(x._value) if isinstance(x, TracedTensor) else x._array
            if array is not None:
                known[p] = array
        if any(_is_open(v) and v not in known for v in needed):
            return None
        return np.asarray(evaluate(Graph(tuple(known), (value,)), *known.values())[0])

    # -- variables -------------------------------------------------------------------------------
    def variable_value(self, variable: Variable) -> Value:
        """The value that `variable` has at this point of the program. Gradients do not pass through an assignment:
        what is read is credited to the variable."""
        if id(variable) not in self._variables:
            self._variables[id(variable)] = variable, param(variable.type, variable.name)
        current = self._current.get(id(variable))
        source = self._variables[id(variable)][1]
        if current is None:
            return source
        here.loc = current_loc()
        return credited(current, source)

    def assign_variable(self, variable: Variable, value: Tensor) -> None:
        self.variable_value(variable)
        self._current[id(variable)] = self.value_of(value)

    def variable_created(self, variable: Variable) -> None:
        self.created = True
        if not self.may_create:
            cure = "make variables outside, or once: `if self.v is None: self.v = tp.Variable(...)`"
            if self.kind != "tape_function":
                cure = "make variables before it; optimizer.build(variables) makes an optimizer's"
            raise VariableCreationError(
                f"{self.kind} {self.name!r} makes a new Variable at {user_loc()} whenever it is traced; {cure}"
            )

    # -- the result ------------------------------------------------------------------------------
    def finish(self, inputs: Sequence[Value], results: Sequence[Tensor]) -> Traced:
        outs = [self.value_of(x) for x in results]
        if state.overrides:
            refuse_overrides(repr(self.name), {v.op.name for v in reachable(outs) if v.op is not None})
        variables = list(self._variables.values())
        written = tuple(k for k, (v, p) in enumerate(variables) if self._current.get(id(v), p) is not p)
        outs += [self._current[id(variables[k][0])] for k in written]
        if self.effects and outs:
            outs[0] = OPS["having"].emit(outs[0], *self.effects)
        params = [*inputs, *(p for _, p in variables)]
        params += [p for _, p in self._arrays.values()] + [p for _, p in self._captured.values()]
        return Traced(
            graph=Graph(tuple(params), tuple(outs), self.name),
            n_inputs=len(inputs),
            variables=tuple(v for v, _ in variables),
            arrays=tuple(a for a, _ in self._arrays.values()),
            captured=tuple(x for x, _ in self._captured.values()),
            n_results=len(results),
            written=written,
            created=self.created,
        )


def credited(current: Value, source: Value) -> Value:
    """What is read of a variable after an assignment. `source`: the variable itself."""
    stopped = OPS["stop_gradient"].emit(current)
    return OPS["credit"].emit(stopped, source) if has_derivatives(source.dtype) else stopped


def without_credit(value: Value) -> Value:
    """The same value, of which derivatives do not matter."""
    if not any(v.op is OPS["credit"] for v in reachable([value])):
        return value
    return rebuilt((value,), {}, lambda v, args: args[0] if v.op is OPS["credit"] else None)[0]


def _is_open(value: Value) -> bool:
    """Whether a value depends on more than its operands: on an input, or on a symbol."""
    return value.op is None or value.op.is_region or is_symbolic(tuple(x for _, x in value.attrs))


def _is_short(array: np.ndarray) -> bool:
    """Whether an array is written into the text of a program."""
    return array.size <= LITERAL_ELEMENTS or _is_uniform(array)


def _is_uniform(array: np.ndarray) -> bool:
    """Whether all elements are the same, to the bit: the cotangents of a mean, say."""
    elements = array.reshape(-1)
    if elements[0].tobytes() != elements[-1].tobytes():
        return False
    as_bytes = elements.view(np.uint8).reshape(array.size, array.itemsize)
    return bool((as_bytes == as_bytes[0]).all())


def trace_pure(
    f: Callable[[list[TracedTensor]], Sequence[Any]], types: Sequence[Type], name: str, refusal: Callable[[str], str]
) -> tuple[Graph, list[bool], list[Tensor]]:
    """(arguments, what it reads from outside) -> the results that are not None; which those are, and what it reads.

    Raises VariableError, `refusal` of the variable's name, if `f` assigns to one.
    """
    places: list[bool] = []

    def connected(xs: list[TracedTensor]) -> list[Tensor]:
        found = f(xs)
        places[:] = [y is not None for y in found]
        return [as_tensor(y) for y in found if y is not None]

    traced = trace_function(connected, types, [None] * len(types), name, captures=True)
    if traced.written:
        raise VariableError(refusal(traced.variables[traced.written[0]].name))
    return traced.graph, places, [*(v.read() for v in traced.variables), *traced.captured]


def trace_function(
    f: Callable[[list[TracedTensor]], Sequence[Tensor]],
    types: Sequence[Type],
    names: Sequence[str | None],
    name: str,
    may_create: bool = True,
    captures: bool = False,
    place: str | None = None,
) -> Traced:
    """Run `f` on one symbolic tensor per type; it returns the tensors that are the program's results.

    `captures`: outer tensors are not constants of the program but values captured by it, as those of an enclosing
    trace always are. `place`: the name of the part of the enclosing program that `f` is, for messages; short constants
    are then written into it.
    """
    trace = Trace(name, may_create, state.trace, captures, place)
    loc = here.loc
    try:
        with tracing(trace):
            here.loc = None
            inputs = [param(t, n) for t, n in zip(types, names, strict=True)]
            return trace.finish(inputs, f([TracedTensor(v, trace) for v in inputs]))
    finally:
        here.loc = loc
