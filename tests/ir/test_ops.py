"""The generic suite: each op on each of its samples and dtypes, against NumPy, finite differences and itself."""

from __future__ import annotations

import itertools
import warnings
from typing import NamedTuple

import numpy as np
import pytest

import tapefuse.ir.ops  # noqa: F401  (fills OPS)
from tapefuse.ir.graph import Value, param
from tapefuse.ir.op import OPS, Op
from tapefuse.ir.ops.paired import SUFFIX
from tapefuse.ir.passes.complex_functions import UNARY
from tapefuse.ir.types import Poly, Type, substitute, type_of
from tests.ir.numeric_builder import lower, lower_whole, symbolic
from tests.ir.rule_graphs import backwards, graph_of, run, vjp_graph

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

DTYPES = {"f": ("f8", "f4"), "c": ("c16", "c8"), "i": ("i8", "i4"), "u": ("u1",), "b": ("?",)}
HAS_NO_EMPTY_CASE = ("reduce_max", "reduce_min", "argmax", "argmin", "gather", "scatter_add", "add_at", "put_at")
RTOL = {"f8": 1e-13, "f4": 3e-6, "c16": 1e-13, "c8": 3e-6}
EXTENT, SIZES, N, BATCH = 7, {"N": 7}, Poly.symbol("N"), Poly.symbol("S")  # samples write 7 where a symbol may stand


class Case(NamedTuple):
    op: Op
    dtype: np.dtype
    number: int
    args: tuple
    attrs: dict

    @property
    def result(self):
        return self.op.ref(*self.args, **self.attrs)

    @property
    def types(self) -> list[Type]:
        return [type_of(a) for a in self.args]

    @property
    def symbolic_types(self) -> list[Type]:
        return [Type(t.dtype, symbolic(t.shape, EXTENT, N)) for t in self.types]

    @property
    def symbolic_attrs(self) -> dict:
        return {k: symbolic(v, EXTENT, N) for k, v in self.attrs.items()}

    def __str__(self) -> str:
        return f"{self.op.name}-{np.dtype(self.dtype).name}-{self.number}"


def cases(op: Op, dtype: np.dtype) -> list[Case]:
    found = [Case(op, dtype, k, *sample) for k, sample in enumerate(op.sample(np.random.default_rng(0), dtype))]
    for a in itertools.chain.from_iterable(c.args for c in found):
        a.flags.writeable = False  # a ref that writes to its operands raises
    return found


ALL = [c for op in OPS.values() for kind in op.dtypes for d in DTYPES[kind] for c in cases(op, np.dtype(d))]
FLOATS = [c for c in ALL if c.dtype in (np.float64, np.complex128) and c.op.vjp is not None and c.args]
FLOATS = [c for c in FLOATS if c.op.name != "gamma_path"]  # its derivatives are those of draws: tests/random
SMOOTH = [c for c in FLOATS if np.asarray(c.result).dtype.kind in "fc" and np.size(c.result)]


def unit(a, op: Op) -> np.ndarray:
    """The matrix with ones on the diagonal, for an operand of an op on matrices; numbers beside these as they are."""
    if a.ndim < 2:
        return np.zeros_like(a)
    if not op.name.endswith(SUFFIX):
        return np.eye(*a.shape[-2:], dtype=a.dtype)
    return np.stack([np.eye(*a.shape[-3:-1], dtype=a.dtype), np.zeros(a.shape[-3:-1], a.dtype)], -1)


def has_free_phases(case: Case) -> bool:
    """Whether nothing determines the phases of vectors: NumPy's turn as the algorithm makes them, tangents do not."""
    return case.op.name in ("eigh", "svd") and case.dtype.kind == "c"


def without_turns(case: Case, slope):
    """Tangents of a decomposition without what turns phases: the imaginary diagonal of v^H dv."""
    y, m = case.result, case.args[0].shape[-2]
    first, parts = (m + 1, [(0, m), (m + 1, None)]) if case.op.name == "svd" else (1, [(1, None)])
    turns = np.sum(np.conj(y[..., first:, :]) * slope[..., first:, :], axis=-2, keepdims=True).imag
    slope = slope.copy()
    for start, stop in parts:
        slope[..., start:stop, :] -= 1j * turns * y[..., start:stop, :]
    return slope


def has_symbol(case: Case) -> bool:
    return case.symbolic_types != case.types or case.symbolic_attrs != case.attrs


def each(found):
    return pytest.mark.parametrize("case", found, ids=str)


def close(got, want, rtol=None, atol=0.0, what=""):
    got, want = np.asarray(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape), what
    if want.dtype.kind in "fc":
        np.testing.assert_allclose(got, want, rtol or RTOL[want.dtype.str[1:]], atol, err_msg=what)
    else:
        np.testing.assert_array_equal(got, want, err_msg=what)


def is_float(x) -> bool:
    return np.asarray(x).dtype.kind in "fc"


def tangents(args, seed=1):
    rng = np.random.default_rng(seed)
    return [normal(rng, a).astype(a.dtype) if is_float(a) else None for a in args]


def normal(rng, like):
    x = rng.standard_normal(like.shape)
    return x + 1j * rng.standard_normal(like.shape) if np.asarray(like).dtype.kind == "c" else x


def wider(x):
    """In double precision."""
    return np.asarray(x, np.complex128 if np.asarray(x).dtype.kind == "c" else np.float64)


def is_single(x) -> bool:
    return np.asarray(x).dtype in (np.float32, np.complex64)


def moved(args, ts, e):
    return [a if t is None else a + e * t for a, t in zip(args, ts, strict=True)]


def dot(a, b) -> float:
    """The sum of the products of real parts and of imaginary parts."""
    return float(np.sum(np.conj(a) * np.asarray(b)).real)


# -- types, lowering --------------------------------------------------------------------------------------------------


def test_every_op_has_a_symbolic_sample():
    without = {c.op.name for c in ALL} - {c.op.name for c in ALL if has_symbol(c)}
    assert without == {"const"}


@each(ALL)
def test_type_rule_agrees_with_ref(case):
    assert case.op.type(*case.types, **case.attrs) == type_of(case.result)
    assert isinstance(case.result, (np.ndarray, np.generic))
    scalars = [a[()] for a in case.args]  # 0-d operands as NumPy scalars
    assert type_of(case.op.ref(*scalars, **case.attrs)) == type_of(case.result)


@each([c for c in ALL if has_symbol(c)])
def test_symbolic_type_rule(case):
    got = case.op.infer(*case.symbolic_types, **case.symbolic_attrs)
    assert got.substitute({"N": EXTENT}) == type_of(case.result)


@each([c for c in ALL if has_symbol(c) and c.dtype.kind in "fb"])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_symbolic_type_rule_for_other_sizes(case, n):
    types = [t.substitute({"N": n}) for t in case.symbolic_types]
    attrs = {k: substitute(v, {"N": n}) for k, v in case.symbolic_attrs.items()}
    if n == 0 and case.op.name in HAS_NO_EMPTY_CASE:
        return  # no value, or no index in range
    got = case.op.infer(*case.symbolic_types, **case.symbolic_attrs).substitute({"N": n})
    args = [np.zeros(t.shape, t.dtype) for t in types]
    if case.op.failure:  # of zeros
        args = [a + unit(a, case.op) for a in args]
    assert got == type_of(case.op.ref(*args, **attrs))


# Lowerings of functions of complex numbers are those of pairs (ir/passes/complex.py), those of library calls stand in
# tests/codegen/test_library.py.
@each([c for c in ALL if c.op.calls is None and not (c.dtype.kind == "c" and c.op.name in UNARY)])
def test_lowering_agrees_with_ref(case):
    atol = {"f4": 1e-5, "f8": 1e-14, "c8": 1e-5, "c16": 1e-14}.get(case.dtype.str[1:], 0)  # sums in another order
    close(lower(case.op, case.args, case.attrs, case.types, {}), case.result, atol=atol)
    got = lower(case.op, case.args, case.symbolic_attrs, case.symbolic_types, {"N": EXTENT})
    close(got, case.result, atol=atol, what="symbolic")


@each([c for c in ALL if c.dtype == np.float32])
def test_float32_is_close_to_float64(case):
    wide = [a.astype(np.float64) if is_float(a) else a for a in case.args]
    attrs = {k: np.dtype("f8") if v == np.dtype("f4") else v for k, v in case.attrs.items()}
    want = np.asarray(case.op.ref(*wide, **attrs))
    close(np.asarray(case.result).astype(want.dtype), want, rtol=1e-5, atol=1e-5)
    if case.op.vjp is not None and is_float(want):
        g = tangents([want])[0]
        for a, c, w in zip(case.args, *(_cotangents(case.op, g, xs, attrs) for xs in (case.args, wide)), strict=True):
            assert (c is None) == (w is None)
            if c is not None:
                assert type_of(c) == type_of(a)
                close(np.asarray(c, np.float64), np.asarray(w, np.float64), rtol=1e-4, atol=1e-4)


def _cotangents(op, g, xs, attrs):
    y = op.ref(*xs, **attrs)
    return op.vjp(g.astype(np.asarray(y).dtype), y, *xs, **attrs)


# -- derivatives ------------------------------------------------------------------------------------------------------


def slope_by_differences(f, args, ts, e=1e-6):
    up, down = f(*moved(args, ts, e)), f(*moved(args, ts, -e))
    return [(wider(u) - d) / (2 * e) for u, d in zip(up, down, strict=True)]


@each(SMOOTH)
def test_jvp_agrees_with_finite_differences(case):
    op, args, attrs, y = case.op, case.args, case.attrs, case.result
    ts = tangents(args)
    (want,) = slope_by_differences(lambda *xs: [op.ref(*xs, **attrs)], args, ts)
    if has_free_phases(case):
        want = without_turns(case, want)
    if op.name == "credit":  # whose derivative is that of its second operand
        want = wider(ts[1])
    got = op.jvp(ts, y, *args, **attrs)
    if got is None:
        assert op.name in ("stop_gradient", "nextafter") or not np.any(want)
    else:
        assert type_of(got) == type_of(y)
        tolerance = 2e-2 if is_single(y) else 2e-7
        close(wider(got), want, rtol=tolerance, atol=tolerance * 10 + (0.1 if tolerance > 1e-3 else 0))


@each([c for c in SMOOTH if len(c.args) > 1])
def test_jvp_is_the_sum_of_its_parts(case):
    """A tangent of None is a tangent of zeros, and one operand's tangent has the shape of the result too."""
    op, args, attrs, y = case.op, case.args, case.attrs, case.result
    ts = tangents(args)
    total = 0.0
    for k, t in enumerate(ts):
        part = op.jvp([t if j == k else None for j in range(len(ts))], y, *args, **attrs) if t is not None else None
        if part is not None:
            assert type_of(part) == type_of(y)
            total = total + part
    whole = op.jvp(ts, y, *args, **attrs)
    np.testing.assert_allclose(total, 0.0 if whole is None else whole, rtol=1e-12, atol=1e-12)


@each(SMOOTH)
def test_vjp_is_the_transpose_of_jvp(case):
    op, args, attrs, y = case.op, case.args, case.attrs, case.result
    ts = tangents(args)
    g = tangents([np.asarray(y)], seed=2)[0]
    cotangents = op.vjp(g, y, *args, **attrs)
    for a, c in zip(args, cotangents, strict=True):
        assert c is None or type_of(c) == type_of(a)
    slope = op.jvp(ts, y, *args, **attrs)
    by_vjp = sum(dot(t, c) for t, c in zip(ts, cotangents, strict=True) if c is not None)
    assert (slope is None) == all(c is None for c in cotangents)
    if slope is not None:
        np.testing.assert_allclose(dot(slope, g), by_vjp, rtol=1e-6 if is_single(y) else 1e-10, atol=1e-10)


@each([c for c in FLOATS if is_float(c.result) and not np.size(c.result)])
def test_derivatives_of_nothing(case):
    y = np.asarray(case.result)
    slope = case.op.jvp(tangents(case.args), y, *case.args, **case.attrs)
    assert slope is None or type_of(slope) == type_of(y)
    for a, c in zip(case.args, case.op.vjp(y, y, *case.args, **case.attrs), strict=True):
        assert c is None or type_of(c) == type_of(a)


@each([c for c in SMOOTH if any(a.ndim == 0 for a in c.args)])
def test_derivative_rules_take_python_numbers(case):
    g = tangents([np.asarray(case.result)], seed=2)[0]
    numbers = [a if a.ndim else a.item() for a in case.args]
    want = case.op.vjp(g, case.result, *case.args, **case.attrs)
    for c, w in zip(case.op.vjp(g, case.result, *numbers, **case.attrs), want, strict=True):
        assert (c is None) == (w is None)
        if w is not None:
            close(c, w)


@each([c for c in SMOOTH if any(x is not None for x in c.op.vjp(c.result, c.result, *c.args, **c.attrs))])
def test_second_derivatives(case):
    """The graph of the vjp, differentiated forwards and backwards, agrees with finite differences of the vjp."""
    if is_single(case.result):
        return  # finite differences say nothing in single precision
    op, attrs = case.op, case.attrs
    graph = vjp_graph(op, type_of(case.result), case.types, attrs)
    args = [np.asarray(a) for a in (tangents([np.asarray(case.result)], seed=3)[0], *case.args)]
    ts = tangents(args, seed=4)

    def eager(g, *xs):
        return [c for c in op.vjp(g, op.ref(*xs, **attrs), *xs, **attrs) if c is not None]

    value, slope = run(graph, *args, ts=ts)
    for out, want in zip(graph.outs, eager(*args), strict=True):
        close(value[out], want)
    cts = {}
    for k, (out, want) in enumerate(zip(graph.outs, slope_by_differences(eager, args, ts), strict=True)):
        got = np.zeros(out.shape, out.dtype) if slope[out] is None else slope[out]
        if not has_free_phases(case):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
        cts[out] = cts.get(out, 0) + normal(np.random.default_rng(k), want)
    forward = sum(dot(slope[out], c) for out, c in cts.items() if slope[out] is not None)
    cts = backwards(graph, value, dict(cts))
    backward = sum(dot(cts[p], t) for p, t in zip(graph.params, ts, strict=True) if t is not None and p in cts)
    np.testing.assert_allclose(backward, forward, rtol=1e-9, atol=1e-9)


@each([c for c in SMOOTH if has_symbol(c)])
def test_derivative_rules_on_symbolic_values(case):
    """vjp and jvp emitted for symbolic types give what they give on arrays."""
    op, args, attrs, y = case.op, case.args, case.attrs, np.asarray(case.result)
    g, ts = tangents([y], seed=2)[0], tangents(args)
    result = op.infer(*case.symbolic_types, **case.symbolic_attrs)

    def rules(g, *rest):
        xs, ts = rest[: len(args)], rest[len(args) :]
        y = op(*xs, **case.symbolic_attrs)
        pairs = iter(ts)
        slope = op.jvp([next(pairs) if is_float(a) else None for a in args], y, *xs, **case.symbolic_attrs)
        return [slope, *op.vjp(g, y, *xs, **case.symbolic_attrs)]

    floats = [(t, s) for t, s in zip(ts, case.symbolic_types, strict=True) if t is not None]
    graph = graph_of(rules, [result, *case.symbolic_types, *(s for _, s in floats)])
    value, _ = run(graph, g, *args, *(t for t, _ in floats), env=SIZES)
    want = [w for w in (op.jvp(ts, y, *args, **attrs), *op.vjp(g, y, *args, **attrs)) if w is not None]
    for out, w in zip(graph.outs, want, strict=True):
        close(value[out], w, rtol=1e-5 if is_single(w) else 1e-12, atol=1e-12)


# -- batching ---------------------------------------------------------------------------------------------------------


def variants(a, op, count=3):
    if op.failure:  # which must not fail
        return [a * a.dtype.type(1 + k / 8) for k in range(count)]
    step = 1 + 1j if a.dtype.kind == "c" else 1
    return [np.roll(a, k) + a.dtype.type(step * k / 100) if is_float(a) else np.roll(a, k) for k in range(count)]


def is_batched(case: Case) -> bool:
    return bool(case.args) and (
        case.dtype.name in ("float64", "float32", "complex128", "int64", "bool") or case.op.dtypes == "u"
    )


@each([c for c in ALL if is_batched(c)])
def test_batching_agrees_with_stacking(case):
    op, args, attrs = case.op, case.args, case.attrs
    for flags in itertools.product([False, True], repeat=len(args)):
        if not any(flags):
            continue
        rows = [variants(a, op) if f else [a] * 3 for a, f in zip(args, flags, strict=True)]
        want = np.stack([op.ref(*xs, **attrs) for xs in zip(*rows, strict=True)])
        batched = [np.stack(r) if f else r[0] for r, f in zip(rows, flags, strict=True)]
        rtol = 1e-5 if case.dtype == np.float32 else 1e-12
        close(op.batch(flags, *batched, **attrs), want, rtol, what=str(flags))
        if case.dtype in (np.float64, np.complex128, bool):
            pairs = zip(case.symbolic_types, flags, strict=True)
            types = [Type(t.dtype, (BATCH, *t.shape) if f else t.shape) for t, f in pairs]
            graph = graph_of(lambda *xs, f=flags: [op.batch(f, *xs, **case.symbolic_attrs)], types)
            close(run(graph, *batched, env=SIZES)[0][graph.outs[0]], want, rtol, what=f"symbolic {flags}")


# -- special values ---------------------------------------------------------------------------------------------------

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 1e-30, 80.0, -80.0, 1e12]
OTHER_OPERANDS = ("cast", "select", "from_f16", "from_bf16")
OF_SCALARS = [op for op in OPS.values() if op.elementwise and op.name not in OTHER_OPERANDS]
ELEMENTWISE = [op for op in OF_SCALARS if "f" in op.dtypes]


def special_attrs(op: Op) -> dict:
    return {"missing_gradient": {"name": "x"}, "polygamma": {"order": 1}}.get(op.name, {})


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_special_values(op, dtype):
    arity = len(op.sample(np.random.default_rng(0), np.dtype(dtype))[0][0])
    grid = np.array(list(itertools.product(SPECIAL, repeat=arity)), dtype).T
    attrs = special_attrs(op)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want = op.ref(*grid, **attrs)
    got = lower(op, tuple(grid), attrs, [type_of(a) for a in grid], {})
    close(got, want, rtol={"f4": 1e-6, "f8": 1e-13}[dtype], atol={"f4": 1e-38, "f8": 1e-300}[dtype])


def whole_range(dtype: np.dtype, count: int) -> np.ndarray:
    """About `count` numbers from all of a dtype, and their neighbours: powers, whole numbers and halves, both ends."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        ends = [info.min, info.min + 1, info.max - 1, info.max]
        return np.array([*ends, *range(max(info.min, -9), 10), *(k for k in (31, 32, 33, 63, 64, 65))], dtype)
    if dtype.kind == "c":
        a, b = np.meshgrid(*[whole_range(np.dtype("f8"), count // 30)] * 2)
        return np.stack([a.ravel(), b.ravel()], axis=-1).view(dtype)[:, 0]
    info = np.finfo(dtype)
    low, high = np.log2([float(info.smallest_subnormal), float(info.max)])
    powers = 2.0 ** np.linspace(low, high - 1e-3, count // 12)
    with np.errstate(all="ignore"):
        x = np.concatenate([powers, np.arange(count // 12) / 2, [info.tiny, info.max, np.inf]]).astype(dtype)
        around = [np.nextafter(x, dtype.type(end)) for end in (0, np.inf)]
    x = np.unique(np.concatenate([x, *around]))
    return np.concatenate([x, -x, [np.nan]]).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16", "i4", "i8", "u1", "u8"])
@pytest.mark.parametrize("op", OF_SCALARS, ids=lambda op: op.name)
def test_lowering_in_the_whole_range(op, dtype):
    """Within 2 units in the last place of NumPy's values; of one, where the value is a logarithm that is near 0."""
    if np.dtype(dtype).kind not in op.dtypes or dtype == "c16" and op.dtypes != "c":
        return
    arity = len(op.sample(np.random.default_rng(0), np.dtype(dtype))[0][0])
    x = whole_range(np.dtype(dtype), {1: 3000, 2: 120, 3: 40}[arity])
    grid = np.array(np.meshgrid(*[x] * arity)).reshape(arity, -1)
    if op.name == "pow" and grid.dtype.kind == "i":  # of which NumPy has no value
        grid = grid[:, grid[1] >= 0]
    want, got = op.ref(*grid, **special_attrs(op)), lower_whole(op, *grid, **special_attrs(op))
    unit = np.finfo(dtype).eps if np.dtype(dtype).kind in "fc" else 0
    close(got, want, 2 * unit or None, unit if op.name.startswith("logadd") else 0.0)
    if want.dtype.kind == "f" and not op.name.startswith("logadd"):
        np.testing.assert_array_equal(np.signbit(got)[want == 0], np.signbit(want)[want == 0])


REDUCING = [op for op in OPS.values() if op.name.startswith(("reduce", "arg")) and "f" in op.dtypes]


@pytest.mark.parametrize("op", REDUCING, ids=lambda op: op.name)
def test_reductions_of_special_values(op):
    inf, nan = np.inf, np.nan
    x = np.array([[1, nan, 5, nan], [inf, 2, inf, -1], [-inf, -inf, inf, 0], [3, 1, 3, 1], [-inf] * 4])
    attrs = {"axis": 1} if op.name.startswith("arg") else {"axes": (1,)}
    close(lower(op, (x,), attrs, [type_of(x)], {}), op.ref(x, **attrs))


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_odd_shapes(op):
    arity = len(op.sample(np.random.default_rng(0), np.dtype("f4"))[0][0])
    for shape in ((), (0,), (1,), (0, 3), (1, 1, 2), (2, 0, 1)):
        args = [np.ones(shape if k == 0 else shape[-1:], "f4") for k in range(arity)]
        y = op.ref(*args, **special_attrs(op))
        assert op.type(*map(type_of, args), **special_attrs(op)) == type_of(y)
        assert y.shape == shape


def test_rules_are_reached_through_values_and_arrays():
    x = param(Type(np.dtype("f4"), (N, 3)))
    assert isinstance(OPS["add"](x, 1), Value)
    assert OPS["add"](x, 1) is OPS["add"](x, 1)
    assert OPS["add"](1.5, x).type == x.type
    assert OPS["add"](np.ones(3, "f4"), 1).dtype == np.float32
