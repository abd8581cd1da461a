"""Complex numbers and their parts. What holomorphic functions are of them stands with the real ones.

The cotangent of a complex z = x + iy is dL/dx + i dL/dy. So the cotangent of the operand of a holomorphic f is
g conj(f'(z)), which `family.products` makes of the rule for reals; operations here are not holomorphic, and say
themselves how cotangents and tangents pass. Programs compute with real numbers only: `ir.passes.complex`.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir.halves import is_half
from tapefuse.ir.op import Op, defop, register
from tapefuse.ir.ops.elementwise import add, div, mul, neg
from tapefuse.ir.ops.family import (
    draw,
    quiet,
    read_aligned,
    same_dtype,
    same_inner_rank,
    unary_sample,
    unbroadcast,
    zeros_like,
)
from tapefuse.ir.ops.logic import eq, select
from tapefuse.ir.types import Type, broadcast_shapes, complex_dtype, real_dtype, show_dtype


@defop
class complex:
    """a + ib of real numbers; broadcasting."""

    def ref(a, b):
        a, b = np.broadcast_arrays(a, b)
        y = np.empty(a.shape, complex_dtype(a.dtype))
        y.real, y.imag = a, b
        return y

    def type(a, b):
        dtype = same_dtype([a, b], "f")
        if is_half(dtype):
            raise DTypeError(f"there are no complex numbers with parts of {show_dtype(dtype)}; cast them to f32 first")
        return Type(complex_dtype(dtype), broadcast_shapes(a.shape, b.shape))

    def vjp(g, y, a, b):
        return [unbroadcast(real(g), a), unbroadcast(imag(g), b)]

    def jvp(ts, y, a, b):
        ta, tb = ts
        if ta is None and tb is None:
            return None
        ta, tb = (zeros_like(x) if t is None else t for t, x in zip(ts, (a, b), strict=True))
        return complex(ta, tb)

    def batch(flags, *xs):
        return complex(*same_inner_rank(flags, xs))

    def at(b, i, *xs):
        return b.op("complex", *read_aligned(b, i, xs))

    def sample(rng, dtype):
        shapes = ((7, 3), (3,)), ((7, 3), (7, 3)), ((2, 1), (7,)), ((), ())
        return [((draw(rng, dtype, s), draw(rng, dtype, t)), {}) for s, t in shapes]

    elementwise = True
    dtypes = "f"


def _of_complex(
    name: str, ref: Callable[..., Any], is_real: bool, vjp: Callable[..., Any], jvp: Callable[..., Any], doc: str
) -> Op:
    """A function of complex numbers; `vjp(g, y, x)` and `jvp(t, y, x)` give its derivatives along both parts."""

    def type(x: Type) -> Type:
        dtype = same_dtype([x], "c")
        return Type(real_dtype(dtype) if is_real else dtype, x.shape)

    op = Op(
        name=name,
        doc=doc,
        ref=quiet(ref),
        type=type,
        vjp=lambda g, y, x: [vjp(g, y, x)],
        jvp=lambda ts, y, x: jvp(ts[0], y, x),
        batch=lambda flags, x: op(x),
        sample=unary_sample(),
        at=lambda b, i, x: b.op(name, x(i)),
        elementwise=True,
        dtypes="c",
    )
    return register(op)


def _direction(x: Any, y: Any) -> tuple[Any, Any]:
    """The parts of x / |x|; 0 at 0."""
    length = select(eq(y, 0), 1, y)
    return div(real(x), length), div(imag(x), length)


def _modulus_vjp(g: Any, y: Any, x: Any) -> Any:
    """g x / |x|."""
    a, b = _direction(x, y)
    return complex(mul(g, a), mul(g, b))


def _modulus_jvp(t: Any, y: Any, x: Any) -> Any:
    a, b = _direction(x, y)
    return add(mul(real(t), a), mul(imag(t), b))


real: Op = _of_complex(
    "real",
    lambda x: np.positive(np.real(x)),  # a copy
    True,
    lambda g, y, x: complex(g, zeros_like(g)),
    lambda t, y, x: real(t),
    "The real part.",
)
imag: Op = _of_complex(
    "imag",
    lambda x: np.positive(np.imag(x)),
    True,
    lambda g, y, x: complex(zeros_like(g), g),
    lambda t, y, x: imag(t),
    "The imaginary part.",
)
conj: Op = _of_complex(
    "conj", np.conjugate, False, lambda g, y, x: conj(g), lambda t, y, x: conj(t), "The complex conjugate."
)
modulus: Op = _of_complex(
    "modulus", np.abs, True, _modulus_vjp, _modulus_jvp, "The absolute value, without overflow; derivative 0 at 0."
)


def rotated(x: Any) -> Any:
    """i x."""
    return complex(neg(imag(x)), real(x))
