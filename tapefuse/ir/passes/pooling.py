"""Rules of `simplify` on windows: work on all elements of a maximum's derivative is work on the windows."""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.rewrite import p, rule, variables

(y, v, index) = variables("y v index")
ATTRIBUTES = "window", "strides", "low", "high"


def _windows(placed: Value) -> dict:
    return {name: placed.attributes[name] for name in ATTRIBUTES}


def _is_maximum(placed: Value) -> bool:
    """Whether values are placed where windows have their maximum: never outside the array."""
    index = placed.args[1]
    return index.op is ops.window_argmax and index.attributes == _windows(placed)


def masked_before(root: Value, y: Value, v: Value) -> Value | None:
    """Where an element is its window's maximum, it is positive if the maximum is."""
    placed = root.args[1]
    if not _is_maximum(placed) or placed.args[1].args != (y,) or placed.shape != root.shape:
        return None
    positive = ops.gt(ops.window_max(y, **_windows(placed)), 0)
    return ops.window_place(ops.select(positive, v, 0), placed.args[1], **placed.attributes)


def sum_of_placed(root: Value, v: Value) -> Value | None:
    """What is placed among zeros has the sum that it had, if the sum is over all axes along which windows lie."""
    placed = root.args[0]
    pairs = zip(placed.attributes["window"], placed.attributes["strides"], strict=True)
    moving = {axis for axis, (window, stride) in enumerate(pairs) if window > 1 or stride > 1}
    axes = root.attributes["axes"]
    return ops.reduce_sum(v, axes=axes) if moving <= set(axes) and _is_maximum(placed) else None


# fmt: off
RULES = (
    rule("mask_windows", p.select(p.gt(y, 0), p.window_place(v, index), 0), masked_before),  # y > 0 where max y > 0
    rule("sum_windows", p.reduce_sum(p.window_place(v, index)), sum_of_placed),              # sum(place(v)) = sum(v)
)
# fmt: on
