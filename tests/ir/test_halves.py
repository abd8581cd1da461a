"""Operations on float16 and bfloat16: widened to float32, computed, rounded once; as bits in compiled code."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tapefuse.codegen.builder import Builder
from tapefuse.codegen.pipeline import stages
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.halves import EXACT, FLOAT16, bfloat16, is_half, kind_of, limits, of_ufunc, promoted, widened
from tapefuse.ir.interp import evaluate
from tapefuse.ir.op import OPS, Literal, Op, constant
from tapefuse.ir.parse import parse
from tapefuse.ir.passes.half import has_halves, with_bits
from tapefuse.ir.print import show
from tapefuse.ir.types import Poly, Type, has_derivatives, parse_dtype, show_dtype, type_of
from tapefuse.ir.verify import verify
from tests.engines import ENGINES, request
from tests.program_regions import mixed
from tests.programs import random_case

HALVES = {"f16": FLOAT16, "bf16": bfloat16()}
EVERY = np.arange(1 << 16, dtype=np.uint16)  # the bits of all halves
half = pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def bits(x) -> np.ndarray:
    """The bits of halves, with one nan for all; anything else as it is."""
    x = np.asarray(x)
    return np.where(x != x, 0xFFFF, x.view(np.uint16)) if is_half(x.dtype) else x


def same(got, want) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(bits(got), bits(want))


def close(got, want) -> None:
    """Equal but for one unit in the last place: float32 functions of two makes differ before they are rounded."""
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if is_half(want.dtype):
        info = limits(want.dtype)
        got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=float(info.eps) * 1.01, atol=float(info.smallest_subnormal))
    elif want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, want)


# -- what the dtypes are ----------------------------------------------------------------------------------------------


def test_names_and_kinds():
    for name, dtype in HALVES.items():
        assert show_dtype(dtype) == name and parse_dtype(name) is dtype
        assert kind_of(dtype) == "f" and is_half(dtype) and has_derivatives(dtype) and Type(dtype, ()).is_float
        assert widened(dtype) == np.float32
    assert not any(is_half(np.dtype(t)) for t in ("f4", "u2", "i2", "V2", "f8", "?"))
    assert kind_of(np.dtype("V2")) == "V"


@pytest.mark.parametrize(
    ("operands", "want"),
    [
        (("bf16", "f16"), "f32"),
        (("bf16", "f32"), "f32"),
        (("bf16", "f64"), "f64"),
        (("bf16", "i8"), "bf16"),
        (("bf16", "u8"), "bf16"),
        (("bf16", "bool"), "bf16"),
        (("bf16", "i16"), "f32"),
        (("bf16", "i32"), "f64"),
        (("bf16", 2.5), "bf16"),
        (("bf16", 2), "bf16"),
        (("f16", 2.5), "f16"),
        (("f16", "i8"), "f16"),
        (("f16", "i32"), "f64"),
        (("bf16", "bf16"), "bf16"),
    ],
)
def test_promotion(operands, want):
    values = [parse_dtype(x) if isinstance(x, str) else x for x in operands]
    assert show_dtype(promoted(*values)) == show_dtype(promoted(*values[::-1])) == want
    kinds = [x if isinstance(x, np.dtype) else type(x) for x in values]
    assert show_dtype(of_ufunc(np.add, kinds)[-1]) == want


@half
def test_text(dtype):
    rng = np.random.default_rng(0)
    x = param(Type(dtype, (Poly.symbol("B"), 3)), "x")
    nan = np.array([0x7FFF, 0x8000, 1, 0x7C01], np.uint16).view(dtype)
    y = ops.mul(ops.add(x, rng.standard_normal(3).astype(dtype)), constant(dtype.type(0.1)))
    graph = Graph((x,), (y, constant(nan), constant(np.array([1.5, -np.inf], dtype))), "main")
    again = verify(parse(show(graph)))
    assert show(again) == show(graph)
    for a, b in zip(again.outs[1:], graph.outs[1:], strict=True):
        assert a.attributes["value"] == b.attributes["value"]


# -- every op on arrays -----------------------------------------------------------------------------------------------

FLOAT_OPS = [op for op in OPS.values() if "f" in op.dtypes and not op.name.startswith(("to_", "from_"))]


def samples(op: Op, dtype: np.dtype) -> list[tuple[tuple, dict]]:
    """Good inputs whose first operand is of the half, or attribute `dtype`; none if the op has no such form."""
    if op.name == "complex":
        return []
    found = op.sample(np.random.default_rng(0), dtype)
    found = [(tuple(map(np.asarray, a)), k) for a, k in found if np.dtype(k.get("dtype")).kind != "c"]
    return [(a, k) for a, k in found if any(is_half(x.dtype) for x in a) or is_half(np.dtype(k.get("dtype")))]


def cases():
    for op in FLOAT_OPS:
        for name, dtype in HALVES.items():
            for number, (args, attrs) in enumerate(samples(op, dtype)):
                yield pytest.param(op, args, attrs, id=f"{op.name}-{name}-{number}")


CASES = list(cases())


def in_single(op: Op, args: tuple, attrs: dict) -> np.ndarray:
    """The operation on widened operands, rounded to the dtype that the type rule gives."""
    if op is ops.nextafter:
        return op.ref(*args)
    wide = [np.asarray(a).astype(np.float32) if is_half(np.asarray(a).dtype) else a for a in args]
    keeps = op.name == "cast"
    found = op.ref(*wide, **{k: widened(x) if isinstance(x, np.dtype) and not keeps else x for k, x in attrs.items()})
    return np.asarray(found).astype(op.type(*map(type_of, args), **attrs).dtype)


@pytest.mark.parametrize(("op", "args", "attrs"), CASES)
def test_values_are_those_in_float32_rounded(op, args, attrs):
    same(op(*args, **attrs), in_single(op, args, attrs))


@pytest.mark.parametrize(("op", "args", "attrs"), CASES)
def test_with_bits_keeps_every_value(op, args, attrs):
    graph = graph_of(op, args, attrs)
    lowered = verify(with_bits(graph))
    assert not has_halves(lowered)
    (want,) = evaluate(graph, *args)
    (got,) = evaluate(lowered, *[x.view(np.uint16) if is_half(x.dtype) else x for x in map(np.asarray, args)])
    same(got.view(want.dtype) if is_half(want.dtype) else got, want)


def graph_of(op: Op, args: tuple, attrs: dict) -> Graph:
    params = tuple(param(type_of(np.asarray(a)), f"x{k}") for k, a in enumerate(args))
    return Graph(params, (op.emit(*params, **attrs),), "main")


def test_most_operations_are_covered():
    covered = {p.values[0].name for p in CASES}
    assert covered >= EXACT - {"after", "const", "result"}
    assert len(covered) > 90


@pytest.mark.parametrize("op", [op for op in FLOAT_OPS if samples(op, FLOAT16)], ids=lambda op: op.name)
def test_compiled(op):
    """All samples of both halves in one program."""
    params, outs, arrays = [], [], []
    for dtype in HALVES.values():
        for args, attrs in samples(op, dtype):
            graph = graph_of(op, args, attrs)
            params += graph.params
            outs += graph.outs
            arrays += map(np.asarray, args)
    graph = Graph(tuple(params), tuple(outs), "main")
    for got, want in zip(ENGINES["llvm"](graph)(*arrays), evaluate(graph, *arrays), strict=True):
        close(got, want)


# -- conversions ------------------------------------------------------------------------------------------------------


@cache
def hard(dtype: str) -> np.ndarray:
    """Halfway cases and their neighbours, subnormals, overflows, infinities, nan."""
    rng = np.random.default_rng(1)
    whole = [EVERY.view(d).astype(np.float64) for d in HALVES.values()]
    middle = [(a[:-1] + a[1:]) / 2 for a in whole]
    x = np.concatenate([*whole, *middle, rng.standard_normal(1000) * 10.0 ** rng.integers(-48, 42, 1000)])
    y = x.astype(dtype)
    around = [np.nextafter(y, np.array(s, dtype)) for s in (np.inf, -np.inf)]
    return np.concatenate([y, *around, np.array([np.nan, -np.nan, 65519.99, 65520, 1e300, -1e300], dtype)])


@pytest.fixture(params=["instructions", "integers"])
def converting(request, monkeypatch):
    """With the machine's instructions for float16 and without."""
    if request.param == "integers":
        monkeypatch.setattr(Builder, "converts_halves", False)


@pytest.mark.parametrize("engine", ENGINES)
@half
def test_every_half_is_widened(engine, dtype, converting):
    x = param(Type(dtype, (EVERY.size,)), "x")
    run = ENGINES[engine](Graph((x,), (ops.cast(x, dtype=np.dtype("f4")), ops.cast(x, dtype=np.dtype("f8"))), "main"))
    for got in run(EVERY.view(dtype)):
        want = EVERY.view(dtype).astype(got.dtype)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("source", ["f4", "f8"])
@half
def test_rounding(engine, source, dtype, converting):
    values = hard(source)
    x = param(Type(np.dtype(source), values.shape), "x")
    (got,) = ENGINES[engine](Graph((x,), (ops.cast(x, dtype=dtype),), "main"))(values)
    same(got, values.astype(dtype))
    assert np.isnan(got[values != values].astype("f4")).all()


def test_nan_keeps_its_payload_in_float16(converting):
    values = np.array([0x7FC02000, 0xFFC12345], np.uint32).view(np.float32)
    x = param(Type(np.dtype("f4"), (2,)), "x")
    (got,) = ENGINES["llvm"](Graph((x,), (ops.cast(x, dtype=FLOAT16),), "main"))(values)
    np.testing.assert_array_equal(got.view(np.uint16), [0x7E01, 0xFE09])


INTEGERS = ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]
NUMBERS = [parse_dtype(name) for name in ["bool", *INTEGERS, "f16", "bf16", "f32", "f64"]]


@pytest.mark.parametrize("engine", ENGINES)
@half
def test_casts_of_every_pair(engine, dtype):
    """To and from every dtype; from floats to integers within their range, beyond which NumPy says nothing."""
    rng = np.random.default_rng(2)
    wide = np.array([0, 1, 2, 255, 257, 2049, 65519, 65520, 2**24 + 1, 2**31 - 1, 2**40 + 2**32 + 1, -1, -300])
    params, outs, arrays = [], [], []
    for other in NUMBERS:
        given = wide.astype(other) if kind_of(other) != "f" else (rng.standard_normal(40) * 50).astype(other)
        small = np.abs(rng.standard_normal(40) * 20).astype(dtype)
        for source, target, array in ((other, dtype, given), (dtype, other, small)):
            params.append(param(Type(source, array.shape)))
            outs.append(ops.cast(params[-1], dtype=target))
            arrays.append(array)
    found = ENGINES[engine](Graph(tuple(params), tuple(outs), "main"))(*arrays)
    for x, got, out in zip(arrays, found, outs, strict=True):
        same(got, x.astype(out.dtype))


# -- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@half
def test_each_operation_is_rounded(engine, dtype):
    """Also where all of them are one kernel: (x + 1) - x is not 1 where x is large."""
    x = param(Type(dtype, (Poly.symbol("B"),)), "x")
    y = ops.sub(ops.add(x, 1.0), x)
    run = ENGINES[engine](Graph((x,), (y, ops.mul(ops.exp(x), 0.1), ops.maximum(ops.neg(x), x)), "main"))
    for n in (2, 8, 100):
        values = np.linspace(-9000, 9000, n).astype(dtype)
        got = run(values)
        one = dtype.type(1)
        same(got[0], values + one - values)
        same(got[2], np.maximum(-values, values))


@pytest.mark.parametrize("engine", ENGINES)
@half
def test_sums_and_products_are_rounded_once(engine, dtype):
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-8, 9, s).astype(dtype) for s in ((65, 300), (300, 33)))
    x, y = param(Type(dtype, a.shape), "x"), param(Type(dtype, b.shape), "y")
    outs = ops.matmul(x, y), ops.reduce_sum(x, axes=(1,)), ops.cumsum(x, axis=1, reverse=False)
    got = ENGINES[engine](Graph((x, y), outs, "main"))(a, b)
    single = a.astype("f4"), b.astype("f4")  # all sums are whole numbers below 2**24: exact
    same(got[0], (single[0] @ single[1]).astype(dtype))
    same(got[1], single[0].sum(1).astype(dtype))
    same(got[2], single[0].cumsum(1).astype(dtype))


@half
def test_nothing_of_width_four_is_kept(dtype):
    """A chain of elementwise operations is one kernel, whose memory is that of halves."""
    x = param(Type(dtype, (1000,)), "x")
    y = ops.mul(ops.tanh(ops.add(x, x)), x)
    texts = stages(request(Graph((x,), (y,), "main")))
    assert texts["memory"]().startswith("arena: 0 bytes")
    assert "f32[" not in texts["loops"]()


def of_halves(graph: Graph) -> Graph:
    """A random program with bfloat16 for float32 and float16 for float64."""
    return parse(show(graph).replace("f32", "bf16").replace("f64", "f16"))


@pytest.mark.parametrize("part", range(8))
def test_random_programs_as_bits(part):
    """Loops and branches among them; every fourth one is compiled, too."""
    checked = 0
    for seed in range(12 * part, 12 * part + 12):
        case = random_case(seed, 2, 10, mixed) if seed % 2 else random_case(seed)
        if any(v.dtype.kind == "c" for v in case.graph.nodes):
            continue
        graph = verify(of_halves(case.graph))
        pairs = zip(case.arrays(0, case.bindings[0]), graph.params, strict=True)
        arrays = [np.asarray(a).astype(p.dtype) for a, p in pairs]
        wants = evaluate(graph, *arrays)
        stored = [a.view(np.uint16) if is_half(a.dtype) else a for a in arrays]
        for got, want in zip(evaluate(verify(with_bits(graph)), *stored), wants, strict=True):
            same(got.view(want.dtype) if is_half(want.dtype) else got, want)
        if seed % 4 == 3:
            for got, want in zip(ENGINES["llvm"](graph)(*arrays), wants, strict=True):
                assert (got.dtype, got.shape) == (want.dtype, want.shape)
                wide = got.astype(np.float64), want.astype(np.float64)
                assert got.size == 0 or np.isclose(*wide, rtol=0.03, atol=0.01, equal_nan=True).mean() > 0.9
        checked += 1
    assert checked > 6


@pytest.mark.parametrize("engine", ENGINES)
@half
def test_neighbours(engine, dtype):
    values = EVERY.view(dtype)
    targets = np.roll(values, 12345)
    x = param(Type(dtype, values.shape), "x")
    y = param(Type(dtype, values.shape), "y")
    (got,) = ENGINES[engine](Graph((x, y), (ops.nextafter(x, y),), "main"))(values, targets)
    same(got, np.nextafter(values, targets))
    same(ops.nextafter(values, targets), got)


def test_literals_keep_their_bits():
    value = np.array([0x7E55, 0x0001], np.uint16).view(FLOAT16)
    graph = with_bits(Graph((), (OPS["const"].emit(value=Literal(value)),), "main"))
    np.testing.assert_array_equal(evaluate(graph)[0], [0x7E55, 0x0001])
