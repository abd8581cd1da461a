"""LLVM through the C functions of llvmlite's shared library, without its Python package.

The package takes 20 ms to import, as long as LLVM takes for a small program, and lets one thread at a time into LLVM.
Only versions of llvmlite whose C functions are known are used in this way; see `llvm_package` for others.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from tapefuse.runtime.llvm_options import give

KNOWN = ("0.50",)  # releases of llvmlite whose C functions were compared with those below
_NAMES = ("libllvmlite.so", "libllvmlite.dylib", "llvmlite.dll")
_P, _S, _I, _OUT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)
_FUNCTIONS = {  # name without LLVMPY_ -> result and arguments
    "SetCommandLine": (None, _S, _S),
    "InitializeNativeTarget": (None,),
    "InitializeNativeAsmPrinter": (None,),
    "ContextCreate": (_P,),
    "ContextDispose": (None, _P),
    "ParseAssembly": (_P, _P, _S, _OUT),
    "VerifyModule": (_I, _P, _OUT),
    "DisposeModule": (None, _P),
    "DisposeString": (None, _P),
    "GetProcessTriple": (None, _OUT),
    "GetHostCPUName": (None, _OUT),
    "GetHostCPUFeatures": (_I, _OUT),
    "GetTargetFromTriple": (_P, _S, _OUT),
    "CreateTargetMachine": (_P, _P, _S, _S, _S, _I, _S, _S, _I, _I, _S),
    "CreatePipelineTuningOptions": (_P,),
    "DisposePipelineTuningOptions": (None, _P),
    "CreatePassBuilder": (_P, _P, _P),
    "DisposePassBuilder": (None, _P),
    "CreateNewModulePassManager": (_P,),
    "RunNewModulePassManager": (None, _P, _P, _P),
    "DisposeNewModulePassManger": (None, _P),
    "TargetMachineEmitToMemory": (_P, _P, _P, _I, _OUT),
    "GetBufferStart": (_P, _P),
    "GetBufferSize": (ctypes.c_size_t, _P),
    "DisposeMemoryBuffer": (None, _P),
}
_LONG = ("ParseAssembly", "VerifyModule", "RunNewModulePassManager", "TargetMachineEmitToMemory")
_PASSES = {
    "always_inliner": "module_AddAlwaysInlinerPass",
    "sroa": "module_AddSROAPass",
    "new_gvn": "module_AddNewGVNPass",
    "instruction_combine": "module_AddInstCombinePass",
    "simplify_cfg": "module_AddSimplifyCFGPass",
    "global_dead_code_eliminate": "module_AddGlobalDCEPass",
}


def path() -> str | None:
    """The library of an llvmlite that is known here."""
    spec = importlib.util.find_spec("llvmlite")  # finds the package without running it
    for folder in spec.submodule_search_locations or () if spec else ():
        try:
            with open(os.path.join(folder, "_version.py"), encoding="utf-8") as file:
                version = re.search(r"^version_version = '(\d+\.\d+)\.", file.read(), re.M)
        except OSError:
            continue
        for name in _NAMES:
            found = os.path.join(folder, "binding", name)
            if version and version[1] in KNOWN and os.path.exists(found):
                return found
    return None


class Library:
    """What the compiler asks of LLVM. Threads may be in it at the same time. RuntimeError: LLVM's message."""

    def __init__(self, file: str):
        """Raises OSError, or AttributeError when a function is not there."""
        library = ctypes.CDLL(file)
        brief = ctypes.PyDLL(file)  # keeps the interpreter's lock, which a busy thread takes 5 ms to give back
        names = (*_FUNCTIONS, *_PASSES.values())
        self._call = {n: getattr(library if n in _LONG else brief, f"LLVMPY_{n}") for n in names}
        for name, function in self._call.items():
            function.restype, *function.argtypes = _FUNCTIONS.get(name, (None, _P))
        give(lambda option: self._call["SetCommandLine"](b"tapefuse", option.encode()))
        self._call["InitializeNativeTarget"]()
        self._call["InitializeNativeAsmPrinter"]()
        self._idle: dict[tuple, list[int]] = {}  # target machines that no thread uses

    @property
    def triple(self) -> str:
        return self._text("GetProcessTriple")

    @property
    def cpu(self) -> str:
        return self._text("GetHostCPUName")

    @property
    def features(self) -> str:
        return ",".join(sorted(filter(None, self._text("GetHostCPUFeatures").split(",")), key=lambda f: f[1:]))

    def emit(self, text: str, passes: Sequence[str], level: int, model: tuple[str, str], assembly: bool) -> bytes:
        """Object code, or assembler text, of a module's text after `passes`."""
        call, idle = self._call, self._idle.setdefault((level, model), [])
        try:
            machine = idle.pop()
        except IndexError:
            machine = self._machine(level, model)
        context = call["ContextCreate"]()
        try:
            with self._message() as message:
                module = call["ParseAssembly"](context, text.encode(), ctypes.byref(message))
                if message or not module:
                    raise RuntimeError(self._said("LLVM IR parsing error\n", message))
            try:
                with self._message() as message:
                    if call["VerifyModule"](module, ctypes.byref(message)):
                        raise RuntimeError(self._said("", message))
                self._run(module, passes, machine)
                return self._emitted(module, machine, assembly)
            finally:
                call["DisposeModule"](module)
        finally:
            call["ContextDispose"](context)
            idle.append(machine)

    def _run(self, module: int, passes: Sequence[str], machine: int) -> None:
        call = self._call
        if not passes:
            return
        manager, tuning = call["CreateNewModulePassManager"](), call["CreatePipelineTuningOptions"]()
        builder = call["CreatePassBuilder"](machine, tuning)
        for name in passes:
            call[_PASSES[name]](manager)
        call["RunNewModulePassManager"](manager, module, builder)
        call["DisposeNewModulePassManger"](manager)
        call["DisposePassBuilder"](builder)
        call["DisposePipelineTuningOptions"](tuning)

    def _emitted(self, module: int, machine: int, assembly: bool) -> bytes:
        call = self._call
        with self._message() as message:
            buffer = call["TargetMachineEmitToMemory"](machine, module, int(not assembly), ctypes.byref(message))
            if not buffer:
                raise RuntimeError(self._said("", message))
        try:
            return ctypes.string_at(call["GetBufferStart"](buffer), call["GetBufferSize"](buffer))
        finally:
            call["DisposeMemoryBuffer"](buffer)

    def _machine(self, level: int, model: tuple[str, str]) -> int:
        triple = self.triple.encode()
        with self._message() as message:
            target = self._call["GetTargetFromTriple"](triple, ctypes.byref(message))
            if not target:
                raise RuntimeError(self._said("", message))
        words = triple, self.cpu.encode(), self.features.encode(), level, *(m.encode() for m in model)
        return self._call["CreateTargetMachine"](target, *words, 0, 0, b"")

    # -- texts that LLVM allocates -----------------------------------------------------------------------------------
    @contextmanager
    def _message(self) -> Iterator[ctypes.c_void_p]:
        text = ctypes.c_void_p()
        try:
            yield text
        finally:
            if text:
                self._call["DisposeString"](text)

    @staticmethod
    def _said(before: str, message: ctypes.c_void_p) -> str:
        return before + ctypes.string_at(message.value).decode("utf-8", "replace") if message.value else before

    def _text(self, function: str) -> str:
        with self._message() as text:
            self._call[function](ctypes.byref(text))
            return self._said("", text)


@cache
def library() -> Library | None:
    """The library, loaded once; None when it is not of a known version."""
    file = path()
    try:
        return Library(file) if file else None
    except (OSError, AttributeError):
        return None
