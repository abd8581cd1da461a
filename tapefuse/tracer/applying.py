"""Operations on tensors: run now on arrays, or nodes of the trace under way; tapes record them.

Tensors, variables and operators come here, and the functions of `tapefuse.numpy`; the short ways of eager tensors are
in `eager` and `shortcuts`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import reworded
from tapefuse.ir.graph import Value, here
from tapefuse.ir.interp import evaluate_region
from tapefuse.ir.op import Op
from tapefuse.ir.ops.effects import has_effects, require
from tapefuse.ir.ops.region import graphs
from tapefuse.ir.types import Poly, has_derivatives
from tapefuse.tracer.arrays import F32, F64, normal
from tapefuse.tracer.lines import enter
from tapefuse.tracer.source import called, current_loc
from tapefuse.tracer.state import new_key, state
from tapefuse.tracer.tensor import (
    Deferred,
    Readable,
    Tensor,
    TracedTensor,
    as_tensor,
    key_of,
    leaked,
    still,
    weakened,
    wrap,
)

_EXACT = frozenset(map(np.dtype, "?bhilqBHILQ"))  # dtypes of integers and bools


def apply(op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor:
    """`op(*args, **attrs)`: run now on eager tensors, a node of the trace on traced ones; recorded by the tapes.

    Python scalars take the dtype of the first operand that is not bool, like `Op.emit`.
    """
    trace = state.trace
    if trace is None and (quick := _quickly(op, args, attrs)) is not None:
        return quick
    operands, traced = _operands(args)
    if traced or (trace is not None and (trace.captures or not args or is_symbolic(tuple(attrs.values())))):
        here.loc = current_loc()
        if trace is None:
            raise leaked(next(x for x in operands if isinstance(x, TracedTensor)))
        result: Tensor = TracedTensor(op.emit(*[trace.value_of(x) for x in operands], **attrs), trace)
    else:
        result = _run(op, operands, attrs)
    for x in operands:
        if x.weak and _stays_weak(op, operands):
            result = weakened(result)
            break
    if state.tapes:
        record(op, operands, attrs, result)
    return result


def _quickly(op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor | None:
    """The result on eager floats, integers and bools; None for what is not to go this way, and where it fails."""
    if not args or not op.interned or (op.name == "gather" and len(args) == 2):  # of which tapes keep the rows
        return None
    arrays = []
    for x in args:
        if type(x) is not Tensor:
            return x.__tapefuse_apply__(op, args, attrs) if type(x) is Deferred else None
        array = x._array
        if not ((t := array.dtype) is F32 or t is F64 or t in _EXACT):
            return None
        arrays.append(array)
    try:
        array = op.ref(*arrays, **attrs) if op.ref is op.raw else state.quietly(op.raw, *arrays, **attrs)
    except Exception:  # whatever it is, the long way meets it again and says why
        return None
    y = Tensor.__new__(Tensor)
    y._array = array = normal(array)
    if tapes := state.tapes:
        taped(tapes, op, attrs, args, y, (array, *arrays))
    return y


def _stays_weak(op: Op, operands: tuple[Tensor, ...]) -> bool:
    """Whether a result is a number as its operands are; a choice between numbers is one."""
    return op.name != "cast" and all(x.weak or x.dtype.kind == "b" for x in operands)


def apply_region(op: Op, args: tuple, attrs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The results of an operation with graphs inside: run now on eager tensors, nodes of the trace inside of one;
    tapes record all of them as one operation."""
    operands, traced = _operands(args)
    trace = state.trace
    if traced or trace is not None:
        here.loc = current_loc()
        if trace is None:
            raise leaked(next(x for x in operands if isinstance(x, TracedTensor)))
        values = op.emit_results(*[trace.value_of(x) for x in operands], **attrs)
        results: tuple[Tensor, ...] = tuple([TracedTensor(v, trace) for v in values])
        if values and not state.pinned and any(map(has_effects, graphs(values[0].args[0]))):
            trace.effects.append(values[0])
    else:
        results = tuple([wrap(np.asarray(y)) for y in evaluate_region(op, [x._array for x in operands], attrs)])
    if state.tapes and any(has_derivatives(y.dtype) for y in results):
        keys, _ = [key_of(x) for x in operands], [key_of(y) for y in results]
        held, given = tuple([still(x) for x in operands]), tuple([still(y) for y in results])
        for tape in [tape for tape in state.tapes if tape.tracks(keys)]:
            tape.add_region(op, keys, held, attrs, given, current_loc())
        for tape in state.tapes:
            if tape.lost:
                for y in given:
                    tape.missed(op.name, keys, key_of(y))
    return results


def is_symbolic(attribute: Any) -> bool:
    """Whether there is a symbolic extent in it: what `broadcast` to `[B]` gives is known at run time only."""
    if isinstance(attribute, tuple):
        return any(map(is_symbolic, attribute))
    return isinstance(attribute, Poly)


def _operands(args: tuple) -> tuple[tuple[Tensor, ...], bool]:
    traced, weak, ready = False, None, True
    for x in args:
        if isinstance(x, Tensor):
            traced = traced or isinstance(x, TracedTensor)
        else:
            ready = False
    if ready:
        return args, traced
    for x in args:
        dtype = getattr(x, "dtype", None)
        if dtype is not None and dtype.kind != "b":
            weak = dtype
            break
    operands = tuple([_wrap_value(x) if isinstance(x, Value) else as_tensor(x, weak) for x in args])
    return operands, any(isinstance(x, TracedTensor) for x in operands)


def _wrap_value(value: Value) -> Tensor:
    """Derivative rules emit nullary ops (`iota`, `dim`) as IR values, which belong to the trace under way."""
    assert state.trace is not None, "an IR value met a tensor outside a trace"
    return TracedTensor(value, state.trace)


def _run(op: Op, operands: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
    try:
        return wrap(op.compute([x._array for x in operands], attrs))
    except (TypeError, ValueError, IndexError) as error:
        if op is require:  # whatever the user raises
            raise
        outer, here.loc = here.loc, current_loc()
        try:
            op.infer(*[x.type for x in operands], **attrs)  # says what is wrong with the types, if that is the cause
            where = f"{op.name} at {here.loc}" if state.pinned else called(op.name)
        finally:
            here.loc = outer
        raise reworded(error, f"{where}: {str(error).removeprefix(f'{op.name}: ')}") from error


def taped(
    tapes: tuple, op: Op, attrs: dict[str, Any], xs: tuple[Any, ...], y: Tensor, held: tuple[np.ndarray, ...]
) -> None:
    """Show `y = op(*xs, **attrs)` on eager floats to the tapes. `held`: the arrays of `y` and `xs`, which may be Python
    numbers."""
    dtype = held[0].dtype
    if not (dtype is F32 or dtype is F64) or state.pinned or state.overrides:
        tensors = [x if type(x) is Tensor else wrap(a) for x, a in zip(xs, held[1:], strict=True)]
        record(op, tuple(tensors), attrs, y)
        return
    try:
        if len(xs) == 2:
            x, z = xs
            keys: tuple[int, ...] = x._key if type(x) is Tensor else 0, z._key if type(z) is Tensor else 0
        else:
            keys = tuple([x._key for x in xs]) if len(xs) > 1 else (xs[0]._key,)
    except AttributeError:  # an operand that has none yet
        keys = tuple([key_of(x) if type(x) is Tensor else 0 for x in xs])
    y._key = key = new_key()
    enter(tapes, op, attrs, keys, key, held)


def record(op: Op, operands: tuple[Tensor, ...], attrs: dict[str, Any], result: Tensor) -> None:
    """Show an operation to the tapes of this thread. Results that are integers or bools have no derivatives."""
    if has_derivatives(result.dtype):
        keys = [key_of(x) for x in operands]
        tapes = [tape for tape in state.tapes if tape.tracks(keys)]
        if tapes:
            loc = current_loc()
            key_of(result)
            result, operands = still(result), tuple([still(x) for x in operands])
            for tape in tapes:
                tape.add(op, keys, operands, attrs, result, loc)
        for tape in state.tapes:
            if tape.lost:
                tape.missed(op.name, keys, key_of(result))
    else:
        keys = [key_of(x) for x in operands]
        for tape in state.tapes:
            tape.note("dtype", (op.name, result.dtype), keys, result)


# -- the protocol by which operations of the IR find their tensors ----------------------------------------------------


def _applied(self: Any, op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor:
    return apply(op, args, attrs)


def _applied_region(self: Any, op: Op, args: tuple, attrs: dict[str, Any]) -> tuple[Tensor, ...]:
    return apply_region(op, args, attrs)


Tensor.__tapefuse_apply__ = Readable.__tapefuse_apply__ = _applied
Tensor.__tapefuse_region__ = _applied_region
