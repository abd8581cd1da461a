"""Calls of the functions that move, sort, search, multiply and group elements, as a table that tests and docs read.

Each row is one way to call one function, `call(m, x)` with `m` NumPy or tapefuse, on each of some arrays. Where NumPy
raises, tapefuse has to raise an exception of that type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tapefuse as tp
from tests.numpy.oracle import result_of

RNG = np.random.default_rng(5)


def generic(*shape: int) -> np.ndarray:
    """Numbers without ties, away from 0."""
    n = int(np.prod(shape))
    return (RNG.permutation(n) * 0.37 + 0.21 - 0.05 * n).reshape(shape)


ARRAYS: dict[str, np.ndarray] = {
    "0-d": np.array(1.25),
    "vector": generic(5),
    "matrix": generic(3, 4),
    "cube": generic(2, 3, 4),
    "square": generic(3, 3),
    "f32": generic(4, 2).astype(np.float32),
    "int": np.array([[3, -2, 0, 3], [5, 7, -9, 0]], np.int32),
    "byte": np.array([200, 3, 3, 255], np.uint8),
    "bool": np.array([True, False, True, True]),
    "one": np.full((1, 1), 2.5),
    "empty": np.ones((0, 3)),
    "none": np.ones(0),
    "nan": np.array([1.0, np.nan, -np.inf, 0.0, np.inf, -0.0]),
}
ALL = tuple(ARRAYS)
SOLID = ("vector", "matrix", "cube", "f32", "int", "bool", "one")  # with at least one element and one axis
MATRICES = ("matrix", "square", "cube", "f32", "int", "one", "empty")
VECTORS = ("vector", "byte", "bool", "nan", "none")
NUMBERS = ("vector", "matrix", "cube", "f32", "int", "byte")


class Case(NamedTuple):
    name: str
    number: int
    label: str
    call: Callable[..., Any]
    smooth: bool  # a derivative of the result by the array exists
    mapped: bool  # vmap has a meaning: the result's shape does not depend on values
    oracle: Callable[..., Any] | None  # instead of NumPy's function of that name, where it has none or another meaning

    @property
    def array(self) -> np.ndarray:
        return ARRAYS[self.label]

    def wanted(self) -> Any:
        """NumPy's result, or the exception that it raises."""
        return result_of(self.call, np, self.array) if self.oracle is None else result_of(self.oracle, self.array)

    def __str__(self) -> str:
        return f"{self.name}-{self.number}-{self.label}"


CASES: list[Case] = []
_count: dict[str, int] = {}


def row(
    name: str,
    call: Callable[..., Any],
    labels: Sequence[str] = SOLID,
    *,
    smooth: bool = True,
    mapped: bool = True,
    oracle: Callable[..., Any] | None = None,
) -> None:
    number = _count[name] = _count.get(name, 0) + 1
    CASES.extend(Case(name, number, label, call, smooth, mapped, oracle) for label in labels)


def eager(name: str, call: Callable[..., Any], labels: Sequence[str] = SOLID, *, smooth: bool = True) -> None:
    """A function whose result's shape depends on values."""
    row(name, call, labels, smooth=smooth, mapped=False)


def steps(name: str, call: Callable[..., Any], labels: Sequence[str] = SOLID, **options: Any) -> None:
    """A function without a derivative."""
    row(name, call, labels, smooth=False, **options)


# -- shapes -----------------------------------------------------------------------------------------------------------

row("reshape", lambda m, x: m.reshape(x, (-1, 2)), ALL)
row("reshape", lambda m, x: m.reshape(x, (2, -1), order="F"), ("matrix", "cube", "int"))
row("reshape", lambda m, x: m.reshape(x, -1), ALL)
row("reshape", lambda m, x: m.reshape(x, (7, 7)), ("matrix",))
row("ravel", lambda m, x: m.ravel(x), ALL)
row("ravel", lambda m, x: m.ravel(x, order="F"), MATRICES)
row("expand_dims", lambda m, x: m.expand_dims(x, (0, -1)), ALL)
row("expand_dims", lambda m, x: m.expand_dims(x, (1, 1)), ("matrix",))
row("expand_dims", lambda m, x: m.expand_dims(x, 9), ("matrix",))
row("squeeze", lambda m, x: m.squeeze(x[None, ..., None]), ALL)
row("squeeze", lambda m, x: m.squeeze(x, 0), ("matrix", "one"))
for _name in ("atleast_1d", "atleast_2d", "atleast_3d"):
    row(_name, lambda m, x, f=_name: getattr(m, f)(x), ALL)
    row(_name, lambda m, x, f=_name: getattr(m, f)(x, x + x), ("vector",))
row("transpose", lambda m, x: m.transpose(x), ALL)
row("transpose", lambda m, x: m.transpose(x, (1, -1, 0)), ("cube", "matrix"))
row("transpose", lambda m, x: m.transpose(x, (0, 0)), ("matrix",))
row("permute_dims", lambda m, x: m.permute_dims(x, (1, 0)), ("matrix", "vector"))
row("matrix_transpose", lambda m, x: m.matrix_transpose(x), (*MATRICES, "vector"))
row("swapaxes", lambda m, x: m.swapaxes(x, 0, -1), ALL)
row("moveaxis", lambda m, x: m.moveaxis(x, 0, -1), ALL)
row("moveaxis", lambda m, x: m.moveaxis(x, (0, 2), (1, 0)), ("cube", "matrix"))
row("moveaxis", lambda m, x: m.moveaxis(x, (0, 1), 0), ("cube",))
for _axis, _start in ((0, 0), (1, 0), (2, 1), (0, 3), (0, 2), (-1, -2), (0, 7), (5, 0)):
    row("rollaxis", lambda m, x, a=_axis, s=_start: m.rollaxis(x, a, s), ("cube",))
row("flip", lambda m, x: m.flip(x), ALL)
row("flip", lambda m, x: m.flip(x, (0, -1)), ("matrix", "cube", "int", "empty"))
row("flip", lambda m, x: m.flip(x, 3), ("matrix",))
row("fliplr", lambda m, x: m.fliplr(x), (*MATRICES, "vector"))
row("flipud", lambda m, x: m.flipud(x), ALL)
for _k in (0, 1, 2, 3, -1, 6):
    row("rot90", lambda m, x, k=_k: m.rot90(x, k), ("matrix", "int"))
row("rot90", lambda m, x: m.rot90(x, 1, (2, 1)), ("cube", "matrix"))
row("rot90", lambda m, x: m.rot90(x, 1, (0, 0)), ("matrix",))
row("broadcast_to", lambda m, x: m.broadcast_to(x, (2, 3, 4)), ("0-d", "matrix", "vector", "cube"))
row("broadcast_arrays", lambda m, x: m.broadcast_arrays(x, x[..., :1], np.ones((2, 1, 1))), SOLID)
row("broadcast_arrays", lambda m, x: m.broadcast_arrays(x, np.ones(3)), ("matrix",))
for _shift, _over in ((1, None), (-2, 0), (3, -1), ((1, 2), (0, 0)), (1, (0, -1)), ((1, 2, 3), (0, 1)), (1, 4)):
    row("roll", lambda m, x, s=_shift, a=_over: m.roll(x, s, a), ("vector", "matrix", "int", "empty"))
row("shape", lambda m, x: m.shape(x), ALL, smooth=False, mapped=False)
row("ndim", lambda m, x: m.ndim(x), ALL, smooth=False, mapped=False)
row("size", lambda m, x: m.size(x), ALL, smooth=False, mapped=False)
row("size", lambda m, x: m.size(x, 0), ALL, smooth=False, mapped=False)
row("result_type", lambda m, x: m.result_type(x, np.float32, 1), ALL, smooth=False, mapped=False)

# -- joining and cutting ----------------------------------------------------------------------------------------------

row("concatenate", lambda m, x: m.concatenate([x, x + x]), ALL)
row("concatenate", lambda m, x: m.concatenate((x, x), axis=-1), SOLID)
row("concatenate", lambda m, x: m.concatenate([x, x], axis=None), ALL)
row("concatenate", lambda m, x: m.concatenate([x, x[:1]], axis=1), ("matrix", "vector"))
row("concatenate", lambda m, x: m.concatenate([x, x], axis=0, dtype=np.float32), ("matrix", "int", "bool"))
row("concatenate", lambda m, x: m.concatenate([x, x], dtype=np.int64, casting="safe"), ("matrix", "int"))
row("concatenate", lambda m, x: m.concatenate(x), ("matrix", "cube"))
row("concat", lambda m, x: m.concat([x, x], axis=0), ("matrix",))
row("stack", lambda m, x: m.stack([x, x + x, x], axis=-1), ALL)
row("stack", lambda m, x: m.stack([x, x], axis=5), ("matrix",))
row("stack", lambda m, x: m.stack([x, x[:1]]), ("matrix",))
for _name in ("hstack", "vstack", "dstack", "column_stack"):
    row(_name, lambda m, x, f=_name: getattr(m, f)([x, x + x]), ALL)
    row(_name, lambda m, x, f=_name: getattr(m, f)([x, x[:1, :1]]), ("matrix",))
row("block", lambda m, x: m.block([[x, x], [x, x + x]]), ("0-d", "vector", "matrix", "int"))
row("block", lambda m, x: m.block([x, [x]]), ("vector",))
row("append", lambda m, x: m.append(x, x), ALL)
row("append", lambda m, x: m.append(x, x, axis=0), SOLID)
row("split", lambda m, x: m.split(x, 2, axis=-1), ("matrix", "cube", "int", "vector", "byte"))
row("split", lambda m, x: m.split(x, [1, 3], 0), SOLID)
row("array_split", lambda m, x: m.array_split(x, 3), (*SOLID, "empty", "0-d"))
row("array_split", lambda m, x: m.array_split(x, [1, -1], axis=-1), SOLID)
row("array_split", lambda m, x: m.array_split(x, 0), ("matrix",))
row("hsplit", lambda m, x: m.hsplit(x, 2), ("matrix", "cube", "byte", "0-d"))
row("vsplit", lambda m, x: m.vsplit(x, [1]), ("matrix", "cube", "vector"))
row("dsplit", lambda m, x: m.dsplit(x, 2), ("cube", "matrix"))
row("unstack", lambda m, x: m.unstack(x), (*SOLID, "0-d"))
row("unstack", lambda m, x: m.unstack(x, axis=-1), SOLID)
row("tile", lambda m, x: m.tile(x, 2), ALL)
row("tile", lambda m, x: m.tile(x, (2, 1, 3)), ("0-d", "vector", "matrix", "empty"))
row("tile", lambda m, x: m.tile(x, (0, 1)), ("matrix",))
row("repeat", lambda m, x: m.repeat(x, 3), ALL)
row("repeat", lambda m, x: m.repeat(x, 2, axis=-1), SOLID)
row("repeat", lambda m, x: m.repeat(x, [1, 0, 2], axis=0), ("matrix", "square", "cube"))
row("repeat", lambda m, x: m.repeat(x, -1), ("vector",))
row("resize", lambda m, x: m.resize(x, (2, 7)), ALL)
row("resize", lambda m, x: m.resize(x, 2), ALL)
row("delete", lambda m, x: m.delete(x, 1), ("vector", "matrix", "int"))
row("delete", lambda m, x: m.delete(x, [0, -1], axis=-1), ("vector", "matrix", "int"))
row("delete", lambda m, x: m.delete(x, slice(0, 3, 2), axis=0), SOLID)
row("delete", lambda m, x: m.delete(x, [True, False, True], axis=0), ("matrix", "square"))
row("delete", lambda m, x: m.delete(x, 9, axis=0), ("matrix",))
row("insert", lambda m, x: m.insert(x, 1, 5), ALL)
row("insert", lambda m, x: m.insert(x, [1, 1, 2], [7, 8, 9]), ("vector", "matrix", "int"))
row("insert", lambda m, x: m.insert(x, 1, x[0], axis=0), ("matrix", "int"))
row("insert", lambda m, x: m.insert(x, 1, x[:, 0], axis=1), ("matrix", "int"))
row("insert", lambda m, x: m.insert(x, [0, 2], x[:, :2], axis=1), ("matrix", "int"))
row("insert", lambda m, x: m.insert(x, [1], [[1], [2], [3]], axis=1), ("matrix",))
row("insert", lambda m, x: m.insert(x, slice(0, 2), 4, axis=0), ("vector", "matrix"))
row("insert", lambda m, x: m.insert(x, 20, 4), ("vector",))
for _mode in (
    "edge",
    "reflect",
    "symmetric",
    "wrap",
    "linear_ramp",
    "maximum",
    "mean",
    "median",
    "minimum",
    "constant",
):
    row("pad", lambda m, x, mode=_mode: m.pad(x, ((2, 3), (1, 0)), mode), ("matrix", "int", "f32", "one"))
    row("pad", lambda m, x, mode=_mode: m.pad(x, 7, mode=mode), ("vector", "byte"))
row("pad", lambda m, x: m.pad(x, (1, 2), mode="reflect", reflect_type="odd"), ("matrix", "int", "vector"))
row("pad", lambda m, x: m.pad(x, 9, mode="symmetric", reflect_type="odd"), ("vector",))
row("pad", lambda m, x: m.pad(x, 2, mode="mean", stat_length=((2, 3), (1, 1))), ("matrix", "int"))
row("pad", lambda m, x: m.pad(x, 2, mode="linear_ramp", end_values=((5, -3), (1, 0))), ("matrix", "int"))
row("pad", lambda m, x: m.pad(x, 2, constant_values=((5, -3), (1, 0))), ("matrix", "int"))
row("pad", lambda m, x: m.pad(x, 1, constant_values=3), (*SOLID, "empty"))
row("pad", lambda m, x: m.pad(x, {-1: (1, 2)}), ("matrix",))
row("pad", lambda m, x: m.pad(x, 1, mode="edge"), ("empty",))
row("pad", lambda m, x: m.pad(x, -1), ("vector",))
row("pad", lambda m, x: m.pad(x, 1.5), ("vector",))
row("pad", lambda m, x: m.pad(x, 1, mode="nonsense"), ("vector",))
row("pad", lambda m, x: m.pad(x, 1, mode="edge", constant_values=1), ("vector",))
row("pad", lambda m, x: m.pad(x, ((1, 1), (1, 1))), ("vector",))

# -- making, grids ----------------------------------------------------------------------------------------------------

for _name in ("zeros_like", "ones_like"):
    steps(_name, lambda m, x, f=_name: getattr(m, f)(x), ALL)
    steps(_name, lambda m, x, f=_name: getattr(m, f)(x, np.int8, shape=(2, 2)), ("matrix",))
steps("full_like", lambda m, x: m.full_like(x, 3), ALL)
row("linspace", lambda m, x: m.linspace(x, x + 4.5, 5), ("0-d", "vector", "matrix", "int", "f32"))
row("linspace", lambda m, x: m.linspace(x, x * x, 4, endpoint=False, axis=-1), ("vector", "matrix"))
row("linspace", lambda m, x: m.linspace(x, x + x, 3, retstep=True), ("vector",))
row("linspace", lambda m, x: m.linspace(x, x + x, -3), ("vector",))
row("logspace", lambda m, x: m.logspace(x * 0.1, x * 0.2, 4), ("vector", "f32"))
row("geomspace", lambda m, x: m.geomspace(x * x + 1, x * x + 9, 5), ("vector", "0-d", "f32", "int"))
row("meshgrid", lambda m, x: m.meshgrid(x, x[:2]), ("vector", "byte"))
row("meshgrid", lambda m, x: m.meshgrid(x, x[:2], x[1:3], indexing="ij"), ("vector",))
row("meshgrid", lambda m, x: m.meshgrid(x, x[:2], sparse=True), ("vector",))
row("meshgrid", lambda m, x: m.meshgrid(x, indexing="no"), ("vector",))
row("vander", lambda m, x: m.vander(x), ("vector", "byte", "matrix"))
row("vander", lambda m, x: m.vander(x, 3, increasing=True), ("vector",))
row("vander", lambda m, x: m.vander(x, 0), ("vector",))
row("tril", lambda m, x: m.tril(x), ALL[1:])
row("triu", lambda m, x: m.triu(x, 1), ALL[1:])
row("tril", lambda m, x: m.tril(x, -1), MATRICES)
for _k in (0, 1, -2):
    row("diag", lambda m, x, k=_k: m.diag(x, k), ("vector", "matrix", "square", "int", "bool", "none", "cube"))
    row("diagonal", lambda m, x, k=_k: m.diagonal(x, k), (*MATRICES, "vector"))
    row("trace", lambda m, x, k=_k: m.trace(x, k), (*MATRICES, "vector"))
row("diag", lambda m, x: m.diag(x, 5), ("matrix",))
row("diagonal", lambda m, x: m.diagonal(x, 1, -1, 0), ("cube", "matrix"))
row("diagonal", lambda m, x: m.diagonal(x, 0, 1, 1), ("matrix",))
row("trace", lambda m, x: m.trace(x, dtype=np.float32), ("matrix", "int"))
row("diagflat", lambda m, x: m.diagflat(x, -1), ("vector", "matrix", "0-d"))

# -- sorting and searching --------------------------------------------------------------------------------------------

row("sort", lambda m, x: m.sort(x), ALL)
row("sort", lambda m, x: m.sort(x, axis=0), ALL)
row("sort", lambda m, x: m.sort(x, axis=None), ALL)
row("sort", lambda m, x: m.sort(x, axis=3), ("matrix",))
row("sort", lambda m, x: m.sort(x, kind="bogus"), ("matrix",))
row("sort", lambda m, x: m.sort(x, order="f"), ("matrix",))
steps("argsort", lambda m, x: m.argsort(x, kind="stable"), ALL)
steps("argsort", lambda m, x: m.argsort(x, axis=0, stable=True), ALL)
steps("argsort", lambda m, x: m.argsort(x, axis=None, kind="stable"), ALL)
steps("lexsort", lambda m, x: m.lexsort((x, x // 2)), ("int", "byte", "vector", "0-d"))
steps("lexsort", lambda m, x: m.lexsort((x, x // 2), axis=0), ("int",))
row("partition", lambda m, x: m.partition(m.sort(x), 1), ("vector", "matrix"))
row("partition", lambda m, x: m.partition(x, 99), ("vector",))
steps("argpartition", lambda m, x: m.take(m.argpartition(x, 1, axis=None), 1), ("vector", "matrix"))
row(
    "top_k",
    lambda m, x: tp.top_k(x, 2),
    ("vector", "matrix", "int", "byte"),
    oracle=lambda x: (np.sort(x, -1)[..., :-3:-1], np.argsort(-x.astype(float), -1, kind="stable")[..., :2]),
)
for _side in ("left", "right"):
    steps("searchsorted", lambda m, x, s=_side: m.searchsorted(m.sort(x), x[:3], s), ("vector", "nan", "byte"))
    steps("searchsorted", lambda m, x, s=_side: m.searchsorted([-1.0, 0.5, 0.5, 2.0, np.nan], x, s), ("matrix", "nan"))
    steps("searchsorted", lambda m, x, s=_side: m.searchsorted(np.array([-1, 0, 3, 3, 7]), x, s), ("int", "byte"))
steps("searchsorted", lambda m, x: m.searchsorted(x, [0.1, 1.0], sorter=m.argsort(x)), ("vector",))
steps("searchsorted", lambda m, x: m.searchsorted(x, x), ("matrix",))
steps("searchsorted", lambda m, x: m.searchsorted(x, x, "middle"), ("vector",))
steps("digitize", lambda m, x: m.digitize(x, [-1.0, 0.5, 1.0]), ("vector", "matrix", "nan", "int"))
steps("digitize", lambda m, x: m.digitize(x, [1.0, 0.5, -1.0], right=True), ("vector", "matrix"))
steps("digitize", lambda m, x: m.digitize(x, [1.0, 5.5, -1.0]), ("vector",))
eager("unique", lambda m, x: m.unique(x), ALL)
eager("unique", lambda m, x: m.unique(x, True, True, True), ("int", "byte", "vector"))
eager("unique", lambda m, x: m.unique(x, axis=0), ("int", "matrix"))
for _name in ("unique_all", "unique_counts", "unique_inverse", "unique_values"):
    eager(_name, lambda m, x, f=_name: m.sort(getattr(m, f)(x)) if f == "unique_values" else tuple(getattr(m, f)(x)),
          ("int", "byte"), smooth=False)  # fmt: skip
row("unique", lambda m, x: tp.unique(x, True, True, True, size=4), ("int", "byte", "vector", "nan"), mapped=True,
    oracle=lambda x: _unique(x, 4))  # fmt: skip
row("unique", lambda m, x: tp.unique(x, size=9, fill_value=-1), ("int",), oracle=lambda x: _unique(x, 9, -1)[0])
eager("trim_zeros", lambda m, x: m.trim_zeros(m.concatenate([x * 0, x, x[:1] * 0])), ("vector", "byte"))
eager("trim_zeros", lambda m, x: m.trim_zeros(x * 0, "f"), ("vector",))
row("copy", lambda m, x: m.copy(x), ALL)
for _name in ("nonzero", "argwhere", "flatnonzero"):
    eager(_name, lambda m, x, f=_name: getattr(m, f)(x), ALL, smooth=False)
steps("nonzero", lambda m, x: tp.nonzero(x, size=3, fill_value=-1), ("int", "matrix", "bool"),
      oracle=lambda x: tuple(np.concatenate([k, [-1] * 3])[:3] for k in np.nonzero(x)))  # fmt: skip
steps("argwhere", lambda m, x: tp.argwhere(x, size=9, fill_value=-1), ("int",),
      oracle=lambda x: np.concatenate([np.argwhere(x), np.full((9, 2), -1)])[:9])  # fmt: skip
steps("flatnonzero", lambda m, x: tp.flatnonzero(x, size=2), ("int", "bool"), oracle=lambda x: np.flatnonzero(x)[:2])
row("extract", lambda m, x: m.extract(np.arange(12).reshape(3, 4) % 5 == 1, x), ("matrix",))
row("compress", lambda m, x: m.compress([True, False, True], x, axis=0), ("matrix", "vector", "square", "int"))
row("compress", lambda m, x: m.compress([True, False, True], x), SOLID)
steps("isin", lambda m, x: m.isin(x, [3, 0, 1.5, np.nan]), ALL)
steps("isin", lambda m, x: m.isin(x, x[:1] if x.ndim else x, invert=True), ALL)
steps("isin", lambda m, x: m.isin(x, []), ("vector",))
for _name in ("intersect1d", "union1d", "setdiff1d", "setxor1d"):
    eager(
        _name, lambda m, x, f=_name: getattr(m, f)(x, np.array([3, 0, 250, 2])), ("int", "byte", "vector"), smooth=False
    )
eager("bincount", lambda m, x: m.bincount(x), ("byte", "matrix", "vector"), smooth=False)
row("bincount", lambda m, x: m.bincount([1, 0, 1, 3, 1], x, minlength=6), ("vector",))

# -- by position ------------------------------------------------------------------------------------------------------

row("take", lambda m, x: m.take(x, [2, 0, -1]), (*SOLID[:-1], "one", "none"))
row("take", lambda m, x: m.take(x, [[1, 0], [-1, 1]], axis=-1), ("vector", "matrix", "int"))
row("take", lambda m, x: m.take(x, 1, axis=0), ("vector", "matrix", "cube"))
row("take", lambda m, x: m.take(x, [9, -7], mode="wrap"), ("vector", "matrix"))
row("take", lambda m, x: m.take(x, [9, -7], axis=0, mode="clip"), ("vector", "matrix"))
row("take", lambda m, x: m.take(x, 99), ("vector",))
row("take", lambda m, x: m.take(x, [0.5]), ("vector",))
row("take", lambda m, x: m.take(x, 0, axis=7), ("vector",))
row("take_along_axis", lambda m, x: m.take_along_axis(x, np.array([[2, 0], [1, -1], [0, 0]]), 1), ("matrix", "square"))
row("take_along_axis", lambda m, x: m.take_along_axis(x, np.array([[1], [0]]), 1), ("int", "square"))
row("take_along_axis", lambda m, x: m.take_along_axis(x, np.array([3, 0]), axis=None), ("matrix", "vector"))
row("take_along_axis", lambda m, x: m.take_along_axis(x, np.array([[1]]), 0), ("vector", "matrix"))
row("take_along_axis", lambda m, x: m.take_along_axis(x, np.array([0.5]), 0), ("vector",))
row("choose", lambda m, x: m.choose(np.array([0, 1, 1, 0]), [x, x * x]), ("matrix", "int", "byte"))
row("choose", lambda m, x: m.choose(np.array([0, 5, -1, 0]), [x, x * x], mode="clip"), ("matrix",))
row("choose", lambda m, x: m.choose(np.array([0, 5, 1, 0]), [x, x * x]), ("matrix",))
row("select", lambda m, x: m.select([x > 1, x < 0], [x, x * x], 7), NUMBERS)
row("select", lambda m, x: m.select([x > 1], [x, x]), ("vector",))
row("select", lambda m, x: m.select([x], [x]), ("vector",))
row(
    "piecewise",
    lambda m, x: m.piecewise(x, [x < 0, x >= 1], [lambda v: -v, lambda v: v * v]),
    ("vector", "matrix", "f32"),
)
row("piecewise", lambda m, x: m.piecewise(x, [x < 0], [1, lambda v: v + 1]), ("vector", "int", "0-d"))
row("piecewise", lambda m, x: m.piecewise(x, [x < 0], [1, 2, 3]), ("vector",))
steps("unravel_index", lambda m, x: m.unravel_index(x, (30, 9)), ("byte",))
steps("unravel_index", lambda m, x: m.unravel_index(x, (30, 9)), ("vector", "int"))
steps("ravel_multi_index", lambda m, x: m.ravel_multi_index((x, x % 2), (300, 2)), ("byte",))
steps("ravel_multi_index", lambda m, x: m.ravel_multi_index((x, x), (4, 5), mode=("wrap", "clip")), ("int",))
steps("ravel_multi_index", lambda m, x: m.ravel_multi_index((x, x), (4, 5)), ("int",))
row(
    "apply_along_axis",
    lambda m, x: m.apply_along_axis(lambda v: v[:2] * v[-1], 0, x),
    ("vector", "matrix", "cube", "int"),
)
row("apply_along_axis", lambda m, x: m.apply_along_axis(m.sum, -1, x), ("vector", "matrix", "cube"))
row("apply_along_axis", lambda m, x: m.apply_along_axis(lambda v: m.outer(v, v), 1, x), ("matrix", "cube"))
row("apply_over_axes", lambda m, x: m.apply_over_axes(m.sum, x, [0, -1]), ("matrix", "cube", "int"))

# -- products ---------------------------------------------------------------------------------------------------------

row("dot", lambda m, x: m.dot(x, x.T), (*NUMBERS, "bool", "0-d", "empty"))
row("vdot", lambda m, x: m.vdot(x, x), (*NUMBERS, "bool", "0-d", "empty"))
row("vdot", lambda m, x: m.vdot(x, x[:1]), ("vector",))
row("inner", lambda m, x: m.inner(x, x), (*NUMBERS, "bool", "0-d", "empty"))
row("inner", lambda m, x: m.inner(x, np.ones(7)), ("matrix",))
row("outer", lambda m, x: m.outer(x, x), (*NUMBERS, "bool", "0-d", "empty"))
row("matmul", lambda m, x: m.matmul(x, m.swapaxes(x, -1, -2)), MATRICES)
row("matmul", lambda m, x: m.matmul(x, x), ("vector", "matrix", "square", "0-d"))
row("vecdot", lambda m, x: m.vecdot(x, x), (*NUMBERS, "bool", "0-d"))
row("vecdot", lambda m, x: m.vecdot(x, x[:, None], axis=0), ("square",))
row("matvec", lambda m, x: m.matvec(x, x[..., 0, :]), MATRICES[:-1])
row("matvec", lambda m, x: m.matvec(x, x), ("vector",))
row("vecmat", lambda m, x: m.vecmat(x[..., :, 0], x), MATRICES[:-1])
row("vecmat", lambda m, x: m.vecmat(x, x), ("vector",))
row("tensordot", lambda m, x: m.tensordot(x, x, 0), ("vector", "matrix"))
row("tensordot", lambda m, x: m.tensordot(x, x, ((0, 1), (0, 1))), ("matrix", "cube", "int"))
row("tensordot", lambda m, x: m.tensordot(x, x, (0, 1)), ("square", "matrix", "vector"))
row("kron", lambda m, x: m.kron(x, x[:2]), ("vector", "matrix", "cube", "int", "byte"))
row("kron", lambda m, x: m.kron(x, np.arange(3.0)), ("matrix", "0-d"))
row("cross", lambda m, x: m.cross(x, x[::-1]), ("square", "matrix"))
row("cross", lambda m, x: m.cross(x, x * x + 1, axis=0), ("square", "matrix"))
row("cross", lambda m, x: m.cross(x[0], x), ("square",))
row("cross", lambda m, x: m.cross(x, x * x, axisa=1, axisb=1, axisc=0), ("cube",))
row("linalg.multi_dot", lambda m, x: m.linalg.multi_dot([x, x.T, x, x.T]), ("matrix", "int", "f32"))
row("linalg.multi_dot", lambda m, x: m.linalg.multi_dot([x[0], x.T, x[:, 0]]), ("matrix",))
row("linalg.multi_dot", lambda m, x: m.linalg.multi_dot([x]), ("matrix",))
for _n in (0, 1, 2, 5):
    row("linalg.matrix_power", lambda m, x, n=_n: m.linalg.matrix_power(x, n), ("square", "one", "matrix"))
EINSUM = [
    ("ij,jk->ik", lambda x: (x, x.T)), ("ij,jk", lambda x: (x, x.T)), ("ij,ij->", lambda x: (x, x)),
    ("ij->ji", lambda x: (x,)), ("ba", lambda x: (x,)), ("ij->", lambda x: (x,)), ("i...->...", lambda x: (x,)),
    ("...j->...", lambda x: (x,)), ("...ij,...kj", lambda x: (x, x)), ("i...,j...->ij...", lambda x: (x, x)),
    ("ij,ik,il->jkl", lambda x: (x, x, x)), ("ij,i,j", lambda x: (x, x[:, 0], x[0])), ("ij,kj->ikj", lambda x: (x, x)),
    ("ij,ij->ij", lambda x: (x, x[:1])), ("ij,jk", lambda x: (x, x)), ("ij->ijj", lambda x: (x,)),
    ("ij,jk->xk", lambda x: (x, x.T)), ("i,j", lambda x: (x,)), ("i j , j k -> k i", lambda x: (x, x.T)),
]  # fmt: skip
for _text, _args in EINSUM:
    row("einsum", lambda m, x, t=_text, a=_args: m.einsum(t, *a(x)), ("matrix", "int"))
for _text in ("ii", "ii->i", "ij,ii->j", "ii,jj->ij", "...ii->...i"):
    row("einsum", lambda m, x, t=_text: m.einsum(t, *[x] * (t.count(",") + 1)), ("square", "matrix"))
row("einsum", lambda m, x: m.einsum(x, [0, 1], x.T, [1, 2], [2, 0]), ("matrix",))
row("einsum", lambda m, x: m.einsum(x, [Ellipsis, 1], x, [Ellipsis, 1]), ("matrix",))
row("einsum", lambda m, x: m.einsum("ij,jk,kl->il", x, x.T, x, optimize=True), ("matrix", "int", "f32"))
for _order in (None, 1, 2, 3, 0, np.inf, -np.inf, -1, 0.5, "fro"):
    row("linalg.norm", lambda m, x, o=_order: m.linalg.norm(x, o, axis=-1), ("vector", "matrix", "f32", "int"),
        smooth=_order != 0)  # fmt: skip
    row("linalg.norm", lambda m, x, o=_order: m.linalg.norm(x, o, keepdims=True), ("vector",), smooth=_order != 0)
for _order in (None, "fro", 1, -1, np.inf, -np.inf, "bad", 3):
    row("linalg.norm", lambda m, x, o=_order: m.linalg.norm(x, o, axis=(0, 1)), ("matrix", "cube", "int"))
    row("linalg.norm", lambda m, x, o=_order: m.linalg.norm(x, o, axis=(1, 0), keepdims=True), ("matrix",))
row("linalg.norm", lambda m, x: m.linalg.norm(x), ("matrix", "cube", "int", "0-d"))
row("linalg.vector_norm", lambda m, x: m.linalg.vector_norm(x, axis=(0, -1), ord=3), ("cube",))
row("linalg.vector_norm", lambda m, x: m.linalg.vector_norm(x, keepdims=True), ("matrix",))
row("linalg.matrix_norm", lambda m, x: m.linalg.matrix_norm(x, ord=1), ("cube", "matrix"))

# -- polynomials, convolution, interpolation --------------------------------------------------------------------------

for _mode in ("full", "same", "valid"):
    for _n in (1, 2, 3, 8):
        row("convolve", lambda m, x, mode=_mode, n=_n: m.convolve(x, np.arange(1, n + 1), mode), ("vector", "byte"))
        row("correlate", lambda m, x, mode=_mode, n=_n: m.correlate(x, np.arange(1.0, n + 1), mode), ("vector", "byte"))
row("convolve", lambda m, x: m.convolve(m.ravel(x), m.ravel(x)), ("f32", "int", "bool"))
row("convolve", lambda m, x: m.convolve(x, x), ("vector", "none", "matrix", "0-d"))
row("convolve", lambda m, x: m.convolve(x, x, "bad"), ("vector",))
row("polyval", lambda m, x: m.polyval(np.array([3, 0, -1]), x), ALL)
row("polyval", lambda m, x: m.polyval(x, 1.5), ("vector",))
row("polyadd", lambda m, x: m.polyadd(x, [1, 2]), ("vector",))
row("polysub", lambda m, x: m.polysub([1, 2], x), ("vector",))
row("polymul", lambda m, x: m.polymul(x, [1, 2]), ("vector",))
row("poly", lambda m, x: m.poly(x), ("vector",))
row("polyder", lambda m, x: m.polyder(x, 2), ("vector",))
row("polyint", lambda m, x: m.polyint(x, 2, k=[1, 2]), ("vector",))
row("polydiv", lambda m, x: m.polydiv(x, [2.0, 1]), ("vector",))
row("polydiv", lambda m, x: m.polydiv([3.0, 1, 2, 5, 1], x[:2]), ("vector",))
row("polydiv", lambda m, x: m.polydiv([2.0, 1], x), ("vector",))
for _x in (np.array([0.0, 1, 2.5, 3, 4, 7]), np.arange(6, dtype=np.float32)):
    _ys = np.cos(np.outer(np.arange(6), [1.0, 2.0, 3.0])).astype(_x.dtype)
    row("polyfit", lambda m, x, p=_x: m.polyfit(p, m.cos(x[0]) + np.cos(p), 2), ("vector",))
    _full = lambda m, x, p=_x, y=_ys: m.polyfit(p, m.multiply(y, x[0]), 2, full=True)
    row("polyfit", lambda m, x, f=_full: [v for k, v in enumerate(f(m, x)) if k in (0, 1, 3)], ("vector",))
    for _options in ({}, {"w": np.arange(1.0, 7)}, {"cov": True}, {"cov": "unscaled"}):
        row("polyfit", lambda m, x, p=_x, y=_ys[:, 0], o=_options: m.polyfit(p, y * x[0], 3, **o), ("vector",))
        row("polyfit", lambda m, x, p=_x, y=_ys, o=_options: m.polyfit(p, m.multiply(y, x[0]), 2, **o), ("vector",))
row("polyfit", lambda m, x: m.polyfit(x, x, -1), ("vector",))
row("polyfit", lambda m, x: m.polyfit(x, x[1:], 1), ("vector",))
row("polyfit", lambda m, x: m.polyfit(x, x, 1), ("matrix", "none"))
row("polyfit", lambda m, x: m.polyfit(x, x, 1, w=[1.0]), ("vector",))
XP = np.array([-1.0, -0.3, 0.5, 1.4, 2.0])
row("interp", lambda m, x: m.interp(x, XP, [1.0, 3.0, -2.0, 0.5, 4.0]), ("vector", "matrix", "0-d", "int", "f32"))
row("interp", lambda m, x: m.interp(x, XP, [1.0, 3.0, -2.0, 0.5, 4.0], left=-9, right=7.0), ("vector", "matrix"))
row("interp", lambda m, x: m.interp(x, XP[::-1], [1.0, 3.0, -2.0, 0.5, 4.0], period=2.5), ("vector",))
steps("interp", lambda m, x: m.interp(x, XP, XP, period=2.5), ("matrix",))
row("interp", lambda m, x: m.interp([0.0, 0.7, 2.0, 5.0], XP, x), ("vector",))
row("interp", lambda m, x: m.interp([0.0, 0.7, 2.0, 5.0], [1.0], x[:1]), ("vector",))
row("interp", lambda m, x: m.interp(x, XP[:2], [1.0]), ("vector",))

# -- segments ---------------------------------------------------------------------------------------------------------

IDS = np.array([3, 0, 3, 1, 0])


def _grouped(function: Callable[..., Any], empty: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The reduction of each segment; `empty` for one without rows."""

    def reduce(x: np.ndarray) -> np.ndarray:
        ids = IDS[: len(x)]
        rows = [
            function(x[ids == k], axis=0) if (ids == k).any() else np.full(x.shape[1:], empty(x), x.dtype)
            for k in range(4)
        ]
        return np.stack([r if function is np.mean and x.dtype.kind != "f" else r.astype(x.dtype) for r in rows])

    return reduce


def _least(x: np.ndarray) -> Any:
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


def _most(x: np.ndarray) -> Any:
    return np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max


for _name, _function, _empty in (
    ("segment_sum", np.sum, lambda x: 0), ("segment_mean", np.mean, lambda x: 0), ("segment_max", np.max, _least),
    ("segment_min", np.min, _most), ("segment_prod", np.prod, lambda x: 1),
):  # fmt: skip
    row(_name, lambda m, x, f=_name: getattr(tp, f)(x, IDS[: len(x)], 4), NUMBERS,
        oracle=_grouped(_function, _empty))  # fmt: skip


def _unique(x: np.ndarray, size: int, fill: Any = None) -> tuple[np.ndarray, ...]:
    values, index, inverse, counts = np.unique(x, True, True, True)
    fill = values[0] if fill is None else fill
    n = min(size, len(values))
    padded = np.full(size, fill, x.dtype)
    padded[:n] = values[:n]
    more = [np.concatenate([part[:n], np.zeros(size - n, np.int64)]) for part in (index, counts)]
    return padded, more[0], inverse, more[1]
