"""Graphs of derivative rules, and the three ways to run one: forwards, with tangents, backwards."""

from __future__ import annotations

import numpy as np

from tapefuse.ir.graph import Graph, bind_symbols, param
from tapefuse.ir.op import Op
from tapefuse.ir.types import Type, substitute, type_of


def run(graph: Graph, *args, ts=None, env=None):
    """Values of all nodes, and their tangents for tangents `ts` of the parameters; `env`: sizes that no shape tells."""
    env = {**(env or {}), **bind_symbols([p.type for p in graph.params], [a.shape for a in args])}
    value = dict(zip(graph.params, args, strict=True))
    slope = dict(zip(graph.params, ts or [None] * len(args), strict=True))
    for v in graph.nodes:
        xs, attrs = [value[a] for a in v.args], {k: substitute(x, env) for k, x in v.attrs}
        value[v] = v.op.ref(*xs, **attrs)
        assert type_of(value[v]) == v.type.substitute(env), v
        ds = [slope[a] for a in v.args]
        slope[v] = None if all(d is None for d in ds) else v.op.jvp(ds, value[v], *xs, **attrs)
    return value, slope


def backwards(graph: Graph, value: dict, cts: dict) -> dict:
    """Cotangents of all nodes from those of some."""
    for v in reversed(graph.nodes):
        if v in cts:
            parts = v.op.vjp(cts[v], value[v], *(value[a] for a in v.args), **v.attributes)
            for a, c in zip(v.args, parts, strict=True):
                if c is not None:
                    cts[a] = cts[a] + c if a in cts else c
    return cts


def graph_of(build, types) -> Graph:
    """The graph of `build`, which gives a list of values (None left out), on parameters of `types`."""
    params = tuple(param(t) for t in types)
    outs = tuple(v for v in build(*params) if v is not None)
    return Graph(params, outs)


def vjp_graph(op: Op, result: Type, types: list[Type], attrs: dict) -> Graph:
    """(g, *xs) -> the cotangents of `op(*xs, **attrs)` that are not None."""
    return graph_of(lambda g, *xs: op.vjp(g, op(*xs, **attrs), *xs, **attrs), [result, *types])


def second_derivative(op: Op, g, dg, xs, dxs, **attrs) -> list:
    """How the cotangents of `op(*xs)` change when `g` moves along `dg` and `xs` along `dxs`.

    Forwards over backwards, checked against backwards over backwards.
    """
    graph = vjp_graph(op, type_of(g), [type_of(x) for x in xs], attrs)
    value, slope = run(graph, g, *xs, ts=[dg, *dxs])
    for out in graph.outs:
        cts = backwards(graph, value, {out: np.ones(out.shape)})
        by_backwards = sum(np.sum(cts[p] * t) for p, t in zip(graph.params, (dg, *dxs), strict=True) if p in cts)
        np.testing.assert_allclose(by_backwards, np.sum(slope[out]), rtol=1e-12)
    return [slope[out] for out in graph.outs]
