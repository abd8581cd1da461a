"""A function's syntax tree with control flow turned into calls of `staging.Stager`, which decides when they run.

    if x > 0:                     def _tapefuse_body():
        y = x          ->             nonlocal y
                                      y = x
                                  _tapefuse.if_(0, x > 0, _tapefuse_body, None, lambda: (x, y))

The last argument is never called: its closure holds the cells of the names in question. What is known of a statement
before anything runs is a `Statement`; generated calls give its number.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Sequence
from typing import Any

from tapefuse._records import dataclass
from tapefuse.tracer.rewriting import names
from tapefuse.tracer.rewriting.jumps import RESULT, STAGER, Block, supported, without_jumps
from tapefuse.tracer.rewriting.names import Liveness, Names, bound, changed, extra_test, reads

BODY, TEST, ITEM = f"{STAGER}_body", f"{STAGER}_test", f"{STAGER}_item"
UNTOUCHED = {"locals", "eval", "exec", "vars", "dir"}  # functions that call them see their own frame


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """What the text says of one `if`, `while` or `for`. Names may be attributes, `self.x`."""

    kind: str
    file: str
    line: int
    bound: tuple[str, ...]  # names it may bind or change, in the order of the text
    in_place: Names  # those of them that it changes by `x[i] = ...`, perhaps besides binding them
    after: Names  # those of them that are read later
    head: Names  # of a loop: those that an iteration may read before it binds them
    reads: tuple[str, ...]  # names that it reads

    @property
    def only_read(self) -> tuple[str, ...]:
        """Names of which it changes nothing, as far as the text tells."""
        return tuple([n for n in self.reads if n not in self.in_place])

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


class Scope:
    """The names of one function."""

    def __init__(self, node: ast.FunctionDef | ast.Lambda, body: Sequence[ast.stmt]):
        own = list(names.own_nodes(body))
        self.globals = {n for s in own if isinstance(s, ast.Global) for n in s.names}
        self.outer = {n for s in own if isinstance(s, ast.Nonlocal) for n in s.names}
        a = node.args
        self.parameters = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None]
        self.liveness = Liveness(body, frozenset(self.globals | self.outer))
        self.assigning = _assigning(own)


class Rewriting(ast.NodeTransformer):
    """Rewrites one function and those inside of it; `statements` collects what was found."""

    def __init__(self, file: str):
        self.file = file
        self.statements: list[Statement] = []
        self._scope: Scope | None = None
        self._in_class = False

    # -- functions --------------------------------------------------------------------------------------------------
    def function(self, node: ast.FunctionDef) -> None:
        """Rewrite a definition in place."""
        body = _without_annotations(node.body)
        if not supported(body) or _untouched(body):
            return
        body = without_jumps(body)
        outer, outer_class = self._scope, self._in_class
        self._scope, self._in_class = Scope(node, body), False
        bindings = sorted(set(bound(body)) - self._scope.globals - self._scope.outer)
        if self._scope.parameters and any(
            isinstance(n, ast.Name) and n.id == "super" for s in body for n in ast.walk(s)
        ):
            body = [_ExplicitSuper(self._scope.parameters[0]).visit(s) for s in body]
        new = self._block(body)
        first = body[0]
        start: Block = [s for s in new if isinstance(s, (ast.Global, ast.Nonlocal))]
        if bindings:  # all assignments may have moved into functions inside: this says whose names they are
            nothing = ast.Assign([ast.Name(n, ast.Store()) for n in bindings], ast.Constant(None))
            start.append(ast.If(ast.Constant(False), [nothing], []))
        is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        rest = [s for s in new if not isinstance(s, (ast.Global, ast.Nonlocal))]
        node.body = [*rest[:is_documented], *[_placed(s, first) for s in start], *rest[is_documented:]]
        self._scope, self._in_class = outer, outer_class

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if not _private(node):
            self.function(node)
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.visit(statement)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        if any(isinstance(n, (ast.Yield, ast.YieldFrom, ast.Await)) for n in ast.walk(node.body)):
            return node
        outer, self._scope = self._scope, Scope(node, [])
        node.body = self.visit(node.body)
        self._scope = outer
        return node

    def _block(self, body: Iterable[ast.stmt]) -> Block:
        out: Block = []
        for statement in body:
            new = self.visit(statement)
            out.extend(new) if isinstance(new, list) else out.append(new)
        return out

    # -- statements ---------------------------------------------------------------------------------------------------
    def visit_If(self, node: ast.If) -> Any:
        if len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and node.body[0].exc is not None:
            return [self._raise_if(node, node.body[0]), *self._block(node.orelse)]
        if _is_static(node.test):
            node.test = self.visit(node.test)
            node.body, node.orelse = self._block(node.body), self._block(node.orelse)
            return node
        k, cells = self._statement("if", node)
        test = self.visit(node.test)
        made: Block = [self._inner(BODY, [], node.body, node)]
        orelse: ast.expr = ast.Constant(None)
        if node.orelse:
            made.append(self._inner(BODY + "_else", [], node.orelse, node))
            orelse = _name(BODY + "_else")
        return [*made, self._call("if_", [ast.Constant(k), test, _name(BODY), orelse, cells], node)]

    def _raise_if(self, node: ast.If, error: ast.Raise) -> ast.stmt:
        """`if _tapefuse.raises(test, lambda: error): raise error`"""
        exc = copy.deepcopy(error.exc)
        assert exc is not None
        test = _stager("raises", [self.visit(node.test), _thunk(exc)])
        self.generic_visit(error)
        return _placed(ast.If(test, [error], []), node)

    def visit_While(self, node: ast.While) -> Any:
        k, cells = self._statement("while", node)
        plain = ast.Constant(_is_total(node.test))
        test = self._inner(TEST, [], [ast.Return(node.test)], node, also=bound(node.test))
        body = self._inner(BODY, [], node.body, node)
        call = self._call("while_", [ast.Constant(k), plain, _name(TEST), _name(BODY), cells, self._extra(node)], node)
        return [test, body, call]

    def visit_For(self, node: ast.For) -> Any:
        k, cells = self._statement("for", node)
        iterable = self.visit(node.iter)
        take = ast.copy_location(ast.Assign([node.target], _name(ITEM)), node.target)
        body = self._inner(BODY, [ITEM], [take, *node.body], node)
        call = self._call("for_", [ast.Constant(k), iterable, _name(BODY), cells, self._extra(node)], node)
        return [body, call]

    def _extra(self, node: ast.While | ast.For) -> ast.expr:
        test = extra_test(node)
        return ast.Constant(None) if test is None else _thunk(test)

    def _statement(self, kind: str, node: ast.If | ast.While | ast.For) -> tuple[int, ast.expr]:
        """The number of the record of a statement, and a function whose closure holds its names."""
        assert self._scope is not None
        live = self._scope.liveness
        inside: list[ast.AST] = [*node.body, *node.orelse]
        inside += [node.target] if isinstance(node, ast.For) else [node.test] if isinstance(node, ast.While) else []
        own, stored = bound(inside), changed(inside)
        by_functions = {n for f in reads(inside) if f in self._scope.assigning for n in self._scope.assigning[f]}
        own |= dict.fromkeys(sorted(by_functions))
        paths = [p for p in stored if p not in own and ("." not in p or p.split(".")[0] not in own)]
        used = reads([*inside, *([] if isinstance(node, ast.For) else [node.test])])
        after = live.after[node] | frozenset(p for p in paths if "." in p)
        head = live.head.get(node, names.NONE) | frozenset(paths) | by_functions
        everything = (*own, *paths)
        self.statements.append(
            Statement(
                kind,
                self.file,
                node.lineno,
                everything,
                frozenset(stored),
                after & frozenset(everything),
                head & frozenset(everything),
                tuple(sorted(used)),
            )
        )
        shown = sorted(
            {p.split(".")[0] for p in everything} | {n for n in used if not n.startswith("__") and n != STAGER}
        )
        cells = ast.Lambda(_arguments([]), ast.Tuple([_name(n) for n in shown], ast.Load()))
        return len(self.statements) - 1, cells

    def _inner(
        self, name: str, parameters: list[str], body: Sequence[ast.stmt], at: ast.stmt, also: Iterable[str] = ()
    ) -> ast.stmt:
        """A block as a function that shares the names of the function around."""
        assert self._scope is not None
        mine = {**bound(body), **dict.fromkeys(also)}
        shared: Block = []
        if outer := sorted(set(mine) & self._scope.globals):
            shared.append(ast.Global(outer))
        if local := sorted(set(mine) - self._scope.globals):
            shared.append(ast.Nonlocal(local))
        made = ast.FunctionDef(name, _arguments(parameters), [*shared, *self._block(body)], [], None)
        if "type_params" in ast.FunctionDef._fields:
            setattr(made, "type_params", [])  # noqa: B010  (Python 3.12)
        return _placed(made, at)

    def visit_Assert(self, node: ast.Assert) -> Any:
        if not __debug__:
            return node
        message = ast.Constant(None) if node.msg is None else _thunk(copy.deepcopy(node.msg))
        self.generic_visit(node)
        node.test = _placed(_stager("holds", [node.test, message]), node)
        return node

    def _call(self, method: str, arguments: list[ast.expr], at: ast.stmt) -> ast.stmt:
        return _placed(ast.Expr(_stager(method, arguments)), at)

    # -- expressions --------------------------------------------------------------------------------------------------
    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        lazy = node.values[1:]
        plain = all(map(_is_total, lazy))
        self.generic_visit(node)
        if _binds(lazy):
            return node
        method = "and_" if isinstance(node.op, ast.And) else "or_"
        return _placed(_stager(method, [ast.Constant(plain), node.values[0], *map(_thunk, node.values[1:])]), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return _placed(_stager("not_", [node.operand]), node) if isinstance(node.op, ast.Not) else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if _binds([node.body, node.orelse]):
            return node
        return _placed(_stager("if_exp", [node.test, _thunk(node.body), _thunk(node.orelse)]), node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        plain = all(map(_is_total, node.comparators[1:]))
        self.generic_visit(node)
        if len(node.ops) == 1 or _binds(node.comparators[1:]):
            return node
        signs = ast.Tuple([ast.Constant(type(op).__name__) for op in node.ops], ast.Load())
        rest = [_thunk(c) for c in node.comparators[1:]]
        return _placed(_stager("compare", [ast.Constant(plain), signs, node.left, node.comparators[0], *rest]), node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        labels = [ast.Constant(ast.unparse(a)) for a in node.args] if _is_named(node.func, "range") else []
        self.generic_visit(node)
        if _is_stager(node.func):
            return node
        if labels:
            node.func = _placed(_stager("range_", [node.func, *labels]), node.func)
            return node
        if not (isinstance(node.func, ast.Name) and node.func.id in ("super", "isinstance")):
            node.func = _placed(_stager("fn", [node.func]), node.func)
        return node


class _ExplicitSuper(ast.NodeTransformer):
    """`super()` looks at its caller's frame, which a block turned into a function no longer is."""

    def __init__(self, first: str):
        self._first = first

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            node.args = [_placed(_name(n), node) for n in ("__class__", self._first)]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    visit_ClassDef = visit_FunctionDef  # type: ignore[assignment]


def _assigning(own: Iterable[ast.AST]) -> dict[str, set[str]]:
    """Functions defined in a scope that bind names of other scopes, and which."""
    found = {}
    for node in own:
        if isinstance(node, ast.FunctionDef):
            outer = {n for s in names.own_nodes(node.body) if isinstance(s, ast.Nonlocal) for n in s.names}
            if outer:
                found[node.name] = outer
    return found


# -- questions about nodes --------------------------------------------------------------------------------------------


def has_control_flow(node: ast.AST) -> bool:
    """Whether there is anything in it that rewriting would change, calls left aside."""
    kinds = (ast.If, ast.While, ast.For, ast.Assert, ast.BoolOp, ast.IfExp, ast.Not)
    return any(isinstance(n, kinds) or (isinstance(n, ast.Compare) and len(n.ops) > 1) for n in ast.walk(node))


def _is_static(test: ast.expr) -> bool:
    """Conditions that are never traced: they leave the statement as it is."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _is_static(test.operand)
    if isinstance(test, ast.Compare):
        return all(isinstance(op, (ast.Is, ast.IsNot)) for op in test.ops)
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name):
        return test.func.id in ("isinstance", "hasattr", "callable", "issubclass")
    return isinstance(test, ast.Constant)


def _is_total(node: ast.expr) -> bool:
    """Whether evaluating it in vain does no harm: no index out of range, no call."""
    allowed = (
        ast.Name, ast.Constant, ast.Attribute, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp,
        ast.unaryop, ast.BinOp, ast.operator, ast.expr_context,
    )  # fmt: skip
    return all(isinstance(n, allowed) for n in ast.walk(node))


def _binds(nodes: Iterable[ast.AST]) -> bool:
    return any(isinstance(n, (ast.NamedExpr, ast.Yield, ast.YieldFrom, ast.Await)) for x in nodes for n in ast.walk(x))


def _untouched(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(n, ast.Name) and (n.id in UNTOUCHED or n.id == STAGER) for n in names.own_nodes(body))


def _private(node: ast.FunctionDef) -> bool:
    return node.name.startswith(STAGER)


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_stager(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == STAGER


# -- making nodes -----------------------------------------------------------------------------------------------------


def _without_annotations(body: Sequence[ast.stmt]) -> Block:
    """`x: int = 3` as `x = 3`, since shared names cannot be annotated."""
    return [_WithoutAnnotations().visit(s) for s in body]


class _WithoutAnnotations(ast.NodeTransformer):
    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name):
            return node
        if node.value is None:  # makes the name local and nothing else
            nothing = ast.Assign([node.target], ast.Constant(None))
            return _placed(ast.If(ast.Constant(False), [nothing], []), node)
        return _placed(ast.Assign([node.target], node.value), node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _stager(method: str, arguments: Sequence[ast.expr]) -> ast.Call:
    return ast.Call(ast.Attribute(_name(STAGER), method, ast.Load()), list(arguments), [])


def _arguments(parameters: Sequence[str]) -> ast.arguments:
    return ast.arguments([], [ast.arg(p) for p in parameters], None, [], [], None, [])


def _thunk(value: ast.expr) -> ast.Lambda:
    return _placed(ast.Lambda(_arguments([]), value), value)


def _placed(node: Any, at: ast.AST) -> Any:
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


__all__ = ["RESULT", "STAGER", "Rewriting", "Statement", "has_control_flow"]
