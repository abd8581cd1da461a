"""Gradients of look-ups: some rows of a table, with zeros in all others.

>>> table = Variable(np.ones((4, 2), np.float32))
>>> with GradientTape() as tape:
...     y = table[np.array([0, 2, 0])] * 3
>>> tape.gradient(y, table)
<tp.IndexedRows 3 rows of shape=(4, 2) dtype=float32, indices=[0 2 0]>

A table of a million rows of which a step reads a hundred has a gradient of a hundred rows. It stays one through sums
with other such gradients, negation and products with numbers; every other use makes the dense array of it.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, PerformanceWarning, ShapeError
from tapefuse._tree import Container, flatten, tree_map
from tapefuse.ir import ops
from tapefuse.ir.op import Op
from tapefuse.ir.types import Dim, Shape, Type, show_shape, size
from tapefuse.tracer.applying import apply
from tapefuse.tracer.operators import functions
from tapefuse.tracer.source import user_loc, user_stacklevel
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Readable, Tensor, as_tensor

HUGE = 10**8  # elements of a dense array that is made with a warning

Term = tuple[Tensor, Tensor]  # (values of shape (*indices.shape, *row), indices): one look-up's share


class IndexedRows(Readable):
    """An array of shape `dense_shape` as the sum of `values[k]` at rows `indices[k]`, zeros elsewhere.

    `values` has shape `(n, *dense_shape[1:])`, `indices` is `(n,)` of integers; rows that are named twice are added
    up, negative indices count from the end. `dense_shape` None: not known, and then there is no dense array.

    It is what tapes give as the gradient of `table[ids]` and `take(table, ids, axis=0)` by the table. Sums of such
    objects, `-x`, `x * number` and `x / number` are of this class again; anything else that takes tensors or arrays
    (functions of `tp` and NumPy, operators, `np.asarray`, indexing) takes `to_dense()`.

    Raises ShapeError for values that do not fit, DTypeError for indices that are no integers.
    """

    __slots__ = ("_dtype", "_shape", "_terms")

    def __init__(self, values: Any, indices: Any, dense_shape: Sequence[Dim] | None = None):
        v, i = as_tensor(values), as_tensor(indices)
        if i.dtype.kind not in "iu":
            raise DTypeError(f"IndexedRows at {user_loc()}: indices are integers, got {i.type}; cast them first")
        row = v.shape[1:] if dense_shape is None else tuple(dense_shape)[1:]
        if i.ndim != 1 or v.shape != (i.shape[0], *row):
            raise ShapeError(
                f"IndexedRows at {user_loc()}: values {v.type} and indices {i.type} are no rows of "
                f"{'a table' if dense_shape is None else show_shape(tuple(dense_shape))}; give an index of shape [n] "
                "and values of shape [n, ...], with a row of the table for each"
            )
        self._terms: tuple[Term, ...] = ((v, i),)
        self._shape = None if dense_shape is None else tuple(dense_shape)
        self._dtype = v.dtype

    @classmethod
    def of(cls, terms: Sequence[Term], shape: Shape | None) -> IndexedRows:
        """The sum of some look-ups' shares, of one dtype, whose indices may have any number of axes."""
        made = cls.__new__(cls)
        made._terms, made._shape, made._dtype = tuple(terms), shape, terms[0][0].dtype
        return made

    @property
    def terms(self) -> tuple[Term, ...]:
        """One pair (values, indices) for each look-up: indices of any shape s, values of shape (*s, *row)."""
        return self._terms

    @property
    def values(self) -> Tensor:
        """The rows that are added, of all look-ups one after the other: `[n, *dense_shape[1:]]`."""
        return _joined([_flat_rows(v, i) for v, i in self._terms])

    @property
    def indices(self) -> Tensor:
        """Where they are added, as they were looked up: `[n]` integers."""
        return _joined([i if i.ndim == 1 else functions.ravel(i) for _, i in self._terms])

    @property
    def dense_shape(self) -> Shape | None:
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def shape(self) -> Shape:
        """That of the dense array. Raises ValueError if it is not known."""
        if self._shape is None:
            raise ValueError(
                f"IndexedRows without dense_shape at {user_loc()} stand for no array; make them with "
                "IndexedRows(values, indices, dense_shape)"
            )
        return self._shape

    @property
    def type(self) -> Type:
        return Type(self._dtype, self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        return size(self.shape)

    def to_dense(self) -> Tensor:
        """The array: zeros, with each value added at its row. Raises ValueError if `dense_shape` is not known.

        Warns of arrays of 1e8 elements and more.
        """
        shape = self.shape
        if state.trace is None and isinstance(self.size, int) and self.size >= HUGE:
            text = (
                f"rows of shape {shape} become a dense array of {self.size} elements; use .values and .indices, or "
                "hand them to an optimizer or to assign_sub, which take them as they are"
            )
            warnings.warn(text, PerformanceWarning, stacklevel=user_stacklevel())
        dense, *more = [ops.scatter_add(v, i, shape=shape) for v, i in self._terms]
        for term in more:
            dense = ops.add(dense, term)
        return dense

    read = to_dense

    def mapped(self, f: Callable[[Tensor], Tensor]) -> IndexedRows:
        """With `f` of the values, a linear function of single elements."""
        return IndexedRows.of([(f(v), i) for v, i in self._terms], self._shape)

    def totals(self) -> Tensor:
        """For each entry of `values`, the sum over all entries with the same index: a row's total, as often as the row
        is named."""
        values, indices = self.values, self.indices
        if state.trace is None:
            first, sums = self.summed()
            return as_tensor(sums[np.searchsorted(first, self._from_start(indices._array))])
        return _traced_totals(values, functions.where(indices < 0, indices + self.shape[0], indices))

    def coalesced(self) -> IndexedRows:
        """The same array with each row named once, in ascending order. Not inside of a trace, where the number of rows
        is not known (ConcretizationError)."""
        first, sums = self.summed()
        return IndexedRows(sums, first, self._shape)

    def _from_start(self, indices: np.ndarray) -> np.ndarray:
        """Indices with negative ones counted from the start. Raises IndexError for those out of range."""
        n = self.shape[0]
        if indices.size and not (-n <= indices.min() and indices.max() < n):
            wrong = indices[(indices < -n) | (indices >= n)][0]
            raise IndexError(f"index {wrong} is out of bounds for the {n} rows of {self.type} at {user_loc()}")
        return np.where(indices < 0, indices + n, indices).astype(np.int64)

    def summed(self) -> tuple[np.ndarray, np.ndarray]:
        """The named rows' numbers in ascending order, and the sum for each; not inside of a trace."""
        indices = self._from_start(self.indices._concrete("the sum of IndexedRows"))
        return _summed(self.values._concrete("the sum of IndexedRows"), indices)

    # -- what stays of this class, and what does not ----------------------------------------------------------------
    def __tapefuse_apply__(self, op: Op, args: tuple, attrs: dict[str, Any]) -> Any:
        """Operations of derivative rules: sums of rows are rows, all others take the dense array."""
        if op is ops.add and all(isinstance(x, IndexedRows) for x in args) and _same_table(*args):
            return IndexedRows.of([*args[0]._terms, *args[1]._terms], self._shape)
        return apply(op, tuple([x.to_dense() if isinstance(x, IndexedRows) else x for x in args]), attrs)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, IndexedRows) and _same_table(self, other):
            return ops.add(self, other)
        return super().__add__(other)

    def __mul__(self, other: Any) -> Any:
        return self._scaled(operator.mul, other) if _is_number(other) else super().__mul__(other)

    def __rmul__(self, other: Any) -> Any:
        return self * other if _is_number(other) else super().__rmul__(other)

    def __truediv__(self, other: Any) -> Any:
        return self._scaled(operator.truediv, other) if _is_number(other) else super().__truediv__(other)

    def __neg__(self) -> Any:
        return self.mapped(operator.neg)

    def _scaled(self, f: Callable[[Any, Any], Tensor], number: Any) -> IndexedRows:
        return self.mapped(lambda v: f(v, number))

    # -- as an array ------------------------------------------------------------------------------------------------
    def numpy(self) -> Any:
        """The dense array."""
        return self.to_dense().numpy()

    def item(self) -> Any:
        return self.to_dense().item()

    def tolist(self) -> Any:
        return self.to_dense().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.to_dense().__array__(dtype, copy)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.to_dense())

    def __reduce__(self) -> tuple:
        return IndexedRows, (self.values, self.indices, self._shape)

    def __repr__(self) -> str:
        n = sum((size(i.shape) for _, i in self._terms), 0)
        of = "unknown shape" if self._shape is None else f"shape={self._shape}"
        return f"<tp.IndexedRows {n} rows of {of} dtype={self._dtype}{_shown(self)}>"


def _shown(rows: IndexedRows) -> str:
    if state.trace is not None or any(not hasattr(i, "_array") for _, i in rows.terms):
        return ", traced"
    return f", indices={np.array2string(rows.indices._array, threshold=8)}"


def _same_table(a: IndexedRows, b: IndexedRows) -> bool:
    return a.dtype == b.dtype and a.dense_shape == b.dense_shape


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.generic)) or isinstance(x, (Tensor, np.ndarray)) and x.ndim == 0


def _flat_rows(v: Tensor, i: Tensor) -> Tensor:
    return v if i.ndim == 1 else functions.reshape(v, (size(i.shape), *v.shape[i.ndim :]))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else functions.concatenate(parts, axis=0)


def _summed(values: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct indices in ascending order, and the sum of the values at each, added in the order they stand in."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if ordered.size else np.zeros(0, np.int64)
    if starts.size == ordered.size:
        return ordered, values[order]
    return ordered[starts], np.add.reduceat(values[order], starts, axis=0)


def _traced_totals(values: Tensor, indices: Tensor) -> Tensor:
    """`IndexedRows.totals` where the number of distinct indices is not known: sums over runs of sorted indices, of
    which there are no more than entries."""
    order = functions.argsort(indices)
    ordered = functions.take(indices, order)
    starts = functions.concatenate([functions.zeros(1, bool), ordered[1:] != ordered[:-1]])[: indices.shape[0]]
    run = functions.cumsum(functions.astype(starts, np.int64))
    sums = ops.scatter_add(functions.take(values, order, axis=0), run, shape=values.shape)
    return ops.scatter_add(functions.take(sums, run, axis=0), order, shape=values.shape)


class _Opened(Container):
    """Rows as a container of tensors, for what takes structures of tensors apart."""

    def __init__(self, shape: Shape | None, entries: tuple[Any, ...]):
        self._parts = (shape,), entries

    def parts(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return self._parts

    @classmethod
    def of_parts(cls, fixed: tuple[Any, ...], entries: list[Any]) -> Any:
        """Rows, where the entries are tensors; else a container of the same shape."""
        if not all(isinstance(x, Tensor) for x in entries):
            return cls(fixed[0], tuple(entries))
        return IndexedRows.of(list(zip(entries[::2], entries[1::2], strict=True)), fixed[0])


def opened(tree: Any) -> Any:
    """The structure with the values and indices of rows as its leaves; `unflatten` makes rows of them again."""
    if not any(isinstance(x, IndexedRows) for x in flatten(tree)[0]):
        return tree
    return tree_map(lambda x: _Opened(x.dense_shape, sum(x.terms, ())) if isinstance(x, IndexedRows) else x, tree)


def without_rows(tree: Any) -> Any:
    """The structure with dense arrays for rows."""
    return tree_map(dense, tree) if any(isinstance(x, IndexedRows) for x in flatten(tree)[0]) else tree


def dense(x: Any) -> Any:
    """Rows as a tensor; anything else as it is."""
    return x.to_dense() if isinstance(x, IndexedRows) else x
