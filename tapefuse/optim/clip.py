"""Clipping of gradients by their Euclidean norm. `IndexedRows` stay what they are: none of it makes the dense array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapefuse import numpy as tp
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.tensor import Tensor, as_tensor


def clip_by_norm(x: Any, clip_norm: Any, axis: int | tuple[int, ...] | None = None) -> Any:
    """`x * clip_norm / max(norm, clip_norm)`, with the norm over `axis` (all axes by default).

    Same shape and dtype as x. The gradient at x = 0 is finite.
    """
    x = _gradient(x) if axis is None else as_tensor(x)
    total = _squares(x) if axis is None else tp.sum(x * x, axis=axis, keepdims=True)
    positive = total > 0
    norm = tp.where(positive, tp.sqrt(tp.where(positive, total, tp.ones_like(total))), total)
    return x * clip_norm / tp.maximum(norm, tp.astype(clip_norm, x.dtype))


def global_norm(tensors: Sequence[Any]) -> Tensor:
    """sqrt of the sum of squares of all elements of all tensors; None entries are left out.

    Raises `TypeError` if `tensors` is not a list or tuple, `ValueError` if nothing is in it.
    """
    present = [_gradient(t) for t in _sequence("global_norm", tensors) if t is not None]
    if not present:
        raise ValueError("global_norm needs at least one tensor that is not None")
    total = _squares(present[0])
    for t in present[1:]:
        total = total + _squares(t)
    return tp.sqrt(total)


def clip_by_global_norm(
    tensors: Sequence[Any], clip_norm: Any, use_norm: Any = None
) -> tuple[list[Any], Tensor]:
    """All tensors scaled by `clip_norm / max(global_norm, clip_norm)`, and the global norm before scaling.

    None entries stay None. An inf or nan anywhere makes every result nan, so that the failure shows.
    `use_norm`: the global norm, if known already. Raises as `global_norm`. (Pascanu et al. 2012)
    """
    tensors = _sequence("clip_by_global_norm", tensors)
    norm = global_norm(tensors) if use_norm is None else as_tensor(use_norm)
    scale = clip_norm / tp.maximum(norm, tp.astype(clip_norm, norm.dtype))
    scale = tp.where(tp.isfinite(norm), scale, float("nan"))
    scaled = [None if t is None else _gradient(t) for t in tensors]
    return [None if t is None else t * tp.astype(scale, t.dtype) for t in scaled], norm


def _gradient(x: Any) -> Any:
    return x if isinstance(x, IndexedRows) else as_tensor(x)


def _squares(x: Any) -> Tensor:
    """The sum of squares of all elements. Of rows: each entry times its row's total, so that rows that are named twice
    count as their sum."""
    return tp.sum(x.values * x.totals()) if isinstance(x, IndexedRows) else tp.sum(x * x)


def _sequence(function: str, tensors: Any) -> Sequence[Any]:
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"{function} takes a list or tuple of tensors, not a {type(tensors).__name__}; write [x]")
    return tensors
