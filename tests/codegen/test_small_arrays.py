"""Small arrays of a loop's body are values of vector registers: nothing between its statements goes through memory, and
the numbers are the interpreter's, wherever parts begin and however long they are."""

from __future__ import annotations

import os
import random
import re

import numpy as np
import pytest

from tapefuse.codegen.loops import View
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.codegen.plan import plan
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.passes.bodies import with_row
from tapefuse.ir.types import Poly, Type
from tapefuse.runtime import compile as compiler
from tapefuse.runtime.llvm_library import Library, path
from tests.codegen.test_regions import for_, walk
from tests.engines import ENGINES, LOADS, WRITTEN, request, runner, scheduled, threaded

F64, F32, I64 = (np.dtype(t) for t in (np.float64, np.float32, np.int64))
K, TRIPS = Poly.symbol("k"), 5
LARGE = 300


def p(*shape: int, dtype: np.dtype = F64) -> Value:
    return param(Type(dtype, shape))


def cut(x: Value, start, limit) -> Value:
    return ops.slice_(x, starts=(start,), limits=(limit,), strides=(1,))


def with_part(x: Value, v: Value, start) -> Value:
    return ops.put(x, v, starts=(start,), strides=(1,))


def padded(x: Value, low: int, high: int, value: float = 0) -> Value:
    return ops.pad(x, low=(low,), high=(high,), interior=(0,), value=value)


def upwind(x: Value, c: Value) -> Value:
    n = x.shape[0]
    return ops.sub(cut(x, 1, n), ops.mul(c, ops.sub(cut(x, 1, n), cut(x, 0, n - 1))))


def tiles(width: int, steps: int, dtype: np.dtype = F64, **loop: bool) -> Graph:
    """Several steps of u[1:] -= c[1:] (u[1:] - u[:-1]) for a few points at a time."""
    step = width - steps
    n = step * TRIPS + steps
    u, c = p(n, dtype=dtype), p(n, dtype=dtype)
    y, a, b = p(n, dtype=dtype), p(n, dtype=dtype), p(n, dtype=dtype)
    x, d = (cut(v, step * K, step * K + width) for v in (a, b))
    for k in range(steps):
        x = upwind(x, cut(d, k + 1, width))
    body = Graph((y, a, b), (with_part(y, x, step * K + steps),))
    attributes = {"body": body, "trips": TRIPS, "index": "k", "carried": 1, **loop}
    return Graph((u, c), region.apply(OPS["for"], (u, u, c), attributes))


def arrays_of(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    numbers = [rng.integers(-8, 9, v.shape) / (2 if v.dtype.kind == "f" else 1) for v in graph.params]
    return [np.asarray(x).astype(v.dtype) for x, v in zip(numbers, graph.params, strict=True)]


def check(graph: Graph, engines=WRITTEN) -> None:
    given = arrays_of(graph)
    wanted = evaluate(graph, *given)
    for run in engines.values():
        for found, value in zip(run(graph)(*given), wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5 if value.dtype == F32 else 1e-12, atol=1e-12)


def kept(graph: Graph) -> int:
    """How many small arrays a program has."""
    kernels = [s.kernel.body for s in plan(request(graph)).steps]
    return len({s.buffer.name for body in kernels for s in walk(body) if isinstance(s, View) and s.local})


def text(graph: Graph) -> str:
    return compiled(request(graph)).llvm()


def stores(graph: Graph) -> int:
    """How often vectors are stored, other than to slots that LLVM makes registers."""
    return len(re.findall(r"store <\d+ x \w+> %\w+, ptr %[bv]|call void @llvm.masked.store", text(graph)))


# -- nothing in memory -------------------------------------------------------------------------------------------------


def rolled(width: int, steps: int, **loop: bool) -> Graph:
    """Points that a loop of several steps updates in place, for a few at a time; what it keeps of them, and a number
    that it counts, are read by a second one."""
    n = width * TRIPS
    u, c, y, total, a, b = p(n), p(n), p(n), p(n), p(n), p(n)
    x, d = (cut(v, width * K, width * K + width) for v in (a, b))
    state, kept, count, given = p(width), p(steps, width), p(), p(width)
    new = with_part(state, upwind(state, cut(given, 1, width)), 1)
    more = ops.add(count, count)
    body = Graph((state, kept, count, given), (new, with_row(kept, Poly.symbol("j"), state), more))
    first = ops.empty.emit(shape=(steps, width), dtype=F64), ops.reshape(cut(b, 0, 1), shape=())
    found = ops.for_.emit_results(x, *first, d, body=body, trips=steps, index="j", carried=3)
    sums, stack = p(width), p(steps, width)
    last = ops.slice_(
        stack, starts=(steps - 1 - Poly.symbol("i"), 0), limits=(steps - Poly.symbol("i"), width), strides=(1, 1)
    )
    back = Graph((sums, stack), (ops.add(sums, ops.mul(ops.reshape(last, shape=(width,)), ops.add(sums, sums))),))
    (end,) = ops.for_.emit_results(found[0], found[1], body=back, trips=steps, index="i", carried=1)
    scaled = ops.mul(end, ops.broadcast(found[2], shape=(width,), axes=()))
    whole = Graph((y, total, a, b), (with_part(y, found[0], width * K), with_part(total, scaled, width * K)))
    attributes = {"body": whole, "trips": TRIPS, "index": "k", "carried": 2, **loop}
    return Graph((u, c), region.apply(OPS["for"], (u, c, u, c), attributes))


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_nothing_between_the_steps_is_stored(steps: int) -> None:
    graph = tiles(32 + steps, steps)
    assert kept(graph) == steps
    copied, tile = 2, 32 // 8 + 1
    assert stores(graph) <= copied + tile
    loads = re.findall(r" load <8 x double>, ptr %v", text(graph))
    assert len(loads) < 2 * (32 + steps) / 8 + 4  # each element of the two arrays once


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("width", [6, 7, 8, 9, 12, 13, 15, 16, 17, 31, 33, 64, 65, 100, 128])
def test_tiles_of_any_width(width: int, dtype: np.dtype) -> None:
    check(tiles(width, 4, dtype), {"llvm": ENGINES["llvm"]})


@pytest.mark.parametrize("threads", [1, 2])
def test_iterations_in_any_order(threads: int) -> None:
    """Each piece has memory of its own for what is not in registers."""
    graph = tiles(40, 4, parallel=True)
    assert kept(graph) == 4
    check(graph, {"llvm": lambda g: threaded(g, threads), "numba": ENGINES["numba"]})


@pytest.mark.parametrize("width", [2, 7, 16, 40])
@pytest.mark.parametrize("order", [{}, {"parallel": True}])
def test_loops_inside_of_bodies(width: int, order: dict[str, bool]) -> None:
    check(rolled(width, 3, **order), {"llvm": lambda g: threaded(g, 2), "numba": ENGINES["numba"]})


def test_loops_inside_of_bodies_keep_what_they_carry_in_registers() -> None:
    """Stored: two copies of first values, a tile of each result, and a row of the stack."""
    assert kept(rolled(40, 8)) >= 4
    assert stores(rolled(40, 8)) <= 2 * 2 + 3 * 40 // 8


def test_arrays_that_lie_alike_are_not_moved() -> None:
    """One shift a vector and stage: of the neighbour, not of the coefficients."""
    assert len(re.findall("= shufflevector .*<i32 7, i32 8, i32 9", text(tiles(64, 8)))) <= 8 * 8


# -- bodies of all sorts -----------------------------------------------------------------------------------------------


class Drawing:
    """A random body of small arrays."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.dtype = self.random.choice([F64, F64, F32, I64])
        self.rows = self.random.randint(1, 3)
        self.n = [self.random.choice([2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 33, 40]) for _ in range(self.rows)]

    def graph(self) -> Graph:
        r, dtype = self.random, self.dtype
        small = [p(n, dtype=dtype) for n in self.n]
        large, other, stack = p(LARGE, dtype=dtype), p(LARGE, dtype=dtype), p(TRIPS, self.n[0], dtype=dtype)
        scalar = p(dtype=dtype)
        step = r.randint(0, 9)
        first = [r.randint(0, 20) + step * K for _ in range(2)]
        values = [*small, *(cut(x, a, a + r.randint(1, 40)) for x, a in zip((large, other), first, strict=True))]
        for _ in range(r.randint(3, 14)):
            values.append(self.value(values, scalar))
        outs = [self.of_length(values, n) for n in self.n]
        put = ops.put_add if r.random() < 0.5 else ops.put
        changed = put(large, values[-1], starts=(r.randint(0, 30) + step * K,), strides=(1,))
        if r.random() < 0.5:
            changed = put(changed, self.of_length(values, 3), starts=(r.randint(0, 200),), strides=(1,))
        recorded = with_row(stack, K, self.of_length(values, self.n[0]))
        total = ops.add(scalar, ops.reshape(cut(values[-1], 0, 1), shape=()))
        params = (*small, large, stack, scalar, other)
        body = Graph(params, (*outs, changed, recorded, total))
        operands = [p(*v.shape, dtype=dtype) for v in params]
        return Graph(tuple(operands), for_(operands, body, TRIPS, "k", carried=self.rows + 3))

    def of_length(self, values: list[Value], n: int) -> Value:
        """One of the values, cut off or made longer."""
        x = self.random.choice(values)
        m = x.shape[0]
        if m < n:
            low = self.random.randint(0, n - m)
            return padded(x, low, n - m - low, 1)
        start = self.random.randint(0, m - n)
        return cut(x, start, start + n)

    def value(self, values: list[Value], scalar: Value) -> Value:
        r, x = self.random, self.random.choice(values)
        n = x.shape[0]
        y = self.of_length(values, n)
        match r.randint(0, 9):
            case 0 if n > 1:
                start = r.randint(0, n - 1)
                return cut(x, start, r.randint(start + 1, n))
            case 1:
                return padded(x, r.randint(0, 3), r.randint(0, 3), 2) if n < 50 else x
            case 2:
                m = r.randint(1, n)
                return with_part(x, self.of_length(values, m), r.randint(0, n - m))
            case 3:
                m = r.randint(1, n)
                return ops.put_add(x, self.of_length(values, m), starts=(r.randint(0, n - m),), strides=(1,))
            case 4:
                return ops.concat(x, y, axis=0) if n < 40 else ops.minimum(x, y)
            case 5:
                return ops.select(ops.lt(x, y), x, ops.neg(y))
            case 6:
                return ops.add(x, ops.broadcast(scalar, axes=(), shape=(n,)))
            case 7:
                numbers = ops.cast(ops.iota.emit(shape=(n,), axis=0, dtype=I64), dtype=self.dtype)
                return ops.minimum(ops.maximum(ops.sub(x, numbers), -9), 9)
            case 8:
                return ops.select(ops.and_(ops.lt(x, y), ops.gt(x, 0)), y, x)
        return ops.maximum(ops.minimum(ops.mul(x, y), 5), -5)


@pytest.mark.parametrize("seed", range(int(os.environ.get("TAPEFUSE_EXAMPLES", "24"))))
def test_random_bodies(seed: int) -> None:
    graph = Drawing(seed).graph()
    assert kept(graph) > 1
    check(graph)
    check(graph, {"another schedule": lambda g: scheduled(g, seed)})


class Machine(Library):
    """Another one that this one can stand in for."""

    features = ""


@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v3"])
def test_narrower_registers(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (file := path()) is None or "x86_64" not in (machine := type("Other", (Machine,), {"cpu": cpu})(file)).triple:
        return
    monkeypatch.setattr(compiler, "_llvm", lambda: machine)
    for graph in (tiles(63, 4), tiles(33, 3, F32), *(Drawing(seed).graph() for seed in range(4))):
        check(graph, {"llvm": ENGINES["llvm"]})


def test_what_is_carried_stays_in_registers() -> None:
    """A system of equations: only the last values are stored."""
    x, a = p(4), p(4)
    slope = ops.concat(cut(a, 1, 4), ops.neg(cut(a, 0, 1)), axis=0)
    graph = Graph((x,), for_((x,), Graph((a,), (ops.add(a, ops.mul(slope, 0.125)),)), 100, "k"))
    check(graph)
    assert kept(graph) > 1 and stores(graph) == 1
    assert "call void @llvm.masked.store" not in text(graph)


def test_arrays_that_change_their_roles() -> None:
    x, y, a, b = (p(n) for n in (6, 6, 6, 6))
    body = Graph((a, b), (b, ops.add(a, padded(cut(b, 1, 6), 1, 0))))
    graph = Graph((x, y), for_((x, y), body, 7, "k", carried=2))
    assert kept(graph) > 2
    check(graph)


@pytest.mark.parametrize("n", [5, 8, 11, 16])
@pytest.mark.parametrize("function", ["sin", "cos", "exp", "log1p"])
def test_functions_see_iterations_alone(n: int, function: str) -> None:
    """Other lanes hold whatever was there; a function of vectors may branch on what is in any lane."""
    x, a = p(n), p(n)
    y = OPS[function].emit(ops.abs(padded(cut(a, 1, n), 1, 0)))
    graph = Graph((x,), for_((x,), Graph((a,), (ops.add(y, padded(cut(y, 0, n - 1), 1, 0)),)), 3, "k"))
    assert kept(graph) > 1
    check(graph)


@pytest.mark.parametrize("place", [1, K])
def test_what_is_carried_is_recorded_before_it_changes(place) -> None:
    """Arrays that an iteration changes where they are, at a place that is known and at one that is not."""
    x, stack, a, b = p(8), p(9 * TRIPS), p(8), p(9 * TRIPS)
    total = ops.add(cut(a, 0, 3), cut(a, 3, 6))
    changed = ops.put(a, ops.add(total, padded(cut(total, 1, 3), 0, 1)), starts=(place,), strides=(1,))
    body = Graph((a, b), (changed, ops.put(b, a, starts=(9 * K,), strides=(1,))))
    graph = Graph((x, stack), for_((x, stack), body, TRIPS, "k", carried=2))
    assert kept(graph) > 1
    check(graph)


def test_strict_programs() -> None:
    graph = tiles(40, 4)
    given = arrays_of(graph)
    run = runner(LOADS["llvm"], Request(graph, 2, strict=True), [])
    np.testing.assert_array_equal(run(*given)[0], evaluate(graph, *given)[0])


def test_large_bodies_and_costly_functions_are_left_alone() -> None:
    x, a = p(128), p(128)
    y = ops.tanh(a)
    z = ops.add(y, padded(cut(y, 0, 127), 1, 0))
    assert kept(Graph((x,), for_((x,), Graph((a,), (z,)), 9, "k"))) == 0
