"""Constants: an op whose operands are all small constants is replaced by its result.

The result of `exp f32(0.0)` is `f32(1.0)`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from tapefuse._errors import TapefuseError
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import Op, const, constant
from tapefuse.ir.rewrite import Pattern, Rewriter, rule
from tapefuse.ir.types import Dim

LIMIT = 64  # elements of an operand or a result; larger constants cost more as text than as work


def is_small(size: Dim) -> bool:
    return isinstance(size, int) and size <= LIMIT


def folded(root: Value) -> Value | None:
    """The constant that a node is, or None. What fails now is left to fail, or not to be reached, at run time."""
    op = root.op
    if op is None or not is_small(root.type.size):
        return None
    if not all(a.op is const and is_small(a.type.size) for a in root.args):
        return None
    try:
        with np.errstate(all="ignore"):
            result = op.compute([a.attrs[0][1].array for a in root.args], root.attributes)
    except (TapefuseError, ArithmeticError, ValueError):
        return None
    return constant(np.asarray(result))


def _foldable(op: Op) -> bool:
    """Not what is cheaper to make than to read: a count, a repeated value."""
    return op.interned and op is not const and not op.is_region and op.name not in ("iota", "basis", "broadcast")


RULES = Rewriter([rule("fold", Pattern(_foldable), folded)])


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    return RULES.run(graph)
