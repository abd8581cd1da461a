"""tapefuse: gradient tapes over NumPy-style code, compiled into fused native kernels.

>>> import tapefuse as tp
>>> x = tp.Variable(3.0)
>>> with tp.GradientTape() as tape:
...     y = x**2
>>> print(tape.gradient(y, x))
tp.Tensor(6.0, shape=(), dtype=float32)
"""

from __future__ import annotations

from typing import Any as _Any

import numpy as _np

from tapefuse import nn, numpy, optim, random, special
from tapefuse._config import config
from tapefuse._errors import (
    CacheWarning,
    CompileError,
    ConcretizationError,
    DTypeError,
    IndexOutOfRangeError,
    LeakedValueError,
    MissingGradientError,
    ParseError,
    PerformanceWarning,
    ShapeError,
    StagingError,
    TapeError,
    TapefuseError,
    VariableError,
    VerifyError,
)
from tapefuse.function import TapeFunction, kept_memory, run_functions_eagerly, tape_function
from tapefuse.ir.halves import bfloat16 as bfloat16_dtype
from tapefuse.numpy import *  # noqa: F403
from tapefuse.numpy import fft, linalg
from tapefuse.tracer.control import associative_scan, cond, fori_loop, map, scan, switch, while_loop
from tapefuse.tracer.custom import custom_gradient, grad_pass_through, override_gradient, recompute
from tapefuse.tracer.debugging import check_finite, debug_print
from tapefuse.tracer.interchange import from_dlpack
from tapefuse.tracer.invertible import invertible
from tapefuse.tracer.operators import functions as _functions
from tapefuse.tracer.repeating import explain
from tapefuse.tracer.rewriting import as_written, stage, unroll
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.signature import TensorSpec
from tapefuse.tracer.tape import GradientTape, explain_gradient
from tapefuse.tracer.tape_arguments import UnconnectedGradients
from tapefuse.tracer.tensor import Tensor, constant
from tapefuse.tracer.variable import Variable
from tapefuse.transforms import grad, hessian, hvp, jacobian, jvp, linearize, value_and_grad, vjp, vmap

float16, float32, float64 = _np.dtype(_np.float16), _np.dtype(_np.float32), _np.dtype(_np.float64)
int8, int16, int32, int64 = (_np.dtype(f"i{n}") for n in (1, 2, 4, 8))
uint8, uint16, uint32, uint64 = (_np.dtype(f"u{n}") for n in (1, 2, 4, 8))
complex64, complex128 = _np.dtype(_np.complex64), _np.dtype(_np.complex128)
bool_ = _np.dtype(bool)
bfloat16: _np.dtype
newaxis = None

__version__ = "0.1.0"

__all__ = [
    "CacheWarning",
    "CompileError",
    "ConcretizationError",
    "DTypeError",
    "GradientTape",
    "IndexOutOfRangeError",
    "IndexedRows",
    "LeakedValueError",
    "MissingGradientError",
    "ParseError",
    "PerformanceWarning",
    "ShapeError",
    "StagingError",
    "TapeError",
    "TapeFunction",
    "TapefuseError",
    "Tensor",
    "TensorSpec",
    "UnconnectedGradients",
    "Variable",
    "VariableError",
    "VerifyError",
    "array_api",  # noqa: F405
    "as_written",
    "associative_scan",
    "bfloat16",
    "bool_",
    "check_finite",
    "complex64",
    "complex128",
    "cond",
    "config",
    "constant",
    "custom_gradient",
    "debug_print",
    "explain",
    "explain_gradient",
    "fft",
    "float16",
    "float32",
    "float64",
    "fori_loop",
    "from_dlpack",
    "grad",
    "grad_pass_through",
    "hessian",
    "hvp",
    "int8",
    "int16",
    "int32",
    "int64",
    "invertible",
    "jacobian",
    "jvp",
    "kept_memory",
    "linalg",
    "linearize",
    "map",
    "newaxis",
    "nn",
    "numpy",
    "optim",
    "override_gradient",
    "random",
    "recompute",
    "run_functions_eagerly",
    "scan",
    "special",
    "stage",
    "switch",
    "tape_function",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unroll",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
__all__ += numpy.__all__


def __getattr__(name: str) -> _Any:
    """`tapefuse.bfloat16` and `tapefuse.array_api`, which are imported when they are first asked for."""
    if name == "bfloat16":
        return bfloat16_dtype()
    if name == "array_api":
        return _array_api()
    hint = "TensorFlow's names are in tapefuse.compat.tensorflow"
    raise AttributeError(f"module 'tapefuse' has no attribute {name!r} ({hint})")


def _array_api() -> _Any:
    import tapefuse.array_api as standard  # 5 ms that few have a use for

    return standard


_functions.array_namespace = lambda version: _array_api().namespace(version)
