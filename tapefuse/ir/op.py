"""The op record: everything the compiler knows about one operation, in one place.

An op is called on NumPy arrays (its `ref` runs), on IR values (a node is interned) or on tensors (the tracer decides):
the same derivative rule, written in the op vocabulary, therefore runs eagerly and under tracing, and is differentiated
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import TapefuseError
from tapefuse._records import dataclass
from tapefuse.ir.graph import Value, here, intern
from tapefuse.ir.halves import is_half, single
from tapefuse.ir.types import Type, type_of


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One operation with one result.

    `g` is a cotangent of the result `y`, `xs` are the operands, `attrs` keyword-only static attributes.
    A rule gets and returns anything ops accept: arrays, IR values, tensors.
    """

    name: str
    doc: str
    ref: Callable[..., Any]  # *arrays, **attrs -> array: NumPy meaning, the eager path and the test oracle
    type: Callable[..., Type]  # *in_types, **attrs -> type of the result, or raise ShapeError / DTypeError
    vjp: Callable[..., Sequence[Any]] | None  # g, y, *xs, **attrs -> a cotangent or None per operand; None: no rule
    jvp: Callable[..., Any] | None  # ts, y, *xs, **attrs -> tangent (None: zero); ts has None for a zero tangent
    batch: Callable[..., Any]  # flags, *xs, **attrs -> result with a leading batch axis; flagged operands have one
    sample: Callable[..., Any]  # rng, dtype -> [(args, attrs), ...] of good inputs; feeds every generic test
    at: Callable[..., Any] | None = None  # b, i, *xs, **attrs -> scalar: the result at index i
    push: Callable[..., Any] | None = None  # b, j, *xs, **attrs -> (index, scalar): source j adds scalar at index
    has_base: bool = False  # push adds to the first operand, not to zeros; its sources are those of the next one
    overwrites: bool = False  # push stores what it gives, the last one stays; otherwise it adds
    reduction: str | None = None  # "add", "mul", "maximum", "minimum", "and", "or" over attribute `axes`
    library: str | None = None  # kernel of the run-time library that computes it ("matmul")
    calls: Callable[..., None] | None = None  # k, y, *xs, **attrs: which loops of NumPy's compute y (codegen/library)
    failure: str = ""  # what it means that one of them fails: the message of a LinAlgError
    elementwise: bool = False  # broadcasting scalar function: result[i] depends on operands at i only
    interned: bool = True  # False for effectful and random ops: equal applications stay apart
    results: Callable[..., tuple[Type, ...]] | None = None  # a region's: *in_types, **attrs -> types of its results
    dtypes: str = "f"  # NumPy kinds of the first sample operand worth testing: of "f", "c", "i", "u", "b"
    linear: bool = False  # in its operands together, of which the rules read shapes and dtypes alone
    partials: Sequence[Any] | None = None  # g, y, *xs -> cotangent, for each operand alone (None: it has none), where
    # `vjp` is these and nothing more; before broadcasting is undone
    raw: Callable[..., Any] = np.positive  # `ref` for whoever has told NumPy to be quiet and has no halves; set here

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        if here.plain:
            return self.raw(*args, **attrs)
        for a in args:
            apply = getattr(a, "__tapefuse_apply__", None)
            if apply is not None:
                return apply(self, args, attrs)
        return self.compute(args, attrs)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", getattr(self.ref, "__wrapped__", self.ref))

    def compute(self, args: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """The result on arrays and Python's numbers: `ref`, and what `ir.halves` says of halves."""
        for a in args:
            dtype: Any = getattr(a, "dtype", None)
            if dtype is not None and dtype.itemsize == 2 and is_half(dtype):
                arrays = [np.asarray(x, dtype) if type(x) in (int, float) else x for x in args]
                result = self.infer(*map(type_of, arrays), **attrs).dtype
                return single(self.name, self.ref, result, arrays, attrs)
        return self.ref(*args, **attrs)

    def emit(self, *args: Any, **attrs: Any) -> Value:
        """The interned IR value of this op; arrays become constants, Python scalars ones of their neighbours' dtype."""
        weak = next((a.type.dtype for a in args if isinstance(a, Value) and a.type.dtype.kind != "b"), None)
        values = tuple(
            a if isinstance(a, Value) else constant(a, weak if type(a) in (int, float, complex) else None) for a in args
        )
        key = tuple(sorted((k, v) for k, v in attrs.items()))
        return intern(self, values, key, lambda: self.infer(*(v.type for v in values), **attrs))

    @property
    def is_region(self) -> bool:
        """Whether it holds graphs and has several results (ir/ops/region.py)."""
        return self.results is not None

    def emit_results(self, *args: Any, **attrs: Any) -> tuple[Value, ...]:
        """The results of a region as IR values."""
        token = self.emit(*args, **attrs)
        assert self.results is not None
        types = self.results(*(v.type for v in token.args), **attrs)
        return tuple(OPS["result"].emit(token, index=k, dtype=t.dtype, shape=t.shape) for k, t in enumerate(types))

    def infer(self, *types: Type, **attrs: Any) -> Type:
        """The result's type; a failing type rule is reported with the op, the operand types and the user's line."""
        try:
            return self.type(*types, **attrs)
        except TapefuseError as e:
            where = f"\n  at {here.loc}" if here.loc else ""
            operands = ", ".join(map(str, types))
            raise type(e)(f"{self.name}({operands}): {e}{where}") from None

    def __repr__(self) -> str:
        return f"Op({self.name})"


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    if op.name in OPS:
        raise TypeError(f"op {op.name} is defined twice")
    if op.at is None and op.push is None and op.calls is None and op.library != "region":
        raise TypeError(f"op {op.name} has no lowering (at, push or calls)")
    OPS[op.name] = op
    return op


def defop(body: type) -> Op:
    """Seal a class body of plain functions into one Op. A missing rule is a TypeError here."""
    rules = {k: v for k, v in vars(body).items() if not k.startswith("__")}
    return register(Op(name=body.__name__.rstrip("_"), doc=body.__doc__ or "", **rules))


class Literal:
    """A constant array as an attribute: hashed and compared by dtype, shape and bits, so that nan equals itself."""

    __slots__ = ("array", "key")

    def __init__(self, array: Any):
        self.array = np.array(array, order="C")  # a copy: later writes by the user must not show
        self.array.flags.writeable = False
        self.key = (self.array.dtype.str, self.array.shape, self.array.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self.key == other.key

    def __lt__(self, other: Literal) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return repr(self.array.tolist())


@defop
class const:
    """A constant known while tracing. Scalars are literals in kernels; arrays become hidden inputs of the program."""

    def ref(*, value):
        return value.array

    def type(*, value):
        return Type(value.array.dtype, value.array.shape)

    def vjp(g, y, *, value):
        return []

    def jvp(ts, y, *, value):
        return None

    def batch(flags, *, value):
        raise TypeError("a constant has no batch axis")

    def at(b, i, *, value):
        return b.literal(value.array, i)

    def sample(rng, dtype):
        return [((), {"value": Literal(np.ones((2, 3), dtype))})]

    dtypes = "fciub"


def constant(x: Any, dtype: Any = None) -> Value:
    """`x` as a constant IR value."""
    return OPS["const"].emit(value=Literal(np.asarray(x, dtype)))
