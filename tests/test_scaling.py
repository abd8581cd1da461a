"""Long programs: nothing recurses along a chain of ops. (How time grows: benchmarks/compile_scaling.py.)"""

from __future__ import annotations

import sys

import numpy as np
import pytest

import tapefuse as tp
from benchmarks.compile_scaling import CHAINS, F32, traced_chain
from tapefuse.codegen.plan import Request, plan
from tapefuse.ir.interp import evaluate
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.passes.forward import jvp_graph
from tapefuse.ir.print import show
from tapefuse.ir.verify import verify
from tests.engines import ENGINES

LENGTHS = {"tanh": 10_000, "mixed": 3_000}


@pytest.mark.parametrize(("chain", "length"), LENGTHS.items())
def test_long_chain_is_traced_differentiated_optimised_and_scheduled(chain: str, length: int) -> None:
    graph = traced_chain(chain, length)  # with its gradients, taken by a tape
    assert len(graph.nodes) > 2 * length > sys.getrecursionlimit()
    optimised = verify(optimise(verify(graph)))
    assert len(optimised.nodes) > length
    assert plan(Request(optimised, len(optimised.params))).steps


def test_long_chain_goes_through_text_and_derivatives_of_graphs() -> None:
    length = 3_000
    graph = traced_chain("tanh", length)
    assert len(graph.nodes) > length > sys.getrecursionlimit()
    text = show(graph)
    assert show(parse(text)) == text
    assert len(verify(jvp_graph(graph)).nodes) > length
    assert len(verify(gradient_graph(graph)).nodes) > length  # the second derivative


@pytest.mark.parametrize("chain", CHAINS)
def test_long_chain_compiled_is_what_it_says(chain: str) -> None:
    graph = traced_chain(chain, 1_000)
    arrays = [np.linspace(-1, 1, 16).astype(F32.dtype), np.full(16, 0.7, F32.dtype), np.full(16, 0.1, F32.dtype)]
    for found, wanted in zip(ENGINES["llvm"](graph)(*arrays), evaluate(graph, *arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)  # roundings of 1,000 dependent steps


def test_every_chain_is_taken() -> None:
    assert LENGTHS.keys() == set(CHAINS)


def test_long_chain_on_a_tape() -> None:
    x = tp.constant(np.ones(4, np.float32))
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = x
        for _ in range(10_000):
            y = y * 1.0
    np.testing.assert_array_equal(tape.gradient(y, x), np.ones(4, np.float32))
