"""Complex numbers become pairs of real ones: nothing after this pass has complex values.

    fn f(%z: c64[3]) {                         fn f(%z: f32[3,2]) {
      %0 = exp %z : c64[3]                ->     %0 = slice %z ... : f32[3,1]         # the real parts
      return %0                                  ...
    }                                            return %9                            # f32[3,2] again
                                               }

A parameter and an output hold real and imaginary part along a last axis of extent 2, as arrays of complex numbers do in
memory. Between them the parts are values of their own, or stay together where elements are only moved. What a loop or
branch carries is two values. Graphs without complex values stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here, param
from tapefuse.ir.op import OPS, Literal, Op, constant
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import ones_like, stretch, zeros_like
from tapefuse.ir.ops.paired import SUFFIX
from tapefuse.ir.passes import complex_functions as functions
from tapefuse.ir.passes.bodies import row
from tapefuse.ir.types import Dim, Poly, Type, real_dtype

PARTS = (0, 1)


def paired(type: Type) -> Type:
    """The type in memory: of complex numbers, their parts along a last axis."""
    return Type(real_dtype(type.dtype), (*type.shape, 2)) if is_complex(type) else type


def is_complex(x: Any) -> bool:
    return x.dtype.kind == "c"


class Pair:
    """A complex value: its parts, or both `together` along a last axis; each is made of the other when asked for."""

    def __init__(self, parts: tuple[Value, Value] | None = None, together: Value | None = None):
        self.split, self.joined = parts, together

    @cached_property
    def parts(self) -> tuple[Value, Value]:
        if self.split is not None:
            return self.split
        assert self.joined is not None
        return _part(self.joined, 0), _part(self.joined, 1)

    @cached_property
    def together(self) -> Value:
        if self.joined is not None:
            return self.joined
        columns = [ops.reshape.emit(x, shape=(*x.shape, 1)) for x in self.parts]
        return ops.concat.emit(*columns, axis=len(columns[0].shape) - 1)

    @property
    def real(self) -> Value:
        return self.parts[0]

    @property
    def imag(self) -> Value:
        return self.parts[1]

    @property
    def is_in_memory(self) -> bool:
        """Whether the parts stand together, one after the other."""
        return self.joined is not None

    @property
    def dtype(self) -> np.dtype:
        return (self.joined if self.split is None else self.split[0]).dtype  # type: ignore[union-attr]

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.parts[0].shape


def _part(x: Value, k: int) -> Value:
    *lead, _ = x.shape
    zeros, ones = (0,) * len(lead), (1,) * len(lead)
    column = ops.slice_.emit(x, starts=(*zeros, k), limits=(*lead, k + 1), strides=(*ones, 1))
    return ops.reshape.emit(column, shape=tuple(lead))


Operand = Value | Pair
Rule = Callable[..., Operand]  # node, *operands -> what the node becomes


# -- by parts: linear operations, and those that move elements ---------------------------------------------------------


def _part_of(x: Operand, k: int) -> Value:
    return x.parts[k] if isinstance(x, Pair) else x


def _by_parts(node: Value, *xs: Operand) -> Pair:
    """The same on both parts; operands that are real are read twice."""
    assert node.op is not None
    real, imag = (node.op.emit(*(_part_of(x, k) for x in xs), **node.attributes) for k in PARTS)
    return Pair((real, imag))


BY_PARTS = frozenset(
    (
        *("broadcast", "concat", "credit", "cumsum", "flip", "gather", "having", "missing_gradient", "reduce_sum"),
        *("reshape", "scatter_add", "select", "slice", "stop_gradient", "transpose", "after"),
        *("add_at", "put", "put_add", "put_at"),
    )
)

_MEMORY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {  # attributes for operands with the axis of parts
    "add_at": lambda attrs: attrs,
    "gather": lambda attrs: attrs,
    "put": lambda attrs: {"starts": (*attrs["starts"], 0), "strides": (*attrs["strides"], 1)},
    "put_add": lambda attrs: {"starts": (*attrs["starts"], 0), "strides": (*attrs["strides"], 1)},
    "put_at": lambda attrs: attrs,
    "stop_gradient": lambda attrs: attrs,
}


def _in_memory(node: Value, *xs: Operand) -> Pair:
    """A part of an array that stands in memory read or replaced, with both parts of each element at once."""
    assert node.op is not None
    operands = [x.together if isinstance(x, Pair) else x for x in xs]
    return Pair(together=node.op.emit(*operands, **_MEMORY[node.op.name](node.attributes)))


def _in_library(node: Value, paired: Op, *xs: Operand) -> Operand:
    """NumPy's loops for complex numbers on arrays of pairs."""
    found = paired.emit(*map(_whole_value, xs), **node.attributes)
    return Pair(together=found) if is_complex(node) else found


# -- rules of single operations ----------------------------------------------------------------------------------------


def _const(node: Value) -> Pair:
    array = node.attributes["value"].array
    real, imag = (OPS["const"].emit(value=Literal(part)) for part in (array.real, array.imag))
    return Pair((real, imag))


def _without_operands(node: Value) -> Pair:
    """`iota` and `basis` count in real numbers."""
    assert node.op is not None
    real = node.op.emit(**{**node.attributes, "dtype": real_dtype(node.dtype)})
    return Pair((real, zeros_like(real)))


def _real_empty(node: Value) -> Value:
    return ops.empty.emit(shape=node.shape, dtype=real_dtype(node.dtype))


def _cast(node: Value, x: Operand) -> Operand:
    to = node.attributes["dtype"]
    if not isinstance(x, Pair):
        real = ops.cast.emit(x, dtype=real_dtype(to))
        return Pair((real, zeros_like(real)))
    if to.kind == "c":
        return Pair(_both(lambda part: ops.cast.emit(part, dtype=real_dtype(to)), x.parts))
    if to.kind == "b":
        return ops.or_.emit(*(ops.ne.emit(part, 0) for part in x.parts))
    return ops.cast.emit(x.real, dtype=to)


def _pad(node: Value, x: Pair) -> Pair:
    attrs, value = node.attributes, complex(node.attributes["value"])
    real, imag = (
        ops.pad.emit(x.parts[k], **{**attrs, "value": (value.real, value.imag)[k]}) for k in PARTS
    )
    return Pair((real, imag))


def _equal(node: Value, a: Pair, b: Pair) -> Value:
    same = [ops.eq.emit(x, y) for x, y in zip(a.parts, b.parts, strict=True)]
    return ops.and_.emit(*same)


def _differs(node: Value, a: Pair, b: Pair) -> Value:
    other = [ops.ne.emit(x, y) for x, y in zip(a.parts, b.parts, strict=True)]
    return ops.or_.emit(*other)


def _complex(node: Value, real: Value, imag: Value) -> Pair:
    return Pair((stretch(real, node.shape), stretch(imag, node.shape)))


def _pow(node: Value, a: Pair, b: Pair) -> Pair:
    """Powers by whole numbers known now are products, as NumPy's are."""
    n = _whole(b)
    if n is not None and a.shape == node.shape:
        return Pair(functions.power_by_products(a.parts, n))
    return Pair(functions.pow_(a.parts, b.parts))


def _whole(x: Pair) -> int | None:
    """The real integer that all elements are, below 100."""
    arrays = [v.attributes["value"].array if v.op is OPS["const"] else None for v in map(_root, x.parts)]
    if any(a is None or a.size != 1 for a in arrays):
        return None
    real, imag = (float(a.item()) for a in arrays if a is not None)
    return int(real) if imag == 0 and real.is_integer() and abs(real) < 100 else None


def _root(v: Value) -> Value:
    while v.op in (OPS["broadcast"], OPS["reshape"]):
        v = v.args[0]
    return v


def _matmul(node: Value, a: Pair, b: Pair) -> Pair:
    """One product of real matrices: rows x0 y0 x1 y1 ... of `a` by rows (u, v) and (-v, u) in turn of `b`."""
    *lead, m, n = node.shape
    *outer, inner = a.shape
    left = ops.reshape.emit(a.together, shape=(*outer, 2 * inner))
    turned = Pair(functions.turned(*b.parts)).together
    *stack, k, columns = b.shape
    rows = [ops.reshape.emit(x, shape=(*stack, k, 1, 2 * columns)) for x in (b.together, turned)]
    joined = ops.concat.emit(*rows, axis=len(stack) + 1)
    right = ops.reshape.emit(joined, shape=(*stack, 2 * k, 2 * columns))
    product = ops.matmul.emit(left, right)
    return Pair(together=ops.reshape.emit(product, shape=(*lead, m, n, 2)))


def _product(node: Value, x: Pair) -> Pair:
    """The product over axes: halves are paired while there are two; a loop where the extent is not known."""
    axes = node.attributes["axes"]
    kept = tuple(a for a in range(len(x.shape)) if a not in axes)
    n: Dim = 1
    for a in axes:
        n = n * x.shape[a]

    def flat(part: Value) -> Value:
        moved = ops.transpose.emit(part, perm=(*axes, *kept))
        return ops.reshape.emit(moved, shape=(n, *node.shape))

    whole = flat(x.real), flat(x.imag)
    return Pair(_by_loop(whole, n) if isinstance(n, Poly) else _by_halves(whole, n))


def _by_halves(z: functions.Pair, n: int) -> functions.Pair:
    def cut(part: Value, start: int, limit: int) -> Value:
        rest = part.shape[1:]
        return ops.slice_.emit(
            part, starts=(start, *[0] * len(rest)), limits=(limit, *rest), strides=(1,) * len(part.shape)
        )

    if n == 0:
        empty = ops.reduce_sum.emit(z[0], axes=(0,))
        return ones_like(empty), zeros_like(empty)
    if n == 1:
        return _both(lambda part: ops.reshape.emit(part, shape=part.shape[1:]), z)
    half = n // 2
    first, second = _both(lambda part: cut(part, 0, half), z), _both(lambda part: cut(part, half, 2 * half), z)
    product = _by_halves(functions.mul_(first, second), half)
    if n % 2 == 0:
        return product
    return functions.mul_(product, _by_halves(_both(lambda part: cut(part, n - 1, n), z), 1))


def _both(f: Callable[[Value], Value], z: functions.Pair) -> functions.Pair:
    return f(z[0]), f(z[1])


def _by_loop(z: functions.Pair, n: Dim) -> functions.Pair:
    index, shape = region.fresh("k"), z[0].shape[1:]
    number = Type(z[0].dtype, shape)
    carried = param(number), param(number)
    stacks = param(z[0].type), param(z[1].type)
    factor = _both(lambda stack: row(stack, Poly.symbol(index), shape), stacks)
    body = Graph((*carried, *stacks), functions.mul_(carried, factor))
    one = ops.broadcast.emit(constant(1, number.dtype), shape=shape, axes=()) if shape else constant(1, number.dtype)
    start = one, zeros_like(one)
    found = ops.for_.emit_results(*start, *z, body=body, trips=n, index=index, carried=2)
    return found[0], found[1]


RULES: dict[str, Rule] = {
    "basis": _without_operands,
    "cast": _cast,
    "complex": _complex,
    "conj": lambda node, x: Pair((x.real, ops.neg.emit(x.imag))),
    "const": _const,
    "empty": lambda node: Pair((_real_empty(node), _real_empty(node))),
    "eq": _equal,
    "from_pairs": lambda node, x: Pair(together=x),
    "imag": lambda node, x: x.imag,
    "invertible": lambda node, *xs: xs[node.attributes["number"]],
    "iota": _without_operands,
    "matmul": _matmul,
    "modulus": lambda node, x: ops.hypot.emit(*x.parts),
    "ne": _differs,
    "pad": _pad,
    "pairs": lambda node, x: x.together,
    "pow": _pow,
    "real": lambda node, x: x.real,
    "reduce_prod": _product,
    "ruled": lambda node, y, *xs: y,
}


# -- the pass ----------------------------------------------------------------------------------------------------------


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph on real numbers, and how many complex values there were; the same graph if there were none."""
    fired: Counter[str] = Counter()
    if not has_complex(graph):
        return graph, fired
    params = tuple(param(paired(p.type), p.name) if is_complex(p) else p for p in graph.params)
    env: dict[Value, Operand] = {
        p: Pair(together=q) if is_complex(p) else q for p, q in zip(graph.params, params, strict=True)
    }
    _rewrite(graph, env, fired)
    outs = tuple(_whole_value(env[v]) for v in graph.outs)
    return Graph(params, outs, graph.name), fired


def _whole_value(x: Operand) -> Value:
    return x.together if isinstance(x, Pair) else x


def has_complex(graph: Graph) -> bool:
    """Whether there are complex values in it, or in graphs inside."""
    if any(map(is_complex, (*graph.params, *graph.nodes))):
        return True
    return any(has_complex(inner) for v in graph.nodes for inner in region.graphs(v))


def _rewrite(graph: Graph, env: dict[Value, Operand], fired: Counter[str]) -> None:
    """Adds to `env` what each node becomes."""
    outer = here.loc
    try:
        for node in graph.nodes:
            assert node.op is not None
            here.loc = node.loc
            xs = [env[a] for a in node.args]
            if is_complex(node):
                fired[node.op.name] += 1
            if node.op.is_region:
                _region(node, xs, env, fired)
            elif node.op is ops.result:
                env[node] = _results(env, node.args[0])[node.attributes["index"]]
            else:
                env[node] = _rewritten(node, xs)
    finally:
        here.loc = outer


def _rewritten(node: Value, xs: Sequence[Operand]) -> Operand:
    assert node.op is not None
    name = node.op.name
    if not is_complex(node) and not any(isinstance(x, Pair) for x in xs):
        return node.op.emit(*xs, **node.attributes)
    if name in RULES:
        return RULES[name](node, *xs)
    if name in functions.UNARY:
        return Pair(functions.UNARY[name](*xs[0].parts))  # type: ignore[union-attr]
    if name in functions.BINARY:
        return Pair(functions.BINARY[name](*(x.parts for x in xs)))  # type: ignore[union-attr]
    if name in _MEMORY and isinstance(xs[0], Pair) and xs[0].is_in_memory:
        return _in_memory(node, *xs)
    if name in BY_PARTS:
        return _by_parts(node, *xs)
    if (paired := OPS.get(name + SUFFIX)) is not None:
        return _in_library(node, paired, *xs)
    operands = ", ".join(str(a.type) for a in node.args)
    where = f"\n  at {node.loc}" if node.loc else ""
    raise CompileError(
        f"{name}({operands}): compiled programs compute with real numbers, and {name} has no form in these; compute "
        f"with the parts (tp.real, tp.imag), or call this outside of tape_function{where}"
    )


# -- regions -----------------------------------------------------------------------------------------------------------


def _results(env: dict[Value, Operand], token: Value) -> tuple[Operand, ...]:
    return env[token]  # type: ignore[return-value]


def _region(node: Value, xs: Sequence[Operand], env: dict[Value, Operand], fired: Counter[str]) -> None:
    """A loop or branch with real operands in place of complex ones; `env` of its token is the tuple of results."""
    assert node.op is not None and node.op.results is not None
    attrs = node.attributes
    lead = len(xs) - len(next(region.graphs(node)).params)  # operands that are not the graphs': the index of a switch
    carried = attrs.get("carried", 0)
    apart = [isinstance(x, Pair) and (k < carried or not x.is_in_memory) for k, x in enumerate(xs[lead:])]
    operands = [*xs[:lead], *(v for x, split in zip(xs[lead:], apart, strict=True) for v in _operands(x, split))]
    attrs = region.with_graphs(attrs, lambda inner: _inner(inner, apart, fired))
    if "carried" in attrs:
        attrs["carried"] = sum(2 if split else 1 for split in apart[:carried])
    types = node.op.results(*(a.type for a in node.args), **node.attributes)
    found = iter(node.op.emit_results(*operands, **attrs))
    env[node] = tuple(  # type: ignore[assignment]
        Pair((next(found), next(found))) if t.dtype.kind == "c" else next(found) for t in types
    )


def _operands(x: Operand, split: bool) -> tuple[Value, ...]:
    return x.parts if split and isinstance(x, Pair) else (_whole_value(x),)


def _inner(graph: Graph, apart: Sequence[bool], fired: Counter[str]) -> Graph:
    """A graph inside, whose complex parameters are two where `apart` says so; its complex outputs are two each."""
    params: list[Value] = []
    env: dict[Value, Operand] = {}
    for p, split in zip(graph.params, apart, strict=True):
        types = [Type(real_dtype(p.dtype), p.shape)] * 2 if split else [paired(p.type)]
        new = [p] if types == [p.type] else [param(t, p.name) for t in types]
        params += new
        env[p] = Pair((new[0], new[1])) if split else Pair(together=new[0]) if is_complex(p) else new[0]
    _rewrite(graph, env, fired)
    outs = [part for v in graph.outs for part in _operands(env[v], True)]
    return Graph(tuple(params), tuple(outs), graph.name)
