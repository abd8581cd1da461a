"""Text -> Graph: the inverse of `show`, a hand-written parser that evaluates nothing.

    graph   = "fn" name "(" [param {"," param}] ")" "{" {node} "return" [operands] "}"
    param   = "%" name ":" type
    node    = "%" name "=" op [operands] {name "=" attribute} ":" type ["#" file ":" line]
    operand = "%" name | scalar              scalar  = dtype "(" number ")"
    attribute = integer | float | string | "True" | "False" | "None" | dimension | dtype | scalar
              | "(" [attribute {"," attribute}] ")" | dtype "[" shape "]" "(" numbers ")" | "dim" "(" dimension ")"
              | graph

The bits of a constant may be given as `0x...`, little-endian. `#` starts a comment; after a node it holds a location.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from tapefuse._errors import ParseError, TapefuseError
from tapefuse.ir.graph import Graph, Loc, Value, here, param
from tapefuse.ir.op import OPS, Literal, constant
from tapefuse.ir.print import RESERVED, WORD, read_number
from tapefuse.ir.types import Dim, Type, parse_dim, parse_dtype

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_TRAILING = re.compile(r"[ \t]*#([^\n]*)")
_LOC = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|[^\"\s](?:.*\S)?):(\d{1,9})\s*")
_NAME = re.compile(r"%\w+")
_TYPE = re.compile(r"\w+\s*\[[^\[\]]*\]")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_ATOM = re.compile(r"[\w.+*-]+")
_INT = re.compile(r"-?\d+", re.ASCII)
_FLOAT = re.compile(r"-?(\d+\.\d*([eE][-+]?\d+)?|\d+[eE][-+]?\d+|inf|nan)", re.ASCII)
_DTYPE = re.compile(r"bool|(?:bf|[iufc])\d+")
_SCALAR = re.compile(r"(bool|(?:bf|[iufc])\d+)\s*\(")
_ATTR = re.compile(r"([^\W\d]\w*)\s*=")
_FUNCTION = re.compile(r"fn\s+[^\W\d]\w*\s*\(")
_MAX_DEPTH = 100  # of nested tuples
_MAX_GRAPHS = 30  # of graphs inside of graphs


def parse(text: str) -> Graph:
    """The graph that a text describes. ParseError names line, column and what was expected."""
    outer = here.loc
    try:
        return _Parser(text).graph()
    finally:
        here.loc = outer


class _Parser:
    def __init__(self, text: str):
        self.text = text
        self.pos = 0
        self.values: dict[str, Value] = {}
        self.depth = 0  # of graphs inside of graphs

    # -- reading the text ------------------------------------------------------------------------------------------
    def fail(self, expected: str, pos: int | None = None) -> NoReturn:
        self.blank()
        at = self.pos if pos is None else pos
        found = re.compile(r"\S{0,20}").match(self.text, at)
        token = repr(found[0]) if found and found[0] else "the end"
        self.error(f"expected {expected}, found {token}", at)

    def error(self, message: str, pos: int) -> NoReturn:
        line = self.text.count("\n", 0, pos) + 1
        column = pos - (self.text.rfind("\n", 0, pos) + 1) + 1
        raise ParseError(f"line {line}, column {column}: {message}") from None

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.pos)
        assert match
        self.pos = match.end()

    def at(self, mark: str) -> bool:
        self.blank()
        return self.text.startswith(mark, self.pos)

    def accept(self, mark: str) -> bool:
        found = self.at(mark)
        self.pos += len(mark) if found else 0
        return found

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            self.fail(repr(mark))

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        self.blank()
        match = pattern.match(self.text, self.pos)
        if not match:
            self.fail(expected)
        self.pos = match.end()
        return match[0]

    def keyword(self, word: str, expected: str) -> None:
        found = self.take(WORD, expected)
        if found != word:
            self.fail(expected, self.pos - len(found))

    def listed(self, item: Callable[[], Any], end: str) -> tuple[Any, ...]:
        """Items between commas up to and with `end`."""
        items: list[Any] = []
        if not self.accept(end):
            items.append(item())
            while not self.accept(end):
                if not self.accept(","):
                    self.fail(f"',' or {end!r}")
                items.append(item())
        return tuple(items)

    # -- grammar ---------------------------------------------------------------------------------------------------
    def graph(self) -> Graph:
        graph = self.function()
        self.blank()
        if self.pos != len(self.text):
            self.fail("the end of the text")
        return graph

    def function(self) -> Graph:
        """A graph, with names of its own."""
        outer, self.values = self.values, {}
        self.keyword("fn", "'fn'")
        name = self.take(WORD, "a function name")
        self.expect("(")
        params = self.listed(self.param, ")")
        self.expect("{")
        while self.at("%"):
            self.node()
        self.keyword("return", "'%name = ...' or 'return'")
        outs = self.listed(self.operand, "}")
        self.values = outer
        return Graph(params, outs, name)

    def param(self) -> Value:
        name = self.fresh_name()
        self.expect(":")
        word = name[1:]
        value = param(self.type(), word if WORD.fullmatch(word) else None)
        self.values[name] = value
        return value

    def fresh_name(self) -> str:
        name = self.take(_NAME, "a name such as %x")
        if name in self.values:
            self.error(f"{name} is defined twice", self.pos - len(name))
        return name

    def type(self) -> Type:
        text = self.take(_TYPE, "a type such as f32[B,10]")
        return self.checked(self.pos - len(text), Type.parse, text)

    def node(self) -> None:
        name, start = self.fresh_name(), self.pos
        self.expect("=")
        word = self.take(WORD, "an op")
        op = OPS.get(word)
        if op is None:
            self.error(f"there is no op {word!r}", self.pos - len(word))
        operands = self.operands()
        attrs = self.attributes()
        self.expect(":")
        self.blank()
        at = self.pos
        declared = self.type()
        here.loc = self.trailing_loc()
        value = self.checked(start, lambda: op.emit(*operands, **attrs))
        if value.type != declared:
            self.error(f"{op.name} gives {value.type}, the text says {declared}", at)
        self.values[name] = value

    def operands(self) -> tuple[Value, ...]:
        items: list[Value] = []
        self.blank()
        if self.at("%") or _SCALAR.match(self.text, self.pos):
            items.append(self.operand())
            while self.accept(","):
                items.append(self.operand())
        return tuple(items)

    def operand(self) -> Value:
        self.blank()
        if not self.at("%"):
            word = self.take(_DTYPE, "an operand such as %x or f32(2.0)")
            return constant(self.elements(word, ()))
        name = self.take(_NAME, "a name such as %x")
        if name not in self.values:
            self.error(f"{name} is used before it is defined", self.pos - len(name))
        return self.values[name]

    def attributes(self) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        while not self.at(":"):
            name = self.take(_ATTR, "':' or an attribute such as axis=0").rstrip("= \t\n")
            if name in attrs:
                self.error(f"attribute {name} is given twice", self.pos)
            attrs[name] = self.attribute(0)
        return attrs

    def attribute(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            self.error(f"tuples are nested more than {_MAX_DEPTH} deep", self.pos)
        if self.accept("("):
            return self.listed(lambda: self.attribute(depth + 1), ")")
        self.blank()
        if _FUNCTION.match(self.text, self.pos):
            if self.depth == _MAX_GRAPHS:
                self.error(f"graphs are nested more than {_MAX_GRAPHS} deep", self.pos)
            self.depth += 1
            graph = self.function()
            self.depth -= 1
            return graph
        if self.at('"'):
            text = self.take(_STRING, "a closed string")
            return self.checked(self.pos - len(text), json.loads, text)
        atom = self.take(_ATOM, "an attribute: a number, string, tuple, dimension, dtype or constant")
        return self.atom(atom, self.pos - len(atom))

    def atom(self, atom: str, start: int) -> Any:
        if _INT.fullmatch(atom):
            return self.checked(start, int, atom)
        if _FLOAT.fullmatch(atom):
            return float(atom)
        if atom == "dim" and self.at("("):
            return self.escaped_dim()
        if not RESERVED.fullmatch(atom):
            return self.checked(start, parse_dim, atom)
        if atom in ("True", "False", "None"):
            return {"True": True, "False": False, "None": None}[atom]
        if self.at("["):
            return self.literal(atom, start)
        if self.at("("):
            return self.elements(atom, ())[()]
        return self.checked(start, parse_dtype, atom)

    def escaped_dim(self) -> Dim:
        self.expect("(")
        text = self.take(_ATOM, "a dimension")
        self.expect(")")
        return self.checked(self.pos - len(text), parse_dim, text)

    def literal(self, word: str, start: int) -> Literal:
        shape = self.take(re.compile(r"\[[^\[\]]*\]"), "a shape")
        type = self.checked(start, Type.parse, word + shape)
        if not all(isinstance(n, int) and n >= 0 for n in type.shape):
            self.error(f"a constant needs a shape of non-negative integers, got {type}", start)
        return Literal(self.elements(word, type.shape))

    def elements(self, word: str, shape: tuple[Any, ...]) -> np.ndarray:
        """`(1.0, 2.0)` or `(0x...)` as an array."""
        start = self.pos - len(word)
        dtype = self.checked(start, parse_dtype, word)
        self.expect("(")
        body = self.take(re.compile(r"[^()]*"), "numbers").strip()
        self.expect(")")
        count = int(np.prod(shape, dtype=object))
        if body.startswith("0x"):
            return self.checked(start, lambda: _from_hex(body[2:], dtype, shape))
        texts = [t.strip() for t in body.split(",")] if body else []
        if len(texts) != count:
            self.error(f"expected {count} elements, found {len(texts)}", start)
        numbers = self.checked(start, lambda: [read_number(t, dtype) for t in texts])
        return np.array(numbers, dtype).reshape(shape)

    def trailing_loc(self) -> Loc | None:
        comment = _TRAILING.match(self.text, self.pos)
        match = _LOC.fullmatch(comment[1]) if comment else None
        if not match:
            return None
        file = match[1]
        if file.startswith('"'):
            file = self.checked(self.pos, json.loads, file)
        return Loc(file, int(match[2]))

    def checked(self, pos: int, make: Callable[..., Any], *args: Any) -> Any:
        """`make(*args)`, with complaints reported at a position; type rules may fail in any way on odd attributes."""
        try:
            return make(*args)
        except TapefuseError as e:
            self.error(str(e), pos)
        except Exception as e:
            self.error(f"not accepted here ({type(e).__name__}: {e})", pos)


def _from_hex(digits: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    data = bytes.fromhex(digits)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
