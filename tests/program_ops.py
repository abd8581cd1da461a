"""How each op gets into a random program: a maker per op picks operands and attributes and adds the result to a draft.

`MAKERS[name](draft)` gives the new value, or None where the draft has nothing that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.op import constant
from tapefuse.ir.types import Dim, Poly, Shape, divide, size
from tests.program_draft import BOOL, F4, F8, I4, I8, MAX_SIZE, U1, B, Draft, Interval, is_never_empty, sizes

Maker = Callable[[Draft], Value | None]
NamedMaker = Callable[[Draft, str], Value | None]
MAKERS: dict[str, Maker] = {}

# Where an op is drawn from: the interval of its operand. Monotone functions take intervals to intervals.
DOMAINS = {"exp": (-3.0, 2.0), "expm1": (-3.0, 2.0), "log": (0.3, 99.0), "log1p": (-0.7, 99.0), "tan": (-1.2, 1.2)}
DOMAINS |= {"sqrt": (0.3, 99.0), "rsqrt": (0.3, 99.0), "exp2": (-3.0, 2.0), "log2": (0.3, 99.0), "sinh": (-2.0, 2.0)}
DOMAINS |= {"cosh": (0.0, 2.0), "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "erfc": (-3.0, 3.0)}
DOMAINS |= {"acosh": (1.2, 9.0), "atanh": (-0.9, 0.9), "cbrt": (0.3, 99.0), "lgamma": (2.2, 9.0), "gamma": (2.0, 6.0)}
DOMAINS |= {"ndtri": (0.05, 0.95), "erfinv": (-0.9, 0.9), "erfcinv": (0.1, 1.9), "erfcx": (-2.0, 3.0)}
DOMAINS |= {"log_ndtr": (-3.0, 3.0), "i0": (0.0, 3.0), "i1": (-3.0, 3.0), "i0e": (0.0, 9.0), "i1e": (-1.0, 1.0)}
SPECIAL = ("lgamma", "gamma", "ndtr", "ndtri", "erfinv", "erfcinv", "erfcx", "log_ndtr", "i0", "i1", "i0e", "i1e")
MONOTONE = ("exp", "expm1", "log", "log1p", "tan", "sqrt", "tanh", "erf", "sigmoid", "softplus", "relu", "sign")
MONOTONE += ("floor", "ceil", "round", "exp2", "log2", "sinh", "cosh", "asin", "acos", "atan", "erfc")


def makers(table: dict[str, Maker]) -> Callable[..., Callable[[NamedMaker], NamedMaker]]:
    """The decorator `maker(*names)` of functions that draw the ops of these names; each goes into `table` once."""

    def maker(*names: str) -> Callable[[NamedMaker], NamedMaker]:
        def register(make: NamedMaker) -> NamedMaker:
            for name in names:
                if name in table:
                    raise TypeError(f"{name} has two makers")
                table[name] = lambda d, name=name: make(d, name)
            return make

        return register

    return maker


maker = makers(MAKERS)


def hull(*corners: float) -> Interval:
    return min(corners), max(corners)


# -- elementwise ------------------------------------------------------------------------------------------------------


@maker("exp", "expm1", "log", "log1p", "tan", "sqrt", "rsqrt", "tanh", "erf", "sigmoid", "softplus", "sin", "cos")
@maker("exp2", "log2", "sinh", "cosh", "asin", "acos", "atan", "erfc", "cbrt", "asinh", "acosh", "atanh", *SPECIAL)
def smooth_unary(d: Draft, name: str) -> Value:
    x = d.any_of("f")
    x = d.within(x, *DOMAINS[name]) if name in DOMAINS else x
    low, high = d.ranges[x]
    if name in ("sin", "cos"):
        return d.new(d.emit(name, x), -1, 1)
    op = ops.OPS[name]
    return d.new(op.emit(x), *hull(*(float(op.ref(np.float64(end))) for end in (low, high))))


@maker("neg", "abs", "sign", "relu", "floor", "ceil", "round")
def unary(d: Draft, name: str) -> Value:
    x = d.any_of(d.one_of(("f", "f", "f", "i", "u")))
    y = d.emit(name, x)
    low, high = d.ranges[x]
    if x.dtype.kind != "f":
        return d.new(y, -1, 1) if name == "sign" and x.dtype.kind == "i" else d.new(y)
    if name == "neg":
        return d.new(y, -high, -low)
    if name == "abs":
        return d.new(y, 0, max(-low, high))
    return d.new(y, *hull(*(float(y.op.ref(np.float64(end))) for end in (low, high))))


@maker("add", "sub", "mul", "maximum", "minimum")
def binary(d: Draft, name: str) -> Value:
    a = d.any_of(d.one_of(("f", "f", "f", "f", "i", "u")))
    b = d.partner(a)
    a, b = (a, b) if d.chance(2) else (b, a)
    ref = ops.OPS[name].ref
    corners = [float(ref(x, y)) for x, y in product(map(float, d.ranges[a]), map(float, d.ranges[b]))]
    return d.new(d.emit(name, a, b), *hull(*corners))


@maker("div", "floordiv", "mod", "fmod")
def quotient(d: Draft, name: str) -> Value:
    a = d.any_of("f" if name == "div" else d.one_of(("f", "i", "i", "u")))
    b = d.partner(a)
    if a.dtype.kind != "f":
        return d.new(d.emit(name, a, b))
    b = d.within(b, 0.4, 20)
    low, high = d.ranges[b]
    if d.chance(3):
        b, low, high = d.new(ops.neg(b), -high, -low), -high, -low
    y = d.emit(name, a, b)
    if name == "mod":
        return d.new(y, min(low, 0), max(high, 0))
    if name == "fmod":
        return d.new(y, -max(-low, high), max(-low, high))
    corners = [x / z for x, z in product(d.ranges[a], (low, high))]
    return d.new(y, min(corners) - (name == "floordiv"), max(corners))


@maker("polygamma")
def polygamma(d: Draft, name: str) -> Value:
    x = d.within(d.any_of("f"), 0.4, 9)
    y = ops.polygamma(x, order=d.pick(0, 2))
    return d.new(y, *hull(*(float(y.op.ref(np.float64(end), **y.attributes)) for end in d.ranges[x])))


@maker("hypot", "logaddexp", "logaddexp2")
def binary_of_floats(d: Draft, name: str) -> Value:
    a = d.any_of("f")
    b = d.partner(a)
    ref = ops.OPS[name].ref
    corners = [float(ref(x, y)) for x, y in product(map(float, d.ranges[a]), map(float, d.ranges[b]))]
    return d.new(d.emit(name, a, b), *hull(*corners, *[0.0] * (name == "hypot")))


@maker("nextafter")
def neighbour(d: Draft, name: str) -> Value:
    a = ops.cast(d.any_of("i"), dtype=d.dtype)  # of whole numbers: differences would show a slope that it does not have
    return d.new(ops.nextafter(ops.maximum(ops.minimum(a, 9), -9), d.one_of((-9.0, 9.0, 0.5))), -10, 10)


@maker("signbit")
def sign_bit(d: Draft, name: str) -> Value:
    x = d.within(d.any_of("f"), 0.3, 9)  # the sign of a zero depends on how it was computed
    return d.new(ops.signbit(ops.neg(x) if d.chance(2) else x))


@maker("threefry")
def random_bits(d: Draft, name: str) -> Value:
    a = d.any_of(d.one_of(("i", "u")))
    wide = [ops.cast(x, dtype=np.dtype(np.uint64)) for x in (a, d.partner(a))]
    return d.new(ops.cast(d.emit(name, *wide), dtype=a.dtype))


@maker("shl", "shr")
def shift(d: Draft, name: str) -> Value:
    a = d.any_of(d.one_of(("i", "i", "u")))
    return d.new(d.emit(name, a, ops.and_(d.partner(a), 7)))


@maker("pow")
def power(d: Draft, name: str) -> Value:
    a = d.any_of(d.one_of(("f", "f", "i")))
    if a.dtype.kind != "f":
        exponent = d.new(ops.and_(d.partner(a), 3), 0, 3)
        return d.new(d.emit(name, a, exponent))
    if d.chance(2):
        n = d.one_of((2, 3, 0, 1, 4, 5, -1, 0.5))
        a = d.within(a, -2, 2) if n in (0, 1, 2, 3, 4, 5) else d.within(a, 0.4, 6)
        return d.new(ops.pow(a, float(n)), *hull(0.0, *(float(x) ** n for x in d.ranges[a])))
    a, p = d.within(a, 0.4, 3), d.within(d.partner(a), -2, 2)
    return d.new(ops.pow(a, p), *hull(*(x**y for x, y in product(d.ranges[a], d.ranges[p]))))


@maker("eq", "ne", "lt", "le", "gt", "ge")
def comparison(d: Draft, name: str) -> Value:
    a = d.any_of(d.one_of(("f", "i", "b") if name in ("eq", "ne") else ("f", "f", "i")))
    return d.new(d.emit(name, a, d.partner(a)))


@maker("and", "or", "xor")
def logic(d: Draft, name: str) -> Value:
    a = d.any_of(d.one_of(("b", "b", "i", "u")))
    return d.new(d.emit(name, a, d.partner(a)))


@maker("not")
def negation(d: Draft, name: str) -> Value:
    return d.new(d.emit(name, d.any_of(d.one_of(("b", "b", "i", "u")))))


@maker("select")
def choice(d: Draft, name: str) -> Value:
    a = d.any_of(d.kind("f", "f", "f", "i", "b"))
    c = d.partner(a, dtype=BOOL)
    b = d.partner(a, c) if d.broadcast_size(a, c) <= MAX_SIZE else d.scalar(1.0, a.dtype)
    a, b = (a, b) if d.chance(2) else (b, a)
    return d.new(d.emit(name, c, a, b), *hull(*d.ranges[a], *d.ranges[b]))


@maker("cast")
def conversion(d: Draft, name: str) -> Value:
    x = d.any_of(d.one_of(("f", "f", "b", "i", "u")))
    to = d.one_of((F8, F4, I8, I4, U1, BOOL))
    low, high = d.ranges[x]
    if to.kind == "f" and max(-low, high) > 1000:
        x = ops.mod(x, 7) if x.dtype.kind == "i" else ops.minimum(x, 7)
        low, high = 0, 7
    if x.dtype.kind == "f" and to.kind in "iu" and to != I8 and d.chance(2):
        x = d.within(x, 0.1, 6)
        low, high = d.ranges[x]
    if x.dtype.kind == "f" and to.kind == "u" and low < 0:
        x = d.within(x, 0.1, 11)
        low, high = d.ranges[x]
    if to.kind == "b":
        low, high = 0, 1
    elif to.kind in "iu" and x.dtype.kind == "f":
        low, high = math.trunc(low), math.trunc(high)
    return d.new(d.emit(name, x, dtype=to), low, high)


@maker("atan2")
def angle(d: Draft, name: str) -> Value:
    a = d.any_of("f")
    return d.new(d.emit(name, a, d.within(d.partner(a), 0.4, 20)), -1.6, 1.6)


@maker("after")
def late(d: Draft, name: str) -> Value:
    """A value that waits for any other."""
    x = d.any_of(d.kind("f", "f", "i", "b"))
    return d.new(d.emit(name, x, d.any_of(d.one_of(("f", "i")))), *d.ranges[x])


@maker("stop_gradient")
def stopped(d: Draft, name: str) -> Value:
    x = d.any_of(d.kind("f", "f", "i", "b"))
    return d.new(d.emit(name, x), *d.ranges[x])


@maker("missing_gradient")
def missing(d: Draft, name: str) -> Value:
    """Not on the path of a derivative, which would be an error."""
    x = d.any_of(d.kind("f", "i", "b"))
    y = ops.stop_gradient(x) if x.dtype.kind in "fc" else x
    return d.new(d.emit(name, y, name="adjust_contrast"), *d.ranges[x])


# -- shapes -----------------------------------------------------------------------------------------------------------


def split(d: Draft, n: Dim) -> Shape:
    """A dimension as a product of two."""
    found = [(f, q) for f in (2, 3, 5, B) if (q := divide(n, f)) is not None and n != 0]
    first, second = d.one_of(found) if found else (1, n)
    return (first, second) if d.chance(2) else (second, first)


@maker("reshape")
def regrouped(d: Draft, name: str) -> Value:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"))
    shape = list(x.shape)
    for _ in range(d.pick(1, 3)):
        way, rank = d.pick(0, 4), len(shape)
        k = d.pick(0, max(rank - 1, 0))
        if way == 0 and rank < 4:
            shape.insert(k, 1)
        elif way == 1 and rank >= 2:
            k = min(k, rank - 2)
            shape[k : k + 2] = [shape[k] * shape[k + 1]]
        elif way == 2 and 0 < rank < 4:
            shape[k : k + 1] = split(d, shape[k])
        elif way == 3:
            shape = [n for n in shape if n != 1]
        elif way == 4 and d.chance(2):
            shape = [size(shape)]
    return d.new(d.emit(name, x, shape=tuple(shape)), *d.ranges[x])


@maker("transpose")
def permuted(d: Draft, name: str) -> Value:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"), lambda v: len(v.shape) > 0)
    left = list(range(len(x.shape)))
    perm = tuple(left.pop(d.pick(0, len(left) - 1) if d.chance(2) else -1) for _ in x.shape)
    return d.new(d.emit(name, x, perm=perm), *d.ranges[x])


@maker("broadcast")
def repeated(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"), lambda v: len(v.shape) < 4)
    shape, axes = list(x.shape), list(range(len(x.shape)))
    for _ in range(d.pick(1, max(4 - len(shape), 1))):
        k = d.pick(0, len(shape))
        shape.insert(k, d.extent())
        axes = [a + (a >= k) for a in axes]
    if max(sizes(size(shape))) > MAX_SIZE:
        return None
    return d.new(d.emit(name, x, shape=tuple(shape), axes=tuple(axes)), *d.ranges[x])


@maker("flip")
def reversed_(d: Draft, name: str) -> Value:
    x = d.any_of(d.kind("f", "f", "i"), lambda v: len(v.shape) > 0)
    return d.new(d.emit(name, x, axes=d.axes(len(x.shape))), *d.ranges[x])


def cut(d: Draft, n: Dim) -> tuple[Dim, Dim, int]:
    """start, limit and stride for an axis of extent `n`."""
    if d.chance(3):
        return 0, n, 1
    if isinstance(n, Poly):
        start, end = d.pick(0, 1), d.pick(0, 1)
        fits = min(sizes(n - start - end)) >= 0
        return (start, n - end, 1) if fits else (0, n, 1)
    start = d.pick(0, n)
    limit = d.pick(start, n) if d.chance(2) else n
    if start == limit and not d.chance(12):
        start, limit = 0, n
    return start, limit, d.one_of((1, 1, 2, 3))


@maker("slice")
def part(d: Draft, name: str) -> Value:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"), lambda v: len(v.shape) > 0)
    starts, limits, strides = zip(*(cut(d, n) for n in x.shape), strict=True) if x.shape else ((), (), ())
    return d.new(d.emit(name, x, starts=starts, limits=limits, strides=strides), *d.ranges[x])


@maker("pad")
def padded(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"), lambda v: len(v.shape) > 0)
    low = tuple(d.one_of((0, 1, 2)) for _ in x.shape)
    high = tuple(d.one_of((0, 0, 1, 3)) for _ in x.shape)
    interior = tuple(d.one_of((0, 0, 0, 1, 2)) if is_never_empty((n,)) else 0 for n in x.shape)
    values = {"f": d.one_of((0.0, 1.0, -0.5)), "b": d.chance(2), "c": 0.5 - 1j}
    value = values.get(x.dtype.kind, d.pick(0, 5))
    y = d.emit(name, x, low=low, high=high, interior=interior, value=value)
    if max(sizes(size(y.shape))) > MAX_SIZE:
        return None
    return d.new(y, *hull(*d.ranges[x], abs(value) if x.dtype.kind == "c" else float(value)))


@maker("concat")
def joined(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"), lambda v: len(v.shape) > 0)
    if not x.shape:
        return None
    axis = d.pick(0, len(x.shape) - 1)
    rest = lambda v: (v.dtype, len(v.shape), v.shape[:axis], v.shape[axis + 1 :])
    xs = [x]
    for _ in range(d.one_of((1, 1, 2, 0))):
        other = d.existing(lambda v: rest(v) == rest(x))
        if other is None or d.chance(3):
            other = d.param(x.dtype, (*x.shape[:axis], d.extent(), *x.shape[axis + 1 :]))
        xs.append(other)
    if d.chance(2):
        xs.reverse()
    y = d.emit(name, *xs, axis=axis)
    return d.new(y, *hull(*(end for v in xs for end in d.ranges[v]))) if max(sizes(size(y.shape))) <= MAX_SIZE else None


@maker("iota")
def counted(d: Draft, name: str) -> Value:
    shape = d.shape(d.one_of((1, 2, 3)))
    axis = d.pick(0, len(shape) - 1)
    y = d.emit(name, shape=shape, axis=axis, dtype=d.one_of((I8, I4, d.dtype)))
    return d.new(y, 0, max(max(sizes(shape[axis])) - 1, 0))


@maker("basis")
def units(d: Draft, name: str) -> Value | None:
    shape = d.shape(d.one_of((1, 1, 2, 0)))
    if max(sizes(size(shape))) > 24:
        return None
    return d.new(d.emit(name, shape=shape, dtype=d.one_of((d.dtype, d.dtype, I8))), 0, 1)


@maker("dim")
def extent(d: Draft, name: str) -> Value:
    n = d.one_of((B, 2 * B + 1, B * B - 1, 3 - B)) if d.symbolic else d.one_of((2, 3))
    return d.new(d.emit(name, value=n, dtype=d.one_of((I8, I4, d.dtype))), *hull(*sizes(n)))


@maker("const")
def literal(d: Draft, name: str) -> Value:
    shape = tuple(n if isinstance(n, int) else 2 for n in d.shape(d.pick(0, 2)))
    return d.array(
        d.one_of((d.dtype, d.dtype, I8, BOOL)), shape if size(shape) <= 24 else shape[:1], 0, 1 + d.pick(0, 1)
    )


# -- reductions, products, indices ------------------------------------------------------------------------------------


def count(x: Value, axes: tuple[int, ...]) -> int:
    return max(sizes(size(x.shape[a] for a in axes)), default=1)


@maker("reduce_sum")
def total(d: Draft, name: str) -> Value:
    x = d.any_of(d.kind("f", "f", "f", "i", "u"))
    axes = d.axes(len(x.shape))
    n, (low, high) = count(x, axes), d.ranges[x]
    return d.new(d.emit(name, x, axes=axes), min(n * low, low, 0), max(n * high, high, 0))


@maker("reduce_prod")
def product_(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.one_of(("f", "f", "i", "u")))
    axes = d.axes(len(x.shape))
    if x.dtype.kind != "f":
        return d.new(d.emit(name, x, axes=axes))
    n = count(x, axes)
    if n > 60:
        return None
    x = d.within(x, -1.5, 1.5) if n <= 3 else d.within(x, 0.7, 1.2) if d.chance(2) else d.within(x, -1.0, 1.0)
    most = max(d.magnitude(x), 1) ** n
    return d.new(d.emit(name, x, axes=axes), 0 if d.ranges[x][0] >= 0 else -most, most)


@maker("reduce_max", "reduce_min")
def extreme(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.one_of(("f", "f", "f", "i", "u")))
    axes = d.axes(len(x.shape))
    if not is_never_empty(x.shape[a] for a in axes):
        return None
    return d.new(d.emit(name, x, axes=axes), *d.ranges[x])


@maker("reduce_any", "reduce_all")
def quantified(d: Draft, name: str) -> Value:
    x = d.any_of("b")
    return d.new(d.emit(name, x, axes=d.axes(len(x.shape))))


@maker("argmax", "argmin")
def position(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.one_of(("f", "f", "i")), lambda v: len(v.shape) > 0)
    axis = d.pick(0, len(x.shape) - 1) if x.shape else 0
    if not x.shape or not is_never_empty((x.shape[axis],)):
        return None
    return d.new(d.emit(name, x, axis=axis), 0, max(sizes(x.shape[axis])) - 1)


@maker("sort", "argsort")
def in_order(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.one_of(("f", "f", "f", "i", "u")), lambda v: len(v.shape) > 0)
    if not x.shape:
        return None
    axis = d.pick(0, len(x.shape) - 1)
    y = d.emit(name, x, axis=axis)
    return d.new(y, *d.ranges[x]) if name == "sort" else d.new(y, 0, max(max(sizes(x.shape[axis])) - 1, 0))


@maker("searchsorted")
def searched(d: Draft, name: str) -> Value | None:
    a = d.any_of(d.one_of(("f", "f", "i")), lambda v: len(v.shape) > 0)
    if not a.shape:
        return None
    lead = len(a.shape) - 1
    v = d.existing(lambda v: v.dtype == a.dtype and v.shape[:lead] == a.shape[:lead])
    v = d.param(a.dtype, (*a.shape[:lead], d.extent())) if v is None else v
    ordered = d.new(d.emit("sort", a, axis=lead), *d.ranges[a])
    return d.new(d.emit(name, ordered, v, lead=lead, right=d.chance(2)), 0, max(sizes(a.shape[lead])))


@maker("cumsum")
def running(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.kind("f", "f", "f", "i"), lambda v: len(v.shape) > 0)
    if not x.shape:
        return None
    axis, (low, high) = d.pick(0, len(x.shape) - 1), d.ranges[x]
    most = max(sizes(x.shape[axis]))
    return d.new(d.emit(name, x, axis=axis, reverse=d.chance(2)), min(low * most, low, 0), max(high * most, high, 0))


@maker("matmul")
def matrix_product(d: Draft, name: str, kind: str = "") -> Value | None:
    a = d.any_of(kind or d.one_of(("f", "f", "f", "f", "i")), lambda v: len(v.shape) >= 2)
    if len(a.shape) < 2:
        a = d.param(a.dtype, d.shape(2))
    if d.chance(3):
        a = d.new(ops.transpose(a, perm=swapped(len(a.shape))), *d.ranges[a])
    *lead, _, k = a.shape
    b = d.existing(lambda v: v.dtype == a.dtype and len(v.shape) >= 2 and k in v.shape[-2:] and _leads(d, a, v))
    if b is None or d.chance(4):
        kept = tuple(1 if d.chance(3) else n for n in lead[d.pick(0, len(lead)) :])
        b = d.param(a.dtype, (*kept, k, d.extent()) if d.chance(2) else (*kept, d.extent(), k))
    if b.shape[-2] != k:
        b = d.new(ops.transpose(b, perm=swapped(len(b.shape))), *d.ranges[b])
    y = d.emit(name, a, b)
    if max(sizes(size(y.shape))) > MAX_SIZE:
        return None
    if a.dtype.kind not in "fc":
        return d.new(y)
    most = max(max(sizes(k)) * d.magnitude(a) * d.magnitude(b), 1e-3)
    return d.new(y, -most, most)


def swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def _leads(d: Draft, a: Value, b: Value) -> bool:
    """Whether the leading axes of two matrices broadcast."""
    return all(1 in (m, n) or m == n for m, n in zip(a.shape[-3::-1], b.shape[-3::-1], strict=False))


@maker("cholesky", "inv", "pinv", "det", "cofactors", "slogdet", "eigvalsh", "svdvals", "solve", "triangular_solve")
def decomposed(d: Draft, name: str) -> Value | None:
    """Of symmetric matrices with eigenvalues from 1 to n^2 + 1."""
    n = d.one_of((2, 3, 1, 4))
    x = d.existing(lambda v: v.dtype == d.dtype and v.shape[-2:] == (n, n))
    x = d.within(d.param(d.dtype, (*d.shape(d.one_of((0, 1, 1, 2))), n, n)) if x is None else x, -1.0, 1.0)
    if max(sizes(size(x.shape))) > MAX_SIZE:
        return None
    a = ops.matmul(x, ops.transpose(x, perm=swapped(len(x.shape))))
    a = ops.add(a, constant(np.eye(n, dtype=d.dtype)))
    largest = float(n * n + 1)
    if name in ("solve", "triangular_solve"):
        return _system(d, name, a, n)
    more = (constant(1e-6, d.dtype),) if name == "pinv" else ()
    attrs = {"upper": d.chance(2)} if name == "eigvalsh" else {}
    most = {"inv": 1.0, "pinv": 1.0, "det": largest**n, "cofactors": largest**n}.get(name, largest)
    return d.new(d.emit(name, a, *more, **attrs), -most if name not in ("eigvalsh", "svdvals", "det") else 0, most)


def _system(d: Draft, name: str, a: Value, n: int) -> Value | None:
    b = d.existing(lambda v: v.dtype == d.dtype and v.shape[-2:-1] == (n,) and v.shape[:-2] in ((), a.shape[:-2]))
    b = d.param(d.dtype, (*a.shape[:-2], n, d.extent())) if b is None else b
    if max(sizes(size(a.shape[:-2]))) * max(sizes(size(b.shape[-2:]))) > MAX_SIZE:
        return None
    most = n**0.5 * max(d.magnitude(b), 1e-3)
    if name == "solve":
        return d.new(d.emit(name, a, b), -most, most)
    kind = {"lower": True, "transpose": d.chance(2), "unit": False}
    return d.new(d.emit(name, ops.cholesky(a), b, **kind), -most, most)


@maker("gather")
def picked(d: Draft, name: str) -> Value | None:
    x = d.any_of(d.kind("f", "f", "f", "i", "b"), lambda v: len(v.shape) > 0)
    if not x.shape:
        return None
    m = d.pick(1, min(2, len(x.shape)))
    if not is_never_empty(x.shape[:m]):
        return None
    shape = d.shape(d.one_of((1, 1, 2, 0)))
    idx = [d.positions(shape[1:] if k and d.chance(3) else shape, n) for k, n in enumerate(x.shape[:m])]
    y = d.emit(name, x, *idx)
    return d.new(y, *d.ranges[x]) if max(sizes(size(y.shape))) <= MAX_SIZE else None


@maker("scatter_add")
def scattered(d: Draft, name: str) -> Value | None:
    v = d.any_of(d.kind("f", "f", "f", "i"))
    r = d.pick(0, min(len(v.shape), 2))
    lead, rest = v.shape[:r], v.shape[r:]
    extents = [n if is_never_empty((n := d.extent(),)) else 3 for _ in range(d.one_of((1, 1, 2)))]
    idx = [d.positions(lead[1:] if k and d.chance(3) else lead, n) for k, n in enumerate(extents)]
    if len(extents) + len(rest) > 4 or max(sizes(size((*extents, *rest)))) > MAX_SIZE:
        return None
    y = d.emit(name, v, *idx, shape=(*extents, *rest))
    if v.dtype.kind not in "fc":
        return d.new(y)
    n, (low, high) = max(sizes(size(lead))), d.ranges[v]
    return d.new(y, min(n * low, low, 0), max(n * high, high, 0))
