"""Tracing: a Python function run on symbolic tensors becomes a graph, its state and its constants.

traced = trace_function(f, [Type(f32, (3,))], name="f")
traced.graph        # params: inputs, variables, arrays, captured; outs: results, new values of written variables
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tapefuse._errors import TapefuseError
from tapefuse.ir.graph import Graph, Value, here, param, reachable
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS, Literal
from tapefuse.ir.types import Type
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state, tracing
from tapefuse.tracer.tensor import Tensor, TracedTensor, leaked
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
    captured: tuple[TracedTensor, ...]  # values of an enclosing trace; such a result serves one call only
    n_results: int
    written: tuple[int, ...]  # the outs after the results are new values of these variables
    created: bool  # a variable was made while tracing


class Trace:
    """The program under construction while one function is traced."""

    def __init__(self, name: str, may_create: bool, parent: Trace | None = None):
        self.name = name
        self.parent = parent
        self.may_create = may_create
        self.created = False
        self._variables: dict[int, tuple[Variable, Value]] = {}  # by identity of the variable
        self._current: dict[int, Value] = {}  # values assigned so far
        self._arrays: dict[tuple, tuple[np.ndarray, Value]] = {}  # by dtype, shape and contents
        self._captured: dict[Value, tuple[TracedTensor, Value]] = {}

    # -- operands --------------------------------------------------------------------------------
    def value_of(self, x: Tensor) -> Value:
        """The value that stands for `x` in this program. Raises LeakedValueError for a value of a trace that is
        over."""
        if not isinstance(x, TracedTensor):
            return self._constant(x._array)
        if x._trace is self:
            return x._value
        if not self._is_inside(x._trace):
            raise leaked(x)
        if x._value not in self._captured:
            self._captured[x._value] = x, param(x.type)
        return self._captured[x._value][1]

    def _is_inside(self, other: Trace) -> bool:
        outer = self.parent
        while outer is not None and outer is not other:
            outer = outer.parent
        return outer is not None

    def _constant(self, array: np.ndarray) -> Value:
        if array.size <= LITERAL_ELEMENTS:
            return OPS["const"].emit(value=Literal(array))
        key = array.dtype, array.shape, hashlib.blake2b(array.data).digest()
        if key not in self._arrays:
            self._arrays[key] = array, param(Type(array.dtype, array.shape))
        return self._arrays[key][1]

    def constant_value(self, value: Value) -> np.ndarray | None:
        """The array a value has whatever the inputs are, or None if it depends on a parameter."""
        known = {p: array for array, p in self._arrays.values()}
        if any(v.op is None and v not in known for v in reachable([value])):
            return None
        return np.asarray(evaluate(Graph(tuple(known), (value,)), *known.values())[0])

    # -- variables -------------------------------------------------------------------------------
    def variable_value(self, variable: Variable) -> Value:
        """The value that `variable` has at this point of the program; gradients do not pass through an assignment."""
        if id(variable) not in self._variables:
            self._variables[id(variable)] = variable, param(variable.type, variable.name)
        current = self._current.get(id(variable))
        return self._variables[id(variable)][1] if current is None else OPS["stop_gradient"].emit(current)

    def assign_variable(self, variable: Variable, value: Tensor) -> None:
        self.variable_value(variable)
        self._current[id(variable)] = self.value_of(value)

    def variable_created(self, variable: Variable) -> None:
        self.created = True
        if not self.may_create:
            raise VariableCreationError(
                f"tape_function {self.name!r} makes a new Variable at {user_loc()} whenever it is traced; make "
                "variables outside, or once: `if self.v is None: self.v = tp.Variable(...)`"
            )

    # -- the result ------------------------------------------------------------------------------
    def finish(self, inputs: Sequence[Value], results: Sequence[Tensor]) -> Traced:
        outs = [self.value_of(x) for x in results]
        variables = list(self._variables.values())
        written = tuple(k for k, (v, p) in enumerate(variables) if self._current.get(id(v), p) is not p)
        outs += [self._current[id(variables[k][0])] for k in written]
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


def trace_function(
    f: Callable[[list[TracedTensor]], Sequence[Tensor]],
    types: Sequence[Type],
    names: Sequence[str | None],
    name: str,
    may_create: bool = True,
) -> Traced:
    """Run `f` on one symbolic tensor per type; it returns the tensors that are the program's results."""
    trace = Trace(name, may_create, state.trace)
    loc = here.loc
    try:
        with tracing(trace):
            here.loc = None
            inputs = [param(t, n) for t, n in zip(types, names, strict=True)]
            return trace.finish(inputs, f([TracedTensor(v, trace) for v in inputs]))
    finally:
        here.loc = loc
