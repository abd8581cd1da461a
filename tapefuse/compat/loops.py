"""TensorFlow's loops, branches and `TensorArray`, spelled with `tapefuse.tracer.control`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import IndexOutOfRangeError, ShapeError
from tapefuse._tree import Container, flatten, tree_map, unflatten
from tapefuse.ir.types import Dim, Type, show_shape
from tapefuse.tracer import control
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor


def cond(pred: Any, true_fn: Callable, false_fn: Callable, name: str | None = None) -> Any:
    """`true_fn()` if `pred`, else `false_fn()`. The name is ignored."""
    return control.cond(pred, true_fn, false_fn)


def case(
    pred_fn_pairs: Any,
    default: Callable | None = None,
    exclusive: bool = False,
    strict: bool = False,
    name: str | None = None,
) -> Any:
    """The function of the first pair whose condition is true, else `default` (the last function without one).

    `exclusive` is not checked; `strict` and the name are ignored.
    """
    pairs = list(pred_fn_pairs.items() if isinstance(pred_fn_pairs, Mapping) else pred_fn_pairs)
    if not pairs:
        raise ValueError(f"tf.case at {user_loc()} has no pairs of a condition and a function")
    (pred, fn), *rest = pairs
    if not rest:
        return fn() if default is None else control.cond(pred, fn, default)
    return control.cond(pred, fn, lambda: case(rest, default))


def switch_case(branch_index: Any, branch_fns: Any, default: Callable | None = None, name: str | None = None) -> Any:
    """`branch_fns[branch_index]()`, or `default` (the last one without it) for an index that is not there.

    `branch_fns`: a list of functions, or a dict or pairs of indices and functions. The name is ignored.
    """
    if not isinstance(branch_fns, Mapping):
        is_plain = all(callable(f) for f in branch_fns)
        branch_fns = dict(enumerate(branch_fns) if is_plain else branch_fns)
    keys = sorted(branch_fns)
    last = branch_fns[keys[-1]] if default is None else default
    index = as_tensor(branch_index)
    place = tp.where(tp.equal(index, keys[0]), 0, len(keys))
    for k, key in enumerate(keys[1:], 1):
        place = tp.where(tp.equal(index, key), k, place)
    return control.switch(tp.astype(place, np.int64), [*(branch_fns[k] for k in keys), last])


def while_loop(
    cond: Callable,
    body: Callable,
    loop_vars: Any,
    shape_invariants: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    maximum_iterations: Any = None,
    name: str | None = None,
) -> Any:
    """`loop_vars = body(*loop_vars)` while `cond(*loop_vars)`. Shapes stay as they are, so `shape_invariants` is not
    needed; it and what tunes TensorFlow's executor are ignored."""
    kind = list if isinstance(loop_vars, list) else tuple

    def step(carry: tuple) -> Any:
        found = body(*carry)
        return tuple(found) if isinstance(found, (list, tuple)) and type(found) in (list, tuple) else (found,)

    found = control.while_loop(
        lambda carry: cond(*carry), step, tuple(loop_vars), maximum_iterations=maximum_iterations
    )
    return kind(found)


def map_fn(
    fn: Callable,
    elems: Any,
    dtype: Any = None,
    parallel_iterations: int | None = None,
    back_prop: bool = True,
    swap_memory: bool = False,
    infer_shape: bool = True,
    name: str | None = None,
    fn_output_signature: Any = None,
) -> Any:
    """`fn` of each element along the first axes, stacked. Result types follow from `fn`; other options are ignored."""
    return control.map(fn, elems)


def scan(
    fn: Callable,
    elems: Any,
    initializer: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    infer_shape: bool = True,
    reverse: bool = False,
    name: str | None = None,
) -> Any:
    """Every `a = fn(a, x)` stacked, from `initializer`, or from the first element, which is then the first result.

    Raises ValueError if `fn` returns another structure than it gets.
    """

    def step(a: Any, x: Any) -> tuple:
        y = fn(a, x)
        return y, y

    if initializer is not None:
        return control.scan(step, initializer, elems, reverse=reverse)[1]
    tensors = tree_map(as_tensor, elems)
    if any(x.shape[:1] == (0,) for x in flatten(tensors)[0]):
        raise ValueError(f"tf.scan at {user_loc()}: no elements and no initializer; give an initializer")
    first = tree_map(lambda x: x[-1 if reverse else 0], tensors)
    rest = tree_map(lambda x: x[:-1] if reverse else x[1:], tensors)
    ys = control.scan(step, first, rest, reverse=reverse)[1]
    leaves, tree = flatten(ys)
    ones = [tp.expand_dims(x, 0) for x in flatten(first)[0]]
    pairs = [[y, one] if reverse else [one, y] for one, y in zip(ones, leaves, strict=True)]
    return unflatten(tree, [tp.concatenate(pair) for pair in pairs])


class TensorArray(Container):
    """`size` tensors of one type, written one by one; every method returns a new array and changes nothing.

    They are stored in one tensor, so their shape must be known from `element_shape` or the first write. The size is
    fixed, also with `dynamic_size`, except that eager writes beyond the end make such an array longer. What was never
    written is zero.
    """

    __slots__ = ("_dtype", "_dynamic", "_size", "_values")

    def __init__(
        self,
        dtype: Any,
        size: Any = 0,
        dynamic_size: bool = False,
        clear_after_read: bool | None = None,
        tensor_array_name: str | None = None,
        handle: Any = None,
        flow: Any = None,
        infer_shape: bool = True,
        element_shape: Any = None,
        colocate_with_first_write_call: bool = True,
        name: str | None = None,
    ):
        n: Any = control.known_integer(size, "the size of a TensorArray")
        self._dtype, self._size, self._dynamic = np.dtype(dtype), n, dynamic_size
        self._values: Tensor | None = None
        if element_shape is not None and None not in tuple(element_shape):
            self._values = tp.zeros((n, *element_shape), self._dtype)

    # -- as a nested structure ------------------------------------------------------------------------------------
    def parts(self) -> tuple[tuple, tuple]:
        return (self._dtype, self._size, self._dynamic), (self._values,)

    @classmethod
    def of_parts(cls, fixed: tuple, entries: Sequence[Any]) -> TensorArray:
        array = cls.__new__(cls)
        array._dtype, array._size, array._dynamic = fixed
        (array._values,) = entries
        return array

    @classmethod
    def blank(cls, type: Type) -> Tensor:
        """The values of an array in a loop whose first write comes in the loop."""
        return tp.zeros(type.shape, type.dtype)

    # -- elements ---------------------------------------------------------------------------------------------------
    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def element_shape(self) -> tuple[Dim, ...] | None:
        return None if self._values is None else self._values.shape[1:]

    def size(self) -> Tensor:
        """How many tensors there are, as an int32."""
        return tp.astype(as_tensor(self._size), np.int32)

    def __len__(self) -> int:
        return int(self._size)

    def write(self, index: Any, value: Any) -> TensorArray:
        """The array with `value` at `index`. Raises ShapeError, IndexOutOfRangeError."""
        v = as_tensor(value, self._dtype)
        if v.dtype != self._dtype:
            raise TypeError(f"TensorArray.write at {user_loc()}: {v.type} into an array of {self._dtype}; use tf.cast")
        old = tp.zeros((self._size, *v.shape), self._dtype) if self._values is None else self._values
        if old.shape[1:] != v.shape:
            raise ShapeError(
                f"TensorArray.write at {user_loc()}: an element of shape {show_shape(v.shape)}, but others have "
                f"{show_shape(old.shape[1:])}"
            )
        k = control.known_integer(index, "the index of TensorArray.write")
        if isinstance(k, int) and isinstance(self._size, int) and not 0 <= k < self._size:
            if k < 0 or not self._dynamic:
                raise IndexOutOfRangeError(f"TensorArray.write at {user_loc()}: index {k} of {self._size} elements")
            old = tp.concatenate([old, tp.zeros((k + 1 - self._size, *v.shape), self._dtype)])
        values = old.copy()
        values[index if isinstance(k, Tensor) else as_tensor(k)] = v
        return self.of_parts((self._dtype, values.shape[0], self._dynamic), (values,))

    def read(self, index: Any, name: str | None = None) -> Tensor:
        """The tensor at `index`."""
        return self._written("read")[index]

    def stack(self, name: str | None = None) -> Tensor:
        """All tensors along a new first axis."""
        return self._written("stack")

    def concat(self, name: str | None = None) -> Tensor:
        """All tensors along their first axis."""
        values = self._written("concat")
        if values.ndim < 2:
            raise ShapeError(f"TensorArray.concat at {user_loc()}: elements of shape [] have no axis; use stack")
        return tp.reshape(values, (values.shape[0] * values.shape[1], *values.shape[2:]))

    def gather(self, indices: Any, name: str | None = None) -> Tensor:
        """The tensors at `indices`, along a new first axis."""
        return tp.take(self._written("gather"), indices, axis=0)

    def unstack(self, value: Any, name: str | None = None) -> TensorArray:
        """An array of the elements of `value` along its first axis."""
        values = as_tensor(value, self._dtype)
        return self.of_parts((self._dtype, values.shape[0], self._dynamic), (values,))

    def scatter(self, indices: Any, value: Any, name: str | None = None) -> TensorArray:
        """The array with `value[k]` at `indices[k]`."""
        v = as_tensor(value, self._dtype)
        old = tp.zeros((self._size, *v.shape[1:]), self._dtype) if self._values is None else self._values
        values = old.copy()
        values[as_tensor(indices)] = v
        return self.of_parts((self._dtype, values.shape[0], self._dynamic), (values,))

    def identity(self) -> TensorArray:
        return self

    def _written(self, method: str) -> Tensor:
        if self._values is None:
            raise ValueError(
                f"TensorArray.{method} at {user_loc()}: nothing was written, so the shape of the elements is unknown; "
                "write first, or give element_shape"
            )
        return self._values

    def __repr__(self) -> str:
        shape = "unknown" if self._values is None else show_shape(self._values.shape[1:])
        return f"<TensorArray of {self._size} {self._dtype}, shape {shape}>"
