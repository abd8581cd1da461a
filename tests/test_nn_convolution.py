"""Convolution and pooling as users call them: shapes, paddings, groups, layers, and what is said of mistakes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn


def close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(got), want, rtol=tolerance, atol=tolerance)


def written_out(x, kernel, strides, low, high, dilation):
    """The definition, one number after the other, of a two-dimensional convolution."""
    x = np.pad(x, ((0, 0), (low[0], high[0]), (low[1], high[1]), (0, 0)))
    taps = kernel.shape[:2]
    reach = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
    shape = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:3], reach, strides, strict=True)]
    y = np.zeros((len(x), *shape, kernel.shape[-1]))
    for (i, j), (k, m) in itertools.product(np.ndindex(*shape), np.ndindex(*taps)):
        at = x[:, i * strides[0] + k * dilation[0], j * strides[1] + m * dilation[1]]
        y[:, i, j] += at @ kernel[k, m]
    return y


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


# -- functions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "strides", "low", "high", "dilation"),
    [
        ({}, (1, 1), (0, 0), (0, 0), (1, 1)),
        ({"padding": "same"}, (1, 1), (1, 0), (1, 1), (1, 1)),
        ({"padding": "same", "strides": 2}, (2, 2), (1, 0), (1, 0), (1, 1)),
        ({"padding": "same", "dilation": (2, 1)}, (1, 1), (2, 0), (2, 1), (2, 1)),
        ({"padding": 1, "strides": (1, 3)}, (1, 3), (1, 1), (1, 1), (1, 1)),
        ({"padding": ((0, 2), (1, 0))}, (1, 1), (0, 1), (2, 0), (1, 1)),
        ({"padding": (2, 0)}, (1, 1), (2, 0), (2, 0), (1, 1)),
    ],
)
def test_conv2d(options, strides, low, high, dilation):
    x, kernel = numbers(2, 7, 6, 3), numbers(3, 2, 3, 4)
    want = written_out(x, kernel, strides, low, high, dilation)
    close(nn.conv2d(x, kernel, **options), want)
    close(tp.tape_function(lambda a, b: nn.conv2d(a, b, **options))(x, kernel), want)


def test_same_padding_gives_the_extent_over_the_stride_rounded_up():
    for n, k, s in itertools.product((4, 5, 6, 7), (1, 2, 3, 5), (1, 2, 3)):
        x = numbers(1, n, n, 1)
        assert nn.conv2d(x, numbers(k, k, 1, 2), s, "same").shape == (1, -(-n // s), -(-n // s), 2)
        for pool in (nn.max_pool2d, nn.avg_pool2d):
            assert pool(x, k, s, "same").shape == (1, -(-n // s), -(-n // s), 1)


def test_conv1d_is_conv2d_of_one_row():
    x, kernel = numbers(2, 9, 3), numbers(4, 3, 5)
    row = nn.conv2d(x[:, None], kernel[None], (1, 2), "same")
    close(nn.conv1d(x, kernel, 2, "same"), np.asarray(row)[:, 0])


def test_leading_axes_and_no_batch_at_all():
    x, kernel = numbers(2, 3, 5, 5, 2), numbers(3, 3, 2, 4)
    y = nn.conv2d(x, kernel)
    assert y.shape == (2, 3, 3, 3, 4)
    close(nn.conv2d(x[1, 2], kernel), np.asarray(y)[1, 2])


def test_groups_are_convolutions_side_by_side():
    x, kernel = numbers(2, 6, 6, 4), numbers(3, 3, 2, 6)
    for make in (lambda f: f, tp.tape_function):
        y = make(lambda a, b: nn.conv2d(a, b, padding="same", groups=2))(x, kernel)
        halves = [nn.conv2d(x[..., :2], kernel[..., :3], 1, "same"), nn.conv2d(x[..., 2:], kernel[..., 3:], 1, "same")]
        close(y, np.concatenate([np.asarray(h) for h in halves], axis=-1))
    depthwise = nn.conv2d(x, numbers(3, 3, 1, 4), groups=4)
    assert depthwise.shape == (2, 4, 4, 4)


def test_dtypes_are_those_of_a_product():
    assert nn.conv2d(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1, dtype=np.float64)).dtype == np.float64
    assert nn.conv2d(np.ones((1, 4, 4, 1), np.int32), np.ones((2, 2, 1, 1), np.int64)).dtype == np.int64


def test_pooling():
    x = numbers(2, 6, 5, 3)
    blocks = x[:, :, :4].reshape(2, 3, 2, 2, 2, 3)
    close(nn.max_pool2d(x), blocks.max(axis=(2, 4)))
    close(nn.avg_pool2d(x), blocks.mean(axis=(2, 4)))
    close(nn.max_pool1d(x[0], 3, 1), np.maximum(np.maximum(x[0][:, :-2], x[0][:, 1:-1]), x[0][:, 2:]))
    close(nn.avg_pool1d(x[0], 2), (x[0][:, 0:4:2] + x[0][:, 1:4:2]) / 2)


def test_padding_counts_as_no_element():
    x = -np.ones((1, 3, 3, 1), np.float32)
    for pool in (nn.max_pool2d, nn.avg_pool2d):
        close(pool(x, 2, 1, "same"), x)
        close(pool(x, 3, 2, 1), x[:, :2, :2])
        spec = [tp.TensorSpec((1, None, 3, 1), "f4")]
        close(tp.tape_function(lambda v, f=pool: f(v, 3, 1, 1), input_signature=spec)(x), x)


def test_131_the_gradient_of_a_maximum_goes_to_the_first_of_equal_elements():
    x = tp.constant(np.ones((1, 2, 4, 1)))
    close(tp.grad(lambda v: tp.sum(nn.max_pool2d(v)))(x)[0, ..., 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_a_symbolic_height():
    kernel = numbers(3, 3, 1, 2)
    spec = [tp.TensorSpec((None, None, 6, 1), "f4")]
    step = tp.tape_function(lambda x: nn.max_pool2d(nn.conv2d(x, kernel, padding="same"), (1, 2)), input_signature=spec)
    for n, height in ((1, 3), (2, 7)):
        x = numbers(n, height, 6, 1)
        close(step(x), np.asarray(nn.max_pool2d(nn.conv2d(x, kernel, padding="same"), (1, 2))))


# -- layers ---------------------------------------------------------------------------------------------------------
def test_layers_of_a_network():
    model = [
        nn.Conv2D(4, 3, padding="same", activation="relu", seed=0),
        nn.MaxPool2D(),
        nn.Conv2D(6, (2, 3), strides=2),
    ]
    model += [nn.AveragePool2D(2, 1), nn.Flatten(), nn.Dense(5, seed=1)]
    h = x = numbers(3, 12, 14, 2)
    for layer in model:
        h = layer(h)
    assert h.shape == (3, 5)
    assert model[0].kernel.shape == (3, 3, 2, 4) and model[2].kernel.shape == (2, 3, 4, 6)
    assert [v.name for v in model[0].variables] == ["kernel", "bias"]
    close(model[0](x), np.maximum(written_out(x, np.asarray(model[0].kernel), (1, 1), (1, 1), (1, 1), (1, 1)), 0))


def test_one_dimensional_layers():
    x = numbers(2, 10, 3)
    y = nn.MaxPool1D(3, 1)(nn.Conv1D(4, 3, dilation=2, channels=3, seed=0)(x))
    assert y.shape == (2, 4, 4)
    assert nn.AveragePool1D()(x).shape == (2, 5, 3)


def test_options_of_a_layer():
    layer = nn.Conv2D(6, 3, groups=2, channels=4, use_bias=False, kernel_initializer="ones", dtype=np.float64)
    assert layer.kernel.shape == (3, 3, 2, 6) and layer.bias is None
    close(layer(np.ones((1, 3, 3, 4))), np.full((1, 1, 1, 6), 18.0))
    assert nn.Flatten()(np.ones(3)).shape == (3, 1)


def test_initializers_count_every_tap():
    limit = np.sqrt(6 / (9 * 50 + 9 * 30))
    kernel = np.asarray(nn.Conv2D(30, 3, channels=50, seed=0).kernel)
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    deviation = np.asarray(nn.Conv2D(30, 3, channels=50, kernel_initializer="he_normal", seed=0).kernel).std()
    assert abs(deviation / np.sqrt(2 / 450) - 1) < 0.02


def test_a_step_trains():
    """A network learns to tell vertical from horizontal bars."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    x = np.zeros((64, 8, 8, 1), np.float32)
    for image, label, at in zip(x, labels, rng.integers(1, 7, 64), strict=True):
        image[(at, slice(None)) if label else (slice(None), at)] = 1
    model = [nn.Conv2D(4, 3, activation="relu", channels=1, seed=1), nn.MaxPool2D(), nn.Flatten()]
    model.append(nn.Dense(2, inputs=36, seed=2))
    variables = [v for layer in model for v in layer.variables]
    rule = tp.optim.Adam(0.02)

    @tp.tape_function
    def step(x, y):
        with tp.GradientTape() as tape:
            h = x
            for layer in model:
                h = layer(h)
            loss = nn.softmax_cross_entropy(h, y).mean()
        rule.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step(x, labels)) for _ in range(60)]
    assert losses[-1] < 0.05 < 0.4 < losses[0]


# -- mistakes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.conv2d(numbers(1, 4, 4, 3), numbers(2, 2, 1, 5)), tp.ShapeError, r"3 channels.*f32\[2,2,1,5\]"),
        (lambda: nn.conv2d(numbers(4, 4), numbers(2, 2, 1, 5)), tp.ShapeError, "expected x .*channels"),
        (lambda: nn.conv2d(numbers(1, 4, 4, 1), numbers(5, 2, 1, 5)), tp.ShapeError, "does not fit into 4 elements"),
        (lambda: nn.conv2d(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1), 0), ValueError, "strides must be an integer >= 1"),
        (lambda: nn.conv2d(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1), padding="full"), ValueError, "'same', 'valid'"),
        (lambda: nn.conv2d(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1), padding=-1), ValueError, "integer >= 0"),
        (lambda: nn.conv2d(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1), padding=[(1, 1)]), ValueError, "a pair for each"),
        (lambda: nn.conv2d(numbers(1, 4, 4, 1), numbers(2, 2, 1, 1), groups=True), ValueError, "groups must be"),
        (lambda: nn.max_pool2d(numbers(4, 4)), tp.ShapeError, "2 spatial axes"),
        (lambda: nn.max_pool2d(numbers(4, 4, 1), 2, padding=2), ValueError, "less than the window"),
        (lambda: nn.max_pool2d(np.ones((4, 4, 1), bool)), tp.DTypeError, "cast it first"),
        (lambda: nn.avg_pool2d(np.ones((4, 4, 1), int)), tp.DTypeError, "floats"),
        (lambda: nn.Conv2D(0, 3), ValueError, "filters must be"),
        (lambda: nn.Conv2D(4, (3, 3, 3)), ValueError, "kernel_size must be"),
        (lambda: nn.Conv2D(4, 3, padding="full"), ValueError, "padding must be"),
        (lambda: nn.Conv2D(5, 3, groups=2), ValueError, "do not make 2 groups"),
        (lambda: nn.Conv2D(4, 3, channels=2)(numbers(1, 4, 4, 3)), tp.ShapeError, "conv2_d.*3 channels"),
        (lambda: nn.Flatten()(1.0), tp.ShapeError, "needs an axis of examples"),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        call()


def test_what_symbols_leave_open_is_an_error_with_the_users_line():
    spec = [tp.TensorSpec((None, None, 6, 1), "f4")]
    kernel = numbers(2, 2, 1, 1)
    for f in (lambda x: nn.conv2d(x, kernel, 2, "same"), lambda x: nn.conv2d(x, kernel, 2), nn.max_pool2d):
        with pytest.raises(tp.ShapeError, match=r"fixed size"):
            tp.tape_function(f, input_signature=spec)(numbers(1, 4, 6, 1))
    spec = [tp.TensorSpec((2, 4, 4, None), "f4")]
    with pytest.raises(tp.ShapeError, match="channels="):
        tp.tape_function(nn.Conv2D(2, 3).__call__, input_signature=spec)(numbers(2, 4, 4, 1))
