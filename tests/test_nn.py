"""Modules, layers, activations and losses. A number behind a test is the line of the semantics that it checks."""

import math

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn


def close(a, b, tol=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tol, atol=tol)


# -- Module ----------------------------------------------------------------------------------------
def test_168_attributes_are_collected_sorted_by_name_at_any_depth_each_once():
    m = nn.Module()
    m.b = tp.Variable(1.0, name="b")
    a0, z = tp.Variable(2.0, name="a0"), tp.Variable(3.0, name="z")
    m.a = [a0, {"z": z}]
    m.c = tp.Variable(4.0, name="c", trainable=False)
    m.d = m.b
    assert [v.name for v in m.trainable_variables] == ["a0", "z", "b"]
    assert [v.name for v in m.variables] == ["a0", "z", "b", "c"]
    assert [v.name for v in m.non_trainable_variables] == ["c"]


def test_own_variables_come_before_those_of_modules_inside():
    outer, child, grandchild = nn.Module("outer"), nn.Module("child"), nn.Module("grandchild")
    grandchild.v = tp.Variable(3.0, name="grandchild_v")
    child.m, child.v = grandchild, tp.Variable(2.0, name="child_v")
    outer.a, outer.z, outer.again = (child,), tp.Variable(1.0, name="outer_v"), child
    assert [v.name for v in outer.variables] == ["outer_v", "child_v", "grandchild_v"]
    assert outer.submodules == (child, grandchild)
    assert list(outer.named_variables()) == ["outer/z", "outer/a/0/v", "outer/a/0/m/v"]


def test_modules_that_hold_each_other_end():
    a, b = nn.Module("a"), nn.Module("b")
    a.other, b.other, b.v = b, a, tp.Variable(1.0)
    assert len(a.variables) == 1
    assert a.submodules == (b,)


def test_169_the_name_is_an_identifier_and_defaults_to_the_class_name():
    class MyHTTPLayer2(nn.Module):
        pass

    assert MyHTTPLayer2().name == "my_http_layer2"
    with pytest.raises(ValueError, match="'1st' is not a module name"):
        nn.Module("1st")


def test_a_module_that_does_not_call_super_init_still_works():
    class Bare(nn.Module):
        def __init__(self):
            self.v = tp.Variable(1.0)

    assert Bare().name == "bare"
    assert len(Bare().variables) == 1
    assert repr(Bare()) == "<Bare 'bare': 1 variables, 1 numbers>"


# -- Dense -----------------------------------------------------------------------------------------
def test_170_dense_gradients():
    layer = nn.Dense(2, activation="relu", kernel_initializer="ones")
    with tp.GradientTape() as tape:
        loss = (layer(tp.constant([[1.0, 2.0, 3.0]])) ** 2).mean()
    kernel, bias = tape.gradient(loss, layer.trainable_variables)
    close(kernel, [[6, 6], [12, 12], [18, 18]])
    close(bias, [6, 6])
    assert list(layer.named_variables()) == ["dense/kernel", "dense/bias"]
    assert [v.name for v in layer.variables] == ["kernel", "bias"]


def test_171_variables_appear_with_the_first_call():
    layer = nn.Dense(4, seed=0)
    assert layer.variables == ()
    assert layer(np.ones((5, 3), np.float32)).shape == (5, 4)
    assert [v.shape for v in layer.variables] == [(3, 4), (4,)]
    layer.build(7)
    assert layer.kernel.shape == (3, 4)


def test_dense_is_seeded_and_keeps_the_dtype():
    one, two = (nn.Dense(3, inputs=2, seed=5, dtype=np.float64) for _ in range(2))
    close(one.kernel, two.kernel, 0)
    assert one(np.ones((1, 2))).dtype == np.float64
    limit = math.sqrt(6 / 5)
    assert np.abs(one.kernel.numpy()).max() <= limit


def test_dense_without_bias_and_with_leading_axes():
    layer = nn.Dense(3, inputs=2, use_bias=False, kernel_initializer="he_normal", seed=0)
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    close(layer(x), x @ layer.kernel.numpy())
    assert len(layer.variables) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Dense(0), "positive integer of units"),
        (lambda: nn.Dense(2, "rleu"), "'rleu' is not an activation; expected a callable or one of linear, relu"),
        (lambda: nn.Dense(2, kernel_initializer="x"), "'x' is not an initializer"),
        (lambda: nn.Dense(2, inputs=3)(np.ones((1, 4), np.float32)), "last axis of x must be 3"),
        (lambda: nn.Dense(2)(1.0), "at least one axis"),
    ],
)
def test_bad_layers_say_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_symbolic_width_cannot_size_a_kernel():
    layer = nn.Dense(2)
    f = tp.tape_function(layer, input_signature=[tp.TensorSpec((1, None), np.float32)])
    with pytest.raises(ValueError, match="symbolic size"):
        f(np.ones((1, 3), np.float32))


# -- activations -----------------------------------------------------------------------------------
X = np.array([-100.0, -2.0, -0.5, 0.0, 0.5, 2.0, 100.0])
REFERENCE = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    "log_softmax": lambda x: x - x.max() - np.log(np.exp(x - x.max()).sum()),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_activations(name):
    f = nn.activation(name)
    close(f(X), REFERENCE[name](X), 1e-12)
    close(tp.tape_function(f)(X), REFERENCE[name](X), 1e-12)


@pytest.mark.parametrize("name", REFERENCE)
def test_derivatives_of_activations(name):
    f, at, h = nn.activation(name), np.array([-1.5, -0.3, 0.4, 1.1]), 1e-6
    weights = np.array([1.0, -2.0, 0.5, 3.0])
    gradient = tp.grad(lambda x: (f(x) * weights).sum())(tp.constant(at))
    steps = np.eye(4) * h
    wanted = [(REFERENCE[name](at + s) - REFERENCE[name](at - s)) @ weights / (2 * h) for s in steps]
    close(gradient, wanted, 1e-7)


def test_132_conventions_at_zero():
    def at_zero(f):
        return tp.grad(f)(tp.constant(0.0)).item()

    assert [at_zero(f) for f in (nn.relu, nn.elu, nn.softplus)] == [0.0, 1.0, 0.5]


# -- losses ----------------------------------------------------------------------------------------
def test_146_cross_entropy_of_integer_labels():
    logits = tp.constant([1.0, 2.0, 3.0])
    with tp.GradientTape() as tape:
        tape.watch(logits)
        loss = nn.softmax_cross_entropy(logits, 2)
    close(loss, 0.4076, 1e-4)
    close(tape.gradient(loss, logits), nn.softmax(logits).numpy() - [0, 0, 1])


@pytest.mark.parametrize("compiled", [False, True])
def test_integer_labels_equal_one_hot_rows(compiled):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 6, 5)) * 50, rng.integers(0, 5, (4, 6))
    loss = tp.tape_function(nn.softmax_cross_entropy) if compiled else nn.softmax_cross_entropy
    a, b = loss(logits, labels), loss(logits, np.eye(5)[labels])
    assert a.shape == (4, 6)
    close(a, b, 1e-12)
    close(a, -np.take_along_axis(REFERENCE_LOG_SOFTMAX(logits), labels[..., None], -1)[..., 0], 1e-10)


def REFERENCE_LOG_SOFTMAX(x):
    z = x - x.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_classes_is_an_index_error(compiled, label):
    loss = tp.tape_function(nn.softmax_cross_entropy) if compiled else nn.softmax_cross_entropy
    with pytest.raises(IndexError):
        loss(np.zeros((2, 3), np.float32), np.array([0, label])).numpy()


@pytest.mark.parametrize(
    "logits, labels, error, message",
    [
        (np.zeros((2, 3)), np.zeros((2, 1), int), ValueError, r"expected labels of shape \[2\]"),
        (np.zeros((2, 3)), np.zeros(2), ValueError, "neither integers of shape"),
        (np.zeros((2, 3), int), np.zeros(2, int), TypeError, "must be floats"),
        (1.0, 0, ValueError, "axis of classes"),
    ],
)
def test_bad_operands_of_the_cross_entropy(logits, labels, error, message):
    with pytest.raises(error, match=message):
        nn.softmax_cross_entropy(logits, labels)


def test_mse_is_one_number_per_example_and_does_not_broadcast():
    close(nn.mse([[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [3.0, 2.0]]), [2.5, 2.0])
    close(nn.mse(3.0, 1.0), 4.0)
    with pytest.raises(ValueError, match=r"prediction \[4\] and target \[4, 1\] differ"):
        nn.mse(np.zeros(4), np.zeros((4, 1)))
