"""Functions over arrays of 0, 1 and many elements, all axes, `keepdims`, `where`, broadcasting, and wrong calls: what
NumPy gives or raises. Every function with a counterpart in NumPy is called; what with is found out by calling NumPy."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._tree import flatten

RNG = np.random.default_rng(11)
SHAPES = [(), (1,), (0,), (5,), (1, 1), (0, 3), (3, 0), (2, 3), (2, 1, 3), (2, 0, 3)]
AXES: list[Any] = [None, 0, -1, 1, -2, (0, 1), (0, -1), (-1, -2), (), 7, -7, (0, 0), 0.5]
PAIRS = list(itertools.product([(), (1,), (3,), (0,), (1, 3), (2, 1), (2, 3), (0, 1), (0, 3), (4,)], repeat=2))
THEIRS = {n: f for n in tp.numpy.__all__ if callable(f := getattr(np, n, None)) and not isinstance(f, type)}
NAMES = sorted(THEIRS)
UFUNCS = [n for n in NAMES if isinstance(getattr(np, n), np.ufunc) and getattr(np, n).signature is None]
WITH_AXES = [
    "sum", "prod", "mean", "var", "std", "max", "min", "any", "all", "median", "nansum", "nanmean", "nanmax", "nanmin",
    "nanprod", "nanstd", "nanvar", "nanmedian", "count_nonzero", "average", "amax", "amin", "ptp",
]  # fmt: skip
KEPT = ["cumsum", "cumprod", "sort", "argsort", "diff", "flip", "cumulative_sum", "cumulative_prod"]  # no keepdims
WITH_AXIS = ["argmax", "argmin", *KEPT]
MASKED = ["sum", "prod", "mean", "var", "std", "any", "all", "nansum", "nanmean"]
VECTORS = ("cumulative_sum", "cumulative_prod")  # an axis is a number, which matrices must have


def made(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.uniform(0.3, 0.9, shape)


def outcome(f: Callable[[], Any]) -> Any:
    """The result, or the exception."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return f()
        except Exception as error:
            return error


def builtin(error: Exception) -> type[Exception]:
    """The type that users catch."""
    return next(t for t in type(error).__mro__ if t.__module__ == "builtins" and issubclass(t, Exception))


def problem(got: Any, want: Any) -> str | None:
    """What is wrong with an outcome."""
    if isinstance(want, ZeroDivisionError) or "cannot reshape array of size 0" in str(want):
        return None  # NumPy's average and median of arrays that keep no element
    if isinstance(want, Exception):
        if not isinstance(got, Exception):
            return f"gives {got!r} where NumPy raises {want!r}"
        return None if isinstance(got, builtin(want)) else f"raises {got!r} where NumPy raises {want!r}"
    if isinstance(got, Exception):
        return f"raises {got!r} where NumPy gives {want!r}"
    pairs = list(zip(flatten(got)[0], flatten(want)[0], strict=False))
    for a, b in pairs:
        a, b = np.asarray(a), np.asarray(b)
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"gives {a.dtype}{a.shape}, NumPy {b.dtype}{b.shape}"
        if not np.allclose(a, b, rtol=1e-12, atol=1e-13, equal_nan=True):
            return f"gives {a!r}, NumPy {b!r}"
    return None


def compare(calls: Iterator[tuple[str, Callable[[Any], Any]]]) -> None:
    """Every call, `f(wrap)` with `wrap` making arrays or tensors, has NumPy's outcome."""
    wrong = []
    for text, call in calls:
        want = outcome(lambda: call(np.asarray))  # noqa: B023 - runs at once
        got = outcome(lambda: call(tp.constant))  # noqa: B023
        if (said := problem(got, want)) is not None:
            wrong.append(f"{text} {said}"[:200])
    assert not wrong, f"{len(wrong)} calls:\n" + "\n".join(wrong[:25])


# -- shapes and axes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_AXES + WITH_AXIS)
def test_shapes_axes_keepdims(name: str) -> None:
    f = getattr(np, name)

    def calls() -> Iterator[tuple[str, Callable[[Any], Any]]]:
        for shape, axis, keepdims in itertools.product(SHAPES, AXES, (False, True)):
            if name in KEPT and keepdims or name in VECTORS and (axis is None or isinstance(axis, tuple)):
                continue
            options = {"axis": axis} if name in KEPT else {"axis": axis, "keepdims": keepdims}
            x = made(shape)
            yield f"np.{name}({shape}, {options})", lambda wrap, x=x, o=options: f(wrap(x), **o)

    compare(calls())


@pytest.mark.parametrize("name", MASKED)
def test_where(name: str) -> None:
    f = getattr(np, name)

    def calls() -> Iterator[tuple[str, Callable[[Any], Any]]]:
        for shape, axis, keepdims in itertools.product(SHAPES, (None, 0, -1, (0, 1)), (False, True)):
            x = made(shape)
            masks = [x > 0.6, np.ones(shape, bool), np.zeros(shape, bool), np.array(True), np.ones(7, bool)]
            for mask in masks:
                options = {"axis": axis, "keepdims": keepdims}
                text = f"np.{name}({shape}, {options}, where={mask.shape} with {mask.sum()})"
                yield text, lambda wrap, x=x, o=options, m=mask: f(wrap(x), where=m, **o)

    compare(calls())


@pytest.mark.parametrize("name", UFUNCS)
def test_broadcasting(name: str) -> None:
    f = getattr(np, name)

    def calls() -> Iterator[tuple[str, Callable[[Any], Any]]]:
        for shapes in PAIRS if f.nin == 2 else [(s,) for s in SHAPES]:
            for dtype in (np.float64, np.int64):
                xs = [np.asarray(made(s) * 5, dtype) for s in shapes]
                if outcome(lambda: f(*[np.ones((), dtype)] * f.nin)).__class__ is TypeError:  # noqa: B023
                    continue
                yield f"np.{name}{shapes} of {dtype.__name__}", lambda wrap, xs=xs: f(*map(wrap, xs))

    compare(calls())


# -- wrong calls ------------------------------------------------------------------------------------------------------

CHOICES: list[tuple[Any, ...]] = [
    (np.eye(3) + 0.5,), (np.eye(3) + 0.5, np.ones((3, 3))), (np.ones(3),), (np.ones(3), np.ones(3)),
    (np.arange(6).reshape(2, 3),), (np.arange(3), np.arange(3)), (np.ones((2, 3)), 1), (np.ones((2, 3)), 0, 1),
    (np.ones((2, 3)), (3, 2)), (np.ones((2, 3)), np.zeros((2, 3), int), 1), (np.ones(3), np.ones(3), np.ones(3)),
    ((np.ones((2, 3)), np.ones((2, 3))),), (np.ones((2, 3), bool), np.ones((2, 3)), np.ones((2, 3))),
    ("ij,jk->ik", np.ones((2, 3)), np.ones((3, 2))), (3,), ((2, 3),), ((2, 3), 1.0), (np.ones((2, 3)), 0.5),
    (np.ones(4), np.ones(4), 1),
]  # fmt: skip


def arguments(name: str) -> tuple[Any, ...] | None:
    """Arguments that NumPy takes, an array first if there are such."""
    f = getattr(np, name)
    return next((args for args in CHOICES if not isinstance(outcome(lambda: f(*args)), Exception)), None)  # noqa: B023


IN_PLACE = ("copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask")  # refused with any arguments
ARGUMENTS = {name: args for name in NAMES if name not in IN_PLACE and (args := arguments(name)) is not None}


def on_tensors(args: tuple[Any, ...]) -> list[Any]:
    return [tp.constant(a) if isinstance(a, np.ndarray) else a for a in args]


def said(error: Exception) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def test_nearly_every_function_is_called() -> None:
    missing = set(NAMES) - set(ARGUMENTS) - set(IN_PLACE)
    assert len(missing) <= 30, sorted(missing)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_unknown_keywords(name: str) -> None:
    """NumPy's error, a TypeError nearly always, that names the function and the keyword."""
    args = ARGUMENTS[name]
    want = outcome(lambda: getattr(np, name)(*args, nonsense=1))
    with pytest.raises(builtin(want), match="nonsense") as caught:
        getattr(tp, name)(*on_tensors(args), nonsense=1)
    assert getattr(tp, name).__name__ in said(caught.value) or name in said(caught.value)


AXIS = [n for n in ARGUMENTS if "axis" in inspect.signature(getattr(tp, n)).parameters]


@pytest.mark.parametrize("name", AXIS)
@pytest.mark.parametrize("axis", [9, -9, "x", 0.5])
def test_wrong_axes(name: str, axis: Any) -> None:
    """NumPy's type, the function's name, the user's line."""
    args = ARGUMENTS[name]
    args = args[:1] if isinstance(args[-1], int) and len(args) == 2 else args  # which was the axis
    want = outcome(lambda: getattr(np, name)(*args, axis=axis))
    if "multiple values" in str(want):
        return  # the last argument is the axis
    if not isinstance(want, Exception):
        return  # NumPy takes it
    with pytest.raises(builtin(want)) as caught:
        getattr(tp, name)(*on_tensors(args), axis=axis)
    assert name.lstrip("a") in said(caught.value), said(caught.value)
    if type(axis) is int:
        assert "test_edges.py:" in said(caught.value), said(caught.value)


ON_VALUES = (  # what NumPy computes itself; what takes numbers, shapes, text and lists
    *("histogram", "histogram2d", "histogram_bin_edges", "histogramdd", "min_scalar_type", "result_type"),
    *("linspace", "geomspace", "logspace", "broadcast_shapes", "einsum_path", "select"),
)
NUMERIC = [n for n in ARGUMENTS if isinstance(ARGUMENTS[n][0], np.ndarray) and n not in ON_VALUES]


@pytest.mark.parametrize("name", NUMERIC)
def test_operands_that_are_no_numbers(name: str) -> None:
    """Arrays of text and of objects are a TypeError that says what tensors hold."""
    for wrong in (np.array(["a", "b"]), np.array([object()])):
        with pytest.raises(TypeError, match="tensor|array|dtype") as caught:
            getattr(tp, name)(wrong, *ARGUMENTS[name][1:])
        assert "str" in said(caught.value) or "<U" in said(caught.value) or "object" in said(caught.value)


OUT = [n for n in NUMERIC if isinstance(f := THEIRS[n], np.ufunc) or "out" in inspect.signature(f).parameters]


@pytest.mark.parametrize("name", OUT)
def test_out_is_refused(name: str) -> None:
    args = ARGUMENTS[name]
    want = outcome(lambda: getattr(np, name)(*args))
    out = tuple(np.empty_like(w) for w in want) if isinstance(want, tuple) else np.empty_like(want)
    with pytest.raises(TypeError, match=r"(?s)out=.*test_edges.py|test_edges.py.*out="):
        getattr(np, name)(*on_tensors(args), out=out)
