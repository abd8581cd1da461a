"""Which names statements bind and read, and which are read again later: data flow over a function without jumps.

Functions, lambdas and classes inside are scopes of their own: they read what they do not bind themselves.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field

from tapefuse._records import dataclass

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Nodes = ast.AST | Iterable[ast.AST]
Names = frozenset[str]
NONE: Names = frozenset()


def own_nodes(nodes: Nodes) -> Iterator[ast.AST]:
    """The nodes of this scope; of a function inside its name, decorators and defaults only, shown as its own node."""
    stack = [nodes] if isinstance(nodes, ast.AST) else list(nodes)[::-1]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, SCOPES):
            stack.extend(_outside(node))
        else:
            stack.extend(ast.iter_child_nodes(node))


def _outside(node: ast.AST) -> list[ast.AST]:
    """What of a function or class definition is evaluated where it stands."""
    outside: list[ast.AST] = list(getattr(node, "decorator_list", ()))
    if isinstance(node, ast.ClassDef):
        return outside + list(node.bases) + [k.value for k in node.keywords]
    arguments: ast.arguments = node.args  # type: ignore[attr-defined]
    return outside + list(arguments.defaults) + [d for d in arguments.kw_defaults if d is not None]


@dataclass(slots=True)
class Facts:
    """What a node does with names, in the order of the text."""

    bound: dict[str, None] = field(default_factory=dict)
    changed: dict[str, None] = field(default_factory=dict)  # by `x[i] = ...`, and attributes `a.b` that are assigned
    reads: set[str] = field(default_factory=set)  # also by functions and classes defined here
    closures: Counter[str] = field(default_factory=Counter)  # by how many functions and classes defined here

    def add(self, other: Facts) -> None:
        self.bound.update(other.bound)
        self.changed.update(other.changed)
        self.reads |= other.reads
        self.closures.update(other.closures)


def facts(node: ast.AST) -> Facts:
    """Found once for each node: trees do not change while they are looked at, but for what replaces whole nodes."""
    known: Facts | None = getattr(node, "tapefuse_facts", None)
    if known is None:
        known = Facts()
        _gather(node, known)
        node.tapefuse_facts = known  # type: ignore[attr-defined]
    return known


def _gather(node: ast.AST, found: Facts) -> None:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            found.reads.add(node.id)
        else:
            found.bound[node.id] = None
        return
    if isinstance(node, COMPREHENSIONS):
        return _comprehension(node, found)
    if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
        _note_change(node, found)
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        found.reads.add(node.target.id)
    elif isinstance(node, SCOPES):
        used = captured(node)
        found.reads |= used
        found.closures.update(used)
        if not isinstance(node, ast.Lambda):
            found.bound[node.name] = None
        for part in _outside(node):
            found.add(facts(part))
        return
    elif name := _named(node):
        found.bound[name] = None
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        found.bound.update(dict.fromkeys((a.asname or a.name).split(".")[0] for a in node.names))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            found.add(facts(child))
        elif not isinstance(child, _PLAIN):
            _gather(child, found)


_PLAIN = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Constant)


def _named(node: ast.AST) -> str | None:
    """The name that is bound by a node which holds it as text."""
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return node.name
    return node.rest if isinstance(node, ast.MatchMapping) else None


def _comprehension(node: ast.AST, found: Facts) -> None:
    """Its targets are its own, `:=` inside of it binds outside."""
    inner, own = Facts(), Facts()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.comprehension):
            _gather(child.target, own)
            for part in (child.iter, *child.ifs):
                _gather(part, inner)
        else:
            _gather(child, inner)
    found.bound.update(inner.bound)
    found.changed.update(inner.changed)
    found.reads |= inner.reads - set(own.bound)
    found.closures.update({n: c for n, c in inner.closures.items() if n not in own.bound})


def _note_change(node: ast.Subscript | ast.Attribute, found: Facts) -> None:
    inner: ast.expr = node
    while isinstance(inner, ast.Subscript):
        inner = inner.value
    path = dotted(inner)
    if path is not None:
        found.changed[path] = None


def _all(nodes: Nodes) -> Iterator[Facts]:
    return map(facts, [nodes] if isinstance(nodes, ast.AST) else nodes)


def bound(nodes: Nodes) -> dict[str, None]:
    """Names that are bound, in the order of the text."""
    return {name: None for f in _all(nodes) for name in f.bound}


def changed(nodes: Nodes) -> dict[str, None]:
    """Names whose value is changed in place, and attributes that are assigned."""
    return {name: None for f in _all(nodes) for name in f.changed}


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` as text, None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return None if inner is None else f"{inner}.{node.attr}"  # type: ignore[attr-defined]


def reads(nodes: Nodes) -> set[str]:
    """Names that are read, also by functions and classes defined here."""
    return {name for f in _all(nodes) for name in f.reads}


def captured(scope: ast.AST) -> set[str]:
    """What a function or class reads or writes of the scopes around it."""
    inside: list[ast.AST] = list(scope.body) if isinstance(scope.body, list) else [scope.body]  # type: ignore[attr-defined]
    outer = {name for n in own_nodes(inside) if isinstance(n, (ast.Nonlocal, ast.Global)) for name in n.names}
    mine = set(bound(inside)) - outer
    if not isinstance(scope, ast.ClassDef):
        a: ast.arguments = scope.args  # type: ignore[attr-defined]
        mine |= {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None}
    return (reads(inside) | outer) - mine


def closures(nodes: Nodes) -> Counter[str]:
    """How many functions and classes defined here use each name of this scope."""
    found: Counter[str] = Counter()
    for f in _all(nodes):
        found.update(f.closures)
    return found


class Liveness:
    """Which names are read after each `if`, `while` and `for`, and, for loops, by the next iteration.

    `after[node]` and `head[node]`. `always`: names that others can read at any time.
    """

    def __init__(self, body: Sequence[ast.stmt], always: Names):
        self.after: dict[ast.stmt, Names] = {}
        self.head: dict[ast.stmt, Names] = {}
        self._always = always
        self._closures = closures(body)
        self._handlers: Names = NONE  # read by the handlers of the `try` around
        self._block(body, NONE)

    def _block(self, body: Sequence[ast.stmt], live: Names) -> Names:
        for statement in reversed(body):
            live = self._statement(statement, live) | self._handlers
        return live

    def _statement(self, node: ast.stmt, live: Names) -> Names:
        """The names live before the statement, given those live after it."""
        if isinstance(node, ast.If):
            self.after[node] = live | self._elsewhere(node)
            inner = self._block(node.body, live) | self._block(node.orelse, live)
            return inner - _surely_bound(node.test) | reads(node.test)
        if isinstance(node, (ast.While, ast.For)):
            return self._loop(node, live)
        if isinstance(node, ast.With):
            return self._block(node.body, live) - frozenset(bound(node.items)) | reads(node.items)
        if isinstance(node, ast.Try):
            return self._try(node, live)
        if isinstance(node, ast.Match):
            inner = frozenset().union(
                *[self._block(case.body, live) - frozenset(bound(case.pattern)) for case in node.cases]
            )
            return inner | live | reads([node.subject, *node.cases])
        if isinstance(node, ast.Delete):
            return live - frozenset(bound(node)) | reads(node)
        return live - frozenset(bound(node)) | reads(node)

    def _elsewhere(self, node: ast.stmt) -> Names:
        """Read at any time by others: outer scopes, exception handlers, functions defined outside of the statement."""
        outside = self._closures - closures(node)
        return self._always | self._handlers | frozenset(outside)

    def _loop(self, node: ast.While | ast.For, live: Names) -> Names:
        extra = extra_test(node)
        tested = NONE if extra is None else frozenset(reads(extra))
        first = frozenset(reads(node.test)) if isinstance(node, ast.While) else NONE
        target = frozenset(bound(node.target)) if isinstance(node, ast.For) else NONE
        head = NONE
        while True:
            end = live | head | first | tested
            inner = (self._block(node.body, end) - target) | first
            if inner <= head:
                break
            head |= inner
        self.after[node] = live | self._elsewhere(node)
        self.head[node] = head | tested
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value:
            return head  # there is an iteration
        return head | live | (reads(node.iter) if isinstance(node, ast.For) else NONE)

    def _try(self, node: ast.Try, live: Names) -> Names:
        outer = self._handlers
        final = self._block(node.finalbody, live)
        caught = frozenset().union(*[self._block(h.body, final) - {h.name} for h in node.handlers])
        caught |= frozenset(reads([h.type for h in node.handlers if h.type is not None]))
        otherwise = self._block(node.orelse, final)
        self._handlers = outer | caught | final
        inner = self._block(node.body, otherwise)
        self._handlers = outer
        return inner | caught


def _surely_bound(test: ast.expr) -> Names:
    """What a condition binds, whatever its parts turn out to be."""
    parts = list(ast.walk(test))
    if any(isinstance(n, (ast.BoolOp, ast.IfExp)) or (isinstance(n, ast.Compare) and n.ops[1:]) for n in parts):
        return NONE
    return frozenset(bound(test))


def extra_test(node: ast.While | ast.For) -> ast.expr | None:
    """What a loop without jumps asks in addition before each iteration (see `jumps`)."""
    return getattr(node, "extra_test", None)
