"""Running results of associative functions, by functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapefuse._errors import ConcretizationError
from tapefuse._tree import flatten, unflatten
from tapefuse.tracer.control_arguments import count_of, where_is
from tapefuse.tracer.operators import functions
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor


def associative_scan(f: Callable, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """Running results of an associative function: y[k] = f(y[k - 1], x[k]), y[0] = x[0], in log2(n) steps.

    `f(a, b)` combines structures like `elems` whose tensors have any extent along `axis`, element by element.
    `reverse`: from the end. Raises ShapeError for extents that differ, ConcretizationError for a symbolic one.
    """
    leaves, tree = flatten(elems)
    xs = [functions.moveaxis(as_tensor(x), axis, 0) for x in leaves]
    n = count_of(unflatten(tree, xs), xs, None, f"associative_scan at {user_loc()}")
    if not isinstance(n, int):
        raise ConcretizationError(
            f"associative_scan at {user_loc()} needs to know the extent {n}: give it in the TensorSpec, or use tp.scan"
        )

    def combine(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        moved = [unflatten(tree, [functions.moveaxis(x, 0, axis) for x in part]) for part in (a, b)]
        out, shape = flatten(f(*moved))
        if shape != tree:
            raise ValueError(f"associative_scan at {user_loc()}: f ({where_is(f)}) returns {shape}, elems is {tree}")
        return [functions.moveaxis(as_tensor(x), axis, 0) for x in out]

    if reverse:
        xs = [functions.flip(x, 0) for x in xs]
    ys = _running(combine, xs, n)
    return unflatten(tree, [functions.moveaxis(functions.flip(y, 0) if reverse else y, 0, axis) for y in ys])


def _running(combine: Callable, xs: list[Tensor], n: int) -> list[Tensor]:
    """Pairs are combined, their running results are those at odd places, and one more step gives the even ones."""
    if n < 2:
        return xs
    last = n - n % 2
    odd = _running(combine, combine([x[0:last:2] for x in xs], [x[1:last:2] for x in xs]), n // 2)
    if n == 2:
        return [functions.concatenate([x[:1], y]) for x, y in zip(xs, odd, strict=True)]
    m = (n - 1) // 2
    even = combine([y[:m] for y in odd], [x[2::2] for x in xs])
    return [_interleaved(functions.concatenate([x[:1], e]), y) for x, e, y in zip(xs, even, odd, strict=True)]


def _interleaved(a: Tensor, b: Tensor) -> Tensor:
    """a[0], b[0], a[1], b[1], ...; `a` may have one more element."""
    n = int(b.shape[0])
    both = functions.stack([a[:n], b], 1).reshape((2 * n, *a.shape[1:]))
    return both if a.shape[0] == n else functions.concatenate([both, a[n:]])
