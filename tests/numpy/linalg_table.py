"""Calls of functions of `numpy.linalg` that decompose and solve, as a table: `call(m, x)`, `m` NumPy or tapefuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def generic(*shape: int, dtype: str = "f8") -> np.ndarray:
    rng = np.random.default_rng(sum(shape) + len(shape))
    x = rng.normal(size=shape)
    return (x + 1j * rng.normal(size=shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


ARRAYS: dict[str, np.ndarray] = {
    "square": generic(3, 3),
    "four": generic(4, 4),
    "one": np.full((1, 1), 2.5),
    "stack": generic(2, 3, 3),
    "stacks": generic(2, 1, 2, 2),
    "f32": generic(3, 3, dtype="f4"),
    "int": np.array([[3, 1, 0], [1, 7, 2], [0, 2, 5]]),
    "none": np.ones((0, 0)),
    "no stack": np.ones((0, 2, 2)),
    "tall": generic(4, 2),
    "wide": generic(2, 4),
    "talls": generic(2, 3, 2),
    "f32 tall": generic(5, 2, dtype="f4"),
    "no rows": np.ones((0, 3)),
    "complex": generic(3, 3, dtype="c16"),
    "complex stack": generic(2, 3, 3, dtype="c16"),
    "c64": generic(3, 3, dtype="c8"),
    "complex none": np.ones((0, 0), "c8"),
    "complex tall": generic(4, 2, dtype="c16"),
    "complex wide": generic(2, 4, dtype="c16"),
    "c64 talls": generic(2, 3, 2, dtype="c8"),
    "cube": generic(2, 3, 4),
    "vector": generic(4),
    "scalar": np.array(2.0),
}
COMPLEX = ("complex", "complex stack", "c64", "complex none")
SQUARE = ("square", "four", "one", "stack", "stacks", "f32", "int", "none", "no stack", *COMPLEX)
OBLONG = ("tall", "wide", "talls", "f32 tall", "complex tall", "complex wide", "c64 talls")
MATRICES = (*SQUARE, *OBLONG)
WRONG = ("vector", "scalar")


class Case(NamedTuple):
    name: str
    number: int
    label: str
    call: Callable[..., Any]
    smooth: bool

    @property
    def array(self) -> np.ndarray:
        return ARRAYS[self.label]

    def __str__(self) -> str:
        return f"{self.name}-{self.number}-{self.label}"


CASES: list[Case] = []
_count: dict[str, int] = {}


def row(name: str, call: Callable[..., Any], labels: tuple[str, ...], smooth: bool = True) -> None:
    number = _count[name] = _count.get(name, 0) + 1
    CASES.extend(Case(name, number, label, call, smooth) for label in labels)


def turned(x: Any) -> Any:
    return x.conj().swapaxes(-1, -2) if isinstance(x, np.ndarray) else np.conj(x).mT


def definite(x: Any) -> Any:
    """Symmetric or Hermitian, with eigenvalues of at least 1."""
    return x @ turned(x) + np.eye(int(x.shape[-1]), dtype=x.dtype)


def regular(x: Any) -> Any:
    return x + 3 * np.eye(int(x.shape[-1]), dtype=x.dtype)


row("cholesky", lambda m, x: m.linalg.cholesky(definite(x)), SQUARE)
row("cholesky", lambda m, x: m.linalg.cholesky(definite(x), upper=True), ("square", "f32", *COMPLEX))
row("cholesky", lambda m, x: m.linalg.cholesky(x), (*OBLONG, *WRONG))
row("solve", lambda m, x: m.linalg.solve(regular(x), x), SQUARE)
row("solve", lambda m, x: m.linalg.solve(regular(x), x[..., :1]), SQUARE[:3])
row("solve", lambda m, x: m.linalg.solve(regular(x), np.arange(3.0)), ("square", "f32", "int", "stack", *COMPLEX[:3]))
row("solve", lambda m, x: m.linalg.solve(regular(np.real(x)), x), ("complex", "c64"))
row("solve", lambda m, x: m.linalg.solve(regular(x[0]), x), ("stack", "complex stack"))
row("solve", lambda m, x: m.linalg.solve(regular(x), x[0]), ("stack", "complex stack"))
row("solve", lambda m, x: m.linalg.solve(regular(x), x[:, 0] if x.ndim == 4 else x[:1]), ("stacks", "stack"))
row("solve", lambda m, x: m.linalg.solve(x, x), (*OBLONG, *WRONG))
row("solve", lambda m, x: m.linalg.solve(x, np.ones(7)), ("square", "stack"))
row("inv", lambda m, x: m.linalg.inv(regular(x)), SQUARE)
row("inv", lambda m, x: m.linalg.inv(x), (*OBLONG, *WRONG))
row("det", lambda m, x: m.linalg.det(x), (*SQUARE, *OBLONG, *WRONG))
row("slogdet", lambda m, x: m.linalg.slogdet(x), (*SQUARE, *OBLONG, *WRONG))
row("eigh", lambda m, x: m.linalg.eigh(definite(x)), SQUARE)
row("eigh", lambda m, x: m.linalg.eigh(definite(x), "U"), ("square", "stack", *COMPLEX))
row("eigh", lambda m, x: m.linalg.eigh(x, "X"), ("square",))
row("eigh", lambda m, x: m.linalg.eigh(x), (*OBLONG, *WRONG))
row("eigvalsh", lambda m, x: m.linalg.eigvalsh(definite(x)), SQUARE)
row("eigvalsh", lambda m, x: m.linalg.eigvalsh(definite(x), UPLO="U"), ("square", "complex"))
row("eigvalsh", lambda m, x: m.linalg.eigvalsh(x), ("square", "complex", "c64"), False)  # reads one triangle
row("svd", lambda m, x: m.linalg.svd(x, full_matrices=False), (*MATRICES, "no rows", *WRONG))
row("svd", lambda m, x: m.linalg.svd(x), ("square", "stack", "complex"))
row("svd", lambda m, x: m.linalg.svd(x, compute_uv=False), MATRICES)
row("svdvals", lambda m, x: m.linalg.svdvals(x), (*MATRICES, "cube", "no rows", *WRONG))
row("qr", lambda m, x: m.linalg.qr(x), (*MATRICES, "no rows", *WRONG))
row("qr", lambda m, x: m.linalg.qr(x, mode="r"), MATRICES)
row("qr", lambda m, x: m.linalg.qr(x, mode="complete"), ("wide", "square", "complex wide"))
row("qr", lambda m, x: m.linalg.qr(x, mode="bad"), ("square",))
row("pinv", lambda m, x: m.linalg.pinv(x), MATRICES)
row("pinv", lambda m, x: m.linalg.pinv(x, rtol=None), ("square", "tall"))
row("pinv", lambda m, x: m.linalg.pinv(x, rcond=0.3), ("four",), False)
row("pinv", lambda m, x: m.linalg.pinv(x, rtol=np.array([0.5, 1e-9])), ("stack", "complex stack", "talls"), False)
row("pinv", lambda m, x: m.linalg.pinv(x, rcond=np.array([[0.5], [0.4]])), ("stacks",), False)
row("pinv", lambda m, x: m.linalg.pinv(x), WRONG)
row("lstsq", lambda m, x: m.linalg.lstsq(x, x[:, 0])[0], ("square", "tall", "wide", "f32 tall", "int", *OBLONG[4:6]))
row("lstsq", lambda m, x: m.linalg.lstsq(x, x * x), ("square", "tall", "wide", "f32 tall", "complex", *OBLONG[4:6]))
row("lstsq", lambda m, x: m.linalg.lstsq(np.real(x), x), ("complex tall",))
row("lstsq", lambda m, x: m.linalg.lstsq(x, x), ("stack", "vector"))
row("matrix_rank", lambda m, x: m.linalg.matrix_rank(x), (*MATRICES, "vector", "scalar"), False)
row("matrix_rank", lambda m, x: m.linalg.matrix_rank(x, tol=1.5), MATRICES, False)
row("matrix_rank", lambda m, x: m.linalg.matrix_rank(x, rtol=0.5), ("square", "stack"), False)
for _cutoff in ("rtol", "tol"):
    _call = lambda m, x, c=_cutoff: m.linalg.matrix_rank(x, **{c: np.array([0.7, 1e-9])})
    row("matrix_rank", _call, ("stack", "complex stack", "talls"), False)
for _n in (-2, -1, 3):
    row("matrix_power", lambda m, x, n=_n: m.linalg.matrix_power(regular(x), n), ("square", "stack", "f32", *COMPLEX))
for _order in (2, -2, "nuc"):
    _labels = ("square", "tall", "wide", "f32", "int", "complex", "c64", "complex tall", "complex wide")
    row("norm", lambda m, x, o=_order: m.linalg.norm(x, o), _labels)
    row("norm", lambda m, x, o=_order: m.linalg.norm(x, o, axis=(2, 0)), ("cube",))
    row("norm", lambda m, x, o=_order: m.linalg.norm(x, o, axis=(0, 2), keepdims=True), ("cube",))
    row("matrix_norm", lambda m, x, o=_order: m.linalg.matrix_norm(x, ord=o, keepdims=True), ("cube", "square"))
for _order in (None, 2, -2, 1, -1, np.inf, -np.inf, "fro", "nuc"):
    row("cond", lambda m, x, p=_order: m.linalg.cond(regular(x), p), ("square", "stack", "f32", "one", *COMPLEX[:3]))
row("cond", lambda m, x: m.linalg.cond(x), (*OBLONG, *WRONG, "none"))
row("cond", lambda m, x: m.linalg.cond(x, 1), OBLONG)
row("tensorsolve", lambda m, x: m.linalg.tensorsolve(regular(x).reshape(2, 2, 4), np.ones((2, 2))), ("four",))
row("tensorsolve", lambda m, x: m.linalg.tensorsolve(regular(x).reshape(3, 1, 3), x[0][:, None]), ("complex",))
row("tensorsolve", lambda m, x: m.linalg.tensorsolve(regular(x).reshape(4, 2, 2), x[0], axes=(1,)), ("four",))
row("tensorsolve", lambda m, x: m.linalg.tensorsolve(x, np.ones(3)), ("four", "cube"))
row("tensorinv", lambda m, x: m.linalg.tensorinv(regular(x).reshape(4, 2, 2), ind=1), ("four",))
row("tensorinv", lambda m, x: m.linalg.tensorinv(regular(x).reshape(2, 2, 2, 2)), ("four",))
row("tensorinv", lambda m, x: m.linalg.tensorinv(x, ind=0), ("four",))
row("tensorinv", lambda m, x: m.linalg.tensorinv(x), ("cube",))
row("multi_dot", lambda m, x: m.linalg.multi_dot([x, x, x[0]]), ("square", "f32", "complex"))
row("trace", lambda m, x: m.linalg.trace(x), MATRICES)
row("trace", lambda m, x: m.linalg.trace(x, offset=1), ("square", "cube"))
row("diagonal", lambda m, x: m.linalg.diagonal(x, offset=-1), ("square", "cube", "tall"))
row("matrix_transpose", lambda m, x: m.linalg.matrix_transpose(x), MATRICES)
row("outer", lambda m, x: m.linalg.outer(x, x), ("vector",))
row("vecdot", lambda m, x: m.linalg.vecdot(x, x, axis=-1), ("vector", "cube"))
row("cross", lambda m, x: m.linalg.cross(x, x * x), ("square", "stack"))
