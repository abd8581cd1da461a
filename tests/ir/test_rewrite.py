"""The rewrite engine: what patterns match, how far rules are applied, and what is checked."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tapefuse._errors import VerifyError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, Value, here, param
from tapefuse.ir.op import constant
from tapefuse.ir.parse import parse
from tapefuse.ir.print import show
from tapefuse.ir.rewrite import Pattern, Rewriter, is_scalar, match, p, rule, variables
from tapefuse.ir.types import Type

F32 = np.dtype("f4")
x, y, z, a, b = variables("x y z a b")
(c,) = variables("c", is_scalar)
X, Y = param(Type(F32, (2, 3)), "x"), param(Type(F32, (2, 3)), "y")


def sin(x: Value) -> Value:
    return ops.sin(x)


def cos(x: Value) -> Value:
    return ops.cos(x)


def f32(value: float) -> Value:
    return constant(np.float32(value))


def matches(pattern: Pattern, v: Value) -> list[dict]:
    return list(match(pattern, v, {}))


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_variables_bind_operands_and_attributes() -> None:
    v = ops.reduce_sum(ops.transpose(X, perm=(1, 0)), axes=(0,))
    assert matches(p.reduce_sum(p.transpose(x, perm=a), axes=b), v) == [{"x": X, "a": (1, 0), "b": (0,)}]
    assert matches(p.reduce_sum(x, axes=(0,)), v) and not matches(p.reduce_sum(x, axes=(1,)), v)
    assert not matches(p.reduce_sum(x, nothing=a), v)
    assert not matches(p.reduce_max(x), v) and not matches(p.reduce_sum(x, y), v)


def test_a_variable_used_twice_asks_for_one_value() -> None:
    assert matches(p.maximum(x, x), ops.maximum(X, X)) and not matches(p.maximum(x, x), ops.maximum(X, Y))
    flipped = ops.flip(ops.flip(X, axes=(0,)), axes=(1,))
    assert not matches(p.flip(p.flip(x, axes=a), axes=a), flipped)


def test_commutative_operands_match_in_either_order() -> None:
    assert matches(p.mul(p.neg(x), y), ops.mul(Y, ops.neg(X))) == [{"x": X, "y": Y}]
    assert matches(p.sub(p.neg(x), y), ops.sub(Y, ops.neg(X))) == []
    both = matches(p.add(p.neg(x), y), ops.add(ops.neg(X), ops.neg(Y)))
    assert [found["x"] for found in both] == [X, Y]


@pytest.mark.parametrize(
    ("number", "value", "is_matched"),
    [
        (1, np.float32(1), True), (1, np.float64(1), True), (1, np.int8(1), True), (1, np.bool_(True), False),
        (True, np.bool_(True), True), (True, np.float32(1), False), (0, np.float32(0), True),
        (0, np.float32(-0.0), False), (-0.0, np.float32(-0.0), True), (-0.0, np.float32(0), False),
        (0, np.int64(0), True), (-1, np.uint8(255), False), (0.1, np.float32(0.1), True),
        (1, np.float32(np.nan), False),
    ],
)  # fmt: skip
def test_numbers_match_constants(number: float, value: np.generic, is_matched: bool) -> None:
    v = ops.stop_gradient.emit(constant(value))
    assert bool(matches(p.stop_gradient(number), v)) == is_matched
    assert not matches(p.stop_gradient(number), ops.stop_gradient(X))


def test_tests_of_variables_and_ops() -> None:
    assert matches(p.mul(x, c), ops.mul(f32(2), X)) == [{"x": X, "c": f32(2)}]
    assert not matches(p.mul(x, c), ops.mul(Y, X))
    anything = Pattern(lambda op: op.elementwise)
    assert matches(anything, ops.mul(X, Y)) == [{}] and not matches(anything, ops.transpose(X, perm=(1, 0)))


# -- rules ------------------------------------------------------------------------------------------------------------

NEG_NEG = rule("neg_neg", p.neg(p.neg(x)), lambda x: x)
ADD_NEG = rule("add_neg", p.add(x, p.neg(y)), lambda root, x, y: ops.sub(x, y))


def run(v: Value, *rules) -> tuple[Value, dict[str, int]]:
    graph, fired = Rewriter(rules).run(Graph((X, Y), (v,)))
    return graph.outs[0], dict(fired)


def test_rules_apply_bottom_up_until_none_does() -> None:
    v = ops.add(X, ops.neg(ops.neg(ops.neg(Y))))
    assert run(v, NEG_NEG, ADD_NEG) == (ops.sub(X, Y), {"neg_neg": 1, "add_neg": 1})


def test_what_a_right_side_builds_is_rewritten_too() -> None:
    unfold = rule("unfold", p.abs(x), lambda x: ops.neg(ops.neg(ops.exp(x))))
    assert run(ops.abs(ops.abs(X)), unfold, NEG_NEG) == (ops.exp(ops.exp(X)), {"unfold": 2, "neg_neg": 2})


def test_the_first_rule_wins_and_none_means_that_it_does_not_apply() -> None:
    never = rule("never", p.exp(x), lambda x: None)
    first, second = rule("first", p.exp(x), sin), rule("second", p.exp(x), cos)
    assert run(ops.exp(X), never, first, second) == (ops.sin(X), {"first": 1})
    graph = Graph((X, Y), (ops.exp(X),))
    assert Rewriter([never]).run(graph)[0] is graph


def test_parameters_signature_name_and_order_of_lines_stay() -> None:
    graph = parse("""
        fn f(%x: f32[3], %y: f32[3]) {
          %0 = exp %y : f32[3]  # m.py:1
          %1 = neg %x : f32[3]  # m.py:2
          %2 = add %0, %1 : f32[3]  # m.py:3
          return %2, %x
        }""")
    result, _ = Rewriter([ADD_NEG]).run(graph)
    assert show(result) == (
        "fn f(%x: f32[3], %y: f32[3]) {\n  %0 = exp %y : f32[3]  # m.py:1\n"
        "  %1 = sub %0, %x : f32[3]  # m.py:3\n  return %1, %x\n}"
    )
    assert result.params == graph.params and here.loc is None


def test_new_values_get_the_line_of_the_value_they_replace() -> None:
    here.loc = Loc("model.py", 5)
    v = ops.abs(ops.tan(X))
    here.loc = None
    unfold = rule("unfold", p.abs(x), lambda x: ops.sqrt(ops.mul(x, x)))
    result, _ = run(v, unfold)
    assert {str(result.loc), str(result.args[0].loc)} == {"model.py:5"}


@pytest.mark.parametrize("length", [10_000])
def test_long_chains_and_wide_sharing(length: int) -> None:
    chain = X
    for _ in range(length):
        chain = ops.neg(ops.neg(ops.sin(chain)))
    start = time.perf_counter()
    _, fired = run(chain, NEG_NEG)
    assert fired == {"neg_neg": length} and time.perf_counter() - start < 3
    ladder = X
    for _ in range(100):  # 2^100 paths
        ladder = ops.add(ladder, ops.neg(ladder))
    assert run(ladder, NEG_NEG, ADD_NEG)[1] == {"add_neg": 100}


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_change_of_type_is_refused() -> None:
    bad = rule("bad", p.transpose(x), lambda x: x)
    with pytest.raises(VerifyError, match=r"rule bad turns .*f32\[3,2\].* into .*f32\[2,3\]"):
        run(ops.transpose(X, perm=(1, 0)), bad)


def test_rules_that_undo_each_other_are_reported() -> None:
    there, again = rule("there", p.sin(x), cos), rule("again", p.cos(x), sin)
    with pytest.raises(VerifyError, match="rewriting does not end"):
        run(ops.sin(X), there, again)
    grow = rule("grow", p.sin(x), lambda x: ops.sin(ops.neg(x)))
    with pytest.raises(VerifyError, match=r"rewriting does not end.*grow"):
        run(ops.sin(X), grow)
    inside = rule("inside", p.sin(x), lambda root: ops.neg(ops.neg(root)))
    with pytest.raises(VerifyError, match="rewriting does not end"):
        run(ops.sin(X), inside)
    assert here.loc is None


def test_mistakes_in_rules_are_found_when_they_are_made() -> None:
    with pytest.raises(TypeError, match="does not bind w"):
        rule("bad", p.exp(x), lambda w: w)
    with pytest.raises(TypeError, match="no op 'expo'"):
        Rewriter([rule("bad", p.expo(x), lambda x: x)])
    with pytest.raises(TypeError, match="two rules are called neg_neg"):
        Rewriter([NEG_NEG, NEG_NEG])
