"""What `explain_retrace` says of each trace but the first."""

import inspect

import numpy as np
import pytest

import tapefuse as tp

C, V = tp.constant, tp.Variable
F64 = np.float64


class Thing:
    pass


THINGS = Thing(), Thing()
SAME = V(1.0)

CASES = {
    "dtype": (C([1.0]), C([1.0], F64), "dtype", "f32[1] to f64[1]", "astype"),
    "shape": (C([[1.0, 2.0]]), C([[1.0, 2.0]] * 3), "shape", "f32[1,2] to f32[3,2]", "((None, 2), tp.float32)"),
    "one axis": (C([1.0]), C([1.0, 2.0]), "shape", "f32[1] to f32[2]", "((None,), tp.float32)"),
    "rank": (C([1.0]), C([[1.0]]), "rank", "f32[1] to f32[1,1]", "expand_dims"),
    "value": (1, 2, "value", "1 (int) to 2 (int)", "tp.constant(x)"),
    "type of a value": (1, 1.0, "type", "1 (int) to 1.0 (float)", "tp.constant(x)"),
    "number and tensor": (1.0, C(1.0), "type", "1.0 (float) to f32[]", "tensor"),
    "text": ("a", "b", "value", "'a' (str) to 'b' (str)", "a trace for each value"),
    "object": (*THINGS, "object", "another Thing object", "one object"),
    "length": ([C(1.0)], [C(1.0)] * 2, "structure", "[*] to [*, *]", "stack"),
    "list and tuple": ([C(1.0)], (C(1.0),), "structure", "[*] to (*,)", "tuple"),
    "None": (None, C(1.0), "structure", "None to *", "None"),
    "variables": (V(1.0), V([1.0]), "variable", "variable f32[] to variable f32[1]", "share"),
    "same variable": ([V(1.0), V(2.0)], [SAME, SAME], "aliasing", "variable", "same variable"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_changed(case):
    first, second, kind, text, cure = CASES[case]
    f = tp.tape_function(lambda x: tp.constant(1.0))
    f(first)
    assert not f.explain_retrace()
    f(second)
    line = inspect.currentframe().f_lineno - 1
    (why,) = f.explain_retrace().traces
    assert (why.number, why.since, why.loc.line, why.loc.file) == (2, 1, line, __file__)
    (change,) = why.changes
    assert (change.kind, change.argument[0]) == (kind, "x")
    assert text in str(why)
    assert cure in change.cure
    assert f"trace 2, called at {__file__}:{line}" in str(f.explain_retrace())


def test_the_nearest_trace_is_compared_with():
    @tp.tape_function
    def f(x, k=1):
        return x * k

    f(C([1.0]))
    f(C([1, 2]), 2)
    f(C([1.0]), k=3)
    f(C([1, 3]), 4)
    traces = f.explain_retrace().traces
    assert [(t.number, t.since, len(t.changes)) for t in traces] == [(2, 1, 2), (3, 1, 1), (4, 2, 1)]
    assert traces[1].changes[0].argument == "k"


def test_a_function_that_was_traced_once():
    f = tp.tape_function(lambda x: x)
    f(C(1.0))
    f(C(2.0))
    assert str(f.explain_retrace()) == "<lambda> was not traced again"


def test_a_storm_warns_with_the_cure():
    f = tp.tape_function(lambda x: x * 2)
    cure = r"(?s)TensorSpec.*Last reason: x changed.*explain_retrace\(\)"
    with pytest.warns(tp.PerformanceWarning, match=cure) as seen:
        for n in range(1, 12):
            f(C(np.ones(n, np.float32)))
    assert 1 <= len(seen) <= 2
    assert seen[0].filename == __file__
