"""What all transformations ask of a function, its arguments and its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._errors import ShapeError
from tapefuse._tree import flatten, leaves_with_paths, unflatten
from tapefuse.ir.types import has_derivatives, show_shape
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import alias


def check_function(f: Any, transform: str) -> None:
    """Raises TypeError if `f`, of which `transform` makes another function, is none."""
    if not callable(f):
        raise TypeError(
            f"{transform} at {user_loc()} takes a function, not {f!r}; give the function itself, and its arguments to "
            "what it returns"
        )


def sources(f: Callable[..., Any], args: tuple, positions: Sequence[int]) -> tuple[tuple, tuple]:
    """The arguments, with fresh tensors in those at `positions`; and those alone. Raises TypeError."""
    out = list(args)
    for k in positions:
        if not -len(args) <= k < len(args):
            name = getattr(f, "__name__", "the function")
            raise TypeError(
                f"the gradient of {name} is for argument {k}, but it was called with {len(args)} at {user_loc()}"
            )
        leaves, tree = flatten(args[k])
        tensors = [alias(as_tensor(x)) for x in leaves]
        for (path, _), x in zip(leaves_with_paths(args[k], f"argument {k}"), tensors, strict=True):
            if not has_derivatives(x.dtype):
                raise TypeError(
                    f"{path} has dtype {x.dtype} at {user_loc()}; derivatives are for floating-point arguments; pass "
                    "a float, or cast it"
                )
        out[k] = unflatten(tree, tensors)
    return tuple(out), tuple([out[k] for k in positions])


def check_pair(f: Callable[..., Any], returned: Any) -> None:
    """Raises TypeError unless `returned` is what `has_aux` promises."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(
            f"with has_aux, {getattr(f, '__name__', 'the function')} must return (value, more) at {user_loc()}"
        )


def scalar(f: Callable[..., Any], value: Any) -> Tensor:
    name = getattr(f, "__name__", "the function")
    if value is None or isinstance(value, (list, tuple, dict)):
        raise TypeError(
            f"{name} must return one scalar to have a gradient, got a {type(value).__name__} at {user_loc()}"
        )
    y = as_tensor(value)
    if y.shape != ():
        raise ShapeError(
            f"{name} must return a scalar to have a gradient, got shape {show_shape(y.shape)} at {user_loc()}; sum "
            "it, or use vjp"
        )
    if not has_derivatives(y.dtype):
        raise TypeError(f"{name} must return a floating-point number to have a gradient, got {y.dtype} at {user_loc()}")
    return y


def tensors(tree: Any) -> Any:
    leaves, shape = flatten(tree)
    return unflatten(shape, [as_tensor(x) for x in leaves])


def directions(primals: tuple, tangents: tuple) -> list[Tensor]:
    """Tangents as tensors of the primals' dtypes. Raises TypeError, ShapeError if they do not fit."""
    if len(primals) != len(tangents):
        raise TypeError(f"jvp at {user_loc()}: {len(primals)} primals and {len(tangents)} tangents; give one for each")
    return [t for pair in zip(primals, tangents, strict=True) for t in _direction(*pair)]


def _direction(primal: Any, tangent: Any) -> list[Tensor]:
    xs, tree = flatten(primal)
    ts, given = ([tangent], tree) if isinstance(primal, Tensor) else flatten(tangent)
    if tree != given:
        raise TypeError(f"jvp at {user_loc()}: a tangent has the structure {given}, its primal {tree}")
    found = [as_tensor(t, x.dtype) for t, x in zip(ts, xs, strict=True)]
    for t, x in zip(found, xs, strict=True):
        if t.type != x.type:
            raise ShapeError(f"jvp at {user_loc()}: a tangent is {t.type}, its primal {x.type}; they must be equal")
    return found
