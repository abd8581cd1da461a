"""Complex numbers through the whole house: promotion, tapes, variables, compiled functions, the cache, `@njit`."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.cli import main

Z = np.array([1 + 2j, 3 - 1j, -0.5j], "c8")
ENGINES = pytest.mark.parametrize("engine", ["llvm", "numba"])


# -- tensors and promotion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1j, "c16"), ([1, 2j], "c16"), ([1.0, 2j, True], "c16"), (np.complex64(1), "c8"), (Z.astype(">c8"), "c8")],
)
def test_constants(value, dtype) -> None:
    x = tp.constant(value)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, value)


@pytest.mark.parametrize("left", ["?", "i4", "i8", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("right", ["?", "u1", "i8", "f4", "f8", "c8", "c16", 2, 2.0, 2j])
def test_promotion_is_numpys(left, right) -> None:
    a = np.ones(2, left)
    b = np.ones(2, right) if isinstance(right, str) else right
    other = tp.constant(b) if isinstance(right, str) else b
    for f in (lambda x, y: x * y, lambda x, y: y + x, lambda x, y: x == y):
        assert f(tp.constant(a), other).dtype == f(a, b).dtype
        assert tp.tape_function(f)(tp.constant(a), other).dtype == f(a, b).dtype


def test_leaving() -> None:
    z = tp.constant(1 + 2j)
    assert (z.item(), complex(z), z.tolist(), z.numpy()) == (1 + 2j,) * 4
    assert f"{z:.1f}" == "1.0+2.0j"
    assert bool(z)
    assert not bool(tp.constant(0j))
    with pytest.raises(TypeError):
        float(z)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tp.constant(Z))), Z)


def test_storing() -> None:
    z, x = tp.constant(Z), tp.constant([1.0, 2.0])
    z[0], z[1:] = 5, x
    z[2] += 1j
    np.testing.assert_array_equal(z, [5, 1, 2 + 1j])
    with pytest.raises(tp.DTypeError, match=r"x is f32.*tp.cast"):
        x[0] = 1j


def test_operations_on_an_order_name_the_cure() -> None:
    with pytest.raises(TypeError, match=r"np.floor.*test_complex.py"):
        tp.floor(tp.constant(Z))
    for f in (tp.sigmoid, tp.erf, tp.relu):
        with pytest.raises(TypeError, match=r"test_complex.py:\d+ has no meaning for complex numbers.*tp.real"):
            f(tp.constant(Z))


# -- tapes ------------------------------------------------------------------------------------------------------------


def test_of_a_complex_target_the_real_part_is_differentiated() -> None:
    f = lambda z: z**2 * (1 + 1j)
    g = tp.grad(f)(tp.constant(1 + 2j))
    np.testing.assert_allclose(g, np.conj(2 * (1 + 2j) * (1 + 1j)))
    h = 1e-6
    real = lambda x, y: ((x + 1j * y) ** 2 * (1 + 1j)).real
    numeric = (real(1 + h, 2) - real(1 - h, 2)) / (2 * h) + 1j * (real(1, 2 + h) - real(1, 2 - h)) / (2 * h)
    np.testing.assert_allclose(g, numeric, rtol=1e-8)


def test_steepest_descent() -> None:
    """Minus the gradient leads down: |z - w|**2 has its minimum at w."""
    z, w = tp.constant(Z), np.array([1j, 2, 3], "c8")
    for _ in range(60):
        z = z - 0.2 * tp.grad(lambda z: tp.sum(tp.abs(z - w) ** 2))(z)
    np.testing.assert_allclose(z, w, atol=1e-5)


def test_seeds() -> None:
    z = tp.constant(Z)
    with tp.GradientTape() as tape:
        tape.watch(z)
        y = tp.exp(z)
    np.testing.assert_allclose(tape.gradient(y, z, output_gradients=1j), 1j * np.conj(np.exp(Z)), rtol=1e-6)


def test_second_derivatives() -> None:
    z = tp.constant(1 + 2j)
    with tp.GradientTape() as outer:
        outer.watch(z)
        g = tp.grad(lambda z: tp.real(z**3))(z)
    np.testing.assert_allclose(outer.gradient(g, z), 6 * (1 - 2j))  # of 3 (x**2 - y**2), the real part of conj(3 z**2)


def test_modulus_has_no_slope_at_zero() -> None:
    assert tp.grad(tp.abs)(tp.constant(0j)).item() == 0


def test_jacobians() -> None:
    z, x = tp.constant(Z), tp.constant([0.5, 1.5])
    np.testing.assert_allclose(tp.jacobian(lambda z: z**2)(z), np.diag(np.conj(2 * Z)), rtol=1e-6)
    np.testing.assert_allclose(tp.jacobian(lambda z: z**2, mode="forward")(z), np.diag(2 * Z), rtol=1e-6)
    want = np.diag(1j * np.exp(1j * x.numpy()))
    np.testing.assert_allclose(tp.jacobian(lambda x: tp.exp(1j * x))(x), want, rtol=1e-6)


def test_custom_gradients() -> None:
    @tp.custom_gradient
    def halved(z):
        return z * 1, lambda g: g * 0.5

    f = tp.grad(lambda z: tp.abs(halved(z)) ** 2)
    for g in (f, tp.tape_function(f)):
        np.testing.assert_allclose(g(tp.constant(1 + 2j)), 1 + 2j)


# -- compiled functions -----------------------------------------------------------------------------------------------


@ENGINES
def test_a_training_step(engine) -> None:
    """Variables are updated in place; a learned rotation finds its angle."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20, 3)) + 1j * rng.standard_normal((20, 3))).astype("c8")
    w = np.array([1j, 1 - 1j, 0.5], "c8")
    v = tp.Variable(np.zeros(3, "c8"))

    @tp.tape_function(engine=engine)
    def step(x, y):
        with tp.GradientTape() as tape:
            loss = tp.mean(tp.abs(x @ v - y) ** 2)
        v.assign_sub(0.2 * tape.gradient(loss, v))
        return loss

    losses = [step(x, x @ w).item() for _ in range(60)]
    assert losses[-1] < 1e-6 < losses[0]
    np.testing.assert_allclose(v.numpy(), w, atol=1e-3)
    assert copy.deepcopy(v).dtype == np.complex64


@ENGINES
def test_of_any_size(engine) -> None:
    spec = [tp.TensorSpec((None, 2), np.complex128), tp.TensorSpec((2, None), np.complex64)]
    f = tp.tape_function(lambda a, b: (a @ b, tp.prod(a, axis=0), tp.abs(b)), input_signature=spec, engine=engine)
    for n in (0, 1, 5):
        a, b = np.exp(1j * np.arange(2.0 * n)).reshape(n, 2), np.ones((2, n), "c8") * 2j
        for got, want in zip(f(a, b), (a @ b, np.prod(a, axis=0), np.abs(b)), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-6)
    assert f.trace_count == 1


@ENGINES
def test_plain_outputs(engine) -> None:
    f = tp.tape_function(lambda z: (tp.sum(z), z * 2), outputs="numpy", engine=engine)
    for z in (Z, Z.astype("c16")):
        total, twice = f(z)
        assert type(total) is complex
        assert type(twice) is np.ndarray
        assert (total, twice.dtype) == (complex(z.sum()), z.dtype)


@ENGINES
def test_inside_njit(engine) -> None:
    import numba

    spec = [tp.TensorSpec((None,), np.complex128), tp.TensorSpec((), np.complex64)]
    f = tp.tape_function(lambda z, w: (z * w, tp.sum(z)), input_signature=spec, engine=engine).njit()

    @numba.njit
    def outer(z, w):
        y, total = f(z, w)
        return y[0] + total, y

    z = np.array([1j, 2, 3 - 1j])
    total, y = outer(z, np.complex64(2j))
    np.testing.assert_allclose(y, z * 2j)
    np.testing.assert_allclose(total, -2 + z.sum())


def test_other_layouts_and_dtypes() -> None:
    f = tp.tape_function(lambda z: z * 1j)
    z = np.arange(16.0).reshape(4, 4) * (1 + 1j)
    for a in (z, z.T, z[::-1], z.astype(">c16"), z.astype("c8"), z.real):
        np.testing.assert_array_equal(f(a), a * 1j)


@ENGINES
def test_loops_and_branches(engine) -> None:
    @tp.tape_function(engine=engine)
    def horner(z, n):
        s = 0j
        for k in range(n):
            if tp.real(s) > 3:
                s = s - 1
            s = s * z + k
        return s

    @tp.tape_function(engine=engine)
    def escape(z):
        s, n = z, 0
        while tp.abs(s) < 50.0:
            s, n = s * s + z, n + 1
        return s, n

    z = np.complex64(0.6 + 0.7j)
    want = 0j
    for k in range(6):
        want = (want - 1 if want.real > 3 else want) * complex(z) + k
    np.testing.assert_allclose(horner(z, tp.constant(6)), want, rtol=1e-5)
    s, n = complex(z), 0
    while abs(s) < 50:
        s, n = s * s + complex(z), n + 1
    got = escape(z)
    np.testing.assert_allclose(got[0], s, rtol=1e-4)
    assert got[1].item() == n
    slope = tp.grad(lambda z: tp.real(escape(z)[0]))(tp.constant(z))
    h = 1e-6
    numeric = lambda d: (iterate(complex(z) + d, n).real - iterate(complex(z) - d, n).real) / (2 * h)
    np.testing.assert_allclose(slope, numeric(h) + 1j * numeric(1j * h), rtol=1e-3)


def iterate(z: complex, n: int) -> complex:
    s = z
    for _ in range(n):
        s = s * s + z
    return s


def test_scans() -> None:
    z = tp.constant((np.arange(40) / 40 + 1j).astype("c8"))
    f = tp.tape_function(lambda z: tp.scan(lambda c, x: (c * x, c + x), tp.constant(np.complex64(1)), z))
    last, stack = f(z)
    products = np.cumprod(z.numpy())
    np.testing.assert_allclose(last, products[-1], rtol=1e-5)
    np.testing.assert_allclose(stack, np.concatenate([[1], products[:-1]]) + z.numpy(), rtol=1e-5)


def test_updates_in_place() -> None:
    v = tp.Variable(np.zeros((5, 2), "c8"))

    @tp.tape_function
    def put(z, k):
        v[k] = z
        v.assign_add(v * 1j)

    put(tp.constant(Z[:2]), tp.constant([1, 3, 1]))
    want = np.zeros((5, 2), "c8")
    want[[1, 3]] = Z[:2] * (1 + 1j)
    np.testing.assert_allclose(v.numpy(), want)


def test_checks_and_reports() -> None:
    f = tp.tape_function(lambda z: tp.log(z) * tp.conj(z))
    assert f.check(tp.constant(Z)).ok
    assert "log" in str(f.check(tp.constant(np.array([1j, 0]))))
    assert "24 B" in str(f.memory_report(tp.constant(Z)))
    with pytest.raises(FloatingPointError):
        tp.check_finite(tp.constant([complex(0, np.inf)]))


PROGRAM = """
import numpy as np, tapefuse as tp
f = tp.tape_function(lambda z: tp.exp(z) @ np.array([[1j, 2], [3, 4j]]))
print(np.asarray(f(np.array([[1 + 2j, 3]]))).round(6).tolist())
"""


def test_programs_on_disk(tmp_path) -> None:
    """A second process finds the program, whose constants are complex, too."""

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"TAPEFUSE_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    first = run()
    assert any(tmp_path.rglob("*"))
    want = np.exp(np.array([[1 + 2j, 3]])) @ np.array([[1j, 2], [3, 4j]])
    np.testing.assert_allclose(eval(first), want, rtol=1e-5)
    assert run() == first


def test_text_before_and_after_the_pass(tmp_path, capsys) -> None:
    file = tmp_path / "model.py"
    file.write_text("import tapefuse as tp\ndef f(z):\n    return tp.exp(z)\n")
    for stage, wanted, other in (("trace", "c64[B]", "f32[B,2]"), ("optimized", "f32[B,2]", "c64")):
        assert main(["dump", f"{file}:f", "--args", "c64[B]", "--stage", stage]) == 0
        text = capsys.readouterr().out
        assert wanted in text
        assert other not in text
