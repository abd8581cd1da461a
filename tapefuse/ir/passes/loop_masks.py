"""Loops of unknown length over many examples, of which each takes part as long as it goes on.

    while any(active): x = f(x) if active else x;  count += active;  active = active and goes_on(x)

An example that has stopped never goes on. So in iteration k, `active` is `k < count` of the end, and there are as many
iterations as the largest count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.family import INT64
from tapefuse.ir.passes.bodies import rebuilt
from tapefuse.ir.passes.updates import is_zero
from tapefuse.ir.types import Poly


class Mask(NamedTuple):
    """The numbers of two carries."""

    counter: int  # i64[n]: the iterations in which an example took part, so far
    active: int  # bool[n]: whether it takes part in this one


def loop_of(size: Value) -> Value | None:
    """The `while` whose number of iterations a value is."""
    source = _counts(size)
    if source is None or source.op is not ops.result or source.args[0].op is not ops.while_:
        return None
    (token,), number = source.args, source.attributes["index"]
    if source is size:
        return token if number == token.attributes["carried"] else None
    mask = mask_of(token)
    return token if mask is not None and mask.counter == number else None


def _counts(size: Value) -> Value | None:
    """A size, or the numbers whose largest one it is."""
    if size.op is not ops.reduce_max:
        return size
    (x,) = size.args
    if x.op is ops.concat and len(x.args) == 2 and is_zero(x.args[0]):
        x = x.args[1]
    return x if len(x.shape) == 1 else None


def mask_of(token: Value) -> Mask | None:
    """What tells which examples a `while` goes on with; None if it is no such loop."""
    cond, body = token.attributes["cond"], token.attributes["body"]
    (test,) = cond.outs
    if test.op is not ops.reduce_any or test.args[0].op is not None or len(test.args[0].shape) != 1:
        return None
    active = cond.params.index(test.args[0])
    carried = token.attributes["carried"]
    if active >= carried:
        return None
    p, after = body.params[active], body.outs[active]
    if after.op is not ops.and_ or p not in after.args:
        return None
    for k, (x, y) in enumerate(zip(body.params[:carried], body.outs, strict=True)):
        if y.op is ops.add and x in y.args and is_zero(token.args[k]) and x.dtype == INT64:
            more = y.args[1] if y.args[0] is x else y.args[0]
            if more.op is ops.cast and more.args[0] is p:
                return Mask(k, active)
    return None


def with_mask(outs: Sequence[Value], index: str, own: Value, active: Value) -> tuple[Value, ...]:
    """Values of the body of a `for` with `active` for k < `own`, where `index` is the symbol of k."""

    def change(v: Value, args: Sequence[Value]) -> Value | None:
        if v.op is not ops.lt or v.args[1] is not own or v.args[0].op is not ops.dim:
            return None
        return active if v.args[0].attributes["value"] == Poly.symbol(index) else None

    return rebuilt(outs, {}, change)
