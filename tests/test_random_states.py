"""Random programs that update variables in place: whatever is read later or elsewhere is the old value.

320 programs run on the LLVM engine and 16 on the Numba engine, in part with less of a compiler as in
`test_random_programs`.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tapefuse.codegen.pipeline import Request
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS, constant
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.print import show
from tapefuse.ir.program import State
from tests import engines
from tests.differential import difference, noise
from tests.programs import Case, random_case
from tests.test_random_programs import of_part

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600")) // 5
SHARES = {"llvm": 1.0, "numba": 0.05}
LIMIT = 1e4  # updates may grow from call to call


@pytest.mark.parametrize("engine", SHARES)
def test_random_updates_of_variables(engine: str) -> None:
    @settings(
        max_examples=max(5, round(PROGRAMS * SHARES[engine])),
        phases=(Phase.explicit, Phase.generate),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64 - 1))
    def agree(seed: int) -> None:
        rng = random.Random(f"states {engine} {seed}")
        case = random_case(rng.getrandbits(64), largest=30 if engine == "llvm" else 10)
        updates = {
            p: _update(rng, case.graph, p) for p in case.graph.params if p.dtype.kind == "f" and rng.random() < 0.7
        }
        kept = {p for p in case.graph.params if p in updates or rng.random() < 0.3}
        check(case, of_part(engine, rng.randrange(4)), updates, kept)

    agree()


def _update(rng: random.Random, graph: Graph, state: Value) -> Value:
    """Some new value of a state: a value of the program, another state, itself in another order, or a step."""
    same = [v for v in (*graph.nodes, *graph.params) if v.type == state.type]
    found = [*same, ops.add(state, ops.mul(rng.choice(same), 0.1)), ops.tanh(state)]
    rank = len(state.shape)
    if rank:
        axis = rng.randrange(rank)
        found += [ops.flip(v, axes=(axis,)) for v in (state, ops.tanh(state), rng.choice(same))]
        found += [ops.sub(rng.choice(same), ops.flip(state, axes=(axis,)))]
        rows = [v for v in (*graph.nodes, *graph.params) if v.shape[1:] == state.shape[1:] and v.dtype == state.dtype]
        rows = [v for v in rows if v.shape and isinstance(v.shape[0], int) and isinstance(state.shape[0], int)]
        if rows and state.shape[0]:
            v = rng.choice(rows)
            ids = constant(np.array([rng.randrange(-state.shape[0], state.shape[0]) for _ in range(v.shape[0])], "i8"))
            scattered = ops.scatter_add(v, ids, shape=state.shape)
            found += [ops.sub(state, ops.mul(scattered, 0.1)), ops.add(ops.neg(scattered), state)]
            found += [ops.add_at(state, v, ids), ops.add(state, ops.add(scattered, ops.mul(scattered, 0.5)))]
        found += [ops.add(state, ops.reduce_sum(ops.sin(state), axes=tuple(range(rank))))]
    if rank >= 2 and state.shape[-1] == state.shape[-2]:
        found += [ops.transpose(state, perm=(*range(rank - 2), rank - 1, rank - 2)), ops.sin(ops.matmul(state, state))]
    return rng.choice(found)


def _is_cut(v: Value) -> bool:
    """Whether a float becomes an integer: NumPy and compiled code differ where it does not fit."""
    return v.op is OPS["cast"] and v.dtype.kind in "iu" and v.args[0].dtype.kind == "f"


def check(case: Case, engine: str, updates: dict[Value, Value], kept: set[Value]) -> None:
    """Two calls, one after the other; one, if the second may cut floats that do not fit.

    `kept`: parameters that are states, those that are not updated too.
    """
    inputs = [p for p in case.graph.params if p not in kept]
    states = [p for p in case.graph.params if p in kept]
    written = [p for p in states if p in updates]
    graph = Graph((*inputs, *states), (*case.graph.outs, *(updates[p] for p in written)), "states")
    values = dict(zip(case.graph.params, case.arrays(0, case.bindings[-1]), strict=True))
    holders = [engines.Holder() for _ in states]
    for holder, p in zip(holders, states, strict=True):
        holder._array = values[p].copy()
    checked, checks = with_checks(graph)
    kinds = tuple(State(p.type, p in updates, str(p.name)) for p in states)
    wanted = Request(optimise(checked), len(inputs), kinds, checks=checks)
    run = engines.run_of(engine, wanted, holders)
    for call in (1, 2):
        arrays = [values[p] for p in graph.params]
        known = noise(graph, arrays)
        outs = run(*(values[p] for p in inputs))
        now = [holder._array.copy() for holder in holders]
        if known is None or any(a.dtype.kind == "f" and a.size and not np.abs(a).max() < LIMIT for a in known[0]):
            return
        found = [*outs, *(a for a, p in zip(now, states, strict=True) if p in updates)]
        problem = difference(*known[:1], found, known[1])
        assert problem is None, f"call {call}: {problem}; states {[p.name for p in states]}\n{show(graph)}"
        for p, a in zip(states, now, strict=True):
            assert p in updates or np.array_equal(a, values[p]), f"{p.name} is not written, but has changed"
        values |= dict(zip(states, now, strict=True))
        if any(map(_is_cut, graph.nodes)):  # what updated states may be too large or too small for
            return
