"""What the Numba backend's source calls: each function runs as plain Python (NumPy) and means the same under `@njit`.

Scalars keep their dtype: `exp(np.float32(1))` is a float32 in both worlds. Under `@njit` a call becomes the LLVM
instructions that stand beside the plain function here; nothing is compiled for it on its own. Imports Numba.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import as_dtype

from tapefuse.runtime import blas

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
    signed = builder.select(builder.fcmp_ordered("==", quotient, zero), _copysign(builder, zero, builder.fdiv(x, y)), floored)
    return builder.select(builder.fcmp_ordered("==", y, zero), builder.fdiv(x, y), signed)


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
    shift = builder.and_(
        builder.icmp_signed("!=", rest, zero), builder.icmp_signed("<", builder.xor(rest, safe), zero)
    )
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


# -- arrays ---------------------------------------------------------------------------------------------


def carve(arena, offset, shape, dtype):
    """An array of `shape` within the bytes of `arena`, from byte `offset` on."""
    end = offset + math.prod(shape) * np.dtype(dtype).itemsize
    return arena[offset:end].view(dtype).reshape(shape)


def reshaped(x, shape):
    """A row-major array in another shape; no copy."""
    return x.reshape(shape)


@compiled(carve, typer=lambda arena, offset, shape, dtype: types.Array(dtype.dtype, len(shape), "C"))
def _carve(context, builder, sig, args):
    arena = make_array(sig.args[0])(context, builder, args[0])
    offset = context.cast(builder, args[1], sig.args[1], types.intp)
    return _array(context, builder, sig.return_type, builder.gep(arena.data, [offset]), sig.args[2], args[2])


@compiled(reshaped, typer=lambda x, shape: types.Array(x.dtype, len(shape), "C"))
def _reshaped(context, builder, sig, args):
    data = make_array(sig.args[0])(context, builder, args[0]).data
    return _array(context, builder, sig.return_type, data, sig.args[1], args[1])


def _array(context, builder, type, data, shape_type, shape):
    """An array that does not own its memory."""
    sizes = cgutils.unpack_tuple(builder, shape, len(shape_type))
    sizes = [context.cast(builder, n, t, types.intp) for n, t in zip(sizes, shape_type, strict=True)]
    item = ir.Constant(cgutils.intp_t, as_dtype(type.dtype).itemsize)
    strides = [item]
    for n in reversed(sizes[1:]):
        strides.insert(0, builder.mul(strides[0], n))
    array = make_array(type)(context, builder)
    data = builder.bitcast(data, context.get_data_type(type.dtype).as_pointer())
    populate_array(array, data, sizes, strides[len(strides) - len(sizes) :], item, meminfo=None, parent=None)
    return array._getvalue()


# -- matrix products ------------------------------------------------------------------------------------


def matmul_rows(a, b, out, start, stop):
    """`out[start:stop] = a[start:stop] @ b`. `a` and `b` are row-major or transposes of row-major matrices."""
    np.matmul(a[start:stop], b, out=out[start:stop])


def matmul_columns(a, b, out, start, stop):
    """`out[:, start:stop] = a @ b[:, start:stop]`. `a` and `b` are row-major or transposes of row-major matrices."""
    np.matmul(a, b[:, start:stop], out=out[:, start:stop])


@compiled(matmul_rows, typer=lambda a, b, out, start, stop: types.none)
def _matmul_rows(context, builder, sig, args):
    return _gemm(context, builder, sig, args, rows=True)


@compiled(matmul_columns, typer=lambda a, b, out, start, stop: types.none)
def _matmul_columns(context, builder, sig, args):
    return _gemm(context, builder, sig, args, rows=False)


def _gemm(context, builder, sig, args, rows: bool):
    """A call of OpenBLAS at one thread."""
    a, b, out = (make_array(t)(context, builder, v) for t, v in zip(sig.args[:3], args[:3], strict=True))
    start, stop = (context.cast(builder, v, t, types.intp) for v, t in zip(args[3:], sig.args[3:], strict=True))
    (m, k), (_, n) = (cgutils.unpack_tuple(builder, x.shape, 2) for x in (a, b))
    flipped = [t.layout == "F" for t in sig.args[:2]]
    leading = [m if flipped[0] else k, k if flipped[1] else n, n]
    one = ir.Constant(cgutils.intp_t, 1)
    part = builder.sub(stop, start)
    if rows:
        starts, m = (one if flipped[0] else leading[0], None, n), part
    else:
        starts, n = (None, leading[1] if flipped[1] else one, one), part
    matrices = [
        x.data if step is None else builder.gep(x.data, [builder.mul(start, step)])
        for x, step in zip((a, b, out), starts, strict=True)
    ]
    i32, t = ir.IntType(32), out.data.type.pointee
    sizes = [builder.trunc(v, i32) for v in (m, n, k)]
    strides = [builder.trunc(_at_least_one(builder, v), i32) for v in leading]
    flags = [i32(101), *(i32(112 if f else 111) for f in flipped)]  # row-major; transposed or not
    scale = [ir.Constant(t, v) for v in (1.0, 0.0)]
    given = [*flags, *sizes, scale[0], matrices[0], strides[0], matrices[1], strides[1], scale[1], matrices[2], strides[2]]
    builder.call(_blas_function(builder, t, given), given)
    return context.get_dummy_value()


def _blas_function(builder, t, given):
    name = f"scipy_cblas_{'s' if isinstance(t, ir.FloatType) else 'd'}gemm"
    llvm.add_symbol(name, blas.address(name))
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [v.type for v in given]), name)


def _at_least_one(builder, v):
    one = ir.Constant(v.type, 1)
    return builder.select(builder.icmp_signed(">", v, one), v, one)
