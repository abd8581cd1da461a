"""LLVM text to position-independent object code for the CPU this process runs on.

`compile_object("define i64 @f(i64 %x) { ret i64 %x }")` is an ELF, Mach-O or COFF object as bytes, the same in every
process, so that it can be kept on disk. llvmlite is imported with the first compilation.
"""

from __future__ import annotations

import os
import re
import threading
from functools import cache
from typing import Any

from tapefuse._errors import CompileError
from tapefuse.runtime import elf

# Loops come with their vectors (codegen/llvm_vectors), so a few passes do what O3 does, in a tenth of its time.
PASSES = ("always_inliner", "sroa", "new_gvn", "instruction_combine", "simplify_cfg", "global_dead_code_eliminate")
# LLVM's NewGVN takes what a value is at the end of an inner loop for what it was in the outer loop's last iteration
OPTIONS = ("-enable-phi-of-ops=false",)
CODE_GENERATION = 2  # LLVM's level for instruction selection and register allocation
QUICK = 0  # the level that takes a sixth of the time; its code for the entry is a tenth slower
llvm_lock = threading.Lock()  # one compilation or linking at a time: LLVM's global context is not made for more


def compile_object(text: str, level: int = CODE_GENERATION) -> bytes:
    """Object code of a module in LLVM's text form. Raises CompileError: LLVM's message and the place in the text."""
    with llvm_lock:
        return _machine(level).emit_object(_optimized(text))


def assembly(text: str) -> str:
    """The same as assembler text, for people to read. Raises CompileError."""
    with llvm_lock:
        return _machine().emit_assembly(_optimized(text))


@cache
def fingerprint() -> tuple[str, ...]:
    """Everything besides the text that object code depends on."""
    import llvmlite

    llvm = initialised()
    version = ".".join(map(str, llvm.llvm_version_info))
    return (
        *PASSES,
        *OPTIONS,
        str(CODE_GENERATION),
        llvmlite.__version__,
        version,
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        _features(),
    )


def _optimized(text: str) -> Any:
    llvm = initialised()
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as e:
        raise CompileError(_diagnosis(str(e), text)) from None
    manager = llvm.create_new_module_pass_manager()
    for name in PASSES:
        getattr(manager, f"add_{name}_pass")()
    manager.run(module, llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options(speed_level=2)))
    return module


def _diagnosis(message: str, text: str) -> str:
    """LLVM's message, with the lines around the place that it names."""
    found = re.search(r"<string>:(\d+):\d+", message)
    lines = text.splitlines()
    if not found:
        return f"LLVM rejects the generated code: {message.strip()}"
    at = int(found[1])
    around = "\n".join(f"{k:6d} | {lines[k - 1]}" for k in range(max(1, at - 3), min(len(lines), at + 2) + 1))
    return f"LLVM rejects the generated code: {message.strip()}\n{around}"


@cache
def initialised() -> Any:
    import llvmlite.binding as llvm

    for option in OPTIONS:
        llvm.set_option("tapefuse", option)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def _features() -> str:
    return initialised().get_host_cpu_features().flatten()


@cache
def _machine(level: int = CODE_GENERATION) -> Any:
    """The host's target machine. ELF objects are position-independent: our linker takes those (`elf`)."""
    llvm = initialised()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    model = {"reloc": "pic", "codemodel": "small"} if elf.is_supported() else {}
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=level, **model)


if hasattr(os, "register_at_fork"):  # a fork waits for LLVM to be idle: the child would find its locks held for ever
    os.register_at_fork(before=llvm_lock.acquire, after_in_parent=llvm_lock.release, after_in_child=llvm_lock.release)
