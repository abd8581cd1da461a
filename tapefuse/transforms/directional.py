"""Forward mode: `jvp`, `linearize`, and with reverse mode inside it `hvp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._tree import flatten
from tapefuse.tracer.tape import GradientTape
from tapefuse.transforms.arguments import check_function, directions, sources, tensors
from tapefuse.transforms.gradients import grad


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(f(*primals), tangent)`: the derivative of `f` along `tangents`, which have the structure and shapes of the
    primals; zeros where nothing connects a result with them.

    `f` runs once; the rules of its operations then run in the same order.
    """
    check_function(f, "jvp")
    out, pushforward = linearize(f, *primals)
    return out, pushforward(*tangents)


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """`(f(*primals), pushforward)`: `pushforward(*tangents)` is the derivative of `f` along tangents, in the
    structure of the result. It may be called any number of times, and `f` runs once for all of them."""
    check_function(f, "linearize")
    args, inputs = sources(f, primals, range(len(primals)))
    with GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        out = tensors(f(*args))

    def pushforward(*tangents: Any) -> Any:
        moved = directions(args, tangents)
        return tape.jvp(out, flatten(inputs)[0], moved, unconnected_gradients="zero")

    return out, pushforward


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(gradient, Hessian times tangents)` of a scalar function, each with one entry for each primal.

    Forward over reverse: the forward pass is shared by the gradient and its derivative, at about twice the cost of
    the gradient.
    """
    check_function(f, "hvp")
    return jvp(grad(f, argnums=tuple(range(len(primals)))), primals, tangents)
