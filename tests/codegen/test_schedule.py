"""Which values share a kernel, in graphs whose intent is stated: groups are counted, and results compared elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen.choices import AS_MEASURED, AsMeasured, Drawn
from tapefuse.codegen.emit_program import program_text
from tapefuse.codegen.loops_text import show
from tapefuse.codegen.plan import Plan, Request, pieces, plan, show_memory, show_schedule
from tapefuse.compiler import request
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.program import State
from tapefuse.ir.types import Type
from tests import engines
from tests.programs import random_case


def value(text: str) -> Value:
    return param(Type.parse(text))


def planned(*outs: Value, inputs: tuple[Value, ...], **options) -> Plan:
    return plan(Request(Graph(inputs, outs), options.pop("n_inputs", len(inputs)), **options))


def kernels(p: Plan) -> list[str]:
    """What each kernel computes, partial results' totals left out."""
    return [s.kernel.title for s in p.steps if not s.rows_of]


def test_a_chain_of_elementwise_ops_is_one_flat_kernel():
    x, y = value("f32[7,5]"), value("f32[7,5]")
    p = planned(ops.mul(ops.exp(x), ops.tanh(y)), ops.exp(x), inputs=(x, y))
    assert len(p.steps) == 1
    assert {str(b.type) for b in p.steps[0].kernel.buffers} == {"f32[35]"}


class Sharing(AsMeasured):
    """The cost model, except that the fourth value placed shares a kernel which it has no operand in."""

    def decide(self, question: str, wanted: bool) -> bool:
        return wanted or question == "share 3"


def test_a_kernel_that_became_part_of_another_is_not_joined():
    x, y = value("f32[7,5]"), value("f32[7,5]")
    total = ops.add(ops.exp(x), ops.sin(y))
    p = planned(total, ops.mul(ops.cos(x), y), inputs=(x, y), choices=Sharing())
    assert len(p.steps) == 1


@pytest.mark.parametrize("choices", [AS_MEASURED, *map(Drawn, range(3))], ids=["as measured", "0", "1", "2"])
def test_random_programs_read_nothing_that_no_kernel_has_written(choices):
    for seed in range(250):  # planning checks it
        plan(replace(random_request(seed), choices=choices))


@cache
def random_request(seed: int) -> Request:
    return engines.request(gradient_graph(random_case(f"plans {seed}").graph))


def test_softmax_forward_and_its_gradient_are_one_kernel_each():
    x, g = value("f32[B,10]"), value("f32[B,10]")
    column = (*x.shape[:1], 1)
    e = ops.exp(ops.sub(x, ops.reshape(ops.reduce_max(x, axes=(1,)), shape=column)))
    y = ops.div(e, ops.reshape(ops.reduce_sum(e, axes=(1,)), shape=column))
    assert len(planned(y, inputs=(x,)).steps) == 1
    inner = ops.reshape(ops.reduce_sum(ops.mul(g, y), axes=(1,)), shape=column)
    assert len(planned(ops.mul(y, ops.sub(g, inner)), inputs=(x, g)).steps) == 1


def test_a_bias_gradient_is_a_sink_of_the_kernel_that_computes_its_operand():
    x, w = value("f32[32,8]"), value("f32[32,8]")
    d = ops.mul(x, ops.tanh(w))
    p = planned(d, ops.reduce_sum(d, axes=(0,)), ops.reduce_sum(d, axes=(0, 1)), inputs=(x, w))
    assert len(p.steps) == 1


def test_a_product_folds_transposes_of_its_left_operand_and_copies_the_right_one():
    a, b = value("f32[3,B]"), value("f32[5,3]")
    p = planned(ops.relu(ops.matmul(*(ops.transpose(x, perm=(1, 0)) for x in (a, b)))), inputs=(a, b))
    assert kernels(p) == ["transpose", "matmul, relu"]
    assert "= transposed b0[" in show_loops(p)


def test_a_product_of_blas_folds_both_transposes():
    a, b = value("f32[B,1024]"), value("f32[1024,1024]")
    p = planned(ops.matmul(a, ops.transpose(b, perm=(1, 0))), inputs=(a, b))
    assert kernels(p) == ["matmul"]
    assert "b1[].T" in show_loops(p)


def show_loops(p: Plan) -> str:
    return "\n".join(show(s.kernel) for s in p.steps)


def test_a_picked_element_of_each_row_fuses_with_the_row():
    x, labels = value("f32[B,10]"), value("i64[B]")
    rows = ops.iota.emit(shape=(x.shape[0],), axis=0, dtype=np.dtype(np.int64))
    p = planned(ops.gather(ops.exp(x), rows, labels), inputs=(x, labels))
    assert len(p.steps) == 1
    assert "scatter" not in {s.group.kind for s in p.steps}


def test_a_gather_of_a_parameter_reads_its_elements_only():
    x, i = value("f32[100,4]"), value("i64[3]")
    (step,) = planned(ops.gather(x, i), inputs=(x, i)).steps
    assert step.kernel.rows == 3 and step.group.shape == (3, 4)


def test_cheap_functions_of_kept_values_are_not_kept_as_well():
    x, w, g = value("f32[8,16]"), value("f32[16,4]"), value("f32[8,16]")
    h = ops.relu(x)
    y = ops.matmul(h, w)  # h must be in memory
    late = ops.select(ops.gt(h, 0.0), ops.mul(g, ops.reshape(ops.reduce_sum(y, axes=(1,)), shape=(8, 1))), 0.0)
    p = planned(y, late, inputs=(x, w, g))
    assert not any(place.type.dtype == bool for step in p.steps for place in step.places)


def test_an_operand_read_at_other_indices_gets_memory():
    x = value("f32[4,6]")
    e = ops.exp(x)
    p = planned(ops.add(e, ops.flip(e, axes=(0,))), inputs=(x,))
    assert len(p.steps) == 2
    assert "read at other indices" in show_schedule(p)


def test_update_in_place_only_when_nobody_reads_the_old_value_later():
    x, w = value("f32[4,4]"), value("f32[4,4]")
    state = (State(w.type, True),)
    new = ops.sub(w, ops.mul(x, 0.1))
    p = planned(ops.matmul(x, w), new, inputs=(x, w), n_inputs=1, states=state)
    assert [s.kernel.title for s in p.steps] == ["matmul", "sub"]  # the product reads the old value first
    shifted = ops.add(ops.flip(w, axes=(0,)), x)
    p = planned(shifted, inputs=(x, w), n_inputs=1, states=state)
    assert p.steps[-1].kernel.title == "copy"  # its own elements are read at other places


def test_equal_kernels_are_compiled_once():
    vs = [value("f32[64]") for _ in range(3)] + [value("f32[128]") for _ in range(3)]
    p = planned(*(ops.mul(ops.exp(v), 0.5) for v in vs), inputs=tuple(vs))
    text, _ = program_text(p)
    assert len(p.steps) == 6 and text.count("define internal void @k") == 1


@pytest.mark.parametrize("n", [1, 1000])
def test_small_work_is_never_cut(n):
    x = value(f"f32[{n}]")
    p = planned(ops.reduce_sum(ops.mul(x, x), axes=(0,)), inputs=(x,))
    assert [pieces(s) for s in p.steps] == [1]
    assert "numba_parallel_for" not in program_text(p)[1]


def test_large_sums_are_cut_by_size_alone():
    x = value("f64[50000000]")
    p = planned(ops.reduce_sum(ops.exp(x), axes=(0,)), inputs=(x,))
    assert len(p.steps) == 2 and pieces(p.steps[0]) == 16
    strict = planned(ops.reduce_sum(ops.exp(x), axes=(0,)), inputs=(x,), strict=True)
    assert len(strict.steps) == 1


def test_memory_is_reused_when_its_value_is_dead():
    x, w = value("f32[64,64]"), value("f32[64,64]")
    h = x
    for _ in range(6):
        h = ops.tanh(ops.matmul(h, w))
    p = planned(h, inputs=(x, w))
    assert p.layout.nbytes <= 3 * 64 * 64 * 4
    assert "alive" in show_memory(p)


def test_one_compiled_step_of_adam_touches_each_parameter_once():
    layer, optimizer = tp.nn.Dense(8, inputs=16), tp.optim.Adam()

    @tp.tape_function
    def step(x):
        with tp.GradientTape() as tape:
            loss = tp.mean(layer(x) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables, strict=True)
        )
        return loss

    x = np.ones((4, 16), np.float32)
    step(x)
    p = plan(request(step.specialise(tp.TensorSpec((4, 16), np.float32)).traced))
    states = range(p.request.inputs, p.request.inputs + len(p.request.states))
    updates = [s for s in p.steps if sum(p.pointer(place) in states for place in s.written) >= 3]
    assert len(updates) == 2  # kernel and bias: value, first and second moment in one pass each
    assert not any(s.kernel.title == "copy" for s in p.steps)
