"""Elementwise functions, in the dtypes that NumPy's ufuncs of the same names choose."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir import ops
from tapefuse.ir.halves import kind_of, of_ufunc
from tapefuse.ir.op import Op
from tapefuse.numpy import lexicographic
from tapefuse.tracer import eager
from tapefuse.tracer.arrays import check_dtype
from tapefuse.tracer.promote import cast as _cast
from tapefuse.tracer.promote import common, floats, operands, strength
from tapefuse.tracer.source import called, user_loc, user_stacklevel
from tapefuse.tracer.tensor import Tensor, as_tensor, still

_ON_BOOL: dict[Any, Op] = {ops.add: ops.or_, ops.mul: ops.and_, ops.maximum: ops.or_, ops.minimum: ops.and_}
_ORDER = {ops.lt, ops.le, ops.gt, ops.ge}


def _squared(x: Tensor) -> Tensor:
    return ops.mul(x, x)


def _itself(x: Tensor) -> Tensor:
    return still(x)


def _truncated(x: Tensor) -> Tensor:
    return x if x.dtype.kind in "biu" else ops.select(ops.lt(x, 0), ops.ceil(x), ops.floor(x))


def _direction(z: Tensor) -> Tensor:
    """z / |z|; 0, whose sign is +, at 0; if one part is infinite, its sign."""
    length, parts = ops.modulus(z), (ops.real(z), ops.imag(z))
    is_zero, is_infinite = ops.eq(length, 0), ops.eq(length, math.inf)
    signs = [ops.select(ops.eq(ops.abs(x), math.inf), ops.sign(x), 0) for x in parts]
    is_unknown = ops.ne(ops.mul(*signs), 0)
    finite = [ops.select(is_zero, 0, ops.div(x, ops.select(is_zero, 1, length))) for x in parts]
    limits = [ops.select(is_unknown, math.nan, x) for x in signs]
    return ops.complex_(*[ops.select(is_infinite, x, y) for x, y in zip(limits, finite, strict=True)])


def _elementwise(
    ufunc: np.ufunc, op: Op | Callable[..., Tensor], doc: str, name: str | None = None
) -> Callable[..., Tensor]:
    """The function that computes `op` in the dtype that `ufunc` would choose."""

    def general(*xs: Any, dtype: Any = None) -> Tensor:
        if dtype is not None:
            xs = _computed_in(dtype, xs, ufunc)
        tensors = floats(xs)
        if tensors is not None and len(xs) == ufunc.nin:
            return op(*tensors)
        if len(xs) != ufunc.nin:
            raise TypeError(f"{function.__name__} at {user_loc()} takes {ufunc.nin} operands, got {len(xs)}")
        tensors = operands(ufunc, *xs)
        if tensors[0].dtype.kind == "c":
            return _of_complex(function.__name__, op)(*tensors)
        if tensors[0].dtype.kind != "b":
            return op(*tensors)
        if op in _ORDER:
            return op(*[_cast(x, np.dtype(np.uint8)) for x in tensors])
        result: Tensor = _ON_BOOL.get(op, op)(*tensors)
        return result

    short = eager.unary if ufunc.nin == 1 else eager.binary
    function = short(op, general) if isinstance(op, Op) else general
    function.__name__ = function.__qualname__ = name or ufunc.__name__
    general.__code__ = general.__code__.replace(co_name=function.__name__)  # what tracebacks and messages say
    function.__doc__ = doc
    return function


_ON_COMPLEX: dict[Any, Callable[..., Tensor]] = {
    ops.ge: lexicographic.greater_equal,
    ops.gt: lexicographic.greater,
    ops.le: lexicographic.less_equal,
    ops.lt: lexicographic.less,
    ops.maximum: lexicographic.maximum,
    ops.minimum: lexicographic.minimum,
    ops.round: lambda z: ops.complex_(ops.round(ops.real(z)), ops.round(ops.imag(z))),
    ops.sign: _direction,
}


def _of_complex(name: str, op: Any) -> Callable[..., Tensor]:
    """What computes an operation on complex numbers. Raises DTypeError if it has no meaning for them."""
    found = _ON_COMPLEX.get(op, op)
    if isinstance(found, Op) and "c" not in found.dtypes:
        raise DTypeError(
            f"{name} at {user_loc()} has no meaning for complex numbers; take it of tp.real(z), tp.imag(z) or tp.abs(z)"
        )
    return found


def inexact(x: Any) -> Tensor:
    """Floating-point and complex numbers as they are, others as float64."""
    x = as_tensor(x)
    return x if kind_of(x.dtype) in "fc" else astype(x, np.float64)


def real_only(x: Any) -> Tensor:
    """`x` as a tensor. Raises DTypeError for complex numbers."""
    x = as_tensor(x)
    if x.dtype.kind == "c":
        raise DTypeError(f"{called()}: it has no meaning for complex numbers; take it of tp.real(z), tp.imag(z) or "
                         "tp.abs(z)")  # fmt: skip
    return x


def _computed_in(dtype: Any, xs: tuple, ufunc: np.ufunc) -> tuple:
    """Operands as the option `dtype=` of a ufunc has them. Raises DTypeError where that would lose their kind."""
    target = check_dtype(dtype, "a value")
    if of_ufunc(ufunc, [target] * ufunc.nin)[0].kind == "b":
        return xs
    for x in map(as_tensor, xs):
        if not np.can_cast(x.dtype, target, "same_kind"):
            raise DTypeError(
                f"np.{ufunc.__name__}(dtype={target}) at {user_loc()}: an operand of dtype {x.dtype} does not become "
                "one without losing its kind; cast it first with tp.cast"
            )
    return tuple([astype(x, target) for x in xs])


add = _elementwise(np.add, ops.add, "x + y; `or` of bools.")
subtract = _elementwise(np.subtract, ops.sub, "x - y.")
multiply = _elementwise(np.multiply, ops.mul, "x y; `and` of bools.")
divide = true_divide = _elementwise(np.divide, ops.div, "x / y; integers give float64.")
floor_divide = _elementwise(np.floor_divide, ops.floordiv, "x / y rounded down.")
mod = remainder = _elementwise(np.remainder, ops.mod, "x - y floor(x / y): the sign of y.")
maximum = _elementwise(np.maximum, ops.maximum, "The larger of x and y; at a tie the gradient is x's.")
minimum = _elementwise(np.minimum, ops.minimum, "The smaller of x and y; at a tie the gradient is x's.")
equal = _elementwise(np.equal, ops.eq, "x == y.")
not_equal = _elementwise(np.not_equal, ops.ne, "x != y.")
less = _elementwise(np.less, ops.lt, "x < y.")
less_equal = _elementwise(np.less_equal, ops.le, "x <= y.")
greater = _elementwise(np.greater, ops.gt, "x > y.")
greater_equal = _elementwise(np.greater_equal, ops.ge, "x >= y.")
bitwise_and = _elementwise(np.bitwise_and, ops.and_, "x & y.")
bitwise_or = _elementwise(np.bitwise_or, ops.or_, "x | y.")
bitwise_xor = _elementwise(np.bitwise_xor, ops.xor_, "x ^ y.")
invert = bitwise_not = bitwise_invert = _elementwise(np.invert, ops.not_, "~x: `not` of bools, bitwise of integers.")
negative = _elementwise(np.negative, ops.neg, "-x.")
exp = _elementwise(np.exp, ops.exp, "e ** x.")
expm1 = _elementwise(np.expm1, ops.expm1, "e ** x - 1, exact near 0.")
log = _elementwise(np.log, ops.log, "Natural logarithm.")
log1p = _elementwise(np.log1p, ops.log1p, "log(1 + x), exact near 0.")
sin = _elementwise(np.sin, ops.sin, "Sine.")
cos = _elementwise(np.cos, ops.cos, "Cosine.")
tan = _elementwise(np.tan, ops.tan, "Tangent.")
asin = arcsin = _elementwise(np.arcsin, ops.asin, "Arc sine; nan beyond 1.")
acos = arccos = _elementwise(np.arccos, ops.acos, "Arc cosine; nan beyond 1.")
atan = arctan = _elementwise(np.arctan, ops.atan, "Arc tangent.")
atan2 = arctan2 = _elementwise(np.arctan2, ops.atan2, "The angle of the point (y, x), -pi to pi.")
sinh = _elementwise(np.sinh, ops.sinh, "Hyperbolic sine.")
cosh = _elementwise(np.cosh, ops.cosh, "Hyperbolic cosine.")
exp2 = _elementwise(np.exp2, ops.exp2, "2 ** x.")
log2 = _elementwise(np.log2, ops.log2, "Logarithm to base 2.")
tanh = _elementwise(np.tanh, ops.tanh, "Hyperbolic tangent.")
sqrt = _elementwise(np.sqrt, ops.sqrt, "Square root; nan below 0.")
sign = _elementwise(np.sign, ops.sign, "-1, 0 or 1; its derivative is 0.")
floor = _elementwise(np.floor, ops.floor, "Round down.")
ceil = _elementwise(np.ceil, ops.ceil, "Round up.")
rint = _elementwise(np.rint, ops.round, "Round to the nearest integer, halves to the even one.")
rsqrt = _elementwise(np.sqrt, ops.rsqrt, "1 / sqrt(x).", "rsqrt")
sigmoid = _elementwise(np.exp, ops.sigmoid, "1 / (1 + e ** -x).", "sigmoid")
softplus = _elementwise(np.exp, ops.softplus, "log(1 + e ** x), without early overflow.", "softplus")
erf = _elementwise(np.exp, ops.erf, "Error function.", "erf")
erfc = _elementwise(np.exp, ops.erfc, "1 - erf(x), exact where that is small.", "erfc")
relu = _elementwise(np.negative, ops.relu, "max(x, 0), with derivative 0 at 0.", "relu")
logaddexp = _elementwise(np.logaddexp, ops.logaddexp, "log(e ** x + e ** y).")
logaddexp2 = _elementwise(np.logaddexp2, ops.logaddexp2, "log2(2 ** x + 2 ** y).")
hypot = _elementwise(np.hypot, ops.hypot, "sqrt(x ** 2 + y ** 2) without overflow on the way.")
fmod = _elementwise(np.fmod, ops.fmod, "x - y trunc(x / y): the sign of x.")
cbrt = _elementwise(np.cbrt, ops.cbrt, "Cube root, of negative numbers too.")
asinh = arcsinh = _elementwise(np.arcsinh, ops.asinh, "Inverse hyperbolic sine.")
acosh = arccosh = _elementwise(np.arccosh, ops.acosh, "Inverse hyperbolic cosine; nan below 1.")
atanh = arctanh = _elementwise(np.arctanh, ops.atanh, "Inverse hyperbolic tangent; nan beyond 1.")
fabs = _elementwise(np.fabs, ops.abs, "|x| as a float.")
left_shift = bitwise_left_shift = _elementwise(np.left_shift, ops.shl, "x 2 ** y of integers.")
right_shift = bitwise_right_shift = _elementwise(np.right_shift, ops.shr, "x / 2 ** y of integers, rounded down.")
square = _elementwise(np.square, _squared, "x * x.", "square")
positive = _elementwise(np.positive, _itself, "+x.")
trunc = _elementwise(np.trunc, _truncated, "Round towards 0.")


def abs(x: Any) -> Tensor:
    """|x|, with derivative 0 at 0; of complex numbers a real one."""
    x = as_tensor(x)
    if x.dtype.kind == "c":
        return ops.modulus(x)
    return x if x.dtype.kind in "bu" else ops.abs(x)


absolute = abs


def power(x: Any, y: Any) -> Tensor:
    """x ** y. Exponents 1, 2, 3 and 0.5 given as Python numbers are products and a root."""
    if type(x) is Tensor and type(y) in (int, float) and y == 2 and kind_of(x.dtype) == "f":
        return multiply(x, x)
    if type(y) in (int, float) and y in (0.5, 1, 2, 3) and strength(x) not in (bool, np.dtype(bool)):
        (base, _) = operands(np.power, x, y)
        if y == 0.5:
            return ops.sqrt(base)
        return base if y == 1 else ops.mul(base, base) if y == 2 else ops.mul(ops.mul(base, base), base)
    return ops.pow(*operands(np.power, x, y))


pow = power


def reciprocal(x: Any) -> Tensor:
    """1 / x; of integers, rounded towards 0."""
    (x,) = operands(np.reciprocal, x)
    return divide(1, x) if kind_of(x.dtype) in "fc" else ops.select(ops.eq(ops.abs(x), 1), x, 0)


def log10(x: Any) -> Tensor:
    """Logarithm to base 10."""
    y = log(x)
    if y.dtype.kind == "c":
        return ops.complex_(*(ops.mul(part, 1 / math.log(10)) for part in (ops.real(y), ops.imag(y))))
    return multiply(y, 1 / math.log(10))


def logical_and(x: Any, y: Any) -> Tensor:
    """Elementwise `and` of truth values."""
    return ops.and_(_truth(x), _truth(y))


def logical_or(x: Any, y: Any) -> Tensor:
    """Elementwise `or` of truth values."""
    return ops.or_(_truth(x), _truth(y))


def logical_xor(x: Any, y: Any) -> Tensor:
    """Elementwise exclusive `or` of truth values."""
    return ops.xor_(_truth(x), _truth(y))


def logical_not(x: Any) -> Tensor:
    """Elementwise `not` of truth values."""
    return ops.not_(_truth(x))


def _truth(x: Any) -> Tensor:
    x = as_tensor(x)
    return x if x.dtype.kind == "b" else ops.ne(x, 0)


def isnan(x: Any) -> Tensor:
    """Whether elements are nan."""
    x = as_tensor(x)
    return ops.ne(x, x)


def isposinf(x: Any) -> Tensor:
    """Whether elements are positively infinite."""
    return equal(real_only(x), math.inf)


def isneginf(x: Any) -> Tensor:
    """Whether elements are negatively infinite."""
    return equal(real_only(x), -math.inf)


def isinf(x: Any) -> Tensor:
    """Whether elements are infinite; of complex numbers, whether one of the parts is."""
    x = as_tensor(x)
    if x.dtype.kind == "c":
        return ops.or_(isinf(ops.real(x)), isinf(ops.imag(x)))
    return ops.eq(*operands(np.equal, abs(x), math.inf))


def isfinite(x: Any) -> Tensor:
    """Whether elements are neither infinite nor nan; of complex numbers, whether both parts are neither."""
    x = as_tensor(x)
    if x.dtype.kind == "c":
        return ops.and_(isfinite(ops.real(x)), isfinite(ops.imag(x)))
    return less(abs(x), math.inf)


def round(x: Any, decimals: int = 0, out: None = None) -> Tensor:
    """Round to `decimals` places, halves to even; the derivative is not connected."""
    x = as_tensor(x)
    if x.dtype.kind in "iu":
        return x if decimals >= 0 else _cast(round(astype(x, np.float64), decimals), x.dtype)
    if decimals == 0:
        return rint(x)
    scale = 10.0 ** math.fabs(decimals)
    return divide(rint(multiply(x, scale)), scale) if decimals > 0 else multiply(rint(divide(x, scale)), scale)


around = round


def clip(x: Any, min: Any = None, max: Any = None, *, a_min: Any = None, a_max: Any = None) -> Tensor:
    """x limited to [min, max], either of which may be None; the gradient passes at both bounds."""
    min, max = min if a_min is None else a_min, max if a_max is None else a_max
    y = as_tensor(x) if min is None else maximum(x, min)
    return y if max is None else minimum(y, max)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Elements of `x` where the condition holds, of `y` elsewhere. The one not taken has gradient 0.

    With the condition alone: the positions where it holds, outside of traces.
    """
    if x is None and y is None:
        return tuple(as_tensor(k) for k in np.nonzero(np.asarray(as_tensor(condition))))
    return ops.select(_truth(condition), *common(x, y))


def astype(x: Any, dtype: Any) -> Tensor:
    """`x` converted as NumPy's `astype` does. Differentiable between floating-point and complex dtypes.

    A complex number becomes real by its real part, with NumPy's ComplexWarning: `tp.real(x)` says that it is meant.
    """
    x = as_tensor(x)
    target = check_dtype(dtype, "an array")
    if x.dtype.kind == "c" and kind_of(target) in "fiu":
        text = f"{called()}: casting complex values to real discards the imaginary part; use tp.real"
        warnings.warn(text, np.exceptions.ComplexWarning, stacklevel=user_stacklevel())
    y = _cast(x, target)
    return still(y) if y is x else y


cast = astype


def stop_gradient(x: Any) -> Tensor:
    """`x`, as a constant to derivatives."""
    return ops.stop_gradient(as_tensor(x))


def missing_gradient(x: Any, name: str) -> Tensor:
    """`x`, as the result of an operation `name` without a derivative: MissingGradientError where one is needed."""
    return ops.missing_gradient(as_tensor(x), name=name)


__all__ = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "add",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "around",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "cast",
    "cbrt",
    "ceil",
    "clip",
    "cos",
    "cosh",
    "divide",
    "equal",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "floor_divide",
    "fmod",
    "greater",
    "greater_equal",
    "hypot",
    "invert",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "left_shift",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logaddexp2",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "missing_gradient",
    "mod",
    "multiply",
    "negative",
    "not_equal",
    "positive",
    "pow",
    "power",
    "reciprocal",
    "relu",
    "remainder",
    "right_shift",
    "rint",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "softplus",
    "sqrt",
    "square",
    "stop_gradient",
    "subtract",
    "tan",
    "tanh",
    "true_divide",
    "trunc",
    "where",
]
