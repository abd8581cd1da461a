"""A BLAS of our own: the OpenBLAS of the `scipy-openblas32` wheel, loaded privately and set to one thread.

Parallelism comes from the kernels' own regions; the copies of OpenBLAS inside NumPy and SciPy stay as they are.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache

from tapefuse._errors import CompileError

FUNCTIONS = tuple(f"scipy_cblas_{name}" for name in ("sgemm", "dgemm", "strsm", "dtrsm", "ctrsm", "ztrsm"))  # 32-bit


def address(name: str) -> int:
    """Address of one of FUNCTIONS. Raises CompileError when the wheel is missing or broken."""
    return int(ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value or 0)


def description() -> str:
    """OpenBLAS's version, build options and the kernels chosen for this CPU."""
    config = _library().scipy_openblas_get_config
    config.restype = ctypes.c_char_p
    return config().decode().strip()


def path() -> str:
    """Where the shared library is. Raises CompileError when it is not installed."""
    spec = importlib.util.find_spec("scipy_openblas32")  # finds the package without running it
    for folder in spec.submodule_search_locations or () if spec else ():
        library = os.path.join(folder, "lib")
        for name in sorted(os.listdir(library)) if os.path.isdir(library) else ():
            if name.startswith("libscipy_openblas") and name.endswith((".so", ".dylib", ".dll")):
                return os.path.join(library, name)
    raise CompileError("matrix products need the package scipy-openblas32: pip install scipy-openblas32")


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(path(), mode=ctypes.RTLD_LOCAL)
        library.scipy_openblas_set_num_threads(1)
        for name in FUNCTIONS:
            getattr(library, name)
    except (OSError, AttributeError) as e:
        raise CompileError(f"scipy-openblas32 cannot be used: {e}; reinstall it with pip") from None
    return library
