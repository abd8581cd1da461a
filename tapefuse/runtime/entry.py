"""From Python into a program: the tables that drive the entry function of `entry.ll`.

The entry is compiled once, for all programs, and knows neither shapes nor dtypes: it reads them from a table made here
from a `Program`. It takes arrays straight from NumPy's public array record (the layout of NumPy 2), so a call does no
Python work.

What a call promises:
- NotImplemented means that nothing has changed: an argument does not fit, or a written variable's array is shared, is a
  view, is read-only, or is in use by a call in another thread. Give the variable a copy of its array and try again.
- A program of more than GIL_LIMIT nanoseconds runs without the interpreter's lock. The arrays that it reads are held;
  the arrays that it writes are taken out of their variables until it is done, so that no thread and no other program
  can see or use half-written values: reading such a variable's slot is an AttributeError, which the variable's
  `__getattr__` turns into waiting. A variable that is given another array meanwhile keeps that one.
- A program of more than WATCHED nanoseconds in the main thread lets signal handlers run, between its kernels or the
  pieces of one, until it begins to write variables; an exception ends the call, and nothing has changed. Otherwise
  signals are handled after the call, when variables are whole. A failed check calls the handler and changes nothing.
- A fork waits for the calls of other threads that have taken variables: the child finds whole ones.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.ir.program import Program
from tapefuse.ir.types import Dim, Poly, Type
from tapefuse.runtime.abi import (
    ALIGNED,
    ARRAY,
    C_CONTIGUOUS,
    FLAGS_MADE,
    OBJECT_TYPE,
    WRITEABLE,
    Layout,
    numpy_function,
)

GIL_LIMIT = 20_000  # nanoseconds of work from which a call lets other Python threads run
WATCHED = 5_000_000  # nanoseconds of work from which a call in the main thread can be interrupted
POLL = 100_000_000  # nanoseconds between two looks at signals
STACK_ARENA = 4096  # bytes of scratch memory that live on the stack
LARGE = (
    1 << 17
)  # bytes from which an output's memory is kept when it is freed: malloc gives larger ones back to the system
RECYCLED_BYTES = 4096  # of an output that is remembered to be used again
SHELF_PLACES, SHELF_BYTES = 32, 256 << 20  # most blocks, and most bytes, that are kept
SHELF_PATIENCE, SHELF_SLACK = 16, 32 << 20  # see blocks.ll
FIELDS = (
    "program", "n_inputs", "n_states", "n_constants", "n_outputs", "n_symbols", "n_polys", "n_checked", "n_patches",
    "n_sizes", "records", "states", "constants", "polys", "checked", "out_records", "sizes", "patches", "arena",
    "arena_index", "arena_slot", "work", "work_index", "gil_limit", "ndarray", "tensor", "tensor_offset",
    "variable_offset", "tupled", "handler", "get_mask", "set_mask", "notice", "warning",
    "recycled", "turn", "kinds", "n_written", "main_thread", "away", "wanted",
)  # fmt: skip
ARENA_SLOT = FIELDS.index("arena_slot")  # the kept block of scratch memory; calls exchange it atomically
RECORD_WORDS = 4  # descr, rank, axes, written
RECYCLED, N_OUTPUTS = FIELDS.index("recycled"), FIELDS.index("n_outputs")
TENSOR, WHOLE = 0, 1  # what an output becomes: a Tensor, an array, or 2, 3, ...: a number of one of these kinds
NUMBERS = ("f8", "f4", "b1", "c16", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")
_NOBODY = ctypes.c_uint64(0)
FIXED, BIND, SAME, POLYNOMIAL = range(4)  # kinds of axes


@cache
def entry_text() -> str:
    """LLVM text of `ptr @tapefuse_entry(ptr %self, ptr %args, i64 %nargs)`; `%self` is an array, the table."""
    text = "".join(map(source, ("entry_arrays", "blocks", "recycle", "wrap", "interrupt", "entry")))
    names: dict[str, int | str] = {f: k for k, f in enumerate(FIELDS)}
    names |= {"large": LARGE, "shelf_bytes": SHELF_BYTES, "shelf_places": SHELF_PLACES, "shelf_last": SHELF_PLACES - 1}
    names |= {"shelf_patience": SHELF_PATIENCE, "shelf_slack": SHELF_SLACK}
    names |= {"name_padding": "\\00" * (127 - len("tapefuse"))}
    names |= {f"array_{k}": v for k, v in ARRAY.items()}
    names |= {"object_type": OBJECT_TYPE, "record_words": RECORD_WORDS, "stack_arena": STACK_ARENA}
    names |= {"poll": POLL, "watched_work": WATCHED, "clock": getattr(time, "CLOCK_MONOTONIC", 1)}
    names |= {"recycled_bytes": RECYCLED_BYTES, "tuple_items": tuple.__basicsize__, "flags_made": FLAGS_MADE}
    names |= {"flags_layout": C_CONTIGUOUS | ALIGNED, "flags_writeable": WRITEABLE}
    from string import Template  # takes 0.8 ms, and is needed when an entry is compiled

    return Template(text).substitute({**names, **_number_cases()})


def _number_cases() -> dict[str, str]:
    """What `wrap.ll` does for each kind of number."""
    code, objects = [], []
    for kind in NUMBERS[5:]:
        signed, bits = kind[0] == "i", 8 * int(kind[1])
        make = "PyLong_FromLongLong" if signed else "PyLong_FromUnsignedLongLong"
        widen = "sext" if signed else "zext"
        extend = f"{widen} i{bits} %{kind}.value to i64" if bits < 64 else f"add i64 %{kind}.value, 0"
        code += [f"{kind}:", f"  %{kind}.value = load i{bits}, ptr %data", f"  %{kind}.wide = {extend}",
                 f"  %{kind}.object = call ptr @{make}(i64 %{kind}.wide)", "  br label %made"]  # fmt: skip
        objects.append(f"[%{kind}.object, %{kind}],")
    cases = " ".join(f"i64 {k + WHOLE + 1}, label %{kind}" for k, kind in enumerate(NUMBERS))
    return {"integers": "\n".join(code), "integer_objects": " ".join(objects), "number_cases": cases}


def source(name: str) -> str:
    """The text of one of the `.ll` files beside this one."""
    with open(os.path.join(os.path.dirname(__file__), f"{name}.ll"), encoding="utf-8") as file:
        return file.read()


@cache
def entry_symbols() -> dict[str, int]:
    """Addresses of what the entry's text imports and no library exports: an object of CPython, functions of NumPy."""
    return {
        "_Py_NotImplementedStruct": id(NotImplemented),
        "PyArray_NewFromDescr": numpy_function(94),
        "PyDataMem_SetHandler": numpy_function(304),
    }


_tables: weakref.WeakValueDictionary[int, Table] = weakref.WeakValueDictionary()  # of all programs that are loaded


def arena_slots() -> list[int]:
    """Where each loaded program keeps its scratch memory: addresses for `tapefuse_arena`."""
    return [table.ctypes.data + 8 * ARENA_SLOT for table in list(_tables.values())]


class Table(np.ndarray):
    """The words of one program's table: what the entry gets as `self`. Keeps alive whatever they point to.

    Frees the program's scratch memory and the outputs it remembers at its end.
    """

    keep: tuple

    def __del__(  # may run when Python ends and this module's names are gone
        self,
        free=ctypes.pythonapi.PyMem_RawFree,
        forget=ctypes.pythonapi.Py_DecRef,
        void=ctypes.c_void_p,
        fields=(ARENA_SLOT, N_OUTPUTS, RECYCLED),
    ):
        if "keep" not in self.__dict__:
            return
        block, outputs, recycled = (int(self[k]) for k in fields)
        if block:
            free(void(void.from_address(block - 16).value))
        remembered = (void * (2 * outputs)).from_address(recycled)
        for array in filter(None, remembered):
            forget(void(array))


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
    return dtype if dtype.isbuiltin == 2 else np.dtype(dtype.str)  # bfloat16 is no dtype of NumPy's own


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
    parts.add("kinds", [_kind(t, layout.plain) for t in program.outputs])
    parts.add("recycled", [0] * (2 * len(program.outputs)))
    arena, work = _amount(program.arena, values), _amount(program.work, values)
    parts.add("polys", values.stream())
    fields = {
        "n_inputs": len(program.inputs), "n_states": len(program.states), "n_constants": len(constants),
        "n_outputs": len(program.outputs), "n_symbols": len(program.symbols), "n_polys": len(values.polynomials),
        "n_checked": len(checked) // 3, "n_patches": len(patches) // 2, "n_sizes": len(sizes),
        "arena": arena[0], "arena_index": arena[1], "work": work[0], "work_index": work[1], "gil_limit": GIL_LIMIT,
        "ndarray": id(np.ndarray), "tensor": id(layout.tensor), "tensor_offset": layout.tensor_offset,
        "variable_offset": layout.variable_offset, "tupled": int(layout.tupled or len(program.outputs) != 1),
        "handler": id(handler), "n_written": sum(s.written for s in program.states),
        "wanted": layout.wanted or ctypes.addressof(_NOBODY),
    }  # fmt: skip
    table = parts.table({**fields, **words})
    table.keep = (tuple(states), constants, handler, layout)
    table.flags.writeable = False  # native code alone changes it
    _tables[id(table)] = table
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
    """Records (descr, rank, first size, itemsize), all sizes in a row, and (position, value) of the symbolic ones."""
    records: list[int] = []
    sizes: list[int] = []
    patches: list[int] = []
    for type in types:
        records += [id(canonical(type.dtype)), len(type.shape), len(sizes), type.dtype.itemsize]
        for dim in type.shape:
            if isinstance(dim, Poly):
                patches += [len(sizes), values.index(dim)]
            sizes.append(0 if isinstance(dim, Poly) else dim)
    return records, sizes, patches


def _kind(type: Type, plain: bool) -> int:
    if not plain:
        return TENSOR
    name = f"{type.dtype.kind}{type.dtype.itemsize}"
    return NUMBERS.index(name) + WHOLE + 1 if not type.shape and name in NUMBERS else WHOLE


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
