"""Functions traced as parts of the program under way: graphs, and what they read and assign outside of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._records import dataclass
from tapefuse._tree import Tree, flatten, leaves_with_paths
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes.bodies import rebuilt
from tapefuse.ir.types import Type
from tapefuse.tracer.control_arguments import where_is
from tapefuse.tracer.control_kinds import Kind, carried_number, fitted, kinds_of, stackable
from tapefuse.tracer.state import state
from tapefuse.tracer.surroundings import unchanged
from tapefuse.tracer.tensor import Tensor, TracedTensor, key_of, weakened
from tapefuse.tracer.trace import Traced, credited, trace_function
from tapefuse.tracer.variable import Variable


@dataclass(frozen=True, slots=True)
class Part:
    """A function traced as a part of the program under way."""

    fn: Callable
    traced: Traced
    tree: Tree  # of what it returns
    kinds: list[Kind]
    effects: bool  # whether it tests or prints

    @property
    def n(self) -> int:
        return self.traced.n_results

    def type(self, k: int) -> Type:
        return self.traced.graph.outs[k].type

    @property
    def where(self) -> str:
        return where_is(self.fn)

    def made(self, k: int) -> str:
        """Where result `k` was made, as well as that is known."""
        out = self.traced.graph.outs[k]
        is_shared = out.op is None or out.op.name == "const"  # a constant belongs to the line that had it first
        return self.where if is_shared or not out.loc else f"made at {out.loc}"


def traced_part(
    fn: Callable,
    run: Callable[[list[Tensor]], Any],
    like: Sequence[Tensor],
    place: str,
    wanted: Sequence[Kind] = (),
    labels: Sequence[str] = (),
) -> Part:
    """`run` on symbolic tensors of the kinds of `like`; its first results become the `wanted` kinds if they can."""
    found: list[Any] = [None, None, None]

    def results(inputs: list[TracedTensor]) -> list[Tensor]:
        returned = run([weakened(x) if y.weak else x for x, y in zip(inputs, like, strict=True)])
        leaves, found[0] = flatten(returned)
        paths = [path for path, _ in leaves_with_paths(returned, "the result")]
        paths[: len(labels)] = [f"{label} after an iteration" for label in labels[: len(paths)]]
        call = f"{place} ({where_is(fn)})"
        ys = [carried_number(x, path, call) for x, path in zip(leaves, paths, strict=True)]
        ys[: len(wanted)] = [fitted(y, x, w) for y, x, w in zip(ys, leaves, wanted, strict=False)]
        if len(wanted) < len(ys):  # ys of a scan, whose elements are no numbers
            ys = [stackable(y) if k >= len(wanted) and place == "body of scan" else y for k, y in enumerate(ys)]
        found[1:] = kinds_of(ys), state.trace is not None and bool(state.trace.effects)
        return ys

    name = getattr(fn, "__name__", "function")
    types = [x.type for x in like]
    with unchanged(fn, f"the {place} ({where_is(fn)})"):
        traced = trace_function(results, types, [None] * len(types), name, may_create=False, captures=True, place=place)
    return Part(fn, traced, *found)


class Outside:
    """What parts of a program read from outside, and the variables that they assign: operands and results."""

    def __init__(self, parts: Sequence[Part]):
        written = {id(p.traced.variables[k]): p.traced.variables[k] for p in parts for k in p.traced.written}
        read = {id(v): v for p in parts for v in p.traced.variables if id(v) not in written}
        self.written: list[Variable] = list(written.values())
        self._read: list[Variable] = list(read.values())
        self._captured = list({key_of(x): x for p in parts for x in p.traced.captured}.values())

    def operands(self) -> tuple[Tensor, ...]:
        values = [v.read() for v in (*self.written, *self._read)]
        return (*values, *values[: len(self.written)], *self._captured)

    def graph(self, part: Part, assigned: bool = True) -> Graph:
        """(inputs, assigned variables, others, assigned variables, captured) -> (results, assigned variables).

        Gradients do not pass through assignments: what is read of an assigned variable is credited to its value before
        all of this, the second time that it is given.
        """
        traced = part.traced
        inputs, rest = traced.graph.params[: traced.n_inputs], traced.graph.params[traced.n_inputs :]
        keys = [*[id(v) for v in traced.variables], *[-key_of(x) for x in traced.captured]]  # of tensors below 0
        own = dict(zip(keys, rest, strict=True))
        wanted = [(id(v), v) for v in (*self.written, *self._read)] + [(-key_of(x), x) for x in self._captured]
        outside = [own.get(k) or param(x.type) for k, x in wanted]
        n, m = len(self.written), len(self.written) + len(self._read)
        sources = [param(p.type) for p in outside[:n]]
        reads = {p: credited(p, source) for p, source in zip(outside, sources, strict=False)}
        outs = _reading(traced.graph, reads)
        results, ends = outs[: traced.n_results], outs[traced.n_results :]
        if assigned:
            new = {id(traced.variables[k]): y for k, y in zip(traced.written, ends, strict=True)}
            results += tuple([new.get(id(v), p) for v, p in zip(self.written, outside, strict=False)])
        return Graph((*inputs, *outside[:m], *sources, *outside[m:]), results, traced.graph.name)

    def assign(self, values: Sequence[Tensor]) -> None:
        for v, y in zip(self.written, values, strict=True):
            v.assign(y)


def _reading(graph: Graph, reads: dict[Value, Value]) -> tuple[Value, ...]:
    """The outputs of a graph, `reads` being what some of its parameters are read as."""
    return rebuilt(graph.outs, dict(reads)) if reads else graph.outs
