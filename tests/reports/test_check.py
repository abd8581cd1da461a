"""`fn.check`: what is wrong with a call, and where."""

import re

import numpy as np

import tapefuse as tp
from tapefuse.ir.op import OPS
from tapefuse.reports import check as module

C = tp.constant
HERE = r"test_check\.py:\d+"


def test_nothing_found():
    v = tp.Variable(2.0)

    @tp.tape_function
    def f(x, n):
        v.assign_add(1.0)
        return tp.sum(tp.exp(-x) * v), tp.fori_loop(0, n, lambda i, y: y * 0.5 + x[i], 1.0)

    x = np.array([0.5, 1.0, 2.0], np.float32)
    report = f.check(x, C(3))
    assert report.ok
    assert str(report) == "f: nothing found"
    assert v.numpy() == 2.0
    assert f(x, C(3), mode="check").ok
    assert v.numpy() == 2.0


def test_a_parameter_that_is_called_mode():
    f = tp.tape_function(lambda x, mode: x * (2 if mode == "check" else 3))
    assert f(C(1.0), mode="check").numpy() == 2.0


def test_the_first_value_that_is_not_finite():
    f = tp.tape_function(lambda x: tp.sqrt(x) + tp.log(x))
    report = f.check(np.array([1.0, 0.0], np.float32))
    assert not report.ok
    assert re.search(rf"not finite: log at .*{HERE} gives -inf at \[1\] of f32\[2\] from finite operands", str(report))
    assert "parameter x has nan at [0] of f32[1]" in str(f.check(np.array([np.nan], np.float32)))


def test_the_first_value_that_is_not_finite_in_a_loop():
    f = tp.tape_function(lambda x: tp.fori_loop(0, 9, lambda i, y: y * y, x))
    assert re.search(rf"not finite: mul at .*{HERE} gives inf of f32\[\]", str(f.check(C(1e3))))


def test_a_derivative_at_a_kink():
    f = tp.tape_function(lambda x: tp.sum(tp.abs(tp.sin(x))))
    report = f.check(np.array([0.0, 1.0], np.float32))
    assert report.ok  # 0 lies between both slopes, and so does the central difference
    g = tp.tape_function(lambda x: tp.sum(tp.round(x * 10.0) * x))
    report = g.check(np.array([0.05 + 1e-9], np.float64))
    assert re.search(rf"derivative: by parameter x it is .*; the first difference is in round at .*{HERE}", str(report))


def test_a_compiled_value_that_differs(monkeypatch):
    f = tp.tape_function(lambda x: tp.tanh(x) * 2.0)
    right = module._compiled

    def wrong(graph, arrays, options):
        spoilt = [
            v.op is OPS["tanh"] or (v.op is not None and OPS["tanh"] in [a.op for a in v.args]) for v in graph.outs
        ]
        return [y + 0.5 if s else y for y, s in zip(right(graph, arrays, options), spoilt, strict=True)]

    monkeypatch.setattr(module, "_compiled", wrong)
    report = f.check(C([0.0]))
    assert re.search(
        rf"divergence: tanh at .*{HERE} is 0.5 compiled and 0.0 interpreted at \[0\] of f32\[1\]", str(report)
    )


def test_what_is_not_looked_at():
    f = tp.tape_function(lambda x: (tp.debug_print(x), x * 2)[1])
    assert re.search(rf"not looked at: compiled values, since .*{HERE} prints", str(f.check(C(1.0))))


def test_memory_that_a_loop_fills_is_no_finding():
    @tp.tape_function
    def slope(x):
        def squared(x):
            while x < 10:
                x = x * x
            return x

        return tp.grad(squared)(x)

    assert slope.check(tp.constant(np.float64(1.5))).ok


def test_rows_that_shorter_inner_loops_do_not_write_are_no_finding():
    @tp.tape_function
    def gradient(x, n):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = x
            for _ in range(n):
                for i in range(len(x)):
                    for j in range(i + 1, len(x)):
                        d = y[i] - y[j]
                        if d * d > 0.3:
                            continue
                        y[i] += 0.1 * d * tp.sqrt(abs(d))
            total = tp.sum(y)
        return tape.gradient(total, x)

    assert gradient.check(np.random.default_rng(0).random(6), 4).ok
