"""A loop of unknown length and its derivative, which runs it again to keep what it reads: the loop runs once.

    %0 = while %x ...                                     %0 = recording %x cond=... body=(c -> f(c), row)
    %n = result %0                                 ->          then=(stack, c -> reverse loop on the stack)
    %1 = sized %n (c, stack = for n: f(c), row; reverse loop on the stack)

The first loop keeps what the second one would, in memory that grows, and what follows is done by the same region, in
which the number of iterations is a dimension. Of the nodes between both, those that the second one needs move inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes import loop_masks
from tapefuse.ir.passes.adjoint import zeros
from tapefuse.ir.passes.bodies import deep, depending, rebuilt, symbols_of
from tapefuse.ir.passes.loops import Joined, same_carries
from tapefuse.ir.passes.residuals import is_repeatable
from tapefuse.ir.passes.stack_axes import rows_first
from tapefuse.ir.passes.updates import is_zero
from tapefuse.ir.types import Poly, Type

MAX_BETWEEN = 256  # nodes that move inside


class _Stack(NamedTuple):
    """What a loop inside of sized code keeps."""

    carry: int  # of the loop
    row: Value  # of its body: what an iteration writes
    start: Value | None  # of the graph around: the row that it begins with


@deep
def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph with such loops made one, and how many there are."""
    fired: Counter[str] = Counter()
    while (found := _next(graph)) is not None:
        graph = found
        fired["recording"] += 1
    return graph, fired


def _next(graph: Graph) -> Graph | None:
    for first, second in _pairs(graph):
        pair = _Pair(graph, first, second)
        for loop in pair.loops():
            if (found := pair.merged(loop)) is not None:
                return found
    return None


def _pairs(graph: Graph) -> Iterator[tuple[Value, Value]]:
    """Each `while` with the `sized` regions for its number of iterations."""
    for v in graph.nodes:
        if v.op is ops.sized and (token := loop_masks.loop_of(v.args[0])) is not None:
            yield token, v


class _Work(NamedTuple):
    """A loop without its stacks: parameters, operands (None for one that is not known before the `while`), what an
    iteration gives (carries, then rows of the stacks), and the number of carries."""

    params: list[Value]
    args: list[Value | None]
    outs: tuple[Value, ...]
    carried: int


class _Pair:
    """A `while` and sized code for its number of iterations."""

    def __init__(self, graph: Graph, first: Value, second: Value):
        self.graph, self.first, self.second = graph, first, second
        self.symbol, self.body = second.attributes["symbol"], rows_first(second.attributes["body"])
        later = depending(graph, (first,))
        self.between = later & reachable(second.args)
        tokens = {v.args[0] for v in self.between if v.op is ops.result}
        self.between |= {v for v in graph.nodes if v.op is ops.result and v.args[0] in tokens}
        self.between -= {first}
        inner = self.body.params
        late = [p for p, x in zip(inner, second.args[1:], strict=True) if x in later]
        fixed = [v for v in self.body.nodes if not is_repeatable(v) or (v.op is not None and v.op.is_region)]
        self.varying = depending(self.body, (*late, *fixed), frozenset({self.symbol}))
        self.outside: dict[Value, Value] = dict(zip(inner, second.args[1:], strict=True))

    def loops(self) -> Iterator[Value]:
        """Loops of the sized code that may be the same."""
        if len(self.between) <= MAX_BETWEEN:
            n = Poly.symbol(self.symbol)
            yield from (v for v in self.body.nodes if v.op is ops.for_ and v.attributes["trips"] == n)

    def lifted(self, v: Value) -> Value | None:
        """A value of the sized code in the graph around, if it can be computed there before the `while`."""
        return None if v in self.varying else rebuilt((v,), self.outside)[0]

    # -- the loop of the sized code -----------------------------------------------------------------------------------
    def stack(self, loop: Value, k: int) -> _Stack | None:
        """Carry `k` of a loop as a stack of which each iteration writes a row that nobody reads meanwhile."""
        graph, index = loop.attributes["body"], Poly.symbol(loop.attributes["index"])
        start, p, out = loop.args[k], graph.params[k], graph.outs[k]
        if out.op is not ops.put or out.args[0] is not p or graph.users.get(p, ()) != (out,):
            return None
        for more in (0, 1):
            if _is_row(out, index + more) and start.shape[0] == Poly.symbol(self.symbol) + more:
                first = self.first_row(start) if more else None
                return _Stack(k, out.args[1], first) if bool(more) == (first is not None) else None
        return None

    def first_row(self, start: Value) -> Value | None:
        if start.op is ops.put and _is_row(start, 0):
            return self.lifted(start.args[1])
        return zeros(Type(start.dtype, (1, *start.shape[1:]))) if is_zero(start) else None

    def merged(self, loop: Value) -> Graph | None:
        """The graph with one region in place of the `while`, the loop, and what follows it in the sized code."""
        a, n = loop.attributes, loop.attributes["carried"]
        found = {k: self.stack(loop, k) for k in range(n)}
        stacks = [s for s in found.values() if s is not None]
        plain = [k for k in range(n) if found[k] is None]
        work = self.work(loop, plain, stacks)
        own = {a["index"], self.symbol}
        if not plain or work is None or any(own & symbols_of(v) for v in reachable(work.outs)):
            return None
        after, rows = work.outs[: work.carried], work.outs[work.carried :]
        args = [x for x in work.args if x is not None]
        joined = _joined(self.first, args, Graph(tuple(work.params), after), work.carried)
        if joined is None:
            return None
        classes, body = joined
        carry = [classes[1, plain.index(k)] if k in plain else None for k in range(n)]
        stacks = [s._replace(row=row) for s, row in zip(stacks, rows, strict=True)]
        return _Merged(self, body, classes).graph(loop, stacks, carry)

    def work(self, loop: Value, plain: Sequence[int], stacks: Sequence[_Stack]) -> _Work | None:
        """A loop of the sized code in the graph around, without its stacks."""
        body, n = loop.attributes["body"], loop.attributes["carried"]
        order = [*plain, *range(n, len(loop.args))]
        work = _Work(
            [body.params[k] for k in order],
            [self.lifted(loop.args[k]) for k in order],
            (*(body.outs[k] for k in plain), *(s.row for s in stacks)),
            len(plain),
        )
        work = self.masked(loop, work)
        return None if None in work.args else work

    def masked(self, loop: Value, work: _Work) -> _Work:
        """Where a loop goes on with some examples, it carries with it the state of the `while` that says with which."""
        token, inside = self.first, loop.attributes["body"].params
        mask = loop_masks.mask_of(token)
        if mask is None:
            return work
        counts = [v for v in self.graph.nodes if v.op is ops.result and v.args[0] is token]
        counts = [v for v in counts if v.attributes["index"] == mask.counter]
        own = next((p for p, x in zip(inside, loop.args, strict=True) if self.outside.get(x) in counts), None)
        if own is None:
            return work
        body, state, n = token.attributes["body"], token.attributes["carried"], work.carried
        outs = loop_masks.with_mask(work.outs, loop.attributes["index"], own, body.params[mask.active])
        if own in reachable(outs):
            return work
        left = [k for k in range(n, len(work.params)) if work.params[k] is not own]
        return _Work(
            [*work.params[:n], *body.params[:state], *(work.params[k] for k in left), *body.params[state:]],
            [*work.args[:n], *token.args[:state], *(work.args[k] for k in left), *token.args[state:]],
            (*outs[:n], *body.outs, *outs[n:]),
            n + state,
        )


def _is_row(v: Value, k: Any) -> bool:
    """Whether a `put` writes row `k` of its base."""
    a, shape, row = v.attributes, v.shape, v.args[1].shape
    return a["starts"] == (k, *[0] * (len(shape) - 1)) and set(a["strides"]) == {1} and row == (1, *shape[1:])


def _joined(
    first: Value, args: Sequence[Value], body: Graph, carried: int
) -> tuple[dict[tuple[int, int], int], Joined] | None:
    """A `while`, and a loop of as many iterations on `args`, on one set of parameters; None if they share nothing."""
    graphs = [{k: first.attributes[k] for k in ("cond", "body")}, {"body": body}]
    counts, operands = [first.attributes["carried"], carried], (first.args, args)
    classes = same_carries(operands, graphs, counts)
    if not {c for (k, _), c in classes.items() if k == 0} & {c for (k, _), c in classes.items() if k == 1}:
        return None
    numbers = {c: j for j, c in enumerate(dict.fromkeys(classes.values()))}
    return {place: numbers[c] for place, c in classes.items()}, Joined(operands, graphs, counts, classes)


class _Merged:
    """The region in place of a pair. `classes`: of what both loops carry, the number of the carry that it is."""

    def __init__(self, pair: _Pair, body: Joined, classes: dict[tuple[int, int], int]):
        self.pair, self.joined, self.classes = pair, body, classes
        self.count = len(set(classes.values()))
        self.carry = body.params[: self.count]
        self.consts = dict(zip(body.args[self.count :], body.params[self.count :], strict=True))

    def graph(self, loop: Value, stacks: Sequence[_Stack], carry: Sequence[int | None]) -> Graph:
        """`carry`: for each carry of `loop` its number here, None for stacks."""
        graph, body = self.pair.graph, self.pair.body
        exported, env = self.exported(), self.moved()
        kept = {s.carry: param(loop.args[s.carry].type, f"stack{j}") for j, s in enumerate(stacks)}
        inner = dict(zip(body.params, rebuilt(self.pair.second.args[1:], env), strict=True))
        for v in body.nodes:
            if v.op is ops.result and v.args[0] is loop:
                k = v.attributes["index"]
                inner[v] = kept[k] if (c := carry[k]) is None else self.carry[c]
        ends = rebuilt(body.outs, inner)
        outs = [ends[v.attributes["index"]] if self.is_of_second(v) else rebuilt((v,), env)[0] for v in exported]
        first = [s.start for s in stacks]
        for x in first:
            if x is not None:
                self.consts.setdefault(x, param(x.type))
        test, after = self.joined.outs(0, "cond"), (*self.after(), *self.rows(stacks))
        read = reachable((*test, *after, *outs))
        consts = {x: p for x, p in self.consts.items() if p in read or x in first}
        operands, params = (*self.joined.args[: self.count], *consts), (*self.carry, *consts.values())
        results = ops.recording.emit_results(
            *operands,
            cond=Graph(params, test, "cond"),
            body=Graph(params, after, loop.attributes["body"].name),
            then=Graph((*kept.values(), *params), tuple(outs), body.name),
            carries=self.count,
            first=tuple(-1 if x is None else operands.index(x) for x in first),
            symbol=self.pair.symbol,
        )
        return Graph(graph.params, rebuilt(graph.outs, dict(zip(exported, results, strict=True))), graph.name)

    def after(self) -> list[Value]:
        """The next carry."""
        found = {c: self.joined.outs(k, "body")[j] for (k, j), c in self.classes.items()}
        return [found[c] for c in range(self.count)]

    def rows(self, stacks: Sequence[_Stack]) -> tuple[Value, ...]:
        return rebuilt([s.row for s in stacks], self.joined.envs[1, "body"])

    def is_of_second(self, v: Value) -> bool:
        return v.op is ops.result and v.args[0] is self.pair.second

    def exported(self) -> list[Value]:
        """What others read of all this."""
        pair, outs = self.pair, {*self.pair.graph.outs}
        inside = {*pair.between, pair.first, pair.second}
        found = [v for v in pair.graph.nodes if v in pair.between or self.is_of_second(v)]
        readers = pair.graph.users
        values = [v for v in found if v.op is not None and not v.op.is_region]
        return [v for v in values if v in outs or any(u not in inside for u in readers.get(v, ()))]

    def moved(self) -> dict[Value, Value]:
        """What becomes of the nodes between both, and of what they read: operands, or what the loop ends with."""
        pair, carried = self.pair, self.pair.first.attributes["carried"]
        env: dict[Value, Value] = {}
        for v in pair.between:
            if v.op is ops.result and v.args[0] is pair.first:
                k = v.attributes["index"]
                n = Poly.symbol(pair.symbol)
                env[v] = ops.dim.emit(value=n, dtype=INT64) if k == carried else self.carry[self.classes[0, k]]
        for v in (*pair.between, pair.second):
            for u in v.args:
                if u not in pair.between and u is not pair.first and (u.args or u.op is None):
                    env[u] = self.consts.setdefault(u, param(u.type, u.name))
        return env
