"""Section 11: gradients of look-ups are rows, `IndexedRows`. Deliberate difference: norms count rows that are named
twice as their sum, as those of the dense gradient do."""

import warnings

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.compat import tensorflow as tf
from tapefuse.tracer import rows as rows_module
from tests.tape_semantics.helpers import C, close, plain, slope, taped

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
TWICE = np.array([0, 2, 0])
ENDS = np.array([0, 2])


def parts(g):
    """What rows consist of, plainly."""
    assert isinstance(g, tp.IndexedRows)
    return plain(g.values), plain(g.indices), g.dense_shape


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("look", [lambda t: t[TWICE], lambda t: tp.take(t, TWICE, 0), lambda t: np.take(t, TWICE, 0)])
@pytest.mark.parametrize("source", [C, tp.Variable])
def test_122_values_indices_and_dense_shape_with_duplicates(compiled, look, source):
    table, seed = source(ROWS), C([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def f():
        with tp.GradientTape() as tape:
            tape.watch(table)
            y = look(table)
        return tape.gradient(y, table, output_gradients=seed)

    g = (tp.tape_function(f) if compiled else f)()
    assert parts(g) == (plain(seed), [0, 2, 0], (3, 2))
    assert plain(g.to_dense()) == np.asarray(g).tolist() == [[6.0, 8.0], [0.0, 0.0], [3.0, 4.0]]


def test_122_an_embedding_layer():
    layer = tp.nn.Embedding(4, 2)
    with tp.GradientTape() as tape:
        y = tp.sum(layer(C([[0, 3], [3, 3]])) * 2.0)
    g = tape.gradient(y, layer.table)
    assert parts(g) == ([[2.0, 2.0]] * 4, [0, 3, 3, 3], (4, 2))


def test_123_two_look_ups_are_rows_one_after_the_other(run):
    def f(table):
        tape, y = taped(lambda t: tp.sum(t[TWICE]) + tp.sum(t[np.array([1, 2])]) * 2.0, table)
        g = tape.gradient(y, table)
        assert isinstance(g, tp.IndexedRows)
        return g.values, g.indices, g.to_dense()

    values, indices, dense = run(f, C(ROWS))
    assert sorted(zip(indices, values, strict=True)) == [
        (0, [1.0, 1.0]), (0, [1.0, 1.0]), (1, [2.0, 2.0]), (2, [1.0, 1.0]), (2, [2.0, 2.0]),
    ]  # fmt: skip
    assert dense == [[2.0, 2.0], [2.0, 2.0], [3.0, 3.0]]


def test_123_a_look_up_and_a_dense_use(run):
    def f(table):
        tape, y = taped(lambda t: tp.sum(t[TWICE]) + tp.sum(t[np.array([1, 2])]) + tp.sum(t), table)
        g = tape.gradient(y, table)
        assert isinstance(g, tp.Tensor)
        return g

    assert run(f, C(ROWS)) == [[3.0, 3.0], [2.0, 2.0], [3.0, 3.0]]


def test_124_the_dense_form_is_that_of_scattered_additions():
    g = np.arange(6, dtype=np.float32).reshape(3, 2)
    wanted = np.zeros((3, 2), np.float32)
    np.add.at(wanted, TWICE, g)
    rows = tp.IndexedRows(g, TWICE, (3, 2))
    assert plain(rows.to_dense()) == plain(tf.convert_to_tensor(rows)) == wanted.tolist()


def test_124_a_huge_dense_form_is_warned_of(monkeypatch):
    assert rows_module.HUGE == 10**8
    monkeypatch.setattr(rows_module, "HUGE", 10)
    with pytest.warns(tp.PerformanceWarning, match="dense array of 10 elements"):
        tp.IndexedRows(np.ones((1, 1), np.float32), [5], (10, 1)).to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.IndexedRows(np.ones((1, 1), np.float32), [5], (9, 1)).to_dense()


def test_124_without_dense_shape():
    rows = tp.IndexedRows(C([[1.0, 2.0]]), [1])
    for use in (rows.to_dense, lambda: np.asarray(rows), lambda: rows + 1.0, lambda: rows.shape):
        with pytest.raises(ValueError, match="without dense_shape"):
            use()
    assert parts(-rows * 3.0) == ([[-3.0, -6.0]], [1], None)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_125_optimizers_sum_duplicates_first(compiled, lazy):
    tables = [tp.Variable(ROWS), tp.Variable(ROWS)]

    def step(optimizer, table, use):
        with tp.GradientTape() as tape:
            loss = tp.sum(use(table))
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])

    for table, use in zip(tables, (lambda t: t[TWICE], lambda t: t[ENDS] * [[2.0], [1.0]]), strict=True):
        optimizer = tp.optim.Adam(0.1, lazy=lazy)
        run = lambda o=optimizer, t=table, u=use: step(o, t, u)
        (tp.tape_function(run) if compiled else run)()
    close(plain(tables[0]), plain(tables[1]))
    assert plain(tables[0])[1] == ROWS[1]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("make", [lambda: tp.optim.SGD(0.5), lambda: tp.optim.Adam(0.1, lazy=True)])
def test_125_rows_that_are_not_named_stay(compiled, make):
    """Even where they are nan, and where moments of earlier steps would move them on."""
    table, optimizer = tp.Variable([*ROWS, [np.nan, np.inf]]), make()

    def step(ids):
        with tp.GradientTape() as tape:
            loss = tp.sum(table[ids] ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])

    take = tp.tape_function(step) if compiled else step
    take(C([1, -2, 1]))
    before = table.numpy()
    take(C([0, 0]))
    after = table.numpy()
    assert np.array_equal(before[1:], after[1:], equal_nan=True) and (before[0] != after[0]).all()


def test_126_across_a_compiled_function():
    look = tp.tape_function(lambda table, ids: table[ids])
    table = tp.Variable(ROWS)
    for run in (lambda: look(table.read(), TWICE), tp.tape_function(lambda: table[TWICE] * 1.0)):
        with tp.GradientTape() as tape:
            y = tp.sum(run())
        assert parts(tape.gradient(y, table)) == ([[1.0, 1.0]] * 3, [0, 2, 0], (3, 2))


def test_126_as_argument_and_result_of_a_compiled_function():
    def halved(g):
        assert isinstance(g, tp.IndexedRows)
        return {"half": g / 2.0, "norm": tp.optim.global_norm([g])}

    found = tp.tape_function(halved)
    for n in (3, 3, 5):
        rows = tp.IndexedRows(np.ones((3, 2), np.float32), TWICE, (n, 2))
        out = found(rows)
        assert parts(out["half"]) == ([[0.5, 0.5]] * 3, [0, 2, 0], (n, 2))
        close(plain(out["norm"]), 10.0**0.5)
    assert found.trace_count == 2


def test_127_an_index_out_of_range(run):
    """Deliberate difference: an IndexError, and negative indices wrap, as in NumPy."""
    look = lambda table, ids: tp.take(table, ids, axis=0)
    with pytest.raises(IndexError, match="3"):
        run(look, C(ROWS), C([0, 3]))
    assert run(look, C(ROWS), C([-1])) == [[5.0, 6.0]]
    assert slope(lambda t: look(t, [-1]), C(ROWS)) == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


def test_128_clipping(run):
    def f(table):
        tape, y = taped(lambda t: t[np.array([0, 0])] * [[3.0, 0.0]], table)
        g = tape.gradient(y, table)
        clipped, norm = tp.optim.clip_by_global_norm([g], 3.0)
        found = tp.optim.clip_by_norm(g, 1.0), clipped[0], norm
        assert all(isinstance(x, tp.IndexedRows) for x in found[:2])
        return found

    one, both, norm = run(f, C(ROWS))
    close(one, [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    close(both, [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    close(norm, 6.0)


def test_098_jacobians_are_dense(run):
    def f(table):
        with tp.GradientTape(persistent=True) as outer:
            outer.watch(table)
            with tp.GradientTape() as inner:
                inner.watch(table)
                y = tp.sum(table[np.array([1, 0, 1])] ** 3)
            g = inner.gradient(y, table)
            z = table[TWICE]
        assert isinstance(g, tp.IndexedRows)
        moved = outer.jvp(g, table, tp.ones_like(table))
        assert isinstance(moved, tp.IndexedRows)
        seeded = outer.gradient(g, table, output_gradients=C([1.0, 10.0, 100.0]))
        return outer.jacobian(z, table), outer.jacobian(g, table), moved, seeded

    first, second, moved, seeded = run(f, C([1.0, 2.0, 3.0]))
    assert first == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert second == [[6.0, 0.0, 0.0], [0.0, 24.0, 0.0], [0.0, 0.0, 0.0]]
    assert moved == [6.0, 24.0, 0.0]
    assert seeded == [6.0, 240.0, 0.0]


def test_what_stays_rows_and_what_becomes_dense():
    g = tp.IndexedRows(C([[1.0, 2.0], [3.0, 4.0]]), [2, -1], (3, 2))
    dense = [[0.0, 0.0], [0.0, 0.0], [4.0, 6.0]]
    for same in (g * 1.0, 1.0 * g, g * np.float32(1), g / 1.0, g * -1.0 * -1.0, g + g * 0.0, tp.IndexedRows(*parts(g))):
        assert isinstance(same, tp.IndexedRows) and plain(same) == dense
    for same in (g + 0.0, g - tp.zeros_like(g), tp.abs(g), np.maximum(g, 0), g * tp.ones((3, 2)), 0.0 + g, g[:], g**1):
        assert isinstance(same, tp.Tensor) and plain(same) == dense
    assert (g.shape, g.ndim, g.size, g.dtype, len(g), g[2, 1].item()) == ((3, 2), 2, 6, np.float32, 3, 6.0)
    assert parts(g.coalesced()) == ([[4.0, 6.0]], [2], (3, 2))
    assert plain(g.totals()) == [[4.0, 6.0]] * 2
    assert plain(tp.tape_function(lambda g: g.totals())(g)) == [[4.0, 6.0]] * 2
    assert repr(g) == "<tp.IndexedRows 2 rows of shape=(3, 2) dtype=float32, indices=[ 2 -1]>"
    assert isinstance(tp.grad(lambda t: tp.sum(t[TWICE]))(C(ROWS)), tp.Tensor)  # functions of arrays give arrays


@pytest.mark.parametrize(
    ("values", "indices", "error"),
    [([[1.0]], [0.5], tp.DTypeError), ([[1.0]], [0, 1], tp.ShapeError), ([[1.0]], [0], tp.ShapeError)],
)
def test_rows_that_are_none(values, indices, error):
    with pytest.raises(error, match="IndexedRows at .*test_lookups.py"):
        tp.IndexedRows(C(values), C(indices), (3, 2))


def test_assigning_rows_changes_the_named_rows_alone():
    v = tp.Variable(ROWS)
    seen, before = v.read(), v._array.ctypes.data
    v.assign_add(tp.IndexedRows(C([[1.0, 1.0], [1.0, 1.0]]), [0, -3], (3, 2)))
    assert plain(v) == [[3.0, 4.0], *ROWS[1:]] and plain(seen) == ROWS
    del seen
    before = v._array.ctypes.data
    v.assign_sub(tp.IndexedRows(C([[2.0, 2.0]]), [0], (3, 2)))
    assert plain(v) == ROWS and v._array.ctypes.data == before  # in place: nobody else saw the array
    for rows, error in (
        (tp.IndexedRows(C([[1.0, 1.0]]), [3], (3, 2)), IndexError),
        (tp.IndexedRows(C([[1.0, 1.0]]), [0], (4, 2)), tp.ShapeError),
        (tp.IndexedRows(np.ones((1, 2)), [0], (3, 2)), tp.DTypeError),
    ):
        with pytest.raises(error, match="test_lookups.py"):
            v.assign_sub(rows)
    assert plain(v) == ROWS
