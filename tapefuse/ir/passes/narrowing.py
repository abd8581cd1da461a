"""Operands of a branch of which it reads elements alone: it is given these.

    switch c, x: f64[n]    -- gather x, k --    ->    switch c, (gather x, k): f64[]    --

A derivative in a loop then keeps an element of each iteration, where it would keep the array. An element is read
whether its branch is taken or not, at an index brought into range.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.op import constant
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes.bodies import rebuilt
from tapefuse.ir.types import Dim

MOST = 8  # elements of an array, and branches' reads of them, that are worth it


def narrowed(args: Sequence[Value], branches: Sequence[Graph]) -> tuple[list[Value], list[Graph]]:
    """Operands and graphs of a `switch`, without its index; `args` are those of the first parameters, others stay."""
    new_args: list[Value] = []
    left: list[int] = []  # parameters that stay
    given: list[dict[Value, Value]] = [{} for _ in branches]  # by branch: what was read -> the new parameter
    added: list[list[Value]] = [[] for _ in branches]
    for k, x in enumerate(args):
        reads = [_reads(branch, branch.params[k]) for branch in branches]
        if any(found is None for found in reads) or not any(reads):
            left.append(k)
            continue
        for number, (branch, found) in enumerate(zip(branches, reads, strict=True)):
            env = dict(zip(branch.params, args, strict=False))
            for v in found or ():
                new_args.append(_element(v, x, env))
                for each in added:
                    each.append(param(v.type))
                given[number][v] = added[number][-1]
    if not new_args:
        return [*args], [*branches]
    stay = [args[k] for k in left]
    return [*stay, *new_args], [_with(*each, left, len(args)) for each in zip(branches, added, given, strict=True)]


def _with(branch: Graph, added: Sequence[Value], given: dict[Value, Value], left: Sequence[int], count: int) -> Graph:
    params = (*(branch.params[k] for k in left), *added, *branch.params[count:])
    return Graph(params, rebuilt(branch.outs, dict(given)), branch.name)


def _reads(branch: Graph, x: Value) -> list[Value] | None:
    """The reads of elements of an array; None if something else is made of it, or it has no elements to leave out."""
    if not x.shape or not all(isinstance(n, int) and n > 0 for n in x.shape) or x.type.size == 1 or x in branch.outs:
        return None
    users = list(dict.fromkeys(branch.users[x]))
    return users if len(users) <= MOST and all(_is_element(v, x, branch) for v in users) else None


def _is_element(v: Value, x: Value, branch: Graph) -> bool:
    if v.op is ops.gather:
        return v.args[0] is x and all(_is_outside(k, branch) for k in v.args[1:])
    return v.op is ops.slice_ and set(v.attributes["strides"]) == {1} and _single(v) > 0 and _is_rest_whole(v)


def _single(v: Value) -> int:
    """Along how many leading axes a slice has one element."""
    extents = (limit - start for start, limit in zip(v.attributes["starts"], v.attributes["limits"], strict=True))
    return len(list(takewhile(lambda n: n == 1, extents)))


def _is_rest_whole(v: Value) -> bool:
    rest = slice(_single(v), None)
    return set(v.attributes["starts"][rest]) <= {0} and v.attributes["limits"][rest] == v.args[0].shape[rest]


def _is_outside(k: Value, branch: Graph) -> bool:
    """Whether an index can be computed before the branch is taken: it is an operand, or made of a few numbers."""
    if k.shape or k.dtype.kind != "i":
        return False
    if k.op is None:
        return True
    return (k.op in (ops.const, ops.dim) or k.op.elementwise) and all(_is_outside(a, branch) for a in k.args)


def _element(v: Value, x: Value, env: dict[Value, Value]) -> Value:
    """What a branch reads of `x`, read outside of it."""
    if v.op is ops.gather:
        index = [*rebuilt(v.args[1:], env)]
    else:
        index = [ops.dim.emit(value=start, dtype=INT64) for start in v.attributes["starts"][: _single(v)]]
    inside = [_in_range(k, n) for k, n in zip(index, x.shape, strict=False)]
    return ops.reshape.emit(ops.gather.emit(x, *inside), shape=v.shape)


def _in_range(k: Value, n: Dim) -> Value:
    assert isinstance(n, int)
    return ops.minimum.emit(ops.maximum.emit(k, constant(-n, k.dtype)), constant(n - 1, k.dtype))
