"""Keys: the published vectors, independence of what is derived from them, and errors."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir import ops
from tests.random.helpers import ENGINES, known_normal_statistics

# Threefry-2x32-20 in the file kat_vectors of Random123 1.14: counter, key, result
PUBLISHED = [
    (0x0000000000000000, 0x0000000000000000, 0x6B20015999BA4EFE),
    (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x1CB996FCBB002BE7),
    (0x243F6A8885A308D3, 0x13198A2E03707344, 0xC4923A9C483DF7A0),
]


@pytest.mark.parametrize(("counter", "key", "want"), PUBLISHED)
def test_published_vectors(counter: int, key: int, want: int) -> None:
    counter, key = np.uint64(counter), np.uint64(key)
    assert ops.threefry(key, counter).item() == want
    several = np.full(3, counter)
    np.testing.assert_array_equal(ops.threefry(key, several), np.full(3, want, np.uint64))
    for engine in ENGINES:
        with tp.config(engine=engine):
            got = tp.tape_function(ops.threefry)(tp.constant(key), tp.constant(several))
        np.testing.assert_array_equal(got, np.full(3, want, np.uint64))


def test_long_arrays_are_encrypted_as_their_elements_are() -> None:
    counters = np.arange(70_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    long = ops.threefry(np.uint64(7), counters)
    np.testing.assert_array_equal(long[69_990:], ops.threefry(np.uint64(7), counters[69_990:]))
    np.testing.assert_array_equal(long.reshape(700, 100), ops.threefry(np.uint64(7), counters.reshape(700, 100)))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(), (5,), (3, 40), (0, 2), (33_000,)])
def test_bits_are_the_same_everywhere(width: int, shape: tuple[int, ...]) -> None:
    key = tp.random.key(42)
    eager = tp.random.bits(shape, width, key=key)
    assert (eager.dtype, eager.shape) == (np.dtype(f"u{width // 8}"), shape)
    for engine in ENGINES:
        with tp.config(engine=engine):
            compiled = tp.tape_function(lambda key: tp.random.bits(shape, width, key=key))(key)
        np.testing.assert_array_equal(compiled, eager)
    words = np.asarray(tp.random.bits(shape, 64, key=key))
    np.testing.assert_array_equal(eager, (words >> np.uint64(64 - width)).astype(eager.dtype))


def test_an_element_does_not_depend_on_the_shape() -> None:
    key = tp.random.key(1)
    long = np.asarray(tp.random.bits((1000,), key=key))
    np.testing.assert_array_equal(tp.random.bits((7, 11), key=key), long[:77].reshape(7, 11))
    f = tp.tape_function(
        lambda key, x: tp.random.bits(x.shape, key=key),
        input_signature=[tp.TensorSpec((), np.uint64), tp.TensorSpec((None, 10), np.float32)],
    )
    np.testing.assert_array_equal(f(key, np.zeros((9, 10), np.float32)), long[:90].reshape(9, 10))


def test_seeds() -> None:
    assert tp.random.key(5).item() == 5
    assert tp.random.key(-1).item() == 2**64 - 1
    assert tp.random.key(np.int32(7)).item() == tp.tape_function(tp.random.key)(7).item() == 7
    for wrong, error, words in (
        (1.5, tp.DTypeError, r"a seed must be an integer"),
        (2**64, ValueError, r"more than 64 bits"),
        (np.float32(1), tp.DTypeError, r"key at .*test_keys.py:\d+: a seed is an integer, not float32"),
        (np.arange(3), tp.ShapeError, r"a seed is a scalar"),
    ):
        with pytest.raises(error, match=words):
            tp.random.key(wrong)


def test_split_and_fold_in() -> None:
    key = tp.random.key(3)
    first, second = tp.random.split(key)
    many = np.asarray(tp.random.split(key, 1000))
    assert [first.item(), second.item()] == many[:2].tolist()
    np.testing.assert_array_equal(tp.random.split(key, (10, 100)), many.reshape(10, 100))
    folded = np.asarray(tp.random.fold_in(key, np.arange(1000)))
    assert tp.random.fold_in(key, 17).item() == folded[17]
    drawn = np.asarray(tp.random.bits((1000,), 64, key=key))
    assert len({*many.tolist(), *folded.tolist(), *drawn.tolist()}) == 3000  # one key may serve all of them
    compiled = tp.tape_function(lambda k, n: (tp.random.split(k, 5), tp.random.fold_in(k, n)))(key, 17)
    np.testing.assert_array_equal(compiled[0], many[:5])
    assert compiled[1].item() == folded[17]


def test_streams_are_independent() -> None:
    """Neighbouring keys, split keys and folded keys: no pair of streams is correlated beyond chance."""
    key = tp.random.key(0)
    for keys in (
        np.arange(40, dtype=np.uint64),
        np.uint64(1) << np.arange(40, dtype=np.uint64),
        np.asarray(tp.random.split(key, 40)),
        np.asarray(tp.random.fold_in(key, np.arange(40))),
    ):
        rows = np.stack([np.asarray(tp.random.normal((2000,), key=k)) for k in keys])
        correlations = np.corrcoef(rows)[np.triu_indices(40, 1)] * np.sqrt(2000)
        known_normal_statistics(correlations)


def test_bits_are_balanced_and_avalanche() -> None:
    key = tp.random.key(11)
    words = np.asarray(tp.random.bits((100_000,), 64, key=key))
    ones = np.array([np.count_nonzero(words >> np.uint64(k) & np.uint64(1)) for k in range(64)])
    known_normal_statistics((ones - 50_000) / np.sqrt(25_000), most=4)
    other = np.asarray(tp.random.bits((100_000,), 64, key=tp.random.key(11 ^ 1 << 40)))
    changed = np.bitwise_count(words ^ other).mean()
    assert abs(changed - 32) < 5 * 4 / np.sqrt(100_000)


def test_vmap_over_keys() -> None:
    keys = tp.random.split(tp.random.key(8), 6)
    draw = lambda k: tp.random.bits((3, 4), key=tp.random.fold_in(k, 2))
    want = np.stack([np.asarray(draw(k)) for k in np.asarray(keys)])
    np.testing.assert_array_equal(tp.vmap(draw)(keys), want)
    np.testing.assert_array_equal(tp.tape_function(tp.vmap(draw))(keys), want)
    pairs = tp.vmap(tp.random.split)(keys)
    np.testing.assert_array_equal(pairs, np.stack([np.asarray(tp.random.split(k)) for k in np.asarray(keys)]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tp.random.bits((2,), key=3), tp.DTypeError, r"bits at .*: a key .* not of type int; .*key\("),
        (lambda: tp.random.normal((2,), key=np.int64(3)), tp.DTypeError, r"normal at .*not of dtype int64"),
        (lambda: tp.random.uniform((2,), key=tp.random.split(tp.random.key(0))), tp.ShapeError, r"\[2\].*tp.vmap"),
        (lambda: tp.random.bits((2,), 7), ValueError, "width must be 8, 16, 32 or 64, not 7"),
        (lambda: tp.random.bits((2, -1)), tp.ShapeError, "negative extent"),
        (lambda: tp.random.fold_in(tp.random.key(0), -1), ValueError, "from 0 to"),
        (lambda: tp.random.fold_in(tp.random.key(0), np.ones(2)), tp.DTypeError, "must be an integer, not float64"),
        (lambda: tp.random.split(tp.random.key(0), 1.5), tp.DTypeError, "sequence of integers"),
    ],
)
def test_errors(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()
