"""Questions about nodes of a syntax tree, and making new ones."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from tapefuse.tracer.rewriting import names
from tapefuse.tracer.rewriting.jumps import STAGER, Block

UNTOUCHED = {"locals", "eval", "exec", "vars", "dir"}  # functions that call them see their own frame


# -- questions about nodes --------------------------------------------------------------------------------------------


def has_control_flow(node: ast.AST) -> bool:
    """Whether there is anything in it that rewriting would change, calls left aside."""
    kinds = (ast.If, ast.While, ast.For, ast.Assert, ast.BoolOp, ast.IfExp, ast.Not)
    return any(isinstance(n, kinds) or _is_changed(n) for n in ast.walk(node))


def _is_changed(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return len(node.ops) > 1 or isinstance(node.ops[0], (ast.In, ast.NotIn))
    return isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)


def is_static(test: ast.expr) -> bool:
    """Conditions that are never traced: they leave the statement as it is."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return is_static(test.operand)
    if isinstance(test, ast.Compare):
        return all(isinstance(op, (ast.Is, ast.IsNot)) for op in test.ops)
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name):
        return test.func.id in ("isinstance", "hasattr", "callable", "issubclass")
    return isinstance(test, ast.Constant)


def is_total(node: ast.expr) -> bool:
    """Whether evaluating it in vain does no harm: no index out of range, no call."""
    allowed = (
        ast.Name, ast.Constant, ast.Attribute, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp,
        ast.unaryop, ast.BinOp, ast.operator, ast.expr_context,
    )  # fmt: skip
    return all(isinstance(n, allowed) for n in ast.walk(node))


def has_binding(nodes: Iterable[ast.AST]) -> bool:
    return any(isinstance(n, (ast.NamedExpr, ast.Yield, ast.YieldFrom, ast.Await)) for x in nodes for n in ast.walk(x))


def sees_its_frame(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(n, ast.Name) and (n.id in UNTOUCHED or n.id == STAGER) for n in names.own_nodes(body))


def is_block(node: ast.FunctionDef) -> bool:
    return node.name.startswith(STAGER)


def is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def is_stager(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == STAGER


# -- making nodes -----------------------------------------------------------------------------------------------------


def without_annotations(body: Sequence[ast.stmt]) -> Block:
    """`x: int = 3` as `x = 3`, since shared names cannot be annotated."""
    return [_WithoutAnnotations().visit(s) for s in body]


class _WithoutAnnotations(ast.NodeTransformer):
    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name):
            return node
        if node.value is None:  # makes the name local and nothing else
            nothing = ast.Assign([node.target], ast.Constant(None))
            return placed(ast.If(ast.Constant(False), [nothing], []), node)
        return placed(ast.Assign([node.target], node.value), node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


def name_of(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def call_of(method: str, arguments: Sequence[ast.expr]) -> ast.Call:
    return ast.Call(ast.Attribute(name_of(STAGER), method, ast.Load()), list(arguments), [])


def parameters_of(parameters: Sequence[str]) -> ast.arguments:
    return ast.arguments([], [ast.arg(p) for p in parameters], None, [], [], None, [])


def thunk(value: ast.expr) -> ast.Lambda:
    return placed(ast.Lambda(parameters_of([]), value), value)


def placed(node: Any, at: ast.AST) -> Any:
    """The node, and all in it that has no place yet, at the first line of another one."""
    line, column = at.lineno, at.col_offset  # type: ignore[attr-defined]
    head: Any = getattr(at, "iter", getattr(at, "test", at))  # of a statement with blocks
    end = head.end_col_offset if head.end_lineno == line else column + 1
    _place(node, {"lineno": line, "col_offset": column, "end_lineno": line, "end_col_offset": end})
    return node


def _place(node: ast.AST, place: dict[str, int]) -> None:
    if hasattr(node, "lineno"):
        return
    if "lineno" in node._attributes:
        node.__dict__.update(place)
    for child in ast.iter_child_nodes(node):
        _place(child, place)
