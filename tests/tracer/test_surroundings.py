"""What blocks of loops and branches change besides their names: carried like names, or an error; never once for all."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import plain

C = tp.constant
X, N = np.array([0.5, 2.0]), 3


class Model:
    """State in attributes, which methods change."""

    calls = 0

    def __init__(self, x):
        self.h, self.totals, self.seen = x, {"sum": 0.0, "count": 0}, []

    def step(self, x):
        self.h = self.h * 0.5 + x
        self.calls += 1

    def relax(self, x):
        self.h = self.h * 0.5 + x

    def add(self, x):
        self.totals["sum"] = self.totals["sum"] + x[0]
        self.totals["count"] += 1

    def note(self, x):
        self.seen.append(x)


class Slotted:
    __slots__ = ("count",)

    def __init__(self):
        self.count = 0

    def go_on(self):
        self.count += 1


def in_a_loop(x, n):
    m = Model(x)
    for _ in range(n):
        m.step(x)
    return m.h, m.calls


def in_a_while(x, n):
    m = Model(x)
    while m.calls < n:
        m.step(x)
    return m.h, m.calls


def in_a_branch(x, n):
    m = Model(x)
    if n > 10:
        m.step(x)
    if n > 1:
        m.step(x * 2)
    return m.h, m.calls


def in_dicts(x, n):
    m = Model(x)
    for _ in range(n):
        m.add(x)
    return m.totals


def in_objects_of_objects(x, n):
    outer = SimpleNamespace(models=[Model(x), Model(2 * x)], slotted=Slotted())
    for k in range(n):
        for m in outer.models:
            if k != 1:
                m.step(x)
        outer.slotted.go_on()
    return [m.h for m in outer.models], outer.slotted.count


def in_variables_of_functions(x, n):
    total = x * 0

    def add(y):
        nonlocal total
        total = total + y

    def add_twice(y):
        add(y)
        add(y)

    for k in range(n):
        add_twice(x * k)
    return total


def in_entries(x, n):
    xs = [x, 2 * x, 3 * x]
    order = collections.deque([1.0, 2.0])

    def turn():
        xs[0], xs[1], xs[2] = xs[1], xs[2], xs[0]
        order.rotate(1)

    for _ in range(n):
        turn()
    return xs, order[0]


def by_setattr(x, n):
    m = Model(x)
    for _ in range(n):
        setattr(m, "h", m.h + 1)  # noqa: B010
    return m.h


_counted = 0


def _count(by):
    global _counted  # noqa: PLW0603
    _counted = _counted + by


def in_globals(x, n):
    global _counted  # noqa: PLW0603
    _counted = 0
    for _ in range(n):
        _count(1)
    y, _counted = x * _counted, 0
    return y


CARRIED = [in_a_loop, in_a_while, in_a_branch, in_dicts, in_objects_of_objects, in_variables_of_functions, in_entries,
           by_setattr, in_globals]  # fmt: skip


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("f", CARRIED)
def test_changes_are_carried(f, jit):
    with tp.config(disable_jit=not jit):
        for n in (0, 1, N):
            assert plain(tp.tape_function(f)(C(X), C(n))) == plain(f(C(X), n))


class Ring:
    """A buffer that methods store into."""

    def __init__(self, x):
        self.buffer, self.other, self.at = x * 0, x * 2, 0

    def push(self, v):
        self.buffer[self.at] = v
        self.at = (self.at + 1) % 2

    def turn(self, v):
        self.buffer, self.other = self.other, self.buffer
        self.buffer[0] = self.other[1] + v


@dataclasses.dataclass(frozen=True)
class Frozen:
    buffer: tp.Tensor

    def push(self, i, v):
        self.buffer[i] = v


def put(y, i, v):
    y[i] = v


def clear(y, n):
    for i in range(n):
        y[i] = 0.0


def positive(y, i, v):
    if v > 1:
        y[i] = v
    else:
        y[i] = -v


def stored_by_a_function(x, n):
    y, i = x * 0, 0
    same = y
    for k in range(n):
        put(y, k % 2, x[k % 2] + y[0])
    while i < n:
        put(y, 0, same[0] + x[1])
        i = i + 1
        if y[0] > 100:
            break
    if n > 1:
        put(same, 1, y[0])
    return y, same


def stored_by_nested_statements(x, n):
    y = x.copy()
    same = y
    for k in range(n):
        positive(y, k % 2, x[k % 2])
        clear(y, k % 2)
        for j in range(2):
            put(y, j, y[j] + k)
    return y, same


def stored_by_methods(x, n):
    ring, turning, frozen, total = Ring(x), Ring(x), Frozen(x * 0), 0.0
    same = ring.buffer
    for k in range(n):
        ring.push(x[k % 2] + total)
        turning.turn(x[0])
        frozen.push(k % 2, total)
        total = total + same.sum()
    return ring.buffer, ring.at, same, turning.buffer, turning.other, frozen.buffer, total


def stored_in_entries(x, n):
    rows, pair, state = [x * 0, x * 1], (x * 2, x * 3), {"a": x * 0, "at": 0}
    first, second = rows[0], pair[1]

    def note(v):
        state["a"][state["at"] % 2] = v
        state["at"] += 1

    for k in range(n):
        for row in rows:
            row[k % 2] = row[k % 2] + rows[0][0] + 1
        rows[0], rows[1] = rows[1], rows[0]
        put(pair[1], k % 2, x[0])
        note(x[1] + k)
    return rows, pair, state["a"], state["at"], first.sum() * 0, second


def stored_into_what_is_bound_as_well(x, n):
    y, z = x * 0, x * 0
    for k in range(n):
        put(y, k % 2, x[1])
        y = y  # noqa: PLW0127
    if n > 1:
        put(z, 0, x[0])
        z = z + 1
    return y, z


STORED = [stored_by_a_function, stored_by_nested_statements, stored_by_methods, stored_in_entries,
          stored_into_what_is_bound_as_well]  # fmt: skip


@pytest.mark.parametrize("f", STORED)
def test_called_functions_store_into_tensors(f):
    for n in (0, 1, N, 20):
        want = plain(f(C(X), n))
        assert plain(tp.tape_function(f)(C(X), C(n))) == want
        assert plain(tp.tape_function(lambda x, n=n: f(x, n))(C(X))) == want


def test_derivatives_of_what_called_functions_store():
    def total(x, n):
        ring = Ring(x)
        for k in range(n):
            ring.push(x[k % 2] * x[0] + ring.buffer[0])
        return tp.sum(ring.buffer)

    got = tp.tape_function(tp.grad(total))(C(X), C(N))
    np.testing.assert_allclose(got, tp.grad(lambda x: total(x, N))(C(X)))
    both = tp.tape_function(tp.vmap(total, in_axes=(0, None)))(np.stack([X, 2 * X]), C(N))
    np.testing.assert_allclose(both, [total(C(X), N), total(C(2 * X), N)])


def test_stores_that_no_statement_carries_name_their_line():
    def inside_of_an_expression(x, n):
        y = x * 0
        return put(y, 0, 1.0) or y if n > 1 else x

    def inside_of_a_function_of_scan(x, n):
        y = x * 0
        for _ in range(n):
            tp.fori_loop(0, 3, lambda i, c: (put(y, i % 2, 1.0), c)[1], 0)
        return y

    outer = C(X)

    def outside(x, n):
        for _ in range(n):
            put(outer, 0, x[0])

    def stored_to_outside(x, n):
        for _ in range(n):
            outer[0] = x[0]

    text = r"'y\[i\] = v' at .*test_surroundings.* f64\[2\].*outside of the .*x.copy\(\)"
    for f in (inside_of_an_expression, inside_of_a_function_of_scan):
        with pytest.raises(TypeError, match=text):
            tp.tape_function(f)(C(X), C(N))
    for f in (outside, stored_to_outside):
        with pytest.raises(TypeError, match="outside of the tape_function"):
            tp.tape_function(f)(C(X), C(N))
    np.testing.assert_array_equal(outer, X)


def test_their_derivatives():
    def last(x, n):
        return tp.sum(in_a_loop(x, n)[0])

    np.testing.assert_allclose(tp.tape_function(tp.grad(last))(C(X), C(N)), [1.875, 1.875])


def test_a_method_in_a_long_loop_becomes_one_native_loop(recwarn):
    def f(x):
        m = Model(x)
        for _ in range(1000):
            m.relax(x)
        return m.h

    traced = tp.tape_function(f)
    np.testing.assert_allclose(traced(C(X)), 2 * X)
    assert "one native loop of 1000" in str(traced.explain())
    assert not recwarn.list


def appended(x, n):
    m = Model(x)
    for _ in range(n):
        m.note(x)
    return m.seen


def appended_by_attribute(x, n):
    m = Model(x)
    for _ in range(n):
        m.seen.append(x)
    return m.seen


def appended_by_a_closure(x, n):
    found = []

    def note(y):
        found.append(y)

    for _ in range(n):
        note(x)
    return found


def in_a_deque(x, n):
    last = collections.deque([x], maxlen=2)
    for _ in range(n):
        last.append(x)
    return last[0]


def in_a_numpy_array(x, n):
    y = np.zeros(2)

    def add():
        y[0] += 1

    for _ in range(n):
        add()
    return x * y


def taken_from_an_iterator(x, n):
    factors = iter([1.0, 2.0, 3.0])
    for _ in range(n):
        x = x * next(factors)
    return x


def counted_by_an_iterator(x, n):
    numbers = itertools.count()
    if n > 1:
        x = x + next(numbers)
    return x


def taken_from_a_generator(x, n):
    factors = (k for k in (1.0, 2.0, 3.0))
    for _ in range(n):
        x = x * next(factors)
    return x


def in_a_choice(x, n):
    found = []
    return x if n > 1 else found.append(x) or 2 * x


def in_a_function_of_cond(x, n):
    found = []
    return tp.cond(n > 1, lambda: found.append(1) or x, lambda: x)


def in_a_function_of_scan(x, n):
    m = Model(x)

    def step(c, y):
        m.step(y)
        return c, m.h

    return tp.scan(step, n, x[:, None])


def appended_to_a_long_list(x, n):
    found = [0.0] * 10_000
    for _ in range(n):
        found.append(x)
    return x * len(found)


REFUSED = [
    (appended_to_a_long_list, "'found', a list", "tp.scan"),
    (appended, "'m.seen', a list", "tp.zeros((n, ...))"),
    (appended_by_attribute, "'m.seen', a list", "tp.scan"),
    (appended_by_a_closure, "'found', a list", "tp.scan"),
    (in_a_deque, "'last', a deque", "tp.scan"),
    (in_a_numpy_array, "'y', a NumPy array", "tp.zeros"),
    (taken_from_an_iterator, "'factors', an iterator", "xs[i]"),
    (counted_by_an_iterator, "'numbers', an iterator", "xs[i]"),
    (taken_from_a_generator, "'factors', an iterator", "xs[i]"),
    (in_a_choice, "'found', a list", "branch of cond"),
    (in_a_function_of_cond, "'found', a list", "branch of cond"),
    (in_a_function_of_scan, "'m.", "body of scan"),
]


@pytest.mark.parametrize(("f", "what", "text"), REFUSED)
def test_other_changes_are_errors(f, what, text):
    with pytest.raises(tp.StagingError) as e:
        tp.tape_function(f)(C(X), C(N))
    assert what in str(e.value) and text in str(e.value) and "test_surroundings.py:" in str(e.value)


def test_what_is_made_when_it_is_first_needed_may_be_kept():
    known = {}

    class Table:
        values = None

        def get(self):
            if self.values is None:
                self.values = np.arange(3.0)
            return self.values

    table = Table()

    def weight(k):
        if k not in known:
            known[k] = float(k) ** 2
        return known[k]

    def f(x, n):
        for _ in range(n):
            x = x * weight(2) + table.get()[1]
        return x

    assert float(tp.tape_function(f)(C(np.float64(1.0)), C(2))) == 21


def test_a_long_loop_that_reaches_too_much_is_unrolled():
    """Not all of it is compared, so that a method might do something unseen."""
    models = [Model(X) for _ in range(1000)]

    def f(x):
        for _ in range(20):
            models[-1].step(x)
        return x

    try:
        tp.tape_function(f)(C(X))
        assert models[-1].calls == 20
    finally:
        models.clear()


def test_names_that_have_the_changed_object_see_it():
    def f(x, n):
        m = Model(x)
        same, (inner,) = m, [m]
        for _ in range(n):
            same.step(x)
            inner.h = inner.h + 1
        return m.h - same.h, m.h

    for got, want in zip(tp.tape_function(f)(C(X), C(N)), f(C(X), N), strict=True):
        np.testing.assert_allclose(got, want)


def test_nested_statements_find_the_same_change():
    def f(x, n):
        m = Model(x)
        for i in range(n):
            for j in range(i):
                if j != 1:
                    while m.calls < i + j:
                        m.step(x)
        return m.h, m.calls

    assert plain(tp.tape_function(f)(C(X), C(5))) == plain(f(C(X), 5))


def test_a_large_array_and_an_object_of_a_library_are_left_alone():
    weights, lock = np.ones(1 << 20), collections.Counter()

    def f(x, n):
        for _ in range(n):
            x = x * weights[0] + lock["missing"]
        return x

    assert float(tp.tape_function(f)(C(np.float64(3.0)), C(2))) == 3
