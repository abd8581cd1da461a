"""Every row of `manipulation_table`: values, dtypes and shapes, exceptions, derivatives, vmap, and compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._tree import flatten
from tests.numpy import creation_table
from tests.numpy.manipulation_table import CASES, Case

assert creation_table.row  # which adds to the cases

WANTED = {str(case): case.wanted() for case in CASES}
RIGHT = [case for case in CASES if not isinstance(WANTED[str(case)], Exception)]
WRONG = [case for case in CASES if isinstance(WANTED[str(case)], Exception)]
SMOOTH = [case for case in RIGHT if case.smooth and case.array.dtype == np.float64 and np.isfinite(case.array).all()]
FIRST = {case.name: case for case in reversed(RIGHT) if case.array.size}  # one case of each function


def leaves(result: Any) -> list[Any]:
    return flatten(list(result) if isinstance(result, tuple) else result)[0]


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=str)


def agree(got: Any, want: Any, case: Case) -> None:
    found, wanted = leaves(got), leaves(want)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        if isinstance(b, np.dtype):
            assert a == b
            continue
        if isinstance(a, tp.Tensor):
            assert (a.dtype, a.shape) == (np.asarray(b).dtype, np.shape(b))
        rtol, atol = (2e-6, 2e-6) if np.float32 in (np.asarray(a).dtype, np.asarray(b).dtype) else (1e-12, 1e-12)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


@each(RIGHT)
def test_eager(case: Case) -> None:
    agree(case.call(tp, tp.constant(case.array)), WANTED[str(case)], case)


@each([case for case in RIGHT if case.oracle is None])
def test_through_numpy(case: Case) -> None:
    got = case.call(np, tp.constant(case.array))
    agree(got, WANTED[str(case)], case)


@each([case for case in RIGHT if case.mapped])
def test_traced(case: Case) -> None:
    with tp.config(disable_jit=True):
        agree(tp.tape_function(lambda x: case.call(tp, x))(case.array), WANTED[str(case)], case)


@each([case for case in FIRST.values() if case.mapped])
def test_compiled(case: Case) -> None:
    agree(tp.tape_function(lambda x: case.call(tp, x))(case.array), WANTED[str(case)], case)


@each([case for case in RIGHT if case.oracle is None and not case.mapped and case.array.size > 1])
def test_shapes_that_depend_on_values(case: Case) -> None:
    """In a trace they are an error that names the function and a cure."""
    if case.name in ("shape", "ndim", "size", "result_type"):
        return
    with pytest.raises(tp.ConcretizationError, match=f"(?s){case.name}.*(size=|length=|NumPy)"):
        tp.tape_function(lambda x: case.call(tp, x))(case.array)


@each([case for case in WRONG if case.oracle is None])
def test_exceptions(case: Case) -> None:
    """NumPy's type; the message names the user's line, and the function."""
    with pytest.raises(type(WANTED[str(case)])) as caught:
        case.call(tp, tp.constant(case.array))
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "manipulation_table.py:" in text, text
    assert case.name.rpartition(".")[2] in text, text


def floats(result: Any) -> list[Any]:
    return [y for y in leaves(result) if isinstance(y, tp.Tensor) and y.dtype.kind == "f"]


@each(SMOOTH)
def test_derivatives(case: Case) -> None:
    """Forwards against finite differences, backwards against forwards."""
    x, rng = case.array, np.random.default_rng(1)
    t = rng.standard_normal(x.shape)

    def f(x: Any) -> list[Any]:
        return floats(case.call(tp, x))

    with tp.GradientTape(persistent=True) as tape:
        source = tp.constant(x)
        tape.watch(source)
        ys = f(source)
    gs = [rng.standard_normal(y.shape).astype(y.dtype) for y in ys]
    gradient = tape.gradient(ys, source, output_gradients=gs)
    slopes = tp.jvp(lambda x: tuple(f(x)), (tp.constant(x),), (tp.constant(t),))[1]
    e = 1e-6
    ups, downs = f(tp.constant(x + e * t)), f(tp.constant(x - e * t))
    total = 0.0
    for slope, up, down, g in zip(slopes, ups, downs, gs, strict=True):
        if up.dtype == np.float32:
            continue
        after, before = up.numpy(), down.numpy()
        with np.errstate(invalid="ignore"):
            want = np.where(after == before, 0.0, (after - before) / (2 * e))
        got = np.zeros(up.shape) if slope is None else slope.numpy()
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6 * max(1.0, float(np.abs(want).max(initial=0))))
        total += float((got * g).sum())
    back = 0.0 if gradient is None else float((gradient.numpy() * t).sum())
    if all(y.dtype == np.float64 for y in ys):
        np.testing.assert_allclose(back, total, rtol=1e-9, atol=1e-9)


@each([case for case in RIGHT if case.mapped and case.label in ("vector", "matrix", "int", "byte")])
def test_vmap(case: Case) -> None:
    x = case.array
    rows = np.stack([x, np.roll(x, 1), x[::-1]])
    many = leaves(tp.vmap(lambda x: tuple(leaves(case.call(tp, x))))(tp.constant(rows)))
    single = [leaves(case.call(tp, tp.constant(r))) for r in rows]
    for k, y in enumerate(many):
        want = np.stack([np.asarray(s[k]) for s in single])
        np.testing.assert_allclose(np.broadcast_to(np.asarray(y), want.shape), want, rtol=1e-12, atol=1e-12)
