"""Optimizers against their formulas in NumPy, eagerly and compiled, and gradient clipping."""

import warnings

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn, optim

RATE = 0.1


def sgd(w, g, state, t):
    return w - RATE * g


def momentum(w, g, state, t):
    state["v"] = 0.9 * state.get("v", 0) - RATE * g
    return w + state["v"]


def nesterov(w, g, state, t):
    state["v"] = 0.9 * state.get("v", 0) - RATE * g
    return w + 0.9 * state["v"] - RATE * g


def adam(w, g, state, t):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g * g
    rate = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate * state["m"] / (np.sqrt(state["v"]) + 1e-7)


def adamw(w, g, state, t):
    return adam(w - RATE * 0.25 * w, g, state, t)


CASES = {
    "sgd": (lambda: optim.SGD(RATE), sgd),
    "momentum": (lambda: optim.SGD(RATE, momentum=0.9), momentum),
    "nesterov": (lambda: optim.SGD(RATE, momentum=0.9, nesterov=True), nesterov),
    "adam": (lambda: optim.Adam(RATE), adam),
    "adamw": (lambda: optim.AdamW(RATE, weight_decay=0.25), adamw),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_steps_follow_the_formula(case, compiled, dtype):
    make, formula = CASES[case]
    optimizer, target = make(), np.array([1.0, -2.0, 0.5], dtype)
    w = tp.Variable(np.zeros(3, dtype), name="w")

    def step():
        with tp.GradientTape() as tape:
            loss = ((w - target) ** 2).sum()
        optimizer.apply_gradients([(tape.gradient(loss, w), w)])
        return loss

    run = tp.tape_function(step) if compiled else step
    wanted, state = np.zeros(3, dtype), {}
    for t in range(1, 6):
        run()
        wanted = formula(wanted, 2 * (wanted - target), state, t)
        np.testing.assert_allclose(w.numpy(), wanted, rtol=2e-5 if dtype == np.float32 else 1e-9)
    assert w.dtype == dtype
    assert optimizer.iterations.numpy() == 5
    assert not compiled or run.trace_count <= 2


def test_the_learning_rate_of_a_compiled_step_can_be_changed():
    optimizer, w = optim.SGD(1.0), tp.Variable(0.0)
    step = tp.tape_function(lambda: optimizer.apply_gradients([(tp.constant(1.0), w)]))
    step()
    traces = step.trace_count
    optimizer.learning_rate = 0.25
    step()
    assert w.numpy() == -1.25
    assert step.trace_count == traces


def test_slots_are_variables_of_the_optimizer_only():
    w, b = tp.Variable(np.ones((2, 3), np.float32), name="w"), tp.Variable(np.ones(3), name="b")
    optimizer = optim.Adam()
    assert [v.name for v in optimizer.variables] == ["iterations", "learning_rate"]
    optimizer.build([w, b])
    optimizer.build([w])
    assert [v.name for v in optimizer.variables[2:]] == ["w_m", "b_m", "w_v", "b_v"]
    assert [(v.shape, v.dtype) for v in optimizer.slots_of(b)] == [((3,), np.float64)] * 2
    assert optimizer.trainable_variables == ()
    assert "adam/slots/m/0" in optimizer.named_variables()


def test_no_gradient_at_all_is_an_error_and_a_missing_one_a_warning():
    w, b = tp.Variable(1.0, name="w"), tp.Variable(1.0, name="b")
    optimizer = optim.SGD(1.0)
    with pytest.raises(ValueError, match=r"no gradients for any variable \(all None: w, b\)"):
        optimizer.apply_gradients([(None, w), (None, b)])
    with pytest.warns(UserWarning, match="gradients of b are None") as seen:
        optimizer.apply_gradients([(tp.constant(1.0), w), (None, b)])
    assert seen[0].filename == __file__
    assert (w.numpy(), b.numpy()) == (0.0, 1.0)


def test_mistaken_pairs_change_nothing():
    w = tp.Variable(np.zeros((2, 3), np.float32), name="w")
    optimizer = optim.SGD()
    with pytest.raises(ValueError, match=r"gradient of variable 'w' has shape \[3, 2\], the variable \[2, 3\]"):
        optimizer.apply_gradients([(np.zeros((3, 2), np.float32), w)])
    with pytest.raises(TypeError, match="zip"):
        optimizer.apply_gradients([(w, tp.constant(1.0))])
    assert optimizer.iterations.numpy() == 0
    with pytest.raises(ValueError, match="momentum must be in"):
        optim.SGD(momentum=1.5)
    with pytest.raises(ValueError, match="beta_2 must be in"):
        optim.Adam(beta_2=1.0)


def test_a_small_network_learns_xor_with_one_compiled_step():
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    y = np.array([0, 1, 1, 0])
    hidden, out = nn.Dense(8, "tanh", inputs=2, seed=0), nn.Dense(2, inputs=8, seed=1)
    optimizer = optim.Adam(0.05)
    variables = hidden.trainable_variables + out.trainable_variables
    optimizer.build(variables)

    @tp.tape_function
    def step(x, y):
        with tp.GradientTape() as tape:
            loss = nn.softmax_cross_entropy(out(hidden(x)), y).mean()
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [step(x, y).item() for _ in range(150)]
    assert losses[-1] < 0.05 < losses[0]
    assert step.trace_count == 1


# -- clipping --------------------------------------------------------------------------------------
def test_233_clip_by_norm():
    np.testing.assert_allclose(optim.clip_by_norm([3.0, 4.0], 1.0), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(optim.clip_by_norm([0.3, 0.4], 1.0), [0.3, 0.4], rtol=1e-6)
    rows = optim.clip_by_norm([[3.0, 4.0], [0.3, 0.4]], 1.0, axis=1)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    x = tp.constant([0.0, 0.0])
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = optim.clip_by_norm(x, 1.0)
    np.testing.assert_array_equal(tape.gradient(y, x), [1.0, 1.0])


@pytest.mark.parametrize("compiled", [False, True])
def test_233_234_clip_by_global_norm(compiled):
    def clip(a, b):
        (x, none, y), norm = optim.clip_by_global_norm([a, None, b], 6.5)
        assert none is None
        return x, y, norm

    f = tp.tape_function(clip) if compiled else clip
    x, y, norm = f(tp.constant([3.0, 4.0]), tp.constant([12.0]))
    np.testing.assert_allclose(x, [1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(y, [6.0], rtol=1e-6)
    assert norm.item() == pytest.approx(13.0)
    assert optim.global_norm(([3.0, 4.0], None, [12.0])).item() == pytest.approx(13.0)


def test_235_an_inf_anywhere_makes_everything_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clipped, norm = optim.clip_by_global_norm([tp.constant([1.0]), tp.constant([np.inf])], 1.0)
    assert np.isinf(norm.item())
    assert all(np.isnan(t.item()) for t in clipped)


@pytest.mark.parametrize("clip", [optim.global_norm, lambda t: optim.clip_by_global_norm(t, 1.0)])
def test_236_one_tensor_is_not_a_sequence(clip):
    with pytest.raises(TypeError, match="list or tuple of tensors"):
        clip(tp.constant([1.0, 2.0]))
    with pytest.raises(ValueError, match="at least one tensor"):
        clip([None])
