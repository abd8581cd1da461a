"""Machine code that this process can run at once: one block of memory, relocated but for the addresses it imports.

`elf.linked` makes an Image of an object file; `mapped` puts it into memory. An Image holds code and constants, then
writable data from `writable` on. Words at the places of `relative` hold offsets that become addresses when the image's
own address is known; `imports` says which words take the addresses of functions and variables elsewhere.
Nothing here needs LLVM, so that a process that finds its programs on disk does not load it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tapefuse._errors import CompileError
from tapefuse._records import dataclass

PAGE = mmap.PAGESIZE
_READ, _EXECUTE = 1, 4


class Image(NamedTuple):
    """Position-independent code. All places are offsets in bytes."""

    content: bytes  # code, constants and the initial writable data
    writable: int  # where writable data begin, a multiple of PAGE; no less than the size if there are none
    size: int  # bytes in memory, at least len(content)
    relative: np.ndarray  # uint32: words that hold an offset into the image, multiples of 8
    imports: tuple[tuple[str, int], ...]  # (symbol, word that takes its address)
    exports: Mapping[str, int]

    def pack(self) -> tuple[bytes, dict[str, Any]]:
        """Bytes and JSON values that `unpack` understands."""
        described = {
            "writable": self.writable, "size": self.size, "relative": len(self.relative),
            "imports": self.imports, "exports": dict(self.exports),
        }  # fmt: skip
        return self.relative.astype("<u4").tobytes() + self.content, described

    @staticmethod
    def unpack(data: bytes, described: Mapping[str, Any]) -> Image:
        n = described["relative"]
        relative = np.frombuffer(data, "<u4", n)
        imports = tuple((name, place) for name, place in described["imports"])
        return Image(data[4 * n :], described["writable"], described["size"], relative, imports, described["exports"])


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """Code in this process: addresses of what it exports. Unmapped when `keep` is dropped."""

    addresses: Mapping[str, int]
    keep: Any

    def __getitem__(self, name: str) -> int:
        return self.addresses[name]


def mapped(image: Image, symbols: Mapping[str, int]) -> Mapped:
    """An image in memory. `symbols`: addresses that the process's own libraries do not know.

    Memory is never writable and executable at once. Processors whose instruction caches do not see stores are told by
    the kernel, when pages become executable. Raises CompileError for a missing symbol, or when the system refuses.
    """
    imports = [(place, symbols.get(name) or process_symbol(name)) for name, place in image.imports]
    missing = sorted({name for (name, _), (_, address) in zip(image.imports, imports, strict=True) if not address})
    if missing:
        raise CompileError(f"the compiled program cannot be linked, it lacks: {', '.join(missing)}")
    rounded = max(-(-image.size // PAGE), 1) * PAGE
    try:
        memory = mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as e:
        raise MemoryError(f"no memory for {rounded} bytes of code: {e}") from None
    memory[: len(image.content)] = image.content
    words = np.frombuffer(memory, np.int64)
    base = int(words.__array_interface__["data"][0])
    if len(image.relative):
        words[image.relative >> 3] += base
    for place, address in imports:
        words[place >> 3] = address
    executable = min(image.writable, rounded)
    if _mprotect()(base, executable, _READ | _EXECUTE):
        error = ctypes.get_errno()
        raise CompileError(
            f"the system does not let this process run code it has compiled (mprotect: error {error}); "
            "use TAPEFUSE_DISABLE_JIT=1"
        )
    return Mapped({name: base + place for name, place in image.exports.items()}, memory)


@cache
def process_symbol(name: str) -> int:
    """The address of a function of the C library, or of one loaded for everybody; 0 if there is none."""
    for library in _libraries():
        if hasattr(library, name):
            return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    return 0


@cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    found = [ctypes.CDLL(None)]
    for name in ("libm.so.6", "libm.so", "libgcc_s.so.1"):  # usually in the process already; musl has one library
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue
    return tuple(found)


@cache
def _mprotect() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).mprotect
    function.restype, function.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
