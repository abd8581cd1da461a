"""Operations with graphs inside: loops, branches, and code for a size that is known at run time only.

A region has several results. Its node is a *token* (type i64[]) that only `result` nodes read, one per result in use:

    %0 = for %x, %w body=fn main(%c: f32[3], %v: f32[3]) {
        %0 = mul %c, %v : f32[3]
        return %0
      } carried=1 index="k" trips=10 : i64[]
    %1 = result %0 dtype=f32 index=0 shape=(3) : f32[3]

Graphs inside are closed: what they read from outside is an operand. Dimension symbols of the graph around keep their
meaning inside; a region may give one more a meaning there. In derivative rules `gs` and `ys` are tuples, one entry per
result, None for zero; `apply` makes the results of a region for IR values and tensors. A cotangent rule takes as
`wanted` which operands matter (all, if it is not given): rules inside do not run for the others.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS, Op, defop
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.types import Poly, Type, symbols

Run = Callable[[Graph, Sequence[Any], Mapping[str, int]], tuple]  # runs a graph with symbols bound: its outputs
TOKEN = Type(INT64, ())
BINDING = ("index", "symbol")  # attributes that name a dimension symbol of the graphs inside
_fresh = itertools.count()


def fresh(prefix: str) -> str:
    """A dimension symbol that no other region uses."""
    return f"{prefix}_{next(_fresh)}"


class Rules(NamedTuple):
    """The derivative and batching rules of a region."""

    vjp: Callable[..., Sequence[Any]]  # gs, ys, *xs, wanted=None, **attrs -> a cotangent or None per operand
    jvp: Callable[..., Sequence[Any]]  # ts, ys, *xs, **attrs -> a tangent or None per result
    batch: Callable[..., Sequence[tuple[Any, bool]]]  # flags, *xs, **attrs -> (result, flag) for each result


RULES: dict[str, Rules] = {}  # by op; from `ir.passes.region_rules`, since they derive and batch the graphs inside


def _rules(name: str) -> Rules:
    """Rules that are looked up when they run."""

    def run(kind: str, *xs: Any, **attrs: Any) -> Any:
        return getattr(RULES[name], kind)(*xs, **attrs)

    return Rules(*(partial(run, kind) for kind in Rules._fields))


def apply(op: Op, xs: Sequence[Any], attrs: dict[str, Any]) -> tuple:
    """The results of a region on IR values or tensors."""
    hook = next((h for x in xs if (h := getattr(x, "__tapefuse_region__", None)) is not None), None)
    return op.emit_results(*xs, **attrs) if hook is None else hook(op, tuple(xs), attrs)


def graphs(v: Value) -> Iterator[Graph]:
    """The graphs inside a node."""
    for _, x in v.attrs:
        if isinstance(x, Graph):
            yield x
        elif isinstance(x, tuple):
            yield from (g for g in x if isinstance(g, Graph))


def bound(v: Value) -> tuple[str, ...]:
    """The dimension symbols that a node gives a meaning in the graphs inside it."""
    if v.op is None or not v.op.is_region:
        return ()
    return tuple(x for k, x in v.attrs if k in BINDING)


def with_graphs(attrs: Mapping[str, Any], change: Callable[[Graph], Graph]) -> dict[str, Any]:
    """Attributes with every graph among them changed."""

    def changed(x: Any) -> Any:
        if isinstance(x, Graph):
            return change(x)
        return tuple(map(changed, x)) if isinstance(x, tuple) else x

    return {k: changed(x) for k, x in attrs.items()}


def _types(values: Sequence[Any]) -> tuple[Type, ...]:
    return tuple(v.type for v in values)


def _check_params(graph: Graph, types: Sequence[Type], what: str) -> None:
    if _types(graph.params) != tuple(types):
        wanted, given = (", ".join(map(str, ts)) for ts in (_types(graph.params), types))
        raise ShapeError(f"{what} takes ({wanted}), the operands are ({given})")


def _check_carry(body: Graph, carry: Sequence[Type]) -> None:
    if _types(body.outs) != tuple(carry):
        before, after = (", ".join(map(str, ts)) for ts in (carry, _types(body.outs)))
        raise ShapeError(f"an iteration turns ({before}) into ({after}); carried types must stay the same")


@defop
class result:
    """Result number `index` of a region."""

    def ref(token, *, index, dtype, shape):
        return token[index]

    def type(token, *, index, dtype, shape):
        return Type(dtype, shape)

    vjp = None  # `ir.passes` treat a region and its results as one
    jvp = None

    def batch(flags, token, *, index, dtype, shape):
        raise TypeError("results of a region are batched with it")

    def sample(rng, dtype):
        return []

    library = "region"


@defop
class for_:
    """`trips` times `carry = body(carry, consts)`, with the symbol `index` counting from 0; the last carry.

    `parallel`: no iteration reads what another one writes, nor writes the same elements, so they may run in any order.
    """

    def ref(run, *xs, body, trips, index, carried, parallel=False):
        carry, consts = tuple(xs[:carried]), tuple(xs[carried:])
        for k in range(trips):
            carry = run(body, (*carry, *consts), {index: k})
        return carry

    def type(*xs, body, trips, index, carried, parallel=False):
        _check_params(body, xs, "the body of a loop")
        _check_carry(body, xs[:carried])
        return TOKEN

    def results(*xs, body, trips, index, carried, parallel=False):
        return tuple(xs[:carried])

    vjp, jvp, batch = _rules("for")

    def sample(rng, dtype):
        return []

    library = "region"


@defop
class while_:
    """While `cond(carry, consts)`, `carry = body(carry, consts)`; the last carry and the number of iterations."""

    def ref(run, *xs, cond, body, carried):
        carry, consts, n = tuple(xs[:carried]), tuple(xs[carried:]), 0
        while run(cond, (*carry, *consts), {})[0]:
            carry = run(body, (*carry, *consts), {})
            n += 1
        return (*carry, np.asarray(n, INT64))

    def type(*xs, cond, body, carried):
        _check_params(cond, xs, "the condition of a loop")
        _check_params(body, xs, "the body of a loop")
        _check_carry(body, xs[:carried])
        if _types(cond.outs) != (Type(np.dtype(bool), ()),):
            raise DTypeError(f"the condition of a loop gives {', '.join(map(str, _types(cond.outs)))}, not bool[]")
        return TOKEN

    def results(*xs, cond, body, carried):
        return (*xs[:carried], TOKEN)

    vjp, jvp, batch = _rules("while")

    def sample(rng, dtype):
        return []

    library = "region"


@defop
class switch:
    """The results of the branch number `index` (the first or last one if it is out of range) on the operands."""

    def ref(run, index, *xs, branches):
        return run(branches[min(max(int(index), 0), len(branches) - 1)], xs, {})

    def type(index, *xs, branches):
        if index != TOKEN:
            raise DTypeError(f"the index of a switch is {index}, not {TOKEN}")
        for k, branch in enumerate(branches):
            _check_params(branch, xs, f"branch {k}")
            if _types(branch.outs) != _types(branches[0].outs):
                first, other = (", ".join(map(str, _types(b.outs))) for b in (branches[0], branch))
                raise ShapeError(f"branch {k} gives ({other}), branch 0 ({first})")
        return TOKEN

    def results(index, *xs, branches):
        return _types(branches[0].outs)

    vjp, jvp, batch = _rules("switch")

    def sample(rng, dtype):
        return []

    library = "region"


@defop
class sized:
    """`body(xs)` with the dimension symbol `symbol` bound to the number `n` (0 if it is negative)."""

    def ref(run, n, *xs, symbol, body):
        return run(body, xs, {symbol: max(int(n), 0)})

    def type(n, *xs, symbol, body):
        if n != TOKEN:
            raise DTypeError(f"the size is {n}, not {TOKEN}")
        _check_params(body, xs, "the body of a sized region")
        escaping = [v for v in (*body.params, *body.outs) if symbol in symbols(v.shape)]
        if escaping:
            raise ShapeError(f"the size {symbol} is known inside only, but {escaping[0]!r} goes in or out")
        return TOKEN

    def results(n, *xs, symbol, body):
        return _types(body.outs)

    vjp, jvp, batch = _rules("sized")

    def sample(rng, dtype):
        return []

    library = "region"


@defop
class recording:
    """While `cond(xs)`, the `carries` first xs are the first results of `body(xs)`, and its other results rows [1, ...]
    of stacks; `then(stacks, xs)` afterwards, where `symbol` is the number of iterations.

    A stack [symbol, ...] has the rows, one [symbol + 1, ...] begins with the operand number `first` (-1 for none).
    """

    def ref(run, *xs, cond, body, then, carries, first, symbol):
        rows = [[xs[k]] if k >= 0 else [] for k in first]
        n = 0
        while run(cond, xs, {})[0]:
            found = run(body, xs, {})
            xs = (*found[:carries], *xs[carries:])
            for stack, y in zip(rows, found[carries:], strict=True):
                stack.append(y)
            n += 1
        none = [OPS["empty"].emit(shape=(0, *y.shape[1:]), dtype=y.dtype) for y in body.outs[carries:]]
        empty = run(Graph((), tuple(none)), (), {}) if not n else none
        stacks = [np.concatenate(stack) if stack else e for stack, e in zip(rows, empty, strict=True)]
        return run(then, (*stacks, *xs), {symbol: n})

    def type(*xs, cond, body, then, carries, first, symbol):
        _check_params(cond, xs, "the condition of a loop")
        _check_params(body, xs, "the body of a loop")
        _check_carry(Graph(body.params, body.outs[:carries]), xs[:carries])
        n, rows = Poly.symbol(symbol), _types(body.outs[carries:])
        stacks = [Type(t.dtype, (n + (k >= 0), *t.shape[1:])) for t, k in zip(rows, first, strict=True)]
        _check_params(then, (*stacks, *xs), "what follows a loop")
        return TOKEN

    def results(*xs, cond, body, then, carries, first, symbol):
        return _types(then.outs)

    vjp = None  # the last pass makes it, of regions that have rules
    jvp = None

    def batch(flags, *xs, cond, body, then, carries, first, symbol):
        raise TypeError("a loop that keeps rows is batched before it keeps them")

    def sample(rng, dtype):
        return []

    library = "region"
