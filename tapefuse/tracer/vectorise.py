"""A function of tensors run for many examples at once: traced for one, batched, and applied as ordinary operations.

The operations are recorded by the tapes of this moment and belong to the trace of this moment, so that derivatives and
compilation see through them. What the function uses from outside is captured, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse.ir import ops
from tapefuse.ir.op import Op
from tapefuse.ir.passes.batching import Flagged, batched
from tapefuse.ir.types import Type
from tapefuse.tracer.applying import apply
from tapefuse.tracer.record import Entry, Node, backward, forward, pinned
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.trace import trace_pure


def vectorised(
    f: Callable[[list[Any]], Sequence[Tensor | None]], xs: Sequence[Tensor], name: str
) -> list[tuple[Tensor, bool] | None]:
    """The results of `f` for each example along the first axes of `xs`, and whether they depend on the example.

    Those that do have a first axis for it. A result of None stays None. Raises VariableError if `f` assigns to a
    variable.
    """
    graph, places, outer = trace_pure(
        f,
        [Type(x.dtype, x.shape[1:]) for x in xs],
        name,
        lambda variable: f"{name} assigns to the variable {variable!r}, called at {user_loc()}; there is one variable "
        "for all examples, so return the new values and assign outside",
    )
    args: list[Flagged] = [*[(x, True) for x in xs], *[(x, False) for x in outer]]
    with pinned():  # every value keeps the line it was traced from
        found = iter([(as_tensor(y), flag) for y, flag in batched(graph, args, _leaf)])
    return [next(found) if is_there else None for is_there in places]


def _leaf(op: Op, attrs: dict[str, Any]) -> Tensor:
    return apply(op, (), attrs)


def rows(records: Sequence[Entry], target: Node, seeds: Tensor, sources: Sequence[Node]) -> list[Tensor | None]:
    """For each source, its cotangents under all cotangents `seeds[k]` of the target, in one reverse pass."""
    found = vectorised(lambda gs: backward(records, [(target, gs[0])], sources), [seeds], "the reverse pass")
    return [_repeated(y, seeds) for y in found]


def columns(records: Sequence[Entry], source: Node, seeds: Tensor, targets: Sequence[Node]) -> list[Tensor | None]:
    """For each target, its tangents along all tangents `seeds[k]` of the source, in one forward pass."""
    found = vectorised(lambda ts: forward(records, [(source, ts[0])], targets), [seeds], "the forward pass")
    return [_repeated(y, seeds) for y in found]


def _repeated(y: tuple[Tensor, bool] | None, seeds: Tensor) -> Tensor | None:
    if y is None or y[1]:
        return None if y is None else y[0]
    return ops.broadcast(y[0], shape=(seeds.shape[0], *y[0].shape), axes=tuple(range(1, y[0].ndim + 1)))


def units(type: Type) -> Tensor:
    """All arrays of a type that are 1 at one element and 0 elsewhere, in row-major order, along a first axis."""
    return apply(ops.basis, (), {"shape": type.shape, "dtype": type.dtype})
