"""Running a graph with NumPy, and applying a graph's ops to operands of any kind.

`evaluate` is what every compiled program is compared with. `replay` inlines a graph into another one, or onto a tape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tapefuse._config import config
from tapefuse._errors import DTypeError, ShapeError, TapefuseError, VerifyError, reworded
from tapefuse.ir.graph import Graph, Value, here
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Op
from tapefuse.ir.ops import region
from tapefuse.ir.ops.effects import require
from tapefuse.ir.types import Dim, Poly, show_dtype, show_shape, substitute, type_of


def evaluate(graph: Graph, *arrays: Any) -> tuple[np.ndarray, ...]:
    """The outputs for concrete inputs, one array per parameter. Results may share memory with inputs.

    DTypeError and ShapeError name the parameter that does not fit. Values are freed after their last use.
    """
    inputs = [np.asarray(a) for a in arrays]
    with np.errstate(all="ignore"):
        return _run(graph, inputs, bind(graph, inputs))


def evaluate_region(op: Op, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """The results of a region without open dimensions on concrete operands."""
    with np.errstate(all="ignore"):
        return op.ref(_runner({}), *map(np.asarray, arrays), **attrs)


Watch = Callable[[Value, Sequence[np.ndarray], np.ndarray], np.ndarray | None]


def observed(graph: Graph, arrays: Sequence[Any], watch: Watch, wide: bool = False) -> tuple[np.ndarray, ...]:
    """The outputs as of `evaluate`, calling `watch(node, operands, result)` after each op, also inside of regions;
    what it returns replaces the result.

    `wide`: arrays are float64 whatever the parameters are, and so is what follows from them.
    """
    inputs = [np.asarray(a) for a in arrays]
    if wide:
        inputs = [a.astype(in_double(a.dtype), copy=False) for a in inputs]
    env = _bind_dims(graph, [a.shape for a in inputs])
    with np.errstate(all="ignore"):
        return _run(graph, inputs, env, watch, wide)


def _wider(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: in_double(x) if isinstance(x, np.dtype) else x for k, x in attrs.items()}


def in_double(dtype: np.dtype) -> np.dtype:
    """The dtype of floating-point and complex numbers in double precision; others as they are."""
    return np.dtype({"f": np.float64, "c": np.complex128}.get(kind_of(dtype), dtype))


def _run(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    env: Mapping[str, Dim],
    watch: Watch | None = None,
    wide: bool = False,
) -> tuple[np.ndarray, ...]:
    def apply(v: Value, xs: list[np.ndarray]) -> Any:
        assert v.op is not None
        if v.op.is_region:  # its value is the tuple of its results
            attrs = {k: x if k in _GRAPHS else substitute(x, env) for k, x in v.attrs}
            return v.op.ref(_runner(env, watch, wide), *xs, **attrs)
        try:
            known = substituted(v, env)
            y = np.asarray(v.op.compute(xs, _wider(known) if wide else known))
        except TapefuseError as e:
            raise type(e)(f"{e}\n  at {v.loc}" if v.loc else str(e)) from None
        except (TypeError, ValueError, IndexError) as e:
            if v.op is require:  # whatever the program raises
                raise
            raise reworded(e, f"{v.op.name}: {e}\n  at {v.loc}" if v.loc else f"{v.op.name}: {e}") from e
        if wide:
            y = y.astype(in_double(y.dtype), copy=False)
        elif config.check:
            _check_result(v, y, env)
        if watch is not None:
            seen = watch(v, xs, y)
            return y if seen is None else seen
        return y

    return walk(graph, inputs, apply)


_GRAPHS = frozenset({"body", "branches", "cond", "then"})  # attributes that hold graphs


def _runner(
    env: Mapping[str, Dim], watch: Watch | None = None, wide: bool = False
) -> Callable[..., tuple[np.ndarray, ...]]:
    return lambda graph, arrays, bound: _run(graph, list(arrays), {**env, **bound}, watch, wide)


def replay(graph: Graph, args: Sequence[Any]) -> tuple:
    """The graph's ops applied to `args` (IR values, tensors, arrays; shapes may be symbolic): the outputs.

    The results of ops without operands (constants, iota) are of the same sort as the first argument that is no array.
    """
    _check_count(graph, args)
    return inlined(graph, args, _bind_dims(graph, [type_of(a).shape for a in args]))


def inlined(graph: Graph, args: Sequence[Any], env: Mapping[str, Dim]) -> tuple:
    """`replay` with given values of dimension symbols; others stay what they are."""
    apply_leaf = next((f for a in args if (f := getattr(a, "__tapefuse_apply__", None))), None)

    def apply(v: Value, xs: list[Any]) -> Any:
        op, attrs = v.op, substituted(v, env)
        assert op is not None
        here.loc = v.loc
        if op.is_region:
            is_concrete = xs and not any(hasattr(x, "__tapefuse_region__") for x in xs)
            return evaluate_region(op, xs, attrs) if is_concrete else region.apply(op, xs, attrs)
        if op is region.result:
            return xs[0][attrs["index"]]
        return apply_leaf(op, (), attrs) if apply_leaf and not xs else op(*xs, **attrs)

    outer = here.loc
    try:
        return walk(graph, args, apply)
    finally:
        here.loc = outer


def bind(graph: Graph, arrays: Sequence[np.ndarray]) -> dict[str, Dim]:
    """Values of the dimension symbols, after checking dtype, rank and shape of each array against its parameter."""
    _check_count(graph, arrays)
    for k, (p, a) in enumerate(zip(graph.params, arrays, strict=True)):
        if a.dtype != p.dtype:
            raise DTypeError(f"{_param(p, k)} wants {p.type}, got an array of {a.dtype}")
    return _bind_dims(graph, [a.shape for a in arrays])


def substituted(v: Value, env: Mapping[str, Dim]) -> dict[str, Any]:
    """The attributes of a node with dimension symbols replaced."""
    return {k: substitute(x, env) for k, x in v.attrs}


def walk(graph: Graph, args: Sequence[Any], apply: Callable[[Value, list[Any]], Any]) -> tuple:
    """The outputs, from `apply(node, operands)` for each node in order. Values are freed after their last use."""
    kept = {*graph.outs}
    uses = {v: len(readers) for v, readers in graph.users.items()}
    values: dict[Value, Any] = dict(zip(graph.params, args, strict=True))
    for v in graph.nodes:
        values[v] = apply(v, [values[a] for a in v.args])
        for a in v.args:
            uses[a] -= 1
            if not uses[a] and a not in kept:
                del values[a]
    return tuple(values[v] for v in graph.outs)


def _check_count(graph: Graph, args: Sequence[Any]) -> None:
    if len(args) != len(graph.params):
        raise TypeError(f"{graph.name} takes {len(graph.params)} arrays, got {len(args)}")


def _bind_dims(graph: Graph, shapes: Sequence[tuple[Dim, ...]]) -> dict[str, Dim]:
    env: dict[str, Dim] = {}
    origin: dict[str, str] = {}
    for k, (p, shape) in enumerate(zip(graph.params, shapes, strict=True)):
        if len(shape) != len(p.shape):
            raise ShapeError(f"{_param(p, k)} wants {p.type} of rank {len(p.shape)}, got shape {show_shape(shape)}")
        for dim, n in zip(p.shape, shape, strict=True):
            name = dim.name if isinstance(dim, Poly) else None
            if name is not None and env.setdefault(name, n) != n:
                got = f"got shape {show_shape(shape)}, but {name}={env[name]} in {origin[name]}"
                raise ShapeError(f"{_param(p, k)} wants {p.type}, {got}")
            if name is not None:
                origin.setdefault(name, _param(p, k))
    unbound = sorted(set(graph.symbols) - env.keys())
    if unbound:
        raise ShapeError(f"no parameter of {graph.name!r} has {unbound[0]} as a dimension of its own to bind it")
    for k, (p, shape) in enumerate(zip(graph.params, shapes, strict=True)):
        if substitute(p.shape, env) != tuple(shape):
            raise ShapeError(f"{_param(p, k)} wants {p.type.substitute(env)}, got shape {show_shape(shape)}")
    return env


def _param(p: Value, k: int) -> str:
    return f"parameter {p.name!r}" if p.name else f"parameter number {k}"


def _check_result(v: Value, y: np.ndarray, env: Mapping[str, Dim]) -> None:
    want = v.type.substitute(env)
    if (y.dtype, y.shape) != (want.dtype, want.shape):
        assert v.op is not None
        raise VerifyError(f"{v.op.name} gives {show_dtype(y.dtype)}{show_shape(y.shape)}, its type rule says {want}")
