"""The Numba backend's source: plain Python == `@njit` == the interpreter, for every op and its edges; how it reads."""

from __future__ import annotations

import itertools
import linecache
import re
from collections.abc import Iterator

import numba
import numpy as np
import pytest

from tapefuse._errors import CompileError
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS, constant
from tapefuse.ir.program import Check, State
from tapefuse.ir.types import Poly, Type, symbols
from tests import engines
from tests.codegen.numba_programs import jitted, plain, same
from tests.ir.test_ops import ALL, Case

B = Poly.symbol("B")
COMPLEX = ("complex", "real", "imag", "conj", "modulus", "pairs", "from_pairs")  # a pass removes them: test_complex.py
REAL_OPS = {name: op for name, op in OPS.items() if name not in COMPLEX}
REAL = [c for c in ALL if c.op.name not in COMPLEX and "c" not in (c.dtype.kind, *(t.dtype.kind for t in c.types))]
LINEAR = ("matmul", "conv", "conv_input", "conv_kernel")  # sums of products of their operands' elements


def parameter(text: str) -> Value:
    return param(Type.parse(text))


def graphs(case: Case) -> Iterator[tuple[tuple[Value, ...], Value]]:
    """(parameters, result) of an op's sample, with fixed and with symbolic sizes."""
    fixed = tuple(map(param, case.types))
    result = case.op.emit(*fixed, **case.attrs)
    if result.dtype.kind == "c":
        return
    yield fixed, result
    params = tuple(map(param, case.symbolic_types))
    result = case.op.emit(*params, **case.symbolic_attrs)
    bound = {d.name for p in params for d in p.shape if isinstance(d, Poly) and d.name}
    if bound and symbols(d for v in (*params, result) for d in v.shape) <= bound:
        yield params, result


def arrays(case: Case) -> list[np.ndarray]:
    return [np.array(a, order="C") for a in case.args]


class TestEveryOp:
    @pytest.mark.parametrize("op", REAL_OPS.values(), ids=REAL_OPS)
    def test_as_plain_python(self, op):
        for case in (c for c in REAL if c.op is op):
            both = list(graphs(case))  # fixed sizes with one dtype alone
            for params, result in both if case.dtype == np.float32 else both[-1:]:
                graph, xs = Graph(params, (result,)), arrays(case)
                wants = evaluate(graph, *xs)
                sums = evaluate(graph, *map(np.abs, xs)) if op.name in LINEAR and case.dtype.kind == "f" else None
                if op.calls is not None:  # LAPACK rounds relative to a whole matrix, and as its memory is aligned
                    sums = [np.full_like(y, np.abs(y).max(initial=0)) for y in wants]
                same(plain(graph, *xs), wants, case.dtype, sums=sums)

    def test_under_njit(self):
        """One sample of every op that is not elementwise, with symbolic sizes where they can be."""
        chosen = {c.op: c for c in reversed(REAL) if not c.op.elementwise and c.dtype == np.float32}.values()
        found = [(case, *list(graphs(case))[-1]) for case in chosen if list(graphs(case))]
        for part in batched(found):
            graph = Graph(tuple(p for _, ps, _ in part for p in ps), tuple(v for *_, v in part))
            values = [a for case, *_ in part for a in arrays(case)]
            same(jitted(graph, *values), evaluate(graph, *values), np.dtype("f4"))


def batched(found: list, size: int = 12) -> Iterator[list]:
    """A dozen at a time: Numba compiles small programs sooner than a large one."""
    return (found[k : k + size] for k in range(0, len(found), size))


COMPILED_AS_OTHERS = ("f8", "i4")  # which differ from f4 and u1 in nothing but names
SPECIAL = {
    "f": [
        0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 1e-40, 1e-3, 20.0, -20.0, 100.0, -1000.0, 1e30,
        np.inf, -np.inf, np.nan,
    ],
    "i": [0, 1, -1, 2, 3, -3, 7, 100, -100, "min", "max"],
    "u": [0, 1, 2, 3, 7, 100, 200, "max"],
    "b": [False, True],
}  # fmt: skip


def special(dtype: np.dtype, arity: int) -> list[np.ndarray]:
    """All combinations of edge values."""
    info = np.iinfo(dtype) if dtype.kind in "iu" else None
    values = [getattr(info, v) if isinstance(v, str) else v for v in SPECIAL[dtype.kind]]
    columns = zip(*itertools.product(values, repeat=arity), strict=True)
    return [np.array(c, dtype) for c in columns]


def elementwise_at_edges(dtype: np.dtype) -> Iterator[tuple[str, tuple[Value, ...], Value, list[np.ndarray]]]:
    """Each elementwise op on all edge values of a dtype."""
    for op in OPS.values():
        if not op.elementwise or op.name in ("cast", "missing_gradient"):
            continue
        sample = next((c for c in REAL if c.op is op and c.dtype == dtype), None)
        if sample is None:
            continue
        edges = special(dtype, len(sample.args))
        if op.name == "pow" and dtype.kind in "iu":
            edges[1] = np.abs(edges[1] % 9).astype(dtype)
        elif op.name == "pow":  # NumPy takes square roots if the exponent is a scalar 0.5: (-inf) ** 0.5 is nan then
            edges = [a[edges[1] != 0.5] for a in edges]
        if op.name == "select":
            edges[0] = edges[0] != 0
        if any(a.dtype != t.dtype for a, t in zip(edges, sample.types, strict=True)):
            continue
        params = tuple(param(Type(a.dtype, a.shape)) for a in edges)
        yield op.name, params, op.emit(*params, **sample.attrs), edges


@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "i8", "u1", "?"])
def test_elementwise_ops_at_the_edges_of_a_dtype(kind: str):
    """nan, infinities, signed zeros, extreme integers, divisors of zero: as NumPy, compiled and not."""
    for part in batched(list(elementwise_at_edges(np.dtype(kind)))):
        graph = Graph(tuple(p for _, ps, *_ in part for p in ps), tuple(v for _, _, v, _ in part))
        values = [a for *_, edges in part for a in edges]
        want = evaluate(graph, *values)
        for run in (plain, jitted)[: 2 - (kind in COMPILED_AS_OTHERS)]:
            for (name, *_), got, expected in zip(part, run(graph, *values), want, strict=True):
                same([got], [expected], np.dtype(kind), f"{name} {run.__name__}")


def test_casts_between_all_dtypes():
    dtypes = [np.dtype(d) for d in ("f4", "f8", "i1", "i4", "i8", "u1", "u8", "?")]
    found, values = [], []
    for source in dtypes:
        p = param(Type(source, (6,)))
        found.append((p, [ops.cast.emit(p, dtype=target) for target in dtypes if target != source]))
        values.append(np.array([0, 1, 2, 3, 100, 127]).astype(source))
    graph = Graph(tuple(p for p, _ in found), tuple(v for _, vs in found for v in vs))
    want = evaluate(graph, *values)
    same(plain(graph, *values), want, np.dtype("f8"))
    same(jitted(graph, *values), want, np.dtype("f8"))


def test_casts_of_floats_saturate():
    x = parameter("f64[7]")
    targets = [np.dtype(d) for d in ("i4", "i8", "u1", "u8")]
    graph = Graph((x,), tuple(ops.cast.emit(x, dtype=d) for d in targets))
    value = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, -1.9, 2.9])
    for results in (plain(graph, value), jitted(graph, value)):
        for y, dtype in zip(results, targets, strict=True):
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            assert y.tolist() == [0, high, low, high, low, max(-1, low), 2]


class TestPrograms:
    def softmax(self) -> Graph:
        x, w, b = parameter("f32[B,64]"), parameter("f32[64,10]"), parameter("f32[10]")
        h = ops.add(ops.matmul(x, w), b)
        e = ops.exp(ops.sub(h, ops.reshape(ops.reduce_max(h, axes=(1,)), shape=(B, 1))))
        s = ops.reduce_sum(e, axes=(1,))
        y = ops.div(e, ops.reshape(s, shape=(B, 1)))
        return Graph((x, w, b), (ops.reduce_sum(ops.log(s), axes=(0,)), y, ops.reduce_sum(y, axes=(0,))))

    def test_one_program_for_every_size(self):
        graph = self.softmax()
        rng = np.random.default_rng(0)
        for n in (0, 1, 7, 32):
            values = [rng.normal(size=shape).astype("f4") for shape in ((n, 64), (64, 10), (10,))]
            want = evaluate(graph, *values)
            same(plain(graph, *values), want, np.dtype("f4"))
            same(jitted(graph, *values), want, np.dtype("f4"))

    def test_products(self):
        """Transposed operands, stacks of matrices, stretched stacks, cut by rows and by columns, empty ones."""
        a, b, s, t = (parameter(x) for x in ("f64[6,4]", "f64[6,40]", "f64[3,4,5]", "f64[1,7,5]"))
        e, f = parameter("f64[3,0]"), parameter("f64[0,2]")
        results = (
            ops.matmul(ops.transpose(a, perm=(1, 0)), b),
            ops.matmul(ops.transpose(b, perm=(1, 0)), a),
            ops.matmul(s, ops.transpose(t, perm=(0, 2, 1))),
            ops.matmul(e, f),
        )
        graph = Graph((a, b, s, t, e, f), results)
        rng = np.random.default_rng(0)
        values = [rng.normal(size=p.shape) for p in graph.params]
        want = evaluate(graph, *values)
        assert want[3].tolist() == np.zeros((3, 2)).tolist()
        same(plain(graph, *values), want, np.dtype("f8"))
        same(jitted(graph, *values), want, np.dtype("f8"))

    def test_states_constants_and_checks(self):
        """A failed check leaves everything as it was; otherwise state is updated in place."""
        x, w = parameter("f64[3]"), parameter("f64[3]")
        table = constant(np.array([1.0, 2.0, 4.0]))
        bad = ops.reduce_any(ops.lt(x, 0), axes=(0,))
        graph = Graph((x, w), (ops.mul(w, 2.0), ops.add(w, ops.mul(x, table)), bad))
        request = Request(graph, 1, (State(w.type, True),), checks=(Check("negative"),))
        program = compiled(request)
        for compile_it in (False, True):
            function = functions(program.numba(), compile_it)["program"]
            state, out = np.ones(3), np.zeros(3)
            rest = (state, *program.constants, out, np.zeros(program.arena, np.uint8))
            assert function(np.array([1.0, -1, 0]), *rest) == 1
            assert state.tolist() == [1, 1, 1] and out.tolist() == [0, 0, 0]
            assert function(np.array([1.0, 2, 3]), *rest) == 0
            assert state.tolist() == [2, 5, 13] and out.tolist() == [2, 2, 2]


def functions(text: str, compile_it: bool) -> dict:
    """The text's functions as a user would get them: executed, with or without Numba's compiler."""
    namespace: dict = {}
    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, not compile_it
    try:
        exec(compile(text, "<text>", "exec"), namespace)
    finally:
        numba.config.DISABLE_JIT = before
    return namespace


class TestText:
    def text(self, graph: Graph) -> str:
        return compiled(Request(graph, len(graph.params))).numba()

    def test_bias_and_relu(self):
        x, b = parameter("f32[B,10]"), parameter("f32[10]")
        text = self.text(Graph((x, b), (ops.relu(ops.add(x, b)),)))
        assert re.sub(r"\(\d+ \* n0[^)]*\)", "(cost)", text) == BIAS_AND_RELU

    def test_equal_kernels_are_printed_once(self):
        xs = [parameter(f"f32[{n}]") for n in (3, 50, 700)]
        text = self.text(Graph(tuple(xs), tuple(ops.exp(x) for x in xs)))
        assert text.count("def k") == 1 and text.count("    k0(") == 3

    def test_only_large_or_unknown_work_is_parallel(self):
        for shape, parallel in (("8", False), ("4000000", True), ("B", True)):
            x = parameter(f"f32[{shape}]")
            assert ("prange(pieces)" in self.text(Graph((x,), (ops.exp(x),)))) == parallel

    def test_no_string_of_the_users(self):
        x = param(Type(np.dtype("f4"), (Poly.symbol("__import__"), 3)), name="os.system")
        text = self.text(Graph((x,), (ops.exp(x),), name="evil"))
        assert not any(word in text for word in ("__import__", "os.system", "evil"))

    def test_long_chains_do_not_nest(self):
        x = y = parameter("f32[4]")
        for _ in range(3000):
            y = ops.sin(ops.mul(y, x))
        text = self.text(Graph((x,), (y,)))
        compile(text, "<text>", "exec")
        assert max(map(len, text.splitlines())) < 120

    @pytest.mark.parametrize("value", [0.1, -0.0, 1e-45, 3.4e38, np.inf, -np.inf, np.nan, 1 / 3, 16777217.0])
    @pytest.mark.parametrize("dtype", ["f4", "f8"])
    def test_literals_are_exact(self, dtype: str, value: float):
        x = param(Type(np.dtype(dtype), (1,)))
        with np.errstate(all="ignore"):
            literal = np.array(value).astype(dtype)
        graph = Graph((x,), (ops.select(ops.eq(x, x), constant(literal), x),))
        (y,) = plain(graph, np.zeros(1, dtype))
        assert y.tobytes() == literal.tobytes()

    def test_integer_literals(self):
        for dtype in ("i1", "i4", "i8", "u1", "u8"):
            x = param(Type(np.dtype(dtype), (1,)))
            for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
                graph = Graph((x,), (ops.select(ops.eq(x, x), constant(np.array(value, dtype)), x),))
                assert plain(graph, np.zeros(1, dtype))[0][0] == value

    def test_dtypes_that_cannot_be_compiled(self):
        x = param(Type(np.dtype("c8"), (3,)))  # `ir.passes.complex` did not run
        with pytest.raises(CompileError, match="c64"):
            self.text(Graph((x,), (ops.exp(x),)))

    def test_tracebacks_show_the_source(self):
        x = parameter("f32[3]")
        graph = Graph((x,), (ops.exp(x),))
        plain(graph, np.zeros(3, "f4"))
        newest = [f for f in linecache.cache if f.startswith("<tapefuse-numba")][-1]
        assert "def program" in "".join(linecache.getlines(newest))


BIAS_AND_RELU = """\
from numba import njit, prange
from numpy import float32, int64
from tapefuse.runtime.numba_library import select


@njit(nogil=True, error_model="numpy")
def k0(b0, b1, b2, lo, hi, chunk):
    # relu: b0 f32[:,:], b1 f32[:], b2 f32[:,:]
    for i0 in range(lo, hi):
        for i1 in range(10):
            t4 = b0[i0, i1] + b1[i1]
            b2[i0, i1] = select(t4 <= float32(0.0), float32(0.0), t4)


@njit(nogil=True, error_model="numpy", parallel=True)
def k0_pieces(b0, b1, b2, rows, pieces):
    for piece in prange(pieces):
        chunk = int64(piece)  # Numba makes it unsigned
        k0(b0, b1, b2, chunk * rows // pieces, (chunk + 1) * rows // pieces, chunk)


@njit(nogil=True, error_model="numpy")
def program(x0, x1, y0, arena, n0):
    # inputs: x0 f32[n0,10], x1 f32[10]
    # outputs: y0 f32[n0,10]
    p0 = max(1, min(16, (cost) // 1024000))
    k0_pieces(x0, x1, y0, n0, p0)
    return 0
"""


@pytest.mark.parametrize("n", [10, 100_000])
def test_a_kernel_of_more_arrays_than_a_call_takes(n):
    """Python passes more than 30 arguments in a way that Numba does not compile; `n` decides on one piece or many."""
    params = [param(Type(np.dtype("f8"), (n,))) for _ in range(20)]
    outs = [ops.add(ops.exp(a), b) for a, b in zip(params, (*params[1:], params[0]), strict=True)]
    graph = Graph(tuple(params), tuple(outs))
    arrays = [np.linspace(0, 1 + k, n) for k in range(20)]
    for found, wanted in zip(engines.ENGINES["numba"](graph)(*arrays), evaluate(graph, *arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-14)
