"""vmap: axes, structures, nesting with derivatives and with tape_function, and errors."""

import numpy as np
import pytest

import tapefuse as tp

RNG = np.random.default_rng(0)
X = tp.constant(RNG.normal(size=(3, 2)))
W = tp.constant(RNG.normal(size=(2, 4)))


@pytest.fixture(params=[lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def wrap(request):
    return request.param


def close(a, b, rtol=1e-12):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-12)


def test_maps_the_first_axis(wrap):
    close(wrap(tp.vmap(lambda x: tp.sum(tp.exp(x) * x)))(X), np.sum(np.exp(X) * X, axis=1))
    close(wrap(tp.vmap(tp.dot))(X, X), np.sum(np.square(X), axis=1))


def test_axes_of_arguments_and_results(wrap):
    f = lambda x, w: x @ w
    close(wrap(tp.vmap(f, in_axes=(0, None)))(X, W), X @ W)
    close(wrap(tp.vmap(f, in_axes=(None, 1)))(X[0], W), X[0] @ W)
    close(wrap(tp.vmap(f, in_axes=(None, -1), out_axes=1))(X, W), X @ W)
    close(wrap(tp.vmap(lambda x: x, in_axes=1, out_axes=-1))(X), X)
    close(wrap(tp.vmap(lambda x, w: (x, w.T), (1, None), (1, None)))(X, W)[1], W.T)
    assert wrap(tp.vmap(lambda x, w: w, in_axes=(0, None)))(X, W).shape == (3, 2, 4)
    assert wrap(tp.vmap(lambda x, w: w, in_axes=(0, None), out_axes=2))(X, W).shape == (2, 4, 3)


def test_structures(wrap):
    params = {"w": W, "b": tp.constant(np.ones((3, 4)))}
    f = lambda p, xs: {"y": xs[0] @ p["w"] + p["b"], "n": (xs[1],)}
    got = wrap(tp.vmap(f, in_axes=({"w": None, "b": 0}, [0, None]), out_axes={"y": 1, "n": 0}))(params, [X, X])
    close(got["y"], (X @ W + 1.0).T)
    assert got["n"][0].shape == (3, 3, 2)
    assert tp.vmap(f, in_axes=({"w": None, "b": 0}, 0))(params, [X, X])["n"][0].shape == (3, 2)


def test_what_is_not_numeric_passes_through():
    f = lambda x, how, scale=1: {"double": lambda: 2 * x, "same": lambda: x}[how]() * scale
    close(tp.vmap(f, in_axes=(0, None))(X, "double", scale=3), 6 * np.asarray(X))


def test_integers_choices_and_indices(wrap):
    k = tp.constant([[2, 0], [1, 1], [0, -1]])
    f = lambda x, k: tp.where(x > 0, tp.take(tp.constant([10, 20, 30]), k), tp.argmax(x))
    want = np.stack([np.asarray(f(x, i)) for x, i in zip(X, k, strict=True)])
    got = wrap(tp.vmap(f))(X, k)
    assert got.dtype == want.dtype
    close(got, want)


def test_the_numba_engine_agrees():
    f = tp.vmap(tp.grad(lambda x, w: tp.sum(tp.tanh(x @ w))), in_axes=(0, None))
    close(tp.tape_function(f, engine="numba")(X, W), f(X, W))


def test_no_examples_and_one(wrap):
    f = tp.vmap(lambda x, w: tp.max(x @ w), in_axes=(0, None))
    assert wrap(f)(X[:0], W).shape == (0,)
    close(wrap(f)(X[:1], W), np.max(np.asarray(X[:1]) @ W, axis=1))


def test_nested(wrap):
    outer = tp.vmap(tp.vmap(lambda x, y: x * y, in_axes=(None, 0)), in_axes=(0, None))
    close(wrap(outer)(X[:, 0], W[0]), np.outer(X[:, 0], W[0]))
    pairs = tp.vmap(lambda x: tp.vmap(lambda y: tp.sum(tp.square(x - y)))(X))
    want = np.sum((np.asarray(X)[:, None] - np.asarray(X)) ** 2, axis=2)
    close(wrap(pairs)(X), want)


def test_derivatives_inside(wrap):
    f = lambda w, x: tp.sum(tp.tanh(x @ w))
    got = wrap(tp.vmap(tp.grad(f), in_axes=(None, 0)))(W, X)
    for g, x in zip(got, X, strict=True):
        close(g, tp.grad(f)(W, x))


def test_derivatives_around(wrap):
    loss = lambda w: tp.sum(tp.vmap(lambda x: tp.sin(x @ w))(X))
    close(wrap(tp.grad(loss))(W), tp.grad(lambda w: tp.sum(tp.sin(X @ w)))(W))
    close(wrap(tp.grad(lambda w: tp.sum(tp.vmap(tp.grad(lambda x: tp.sum(tp.sin(x @ w))))(X) ** 2)))(W),
          tp.grad(lambda w: tp.sum((tp.cos(X @ w) @ w.T) ** 2))(W))  # fmt: skip


def test_forward_mode_through_it(wrap):
    f = tp.vmap(lambda row: tp.sum(row**3))
    _, tangent = wrap(lambda x: tp.jvp(f, [x], [x]))(X)
    close(tangent, 3 * np.sum(np.asarray(X) ** 3, axis=1))


def test_outer_tensors_keep_their_tapes():
    """What the function uses from outside is differentiated, also where it is used alone."""
    w = tp.constant(np.float64(0.5))
    with tp.GradientTape() as tape:
        tape.watch(w)
        y = tp.sum(tp.vmap(lambda x: x * tp.exp(w))(X))
    close(tape.gradient(y, w), np.sum(X) * np.exp(0.5))
    inner = lambda v: tp.sum(tp.vmap(lambda x: x * tp.grad(lambda u: u * u * v)(w))(X))
    close(tp.grad(inner)(w), np.sum(X))


def test_twins_of_one_value_are_told_apart(wrap):
    """Inside `grad` the argument is another source than the same tensor from outside."""
    f = lambda w: tp.grad(lambda u: tp.sum(tp.vmap(lambda x: x * u * w)(X)))(w)
    close(wrap(f)(tp.constant(np.float64(2.0))), 2 * np.sum(X))


def test_variables_are_shared_and_watched(wrap):
    v = tp.Variable(np.float64(2.0))

    def f(x):
        with tp.GradientTape() as tape:
            y = tp.sum(tp.vmap(lambda row: row * v)(x))
        return tape.gradient(y, v)

    close(wrap(f)(X), np.sum(X))


def test_compiled_functions_inside(wrap):
    square = tp.tape_function(lambda x: tp.sum(x * x))
    close(wrap(tp.vmap(square))(X), np.sum(np.square(X), axis=1))
    close(wrap(tp.vmap(tp.grad(square)))(X), 2 * np.asarray(X))


def test_symbolic_numbers_of_examples():
    f = tp.tape_function(tp.vmap(lambda x: tp.sum(x) * x), input_signature=[tp.TensorSpec((None, None), tp.float64)])
    for rows, columns in ((3, 2), (1, 4), (0, 2)):
        x = RNG.normal(size=(rows, columns))
        close(f(x), x.sum(1, keepdims=True) * x)
    assert f.trace_count == 1


def test_layers_made_while_mapping():
    layer = tp.nn.Dense(4)
    y = tp.vmap(layer)(tp.constant(np.ones((3, 2), np.float32)))
    close(y, layer(tp.constant(np.ones((3, 2), np.float32))), rtol=1e-6)


def test_known_values_can_be_looked_at():
    """Constants decide while tracing; examples do not."""
    scale = tp.constant(2.0)
    close(tp.vmap(lambda x: x * 3 if scale > 1 else x)(X), 3 * np.asarray(X))
    with pytest.raises(tp.ConcretizationError, match="differ between the examples of vmap of <lambda>; use tp.where"):
        tp.vmap(lambda x: x * float(x[0]))(X)
    close(tp.vmap(lambda x: x if x[0] > 0 else -x)(X), [x if x[0] > 0 else -x for x in np.asarray(X)])


def test_the_lines_are_the_users():
    lines = [node.loc.file for node in tp.tape_function(tp.vmap(lambda x: tp.sin(x) * 2)).graph(X).nodes if node.args]
    assert set(lines) == {__file__}


def assigned():
    v = tp.Variable(1.0)
    tp.vmap(lambda x: (v.assign_add(1.0), x)[1])(X)


@pytest.mark.parametrize(
    "mistake, error, text",
    [
        (lambda: tp.vmap(lambda x, y: x)(X, W), ValueError, r"differ: argument 0 has 3, argument 1 has 2"),
        (lambda: tp.vmap(lambda p: p["a"])({"a": X, "b": W}), ValueError, r"argument 0\['a'\] has 3"),
        (lambda: tp.vmap(lambda x: x, in_axes=None)(X), TypeError, "maps no argument"),
        (tp.vmap(lambda: 1.0), TypeError, "maps no argument"),
        (lambda: tp.vmap(lambda x: x, in_axes=2)(X), ValueError, r"argument 0 has shape \[3,2\] and no axis 2"),
        (lambda: tp.vmap(lambda x: x)(2.0), ValueError, "no axis 0"),
        (lambda: tp.vmap(lambda x: x, in_axes=(0, 0))(X), TypeError, "2 entries for 1 argument"),
        (lambda: tp.vmap(lambda p: p, in_axes=({"a": 0},))([X]), TypeError, "in_axes.*structure"),
        (lambda: tp.vmap(lambda x: x, out_axes=None)(X), ValueError, "differs between examples"),
        (lambda: tp.vmap(lambda x: x, out_axes=2)(X), ValueError, "out_axes has 2 for a result of rank 2"),
        (lambda: tp.vmap(lambda x: (x, x), out_axes=(0,))(X), TypeError, "out_axes"),
        (assigned, tp.VariableError, "assigns to the variable"),
    ],
)
def test_mistakes(mistake, error, text):
    with pytest.raises(error, match=text) as caught:
        mistake()
    assert "test_vmap.py" in str(caught.value)


def test_a_shared_argument_changes_inside_only(wrap):
    """Each example has its own, as each call of a compiled function has."""

    def f(x, k):
        x[k] = x[k] * 2.0
        return x

    x = tp.constant(np.array([1.0, 2.0, 3.0]))
    found = wrap(tp.vmap(f, in_axes=(None, 0)))(x, np.arange(3))
    np.testing.assert_array_equal(found, [[2.0, 2.0, 3.0], [1.0, 4.0, 3.0], [1.0, 2.0, 6.0]])
    assert x.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.filterwarnings("ignore:.*was traced")
def test_names_and_defaults_are_shared_in_compiled_functions_too():
    """What is given by name, or not at all, is not mapped: the trace is called as the function was."""

    def f(x, w=2.0, *, shift=0.0):
        return x * tp.sum(w) + shift

    mapped, xs, w = tp.vmap(f), np.arange(3.0), np.array([1.0, 2.0, 3.0])
    compiled = tp.tape_function(mapped)
    for _ in range(2):
        for args, kwargs in [
            ((xs,), {}),
            ((xs, w), {}),
            ((xs,), {"w": w}),
            ((xs,), {"w": 3.0}),
            ((xs,), {"shift": w}),
            ((xs, w), {"shift": 1.0}),
        ]:
            want = np.asarray(mapped(*args, **kwargs))
            np.testing.assert_array_equal(np.asarray(compiled(*args, **kwargs)), want)
    np.testing.assert_array_equal(np.asarray(compiled(xs, w=w)), xs * 6.0)
    np.testing.assert_array_equal(np.asarray(compiled(xs, w)), xs * w)
    one = tp.tape_function(tp.vmap(f, in_axes=(0,)))
    np.testing.assert_array_equal(np.asarray(one(xs)), xs * 2.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'v'"):
        compiled(xs, v=w)


def test_variadic_functions_are_called_directly():
    f = tp.tape_function(lambda x, *rest, **names: x + sum(rest) + sum(names.values()))
    x = np.ones(2)
    for _ in range(2):
        assert f(x).tolist() == [1.0, 1.0]
        assert f(x, x).tolist() == [2.0, 2.0]
        assert f(x, y=x).tolist() == [2.0, 2.0]
        assert f(x, x, y=3.0, z=x).tolist() == [6.0, 6.0]
    f(x, x)
    long = f._slow_calls
    assert f(x, x).tolist() == [2.0, 2.0]
    assert f._slow_calls == long
