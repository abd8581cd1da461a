"""Small programs with loops and branches, built by hand: for tests of passes, rules and code generation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import constant
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Type

F64, I64 = np.dtype("f8"), np.dtype("i8")
N = Poly.symbol("N")


def f64(*shape: Dim) -> Type:
    return Type(F64, shape)


INT = Type(I64, ())


def graph(f: Callable, *types: Type) -> Graph:
    """The graph of a function of IR values."""
    params = tuple(param(t) for t in types)
    outs = f(*params)
    return Graph(params, tuple(outs) if isinstance(outs, (tuple, list)) else (outs,))


def types(*xs: Value) -> tuple[Type, ...]:
    return tuple(x.type for x in xs)


def loop(f: Callable, trips: Dim, *xs: Value, carried: int = 1) -> tuple[Value, ...]:
    """`for`, with a body that takes the index (a dimension), carries and other operands."""
    index = region.fresh("k")
    body = graph(lambda *ps: f(Poly.symbol(index), *ps), *types(*xs))
    return ops.for_.emit_results(*xs, body=body, trips=trips, index=index, carried=carried)


def while_loop(cond: Callable, f: Callable, *xs: Value, carried: int = 1) -> tuple[Value, ...]:
    return ops.while_.emit_results(*xs, cond=graph(cond, *types(*xs)), body=graph(f, *types(*xs)), carried=carried)


def choice(index: Value, fs: list[Callable], *xs: Value) -> tuple[Value, ...]:
    return ops.switch.emit_results(index, *xs, branches=tuple(graph(f, *types(*xs)) for f in fs))


def sized(f: Callable, n: Value, *xs: Value) -> tuple[Value, ...]:
    symbol = region.fresh("n")
    body = graph(lambda *ps: f(Poly.symbol(symbol), *ps), *types(*xs))
    return ops.sized.emit_results(n, *xs, symbol=symbol, body=body)


def at(x: Value, k: Dim) -> Value:
    """x[k]"""
    rest = x.shape[1:]
    starts, limits = (k, *(0 for _ in rest)), (k + 1, *rest)
    return ops.reshape(ops.slice_(x, starts=starts, limits=limits, strides=(1,) * len(limits)), shape=rest)


def put(x: Value, k: Dim, v: Value) -> Value:
    """x with x[k] = v"""
    rest = x.shape[1:]
    return ops.put(x, ops.reshape(v, shape=(1, *rest)), starts=(k, *(0 for _ in rest)), strides=(1,) * len(x.shape))


def total(x: Value) -> Value:
    return ops.reduce_sum(x, axes=tuple(range(len(x.shape))))


def number(d: Dim) -> Value:
    return ops.dim.emit(value=d, dtype=I64) if isinstance(d, Poly) else constant(d, I64)


# -- programs ---------------------------------------------------------------------------------------------------------


def powers(x: Value) -> Value:
    """x = x * x, 3 times."""
    return loop(lambda k, c: ops.mul(c, c), 3, x)[0]


def no_iterations(x: Value) -> Value:
    return loop(lambda k, c: ops.mul(c, c), 0, x)[0]


def one_iteration(x: Value) -> Value:
    return loop(lambda k, c: ops.mul(c, c), 1, x)[0]


def decay(x: Value, w: Value) -> tuple[Value, ...]:
    """A linear loop: c = 0.5 c + w."""
    return loop(lambda k, c, w: ops.add(ops.mul(c, 0.5), w), 4, x, w)


def recurrent(h: Value, w: Value, xs: Value) -> tuple[Value, Value]:
    """h = tanh(h @ w + xs[k]); all h, and the last."""

    def step(k: Dim, h: Value, ys: Value, w: Value, xs: Value) -> tuple[Value, Value]:
        new = ops.tanh(ops.add(ops.matmul(h, w), at(xs, k)))
        return new, put(ys, k, new)

    n = xs.shape[0]
    zeros = ops.broadcast.emit(constant(0, F64), shape=(n, *h.shape), axes=())
    last, ys = loop(step, n, h, zeros, w, xs, carried=2)
    return total(ops.mul(last, last)), ys


def with_counter(x: Value) -> Value:
    """An integer is carried beside the number: c = c * sin(c) + i, i = 2 i + 1."""

    def step(k: Dim, c: Value, i: Value) -> tuple[Value, Value]:
        return ops.add(ops.mul(c, ops.sin(c)), ops.cast(i, dtype=F64)), ops.add(ops.mul(i, 2), 1)

    return loop(step, 4, x, constant(0, I64), carried=2)[0]


def by_counter(x: Value) -> Value:
    """Branches chosen by a carried integer, in a loop."""

    def step(k: Dim, c: Value, i: Value) -> tuple[Value, Value]:
        fs = [ops.sin, lambda c: ops.mul(c, c), lambda c: ops.exp(ops.neg(c))]
        return choice(ops.mod(i, 3), fs, c)[0], ops.add(i, 1)

    return loop(step, 5, x, constant(1, I64), carried=2)[0]


def by_index(x: Value) -> Value:
    """c = c * (k + 1)."""
    return loop(lambda k, c: ops.mul(c, ops.cast(number(k + 1), dtype=F64)), 5, x)[0]


def nested(x: Value, w: Value) -> Value:
    def step(k: Dim, c: Value, w: Value) -> Value:
        inner = loop(lambda j, c, w: ops.add(ops.sin(c), ops.mul(w, ops.cast(number(j + k), dtype=F64))), 3, c, w)
        return ops.mul(inner[0], c)

    return loop(step, 4, x, w)[0]


def triangular(x: Value) -> Value:
    """As many inner iterations as the index says."""

    def step(k: Dim, c: Value) -> Value:
        return loop(lambda j, c: ops.sin(ops.mul(c, 1.25)), k, c)[0]

    return loop(step, 4, x)[0]


def prefix_sums(x: Value) -> Value:
    """In place: x[k + 1] += x[k]^2."""

    def step(k: Dim, x: Value) -> Value:
        return put(x, k + 1, ops.add(at(x, k + 1), ops.mul(at(x, k), at(x, k))))

    return loop(step, x.shape[0] - 1, x)[0]


def histogram(x: Value, ids: Value) -> Value:
    """A table that every iteration adds to, at a position known at run time, and reads."""

    def step(k: Dim, table: Value, x: Value, ids: Value) -> Value:
        old = ops.gather(table, at(ids, k))
        return ops.add_at(table, ops.mul(at(x, k), ops.add(ops.cos(old), 1)), at(ids, k))

    zeros = ops.broadcast.emit(constant(0, F64), shape=(4,), axes=())
    return loop(step, x.shape[0], zeros, x, ids)[0]


def squared_until(x: Value) -> tuple[Value, Value]:
    """While x < 10: x = x * x; and the number of iterations."""
    return while_loop(lambda c: ops.lt(c, 10.0), lambda c: ops.mul(c, c), x)


def newton(a: Value) -> Value:
    """The square root, while the error is large."""

    def goes_on(x: Value, a: Value) -> Value:
        return ops.gt(ops.abs(ops.sub(ops.mul(x, x), a)), 1e-13)

    return while_loop(goes_on, lambda x, a: ops.mul(ops.add(x, ops.div(a, x)), 0.5), a, a)[0]


def while_in_for(x: Value) -> Value:
    def step(k: Dim, c: Value) -> Value:
        return while_loop(lambda c: ops.lt(c, 4.0), lambda c: ops.add(ops.mul(c, c), 1), ops.mul(c, 0.25))[0]

    return loop(step, 3, x)[0]


def branch(x: Value, w: Value) -> Value:
    fs = [ops.mul, lambda x, w: ops.sin(x)]
    return choice(ops.cast(ops.gt(total(x), 0.0), dtype=I64), fs, x, w)[0]


def counted(x: Value, n: Value) -> Value:
    """c = sin(c) + x, a number of times known at run time."""

    def inside(m: Dim, x: Value) -> tuple[Value, ...]:
        return loop(lambda k, c, x: ops.add(ops.sin(c), x), m, x, x)

    return sized(inside, n, x)[0]


def unconnected(x: Value, w: Value) -> tuple[Value, Value]:
    """Two carries that do not meet, a constant that only one of them reads."""
    return loop(lambda k, a, b, w: (ops.sin(a), ops.mul(b, w)), 3, x, constant(1.5), w, carried=2)


def passed_on(x: Value, w: Value) -> Value:
    """Carries that move along: a, b, c = b, c, a * b."""
    return loop(lambda k, a, b, c: (b, c, ops.mul(a, b)), 5, x, w, constant(1.5), carried=3)[0]


def rows(x: Value) -> Value:
    """The sum of growing pieces: shapes that depend on the index."""

    def step(k: Dim, c: Value, x: Value) -> Value:
        piece = ops.slice_(x, starts=(0,), limits=(k + 1,), strides=(1,))
        return ops.add(c, ops.mul(total(ops.exp(piece)), c))

    return loop(step, x.shape[0], constant(1.0), x)[0]


def part(x: Value, *bounds: tuple[Dim, Dim]) -> Value:
    """x[a:b, c:d, ...]"""
    starts, limits = zip(*bounds, strict=True)
    return ops.slice_(x, starts=starts, limits=limits, strides=(1,) * len(bounds))


def element(x: Value, *at: Dim) -> Value:
    return ops.reshape(part(x, *((k, k + 1) for k in at)), shape=())


def stored(x: Value, v: Value, *at: Dim) -> Value:
    """x with the elements from `at` on replaced by `v`, which is a number or has the rank of x."""
    v = v if v.shape else ops.reshape(v, shape=(1,) * len(at))
    return ops.put(x, v, starts=at, strides=(1,) * len(at))


def spread(x: Value, shape: tuple[Dim, ...], *axes: int) -> Value:
    return ops.broadcast.emit(x, shape=shape, axes=axes)


def heavy(a: Value) -> Value:
    """a with 4 added to its diagonal, so that it has factors."""
    return loop(lambda k, a: stored(a, ops.add(element(a, k, k), 4.0), k, k), a.shape[0], a)[0]


def lu(a: Value) -> Value:
    """Both factors, by rows and columns."""
    n, a = a.shape[0], heavy(a)

    def step(k: Dim, a: Value) -> Value:
        m = n - 1 - k
        row = ops.reshape(part(a, (k, k + 1), (k + 1, n)), shape=(m,))
        column = ops.reshape(part(a, (k + 1, n), (k, k + 1)), shape=(m,))
        factors = ops.div(column, spread(element(a, k, k), (m,)))
        a = stored(a, ops.reshape(factors, shape=(m, 1)), k + 1, k)
        products = ops.mul(spread(factors, (m, m), 0), spread(row, (m, m), 1))
        return stored(a, ops.sub(part(a, (k + 1, n), (k + 1, n)), products), k + 1, k + 1)

    return loop(step, n - 1, a)[0]


def lu_by_elements(a: Value) -> Value:
    n, a = a.shape[0], heavy(a)

    def step(k: Dim, a: Value) -> Value:
        def row(i: Dim, a: Value) -> Value:
            i = i + k + 1
            a = stored(a, ops.div(element(a, i, k), element(a, k, k)), i, k)

            def column(j: Dim, a: Value) -> Value:
                j = j + k + 1
                product = ops.mul(element(a, i, k), element(a, k, j))
                return stored(a, ops.sub(element(a, i, j), product), i, j)

            return loop(column, n - 1 - k, a)[0]

        return loop(row, n - 1 - k, a)[0]

    return loop(step, n - 1, a)[0]


def cholesky_by_elements(a: Value) -> Value:
    def minus_product(a: Value, i: Dim, j: Dim, k: Dim) -> Value:
        return stored(a, ops.sub(element(a, i, j), ops.mul(element(a, i, k), element(a, j, k))), i, j)

    def row(i: Dim, a: Value) -> Value:
        def column(j: Dim, a: Value) -> Value:
            (a,) = loop(lambda k, a: minus_product(a, i, j, k), j, a)
            return stored(a, ops.div(element(a, i, j), element(a, j, j)), i, j)

        (a,) = loop(column, i, a)
        (a,) = loop(lambda k, a: minus_product(a, i, i, k), i, a)
        return stored(a, ops.sqrt(element(a, i, i)), i, i)

    return loop(row, a.shape[0], heavy(a))[0]


def substitution(a: Value, b: Value) -> Value:
    """Forward, with the lower part of a."""
    n = b.shape[0]

    def step(i: Dim, x: Value, a: Value, b: Value) -> Value:
        before = ops.reshape(part(a, (i, i + 1), (0, i)), shape=(i,))
        rest = ops.sub(element(b, i), total(ops.mul(before, part(x, (0, i)))))
        return stored(x, ops.div(rest, element(a, i, i)), i)

    return loop(step, n, spread(constant(0.0), (n,)), a, b)[0]


def sweeps(x: Value) -> Value:
    """In place, with neighbours on both sides: what an element was is read and then changed."""

    def sweep(t: Dim, x: Value) -> Value:
        def point(i: Dim, x: Value) -> Value:
            beside = ops.add(element(x, i), element(x, i + 2))
            return stored(x, ops.sin(ops.mul(element(x, i + 1), beside)), i + 1)

        return loop(point, x.shape[0] - 2, x)[0]

    return loop(sweep, 3, x)[0]


def shrinking(x: Value) -> Value:
    """x[k:] = sin(x[k:])"""
    n = x.shape[0]
    return loop(lambda k, x: stored(x, ops.sin(part(x, (k, n))), k), n, x)[0]


def triangle(x: Value) -> Value:
    """Numbers of a loop inside, of which there are more and more."""

    def step(k: Dim, c: Value, x: Value) -> Value:
        return loop(lambda j, c, x: ops.sin(ops.mul(c, ops.add(at(x, j), c))), k, c, x)[0]

    return loop(step, x.shape[0], constant(1.2), x)[0]


X, V = f64(), f64(3)
PROGRAMS: dict[str, tuple[Callable, tuple[Type, ...]]] = {
    "powers": (powers, (V,)),
    "no_iterations": (no_iterations, (X,)),
    "one_iteration": (one_iteration, (X,)),
    "decay": (decay, (V, X)),
    "recurrent": (recurrent, (f64(1, 3), f64(3, 3), f64(4, 1, 3))),
    "recurrent_n": (recurrent, (f64(2, 3), f64(3, 3), f64(N, 2, 3))),
    "with_counter": (with_counter, (X,)),
    "by_counter": (by_counter, (X,)),
    "by_index": (by_index, (V,)),
    "nested": (nested, (X, X)),
    "triangular": (triangular, (X,)),
    "prefix_sums": (prefix_sums, (f64(5),)),
    "prefix_sums_n": (prefix_sums, (f64(N),)),
    "histogram": (histogram, (f64(6), Type(I64, (6,)))),
    "squared_until": (squared_until, (X,)),
    "newton": (newton, (X,)),
    "while_in_for": (while_in_for, (X,)),
    "branch": (branch, (V, X)),
    "counted": (counted, (X, INT)),
    "unconnected": (unconnected, (X, X)),
    "passed_on": (passed_on, (X, X)),
    "rows": (rows, (f64(4),)),
    "lu": (lu, (f64(4, 4),)),
    "lu_n": (lu, (f64(N, N),)),
    "lu_by_elements": (lu_by_elements, (f64(4, 4),)),
    "lu_by_elements_n": (lu_by_elements, (f64(N, N),)),
    "cholesky_by_elements": (cholesky_by_elements, (f64(3, 3),)),
    "cholesky_by_elements_n": (cholesky_by_elements, (f64(N, N),)),
    "substitution": (substitution, (f64(4, 4), f64(4))),
    "substitution_n": (substitution, (f64(N, N), f64(N))),
    "sweeps": (sweeps, (f64(5),)),
    "shrinking": (shrinking, (f64(4),)),
    "shrinking_n": (shrinking, (f64(N),)),
    "triangle": (triangle, (f64(4),)),
    "triangle_n": (triangle, (f64(N),)),
}


def program(name: str) -> Graph:
    f, operand_types = PROGRAMS[name]
    return graph(f, *operand_types)


def inputs(g: Graph, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)

    def draw(t: Type) -> np.ndarray:
        if t.dtype.kind == "i":
            return np.asarray(rng.integers(0, 4, t.shape))
        return np.asarray(rng.uniform(1.1, 1.5, t.shape))

    return [draw(p.type.substitute({"N": 4})) for p in g.params]
