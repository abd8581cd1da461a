"""Immutable SSA values, interned so that building is common-subexpression elimination, and graphs of them.

A `Value` is a parameter (`op` None) or the result of `op(*args, **attrs)`. Values have no operators: users' tensors do.
A `Graph` is its parameters and its outputs; everything between is reached from the outputs.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from tapefuse._records import dataclass
from tapefuse.ir.types import Dim, Poly, Type, substitute, symbols

if TYPE_CHECKING:
    from tapefuse.ir.op import Op

_ids = itertools.count()
_interned: WeakValueDictionary[tuple, Value] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Loc:
    """A line of the user's source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class _Here(threading.local):
    loc: Loc | None = None
    plain: bool = False


# `here.loc`: the user's line that values made now belong to; set by the tracer and by passes. `here.plain`: operations
# on arrays are NumPy's functions and nothing more (`Op.raw`); set by the reverse pass of eager tapes.
here = _Here()


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False)
class Value:
    """One SSA value. Identity is equality; `id` grows with creation, so sorting by it is a topological order."""

    type: Type
    op: Op | None = None
    args: tuple[Value, ...] = ()
    attrs: tuple[tuple[str, Any], ...] = ()  # sorted by name, hashable
    name: str | None = None  # what the user calls a parameter
    loc: Loc | None = None
    id: int = field(default_factory=lambda: next(_ids))

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self):
        return self.type.dtype

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.attrs)

    def __repr__(self) -> str:
        return f"%{self.id}: {self.type}" + (f" = {self.op.name}" if self.op else "")

    def __tapefuse_apply__(self, op: Op, args: tuple, attrs: dict[str, Any]) -> Value:
        return op.emit(*args, **attrs)

    def __tapefuse_region__(self, op: Op, args: tuple, attrs: dict[str, Any]) -> tuple[Value, ...]:
        return op.emit_results(*args, **attrs)


def param(type: Type, name: str | None = None) -> Value:
    return Value(type, name=name, loc=here.loc)


def intern(op: Op, args: tuple[Value, ...], attrs: tuple[tuple[str, Any], ...], infer) -> Value:
    """The value of `op(*args, **attrs)`: the one made before, or a new one of type `infer()`."""
    exact = repr(attrs) if any(type(x) in (float, complex) for _, x in attrs) else attrs  # 0.0 == -0.0, and nan != nan
    key = (op, args, exact)
    if not op.interned or (value := _interned.get(key)) is None:
        value = Value(infer(), op, args, attrs, loc=here.loc)
        if op.interned:
            _interned[key] = value
    return value


@dataclass(frozen=True, eq=False)
class Graph:
    """A straight-line program: `outs` as functions of `params`."""

    params: tuple[Value, ...]
    outs: tuple[Value, ...]
    name: str = "main"

    @cached_property
    def nodes(self) -> tuple[Value, ...]:
        """All non-parameter values that the outputs need, in topological order."""
        return tuple(sorted((v for v in reachable(self.outs) if v.op is not None), key=lambda v: v.id))

    @cached_property
    def in_order(self) -> tuple[Value, ...]:
        """The same nodes in an order that depends on the graph alone, not on what this process has built before.

        Values of no parameter (constants, `iota`) are shared between graphs: each stands before its first user.
        """
        is_open: dict[Value, bool] = dict.fromkeys(self.params, True)
        for v in self.nodes:
            is_open[v] = any(is_open.get(a, True) for a in v.args)
        order: dict[Value, None] = {}
        for root in (*[v for v in self.nodes if is_open[v]], *self.outs):
            _place(root, is_open, order)
        return tuple(order)

    @cached_property
    def users(self) -> Mapping[Value, tuple[Value, ...]]:
        """For each value, the nodes that read it (once per read)."""
        table: dict[Value, list[Value]] = {v: [] for v in (*self.params, *self.nodes)}
        for node in self.nodes:
            for arg in node.args:
                table[arg].append(node)
        return {v: tuple(us) for v, us in table.items()}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Dimension symbols of the parameters, sorted."""
        return tuple(sorted(symbols(d for p in self.params for d in p.shape)))

    @cached_property
    def used_symbols(self) -> frozenset[str]:
        """Dimension symbols of all values and attributes, in graphs inside as well."""
        return symbols_in([(v.shape, *(x for _, x in v.attrs)) for v in (*self.params, *self.nodes)])

    def substitute(self, values: Mapping[str, Dim]) -> Graph:
        """The graph with dimension symbols replaced, in graphs inside as well; itself if it has none of them."""
        if not self.used_symbols & values.keys():
            return self
        env = {p: Value(p.type.substitute(values), name=p.name, loc=p.loc) for p in self.params}
        outer = here.loc
        try:
            for v in self.nodes:
                assert v.op is not None
                here.loc = v.loc
                env[v] = v.op.emit(*(env[a] for a in v.args), **substitute(dict(v.attrs), values))
        finally:
            here.loc = outer
        return Graph(tuple(env[p] for p in self.params), tuple(env[v] for v in self.outs), self.name)


def symbols_in(x: Any) -> frozenset[str]:
    if isinstance(x, Poly):
        return x.symbols
    if isinstance(x, Graph):
        return x.used_symbols
    return frozenset().union(*map(symbols_in, x)) if isinstance(x, (tuple, list)) else frozenset()


def _place(root: Value, is_open: Mapping[Value, bool], order: dict[Value, None]) -> None:
    """Append a node to `order`, closed ones that it needs before it."""
    stack = [root]
    while stack:
        v = stack[-1]
        waiting = [a for a in reversed(v.args) if a not in order and not is_open.get(a, True)]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if v.op is not None:
            order[v] = None


def reachable(outs: Iterable[Value]) -> set[Value]:
    """`outs` and everything they are computed from."""
    seen: set[Value] = set()
    stack = list(outs)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            stack.extend(value.args)
    return seen


def bind_symbols(types: Iterable[Type], shapes: Iterable[tuple[int, ...]]) -> dict[str, int]:
    """The values of the dimension symbols, read from concrete shapes. A dimension that is a plain symbol binds it."""
    env: dict[str, int] = {}
    for type, shape in zip(types, shapes, strict=True):
        for dim, n in zip(type.shape, shape, strict=True):
            if isinstance(dim, Poly) and dim.name is not None:
                env.setdefault(dim.name, int(n))
    return env
