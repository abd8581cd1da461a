"""From Python into a program: the tables that drive the entry function of `entry.ll`.

The entry is compiled once, for all programs, and knows neither shapes nor dtypes: it reads them from a table made here
from a `Program`. It takes arrays straight from NumPy's public array record (the layout of NumPy 2), so a call does no
Python work.

What a call promises:
- NotImplemented means that nothing has changed: an argument does not fit, or a written variable's array is shared, is a
  view, is read-only, or is in use by a call in another thread. `unshare` the written variables and try once more.
- A program of more than GIL_LIMIT nanoseconds runs without the interpreter's lock. The arrays that it reads are held; the
  arrays that it writes are taken out of their variables until it is done, so that no thread and no other program can
  see or use half-written values: reading such a variable's slot is an AttributeError, which the variable's `__getattr__`
  turns into waiting. A variable that is given another array meanwhile keeps that one.
- Signals are handled after the call, when variables are whole. A failed check calls the handler and changes nothing.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.ir.program import Program
from tapefuse.ir.types import Dim, Poly, Type

OBJECT_TYPE = 8  # offset of ob_type
ARRAY = {"data": 16, "nd": 24, "dims": 32, "strides": 40, "base": 48, "descr": 56, "flags": 64}  # PyArrayObject_fields
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400
GIL_LIMIT = 20_000  # nanoseconds of work from which a call lets other Python threads run
STACK_ARENA = 4096  # bytes of scratch memory that live on the stack
FIELDS = (
    "program", "n_inputs", "n_states", "n_constants", "n_outputs", "n_symbols", "n_polys", "n_checked", "n_patches",
    "n_sizes", "records", "states", "constants", "polys", "checked", "out_records", "sizes", "patches", "arena",
    "arena_index", "arena_slot", "work", "work_index", "gil_limit", "ndarray", "tensor", "tensor_offset",
    "variable_offset", "tupled", "handler", "get_mask", "set_mask", "notice", "warning",
)  # fmt: skip
ARENA_SLOT = FIELDS.index("arena_slot")  # the kept block of scratch memory; calls exchange it atomically
RECORD_WORDS = 4  # descr, rank, axes, written
FIXED, BIND, SAME, POLYNOMIAL = range(4)  # kinds of axes


@dataclass(frozen=True, slots=True)
class Layout:
    """What native code must know of the tracer's classes: where a Tensor and a Variable keep their array.

    `tupled`: a single output comes in a tuple, too. Several outputs, and none, always do.
    """

    tensor: type
    tensor_offset: int
    variable_offset: int
    tupled: bool = False

    @staticmethod
    def of(tensor: type, variable: type, *, slot: str = "_array", tupled: bool = False) -> Layout:
        """The layout of two classes that keep their array in `__slots__`."""
        return Layout(tensor, slot_offset(tensor, slot), slot_offset(variable, slot), tupled)


_unshare_lock = threading.Lock()


def unshare(variables: Iterable[Any], slot: str = "_array") -> None:
    """Give each variable a copy of its array that nobody else holds: what to do before a refused call is tried again.

    Reading the slot waits (in the variable's `__getattr__`) while a call in another thread writes the array. No update
    is lost: a program refuses an array that is held here, and then comes here itself.
    """
    with _unshare_lock:
        for variable in variables:
            held = getattr(variable, slot)
            setattr(variable, slot, held.copy())
            del held


class _MemberDef(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("type", ctypes.c_int), ("offset", ctypes.c_ssize_t))


def slot_offset(cls: type, name: str) -> int:
    """Where instances of `cls` keep the slot `name`: read from its member descriptor, tried on an instance.

    Raises CompileError when this Python keeps slots in another way.
    """
    member: Any = next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), None)
    if type(member).__name__ != "member_descriptor":
        raise CompileError(f"{cls.__name__} has no slot {name!r}")
    definition = ctypes.c_size_t.from_address(id(member) + 40).value  # PyMemberDescrObject.d_member
    offset = _MemberDef.from_address(definition).offset
    instance: Any = object.__new__(cls)
    mark = object()
    member.__set__(instance, mark)
    if not 16 <= offset < cls.__basicsize__ or ctypes.c_void_p.from_address(id(instance) + offset).value != id(mark):
        raise CompileError(f"this Python keeps slots in an unknown way ({cls.__name__}.{name}); use engine='numba'")
    return offset


@cache
def check_abi() -> None:
    """Compare a live array with the layout that the entry assumes. Raises CompileError when they differ."""
    a = np.zeros((3, 5), np.float32)[:, 1:3]
    a.flags.writeable = False
    at = id(a)

    def word(name: str) -> int:
        return ctypes.c_int64.from_address(at + ARRAY[name]).value

    flags = ctypes.c_int.from_address(at + ARRAY["flags"]).value
    seen = (
        object.__basicsize__, ctypes.c_void_p.from_address(at + OBJECT_TYPE).value, word("data"),
        ctypes.c_int.from_address(at + ARRAY["nd"]).value, tuple((ctypes.c_int64 * 2).from_address(word("dims"))),
        tuple((ctypes.c_int64 * 2).from_address(word("strides"))), word("base"), word("descr"),
        flags & (C_CONTIGUOUS | ALIGNED | WRITEABLE),
    )  # fmt: skip
    real = (16, id(np.ndarray), a.ctypes.data, 2, a.shape, a.strides, id(a.base), id(a.dtype), ALIGNED)
    if seen != real:
        raise CompileError(
            f"NumPy {np.__version__} keeps arrays in an unknown way here: {seen} is not {real}; use engine='numba'"
        )


@cache
def entry_text() -> str:
    """LLVM text of `ptr @tapefuse_entry(ptr %self, ptr %args, i64 %nargs)`; `%self` is an array, the table."""
    here = Path(__file__).parent
    text = (here / "entry_arrays.ll").read_text() + (here / "entry.ll").read_text()
    names: dict[str, int] = {f: k for k, f in enumerate(FIELDS)}
    names |= {f"array_{k}": v for k, v in ARRAY.items()}
    names |= {"object_type": OBJECT_TYPE, "record_words": RECORD_WORDS, "stack_arena": STACK_ARENA}
    names |= {"flags_layout": C_CONTIGUOUS | ALIGNED, "flags_writeable": WRITEABLE}
    return Template(text).substitute(names)


@cache
def entry_symbols() -> dict[str, int]:
    """Addresses of what the entry's text imports: functions of CPython and NumPy."""
    declared = re.findall(r"^declare [\w ]+ @(Py\w+)\(", entry_text(), re.M)
    api = ctypes.pythonapi
    table = {n: ctypes.cast(getattr(api, n), ctypes.c_void_p).value for n in declared if hasattr(api, n)}
    table["_Py_NotImplementedStruct"] = id(NotImplemented)
    table["PyArray_NewFromDescr"] = _numpy_function(94)
    return {k: int(v or 0) for k, v in table.items()}


def _numpy_function(index: int) -> int:
    """A function of NumPy's C interface, by its index in the table of the public ABI."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get(importlib.import_module("numpy._core._multiarray_umath")._ARRAY_API, None)
    return ctypes.c_size_t.from_address(table + 8 * index).value


class Table(np.ndarray):
    """The words of one program's table: what the entry gets as `self`. Keeps alive whatever they point to.

    Frees the program's scratch memory at its end.
    """

    keep: tuple

    def __del__(self, free=ctypes.pythonapi.PyMem_RawFree, void=ctypes.c_void_p):
        if "keep" in self.__dict__ and (block := int(self[ARENA_SLOT])):
            free(void(void.from_address(block - 16).value))


class _Values:
    """Indices of the values a call computes: the symbols first, then polynomials of them, each once."""

    def __init__(self, symbols: Sequence[str]):
        self.symbols = {s: k for k, s in enumerate(symbols)}
        self.polynomials: dict[Poly, int] = {}

    def index(self, dim: Poly) -> int:
        if dim.name is not None:
            return self.symbols[dim.name]
        return self.polynomials.setdefault(dim, len(self.symbols) + len(self.polynomials))

    def stream(self) -> list[int]:
        words: list[int] = []
        for p in self.polynomials:
            words.append(len(p.terms))
            for monomial, coefficient in p.terms:
                words += [coefficient, len(monomial), *(self.symbols[s] for s in monomial)]
        return words


def canonical(dtype: np.dtype) -> np.dtype:
    """NumPy's one native dtype object of that kind and size."""
    return np.dtype(dtype.str)


def build_table(
    program: Program, layout: Layout, states: Sequence[Any], handler: Callable[[int], Any], words: Mapping[str, int]
) -> Table:
    """The table of a program. `states`: Variables; `words`: the fields this module does not know (addresses, limits).

    Raises CompileError for a symbol that no axis of an input or state binds on its own.
    """
    values, parts = _Values(program.symbols), _Parts()
    constants = tuple(np.ascontiguousarray(c, canonical(c.dtype)) for c in program.constants)
    types = [*program.inputs, *(s.type for s in program.states)]
    written = [0] * len(program.inputs) + [int(s.written) for s in program.states]
    axes, checked = _axes(types, values, program)
    parts.add("records", [w for t, a, x in zip(types, axes, written, strict=True)
                          for w in (id(canonical(t.dtype)), len(t.shape), parts.nested(a), x)])  # fmt: skip
    out_records, sizes, patches = _outputs(program.outputs, values)
    parts.add("states", map(id, states))
    parts.add("constants", (c.ctypes.data for c in constants))
    for name, part in (("out_records", out_records), ("sizes", sizes), ("patches", patches), ("checked", checked)):
        parts.add(name, part)
    arena, work = _amount(program.arena, values), _amount(program.work, values)
    parts.add("polys", values.stream())
    fields = {
        "n_inputs": len(program.inputs), "n_states": len(program.states), "n_constants": len(constants),
        "n_outputs": len(program.outputs), "n_symbols": len(program.symbols), "n_polys": len(values.polynomials),
        "n_checked": len(checked) // 3, "n_patches": len(patches) // 2, "n_sizes": len(sizes),
        "arena": arena[0], "arena_index": arena[1], "work": work[0], "work_index": work[1], "gil_limit": GIL_LIMIT,
        "ndarray": id(np.ndarray), "tensor": id(layout.tensor), "tensor_offset": layout.tensor_offset,
        "variable_offset": layout.variable_offset, "tupled": int(layout.tupled or len(program.outputs) != 1),
        "handler": id(handler),
    }  # fmt: skip
    table = parts.table({**fields, **words})
    table.keep = (tuple(states), constants, handler, layout)
    table.flags.writeable = False  # native code alone changes it
    return table


def _axes(types: Iterable[Type], values: _Values, program: Program) -> tuple[list[list[int]], list[int]]:
    """Axis records of the arrays that are read, and the list of axes to compare once all symbols are bound."""
    bound: set[str] = set()
    axes: list[list[int]] = []
    checked: list[int] = []
    for which, type in enumerate(types):
        words: list[int] = []
        for axis, dim in enumerate(type.shape):
            if not isinstance(dim, Poly):
                words += [FIXED, dim]
            elif dim.name is None:
                words += [POLYNOMIAL, 0]
                checked += [which, axis, values.index(dim)]
            else:
                words += [SAME if dim.name in bound else BIND, values.index(dim)]
                bound.add(dim.name)
        axes.append(words)
    if missing := set(program.symbols) - bound:
        raise CompileError(
            f"the size {min(missing)!r} of {program.name} is no axis of an input on its own; "
            "name a dimension of some argument with it in the TensorSpec"
        )
    return axes, checked


def _outputs(types: Iterable[Type], values: _Values) -> tuple[list[int], list[int], list[int]]:
    """Records (descr, rank, first size), all sizes in a row, and (position, value) of the symbolic ones."""
    records: list[int] = []
    sizes: list[int] = []
    patches: list[int] = []
    for type in types:
        records += [id(canonical(type.dtype)), len(type.shape), len(sizes)]
        for dim in type.shape:
            if isinstance(dim, Poly):
                patches += [len(sizes), values.index(dim)]
            sizes.append(0 if isinstance(dim, Poly) else dim)
    return records, sizes, patches


def _amount(dim: Dim, values: _Values) -> tuple[int, int]:
    """(static number, -1) or (0, index of the value)."""
    return (0, values.index(dim)) if isinstance(dim, Poly) else (int(dim), -1)


class _Parts:
    """Lists of words laid out behind the fields; addresses are filled in when the table's place is known."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.starts: dict[str, int] = {}
        self.inner: list[int] = []  # positions in `words` that hold positions

    def nested(self, words: Iterable[int]) -> Any:
        start = len(self.words)
        self.words += words
        return _Position(start)

    def add(self, name: str, words: Iterable[int]) -> None:
        items = list(words)
        self.starts[name] = start = len(self.words)
        self.inner += [start + k for k, w in enumerate(items) if isinstance(w, _Position)]
        self.words += items

    def table(self, fields: Mapping[str, int]) -> Table:
        table = np.ndarray.__new__(Table, (len(FIELDS) + len(self.words),), np.int64)
        table[:] = 0
        base = table.ctypes.data + 8 * len(FIELDS)
        table[len(FIELDS) :] = self.words
        for k in self.inner:
            table[len(FIELDS) + k] = base + 8 * self.words[k]
        for name, value in {**{n: base + 8 * s for n, s in self.starts.items()}, **fields}.items():
            table[FIELDS.index(name)] = value
        return table


class _Position(int):
    """An index into the words of a table, to become an address."""
