"""How complex numbers get into a random program, and `plain_op`, which adds an op to a draft.

A draft of complex numbers (`Draft.is_complex`) draws a third of its ops from `COMPLEX`, a third from those that move
elements of any dtype, complex ones every other time (`Draft.kind`). The interval of a complex value is
that of its modulus; functions with branch cuts and poles get operands in a disc that is far from these.
"""

from __future__ import annotations

import math

import numpy as np

from tapefuse.ir import ops
from tapefuse.ir.graph import Value
from tapefuse.ir.op import constant
from tapefuse.ir.types import complex_dtype, size
from tests.program_draft import MAX_SIZE, Draft, is_never_empty, sizes
from tests.program_ops import MAKERS, Maker, count, makers, matrix_product, swapped

COMPLEX: dict[str, Maker] = {}
MOVING = ("add_at", "after", "broadcast", "concat", "cumsum", "flip", "gather", "missing_gradient", "pad", "put")
MOVING += ("put_add", "put_at", "reduce_sum", "reshape", "scatter_add", "select", "slice", "stop_gradient", "transpose")
CIRCLE = np.exp(2j * np.pi * np.arange(64) / 64)
DISCS: dict[str, tuple[complex, float]] = {  # centre and radius of where a function is drawn
    "acos": (0, 0.8), "acosh": (3 + 1j, 1.5), "asin": (0, 0.8), "asinh": (0, 0.8), "atan": (0, 0.8), "atanh": (0, 0.8),
    "cos": (0, 2), "cosh": (0, 2), "exp": (0, 2), "exp2": (0, 2), "expm1": (0, 2), "log": (2, 1.5), "log1p": (1, 1.5),
    "log2": (2, 1.5), "sin": (0, 2), "sinh": (0, 2), "sqrt": (2, 1.5), "tan": (0, 1.2), "tanh": (0, 1.2),
}  # fmt: skip


def plain_op(d: Draft) -> Value | None:
    """One more op that holds no graph, if the one drawn finds operands."""
    if not d.is_complex or d.chance(3):
        return MAKERS[d.one_of(tuple(MAKERS))](d)
    return MAKERS[d.one_of(MOVING)](d) if d.chance(2) else COMPLEX[d.one_of(tuple(COMPLEX))](d)


maker = makers(COMPLEX)


def in_disc(d: Draft, z: Value, centre: complex, radius: float) -> Value:
    """A function of the complex `z` with elements within a disc."""
    if d.magnitude(z) > radius:
        z = d.new(ops.mul(z, 0.99 * radius / d.magnitude(z)), 0, radius)
    return z if centre == 0 else d.new(ops.add(z, complex(centre)), 0, abs(centre) + radius)


def small(d: Draft, radius: float) -> Value:
    return in_disc(d, d.any_of("c"), 0, radius)


# -- parts ------------------------------------------------------------------------------------------------------------


@maker("complex")
def of_parts(d: Draft, name: str) -> Value:
    a = d.any_of("f")
    b = d.partner(a)
    return d.new(d.emit(name, a, b), 0, d.magnitude(a) + d.magnitude(b))


@maker("real", "imag", "modulus")
def part(d: Draft, name: str) -> Value:
    z = d.any_of("c")
    return d.new(d.emit(name, z), 0 if name == "modulus" else -d.magnitude(z), d.magnitude(z))


@maker("pairs")
def parts(d: Draft, name: str) -> Value | None:
    z = d.any_of("c", lambda v: len(v.shape) < 4 and 2 * max(sizes(size(v.shape))) <= MAX_SIZE)
    if len(z.shape) > 3 or 2 * max(sizes(size(z.shape))) > MAX_SIZE:
        return None
    return d.new(d.emit(name, z), -d.magnitude(z), d.magnitude(z))


@maker("from_pairs")
def of_pairs(d: Draft, name: str) -> Value:
    x = d.existing(lambda v: v.dtype.kind == "f" and len(v.shape) > 0 and v.shape[-1] == 2)
    x = d.param(d.dtype, (*d.shape(d.pick(0, 2)), 2)) if x is None else x
    return d.new(d.emit(name, x), 0, 1.5 * d.magnitude(x))


@maker("cast")
def converted(d: Draft, name: str) -> Value:
    """From real numbers, to the other width, to the real part, or to bools."""
    to = d.one_of((complex_dtype(d.dtype), np.dtype(np.complex64), np.dtype(np.complex128), d.dtype, np.dtype(bool)))
    if to.kind == "c":
        x = d.any_of(d.one_of(("f", "c", "b")))
        return d.new(ops.cast(x, dtype=to), 0, d.magnitude(x))
    x = d.any_of("c")
    if to.kind == "b":
        return d.new(ops.cast(x, dtype=to), 0, 1)
    return d.new(ops.cast(x, dtype=to), -d.magnitude(x), d.magnitude(x))


# -- elementwise ------------------------------------------------------------------------------------------------------


@maker("conj", "neg")
def turned(d: Draft, name: str) -> Value:
    z = d.any_of("c")
    return d.new(d.emit(name, z), 0, d.magnitude(z))


@maker(*DISCS)
def holomorphic(d: Draft, name: str) -> Value:
    """The largest modulus is on the rim of the disc."""
    centre, radius = DISCS[name]
    y = d.emit(name, in_disc(d, d.any_of("c"), centre, radius))
    return d.new(y, 0, 1.02 * float(np.abs(y.op.ref(centre + 1.001 * radius * CIRCLE)).max()))


@maker("add", "sub", "mul", "eq", "ne")
def binary(d: Draft, name: str) -> Value:
    a = d.any_of("c")
    b = d.partner(a)
    a, b = (a, b) if d.chance(2) else (b, a)
    if name in ("eq", "ne"):
        return d.new(d.emit(name, a, b))
    m, n = d.magnitude(a), d.magnitude(b)
    return d.new(d.emit(name, a, b), 0, m * n if name == "mul" else m + n)


@maker("div")
def quotient(d: Draft, name: str) -> Value:
    a = d.any_of("c")
    b = in_disc(d, d.partner(a), d.one_of((2, -2j, 1.5 + 1.5j)), 1.4)
    return d.new(d.emit(name, a, b), 0, d.magnitude(a) / 0.5)


@maker("pow")
def power(d: Draft, name: str) -> Value:
    a = in_disc(d, d.any_of("c"), 2, 1.4)
    if d.chance(2):
        n = d.one_of((2, 3, 0, 1, -1, -2, 0.5))
        return d.new(ops.pow(a, complex(n)), 0, max(0.5**n, 3.5**n))
    p = in_disc(d, d.partner(a), 0, 1.5)
    return d.new(ops.pow(a, p), 0, math.exp(1.5 * math.hypot(math.log(3.5), 0.8)))


# -- reductions, products, matrices -----------------------------------------------------------------------------------


@maker("reduce_prod")
def product(d: Draft, name: str) -> Value | None:
    x = d.any_of("c")
    axes = d.axes(len(x.shape))
    if count(x, axes) > 60:
        return None
    return d.new(d.emit(name, in_disc(d, x, 0, 1), axes=axes), 0, 1)


@maker("matmul")
def matrices(d: Draft, name: str) -> Value | None:
    return matrix_product(d, name, "c")


@maker("cholesky", "inv", "pinv", "det", "cofactors", "slogdet", "eigvalsh", "svdvals", "solve", "triangular_solve")
def decomposed(d: Draft, name: str) -> Value | None:
    """Of Hermitian matrices with eigenvalues from 1 to n^2 + 1."""
    n, dtype = d.one_of((2, 3, 1, 4)), complex_dtype(d.dtype)
    x = d.existing(lambda v: v.dtype == dtype and v.shape[-2:] == (n, n))
    x = in_disc(d, d.param(dtype, (*d.shape(d.one_of((0, 1, 1, 2))), n, n)) if x is None else x, 0, 1)
    if max(sizes(size(x.shape))) > MAX_SIZE or not is_never_empty(x.shape[-2:]):
        return None
    a = ops.matmul(x, ops.conj(ops.transpose(x, perm=swapped(len(x.shape)))))
    a = ops.add(a, constant(np.eye(n, dtype=dtype)))
    largest = float(n * n + 1)
    if name in ("solve", "triangular_solve"):
        return _system(d, name, a, n)
    more = (constant(1e-6, d.dtype),) if name == "pinv" else ()
    attrs = {"upper": d.chance(2)} if name == "eigvalsh" else {}
    most = {"inv": 1.0, "pinv": 1.0, "det": largest**n, "cofactors": largest**n}.get(name, largest)
    return d.new(d.emit(name, a, *more, **attrs), 0, most)


def _system(d: Draft, name: str, a: Value, n: int) -> Value | None:
    b = d.existing(lambda v: v.dtype == a.dtype and v.shape[-2:-1] == (n,) and v.shape[:-2] in ((), a.shape[:-2]))
    b = d.param(a.dtype, (*a.shape[:-2], n, d.extent())) if b is None else b
    if max(sizes(size(a.shape[:-2]))) * max(sizes(size(b.shape[-2:]))) > MAX_SIZE:
        return None
    most = n**0.5 * max(d.magnitude(b), 1e-3)
    if name == "solve":
        return d.new(d.emit(name, a, b), 0, most)
    kind = {"lower": True, "transpose": d.chance(2), "unit": False}
    return d.new(d.emit(name, ops.cholesky(a), b, **kind), 0, most)
