"""The Numba engine: a `Program`'s Python source, compiled by `@njit` or run as it is, entered from Python.

Numba compiles when a program is first called. There are two builds of one text: `parallel`, as printed, and `serial`, in
which `prange` is `range` and small programs become one function: half the time to compile, for calls too short to be
worth a second thread. Results do not depend on the build.
"""

from __future__ import annotations

import ctypes
import itertools
import linecache
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.ir.graph import bind_symbols
from tapefuse.ir.program import Program
from tapefuse.ir.types import Dim, Poly, Type, substitute
from tapefuse.runtime import threads as pools
from tapefuse.runtime.entry import Layout

SLOT = "_array"  # where Tensors and Variables keep their array
WORTH_THREADS = 100_000  # nanoseconds of work from which a call uses the parallel build, which takes seconds to compile
INLINE_LIMIT = 30  # up to as many functions, one large one compiles faster than all of them
_numbers = itertools.count()
_build_lock = threading.Lock()
_pool_lock = threading.Lock()  # Numba's workqueue layer ends the process when two Python threads enter it


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program in this process.

    `call(*flat)`: Tensors or exact ndarrays in; the Tensor or a tuple of Tensors out, or NotImplemented with nothing changed.
    `function`: `program` of the source, an ordinary `@njit` function for callers in `@njit` code: inputs, states, constants,
    outputs, a uint8 array of scratch memory and the dimensions in, 0 or 1 + the number of the failed check out.
    """

    call: Callable[..., Any]
    function: Callable[..., int]
    text: str
    constants: tuple[np.ndarray, ...]
    threads: pools.Count | None  # how many threads it may use; None for a program without parallel regions


def load(
    program: Program,
    layout: Layout,
    states: Sequence[Any],
    handler: Callable[[int], Any],
    *,
    threads: int | None = None,
) -> Loaded:
    """Wrap a program. Its first call compiles it.

    `states`: one Variable per state of the program. `handler(status)` is called for a failed check; it raises.
    `threads`: for this program; None: the process's number. Raises CompileError, as the first call may.
    """
    if len(states) != len(program.states):
        raise CompileError(f"{program.name} has {len(program.states)} states, got {len(states)} variables")
    text = program.numba()
    source = _Source(text, program.name)
    entry = _Entry(program, layout, tuple(states), handler, source, pools.count(threads) if source.is_parallel else None)
    return Loaded(entry.__call__, source.build(parallel=True), text, entry.constants, entry.threads)


# -- source to functions --------------------------------------------------------------------------------


class _Source:
    """The text of a program and its builds, each made when first asked for."""

    def __init__(self, text: str, name: str):
        self.name = name
        self.file = f"<tapefuse-numba-{next(_numbers)}>"
        linecache.cache[self.file] = (len(text), None, text.splitlines(True), self.file)  # for tracebacks; stays
        self.code = compile(text, self.file, "exec")
        self.is_parallel = "prange(" in text
        self.calls = Counter(re.findall(r"^ +(\w+)\(", text, re.MULTILINE))
        self.builds: dict[bool, Callable[..., int]] = {}

    def build(self, parallel: bool) -> Callable[..., int]:
        """`program`, not compiled yet."""
        parallel = parallel and self.is_parallel
        with _build_lock:
            if parallel not in self.builds:
                self.builds[parallel] = self._functions(parallel)["program"]
        return self.builds[parallel]

    def _functions(self, parallel: bool) -> dict[str, Any]:
        """The text's functions with the options that suit a build; without Numba's compiler they are plain Python."""
        import numba

        functions: dict[str, Any] = {"__name__": self.file.strip("<>").replace("-", "_")}
        exec(self.code, functions)
        dispatchers = {name: f for name, f in functions.items() if hasattr(f, "targetoptions")}
        for name, f in dispatchers.items():
            options = {**f.targetoptions, **self._options(name, parallel, len(dispatchers) <= INLINE_LIMIT)}
            functions[name] = numba.jit(**options)(f.py_func)
        return functions

    def _options(self, name: str, parallel: bool, small: bool) -> dict[str, Any]:
        """What only this engine knows: who calls a function, and that none allocates. Halves the time to compile."""
        launches = parallel and name.endswith("_pieces")
        options: dict[str, Any] = {"no_cfunc_wrapper": True, "no_rewrites": not launches, "_nrt": launches}
        if name == "program":
            return options
        if not parallel:
            options["parallel"] = False
        launched = parallel and f"{name}_pieces" in self.calls
        if small and self.calls[name] == 1 and not launches and not launched:
            options["inline"] = "always"
        return {**options, "no_cpython_wrapper": True}

    def run(self, parallel: bool, arguments: Sequence[Any]) -> int:
        """The status. Raises CompileError when Numba cannot compile the text."""
        from numba.core.errors import NumbaError

        program = self.build(parallel)
        try:
            with nullcontext() if hasattr(program, "py_func") else np.errstate(all="ignore"):
                return program(*arguments)
        except NumbaError as e:
            raise CompileError(f"Numba cannot compile {self.name} (its source is {self.file}):\n{e}") from e


# -- entry ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spec:
    """An array as the program wants it: the dtype, and the shape with symbols."""

    dtype: np.dtype
    shape: tuple[Dim, ...]
    written: bool = False
    fixed: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixed", all(isinstance(d, int) for d in self.shape))

    @staticmethod
    def of(type: Type, written: bool = False) -> _Spec:
        return _Spec(type.dtype, type.shape, written)

    def fits(self, a: Any) -> bool:
        """Whether `a` is such an array, symbolic extents aside."""
        if type(a) is not np.ndarray or a.dtype != self.dtype or a.ndim != len(self.shape):
            return False
        if self.fixed and a.shape != self.shape:
            return False
        return a.flags.c_contiguous and a.flags.aligned


class _Entry:
    """From Python into a program: checks what comes in, makes what goes out. Nothing is changed before all checks are done."""

    def __init__(
        self, program: Program, layout: Layout, states: tuple, handler: Callable, source: _Source, threads: pools.Count | None
    ):
        self.program, self.layout, self.handler, self.source, self.threads = program, layout, handler, source, threads
        self.inputs = [_Spec.of(t) for t in program.inputs]
        self.states = [(_slot(v), v, _Spec.of(s.type, s.written)) for v, s in zip(states, program.states, strict=True)]
        self.outputs = [_Spec.of(t) for t in program.outputs]
        self.constants = tuple(np.array(c, c.dtype.newbyteorder("="), order="C") for c in program.constants)
        self.types = (*program.inputs, *(s.type for s in program.states))
        self.tensor_slot = _slot(layout.tensor)
        self.tupled = layout.tupled or len(program.outputs) != 1
        self.arenas: list[np.ndarray] = []
        bound = {d.name for t in self.types for d in t.shape if isinstance(d, Poly)}
        if missing := set(program.symbols) - bound:
            raise CompileError(
                f"the size {min(missing)!r} of {program.name} is no axis of an input on its own; "
                "name a dimension of some argument with it in the TensorSpec"
            )

    def __call__(self, *flat: Any) -> Any:
        inputs = self._inputs(flat)
        if inputs is None:
            return NotImplemented
        taken: list[tuple[Any, Any, np.ndarray]] = []
        try:
            states = self._states(taken)
            dims = None if states is None else self._dims([*inputs, *states])
            shapes = None if dims is None else [substitute(s.shape, dims) for s in self.outputs]
            if states is None or dims is None or shapes is None or any(n < 0 for shape in shapes for n in shape):
                return NotImplemented
            outputs = [_empty(shape, s.dtype) for shape, s in zip(shapes, self.outputs, strict=True)]
            status = self._run([*map(_writable, inputs), *map(_writable, states), *self.constants, *outputs], dims)
        finally:
            for slot, variable, array in taken:
                _give(slot, variable, array)
        return self.handler(status) if status else self._wrap(outputs)

    def _inputs(self, flat: Sequence[Any]) -> list[np.ndarray] | None:
        if len(flat) != len(self.inputs):
            return None
        arrays = [_get(self.tensor_slot, a) if type(a) is self.layout.tensor else a for a in flat]
        return arrays if all(spec.fits(a) for spec, a in zip(self.inputs, arrays, strict=True)) else None

    def _states(self, taken: list[tuple[Any, Any, np.ndarray]]) -> list[np.ndarray] | None:
        """The variables' arrays. Written ones are taken out of their variables while the program runs without the
        interpreter's lock, so that nobody sees half of an update; None when somebody else holds one."""
        arrays = []
        for slot, variable, spec in self.states:
            count = _take(slot, variable, taken) if spec.written else 0
            array = taken[-1][2] if count else _get(slot, variable)
            if not spec.fits(array):
                return None
            if spec.written and not (count == _ALONE and array.base is None and array.flags.writeable):
                return None
            arrays.append(array)
        return arrays

    def _dims(self, arrays: Sequence[np.ndarray]) -> dict[str, int] | None:
        """The values of the symbols, or None when shapes contradict each other."""
        shapes = [a.shape for a in arrays]
        dims = bind_symbols(self.types, shapes)
        fits = all(substitute(t.shape, dims) == shape for t, shape in zip(self.types, shapes, strict=True))
        return dims if fits else None

    def _run(self, arrays: list[np.ndarray], dims: dict[str, int]) -> int:
        size, work = (substitute(d, dims) for d in (self.program.arena, self.program.work))
        arena = self._arena(size)
        sizes = [dims[s] for s in self.program.symbols]
        try:
            if self._worth_threads(work):
                with _pool(self.threads.value):
                    return self.source.run(True, [*arrays, arena, *sizes])
            return self.source.run(False, [*arrays, arena, *sizes])
        finally:
            self.arenas.append(arena)

    def _worth_threads(self, work: int) -> bool:
        if self.threads is None:
            return False
        address, warn = pools.notice()
        if ctypes.c_int64.from_address(address).value:
            warn()
        return self.threads.value > 1 and work >= WORTH_THREADS

    def _arena(self, size: int) -> np.ndarray:
        """Scratch memory, 64-byte aligned: a block kept from an earlier call, or a new one."""
        try:
            if (kept := self.arenas.pop()).size >= size:
                return kept
        except IndexError:
            pass
        block = _empty((size + 64,), np.dtype(np.uint8))
        start = -block.ctypes.data % 64
        return block[start : start + size]

    def _wrap(self, outputs: list[np.ndarray]) -> Any:
        """The result: one Tensor, or a tuple of them."""
        tensors = []
        for array in outputs:
            tensors.append(object.__new__(self.layout.tensor))
            self.tensor_slot.__set__(tensors[-1], array)
        return tuple(tensors) if self.tupled else tensors[0]


def _slot(owner: Any) -> Any:
    """The descriptor of the slot that holds an array: reads and writes go past the class's own `__getattr__`."""
    cls = owner if isinstance(owner, type) else type(owner)
    return next(vars(c)[SLOT] for c in cls.__mro__ if SLOT in vars(c))


def _get(slot: Any, owner: Any) -> Any:
    """The slot's content, None if it is empty."""
    try:
        return slot.__get__(owner)
    except AttributeError:
        return None


def _take(slot: Any, variable: Any, taken: list[tuple[Any, Any, np.ndarray]]) -> int:
    """Empties a variable's slot, notes the array in `taken`, and returns how many references to it there are; 0: it was empty."""
    array = _get(slot, variable)
    if array is None:
        return 0
    taken.append((slot, variable, array))
    slot.__delete__(variable)
    return sys.getrefcount(array)


def _give(slot: Any, variable: Any, array: np.ndarray) -> None:
    """A variable that was given another array in the meantime keeps that one."""
    if _get(slot, variable) is None:
        slot.__set__(variable, array)


class _Holder:
    __slots__ = (SLOT,)


def _alone() -> int:
    """What `_take` counts when nobody else holds the array."""
    holder = _Holder()
    setattr(holder, SLOT, np.zeros(1))
    return _take(_slot(holder), holder, [])


_ALONE = _alone()


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except ValueError as e:  # more bytes than an address has bits for
        raise MemoryError(f"no array of shape {shape}: {e}") from None


def _writable(a: np.ndarray) -> np.ndarray:
    """Numba's types tell read-only arrays apart; programs never write to their inputs, so these are shown as ordinary ones."""
    if a.flags.writeable:
        return a
    if not a.size:
        return np.empty(a.shape, a.dtype)
    return np.ndarray(a.shape, a.dtype, buffer=(ctypes.c_char * a.nbytes).from_address(a.ctypes.data))


@contextmanager
def _pool(count: int) -> Iterator[None]:
    """Numba's threads, `count` of them, for the calling thread."""
    import numba

    guard = nullcontext() if pools.pool().concurrent else _pool_lock
    before = numba.get_num_threads()
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    try:
        with guard:
            yield
    finally:
        numba.set_num_threads(before)
