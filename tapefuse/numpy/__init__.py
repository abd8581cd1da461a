"""NumPy-named functions on tensors, composed from primitive ops.

Each takes tensors, variables, arrays and Python numbers, with NumPy's dtype promotion, broadcasting and axis
arguments, and works eagerly, under tapes, and inside a trace with symbolic extents. `np.exp(x)` on a tensor comes here
too.

>>> print(mean([[1.0, 2.0], [3.0, 4.0]], axis=0))
tp.Tensor([2. 3.], shape=(2,), dtype=float32)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._tree import tree_map
from tapefuse.numpy import (
    bits,
    complex,
    creation,
    diagonals,
    elementwise,
    fft,
    fitting,
    floats,
    inspection,
    joining,
    linalg,
    nans,
    padding,
    polynomials,
    reduce,
    running,
    segments,
    selecting,
    sets,
    sorting,
    statistics,
    ufunc_methods,
    windows,
)
from tapefuse.numpy import einsum as contraction
from tapefuse.numpy import shape as shapes
from tapefuse.numpy.bits import *  # noqa: F403
from tapefuse.numpy.complex import *  # noqa: F403
from tapefuse.numpy.creation import *  # noqa: F403
from tapefuse.numpy.diagonals import *  # noqa: F403
from tapefuse.numpy.einsum import *  # noqa: F403
from tapefuse.numpy.elementwise import *  # noqa: F403
from tapefuse.numpy.fitting import *  # noqa: F403
from tapefuse.numpy.floats import *  # noqa: F403
from tapefuse.numpy.inspection import *  # noqa: F403
from tapefuse.numpy.joining import *  # noqa: F403
from tapefuse.numpy.linalg import norms, products
from tapefuse.numpy.linalg.norms import *  # noqa: F403
from tapefuse.numpy.linalg.products import *  # noqa: F403
from tapefuse.numpy.linalg.systems import matrix_power
from tapefuse.numpy.nans import *  # noqa: F403
from tapefuse.numpy.padding import *  # noqa: F403
from tapefuse.numpy.polynomials import *  # noqa: F403
from tapefuse.numpy.reduce import *  # noqa: F403
from tapefuse.numpy.running import *  # noqa: F403
from tapefuse.numpy.segments import *  # noqa: F403
from tapefuse.numpy.selecting import *  # noqa: F403
from tapefuse.numpy.sets import *  # noqa: F403
from tapefuse.numpy.shape import *  # noqa: F403
from tapefuse.numpy.sorting import *  # noqa: F403
from tapefuse.numpy.statistics import *  # noqa: F403
from tapefuse.numpy.windows import *  # noqa: F403
from tapefuse.tracer import operators

__all__ = elementwise.__all__ + reduce.__all__ + shapes.__all__
__all__ += complex.__all__
__all__ += norms.__all__ + products.__all__ + ["matrix_power"]
__all__ += creation.__all__ + contraction.__all__ + diagonals.__all__ + inspection.__all__ + joining.__all__
__all__ += fitting.__all__ + padding.__all__ + polynomials.__all__ + segments.__all__ + selecting.__all__ + sets.__all__
__all__ += bits.__all__ + windows.__all__
__all__ += sorting.__all__ + floats.__all__ + nans.__all__ + running.__all__ + statistics.__all__


def _leave_tape(function: Any) -> Any:
    """NumPy's own function on the values: for results that are no tensors, such as truth about arrays, or text."""

    def on_values(*args: Any, **options: Any) -> Any:
        return function(*tree_map(_value, args), **tree_map(_value, options))

    return on_values


def _value(x: Any) -> Any:
    return np.asarray(x) if isinstance(x, operators.Operators) else x


_ON_VALUES = (
    np.may_share_memory,
    np.save,
    np.savetxt,
    np.savez,
    np.savez_compressed,
    np.shares_memory,
    np.array2string,
    np.array_repr,
    np.array_str,
)

_LAST_TWO_AXES = {
    np.linalg.cross: lambda x, y, *, axis=-1: linalg.cross(x, y, axis=axis),
}

def _install() -> None:
    """Give the operators of tensors their functions, and NumPy's dispatch protocols theirs."""
    for name in __all__:
        function = globals()[name]
        setattr(operators.functions, name, function)
        theirs = getattr(np, name, None)
        if isinstance(theirs, np.ufunc):
            operators.ufuncs[theirs, "__call__"] = function
        elif callable(theirs):
            operators.array_functions[theirs] = function
    for name in (n for n in linalg.__all__ if hasattr(np.linalg, n) and n != "cross"):
        operators.array_functions[getattr(np.linalg, name)] = getattr(linalg, name)
    operators.array_functions.update(_LAST_TWO_AXES)
    operators.array_functions.update({("numpy.fft", name): getattr(fft, name) for name in fft.__all__})  # loads late
    operators.array_functions.update({f: _leave_tape(f) for f in _ON_VALUES})
    operators.complete()
    operators.ufuncs.update(ufunc_methods.methods({k: f for k, f in operators.ufuncs.items() if k[1] == "__call__"}))


_install()
