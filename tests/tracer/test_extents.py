"""Sizes that are known at run time only are numbers to the functions that are traced."""

from __future__ import annotations

import numpy as np
import pytest

import tapefuse as tp

ANY = tp.TensorSpec((None,), tp.float64)
SIZES = (0, 1, 2, 3, 5, 8)


def mean_or_zero(x):
    if len(x) == 0:
        return 0.0
    return x.sum() / len(x)


def by_cases(x):
    return x.sum() * (2.0 if len(x) in (1, 3) else 1.0)


def unless_three(x):
    if len(x) != 3 and x.shape != (5,):
        return x.sum()
    return -x.sum()


def truth(x):
    if not len(x):
        return -1.0
    return x[0]


def at_least(x):
    if len(x) >= 2 and len(x) < 7:
        return x[1]
    return 0.0


def last_counts(x):
    total, n = 0.0, 0
    for v in x:
        n = n + 1
        total = total + (10.0 * v if n == len(x) else v)
    return total


def doubling(x):
    i = 1
    while i < len(x):
        i *= 2
    return x.sum() * i


def until_all(x):
    total, i = 0.0, 0
    while True:
        if i == len(x):
            break
        total = total + x[i] * i
        i += 1
    return total


def middle(x):
    if len(x) > 0:
        return x[len(x) // 2] + x[7 % len(x)]
    return 0.0


def fraction(x):
    return x.sum() * (1 / (len(x) + 1)) + len(x) % 2 + len(x) ** 2 / 4


def tails(x):
    total = 0.0
    for i in range(len(x)):
        rest = x[i:]
        if len(rest) == 1:
            total = total + 100.0
        total = total + rest.sum()
    return total


FUNCTIONS = [
    mean_or_zero,
    by_cases,
    unless_three,
    truth,
    at_least,
    last_counts,
    doubling,
    until_all,
    middle,
    fraction,
    tails,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sizes_in_conditions_and_arithmetic(function):
    compiled = tp.tape_function(function, input_signature=[ANY])
    for n in SIZES:
        x = np.arange(1.0, 1 + n)
        np.testing.assert_allclose(compiled(x).item(), function(x), rtol=1e-6)
    assert compiled.trace_count == 1


@pytest.mark.parametrize("function", [mean_or_zero, last_counts, middle, tails])
def test_gradients(function):
    gradient = tp.tape_function(tp.grad(function), input_signature=[ANY])
    for n in SIZES:
        x = np.arange(1.0, 1 + n)
        want = [(function(x + 1e-6 * row) - function(x - 1e-6 * row)) / 2e-6 for row in np.eye(n)]
        np.testing.assert_allclose(np.asarray(gradient(x)), np.reshape(want, n), rtol=1e-6, atol=1e-8)


def test_sizes_of_two_arrays():
    def f(x, y):
        if len(x) == len(y):
            return x.sum() * y.sum()
        return x.sum() if len(x) < len(y) else y.sum()

    compiled = tp.tape_function(f, input_signature=[ANY, ANY])
    for n, m in [(3, 3), (2, 3), (3, 2), (0, 0), (0, 1)]:
        x, y = np.arange(1.0, 1 + n), np.arange(2.0, 2 + m)
        assert compiled(x, y).item() == f(x, y)


def test_what_is_so_for_all_sizes_is_decided_while_tracing():
    seen = []

    def f(x, n):
        size = x.shape[0]
        twin = x.shape[0]
        seen[:] = [size == twin, size + 1 == size, size >= 0, size < 0, size + 2 > size, size == -1, size != -1]
        seen.append((size, 3) == (size, 4))
        return x * n

    tp.tape_function(f, input_signature=[ANY, tp.TensorSpec((), tp.float64)]).graph()
    assert seen == [True, False, True, False, True, False, True, False]


def test_traced_numbers_and_sizes():
    @tp.tape_function(input_signature=[ANY, tp.TensorSpec((), tp.int64)])
    def f(x, n):
        return n == len(x), len(x) == n, n != len(x), len(x) > n, n / (len(x) + 1), len(x) - n

    for size in (0, 3):
        for n in (0, 3, 5):
            got = [y.item() for y in f(np.ones(size), np.int64(n))]
            assert got == [n == size, n == size, n != size, size > n, n / (size + 1), size - n]


def test_where_a_number_of_pythons_is_needed_the_error_says_so():
    for needs in (lambda x: np.zeros(len(x)) + x, lambda x: x * float(len(x)), lambda x: [1.0, 2.0][len(x)]):
        with pytest.raises(tp.ShapeError, match="not a Python integer while tracing"):
            tp.tape_function(needs, input_signature=[ANY]).graph()
