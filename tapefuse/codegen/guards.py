"""Elements that may not be there: where a lowering rule's index points while its condition does not hold.

A rule computes one expression for all elements of its result, also where an operand has none for it: of a joined
array, what lies in another part. There the index is 0 (`Builder.inside`). An axis whose extent is known at run time
only may be empty, so that nothing is there either:

    concat(x[n,5], y[m,5])  at (i, j)         t0 = lt i n
                                              t1 = select t0 i 0
                                              t2 = load x[t1,j]        of n = 0 rows: beyond the end of x

So what has been computed from such an index, and the indices along later axes, are 0 as well:

                                              t2 = select t0 j 0
                                              t3 = load x[t1,t2]

What is read in vain is the first element of the memory, which is there even if the array has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from tapefuse.codegen.builder import Builder
from tapefuse.codegen.loops import ZERO, Num, Scalar, Var

_AFFINE = ("add", "sub", "mul")
_INDEX = (*_AFFINE, "floordiv", "mod")  # what rules compute indices with from those along other axes


def guarded(b: Builder, index: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """The index of a load, 0 along an axis if a condition that the index along it or an earlier one is under is false.

    Not later ones: an axis that is empty makes the steps along earlier ones 0, whatever they are multiplied with.
    """
    condition: Scalar | None = None
    seen: set[Scalar] = set()
    result: list[Scalar] = []
    for i in index:
        for c in _conditions(b, i):
            if c not in seen:
                condition = c if condition is None else b.op("and", condition, c)
                seen.add(c)
        result.append(i if condition is None or i == ZERO else b.op("select", condition, _unmarked(b, i), ZERO))
    return tuple(result)


def _conditions(b: Builder, i: Scalar) -> list[Scalar]:
    """The conditions that an index is under, and those it was computed from."""
    found: dict[Scalar, None] = {}
    stack, seen = [i], set[Scalar]()
    while stack:
        x = stack.pop()
        if not isinstance(x, Var) or x in seen or x not in b.integers:
            continue
        seen.add(x)
        op, args = b.integers[x]
        if x in b.conditions:
            found[b.conditions[x]] = None
            stack.append(args[1])
        elif op in _INDEX:
            stack += args
    return list(found)


def _unmarked(b: Builder, i: Scalar) -> Scalar:
    """An index as it is where all conditions hold."""
    if isinstance(i, Num) or i not in b.integers:
        return i
    op, args = b.integers[i]
    if i in b.conditions:
        return _unmarked(b, args[1])
    return b.op(op, *(_unmarked(b, a) for a in args)) if op in _AFFINE else i
