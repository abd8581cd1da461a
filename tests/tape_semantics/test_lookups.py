"""Section 11: gradients of lookups. Deliberate difference: they are dense; duplicates are summed."""

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, plain, slope, taped

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
TWICE = np.array([0, 2, 0])


def test_122_duplicates_are_summed(run):
    def f(table):
        tape, y = taped(lambda table: tp.take(table, TWICE, axis=0), table)
        return tape.gradient(y, table, output_gradients=C([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))

    assert run(f, C(ROWS)) == [[6.0, 8.0], [0.0, 0.0], [3.0, 4.0]]
    table = tp.Variable(ROWS)
    with tp.GradientTape() as tape:
        y = table[TWICE]
    assert plain(tape.gradient(y, table)) == [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]


def test_123_several_uses(run):
    def f(table):
        tape, y = taped(lambda t: tp.sum(t[TWICE]) + tp.sum(t[np.array([1, 2])]) + tp.sum(t), table)
        return tape.gradient(y, table)

    assert run(f, C(ROWS)) == [[3.0, 3.0], [2.0, 2.0], [3.0, 3.0]]


def test_124_the_dense_form_is_that_of_scattered_additions():
    g = np.arange(6, dtype=np.float32).reshape(3, 2)
    wanted = np.zeros((3, 2), np.float32)
    np.add.at(wanted, TWICE, g)
    table = C(ROWS)
    tape, y = taped(lambda t: t[TWICE], table)
    assert plain(tape.gradient(y, table, output_gradients=g)) == wanted.tolist()


@pytest.mark.parametrize("compiled", [False, True])
def test_125_optimizers_sum_duplicates_first(compiled):
    tables = [tp.Variable(ROWS), tp.Variable(ROWS)]

    def step(optimizer, table, use):
        with tp.GradientTape() as tape:
            loss = tp.sum(use(table))
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])

    for table, use in zip(tables, (lambda t: t[TWICE], lambda t: t[np.array([0, 2])] * [[2.0], [1.0]]), strict=True):
        optimizer = tp.optim.Adam(0.1)
        run = lambda o=optimizer, t=table, u=use: step(o, t, u)
        (tp.tape_function(run) if compiled else run)()
    close(plain(tables[0]), plain(tables[1]))
    assert plain(tables[0])[1] == ROWS[1]


def test_126_across_a_compiled_function():
    look = tp.tape_function(lambda table, ids: table[ids])
    table = tp.Variable(ROWS)
    with tp.GradientTape() as tape:
        y = tp.sum(look(table.read(), TWICE))
    assert plain(tape.gradient(y, table)) == [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]


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
        return tp.optim.clip_by_norm(g, 1.0), clipped[0], norm

    one, both, norm = run(f, C(ROWS))
    close(one, [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    close(both, [[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    close(norm, 6.0)
