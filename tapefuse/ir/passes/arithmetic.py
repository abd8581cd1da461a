"""Rules of `simplify` on elementwise ops.

Every rule keeps the value to the bit: nan, infinities and the sign of zero included (payloads of nan aside). This rules
out x + 0 = x (at -0), x * 0 = 0, x - x = 0, -(a - b) = b - a, and x / x = 1 for floats. One rule rounds otherwise: x**2
to x**4 become products, the square correctly rounded, the others within 1 ulp of the power.
"""

# ruff: noqa: PLW0108 (a right side names the variables that it takes)
from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.halves import kind_of, limits
from tapefuse.ir.op import Op, constant
from tapefuse.ir.passes.fold import folded
from tapefuse.ir.rewrite import Pattern, is_scalar, p, rule, scalar, variables
from tapefuse.ir.types import Dim, broadcast_shapes

x, y, z, cond, to, inner = variables("x y z cond to inner")
c, d = variables("c d", is_scalar)
NEGATIVE_ZERO = -0.0


def number(value: Any, like: Value) -> Value:
    """A scalar constant in the dtype of `like`."""
    return constant(value, like.dtype)


def fill(value: Value, shape: tuple[Dim, ...]) -> Value:
    """A scalar repeated to a shape."""
    return ops.broadcast.emit(value, shape=shape, axes=()) if shape else value


def stretched(v: Value, root: Value) -> Value:
    """`v` broadcast to the shape of `root` by NumPy's rules."""
    return ops.family.stretch(v, root.shape)


def is_float(v: Value) -> bool:
    return kind_of(v.dtype) == "f"


def negated(k: Value) -> Value:
    return constant(np.negative(scalar(k)), k.dtype)


def reciprocal(x: Value, c: Value) -> Value | None:
    """x / 2^k as a product: exact, since 1 / 2^k is, unless it overflows or is subnormal."""
    k = scalar(c)
    if not is_float(c) or not np.isfinite(k) or abs(math.frexp(k)[0]) != 0.5:
        return None
    with np.errstate(all="ignore"):
        inverse = k.dtype.type(1) / k
    if not np.isfinite(inverse) or abs(inverse) < limits(k.dtype).tiny:
        return None
    return ops.mul(x, constant(inverse, x.dtype))


def power(x: Value, c: Value) -> Value | None:
    """Small integer powers as products. x**0.5 is not sqrt(x): they differ at -0 and -inf."""
    k = scalar(c)
    if k == 2:
        return ops.mul(x, x)
    if k == 3:
        return ops.mul(ops.mul(x, x), x)
    if k == 4:
        return ops.mul(ops.mul(x, x), ops.mul(x, x))
    if k == 0:
        return fill(number(1, x), x.shape)
    return ops.div(number(1, x), x) if k == -1 and is_float(x) else None


def thrice(x: Value) -> Value | None:
    """x + x is exact, so that (x + x) + x is 3 x rounded once."""
    return ops.mul(x, number(3, x)) if kind_of(x.dtype) in "fiu" else None


def whole_factor(x: Value, c: Value, d: Value) -> Value | None:
    """x c d with whole c and d of which one is a power of two: that product is exact unless it overflows, as both do,
    and what is no normal number stays a multiple of the smallest one."""
    k, n = scalar(c), scalar(d)
    if not is_float(c) or not (_is_whole(k) and _is_whole(n)):
        return None
    if 0.5 not in (abs(math.frexp(k)[0]), abs(math.frexp(n)[0])):
        return None
    with np.errstate(all="ignore"):
        product = k * n
    return ops.mul(x, constant(product, x.dtype)) if float(product) == float(k) * float(n) else None


def _is_whole(k: Any) -> bool:
    return bool(np.isfinite(k)) and k != 0 and float(k).is_integer()


def is_exact_cast(a: np.dtype, b: np.dtype) -> bool:
    """Whether every number of dtype `a` is one of dtype `b`. (NumPy calls int64 -> float64 safe, which rounds.)"""
    return np.can_cast(a, b, "safe") and not (kind_of(b) == "f" and a.kind in "iu" and a.itemsize == 8)


def shorter_cast(x: Value, inner: np.dtype, to: np.dtype) -> Value | None:
    """Past an exact conversion, unless an overflow from float to integer would become one between integers."""
    may_overflow = kind_of(inner) == "f" and to.kind in "iu" and not is_exact_cast(x.dtype, to)
    return ops.cast(x, dtype=to) if is_exact_cast(x.dtype, inner) and not may_overflow else None


def unrepeated(v: Value) -> Value | None:
    """What NumPy's rules of broadcasting would repeat to `v`, or None."""
    if v.op is ops.broadcast:
        (source,), axes = v.args, v.attributes["axes"]
        return source if axes == tuple(range(len(v.shape) - len(axes), len(v.shape))) else None
    if v.op is ops.reshape:
        (source,) = v.args
        ones = len(v.shape) - len(source.shape)
        return source if ones > 0 and v.shape == (1,) * ones + source.shape else None
    return None


def implicit_broadcast(root: Value) -> Value | None:
    """Operands are read unrepeated where the others give the shape."""
    assert root.op is not None
    args = list(root.args)
    for k, v in enumerate(root.args):
        small = unrepeated(v)
        if small is not None:
            others = [*args[:k], small, *args[k + 1 :]]
            if broadcast_shapes(*(a.shape for a in others)) == root.shape:
                args = others
    return root.op.emit(*args, **root.attributes) if tuple(args) != root.args else None


def repeat_late(root: Value) -> Value | None:
    """op(repeat x, repeat y, scalar) = repeat op(x, y, scalar): the work is done once."""
    assert root.op is not None
    wide = [a for a in root.args if a.shape]
    if not wide or wide[0].shape != root.shape:
        return None
    if any(a.op is not ops.broadcast or a.attrs != wide[0].attrs for a in wide):
        return None
    once = root.op.emit(*(a.args[0] if a.shape else a for a in root.args), **root.attributes)
    return ops.broadcast(folded(once) or once, **wide[0].attributes)


def uniform(root: Value) -> Value | None:
    """An array constant with one value throughout is that scalar, repeated."""
    array = root.attrs[0][1].array
    if not array.shape or not array.size:
        return None
    first = array.reshape(-1)[:1]
    if array.tobytes() != first.tobytes() * array.size:
        return None
    return fill(constant(first[0]), root.shape)


def never(root: Value, x: Value) -> Value:
    return fill(constant(False), root.shape)


def _is_elementwise(op: Op) -> bool:
    return op.elementwise


# fmt: off
RULES = (
    # sums
    rule("add_zero", p.add(x, NEGATIVE_ZERO), lambda x: x if is_float(x) else None),           # x + (-0.0) = x
    rule("add_zero_integer", p.add(x, 0), lambda x: None if is_float(x) else x),               # x + 0 = x
    rule("sub_zero", p.sub(x, 0), lambda x: x),                                                # x - 0 = x
    rule("add_neg", p.add(x, p.neg(y)), lambda x, y: ops.sub(x, y)),                           # x + (-y) = x - y
    rule("sub_neg", p.sub(x, p.neg(y)), lambda x, y: ops.add(x, y)),                           # x - (-y) = x + y
    rule("add_thrice", p.add(p.add(x, x), x), thrice),                                         # (x + x) + x = x 3
    # signs move outwards, to meet sums
    rule("neg_neg", p.neg(p.neg(x)), lambda x: x),                                             # -(-x) = x
    rule("neg_mul_const", p.neg(p.mul(x, c)), lambda x, c: ops.mul(x, negated(c))),            # -(x c) = x (-c)
    rule("mul_neg_const", p.mul(p.neg(x), c), lambda x, c: ops.mul(x, negated(c))),            # (-x) c = x (-c)
    rule("mul_neg", p.mul(p.neg(x), y), lambda x, y: ops.neg(ops.mul(x, y))),                  # (-x) y = -(x y)
    rule("div_neg_left", p.div(p.neg(x), y), lambda x, y: ops.neg(ops.div(x, y))),             # (-x) / y = -(x / y)
    rule("div_neg_right", p.div(x, p.neg(y)), lambda x, y: ops.neg(ops.div(x, y))),            # x / (-y) = -(x / y)
    rule("abs_neg", p.abs(p.neg(x)), lambda x: ops.abs(x) if kind_of(x.dtype) in "fi" else None),  # |-x| = |x|
    rule("abs_abs", p.abs(p.abs(x)), lambda root: root.args[0]),                               # ||x|| = |x|
    # products and powers
    rule("mul_one", p.mul(x, 1), lambda x: x),                                                 # x 1 = x
    rule("mul_minus_one", p.mul(x, -1), lambda x: ops.neg(x)),                                 # x (-1) = -x
    rule("mul_whole", p.mul(p.mul(x, c), d), whole_factor),                                    # (x 3) 2 = x 6
    rule("div_one", p.div(x, 1), lambda x: x),                                                 # x / 1 = x
    rule("div_power_of_two", p.div(x, c), reciprocal),                                         # x / 2^k = x 2^-k
    rule("floordiv_one", p.floordiv(x, 1), lambda x: None if is_float(x) else x),              # x // 1 = x, integers
    rule("pow_one", p.pow(x, 1), lambda x: x),                                                 # x^1 = x
    rule("pow_small", p.pow(x, c), power),                                                     # x^2 = x x, ...
    # choices
    rule("maximum_same", p.maximum(x, x), lambda x: x),                                        # max(x, x) = x
    rule("minimum_same", p.minimum(x, x), lambda x: x),                                        # min(x, x) = x
    rule("relu_relu", p.relu(p.relu(x)), lambda root: root.args[0]),                           # relu is idempotent
    rule("select_true", p.select(True, x, y), lambda root, x: stretched(x, root)),             # true ? x : y = x
    rule("select_false", p.select(False, x, y), lambda root, y: stretched(y, root)),           # false ? x : y = y
    rule("select_same", p.select(cond, x, x), lambda root, x: stretched(x, root)),             # c ? x : x = x
    rule("select_not", p.select(p.not_(cond), x, y),
         lambda cond, x, y: ops.select(cond, y, x)),                                           # !c ? x : y = c ? y : x
    rule("select_then", p.select(cond, p.select(cond, x, y), z),
         lambda root, cond, x, z: _same_shape(root, ops.select(cond, x, z))),                  # c ? (c ? x : y) : z
    rule("select_else", p.select(cond, x, p.select(cond, y, z)),
         lambda root, cond, x, z: _same_shape(root, ops.select(cond, x, z))),                  # c ? x : (c ? y : z)
    # logic; bools only where a constant is asked for, which matches bools alone
    rule("not_not", p.not_(p.not_(x)), lambda x: x),                                           # !!x = x
    rule("not_eq", p.not_(p.eq(x, y)), lambda x, y: ops.ne(x, y)),                             # !(x == y) = x != y
    rule("not_ne", p.not_(p.ne(x, y)), lambda x, y: ops.eq(x, y)),                             # !(x != y) = x == y
    rule("and_true", p.and_(x, True), lambda x: x),                                            # x & true = x
    rule("or_false", p.or_(x, False), lambda x: x),                                            # x | false = x
    rule("and_false", p.and_(x, False), never),                                                # x & false = false
    rule("lt_same", p.lt(x, x), never),                                                        # x < x = false, nan too
    rule("gt_same", p.gt(x, x), never),                                                        # x > x = false
    # casts
    rule("cast_same", p.cast(x), lambda root, x: x if x.dtype == root.dtype else None),        # x as its own dtype
    rule("cast_cast", p.cast(p.cast(x, dtype=inner), dtype=to), shorter_cast),                 # f32 -> f64 -> f32
    # identities which only derivatives see; these were taken before
    rule("stop_gradient", p.stop_gradient(x), lambda x: x),
    rule("credit", Pattern("credit"), lambda root: root.args[0]),
    rule("ruled", Pattern("ruled"), lambda root: root.args[0]),
    rule("invertible", Pattern("invertible"), lambda root: root.args[root.attributes["number"]]),
    rule("missing_gradient", p.missing_gradient(x), lambda x: x),
    # tests were made before, and what prints is not compiled
    rule("having", Pattern("having"), lambda root: root.args[0]),
    # broadcasting
    rule("uniform", Pattern("const"), uniform),
    rule("repeat_late", Pattern(_is_elementwise), repeat_late),
    rule("implicit_broadcast", Pattern(_is_elementwise), implicit_broadcast),
)
# fmt: on


def _same_shape(root: Value, v: Value) -> Value | None:
    return v if v.shape == root.shape else None
