"""Graph -> text that `parse` reads back.

    fn main(%x: f32[B,784], %w: f32[784,10]) {
      %0 = matmul %x, %w : f32[B,10]  # model.py:12
      %1 = mul %0, f32(2.0) : f32[B,10]
      return %1
    }

Scalar constants stand where they are used; array constants are nodes of their own. A graph inside of a region stands
where its attribute is, with names of its own. Nodes that read no parameter (constants, `iota`) are shared between
graphs, so they stand before their first user and carry no location.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from tapefuse.ir.graph import Graph, Loc, Value
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Literal, const
from tapefuse.ir.types import Poly, show_dtype, show_shape

MAX_NAME = 80  # longer names of parameters are dropped, as are names that are no identifiers
MAX_LISTED = 256  # constants with more elements print as hexadecimal bytes
WORD = re.compile(r"[^\W\d]\w*")
RESERVED = re.compile(r"bool|bf16|[iufc](8|16|32|64|128)|True|False|None|inf|nan")  # words with a meaning in attributes


def show(graph: Graph, locs: bool = True) -> str:
    """The text of a graph, without a final line break. `locs`: source lines as trailing comments."""
    order = printed_order(graph)
    names = _names(graph, order)
    name = graph.name if _is_word(graph.name) else "main"
    params = [f"{names[p]}: {p.type}" for p in graph.params]
    head = f"fn {name}({', '.join(params)}) {{"
    if len(head) > 120:
        head = f"fn {name}(\n    " + ",\n    ".join(params) + "\n) {"
    rows = [_row(v, names, v.loc if locs and is_open else None, locs) for v, is_open in order]
    outs = ", ".join(_operand(v, names) for v in graph.outs)
    return "\n".join([head, *rows, f"  return {outs}".rstrip(), "}"])


def printed_order(graph: Graph) -> list[tuple[Value, bool]]:
    """The nodes that get a line, in the order of lines, each with whether it depends on a parameter."""
    is_open: dict[Value, bool] = dict.fromkeys(graph.params, True)
    for v in graph.nodes:
        is_open[v] = any(is_open.get(a, True) for a in v.args)
    order: list[tuple[Value, bool]] = []
    placed: set[Value] = set(graph.params)
    stack: list[Value] = []
    for root in (*(v for v in graph.nodes if is_open[v]), *graph.outs):
        stack.append(root)
        while stack:
            v = stack[-1]
            waiting = [a for a in reversed(v.args) if a not in placed]
            if v in placed or not waiting:
                stack.pop()
                if v not in placed and v.op is not None and not _is_inline(v):
                    order.append((v, is_open[v]))
                placed.add(v)
            else:
                stack.extend(waiting)
    return order


def _names(graph: Graph, order: list[tuple[Value, bool]]) -> dict[Value, str]:
    names: dict[Value, str] = {}
    taken: set[str] = set()
    numbers = iter(range(len(graph.params) + len(order)))
    for p in graph.params:
        base = p.name if p.name is not None and _is_word(p.name) else str(next(numbers))
        unique, k = base, 0
        while unique in taken:
            k += 1
            unique = f"{base}_{k}"
        taken.add(unique)
        names[p] = f"%{unique}"
    for v, _ in order:
        names[v] = f"%{next(numbers)}"
    return names


def _is_word(name: str) -> bool:
    return len(name) <= MAX_NAME and WORD.fullmatch(name) is not None


def _row(v: Value, names: dict[Value, str], loc: Loc | None, locs: bool) -> str:
    assert v.op is not None
    operands = ", ".join(_operand(a, names) for a in v.args)
    words = [v.op.name, operands, *(f"{k}={show_attr(x, locs)}" for k, x in v.attrs)]
    comment = f"  # {show_loc(loc)}" if loc else ""
    return f"  {names[v]} = {' '.join(filter(None, words))} : {v.type}{comment}"


def _is_inline(v: Value) -> bool:
    return v.op is const and v.shape == ()


def _operand(v: Value, names: dict[Value, str]) -> str:
    if _is_inline(v):
        array = v.attributes["value"].array
        return f"{show_dtype(array.dtype)}({show_elements(array)})"
    return names.get(v, f"%?{v.id}")  # a value from nowhere: such a graph prints, but neither parses nor verifies


def show_loc(loc: Loc) -> str:
    """`model.py:12`; a file name with odd characters is quoted."""
    plain = loc.file and loc.file.isprintable() and loc.file == loc.file.strip() and loc.file[0] not in '"#'
    return f"{loc.file if plain else json.dumps(loc.file)}:{loc.line}"


def show_attr(x: Any, locs: bool = True) -> str:
    """Text of an attribute; `parse` gives back an equal one. TypeError for a kind that has no text."""
    if isinstance(x, Graph):
        return show(x, locs).replace("\n", "\n    ")
    if x is None or isinstance(x, (bool, np.bool_)):
        return str(x)
    if isinstance(x, np.generic):
        return f"{show_dtype(x.dtype)}({show_elements(np.asarray(x))})"
    if isinstance(x, complex):
        return show_attr(np.complex128(x))
    if isinstance(x, (int, float)):
        return repr(x)
    if isinstance(x, str):
        return json.dumps(x)
    if isinstance(x, tuple):
        return f"({','.join(show_attr(y, locs) for y in x)})"
    if isinstance(x, Poly):
        return f"dim({x})" if any(RESERVED.fullmatch(s) for s in x.symbols) else str(x)
    if isinstance(x, np.dtype):
        return show_dtype(x)
    if isinstance(x, Literal):
        return f"{show_dtype(x.array.dtype)}{show_shape(x.array.shape)}({show_elements(x.array)})"
    raise TypeError(f"an attribute of type {type(x).__name__} has no text form: {x!r}")


def show_elements(array: np.ndarray) -> str:
    """Elements in row-major order, readable if that is exact to the bit, else little-endian bytes as `0x...`."""
    if kind_of(array.dtype) in "biufc" and array.size <= MAX_LISTED:
        texts = [_number(x) for x in array.ravel()]
        back = np.array([read_number(t, array.dtype) for t in texts], array.dtype)
        if back.tobytes() == array.tobytes():
            return ", ".join(texts)
    return "0x" + array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def _number(x: np.generic) -> str:
    if x.dtype.kind == "c":
        a, b = _number(x.real), _number(x.imag)
        return f"{a}{b if b[0] == '-' else '+' + b}j"
    if kind_of(x.dtype) != "f":
        return repr(x.item())
    if np.isnan(x):
        return "-nan" if np.signbit(x) else "nan"
    short = str(x)
    return short if x.dtype.type(float(short)) == x else repr(float(x))


def read_number(text: str, dtype: np.dtype) -> np.generic:
    """One element of a constant. ValueError or OverflowError when the text does not fit the dtype."""
    if dtype.kind == "b":
        if text not in ("True", "False"):
            raise ValueError(f"{text!r} is not True or False")
        return np.bool_(text == "True")
    return dtype.type({"f": float, "c": complex}.get(kind_of(dtype), int)(text))


Graph.__str__ = show  # type: ignore[method-assign, assignment]
