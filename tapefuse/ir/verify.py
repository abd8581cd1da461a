"""The rules that every graph keeps, checked after every pass under TAPEFUSE_CHECK=1, and in tests.

What a graph owes to its nodes one by one is checked once for each node, which cannot change; the rest anew each time.
"""

from __future__ import annotations

from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from tapefuse._errors import TapefuseError, VerifyError
from tapefuse.ir.graph import Graph, Value, reachable
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.types import Poly

_found_right: WeakKeyDictionary[Value, frozenset[str]] = WeakKeyDictionary()  # nodes, with the symbols in them


def verify(graph: Graph) -> Graph:
    """The graph itself, or VerifyError naming the value and the rule it breaks.

    Parameters are distinct and have no op. Everything the outputs reach is a parameter or the result of a known op
    on values defined before it, with the type that the op's type rule gives. Attributes are sorted and hashable.
    Every dimension symbol in use is, alone, a dimension of some parameter, so that shapes bind it when the graph runs.
    Graphs inside of regions keep the same rules; there the symbols of the graph around and the region's own are bound.
    """
    _verify(graph, frozenset())
    return graph


def _verify(graph: Graph, outer: frozenset[str]) -> None:
    _verify_params(graph)
    bound = outer | {d.name for p in graph.params for d in p.shape if isinstance(d, Poly) and d.name is not None}
    params = set(graph.params)
    for v in reachable(graph.outs) - params:
        if v.op is None:
            _fail(v, f"it is read by the outputs, but is not a parameter of {graph.name!r}")
    symbols = {v: _symbols_of(v) for v in (*graph.params, *graph.nodes)}
    for v, found in symbols.items():
        if unbound := found - bound:
            _fail(v, f"the dimension {min(unbound)} is not bound: no parameter has it as a dimension of its own")
    for v in graph.nodes:
        if v not in _found_right:
            _verify_node(v)
            _found_right[v] = symbols[v]
        for inner in region.graphs(v):
            _verify(inner, bound | frozenset(region.bound(v)))
    for v in graph.outs:
        if v.op is not None and v.op.is_region:
            _fail(v, "it is an output, but only its results have values")


def _verify_params(graph: Graph) -> None:
    if len(set(graph.params)) != len(graph.params):
        raise VerifyError(f"a value is a parameter of {graph.name!r} twice")
    for p in graph.params:
        if p.op is not None or p.args:
            _fail(p, "it is a parameter, but has an op")


def _verify_node(v: Value) -> None:
    op = v.op
    assert op is not None
    if OPS.get(op.name) is not op:
        _fail(v, f"{op.name} is not a registered op")
    late = [a for a in v.args if a.id >= v.id]
    if late:
        _fail(v, f"its operand {late[0]!r} is defined after it")
    if [k for k, _ in v.attrs] != sorted({k for k, _ in v.attrs}):
        _fail(v, f"its attributes are not sorted by name: {v.attrs}")
    try:
        hash(v.attrs)
        inferred = op.type(*(a.type for a in v.args), **v.attributes)
    except TapefuseError as e:
        _fail(v, f"its type rule fails: {e}")
    except Exception as e:  # a type rule may fail in any way on operands and attributes it was not made for
        _fail(v, f"its type rule fails with {type(e).__name__}: {e}")
    if inferred != v.type:
        _fail(v, f"its type rule gives {inferred}")
    _verify_tokens(v)


def _verify_tokens(v: Value) -> None:
    """Regions are read by `result` alone, and by that with the type of the result."""
    for token in v.args:
        if token.op is not None and token.op.is_region and v.op is not region.result:
            _fail(v, f"it reads {token!r}, which only `result` may")
    if v.op is region.result:
        (token,) = v.args
        if token.op is None or token.op.results is None:
            _fail(v, f"{token!r} has no results")
        types, k = token.op.results(*(a.type for a in token.args), **token.attributes), v.attributes["index"]
        if not 0 <= k < len(types) or types[k] != v.type:
            _fail(v, f"the results of {token.op.name} are ({', '.join(map(str, types))})")


def _symbols_of(v: Value) -> frozenset[str]:
    """Those of its shape and of its attributes, without the graphs inside."""
    found = _found_right.get(v)
    return _symbols((v.shape, v.attrs)) if found is None else found


def _symbols(x: Any) -> frozenset[str]:
    if isinstance(x, Poly):
        return x.symbols
    if isinstance(x, tuple):
        return frozenset().union(*map(_symbols, x))
    return frozenset()


def _fail(v: Value, why: str) -> NoReturn:
    what = f"{v.op.name}({', '.join(str(a.type) for a in v.args)})" if v.op else f"{v.name or 'a value'}"
    where = f"\n  at {v.loc}" if v.loc else ""
    raise VerifyError(f"{what} : {v.type} breaks a rule of the IR: {why}{where}")
