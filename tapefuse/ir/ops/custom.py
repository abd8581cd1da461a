"""A value whose derivatives are what the user says, wherever its program is differentiated.

    %2 = ruled %y, %x, %e given=(0) inputs=1 kept=1 rules=(fn rule(%g: f32[], %e: f32[]) { ... }) : f32[]

The rules are graphs, closed like those of regions; what they read from outside is an operand. Derivatives inline them,
and programs that are run have only `%y`.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir.op import defop

RULES: dict[str, Any] = {}  # "vjp", "jvp", "batch"; from `ir.passes.custom_rules`, since they derive and batch graphs


@defop
class ruled:
    """`y`, with derivatives by the next `inputs` operands from `rules`; the rest is what the rules read.

    `rules[0]` takes the cotangent and the `kept` operands that follow the inputs, and gives cotangents for the inputs
    numbered `given` (None for others). `rules[1]`, if it is there, takes tangents of all inputs and the operands left,
    and gives the tangent; else tangents come from `rules[0]`, which must be linear in the cotangent.
    """

    def ref(y, *xs, rules, given, inputs, kept):
        return np.asarray(y)

    def type(y, *xs, rules, given, inputs, kept):
        pull = rules[0]
        wanted, found = (y, *(xs[k] for k in given)), (pull.params[0].type, *(v.type for v in pull.outs))
        if wanted != found:
            has, needs = (", ".join(map(str, types)) for types in (found, wanted))
            raise ShapeError(f"the rule takes a cotangent and gives others of {has}, not of {needs}")
        return y

    def vjp(g, result, y, *xs, rules, given, inputs, kept):
        return RULES["vjp"](g, xs, rules=rules, given=given, inputs=inputs, kept=kept)

    def jvp(ts, result, y, *xs, rules, given, inputs, kept):
        return RULES["jvp"](ts, xs, rules=rules, given=given, inputs=inputs, kept=kept)

    def batch(flags, *xs, rules, given, inputs, kept):
        return RULES["batch"](ruled, flags, xs, rules=rules, given=given, inputs=inputs, kept=kept)

    def at(b, i, y, *xs, rules, given, inputs, kept):
        return y(i)

    def sample(rng, dtype):
        return []  # its derivatives are what is said, not those of what it computes

    dtypes = "fc"
