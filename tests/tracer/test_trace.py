"""Graphs that tracing makes: nodes, lines of source, state, constants."""

import sys

import numpy as np

import tapefuse as tp
from tapefuse.ir.types import Type
from tapefuse.ir.verify import verify
from tapefuse.tracer.trace import trace_function


def names(graph):
    return [node.op.name for node in graph.nodes]


def here():
    return sys._getframe(1).f_lineno


def test_every_value_has_its_line():
    def f(x):
        lines.append(here() + 1)
        y = x * 2
        lines.append(here() + 1)
        return np.exp(y)

    lines = []
    graph = tp.tape_function(f).graph(tp.TensorSpec(3))
    computed = [node for node in graph.nodes if node.args]
    assert [node.loc.line for node in computed] == lines
    assert {node.loc.file for node in computed} == {__file__}


def test_gradient_values_have_the_line_of_what_they_differentiate():
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            lines.append(here() + 1)
            y = tp.sin(x)
        return tape.gradient(y, x)

    lines = []
    graph = tp.tape_function(f).graph(tp.TensorSpec(3))
    (cosine,) = [node for node in graph.nodes if node.op.name == "cos"]
    assert cosine.loc.line == lines[0]


def test_equal_expressions_are_one_node():
    graph = tp.tape_function(lambda x: tp.sin(x) * tp.sin(x)).graph(tp.TensorSpec(3))
    assert names(graph) == ["sin", "mul"]


def test_parameters_have_names():
    v = tp.Variable(1.0, name="scale")
    f = tp.tape_function(lambda x, batch: x * v + batch["y"])
    graph = f.graph(tp.TensorSpec(3), {"y": tp.TensorSpec(3)})
    assert [p.name for p in graph.params] == ["x", "batch['y']", "scale"]
    assert graph.name == "<lambda>"


def test_state():
    a, b = tp.Variable(1.0), tp.Variable(2.0)

    def f(x):
        b.assign(a + x)
        return b * 2

    traced = tp.tape_function(f).specialise(tp.TensorSpec(())).traced
    assert [v.ref() for v in traced.variables] == [a.ref(), b.ref()]
    assert traced.written == (1,)
    assert len(traced.graph.outs) == 2
    verify(traced.graph)


def test_assigning_what_was_read_writes_nothing():
    a = tp.Variable(1.0)
    traced = tp.tape_function(lambda: a.assign(a)).specialise().traced
    assert traced.written == ()


def test_concrete_operations_run_while_tracing():
    graph = tp.tape_function(lambda x: x + tp.constant([1.0, 2.0]) * 3).graph(tp.TensorSpec(2))
    assert names(graph) == ["const", "add"]


def test_filled_arrays_are_not_constants():
    graph = tp.tape_function(lambda x: x + tp.zeros((1000, 1000))).graph(tp.TensorSpec((1000, 1000)))
    assert len(graph.params) == 1
    assert "broadcast" in names(graph)


def test_long_chains_trace_in_linear_time():
    @tp.tape_function
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = x
            for _ in tp.unroll(range(3000)):
                y = tp.tanh(y * 1.01)
        return tape.gradient(y, x)

    assert len(f.graph(tp.TensorSpec(3)).nodes) > 6000


def test_symbolic_gradients():
    @tp.tape_function(input_signature=[tp.TensorSpec(("B", 3)), tp.TensorSpec((3,))])
    def f(x, w):
        with tp.GradientTape() as tape:
            tape.watch([x, w])
            y = tp.mean(tp.softmax(x * w)[:, 0])
        return tape.gradient(y, [x, w])

    rng = np.random.default_rng(0)
    for n in (1, 6):
        x, w = rng.normal(size=(n, 3)).astype("f4"), rng.normal(size=3).astype("f4")
        dx, dw = f(x, w)
        assert dx.shape == (n, 3)
        eager = tp.grad(lambda x, w: tp.mean(tp.softmax(x * w)[:, 0]), argnums=(0, 1))(x, w)
        np.testing.assert_allclose(dx, eager[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(dw, eager[1], rtol=1e-4, atol=1e-6)


def test_an_array_of_equal_elements_is_captured_as_one_number():
    """The cotangents of a mean, say; but 0 and -0 differ, and nan is equal to itself."""
    same, odd = np.full((40, 30), np.nan), np.zeros((40, 30))
    odd[7, 3] = -0.0

    def f(inputs):
        (x,) = inputs
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = tp.mean(x * x)
        return [tape.gradient(y, x), x * same, x * odd]

    traced = trace_function(f, [Type(np.dtype("f8"), (40, 30))], ["x"], "f")
    assert [a.tobytes() for a in traced.arrays] == [odd.tobytes()]
