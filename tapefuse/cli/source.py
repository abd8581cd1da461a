"""What `dump` looks at: a traced function or a parsed graph, with or without its gradient, down to machine code."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tapefuse._records import dataclass
from tapefuse.cli.errors import UsageError
from tapefuse.codegen import pipeline
from tapefuse.compiler import optimised
from tapefuse.function import TapeFunction, tape_function
from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import replay
from tapefuse.ir.op import constant
from tapefuse.ir.ops import broadcast
from tapefuse.ir.passes.adjoint import gradient_graph, is_differentiable
from tapefuse.ir.program import State
from tapefuse.ir.types import Type
from tapefuse.runtime.compile import assembly
from tapefuse.tracer.signature import TensorSpec
from tapefuse.tracer.trace import Traced


@dataclass(frozen=True, slots=True)
class Subject:
    """A graph whose parameters are inputs, states and constants, in this order."""

    graph: Graph
    inputs: int
    states: tuple[State, ...] = ()
    constants: tuple[np.ndarray, ...] = ()

    def with_gradient(self) -> Subject:
        """With the gradients of the sum of the floating outputs, by floating inputs and states, as outputs."""
        wrt = [k for k in range(self.inputs + len(self.states)) if is_differentiable(self.graph.params[k])]
        if not wrt or not any(map(is_differentiable, self.graph.outs)):
            raise UsageError(f"--grad: {self.graph.name} needs a floating-point argument and a floating-point result")
        derived = gradient_graph(self.graph, wrt)
        seeds = [_ones(p.type) for p in derived.params[len(self.graph.params) :]]
        outs = replay(derived, [*self.graph.params, *seeds])
        written = sum(s.written for s in self.states)
        results, n = len(self.graph.outs) - written, len(self.graph.outs)
        ordered = (*outs[:results], *outs[n:], *outs[results:n])  # new values of states stay last
        return replace(self, graph=Graph(self.graph.params, ordered, self.graph.name))

    def native(self, stage: str) -> str:
        """The text of a stage of code generation, or assembler text."""
        graph, checks = optimised(self.graph)
        request = pipeline.Request(graph, self.inputs, self.states, self.constants, checks, name=self.graph.name)
        texts = pipeline.stages(request)
        return assembly(texts["llvm"]()) if stage == "asm" else texts[stage]()


def _ones(type: Type) -> Any:
    one = constant(1, type.dtype)
    return broadcast.emit(one, shape=type.shape, axes=()) if type.shape else one


def from_graph(graph: Graph) -> Subject:
    return Subject(graph, len(graph.params))


def from_function(function: Any, specs: Sequence[TensorSpec] | None, target: str) -> Subject:
    """What a function's trace comes to. Raises `UsageError` if the specs do not fit its parameters."""
    traced = trace(function, specs, target)
    written = set(traced.written)
    states = tuple(State(v.type, k in written, v.name) for k, v in enumerate(traced.variables))
    return Subject(traced.graph, traced.n_inputs, states, traced.arrays)


def trace(function: Any, specs: Sequence[TensorSpec] | None, target: str) -> Traced:
    """Trace a tape_function or a plain function. Raises `UsageError` if the specs do not fit its parameters."""
    traced_function = function if isinstance(function, TapeFunction) else tape_function(function)
    if specs is None and traced_function._input_signature is None and _required(function):
        raise UsageError(f'{target} has no input signature; give --args, e.g. --args "f32[B,3], i64[]"')
    if specs is not None:
        _check_count(function, specs, target)
    return traced_function.specialise(*(specs or ())).traced


def _required(function: Any) -> list[str]:
    """Names of the positional parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _check_count(function: Any, specs: Sequence[TensorSpec], target: str) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*specs)
    except TypeError as e:
        raise UsageError(f"{target} takes {signature}, --args gives {len(specs)} types: {e}") from None
