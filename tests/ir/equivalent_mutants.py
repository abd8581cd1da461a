"""Mistakes that are none: the changed rule means the same, or differs only where nothing asks.

`mutate_ops.py` counts them apart. An entry gives the lines of such mistakes as the script prints them; a line that is no
longer a mistake that can be made is reported, by the script and by `test_mutations.py`.
"""

# ruff: noqa: E501  (lines of the sources, with a mistake in them)

from __future__ import annotations

from typing import NamedTuple

KINDS = {
    "speed": "a short cut: without it the same is computed in a longer way",
    "unused": "what is computed there is not used: the other side of a choice, or a place that holds nothing",
    "accuracy": "a term, width or factor of an approximation that is exact to a rounding either way",
    "meeting": "one formula takes over from another where both hold",
    "symmetric": "what is exchanged is symmetric, or the same by what the rule has made sure of before",
    "never": "what the condition tells apart does not come here",
}


class Entry(NamedTuple):
    file: str
    function: str
    kind: str
    why: str
    lines: str


A_TO_I: list[Entry] = [
    Entry("complex.py", "_direction", "unused", "divides 0; any number but 0 does", """
        length = select(eq(y, 0), [[1 -> 2]], y)
    """),
    Entry("decompositions.py", "eigh.vjp", "symmetric", "matrices are square", """
        n = shape_of(a)[-[[1 -> 2]]]
    """),
    Entry("decompositions.py", "eigh.jvp", "symmetric", "matrices are square", """
        n = shape_of(a)[-[[1 -> 2]]]
    """),
    Entry("decompositions.py", "eigvalsh.vjp", "symmetric", "matrices are square", """
        n = shape_of(a)[-[[1 -> 2]]]
    """),
    Entry("decompositions.py", "eigvalsh.jvp", "symmetric", "matrices are square", """
        n = shape_of(a)[-[[1 -> 2]]]
    """),
    Entry("eigen.py", "_extent", "symmetric", "matrices are square", """
        return shape[-[[1 -> 2]]]
    """),
    Entry("eigen.py", "_solved", "symmetric", "matrices are square", """
        n, rank = shape_of(v)[-[[1 -> 2]]], len(shape_of(v))
    """),
    Entry("eigen.py", "_normalised", "symmetric", "matrices are square; the tangent of the eigenvector of one number is 0 as well", """
        if shape_of(v)[-[[1 -> 2]]] == 0:
        if shape_of(v)[-1] == [[0 -> 1]]:
    """),
    Entry("eigen.py", "_unnormalised", "symmetric", "matrices are square", """
        if shape_of(v)[-[[1 -> 2]]] == 0:
    """),
    Entry("elementary.py", "hypot_value", "unused", "divides 0; any number but 0 does", """
        ratio = n / where(m.equals(0), [[1 -> 2]], m)
    """),
    Entry("elementary.py", "cbrt_value", "unused", "the root of 0 and inf is the number itself; any number but these does", """
        plain = where(a.equals(0) | a.equals(math.inf), [[1 -> 2]], a)
    """),
    Entry("elementary.py", "asinh_value", "unused", "stands in for what another branch gives; any number without overflow does", """
        b = where(large, [[1 -> 2]], a)
    """),
    Entry("elementary.py", "acosh_value", "unused", "stands in for what another branch gives; any number without overflow does", """
        t = where(large, [[1 -> 2]], x) - 1
    """),
    Entry("elementary.py", "logaddexp_value", "symmetric", "the absolute value of a difference", """
        below = (-abs([[x - y -> y - x]])).op('exp').op('log1p')
    """),
    Entry("elementary.py", "logaddexp2_value", "symmetric", "the absolute value of a difference", """
        below = (-abs([[x - y -> y - x]])).op('exp2').op('log1p') * (1 / math.log(2))
    """),
    Entry("elementary.py", "fmod_value", "never", "where one of the whole numbers is 0 the rest is 0, which has no sign", """
        return where(rest.differs(0) & ((x < [[0 -> 1]]) ^ (y < 0)), rest - y, rest)
        return where(rest.differs(0) & ((x < 0) ^ (y < [[0 -> 1]])), rest - y, rest)
    """),
    Entry("elementary.py", "nextafter_value", "symmetric", "one of them is nan, and so are sum and difference", """
        return where(x.equals(y), y, where(x.differs(x) | y.differs(y), x [[+ -> -]] y, moved))
    """),
    Entry("elementary.py", "_shift", "unused", "a count within the width for what the other branch gives", """
        return where(inside, x.op(name, where(inside, n, [[0 -> 1]])), 0)
    """),
    Entry("elementary.py", "_cbrt", "unused", "divides 0; any number but 0 does", """
        return div(mul(g, 1 / 3), select(and_(eq(g, 0), eq(y, 0)), [[1 -> 2]], mul(y, y)))
    """),
    Entry("elementary.py", "_share", "unused", "stands in for an infinity in a difference that is dropped; any number does", """
        return mul(g, sigmoid(select(same, 0, sub(select(same, [[0 -> 1]], x), y))))
    """),
    Entry("elementwise.py", "_pow_base", "unused", "a power of 0 times the exponent, which is 0; any power without a pole does", """
        return mul(g, mul(p, pow(a, select(and_(eq(a, 0), eq(p, 0)), [[0 -> 1]], sub(p, 1)))))
    """),
    Entry("elementwise.py", "_pow_exponent", "unused", "its logarithm is dropped; any positive number does", """
        return mul(g, select(outside, 0, mul(y, log(select(outside, [[1 -> 2]], a)))))
    """),
    Entry("elementwise.py", "_sqrt", "unused", "divides 0; any number but 0 does", """
        return div(mul(g, 0.5), select(and_(eq(g, 0), eq(y, 0)), [[1 -> 2]], y))
    """),
    Entry("half.py", "_to_bf16", "symmetric", "a shift to the right brings copies of the sign", """
        quiet = code.op('shr', [[16 -> 17]]) & 0x8000 | 0x7FC0
    """),
    Entry("half.py", "_to_f16", "symmetric", "a shift to the right brings copies of the sign", """
        return (where(size < _code_of(65536.0), finite, special) | code.op('shr', [[16 -> 17]]) & 0x8000).cast(BITS)
    """),
    Entry("half.py", "_to_odd", "accuracy", "any of the lowest bits says that there was a rest: 13 or more are rounded away", """
        return where(back.differs(x) & x.equals(x), below | [[1 -> 2]], code)
    """),
]

L_TO_Z: list[Entry] = [
    Entry("matrices.py", "square", "symmetric", "matrices are square", """
        return a.shape[-[[1 -> 2]]]
    """),
    Entry("matrices.py", "diagonal", "symmetric", "nothing but the diagonal is left: the sums of rows are those of columns", """
        return reduce_sum(select(eq(i, j), x, 0), axes=(len(shape_of(x)) - [[1 -> 2]],))
    """),
    Entry("matrices.py", "stacked", "symmetric", "all parts have the same rank", """
        return concat(*parts, axis=len(shape_of(parts[[[0 -> 1]]])) - 2)
    """),
    Entry("matrices.py", "gaps_inverted", "unused", "stands in for a 0 in a quotient that `select` drops; any other number does", """
        return select(is_tie, 0, div(1, select(is_tie, [[1 -> 2]], gaps)))
    """),
    Entry("matrices.py", "inverted", "unused", "stands in for a 0 in a quotient that `select` drops; any other number does", """
        return select(is_zero, 0, div(1, select(is_zero, [[1 -> 2]], d)))
    """),
    Entry("pooling.py", "_windows_of", "symmetric", "`_moving` asks the same of both", """
        axes = _moving([[window, strides -> strides, window]])
    """),
    Entry("pooling.py", "_maximum", "symmetric", "`_moving` asks the same of both", """
        axes = _moving([[window, strides -> strides, window]])
    """),
    Entry("pooling.py", "window_argmax.at", "symmetric", "`_moving` asks the same of both", """
        axes, dtype = _moving([[window, strides -> strides, window]]), index_dtype(window)
    """),
    Entry("pooling.py", "window_pick.at", "symmetric", "`_moving` asks the same of both", """
        axes, zero, where = _moving([[window, strides -> strides, window]]), b.number(0, x.dtype), index(i)
    """),
    Entry("pooling.py", "window_sum.at", "symmetric", "`_moving` asks the same of both", """
        axes, zero = _moving([[window, strides -> strides, window]]), b.number(0, x.dtype)
    """),
    Entry("random.py", "log_gamma_slope", "accuracy", "the width of the nodes of a quadrature that is exact to a rounding over a range of widths", """
        sign, distance = sub(mul(cast(above, dtype=FLOAT64), 2.0), 1.0), abs(sub([[z, a -> a, z]]))
        scale = div([[2.0 -> 3.25]], add(distance, sqrt(add(mul(distance, distance), mul(z, 2.0)))))
        scale = div(2.0, add(distance, sqrt(add([[mul(distance, distance) -> distance]], mul(z, 2.0)))))
        scale = div(2.0, add(distance, sqrt(add(mul(distance, distance), [[mul -> div]](z, 2.0)))))
        scale = div(2.0, add(distance, sqrt(add(mul(distance, distance), mul(z, [[2.0 -> 3.25]])))))
        scale = select(above, log1p(scale), maximum(scale, div(1.[[0 -> 75]], a)))
    """),
    Entry("reduce.py", "_others", "speed", "a 1 that is padded although the extent is even, or a second one, is cut off again", """
        even = _pad_last(x, 1, 0, 1) if n [[% -> +]] 2 else x
        even = _pad_last(x, 1, 0, 1) if [[n % 2 -> 2 % n]] else x
        even = _pad_last(x, [[1 -> 2]], 0, 1) if n % 2 else x
    """),
    Entry("region.py", "sized.type", "symmetric", "where several values escape the error names one of them", """
        escaping = [v for v in (*body.[[params, *body.outs -> outs, *body.params]]) if symbol in symbols(v.shape)]
    """),
    Entry("shape.py", "broadcast.ref", "meeting", "a copy and a view hold the same elements; which is quicker is no matter of one element", """
        if size(shape) > [[4096 -> 4097]]:
    """),
    Entry("shape.py", "empty.at", "unused", "elements of `empty` are not read; compiled programs give it memory and no values", """
        return b.number([[0, np.dtype(dtype) -> np.dtype(dtype), 0]])
        return b.number([[0 -> 1]], np.dtype(dtype))
    """),
    Entry("slicing.py", "concat.at", "unused", "all operands are empty: nothing is read", """
        return xs[[[0 -> 1]]](i)
    """),
    Entry("sorting.py", "searchsorted.at", "unused", "what is read where the axis has no elements is dropped", """
        if [[ -> not ]]isinstance(n, Poly):
    """),
    Entry("special.py", "descended", "never", "x < FAR: the steps beyond are never taken", """
        for k in range(1, FAR [[- -> +]] 1):
        for k in range(1, FAR[[ - 1 -> ]]):
    """),
    Entry("special.py", "sine_of_pi", "symmetric", "a number is whole if it is its floor, and as well if it is its ceiling", """
        return where(half.op('[[floor -> ceil]]').equals(half), s, -s)
    """),
    Entry("special.py", "stirling", "accuracy", "the next term of the series is less than a rounding", """
        terms = [b / (d * 2 * k * (2 * k - 1)) for k, (b, d) in enumerate(table.BERNOULLI[:[[9 -> 10]]], 1)]
    """),
    Entry("special.py", "lgamma_value", "symmetric", "a number is whole if it is its floor, and as well if it is its ceiling", """
        whole = where(x.op('[[floor -> ceil]]').equals(x), x, 1.0) <= 0
    """),
    Entry("special.py", "lgamma_value", "unused", "stands in for what another branch gives; any positive number does", """
        whole = where(x.op('floor').equals(x), x, 1.[[0 -> 75]]) <= 0
    """),
    Entry("special.py", "gamma_positive", "meeting", "the result is infinite, or 0, on both sides of this bound", """
        big = where(x < FAR, FAR, where(x > [[200 -> 201]], 200, x))
        big = where(x < FAR, FAR, where(x > 200, [[200 -> 201]], x))
    """),
    Entry("special.py", "gamma_value", "symmetric", "a number is whole if it is its floor, and as well if it is its ceiling", """
        y = where(x < 0, where(x.op('[[floor -> ceil]]').equals(x), NAN, reflected), y)
    """),
    Entry("special.py", "digamma_near", "symmetric", "numerator and denominator of the quotient both have this factor, or the numerator is 0", """
        above, below = x.constant(0.0), x.constant(1.[[0 -> 75]])
    """),
    Entry("special.py", "digamma_near", "never", "x < FAR: the steps beyond are never taken", """
        for k in range(1, FAR [[- -> +]] 1):
        for k in range(1, FAR[[ - 1 -> ]]):
    """),
    Entry("special.py", "digamma_near", "symmetric", "between 1 and 2 the numerator is 0", """
        above, below = where(x < 1, -1.0, above), where(x < [[1 -> 2]], x, below)
    """),
    Entry("special.py", "digamma_value", "accuracy", "the next term of the series is less than a rounding", """
        series = polynomial(square, [b / (d * 2 * k) for k, (b, d) in enumerate(table.BERNOULLI[:[[9 -> 10]]], 1)])
    """),
    Entry("special.py", "digamma_value", "symmetric", "a number is whole if it is its floor, and as well if it is its ceiling", """
        y = where(x < 0, where(x.op('[[floor -> ceil]]').equals(x), NAN, reflected), y)
    """),
    Entry("special.py", "digamma_value", "symmetric", "x is 0: the quotient is infinite, and has its sign", """
        return where(x.equals(0), -[[1 -> 2]] / x, y)
    """),
    Entry("special.py", "cotangent_derivative", "unused", "a constant, of which derivatives are taken only", """
        p = [[[0 -> 1]], 1]
    """),
    Entry("special.py", "polygamma_value", "symmetric", "a number is whole if it is its floor, and as well if it is its ceiling", """
        y = where(negative, where(x.op('[[floor -> ceil]]').equals(x), at_pole, reflected), y)
    """),
    Entry("special.py", "erfcx_value", "accuracy", "any multiple of 1/1024 near the number has an exact square; the rest makes up for the distance", """
        head = (x * [[1024 -> 1025]]).op('round') / 1024  # its square is exact
    """),
    Entry("special.py", "erfcx_value", "meeting", "the result is infinite, or 0, on both sides of this bound", """
        return where(x < -[[30 -> 31]], INFINITY, where(x < 0, 2 * square - y, y))
    """),
    Entry("special.py", "normal_quantile", "unused", "stands in for what another branch gives; any positive number does", """
        s = (-where(central, 0.[[05 -> 325]], tail).op('log')).op('sqrt')
    """),
    Entry("special.py", "normal_tail", "meeting", "the result is infinite, or 0, on both sides of this bound", """
        a = where(abs(x) > [[40 -> 41]], 40, abs(x))
        a = where(abs(x) > 40, [[40 -> 41]], abs(x))
    """),
    Entry("special.py", "normal_tail", "accuracy", "any multiple of 1/1024 near the number has an exact square; the rest makes up for the distance", """
        head = (a * [[1024 -> 1025]]).op('round') / 1024  # its square is exact
    """),
    Entry("special.py", "bessel_series", "accuracy", "the next term of the series is less than a rounding", """
        terms = [1 / (math.factorial(k) * math.factorial(k + order)) for k in range([[27 -> 28]])]
    """),
    Entry("special.py", "_over_x", "unused", "stands in for a 0 in a quotient that `select` drops; any other number does", """
        return select(eq(x, 0), 0.5, div(y, select(eq(x, 0), [[1 -> 2]], x)))
    """),
    Entry("systems.py", "solve.jvp", "symmetric", "a sum", """
        return solve(a, _sum_of([[None if ts[0] is None else neg(matmul(ts[0], y)), ts[1] -> ts[1], None if ts[0] is None else neg(matmul(ts[0], y))]]))
    """),
    Entry("systems.py", "_substituted", "symmetric", "matrices are square", """
        n = a.shape[-[[1 -> 2]]]
    """),
    Entry("systems.py", "_substituted", "speed", "a system may be cut in two between any rows", """
        m = n // [[2 -> 3]]
    """),
    Entry("systems.py", "triangular_solve.jvp", "symmetric", "a sum", """
        return triangular_solve(a, _sum_of([[moved, ts[1] -> ts[1], moved]]), lower=lower, transpose=transpose, unit=unit)
    """),
    Entry("systems.py", "cofactors.vjp", "symmetric", "a sum of products of elements", """
        return [sub(scaled(dotted([[g, conjugate(y) -> conjugate(y), g]]), outer), product(conjugate(y), conjugate(transposed(g)), outer))]
    """),
    Entry("systems.py", "cofactors.jvp", "symmetric", "a sum of products of elements", """
        return sub(scaled(dotted([[ts[0], outer -> outer, ts[0]]]), y), product(y, conjugate(transposed(ts[0])), outer))
    """),
    Entry("systems.py", "det.jvp", "symmetric", "a sum of products of elements", """
        return dotted([[ts[0], cofactors(a) -> cofactors(a), ts[0]]])
    """),
    Entry("systems.py", "slogdet.jvp", "symmetric", "a sum of products of elements", """
        slope = dotted([[ts[0], conjugate(transposed(inv(a))) -> conjugate(transposed(inv(a))), ts[0]]])
    """),
    Entry("windows.py", "over", "symmetric", "sums, maxima and minima take their operands in either order", """
        return reduce(lambda x, y: b.op(kind, [[x, y -> y, x]]), terms)
    """),
]

EQUIVALENT = {
    (entry.file, entry.function, line.strip()): entry.kind
    for entry in (*A_TO_I, *L_TO_Z)
    for line in entry.lines.strip().splitlines()
}
