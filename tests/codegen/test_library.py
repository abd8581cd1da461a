"""Kernels that call NumPy's own loops: every op that is made of them, against NumPy, on both engines."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._errors import CompileError
from tapefuse.codegen.loops_text import show
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.codegen.plan import plan
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.op import OPS, Op, constant
from tapefuse.ir.ops.failure import MARKS
from tapefuse.ir.types import Poly, Type, type_of
from tapefuse.runtime import gufuncs
from tests import engines
from tests.ir.numeric_builder import symbolic

N = Poly.symbol("N")
CALLING = [op for op in OPS.values() if op.calls is not None]


class Case(NamedTuple):
    op: Op
    number: int
    args: tuple
    attrs: dict

    def __str__(self) -> str:
        return f"{self.op.name}-{self.args[0].dtype}-{self.number}"

    def graph(self, extent: int = 0, size: Poly = N) -> Graph:
        """`extent`: it is a symbol in the types, `size`."""
        types = [type_of(a) for a in self.args]
        if extent:
            types = [Type(t.dtype, symbolic(t.shape, extent, size)) for t in types]
        params = tuple(map(param, types))
        return Graph(params, (self.op.emit(*params, **self.attrs),))

    @property
    def result(self) -> np.ndarray:
        return np.asarray(self.op.ref(*self.args, **self.attrs))


def cases(dtype: str) -> list[Case]:
    found = [(op, op.sample(np.random.default_rng(1), np.dtype(dtype))) for op in CALLING if "f" in op.dtypes]
    return [Case(op, k, *sample) for op, samples in found for k, sample in enumerate(samples)]


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    tolerance = 1e-12 if want.dtype.itemsize in (8, 16) else 2e-5
    np.testing.assert_allclose(got, want, tolerance, tolerance)


def matrices(*shape: int, dtype: str = "f8") -> np.ndarray:
    return (np.random.default_rng(sum(shape)).normal(size=shape) + 4 * np.eye(*shape[-2:])).astype(dtype)


@pytest.mark.parametrize("case", [*cases("f8"), *cases("f4")], ids=str)
def test_calls_agree_with_numpy(case):
    (got,) = engines.ENGINES["llvm"](case.graph())(*case.args)
    close(got, case.result)


STACKS = [c for c in cases("f8") if any(7 in a.shape for a in c.args)]


@pytest.mark.parametrize("op", {c.op.name: c.op for c in STACKS}.values(), ids=lambda op: op.name)
@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_stacks_of_unknown_height_agree_with_numpy(op, engine):
    """All samples of an op in one program, each with a size of its own; Numba compiles the last one alone."""
    found = [c for c in STACKS if c.op is op][-1 if engine == "numba" else 0 :]
    graphs = [c.graph(7, Poly.symbol(f"N{k}")) for k, c in enumerate(found)]
    whole = Graph(tuple(p for g in graphs for p in g.params), tuple(y for g in graphs for y in g.outs))
    run = engines.ENGINES[engine](whole)
    for got, case in zip(run(*(a for c in found for a in c.args)), found, strict=True):
        close(got, case.result)
    stacked = [c.result.shape[0] == 7 for c in found]
    none = [a[:0] if s and a.shape[:1] == (7,) else a for c, s in zip(found, stacked, strict=True) for a in c.args]
    for got, case, is_stack in zip(run(*none), found, stacked, strict=True):
        assert got.shape == ((0, *case.result.shape[1:]) if is_stack else case.result.shape)


@pytest.mark.parametrize("case", [c for c in cases("f8") if c.number == 0], ids=str)
def test_numba_agrees_with_numpy(case):
    (got,) = engines.ENGINES["numba"](case.graph())(*case.args)
    close(got, case.result)


@pytest.mark.parametrize("case", [c for c in cases("f8") if c.number in (0, 3)], ids=str)
def test_the_source_for_numba_runs_as_plain_python(case):
    program = compiled(Request(case.graph(), len(case.args)))
    space: dict = {"njit": lambda **options: lambda f: f, "prange": range}
    source = program.numba().replace("from numba import njit, prange\n", "").replace("from numba import njit\n", "")
    exec(compile(source, "program", "exec"), space)
    result = np.zeros(case.result.shape or (1,), case.result.dtype)
    arena = np.zeros(program.arena, np.uint8)
    assert space["program"](*case.args, result, arena) == 0
    close(result.reshape(case.result.shape), case.result)


def test_a_transposed_matrix_is_read_where_it_is():
    a, b = param(Type.parse("f64[3,3]")), param(Type.parse("f64[3,2]"))
    graph = Graph((a, b), (ops.solve(ops.transpose(a, perm=(1, 0)), b),))
    (step,) = plan(Request(graph, 2)).steps
    assert re.search(r"linalg.solve.ddd\(b\d\[\w+\] by 0 8 24", show(step.kernel)), show(step.kernel)
    x, y = matrices(3, 3), matrices(3, 2)
    close(engines.ENGINES["llvm"](graph)(x, y)[0], np.linalg.solve(x.T, y))


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_a_triangle_of_a_transposed_matrix(lower, transpose):
    a, b = param(Type.parse("f64[3,3]")), param(Type.parse("f64[3,2]"))
    kind = {"lower": lower, "transpose": transpose, "unit": False}
    graph = Graph((a, b), (ops.triangular_solve(ops.transpose(a, perm=(1, 0)), b, **kind),))
    x, y = matrices(3, 3), matrices(3, 2)
    triangle = (np.tril if lower else np.triu)(x.T)
    want = np.linalg.solve(triangle.T if transpose else triangle, y)
    for engine in engines.ENGINES.values():
        close(engine(graph)(x, y)[0], want)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_pieces_of_a_large_stack(engine):
    x = matrices(5000, 4, 4)
    x[4321] = np.arange(16).reshape(4, 4)  # singular

    @tp.tape_function(engine=engine)
    def f(x):
        return tp.linalg.inv(x)

    close(f(x[:4000]).numpy(), np.linalg.inv(x[:4000]))
    with pytest.raises(np.linalg.LinAlgError, match="Singular matrix\n.*test_library"):
        f(x)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_what_fails_raises_before_anything_changes(engine, dtype):
    v = tp.Variable(np.ones((2, 2), dtype))

    @tp.tape_function(engine=engine)
    def f(a):
        v.assign_add(a)
        return tp.linalg.cholesky(v)

    with pytest.raises(np.linalg.LinAlgError, match="Matrix is not positive definite\n.*test_library"):
        f(-2 * np.eye(2, dtype=dtype))
    np.testing.assert_array_equal(v.numpy(), 1)
    np.testing.assert_allclose(f(np.eye(2, dtype=dtype)), np.linalg.cholesky(np.ones((2, 2)) + np.eye(2)), 1e-6)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_calls_inside_of_loops(engine):
    @tp.tape_function(engine=engine)
    def f(a, n):
        return tp.fori_loop(0, n, lambda k, a: tp.linalg.inv(a) - 0.25 * tp.eye(2, dtype=a.dtype), a)

    a = np.array([[2.0, 0.0], [0.0, 1.0]])
    close(f(a, 2).numpy(), np.linalg.inv(np.linalg.inv(a) - np.eye(2) / 4) - np.eye(2) / 4)
    with pytest.raises(np.linalg.LinAlgError, match="Singular matrix"):
        f(4 * a[:, ::-1] * 0 + np.diag([4.0, 1.0]), 2)  # 1/4 - 1/4 is singular in the second iteration


def test_results_that_are_not_a_number_are_no_failure():
    run = tp.tape_function(tp.linalg.inv)
    with np.errstate(all="ignore"):
        x = np.full((2, 2), np.nan)
        np.testing.assert_array_equal(run(x), np.linalg.inv(x))


@pytest.mark.parametrize("dtype", MARKS)
def test_the_mark_is_a_quiet_nan_that_numpy_does_not_make(dtype):
    mark = np.array(MARKS[dtype], f"u{dtype.itemsize}").view(dtype)
    assert np.isnan(mark)
    assert ops.failed.ref(mark)
    with np.errstate(all="ignore"):
        others = np.array([np.nan, -np.nan, np.inf, 0]).astype(dtype), np.zeros(1, dtype) / np.zeros(1, dtype)
    assert not any(ops.failed.ref(x).any() for x in others)


@pytest.mark.parametrize("name", ["linalg.nothing.dd", "linalg.inv.qq", "special.inv.dd"])
def test_an_unknown_loop_is_refused(name):
    with pytest.raises((CompileError, KeyError)):
        gufuncs.record(name)


def test_an_unknown_layout_is_refused(monkeypatch):
    monkeypatch.setattr(gufuncs, "INVALID", 16)
    gufuncs._check_flags.cache_clear()
    try:
        with pytest.raises(CompileError, match="report failure in another way"):
            gufuncs.record.__wrapped__("linalg.inv.dd")
    finally:
        gufuncs._check_flags.cache_clear()


def test_a_literal_matrix_has_memory():
    a = param(Type.parse("f64[1,1]"))
    graph = Graph((a,), (ops.solve(a, constant(np.array([[2.0]]))),))
    for engine in engines.ENGINES.values():
        close(engine(graph)(np.array([[4.0]]))[0], np.array([[0.5]]))
