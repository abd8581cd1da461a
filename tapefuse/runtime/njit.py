"""A compiled program as a function for callers in `@njit` code: arrays in, arrays out, without the interpreter.

The source of the function of a softmax over rows, `f32[B,10] -> f32[B,10]`, run by the LLVM engine:

    @njit
    def softmax(x0):
        x0 = fit0(x0)
        n0 = x0.shape[0]
        if x0.shape[1] != 10: raise ValueError(message0)
        y0 = empty((n0, 10), float32)
        arena = empty(..., uint8)
        pointers = array([x0.ctypes.data, y0.ctypes.data, aligned(arena.ctypes.data)])
        status = program(pointers.ctypes.data, array([n0]).ctypes.data)
        if status == 1: raise IndexError(...)
        return y0
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.ir.halves import is_half
from tapefuse.ir.program import NO_MEMORY, Program
from tapefuse.ir.types import Dim, Poly, Type, real_dtype, show_dtype, substitute
from tapefuse.runtime.generated import Source
from tapefuse.runtime.numba_entry import as_bits

_ALIGN = 64


def njit_function(program: Program, loaded: Any, states: Sequence[np.ndarray]) -> Callable[..., Any]:
    """The function of a loaded program that writes no states; `states`: their values, which stay.

    An argument is an array of the program's dtype and rank (one that is not C-contiguous is copied), or a number for
    rank 0; a result of rank 0 is a number; several results are a tuple. Raises IndexError for an index out of range and
    ValueError for an extent that does not fit, as it may in `@njit` code, and MemoryError where there is none for a
    size that the program computes. Raises CompileError for float16 and bfloat16, which Numba has no arrays of.
    """
    outside = (*program.inputs, *program.outputs)
    if half := next((t for t in outside if is_half(t.dtype)), None):
        raise CompileError(
            f"{program.name} takes or returns {half}, and @njit code has no {show_dtype(half.dtype)}; take and return "
            "float32, and cast inside of the function"
        )
    return _Wrapper(program, loaded, states).function()


class _Wrapper:
    def __init__(self, program: Program, loaded: Any, states: Sequence[np.ndarray]):
        self.program, self.loaded = program, loaded
        self.constants = [as_bits(np.ascontiguousarray(c)) for c in (*states, *program.constants)]
        self.env: dict[str, Dim] = {s: Poly.symbol(f"n{k}") for k, s in enumerate(program.symbols)}
        self.names: dict[str, Any] = {"empty": np.empty, "uint8": np.uint8, "uintp": np.uintp, "int64": np.int64}

    def function(self) -> Callable[..., Any]:
        import numba

        arguments = [f"x{k}" for k in range(len(self.program.inputs))]
        body = [*self._fit(arguments), *self._outputs(), *self._call(arguments), *self._checks(), self._returned()]
        text = "\n    ".join([f"def compiled({', '.join(arguments)}):", *body]) + "\n"
        function: Any = numba.njit(nogil=True)(Source(text, "njit").run(self.names)["compiled"])
        function.__name__ = self.program.name
        function.tapefuse_program = self.loaded, self.constants  # whatever its addresses point to lives as long as it
        return function

    def _constant(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def _dim(self, d: Dim) -> str:
        return str(substitute(d, self.env))

    def _shape(self, type: Type) -> str:
        return "(" + "".join(f"{self._dim(d)}, " for d in type.shape or (1,)) + ")"

    # -- the source -------------------------------------------------------------------------------
    def _fit(self, arguments: Sequence[str]) -> Iterator[str]:
        """Arguments of the right dtype, rank and layout; symbols from their shapes; checks of all other extents."""
        bound: set[str] = set()
        later: list[str] = []
        for name, type in zip(arguments, self.program.inputs, strict=True):
            yield f"{name} = {self._constant('fit', _fitter(self.program.name, name, type))}({name})"
            for axis, d in enumerate(type.shape):
                symbol = d.name if isinstance(d, Poly) else None
                if symbol is not None and symbol not in bound:
                    bound.add(symbol)
                    yield f"{self._dim(d)} = {name}.shape[{axis}]"
                else:
                    text = f"{self.program.name}: axis {axis} of argument {name} does not fit {type}"
                    message = self._constant("message", text)
                    later.append(f"if {name}.shape[{axis}] != {self._dim(d)}: raise ValueError({message})")
        yield from later

    def _outputs(self) -> Iterator[str]:
        for k, type in enumerate(self.program.outputs):
            yield f"y{k} = empty({self._shape(type)}, {self._constant('dtype', type.dtype.type)})"
        yield f"arena = empty({self._dim(self.program.arena)} + {_ALIGN}, uint8)"

    def _call(self, arguments: Sequence[str]) -> Iterator[str]:
        outputs = [f"y{k}" for k in range(len(self.program.outputs))]
        symbols = [self._dim(Poly.symbol(s)) for s in self.program.symbols]
        if hasattr(self.loaded, "function"):
            self.names["program"] = self.loaded.function
            constants = [self._constant("c", c) for c in self.constants]
            scalars = [self._seen(n, t) for n, t in zip(arguments, self.program.inputs, strict=True)]
            results = [self._seen(n, t) for n, t in zip(outputs, self.program.outputs, strict=True)]
            yield f"status = program({', '.join([*scalars, *constants, *results, 'arena', *symbols])})"
            return
        self.names["program"] = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_size_t, ctypes.c_size_t)(self.loaded.pointer)
        addresses = [*(f"{a}.ctypes.data" for a in arguments), *(str(c.ctypes.data) for c in self.constants)]
        addresses += [f"{y}.ctypes.data" for y in outputs]
        yield f"pointers = empty({len(addresses) + 1}, uintp)"
        for k, address in enumerate(addresses):
            yield f"pointers[{k}] = {address}"
        yield f"pointers[{len(addresses)}] = (arena.ctypes.data + uintp({_ALIGN - 1})) & uintp({2**64 - _ALIGN})"
        yield f"dims = empty({max(len(symbols), 1)}, int64)"
        for k, symbol in enumerate(symbols):
            yield f"dims[{k}] = {symbol}"
        yield "status = program(pointers.ctypes.data, dims.ctypes.data)"
        held = [*arguments, *outputs, "arena", "pointers", "dims"]  # Numba frees an array after its last use
        yield f"status += 0 * ({' + '.join(f'{name}.size' for name in held)})"

    def _seen(self, name: str, type: Type) -> str:
        """An array as the Numba engine's program takes it (see `as_bits`): rank 0 where the type has none."""
        if type.dtype.kind == "c":
            part = self._constant("dtype", real_dtype(type.dtype).type)
            return f"{name}.view({part}).reshape({f'{name}.shape + (2,)' if type.shape else '(2,)'})"
        return name if type.shape else f"{name}.reshape(())"

    def _checks(self) -> Iterator[str]:
        for k, check in enumerate(self.program.checks, 1):
            error = self._constant("error", next(c for c in check.error.__mro__ if c.__module__ == "builtins"))
            yield f"if status == {k}: raise {error}({self._constant('message', check.text)})"
        lost = f"no memory for what {self.program.name} keeps in a loop of unknown length"
        error, message = self._constant("error", MemoryError), self._constant("message", lost)
        yield f"if status == {NO_MEMORY}: raise {error}({message})"

    def _returned(self) -> str:
        results = [f"y{k}" if t.shape else f"y{k}[0]" for k, t in enumerate(self.program.outputs)]
        return f"return {results[0]}" if len(results) == 1 else f"return ({''.join(r + ', ' for r in results)})"


def _fitter(function: str, name: str, type: Type) -> Callable[[Any], Any]:
    """`fit(x)` for `@njit` code: `x` as a contiguous array; scalars as one element. Other types do not compile."""
    from numba import types
    from numba.core.errors import TypingError
    from numba.extending import overload

    rank, dtype = len(type.shape), type.dtype.type

    def fit(x):
        return np.ascontiguousarray(x)

    @overload(fit)
    def typed(x):  # Numba compares the signatures, annotations too
        is_array = isinstance(x, types.Array)
        if rank == 0 and isinstance(x, (types.Number, types.Boolean)):
            return lambda x: np.full(1, x, dtype)
        if not is_array or x.ndim != rank or str(x.dtype) != type.dtype.name:
            raise TypingError(f"{function}: argument {name} is {x}, the compiled function takes {type}")
        if rank == 0:
            return lambda x: np.full(1, x[()], dtype)
        if x.layout == "C":
            return lambda x: x if x.size else np.zeros_like(x)  # with room for a first element, which kernels may read
        return lambda x: np.ascontiguousarray(x)  # noqa: PLW0108 - Numba compiles it

    return fit
