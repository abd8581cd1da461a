"""The scalar functions that the Numba backend's source calls, as plain Python and under `@njit` alike.

Scalars keep their dtype: `exp(np.float32(1))` is a float32 in both worlds. Under `@njit` a call becomes the LLVM
instructions that stand beside the plain function here; nothing is compiled for it on its own. Imports Numba.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from tapefuse.ir.ops.random import encrypted, encrypted_number

_LAST = (lambda x: x, lambda x, y: y, lambda c, x, y: y)  # by arity: the result has the last argument's type


def compiled(function: Callable, typer: Callable | None = None) -> Callable[[Callable], Callable]:
    """Registers what `function` means under `@njit`: `emit(builder, type, *values)` appends it and returns the result.

    `type` is the Numba type of the last argument and of the result. With `typer`, which maps argument types to the
    result's, the code generator is called as Numba does it: `emit(context, builder, signature, values)`.
    """
    arity = len(inspect.signature(function).parameters)
    type_callable(function)(lambda context: typer or _LAST[arity - 1])

    def register(emit: Callable) -> Callable:
        @lower_builtin(function, *[types.Any] * arity)
        def code(context, builder, sig, args):
            return emit(context, builder, sig, args) if typer else emit(builder, sig.return_type, *args)

        return emit

    return register


def _call(builder: Any, name: str, *xs: Any) -> Any:
    """A function of the C library or of LLVM whose operands and result have one type; LLVM's names carry it."""
    t = xs[0].type
    if name.startswith("llvm."):
        name += f".{t.intrinsic_name}"
    elif isinstance(t, ir.FloatType):
        name += "f"
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(t, [t] * len(xs)), name), xs)


def _number(x: Any, value: float) -> ir.Constant:
    return ir.Constant(x.type, value)


# -- functions of one float -----------------------------------------------------------------------------


def _unary(plain: Callable, code: str) -> Callable:
    """A function of one float: `plain` in Python, `code` of LLVM ("llvm.exp") or of the C library under `@njit`."""

    def function(x):
        return plain(x)

    function.__name__ = function.__qualname__ = code.removeprefix("llvm.")
    compiled(function)(lambda builder, type, x: _call(builder, code, x))
    return function


exp = _unary(np.exp, "llvm.exp")
log = _unary(np.log, "llvm.log")
sin = _unary(np.sin, "llvm.sin")
cos = _unary(np.cos, "llvm.cos")
sqrt = _unary(np.sqrt, "llvm.sqrt")
floor = _unary(np.floor, "llvm.floor")
ceil = _unary(np.ceil, "llvm.ceil")
round_even = _unary(np.rint, "llvm.rint")
log1p = _unary(np.log1p, "log1p")
expm1 = _unary(np.expm1, "expm1")
tan = _unary(np.tan, "tan")
tanh = _unary(np.tanh, "tanh")
erf = _unary(lambda x: x.dtype.type(math.erf(x)), "erf")
erfc = _unary(lambda x: x.dtype.type(math.erfc(x)), "erfc")
exp2 = _unary(np.exp2, "llvm.exp2")
log2 = _unary(np.log2, "llvm.log2")
sinh = _unary(np.sinh, "sinh")
cosh = _unary(np.cosh, "cosh")
asin = _unary(np.arcsin, "asin")
acos = _unary(np.arccos, "acos")
atan = _unary(np.arctan, "atan")


def rsqrt(x):
    """1 / sqrt(x)."""
    return np.sqrt(x).dtype.type(1) / np.sqrt(x)


@compiled(rsqrt)
def _rsqrt(builder, type, x):
    return builder.fdiv(_number(x, 1.0), _call(builder, "llvm.sqrt", x))


def sigmoid(x):
    """1 / (1 + exp(-x)), by exp(-|x|), which never overflows."""
    e = np.exp(-np.abs(x))
    one = e.dtype.type(1)
    return (one if x >= 0 else e) / (one + e)


def _exp_below(builder, x):
    """exp(-|x|)"""
    return _call(builder, "llvm.exp", builder.fneg(_call(builder, "llvm.fabs", x)))


@compiled(sigmoid)
def _sigmoid(builder, type, x):
    e, one = _exp_below(builder, x), _number(x, 1.0)
    return builder.fdiv(builder.select(builder.fcmp_ordered(">=", x, _number(x, 0.0)), one, e), builder.fadd(one, e))


def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    e = np.exp(-np.abs(x))
    return np.maximum(x, e.dtype.type(0)) + np.log1p(e)


@compiled(softplus)
def _softplus(builder, type, x):
    positive = _maximum(builder, type, x, _number(x, 0.0))
    return builder.fadd(positive, _call(builder, "log1p", _exp_below(builder, x)))


# -- numbers of any kind --------------------------------------------------------------------------------


def select(condition, x, y):
    """`x` where the condition holds, else `y`."""
    return x if condition else y


@compiled(select)
def _select(builder, type, condition, x, y):
    return builder.select(condition, x, y)


def absolute(x):
    """|x|; the smallest integer stays itself."""
    return np.abs(x)


@compiled(absolute)
def _absolute(builder, type, x):
    if isinstance(type, types.Float):
        return _call(builder, "llvm.fabs", x)
    return builder.select(_less(builder, type, x, _number(x, 0)), builder.neg(x), x) if type.signed else x


def sign(x):
    """-1, 0 or 1; nan for nan."""
    return np.sign(x)


@compiled(sign)
def _sign(builder, type, x):
    zero, one = (_number(x, v) for v in ((0.0, 1.0) if isinstance(type, types.Float) else (0, 1)))
    minus = builder.fneg(one) if isinstance(type, types.Float) else builder.neg(one)
    equal = _equal(builder, type, x, zero)
    rest = builder.select(_less(builder, type, x, zero), minus, builder.select(equal, zero, x))
    return builder.select(_less(builder, type, zero, x), one, rest)


def _equal(builder, type, x, y):
    return builder.fcmp_ordered("==", x, y) if isinstance(type, types.Float) else builder.icmp_signed("==", x, y)


def _less(builder, type, x, y):
    """x < y, false for nan."""
    if isinstance(type, types.Float):
        return builder.fcmp_ordered("<", x, y)
    return (builder.icmp_signed if type.signed else builder.icmp_unsigned)("<", x, y)


def maximum(x, y):
    """The larger one; nan if either is."""
    return np.maximum(x, y)


def minimum(x, y):
    """The smaller one; nan if either is."""
    return np.minimum(x, y)


@compiled(maximum)
def _maximum(builder, type, x, y):
    return _first_if(builder, type, _less(builder, type, y, x), x, y)


@compiled(minimum)
def _minimum(builder, type, x, y):
    return _first_if(builder, type, _less(builder, type, x, y), x, y)


def _first_if(builder, type, wins, x, y):
    if isinstance(type, types.Float):
        wins = builder.or_(wins, builder.fcmp_unordered("uno", x, x))
    return builder.select(wins, x, y)


def floordiv(x, y):
    """x / y rounded down, as NumPy has it: an integer by 0 is 0."""
    return np.floor_divide(x, y)


def mod(x, y):
    """x - y floor(x / y), with y's sign: an integer by 0 is 0."""
    return np.remainder(x, y)


@compiled(floordiv)
def _floordiv(builder, type, x, y):
    if not isinstance(type, types.Float):
        return _int_division(builder, type, x, y, quotient=True)
    rest, shift = _float_rest(builder, x, y)
    zero, one = _number(x, 0.0), _number(x, 1.0)
    quotient = builder.fdiv(builder.fsub(x, rest), y)
    quotient = builder.select(shift, builder.fsub(quotient, one), quotient)
    floored = _call(builder, "llvm.floor", quotient)
    above = builder.fcmp_ordered(">", builder.fsub(quotient, floored), _number(x, 0.5))
    floored = builder.select(above, builder.fadd(floored, one), floored)
    ratio = builder.fdiv(x, y)
    signed = builder.select(builder.fcmp_ordered("==", quotient, zero), _copysign(builder, zero, ratio), floored)
    return builder.select(builder.fcmp_ordered("==", y, zero), ratio, signed)


@compiled(mod)
def _mod(builder, type, x, y):
    if not isinstance(type, types.Float):
        return _int_division(builder, type, x, y, quotient=False)
    rest, shift = _float_rest(builder, x, y)
    moved = builder.select(shift, builder.fadd(rest, y), rest)
    exact = builder.fcmp_ordered("==", rest, _number(x, 0.0))
    return builder.select(exact, _copysign(builder, _number(x, 0.0), y), moved)


def _copysign(builder, x, y):
    return _call(builder, "llvm.copysign", x, y)


def _float_rest(builder, x, y):
    """(fmod(x, y), whether the divisor must be added to it to give it the divisor's sign)"""
    rest, zero = _call(builder, "fmod", x, y), _number(x, 0.0)
    differ = builder.xor(builder.fcmp_ordered("<", rest, zero), builder.fcmp_ordered("<", y, zero))
    return rest, builder.and_(differ, builder.fcmp_unordered("!=", rest, zero))


def _int_division(builder, type, x, y, quotient: bool):
    """Neither a divisor of 0 nor the smallest integer by -1 traps."""
    zero, one = _number(x, 0), _number(x, 1)
    by_zero = builder.icmp_signed("==", y, zero)
    if not type.signed:
        safe = builder.select(by_zero, one, y)
        return builder.select(by_zero, zero, (builder.udiv if quotient else builder.urem)(x, safe))
    by_minus_one = builder.icmp_signed("==", y, _number(x, -1))
    safe = builder.select(builder.or_(by_zero, by_minus_one), one, y)
    rest = builder.srem(x, safe)
    shift = builder.and_(builder.icmp_signed("!=", rest, zero), builder.icmp_signed("<", builder.xor(rest, safe), zero))
    result = builder.sdiv(x, safe) if quotient else rest
    moved = builder.add(result, _number(x, -1) if quotient else safe)
    result = builder.select(shift, moved, result)
    if quotient:
        result = builder.select(by_minus_one, builder.neg(x), result)
    return builder.select(by_zero, zero, result)


def power(x, y):
    """x ** y; integers take non-negative exponents."""
    return np.power(x, y)


@compiled(power)
def _power(builder, type, x, y):
    return _call(builder, "llvm.pow", x, y) if isinstance(type, types.Float) else _int_power(builder, x, y)


def atan2(y, x):
    """The angle of the point (x, y)."""
    return np.arctan2(y, x)


@compiled(atan2)
def _atan2(builder, type, y, x):
    return _call(builder, "atan2", y, x)


def _int_power(builder, x, n):
    """Square and multiply, n > 0; else 1."""
    one, zero = _number(x, 1), _number(x, 0)
    entry, loop, done = builder.block, builder.append_basic_block("power"), builder.append_basic_block("power.done")
    builder.cbranch(builder.icmp_signed(">", n, zero), loop, done)
    builder.position_at_end(loop)
    left, square, product = (builder.phi(x.type) for _ in range(3))
    times = builder.select(builder.trunc(left, ir.IntType(1)), builder.mul(product, square), product)
    following = (builder.lshr(left, one), builder.mul(square, square), times)
    for phi, first, then in zip((left, square, product), (n, x, one), following, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed(">", following[0], zero), loop, done)
    builder.position_at_end(done)
    result = builder.phi(x.type)
    result.add_incoming(one, entry)
    result.add_incoming(times, loop)
    return result


def bits(x):
    """The encoding of a float as an integer of the same width."""
    return x.view(np.dtype(f"i{x.itemsize}"))


def floating(x):
    """The float with this encoding."""
    x = np.asarray(x)  # of Python's int, an int64
    return x.view(np.dtype(f"f{x.itemsize}"))[()]


@compiled(bits, typer=lambda x: types.int32 if x.bitwidth == 32 else types.int64)
@compiled(floating, typer=lambda x: types.float32 if x.bitwidth == 32 else types.float64)
def _same_bits(context, builder, sig, args):
    return builder.bitcast(args[0], context.get_value_type(sig.return_type))


def to_half(x):
    """The bits of the float16 nearest to a float32."""
    return np.float16(x).view(np.uint16)


def from_half(x):
    """The float32 of the bits of a float16."""
    return np.float32(np.uint16(x).view(np.float16))


@compiled(to_half, typer=lambda x: types.uint16)
def _to_half(context, builder, sig, args):
    return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))


@compiled(from_half, typer=lambda x: types.float32)
def _from_half(context, builder, sig, args):
    return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())


def cast(x, dtype):
    """`x` as another integer type: integers wrap, floats are cut and saturate (nan is 0)."""
    if not isinstance(x, (float, np.floating)):
        return np.asarray(x).astype(dtype)[()]
    info = np.iinfo(dtype)
    if x != x:
        return dtype(0)
    return dtype(info.min if x <= info.min else info.max if x >= info.max else int(x))


@compiled(cast, typer=lambda x, dtype: dtype.dtype)
def _cast(context, builder, sig, args):
    source, target = sig.args[0], sig.return_type
    if not isinstance(source, types.Float):
        return context.cast(builder, args[0], source, target)
    a, b = args[0].type, ir.IntType(target.bitwidth)
    name = f"llvm.fpto{'s' if target.signed else 'u'}i.sat.{b.intrinsic_name}.{a.intrinsic_name}"
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(b, [a]), name), [args[0]])


# -- random bits ----------------------------------------------------------------------------------------


def threefry(key, counter):
    """64 random bits: `tapefuse.ir.ops.random`."""
    return np.uint64(encrypted_number(int(key), int(counter)))


class _Word:
    """32 bits in a register; Python's operators append instructions."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any):
        self.builder, self.value = builder, value

    def _operand(self, other: Any) -> Any:
        return other.value if isinstance(other, _Word) else _number(self.value, other)

    def __add__(self, other: Any) -> _Word:
        return _Word(self.builder, self.builder.add(self.value, self._operand(other)))

    def __xor__(self, other: Any) -> _Word:
        return _Word(self.builder, self.builder.xor(self.value, self._operand(other)))

    def rotated(self, count: int) -> _Word:
        return _Word(self.builder, _call(self.builder, "llvm.fshl", self.value, self.value, _number(self.value, count)))


@compiled(threefry)
def _threefry(builder, type, key, counter):
    word, half = ir.IntType(32), _number(key, 32)

    def halves(x):
        return tuple(_Word(builder, builder.trunc(part, word)) for part in (builder.lshr(x, half), x))

    high, low = (builder.zext(x.value, key.type) for x in encrypted(halves(key), halves(counter), _Word.rotated))
    return builder.or_(builder.shl(high, half), low)
