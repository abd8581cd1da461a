"""What native code assumes about objects of CPython, NumPy and the tracer, and the checks that it is so."""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse._records import dataclass

OBJECT_TYPE = 8  # offset of ob_type
ARRAY = {"data": 16, "nd": 24, "dims": 32, "strides": 40, "base": 48, "descr": 56, "flags": 64}  # PyArrayObject_fields
ARRAY["weakreflist"] = 72
C_CONTIGUOUS, OWNDATA, ALIGNED, WRITEABLE = 0x1, 0x4, 0x100, 0x400
FLAGS_MADE = C_CONTIGUOUS | OWNDATA | ALIGNED | WRITEABLE  # of an array that was just made


@dataclass(frozen=True, slots=True)
class Layout:
    """What native code must know of the tracer's classes: where a Tensor and a Variable keep their array.

    `tupled`: a single output comes in a tuple, too. Several outputs, and none, always do. `plain`: outputs are arrays,
    and numbers of Python for rank 0, instead of Tensors. `wanted`: address of a word with the `id` of a variable that a
    thread waits for; 0: nobody waits.
    """

    tensor: type
    tensor_offset: int
    variable_offset: int
    tupled: bool = False
    plain: bool = False
    wanted: int = 0

    @staticmethod
    def of(
        tensor: type,
        variable: type,
        *,
        slot: str = "_array",
        tupled: bool = False,
        plain: bool = False,
        wanted: int = 0,
    ) -> Layout:
        """The layout of two classes that keep their array in `__slots__`."""
        return Layout(tensor, slot_offset(tensor, slot), slot_offset(variable, slot), tupled, plain, wanted)


def plain(array: np.ndarray) -> Any:
    """An output without its Tensor: the array, or for rank 0 a number of Python."""
    return array if array.ndim else array.item()


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


def numpy_function(index: int) -> int:
    """A function of NumPy's C interface, by its index in the table of the public ABI."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get(importlib.import_module("numpy._core._multiarray_umath")._ARRAY_API, None)
    return ctypes.c_size_t.from_address(table + 8 * index).value
