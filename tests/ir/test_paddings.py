"""Code for a size that is given a larger one: the same results, or it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.parse import parse
from tapefuse.ir.passes.paddings import padded
from tapefuse.ir.types import Type
from tapefuse.ir.verify import verify

UP_AND_DOWN = """
fn main(%x: f64[], %d: f64[]) {{
  %0 = empty dtype=f64 shape=({rows}) : f64[{rows}]
  %9 = reshape %x shape=(1) : f64[1]
  %1 = {first}
  %2 = for %x, %1 body=fn main(%c: f64[], %s: f64[{rows}]) {{
      %0 = sin %c : f64[]
      %1 = reshape {kept} shape=(1) : f64[1]
      %2 = put %s, %1 starts=({up}) strides=(1) : f64[{rows}]
      return %0, %2
    }} carried=2 index="k" trips=n : i64[]
  %3 = result %2 dtype=f64 index=1 shape=({rows}) : f64[{rows}]
  %4 = for %d, %3 body=fn main(%c: f64[], %s: f64[{rows}]) {{
      %0 = slice %s limits=({down}+1) starts=({down}) strides=(1) : f64[1]
      %1 = reshape %0 shape=() : f64[]
      %2 = dim dtype=f64 value={number} : f64[]
      %3 = mul %c, %1 : f64[]
      %4 = add %3, %2 : f64[]
      return %4
    }} carried=1 index="k" trips=n : i64[]
  %5 = result %4 dtype=f64 index=0 shape=() : f64[]
  %6 = {after}
  %7 = mul %5, %6 : f64[]
  return %7
}}"""
PLAIN = {
    "rows": "n",
    "first": "broadcast f64(0.0) axes=() shape=(n) : f64[n]",
    "kept": "%c",
    "up": "k",
    "down": "n-1-k",
    "number": "n-1-k",
    "after": "dim dtype=f64 value=n : f64[]",
}
FIRST = {"rows": "n+1", "first": "put %0, %9 starts=(0) strides=(1) : f64[n+1]", "kept": "%0", "up": "k+1"}


def body_of(**changes: str) -> Graph:
    """The code for a size n, of x and d."""
    text = UP_AND_DOWN.format(**{**PLAIN, **changes}).strip().removeprefix("fn main")
    region = f"%0 = sized %n, %x, %d body=fn main{text} symbol=\"n\" : i64[]"
    result = "%1 = result %0 dtype=f64 index=0 shape=() : f64[]"
    whole = verify(parse(f"fn main(%n: i64[], %x: f64[], %d: f64[]) {{\n{region}\n{result}\nreturn %1\n}}"))
    (token,) = (v for v in whole.nodes if v.op is ops.sized)
    return token.attributes["body"]


def value(body: Graph, size: int, *xs: float | int) -> np.ndarray:
    n, *params = (param(Type(np.dtype(t), ())) for t in ("i8", *(p.dtype for p in body.params)))
    found = ops.sized.emit_results(n, *params, symbol="n", body=body)
    return evaluate(verify(Graph((n, *params), found)), *map(np.asarray, (size, *xs)))[0]


@pytest.mark.parametrize("changes", [{}, FIRST, {"down": "k", "number": "k"}])
def test_more_rows_change_nothing(changes: dict[str, str]) -> None:
    body = body_of(**changes)
    more = padded(body, "n")
    assert more is not None and more.params[0].type == Type(np.dtype("i8"), ())
    for own in range(5):
        for size in range(own, own + 3):
            np.testing.assert_array_equal(value(more, size, own, 0.7, 1.5), value(body, own, 0.7, 1.5))


REFUSED = {
    "a row that the next iteration overwrites": {**FIRST, "up": "k"},
    "a number that counts from the other end": {"number": "k"},
    "rows in both directions": {"down": "k", "number": "n-1-k"},
    "a sum over all rows": {"after": "reduce_sum %3 axes=(0) : f64[]"},
    "a number of twice the size": {"after": "dim dtype=f64 value=2*n : f64[]"},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_what_reads_rows_past_the_last_one_is_refused(changes: dict[str, str]) -> None:
    assert padded(body_of(**changes), "n") is None
