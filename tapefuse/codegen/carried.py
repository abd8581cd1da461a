"""Which operand a value is a changed version of, so that it may be written into that operand's memory."""

from __future__ import annotations

from collections.abc import Collection

from tapefuse.codegen.groups import unaliased
from tapefuse.codegen.inline_values import chained, is_computed_again
from tapefuse.codegen.updates import Reads, reads_of_base, replaces_most, writes_into_base
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region


def base_of(node: Value, inline: Collection[Value]) -> Value | None:
    """What a value changes a part of, or what a region's result was before; None for values that are all new."""
    if writes_into_base(node):
        return chained(node, inline)[0].args[0]
    return continued(node)


def continued(node: Value) -> Value | None:
    """The operand that a region's result is a later version of: a carried one; of a branch, the one it updates."""
    if node.op is not OPS["result"]:
        return None
    token, k = node.args[0], node.attributes["index"]
    assert token.op is not None
    if token.op is OPS["recording"]:
        return None
    if token.type.size == 1 and node.type.size == 1:
        return None  # scalars are in registers
    if "carried" in token.attributes:
        return token.args[k] if k < token.attributes["carried"] else None
    origins = {_origin(graph, graph.outs[k]) for graph in region.graphs(token)}
    origin = origins.pop() if len(origins) == 1 else None
    return None if origin is None else token.args[1 + origin]  # the first one is the branch's number, or the size


def is_renewed(new: Value) -> bool:
    """Whether what a loop carries is best written to another array in each iteration: most of it changes, and is
    computed from elements around those that are overwritten."""
    while new.op is not None and writes_into_base(new):
        if replaces_most(new) and reads_of_base(new.args[1], new, is_computed_again, unaliased) is Reads.OTHERS:
            return True
        new = new.args[0]
    return False


def _origin(graph: Graph, value: Value | None) -> int | None:
    """The number of the parameter that a graph's output is a later version of."""
    while value is not None and value.op is not None:
        value = value.args[0] if value.op.has_base else continued(value)
    return None if value is None else graph.params.index(value)
