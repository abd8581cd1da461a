"""LLVM text to position-independent object code for the CPU this process runs on.

`compile_object("define i64 @f(i64 %x) { ret i64 %x }")` is an ELF, Mach-O or COFF object as bytes, the same in every
process, so that it can be kept on disk. LLVM is loaded with the first compilation.
"""

from __future__ import annotations

import os
import re
import threading
from functools import cache

from tapefuse._errors import CompileError
from tapefuse.runtime import elf
from tapefuse.runtime.llvm_library import Library, library
from tapefuse.runtime.llvm_options import OPTIONS
from tapefuse.runtime.llvm_package import Package, binding

# Loops come with their vectors (codegen/llvm_vectors), so a few passes do what O3 does, in a tenth of its time.
PASSES = ("always_inliner", "sroa", "new_gvn", "instruction_combine", "simplify_cfg", "global_dead_code_eliminate")
CODE_GENERATION = 2  # LLVM's level for instruction selection and register allocation
QUICK = 0  # inlining alone, and the level that takes a sixth of the time; the entry is then twice as slow


class _Gate:
    """Threads pass while no fork is under way; a fork waits until nobody is inside: the child would find LLVM's locks
    held for ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def __enter__(self) -> None:
        with self._changed:
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def close(self) -> None:
        self._changed.acquire()
        self._changed.wait_for(lambda: self._inside == 0)

    def open(self) -> None:
        self._changed.release()

    def renew(self) -> None:
        self.__init__()  # type: ignore[misc]


llvm_gate = _Gate()


def compile_object(text: str, level: int = CODE_GENERATION) -> bytes:
    """Object code of a module in LLVM's text form. Raises CompileError: LLVM's message and the place in the text."""
    return _emitted(text, level, assembly=False)


def assembly(text: str) -> str:
    """The same as assembler text, for people to read. Raises CompileError."""
    return _emitted(text, CODE_GENERATION, assembly=True).decode()


@cache
def fingerprint() -> tuple[str, ...]:
    """Everything besides the text that object code depends on."""
    import llvmlite

    llvm = binding()
    version = ".".join(map(str, llvm.llvm_version_info))
    machine = _llvm().triple, _llvm().cpu, _llvm().features
    return (*PASSES, *OPTIONS, str(CODE_GENERATION), llvmlite.__version__, version, *machine)


def _emitted(text: str, level: int, assembly: bool) -> bytes:
    # Our linker (`elf`) takes position-independent objects; LLVM's places no bound on distances between symbols.
    model = ("pic", "small") if elf.is_supported() else ("default", "jitdefault")
    with llvm_gate:
        try:
            return _llvm().emit(text, PASSES[:1] if level == QUICK else PASSES, level, model, assembly)
        except RuntimeError as e:
            raise CompileError(_diagnosis(str(e), text)) from None


@cache
def _llvm() -> Library | Package:
    return library() or Package()


def _diagnosis(message: str, text: str) -> str:
    """LLVM's message, with the lines around the place that it names."""
    found = re.search(r"<string>:(\d+):\d+", message)
    lines = text.splitlines()
    if not found:
        return f"LLVM rejects the generated code: {message.strip()}"
    at = int(found[1])
    around = "\n".join(f"{k:6d} | {lines[k - 1]}" for k in range(max(1, at - 3), min(len(lines), at + 2) + 1))
    return f"LLVM rejects the generated code: {message.strip()}\n{around}"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=llvm_gate.close, after_in_parent=llvm_gate.open, after_in_child=llvm_gate.renew)
