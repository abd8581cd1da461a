"""Source as Numba compiles it fastest: kernels written out where they are called, constants and elements by name."""

from __future__ import annotations

import ast

import numba
import numpy as np
import pytest

from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.types import Type
from tapefuse.runtime import numba_arrays
from tapefuse.runtime.numba_engine import load
from tapefuse.runtime.numba_source import written_out
from tests.runtime.programs import LAYOUT, refuse

SCALED = """\
from numpy import float32

def k0(b0, b1, lo, hi, chunk):
    for i in range(lo, hi):
        b1[i] = float32(2.0) * b0[i]

def program(x0, y0, arena):
    k0(x0, y0, 0, 3, 0)
    return 0
"""


def changed(text: str, *once: str) -> str:
    return ast.unparse(written_out(ast.parse(text), once))


def check(text: str, once: tuple[str, ...], *wanted: str) -> None:
    """The statements of `program` after the change; the functions `once` are gone."""
    after = changed(text, *once)
    module = ast.parse(after)
    program = next(s for s in module.body if isinstance(s, ast.FunctionDef) and s.name == "program")
    assert ast.unparse(program.body) == ast.unparse(ast.parse("\n".join(wanted)))
    assert not any(f"def {name}" in after for name in once)


def test_a_kernel_stands_where_it_is_called() -> None:
    loop = "for k0_i in range(0, 3):\n    set_element1(y0, k0_i, q0 * element1(x0, k0_i))"
    check(SCALED, ("k0",), loop, "return 0")


def test_a_function_that_is_not_named_stays() -> None:
    check(SCALED, (), "k0(x0, y0, 0, 3, 0)", "return 0")
    assert "set_element1(b1, i, q0 * element1(b0, i))" in changed(SCALED)


def test_constants_are_defined_once_before_the_functions() -> None:
    text = SCALED.replace("b0[i]", "b0[i] + float32(2.0) - float32(-1.5) * float32(i)")
    lines = changed(text, "k0").splitlines()
    assert [line for line in lines if line.startswith("q")] == ["q0 = float32(2.0)", "q1 = float32(-1.5)"]
    assert "q0 - q1 * float32(k0_i)" in "\n".join(lines)


def test_a_kernel_that_another_one_calls() -> None:
    text = "def k0(b0, n):\n    t = n\n    b0[0] = t\ndef k1(b0, n):\n    for t in range(n):\n        k0(b0, t)\n"
    text += "def program(x0):\n    k1(x0, 5)\n"
    inner = "    k1_k0_t = k1_t", "    set_element1(x0, 0, k1_k0_t)"
    check(text, ("k0", "k1"), "for k1_t in range(5):", *inner)


def test_parameters_that_are_assigned_and_arguments_that_are_computed() -> None:
    text = "def k0(b0, b1, n):\n    b0, b1 = b1, b0\n    b0[0] = n + n\ndef program(x0, x1):\n    k0(x0, x1, x0.size)\n"
    given = "k0_b0 = x0", "k0_b1 = x1", "k0_n = x0.size"
    check(text, ("k0",), *given, "k0_b0, k0_b1 = k0_b1, k0_b0", "set_element1(k0_b0, 0, k0_n + k0_n)")


def test_many_arguments_come_in_tuples() -> None:
    text = "def k0(g0, lo):\n    b0, b1 = g0\n    b0[lo] = b1[lo]\ndef program(x0, x1):\n    k0((x0, x1), 2)\n"
    check(text, ("k0",), "set_element1(x0, 2, element1(x1, 2))")


def test_matrices_of_several_and_arrays_of_many_axes_are_no_elements() -> None:
    lines = "matmul_rows(x0[1], x1[x2[0]], x2, 0, 1)", "x0[1, 2, 3, 4, 5] = x1[0, 0, 0, 0, 1]"
    check(f"def program(x0, x1, x2):\n    {lines[0]}\n    {lines[1]}\n", (), *lines)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F", "A"])
def test_elements(rank: int, order: str) -> None:
    """Under `@njit` as in plain Python, of arrays in any layout."""
    get, put = (getattr(numba_arrays, f"{name}{rank}") for name in ("element", "set_element"))
    names, zeros = ", ".join("ijkm"[:rank]), ", ".join("0" * rank)
    scope = {"get": get, "put": put}
    exec(f"def f(x, {names}):\n    put(x, {names}, 7)\n    return get(x, {names}) + get(x, {zeros})", scope)

    def array() -> np.ndarray:
        x = np.arange(6.0**rank).reshape((6,) * rank, order="F" if order == "F" else "C")
        return x[::2] if order == "A" else x

    x, y, index = array(), array(), (2, 1, 3, 4)[:rank]
    assert scope["f"](x, *index) == numba.njit(scope["f"])(y, *index)
    assert np.array_equal(x, y) and x[index] == 7


def test_bools_and_small_integers_are_elements_too() -> None:
    def f(x, y):
        numba_arrays.set_element1(y, 0, numba_arrays.element1(x, 1))

    for dtype in (bool, np.int8, np.uint64, np.float32):
        x, y = np.array([0, 1], dtype), np.zeros(1, dtype)
        numba.njit(f)(x, y)
        assert y[0] == 1


def test_one_function_is_compiled() -> None:
    x = param(Type.parse("f64[5]"))
    rows = ops.reduce_sum(ops.sin(x), axes=(0,))
    loaded = load(compiled(Request(Graph((x,), (rows, ops.mul(x, rows))), 1)), LAYOUT, (), refuse)
    a = np.arange(5.0)
    total, scaled = loaded.call(a)
    np.testing.assert_allclose(scaled._array, a * np.sin(a).sum(), rtol=1e-15)
    assert total._array.shape == ()
    build = loaded.function
    assert not [f for f in build.py_func.__globals__.values() if hasattr(f, "signatures") and f is not build]
