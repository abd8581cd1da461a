"""NumPy-named functions give what NumPy gives: values, shapes and dtypes, eagerly, traced, and through NumPy's "
"own names."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp

RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 1.5, (3, 4)).astype(np.float32)
B = RNG.uniform(0.5, 1.5, (4,))
I = np.array([[3, -2, 0], [5, 7, -9]], np.int32)
T = np.array([True, False, True])
EMPTY = np.ones((0, 3), np.float32)
ONE = np.ones((1, 1), np.float32)

UNARY = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sqrt",
    "sign",
    "floor",
    "ceil",
    "rint",
    "square",
    "negative",
    "abs",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
    "exp2",
    "log2",
    "log10",
    "sinh",
    "cosh",
    "arctan",
    "positive",
]
BINARY = [
    "arctan2",
    "add",
    "subtract",
    "multiply",
    "divide",
    "floor_divide",
    "mod",
    "maximum",
    "minimum",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "power",
    "logical_and",
    "logical_or",
    "logical_xor",
]
REDUCTIONS = ["sum", "prod", "mean", "max", "min", "any", "all", "var", "std"]

CASES = {
    "where": lambda m, a, b, i, t: m.where(a > 1, a, b),
    "where-weak": lambda m, a, b, i, t: m.where(a > 1, a, 0),
    "clip": lambda m, a, b, i, t: m.clip(a, 0.75, 1.25),
    "clip-int": lambda m, a, b, i, t: m.clip(i, -1, 4),
    "reshape": lambda m, a, b, i, t: m.reshape(a, (2, -1)),
    "ravel": lambda m, a, b, i, t: m.ravel(a),
    "transpose": lambda m, a, b, i, t: m.transpose(a),
    "swapaxes": lambda m, a, b, i, t: m.swapaxes(a, 0, -1),
    "moveaxis": lambda m, a, b, i, t: m.moveaxis(a[None], 0, 2),
    "expand_dims": lambda m, a, b, i, t: m.expand_dims(a, (0, 3)),
    "squeeze": lambda m, a, b, i, t: m.squeeze(a[None, :, None]),
    "broadcast_to": lambda m, a, b, i, t: m.broadcast_to(b, (2, 3, 4)),
    "flip": lambda m, a, b, i, t: m.flip(a, 1),
    "flip-all": lambda m, a, b, i, t: m.flip(a),
    "pad": lambda m, a, b, i, t: m.pad(a, ((1, 0), (0, 2)), constant_values=3),
    "pad-all": lambda m, a, b, i, t: m.pad(i, 1),
    "concatenate": lambda m, a, b, i, t: m.concatenate([a, a * 2], 1),
    "concatenate-mixed": lambda m, a, b, i, t: m.concatenate([a[0], b, [1, 2]]),
    "concatenate-flat": lambda m, a, b, i, t: m.concatenate([a, b], axis=None),
    "stack": lambda m, a, b, i, t: m.stack([b, b + 1], axis=-1),
    "split": lambda m, a, b, i, t: m.split(a, 2, axis=1)[1],
    "split-at": lambda m, a, b, i, t: m.split(b, [1, 3])[1],
    "take": lambda m, a, b, i, t: m.take(a, [3, -1, 0], axis=1),
    "take-flat": lambda m, a, b, i, t: m.take(a, [[0, 5], [11, -1]]),
    "take_along_axis": lambda m, a, b, i, t: m.take_along_axis(a, m.argmax(a, axis=1, keepdims=True), axis=1),
    "argmax": lambda m, a, b, i, t: m.argmax(a),
    "argmin": lambda m, a, b, i, t: m.argmin(i, axis=0),
    "argmax-bool": lambda m, a, b, i, t: m.argmax(t),
    "matmul": lambda m, a, b, i, t: m.matmul(a, b),
    "matmul-left": lambda m, a, b, i, t: m.matmul(b, m.transpose(a)),
    "matmul-stack": lambda m, a, b, i, t: m.matmul(a[None, None], m.transpose(a)[None]),
    "matmul-int": lambda m, a, b, i, t: m.matmul(i, m.transpose(i)),
    "matmul-bool": lambda m, a, b, i, t: m.matmul(t[None], t[:, None]),
    "dot": lambda m, a, b, i, t: m.dot(a, b),
    "dot-3": lambda m, a, b, i, t: m.dot(a[None], m.transpose(a)),
    "dot-scalar": lambda m, a, b, i, t: m.dot(a, 2),
    "outer": lambda m, a, b, i, t: m.outer(b, b),
    "vdot": lambda m, a, b, i, t: m.vdot(a, a),
    "tensordot": lambda m, a, b, i, t: m.tensordot(a, a, 2),
    "tensordot-axes": lambda m, a, b, i, t: m.tensordot(a[None], a, ([1], [0])),
    "einsum": lambda m, a, b, i, t: m.einsum("ij,kj->ik", a, a),
    "einsum-implicit": lambda m, a, b, i, t: m.einsum("ij,j", a, b),
    "einsum-batched": lambda m, a, b, i, t: m.einsum("bij,bkj,j->bk", a[None], a[None], a[0]),
    "einsum-one": lambda m, a, b, i, t: m.einsum("ij->j", a),
    "einsum-outer": lambda m, a, b, i, t: m.einsum("i,j->ji", b, b),
    "round": lambda m, a, b, i, t: m.round(a * 10, 1),
    "bits": lambda m, a, b, i, t: (i & 6) | (i ^ 1),
    "bools": lambda m, a, b, i, t: (t & ~t) | (t ^ True),
    "cube": lambda m, a, b, i, t: a**3 + a**2 + a**1 + a**0.5 + a**-1,
    "zeros_like": lambda m, a, b, i, t: m.zeros_like(i),
    "full_like": lambda m, a, b, i, t: m.full_like(a, 7),
    "ones_like": lambda m, a, b, i, t: m.ones_like(b),
    "floordiv": lambda m, a, b, i, t: i // 2 + i % 3,
}  # fmt: skip


def agree(got, want, rtol=2e-6):
    assert isinstance(got, tp.Tensor)
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)


def ways(f, *arrays, compiled=False):
    """`f` eagerly on tensors, and traced: interpreted, since the ops' own tests compile them, unless `compiled`."""
    yield f(*map(tp.constant, arrays))
    with tp.config(disable_jit=not compiled):
        yield tp.tape_function(f)(*arrays)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("x", [A, B, I, EMPTY, ONE, A[0, 0]], ids=["f32", "f64", "i32", "empty", "ones", "0-d"])
def test_unary(name, x):
    with np.errstate(all="ignore"):
        if name in ("log", "log1p", "sqrt", "log2", "log10"):
            x = np.abs(x) + 1
        want = getattr(np, name)(x)
        for got in ways(getattr(tp, name), x):
            agree(got, want)
        agree(getattr(np, name)(tp.constant(x)), want)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("x, y", [(A, B), (A, A[:, :1]), (I, I[0]), (I, A[0, :3]), (EMPTY, ONE), (B, B[0])])
def test_binary(name, x, y):
    if name == "power":
        y = np.abs(y)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x, y)
        for got in ways(getattr(tp, name), x, y):
            agree(got, want)
        agree(getattr(np, name)(x, tp.constant(y)), want)


@pytest.mark.parametrize("y", [2, 2.5, True, np.float64(2.5), np.int8(3), np.float32(1.5)], ids=repr)
@pytest.mark.parametrize("x", [A, B, I, T], ids=["f32", "f64", "i32", "bool"])
def test_scalars_promote_as_in_numpy(x, y):
    for f in (lambda x: x + y, lambda x: y * x, lambda x: x / y, lambda x: x < y):
        for got in ways(f, x):
            agree(got, f(x))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(
    "options", [{}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 1)}, {"axis": ()}], ids=str
)
@pytest.mark.parametrize("x", [A, B[None], I, T[None], ONE], ids=["f32", "f64", "i32", "bool", "ones"])
def test_reductions(name, options, x):
    if x.dtype == bool and name in ("var", "std"):
        x = x.astype(np.int32)  # NumPy refuses to subtract bools
    want = getattr(np, name)(x, **options)
    for got in ways(lambda x: getattr(tp, name)(x, **options), x):
        agree(got, want, 1e-5)
    agree(getattr(np, name)(tp.constant(x), **options), want, 1e-5)


def test_ddof_and_dtype():
    agree(tp.var(tp.constant(A), ddof=1), A.var(ddof=1), 1e-5)
    agree(tp.std(tp.constant(A), axis=1, ddof=1), A.std(axis=1, ddof=1), 1e-5)
    agree(tp.sum(tp.constant(A), dtype=np.float64), A.sum(dtype=np.float64))


@pytest.mark.parametrize("name", ["sum", "prod", "any", "all"])
def test_reductions_of_nothing(name):
    for got in ways(lambda x: getattr(tp, name)(x, axis=0), EMPTY):
        agree(got, getattr(np, name)(EMPTY, axis=0))


@pytest.mark.parametrize("name", ["max", "min", "argmax"])
def test_extremes_of_nothing_are_errors(name):
    for wrap in (lambda f: f, tp.tape_function):
        with pytest.raises(ValueError, match="empty axis"):
            wrap(lambda x: getattr(tp, name)(x, axis=0))(EMPTY)


@pytest.mark.parametrize("name", CASES)
def test_functions(name):
    f, arrays = CASES[name], (A, B, I, T)
    want = f(np, *arrays)
    for got in ways(lambda *xs: f(tp, *xs), *arrays, compiled=True):
        agree(got, want)
    agree(f(np, *map(tp.constant, arrays)), want)


@pytest.mark.parametrize("name", ["add", "multiply", "maximum", "minimum", "logical_and", "logical_or"])
def test_reduce_of_ufuncs(name):
    x = T[None] if name.startswith("logical") else A
    agree(getattr(np, name).reduce(tp.constant(x)), getattr(np, name).reduce(x))


def test_softmax_family():
    x = np.array([[1.0, 2.0, 1000.0], [-1000.0, -1000.0, -1000.0]])
    for f, want in (
        (tp.softmax, [[0, 0, 1], [1 / 3] * 3]),
        (tp.log_softmax, [[-999, -998, 0], [-np.log(3)] * 3]),
        (lambda x: tp.logsumexp(x, axis=1), [1000, -1000 + np.log(3)]),
        (lambda x: tp.logsumexp(x, axis=1, keepdims=True), [[1000], [-1000 + np.log(3)]]),
    ):
        for got in ways(f, x):
            agree(got, np.array(want, float))
    assert tp.logsumexp(tp.constant([-np.inf, -np.inf])).item() == -np.inf


def test_creation():
    agree(tp.zeros((2, 3)), np.zeros((2, 3), np.float32))
    agree(tp.ones(2, np.int64), np.ones(2, np.int64))
    agree(tp.full((2,), 2.5), np.full(2, 2.5, np.float32))
    agree(tp.eye(2, 3), np.eye(2, 3, dtype=np.float32))
    agree(tp.arange(5), np.arange(5, dtype=np.int32))
    agree(tp.arange(1, 2, 0.25), np.arange(1, 2, 0.25, dtype=np.float32))
    agree(tp.arange(np.int64(3)), np.arange(3))
    agree(tp.linspace(-1.0, 1.0, 5), np.linspace(-1, 1, 5, dtype=np.float32))
    agree(tp.zeros(tp.constant([2, 2])), np.zeros((2, 2), np.float32))


def test_activations():
    x = np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0])
    for f, want in (
        (tp.relu, np.maximum(x, 0)),
        (tp.sigmoid, [0, 0.2689414213699951, 0.5, 0.7310585786300049, 1]),
        (tp.softplus, [0, 0.3132616875182228, np.log(2), 1.3132616875182228, 1000]),
        (tp.erf, [-1, -0.8427007929497149, 0, 0.8427007929497149, 1]),
    ):
        for got in ways(f, x):
            agree(got, np.array(want))
    agree(tp.rsqrt(tp.constant(4.0)), np.float32(0.5))


def test_numpy_functions_without_counterpart():
    x = tp.constant(A)
    with pytest.raises(TypeError, match=r"np.isnat has no counterpart.*np.asarray"):
        np.isnat(x)
    with pytest.raises(TypeError, match=r"np.datetime_as_string has no counterpart"):
        np.datetime_as_string(x)
    with pytest.raises(TypeError, match=r"out=.*into arrays"):
        np.exp(x, out=np.empty_like(A))
    with pytest.raises(TypeError, match=r"np.exp at .*test_numpy.py.*where.*tp.where"):
        np.exp(x, where=A > 1)


def test_numpy_functions_on_values():
    x = tp.constant(A)
    assert np.allclose(x, A)
    assert np.array_equal(x, A)
    assert (np.shape(x), np.ndim(x)) == ((3, 4), 2)
    assert np.asarray(x, np.float64).dtype == np.float64
    assert np.array(x).flags.writeable
    np.testing.assert_array_equal(x, A)


@pytest.mark.parametrize(
    "mistake, error, text",
    [
        (lambda x: tp.reshape(x, (5, -1)), ValueError, r"f32\[3,4\].*extent -1"),
        (lambda x: tp.reshape(x, (-1, -1)), ValueError, "at most one"),
        (lambda x: tp.reshape(x, (5,)), ValueError, r"12 elements"),
        (lambda x: tp.sum(x, axis=2), ValueError, "axis 2 is out of range for a tensor of rank 2"),
        (lambda x: tp.sum(x, axis=(0, -2)), ValueError, "twice"),
        (lambda x: tp.squeeze(x, 0), ValueError, "extent 1"),
        (lambda x: tp.concatenate([]), ValueError, "at least one"),
        (lambda x: tp.stack([x, x[0]]), ValueError, "shapes must be equal"),
        (lambda x: tp.split(x, 3, axis=1), ValueError, "uneven"),
        (lambda x: tp.broadcast_to(x, (4, 4)), ValueError, "broadcast"),
        (lambda x: x + tp.ones(3), ValueError, r"add\(f32\[3,4\], f32\[3\]\).*do not broadcast"),
        (lambda x: x @ x, ValueError, r"matmul\(f32\[3,4\], f32\[3,4\]\)"),
        (lambda x: x @ 2.0, ValueError, "scalars"),
        (lambda x: tp.einsum("ij,jk", x), ValueError, "term for each"),
        (lambda x: tp.einsum("ii->i", x), ValueError, "two extents"),
        (lambda x: tp.tensordot(x, x, ([0], [1])), ValueError, "extents differ"),
        (lambda x: x & 1, TypeError, "operands must be"),
        (lambda x: x + "text", TypeError, "tensors hold"),
        (lambda x: x + object(), TypeError, "tensors hold"),
        (lambda x: -tp.constant(True), TypeError, "negative"),
        (lambda x: tp.take_along_axis(x, [1]), ValueError, "ranks must be equal"),
        (lambda x: tp.pad(x, 1, mode="odd"), ValueError, "constant"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "traced"])
def test_mistakes(mistake, error, text, wrap):
    with pytest.raises(error, match=text) as caught:
        wrap(mistake)(tp.constant(A))
    message = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "test_numpy.py" in message or "tensors hold" in message


def test_every_method():
    x = tp.constant(A)
    names = "sum mean prod max min var std any all argmax argmin ravel flatten squeeze transpose"
    for name in names.split():
        agree(getattr(x, name)(), getattr(A, name)(), 1e-5)
    agree(x.T, A.T)
    agree(x.reshape(4, -1), A.reshape(4, -1))
    agree(x.transpose(1, 0), A.T)
    agree(x.swapaxes(0, 1), A.T)
    agree(x.clip(0.7), A.clip(0.7))
    agree(x.dot(B), A.dot(B))
    agree(x.astype(np.int64), A.astype(np.int64))
    assert (x.ndim, x.size, x.dtype, x.shape, len(x)) == (2, 12, A.dtype, (3, 4), 3)
