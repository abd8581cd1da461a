"""The array functions that the Numba backend's source calls, as plain Python and under `@njit` alike. Imports Numba.

Under `@njit`, views do not own their memory and are not counted; products are calls of our own BLAS at one thread.
"""

from __future__ import annotations

import functools
import math

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import make_array
from numba.np.numpy_support import as_dtype

from tapefuse.runtime import blas
from tapefuse.runtime.numba_library import compiled

ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112  # CBLAS's constants
UPPER, LOWER, GENERAL, UNIT, LEFT = 121, 122, 131, 132, 141


def carve(arena, offset, shape, dtype):
    """An array of `shape` within the bytes of `arena`, from byte `offset` on."""
    end = offset + math.prod(shape) * np.dtype(dtype).itemsize
    return arena[offset:end].view(dtype).reshape(shape)


def reshaped(x, shape):
    """The first elements of a row-major array in another shape; no copy."""
    return x.reshape(-1)[: math.prod(shape)].reshape(shape)


def allocated(nbytes):
    """New bytes, until `release`. Raises MemoryError."""
    return np.empty(nbytes, np.uint8)


def grown(memory, used, nbytes):
    """What `allocated` gave with room for more after the first `used` bytes, elsewhere. Raises MemoryError."""
    found = allocated(nbytes)
    found[:used] = memory[:used]
    return found


def release(memory):
    """Gives back what `allocated` gave."""


def _part(context, builder, type, x, name):
    """The data, shape or strides of an array."""
    return context.data_model_manager[type].get(builder, x, name)


@compiled(carve, typer=lambda arena, offset, shape, dtype: types.Array(dtype.dtype, len(shape), "C"))
def _carve(context, builder, sig, args):
    offset = context.cast(builder, args[1], sig.args[1], types.intp)
    data = builder.gep(_part(context, builder, sig.args[0], args[0], "data"), [offset])
    return _array(context, builder, sig.return_type, data, sig.args[2], args[2])


@compiled(reshaped, typer=lambda x, shape: types.Array(x.dtype, len(shape), "C"))
def _reshaped(context, builder, sig, args):
    data = _part(context, builder, sig.args[0], args[0], "data")
    return _array(context, builder, sig.return_type, data, sig.args[1], args[1])


@compiled(allocated, typer=lambda nbytes: types.Array(types.uint8, 1, "C"))
def _allocated(context, builder, sig, args):
    return _bytes_of(context, builder, sig, "malloc", [], context.cast(builder, args[0], sig.args[0], types.intp))


@compiled(grown, typer=lambda memory, used, nbytes: types.Array(types.uint8, 1, "C"))
def _grown(context, builder, sig, args):
    old = builder.bitcast(make_array(sig.args[0])(context, builder, args[0]).data, cgutils.voidptr_t)
    return _bytes_of(context, builder, sig, "realloc", [old], context.cast(builder, args[2], sig.args[2], types.intp))


@compiled(release, typer=lambda memory: types.none)
def _release(context, builder, sig, args):
    _free(builder, make_array(sig.args[0])(context, builder, args[0]).data)
    return context.get_dummy_value()


def _free(builder, data):
    free = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    builder.call(
        cgutils.get_or_insert_function(builder.module, free, "free"), [builder.bitcast(data, cgutils.voidptr_t)]
    )


def _bytes_of(context, builder, sig, function, operands, size):
    """`size` bytes that `function(*operands, size)` of the C library gives; if it gives none, `operands` are freed."""
    one = ir.Constant(size.type, 1)
    given = [*operands, builder.select(builder.icmp_signed(">", size, one), size, one)]
    type = ir.FunctionType(cgutils.voidptr_t, [x.type for x in given])
    data = builder.call(cgutils.get_or_insert_function(builder.module, type, function), given)
    with builder.if_then(cgutils.is_null(builder, data), likely=False):
        for x in operands:
            _free(builder, x)
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a loop",))
    shape = cgutils.pack_array(builder, [size])
    return _array(context, builder, sig.return_type, data, types.UniTuple(types.intp, 1), shape)


def _array(context, builder, type, data, shape_type, shape):
    """An array that does not own its memory."""
    sizes = cgutils.unpack_tuple(builder, shape, len(shape_type))
    sizes = [context.cast(builder, n, t, types.intp) for n, t in zip(sizes, shape_type, strict=True)]
    item = ir.Constant(cgutils.intp_t, as_dtype(type.dtype).itemsize)
    count, strides = ir.Constant(cgutils.intp_t, 1), []
    for n in reversed(sizes):
        strides.insert(0, builder.mul(item, count))
        count = builder.mul(count, n)
    parts = {
        "data": builder.bitcast(data, context.get_data_type(type.dtype).as_pointer()),
        "nitems": count,
        "itemsize": item,
        "shape": cgutils.pack_array(builder, sizes, cgutils.intp_t),
        "strides": cgutils.pack_array(builder, strides, cgutils.intp_t),
    }
    model = context.data_model_manager[type]
    array = ir.Constant(model.get_value_type(), None)  # nobody owns it
    for name, value in parts.items():
        array = model.set(builder, array, value, name)
    return array


# -- elements -------------------------------------------------------------------------------------------


def element1(x, i):
    """`x[i]` of an index that does not count from the end. Numba's own code takes several times as long to compile."""
    return x[i]


def element2(x, i, j):
    return x[i, j]


def element3(x, i, j, k):
    return x[i, j, k]


def element4(x, i, j, k, m):
    return x[i, j, k, m]


def set_element1(x, i, value):
    """`x[i] = value`, as above."""
    x[i] = value


def set_element2(x, i, j, value):
    x[i, j] = value


def set_element3(x, i, j, k, value):
    x[i, j, k] = value


def set_element4(x, i, j, k, m, value):
    x[i, j, k, m] = value


@compiled(element1, typer=lambda x, i: x.dtype)
@compiled(element2, typer=lambda x, i, j: x.dtype)
@compiled(element3, typer=lambda x, i, j, k: x.dtype)
@compiled(element4, typer=lambda x, i, j, k, m: x.dtype)
def _element(context, builder, sig, args):
    return context.unpack_value(builder, sig.return_type, _address(context, builder, sig.args, args))


@compiled(set_element1, typer=lambda x, i, value: types.none)
@compiled(set_element2, typer=lambda x, i, j, value: types.none)
@compiled(set_element3, typer=lambda x, i, j, k, value: types.none)
@compiled(set_element4, typer=lambda x, i, j, k, m, value: types.none)
def _set_element(context, builder, sig, args):
    dtype = sig.args[0].dtype
    value = context.cast(builder, args[-1], sig.args[-1], dtype)
    context.pack_value(builder, dtype, value, _address(context, builder, sig.args[:-1], args[:-1]))
    return context.get_dummy_value()


def _address(context, builder, types_, values):
    """Of an element of an array: the first of the values; the others are indices."""
    array, (x, *indices) = types_[0], values
    indices = [context.cast(builder, i, t, types.intp) for i, t in zip(indices, types_[1:], strict=True)]
    data = _part(context, builder, array, x, "data")
    if array.layout == "C":
        shape = cgutils.unpack_tuple(builder, _part(context, builder, array, x, "shape"), array.ndim)
        at = indices[0]
        for n, i in zip(shape[1:], indices[1:], strict=True):
            at = builder.add(builder.mul(at, n, flags=["nsw"]), i, flags=["nsw"])
        return builder.gep(data, [at], inbounds=True)
    strides = cgutils.unpack_tuple(builder, _part(context, builder, array, x, "strides"), array.ndim)
    return cgutils.pointer_add(builder, data, functools.reduce(builder.add, map(builder.mul, indices, strides)))


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
    by_one = ir.Constant(cgutils.intp_t, 1)
    part = builder.sub(stop, start)
    if rows:
        starts, m = (by_one if flipped[0] else leading[0], None, n), part
    else:
        starts, n = (None, leading[1] if flipped[1] else by_one, by_one), part
    matrices = [
        x.data if step is None else builder.gep(x.data, [builder.mul(start, step)])
        for x, step in zip((a, b, out), starts, strict=True)
    ]
    i32, t = ir.IntType(32), context.get_data_type(sig.args[2].dtype)
    sizes = [builder.trunc(v, i32) for v in (m, n, k)]
    (at_a, at_b, at_out), strides = matrices, [builder.trunc(_at_least_one(builder, v), i32) for v in leading]
    flags = [i32(ROW_MAJOR), *(i32(TRANSPOSED if f else AS_IT_IS) for f in flipped)]
    one, zero = (ir.Constant(t, v) for v in (1.0, 0.0))
    given = [*flags, *sizes, one, at_a, strides[0], at_b, strides[1], zero, at_out, strides[2]]
    builder.call(_blas_function(builder, "gemm", t, given), given)
    return context.get_dummy_value()


def _blas_function(builder, title, t, given, is_complex=False):
    letter = ("sc" if isinstance(t, ir.FloatType) else "dz")[is_complex]
    name = f"scipy_cblas_{letter}{title}"
    llvm.add_symbol(name, blas.address(name))
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [v.type for v in given]), name)


def _at_least_one(builder, v):
    one = ir.Constant(v.type, 1)
    return builder.select(builder.icmp_signed(">", v, one), v, one)


# -- contractions ---------------------------------------------------------------------------------------


def contract(
    c, at_c, a, at_a, b, at_b, rows, columns, row_c, row_a, n0, a0, b0, n1, a1, b1, n2, a2, b2, n3, a3, b3, add
):
    """`codegen.loops.Contract` with four sums, on row-major arrays; `at_*` and steps count elements."""
    c, a, b = reshaped(c, (c.size,)), reshaped(a, (a.size,)), reshaped(b, (b.size,))
    for i in range(rows):
        row = at_c + i * row_c
        if not add:
            for j in range(row, row + columns):
                c[j] = 0
        for k0 in range(n0):
            for k1 in range(n1):
                for k2 in range(n2):
                    for k3 in range(n3):
                        x = a[at_a + i * row_a + k0 * a0 + k1 * a1 + k2 * a2 + k3 * a3]
                        y = at_b + k0 * b0 + k1 * b1 + k2 * b2 + k3 * b3
                        for j in range(columns):
                            c[row + j] += x * b[y + j]


def _no_result(
    c, at_c, a, at_a, b, at_b, rows, columns, row_c, row_a, n0, a0, b0, n1, a1, b1, n2, a2, b2, n3, a3, b3, add
):
    return types.none


@compiled(contract, typer=_no_result)
def _contract(context, builder, sig, args):
    return _as_python(context, builder, sig, args, contract)


def _as_python(context, builder, sig, args, function):
    """The plain function, compiled; scalars are 64-bit integers or bools."""
    wanted = types.none(*(t if isinstance(t, types.Array | types.Boolean) else types.intp for t in sig.args))
    given = [context.cast(builder, v, t, w) for v, t, w in zip(args, sig.args, wanted.args, strict=True)]
    return context.compile_internal(builder, function, wanted, given)


def transposed(y, at_y, x, at_x, rows, columns, row_y, row_x):
    """`codegen.loops.Transpose` on row-major arrays; `at_*` and steps count elements."""
    y, x = reshaped(y, (y.size,)), reshaped(x, (x.size,))
    for i in range(rows):
        for j in range(columns):
            y[at_y + i * row_y + j] = x[at_x + i + j * row_x]


@compiled(transposed, typer=lambda y, at_y, x, at_x, rows, columns, row_y, row_x: types.none)
def _transposed(context, builder, sig, args):
    return _as_python(context, builder, sig, args, transposed)


# -- triangular systems ---------------------------------------------------------------------------------


def substituted(a, at_a, y, at_y, rows, columns, lower, transpose, unit):
    """`codegen.loops.Substitute` on row-major arrays; `at_*` count elements."""
    a = reshaped(reshaped(a, (a.size,))[at_a : at_a + rows * rows], (rows, rows))
    y = reshaped(reshaped(y, (y.size,))[at_y : at_y + rows * columns], (rows, columns))
    for k in range(rows):
        i = k if lower != transpose else rows - 1 - k
        for m in range(k):
            j = m if lower != transpose else rows - 1 - m
            y[i] -= (a[j, i] if transpose else a[i, j]) * y[j]
        if not unit:
            y[i] /= a[i, i]


def substituted_complex(a, at_a, y, at_y, rows, columns, lower, transpose, unit):
    """The same where two elements are the parts of a number; `at_*` count elements."""
    kind = np.complex64 if y.dtype == np.float32 else np.complex128
    a = reshaped(a, (a.size,))[at_a : at_a + 2 * rows * rows].view(kind)
    y = reshaped(y, (y.size,))[at_y : at_y + 2 * rows * columns].view(kind)
    substituted(a, 0, y, 0, rows, columns, lower, transpose, unit)


@compiled(substituted, typer=lambda a, at_a, y, at_y, rows, columns, lower, transpose, unit: types.none)
def _substituted(context, builder, sig, args):
    return _called_trsm(context, builder, sig, args, False)


@compiled(substituted_complex, typer=lambda a, at_a, y, at_y, rows, columns, lower, transpose, unit: types.none)
def _substituted_complex(context, builder, sig, args):
    return _called_trsm(context, builder, sig, args, True)


def _called_trsm(context, builder, sig, args, is_complex):
    """A call of OpenBLAS at one thread."""
    a, y = (make_array(sig.args[k])(context, builder, args[k]) for k in (0, 2))
    at_a, at_y, rows, columns = (context.cast(builder, args[k], sig.args[k], types.intp) for k in (1, 3, 4, 5))
    kinds = zip(args[6:], sig.args[6:], strict=True)
    lower, transpose, unit = (context.cast(builder, v, t, types.boolean) for v, t in kinds)
    i32, t = ir.IntType(32), context.get_data_type(sig.args[2].dtype)

    def flag(condition, yes, no):
        return builder.select(condition, i32(yes), i32(no))

    flags = [i32(ROW_MAJOR), i32(LEFT), flag(lower, LOWER, UPPER), flag(transpose, TRANSPOSED, AS_IT_IS)]
    m, n, lda, ldb = (
        builder.trunc(v, i32) for v in (rows, columns, _at_least_one(builder, rows), _at_least_one(builder, columns))
    )
    factor = ir.Constant(t, 1.0)
    if is_complex:
        one = cgutils.alloca_once_value(builder, ir.Constant(ir.ArrayType(t, 2), [1.0, 0.0]))
        factor = builder.bitcast(one, t.as_pointer())
    given = [*flags, flag(unit, UNIT, GENERAL), m, n, factor]
    given += [builder.gep(a.data, [at_a]), lda, builder.gep(y.data, [at_y]), ldb]
    builder.call(_blas_function(builder, "trsm", t, given, is_complex), given)
    return context.get_dummy_value()
