"""Regions without what nobody needs: results, carries and operands; and what need not be a region at all.

    %0 = for %x, %i body=(c, i -> c, i + 1) ...     the carry %x never changes: it is no carry, and its result is %x

- dead: results that nobody reads, carries that only feed themselves, operands that no graph inside reads
- invariant: carries that no iteration changes are constants of the loop
- same: operands that are given twice, carries that are always equal
- literal: scalar constants stand inside, where the other passes see them
- hoist: what every iteration computes alike is computed before the loop
- once: no iteration, one iteration, one branch, a size that is known: the nodes themselves
- select: branches of a few cheap elementwise operations are both done
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, reachable
from tapefuse.ir.op import const, constant
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes import residuals
from tapefuse.ir.passes.bodies import deep, depending, rebuilt, results_read, substituted, with_results
from tapefuse.ir.passes.checks import never_negative
from tapefuse.ir.passes.loops import carry_classes
from tapefuse.ir.types import Poly

MAX_ROUNDS = 8  # of a pass over a graph, each of which may show something to the next
MAX_SELECTED = 12  # nodes in all branches of a switch that becomes a select
_MOVES = (ops.reshape, ops.transpose, ops.broadcast, ops.flip, ops.slice_, ops.cast, ops.result)
_CHEAP = frozenset(
    (
        *(ops.add, ops.sub, ops.mul, ops.neg, ops.abs, ops.maximum, ops.minimum, ops.relu, ops.sign, ops.select),
        *(ops.eq, ops.ne, ops.lt, ops.le, ops.gt, ops.ge, ops.and_, ops.or_, ops.not_, ops.xor_, ops.cast),
    )
)
Results = dict[int, Value]  # of a region: number -> what it is now


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with all this done, and how often."""
    fired: Counter[str] = Counter()
    for _ in range(MAX_ROUNDS):
        graph, now = _once(graph)
        fired += now
        if not now:
            break
    return graph, fired


@deep
def _once(graph: Graph) -> tuple[Graph, Counter[str]]:
    used = results_read(graph)
    if not used:
        return graph, Counter()
    fired: Counter[str] = Counter()
    new = with_results(graph, lambda v, args: _Region(v, args, used[v], fired).results() if v in used else None)
    return (new, fired) if fired else (graph, fired)


class _Region:
    """One region on new operands, of which some results are read."""

    def __init__(self, token: Value, args: tuple[Value, ...], used: set[int], fired: Counter[str]):
        assert token.op is not None
        self.op, self.args, self.used, self.fired = token.op, args, used, fired
        self.attrs: dict[str, Any] = token.attributes

    def results(self) -> Results:
        if self.op is ops.switch:
            return self.switch()
        if self.op is ops.sized:
            return self.sized()
        if self.op is ops.recording:
            return self.emitted()
        return self.loop()

    def emitted(self, places: Sequence[int] | None = None) -> Results:
        """The results read; `places`: the numbers that those left had."""
        new = self.op.emit_results(*self.args, **self.attrs)
        numbers = range(len(new)) if places is None else places
        return {k: y for k, y in zip(numbers, new, strict=True) if k in self.used}

    # -- loops ---------------------------------------------------------------------------------------------------------
    def loop(self) -> Results:
        n = self.attrs["carried"]
        if (done := self.few_iterations()) is not None:
            self.fired["once"] += 1
            return done
        self.hoist()
        place = self.merged(n)  # old number of a carry -> new one, or the operand that it always is
        count = {n: n} if self.op is ops.while_ else {}
        read = {place[k] for k in self.used if k < n and isinstance(place[k], int)}
        kept = self.live(read)
        self.keep(kept)
        self.share()
        new = self.op.emit_results(*self.args, **self.attrs)
        at = {k: new[j] for j, k in enumerate(kept)}
        results = {k: x if isinstance(x := place[k], Value) else at[x] for k in self.used if k < n}
        return results | {k: new[-1] for k in count if k in self.used}

    def few_iterations(self) -> Results | None:
        """What a loop of no or one iteration gives."""
        n, carry = self.attrs["carried"], self.args[: self.attrs["carried"]]
        if self.op is ops.while_:
            (test,) = self.attrs["cond"].outs
            if test.op is not const or test.attributes["value"].array:
                return None
            return {k: y for k, y in enumerate((*carry, constant(0, INT64))) if k in self.used}
        trips = self.attrs["trips"]
        if isinstance(trips, Poly) or trips > 1 or trips == 1 and self.attrs.get("parallel"):
            return None
        outs = tuple(carry)
        if trips == 1:
            outs = _inlined(substituted(self.attrs["body"], {self.attrs["index"]: 0}), self.args)
        return {k: outs[k] for k in range(n) if k in self.used}

    def hoist(self) -> None:
        """Invariant work becomes operands."""
        if self.attrs.get("parallel"):
            return  # an iteration has work of its own only, or there is one
        body, n = self.attrs["body"], self.attrs["carried"]
        index = self.attrs.get("index")
        tokens = [v for v in body.nodes if v.op is not None and v.op.is_region]
        varying = depending(body, (*body.params[:n], *tokens), frozenset([index]) if index else frozenset())
        roots = [v for v in _frontier(body, varying) if _is_worth_hoisting(v)]
        if not roots:
            return
        env = dict(zip(body.params, self.args, strict=True))
        before = rebuilt(roots, dict(env))
        new = {v: Value(v.type, loc=v.loc) for v in roots}
        self.attrs["body"] = Graph((*body.params, *new.values()), rebuilt(body.outs, dict(new)), body.name)
        if "cond" in self.attrs:
            cond = self.attrs["cond"]
            more = (Value(v.type) for v in roots)
            self.attrs["cond"] = Graph((*cond.params, *more), cond.outs, cond.name)
        self.args = (*self.args, *before)
        self.fired["hoist"] += len(roots)

    def merged(self, n: int) -> dict[int, int | Value]:
        """Carries that are equal as one, those that never change as operands: where each is now."""
        body = self.attrs["body"]
        classes = carry_classes(self.args, self.attrs)
        still = {classes[k] for k in range(n) if body.outs[k] is body.params[k]}
        fixed = {k for k in range(n) if classes[k] in still}
        first = {c: k for k, c in reversed([*classes.items()])}
        place: dict[int, int | Value] = {k: first[classes[k]] for k in range(n)}
        place |= {k: self.args[k] for k in fixed}
        again = {k for k in range(n) if k not in fixed and place[k] != k}
        self.fired += Counter({k: x for k, x in (("invariant", len(fixed)), ("same", len(again))) if x})
        if not fixed and not again:
            return place
        for name in ("body", "cond") if "cond" in self.attrs else ("body",):
            graph = self.attrs[name]
            env = {graph.params[k]: graph.params[place[k]] for k in again}
            self.attrs[name] = Graph(graph.params, rebuilt(graph.outs, env), graph.name)
        moved = [k for k in range(n) if k not in fixed and k not in again]
        self.order(moved, sorted(fixed))
        return {k: x if isinstance(x, Value) else moved.index(x) for k, x in place.items()}

    def live(self, read: set[Any]) -> list[int]:
        """The carries that results in use, or the condition, depend on."""
        body, n = self.attrs["body"], self.attrs["carried"]
        number = {p: k for k, p in enumerate(body.params[:n])}
        found: set[int] = set()
        waiting = set(read)
        if "cond" in self.attrs:
            cond = self.attrs["cond"]
            reads = reachable(cond.outs)
            waiting |= {k for k, p in enumerate(cond.params[:n]) if p in reads}
        while waiting:
            k = waiting.pop()
            found.add(k)
            waiting |= {number[v] for v in reachable([body.outs[k]]) if v in number} - found
        return sorted(found)

    def keep(self, carries: Sequence[int]) -> None:
        """Only some of the carries."""
        n = self.attrs["carried"]
        if len(carries) == n:
            return
        self.fired["dead"] += n - len(carries)
        self.order(carries, ())

    def order(self, carries: Sequence[int], consts: Sequence[int]) -> None:
        """Carries in another order, some of them as constants."""
        order = [*carries, *consts, *range(self.attrs["carried"], len(self.args))]
        body = self.attrs["body"]
        outs = tuple(body.outs[k] for k in carries)
        self.attrs["body"] = Graph(tuple(body.params[k] for k in order), outs, body.name)
        if "cond" in self.attrs:
            cond = self.attrs["cond"]
            self.attrs["cond"] = Graph(tuple(cond.params[k] for k in order), cond.outs, cond.name)
        self.args = tuple(self.args[k] for k in order)
        self.attrs["carried"] = len(carries)

    # -- operands ------------------------------------------------------------------------------------------------------
    def share(self) -> None:
        """Operands that are no carries: each once, scalar constants inside, none that is not read."""
        start = 1 if self.op in (ops.switch, ops.sized) else 0
        n = self.attrs.get("carried", 0)
        graphs = self.graphs()
        read = [reachable(g.outs) for g in graphs]
        kept: dict[Value, int] = {}  # operand -> its place among the parameters
        envs: list[dict[Value, Value]] = [{} for _ in graphs]
        for k in range(n, len(graphs[0].params)):
            x = self.args[start + k]
            if not any(g.params[k] in r for g, r in zip(graphs, read, strict=True)):
                self.fired["dead"] += 1
            elif x in kept:
                self.fired["same"] += 1
                for g, env in zip(graphs, envs, strict=True):
                    env[g.params[k]] = g.params[kept[x]]
            elif _is_literal(x):
                self.fired["literal"] += 1
                for g, env in zip(graphs, envs, strict=True):
                    env[g.params[k]] = x
            else:
                kept[x] = k
        order = [*range(n), *kept.values()]
        if len(order) == len(graphs[0].params):
            return
        new = [
            Graph(tuple(g.params[k] for k in order), rebuilt(g.outs, env) if env else g.outs, g.name)
            for g, env in zip(graphs, envs, strict=True)
        ]
        self.set_graphs(new)
        self.args = (*self.args[:start], *(self.args[start + k] for k in order))

    def graphs(self) -> list[Graph]:
        if self.op is ops.switch:
            return [*self.attrs["branches"]]
        return [self.attrs[name] for name in ("body", "cond") if name in self.attrs]

    def set_graphs(self, new: Sequence[Graph]) -> None:
        if self.op is ops.switch:
            self.attrs["branches"] = tuple(new)
        else:
            self.attrs |= dict(zip(("body", "cond"), new, strict=False))

    # -- branches ------------------------------------------------------------------------------------------------------
    def switch(self) -> Results:
        index, *operands = self.args
        branches = self.attrs["branches"]
        if len(branches) == 1 or index.op is const:
            self.fired["once"] += 1
            k = 0 if len(branches) == 1 else int(index.attributes["value"].array)
            outs = _inlined(branches[min(max(k, 0), len(branches) - 1)], operands)
            return {k: outs[k] for k in self.used}
        places = self.fewer_results()
        branches = self.attrs["branches"]
        if _are_cheap(branches):
            self.fired["select"] += 1
            chosen = _selected(index, [_inlined(b, operands) for b in branches])
            return dict(zip(places, chosen, strict=True))
        self.share()
        return self.emitted(places)

    def sized(self) -> Results:
        n, *operands = self.args
        body, symbol = self.attrs["body"], self.attrs["symbol"]
        if n.op is const:
            self.fired["once"] += 1
            outs = _inlined(substituted(body, {symbol: max(int(n.attributes["value"].array), 0)}), operands)
            return {k: outs[k] for k in self.used}
        if n.op is ops.dim and never_negative(n.attributes["value"]):
            self.fired["once"] += 1
            outs = _inlined(substituted(body, {symbol: n.attributes["value"]}), operands)
            return {k: outs[k] for k in self.used}
        places = self.fewer_results()
        self.share()
        return self.emitted(places)

    def fewer_results(self) -> list[int]:
        """Only results that are read: their numbers."""
        graphs = self.graphs()
        places = [k for k in range(len(graphs[0].outs)) if k in self.used]
        if len(places) < len(graphs[0].outs):
            self.fired["dead"] += len(graphs[0].outs) - len(places)
            self.set_graphs([Graph(g.params, tuple(g.outs[k] for k in places), g.name) for g in graphs])
        return places


def _inlined(graph: Graph, args: Sequence[Value]) -> tuple[Value, ...]:
    return rebuilt(graph.outs, dict(zip(graph.params, args, strict=True)))


def _is_literal(v: Value) -> bool:
    """A scalar, or a scalar repeated."""
    if v.op is ops.broadcast:
        (v,) = v.args
    return v.op is const and v.shape == ()


def _frontier(body: Graph, varying: set[Value]) -> list[Value]:
    """Invariant nodes that others read, or what those move about in place."""
    found: dict[Value, None] = {}
    stack = [a for v in body.nodes if v in varying for a in v.args] + [*body.outs]
    seen: set[Value] = set()
    while stack:
        v = stack.pop()
        if v in varying or v in seen or v.op is None:
            continue
        seen.add(v)
        if v.op in _MOVES:
            stack += v.args
        else:
            found[v] = None
    return [*found]


def _is_worth_hoisting(v: Value) -> bool:
    """Not constants, and nothing that takes more memory than it is made of."""
    if v.op is None or not v.args or not v.op.interned:
        return False
    return not v.op.elementwise or residuals.bytes_of(v) <= max(map(residuals.bytes_of, v.args))


def _are_cheap(branches: Sequence[Graph]) -> bool:
    """Whether doing all branches costs less than choosing one."""
    nodes = [v for b in branches for v in b.nodes if v.op is not const]
    if len(nodes) > MAX_SELECTED or len(branches) > 4:
        return False

    def is_cheap(v: Value) -> bool:
        assert v.op is not None
        return v.op in _CHEAP or v.op is ops.dim or v.op is ops.broadcast or (v.op.elementwise and v.shape == ())

    return all(map(is_cheap, nodes))


def _selected(index: Value, outs: Sequence[Sequence[Value]]) -> list[Value]:
    """The results of the branch with the number `index`, out of those of all."""
    found = [*outs[-1]]
    for k in range(len(outs) - 2, -1, -1):
        hit = ops.le(index, constant(k, INT64))
        found = [y if y is z else ops.select(hit, y, z) for y, z in zip(outs[k], found, strict=True)]
    return found
