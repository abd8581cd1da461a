"""Names, literals and sizes in the Numba backend's source, and what it imports for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.codegen.loops import INT, Num
from tapefuse.ir.types import Dim, Poly, Shape, show_dtype

ARRAY_FUNCTIONS = frozenset({"carve", "reshaped", "matmul_rows", "matmul_columns", "contract", "transposed"})
ARRAY_FUNCTIONS |= {"allocated", "grown", "release", "substituted", "substituted_complex"}


class Imports:
    """Names that the text takes from NumPy, `math` and the run-time library."""

    def __init__(self) -> None:
        self.math: set[str] = set()
        self.numpy: set[str] = set()
        self.arrays: set[str] = set()
        self.library: set[str] = set()
        self.calls: set[str] = set()

    def dtype(self, dtype: np.dtype) -> str:
        """A NumPy scalar type by name."""
        if dtype.kind not in "biuf" or dtype == np.float16:
            raise CompileError(f"compiled code has no {show_dtype(dtype)}; cast to f32 or f64, or run with disable_jit")
        name = "bool_" if dtype.kind == "b" else dtype.name
        self.numpy.add(name)
        return name

    def function(self, name: str) -> str:
        (self.arrays if name in ARRAY_FUNCTIONS else self.library).add(name)
        return name

    def call(self, function: str) -> str:
        """An inner loop of NumPy's as a function."""
        name = function.replace(".", "__")
        self.calls.add(name)
        return name

    def literal(self, x: Num) -> str:
        """An expression of exactly this value and dtype."""
        if x.dtype.kind == "b":
            return str(bool(x.value))
        if x.dtype == INT:
            return self._int64(int(x.value))
        name = self.dtype(x.dtype)
        return f"{name}({self._float(float(x.value), x.dtype) if x.dtype.kind == 'f' else int(x.value)})"

    @staticmethod
    def _int64(value: int) -> str:
        return str(value) if value > -(2**63) else f"(-{2**63 - 1} - 1)"

    def _float(self, value: float, dtype: np.dtype) -> str:
        if value != value or value in (np.inf, -np.inf):
            name = "nan" if value != value else "inf"
            self.math.add(name)
            return f"-{name}" if value < 0 else name
        short = repr(dtype.type(value).item()) if dtype.itemsize == 8 else str(dtype.type(value))
        return short if dtype.type(float(short)) == value else repr(value)

    def text(self) -> str:
        runtime = "tapefuse.runtime.numba_"
        wanted = {
            "math": self.math,
            "numba": {"njit", "prange"},
            "numpy": self.numpy,
            f"{runtime}arrays": self.arrays,
            f"{runtime}library": self.library,
            f"{runtime}calls": self.calls,
        }
        return "\n".join(
            f"from {module} import {', '.join(sorted(names))}" for module, names in wanted.items() if names
        )


def dim_text(d: Dim, symbols: Mapping[str, str]) -> str:
    """A dimension as an expression of Python integers."""
    if not isinstance(d, Poly):
        return str(int(d))
    terms: list[str] = []
    for mono, coefficient in d.terms:
        factors = [symbols[s] for s in mono]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient) if coefficient >= 0 or not terms else f"({coefficient})")
        terms.append(" * ".join(factors))
    return " + ".join(terms)


def shape_text(shape: Shape, symbols: Mapping[str, str]) -> str:
    """A shape as a tuple of Python integers."""
    return f"({', '.join(dim_text(d, symbols) for d in shape)}{',' * (len(shape) == 1)})"
