"""Random programs: typed IR graphs of 3 to 40 ops drawn from all registered ops, with inputs that keep values near 1.

    case = random_case(7)                      # from a seed, or under hypothesis: @given(cases())
    evaluate(case.graph, *case.arrays(0, {"B": 3}))

Operands that would leave the domain of an op, or make it large, go through another op first: nan, infinities and
division by small numbers do not occur. A failing case prints as IR text; `reduced` makes it small.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS, const
from tapefuse.ir.types import Type
from tests.program_complex import plain_op
from tests.program_draft import BINDINGS, F4, F8, Draft, Interval, Pick
from tests.program_fourier import transformed  # noqa: F401  (adds makers of Fourier transforms)
from tests.program_ops import MAKERS
from tests.program_updates import updated  # noqa: F401  (adds makers of updates)
from tests.program_windows import pooled  # noqa: F401  (adds makers of convolution and pooling)

MAX_OUTPUTS = 7


@dataclass(frozen=True)
class Case:
    """A graph and what its inputs may be."""

    graph: Graph
    ranges: tuple[Interval, ...]  # of each parameter
    bindings: tuple[Mapping[str, int], ...]  # sizes of the dimension symbols to try

    def arrays(self, seed: int, binding: Mapping[str, int]) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [_array(rng, p.type.substitute(binding), r) for p, r in zip(self.graph.params, self.ranges, strict=True)]

    def __repr__(self) -> str:
        return f"Case of ranges {self.ranges}, bindings {self.bindings}:\n{self.graph}"


def _array(rng: np.random.Generator, type: Type, limits: Interval) -> np.ndarray:
    low, high = limits
    if type.dtype.kind == "c":
        return np.asarray(rng.uniform(low, high, type.shape) + 1j * rng.uniform(low, high, type.shape), type.dtype)
    if type.dtype.kind == "f":
        return np.asarray(rng.uniform(low, high, type.shape), type.dtype)
    return np.asarray(rng.integers(int(low), int(high) + 1, type.shape), type.dtype)


def any_op(draft: Draft) -> None:
    """One more op, if the one drawn finds operands."""
    plain_op(draft)


def random_case(
    seed: int | str,
    smallest: int = 3,
    largest: int = 40,
    grow: Callable[[Draft], object] = any_op,
    is_complex: bool = False,
) -> Case:
    return drawn(random.Random(seed).randint, smallest, largest, grow, is_complex)


def cases(
    series: str = "",
    smallest: int = 3,
    largest: int = 40,
    grow: Callable[[Draft], object] = any_op,
    is_complex: bool = False,
) -> st.SearchStrategy[Case]:
    """Drawn by seed, since hypothesis choosing op by op repeats every other program. Each series has its own."""
    draw = lambda seed: random_case(f"{series} {seed}", smallest, largest, grow, is_complex)
    return st.integers(0, 2**64 - 1).map(draw)


def drawn(
    pick: Pick, smallest: int, largest: int, grow: Callable[[Draft], object] = any_op, is_complex: bool = False
) -> Case:
    """A case of `smallest` ops or more; of a few more than `largest` if the last one needs its operands prepared.

    `grow(draft)` adds to a draft, mostly one op. `is_complex`: about half of the values are complex numbers.
    """
    symbolic = pick(0, 2) == 2
    draft = Draft(pick, (F4, F8)[pick(0, 1)], symbolic, is_complex)
    wanted = pick(smallest, largest if pick(0, 4) == 4 else max(smallest, largest // 4))  # many small ones: time
    tries = 0
    while len(_needed(draft.pool)) < wanted and tries < 4 * wanted:
        grow(draft)
        tries += 1
    outs = _outputs(draft, smallest)
    bindings: tuple[Mapping[str, int], ...] = ({},)
    if symbolic:
        first = pick(0, len(BINDINGS) - 1)
        bindings = tuple({"B": BINDINGS[k % len(BINDINGS)]} for k in (first, first + 1))
    params = tuple(p for p, _ in draft.params)
    return Case(Graph(params, outs, "random"), tuple(r for _, r in draft.params), bindings)


def _needed(outs: list[Value]) -> set[Value]:
    """The nodes that compute them, constants aside."""
    return {v for v in reachable(outs) if v.op is not None and v.op is not const}


def _outputs(draft: Draft, smallest: int) -> tuple[Value, ...]:
    """The last value, others that nobody reads, and now and then a value twice, a parameter or a constant."""
    read = {a for v in reachable(draft.pool) for a in v.args}
    ends = [v for v in reversed(draft.pool) if v.op is not None and v.op.name != "const"]
    unread = [v for v in ends if v not in read][:MAX_OUTPUTS] or ends[:1]
    outs: list[Value] = []
    for v in unread:
        if len(_needed(outs)) < smallest or not draft.chance(4):
            outs.append(v)
    while len(_needed(outs)) < smallest and (more := [v for v in ends if v not in _needed(outs)]):
        outs.append(more[0])
    if draft.chance(6) and ends:
        outs.append(draft.one_of(ends))  # also read by others
    if draft.chance(8):
        outs.append(outs[0])
    if draft.chance(10):
        outs.append(draft.one_of(draft.params)[0])
    if draft.chance(12):
        outs.append(draft.scalar(2.0, draft.dtype) if draft.chance(2) else MAKERS["const"](draft))
    return tuple(outs)


# -- special values ---------------------------------------------------------------------------------------------------

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, np.inf, -np.inf, np.nan, 1e-30, -1e30, 88.0, -104.0, 1e4)
ELEMENTWISE = ("abs", "add", "ceil", "div", "erf", "exp", "expm1", "floor", "log", "log1p", "maximum", "minimum", "mul")
ELEMENTWISE += (
    "asin",
    "atan",
    "atan2",
    "cosh",
    "erfc",
    "exp2",
    "log2",
    "sinh",
    "neg",
    "relu",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "softplus",
    "sqrt",
    "sub",
    "tanh",
)
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@dataclass(frozen=True)
class SpecialCase(Case):
    """Two float vectors: all pairs of special values."""

    def arrays(self, seed: int, binding: Mapping[str, int]) -> list[np.ndarray]:
        first, second = np.meshgrid(np.array(SPECIAL), np.array(SPECIAL))
        return [
            np.ascontiguousarray(a.ravel(), p.dtype) for a, p in zip((first, second), self.graph.params, strict=True)
        ]

    __repr__ = Case.__repr__


@st.composite
def special_cases(draw: st.DrawFn) -> SpecialCase:
    """A function of one op, and a choice by a comparison between it and an operand: sums of infinities that
    cancel may be reassociated, so deeper ones prove nothing."""
    dtype = draw(st.sampled_from((F4, F8)))
    params = tuple(param(Type(dtype, (len(SPECIAL) ** 2,)), name) for name in "xy")
    op = OPS[draw(st.sampled_from(ELEMENTWISE))]
    arity = len(op.sample(np.random.default_rng(0), dtype)[0][0])
    y = op.emit(*params[:arity])
    z = OPS[draw(st.sampled_from(COMPARISONS))].emit(*params)
    chosen = OPS["select"].emit(z, y, params[draw(st.integers(0, 1))])
    return SpecialCase(Graph(params, (y, z, chosen), "special"), ((0, 0), (0, 0)), ({},))


# -- making a failing program small -----------------------------------------------------------------------------------


def reduced(
    graph: Graph, arrays: Sequence[np.ndarray], fails: Callable[[Graph, list[np.ndarray]], bool]
) -> tuple[Graph, list[np.ndarray]]:
    """A smaller graph and inputs that fail too: fewer outputs, and parameters in place of what computes them."""
    graph, arrays = Graph(graph.params, graph.outs, "reduced"), list(arrays)
    while (smaller := next((c for c in _smaller(graph, arrays) if fails(*c)), None)) is not None:
        graph, arrays = smaller
    return graph, arrays


def _smaller(graph: Graph, arrays: list[np.ndarray]) -> Iterator[tuple[Graph, list[np.ndarray]]]:
    used = reachable(graph.outs)
    if len(graph.outs) > 1:
        yield from ((Graph(graph.params, (v,), graph.name), arrays) for v in graph.outs)
        yield from (
            (Graph(graph.params, (*graph.outs[:k], *graph.outs[k + 1 :]), graph.name), arrays)
            for k in range(len(graph.outs))
        )
    for k, p in enumerate(graph.params):
        if p not in used:
            yield Graph(graph.params[:k] + graph.params[k + 1 :], graph.outs, graph.name), arrays[:k] + arrays[k + 1 :]
    plain = [v for v in graph.nodes if not v.op.is_region]
    everything = Graph(graph.params, tuple(plain), graph.name)
    values = dict(zip(everything.outs, evaluate(everything, *arrays), strict=True))
    for v in reversed(plain):
        if v.op is not const:
            p = param(v.type, f"v{v.id}")
            yield replaced(Graph((*graph.params, p), graph.outs, graph.name), v, p), [*arrays, values[v].copy()]
    for v in reversed(plain):
        for a in v.args:
            if a.type == v.type and not (a.op is not None and a.op.is_region):
                yield replaced(graph, v, a), arrays
    for v in graph.outs:
        for a in v.args:
            if not (a.op is not None and a.op.is_region):
                yield replaced(graph, v, a), arrays
    for v in reversed(graph.nodes):
        if v.op.is_region:
            for attrs in _simpler(v.attributes):
                yield replaced(graph, v, v.op.emit(*v.args, **attrs)), arrays


def _simpler(attrs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Attributes of a region with one of its graphs made simpler."""
    for name, x in attrs.items():
        if isinstance(x, Graph):
            yield from ({**attrs, name: body} for body in _simpler_bodies(x))
        elif isinstance(x, tuple) and any(isinstance(g, Graph) for g in x):
            for k, g in enumerate(x):
                yield from ({**attrs, name: (*x[:k], body, *x[k + 1 :])} for body in _simpler_bodies(g))


def _simpler_bodies(body: Graph) -> Iterator[Graph]:
    """Graphs of the same signature with an output that is a parameter, or a node less."""
    for k, v in enumerate(body.outs):
        if v not in body.params:
            fitting = [p for p in body.params if p.type == v.type]
            yield from (Graph(body.params, (*body.outs[:k], p, *body.outs[k + 1 :]), body.name) for p in fitting[:3])
    for v in reversed(body.nodes):
        if v.op.is_region:
            yield from (replaced(body, v, v.op.emit(*v.args, **attrs)) for attrs in _simpler(v.attributes))
            continue
        simpler = [a for a in v.args if a.type == v.type and not (a.op is not None and a.op.is_region)]
        simpler += [p for p in body.params if p.type == v.type][:1]
        yield from (replaced(body, v, a) for a in simpler)


def replaced(graph: Graph, old: Value, new: Value) -> Graph:
    env: dict[Value, Value] = {p: p for p in graph.params}
    for v in graph.nodes:
        env[v] = new if v is old else v.op.emit(*(env[a] for a in v.args), **v.attributes)
    return Graph(graph.params, tuple(env[v] for v in graph.outs), graph.name)
