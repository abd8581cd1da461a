"""Sums with scatters, as additions at the rows that indices name, so that the rest of a table is never touched; sums
with what is surrounded by zeros, as additions to a part.

    %0 = scatter_add %g, %ids shape=(V,64) : f32[V,64]
    %1 = mul %rate, %0 : f32[V,64]
    %2 = sub %table, %1 : f32[V,64]

becomes `add_at %table, neg (mul %rate, %g), %ids`. Sums of scatters, their negatives and multiples count as scatters,
and so does a `pad` by zeros, which becomes a `put_add`. Where the part was set to zero before, it is set to the sum.

This is algebra of real numbers: rows that are named twice are added to twice, each time with a rounding, and rows that
are not named stay what they are, also where the factor is infinite or nan. So it is left out where sums keep their
order (`strict`), and where more rows are added than the table has, which would round many times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here
from tapefuse.ir.halves import kind_of
from tapefuse.ir.passes.checks import never_negative
from tapefuse.ir.passes.updates import is_zero, reads_region
from tapefuse.ir.types import Dim, size

LEAST_ROWS = 1024  # of a table to which an unknown number of rows is added
_KEPT = (ops.scatter_add, ops.add_at, ops.put, ops.put_add, ops.put_at, ops.result)  # have memory of their own
Scale = tuple[tuple[str, Value | None], ...]  # what is done to a value: negation, or * or / by a scalar; the last first


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with additions at rows, and how many there are. Time is linear in the nodes and those additions."""
    sparse = _sparse(graph)
    if not sparse:
        return graph, Counter()
    env: dict[Value, Value] = {p: p for p in graph.params}
    terms: dict[Value, int] = {}  # of each sum that is now made of additions to a part
    outer = here.loc
    try:
        for v in graph.nodes:
            here.loc = v.loc
            assert v.op is not None
            found = _added(v, sparse, env)
            if found is None:
                env[v] = v.op.emit(*(env[a] for a in v.args), **v.attributes)
            else:
                env[v], terms[v] = found
    finally:
        here.loc = outer
    result = Graph(graph.params, tuple(env[v] for v in graph.outs), graph.name)
    used = {*result.nodes, *result.params}
    count = sum(n for v, n in terms.items() if env[v] in used)
    return (result, Counter({"rows": count})) if count else (graph, Counter())


def row_terms(v: Value) -> list[tuple[Value, Value]] | None:
    """(values, indices) for each of the scatters into rows that `v` is the sum of; None if it is something else."""
    if v.op is ops.scatter_add and len(v.args) == 2:
        return [(v.args[0], v.args[1])]
    if v.op is ops.add and v.args[0].type == v.args[1].type == v.type:
        terms = [row_terms(a) for a in v.args]
        return None if terms[0] is None or terms[1] is None else [*terms[0], *terms[1]]
    return None


def _sparse(graph: Graph) -> set[Value]:
    """Values that are sums of multiples of scatters into few enough rows."""
    found: set[Value] = set()
    for v in graph.nodes:
        if v.op is ops.scatter_add:
            if _is_worth(size(v.args[0].shape), size(v.shape), v.shape[: len(v.args) - 1]):
                found.add(v)
        elif v.op is ops.pad:
            if v.attributes["value"] == 0 and kind_of(v.dtype) in "fiu" and _is_part(v.args[0], v):
                found.add(v)
        elif v.op in (ops.add, ops.sub):
            if all(a in found and a.shape == v.shape for a in v.args):
                found.add(v)
        elif (part := _multiple(v)) is not None and part[0] in found:
            found.add(v)
    return found


def _is_worth(added: Dim, whole: Dim, rows: tuple[Dim, ...]) -> bool:
    """Whether a scatter adds no more elements than there are; if that depends on symbols, whether it probably does."""
    if never_negative(whole - added):
        return True
    if isinstance(whole - added, int):
        return False
    count = size(rows)
    return not isinstance(count, int) or count >= LEAST_ROWS


def _is_part(part: Value, whole: Value) -> bool:
    """Whether at most half of the elements are added to, or probably so."""
    rest = whole.type.size - 2 * part.type.size
    return never_negative(rest) or not isinstance(rest, int) and not never_negative(rest * -1)


def _multiple(v: Value) -> tuple[Value, tuple[str, Value | None]] | None:
    """`v` as (x, what is done to x): its negative, or its product with or quotient by a scalar."""
    if v.op is ops.neg:
        return v.args[0], ("neg", None)
    if v.op is ops.mul or v.op is ops.div:
        x, k = v.args
        if v.op is ops.mul and x.type.size == 1:
            x, k = k, x
        if k.type.size == 1 and x.shape == v.shape:
            return x, (v.op.name, k)
    return None


def _added(v: Value, sparse: set[Value], env: dict[Value, Value]) -> tuple[Value, int] | None:
    """A sum or difference with a scatter as additions to what is in memory anyway, and how many; None for other
    values."""
    ways: list[tuple[Sequence[Value], Scale]]
    if v.op is ops.add:
        ways = [(v.args, ()), (v.args[::-1], ())]
    elif v.op is ops.sub:
        ways = [(v.args, (("neg", None),))]
    else:
        return None
    for (x, s), scale in ways:
        base = env[x]
        is_kept = base.op is None or base.op in _KEPT
        if s in sparse and is_kept and x.shape == s.shape == v.shape:
            terms = list(_terms(s, scale))
            for scatter, how in terms:
                source, *idx = (env[a] for a in scatter.args)
                source = _scaled(source, how, env)
                base = _added_to_part(base, source, scatter) if not idx else ops.add_at(base, source, *idx)
            return base, len(terms)
    return None


def _added_to_part(base: Value, source: Value, padded: Value) -> Value:
    """`base` plus `source` with the zeros of `padded` around it."""
    starts, strides = padded.attributes["low"], tuple(gap + 1 for gap in padded.attributes["interior"])
    if base.op is ops.put and base.attributes == {"starts": starts, "strides": strides}:
        before, part = base.args
        if part.shape == source.shape and is_zero(part):
            again = source.op is ops.slice_ and source.args[0] is before
            if again and reads_region(source, source.shape, starts, strides):
                return before
            return ops.put(before, source, starts=starts, strides=strides)
    return ops.put_add(base, source, starts=starts, strides=strides)


def _terms(s: Value, scale: Scale) -> Iterator[tuple[Value, Scale]]:
    """The scatters whose multiples sum up to `scale` of `s`."""
    stack = [(s, scale)]
    while stack:
        v, scale = stack.pop()
        if v.op in (ops.scatter_add, ops.pad):
            yield v, scale
        elif v.op in (ops.add, ops.sub):
            x, y = v.args
            stack += [(y, (*scale, ("neg", None)) if v.op is ops.sub else scale), (x, scale)]
        else:
            found = _multiple(v)
            assert found is not None
            stack.append((found[0], (*scale, found[1])))


def _scaled(v: Value, scale: Scale, env: dict[Value, Value]) -> Value:
    for name, k in reversed(scale):
        if k is None:
            v = ops.neg(v)
        else:
            factor = env[k] if k.shape == () else ops.reshape(env[k], shape=())
            v = ops.mul(v, factor) if name == "mul" else ops.div(v, factor)
    return v
