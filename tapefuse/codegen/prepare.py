"""A graph in the form the scheduler expects: Graph -> Graph.

Halves are bits. Every output is a value of its own (never a parameter, a view, or another output), array constants are
parameters, argmax, and picking one element of each row, are spelled with reductions, and a reduction's axes are either
the leading or the trailing ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tapefuse.codegen.short_axes import unrolled
from tapefuse.codegen.updates import replaces_most
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here, param
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.passes.half import with_bits
from tapefuse.ir.passes.one_hot import hit
from tapefuse.ir.types import Dim, broadcast_shapes


def prepared(graph: Graph) -> tuple[Graph, tuple[np.ndarray, ...]]:
    """The prepared graph and the arrays of the parameters appended to its parameters."""
    graph = unrolled(with_operands(with_bits(graph)))
    env: dict[Value, Value] = {p: p for p in graph.params}
    arrays: list[np.ndarray] = []
    lifted: list[Value] = []
    for node in graph.nodes:
        here.loc = node.loc
        args = tuple(env[a] for a in node.args)
        if node.op is OPS["const"] and node.type.size != 1:
            arrays.append(node.attributes["value"].array)
            lifted.append(param(node.type))
            env[node] = lifted[-1]
        else:
            is_only_reader = bool(args) and graph.users[node.args[0]] == (node,) and node.args[0] not in graph.outs
            cleared = _cleared(graph, node, args)
            env[node] = cleared or is_only_reader and _turned(node, *args) or _spelled(node, args)
    here.loc = None
    taken: set[Value] = set()
    outs = tuple(_own(env[v], taken) for v in graph.outs)
    return Graph((*graph.params, *lifted), outs, graph.name), tuple(arrays)


def with_operands(graph: Graph) -> Graph:
    """The graph with array constants inside of regions as operands of them."""
    if not any(v.op is not None and v.op.is_region for v in graph.nodes):
        return graph
    env: dict[Value, Value] = {p: p for p in graph.params}
    for node in graph.nodes:
        assert node.op is not None
        here.loc = node.loc
        args, attrs = tuple(env[a] for a in node.args), node.attributes
        if node.op.is_region:
            lifted: list[Value] = []
            attrs = region.with_graphs(attrs, partial(_with_arrays, lifted))
            attrs = region.with_graphs(attrs, partial(_with_parameters, lifted))
            args = (*args, *lifted)
        env[node] = node.op.emit(*args, **attrs)
    here.loc = None
    return Graph(graph.params, tuple(env[v] for v in graph.outs), graph.name)


def _with_arrays(lifted: list[Value], graph: Graph) -> Graph:
    """The graph with regions in it as `with_operands` makes them; the constants in it are appended to `lifted`."""
    graph = with_operands(graph)
    found = [v for v in graph.nodes if v.op is OPS["const"] and v.type.size != 1]
    lifted.extend(v for v in found if v not in lifted)
    return graph


def _with_parameters(lifted: Sequence[Value], graph: Graph) -> Graph:
    """The graph with some constants replaced by parameters that follow its own."""
    if not lifted:
        return graph
    new = {v: param(v.type) for v in lifted}
    env: dict[Value, Value] = {p: p for p in graph.params} | new
    for node in graph.nodes:
        if node not in env:
            assert node.op is not None
            env[node] = node.op.emit(*(env[a] for a in node.args), **node.attributes)
    return Graph((*graph.params, *new.values()), tuple(env[v] for v in graph.outs), graph.name)


def _spelled(node: Value, args: tuple[Value, ...]) -> Value:
    assert node.op is not None
    if node.op.name in ("argmax", "argmin"):
        return _arg_extremum(args[0], node.attributes["axis"], node.op.name == "argmax")
    if node.op.reduction is not None:
        return _reduced(node.op, args[0], node.attributes["axes"])
    if node.op.library == "matmul" and node.dtype.kind == "f":
        return thin_product(*args) or node.op.emit(*args)
    if node.op.name == "gather" and args[0].dtype.kind == "f" and args[0].op is not None and args[0].op.elementwise:
        return _picked(args[0], args[1:]) or node.op.emit(*args)
    return node.op.emit(*args, **node.attributes)


def _cleared(graph: Graph, node: Value, args: tuple[Value, ...]) -> Value | None:
    """Most of an array set to one number, where others read the array as well: a choice for each element, so that it
    fuses with what reads it."""
    if not replaces_most(node) or len(graph.users[node.args[0]]) == 1:
        return None
    base, v = node.args
    if v.op is not OPS["broadcast"] or v.args[0].op is not OPS["const"] or v.args[0].type.size != 1:
        return None
    inside: Value | None = None
    for axis, (n, m, start) in enumerate(zip(base.shape, v.shape, node.attributes["starts"], strict=True)):
        index = ops.iota.emit(shape=base.shape, axis=axis, dtype=np.dtype(np.int64))
        tests = [ops.ge.emit(index, _number(start))] * (start != 0)
        tests += [ops.lt.emit(index, _number(start + m))] * (start + m != n)
        for test in tests:
            inside = test if inside is None else OPS["and"].emit(inside, test)
    value = ops.reshape.emit(v.args[0], shape=())
    return None if inside is None else ops.select.emit(inside, value, args[0])


def _number(d: Dim) -> Value | int:
    return d if isinstance(d, int) else ops.dim.emit(value=d, dtype=np.dtype(np.int64))


def _turned(node: Value, inner: Value, *others: Value) -> Value | None:
    """A transpose of a product or of joined arrays, done to its operands: (A B)^T = B^T A^T, so nothing is moved."""
    if node.op is OPS["transpose"] and inner.op is OPS["concat"]:
        perm = node.attributes["perm"]
        parts = (ops.transpose.emit(x, perm=perm) for x in inner.args)
        return ops.concat.emit(*parts, axis=perm.index(inner.attributes["axis"]))
    if not is_turn(node) or inner.op is not OPS["matmul"]:
        return None
    if any(len(x.shape) != len(node.shape) for x in inner.args):
        return None
    a, b = (x.args[0] if is_turn(x) else ops.transpose.emit(x, perm=node.attributes["perm"]) for x in inner.args)
    return ops.matmul.emit(b, a)


def is_turn(x: Value) -> bool:
    """Whether a value is another one with its last two axes exchanged."""
    rank = len(x.shape)
    return x.op is OPS["transpose"] and x.attributes["perm"] == (*range(rank - 2), rank - 1, rank - 2)


def _arg_extremum(x: Value, axis: int, largest: bool) -> Value:
    """The smallest index whose element equals the extremum, or is nan (a nan is the extremum, as in NumPy)."""
    keep = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    extremum = _reduced(OPS["reduce_max" if largest else "reduce_min"], x, (axis,))
    hit = ops.eq.emit(x, ops.reshape.emit(extremum, shape=keep))
    if x.dtype.kind == "f":
        hit = OPS["or"].emit(hit, ops.ne.emit(x, x))
    index = ops.iota.emit(shape=x.shape, axis=axis, dtype=np.dtype(np.int64))
    return _reduced(OPS["reduce_min"], ops.select.emit(hit, index, np.iinfo(np.int64).max), (axis,))


def _reduced(op, x: Value, axes: tuple[int, ...]) -> Value:
    rank = len(x.shape)
    if not axes or axes == tuple(range(len(axes))) or axes == tuple(range(rank - len(axes), rank)):
        return op.emit(x, axes=axes)
    if rank - 1 in axes:  # the trailing run first, then the others
        start = rank - 1
        while start - 1 in axes:
            start -= 1
        return _reduced(op, op.emit(x, axes=tuple(range(start, rank))), tuple(a for a in axes if a < start))
    perm = (*(a for a in range(rank) if a not in axes), *axes)
    return op.emit(ops.transpose.emit(x, perm=perm), axes=tuple(range(rank - len(axes), rank)))


def thin_product(a: Value, b: Value) -> Value | None:
    """A product of matrices of which one is a single row or column, as a sum of products along the other's rows, or
    across them: it is bound by memory and fuses with what computes its operands and what reads it. None for others.
    """
    if len(a.shape) != 2 or len(b.shape) != 2 or 1 not in (*a.shape, *b.shape):
        return None
    m, k, n = *a.shape, b.shape[1]
    if k == 1:
        return ops.mul.emit(a, b)
    if n == 1:
        matrix, across = _untransposed(a)
        vector = b
    elif m == 1:
        matrix, along = _untransposed(b)
        vector, across = a, not along
    else:
        return None
    terms = ops.mul.emit(matrix, ops.reshape.emit(vector, shape=(k, 1) if across else (1, k)))
    return ops.reshape.emit(OPS["reduce_sum"].emit(terms, axes=(0,) if across else (1,)), shape=(m, n))


def _untransposed(x: Value) -> tuple[Value, bool]:
    """The matrix whose rows lie in memory one after the other, and whether `x` is its transpose."""
    if x.op is not None and x.op.name == "transpose" and x.attributes["perm"] == (1, 0):
        return x.args[0], True
    return x, False


def _picked(x: Value, indices: tuple[Value, ...]) -> Value | None:
    """One element of each row of a computed `x`, as a reduction that fuses with it: `x` needs no memory."""
    found = hit(indices, x.shape) if len(indices) == len(x.shape) else None
    if found is None:
        return None
    picked = OPS["reduce_max"].emit(ops.select.emit(found, x, float("-inf")), axes=(len(x.shape) - 1,))
    return ops.reshape.emit(picked, shape=broadcast_shapes(*(k.shape for k in indices)))


def _own(value: Value, taken: set[Value]) -> Value:
    """`value` as an output of its own: a fresh copy of what is a parameter, a view, or an output already."""
    if value in taken or value.op is None or value.op.name in ("reshape", "after"):
        identity = OPS["stop_gradient"]
        value = Value(value.type, identity, (value,), loc=value.loc)  # not interned: two copies are two values
    taken.add(value)
    return value
