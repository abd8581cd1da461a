"""What derivatives are at kinks, poles and ties, which operands have none, and what bad operands raise.

Numbers in names are lines of the list of tape behaviour that tapefuse follows.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tapefuse._errors import DTypeError, IndexOutOfRangeError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.graph import param
from tapefuse.ir.ops.family import stretch, unbroadcast
from tapefuse.ir.ops.matrices import gaps_inverted, inverted
from tapefuse.ir.ops.region import TOKEN
from tapefuse.ir.ops.slicing import slice_needs
from tapefuse.ir.types import Poly, Type, always_negative, divide_up, never_negative
from tests.ir.rule_graphs import graph_of, second_derivative

N = Poly.symbol("N")
INT64, FLOAT64 = np.dtype("i8"), np.dtype("f8")


def array(*values, dtype="f8"):
    return np.array(values, dtype)


def grads(op, *xs, g=None, **attrs):
    y = op(*xs, **attrs)
    return op.vjp(np.ones(np.shape(y)) if g is None else g, y, *xs, **attrs)


def value(*shape, dtype="f4"):
    return param(Type(np.dtype(dtype), shape))


# -- kinks, poles, ties -----------------------------------------------------------------------------------------------


def test_129_ties_of_reduce_max_and_min_share_evenly():
    np.testing.assert_array_equal(grads(ops.reduce_max, array(2, 2, 1), axes=(0,))[0], [0.5, 0.5, 0])
    np.testing.assert_array_equal(grads(ops.reduce_min, array(1, 2, 1), axes=(0,))[0], [0.5, 0, 0.5])
    assert ops.reduce_max.jvp([array(1, 3, 7)], 2.0, array(2, 2, 1), axes=(0,)) == 2


def test_nan_maximum_has_nan_gradient():
    assert np.isnan(grads(ops.reduce_max, array(np.nan, 1), axes=(0,))[0]).all()


@pytest.mark.parametrize("op", [ops.maximum, ops.minimum])
def test_130_a_tie_goes_to_the_first_operand(op):
    assert [c.item() for c in grads(op, array(3), array(3))] == [1, 0]


@pytest.mark.parametrize(("op", "slope"), [(ops.relu, 0), (ops.abs, 0), (ops.sign, 0), (ops.softplus, 0.5)])
def test_132_slopes_at_zero(op, slope):
    assert grads(op, array(0))[0].item() == slope


def test_slope_of_the_absolute_value_of_a_complex_number_at_zero_is_zero():
    z = array(0, 3 + 4j, dtype="c16")
    np.testing.assert_allclose(grads(ops.modulus, z)[0], [0, 0.6 + 0.8j])
    np.testing.assert_allclose(ops.modulus.jvp([array(1, 1, dtype="c16")], abs(z), z), [0, 0.6])


def test_132_slope_of_sign_is_zero_and_not_none_even_for_inf_and_nan():
    np.testing.assert_array_equal(grads(ops.sign, array(-2, np.inf, np.nan))[0], 0)


def test_missing_tangents_are_zeros_beside_inf_and_nan():
    x, y, t = array(np.inf, np.nan), array(1), array(5)
    np.testing.assert_array_equal(ops.concat.jvp([None, t], None, x, y, axis=0), [0, 0, 5])


def test_133_slope_of_sqrt_at_zero_is_infinite():
    assert grads(ops.sqrt, array(0))[0].item() == math.inf


def branch_gradient(f, x):
    """Gradient of where(x > 0, f(x), 0)."""
    y = f(x)
    _, g, _ = grads(ops.select, x > 0, y, np.zeros_like(x))
    return f.vjp(g, y, x)[0]


def test_135_where_lets_a_zero_seed_through_sqrt_but_not_through_log():
    assert branch_gradient(ops.sqrt, array(0)).item() == 0
    assert np.isnan(branch_gradient(ops.log, array(0)).item())


def test_135_zero_seed_keeps_the_second_derivative_of_sqrt():
    """(sqrt(x) - 2)**2 at 4: the cotangent of the root is 0 and changes by 1/2, the second derivative is 1/8."""
    (slope,) = second_derivative(ops.sqrt, array(0), array(0.5), [array(4)], [array(1)])
    assert slope.item() == 0.125


def test_136_clip_passes_the_gradient_at_both_bounds():
    x, low, high = array(-1, 0, 0.5, 1, 2), array(0), array(1)
    inner = ops.maximum(x, low)
    g = grads(ops.minimum, inner, high)[0]
    np.testing.assert_array_equal(ops.maximum.vjp(g, inner, x, low)[0], [0, 1, 1, 1, 0])


@pytest.mark.parametrize("p", [2.0, 3.0, 1.5])
def test_137_power_at_zero(p):
    assert [c.item() for c in grads(ops.pow, array(0), array(p))] == [0, 0]


@pytest.mark.parametrize(("x", "p", "dx"), [(0, 0, 0), (0, 1, 1), (-2, 3, 12), (-2, 2, -4), (-2, 0, 0)])
def test_137_power_of_whole_exponents(x, p, dx):
    assert grads(ops.pow, array(x), array(p))[0].item() == dx
    assert grads(ops.pow, array(x), array(p))[1].item() == 0


def test_power_of_complex_numbers_at_zero():
    z, p = array(0, 1j, dtype="c16"), array(2, 2, dtype="c16")
    dz, dp = grads(ops.pow, z, p, g=array(1, 1, dtype="c16"))
    np.testing.assert_allclose(dz, [0, -2j], atol=1e-15)
    np.testing.assert_allclose(dp, [0, 0.5j * np.pi], atol=1e-15)  # conj(-log(i))


@pytest.mark.parametrize(("x", "p"), [(-2, 2), (0, 3), (0, 2), (0, 1)])
def test_137_second_derivative_of_whole_powers(x, p):
    dx, dp = second_derivative(ops.pow, array(1), array(0), [array(x), array(p)], [array(1), array(0)])
    assert [dx.item(), dp.item()] == [p * (p - 1) * x ** max(p - 2, 0), 0]


def test_138_second_derivative_of_a_product_with_two_zeros():
    (slope,) = second_derivative(
        ops.reduce_prod, np.float64(1), np.float64(0), [array(0, 0, 3)], [array(1, 0, 0)], axes=(0,)
    )
    np.testing.assert_array_equal(slope, [0, 3, 0])


def test_138_product_with_zeros():
    np.testing.assert_array_equal(grads(ops.reduce_prod, array(0, 2, 3), axes=(0,))[0], [6, 0, 0])
    np.testing.assert_array_equal(grads(ops.reduce_prod, array(0, 0, 3), axes=(0,))[0], [0, 0, 0])
    assert ops.reduce_prod.jvp([array(1, 1, 1)], 0.0, array(0, 2, 3), axes=(0,)) == 6


def test_139_mod():
    assert [c.item() for c in grads(ops.mod, array(7), array(2))] == [1, -3]


def test_145_rounding_and_signs_of_division():
    np.testing.assert_array_equal(ops.round(array(0.5, 1.5, 2.5, -0.5)), [0, 2, 2, -0.0])
    a, b = array(7, -7, 7, -7, 5, dtype="i8"), array(2, 2, -2, -2, 0, dtype="i8")
    np.testing.assert_array_equal(ops.floordiv(a, b), [3, -4, -4, 3, 0])
    np.testing.assert_array_equal(ops.mod(a, b), [1, 1, -1, -1, 0])


def test_149_gather_of_negative_positions_and_its_gradient():
    x, k = array(1, 2, 3), array(-1, 0, 0, dtype="i8")
    np.testing.assert_array_equal(ops.gather(x, k), [3, 1, 1])
    np.testing.assert_array_equal(grads(ops.gather, x, k)[0], [2, 0, 1])


# -- operands without a derivative ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [ops.floor, ops.ceil, ops.round, ops.stop_gradient])
def test_64_65_steps_are_not_connected(op):
    assert grads(op, array(1.25)) == [None]
    assert op.jvp([array(1)], array(1), array(1.25)) is None


@pytest.mark.parametrize("op", [ops.floordiv, ops.lt, ops.eq])
def test_64_floor_division_and_comparisons_are_not_connected(op):
    assert grads(op, array(1.25), array(0.5)) == [None, None]


def test_64_argmax_is_not_connected():
    assert grads(ops.argmax, array(1, 2), axis=0) == [None]


def test_61_casts_through_integers_are_not_connected():
    assert grads(ops.cast, array(1.5), dtype=INT64) == [None]
    assert grads(ops.cast, array(2, dtype="i8"), dtype=FLOAT64) == [None]
    assert grads(ops.cast, array(2, dtype="f4"), dtype=FLOAT64)[0].dtype == np.float32


def test_69_the_branch_not_taken_has_zeros():
    c, a, b = grads(ops.select, array(True, False, dtype=bool), array(1, 2), array(3, 4))
    assert c is None
    np.testing.assert_array_equal([a, b], [[1, 0], [0, 1]])


def test_84_a_missing_rule_is_none():
    assert ops.missing_gradient.vjp is None
    np.testing.assert_array_equal(ops.missing_gradient(array(1, 2), name="adjust_contrast"), [1, 2])


# -- values NumPy does not have ---------------------------------------------------------------------------------------


def test_erf_is_accurate_in_both_precisions():
    x = np.linspace(-6, 6, 1001)
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(ops.erf(x), want, rtol=4e-16)
    single = ops.erf(x.astype("f4"))
    np.testing.assert_allclose(single, [math.erf(v) for v in x.astype("f4")], rtol=2e-7)
    assert single.dtype == np.float32


def test_sigmoid_and_softplus_keep_their_tails():
    x = array(-700, -40, 40, 700)
    np.testing.assert_allclose(ops.sigmoid(x), [math.exp(-700), math.exp(-40) / (1 + math.exp(-40)), 1, 1], rtol=1e-15)
    np.testing.assert_allclose(ops.softplus(x), [math.exp(-700), math.exp(-40), 40, 700], rtol=1e-15)


def test_relu_keeps_nan():
    np.testing.assert_array_equal(ops.relu(array(np.nan, -1, 2)), [np.nan, 0, 2])


def test_first_nan_wins_argmax():
    assert ops.argmax(array(1, np.nan, 5, np.nan), axis=0) == 1


# -- symbolic dimensions ----------------------------------------------------------------------------------------------


def test_strided_slice_of_a_padded_symbolic_axis_has_its_extent_back():
    spread = ops.pad(value(N), low=(1,), high=(0,), interior=(2,), value=0.0)
    assert spread.shape == (3 * N - 1,)
    assert ops.slice_(spread, starts=(1,), limits=(3 * N - 1,), strides=(3,)).shape == (N,)


def test_signs_of_dimensions():
    assert all(map(never_negative, (0, 3, N, 2 * N + 1)))
    assert not any(map(never_negative, (-1, N - 1, 1 - N)))
    assert all(map(always_negative, (-1, -1 * N - 1)))
    assert not any(map(always_negative, (0, N, -1 * N, N - 1)))


def test_dimensions_divided_and_rounded_up():
    assert [divide_up(n, 3) for n in (0, 1, 3, 4)] == [0, 1, 1, 2]
    assert [divide_up(6 * N + k, 3) for k in (-1, 0, 1, 3, 4)] == [2 * N + k for k in (0, 0, 1, 1, 2)]
    assert divide_up(N, 3) is None


def test_a_slice_lists_what_must_hold_when_it_runs():
    assert slice_needs((N,), (0,), (5,), (1,)) == [0, 5, N - 5]
    assert ops.slice_(value(N), starts=(0,), limits=(5,), strides=(1,)).shape == (5,)
    with pytest.raises(IndexOutOfRangeError):
        ops.slice_.ref(np.ones(3), starts=(0,), limits=(5,), strides=(1,))
    with pytest.raises(IndexOutOfRangeError, match="leave the shape"):
        ops.slice_(value(N), starts=(0,), limits=(N + 1,), strides=(1,))
    with pytest.raises(ShapeError, match="known at run time only"):
        ops.slice_(value(N), starts=(0,), limits=(N,), strides=(2,))


def test_broadcasting_a_symbol():
    assert ops.add(value(N, 1), value(3)).shape == (N, 3)
    with pytest.raises(ShapeError, match="do not broadcast"):
        ops.add(value(N), value(3))


SHAPES = [s for rank in range(4) for s in itertools.product((0, 1, 2), repeat=rank)]
PAIRS = [
    (s, t)
    for s, t in itertools.product(SHAPES, repeat=2)
    if all(1 in (a, b) or a == b for a, b in zip(s[::-1], t[::-1], strict=False))
]


def test_helpers_of_rules_broadcast_and_its_transpose():
    for small, other in PAIRS:
        big = np.broadcast_shapes(small, other)
        x = np.arange(math.prod(small), dtype="f8").reshape(small)
        g = np.arange(math.prod(big), dtype="f8").reshape(big) + 1
        y, back = stretch(x, big), unbroadcast(g, x)
        np.testing.assert_array_equal(y, np.broadcast_to(x, big))
        assert back.shape == small and np.vdot(back, x) == np.vdot(g, y)
        assert stretch(value(*small), big).shape == big  # as values, whose types are checked
        assert unbroadcast(value(*big), value(*small)).shape == small


def test_few_elements_are_copied_and_many_are_a_view():
    x = array(*range(64))
    few, many = (ops.broadcast.ref(x, shape=(64, n), axes=(0,)) for n in (64, 65))
    assert few.flags.owndata and not many.flags.owndata
    for y in (few, many):
        np.testing.assert_array_equal(y, x[:, None] + np.zeros(y.shape))


# -- matrices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(itertools.product([False, True], repeat=3)), ids=str)
def test_triangular_systems_of_many_rows(kind):
    lower, transpose, unit = kind
    rng = np.random.default_rng(0)
    for n in (16, 17, 41):
        a, b = rng.normal(size=(2, n, n)) + n * np.eye(n), rng.normal(size=(n, 3))
        triangle = np.tril(a) if lower else np.triu(a)
        if unit:
            triangle /= n
            a, triangle = a / n, np.where(np.eye(n, dtype=bool), 1, triangle)
        want = np.linalg.solve(np.swapaxes(triangle, -1, -2) if transpose else triangle, b)
        got = ops.triangular_solve.ref(a, b, lower=lower, transpose=transpose, unit=unit)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_inverted_differences_are_zero_at_ties():
    d = array(0, 1, 3, 1)
    np.testing.assert_array_equal(inverted(d), [0, 1, 1 / 3, 1])
    want = [[0, 1, 1 / 3, 1], [-1, 0, 1 / 2, 0], [-1 / 3, -1 / 2, 0, -1 / 2], [-1, 0, 1 / 2, 0]]
    np.testing.assert_array_equal(gaps_inverted(d), want)


# -- errors name the op, the operands and the cure --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.add(value(3), value(3, dtype="f8")), DTypeError, r"add\(f32\[3\], f64\[3\]\): .*cast them to one"),
        (lambda: ops.exp(value(3, dtype="i8")), DTypeError, "must be floating-point or complex, not i64"),
        (lambda: ops.select(value(3), value(3), value(3)), DTypeError, "condition must be bool"),
        (lambda: ops.reshape(value(2, 3), shape=(5,)), ShapeError, r"6 elements, the new shape \[5\] has 5"),
        (lambda: ops.transpose(value(2, 3), perm=(0, 0)), ShapeError, "each axis"),
        (lambda: ops.broadcast(value(3), shape=(2, 4), axes=(1,)), ShapeError, "extents"),
        (lambda: ops.reduce_sum(value(3), axes=(1,)), ShapeError, "rank 1"),
        (lambda: ops.reduce_max(value(0, 3), axes=(0,)), ShapeError, "empty axis"),
        (lambda: ops.argmax(value(0), axis=0), ShapeError, "empty axis"),
        (lambda: ops.matmul(value(2, 3), value(2, 3)), ShapeError, "inner extents 3 and 2 differ"),
        (lambda: ops.matmul(value(3), value(3, 2)), ShapeError, "at least 2 axes"),
        (lambda: ops.dft(value(4, 2), axis=1, inverse=False, norm="ortho"), ShapeError, "axes"),
        (lambda: ops.irdft(value(4, 2), axis=1, n=2, norm="ortho"), ShapeError, "axes"),
        (lambda: ops.concat(value(2, 3), value(3, 3), axis=1), ShapeError, "differ outside axis 1"),
        (lambda: ops.concat(value(2, 3), value(2, 4), axis=0), ShapeError, "differ outside axis 0"),
        (lambda: ops.concat(value(2), value(2, dtype="f8"), axis=0), DTypeError, "cast"),
        (lambda: ops.slice_(value(4), starts=(3,), limits=(2,), strides=(1,)), IndexOutOfRangeError, "leave the shape"),
        (lambda: ops.slice_(value(9), starts=(8,), limits=(1,), strides=(3,)), IndexOutOfRangeError, "leave the shape"),
        (lambda: ops.pad(value(2), low=(-1,), high=(0,), interior=(0,), value=0), ShapeError, "negative"),
        (lambda: ops.gather(value(3), value(2)), DTypeError, "must be of integers"),
        (lambda: ops.gather(value(3), value(dtype="i8"), value(dtype="i8")), ShapeError, "do not fit"),
        (lambda: ops.scatter_add(value(2), value(3, dtype="i8"), shape=(5,)), ShapeError, r"must have shape \[3\]"),
    ],
)
def test_type_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("body", "operand", "words"),
    [
        (lambda c: [c], "f32[2]", r"body of a loop takes \(f32\[3\]\), the operands are \(f32\[2\]\)"),
        (lambda c: [ops.reduce_sum(c, axes=(0,))], "f32[3]", r"turns \(f32\[3\]\) into \(f32\[\]\)"),
    ],
)
def test_type_errors_of_loops(body, operand, words):
    graph = graph_of(body, [Type.parse("f32[3]")])
    with pytest.raises(ShapeError, match=words):
        ops.OPS["for"].type(Type.parse(operand), body=graph, trips=2, index="k", carried=1)


def test_branches_of_a_switch_give_the_same_types():
    x, switch = Type.parse("f32[3]"), ops.OPS["switch"]
    same, total = (graph_of(f, [x]) for f in (lambda c: [c], lambda c: [ops.reduce_sum(c, axes=(0,))]))
    assert switch.results(TOKEN, x, branches=(same,)) == (x,)
    with pytest.raises(ShapeError, match=r"branch 1 gives \(f32\[\]\), branch 0 \(f32\[3\]\)"):
        switch.type(TOKEN, x, branches=(same, total))


@pytest.mark.parametrize("k", [3, -4])
def test_indices_out_of_range(k):
    with pytest.raises(IndexOutOfRangeError):
        ops.gather(array(1, 2, 3), array(k, dtype="i8"))
    with pytest.raises(IndexOutOfRangeError):
        ops.scatter_add(array(1), array(k, dtype="i8"), shape=(3,))


@pytest.mark.parametrize("op", [ops.reduce_max, ops.reduce_min])
def test_extreme_of_nothing_has_no_value(op):
    with pytest.raises(ShapeError, match="empty axis"):
        op(np.ones((0, 2)), axes=(0,))


def test_slope_of_cbrt_at_zero_is_infinite_but_a_zero_cotangent_stays_zero():
    assert grads(ops.cbrt, array(0))[0].item() == math.inf
    assert grads(ops.cbrt, array(0), g=array(0))[0].item() == 0


@pytest.mark.parametrize("op", [ops.logaddexp, ops.logaddexp2])
def test_a_tie_of_logaddexp_is_shared_evenly_and_infinities_have_slopes(op):
    for both in (1, math.inf, -math.inf):
        assert [c.item() for c in grads(op, array(both), array(both))] == [0.5, 0.5]
    assert [c.item() for c in grads(op, array(-math.inf), array(1))] == [0, 1]


def test_slope_of_hypot_at_the_origin_is_nan():
    assert np.isnan(grads(ops.hypot, array(0), array(0))).all()


def test_second_derivatives_of_bessel_functions_at_zero():
    seconds = {"i0": 0.5, "i1": 0}
    one, zero = [array(1)], [array(0)]
    assert {k: second_derivative(ops.OPS[k], one[0], zero[0], zero, one)[0].item() for k in seconds} == seconds


def test_slopes_of_bessel_functions_at_zero():
    slopes = {"i0": 0, "i1": 0.5, "i0e": 0, "i1e": 0.5}
    assert {name: grads(ops.OPS[name], array(0))[0].item() for name in slopes} == slopes


def test_fmod_follows_the_dividend_and_mod_the_divisor():
    assert [c.item() for c in grads(ops.fmod, array(-7), array(2))] == [1, 3]
    assert [c.item() for c in grads(ops.mod, array(-7), array(2))] == [1, 4]


def test_nextafter_and_signbit_have_no_derivative():
    assert ops.nextafter.vjp(array(1), array(1), array(1), array(2)) == [None, None]
    assert ops.signbit.jvp([array(1)], True, array(-1)) is None


def test_shift_counts_outside_of_the_width_shift_everything_out():
    x, n = array(-5, 5, -5, 5, dtype="i4"), array(-1, -1, 32, 32, dtype="i4")
    np.testing.assert_array_equal(ops.shl(x, n), 0)
    np.testing.assert_array_equal(ops.shr(x, n), [-1, 0, -1, 0])
