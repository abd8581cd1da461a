"""Types of values: a NumPy dtype and a shape whose dimensions are integers or polynomials of named symbols.

`Type(np.dtype("f4"), (Poly.symbol("B"), 10))` prints as `f32[B,10]` and parses back from it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tapefuse._errors import ParseError, ShapeError
from tapefuse._records import dataclass
from tapefuse.ir.halves import bfloat16, is_bfloat16, kind_of

_SYMBOL = r"[^\W\d]\w*"
Monomial = tuple[str, ...]  # sorted symbol names, repeated for powers; () is the constant term


def _beyond(operation: str | np.ufunc, *operands: Any) -> Any:
    return NotImplemented if Poly.beyond is None else Poly.beyond(operation, *operands)


def _numbers(name: str, swap: bool = False) -> Callable[[Any, Any], Any]:
    """An operator that polynomials leave to the numbers that they are in a program."""

    def operate(self: Poly, other: Any) -> Any:
        return _beyond(name, other, self) if swap else _beyond(name, self, other)

    return operate


class Poly:
    """An immutable integer polynomial of named symbols, with at least one symbol in it.

    Arithmetic that cancels every symbol returns a plain `int`, so a dimension is always `int | Poly`
    and equal dimensions compare equal. What is no arithmetic of polynomials, as `n // 2`, `n * 0.5` and `n < 3`, is
    done by `beyond(name of the operator or NumPy's ufunc, operands...)`, which whoever traces programs puts here
    (`tracer.extents`).
    """

    __slots__ = ("_hash", "terms")
    terms: tuple[tuple[Monomial, int], ...]
    beyond: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]):
        self.terms = terms
        self._hash = hash(terms)

    @staticmethod
    def symbol(name: str) -> Poly:
        if not (name.isidentifier() and re.fullmatch(_SYMBOL, name)):
            raise ValueError(f"a dimension symbol must be an identifier, got {name!r}")
        return Poly((((name,), 1),))

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(s for m, _ in self.terms for s in m)

    @property
    def name(self) -> str | None:
        """The symbol's name if the polynomial is one plain symbol, else None."""
        (mono, coef), *rest = self.terms
        return mono[0] if not rest and coef == 1 and len(mono) == 1 else None

    def substitute(self, values: Mapping[str, Dim]) -> Dim:
        total: Dim = 0
        for mono, coef in self.terms:
            product: Dim = coef
            for symbol in mono:
                product = product * values.get(symbol, Poly.symbol(symbol))
            total = total + product
        return total

    def __add__(self, other: Dim) -> Dim:
        return _poly(_terms(self) + _terms(other)) if isinstance(other, _DIMS) else _beyond("add", self, other)

    def __mul__(self, other: Dim) -> Dim:
        if not isinstance(other, _DIMS):
            return _beyond("mul", self, other)
        return _poly((tuple(sorted(a + b)), x * y) for a, x in _terms(self) for b, y in _terms(other))

    def __pos__(self) -> Dim:
        return self

    def __neg__(self) -> Dim:
        return self * -1

    def __invert__(self) -> Dim:
        return self * -1 - 1

    def __abs__(self) -> Dim:
        if never_negative(self) or always_negative(self):
            return self if never_negative(self) else self * -1
        found = _beyond("abs", self)
        if found is NotImplemented:
            raise TypeError(f"abs() of the symbolic dimension {self}, which may have either sign")
        return found

    def __sub__(self, other: Dim) -> Dim:
        if not isinstance(other, _DIMS):
            return _beyond("sub", self, other)
        return self + (-other if isinstance(other, Poly) else -int(other))

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    __radd__, __rmul__ = __add__, __mul__
    if not TYPE_CHECKING:  # for users' programs; compilers ask `never_negative`
        __lt__, __le__, __gt__, __ge__ = map(_numbers, ("lt", "le", "gt", "ge"))
        __truediv__, __divmod__, __lshift__, __rshift__ = map(_numbers, ("truediv", "divmod", "lshift", "rshift"))
        __rtruediv__, __rdivmod__, __rlshift__, __rrshift__, __rfloordiv__, __rmod__, __rpow__ = (
            _numbers(name, swap=True) for name in ("truediv", "divmod", "lshift", "rshift", "floordiv", "mod", "pow")
        )
        __and__, __or__, __xor__ = __rand__, __ror__, __rxor__ = [*map(_numbers, ("and_", "or_", "xor"))]

        def __pow__(self, other: Any) -> Any:
            return prod([self] * other) if isinstance(other, int) and other >= 0 else _beyond("pow", self, other)

        def __floordiv__(self, other: Any) -> Any:
            whole = divide(self, int(other)) if isinstance(other, (int, np.integer)) else None
            return _beyond("floordiv", self, other) if whole is None else whole

        def __mod__(self, other: Any) -> Any:
            is_multiple = isinstance(other, (int, np.integer)) and divide(self, int(other)) is not None
            return 0 if is_multiple else _beyond("mod", self, other)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
        """NumPy's integers are dimensions like Python's; its functions are those of the numbers of a program."""
        if method != "__call__" or options:
            return NotImplemented
        operate = _UFUNCS.get(ufunc)
        if operate is not None and all(isinstance(x, _DIMS) for x in operands):
            return operate(*[x if isinstance(x, Poly) else int(x) for x in operands])
        return _beyond(ufunc, *operands)

    def __eq__(self, other: object) -> bool:
        return self.terms == other.terms if isinstance(other, Poly) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        def term(mono: Monomial, coef: int) -> str:
            body = "*".join(mono)
            return str(coef) if not mono else body if coef == 1 else f"-{body}" if coef == -1 else f"{coef}*{body}"

        return "+".join(term(m, c) for m, c in self.terms).replace("+-", "-")

    def __bool__(self) -> bool:
        if never_zero(self):
            return True
        raise ShapeError(f"the symbolic dimension {self} has no truth value while tracing; it is known at run time")

    def __index__(self) -> int:
        raise ShapeError(
            f"the symbolic dimension {self} is not a Python integer while tracing; arrays of that size n are made by "
            "tp.zeros(n), tp.ones(n) and tp.arange(n), a floating number by tp.cast(n, tp.float64); use a fixed size "
            "in the TensorSpec if Python's own is needed"
        )


_DIMS = int, np.integer, Poly
_UFUNCS: dict[Any, Callable[[Any, Any], Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.floor_divide: operator.floordiv,
    np.remainder: operator.mod,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
}
Dim = int | Poly
Shape = tuple[Dim, ...]


def _terms(d: Dim) -> tuple[tuple[Monomial, int], ...]:
    return d.terms if isinstance(d, Poly) else (((), int(d)),)


def _poly(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for mono, coef in terms:
        total[mono] = total.get(mono, 0) + coef
    kept = tuple(sorted(((m, c) for m, c in total.items() if c), key=lambda t: (-len(t[0]), t[0])))
    if not any(m for m, _ in kept):
        return kept[0][1] if kept else 0
    return Poly(kept)


def symbols(dims: Iterable[Dim]) -> frozenset[str]:
    """Names of all symbols in some dimensions."""
    return frozenset().union(*(d.symbols for d in dims if isinstance(d, Poly)))


def substitute(value, env: Mapping[str, Dim]):
    """`value` with every symbol replaced; looks into tuples, dicts and graphs, leaves everything else as it is (used on
    attributes)."""
    if isinstance(value, tuple):
        return tuple(substitute(v, env) for v in value)
    if isinstance(value, dict):
        return {k: substitute(v, env) for k, v in value.items()}
    change = getattr(value, "substitute", None)
    return value if change is None else change(env)


def divide(a: Dim, b: Dim) -> Dim | None:
    """`a / b` when it is a polynomial (or an integer) again, else None. Division by 0 is None."""
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a % b == 0 else None
    divisor = _terms(b)
    if len(divisor) > 1:
        return 1 if a == b else None
    (mono, coef), out = divisor[0], []
    for m, c in _terms(a):
        rest = list(m)
        for s in mono:
            if s not in rest:
                return None
            rest.remove(s)
        if c % coef:
            return None
        out.append((tuple(rest), c // coef))
    return _poly(out)


def divide_up(a: Dim, b: int) -> Dim | None:
    """`a / b` rounded up; None if that is no polynomial of the symbols in `a`."""
    constant = dict(_terms(a)).get((), 0)
    whole = divide(a - constant, b)
    return None if whole is None else whole - (-constant // b)


def never_negative(d: Dim) -> bool:
    """Whether a dimension is >= 0 for all sizes (>= 0) of its symbols, as far as its coefficients show."""
    return all(c >= 0 for _, c in _terms(d))


def always_negative(d: Dim) -> bool:
    """Whether a dimension is < 0 for all sizes of its symbols, as far as its coefficients show."""
    return never_negative(-1 - d)


def never_zero(d: Dim) -> bool:
    """Whether a dimension differs from 0 for all sizes of its symbols, as far as its coefficients show."""
    return never_negative(d - 1) or always_negative(d)


def size(shape: Iterable[Dim]) -> Dim:
    """Number of elements of a shape."""
    return prod(shape)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy's broadcasting over symbolic shapes; a symbol stretches over 1 and matches only itself."""
    rank = max(map(len, shapes), default=0)
    out: list[Dim] = []
    for axis in range(-rank, 0):
        dims = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(dims) > 1:
            raise ShapeError(
                f"shapes {', '.join(map(show_shape, shapes))} do not broadcast together (axis {axis}): there the "
                f"extents must be equal or 1; {_broadcast_cure(dims)}"
            )
        out.append(dims.pop() if dims else 1)
    return tuple(out)


def _broadcast_cure(dims: set[Dim]) -> str:
    names = [str(d) for d in dims if isinstance(d, Poly) and d.name]
    if len(names) == len(dims):
        return f"if they are always equal, give both one name in their TensorSpecs: ({min(names)!r}, ...)"
    return "reshape, transpose or slice one of them, or insert an axis with x[:, None]"


def show_shape(shape: Shape) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


_SHORT = {"b": "bool", "i": "i", "u": "u", "f": "f", "c": "c"}


def show_dtype(dtype: np.dtype) -> str:
    """`f32`, `i64`, `bool`: the name a dtype has in IR text."""
    if is_bfloat16(dtype):
        return "bf16"
    return "bool" if dtype.kind == "b" else f"{_SHORT[dtype.kind]}{dtype.itemsize * 8}"


def has_derivatives(dtype: np.dtype) -> bool:
    """Whether values of this dtype have derivatives."""
    return kind_of(dtype) in "fc"


def real_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the parts of complex numbers, and of their absolute values; other dtypes as they are."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def complex_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of complex numbers with parts of this dtype."""
    return np.dtype(f"c{max(dtype.itemsize * 2, 8)}") if kind_of(dtype) == "f" else dtype


def parse_dtype(text: str) -> np.dtype:
    if text in ("bool", "bf16"):
        return np.dtype(bool) if text == "bool" else bfloat16()
    match = re.fullmatch(r"([iufc])(8|16|32|64|128)", text)
    try:
        if match:
            return np.dtype(f"{match[1]}{int(match[2]) // 8}")
    except TypeError:
        pass
    raise ParseError(
        f"{text!r} is not a dtype; expected one of f16, bf16, f32, f64, c64, c128, i8, i16, i32, i64, u8, u16, "
        "u32, u64, bool"
    )


_DIM_TOKEN = re.compile(rf"\s*(?:(\d+)|({_SYMBOL})|([-+*]))")


def parse_dim(text: str) -> Dim:
    """`"2*B+1"` as a dimension: sums of products of integers and symbols."""
    pos, sign, operand = 0, 1, True
    total: Dim = 0
    product: Dim | None = None  # of the factors of the current term
    text = text.strip()
    while pos < len(text):
        match = _DIM_TOKEN.match(text, pos)
        if not match:
            raise ParseError(f"{text!r} is not a dimension at column {pos + 1}")
        pos = match.end()
        number, name, mark = match.groups()
        if mark is None:
            if not operand:
                raise ParseError(f"{text!r} is not a dimension: two factors stand without '*' between them")
            factor: Dim = int(number) if number else Poly.symbol(name)
            product = factor if product is None else product * factor
            operand = False
        elif mark == "*" and not operand:
            operand = True
        elif mark in "+-" and not operand:
            total = total + sign * (0 if product is None else product)
            product, sign, operand = None, -1 if mark == "-" else 1, True
        elif mark in "+-" and product is None:
            sign = -sign if mark == "-" else sign
        else:
            raise ParseError(f"{text!r} is not a dimension: {mark!r} is out of place")
    if operand:
        raise ParseError(f"{text!r} is not a dimension: it ends too early")
    return total + sign * (0 if product is None else product)


@dataclass(frozen=True)
class Type:
    """dtype and shape of one value."""

    dtype: np.dtype
    shape: Shape

    @cached_property
    def text(self) -> str:
        return f"{show_dtype(self.dtype)}{show_shape(self.shape)}"

    def __str__(self) -> str:
        return self.text

    @property
    def size(self) -> Dim:
        return size(self.shape)

    @property
    def nbytes(self) -> Dim:
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        return kind_of(self.dtype) == "f"

    def substitute(self, env: Mapping[str, Dim]) -> Type:
        return Type(self.dtype, substitute(self.shape, env))

    @staticmethod
    def parse(text: str) -> Type:
        """`"f32[B,10]"` as a type. Raises ParseError."""
        match = re.fullmatch(r"\s*(\w+)\s*\[([^\[\]]*)\]\s*", text)
        if not match:
            raise ParseError(f"{text!r} is not a type; expected e.g. f32[B,10]")
        dims = match[2].split(",") if match[2].strip() else []
        return Type(parse_dtype(match[1]), tuple(map(parse_dim, dims)))


def type_of(x) -> Type:
    """Type of an IR value, a tensor, an array or a Python scalar."""
    t = getattr(x, "type", None)
    if isinstance(t, Type):
        return t
    x = np.asarray(x)
    return Type(x.dtype, x.shape)
