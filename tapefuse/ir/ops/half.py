"""Between halves as they lie in memory, 16 bits in an unsigned integer, and the float32 that is computed with.

    %1 = from_bf16 %x : f32[3]        # %x: u16[3]
    %2 = exp %1 : f32[3]
    %3 = to_bf16 %2 : u16[3]

`ir.passes.half` brings them into programs that are to be compiled. They are written with integers: where a machine has
no instruction, LLVM would call a function of compiler-rt, which is not there. (AVX512-BF16 has one, which takes
subnormal numbers for 0.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.ir.halves import BITS, FLOAT16, FLOAT32, bfloat16
from tapefuse.ir.op import Op
from tapefuse.ir.ops.family import elementwise, unary_sample
from tapefuse.ir.ops.scalar import Scalar, lowering, where

_CODE = np.dtype(np.int32)  # the encoding of a float32
_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000
_SMALLEST_NORMAL = 2.0**-14  # of float16, whose exponents are from -14 to 15


def _from_bf16(x: Scalar) -> Scalar:
    return x.cast(_CODE).op("shl", 16).op("floating")


def _to_bf16(x: Scalar) -> Scalar:
    """Half a unit of the last place is added, or a little less where that is even. Any nan becomes the quiet one."""
    code = x.cast(FLOAT32).op("bits")
    rounded = code + (code.op("shr", 16) & 1) + 0x7FFF
    quiet = code.op("shr", 16) & 0x8000 | 0x7FC0
    return where(x.differs(x), quiet, rounded.op("shr", 16)).cast(BITS)


def _from_f16(x: Scalar) -> Scalar:
    """The exponent counts from 15 in a half, from 127 in a float32. Subnormals are differences of normal numbers."""
    if _converts(x):
        return x.op("from_half")
    half = x.cast(_CODE)
    exponent, rest = half & 0x7C00, (half & 0x7FFF).op("shl", 13)
    subnormal = ((rest + _code_of(_SMALLEST_NORMAL)).op("floating") - _SMALLEST_NORMAL).op("bits")
    normal = where(exponent.equals(0x7C00), rest | _INFINITY, rest + (127 - 15 << 23))
    return (where(exponent.equals(0), subnormal, normal) | (half & 0x8000).op("shl", 16)).op("floating")


def _to_f16(x: Scalar) -> Scalar:
    """Subnormals are rounded by the addition of a number whose last place is theirs; from 65520 on it is infinity."""
    code = _to_odd(x) if x.dtype.itemsize == 8 else x.op("bits")
    if _converts(x):
        return (code.op("floating") if x.dtype.itemsize == 8 else x).op("to_half")
    size = code & _MAGNITUDE
    last = size.op("shr", 13) & 1
    normal = (size + last + (0xFFF - (127 - 15 << 23))).op("shr", 13)
    subnormal = (size.op("floating") + 0.5).op("bits")  # those of 0.5 are above the 16 that are kept
    finite = where(size < _code_of(_SMALLEST_NORMAL), subnormal, normal)
    nan = size.op("shr", 13) & 0x3FF | 0x7E00
    special = where(size > _INFINITY, nan, 0x7C00)
    return (where(size < _code_of(65536.0), finite, special) | code.op("shr", 16) & 0x8000).cast(BITS)


def _to_odd(x: Scalar) -> Scalar:
    """The encoding of a float64 as a float32 that is odd if it is not exact: rounding it again rounds right.

    S. Boldo and G. Melquiond, Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd.
    """
    single = x.cast(FLOAT32)
    code, back = single.op("bits"), single.cast(x.dtype)
    below = where(abs(back) > abs(x), code - 1, code)
    return where(back.differs(x) & x.equals(x), below | 1, code)


def _converts(x: Scalar) -> bool:
    """Whether the machine that code is made for has instructions for float16."""
    return getattr(x.builder, "converts_halves", False)


def _code_of(x: float) -> int:
    return int(np.float32(x).view(np.int32))


def _opened(half: np.dtype, x: Any) -> Any:
    return np.asarray(x).view(half).astype(FLOAT32)


def _closed(half: np.dtype, x: Any) -> Any:
    return np.asarray(x).astype(half).view(BITS)


def _bits_sample(rng: np.random.Generator, dtype: np.dtype) -> list[tuple[tuple, dict[str, Any]]]:
    halves = np.concatenate([rng.standard_normal((7, 3)), [[0.0, -np.inf, 1e-6]]]).astype(FLOAT16)
    return [((halves.view(BITS)[:7],), {}), ((np.asarray(halves.view(BITS)[7, 2]),), {})]


from_f16: Op = elementwise(
    "from_f16",
    lambda x: _opened(FLOAT16, x),
    (None,),
    _bits_sample,
    doc="The float32 equal to the float16 with these bits.",
    kinds="u",
    result=FLOAT32,
    at=lowering(_from_f16),
)
from_bf16: Op = elementwise(
    "from_bf16",
    lambda x: _opened(bfloat16(), x),
    (None,),
    _bits_sample,
    doc="The float32 equal to the bfloat16 with these bits.",
    kinds="u",
    result=FLOAT32,
    at=lowering(_from_bf16),
)
to_f16: Op = elementwise(
    "to_f16",
    lambda x: _closed(FLOAT16, x),
    (None,),
    unary_sample(),
    doc="The bits of the float16 nearest to a number.",
    kinds="f",
    result=BITS,
    at=lowering(_to_f16),
)
to_bf16: Op = elementwise(
    "to_bf16",
    lambda x: _closed(bfloat16(), x),
    (None,),
    unary_sample(),
    doc="The bits of the bfloat16 nearest to a number; a float64 is rounded to float32 first, as `ml_dtypes` does.",
    kinds="f",
    result=BITS,
    at=lowering(_to_bf16),
)
