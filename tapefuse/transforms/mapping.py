"""`vmap`: a function of one example becomes the function of many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from tapefuse._errors import ShapeError
from tapefuse._tree import flatten, is_namedtuple, leaves_with_paths, sorted_keys, unflatten
from tapefuse.ir import ops
from tapefuse.ir.types import Dim, show_shape
from tapefuse.tracer.rewriting import rewritten
from tapefuse.tracer.rewriting.carried import fresh
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.vectorise import vectorised
from tapefuse.transforms.arguments import check_function

Axis = int | None


def vmap(f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """The function that applies `f` to each example and stacks the results, computing all of them at once.

    `in_axes`: the axis of each positional argument that counts the examples, or None for what all of them share; one
    for all arguments, or a tuple with an entry for each. An entry may be a structure like its argument, or like the
    upper part of it. `out_axes`: where that axis is put in the results, or None for a result that is equal for all
    examples. Keyword arguments are shared.

    `f` is traced once for the types of one example, its `if`, `while` and `for` as in a `tape_function`; it must not
    assign to variables. Raises TypeError where `in_axes` does not fit or nothing is mapped, ShapeError for axes that
    do not exist or differ in length.
    """

    check_function(f, "vmap")

    @functools.wraps(f, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        axes = _argument_axes(f, in_axes, args)
        leaves, tree = flatten(args)
        paths = [f"argument {path[1:].replace(']', '', 1)}" for path, _ in leaves_with_paths(args)]
        examples = {k: _to_front(leaves[k], axis, paths[k]) for k, axis in enumerate(axes) if axis is not None}
        n = _count(f, {paths[k]: x.shape[0] for k, x in examples.items()})
        found: list[Any] = []

        def once(xs: list[Tensor]) -> list[Tensor]:
            given = dict(zip(examples, xs, strict=True))
            mine = [given[k] if k in given else fresh(x) for k, x in enumerate(leaves)]
            returned = rewritten(f)(*unflatten(tree, mine), **kwargs)
            found[:] = [returned]
            return [as_tensor(y) for y in flatten(returned)[0]]

        ys = vectorised(once, list(examples.values()), f"vmap of {_name(f)}")
        places = list(_prefixed(out_axes, found[0], "out_axes", f"the result of {_name(f)}"))
        outs = [_placed(y, place, n, f) for y, place in zip(ys, places, strict=True) if y is not None]
        return unflatten(flatten(found[0])[1], outs)

    mapped.tells_names = True  # type: ignore[attr-defined]
    return mapped


def _name(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", "the function")


def _argument_axes(f: Callable[..., Any], in_axes: Any, args: tuple) -> list[Axis]:
    """An axis or None for each leaf of the arguments."""
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if isinstance(in_axes, tuple) and len(in_axes) != len(args):
        raise TypeError(
            f"vmap of {_name(f)} at {user_loc()}: in_axes has {len(in_axes)} entries for {len(args)} arguments"
        )
    axes = list(_prefixed(in_axes, args, "in_axes", "the arguments"))
    if all(axis is None for axis in axes):
        raise TypeError(f"vmap of {_name(f)} at {user_loc()}: in_axes maps no argument; call the function itself")
    return axes


def _prefixed(spec: Any, tree: Any, name: str, what: str) -> Iterator[Axis]:
    """For each leaf of `tree` the axis that `spec`, a structure like the upper part of it, has there."""
    if spec is None or (isinstance(spec, int) and not isinstance(spec, bool)):
        yield from [spec] * len(flatten(tree)[0])
        return
    parts, specs = _children(tree), _children(spec)
    if parts is None or specs is None or (isinstance(tree, dict), *parts) != (isinstance(spec, dict), *specs):
        raise TypeError(f"vmap at {user_loc()}: {name} has {spec!r}, which is no axis and not the structure of {what}")
    for key, part in parts.items():
        yield from _prefixed(specs[key], part, name, f"{what}[{key!r}]")


def _children(tree: Any) -> dict[Any, Any] | None:
    """The entries of a container in the order of `flatten`, None for a leaf."""
    if isinstance(tree, dict):
        return {k: tree[k] for k in sorted_keys(tree)}
    if isinstance(tree, (list, tuple)) or is_namedtuple(tree):
        return dict(enumerate(tree))
    return None


def _to_front(x: Any, axis: int, path: str) -> Tensor:
    y = as_tensor(x)
    if not -y.ndim <= axis < y.ndim:
        raise ShapeError(
            f"vmap at {user_loc()}: {path} has shape {show_shape(y.shape)} and no axis {axis}; give its axis of "
            "examples in in_axes, or None to share it"
        )
    axis %= y.ndim
    return y if axis == 0 else ops.transpose(y, perm=(axis, *(k for k in range(y.ndim) if k != axis)))


def _count(f: Callable[..., Any], extents: dict[str, Dim]) -> Dim:
    """The number of examples, which all mapped arguments must agree on."""
    if len(set(extents.values())) > 1:
        found = ", ".join(f"{path} has {n}" for path, n in extents.items())
        raise ShapeError(f"vmap of {_name(f)} at {user_loc()}: the numbers of examples differ: {found}")
    return next(iter(extents.values()))


def _placed(y: tuple[Tensor, bool], axis: Axis, n: Dim, f: Callable[..., Any]) -> Tensor:
    """A result with its axis of examples where it is wanted."""
    x, is_mapped = y
    rank = x.ndim + (not is_mapped)
    if axis is None:
        if is_mapped:
            raise ValueError(
                f"vmap of {_name(f)} at {user_loc()}: out_axes is None for a result that differs between examples"
            )
        return x
    if not -rank <= axis < rank:
        raise ShapeError(f"vmap of {_name(f)} at {user_loc()}: out_axes has {axis} for a result of rank {rank}")
    axis %= rank
    rest = [k for k in range(rank) if k != axis]
    if not is_mapped:
        return ops.broadcast(x, shape=(*x.shape[:axis], n, *x.shape[axis:]), axes=tuple(rest))
    return x if axis == 0 else ops.transpose(x, perm=(*range(1, axis + 1), 0, *range(axis + 1, rank)))
