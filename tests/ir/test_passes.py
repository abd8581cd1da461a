"""Passes on text: every file of `cases/<pass>/` is an input, how often rules fire, and the expected output.

# what the case is about
# pass: simplify
# expect: fires 2
# rules: mul_one neg_neg        (simplify and dce: which rules, `name=2` for twice)
# tolerance: 1e-6               (otherwise results agree to the bit)
# inputs: finite                (otherwise nan, infinities and -0 are among them)
fn main(...) {...}
# becomes
fn main(...) {...}
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapefuse._config import config
from tapefuse._errors import IndexOutOfRangeError, MissingGradientError, ShapeError, VerifyError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, Value, here, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import constant
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import BY_NAME, PASSES, Pass, dce, optimise, simplify, units
from tapefuse.ir.passes.adjoint import OpRecord, adjoint, gradient_graph
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.passes.forward import jvp_graph
from tapefuse.ir.print import show
from tapefuse.ir.rewrite import Rewriter
from tapefuse.ir.types import Poly, Type
from tapefuse.ir.verify import verify

CASES = sorted((Path(__file__).parent / "cases").rglob("*.ir"))
F32, F64, I64 = np.dtype("f4"), np.dtype("f8"), np.dtype("i8")
SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 1e30, -3.5, 1e-30]


@dataclass
class Case:
    headers: dict[str, list[str]]
    before: str
    after: str

    @staticmethod
    def read(path: Path) -> Case:
        source, _, after = path.read_text().partition("# becomes\n")
        headers: dict[str, list[str]] = {}
        for name, value in re.findall(r"^# (pass|expect|rules|tolerance|inputs): (.*)$", source, re.M):
            headers.setdefault(name, []).extend(value.split())
        return Case(headers, source[source.index("fn ") :].strip(), after.strip())

    @property
    def rules(self) -> dict[str, int]:
        return {w.split("=")[0]: int([*w.split("="), "1"][1]) for w in self.headers.get("rules", [])}


def draw(rng: np.random.Generator, type: Type, finite: bool) -> np.ndarray:
    shape = type.shape
    if type.dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if type.dtype.kind in "iu":
        return rng.integers(-2 if type.dtype.kind == "i" else 0, 2, shape).astype(type.dtype)
    x = rng.uniform(-2, 2, shape)
    return np.where(rng.random(shape) < (0 if finite else 0.5), rng.choice(SPECIAL, shape), x).astype(type.dtype)


def inputs(graph: Graph, seed: int, finite: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    env = {s: 3 + k for k, s in enumerate(graph.symbols)}
    return [draw(rng, p.type.substitute(env), finite) for p in graph.params]


def same(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if tolerance:
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=0)
        return
    np.testing.assert_array_equal(a, b)
    if a.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(a)[~np.isnan(a)], np.signbit(b)[~np.isnan(b)])


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_case(path: Path) -> None:
    case = Case.read(path)
    before = verify(parse(case.before))
    assert case.headers["pass"] == [path.parent.name]
    after, fired = BY_NAME[path.parent.name].run(before)
    verify(after)
    assert show(after) == show(parse(case.after)) if case.after else after is before or show(after) == show(before)
    assert case.headers["expect"] == ["fires", str(fired.total())], dict(fired)
    assert bool(fired.total()) == bool(case.after)
    if path.parent.name in ("simplify", "units", "dce"):
        assert case.rules == dict(fired)
    if path.parent.name not in ("adjoint", "forward", "batch", "half", "complex"):
        tolerance = float(case.headers.get("tolerance", ["0"])[0])
        for seed in range(5):
            xs = inputs(before, seed, "finite" in case.headers.get("inputs", []))
            for a, b in zip(evaluate(before, *xs), evaluate(after, *xs), strict=False):
                same(a, b, tolerance)


@pytest.mark.parametrize("rewriter", [simplify.RULES, units.RULES, dce.RULES])
def test_every_rule_has_a_case(rewriter: Rewriter) -> None:
    fired = {name for path in CASES for name in Case.read(path).rules}
    assert {r.name for r in rewriter.rules} <= fired


@pytest.mark.parametrize("name", BY_NAME)
def test_every_pass_has_both_kinds_of_case(name: str) -> None:
    fires = {Case.read(path).headers["expect"][1] == "0" for path in CASES if path.parent.name == name}
    assert fires == {True, False}


# -- the pipeline -----------------------------------------------------------------------------------------------------


def test_optimise_shows_each_pass_and_keeps_meaning() -> None:
    graph = parse("""
        fn main(%x: f32[B,4], %y: f32[B,4]) {
          %a = exp f32(0.0) : f32[]
          %b = mul %x, %a : f32[B,4]
          %c = concat %b, %y axis=1 : f32[B,8]
          %d = slice %c starts=(0,4) limits=(B,8) strides=(1,1) : f32[B,4]
          %e = add %d, %b : f32[B,4]
          return %e
        }""")
    seen: list[str] = []
    result = optimise(
        graph, seen=lambda p, before, after: seen.append(f"{p.name} {len(before.nodes)}->{len(after.nodes)}")
    )
    assert seen == [
        *("tiles 6->6", "complex 6->6", "loops 6->6", "fold 6->5", "simplify 5->3", "first_writes 3->3"),
        *("regions 3->3", "units 3->3", "branch_totals 3->3", "rows 3->3", "totals 3->3", "parts 3->3", "dce 3->1"),
        *("strips 1->1", "recordings 1->1"),
    ]
    assert show(result).splitlines()[1] == "  %0 = add %y, %x : f32[B,4]"
    assert [p.name for p in PASSES] == [s.split()[0] for s in seen]


EXACT = [ops.neg, ops.abs, ops.relu, ops.sign, ops.floor, ops.stop_gradient]  # rounded alike on arrays and scalars
BINARY = [ops.add, ops.sub, ops.mul, ops.div, ops.maximum, ops.minimum]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.0, 0.25, 3.0, np.nan, np.inf]


def random_value(rng: random.Random, pool: list[Value]) -> Value:
    """One more value from those in the pool, of rank 0 to 3, by an op that rules are written for."""
    x, y = rng.choice(pool), rng.choice(pool)
    axes = tuple(a for a in range(len(x.shape)) if rng.random() < 0.4)
    kept = tuple(rng.sample(range(3), len(x.shape)))
    made = [
        rng.choice(EXACT)(x),
        rng.choice(BINARY)(x, rng.choice(NUMBERS)),
        rng.choice(BINARY)(rng.choice(NUMBERS), x),
    ]
    made.append(ops.transpose(x, perm=tuple(rng.sample(range(len(x.shape)), len(x.shape)))))
    made.append(rng.choice([ops.reduce_max, ops.reduce_min])(x, axes=axes))
    made.append(ops.flip(x, axes=axes))
    made.append(ops.reshape(x, shape=(1, *x.shape) if len(x.shape) < 3 else (x.type.size,)))
    made.append(ops.cast(ops.cast(x, dtype=F64), dtype=F32))
    if x.shape:
        n = x.shape[0]
        made.append(ops.concat(x, ops.neg(x), axis=0))
        low = rng.randint(0, n - 1) if isinstance(n, int) else 0
        bounds = {"starts": (low, *[0] * (len(x.shape) - 1)), "limits": x.shape, "strides": (1,) * len(x.shape)}
        made.append(ops.slice_(x, **bounds))
        around = dict.fromkeys(("low", "high", "interior"), (0,) * len(x.shape))
        made.append(ops.pad(x, value=0.0, **{**around, "low": (rng.randint(0, 2), *[0] * (len(x.shape) - 1))}))
    if sorted(kept) == list(kept) and len(x.shape) < 3:
        shape = [2, 3, 1]
        for axis, n in zip(kept, x.shape, strict=True):
            shape[axis] = n
        made.append(ops.broadcast(x, shape=tuple(shape), axes=kept))
    try:
        made.append(rng.choice(BINARY)(x, y))
        made.append(ops.select(rng.choice([ops.lt, ops.gt, ops.eq, ops.ne])(x, y), x, rng.choice([x, y])))
    except ShapeError:
        pass
    return rng.choice(made)


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_passes_keep_the_meaning_of_random_graphs(seed: int) -> None:
    rng = random.Random(seed)
    b = Poly.symbol("B")
    params = [param(Type(F32, s)) for s in ((b, 3), (3,), (), (1, 3), (2, 1, b))]
    pool = list(params)
    for _ in range(rng.randint(1, 15)):
        pool.append(random_value(rng, pool))
    graph = Graph(tuple(params), (*rng.choices(pool, k=2), pool[-1]))
    result = optimise(graph)
    xs = inputs(graph, seed, False)
    for a, b in zip(evaluate(graph, *xs), evaluate(result, *xs), strict=True):
        same(a, b, 0)


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    broken = Pass("broken", lambda g: (Graph((), g.outs), Counter()), "lose the parameters")
    graph = parse("fn main(%x: f32[B]) { %0 = exp %x : f32[B] return %0 }")
    with config(check=True), pytest.raises(VerifyError, match="after pass broken"):
        optimise(graph, [broken])


def test_long_chains_are_rewritten_in_linear_time() -> None:
    x = y = param(Type(F32, (4,)))
    for k in range(10_000):
        y = ops.neg(ops.neg(y)) if k % 2 else ops.sin(y)
    graph = Graph((x,), (y,))
    with config(check=False):
        assert len(optimise(graph).nodes) == 5000


# -- derivatives ------------------------------------------------------------------------------------------------------

MODEL = """
fn main(%x: f64[B,3], %w: f64[3,4], %k: i64[B]) {
  %h = matmul %x, %w : f64[B,4]
  %t = tanh %h : f64[B,4]
  %e = exp %t : f64[B,4]
  %s = reduce_sum %e axes=(1) : f64[B]
  %l = log %s : f64[B]
  %i = iota shape=(B) axis=0 dtype=i64 : i64[B]
  %m = mod %k, i64(4) : i64[B]
  %p = gather %t, %i, %m : f64[B]
  %d = sub %l, %p : f64[B]
  %r = reduce_max %t axes=(1) : f64[B]
  %o = mul %d, %r : f64[B]
  return %o, %s
}"""


def test_gradients_and_tangents_are_transposes_and_agree_with_differences() -> None:
    graph = parse(MODEL)
    xs = inputs(graph, 1, True)
    rng = np.random.default_rng(2)
    tangents = [rng.standard_normal(x.shape) for x in xs[:2]]
    seeds = [rng.standard_normal(y.shape) for y in evaluate(graph, *xs)]
    outs = evaluate(verify(jvp_graph(graph)), *xs, *tangents)
    backward = verify(gradient_graph(graph))
    gradients = evaluate(backward, *xs, *seeds)[2:]
    step = 1e-6
    hi, lo = (evaluate(graph, *[x + s * step * t for x, t in zip(xs, tangents, strict=False)], xs[2]) for s in (1, -1))
    for a, b, t in zip(hi, lo, outs[2:], strict=True):
        np.testing.assert_allclose((a - b) / (2 * step), t, rtol=1e-6, atol=1e-8)
    pushed = sum(np.vdot(s, t) for s, t in zip(seeds, outs[2:], strict=True))
    pulled = sum(np.vdot(g, t) for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(pulled, pushed, rtol=1e-12)
    for a, b in zip(evaluate(optimise(backward), *xs, *seeds), evaluate(backward, *xs, *seeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_gradients_differentiate_again() -> None:
    graph = parse("fn main(%x: f64[]) { %0 = mul %x, %x : f64[] %1 = mul %0, %x : f64[] return %1 }")
    first = gradient_graph(graph)  # x, d -> x^3, 3 x^2 d
    second = gradient_graph(Graph(first.params, first.outs[1:]), wrt=[0])
    assert evaluate(second, 2.0, 1.0, 1.0)[1] == 12.0


def records(*values: Value) -> list[OpRecord]:
    return [OpRecord(v.op, v.args, v.attributes, v, v.loc) for v in values]


def value_of(graph_params: list[Value], v: Value, *xs: float) -> float:
    return evaluate(Graph(tuple(graph_params), (v,)), *map(np.float64, xs))[0].item()


def test_sources_that_repeat_or_depend_on_each_other_get_total_derivatives() -> None:
    x = param(Type(F64, ()))
    y = ops.mul(x, x)
    z = ops.mul(y, y)
    found = adjoint(records(y, z), [z], [constant(1.0)], [x, y, x, z])
    assert [value_of([x], g, 3.0) for g in found] == [108, 18, 108, 1]


def test_unconnected_sources_and_targets_give_none() -> None:
    x, w, k = param(Type(F64, ())), param(Type(F64, ())), param(Type(I64, ()))
    y = ops.exp(x)
    seed = param(Type(F64, ()))
    assert adjoint(records(y), [y], [seed], [w, k]) == [None, None]
    assert adjoint(records(y), [w], [seed], [x]) == [None]
    assert adjoint(records(y), [x], [seed], [x]) == [seed]
    assert adjoint([], [], [], []) == []


def test_rules_run_only_on_paths() -> None:
    ran = []

    class Spy:
        loc = None

        def __init__(self, name: str, xs: tuple, ys: tuple):
            self.name, self.xs, self.ys = name, xs, ys

        def pullback(self, gs: list) -> list:
            ran.append((self.name, [g is not None for g in gs]))
            return [gs[0]] * len(self.xs)

    a, b, c, d, e, f = (param(Type(F64, ())) for _ in range(6))
    tape = [Spy("dead start", (b,), (c,)), Spy("path", (a, c), (d, e)), Spy("dead end", (d,), (f,))]
    assert adjoint(tape, [d], [d], [a]) == [d]
    assert ran == [("path", [True, False])]


def test_a_missing_rule_matters_on_a_path_only() -> None:
    here.loc = Loc("model.py", 7)
    x = param(Type(F32, (3,)))
    y = ops.missing_gradient(x, name="adjust_contrast")
    here.loc = None
    graph = Graph((x,), (ops.exp(y),))
    with pytest.raises(MissingGradientError, match=r"adjust_contrast\(f32\[3\]\)(?s:.*)stop_gradient(?s:.*)model.py:7"):
        gradient_graph(graph)
    with pytest.raises(LookupError, match="adjust_contrast"):
        jvp_graph(graph)
    assert here.loc is None
    assert show(gradient_graph(Graph((x,), (ops.stop_gradient(y), ops.exp(x))))).count("exp") == 1
    assert len(gradient_graph(Graph((x,), (ops.missing_gradient(ops.stop_gradient(x), name="f"),))).outs) == 2


def test_backward_values_belong_to_the_forward_line() -> None:
    graph = gradient_graph(parse("fn f(%x: f32[3]) { %0 = sin %x : f32[3]  # model.py:3\n return %0 }"))
    assert {str(v.loc) for v in graph.nodes} == {"model.py:3"}


def test_a_wrong_cotangent_is_reported() -> None:
    x = param(Type(F32, (3,)))
    bad = Type(F32, (2,))

    class Call:
        xs, ys, loc = (x,), (ops.exp(x),), None

        def pullback(self, gs: list) -> list:
            return [param(bad)]

    with config(check=True), pytest.raises(VerifyError, match=r"f32\[2\] for an operand f32\[3\]"):
        adjoint([Call()], Call.ys, [x], [x])


def test_chains_of_10_000_ops_differentiate() -> None:
    x = y = param(Type(F32, ()))
    for _ in range(10_000):
        y = ops.sin(y)
    graph = gradient_graph(Graph((x,), (y,)))
    assert len(graph.nodes) == 30_000
    assert len(jvp_graph(Graph((x,), (y,))).nodes) == 30_000
    assert np.isfinite(evaluate(graph, np.float32(1), np.float32(1))[1])


# -- checks -----------------------------------------------------------------------------------------------------------


def test_checks_are_true_where_the_interpreter_raises() -> None:
    graph = parse("""
        fn main(%x: f32[4,B], %k: i32[3], %v: f32[3]) {
          %0 = gather %x, %k : f32[3,B]  # model.py:3
          %1 = cast %k dtype=u8 : u8[3]
          %2 = scatter_add %v, %1 shape=(B) : f32[B]
          return %0, %2
        }""")
    checked, checks = with_checks(graph)
    assert [c.message for c in checks] == [
        "gather: an index lies outside axis 0 of f32[4,B]; valid ones are at least -4 and below 4",
        "scatter_add: an index lies outside axis 0 of f32[B]; valid ones are at least -B and below B",
    ]
    assert checks[0].loc == Loc("model.py", 3)
    flags = Graph(checked.params, checked.outs[2:])
    x, v = np.zeros((4, 4), "f4"), np.zeros(3, "f4")
    for k, bad in (
        ([0, 3, 1], [False, False]),
        ([-4, 0, 0], [False, True]),
        ([4, 0, 0], [True, True]),
        ([-5, 0, 0], [True, True]),
    ):
        index = np.array(k, "i4")
        assert [b.item() for b in evaluate(flags, x, index, v)] == bad
        if any(bad):
            with pytest.raises(IndexOutOfRangeError):
                evaluate(graph, x, index, v)


def test_unsigned_indices_are_not_tested_for_being_negative() -> None:
    """The least valid index, -(3 B - 2), is a large number if it is taken for an unsigned one."""
    graph = parse("""
        fn main(%x: f32[B], %k: u8[2]) {
          %0 = pad %x high=(0) interior=(2) low=(0) value=0 : f32[3*B-2]
          %1 = gather %0, %k : f32[2]
          return %1
        }""")
    checked, _ = with_checks(graph)
    for k, bad in (([0, 3], False), ([3, 4], True)):
        found = evaluate(Graph(checked.params, checked.outs[1:]), np.zeros(2, "f4"), np.array(k, "u1"))
        assert any(b.item() for b in found) == bad


def test_the_largest_of_no_elements_is_checked_for() -> None:
    graph = parse("""
        fn main(%x: f32[B,3]) {
          %0 = reduce_max %x axes=(0) : f32[3]
          %1 = argmin %x axis=0 : i64[3]
          %2 = reduce_max %x axes=(1) : f32[B]
          %3 = reduce_sum %x axes=(0) : f32[3]
          return %0, %1, %2, %3
        }""")
    checked, checks = with_checks(graph)
    assert [(c.message[:19], c.error) for c in checks] == [("reduce_max: axis 0 ", ShapeError)]  # one test is for both
    for n in (0, 1):
        assert evaluate(Graph(checked.params, checked.outs[4:]), np.zeros((n, 3), "f4"))[0] == (n == 0)


def test_checks_survive_the_one_hot_form() -> None:
    graph = parse("""
        fn main(%v: f32[B], %k: i64[B]) {
          %0 = iota axis=0 dtype=i64 shape=(B) : i64[B]
          %1 = scatter_add %v, %0, %k shape=(B,5) : f32[B,5]
          return %1
        }""")
    checked, checks = with_checks(graph)
    result = optimise(checked)
    assert len(checks) == 1 and "scatter_add" not in show(result)
    assert evaluate(result, np.ones(2, "f4"), np.array([0, 5]))[1]
    assert not evaluate(result, np.ones(2, "f4"), np.array([-5, 4]))[1]


def test_wrapped_indices_are_not_taken_for_small_ones() -> None:
    """An 8-bit sum may wrap around: its bounds are those of its dtype."""
    graph = parse("""
        fn main(%x: f32[300], %k: u8[2]) {
          %0 = add %k, u8(200) : u8[2]
          %1 = gather %x, %0 : f32[2]
          %2 = cast %0 dtype=i8 : i8[2]
          %3 = gather %x, %2 : f32[2]
          %4 = add %2, i8(-128) : i8[2]
          %5 = cast %4 dtype=i64 : i64[2]
          %6 = gather %x, %5 : f32[2]
          return %1, %3, %6
        }""")
    assert with_checks(graph)[1] == ()  # 255 < 300, and -128 >= -300
    small = parse(show(graph).replace("f32[300]", "f32[250]"))
    assert len(with_checks(small)[1]) == 1
