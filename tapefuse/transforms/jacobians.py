"""All partial derivatives: `jacobian` and `hessian`.

Not one pass per row or column: the unit vectors go through one batched pass, and what that multiplies by them is
simplified away when the function is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._tree import flatten, leaves_with_paths, unflatten
from tapefuse.ir.types import has_derivatives, size
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tape import GradientTape
from tapefuse.tracer.tensor import Tensor
from tapefuse.transforms.arguments import check_function, check_pair, sources, tensors
from tapefuse.transforms.gradients import grad

MODES = (None, "forward", "reverse")


def jacobian(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, mode: str | None = None, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that returns all partial derivatives of `f`.

    For one argument tensor and one result tensor that is a tensor of shape `result.shape + argument.shape`. For
    structures, each tensor of the result is replaced by a structure of the argument with one such tensor per leaf; a
    tuple of `argnums` gives a tuple of those. Zeros where nothing connects the two. `has_aux`: `f` returns
    `(value, more)`, and the result is `(jacobian, more)`.

    `mode`: "forward" takes a direction for each element of the arguments, "reverse" a seed for each element of the
    result; without it, the mode with fewer of them. Raises TypeError for results that are not floating-point.
    """
    check_function(f, "jacobian")
    if mode not in MODES:
        raise ValueError(f"jacobian: mode {mode!r} at {user_loc()}; use 'forward', 'reverse' or None")
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(f, updated=())
    def derivatives(*args: Any, **kwargs: Any) -> Any:
        args, inputs = sources(f, args, positions)
        with GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            returned = f(*args, **kwargs)
        if has_aux:
            check_pair(f, returned)
        value = tensors(returned[0] if has_aux else returned)
        _check_results(f, value)
        ys, tree = flatten(value)
        xs, wanted = flatten(inputs[0] if isinstance(argnums, int) else inputs)
        found = _entries(tape, ys, xs, mode or _shorter(ys, xs))
        result = unflatten(tree, [unflatten(wanted, row) for row in found])
        return (result, returned[1]) if has_aux else result

    return derivatives


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that returns all second derivatives of a scalar function, forward over reverse.

    For one argument tensor that is a tensor of shape `argument.shape + argument.shape`; for structures and tuples of
    `argnums`, a structure of structures of such blocks.
    """
    check_function(f, "hessian")
    return jacobian(grad(f, argnums, has_aux), argnums, mode="forward", has_aux=has_aux)


def _entries(tape: GradientTape, ys: list[Tensor], xs: list[Tensor], mode: str) -> list[list[Tensor]]:
    """For each result, its derivative by each argument."""
    if mode == "reverse":
        return [tape.jacobian(y, xs, unconnected_gradients="zero") for y in ys]
    by_argument = [tape.jacobian_columns(ys, x) for x in xs]
    return [[columns[k] for columns in by_argument] for k in range(len(ys))]


def _shorter(ys: list[Tensor], xs: list[Tensor]) -> str:
    """Forward for as many elements or fewer; an unknown number counts as many.

    Derivatives by complex numbers are gradients, as a tape gives them, and those of complex numbers by real ones
    complex tangents, whichever are fewer.
    """
    if any(t.dtype.kind == "c" for t in (*xs, *ys)):
        return "reverse" if any(x.dtype.kind == "c" for x in xs) else "forward"
    n, m = (sum((size(t.shape) for t in ts), 0) for ts in (xs, ys))
    if isinstance(n, int) and isinstance(m, int):
        return "forward" if n <= m else "reverse"
    return "forward" if isinstance(n, int) else "reverse"


def _check_results(f: Callable[..., Any], value: Any) -> None:
    for path, y in leaves_with_paths(value, "the result"):
        if not has_derivatives(y.dtype):
            name = getattr(f, "__name__", "the function")
            raise TypeError(
                f"{path} of {name} has dtype {y.dtype} at {user_loc()}; a jacobian is for floating-point results; "
                "return it with has_aux, or cast it"
            )
