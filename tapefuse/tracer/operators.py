"""Operators and methods that tensors and variables share.

They are written with NumPy-named functions, which live above this package; `tapefuse.numpy` hands its functions
to `functions` when it is imported, and this is the only place where a name is filled in from above.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tapefuse.ir.types import Poly
from tapefuse.tracer.exchange import CPU, exported, on_cpu
from tapefuse.tracer.source import user_loc

if TYPE_CHECKING:
    from tapefuse.tracer.tensor import Tensor

functions: Any = SimpleNamespace()  # every function of `tapefuse.numpy` by its name
ufuncs: dict[Any, Any] = {}  # numpy ufunc -> our function
array_functions: dict[Any, Any] = {}  # numpy function, or its module and name, -> our function

Axis = int | tuple[int, ...] | None
_DIRECT = {  # operators that are the function itself once it is there: a Python call less
    "__add__": "add",
    "__sub__": "subtract",
    "__mul__": "multiply",
    "__truediv__": "divide",
    "__matmul__": "matmul",
    "__pow__": "power",
    "__getitem__": "getitem",
}


def complete() -> None:
    """To be called when `functions` is filled."""
    for operator, name in _DIRECT.items():
        setattr(Operators, operator, getattr(functions, name))
    Operators.T = property(functions.transpose)  # type: ignore[assignment,method-assign]


class Ref:
    """A hashable stand-in for a tensor or variable; equal exactly for the same object."""

    __slots__ = ("_x",)

    def __init__(self, x: Any):
        self._x = x

    def deref(self) -> Any:
        return self._x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self._x is other._x

    def __hash__(self) -> int:
        return id(self._x)


class Operators:
    """NumPy's operators, array methods and dispatch protocols, for anything that `as_tensor` reads."""

    __slots__ = ()
    __array_priority__ = 1000.0

    # fmt: off
    def __add__(self, other: Any) -> Tensor: return functions.add(self, other)
    def __radd__(self, other: Any) -> Tensor: return functions.add(other, self)
    def __sub__(self, other: Any) -> Tensor: return functions.subtract(self, other)
    def __rsub__(self, other: Any) -> Tensor: return functions.subtract(other, self)
    def __mul__(self, other: Any) -> Tensor: return functions.multiply(self, other)
    def __rmul__(self, other: Any) -> Tensor: return functions.multiply(other, self)
    def __truediv__(self, other: Any) -> Tensor: return functions.divide(self, other)
    def __rtruediv__(self, other: Any) -> Tensor: return functions.divide(other, self)
    def __floordiv__(self, other: Any) -> Tensor: return functions.floor_divide(self, other)
    def __rfloordiv__(self, other: Any) -> Tensor: return functions.floor_divide(other, self)
    def __mod__(self, other: Any) -> Tensor: return functions.mod(self, other)
    def __rmod__(self, other: Any) -> Tensor: return functions.mod(other, self)
    def __pow__(self, other: Any) -> Tensor: return functions.power(self, other)
    def __rpow__(self, other: Any) -> Tensor: return functions.power(other, self)
    def __matmul__(self, other: Any) -> Tensor: return functions.matmul(self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return functions.matmul(other, self)
    def __and__(self, other: Any) -> Tensor: return functions.bitwise_and(self, other)
    def __rand__(self, other: Any) -> Tensor: return functions.bitwise_and(other, self)
    def __or__(self, other: Any) -> Tensor: return functions.bitwise_or(self, other)
    def __ror__(self, other: Any) -> Tensor: return functions.bitwise_or(other, self)
    def __xor__(self, other: Any) -> Tensor: return functions.bitwise_xor(self, other)
    def __rxor__(self, other: Any) -> Tensor: return functions.bitwise_xor(other, self)
    def __lt__(self, other: Any) -> Tensor: return functions.less(self, other)
    def __le__(self, other: Any) -> Tensor: return functions.less_equal(self, other)
    def __gt__(self, other: Any) -> Tensor: return functions.greater(self, other)
    def __ge__(self, other: Any) -> Tensor: return functions.greater_equal(self, other)
    def __neg__(self) -> Tensor: return functions.negative(self)
    def __pos__(self) -> Tensor: return functions.positive(self)
    def __abs__(self) -> Tensor: return functions.abs(self)
    def __lshift__(self, other: Any) -> Tensor: return functions.left_shift(self, other)
    def __rlshift__(self, other: Any) -> Tensor: return functions.left_shift(other, self)
    def __rshift__(self, other: Any) -> Tensor: return functions.right_shift(self, other)
    def __rrshift__(self, other: Any) -> Tensor: return functions.right_shift(other, self)
    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]: return functions.divmod(self, other)
    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]: return functions.divmod(other, self)
    def __round__(self, ndigits: int = 0) -> Tensor: return functions.round(self, ndigits)
    def __invert__(self) -> Tensor: return functions.invert(self)
    def __getitem__(self, index: Any) -> Tensor: return functions.getitem(self, index)
    # fmt: on

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        """Elementwise; objects that are no numbers compare by identity."""
        return functions.equal(self, other) if _is_number(other) else NotImplemented

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return functions.not_equal(self, other) if _is_number(other) else NotImplemented

    def __hash__(self) -> int:
        name, cure = type(self).__name__, "use .ref() as dictionary key"
        if getattr(self, "_trace", None) is not None:
            name, cure = "traced value", "keep values in a tensor, out[i] = value, in place of a dict or set"
        raise TypeError(f"a {name} cannot be hashed at {user_loc()}, since == compares it elementwise; {cure}")

    def ref(self) -> Ref:
        """A hashable key for this object; `.deref()` gives it back."""
        return Ref(self)

    # -- NumPy's array methods -----------------------------------------------------------------
    def sum(self, axis: Axis = None, dtype: Any = None, out: None = None, **options: Any) -> Tensor:
        return functions.sum(self, axis, dtype, out, **options)

    def prod(self, axis: Axis = None, dtype: Any = None, out: None = None, **options: Any) -> Tensor:
        return functions.prod(self, axis, dtype, out, **options)

    def mean(self, axis: Axis = None, dtype: Any = None, out: None = None, **options: Any) -> Tensor:
        return functions.mean(self, axis, dtype, out, **options)

    def var(self, axis: Axis = None, dtype: Any = None, out: None = None, ddof: float = 0, **options: Any) -> Tensor:
        return functions.var(self, axis, dtype, out, ddof, **options)

    def std(self, axis: Axis = None, dtype: Any = None, out: None = None, ddof: float = 0, **options: Any) -> Tensor:
        return functions.std(self, axis, dtype, out, ddof, **options)

    def max(self, axis: Axis = None, out: None = None, **options: Any) -> Tensor:
        return functions.max(self, axis, out, **options)

    def min(self, axis: Axis = None, out: None = None, **options: Any) -> Tensor:
        return functions.min(self, axis, out, **options)

    def any(self, axis: Axis = None, out: None = None, **options: Any) -> Tensor:
        return functions.any(self, axis, out, **options)

    def all(self, axis: Axis = None, out: None = None, **options: Any) -> Tensor:
        return functions.all(self, axis, out, **options)

    def argmax(self, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tensor:
        return functions.argmax(self, axis, out, keepdims=keepdims)

    def argmin(self, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tensor:
        return functions.argmin(self, axis, out, keepdims=keepdims)

    def cumsum(self, axis: int | None = None, dtype: Any = None, out: None = None) -> Tensor:
        return functions.cumsum(self, axis, dtype, out)

    def cumprod(self, axis: int | None = None, dtype: Any = None, out: None = None) -> Tensor:
        return functions.cumprod(self, axis, dtype, out)

    def round(self, decimals: int = 0, out: None = None) -> Tensor:
        return functions.round(self, decimals, out)

    def conj(self) -> Tensor:
        return functions.conjugate(self)

    def conjugate(self) -> Tensor:
        return functions.conjugate(self)

    @property
    def real(self) -> Tensor:
        return functions.real(self)

    @property
    def imag(self) -> Tensor:
        return functions.imag(self)

    def reshape(self, *shape: Any, order: str = "C") -> Tensor:
        """The same elements, in row-major order, in another shape: `x.reshape(2, -1)` or `x.reshape((2, -1))`."""
        return functions.reshape(self, shape[0] if len(shape) == 1 else shape, order)

    def transpose(self, *axes: Any) -> Tensor:
        """Axes permuted (reversed without an argument): `x.transpose(1, 0)` or `x.transpose((1, 0))`."""
        return functions.transpose(self, (axes[0] if len(axes) == 1 else axes) if axes else None)

    @property
    def T(self) -> Tensor:
        return functions.transpose(self)

    def astype(self, dtype: Any) -> Tensor:
        return functions.astype(self, dtype)

    def squeeze(self, axis: Axis = None) -> Tensor:
        return functions.squeeze(self, axis)

    def ravel(self, order: str = "C") -> Tensor:
        return functions.ravel(self, order)

    def flatten(self, order: str = "C") -> Tensor:
        return functions.ravel(self, order)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return functions.swapaxes(self, axis1, axis2)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return functions.clip(self, min, max)

    def dot(self, other: Any) -> Tensor:
        return functions.dot(self, other)

    @property
    def mT(self) -> Tensor:
        return functions.matrix_transpose(self)

    def argpartition(self, kth: Any, axis: int | None = -1) -> Tensor:
        return functions.argpartition(self, kth, axis)

    def argsort(self, axis: int | None = -1, *, stable: bool | None = None) -> Tensor:
        return functions.argsort(self, axis)

    def choose(self, choices: Any, mode: str = "raise") -> Tensor:
        return functions.choose(self, choices, mode=mode)

    def compress(self, condition: Any, axis: int | None = None) -> Tensor:
        return functions.compress(condition, self, axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        return functions.diagonal(self, offset, axis1, axis2)

    def nonzero(self) -> tuple[Tensor, ...]:
        return functions.nonzero(self)

    def repeat(self, repeats: Any, axis: int | None = None) -> Tensor:
        return functions.repeat(self, repeats, axis)

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> Tensor:
        return functions.searchsorted(self, v, side, sorter)

    def sort(self, axis: int | None = -1, *, stable: bool | None = None) -> Tensor:
        """A sorted tensor: unlike an array's, the method changes nothing in place."""
        return functions.sort(self, axis)

    def take(self, indices: Any, axis: int | None = None, mode: str = "raise") -> Tensor:
        return functions.take(self, indices, axis, mode=mode)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Tensor:
        return functions.trace(self, offset, axis1, axis2, dtype)

    # -- exchange with other libraries ----------------------------------------------------------
    @property
    def device(self) -> str:
        return "cpu"

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """The tensor itself, for the only device there is. Raises ValueError for another."""
        on_cpu(device)
        return functions.asarray(self)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        """The value for another library, which shares memory and is told that it is read-only.

        One that knows no such mark (DLPack before 1.0) gets a copy; with `copy=False` that is a BufferError.
        """
        return exported(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The module of the array API standard's functions: `tapefuse.array_api`."""
        return functions.array_namespace(api_version)

    # -- NumPy's dispatch protocols -------------------------------------------------------------
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy ufuncs called on a tensor are recorded: `np.exp(x)`, `np.add.reduce(x)`."""
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        function = ufuncs.get((ufunc, method))
        if function is None:
            raise TypeError(f"np.{name} has no counterpart in tapefuse; {_LEAVE}")
        return _called(function, f"np.{name}", inputs, options)

    def __array_function__(self, func: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        """NumPy functions called on a tensor are recorded: `np.mean(x, axis=0)`, `np.where(c, x, y)`."""
        name = f"{func.__module__}.{func.__name__}".replace("numpy", "np", 1)
        function = array_functions.get(func) or array_functions.get((func.__module__, func.__name__))
        if function is None:
            raise TypeError(f"{name} has no counterpart in tapefuse; {_LEAVE}")
        return _called(function, name, args, kwargs)


_LEAVE = "compose it from supported functions, or leave the tape on purpose with np.asarray(x) or x.numpy()"


def _called(function: Any, name: str, args: tuple, options: dict[str, Any]) -> Any:
    """Our function in place of NumPy's `name`. TypeError for what tensors cannot honour, and for unknown arguments."""
    out = options.get("out")
    if any(x is not None for x in (out if isinstance(out, tuple) else (out,))):
        raise TypeError(
            f"{name}(out=...) at {user_loc()} writes into arrays, not into tensors; use the result, or x[...] = ..."
        )
    given = {k: v for k, v in options.items() if k != "out" and not (k == "where" and v is True)}
    try:
        return function(*args, **given)
    except TypeError as error:
        wrong = _misfit(function, args, given)
        if wrong is None:
            raise
        cure = "; use tp.where on the result" if "where" in wrong else ""
        raise TypeError(f"{name} at {user_loc()}: {wrong}{cure}") from error


def _misfit(function: Any, args: tuple, options: dict[str, Any]) -> str | None:
    """Why the arguments do not fit the function's signature: `got an unexpected keyword argument 'where'`."""
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        return str(error)
    return None


def _is_number(x: object) -> bool:
    return isinstance(x, (Operators, int, float, complex, list, tuple, Poly)) or hasattr(x, "__array__")
