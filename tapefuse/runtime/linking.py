"""Code in this process, from the compiler or from the disk: object code -> Code -> addresses.

There are two ways. Object files of Linux on x86-64 and aarch64 are linked by ourselves into an Image, which needs no
LLVM to be loaded. Others, and what our linker does not know, go to LLVM's JIT linker; `tapefuse doctor` says which way
is taken, the logger `tapefuse.link` says why.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from tapefuse._errors import CompileError
from tapefuse._log import Logger
from tapefuse.runtime import elf
from tapefuse.runtime.compile import llvm_gate
from tapefuse.runtime.image import Image, Mapped, mapped
from tapefuse.runtime.llvm_package import binding

_names = itertools.count()
_log = Logger("link")


class Code(NamedTuple):
    """Compiled code, ready to be kept on disk: an image, or object code for LLVM."""

    image: Image | None
    object_code: bytes

    @property
    def size(self) -> int:
        return len(self.image.content) if self.image else len(self.object_code)

    def pack(self) -> tuple[bytes, dict[str, Any]]:
        """Bytes and JSON values that `unpack` understands."""
        if self.image is None:
            return self.object_code, {"kind": "object"}
        data, described = self.image.pack()
        return data, {"kind": "image", **described}

    @staticmethod
    def unpack(data: bytes, described: Mapping[str, Any]) -> Code:
        return Code(None, data) if described["kind"] == "object" else Code(Image.unpack(data, described), b"")


def code_of(object_code: bytes) -> Code:
    """Object code in the form that loads fastest here."""
    if not elf.is_supported():
        return Code(None, object_code)
    try:
        return Code(elf.linked(object_code), b"")
    except elf.Unsupported as e:
        _log.warning("LLVM links this program, which takes longer: our linker does not know %s", e)
        return Code(None, object_code)


def loaded(code: Code, symbols: Mapping[str, int], exports: Sequence[str]) -> Mapped:
    """Code in memory. Raises CompileError when it needs a symbol that neither `symbols` nor the process has, or lacks
    one of `exports`."""
    if code.image is None:
        return _through_llvm(code.object_code, symbols, exports)
    if absent := sorted(set(exports) - code.image.exports.keys()):
        raise CompileError(f"the compiled program cannot be linked, it lacks: {', '.join(absent)}")
    return mapped(code.image, symbols)


def _through_llvm(object_code: bytes, symbols: Mapping[str, int], exports: Sequence[str]) -> Mapped:
    builder = binding().JITLibraryBuilder().add_object_img(object_code).add_current_process()
    for name in exports:
        builder.export_symbol(name)
    for name, address in symbols.items():
        builder.import_symbol(name, address)
    with llvm_gate:
        try:
            tracker = builder.link(_jit(), f"tapefuse{next(_names)}")
        except RuntimeError as e:
            raise CompileError(f"the compiled program cannot be linked, it lacks symbols: {e}") from None
    return Mapped({name: tracker[name] for name in exports}, tracker)


@cache
def _jit() -> Any:
    return binding().create_lljit_compiler(suppress_errors=True)  # errors come as exceptions


def way() -> str:
    """How programs are linked here, for people."""
    return "tapefuse's own linker" if elf.is_supported() else "LLVM's JIT linker (object files of another kind)"
