"""What a tape notes of an operation on eager floats: a `Line`, a plain tuple with the arrays themselves.

Types, locations and derivative rules are looked at when somebody asks for derivatives: `record.entry_of` makes a line
the `Record` that everything else on a tape is, `reverse` runs the reverse pass on the arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from tapefuse.ir.graph import Value, param, reachable
from tapefuse.ir.op import Op
from tapefuse.ir.types import Type
from tapefuse.tracer.source import OURS

if TYPE_CHECKING:
    from tapefuse.tracer.recording import Recording

_frame = sys._getframe

# An operation on eager floats (`eager`), the short form of a `Record`: the op, keys of the operands (below 0 for those
# that are not tracked, 0 for Python's numbers), the key of the result, the arrays of result and operands or what is
# left of them, attributes, code and last instruction of the user's function.
Line = tuple[Op, tuple[int, ...], int, tuple[Any, ...], dict[str, Any], CodeType | None, int]

class Shell:
    """What is left of an array whose values no derivative rule reads."""

    __slots__ = ("dtype", "shape")

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...]):
        self.dtype, self.shape = dtype, shape

    @property
    def type(self) -> Type:
        return Type(self.dtype, self.shape)


_F32 = np.dtype(np.float32)
_KNOWN = 4096  # so many entries of each of the tables
_NOTHING = (False,) * 4
_reads: dict[Any, tuple[bool, ...] | None] = {}  # None: all values
_of_float32: dict[tuple[int, ...], Shell] = {}
_others: dict[tuple[np.dtype, tuple[int, ...]], Shell] = {}


def lean(op: Op, attrs: dict[str, Any], held: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    """The arrays of the result and of the operands of an op, without those that its derivative rule does not read."""
    if op.linear and len(held) <= len(_NOTHING):
        if len(held) == 2:
            y, a = held
            try:
                if y.dtype is _F32 and a.dtype is _F32:
                    return _of_float32[y.shape], _of_float32[a.shape]
            except KeyError:
                pass
        reads: tuple[bool, ...] | None = _NOTHING
    else:
        key = op if op.partials is not None else (op, *[a.shape for a in held], *attrs.values())
        try:
            reads = _reads[key]
        except KeyError:
            reads = _learn(key, op, attrs, held[1:])
    if reads is None:
        return held
    if len(held) == 2:
        y, a = held
        return y if reads[0] else shell(y), a if reads[1] else shell(a)
    if len(held) == 3:
        y, a, b = held
        return y if reads[0] else shell(y), a if reads[1] else shell(a), b if reads[2] else shell(b)
    return tuple([a if reads[k] else shell(a) for k, a in enumerate(held)])


def shell(a: np.ndarray) -> Shell:
    """One object for all arrays of a dtype and shape."""
    try:
        return _of_float32[a.shape] if a.dtype is _F32 else _others[a.dtype, a.shape]
    except KeyError:
        made = Shell(a.dtype, a.shape)
    if a.dtype is _F32:
        _bounded(_of_float32)[a.shape] = made
    else:
        _bounded(_others)[a.dtype, a.shape] = made
    return made


def _bounded(table: dict) -> dict:
    if len(table) >= _KNOWN:
        table.clear()
    return table


def _learn(key: Any, op: Op, attrs: dict[str, Any], arrays: Sequence[np.ndarray]) -> tuple[bool, ...] | None:
    reads = None
    if op.vjp is not None:  # what the partials read does not depend on shapes
        found = values_read(op, tuple([Type(a.dtype, a.shape) for a in arrays]), tuple(sorted(attrs.items())))
        reads = None if all(found) else found
    _bounded(_reads)[key] = reads
    return reads


@lru_cache(maxsize=4096)
def values_read(op: Op, types: tuple[Type, ...], attrs: tuple[tuple[str, Any], ...]) -> tuple[bool, ...]:
    """Whether the derivative rule reads the values (not only shapes and dtypes) of the result and of each operand."""
    assert op.vjp is not None
    y = param(op.type(*types, **dict(attrs)))
    xs = [param(t) for t in types]
    cotangents = op.vjp(param(y.type), y, *xs, **dict(attrs))
    read = reachable([c for c in cotangents if isinstance(c, Value)])
    return tuple([v in read for v in (y, *xs)])


def enter(
    tapes: Sequence[Recording],
    op: Op,
    attrs: dict[str, Any],
    keys: tuple[int, ...],
    key: int,
    held: tuple[np.ndarray, ...],
    nowhere: bool = False,
) -> None:
    """Write a line on the tapes that track an operand; with `nowhere` it belongs to no line of the user's.

    The caller's caller is a function of this package; the user's is further out.
    """
    for tape in tapes:
        tracked = tape._tracked
        if not tracked.isdisjoint(keys):
            tracked.add(key)
            if nowhere:
                code, at = None, 0
            else:
                frame = _frame(3)
                code = frame.f_code
                while OURS[code.co_filename] and frame.f_back is not None:
                    frame = frame.f_back
                    code = frame.f_code
                at = frame.f_lasti
            places: tuple[int, ...] = keys
            if len(keys) == 2:
                first, second = keys
                places = first if first in tracked else -first, second if second in tracked else -second
            elif len(keys) > 2:
                places = tuple([k if k in tracked else -k for k in keys])
            kept = held if tape._persistent else lean(op, attrs, held)
            tape._records.append((op, places, key, kept, attrs, code, at))
        if tape.lost:
            tape.missed(op.name, keys, key)
