"""A scalar builder that computes instead of emitting code: `lower` runs a lowering rule with NumPy scalars.

It is the oracle of lowering rules and a second opinion on every instruction: elementary functions come from `math`
in double precision, not from the ops' own `ref`. A read outside an operand fails at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tapefuse.ir.op import OPS, Op
from tapefuse.ir.ops.random import encrypted_number
from tapefuse.ir.types import Dim, Poly, Type, substitute

INT64 = np.dtype(np.int64)


def _guarded(f: Callable[[float], float]) -> Callable[[Any], float]:
    """`f` with nan or inf where `math` raises: errors of domain and range."""

    def result(x: Any) -> float:
        try:
            return f(float(x))
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return result


def _within(x: Any, n: Any) -> Any:
    """The count of a shift, which means nothing to a machine from the width of `x` on."""
    assert np.all((n >= 0) & (n < 8 * x.dtype.itemsize)), n
    return n


def _log(x: float) -> float:
    return -math.inf if x == 0 else math.log(x)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


MATH = {
    "exp": math.exp,
    "log": _log,
    "log1p": lambda x: _log(1 + x) if x <= -1 else math.log1p(x),
    "expm1": math.expm1,
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: math.copysign(math.inf, x) if x == 0 else 1 / math.sqrt(x),
    "erf": math.erf,
    "erfc": math.erfc,
    "exp2": math.exp2,
    "log2": lambda x: -math.inf if x == 0 else math.log2(x),
    "sinh": math.sinh,
    "cosh": math.cosh,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "sigmoid": _sigmoid,
    "softplus": lambda x: x if x > 700 else math.log1p(math.exp(x)),
}
EXACT = {
    "threefry": lambda key, counter: np.uint64(encrypted_number(int(key), int(counter))),
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "atan2": np.arctan2,
    "pow": lambda a, b: np.power(np.stack([a, a]), np.stack([b, b]))[0],  # np.power(-inf, 0.5) of scalars is nan
    "maximum": np.maximum,
    "minimum": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": lambda x, n: np.left_shift(x, _within(x, n)),
    "shr": lambda x, n: np.right_shift(x, _within(x, n)),
    "bits": lambda x: x.view(np.dtype(f"i{x.itemsize}")),
    "floating": lambda x: x.view(np.dtype(f"f{x.itemsize}")),
    "real": np.real,
    "imag": np.imag,
    "conj": np.conj,
    "modulus": np.abs,
    "complex": lambda a, b: np.stack([a, b]).view(np.dtype(f"c{2 * a.itemsize}"))[0],
}


def _start(kind: str, dtype: np.dtype) -> Any:
    """The neutral element of a reduction."""
    if kind in ("maximum", "minimum"):
        low = kind == "maximum"
        if dtype.kind == "f":
            return dtype.type(-math.inf if low else math.inf)
        return dtype.type(np.iinfo(dtype).min if low else np.iinfo(dtype).max)
    return dtype.type({"add": 0, "mul": 1, "and": True, "or": False}[kind])


class NumericBuilder:
    """The builder of lowering rules, with NumPy scalars as its scalars. `env`: the values of dimension symbols."""

    def __init__(self, env: Mapping[str, int]):
        self.env = env

    def op(self, name: str, *scalars: np.generic) -> np.generic:
        if name == "select":
            c, a, b = scalars
            assert c.dtype == bool and a.dtype == b.dtype, (name, scalars)
            return a if c else b
        dtype = scalars[0].dtype
        assert all(s.dtype == dtype for s in scalars), (name, [s.dtype for s in scalars])
        if name in MATH:
            assert dtype.kind == "f" and len(scalars) == 1, (name, scalars)
            return dtype.type(_guarded(MATH[name])(scalars[0]))
        return EXACT[name](*scalars)

    def inside(self, condition: np.generic, k: np.generic, extent: Dim) -> np.generic:
        return k if condition else np.int64(0)

    def cast(self, scalar: np.generic, dtype: np.dtype) -> np.generic:
        return (scalar if dtype.kind == "c" else scalar.real).astype(dtype)

    def number(self, value: Any, dtype: np.dtype) -> np.generic:
        return np.dtype(dtype).type(value)

    def dim(self, d: Dim) -> np.int64:
        return np.int64(substitute(d, self.env))

    def literal(self, array: np.ndarray, i: tuple) -> np.generic:
        return array[i]

    def reduce(self, kind: str, dtype: np.dtype, extents: tuple[Dim, ...], body: Callable[[tuple], Any]) -> Any:
        total = _start(kind, dtype)
        for ks in np.ndindex(*substitute(tuple(extents), self.env)):
            total = self.op(kind, total, body(tuple(map(np.int64, ks))))
        return total


class Accessor:
    """An operand of a lowering rule: called with an index it gives the element. `type` may be symbolic."""

    def __init__(self, array: np.ndarray, type: Type):
        self.array, self.shape, self.dtype = array, type.shape, type.dtype

    def __call__(self, index: tuple) -> np.generic:
        assert len(index) == self.array.ndim, f"{len(index)} indices into {self.array.ndim} axes"
        for k, n in zip(index, self.array.shape, strict=True):
            assert np.asarray(k).dtype == INT64 and 0 <= k < n, f"index {index} outside {self.array.shape}"
        return self.array[tuple(index)]


def lower(op: Op, args: tuple, attrs: dict, types: list[Type], env: Mapping[str, int]) -> np.ndarray:
    """The result of `op`, element by element from its lowering; `types` and `attrs` may hold symbols bound by `env`."""
    b = NumericBuilder(env)
    xs = [Accessor(a, t) for a, t in zip(args, types, strict=True)]
    result = op.type(*types, **attrs).substitute(env)
    y = np.zeros(result.shape, result.dtype)
    with np.errstate(all="ignore"):
        if op.at is not None:
            for i in np.ndindex(*y.shape):
                value = op.at(b, tuple(map(np.int64, i)), *xs, **attrs)
                assert value.dtype == y.dtype, f"{op.name}: lowering gives {value.dtype}, the type is {y.dtype}"
                y[i] = value
        if op.push is not None:
            pushed = _pushed(b, op, args, attrs, xs, np.zeros(result.shape, result.dtype))
            assert op.at is None or np.array_equal(y, pushed, equal_nan=y.dtype.kind == "f")
            return pushed
    return y


def _pushed(b: NumericBuilder, op: Op, args: tuple, attrs: dict, xs: list[Accessor], y: np.ndarray) -> np.ndarray:
    if op.has_base:
        y[...] = args[0]
    for j in np.ndindex(*args[op.has_base].shape):
        where, value = op.push(b, tuple(map(np.int64, j)), *xs, **attrs)
        assert all(0 <= k < n for k, n in itertools.zip_longest(where, y.shape)), where
        y[tuple(where)] = value if op.overwrites else y[tuple(where)] + value
    return y


def symbolic(value: Any, extent: int, symbol: Poly) -> Any:
    """`value` (a shape or an attribute) with `k * extent` replaced by `k * symbol` for k > 0, inside tuples too."""
    if isinstance(value, tuple):
        return tuple(symbolic(v, extent, symbol) for v in value)
    return value // extent * symbol if type(value) is int and value > 0 and value % extent == 0 else value


# -- elementwise ops on whole arrays ----------------------------------------------------------------------------------


class ArrayBuilder:
    """The builder of lowering rules with equally long arrays as its scalars: quick, and instructions are the ops."""

    converts_halves = False

    @staticmethod
    def op(name: str, *arrays: Any) -> Any:
        if name in ("bits", "floating", "shl", "shr"):
            return EXACT[name](*arrays)
        return OPS[name].ref(*arrays)

    @staticmethod
    def number(value: Any, dtype: np.dtype) -> np.generic:
        return np.dtype(dtype).type(value)

    @staticmethod
    def cast(array: Any, dtype: np.dtype) -> Any:
        return array.astype(dtype)


class ConvertingBuilder(ArrayBuilder):
    """That of a machine with instructions for float16."""

    converts_halves = True

    @staticmethod
    def op(name: str, *arrays: Any) -> Any:
        if name == "to_half":
            assert arrays[0].dtype == np.float32
            return arrays[0].astype(np.float16).view(np.uint16)
        if name == "from_half":
            return arrays[0].view(np.float16).astype(np.float32)
        return ArrayBuilder.op(name, *arrays)


class _Whole:
    """An array in the place of a scalar operand."""

    shape = ()

    def __init__(self, array: np.ndarray):
        self.array, self.dtype = array, array.dtype

    def __call__(self, index: tuple) -> np.ndarray:
        assert index == ()
        return self.array


def lower_whole(op: Op, *args: np.ndarray, builder: type[ArrayBuilder] = ArrayBuilder, **attrs: Any) -> np.ndarray:
    """The result of an elementwise `op` on arrays of one shape, from its lowering."""
    assert op.at is not None
    with np.errstate(all="ignore"):
        return np.broadcast_to(op.at(builder, (), *map(_Whole, args), **attrs), args[0].shape)
