"""`evaluate` runs graphs with NumPy, `replay` applies them to operands of any kind."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tapefuse._config import config
from tapefuse._errors import DTypeError, IndexOutOfRangeError, ShapeError, VerifyError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, Value, here, param
from tapefuse.ir.interp import evaluate, replay
from tapefuse.ir.op import OPS, Op
from tapefuse.ir.parse import parse
from tapefuse.ir.print import show
from tapefuse.ir.types import Poly, Type

F32 = np.dtype("f4")
LAYER = parse("""
    fn layer(%x: f32[B,3], %w: f32[3,N], %n: f32[2*B]) {
      %h = matmul %x, %w : f32[B,N]  # model.py:3
      %r = iota shape=(B,N) axis=1 dtype=f32 : f32[B,N]
      %s = add %h, %r : f32[B,N]  # model.py:4
      %f = reshape %s shape=(B*N) : f32[B*N]
      return %f, %x, f32(2.0)
    }""")
X, W, N = np.ones((4, 3), "f4"), np.ones((3, 2), "f4"), np.zeros(8, "f4")


def test_results_for_several_sizes() -> None:
    for b in (0, 1, 4):
        flat, x, two = evaluate(LAYER, X[:b], W, np.zeros(2 * b, "f4"))
        np.testing.assert_array_equal(flat, np.tile(np.array([3, 4], "f4"), b))
        assert x.shape == (b, 3) and two.dtype == F32 and two[()] == 2


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ((X, W), TypeError, "layer takes 3 arrays, got 2"),
        ((X.astype("f8"), W, N), DTypeError, r"parameter 'x' wants f32\[B,3\], got an array of float64"),
        ((X[0], W, N), ShapeError, r"parameter 'x' wants f32\[B,3\] of rank 2, got shape \[3\]"),
        ((X[:, :2], W, N), ShapeError, r"parameter 'x' wants f32\[4,3\], got shape \[4,2\]"),
        ((X, W, N[:7]), ShapeError, r"parameter 'n' wants f32\[8\], got shape \[7\]"),
    ],
)
def test_arguments_that_do_not_fit(arrays: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(LAYER, *arrays)


def test_one_symbol_has_one_size() -> None:
    graph = parse("fn f(%x: f32[B], %0: f32[B]) { return %x }")
    with pytest.raises(ShapeError, match=r"number 1 wants f32\[B\], got shape \[2\], but B=3 in parameter 'x'"):
        evaluate(graph, np.zeros(3, "f4"), np.zeros(2, "f4"))
    with pytest.raises(ShapeError, match="has N as a dimension of its own"):
        evaluate(parse("fn f(%x: f32[N*2]) { return %x }"), np.zeros(4, "f4"))


def test_errors_at_run_time_have_the_line() -> None:
    graph = parse("fn f(%x: f32[3], %k: i64[1]) { %0 = gather %x, %k : f32[1]  # model.py:9\n return %0 }")
    with pytest.raises(IndexOutOfRangeError, match=r"(?s)index 3 is out of bounds.*\n  at model.py:9"):
        evaluate(graph, np.zeros(3, "f4"), np.array([3]))


def test_a_ref_that_breaks_its_type_rule_is_reported() -> None:
    fields = {name: getattr(ops.exp, name) for name in Op.__dataclass_fields__}
    liar = Op(**{**fields, "ref": lambda x: np.exp(x).astype("f8")})
    x = param(Type(F32, (2,)))
    graph = Graph((x,), (liar.emit(x),))
    with config(check=True), pytest.raises(VerifyError, match=r"exp gives f64\[2\], its type rule says f32\[2\]"):
        evaluate(graph, np.zeros(2, "f4"))


class Watched(np.ndarray):
    """An array that takes weak references."""


def test_values_are_freed_after_their_last_use() -> None:
    """A chain of 100 values keeps a few arrays alive, not 100."""
    alive: list[weakref.ref] = []
    most = 0

    def ref(x: np.ndarray) -> np.ndarray:
        nonlocal most
        y = (np.asarray(x) + 1).view(Watched)
        alive.append(weakref.ref(y))
        most = max(most, sum(r() is not None for r in alive))
        return y

    fields = {name: getattr(ops.exp, name) for name in Op.__dataclass_fields__}
    count = Op(**{**fields, "ref": ref})
    x = y = param(Type(F32, (2,)))
    for _ in range(100):
        y = count.emit(y)
    gc.collect()
    assert evaluate(Graph((x,), (y,)), np.zeros(2, "f4"))[0][0] == 100
    assert most <= 3


def test_long_chains() -> None:
    x = y = param(Type(F32, ()))
    for _ in range(10_000):
        y = ops.neg(y)
    assert evaluate(Graph((x,), (y,)), np.float32(1))[0] == 1


# -- replay -----------------------------------------------------------------------------------------------------------


def test_replay_inlines_a_graph_into_another_with_other_sizes() -> None:
    m = Poly.symbol("M")
    x, w, n = param(Type(F32, (m + 1, 3)), "x"), param(Type(F32, (3, 5)), "w"), param(Type(F32, (2 * m + 2,)), "n")
    outs = replay(LAYER, [x, w, n])
    assert [v.type for v in outs] == [Type(F32, (5 * m + 5,)), x.type, Type(F32, ())]
    assert "iota axis=1 dtype=f32 shape=(M+1,5)" in show(Graph((x, w, n), outs))
    assert outs[1] is x and isinstance(outs[2], Value)
    assert str(outs[0].args[0].loc) == "model.py:4"
    with pytest.raises(ShapeError, match="parameter 'n' wants"):
        replay(LAYER, [x, w, param(Type(F32, (8,)))])


def test_replay_onto_the_own_parameters_is_the_same_graph() -> None:
    assert replay(LAYER, LAYER.params) == LAYER.outs


def test_replay_on_arrays_runs_the_ops() -> None:
    for a, b in zip(replay(LAYER, [X, W, N]), evaluate(LAYER, X, W, N), strict=True):
        np.testing.assert_array_equal(a, b)


def test_replay_on_other_operands_asks_them() -> None:
    class Tensor:
        def __init__(self, array: np.ndarray):
            self.array, self.type = array, Type(array.dtype, array.shape)

        def __tapefuse_apply__(self, op: Op, args: tuple, attrs: dict) -> Tensor:
            asked.append((op.name, here.loc))
            return Tensor(op.ref(*(a.array for a in args), **attrs))

    asked: list[tuple[str, Loc | None]] = []
    outs = replay(LAYER, [Tensor(X), Tensor(W), Tensor(N)])
    assert all(type(y) is Tensor for y in outs)
    assert sorted(name for name, _ in asked) == ["add", "const", "iota", "matmul", "reshape"]
    assert ("matmul", Loc("model.py", 3)) in asked and here.loc is None
    assert OPS["matmul"] is ops.matmul
