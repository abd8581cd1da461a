"""Which values are computed where they are read, and which must be in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tapefuse.codegen.choices import AsMeasured
from tapefuse.codegen.convolution_shape import is_copied_once
from tapefuse.codegen.costs import INLINE_CHAIN, MOVED_CHAIN, weight
from tapefuse.codegen.groups import is_alias, is_memory, unaliased
from tapefuse.codegen.products_operands import bases, called_bases, is_product
from tapefuse.codegen.updates import Reads, is_placed, is_scatter, reads, reads_of_base, writes_into_base
from tapefuse.ir.graph import Graph, Value

Order = Mapping[Value, int]  # the places of nodes
_VIEWS = frozenset({"broadcast", "transpose", "slice", "flip", "reshape", "after"})
_NONE: frozenset = frozenset()


def needs_memory(graph: Graph, fixed: frozenset[Value]) -> set[Value]:
    """Values that something reads as a whole array, and what is written over elements that it is computed from."""
    needed, order = set(graph.outs), {v: k for k, v in enumerate(graph.nodes)}
    for node in graph.nodes:
        if is_product(node):
            needed.update(bases(node))
        elif is_alias(node) or writes_into_base(node):
            needed.add(node.args[0])
            if writes_into_base(node) and unaliased(node.args[0]) not in fixed:
                needed.update(_disturbed(node, order))
                needed.update(_read_later(graph, node, order))
        elif node.op is not None and node.op.calls is not None:
            needed.update(called_bases(node))
        elif node.op is not None and (node.op.name == "matmul" or node.op.is_region):
            needed.update(node.args)
    return needed


def _disturbed(node: Value, order: Order) -> Iterator[Value]:
    """Operands that may be computed from elements of the base which are overwritten by then, by this update or by one
    before it, unless they are kept."""
    base, *others = node.args
    yield from (v for v in others if _read_of(v, node) is Reads.OTHERS)
    while writes_into_base(update := unaliased(base)):
        base = update.args[0]
        for v in others:
            yield from _parts_before(v, update, order)


def _parts_before(value: Value, update: Value, order: Order) -> Iterator[Value]:
    """A value, or the largest parts of a single element, that are computed from elements which an update overwrites,
    and not from the update: `t` in x[i] = t; x[i + 1] = x[i + 1] + t, where t is a function of x[i]."""
    if _read_of(value, update) is Reads.NOTHING:
        return
    if value.type.size != 1 or not _is_after(value, update, order):
        yield value
        return
    for x in value.args:
        yield from _parts_before(x, update, order)


def _read_later(graph: Graph, update: Value, order: Order) -> Iterator[Value]:
    """Single elements that are computed from what an update overwrites, for something that is computed after it. (Of
    arrays, a copy of the base is as good.)"""
    stack, seen = [*graph.users[update.args[0]]], {update}
    while stack:
        v = stack.pop()
        if v in seen or not is_computed_again(v) or v.type.size != 1 or _read_of(v, update) is Reads.NOTHING:
            continue
        seen.add(v)
        if any(_is_after(d, update, order) for d in graph.users[v] if d is not update):
            yield v
        else:
            stack += graph.users[v]


def _is_after(value: Value, update: Value, order: Order) -> bool:
    """Whether a value is computed from the result of an update."""
    seen, stack = set[Value](), [value]
    while stack:
        v = stack.pop()
        if v is update:
            return True
        if v not in seen and order.get(v, -1) > order[update]:
            seen.add(v)
            stack += v.args
    return False


def _read_of(value: Value, update: Value) -> Reads:
    """What computing a value reads of what an update overwrites."""
    if is_placed(update):
        return reads_of_base(value, update, is_computed_again, unaliased)
    return Reads.OTHERS if reads(value, unaliased(update.args[0]), is_computed_again, unaliased) else Reads.NOTHING


def is_computed_again(node: Value) -> bool:
    """Whether a value may be computed where it is read."""
    return node.op is not None and (node.op.elementwise or node.op.name in _VIEWS)


def inline_values(graph: Graph, needed: set[Value], kept: frozenset[Value], choices: AsMeasured) -> frozenset[Value]:
    """Values computed where they are read: literals, views, and short chains of cheap functions of parameters, or of
    `kept` values if they would have to be kept themselves.

    A chain is what is computed again, a value as often as it is read through different views.
    """
    chain: dict[Value, frozenset] = {}
    cheap: dict[Value, frozenset] = {}  # functions of kept values: inline only if a kept one is reached through them
    moved = _moved(graph)
    for number, node in enumerate(graph.nodes):
        assert node.op is not None
        if is_memory(node):
            continue
        if not node.args and node.type.size == 1 or node.op.name in ("iota", "dim") and node not in needed:
            chain[node] = _NONE
        elif node in needed or is_alias(node):
            continue
        elif node.op.name == "window_place" and is_copied_once(node, graph.users[node]):
            if choices.decide(f"inline {number}", True):
                chain[node] = _NONE
        elif node.op.name in _VIEWS:
            chain[node] = frozenset((node, v) for v in chain.get(node.args[0], _NONE))
        elif node.op.elementwise and weight(node) == 1:
            limit = MOVED_CHAIN if node in moved else INLINE_CHAIN
            if all(a.op is None or a in chain for a in node.args):
                parts, into = [chain.get(a, _NONE) for a in node.args], chain
            elif all(a.op is None or a in chain or a in cheap or a in kept for a in node.args):
                parts, into, limit = [chain.get(a, cheap.get(a, _NONE)) for a in node.args], cheap, INLINE_CHAIN
            else:
                continue
            again = frozenset({node}).union(*parts)
            if len(again) <= MOVED_CHAIN and choices.decide(f"inline {number}", len(again) <= limit):
                into[node] = again
    stack = [n for n in cheap if n in kept]
    while stack:
        node = stack.pop()
        if node not in chain:
            chain[node] = cheap[node]
            stack.extend(a for a in node.args if a in cheap and a not in kept)
    stored = {base for node in graph.nodes if is_product(node) for base in bases(node)}.union(graph.outs)
    stored.update(base for n in graph.nodes if n.op is not None and n.op.calls for base in called_bases(n))
    literals = (n for n in needed if n in chain and n.type.size == 1 and not n.args and n not in stored)
    return frozenset((*(n for n in chain if n not in needed), *literals, *_continued(graph)))


def _moved(graph: Graph) -> set[Value]:
    """Values that are read at other indices, after cheap functions of one element perhaps: kept, they would need a
    kernel of their own before their reader's."""
    moved: set[Value] = set()
    for node in reversed(graph.nodes):
        assert node.op is not None
        if node.op.name in ("pad", "concat", "slice", "flip") or node in moved and node.op.elementwise:
            moved.update(node.args)
    return moved


def _continued(graph: Graph) -> Iterator[Value]:
    """Scatters whose results other scatters add to, and nothing else reads: the kernels of those do them as well."""
    for node in graph.nodes:
        if is_scatter(node) and writes_into_base(node):
            base = node.args[0]
            if is_scatter(base) and graph.users[base] == (node,) and base not in graph.outs:
                yield base


def chained(node: Value, inline: Collection[Value]) -> tuple[Value, ...]:
    """The scatters that one kernel does to compute `node`, in order."""
    chain = [node]
    while writes_into_base(chain[-1]) and chain[-1].args[0] in inline and is_scatter(chain[-1].args[0]):
        chain.append(chain[-1].args[0])
    return tuple(reversed(chain))
