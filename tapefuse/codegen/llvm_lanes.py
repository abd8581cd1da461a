"""Vectors of so many lanes as LLVM text: types, constants, shuffles, and how they come from memory and go there.

    lanes.load("double", "%p")                        %v1 = load <8 x double>, ptr %p, align 8
    lanes.load("double", "%p", "%some")               %v2 = call <8 x double> @llvm.masked.load.v8f64.p0(ptr %p, ...)
    lanes.store("float", "%v3", "%p", mask([False, True, False, False]))
                                                      %v4 = extractelement <4 x float> %v3, i64 1 ...

`type` is that of one lane, everywhere. A mask is the text of an operand: the name of a register, or a constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from tapefuse.codegen.llvm_instructions import Declarations, register_type

ALL = "splat (i1 true)"  # the mask of all lanes
_FLOATS = {"float": ("f32", 4), "double": ("f64", 8)}  # how intrinsics name them, and bytes


class Writer(Protocol):
    """What instructions are appended to."""

    needs: Declarations
    slots: list[str]  # the first instructions of the function

    def new(self, text: str) -> str: ...
    def line(self, text: str) -> None: ...


def mask(inside: Iterable[bool]) -> str:
    """A constant: the lanes that take part."""
    return "<" + ", ".join(f"i1 {'true' if bit else 'false'}" for bit in inside) + ">"


def alignment(type: str) -> int:
    """Bytes."""
    return _FLOATS[type][1] if type in _FLOATS else -(-int(type[1:]) // 8)


class Lanes:
    """Appends instructions on vectors of `count` lanes to what `w` prints."""

    def __init__(self, w: Writer, count: int):
        self.w, self.count = w, count

    # -- types and constants -----------------------------------------------------------------------
    def of(self, type: str) -> str:
        """The type of vectors; a vector of one lane is a scalar."""
        return type if self.count == 1 else f"<{self.count} x {type}>"

    def registers(self, dtype: np.dtype) -> str:
        """The type of vectors of a dtype in registers, which is another one than in memory for bool."""
        return self.of(register_type(dtype))

    @property
    def bits(self) -> str:
        return self.of("i1")

    def suffix(self, type: str) -> str:
        """How intrinsics name vectors: `v16f32`."""
        lane = _FLOATS[type][0] if type in _FLOATS else type
        return lane if self.count == 1 else f"v{self.count}{lane}"

    def steps(self, type: str, step: int = 1, first: int = 0) -> str:
        """The constant first, first + step, first + 2 step, ..."""
        return "<" + ", ".join(f"{type} {first + k * step}" for k in range(self.count)) + ">"

    def between(self, first: int, end: int) -> str:
        """The mask of lanes `first` up to `end`."""
        return mask(first <= k < end for k in range(self.count))

    # -- values ------------------------------------------------------------------------------------
    def splat(self, type: str, x: str) -> str:
        """A scalar in every lane."""
        if self.count == 1:
            return x
        if not x.startswith("%"):
            return f"splat ({type} {x})"
        v = self.of(type)
        one = self.w.new(f"insertelement {v} poison, {type} {x}, i64 0")
        return self.w.new(f"shufflevector {v} {one}, {v} poison, {self.of('i32')} zeroinitializer")

    def ramp(self, first: str, step: int) -> str:
        """The indices `first`, `first + step`, ..."""
        return self.w.new(f"add {self.of('i64')} {self.splat('i64', first)}, {self.steps('i64', step)}")

    def shuffled(self, type: str, x: str, y: str, sources: Iterable[int]) -> str:
        """The lanes of that number of x, and of y behind it."""
        v, numbers = self.of(type), ", ".join(f"i32 {k}" for k in sources)
        return self.w.new(f"shufflevector {v} {x}, {v} {y}, {self.of('i32')} <{numbers}>")

    def reversed(self, type: str, x: str) -> str:
        return self.shuffled(type, x, "poison", range(self.count - 1, -1, -1))

    def extracted(self, type: str, x: str, lane: int) -> str:
        """One lane of x."""
        return self.w.new(f"extractelement {self.of(type)} {x}, i64 {lane}")

    # -- memory ------------------------------------------------------------------------------------
    def load(self, type: str, address: str, mask: str | None = None, others: str = "zeroinitializer") -> str:
        """Consecutive elements; `others`: what lanes are that a mask leaves out."""
        v, align = self.of(type), alignment(type)
        if mask is None:
            return self.w.new(f"load {v}, ptr {address}, align {align}")
        f = self.w.needs.intrinsic(f"llvm.masked.load.{self.suffix(type)}.p0", v, "ptr", "i32", self.bits, v)
        return self.w.new(f"call {v} {f}(ptr {address}, i32 {align}, {self.bits} {mask}, {v} {others})")

    def gather(self, type: str, addresses: str, mask: str | None) -> str:
        """Elements anywhere, and zeros."""
        v, p = self.of(type), self.of("ptr")
        name = f"llvm.masked.gather.{self.suffix(type)}.v{self.count}p0"
        f = self.w.needs.intrinsic(name, v, p, "i32", self.bits, v)
        where = f"{self.bits} {ALL if mask is None else mask}"
        return self.w.new(f"call {v} {f}({p} {addresses}, i32 {alignment(type)}, {where}, {v} zeroinitializer)")

    def store(self, type: str, value: str, address: str, mask: str | None = None) -> None:
        """Consecutive elements."""
        v, align = self.of(type), alignment(type)
        if mask is None:
            self.w.line(f"store {v} {value}, ptr {address}, align {align}")
        elif (lane := _only(mask)) is not None:
            # LLVM 22 makes a masked store of one lane, of numbers that were truncated, as wide as they were before.
            one = self.extracted(type, value, lane)
            at = self.w.new(f"getelementptr {type}, ptr {address}, i64 {lane}") if lane else address
            self.w.line(f"store {type} {one}, ptr {at}, align {align}")
        else:
            f = self.w.needs.intrinsic(f"llvm.masked.store.{self.suffix(type)}.p0", "void", v, "ptr", "i32", self.bits)
            self.w.line(f"call void {f}({v} {value}, ptr {address}, i32 {align}, {self.bits} {mask})")

    def from_memory(self, dtype: np.dtype, x: str) -> str:
        """What was loaded, as it is in registers."""
        return self.w.new(f"icmp ne {self.of('i8')} {x}, zeroinitializer") if dtype.kind == "b" else x

    def to_memory(self, dtype: np.dtype, x: str) -> str:
        """What is in registers, as it is stored."""
        return self.w.new(f"zext {self.bits} {x} to {self.of('i8')}") if dtype.kind == "b" else x


def _only(mask: str) -> int | None:
    """The lane of a constant mask that leaves out all the others."""
    inside = ["true" in lane for lane in mask.split(", ")] if mask.startswith("<") else []
    return inside.index(True) if inside.count(True) == 1 else None
