"""The source of a program as Numba compiles it fastest: few functions, and constants that are no calls.

`written_out({"k0"})` turns

    def k0(b0, b1, lo, hi, chunk):
        for i in range(lo, hi):
            b1[i] = float32(2.0) * b0[i]

    def program(x0, y0, arena):
        k0(x0, y0, 0, 3, 0)
        return 0

into

    q0 = float32(2.0)

    def program(x0, y0, arena):
        for k0_i in range(0, 3):
            y0[k0_i] = q0 * x0[k0_i]
        return 0

Numba's own inlining copies its tables for every call, which takes a third of the time to compile; a constant that is
a call is looked up among the function's signatures each time. Lines keep their numbers.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterator, Mapping

DTYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64))
ON_MATRICES = ("matmul_rows", "matmul_columns")  # their operands may be `b0[i]` for a matrix of several
MOST_AXES = 4  # of an element that has a function (runtime/numba_arrays.py)
Functions = Mapping[str, ast.FunctionDef]


def written_out(module: ast.Module, once: Collection[str]) -> ast.Module:
    """The module with the functions `once` in place of the only call of each. Those return nothing."""
    functions = {f.name: f for f in module.body if isinstance(f, ast.FunctionDef)}
    for name, f in functions.items():
        if name not in once:
            f.body = _body(f.body, {k: functions[k] for k in once})
    kept = [s for s in module.body if not (isinstance(s, ast.FunctionDef) and s.name in once)]
    named = _Named()
    kept = [named.visit(s) for s in kept]
    at = next((k for k, s in enumerate(kept) if isinstance(s, ast.FunctionDef)), len(kept))
    return ast.fix_missing_locations(ast.Module([*kept[:at], *named.definitions(), *kept[at:]], []))


def _body(statements: list[ast.stmt], once: Functions) -> list[ast.stmt]:
    """Statements with functions written out where they are called."""
    found: list[ast.stmt] = []
    for s in statements:
        for part in ("body", "orelse"):
            if inner := getattr(s, part, None):
                setattr(s, part, _body(inner, once))
        f = once.get(s.value.func.id) if _is_call(s) else None  # type: ignore[attr-defined]
        found += [s] if f is None else _called(f, s.value.args, once)  # type: ignore[attr-defined]
    return found


def _is_call(s: ast.stmt) -> bool:
    return isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) and isinstance(s.value.func, ast.Name)


def _called(f: ast.FunctionDef, arguments: list[ast.expr], once: Functions) -> list[ast.stmt]:
    """What a call does: the body on the arguments, under names of its own."""
    body = _body(f.body, once)
    given = dict(zip((a.arg for a in f.args.args), arguments, strict=True))
    while _takes_apart(body[0], given):  # `b0, b1 = g0`
        targets, value = body[0].targets[0].elts, given.pop(body[0].value.id).elts  # type: ignore[attr-defined]
        given |= dict(zip((t.id for t in targets), value, strict=True))
        body = body[1:]
    assigned = {n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    values: dict[str, ast.expr] = {}
    moved: list[ast.stmt] = []
    for name, argument in given.items():
        if name not in assigned and isinstance(argument, ast.Name | ast.Constant):
            values[name] = argument
        else:
            moved.append(ast.Assign([ast.Name(f"{f.name}_{name}", ast.Store())], argument, lineno=f.lineno))
    rename = _Renamed(f.name, {*assigned, *given}, values)
    return [*moved, *map(rename.visit, body)]


def _takes_apart(s: ast.stmt, given: Mapping[str, ast.expr]) -> bool:
    match s:
        case ast.Assign(targets=[ast.Tuple()], value=ast.Name(id=name)):
            return isinstance(given.get(name), ast.Tuple)
    return False


class _Renamed(ast.NodeTransformer):
    """Local names with the function's before them; `values` stand for some."""

    def __init__(self, function: str, local: Collection[str], values: Mapping[str, ast.expr]):
        self.function, self.local, self.values = function, local, values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.values:
            return ast.copy_location(copy.copy(self.values[node.id]), node)
        if node.id in self.local:
            node.id = f"{self.function}_{node.id}"
        return node


class _Named(ast.NodeTransformer):
    """Constants of a dtype by names of the module, `q0 = float32(2.0)`, and elements by functions."""

    def __init__(self) -> None:
        self.constants: dict[str, str] = {}
        self.functions: set[str] = set()

    def visit_Call(self, node: ast.Call) -> ast.expr:
        match node:
            case ast.Call(func=ast.Name(id=dtype), args=[value]) if dtype in DTYPES and _is_number(value):
                name = self.constants.setdefault(ast.unparse(node), f"q{len(self.constants)}")
                return ast.copy_location(ast.Name(name, ast.Load()), node)
            case ast.Call(func=ast.Name(id=name)) if name in ON_MATRICES:
                return node
        self.generic_visit(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if len(indices) > MOST_AXES or not isinstance(node.ctx, ast.Load):
            return node
        return self._call(f"element{len(indices)}", [node.value, *indices], node)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        match node:
            case ast.Assign(targets=[ast.Subscript(value=array, slice=index)]):
                indices = index.elts if isinstance(index, ast.Tuple) else [index]
                if len(indices) <= MOST_AXES:
                    call = self._call(f"set_element{len(indices)}", [array, *indices, node.value], node)
                    return ast.copy_location(ast.Expr(call), node)
        return node

    def _call(self, name: str, arguments: list[ast.expr], node: ast.AST) -> ast.expr:
        self.functions.add(name)
        return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), arguments, []), node)

    def definitions(self) -> Iterator[ast.stmt]:
        if self.functions:
            names = [ast.alias(name) for name in sorted(self.functions)]
            yield ast.ImportFrom("tapefuse.runtime.numba_arrays", names, 0)
        for text, name in self.constants.items():
            yield ast.parse(f"{name} = {text}").body[0]


def _is_number(x: ast.expr) -> bool:
    match x:
        case ast.UnaryOp(op=ast.USub(), operand=value):
            return _is_number(value)
        case ast.Constant() | ast.Name(id="nan" | "inf"):
            return True
    return False
