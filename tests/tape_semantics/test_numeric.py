"""Sections 12 and 13: numeric conventions of gradients, dtypes."""

import math

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, derivative, plain, slope, taped


def test_129_ties_of_reductions():
    assert slope(tp.max, C([2.0, 2.0, 1.0])) == [0.5, 0.5, 0.0]
    assert slope(tp.min, C([2.0, 1.0, 1.0])) == [0.0, 0.5, 0.5]


def test_130_ties_of_maximum():
    assert slope(tp.maximum, C(1.0), C(1.0)) == [1.0, 0.0]
    assert slope(tp.minimum, C(1.0), C(1.0)) == [1.0, 0.0]


def test_132_kinks_at_zero():
    assert slope(tp.relu, C(0.0)) == 0.0
    assert slope(tp.abs, C(0.0)) == 0.0
    assert slope(tp.sign, C(0.0)) == 0.0
    assert slope(tp.softplus, C(0.0)) == 0.5


def test_133_roots_at_zero():
    assert slope(tp.sqrt, C(0.0)) == math.inf
    assert np.isnan(slope(np.linalg.norm, C([0.0, 0.0]))).all()
    assert np.isnan(slope(tp.std, C([1.0, 1.0]))).all()
    assert slope(tp.var, C([1.0, 1.0])) == [0.0, 0.0]


def test_134_norm():
    close(slope(np.linalg.norm, C([1.0, 1.0])), [0.70710677, 0.70710677])


def test_135_where_does_not_hide_poles():
    def chosen(function):
        return slope(lambda x: tp.where(x > 0, function(x), 0.0), C(0.0))

    assert math.isnan(chosen(tp.log))
    assert math.isnan(chosen(lambda x: 1 / x))
    assert chosen(tp.sqrt) == 0.0


def test_136_clip_passes_at_both_bounds():
    assert slope(lambda x: tp.clip(x, 0.0, 1.0), C([-1.0, 0.0, 0.5, 1.0, 2.0])) == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_137_power_at_zero():
    assert slope(lambda x, p: x**p, C(0.0), C(2.0)) == [0.0, 0.0]


def test_138_product_with_a_zero():
    assert slope(tp.prod, C([0.0, 2.0, 3.0])) == [6.0, 0.0, 0.0]


def test_139_mod():
    assert slope(tp.mod, C(7.0), C(2.0)) == [1.0, -3.0]


def test_140_sorting_and_running_sums(run):
    def f(x):
        tape, y = taped(lambda x: tp.sort(x) * C([1.0, 10.0, 100.0]), x)
        return tape.gradient(y, x)

    assert run(f, C([3.0, 1.0, 2.0])) == [100.0, 1.0, 10.0]

    def top(x):
        tape, y = taped(lambda x: tp.top_k(x, 2)[0] * C([1.0, 10.0]), x)
        return tape.gradient(y, x)

    assert run(top, C([3.0, 1.0, 2.0])) == [1.0, 0.0, 10.0]

    def running(x):
        tape, y = taped(lambda x: tp.cumsum(x) * C([1.0, 10.0, 100.0]), x)
        return tape.gradient(y, x)

    assert run(running, C([1.0, 2.0, 3.0])) == [111.0, 110.0, 100.0]


def test_141_logsumexp():
    x = C([1.0, 2.0, 3.0])
    close(slope(tp.logsumexp, x), plain(tp.softmax(x)))


def test_142_complex(run):
    """The gradient by x + iy is dL/dx + i dL/dy; of a complex target L is the real part."""
    assert run(derivative(lambda z: z * z), C(1 + 2j)) == 2 - 4j
    close([run(derivative(tp.abs), C(3 + 4j))], [0.6 + 0.8j])


def test_143_mean_of_nothing():
    x = C(np.ones(0, np.float32))
    tape, y = taped(tp.mean, x)
    assert math.isnan(plain(y))
    assert plain(tape.gradient(y, x)) == []


def test_144_integer_mean():
    """Deliberate difference: as NumPy."""
    assert plain(tp.mean(C([1, 2]))) == 1.5


def test_145_rounding_and_division():
    """Deliberate difference: integer division by zero is as in NumPy."""
    assert plain(tp.round(C([0.5, 1.5, 2.5]))) == [0.0, 2.0, 2.0]
    assert plain(C([-7, 7]) // C([2, -2])) == [-4, -4]
    assert plain(C([-7, 7]) % C([2, -2])) == [1, -1]
    assert (C(1) / C(2)).dtype == np.float64
    assert plain(C(1) // C(0)) == 0


def test_146_softmax_cross_entropy():
    x = C([1.0, 2.0, 3.0])
    tape, loss = taped(lambda x: -tp.log_softmax(x)[2], x)
    close(plain(loss), 0.4076059)
    close(plain(tape.gradient(loss, x)), (np.asarray(tp.softmax(x)) - [0, 0, 1]).tolist())


def test_147_cholesky():
    a = C([[4.0, 1.0], [1.0, 3.0]])
    want = [[0.206, 0.175], [0.175, 0.302]]
    np.testing.assert_allclose(slope(lambda a: tp.sum(tp.linalg.cholesky(a)), a), want, atol=6e-4)
    for run in (lambda f: f, tp.tape_function):
        with pytest.raises(np.linalg.LinAlgError, match="Matrix is not positive definite"):  # difference: TF gives nan
            run(tp.linalg.cholesky)(C([[1.0, 2.0], [2.0, 1.0]]))


def test_148_eigenvectors_of_equal_eigenvalues_and_singular_matrices():
    pick = C([[1.0, 2.0], [3.0, 4.0]])
    vectors = slope(lambda a: tp.sum(tp.linalg.eigh(a).eigenvectors * pick), C([[2.0, 0.0], [0.0, 2.0]]))
    assert vectors == [[0, 0], [0, 0]]
    wide = slope(lambda a: tp.sum(tp.linalg.svd(a, full_matrices=False).S), C([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    np.testing.assert_allclose(wide, np.eye(2, 3), atol=1e-6)
    singular = slope(tp.linalg.det, C([[1.0, 2.0], [2.0, 4.0]]))  # difference: TF inverts, and fails
    np.testing.assert_allclose(singular, [[4.0, -2.0], [-2.0, 1.0]], rtol=1e-5)


def test_149_gather_and_masks():
    assert slope(lambda x: x[::-2] * [1.0, 10.0], C([1.0, 2.0, 3.0, 4.0])) == [0.0, 10.0, 0.0, 1.0]
    assert slope(lambda x: x[np.array([True, False, True])] ** 2, C([1.0, 2.0, 3.0])) == [2.0, 0.0, 6.0]


def test_150_tensors_promote_as_in_numpy():
    """Deliberate difference: NumPy's promotion instead of an error."""
    assert (C(1.0) + C(1.0, dtype=np.float64)).dtype == np.float64
    assert (C(1.0) + C(1)).dtype == np.float64  # float32 + int32


def test_151_python_numbers_adapt():
    """Deliberate difference: an integer tensor plus 1.5 is a float64, as in NumPy."""
    assert (C(1.0) + 1).dtype == np.float32
    assert (1 / C(2.0)).dtype == np.float32
    assert (C(1) + 1).dtype == np.int32
    assert (C(1) + 1.5).dtype == np.float64


def test_152_numpy_scalars_promote():
    """Deliberate difference: NumPy scalars and arrays have a dtype of their own."""
    assert (C(1.0) + np.float64(1)).dtype == np.float64
    assert (np.ones(2) * C(1.0)).dtype == np.float64
    assert (C(1.0) * [1.0, 2.0]).dtype == np.float32


def test_153_dtypes_of_python_values():
    assert C(1.0).dtype == np.float32
    assert C([1, 2]).dtype == np.int32
    assert C(True).dtype == np.bool_
    assert C(np.ones(2)).dtype == np.float64
    assert C(2**40).dtype == np.int64
    assert C(1j).dtype == np.complex128


def test_154_truth_value():
    assert bool(C(1.0))
    assert not C([0])
    with pytest.raises(ValueError, match="ambiguous"):
        bool(C([1.0, 2.0]))


def test_155_tensors_cannot_be_hashed():
    x = C([1.0, 2.0])
    with pytest.raises(TypeError, match=r"\.ref\(\)"):
        hash(x)
    assert plain(x == [1.0, 3.0]) == [True, False]
    assert plain(x != x) == [False, False]
    assert {x.ref(): 1}[x.ref()] == 1
    assert x.ref().deref() is x
    assert (x == None) is False  # noqa: E711


def test_156_item_assignment():
    """Deliberate difference: as in NumPy, but what was made from the old value keeps it."""
    x = C([1.0, 2.0])
    y = x[:1]
    x[0] = 5.0
    assert (plain(x), plain(y)) == ([5.0, 2.0], [1.0])


def test_157_product_of_vectors():
    """Deliberate difference: as in NumPy."""
    assert plain(C([1.0, 2.0]) @ C([3.0, 4.0])) == 11.0
