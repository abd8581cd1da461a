"""Loops and branches: their rules against differences, in every combination, and the passes on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tapefuse._config import config
from tapefuse._errors import MissingGradientError, VerifyError
from tapefuse.ir import ops
from tapefuse.ir.digest import digest
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate, replay
from tapefuse.ir.op import constant
from tapefuse.ir.ops import region
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import BY_NAME, budget, optimise
from tapefuse.ir.passes.adjoint import gradient_graph, records_of
from tapefuse.ir.passes.batching import batched_graph
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.passes.forward import jvp_graph
from tapefuse.ir.passes.loop_chunks import chunk_sizes, kept_bytes
from tapefuse.ir.print import show
from tapefuse.ir.types import Dim, Poly, Type
from tapefuse.ir.verify import verify
from tests.ir import region_programs as p
from tests.ir.region_programs import (
    I64,
    INT,
    PROGRAMS,
    N,
    at,
    f64,
    graph,
    inputs,
    loop,
    number,
    program,
    put,
    sized,
    spread,
    total,
)

ALL = pytest.mark.parametrize("name", PROGRAMS)


@pytest.fixture(autouse=True)
def checked():
    with config(check=True):
        yield


def same(a, b, rtol=1e-9, atol=1e-11):
    for x, y in zip(a, b, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def floats(values) -> list[int]:
    return [k for k, v in enumerate(values) if v.dtype.kind == "f"]


def slope(g: Graph, xs: list, ts: list, step: float = 1e-6) -> list[np.ndarray]:
    """Differences of the floating-point outputs along tangents of the floating-point inputs."""
    places = dict(zip(floats(g.params), ts, strict=True))
    ends = [evaluate(g, *[x + s * step * places[k] if k in places else x for k, x in enumerate(xs)]) for s in (1, -1)]
    return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True) if a.dtype.kind == "f"]


def tangents_for(xs: list, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(x.shape) for x in xs if x.dtype.kind == "f"]


def check_gradient(g: Graph, xs: list, rtol: float = 1e-5) -> tuple[Graph, list]:
    """The gradient graph and its inputs, after a comparison with differences."""
    backward = verify(gradient_graph(g))
    seeds = [np.random.default_rng(3).standard_normal(y.shape) for y in evaluate(g, *xs) if y.dtype.kind == "f"]
    gradients = evaluate(backward, *xs, *seeds)[len(g.outs) :]
    ts = tangents_for(xs)
    moved = sum(np.vdot(s, d) for s, d in zip(seeds, slope(g, xs, ts), strict=True))
    pulled = sum(np.vdot(a, t) for a, t in zip(gradients, ts, strict=True))
    assert np.isfinite(pulled)
    np.testing.assert_allclose(pulled, moved, rtol=rtol, atol=1e-7)
    return backward, [*xs, *seeds]


# -- text, digest, rules of the IR ------------------------------------------------------------------------------------


@ALL
def test_text_reads_back(name: str) -> None:
    for g in (program(name), gradient_graph(program(name))):
        again = verify(parse(show(verify(g))))
        assert show(again) == show(g)
        assert digest(again) == digest(g)


def test_digests_do_not_depend_on_names_of_symbols() -> None:
    assert digest(program("nested")) == digest(program("nested"))
    assert len({digest(program(name)) for name in PROGRAMS}) == len(PROGRAMS)
    first = graph(lambda x: loop(lambda k, c: ops.mul(c, ops.cast(number(k), dtype=p.F64)), 3, x), f64())
    second = graph(lambda x: loop(lambda k, c: ops.mul(c, ops.cast(number(2 - k), dtype=p.F64)), 3, x), f64())
    assert digest(first) != digest(second)


def test_rules_that_verify_holds() -> None:
    x = param(f64(), "x")
    (y,) = loop(lambda k, c: ops.mul(c, c), 3, x)
    (token,) = y.args
    with pytest.raises(VerifyError, match="only its results have values"):
        verify(Graph((x,), (token,)))
    with pytest.raises(VerifyError, match="which only `result` may"):
        verify(Graph((x,), (ops.add(token, token),)))
    with pytest.raises(VerifyError, match=r"the results of for are \(f64\[\]\)"):
        verify(Graph((x,), (ops.result.emit(token, index=1, dtype=p.F64, shape=()),)))
    outer = param(f64(), "outer")
    c = param(f64(), "c")
    body = Graph((c,), (ops.mul(c, outer),))
    (z,) = ops.for_.emit_results(x, body=body, trips=2, index="k_a", carried=1)
    with pytest.raises(VerifyError, match="not a parameter"):
        verify(Graph((x,), (z,)))
    (w,) = ops.for_.emit_results(x, body=Graph((c,), (ops.cast(number(Poly.symbol("j")), dtype=p.F64),)), trips=2,
                                 index="k_a", carried=1)  # fmt: skip
    with pytest.raises(VerifyError, match="dimension j is not bound"):
        verify(Graph((x,), (w,)))


# -- derivatives ------------------------------------------------------------------------------------------------------


@ALL
def test_gradients_and_second_gradients(name: str) -> None:
    g = program(name)
    xs = inputs(g)
    backward, ys = check_gradient(g, xs)
    check_gradient(backward, ys, rtol=1e-4)


@ALL
def test_tangents(name: str) -> None:
    g = program(name)
    xs = inputs(g)
    forward = verify(jvp_graph(g))
    ts = tangents_for(xs)
    same(evaluate(forward, *xs, *ts)[len(g.outs) :], slope(g, xs, ts), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["recurrent", "nested", "squared_until", "by_counter", "histogram", "counted"])
def test_tangents_of_gradients(name: str) -> None:
    backward = gradient_graph(program(name))
    xs = inputs(backward)
    forward = verify(jvp_graph(backward))
    ts = tangents_for(xs)
    same(evaluate(forward, *xs, *ts)[len(backward.outs) :], slope(backward, xs, ts), rtol=1e-5, atol=1e-7)


@ALL
def test_the_optimised_graph_means_the_same(name: str) -> None:
    for g in (program(name), gradient_graph(program(name)), jvp_graph(program(name))):
        xs = inputs(g)
        same(evaluate(optimise(g), *xs), evaluate(g, *xs))


def test_derivatives_of_a_while_to_the_third_order() -> None:
    g = graph(lambda x: p.squared_until(x)[0], f64())
    orders = [g]
    for _ in range(3):
        g = gradient_graph(g, wrt=[0])
        g = Graph(g.params, (g.outs[-1],))
        orders.append(g)
    values = [evaluate(g, 1.5, *[1.0] * k)[0].item() for k, g in enumerate(orders)]
    assert values == [25.62890625, 136.6875, 637.875, 2551.5]  # x^8 at 1.5


@pytest.mark.parametrize("n", [-1, 0, 1, 5])
def test_numbers_of_iterations_known_at_run_time(n: int) -> None:
    g = program("counted")
    value, gradient = evaluate(gradient_graph(g), 0.5, n, 1.0)
    y, dy = 0.5, 1.0
    for _ in range(max(n, 0)):
        y, dy = np.sin(y) + 0.5, np.cos(y) * dy + 1
    np.testing.assert_allclose([value, gradient], [y, dy])


def test_a_while_that_does_not_begin() -> None:
    assert [v.item() for v in evaluate(gradient_graph(program("squared_until")), 11.0, 1.0)] == [11, 0, 1]


def test_what_is_not_connected_has_no_cotangent() -> None:
    g = program("unconnected")
    (record,) = [r for r in records_of(g) if r.op is ops.for_]
    d = constant(1.0)
    assert [c is None for c in record.pullback([d, None])] == [False, True, True]
    assert [c is None for c in record.pullback([None, d])] == [True, False, False]
    assert record.pullback([None, None]) == [None] * 3
    assert [c is None for c in record.pullback([None, d], [True, False, False])] == [True, True, True]


def test_rules_inside_run_only_on_paths() -> None:
    """A constant of the loop goes through an operation without a rule, but nobody asks for its gradient."""

    def f(x: Value, w: Value) -> Value:
        return loop(lambda k, c, w: ops.mul(c, ops.missing_gradient(w, name="adjust")), 3, x, w)[0]

    g = graph(f, f64(), f64())
    assert len(gradient_graph(g, wrt=[0]).outs) == 2
    with pytest.raises(MissingGradientError, match="adjust"):
        gradient_graph(g)


def test_stop_gradient_inside() -> None:
    g = graph(lambda x: loop(lambda k, c: ops.mul(c, ops.stop_gradient(c)), 2, x)[0], f64())
    assert evaluate(gradient_graph(g), 3.0, 1.0)[1] == 27  # 3 * 9: each factor is taken for a constant
    twice = gradient_graph(gradient_graph(g), wrt=[0])
    assert np.isfinite(evaluate(twice, 3.0, 1.0, 1.0, 1.0)[-1])


# -- what is kept -----------------------------------------------------------------------------------------------------


def stacks(g: Graph) -> list[Type]:
    """Types of what loops inside of a graph carry beyond numbers: all arrays written row by row."""
    found = []
    for v in g.nodes:
        for inner in region.graphs(v):
            found += stacks(inner)
            found += [u.type for u in inner.outs if u.op is ops.put]
    return found


def test_linear_loops_keep_nothing() -> None:
    assert stacks(gradient_graph(program("decay"))) == []
    assert stacks(gradient_graph(program("by_index"))) == []


def test_a_recurrent_layer_keeps_its_states_alone() -> None:
    """The states in one stack: the old one and the new one are rows of it, and the product is not done again.

    The loop back writes the cotangents of what goes into tanh, and the gradient of the inputs, where -0 is 0.
    """
    g = graph(lambda *xs: p.recurrent(*xs)[0], f64(1, 3), f64(3, 3), f64(4, 1, 3))
    backward = optimise(gradient_graph(g))
    assert stacks(backward) == [f64(5, 1, 3), f64(4, 1, 3), f64(4, 1, 3)]
    assert [v.attributes["carried"] for v in backward.nodes if v.op is ops.for_] == [2, 3]


def test_gradients_of_weights_are_one_product_after_the_loop() -> None:
    g = graph(lambda *xs: p.recurrent(*xs)[0], f64(2, 3), f64(3, 3), f64(N, 2, 3))
    backward, _ = check_gradient(g, inputs(g))
    products = [v.shape for v in backward.nodes if v.op is ops.matmul]
    assert products == [(3, 3)]
    with budget.limited(1 << 30):
        assert not any(v.op is ops.matmul for v in gradient_graph(g).nodes)


def test_sums_that_are_small_stay_in_the_loop() -> None:
    """Keeping [8, 2] and [8, 2] takes more than adding to [2, 2]."""

    def f(h: Value, w: Value) -> Value:
        return total(loop(lambda k, h, w: ops.sin(ops.matmul(h, w)), 3, h, w)[0])

    g = graph(f, f64(8, 2), f64(2, 2))
    backward, _ = check_gradient(g, inputs(g))
    assert not any(v.op is ops.matmul for v in backward.nodes)


@pytest.mark.parametrize("terms, is_kept", [(4, False), (5, True)])
def test_sums_of_a_few_are_computed_again(terms: int, is_kept: bool) -> None:
    """Of squares of coordinates, for one: as cheap as the squares."""

    def step(k: Dim, x: Value) -> Value:
        return ops.mul(x, ops.sin(ops.reduce_sum(ops.mul(x, x), axes=(0,))))

    g = graph(lambda x: total(loop(step, 3, x)[0]), f64(terms, 7))
    backward, _ = check_gradient(g, inputs(g))
    assert (f64(3, 7) in stacks(backward)) == is_kept


def test_updates_in_place_keep_what_is_read_and_no_arrays() -> None:
    assert [t for t in stacks(gradient_graph(program("prefix_sums"))) if t != f64(5)] == []
    kept = stacks(gradient_graph(program("histogram")))
    assert all(len(t.shape) == 1 for t in kept)


def test_gradients_of_rows_are_written_in_place() -> None:
    """Each row is read once, so nothing has to be added up; rows that are read twice are added to."""
    once = show(optimise(gradient_graph(program("recurrent"))))
    assert "put_add" not in once and "= pad" not in once


def test_gradients_of_rows_that_are_read_twice_are_added_in_place() -> None:
    def step(k: Poly, total: Value, x: Value) -> Value:
        return ops.add(ops.mul(total, p.at(x, k)), ops.sin(p.at(x, k + 1)))

    g = graph(lambda x: p.loop(step, 4, constant(0.5, np.dtype(np.float64)), x)[0], f64(5))
    text = show(optimise(gradient_graph(g)))
    assert "put_add" in text and "= pad" not in text
    check_gradient(g, inputs(g))


def test_nested_loops_keep_numbers() -> None:
    assert {t.shape for t in stacks(gradient_graph(program("nested")))} <= {(3,), (4,), (5,), (4, 3), (4, 4)}


@pytest.mark.parametrize("name", ["lu_by_elements", "lu_by_elements_n", "substitution", "substitution_n"])
def test_factors_that_stay_are_read_from_the_result(name: str) -> None:
    """What the reverse pass reads is not overwritten any more: nothing is kept, in loops inside neither."""
    arrays = {q.type for q in program(name).params} | {y.type for y in program(name).outs}
    backward = gradient_graph(program(name))
    assert set(stacks(backward)) <= arrays and with_checks(backward)[1] == ()


def test_columns_are_kept_as_rows() -> None:
    """Columns of a matrix do not lie together; rows of a stack do, whose beginnings hold what gets shorter.

    There are N of them for N - 1 iterations, since those are none for N = 0 as well.
    """
    kept = {t for t in stacks(gradient_graph(program("lu"))) if t != f64(4, 4)}
    assert kept == {f64(3, 3)}
    assert f64(N, N - 1) in stacks(gradient_graph(program("lu_n")))


def test_numbers_that_are_overwritten_are_kept() -> None:
    """Of the loops inside no arrays: their diagonal elements, one row for each iteration of the outermost loop."""
    kept = stacks(gradient_graph(program("cholesky_by_elements_n")))
    assert [t.shape for t in kept if len(t.shape) != 2] == [next(t.shape for t in kept if len(t.shape) == 1)]
    assert {t.shape for t in kept if len(t.shape) == 2} == {(N, N)}


def test_what_is_overwritten_later_is_kept() -> None:
    assert {t for t in stacks(gradient_graph(program("sweeps"))) if t != f64(5)} >= {f64(3, 3)}
    assert f64(4, 4) in stacks(gradient_graph(program("shrinking")))
    assert f64(4, 3) in stacks(gradient_graph(program("triangle")))


def test_replaced_parts_of_cotangents_are_no_sums() -> None:
    """put(g, 0) + ... + pad(w) at one place: g is updated in place, its old elements need no copy."""
    text = show(optimise(gradient_graph(program("lu_by_elements")))).split("%d0, ", 1)[1]
    innermost = text.split("= for ")[-1].split("return")[0]
    assert innermost.count("= put_add ") == 2 and innermost.count("= put ") == 0


@pytest.mark.parametrize("name", ["lu_n", "lu_by_elements_n", "cholesky_by_elements_n", "substitution_n", "triangle_n"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_sizes(name: str, n: int) -> None:
    """Loops without iterations, and parts without elements."""
    g = program(name)
    rng = np.random.default_rng(0)
    xs = [rng.uniform(1.1, 1.5, q.type.substitute({"N": n}).shape) for q in g.params]
    backward, ys = check_gradient(g, xs)
    same(evaluate(optimise(backward), *ys), evaluate(backward, *ys))


def test_budgets_of_factorisations() -> None:
    for name in ("lu", "lu_by_elements", "cholesky_by_elements", "substitution", "shrinking", "triangle"):
        g = program(name)
        xs = [*inputs(g), *[np.ones(y.shape) for y in evaluate(g, *inputs(g))]]
        with budget.limited(100):
            backward = verify(gradient_graph(g))
        same(evaluate(backward, *xs), evaluate(gradient_graph(g), *xs))


# -- many examples ----------------------------------------------------------------------------------------------------


def check_batched(g: Graph, flags: list[bool], xs: list, rtol: float = 1e-9) -> None:
    """Against one run for each example."""
    n = next(x.shape[0] for x, f in zip(xs, flags, strict=True) if f)
    together = evaluate(verify(batched_graph(g, flags, n)), *xs)
    single = [evaluate(g, *[x[k] if f else x for x, f in zip(xs, flags, strict=True)]) for k in range(n)]
    for k, y in enumerate(together):
        np.testing.assert_allclose(y, np.stack([one[k] for one in single]), rtol=rtol, atol=1e-11)


@ALL
def test_batches(name: str) -> None:
    g = program(name)
    many = [inputs(g, seed) for seed in range(3)]
    for flags in ([True] * len(g.params), *[[j == k for j in range(len(g.params))] for k in range(len(g.params))]):
        xs = [np.stack([m[k] for m in many]) if f else many[0][k] for k, f in enumerate(flags)]
        check_batched(g, flags, xs)


@pytest.mark.parametrize("name", ["recurrent", "squared_until", "by_counter", "counted", "histogram"])
def test_batches_of_gradients(name: str) -> None:
    g = gradient_graph(program(name))
    many = [inputs(g, seed) for seed in range(3)]
    check_batched(g, [True] * len(g.params), [np.stack(x) for x in zip(*many, strict=True)])


def test_examples_with_different_numbers_of_iterations() -> None:
    x = np.array([1.5, 11.0, 1.01, 9.0])
    check_batched(program("squared_until"), [True], [x])
    together = optimise(gradient_graph(batched_graph(program("squared_until"), [True], 4)))
    _, count, gradient = evaluate(together, x, np.ones(4))
    assert count.tolist() == [3, 0, 8, 1]
    np.testing.assert_allclose(gradient, [8 * 1.5**7, 1, 256 * 1.01**255, 18])


def test_batched_branches() -> None:
    fs = [lambda x: (ops.sin(x), ops.neg(x)), lambda x: (ops.exp(x), x), lambda x: (x, ops.mul(x, x))]
    g = graph(lambda k, x: p.choice(k, fs, x), INT, f64(2))
    check_batched(g, [True, False], [np.array([-1, 0, 1, 2, 7]), np.array([0.5, 2.0])])
    check_batched(g, [True, True], [np.array([2, 0, 5]), np.arange(6.0).reshape(3, 2)])
    check_batched(g, [False, True], [np.array(1), np.arange(6.0).reshape(3, 2)])


# -- operands of other kinds ------------------------------------------------------------------------------------------


def test_replay_on_arrays_and_values() -> None:
    g = program("nested")
    xs = inputs(g)
    same(evaluate(g, *xs), [np.asarray(y) for y in replay(g, xs)])
    assert replay(g, g.params) == g.outs


# -- checks -----------------------------------------------------------------------------------------------------------


def failures(g: Graph, *xs) -> list[bool]:
    checked, checks = with_checks(g)
    verify(checked)
    clamped = replace_gathers(checked)
    flags = evaluate(clamped, *xs)[len(g.outs) :]
    optimised = evaluate(optimise(clamped), *xs)[len(g.outs) :]
    assert len(optimised) == len(flags) == len(checks)
    assert [b.item() for b in optimised] == [b.item() for b in flags]
    return [b.item() for b in flags]


@ALL
def test_checks_do_not_change_what_is_computed(name: str) -> None:
    g = program(name)
    xs = inputs(g)
    for h in (g, gradient_graph(g)):
        ys = [*xs, *[np.ones(q.type.substitute({"N": 4}).shape) for q in h.params[len(xs) :]]]
        checked, _ = with_checks(h)
        found = evaluate(verify(checked), *ys)
        same(found[: len(h.outs)], evaluate(h, *ys))
        assert not any(found[len(h.outs) :])


@pytest.mark.parametrize("name", ["recurrent", "recurrent_n", "prefix_sums", "rows", "nested", "triangular"])
def test_rows_at_the_index_need_no_test(name: str) -> None:
    assert with_checks(gradient_graph(program(name)))[1] == ()


def test_indices_inside_of_loops() -> None:
    def f(x: Value, ids: Value) -> Value:
        return loop(lambda k, c, x, ids: ops.add(c, ops.gather(x, at(ids, k))), ids.shape[0], constant(0.0), x, ids)[0]

    g = graph(f, f64(3), Type(I64, (4,)))
    assert failures(g, np.zeros(3), np.array([0, 2, -3, 1])) == [False]
    assert failures(g, np.zeros(3), np.array([0, 2, -4, 1])) == [True]
    assert failures(g, np.zeros(3), np.array([3, 2, 0, 1])) == [True]


def test_bounds_affine_in_the_index_are_tested_before_the_loop() -> None:
    """x[2 k] for k below the symbol M: not known to be in range, but affine."""
    m = Poly.symbol("M")

    def f(x: Value, y: Value) -> Value:
        return loop(lambda k, c, x: ops.add(c, at(x, 2 * k)), m, constant(0.0), x)[0]

    g = graph(f, f64(N), f64(m))
    checked, checks = with_checks(g)
    assert len(checks) == 1
    assert all(v.attributes["carried"] == 1 for v in checked.nodes if v.op is ops.for_)
    for n, rows, bad in ((5, 3, False), (5, 4, True), (0, 0, False), (1, 1, False), (0, 1, True)):
        outs = Graph(checked.params, checked.outs[1:])
        assert evaluate(outs, np.zeros(n), np.zeros(rows))[0].item() is bad


def test_tests_inside_of_branches_count_where_they_run() -> None:
    fs = [ops.gather, lambda x, i: at(x, 0)]
    g = graph(lambda k, x, i: p.choice(k, fs, x, i)[0], INT, f64(3), INT)
    assert failures(g, 0, np.zeros(3), 5) == [True]
    assert failures(g, 1, np.zeros(3), 5) == [False]


def test_tests_inside_of_while_and_its_condition() -> None:
    """While x[i] > 0: i += 1. Beyond the end of x it stops and fails."""

    def goes_on(i: Value, x: Value) -> Value:
        return ops.gt(ops.gather(x, i), 0.0)

    g = graph(lambda x: p.while_loop(goes_on, lambda i, x: ops.add(i, 1), constant(0, I64), x)[0], f64(3))
    checked, _ = with_checks(g)
    flags = Graph(checked.params, checked.outs[1:])
    assert evaluate(flags, np.array([1.0, 1.0, 0.0]))[0].item() is False
    clamped = replace_gathers(flags)
    assert evaluate(clamped, np.array([1.0, 1.0, 1.0]))[0].item() is True


def replace_gathers(g: Graph) -> Graph:
    """What compiled code reads out of range: the last element."""
    from tapefuse.ir.rewrite import Rewriter, rule, variables
    from tapefuse.ir.rewrite import p as pattern

    x, i = variables("x i")

    def clamp(x: Value, i: Value) -> Value | None:
        if i.op is ops.minimum:
            return None
        last = constant(x.shape[0] - 1, I64)
        return ops.gather(x, ops.minimum(ops.maximum(i, ops.neg(last)), last))

    return Rewriter([rule("clamp", pattern.gather(x, i), clamp)]).run(g)[0]


# -- memory budgets ---------------------------------------------------------------------------------------------------


def most_bytes(g: Graph, sizes: dict[str, int] | None = None) -> int:
    """Bytes of all stacks that loops in a graph carry, each once."""
    total = 0
    for v in g.nodes:
        if v.op is ops.for_:
            total += sum(t.nbytes for t, y in zip(types_of(v), v.attributes["body"].outs) if y.op is ops.put)  # noqa: B905
        total += sum(most_bytes(inner, sizes) for inner in region.graphs(v))
    return total


def types_of(v: Value) -> list[Type]:
    return [a.type for a in v.args[: v.attributes["carried"]]]


def sines(trips, *operands: Value) -> Value:
    return loop(lambda k, c: ops.sin(ops.mul(c, 1.01)), trips, *operands)[0]


@pytest.mark.parametrize(("trips", "limit"), [(100, 800), (100, 300), (1000, 600), (10_000_000, 1 << 20), (7, 48)])
def test_a_budget_is_kept(trips: int, limit: int) -> None:
    g = graph(lambda x: sines(trips, x), f64())
    with budget.limited(limit):
        backward = verify(gradient_graph(g))
    assert most_bytes(backward) <= limit
    if trips <= 1000:
        same(evaluate(backward, 0.7, 1.0), evaluate(gradient_graph(g), 0.7, 1.0))
        same(evaluate(optimise(backward), 0.7, 1.0), evaluate(backward, 0.7, 1.0))


def test_no_chunks_within_the_budget() -> None:
    g = graph(lambda x: sines(100, x), f64())
    with budget.limited(1000):
        within = gradient_graph(g)
    assert digest(within) == digest(gradient_graph(g))


@pytest.mark.parametrize("n", [0, 1, 9, 57, 200])
def test_budgets_for_numbers_of_iterations_known_at_run_time(n: int) -> None:
    g = graph(lambda x, n: sized(sines, n, x)[0], f64(), INT)
    with budget.limited(160):
        backward = verify(gradient_graph(g))
    same(evaluate(backward, 0.7, n, 1.0), evaluate(gradient_graph(g), 0.7, n, 1.0))
    same(evaluate(optimise(backward), 0.7, n, 1.0), evaluate(backward, 0.7, n, 1.0))


def test_budgets_of_while_loops_and_nested_ones() -> None:
    for name in ("squared_until", "newton", "nested", "recurrent", "histogram", "recurrent_n", "by_counter"):
        g = program(name)
        xs = [*inputs(g), *[np.ones(y.shape) for y in evaluate(g, *inputs(g)) if y.dtype.kind == "f"]]
        with budget.limited(40):
            backward = verify(gradient_graph(g))
        same(evaluate(backward, *xs), evaluate(gradient_graph(g), *xs))


def test_sizes_of_chunks() -> None:
    assert chunk_sizes(10_000, 8, 8, 1 << 13) == [100]
    assert chunk_sizes(10_000, 800, 8, 1 << 15) == [10]  # chunks keep more an iteration than the loop around them
    for trips, limit, levels in ((10**7, 1 << 20, 2), (10**7, 20_000, 3), (10**9, 1 << 16, 3), (100, 1, 3)):
        sizes = chunk_sizes(trips, 8, 8, limit)
        assert len(sizes) == levels - 1
        assert kept_bytes(trips, sizes, 8, 8) <= max(limit, 200)


# -- passes -----------------------------------------------------------------------------------------------------------


def fired(name: str, g: Graph) -> dict[str, int]:
    after, count = BY_NAME[name].run(g)
    xs = inputs(g)
    same(evaluate(verify(after), *xs), evaluate(g, *xs))
    return dict(count)


def regions(g: Graph) -> int:
    own = [v for v in g.nodes if v.op is not None and v.op.is_region]
    return len(own) + sum(regions(inner) for v in own for inner in region.graphs(v))


@pytest.mark.parametrize("name", ["powers", "recurrent", "nested", "by_counter", "prefix_sums"])
def test_forward_work_is_done_once(name: str) -> None:
    before = regions(optimise(program(name)))
    assert regions(optimise(jvp_graph(program(name)))) == before
    g = optimise(gradient_graph(program(name)))
    assert sum(v.op is ops.for_ for v in g.nodes) == 2


def test_forward_work_of_a_counted_loop_is_done_once() -> None:
    g = optimise(gradient_graph(graph(lambda x, n: ops.mul(p.counted(x, n), 2.0), f64(), INT)))
    (token,) = [v for v in g.nodes if v.op is ops.sized]
    assert sum(v.op is ops.for_ for v in token.attributes["body"].nodes) == 2
    assert evaluate(g, 0.5, 0, 1.0) == (1.0, 2.0)


def test_loops_that_need_each_other_stay_apart() -> None:
    def f(x: Value) -> Value:
        (y,) = loop(lambda k, c: ops.sin(c), 3, x)
        return loop(lambda k, c: ops.sin(c), 3, y)[0]

    assert fired("loops", graph(f, f64())) == {}


@pytest.mark.parametrize("trips", [0, 1])
def test_few_iterations_are_no_loop(trips: int) -> None:
    g = graph(lambda x: loop(lambda k, c: ops.sin(c), trips, x)[0], f64())
    assert fired("regions", g) == {"once": 1}
    assert regions(optimise(g)) == 0


def test_sizes_that_leave_a_loop_no_iterations() -> None:
    """x[k + 1] of one element does not exist, but neither does an iteration that reads it."""

    def f(m: Dim, x: Value) -> tuple[Value, ...]:
        def outer(j: Dim, y: Value) -> Value:
            return loop(lambda k, y: put(y, k + 1, ops.sin(ops.add(at(y, k), at(y, k + 1)))), m - 1, y)[0]

        return (total(loop(outer, 2, spread(x, (m,)))[0]),)

    for n in (1, 2, 4):
        run_time = graph(lambda x, n: sized(f, n, x)[0], f64(), INT)
        known = graph(lambda x: sized(f, constant(n, I64), x)[0], f64())  # noqa: B023
        assert not any(v.op is ops.sized for v in optimise(known).nodes)
        for change in (lambda g: g, gradient_graph, jvp_graph):
            extra = [] if change(known) is known else [np.float64(0.3)]
            expected = evaluate(change(run_time), 0.5, n, *extra)
            same(evaluate(optimise(change(known)), 0.5, *extra), expected)
        batched = optimise(batched_graph(known, [True], 2))
        same(evaluate(batched, np.array([0.5, 0.7])), [np.stack([evaluate(run_time, x, n)[0] for x in (0.5, 0.7)])])


@pytest.mark.parametrize("trips", [0, -1])
@pytest.mark.parametrize("change", [gradient_graph, jvp_graph, lambda g: batched_graph(g, [True], 3)])
def test_transformed_loops_without_iterations(trips: int, change: Callable) -> None:
    g = graph(lambda x: loop(lambda k, c, s: (ops.sin(c), put(s, k, c)), trips, x, spread(x, (2,)), carried=2), f64())
    after = change(g)
    xs = [np.full(q.shape, 0.5) for q in after.params]
    expected = [np.full(y.shape, 0.5) for y in after.outs]
    if change is gradient_graph:
        expected[-1] = np.array(1.5)  # from the number, and from twice the number in the array
    same(evaluate(after, *xs), expected)
    same(evaluate(optimise(after), *xs), expected)
    assert regions(optimise(after)) == 0


def test_a_known_branch_is_no_switch() -> None:
    for k, y in ((-1, 0.5), (1, np.sin(0.5)), (9, np.exp(0.5))):
        g = graph(lambda x: p.choice(constant(k, I64), [lambda x: x, ops.sin, ops.exp], x)[0], f64())  # noqa: B023
        assert regions(optimise(g)) == 0 and evaluate(optimise(g), 0.5)[0] == y


def test_small_branches_become_a_select_and_large_ones_do_not() -> None:
    def both(f: Callable) -> Graph:
        return graph(lambda k, x: p.choice(k, [lambda x: ops.mul(x, 2.0), f], x)[0], INT, f64(4))

    assert fired("regions", both(ops.neg)) == {"select": 1}
    assert fired("regions", both(lambda x: ops.reduce_max(ops.mul(x, ops.transpose(x, perm=(0,))), axes=()))) == {}
    assert fired("regions", both(lambda x: loop(lambda k, c: ops.sin(c), 2, x)[0])) == {}


def test_dead_carries_and_operands_go() -> None:
    def f(x: Value, w: Value) -> Value:
        step = lambda k, a, b, c, w, v: (ops.sin(a), ops.add(b, c), ops.mul(c, v), w)[:3]
        return loop(step, 3, x, x, x, w, w, carried=3)[0]

    g = graph(f, f64(), f64())
    assert fired("regions", g) == {"dead": 4}
    assert [v.args for v in BY_NAME["regions"].run(g)[0].nodes if v.op is ops.for_] == [(g.params[0],)]


def test_invariant_work_is_hoisted() -> None:
    def f(x: Value, w: Value) -> Value:
        return loop(lambda k, c, w: ops.matmul(c, ops.matmul(w, w)), 3, x, w)[0]

    g = graph(f, f64(1, 3), f64(3, 3))
    assert fired("regions", g) == {"hoist": 1, "dead": 1}
    assert sum(v.op is ops.matmul for v in optimise(g).nodes) == 1


def test_equal_and_constant_carries() -> None:
    def f(x: Value, w: Value) -> tuple[Value, ...]:
        return loop(lambda k, a, b, w: (ops.mul(a, w), ops.mul(b, w), w), 3, x, x, w, carried=3)

    g = graph(f, f64(), f64())
    assert fired("regions", g) == {"same": 1, "invariant": 1}


def test_passes_go_inside() -> None:
    g = graph(lambda x: loop(lambda k, c: ops.mul(ops.sin(c), 1.0), 3, x)[0], f64())
    assert fired("simplify", g) == {"mul_one": 1}
    g = graph(lambda x: loop(lambda k, c: ops.mul(c, ops.exp(constant(0.0))), 3, x)[0], f64())
    assert fired("fold", g) == {"fold": 1}


def test_totals_of_loops_of_many_nodes() -> None:
    """A body of 2000 nodes is differentiated and optimised in reasonable time."""

    def step(k, c: Value) -> Value:
        for _ in range(1000):
            c = ops.sin(ops.mul(c, 1.01))
        return c

    g = optimise(gradient_graph(graph(lambda x: total(loop(step, 2, x)[0]), f64(3))))
    assert np.isfinite(evaluate(g, np.ones(3), 1.0)[1]).all()
