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
from dataclasses import replace
from typing import Any

from tapefuse._records import dataclass
from tapefuse.tracer.rewriting import names
from tapefuse.tracer.rewriting.jumps import ASKED, PLAIN, STAGER, Block, supported, without_jumps
from tapefuse.tracer.rewriting.names import Liveness, Names, bound, changed, extra_test, reads
from tapefuse.tracer.rewriting.nodes import (
    call_of,
    has_binding,
    is_block,
    is_named,
    is_stager,
    is_static,
    is_total,
    name_of,
    parameters_of,
    placed,
    sees_its_frame,
    thunk,
    without_annotations,
)

BODY, TEST, ITEM = f"{STAGER}_body", f"{STAGER}_test", f"{STAGER}_item"


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """What the text says of one `if`, `while` or `for`. Names may be attributes, `self.x`."""

    kind: str
    file: str
    line: int
    bound: tuple[str, ...]  # names it may bind or change, in the order of the text
    in_place: Names  # those of them that it changes by `x[i] = ...`, perhaps besides binding them; see `Stored`
    after: Names  # those of them that are read later
    head: Names  # of a loop: those that an iteration may read before it binds them
    reads: tuple[str, ...]  # names that it reads

    @property
    def as_guarded(self) -> Statement:
        """One more iteration of a loop, if no jump has left it: an `if`."""
        return replace(self, kind="if", after=self.after | self.head)

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
        self._asked: set[ast.expr] = set()  # `and` and `or` of which the truth alone matters
        self._scope: Scope | None = None
        self._in_class = False

    # -- functions --------------------------------------------------------------------------------------------------
    def function(self, node: ast.FunctionDef) -> None:
        """Rewrite a definition in place."""
        body = without_annotations(node.body)
        if not supported(body) or sees_its_frame(body):
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
        node.body = [*rest[:is_documented], *[placed(s, first) for s in start], *rest[is_documented:]]
        self._scope, self._in_class = outer, outer_class

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if not is_block(node):
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
    def _ask(self, test: ast.expr) -> None:
        if isinstance(test, ast.BoolOp):
            self._asked.add(test)
            for x in test.values:
                self._ask(x)
        elif isinstance(test, ast.UnaryOp):
            self._ask(test.operand)

    def visit_If(self, node: ast.If) -> Any:
        self._ask(node.test)
        if _is_raise(node.orelse) and not _is_raise(node.body):
            node.test, node.body, node.orelse = _negated(node.test), node.orelse, node.body
        if _is_raise(node.body):
            return [self._raise_if(node), *self._block(node.orelse)]
        if _ends_with_raise(node.body):
            return [*self._fails(node), *self._block(node.orelse)]
        if is_static(node.test):
            node.test = self.visit(node.test)
            node.body, node.orelse = self._block(node.body), self._block(node.orelse)
            return node
        k, cells = self._statement("if", node)
        test = self.visit(node.test)
        made: Block = [self._inner(BODY, [], node.body, node)]
        orelse: ast.expr = ast.Constant(None)
        if node.orelse:
            made.append(self._inner(BODY + "_else", [], node.orelse, node))
            orelse = name_of(BODY + "_else")
        return [*made, self._call("if_", [ast.Constant(k), test, name_of(BODY), orelse, cells], node)]

    def _raise_if(self, node: ast.If) -> ast.stmt:
        """`if _tapefuse.raises(test, lambda: error): raise error`"""
        error = node.body[0]
        assert isinstance(error, ast.Raise) and error.exc is not None
        exc = copy.deepcopy(error.exc)
        test = call_of("raises", [self.visit(node.test), thunk(exc)])
        self.generic_visit(error)
        return placed(ast.If(test, [error], []), node)

    def _fails(self, node: ast.If) -> Block:
        """Statements that end with a `raise`: `_tapefuse.fails(0, test, _tapefuse_body, lambda: (x, y))`"""
        k, cells = self._statement("if", node)
        test = self.visit(node.test)
        body = self._inner(BODY, [], node.body, node)
        return [body, self._call("fails", [ast.Constant(k), test, name_of(BODY), cells], node)]

    def visit_While(self, node: ast.While) -> Any:
        k, cells = self._statement("while", node)
        plain = ast.Constant(is_total(node.test) * PLAIN + ASKED)
        self._ask(node.test)
        test = self._inner(TEST, [], [ast.Return(node.test)], node, also=bound(node.test))
        body = self._inner(BODY, [], node.body, node)
        call = self._call(
            "while_", [ast.Constant(k), plain, name_of(TEST), name_of(BODY), cells, self._extra(node)], node
        )
        return [test, body, call]

    def visit_For(self, node: ast.For) -> Any:
        k, cells = self._statement("for", node)
        iterable = self.visit(node.iter)
        if isinstance(iterable, ast.Call) and isinstance(iterable.func, ast.Call):
            method = iterable.func.func
            if isinstance(method, ast.Attribute) and is_stager(method) and method.attr == "fn":
                method.attr = "count"
        take = ast.copy_location(ast.Assign([node.target], name_of(ITEM)), node.target)
        body = self._inner(BODY, [ITEM], [take, *node.body], node)
        call = self._call("for_", [ast.Constant(k), iterable, name_of(BODY), cells, self._extra(node)], node)
        return [body, call]

    def _extra(self, node: ast.While | ast.For) -> ast.expr:
        test = extra_test(node)
        return ast.Constant(None) if test is None else thunk(test)

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
        cells = ast.Lambda(parameters_of([]), ast.Tuple([name_of(n) for n in shown], ast.Load()))
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
        made = ast.FunctionDef(name, parameters_of(parameters), [*shared, *self._block(body)], [], None)
        if "type_params" in ast.FunctionDef._fields:
            setattr(made, "type_params", [])  # noqa: B010  (Python 3.12)
        return placed(made, at)

    def visit_Try(self, node: ast.Try) -> ast.AST:
        self.generic_visit(node)
        if not node.handlers or not any(map(_may_raise, node.body)):
            return node
        everything = name_of("BaseException")
        kinds = ast.Tuple([copy.deepcopy(h.type or everything) for h in node.handlers], ast.Load())
        item = ast.withitem(call_of("handling", [thunk(placed(kinds, node))]))
        return placed(ast.With([item], [node]), node)

    def visit_Assert(self, node: ast.Assert) -> Any:
        if not __debug__:
            return node
        self._ask(node.test)
        message = ast.Constant(None) if node.msg is None else thunk(copy.deepcopy(node.msg))
        self.generic_visit(node)
        node.test = placed(call_of("holds", [node.test, message]), node)
        return node

    def _call(self, method: str, arguments: list[ast.expr], at: ast.stmt) -> ast.stmt:
        return placed(ast.Expr(call_of(method, arguments)), at)

    # -- expressions --------------------------------------------------------------------------------------------------
    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        lazy = node.values[1:]
        how = ast.Constant(all(map(is_total, lazy)) * PLAIN + (node in self._asked) * ASKED)
        self.generic_visit(node)
        if has_binding(lazy):
            return node
        method = "and_" if isinstance(node.op, ast.And) else "or_"
        return placed(call_of(method, [how, node.values[0], *map(thunk, node.values[1:])]), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not):
            self._ask(node.operand)
        self.generic_visit(node)
        return placed(call_of("not_", [node.operand]), node) if isinstance(node.op, ast.Not) else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self._ask(node.test)
        self.generic_visit(node)
        if has_binding([node.body, node.orelse]):
            return node
        return placed(call_of("if_exp", [node.test, thunk(node.body), thunk(node.orelse)]), node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        plain = all(map(is_total, node.comparators[1:])) * PLAIN
        self.generic_visit(node)
        is_plain = len(node.ops) == 1 and not isinstance(node.ops[0], (ast.In, ast.NotIn, ast.Eq, ast.NotEq))
        if is_plain or has_binding(node.comparators[1:]):
            return node
        signs = ast.Tuple([ast.Constant(type(op).__name__) for op in node.ops], ast.Load())
        rest = [thunk(c) for c in node.comparators[1:]]
        return placed(call_of("compare", [ast.Constant(plain), signs, node.left, node.comparators[0], *rest]), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`x[i] = v` as `_tapefuse.target(x, "x")[i] = v`"""
        label = ast.Constant(ast.unparse(node.value)) if isinstance(node.ctx, ast.Store) else None
        self.generic_visit(node)
        if label is not None:
            node.value = placed(call_of("target", [node.value, label]), node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        labels = [ast.Constant(ast.unparse(a)) for a in node.args] if is_named(node.func, "range") else []
        self.generic_visit(node)
        if is_stager(node.func):
            return node
        if labels:
            node.func = placed(call_of("range_", [node.func, *labels]), node.func)
            return node
        if not (isinstance(node.func, ast.Name) and node.func.id in ("super", "isinstance")):
            node.func = placed(call_of("fn", [node.func]), node.func)
        return node


def _may_raise(node: ast.stmt) -> bool:
    return any(isinstance(n, (ast.Raise, ast.Assert, ast.Call)) for n in ast.walk(node))


def _is_raise(body: Sequence[ast.stmt]) -> bool:
    return len(body) == 1 and _ends_with_raise(body)


def _ends_with_raise(body: Sequence[ast.stmt]) -> bool:
    """Whether a block surely raises an exception of its own, after statements of one line."""
    simple = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Pass)
    if not body or not all(isinstance(s, simple) for s in body[:-1]):
        return False
    return isinstance(body[-1], ast.Raise) and body[-1].exc is not None


def _negated(test: ast.expr) -> ast.expr:
    return placed(ast.UnaryOp(ast.Not(), test), test)


class _ExplicitSuper(ast.NodeTransformer):
    """`super()` looks at its caller's frame, which a block turned into a function no longer is."""

    def __init__(self, first: str):
        self._first = first

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            node.args = [placed(name_of(n), node) for n in ("__class__", self._first)]
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
