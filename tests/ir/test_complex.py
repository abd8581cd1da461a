"""Complex numbers as pairs of real ones: every op with complex samples, the functions, regions, text."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

from tapefuse._errors import CompileError, DTypeError
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.halves import bfloat16
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS
from tapefuse.ir.parse import parse
from tapefuse.ir.passes import complex, optimise
from tapefuse.ir.passes.complex_functions import UNARY, div_, mul_, pow_
from tapefuse.ir.types import real_dtype, type_of
from tapefuse.ir.verify import verify
from tests.differential import numbers, pairs
from tests.engines import ENGINES
from tests.ir.rule_graphs import graph_of
from tests.ir.test_ops import ALL, Case, close, each, has_symbol

COMPLEX = [
    c for c in ALL if any(t.dtype.kind == "c" for t in (*c.types, type_of(c.result))) and c.op.name != "empty"
]
NUMPY = {
    name: getattr(np, {"neg": "negative"}.get(name, name.replace("a", "arc", 1) if name[0] == "a" else name))
    for name in UNARY
}


def real_graph(graph: Graph) -> Graph:
    """After the pass: no value is complex."""
    found, _ = complex.run(graph)
    assert not complex.has_complex(found)
    return found


def evaluated(graph: Graph, *args) -> list[np.ndarray]:
    """The outputs of the graph on real numbers, as complex ones."""
    found = evaluate(verify(real_graph(graph)), *map(pairs, args))
    return [numbers(y, v.dtype) for y, v in zip(found, graph.outs, strict=True)]


@each(COMPLEX)
def test_every_op(case: Case) -> None:
    """Is the same in real numbers, with symbolic extents, too."""
    atol = 1e-5 if real_dtype(case.dtype) == np.float32 else 1e-13
    graph = graph_of(lambda *xs: [case.op(*xs, **case.attrs) if xs else case.op.emit(**case.attrs)], case.types)
    close(evaluated(graph, *case.args)[0], case.result, atol=atol)
    if has_symbol(case) and case.args:
        graph = graph_of(lambda *xs: [case.op(*xs, **case.symbolic_attrs)], case.symbolic_types)
        (found,) = evaluate(real_graph(graph).substitute({"N": 7}), *map(pairs, case.args))
        close(numbers(found, graph.outs[0].dtype), case.result, atol=atol)


FEW = {"concat", "cumsum", "div", "exp", "gather", "matmul", "pow", "put", "reduce_prod", "scatter_add", "sqrt"}


@pytest.mark.parametrize("engine", ENGINES)
def test_both_engines(engine: str) -> None:
    """One program of every op with complex samples that has operands; of some of them on Numba, which takes long."""
    cases = [c for c in COMPLEX if c.dtype == np.complex64 and c.number == 0 and c.args]
    cases = [c for c in cases if engine == "llvm" or c.op.name in FEW]
    params = [[param(t) for t in c.types] for c in cases]
    outs = tuple(c.op(*ps, **c.attrs) for c, ps in zip(cases, params, strict=True))
    graph = Graph(tuple(itertools.chain(*params)), outs)
    found = ENGINES[engine](graph)(*[pairs(a) for c in cases for a in c.args])
    for c, y, v in zip(cases, found, outs, strict=True):
        close(numbers(y, v.dtype), c.result, rtol=2e-5, atol=2e-5, what=str(c))


# -- functions --------------------------------------------------------------------------------------------------------


def sampled(dtype: str, scale: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return ((rng.standard_normal(500) + 1j * rng.standard_normal(500)) * scale).astype(dtype)


def put_together(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    z = np.empty(a.shape, np.complex64 if a.dtype == np.float32 else np.complex128)
    z.real, z.imag = a, b
    return z


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 300.0, 1e10])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
@pytest.mark.parametrize("name", UNARY)
def test_accuracy(name: str, dtype: str, scale: float) -> None:
    """Within 8 units of the last place of the absolute value, beside NumPy in double precision."""
    z = sampled(dtype, scale)
    eps = np.finfo(dtype).eps
    with np.errstate(all="ignore"):
        want = NUMPY[name](z.astype("c16")).astype(dtype)
        got = put_together(*UNARY[name](z.real.copy(), z.imag.copy()))
    finite = np.isfinite(want)
    loose = 1e5 if name == "log1p" else 8 + 3 * scale * (name == "exp2")  # NumPy's log1p is not exact near 0
    assert not np.isfinite(got[~finite]).any()
    got, want = got[finite], want[finite]
    assert (np.abs(got - want) <= loose * eps * np.abs(want) + np.finfo(dtype).tiny).all()


@cache
def special() -> np.ndarray:
    values = [np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 1e-30, 80.0, -80.0]
    a, b = np.array(list(itertools.product(values, repeat=2))).T
    return put_together(a, b)


@pytest.mark.parametrize("name", UNARY)
def test_special_values(name: str) -> None:
    """Infinities, zeros of both signs and both sides of branch cuts; a nan may reach both parts."""
    z = special()
    with np.errstate(all="ignore"):
        want, (a, b) = NUMPY[name](z), UNARY[name](z.real.copy(), z.imag.copy())
    known = ~np.isnan(want)
    np.testing.assert_allclose(a[known], want.real[known], rtol=1e-12, atol=1e-29)
    np.testing.assert_allclose(b[known], want.imag[known], rtol=1e-12, atol=1e-29)
    assert (np.isnan(a) | np.isnan(b))[~known].all()


def test_division_does_not_overflow() -> None:
    x, y = (put_together(np.array(a), np.array(b)) for a, b in (([1e300, 1e-300, 3.0], [1e300, 1e-300, 4.0]),
                                                                  ([2e300, 1e-300, 1.0], [1e300, 2e-300, -2.0])))
    got = put_together(*div_((x.real, x.imag), (y.real, y.imag)))
    np.testing.assert_allclose(got, x / y, rtol=1e-15)
    zero = np.zeros(1)
    with np.errstate(all="ignore"):
        a, b = div_((np.ones(1), zero), (zero, zero))
    assert np.isinf(a) and np.isnan(b)


def test_powers() -> None:
    z, w = sampled("c16", 1.0), sampled("c16", 2.0)[::-1]
    got = put_together(*pow_((z.real.copy(), z.imag.copy()), (w.real.copy(), w.imag.copy())))
    np.testing.assert_allclose(got, z**w, rtol=1e-12)
    base, exponent = np.array([0, 0, 0, 2 + 1j]), np.array([2, 0, 1j, 0])
    with np.errstate(all="ignore"):
        got = put_together(*pow_((base.real.copy(), base.imag.copy()), (exponent.real.copy(), exponent.imag.copy())))
    np.testing.assert_array_equal(np.isnan(got), [False, False, True, False])
    np.testing.assert_array_equal(got[[0, 1, 3]], [0, 1, 1])


def test_whole_powers_are_products() -> None:
    graph = parse("""
        fn main(%z: c128[2]) {
          %y = pow %z, c128(-3.0+0.0j) : c128[2]
          return %y
        }""")
    assert not any(v.op is not None and v.op.name in ("exp", "log", "atan2") for v in real_graph(graph).nodes)
    z = np.array([1 + 2j, -0.5j])
    np.testing.assert_allclose(evaluated(graph, z)[0], z**-3.0, rtol=1e-15)


def test_product_of_many() -> None:
    """By halves where the number is known, else one after the other."""
    z = np.exp(1j * np.arange(11.0))
    graph = graph_of(lambda x: [complex.OPS["reduce_prod"](x, axes=(0,))], [type_of(z)])
    np.testing.assert_allclose(evaluated(graph, z)[0], np.prod(z), rtol=1e-14)
    a, b = (np.array([x]) for x in (3 - 1j, 0.5 + 2j))
    np.testing.assert_allclose(put_together(*mul_((a.real, a.imag), (b.real, b.imag))), a * b)


# -- regions ----------------------------------------------------------------------------------------------------------

REGIONS = {
    "for": """
        fn main(%z: c64[], %w: c64[3]) {
          %t = for %z, %w body=fn step(%c: c64[], %v: c64[3]) {
              %x = slice %v starts=(k) limits=(k+1) strides=(1) : c64[1]
              %y = reshape %x shape=() : c64[]
              %s = mul %c, %y : c64[]
              %u = add %s, c64(1.0+2.0j) : c64[]
              return %u
            } carried=1 index="k" trips=3 : i64[]
          %r = result %t dtype=c64 index=0 shape=() : c64[]
          return %r
        }""",
    "while": """
        fn main(%z: c64[], %w: c64[3]) {
          %t = while %z, %w body=fn step(%c: c64[], %v: c64[3]) {
              %s = reduce_sum %v axes=(0) : c64[]
              %u = mul %c, c64(1.5+0.5j) : c64[]
              %y = add %u, %s : c64[]
              return %y
            } carried=1 cond=fn more(%c: c64[], %v: c64[3]) {
              %m = modulus %c : f32[]
              %l = lt %m, f32(50.0) : bool[]
              return %l
            } : i64[]
          %r = result %t dtype=c64 index=0 shape=() : c64[]
          %n = result %t dtype=i64 index=1 shape=() : i64[]
          return %r, %n
        }""",
    "switch": """
        fn main(%z: c64[], %w: c64[3]) {
          %i = real %z : f32[]
          %k = cast %i dtype=i64 : i64[]
          %t = switch %k, %w, %z branches=(fn a(%v: c64[3], %c: c64[]) {
              %y = mul %v, %c : c64[3]
              return %y
            },fn b(%v: c64[3], %c: c64[]) {
              %y = exp %v : c64[3]
              return %y
            }) : i64[]
          %r = result %t dtype=c64 index=0 shape=(3) : c64[3]
          return %r
        }""",
}


@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize("name", REGIONS)
def test_regions(name: str, engine: str | None) -> None:
    graph = verify(parse(REGIONS[name]))
    for z in (0.5 + 2j, 1.5 - 1j):
        args = np.complex64(z), np.array([1 + 1j, 2, -0.5j], "c8")
        want = evaluate(graph, *map(np.asarray, args))
        if engine is None:
            got = evaluated(graph, *args)
        else:
            found = ENGINES[engine](graph)(*map(pairs, args))
            got = [numbers(y, v.dtype) for y, v in zip(found, graph.outs, strict=True)]
        for y, w in zip(got, want, strict=True):
            close(y, w, rtol=1e-5)


def test_an_op_without_a_form_in_real_numbers_is_refused_with_the_cure(monkeypatch) -> None:
    monkeypatch.delitem(complex.RULES, "conj")
    graph = parse("fn main(%x: c64[3]) {\n  %y = conj %x : c64[3]  # model.py:7\n  return %y\n}")
    with pytest.raises(CompileError, match=r"conj\(c64\[3\]\): .*tp.real.*\n  at model.py:7"):
        complex.run(graph)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16()])
def test_there_are_no_complex_numbers_of_halves(dtype) -> None:
    with pytest.raises(DTypeError, match="complex.*no complex numbers with parts of (f16|bf16); cast them to f32"):
        OPS["complex"](np.ones(2, dtype), np.ones(2, dtype))


def test_real_graphs_are_left_alone() -> None:
    graph = parse("fn main(%x: f32[3]) {\n  %y = exp %x : f32[3]\n  return %y\n}")
    assert complex.run(graph)[0] is graph


def test_optimised_graphs_are_real() -> None:
    graph = parse("fn main(%x: c64[3]) {\n  %y = exp %x : c64[3]\n  return %y\n}")
    assert not complex.has_complex(optimise(graph))
