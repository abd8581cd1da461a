"""Transforms of functions with loops and branches, and variables that these assign: as without compiling."""

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.compat import tensorflow as tf
from tests.tape_semantics.helpers import plain

C = tp.constant


# -- variables --------------------------------------------------------------------------------------------------------

V = tp.Variable(2.0)


def assigned_in_a_loop(x):
    y = x
    for _ in tp.stage(range(3)):
        y = y * V
        V.assign(V + y)
    return y + V


def read_in_a_branch(x):
    if x > 0:
        V.assign(V * x)
        y = V * x
    else:
        y = x
    return y


def handed_out_by_a_branch(x):
    if x > 0:
        V.assign(V * x)
        y = V.read()
    else:
        y = V.read()
    return y * x


def assigned_in_a_while(x):
    y = x
    while y < 100:
        y = y * x
        V.assign(y * V)
    return V * y


def assigned_before(x):
    V.assign(5.0)
    y = x
    for _ in tp.stage(range(2)):
        V.assign(x * 3)
        y = y + V * V
    return y


VARIABLES = [assigned_in_a_loop, read_in_a_branch, handed_out_by_a_branch, assigned_in_a_while, assigned_before]


@pytest.mark.parametrize("f", VARIABLES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("around", ["tape", "function"])
@pytest.mark.parametrize("jit", [False, True])
def test_every_read_is_credited_to_the_variable(f, around, jit):
    """`around`: what is outside, the tape or the compiled function."""

    def gradients(f):
        def g(x):
            with tp.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            return tape.gradient(y, [x, V])

        return g

    with tp.config(disable_jit=not jit):
        V.assign(2.0)
        expected = plain(gradients(f)(C(3.0)))
        V.assign(2.0)
        g = gradients(tp.tape_function(f)) if around == "tape" else tp.tape_function(gradients(f))
        assert plain(g(C(3.0))) == expected


# -- transforms of rewritten code -------------------------------------------------------------------------------------


def growing(x):
    while x < 10:
        x = x * x
    return x


def powers(x, n):
    y = x
    for _ in range(n):
        if y > 20:
            break
        y = y * x
    return y


def test_vmap_over_differing_numbers_of_iterations(stage):
    xs = C([1.5, 2.0, 11.0, 3.5])
    expected = [plain(growing(x)) for x in xs]
    assert plain(stage(tp.vmap(growing))(xs)) == expected
    ns = C([0, 2, 5, 1])
    assert plain(stage(tp.vmap(powers))(xs, ns)) == [plain(powers(x, int(n))) for x, n in zip(xs, ns, strict=True)]
    slopes = [plain(tp.grad(growing)(x)) for x in xs]
    np.testing.assert_allclose(plain(stage(tp.vmap(tp.grad(growing)))(xs)), slopes, rtol=1e-6)
    np.testing.assert_allclose(plain(stage(tp.grad(lambda xs: tp.sum(tp.vmap(growing)(xs))))(xs)), slopes, rtol=1e-6)


def test_forward_mode_and_second_derivatives(stage):
    y, t = stage(lambda x: tp.jvp(growing, (x,), (C(1.0),)))(C(1.5))
    np.testing.assert_allclose([plain(y), plain(t)], [25.62890625, 136.6875])
    np.testing.assert_allclose(plain(stage(tp.hessian(growing))(C(1.5))), 637.875)
    np.testing.assert_allclose(plain(stage(tp.grad(tp.grad(growing)))(C(1.5))), 637.875)


def test_the_hessian_of_a_loop_over_rows(stage):
    def f(w):
        total = w[0] * 0.0
        for row in C(np.arange(6.0, dtype=np.float32).reshape(3, 2)):
            z = tp.sum(row * w)
            power = z**2
            if z > 2:
                power = z**3
            total = total + power
        return total

    w = C([0.5, 0.25])
    a = np.arange(6.0).reshape(3, 2)
    z = a @ [0.5, 0.25]
    expected = sum(np.outer(r, r) * (6 * v if v > 2 else 2) for r, v in zip(a, z, strict=True))
    np.testing.assert_allclose(plain(stage(tp.hessian(f))(w)), expected, rtol=1e-5)


# -- what loops run over ----------------------------------------------------------------------------------------------


def rows(x, n):
    s = 0.0
    for row in x:
        s = s + tp.sum(row)
    return s


def enumerated(x, n):
    s = 0.0
    for i, (a, b) in enumerate(zip(x, x * 2)):  # noqa: B905
        s = s + i * tp.sum(a * b)
    return s


def numbered(x, n):
    s = 0.0
    for i, j in enumerate(range(n), 1):
        s = s + i * j * x[0, 0]
    return s


def zipped_with_a_range(x, n):
    s = 0.0
    for row, j in zip(x, range(n)):  # noqa: B905
        s = s + tp.sum(row) * j
    return s


def backwards(x, n):
    s = x[0, 0]
    for i in reversed(range(n)):
        s = s * 2 + i * x[i, 0]
    return s


def over_arange(x, n):
    s = x[0, 0]
    for i in tp.arange(n):
        s = s + x[i, 0]
    return s


def over_compat_range(x, n):
    s = x[0, 0]
    for i in tf.range(1, n, 2):
        s = s + x[i, 0] * tf.cast(i, tf.float32)
    return s


ITERABLES = [rows, enumerated, numbered, zipped_with_a_range, backwards, over_arange, over_compat_range]


@pytest.mark.parametrize("f", ITERABLES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("signature", [None, [tp.TensorSpec((None, 3), tp.float32), tp.TensorSpec((), tp.int32)]])
def test_iterables(f, signature):
    x = C(np.arange(12.0, dtype=np.float32).reshape(4, 3) + 1)
    compiled = tp.tape_function(f, input_signature=signature)
    for n in (0, 3):
        assert plain(compiled(x, C(n))) == plain(f(x, n))


def test_compat_range_of_a_tensor_is_an_integer():
    assert tf.range(C(3)).dtype == np.int32


# -- what bodies store ------------------------------------------------------------------------------------------------


def test_bodies_do_not_change_the_users_tensors(stage):
    x, other = C([1.0, 2.0, 3.0]), C([7.0, 7.0, 7.0])

    def storing(k, y):
        y[k] = 0.0
        return y

    def handing_on(k, y):
        y[k] = 0.0
        return other

    assert plain(stage(lambda x: tp.fori_loop(0, 2, storing, x))(x)) == [0.0, 0.0, 3.0]
    assert plain(stage(lambda x: tp.fori_loop(0, 3, handing_on, x))(x)) == [7.0, 7.0, 7.0]
    result = tp.fori_loop(0, 0, storing, x)
    result[0] = 9.0
    assert plain(x) == [1.0, 2.0, 3.0] and plain(other) == [7.0, 7.0, 7.0]
