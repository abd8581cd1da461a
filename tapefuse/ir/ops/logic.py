"""Comparisons, logic and selection, casts, and the identities that stop or lack a derivative."""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir.halves import kind_of
from tapefuse.ir.op import Op, defop
from tapefuse.ir.ops.family import (
    BOOL,
    batch_size,
    binary_sample,
    draw,
    dtype_of,
    elementwise,
    quiet,
    read_aligned,
    same_dtype,
    same_inner_rank,
    tangent,
    unary_sample,
    unbroadcast,
    with_batch,
)
from tapefuse.ir.types import Type, broadcast_shapes, has_derivatives, show_dtype

NUMBERS, BITS = "fiu", "iub"  # what has an order, what has bits
ARITHMETIC = "fciu"  # what has sums and products


def comparison(name: str, ref: np.ufunc, doc: str, kinds: str = NUMBERS) -> Op:
    return elementwise(name, ref, (None, None), binary_sample(), doc=doc, kinds=kinds, result=BOOL)


def bitwise(name: str, ref: np.ufunc, doc: str) -> Op:
    return elementwise(name, ref, (None, None), binary_sample(), doc=doc, kinds=BITS)


eq = comparison("eq", np.equal, "a == b; nan equals nothing.", kinds="fciub")
ne = comparison("ne", np.not_equal, "a != b; nan differs from everything.", kinds="fciub")
lt = comparison("lt", np.less, "a < b.")
le = comparison("le", np.less_equal, "a <= b.")
gt = comparison("gt", np.greater, "a > b.")
ge = comparison("ge", np.greater_equal, "a >= b.")

and_ = bitwise("and", np.bitwise_and, "Logical and of bools, bitwise and of integers.")
or_ = bitwise("or", np.bitwise_or, "Logical or of bools, bitwise or of integers.")
xor_ = bitwise("xor", np.bitwise_xor, "Exclusive or of bools, bitwise of integers.")
not_ = elementwise("not", np.invert, (None,), unary_sample(), doc="Logical not of bools, bitwise of ints.", kinds=BITS)


_SELECT = (None, lambda g, y, c, a, b: select(c, g, 0), lambda g, y, c, a, b: select(c, 0, g))


@defop
class select:
    """`a` where `c` is true, else `b`; broadcasting. The operand that was not taken has gradient 0, not None."""

    def ref(c, a, b):
        return np.where(c, a, b)

    def type(c, a, b):
        if c.dtype != BOOL:
            raise DTypeError(f"the condition must be bool, not {show_dtype(c.dtype)}; compare it with something")
        return Type(same_dtype([a, b], "fciub"), broadcast_shapes(c.shape, a.shape, b.shape))

    def vjp(g, y, c, a, b):
        return [None, unbroadcast(select(c, g, 0), a), unbroadcast(select(c, 0, g), b)]

    def jvp(ts, y, c, a, b):
        return tangent(_SELECT, ts, y, c, a, b)

    def batch(flags, *xs):
        return select(*same_inner_rank(flags, xs))

    def at(b, i, *xs):
        return b.op("select", *read_aligned(b, i, xs))

    def sample(rng, dtype):
        shapes = ((7, 3), (7, 3), (7, 3)), ((7, 1), (3,), ()), ((), (2,), (2,)), ((3,), (), (7, 1))
        return [((draw(rng, bool, c), draw(rng, dtype, a), draw(rng, dtype, b)), {}) for c, a, b in shapes]

    elementwise = True
    dtypes = "fciub"


def _is_smooth(x, dtype) -> bool:
    return has_derivatives(dtype_of(x)) and has_derivatives(np.dtype(dtype))


@defop
class cast:
    """Convert to `dtype` as `ndarray.astype` does; of complex numbers the real part becomes a real number.

    Differentiable between floating-point and complex dtypes only.
    """

    @quiet
    def ref(x, *, dtype):
        x = np.asarray(x)
        return (x.real if x.dtype.kind == "c" and kind_of(np.dtype(dtype)) in "fiu" else x).astype(dtype)

    def type(x, *, dtype):
        same_dtype([x, Type(x.dtype, ())], "fciub")
        return Type(np.dtype(dtype), x.shape)

    def vjp(g, y, x, *, dtype):
        return [cast(g, dtype=dtype_of(x)) if _is_smooth(x, dtype) else None]

    def jvp(ts, y, x, *, dtype):
        return cast(ts[0], dtype=dtype) if _is_smooth(x, dtype) else None

    def batch(flags, x, *, dtype):
        return cast(x, dtype=dtype)

    def at(b, i, x, *, dtype):
        return b.cast(x(i), np.dtype(dtype))

    def sample(rng, dtype):
        x = draw(rng, dtype, (7, 3), 0.0)
        return [((x,), {"dtype": np.dtype(d)}) for d in ("f8", "f4", "i8", "i4", "u1", "?", "c16", "c8")]

    elementwise = True
    dtypes = "fciub"


@defop
class stop_gradient:
    """The operand itself; derivatives do not pass."""

    def ref(x):
        return np.asarray(x)

    def type(x):
        return x

    def vjp(g, y, x):
        return [None]

    def jvp(ts, y, x):
        return None

    def batch(flags, x):
        return stop_gradient(x)

    def at(b, i, x):
        return x(i)

    def sample(rng, dtype):
        return [((draw(rng, dtype, (7, 3)),), {})]

    elementwise = True
    dtypes = "fciub"


@defop
class credit:
    """`x`, as something read from `source`: derivatives go there, and not to `x`.

    What a variable is read as after an assignment: a gradient for the variable counts all reads of it.
    """

    def ref(x, source):
        return np.asarray(x)

    def type(x, source):
        if x != source:
            raise DTypeError(f"a value of {x} is not read from {source}")
        return x

    def vjp(g, y, x, source):
        return [None, g]

    def jvp(ts, y, x, source):
        return ts[1]

    def batch(flags, x, source):
        n = batch_size(flags, (x, source))
        return credit(*[z if f else with_batch(z, n) for z, f in zip((x, source), flags, strict=True)])

    def at(b, i, x, source):
        return x(i)

    def sample(rng, dtype):
        return [((draw(rng, dtype, (7, 3)), draw(rng, dtype, (7, 3))), {})]

    dtypes = "fc"


@defop
class missing_gradient:
    """The operand itself, as the result of an operation `name` that has no derivative rule: LookupError on a path."""

    def ref(x, *, name):
        return np.asarray(x)

    def type(x, *, name):
        return x

    vjp = None
    jvp = None

    def batch(flags, x, *, name):
        return missing_gradient(x, name=name)

    def at(b, i, x, *, name):
        return x(i)

    def sample(rng, dtype):
        return [((draw(rng, dtype, (7, 3)),), {"name": "adjust_contrast"})]

    elementwise = True
    dtypes = "fciub"
