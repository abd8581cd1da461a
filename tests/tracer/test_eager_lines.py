"""The short way of eager operations: what the ops claim about their rules, and that nothing is different on it."""

import threading
import warnings
import weakref

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir import ops
from tapefuse.ir.op import OPS
from tapefuse.ir.ops.family import unbroadcast
from tapefuse.ir.types import type_of
from tapefuse.tracer import reverse, shortcuts
from tapefuse.tracer.lines import values_read

F64 = np.dtype(np.float64)
RNG = np.random.default_rng(0)


def samples(op):
    return op.sample(np.random.default_rng(0), F64)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.linear])
def test_rules_of_linear_ops_read_no_values(name):
    for args, attrs in samples(OPS[name]):
        assert not any(values_read(OPS[name], tuple(map(type_of, args)), tuple(sorted(attrs.items()))))


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.partials is not None and "f" in op.dtypes])
def test_partials_are_what_the_rule_gives(name):
    op = OPS[name]
    for args, attrs in samples(op):
        assert not attrs
        y = np.asarray(op(*args))
        g = RNG.uniform(-1, 1, y.shape)
        for rule, x, wanted in zip(op.partials, args, op.vjp(g, y, *args), strict=True):
            assert (rule is None) == (wanted is None)
            if rule is not None:
                np.testing.assert_array_equal(unbroadcast(rule(g, y, *args), x), wanted)


CUTS = [0, -1, slice(None), slice(1, None), slice(None, None, -2)]
CUTS += [(1, 2), (slice(0, 2), 1), (Ellipsis, 0), (-1, Ellipsis)]


@pytest.mark.parametrize("index", CUTS, ids=str)
@pytest.mark.parametrize("way", ["arrays", "tensors"])
def test_parts_and_their_derivatives(index, way, monkeypatch):
    if way == "tensors":
        monkeypatch.setattr(reverse, "_array", lambda g: None)
    a, weights = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    x = tp.constant(a)
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x[index]
        z = tp.sum(y * weights[index])
    np.testing.assert_array_equal(y.numpy(), a[index])
    wanted = np.zeros((3, 4))
    wanted[index] = weights[index]
    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), wanted)
    np.testing.assert_array_equal(tape.jvp(y, x, tp.constant(weights)).numpy(), weights[index])
    rows = tape.jacobian(y, x).numpy().reshape(y.size, 3, 4)
    np.testing.assert_array_equal(np.tensordot(weights[index].reshape(-1), rows, 1), wanted)


@pytest.mark.parametrize("left", [(3,), (2, 3)])
@pytest.mark.parametrize("right", [(3,), (3, 4)])
@pytest.mark.parametrize("way", ["arrays", "tensors"])
def test_products_and_their_derivatives(left, right, way, monkeypatch):
    if way == "tensors":
        monkeypatch.setattr(reverse, "_array", lambda g: None)
    a, b = RNG.normal(size=left), RNG.normal(size=right)
    x, w = tp.constant(a), tp.constant(b)
    with tp.GradientTape(persistent=True) as tape:
        tape.watch([x, w])
        y = x @ w
        z = tp.sum(y * y)
    np.testing.assert_array_equal(y.numpy(), a @ b)
    to_x, to_w = tape.jacobian(z, [x, w])
    for found, rows in ((tape.gradient(z, x), to_x), (tape.gradient(z, w), to_w)):
        np.testing.assert_allclose(found.numpy(), rows.numpy(), rtol=1e-12)
    dx, dw = RNG.normal(size=left), RNG.normal(size=right)
    moved = tape.jvp(y, [x, w], [tp.constant(dx), tp.constant(dw)])
    np.testing.assert_allclose(moved.numpy(), dx @ b + a @ dw, rtol=1e-12)
    eps = 1e-6
    wanted = (np.sum(((a + eps * dx) @ b) ** 2) - np.sum(((a - eps * dx) @ b) ** 2)) / (2 * eps)
    np.testing.assert_allclose(np.sum(tape.gradient(z, x).numpy() * dx), wanted, rtol=1e-6)


def test_only_what_a_rule_reads_is_kept():
    x = tp.constant(RNG.normal(size=(4, 4)))
    with tp.GradientTape() as tape:
        tape.watch(x)
        h = x * 2.0
        kept, dropped = tp.exp(h), tp.sum(h, axis=0) + h[0] - h.T[1]
        alive = weakref.ref(h._array)
        del h
        assert alive() is None
    assert tape.gradient(dropped, x).shape == (4, 4)
    assert kept.shape == (4, 4)


def test_nan_and_infinity_are_results_not_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tp.GradientTape() as tape:
            x = tp.constant([0.0, -1.0])
            tape.watch(x)
            y = tp.log(x) / x * tp.exp(x * 1e30) + tp.sum(x * 3e38 * 10.0)
        tape.gradient(y, x)
    with pytest.warns(RuntimeWarning):
        np.log(np.zeros(2))  # NumPy's own settings are the user's


def test_zeros_of_both_signs_are_different_numbers():
    x = tp.constant([1.0])
    assert (x / 0.0).item() == np.inf
    assert (x / -0.0).item() == -np.inf
    assert (x * 0.0).item() == 0 and not np.signbit((x * 0.0).numpy())[0]
    assert np.signbit((x * -0.0).numpy())[0]


def test_an_operand_that_is_stored_into_later_is_recorded_as_it_was():
    x = tp.constant([1.0, 2.0])
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = x * x
        x[0] = 10.0
        z = tp.sum(y * x)
    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), [20.0, 12.0])


def test_lines_know_where_they_were_made():
    x = tp.constant([1.0])
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = ops.missing_gradient(x * 2.0, name="thing") * 3.0
    with pytest.raises(tp.MissingGradientError, match=r"(?s)thing.*test_eager_lines\.py:\d+"):
        tape.gradient(y, x)


def test_every_thread_is_quiet_on_its_own():
    found = []

    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(tp.log(tp.constant(0.0)).item())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
        t.join()
    assert found == [-np.inf] * 3


def test_shortcuts_never_enter_a_program():
    f = tp.tape_function(lambda x: (x @ x) * x[0])
    assert f(tp.constant([1.0, 2.0])).item() == 5.0
    made = {shortcuts._cut, shortcuts._product}
    assert not any(v.op in made for v in f.graph(tp.constant([1.0, 2.0])).nodes)
