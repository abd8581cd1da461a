"""Sorting and searching beyond the table: compiled on both engines, in parallel, for sizes known at run time only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.types import Poly, Type
from tests.engines import ENGINES

N = Poly.symbol("N")
SHAPES = [((5,), 0), ((1,), 0), ((0,), 0), ((33, 4), 0), ((3, 100), 1), ((2, 17, 3), 1), ((0, 3), 1), ((2, 0), 1)]


def with_ties(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    x = np.random.default_rng(3).integers(0, 9, shape).astype(dtype)
    if dtype[0] == "f":
        x.reshape(-1)[::4] = np.nan
        x.reshape(-1)[1::5] = -np.inf
    return x


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u1"])
def test_sorting_programs(dtype: str, shape: tuple[int, ...], axis: int, is_symbolic: bool) -> None:
    x = with_ties(shape, dtype)
    p = param(Type(x.dtype, (N, *shape[1:]) if is_symbolic else shape), "x")
    graph = Graph((p,), (ops.sort(p, axis=axis), ops.argsort(p, axis=axis)), "sorted")
    for name in ENGINES if (dtype, shape) in (("f8", (3, 100)), ("i8", (33, 4))) else ("llvm",):
        ordered, positions = ENGINES[name](graph)(x)
        np.testing.assert_array_equal(ordered, np.sort(x, axis, kind="stable"))
        np.testing.assert_array_equal(positions, np.argsort(x, axis, kind="stable"))


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 33])
def test_searching_programs(n: int, right: bool) -> None:
    a = np.sort(with_ties((n,), "f8"))
    v = np.array([np.nan, -np.inf, np.inf, -1.0, 0.0, 3.0, 3.5, 8.0])
    for extent in (n, N):
        p, q = param(Type(a.dtype, (extent,)), "a"), param(Type(v.dtype, v.shape), "v")
        graph = Graph((p, q), (ops.searchsorted(p, q, lead=0, right=right),), "searched")
        for name in ENGINES if n == 7 else ("llvm",):
            (found,) = ENGINES[name](graph)(a, v)
            np.testing.assert_array_equal(found, np.searchsorted(a, v, "right" if right else "left"))


def test_rows_are_sorted_in_pieces() -> None:
    x = np.random.default_rng(0).standard_normal((3000, 300)).astype(np.float32)
    for threads in (1, 2):
        got = tp.tape_function(lambda x: (tp.sort(x * 2), tp.argsort(x, axis=0)), threads=threads)(x)
        np.testing.assert_array_equal(got[0], np.sort(x * 2, kind="stable"))
        np.testing.assert_array_equal(got[1], np.argsort(x, axis=0, kind="stable"))


def test_what_is_computed_is_sorted_as_it_is_copied() -> None:
    """A cheap function of an input has no array of its own."""
    f = tp.tape_function(lambda x: tp.sort(-x))
    x = with_ties((4, 50), "f8")
    np.testing.assert_array_equal(f(x), np.sort(-x))


SPEC = [tp.TensorSpec((None, 3), np.float64)]
ANY_SIZE = {
    "sort": lambda m, x: m.sort(x, axis=0),
    "argsort": lambda m, x: m.argsort(x, axis=0, kind="stable"),
    "searchsorted": lambda m, x: m.searchsorted(m.sort(x[:, 0]), x),
    "digitize": lambda m, x: m.digitize(x, m.sort(x[:, 0])),
    "isin": lambda m, x: m.isin(x, x[:, 1]),
    "tile": lambda m, x: m.tile(x, (2, 2)),
    "repeat": lambda m, x: m.repeat(x, 2, axis=0),
    "roll": lambda m, x: m.roll(x, 2, axis=0),
    "roll-flat": lambda m, x: m.roll(x, -1),
    "tril": lambda m, x: m.tril(x @ x.T, -1),
    "diagonal": lambda m, x: m.diagonal(x @ x.T),
    "trace": lambda m, x: m.trace(x @ x.T),
    "diag": lambda m, x: m.diag(x[:, 0], 1),
    "kron": lambda m, x: m.kron(x, np.ones((2, 2))),
    "vstack": lambda m, x: m.vstack([x, x, np.zeros((1, 3))]),
    "hstack": lambda m, x: m.hstack([x, x]),
    "stack": lambda m, x: m.stack([x, x], axis=1),
    "take": lambda m, x: m.take(x, [0, -1], axis=0),
    "wrapped": lambda m, x: m.take(x, [9, -5], axis=0, mode="wrap"),
    "pad": lambda m, x: m.pad(x, ((1, 2), (0, 0))),
    "edge": lambda m, x: m.pad(x, ((0, 0), (1, 1)), mode="edge"),
    "reshape-F": lambda m, x: m.reshape(x, (-1, 1), order="F"),
    "einsum": lambda m, x: m.einsum("...i,...j->...ij", x, x),
    "einsum-diagonal": lambda m, x: m.einsum("ii->i", x @ x.T),
    "norm": lambda m, x: m.linalg.norm(x, axis=0),
    "cross": lambda m, x: m.cross(x, x[::-1]),
    "meshgrid": lambda m, x: m.meshgrid(x[:, 0], x[:, 1]),
    "select": lambda m, x: m.select([x > 1, x < 0], [x, -x], 0.5),
    "vecdot": lambda m, x: m.vecdot(x, x + 1),
    "matrix_power": lambda m, x: m.linalg.matrix_power(x @ x.T, 3),
}


@pytest.mark.parametrize("name", ANY_SIZE)
def test_sizes_known_at_run_time_only(name: str) -> None:
    f = ANY_SIZE[name]
    compiled = tp.tape_function(lambda x: f(tp, x), input_signature=SPEC)
    for n in (4, 1, 7):
        x = np.random.default_rng(n).standard_normal((n, 3))
        got, want = compiled(x), f(np, x)
        for a, b in zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]:
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert compiled.trace_count == 1


def test_segments_of_sizes_known_at_run_time_only() -> None:
    specs = [tp.TensorSpec(("B", 2), np.float64), tp.TensorSpec(("B",), np.int32)]

    def f(x: Any, ids: Any) -> Any:
        return (
            tp.segment_sum(x, ids, 4),
            tp.segment_mean(x, ids, 4),
            tp.segment_max(x, ids, 4),
            tp.segment_min(x, ids, 4),
        )

    compiled = tp.tape_function(f, input_signature=specs)
    for n in (5, 1):
        x, ids = np.random.default_rng(n).standard_normal((n, 2)), np.arange(n, dtype=np.int32)[::-1] % 3
        for got, want in zip(compiled(x, ids), f(x, ids), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_variable_is_sorted_in_place() -> None:
    x = np.random.default_rng(0).standard_normal((3, 50))
    v = tp.Variable(x)
    tp.tape_function(lambda: v.assign(tp.sort(v[::-1], axis=1)))()
    np.testing.assert_array_equal(v.numpy(), np.sort(x[::-1], axis=1))
    tp.tape_function(lambda: v.assign(tp.sort(v, axis=0)))()
    np.testing.assert_array_equal(v.numpy(), np.sort(np.sort(x[::-1], axis=1), axis=0))


def test_compiled_gradients() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5))

    @tp.tape_function
    def gradient_of(x: Any) -> Any:
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = tp.sum(tp.sort(x, axis=0) * np.arange(3.0)[:, None]) + tp.sum(tp.top_k(x, 2)[0] ** 2)
            y += tp.sum(tp.segment_max(x, [0, 1, 0], 2)) + tp.sum(tp.unique(x, size=4) ** 3)
        return tape.gradient(y, x)

    compiled = gradient_of(x).numpy()
    with tp.config(disable_jit=True):
        np.testing.assert_allclose(compiled, gradient_of(x).numpy(), rtol=1e-12)


# -- derivatives at ties ----------------------------------------------------------------------------------------------


def gradient(f: Any, x: Any) -> np.ndarray:
    return tp.grad(lambda x: tp.sum(f(x)))(tp.constant(np.asarray(x, np.float64))).numpy()


def test_equal_elements_keep_their_order_and_their_gradients() -> None:
    weights = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(gradient(lambda x: tp.sort(x) * weights, [5, 1, 5]), [2, 1, 3])
    np.testing.assert_array_equal(gradient(lambda x: tp.top_k(x, 2)[0] * weights[:2], [5, 1, 5]), [1, 0, 2])


def test_nan_goes_last_and_gets_its_gradient() -> None:
    np.testing.assert_array_equal(gradient(lambda x: tp.sort(x) * np.array([1.0, 2.0]), [np.nan, 0]), [2, 1])
    values, positions = tp.top_k([1.0, np.nan, 3.0], 2)
    np.testing.assert_array_equal(values, np.float32([np.nan, 3]))
    np.testing.assert_array_equal(positions, [1, 2])


def test_equal_extremes_of_a_segment_share_its_gradient() -> None:
    ids = np.array([1, 1, 0, 1])
    for function in (tp.segment_max, tp.segment_min):
        np.testing.assert_array_equal(
            gradient(lambda x, f=function: f(x, ids, 3)[:2], [2, 2, 7, 2]), [1 / 3, 1 / 3, 1, 1 / 3]
        )
    assert tp.segment_max(np.array([np.inf, 1.0]), [0, 0], 2).numpy().tolist() == [np.inf, -np.inf]
    assert np.isnan(tp.segment_min(np.array([np.nan, 1.0]), [0, 0], 1).numpy()).all()


def test_second_derivative_of_sorted_elements() -> None:
    x = np.array([0.3, -1.2, 2.0])
    hessian = tp.hessian(lambda x: tp.sum(tp.sort(x * x * x) * np.array([1.0, 2.0, 3.0])))(tp.constant(x)).numpy()
    np.testing.assert_allclose(hessian, np.diag(6 * x * np.array([2.0, 1.0, 3.0])), rtol=1e-12)


# -- wrong calls ------------------------------------------------------------------------------------------------------

X = tp.constant(np.arange(6.0).reshape(2, 3))
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: tp.sort(X, axis=2), np.exceptions.AxisError, r"sort at .*axis 2 is out of range"),
    (lambda: np.sort(X, 2), np.exceptions.AxisError, r"sort at .*axis 2"),
    (lambda: X.sort(axis=-3), np.exceptions.AxisError, r"sort at .*axis -3"),
    (lambda: tp.sort(X, axis=0.5), TypeError, r"sort at .*axis must be an integer, not 0.5"),
    (lambda: tp.stack([X, X], out=np.zeros(3)), TypeError, r"stack at .*out= .*into arrays"),
    (lambda: tp.concatenate([X], out=np.zeros(3)), TypeError, r"concatenate at .*into arrays"),
    (lambda: np.dot(X, X.T, np.zeros((2, 2))), TypeError, r"dot at .*into arrays"),
    (lambda: tp.take(X, 0, out=np.zeros(3)), TypeError, r"take at .*into arrays"),
    (lambda: tp.zeros_like(X, order="F"), ValueError, r"zeros_like at .*row-major"),
    (lambda: tp.top_k(X, 4), ValueError, r"top_k at .*4 elements of 3"),
    (lambda: tp.searchsorted(X, 1.0), ValueError, r"searchsorted at .*vector, not f64\[2,3\]"),
    (lambda: tp.searchsorted(X[0], 1.0, sorter=[0.5]), TypeError, r"positions must be integers"),
    (lambda: tp.searchsorted(X[0], 1.0, sorter=[1]), ValueError, r"sorter .* as long"),
    (lambda: tp.segment_sum(X, [0.5, 1.0]), TypeError, r"segment_sum at .*must be integers"),
    (lambda: tp.segment_sum(X, [0, 1, 2]), ValueError, r"segment_sum at .*each row"),
    (lambda: tp.segment_sum(X, [0, 5], 3), IndexError, r"segment_sum at .*index 5 is out of bounds"),
    (lambda: tp.lexsort([X, X[0]]), ValueError, r"lexsort at .*different shapes"),
    (lambda: tp.lexsort([]), TypeError, r"at least one key"),
    (lambda: np.fill_diagonal(X, 1), TypeError, r"fill_diagonal at .*into arrays.*tp.where"),
    (lambda: np.put_along_axis(X, [[0]], 1, 0), TypeError, r"put_along_axis at .*into arrays"),
    (lambda: np.copyto(X, 1), TypeError, r"copyto at .*into arrays"),
    (lambda: np.place(X, X > 1, 1), TypeError, r"place at .*into arrays"),
    (lambda: np.putmask(X, X > 1, 1), TypeError, r"putmask at .*into arrays"),
    (lambda: np.put(X, [0], 1), TypeError, r"put at .*into arrays"),
    (lambda: tp.unique(X, axis=0, size=2), ValueError, r"unique at .*axis"),
    (lambda: tp.bincount(X[0]), TypeError, r"bincount at .*integers"),
    (lambda: tp.bincount(np.array([-1])), ValueError, r"bincount at .*negative"),
    (lambda: tp.linalg.matrix_power(X, 2), np.linalg.LinAlgError, r"matrix_power at .*square"),
    (lambda: tp.linalg.norm(X, 3, axis=(0, 1)), ValueError, r"invalid norm order 3"),
    (lambda: tp.reshape(X, "ab"), TypeError, r"reshape at .*sequence of integers"),
    (lambda: tp.sort(X, bogus=1), TypeError, r"sort\(\) got an unexpected keyword"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG, ids=[text for *_, text in WRONG])
def test_wrong_calls(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        call()
    notes = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "test_sorting.py:" in notes or "unexpected keyword" in notes


def test_wrong_positions_in_compiled_code() -> None:
    take = tp.tape_function(lambda x, k: tp.take_along_axis(x, k, 1))
    with pytest.raises(IndexError, match="outside axis"):
        take(np.ones((2, 3)), np.array([[1], [3]]))
    total = tp.tape_function(lambda x, k: tp.segment_sum(x, k, 3))
    with pytest.raises(IndexError, match="outside axis"):
        total(np.ones((2, 3)), np.array([0, 3]))


NEED_FIXED_SIZES = {
    "pad": lambda x: tp.pad(x, 1, mode="edge"),
    "insert": lambda x: tp.insert(x, 0, 1.0, axis=0),
    "delete": lambda x: tp.delete(x, 0, axis=0),
    "resize": lambda x: tp.resize(x, (2, 2)),
    "array_split": lambda x: tp.array_split(x, 2),
    "unstack": tp.unstack,
    "convolve": lambda x: tp.convolve(x[:, 0], [1.0, 2.0]),
    "segment_prod": lambda x: tp.segment_prod(x, tp.zeros(x.shape[0], np.int64), 2),
    "apply_along_axis": lambda x: tp.apply_along_axis(tp.sum, 1, x),
}


@pytest.mark.parametrize("name", NEED_FIXED_SIZES)
def test_functions_that_need_sizes_while_tracing_say_so(name: str) -> None:
    with pytest.raises(tp.ShapeError, match=f"{name} at .*test_sorting.py.*known at run time only"):
        tp.tape_function(NEED_FIXED_SIZES[name], input_signature=SPEC)(np.ones((4, 3)))


# -- methods, NumPy's namespaces --------------------------------------------------------------------------------------


def test_methods() -> None:
    x = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    t = tp.constant(x)
    np.testing.assert_array_equal(t.sort(), np.sort(x))
    for name, arguments in {
        "argsort": (0,), "argpartition": (1,), "diagonal": (1,), "trace": (-1,), "repeat": (2, 1), "take": ([1, 0], 0),
        "compress": ([True, False, True], 1), "nonzero": (), "reshape": (3, 2), "ravel": ("F",), "flatten": ("F",),
    }.items():  # fmt: skip
        got, want = getattr(t, name)(*arguments), getattr(x, name)(*arguments)
        for a, b in zip(got, want, strict=True) if np.ndim(want) else [(got, want)]:
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(t.mT, x.mT)
    np.testing.assert_array_equal(t.reshape(3, 2, order="F"), x.reshape(3, 2, order="F"))
    np.testing.assert_array_equal(t[0].sort().searchsorted(1.5), 1)
    np.testing.assert_array_equal(tp.constant([1, 0]).choose([x[0, :2], x[1, :2]]), [0.0, 1.0])


def test_linear_algebra_of_the_last_two_axes() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    t = tp.constant(x)
    for name in ("diagonal", "trace", "matrix_transpose"):
        np.testing.assert_array_equal(getattr(np.linalg, name)(t), getattr(np.linalg, name)(x))
    np.testing.assert_array_equal(np.linalg.outer(t[0, 0], t[0, 1]), np.outer(x[0, 0], x[0, 1]))
    np.testing.assert_array_equal(np.linalg.cross(t[..., :3], t[..., 1:]), np.linalg.cross(x[..., :3], x[..., 1:]))
    np.testing.assert_array_equal(np.linalg.vecdot(t, t), np.linalg.vecdot(x, x))


def test_creation() -> None:
    for name, arguments in {
        "tri": (3, 4, 1), "tril_indices": (3, 1), "triu_indices": (3, -1, 4), "diag_indices": (3,), "identity": (3,),
        "indices": ((2, 3),), "eye": (3, 4, -1), "empty": ((0, 2),), "logspace": (0, 2, 4), "geomspace": (1, 8, 4),
    }.items():  # fmt: skip
        got, want = getattr(tp, name)(*arguments), getattr(np, name)(*arguments)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    square = tp.constant(np.ones((3, 3)))
    for name in ("tril_indices_from", "triu_indices_from", "diag_indices_from"):
        for a, b in zip(getattr(np, name)(square), getattr(np, name)(np.ones((3, 3))), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(tp.mgrid[0:2, 0:1:3j], np.mgrid[0:2, 0:1:3j])
    for a, b in zip(tp.ogrid[0:2, 0:3], np.ogrid[0:2, 0:3], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(X[tp.ix_([0, 1], [2, 0])], X.numpy()[np.ix_([0, 1], [2, 0])])
    np.testing.assert_array_equal(X[tp.ix_([True, False], [2, 0])], X.numpy()[np.ix_([True, False], [2, 0])])
    np.testing.assert_array_equal(
        tp.fromfunction(lambda i, j: i + 2 * j, (2, 3)), np.fromfunction(lambda i, j: i + 2 * j, (2, 3))
    )
    for a, b in zip(tp.mask_indices(3, tp.triu, 1), np.mask_indices(3, np.triu, 1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert tp.asarray([1.0, 2.0]).dtype == np.float32
    assert tp.array([1, 2], np.float64).dtype == np.float64
    assert tp.can_cast(X, np.float32, "same_kind")
    assert tp.promote_types(np.int8, np.float32) == np.float32
    assert tp.min_scalar_type(tp.constant(200)) == np.uint8
    assert tp.broadcast_shapes((2, 1), (3,)) == np.broadcast_shapes((2, 1), (3,))
    assert np.einsum_path("ij,jk", X, X.T)[0] == ["einsum_path", (0, 1)]
