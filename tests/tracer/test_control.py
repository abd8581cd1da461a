"""Loops and branches as functions: eager and staged they mean the same, errors name what is wrong, and where."""

import re
import threading

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.tracer.control import for_loop
from tests.tape_semantics.helpers import close, plain

C = tp.constant
F32, F64, I32 = np.float32, np.float64, np.int32


def sequence(x):
    """Squares until they reach 10."""
    return tp.while_loop(lambda x: x < 10.0, lambda x: x * x, x)


# -- while ------------------------------------------------------------------------------------------------------------


def test_while_loop(stage):
    f = stage(sequence)
    assert plain(f(C(1.5))) == 25.62890625
    assert plain(f(C(11.0))) == 11.0
    assert f(C(1.5)).dtype == tp.float32


def test_derivatives_of_a_while_loop(stage):
    close(plain(stage(tp.grad(sequence))(C(1.5))), 136.6875)
    close(plain(stage(tp.grad(tp.grad(sequence)))(C(1.5))), 637.875)
    close(plain(tp.grad(tp.grad(stage(sequence)))(C(1.5))), 637.875)
    close(plain(stage(lambda x: tp.jvp(sequence, (x,), (C(1.0),)))(C(1.5))), [25.62890625, 136.6875])


def test_examples_of_a_while_loop_end_one_by_one(stage):
    x = C([1.5, 2.0, 11.0, 3.0])
    close(plain(stage(tp.vmap(sequence))(x)), [25.62890625, 16.0, 11.0, 81.0])
    close(plain(stage(tp.vmap(tp.grad(sequence)))(x)), [136.6875, 32.0, 1.0, 108.0])


def test_structures_are_carried(stage):
    def collatz(n):
        def step(c):
            n = c["n"]
            return {"n": tp.where(n % 2 == 0, n // 2, 3 * n + 1), "counts": (c["counts"][0] + 1, None)}

        return tp.while_loop(lambda c: c["n"] != 1, step, {"n": n, "counts": (0, None)})

    assert plain(stage(collatz)(C(27))) == {"counts": [111, None], "n": 1}


def test_maximum_iterations(stage):
    f = lambda x, most: tp.while_loop(lambda x: x < 100.0, lambda x: x * 2, x, maximum_iterations=most)
    assert plain(stage(lambda x: f(x, 3))(C(1.0))) == 8.0
    assert plain(stage(lambda x: f(x, 30))(C(1.0))) == 128.0
    assert plain(stage(f)(C(1.0), C(4))) == 16.0
    assert plain(stage(lambda x: f(x, 0))(C(1.0))) == 1.0


def test_loops_in_loops_and_branches(stage):
    def f(x, n):
        def outer(i, s):
            inner = lambda s: tp.while_loop(lambda s: s < 10.0 * (i + 1), lambda s: s * x, s)
            return tp.cond(i % 2 == 0, lambda: inner(s), lambda: s - 1.0)

        return tp.fori_loop(0, n, outer, 1.0)

    def plainly(x, n):
        s = 1.0
        for i in range(n):
            if i % 2 == 0:
                while s < 10.0 * (i + 1):
                    s = s * x
            else:
                s = s - 1.0
        return s

    close(plain(stage(f)(C(1.5), C(5))), plainly(1.5, 5))
    h = 1e-6
    slope = (plainly(1.5 + h, 5) - plainly(1.5 - h, 5)) / (2 * h)
    close(plain(stage(tp.grad(f))(C(1.5), C(5))), slope)


# -- for --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(0, 5, 1), (5, 0, -1), (2, 11, 3), (11, 2, -4), (3, 3, 1), (5, 2, 1), (-3, 4, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_for_loop_counts_as_range_does(stage, bounds, known):
    f = lambda start, stop, step: for_loop(start, stop, step, lambda i, s, n: (s * 10 + i, n + 1), (0, 0))
    want = [0, 0]
    for i in range(*bounds):
        want = [want[0] * 10 + i, want[1] + 1]
    got = stage(lambda: f(*bounds))() if known else stage(f)(*(C(b) for b in bounds))
    assert plain(got) == want


def test_for_loop_over_an_open_extent():
    def f(x):
        n = x.shape[0]
        return for_loop(0, n, 1, lambda i, s: (for_loop(i + 1, n, 1, lambda j, s: (s + i * j,), (s,))[0],), (0.0,))[0]

    with tp.config(disable_jit=True):
        g = tp.tape_function(f, input_signature=[tp.TensorSpec((None,), tp.float32)])
        for n in (0, 1, 5):
            assert plain(g(np.zeros(n, F32))) == sum(i * j for i in range(n) for j in range(i + 1, n))
        assert g.trace_count == 1


def test_index_of_a_loop_is_a_place_in_an_array(stage):
    f = lambda x: tp.fori_loop(0, 3, lambda i, s: s * x[i] + x[2 - i], 1.0)
    assert plain(stage(f)(C([2.0, 3.0, 5.0]))) == ((2 + 5) * 3 + 3) * 5 + 2
    assert plain(stage(tp.grad(f))(C([2.0, 3.0, 5.0]))) == [15.0 + 1.0, 40.0, 15.0 + 24.0]


def test_a_bound_that_is_a_float(stage):
    with pytest.raises(TypeError, match=r"upper bound of fori_loop at .*test_control.py:\d+ is f32\[\].*tp.cast"):
        stage(lambda n: tp.fori_loop(0, n, lambda i, s: s, 0.0))(C(3.0))
    with pytest.raises(TypeError, match="start of a for loop .* is 'a', a str"):
        for_loop("a", 3, 1, lambda i, s: (s,), (0,))
    with pytest.raises(ValueError, match="step must not be 0"):
        stage(lambda x: for_loop(0, 3, 0, lambda i, s: (s,), (x,)))(C(1.0))
    with pytest.raises(ValueError, match=r"upper bound of fori_loop .* has shape \[2\]"):
        stage(lambda n: tp.fori_loop(0, n, lambda i, s: s, 0.0))(C([3, 4]))


# -- numbers take the dtype of what they meet -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
def test_numbers_leave_dtypes_alone(stage, dtype):
    f = lambda x: for_loop(0, 3, 1, lambda i, y, h: (y + i * 0.5 * h, h + 1), (x, 1))
    y, h = stage(f)(np.ones(2, dtype))
    assert y.dtype == dtype
    assert plain(y) == [5.0, 5.0]
    assert plain(h) == 4


def test_a_number_becomes_what_the_body_makes_of_it(stage):
    f = lambda x: tp.fori_loop(0, 3, lambda i, s: s + x, 0.1)
    y = stage(f)(np.float64(0.2))
    assert y.dtype == tp.float64
    assert abs(float(y) - 0.7) < 1e-15
    assert stage(lambda x: tp.fori_loop(0, 3, lambda i, s: s + 0.5, 0))(C(1.0)).dtype.kind == "f"
    assert stage(lambda x: tp.fori_loop(0, 3, lambda i, s: s + i, 0))(C(1.0)).dtype == tp.int64
    assert stage(lambda x: tp.cond(x > 0, lambda: 1.0, lambda: x))(np.float64(-1)).dtype == tp.float64


# -- scan, map, associative_scan --------------------------------------------------------------------------------------


def test_scan(stage):
    f = lambda v, xs: tp.scan(lambda a, x: (a * x * v,) * 2, 1.0, xs)
    last, ys = stage(f)(C(2.0), np.arange(1, 7).astype(F32))
    assert plain(ys) == [2, 8, 48, 384, 3840, 46080]
    assert plain(last) == 46080


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_of_structures(stage, reverse):
    def f(xs):
        step = lambda c, x: ({"s": c["s"] + x["a"] @ x["b"]}, (c["s"], [x["a"] * 2]))
        return tp.scan(step, {"s": np.float32(0)}, xs, reverse=reverse)

    a, b = np.arange(12, dtype=F32).reshape(4, 3), np.arange(12, dtype=F32).reshape(4, 3)[::-1] * 0.5
    dots = [float(p @ q) for p, q in zip(a, b, strict=True)]
    before = np.cumsum([0, *(dots[::-1] if reverse else dots)])
    last, (sums, (double,)) = stage(f)({"a": a, "b": b.copy()})
    assert float(last["s"]) == before[-1]
    assert plain(sums) == list(before[:4][::-1] if reverse else before[:4])
    np.testing.assert_array_equal(double, a * 2)


def test_scan_without_elements(stage):
    f = lambda xs: tp.scan(lambda c, x: (c + tp.sum(x), (c, x * 2)), 0.0, xs)
    last, (sums, double) = stage(f)(np.zeros((0, 3), F64))
    assert plain(last) == 0.0
    assert (last.dtype, sums.shape, sums.dtype, double.shape) == (tp.float64, (0,), tp.float64, (0, 3))
    assert stage(lambda xs: tp.map(lambda x: x * 2, xs))(np.zeros((0, 3), F32)).shape == (0, 3)


def test_scan_by_length(stage):
    f = lambda x: tp.scan(lambda c, _: (c * x, c), 1.0, length=4)
    assert plain(stage(f)(C(2.0))) == [16.0, [1.0, 2.0, 4.0, 8.0]]
    with pytest.raises(ValueError, match="xs is empty, so length"):
        tp.scan(lambda c, _: (c, c), 1.0)
    with pytest.raises(ValueError, match="extents differ: length has 4, xs has 3"):
        stage(lambda x: tp.scan(lambda c, y: (c, y), 1.0, x, length=4))(np.zeros(3))
    with pytest.raises(TypeError, match="known at run time only"):
        tp.tape_function(lambda n: tp.scan(lambda c, y: (c, c), 1.0, length=n))(C(3))


def test_derivatives_of_a_scan(stage):
    f = lambda x: tp.scan(lambda c, x: (c * x, c), 1.0, x)
    x = C([1.0, 2.0, 3.0])
    close(plain(stage(tp.jacobian(lambda x: f(x)[1]))(x)), [[0, 0, 0], [1, 0, 0], [2, 1, 0]])
    close(plain(stage(tp.jacobian(lambda x: f(x)[1], mode="reverse"))(x)), [[0, 0, 0], [1, 0, 0], [2, 1, 0]])
    close(plain(stage(tp.hessian(lambda x: f(x)[0]))(x)), [[0, 3, 2], [3, 0, 1], [2, 1, 0]])
    close(
        plain(stage(tp.vmap(tp.grad(lambda x: f(x)[0])))(C([[1.0, 2.0, 3.0], [0.0, 2.0, 5.0]]))),
        [[6, 3, 2], [10, 0, 0]],
    )


def test_map(stage):
    f = lambda p, xs: tp.map(lambda x: {"y": x["a"] * p, "i": x["i"] + 1}, xs)
    got = stage(f)(C(2.0), {"a": C([1.0, 2.0]), "i": C([5, 6])})
    assert plain(got) == {"y": [2.0, 4.0], "i": [6, 7]}
    total = lambda p, xs: tp.sum(tp.map(lambda x: x * x * p, xs))
    assert plain(stage(tp.grad(total, argnums=(0, 1)))(C(2.0), C([1.0, 2.0, 3.0]))) == [14.0, [4.0, 8.0, 12.0]]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7, 8, 13])
@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan(stage, n, reverse):
    x = np.random.default_rng(n).uniform(0.5, 1.5, (2, n, 3)).astype(F32)
    flipped = x[:, ::-1] if reverse else x
    want = np.cumprod(flipped, axis=1)
    f = lambda x: tp.associative_scan(tp.multiply, x, reverse=reverse, axis=1)
    np.testing.assert_allclose(stage(f)(x), want[:, ::-1] if reverse else want, rtol=1e-5)


def test_associative_scan_of_structures(stage):
    """A linear recurrence: h[k] = a[k] h[k - 1] + b[k]."""
    a, b = np.random.default_rng(0).normal(size=(2, 6))
    combine = lambda p, q: {"a": p["a"] * q["a"], "b": q["a"] * p["b"] + q["b"]}
    got = stage(lambda a, b: tp.associative_scan(combine, {"a": a, "b": b})["b"])(a, b)
    h, want = 0.0, []
    for k in range(6):
        h = a[k] * h + b[k]
        want.append(h)
    np.testing.assert_allclose(got, want)
    with pytest.raises(ValueError, match=r"returns \*, elems is \{'a': \*, 'b': \*\}"):
        tp.associative_scan(lambda p, q: p["a"], {"a": a, "b": b})


# -- branches ---------------------------------------------------------------------------------------------------------


def test_cond(stage):
    f = lambda x: tp.cond(x > 0.5, lambda: (2 * x, {"k": 1}), lambda: (3 * x, {"k": 0}))
    assert plain(stage(f)(C(1.0))) == [2.0, {"k": 1}]
    assert plain(stage(f)(C(0.0))) == [0.0, {"k": 0}]
    assert plain(stage(tp.grad(lambda x: f(x)[0]))(C(1.0))) == 2.0
    assert plain(stage(tp.grad(lambda x: f(x)[0]))(C(0.5))) == 3.0
    assert plain(stage(tp.vmap(lambda x: f(x)[0]))(C([1.0, 0.5]))) == [2.0, 1.5]


def test_only_one_branch_runs(stage):
    f = lambda x, k: tp.cond(tp.all(k < x.shape[0]), lambda: x[k], lambda: -1.0)
    assert plain(stage(f)(C([1.0, 2.0]), C(1))) == 2.0
    assert plain(stage(f)(C([1.0, 2.0]), C(7))) == -1.0


def test_switch(stage):
    f = lambda k, x: tp.switch(k, [lambda x: x, lambda x: x * x, lambda x: x * x * x], x)
    assert [plain(stage(f)(C(k), C(3.0))) for k in (-4, 0, 1, 2, 9)] == [3.0, 3.0, 9.0, 27.0, 27.0]
    assert plain(stage(lambda x: f(1, x))(C(3.0))) == 9.0
    assert plain(stage(lambda x: tp.grad(f, argnums=1)(C(2), x))(C(3.0))) == 27.0
    with pytest.raises(ValueError, match="has no branches"):
        tp.switch(0, [])
    with pytest.raises(TypeError, match=r"index of switch at .* is f32\[\]"):
        stage(f)(C(1.0), C(1.0))


def test_what_a_branch_stores_stays_in_its_result(stage):
    def f(x):
        def change(y):
            y[0] = 7.0
            return y

        return tp.cond(x[1] > 0, change, lambda y: y, x), x

    assert plain(stage(f)(C([1.0, 2.0]))) == [[7.0, 2.0], [1.0, 2.0]]
    g = lambda x: (tp.fori_loop(0, 2, lambda i, y: (y.__setitem__(i, 5.0), y)[1], x), x)
    assert plain(stage(g)(C([1.0, 2.0]))) == [[5.0, 5.0], [1.0, 2.0]]


# -- what is read and assigned from outside ---------------------------------------------------------------------------


def test_closed_over_values_have_gradients(stage):
    w = tp.Variable([1.0, 2.0], name="w")

    def f(a, b):
        scaled = a * 3.0
        return tp.sum(tp.while_loop(lambda y: tp.sum(y) < 50.0, lambda y: y * scaled + w * b, tp.zeros((2,))))

    def gradients(a, b):
        with tp.GradientTape() as tape:
            tape.watch((a, b))
            y = f(a, b)
        return y, tape.gradient(y, (a, b, w))

    def plainly(a, b, w):
        y = np.zeros(2)
        while y.sum() < 50.0:
            y = y * a * 3 + np.asarray(w) * b
        return y.sum()

    value, (da, db, dw) = stage(gradients)(C(0.5), C(1.5))
    close(plain(value), plainly(0.5, 1.5, [1, 2]))
    h = 1e-6
    close(plain(da), (plainly(0.5 + h, 1.5, [1, 2]) - plainly(0.5 - h, 1.5, [1, 2])) / (2 * h))
    close(plain(db), (plainly(0.5, 1.5 + h, [1, 2]) - plainly(0.5, 1.5 - h, [1, 2])) / (2 * h))
    close(plain(dw)[1], (plainly(0.5, 1.5, [1, 2 + h]) - plainly(0.5, 1.5, [1, 2 - h])) / (2 * h))


def test_a_watched_constant_in_a_body_has_a_gradient(stage):
    def f(x):
        c = C(3.0)
        with tp.GradientTape() as tape:
            tape.watch(c)
            y = tp.fori_loop(0, 2, lambda i, y: y * c, x)
        return tape.gradient(y, c)

    assert plain(stage(f)(C(2.0))) == 12.0


def test_variables_are_assigned_in_loops_and_branches(stage):
    count, total = tp.Variable(0, name="count"), tp.Variable(0.0, name="total")

    def f(x, n):
        def body(i, y):
            count.assign_add(1)
            tp.cond(i % 2 == 0, lambda: total.assign_add(y).read(), lambda: y)
            return y * x + total

        return tp.fori_loop(0, n, body, 1.0)

    y, s, k = 1.0, 0.0, 0
    for i in range(4):
        k += 1
        s += y if i % 2 == 0 else 0.0
        y = y * 2.0 + s
    assert plain(stage(f)(C(2.0), C(4))) == y
    assert (plain(count), plain(total)) == (k, s)


def test_training_in_a_loop(stage):
    w = tp.Variable(0.0, name="w")

    def train(x, n):
        def step(i, losses):
            with tp.GradientTape() as tape:
                loss = (w - x) ** 2
            w.assign_sub(0.25 * tape.gradient(loss, w))
            return losses + loss

        return tp.fori_loop(0, n, step, 0.0)

    assert plain(stage(train)(C(4.0), C(3))) == 16.0 + 4.0 + 1.0
    assert plain(w) == 3.5


def test_variables_that_the_condition_assigns():
    v = tp.Variable(0.0, name="v")
    f = lambda x: tp.while_loop(lambda x: v.assign_add(1.0) < 3.0, lambda x: x + v, x)
    with (
        tp.config(disable_jit=True),
        pytest.raises(RuntimeError, match="assigns the variable 'v'; assign it in the body"),
    ):
        tp.tape_function(f)(C(1.0))


def test_a_variable_made_in_a_body():
    f = lambda x: tp.fori_loop(0, 3, lambda i, y: y + tp.Variable(1.0), x)
    with pytest.raises(ValueError, match="body of fori_loop .* makes a new Variable at .*test_control.py"):
        tp.tape_function(f)(C(1.0))


def test_an_optimizer_that_is_first_used_in_a_loop():
    w = tp.Variable(np.ones(2), name="w")
    optimizer = tp.optim.Adam(0.1)

    @tp.tape_function
    def train(n):
        for _ in range(n):
            with tp.GradientTape() as tape:
                loss = tp.sum(w * w)
            optimizer.apply_gradients([(tape.gradient(loss, w), w)])

    with pytest.raises(ValueError, match=r"make variables before it; optimizer.build\(variables\)"):
        train(np.array(3))
    optimizer.build([w])
    train(np.array(3))
    assert np.all(w.numpy() < 0.8)


def test_an_outer_tensor_is_not_changed_by_a_body():
    def f(x):
        y = x + 1.0

        def body(i, s):
            y[0] = s
            return s

        return tp.fori_loop(0, 3, body, 0.0)

    with pytest.raises(TypeError, match="made outside of the body of fori_loop"):
        tp.tape_function(f)(C([1.0, 2.0]))


# -- mistakes ---------------------------------------------------------------------------------------------------------


HERE = r"test_control\.py:\d+"


def test_a_dtype_that_changes(stage):
    def f(x):
        body = lambda c: (tp.cast(c[0], tp.float64) * 2, c[1] + 1)
        return tp.while_loop(lambda c: c[1] < 3, body, (x, 0), names=("speed", "n"))

    with pytest.raises(TypeError) as e:
        stage(f)(C(1.0))
    assert re.search(
        rf"while_loop at .*{HERE}: 'speed' is f32\[\] before an iteration and f64\[\] after it", str(e.value)
    )
    assert re.search(rf"{HERE}\); what a loop carries keeps its type: use tp.cast\(..., tp.float32\)", str(e.value))


def test_a_shape_that_changes(stage):
    f = lambda x: tp.while_loop(
        lambda c: tp.sum(c["rows"]) < 9, lambda c: {"rows": tp.concatenate([c["rows"], c["rows"]])}, {"rows": x}
    )
    with pytest.raises(ValueError, match=r"the carry\['rows'\] is f32\[2\] before an iteration and f32\[4\] after it"):
        stage(f)(C([1.0, 1.0]))


def test_a_structure_that_changes(stage):
    with pytest.raises(ValueError, match=r"the carry is \* before an iteration and \(\*, \*\) after it .*<lambda> at"):
        stage(lambda x: tp.while_loop(lambda x: x < 3, lambda x: (x, x), x))(C(1.0))
    with pytest.raises(ValueError, match=r"must return a pair \(carry, y\), got \(\*, \*, \*\)"):
        stage(lambda x: tp.scan(lambda c, y: (c, c, y), 0.0, x))(C([1.0]))
    with pytest.raises(ValueError, match=r"scan at .*: the carry is \* before an iteration and \{'a': \*\} after it"):
        stage(lambda x: tp.scan(lambda c, y: ({"a": c}, y), 0.0, x))(C([1.0]))


def test_conditions_that_are_no_bool_scalar(stage):
    with pytest.raises(ValueError, match=rf"condition of while_loop at .*{HERE}.* has shape \[2\].*tp.any\(...\)"):
        stage(lambda x: tp.while_loop(lambda x: x < 3, lambda x: x, x))(C([1.0, 2.0]))
    with pytest.raises(TypeError, match=r"condition of while_loop .* is f32\[\].*no bool; compare it, as with x != 0"):
        stage(lambda x: tp.while_loop(lambda x: x, lambda x: x, x))(C(1.0))
    with pytest.raises(ValueError, match=r"condition of cond at .* has shape \[2\]"):
        stage(lambda x: tp.cond(x > 0, lambda: x, lambda: x))(C([1.0, 2.0]))
    with pytest.raises(TypeError, match="condition of cond at .* is None, a NoneType; it must be a bool scalar"):
        tp.cond(None, lambda: 1, lambda: 2)


def test_branches_that_differ():
    f = lambda true, false: tp.tape_function(lambda x: tp.cond(x > 0, lambda: true(x), lambda: false(x), names=("y",)))
    with pytest.raises(TypeError) as e:
        f(lambda x: (x,), lambda x: (tp.cast(x, tp.int32),))(C(1.0))
    assert re.search(
        rf"'y' is i32\[\] in the false branch \(made at .*{HERE}\) and f32\[\] in the true branch", str(e.value)
    )
    with pytest.raises(ValueError, match=r"'y' is f32\[2\] in the false branch .* and f32\[\] in the true branch"):
        f(lambda x: (x,), lambda x: (tp.stack([x, x]),))(C(1.0))
    with pytest.raises(ValueError, match=r"returns \(\*, \*\), the true branch .* returns \(\*,\); every branch"):
        f(lambda x: (x,), lambda x: (x, x))(C(1.0))


def test_what_cannot_be_carried(stage):
    with pytest.raises(TypeError, match="'name' is 'abc', a str; loops and branches carry tensors, numbers"):
        stage(lambda x: tp.while_loop(lambda c: c[1] < 3, lambda c: c, ("abc", x), names=("name", "x")))(C(1.0))
    with pytest.raises(TypeError, match="'name' after an iteration is 'abc', a str"):
        body = lambda c: ("abc", c[1] + 1)
        stage(lambda x: tp.while_loop(lambda c: c[1] < 3, body, (0, x), names=("name", "x")))(C(1.0))


def test_a_value_of_a_body_that_escapes():
    kept = threading.local()

    def f(x):
        tp.fori_loop(0, 3, lambda i, y: setattr(kept, "y", y) or y * 2, x)
        return kept.y + 1

    with pytest.raises(TypeError, match="which is over"):
        tp.tape_function(f)(C(1.0))


def test_a_memory_budget_bounds_what_a_reverse_pass_keeps():
    f = tp.grad(lambda x: tp.sum(tp.fori_loop(0, 10_000, lambda i, y: tp.sin(y * x), x)))
    x = np.linspace(0.5, 1.0, 50)
    plain_f, bounded = tp.tape_function(f), tp.tape_function(f, memory_budget=300_000)
    np.testing.assert_allclose(bounded(x), plain_f(x), rtol=1e-12)
    assert bounded.memory_report(x).peak <= 300_000 < plain_f.memory_report(x).peak
