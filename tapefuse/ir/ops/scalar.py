"""Functions of scalars written once, as arithmetic: the lowering of an op and, on whole arrays, its `ref`.

    def cube_root_guess(x):
        return where(x < 0, -((-x) ** (1 / 3)), x ** (1 / 3))

`lowering(f)` is an `at` of the elementwise family: it runs `f` on the scalars of a kernel's builder. `reference(f)`
runs the same text on NumPy arrays, so that what is computed eagerly and what is compiled differ in rounding at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tapefuse._records import dataclass
from tapefuse.ir.op import OPS

Operand: TypeAlias = "Scalar | float | int"
INTEGERS: dict[int, np.dtype] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}
FLOATS: dict[int, np.dtype] = {4: np.dtype(np.float32), 8: np.dtype(np.float64)}
# Instructions of machines that have them: between a float32 and the bits of a float16.
HALVES: dict[str, np.dtype] = {"to_half": np.dtype(np.uint16), "from_half": np.dtype(np.float32)}
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
FLOAT64 = np.dtype(np.float64)


def result_dtype(name: str, *dtypes: np.dtype) -> np.dtype:
    """The dtype of an instruction's result: `bits` is the encoding of a float, `floating` the float of an encoding."""
    if name in COMPARISONS:
        return np.dtype(bool)
    if name in ("bits", "floating"):
        found: np.dtype = (INTEGERS if name == "bits" else FLOATS)[dtypes[0].itemsize]
        return found
    if name in HALVES:
        return HALVES[name]
    return dtypes[-1]


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A value of a lowering rule's builder. Python's operators append instructions, numbers become constants."""

    builder: Any
    value: Any
    dtype: np.dtype

    def op(self, name: str, *others: Operand) -> Scalar:
        operands = [self, *[self.constant(x) for x in others]]
        value = self.builder.op(name, *[x.value for x in operands])
        return Scalar(self.builder, value, result_dtype(name, *[x.dtype for x in operands]))

    def constant(self, x: Operand) -> Scalar:
        """`x` in this value's dtype."""
        return x if isinstance(x, Scalar) else Scalar(self.builder, self.builder.number(x, self.dtype), self.dtype)

    def cast(self, dtype: np.dtype) -> Scalar:
        return Scalar(self.builder, self.builder.cast(self.value, dtype), dtype)

    # fmt: off
    def __add__(self, other: Operand) -> Scalar: return self.op("add", other)
    def __radd__(self, other: Operand) -> Scalar: return self.constant(other).op("add", self)
    def __sub__(self, other: Operand) -> Scalar: return self.op("sub", other)
    def __rsub__(self, other: Operand) -> Scalar: return self.constant(other).op("sub", self)
    def __mul__(self, other: Operand) -> Scalar: return self.op("mul", other)
    def __rmul__(self, other: Operand) -> Scalar: return self.constant(other).op("mul", self)
    def __truediv__(self, other: Operand) -> Scalar: return self.op("div", other)
    def __rtruediv__(self, other: Operand) -> Scalar: return self.constant(other).op("div", self)
    def __pow__(self, other: Operand) -> Scalar: return self.op("pow", other)
    def __and__(self, other: Operand) -> Scalar: return self.op("and", other)
    def __or__(self, other: Operand) -> Scalar: return self.op("or", other)
    def __xor__(self, other: Operand) -> Scalar: return self.op("xor", other)
    def __invert__(self) -> Scalar: return self.op("not")
    def __neg__(self) -> Scalar: return self.op("neg")
    def __abs__(self) -> Scalar: return self.op("abs")
    def __lt__(self, other: Operand) -> Scalar: return self.op("lt", other)
    def __le__(self, other: Operand) -> Scalar: return self.op("le", other)
    def __gt__(self, other: Operand) -> Scalar: return self.op("gt", other)
    def __ge__(self, other: Operand) -> Scalar: return self.op("ge", other)
    def equals(self, other: Operand) -> Scalar: return self.op("eq", other)
    def differs(self, other: Operand) -> Scalar: return self.op("ne", other)
    # fmt: on


def where(condition: Scalar, yes: Operand, no: Operand) -> Scalar:
    """`yes` if the condition holds, else `no`; at least one of them is a Scalar."""
    model = yes if isinstance(yes, Scalar) else no
    assert isinstance(model, Scalar)
    return condition.op("select", model.constant(yes), model.constant(no))


def polynomial(x: Scalar, coefficients: Sequence[Any]) -> Scalar:
    """The polynomial in x, lowest degree first."""
    *rest, last = map(float, coefficients)
    total = x.constant(last)
    for c in reversed(rest):
        total = total * x + c
    return total


class _Arrays:
    """The builder of `reference`: instructions on whole NumPy arrays."""

    @staticmethod
    def op(name: str, *arrays: Any) -> Any:
        if name in ("bits", "floating"):
            return np.asarray(arrays[0]).view(result_dtype(name, arrays[0].dtype))
        if name in ("shl", "shr"):
            return (np.left_shift if name == "shl" else np.right_shift)(*arrays)
        return OPS[name].ref(*arrays)

    @staticmethod
    def number(value: Any, dtype: np.dtype) -> Any:
        return dtype.type(value)

    @staticmethod
    def cast(array: Any, dtype: np.dtype) -> Any:
        return array.astype(dtype)


Function = Callable[..., Scalar]


def reference(function: Function) -> Callable[..., Any]:
    """`function` of arrays."""

    def ref(*arrays: Any) -> Any:
        return function(*[Scalar(_Arrays, x, x.dtype) for x in map(np.asarray, arrays)]).value

    return ref


def lowering(function: Function) -> Callable[..., Any]:
    """`function` of a builder's scalars, as the `at` of an elementwise op."""

    def at(builder: Any, dtype: np.dtype, *values: Any) -> Any:
        return function(*[Scalar(builder, x, dtype) for x in values]).value

    return at


def in_double(function: Function) -> Function:
    """`function` computed in float64 and rounded to the dtype of its operands."""

    def wide(*xs: Scalar) -> Scalar:
        return function(*[x.cast(FLOAT64) for x in xs]).cast(xs[0].dtype)

    return wide
