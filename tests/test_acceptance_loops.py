"""What the project promises of loops and branches, tested from outside: derivatives without a bound on the number of
iterations, and costs that do not depend on that number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen.pipeline import compiled as program_of_request
from tapefuse.codegen.pipeline import stages
from tapefuse.compiler import request
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.ops import region
from tapefuse.reports.memory import MemoryReport

WAYS = {"interpreted": {"disable_jit": True}, "llvm": {"engine": "llvm"}, "numba": {"engine": "numba"}}


@pytest.fixture(params=WAYS)
def way(request):
    with tp.config(**WAYS[request.param]):
        yield request.param


def squared(x):
    while x < 10:
        x = x * x
    return x


def derivative_of(f):
    @tp.tape_function
    def derivative(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    return derivative


def number_of_squarings(x: float) -> int:
    count = 0
    while x < 10:
        x, count = x * x, count + 1
    return count


class TestSquaring:
    """`while x < 10: x = x * x`."""

    def test_value_and_derivatives(self, way):
        x = tp.constant(1.5)
        assert float(tp.tape_function(squared)(x)) == 25.62890625
        assert float(derivative_of(squared)(x)) == 136.6875
        assert float(derivative_of(derivative_of(squared))(x)) == 637.875

    def test_any_start(self, way):
        """One compiled program for all numbers of iterations: x ** (2 ** n) after n of them."""
        value, slope = tp.tape_function(squared), derivative_of(squared)
        for x in (1.0001, 1.01, 1.2, 2.0, 9.999, 10.0, 1234.5):
            n = 2.0 ** number_of_squarings(x)
            assert float(value(tp.constant(np.float64(x)))) == pytest.approx(x**n, rel=1e-9)
            assert float(slope(tp.constant(np.float64(x)))) == pytest.approx(n * x ** (n - 1), rel=1e-9)
        assert value.trace_count == slope.trace_count == 1

    def test_forward_mode(self, way):
        f = tp.tape_function(lambda x, t: tp.jvp(squared, (x,), (t,)))
        value, tangent = f(tp.constant(1.5), tp.constant(2.0))
        assert (float(value), float(tangent)) == (25.62890625, 273.375)

    def test_many_starts_at_once(self, way):
        """Each example stops by itself."""
        xs = np.array([1.5, 1.2, 20.0, 3.0])
        wanted = [x ** (2.0 ** number_of_squarings(x)) for x in xs]
        np.testing.assert_allclose(tp.tape_function(tp.vmap(squared))(tp.constant(xs)), wanted, rtol=1e-12)
        slopes = [2.0 ** (n := number_of_squarings(x)) * x ** (2.0**n - 1) for x in xs]
        np.testing.assert_allclose(tp.tape_function(tp.vmap(tp.grad(squared)))(tp.constant(xs)), slopes, rtol=1e-12)


    def test_combinations_of_transforms(self):
        xs, ts = np.array([1.5, 1.2, 20.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
        n = np.array([2.0 ** number_of_squarings(x) for x in xs])
        slopes, second = n * xs ** (n - 1), n * (n - 1) * np.where(n > 1, xs, 1.0) ** (n - 2)
        programs = [
            (lambda x, t: tp.jvp(tp.vmap(squared), (x,), (t,))[1], slopes * ts),
            (lambda x, t: tp.vmap(lambda p, q: tp.jvp(squared, (p,), (q,)))(x, t)[1], slopes * ts),
            (lambda x, t: tp.vmap(tp.vmap(tp.grad(squared)))(tp.stack([x, x])), np.stack([slopes, slopes])),
            (lambda x, t: tp.vmap(tp.grad(tp.grad(squared)))(x), second),
            (lambda x, t: tp.grad(lambda z: tp.sum(tp.vmap(tp.grad(squared))(z) * t))(x), second * ts),
            (lambda x, t: tp.jacobian(tp.vmap(squared))(x), np.diag(slopes)),
            (lambda x, t: tp.hessian(lambda z: tp.sum(tp.vmap(squared)(z)))(x), np.diag(second)),
        ]
        for program, wanted in programs:
            np.testing.assert_allclose(tp.tape_function(program)(tp.constant(xs), tp.constant(ts)), wanted, rtol=1e-9)

    def test_examples_that_have_stopped_run_no_inner_loops(self, way):
        """What one that has stopped holds would keep an inner loop from ever ending."""

        def program(x):
            while x > 1.0:
                y = x
                while y < 5.0:
                    y = y * x
                x = x - 0.5 + 0.0 * y
            return x

        def branching(x):
            y = x
            if x > 1.0:
                while y < 5.0:
                    y = y * x
            return y

        def counted(x, n):
            while x > 1.0:
                k = 0 * n
                while k < n:
                    x, k = 0.5 * x, k + 1
            return x

        xs, n = tp.constant(np.array([1.0, 2.0, 3.25])), tp.constant(3)
        values, slopes = (tp.tape_function(tp.vmap(f, in_axes=(0, None))) for f in (counted, tp.grad(counted)))
        np.testing.assert_array_equal(values(xs, n), [1.0, 0.25, 3.25 / 8])
        np.testing.assert_array_equal(slopes(xs, n), [1.0, 0.125, 0.125])
        np.testing.assert_array_equal(tp.tape_function(tp.vmap(program))(xs), [1.0, 1.0, 0.75])
        np.testing.assert_array_equal(tp.tape_function(tp.vmap(branching))(xs), [1.0, 8.0, 3.25**2])
        np.testing.assert_array_equal(tp.tape_function(tp.vmap(tp.grad(branching)))(xs), [1.0, 12.0, 6.5])


def settling(x, limit):
    while tp.sum(x * x) > limit:
        x = 0.9 * tp.sin(x)
    return tp.sum(x * x * x)


def settling_or_not(x, limit):
    if tp.sum(x) > 0.5:
        while tp.sum(x * x) > limit:
            x = 0.9 * tp.sin(x)
    else:
        x = x * x
    return tp.sum(x * x * x)


def remembering(x, limit):
    best, k = x, 0
    while k < 6 and tp.sum(x * x) > limit:
        x = tp.sin(x) * best[::-1]
        best, k = tp.maximum(best, x), k + 1
    return tp.sum(best * x)


def recurrent(x, limit):
    weights = tp.reshape(tp.concatenate([x, x * x, tp.sin(x)]), (3, 3))
    while tp.sum(x * x) > limit:
        x, limit = 0.6 * tp.tanh(x @ weights), 1.5 * limit
    return tp.sum(x * x)


class TestOneRunForward:
    """What the derivative of a loop of unknown length reads is kept while the loop runs: it does not run again."""

    def test_the_loop_is_in_the_program_once(self):
        x = tp.constant(np.linspace(0.5, 1.5, 5))
        for f in (settling, tp.grad(settling), tp.value_and_grad(settling), tp.grad(tp.grad(squared))):
            arguments = (x, 0.1) if f.__name__ == "settling" else (tp.constant(1.5),)
            found = Counter(v.op.name for v in everywhere(optimised_graph(tp.tape_function(f), *arguments)))
            assert found["while"] + found["recording"] == 1 and found["sized"] == 0
            assert found["sin"] <= 1

    def test_so_are_those_in_branches_of_examples_and_of_higher_derivatives(self):
        x, xs, limits = tp.constant(np.linspace(0.5, 1.5, 5)), tp.constant(np.ones((4, 5))), tp.constant(np.ones(4))
        several, open_sizes = (xs, limits), [tp.TensorSpec(("B", 5), tp.float64), tp.TensorSpec(("B",), tp.float64)]
        programs = [
            (tp.value_and_grad(settling_or_not), (x, 0.1)),
            (tp.hessian(settling), (x, 0.1)),
            (tp.grad(lambda x, limit: tp.sum(tp.grad(settling)(x, limit) ** 2)), (x, 0.1)),
            (tp.vmap(tp.value_and_grad(settling)), several),
            (tp.vmap(tp.hessian(settling)), several),
            (tp.vmap(tp.grad(remembering)), several),
            (tp.vmap(tp.grad(settling_or_not)), several),
        ]
        for number, (f, arguments) in enumerate(programs):
            found = Counter(v.op.name for v in everywhere(optimised_graph(tp.tape_function(f), *arguments)))
            assert (number, found["while"] + found["recording"], found["sized"]) == (number, 1, 0)
        of_any = tp.tape_function(tp.vmap(tp.grad(settling)), input_signature=open_sizes)
        found = Counter(v.op.name for v in everywhere(optimised_graph(of_any, *several)))
        assert (found["while"] + found["recording"], found["sized"], found["sin"]) == (1, 0, 1)

    def test_examples_with_derivatives_of_their_own(self, way):
        xs, limits = np.random.default_rng(5).uniform(-1, 1.6, (4, 3)), np.array([0.2, 0.5, 0.05, 100.0])
        programs = [*map(tp.grad, (settling_or_not, remembering, recurrent)), tp.hessian(settling)]
        for derivative in programs:
            one, all_of_them = tp.tape_function(derivative), tp.tape_function(tp.vmap(derivative))
            wanted = [one(tp.constant(x), tp.constant(limit)) for x, limit in zip(xs, limits, strict=True)]
            found = all_of_them(tp.constant(xs), tp.constant(limits))
            np.testing.assert_allclose(found, np.stack([np.asarray(y) for y in wanted]), rtol=1e-9, atol=1e-12)

    def test_examples_within_a_budget_run_one_by_one(self):
        xs, limits = tp.constant(np.random.default_rng(5).uniform(-1, 1.6, (4, 3))), tp.constant(np.full(4, 0.1))
        wanted = tp.tape_function(tp.vmap(tp.grad(settling)))
        bounded = tp.tape_function(tp.vmap(tp.grad(settling)), memory_budget=1 << 20)
        np.testing.assert_allclose(bounded(xs, limits), wanted(xs, limits), rtol=1e-9, atol=1e-12)
        assert "sized" in {v.op.name for v in everywhere(optimised_graph(bounded, xs, limits))}

    def test_any_length(self, way):
        """One program, whose memory for rows grows where powers of two are passed."""

        def program(x, n):
            k = 0.0 * x[0]
            while k < n:
                x = x + 0.01 * tp.cos(x)
                k = k + 1.0
            return tp.sum(x * k)

        gradient = tp.tape_function(tp.grad(program))
        for steps in (0, 1, 31, 32, 33, 64, 65, 1000):
            x, slope = np.linspace(0.1, 0.9, 3), np.ones(3)
            y = x
            for _ in range(steps):
                y, slope = y + 0.01 * np.cos(y), slope * (1 - 0.01 * np.sin(y))
            found = gradient(tp.constant(x), tp.constant(np.float64(steps)))
            np.testing.assert_allclose(found, slope * steps, rtol=1e-9)
        assert gradient.trace_count == 1

    def test_the_state_in_the_end_beside_the_gradient(self, way):
        """Arrays of a state change their roles in each iteration."""

        def program(x, n):
            with tp.GradientTape() as tape:
                tape.watch(x)
                y, k = x, 0
                while k < n and tp.sum(y) < 100.0:
                    y, k = 0.5 * tp.erfc(y) * y, k + 1
            return y, tape.gradient(y, x)

        both = tp.tape_function(program)
        for steps in (0, 1, 2, 3):
            x = np.linspace(0.5, 1.5, 6).reshape(3, 2)
            y, slope = x, np.ones((3, 2))
            for _ in range(steps):
                tail = np.vectorize(math.erfc)(y)
                y, slope = 0.5 * tail * y, slope * 0.5 * (tail - y * 2 / math.sqrt(math.pi) * np.exp(-y * y))
            found = both(tp.constant(x), tp.constant(steps))
            for got, expected in zip(found, (y, slope), strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert both.trace_count == 1

    def test_the_report_says_that_memory_grows(self):
        x = tp.constant(np.ones(3))
        growing, fixed = tp.tape_function(tp.grad(settling)), tp.tape_function(settling)
        assert "what loops of unknown length keep" in str(growing.memory_report(x, 0.1))
        assert not fixed.memory_report(x, 0.1).grows

    def test_rows_of_open_sizes(self, way):
        specs = [tp.TensorSpec((None,), tp.float64), tp.TensorSpec((), tp.float64)]
        slope = tp.tape_function(tp.grad(settling), input_signature=specs)
        for n in (0, 1, 7):
            x = np.linspace(0.3, 1.5, n)
            y, factor = x, np.ones(n)
            while np.sum(y * y) > 0.05:
                y, factor = 0.9 * np.sin(y), factor * 0.9 * np.cos(y)
            np.testing.assert_allclose(slope(x, 0.05), 3 * y * y * factor, rtol=1e-9)


def optimised_graph(function: tp.TapeFunction, *args: object) -> Graph:
    return request(function.specialise(*args).traced, function._options).graph


def everywhere(graph: Graph) -> Iterator[Value]:
    """The nodes of a graph and of those inside it."""
    for v in graph.nodes:
        yield v
        for inner in region.graphs(v):
            yield from everywhere(inner)


def test_nested_loops_with_jumps(way):
    def collatz(x, n):
        total, steps = 0.0 * x, 0
        while n > 1:
            for k in range(n):
                if k > 3:
                    break
                if k == 1:
                    continue
                total = total + x**2 / (k + 1)
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
            if steps >= 40:
                return -total
        return total

    x, count = 1.25, 11
    wanted = collatz(np.float64(x), np.int64(count))
    traced = tp.tape_function(collatz)
    assert float(traced(tp.constant(np.float64(x)), tp.constant(np.int64(count)))) == pytest.approx(wanted, rel=1e-12)
    slope = tp.tape_function(tp.grad(collatz))(tp.constant(np.float64(x)), tp.constant(np.int64(count)))
    assert float(slope) == pytest.approx(2 * wanted / x, rel=1e-12)
    early = tp.tape_function(tp.grad(collatz))(tp.constant(np.float64(x)), tp.constant(np.int64(27)))
    assert float(early) == pytest.approx(2 * collatz(np.float64(x), np.int64(27)) / x, rel=1e-12) and float(early) < 0


def test_a_structure_is_carried(way):
    def settled(start):
        state = {"x": start, "steps": (0, [start * 0.0])}
        while abs(state["x"] - tp.cos(state["x"])) > 1e-10:
            steps, sums = state["steps"]
            state = {"x": 0.5 * (state["x"] + tp.cos(state["x"])), "steps": (steps + 1, [sums[0] + state["x"]])}
        return state["x"], state["steps"][0]

    x, steps = tp.tape_function(settled)(tp.constant(np.float64(0.3)))
    assert float(x) == pytest.approx(0.7390851332, rel=1e-9) and 5 < int(steps) < 60


# -- costs -----------------------------------------------------------------------------------------------------------


def iterated(trips: int):
    def program(x):
        y = x * 1.0
        for _ in tp.stage(range(trips)):
            y = 0.999 * y + 0.001 * tp.sin(y * x)
        return y

    return program


def nodes(graph: Graph) -> int:
    """Of the graph and those inside it."""
    return sum(1 for _ in everywhere(graph))


def code(function: tp.TapeFunction, *args: object) -> tuple[int, int]:
    """Sizes of a program: nodes of its graph, lines of its LLVM text."""
    traced = function.specialise(*args).traced
    return nodes(function.graph(*args)), len(program_of_request(request(traced, function._options)).llvm().splitlines())


MANY = 10_000_000


def test_fewer_than_no_iterations_have_a_gradient(way):
    """`range(n - 2)` of an open size, with products whose gradients are summed up after the loop."""

    def value(x, w):
        h = x[0] * 0 + 0.1
        for i in range(x.shape[0] - 2):
            h = np.tanh(h @ w + x[i + 2])
        return np.sum(h * h)

    specs = [tp.TensorSpec(shape, tp.float64) for shape in ((None, 4, 5), (5, 5))]
    gradients = tp.tape_function(tp.grad(value, argnums=(0, 1)), input_signature=specs)
    for n in (1, 2, 3, 20):
        rng = np.random.default_rng(n)
        x, w = rng.normal(size=(n, 4, 5)), rng.normal(size=(5, 5)) / 3
        for k, g in enumerate(gradients(x, w)):
            direction = rng.normal(size=g.shape)
            above, below = ([*(x, w)[:k], (x, w)[k] + h * direction, *(x, w)[k + 1 :]] for h in (1e-6, -1e-6))
            slope = (value(*above) - value(*below)) / 2e-6
            np.testing.assert_allclose(np.sum(g * direction), slope, rtol=1e-6, atol=1e-8)


def test_code_does_not_depend_on_the_number_of_iterations():
    """Loops that take long ask now and then whether to stop, which is a few lines more."""
    x = tp.constant(np.float64(0.5))
    (nodes_of_few, few), (nodes_of_many, many) = (code(tp.tape_function(iterated(trips)), x) for trips in (10, MANY))
    assert nodes_of_few == nodes_of_many and few <= many < few + 80
    few, many = (tp.tape_function(tp.grad(iterated(trips)), memory_budget=1 << 20) for trips in (MANY // 2, MANY))
    assert code(few, x) == code(many, x)


def test_a_long_loop_has_a_gradient_within_its_budget():
    x = tp.constant(np.float64(0.5))
    budget = 1 << 20
    slope = tp.tape_function(tp.grad(iterated(MANY)), memory_budget=budget)
    report = slope.memory_report(x)
    assert scratch(report) <= budget
    assert np.isfinite(float(slope(x)))


@pytest.mark.parametrize("differentiated", [False, True])
def test_dead_intermediates_take_no_memory(differentiated):
    """The values of an iteration of a linear loop are gone with it."""

    def smoothed(trips: int):
        def program(x):
            for _ in range(trips):
                y = 0.5 * x[1:-1] + 0.25 * (x[2:] + x[:-2])
                x = tp.concatenate([x[:1], y, x[-1:]])
            return tp.sum(x)

        return tp.tape_function(tp.grad(program) if differentiated else program)

    x = tp.constant(np.linspace(0.0, 1.0, 1_000))
    few, many = (scratch(smoothed(trips).memory_report(x)) for trips in (10_000, 10_000_000))
    assert few == many


def scratch(report: MemoryReport) -> int:
    return report.scratch


# -- what a new user does wrong ---------------------------------------------------------------------------------------


def changing_dtype(x, n):
    y = x
    for _ in range(n):
        y = tp.cast(y, tp.float64) * 2
    return y


def changing_shape(x, n):
    y = x
    while tp.sum(y) < 10:
        y = tp.concatenate([y, y])
    return y * n


def one_branch(x, n):
    if tp.sum(x) > n:
        z = x * 2
    return z


def appended(x, n):
    found = []
    for _ in range(n):
        found.append(x)
    return found


def whole_condition(x, n):
    while x < 10:
        x = x * n
    return x


def float_count(x, n):
    for _ in range(x[0]):
        x = x + n
    return x


MISTAKES = [
    (changing_dtype, tp.DTypeError, ["'y'", "f32[2]", "f64[2]", "tp.cast(..., tp.float32) in the loop"], 2, 3),
    (changing_shape, tp.ShapeError, ["'y'", "f32[2]", "f32[4]", "start with an array of the final shape"], 2, 3),
    (one_branch, tp.StagingError, ["'z'", "one branch only", "as f32[2]", "assign it in the 'else' branch"], 1, 1),
    (appended, tp.StagingError, ["'found'", "a list", "tp.zeros((n, ...))", "tp.scan"], 2, 2),
    (whole_condition, tp.ShapeError, ["'while x < 10:'", "shape [2]", "one bool", "tp.any(...)", "tp.where"], 1, 1),
    (float_count, tp.DTypeError, ["x[0]", "float32", "integer", "tp.cast(tp.floor("], 1, 1),
]


@pytest.mark.parametrize(("function", "error", "words", "line", "made"), MISTAKES)
def test_errors_name_the_variable_the_types_the_line_and_the_cure(function, error, words, line, made):
    """`line`: of the statement, after that of the function; `made`: where what is wrong was made."""
    with pytest.raises(error) as e:
        tp.tape_function(function)(np.ones(2, np.float32), np.int32(3))
    text, first = str(e.value), function.__code__.co_firstlineno
    assert [w for w in words if w not in text] == [], text
    assert all(f"test_acceptance_loops.py:{first + k}" in text for k in (line, made)), text


# -- arrays changed in loops ------------------------------------------------------------------------------------------
LENGTH = 5003  # found nowhere else in the text of a program


def kept_positive(x):
    y = np.zeros_like(x)
    for i in range(len(x)):
        if x[i] > 0:
            y[i] = x[i] * 2
    return tp.sum(y**2)


def changed_again(x):
    y = np.zeros_like(x)
    for i in range(len(x)):
        y[i] = x[i] * 2 + x[i - 1]
        if x[i] > 1:
            y[i] = x[i]
        elif x[i] < -1:
            y[i] += y[i - 1] ** 2
    return tp.sum(y**2)


def running(x):
    y = x.copy()
    for i in range(1, len(x)):
        y[i] *= tp.tanh(y[i - 1])
    return tp.sum(y)


def handed_on(x):
    y = x.copy()
    for i in range(len(x) - 1):
        y[i] = 0.5 * y[i] + 1.0
        y[i + 1] = y[i + 1] + y[i]
    return tp.sum(y * y)


def spent_later(x):
    y, total = x.copy(), 0.0
    for i in range(1, len(x) - 1):
        a, b = y[i - 1] + y[i], y[i] - y[i + 1]
        y[i] = a * b
        y[i - 1] = y[i - 1] - 0.1 * a
        total = total + y[i + 1] * a + b
    return tp.sum(y) + total


@pytest.mark.parametrize("f", [kept_positive, changed_again, running, handed_on, spent_later], ids=lambda f: f.__name__)
def test_no_iteration_copies_an_array(f):
    x = np.random.default_rng(3).standard_normal(LENGTH)
    gradient = tp.tape_function(tp.grad(f))
    found = request(gradient.specialise(x).traced, gradient._options)
    assert max(v.type.size for v in everywhere(found.graph)) <= LENGTH  # one number is kept for each iteration
    iteration = 0  # how deep the lines of one are
    for line in stages(found)["loops"]().splitlines():
        depth = len(line) - len(line.lstrip())
        iteration = 0 if depth < iteration else iteration
        assert not iteration or f"0..{LENGTH}:" not in line and f"rows {LENGTH}" not in line, line
        if not iteration and line.lstrip().startswith("for dim."):
            iteration = depth + 2
    direction = np.random.default_rng(4).standard_normal(LENGTH)
    slope = (f(x + 1e-6 * direction) - f(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(np.asarray(gradient(x)) * direction), slope, rtol=1e-6)


def test_what_a_branch_reads_may_not_be_there_for_others(way):
    """A derivative reads an element before it is known which branch was taken."""

    def some(x, c, at):
        y = 1.0 * x
        for i in tp.stage(range(7)):
            if i < len(c):
                y = tp.sin(y) * c[i]
            elif at[i] < len(c):
                y *= c[at[i]] + y[-i]
        return tp.sum(y)

    rng = np.random.default_rng(1)
    x, c, at = rng.uniform(0.5, 1.5, 9), rng.uniform(0.5, 1.5, 3), np.array([0, 0, 0, 99, 2, -1, 1])
    slopes = tp.tape_function(tp.grad(some, argnums=(0, 1)))(x, c, at)
    for number, slope in enumerate(slopes):
        for k in range(slope.shape[0]):
            step = 1e-6 * np.eye(slope.shape[0])[k]
            moved = [[a + sign * step if j == number else a for j, a in enumerate((x, c))] for sign in (1, -1)]
            difference = (float(some(*moved[0], at)) - float(some(*moved[1], at))) / 2e-6
            np.testing.assert_allclose(np.asarray(slope)[k], difference, rtol=1e-6)


def test_inner_loops_one_after_the_other_with_counts_of_their_own(way):
    """Copies of one loop, whose counts have one name."""

    def program(a, r, z):
        p = 1
        for _ in z:
            if r > 1.3:
                for _ in range(p % 4):
                    a *= 0.7
                p = (p * 3 + 2) % 7
                a = -tp.tanh(tp.exp(-(a**2)))
        return a

    for n in (3, 4, 6):
        z = np.ones(n)
        found = tp.tape_function(program)(0.45, tp.constant(1.5), z)
        np.testing.assert_allclose(found, program(0.45, 1.5, z), rtol=1e-6)
