"""Looking into a program while it runs: `debug_print`, `check_finite`, and conditions that must hold (`require`).

They work eagerly, in traced functions, and in loops and branches of these, and know the user's line.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tapefuse._tree import leaves_with_paths
from tapefuse.ir.graph import here
from tapefuse.ir.op import OPS
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.source import current_loc, user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, apply, as_tensor


def check_finite(x: Any, name: str | None = None) -> Any:
    """`x`, a structure of tensors, which must hold no inf and no nan; integers never do.

    Raises FloatingPointError that says which value, called `name`, is not finite, and where this was called. In a
    compiled function it is raised before any variable is assigned.
    """
    for path, leaf in leaves_with_paths(x, name or "the value"):
        value = as_tensor(leaf)
        if value.dtype.kind == "f":
            require(
                functions.all(functions.isfinite(value)),
                f"check_finite at {user_loc()}: {path}, {value.type}, has an element that is inf or nan",
                "FloatingPointError",
            )
    return x


def require(condition: Any, message: str, error: str = "AssertionError") -> None:
    """Raise the builtin `error` unless a bool scalar is true; in a compiled function when the program runs, before any
    variable is assigned."""
    _do("require", (as_tensor(condition),), {"error": error, "message": message})


def debug_print(*values: Any) -> None:
    """Print values, as `print` does, after the file and line of the call: whenever the program comes to this line.

    Structures are written leaf by leaf. In a traced function the values are those of the run; such a function is
    interpreted, not compiled, as its `explain()` says. Under `vmap` the values of all examples are printed at once.
    """
    loc = user_loc()
    texts: list[str | None] = []
    operands: list[Tensor] = []
    for value in values:
        if isinstance(value, (Operators, np.ndarray)):
            texts.append(None)
            operands.append(as_tensor(value))
        elif isinstance(value, (list, tuple, dict)):
            for path, leaf in leaves_with_paths(value):
                texts += [f"{path} =", None]
                operands.append(as_tensor(leaf))
        else:
            texts.append(str(value))
    _do("debug_print", tuple(operands), {"texts": tuple(texts), "where": f"{os.path.basename(loc.file)}:{loc.line}"})


def _do(name: str, operands: tuple[Tensor, ...], attrs: dict[str, Any]) -> None:
    """Run the op now, or make it a part of the program under way, when that runs over this line."""
    trace = state.trace
    if trace is None or (name == "require" and not isinstance(operands[0], TracedTensor)):
        OPS[name].ref(*[np.asarray(x) for x in operands], **attrs)
        return
    here.loc = current_loc()
    if name == "require":
        trace.effects.append(trace.value_of(apply(OPS[name], operands, attrs)))
    else:
        trace.effects.append(OPS[name].emit(*[trace.value_of(x) for x in operands], **attrs))
