"""Operators and methods that tensors and variables share.

They are written with NumPy-named functions, which live above this package; `tapefuse.numpy` hands its functions
to `functions` when it is imported, and this is the only place where a name is filled in from above.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapefuse.tracer.tensor import Tensor

functions: Any = SimpleNamespace()  # every function of `tapefuse.numpy` by its name
ufuncs: dict[Any, Any] = {}  # numpy ufunc -> our function
array_functions: dict[Any, Any] = {}  # numpy function -> our function

Axis = int | tuple[int, ...] | None


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
    def __invert__(self) -> Tensor: return functions.invert(self)
    def __getitem__(self, index: Any) -> Tensor: return functions.getitem(self, index)
    # fmt: on

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        """Elementwise; objects that are no numbers compare by identity."""
        return functions.equal(self, other) if _is_number(other) else NotImplemented

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return functions.not_equal(self, other) if _is_number(other) else NotImplemented

    def __hash__(self) -> int:
        name = type(self).__name__
        raise TypeError(f"a {name} cannot be hashed, since == compares it elementwise; use .ref() as dictionary key")

    def ref(self) -> Ref:
        """A hashable key for this object; `.deref()` gives it back."""
        return Ref(self)

    # -- NumPy's array methods -----------------------------------------------------------------
    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.sum(self, axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.mean(self, axis, keepdims=keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.prod(self, axis, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.max(self, axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.min(self, axis, keepdims=keepdims)

    def var(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.var(self, axis, keepdims=keepdims)

    def std(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.std(self, axis, keepdims=keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.any(self, axis, keepdims=keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return functions.all(self, axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Tensor:
        return functions.argmax(self, axis)

    def argmin(self, axis: int | None = None) -> Tensor:
        return functions.argmin(self, axis)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements, in row-major order, in another shape: `x.reshape(2, -1)` or `x.reshape((2, -1))`."""
        return functions.reshape(self, shape[0] if len(shape) == 1 else shape)

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

    def ravel(self) -> Tensor:
        return functions.ravel(self)

    def flatten(self) -> Tensor:
        return functions.ravel(self)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return functions.swapaxes(self, axis1, axis2)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return functions.clip(self, min, max)

    def dot(self, other: Any) -> Tensor:
        return functions.dot(self, other)

    # -- NumPy's dispatch protocols -------------------------------------------------------------
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy ufuncs called on a tensor are recorded: `np.exp(x)`, `np.add.reduce(x)`."""
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        function = ufuncs.get((ufunc, method))
        if function is None:
            raise TypeError(f"np.{name} has no counterpart in tapefuse; {_LEAVE}")
        return function(*inputs, **_without_defaults(f"np.{name}", options))

    def __array_function__(self, func: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        """NumPy functions called on a tensor are recorded: `np.mean(x, axis=0)`, `np.where(c, x, y)`."""
        name = f"{func.__module__}.{func.__name__}".replace("numpy", "np", 1)
        function = array_functions.get(func)
        if function is None:
            raise TypeError(f"{name} has no counterpart in tapefuse; {_LEAVE}")
        return function(*args, **_without_defaults(name, kwargs))


_LEAVE = "compose it from supported functions, or leave the tape on purpose with np.asarray(x) or x.numpy()"


def _without_defaults(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """NumPy options that tensors cannot honour are refused unless they ask for nothing."""
    if options.get("out") is not None:
        raise TypeError(f"{name}(out=...) would write into a tensor, and tensors are immutable; use the returned value")
    if options.get("where", True) is not True:
        raise TypeError(f"{name}(where=...) is not supported on tensors; use tp.where on the result")
    return {k: v for k, v in options.items() if k not in ("out", "where")}


def _is_number(x: object) -> bool:
    return isinstance(x, (Operators, int, float, list, tuple)) or hasattr(x, "__array__")
