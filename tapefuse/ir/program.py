"""The one contract between code generation and the run time: kernel texts, a launch plan and the layout of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import numpy as np

from tapefuse._errors import IndexOutOfRangeError, noted
from tapefuse._records import dataclass
from tapefuse.ir.graph import Loc
from tapefuse.ir.types import Dim, Type

STOPPED, NO_MEMORY = -1, -2  # statuses of a program: an interrupt; no memory for a size that it has computed


@dataclass(frozen=True, slots=True)
class State:
    """Storage that outlives the call (a variable's array). `written`: the program updates it in place."""

    type: Type
    written: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What status k+1 means: the error a program raises before it has changed anything.

    `arguments`: those of an exception of the user's, in place of `message` and `loc`, and `where` it is raised.
    """

    message: str
    loc: Loc | None = None
    error: type[Exception] = IndexOutOfRangeError
    arguments: tuple | None = None
    where: str = ""

    @property
    def text(self) -> str:
        where = f"\n  at {self.loc or self.where}" if self.loc or self.where else ""
        return (self.message if self.arguments is None else ", ".join(map(str, self.arguments))) + where

    def exception(self) -> Exception:
        return self.error(self.text) if self.arguments is None else noted(self.error(*self.arguments), self.where)


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph, before an engine has turned its text into machine code.

    Native entry point, in `llvm`:  `define i64 @tapefuse_program(ptr %pointers, ptr %dims)`.
    `pointers`: data pointers in the order inputs, states, constants, outputs, arena. `dims`: one i64 per symbol.
    The result is 0, or 1 + the index of the check in `checks` that failed.
    Entry point in `numba`:  `def program(inputs..., states..., constants..., outputs..., arena, dims...) -> int`,
    with arrays of the types below, `arena` a uint8 array, `dims` integers.
    """

    name: str
    symbols: tuple[str, ...]
    inputs: tuple[Type, ...]
    states: tuple[State, ...]
    constants: tuple[np.ndarray, ...]
    outputs: tuple[Type, ...]
    arena: Dim  # bytes of scratch memory, 64-byte aligned
    work: Dim  # rough nanoseconds of one call at one thread: long programs release the GIL
    checks: tuple[Check, ...]
    externals: frozenset[str]  # symbols the LLVM text imports: "scipy_cblas_sgemm", "tapefuse_parallel_for", ...
    llvm: Callable[[], str] = field(compare=False)  # texts are made when asked for
    numba: Callable[[], str] = field(compare=False)
