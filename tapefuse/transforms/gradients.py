"""Reverse mode: `grad`, `value_and_grad`, `vjp`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._tree import flatten
from tapefuse.tracer.rows import without_rows
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tape import GradientTape
from tapefuse.transforms.arguments import check_function, check_pair, scalar, sources, tensors


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that returns `(f(*args), gradient)`.

    `argnums`: the positional argument to differentiate by (any structure of tensors), or a tuple of several for a
    tuple of gradients; a gradient has its argument's structure, and zeros where the value does not depend on it.
    `has_aux`: `f` returns `(value, more)`, and the result is `((value, more), gradient)`. The value must be a
    floating-point scalar.
    """
    check_function(f, "value_and_grad")
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(f, updated=())
    def with_gradient(*args: Any, **kwargs: Any) -> Any:
        args, inputs = sources(f, args, positions)
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            returned = f(*args, **kwargs)
        if has_aux:
            check_pair(f, returned)
        value = scalar(f, returned[0] if has_aux else returned)
        grads = without_rows(tape.gradient(value, inputs, unconnected_gradients="zero"))
        return ((value, returned[1]) if has_aux else value), (grads[0] if isinstance(argnums, int) else grads)

    return with_gradient


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that returns the gradient of `f`, with `has_aux` `(gradient, more)`; see `value_and_grad`."""
    check_function(f, "grad")
    with_value = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, grads = with_value(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return gradient


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple]]:
    """`(f(*primals), pullback)`: the pullback takes cotangents in the structure of the result and returns one
    structure of cotangents for each primal. It may be called any number of times."""
    check_function(f, "vjp")
    args, inputs = sources(f, primals, range(len(primals)))
    with GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        out = tensors(f(*args))

    def pullback(cotangents: Any) -> tuple:
        leaves, tree = flatten(out)
        seeds, given = flatten(cotangents)
        if given != tree:
            raise TypeError(
                f"the pullback at {user_loc()} takes cotangents in the structure {tree} of the result, got {given}"
            )
        found = tape.gradient(leaves, inputs, output_gradients=seeds, unconnected_gradients="zero")
        return without_rows(found)

    return out, pullback
