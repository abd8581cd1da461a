"""The rewrite engine: patterns on the left, plain Python on the right, meaning as the trailing comment.

    rules = (
        rule("mul_one", p.mul(x, 1), lambda x: x),  # x * 1 = x
        rule("transposes", p.transpose(p.transpose(x, perm=inner), perm=outer),
             lambda x, inner, outer: ops.transpose(x, perm=tuple(inner[k] for k in outer))),
    )
    graph, fired = Rewriter(rules).run(graph)

In a pattern, `variables("x ...")` bind operands or attributes, the same one twice asks for the same value, a Python
number asks for that scalar constant in any dtype (with the sign of zero). Operands of commutative ops match in either
order. The right side takes bound variables by name, and the matched value as `root`; it returns a value of the same
type, or None where the rule does not apply.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tapefuse._errors import VerifyError
from tapefuse._records import dataclass
from tapefuse.ir.graph import Graph, Value, here
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import OPS, Op, const
from tapefuse.ir.ops import region

MAX_FIRINGS = 100  # a node of the input; more means that rules undo each other
COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor", "eq", "ne"})  # to the bit, nan payloads aside


@dataclass(frozen=True, slots=True)
class Var:
    """Binds an operand, if `test` holds for it, or an attribute."""

    name: str
    test: Callable[[Any], bool] | None = None


def variables(names: str, test: Callable[[Any], bool] | None = None) -> list[Var]:
    return [Var(name, test) for name in names.split()]


@dataclass(frozen=True, slots=True)
class Pattern:
    """An application of a named op, or of any op with a property; `args` None matches any operands."""

    op: str | Callable[[Op], bool]
    args: tuple[Var | Pattern | int | float | bool, ...] | None = None
    attrs: tuple[tuple[str, Any], ...] = ()

    def matches_op(self, op: Op) -> bool:
        return op.name == self.op if isinstance(self.op, str) else self.op(op)


class _Patterns:
    """`p.mul(x, 1)` is the pattern of op "mul"; a trailing underscore is dropped: `p.and_(x, y)`."""

    def __getattr__(self, name: str) -> Callable[..., Pattern]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **attrs: Pattern(name.rstrip("_"), args, tuple(attrs.items()))


p = _Patterns()


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    pattern: Pattern
    rhs: Callable[..., Value | None]
    takes: tuple[str, ...]

    def apply(self, v: Value) -> Value | None:
        """What `v` becomes, or None."""
        for found in match(self.pattern, v, {}):
            found["root"] = v
            result = self.rhs(**{name: found[name] for name in self.takes})
            if result is not None and result is not v:
                if result.type != v.type:
                    raise VerifyError(f"rule {self.name} turns {v!r} : {v.type} into {result!r} : {result.type}")
                return result
        return None


def rule(name: str, pattern: Pattern, rhs: Callable[..., Value | None]) -> Rule:
    """One rewrite. TypeError when the right side takes a name that the pattern does not bind."""
    code = rhs.__code__  # inspect.signature takes 30 us
    takes = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    unknown = set(takes) - set(_bound(pattern)) - {"root"}
    if unknown:
        raise TypeError(f"rule {name}: the pattern does not bind {', '.join(sorted(unknown))}")
    return Rule(name, pattern, rhs, takes)


def _bound(part: Any) -> Iterator[str]:
    if isinstance(part, Var):
        yield part.name
    elif isinstance(part, Pattern):
        for inner in (*(part.args or ()), *(x for _, x in part.attrs)):
            yield from _bound(inner)


def is_scalar(v: Value) -> bool:
    """Whether a value is a 0-d constant."""
    return v.op is const and not v.shape


def scalar(v: Value) -> Any:
    """The NumPy scalar of a 0-d constant."""
    return v.attrs[0][1].array[()]


def match(part: Any, v: Any, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All ways in which a pattern matches a value, each as its bindings."""
    if isinstance(part, Var):
        if part.name in found:
            if found[part.name] == v:
                yield found
        elif part.test is None or part.test(v):
            yield {**found, part.name: v}
    elif isinstance(part, Pattern):
        if isinstance(v, Value) and v.op is not None and part.matches_op(v.op):
            yield from _match_attrs(part, v, found)
    elif isinstance(v, Value):
        if is_scalar(v) and _equals(part, scalar(v)):
            yield found
    elif type(part) is type(v) and part == v:
        yield found


def _match_attrs(part: Pattern, v: Value, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    attrs = v.attributes
    for name, want in part.attrs:
        bound = next(match(want, attrs[name], found), None) if name in attrs else None
        if bound is None:
            return
        found = bound
    if part.args is None:
        yield found
        return
    if len(part.args) != len(v.args):
        return
    yield from _match_all(part.args, v.args, found)
    if v.op is not None and v.op.name in COMMUTATIVE:
        yield from _match_all(part.args, v.args[::-1], found)


def _match_all(parts: Sequence[Any], values: Sequence[Value], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not parts:
        yield found
        return
    for head in match(parts[0], values[0], found):
        yield from _match_all(parts[1:], values[1:], head)


def _equals(want: int | float | bool, x: Any) -> bool:
    """A bool asks for a bool, a number for a number; zeros must agree in sign where the constant has one."""
    if isinstance(want, bool) != (x.dtype.kind == "b"):
        return False
    return x == want and (kind_of(x.dtype) != "f" or math.copysign(1, x) == math.copysign(1, want))


class Rewriter:
    """Rules, indexed by the op they start at."""

    def __init__(self, rules: Iterable[Rule]):
        self.rules = tuple(rules)
        names = Counter(r.name for r in self.rules)
        if twice := [n for n, k in names.items() if k > 1]:
            raise TypeError(f"two rules are called {twice[0]}")
        for r in self.rules:
            if isinstance(r.pattern.op, str) and r.pattern.op not in OPS:
                raise TypeError(f"rule {r.name}: there is no op {r.pattern.op!r}")
        self._by_op: dict[Op, tuple[Rule, ...]] = {}

    def rules_at(self, op: Op) -> tuple[Rule, ...]:
        if op not in self._by_op:
            self._by_op[op] = tuple(r for r in self.rules if r.pattern.matches_op(op))
        return self._by_op[op]

    def run(self, graph: Graph) -> tuple[Graph, Counter[str]]:
        """The graph with no rule left to apply, and how often each rule fired. Time is linear in nodes and firings.

        Graphs inside of regions are rewritten too, before the regions themselves.
        """
        run = _Run(self, graph)
        outer = here.loc
        try:
            for v in graph.nodes:
                run.normalise(v)
        finally:
            here.loc = outer
        outs = tuple(run.normal[v] for v in graph.outs)
        return (Graph(graph.params, outs, graph.name) if run.fired else graph), run.fired


class _Run:
    """One rewrite of one graph. `normal` maps a value to what it becomes in the end."""

    def __init__(self, rewriter: Rewriter, graph: Graph):
        self.rewriter = rewriter
        self.fired: Counter[str] = Counter()
        self.normal: dict[Value, Value] = {v: v for v in graph.params}
        self.becomes: dict[Value, Value] = {}  # the next step of values whose end is not known yet
        self.graphs: dict[Graph, Graph] = {}  # inside of regions -> rewritten
        self.limit = MAX_FIRINGS * (1 + len(graph.nodes))

    def normalise(self, root: Value) -> None:
        stack = [root]
        while stack:
            v = stack[-1]
            if v in self.normal or v.op is None:
                self.normal.setdefault(v, v)
                stack.pop()
            elif (after := self.becomes.get(v)) is not None:
                if after in self.normal:
                    self.normal[v] = self.normal[after]
                else:
                    self.push(stack, [after])
            elif waiting := [a for a in v.args if a not in self.normal]:
                self.push(stack, waiting)
            else:
                self.step(v)

    def push(self, stack: list[Value], values: list[Value]) -> None:
        for v in values:
            if v in self.becomes and v not in self.normal:
                raise VerifyError(f"rewriting does not end: {v!r} comes back; rules fired: {dict(self.fired)}")
        stack.extend(values)

    def check_progress(self) -> None:
        if self.fired.total() > self.limit:
            raise VerifyError(f"rewriting does not end; rules fired: {dict(self.fired.most_common(5))}")

    def step(self, v: Value) -> None:
        """One step for a value whose operands are done: rebuilt on them, rewritten by a rule, or final."""
        assert v.op is not None
        here.loc = v.loc
        args = tuple(self.normal[a] for a in v.args)
        if args != v.args:
            self.becomes[v] = v.op.emit(*args, **v.attributes)
            return
        if v.op.is_region and (attrs := self.inside(v)) is not None:
            self.becomes[v] = v.op.emit(*args, **attrs)
            return
        for r in self.rewriter.rules_at(v.op):
            result = r.apply(v)
            if result is not None:
                self.fired[r.name] += 1
                self.check_progress()
                self.becomes[v] = result
                return
        self.normal[v] = v

    def inside(self, v: Value) -> dict[str, Any] | None:
        """The attributes of a region with the graphs among them rewritten; None if they are already."""
        before = [*region.graphs(v)]
        for graph in before:
            if graph not in self.graphs:
                after, fired = self.rewriter.run(graph)
                self.fired += fired
                self.limit += fired.total()
                self.graphs[graph] = self.graphs[after] = after
        if all(self.graphs[graph] is graph for graph in before):
            return None
        return region.with_graphs(v.attributes, self.graphs.__getitem__)
