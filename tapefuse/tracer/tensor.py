"""Tensors: arrays whose operations are recorded by tapes and collected by traces.

An eager `Tensor` holds an array; an operation on it runs the op's NumPy `ref`. A `TracedTensor` stands for a value of
the program being traced; an operation on it adds a node to that program.

>>> x = constant([1.0, 2.0])
>>> x[0] = 5.0
>>> print(x * 3)
tp.Tensor([15.  6.], shape=(2,), dtype=float32)

`x[0] = 5.0` gives the object `x` a new value; no array is ever written to, so that whatever was computed from the old
value stays what it is: an earlier `y = x[1:]`, and what tapes recorded.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tapefuse._errors import ConcretizationError, LeakedValueError, ShapeError, TapefuseError
from tapefuse._tree import flatten
from tapefuse.ir.graph import Value
from tapefuse.ir.op import Op
from tapefuse.ir.types import Poly, Shape, Type
from tapefuse.tracer.arrays import array_of, check_dtype, normal, python_array, python_kind, shortened
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.source import made_here, user_loc, without_staging
from tapefuse.tracer.state import new_key, state

if TYPE_CHECKING:
    from tapefuse.tracer.deferring import Run
    from tapefuse.tracer.trace import Trace


class Tensor(Operators):
    """An array. Made by `tapefuse.constant` and by every operation.

    `_array` is C-contiguous, aligned, in native byte order, and never written to; `_key`, the identity on tapes, is
    made when it is first asked for (`key_of`). `_value` and `_trace` are those of a `TracedTensor`, which a tensor made
    while tracing becomes when something traced is stored into it; `_value` and `_run` those of a `Deferred`.
    """

    __slots__ = ("__weakref__", "_array", "_key", "_run", "_trace", "_value")
    _array: np.ndarray
    _key: int
    _trace: Trace
    _value: Value
    weak = False  # whether it takes the dtype of what it meets, as a Python number does

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
        return self._array.size

    def numpy(self) -> Any:
        """The value as a fresh NumPy array (a NumPy scalar for shape `()`); leaves the tape."""
        array = self._leaving("`.numpy()`")
        return array.copy() if array.ndim else array[()]

    def item(self) -> bool | int | float | complex:
        """The only element as a Python number. Raises ValueError if there are more."""
        return self._number("`.item()`")

    def tolist(self) -> Any:
        return self._leaving("`.tolist()`").tolist()

    def _concrete(self, asked_by: str) -> np.ndarray:
        return self._array

    def _leaving(self, way: str) -> np.ndarray:
        """The value for the world without tapes, which note that it went there."""
        for tape in state.tapes:
            tape.note("left", way, (key_of(self),))
        return self._concrete(way)

    def _number(self, way: str) -> Any:
        array = self._leaving(way)
        if array.size != 1:
            raise ShapeError(f"{way} at {user_loc()}: {self.type} has {array.size} elements, not one; take one, x[0]")
        return array.item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The value as a read-only array that shares memory, or a copy where NumPy asks for one."""
        array = self._leaving("`np.asarray()`")
        if copy or (dtype is not None and np.dtype(dtype) != array.dtype):
            return np.array(array, dtype)
        view = array.view()
        view.flags.writeable = False
        return view

    def __bool__(self) -> bool:
        return bool(self._leaving("a truth value (`if`, `while`, `and`, `or`, `not`, `assert`)"))

    def __float__(self) -> float:
        return float(self._number("`float()`"))

    def __complex__(self) -> complex:
        return complex(self._number("`complex()`"))

    def __int__(self) -> int:
        return int(self._number("`int()`"))

    def __index__(self) -> int:
        return self._leaving("an index").__index__()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of shape () has no len()")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a tensor of shape () cannot be iterated over")
        return (functions.getitem(self, i) for i in range(len(self)))

    def __setitem__(self, index: Any, value: Any) -> None:
        """`x[index] = value` for every index that `x[index]` takes; `value` is broadcast and cast as NumPy does, but
        not from floating-point to integer numbers.

        Afterwards this object has the new value. Others made from it before, `y = x[1:]` say, keep the old one; an
        argument of a `tape_function` changes inside of it only. Tapes record it: gradients reach `value`, and the
        rest of the old tensor. Raises IndexOutOfRangeError, ShapeError, DTypeError before anything changes.
        """
        assume(self, functions.setitem(self, index, value))

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def copy(self) -> Tensor:
        """Another tensor with the same value, which stays when something is stored into this one."""
        trace = state.trace
        if trace is not None and isinstance(self, TracedTensor) and not trace.owns(self):
            return TracedTensor(trace.value_of(self), trace)
        return still(self)

    def __copy__(self) -> Tensor:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> Tensor:
        twin = memo[id(self)] = self.copy()
        return twin

    def __reduce__(self) -> tuple:
        return wrap, (self._concrete("pickling"),)

    def __repr__(self) -> str:
        value = self._array if self._array.ndim else self._array[()]
        return f"tp.Tensor({value!s}, shape={self.shape}, dtype={self.dtype})"

    __tapefuse_apply__: Callable[..., Tensor]  # `applying` says how operations find their tensors
    __tapefuse_region__: Callable[..., tuple[Tensor, ...]]


class TracedTensor(Tensor):
    """A tensor whose value is known only when the traced program runs."""

    __slots__ = ()

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

    @property
    def size(self) -> Any:
        return self.type.size

    def _concrete(self, asked_by: str) -> np.ndarray:
        """The value, if it follows from constants alone. Raises ConcretizationError."""
        array = self._trace.constant_value(self._value)
        if array is None and not _is_under_way(self._trace):
            raise leaked(self)
        if array is None:
            raise ConcretizationError(
                f"{asked_by} at {user_loc()} needs the value of {self!r}, which {self._trace.unknown}; "
                f"{without_staging(asked_by)}, or do this outside the {self._trace.kind}"
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


class Deferred(Tensor):
    """A tensor of a tape that repeats itself, which is computed when somebody looks at it, or with the gradients.

    `_value` is its type, `_run` the `deferring.Run` that it belongs to. When it has its array it is a `Tensor`.
    """

    __slots__ = ()
    _value: Any
    _run: Run

    def __getattr__(self, name: str) -> Any:
        if name not in ("_array", "_key"):
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        self._run.settle()
        return vars(Tensor)[name].__get__(self)

    def _leaving(self, way: str) -> np.ndarray:
        self._run.settle()
        return Tensor._leaving(self, way)

    def __tapefuse_apply__(self, op: Op, args: tuple, attrs: dict[str, Any]) -> Tensor:
        later = self._run.next(op, attrs, args)
        return Tensor.__tapefuse_apply__(self, op, args, attrs) if later is None else later

    @property
    def dtype(self) -> np.dtype:
        return self._value.dtype

    @property
    def shape(self) -> Shape:
        return self._value.shape

    @property
    def type(self) -> Type:
        return self._value

    @property
    def size(self) -> Any:
        return self.type.size


class _PythonNumber(Tensor):
    """What takes the dtype of what it meets, as a Python number does; what NumPy's functions give for it does not:
    `np.sin(0.5)` is a float64."""

    __slots__ = ()
    weak = True

    def __array_ufunc__(self, *args: Any, **options: Any) -> Any:
        return _strong(super().__array_ufunc__(*args, **options))

    def __array_function__(self, *args: Any) -> Any:
        return _strong(super().__array_function__(*args))


class Number(_PythonNumber):
    """A number that a loop or branch carries."""

    __slots__ = ()

    @property
    def exact(self) -> Any:
        """The Python number that it is the rounded form of, if it is one."""
        return getattr(self, "_value", None)


class TracedNumber(_PythonNumber, TracedTensor):
    """A `Number` whose value is known only when the traced program runs."""

    __slots__ = ()


def number(x: int | float | complex) -> Tensor:
    """A Python number as a tensor that takes the dtype of what it meets, in as many bits as Python has or may have."""
    return weakened(as_tensor(x, np.int64 if isinstance(x, int) else np.float64 if isinstance(x, float) else None))


def settled(x: Tensor) -> Tensor:
    """A number that met no dtype as the result of a loop or branch: a float is a float32, as Python's become, an
    integer an int64."""
    if not x.weak or not x.type.is_float:
        return strengthened(x) if isinstance(x, TracedTensor) else x
    if isinstance(x, TracedTensor):
        return functions.astype(x, np.float32)
    found: Any = weakened(as_tensor(x.item()))
    found._value = x.item()
    return found


def weakened(x: Tensor) -> Tensor:
    """The same value as a number that takes the dtype of what it meets; bools have nothing to take."""
    if x.weak or x.dtype.kind == "b":
        return x
    return _same_as(x, TracedNumber if isinstance(x, TracedTensor) else Number)


def strengthened(x: Tensor) -> Tensor:
    """The same value with the dtype that it has."""
    return _same_as(x, TracedTensor if isinstance(x, TracedTensor) else Tensor) if x.weak else x


def _strong(found: Any) -> Any:
    if type(found) is tuple:
        return tuple(map(_strong, found))
    return strengthened(found) if isinstance(found, Tensor) else found


def still(x: Tensor) -> Tensor:
    """Another object with the value and identity that `x` has now, whatever is stored into `x` later."""
    twin, trace = _same_as(x, type(x)), state.trace
    if trace is not None and not isinstance(x, TracedTensor):
        trace.made(twin)
    return twin


class OuterStoreError(TapefuseError, TypeError):
    """A part of a program stores into a tensor that was made outside of it."""

    def __init__(self, tensor: Tensor, trace: Trace):
        loc = user_loc()
        text = linecache.getline(loc.file, loc.line).strip()
        made = f" of {tensor._value.loc}" if isinstance(tensor, TracedTensor) and tensor._value.loc else ""
        what = f"{trace.kind}{'' if trace.place else f' {trace.name!r}'}"
        super().__init__(
            f"{text or 'x[...] = value'!r} at {loc} stores into the tensor {tensor.type}{made}, made outside of the "
            f"{what}; change and return a copy, made inside with x.copy(), or keep state in a tp.Variable"
        )
        self.tensor = tensor


def assume(x: Tensor, new: Tensor) -> None:
    """Give the object `x` the value and identity of another tensor. Raises OuterStoreError for one of another
    program."""
    for t in (x, new):
        if type(t) is Deferred:
            t._run.settle()
    trace = state.trace
    if trace is not None and not trace.owns(x):
        raise OuterStoreError(x, trace)
    if isinstance(x, TracedTensor) and not isinstance(new, TracedTensor):
        if trace is None:
            raise leaked(x)
        new = TracedTensor(trace.value_of(new), trace)
    x.__class__ = type(new)
    if isinstance(new, TracedTensor):
        x._value, x._trace = new._value, new._trace
    else:
        x._array = new._array
    x._key = key_of(new)


def _same_as(x: Tensor, kind: type[Tensor]) -> Tensor:
    """A tensor of another class with the value and the identity of `x`."""
    kind = Tensor if kind is Deferred else kind
    twin: Any = kind.__new__(kind)
    if isinstance(x, TracedTensor):
        twin._value, twin._trace = x._value, x._trace
    else:
        twin._array = x._array
        if isinstance(x, Number) and kind is Number and x.exact is not None:
            twin._value = x._value
    key = getattr(x, "_key", None)
    if key is not None:
        twin._key = key
    return twin


class Readable(Operators):
    """Something that stands for a tensor once it is read: a variable."""

    __slots__ = ()

    def read(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it reads as")

    __tapefuse_apply__: Callable[..., Tensor]


def wrap(array: np.ndarray) -> Tensor:
    """A tensor around an array that nobody else writes to; the array is copied only if its layout does not fit."""
    tensor = Tensor.__new__(Tensor)
    tensor._array = normal(array)
    if state.trace is not None:
        state.trace.made(tensor)
    return tensor


def key_of(x: Tensor) -> int:
    """The identity of a tensor on tapes."""
    try:
        return x._key
    except AttributeError:
        x._key = new_key()
        return x._key


def as_tensor(x: Any, dtype: Any = None) -> Tensor:
    """`x` as a tensor: tensors as they are, variables read, arrays copied, Python numbers as f32, i32, c128 or bool.

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
        return wrap(python_array(x, kind, dtype))
    if isinstance(x, (list, tuple)) and any(isinstance(leaf, (Operators, Poly)) for leaf in flatten(x)[0]):
        return functions.stack([as_tensor(part, dtype) for part in x])
    array = array_of(x)
    what = "an array" if isinstance(x, (np.ndarray, np.generic)) else f"{shortened(x)} (a {type(x).__name__})"
    return wrap(np.array(array, check_dtype(array.dtype, what), order="C"))


def constant(value: Any, dtype: Any = None) -> Tensor:
    """A new tensor. Python floats become float32, ints int32, complex numbers complex128, arrays keep their dtype
    unless `dtype` is given.

    Raises DTypeError for objects and strings.
    """
    if isinstance(value, Operators):
        tensor = as_tensor(value)
        return still(tensor) if dtype is None or tensor.dtype == np.dtype(dtype) else functions.astype(tensor, dtype)
    tensor = as_tensor(value, None if dtype is None else check_dtype(dtype, "a value"))
    tensor = tensor if dtype is None or tensor.dtype == np.dtype(dtype) else functions.astype(tensor, dtype)
    made_here(tensor)
    return tensor


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
