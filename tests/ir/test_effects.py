"""Ops of which no sample says enough: checks, prints, recordings, the user's own rules, and what rules make of them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from tapefuse._errors import DTypeError, ParseError, ShapeError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.interp import evaluate
from tapefuse.ir.ops.effects import DONE, error_class, error_name, has_effects, printing
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.passes.batching import batched_graph
from tapefuse.ir.passes.forward import jvp_graph
from tapefuse.ir.types import Poly, Type
from tests.ir.numeric_builder import lower

F64, BOOL = np.dtype("f8"), np.dtype(bool)
NO = {"error": "ValueError", "arguments": ("no",), "where": ""}


def of(x) -> Type:
    return Type(np.asarray(x).dtype, np.shape(x))


# -- require, having --------------------------------------------------------------------------------------------------


def test_a_condition_that_fails_raises_what_it_says():
    with pytest.raises(ValueError, match="^no") as caught:
        ops.require(np.array([True, False]), **{**NO, "where": "model.py:3"})
    assert any("model.py:3" in note for note in caught.value.__notes__)
    with pytest.raises(ZeroDivisionError):
        ops.require(np.array(False), **{**NO, "error": "ZeroDivisionError"})


def test_conditions_that_hold_are_passed_on():
    for ok in (np.array(True), np.ones((2, 3), bool), np.ones((0, 2), bool)):
        got = ops.require(ok, **NO)
        assert got.dtype == BOOL and got.shape == ok.shape and got.all()
        assert ops.require.type(of(ok), **NO) == of(ok)
        assert ops.require.batch([True], ok, **NO).shape == ok.shape
        np.testing.assert_array_equal(lower(ops.require, (ok,), NO, [of(ok)], {}), ok)
    assert ops.require.vjp(None, ok, ok, **NO) == [None]
    assert ops.require.jvp([None], ok, ok, **NO) is None
    with pytest.raises(DTypeError, match="a condition is bool"):
        ops.require.type(Type(F64, ()), **NO)


class Local(Exception):
    pass


def test_names_of_exceptions():
    class Inner(Exception):
        pass

    class ValueError(Exception):  # another of the name
        pass

    assert error_name(KeyError) == "KeyError" and error_class("KeyError") is KeyError
    assert error_name(Local) == f"{__name__}:Local"
    names = [error_name(e) for e in (Local, Inner, ValueError, Inner)]
    assert [error_class(n) for n in names] == [Local, Inner, ValueError, Inner]
    assert names[1] == names[3]
    other = type("Inner", (Exception,), {"__module__": __name__, "__qualname__": Inner.__qualname__})
    assert error_class(error_name(other)) is other and error_name(other) != names[1]
    for unknown in ("NoError", "no.such.module:Error", f"{__name__}:NoError"):
        with pytest.raises(ParseError, match="import the module"):
            error_class(unknown)


# -- debug_print ------------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """Shows what was printed before the last flush."""

    shown = ""

    def flush(self):
        self.shown = self.getvalue()


def printed(*xs, texts, where="model.py:3"):
    with contextlib.redirect_stdout(Screen()) as out:
        y = ops.debug_print.ref(*xs, texts=texts, where=where)
    assert of(y) == DONE and y
    return out.shown


def test_texts_and_operands_are_printed_in_their_order():
    attrs = {"texts": ("x =", None, None, "!"), "where": "model.py:3"}
    x, k = np.array([1.5, 2.0]), np.array(3)
    assert printed(x, k, **attrs) == "model.py:3: x = [1.5 2. ] 3 !\n"
    assert ops.debug_print.type(of(x), of(k), **attrs) == DONE
    assert ops.debug_print.vjp(None, True, x, k, **attrs) == [None, None]
    assert ops.debug_print.jvp([x, None], True, x, k, **attrs) is None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        y = ops.debug_print.batch([True, False], x, k, **attrs)
    assert out.getvalue() == "model.py:3: x = [1.5 2. ] 3 !\n"  # once for all examples
    assert of(y) == Type(BOOL, (2,)) and y.all()
    assert lower(ops.debug_print, (x, k), attrs, [of(x), of(k)], {}) == np.array(True)


def test_effects_are_found_inside_of_regions_too():
    x, c = param(Type(F64, ()), "x"), param(Type(F64, ()), "c")
    quiet = Graph((x,), (ops.add(x, 1.0),))
    shown = ops.having(c, ops.debug_print.emit(c, texts=(None,), where="here"))
    loud = Graph((c,), (shown,))
    index = ops.cast(ops.gt(x, 0.0), dtype=np.dtype("i8"))
    branches = (Graph((c,), (ops.neg(c),)), loud)
    both = Graph((x,), ops.switch.emit_results(index, x, branches=branches))
    assert [has_effects(g) for g in (quiet, loud, both)] == [False, True, True]
    assert [printing(g) is not None for g in (quiet, loud, both)] == [False, True, True]
    checked = Graph((x,), (ops.having(x, ops.require.emit(ops.gt(x, 0.0), **NO)),))
    assert has_effects(checked) and printing(checked) is None


# -- ruled ------------------------------------------------------------------------------------------------------------


def rule(build, *types) -> Graph:
    params = tuple(param(t) for t in types)
    return Graph(params, tuple(build(*params)), "rule")


def ruled_program(forward: bool) -> Graph:
    """y = sin(a) b, whose derivatives are said to be 2 b g and a g, and 3 da + e db forwards."""
    t = Type(F64, (3,))
    a, b, e = (param(t, name) for name in "abe")
    pull = rule(lambda g, kept_a, kept_b: [ops.mul(ops.mul(g, kept_b), 2.0), ops.mul(g, kept_a)], t, t, t)
    push = rule(lambda da, db, kept_e: [ops.add(ops.mul(da, 3.0), ops.mul(db, kept_e))], t, t, t)
    y = ops.mul(ops.sin(a), b)
    if forward:
        attrs = {"rules": (pull, push), "given": (0, 1), "inputs": 2, "kept": 2}
        return Graph((a, b, e), (ops.ruled.emit(y, a, b, a, b, e, **attrs),))
    return Graph((a, b, e), (ops.ruled.emit(y, a, b, a, b, rules=(pull,), given=(0, 1), inputs=2, kept=2),))


ROWS = [np.array(r) for r in ([1.0, 2.0, 3.0], [0.5, -1.0, 2.0], [7.0, 8.0, 9.0])]


@pytest.mark.parametrize("forward", [False, True])
def test_derivatives_are_those_of_the_rules(forward):
    program, (a, b, e) = ruled_program(forward), ROWS
    np.testing.assert_array_equal(evaluate(program, a, b, e)[0], np.sin(a) * b)
    g = np.array([1.0, 10.0, 100.0])
    da, db, de = evaluate(gradient_graph(program), a, b, e, g)[1:]
    np.testing.assert_array_equal([da, db], [2 * b * g, a * g])
    assert not de.any()
    slope = evaluate(jvp_graph(program), a, b, e, g, 2 * g, e)[1]
    np.testing.assert_allclose(slope, 3 * g + e * 2 * g if forward else 2 * b * g + a * 2 * g, rtol=1e-15)


@pytest.mark.parametrize("forward", [False, True])
def test_batches_have_batched_rules(forward):
    program, (a, b, e) = ruled_program(forward), ROWS
    many = np.stack([a, a + 1])
    rows = batched_graph(program, [True, False, False], 2)
    np.testing.assert_array_equal(evaluate(rows, many, b, e)[0], np.sin(many) * b)
    g = np.ones((2, 3))
    da = evaluate(gradient_graph(rows), many, b, e, g)[1]
    np.testing.assert_array_equal(da, np.stack([2 * b, 2 * b]))


def test_a_rule_of_other_types_is_an_error():
    t, u = Type(F64, (3,)), Type(F64, (2,))
    y, x = param(t), param(t)
    for pull in (rule(lambda g: [g], u), rule(lambda g: [ops.reduce_sum(g, axes=(0,))], t), rule(lambda g: [g, g], t)):
        with pytest.raises(ShapeError, match="the rule takes a cotangent and gives others of"):
            ops.ruled.emit(y, x, rules=(pull,), given=(0,), inputs=1, kept=0)
    narrow = param(u)
    right = rule(lambda g: [ops.slice_(g, starts=(0,), limits=(2,), strides=(1,))], t)
    attrs = {"rules": (right,), "given": (1,), "inputs": 2, "kept": 0}
    z = ops.ruled.emit(y, x, narrow, **attrs)
    assert z.type == t
    values = np.arange(3.0), np.ones(3), np.ones(2)
    np.testing.assert_array_equal(lower(ops.ruled, values, attrs, [t, t, u], {}), values[0])


# -- invertible -------------------------------------------------------------------------------------------------------


def test_an_invertible_step_passes_on_what_belongs_to_its_result():
    t, u, w = Type(F64, (3,)), Type(F64, (2, 3)), Type(F64, ())
    back = rule(lambda y0, y1, k: [ops.div(y0, k), ops.sub(y1, k)], t, u, w)  # of y0 = x0 k, y1 = x1 + k
    x0, x1, k = np.arange(3.0), np.ones((2, 3)), np.array(2.0)
    operands = x0 * k, x1 + k, x0, x1, k
    for number in (0, 1):
        attrs = {"inverse": back, "count": 2, "number": number}
        y = ops.invertible.emit(*(param(of(x)) for x in operands), **attrs)
        assert y.type == (t, u)[number]
        np.testing.assert_array_equal(ops.invertible.ref(*operands, **attrs), operands[number])
        np.testing.assert_array_equal(lower(ops.invertible, operands, attrs, [t, u, t, u, w], {}), operands[number])
        g = np.full(y.shape, 5.0)
        found = ops.invertible.vjp(g, operands[number], *operands, **attrs)
        assert [c is g for c in found] == [n == number for n in range(5)]
        ts = [np.array(float(n)) for n in range(5)]
        assert ops.invertible.jvp(ts, operands[number], *operands, **attrs) is ts[number]
        flags = [True, False, False, True, False]
        rows = [np.stack([x, x + 1]) if f else x for x, f in zip(operands, flags, strict=True)]
        want = rows[number] if flags[number] else np.stack([operands[number]] * 2)
        np.testing.assert_array_equal(ops.invertible.batch(flags, *rows, **attrs), want)


def test_an_inverse_of_other_types_is_an_error():
    t, u = Type(F64, (3,)), Type(F64, (2,))
    y0, y1, x0, x1 = (param(s) for s in (t, u, t, u))
    swapped = rule(lambda a, b: [b, a], t, u)
    short = rule(lambda a: [a], t)
    for inverse, count in ((swapped, 2), (short, 2), (short, 1)):
        with pytest.raises(ShapeError, match="the inverse of a step takes and gives"):
            ops.invertible.emit(y0, y1, x0, x1, inverse=inverse, count=count, number=0)
    assert ops.invertible.emit(y0, x0, inverse=short, count=1, number=0).type == t
    kept = rule(lambda a, k: [a], t, u)
    assert ops.invertible.emit(y0, x0, y1, inverse=kept, count=1, number=0).type == t


# -- recording --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1.0, 20.0])
def test_stacks_of_a_recording_begin_with_the_operand_they_name(start):
    """While x < 10, x doubles; the stack of all x, the first one too, and that of those after it."""
    row, n = Type(F64, (1, 2)), Poly.symbol("n")
    cond = rule(lambda x: [ops.lt(ops.reduce_max(x, axes=(0, 1)), 10.0)], row)
    body = rule(lambda x: [ops.mul(x, 2.0), ops.mul(x, 2.0), ops.mul(x, 2.0)], row)
    stacks = Type(F64, (n + 1, 2)), Type(F64, (n, 2))
    then = rule(lambda a, b, x: [*(ops.reduce_sum(s, axes=(0,)) for s in (a, b)), x], *stacks, row)
    x = param(row)
    attrs = {"cond": cond, "body": body, "then": then, "carries": 1, "first": (0, -1), "symbol": "n"}
    found = evaluate(Graph((x,), ops.recording.emit_results(x, **attrs)), np.array([[start, -start]]))
    rows = [2.0, 4.0, 8.0, 16.0] if start == 1 else []
    want = [start + sum(rows), sum(rows), (rows or [start])[-1]]
    assert [y.ravel().tolist() for y in found] == [[v, -v] for v in want]
