"""LLVM text to object code for the CPU this process runs on.

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

PIPELINE = "O2 without slp"  # part of the cache key; measured in docs/performance.md
llvm_lock = threading.Lock()  # one compilation or linking at a time: LLVM's global context is not made for more


def compile_object(text: str, *, loops: bool = True) -> bytes:
    """Object code of a module in LLVM's text form.

    `loops=False`: text without hot loops, which needs neither the vectorizer nor the time that it takes.
    Raises CompileError with LLVM's message and the place in the text.
    """
    with llvm_lock:
        return _machine().emit_object(_optimized(text, loops))


def assembly(text: str) -> str:
    """The same as assembler text, for people to read. Raises CompileError."""
    with llvm_lock:
        return _machine().emit_assembly(_optimized(text, loops=True))


@cache
def fingerprint() -> tuple[str, ...]:
    """Everything besides the text that object code depends on."""
    import llvmlite

    llvm = _binding()
    version = ".".join(map(str, llvm.llvm_version_info))
    return (PIPELINE, llvmlite.__version__, version, llvm.get_process_triple(), llvm.get_host_cpu_name(), _features())


def _optimized(text: str, loops: bool) -> Any:
    llvm = _binding()
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as e:
        raise CompileError(_diagnosis(str(e), text)) from None
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(_machine(), options)
    passes = builder.getModulePassManager() if loops else _straight_line_passes()
    passes.run(module, builder)
    return module


def _straight_line_passes() -> Any:
    passes = _binding().create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    return passes


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
def _binding() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def _features() -> str:
    return _binding().get_host_cpu_features().flatten()


@cache
def _machine() -> Any:
    """The host's target machine. The default code model of a JIT places no bound on distances between symbols."""
    llvm = _binding()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=2)


if hasattr(os, "register_at_fork"):  # a fork waits for LLVM to be idle: the child would find its locks held for ever
    os.register_at_fork(before=llvm_lock.acquire, after_in_parent=llvm_lock.release, after_in_child=llvm_lock.release)
