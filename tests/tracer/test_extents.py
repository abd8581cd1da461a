"""Sizes that are known at run time only are numbers to the functions that are traced."""

from __future__ import annotations

import math

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


def by_shape(x):
    one = 2.0 if x.shape in ((5,), (3,)) else 1.0
    return x.sum() * one * (3.0 if (x.shape, 1) != ((2,), 1) else 5.0)


def some_and_all(x):
    one = 2.0 if any([len(x) - 3, False]) else 1.0
    return x.sum() * one * (3.0 if all(x.shape) else 5.0) * (7.0 if len(x) + 1 else 0.0)


def against_arrays(x):
    numbers = np.arange(4)
    return x.sum() + (numbers == len(x)).sum() + 10 * (len(x) != numbers).sum() + 100 * (numbers < len(x)).sum()


def against_numbers_of_numpy(x):
    same = (np.int64(3) == len(x)) + 10 * (len(x) == np.float32(3.0)) + 100 * (np.int64(3) < len(x))
    return x.sum() * same + np.float64(0.5) * len(x) + np.int32(2) * len(x) - len(x) / np.int8(2)


def floating(x):
    n = len(x)
    return x.sum() * (0.5 * n + (n + 0.25) * (0.125 - n) - (n - 1.5)) + n**0.5 + (n + 1) ** -2 + 2.5 // (n + 1)


def integral(x):
    n = len(x)
    a, b = divmod(n, 3)
    c, d = divmod(17, n + 1)
    bits = (n & 3) + (n >> 1) + (1 << n) + (n | 4) + (n ^ 5) + ~n
    return x.sum() * abs(n - 3) + a + 10 * b + 100 * c + 1000 * d + bits + +n + -n + n**2 + (2 * n + 4) // 2 + 4 * n % 2


def extremes(x):
    return x.sum() / max(len(x), 3) + min(len(x), 3, 7) + x.reshape((max(len(x), 0),)).sum()


def of_libraries(x):
    return x.sum() * math.sqrt(len(x)) + np.sqrt(len(x)) + (x * np.arange(len(x))).sum() + np.arange(2, len(x)).sum()


def or_and(x):
    return x.sum() / (len(x) or 1) + (len(x) and 2) + (len(x) if x.sum() > 5 else 1)


def countdown(x):
    n, total = len(x), 0.0
    while n > 0:
        total = total + x[n - 1] * n
        n = n - 1
    return total


def bisection(x):
    low, high = 0, len(x)
    while low < high:
        middle = (low + high) // 2
        if x[middle] < 2.5:
            low = middle + 1
        else:
            high = middle
    return x.sum() * low


def parts_of_ranges(x):
    total = 0.0
    for i in range(len(x))[::-1]:
        total = 0.5 * total + x[i]
    for i in range(len(x))[1:]:
        total = 0.5 * total + x[i]
    for i in range(len(x))[:-1]:
        total = 0.5 * total + x[i]
    return total + 1.0 * len(range(len(x))[2:]) + len(range(len(x) - 2))


def in_ranges(x):
    n = len(x)
    found = [3 in range(n), n in range(5), n - 1 in range(n), 3.5 in range(n)]
    found += [2 in range(n, 0, -1), n in range(8, 0, -3)]
    return x.sum() * (3 not in range(1, n, 2)) + sum(2**k * f for k, f in enumerate(found))


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
    by_shape,
    some_and_all,
    against_arrays,
    against_numbers_of_numpy,
    floating,
    integral,
    extremes,
    of_libraries,
    or_and,
    countdown,
    bisection,
    parts_of_ranges,
    in_ranges,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sizes_in_conditions_and_arithmetic(function):
    compiled = tp.tape_function(function, input_signature=[ANY])
    for n in SIZES:
        x = np.arange(1.0, 1 + n)
        np.testing.assert_allclose(compiled(x).item(), function(x), rtol=1e-12)
    assert compiled.trace_count == 1


@pytest.mark.parametrize("function", [mean_or_zero, last_counts, middle, tails, floating, countdown, parts_of_ranges])
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


def test_numbers_made_of_sizes_take_the_dtype_of_what_they_meet():
    for function in (mean_or_zero, floating, extremes, parts_of_ranges):
        compiled = tp.tape_function(function, input_signature=[tp.TensorSpec((None,), tp.float32)])
        assert compiled(np.ones(3, np.float32)).dtype == tp.float32


def test_what_polynomials_can_tell_stays_a_size():
    @tp.tape_function(input_signature=[tp.TensorSpec((None, 4), tp.float64)])
    def f(x):
        y = x.reshape((x.size // 4, 4)) + x.reshape((abs(len(x)), len(x) ** 0 * 4))
        return y.reshape((max(4 * len(x), 0) + x.size % 4,))

    x = np.arange(12.0).reshape(3, 4)
    assert f(x).tolist() == (2 * x).ravel().tolist()


def test_lists_of_sizes_are_values():
    @tp.tape_function(input_signature=[ANY])
    def f(x):
        out = tp.zeros((2, 2), dtype=tp.int64)
        out[1] = [7, len(x) - 1]
        return out, tp.constant([0, len(x)], tp.float64)

    out, pair = f(np.ones(3))
    assert out.tolist() == [[0, 0], [7, 2]] and pair.tolist() == [0.0, 3.0]


SLICES = [
    *[slice(None, None, -1), slice(1, None), slice(None, -1), slice(-3, None), slice(None, 2), slice(2, -1)],
    *[slice(None, None, 2), slice(5, -4, -2), slice(3, None, -1), slice(None, 2, -1), slice(-2, -9, -1)],
    *[slice(-9, 9), slice(1, 4, 3), slice(4, 1), slice(9, -9, -3), slice(None, -9, -1)],
]


@pytest.mark.parametrize("bounds", [lambda n: (n,), lambda n: (1, n), lambda n: (n, -3, -2), lambda n: (5, 0, n)])
def test_parts_and_members_of_ranges_with_traced_bounds(bounds):
    def members(numbers):
        return sum([2**k * (k - 8 in numbers) for k in range(16)])

    @tp.tape_function(input_signature=[tp.TensorSpec((), tp.int64)])
    def f(n):
        found = []
        for part in SLICES:
            digits = 0
            for i in range(*bounds(n))[part]:
                digits = 31 * digits + i + 10
            found.append((len(range(*bounds(n))[part]), digits))
        return found, members(range(*bounds(n)))

    for n in (-2, -1, 1, 2, 3, 7):
        numbers, (found, got) = range(*bounds(n)), f(np.int64(n))
        assert got.item() == members(numbers)
        for part, (length, digits) in zip(SLICES, found, strict=True):
            want = 0
            for i in numbers[part]:
                want = 31 * want + i + 10
            assert (length.item(), digits.item()) == (len(numbers[part]), want)


def test_slices_of_ranges_with_traced_ends():
    def f(x, n):
        total = 0
        for i in range(len(x))[n:]:
            total = total + i
        for i in range(len(x))[:n:-1]:
            total = total + 100 * i
        return total

    compiled = tp.tape_function(f, input_signature=[ANY, tp.TensorSpec((), tp.int64)])
    for size in (0, 3, 6):
        for n in (-9, -2, 0, 1, 4, 9):
            assert compiled(np.ones(size), np.int64(n)).item() == f(np.ones(size), n)


def test_a_number_of_a_range_that_is_not_there():
    compiled = tp.tape_function(lambda n, i: range(n)[i], input_signature=[tp.TensorSpec((), tp.int64)] * 2)
    for i in (-3, -1, 0, 2):
        assert compiled(np.int64(3), np.int64(i)).item() == range(3)[i]
    for i in (-4, 3):
        with pytest.raises(IndexError, match="range object index out of range"):
            compiled(np.int64(3), np.int64(i))


def test_where_a_number_of_pythons_is_needed_the_error_says_so():
    for needs in (lambda x: np.zeros(len(x)) + x, lambda x: x * float(len(x)), lambda x: [1.0, 2.0][len(x)]):
        with pytest.raises(tp.ShapeError, match=r"not a Python integer while tracing; .*tp\.zeros\(n\).*tp\.cast"):
            tp.tape_function(needs, input_signature=[ANY]).graph()
