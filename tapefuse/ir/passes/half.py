"""Halves as compiled code has them: in memory the bits, u16, in arithmetic float32. Graph -> Graph.

    fn f(%x: bf16[3]) {                  fn f(%x: u16[3]) {
      %0 = exp %x : bf16[3]                %0 = from_bf16 %x : f32[3]
      %1 = mul %0, %0 : bf16[3]            %1 = exp %0 : f32[3]
      return %1                            %2 = to_bf16 %1 : u16[3]
    }                                      %3 = from_bf16 %2 : f32[3]
                                           %4 = mul %3, %3 : f32[3]
                                           %5 = to_bf16 %4 : u16[3]
                                           return %5
                                         }

Every result is rounded, as the interpreter does, so that what is fused into one kernel has the values it would have in
memory. Operations that only move elements move bits. The parameters and outputs change their types: this is no part of
`optimise`, whose passes need not know of halves after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, here, param
from tapefuse.ir.halves import BITS, EXACT, FLOAT16, FLOAT32, is_half, widened
from tapefuse.ir.op import OPS, Literal, constant
from tapefuse.ir.ops import region
from tapefuse.ir.types import Type


def with_bits(graph: Graph) -> Graph:
    """The graph without halves; the same one if there are none."""
    return run(graph)[0]


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph without halves, and how many operations on halves there were, those inside of regions counted once."""
    lowering = _Lowering()
    return lowering.graph(graph), lowering.fired


def has_halves(graph: Graph) -> bool:
    """Whether a value of the graph, or of those inside of it, is a float16 or bfloat16."""
    values = (*graph.params, *graph.nodes)
    return any(is_half(v.dtype) or any(map(has_halves, region.graphs(v))) for v in values)


def stored(type: Type) -> Type:
    """The type that a value of this type has in compiled code."""
    return Type(BITS, type.shape) if is_half(type.dtype) else type


def opened(bits: Value, half: np.dtype) -> Value:
    """The float32 of the bits of halves."""
    if bits.op is OPS["const"] and bits.type.size == 1:
        return constant(bits.attributes["value"].array.view(half).astype(FLOAT32))
    return (ops.from_f16 if half == FLOAT16 else ops.from_bf16).emit(bits)


def closed(x: Value, half: np.dtype) -> Value:
    """The bits of the halves nearest to numbers."""
    to, back = (ops.to_f16, ops.from_f16) if half == FLOAT16 else (ops.to_bf16, ops.from_bf16)
    return x.args[0] if x.op is back else to.emit(x)


class _Lowering:
    """One graph on its way; graphs inside are lowered once each."""

    def __init__(self) -> None:
        self.inner: dict[Graph, Graph] = {}
        self.fired: Counter[str] = Counter()

    def graph(self, graph: Graph) -> Graph:
        if graph not in self.inner:
            self.inner[graph] = self._lowered(graph) if has_halves(graph) else graph
        return self.inner[graph]

    def _lowered(self, graph: Graph) -> Graph:
        outer = here.loc
        env = {p: param(stored(p.type), p.name) if is_half(p.dtype) else p for p in graph.params}
        params = tuple(env[p] for p in graph.params)
        try:
            for v in graph.nodes:
                here.loc = v.loc
                env[v] = self._node(v, [env[a] for a in v.args])
        finally:
            here.loc = outer
        return Graph(params, tuple(env[v] for v in graph.outs), graph.name)

    def _node(self, v: Value, bits: Sequence[Value]) -> Value:
        """The node on operands whose halves are bits."""
        assert v.op is not None
        attrs = v.attributes
        if v.op.is_region:
            return v.op.emit(*bits, **region.with_graphs(attrs, self.graph))
        if not is_half(v.dtype) and not any(is_half(a.dtype) for a in v.args):
            return v.op.emit(*bits, **attrs)
        self.fired["half"] += 1
        if v.op.name in EXACT:
            return v.op.emit(*bits, **_on_bits(v))
        wide = [opened(b, a.dtype) if is_half(a.dtype) else b for b, a in zip(bits, v.args, strict=True)]
        if v.op is ops.cast:
            return _converted(wide[0], v.dtype)
        if v.op is ops.nextafter:
            return _next(v.dtype, bits, wide)
        if v.op is ops.put_add and is_half(v.dtype):
            return _added(v, bits[0], wide[1])
        result = v.op.emit(*wide, **{k: widened(x) if isinstance(x, np.dtype) else x for k, x in attrs.items()})
        return closed(result, v.dtype) if is_half(v.dtype) else result


def _on_bits(v: Value) -> dict[str, Any]:
    """The attributes of an operation that moves halves, for their bits."""
    half = v.dtype

    def changed(name: str, x: Any) -> Any:
        if isinstance(x, Literal):
            return Literal(x.array.view(BITS))
        if name == "value":
            return int(np.asarray(x, half).view(BITS))
        return BITS if isinstance(x, np.dtype) else x

    return {k: changed(k, x) for k, x in v.attrs} if is_half(half) else v.attributes


def _converted(x: Value, to: np.dtype) -> Value:
    """`x`, which is no half any more, as another dtype: integers become halves by way of float32, as in NumPy."""
    if not is_half(to):
        return ops.cast.emit(x, dtype=to)
    is_float = x.dtype == FLOAT32 or (x.dtype == np.float64 and to == FLOAT16)
    return closed(x if is_float else ops.cast.emit(x, dtype=FLOAT32), to)


def _next(half: np.dtype, bits: Sequence[Value], wide: Sequence[Value]) -> Value:
    """The bits of the half next to the first operand towards the second; those of one sign are in the order of numbers.

    Away from zero the bits count upwards; from zero itself it is to the smallest number of the other's sign.
    """
    (x, y), (code, other) = wide, bits
    away = ops.xor_.emit(ops.lt.emit(x, y), ops.lt.emit(x, 0.0))
    moved = ops.add.emit(code, ops.select.emit(away, constant(1, BITS), constant(0xFFFF, BITS)))
    smallest = ops.or_.emit(ops.and_.emit(other, 0x8000), 1)
    found = ops.select.emit(ops.eq.emit(x, 0.0), smallest, moved)
    found = ops.select.emit(ops.eq.emit(x, y), other, found)
    is_nan = ops.or_.emit(ops.ne.emit(x, x), ops.ne.emit(y, y))
    return ops.select.emit(is_nan, closed(ops.add.emit(x, y), half), found)


def _added(v: Value, bits: Value, wide: Value) -> Value:
    """An addition to a part of an array: that part is read, added to and put back, so that the rest is not touched."""
    starts, strides = v.attributes["starts"], v.attributes["strides"]
    limits = tuple(a + (n - 1) * s + 1 for n, a, s in zip(wide.shape, starts, strides, strict=True))
    old = opened(ops.slice_.emit(bits, starts=starts, limits=limits, strides=strides), v.dtype)
    return ops.put.emit(bits, closed(ops.add.emit(old, wide), v.dtype), starts=starts, strides=strides)
