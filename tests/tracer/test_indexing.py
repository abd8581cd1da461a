"""Indexing a tensor is indexing an array, eagerly and compiled, with gradients that scatter back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tapefuse as tp

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def index_of(shape):
    items = hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)
    return items


@settings(max_examples=150)
@given(st.data())
def test_basic_indices(data):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    index = data.draw(index_of(shape))
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    got = tp.constant(x)[index]
    np.testing.assert_array_equal(np.asarray(got), x[index])
    assert got.shape == x[index].shape


@settings(max_examples=100)
@given(st.data())
def test_mixed_indices(data):
    n = data.draw(st.integers(1, 3))
    rows = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    items = []
    for extent in X.shape[:n]:
        array = hnp.arrays(np.int64, rows, elements=st.integers(-extent, extent - 1))
        items.append(
            data.draw(array | st.integers(-extent, extent - 1) | st.just(slice(None, None, -1)) | st.just(slice(1, 3)))
        )
    position = data.draw(st.integers(0, n))
    items.insert(position, data.draw(st.just(None) | st.just(Ellipsis)))
    index = tuple(items)
    want = X[index]
    got = tp.constant(X)[index]
    np.testing.assert_array_equal(np.asarray(got), want)
    assert got.shape == want.shape


@pytest.mark.parametrize(
    "index",
    [
        np.array([[0, 1], [1, 0]]),
        (slice(None), [2, 0]),
        (0, slice(None), [1, 3]),
        ([0, 1], slice(None), [1, 3]),
        (np.array([1]), None, 2),
        X > 5,
        (slice(None), np.array([True, False, True])),
        (Ellipsis, np.array([True, False, True, True])),
        np.int8(1),
        [],
    ],
    ids=str,
)
def test_arrays_and_masks(index):
    want = X[index]
    got = tp.constant(X)[index]
    np.testing.assert_array_equal(np.asarray(got), want)
    assert got.shape == want.shape
    compiled = tp.tape_function(lambda x: x[index])(X)
    np.testing.assert_array_equal(np.asarray(compiled), want)


def test_indices_computed_in_a_trace():
    f = tp.tape_function(lambda x, k: (x[k], x[:, k, None], x[tp.argmax(x[:, 0, 0])]))
    for got, want in zip(f(X, np.array([1, -1])), (X[[1, -1]], X[:, [1, -1], None], X[1]), strict=True):
        np.testing.assert_array_equal(np.asarray(got), want)


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_gradient_scatters(wrap):
    g = wrap(tp.grad(lambda x: (x[[1, 1, 0], :2] * 3).sum() + x[..., -1].sum()))(tp.constant(X))
    want = np.zeros_like(X)
    np.add.at(want, (np.array([1, 1, 0]), slice(None, 2)), 3)
    want[..., -1] += 1
    np.testing.assert_array_equal(np.asarray(g), want)


@pytest.mark.parametrize("index", [2, -3, (0, 0, 0, 0), (slice(None), 3), [0, 2]], ids=str)
@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_out_of_range(index, wrap):
    with pytest.raises(IndexError):
        wrap(lambda x: x[index])(tp.constant(X))


@pytest.mark.parametrize("index", ["a", 1.0, (Ellipsis, Ellipsis), (True, 0), np.array([0.5])], ids=str)
def test_no_indices(index):
    with pytest.raises((TypeError, IndexError)):
        tp.constant(X)[index]


def test_mask_of_another_shape():
    with pytest.raises(IndexError, match="mask"):
        tp.constant(X)[np.array([True, False, True])]


def test_mask_in_a_trace():
    with pytest.raises(tp.ConcretizationError, match="tp.where"):
        tp.tape_function(lambda x: x[x > 1])(X)


@pytest.mark.parametrize(
    "index", [slice(1, None), slice(None, -1), slice(None, None, -1), 0, -1, slice(-2, None)], ids=str
)
def test_symbolic_extent(index):
    f = tp.tape_function(lambda x: x[index], input_signature=[tp.TensorSpec((None, 2))])
    for n in (2, 5):
        x = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
        np.testing.assert_array_equal(np.asarray(f(x)), x[index])


def test_slice_of_a_symbolic_extent_that_is_too_short():
    f = tp.tape_function(lambda x: x[3:], input_signature=[tp.TensorSpec((None,))])
    assert f(np.ones(3, np.float32)).shape == (0,)
    with pytest.raises(IndexError):
        f(np.ones(2, np.float32))


@pytest.mark.parametrize("interpreted", [True, False])
def test_a_loop_index_beside_a_traced_number(interpreted):
    """An index known by its symbol stands next to one known at run time only, negative ones included."""

    @tp.tape_function
    def f(m, p, n):
        total = 0.0 * m[0, 0]
        for i in range(p % 4):
            total = total + m[3 - i, n % 3]
            m[-1 - i, (2 * n + 1) % 3] += total
        return total, m

    m = np.arange(12.0).reshape(4, 3)
    with tp.config(disable_jit=interpreted):
        total, changed = f(m, tp.constant(3), tp.constant(5))
    assert total.item() == 24
    np.testing.assert_array_equal(changed, [[0, 1, 2], [3, 4, 29], [6, 7, 27], [9, 10, 22]])


@pytest.mark.parametrize("mask", [True, False, np.bool_(True), np.array(False), tp.constant(True)])
@pytest.mark.parametrize("x", [np.array(3.0), np.arange(3.0)])
def test_a_single_bool_takes_all_or_nothing(x, mask) -> None:
    np.testing.assert_array_equal(tp.constant(x)[mask], x[np.asarray(mask)], strict=True)
    y, t = x.copy(), tp.constant(x)
    y[np.asarray(mask)] = 7
    t[mask] = 7
    np.testing.assert_array_equal(t, y, strict=True)


def sum_of_others(x, n):
    s = x[0]
    for t in range(1, n):
        s = s + x[t] * x[t]
    return s


def second_if_there(x, n):
    if n > 1:
        return x[1]
    return x[-2] if n < 0 else x[0]


def marked(x, n):
    for _ in range(n):
        x[3] = 5.0
    return x


def marked_from(x, n):
    i = 1
    while i < n:
        x[i] = 5.0
        i += 1
    return x


@pytest.mark.parametrize("function", [sum_of_others, second_if_there, marked, marked_from])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_indices_in_blocks_that_may_not_run(function, rows):
    """An index that no array of this size has is an error if the block runs, as in Python; not while it is traced."""
    x = np.arange(1.0, 1 + rows)
    f = tp.tape_function(function)
    for n in range(-1, 5):
        try:
            want = function(x.copy(), n)
        except IndexError:
            with pytest.raises(tp.IndexOutOfRangeError, match="outside"):
                f(x, np.int64(n))
            continue
        np.testing.assert_array_equal(np.asarray(f(x, np.int64(n))), want)


def test_gradients_of_blocks_with_indices_outside():
    gradient = tp.tape_function(tp.grad(sum_of_others))
    assert gradient(np.ones(1), np.int64(1)).tolist() == [1.0]
    with pytest.raises(tp.IndexOutOfRangeError, match="outside axis 0"):
        gradient(np.ones(1), np.int64(2))


def test_indices_outside_of_every_block_are_errors_at_once():
    with pytest.raises(tp.IndexOutOfRangeError, match="index 3 is out of range for axis 0 of extent 2"):
        tp.tape_function(lambda x: x[3]).graph(tp.TensorSpec((2,)))
