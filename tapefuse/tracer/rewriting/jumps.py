"""`break`, `continue` and `return` inside of statements, lowered to flags: afterwards blocks run from top to bottom.

    for x in xs:                        stopped = False
        if x > 3:                       for x in xs:                      asks `not stopped` before each iteration
            break             ->            if x > 3:
        y = y + x                               stopped = True
                                            else:
                                                y = y + x

What follows an `if` of which one branch always jumps becomes part of the other branch; elsewhere it is guarded by the
flags. Functions that return at their top level only are left as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from tapefuse._records import dataclass
from tapefuse.tracer.rewriting.names import SCOPES, own_nodes
from tapefuse.tracer.source import STAGER

RESULT, RETURNED = f"{STAGER}_result", f"{STAGER}_returned"
BREAK, CONTINUE = f"{STAGER}_break", f"{STAGER}_continue"
PLAIN, ASKED = 1, 2  # how `and` and `or` are meant, see `logic.logical`
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
Block = list[ast.stmt]


def is_flag(name: str) -> bool:
    return name.startswith(STAGER)


def supported(body: Sequence[ast.stmt]) -> bool:
    """Whether the function is none that has its own way to run: generators, coroutines, jumps out of `finally`."""
    for node in own_nodes(body):
        if isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFor, ast.AsyncWith, ast.TryStar)):
            return False
        if isinstance(node, ast.Try) and any(
            isinstance(n, (ast.Return, ast.Break, ast.Continue)) for n in own_nodes(node.finalbody)
        ):
            return False
    return True


def without_jumps(body: Block) -> Block:
    """The body of a function without jumps but returns at its top level."""
    lowering = _Lowering()
    if not any(isinstance(n, ast.Return) for s in body if isinstance(s, COMPOUND) for n in own_nodes(s)):
        return lowering.block(body, None).body
    lowering.returns = True
    lowered = lowering.block(body, None)
    last = body[-1]
    if not lowered.ends:
        guarded = lowering.block([*body, _at(ast.Return(None), last)], None)
        lowered = guarded
    start = [_assign(RETURNED, ast.Constant(False), body[0])]
    return [*start, *lowered.body, _at(ast.Return(ast.Name(RESULT, ast.Load())), last)]


@dataclass(frozen=True, slots=True)
class _Lowered:
    body: Block
    flags: frozenset[str] = frozenset()  # those that may have been set
    ends: bool = False  # whether what follows is never reached


@dataclass(frozen=True, slots=True)
class _Loop:
    stop: str
    skip: str


class _Lowering:
    def __init__(self) -> None:
        self.returns = False  # whether returns are lowered
        self._loops = 0

    def block(self, body: Sequence[ast.stmt], loop: _Loop | None) -> _Lowered:
        out: Block = []
        flags: frozenset[str] = frozenset()
        for k, statement in enumerate(body):
            rest = list(body[k + 1 :])
            lowered = self._if_with_rest(statement, rest, loop) if isinstance(statement, ast.If) else None
            if lowered is not None:
                return _Lowered(out + lowered.body, flags | lowered.flags, lowered.ends)
            lowered = self._statement(statement, loop)
            out += lowered.body
            flags |= lowered.flags
            if lowered.ends:
                return _Lowered(out, flags, True)
            if lowered.flags and rest:
                following = self.block(rest, loop)
                out.append(_guarded(lowered.flags, following.body, rest[0]))
                return _Lowered(out, flags | following.flags, following.ends)
        return _Lowered(out, flags)

    def _if_with_rest(self, node: ast.If, rest: Block, loop: _Loop | None) -> _Lowered | None:
        """An `if` whose one branch always jumps, with what follows it in the other branch."""
        ends, otherwise = _ends(node.body), _ends(node.orelse)
        if ends == otherwise:
            return None
        body = self.block(node.body if ends else [*node.body, *rest], loop)
        orelse = self.block([*node.orelse, *rest] if ends else node.orelse, loop)
        new = ast.copy_location(ast.If(node.test, _filled(body.body, node), orelse.body), node)
        return _Lowered([new], body.flags | orelse.flags, body.ends and orelse.ends)

    def _statement(self, node: ast.stmt, loop: _Loop | None) -> _Lowered:
        if isinstance(node, ast.Return) and self.returns:
            value = node.value or ast.Constant(None)
            result = [_assign(RESULT, value, node), _assign(RETURNED, ast.Constant(True), node)]
            return _Lowered(result, frozenset((RETURNED,)), True)
        if isinstance(node, (ast.Return, ast.Raise)):
            return _Lowered([node], ends=True)
        if isinstance(node, (ast.Break, ast.Continue)):
            assert loop is not None
            flag = loop.stop if isinstance(node, ast.Break) else loop.skip
            return _Lowered([_assign(flag, ast.Constant(True), node)], frozenset((flag,)), True)
        if isinstance(node, (ast.While, ast.For)):
            return self._loop(node, loop)
        if isinstance(node, COMPOUND):
            return self._compound(node, loop)
        return _Lowered([node])

    def _compound(self, node: ast.stmt, loop: _Loop | None) -> _Lowered:
        """If, with, try and match: each block for itself."""
        flags: frozenset[str] = frozenset()
        ends = []

        def lower(body: Block) -> Block:
            nonlocal flags
            lowered = self.block(body, loop)
            flags |= lowered.flags
            ends.append(lowered.ends)
            return _filled(lowered.body, node) if body else []

        new = _copied(node)
        if isinstance(new, ast.If):
            new.body, new.orelse = lower(new.body), lower(new.orelse)
            return _Lowered([new], flags, all(ends))
        if isinstance(new, ast.Match):
            new.cases = [ast.match_case(c.pattern, c.guard, lower(c.body)) for c in new.cases]
            return _Lowered([new], flags)
        assert isinstance(new, (ast.With, ast.Try))
        new.body = lower(new.body)
        if isinstance(new, ast.Try):
            inner = flags
            new.orelse = lower(new.orelse)
            if inner and new.orelse:  # a jump leaves the body without its `else`
                new.orelse = [_guarded(inner, new.orelse, new.orelse[0])]
            new.handlers = [
                ast.copy_location(ast.ExceptHandler(h.type, h.name, lower(h.body)), h) for h in new.handlers
            ]
            new.finalbody = lower(new.finalbody)
        return _Lowered([new], flags)  # a context manager may swallow what comes before the jump

    def _loop(self, node: ast.While | ast.For, outer: _Loop | None) -> _Lowered:
        if isinstance(node, ast.While) and any(isinstance(n, ast.NamedExpr) for n in own_nodes(node.test)):
            node = _asking_inside(node)
        self._loops += 1
        loop = _Loop(f"{BREAK}_{self._loops}", f"{CONTINUE}_{self._loops}")
        body = self.block(node.body, loop)
        stops = body.flags - {loop.skip}
        new = _copied(node)
        new.body, new.orelse = _filled(body.body, node), []
        if loop.skip in body.flags:
            new.body.insert(0, _assign(loop.skip, ast.Constant(False), node))
        if stops:
            new.extra_test = none_of(sorted(stops), node)
        before = [_assign(loop.stop, ast.Constant(False), node)] if loop.stop in stops else []
        endless = isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        left = stops - {loop.stop}
        lowered = _Lowered([*before, new], left, endless and loop.stop not in stops)
        if not node.orelse:
            return lowered
        otherwise = self.block(node.orelse, outer)
        guarded = [_guarded(stops, otherwise.body, node.orelse[0])] if stops else otherwise.body
        ends = otherwise.ends and loop.stop not in stops
        return _Lowered([*lowered.body, *guarded], left | otherwise.flags, ends)


def _asking_inside(node: ast.While) -> ast.While:
    """`while (y := f(x)) < 3: ...` as `while True: if (y := f(x)) < 3: ... else: break`: iterations read `y`."""
    otherwise = [*node.orelse, _at(ast.Break(), node)]
    asked = ast.copy_location(ast.If(node.test, node.body, otherwise), node)
    return ast.copy_location(ast.While(_at(ast.Constant(True), node.test), [asked], []), node)


def _ends(body: Sequence[ast.stmt]) -> bool:
    """Whether a block always jumps or raises."""
    return any(
        isinstance(s, (ast.Return, ast.Raise, ast.Break, ast.Continue))
        or (isinstance(s, ast.If) and _ends(s.body) and _ends(s.orelse))
        for s in body
    )


# -- making nodes -----------------------------------------------------------------------------------------------------


def none_of(flags: Sequence[str], at: ast.AST) -> ast.expr:
    """`_tapefuse.none_of(flag, ...)`"""
    method = ast.Attribute(ast.Name(STAGER, ast.Load()), "none_of", ast.Load())
    return _at(ast.Call(method, [ast.Name(flag, ast.Load()) for flag in flags], []), at)


def _guarded(flags: frozenset[str], body: Block, at: ast.AST) -> ast.stmt:
    return _at(ast.If(none_of(sorted(flags), at), _filled(body, at), []), at)


def _assign(name: str, value: ast.expr, at: ast.AST) -> ast.stmt:
    return _at(ast.Assign([ast.Name(name, ast.Store())], value), at)


def _filled(body: Block, at: ast.AST) -> Block:
    return body or [_at(ast.Pass(), at)]


def _copied(node):
    """A copy whose fields can be replaced."""
    fields = {name: getattr(node, name) for name in node._fields if hasattr(node, name)}
    return ast.copy_location(type(node)(**fields), node)


def _at(node, at: ast.AST):
    """The node, and what was made with it, at the place of another one."""
    for part in _made(node):
        ast.copy_location(part, at)
    return node


def _made(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not hasattr(child, "lineno") and not isinstance(child, SCOPES):
            yield from _made(child)
