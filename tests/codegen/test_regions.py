"""Regions as native code: loops, branches and sized bodies agree with the interpreter on both engines, update arrays
where they are, keep scalars in registers, can be stopped, and tell when there is no memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pytest

from tapefuse.codegen.bounds import bound
from tapefuse.codegen.loops import INT, Assign, For, If, Launch, Let, Load, Move, Num, Poll, Stmt, Store, bodies
from tapefuse.codegen.pipeline import stages
from tapefuse.codegen.plan import plan
from tapefuse.codegen.planned import Request
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.ops.update import put
from tapefuse.ir.parse import parse
from tapefuse.ir.types import Dim, Poly, Type
from tests.engines import LOADS, Run, run_of, runner

F8, I8 = np.dtype(np.float64), np.dtype(np.int64)
ENGINES = tuple(LOADS)


def p(*shape: Dim, dtype: np.dtype = F8) -> Value:
    return param(Type(dtype, shape))


def for_(xs: Sequence[Value], body: Graph, trips: Dim, index: str, carried: int = 1) -> tuple[Value, ...]:
    return region.apply(OPS["for"], xs, {"body": body, "trips": trips, "index": index, "carried": carried})


def while_(xs: Sequence[Value], cond: Graph, body: Graph, carried: int = 1) -> tuple[Value, ...]:
    return region.apply(OPS["while"], xs, {"cond": cond, "body": body, "carried": carried})


def switch(index: Value, xs: Sequence[Value], *branches: Graph) -> tuple[Value, ...]:
    return region.apply(OPS["switch"], (index, *xs), {"branches": branches})


def sized(n: Value, xs: Sequence[Value], symbol: str, body: Graph) -> tuple[Value, ...]:
    return region.apply(OPS["sized"], (n, *xs), {"symbol": symbol, "body": body})


def element(x: Value, *index: Dim) -> Value:
    part = ops.slice_(x, starts=index, limits=tuple(i + 1 for i in index), strides=(1,) * len(index))
    return ops.reshape(part, shape=())


def with_element(x: Value, v: Value, *index: Dim) -> Value:
    return put(x, ops.reshape(v, shape=(1,) * len(index)), starts=index, strides=(1,) * len(index))


def kernels(graph: Graph) -> list[tuple[Stmt, ...]]:
    return [s.kernel.body for s in plan(Request(graph, len(graph.params))).steps]


def walk(body: Sequence[Stmt]):
    for s in body:
        yield s
        for inner in bodies(s):
            yield from walk(inner)


def agree(graph: Graph, *arrays: object, engine: str) -> tuple[np.ndarray, ...]:
    """What an engine computes, which is what the interpreter does. Operands are not changed."""
    given = [np.array(a) for a in arrays]
    wanted = evaluate(graph, *given)
    run = as_it_is(graph, engine)
    for _ in range(2):
        found = run(*given)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        for a, b in zip(given, arrays, strict=True):
            np.testing.assert_array_equal(a, np.array(b))
    return found


@lru_cache(maxsize=16)
def as_it_is(graph: Graph, engine: str) -> Run:
    """A graph on an engine, with no pass of the IR before."""
    return run_of(engine, Request(graph, len(graph.params)))


# -- graphs ------------------------------------------------------------------------------------------------------------


def doubled_while(limit: float) -> Graph:
    x, c, b = p(), p(), p()
    return Graph((x,), while_((x,), Graph((c,), (ops.lt(c, limit),)), Graph((b,), (ops.mul(b, b),))))


def stencil(n: Dim, trips: Dim) -> Graph:
    """`x[1:-1] = (x[:-2] + x[2:]) / 2`, again and again."""
    x, b = p(n), p(n)
    sides = [ops.slice_(b, starts=(k,), limits=(n - 2 + k,), strides=(1,)) for k in (0, 2)]
    new = put(b, ops.mul(ops.add(*sides), 0.5), starts=(1,), strides=(1,))
    return Graph((x,), for_((x,), Graph((b,), (new,)), trips, region.fresh("k")))


def seidel(n: int, trips: int) -> Graph:
    """Sweeps of `a[i, j] = (a[i-1, j] + a[i, j-1] + a[i, j]) / 3` over the elements, in order."""
    t, i, j = (region.fresh(s) for s in "tij")
    row, column = Poly.symbol(i) + 1, Poly.symbol(j) + 1
    a, b, c, x = (p(n, n) for _ in range(4))
    total = ops.add(ops.add(element(a, row - 1, column), element(a, row, column - 1)), element(a, row, column))
    inner = Graph((a,), (with_element(a, ops.div(total, 3.0), row, column),))
    sweep = Graph((c,), for_((c,), Graph((b,), for_((b,), inner, n - 1, j)), n - 1, i))
    return Graph((x,), for_((x,), sweep, trips, t))


def elimination(n: int) -> Graph:
    """LU decomposition without pivots, element by element."""
    k, i, j = (region.fresh(s) for s in "kij")
    pivot = Poly.symbol(k)
    row, column = pivot + 1 + Poly.symbol(i), pivot + 1 + Poly.symbol(j)
    a, b, c, x = (p(n, n) for _ in range(4))
    less = ops.sub(element(a, row, column), ops.mul(element(a, row, pivot), element(a, pivot, column)))
    inner = Graph((a,), (with_element(a, less, row, column),))
    factor = with_element(b, ops.div(element(b, row, pivot), element(b, pivot, pivot)), row, pivot)
    rows = Graph((b,), for_((factor,), inner, n - 1 - pivot, j))
    return Graph((x,), for_((x,), Graph((c,), for_((c,), rows, n - 1 - pivot, i)), n - 1, k))


def dots(n: int) -> Graph:
    """`a[i, i] = a[i, i] - sum over k < i of a[i, k]^2`: a loop that adds up in an element of the array it reads."""
    i, k = region.fresh("i"), region.fresh("k")
    row, column = Poly.symbol(i), Poly.symbol(k)
    a, b, x = p(n, n), p(n, n), p(n, n)
    square = ops.mul(element(a, row, column), element(a, row, column))
    inner = Graph((a,), (with_element(a, ops.sub(element(a, row, row), square), row, row),))
    return Graph((x,), for_((x,), Graph((b,), for_((b,), inner, row, k)), n, i))


def counted(work: Callable[[Value, Value], Value]) -> Graph:
    """`sized`: a function of the numbers 0, 1, ..., n - 1, which only the program knows, and of `x`."""
    n, x, a, s = p(dtype=I8), p(4), p(4), region.fresh("n")
    numbers = ops.iota.emit(shape=(Poly.symbol(s),), axis=0, dtype=F8)
    return Graph((n, x), sized(n, (x,), s, Graph((a,), (work(a, numbers),))))


# -- the same as the interpreter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
class TestLoops:
    def test_while_with_the_number_of_iterations(self, engine: str) -> None:
        graph = doubled_while(1000.0)
        for x in (1.5, 1e9, -2.0):
            agree(graph, x, engine=engine)

    @pytest.mark.parametrize("trips", [0, 1, 6, 7])
    def test_arrays_that_change_roles(self, engine: str, trips: int) -> None:
        agree(stencil(9, trips), np.arange(9.0) ** 2, engine=engine)

    def test_an_open_number_of_iterations_and_roles(self, engine: str) -> None:
        size = Poly.symbol("N")
        graph = stencil(size, size - 3)
        for n in (2, 3, 10, 11):
            agree(graph, np.arange(float(n)) ** 2, engine=engine)

    def test_while_with_arrays_that_change_roles(self, engine: str) -> None:
        x, n, (c, cn), (b, bn) = p(6), p(), (p(6), p()), (p(6), p())
        cond = Graph((c, cn), (ops.gt(cn, 0.0),))
        body = Graph((b, bn), (ops.add(b, ops.flip(b, axes=(0,))), ops.sub(bn, 1.0)))
        graph = Graph((x, n), while_((x, n), cond, body, 2))
        for turns in (0.0, 3.0, 4.0):
            agree(graph, np.arange(6.0), turns, engine=engine)

    def test_carried_values_that_follow_each_other(self, engine: str) -> None:
        xs, bs = (p(5), p(5), p()), (p(5), p(5), p())
        body = Graph(bs, (bs[1], ops.add(bs[0], bs[1]), ops.add(bs[2], ops.reduce_sum(bs[0], axes=(0,)))))
        agree(Graph(xs, for_(xs, body, 5, region.fresh("k"), 3)), np.arange(5.0), np.ones(5), 0.5, engine=engine)

    def test_one_value_carried_twice_and_one_that_never_changes(self, engine: str) -> None:
        x, bs = p(5), (p(5), p(5), p(5))
        body = Graph(bs, (ops.mul(bs[0], 2.0), ops.add(bs[1], bs[2]), bs[2]))
        results = for_((x, x, x), body, 3, region.fresh("k"), 3)
        agree(Graph((x,), results), np.arange(5.0), engine=engine)

    def test_stacked_rows(self, engine: str) -> None:
        k = region.fresh("k")
        x, ys, (b, bs) = p(3), ops.broadcast(p(), shape=(5, 3), axes=()), (p(3), p(5, 3))
        new = ops.sin(ops.add(b, ops.dim.emit(value=Poly.symbol(k), dtype=F8)))
        kept = put(bs, ops.reshape(new, shape=(1, 3)), starts=(Poly.symbol(k), 0), strides=(1, 1))
        graph = Graph((x, ys.args[0]), for_((x, ys), Graph((b, bs), (new, kept)), 5, k, 2))
        agree(graph, np.arange(3.0), 7.0, engine=engine)

    def test_joined_and_padded_arrays(self, engine: str) -> None:
        k, x, b = region.fresh("k"), p(3, 40), p(3, 40)
        halves = [ops.slice_(b, starts=(0, s), limits=(3, s + 20), strides=(1, 1)) for s in (20, 0)]
        joined = ops.concat(ops.sin(halves[0]), ops.cos(halves[1]), axis=1)
        padded = ops.pad(halves[0], low=(0, 3), high=(0, 17), interior=(0, 0), value=2)
        body = Graph((b,), (ops.add(joined, padded),))
        agree(Graph((x,), for_((x,), body, 3, k)), np.random.default_rng(0).random((3, 40)), engine=engine)

    def test_array_constants_inside(self, engine: str) -> None:
        x, b, c, k, j = p(3), p(3), p(3), region.fresh("k"), region.fresh("j")
        inner = Graph((c,), (ops.mul(c, np.array([1.0, 2.0, 0.5])),))
        body = Graph((b,), (ops.add(for_((b,), inner, 2, j)[0], np.array([1.0, 0.0, -1.0])),))
        agree(Graph((x,), for_((x,), body, 3, k)), np.arange(3.0), engine=engine)

    def test_seidel(self, engine: str) -> None:
        agree(seidel(7, 3), np.random.default_rng(0).random((7, 7)), engine=engine)

    @pytest.mark.parametrize("n", [2, 3, 20])
    def test_elimination(self, engine: str, n: int) -> None:
        agree(elimination(n), np.random.default_rng(0).random((n, n)) + n * np.eye(n), engine=engine)

    def test_sums_in_an_element(self, engine: str) -> None:
        agree(dots(9), np.random.default_rng(0).random((9, 9)), engine=engine)

    def test_parts_that_grow_with_the_index(self, engine: str) -> None:
        k, n, x, b = region.fresh("k"), 6, p(6), p(6)
        rest = ops.slice_(b, starts=(Poly.symbol(k),), limits=(n,), strides=(1,))
        new = put(b, ops.add(ops.flip(rest, axes=(0,)), 1.0), starts=(Poly.symbol(k),), strides=(1,))
        agree(Graph((x,), for_((x,), Graph((b,), (new,)), n, k)), np.arange(6.0), engine=engine)

    def test_long_kernels_run_on_threads(self, engine: str) -> None:
        rng = np.random.default_rng(0)
        x, w, (b, v), k = p(700, 300), p(300), (p(700, 300), p(300)), region.fresh("k")
        row = ops.reduce_sum(ops.mul(ops.sin(b), v), axes=(0,))
        body = Graph((b, v), (ops.sub(ops.cos(b), ops.mul(row, 1e-3)),))
        agree(Graph((x, w), for_((x, w), body, 3, k)), rng.random((700, 300)), rng.random(300), engine=engine)

    def test_products_inside(self, engine: str) -> None:
        rng = np.random.default_rng(0)
        x, w, (b, v), k = p(8, 40), p(40, 40), (p(8, 40), p(40, 40)), region.fresh("k")
        body = Graph((b, v), (ops.tanh(ops.matmul(b, v)),))
        agree(Graph((x, w), for_((x, w), body, 4, k)), rng.random((8, 40)), rng.random((40, 40)), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
class TestBranches:
    def test_only_the_branch_taken_counts(self, engine: str) -> None:
        n, x, y = p(dtype=I8), p(4), p()
        branches = []
        for k in range(3):
            a, b = p(4), p()
            sums = ops.cumsum(ops.mul(a, k + 1.0), axis=0, reverse=False)
            branches.append(Graph((a, b), (sums, ops.add(b, float(k)))))
        graph = Graph((n, x, y), switch(n, (x, y), *branches))
        for index in (-1, 0, 1, 2, 5):
            agree(graph, index, np.arange(4.0), 2.0, engine=engine)

    def test_an_update_in_one_branch(self, engine: str) -> None:
        n, x, a, b, c = p(dtype=I8), p(80), p(80), p(80), p(80)
        taken = put(b, ops.slice_(b, starts=(1,), limits=(3,), strides=(1,)), starts=(5,), strides=(1,))
        first = ops.sin(x)
        graph = Graph((n, x), switch(n, (first,), Graph((a,), (a,)), Graph((b,), (taken,))))
        k = region.fresh("k")
        m = p(dtype=I8)
        body = Graph((c, m), switch(m, (c,), *graph_branches(graph)))
        again = Graph((n, x), for_((x, n), body, 3, k))
        for index in (0, 1):
            agree(graph, index, np.arange(80.0), engine=engine)
            agree(again, index, np.arange(80.0), engine=engine)

    def test_a_size_known_at_run_time(self, engine: str) -> None:
        work = lambda x, numbers: ops.add(x, ops.reduce_sum(ops.cumsum(numbers, axis=0, reverse=True), axes=(0,)))
        graph = counted(work)
        for n in (-3, 0, 1, 50_000):
            agree(graph, n, np.arange(4.0), engine=engine)

    def test_sizes_inside_of_a_loop(self, engine: str) -> None:
        k, s, x, b, c = region.fresh("k"), region.fresh("n"), p(3), p(3), p(3)
        numbers = ops.iota.emit(shape=(Poly.symbol(s),), axis=0, dtype=F8)
        total = ops.reduce_sum(ops.cumsum(numbers, axis=0, reverse=False), axes=(0,))
        n = ops.dim.emit(value=Poly.symbol(k), dtype=I8)
        body = Graph((b,), sized(n, (b,), s, Graph((c,), (ops.add(c, total),))))
        agree(Graph((x,), for_((x,), body, 9, k)), np.arange(3.0), engine=engine)


def graph_branches(graph: Graph) -> tuple[Graph, ...]:
    return next(v for v in graph.nodes if v.op is not None and v.op.name == "switch").attributes["branches"]


# -- how ---------------------------------------------------------------------------------------------------------------


class TestCode:
    def test_scalars_stay_in_registers(self) -> None:
        (body,) = kernels(doubled_while(10.0))
        assert sum(isinstance(s, Load) for s in walk(body)) == 1  # the first value

    def test_arrays_change_roles_without_being_copied(self) -> None:
        (body,) = kernels(stencil(200, 10))
        assert sum(isinstance(s, Move) for s in walk(body)) == 1

    def test_elements_are_updated_in_place(self) -> None:
        (body,) = kernels(seidel(50, 2))
        assert not any(isinstance(s, Move) for s in walk(body))
        innermost = [s for s in walk(body) if isinstance(s, For) and not any(map(bodies, s.body))][-1]
        assert sum(isinstance(s, Load) for s in innermost.body) == 2  # the third was stored an iteration before

    def test_what_no_iteration_changes_is_loaded_once(self) -> None:
        (body,) = kernels(elimination(50))
        innermost = [s for s in walk(body) if isinstance(s, For) and not any(map(bodies, s.body))][-1]
        assert sum(isinstance(s, Load) for s in innermost.body) == 2

    def test_an_element_that_all_iterations_change_is_stored_once(self) -> None:
        (body,) = kernels(dots(50))
        innermost = [s for s in walk(body) if isinstance(s, For) and not any(map(bodies, s.body))][-1]
        assert not any(hasattr(s, "buffer") and not isinstance(s, Load) for s in innermost.body)

    def test_loops_are_cut_where_joined_arrays_meet(self) -> None:
        k, x, b = region.fresh("k"), p(140), p(140)
        halves = [ops.slice_(b, starts=(s,), limits=(s + 70,), strides=(1,)) for s in (70, 0)]
        body = Graph((b,), (ops.concat(ops.sin(halves[0]), ops.cos(halves[1]), axis=0),))
        (found,) = kernels(Graph((x,), for_((x,), body, 9, k)))
        parts = [s for s in walk(found) if isinstance(s, For) and s.start == Num(70, INT)]
        assert [s.stop for s in parts] == [Num(140, INT)]
        assert sum(isinstance(t, Load) for t in parts[0].body) == 1  # of the second array alone

    def test_short_loops_do_not_look_for_interrupts(self) -> None:
        assert not any(isinstance(s, Poll) for body in kernels(seidel(10, 2)) for s in walk(body))
        assert any(isinstance(s, Poll) for body in kernels(doubled_while(10.0)) for s in walk(body))

    def test_the_text_of_a_loop_does_not_depend_on_how_long_it_runs(self) -> None:
        short, long = (stages(Request(stencil(50, t), 1))["llvm"]() for t in (10**6, 10**8))
        assert len(short.splitlines()) == len(long.splitlines())

    def test_stages_show_what_is_inside(self) -> None:
        texts = stages(Request(seidel(10, 2), 1))
        assert "body" in texts["schedule"]() and "put" in texts["schedule"]()
        assert "arena" in texts["memory"]()


@pytest.mark.parametrize(
    ("d", "trips", "wanted"),
    [
        (Poly.symbol("k") + 1, 7, 7),
        (9 - Poly.symbol("k"), 7, 9),
        ((9 - Poly.symbol("k")) * (9 - Poly.symbol("k")), 12, 81),
        (Poly.symbol("n") - Poly.symbol("k"), Poly.symbol("n"), Poly.symbol("n")),
        (Poly.symbol("n") * 2, 4, Poly.symbol("n") * 2),
    ],
)
def test_bounds_of_sizes(d: Dim, trips: Dim, wanted: Dim) -> None:
    assert bound(d, "k", trips) == wanted


# -- ends --------------------------------------------------------------------------------------------------------------


def _interrupt_soon() -> None:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)


def _endless_while() -> Graph:
    x, c, b = p(), p(), p()
    return Graph((x,), while_((x,), Graph((c,), (ops.lt(c, 1e300),)), Graph((b,), (ops.add(b, 1.0),))))


def _endless_for() -> Graph:
    x, b, c, k, j = p(), p(), p(), region.fresh("k"), region.fresh("j")
    inner = Graph((c,), (ops.add(ops.mul(c, 0.5), 1.0),))
    return Graph((x,), for_((x,), Graph((b,), for_((b,), inner, 1000, j)), 10**12, k))


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("make", [_endless_while, _endless_for])
def test_endless_loops_can_be_interrupted(make: Callable[[], Graph]) -> None:
    graph = make()
    run = runner(LOADS["llvm"], Request(graph, 1), [])
    thread = threading.Thread(target=_interrupt_soon)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(np.array(0.0))
    thread.join()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("engine", ENGINES)
def test_no_memory_for_a_size(engine: str) -> None:
    work = lambda x, numbers: ops.add(x, ops.reduce_sum(ops.cumsum(numbers, axis=0, reverse=True), axes=(0,)))
    run = runner(LOADS[engine], Request(counted(work), 2), [])
    for n in (1 << 48, 1 << 62):
        with pytest.raises(MemoryError):
            run(np.array(n), np.arange(4.0))
        np.testing.assert_array_equal(run(np.array(3), np.arange(4.0))[0], np.arange(4.0) + 8)  # 0+1+2, 1+2, 2


# -- what loops wait for, and where they store -------------------------------------------------------------------------


def test_sums_keep_their_order_when_strict() -> None:
    graph = seidel(6, 2)
    orders = []
    for strict in (False, True):
        (step,) = plan(Request(graph, 1, strict=strict)).steps
        body = next(s.body for s in walk(step.kernel.body) if isinstance(s, For) and _carries(s.body))
        read = next(s.dst for s in body if isinstance(s, Let) and s.op == "read")
        sums = [s for s in body if isinstance(s, Let) and s.op == "add" and s.dst.dtype == F8]
        orders.append([read in s.args for s in sums])
    assert orders == [[False, True], [True, False]]


def _carries(body: Sequence[Stmt]) -> bool:
    return any(isinstance(s, Assign) for s in body)


def triangle(n: int) -> Graph:
    """`x[i] = b[i] - sum(a[i, :i] * x[:i])`, row after row."""
    i, (a, b, x), (ra, rb, rx) = region.fresh("i"), (p(n, n), p(n), p(n)), (p(n, n), p(n), p(n))
    k = Poly.symbol(i)
    row = ops.reshape(ops.slice_(ra, starts=(k, 0), limits=(k + 1, k), strides=(1, 1)), shape=(k,))
    dot = ops.reduce_sum(ops.mul(row, ops.slice_(rx, starts=(0,), limits=(k,), strides=(1,))), axes=(0,))
    body = Graph((rx, ra, rb), (with_element(rx, ops.sub(element(rb, k), dot), k),))
    return Graph((a, b, x), for_((x, a, b), body, n, i))


def test_short_sums_in_loops_are_loops() -> None:
    """What is summed is counted, not the arrays that it is part of; and the index is known to stay small."""
    (body,) = kernels(triangle(400))
    assert not any(isinstance(s, Launch) for s in walk(body))


@pytest.mark.parametrize("engine", ENGINES)
def test_triangle(engine: str) -> None:
    rng = np.random.default_rng(0)
    agree(triangle(30), rng.random((30, 30)) / 30, rng.random(30), np.zeros(30), engine=engine)


def scaled_columns(n: int) -> Graph:
    """`a[k:, k] /= sqrt(a[k, k])`, as a column of one row."""
    index, x, a = region.fresh("k"), p(n, n), p(n, n)
    k = Poly.symbol(index)
    column = ops.reshape(ops.slice_(a, starts=(k, k), limits=(n, k + 1), strides=(1, 1)), shape=(n - k,))
    new = ops.reshape(ops.div(column, ops.sqrt(element(a, k, k))), shape=(n - k, 1))
    return Graph((x,), for_((x,), Graph((a,), (put(a, new, starts=(k, k), strides=(1, 1)),)), n, index))


def test_a_column_is_updated_in_place() -> None:
    (body,) = kernels(scaled_columns(20))
    assert not any(isinstance(s, Move) for s in walk(body))


def outer_products(n: int, first_row: int = 0) -> Graph:
    """`a[k+1:, k] /= a[k, k]; a[k+1:, k+1:] -= a[k+1:, k] * row` with the row `k + first_row` of `a` as it was."""
    index, x, a = region.fresh("k"), p(n, n), p(n, n)
    k = Poly.symbol(index)
    m = n - 1 - k
    unit = (1, 1)
    row = ops.slice_(a, starts=(k + first_row, k + 1), limits=(k + first_row + 1, n), strides=unit)
    column = ops.div(ops.slice_(a, starts=(k + 1, k), limits=(n, k + 1), strides=unit), element(a, k, k))
    b = put(a, column, starts=(k + 1, k), strides=unit)
    rest = ops.slice_(b, starts=(k + 1, k + 1), limits=(n, n), strides=unit)
    less = ops.sub(
        rest,
        ops.mul(
            *(ops.broadcast(ops.reshape(v, shape=(m,)), shape=(m, m), axes=(d,)) for d, v in enumerate((column, row)))
        ),
    )
    c = put(b, less, starts=(k + 1, k + 1), strides=unit)
    return Graph((x,), for_((x,), Graph((a,), (c,)), n - 1, index))


def test_a_part_that_is_never_written_may_be_read_later() -> None:
    (body,) = kernels(outer_products(20))
    assert not any(isinstance(s, Move) for s in walk(body))
    (body,) = kernels(outer_products(20, first_row=1))
    assert any(isinstance(s, Move) for s in walk(body))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("first_row", [0, 1])
def test_outer_products(engine: str, first_row: int) -> None:
    start = np.random.default_rng(0).random((20, 20)) + 20 * np.eye(20)
    agree(outer_products(20, first_row), start, engine=engine)


def columns_of_sums(n: int, begin: int) -> Graph:
    """`a[k+1:, k] += sum(a[k+1:, k+begin:], 1)`."""
    index, x, a = region.fresh("k"), p(n, n), p(n, n)
    k = Poly.symbol(index)
    m = n - 1 - k
    block = ops.slice_(a, starts=(k + 1, k + begin), limits=(n, n), strides=(1, 1))
    column = ops.reshape(ops.slice_(a, starts=(k + 1, k), limits=(n, k + 1), strides=(1, 1)), shape=(m,))
    total = ops.div(ops.add(column, ops.reduce_sum(block, axes=(1,))), 7.0)
    new = put(a, ops.reshape(total, shape=(m, 1)), starts=(k + 1, k), strides=(1, 1))
    return Graph((x,), for_((x,), Graph((a,), (new,)), n - 1, index))


def test_sums_over_rows_are_stored_beside_what_they_read() -> None:
    (body,) = kernels(columns_of_sums(20, 1))
    assert not any(isinstance(s, Move) for s in walk(body))
    loops = [s.body for s in walk(body) if isinstance(s, For)]
    one = [b for b in loops if any(isinstance(s, For) for s in b) and any(isinstance(s, Store) for s in b)]
    assert len(one) == 1  # a row is summed and its element stored in the same loop


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("begin", [0, 1])
def test_columns_of_sums(engine: str, begin: int) -> None:
    agree(columns_of_sums(20, begin), np.random.default_rng(0).random((20, 20)), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_scaled_columns(engine: str) -> None:
    agree(scaled_columns(20), np.random.default_rng(0).random((20, 20)) + 1, engine=engine)


def spread(*shape: int, trips: int = 3) -> Graph:
    """The adjoint of a stencil: each inner element is given to its neighbours along all axes, by padding."""
    rank, x, b = len(shape), p(*shape), p(*shape)
    inner = ops.slice_(b, starts=(1,) * rank, limits=tuple(n - 1 for n in shape), strides=(1,) * rank)
    total = b
    for axis in range(rank):
        for side in (0, 2):
            low = tuple(side if k == axis else 1 for k in range(rank))
            given = {"low": low, "high": tuple(2 - a for a in low), "interior": (0,) * rank, "value": 0.0}
            total = ops.add(total, ops.pad(ops.mul(inner, 0.25), **given))
    return Graph((x,), for_((x,), Graph((b,), (total,)), trips, region.fresh("k")))


def test_inner_rows_of_padded_sums_ask_nothing() -> None:
    (outer,) = kernels(spread(100, 150))  # so long that it is a kernel of its own
    (body,) = (s.kernel.body for s in walk(outer) if isinstance(s, Launch))
    branch = next(s for s in walk(body) if isinstance(s, If))
    middle = max((s for s in branch.then if isinstance(s, For)), key=lambda s: s.stop.value - s.start.value)
    assert not any(isinstance(t, Let) and t.op == "select" for t in middle.body)
    assert any(isinstance(t, Let) and t.op == "select" for s in branch.otherwise for t in walk((s,)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(20, 30), (3, 4), (2, 9), (7, 6, 20)])
def test_padded_sums(engine: str, shape: tuple[int, ...]) -> None:
    agree(spread(*shape), np.random.default_rng(0).random(shape), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("branch", [0, 1])
def test_a_branch_that_makes_an_array_anew_reads_the_old_one_first(engine: str, branch: int) -> None:
    graph = parse("""
        fn main(%branch: i64[], %one: f32[1,1], %first: f32[5,1], %start: f32[1,1]) {
          %0 = for %first, %start, %branch, %one body=fn body(%x: f32[5,1], %s: f32[1,1], %k: i64[], %c: f32[1,1]) {
              %0 = switch %k, %c, %x branches=(fn same(%c: f32[1,1], %x: f32[5,1]) {
                  return %c, %x
                }, fn halved(%c: f32[1,1], %x: f32[5,1]) {
                  %0 = mul %x, f32(0.5) : f32[5,1]
                  %1 = reshape %x shape=(5) : f32[5]
                  %2 = reduce_sum %1 axes=(0) : f32[]
                  %3 = mul %2, %c : f32[1,1]
                  return %3, %0
                }) : i64[]
              %1 = result %0 dtype=f32 index=0 shape=(1,1) : f32[1,1]
              %2 = result %0 dtype=f32 index=1 shape=(5,1) : f32[5,1]
              return %2, %1
            } carried=2 index="k" trips=3 : i64[]
          %1 = result %0 dtype=f32 index=1 shape=(1,1) : f32[1,1]
          return %1
        }""")
    ones = [np.ones(v.shape, "f4") for v in graph.params[1:]]
    agree(graph, np.asarray(branch), *ones, engine=engine)


def rows_kept(trips: int, *inner: int, dtype: str = "f64") -> Graph:
    """Of each iteration of a loop, what a loop inside keeps: `trips` rows, in memory that nothing wrote before."""
    kept, row = ",".join(map(str, (trips, *inner))), ",".join(map(str, (1, *inner)))
    zeros, ones = ",0" * len(inner), ",1" * len(inner)
    return parse(f"""
        fn main(%x: {dtype}[{row}]) {{
          %0 = for %x body=fn step(%x: {dtype}[{row}]) {{
              %0 = empty dtype={dtype} shape=({kept}) : {dtype}[{kept}]
              %1 = for %0, %x body=fn rows(%y: {dtype}[{kept}], %x: {dtype}[{row}]) {{
                  %0 = add %x, %x : {dtype}[{row}]
                  %1 = put %y, %0 starts=(-k+{trips - 1}{zeros}) strides=(1{ones}) : {dtype}[{kept}]
                  return %1
                }} carried=1 index="k" parallel=True trips={trips} : i64[]
              %2 = result %1 dtype={dtype} index=0 shape=({kept}) : {dtype}[{kept}]
              %3 = slice %2 limits=(1,{row[2:]}) starts=(0{zeros}) strides=(1{ones}) : {dtype}[{row}]
              return %3
            }} carried=1 index="t" trips=5 : i64[]
          %1 = result %0 dtype={dtype} index=0 shape=({row}) : {dtype}[{row}]
          return %1
        }}""")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3), (1, 300), (3, 300)])
def test_memory_inside_a_loop_whatever_its_size(engine: str, shape: tuple[int, int]) -> None:
    """One element is in a register, which is read before the rows are written."""
    graph = rows_kept(*shape)
    agree(graph, np.ones((1, shape[1])), engine=engine)
    agree(rows_kept(*shape, dtype="i32"), np.ones((1, shape[1]), "i4"), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize("n", [1, 3, 300])
def test_a_branch_whose_result_is_memory_alone(engine: str, branch: int, n: int) -> None:
    graph = parse(f"""
        fn main(%k: i64[], %x: f64[{n}], %reads: bool[]) {{
          %0 = switch %k, %x branches=(fn nothing(%x: f64[{n}]) {{
              %0 = empty dtype=f64 shape=({n}) : f64[{n}]
              return %0
            }}, fn same(%x: f64[{n}]) {{
              %0 = add %x, %x : f64[{n}]
              return %0
            }}) : i64[]
          %1 = result %0 dtype=f64 index=0 shape=({n}) : f64[{n}]
          %2 = select %reads, %1, %x : f64[{n}]
          return %2
        }}""")
    agree(graph, np.asarray(branch), np.ones(n), np.asarray(branch == 1), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_element_that_nothing_writes_before_an_update(engine: str) -> None:
    """As it is, in a loop, and where a product wants an array."""
    graph = parse("""
        fn main(%x: f64[1,1], %m: f64[1,40]) {
          %0 = for %x, %m body=fn step(%x: f64[1,1], %m: f64[1,40]) {
              %0 = empty dtype=f64 shape=(1,1) : f64[1,1]
              %1 = put %0, %x starts=(0,0) strides=(1,1) : f64[1,1]
              %2 = matmul %1, %m : f64[1,40]
              %3 = slice %2 limits=(1,40) starts=(0,39) strides=(1,1) : f64[1,1]
              return %3
            } carried=1 index="k" trips=3 : i64[]
          %1 = result %0 dtype=f64 index=0 shape=(1,1) : f64[1,1]
          %2 = empty dtype=f64 shape=(1,1) : f64[1,1]
          %3 = put %2, %1 starts=(0,0) strides=(1,1) : f64[1,1]
          return %3
        }""")
    agree(graph, np.full((1, 1), 2.0), np.arange(40.0).reshape(1, 40), engine=engine)
