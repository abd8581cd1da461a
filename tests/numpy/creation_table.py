"""More rows of `manipulation_table`: arrays that are made from numbers, and functions that NumPy does not have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tapefuse as tp
from tests.numpy.manipulation_table import NUMBERS, row, steps

F8 = np.float64

# -- what is made -----------------------------------------------------------------------------------------------------

for _name, _calls in {
    "tri": [lambda m: m.tri(3, dtype=int), lambda m: m.tri(3, 4, 1, F8), lambda m: m.tri(2, 4, -1, np.float32)],
    "eye": [lambda m: m.eye(3, 4, -1, F8), lambda m: m.eye(2, k=1, dtype=int), lambda m: m.eye(0, dtype=F8)],
    "identity": [lambda m: m.identity(3, F8), lambda m: m.identity(2, np.float32), lambda m: m.identity(0, F8)],
    "zeros": [lambda m: m.zeros((2, 3), F8), lambda m: m.zeros(3, np.int32), lambda m: m.zeros((), F8)],
    "ones": [lambda m: m.ones((2, 3), F8), lambda m: m.ones(3, np.int32), lambda m: m.ones((0, 2), F8)],
    "full": [lambda m: m.full((2, 3), 1.5, F8), lambda m: m.full(3, 7, int), lambda m: m.full((), 2, np.float32)],
    "arange": [lambda m: m.arange(5, dtype=int), lambda m: m.arange(1, 2, 0.25, F8), lambda m: m.arange(5, 0, -2, F8)],
    "indices": [lambda m: m.indices((2, 3)), lambda m: m.indices((0, 2)), lambda m: m.indices((2,), np.int32)],
    "diag_indices": [lambda m: m.diag_indices(3), lambda m: m.diag_indices(2, 3)],
    "tril_indices": [lambda m: m.tril_indices(3), lambda m: m.tril_indices(3, 1, 4), lambda m: m.tril_indices(2, -2)],
    "triu_indices": [lambda m: m.triu_indices(3), lambda m: m.triu_indices(3, 1, 4), lambda m: m.triu_indices(2, 2)],
    "mask_indices": [lambda m: m.mask_indices(3, np.triu), lambda m: m.mask_indices(3, np.tril, -1)],
    "ix_": [lambda m: m.ix_(np.array([0, 2]), np.array([1])), lambda m: m.ix_(np.array([True, False, True]))],
    "fromfunction": [lambda m: m.fromfunction(lambda i, j: i + 2 * j, (2, 3))],
}.items():
    for _call in _calls:
        steps(_name, lambda m, x, f=_call: f(m), ("vector",))
for _name in ("diag_indices_from", "tril_indices_from", "triu_indices_from"):
    steps(_name, lambda m, x, f=_name: getattr(m, f)(x), ("square",))
for _name in ("iscomplexobj", "isrealobj"):
    steps(_name, lambda m, x, f=_name: getattr(m, f)(x), ("vector", "int"))
steps("sort_complex", lambda m, x: m.sort_complex(x), ("vector", "matrix"))
steps("histogram2d", lambda m, x: tp.histogram2d(x, x[::-1], bins=3), ("vector",), mapped=False,
      oracle=lambda x: np.histogram2d(x, x[::-1], bins=3))  # fmt: skip
steps("histogramdd", lambda m, x: tp.histogramdd(x, bins=2)[0], ("matrix",), mapped=False,
      oracle=lambda x: np.histogramdd(x, bins=2)[0])  # fmt: skip
for _name in ("bartlett", "blackman", "hamming", "hanning"):
    for _n in (0, 1, 2, 7):
        steps(_name, lambda m, x, f=_name, n=_n: getattr(m, f)(n), ("vector",))
for _n in (0, 1, 2, 7):
    row("kaiser", lambda m, x, n=_n: m.kaiser(n, x[..., 0]), ("vector",), smooth=_n > 1)
for _axis in (None, 0, -1):
    for _order in ("big", "little"):
        steps("packbits", lambda m, x, a=_axis, o=_order: m.packbits(x, a, o), ("int", "byte", "bool"))
        steps("unpackbits", lambda m, x, a=_axis, o=_order: m.unpackbits(x, a, bitorder=o), ("byte",))
for _count in (5, 40, -3, 0):
    steps("unpackbits", lambda m, x, n=_count: m.unpackbits(x, count=n), ("byte",))
row("roots", lambda m, x: [tp.real(tp.roots(x)), tp.imag(tp.roots(x))], ("vector",),
    oracle=lambda x: [np.roots(x).real, np.roots(x).imag])  # fmt: skip
row("poly", lambda m, x: m.poly(x), ("square", "one"))
row("pow", lambda m, x: m.pow(x, 3), NUMBERS)
row("asarray", lambda m, x: m.asarray(x), NUMBERS)
row("array", lambda m, x: m.array([x[0], x[-1]]), ("vector", "matrix"))
row("astype", lambda m, x: m.astype(x, np.float32), ("vector", "int", "bool"), smooth=False)
row("astype", lambda m, x: m.astype(x, np.int64), ("vector", "f32"), smooth=False)

# -- functions of ours ------------------------------------------------------------------------------------------------


def _each(f: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.array([f(v) for v in x.ravel().tolist()], x.dtype).reshape(x.shape)


def _softmax(x: np.ndarray, axis: Any = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


_FLOATS = ("vector", "matrix", "cube", "f32", "one")
for _name, _oracle in {
    "erf": _each(math.erf),
    "erfc": _each(math.erfc),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x).astype(x.dtype),
    "relu": lambda x: np.maximum(x, 0),
    "softmax": _softmax,
    "log_softmax": lambda x: np.log(_softmax(x)),
    "logsumexp": lambda x: np.log(np.exp(x).sum()),
}.items():
    row(_name, lambda m, x, f=_name: getattr(tp, f)(x), _FLOATS, oracle=_oracle)
row("rsqrt", lambda m, x: tp.rsqrt(tp.abs(x)), _FLOATS, oracle=lambda x: 1 / np.sqrt(np.abs(x)))
row("softmax", lambda m, x: tp.softmax(x, axis=0), ("matrix", "cube"), oracle=lambda x: _softmax(x, 0))
row("log_softmax", lambda m, x: tp.log_softmax(x, axis=0), ("matrix",), oracle=lambda x: np.log(_softmax(x, 0)))
row("logsumexp", lambda m, x: tp.logsumexp(x, axis=1, keepdims=True), ("matrix",),
    oracle=lambda x: np.log(np.exp(x).sum(axis=1, keepdims=True)))  # fmt: skip
row("stop_gradient", lambda m, x: tp.stop_gradient(x), _FLOATS, oracle=lambda x: x, smooth=False)
row("cast", lambda m, x: tp.cast(x, np.float32), ("vector", "int"), oracle=lambda x: x.astype(np.float32), smooth=False)
row("getitem", lambda m, x: tp.getitem(x, (0, slice(None, None, 2))), ("matrix", "cube"), oracle=lambda x: x[0, ::2])
row("setitem", lambda m, x: tp.setitem(x, 0, 1.5), ("vector", "matrix"),
    oracle=lambda x: np.concatenate([np.full_like(x[:1], 1.5), x[1:]]))  # fmt: skip
