"""Rules of `simplify` on ops that move elements: they change where a value is read, or merge two moves."""

from __future__ import annotations

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Op
from tapefuse.ir.passes.arithmetic import fill, number
from tapefuse.ir.passes.one_hot import one_hot
from tapefuse.ir.rewrite import Pattern, p, rule, variables

x, perm, first, then, axes, inner, outer = variables("x perm first then axes inner outer")

IDEMPOTENT = frozenset({"maximum", "minimum", "and", "or"})  # reductions that merge without a change of rounding


def is_reduction(op: Op) -> bool:
    return op.reduction is not None


def transpose_as_reshape(root: Value, x: Value, perm: tuple[int, ...]) -> Value | None:
    """A transpose that moves only axes of extent 1 is a reshape (the identity too: `reshape_same` removes it)."""
    moved = [a for a in perm if x.shape[a] != 1]
    return ops.reshape(x, shape=root.shape) if moved == sorted(moved) else None


def transposed_broadcast(root: Value, x: Value, axes: tuple[int, ...], perm: tuple[int, ...]) -> Value:
    """transpose(broadcast x) = broadcast(transpose x): the smaller array is moved."""
    places = [perm.index(a) for a in axes]  # where the axes of x go
    order = tuple(sorted(range(len(axes)), key=places.__getitem__))
    return ops.broadcast(ops.transpose(x, perm=order), shape=root.shape, axes=tuple(sorted(places)))


def without_unit_axes(root: Value) -> Value | None:
    """A reduction takes nothing together along axes of extent 1; but a sum starts at 0, which turns -0 into 0."""
    assert root.op is not None
    (x,), axes = root.args, root.attributes["axes"]
    units = {a for a in axes if x.shape[a] == 1}
    if axes and not units:
        return None
    kept = [a for a in range(len(x.shape)) if a not in units]
    small = ops.reshape(x, shape=tuple(x.shape[a] for a in kept))
    if len(units) < len(axes):
        return root.op.emit(small, axes=tuple(kept.index(a) for a in axes if a not in units))
    return ops.add(small, number(0, x)) if root.op is ops.reduce_sum and kind_of(x.dtype) == "f" else small


def merged_reductions(root: Value) -> Value | None:
    """max(max(x)) over two sets of axes is one max over both; sums keep their order of summation."""
    (middle,) = root.args
    if root.op is not middle.op or root.op is None or root.op.reduction not in IDEMPOTENT:
        return None
    first = middle.attributes["axes"]
    kept = [a for a in range(len(middle.args[0].shape)) if a not in first]
    return root.op.emit(middle.args[0], axes=tuple(sorted((*first, *(kept[a] for a in root.attributes["axes"])))))


def slice_same(root: Value, x: Value) -> Value | None:
    a = root.attributes
    whole = not any(a["starts"]) if all(isinstance(s, int) for s in a["starts"]) else False
    return x if whole and a["limits"] == x.shape and all(s == 1 for s in a["strides"]) else None


def slice_slice(root: Value) -> Value | None:
    """x[a:b][c:d:s] = x[a+c:a+d:s]."""
    (middle,) = root.args
    inner, outer = middle.attributes, root.attributes
    if any(s != 1 for s in inner["strides"]):
        return None
    shifted = {k: tuple(a + b for a, b in zip(inner["starts"], outer[k], strict=True)) for k in ("starts", "limits")}
    return ops.slice_(middle.args[0], strides=outer["strides"], **shifted)


def pad_nothing(root: Value, x: Value) -> Value | None:
    a = root.attributes
    widths = (*a["low"], *a["high"], *a["interior"])
    return x if all(isinstance(w, int) and w == 0 for w in widths) else None


def pads_side_by_side(root: Value) -> Value | None:
    """pad(x) + pad(y), where y begins where x ends, pads both at once: the gradient of taking an array apart.

    What is added to x and y is 0, which turns -0 into 0.
    """
    for left, right in (root.args, root.args[::-1]):
        a, b = left.attributes, right.attributes
        plain = all(w == 0 for w in (*a["interior"], *b["interior"])) and str(a["value"]) == str(b["value"]) == "0"
        axes = [k for k in range(len(root.shape)) if (a["low"][k], a["high"][k]) != (b["low"][k], b["high"][k])]
        if not plain or left.shape != right.shape or len(axes) != 1:
            return None
        (axis,), (x,), (y,) = axes, left.args, right.args
        if a["low"][axis] + x.shape[axis] == b["low"][axis]:
            pieces = [_not_minus_zero(v) for z in (x, y) for v in _pieces(z, axis)]
            high = (*a["high"][:axis], b["high"][axis], *a["high"][axis + 1 :])
            return ops.pad(ops.concat(*pieces, axis=axis), low=a["low"], high=high, interior=a["interior"], value=0)
    return None


def _pieces(v: Value, axis: int) -> tuple[Value, ...]:
    return v.args if v.op is ops.concat and v.attributes["axis"] == axis else (v,)


def _not_minus_zero(v: Value) -> Value:
    zero = number(0, v)
    return v if v.op is ops.add and zero in v.args else ops.add(v, zero)


def _is_identity(perm: tuple[int, ...]) -> bool:
    return perm == tuple(range(len(perm)))


# fmt: off
RULES = (
    # transposes
    rule("transpose_same", p.transpose(x, perm=perm), lambda x, perm: x if _is_identity(perm) else None),
    rule("transpose_transpose", p.transpose(p.transpose(x, perm=first), perm=then),
         lambda x, first, then: ops.transpose(x, perm=tuple(first[k] for k in then))),         # (x^T)^T = x
    rule("transpose_units", p.transpose(x, perm=perm), transpose_as_reshape),                  # [B,1]^T is a reshape
    rule("transpose_broadcast", p.transpose(p.broadcast(x, axes=axes), perm=perm), transposed_broadcast),
    # reshapes
    rule("reshape_same", p.reshape(x), lambda root, x: x if x.shape == root.shape else None),  # nothing changes
    rule("reshape_reshape", p.reshape(p.reshape(x)),
         lambda root, x: ops.reshape(x, shape=root.shape)),                                    # the last one counts
    rule("reshape_fill", p.reshape(p.broadcast(x, axes=())),
         lambda root, x: fill(x, root.shape)),                                                 # a repeated scalar
    # broadcasts
    rule("broadcast_same", p.broadcast(x), lambda root, x: x if x.shape == root.shape else None),
    rule("broadcast_broadcast", p.broadcast(p.broadcast(x, axes=inner), axes=outer),
         lambda root, x, inner, outer: ops.broadcast(x, shape=root.shape, axes=tuple(outer[a] for a in inner))),
    # reductions
    rule("reduce_units", Pattern(is_reduction), without_unit_axes),                            # over no or 1 element
    rule("reduce_reduce", Pattern(is_reduction, (Pattern(is_reduction),)), merged_reductions),  # max of max
    # cuts
    rule("slice_same", p.slice(x), slice_same),                                                # x[:] = x
    rule("slice_slice", p.slice(p.slice(x)), slice_slice),                                     # x[a:][b:] = x[a+b:]
    rule("pad_nothing", p.pad(x), pad_nothing),                                                # no new elements
    rule("pads_side_by_side", p.add(Pattern("pad"), Pattern("pad")), pads_side_by_side),       # x and y in one padding
    rule("concat_one", p.concat(x), lambda x: x),                                              # nothing to join
    rule("flip_nothing", p.flip(x, axes=axes),
         lambda x, axes: x if all(x.shape[a] == 1 for a in axes) else None),                   # 1 element has no order
    rule("flip_flip", p.flip(p.flip(x, axes=axes), axes=axes), lambda x: x),                   # twice is back
    # scatters
    rule("one_hot", Pattern("scatter_add"), one_hot),                                          # see there
)
# fmt: on
