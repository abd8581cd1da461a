"""When a value may be computed: `after`, which keeps a second computation of a value apart from the first."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.ir.op import defop
from tapefuse.ir.ops.family import batch_size, draw, with_batch


@defop
class after:
    """The first operand itself; what is computed from the result is computed once the second operand is there.

    So `tanh(after(x, g))` is another value than `tanh(x)`, to be computed late: memory is saved for time
    (codegen/recompute.py).
    """

    def ref(x, token):
        return np.asarray(x)

    def type(x, token):
        return x

    def vjp(g, y, x, token):
        return [g, None]

    def jvp(ts, y, x, token):
        return None if ts[0] is None else after(ts[0], token)

    def batch(flags, x, token):
        x = x if flags[0] else with_batch(x, batch_size(flags, (x, token)))
        return after(x, token)

    def at(b, i, x, token):
        return x(i)

    def sample(rng, dtype):
        cases: list[tuple[Any, ...]] = [((7, 3), (2,)), ((), (7, 3)), ((0, 2), ())]
        return [((draw(rng, dtype, s), draw(rng, dtype, t)), {}) for s, t in cases]

    dtypes = "fciub"
