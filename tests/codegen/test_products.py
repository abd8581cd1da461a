"""Products: our own contractions and BLAS, their operands as views, their epilogues, and how rows are cut."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen import contraction, contraction_llvm
from tapefuse.codegen.contraction import Registers, tile
from tapefuse.codegen.llvm_instructions import Declarations
from tapefuse.codegen.loops import INT, ZERO, Buffer, Contract, Num, Term, Var
from tapefuse.codegen.plan import Plan, Request, plan, show_schedule
from tapefuse.codegen.views import view
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.program import State
from tapefuse.ir.types import Type
from tapefuse.runtime.compile import compile_object

MACHINES = {"AVX-512": Registers(64, 32), "AVX2": Registers(32, 16), "SSE": Registers(16, 16)}
RTOL = {np.dtype("f4"): 1e-5, np.dtype("f8"): 1e-13}


def value(text: str) -> Value:
    return param(Type.parse(text))


def planned(*outs: Value, inputs: tuple[Value, ...], **options) -> Plan:
    return plan(Request(Graph(inputs, outs), len(inputs) - len(options.get("states", ())), **options))


def swapped(x: Value) -> Value:
    return ops.transpose(x, perm=(*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2))


# -- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_tile_fits_the_registers_and_never_reaches_past_the_columns(machine, itemsize):
    for rows, columns, add in itertools.product((0, 1, 7, 32), (None, 1, 2, 3, 5, 10, 16, 31, 64, 100), (False, True)):
        t = tile(rows, columns, itemsize, add, machine)
        assert t.rows * t.vectors + t.vectors + 1 <= machine.number
        assert t.lanes * itemsize <= machine.nbytes
        assert t.masked or t.columns <= columns
        assert t.masked or not add or columns % t.columns == 0  # what is added is added once


@pytest.fixture(scope="module")
def link():
    """LLVM text with a function @f -> its address."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    jit, kept = llvm.create_lljit_compiler(), []

    def linked(text: str) -> int:
        builder = llvm.JITLibraryBuilder().add_object_img(compile_object(text)).add_current_process()
        kept.append(builder.export_symbol("f").link(jit, f"test_products{len(kept)}"))
        return kept[-1]["f"]

    return linked


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("static, add, strict", [(True, False, False), (False, False, True), (True, True, False)])
def test_contractions_of_all_sizes_leave_what_is_around_the_result(
    link, monkeypatch, machine, dtype, static, add, strict
):
    monkeypatch.setattr(contraction, "registers", lambda: MACHINES[machine])
    rng, inner = np.random.default_rng(0), (3, 5)
    for m, n in [(1, 1), (7, 3), (8, 16), (9, 10), (33, 17), (5, 40)]:
        buffers = [Buffer(name, Type(np.dtype(dtype), (1,))) for name in "cab"]
        rows, columns = (Num(m, INT), Num(n, INT)) if static else (Var("m", INT), Var("n", INT))
        at, none = ((ZERO,),) * 3, Term(ZERO, ZERO, ZERO)
        needs = Declarations(strict)
        name = contraction_llvm.contraction(needs, Contract(*buffers, *at, rows, columns, ZERO, ZERO, (none,) * 2, add))
        given = ", ".join(["ptr %c, ptr %a, ptr %b", *(f"i64 %x{k}" for k in range(10))])
        text = f"define void @f({given}) {{\n  call void {name}({given})\n  ret void\n}}\n{needs.text()}"
        f = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 10)(link(text))
        a, b = rng.standard_normal((m, *inner)).astype(dtype), rng.standard_normal((*inner, n)).astype(dtype)
        around = rng.standard_normal((m + 2, n + 3)).astype(dtype)
        c, want = around.copy(), around.copy()
        want[1 : m + 1, 1 : n + 1] = np.tensordot(a, b, 2) + add * around[1 : m + 1, 1 : n + 1]
        terms = [(inner[0], inner[1], inner[1] * n), (inner[1], 1, n)]
        f(c[1:, 1:].ctypes.data, a.ctypes.data, b.ctypes.data, m, n, n + 3, 15, *itertools.chain(*terms))
        np.testing.assert_allclose(c, want, 1e-5, 1e-5, err_msg=f"{m} x {n}")


# -- views ------------------------------------------------------------------------------------------------------------


def test_heads_of_attention_are_views():
    x = value("f32[B,T,64]")
    heads = ops.transpose(ops.reshape(x, shape=(*x.shape[:2], 4, 16)), perm=(0, 2, 1, 3))
    t = x.shape[1]
    found = view(heads)
    assert found.base is x
    assert found.steps == (t * 64, 16, 64, 1)


def test_joining_axes_that_lie_apart_is_no_view():
    x = value("f32[3,4,5]")
    joined = ops.reshape(ops.transpose(x, perm=(1, 0, 2)), shape=(12, 5))
    assert view(joined).base is joined
    assert view(ops.reshape(x, shape=(12, 5))).steps == (5, 1)


def test_views_name_the_right_elements():
    rng = np.random.default_rng(3)
    for _ in range(200):
        x = value("f64[2,3,4]")
        v, array = x, np.arange(24.0).reshape(2, 3, 4)
        for _ in range(3):
            v, array = _random_view(rng, v, array)
        found = view(v)
        if found.base is x:
            index = np.indices(array.shape).reshape(array.ndim, -1)
            linear = found.offset + sum((i * s for i, s in zip(index, found.steps, strict=True)), start=np.int64(0))
            np.testing.assert_array_equal(np.broadcast_to(linear, array.size), array.ravel())


def _random_view(rng, v: Value, array: np.ndarray) -> tuple[Value, np.ndarray]:
    way = rng.integers(4)
    if way == 0:
        perm = tuple(map(int, rng.permutation(array.ndim)))
        return ops.transpose(v, perm=perm), array.transpose(perm)
    if way == 1:
        shape = ((array.size,), (1, array.size), (array.size // 2, 2) if array.size % 2 == 0 else (array.size, 1))
        chosen = shape[rng.integers(3)]
        return ops.reshape(v, shape=chosen), array.reshape(chosen)
    if way == 2:
        starts = tuple(int(rng.integers(n)) for n in array.shape)
        steps = tuple(int(rng.integers(1, 3)) for _ in array.shape)
        part = tuple(slice(a, None, s) for a, s in zip(starts, steps, strict=True))
        return ops.slice_(v, starts=starts, limits=array.shape, strides=steps), array[part]
    shape = (*array.shape, 2)
    return ops.broadcast(v, shape=shape, axes=tuple(range(array.ndim))), np.broadcast_to(array[..., None], shape)


# -- transposed copies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["llvm", "numba"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_transposed_copies(engine, dtype):
    def f(x, y):
        parts = tp.reshape(y, (y.shape[0], 3, 2, y.shape[2]))
        return (
            tp.transpose(x),
            tp.transpose(y, (0, 2, 1)),
            tp.transpose(y, (2, 0, 1)),
            tp.transpose(parts, (2, 0, 3, 1)),
        )

    rng = np.random.default_rng(8)
    for m, n in [(1, 1), (3, 40), (16, 16), (35, 50)] if engine == "llvm" else [(5, 4)]:
        x, y = rng.standard_normal((m, n)).astype(dtype), rng.standard_normal((m, 6, n)).astype(dtype)

        check(f, x, y, engine=engine, wanted=_transposes)


def _transposes(x, y):
    parts = y.reshape(y.shape[0], 3, 2, y.shape[2])
    return x.T, y.transpose(0, 2, 1), y.transpose(2, 0, 1), parts.transpose(2, 0, 3, 1)


# -- what joins a product's kernel ------------------------------------------------------------------------------------


def test_a_dense_layer_is_one_kernel_and_its_product_is_not_stored():
    x, w, c = value("f32[B,20]"), value("f32[20,10]"), value("f32[10]")
    p = planned(ops.relu(ops.add(ops.matmul(x, w), c)), inputs=(x, w, c))
    assert len(p.steps) == 1
    (written,) = (place for place in p.steps[0].written if not place.tag)
    assert written.value is p.outputs[0]
    assert "own contraction" in show_schedule(p)
    assert "then add, relu on each block of its rows" in show_schedule(p)


def test_row_reductions_and_column_sums_join_as_well():
    x, w = value("f32[32,20]"), value("f32[20,10]")
    y = ops.matmul(x, w)
    top = ops.reshape(ops.reduce_max(y, axes=(1,)), shape=(32, 1))
    p = planned(ops.exp(ops.sub(y, top)), ops.reduce_sum(y, axes=(0,)), inputs=(x, w))
    assert len(p.steps) == 1


def test_a_transposed_reader_does_not_join():
    x, w = value("f32[32,20]"), value("f32[20,10]")
    assert len(planned(ops.exp(swapped(ops.matmul(x, w))), inputs=(x, w)).steps) == 2


def test_an_update_joins_its_gradient_and_overwrites_the_state():
    x, g, w = value("f32[32,20]"), value("f32[32,10]"), value("f32[20,10]")
    new = ops.sub(w, ops.mul(ops.matmul(swapped(x), g), 0.1))
    p = planned(new, inputs=(x, g, w), states=(State(w.type, True),))
    assert len(p.steps) == 1
    assert {place.value for place in p.steps[0].written if not place.tag} == {w}


def test_a_state_that_its_own_product_reads_is_not_overwritten_block_by_block():
    x, w = value("f32[20,20]"), value("f32[20,20]")
    new = ops.sub(w, ops.mul(ops.matmul(x, w), 0.1))
    p = planned(new, inputs=(x, w), states=(State(w.type, True),))
    assert [s.kernel.title for s in p.steps][-1] == "copy"


def test_products_too_large_for_the_second_cache_are_blas_calls():
    x, w = value("f32[512,1024]"), value("f32[1024,1024]")
    assert "BLAS, its right operand of 4096 KB" in show_schedule(planned(ops.matmul(x, w), inputs=(x, w)))


# -- results ----------------------------------------------------------------------------------------------------------


def check(f, *arrays: np.ndarray, engine: str = "llvm", spec=None, wanted=None) -> None:
    """`f` on arrays compiled, against NumPy in double precision, with one thread and with two."""
    found = []
    for threads in (1, 2):
        compiled = tp.tape_function(f, engine=engine, threads=threads, input_signature=spec)
        found.append([np.asarray(y) for y in compiled(*arrays)])
    reference = wanted(*[a.astype("f8") for a in arrays])
    for y, again, want in zip(*found, reference, strict=True):
        np.testing.assert_array_equal(y, again, "one thread and two differ")
        rtol = RTOL[y.dtype] * max(float(np.abs(want).max(initial=0)), 1)
        np.testing.assert_allclose(y, want, RTOL[y.dtype], rtol)


def layers(x, w, g, b):
    """Products of all transposes with what training computes from them."""
    z = tp.matmul(x, w) + b
    h = tp.maximum(z, 0)
    e = tp.exp(z - tp.max(z, axis=1, keepdims=True))
    back = tp.where(x > 0, tp.matmul(g, tp.transpose(w)), 0)
    return h, e / tp.sum(e, axis=1, keepdims=True), back, tp.sum(back, axis=0), w - 0.1 * tp.matmul(tp.transpose(x), g)


def layers_numpy(x, w, g, b):
    z = x @ w + b
    e = np.exp(z - z.max(axis=1, keepdims=True, initial=-np.inf))
    back = np.where(x > 0, g @ w.T, 0)
    return np.maximum(z, 0), e / e.sum(axis=1, keepdims=True), back, back.sum(axis=0), w - 0.1 * x.T @ g


def layer_arrays(m: int, k: int, n: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(m + k + n)
    return [rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), (m, n), (n,))]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (33, 20, 10), (8, 3, 17), (0, 3, 2), (3, 0, 2), (65, 129, 40)])
def test_layers(m, k, n, dtype):
    check(layers, *layer_arrays(m, k, n, dtype), wanted=layers_numpy)


def test_layers_with_numba():
    check(layers, *layer_arrays(33, 20, 10, "f4"), engine="numba", wanted=layers_numpy)


def test_layers_cut_into_pieces():
    check(layers, *layer_arrays(203, 150, 140, "f8"), wanted=layers_numpy)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_any_number_of_rows_runs_one_program(engine):
    spec = [tp.TensorSpec(s, np.float32) for s in (("B", 20), (20, 10), ("B", 10), (10,))]
    compiled = tp.tape_function(layers, engine=engine, input_signature=spec)
    for m in (1, 8, 37, 200):
        arrays = layer_arrays(m, 20, 10, "f4")
        for y, want in zip(compiled(*arrays), layers_numpy(*[a.astype("f8") for a in arrays]), strict=True):
            np.testing.assert_allclose(y, want, 1e-5, 1e-4)
    assert compiled.trace_count == 1


def attention(q, k, v):
    """Heads of [b,t,h*d] arrays: products over strided operands."""
    b, t, width = q.shape
    q, k, v = (tp.transpose(tp.reshape(x, (b, t, 4, width // 4)), (0, 2, 1, 3)) for x in (q, k, v))
    s = tp.matmul(q, tp.transpose(k, (0, 1, 3, 2)))
    e = tp.exp(s - tp.max(s, axis=-1, keepdims=True))
    y = tp.matmul(e / tp.sum(e, axis=-1, keepdims=True), v)
    return (tp.reshape(tp.transpose(y, (0, 2, 1, 3)), (b, t, width)),)


def attention_numpy(q, k, v):
    b, t, width = q.shape
    q, k, v = (x.reshape(b, t, 4, width // 4).transpose(0, 2, 1, 3) for x in (q, k, v))
    s = q @ k.transpose(0, 1, 3, 2)
    e = np.exp(s - s.max(-1, keepdims=True))
    return ((e / e.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(b, t, width),)


@pytest.mark.parametrize("engine", ["llvm", "numba"])
def test_attention(engine):
    rng = np.random.default_rng(2)
    check(attention, *[rng.standard_normal((3, 10, 24)) for _ in "qkv"], engine=engine, wanted=attention_numpy)


def test_leading_axes_broadcast_and_operands_may_be_slices_and_literals():
    def f(a, b):
        return (
            tp.matmul(a[:, None], b[:, 1:, ::2]),
            tp.matmul(a[0, :1, :1] * 0 + 2.0, tp.ones((1, 1))),
            a @ b[0, 1:, :1],
        )

    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 5, 3)), rng.standard_normal((3, 4, 7))
    check(f, a, b, wanted=lambda a, b: (a[:, None] @ b[:, 1:, ::2], np.full((1, 1), 2.0), a @ b[0, 1:, :1]))


@pytest.mark.parametrize("strict", [False, True])
def test_a_training_step_updates_states_block_by_block(strict):
    """Adam on one layer: three states are overwritten in the kernel of the gradient's product."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((40, 30)), rng.standard_normal((40, 50))
    start = rng.standard_normal((30, 50))
    w = tp.Variable(start.copy())
    m, v = tp.Variable(np.zeros_like(start)), tp.Variable(np.zeros_like(start))

    @tp.tape_function(strict=strict)
    def step(x, y):
        g = tp.matmul(tp.transpose(x), tp.matmul(x, w) - y)
        m.assign(0.9 * m + 0.1 * g)
        v.assign(0.99 * v + 0.01 * g * g)
        w.assign(w - 0.01 * m / (tp.sqrt(v) + 1e-3))
        return tp.sum(g)

    ws, ms, vs = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for _ in range(3):
        g = x.T @ (x @ ws - y)
        ms, vs = 0.9 * ms + 0.1 * g, 0.99 * vs + 0.01 * g * g
        ws = ws - 0.01 * ms / (np.sqrt(vs) + 1e-3)
        np.testing.assert_allclose(step(x, y), g.sum(), 1e-9, 1e-9)
    np.testing.assert_allclose(w.numpy(), ws, 1e-10, 1e-10)
