"""Looking into a program while it runs: `debug_print`, `check_finite`, and conditions that must hold (`require`).

They work eagerly, in traced functions, and in loops and branches of these, and know the user's line.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tapefuse._errors import StagingError
from tapefuse._tree import LEAF, Container, Tree, leaves_with_paths, unflatten
from tapefuse.ir.graph import here
from tapefuse.ir.op import OPS
from tapefuse.ir.ops.effects import error_name
from tapefuse.ir.types import has_derivatives
from tapefuse.tracer.applying import apply
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.source import current_loc, user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor


def check_finite(x: Any, name: str | None = None) -> Any:
    """`x`, a structure of tensors, which must hold no inf and no nan; integers never do.

    Raises FloatingPointError that says which value, called `name`, is not finite, and where this was called. In a
    compiled function it is raised before any variable is assigned.
    """
    for path, leaf in leaves_with_paths(x, name or "the value"):
        value = as_tensor(leaf)
        if has_derivatives(value.dtype):
            require(
                functions.all(functions.isfinite(value)),
                FloatingPointError(
                    f"check_finite at {user_loc()}: {path}, {value.type}, has an element that is inf or nan"
                ),
            )
    return x


def require(condition: Any, error: Exception, where: str = "") -> None:
    """Raise an exception like `error` unless a bool scalar is true; in a compiled function when the program runs,
    before any variable is assigned. `where`: a line to be noted there.

    Raises StagingError if the exception cannot be made anew from its arguments, or these are no numbers and texts.
    """
    attrs = {"arguments": _arguments(error), "error": error_name(type(error)), "where": where}
    _do("require", (as_tensor(condition),), attrs)


def _arguments(error: Exception) -> tuple:
    """What a program needs to make the exception when it runs."""
    cure = "raise a class that takes numbers and texts, and hands all of them to Exception.__init__"
    if not all(x is None or type(x) in (bool, int, float, complex, str) for x in error.args):
        raise StagingError(f"{error!r} at {user_loc()} depends on a traced value, and its arguments are kept: {cure}")
    try:
        again = type(error)(*error.args)
    except TypeError:
        again = None
    if again is None or again.args != error.args:
        raise StagingError(
            f"{error!r} at {user_loc()} depends on a traced value, and cannot be made from its arguments {error.args} "
            f"when the compiled function runs; {cure}"
        )
    return error.args


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


class Quiet(Container):
    """A structure without leaves, and a bool that nobody sees: for the effects of a program without results."""

    __slots__ = ()

    @staticmethod
    def around(shape: Tree) -> Tree:
        return Tree(Quiet, (shape,), (LEAF,))

    @classmethod
    def of_parts(cls, fixed: tuple[Any, ...], entries: list[Any]) -> Any:
        return unflatten(fixed[0], [])


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
