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
from tapefuse.numpy import elementwise, linalg, reduce, shape
from tapefuse.numpy.elementwise import *  # noqa: F403
from tapefuse.numpy.linalg import *  # noqa: F403
from tapefuse.numpy.reduce import *  # noqa: F403
from tapefuse.numpy.shape import *  # noqa: F403
from tapefuse.tracer import operators

__all__ = elementwise.__all__ + linalg.__all__ + reduce.__all__ + shape.__all__


def _leave_tape(function: Any) -> Any:
    """NumPy's own function on the values: for results that are no tensors, such as truth about arrays, or text."""

    def on_values(*args: Any, **options: Any) -> Any:
        return function(*tree_map(_value, args), **tree_map(_value, options))

    return on_values


def _value(x: Any) -> Any:
    return np.asarray(x) if isinstance(x, operators.Operators) else x


def _shape_of(x: Any) -> Any:
    return x.shape


def _rank_of(x: Any) -> int:
    return x.ndim


_ON_VALUES = (
    np.allclose,
    np.array_equal,
    np.isclose,
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

_REDUCTIONS = {np.add: reduce.sum, np.multiply: reduce.prod, np.maximum: reduce.max, np.minimum: reduce.min,
               np.logical_and: reduce.all, np.logical_or: reduce.any}  # fmt: skip


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
    operators.array_functions[np.linalg.norm] = linalg.norm
    operators.array_functions[np.shape] = _shape_of
    operators.array_functions[np.ndim] = _rank_of
    operators.array_functions.update({f: _leave_tape(f) for f in _ON_VALUES})
    for ufunc, function in _REDUCTIONS.items():
        operators.ufuncs[ufunc, "reduce"] = _reduction(function)


def _reduction(function: Any) -> Any:
    """`np.add.reduce(x)` reduces the first axis where `np.sum(x)` reduces all."""

    def reduce_axis(x: Any, axis: Any = 0, keepdims: bool = False) -> Any:
        return function(x, axis, keepdims=keepdims)

    return reduce_axis


_install()
