"""Object code (ELF, x86-64 or aarch64) -> Image: what a linker does, for the few kinds of relocation that we get.

The image holds code, a stub of 16 bytes for each imported function, constants, a table of addresses for what code
reaches through a global offset table, then writable data on pages of their own. References within the image are
relative to the instruction, so they are settled here, once; words that hold addresses wait until the image is mapped.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tapefuse.runtime.image import PAGE, Image

X86, ARM = 62, 183
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
# Kinds of relocation: those of a 64-bit address, those that want a word with the address, and calls.
_ADDRESS = {X86: 1, ARM: 257}
_THROUGH_SLOT = {X86: {9, 41, 42}, ARM: {311, 312}}
_CALL = {X86: {4}, ARM: {282, 283}}
# jmp *2(%rip); nop  -  ldr x16, #8; br x16.  The address follows.
_STUBS = {X86: bytes.fromhex("ff2502000000 6690"), ARM: bytes.fromhex("50000058 00021fd6")}
_STUB = 16
_LOW_BITS = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4, 312: 3}  # aarch64: offset in the page -> its scale
_LIMIT = 1 << 27  # aarch64's calls reach so far


class Unsupported(Exception):
    """Something in the object code that this linker does not know; says what."""


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    data: memoryview
    size: int
    info: int
    align: int

    @property
    def is_loaded(self) -> bool:
        return bool(self.flags & _ALLOC) and self.name != ".eh_frame"  # nothing unwinds our frames

    @property
    def rank(self) -> int:
        """0: code, 1: constants, 2: writable. Tables of addresses are constants once the image is mapped."""
        if self.flags & _EXECUTE:
            return 0
        return 2 if self.flags & _WRITE and not self.name.startswith(".data.rel.ro") else 1


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int
    is_global: bool


class _Relocation(NamedTuple):
    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


def is_supported() -> bool:
    """Whether this machine's object files are of a kind that `linked` knows."""
    return platform.system() == "Linux" and platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")


def linked(object_code: bytes) -> Image:
    """Raises Unsupported for a file, symbol or relocation of another kind."""
    return _Linker(object_code).image()


class _Linker:
    def __init__(self, object_code: bytes):
        if len(object_code) < _HEADER.size or object_code[:6] != b"\x7fELF\x02\x01":
            raise Unsupported("object code that is not ELF for 64-bit little-endian machines")
        self.file = memoryview(object_code)
        head = _HEADER.unpack_from(object_code)
        self.machine = head[2]
        if self.machine not in _STUBS:
            raise Unsupported(f"object code for machine {self.machine}")
        self.sections, self.symbols = self._read(*(head[k] for k in (6, 11, 12, 13)))
        self.relocations = [
            _Relocation(section.info, offset, info & 0xFFFFFFFF, info >> 32, addend)
            for section in self.sections
            if section.kind == _RELA and self.sections[section.info].is_loaded
            for offset, info, addend in _RELOCATION.iter_unpack(section.data)
        ]
        self.starts: dict[int, int] = {}  # section -> its place in the image
        self.stubs: dict[int, int] = {}  # imported function -> its stub
        self.slots: dict[int, int] = {}  # symbol -> a word with its address
        self.relative: list[int] = []
        self.imports: list[tuple[str, int]] = []

    def image(self) -> Image:
        writable, size = self._lay_out()
        if size > _LIMIT:
            raise Unsupported(f"{size} bytes of code")
        self.memory = bytearray(size)
        for k, start in self.starts.items():
            data = self.sections[k].data
            self.memory[start : start + len(data)] = data
        for symbol, stub in self.stubs.items():
            self.memory[stub : stub + 8] = _STUBS[self.machine]
            self._address(stub + 8, symbol, 0)
        for symbol, slot in self.slots.items():
            self._address(slot, symbol, 0)
        apply = self._apply_x86 if self.machine == X86 else self._apply_arm
        for section, offset, kind, symbol, addend in self.relocations:
            place = self.starts[section] + offset
            if kind == _ADDRESS[self.machine]:
                self._address(place, symbol, addend)
            else:
                apply(place, kind, symbol, addend)
        exports = {s.name: self.starts[s.section] + s.value for s in self.symbols
                   if s.is_global and s.section in self.starts}  # fmt: skip
        content = bytes(self.memory)
        kept = content[: max(len(content.rstrip(b"\0")), min(writable, size))]
        return Image(kept, writable, size, np.array(sorted(self.relative), np.uint32), tuple(self.imports), exports)

    # -- reading ---------------------------------------------------------------------------------------------------
    def _read(self, table: int, width: int, count: int, names: int) -> tuple[list[_Section], list[_Symbol]]:
        rows = [_SECTION.unpack_from(self.file, table + k * width) for k in range(count)]
        sections, symbols = [], []
        for name, kind, flags, _, offset, size, link, info, align, _ in rows:
            data = self.file[offset : offset + (0 if kind == _NOBITS else size)]
            sections.append(_Section(self._text(rows[names], name), kind, flags, data, size, info, max(align, 1)))
            if kind == _SYMTAB:
                for n, binding, _, section, value, _ in _SYMBOL.iter_unpack(data):
                    symbols.append(_Symbol(self._text(rows[link], n), section, value, binding >> 4 != 0))
        return sections, symbols

    def _text(self, row: tuple, start: int) -> str:
        table = bytes(self.file[row[4] + start : row[4] + row[5]])
        return table[: table.index(b"\0")].decode()

    # -- where everything goes -------------------------------------------------------------------------------------
    def _lay_out(self) -> tuple[int, int]:
        """(start of writable data, size). Code and constants share pages."""
        loaded = [k for k, s in enumerate(self.sections) if s.is_loaded]
        end = 0
        for rank in range(3):
            if rank == 2:
                end = self._after(self.stubs, self._imported_calls(), end, _STUB)
                end = writable = self._after(self.slots, self._wanting_slots(), end, 8)
            members = [k for k in loaded if self.sections[k].rank == rank and self.sections[k].size]
            if rank == 2 and members:
                end = writable = -(-end // PAGE) * PAGE
            for k in members:
                align = self.sections[k].align
                self.starts[k] = -(-end // align) * align
                end = self.starts[k] + self.sections[k].size
        return (writable, end) if end > writable else (-(-end // PAGE) * PAGE, end)

    @staticmethod
    def _after(places: dict[int, int], symbols: Iterator[int], end: int, size: int) -> int:
        end = -(-end // size) * size
        for symbol in symbols:
            if symbol not in places:
                places[symbol] = end
                end += size
        return end

    def _imported_calls(self) -> Iterator[int]:
        return (r.symbol for r in self.relocations if r.kind in _CALL[self.machine] and self._place(r.symbol) is None)

    def _wanting_slots(self) -> Iterator[int]:
        return (r.symbol for r in self.relocations if r.kind in _THROUGH_SLOT[self.machine])

    def _place(self, symbol: int) -> int | None:
        """Where a symbol is in the image, None if it is imported. Raises Unsupported."""
        found = self.symbols[symbol]
        if found.section == 0:
            return None
        if found.section >= len(self.sections) or not self.sections[found.section].is_loaded:
            raise Unsupported(f"symbol {found.name!r} in section {found.section:#x}")
        return self.starts.get(found.section, 0) + found.value

    def _target(self, symbol: int) -> int:
        place = self._place(symbol)
        if place is None:
            raise Unsupported(f"a reference without a table to the imported symbol {self.symbols[symbol].name!r}")
        return place

    # -- references ------------------------------------------------------------------------------------------------
    def _address(self, place: int, symbol: int, addend: int) -> None:
        """A word that will hold an address."""
        target = self._place(symbol)
        if place % 8 or (target is None and addend):
            raise Unsupported(f"an address of {self.symbols[symbol].name!r} at {place:#x} with offset {addend}")
        if target is None:
            self.imports.append((self.symbols[symbol].name, place))
        else:
            self.relative.append(place)
            struct.pack_into("<q", self.memory, place, target + addend)

    def _apply_x86(self, place: int, kind: int, symbol: int, addend: int) -> None:
        if kind in _THROUGH_SLOT[X86]:
            target = self.slots[symbol]
        elif kind in _CALL[X86]:
            target = self.stubs[symbol] if symbol in self.stubs else self._target(symbol)
        elif kind in (2, 24):  # PC32, PC64
            target = self._target(symbol)
        else:
            raise Unsupported(f"relocation {kind}")
        struct.pack_into("<q" if kind == 24 else "<i", self.memory, place, target + addend - place)

    def _apply_arm(self, place: int, kind: int, symbol: int, addend: int) -> None:
        if kind in _THROUGH_SLOT[ARM]:
            target = self.slots[symbol] + addend
        elif kind in _CALL[ARM]:
            target = (self.stubs[symbol] if symbol in self.stubs else self._target(symbol)) + addend
        else:
            target = self._target(symbol) + addend
        if kind in (260, 261):  # PREL64, PREL32
            struct.pack_into("<q" if kind == 260 else "<i", self.memory, place, target - place)
            return
        (word,) = struct.unpack_from("<I", self.memory, place)
        if kind in _CALL[ARM]:
            word |= (target - place >> 2) & 0x3FFFFFF
        elif kind in (275, 311):  # the page
            pages = (target >> 12) - (place >> 12)
            word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        elif kind in _LOW_BITS:
            word |= ((target & 0xFFF) >> _LOW_BITS[kind]) << 10
        else:
            raise Unsupported(f"relocation {kind}")
        struct.pack_into("<I", self.memory, place, word)
