"""What lowerings promise beyond their values: nothing outside an operand is read, and what stays short."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.halves import FLOAT16
from tapefuse.ir.ops import windows
from tapefuse.ir.ops.index import positions
from tapefuse.ir.types import Type, type_of
from tests.ir.numeric_builder import Accessor, ArrayBuilder, ConvertingBuilder, NumericBuilder, lower, lower_whole
from tests.ir.test_halves import EVERY, half, hard

INT64 = np.dtype("i8")


@pytest.mark.parametrize("k", [-9, -4, -3, 2, 3, 4, 9])
@pytest.mark.parametrize("dtype", ["i8", "i4"])
def test_positions_out_of_range_are_moved_into_it(k, dtype):
    x, idx = np.array([1.0, 2.0, 3.0]), np.array([k], dtype)
    got = lower(ops.gather, (x, idx), {}, [type_of(x), type_of(idx)], {})
    assert got == x[np.clip(k + 3 if k < 0 else k, 0, 2)]


class Counter:
    """An index operand with the value that its `axis` counts."""

    dtype = INT64

    def __init__(self, shape, axis):
        self.shape, self.axis = shape, axis

    def __call__(self, i):
        assert len(i) == len(self.shape)
        return i[self.axis]


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 0), ((3, 4), 1), ((4,), 0), ((3, 1), 0), ((1,), 0)])
def test_an_index_that_counts_its_axis_is_taken_as_it_is(shape, axis):
    """And not compared with bounds, which would keep loops from being vectorised."""
    i = tuple(map(np.int64, (2, 3)[-len(shape) :]))
    i = tuple(np.int64(0) if n == 1 else k for k, n in zip(i, shape, strict=True))
    assert positions(NumericBuilder({}), i, [Counter(shape, axis)], (shape[axis],))[0] is i[axis]


def test_an_index_that_counts_another_extent_is_kept_within_bounds():
    for n in (2, 3, 7):
        last = np.int64(3)
        assert positions(NumericBuilder({}), (np.int64(1), last), [Counter((2, 4), 1)], (n,)) == [min(3, n - 1)]
    k = np.int64(4)  # of two axes, the first of which the operand does not have
    assert positions(NumericBuilder({}), (k, k), [Counter((5,), 0), Counter((5, 5), 0)], (2, 9)) == [1, 4]


# -- batches that stay what they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [ops.conv, ops.conv_input], ids=lambda op: op.name)
def test_a_batch_of_inputs_to_one_kernel_is_one_longer_convolution(op):
    """And not a convolution for each example, with a kernel of its own."""
    attrs = {"strides": (1, 1), "low": (0, 0), "high": (0, 0), "dilation": (1, 1)}
    attrs |= {"extents": (7, 7)} if op is ops.conv_input else {}
    image = (2, 5, 5, 3) if op is ops.conv_input else (2, 7, 7, 3)

    def batched(lead, flags):
        shapes = [(4, *lead, *image) if flags[0] else (*lead, *image), (*lead, 3, 3, 3, 3)]
        shapes[1] = (4, *shapes[1]) if flags[1] else shapes[1]
        y = op.batch(flags, *(param(Type(np.dtype("f4"), s)) for s in shapes), **attrs)
        return y.shape, [v.args[1].shape for v in Graph((), (y,)).nodes if v.op is op]

    wide = (2, 5, 5, 3) if op is ops.conv else (2, 7, 7, 3)
    assert batched((), (True, False)) == ((4, *wide), [(3, 3, 3, 3)])
    assert batched((), (True, True)) == batched((), (False, True)) == ((4, *wide), [(4, 3, 3, 3, 3)])
    assert batched((6,), (True, False)) == ((4, 6, *wide), [(4, 6, 3, 3, 3, 3)])


# -- halves as bits ---------------------------------------------------------------------------------------------------

BUILDERS = pytest.mark.parametrize("builder", [ArrayBuilder, ConvertingBuilder])


@BUILDERS
@half
def test_every_half_is_opened(dtype, builder):
    op = ops.from_f16 if dtype is FLOAT16 else ops.from_bf16
    got, want = lower_whole(op, EVERY, builder=builder), EVERY.view(dtype).astype("f4")
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@BUILDERS
@half
@pytest.mark.parametrize("source", ["f4", "f8"])
@np.errstate(all="ignore")
def test_rounding_to_halves(source, dtype, builder):
    x = hard(source)
    op = ops.to_f16 if dtype is FLOAT16 else ops.to_bf16
    got, want = lower_whole(op, x, builder=builder), x.astype(dtype).view("u2")
    number = x == x
    np.testing.assert_array_equal(got[number], want[number])
    assert np.isnan(got.view(dtype)[~number].astype("f4")).all()


@BUILDERS
def test_nan_keeps_its_sign_and_as_float16_its_payload(builder):
    x = np.array([0x7FC02000, 0xFFC12345, 0x7F800001, 0x7FFFFFFF], np.uint32).view("f4")
    np.testing.assert_array_equal(lower_whole(ops.to_f16, x, builder=builder)[:2], [0x7E01, 0xFE09])
    for op in (ops.to_f16, ops.to_bf16):
        np.testing.assert_array_equal(lower_whole(op, x, builder=builder) & 0x8000, [0, 0x8000, 0, 0])
    assert (lower_whole(ops.to_bf16, x) & 0x7FFF == 0x7FC0).all()


# -- windows ----------------------------------------------------------------------------------------------------------


def both_ways(op, *args, **attrs):
    """The result of an op, which its lowering gives too."""
    y = np.asarray(op.ref(*args, **attrs))
    got = lower(op, args, attrs, [type_of(a) for a in args], {})
    np.testing.assert_array_equal(got, y)
    assert got.dtype == y.dtype == op.type(*map(type_of, args), **attrs).dtype
    return y


def windows_of(n, stride=1, low=0, high=0):
    return {"window": (n,), "strides": (stride,), "low": (low,), "high": (high,)}


@pytest.mark.parametrize(("n", "dtype"), [(256, "u1"), (257, "i4")])
def test_positions_in_windows_have_a_dtype_that_holds_them(n, dtype):
    x = np.arange(n)
    y = both_ways(ops.window_argmax, x, **windows_of(n))
    assert y.dtype == dtype and y == n - 1


def test_maxima_of_windows_of_special_values():
    nan, inf = math.nan, math.inf
    x = np.array([1, nan, 5, nan, -inf, -inf, -inf])
    np.testing.assert_array_equal(both_ways(ops.window_max, x, **windows_of(2)), [nan, nan, nan, nan, -inf, -inf])
    np.testing.assert_array_equal(both_ways(ops.window_argmax, x, **windows_of(2)), [1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(both_ways(ops.window_argmax, x[4:], **windows_of(3, low=2)), [2, 1, 0])
    least = np.full(3, np.iinfo("i4").min, "i4")
    np.testing.assert_array_equal(both_ways(ops.window_argmax, least, **windows_of(3, low=2)), [2, 1, 0])


class NoLoops(NumericBuilder):
    def reduce(self, *args):
        raise AssertionError("a loop")


@pytest.mark.parametrize(("n", "is_loop"), [(1, False), (16, False), (17, True)])
def test_small_windows_are_written_out(n, is_loop):
    x = np.arange(20.0)
    try:
        got = ops.window_sum.at(NoLoops({}), (np.int64(2),), Accessor(x, type_of(x)), **windows_of(n))
    except AssertionError:
        assert is_loop
    else:
        assert not is_loop and got == x[2 : 2 + n].sum()


@pytest.mark.parametrize(
    ("n", "window", "dilation", "words"),
    [(2, 4, 1, "4 elements does not fit"), (3, 4, 1, "does not fit"), (2, 2, 2, "2 elements in steps of 2 does")],
)
def test_a_window_must_fit(n, window, dilation, words):
    with pytest.raises(ShapeError, match=words):
        windows.count(n, window, 1, 0, 0, dilation)


def test_picks_from_padding_are_zero():
    x, k = np.array([1.0, 2, 3]), np.array([0, 1, 1], "u1")
    np.testing.assert_array_equal(both_ways(ops.window_pick, x, k, **windows_of(2, low=1)), [0, 2, 3])
