"""Vectors that begin a few elements apart are loaded once and shifted: the same numbers, from fewer loads."""

from __future__ import annotations

import ctypes
import mmap
import re

import numpy as np
import pytest

from tapefuse.codegen import llvm_neighbours
from tapefuse.codegen.contraction import Registers
from tapefuse.codegen.llvm_loop_shapes import examined
from tapefuse.codegen.loops import For, Let, Update, bodies
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.types import Dim, Poly, Type
from tests import engines
from tests.codegen.test_regions import kernels, walk

F64 = np.dtype(np.float64)


@pytest.fixture(autouse=True)
def wide_registers(monkeypatch):
    """The text is the same on all machines."""
    monkeypatch.setattr(llvm_neighbours, "registers", lambda: Registers(64, 32))


def stencil(n: Dim, places: tuple[int, ...], rows: int = 0, dtype: np.dtype = F64) -> Graph:
    """The sum of k x[k + place : ...] over the places, along the last axis."""
    shape = (rows, n) if rows else (n,)
    x = param(Type(dtype, shape))
    last, lead = max(places), (0,) * (len(shape) - 1)

    def part(k: int) -> Value:
        ends = {"starts": (*lead, k), "limits": (*shape[:-1], n - last + k), "strides": (1,) * len(shape)}
        return ops.mul(ops.slice_(x, **ends), k + 1)

    total = part(places[0])
    for k in places[1:]:
        total = ops.add(total, part(k))
    return Graph((x,), (total,))


def shifts(graph: Graph) -> int:
    """Vectors made of two that lie beside each other."""
    text = compiled(Request(graph, len(graph.params))).llvm()
    return len(re.findall(r"shufflevector <\d+ x \w+> %v\d+, <\d+ x \w+> %v\d+, ", text))


@pytest.mark.parametrize("n", [33, 40, 41, 64, 100, 1000, Poly.symbol("n")])
@pytest.mark.parametrize("places", [(0, 1), (0, 1, 2), (2, 0), (0, 7), (1, 4, 5)])
def test_the_same_numbers_from_one_load(n: Dim, places: tuple[int, ...]) -> None:
    graph = stencil(n, places)
    is_short = not isinstance(n, Poly) and n - max(places) < 32
    once = len(places) - 1
    # whole vectors are one copy of the body, and the rest is another one where it is known what it is
    assert shifts(graph) in ((0,) if is_short else (once, 2 * once))
    for size in (n,) if isinstance(n, int) else (8, 9, 16, 33, 100):
        x = np.random.default_rng(0).standard_normal(size)
        for run in engines.ENGINES.values():
            np.testing.assert_allclose(run(graph)(x)[0], evaluate(graph, x)[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_rows_and_other_types(dtype: type) -> None:
    graph = stencil(150, (0, 1, 2), rows=3, dtype=np.dtype(dtype))
    assert shifts(graph) == 4  # whole vectors, and the rest
    x = np.random.default_rng(0).integers(0, 9, (3, 150)).astype(dtype)
    np.testing.assert_array_equal(engines.ENGINES["llvm"](graph)(x)[0], evaluate(graph, x)[0])


def test_nothing_is_read_before_the_array() -> None:
    """The elements before the first vector are loaded under a mask: the page before the array may not be read."""
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 2 * page) as memory:
        array = np.frombuffer(memory, np.float64, 100, page)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(array.ctypes.data - page), page, 0) == 0
        (y,) = engines.ENGINES["llvm"](stencil(100, (0, 2)))(array)
        np.testing.assert_array_equal(y, np.zeros(98))
        assert libc.mprotect(ctypes.c_void_p(array.ctypes.data - page), page, 3) == 0
        del array


@pytest.mark.parametrize("n, places", [(20, (0, 1)), (100, (0, 9)), (100, (3,))])
def test_left_alone(n: int, places: tuple[int, ...]) -> None:
    """A short loop, places further apart than a vector is wide, a single place."""
    assert shifts(stencil(n, places)) == 0


def test_machines_with_narrower_registers(monkeypatch) -> None:
    monkeypatch.setattr(llvm_neighbours, "registers", lambda: Registers(32, 16))
    assert shifts(stencil(100, (0, 1))) == 0


# -- stores in one line of the cache each ------------------------------------------------------------------------------


def is_aligned(graph: Graph) -> bool:
    return "ptrtoint" in compiled(Request(graph, len(graph.params))).llvm()


def repeated(n: int, start: int = 0) -> Graph:
    """Twice `x[start : -1] += x[start + 1 :]`: loops of a fixed number of iterations."""
    x, a = param(Type(F64, (n,))), param(Type(F64, (n,)))
    here, after = (ops.slice_(a, starts=(k,), limits=(n - 1 - start + k,), strides=(1,)) for k in (start, start + 1))
    body = Graph((a,), (ops.put(a, ops.add(here, after), starts=(start,), strides=(1,)),))
    return Graph((x,), ops.for_.emit_results(x, body=body, trips=2, index="k", carried=1))


@pytest.mark.parametrize("n", [300, 1000])
@pytest.mark.parametrize("start", range(9))
def test_wherever_a_row_begins(n: int, start: int) -> None:
    graph = repeated(n, start)
    assert is_aligned(graph)
    x = np.random.default_rng(0).standard_normal(n + 3)
    for run in engines.ENGINES.values():
        for first in (0, 1, 3):
            part = x[first : first + n]
            np.testing.assert_array_equal(run(graph)(part)[0], evaluate(graph, part)[0])


def rows(columns: int, start: int, end: int, dtype: np.dtype = F64) -> Graph:
    """Twice, elements `start` up to `end` of each row become the sum of themselves and their neighbours."""
    x, a = (param(Type(dtype, (6, columns))) for _ in range(2))
    parts = [ops.slice_(a, starts=(0, start + k), limits=(6, end + k), strides=(1, 1)) for k in (-1, 0, 1)]
    total = ops.add(ops.add(parts[0], parts[1]), parts[2])
    body = Graph((a,), (ops.put(a, total, starts=(0, start), strides=(1, 1)),))
    return Graph((x,), ops.for_.emit_results(x, body=body, trips=2, index="k", carried=1))


def leads(graph: Graph) -> set[int]:
    """By how many elements of a line the vectors of a graph's loops over rows begin before the first iteration."""
    loops = [s for k in kernels(graph) for s in walk(k) if isinstance(s, For) and not any(map(bodies, s.body))]
    shapes = ((s, examined(s)) for s in loops if any(isinstance(t, Let) and t.op == "add" for t in s.body))
    return {llvm_neighbours.lead(s, shape) for s, shape in shapes if shape is not None and shape.width > 1}


@pytest.mark.parametrize(("columns", "start", "end"), [(40, 1, 39), (48, 3, 45), (64, 2, 20), (80, 3, 79), (96, 7, 95)])
def test_rows_of_whole_lines_begin_with_lines(columns: int, start: int, end: int) -> None:
    graph = rows(columns, start, end)
    assert start in leads(graph)
    x = np.random.default_rng(0).standard_normal((6, columns))
    for run in engines.ENGINES.values():
        np.testing.assert_array_equal(run(graph)(x)[0], evaluate(graph, x)[0])


@pytest.mark.parametrize(
    ("why", "columns", "start", "end"),
    [
        ("each row lies otherwise", 41, 1, 40),
        ("it begins with a line", 40, 8, 39),
        ("it would be four vectors, not three", 40, 7, 31),
        ("less than two vectors", 40, 1, 16),
    ],
)
def test_rows_that_begin_where_they_do(why: str, columns: int, start: int, end: int) -> None:
    assert leads(rows(columns, start, end)) == {0}, why


def test_lines_of_other_types() -> None:
    graph = rows(64, 3, 61, np.dtype(np.float32))
    assert 3 in leads(graph)
    x = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    for run in engines.ENGINES.values():
        np.testing.assert_array_equal(run(graph)(x)[0], evaluate(graph, x)[0])


def test_sums_do_not_depend_on_where_an_array_lies() -> None:
    x, a, total = param(Type(F64, (1000,))), param(Type(F64, (1000,))), param(Type(F64, ()))
    body = Graph((a, total), (ops.mul(a, 0.5), ops.add(total, ops.reduce_sum(ops.mul(a, a), axes=(0,)))))
    zero = ops.reduce_sum(ops.slice_(x, starts=(0,), limits=(1,), strides=(1,)), axes=(0,))
    graph = Graph((x,), ops.for_.emit_results(x, zero, body=body, trips=2, index="k", carried=2))
    loops = [s for k in kernels(graph) for s in walk(k) if isinstance(s, For) and not any(map(bodies, s.body))]
    for s in loops:
        shape = examined(s)
        is_sum = any(isinstance(t, Update) for t in s.body)
        assert shape is not None and is_sum == (llvm_neighbours.aligned_store(s, shape) is None)


def test_short_loops_begin_where_they_do() -> None:
    assert not is_aligned(repeated(200))
