"""Steps on some rows of a table: as if the whole table were updated, but the others are never touched."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import optim
from tapefuse.codegen.pipeline import Request, stages
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.program import State
from tapefuse.ir.types import Poly, Type
from tests import engines

F4, I8, B = np.dtype("f4"), np.dtype("i8"), Poly.symbol("B")
ENGINES = pytest.mark.parametrize("engine", engines.LOADS)


def table(rows: int = 50, columns: int = 6, dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)


def stepping(engine: str, strict: bool = False, threads: int | None = None, **spec):
    """A step of SGD on sum(E[ids] * weights), and its variable."""
    e = tp.Variable(table(**spec), name="e")
    optimizer = optim.SGD(0.5)

    @tp.tape_function(engine=engine, strict=strict, threads=threads)
    def step(ids, weights):
        with tp.GradientTape() as tape:
            loss = (tp.take(e, ids, axis=0) * weights).sum()
        optimizer.apply_gradients([(tape.gradient(loss, e), e)])
        return loss

    return step, e


def updated(before: np.ndarray, ids: np.ndarray, g: np.ndarray, rate: float = 0.5) -> np.ndarray:
    dense = np.zeros_like(before)
    np.add.at(dense, ids, g)
    return before - before.dtype.type(rate) * dense


@ENGINES
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("strict", [False, True])
def test_rows_named_twice_and_from_the_end(engine, dtype, strict):
    step, e = stepping(engine, strict, dtype=dtype)
    before, ids = e.numpy(), np.array([3, -1, 3, 0, 49, 3])
    g = np.random.default_rng(1).standard_normal((6, 6)).astype(dtype)
    loss = step(ids, g)
    np.testing.assert_allclose(loss, (before[ids] * g).sum(), rtol=1e-5)
    np.testing.assert_allclose(e.numpy(), updated(before, ids, g), rtol=1e-5 if dtype == "f4" else 1e-13)
    others = np.setdiff1d(np.arange(50), ids % 50)
    np.testing.assert_array_equal(e.numpy()[others], before[others])
    step(ids[:0], g[:0])  # another program: no rows at all
    assert np.isfinite(e.numpy()).all()


@ENGINES
def test_an_index_out_of_range_changes_nothing(engine):
    step, e = stepping(engine)
    before = e.numpy()
    with pytest.raises(tp.IndexOutOfRangeError, match="axis 0 of f32"):
        step(np.array([1, 50, 2]), np.ones((3, 6), F4))
    np.testing.assert_array_equal(e.numpy(), before)


@ENGINES
def test_several_look_ups_of_one_table_and_any_batch(engine):
    e, w = tp.Variable(table(2000), name="e"), np.float32(0.25)

    @tp.tape_function(engine=engine, input_signature=[tp.TensorSpec((2, None), I8)])
    def step(ids):
        i, k = ids[0], ids[1]
        with tp.GradientTape() as tape:
            x, y = tp.take(e, i, axis=0), tp.take(e, k, axis=0)
            loss = (x * y).sum() - (2.0 * x).sum() + tp.sum(e[5])
        e.assign_sub(w * tape.gradient(loss, e))
        return loss, x  # x is read before the update

    for n in (1, 4, 0):
        before = e.numpy()
        i, k = ids = np.random.default_rng(n).integers(-2000, 2000, (2, n))
        _, x = step(ids)
        np.testing.assert_array_equal(x, before[i])
        dense = np.zeros_like(before)
        np.add.at(dense, i, before[k] - 2)
        np.add.at(dense, k, before[i])
        dense[5] += 1
        np.testing.assert_allclose(e.numpy(), before - w * dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lead", [3, B])
def test_nothing_of_the_tables_size_is_read_or_written_but_the_table(lead):
    e, v, i = param(Type(F4, (5000, 8)), "e"), param(Type(F4, (lead, 8)), "v"), param(Type(I8, (lead,)), "i")
    new = ops.sub(e, ops.mul(ops.scatter_add(v, i, shape=e.shape), 0.5))
    checked, checks = with_checks(Graph((v, i, e), (ops.reduce_sum(ops.gather(e, i), axes=(0, 1)), new)))
    text = stages(Request(optimise(checked), 2, (State(e.type, True, "e"),), checks=checks))
    assert set(re.findall(r"(\w+ \w+ \d+) f32\[5000,8\]", text["schedule"]())) == {"reads state 0", "writes state 0"}
    loops = text["loops"]()
    assert "..5000" not in loops and "..40000" not in loops


@ENGINES
def test_long_rows_give_the_same_bits_with_any_number_of_threads(engine):
    found = []
    for threads in (1, 2):
        step, e = stepping(engine, threads=threads, rows=40, columns=5000)
        g = np.random.default_rng(2).standard_normal((32, 5000)).astype(F4)
        ids = np.random.default_rng(3).integers(0, 9, 32)
        before = e.numpy()
        step(ids, g)
        np.testing.assert_allclose(e.numpy(), updated(before, ids, g), rtol=1e-4, atol=1e-5)
        found.append(e.numpy())
    np.testing.assert_array_equal(*found)


@ENGINES
def test_the_base_is_copied_where_it_is_read_later(engine):
    """A new table that is no state, a base that another output shows, values that are read from the table itself."""
    e, i = param(Type(F4, (9, 4)), "e"), param(Type(I8, (4,)), "i")
    new = ops.add_at(e, ops.slice_(e, starts=(5, 0), limits=(9, 4), strides=(1, 1)), i)
    again = ops.add_at(new, ops.gather(new, i), i)
    graph = Graph((i, e), (ops.mul(new, 2.0), again, ops.neg(e), new))
    checked, checks = with_checks(graph)
    before, ids = table(9, 4), np.array([7, 0, 7, -2])
    once = before.copy()
    np.add.at(once, ids, before[5:])
    twice = once.copy()
    np.add.at(twice, ids, once[ids])
    holder = engines.Holder()
    holder._array = before.copy()
    request = Request(optimise(checked), 1, (State(e.type, True, "e"),), checks=checks)
    outs = engines.runner(engines.LOADS[engine], request, [holder])(ids)
    for a, b in zip((*outs, holder._array), (2 * once, twice, -before, once), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: optim.SGD(0.1, momentum=0.9), lambda: optim.Adam(0.1)])
def test_optimizers_with_slots_update_the_whole_table(make):
    """Rows that no gradient reaches still move by their momentum."""
    e, optimizer = tp.Variable(table(), name="e"), make()

    @tp.tape_function
    def step(ids):
        with tp.GradientTape() as tape:
            loss = tp.take(e, ids, axis=0).sum()
        optimizer.apply_gradients([(tape.gradient(loss, e), e)])

    step(np.array([1]))
    before = e.numpy()
    step(np.array([2]))
    assert np.array_equal(np.flatnonzero((e.numpy() != before).any(axis=1)), [1, 2])
