"""Dtypes of the standard, what is known of them, and what the library says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse import numpy as tp
from tapefuse._records import dataclass
from tapefuse.array_api.creation import DEFAULTS
from tapefuse.tracer.exchange import on_cpu
from tapefuse.tracer.tensor import Tensor, as_tensor

bool = np.dtype("?")
int8, int16, int32, int64 = (np.dtype(f"i{n}") for n in (1, 2, 4, 8))
uint8, uint16, uint32, uint64 = (np.dtype(f"u{n}") for n in (1, 2, 4, 8))
float32, float64 = np.dtype("f4"), np.dtype("f8")
complex64, complex128 = np.dtype("c8"), np.dtype("c16")

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128"
NAMES = tuple(_NAMES.split())


def _dtype(x: Any) -> np.dtype:
    return x.dtype if hasattr(x, "dtype") and not isinstance(x, (np.dtype, type)) else np.dtype(x)


def astype(x: Any, dtype: Any, /, *, copy: Any = True, device: Any = None) -> Tensor:
    """`x` in another dtype; `x` itself with `copy=False` if it has that one."""
    on_cpu(device)
    found = as_tensor(x)
    if found.dtype == np.dtype(dtype):
        return found.copy() if copy else found
    return tp.astype(found, dtype)


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether the promotion rules lead from a dtype, or that of an array, to another."""
    return np.can_cast(_dtype(from_), np.dtype(to))


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The dtype that arrays, dtypes and Python numbers have in common."""
    return tp.result_type(*arrays_and_dtypes)


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether a dtype is another, or of a kind: "bool", "integral", "real floating", "numeric" and so on."""
    return np.isdtype(np.dtype(dtype), kind)


@dataclass(frozen=True, slots=True)
class FloatInfo:
    """Limits of a floating-point dtype, as Python floats."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class IntegerInfo:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: np.dtype


def finfo(type: Any, /) -> FloatInfo:
    """Limits of a floating-point dtype, or of the parts of a complex one; also that of an array."""
    info = tp.finfo(_dtype(type))
    eps, most, least, normal = (float(x) for x in (info.eps, info.max, info.min, info.smallest_normal))
    return FloatInfo(int(info.bits), eps, most, least, normal, np.dtype(info.dtype))


def iinfo(type: Any, /) -> IntegerInfo:
    """Limits of an integer dtype, or that of an array."""
    info = np.iinfo(_dtype(type))
    return IntegerInfo(int(info.bits), int(info.max), int(info.min), np.dtype(info.dtype))


class Info:
    """What `__array_namespace_info__()` gives."""

    def capabilities(self) -> dict[str, Any]:
        """Masks as indices and shapes that depend on values: both eagerly, and neither inside compiled functions."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        return "cpu"

    def devices(self) -> list[str]:
        return ["cpu"]

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype]:
        """Dtypes of Python numbers, and of positions."""
        on_cpu(device)
        return {
            "real floating": DEFAULTS[float],
            "complex floating": DEFAULTS[complex],
            "integral": DEFAULTS[int],
            "indexing": int64,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, np.dtype]:
        """Dtypes by name, of some kinds if `kind` says so."""
        on_cpu(device)
        found = {name: np.dtype(name) for name in NAMES}
        return found if kind is None else {n: d for n, d in found.items() if np.isdtype(d, kind)}


def __array_namespace_info__() -> Info:
    """Devices, dtypes and capabilities."""
    return Info()


__all__ = list(NAMES)
__all__ += ["__array_namespace_info__", "astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]
