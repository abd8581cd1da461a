"""Functions of derivatives from functions: `grad`, `value_and_grad`, `vjp`, `jvp`, `hvp`.

They work on tensors, arrays and Python numbers, in any nesting, inside and around `tape_function`:

>>> print(grad(lambda x: x**3)(2.0))
tp.Tensor(12.0, shape=(), dtype=float32)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._errors import ShapeError
from tapefuse._tree import flatten, leaves_with_paths, unflatten
from tapefuse.ir.types import show_shape
from tapefuse.tracer.operators import functions
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tape import GradientTape
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import alias


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that returns `(f(*args), gradient)`.

    `argnums`: the positional argument to differentiate by (any structure of tensors), or a tuple of several for a
    tuple of gradients; a gradient has its argument's structure, and zeros where the value does not depend on it.
    `has_aux`: `f` returns `(value, more)`, and the result is `((value, more), gradient)`. The value must be a
    floating-point scalar.
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(f, updated=())
    def with_gradient(*args: Any, **kwargs: Any) -> Any:
        args, sources = _sources(f, args, positions)
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            returned = f(*args, **kwargs)
        value = _scalar(f, returned[0] if has_aux and _is_pair(f, returned) else returned)
        grads = tape.gradient(value, sources, unconnected_gradients="zero")
        return ((value, returned[1]) if has_aux else value), (grads[0] if isinstance(argnums, int) else grads)

    return with_gradient


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that returns the gradient of `f`, with `has_aux` `(gradient, more)`; see `value_and_grad`."""
    with_value = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, grads = with_value(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return gradient


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple]]:
    """`(f(*primals), pullback)`: the pullback takes cotangents in the structure of the result and returns one
    structure of cotangents for each primal. It may be called any number of times."""
    args, sources = _sources(f, primals, range(len(primals)))
    with GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(sources)
        out = _tensors(f(*args))

    def pullback(cotangents: Any) -> tuple:
        leaves, tree = flatten(out)
        seeds, given = flatten(cotangents)
        if given != tree:
            raise TypeError(
                f"the pullback at {user_loc()} takes cotangents in the structure {tree} of the result, got {given}"
            )
        return tape.gradient(leaves, sources, output_gradients=seeds, unconnected_gradients="zero")

    return out, pullback


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(f(*primals), tangent)`: the derivative of `f` along `tangents`, which have the structure and shapes of the
    primals.

    The pullback is linear in its cotangents, and its own derivative by them is the forward derivative.
    """
    args, sources = _sources(f, tuple(primals), range(len(primals)))
    directions = _directions(args, tuple(tangents))
    with GradientTape(persistent=True, watch_accessed_variables=False) as outer:
        with GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(sources)
            out = _tensors(f(*args))
        leaves, tree = flatten(out)
        cotangents = [functions.ones(y.shape, y.dtype) for y in leaves]
        outer.watch(cotangents)
        pulled = flatten(inner.gradient(leaves, sources, output_gradients=cotangents, unconnected_gradients="zero"))[0]
    moved = outer.gradient(pulled, cotangents, output_gradients=directions, unconnected_gradients="zero")
    return out, unflatten(tree, moved)


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(gradient, Hessian times tangents)` of a scalar function, each with one entry for each primal."""
    return jvp(grad(f, argnums=tuple(range(len(primals)))), primals, tangents)


def _sources(f: Callable[..., Any], args: tuple, positions: Sequence[int]) -> tuple[tuple, tuple]:
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
            if x.dtype.kind != "f":
                raise TypeError(
                    f"{path} has dtype {x.dtype} at {user_loc()}; derivatives are for floating-point arguments; pass "
                    "a float, or cast it"
                )
        out[k] = unflatten(tree, tensors)
    return tuple(out), tuple([out[k] for k in positions])


def _is_pair(f: Callable[..., Any], returned: Any) -> bool:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(
            f"with has_aux, {getattr(f, '__name__', 'the function')} must return (value, more) at {user_loc()}"
        )
    return True


def _scalar(f: Callable[..., Any], value: Any) -> Tensor:
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
    if y.dtype.kind != "f":
        raise TypeError(f"{name} must return a floating-point number to have a gradient, got {y.dtype} at {user_loc()}")
    return y


def _tensors(tree: Any) -> Any:
    leaves, shape = flatten(tree)
    return unflatten(shape, [as_tensor(x) for x in leaves])


def _directions(primals: tuple, tangents: tuple) -> list[Tensor]:
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
