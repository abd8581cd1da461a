"""Fourier transforms against numpy.fft: values, dtypes and shapes, eager and compiled, and their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp

OF_COMPLEX = ("fft", "ifft", "irfft", "hfft")
OF_REAL = ("rfft", "ihfft")
SEVERAL = ("fftn", "ifftn", "fft2", "ifft2", "irfftn", "irfft2")
SEVERAL_OF_REAL = ("rfftn", "rfft2")
ENGINES = ("llvm", "numba")
EXTENTS = (1, 2, 3, 4, 7, 8, 12, 13, 31, 60, 101, 128)


def numbers(*shape: int, dtype: str = "c16", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, *shape])
    x = rng.normal(size=shape)
    return np.asarray(x + 1j * rng.normal(size=shape) if dtype[0] == "c" else x, dtype)


def agree(got: Any, want: np.ndarray) -> None:
    got = np.asarray(got)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.size:
        precision = np.finfo(want.dtype).eps * (1 + np.log2(want.size))
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * precision * max(np.abs(want).max(), 1e-30))


def operand(name: str, *shape: int, single: bool = False) -> np.ndarray:
    kind = "f" if name in OF_REAL + SEVERAL_OF_REAL else "c"
    return numbers(*shape, dtype={"f": "f4" if single else "f8", "c": "c8" if single else "c16"}[kind])


# -- values -----------------------------------------------------------------------------------------------------------

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"n": 9},
    {"n": 3, "axis": 0},
    {"n": 16, "norm": "ortho", "axis": 1},
    {"n": 1, "norm": "forward"},
    {"axis": -2, "norm": "backward"},
)
SEVERAL_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"s": (5, 2), "axes": (1, 2)},
    {"s": (-1, 8), "axes": (0, 2)},
    {"axes": (2, 0), "norm": "ortho"},
    {"axes": (1,), "norm": "forward"},
    {"s": (7, 6), "axes": (-1, 0)},
)
CASES = [(f, o) for f in OF_COMPLEX + OF_REAL for o in OPTIONS]
CASES += [(f, o) for f in SEVERAL + SEVERAL_OF_REAL for o in SEVERAL_OPTIONS]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_values(name: str, options: dict[str, Any]) -> None:
    """Complex and real operands of both precisions, by either spelling, one by one and over whole batches."""
    for single in (False, True):
        x = operand(name, 4, 5, 6, single=single)
        for a in {x.dtype: x, x.real.dtype: x.real.copy()}.values():
            want = getattr(np.fft, name)(a, **options)
            agree(getattr(tp.fft, name)(tp.constant(a), **options), want)
            agree(getattr(np.fft, name)(tp.constant(a), **options), want)
            agree(tp.tape_function(lambda x: getattr(tp.fft, name)(x, **options))(a), want)


@pytest.mark.parametrize("n", EXTENTS)
def test_extents(n: int) -> None:
    """Odd and even ones, powers, products and primes; the inverses are inverses."""
    x, z = numbers(2, n, dtype="f8"), numbers(2, n)
    agree(tp.fft.fft(z), np.fft.fft(z))
    agree(tp.fft.rfft(x), np.fft.rfft(x))
    agree(tp.fft.irfft(tp.fft.rfft(x), n), x)
    agree(tp.fft.ifft(tp.fft.fft(z)), z)
    agree(tp.fft.hfft(tp.fft.ihfft(x), n), x)

    @tp.tape_function
    def back(x, z):
        return tp.fft.irfft(tp.fft.rfft(x, norm="ortho"), n, norm="ortho"), tp.fft.fft(tp.fft.ifft(z))

    for got, want in zip(back(x, z), (x, z), strict=True):
        agree(got, want)


@pytest.mark.parametrize("dtype", ["i8", "u1", "?"])
def test_other_dtypes(dtype: str) -> None:
    x = np.array([[3, 0, 1, 1, 0], [1, 1, 0, 7, 2]], dtype)
    for name in ("fft", "rfft", "irfft", "ihfft"):
        agree(getattr(tp.fft, name)(x), getattr(np.fft, name)(x))


def test_halves() -> None:
    """Computed in float32, as NumPy does it but for the scale."""
    x = np.array([[3, 0, 1, 1, 0], [1, 1, 0, 7, 2]], "f2")
    for name in ("fft", "rfft", "irfft", "hfft", "ihfft"):
        got, want = np.asarray(getattr(tp.fft, name)(x)), getattr(np.fft, name)(x)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 5)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    for f in (lambda m, x: m.fft.fft(x), lambda m, x: m.fft.irfft(m.fft.rfft(x), shape[-1])):
        agree(f(tp, x), f(np, x))
        agree(tp.tape_function(lambda x, f=f: f(tp, x))(x), f(np, x))


def test_frequencies() -> None:
    for n in (1, 2, 5, 8):
        for d in (1.0, 0.25):
            agree(tp.fft.fftfreq(n, d), np.fft.fftfreq(n, d))
            agree(tp.fft.rfftfreq(n, d), np.fft.rfftfreq(n, d))
    spacing = tp.constant(0.5, np.float64)
    np.testing.assert_allclose(tp.grad(lambda d: tp.sum(tp.fft.rfftfreq(4, d)))(spacing), -0.75 / 0.25)


@pytest.mark.parametrize("name", ["fftshift", "ifftshift"])
def test_shifts(name: str) -> None:
    x = numbers(4, 5)
    for axes in (None, 0, (0, 1), -1):
        agree(getattr(np.fft, name)(tp.constant(x), axes), getattr(np.fft, name)(x, axes))
    agree(tp.fft.ifftshift(tp.fft.fftshift(x)), x)


# -- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_compiled_along_every_axis(engine: str) -> None:
    """Rows, columns, and columns of several blocks; what is transposed or computed on the way in."""

    def several(m, x, z):
        return (
            m.fft.fft(z, axis=0),
            m.fft.ifft(z * 2, axis=1),
            m.fft.rfft(x, axis=1, norm="ortho"),
            m.fft.irfft(z, axis=0, n=7),
            m.fft.fft(z.transpose(2, 0, 1)),
            m.fft.rfft(x.transpose(0, 2, 1)),
            m.fft.fftn(x),
        )

    x, z = numbers(3, 4, 5, dtype="f8"), numbers(3, 4, 5)
    with tp.config(engine=engine):
        for got, want in zip(tp.tape_function(lambda x, z: several(tp, x, z))(x, z), several(np, x, z), strict=True):
            agree(got, want)


def test_compiled_in_pieces() -> None:
    x = numbers(3000, 64, dtype="f4")
    for threads in (1, 2):
        agree(tp.tape_function(lambda x: tp.fft.rfft(x * 2), threads=threads)(x), np.fft.rfft(x * 2))
        agree(tp.tape_function(lambda x: tp.fft.fft(x, axis=0), threads=threads)(x), np.fft.fft(x, axis=0))


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_known_at_run_time_only(engine: str) -> None:
    def f(m, x):
        rows, columns = m.fft.rfft(x), m.fft.fft(x, axis=0, norm="ortho")
        return rows, columns, m.fft.fftshift(columns, 0), m.fft.ifftshift(x, 0), m.fft.fftfreq(x.shape[0])

    with tp.config(engine=engine):
        compiled = tp.tape_function(lambda x: f(tp, x), input_signature=[tp.TensorSpec((None, 6), np.float64)])
        for n in (1, 2, 5, 8) if engine == "llvm" else (5,):
            x = numbers(n, 6, dtype="f8")
            for got, want in zip(compiled(x), f(np, x), strict=True):
                agree(got, want)


def test_extents_that_are_multiples_of_a_symbol() -> None:
    def f(m, x):
        doubled = m.concatenate([x, x], axis=-1)
        spectrum = m.fft.rfft(doubled)
        return spectrum, m.fft.irfft(spectrum), m.fft.irfft(spectrum, 2 * x.shape[-1]), m.fft.rfftfreq(2 * x.shape[-1])

    compiled = tp.tape_function(lambda x: f(tp, x), input_signature=[tp.TensorSpec((2, "B"), np.float64)])
    for n in (1, 2, 5):
        x = numbers(2, n, dtype="f8")
        for got, want in zip(compiled(x), f(np, x), strict=True):
            agree(got, want)


@pytest.mark.parametrize("engine", ENGINES)
def test_inside_of_a_loop(engine: str) -> None:
    """A wave in a potential by the split-step method: the loop is native, and so is its gradient."""
    potential, z = numbers(8, dtype="f8"), numbers(8)

    def run(m, potential, z, kinetic):
        for _ in range(30):
            z = m.fft.ifft(m.fft.fft(z) * kinetic) * m.exp(-0.1j * potential)
        return z

    def loss(potential, z, kinetic):
        return tp.sum(tp.abs(run(tp, potential, z, kinetic)[:3]) ** 2)

    kinetic = np.exp(-0.05j * np.fft.fftfreq(8, 0.1) ** 2)
    with tp.config(engine=engine):
        last = tp.tape_function(lambda *xs: run(tp, *xs))(potential, z, kinetic)
        np.testing.assert_allclose(last, run(np, potential, z, kinetic), rtol=1e-12)
        slope = np.asarray(tp.tape_function(tp.grad(loss))(potential, z, kinetic))
    for k in range(8):
        step = np.eye(8)[k] * 1e-5
        up, down = (np.sum(np.abs(run(np, potential + s, z, kinetic)[:3]) ** 2) for s in (step, -step))
        np.testing.assert_allclose(slope[k], (up - down) / 2e-5, rtol=1e-6, atol=1e-8)


# -- derivatives ------------------------------------------------------------------------------------------------------

DERIVED = [
    ("fft", {}),
    ("ifft", {"n": 7, "axis": 0}),
    ("fft", {"n": 3, "norm": "ortho"}),
    ("rfft", {}),
    ("rfft", {"n": 9, "norm": "forward", "axis": 0}),
    ("irfft", {}),
    ("irfft", {"n": 7}),
    ("hfft", {"norm": "ortho"}),
    ("ihfft", {"n": 5}),
    ("fft2", {}),
    ("rfftn", {"s": (3, 8), "axes": (0, 1)}),
    ("irfft2", {"norm": "ortho"}),
    ("fftshift", {}),
]


def inner(a: Any, b: Any) -> Any:
    """The real inner product of real or complex arrays: dL/dx + i dL/dy is a gradient in it."""
    return tp.sum(tp.real(tp.conj(a) * b))


def random_like(x: np.ndarray, seed: int) -> np.ndarray:
    return numbers(*x.shape, dtype="c16" if x.dtype.kind == "c" else "f8", seed=seed)


@pytest.mark.parametrize(
    ("name", "options", "engine"),
    [(*c, engine) for c in DERIVED for engine in ("eager", "llvm")] + [(*c, "numba") for c in DERIVED[1::4]],
    ids=str,
)
def test_derivatives(name: str, options: dict[str, Any], engine: str) -> None:
    """Transforms are linear: the tangent is the transform of the tangent, the gradient is its transpose, and the third
    derivative of sum(c f(x + t v)**3) by t is 6 sum(c f(v)**3)."""
    x = operand(name, 4, 6)
    f = lambda x: getattr(tp.fft, name)(x, **options)
    numpy = lambda x: getattr(np.fft, name)(x, **options)
    v, c = random_like(x, 1), random_like(numpy(x), 2)

    def slopes(x, v, c):
        along = lambda t: inner(c, f(x + t * v) ** 3)
        second = lambda t: tp.jvp(tp.grad(along), (t,), (tp.constant(1.0, np.float64),))[1]
        third = tp.grad(second)(tp.constant(0.5, np.float64))
        return tp.jvp(f, (x,), (v,))[1], tp.grad(lambda x: inner(c, f(x)))(x), third

    if engine == "eager":
        tangent, gradient, third = slopes(*map(tp.constant, (x, v, c)))
    else:
        with tp.config(engine=engine):
            tangent, gradient, third = tp.tape_function(slopes)(x, v, c)
    agree(tangent, numpy(v))
    assert np.asarray(gradient).dtype == x.dtype
    np.testing.assert_allclose(inner(gradient, v), inner(c, numpy(v)), rtol=1e-12)
    np.testing.assert_allclose(third, 6 * inner(c, numpy(v) ** 3), rtol=1e-11)


@pytest.mark.parametrize(("name", "options"), DERIVED, ids=str)
def test_gradients_agree_with_differences(name: str, options: dict[str, Any]) -> None:
    """Of something that is not linear, by each part of each element."""
    x = operand(name, 3, 4)
    loss = lambda m, x: m.sum(m.log(1 + m.abs(getattr(m.fft, name)(x, **options)) ** 2))
    got = np.asarray(tp.grad(lambda x: loss(tp, x))(tp.constant(x)))
    for index in np.ndindex(*x.shape):
        for unit in (1, 1j) if x.dtype.kind == "c" else (1,):
            up, down = x.copy(), x.copy()
            up[index] += 1e-5 * unit
            down[index] -= 1e-5 * unit
            want = (loss(np, up) - loss(np, down)) / 2e-5
            np.testing.assert_allclose((got[index] * np.conj(unit)).real, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "options"), DERIVED, ids=str)
def test_mapped(name: str, options: dict[str, Any]) -> None:
    x = operand(name, 4, 6, 3)
    f = lambda x: getattr(tp.fft, name)(x, **options)
    want = np.stack([f(x[..., k]) for k in range(3)])
    agree(tp.vmap(f, in_axes=2)(tp.constant(x)), want)
    agree(tp.tape_function(tp.vmap(f, in_axes=2))(x), want)


# -- errors -----------------------------------------------------------------------------------------------------------

X = np.ones((4, 6))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tp.fft.fft(X, 0), tp.ShapeError, "0 points"),
        (lambda: tp.fft.irfft(X[:, :1]), tp.ShapeError, "0 points"),
        (lambda: tp.fft.fft(X, norm="orthogonal"), ValueError, "norm is 'orthogonal'"),
        (lambda: tp.fft.hfft(X, norm="orthogonal"), ValueError, "norm is 'orthogonal'"),
        (lambda: tp.fft.rfft(X + 1j), tp.DTypeError, "rfft at .* is complex; fft takes"),
        (lambda: tp.fft.fft(X, axis=2), np.exceptions.AxisError, "axis 2 is out of range"),
        (lambda: tp.fft.fft(X, n=2.5), tp.DTypeError, "n must be an integer"),
        (lambda: tp.fft.fft2(X, s=(2,)), tp.ShapeError, "1 extents for 2 axes"),
        (lambda: tp.fft.rfftn(X, axes=()), tp.ShapeError, "at least one axis"),
        (lambda: tp.fft.fft(np.ones(())), np.exceptions.AxisError, "a scalar has no axes"),
        (lambda: tp.fft.fft(X, out=X), TypeError, "out="),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (tp.fft.rfft, "B real numbers have B//2.1 frequencies: whether .* fix it in the TensorSpec"),
        (lambda x: tp.fft.fft(x, 8), "whether B points are cut or filled to 8 must be known"),
        (lambda x: tp.fft.irfft(x, x.shape[0]), "B is a symbol; whether it is even"),
        (lambda x: tp.fft.rfftfreq(x.shape[0]), "B is a symbol; whether it is even"),
    ],
)
def test_what_must_be_known_while_tracing(f: Any, words: str) -> None:
    with pytest.raises(tp.ShapeError, match=words):
        tp.tape_function(f, input_signature=[tp.TensorSpec(("B",), np.float64)])(np.ones(6))
