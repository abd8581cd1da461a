"""What a loop carries and the user can undo (`ops.invertible`): from what an iteration gives, what it was given.

    for c: c' = step(c)      ->      reverse, with the last carry:   c = inverse(c'),   gc += vjp of step(c) for gc

The reverse pass carries it backwards, and nothing of it is kept (as in Gomez et al. 2017, for networks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Value, param, reachable
from tapefuse.ir.passes.bodies import rebuilt


class Undone(NamedTuple):
    """`now`: what the carries are after an iteration; `before`: what they were, computed from that; `env`: what becomes
    of the values of an iteration."""

    now: dict[int, Value]
    before: list[Value]
    env: dict[Value, Value]


def undone(body: Graph, carried: int, outs: Sequence[Value]) -> Undone:
    """The carries of a loop that can be undone, if `outs`, those of its reverse step, read them."""
    read, found = reachable(outs[carried:]), Undone({}, [], {})
    for carries in _steps(body, carried):
        first = body.outs[carries[0]]
        m, inverse = len(carries), first.attributes["inverse"]
        if not any(v in read for k in carries for v in (body.params[k], body.outs[k], first.args[carries.index(k)])):
            continue
        now = {k: param(body.params[k].type, f"now{k}") for k in carries}
        env = {body.outs[k]: p for k, p in now.items()}
        env |= {y: p for y, p in zip(first.args, now.values(), strict=False) if y.op is not None}
        rest = rebuilt(first.args[2 * m :], dict(env))
        before = rebuilt(inverse.outs, dict(zip(inverse.params, (*now.values(), *rest), strict=True)))
        env |= {body.params[k]: x for k, x in zip(carries, before, strict=True)}
        found.now.update(now)
        found.before.extend(before)
        found.env.update(env)
    return found


def _steps(body: Graph, carried: int) -> Iterator[list[int]]:
    """The carries that are together turned into what one step gives, in its order."""
    steps: dict[tuple, dict[int, int]] = {}
    for k, y in enumerate(body.outs[:carried]):
        if y.op is ops.invertible:
            a = y.attributes
            if y.args[a["count"] + a["number"]] is body.params[k]:
                steps.setdefault((y.args, a["inverse"]), {})[a["number"]] = k
    for (args, inverse), places in steps.items():
        if len(places) == len(inverse.outs) <= len(args):
            yield [places[j] for j in range(len(places))]
