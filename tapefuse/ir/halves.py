"""The floating-point dtypes of 16 bits: float16, which is NumPy's, and bfloat16, the upper half of a float32.

They are a way to keep numbers in memory. An operation on them widens its operands to float32, computes, and rounds its
result to the nearest half, ties to even: `single` says so for arrays, `ir.passes.half` for graphs.

bfloat16 comes from the package `ml_dtypes`, which is imported when a bfloat16 is first seen. NumPy takes it for a
structure (`dtype.kind` is "V"), so ask `kind_of` what a dtype holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

FLOAT16, FLOAT32, BITS = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.uint16)
# Operations that move elements and leave their bits alone.
EXACT = frozenset(
    {"after", "broadcast", "concat", "const", "credit", "flip", "gather", "having", "missing_gradient", "pad", "put"}
    | {"put_at", "reshape", "result", "select", "slice", "stop_gradient", "transpose"}
)


@cache
def bfloat16() -> np.dtype:
    """The dtype bfloat16."""
    import ml_dtypes  # 4 ms that programs without a bfloat16 have no use for

    return np.dtype(ml_dtypes.bfloat16)


def kind_of(dtype: np.dtype) -> str:
    """What a dtype holds: `dtype.kind`, and "f" for bfloat16."""
    kind = dtype.kind
    return "f" if kind == "V" and is_bfloat16(dtype) else kind


def is_half(dtype: np.dtype) -> bool:
    return dtype.itemsize == 2 and (dtype.kind == "f" or is_bfloat16(dtype))


def is_bfloat16(dtype: np.dtype) -> bool:
    return dtype.kind == "V" and dtype.type.__module__ == "ml_dtypes" and dtype.type.__name__ == "bfloat16"


def widened(dtype: np.dtype) -> np.dtype:
    """The dtype in which numbers of a dtype are computed with: float32 for halves, others as they are."""
    return FLOAT32 if is_half(dtype) else dtype


def promoted(*operands: Any) -> np.dtype:
    """NumPy's `result_type` of dtypes, arrays and Python numbers, with bfloat16 promoted as float16 is.

    The two halves together are float32, which has the numbers of both. (`ml_dtypes` leaves bfloat16 and int16 without a
    common dtype, and takes Python's floats for float64.)
    """
    return _standing_in(lambda found: (np.result_type(*found),), operands)[0]


def of_ufunc(ufunc: np.ufunc, operands: Sequence[Any]) -> tuple[np.dtype, ...]:
    """The dtypes in which a ufunc takes operands of these dtypes, and those of its results. TypeError if it does not.

    An operand may be Python's int, float or complex, for a number that takes the dtype of what it meets.
    """
    return _standing_in(lambda found: ufunc.resolve_dtypes((*found, *[None] * ufunc.nout)), operands)


Rule = Callable[[Sequence[Any]], tuple[np.dtype, ...]]  # dtypes and Python's numbers -> dtypes


def _standing_in(rule: Rule, operands: Sequence[Any]) -> tuple[np.dtype, ...]:
    """What a rule of NumPy says that knows float16 and no bfloat16."""
    dtypes = [_dtype(x) for x in operands]
    if not any(d is not None and is_bfloat16(d) for d in dtypes):
        return rule(operands)
    stand_in = FLOAT32 if FLOAT16 in dtypes else FLOAT16
    pairs = zip(operands, dtypes, strict=True)
    found = rule([stand_in if d is not None and is_bfloat16(d) else x for x, d in pairs])
    return tuple([bfloat16() if d == FLOAT16 else d for d in found])


def _dtype(x: Any) -> np.dtype | None:
    """That of a dtype, one of NumPy's scalar types, or an array; None for Python's numbers and their types."""
    if isinstance(x, type) and issubclass(x, np.generic):
        return np.dtype(x)
    dtype = x if isinstance(x, np.dtype) else getattr(x, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else None


def limits(dtype: Any) -> Any:
    """`np.finfo` of a dtype, bfloat16 included: its `max`, `tiny`, `eps`. Raises ValueError if it is no float."""
    dtype = np.dtype(dtype)
    if not is_bfloat16(dtype):
        return np.finfo(dtype)
    import ml_dtypes

    return ml_dtypes.finfo(dtype)


def single(name: str, ref: Callable[..., Any], result: np.dtype, arrays: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """`ref(*arrays, **attrs)` of operation `name` with halves among its operands: computed in float32 and rounded to
    `result` once."""
    if name in EXACT or name in ("cast", "nextafter"):  # which say themselves what becomes of halves
        return ref(*arrays, **attrs)
    wide = [x.astype(FLOAT32) if is_half(x.dtype) else x for x in map(np.asarray, arrays)]
    found = ref(*wide, **{k: widened(x) if isinstance(x, np.dtype) else x for k, x in attrs.items()})
    with np.errstate(all="ignore"):
        return np.asarray(found).astype(result, copy=False)
