"""Python's control flow in traced functions: the same meaning on Python's values, loops and branches on traced ones."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
import warnings
from types import FunctionType

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.tracer.rewriting import functions, rewritten
from tests.staged_programs import program

C = tp.constant


@pytest.fixture
def interpreted():
    with tp.config(disable_jit=True):
        yield


def staged(f, *args):
    y = tp.tape_function(f)(*args)
    return [v.tolist() for v in y] if isinstance(y, (tuple, list)) else y.tolist()


# -- the same meaning as in Python ------------------------------------------------------------------------------------


def outcome(f, args, log):
    log.clear()
    try:
        return f(*args), list(log)
    except Exception as error:
        return type(error).__name__, list(log)


@pytest.mark.parametrize("block", range(4))
def test_python_values_keep_their_meaning(block):
    @contextlib.contextmanager
    def manager(log):
        log("enter")
        yield
        log("exit")

    for seed in range(50 * block, 50 * block + 50):
        log = []
        f, text = program(seed, pure=False, log=log.append, manager=manager)
        for args in ((1, 2, 3), (0, -4, 7)):
            assert outcome(rewritten(f), args, log) == outcome(f, args, log), text


@pytest.mark.parametrize("block", range(4))
def test_traced_values_give_the_same(interpreted, block):
    for seed in range(10 * block, 10 * block + 10):
        f, text = program(seed, pure=True)
        compiled = tp.tape_function(f)
        for args in ((1, 2, 3), (0, -4, 7), (5, 5, -2)):
            assert compiled(*map(C, args)).item() == f(*args), text


def test_closures_are_shared():
    count = 0

    def f(n):
        nonlocal count
        for _ in range(n):
            count += 1
        return count

    g = rewritten(f)
    assert g is not f and g(2) == 2 and count == 2
    count = 10
    assert g(1) == 11 and f(1) == 12


def test_globals_are_live():
    source, scope = "def f(n):\n    global total\n    if n:\n        total = n\n    return total\n", {"total": 1}
    f = from_text(source, scope)
    g = rewritten(f)
    assert g is not f and g(0) == 1 and g(5) == 5 and scope["total"] == 5


def from_text(source, scope):
    import linecache

    linecache.cache["<from_text>"] = (len(source), None, source.splitlines(True), "<from_text>")
    exec(compile(source, "<from_text>", "exec"), scope)
    return scope["f"]


class Base:
    def scaled(self, x):
        return x * 2


class Model(Base):
    def __init__(self):
        self.__secret = 3.0
        self.count = 0

    def scaled(self, x, times=1, *, more=0):
        if times > 0:
            return super().scaled(x) * self.__secret + more
        return x

    @tp.tape_function
    def run(self, x, n):
        for _ in range(n):
            if x < 100:
                x = self.scaled(x, more=1)
            self.count = self.count + 1
        return x, self.count

    @staticmethod
    def clipped(x):
        return x if x < 1 else 1.0

    @classmethod
    def build(cls, x):
        return cls.clipped(x) if x > 0 else -x


def test_methods(interpreted):
    model = Model()
    assert rewritten(model.scaled)(1.0, more=2) == 8.0
    x, count = model.run(C(1.0), C(5))
    assert (x.item(), count.item()) == (259.0, 5)
    assert staged(Model.build, C(3.0)) == 1.0


def test_defaults_decorators_and_partials(interpreted):
    def twice(f):
        @functools.wraps(f)
        def wrapper(*args, **kwargs):
            return f(f(*args, **kwargs))

        return wrapper

    @twice
    def g(x, k=3.0):
        return x * k if x > 0 else x

    assert staged(functools.partial(lambda k, x: g(x, k=k), 2.0), C(1.0)) == 6.0


def test_generators_and_comprehensions_are_left_alone(interpreted):
    def numbers(n):
        for k in range(n):
            if k % 2:
                yield k

    assert rewritten(numbers) is numbers

    def f(x):
        for k in numbers(6):
            x = x + k
        return x + sum([k * x for k in range(3) if k > 0])

    assert staged(f, C(1.0)) == 40.0


def test_recursion(interpreted):
    def power(x, n):
        if n == 0:
            return x * 0 + 1
        return x * power(x, n - 1)

    assert staged(lambda x: power(x, 5), C(2.0)) == 32.0


def test_walrus_match_with_and_try(interpreted):
    def f(x, mode):
        with contextlib.suppress(KeyError):
            if (n := len(mode)) > 2:
                raise KeyError(mode)
            x = x * n
        match mode:
            case "ab":
                x = x + 1 if x > 0 else x
            case str() as other:
                x = x + len(other)
        try:
            if x > 3:
                return x
        finally:
            x = x * 100
        return -x

    assert tp.tape_function(f)(C(2.0), "ab").item() == 5.0
    assert tp.tape_function(f)(C(0.5), "abc").item() == 3.5
    assert tp.tape_function(f)(C(0.5), "a").item() == -150.0


def test_walrus_in_the_condition_of_a_loop(interpreted):
    """It is evaluated before each iteration, and iterations and what follows read what it binds last."""

    def f(x):
        while (y := x * x + 0.5) < 10:
            x = y + 1
        return x, y

    def first_negative(x, n):
        k = 0
        while (k := k + 1) < n:
            if x[k] < -1:
                break
            if x[k] < 0:
                continue
            x[0] += x[k]
        else:
            x[0] *= 2
        return x[0], k

    def nested(x, n):
        total = 0.0
        for k in range(n):
            t = x[k]
            while (u := t * t + 0.5) < 4:
                t = u
            total = total + u
        return total

    for fn, args in (
        (f, [np.float64(0.5)]),
        (first_negative, [np.array([1.0, 2.0, -0.5, 4.0, -2.0, 3.0]), np.array(4)]),
        (first_negative, [np.array([1.0, 2.0, -0.5, 4.0, -2.0, 3.0]), np.array(6)]),
        (nested, [np.array([1.0, 2.0, 0.5]), np.array(3)]),
    ):
        expected = fn(*[x.copy() for x in args])
        np.testing.assert_allclose(tp.tape_function(fn)(*args), expected, rtol=1e-12)


def test_an_endless_loop_binds_what_its_first_iteration_binds(interpreted):
    def f(x, n):
        total = 0.0
        for k in range(n):
            t = x[k]
            while True:
                u = t * t + 0.5
                if u > 4:
                    break
                t = u
            total = total + u
        return total

    x = np.array([1.0, 2.0, 0.5])
    np.testing.assert_allclose(tp.tape_function(f)(x, np.array(3)), f(x, 3), rtol=1e-12)


def test_a_lambda_of_several_in_one_line(interpreted):
    fs = [lambda x: x if x > 0 else -x, lambda x: x * 2 if x > 0 else x * 3]
    assert [staged(f, C(-2.0)) for f in fs] == [2.0, -6.0]


class Slopes:
    both = tuple([lambda x, k=k: k * x if x > 0 else x for k in (2, 3)])


EACH = {k: lambda x, k=k: k * x if x > 0 else x for k in (2, 3)}


@pytest.mark.parametrize("fs", [Slopes.both, [*EACH.values()]], ids=["in a class", "in a module"])
def test_lambdas_of_a_comprehension(interpreted, fs):
    assert [staged(f, C(5.0)) for f in fs] == [10.0, 15.0]


def test_what_has_no_control_flow_is_left_alone():
    def f(x):
        return np.sin(x) + tp.exp(x)

    assert rewritten(f) is f
    assert rewritten(len) is len
    assert rewritten(np.sin) is np.sin


def test_as_written(interpreted):
    @tp.as_written
    def f(x):
        return x if x > 0 else -x

    with pytest.raises(tp.ConcretizationError, match="tp.cond"):
        staged(lambda x: f(x) + 1, C(1.0))


def test_without_source():
    scope = {}
    exec("def f(x):\n    return x if x > 0 else -x\n", scope)
    with pytest.raises(tp.ConcretizationError, match="source of 'f' is not available.*save it in a file, or use"):
        tp.tape_function(scope["f"])(C(1.0))


def test_tracebacks_and_names():
    def f(x):
        for _ in range(3):
            if x:
                x = x / 0  # here
        return x

    try:
        rewritten(f)(1)
    except ZeroDivisionError as error:
        mine = [entry for entry in traceback.extract_tb(error.__traceback__) if entry.filename == __file__]
    assert mine[-1].line == "x = x / 0  # here"
    assert {entry.name for entry in mine[1:]} == {"f"}
    assert [entry.line for entry in mine[1:-1]] == ["for _ in range(3):", "if x:"]


def test_rewriting_is_quick():
    def make():
        functions._made.clear()
        start = time.perf_counter()
        functions._make(program)
        return time.perf_counter() - start

    assert min(make() for _ in range(5)) < 0.02


# -- on traced values -------------------------------------------------------------------------------------------------


def test_a_function_that_writes_to_outer_variables(interpreted):
    def f(x, n):
        total = x * 0

        def add(v):
            nonlocal total
            if v > 1:
                total = total + v

        for i in range(n):
            add(x * i)
        return total

    assert staged(f, C(1.0), C(4)) == 5.0


def test_item_assignment(interpreted):
    def f(x, n):
        y = tp.zeros((4,))
        rows = [x * 0, x]
        for i in range(n):
            y[i] = x * i
            rows[0] = rows[0] + 1
        if x > 0:
            y[0] = 7.0
        return y, rows[0]

    assert staged(f, C(2.0), C(3)) == [[7.0, 2.0, 4.0, 0.0], 3.0]


def test_variables(interpreted):
    v = tp.Variable(1.0)

    def f(n):
        for _ in range(n):
            v.assign_add(1.0)
        if v > 3:
            v.assign(v * 10)
        return v

    assert staged(f, C(3)) == 40.0 and v.numpy() == 40.0
    assert staged(lambda: 1.0 if v else 2.0) == 1.0


def test_symbolic_extents(interpreted):
    spec = tp.TensorSpec(("B",))

    @tp.tape_function(input_signature=[spec, spec])
    def f(x, y):
        s = 0.0
        for k, (a, b) in enumerate(zip(x, y, strict=True)):
            s = s + a * b * k
        for k in range(len(x)):
            s = s + x[k]
        return s

    for n in (0, 1, 5):
        x = np.arange(n, dtype=np.float32)
        assert f(x, x + 1).item() == sum(a * (a + 1) * k + a for k, a in enumerate(x))


def test_numbers_are_weak(interpreted):
    def f(x, n):
        t, steps = 0.0, 0
        for i in range(n):
            t = t + 0.5
            steps += 1
            x = x + t * i
        return x, max(steps, 2)

    x, steps = tp.tape_function(f)(C(1.0), C(3))
    assert (x.dtype, x.item(), steps.item()) == (np.float32, 5.0, 3)


def test_long_ranges_become_loops(interpreted):
    @tp.tape_function
    def f(x):
        for i in range(1000):
            x = x * 0.5 + i
        for _ in range(3):
            x = x + 1
        for _ in tp.unroll(range(70)):
            x = x + 1
        for i in tp.stage(range(2)):
            y = x + i
        table = []
        for i in range(100):
            table.append(i)
        return y + len(table)

    want = 1.0
    for i in range(1000):
        want = want * 0.5 + i
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f(C(1.0)).item() == np.float32(want + 74 + 100)
    lines = [line.partition(": ")[2] for line in f.explain().splitlines() if " for at " in line]
    assert lines == [
        "one native loop of 1000 iterations: carried types are stable",
        "unrolled, 3 times: no more than 16 iterations",
        "unrolled, 70 times: tp.unroll asks for it",
        "one native loop: tp.stage asks for it",
        "unrolled, 100 times: it works with Python values only",
    ]
    assert len(f.graph().nodes) < 150


def test_long_ranges_that_need_python_are_unrolled(interpreted):
    def f(x):
        table = list(range(100))
        for i in range(100):
            x = x + table[i]
        return x

    with pytest.warns(tp.PerformanceWarning, match=r"test_rewriting.py:\d+ is traced 100 times.*needs the value"):
        assert staged(f, C(1.0)) == 4951.0


def test_python_numbers_stay_what_they_are(interpreted):
    """A counter that is read after the loop may be needed as a number: for a shape, say."""

    def f(x):
        n = 0
        for _ in range(70):
            x = x + 1
            n += 1
        return tp.zeros((n,)) + x

    with pytest.warns(tp.PerformanceWarning, match="'n' is a Python number"):
        assert staged(f, C(0.0)) == [70.0] * 70


def largest(x):
    best, k = x[0], 0
    for i in range(len(x)):
        if x[i] > best:
            best, k = x[i], i
    return best, k, 0.5 * k


def count_above(x):
    n = 0
    for i in range(len(x)):
        if x[i] > 0:
            n += 1
    return n, x * n


def first_above(x):
    k = -1
    for i in range(len(x)):
        if x[i] > 1.0:
            k = i
            break
    return k


def last_seen(x):
    k = 0
    for i in range(len(x)):
        k = i
        if x[i] > 1.0:
            break
    return k


def copied_later(x):
    j = k = 0
    for i in range(len(x)):
        k = j
        if x[i] > 1.0:
            j = i
    return j, k


@pytest.mark.parametrize("function", [largest, count_above, first_above, last_seen, copied_later])
def test_numbers_that_conditions_on_tensors_change_are_carried(function):
    """They are traced after an iteration in Python, too: nothing is lost by one native loop."""
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=40)
        f = tp.tape_function(function)
        got, unrolled = f(x), tp.tape_function(_unrolled(function))(x)
        assert "one native loop of 40 iterations" in f.explain()
        want = function(x)
        for a, b, c in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want, unrolled)), strict=True):
            np.testing.assert_array_equal(np.asarray(a), b)
            assert a.dtype == c.dtype


def _unrolled(function):
    names = {**function.__globals__, "range": lambda n: tp.unroll(range(n))}
    return FunctionType(function.__code__, names, function.__name__)


def numbers_alone(x):
    k, j = 0, 0
    for i in range(20):
        x = x * 1.01
        k = j
        j = i if i % 3 else k
    return x[:k] + j


def numbers_until_a_number(x):
    k = 0
    for i in range(40):
        x = x * 1.01
        k = i
        if i == 30:
            break
    return x[:k]


@pytest.mark.parametrize("function", [numbers_alone, numbers_until_a_number])
def test_numbers_that_only_numbers_change_stay_pythons(function):
    x = np.ones(40)
    f = tp.tape_function(function)
    np.testing.assert_allclose(np.asarray(f(x)), function(x), rtol=1e-12)
    assert "is a Python number, and is read after the loop" in f.explain()



@pytest.mark.parametrize("effect", ["attribute", "random", "print"])
def test_effects_in_python_happen_each_time(interpreted, effect, capsys):
    rng = np.random.default_rng(0)

    class Log:
        entries = 0

        def add(self):
            self.entries += 1

    log = Log()

    def f(x):
        for _ in range(70):
            x = x + 1
            if effect == "attribute":
                log.add()
            elif effect == "random":
                x = x + rng.normal()
            else:
                print("step")
        return x

    with pytest.warns(tp.PerformanceWarning):
        got = staged(f, C(0.0))
    again = np.random.default_rng(0)
    assert got == pytest.approx(70 + sum(again.normal() for _ in range(70)) * (effect == "random"), rel=1e-5)
    assert log.entries == 70 * (effect == "attribute")
    assert capsys.readouterr().out.count("step") == 70 * (effect == "print")


def test_traced_break_in_a_python_loop(interpreted):
    def f(x):
        for name in ["a", "bb", "ccc"]:
            if x > 2:
                break
            x = x + len(name)
        else:
            x = x * 10
        return x

    assert [staged(f, C(v)) for v in (-9.0, 0.0, 5.0)] == [-30.0, 3.0, 5.0]


def test_structures_and_undefined_names(interpreted):
    def f(x, n):
        state = {"x": x, "pair": (x, 0)}
        for i in range(n):
            temporary = state["x"] * 2
            state = {"x": temporary, "pair": (temporary, i)}
        return state["x"], state["pair"][1]

    assert staged(f, C(1.0), C(3)) == [8.0, 2]

    def late(x, n):
        for i in range(n):
            y = x * i
        return y

    with pytest.raises(tp.StagingError, match="'y' in the 'for' .* read after the loop.*before the loop"):
        staged(late, C(1.0), C(3))


@pytest.mark.parametrize(("start", "text"), [("'a'", "'a'"), ("None", "None"), ("[x]", r"\[f32\[\]\]")])
def test_what_cannot_be_carried(interpreted, start, text):
    scope = {}
    new = {"'a'": "'b'", "None": "x", "[x]": "[x, x]"}[start]
    f = from_text(f"def f(x, n):\n    s = {start}\n    for i in range(n):\n        s = {new}\n    return x, s\n", scope)
    with pytest.raises(tp.StagingError, match=f"'s' in the 'for' at <from_text>:3 is {text}"):
        staged(f, C(1.0), C(3))


def test_a_traced_float_as_number_of_iterations():
    def f(x, steps):
        for _ in range(steps):
            x = x + 1
        return x

    with pytest.raises(TypeError, match=r"'steps' is .*float32.*tp.cast\(tp.floor\(steps\), tp.int64\)"):
        staged(f, C(1.0), C(3.0))


def test_eagerly():
    seen = []

    @tp.tape_function
    def f(x):
        while x < 3:
            seen.append(float(x))
            x = x + 1
        return x

    tp.run_functions_eagerly(True)
    try:
        assert f(C(1.0)).item() == 3.0
    finally:
        tp.run_functions_eagerly(False)
    assert seen == [1.0, 2.0]


def test_functions_given_to_transforms_are_rewritten(interpreted):
    def loss(x):
        return x * x if x > 0 else x * 3

    gradient = tp.grad(loss)
    assert staged(lambda x: tp.grad(loss)(x) + 1, C(-1.0)) == 4.0
    assert staged(lambda x: gradient(x) + 1, C(2.0)) == 5.0
    assert staged(gradient, C(2.0)) == 4.0
    assert staged(tp.vmap(loss), C([-1.0, 2.0])) == [-3.0, 4.0]


# -- what Python asks of values ---------------------------------------------------------------------------------------


def contained(x, n):
    return x * 2 if n in (1, 3, 5) else x


def not_contained(x, n):
    return x * 2 if n not in [2, 4] else x


def in_a_range(x, n):
    return x * 2 if n in range(1, 9, 2) else x


def in_a_set(x, n):
    return x * 2 if n in {3, 4} else x


def in_an_array(x, n):
    return x * 2 if n in np.arange(2) or x[0] in x else x


def any_of_a_list(x, n):
    return x * 2 if any([n > 7, x[0] > 1, False]) else x


def all_of_a_generator(x, n):
    return x * 2 if all(v > 0.2 for v in x) and n > 0 else x


def extremes_of_a_list(x, n):
    return max([x[0], x[1], 0.7]) - min((x[0], x[1])) + n


def traced_step(x, n):
    for i in range(0, 7, n):
        x = x + i
    for i in range(6, -2, -n):
        x = x * i
    return x


def mixed_conditions(x, n):
    if x[0] > 0 and n:
        x = x + 1
    k = (x[1] > 0.3 and n) or 4
    return x * (k if n and x[0] < 7 else 3)


ASKED = [contained, not_contained, in_a_range, in_a_set, in_an_array, any_of_a_list, all_of_a_generator,
         extremes_of_a_list, traced_step, mixed_conditions]  # fmt: skip


@pytest.mark.parametrize("f", ASKED)
def test_questions_about_several_values(interpreted, f):
    for n in (1, 2, 3, 4):
        x = np.array([0.5, 0.1 * n])
        np.testing.assert_allclose(tp.tape_function(f)(C(x), C(n)), f(x, n), rtol=1e-12)


def test_items_of_enumerate_zip_and_reversed_become_native_loops(interpreted, recwarn):
    xs, ys = np.linspace(0.0, 1.0, 100), np.cos(np.arange(100.0))

    def f(x):
        for k, y in enumerate(ys):
            x = x * 0.5 + k * y
        for a, b in zip(xs, ys, strict=True):
            x = x + a * b
        for k in reversed(range(100)):
            x = 0.9 * x + k
        return x

    traced = tp.tape_function(f)
    assert float(traced(C(np.float64(0.5)))) == pytest.approx(f(0.5), rel=1e-12)
    assert str(traced.explain()).count("one native loop of 100 iterations") == 3
    assert not recwarn.list


def test_a_function_of_a_module_that_calls_itself_is_staged(interpreted):
    assert staged(lambda x: doubled_often(x, 3), C(1.0)) == 8.0
    assert staged(lambda x: doubled_often(x, 3), C(-1.0)) == 1.0


def doubled_often(x, n):
    if x < 0:
        return -x
    return x if n == 0 else 2 * doubled_often(x, n - 1)


class Account:
    @property
    def sign(self):
        return 1 if self.x > 0 else -1


def of_a_property(x, n):
    account = Account()
    account.x = x[0]
    return x * account.sign


def of_a_generator(x, n):
    def numbers():
        for i in range(n):
            yield 2 * i

    return x * sum(numbers())


def of_a_list(x, n):
    return [x, 2 * x][n]


def of_match(x, n):
    match n:
        case 1:
            return x
    return 2 * x


def of_eval(x, n):
    return eval("x") if n > 1 else x


def unrolled_without_number(x, n):
    for _ in tp.unroll(range(n)):
        x = x * 2
    return x


def stored_into_numpy(x, n):
    y = np.zeros(3)
    y[0] = x[0]
    return y


def rebuilt_object(x, n):
    account = Account()
    if n > 1:
        account = Account()
    return x, account


WEIGHT = tp.Variable(1.5)


def rebound_variable(x, n):
    weight = WEIGHT
    while n < 5:
        weight, n = weight * 2, n + 1
    return weight


def rebound_variable_in_a_branch(x, n):
    weight = WEIGHT
    if n > 1:
        weight = weight * 2
    return weight


LEFT_TO_PYTHON = [
    (of_a_property, tp.ConcretizationError, "'sign' is left to Python: it is a property"),
    (of_a_generator, tp.ConcretizationError, "'numbers' is a generator"),
    (of_a_list, tp.ConcretizationError, r"tp.stack\(xs\)"),
    (of_match, tp.ConcretizationError, "`match`"),
    (of_eval, tp.ConcretizationError, "`eval`"),
    (unrolled_without_number, tp.StagingError, "leave tp.unroll out"),
    (stored_into_numpy, tp.StagingError, "'y' at .* is a NumPy array.*tp.zeros"),
    (rebuilt_object, tp.StagingError, "assign its attributes"),
    (rebound_variable, tp.StagingError, r"y = weight.value\(\), before it, or change the variable by .assign"),
    (rebound_variable_in_a_branch, tp.StagingError, r"y = weight.value\(\), before it"),
]


@pytest.mark.parametrize(("f", "error", "text"), LEFT_TO_PYTHON)
def test_errors_say_why_python_is_asked(f, error, text):
    with pytest.raises(error, match=text) as e:
        tp.tape_function(f)(C(np.ones(2)), C(2))
    assert "test_rewriting.py:" in str(e.value)


def refused(x, n):
    if n > 2:
        raise ValueError("big")
    return x


def test_handlers_of_exceptions_of_the_program(interpreted):
    def catches(x, n):
        try:
            return refused(x, n)
        except (KeyError, ValueError):
            return -x

    def catches_all(x, n):
        try:
            assert n < 2
        except:  # noqa: E722
            x = -x
        return x

    def catches_others(x, n):
        try:
            return refused(x, n)
        except KeyError:
            return -x

    for f in (catches, catches_all):
        with pytest.raises(tp.StagingError, match="cannot catch it; use `if` and `else`"):
            tp.tape_function(f)(C(1.0), C(3))
    with pytest.raises(ValueError, match="big"):
        tp.tape_function(catches_others)(C(1.0), C(3))
    assert float(tp.tape_function(catches_others)(C(1.0), C(1))) == 1
    assert float(catches(C(1.0), C(3))) == -1  # eagerly, Python's


def test_numbers_are_called_numbers():
    def start(x, n):
        y = 0.0
        for _ in range(n):
            y = y + x
        return y

    def choice(x, n):
        return x if n > 1 else 2.0

    with pytest.raises(tp.ShapeError, match=r"'y' is the number 0.0 before .* tp.full\(\[2\], ..., tp.float64\)"):
        tp.tape_function(start)(C(np.ones(2)), C(2))
    with pytest.raises(tp.ShapeError, match=r"is a number \(f64\[\]\) in the false branch \(<lambda> at"):
        tp.tape_function(choice)(C(np.ones(2)), C(2))
