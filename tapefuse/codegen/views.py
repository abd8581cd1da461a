"""Views of arrays in memory: where the elements of a transposed, reshaped, sliced or repeated value lie.

`view(transpose(reshape(x[8,32,64], (8,32,4,16)), (0,2,1,3)))` is x with steps (2048, 16, 64, 1): heads of attention are
read where they are, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

from tapefuse._records import dataclass
from tapefuse.codegen.builder import Builder
from tapefuse.codegen.loops import ZERO, Scalar
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Shape, size


@dataclass(frozen=True, slots=True)
class View:
    """Element i of a value is element `offset + sum(i * steps)` of `base`'s memory, in row-major order."""

    base: Value
    offset: Dim
    steps: tuple[Dim, ...]

    def element(self, b: Builder, index: Sequence[Scalar]) -> tuple[Scalar, ...]:
        """Where element `index` of the value lies, as an index into `base` whose last component counts elements."""
        linear = b.dim(self.offset)
        for i, step in zip(index, self.steps, strict=True):
            linear = b.op("add", linear, b.op("mul", i, b.dim(step)))
        return (*(ZERO for _ in self.base.shape[1:]), linear)


def row_major(shape: Shape) -> tuple[Dim, ...]:
    return tuple(size(shape[k + 1 :]) for k in range(len(shape)))


def itself(value: Value) -> View:
    return View(value, 0, row_major(value.shape))


def view(value: Value) -> View:
    """What a value is a view of, as far down as steps can tell; itself if it is no view."""
    if value.op is None or value.op.name not in _VIEWS:
        return itself(value)
    return _VIEWS[value.op.name](value, view(value.args[0])) or itself(value)


def _transposed(value: Value, x: View) -> View:
    return View(x.base, x.offset, tuple(x.steps[axis] for axis in value.attributes["perm"]))


def _repeated(value: Value, x: View) -> View:
    axes = value.attributes["axes"]
    steps = (x.steps[axes.index(k)] if k in axes else 0 for k in range(len(value.shape)))
    return View(x.base, x.offset, tuple(steps))


def _part(value: Value, x: View) -> View:
    starts, strides = value.attributes["starts"], value.attributes["strides"]
    offset = sum((a * s for a, s in zip(starts, x.steps, strict=True)), start=x.offset)
    return View(x.base, offset, tuple(s * d for s, d in zip(x.steps, strides, strict=True)))


def _reshaped(value: Value, x: View) -> View | None:
    """Axes may be split and those of extent 1 come and go; axes are joined only where they lie row by row."""
    source = [(n, s) for n, s in zip(value.args[0].shape, x.steps, strict=True) if n != 1]
    steps: list[Dim] = []
    for n in reversed(value.shape):
        if n == 1:
            steps.append(0)
            continue
        if not source:
            return None
        extent, step = source.pop()
        while extent != n and source and not _divides(n, extent) and source[-1][1] == extent * step:
            extent = extent * source.pop()[0]  # the axis before lies around this one: one axis
        if extent != n:
            if not _divides(n, extent):
                return None
            source.append((extent // n, n * step))  # type: ignore[operator]
        steps.append(step)
    return View(x.base, x.offset, tuple(reversed(steps))) if not source else None


def _divides(n: Dim, extent: Dim) -> bool:
    return isinstance(n, int) and isinstance(extent, int) and n > 0 and extent % n == 0 and extent > 0


_VIEWS = {"transpose": _transposed, "broadcast": _repeated, "slice": _part, "reshape": _reshaped}
