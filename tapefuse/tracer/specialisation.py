"""One trace of a function, ready to be called: natively, as one operation of tapes, or inlined into another trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from tapefuse._config import config
from tapefuse._locks import Lock
from tapefuse._tree import LEAF, Tree, unflatten
from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import evaluate
from tapefuse.tracer.arrays import normal
from tapefuse.tracer.call import GraphCall
from tapefuse.tracer.direct import direct, is_by_value
from tapefuse.tracer.interpreted import Entry
from tapefuse.tracer.retracing import Arguments, Retrace
from tapefuse.tracer.signature import Call, Leaf, show_leaf, weak_guards
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, key_of, leaked, wrap
from tapefuse.tracer.trace import Traced
from tapefuse.tracer.variable import Variable, unshare

ATTEMPTS = 100  # other threads may read a variable, and so share its storage again, between a copy and the call


class Specialisation:
    """One trace of a function, and its compiled forms."""

    def __init__(
        self,
        call: Call,
        traced: Traced,
        results: Tree,
        compile: Callable[[Traced], Entry],
        compile_inner: Callable[[Traced], Entry],
        number: int,
        arguments: Arguments,
        why: Retrace,
        memory_budget: int | None = None,
        statements: tuple[tuple[str, str], ...] = (),
    ):
        """`compile` makes what users call, `compile_inner` what returns tensors in any case. `memory_budget`: bytes
        that derivatives may keep. `statements`: loops and branches of the function, and what became of each."""
        self.traced = traced
        self.kinds = call.kinds
        self.results = results
        self.number = number  # which call of the function asked for it
        self.statements = statements
        self.arguments = arguments
        self.why = why  # why no earlier one served
        self.has_variable_arguments = bool(call.variables)
        places = {id(v): k for k, v in enumerate(traced.variables)}
        self._arguments = [places.get(id(v)) for v in call.variables]
        self._n_inputs = len(call.inputs)
        self._arguments_shape = call.tree.children
        self._guards = weak_guards(call)
        self._compile = compile
        self._compile_inner = compile_inner
        self._memory_budget = memory_budget
        self._lock = Lock()
        self._entries: dict[tuple, Entry] = {}

    @property
    def graph(self) -> Graph:
        return self.traced.graph

    @property
    def is_alive(self) -> bool:
        return all(guard() is not None for guard in self._guards)

    @functools.cached_property
    def pure(self) -> GraphCall:
        """The same graph with the variables' values as further inputs and outputs."""
        return GraphCall(self.graph, self._compile_inner, self._memory_budget)

    @property
    def entry(self) -> Entry:
        """The compiled form for the flags of this moment."""
        key = config.run_key()
        with self._lock:
            if key not in self._entries:
                self._entries[key] = self._compile(self.traced)
        return self._entries[key]

    @property
    def way(self) -> str:
        """What a call does with its arguments before the program gets them, for people."""
        by_value = [shape is LEAF and is_by_value(*kinds) for shape, kinds in self._parameters]
        others = [kinds for (_, kinds), known in zip(self._parameters, by_value, strict=True) if not known]
        if any(kind[0] != "tensor" for kinds in others for kind in kinds):
            return "compared in Python"
        return "taken directly, Python values compared before" if any(by_value) else "taken directly"

    @functools.cached_property
    def _parameters(self) -> list[tuple[Tree, tuple[Leaf, ...]]]:
        """The structure of each parameter's value, and what its leaves are."""
        leaves = iter(self.kinds)
        return [(shape, tuple(islice(leaves, shape.n_leaves))) for shape in self._arguments_shape]

    def direct_call(self, n: int, star: int | None) -> Entry:
        """The entry as a function of the first `n` positional arguments, the others being left to their defaults.

        `star`: which parameter is `*args`. It declines everything if Python values are among the arguments.
        """
        shapes = list(self._arguments_shape)
        if star is not None and n > star:
            shapes[star:] = shapes[star].children
        shapes = shapes[:n]
        if self.has_variable_arguments or sum(s.n_leaves for s in shapes) != self._n_inputs:
            return declines
        return direct(self.entry, shapes, self.results)

    def call_of(self, parameters: Sequence[int]) -> Entry:
        """The entry as a function of the values of these parameters, for callers who know that all others are Python
        values, and those of this specialisation. It declines everything unless these are the inputs, in order."""
        kinds = [kind for p in parameters for kind in self._parameters[p][1]]
        is_whole = len(kinds) == self._n_inputs and all(kind[0] == "tensor" for kind in kinds)
        if not is_whole or list(parameters) != sorted(parameters):
            return declines
        return direct(self.entry, [self._arguments_shape[p] for p in parameters], self.results)

    def run(self, call: Call) -> Any:
        """The results for arguments of this specialisation."""
        if self.has_variable_arguments or state.trace is not None or self._is_recorded(call):
            leaves: Sequence[Tensor] = self._run_as_operation(call)
        else:
            outs = self._run_entry(call.inputs)
            leaves = outs if isinstance(outs, tuple) else (outs,)
        return unflatten(self.results, leaves)

    def _is_recorded(self, call: Call) -> bool:
        if not state.tapes:
            return False
        keys = [key_of(x) for x in call.inputs if isinstance(x, Tensor)]
        return any(tape.would_record(keys, self.traced.variables) for tape in state.tapes)

    def _run_as_operation(self, call: Call) -> Sequence[Tensor]:
        """As one operation of the tapes, or inlined into the trace under way; then variables are assigned."""
        traced, variables = self.traced, self._variables_of(call)
        reads = [v.read() for v in variables]
        ys = self.pure(*[as_tensor(x) for x in call.inputs], *reads, *map(wrap, traced.arrays), *traced.captured)
        for k, y in zip(traced.written, ys[traced.n_results :], strict=True):
            variables[k].assign(y)
        return ys[: traced.n_results]

    def _variables_of(self, call: Call) -> list[Variable]:
        """The variables this call reads and writes: those passed as arguments take the place of the traced ones."""
        variables = list(self.traced.variables)
        for position, v in zip(self._arguments, call.variables, strict=True):
            if position is not None:
                variables[position] = v
        return variables

    def _run_entry(self, inputs: list[Any]) -> Any:
        """The entry declines arrays of unfit layout, and written variables that share storage: both are copied."""
        outs = self.entry(*inputs)
        if outs is NotImplemented:
            inputs = [x if type(x) is Tensor else _plain(x) for x in inputs]
            for _ in range(ATTEMPTS):
                for v in self.traced.variables:
                    v._array  # noqa: B018 - waits while a call in another thread has it
                unshare(self.traced.variables[k] for k in self.traced.written)
                outs = self.entry(*inputs)
                if outs is not NotImplemented:
                    return outs
            reads = [v.read() for v in self.traced.variables]
            arrays = [np.asarray(x) for x in (*inputs, *reads, *self.traced.arrays)]
            evaluate(self.graph, *arrays)  # names what does not fit, at the user's line
            raise TypeError(f"{self.graph.name!r} declined arguments of the types it was traced for: {self.describe()}")
        return outs

    def describe(self) -> str:
        return f"({', '.join(map(show_leaf, self.kinds))})"


def _plain(x: Any) -> np.ndarray:
    """The array of an input, contiguous, aligned, of NumPy's own class and byte order."""
    if isinstance(x, TracedTensor):
        raise leaked(x)
    return normal(np.asarray(x))


def declines(*args: Any) -> Any:
    return NotImplemented
