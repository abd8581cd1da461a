"""jacobian, hessian, hvp, linearize and the tape's own: the spellings agree, with each other and with differences."""

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir.passes import optimise

RNG = np.random.default_rng(0)
X = tp.constant(RNG.normal(size=(3,)))
A = tp.constant(RNG.normal(size=(4, 3)))


@pytest.fixture(params=[lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def wrap(request):
    return request.param


def close(a, b, rtol=1e-9, atol=1e-11):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def by_differences(f, x, step=1e-6):
    x = np.asarray(x)
    columns = [
        (np.asarray(f(x + step * e.reshape(x.shape))) - np.asarray(f(x - step * e.reshape(x.shape)))) / (2 * step)
        for e in np.eye(x.size)
    ]
    y = np.asarray(f(x))
    return np.stack(columns, -1).reshape(y.shape + x.shape) if columns else np.zeros(y.shape + x.shape)


FUNCTIONS = {
    "linear": lambda x: A @ x,
    "tanh": lambda x: tp.tanh(A @ x),
    "elementwise": lambda x: x * tp.exp(x),
    "softmax": lambda x: tp.softmax(A @ x),
    "scalar": lambda x: tp.sum(x**3),
    "matrix": lambda x: tp.outer(x, tp.sin(x)),
    "slices": lambda x: x[1:] * x[:-1] ** 2,
    "indices": lambda x: x[np.array([2, 0, 2, 1])] ** 2,
    "norm": lambda x: tp.norm(x) * x,
    "cut": lambda x: x * tp.stop_gradient(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", ["forward", "reverse", None])
def test_jacobians_agree_with_differences(name, mode):
    f = FUNCTIONS[name]
    got = tp.jacobian(f, mode=mode)(X)
    want = by_differences(f, X) if name != "cut" else np.diag(X.numpy())
    close(got, want, rtol=1e-6, atol=1e-8)
    close(tp.tape_function(tp.jacobian(f, mode=mode))(X), got)


SCALARS = {
    "poisson": lambda x: tp.sum(tp.exp(A @ x) - tp.constant(np.arange(4.0)) * (A @ x)),
    "quartic": lambda x: tp.sum(x**4) + tp.sum(x) ** 2,
    "mlp": lambda x: tp.sum(tp.tanh(A.T @ tp.relu(A @ x + 0.3)) ** 2),
    "logsumexp": lambda x: tp.logsumexp(A @ x),
    "linear": lambda x: tp.sum(x * 2.0),
}


def tape_over_tape(f):
    def second(x):
        with tp.GradientTape() as outer:
            outer.watch(x)
            with tp.GradientTape() as inner:
                inner.watch(x)
                y = f(x)
            g = inner.gradient(y, x, unconnected_gradients="zero")
        return outer.jacobian(g, x, unconnected_gradients="zero")

    return second


SPELLINGS = {
    "hessian": tp.hessian,
    "tape over tape": tape_over_tape,
    "forward over reverse": lambda f: tp.jacobian(tp.grad(f), mode="forward"),
    "reverse over forward": lambda f: tp.jacobian(tp.jacobian(f, mode="forward"), mode="reverse"),
    "reverse over reverse": lambda f: tp.jacobian(tp.grad(f), mode="reverse"),
    "forward over forward": lambda f: tp.jacobian(tp.jacobian(f, mode="forward"), mode="forward"),
    "vmap of hvp": lambda f: lambda x: tp.vmap(lambda v: tp.hvp(f, [x], [v])[1][0])(tp.constant(np.eye(3))),
    "vmap of a pullback": lambda f: lambda x: tp.vmap(tp.vjp(tp.grad(f), x)[1])(tp.constant(np.eye(3)))[0],
    "vmap of a pushforward": lambda f: lambda x: tp.vmap(tp.linearize(tp.grad(f), x)[1])(tp.constant(np.eye(3))),
}


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_hessian_agree(name, spelling, wrap):
    f = SCALARS[name]
    close(wrap(SPELLINGS[spelling](f))(X), by_differences(tp.grad(f), X), rtol=1e-5, atol=1e-6)
    close(wrap(SPELLINGS[spelling](f))(X), tp.hessian(f)(X))


def test_a_compiled_hessian_multiplies_by_no_unit_vectors():
    f = tp.tape_function(tp.hessian(SCALARS["poisson"]))
    names = [v.op.name for v in optimise(f.graph(X)).nodes]
    assert names.count("matmul") == 2 and "basis" not in names


def test_the_numba_engine_agrees():
    f = SCALARS["poisson"]
    for g in (tp.hessian(f), tape_over_tape(f), lambda x: tp.hvp(f, [x], [x])[1][0]):
        close(tp.tape_function(g, engine="numba")(X), g(X))


def test_strict_hessians_agree():
    f = SCALARS["poisson"]
    close(tp.tape_function(tp.hessian(f), strict=True)(X), tp.hessian(f)(X))


def test_shapes_and_structures(wrap):
    f = lambda p, z: {"y": p["w"] @ z, "s": (tp.sum(p["b"] * z),)}
    p = {"w": A, "b": X}
    j = wrap(tp.jacobian(f))(p, X)
    assert j["y"]["w"].shape == (4, 4, 3) and j["y"]["b"].shape == (4, 3)
    assert j["s"][0]["w"].shape == (4, 3) and j["s"][0]["b"].tolist() == X.tolist()
    both = wrap(tp.jacobian(f, argnums=(0, 1), mode="forward"))(p, X)
    assert isinstance(both["y"], tuple)
    close(both["y"][1], A)
    close(both["y"][0]["w"], j["y"]["w"])
    h = wrap(tp.hessian(lambda p: tp.sum((p["w"] @ p["b"]) ** 2)))(p)
    assert h["w"]["b"].shape == (4, 3, 3) and h["b"]["w"].shape == (3, 4, 3)
    close(h["b"]["b"], 2 * np.asarray(A).T @ np.asarray(A))
    close(np.moveaxis(np.asarray(h["w"]["b"]), -1, 0), h["b"]["w"])


def test_argnums_of_a_hessian(wrap):
    f = lambda x, y: tp.sum(x * x * y)
    (xx, xy), (yx, yy) = wrap(tp.hessian(f, argnums=(0, 1)))(X, X)
    close(xx, np.diag(2 * np.asarray(X)))
    close(xy, np.diag(2 * np.asarray(X)))
    close(yx, xy)
    assert not np.any(yy)


def test_aux(wrap):
    j, aux = wrap(tp.jacobian(lambda x: (x * x, tp.sum(x)), has_aux=True))(X)
    close(j, np.diag(2 * np.asarray(X)))
    close(aux, np.sum(X))
    h, aux = wrap(tp.hessian(lambda x: (tp.sum(x**3), x), has_aux=True))(X)
    close(h, np.diag(6 * np.asarray(X)))
    close(aux, X)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_empty_and_unconnected(mode, wrap):
    assert wrap(tp.jacobian(lambda x: x * 2, mode=mode))(tp.constant(np.zeros((0, 2)))).shape == (0, 2, 0, 2)
    assert wrap(tp.jacobian(lambda x: tp.zeros(2, tp.float64), mode=mode))(X).tolist() == [[0.0] * 3] * 2
    assert wrap(tp.jacobian(lambda x: x, mode=mode))(tp.constant(3.0)).tolist() == 1.0


def test_symbolic_extents():
    spec = [tp.TensorSpec((None,), tp.float64)]
    for mode in ("forward", "reverse", None):
        f = tp.tape_function(tp.jacobian(lambda x: tp.sin(x) * tp.sum(x), mode=mode), input_signature=spec)
        h = tp.tape_function(tp.hessian(lambda x: tp.sum(x) ** 2 * tp.sum(tp.sin(x))), input_signature=spec)
        for n in (3, 1, 0):
            x = tp.constant(RNG.normal(size=n))
            close(f(x), tp.jacobian(lambda x: tp.sin(x) * tp.sum(x))(x))
            close(h(x), tp.hessian(lambda x: tp.sum(x) ** 2 * tp.sum(tp.sin(x)))(x))
        assert f.trace_count == 1


def test_jacobians_of_matrix_arguments(wrap):
    f = lambda w: tp.tanh(A @ w) @ tp.constant(np.array([1.0, -2.0]))
    w = tp.constant(RNG.normal(size=(3, 2)))
    want = by_differences(f, w)
    close(wrap(tp.jacobian(f, mode="forward"))(w), want, rtol=1e-6, atol=1e-8)
    close(wrap(tp.jacobian(f, mode="reverse"))(w), want, rtol=1e-6, atol=1e-8)
    close(wrap(tp.hessian(lambda w: tp.sum(f(w) ** 2)))(w), by_differences(tp.grad(lambda w: tp.sum(f(w) ** 2)), w),
          rtol=1e-5, atol=1e-6)  # fmt: skip


def test_python_control_flow_is_fine_where_values_are_known():
    """Only the derivatives are batched: eagerly the function itself runs on values."""
    f = lambda x: x * x if x[0] > -100 else x
    close(tp.jacobian(f)(X), np.diag(2 * np.asarray(X)))
    close(tp.hessian(lambda x: tp.sum(f(x) * x))(X), np.diag(6 * np.asarray(X)))
    close(tp.jvp(f, [X], [X])[1], 2 * np.asarray(X) ** 2)


def test_compiled_functions_inside():
    f = tp.tape_function(lambda x: tp.tanh(A @ x))
    close(tp.jacobian(f, mode="forward")(X), tp.jacobian(FUNCTIONS["tanh"])(X))
    close(tp.jacobian(f, mode="reverse")(X), tp.jacobian(FUNCTIONS["tanh"])(X))
    g = tp.tape_function(SCALARS["poisson"])
    close(tp.hessian(g)(X), tp.hessian(SCALARS["poisson"])(X))
    close(tp.jvp(f, [X], [X])[1], tp.jvp(FUNCTIONS["tanh"], [X], [X])[1])


def test_gradients_of_jacobians(wrap):
    """The derivative of the determinant-like sum of a jacobian, by the argument and by what the function reads."""
    f = lambda x: tp.sum(tp.jacobian(lambda x: tp.sin(A @ x) * x[0])(x) ** 2)
    close(wrap(tp.grad(f))(X), by_differences(f, X), rtol=1e-6, atol=1e-7)
    v = tp.Variable(np.float64(2.0))
    with tp.GradientTape() as tape:
        y = tp.sum(tp.jacobian(lambda x: x * x * v)(X))
    close(tape.gradient(y, v), 2 * np.sum(X))


def test_hvp_of_variables(wrap):
    """Structures of variables; and a model's own variables, through tapes."""
    layers = {"w": tp.Variable(np.asarray(A.T)), "b": tp.Variable(np.ones(4))}
    loss = lambda p: tp.sum(tp.tanh(X @ p["w"] + p["b"]) ** 2)
    v = {"w": tp.constant(RNG.normal(size=(3, 4))), "b": tp.constant(RNG.normal(size=4))}

    def by_tapes(v):
        with tp.GradientTape(persistent=True) as outer:
            with tp.GradientTape() as inner:
                y = loss(layers)
            g = inner.gradient(y, layers)
        return outer.jvp(g, layers, v)

    (g,), (got,) = wrap(lambda v: tp.hvp(loss, [layers], [v]))(v)
    h = tp.hessian(loss)({k: x.read() for k, x in layers.items()})
    for k in layers:
        want = sum(np.tensordot(h[k][j], v[j], np.ndim(v[j])) for j in v)
        close(got[k], want)
        close(wrap(by_tapes)(v)[k], want)
        close(g[k], tp.grad(loss)(layers)[k])


def test_an_hvp_shares_the_forward_pass():
    w = tp.constant(RNG.normal(size=(3, 3)))
    f = lambda x: tp.sum(tp.exp(tp.tanh(x @ w)))
    graph = optimise(tp.tape_function(lambda x, v: tp.hvp(f, [x], [v])[1]).graph(X, X))
    names = [v.op.name for v in graph.nodes]
    assert (names.count("tanh"), names.count("exp"), names.count("matmul")) == (1, 1, 3)


def test_linearize(wrap):
    def f(x):
        out, push = tp.linearize(FUNCTIONS["tanh"], x)
        return out, push(x), push(2 * x)

    out, first, second = wrap(f)(X)
    close(out, FUNCTIONS["tanh"](X))
    close(first, tp.jacobian(FUNCTIONS["tanh"])(X) @ X)
    close(second, 2 * np.asarray(first))


def test_the_tape_forwards():
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(X)
        y = X * X
        z = tp.sum(y)
    close(tape.jvp(z, X, X), 2 * np.sum(np.asarray(X) ** 2))
    assert tape.jvp({"a": y, "b": A}, X, 1.0)["b"] is None
    assert not np.any(tape.jvp(A, X, 1.0, unconnected_gradients="zero"))
    close(tape.jvp(z, [X, y], [X, y]), 3 * np.sum(np.asarray(y)))  # a source between the other and the target
    with tp.GradientTape() as once:
        once.watch(X)
        y = X * X
    with pytest.raises(tp.TapeError, match="persistent=True"):
        once.jvp(y, X, X)


def test_batch_jacobian_of_larger_ranks():
    x = tp.constant(RNG.normal(size=(5, 2, 3)))
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tp.sin(x @ A.T)
    got = tape.batch_jacobian(y, x)
    assert got.shape == (5, 2, 4, 2, 3)
    full = np.asarray(tape.jacobian(y, x))
    close(got, np.stack([full[k, :, :, k] for k in range(5)]))


@pytest.mark.parametrize(
    "mistake, error, text",
    [
        (lambda: tp.jacobian(lambda x: x, mode="both"), ValueError, "mode 'both'"),
        (lambda: tp.jacobian(tp.argmax)(X), TypeError, "the result.*int64"),
        (lambda: tp.jacobian(lambda x: x)(3), TypeError, "int32.*floating-point"),
        (lambda: tp.jacobian(lambda x: x, has_aux=True)(X), TypeError, "value, more"),
        (lambda: tp.hessian(lambda x: x)(X), ValueError, "must return a scalar"),
        (lambda: tp.jacobian(lambda x: x, 1)(X), TypeError, "argument 1"),
        (lambda: tp.linearize(lambda x: x, X)[1](X, X), TypeError, "1 primals and 2 tangents"),
    ],
)
def test_mistakes(mistake, error, text):
    with pytest.raises(error, match=text) as caught:
        mistake()
    assert "test_jacobians.py" in str(caught.value)
