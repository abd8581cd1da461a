"""Nests of rows: thin products, blocks of rows, running sums, reads under a condition. NumPy is the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen.choices import Drawn
from tapefuse.codegen.loops_text import show
from tapefuse.codegen.plan import Plan, Request, plan, show_schedule
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.types import Type
from tests import engines

ENGINES = ("llvm", "numba")


def value(text: str) -> Value:
    return param(Type.parse(text))


def planned(*outs: Value, inputs: tuple[Value, ...], **options) -> Plan:
    return plan(Request(Graph(inputs, outs), len(inputs), **options))


def data(*shape: int, dtype: str = "f8") -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def agree(graph: Graph, *arrays: np.ndarray, engine: str = "llvm", rtol: float = 1e-12) -> None:
    found = engines.WRITTEN[engine](graph)(*arrays)
    for f, w in zip(found, evaluate(graph, *arrays), strict=True):
        np.testing.assert_allclose(f, w, rtol=rtol, atol=rtol * max(1, np.abs(w).max(initial=0)))


# -- products with one row or column -------------------------------------------------------------------------------
THIN = [
    ((7, 30), (30, 1)),
    ((1, 30), (30, 7)),
    ((7, 1), (1, 5)),
    ((1, 30), (30, 1)),
    ((0, 4), (4, 1)),
    ((4, 0), (0, 1)),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("left", "right"), THIN)
def test_products_with_a_single_row_or_column(left, right, engine):
    for turned in itertools.product((False, True), repeat=2):
        arrays = [data(*(shape[::-1] if t else shape)) for shape, t in zip((left, right), turned, strict=True)]
        params = tuple(param(Type(a.dtype, a.shape)) for a in arrays)
        a, b = (ops.transpose(p, perm=(1, 0)) if t else p for p, t in zip(params, turned, strict=True))
        agree(Graph(params, (ops.matmul(a, b),)), *arrays, engine=engine)


def logistic(w: Value, matrix: Value, y: Value) -> Value:
    s = ops.reshape(ops.matmul(matrix, ops.reshape(w, shape=(*w.shape, 1))), shape=y.shape)
    return ops.reduce_sum(ops.sub(ops.softplus(s), ops.mul(y, s)), axes=(0,))


def test_a_matrix_is_read_once_for_a_product_and_for_that_with_its_transpose():
    w, matrix, y = value("f64[30]"), value("f64[569,30]"), value("f64[569]")
    graph = gradient_graph(Graph((w, matrix, y), (logistic(w, matrix, y),)))
    p = plan(Request(Graph(graph.params, (graph.outs[0], graph.outs[1])), len(graph.params)))
    readers = [s for s in p.steps if any(place.value is matrix for place in s.places)]
    assert len(readers) == 1


@pytest.mark.parametrize("rows", [1, 3, 31, 32, 33, 100, 569, 5000])
def test_blocks_of_rows_cover_all_rows(rows):
    w, matrix, y = (param(Type(np.dtype("f8"), shape)) for shape in ((30,), (rows, 30), (rows,)))
    graph = Graph((w, matrix, y), (logistic(w, matrix, y),))
    agree(gradient_graph(graph), data(30), data(rows, 30), data(rows), np.array(1.0), rtol=1e-11)


def test_blocks_of_rows_with_an_open_number_of_rows():
    w, matrix, y = value("f64[30]"), value("f64[B,30]"), value("f64[B]")
    graph = gradient_graph(Graph((w, matrix, y), (logistic(w, matrix, y),)))
    run = engines.ENGINES["llvm"](graph)
    for rows in (0, 1, 37, 200):
        arrays = data(30), data(rows, 30), data(rows), np.array(1.0)
        for f, want in zip(run(*arrays), evaluate(graph, *arrays), strict=True):
            np.testing.assert_allclose(f, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_results_of_blocks_do_not_depend_on_the_number_of_threads(dtype):
    x, w = data(3000, 200, dtype=dtype), data(200, dtype=dtype)
    f = tp.value_and_grad(lambda w, x: tp.sum(tp.softplus(x @ w)) + tp.sum(tp.max(x * w, axis=0)))
    one, two = (tp.tape_function(f, threads=n)(w, x) for n in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


# -- extremes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("columns", [1, 3, 16, 33, 200])
def test_extremes_of_rows_with_special_values(columns, special):
    x = data(9, columns, dtype="f4")
    x[range(8), np.arange(8) % columns] = special
    p = param(Type(x.dtype, x.shape))
    graph = Graph((p,), tuple(op(p, axes=(k,)) for op in (ops.reduce_max, ops.reduce_min) for k in (0, 1)))
    for found, want in zip(engines.ENGINES["llvm"](graph)(x), evaluate(graph, x), strict=True):
        np.testing.assert_array_equal(found, want)


# -- running sums ----------------------------------------------------------------------------------------------------
SHAPES = [(5,), (100,), (0,), (3, 0), (0, 3), (1, 4), (7, 3), (3, 100), (100, 37), (2, 5, 3), (4, 3, 1, 5)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
def test_running_sums_along_each_axis(engine, reverse):
    shapes = SHAPES if engine == "llvm" else SHAPES[-3:]
    for shape, dtype in itertools.product(shapes, ("f4", "f8", "i8")):
        x = (10 * data(*shape)).astype(dtype)
        p = param(Type(x.dtype, x.shape))
        graph = Graph((p,), tuple(ops.cumsum(p, axis=k, reverse=reverse) for k in range(x.ndim)))
        agree(graph, x, engine=engine, rtol=2e-5 if dtype == "f4" else 1e-12)


@pytest.mark.parametrize("shape", [(1_500_000,), (1, 1_500_000), (700, 2000), (2000, 700)])
def test_long_running_sums_in_pieces(shape):
    x = data(*shape)
    for axis in range(x.ndim):
        one, two = (tp.tape_function(lambda x, k=axis: tp.cumsum(x, axis=k), threads=n)(x).numpy() for n in (1, 2))
        np.testing.assert_allclose(one, np.cumsum(x, axis=axis), rtol=1e-9, atol=1e-9)
        assert np.array_equal(one, two)


def test_a_strict_running_sum_has_numpys_bits():
    x = data(200_000, dtype="f4")
    assert np.array_equal(tp.tape_function(tp.cumsum, strict=True)(x), np.cumsum(x))


# -- reads under a condition -----------------------------------------------------------------------------------------
def test_overlapping_slices_and_their_gradient_take_one_kernel_each():
    x = value("f64[1000]")
    head, tail = (ops.slice_(x, starts=(k,), limits=(999 + k,), strides=(1,)) for k in (0, 1))
    bend = ops.sub(tail, ops.mul(head, head))
    graph = gradient_graph(Graph((x,), (ops.reduce_sum(ops.mul(bend, bend), axes=(0,)),)))
    p = plan(Request(graph, len(graph.params)))
    assert len([s for s in p.steps if not s.rows_of]) == 2
    agree(graph, data(1000), np.array(1.0))


@pytest.mark.parametrize(
    ("n", "engine"), [*((n, "llvm") for n in (1, 2, 7, 8, 9, 16, 100)), (1, "numba"), (9, "numba")]
)  # the vector code of the LLVM engine is what is tested
def test_padding_joining_and_flipping(n, engine):
    x, y = (param(Type(np.dtype("f8"), (3, n))) for _ in range(2))
    padded = ops.pad(ops.mul(x, y), low=(1, 2), high=(0, 3), interior=(0, 0), value=7)
    joined = ops.concat(x, ops.neg(y), x, axis=1)
    flipped = ops.flip(ops.add(x, y), axes=(1,))
    agree(Graph((x, y), (padded, joined, flipped)), data(3, n), data(3, n) + 1, engine=engine)


# -- schedules -------------------------------------------------------------------------------------------------------
def test_reasons_are_given_for_every_boundary():
    x = value("f32[1000,100]")
    mean = ops.reduce_sum(x, axes=(0,))
    text = show_schedule(planned(ops.exp(ops.sub(x, mean)), ops.cumsum(x, axis=1, reverse=False), inputs=(x,)))
    assert "reduce_sum [100] is a sum over rows, known when all rows are done" in text
    assert "cumsum has a kernel of its own" in text
    assert "its operands are there from the start" in text
    assert "# kept: an output" in text


def test_drawn_schedules_differ_and_are_repeatable():
    x = value("f32[40,30]")
    e = ops.exp(x)
    total = ops.reshape(ops.reduce_sum(e, axes=(1,)), shape=(40, 1))
    graph = Graph((x,), (ops.div(e, total), ops.reduce_max(ops.log(ops.add(e, 1)), axes=(0,))))

    def text(seed: int) -> str:
        return "\n".join(show(s.kernel) for s in plan(Request(graph, 1, choices=Drawn(seed))).steps)

    assert len({text(seed) for seed in range(20)}) > 5
    assert text(3) == text(3)
