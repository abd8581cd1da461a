"""How Fourier transforms get into a random program; importing this adds their makers to `program_ops.MAKERS`."""

from __future__ import annotations

import math

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.ops.fourier import TRANSPOSED, bins
from tapefuse.ir.types import Dim, size
from tests.program_draft import MAX_SIZE, Draft, sizes
from tests.program_ops import maker


def _rows(d: Draft) -> Value:
    """A float with at least one axis, small enough to have an imaginary part."""
    fits = lambda v: 0 < len(v.shape) < 4 and 2 * max(sizes(size(v.shape))) <= MAX_SIZE
    found = d.any_of("f", fits)
    return found if fits(found) else d.param(d.dtype, (2, d.one_of((4, 3, 1, 7))))


def _pairs(d: Draft) -> Value:
    """A float whose last axis is real and imaginary part."""
    found = d.existing(lambda v: v.dtype.kind == "f" and len(v.shape) > 1 and v.shape[-1] == 2)
    if found is not None:
        return found
    x = _rows(d)
    parts = [ops.reshape(p, shape=(*x.shape, 1)) for p in (x, ops.sin(x))]
    most = max(d.magnitude(x), 1)
    return d.new(ops.concat(*parts, axis=len(x.shape)), -most, most)


def _transformed(d: Draft, y: Value, x: Value, n: Dim, norm: str, inverse: bool) -> Value:
    points = max(*sizes(n), 1)
    power = {"ortho": 0.5, "forward" if inverse else "backward": 0}.get(norm, 1)
    most = max(2 * points * d.magnitude(x) / math.pow(points, power), 1e-3)
    return d.new(y, -most, most)


@maker("dft")
def transformed(d: Draft, name: str) -> Value:
    x, norm, inverse = _pairs(d), d.one_of(tuple(TRANSPOSED)), d.chance(2)
    axis = d.pick(0, len(x.shape) - 2)
    y = d.emit(name, x, axis=axis, inverse=inverse, norm=norm)
    return _transformed(d, y, x, x.shape[axis], norm, inverse)


@maker("rdft")
def half_spectrum(d: Draft, name: str) -> Value | None:
    x, norm = _rows(d), d.one_of(tuple(TRANSPOSED))
    axis = d.pick(0, len(x.shape) - 1)
    if bins(x.shape[axis]) is None:
        return None
    return _transformed(d, d.emit(name, x, axis=axis, norm=norm), x, x.shape[axis], norm, False)


@maker("irdft")
def from_half_spectrum(d: Draft, name: str) -> Value:
    x, norm = _pairs(d), d.one_of(tuple(TRANSPOSED))
    axis = d.pick(0, len(x.shape) - 2)
    if min(sizes(x.shape[axis])) < 1:
        x, axis = d.param(d.dtype, (3, 2)), 0
    m = x.shape[axis]
    n = 2 * m - (1 if d.chance(2) or min(sizes(m)) < 2 else 2)
    return _transformed(d, d.emit(name, x, axis=axis, n=n, norm=norm), x, n, norm, True)
