"""Products with unit vectors, of which jacobians are made: they select, and nothing has to be multiplied.

    %0 = basis shape=(5) : f32[5,5]
    %1 = matmul %0, %x : f32[5,3]     ->   %x

In real numbers these are identities. In floating-point numbers 0 * inf is nan, so where `x` is not finite the product
spreads a nan to elements that have nothing to do with it: the derivative has none there. Programs without `basis`
(which no user's function makes) are left as they are.
"""

from __future__ import annotations

from collections import Counter

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here
from tapefuse.ir.ops.family import stretch
from tapefuse.ir.passes import arithmetic, products, shapes
from tapefuse.ir.passes.arithmetic import number
from tapefuse.ir.rewrite import Pattern, Rewriter, p, rule, variables
from tapefuse.ir.types import Dim, Shape, size

x, shape, axes = variables("x shape axes")
UNIT = p.basis(shape=shape)


def reshaped_units(root: Value, shape: Shape) -> Value | None:
    """The axis that counts the units is kept, or split or merged with nothing of its own."""
    new = root.shape
    if new and new[0] == size(shape) and size(new[1:]) == size(shape):
        return ops.basis.emit(shape=new[1:], dtype=root.dtype)
    return None


def unit_rows(root: Value, shape: Shape, x: Value) -> Value | None:
    """Units of a shape [k, n] from the left: y[(i, j), a, c] = (i == a) x[j, c]; of a vector, the identity."""
    if len(shape) == 1:
        return x
    if len(shape) != 2 or len(x.shape) != 2:
        return None
    (k, n), m = shape, x.shape[1]
    return _selected((k, n, k, m), 0, 2, ops.reshape(x, shape=(1, n, 1, m)), root)


def unit_columns(root: Value, shape: Shape, x: Value) -> Value | None:
    """Units of a shape [k, n] from the right: y[(i, j), a, c] = (j == c) x[a, i]; of a vector, the identity."""
    if len(shape) == 1:
        return x
    if len(shape) != 2 or len(x.shape) != 2:
        return None
    (k, n), m = shape, x.shape[0]
    return _selected((k, n, m, n), 1, 3, ops.reshape(ops.transpose(x, perm=(1, 0)), shape=(k, 1, m, 1)), root)


def _selected(full: tuple[Dim, ...], one: int, other: int, x: Value, root: Value) -> Value:
    """`x` where the indices along two axes are equal, 0 elsewhere."""
    counts = [_count(full, axis) for axis in (one, other)]
    return ops.reshape(ops.select(ops.eq(*counts), x, number(0, x)), shape=root.shape)


def _count(full: tuple[Dim, ...], axis: int) -> Value:
    ones = tuple(n if a == axis else 1 for a, n in enumerate(full))
    return ops.iota.emit(shape=ones, axis=axis, dtype=ops.family.INT64)


def sum_of_units(root: Value, shape: Shape, x: Value, axes: tuple[int, ...]) -> Value | None:
    """The sum over all but the first axis of units times `x` is `x`, flattened."""
    if axes != tuple(range(1, len(shape) + 1)) or len(x.shape) > len(shape):
        return None
    return ops.reshape(stretch(x, shape), shape=root.shape)


def transposed_operands(root: Value) -> Value | None:
    """transpose f(transpose x, y) = f(x, transpose y) where y is small: it repeats along an axis."""
    (middle,), perm = root.args, root.attributes["perm"]
    op, rank = middle.op, len(root.shape)
    assert op is not None
    wide = [a for a in middle.args if len(a.shape) == rank and 1 not in a.shape]
    if not wide or not all(a.op is ops.transpose and _undoes(perm, a.attributes["perm"]) for a in wide):
        return None
    args = [a if not a.shape else ops.transpose(_of_rank(a, rank), perm=perm) for a in middle.args]
    return op.emit(*args, **middle.attributes)


def _of_rank(a: Value, rank: int) -> Value:
    return ops.reshape(a, shape=(*[1] * (rank - len(a.shape)), *a.shape)) if len(a.shape) < rank else a


def _undoes(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    return all(inner[k] == n for n, k in enumerate(outer))


# fmt: off
RULES = Rewriter((
    *arithmetic.RULES,
    *shapes.RULES,
    *products.RULES,
    rule("basis_reshape", p.reshape(UNIT), reshaped_units),                                # units of another shape
    rule("basis_transpose", p.transpose(p.basis(shape=shape)),
         lambda root, shape: root.args[0] if len(shape) == 1 else None),                   # I^T = I
    rule("basis_left", p.matmul(UNIT, x), unit_rows),                                      # I x = x
    rule("basis_right", p.matmul(x, UNIT), unit_columns),                                  # x I = x
    rule("basis_sum", p.reduce_sum(p.mul(UNIT, x), axes=axes), sum_of_units),              # sum of I x = x
    rule("transpose_inwards", p.transpose(Pattern(lambda op: op.elementwise)), transposed_operands),
))
# fmt: on


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph without products with units, and how often each rule fired."""
    if not any(v.op is ops.basis for v in graph.nodes):
        return graph, Counter()
    before, first = RULES.run(graph)
    turned, found = _turned(before)
    after, second = RULES.run(turned) if found else (turned, Counter())
    return after, first + found + second


def _turned(graph: Graph) -> tuple[Graph, Counter[str]]:
    """transpose(a b) as (transpose b)(transpose a), which products read as they are, if nobody else reads a b."""
    env: dict[Value, Value] = {v: v for v in graph.params}
    fired: Counter[str] = Counter()
    outer = here.loc
    try:
        for v in graph.nodes:
            here.loc = v.loc
            assert v.op is not None
            if _is_turned(v, graph):
                a, b = (env[x] for x in v.args[0].args)
                env[v] = ops.matmul(*[ops.transpose(x, perm=(1, 0)) for x in (b, a)])
                fired["turn"] += 1
            else:
                env[v] = v.op.emit(*(env[x] for x in v.args), **v.attributes)
    finally:
        here.loc = outer
    return (Graph(graph.params, tuple(env[v] for v in graph.outs), graph.name), fired) if fired else (graph, fired)


def _is_turned(v: Value, graph: Graph) -> bool:
    if v.op is not ops.transpose or v.attributes["perm"] != (1, 0):
        return False
    (middle,) = v.args
    return middle.op is ops.matmul and graph.users[middle] == (v,) and middle not in graph.outs
