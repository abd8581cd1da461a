"""Which elements of its operands a value reads: lowering rules run on symbolic indices.

`accesses(add)` at index (i0, i1) of `add(x[B,10], b[10])` is `x at (i0, i1)`, `b at (i1,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from tapefuse._records import dataclass
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.scalar import result_dtype
from tapefuse.ir.types import Dim, Shape

INT = np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Axis:
    """The loop index of one axis of the value under examination."""

    axis: int

    @property
    def dtype(self) -> np.dtype:
        return INT


@dataclass(frozen=True, slots=True, eq=False)
class Other:
    """Any other scalar; `data` if it depends on an element of an operand, so that as an index it may point anywhere."""

    dtype: np.dtype
    data: bool = False


Index = tuple[Axis | Other, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """One read of `value` at `index`."""

    value: Value
    index: Index

    @property
    def prefix(self) -> int:
        """How many leading components are exactly the reader's own leading indices."""
        count = 0
        for k, i in enumerate(self.index):
            if not (isinstance(i, Axis) and i.axis == k):
                break
            count += 1
        return count

    @property
    def is_prefix(self) -> bool:
        """Reads the element that the reader's leading indices name."""
        return self.prefix == len(self.index)

    @property
    def data(self) -> bool:
        return any(isinstance(i, Other) and i.data for i in self.index)


class _Probe:
    """A builder that computes nothing but remembers what indices depend on."""

    def op(self, name: str, *args):
        return Other(result_dtype(name, *[a.dtype for a in args]), any(getattr(a, "data", False) for a in args))

    def inside(self, condition, k, extent: Dim):
        return self.op("select", condition, k, Other(INT))

    def cast(self, x, dtype):
        return Other(np.dtype(dtype), getattr(x, "data", False))

    def number(self, value, dtype):
        return Other(np.dtype(dtype))

    def literal(self, array, index):
        return Other(array.dtype)

    def dim(self, d: Dim):
        return Other(np.dtype(np.int64))

    def reduce(self, kind, dtype, extents, body: Callable):
        body(tuple(Other(np.dtype(np.int64)) for _ in extents))
        return Other(np.dtype(dtype), True)


_PROBE = _Probe()
_ONE = Other(INT)  # the only index of an axis of extent 1


class Operand:
    """What a lowering rule sees of an operand: its shape, its dtype, and its element at an index."""

    __slots__ = ("_read", "dtype", "shape")

    def __init__(self, value: Value, read: Callable, shape=None):
        self.shape, self.dtype, self._read = value.shape if shape is None else shape, value.dtype, read

    def __call__(self, index):
        return self._read(tuple(index))


def accesses(node: Value, inline: Callable[[Value], bool]) -> tuple[Access, ...]:
    """All reads that computing one element of `node` needs, looking through operands that are `inline`."""
    assert node.op is not None
    if node.op.elementwise and not any(map(inline, node.args)):
        return tuple(dict.fromkeys(Access(a, _broadcast(node.shape, a.shape)) for a in node.args))
    found: list[Access] = []

    def operand(value: Value) -> Operand:
        def read(index):
            if inline(value):
                return at(_PROBE, value, index, operand)
            found.append(Access(value, _own_ones(node.shape, value.shape, index)))
            return Other(value.dtype, True)

        return Operand(value, read)

    at(_PROBE, node, tuple(Axis(k) for k in range(len(node.shape))), operand)
    return tuple(dict.fromkeys(found))


@cache
def _broadcast(reader: Shape, shape: Shape) -> Index:
    """The index at which an elementwise value reads an operand."""
    lead = len(reader) - len(shape)
    return _own_ones(reader, shape, tuple(_ONE if n == 1 else Axis(lead + k) for k, n in enumerate(shape)))


def _own_ones(reader: Shape, shape: Shape, index: Index) -> Index:
    """The index, where the only one of an axis is the reader's own if that has no other either."""
    ones = {k for k, (n, m) in enumerate(zip(reader, shape, strict=False)) if n == m == 1}
    return tuple(Axis(k) if k in ones else i for k, i in enumerate(index)) if ones else index


def at(b, node: Value, index, operand: Callable[[Value], Operand]):
    """One element of `node`, by its op's lowering rule. Axes of extent 1 that come and go keep their indices."""
    assert node.op is not None and node.op.at is not None, f"{node} has no pull lowering"
    if node.op.name == "reshape" and is_squeeze(node):
        return operand(node.args[0])(_squeezed(b, index, node.shape, node.args[0].shape))
    return node.op.at(b, index, *map(operand, node.args), **node.attributes)


def is_squeeze(node: Value) -> bool:
    """Whether a reshape only inserts and removes axes of extent 1."""
    return _significant(node.shape) == _significant(node.args[0].shape)


def _significant(shape: Iterable[Dim]) -> list[Dim]:
    return [n for n in shape if n != 1]


def _squeezed(b, index, source, target):
    kept = iter([i for i, n in zip(index, source, strict=True) if n != 1])
    return tuple(b.number(0, np.int64) if n == 1 else next(kept) for n in target)
