"""From Python into a program of the Numba engine: the entry protocol in Python.

Arguments are checked before anything is changed; written variables lend their arrays to the program while it runs.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse._records import dataclass
from tapefuse.ir.graph import bind_symbols
from tapefuse.ir.halves import BITS, is_half
from tapefuse.ir.program import Program
from tapefuse.ir.types import Dim, Poly, Type, real_dtype, substitute
from tapefuse.runtime import threads
from tapefuse.runtime.abi import Layout, plain

SLOT = "_array"  # where Tensors and Variables keep their array
Taken = list[tuple[Any, Any, np.ndarray]]  # (slot, variable, array): arrays to be given back


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


class Entry:
    """What a program's callers call. `run(arguments, work)` runs it and returns its status."""

    def __init__(
        self,
        program: Program,
        layout: Layout,
        states: Sequence[Any],
        handler: Callable[[int], Any],
        run: Callable[[Sequence[Any], int], int],
    ):
        self.program, self.layout, self.handler, self.run = program, layout, handler, run
        self.inputs = [_Spec.of(t) for t in program.inputs]
        self.states = [(_slot(v), v, _Spec.of(s.type, s.written)) for v, s in zip(states, program.states, strict=True)]
        self.outputs = [_Spec.of(t) for t in program.outputs]
        self.constants = tuple(as_bits(np.array(c, c.dtype.newbyteorder("="), order="C")) for c in program.constants)
        self.types = (*program.inputs, *(s.type for s in program.states))
        self.tensor_slot = _slot(layout.tensor)
        self.tupled = layout.tupled or len(program.outputs) != 1
        self.arenas: list[np.ndarray] = []
        self.taken_ids = {id(v) for v, s in zip(states, program.states, strict=True) if s.written}
        self.writes = bool(self.taken_ids)
        self.wanted = ctypes.c_uint64.from_address(layout.wanted) if layout.wanted else ctypes.c_uint64(0)
        bound = {d.name for t in self.types for d in t.shape if isinstance(d, Poly)}
        if missing := set(program.symbols) - bound:
            raise CompileError(
                f"the size {min(missing)!r} of {program.name} is no axis of an input on its own; "
                "name a dimension of some argument with it in the TensorSpec"
            )

    def __call__(self, *flat: Any) -> Any:
        if not self.writes:
            return self._call(flat)
        with threads.taking():
            return self._call(flat)

    def _call(self, flat: Sequence[Any]) -> Any:
        inputs = self._inputs(flat)
        if inputs is None:
            return NotImplemented
        taken: Taken = []
        try:
            states = self._states(taken)
            dims = None if states is None else self._dims([*inputs, *states])
            shapes = None if dims is None else [substitute(s.shape, dims) for s in self.outputs]
            if states is None or dims is None or shapes is None or any(n < 0 for shape in shapes for n in shape):
                return NotImplemented
            outputs = [_empty(shape, s.dtype) for shape, s in zip(shapes, self.outputs, strict=True)]
            arrays = [*map(_writable, inputs), *map(_writable, states), *self.constants, *outputs]
            status = self._run([as_bits(a) for a in arrays], dims)
        finally:
            for slot, variable, array in taken:
                _give(slot, variable, array)
            if taken:
                self._let_in()
        return self.handler(status) if status else self._wrap(outputs)

    def _let_in(self) -> None:
        """If a thread waits for a variable that this call had, wait until that thread has seen it, or 5 ms."""
        for _ in range(20):
            if self.wanted.value not in self.taken_ids:
                return
            time.sleep(250e-6)

    def _inputs(self, flat: Sequence[Any]) -> list[np.ndarray] | None:
        if len(flat) != len(self.inputs):
            return None
        arrays = [_get(self.tensor_slot, a) if type(a) is self.layout.tensor else a for a in flat]
        return arrays if all(spec.fits(a) for spec, a in zip(self.inputs, arrays, strict=True)) else None

    def _states(self, taken: Taken) -> list[np.ndarray] | None:
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
        try:
            return self.run([*arrays, arena, *(dims[s] for s in self.program.symbols)], work)
        finally:
            self.arenas.append(arena)

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
        """The result: one object, or a tuple of them."""
        wrapped = [(plain if self.layout.plain else self._tensor)(array) for array in outputs]
        return tuple(wrapped) if self.tupled else wrapped[0]

    def _tensor(self, array: np.ndarray) -> Any:
        tensor: Any = object.__new__(self.layout.tensor)
        self.tensor_slot.__set__(tensor, array)
        return tensor


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


def _take(slot: Any, variable: Any, taken: Taken) -> int:
    """Empties a variable's slot, notes the array in `taken`, and counts the references to it; 0: the slot was empty."""
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


def as_bits(a: np.ndarray) -> np.ndarray:
    """An array as programs of Numba see it: halves as unsigned integers, complex numbers as pairs along a last axis."""
    if a.dtype.kind == "c":
        return a[..., None].view(real_dtype(a.dtype))
    return a.view(BITS) if is_half(a.dtype) else a


def _writable(a: np.ndarray) -> np.ndarray:
    """Numba's types tell read-only arrays apart. Programs never write to inputs: show these as ordinary ones.

    Kernels may read the first element of an array that has none: in its place comes one whose memory has room for it.
    """
    if not a.size:
        return np.zeros(a.shape, a.dtype)
    if a.flags.writeable:
        return a
    memory, dtype = (ctypes.c_char * a.nbytes).from_address(a.ctypes.data), BITS if is_half(a.dtype) else a.dtype
    return np.frombuffer(memoryview(memory).cast("B"), dtype).reshape(a.shape)
