"""Small mistakes in a function's source, one at a time: swapped operands, dropped terms and factors, other constants,
axes, signs, comparisons and branches."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

COMMUTATIVE = {
    *("add", "mul", "eq", "ne", "and_", "or_", "xor_", "and", "or", "xor", "hypot", "logaddexp", "maximum", "minimum"),
    *("max", "min", "zip", "isinstance", "Type", "broadcast_shapes", "promoted", "differs", "equals", "both"),
    *("swapaxes", "_agree"),
}
_OPPOSITES = [
    *(("add", "sub"), ("mul", "div"), ("sin", "cos"), ("lt", "ge"), ("gt", "le"), ("eq", "ne"), ("and_", "or_")),
    ("floor", "ceil"),
]
OTHER_NAME = {a: b for pair in _OPPOSITES for a, b in (pair, pair[::-1])}
OTHER_TEXT = OTHER_NAME | {"and": "or", "or": "and", "maximum": "minimum", "minimum": "maximum"}
OTHER_OPERATOR: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}

Change = Callable[[ast.AST], ast.AST | None]  # what a node becomes; it may be changed in place (then None)


def sites(function: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """Every node of a function that can be wrong, with each way to be so. Errors, their texts, annotations and
    docstrings are left alone."""
    for node in _code(function):
        for change in _changes(node):
            yield node, change


def _code(function: ast.AST) -> Iterator[ast.AST]:
    body = function.body if isinstance(function.body, list) else [function.body]  # type: ignore[attr-defined]
    for statement in body:
        yield from _inside(statement)


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert, ast.ExceptHandler)):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.If) and all(isinstance(s, ast.Raise) for s in node.body):
        return  # a check of operands
    if isinstance(node, ast.keyword) and node.arg in ("strict", "key", "doc", "dtypes"):
        return
    yield node
    for name, child in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for part in child if isinstance(child, list) else [child]:
            if isinstance(part, ast.AST):
                yield from _inside(part)


def _changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.BinOp):
        if type(node.op) in OTHER_OPERATOR:
            yield _operator("op", node.op)
        if isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)):
            yield _swapped_sides
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield lambda n: n.left  # type: ignore[attr-defined]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield lambda n: n.operand  # type: ignore[attr-defined]
    elif isinstance(node, ast.BoolOp):
        yield _operator("op", node.op)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER_OPERATOR:
        yield _other_comparison
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, (ast.IfExp, ast.If)):
        yield _negated
    elif isinstance(node, ast.Tuple) and len(node.elts) > 1 and any(isinstance(e, ast.Starred) for e in node.elts):
        yield lambda n: setattr(n, "elts", [n.elts[1], n.elts[0], *n.elts[2:]])  # type: ignore[attr-defined]


def _of_call(node: ast.Call) -> Iterator[Change]:
    name = _called(node)
    plain = not any(isinstance(a, ast.Starred) for a in node.args)
    if plain and len(node.args) == 2 and name not in COMMUTATIVE and _differ(*node.args):
        yield lambda n: setattr(n, "args", n.args[::-1])  # type: ignore[attr-defined]
    if plain and len(node.args) == 3 and name not in COMMUTATIVE and _differ(*node.args[1:]):
        yield lambda n: setattr(n, "args", [n.args[0], n.args[2], n.args[1]])  # type: ignore[attr-defined]
    if isinstance(node.func, ast.Name) and name in OTHER_NAME:
        yield lambda n: setattr(n.func, "id", OTHER_NAME[n.func.id])  # type: ignore[attr-defined]
    if name in ("add", "sub", "mul", "div") and plain and len(node.args) > 1:
        yield lambda n: n.args[-2]  # type: ignore[attr-defined]
    if name == "mul" and plain and len(node.args) > 1:
        yield lambda n: n.args[-1]  # type: ignore[attr-defined]
    if name in ("neg", "unbroadcast", "conjugate", "stretch") and node.args:
        yield lambda n: n.args[0]  # type: ignore[attr-defined]


def _called(node: ast.Call) -> str:
    """The operation that is called: `sub(...)`, `OPS["sub"](...)`, `b.op("sub", ...)`."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Subscript) and isinstance(node.func.slice, ast.Constant):
        return str(node.func.slice.value)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "op" and node.args:
        return str(getattr(node.args[0], "value", ""))
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _of_constant(node: ast.Constant) -> Iterator[Change]:
    if isinstance(node.value, bool):
        yield lambda n: setattr(n, "value", not n.value)  # type: ignore[attr-defined]
    elif isinstance(node.value, int):
        yield lambda n: setattr(n, "value", n.value + 1)  # type: ignore[attr-defined]
    elif isinstance(node.value, float):
        yield lambda n: setattr(n, "value", n.value * 1.5 + 0.25)  # type: ignore[attr-defined]
    elif isinstance(node.value, str) and node.value in OTHER_TEXT:
        yield lambda n: setattr(n, "value", OTHER_TEXT[n.value])  # type: ignore[attr-defined]


def _differ(a: ast.AST, b: ast.AST) -> bool:
    return ast.dump(a) != ast.dump(b)


def _operator(field: str, old: ast.AST) -> Change:
    return lambda n: setattr(n, field, OTHER_OPERATOR[type(old)]())


def _swapped_sides(node: ast.AST) -> None:
    node.left, node.right = node.right, node.left  # type: ignore[attr-defined]


def _other_comparison(node: ast.AST) -> None:
    node.ops = [OTHER_OPERATOR[type(node.ops[0])](), *node.ops[1:]]  # type: ignore[attr-defined]


def _negated(node: ast.AST) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]


class _Replaced(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


class Mistake(NamedTuple):
    """One mistake in a function: its line with what changes in brackets, and the module of the statement with it."""

    text: str  # x[[[1 -> 2]] - k]
    line: int
    made: Callable[[], tuple[ast.Module, ast.AST]]  # the module, the function in it


def mistakes(statement: ast.stmt, function: ast.AST, lines: list[str]) -> Iterator[Mistake]:
    """The mistakes in one of the functions in an outermost statement of a module with these lines."""
    place = {id(n): k for k, n in enumerate(ast.walk(statement))}
    for node, change in sites(function):
        if text := _text(node, change, lines):
            made = partial(_made, statement, place[id(node)], place[id(function)], change)
            yield Mistake(text, node.lineno, made)  # type: ignore[attr-defined]


def _made(statement: ast.stmt, node: int, function: int, change: Change) -> tuple[ast.Module, ast.AST]:
    twin = copy.deepcopy(statement)
    nodes = list(ast.walk(twin))
    place, changed = nodes[node], nodes[function]
    new = change(place)
    if new is not None:
        _Replaced(place, new).visit(twin)
    return ast.fix_missing_locations(ast.Module([twin], [])), changed


def _text(node: ast.AST, change: Change, lines: list[str]) -> str:
    """The line of a mistake with `[[before -> after]]` in it; nothing if the two are the same."""
    twin = copy.deepcopy(node)
    new = change(twin) or twin
    if isinstance(node, (ast.If, ast.IfExp)):
        node, new = node.test, new.test  # type: ignore[attr-defined]
    before, after = ast.unparse(node), ast.unparse(new)
    if before == after:
        return ""
    first, last = lines[node.lineno - 1].encode(), lines[node.end_lineno - 1].encode()  # type: ignore[attr-defined]
    head, tail = first[: node.col_offset].decode(), last[node.end_col_offset :].decode()  # type: ignore[attr-defined]
    return f"{head}{_difference(before, after)}{tail}".strip().replace('"', "'")


def _difference(before: str, after: str) -> str:
    a, b = (re.findall(r"\w+|.", s) for s in (before, after))
    shorter = min(len(a), len(b))
    start = next((k for k in range(shorter) if a[k] != b[k]), shorter)
    end = next((k for k in range(shorter - start) if a[-1 - k] != b[-1 - k]), shorter - start)
    old, new = "".join(a[start : len(a) - end]), "".join(b[start : len(b) - end])
    return f"{''.join(a[:start])}[[{old} -> {new}]]{''.join(a[len(a) - end :])}"
