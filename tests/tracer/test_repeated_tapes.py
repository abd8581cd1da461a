"""Eager tapes that repeat themselves are compiled: the same gradients, and eager ones whenever something differs."""

import copy
import pickle
import threading

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.tracer import repeating


@pytest.fixture(autouse=True)
def fresh():
    repeating.forget()
    with tp.config(compile_repeated_tapes=3):
        yield
    repeating.forget()


def data(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def sites():
    return list(repeating._sites.values())


def runs():
    return sum(site.runs for site in sites())


def eager(f):
    """What `f` gives without compiled tapes."""
    with tp.config(compile_repeated_tapes=0):
        return f()


def test_a_loop_is_compiled_after_some_repetitions_and_trains_alike():
    def trained():
        w1, b1, w2 = (tp.Variable(data(*s, seed=k)) for k, s in enumerate([(4, 5), (5,), (5, 2)]))
        x = tp.constant(data(3, 4, seed=9))
        for k in range(8):
            with tp.GradientTape() as tape:
                loss = tp.mean((tp.tanh(x @ w1 + b1) @ w2 * (k + 1.0)) ** 2)
            for v, g in zip((w1, b1, w2), tape.gradient(loss, (w1, b1, w2)), strict=True):
                v.assign_sub(0.01 * g)
        return [v.numpy() for v in (w1, b1, w2)]

    wanted = eager(trained)
    assert not sites()
    found = trained()
    assert runs() == 5
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


OPERATIONS = {
    "products": lambda x, w: tp.sum((x @ w) @ w.T),
    "vectors": lambda x, w: tp.sum(x[0] @ w) + (x[1] @ x[0]) * tp.sum(w @ w[1]),
    "slices": lambda x, w: tp.sum(x[::-1, 1:] * w[0, :3]) + x[-1, 2] ** 3,
    "shapes": lambda x, w: tp.sum(tp.reshape(x, (2, 6)) ** 2) * tp.sum(tp.transpose(w)[1] / 3),
    "numbers": lambda x, w: tp.sum(2.0 / (1 - x) + (x + 1) ** 3) * tp.mean(w),
    "reductions": lambda x, w: tp.max(x) * tp.sum(tp.softmax(w, axis=0) ** 2) + tp.logsumexp(x),
    "choices": lambda x, w: tp.sum(tp.where(x > 0, x, w[:3] * x)) + tp.sum(tp.maximum(w, 0.1)),
    "classes": lambda x, w: tp.mean(tp.nn.softmax_cross_entropy(x @ w, tp.constant([0, 3, 1]))),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("persistent", [False, True])
def test_compiled_gradients_are_the_eager_ones(name, persistent):
    f, x, w = OPERATIONS[name], tp.constant(data(3, 4)), tp.Variable(data(4, 4, seed=1))

    def gradients():
        with tp.GradientTape(persistent=persistent) as tape:
            tape.watch(x)
            y = f(x, w)
        return [g.numpy() for g in tape.gradient(y, [x, w])]

    wanted = eager(gradients)
    for _ in range(5):
        for a, b in zip(gradients(), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert runs() == 2, tp.explain()


def test_control_flow_on_values_is_followed():
    w = tp.Variable(2.0)

    def gradient(x):
        with tp.GradientTape() as tape:
            y = w * x
            if y > 0:
                y = y * y
        return tape.gradient(y, w).item()

    for x in (1.0, 2.0, 3.0, 4.0, -1.0, 5.0, -2.0):
        assert gradient(x) == pytest.approx(2 * 2.0 * x * x if x > 0 else x)
    assert runs() == 2  # 4.0 and 5.0; the negative ones are differentiated as they came


def test_numbers_are_inputs_and_axes_belong_to_the_structure():
    x = tp.constant(data(3, 3))

    def gradient(scale, axis):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = tp.sum(tp.sum(x * scale, axis=axis) ** 2)
        return tape.gradient(y, x).numpy()

    for scale in range(1, 7):
        wanted = 2 * scale**2 * np.broadcast_to(x.numpy().sum(0), (3, 3))
        np.testing.assert_allclose(gradient(scale, 0), wanted, rtol=1e-5)
    assert runs() == 3
    np.testing.assert_allclose(gradient(2, 1), 8 * np.broadcast_to(x.numpy().sum(1)[:, None], (3, 3)), rtol=1e-5)
    assert runs() == 3


def test_what_is_wired_otherwise_is_another_structure():
    x, z = tp.constant(data(4)), tp.constant(data(4, seed=1))

    def gradient(a, b):
        with tp.GradientTape() as tape:
            tape.watch([x, z])
            y = tp.sum(a * b)
        return [None if g is None else g.numpy() for g in tape.gradient(y, [x, z])]

    for _ in range(5):
        np.testing.assert_allclose(gradient(x, x)[0], 2 * x.numpy(), rtol=1e-6)
    assert runs() == 2
    for found, wanted in zip(gradient(x, z), (z, x), strict=True):
        np.testing.assert_array_equal(found, wanted.numpy())
    np.testing.assert_array_equal(gradient(z, z)[1], 2 * z.numpy())
    assert runs() == 2


def test_shapes_and_dtypes_that_change_are_eager_and_compiled_when_they_stay():
    w = tp.Variable(1.5)

    def gradient(n):
        with tp.GradientTape() as tape:
            y = tp.sum(w * tp.constant(np.ones(n, np.float32)))
        return tape.gradient(y, w).item()

    assert [gradient(n) for n in (4, 4, 4, 4, 2, 4, 2, 2)] == [4, 4, 4, 4, 2, 4, 2, 2]
    assert runs() == 2
    assert gradient(2) == 2
    assert runs() == 3
    assert len(sites()[0].structures) == 2


def test_a_tensor_watched_late_is_a_constant_until_then():
    a, x = tp.constant(3.0), tp.constant(2.0)

    def gradients(late):
        with tp.GradientTape() as tape:
            tape.watch(x)
            if not late:
                tape.watch(a)
            y = a * x
            tape.watch(a)
            z = y * a
        return [g.item() for g in tape.gradient(z, [a, x])]

    for _ in range(5):
        assert gradients(True) == [6.0, 9.0]
    assert runs() == 2
    assert gradients(False) == [12.0, 9.0]


def test_output_gradients_and_unconnected_sources():
    x, unused = tp.constant(data(3)), tp.Variable(1.0)

    def gradients(seed):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = tp.exp(x)
        return tape.gradient(y, [x, unused], output_gradients=seed, unconnected_gradients="zero")

    for k in range(5):
        found, zero = gradients(tp.constant(data(3, seed=k)))
        np.testing.assert_allclose(found.numpy(), data(3, seed=k) * np.exp(x.numpy()), rtol=1e-5)
        assert zero.item() == 0
    assert runs() == 2
    np.testing.assert_allclose(gradients(2.0)[0].numpy(), 2 * np.exp(x.numpy()), rtol=1e-5)


def test_derivatives_of_derivatives_stay_eager():
    x = tp.constant(0.5)

    def second():
        with tp.GradientTape() as outer:
            outer.watch(x)
            with tp.GradientTape() as inner:
                inner.watch(x)
                y = tp.sin(x) * x
            dy = inner.gradient(y, x)
        return outer.gradient(dy, x).item()

    for _ in range(6):
        assert second() == pytest.approx(2 * np.cos(0.5) - 0.5 * np.sin(0.5), rel=1e-5)


def test_it_can_be_turned_off():
    x = tp.Variable(2.0)
    with tp.config(compile_repeated_tapes=False):
        for _ in range(9):
            with tp.GradientTape() as tape:
                y = x * x
            assert tape.gradient(y, x).item() == 4.0
    assert tp.config.compile_repeated_tapes == 3
    assert not sites()


def test_explain_says_what_became_of_each_tape():
    assert not sites()
    called = tp.tape_function(tp.exp)
    x = tp.Variable(data(3))
    for _ in range(4):
        with tp.GradientTape() as tape:
            y = tp.sum(tp.exp(x))
        tape.gradient(y, x)
        with tp.GradientTape() as other:
            z = tp.sum(called(x))
        other.gradient(z, x)
    compiled, not_compiled = [text for text in tp.explain().splitlines() if "tape at" in text]
    assert f"{__file__}:" in compiled
    assert "compiled with the forward pass after 3 repetitions, 3 operations; run 1 of 4 times" in compiled
    assert "not compiled, since the tape holds calls, loops" in not_compiled


def test_tapes_that_never_repeat_are_given_up():
    x = tp.Variable(1.0)
    for n in range(repeating.PATIENCE + 3):
        with tp.GradientTape() as tape:
            y = x
            for _ in range(n + 1):
                y = y * x
        assert tape.gradient(y, x).item() == n + 2
    assert "not compiled, since its operations changed" in tp.explain()


def test_long_tapes_are_not_compiled(monkeypatch):
    monkeypatch.setattr(repeating, "MOST_OPERATIONS", 4)
    x = tp.Variable(1.0)
    for _ in range(4):
        with tp.GradientTape() as tape:
            y = x * x * x * x * x
        assert tape.gradient(y, x).item() == 5.0
    assert "operations, more than 4; compile the step with tp.tape_function" in tp.explain()
    assert not runs()


def test_what_cannot_be_compiled_goes_on_eagerly(monkeypatch):
    def fails(traced):
        raise tp.CompileError("no such luck")

    monkeypatch.setattr(repeating, "_compilers", [fails])
    x = tp.Variable(3.0)
    for _ in range(5):
        with tp.GradientTape() as tape:
            y = x * x
        assert tape.gradient(y, x).item() == 6.0
    assert "not compiled, since no such luck" in tp.explain()


def test_threads_share_sites():
    wrong = []

    def work(seed):
        w = tp.Variable(data(5, seed=seed))
        with tp.config(compile_repeated_tapes=3):
            for _ in range(30):
                with tp.GradientTape() as tape:
                    y = tp.sum(tp.sin(w) * w)
                g = tape.gradient(y, w).numpy()
                v = w.numpy()
                if not np.allclose(g, np.cos(v) * v + np.sin(v), rtol=1e-4, atol=1e-6):
                    wrong.append(g)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert runs() > 60


# -- the optimizer's step ---------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda: tp.optim.SGD(0.1),
    "momentum": lambda: tp.optim.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: tp.optim.Adam(0.1),
    "adamw": lambda: tp.optim.AdamW(0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_of_an_optimizer_is_compiled(name):
    def trained():
        w, b = tp.Variable(data(4, 2)), tp.Variable(data(2, seed=1))
        optimizer = OPTIMIZERS[name]()
        for k in range(9):
            optimizer.apply_gradients([(tp.constant(data(4, 2, seed=k)), w), (tp.constant(data(2, seed=k)), b)])
            if k == 5:
                optimizer.learning_rate = 0.05
        return w.numpy(), b.numpy(), optimizer._repeated.runs, optimizer.iterations.item()

    *wanted, runs, _ = eager(trained)
    assert runs == 0
    *found, runs, iterations = trained()
    assert (runs, iterations) == (6, 9)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_changed_setting_makes_another_step():
    def trained():
        w, optimizer = tp.Variable(data(4)), tp.optim.SGD(0.1, momentum=0.9)
        for k in range(12):
            optimizer.apply_gradients([(tp.constant(data(4, seed=k)), w)])
            if k == 5:
                optimizer.momentum = 0.5
        return w.numpy()

    np.testing.assert_allclose(trained(), eager(trained), rtol=1e-5, atol=1e-6)


def test_updates_of_the_user_run_as_they_are_written():
    class Counting(tp.optim.SGD):
        steps = 0

        def update(self, g, variable, rate, *slots):
            self.steps += 1
            variable.assign_sub(rate * g / self.steps)

    w, optimizer = tp.Variable(1.0), Counting(1.0)
    for _ in range(6):
        optimizer.apply_gradients([(tp.constant(1.0), w)])
    assert optimizer.steps == 6
    assert w.item() == pytest.approx(1 - sum(1 / k for k in range(1, 7)))


def test_an_optimizer_with_a_compiled_step_is_copied():
    w, optimizer = tp.Variable(1.0), tp.optim.Adam(0.1)
    for _ in range(5):
        optimizer.apply_gradients([(tp.constant(1.0), w)])
    assert optimizer._repeated.runs == 2
    assert "adam" in tp.explain().lower()
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.iterations.item() == 5
        assert twin._repeated.runs == 0
