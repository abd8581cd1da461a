"""Normalisation, attention and look-up tables against their formulas in NumPy, eagerly and on both engines."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import nn, optim
from tapefuse.ir.passes import optimise
from tapefuse.ir.types import Type
from tapefuse.tracer.trace import trace_function

RNG = np.random.default_rng(0)
MODES = pytest.mark.parametrize("mode", ["eager", "llvm", "numba"])


def close(a, b, tol=1e-12):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tol, atol=tol)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def run(mode: str, f, *args, signature=None):
    return (f if mode == "eager" else tp.tape_function(f, engine=mode, input_signature=signature))(*args)


def slopes(f, x: np.ndarray, g: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """The gradient of sum(g * f(x)) by central differences."""
    found = np.zeros_like(x)
    for k in np.ndindex(*x.shape):
        e = np.zeros_like(x)
        e[k] = h
        found[k] = ((f(x + e) - f(x - e)) * g).sum() / (2 * h)
    return found


# -- normalisation -------------------------------------------------------------------------------------------------
def layer_norm(x, epsilon=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def rms_norm(x, epsilon=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


@MODES
@pytest.mark.parametrize("make, formula", [(nn.LayerNorm, layer_norm), (nn.RMSNorm, rms_norm)])
def test_normalisation_and_its_gradient(mode, make, formula):
    layer, x, g = make(5, dtype=np.float64), draw(2, 3, 5), draw(3, 5)
    layer.scale.assign(draw(5))
    scale = layer.scale.numpy()
    shift = layer.bias.assign(draw(5)).numpy() if layer.bias is not None else 0.0

    def step(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = (y * g).sum()
        return y, *tape.gradient(loss, [x, *layer.trainable_variables])

    signature = [tp.TensorSpec((None, 3, 5), np.float64)] if mode == "llvm" else None
    y, dx, dscale, *dbias = run(mode, step, tp.constant(x), signature=signature)
    close(y, formula(x) * scale + shift)
    close(dx, slopes(lambda x: formula(x) * scale, x, g), 1e-7)
    close(dscale, (formula(x) * g).sum((0, 1)))
    for d in dbias:
        close(d, 2 * g.sum(0))


def test_normalisation_makes_its_variables_on_the_first_call_or_none():
    layer = nn.LayerNorm()
    assert layer.variables == ()
    assert layer(np.ones((2, 4), np.float32)).dtype == np.float32
    assert list(layer.named_variables()) == ["layer_norm/scale", "layer_norm/bias"] and layer.bias.shape == (4,)
    plain = nn.LayerNorm(use_scale=False, use_bias=False)
    close(plain(draw(2, 6).astype("f4")).numpy().mean(-1), 0, 1e-6)
    assert plain(draw(3, 2)).shape == (3, 2) and plain.variables == ()
    close(plain(np.full((2, 3), 7.0)), 0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.LayerNorm(4)(np.ones((2, 3))), r"the last axis of x \(2, 3\) must be 4"),
        (lambda: nn.RMSNorm(4)(1.0), "at least one axis"),
        (lambda: nn.LayerNorm(epsilon=-1.0), "epsilon of at least 0"),
        (lambda: nn.Embedding(0, 3), "positive integer size"),
        (lambda: nn.MultiHeadAttention(3, inputs=4), "3 heads do not divide 4 inputs"),
        (lambda: nn.MultiHeadAttention(0), "positive integer of heads"),
        (lambda: nn.MultiHeadAttention(1)(np.ones(3)), r"takes rows of inputs"),
        (lambda: nn.scaled_dot_product_attention(*[np.ones((2, 3))] * 2, np.ones((3, 3))), "as many rows"),
        (lambda: nn.scaled_dot_product_attention(*[np.ones(3)] * 3), "two axes at least"),
    ],
)
def test_bad_layers_say_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ids_and_masks_have_their_dtypes():
    with pytest.raises(TypeError, match="ids must be integers"):
        nn.Embedding(3, 2)(np.ones(2))
    with pytest.raises(TypeError, match="mask must hold bools"):
        nn.scaled_dot_product_attention(*[np.ones((2, 3))] * 3, mask=np.ones((2, 2)))


# -- attention -----------------------------------------------------------------------------------------------------
def attention(q, k, v, seen):
    scores = np.where(seen, q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize(
    ("mode", "causal", "masked"), [*product(["eager", "llvm"], [False, True], [False, True]), ("numba", True, True)]
)
def test_attention(mode, causal, masked):
    q, k, v = draw(2, 3, 4, 6), draw(2, 3, 5, 6), draw(2, 3, 5, 2)
    mask = RNG.random((2, 1, 4, 5)) < 0.6 if masked else None
    if masked:
        mask[..., 0] = True  # every query sees a key
    seen = np.tril(np.ones((4, 5), bool), 0) if causal else np.ones((4, 5), bool)
    f = lambda q, k, v: nn.scaled_dot_product_attention(q, k, v, mask, causal)
    close(run(mode, f, q, k, v), attention(q, k, v, seen if mask is None else seen & mask))


def test_a_query_that_sees_nothing_gets_the_mean_of_the_values():
    q, k, v = draw(3, 4), draw(5, 4), draw(5, 2)
    mask = np.ones((3, 5), bool)
    mask[1] = False
    y = nn.scaled_dot_product_attention(q, k, v, mask)
    close(y[1], v.mean(0))
    assert np.isfinite(y.numpy()).all()


@MODES
def test_multi_head_attention_and_its_gradient(mode):
    layer, x, g = nn.MultiHeadAttention(2, inputs=6, seed=0, dtype=np.float64), draw(2, 4, 6), draw(4, 6)
    wq, bq, wk, bk, wv, bv, wo, bo = (v.numpy() for v in layer.variables)

    def formula(x):
        q, k, v = (np.swapaxes((x @ w + b).reshape(2, 4, 2, 3), 1, 2) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
        y = attention(q, k, v, np.tril(np.ones((4, 4), bool)))
        return np.swapaxes(y, 1, 2).reshape(2, 4, 6) @ wo + bo

    def step(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, causal=True)
            loss = (y * g).sum()
        return y, tape.gradient(loss, x)

    signature = [tp.TensorSpec((None, 4, 6), np.float64)] if mode == "llvm" else None
    y, dx = run(mode, step, tp.constant(x), signature=signature)
    close(y, formula(x))
    close(dx, slopes(formula, x, g), 1e-7)
    assert [n.split("/")[1] for n in layer.named_variables()][::2] == ["query", "key", "value", "output"]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_any_length_to_another_context(causal):
    layer = nn.MultiHeadAttention(2, seed=1, dtype=np.float64)
    wanted = layer(x := draw(1, 3, 4), context := draw(1, 5, 4), causal=causal)
    specs = [tp.TensorSpec((None, None, 4), np.float64), tp.TensorSpec((1, None, 4), np.float64)]
    f = tp.tape_function(lambda x, context: layer(x, context, causal=causal), input_signature=specs)
    close(f(x, context), wanted)
    assert f(x[:, :1], context[:, :2]).shape == (1, 1, 4)


def test_the_causal_mask_is_no_array():
    attend = lambda inputs: [nn.scaled_dot_product_attention(*inputs, *inputs, *inputs, causal=True)]
    traced = trace_function(attend, [Type(np.dtype("f4"), (2, 40, 4))], ["q"], "attend")
    assert not traced.arrays
    assert all(v.shape != (40, 40) for v in optimise(traced.graph).nodes if v.op.name in ("const", "iota"))


# -- look-up tables ------------------------------------------------------------------------------------------------
@MODES
def test_embedding_and_a_step_on_its_rows(mode):
    layer, rule, ids = nn.Embedding(7, 3, seed=0, dtype=np.float64), optim.SGD(0.5), np.array([[1, 6], [1, -2]])
    before, g = layer.table.numpy(), draw(2, 2, 3)
    assert np.abs(before).max() <= 0.05

    def step(ids):
        with tp.GradientTape() as tape:
            y = layer(ids)
            loss = (y * g).sum()
        rule.apply_gradients([(tape.gradient(loss, layer.table), layer.table)])
        return y

    close(run(mode, step, tp.constant(ids)), before[ids])
    np.add.at(before, ids, -0.5 * g)
    close(layer.table.numpy(), before)
    with pytest.raises(tp.IndexOutOfRangeError):
        run(mode, step, tp.constant(ids + 6))
    close(layer.table.numpy(), before)
