"""The syntax tree of a Python function, with the lines and columns of the file it stands in.

>>> found = source_of(some_function)
>>> found.node.name, found.node.lineno
('some_function', 12)
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from tapefuse._records import dataclass

FunctionNode = ast.FunctionDef | ast.Lambda
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


@dataclass(frozen=True, slots=True)
class Source:
    """A function's own tree (nobody else's: it may be changed), and the class whose private names it uses."""

    node: FunctionNode
    owner: str | None


def source_of(function: FunctionType) -> Source | None:
    """None where the source cannot be found, or is not that of this function any more."""
    code = function.__code__
    try:
        node = _lambda(code) if code.co_name == "<lambda>" else _definition(code, function.__globals__)
    except (OSError, TypeError, SyntaxError, ValueError, IndentationError):
        return None
    if node is None or _parameters(node) != code.co_varnames[: len(_parameters(node))]:
        return None
    return Source(node, _owner(function.__qualname__))


def _owner(qualified: str) -> str | None:
    """The class in whose body a function of that name is made: `C` of `C.f` and of `C.<listcomp>.<lambda>`."""
    around = [part for part in qualified.split(".")[:-1] if part not in _COMPREHENSIONS]
    return None if not around or around[-1].startswith("<") else around[-1]


def _definition(code: CodeType, module: dict[str, Any]) -> ast.FunctionDef | None:
    lines = linecache.getlines(code.co_filename, module)[code.co_firstlineno - 1 :]
    if not lines:
        return None
    try:
        node = _parsed(_indented(lines), code.co_firstlineno)
    except SyntaxError:  # a string or bracket with lines further to the left
        node = _parsed(inspect.getblock(lines), code.co_firstlineno)
    return node if isinstance(node, ast.FunctionDef) and node.name == code.co_name else None


def _parsed(lines: Sequence[str], first: int) -> ast.stmt:
    indented = lines[0][:1].isspace()  # columns and the lines of long strings stay as they are in the file
    tree = ast.parse("if 1:\n" + "".join(lines) if indented else "".join(lines))
    ast.increment_lineno(tree, first - 1 - indented)
    node = tree.body[0]
    return node.body[0] if indented and isinstance(node, ast.If) else node


def _indented(lines: Sequence[str]) -> list[str]:
    """The decorators and the head at the start, and what stands to the right of them."""
    start = len(lines[0]) - len(lines[0].lstrip())
    inside = False
    for k, line in enumerate(lines):
        text = line.lstrip()
        left = len(line) - len(text) <= start
        if left and inside and text and text[0] not in ")]}#":
            return list(lines[:k])
        inside = inside or (left and text.startswith("def "))
    return list(lines)


def _lambda(code: CodeType) -> ast.Lambda | None:
    """The smallest lambda of the file that all instructions of the code lie in."""
    text = "".join(linecache.getlines(code.co_filename))
    if not text:
        return None
    places = [
        (line, column) for line, _, column, _ in code.co_positions() if line and column is not None and column > 0
    ]
    fits = [
        node
        for node in _lambdas(code.co_filename, hash(text), text)
        if node.lineno == code.co_firstlineno and all(_start(node) <= p <= _end(node) for p in places)
    ]
    if not fits:
        return None
    smallest = max(fits, key=_start)
    found = ast.parse(ast.unparse(smallest), mode="eval").body  # a copy
    assert isinstance(found, ast.Lambda)
    return _with_places(found, smallest)


@lru_cache(maxsize=8)
def _lambdas(file: str, version: int, text: str) -> tuple[ast.Lambda, ...]:
    return tuple([node for node in ast.walk(ast.parse(text, file)) if isinstance(node, ast.Lambda)])


def _with_places(copy: ast.Lambda, original: ast.Lambda) -> ast.Lambda:
    for new, old in zip(ast.walk(copy), ast.walk(original), strict=True):
        ast.copy_location(new, old)
    return copy


def _start(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def _parameters(node: FunctionNode) -> tuple[str, ...]:
    a = node.args
    rest = [x.arg for x in (a.vararg, a.kwarg) if x is not None]
    return tuple([x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)] + rest)
