"""What users give a tape that asks for derivatives: targets, sources, seeds, as tensors that fit together."""

from __future__ import annotations

import enum
import itertools
from typing import Any

from tapefuse._errors import DTypeError, ShapeError
from tapefuse._tree import flatten, leaves_with_paths
from tapefuse.ir.types import Shape, has_derivatives, show_shape
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.operators import functions
from tapefuse.tracer.record import Node
from tapefuse.tracer.row_targets import seeded
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable


class UnconnectedGradients(enum.Enum):
    """What `gradient` returns for a source that the target does not depend on."""

    NONE = "none"
    ZERO = "zero"


def named(path: str, whole: str) -> str:
    return f"{whole}{path}"


def tensors(tree: Any, what: str) -> list[Any]:
    """The leaves of a structure of tensors, targets among which may be rows. Raises TypeError naming the leaf that is
    none."""
    if tree is None:
        raise TypeError(f"{what} is None at {user_loc()}; expected a nested structure of tensors or variables")
    leaves = flatten(tree)[0]
    for k, x in enumerate(leaves):
        if not isinstance(x, (Tensor, Variable)) and not (what in _ROWS and isinstance(x, IndexedRows)):
            path, _ = next(itertools.islice(leaves_with_paths(tree), k, None))
            raise TypeError(
                f"{named(path, what)} is a {type(x).__name__} at {user_loc()}; expected a nested structure of tensors "
                "or variables, and a value computed outside of tapefuse has no gradient"
            )
    return leaves


_ROWS = "target", "the argument of jacobian"  # what may be rows


def single(tree: Any, what: str) -> list[Any]:
    leaves = tensors(tree, _ROWS[1] if what == "jacobian" else f"the argument of {what}")
    if len(leaves) != 1 or leaves[0] is not tree:
        raise TypeError(f"{what} takes one tensor at {user_loc()}, got {type(tree).__name__}; call it for each tensor")
    return leaves


def seeds_of(targets: list[Tensor | Variable], given: Any) -> list[tuple[Node, Tensor]]:
    """Cotangents of the floating-point targets."""
    name, what = "output gradient", "target"
    seeds = [1.0] * len(targets) if given is None else given_seeds(targets, given, "output_gradients", what)
    pairs = [(t, s) for t, s in zip(targets, seeds, strict=True) if has_derivatives(t.dtype)]
    return [end for t, s in pairs for end in seeded(t, seed_of(t, s, name, what))]


def given_seeds(targets: list[Tensor | Variable], given: Any, name: str, what: str) -> list[Any]:
    """`given` as one entry per target; one tensor, array or number may stand without a list."""
    if not isinstance(given, (list, tuple, dict)):
        seeds = [given]
    elif isinstance(given, (list, tuple)) and len(given) == len(targets):
        seeds = list(given)
    else:
        seeds = flatten(given)[0]
    if len(seeds) != len(targets):
        raise ValueError(f"{name} has {len(seeds)} entries for {len(targets)} {what}s; give one for each {what}")
    if any(s is None for s in seeds):
        raise ValueError(f"{name} has a None entry; give a number or a tensor for each {what}")
    return seeds


def seed_of(target: Tensor | Variable, seed: Any, name: str, what: str) -> Tensor:
    """A seed of its target's dtype, and of its shape or a scalar."""
    g = as_tensor(seed, target.dtype) if python_kind(seed) is not None else as_tensor(seed)
    if g.dtype != target.dtype:
        raise DTypeError(f"{_a(name)} has dtype {g.dtype}, its {what} {target.dtype}; cast it to the {what}'s dtype")
    if g.shape not in ((), target.shape):
        raise ShapeError(
            f"{_a(name)} has shape {show_shape(g.shape)}, its {what} {show_shape(target.shape)}; give the "
            f"{what}'s shape or a scalar"
        )
    return g


def filled(g: Tensor, shape: Shape) -> Tensor:
    return g if g.shape == shape else functions.broadcast_to(g, shape)


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def elements_last(column: Tensor | None, y: Tensor, x: Tensor) -> Tensor:
    """Tangents of `y` by the elements of `x`, along the first axis, as derivatives with the axes of `x` last."""
    if column is None:
        return functions.zeros((*y.shape, *x.shape), y.dtype)
    return functions.reshape(functions.moveaxis(column, 0, -1), (*y.shape, *x.shape))


def unconnected(x: UnconnectedGradients | str) -> UnconnectedGradients:
    if type(x) is UnconnectedGradients:
        return x
    try:
        return UnconnectedGradients(x.value if isinstance(x, enum.Enum) else x)
    except ValueError:
        raise ValueError(f"unknown value for unconnected_gradients: {x!r}; use 'none' or 'zero'") from None
