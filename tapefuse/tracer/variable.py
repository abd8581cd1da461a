"""Variables: named state that is read into tensors and assigned in place.

>>> v = Variable(3.0, name="v")
>>> v.assign_add(1.0)
<tp.Variable 'v' shape=() dtype=float32, numpy=4.0>
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ShapeError, VariableError
from tapefuse._locks import Lock
from tapefuse.ir.op import Op
from tapefuse.ir.types import Shape, Type, has_derivatives, show_shape
from tapefuse.tracer.arrays import F32, F64, python_kind, takes
from tapefuse.tracer.lines import enter
from tapefuse.tracer.operators import functions
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.source import made_here, user_loc
from tapefuse.tracer.state import new_key, state
from tapefuse.tracer.tensor import Readable, Tensor, TracedTensor, as_tensor, constant, key_of, wrap


def _same(x: Any) -> Any:
    return x


# What tapes record when a variable is read or a value gets a second identity. It never enters a program, so it is not
# registered among the ops and needs neither samples nor a lowering.
identity = Op(
    name="identity",
    doc="The same value under another identity.",
    ref=_same,
    type=_same,
    vjp=lambda g, y, x: [g],
    jvp=lambda ts, y, x: ts[0],
    batch=lambda flags, x: x,
    sample=lambda rng, dtype: [],
    elementwise=True,
    partials=(lambda g, y, x: g,),
)


OWN_REFERENCES = 2  # of an array that a local name holds, and the call that counts
WAITS = 600_000  # of 0.1 ms
wanted = ctypes.c_uint64(0)  # the `id` of a variable that a thread waits for: a call that has it pauses when it ends


class Variable(Readable):
    """State: an array of fixed dtype and shape that can be assigned.

    `_array` is C-contiguous and owns its memory. Tensors read from the variable share it, so whoever writes in place
    must hold the only reference; `assign` therefore binds a new array.
    """

    __slots__ = ("__weakref__", "_array", "_key", "_name", "_trainable")

    def __getattr__(self, name: str) -> Any:
        """Waits for `_array` while a compiled function in another thread has it: half-written values are never seen."""
        if name == "_array":
            for _ in range(WAITS):
                try:
                    array = _array_slot.__get__(self)
                except AttributeError:
                    wanted.value = id(self)
                    time.sleep(1e-4)
                else:
                    wanted.value = 0
                    return array
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __init__(self, initial_value: Any, trainable: bool = True, name: str | None = None, dtype: Any = None):
        """`initial_value`: as for `constant`; a function without arguments is called for it."""
        if state.trace is not None:
            state.trace.variable_created(self)
        if callable(initial_value) and not isinstance(initial_value, Tensor):
            initial_value = initial_value()
        self._array = own(constant(initial_value, dtype)._leaving("the initial value of a Variable"))
        self._key = new_key()
        self._name = name or "Variable"
        self._trainable = bool(trainable)
        made_here(self)

    @property
    def name(self) -> str:
        return self._name

    @property
    def _called(self) -> str:
        """What the user's source may call it, for advice."""
        return self._name if self._name.isidentifier() and self._name != "Variable" else "v"

    @property
    def trainable(self) -> bool:
        return self._trainable

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def shape(self) -> Shape:
        return self._array.shape

    @property
    def type(self) -> Type:
        return Type(self._array.dtype, self._array.shape)

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def size(self) -> int:
        return self._array.size

    def read(self) -> Tensor:
        """The value now. A tape that is recording watches a trainable variable from its first read on."""
        tapes = state.tapes
        for tape in tapes:
            tape.variable_read(self)
            if (run := tape._run) is not None and self._key in tape._tracked and (found := run.read(self)) is not None:
                return found
        if state.trace is not None:
            tensor: Tensor = TracedTensor(state.trace.variable_value(self), state.trace)
        else:
            tensor = Tensor.__new__(Tensor)
            tensor._array = self._array
        if tapes:
            _record_identity(self._key, tensor)
        return tensor

    def value(self) -> Tensor:
        """The same as `read`."""
        return self.read()

    def assign(self, value: Any) -> Variable:
        """Set the value; dtype and shape stay as they are. Raises ShapeError, DTypeError before anything changes."""
        return self._set(self._fitting(value, "assign"))

    def assign_add(self, delta: Any) -> Variable:
        """`self.assign(self + delta)`. Of `IndexedRows`, the gradients of look-ups, only the named rows are changed."""
        if isinstance(delta, IndexedRows) and state.trace is None:
            return self._add_rows(delta, 1, "assign_add")
        return self._set(functions.add(self._unrecorded(), self._fitting(delta, "assign_add")))

    def assign_sub(self, delta: Any) -> Variable:
        """`self.assign(self - delta)`, as `assign_add`."""
        if isinstance(delta, IndexedRows) and state.trace is None:
            return self._add_rows(delta, -1, "assign_sub")
        return self._set(functions.subtract(self._unrecorded(), self._fitting(delta, "assign_sub")))

    def _add_rows(self, rows: IndexedRows, sign: int, method: str) -> Variable:
        """Add rows in place where nobody else sees the array, else to a copy."""
        self._check(rows, method)
        first, sums = rows.summed()
        for tape in state.tapes:
            tape.note("assigned", self._name, [key_of(v) for v, _ in rows.terms], self)
        with _unshare_lock:
            array = self._array
            _array_slot.__delete__(self)  # readers wait
            try:
                if sys.getrefcount(array) > OWN_REFERENCES:
                    array = array.copy()
                array[first] = array[first] + sums if sign > 0 else array[first] - sums
            finally:
                _array_slot.__set__(self, array)
        return self

    def _unrecorded(self) -> Tensor:
        """The value for an update: assignment is no differentiable use, so tapes do not see it."""
        if state.trace is not None:
            return TracedTensor(state.trace.variable_value(self), state.trace)
        return wrap(self._array)

    def _fitting(self, value: Any, method: str) -> Tensor:
        tensor = self._as_own_dtype(value, method)
        self._check(tensor, method)
        return tensor

    def _check(self, value: Tensor | IndexedRows, method: str) -> None:
        """Raises ShapeError, DTypeError for a value that is not of the variable's type."""
        if value.dtype != self.dtype:
            raise DTypeError(
                f"{method} to the variable {self._name!r} at {user_loc()}: the value has dtype {value.dtype}, the "
                f"variable {self.dtype}; convert it with tp.cast(value, {self._called}.dtype)"
            )
        if value.shape != self.shape:
            raise ShapeError(
                f"{method} to the variable {self._name!r} at {user_loc()}: the value has shape "
                f"{show_shape(value.shape)}, the variable {show_shape(self.shape)}; reshape the value, or make a new "
                "Variable for a new shape"
            )

    def _as_own_dtype(self, value: Any, method: str) -> Tensor:
        kind = python_kind(value)
        if kind is not None and takes(self.dtype, np.dtype(kind)):
            return as_tensor(value, self.dtype)
        tensor = as_tensor(value)
        if tensor.weak and takes(self.dtype, tensor.dtype):
            return functions.astype(tensor, self.dtype)
        return tensor

    def _set(self, value: Tensor) -> Variable:
        for tape in state.tapes:
            tape.note("assigned", self._name, (key_of(value),), self)
        if state.trace is not None:
            state.trace.assign_variable(self, value)
        else:
            self._array = own(value._concrete(f"assigning to the variable {self._name!r}"))
        return self

    def numpy(self) -> Any:
        """The value as a fresh NumPy array (a NumPy scalar for shape `()`)."""
        return self.read().numpy()

    def item(self) -> bool | int | float | complex:
        return self.read().item()

    def tolist(self) -> Any:
        return self.read().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read().__array__(dtype, copy)

    def __bool__(self) -> bool:
        return bool(self.read())

    def __float__(self) -> float:
        return float(self.read())

    def __complex__(self) -> complex:
        return complex(self.read())

    def __int__(self) -> int:
        return int(self.read())

    def __index__(self) -> int:
        return self.read().__index__()

    def __len__(self) -> int:
        return len(self.read())

    def __iter__(self) -> Any:
        return iter(self.read())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Assign some elements, as `assign` does all of them: gradients do not pass through an assignment."""
        self._set(functions.setitem(self._unrecorded(), index, value))

    def _augmented(self, other: Any) -> Variable:
        v = self._called
        raise VariableError(
            f"`+=` and its like on the variable {self._name!r} at {user_loc()} would replace the variable by a "
            f"tensor; use {v}.assign_add(x) to update it or {v} = {v} + x for a new tensor"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = __imatmul__ = _augmented
    __iand__ = __ior__ = __ixor__ = _augmented

    def __copy__(self) -> Variable:
        return Variable(self, self._trainable, self._name)

    def __deepcopy__(self, memo: dict) -> Variable:
        twin = memo[id(self)] = self.__copy__()
        return twin

    def __reduce__(self) -> tuple:
        return Variable, (self._array, self._trainable, self._name)

    def __repr__(self) -> str:
        if state.trace is not None:
            return f"<tp.Variable {self._name!r} shape={self.shape} dtype={self.dtype}, traced>"
        return f"<tp.Variable {self._name!r} shape={self.shape} dtype={self.dtype}, numpy={_numpy_text(self._array)}>"


_array_slot: Any = vars(Variable)["_array"]
_unshare_lock = Lock()


def unshare(variables: Iterable[Variable]) -> None:
    """Give each variable a copy of its array that nobody else holds, so that a program may write to it in place."""
    with _unshare_lock:
        for v in variables:
            held = v._array  # while it is held here, no program writes to it: nothing is lost between copy and store
            v._array = held.copy()
            del held


def _numpy_text(array: np.ndarray) -> str:
    return repr(array) if array.ndim else str(array[()])


def own(array: np.ndarray) -> np.ndarray:
    """The array itself if it owns its memory, else a copy, so that its reference count tells who else may see it."""
    return array if array.base is None and array.flags.writeable else np.array(array, order="C")


def alias(x: Tensor) -> Tensor:
    """The same value as a new source of gradients, connected to `x` on the tapes that record."""
    trace = state.trace
    if isinstance(x, TracedTensor) and x._trace is trace:
        twin: Tensor = TracedTensor(x._value, trace)
    elif trace is not None and (trace.captures or isinstance(x, TracedTensor)):
        twin = TracedTensor(trace.value_of(x), trace)
    else:
        twin = wrap(x._array)
    if state.tapes:
        _record_identity(key_of(x), twin)
    return twin


def _record_identity(key: int, result: Tensor) -> None:
    """Show to the tapes that `result` has the value of what `key` identifies."""
    if type(result) is Tensor and ((array := result._array).dtype is F32 or array.dtype is F64):
        result._key = new = new_key()
        enter(state.tapes, identity, {}, (key,), new, (array, array), nowhere=True)
    elif has_derivatives(result.dtype):
        for tape in state.tapes:
            if tape.tracks([key]):
                tape.add(identity, [key], (result,), {}, result, None)
            if tape.lost:
                tape.missed("reading", [key], key_of(result))
