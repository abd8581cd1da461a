"""Graphs in the scheduler's form: transposes that need no kernel of their own."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen.prepare import prepared
from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import evaluate
from tapefuse.ir.parse import parse
from tests import engines


def same(graph: Graph, *arrays: np.ndarray) -> list[str]:
    """The ops of the prepared graph, after a check that engines compute what the interpreter does."""
    wanted = evaluate(graph, *arrays)
    for run in engines.ENGINES.values():
        for a, b in zip(run(graph)(*arrays), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return [v.op.name for v in prepared(graph)[0].nodes]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("f4")


def test_the_transpose_of_a_product_is_a_product_of_transposes():
    graph = parse("""
        fn main(%x: f32[3,5,4], %y: f32[3,6,4]) {
          %0 = transpose %y perm=(0,2,1) : f32[3,4,6]
          %1 = matmul %x, %0 : f32[3,5,6]
          %2 = transpose %1 perm=(0,2,1) : f32[3,6,5]
          return %2
        }""")
    assert same(graph, draw(3, 5, 4), draw(3, 6, 4)) == ["transpose", "matmul"]


@pytest.mark.parametrize("outs", ["%1, %0", "%1, %2"])
def test_a_product_that_something_else_reads_is_transposed_as_it_is(outs):
    graph = parse(f"""
        fn main(%x: f32[5,4], %y: f32[4,6]) {{
          %0 = matmul %x, %y : f32[5,6]
          %1 = transpose %0 perm=(1,0) : f32[6,5]
          %2 = exp %0 : f32[5,6]
          return {outs}
        }}""")
    assert same(graph, draw(5, 4), draw(4, 6)).count("matmul") == 1


def test_joined_arrays_are_transposed_one_by_one():
    graph = parse("""
        fn main(%x: f32[2,5], %y: f32[1,5]) {
          %0 = exp %x : f32[2,5]
          %1 = concat %0, %y axis=0 : f32[3,5]
          %2 = transpose %1 perm=(1,0) : f32[5,3]
          return %2
        }""")
    assert same(graph, draw(2, 5), draw(1, 5)) == ["exp", "transpose", "transpose", "concat"]
