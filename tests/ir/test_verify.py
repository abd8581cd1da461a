"""`verify` accepts what is built by the rules and names the rule that a hand-made graph breaks."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse._errors import VerifyError
from tapefuse.ir import ops
from tapefuse.ir import verify as verification
from tapefuse.ir.graph import Graph, Loc, Value, param
from tapefuse.ir.op import OPS, Op
from tapefuse.ir.types import Poly, Type
from tapefuse.ir.verify import verify

F32 = np.dtype("f4")
B, N = Poly.symbol("B"), Poly.symbol("N")
T = Type(F32, (B, 3))


def test_good_graphs_come_back() -> None:
    x = param(T, "x")
    graph = Graph((x,), (ops.reduce_sum(ops.exp(x), axes=(1,)), x, ops.iota.emit(shape=(B, 2), axis=0, dtype=F32)))
    assert verify(graph) is graph
    assert verify(Graph((), ())).outs == ()


def exp_of(x: Value, **changes: object) -> Value:
    fields = {"type": x.type, "op": ops.exp, "args": (x,), "loc": Loc("model.py", 7), **changes}
    return Value(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: exp_of(x, type=Type(F32, (B, 4))),
            r"exp\(f32\[B,3\]\) : f32\[B,4\].*its type rule gives f32\[B,3\]",
        ),
        (lambda x: exp_of(x, op=ops.matmul, args=(x, x)), "its type rule fails"),
        (lambda x: exp_of(x, op=ops.matmul), "its type rule fails with TypeError"),
        (lambda x: exp_of(x, op=ops.add, args=(x, param(Type(F32, (2,))))), "not a parameter"),
        (lambda x: exp_of(x, op=ops.reduce_sum, attrs=(("axes", (5,)),)), "its type rule fails: axes"),
        (lambda x: exp_of(x, op=ops.reduce_sum, attrs=(("axes", 1),)), "fails with TypeError"),
        (lambda x: exp_of(x, op=ops.reduce_sum, attrs=(("axes", [0]),)), "fails with TypeError: unhashable"),
        (lambda x: exp_of(x, id=x.id), "is defined after it"),
        (lambda x: exp_of(param(T)), "it is read by the outputs, but is not a parameter"),
        (lambda x: ops.iota.emit(shape=(N,), axis=0, dtype=F32), "the dimension N is not bound"),
        (
            lambda x: exp_of(x, op=ops.pad, attrs=(("value", 0), ("low", (0, 0)), ("high", (0, 0)))),
            "not sorted by name",
        ),
    ],
)
def test_broken_nodes(make, message: str) -> None:
    x = param(T, "x")
    with pytest.raises(VerifyError, match=message):
        verify(Graph((x,), (make(x),)))


def test_a_node_is_looked_at_once_and_a_broken_one_each_time(monkeypatch) -> None:
    looked_at: list[Value] = []
    look = verification._verify_node
    monkeypatch.setattr(verification, "_verify_node", lambda v: (looked_at.append(v), look(v)))
    x = param(T, "x")
    good = ops.exp(x)
    broken = exp_of(good, type=Type(F32, ()))
    verify(Graph((x,), (good,)))
    for _ in range(2):
        with pytest.raises(VerifyError, match="its type rule gives"):
            verify(Graph((x,), (broken,)))
    assert looked_at == [good, broken, broken]


def test_a_node_that_was_found_right_has_its_symbols_bound_in_each_graph() -> None:
    x, n = param(T, "x"), param(Type(F32, (N,)), "n")
    y = ops.add(ops.reduce_sum(x, axes=(0,)), ops.reduce_sum(ops.iota.emit(shape=(N, 3), axis=0, dtype=F32), axes=(0,)))
    verify(Graph((x, n), (y,)))
    with pytest.raises(VerifyError, match="the dimension N is not bound"):
        verify(Graph((x,), (y,)))
    with pytest.raises(VerifyError, match="not a parameter"):
        verify(Graph((n,), (y,)))


def test_the_message_has_the_line() -> None:
    x = param(T, "x")
    with pytest.raises(VerifyError, match=r"\n  at model.py:7"):
        verify(Graph((x,), (exp_of(x, type=Type(F32, ())),)))


def test_parameters() -> None:
    x = param(T, "x")
    with pytest.raises(VerifyError, match="twice"):
        verify(Graph((x, x), (x,)))
    y = ops.exp(x)
    with pytest.raises(VerifyError, match="has an op"):
        verify(Graph((y,), (y,)))
    z = param(Type(F32, (2 * N,)), "z")
    with pytest.raises(VerifyError, match=r"z : f32\[2\*N\].*the dimension N is not bound"):
        verify(Graph((z,), (z,)))


def test_foreign_ops() -> None:
    fields = {name: getattr(ops.exp, name) for name in Op.__dataclass_fields__}
    stranger = Op(**fields)
    x = param(T, "x")
    assert OPS["exp"] is not stranger
    with pytest.raises(VerifyError, match="exp is not a registered op"):
        verify(Graph((x,), (exp_of(x, op=stranger),)))
