"""Graph -> bytes that are equal for equal programs in whatever process: what compiled programs are filed under.

Two graphs have the same digest when they do the same operations in the same order on inputs of the same types. Names
and source lines do not count, nor what else the process has built before. Quicker than printing: 2 us a node.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import Literal, Op
from tapefuse.ir.ops import BUILT_IN
from tapefuse.ir.types import Poly


def digest(graph: Graph) -> str | None:
    """A SHA-256 in hexadecimal, or None when the graph has operations or attributes that only this process knows."""
    try:
        text = "\n".join([*_lines(graph)])
    except _Unknown:
        return None
    return hashlib.sha256(text.encode()).hexdigest()


class _Unknown(Exception):
    """Something whose meaning is not in this package's sources."""


def _lines(graph: Graph) -> list[str]:
    numbers: dict[Value, int] = {}
    lines = [str(p.type) for p in graph.params]
    for p in graph.params:
        numbers.setdefault(p, len(numbers))
    heads: dict[Any, str] = {}  # an op with its attributes -> text
    for v in graph.in_order:
        assert v.op is not None
        key = (v.op, v.attrs) if v.attrs else v.op
        head = heads.get(v.op) if not v.attrs else None
        if head is None:
            head = _head(v.op, v.attrs)
            if not v.attrs:
                heads[key] = head
        lines.append(" ".join([head, *[str(numbers[a]) for a in v.args]]))
        numbers[v] = len(numbers)
    lines.append("return " + " ".join([str(numbers[v]) for v in graph.outs]))
    return lines


def _head(op: Op, attrs: tuple[tuple[str, Any], ...]) -> str:
    if op not in BUILT_IN:
        raise _Unknown(op.name)
    return f"{op.name}{''.join(f' {name}={_shown(x)}' for name, x in attrs)}"


def _shown(x: Any) -> str:
    """An attribute; different ones have different texts, up to -0.0 and the bits of nan."""
    if x is None or isinstance(x, (bool, int, float)):
        return f"{type(x).__name__[0]}{x!r}"
    if isinstance(x, str):
        return json.dumps(x)
    if isinstance(x, tuple):
        return f"({','.join([_shown(y) for y in x])})"
    if isinstance(x, Poly):
        return f"dim({x})"
    if isinstance(x, np.dtype):
        return x.str
    if isinstance(x, np.generic):
        return f"{x.dtype.str}{x.tobytes().hex()}"
    if isinstance(x, Literal):
        dtype, shape, data = x.key
        return f"{dtype}{shape}{data.hex()}"
    raise _Unknown(type(x).__name__)
