"""A graph as one operation: run by a compiled entry, recorded by tapes with a compiled backward function of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tapefuse._config import config
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import replay
from tapefuse.ir.passes import budget
from tapefuse.ir.passes.adjoint import adjoint, records_of
from tapefuse.ir.passes.forward import tangents
from tapefuse.ir.passes.rows import row_terms
from tapefuse.ir.types import has_derivatives
from tapefuse.tracer.record import CallRecord, Node, Pullback, Pushforward, pinned
from tapefuse.tracer.rows import IndexedRows, dense
from tapefuse.tracer.source import current_loc, refuse_overrides
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, key_of, still
from tapefuse.tracer.trace import Traced


class GraphCall:
    """A pure graph as a function of tensors, differentiable to any order.

    `compile(traced)` gives the entry of a graph; it is called when the graph is first run. `memory_budget`: bytes that
    its derivatives may keep for each loop.
    """

    def __init__(self, graph: Graph, compile: Callable[[Traced], Callable[..., Any]], memory_budget: int | None = None):
        self.graph = graph
        self._compile = compile
        self._memory_budget = memory_budget
        self._entries: dict[tuple, Callable[..., Any]] = {}
        self._backwards: dict[tuple, tuple[GraphCall, dict[int, int]]] = {}
        self._forwards: dict[tuple, tuple[GraphCall, tuple[int, ...]]] = {}

    @property
    def _entry(self) -> Callable[..., Any]:
        key = config.run_key()
        if key not in self._entries:
            n_in, n_out = len(self.graph.params), len(self.graph.outs)
            self._entries[key] = self._compile(Traced(self.graph, n_in, (), (), (), n_out, (), created=False))
        return self._entries[key]

    def __call__(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """The outputs. Inside a trace the graph becomes part of it."""
        if state.trace is not None:
            return self._inlined(xs)
        if state.overrides:
            refuse_overrides(repr(self.graph.name), {v.op.name for v in self.graph.nodes if v.op is not None})
        ys = self._entry(*xs)
        if ys is NotImplemented:
            raise TypeError(
                f"{self.graph.name!r} was called with {', '.join(str(x.type) for x in xs)}, which do not fit"
            )
        ys = ys if isinstance(ys, tuple) else (ys,)
        if state.tapes:
            self._record(xs, ys)
        return ys

    def _inlined(self, xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with pinned():  # every value keeps the line it was traced from
            return tuple([as_tensor(y) for y in replay(self.graph, xs)])

    def _record(self, xs: tuple[Tensor, ...], ys: tuple[Tensor, ...]) -> None:
        keys = [key_of(x) for x in xs]
        outputs = tuple([Node(key_of(y), y.type) for y in ys])
        xs = tuple([still(x) for x in xs])
        for tape in state.tapes:
            inputs = tape.nodes(keys, xs)
            if tape.lost:
                for y in ys:
                    tape.missed(self.graph.name or "a call", keys, key_of(y))
            wanted = tuple([k for k, x in enumerate(inputs) if x.key is not None and has_derivatives(x.dtype)])
            if wanted:
                pull, push = self._pullback(xs, wanted), self._pushforward(xs)
                tape.add_record(CallRecord(inputs, outputs, pull, push, current_loc(), self.graph))

    def _pullback(self, xs: tuple[Tensor, ...], wanted: tuple[int, ...]) -> Pullback:
        def pullback(gs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            given = tuple([k for k, g in enumerate(gs) if g is not None])
            backward, connected = self._backward(wanted, given)
            if not connected:
                return [None] * len(xs)
            cotangents = iter(backward(*xs, *[dense(g) for g in gs if g is not None]))
            found = {k: _cotangent(xs[k], n_terms, cotangents) for k, n_terms in connected.items()}
            return [found.get(k) for k in range(len(xs))]

        return pullback

    def _pushforward(self, xs: tuple[Tensor, ...]) -> Pushforward:
        def pushforward(ts: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            given = tuple([k for k, t in enumerate(ts) if t is not None])
            forward, connected = self._forward(given)
            moved = forward(*xs, *[t for t in ts if t is not None]) if connected else ()
            found = dict(zip(connected, moved, strict=True))
            return [found.get(k) for k in range(len(self.graph.outs))]

        return pushforward

    def _forward(self, given: tuple[int, ...]) -> tuple[GraphCall, tuple[int, ...]]:
        """(inputs, tangents of inputs `given`) -> tangents of outputs, and which are connected."""
        if given not in self._forwards:
            graph = self.graph
            sources = [graph.params[k] for k in given]
            directions = [param(s.type, f"t{k}") for k, s in zip(given, sources, strict=True)]
            with budget.limited(self._memory_budget):
                moved = tangents(records_of(graph), sources, directions, graph.outs)
            connected = tuple([k for k, t in enumerate(moved) if t is not None])
            outs: tuple[Value, ...] = tuple([t for t in moved if t is not None])
            forward = Graph((*graph.params, *directions), outs, f"{graph.name}_forward")
            self._forwards[given] = GraphCall(forward, self._compile, self._memory_budget), connected
        return self._forwards[given]

    def _backward(self, wanted: tuple[int, ...], given: tuple[int, ...]) -> tuple[GraphCall, dict[int, int]]:
        """(inputs, cotangents of outputs `given`) -> cotangents of inputs `wanted`, and which are connected, with the
        number of look-ups whose rows make up the cotangent: 0 for a dense one."""
        key = wanted, given
        if key not in self._backwards:
            graph = self.graph
            targets = [graph.outs[k] for k in given]
            seeds = [param(t.type, f"d{k}") for k, t in zip(given, targets, strict=True)]
            with budget.limited(self._memory_budget):
                cotangents = adjoint(records_of(graph), targets, seeds, [graph.params[k] for k in wanted])
            parts: dict[int, Sequence[tuple[Value, ...]]] = {}
            for k, c in zip(wanted, cotangents, strict=True):
                if c is not None:
                    parts[k] = row_terms(c) or [(c,)]
            connected = {k: len(terms) if len(terms[0]) > 1 else 0 for k, terms in parts.items()}
            outs: tuple[Value, ...] = tuple([v for terms in parts.values() for term in terms for v in term])
            backward = Graph((*graph.params, *seeds), outs, f"{graph.name}_backward")
            self._backwards[key] = GraphCall(backward, self._compile, self._memory_budget), connected
        return self._backwards[key]


def _cotangent(x: Tensor, n_terms: int, outputs: Iterator[Tensor]) -> Any:
    """The cotangent of `x` from a backward graph's next outputs."""
    if not n_terms:
        return next(outputs)
    return IndexedRows.of([(next(outputs), next(outputs)) for _ in range(n_terms)], x.shape)
