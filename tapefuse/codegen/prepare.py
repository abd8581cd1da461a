"""A graph in the form the scheduler expects: Graph -> Graph.

Every output is a value of its own (never a parameter, a view, or another output), array constants are parameters,
argmax, and picking one element of each row, are spelled with reductions, and a reduction's axes are either the leading
or the trailing ones.
"""

from __future__ import annotations

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here, param
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Shape, size


def prepared(graph: Graph) -> tuple[Graph, tuple[np.ndarray, ...]]:
    """The prepared graph and the arrays of the parameters appended to its parameters."""
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
            env[node] = _spelled(node, args)
    here.loc = None
    taken: set[Value] = set()
    outs = tuple(_own(env[v], taken) for v in graph.outs)
    return Graph((*graph.params, *lifted), outs, graph.name), tuple(arrays)


def _spelled(node: Value, args: tuple[Value, ...]) -> Value:
    assert node.op is not None
    if node.op.name in ("argmax", "argmin"):
        return _arg_extremum(args[0], node.attributes["axis"], node.op.name == "argmax")
    if node.op.reduction is not None:
        return _reduced(node.op, args[0], node.attributes["axes"])
    if node.op.name == "gather" and args[0].dtype.kind == "f" and args[0].op is not None and args[0].op.elementwise:
        return _picked(args[0], args[1:]) or node.op.emit(*args)
    if node.op.name == "scatter_add" and node.dtype.kind == "f":
        return _placed(args[0], args[1:], node.shape) or node.op.emit(*args, **node.attributes)
    return node.op.emit(*args, **node.attributes)


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


def _hit(indices: tuple[Value, ...], shape: Shape) -> Value | None:
    """Where element (i..., n) of `shape` is the one that row i's only index names; None if rows have other indices.

    The indices of the leading axes must count those axes, as in x[arange(B), labels]; the last one is in range by then.
    """
    lead, labels = indices[:-1], indices[-1]
    if len(indices) != len(shape) or not lead or labels.shape not in (shape[:-1], (*shape[:-1], 1)):
        return None
    if len(labels.shape) != len(shape) and len(lead) > 1:
        return None
    for axis, index in enumerate(lead):
        counts = index.op is not None and index.op.name == "iota" and index.attributes["axis"] == axis
        if not counts or size(index.shape) != shape[axis] or len(index.shape) != len(labels.shape):
            return None
    labels = ops.reshape.emit(labels, shape=(*shape[:-1], 1))
    extent = ops.dim.emit(value=shape[-1], dtype=labels.dtype)
    labels = ops.select.emit(ops.lt.emit(labels, 0), ops.add.emit(labels, extent), labels)
    numbers = (*(1 for _ in lead), shape[-1])
    return ops.eq.emit(labels, ops.iota.emit(shape=numbers, axis=len(lead), dtype=labels.dtype))


def _picked(x: Value, indices: tuple[Value, ...]) -> Value | None:
    """One element of each row of a computed `x`, as a reduction that fuses with it: `x` needs no memory."""
    hit = _hit(indices, x.shape)
    if hit is None:
        return None
    found = OPS["reduce_max"].emit(ops.select.emit(hit, x, float("-inf")), axes=(len(x.shape) - 1,))
    return ops.reshape.emit(found, shape=indices[-1].shape)


def _placed(v: Value, indices: tuple[Value, ...], shape: Shape) -> Value | None:
    """The transpose of `_picked`: zeros but for one element of each row."""
    hit = _hit(indices, shape)
    if hit is None or v.shape != indices[-1].shape:
        return None
    v = ops.reshape.emit(ops.add.emit(v, 0.0), shape=(*shape[:-1], 1))  # 0 + v, as adding to zeros gives
    return ops.select.emit(hit, v, 0.0)


def _own(value: Value, taken: set[Value]) -> Value:
    """`value` as an output of its own: a fresh copy of what is a parameter, a view, or an output already."""
    if value in taken or value.op is None or value.op.name == "reshape":
        identity = OPS["stop_gradient"]
        value = Value(value.type, identity, (value,), loc=value.loc)  # not interned: two copies are two values
    taken.add(value)
    return value
