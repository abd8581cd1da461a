"""`tp.invertible`: the gradient of a loop of steps that can be undone keeps nothing, and is the one that keeps all."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen.pipeline import compiled
from tapefuse.compiler import request

WAYS = {"interpreted": {"disable_jit": True}, "llvm": {"engine": "llvm"}, "numba": {"engine": "numba"}}
HERE = r"test_invertible\.py:\d+"
RNG = np.random.default_rng(3)
Q, P, K = RNG.normal(size=5), RNG.normal(size=5), np.float64(1.3)


@pytest.fixture(params=WAYS)
def way(request):
    with tp.config(**WAYS[request.param]):
        yield


def force(q, k):
    return -k * tp.sin(q)


def leapfrog(state, dt, k):
    q, p = state["q"], state["p"]
    p = p + 0.5 * dt * force(q, k)
    q = q + dt * p
    return {"q": q, "p": p + 0.5 * dt * force(q, k)}


def backwards(state, dt, k):
    return leapfrog(state, -dt, k)


reversible = tp.invertible(leapfrog, backwards)


def energy(state):
    return tp.sum(0.5 * state["p"] ** 2 - tp.cos(state["q"]))


def by_fori_loop(step, n):
    def run(q, p, k):
        return energy(tp.fori_loop(0, n, lambda i, state: step(state, 0.01 * (1 + i % 2), k), {"q": q, "p": p}))

    return run


def by_statement(step, n):
    def run(q, p, k):
        state, kicks = {"q": q, "p": p}, 0
        for _ in tp.stage(range(n)):
            state = step(state, 0.01, k)
            kicks += 1
        return energy(state) * kicks

    return run


def by_scan(step, n):
    def run(q, p, k):
        last, path = tp.scan(
            lambda state, dt: (step(state, dt, k), state["q"][0]), {"q": q, "p": p}, np.linspace(0.01, 0.02, n)
        )
        return energy(last) + tp.sum(path)

    return run


def by_while(step, n):
    def run(q, p, k):
        state, time = {"q": q, "p": p}, 0.0 * k
        while time < 0.01 * n:
            state, time = step(state, 0.01, k), time + 0.01
        return energy(state)

    return run


LOOPS = [by_fori_loop, by_statement, by_scan, by_while]


def gradients(loop, step, n=100):
    return tp.tape_function(tp.grad(loop(step, n), argnums=(0, 1, 2)))


@pytest.mark.parametrize("loop", LOOPS)
def test_gradients_are_those_of_what_is_kept(way, loop):
    for kept, undone in zip(gradients(loop, leapfrog)(Q, P, K), gradients(loop, reversible)(Q, P, K), strict=True):
        np.testing.assert_allclose(undone, kept, rtol=1e-12)


@pytest.mark.parametrize("loop", [by_fori_loop, by_statement])
def test_memory_does_not_grow_with_the_trip_count(loop):
    few, many = (gradients(loop, reversible, n).memory_report(Q, P, K).scratch for n in (1_000, 100_000))
    assert many <= few + 64 < gradients(loop, leapfrog, 1_000).memory_report(Q, P, K).scratch / 10


def test_a_loop_of_unknown_length_keeps_nothing():
    """Its rows would lie in memory that grows."""
    texts = [program_of(gradients(by_while, step)) for step in (leapfrog, reversible)]
    assert ["tapefuse_take" in text for text in texts] == [True, False]


def program_of(function):
    return compiled(request(function.specialise(Q, P, K).traced, function._options)).llvm()


def test_carries_that_are_not_undone_are_kept(way):
    def run(step):
        def f(q, p, k):
            def body(i, carry):
                state, w = carry
                return step(state, 0.01, k * w), tp.sin(w) + 1.0

            return energy(tp.fori_loop(0, 30, body, ({"q": q, "p": p}, k))[0])

        return tp.tape_function(tp.grad(f, argnums=(0, 2)))(Q, P, K)

    for kept, undone in zip(run(leapfrog), run(reversible), strict=True):
        np.testing.assert_allclose(undone, kept, rtol=1e-12)


def test_higher_and_forward_derivatives(way):
    f, g = by_fori_loop(leapfrog, 20), by_fori_loop(reversible, 20)
    directions = (P, Q, np.float64(0.7))
    for derived in (
        tp.hessian,
        lambda f: tp.grad(lambda q, p, k: tp.sum(tp.grad(f)(q, p, k) ** 2)),
        lambda f: lambda q, p, k: tp.jvp(f, (q, p, k), directions)[1],
        lambda f: lambda q, p, k: tp.jvp(tp.grad(f), (q, p, k), directions)[1],
    ):
        kept, undone = (tp.tape_function(derived(h))(Q, P, K) for h in (f, g))
        np.testing.assert_allclose(undone, kept, rtol=1e-10)


def test_batches(way):
    both = np.stack([Q, P])
    for derived in (
        lambda f: lambda q: tp.vmap(tp.grad(f), in_axes=(0, None, None))(q, P, K),
        lambda f: tp.grad(lambda q: tp.sum(tp.vmap(f, in_axes=(0, None, None))(q, P, K))),
    ):
        kept, undone = (
            tp.tape_function(derived(by_fori_loop(step, 20)))(both) for step in (leapfrog, reversible)
        )
        np.testing.assert_allclose(undone, kept, rtol=1e-12)


def test_loops_in_loops(way):
    def total(step):
        def f(q, k):
            def outer(i, q):
                return 0.5 * tp.fori_loop(0, 10, lambda j, s: step(s, 0.05, k), {"q": q, "p": 0.1 * q})["q"]

            return tp.sum(tp.fori_loop(0, 4, outer, q) ** 2)

        return tp.tape_function(tp.grad(f, argnums=(0, 1)))(Q, K)

    for kept, undone in zip(total(leapfrog), total(reversible), strict=True):
        np.testing.assert_allclose(undone, kept, rtol=1e-11)


def test_the_index_and_captured_tensors_are_known_to_the_inverse(way):
    """Of fori_loop, whose carry is argument 1; weights from outside have gradients."""

    def f(x, w):
        step = tp.invertible(lambda i, x: x * tp.exp(w[i]) + i, lambda i, y: (y - i) * tp.exp(-w[i]), argnum=1)
        return tp.sum(tp.fori_loop(0, 4, step, x) ** 2)

    def plain(x, w):
        return tp.sum(tp.fori_loop(0, 4, lambda i, x: x * tp.exp(w[i]) + i, x) ** 2)

    w = np.array([0.1, -0.2, 0.3, 0.05])
    kept, undone = (tp.tape_function(tp.grad(g, argnums=(0, 1)))(Q, w) for g in (plain, f))
    for a, b in zip(kept, undone, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)


def test_eagerly_it_is_the_step():
    state = {"q": tp.constant(Q), "p": tp.constant(P)}
    with tp.GradientTape() as tape:
        tape.watch(state["q"])
        y = energy(reversible(state, 0.1, K))
    with tp.GradientTape() as other:
        other.watch(state["q"])
        z = energy(leapfrog(state, 0.1, K))
    np.testing.assert_array_equal(tape.gradient(y, state["q"]), other.gradient(z, state["q"]))


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_check_sees_an_inverse_that_is_none():
    wrong = tp.invertible(leapfrog, lambda state, dt, k: leapfrog(state, -0.9 * dt, k))
    report = gradients(by_fori_loop, wrong, 5).check(Q, P, K)
    (text,) = (f.text for f in report.findings if f.kind == "inverse")
    assert re.search(rf"the inverse of the step at .*{HERE}: .* undone and .* given at \[0\]", text)
    assert not [f for f in gradients(by_fori_loop, reversible, 5).check(Q, P, K).findings if f.kind == "inverse"]


def called(step, *args, loop=lambda f, x: tp.fori_loop(0, 3, lambda i, c: f(c), x)):
    return lambda: tp.tape_function(tp.grad(lambda x: tp.sum(loop(step, x))))(Q)


@pytest.mark.parametrize(
    ("step", "error", "text"),
    [
        (tp.invertible(lambda x: 2 * x, lambda y: y[:2]), tp.ShapeError, r"f64\[2\] for the carry, which is f64\[5\]"),
        (tp.invertible(lambda x: 2 * x, lambda y: tp.cast(y, tp.float32)), tp.DTypeError, r"f32\[5\] for the carry"),
        (tp.invertible(lambda x: 2 * x, lambda y: (y, y)), ValueError, r"gives \(\*, \*\), and argument 0, the carry"),
        (tp.invertible(lambda x: x[:2], lambda y: y), tp.ShapeError, r"f64\[2\] for the carry, which is f64\[5\]"),
        (tp.invertible(lambda x: 2 * x, lambda y: y, argnum=1), TypeError, r"with 1 arguments.*argnum=\.\.\."),
    ],
)
def test_errors_name_the_functions_the_types_and_the_line(step, error, text):
    with pytest.raises(error, match=text) as e:
        called(step)()
    assert re.search(HERE, str(e.value))


def test_the_body_of_fori_loop_as_it_is():
    step = tp.invertible(lambda i, x: x * 2, lambda i, y: y / 2)
    with pytest.raises(tp.ShapeError, match=r"gives f64\[5\] for the carry, which is i64\[\]; .*argnum=1\)"):
        tp.tape_function(lambda x: tp.fori_loop(0, 3, step, x))(Q)
