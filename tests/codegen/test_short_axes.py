"""Sums over a short first axis: spelled as sums of parts where their terms need no memory, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen.plan import Request, plan
from tapefuse.codegen.short_axes import unrolled
from tapefuse.ir.graph import Graph
from tapefuse.ir.interp import evaluate
from tapefuse.ir.parse import parse
from tests import engines

DISTANCES = """
    fn main(%p: f64[3,20], %m: f64[20]) {
      %0 = reshape %p shape=(3,1,20) : f64[3,1,20]
      %1 = reshape %p shape=(3,20,1) : f64[3,20,1]
      %2 = sub %0, %1 : f64[3,20,20]
      %3 = mul %2, %2 : f64[3,20,20]
      %4 = reduce_sum %3 axes=(0) : f64[20,20]
      %5 = mul %m, %4 : f64[20,20]
      %6 = mul %2, %5 : f64[3,20,20]
      %7 = reduce_sum %6 axes=(2) : f64[3,20]
      %8 = reduce_sum %6 axes=(1) : f64[3,20]
      return %7, %8
    }"""


def shapes(graph: Graph) -> set[tuple]:
    return {v.shape for v in graph.nodes}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def check(graph: Graph, *arrays: np.ndarray) -> None:
    """The new graph, and both engines, give what the interpreter gives for the graph as it was."""
    wanted = evaluate(graph, *arrays)
    for found in (evaluate(unrolled(graph), *arrays), *(run(graph)(*arrays) for run in engines.ENGINES.values())):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_coordinates_are_taken_apart():
    graph = parse(DISTANCES)
    assert (3, 20, 20) in shapes(graph)
    assert (3, 20, 20) not in shapes(unrolled(graph))
    check(graph, draw(3, 20), draw(20))


def test_all_that_is_read_of_the_terms_is_then_one_kernel():
    steps = plan(Request(parse(DISTANCES), 2)).steps
    assert not any(len(place.type.shape) > 2 or place.type.shape == (20, 20) for s in steps for place in s.places)


@pytest.mark.parametrize("op", ["broadcast %v axes=(0,1) shape=(3,9,9)", "broadcast %w axes=(1,2) shape=(3,9,9)"])
def test_operands_that_are_repeated(op: str):
    graph = parse(f"""
        fn main(%x: f64[3,9,9], %v: f64[3,9], %w: f64[9,9]) {{
          %0 = {op} : f64[3,9,9]
          %1 = mul %x, %0 : f64[3,9,9]
          %2 = add %1, %w : f64[3,9,9]
          %3 = reduce_max %2 axes=(0) : f64[9,9]
          return %3
        }}""")
    assert not any(v.op.reduction for v in unrolled(graph).nodes)
    check(graph, draw(3, 9, 9), draw(3, 9), draw(9, 9))


@pytest.mark.parametrize(
    "why, text",
    [
        ("the terms are an output", DISTANCES.replace("return", "return %3,")),
        ("the terms are there already", "reduce_sum %x axes=(0) : f64[9,9]"),
        ("the axis is long", "reduce_sum %a axes=(0) : f64[9,9]"),
        ("the rest is short", "reduce_sum %b axes=(0) : f64[5]"),
        ("all axes are reduced", "reduce_sum %c axes=(0,1,2) : f64[]"),
        ("nothing is summed over the short axis", "reduce_sum %c axes=(2) : f64[3,9]"),
    ],
)
def test_left_alone(why: str, text: str):
    if "main" not in text:
        text = f"""
            fn main(%x: f64[3,9,9], %y: f64[5,9,9], %z: f64[3,5]) {{
              %a = exp %y : f64[5,9,9]
              %b = exp %z : f64[3,5]
              %c = exp %x : f64[3,9,9]
              %r = {text}
              return %r
            }}"""
    graph = parse(text)
    assert unrolled(graph) is graph, why
