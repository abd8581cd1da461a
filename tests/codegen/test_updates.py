"""Arrays with a part changed: written where they are if nobody reads the old value, else copied once."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from tapefuse.codegen import updates
from tapefuse.codegen.choices import AS_MEASURED, Drawn
from tapefuse.codegen.pipeline import stages
from tapefuse.codegen.plan import Plan, Request, plan
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.checks import never_negative, with_checks
from tapefuse.ir.program import State
from tapefuse.ir.types import Poly, Type
from tests import engines

F4, N = np.dtype("f4"), Poly.symbol("N")
INNER = {"starts": (1, 1), "strides": (1, 1)}  # of [40,50]


def value(text: str) -> Value:
    return param(Type.parse(text))


def inner(x: Value, down: int = 0, right: int = 0) -> Value:
    """[38,48] of [40,50], moved."""
    starts = (1 + down, 1 + right)
    return ops.slice_(x, starts=starts, limits=(starts[0] + 38, starts[1] + 48), strides=(1, 1))


def smoothed(x: Value) -> Value:
    sides = ops.add(inner(x, 0, -1), inner(x, 0, 1)), ops.add(inner(x, -1), inner(x, 1))
    return ops.mul(ops.add(*sides), 0.25)


def request(inputs, states, outs, news, choices=AS_MEASURED, known=None) -> Request:
    checked, checks = with_checks(Graph((*inputs, *states), (*outs, *news)), known or {})
    kinds = tuple(State(s.type, k < len(news)) for k, s in enumerate(states))
    return Request(optimise(checked), len(inputs), kinds, checks=checks, choices=choices)


def run(wanted: Request, engine: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs and written states."""
    holders = [engines.Holder() for _ in wanted.states]
    for h, a in zip(holders, arrays[wanted.inputs :], strict=True):
        h._array = a.copy()
    outs = engines.run_of(engine, wanted, holders)(*arrays[: wanted.inputs])
    return [*outs, *(holders[k]._array for k in wanted.written)]


def drawn(values, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(-3, 3, v.shape) if v.dtype.kind == "i" else rng.standard_normal(v.shape).astype(v.dtype)
        for v in values
    ]


def planned(inputs, states, outs, news) -> Plan:
    """The plan, after both engines and some other schedules have given what the interpreter does."""
    wanted = request(inputs, states, outs, news)
    arrays = drawn((*inputs, *states))
    want = evaluate(Graph((*inputs, *states), (*outs, *news)), *arrays)
    runs = [("llvm", wanted), ("numba", wanted), ("llvm", replace(wanted, strict=True))]
    runs += [("llvm", replace(wanted, choices=Drawn(seed))) for seed in range(3)]
    for engine, how in runs:
        for a, b in zip(run(how, engine, arrays), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return plan(wanted)


def titles(p: Plan) -> list[str]:
    return [s.kernel.title for s in p.steps]


def written_elements(p: Plan) -> list[int]:
    """Elements that each step goes through."""
    return [int(np.prod(s.group.shape)) if "start" not in s.kernel.name else s.kernel.rows for s in p.steps]  # type: ignore[misc]


def test_a_part_of_a_state_is_written_by_the_kernel_that_computes_it():
    x, v, w = value("f32[40,50]"), value("f32[38,48]"), value("f32[38,48]")
    p = planned([v, w], [x], [], [ops.put(x, ops.mul(ops.exp(v), w), **INNER)])
    assert titles(p) == ["exp, mul, put"]
    assert p.layout.nbytes == 0 and "2000" not in stages(p.request)["loops"]()


def test_addition_to_a_part_of_a_state():
    x, v = value("f32[40,50]"), value("f32[38,48]")
    p = planned([v], [x], [ops.exp(v)], [ops.put_add(x, ops.tanh(v), **INNER)])
    assert titles(p) == ["tanh, put_add, exp"] or titles(p) == ["exp, tanh, put_add"]
    assert p.layout.nbytes == 0


def test_a_part_computed_from_itself_needs_no_memory_of_its_own():
    x, v = value("f32[40,50]"), value("f32[38,48]")
    p = planned([v], [x], [], [ops.put(x, ops.mul(inner(x), v), **INNER)])
    assert titles(p) == ["put"] and p.layout.nbytes == 0


def test_a_part_computed_from_other_elements_sees_the_old_ones():
    """The new part has memory of its own until all of it is known; the rest is never touched."""
    x = value("f32[40,50]")
    p = planned([], [x], [], [ops.put(x, smoothed(x), **INNER)])
    assert titles(p) == ["mul", "put"]
    assert p.layout.nbytes == 38 * 48 * 4
    assert written_elements(p) == [38 * 48, 38 * 48]


def test_an_input_is_copied_once():
    x, v = value("f32[40,50]"), value("f32[38,48]")
    first = ops.put(x, ops.exp(v), **INNER)
    second = ops.put_add(first, ops.tanh(v), starts=(0, 0), strides=(1, 1))
    third = ops.put(second, ops.reshape(ops.reduce_sum(v, axes=(1,)), shape=(38, 1)), starts=(0, 3), strides=(1, 1))
    p = planned([x, v], [], [third], [])
    assert sum("start" in s.kernel.name for s in p.steps) == 1
    assert {type for step in p.steps for type in (place.type for place in step.places)} >= {x.type}
    assert p.layout.nbytes <= 2 * 38 * 48 * 4 + 256  # none of the size of x


def test_a_copy_of_an_input_is_computed_from_it_at_once():
    x = value("f32[40,50]")
    p = planned([x], [], [ops.put(x, smoothed(x), **INNER)], [])
    assert len(p.steps) == 2 and p.layout.nbytes == 0  # the copy, and the part computed from the input


def test_zeros_that_are_filled_part_by_part():
    v = value("f32[4,50]")
    y = ops.broadcast(ops.reshape(ops.reduce_sum(v, axes=(0, 1)), shape=()), shape=(40, 50), axes=())
    for k in range(3):
        y = ops.put(y, ops.mul(v, float(k + 2)), starts=(10 * k, 0), strides=(2, 1))
    p = planned([v], [], [y], [])
    assert sum(place.type == y.type for step in p.steps for place in step.written) == 4
    assert p.layout.nbytes < 2000


def test_the_old_value_is_kept_where_it_is_read_later():
    x, v = value("f32[40,50]"), value("f32[38,48]")
    new = ops.put(x, ops.exp(v), **INNER)
    p = planned([v], [x], [ops.add(x, new)], [new])
    assert any("start" in s.kernel.name or s.kernel.title == "copy" for s in p.steps)
    p = planned([v], [x], [ops.mul(x, 2.0)], [new])  # read before it is written
    assert not any("start" in s.kernel.name or s.kernel.title == "copy" for s in p.steps)


def test_a_chain_of_updates_of_a_state():
    x, v = value("f32[40,50]"), value("f32[38,48]")
    y = ops.put(x, smoothed(x), **INNER)
    z = ops.put_add(y, ops.exp(smoothed(y)), **INNER)
    last = ops.put(z, ops.tanh(inner(z)), **INNER)
    p = planned([v], [x], [ops.reduce_sum(y, axes=(0, 1)), inner(z)], [last])
    assert all(size != 2000 or "reduce" in s.kernel.title for size, s in zip(written_elements(p), p.steps, strict=True))
    assert not any("copy" in s.kernel.title or "start" in s.kernel.name for s in p.steps)


@pytest.mark.parametrize("row", [3, 20])
def test_updates_computed_from_what_was_there_before_others(row):
    """A row that an update before may have changed is kept, not the whole array."""
    x = value("f32[40,50]")
    old = ops.slice_(x, starts=(row, 0), limits=(row + 1, 50), strides=(1, 1))
    first = ops.put_add(x, ops.mul(old, 2.0), starts=(3, 0), strides=(1, 1))
    last = ops.put_add(first, ops.mul(old, 0.5), starts=(7, 0), strides=(1, 1))
    p = planned([], [x], [], [last])
    assert not any("copy" in s.kernel.title or "start" in s.kernel.name for s in p.steps)
    assert p.layout.nbytes <= (256 if row == 3 else 0)  # rows that are apart from it: nothing


def test_rows_at_positions_known_at_run_time():
    x, v, k, i = value("f32[40,50]"), value("f32[6,50]"), value("i64[6]"), value("i64[]")
    y = ops.put_at(x, v, k)
    z = ops.put_at(y, ops.reduce_sum(v, axes=(0,)), i)
    p = planned([v, k, i], [x], [], [z])
    assert not any("copy" in s.kernel.title or "start" in s.kernel.name for s in p.steps)
    assert all(n < 2000 for n in written_elements(p))


def test_a_row_whose_number_is_a_symbol():
    """What a loop does with its index: the symbol is the extent of an input here."""
    x, v, s = value("f32[40,50]"), value("f32[1,50]"), param(Type(F4, (N,)))
    new = ops.put(x, ops.mul(ops.exp(v), 2.0), starts=(N, 0), strides=(1, 1))
    checked, checks = with_checks(
        Graph((v, s, x), (ops.slice_(new, starts=(N, 0), limits=(N + 1, 50), strides=(1, 1)), new))
    )
    wanted = Request(optimise(checked), 2, (State(x.type, True),), checks=checks)
    assert any(c.message.startswith("put of f32[40,50] needs -N+39 >= 0: an index") for c in checks)
    for engine in engines.LOADS:
        arrays = [*drawn([v]), np.zeros(7, F4), *drawn([x])]
        row, found = run(wanted, engine, arrays)
        want = arrays[2].copy()
        want[7] = 2 * np.exp(arrays[0][0])
        np.testing.assert_allclose(found, want, rtol=1e-6)
        np.testing.assert_allclose(row[0], want[7], rtol=1e-6)
        arrays[1] = np.zeros(40, F4)
        with pytest.raises(engines.CheckFailed):
            run(wanted, engine, arrays)
    assert all(int(np.prod(s.group.shape)) <= 50 for s in plan(wanted).steps)


def test_small_arrays_are_computed_like_any_other_function():
    x, v = value("f32[3,3]"), value("f32[2,3]")
    y = ops.put(ops.exp(x), v, starts=(0, 0), strides=(2, 1))
    p = planned([x, v], [], [ops.mul(ops.put_add(y, v, starts=(1, 0), strides=(1, 1)), 2.0)], [])
    assert len(p.steps) == 1


@pytest.mark.parametrize(
    ("needed", "known", "safe"),
    [
        (N * -1 + 39, {"N": (0, 39)}, True),
        (N * -1 + 39, {"N": (0, 40)}, False),
        (Poly.symbol("T") - N - 1, {"N": (0, Poly.symbol("T") - 1)}, True),
        (N - 1, {"N": (1, 5)}, True),
        (N - Poly.symbol("k"), {"N": (0, 9), "k": (0, N)}, True),
        (N * N - 1, {"N": (1, 5)}, False),
        (Poly.symbol("T") * N - N, {"N": (0, 9)}, False),
    ],
)
def test_bounds_with_what_is_known_of_symbols(needed, known, safe):
    assert never_negative(needed, known) == safe


@pytest.mark.parametrize("engine", ["llvm", "quick numba"])
@pytest.mark.parametrize("small", [0, 64])
def test_random_chains_of_updates(engine, small, monkeypatch):
    """Whatever reads the arrays before, between and afterwards."""
    monkeypatch.setattr(updates, "SMALL", small)
    for seed in range(25 if engine == "llvm" else 6):
        rng = random.Random(f"{small} {seed}")
        inputs, states = [value("f64[9,8]"), value("f64[4,8]"), value("i64[4]")], [value("f64[9,8]"), value("f64[9,8]")]
        pool, rows = [inputs[0], *states], [inputs[1]]
        for _ in range(rng.randint(2, 8)):
            _grow(rng, pool, rows, inputs[2])
        news = [rng.choice(pool), rng.choice(pool)]
        outs = [rng.choice((*pool, *rows)) for _ in range(2)]
        arrays = drawn((*inputs, *states), seed)
        want = evaluate(Graph((*inputs, *states), (*outs, *news)), *arrays)
        for choices in (AS_MEASURED, Drawn(seed)) if engine == "llvm" else (AS_MEASURED,):
            found = run(request(inputs, states, outs, news, choices), engine, arrays)
            for a, b in zip(found, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=f"{seed} {choices}")


def _grow(rng: random.Random, pool: list[Value], rows: list[Value], ids: Value) -> None:
    """One more array of [9,8], or of [4,8]: the latest ones most often."""
    x, v = (among[-1 - min(rng.randrange(4), len(among) - 1)] for among in (pool, rows))
    start, stride = rng.choice([(0, 1), (3, 1), (5, 1), (1, 2), (2, 2)])
    region = {"starts": (start, 0), "strides": (stride, 1)}
    kind = rng.randrange(8)
    if kind < 3:
        pool.append((ops.put, ops.put, ops.put_add)[kind](x, v, **region))
    elif kind == 3:
        pool.append(rng.choice((ops.put_at, ops.add_at))(x, v, ids))
    elif kind == 4:
        pool.append(ops.add(ops.sin(x), rng.choice(pool)))
    elif kind == 5:
        rows.append(ops.slice_(x, limits=(start + 3 * stride + 1, 8), **region))
    elif kind == 6:
        rows.append(ops.cos(ops.add(v, rng.choice(rows))))
    else:
        sums = ops.reshape(ops.reduce_sum(ops.mul(v, v), axes=(1,)), shape=(4, 1))
        rows.append(ops.sin(ops.mul(v, sums)))


def test_a_recurrence_is_one_kernel():
    """y[k + 1] = y[k] * 0.5 + x[k], as in the body of a loop over k: what is read lies apart from what is written."""
    y, x, s = value("f32[100]"), value("f32[100]"), param(Type(F4, (N,)))

    def at(a, k):
        return ops.reshape(ops.slice_(a, starts=(k,), limits=(k + 1,), strides=(1,)), shape=())

    v = ops.reshape(ops.add(ops.mul(at(y, N), 0.5), at(x, N)), shape=(1,))
    wanted = request([x, s], [y], [], [ops.put(y, v, starts=(N + 1,), strides=(1,))], known={"N": (0, 98)})
    (step,) = plan(wanted).steps
    assert step.kernel.rows == 1
    for engine in engines.LOADS:
        arrays = [drawn([x])[0], np.zeros(7, F4), drawn([y], 1)[0]]
        want = arrays[2].copy()
        want[8] = want[7] * 0.5 + arrays[0][7]
        np.testing.assert_allclose(run(wanted, engine, arrays)[0], want, rtol=1e-6)


def test_halves_of_one_array():
    """Each half is computed from the other: neither needs memory of its own."""
    x = value("f32[40,50]")
    half = {"limits": (40, 50), "strides": (1, 1)}
    p = planned(
        [], [x], [], [ops.put(x, ops.sin(ops.slice_(x, starts=(20, 0), **half)), starts=(0, 0), strides=(1, 1))]
    )
    assert titles(p) == ["sin, put"] and p.layout.nbytes == 0


def test_rows_moved_within_an_array():
    """They are read before they are overwritten, from memory of their own; the others are never touched."""
    x, k = value("f32[40,50]"), value("i64[3]")
    v = ops.mul(ops.slice_(x, starts=(0, 0), limits=(3, 50), strides=(1, 1)), 2.0)
    p = planned([k], [x], [], [ops.put_at(x, v, k)])
    assert all(n <= 150 for n in written_elements(p)) and p.layout.nbytes <= 1024
