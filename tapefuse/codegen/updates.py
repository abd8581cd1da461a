"""Updates of a region of an array, `put` and `put_add`, as stores of the kernel that computes what is written there.

An update whose region is small beside its array is a member of the kernel of its operand `v`: each element goes to its
place in the memory of the base, where that is free, or of a copy. Updates of very small arrays are computed like any
other elementwise function instead, one element of the result after the other, so that they fuse with what reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from math import prod

from tapefuse.ir.graph import Value
from tapefuse.ir.ops.update import limits
from tapefuse.ir.passes.checks import never_negative
from tapefuse.ir.types import Dim, Shape

SMALL = 64  # elements of an array up to which an update computes all of them
SEARCH = 64  # values looked at for reads of the base


def is_placed(node: Value) -> bool:
    """Whether a value is an update that is written into the memory of its base."""
    if node.op is None or node.op.name not in ("put", "put_add"):
        return False
    dims = (*node.shape, *node.args[1].shape, *node.attributes["starts"])
    return not all(isinstance(d, int) for d in dims) or node.type.size > SMALL  # type: ignore[operator]


def is_scatter(node: Value) -> bool:
    """Whether a value is made by adding or storing elements at places that are known at run time only."""
    return node.op is not None and node.op.push is not None and node.op.at is None


def writes_into_base(node: Value) -> bool:
    """Whether a value is its first operand with some elements changed, and the others are never touched."""
    return is_placed(node) or is_scatter(node) and node.op is not None and node.op.has_base


def is_own_region(value: Value, update: Value) -> bool:
    """Whether a value is what the base of an update held where it writes."""
    if value.op is None or value.op.name != "slice" or value.args[0] is not update.args[0]:
        return False
    a, (starts, ends) = value.attributes, _bounds(update)
    return (a["starts"], a["strides"], a["limits"]) == (starts, update.attributes["strides"], ends)


def is_apart(value: Value, update: Value) -> bool:
    """Whether a value is a part of the base of an update that has no element in common with the part written."""
    if value.op is None or value.op.name != "slice" or value.args[0] is not update.args[0]:
        return False
    return is_elsewhere(value, update)


def is_elsewhere(part: Value, update: Value) -> bool:
    """Whether a slice has no element in common with the region of an update of an array of the same shape."""
    a, (starts, ends) = part.attributes, _bounds(update)
    axes = zip(a["starts"], a["limits"], starts, ends, strict=True)
    return any(never_negative(begin - stop) or never_negative(start - end) for start, stop, begin, end in axes)


def _bounds(update: Value) -> tuple[Shape, Shape]:
    """Where the part that an update writes begins and ends."""
    starts, strides = update.attributes["starts"], update.attributes["strides"]
    return starts, limits(update.args[1].shape, starts, strides)


def reads(value: Value, base: Value, through: Callable[[Value], bool], root: Callable[[Value], Value]) -> bool:
    """Whether computing a value reads `base`, looking at operands `through` which values are computed again; true as
    well if there are many of those."""
    stack, seen = [value], {value}
    while stack:
        v = stack.pop()
        if root(v) is base or len(seen) > SEARCH:
            return True
        if through(v):
            stack.extend(a for a in v.args if a not in seen)
            seen.update(v.args)
    return False


class Reads(IntEnum):
    """What a value reads of the array that an update changes."""

    NOTHING = 0  # that the update writes
    OWN = 1  # for each of its elements, the one that the update then writes
    OTHERS = 2


def reads_of_base(
    value: Value, update: Value, through: Callable[[Value], bool], root: Callable[[Value], Value]
) -> Reads:
    """What computing an element of `value` reads of what the update writes.

    Looks at operands `through` which values are computed again; `root`: the value whose memory one is.
    """
    base, shape, found = root(update.args[0]), _significant(update.args[1].shape), Reads.NOTHING
    stack: list[tuple[Value, bool]] = [(value, True)]  # and whether its own elements are those written
    seen: set[tuple[Value, bool]] = set()
    while stack:
        v, aligned = stack.pop()
        if (v, aligned) in seen or is_apart(v, update):
            continue
        seen.add((v, aligned))
        if aligned and is_own_region(v, update):
            found = Reads.OWN
        elif root(v) is base or len(seen) > SEARCH:
            return Reads.OTHERS
        elif v.op is not None and (v is value or through(v)):
            keeps = v.op.elementwise or v.op.name == "reshape"
            same = aligned and keeps and _significant(v.shape) == shape
            stack += [(a, same and _significant(a.shape) == shape) for a in v.args]
    return found


def _significant(shape: Shape) -> list[Dim]:
    return [n for n in shape if n != 1]


def replaces_most(update: Value) -> bool:
    """Whether an update leaves only a frame of its base as it was."""
    if update.op is None or update.op.name != "put" or any(step != 1 for step in update.attributes["strides"]):
        return False
    base, v = update.args
    gaps = [n - m for n, m in zip(base.shape, v.shape, strict=True)]
    if not all(isinstance(gap, int) for gap in gaps) or 0 in base.shape:
        return False
    known = [(n, m) for n, m in zip(base.shape, v.shape, strict=True) if isinstance(n, int) and isinstance(m, int)]
    return 2 * prod(m for _, m in known) >= prod(n for n, _ in known)
