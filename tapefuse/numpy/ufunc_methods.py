"""The methods of NumPy's ufuncs on tensors: `np.add.reduce(x)`, `np.maximum.accumulate(x)`, `np.multiply.outer(x, y)`.

Sums, products, extremes and truth reduce by operations of their own, other associative functions by combining
neighbours in about log2(n) steps, or one by one where the extent is a symbol.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.types import Poly
from tapefuse.numpy import elementwise, floats, reduce
from tapefuse.numpy.creation import full
from tapefuse.numpy.elementwise import _truth, astype, where
from tapefuse.numpy.running import cumprod, halved, running
from tapefuse.numpy.shape import Axis, _axes, _axis, _refuse, broadcast_to, reshape, squeeze
from tapefuse.numpy.ufunc_places import at_method, reduceat_method
from tapefuse.tracer.source import called
from tapefuse.tracer.tensor import Tensor, as_tensor

Function = Callable[..., Tensor]

# Associative functions: ours, and their result over no elements, if there is one
ASSOCIATIVE: dict[np.ufunc, tuple[Function, Any]] = {
    np.bitwise_and: (elementwise.bitwise_and, -1),
    np.bitwise_or: (elementwise.bitwise_or, 0),
    np.bitwise_xor: (elementwise.bitwise_xor, 0),
    np.fmax: (floats.fmax, None),
    np.fmin: (floats.fmin, None),
    np.gcd: (floats.gcd, 0),
    np.hypot: (elementwise.hypot, 0.0),
    np.lcm: (floats.lcm, None),
    np.logaddexp: (elementwise.logaddexp, -math.inf),
    np.logaddexp2: (elementwise.logaddexp2, -math.inf),
    np.logical_xor: (elementwise.logical_xor, False),
    np.logical_and: (elementwise.logical_and, True),
    np.logical_or: (elementwise.logical_or, False),
    np.maximum: (elementwise.maximum, None),
    np.minimum: (elementwise.minimum, None),
}
REDUCTIONS: dict[np.ufunc, Function] = {
    np.add: reduce.sum,
    np.multiply: reduce.prod,
    np.maximum: reduce.max,
    np.minimum: reduce.min,
    np.logical_and: reduce.all,
    np.logical_or: reduce.any,
}
_RUNNING: dict[np.ufunc, Function] = {np.add: reduce.cumsum, np.multiply: cumprod}


def _operand(ufunc: np.ufunc, x: Any, dtype: Any) -> Tensor:
    x = as_tensor(x) if dtype is None else astype(x, dtype)
    return _truth(x) if ufunc.__name__.startswith("logical") else x


def reduce_method(ufunc: np.ufunc) -> Function:
    """`ufunc.reduce`, along the first axis unless told otherwise."""
    if ufunc in REDUCTIONS:
        return _own_reduction(ufunc)
    function, neutral = ASSOCIATIVE[ufunc]

    def reduce(
        x: Any,
        axis: Axis = 0,
        dtype: Any = None,
        out: None = None,
        keepdims: bool = False,
        initial: Any = None,
        where: Any = None,
    ) -> Tensor:
        _refuse(out)
        x = _masked(_operand(ufunc, x, dtype), where, initial if neutral is None else neutral)
        axes = _axes(x, axis)
        for k in axes:
            x = _reduced(function, x, k, neutral if initial is None else initial)
        x = x if initial is None else function(x, astype(initial, x.dtype))
        return x if keepdims else squeeze(x, axes)

    return reduce


def _own_reduction(ufunc: np.ufunc) -> Function:
    function = REDUCTIONS[ufunc]

    def reduce(
        x: Any, axis: Axis = 0, dtype: Any = None, out: None = None, keepdims: bool = False, **options: Any
    ) -> Tensor:
        return function(_operand(ufunc, x, dtype), axis, out=out, keepdims=keepdims, **options)

    return reduce


def _masked(x: Tensor, mask: Any, neutral: Any) -> Tensor:
    if mask is None or mask is True:
        return x
    if neutral is None:
        raise ValueError(f"{called()}: with where= it needs initial=, the result where no element counts")
    return where(broadcast_to(_truth(mask), x.shape), x, astype(neutral, x.dtype))


def _reduced(function: Function, x: Tensor, axis: int, empty: Any) -> Tensor:
    n = x.shape[axis]
    if not isinstance(n, Poly) and n == 0:
        if empty is None:
            raise ShapeError(f"{called()}: reduction over an empty axis has no value; give initial=")
        return full(tuple([1 if a == axis else m for a, m in enumerate(x.shape)]), empty, x.dtype)
    return halved(function, x, axis)


def accumulate_method(ufunc: np.ufunc) -> Function:
    """`ufunc.accumulate`: the reductions of the elements up to each one along an axis."""
    sums = _RUNNING.get(ufunc)

    def accumulate(x: Any, axis: int = 0, dtype: Any = None, out: None = None) -> Tensor:
        _refuse(out)
        x = _operand(ufunc, x, dtype)
        k = _axis(x.ndim, axis)
        return running(ASSOCIATIVE[ufunc][0], x, k) if sums is None else sums(x, k)

    return accumulate


def outer_method(function: Function) -> Function:
    """`ufunc.outer`: the function of each element of x with each of y."""

    def outer(x: Any, y: Any, **options: Any) -> Tensor:
        x, y = as_tensor(x), as_tensor(y)
        return function(reshape(x, (*x.shape, *[1] * y.ndim)), y, **options)

    return outer


def methods(calls: dict[Any, Function]) -> dict[Any, Function]:
    """(ufunc, method) -> function, for the ufuncs among `calls`, which maps (ufunc, "__call__")."""
    found: dict[Any, Function] = {}
    for ufunc, _ in calls:
        if ufunc.nout == 1 and ufunc.signature is None:
            found[ufunc, "at"] = at_method(ufunc, calls[ufunc, "__call__"])
        if ufunc.nin == 2 and ufunc.signature is None:
            found[ufunc, "outer"] = outer_method(calls[ufunc, "__call__"])
        if ufunc in REDUCTIONS or ufunc in ASSOCIATIVE:
            found[ufunc, "reduce"] = reduce_method(ufunc)
            found[ufunc, "accumulate"] = accumulate_method(ufunc)
            found[ufunc, "reduceat"] = reduceat_method(ufunc, found[ufunc, "reduce"])
    return found
