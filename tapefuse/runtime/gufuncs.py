"""Inner loops of NumPy's generalised functions, for native code: their addresses, and checks that they are as assumed.

`record("linalg.inv.dd")` is the address of two words: the C function `void (char **arguments, npy_intp *sizes, npy_intp
*steps, void *data)` that NumPy runs for `inv` of float64, and its `data`. These functions need no interpreter; they say
by the floating-point flag of an invalid operation that they have failed.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.runtime.image import process_symbol

PREFIX = "numpy."  # of the symbols by which programs import records
INVALID = 1  # <fenv.h>'s FE_INVALID on x86-64 and aarch64
_MODULES = {"linalg": "numpy.linalg._umath_linalg", "fft": "numpy.fft._pocketfft_umath"}
_EARLIER = {"svd": "svd_n", "svd_s": "svd_n_s", "svd_f": "svd_n_f", "qr_r_raw": "qr_r_raw_n"}  # NumPy before 2.4


class _Function(ctypes.Structure):
    """The beginning of PyUFuncObject, behind the object's head."""

    _fields_ = (
        ("nin", ctypes.c_int), ("nout", ctypes.c_int), ("nargs", ctypes.c_int), ("identity", ctypes.c_int),
        ("functions", ctypes.POINTER(ctypes.c_size_t)), ("data", ctypes.POINTER(ctypes.c_size_t)),
        ("ntypes", ctypes.c_int), ("reserved", ctypes.c_int), ("name", ctypes.c_char_p), ("types", ctypes.c_void_p),
    )  # fmt: skip


Loop = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def function(name: str) -> tuple[np.ufunc, str]:
    """The function of NumPy's that "linalg.inv.dd" is a loop of, and the loop's types ("d->d"). Raises CompileError."""
    module, title, types = name.split(".")
    try:
        found = importlib.import_module(_MODULES[module])
    except ImportError:
        raise _unknown(f"there is no {_MODULES[module]}") from None
    for known in (title, _EARLIER.get(title, title)):
        ufunc: Any = getattr(found, known, None)
        if isinstance(ufunc, np.ufunc):
            signatures = [t for t in ufunc.types if t.replace("->", "") == types]
            if signatures:
                return ufunc, signatures[0]
    raise _unknown(f"{_MODULES[module]} has no {title} of {types}")


def _unknown(what: str) -> CompileError:
    return CompileError(f"NumPy {np.__version__} is unknown here: {what}; use disable_jit, or another NumPy")


@cache
def record(name: str) -> ctypes.Array:
    """The loop's address and its data. Raises CompileError when this NumPy keeps them in an unknown way."""
    _check_flags()
    ufunc, signature = function(name)
    found = _Function.from_address(id(ufunc) + object.__basicsize__)
    seen = found.nin, found.nout, found.nargs, found.ntypes, found.name
    real = ufunc.nin, ufunc.nout, ufunc.nargs, ufunc.ntypes, ufunc.__name__.encode()
    if seen != real:
        raise _unknown(f"functions are kept in another way, {seen} is not {real}")
    codes = ctypes.string_at(found.types, ufunc.nargs * ufunc.ntypes)
    listed = [tuple(np.dtype(c).num for c in t.replace("->", "")) for t in ufunc.types]
    if [tuple(codes[k : k + ufunc.nargs]) for k in range(0, len(codes), ufunc.nargs)] != listed:
        raise _unknown(f"{ufunc.__name__} lists its types in another way")
    k = ufunc.types.index(signature)
    return (ctypes.c_size_t * 2)(found.functions[k], found.data[k] if found.data else 0)


def address(symbol: str) -> int:
    """The address of the record that a program imports as `symbol`. Raises CompileError."""
    return ctypes.addressof(record(symbol.removeprefix(PREFIX)))


def flags() -> tuple[int, int]:
    """Addresses of `feclearexcept` and `fetestexcept`. Raises CompileError."""
    found = process_symbol("feclearexcept"), process_symbol("fetestexcept")
    if not all(found):
        raise CompileError("the C library has no functions for floating-point flags; use disable_jit")
    return found


@cache
def _check_flags() -> None:
    """Call NumPy's `inv` on a regular and on a singular matrix as native code does."""
    ufunc, _ = function("linalg.inv.dd")
    at = _Function.from_address(id(ufunc) + object.__basicsize__).functions[ufunc.types.index("d->d")]
    clear, test = (ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(a) for a in flags())
    seen = []
    for number in (4.0, 0.0):
        x, y = np.array([[number]]), np.zeros((1, 1))
        pointers = (ctypes.c_void_p * 2)(x.ctypes.data, y.ctypes.data)
        sizes, steps = (ctypes.c_ssize_t * 2)(1, 1), (ctypes.c_ssize_t * 6)(*[8] * 6)
        clear(INVALID)
        Loop(at)(ctypes.addressof(pointers), ctypes.addressof(sizes), ctypes.addressof(steps), None)
        seen.append((bool(test(INVALID)), bool(np.array_equal(y, [[0.25]]))))
    clear(INVALID)
    if seen != [(False, True), (True, False)]:
        raise _unknown(f"its functions report failure in another way, {seen}")
