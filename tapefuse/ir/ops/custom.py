"""What the user says of derivatives, wherever the program is differentiated: rules, and inverses of steps.

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

RULES: dict[str, Any] = {}  # "vjp", "jvp", "batch", "undone"; from `ir.passes.custom_rules`, which derive and batch


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


@defop
class invertible:
    """Operand `number`, a result of a step that can be undone.

    The first `count` operands are what the step gives, the next ones what it was given, in the same order. `inverse`
    takes the former and the operands that are left, and gives the latter: the reverse pass of a loop that carries them
    computes them so, in place of keeping them.
    """

    def ref(*xs, inverse, count, number):
        return np.asarray(xs[number])

    def type(*xs, inverse, count, number):
        wanted = (*xs[:count], *xs[2 * count :], *xs[count : 2 * count])
        found = tuple(v.type for v in (*inverse.params, *inverse.outs))
        if wanted != found:
            has, needs = (", ".join(map(str, types)) for types in (found, wanted))
            raise ShapeError(f"the inverse of a step takes and gives {has}, not {needs}")
        return xs[number]

    def vjp(g, y, *xs, inverse, count, number):
        return [g if k == number else None for k in range(len(xs))]

    def jvp(ts, y, *xs, inverse, count, number):
        return ts[number]

    def batch(flags, *xs, inverse, count, number):
        return RULES["undone"](invertible, flags, xs, inverse=inverse, count=count, number=number)

    def at(b, i, *xs, inverse, count, number):
        return xs[number](i)

    def sample(rng, dtype):
        return []  # what it says is about loops

    dtypes = "fc"
