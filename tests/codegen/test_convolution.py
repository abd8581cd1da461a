"""Convolution and pooling in compiled code: both engines against NumPy, in all ways in which kernels are laid out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen.plan import Plan, Request, plan
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS, Op
from tapefuse.ir.ops import convolution, pooling
from tapefuse.ir.parse import parse
from tapefuse.ir.types import Poly, Type, type_of
from tests.engines import ENGINES, WRITTEN
from tests.ir.numeric_builder import symbolic

both_engines = pytest.mark.parametrize("engine", ENGINES)
TOLERANCE = {"f4": 2e-5, "f8": 1e-12, "i4": 0}
CONVOLUTIONS = [OPS[name] for name in ("conv", "conv_input", "conv_kernel")]
POOLING = [OPS[f"window_{name}"] for name in ("max", "argmax", "place", "pick", "sum", "spread")]


def close(got, want, tolerance):
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def graph_of(op: Op, types, **attrs) -> Graph:
    params = tuple(map(param, types))
    return Graph(params, (op.emit(*params, **attrs),))


def kinds(p: Plan) -> list[str]:
    return [s.group.kind for s in p.steps]


def samples(op: Op, dtype: str):
    return op.sample(np.random.default_rng(0), np.dtype(dtype))


# -- every sample, with and without symbols -------------------------------------------------------------------------
@both_engines
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("op", CONVOLUTIONS + POOLING, ids=lambda op: op.name)
def test_samples(op: Op, dtype: str, engine: str):
    n = Poly.symbol("N")
    if engine == "numba" and dtype != "f4":
        return
    chosen = samples(op, dtype)
    for args, attrs in chosen if engine == "llvm" else chosen[1:3]:
        want = np.asarray(op.ref(*args, **attrs))
        types = [type_of(a) for a in args]
        if engine == "llvm":
            close(WRITTEN[engine](graph_of(op, types, **attrs))(*args)[0], want, TOLERANCE[dtype])
        types = [Type(t.dtype, symbolic(t.shape, 7, n)) for t in types]
        attrs = {k: symbolic(v, 7, n) for k, v in attrs.items()}
        close(WRITTEN[engine](graph_of(op, types, **attrs))(*args)[0], want, TOLERANCE[dtype])


# -- convolutions that have kernels of their own --------------------------------------------------------------------
LAYOUTS: list[dict[str, Any]] = [
    {"spatial": (9, 11), "kernel": (3, 3), "low": (1, 1), "high": (1, 1)},
    {"spatial": (9, 11), "kernel": (3, 2)},
    {"spatial": (8, 7), "kernel": (3, 3), "strides": (2, 2), "low": (0, 1), "high": (1, 1)},
    {"spatial": (12, 9), "kernel": (2, 3), "strides": (3, 1), "dilation": (2, 3), "low": (2, 0), "high": (1, 5)},
    {"spatial": (5, 6), "kernel": (1, 1)},
    {"spatial": (13,), "kernel": (4,), "low": (3,), "high": (0,)},
    {"spatial": (6, 5), "kernel": (2, 2), "low": (4, 3), "high": (5, 4)},  # windows of nothing but padding
    {"spatial": (4, 5, 3), "kernel": (2, 1, 3), "low": (1, 0, 1), "high": (0, 0, 1)},
]


def attributes(layout: dict[str, Any]) -> dict[str, Any]:
    axes = len(layout["spatial"])
    defaults = {"strides": (1,) * axes, "low": (0,) * axes, "high": (0,) * axes, "dilation": (1,) * axes}
    return {name: layout.get(name, default) for name, default in defaults.items()}


def operands(layout: dict[str, Any], images: int, inputs: int, outputs: int, dtype="f4"):
    attrs, rng = attributes(layout), np.random.default_rng(3)
    spatial, kernel = layout["spatial"], layout["kernel"]
    windows = convolution.counts(spatial, kernel, **attrs)
    shapes = (images, *spatial, inputs), (*kernel, inputs, outputs), (images, *windows, outputs)
    x, w, g = (rng.standard_normal(s).astype(dtype) for s in shapes)
    return {
        "conv": ((x, w), attrs),
        "conv_input": ((g, w), {**attrs, "extents": spatial}),
        "conv_kernel": ((x, g), {**attrs, "extents": kernel}),
    }


@pytest.mark.parametrize("op", CONVOLUTIONS, ids=lambda op: op.name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda v: "-".join(f"{k}{x}" for k, x in v.items()).replace(" ", ""))
def test_layouts(layout, op: Op):
    """Channels that fill vectors, do not, and are one; no images, one, and several; a fixed and a symbolic number."""
    for inputs, outputs in [(1, 16), (3, 5), (16, 1)]:
        args, attrs = operands(layout, 3, inputs, outputs)[op.name]
        fixed = [type_of(a) for a in args]
        of_images = len(args) if op.name == "conv_kernel" else 1
        types = [Type(t.dtype, (Poly.symbol("B"), *t.shape[1:])) for t in fixed[:of_images]] + fixed[of_images:]
        graphs = [graph_of(op, types, **attrs)] + [graph_of(op, fixed, **attrs)] * (outputs == 5)
        assert all("conv" in kinds(plan(Request(graph, 2))) for graph in graphs)
        for graph, images in zip(graphs, ([0, 1, 3], [3]), strict=False):
            run = ENGINES["llvm"](graph)
            for n in images:
                some = [a[:n] if k < of_images else a for k, a in enumerate(args)]
                want = op.ref(*(a.astype(np.float64) for a in some), **attrs).astype(np.float32)
                close(run(*some)[0], want, 1e-4)


def test_what_is_computed_before_it_goes_into_the_copy_of_an_image():
    """A cheap function of a parameter is no array of its own; a kernel that is computed is copied."""
    layout = {"spatial": (6, 6), "kernel": (3, 3), "low": (1, 1), "high": (1, 1)}
    for name, (args, attrs) in operands(layout, 2, 4, 8).items():
        params = tuple(param(type_of(a)) for a in args)
        inline = [ops.neg.emit(p) for p in params]
        graph = Graph(params, (OPS[name].emit(*inline, **attrs),))
        p = plan(Request(graph, 2))
        assert {s.group.kind for s in p.steps} == {"conv"}
        for run in (make(graph) for make in ENGINES.values()):
            close(run(*args)[0], OPS[name].ref(*(-a for a in args), **attrs), 2e-5)


@both_engines
def test_leading_axes_and_integers_take_the_general_way(engine: str):
    rng = np.random.default_rng(0)
    attrs = {"strides": (1, 1), "low": (0, 1), "high": (0, 1), "dilation": (1, 1)}
    x, w = rng.standard_normal((3, 2, 4, 4, 2)), rng.standard_normal((3, 2, 3, 2, 3))
    graph = graph_of(ops.conv, map(type_of, (x, w)), **attrs)
    assert kinds(plan(Request(graph, 2))) == ["rows"]
    want = np.stack([ops.conv(a, b, **attrs) for a, b in zip(x, w, strict=True)])
    close(ENGINES[engine](graph)(x, w)[0], want, 1e-12)
    x, w = rng.integers(-9, 9, (2, 4, 4, 2)), rng.integers(-9, 9, (2, 3, 2, 3))
    graph = graph_of(ops.conv, map(type_of, (x, w)), **attrs)
    np.testing.assert_array_equal(ENGINES[engine](graph)(x, w)[0], ops.conv(x, w, **attrs))


def test_a_nan_stays_in_its_windows():
    x, w = np.ones((1, 5, 5, 1), "f4"), np.ones((3, 3, 1, 4), "f4")
    x[0, 0, 0, 0], x[0, 4, 4, 0] = np.nan, np.inf
    attrs = {"strides": (1, 1), "low": (1, 1), "high": (1, 1), "dilation": (1, 1)}
    (got,) = ENGINES["llvm"](graph_of(ops.conv, map(type_of, (x, w)), **attrs))(x, w)
    np.testing.assert_array_equal(got, ops.conv(x, w, **attrs))
    assert np.isnan(got).sum() == 4 * 4 and np.isinf(got).sum() == 4 * 4


# -- pooling ----------------------------------------------------------------------------------------------------------
@both_engines
def test_special_values_of_maxima(engine: str):
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, -inf, 1, 1, nan, 2, 5, nan], [nan, nan, inf, -inf, -0.0, 0.0, -1, -inf]], "f4")
    p, outs = param(type_of(x)), []
    for attrs in (
        {"window": (1, 2), "strides": (1, 2), "low": (0, 0), "high": (0, 0)},
        {"window": (2, 3), "strides": (1, 1), "low": (1, 2), "high": (1, 1)},
    ):
        outs += [op.emit(p, **attrs) for op in (ops.window_max, ops.window_argmax)]
    for out, got in zip(outs, ENGINES[engine](Graph((p,), tuple(outs)))(x), strict=True):
        np.testing.assert_array_equal(got, out.op.ref(x, **out.attributes))  # type: ignore[union-attr]


def test_the_first_of_equal_elements_gets_the_gradient():
    x = np.array([1.0, 1.0, 0.0, 2.0, 2.0, 2.0])
    attrs = {"window": (3,), "strides": (3,), "low": (0,), "high": (0,)}
    (to_x,) = ops.window_max.vjp(np.array([1.0, 10.0]), None, x, **attrs)
    np.testing.assert_array_equal(to_x, [1, 0, 0, 10, 0, 0])


def test_large_windows_are_loops():
    x = np.random.default_rng(0).permutation(2 * 24 * 3).reshape(2, 24, 3).astype("f4")
    attrs = {"window": (1, 20, 1), "strides": (1, 1, 1), "low": (0, 3, 0), "high": (0, 0, 0)}
    index = ops.window_argmax(x, **attrs)
    v = np.random.default_rng(1).standard_normal(index.shape).astype("f4")
    cases = [(ops.window_max, (x,), {}), (ops.window_argmax, (x,), {}), (ops.window_pick, (x, index), {})]
    cases += [(ops.window_place, (v, index), {"shape": x.shape}), (ops.window_spread, (v,), {"shape": x.shape})]
    for op, args, more in cases:
        (got,) = ENGINES["llvm"](graph_of(op, map(type_of, args), **attrs, **more))(*args)
        close(got, op.ref(*args, **attrs, **more), 1e-5)


def test_positions_in_windows_of_more_than_256_elements():
    assert pooling.index_dtype((1, 16, 16, 1)) == np.uint8 and pooling.index_dtype((1, 17, 16, 1)) == np.int32


def test_a_step_of_pooling_and_its_gradient_are_one_kernel_each():
    """Maximum and position share their pass; the gradient's places, the mask of relu and the bias' sum another one."""
    x, bias, w = (param(Type.parse(t)) for t in ("f32[B,8,8,4]", "f32[4]", "f32[64,64]"))
    attrs = {"window": (1, 2, 2, 1), "strides": (1, 2, 2, 1), "low": (0,) * 4, "high": (0,) * 4}
    h = ops.relu.emit(ops.add.emit(x, bias))
    y = ops.window_max.emit(h, **attrs)
    g = ops.matmul.emit(ops.reshape.emit(y, shape=(x.shape[0], 64)), w)
    (to_h,) = ops.window_max.vjp(ops.reshape.emit(g, shape=y.shape), y, h, **attrs)
    to_x = ops.select.emit(ops.gt.emit(h, 0.0), to_h, 0.0)
    outs = to_x, ops.reduce_sum.emit(to_x, axes=(0, 1, 2))
    p = plan(Request(Graph((x, bias, w), outs), 3))
    titles = [s.kernel.title.split(", ")[0] for s in p.steps if not s.rows_of]
    assert titles == ["window_max", "matmul", "window_place"]


def test_pooling_joins_the_convolution_before_it():
    """One kernel does both, image by image; the convolution's result has no memory unless something else reads it."""
    x, w, bias = (param(Type.parse(t)) for t in ("f32[B,9,8,2]", "f32[3,3,2,5]", "f32[5]"))
    y = ops.conv.emit(x, w, strides=(1, 1), low=(1, 1), high=(1, 1), dilation=(1, 1))
    h = ops.relu.emit(ops.add.emit(y, bias))
    attrs = {"window": (1, 2, 3, 1), "strides": (1, 2, 2, 1), "low": (0, 1, 0, 0), "high": (0, 0, 1, 0)}
    outs = ops.window_max.emit(h, **attrs), ops.window_argmax.emit(h, **attrs), ops.window_sum.emit(y, **attrs)
    rng = np.random.default_rng(0)
    for more, sizes in (((), {"result"}), ((ops.exp.emit(y),), set())):
        graph = Graph((x, w, bias), (*outs, *more))
        p = plan(Request(graph, 3))
        assert kinds(p) == ["conv", "rows"][: 1 + len(more)]
        assert {place.tag for place in p.steps[0].places} - {"", "image"} == sizes
        for images in (3, 0):
            args = [rng.standard_normal((images, *s)).astype("f4") for s in [(9, 8, 2)]]
            args += [rng.standard_normal(s).astype("f4") for s in ((3, 3, 2, 5), (5,))]
            want = evaluate(graph, *args)
            for run in (make(graph) for name, make in ENGINES.items() if name == "llvm" or images and not more):
                for got, expected in zip(run(*args), want, strict=True):
                    close(got, expected, 2e-5)


# -- whole steps --------------------------------------------------------------------------------------------------
def network(x: Any, w: Any, v: Any, bias: Any) -> Any:
    h = tp.nn.max_pool2d(tp.nn.relu(tp.nn.conv2d(x, w, padding="same") + bias))
    h = tp.nn.avg_pool2d(tp.nn.conv2d(h, v, strides=2, padding=((1, 1), (0, 2))), 2, 1, "same")
    return tp.mean(tp.tanh(h) ** 2, axis=(1, 2, 3))


def network_operands(images: int, dtype: str = "f8") -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = (images, 9, 8, 2), (3, 3, 2, 4), (2, 3, 4, 3), (4,)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def test_gradients_against_finite_differences():
    args = network_operands(2)
    loss = tp.tape_function(lambda *xs: tp.sum(network(*xs)))
    gradients = tp.grad(loss, argnums=(0, 1, 2, 3))(*args)
    rng = np.random.default_rng(6)
    for k, g in enumerate(gradients):
        t = rng.standard_normal(args[k].shape)
        up, down = ([a + e * t if j == k else a for j, a in enumerate(args)] for e in (1e-6, -1e-6))
        slope = (float(loss(*up)) - float(loss(*down))) / 2e-6
        np.testing.assert_allclose(float(np.sum(np.asarray(g) * t)), slope, rtol=1e-5, atol=1e-8)


def test_second_order():
    """A Hessian-vector product, forward over reverse, against finite differences of the gradient."""
    x, *weights = network_operands(2)
    gradient = tp.grad(lambda *ws: tp.sum(network(x, *ws)), argnums=(0, 1, 2))
    rng = np.random.default_rng(7)
    ts = [rng.standard_normal(w.shape) for w in weights]

    @tp.tape_function
    def product(*ws):
        with tp.GradientTape() as outer:
            outer.watch(ws)
            total = sum(tp.sum(g * t) for g, t in zip(gradient(*ws), ts, strict=True))
        return outer.gradient(total, ws)

    up, down = (gradient(*(w + e * t for w, t in zip(weights, ts, strict=True))) for e in (1e-5, -1e-5))
    for got, a, b in zip(product(*map(tp.constant, weights)), up, down, strict=True):
        np.testing.assert_allclose(np.asarray(got), (np.asarray(a) - np.asarray(b)) / 2e-5, rtol=1e-5, atol=1e-7)


def test_any_number_of_images_and_of_threads():
    """A symbolic batch; 1 and 2 threads give the same bits."""
    x, *weights = network_operands(64, "f4")
    x = np.repeat(np.repeat(x, 3, axis=1), 3, axis=2)  # large enough to be cut into pieces

    def value_and_gradients(x, w, v, bias):
        with tp.GradientTape() as tape:
            tape.watch((x, w, v, bias))
            loss = tp.sum(network(x, w, v, bias))
        return loss, tape.gradient(loss, (x, w, v, bias))

    spec = [tp.TensorSpec((None, 27, 24, 2), "f4"), *(tp.TensorSpec(w.shape, "f4") for w in weights)]
    compiled = tp.tape_function(value_and_gradients, input_signature=spec)
    for images in (64, 5, 1, 0):
        args = [tp.constant(a) for a in (x[:images], *weights)]
        results = []
        for threads in (1, 2):
            with tp.config(threads=threads):
                loss, gradients = compiled(*args)
            results.append([np.asarray(loss), *map(np.asarray, gradients)])
        for one, two in zip(*results, strict=True):
            assert one.tobytes() == two.tobytes()
        loss, gradients = value_and_gradients(*args)
        for got, want in zip(results[0], [loss, *gradients], strict=True):
            np.testing.assert_allclose(got, np.asarray(want), rtol=2e-4, atol=2e-5)


def test_what_an_inner_loop_ends_with_is_not_taken_for_an_outer_index():
    """LLVM's value numbering did, which lost the second row of windows."""
    graph = parse("""fn reduced(%p: f64[B,4,2]) {
      %0 = window_spread %p high=(0,0,0) low=(0,0,0) shape=(B,5,5) strides=(1,1,3) window=(1,2,1) : f64[B,5,5]
      return %0
    }""")
    x = np.arange(1.0, 9.0).reshape(1, 4, 2)
    (got,) = ENGINES["llvm"](graph)(x)
    node: Value = graph.outs[0]
    np.testing.assert_array_equal(got, node.op.ref(x, **{**node.attributes, "shape": (1, 5, 5)}))  # type: ignore
