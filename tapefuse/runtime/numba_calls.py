"""Inner loops of NumPy's as functions that the Numba backend's source calls, as plain Python and under `@njit` alike.

`from tapefuse.runtime.numba_calls import linalg__inv__dd` is a function of four tuples: the arrays, the places of their
first elements, the sizes, and the steps in bytes (`codegen.loops.Call`). It returns whether the loop has failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import make_array

from tapefuse.runtime import gufuncs
from tapefuse.runtime.numba_library import compiled

_made: dict[str, Callable] = {}


def __getattr__(name: str) -> Callable:
    if name.count("__") != 2 or name.startswith("_"):
        raise AttributeError(name)
    if name not in _made:
        _made[name] = _function(name)
    return _made[name]


def _function(name: str) -> Callable:
    loop = name.replace("__", ".")

    def function(arrays, places, sizes, steps):
        return plain(loop, arrays, places, sizes, steps)

    function.__name__ = function.__qualname__ = name

    @compiled(function, typer=lambda arrays, places, sizes, steps: types.boolean)
    def code(context, builder, sig, args):
        return _call(context, builder, sig, args, gufuncs.record(loop))

    return function


def plain(loop: str, arrays: Any, places: Any, sizes: Any, steps: Any) -> bool:
    """The call through NumPy."""
    ufunc, signature = gufuncs.function(loop)
    views, outer, inner = [], steps[: ufunc.nargs], iter(steps[ufunc.nargs :])
    names: dict[str, int] = {}
    dtypes = map(np.dtype, signature.replace("->", ""))
    cores = re.findall(r"\(([^)]*)\)", (ufunc.signature or "").replace(" ", ""))
    for x, at, core, step in zip(arrays, places, cores, outer, strict=True):
        extents = [sizes[1 + names.setdefault(n, len(names))] for n in core.split(",") if n]
        strides = [step, *(next(inner) for _ in extents)]
        offset = at * x.itemsize
        views.append(np.ndarray((sizes[0], *extents), next(dtypes), x, offset, strides))
    found: list[str] = []
    with np.errstate(all="ignore", invalid="call", call=lambda kind, flag: found.append(kind)):
        ufunc(*views[: ufunc.nin], out=tuple(views[ufunc.nin :]), signature=signature)
    return bool(found)


def _call(context, builder, sig, args, record):
    word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()

    def integers(k):
        values = cgutils.unpack_tuple(builder, args[k], len(sig.args[k]))
        return [context.cast(builder, v, t, types.int64) for v, t in zip(values, sig.args[k], strict=True)]

    def table(values):
        array = cgutils.alloca_once(builder, ir.ArrayType(values[0].type, len(values)))
        for k, v in enumerate(values):
            builder.store(v, cgutils.gep_inbounds(builder, array, 0, k))
        return builder.bitcast(array, pointer)

    def call(address, result, *values):
        type = ir.FunctionType(result, [v.type for v in values])
        return builder.call(builder.inttoptr(word(address), type.as_pointer()), values)

    arrays = cgutils.unpack_tuple(builder, args[0], len(sig.args[0]))
    data = [make_array(t)(context, builder, v).data for t, v in zip(sig.args[0], arrays, strict=True)]
    data = [builder.bitcast(builder.gep(d, [at]), pointer) for d, at in zip(data, integers(1), strict=True)]
    invalid, (clear, test) = ir.IntType(32)(gufuncs.INVALID), gufuncs.flags()
    call(clear, invalid.type, invalid)
    given = [table(data), table(integers(2)), table(integers(3)), builder.inttoptr(word(record[1]), pointer)]
    call(record[0], ir.VoidType(), *given)
    return builder.icmp_signed("!=", call(test, invalid.type, invalid), invalid.type(0))
