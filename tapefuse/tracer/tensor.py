"""Tensors: immutable arrays whose operations are recorded by tapes and collected by traces.

An eager `Tensor` holds an array; an operation on it runs the op's NumPy `ref`. A `TracedTensor` stands for a value of
the program being traced; an operation on it adds a node to that program.

>>> print(constant([1.0, 2.0]) * 3)
tp.Tensor([3. 6.], shape=(2,), dtype=float32)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tapefuse._errors import ConcretizationError, DTypeError, LeakedValueError
from tapefuse._tree import flatten
from tapefuse.ir.graph import Value, here
from tapefuse.ir.op import Op
from tapefuse.ir.types import Poly, Shape, Type
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.source import current_loc, user_loc
from tapefuse.tracer.state import new_key, state

if TYPE_CHECKING:
    from tapefuse.tracer.trace import Trace

PYTHON_DEFAULTS = {bool: np.dtype(bool), int: np.dtype(np.int32), float: np.dtype(np.float32)}
_NUMERIC = "biuf"


class Tensor(Operators):
    """An immutable array. Made by `tapefuse.constant` and by every operation.

    `_array` is C-contiguous, aligned, in native byte order, and never written to; `_key`, the identity on tapes, is
    made when it is first asked for (`key_of`).
    """

    __slots__ = ("__weakref__", "_array", "_key")
    _array: np.ndarray
    _key: int

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def shape(self) -> Shape:
        """Extents; inside a trace some of them may be symbols."""
        return self._array.shape

    @property
    def type(self) -> Type:
        return Type(self._array.dtype, self._array.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        return self.type.size

    def numpy(self) -> Any:
        """The value as a fresh NumPy array (a NumPy scalar for shape `()`); leaves the tape."""
        array = self._concrete("`.numpy()`")
        return array.copy() if array.ndim else array[()]

    def item(self) -> bool | int | float:
        """The only element as a Python number. Raises ValueError if there are more."""
        return self._concrete("`.item()`").item()

    def tolist(self) -> Any:
        return self._concrete("`.tolist()`").tolist()

    def _concrete(self, asked_by: str) -> np.ndarray:
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The value as a read-only array that shares memory, or a copy where NumPy asks for one."""
        array = self._concrete("`np.asarray()`")
        if copy or (dtype is not None and np.dtype(dtype) != array.dtype):
            return np.array(array, dtype)
        view = array.view()
        view.flags.writeable = False
        return view

    def __bool__(self) -> bool:
        return bool(self._concrete("a truth value (`if`, `while`, `and`, `or`, `not`, `assert`)"))

    def __float__(self) -> float:
        return float(self._concrete("`float()`").item())

    def __int__(self) -> int:
        return int(self._concrete("`int()`").item())

    def __index__(self) -> int:
        return self._concrete("an index").__index__()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of shape () has no len()")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a tensor of shape () cannot be iterated over")
        return (functions.getitem(self, i) for i in range(len(self)))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("tensors are immutable: build the new value with tp.where(mask, value, x) or tp.concatenate")

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self

    def __reduce__(self) -> tuple:
        return wrap, (self._concrete("pickling"),)

    def __repr__(self) -> str:
        value = self._array if self._array.ndim else self._array[()]
        return f"tp.Tensor({value!s}, shape={self.shape}, dtype={self.dtype})"

    def __tapefuse_apply__(self, op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor:
        return apply(op, args, attrs)


class TracedTensor(Tensor):
    """A tensor whose value is known only when the traced program runs."""

    __slots__ = ("_trace", "_value")
    _value: Value
    _trace: Trace

    def __init__(self, value: Value, trace: Trace):
        self._value = value
        self._trace = trace

    @property
    def dtype(self) -> np.dtype:
        return self._value.type.dtype

    @property
    def shape(self) -> Shape:
        return self._value.type.shape

    @property
    def type(self) -> Type:
        return self._value.type

    def _concrete(self, asked_by: str) -> np.ndarray:
        """The value, if it follows from constants alone. Raises ConcretizationError."""
        array = self._trace.constant_value(self._value)
        if array is None and not _is_under_way(self._trace):
            raise leaked(self)
        if array is None:
            raise ConcretizationError(
                f"{asked_by} at {user_loc()} needs the value of {self!r}, which {self._trace.unknown}; use "
                f"tp.where(condition, a, b) to choose by value, or do this outside the {self._trace.kind}"
            )
        return array

    def __len__(self) -> int:
        if self.shape and isinstance(self.shape[0], Poly):
            raise ConcretizationError(
                f"len() or iteration at {user_loc()} needs the first extent of {self!r}, which is the symbol "
                f"{self.shape[0]}; use x.shape[0] in arithmetic, whole-array operations, or a fixed size in the "
                "TensorSpec"
            )
        return super().__len__()

    def __repr__(self) -> str:
        made = f", made at {self._value.loc}" if self._value.loc else ""
        return f"tp.Tensor(<traced>, shape={self.shape}, dtype={self.dtype}{made})"


class Readable(Operators):
    """Something that stands for a tensor once it is read: a variable."""

    __slots__ = ()

    def read(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it reads as")

    def __tapefuse_apply__(self, op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor:
        return apply(op, args, attrs)


def wrap(array: np.ndarray) -> Tensor:
    """A tensor around an array that nobody else writes to; the array is copied only if its layout does not fit."""
    tensor = Tensor.__new__(Tensor)
    tensor._array = normal(array)
    return tensor


def normal(array: Any) -> np.ndarray:
    """The same array if it is C-contiguous, aligned and in native byte order, else such a copy."""
    array = np.asarray(array, order="C")
    if id(array.dtype) not in _NATIVE:
        array = array.astype(native(array.dtype))
    return array if array.flags.aligned else array.copy()


def native(dtype: np.dtype) -> np.dtype:
    """NumPy's own object for a dtype of this kind and size, in native byte order; compiled code compares identities."""
    return dtype if id(dtype) in _NATIVE else np.dtype(f"{dtype.kind}{dtype.itemsize}")


_NATIVE = {id(np.dtype(t)) for t in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")}


def key_of(x: Tensor) -> int:
    """The identity of a tensor on tapes."""
    try:
        return x._key
    except AttributeError:
        x._key = new_key()
        return x._key


def check_dtype(dtype: Any, what: str) -> np.dtype:
    """`dtype` as a NumPy dtype that tensors can have. Raises DTypeError."""
    dtype = np.dtype(dtype)
    if id(dtype) in _NATIVE:
        return dtype
    if dtype.kind not in _NUMERIC or dtype.itemsize > 8:
        raise DTypeError(
            f"{what} of dtype {dtype} cannot become a tensor; tensors hold bool, integer and float16/32/64"
        )
    return native(dtype)


def python_kind(x: Any) -> type | None:
    """bool, int or float if `x` is built of Python numbers only (the widest of them), else None."""
    if type(x) in PYTHON_DEFAULTS:
        return type(x)
    if not isinstance(x, (list, tuple)):
        return None
    kinds = set(map(type, flatten(x)[0]))
    return max(kinds, key=list(PYTHON_DEFAULTS).index, default=float) if kinds <= PYTHON_DEFAULTS.keys() else None


def as_tensor(x: Any, dtype: Any = None) -> Tensor:
    """`x` as a tensor: tensors as they are, variables read, arrays copied, Python numbers as f32, i32 or bool.

    `dtype` is used for what has none of its own (Python numbers and lists of them). Raises DTypeError for anything
    else.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Readable):
        return x.read()
    if isinstance(x, Poly):
        return functions.dim(x, dtype or np.int64)
    kind = python_kind(x)
    if kind is not None:
        return wrap(_python_array(x, kind, dtype))
    if isinstance(x, (list, tuple)) and any(isinstance(leaf, Operators) for leaf in flatten(x)[0]):
        return functions.stack([as_tensor(part, dtype) for part in x])
    array = np.asarray(x)
    what = "an array" if isinstance(x, (np.ndarray, np.generic)) else f"{_short(x)} (a {type(x).__name__})"
    return wrap(np.array(array, check_dtype(array.dtype, what), order="C"))


def _python_array(x: Any, kind: type, dtype: Any) -> np.ndarray:
    """Integers that do not fit into 32 bits become int64."""
    if dtype is None and kind is int:
        array = np.array(x)
        check_dtype(array.dtype, f"the number {_short(x)}")
        small = np.iinfo(np.int32)
        fits = array.size == 0 or (array.min() >= small.min and array.max() <= small.max)
        return array.astype(np.int32) if fits else array
    return np.array(x, dtype or PYTHON_DEFAULTS[kind])


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 40 else text[:37] + "..."


def constant(value: Any, dtype: Any = None) -> Tensor:
    """A new tensor. Python floats become float32, ints int32, arrays keep their dtype unless `dtype` is given.

    Raises DTypeError for objects, strings and complex numbers.
    """
    if isinstance(value, Operators):
        tensor = as_tensor(value)
        return tensor if dtype is None or tensor.dtype == np.dtype(dtype) else functions.astype(tensor, dtype)
    if dtype is None:
        return as_tensor(value)
    tensor = as_tensor(value, check_dtype(dtype, "a value"))
    return tensor if tensor.dtype == np.dtype(dtype) else functions.astype(tensor, dtype)


def apply(op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor:
    """`op(*args, **attrs)`: run now on eager tensors, a node of the trace on traced ones; recorded by the tapes.

    Python scalars take the dtype of the first operand that is not bool, like `Op.emit`.
    """
    operands, traced = _operands(args)
    trace = state.trace
    if traced or (trace is not None and (trace.captures or not args or _is_symbolic(tuple(attrs.values())))):
        here.loc = current_loc()
        if trace is None:
            raise leaked(next(x for x in operands if isinstance(x, TracedTensor)))
        result: Tensor = TracedTensor(op.emit(*[trace.value_of(x) for x in operands], **attrs), trace)
    else:
        result = _run(op, operands, attrs)
    if state.tapes:
        record(op, operands, attrs, result)
    return result


def _is_symbolic(attribute: Any) -> bool:
    """Whether there is a symbolic extent in it: what `broadcast` to `[B]` gives is known at run time only."""
    if isinstance(attribute, tuple):
        return any(map(_is_symbolic, attribute))
    return isinstance(attribute, Poly)


def _is_under_way(trace: Trace) -> bool:
    current = state.trace
    while current is not None and current is not trace:
        current = current.parent
    return current is not None


def leaked(x: TracedTensor) -> LeakedValueError:
    return LeakedValueError(
        f"{x!r} belongs to the tracing of {x._trace.name!r}, which is over, and is used at {user_loc()}; "
        "return it from the function, or keep state in a tp.Variable, instead of storing it in an outer object"
    )


def _operands(args: tuple) -> tuple[tuple[Tensor, ...], bool]:
    traced, weak, ready = False, None, True
    for x in args:
        if isinstance(x, Tensor):
            traced = traced or isinstance(x, TracedTensor)
        else:
            ready = False
    if ready:
        return args, traced
    for x in args:
        dtype = getattr(x, "dtype", None)
        if dtype is not None and dtype.kind != "b":
            weak = dtype
            break
    operands = tuple([_wrap_value(x) if isinstance(x, Value) else as_tensor(x, weak) for x in args])
    return operands, any(isinstance(x, TracedTensor) for x in operands)


def _wrap_value(value: Value) -> Tensor:
    """Derivative rules emit nullary ops (`iota`, `dim`) as IR values, which belong to the trace under way."""
    assert state.trace is not None, "an IR value met a tensor outside a trace"
    return TracedTensor(value, state.trace)


def _run(op: Op, operands: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
    try:
        return wrap(op.ref(*[x._array for x in operands], **attrs))
    except (TypeError, ValueError, IndexError) as error:
        outer, here.loc = here.loc, current_loc()
        try:
            op.infer(*[x.type for x in operands], **attrs)  # says what is wrong with the types, if that is the cause
            error.add_note(f"in {op.name}({', '.join(str(x.type) for x in operands)}) at {here.loc}")
        finally:
            here.loc = outer
        raise


def record(op: Op, operands: tuple[Tensor, ...], attrs: dict[str, Any], result: Tensor) -> None:
    """Show an operation to the tapes of this thread. Results that are not floating have no derivatives."""
    if result.dtype.kind == "f":
        keys = [key_of(x) for x in operands]
        tapes = [tape for tape in state.tapes if tape.tracks(keys)]
        if tapes:
            loc = current_loc()
            for tape in tapes:
                tape.add(op, keys, operands, attrs, result, loc)
