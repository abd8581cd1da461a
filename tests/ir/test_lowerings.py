"""What lowerings promise beyond their values: nothing outside an operand is read, and what stays short."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.ir import ops
from tapefuse.ir.halves import FLOAT16
from tapefuse.ir.ops.index import positions
from tapefuse.ir.types import type_of
from tests.ir.numeric_builder import ArrayBuilder, ConvertingBuilder, NumericBuilder, lower, lower_whole
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
