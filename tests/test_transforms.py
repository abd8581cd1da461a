"""grad, value_and_grad, vjp, jvp, hvp: structures, nesting, and errors."""

import numpy as np
import pytest

import tapefuse as tp

X = tp.constant([1.0, 2.0])


@pytest.fixture(params=[lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def wrap(request):
    return request.param


def test_argnums(wrap):
    f = lambda x, y: tp.sum(x * x * y)
    assert wrap(tp.grad(f))(X, X).tolist() == [2.0, 8.0]
    assert wrap(tp.grad(f, 1))(X, X).tolist() == [1.0, 4.0]
    assert wrap(tp.grad(f, -1))(X, X).tolist() == [1.0, 4.0]
    both = wrap(tp.grad(f, (0, 1)))(X, X)
    assert isinstance(both, tuple)
    assert [g.tolist() for g in both] == [[2.0, 8.0], [1.0, 4.0]]


def test_structures_and_zeros(wrap):
    g = wrap(tp.grad(lambda p: tp.sum(p["w"] ** 2)))({"w": X, "b": [X]})
    assert g["w"].tolist() == [2.0, 4.0]
    assert g["b"][0].tolist() == [0.0, 0.0]


def test_value_and_aux(wrap):
    (value, aux), g = wrap(tp.value_and_grad(lambda x: (tp.sum(x), x * 2), has_aux=True))(X)
    assert (value.item(), aux.tolist(), g.tolist()) == (3.0, [2.0, 4.0], [1.0, 1.0])
    g, aux = wrap(tp.grad(lambda x: (tp.sum(x), x * 2), has_aux=True))(X)
    assert aux.tolist() == [2.0, 4.0]


def test_nesting(wrap):
    f = lambda x: x**4
    for order, want in enumerate((4 * 8.0, 12 * 4.0, 24 * 2.0, 24.0)):
        for _ in range(1):
            f = tp.grad(f)
        np.testing.assert_allclose(wrap(f)(tp.constant(2.0)), want, rtol=1e-5, err_msg=str(order))


def test_python_numbers_and_arrays():
    assert tp.grad(lambda x: x * x)(3.0).item() == 6.0
    assert tp.grad(lambda x: tp.sum(x * x))(np.ones(2)).dtype == np.float64


def test_variables_are_constants_of_grad():
    v = tp.Variable(3.0)
    assert tp.grad(lambda x: x * v)(2.0).item() == 3.0
    assert tp.grad(lambda v: v * v)(v).item() == 6.0
    with tp.GradientTape() as tape:
        g = tp.grad(lambda x: x * x * v)(2.0)
    assert tape.gradient(g, v).item() == 4.0


def test_vjp(wrap):
    def f(x, y):
        out, pullback = tp.vjp(lambda x, y: {"p": x * y, "s": tp.sum(x)}, x, y)
        ct = {"p": tp.constant([1.0, 10.0]), "s": 2.0}
        return out, pullback(ct), pullback(ct)

    out, first, second = wrap(f)(X, X)
    assert out["p"].tolist() == [1.0, 4.0]
    assert [g.tolist() for g in first] == [[3.0, 22.0], [1.0, 20.0]]
    assert [g.tolist() for g in first] == [g.tolist() for g in second]


def test_vjp_checks_structure():
    _, pullback = tp.vjp(lambda x: (x, x), X)
    with pytest.raises(TypeError, match="structure"):
        pullback(X)


def test_jvp_against_differences(wrap):
    rng = np.random.default_rng(0)
    x, w, dx, dw = rng.normal(size=(4, 3, 3))
    f = lambda x, w: tp.softmax(tp.tanh(x @ w) * tp.exp(x), axis=0)
    out, tangent = wrap(lambda *a: tp.jvp(f, a[:2], a[2:]))(x, w, dx, dw)
    h = 1e-6
    numeric = (np.asarray(f(x + h * dx, w + h * dw)) - np.asarray(f(x - h * dx, w - h * dw))) / (2 * h)
    np.testing.assert_allclose(tangent, numeric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(out, f(x, w), rtol=1e-12)


def test_jvp_of_what_does_not_depend():
    _, tangent = tp.jvp(lambda x: tp.ones(3), [X], [X])
    assert tangent.tolist() == [0.0] * 3


def test_hvp(wrap):
    g, h = wrap(lambda x, v: tp.hvp(lambda x: tp.sum(x**3), [x], [v]))(X, tp.constant([1.0, 10.0]))
    np.testing.assert_allclose(g[0], [3.0, 12.0])
    np.testing.assert_allclose(h[0], [6.0, 120.0])


@pytest.mark.parametrize(
    "mistake, error, text",
    [
        (lambda: tp.grad(lambda x: x)(X), ValueError, r"must return a scalar.*\[2\].*sum it"),
        (lambda: tp.grad(lambda x: None)(X), TypeError, "one scalar"),
        (lambda: tp.grad(tp.argmax)(X), TypeError, "floating-point number"),
        (lambda: tp.grad(lambda x: x, 1)(X), TypeError, "argument 1"),
        (lambda: tp.grad(lambda x: x)(3), TypeError, "int32.*floating-point"),
        (lambda: tp.grad(lambda x: x, has_aux=True)(tp.constant(1.0)), TypeError, "value, more"),
        (lambda: tp.jvp(lambda x: x, [X], [X, X]), TypeError, "1 primals and 2 tangents"),
        (lambda: tp.jvp(lambda x: x, [[X]], [X]), TypeError, "structure"),
    ],
)
def test_mistakes(mistake, error, text):
    with pytest.raises(error, match=text) as caught:
        mistake()
    assert "test_transforms.py" in str(caught.value)
